/* espalier saliency: how much each filter of each layer matters. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "cli/common_options.h"
#include "cli/table.h"
#include "graph/layers.h"
#include "io/dataset.h"
#include "prune/criteria.h"

typedef struct saliency_request {
    esp_cli_common common;
    const char *criterion_name, *layer, *split;
    const esp_compute *compute;
    esp_cli_model model;
    esp_inferred *inferred;
    esp_layers layers;
    const esp_criterion *criterion;
    esp_dataset *dataset;
    esp_criterion_data data;
    double **scores; /* per layer; NULL where the criterion says nothing */
} saliency_request;

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void summary_row(esp_table *table, const esp_layer *layer, const double *scores)
{
    esp_table_cell(table, "%s", layer->name);
    esp_table_cell(table, "%lld", (long long)layer->filters);
    for (int i = 0; !scores && i < 6; i++) {
        esp_table_cell(table, "%s", "-");
    }
    if (!scores) {
        return;
    }
    double *sorted = esp_alloc((size_t)layer->filters, sizeof *sorted);
    double sum = 0;
    int64_t zeros = 0;
    if (!sorted) {
        return;
    }
    for (int64_t f = 0; f < layer->filters; f++) {
        sorted[f] = scores[f];
        sum += scores[f];
        zeros += scores[f] == 0;
    }
    qsort(sorted, (size_t)layer->filters, sizeof *sorted, compare_doubles);
    esp_table_cell(table, "%.4g", sorted[0]);
    esp_table_cell(table, "%.4g", esp_percentile(sorted, layer->filters, 25));
    esp_table_cell(table, "%.4g", esp_percentile(sorted, layer->filters, 50));
    esp_table_cell(table, "%.4g", sorted[layer->filters - 1]);
    esp_table_cell(table, "%.4g", sum / (double)layer->filters);
    esp_table_cell(table, "%lld", (long long)zeros);
    esp_free(sorted);
}

/* null where the criterion says nothing of the layer */
static json_t *layer_json(const esp_layer *layer, const double *scores)
{
    json_t *values = scores ? json_array() : json_null();
    for (int64_t f = 0; scores && f < layer->filters; f++) {
        json_array_append_new(values, esp_cli_json_real(scores[f]));
    }
    return json_pack("{s:o, s:o, s:o}", "name", esp_cli_json_text(layer->name), "weight",
                     esp_cli_json_text(layer->weight_name), "saliency", values);
}

/* One layer in full: every filter, weakest first, with a bar. */
static void print_filters(const esp_layer *layer, const double *scores)
{
    double largest = 0;
    bool *is_printed = esp_alloc_zero((size_t)layer->filters, sizeof *is_printed);
    for (int64_t f = 0; f < layer->filters; f++) {
        largest = fmax(largest, scores[f]);
    }
    for (int64_t rank = 0; is_printed && rank < layer->filters; rank++) {
        int64_t weakest = -1;
        for (int64_t f = 0; f < layer->filters; f++) {
            if (!is_printed[f] && (weakest < 0 || scores[f] < scores[weakest])) {
                weakest = f;
            }
        }
        is_printed[weakest] = true;
        int bar = largest > 0 ? (int)lround(40 * scores[weakest] / largest) : 0;
        printf("%5lld  %10.4g  %.*s\n", (long long)weakest, scores[weakest], bar,
               "########################################");
    }
    esp_free(is_printed);
}

static esp_status make_room(saliency_request *it, esp_error *err)
{
    it->scores = esp_alloc_zero((size_t)it->layers.count, sizeof *it->scores);
    return it->scores ? ESP_OK
                      : esp_fail_memory(err, "saliency", (size_t)it->layers.count * sizeof *it->scores);
}

/* One layer by a criterion that needs no data; else all of them, which takes one pass. */
static esp_status score(saliency_request *it, int only, esp_error *err)
{
    esp_status status = make_room(it, err);
    if (status != ESP_OK) {
        return status;
    }
    if (only < 0 || esp_criterion_needs_data(it->criterion)) {
        return esp_saliency_all(it->compute, it->model.graph, &it->layers, it->criterion,
                                it->dataset ? &it->data : NULL, (uint64_t)it->common.seed, it->scores, err);
    }
    const esp_layer *layer = &it->layers.items[only];
    it->scores[only] = esp_alloc((size_t)layer->filters, sizeof **it->scores);
    if (!it->scores[only]) {
        return esp_fail_memory(err, "saliency", (size_t)layer->filters * sizeof **it->scores);
    }
    return esp_saliency(it->compute, it->model.graph, layer, it->criterion, (uint64_t)it->common.seed,
                        it->scores[only], err);
}

