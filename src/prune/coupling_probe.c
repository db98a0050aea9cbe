/* Coupled sets, the rule MOVE: data movement is followed by moving numbers. The node's own forward kernel
 * runs on inputs whose elements carry the number of their channel, 1, 2, ... laid end to end over the inputs,
 * and a second time with the numbers negated: what changes its sign was moved, what does not was inserted
 * (padding). The output's channel axis is the one along which all moved elements of a slice come from the
 * same channel. So concat, slice, pad, flatten, reshape, transpose, gather and whatever joins them need no
 * code here.
 *
 * Numbers are float32, exact below 2^24. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "prune/coupling_internal.h"

#define LARGEST_NUMBER (1 << 24)

/* One node laid out for a run of its kernel. */
typedef struct probe {
    const esp_node *node;
    esp_view *inputs, output;
    const esp_view **input_pointers;
    float **numbers; /* per input: memory of the moved ones, NULL for known inputs */
    float *moved, *negated;
} probe;

static void probe_release(probe *self)
{
    for (int i = 0; self->numbers != NULL && i < self->node->input_count; i++) /* numbers: node is set */
        esp_free(self->numbers[i]);
    esp_free(self->numbers);
    esp_free(self->inputs);
    esp_free(self->input_pointers);
    esp_free(self->moved);
    esp_free(self->negated);
}

/* x[o, c, i] = sign * (first + c) over [outer, count, inner]. */
static void lay_out_numbers(float *x, const esp_shape *shape, int axis, int64_t first, float sign)
{
    int64_t outer = 1, inner = 1, count = shape->dims[axis];
    for (int i = 0; i < shape->rank; i++) {
        outer *= i < axis ? shape->dims[i] : 1;
        inner *= i > axis ? shape->dims[i] : 1;
    }
    for (int64_t o = 0; o < outer; o++) {
        for (int64_t c = 0; c < count; c++) {
            for (int64_t i = 0; i < inner; i++)
                *x++ = sign * (float)(first + c);
        }
    }
}

/* Why a node cannot be probed, or NULL: every float input has channels or is known, everything else is known.
 */
static const char *why_not_probed(esp_coupling *coupling, const esp_node *node)
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
    int output = node->outputs[0];
    if (channels == 0 || channels >= LARGEST_NUMBER ||
        esp_inferred_dtype(coupling->inferred, output) != ESP_F32)
        return coupling_reason(coupling, "reshaped by node '%s'", node->name);
    return NULL;
}

static esp_status probe_prepare(esp_coupling *coupling, int index, probe *self, esp_error *err)
{
    const esp_node *node = self->node = esp_graph_node(coupling->graph, index);
    size_t count = (size_t)node->input_count;
    esp_view *outputs = esp_alloc_zero((size_t)node->output_count, sizeof *outputs);
    self->inputs = esp_alloc_zero(count, sizeof *self->inputs);
    self->input_pointers = esp_alloc_zero(count, sizeof *self->input_pointers);
    self->numbers = esp_alloc_zero(count, sizeof *self->numbers);
    if (outputs == NULL || self->inputs == NULL || self->input_pointers == NULL || self->numbers == NULL) {
        esp_free(outputs);
        return esp_fail_memory(err, "a probe", count * sizeof *self->inputs);
    }
    esp_inferred_views(coupling->inferred, coupling->graph, index, self->inputs, self->input_pointers,
                       outputs);
    self->output = outputs[0];
    esp_free(outputs);

    for (int i = 0; i < node->input_count; i++) {
        if (coupling_input(coupling, node, i) == NULL)
            continue;
        size_t elements = (size_t)esp_shape_elements(&self->inputs[i].shape);
        self->numbers[i] = esp_alloc(elements, sizeof(float));
        if (self->numbers[i] == NULL)
            return esp_fail_memory(err, "a probe", elements * sizeof(float));
        self->inputs[i].data = self->numbers[i];
    }
    size_t elements = (size_t)esp_shape_elements(&self->output.shape);
    self->moved = esp_alloc(elements, sizeof(float));
    self->negated = esp_alloc(elements, sizeof(float));
    if (self->moved == NULL || self->negated == NULL)
        return esp_fail_memory(err, "a probe", elements * sizeof(float));
    return ESP_OK;
}

