/* Models in Lua: loading, saving, looking, measuring, previewing.
 * Training is in lua_train.c. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "io/onnx.h"
#include "prune/counts.h"
#include "prune/surgery.h"
#include "script/binding.h"
#include "train/trainer.h"

esp_lua_model *esp_lua_new_model(lua_State *L)
{
    esp_lua_model *model = lua_newuserdatauv(L, sizeof *model, 0);
    *model = (esp_lua_model){0};
    luaL_setmetatable(L, ESP_LUA_MODEL);
    return model;
}

esp_lua_model *esp_lua_model_at(lua_State *L, int index)
{
    esp_lua_model *model = esp_lua_check_userdata(L, index, ESP_LUA_MODEL);
    esp_lua_check_argument(L, model->graph, index, "this model has been released");
    return model;
}

static const esp_graph *graph_at(lua_State *L, int index)
{
    return esp_lua_model_at(L, index)->graph;
}

static int model_free(lua_State *L)
{
    esp_lua_model *model = esp_lua_check_userdata(L, 1, ESP_LUA_MODEL);
    esp_grouping_cache_free(model->cache);
    esp_graph_unref(model->graph);
    *model = (esp_lua_model){0};
    return 0;
}

/* load(path) */
static int load_model(lua_State *L)
{
    const char *path = esp_lua_check_string(L, 1);
    esp_error err = {0};
    esp_lua_model *model = esp_lua_new_model(L);
    esp_lua_check(L, esp_onnx_load(path, &model->graph, &err), &err);
    return 1;
}

/* model:save(path) */
static int model_save(lua_State *L)
{
    const char *path = esp_lua_check_string(L, 2);
    esp_error err = {0};
    esp_lua_check_writable(L, path);
    esp_lua_check(L, esp_onnx_save(graph_at(L, 1), path, &err), &err);
    return 0;
}

/* The layers of a graph with what they were inferred from, released together. */
typedef struct layer_list {
    esp_inferred *inferred;
    esp_layers layers;
} layer_list;

static esp_status list_layers(const esp_graph *graph, layer_list *out, esp_error *err)
{
    esp_status status = esp_infer(graph, 1, NULL, 0, &out->inferred, err);
    return status == ESP_OK ? esp_layers_list(graph, out->inferred, &out->layers, err) : status;
}

static int layer_list_free(lua_State *L)
{
    layer_list *it = lua_touserdata(L, 1);
    esp_layers_free(&it->layers);
    esp_inferred_free(it->inferred);
    *it = (layer_list){0};
    return 0;
}

