/* The same facts as JSON. What is unknown is null. */
#include <stdio.h>

#include "cli/inputs.h"
#include "cli/inspect.h"
#include "graph/op.h"

static json_t *shape_json(const esp_inspection *it, int value)
{
    char shape[96];
    return esp_inspect_has_shape(it, value) ? json_string(esp_inspect_shape(it, value, shape, sizeof shape))
                                            : json_null();
}

static json_t *interface_json(const esp_inspection *it, bool is_output)
{
    json_t *list = json_array();
    int count = is_output ? esp_graph_output_count(it->graph) : esp_graph_input_count(it->graph);
    for (int i = 0; i < count; i++) {
        int value = is_output ? esp_graph_output(it->graph, i) : esp_graph_input(it->graph, i);
        json_array_append_new(list, json_pack("{s:o, s:o, s:s}", "name",
                                              esp_cli_json_text(esp_graph_value(it->graph, value)->name),
                                              "shape", shape_json(it, value), "type",
                                              esp_dtype_name(esp_inferred_dtype(it->one, value))));
    }
    return list;
}

/* {"size": [h, w], "stride": [y, x]}, or "whole", or null. */
static json_t *field_json(const esp_field *field)
{
    if (field->kind == ESP_FIELD_WHOLE) {
        return json_string("whole");
    }
    return field->kind == ESP_FIELD_WINDOW
               ? json_pack("{s:[f,f], s:[f,f]}", "size", field->height, field->width, "stride",
                           field->stride_y, field->stride_x)
               : json_null();
}

static json_t *layer_sets_json(const esp_inspection *it, int layer)
{
    int sets[256];
    json_t *list = json_array();
    int count = esp_inspect_layer_sets(it, layer, sets, 256);
    for (int i = 0; i < count; i++) {
        json_array_append_new(list, json_integer(sets[i]));
    }
    return list;
}

/* [h, w]; one number for signals, three for volumes; [1, 1] of fully connected layers. */
static json_t *kernel_json(const esp_layer *layer)
{
    json_t *list = json_array();
    for (int i = 0; i < layer->kernel_rank; i++) {
        json_array_append_new(list, json_integer((json_int_t)layer->kernel[i]));
    }
    for (int i = 0; i < 2 && layer->kernel_rank == 0; i++) {
        json_array_append_new(list, json_integer(1));
    }
    return list;
}

static json_t *layer_json(const esp_inspection *it, int index)
{
    const esp_layer *layer = &it->layers.items[index];
    int output = esp_graph_node(it->graph, layer->node)->outputs[0];
    bool has_shape = esp_inspect_has_shape(it, output);
    return json_pack("{s:o, s:o, s:s, s:s, s:o, s:I, s:I, s:I, s:o, s:b, s:I, s:o, s:o, s:o, s:o}", "name",
                     esp_cli_json_text(layer->name), "weight", esp_cli_json_text(layer->weight_name), "kind",
                     layer->is_conv ? "conv" : "fc", "role", esp_role_word(layer->role), "output",
                     shape_json(it, output), "filters", (json_int_t)layer->filters, "channels",
                     (json_int_t)layer->channels, "group", (json_int_t)layer->group, "kernel",
                     kernel_json(layer), "transposed", layer->is_conv && layer->filter_axis > 0, "params",
                     (json_int_t)layer->params, "macs",
                     has_shape ? json_integer((json_int_t)layer->macs) : json_null(), "receptive_field",
                     field_json(&it->fields[output]), "activation_bytes",
                     has_shape ? json_integer((json_int_t)esp_inspect_bytes(it, output)) : json_null(),
                     "coupled_sets", layer_sets_json(it, index));
}

static json_t *layer_names(const esp_inspection *it, const int *layers, int count)
{
    json_t *list = json_array();
    for (int i = 0; i < count; i++) {
        json_array_append_new(list, esp_cli_json_text(it->layers.items[layers[i]].name));
    }
    return list;
}

/* Null when the sets cannot be found. */
static json_t *sets_json(const esp_inspection *it)
{
    json_t *list = it->coupling ? json_array() : json_null();
    for (int i = 0; it->coupling && i < esp_coupling_set_count(it->coupling); i++) {
        const esp_coupled_set *set = esp_coupling_set(it->coupling, i);
        json_array_append_new(
            list, json_pack("{s:I, s:o, s:o, s:o}", "channels", (json_int_t)set->slot_count, "written_by",
                            layer_names(it, set->writers, set->writer_count), "read_by",
                            layer_names(it, set->readers, set->reader_count), "pinned_by",
                            set->pinned_by ? esp_cli_json_text(set->pinned_by) : json_null()));
    }
    return list;
}

static json_t *memory_json(const esp_inspection *it)
{
    return it->has_memory ? json_pack("{s:I, s:I}", "activations", (json_int_t)it->value_bytes, "peak",
                                      (json_int_t)it->live_bytes)
                          : json_null();
}

esp_status esp_inspect_print_json(const esp_inspection *it, esp_error *err)
{
    json_t *layers = json_array();
    for (int i = 0; i < it->layers.count; i++) {
        json_array_append_new(layers, layer_json(it, i));
    }
    bool runs = it->run_error.code == ESP_OK;
    return esp_cli_print_json(
        json_pack("{s:o, s:I, s:i, s:b, s:o, s:b, s:o, s:o, s:I, s:I, s:{s:f, s:f}, s:o, s:o, s:o}", "model",
                  esp_cli_json_text(it->path), "opset", (json_int_t)esp_graph_opset(it->graph), "nodes",
                  esp_graph_node_count(it->graph), "can_run", runs, "why_not",
                  runs ? json_null() : esp_cli_json_text(it->run_error.message), "shapes_known",
                  it->has_memory, "inputs", interface_json(it, false), "outputs", interface_json(it, true),
                  "params", (json_int_t)it->counts.params, "macs", (json_int_t)it->counts.macs, "paper",
                  "params", it->counts.paper_params, "macs", it->counts.paper_macs, "memory", memory_json(it),
                  "layers", layers, "sets", sets_json(it)),
        err);
}

esp_status esp_inspect_print_coupling(const esp_inspection *it, bool is_json, esp_error *err)
{
    esp_text text = {0};
    if (!it->coupling) {
        *err = it->coupling_error;
        return err->code;
    }
    if (is_json) {
        json_t *sets = NULL;
        esp_status packed = esp_coupling_to_json(it->coupling, &sets, err);
        if (packed != ESP_OK) {
            return packed;
        }
        json_object_set_new(sets, "model", esp_cli_json_text(it->path));
        return esp_cli_print_json(sets, err);
    }
    esp_status status = esp_coupling_print(it->coupling, &text, err);
    if (status == ESP_OK && text.data) {
        fputs(text.data, stdout);
    }
    esp_text_free(&text);
    return status;
}
