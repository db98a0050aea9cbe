/* Surgery, constants behind cut filters. A filter that is cut, or masked, still leaves its bias behind
 * batch-norm and activation; surgery_values.c knows what that comes to. When the contribution to a reader is
 * the same at every place of its output (no padding, or the constant is 0) it goes into the bias; otherwise
 * it becomes a constant that is added as a map. Where neither can be written, or the map would be larger than
 * all that the cut saves, the slot stays: its filters are zeros.
 *
 * Which of these it is, is decided without running the reader where its window allows: with padding, the
 * contribution is looked at where different sets of weights lie inside the image, filter by filter until two
 * places differ. The numbers themselves, made by the reader's own kernel with all other channels at zero, are
 * made when the decision is carried out. */
#include "prune/surgery_internal.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "prune/surgery_reader.h"

/* Rounding of float32 sums, relative to the largest term. */
#define SAME_TOLERANCE SURGERY_SAME_TOLERANCE

/* words[row_words per group]: the columns that remaining filters of the group read. */
static void join_rows(const surgery *self, int index, const channel_list *filters, uint64_t *words)
{
    const esp_layer *layer = &self->layers->items[index];
    const esp_mask *mask = &self->masks[index];
    int64_t group_filters = layer->filters / layer->group;
    memset(words, 0, (size_t)(layer->group * mask->row_words) * sizeof *words);
    for (int64_t i = 0; i < filters->count; i++) {
        int64_t f = filters->indices[i];
        for (int64_t w = 0; w < mask->row_words; w++)
            words[f / group_filters * mask->row_words + w] |= mask->words[f * mask->row_words + w];
    }
}

static bool reader_prepare(const surgery *self, int index, reader *out)
{
    const esp_layer *layer = &self->layers->items[index];
    const esp_node *node = esp_graph_node(self->graph, layer->node);
    const int32_t *reads = esp_coupling_reads(self->coupling, index);
    int64_t row_words = self->masks[index].row_words;
    bool is_any_needed = false;
    if (reads == NULL || !esp_coupling_follows(self->coupling, layer->node) ||
        !surgery_is_narrowed(self, node->inputs[0]))
        return false;
    join_rows(self, index, surgery_kept(self, node->outputs[0]), out->words);
    for (int64_t c = 0; c < layer->channels * layer->group; c++) {
        int64_t column = c % layer->channels;
        const uint64_t *words = out->words + c / layer->channels * row_words;
        out->is_needed[c] = self->is_removed[reads[column]] && (words[column / 64] >> column % 64 & 1) != 0;
        is_any_needed = is_any_needed || out->is_needed[c];
    }
    out->layer = layer;
    out->node = node;
    out->index = index;
    node->op->layer(node, &out->form);
    out->input = esp_coupling_value(self->coupling, node->inputs[0]);
    out->input_shape = *esp_inferred_shape(self->inferred, node->inputs[0]);
    out->output_shape = *esp_inferred_shape(self->inferred, node->outputs[0]);
    out->filters = surgery_kept(self, node->outputs[0]);
    out->mask = &self->masks[index];
    return is_any_needed;
}

/* What the needed channels carry: is_zero[c], is_flat[c]. */
static esp_status look_at_constants(surgery *self, reader *item, esp_error *err)
{
    esp_status status = surgery_values_of(self, item->node->inputs[0], item->is_needed, &item->values, err);
    for (int64_t c = 0; status == ESP_OK && c < item->input.count; c++) {
        double low = item->is_needed[c] && item->values->low != NULL ? (double)item->values->low[c] : 0;
        double high = item->is_needed[c] && item->values->low != NULL ? (double)item->values->high[c] : 0;
        double largest = fmax(fabs(low), fabs(high));
        item->is_zero[c] = largest == 0;
        item->is_flat[c] = item->is_zero[c] || high - low <= SAME_TOLERANCE * largest;
    }
    return status;
}

/* The constants as an input for the reader. */
static void lay_out_constants(const reader *item, float *x)
{
    esp_axis_span span = esp_axis_span_of(&item->input_shape, item->input.axis);
    const float *map = item->values->map == NULL ? NULL : esp_tensor_f32(item->values->map);
    for (int64_t c = 0; c < item->input.count; c++) {
        for (int64_t o = 0; o < span.outer && item->is_needed[c] && !item->is_zero[c]; o++) {
            for (int64_t i = 0; i < span.inner; i++) {
                int64_t at = o * span.stride + c * span.inner + i;
                x[at] = map != NULL ? map[at] : item->values->low[c];
            }
        }
    }
}

