/* model:sensitivity{data=, images=, seed=, ratios=, method=, mode=, criterion=, groups=, plan=, layers=,
 * ignore=, path=, resume=, measure=, tolerance=, batch=, memory=, mean=, std=}: what cutting each part of a
 * network alone costs. */
#include "prune/sensitivity.h"

#include "base/memory.h"
#include "script/binding.h"

enum { RATIOS_MAX = 99, PATTERNS_MAX = 64 };

/* What must be freed whatever Lua raises: a userdata with a finalizer. */
typedef struct scan_box {
    esp_plan plan;
    json_t *json;
    esp_sensitivity *result;
    double ratios[RATIOS_MAX];
    const char *layers[PATTERNS_MAX], *ignored[PATTERNS_MAX];
    int layer_count, ignored_count;
} scan_box;

static int release_scan(lua_State *L)
{
    scan_box *it = lua_touserdata(L, 1);
    esp_sensitivity_free(it->result);
    json_decref(it->json);
    esp_plan_free(&it->plan);
    *it = (scan_box){0};
    return 0;
}

static scan_box *new_scan(lua_State *L)
{
    scan_box *it = lua_newuserdatauv(L, sizeof *it, 0);
    *it = (scan_box){0};
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, release_scan);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    return it;
}

/* A string or a list of strings, which stay valid as long as the table. */
static int read_patterns(lua_State *L, const char *key, const char **out)
{
    int count = 0, type = esp_lua_raw_field(L, 2, key);
    if (type == LUA_TSTRING) {
        out[count++] = lua_tostring(L, -1);
    } else if (type == LUA_TTABLE) {
        lua_Integer length = (lua_Integer)lua_rawlen(L, -1);
        if (length > PATTERNS_MAX) {
            esp_lua_fail(L, "%s: found %d names, expected at most %d", key, (int)length, PATTERNS_MAX);
        }
        for (lua_Integer i = 1; i <= length; i++) {
            out[count++] = esp_lua_item_string(L, lua_gettop(L), i, key);
        }
    } else if (type != LUA_TNIL) {
        esp_lua_fail(L, "%s: found a %s, expected a name or a list of names", key, luaL_typename(L, -1));
    }
    lua_pop(L, 1);
    return count;
}

static int read_ratios(lua_State *L, double *out)
{
    int count = 0, type = esp_lua_raw_field(L, 2, "ratios");
    if (type == LUA_TTABLE) {
        lua_Integer length = (lua_Integer)lua_rawlen(L, -1);
        if (length < 1 || length > RATIOS_MAX) {
            esp_lua_fail(L, "ratios: found %d numbers, expected 1 to %d", (int)length, RATIOS_MAX);
        }
        for (lua_Integer i = 1; i <= length; i++) {
            out[count++] = esp_lua_item_number(L, lua_gettop(L), i, "ratios");
        }
    } else if (type == LUA_TNUMBER) {
        out[count++] = lua_tonumber(L, -1);
    } else if (type != LUA_TNIL) {
        esp_lua_fail(L, "ratios: found a %s, expected a list of numbers", luaL_typename(L, -1));
    }
    lua_pop(L, 1);
    return count;
}

/* Copies a keyword into the plan's JSON when it was given. */
static void set_word(lua_State *L, json_t *plan, const char *key)
{
    const char *word = esp_lua_field_string(L, 2, key, NULL);
    if (word) {
        json_object_set_new(plan, key, json_string(word));
    }
}

/* `plan` is a table or the path of a plan file; else one of the keywords. */
static void read_plan(lua_State *L, scan_box *it)
{
    esp_error err = {0};
    int type = esp_lua_raw_field(L, 2, "plan");
    if (type == LUA_TSTRING) {
        esp_lua_check(L, esp_plan_load(lua_tostring(L, -1), &it->plan, &err), &err);
        lua_pop(L, 1);
        return;
    }
    if (type == LUA_TNIL) {
        lua_pop(L, 1);
        lua_newtable(L);
        esp_lua_set_string(L, "method", esp_lua_has_field(L, 2, "criterion") ? "filter" : "wsp");
    } else if (type != LUA_TTABLE) {
        esp_lua_fail(L, "plan: found a %s, expected the path of a plan file or a table",
                     luaL_typename(L, -1));
    }
    it->json = json_incref(*esp_lua_push_plan_json(L, -1));
    lua_pop(L, 2);
    set_word(L, it->json, "method");
    set_word(L, it->json, "mode");
    set_word(L, it->json, "criterion");
    if (esp_lua_has_field(L, 2, "groups")) {
        json_object_set_new(it->json, "groups", json_integer(esp_lua_field_integer(L, 2, "groups", 16)));
    }
    esp_lua_check(L, esp_plan_from_json(it->json, &it->plan, &err), &err);
}

