/* Coupled sets, trial runs: what a node does to channels is found by running its own forward kernel on inputs
 * made for the purpose, and looking where what was laid out comes out again (coupling_move.c,
 * coupling_apart.c). */
#include "base/memory.h"
#include "prune/coupling_internal.h"

#define MOST_CHANNELS (1 << 24) /* numbers are float32, exact below that */

const char *coupling_why_not_probed(esp_coupling *coupling, const esp_node *node)
{
    int64_t channels = 0;
    for (int i = 0; i < node->input_count; i++) {
        int value = node->inputs[i];
        if (value < 0 || coupling_is_known(coupling, value))
            continue;
        const coupling_value *input = coupling_input(coupling, node, i);
        if (input == NULL || esp_inferred_dtype(coupling->inferred, value) != ESP_F32)
            return coupling_reason(coupling, "node '%s' moves channels by computed indices", node->name);
        channels += input->count;
    }
    if (channels == 0 || channels >= MOST_CHANNELS)
        return coupling_reason(coupling, "reshaped by node '%s'", node->name);
    return NULL;
}

void coupling_probe_close(coupling_probe *probe)
{
    for (int i = 0; probe->numbers != NULL && i < probe->node->input_count; i++)
        esp_free(probe->numbers[i]);
    for (int i = 0; probe->outputs != NULL && i < probe->node->output_count; i++)
        esp_free(probe->outputs[i].data);
    esp_free(probe->numbers);
    esp_free(probe->inputs);
    esp_free(probe->outputs);
    esp_free(probe->input_pointers);
    esp_free(probe->output_pointers);
    *probe = (coupling_probe){0};
}

static esp_status allocate_data(esp_coupling *coupling, coupling_probe *probe, esp_error *err)
{
    const esp_node *node = probe->node;
    for (int i = 0; i < node->input_count; i++) {
        if (coupling_input(coupling, node, i) == NULL)
            continue;
        size_t elements = (size_t)esp_shape_elements(&probe->inputs[i].shape);
        probe->numbers[i] = esp_alloc_zero(elements, sizeof(float));
        if (probe->numbers[i] == NULL)
            return esp_fail_memory(err, "a trial run", elements * sizeof(float));
        probe->inputs[i].data = probe->numbers[i];
    }
    for (int i = 0; i < node->output_count; i++) {
        size_t elements = (size_t)esp_shape_elements(&probe->outputs[i].shape);
        probe->outputs[i].data = NULL;
        if (node->outputs[i] < 0)
            continue;
        probe->outputs[i].data = esp_alloc_zero(elements, esp_dtype_size(probe->outputs[i].dtype));
        if (probe->outputs[i].data == NULL)
            return esp_fail_memory(err, "a trial run", elements * sizeof(float));
        probe->output_pointers[i] = &probe->outputs[i];
    }
    return ESP_OK;
}

esp_status coupling_probe_open(esp_coupling *coupling, int index, coupling_probe *out, esp_error *err)
{
    const esp_node *node = esp_graph_node(coupling->graph, index);
    size_t inputs = (size_t)node->input_count, outputs = (size_t)node->output_count;
    coupling_probe probe = {.node = node};
    probe.inputs = esp_alloc_zero(inputs, sizeof *probe.inputs);
    probe.input_pointers = esp_alloc_zero(inputs, sizeof *probe.input_pointers);
    probe.output_pointers = esp_alloc_zero(outputs, sizeof *probe.output_pointers);
    probe.numbers = esp_alloc_zero(inputs, sizeof *probe.numbers);
    probe.outputs = esp_alloc_zero(outputs, sizeof *probe.outputs);
    esp_status status = ESP_OK;
    if (probe.inputs == NULL || probe.input_pointers == NULL || probe.output_pointers == NULL ||
        probe.numbers == NULL || probe.outputs == NULL) {
        status = esp_fail_memory(err, "a trial run", (inputs + outputs) * sizeof *probe.inputs);
    } else {
        esp_inferred_views(coupling->inferred, coupling->graph, index, probe.inputs, probe.input_pointers,
                           probe.outputs);
        status = allocate_data(coupling, &probe, err);
    }
    if (status == ESP_OK)
        *out = probe;
    else
        coupling_probe_close(&probe);
    return status;
}

esp_status coupling_probe_run(esp_coupling *coupling, coupling_probe *probe, esp_error *err)
{
    esp_op_context context = {
        .node = probe->node,
        .opset = esp_graph_opset(coupling->graph),
        .input_count = probe->node->input_count,
        .output_count = probe->node->output_count,
        .inputs = probe->input_pointers,
        .outputs = probe->output_pointers,
    };
    return esp_op_run_once(&context, err);
}
