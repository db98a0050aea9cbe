/* Surgery, chains of shapes: exporters write Shape -> Gather -> Concat -> Reshape where the model says
 * x.view(x.size(0), -1). In the cut model such a chain starts from other numbers and so comes out
 * differently. Here it is run as the cut model will run it: nodes in order, from the shapes that values will
 * have. Values that no cut shape goes into are what they were. */
#include "prune/surgery_internal.h"

#include "base/memory.h"

struct surgery_chains {
    const surgery *self;
    const esp_inferred *inferred;
    bool *is_changed;      /* per value: a cut shape goes into it */
    esp_tensor **computed; /* per value: what it becomes; NULL: it cannot be computed */
};

void surgery_chains_free(surgery_chains *chains)
{
    if (chains == NULL)
        return;
    for (int i = 0; chains->computed != NULL && i < esp_graph_value_count(chains->self->graph); i++)
        esp_tensor_unref(chains->computed[i]);
    esp_free(chains->computed);
    esp_free(chains->is_changed);
    esp_free(chains);
}

bool surgery_chains_changed(const surgery_chains *chains, int value, const esp_tensor **out)
{
    *out = chains->computed[value];
    return chains->is_changed[value];
}

/* Inputs as the cut model has them; false when one is not known. */
static bool lay_out_inputs(const surgery_chains *chains, const esp_node *node, esp_view *views,
                           const esp_view **pointers)
{
    bool is_shape_only = (node->op->flags & ESP_OP_SHAPE_ONLY) != 0;
    for (int i = 0; i < node->input_count; i++) {
        int value = node->inputs[i];
        if (pointers[i] == NULL)
            continue;
        if (chains->is_changed[value] && chains->computed[value] == NULL)
            return false;
        if (chains->is_changed[value])
            views[i] = esp_tensor_view(chains->computed[value]);
        else if (is_shape_only && views[i].data == NULL)
            views[i].shape = surgery_new_shape(chains->self, chains->inferred, value);
        else if (views[i].data == NULL && esp_inferred_constant(chains->inferred, value) == NULL)
            return false;
    }
    return true;
}

static esp_status run_node(surgery_chains *chains, const esp_node *node, const esp_view **inputs,
                           esp_view *outputs, esp_error *err)
{
    esp_error ignored = {0};
    esp_infer_context infer = {.node = node,
                               .opset = esp_graph_opset(chains->self->graph),
                               .input_count = node->input_count,
                               .inputs = inputs,
                               .output_count = node->output_count,
                               .outputs = outputs};
    if (node->op->infer(&infer, &ignored) != ESP_OK)
        return ESP_OK; /* the cut model could not run it */
    esp_view **pointers = esp_alloc_zero((size_t)node->output_count, sizeof *pointers);
    if (pointers == NULL)
        return esp_fail_memory(err, "surgery", (size_t)node->output_count * sizeof *pointers);
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < node->output_count; i++) {
        int value = node->outputs[i];
        if (value < 0)
            continue;
        status = esp_tensor_new(outputs[i].dtype, &outputs[i].shape, &chains->computed[value], err);
        if (status != ESP_OK)
            break;
        outputs[i].data = esp_tensor_data_mut(chains->computed[value]);
        pointers[i] = &outputs[i];
    }
    esp_op_context context = {.compute = NULL,
                              .node = node,
                              .opset = esp_graph_opset(chains->self->graph),
                              .input_count = node->input_count,
                              .output_count = node->output_count,
                              .inputs = inputs,
                              .outputs = pointers};
    if (status == ESP_OK)
        status = esp_op_run_once(&context, err);
    esp_free(pointers);
    return status;
}

static bool starts_or_goes_on(const surgery_chains *chains, const esp_node *node)
{
    if ((node->op->flags & ESP_OP_SHAPE_ONLY) != 0 && node->inputs[0] >= 0 &&
        surgery_has_channels(chains->self, node->inputs[0]) &&
        surgery_kept(chains->self, node->inputs[0])->count !=
            esp_coupling_value(chains->self->coupling, node->inputs[0]).count)
        return true;
    for (int i = 0; i < node->input_count; i++) {
        if (node->inputs[i] >= 0 && chains->is_changed[node->inputs[i]])
            return true;
    }
    return false;
}

static esp_status follow_node(surgery_chains *chains, int index, esp_error *err)
{
    const esp_node *node = esp_graph_node(chains->self->graph, index);
    size_t inputs = (size_t)node->input_count, outputs = (size_t)node->output_count;
    for (int i = 0; i < node->output_count; i++) {
        if (node->outputs[i] >= 0 && esp_inferred_constant(chains->inferred, node->outputs[i]) == NULL)
            return ESP_OK; /* an activation */
    }
    if (!starts_or_goes_on(chains, node))
        return ESP_OK;
    esp_view *views = esp_alloc_zero(inputs + outputs + 1, sizeof *views);
    const esp_view **pointers = esp_alloc_zero(inputs + 1, sizeof *pointers);
    esp_status status = ESP_OK;
    if (views == NULL || pointers == NULL) {
        status = esp_fail_memory(err, "surgery", (inputs + outputs) * sizeof *views);
    } else {
        esp_inferred_views(chains->inferred, chains->self->graph, index, views, pointers, views + inputs);
        if (lay_out_inputs(chains, node, views, pointers))
            status = run_node(chains, node, pointers, views + inputs, err);
    }
    for (int i = 0; i < node->output_count; i++) {
        if (node->outputs[i] >= 0)
            chains->is_changed[node->outputs[i]] = true;
    }
    esp_free(views);
    esp_free(pointers);
    return status;
}

esp_status surgery_chains_new(surgery *self, const esp_inferred *inferred, surgery_chains **out,
                              esp_error *err)
{
    size_t values = (size_t)esp_graph_value_count(self->graph);
    surgery_chains *chains = esp_alloc_zero(1, sizeof *chains);
    *out = NULL;
    if (chains == NULL)
        return esp_fail_memory(err, "surgery", sizeof *chains);
    *chains = (surgery_chains){.self = self,
                               .inferred = inferred,
                               .is_changed = esp_alloc_zero(values, sizeof(bool)),
                               .computed = esp_alloc_zero(values, sizeof(esp_tensor *))};
    esp_status status = chains->is_changed != NULL && chains->computed != NULL
                            ? ESP_OK
                            : esp_fail_memory(err, "surgery", values * sizeof(esp_tensor *));
    for (int i = 0; status == ESP_OK && i < esp_graph_node_count(self->graph); i++)
        status = follow_node(chains, i, err);
    if (status == ESP_OK)
        *out = chains;
    else
        surgery_chains_free(chains);
    return status;
}
