/* espalier inspect: what a model is. Everything is found out first, as far as it can be; then one of the
 * forms is printed. A model that cannot run is still looked at: what follows from a node nobody can look
 * into is unknown, the rest is not. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/text.h"
#include "cli/common_options.h"
#include "cli/inspect.h"
#include "graph/op.h"
#include "graph/opaque.h"
#include "io/onnx.h"
#include "prune/counts.h"
#include "train/live_memory.h"

static void release(esp_inspection *it)
{
    esp_coupling_free(it->coupling);
    esp_free(it->fields);
    esp_layers_free(&it->layers);
    esp_inferred_free(it->two);
    esp_inferred_free(it->one);
    esp_graph_unref(it->graph);
}

/* ---- what the forms ask for ---- */

char *esp_inspect_shape(const esp_inspection *it, int value, char *buffer, size_t size)
{
    if (value >= 0 && esp_inspect_has_shape(it, value)) {
        return esp_shape_format_batch(it->one, it->two, value, buffer, size);
    }
    snprintf(buffer, size, "%s", value < 0 ? "" : "unknown");
    return buffer;
}

bool esp_inspect_has_shape(const esp_inspection *it, int value)
{
    const esp_shape *shape = esp_inferred_shape(it->one, value);
    return shape->rank >= 0 && esp_shape_elements(shape) >= 0;
}

double esp_inspect_bytes(const esp_inspection *it, int value)
{
    return (double)esp_shape_elements(esp_inferred_shape(it->one, value)) *
           (double)esp_dtype_size(esp_inferred_dtype(it->one, value));
}

const char *esp_inspect_operator(const esp_node *node)
{
    static const char own[] = ESP_OPAQUE_ONNX "::";
    const char *name = node->op->name;
    return strncmp(name, own, sizeof own - 1) == 0 ? name + sizeof own - 1 : name;
}

int esp_inspect_sets(const esp_inspection *it, const int32_t *slots, int64_t count, int *sets, int max)
{
    int found = 0;
    for (int64_t c = 0; it->coupling && slots && c < count && found < max; c++) {
        int set = slots[c] == ESP_SLOT_ZERO ? -1 : esp_coupling_slot_set(it->coupling, slots[c]);
        bool is_new = set >= 0;
        for (int i = 0; i < found; i++) {
            is_new = is_new && sets[i] != set;
        }
        if (is_new) {
            sets[found++] = set;
        }
    }
    return found;
}

int esp_inspect_layer_sets(const esp_inspection *it, int layer, int *sets, int max)
{
    const int32_t *slots = it->coupling ? esp_coupling_writes(it->coupling, layer) : NULL;
    return esp_inspect_sets(it, slots, it->layers.items[layer].filters, sets, max);
}

/* ---- finding out ---- */

/* Values that hold memory while the model runs. */
static bool is_computed(const esp_inspection *it, int value)
{
    const esp_value *facts = esp_graph_value(it->graph, value);
    return !facts->constant && !esp_inferred_constant(it->one, value);
}

static esp_status measure_memory(esp_inspection *it, esp_error *err)
{
    size_t live;
    it->has_memory = true;
    for (int v = 0; v < esp_graph_value_count(it->graph); v++) {
        if (!is_computed(it, v)) {
            continue;
        }
        it->has_memory = it->has_memory && esp_inspect_has_shape(it, v);
        it->value_bytes += it->has_memory ? esp_inspect_bytes(it, v) : 0.0;
    }
    esp_status status = it->has_memory ? esp_live_bytes(it->graph, it->one, &live, err) : ESP_OK;
    it->live_bytes = status == ESP_OK && it->has_memory ? (double)live : 0.0;
    return status;
}

static esp_status find_fields(esp_inspection *it, esp_error *err)
{
    size_t values = (size_t)esp_graph_value_count(it->graph);
    it->fields = esp_alloc_zero(values, sizeof *it->fields);
    if (!it->fields) {
        return esp_fail_memory(err, "receptive fields", values * sizeof *it->fields);
    }
    esp_receptive_fields(it->graph, it->one, it->fields);
    return ESP_OK;
}

/* Whether an input leaves more open than the batch. */
static bool has_open_sizes(const esp_graph *graph)
{
    for (int i = 0; i < esp_graph_input_count(graph); i++) {
        const esp_shape *shape = &esp_graph_value(graph, esp_graph_input(graph, i))->shape;
        bool is_open = shape->rank < 0;
        for (int d = 0; d < shape->rank; d++) {
            is_open = is_open || (shape->dims[d] < 0 && shape->dims[d] != ESP_DIM_BATCH);
        }
        if (is_open) {
            return true;
        }
    }
    return false;
}

