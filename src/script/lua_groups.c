/* model:groups{...}: the quality of a grouping and how many groups each layer asks for, as a table. */
#include "base/memory.h"
#include "prune/grouping_quality.h"
#include "script/binding.h"

/* Pushes the owner of an array for all layers and reads `layer`: a name or pattern, or a list of them. NULL:
 * all.
 */
static const bool *read_layers(lua_State *L, const esp_layers *layers)
{
    size_t count = (size_t)layers->count;
    bool *only = lua_newuserdatauv(L, count + 1, 0);
    for (size_t l = 0; l < count; l++) {
        only[l] = false;
    }
    esp_error err = {0};
    int type = esp_lua_raw_field(L, 2, "layer");
    if (type == LUA_TNIL) {
        only = NULL;
    } else if (type == LUA_TSTRING) {
        esp_lua_check(L, esp_layers_choose(layers, lua_tostring(L, -1), only, &err), &err);
    } else if (type == LUA_TTABLE) {
        for (lua_Integer i = 1; i <= (lua_Integer)lua_rawlen(L, -1); i++) {
            const char *pattern = esp_lua_item_string(L, lua_gettop(L), i, "layer");
            esp_lua_check(L, esp_layers_choose(layers, pattern, only, &err), &err);
        }
    } else {
        esp_lua_fail(L, "layer: found a %s, expected a name or a list of names", luaL_typename(L, -1));
    }
    lua_pop(L, 1);
    return only;
}

static int report_free(lua_State *L)
{
    esp_groups_report_free(lua_touserdata(L, 1));
    return 0;
}

static esp_groups_report *push_report(lua_State *L)
{
    esp_groups_report *report = lua_newuserdatauv(L, sizeof *report, 0);
    *report = (esp_groups_report){0};
    if (luaL_newmetatable(L, "espalier.groups")) {
        lua_pushcfunction(L, report_free);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return report;
}

/* The plan in the field `plan`; self-grouping with its defaults where there is none. */
static const esp_plan *read_plan(lua_State *L)
{
    if (esp_lua_raw_field(L, 2, "plan") == LUA_TNIL) {
        lua_newtable(L);
        esp_lua_set_string(L, "method", esp_method_word(ESP_METHOD_SG));
    }
    return esp_lua_push_plan(L, -1);
}

/* model:groups{plan=, layer=, suggest=, most=, restarts=}: {layers={{name=, groups=, inertia=, silhouette=,
 * ...}}} */
static int model_groups(lua_State *L)
{
    static const char *const keys[] = {"plan", "layer", "suggest", "most", "restarts", NULL};
    esp_lua_model *model = esp_lua_model_at(L, 1);
    esp_groups_options options = esp_groups_defaults();
    esp_error err = {0};
    lua_settop(L, 2);
    if (lua_isnil(L, 2)) {
        lua_newtable(L);
        lua_replace(L, 2);
    }
    esp_lua_check_keys(L, 2, keys);
    options.suggests = esp_lua_field_boolean(L, 2, "suggest", false);
    options.most = esp_lua_field_integer(L, 2, "most", options.most);
    int64_t restarts = esp_lua_field_integer(L, 2, "restarts", options.restarts);
    options.restarts = restarts < 0 || restarts > 10000 ? 0 : (int)restarts;
    const esp_plan *plan = read_plan(L);
    esp_grouping_cache *cache = esp_lua_model_cache(L, model);
    esp_preview **preview = esp_lua_new_preview(L);
    esp_lua_check(L, esp_preview_new(esp_lua_compute(L), model->graph, plan, NULL, 0, cache, preview, &err),
                  &err);
    options.only = read_layers(L, &(*preview)->layers);
    esp_groups_report *report = push_report(L);
    esp_lua_check(L, esp_groups_report_new(esp_lua_compute(L), *preview, &options, report, &err), &err);
    json_t **box = esp_lua_new_json(L);
    esp_lua_check(L, esp_groups_report_to_json(*preview, report, box, &err), &err);
    esp_lua_push_json(L, *box);
    return 1;
}

void esp_lua_open_groups(lua_State *L)
{
    static const luaL_Reg methods[] = {{"groups", model_groups}, {NULL, NULL}};
    luaL_getmetatable(L, ESP_LUA_MODEL);
    lua_getfield(L, -1, "__index");
    luaL_setfuncs(L, methods, 0);
    lua_pop(L, 2);
}
