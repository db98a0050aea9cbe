/* espalier compare: two models side by side. */
#include <math.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/text.h"
#include "cli/common_options.h"
#include "cli/table.h"
#include "graph/layers.h"
#include "io/dataset.h"
#include "io/onnx.h"
#include "prune/counts.h"
#include "prune/surgery.h"
#include "train/evaluate.h"

typedef struct side {
    const char *path;
    esp_graph *graph;
    esp_input_shape shapes[ESP_CLI_INPUTS_MAX];
    int shape_count;
    double file_bytes;
    esp_counts counts;
    esp_latency_result latency;
    esp_eval_result eval; /* images 0 without --data */
} side;

typedef struct comparison {
    side sides[2];
    bool has_difference; /* false when the models' inputs or outputs cannot be compared */
    double largest_absolute, largest_relative;
    char why_not[160];
} comparison;

static esp_status open_side(side *it, const esp_option_list *inputs, esp_error *err)
{
    esp_inferred *inferred = NULL;
    struct stat info;
    it->file_bytes = stat(it->path, &info) == 0 ? (double)info.st_size : 0;
    esp_status status = esp_onnx_load(it->path, &it->graph, err);
    if (status == ESP_OK) {
        status = esp_cli_input_shapes(inputs, it->graph, it->shapes, &it->shape_count, err);
    }
    if (status == ESP_OK) {
        status = esp_infer(it->graph, 1, it->shapes, it->shape_count, &inferred, err);
    }
    if (status == ESP_OK) {
        status = esp_model_count(it->graph, inferred, &it->counts, err);
    }
    esp_inferred_free(inferred);
    return status;
}

/* In turns: the machine may be slower at one time than at another. */
static esp_status measure_latencies(esp_cli *cli, comparison *it, int64_t batch, esp_error *err)
{
    esp_latency_subject subjects[2];
    esp_latency_result results[2];
    for (int i = 0; i < 2; i++) {
        side *from = &it->sides[i];
        subjects[i] = (esp_latency_subject){.graph = from->graph,
                                            .options = {.batch = batch,
                                                        .input_shapes = from->shapes,
                                                        .input_shape_count = from->shape_count}};
    }
    esp_status status = esp_measure_latencies(&cli->compute, subjects, 2, results, err);
    for (int i = 0; status == ESP_OK && i < 2; i++) {
        it->sides[i].latency = results[i];
    }
    return status;
}

/* Models with other inputs are still worth comparing by size and speed. */
static esp_status measure_difference(esp_cli *cli, comparison *it, esp_error *err)
{
    const side *a = &it->sides[0];
    esp_status status =
        esp_compare_outputs(&cli->compute, a->graph, it->sides[1].graph, a->shapes, a->shape_count, 1, 0,
                            &it->largest_absolute, &it->largest_relative, err);
    it->has_difference = status == ESP_OK;
    snprintf(it->why_not, sizeof it->why_not, "%.150s", err->message);
    return status == ESP_CANCELLED ? status : ESP_OK;
}

static void row(esp_table *table, const char *name, const char *a, const char *b, double from, double to)
{
    esp_table_cell(table, "%s", name);
    esp_table_cell(table, "%s", a);
    esp_table_cell(table, "%s", b);
    if (from > 0) {
        esp_table_cell(table, "%.3fx", to / from);
    } else {
        esp_table_cell(table, "%s", "");
    }
}

static esp_status print_people(const comparison *it, esp_error *err)
{
    const side *a = &it->sides[0], *b = &it->sides[1];
    char left[48], right[48];
    esp_table *table = esp_table_new("lrrr");
    row(table, "", "A", "B", 0, 0);
    row(table, "file", esp_format_bytes(left, sizeof left, a->file_bytes),
        esp_format_bytes(right, sizeof right, b->file_bytes), a->file_bytes, b->file_bytes);
    row(table, "params", esp_format_count(left, sizeof left, (double)a->counts.params),
        esp_format_count(right, sizeof right, (double)b->counts.params), (double)a->counts.params,
        (double)b->counts.params);
    row(table, "MACs", esp_format_count(left, sizeof left, (double)a->counts.macs),
        esp_format_count(right, sizeof right, (double)b->counts.macs), (double)a->counts.macs,
        (double)b->counts.macs);
    row(table, "latency", esp_format_duration(left, sizeof left, a->latency.median_ms / 1000),
        esp_format_duration(right, sizeof right, b->latency.median_ms / 1000), a->latency.median_ms,
        b->latency.median_ms);
    if (a->eval.images > 0) {
        row(table, "top-1", esp_cli_accuracy_text(&a->eval, left, sizeof left),
            esp_cli_accuracy_text(&b->eval, right, sizeof right), 0, 0);
        snprintf(left, sizeof left, "%.4f", a->eval.loss);
        snprintf(right, sizeof right, "%.4f", b->eval.loss);
        row(table, "loss", left, right, 0, 0);
    }
    esp_cli_end_progress();
    printf("A  %s\nB  %s\n\n", a->path, b->path);
    esp_status status = esp_table_print(table, err);
    esp_table_free(table);
    if (it->has_difference) {
        printf("\nlargest output difference on random input: %.3g absolute, %.3g relative\n",
               it->largest_absolute, it->largest_relative);
    } else {
        printf("\noutputs not compared: %s\n", it->why_not);
    }
    return status;
}

