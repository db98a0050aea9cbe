/* Surgery, what constant channels carry: beta - gamma*mean/sqrt(var+eps) of a filter that is cut, through the
 * activation and whatever follows. Nodes run one by one, by their own kernels, but convolutions do not:
 * a layer whose filters are masked gives its bias.
 *
 * Silent values are those of the network with every filter masked. They are facts about a model: computed
 * once, they hold for every mask as long as no filter lives on constants that are not zero (is_silent). Where
 * one does, the network is run again for the masks at hand, and such filters, few as they are, for real. */
#include "prune/surgery_internal.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "prune/surgery_facts.h"

/* One run. */
typedef struct values_run {
    surgery *self;
    bool is_silent;  /* all filters masked, except those of layers that follow */
    esp_view *views; /* per value: data while somebody still reads it */
    int *readers;    /* per value: nodes that have yet to read it */
    surgery_values *out;
} values_run;

void surgery_values_free(surgery_values *values)
{
    for (int v = 0; values->items != NULL && v < values->count; v++) {
        esp_free(values->items[v].low);
        esp_tensor_unref(values->items[v].map);
    }
    esp_free(values->items);
    *values = (surgery_values){0};
}

/* ---- one node ---- */

static bool is_known(const values_run *run, int value)
{
    return esp_inferred_constant(run->self->subject->inferred, value) != NULL;
}

static esp_status make_outputs(values_run *run, const esp_node *node, esp_error *err)
{
    const esp_inferred *inferred = run->self->subject->inferred;
    for (int i = 0; i < node->output_count; i++) {
        int value = node->outputs[i];
        if (value < 0 || is_known(run, value))
            continue;
        esp_view *view = &run->views[value];
        *view = (esp_view){.dtype = esp_inferred_dtype(inferred, value),
                           .shape = *esp_inferred_shape(inferred, value)};
        size_t elements = view->shape.rank < 0 ? 0 : (size_t)esp_shape_elements(&view->shape);
        view->data = esp_alloc_zero(elements + 1, esp_dtype_size(view->dtype));
        if (view->data == NULL)
            return esp_fail_memory(err, "constants behind filters", elements * sizeof(float));
    }
    return ESP_OK;
}

/* Runs a node's kernel. `weight`, when given, stands for input 1, and `output` for output 0 (no bias then). A
 * node that has no kernel for this leaves zeros: then no executor runs the network either, and nothing that
 * is written passes for proved. */
static esp_status run_kernel(values_run *run, const esp_node *node, const esp_view *weight, int weight_input,
                             esp_view *output, esp_error *err)
{
    surgery *self = run->self;
    size_t inputs = (size_t)node->input_count, outputs = (size_t)node->output_count;
    esp_view *views = esp_alloc_zero(inputs + 1, sizeof *views);
    const esp_view **pointers = esp_alloc_zero(inputs + 1, sizeof *pointers);
    esp_view **targets = esp_alloc_zero(outputs + 1, sizeof *targets);
    esp_status status = views != NULL && pointers != NULL && targets != NULL
                            ? ESP_OK
                            : esp_fail_memory(err, "constants behind filters", inputs * sizeof *views);
    bool is_complete = true;
    for (int i = 0; status == ESP_OK && i < node->input_count; i++) {
        int value = node->inputs[i];
        if (value < 0 || (weight != NULL && i > weight_input))
            continue;
        if (is_known(run, value))
            views[i] = esp_tensor_view(esp_inferred_constant(self->subject->inferred, value));
        else
            views[i] = run->views[value];
        if (weight != NULL && i == weight_input)
            views[i] = *weight;
        pointers[i] = &views[i];
        is_complete = is_complete && views[i].data != NULL && views[i].shape.rank >= 0;
    }
    for (int i = 0; status == ESP_OK && i < node->output_count; i++) {
        if (node->outputs[i] >= 0 && !is_known(run, node->outputs[i]))
            targets[i] = output != NULL && i == 0 ? output : &run->views[node->outputs[i]];
    }
    esp_op_context context = {.compute = self->compute,
                              .node = node,
                              .opset = esp_graph_opset(self->graph),
                              .input_count = node->input_count,
                              .output_count = node->output_count,
                              .inputs = pointers,
                              .outputs = targets};
    if (status == ESP_OK && is_complete && node->op->forward != NULL) {
        status = esp_op_run_once(&context, err);
        if (status != ESP_CANCELLED && status != ESP_NO_MEMORY)
            status = ESP_OK;
    }
    esp_free(views);
    esp_free(pointers);
    esp_free(targets);
    return status;
}