static esp_status infer_twice(esp_inspection *it, const esp_option_list *items, esp_error *err)
{
    esp_input_shape shapes[ESP_CLI_INPUTS_MAX];
    esp_error ignored = {0};
    int count = 0;
    esp_status status = esp_cli_input_shapes(items, it->graph, shapes, &count, err);
    if (status == ESP_OK) {
        status = esp_infer(it->graph, 1, shapes, count, &it->one, err);
    }
    if (status == ESP_SHAPE && count == 0 && has_open_sizes(it->graph)) {
        it->run_error = *err; /* the first message says what to give */
        return esp_infer_declared(it->graph, 1, &it->one, err);
    }
    if (status == ESP_OK) {
        esp_infer(it->graph, 2, shapes, count, &it->two, &ignored); /* a fixed batch has no second size */
    }
    return status;
}

static esp_status load(esp_inspection *it, const esp_option_list *input_items, esp_error *err)
{
    esp_status status = esp_onnx_load(it->path, &it->graph, err);
    if (status == ESP_OK) {
        status = infer_twice(it, input_items, err);
    }
    if (status == ESP_OK) {
        status = esp_layers_list(it->graph, it->one, &it->layers, err);
    }
    if (status == ESP_OK) {
        status = esp_model_count(it->graph, it->one, &it->counts, err);
    }
    if (status == ESP_OK) {
        status = find_fields(it, err);
    }
    if (status == ESP_OK) {
        status = measure_memory(it, err);
    }
    if (status != ESP_OK) {
        return status;
    }
    int opaque = esp_graph_find_opaque(it->graph);
    if (opaque >= 0) {
        esp_opaque_fail(esp_graph_node(it->graph, opaque), &it->run_error);
    }
    status = esp_coupling_new(it->graph, it->one, &it->layers, &it->coupling, &it->coupling_error);
    return status == ESP_NO_MEMORY ? esp_fail(err, status, "%s", it->coupling_error.message) : ESP_OK;
}

/* ---- the command ---- */

/* Columns of the terminal, or what COLUMNS says; 0 when the output goes elsewhere. */
static size_t output_width(void)
{
    struct winsize size;
    int64_t columns;
    const char *given = getenv("COLUMNS");
    if (given && esp_parse_i64(given, &columns) && columns > 0) {
        return (size_t)columns;
    }
    return isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

typedef struct inspect_flags {
    esp_cli_common common;
    bool is_dot, wants_coupling, wants_operators;
} inspect_flags;

static esp_status print(const esp_inspection *it, const inspect_flags *flags, esp_error *err)
{
    if (flags->is_dot) {
        return esp_inspect_print_dot(it, err);
    }
    if (flags->wants_coupling) {
        return esp_inspect_print_coupling(it, flags->common.is_json, err);
    }
    return flags->common.is_json ? esp_inspect_print_json(it, err)
                                 : esp_inspect_print_table(it, output_width(), err);
}

static esp_status check(const inspect_flags *flags, int models, esp_error *err)
{
    if (flags->is_dot && (flags->common.is_json || flags->wants_coupling)) {
        return esp_fail(err, ESP_INVALID, "--dot goes with neither --json nor --coupling");
    }
    if (flags->wants_operators && (models > 0 || flags->is_dot || flags->wants_coupling)) {
        return esp_fail(err, ESP_INVALID,
                        "--operators is about the program: it takes no model, and only --json");
    }
    if (!flags->wants_operators && models == 0) {
        return esp_fail(err, ESP_INVALID,
                        "0 arguments given, expected: espalier inspect MODEL.onnx [options]");
    }
    return ESP_OK;
}

/* [MODEL.onnx] */
static esp_status run(esp_cli *cli, int count, char **items, void *context, esp_error *err)
{
    const inspect_flags *flags = context;
    esp_inspection it = {0};
    esp_status status = check(flags, count, err);
    (void)cli;
    if (status != ESP_OK) {
        return status;
    }
    if (flags->wants_operators) {
        return esp_inspect_print_operators(flags->common.is_json, err);
    }
    it.path = items[0];
    status = load(&it, &flags->common.inputs, err);
    if (status == ESP_OK) {
        status = print(&it, flags, err);
    }
    release(&it);
    return status;
}

esp_status esp_command_inspect(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    inspect_flags flags = {0};
    const esp_option options[] = {
        ESP_CLI_JSON(&flags.common, "one JSON object instead of the table"),
        {"dot", 0, ESP_OPTION_FLAG, &flags.is_dot, NULL,
         "a Graphviz graph, coloured by coupled sets: ... --dot | dot -Tsvg", 0, 0, 0},
        {"coupling", 0, ESP_OPTION_FLAG, &flags.wants_coupling, NULL,
         "which channels must go together, and why", 0, 0, 0},
        ESP_CLI_INPUT(&flags.common, "fix sizes the file leaves open, e.g. x:1x3x48x192"),
        {"operators", 0, ESP_OPTION_FLAG, &flags.wants_operators, NULL,
         "the ONNX operators this program knows, without a model", 0, 0, 0},
        {0},
    };
    const esp_command_syntax syntax = {
        "inspect",
        "Layers, shapes, parameters, multiply-accumulates, receptive fields and memory of a model.",
        "MODEL.onnx [options]",
        "  espalier inspect model.onnx --coupling",
        0,
        1,
        options,
        false};
    return esp_cli_run(cli, &syntax, argc, argv, run, &flags, err);
}