/* {"criterion":.., "source":.., "definition":.., "layers":[..]}, and what data it was. */
static esp_status print_json(const saliency_request *it, json_t *take_layers, esp_error *err)
{
    json_t *object = json_pack("{s:s, s:s, s:s, s:b, s:o}", "criterion", it->criterion->name, "source",
                               it->criterion->source, "definition", it->criterion->definition,
                               "compares_layers", it->criterion->compares_layers, "layers", take_layers);
    if (object && esp_criterion_needs_data(it->criterion)) {
        json_object_set_new(object, "data", esp_cli_json_text(it->common.data));
        json_object_set_new(object, "images", json_integer(it->data.images));
        json_object_set_new(object, "seed", json_integer((json_int_t)it->common.seed));
    }
    return esp_cli_print_json(object, err);
}

static void print_heading(const saliency_request *it)
{
    printf("%s (%s)\nscore: %s\n%s\n", it->criterion->title, it->criterion->source, it->criterion->definition,
           it->criterion->compares_layers
               ? "compares across layers as it is"
               : "compares within a layer; across layers in units of each layer's mean");
    if (esp_criterion_needs_data(it->criterion)) {
        printf("on %lld images of %s, chosen by seed %llu\n", (long long)it->data.images, it->common.data,
               (unsigned long long)it->common.seed);
    }
    putchar('\n');
}

static esp_status print_all(saliency_request *it, esp_error *err)
{
    static const char *const headings[] = {"layer",  "filters", "least", "25 %",
                                           "median", "most",    "mean",  "zeros"};
    json_t *list = json_array();
    esp_table *table = esp_table_new("lrrrrrrr");
    esp_status status = score(it, -1, err);
    for (size_t i = 0; i < 8; i++) {
        esp_table_cell(table, "%s", headings[i]);
    }
    for (int i = 0; i < it->layers.count && status == ESP_OK; i++) {
        if (it->common.is_json) {
            json_array_append_new(list, layer_json(&it->layers.items[i], it->scores[i]));
        } else {
            summary_row(table, &it->layers.items[i], it->scores[i]);
        }
    }
    if (status == ESP_OK) {
        esp_cli_end_progress();
    }
    if (status == ESP_OK && it->common.is_json) {
        status = print_json(it, json_incref(list), err);
    } else if (status == ESP_OK) {
        print_heading(it);
        status = esp_table_print(table, err);
    }
    json_decref(list);
    esp_table_free(table);
    return status;
}

static esp_status print_one(saliency_request *it, const char *name, esp_error *err)
{
    int layer = -1;
    esp_status status = esp_layers_require(&it->layers, name, &layer, err);
    if (status == ESP_OK) {
        status = score(it, layer, err);
    }
    const double *scores = status == ESP_OK ? it->scores[layer] : NULL;
    if (status == ESP_OK && !scores) {
        status = esp_fail(err, ESP_UNSUPPORTED, "layer '%s': criterion '%s' says nothing of it (it is: %s)",
                          it->layers.items[layer].name, it->criterion->name, it->criterion->definition);
    }
    if (status != ESP_OK) {
        return status;
    }
    esp_cli_end_progress();
    if (it->common.is_json) {
        return print_json(it, json_pack("[o]", layer_json(&it->layers.items[layer], scores)), err);
    }
    printf("%s: ", it->layers.items[layer].name);
    print_heading(it);
    puts(" filter    saliency");
    print_filters(&it->layers.items[layer], scores);
    return ESP_OK;
}

static esp_status open_data(saliency_request *it, esp_error *err)
{
    bool is_test = strcmp(it->split, "test") == 0;
    if (!is_test && strcmp(it->split, "train") != 0) {
        return esp_fail(err, ESP_INVALID, "--split: found '%s', expected train or test", it->split);
    }
    it->data.mean = it->common.mean;
    it->data.std = it->common.std;
    if (!esp_criterion_needs_data(it->criterion) || !it->common.data) {
        return ESP_OK;
    }
    esp_status status = esp_dataset_open_for(it->common.data, is_test ? ESP_SPLIT_TEST : ESP_SPLIT_TRAIN,
                                             it->model.graph, &it->dataset, err);
    if (status == ESP_OK) {
        int64_t count = esp_dataset_count(it->dataset);
        it->data.dataset = it->dataset;
        it->data.images = it->data.images < count ? it->data.images : count;
        it->data.seed = (uint64_t)it->common.seed;
    }
    return status;
}

