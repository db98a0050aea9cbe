/* espalier saliency: how much each filter of each layer matters. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/inputs.h"
#include "cli/table.h"
#include "graph/layers.h"
#include "io/onnx.h"
#include "prune/criteria.h"

typedef struct saliency_request {
    const esp_compute *compute;
    esp_graph *graph;
    esp_inferred *inferred;
    esp_layers layers;
    const esp_criterion *criterion;
    uint64_t seed;
    bool is_json;
} saliency_request;

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void summary_row(esp_table *table, const esp_layer *layer, const double *scores)
{
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
    esp_table_cell(table, "%s", layer->name);
    esp_table_cell(table, "%lld", (long long)layer->filters);
    esp_table_cell(table, "%.4g", sorted[0]);
    esp_table_cell(table, "%.4g", esp_percentile(sorted, layer->filters, 25));
    esp_table_cell(table, "%.4g", esp_percentile(sorted, layer->filters, 50));
    esp_table_cell(table, "%.4g", sorted[layer->filters - 1]);
    esp_table_cell(table, "%.4g", sum / (double)layer->filters);
    esp_table_cell(table, "%lld", (long long)zeros);
    esp_free(sorted);
}

static json_t *layer_json(const esp_layer *layer, const double *scores)
{
    json_t *values = json_array();
    for (int64_t f = 0; f < layer->filters; f++) {
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

static esp_status fail_unknown_layer(const esp_layers *layers, const char *name, esp_error *err)
{
    esp_status status =
        esp_fail(err, ESP_INVALID, "the model has no layer '%s' (it has %d)", name, layers->count);
    const char **names = esp_alloc((size_t)layers->count + 1, sizeof *names);
    for (int i = 0; names && i < layers->count; i++) {
        names[i] = layers->items[i].name;
    }
    const char *nearest = names ? esp_nearest_word(name, names, (size_t)layers->count) : NULL;
    if (nearest) {
        esp_error_set_hint(err, "did you mean '%s'?", nearest);
    }
    esp_free(names);
    return status;
}

static esp_status score(const saliency_request *it, int layer, double **out, esp_error *err)
{
    const esp_layer *item = &it->layers.items[layer];
    *out = esp_alloc((size_t)item->filters, sizeof **out);
    if (!*out) {
        return esp_fail_memory(err, "saliency", (size_t)item->filters * sizeof **out);
    }
    return esp_saliency(it->compute, it->graph, item, it->criterion, it->seed, *out, err);
}

static esp_status print_all(const saliency_request *it, esp_error *err)
{
    esp_status status = ESP_OK;
    json_t *list = json_array();
    esp_table *table = esp_table_new("lrrrrrrr");
    static const char *const headings[] = {"layer",  "filters", "least", "25 %",
                                           "median", "most",    "mean",  "zeros"};
    for (size_t i = 0; i < 8; i++) {
        esp_table_cell(table, "%s", headings[i]);
    }
    for (int i = 0; i < it->layers.count && status == ESP_OK; i++) {
        double *scores = NULL;
        status = score(it, i, &scores, err);
        if (status == ESP_OK && it->is_json) {
            json_array_append_new(list, layer_json(&it->layers.items[i], scores));
        } else if (status == ESP_OK) {
            summary_row(table, &it->layers.items[i], scores);
        }
        esp_free(scores);
    }
    if (status == ESP_OK && it->is_json) {
        status = esp_cli_print_json(json_pack("{s:s, s:O}", "criterion", it->criterion->name, "layers", list),
                                    err);
    } else if (status == ESP_OK) {
        printf("%s (%s)\n\n", it->criterion->title, it->criterion->source);
        status = esp_table_print(table, err);
    }
    json_decref(list);
    esp_table_free(table);
    return status;
}

static esp_status print_one(const saliency_request *it, const char *name, esp_error *err)
{
    int layer = esp_layers_find(&it->layers, name);
    double *scores = NULL;
    if (layer < 0) {
        return fail_unknown_layer(&it->layers, name, err);
    }
    esp_status status = score(it, layer, &scores, err);
    if (status == ESP_OK && it->is_json) {
        status = esp_cli_print_json(json_pack("{s:s, s:[o]}", "criterion", it->criterion->name, "layers",
                                              layer_json(&it->layers.items[layer], scores)),
                                    err);
    } else if (status == ESP_OK) {
        printf("%s: %s\n\n filter    saliency\n", it->layers.items[layer].name, it->criterion->title);
        print_filters(&it->layers.items[layer], scores);
    }
    esp_free(scores);
    return status;
}

esp_status esp_command_saliency(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    const char *criterion = "l1";
    const char *layer = NULL;
    int64_t seed = 0, threads = 0;
    bool is_done = false;
    saliency_request it = {.compute = &cli->compute};
    esp_option_list inputs = {0};
    esp_text names = {0};
    for (int i = 0; i < esp_criterion_count(); i++) {
        esp_text_printf(&names, "%s%s", i ? ", " : "one of ", esp_criterion_at(i)->name);
    }
    const esp_option options[] = {
        {"criterion", 'c', ESP_OPTION_TEXT, &criterion, "NAME", names.data ? names.data : "criterion", 0, 0,
         0},
        {"layer", 'l', ESP_OPTION_TEXT, &layer, "NAME", "every filter of one layer", 0, 0, 0},
        {"seed", 0, ESP_OPTION_INT, &seed, "N", "for the random criterion", 0, 1e15, 0},
        {"input", 0, ESP_OPTION_LIST, &inputs, "NAME:SHAPE", "fix sizes the file leaves open", 0, 0, 0},
        {"threads", 't', ESP_OPTION_INT, &threads, "N", "default: all cores", 1, 1024, 0},
        {"json", 0, ESP_OPTION_FLAG, &it.is_json, NULL, "one JSON object instead of the table", 0, 0, 0},
        {0},
    };
    const esp_command_syntax syntax = {"saliency",
                                       "How much each filter matters, by a criterion.",
                                       "MODEL.onnx [options]",
                                       "  espalier saliency model.onnx --criterion fpgm --layer conv1",
                                       1,
                                       1,
                                       options,
                                       false};
    char *items[argc + 1];
    esp_input_shape shapes[ESP_CLI_INPUTS_MAX];
    int shape_count = 0;
    esp_positionals positionals = {0, items};
    esp_status status = esp_cli_parse(&syntax, argc, argv, &positionals, &is_done, err);
    esp_text_free(&names);
    if (status != ESP_OK || is_done) {
        return status;
    }
    it.seed = (uint64_t)seed;
    status = esp_cli_start(cli, threads, err);
    if (status == ESP_OK) {
        status = esp_criterion_find(criterion, &it.criterion, err);
    }
    if (status == ESP_OK) {
        status = esp_onnx_load(positionals.items[0], &it.graph, err);
    }
    if (status == ESP_OK) {
        status = esp_cli_input_shapes(&inputs, it.graph, shapes, &shape_count, err);
    }
    if (status == ESP_OK) {
        status = esp_infer(it.graph, 1, shapes, shape_count, &it.inferred, err);
    }
    if (status == ESP_OK) {
        status = esp_layers_list(it.graph, it.inferred, &it.layers, err);
    }
    if (status == ESP_OK) {
        status = layer ? print_one(&it, layer, err) : print_all(&it, err);
    }
    esp_layers_free(&it.layers);
    esp_inferred_free(it.inferred);
    esp_graph_unref(it.graph);
    return status;
}