static esp_status probe_run(esp_coupling *coupling, probe *self, float sign, float *target, esp_error *err)
{
    const esp_node *node = self->node;
    int64_t first = 1;
    for (int i = 0; i < node->input_count; i++) {
        const coupling_value *input = coupling_input(coupling, node, i);
        if (input == NULL)
            continue;
        lay_out_numbers(self->numbers[i], &self->inputs[i].shape, input->axis, first, sign);
        first += input->count;
    }
    self->output.data = target;
    esp_view *output_pointers[1] = {&self->output};
    esp_op_context context = {
        .node = node,
        .opset = esp_graph_opset(coupling->graph),
        .input_count = node->input_count,
        .output_count = 1,
        .inputs = self->input_pointers,
        .outputs = output_pointers,
    };
    return esp_op_run_once(&context, err);
}

/* Sources along one axis: source[j] = the only channel number among the moved elements of slice j, 0 when all
 * are inserted. False when a slice mixes channels. */
static bool read_axis(const probe *self, int axis, int32_t *source)
{
    const esp_shape *shape = &self->output.shape;
    int64_t outer = 1, inner = 1, count = shape->dims[axis];
    for (int i = 0; i < shape->rank; i++) {
        outer *= i < axis ? shape->dims[i] : 1;
        inner *= i > axis ? shape->dims[i] : 1;
    }
    memset(source, 0, (size_t)count * sizeof *source);
    const float *moved = self->moved, *negated = self->negated;
    for (int64_t o = 0; o < outer; o++) {
        for (int64_t j = 0; j < count; j++) {
            for (int64_t i = 0; i < inner; i++, moved++, negated++) {
                if (*moved == *negated)
                    continue; /* inserted */
                int32_t number = (int32_t)lrintf(*moved);
                if (*moved != -*negated || (source[j] != 0 && source[j] != number))
                    return false;
                source[j] = number;
            }
        }
    }
    return true;
}

/* The output's channel axis, or -1. The input's own axis is tried first: with a single channel every axis
 * would do. */
static int find_axis(const probe *self, int input_axis, int32_t *source)
{
    int rank = self->output.shape.rank;
    if (input_axis < rank && read_axis(self, input_axis, source))
        return input_axis;
    for (int axis = 1; axis < rank; axis++) {
        if (axis != input_axis && read_axis(self, axis, source))
            return axis;
    }
    return -1;
}

/* source[] in runs 0,0,0,1,1,1,... of equal length over all `channels`. */
static bool is_run_by_run(const int32_t *source, int64_t count, int64_t channels)
{
    if (channels == 0 || count % channels != 0 || count == 0)
        return false;
    int64_t length = count / channels;
    for (int64_t i = 0; i < count; i++) {
        if (source[i] != (int32_t)(i / length))
            return false;
    }
    return true;
}

/* Slots of the output: the source's, or fresh ones for inserted channels. Inserted scalars (padding) are
 * free; channels of a whole constant tensor stay, since nothing rewrites that tensor. */
