/* What looks at images, in Lua: saliency by any criterion, batch-norm statistics measured again, and
 * least-squares reconstruction. */
#include <string.h>

#include "base/memory.h"
#include "prune/criteria.h"
#include "prune/reconstruct.h"
#include "script/binding.h"
#include "train/recalibrate.h"

/* Scores of all layers with what they were found from, released together. */
typedef struct score_list {
    esp_inferred *inferred;
    esp_layers layers;
    double **scores;
} score_list;

static int score_list_free(lua_State *L)
{
    score_list *it = lua_touserdata(L, 1);
    for (int l = 0; it->scores && l < it->layers.count; l++) {
        esp_free(it->scores[l]);
    }
    esp_free(it->scores);
    esp_layers_free(&it->layers);
    esp_inferred_free(it->inferred);
    *it = (score_list){0};
    return 0;
}

static esp_status open_list(score_list *it, const esp_graph *graph, esp_error *err)
{
    esp_status status = esp_infer(graph, 1, NULL, 0, &it->inferred, err);
    if (status == ESP_OK) {
        status = esp_layers_list(graph, it->inferred, &it->layers, err);
    }
    if (status == ESP_OK) {
        it->scores = esp_alloc_zero((size_t)it->layers.count, sizeof *it->scores);
        status = it->scores ? ESP_OK : esp_fail_memory(err, "saliency", sizeof *it->scores);
    }
    return status;
}

