/* Plans beside each other and beside a changed model. Plans are plain tables, going in and coming out. */
#include <string.h>

#include "base/memory.h"
#include "prune/plan_diff.h"
#include "script/binding.h"

/* ---- owners of what C must free ---- */

typedef struct plan_work {
    esp_plan_changes changes;
    esp_plan_effects effects;
    esp_plan_conflicts conflicts;
    esp_plan_fit fit;
    esp_inferred *inferred;
    esp_layers layers;
} plan_work;

static int release_work(lua_State *L)
{
    plan_work *it = lua_touserdata(L, 1);
    esp_plan_changes_free(&it->changes);
    esp_plan_effects_free(&it->effects);
    esp_plan_conflicts_free(&it->conflicts);
    esp_plan_fit_free(&it->fit);
    esp_layers_free(&it->layers);
    esp_inferred_free(it->inferred);
    *it = (plan_work){0};
    return 0;
}

static plan_work *push_work(lua_State *L)
{
    plan_work *it = lua_newuserdatauv(L, sizeof *it, 0);
    *it = (plan_work){0};
    if (luaL_newmetatable(L, "espalier.plan_work")) {
        lua_pushcfunction(L, release_work);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return it;
}

/* The model in a keyword, which stays on the stack; NULL when absent. */
static const esp_graph *field_model(lua_State *L, int index, const char *name)
{
    if (!esp_lua_has_field(L, index, name)) {
        return NULL;
    }
    esp_lua_raw_field(L, index, name);
    if (!luaL_testudata(L, -1, ESP_LUA_MODEL)) {
        esp_lua_fail(L, "%s: expected a model, found %s", name, luaL_typename(L, -1));
    }
    return esp_lua_model_at(L, lua_gettop(L))->graph;
}

/* ---- functions ---- */

/* plan_diff(a, b [, {model=, data=, images=, seed=, mean=, std=}]): {same=, changes={{where=, a=, b=}},
 * layers=, before=, after=} */
static int plan_diff(lua_State *L)
{
    static const char *const keys[] = {"model", "data", "images", "seed", "mean", "std", NULL};
    esp_error err = {0};
    esp_lua_check_keys(L, 3, keys);
    lua_settop(L, 3);
    const esp_criterion_data data = esp_lua_criterion_data(L, 3);
    const esp_plan *a = esp_lua_push_plan(L, 1), *b = esp_lua_push_plan(L, 2);
    const esp_graph *graph = field_model(L, 3, "model");
    plan_work *it = push_work(L);
    json_t **box = esp_lua_new_json(L);
    esp_lua_check(L, esp_plan_diff(a, b, &it->changes, &err), &err);
    if (graph) {
        esp_lua_check(L,
                      esp_plan_compare_on(esp_lua_compute(L), graph, a, b, NULL, 0,
                                          data.dataset ? &data : NULL, &it->effects, &err),
                      &err);
    }
    esp_lua_check(L, esp_plan_diff_to_json(&it->changes, graph ? &it->effects : NULL, box, &err), &err);
    esp_lua_push_json(L, *box);
    return 1;
}

static esp_plan_side read_side(lua_State *L, int index)
{
    static const char *const words[] = {"rules", "ours", "theirs"};
    const char *word = esp_lua_field_string(L, index, "side", "rules");
    for (int i = 0; i < 3; i++) {
        if (strcmp(word, words[i]) == 0) {
            return (esp_plan_side)i;
        }
    }
    esp_lua_fail(L, "side: found '%s', expected rules, ours or theirs", word);
    return ESP_PLAN_RULES;
}

/* plan_merge(a, b [, {side="rules"|"ours"|"theirs", model=}]): the plan, and a list {where=, a=, b=, took=}
 */
static int plan_merge(lua_State *L)
{
    static const char *const keys[] = {"side", "model", NULL};
    esp_error err = {0};
    esp_lua_check_keys(L, 3, keys);
    lua_settop(L, 3);
    esp_plan_side side = read_side(L, 3);
    const esp_plan *a = esp_lua_push_plan(L, 1), *b = esp_lua_push_plan(L, 2);
    esp_plan *merged = esp_lua_new_plan(L);
    const esp_graph *graph = field_model(L, 3, "model");
    plan_work *it = push_work(L);
    json_t **box = esp_lua_new_json(L);
    if (graph) {
        esp_lua_check(L, esp_infer(graph, 1, NULL, 0, &it->inferred, &err), &err);
        esp_lua_check(L, esp_layers_list(graph, it->inferred, &it->layers, &err), &err);
    }
    esp_lua_check(L, esp_plan_merge(a, b, side, graph ? &it->layers : NULL, merged, &it->conflicts, &err),
                  &err);
    esp_lua_check(L, esp_plan_merge_to_json(merged, &it->conflicts, box, &err), &err);
    esp_lua_push_json(L, json_object_get(*box, "plan"));
    esp_lua_push_json(L, json_object_get(*box, "conflicts"));
    return 2;
}

/* model:fit_plan(plan [, {from=, rename=, data=, images=, seed=, mean=, std=}]): the repaired plan, and a
 * list {kind=, layer=, text=, nearest=, repair=} */
static int model_fit_plan(lua_State *L)
{
    static const char *const keys[] = {"from", "rename", "data", "images", "seed", "mean", "std", NULL};
    esp_error err = {0};
    const esp_graph *graph = esp_lua_model_at(L, 1)->graph;
    esp_lua_check_keys(L, 3, keys);
    lua_settop(L, 3);
    const esp_plan *plan = esp_lua_push_plan(L, 2);
    const esp_criterion_data data = esp_lua_criterion_data(L, 3);
    const esp_plan_fit_options options = {
        .from = field_model(L, 3, "from"),
        .renames = esp_lua_field_boolean(L, 3, "rename", false),
        .data = data.dataset ? &data : NULL,
    };
    plan_work *it = push_work(L);
    json_t **box = esp_lua_new_json(L);
    esp_lua_check(L, esp_plan_fit_new(esp_lua_compute(L), graph, plan, &options, &it->fit, &err), &err);
    esp_lua_check(L, esp_plan_fit_to_json(&it->fit, box, &err), &err);
    esp_lua_push_json(L, json_object_get(*box, "plan"));
    esp_lua_push_json(L, json_object_get(*box, "misfits"));
    return 2;
}

/* The core module is on the top of the stack. */
void esp_lua_open_plan(lua_State *L)
{
    static const luaL_Reg functions[] = {{"plan_diff", plan_diff}, {"plan_merge", plan_merge}, {NULL, NULL}};
    static const luaL_Reg methods[] = {{"fit_plan", model_fit_plan}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
    luaL_getmetatable(L, ESP_LUA_MODEL);
    lua_getfield(L, -1, "__index");
    luaL_setfuncs(L, methods, 0);
    lua_pop(L, 2);
}