static esp_status take_slots(esp_coupling *coupling, int index, int axis, int64_t count, int32_t *source,
                             esp_error *err)
{
    const esp_node *node = esp_graph_node(coupling->graph, index);
    const char *reason = NULL;
    int followed = 0;
    int64_t channels = 0, inserted = 0;
    for (int i = 0; i < node->input_count; i++) {
        const coupling_value *input = coupling_input(coupling, node, i);
        if (input != NULL) {
            followed++;
            channels += input->count;
        } else if (node->inputs[i] >= 0 &&
                   esp_inferred_dtype(coupling->inferred, node->inputs[i]) == ESP_F32 &&
                   esp_inferred_shape(coupling->inferred, node->inputs[i])->rank > 1) {
            reason = coupling_reason(coupling, "constant channels of node '%s'", node->name);
            if (reason == NULL)
                return esp_fail_memory(err, "channel slots", 0);
        }
    }
    for (int64_t i = 0; i < count; i++)
        inserted += source[i] == 0;
    int32_t *slots = NULL, *fresh = NULL;
    esp_status status = coupling_array_new(coupling, count, &slots, err);
    if (status == ESP_OK)
        status = coupling_fresh(coupling, inserted, reason, &fresh, err);
    if (status != ESP_OK)
        return status;

    for (int64_t i = 0; i < count; i++) {
        int64_t number = source[i]--;
        if (number == 0) {
            slots[i] = *fresh++;
            continue;
        }
        int at = 0;
        const coupling_value *input = coupling_input(coupling, node, at);
        while (input == NULL || number > input->count) {
            number -= input == NULL ? 0 : input->count;
            input = coupling_input(coupling, node, ++at);
        }
        slots[i] = input->slots[number - 1];
    }
    coupling->values[node->outputs[0]] = (coupling_value){axis, count, slots};
    coupling->moves[index] =
        (esp_channel_moves){count, source, followed, is_run_by_run(source, count, channels)};
    return ESP_OK;
}

static int first_input_axis(esp_coupling *coupling, const esp_node *node)
{
    for (int i = 0; i < node->input_count; i++) {
        const coupling_value *input = coupling_input(coupling, node, i);
        if (input != NULL)
            return input->axis;
    }
    return 1;
}

static esp_status run_both(esp_coupling *coupling, int index, probe *self, esp_error *err)
{
    esp_status status = probe_prepare(coupling, index, self, err);
    if (status == ESP_OK)
        status = probe_run(coupling, self, 1.0F, self->moved, err);
    if (status == ESP_OK)
        status = probe_run(coupling, self, -1.0F, self->negated, err);
    return status;
}

/* Every slice of the output along `axis` holds the channel's own number (within the rounding of a mean). */
esp_status coupling_keeps_channels(esp_coupling *coupling, int index, int axis, bool *out, esp_error *err)
{
    probe self = {0};
    const char *why_not = why_not_probed(coupling, esp_graph_node(coupling->graph, index));
    *out = false;
    if (why_not != NULL)
        return ESP_OK;
    esp_status status = run_both(coupling, index, &self, err);
    const esp_shape *shape = &self.output.shape;
    int64_t inner = 1, count = status == ESP_OK ? esp_shape_elements(shape) : 0;
    for (int i = axis + 1; status == ESP_OK && i < shape->rank; i++)
        inner *= shape->dims[i];
    bool is_own = status == ESP_OK;
    for (int64_t i = 0; i < count && is_own; i++)
        is_own = fabsf(self.moved[i] - (float)(i / inner % shape->dims[axis] + 1)) < 0.25F;
    *out = is_own;
    probe_release(&self);
    return status;
}

esp_status coupling_follow_move(esp_coupling *coupling, int index, esp_error *err)
{
    const esp_node *node = esp_graph_node(coupling->graph, index);
    const char *why_not = why_not_probed(coupling, node);
    if (why_not != NULL)
        return coupling_block(coupling, index, why_not, err);

    probe self = {0};
    const esp_shape *shape = esp_inferred_shape(coupling->inferred, node->outputs[0]);
    int64_t longest = 1;
    for (int i = 0; i < shape->rank; i++)
        longest = shape->dims[i] > longest ? shape->dims[i] : longest;
    int32_t *source = esp_arena_alloc(coupling->arena, (size_t)longest, sizeof *source);
    esp_status status = source == NULL ? esp_fail_memory(err, "a probe", (size_t)longest * sizeof *source)
                                       : run_both(coupling, index, &self, err);
    if (status != ESP_OK)
        goto done;
    int axis = find_axis(&self, first_input_axis(coupling, node), source);
    status = axis < 0 ? coupling_block(coupling, index,
                                       coupling_reason(coupling, "reshaped by node '%s'", node->name), err)
                      : take_slots(coupling, index, axis, shape->dims[axis], source, err);
done:
    probe_release(&self);
    return status;
}