/* The result as a table; curves tell the ratio they tolerate when one was asked for. */
static int push_result(lua_State *L, scan_box *it, esp_sensitivity_measure measure, double tolerance)
{
    esp_error err = {0};
    json_decref(it->json);
    it->json = NULL;
    esp_lua_check(L, esp_sensitivity_to_json(it->result, &it->json, &err), &err);
    for (int c = 0; tolerance >= 0 && c < it->result->curve_count; c++) {
        double ratio = esp_sensitivity_ratio(&it->result->curves[c], measure, tolerance);
        json_object_set_new(json_array_get(json_object_get(it->json, "curves"), (size_t)c), "tolerated",
                            json_real(ratio));
    }
    esp_lua_push_json(L, it->json);
    return 1;
}

int esp_lua_model_sensitivity(lua_State *L)
{
    static const char *const keys[] = {"data",   "images",    "seed",   "ratios",  "method",
                                       "mode",   "criterion", "groups", "plan",    "layers",
                                       "ignore", "path",      "resume", "measure", "tolerance",
                                       "batch",  "memory",    "mean",   "std",     NULL};
    const esp_graph *graph = esp_lua_model_at(L, 1)->graph;
    esp_error err = {0};
    esp_sensitivity_measure measure = ESP_SENSITIVITY_LOSS;
    esp_lua_check_type(L, 2, LUA_TTABLE);
    esp_lua_check_keys(L, 2, keys);
    const esp_dataset *dataset = esp_lua_field_data(L, 2, "data", true);
    const char *word = esp_lua_field_string(L, 2, "measure", "loss");
    double tolerance = esp_lua_field_number(L, 2, "tolerance", -1);
    esp_lua_check(L, esp_sensitivity_measure_parse(word, &measure, &err), &err);
    int64_t memory_mib = esp_lua_field_integer(L, 2, "memory", 0);
    if (memory_mib < 0 || memory_mib > 1 << 20) {
        return esp_lua_fail(L, "memory: found %lld, expected MiB", (long long)memory_mib);
    }
    scan_box *it = new_scan(L);
    int ratio_count = read_ratios(L, it->ratios);
    it->layer_count = read_patterns(L, "layers", it->layers);
    it->ignored_count = read_patterns(L, "ignore", it->ignored);
    read_plan(L, it);
    for (int i = 0; i < it->ignored_count; i++) {
        esp_lua_check(L, esp_plan_add_rule(&it->plan, it->ignored[i], -1, 0, true, &err), &err);
    }
    const esp_sensitivity_options options = {
        .plan = &it->plan,
        .ratios = ratio_count ? it->ratios : NULL,
        .ratio_count = ratio_count,
        .patterns = it->layers,
        .pattern_count = it->layer_count,
        .images = esp_lua_field_integer(L, 2, "images", 0),
        .seed = (uint64_t)esp_lua_field_integer(L, 2, "seed", 0),
        .batch = esp_lua_field_integer(L, 2, "batch", 0),
        .memory = (size_t)memory_mib << 20,
        .mean = esp_lua_field_string(L, 2, "mean", NULL),
        .std = esp_lua_field_string(L, 2, "std", NULL),
        .path = esp_lua_field_string(L, 2, "path", NULL),
        .resumes = esp_lua_field_boolean(L, 2, "resume", false),
    };
    if (options.path) {
        esp_lua_check_writable(L, options.path);
    } else if (options.resumes) {
        return esp_lua_fail(L, "resume needs the file to go on with: path");
    }
    esp_lua_check(L, esp_sensitivity_scan(esp_lua_compute(L), graph, dataset, &options, &it->result, &err),
                  &err);
    return push_result(L, it, measure, tolerance);
}
