/* model:solve{target={macs=0.5}, ...}: ratios from what may remain. */
#include <string.h>

#include "base/memory.h"
#include "prune/budget.h"
#include "script/binding.h"

/* What C must free whatever Lua raises. */
typedef struct solve_work {
    esp_sensitivity *curves;
    char *table;
} solve_work;

static int release_work(lua_State *L)
{
    solve_work *it = lua_touserdata(L, 1);
    esp_sensitivity_free(it->curves);
    esp_free(it->table);
    *it = (solve_work){0};
    return 0;
}

static solve_work *push_work(lua_State *L)
{
    solve_work *it = lua_newuserdatauv(L, sizeof *it, 0);
    *it = (solve_work){0};
    if (luaL_newmetatable(L, "espalier.solve_work")) {
        lua_pushcfunction(L, release_work);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return it;
}

/* One target: a number (share up to 1, else an amount; milliseconds) or a text as the command line takes it.
 */
static void read_target(lua_State *L, const char *word, esp_budget_target *targets)
{
    esp_error err = {0};
    if (lua_type(L, -1) == LUA_TNUMBER) {
        esp_lua_check(L, esp_budget_target_set(word, lua_tonumber(L, -1), targets, &err), &err);
        return;
    }
    if (lua_type(L, -1) != LUA_TSTRING) {
        esp_lua_fail(L, "target %s: expected a number or a text, found %s", word, luaL_typename(L, -1));
    }
    lua_pushfstring(L, "%s=%s", word, lua_tostring(L, -1));
    esp_lua_check(L, esp_budget_targets_parse(lua_tostring(L, -1), targets, &err), &err);
    lua_pop(L, 1);
}

/* target = {macs = 0.5, latency = "3.5ms"}, or "macs=0.5,latency=3.5ms" */
static void read_targets(lua_State *L, esp_budget_target *targets)
{
    esp_error err = {0};
    int type = esp_lua_raw_field(L, 2, "target");
    if (type == LUA_TSTRING) {
        esp_lua_check(L, esp_budget_targets_parse(lua_tostring(L, -1), targets, &err), &err);
    } else if (type == LUA_TTABLE) {
        const char *words[ESP_BUDGET_COUNT + 1] = {NULL};
        for (int m = 0; m < ESP_BUDGET_COUNT; m++) {
            words[m] = esp_budget_word((esp_budget_measure)m);
        }
        esp_lua_check_keys(L, lua_gettop(L), words);
        for (int m = 0; m < ESP_BUDGET_COUNT; m++) {
            if (esp_lua_raw_field(L, -1, words[m]) != LUA_TNIL) {
                read_target(L, words[m], targets);
            }
            lua_pop(L, 1);
        }
    } else {
        esp_lua_fail(L, "target: expected a table such as {macs = 0.5}, found %s", lua_typename(L, type));
    }
    lua_pop(L, 1);
}

/* The general ratios named in keep = {"conv", "fc", "border"} stay. */
static void read_kept(lua_State *L, esp_budget_options *options)
{
    int type = esp_lua_raw_field(L, 2, "keep");
    if (type != LUA_TNIL && type != LUA_TTABLE) {
        esp_lua_fail(L, "keep: expected a list such as {\"fc\"}, found %s", lua_typename(L, type));
    }
    int list = lua_gettop(L);
    lua_Integer count = type == LUA_TTABLE ? (lua_Integer)lua_rawlen(L, list) : 0;
    for (lua_Integer i = 1; i <= count; i++) {
        const char *word = esp_lua_item_string(L, list, i, "keep");
        bool *kept = strcmp(word, "conv") == 0     ? &options->keeps_conv
                     : strcmp(word, "fc") == 0     ? &options->keeps_fc
                     : strcmp(word, "border") == 0 ? &options->keeps_border
                                                   : NULL;
        if (!kept) {
            esp_lua_fail(L, "keep[%d]: found '%s', expected conv, fc or border", (int)i, word);
        }
        *kept = true;
    }
    lua_settop(L, 2);
}

static void read_options(lua_State *L, esp_budget_options *options, bool *is_fresh)
{
    static const char *const keys[] = {
        "target",  "plan",    "distribution", "sensitivity", "cost",        "keep",
        "measure", "predict", "batch",        "repeats",     "fresh_table", "form",
        "data",    "images",  "seed",         "mean",        "std",         NULL};
    esp_error err = {0};
    esp_lua_check_keys(L, 2, keys);
    read_targets(L, options->targets);
    read_kept(L, options);
    bool has_curves = esp_lua_has_field(L, 2, "sensitivity");
    const char *word = esp_lua_field_string(
        L, 2, "distribution",
        esp_distribution_word(has_curves ? ESP_DISTRIBUTION_SENSITIVITY : ESP_DISTRIBUTION_UNIFORM));
    esp_lua_check(L, esp_distribution_parse(word, &options->distribution, &err), &err);
    if ((options->distribution == ESP_DISTRIBUTION_SENSITIVITY) != has_curves) {
        esp_lua_fail(L, "distribution by sensitivity and sensitivity = \"FILE\" go together");
    }
    const char *cost = esp_lua_field_string(L, 2, "cost", esp_sensitivity_measure_word(ESP_SENSITIVITY_LOSS));
    esp_lua_check(L, esp_sensitivity_measure_parse(cost, &options->cost, &err), &err);
    const char *form = esp_lua_field_string(L, 2, "form", "grouped");
    if (strcmp(form, "grouped") != 0 && strcmp(form, "dense") != 0) {
        esp_lua_fail(L, "form: found '%s', expected grouped or dense", form);
    }
    options->group_form = strcmp(form, "dense") == 0 ? ESP_GROUP_FORM_DENSE : ESP_GROUP_FORM_GROUPED;
    options->measures = esp_lua_field_boolean(L, 2, "measure", options->targets[ESP_BUDGET_LATENCY].is_set);
    options->predicts = esp_lua_field_boolean(L, 2, "predict", options->measures);
    options->batch = esp_lua_field_integer(L, 2, "batch", 0);
    options->repeats = (int)esp_lua_field_integer(L, 2, "repeats", 0);
    *is_fresh = esp_lua_field_boolean(L, 2, "fresh_table", false);
}

static void push_plan_table(lua_State *L, const esp_plan *plan)
{
    esp_error err = {0};
    json_t **box = esp_lua_new_json(L);
    esp_lua_check(L, esp_plan_to_json(plan, box, &err), &err);
    esp_lua_push_json(L, *box);
    lua_remove(L, -2);
}

/* model:solve{target={macs=0.5}, plan={method="wsp"}, distribution=, sensitivity=FILE, cost=, keep=,
 * measure=, predict=, batch=, repeats=, fresh_table=, form=, data=, images=, seed=, mean=, std=}: the plan,
 * and a report {distribution=, amounts=, binding=, level=, ...}. The data is what criteria that look at
 * images look at. */
static int model_solve(lua_State *L)
{
    esp_lua_model *model = esp_lua_model_at(L, 1);
    esp_budget_options options = {0};
    esp_budget_report report = {0};
    esp_error err = {0};
    bool is_fresh = false;
    esp_lua_check_type(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    read_options(L, &options, &is_fresh);
    if (esp_lua_raw_field(L, 2, "plan") == LUA_TNIL) {
        return esp_lua_fail(L, "plan: missing, such as {method = \"wsp\"}");
    }
    const esp_plan *plan = esp_lua_push_plan(L, -1);
    esp_lua_calibrate(L, 2, esp_lua_model_cache(L, model));
    esp_plan *solved = esp_lua_new_plan(L);
    solve_work *it = push_work(L);
    if (esp_lua_has_field(L, 2, "sensitivity")) {
        esp_lua_check(
            L, esp_sensitivity_load(esp_lua_field_string(L, 2, "sensitivity", ""), &it->curves, &err), &err);
    }
    if (!is_fresh) {
        esp_latency_table_path(&it->table, NULL); /* nowhere to keep it: measured afresh */
    }
    options.sensitivity = it->curves;
    options.table_path = it->table;
    esp_lua_check(L,
                  esp_budget_solve(esp_lua_compute(L), model->graph, plan, &options,
                                   esp_lua_model_cache(L, model), solved, &report, &err),
                  &err);
    push_plan_table(L, solved);
    json_t **box = esp_lua_new_json(L);
    esp_lua_check(L, esp_budget_report_to_json(&report, box, &err), &err);
    esp_lua_push_json(L, *box);
    lua_remove(L, -2);
    return 2;
}

/* The core module is on the top of the stack. */
void esp_lua_open_budget(lua_State *L)
{
    static const luaL_Reg methods[] = {{"solve", model_solve}, {NULL, NULL}};
    luaL_getmetatable(L, ESP_LUA_MODEL);
    lua_getfield(L, -1, "__index");
    luaL_setfuncs(L, methods, 0);
    lua_pop(L, 2);
}
