/* espalier inspect: what a model is. */
#include <stdio.h>

#include "base/memory.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/inputs.h"
#include "cli/table.h"
#include "graph/exec.h"
#include "graph/layers.h"
#include "graph/op.h"
#include "io/onnx.h"
#include "prune/counts.h"
#include "prune/coupling.h"

/* Everything the three forms of output (table, JSON, coupling) read. */
typedef struct inspection {
    const char *path;
    esp_graph *graph;
    esp_inferred *one,
        *two; /* at batch 1 and 2: dims that follow the batch print its name; two may be NULL */
    esp_layers layers;
    esp_counts counts;
} inspection;

static void release(inspection *it)
{
    esp_layers_free(&it->layers);
    esp_inferred_free(it->two);
    esp_inferred_free(it->one);
    esp_graph_unref(it->graph);
}

static esp_status load(inspection *it, const esp_option_list *input_items, esp_error *err)
{
    esp_input_shape shapes[ESP_CLI_INPUTS_MAX];
    int shape_count = 0;
    esp_status status = esp_onnx_load(it->path, &it->graph, err);
    if (status == ESP_OK) {
        status = esp_cli_input_shapes(input_items, it->graph, shapes, &shape_count, err);
    }
    if (status == ESP_OK) {
        status = esp_infer(it->graph, 1, shapes, shape_count, &it->one, err);
    }
    if (status == ESP_OK) {
        esp_error ignored = {0};
        esp_infer(it->graph, 2, shapes, shape_count, &it->two,
                  &ignored); /* a fixed batch has no second size */
        status = esp_layers_list(it->graph, it->one, &it->layers, err);
    }
    if (status == ESP_OK) {
        status = esp_model_count(it->graph, it->one, &it->counts, err);
    }
    return status;
}

static const char *value_shape(const inspection *it, int value, char *buffer, size_t size)
{
    return value < 0 ? "" : esp_shape_format_batch(it->one, it->two, value, buffer, size);
}

static const char *kind_of(const esp_layer *layer, char *buffer, size_t size)
{
    if (!layer->is_conv) {
        return "fc";
    }
    snprintf(buffer, size, "conv %lldx%lld%s", (long long)layer->kernel_h, (long long)layer->kernel_w,
             layer->group > 1 ? " grouped" : "");
    return buffer;
}

static void print_interface(const inspection *it, bool is_output)
{
    int count = is_output ? esp_graph_output_count(it->graph) : esp_graph_input_count(it->graph);
    for (int i = 0; i < count; i++) {
        int value = is_output ? esp_graph_output(it->graph, i) : esp_graph_input(it->graph, i);
        char shape[96];
        printf("%-10s %s  %s  %s\n", is_output ? "output" : "input", esp_graph_value(it->graph, value)->name,
               value_shape(it, value, shape, sizeof shape),
               esp_dtype_name(esp_inferred_dtype(it->one, value)));
    }
}

static esp_status print_people(const inspection *it, esp_error *err)
{
    char params[16], macs[16], paper_params[16], paper_macs[16];
    esp_table *table = esp_table_new("llllrrrr");
    printf("%s  opset %lld, %d nodes\n", it->path, (long long)esp_graph_opset(it->graph),
           esp_graph_node_count(it->graph));
    print_interface(it, false);
    print_interface(it, true);
    printf("%-10s %s params, %s MACs per image (true)   %s params, %s MACs (paper)\n\n", "size",
           esp_format_count(params, sizeof params, (double)it->counts.params),
           esp_format_count(macs, sizeof macs, (double)it->counts.macs),
           esp_format_count(paper_params, sizeof paper_params, it->counts.paper_params),
           esp_format_count(paper_macs, sizeof paper_macs, it->counts.paper_macs));
    static const char *const headings[] = {"layer",   "kind",     "role",   "output",
                                           "filters", "channels", "params", "MACs"};
    for (size_t i = 0; i < 8; i++) {
        esp_table_cell(table, "%s", headings[i]);
    }
    for (int i = 0; i < it->layers.count; i++) {
        const esp_layer *layer = &it->layers.items[i];
        char kind[48], shape[96];
        const esp_node *node = esp_graph_node(it->graph, layer->node);
        esp_table_cell(table, "%s", layer->name);
        esp_table_cell(table, "%s", kind_of(layer, kind, sizeof kind));
        esp_table_cell(table, "%s", esp_role_word(layer->role));
        esp_table_cell(table, "%s", value_shape(it, node->outputs[0], shape, sizeof shape));
        esp_table_cell(table, "%lld", (long long)layer->filters);
        esp_table_cell(table, "%lld", (long long)layer->channels);
        esp_table_cell(table, "%s", esp_format_count(params, sizeof params, (double)layer->params));
        esp_table_cell(table, "%s", esp_format_count(macs, sizeof macs, (double)layer->macs));
    }
    esp_status status = esp_table_print(table, err);
    esp_table_free(table);
    return status;
}