/* Pushes the list's owner, then fills it. */
static layer_list *push_layer_list(lua_State *L, const esp_graph *graph)
{
    esp_error err = {0};
    layer_list *it = lua_newuserdatauv(L, sizeof *it, 0);
    *it = (layer_list){0};
    if (luaL_newmetatable(L, "espalier.layers")) {
        lua_pushcfunction(L, layer_list_free);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    esp_lua_check(L, list_layers(graph, it, &err), &err);
    return it;
}

/* model:layers(): a list of {name=, weight=, kind=, filters=, ...} */
static int model_layers(lua_State *L)
{
    const layer_list *list = push_layer_list(L, graph_at(L, 1));
    lua_createtable(L, list->layers.count, 0);
    for (int i = 0; i < list->layers.count; i++) {
        const esp_layer *layer = &list->layers.items[i];
        lua_createtable(L, 0, 9);
        esp_lua_set_string(L, "name", layer->name);
        esp_lua_set_string(L, "weight", layer->weight_name);
        esp_lua_set_string(L, "kind", layer->is_conv ? "conv" : "fc");
        esp_lua_set_integer(L, "filters", layer->filters);
        esp_lua_set_integer(L, "channels", layer->channels);
        esp_lua_set_integer(L, "group", layer->group);
        esp_lua_set_integer(L, "kernel", layer->kernel_h);
        esp_lua_set_integer(L, "params", layer->params);
        esp_lua_set_integer(L, "macs", layer->macs);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* model:counts(): {params=, macs=, paper_params=, paper_macs=} */
static int model_counts(lua_State *L)
{
    const esp_graph *graph = graph_at(L, 1);
    const layer_list *list = push_layer_list(L, graph);
    esp_counts counts = {0};
    esp_error err = {0};
    esp_lua_check(L, esp_model_count(graph, list->inferred, &counts, &err), &err);
    esp_lua_push_counts(L, &counts);
    return 1;
}

/* model:evaluate{data=, limit=, batch=, mean=, std=} */
static int model_evaluate(lua_State *L)
{
    static const char *const keys[] = {"data", "limit", "batch", "mean", "std", NULL};
    const esp_graph *graph = graph_at(L, 1);
    esp_error err = {0};
    esp_eval_result result = {0};
    esp_lua_check_keys(L, 2, keys);
    const esp_dataset *dataset = esp_lua_field_data(L, 2, "data", true);
    const esp_eval_options options = {
        .batch = esp_lua_field_integer(L, 2, "batch", 0),
        .limit = esp_lua_field_integer(L, 2, "limit", 0),
        .mean = esp_lua_field_string(L, 2, "mean", NULL),
        .std = esp_lua_field_string(L, 2, "std", NULL),
    };
    esp_lua_check(L, esp_evaluate(esp_lua_compute(L), graph, dataset, &options, &result, &err), &err);
    esp_lua_push_eval(L, &result);
    return 1;
}

/* A plan is built through its JSON form: one parser, one set of messages. `ratio = 0.4` is short for that
 * ratio of every kind, and the version may be left out. model:preview(plan): a table, or the path of a plan
 * file. */
static void complete_plan(json_t *plan)
{
    json_t *ratio = json_object_get(plan, "ratio");
    if (json_is_number(ratio)) {
        double value = json_number_value(ratio);
        json_object_set_new(plan, "ratio",
                            json_pack("{s:f, s:f, s:f}", "conv", value, "fc", value, "border", value));
    }
    json_t *rules = json_object_get(plan, "rules");
    if (json_is_object(rules) && json_object_size(rules) == 0) { /* an empty table is a list too */
        json_object_set_new(plan, "rules", json_array());
    }
    if (!json_object_get(plan, "version")) {
        json_object_set_new(plan, "version", json_integer(1));
    }
}

json_t **esp_lua_push_plan_json(lua_State *L, int index)
{
    json_t **box = esp_lua_push_table_json(L, index, "plan");
    complete_plan(*box);
    return box;
}

static int plan_free(lua_State *L)
{
    esp_plan_free(lua_touserdata(L, 1));
    return 0;
}

esp_plan *esp_lua_new_plan(lua_State *L)
{
    esp_plan *plan = lua_newuserdatauv(L, sizeof *plan, 0);
    *plan = (esp_plan){0};
    if (luaL_newmetatable(L, "espalier.plan")) {
        lua_pushcfunction(L, plan_free);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return plan;
}

esp_plan *esp_lua_push_plan(lua_State *L, int index)
{
    esp_error err = {0};
    bool is_argument = index > 0; /* else a field that was pushed */
    index = lua_absindex(L, index);
    esp_plan *plan = esp_lua_new_plan(L);
    if (lua_type(L, index) == LUA_TSTRING) {
        esp_lua_check(L, esp_plan_load(lua_tostring(L, index), plan, &err), &err);
        return plan;
    }
    if (is_argument) {
        esp_lua_check_type(L, index, LUA_TTABLE);
    } else if (lua_type(L, index) != LUA_TTABLE) {
        esp_lua_fail(
            L,
            "plan: found a %s, expected a table such as {method = \"wsp\", ratio = 0.4} or the path of "
            "a plan file",
            luaL_typename(L, index));
    }
    json_t **box = esp_lua_push_plan_json(L, index);
    esp_lua_check(L, esp_plan_from_json(*box, plan, &err), &err);
    lua_pop(L, 1); /* the JSON */
    return plan;
}

esp_grouping_cache *esp_lua_model_cache(lua_State *L, esp_lua_model *model)
{
    esp_error err = {0};
    if (!model->cache) {
        esp_lua_check(L, esp_grouping_cache_new(&model->cache, &err), &err);
    }
    return model->cache;
}

esp_criterion_data esp_lua_criterion_data(lua_State *L, int index)
{
    const esp_criterion_data data = {.dataset = esp_lua_field_data(L, index, "data", false),
                                     .images = esp_lua_field_integer(L, index, "images", 0),
                                     .seed = (uint64_t)esp_lua_field_integer(L, index, "seed", 0),
                                     .mean = esp_lua_field_string(L, index, "mean", NULL),
                                     .std = esp_lua_field_string(L, index, "std", NULL)};
    if (!data.dataset && (data.mean || data.std)) {
        esp_lua_fail(L, "mean and std are of the images in data, found no data");
    }
    return data;
}

void esp_lua_calibrate(lua_State *L, int index, esp_grouping_cache *cache)
{
    const esp_criterion_data data = esp_lua_criterion_data(L, index);
    esp_error err = {0};
    if (data.dataset) {
        esp_lua_check(L, esp_preview_calibrate_with(cache, &data, &err), &err);
    }
}

/* model:preview(plan [, {data=, images=, seed=, mean=, std=}]): the data is what criteria that look at images
 * look at. */
static int model_preview(lua_State *L)
{
    static const char *const keys[] = {"data", "images", "seed", "mean", "std", NULL};
    esp_lua_model *model = esp_lua_model_at(L, 1);
    esp_error err = {0};
    lua_settop(L, 3); /* the keywords, or nil, keep their place */
    esp_lua_check_keys(L, 3, keys);
    esp_plan *plan = esp_lua_push_plan(L, 2);
    esp_lua_model_cache(L, model);
    esp_lua_calibrate(L, 3, model->cache);
    esp_preview **preview = esp_lua_new_preview(L);
    esp_lua_check(
        L, esp_preview_new(esp_lua_compute(L), model->graph, plan, NULL, 0, model->cache, preview, &err),
        &err);
    return 1;
}

/* ---- small things ---- */

/* model:difference(other [, seed]): largest absolute and relative output difference on random input */
static int model_difference(lua_State *L)
{
    double absolute = 0, relative = 0;
    esp_error err = {0};
    uint64_t seed = (uint64_t)esp_lua_optional_integer(L, 3, 0);
    esp_lua_check(L,
                  esp_compare_outputs(esp_lua_compute(L), graph_at(L, 1), graph_at(L, 2), NULL, 0, 1, seed,
                                      &absolute, &relative, &err),
                  &err);
    lua_pushnumber(L, absolute);
    lua_pushnumber(L, relative);
    return 2;
}

/* model:metadata(key): a string or nil */
static int model_metadata(lua_State *L)
{
    lua_pushstring(L, esp_graph_metadata(graph_at(L, 1), esp_lua_check_string(L, 2)));
    return 1;
}

/* model:with_metadata(key, value): a new model; nil removes the key */
static int model_with_metadata(lua_State *L)
{
    const esp_graph *graph = graph_at(L, 1);
    const char *key = esp_lua_check_string(L, 2);
    const char *value = esp_lua_optional_string(L, 3);
    esp_error err = {0};
    esp_lua_model *model = esp_lua_new_model(L);
    esp_lua_check(L, esp_graph_with_metadata(graph, key, value, &model->graph, &err), &err);
    return 1;
}

/* model:normalize{mean={...}, std={...}}: a new model that carries its normalisation */
static int model_normalize(lua_State *L)
{
    static const char *const keys[] = {"mean", "std", NULL};
    const esp_graph *graph = graph_at(L, 1);
    esp_normalization normalization = {.origin = ESP_NORM_FROM_USER};
    esp_error err = {0};
    esp_lua_check_type(L, 2, LUA_TTABLE);
    esp_lua_check_keys(L, 2, keys);
    for (int pass = 0; pass < 2; pass++) {
        float *target = pass ? normalization.std : normalization.mean;
        if (esp_lua_raw_field(L, 2, keys[pass]) != LUA_TTABLE) {
            return esp_lua_fail(L, "%s: found a %s, expected a list with a number per channel", keys[pass],
                                luaL_typename(L, -1));
        }
        int count = (int)lua_rawlen(L, -1);
        if (count < 1 || count > ESP_MAX_IMAGE_CHANNELS || (pass && count != normalization.channels)) {
            return esp_lua_fail(L, "%s: found %d numbers, expected one per channel (1 to %d)", keys[pass],
                                count, ESP_MAX_IMAGE_CHANNELS);
        }
        normalization.channels = count;
        for (int c = 0; c < count; c++) {
            target[c] = (float)esp_lua_item_number(L, lua_gettop(L), c + 1, keys[pass]);
        }
        lua_pop(L, 1);
    }
    esp_lua_model *model = esp_lua_new_model(L);
    esp_lua_check(L, esp_normalization_store(graph, &normalization, &model->graph, &err), &err);
    return 1;
}

static int model_to_string(lua_State *L)
{
    const esp_graph *graph = graph_at(L, 1);
    lua_pushfstring(L, "model %s (%d nodes)", esp_graph_name(graph), esp_graph_node_count(graph));
    return 1;
}

void esp_lua_open_model(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"save", model_save},
        {"layers", model_layers},
        {"counts", model_counts},
        {"evaluate", model_evaluate},
        {"bench", esp_lua_model_bench},
        {"sensitivity", esp_lua_model_sensitivity},
        {"preview", model_preview},
        {"train", esp_lua_model_train},
        {"replace_classifier", esp_lua_model_replace_classifier},
        {"difference", model_difference},
        {"metadata", model_metadata},
        {"with_metadata", model_with_metadata},
        {"normalize", model_normalize},
        {NULL, NULL},
    };
    static const luaL_Reg meta[] = {{"__gc", model_free}, {"__tostring", model_to_string}, {NULL, NULL}};
    esp_lua_open_class(L, ESP_LUA_MODEL, methods, meta);
    lua_pushcfunction(L, load_model);
    lua_setfield(L, -2, "load");
}