/* What the reader makes of an input; its mask applied, without its bias. */
static esp_status run_reader(surgery *self, const reader *item, float *x, float *y, esp_error *err)
{
    size_t count = (size_t)item->node->input_count;
    esp_view input = {.data = x, .dtype = ESP_F32, .shape = item->input_shape};
    esp_view output = {.data = y, .dtype = ESP_F32, .shape = item->output_shape};
    esp_tensor *masked = NULL;
    esp_view *outputs[1] = {&output};
    const esp_view **inputs = esp_alloc_zero(count, sizeof *inputs);
    if (inputs == NULL)
        return esp_fail_memory(err, "surgery", count * sizeof *inputs);
    esp_status status = esp_mask_apply(&self->masks[item->index], item->layer,
                                       surgery_weight(self, item->layer), &masked, err);
    if (status != ESP_OK) {
        esp_free(inputs);
        return status;
    }
    esp_view weights = esp_tensor_view(masked);
    inputs[0] = &input;
    inputs[item->form.weight_input] = &weights;
    esp_op_context context = {.compute = self->compute,
                              .node = item->node,
                              .opset = esp_graph_opset(self->graph),
                              .input_count = item->node->input_count,
                              .output_count = 1,
                              .inputs = inputs,
                              .outputs = outputs};
    status = esp_op_run_once(&context, err);
    esp_tensor_unref(masked);
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

/* Elements of the filters that write each slot, into `written`. */
static esp_status count_written(surgery *self, esp_error *err)
{
    size_t limit = (size_t)esp_coupling_slot_limit(self->coupling);
    if (self->written != NULL)
        return ESP_OK;
    self->written = esp_arena_alloc(self->arena, limit, sizeof *self->written);
    if (self->written == NULL)
        return esp_fail_memory(err, "surgery", limit * sizeof *self->written);
    for (int i = 0; i < self->layers->count; i++) {
        const esp_layer *layer = &self->layers->items[i];
        const int32_t *writes = esp_coupling_writes(self->coupling, i);
        for (int64_t f = 0; f < layer->filters; f++)
            self->written[writes[f]] += layer->channels * layer->kernel_positions;
    }
    return ESP_OK;
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
            saved += self->written[item->input.slots[c]];
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

/* Lowest and highest of what reaches a filter. */
static void range_of_filter(esp_axis_span span, const float *y, int64_t filter, double *low, double *high)
{
    *low = INFINITY;
    *high = -INFINITY;
    for (int64_t o = 0; o < span.outer; o++) {
        for (int64_t i = 0; i < span.inner; i++) {
            double value = (double)y[o * span.stride + filter * span.inner + i];
            *low = fmin(*low, value);
            *high = fmax(*high, value);
        }
    }
}

/* The input with the constants, and what the reader makes of it. Caller frees both. */
static esp_status run_on_constants(surgery *self, const reader *item, float **out, esp_error *err)
{
    size_t elements = (size_t)esp_shape_elements(&item->output_shape);
    float *x = esp_alloc_zero((size_t)esp_shape_elements(&item->input_shape) + 1, sizeof *x);
    float *y = esp_alloc_zero(elements + 1, sizeof *y);
    esp_status status = ESP_OK;
    if (x == NULL || y == NULL)
        status = esp_fail_memory(err, "surgery", elements * sizeof *y);
    if (status == ESP_OK) {
        lay_out_constants(item, x);
        status = run_reader(self, item, x, y, err);
    }
    esp_free(x);
    if (status == ESP_OK)
        *out = y;
    else
        esp_free(y);
    return status;
}

/* Whether the contribution differs from place to place, by making all of it. */
static esp_status compare_places(surgery *self, const reader *item, bool *varies, esp_error *err)
{
    esp_axis_span span = esp_axis_span_of(&item->output_shape,
                                          esp_coupling_value(self->coupling, item->node->outputs[0]).axis);
    double scale = 0, spread = 0;
    float *y = NULL;
    esp_status status = run_on_constants(self, item, &y, err);
    for (int64_t k = 0; status == ESP_OK && k < item->filters->count; k++) {
        double low, high;
        range_of_filter(span, y, item->filters->indices[k], &low, &high);
        scale = fmax(scale, fmax(fabs(low), fabs(high)));
        spread = fmax(spread, high - low);
    }
    *varies = spread > SAME_TOLERANCE * scale;
    esp_free(y);
    return status;
}

static esp_status find_out_whether_it_varies(surgery *self, const reader *item, bool *varies, esp_error *err)
{
    bool is_any_uneven = false, is_decided = false;
    for (int64_t c = 0; c < item->input.count; c++)
        is_any_uneven = is_any_uneven || (item->is_needed[c] && !item->is_flat[c]);
    *varies = true;
    if (bias_factor(self, item) == 0) /* nowhere to go but a map */
        return ESP_OK;
    if (!item->layer->is_conv && !is_any_uneven) {
        *varies = false;
        return ESP_OK;
    }
    esp_status status = surgery_reader_varies(self, item, is_any_uneven, varies, &is_decided, err);
    return status == ESP_OK && !is_decided ? compare_places(self, item, varies, err) : status;
}

/* ---- the decision ---- */

static esp_status place(surgery *self, const reader *item, bool *has_vetoed, esp_error *err)
{
    layer_cut *cut = &self->layer_cuts[item->index];
    bool varies = false;
    esp_status status = count_written(self, err);
    if (status == ESP_OK)
        status = find_out_whether_it_varies(self, item, &varies, err);
    if (status != ESP_OK)
        return status;
    if (!varies) {
        cut->place = CONSTANTS_BIAS;
        self->report.constants_to_bias += count_constants(item);
    } else if (surgery_has_open_sizes(self) || !is_map_worth_it(self, item)) {
        keep_needed(self, item);
        *has_vetoed = true;
    } else {
        cut->place = CONSTANTS_MAP;
        self->report.constants_explicit += count_constants(item);
    }
    return ESP_OK;
}

/* Room for the facts about any reader's channels. */
static esp_status reader_open(const surgery *self, reader *out, esp_error *err)
{
    size_t longest = 1, words = 1;
    for (int i = 0; i < self->layers->count; i++) {
        size_t group = (size_t)self->layers->items[i].group;
        size_t channels = (size_t)self->layers->items[i].channels * group;
        size_t joined = (size_t)self->masks[i].row_words * group;
        longest = channels > longest ? channels : longest;
        words = joined > words ? joined : words;
    }
    *out = (reader){.is_needed = esp_alloc_zero(3 * longest, sizeof(bool)),
                    .words = esp_alloc_zero(words, sizeof(uint64_t))};
    out->is_zero = out->is_needed + longest;
    out->is_flat = out->is_needed + 2 * longest;
    if (out->is_needed != NULL && out->words != NULL)
        return ESP_OK;
    esp_free(out->is_needed);
    esp_free(out->words);
    *out = (reader){0};
    return esp_fail_memory(err, "surgery", 3 * longest);
}

static void reader_close(reader *item)
{
    esp_free(item->is_needed);
    esp_free(item->words);
}

esp_status surgery_fold_constants(surgery *self, bool *has_vetoed, esp_error *err)
{
    reader item;
    esp_status status = reader_open(self, &item, err);
    *has_vetoed = false;
    self->report.constants_to_bias = self->report.constants_explicit = 0;
    for (int i = 0; status == ESP_OK && i < self->layers->count; i++) {
        self->layer_cuts[i].place = CONSTANTS_NONE;
        if (!reader_prepare(self, i, &item))
            continue;
        status = look_at_constants(self, &item, err);
        if (status == ESP_OK && count_constants(&item) > 0)
            status = place(self, &item, has_vetoed, err);
    }
    reader_close(&item);
    return status;
}

/* ---- carrying it out ---- */

/* One number per filter. Cut filters do not matter. */
static esp_status fill_bias(surgery *self, const reader *item, const float *y, esp_error *err)
{
    esp_axis_span span = esp_axis_span_of(&item->output_shape,
                                          esp_coupling_value(self->coupling, item->node->outputs[0]).axis);
    double factor = bias_factor(self, item);
    float *added = esp_arena_alloc(self->arena, (size_t)item->layer->filters, sizeof *added);
    if (added == NULL)
        return esp_fail_memory(err, "surgery", (size_t)item->layer->filters * sizeof *added);
    for (int64_t k = 0; k < item->filters->count; k++) {
        int64_t f = item->filters->indices[k];
        double low, high;
        range_of_filter(span, y, f, &low, &high);
        added[f] = (float)((low + high) / 2 / factor);
    }
    self->layer_cuts[item->index].added_bias = added;
    return ESP_OK;
}

static esp_status fill_place(surgery *self, reader *item, esp_error *err)
{
    float *y = NULL;
    esp_status status = look_at_constants(self, item, err);
    if (status == ESP_OK)
        status = run_on_constants(self, item, &y, err);
    if (status == ESP_OK && self->layer_cuts[item->index].place == CONSTANTS_BIAS)
        status = fill_bias(self, item, y, err);
    else if (status == ESP_OK)
        status =
            esp_tensor_from(ESP_F32, &item->output_shape, y, &self->layer_cuts[item->index].added_map, err);
    esp_free(y);
    return status;
}

esp_status surgery_fill_constants(surgery *self, esp_error *err)
{
    reader item;
    esp_status status = reader_open(self, &item, err);
    for (int i = 0; status == ESP_OK && i < self->layers->count; i++) {
        if (self->layer_cuts[i].place != CONSTANTS_NONE && reader_prepare(self, i, &item))
            status = fill_place(self, &item, err);
    }
    reader_close(&item);
    return status;
}
