/* Surgery, constants behind cut filters. A filter that is cut, or masked, still leaves its bias behind
 * batch-norm and activation: beta - gamma*mean/sqrt(var+eps), through the activation. The value is taken from
 * runs of the masked model (two, on different random inputs: a constant must be the same in both), and what a
 * reader makes of it by the reader's own kernel, with all other channels at zero. When that contribution is
 * the same at every place of the output (no padding, or the constant is 0) it goes into the bias; otherwise
 * it becomes a constant that is added as a map. Where neither can be written, or the map would be larger than
 * all that the cut saves, the slot stays: its filters are zeros. */
#include "prune/surgery_internal.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

/* Rounding of float32 sums, relative to the largest term. */
#define SAME_TOLERANCE 1e-5

/* A reader with cut channels that some remaining filter reads. */
typedef struct reader {
    const esp_layer *layer;
    const esp_node *node;
    esp_layer_form form;
    int index;
    bool *is_needed, *is_zero, *is_flat; /* per channel of the input value (of all groups) */
    esp_value_slots input;
    esp_shape input_shape, output_shape;
} reader;

static esp_status run_masked_model(surgery *self, int run, esp_error *err)
{
    esp_exec_options options = {.batch = 1,
                                .input_shapes = self->input_shapes,
                                .input_shape_count = self->input_shape_count,
                                .keeps_values = true,
                                .slots = esp_compute_slots(self->compute)};
    if (self->runs[run] != NULL)
        return ESP_OK;
    esp_status status = esp_exec_new(self->graph, &options, &self->runs[run], err);
    if (status != ESP_OK)
        return status;
    esp_rng rng;
    esp_rng_seed_stream(&rng, self->options->seed, (uint64_t)run + 1);
    for (int i = 0; i < esp_graph_input_count(self->graph); i++)
        surgery_fill_input(esp_exec_input(self->runs[run], i), &rng);
    return esp_exec_forward(self->runs[run], self->compute, err);
}

/* Elements of one channel lie in `outer` runs of `inner`, `stride` apart. */
typedef struct channel_span {
    int64_t outer, inner, stride;
} channel_span;

static channel_span span_of(const esp_shape *shape, int axis)
{
    channel_span span = {1, 1, 0};
    for (int i = 0; i < shape->rank; i++) {
        span.outer *= i < axis ? shape->dims[i] : 1;
        span.inner *= i > axis ? shape->dims[i] : 1;
    }
    span.stride = span.inner * shape->dims[axis];
    return span;
}

static bool reader_prepare(surgery *self, int index, reader *out)
{
    const esp_layer *layer = &self->layers->items[index];
    const esp_node *node = esp_graph_node(self->graph, layer->node);
    const int32_t *reads = esp_coupling_reads(self->coupling, index);
    const esp_mask *mask = &self->preview->items[index].mask;
    const channel_list *filters = surgery_kept(self, node->outputs[0]);
    bool is_any_needed = false;
    if (reads == NULL || !esp_coupling_follows(self->coupling, layer->node))
        return false;
    int64_t channels = layer->channels * layer->group, group_filters = layer->filters / layer->group;
    memset(out->is_needed, 0, (size_t)channels * sizeof *out->is_needed);
    for (int64_t c = 0; c < channels; c++) {
        int64_t column = c % layer->channels, group = c / layer->channels;
        for (int64_t i = 0; self->is_removed[reads[column]] && i < filters->count && !out->is_needed[c]; i++)
            out->is_needed[c] = filters->indices[i] / group_filters == group &&
                                esp_mask_get(mask, filters->indices[i], column);
        is_any_needed = is_any_needed || out->is_needed[c];
    }
    out->layer = layer;
    out->node = node;
    out->index = index;
    node->op->layer(node, &out->form);
    out->input = esp_coupling_value(self->coupling, node->inputs[0]);
    out->input_shape = *esp_inferred_shape(self->inferred, node->inputs[0]);
    out->output_shape = *esp_inferred_shape(self->inferred, node->outputs[0]);
    return is_any_needed;
}

/* The constants as an input for the reader: is_zero[c] and is_flat[c] say what they look like. Channels that
 * differ between the runs lose their candidacy, and the result is false. */