static json_t *side_json(const side *it)
{
    json_t *object = json_pack("{s:o, s:f, s:I, s:I, s:f, s:f, s:f}", "model", esp_cli_json_text(it->path),
                               "file_bytes", it->file_bytes, "params", (json_int_t)it->counts.params, "macs",
                               (json_int_t)it->counts.macs, "paper_params", it->counts.paper_params,
                               "paper_macs", it->counts.paper_macs, "median_ms", it->latency.median_ms);
    if (object && it->eval.images > 0) {
        json_object_set_new(object, "eval", esp_cli_eval_json(&it->eval));
    }
    return object;
}

static esp_status print_json(const comparison *it, esp_error *err)
{
    json_t *object = json_pack("{s:o, s:o}", "a", side_json(&it->sides[0]), "b", side_json(&it->sides[1]));
    if (object && it->has_difference) {
        json_object_set_new(object, "largest_absolute", esp_cli_json_real(it->largest_absolute));
        json_object_set_new(object, "largest_relative", esp_cli_json_real(it->largest_relative));
    }
    return esp_cli_print_json(object, err);
}

typedef struct compare_request {
    esp_cli_common common;
    esp_eval_options eval;
    int64_t batch;
} compare_request;

/* A.onnx B.onnx */
static esp_status run(esp_cli *cli, int count, char **items, void *context, esp_error *err)
{
    compare_request *request = context;
    comparison it = {0};
    esp_dataset *dataset = NULL;
    esp_status status = esp_cli_start(cli, request->common.threads, err);
    (void)count;
    request->eval.mean = request->common.mean;
    request->eval.std = request->common.std;
    for (int i = 0; i < 2 && status == ESP_OK; i++) {
        it.sides[i].path = items[i];
        status = open_side(&it.sides[i], &request->common.inputs, err);
    }
    if (status == ESP_OK && request->common.data) {
        status = esp_dataset_open_for(request->common.data, ESP_SPLIT_TEST, it.sides[0].graph, &dataset, err);
    }
    if (status == ESP_OK) {
        status = measure_latencies(cli, &it, request->batch, err);
    }
    for (int i = 0; i < 2 && status == ESP_OK && dataset; i++) {
        side *from = &it.sides[i];
        status = esp_evaluate(&cli->compute, from->graph, dataset, &request->eval, &from->eval, err);
    }
    if (status == ESP_OK) {
        status = measure_difference(cli, &it, err);
    }
    if (status == ESP_OK) {
        status = request->common.is_json ? print_json(&it, err) : print_people(&it, err);
    }
    esp_dataset_unref(dataset);
    esp_graph_unref(it.sides[0].graph);
    esp_graph_unref(it.sides[1].graph);
    return status;
}

esp_status esp_command_compare(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    compare_request it = {.batch = 1};
    const esp_option options[] = {
        ESP_CLI_DATA(&it.common, "compare accuracy on this dataset too"),
        {"limit", 'n', ESP_OPTION_INT, &it.eval.limit, "N", "first N images only", 1, 1e9, 0},
        {"batch", 'b', ESP_OPTION_INT, &it.batch, "N", "images per timed run (default 1)", 1, 65536, 0},
        ESP_CLI_MEAN(&it.common, "normalisation: mean of x/255 per channel"),
        ESP_CLI_STD(&it.common, "normalisation: standard deviation"),
        ESP_CLI_INPUT(&it.common, "fix sizes the files leave open"),
        ESP_CLI_MACHINE(cli, &it.common),
        ESP_CLI_JSON(&it.common, "one JSON object instead of the table"),
        {0},
    };
    const esp_command_syntax syntax = {"compare",
                                       "Two models side by side: size, MACs, latency, accuracy, outputs.",
                                       "A.onnx B.onnx [options]",
                                       "  espalier compare model.onnx smaller.onnx --data fashion-mnist",
                                       2,
                                       2,
                                       options,
                                       false};
    return esp_cli_run(cli, &syntax, argc, argv, run, &it, err);
}