static json_t *interface_json(const inspection *it, bool is_output)
{
    json_t *list = json_array();
    int count = is_output ? esp_graph_output_count(it->graph) : esp_graph_input_count(it->graph);
    for (int i = 0; i < count; i++) {
        int value = is_output ? esp_graph_output(it->graph, i) : esp_graph_input(it->graph, i);
        char shape[96];
        json_array_append_new(list, json_pack("{s:o, s:s, s:s}", "name",
                                              esp_cli_json_text(esp_graph_value(it->graph, value)->name),
                                              "shape", value_shape(it, value, shape, sizeof shape), "type",
                                              esp_dtype_name(esp_inferred_dtype(it->one, value))));
    }
    return list;
}

static esp_status print_json(const inspection *it, esp_error *err)
{
    json_t *layers = json_array();
    for (int i = 0; i < it->layers.count; i++) {
        const esp_layer *layer = &it->layers.items[i];
        const esp_node *node = esp_graph_node(it->graph, layer->node);
        char shape[96];
        json_array_append_new(
            layers, json_pack("{s:o, s:o, s:s, s:s, s:s, s:I, s:I, s:I, s:[I,I], s:I, s:I}", "name",
                              esp_cli_json_text(layer->name), "weight", esp_cli_json_text(layer->weight_name),
                              "kind", layer->is_conv ? "conv" : "fc", "role", esp_role_word(layer->role),
                              "output", value_shape(it, node->outputs[0], shape, sizeof shape), "filters",
                              (json_int_t)layer->filters, "channels", (json_int_t)layer->channels, "group",
                              (json_int_t)layer->group, "kernel", (json_int_t)layer->kernel_h,
                              (json_int_t)layer->kernel_w, "params", (json_int_t)layer->params, "macs",
                              (json_int_t)layer->macs));
    }
    return esp_cli_print_json(
        json_pack("{s:o, s:I, s:i, s:o, s:o, s:I, s:I, s:{s:f, s:f}, s:o}", "model",
                  esp_cli_json_text(it->path), "opset", (json_int_t)esp_graph_opset(it->graph), "nodes",
                  esp_graph_node_count(it->graph), "inputs", interface_json(it, false), "outputs",
                  interface_json(it, true), "params", (json_int_t)it->counts.params, "macs",
                  (json_int_t)it->counts.macs, "paper", "params", it->counts.paper_params, "macs",
                  it->counts.paper_macs, "layers", layers),
        err);
}

static json_t *layer_names(const inspection *it, const int *layers, int count)
{
    json_t *list = json_array();
    for (int i = 0; i < count; i++) {
        json_array_append_new(list, esp_cli_json_text(it->layers.items[layers[i]].name));
    }
    return list;
}

static json_t *coupling_json(const inspection *it, const esp_coupling *coupling)
{
    json_t *list = json_array();
    for (int i = 0; i < esp_coupling_set_count(coupling); i++) {
        const esp_coupled_set *set = esp_coupling_set(coupling, i);
        json_array_append_new(
            list, json_pack("{s:I, s:o, s:o, s:o}", "channels", (json_int_t)set->slot_count, "written_by",
                            layer_names(it, set->writers, set->writer_count), "read_by",
                            layer_names(it, set->readers, set->reader_count), "pinned_by",
                            set->pinned_by ? esp_cli_json_text(set->pinned_by) : json_null()));
    }
    return json_pack("{s:o, s:o}", "model", esp_cli_json_text(it->path), "sets", list);
}

static esp_status print_coupling(const inspection *it, bool is_json, esp_error *err)
{
    esp_coupling *coupling = NULL;
    esp_text text = {0};
    esp_status status = esp_coupling_new(it->graph, it->one, &it->layers, &coupling, err);
    if (status == ESP_OK && is_json) {
        status = esp_cli_print_json(coupling_json(it, coupling), err);
    } else if (status == ESP_OK) {
        status = esp_coupling_print(coupling, &text, err);
    }
    if (status == ESP_OK && text.data) {
        fputs(text.data, stdout);
    }
    esp_text_free(&text);
    esp_coupling_free(coupling);
    return status;
}

esp_status esp_command_inspect(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    (void)cli;
    bool is_json = false, wants_coupling = false, is_done = false;
    esp_option_list inputs = {0};
    const esp_option options[] = {
        {"json", 0, ESP_OPTION_FLAG, &is_json, NULL, "one JSON object instead of the table", 0, 0, 0},
        {"coupling", 0, ESP_OPTION_FLAG, &wants_coupling, NULL, "which channels must go together, and why", 0,
         0, 0},
        {"input", 0, ESP_OPTION_LIST, &inputs, "NAME:SHAPE",
         "fix sizes the file leaves open, e.g. x:1x3x48x192", 0, 0, 0},
        {0},
    };
    const esp_command_syntax syntax = {"inspect",
                                       "Layers, shapes, parameters and multiply-accumulates of a model.",
                                       "MODEL.onnx [options]",
                                       "  espalier inspect model.onnx --coupling",
                                       1,
                                       1,
                                       options,
                                       false};
    char *items[argc + 1];
    esp_positionals positionals = {0, items};
    esp_status status = esp_cli_parse(&syntax, argc, argv, &positionals, &is_done, err);
    if (status != ESP_OK || is_done) {
        return status;
    }
    inspection it = {.path = positionals.items[0]};
    status = load(&it, &inputs, err);
    if (status == ESP_OK) {
        status = wants_coupling ? print_coupling(&it, is_json, err)
                 : is_json      ? print_json(&it, err)
                                : print_people(&it, err);
    }
    release(&it);
    return status;
}