/* The layer's bias wherever it writes. */
static void fill_bias(values_run *run, int index)
{
    surgery *self = run->self;
    const esp_layer *layer = &self->layers->items[index];
    const esp_node *node = esp_graph_node(self->graph, layer->node);
    const esp_tensor *bias = surgery_bias(self, node);
    esp_view *view = &run->views[node->outputs[0]];
    if (bias == NULL || view->data == NULL || view->dtype != ESP_F32 || esp_tensor_dtype(bias) != ESP_F32)
        return;
    int64_t elements = esp_tensor_elements(bias);
    if (elements != 1 && elements != layer->filters)
        return;
    float factor = esp_node_float(node, "beta", 1.0F);
    esp_axis_span span = esp_axis_span_of(&view->shape, layer->is_conv ? 1 : view->shape.rank - 1);
    float *data = esp_view_f32(view);
    for (int64_t o = 0; o < span.outer; o++) {
        for (int64_t f = 0; f < layer->filters; f++) {
            float number = factor * esp_tensor_f32(bias)[elements == 1 ? 0 : f];
            for (int64_t i = 0; i < span.inner; i++)
                data[o * span.stride + f * span.inner + i] = number;
        }
    }
}

/* ---- filters that live on constants ---- */

/* The constant filters of a layer that still have connections. Returns how many. */
static int64_t list_living(const values_run *run, int index, int64_t *rows)
{
    const surgery *self = run->self;
    const esp_layer *layer = &self->layers->items[index];
    const bool *is_constant = self->is_constant[esp_graph_node(self->graph, layer->node)->outputs[0]];
    int64_t count = 0;
    for (int64_t f = 0; is_constant != NULL && f < layer->filters; f++) {
        if (is_constant[f] && esp_mask_filter_is_live(&self->masks[index], f))
            rows[count++] = f;
    }
    return count;
}

/* The weight of some filters of a layer of one group, masks applied. */
static esp_status select_rows(const values_run *run, int index, const int64_t *rows, int64_t count,
                              esp_tensor **out, esp_error *err)
{
    const surgery *self = run->self;
    esp_layer layer = self->layers->items[index];
    const esp_mask *mask = &self->masks[index];
    esp_tensor *selected = NULL;
    esp_mask part = {0};
    esp_status status =
        esp_tensor_select(surgery_weight(self, &layer), layer.filter_axis, rows, count, &selected, err);
    if (status == ESP_OK)
        status = esp_mask_new(count, layer.channels, &part, err);
    for (int64_t i = 0; status == ESP_OK && i < count; i++)
        memcpy(part.words + i * part.row_words, mask->words + rows[i] * mask->row_words,
               (size_t)mask->row_words * sizeof *mask->words);
    layer.filters = count;
    if (status == ESP_OK)
        status = esp_mask_apply(&part, &layer, selected, out, err);
    esp_mask_free(&part);
    esp_tensor_unref(selected);
    return status;
}

/* Adds what the living constant filters read. Channels that are not constant are read with zero weights. */
static esp_status run_living(values_run *run, int index, esp_error *err)
{
    surgery *self = run->self;
    const esp_layer *layer = &self->layers->items[index];
    const esp_node *node = esp_graph_node(self->graph, layer->node);
    esp_view *whole = &run->views[node->outputs[0]];
    int axis = layer->is_conv ? 1 : whole->shape.rank - 1;
    esp_layer_form form;
    esp_tensor *weight = NULL;
    int64_t *rows = esp_alloc((size_t)layer->filters, sizeof *rows);
    float *data = NULL;
    if (rows == NULL)
        return esp_fail_memory(err, "constants behind filters", (size_t)layer->filters * sizeof *rows);
    int64_t count = list_living(run, index, rows);
    if (count == 0 || whole->dtype != ESP_F32) {
        esp_free(rows);
        return ESP_OK;
    }
    if (layer->group > 1) { /* rows of some groups are no layer */
        count = layer->filters;
        for (int64_t f = 0; f < count; f++)
            rows[f] = f;
    }
    esp_view part = {.dtype = ESP_F32, .shape = whole->shape};
    part.shape.dims[axis] = count;
    node->op->layer(node, &form);
    esp_status status = layer->group > 1 ? esp_mask_apply(&self->masks[index], layer,
                                                          surgery_weight(self, layer), &weight, err)
                                         : select_rows(run, index, rows, count, &weight, err);
    if (status == ESP_OK) {
        part.data = data = esp_alloc_zero((size_t)esp_shape_elements(&part.shape), sizeof *data);
        status = data != NULL ? ESP_OK : esp_fail_memory(err, "constants behind filters", (size_t)count);
    }
    if (status == ESP_OK) {
        esp_view view = esp_tensor_view(weight);
        status = run_kernel(run, node, &view, form.weight_input, &part, err);
    }
    esp_axis_span from = esp_axis_span_of(&part.shape, axis), to = esp_axis_span_of(&whole->shape, axis);
    for (int64_t o = 0; status == ESP_OK && o < to.outer; o++) {
        for (int64_t i = 0; i < count * to.inner; i++)
            esp_view_f32(whole)[o * to.stride + rows[i / to.inner] * to.inner + i % to.inner] +=
                data[o * from.stride + i];
    }
    esp_free(data);
    esp_free(rows);
    esp_tensor_unref(weight);
    return status;
}