static score_list *push_list(lua_State *L, const esp_graph *graph)
{
    esp_error err = {0};
    score_list *it = lua_newuserdatauv(L, sizeof *it, 0);
    *it = (score_list){0};
    if (luaL_newmetatable(L, "espalier.scores")) {
        lua_pushcfunction(L, score_list_free);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    esp_lua_check(L, open_list(it, graph, &err), &err);
    return it;
}

/* nil where the criterion says nothing. */
static void push_scores(lua_State *L, const score_list *list, int layer)
{
    if (!list->scores[layer]) {
        lua_pushnil(L);
        return;
    }
    lua_createtable(L, (int)list->layers.items[layer].filters, 0);
    for (int64_t f = 0; f < list->layers.items[layer].filters; f++) {
        lua_pushnumber(L, list->scores[layer][f]);
        lua_rawseti(L, -2, f + 1);
    }
}

/* What model:saliency was asked. */
typedef struct saliency_call {
    const char *layer, *criterion;
    esp_criterion_data data;
    uint64_t seed;
} saliency_call;

static saliency_call read_call(lua_State *L)
{
    static const char *const keys[] = {"criterion", "layer", "data", "images", "batch",
                                       "seed",      "mean",  "std",  NULL};
    saliency_call call = {.criterion = "l1"};
    if (!lua_istable(L, 2)) { /* saliency(layer, criterion, seed) */
        const char *criterion = esp_lua_optional_string(L, 3);
        call.layer = esp_lua_check_string(L, 2);
        call.criterion = criterion ? criterion : call.criterion;
        call.seed = (uint64_t)esp_lua_optional_integer(L, 4, 0);
        return call;
    }
    esp_lua_check_keys(L, 2, keys);
    call.layer = esp_lua_field_string(L, 2, "layer", NULL);
    call.criterion = esp_lua_field_string(L, 2, "criterion", "l1");
    call.seed = (uint64_t)esp_lua_field_integer(L, 2, "seed", 0);
    call.data = (esp_criterion_data){.dataset = esp_lua_field_data(L, 2, "data", false),
                                     .images = esp_lua_field_integer(L, 2, "images", 0),
                                     .batch = esp_lua_field_integer(L, 2, "batch", 0),
                                     .mean = esp_lua_field_string(L, 2, "mean", NULL),
                                     .std = esp_lua_field_string(L, 2, "std", NULL),
                                     .seed = call.seed};
    return call;
}

static esp_status score(lua_State *L, const esp_graph *graph, const saliency_call *call,
                        const esp_criterion *criterion, int layer, score_list *list, esp_error *err)
{
    if (layer < 0 || esp_criterion_needs_data(criterion)) {
        return esp_saliency_all(esp_lua_compute(L), graph, &list->layers, criterion,
                                call->data.dataset ? &call->data : NULL, call->seed, list->scores, err);
    }
    const esp_layer *item = &list->layers.items[layer];
    list->scores[layer] = esp_alloc((size_t)item->filters, sizeof **list->scores);
    return list->scores[layer] ? esp_saliency(esp_lua_compute(L), graph, item, criterion, call->seed,
                                              list->scores[layer], err)
                               : esp_fail_memory(err, "saliency", (size_t)item->filters * sizeof(double));
}

/* model:saliency{criterion=, layer=, data=, images=, batch=, seed=, mean=, std=}: a list of scores for each
 * layer, by its name; with `layer`, or as model:saliency(layer [, criterion [, seed]]), that layer's list
 * alone. */
static int model_saliency(lua_State *L)
{
    const esp_graph *graph = esp_lua_model_at(L, 1)->graph;
    const saliency_call call = read_call(L);
    const esp_criterion *criterion = NULL;
    esp_error err = {0};
    esp_lua_check(L, esp_criterion_find(call.criterion, &criterion, &err), &err);
    score_list *list = push_list(L, graph);
    int layer = call.layer ? esp_layers_find(&list->layers, call.layer) : -1;
    if (call.layer && layer < 0) {
        return esp_lua_fail(L, "the model has no layer '%s'", call.layer);
    }
    esp_lua_check(L, score(L, graph, &call, criterion, layer, list, &err), &err);
    if (layer >= 0) {
        push_scores(L, list, layer);
        return 1;
    }
    lua_createtable(L, 0, list->layers.count);
    for (int l = 0; l < list->layers.count; l++) {
        push_scores(L, list, l);
        lua_setfield(L, -2, list->layers.items[l].name);
    }
    return 1;
}

/* criteria(): what there is, as a list of {name=, title=, source=, definition=, needs_data=}. */
static int list_criteria(lua_State *L)
{
    lua_createtable(L, esp_criterion_count(), 0);
    for (int i = 0; i < esp_criterion_count(); i++) {
        const esp_criterion *criterion = esp_criterion_at(i);
        lua_createtable(L, 0, 5);
        esp_lua_set_string(L, "name", criterion->name);
        esp_lua_set_string(L, "title", criterion->title);
        esp_lua_set_string(L, "source", criterion->source);
        esp_lua_set_string(L, "definition", criterion->definition);
        esp_lua_set_boolean(L, "needs_data", esp_criterion_needs_data(criterion));
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* model:recalibrate{data=, images=, batch=, seed=, mean=, std=}: a new model whose batch-norm statistics were
 * measured again, and {images=, batches=, norms=, seconds=}; norms 0: it has none and is the same. */
static int model_recalibrate(lua_State *L)
{
    static const char *const keys[] = {"data", "images", "batch", "seed", "mean", "std", NULL};
    const esp_graph *graph = esp_lua_model_at(L, 1)->graph;
    esp_recalibrate_result result = {0};
    esp_error err = {0};
    esp_lua_check_type(L, 2, LUA_TTABLE);
    esp_lua_check_keys(L, 2, keys);
    const esp_dataset *data = esp_lua_field_data(L, 2, "data", true);
    const esp_recalibrate_options options = {.images = esp_lua_field_integer(L, 2, "images", 0),
                                             .batch = esp_lua_field_integer(L, 2, "batch", 0),
                                             .seed = (uint64_t)esp_lua_field_integer(L, 2, "seed", 0),
                                             .mean = esp_lua_field_string(L, 2, "mean", NULL),
                                             .std = esp_lua_field_string(L, 2, "std", NULL)};
    esp_lua_model *model = esp_lua_new_model(L);
    esp_lua_check(L, esp_recalibrate(esp_lua_compute(L), graph, data, &options, &model->graph, &result, &err),
                  &err);
    lua_createtable(L, 0, 4);
    esp_lua_set_integer(L, "images", result.images);
    esp_lua_set_integer(L, "batches", result.batches);
    esp_lua_set_integer(L, "norms", result.norms);
    esp_lua_set_number(L, "seconds", result.seconds);
    return 2;
}

/* ---- reconstruction ---- */

typedef struct solution {
    esp_graph *masked;
    esp_reconstruct_report report;
} solution;

static int solution_free(lua_State *L)
{
    solution *it = lua_touserdata(L, 1);
    esp_graph_unref(it->masked);
    esp_reconstruct_report_free(&it->report);
    *it = (solution){0};
    return 0;
}

static solution *push_solution(lua_State *L)
{
    solution *it = lua_newuserdatauv(L, sizeof *it, 0);
    *it = (solution){0};
    if (luaL_newmetatable(L, "espalier.solution")) {
        lua_pushcfunction(L, solution_free);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return it;
}

static void push_report(lua_State *L, const esp_reconstruct_report *report, const esp_preview *preview)
{
    lua_createtable(L, 0, 3);
    esp_lua_set_integer(L, "images", report->images);
    esp_lua_set_number(L, "seconds", report->seconds);
    lua_createtable(L, report->count, 0);
    for (int i = 0; i < report->count; i++) {
        const esp_reconstruct_layer *item = &report->layers[i];
        lua_createtable(L, 0, 6);
        esp_lua_set_string(L, "name", preview->layers.items[item->layer].name);
        esp_lua_set_integer(L, "unknowns", item->unknowns);
        esp_lua_set_integer(L, "samples", item->samples);
        if (item->samples) {
            esp_lua_set_number(L, "error_before", item->error_before);
            esp_lua_set_number(L, "error_after", item->error_after);
        } else {
            esp_lua_set_string(L, "left_for", item->reason);
        }
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "layers");
}

/* preview:reconstruct{data=, images=, positions=, ridge=, seed=, mean=, std=, masked=,
 * form="grouped"|"dense"}: the cut model (masked=true: the masked one) with layers solved for their old
 * outputs, and {images=, seconds=, layers={{name=, unknowns=, samples=, error_before=, error_after=}, ...}}.
 */
static int preview_reconstruct(lua_State *L)
{
    static const char *const keys[] = {"data", "images", "positions", "ridge", "seed",
                                       "mean", "std",    "masked",    "form",  NULL};
    esp_preview **box = esp_lua_check_userdata(L, 1, ESP_LUA_PREVIEW);
    esp_surgery_options surgery = esp_surgery_defaults();
    esp_error err = {0};
    esp_lua_check_argument(L, *box != NULL, 1, "this preview has been released");
    esp_lua_check_type(L, 2, LUA_TTABLE);
    esp_lua_check_keys(L, 2, keys);
    const esp_reconstruct_options options = {.dataset = esp_lua_field_data(L, 2, "data", true),
                                             .images = esp_lua_field_integer(L, 2, "images", 0),
                                             .positions = esp_lua_field_integer(L, 2, "positions", 0),
                                             .ridge = esp_lua_field_number(L, 2, "ridge", 0),
                                             .seed = (uint64_t)esp_lua_field_integer(L, 2, "seed", 0),
                                             .mean = esp_lua_field_string(L, 2, "mean", NULL),
                                             .std = esp_lua_field_string(L, 2, "std", NULL)};
    const char *form = esp_lua_field_string(L, 2, "form", "grouped");
    if (strcmp(form, "grouped") != 0 && strcmp(form, "dense") != 0) {
        return esp_lua_fail(L, "form: found '%s', expected grouped or dense", form);
    }
    surgery.group_form = strcmp(form, "dense") == 0 ? ESP_GROUP_FORM_DENSE : ESP_GROUP_FORM_GROUPED;
    bool is_masked = esp_lua_field_boolean(L, 2, "masked", false);
    solution *it = push_solution(L);
    esp_lua_check(L, esp_reconstruct(esp_lua_compute(L), *box, &options, &it->masked, &it->report, &err),
                  &err);
    esp_lua_model *model = esp_lua_new_model(L);
    if (is_masked) {
        model->graph = esp_graph_ref(it->masked);
    } else {
        esp_lua_check(
            L, esp_reconstruct_cut(esp_lua_compute(L), *box, it->masked, &surgery, &model->graph, NULL, &err),
            &err);
    }
    push_report(L, &it->report, *box);
    return 2;
}

static void add_methods(lua_State *L, const char *class, const luaL_Reg *methods)
{
    luaL_getmetatable(L, class);
    lua_getfield(L, -1, "__index");
    luaL_setfuncs(L, methods, 0);
    lua_pop(L, 2);
}

void esp_lua_open_calibrate(lua_State *L)
{
    static const luaL_Reg model_methods[] = {
        {"saliency", model_saliency}, {"recalibrate", model_recalibrate}, {NULL, NULL}};
    static const luaL_Reg preview_methods[] = {{"reconstruct", preview_reconstruct}, {NULL, NULL}};
    add_methods(L, ESP_LUA_MODEL, model_methods);
    add_methods(L, ESP_LUA_PREVIEW, preview_methods);
    lua_pushcfunction(L, list_criteria);
    lua_setfield(L, -2, "criteria");
}