/* What there is to choose from, for the help. */
static void list_criteria(esp_text *names)
{
    for (int i = 0; i < esp_criterion_count(); i++) {
        esp_text_printf(names, "%s%s", i ? ", " : "one of ", esp_criterion_at(i)->name);
    }
}

static void release(saliency_request *it)
{
    for (int i = 0; it->scores && i < it->layers.count; i++) {
        esp_free(it->scores[i]);
    }
    esp_free(it->scores);
    esp_dataset_unref(it->dataset);
    esp_layers_free(&it->layers);
    esp_inferred_free(it->inferred);
    esp_cli_model_close(&it->model);
}

static esp_status look(esp_cli *cli, saliency_request *it, const char *path, esp_error *err)
{
    esp_status status = esp_criterion_find(it->criterion_name, &it->criterion, err);
    if (status == ESP_OK) {
        status = esp_cli_model_open(cli, &it->common, path, &it->model, err);
    }
    if (status == ESP_OK) {
        status = open_data(it, err);
    }
    if (status == ESP_OK) {
        status = esp_infer(it->model.graph, 1, it->model.shapes, it->model.shape_count, &it->inferred, err);
    }
    if (status == ESP_OK) {
        status = esp_layers_list(it->model.graph, it->inferred, &it->layers, err);
    }
    if (status == ESP_OK) {
        status = it->layer ? print_one(it, it->layer, err) : print_all(it, err);
    }
    return status;
}

/* MODEL.onnx */
static esp_status run(esp_cli *cli, int count, char **items, void *context, esp_error *err)
{
    saliency_request *it = context;
    esp_status status = look(cli, it, items[0], err);
    (void)count;
    release(it);
    return status;
}

esp_status esp_command_saliency(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    saliency_request it = {.compute = &cli->compute,
                           .data = {.images = ESP_CALIBRATION_IMAGES},
                           .criterion_name = "l1",
                           .split = "train"};
    esp_text names = {0};
    char data_help[128];
    list_criteria(&names);
    const esp_option options[] = {
        {"criterion", 'c', ESP_OPTION_TEXT, &it.criterion_name, "NAME", names.data ? names.data : "criterion",
         0, 0, 0},
        {"layer", 'l', ESP_OPTION_TEXT, &it.layer, "NAME", "every filter of one layer", 0, 0, 0},
        ESP_CLI_DATA(&it.common, esp_cli_data_help(data_help, sizeof data_help)),
        {"calibrate", 0, ESP_OPTION_INT, &it.data.images, "N", "class-balanced images of it (default 256)", 1,
         1e9, 0},
        {"split", 0, ESP_OPTION_TEXT, &it.split, "NAME", "images for training (train, default) or test", 0, 0,
         0},
        {"batch", 'b', ESP_OPTION_INT, &it.data.batch, "N", "images at once (default: what memory allows)", 1,
         65536, 0},
        ESP_CLI_MEAN(&it.common, "normalisation instead of the model's own"),
        ESP_CLI_STD(&it.common, "likewise"),
        ESP_CLI_SEED(&it.common, "chooses the images, and the random criterion's numbers"),
        ESP_CLI_INPUT(&it.common, "fix sizes the file leaves open"),
        ESP_CLI_MACHINE(cli, &it.common),
        ESP_CLI_JSON(&it.common, "one JSON object instead of the table"),
        {0},
    };
    const esp_command_syntax syntax = {
        "saliency",
        "How much each filter matters, by a criterion. Higher is more important.",
        "MODEL.onnx [options]",
        "  espalier saliency model.onnx --criterion fpgm --layer conv1\n"
        "  espalier saliency model.onnx --criterion taylor --data fashion-mnist --calibrate 512",
        1,
        1,
        options,
        false};
    esp_status status = esp_cli_run(cli, &syntax, argc, argv, run, &it, err);
    esp_text_free(&names);
    return status;
}
