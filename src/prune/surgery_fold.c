/* Surgery, constants behind cut filters. A filter that is cut, or masked, still leaves its bias behind batch-norm and
 * activation: beta - gamma*mean/sqrt(var+eps), through the activation. The value is taken from runs of the masked model
 * (two, on different random inputs: a constant must be the same in both), and what a reader makes of it by the reader's
 * own kernel, with all other channels at zero. When that contribution is the same at every place of the output (no
 * padding, or the constant is 0) it goes into the bias; otherwise it becomes a constant that is added as a map. Where
 * neither can be written, the slot stays. */
#include "prune/surgery_internal.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"

/* Rounding of float32 sums, relative to the largest term. */
#define SAME_TOLERANCE 1e-5

/* A reader with cut channels that some remaining filter reads. */
typedef struct reader {
    const esp_layer *layer;
    const esp_node *node;
    esp_layer_form form;
    int index;
    bool *is_needed; /* per channel of the input value */
    esp_value_slots input;
    esp_shape input_shape, output_shape;
} reader;

static void fill_random(const esp_view *view, esp_rng *rng)
{
    int64_t count = esp_shape_elements(&view->shape);
    if (view->dtype != ESP_F32) {
        memset(view->data, 0, (size_t)count * esp_dtype_size(view->dtype));
        return;
    }
    for (int64_t i = 0; i < count; i++)
        esp_view_f32(view)[i] = (float)esp_rng_normal(rng);
}

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
        fill_random(esp_exec_input(self->runs[run], i), &rng);
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
    memset(out->is_needed, 0, (size_t)layer->channels * sizeof *out->is_needed);
    for (int64_t c = 0; c < layer->channels; c++) {
        for (int64_t i = 0; self->is_removed[reads[c]] && i < filters->count && !out->is_needed[c]; i++)
            out->is_needed[c] = esp_mask_get(mask, filters->indices[i], c);
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

/* The constants as an input for the reader; channels that differ between the runs lose their candidacy. */
static void lay_out_constants(surgery *self, const reader *item, float *x, bool *has_vetoed, bool *is_zero)
{
    const float *first = esp_view_f32(esp_exec_value(self->runs[0], item->node->inputs[0]));
    const float *second = esp_view_f32(esp_exec_value(self->runs[1], item->node->inputs[0]));
    channel_span span = span_of(&item->input_shape, item->input.axis);
    *is_zero = true;
    for (int64_t c = 0; c < item->input.count; c++) {
        double worst = 0, largest = 0;
        for (int64_t o = 0; o < span.outer && item->is_needed[c]; o++) {
            for (int64_t i = 0; i < span.inner; i++) {
                int64_t at = o * span.stride + c * span.inner + i;
                x[at] = first[at];
                worst = fmax(worst, fabs((double)first[at] - (double)second[at]));
                largest = fmax(largest, fabs((double)first[at]));
            }
        }
        *is_zero = *is_zero && largest == 0;
        if (worst <= SAME_TOLERANCE * largest)
            continue;
        self->is_candidate[item->input.slots[c]] = false;
        *has_vetoed = true;
    }
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

/* The factor in front of the bias (Gemm's beta; 1 elsewhere): what is added to the bias is divided by it. 0: the operator
 * has no bias, or one that is no number per filter. */
static double bias_factor(const surgery *self, const reader *item)
{
    const esp_tensor *bias = surgery_bias(self, item->node);
    int64_t elements = bias == NULL ? 1 : esp_tensor_elements(bias);
    if (item->form.bias_input < 0 || (elements != 1 && elements != item->layer->filters))
        return 0.0;
    return (double)esp_node_float(item->node, "beta", 1.0F);
}

/* One number per filter, or false when a filter's map differs from place to place. Cut filters do not matter. */
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

/* Distinct slots among the needed channels: how many constants find a place here. */
static int count_constants(const surgery *self, const reader *item, const float *x)
{
    channel_span span = span_of(&item->input_shape, item->input.axis);
    int count = 0;
    int32_t last = 0;
    for (int64_t c = 0; c < item->input.count; c++) {
        bool is_zero = true;
        for (int64_t o = 0; o < span.outer && item->is_needed[c]; o++) {
            for (int64_t i = 0; i < span.inner; i++)
                is_zero = is_zero && x[o * span.stride + c * span.inner + i] == 0;
        }
        if (is_zero || item->input.slots[c] == last)
            continue;
        last = item->input.slots[c];
        count += self->is_removed[last];
    }
    return count;
}

static void veto_needed(surgery *self, const reader *item, bool *has_vetoed)
{
    for (int64_t c = 0; c < item->input.count; c++) {
        if (item->is_needed[c])
            self->is_candidate[item->input.slots[c]] = false;
    }
    *has_vetoed = true;
}

/* Places the contribution `y` [output shape] of the constants `x`. */
static esp_status place(surgery *self, const reader *item, const float *x, const float *y, bool *has_vetoed,
                        esp_error *err)
{
    layer_cut *cut = &self->layer_cuts[item->index];
    float *added = esp_arena_alloc(self->arena, (size_t)item->layer->filters, sizeof *added);
    if (added == NULL)
        return esp_fail_memory(err, "surgery", (size_t)item->layer->filters * sizeof *added);
    if (flatten_map(self, item, y, added)) {
        cut->added_bias = added;
        self->report.constants_to_bias += count_constants(self, item, x);
        return ESP_OK;
    }
    if (surgery_has_open_sizes(self)) {
        veto_needed(self, item, has_vetoed);
        return ESP_OK;
    }
    self->report.constants_explicit += count_constants(self, item, x);
    return esp_tensor_from(ESP_F32, &item->output_shape, y, &cut->added_map, err);
}

static esp_status fold_into(surgery *self, const reader *item, bool *has_vetoed, esp_error *err)
{
    size_t input_elements = (size_t)esp_shape_elements(&item->input_shape);
    size_t output_elements = (size_t)esp_shape_elements(&item->output_shape);
    float *x = esp_alloc_zero(input_elements, sizeof *x);
    float *y = esp_alloc_zero(output_elements, sizeof *y);
    bool is_zero = true;
    esp_status status = x != NULL && y != NULL ? run_masked_model(self, 0, err)
                                               : esp_fail_memory(err, "surgery", output_elements * sizeof *y);
    if (status == ESP_OK)
        status = run_masked_model(self, 1, err);
    if (status != ESP_OK)
        goto done;
    lay_out_constants(self, item, x, has_vetoed, &is_zero);
    if (is_zero || *has_vetoed)
        goto done;
    status = run_reader(self, item, x, y, err);
    if (status == ESP_OK)
        status = place(self, item, x, y, has_vetoed, err);
done:
    esp_free(x);
    esp_free(y);
    return status;
}

esp_status surgery_fold_constants(surgery *self, bool *has_vetoed, esp_error *err)
{
    int64_t longest = 1;
    for (int i = 0; i < self->layers->count; i++)
        longest = self->layers->items[i].channels > longest ? self->layers->items[i].channels : longest;
    reader item = {.is_needed = esp_alloc_zero((size_t)longest, sizeof(bool))};
    esp_status status = item.is_needed != NULL ? ESP_OK : esp_fail_memory(err, "surgery", (size_t)longest);
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
    esp_free(item.is_needed);
    return status;
}