static bool lay_out_constants(surgery *self, reader *item, float *x)
{
    const float *first = esp_view_f32(esp_exec_value(self->runs[0], item->node->inputs[0]));
    const float *second = esp_view_f32(esp_exec_value(self->runs[1], item->node->inputs[0]));
    channel_span span = span_of(&item->input_shape, item->input.axis);
    bool is_constant = true;
    for (int64_t c = 0; c < item->input.count; c++) {
        double worst = 0, lowest = INFINITY, highest = -INFINITY;
        for (int64_t o = 0; o < span.outer && item->is_needed[c]; o++) {
            for (int64_t i = 0; i < span.inner; i++) {
                int64_t at = o * span.stride + c * span.inner + i;
                x[at] = first[at];
                worst = fmax(worst, fabs((double)first[at] - (double)second[at]));
                lowest = fmin(lowest, (double)first[at]);
                highest = fmax(highest, (double)first[at]);
            }
        }
        double largest = item->is_needed[c] ? fmax(fabs(lowest), fabs(highest)) : 0;
        item->is_zero[c] = largest == 0;
        item->is_flat[c] = item->is_zero[c] || highest - lowest <= SAME_TOLERANCE * largest;
        if (worst <= SAME_TOLERANCE * largest)
            continue;
        self->is_candidate[item->input.slots[c]] = false;
        is_constant = false;
    }
    return is_constant;
}

static esp_status run_reader(surgery *self, const reader *item, float *x, float *y, esp_error *err)
{
    size_t count = (size_t)item->node->input_count;
    esp_view input = {.data = x, .dtype = ESP_F32, .shape = item->input_shape};
    esp_view output = {.data = y, .dtype = ESP_F32, .shape = item->output_shape};
    esp_view weights = esp_tensor_view(surgery_weight(self, item->layer));
    esp_view *outputs[1] = {&output};
    const esp_view **inputs = esp_alloc_zero(count, sizeof *inputs);
    if (inputs == NULL)
        return esp_fail_memory(err, "surgery", count * sizeof *inputs);
    inputs[0] = &input;
    inputs[item->form.weight_input] = &weights;
    esp_op_context context = {.compute = self->compute,
                              .node = item->node,
                              .opset = esp_graph_opset(self->graph),
                              .input_count = item->node->input_count,
                              .output_count = 1,
                              .inputs = inputs,
                              .outputs = outputs};
    esp_status status = esp_op_run_once(&context, err);
    esp_free(inputs);
    return status;
}

/* The factor in front of the bias (Gemm's beta; 1 elsewhere): what is added to the bias is divided by it. 0:
 * the operator has no bias, or one that is no number per filter. */
static double bias_factor(const surgery *self, const reader *item)
{
    const esp_tensor *bias = surgery_bias(self, item->node);
    int64_t elements = bias == NULL ? 1 : esp_tensor_elements(bias);
    if (surgery_bias_input(item->node) < 0 || (elements != 1 && elements != item->layer->filters))
        return 0.0;
    return (double)esp_node_float(item->node, "beta", 1.0F);
}

/* One number per filter, or false when a filter's map differs from place to place. Cut filters do not matter.
 */
static bool flatten_map(surgery *self, const reader *item, const float *y, float *added)
{
    esp_value_slots output = esp_coupling_value(self->coupling, item->node->outputs[0]);
    const channel_list *filters = surgery_kept(self, item->node->outputs[0]);
    channel_span span = span_of(&item->output_shape, output.axis);
    double factor = bias_factor(self, item), scale = 0;
    bool is_flat = factor != 0;
    for (int64_t k = 0; k < filters->count; k++) {
        for (int64_t i = 0; i < span.inner; i++)
            scale = fmax(scale, fabs((double)y[filters->indices[k] * span.inner + i]));
    }
    for (int64_t k = 0; k < filters->count && is_flat; k++) {
        int64_t f = filters->indices[k];
        double lowest = INFINITY, highest = -INFINITY;
        for (int64_t o = 0; o < span.outer; o++) {
            for (int64_t i = 0; i < span.inner; i++) {
                double value = (double)y[o * span.stride + f * span.inner + i];
                lowest = fmin(lowest, value);
                highest = fmax(highest, value);
            }
        }
        is_flat = highest - lowest <= SAME_TOLERANCE * scale;
        added[f] = (float)((lowest + highest) / 2 / factor);
    }
    return is_flat;
}

/* Distinct slots among the needed channels that are not zero: how many constants find a place here. Columns
 * of one slot lie side by side, so the last one is enough to tell. */
static int count_constants(const reader *item)
{
    int count = 0;
    int32_t last = ESP_SLOT_ZERO;
    for (int64_t c = 0; c < item->input.count; c++) {
        if (!item->is_needed[c] || item->is_zero[c] || item->input.slots[c] == last)
            continue;
        last = item->input.slots[c];
        count++;
    }
    return count;
}

/* Elements of the filters that write a slot. */
static int64_t written_elements(const surgery *self, int32_t slot)
{
    int64_t elements = 0;
    for (int i = 0; i < self->layers->count; i++) {
        const esp_layer *layer = &self->layers->items[i];
        const int32_t *writes = esp_coupling_writes(self->coupling, i);
        for (int64_t f = 0; f < layer->filters; f++)
            elements += writes[f] == slot ? layer->channels * layer->kernel_positions : 0;
    }
    return elements;
}