static esp_status run_layer(values_run *run, int index, esp_error *err)
{
    const surgery *self = run->self;
    const esp_node *node = esp_graph_node(self->graph, self->layers->items[index].node);
    bool is_followed = esp_coupling_follows(self->coupling, self->layers->items[index].node);
    if (run->is_silent && is_followed && esp_coupling_layer_follows(self->coupling, index))
        return run_kernel(run, node, NULL, 0, NULL, err);
    fill_bias(run, index);
    return run->is_silent || !is_followed ? ESP_OK : run_living(run, index, err);
}

/* ---- what is kept ---- */

static bool is_read_by_layer(const surgery *self, int value)
{
    for (int i = 0; i < esp_graph_consumer_count(self->graph, value); i++) {
        int node = esp_graph_consumer(self->graph, value, i);
        int layer = esp_coupling_layer_at(self->coupling, node);
        if (layer >= 0 && esp_graph_node(self->graph, node)->inputs[0] == value)
            return true;
    }
    return false;
}

static void find_range(const float *data, esp_axis_span span, int64_t channel, float *low, float *high)
{
    *low = INFINITY;
    *high = -INFINITY;
    for (int64_t o = 0; o < span.outer; o++) {
        const float *numbers = data + o * span.stride + channel * span.inner;
        for (int64_t i = 0; i < span.inner; i++) {
            *low = fminf(*low, numbers[i]);
            *high = fmaxf(*high, numbers[i]);
        }
    }
}

static esp_status keep(values_run *run, int value, esp_error *err)
{
    const surgery *self = run->self;
    const esp_view *view = &run->views[value];
    esp_value_slots slots = esp_coupling_value(self->coupling, value);
    if (slots.axis < 0 || view->data == NULL || view->dtype != ESP_F32 || !is_read_by_layer(self, value))
        return ESP_OK;
    channel_values *kept = &run->out->items[value];
    size_t count = (size_t)slots.count;
    esp_axis_span span = esp_axis_span_of(&view->shape, slots.axis);
    bool is_uneven = false;
    kept->low = esp_alloc_zero(2 * count + 1, sizeof *kept->low);
    if (kept->low == NULL)
        return esp_fail_memory(err, "constants behind filters", 2 * count * sizeof *kept->low);
    kept->high = kept->low + count;
    for (int64_t c = 0; c < slots.count; c++) {
        find_range(esp_view_f32(view), span, c, &kept->low[c], &kept->high[c]);
        bool is_even = kept->low[c] >= kept->high[c];
        is_uneven = is_uneven || (!is_even && (run->is_silent || self->is_constant[value][c]));
    }
    return is_uneven ? esp_tensor_from(ESP_F32, &view->shape, view->data, &kept->map, err) : ESP_OK;
}

/* ---- the run ---- */

static void let_go(values_run *run, int value)
{
    esp_free(run->views[value].data);
    run->views[value].data = NULL;
}

static esp_status run_node(values_run *run, int index, esp_error *err)
{
    const surgery *self = run->self;
    const esp_node *node = esp_graph_node(self->graph, index);
    int layer = esp_coupling_layer_at(self->coupling, index);
    bool has_work = false;
    esp_status status = ESP_OK;
    for (int i = 0; i < node->output_count; i++)
        has_work = has_work || (node->outputs[i] >= 0 && !is_known(run, node->outputs[i]));
    if (has_work)
        status = make_outputs(run, node, err);
    if (status == ESP_OK && has_work && layer >= 0)
        status = run_layer(run, layer, err);
    else if (status == ESP_OK && has_work && esp_coupling_follows(self->coupling, index))
        status = run_kernel(run, node, NULL, 0, NULL, err);
    for (int i = 0; status == ESP_OK && i < node->output_count; i++) {
        if (node->outputs[i] < 0)
            continue;
        status = keep(run, node->outputs[i], err);
        if (run->readers[node->outputs[i]] == 0)
            let_go(run, node->outputs[i]);
    }
    for (int i = 0; i < node->input_count; i++) {
        if (node->inputs[i] >= 0 && --run->readers[node->inputs[i]] == 0)
            let_go(run, node->inputs[i]);
    }
    return status;
}

