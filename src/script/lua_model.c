/* Models in Lua: loading, saving, looking, measuring, previewing, training. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "io/onnx.h"
#include "prune/counts.h"
#include "prune/criteria.h"
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
    esp_lua_model *model = luaL_checkudata(L, index, ESP_LUA_MODEL);
    luaL_argcheck(L, model->graph, index, "this model has been released");
    return model;
}

static const esp_graph *graph_at(lua_State *L, int index)
{
    return esp_lua_model_at(L, index)->graph;
}

static int model_free(lua_State *L)
{
    esp_lua_model *model = luaL_checkudata(L, 1, ESP_LUA_MODEL);
    esp_grouping_cache_free(model->cache);
    esp_graph_unref(model->graph);
    *model = (esp_lua_model){0};
    return 0;
}

/* load(path) */
static int load_model(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    esp_error err = {0};
    esp_lua_model *model = esp_lua_new_model(L);
    esp_lua_check(L, esp_onnx_load(path, &model->graph, &err), &err);
    return 1;
}

/* model:save(path) */
static int model_save(lua_State *L)
{
    const char *path = luaL_checkstring(L, 2);
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

/* model:saliency(layer [, criterion [, seed]]): a list of scores, one per filter */
static int model_saliency(lua_State *L)
{
    const esp_graph *graph = graph_at(L, 1);
    const char *name = luaL_checkstring(L, 2);
    const char *criterion_name = luaL_optstring(L, 3, "l1");
    uint64_t seed = (uint64_t)luaL_optinteger(L, 4, 0);
    const esp_criterion *criterion = NULL;
    esp_error err = {0};
    esp_lua_check(L, esp_criterion_find(criterion_name, &criterion, &err), &err);
    const layer_list *list = push_layer_list(L, graph);
    int index = esp_layers_find(&list->layers, name);
    if (index < 0) {
        return esp_lua_fail(L, "the model has no layer '%s'", name);
    }
    const esp_layer *layer = &list->layers.items[index];
    double *scores = lua_newuserdatauv(L, (size_t)layer->filters * sizeof *scores, 0);
    esp_lua_check(L, esp_saliency(esp_lua_compute(L), graph, layer, criterion, seed, scores, &err), &err);
    lua_createtable(L, (int)layer->filters, 0);
    for (int64_t f = 0; f < layer->filters; f++) {
        lua_pushnumber(L, scores[f]);
        lua_rawseti(L, -2, f + 1);
    }
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
    if (!json_object_get(plan, "version")) {
        json_object_set_new(plan, "version", json_integer(1));
    }
}

static int plan_free(lua_State *L)
{
    esp_plan_free(lua_touserdata(L, 1));
    return 0;
}

static esp_plan *push_plan(lua_State *L)
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

static int model_preview(lua_State *L)
{
    esp_lua_model *model = esp_lua_model_at(L, 1);
    esp_error err = {0};
    esp_plan *plan = push_plan(L);
    if (lua_type(L, 2) == LUA_TSTRING) {
        esp_lua_check(L, esp_plan_load(lua_tostring(L, 2), plan, &err), &err);
    } else {
        luaL_checktype(L, 2, LUA_TTABLE);
        json_t **box = esp_lua_new_json(L);
        *box = esp_lua_to_json(L, 2);
        if (!*box) {
            return esp_lua_fail(L, "a plan may hold only numbers, strings, booleans and tables of them");
        }
        complete_plan(*box);
        esp_lua_check(L, esp_plan_from_json(*box, plan, &err), &err);
    }
    if (!model->cache) {
        esp_lua_check(L, esp_grouping_cache_new(&model->cache, &err), &err);
    }
    esp_preview **preview = esp_lua_new_preview(L);
    esp_lua_check(
        L, esp_preview_new(esp_lua_compute(L), model->graph, plan, NULL, 0, model->cache, preview, &err),
        &err);
    return 1;
}

/* ---- training ---- */

/* Pushed before training starts, so that masks and results survive Lua errors raised by callbacks. */
typedef struct training {
    lua_State *L;
    int callback; /* stack index of on_epoch, 0 when there is none */
    esp_held_masks masks;
} training;

static int training_free(lua_State *L)
{
    training *it = lua_touserdata(L, 1);
    esp_held_masks_free(&it->masks);
    it->masks = (esp_held_masks){0};
    return 0;
}

static training *push_training(lua_State *L)
{
    training *it = lua_newuserdatauv(L, sizeof *it, 0);
    *it = (training){.L = L};
    if (luaL_newmetatable(L, "espalier.training")) {
        lua_pushcfunction(L, training_free);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return it;
}

static void push_epoch(lua_State *L, const esp_epoch_report *report)
{
    lua_createtable(L, 0, 9);
    esp_lua_set_integer(L, "epoch", report->epoch);
    esp_lua_set_integer(L, "epochs", report->epochs);
    esp_lua_set_number(L, "train_loss", report->train_loss);
    esp_lua_set_number(L, "train_top1", report->train_top1);
    esp_lua_set_number(L, "lr", report->lr);
    esp_lua_set_number(L, "images_per_s", report->images_per_s);
    esp_lua_set_number(L, "seconds", report->seconds);
    esp_lua_set_boolean(L, "is_best", report->is_best);
    esp_lua_push_eval(L, &report->validation);
    lua_setfield(L, -2, "validation");
}

/* Runs inside a protected call: the trainer's memory must not be jumped over. */
static int call_on_epoch(lua_State *L)
{
    const esp_epoch_report *report = lua_touserdata(L, 2);
    lua_pushvalue(L, 1);
    push_epoch(L, report);
    lua_call(L, 1, 0);
    return 0;
}

static esp_status on_epoch(void *user, const esp_epoch_report *report, esp_error *err)
{
    training *it = user;
    lua_State *L = it->L;
    if (!lua_checkstack(L, 8)) {
        return esp_fail_memory(err, "the Lua stack", 0);
    }
    lua_pushcfunction(L, call_on_epoch);
    lua_pushvalue(L, it->callback);
    lua_pushlightuserdata(L, (void *)report);
    if (lua_pcall(L, 2, 0, 0) == LUA_OK) {
        return ESP_OK;
    }
    const char *message = luaL_tolstring(L, -1, NULL);
    esp_status status = esp_compute_is_cancelled(esp_lua_compute(L))
                            ? esp_fail(err, ESP_CANCELLED, "cancelled")
                            : esp_fail(err, ESP_SCRIPT, "on_epoch: %s", message);
    lua_pop(L, 2);
    return status;
}

static void read_schedule(lua_State *L, esp_train_options *options)
{
    esp_schedule *schedule = &options->schedule;
    esp_error err = {0};
    const char *word = esp_lua_field_string(L, 2, "schedule", esp_schedule_word(schedule->kind));
    esp_lua_check(L, esp_schedule_parse_kind(word, &schedule->kind, &err), &err);
    schedule->lr = esp_lua_field_number(L, 2, "lr", schedule->lr);
    schedule->gamma = esp_lua_field_number(L, 2, "gamma", schedule->gamma);
    schedule->warmup_epochs = esp_lua_field_number(L, 2, "warmup", 0);
    if (esp_lua_raw_field(L, 2, "milestones") == LUA_TTABLE) {
        int count = (int)lua_rawlen(L, -1);
        if (count > ESP_SCHEDULE_MAX_STEPS) {
            esp_lua_fail(L, "milestones: found %d, expected at most %d", count, ESP_SCHEDULE_MAX_STEPS);
        }
        schedule->milestone_count = count;
        for (int i = 0; i < count; i++) {
            lua_rawgeti(L, -1, i + 1);
            schedule->milestones[i] = luaL_checknumber(L, -1);
            lua_pop(L, 1);
        }
    }
    lua_pop(L, 1);
    esp_lua_check(L, esp_schedule_check(schedule, &err), &err);
}

static void read_train_options(lua_State *L, esp_train_options *options)
{
    static const char *const keys[] = {"data",         "validation",    "epochs",   "lr",    "schedule",
                                       "milestones",   "gamma",         "warmup",   "batch", "momentum",
                                       "weight_decay", "nesterov",      "crop",     "flip",  "freeze_norm",
                                       "free_masks",   "train_limit",   "limit",    "mean",  "std",
                                       "seed",         "measure_first", "on_epoch", NULL};
    esp_lua_check_keys(L, 2, keys);
    *options = esp_train_defaults();
    options->epochs_limit = esp_lua_field_number(L, 2, "epochs", NAN);
    if (!(options->epochs_limit > 0)) {
        esp_lua_fail(L, "epochs: expected a number above 0");
    }
    read_schedule(L, options);
    options->batch = esp_lua_field_integer(L, 2, "batch", options->batch);
    options->momentum = esp_lua_field_number(L, 2, "momentum", options->momentum);
    options->weight_decay = esp_lua_field_number(L, 2, "weight_decay", options->weight_decay);
    options->uses_nesterov = esp_lua_field_boolean(L, 2, "nesterov", false);
    options->augmentation.crop_padding = (int)esp_lua_field_integer(L, 2, "crop", 0);
    options->augmentation.flips = esp_lua_field_boolean(L, 2, "flip", false);
    options->freezes_norm = esp_lua_field_boolean(L, 2, "freeze_norm", false);
    options->train_limit = esp_lua_field_integer(L, 2, "train_limit", 0);
    options->validation_limit = esp_lua_field_integer(L, 2, "limit", 0);
    options->mean = esp_lua_field_string(L, 2, "mean", NULL);
    options->std = esp_lua_field_string(L, 2, "std", NULL);
    options->seed = (uint64_t)esp_lua_field_integer(L, 2, "seed", 0);
    options->evaluates_first = esp_lua_field_boolean(L, 2, "measure_first", false);
}

static void push_train_result(lua_State *L, const esp_train_result *result)
{
    lua_createtable(L, 0, 7);
    esp_lua_set_integer(L, "epochs_done", result->epochs_done);
    esp_lua_set_integer(L, "best_epoch", result->best_epoch);
    esp_lua_set_integer(L, "steps", result->steps);
    esp_lua_set_number(L, "seconds", result->seconds);
    esp_lua_set_number(L, "images_per_s", result->images_per_s);
    esp_lua_push_eval(L, &result->best);
    lua_setfield(L, -2, "best");
    esp_lua_push_eval(L, &result->last);
    lua_setfield(L, -2, "last");
}

/* model:train{data=, validation=, epochs=, ...}: the best version, and a result table */
static int model_train(lua_State *L)
{
    const esp_graph *graph = graph_at(L, 1);
    esp_train_options options;
    esp_train_result result = {0};
    esp_error err = {0};
    luaL_checktype(L, 2, LUA_TTABLE);
    read_train_options(L, &options);
    const esp_dataset *data = esp_lua_field_data(L, 2, "data", true);
    const esp_dataset *validation = esp_lua_field_data(L, 2, "validation", true);
    training *it = push_training(L);
    /* on_epoch may empty the table: what training reads stays on the stack */
    static const char *const borrowed[] = {"data", "validation", "mean", "std"};
    for (size_t i = 0; i < sizeof borrowed / sizeof borrowed[0]; i++) {
        esp_lua_raw_field(L, 2, borrowed[i]);
    }
    if (esp_lua_raw_field(L, 2, "on_epoch") == LUA_TFUNCTION) {
        it->callback = lua_gettop(L);
        options.on_epoch = on_epoch;
        options.epoch_user = it;
    }
    if (!esp_lua_field_boolean(L, 2, "free_masks", false)) {
        esp_lua_check(L, esp_held_masks_of(graph, &it->masks, &err), &err);
        options.masks = it->masks.items;
        options.mask_count = it->masks.count;
    }
    esp_lua_model *model = esp_lua_new_model(L);
    esp_lua_check(
        L, esp_train(esp_lua_compute(L), graph, data, validation, &options, &model->graph, &result, &err),
        &err);
    push_train_result(L, &result);
    return 2;
}

/* ---- small things ---- */

/* model:difference(other [, seed]): largest absolute and relative output difference on random input */
static int model_difference(lua_State *L)
{
    double absolute = 0, relative = 0;
    esp_error err = {0};
    uint64_t seed = (uint64_t)luaL_optinteger(L, 3, 0);
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
    lua_pushstring(L, esp_graph_metadata(graph_at(L, 1), luaL_checkstring(L, 2)));
    return 1;
}

/* model:with_metadata(key, value): a new model; nil removes the key */
static int model_with_metadata(lua_State *L)
{
    const esp_graph *graph = graph_at(L, 1);
    const char *key = luaL_checkstring(L, 2);
    const char *value = luaL_optstring(L, 3, NULL);
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
    luaL_checktype(L, 2, LUA_TTABLE);
    esp_lua_check_keys(L, 2, keys);
    for (int pass = 0; pass < 2; pass++) {
        float *target = pass ? normalization.std : normalization.mean;
        esp_lua_raw_field(L, 2, keys[pass]);
        luaL_checktype(L, -1, LUA_TTABLE);
        int count = (int)lua_rawlen(L, -1);
        if (count < 1 || count > ESP_MAX_IMAGE_CHANNELS || (pass && count != normalization.channels)) {
            return esp_lua_fail(L, "%s: found %d numbers, expected one per channel (1 to %d)", keys[pass],
                                count, ESP_MAX_IMAGE_CHANNELS);
        }
        normalization.channels = count;
        for (int c = 0; c < count; c++) {
            lua_rawgeti(L, -1, c + 1);
            target[c] = (float)luaL_checknumber(L, -1);
            lua_pop(L, 1);
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
        {"saliency", model_saliency},
        {"evaluate", model_evaluate},
        {"bench", esp_lua_model_bench},
        {"preview", model_preview},
        {"train", model_train},
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