/* Whether cutting the needed channels saves more numbers than a map over the output adds. */
static bool is_map_worth_it(const surgery *self, const reader *item)
{
    const esp_layer *layer = item->layer;
    int64_t filters = surgery_kept(self, item->node->outputs[0])->count;
    int64_t added = filters * (esp_shape_elements(&item->output_shape) / layer->filters), saved = 0;
    int32_t last = ESP_SLOT_ZERO;
    for (int64_t c = 0; c < item->input.count; c++) {
        if (!item->is_needed[c] || item->is_zero[c])
            continue;
        saved += filters / layer->group * layer->kernel_positions;
        if (item->input.slots[c] != last)
            saved += written_elements(self, item->input.slots[c]);
        last = item->input.slots[c];
    }
    return saved > added;
}

/* The channels that make the contribution differ from place to place stay: those that do so themselves when
 * there are such, else (padding) all that are not zero. */
static void keep_needed(surgery *self, const reader *item)
{
    bool is_any_uneven = false;
    for (int64_t c = 0; c < item->input.count; c++)
        is_any_uneven = is_any_uneven || (item->is_needed[c] && !item->is_flat[c]);
    for (int64_t c = 0; c < item->input.count; c++) {
        if (item->is_needed[c] && !item->is_zero[c] && !(is_any_uneven && item->is_flat[c]))
            self->is_candidate[item->input.slots[c]] = false;
    }
}

/* Places the contribution `y` [output shape] of the constants. */
static esp_status place(surgery *self, const reader *item, const float *y, bool *has_vetoed, esp_error *err)
{
    layer_cut *cut = &self->layer_cuts[item->index];
    float *added = esp_arena_alloc(self->arena, (size_t)item->layer->filters, sizeof *added);
    if (added == NULL)
        return esp_fail_memory(err, "surgery", (size_t)item->layer->filters * sizeof *added);
    if (flatten_map(self, item, y, added)) {
        cut->added_bias = added;
        self->report.constants_to_bias += count_constants(item);
        return ESP_OK;
    }
    if (surgery_has_open_sizes(self) || !is_map_worth_it(self, item)) {
        keep_needed(self, item);
        *has_vetoed = true;
        return ESP_OK;
    }
    self->report.constants_explicit += count_constants(item);
    return esp_tensor_from(ESP_F32, &item->output_shape, y, &cut->added_map, err);
}

static esp_status fold_into(surgery *self, reader *item, bool *has_vetoed, esp_error *err)
{
    size_t input_elements = (size_t)esp_shape_elements(&item->input_shape);
    size_t output_elements = (size_t)esp_shape_elements(&item->output_shape);
    float *x = esp_alloc_zero(input_elements, sizeof *x);
    float *y = esp_alloc_zero(output_elements, sizeof *y);
    esp_status status = x != NULL && y != NULL ? run_masked_model(self, 0, err)
                                               : esp_fail_memory(err, "surgery", output_elements * sizeof *y);
    if (status == ESP_OK)
        status = run_masked_model(self, 1, err);
    if (status != ESP_OK)
        goto done;
    if (!lay_out_constants(self, item, x))
        *has_vetoed = true;
    else if (count_constants(item) > 0) {
        status = run_reader(self, item, x, y, err);
        if (status == ESP_OK)
            status = place(self, item, y, has_vetoed, err);
    }
done:
    esp_free(x);
    esp_free(y);
    return status;
}

esp_status surgery_fold_constants(surgery *self, bool *has_vetoed, esp_error *err)
{
    size_t longest = 1;
    for (int i = 0; i < self->layers->count; i++) {
        size_t channels = (size_t)(self->layers->items[i].channels * self->layers->items[i].group);
        longest = channels > longest ? channels : longest;
    }
    bool *facts = esp_alloc_zero(3 * longest, sizeof *facts);
    if (facts == NULL)
        return esp_fail_memory(err, "surgery", 3 * longest);
    reader item = {.is_needed = facts, .is_zero = facts + longest, .is_flat = facts + 2 * longest};
    esp_status status = ESP_OK;
    *has_vetoed = false;
    self->report.constants_to_bias = self->report.constants_explicit = 0;
    for (int i = 0; status == ESP_OK && i < self->layers->count; i++) {
        layer_cut *cut = &self->layer_cuts[i];
        esp_tensor_unref(cut->added_map);
        cut->added_map = NULL;
        cut->added_bias = NULL;
        if (reader_prepare(self, i, &item))
            status = fold_into(self, &item, has_vetoed, err);
    }
    esp_free(facts);
    return status;
}