static esp_status open_inputs(values_run *run, esp_error *err)
{
    const surgery *self = run->self;
    for (int n = 0; n < esp_graph_node_count(self->graph); n++) {
        const esp_node *node = esp_graph_node(self->graph, n);
        for (int i = 0; i < node->input_count; i++) {
            if (node->inputs[i] >= 0)
                run->readers[node->inputs[i]]++;
        }
    }
    for (int i = 0; i < esp_graph_input_count(self->graph); i++) {
        int value = esp_graph_input(self->graph, i);
        esp_view *view = &run->views[value];
        *view = (esp_view){.dtype = esp_inferred_dtype(self->subject->inferred, value),
                           .shape = *esp_inferred_shape(self->subject->inferred, value)};
        if (is_known(run, value) || view->shape.rank < 0)
            continue;
        view->data =
            esp_alloc_zero((size_t)esp_shape_elements(&view->shape) + 1, esp_dtype_size(view->dtype));
        if (view->data == NULL)
            return esp_fail_memory(err, "constants behind filters", 0);
    }
    return ESP_OK;
}

static esp_status run_values(surgery *self, bool is_silent, surgery_values *out, esp_error *err)
{
    size_t values = (size_t)esp_graph_value_count(self->graph);
    *out = (surgery_values){(int)values, esp_alloc_zero(values + 1, sizeof *out->items)};
    values_run run = {.self = self,
                      .is_silent = is_silent,
                      .views = esp_alloc_zero(values + 1, sizeof *run.views),
                      .readers = esp_alloc_zero(values + 1, sizeof *run.readers),
                      .out = out};
    esp_status status = run.views != NULL && run.readers != NULL && out->items != NULL
                            ? open_inputs(&run, err)
                            : esp_fail_memory(err, "constants behind filters", values * sizeof *run.views);
    for (int i = 0; status == ESP_OK && i < esp_graph_node_count(self->graph); i++) {
        status = esp_compute_is_cancelled(self->compute) ? esp_fail(err, ESP_CANCELLED, "surgery: cancelled")
                                                         : run_node(&run, i, err);
    }
    for (size_t v = 0; run.views != NULL && v < values; v++)
        esp_free(run.views[v].data);
    esp_free(run.views);
    esp_free(run.readers);
    if (status != ESP_OK)
        surgery_values_free(out);
    return status;
}

/* ---- what is asked ---- */

static esp_status find_silent_values(surgery *self, const surgery_values **out, esp_error *err)
{
    surgery_facts *facts = self->subject->facts;
    esp_status status = ESP_OK;
    pthread_mutex_lock(&facts->mutex);
    if (facts->silent == NULL) {
        surgery_values *made = esp_alloc_zero(1, sizeof *made);
        status = made == NULL ? esp_fail_memory(err, "constants behind filters", sizeof *made)
                              : run_values(self, true, made, err);
        if (status == ESP_OK)
            facts->silent = made;
        else
            esp_free(made);
    }
    pthread_mutex_unlock(&facts->mutex);
    *out = facts->silent;
    return status;
}

esp_status surgery_values_of(surgery *self, int value, const bool *is_wanted, const channel_values **out,
                             esp_error *err)
{
    const surgery_values *silent = NULL;
    esp_status status = find_silent_values(self, &silent, err);
    if (status == ESP_OK && self->is_silent == NULL)
        status = surgery_find_silent(self, silent, err);
    if (status != ESP_OK)
        return status;
    bool all_silent = true;
    int64_t count = esp_coupling_value(self->coupling, value).count;
    for (int64_t c = 0; c < count && all_silent; c++)
        all_silent = !is_wanted[c] || self->is_silent[value][c];
    if (!all_silent && self->values == NULL) {
        surgery_values *made = esp_arena_alloc(self->arena, 1, sizeof *made);
        status = made == NULL ? esp_fail_memory(err, "constants behind filters", sizeof *made)
                              : run_values(self, false, made, err);
        if (status == ESP_OK)
            self->values = made;
    }
    if (status == ESP_OK)
        *out = all_silent ? &silent->items[value] : &self->values->items[value];
    return status;
}
