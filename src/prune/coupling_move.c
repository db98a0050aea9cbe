/* Coupled sets, the rule MOVE: data movement is followed by moving numbers. The node's own forward kernel
 * runs on inputs whose elements carry the number of their channel, 1, 2, ... laid end to end over the inputs,
 * and a second time with the numbers negated: what changes its sign was moved, what does not was inserted
 * (padding). So concat, slice, split, pad, flatten, reshape, transpose, gather and whatever joins them need
 * no code here.
 *
 * The output's channel axis is the one along which all moved elements of a slice come from the same channel.
 * Where there is none, channels are merged: along some axis, slices and the channels they are made of fall
 * into classes that have nothing to do with each other, and a class of channels can go together with its
 * slices. A channel shuffle splits channels over two axes, [g, C/g]: the slices along the second hold channel
 * j of every group; DepthToSpace makes one channel of b*b, a concat over space one of each operand's. Merged
 * channels are tied. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "prune/coupling_internal.h"

#define MOST_BITS ((int64_t)1 << 30) /* slices times channels, while sources are collected */

typedef struct movement {
    esp_coupling *coupling;
    const esp_node *node;
    int index, input_axis;    /* of the first input with channels */
    int64_t channels;         /* of all inputs, laid end to end */
    int32_t *slots;           /* [channels + 1]: by number */
    const char *inserted_why; /* why inserted channels stay; NULL: they are free */
    int followed;             /* inputs with channels */
} movement;

/* What one output looks like. */
typedef struct landing {
    const esp_shape *shape;
    const float *moved, *negated;
} landing;

/* x[o, c, i] = sign * (first + c) over [outer, count, inner]. */
static void lay_out_numbers(float *x, const esp_shape *shape, int axis, int64_t first, float sign)
{
    esp_axis_span span = esp_axis_span_of(shape, axis);
    for (int64_t o = 0; o < span.outer; o++) {
        for (int64_t c = 0; c < span.count; c++) {
            for (int64_t i = 0; i < span.inner; i++)
                *x++ = sign * (float)(first + c);
        }
    }
}

static esp_status run(esp_coupling *coupling, coupling_probe *probe, float sign, esp_error *err)
{
    const esp_node *node = probe->node;
    int64_t first = 1;
    for (int i = 0; i < node->input_count; i++) {
        const coupling_value *input = coupling_input(coupling, node, i);
        if (input == NULL)
            continue;
        lay_out_numbers(probe->numbers[i], &probe->inputs[i].shape, input->axis, first, sign);
        first += input->count;
    }
    return coupling_probe_run(coupling, probe, err);
}

/* The number an element carries; 0: it was inserted; -1: neither moved nor inserted. */
static int32_t number_of(float moved, float negated)
{
    if (moved == negated)
        return 0;
    return moved == -negated ? (int32_t)lrintf(moved) : -1;
}

/* ---- one source per slice ---- */

/* source[j] = the only channel number among the moved elements of slice j, 0 when all are inserted. False
 * when a slice mixes channels. */
static bool read_axis(const landing *at, int axis, int32_t *source)
{
    esp_axis_span span = esp_axis_span_of(at->shape, axis);
    const float *moved = at->moved, *negated = at->negated;
    memset(source, 0, (size_t)span.count * sizeof *source);
    for (int64_t o = 0; o < span.outer; o++) {
        for (int64_t j = 0; j < span.count; j++) {
            for (int64_t i = 0; i < span.inner; i++, moved++, negated++) {
                int32_t number = number_of(*moved, *negated);
                if (number == 0)
                    continue;
                if (number < 0 || (source[j] != 0 && source[j] != number))
                    return false;
                source[j] = number;
            }
        }
    }
    return true;
}

/* The output's channel axis, or -1. The input's own axis is tried first: with a single channel every axis
 * would do. */
static int find_axis(const landing *at, int input_axis, int32_t *source)
{
    int rank = at->shape->rank;
    if (input_axis < rank && read_axis(at, input_axis, source))
        return input_axis;
    for (int axis = 1; axis < rank; axis++) {
        if (axis != input_axis && read_axis(at, axis, source))
            return axis;
    }
    return -1;
}

/* ---- merged channels ---- */

static int32_t class_of(int32_t *parent, int32_t number)
{
    while (parent[number] != number)
        number = parent[number] = parent[parent[number]];
    return number;
}

/* Working memory of count_classes. */
typedef struct class_finder {
    int32_t *parent; /* [channels + 1] */
    int32_t *first;  /* [slices]: a number found in each */
    bool *is_seen;   /* [channels + 1] */
} class_finder;

/* Classes of slices along an axis; 0 when elements are no moved numbers. */
static int64_t count_classes(const landing *at, int axis, int64_t channels, const class_finder *memory)
{
    esp_axis_span span = esp_axis_span_of(at->shape, axis);
    const float *moved = at->moved, *negated = at->negated;
    int64_t classes = 0;
    for (int32_t c = 0; c <= channels; c++)
        memory->parent[c] = c;
    memset(memory->is_seen, 0, (size_t)channels + 1);
    memset(memory->first, 0, (size_t)span.count * sizeof *memory->first);
    for (int64_t o = 0; o < span.outer; o++) {
        for (int64_t j = 0; j < span.count; j++) {
            for (int64_t i = 0; i < span.inner; i++, moved++, negated++) {
                int32_t number = number_of(*moved, *negated);
                if (number < 0)
                    return 0;
                if (number > 0 && memory->first[j] == 0)
                    memory->first[j] = number;
                else if (number > 0 && number != memory->first[j])
                    memory->parent[class_of(memory->parent, number)] =
                        class_of(memory->parent, memory->first[j]);
            }
        }
    }
    for (int64_t j = 0; j < span.count; j++) {
        int32_t root = class_of(memory->parent, memory->first[j]);
        classes += root > 0 && !memory->is_seen[root];
        memory->is_seen[root] = true;
    }
    return classes;
}

/* Layers and operators with parameters per channel see channels at axis 1. */
static bool wants_axis_one(const esp_graph *graph, int value)
{
    for (int i = 0; i < esp_graph_consumer_count(graph, value); i++) {
        const esp_node *node = esp_graph_node(graph, esp_graph_consumer(graph, value, i));
        bool has_parameters = (node->op->trainable | node->op->running) != 0;
        if (node->op->rule == ESP_CHANNEL_CUT || node->op->rule == ESP_CHANNEL_GROUP ||
            (node->op->rule == ESP_CHANNEL_COPY && has_parameters))
            return true;
    }
    return false;
}

/* The axis along which merged channels fall into most classes, or -1 when no axis has two of them. */
static esp_status find_merged_axis(const movement *self, int value, const landing *at, int *out,
                                   esp_error *err)
{
    int64_t most = 1, longest = 1;
    size_t channels = (size_t)self->channels + 1;
    esp_status status = ESP_OK;
    for (int i = 0; i < at->shape->rank; i++)
        longest = at->shape->dims[i] > longest ? at->shape->dims[i] : longest;
    class_finder memory = {.parent = esp_alloc(channels, sizeof *memory.parent),
                           .first = esp_alloc((size_t)longest, sizeof *memory.first),
                           .is_seen = esp_alloc(channels, sizeof *memory.is_seen)};
    *out = -1;
    if (memory.parent == NULL || memory.first == NULL || memory.is_seen == NULL) {
        status = esp_fail_memory(err, "merged channels", channels * sizeof *memory.parent);
        goto done;
    }
    bool is_one_wanted = wants_axis_one(self->coupling->graph, value);
    for (int axis = 1; axis < at->shape->rank; axis++) {
        int64_t classes = count_classes(at, axis, self->channels, &memory);
        if (classes <= most)
            continue;
        most = classes;
        *out = axis;
        if (axis == 1 && is_one_wanted)
            break;
    }
done:
    esp_free(memory.parent);
    esp_free(memory.first);
    esp_free(memory.is_seen);
    return status;
}

static void mark_pairs(const movement *self, const landing *at, int axis, uint64_t *bits)
{
    esp_axis_span span = esp_axis_span_of(at->shape, axis);
    const float *moved = at->moved, *negated = at->negated;
    for (int64_t o = 0; o < span.outer; o++) {
        for (int64_t j = 0; j < span.count; j++) {
            for (int64_t i = 0; i < span.inner; i++, moved++, negated++) {
                int64_t bit = j * self->channels + number_of(*moved, *negated) - 1;
                if (number_of(*moved, *negated) > 0)
                    bits[bit / 64] |= (uint64_t)1 << bit % 64;
            }
        }
    }
}

/* All sources of every slice along an axis, which are tied. */
static esp_status merge(const movement *self, const landing *at, int axis, esp_channel_moves *moves,
                        int32_t *source, esp_error *err)
{
    int64_t slices = at->shape->dims[axis], pairs = 0;
    size_t words = (size_t)((slices * self->channels + 63) / 64);
    int64_t *begin = esp_arena_alloc(self->coupling->arena, (size_t)slices + 1, sizeof *begin);
    uint64_t *bits = esp_alloc_zero(words, sizeof *bits);
    int32_t *from = NULL;
    if (bits != NULL) {
        mark_pairs(self, at, axis, bits);
        for (size_t w = 0; w < words; w++)
            pairs += __builtin_popcountll(bits[w]);
        from = esp_arena_alloc(self->coupling->arena, (size_t)pairs + 1, sizeof *from);
    }
    if (begin == NULL || from == NULL) {
        esp_free(bits);
        return esp_fail_memory(err, "merged channels", words * sizeof *bits);
    }
    int64_t count = 0;
    for (int64_t j = 0; j < slices; j++) {
        begin[j] = count;
        source[j] = 0;
        for (int64_t c = 0; c < self->channels; c++) {
            int64_t bit = j * self->channels + c;
            if ((bits[bit / 64] >> bit % 64 & 1) == 0)
                continue;
            source[j] = source[j] == 0 ? (int32_t)c + 1 : source[j];
            coupling_tie(self->coupling, self->slots[source[j]], self->slots[c + 1]);
            from[count++] = (int32_t)c;
        }
    }
    begin[slices] = count;
    moves->begin = begin;
    moves->from = from;
    esp_free(bits);
    return ESP_OK;
}

/* ---- the output ---- */

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

/* Slots of an output: the source's, or fresh ones for inserted channels. `source` has numbers, and positions
 * afterwards. */
static esp_status take_slots(const movement *self, int output, int axis, int32_t *source,
                             esp_channel_moves *moves, esp_error *err)
{
    esp_coupling *coupling = self->coupling;
    int value = self->node->outputs[output];
    int64_t count = esp_inferred_shape(coupling->inferred, value)->dims[axis], inserted = 0;
    int32_t *slots = NULL, *fresh = NULL;
    for (int64_t i = 0; i < count; i++)
        inserted += source[i] == 0;
    esp_status status = coupling_array_new(coupling, count, &slots, err);
    if (status == ESP_OK)
        status = coupling_fresh(coupling, inserted, self->inserted_why, &fresh, err);
    if (status != ESP_OK)
        return status;
    for (int64_t i = 0; i < count; i++) {
        slots[i] = source[i] == 0 ? *fresh++ : self->slots[source[i]];
        source[i]--;
    }
    coupling->values[value] = (coupling_value){axis, count, slots};
    moves->count = count;
    moves->source = source;
    moves->followed_inputs = self->followed;
    moves->keeps_order = moves->begin == NULL && is_run_by_run(source, count, self->channels);
    return ESP_OK;
}

/* `*is_followed` false: its channels are nowhere to be found. */
static esp_status follow_output(const movement *self, int output, const landing *at, bool *is_followed,
                                esp_error *err)
{
    int64_t longest = 1;
    esp_channel_moves *moves = &self->coupling->moves[self->index][output];
    for (int i = 0; i < at->shape->rank; i++)
        longest = at->shape->dims[i] > longest ? at->shape->dims[i] : longest;
    int32_t *source = esp_arena_alloc(self->coupling->arena, (size_t)longest, sizeof *source);
    if (source == NULL)
        return esp_fail_memory(err, "a trial run", (size_t)longest * sizeof *source);
    int axis = find_axis(at, self->input_axis, source);
    esp_status status = ESP_OK;
    if (axis < 0 && longest * self->channels <= MOST_BITS) {
        status = find_merged_axis(self, self->node->outputs[output], at, &axis, err);
        if (status == ESP_OK && axis > 0)
            status = merge(self, at, axis, moves, source, err);
    }
    *is_followed = axis >= 0;
    return status == ESP_OK && axis >= 0 ? take_slots(self, output, axis, source, moves, err) : status;
}

/* ---- the node ---- */

/* Slots by number; inserted scalars (padding) are free, channels of a whole constant tensor stay, since
 * nothing rewrites that tensor. */
static esp_status describe(movement *self, esp_error *err)
{
    esp_coupling *coupling = self->coupling;
    for (int i = 0; i < self->node->input_count; i++) {
        const coupling_value *input = coupling_input(coupling, self->node, i);
        int value = self->node->inputs[i];
        if (input != NULL) {
            self->input_axis = self->followed++ == 0 ? input->axis : self->input_axis;
            self->channels += input->count;
        } else if (value >= 0 && esp_inferred_dtype(coupling->inferred, value) == ESP_F32 &&
                   esp_inferred_shape(coupling->inferred, value)->rank > 1) {
            self->inserted_why =
                coupling_reason(coupling, "constant channels of node '%s'", self->node->name);
            if (self->inserted_why == NULL)
                return esp_fail_memory(err, "channel slots", 0);
        }
    }
    size_t outputs = (size_t)self->node->output_count;
    self->slots = esp_alloc((size_t)self->channels + 1, sizeof *self->slots);
    coupling->moves[self->index] = esp_arena_alloc(coupling->arena, outputs, sizeof(esp_channel_moves));
    if (self->slots == NULL || coupling->moves[self->index] == NULL)
        return esp_fail_memory(err, "channel slots", (size_t)self->channels * sizeof *self->slots);
    int32_t *next = self->slots;
    *next++ = ESP_SLOT_ZERO;
    for (int i = 0; i < self->node->input_count; i++) {
        const coupling_value *input = coupling_input(coupling, self->node, i);
        if (input == NULL)
            continue;
        memcpy(next, input->slots, (size_t)input->count * sizeof *next);
        next += input->count;
    }
    return ESP_OK;
}

static bool are_outputs_numbers(const esp_coupling *coupling, const esp_node *node)
{
    for (int i = 0; i < node->output_count; i++) {
        int value = node->outputs[i];
        if (value >= 0 && (esp_inferred_dtype(coupling->inferred, value) != ESP_F32 ||
                           esp_inferred_shape(coupling->inferred, value)->rank < 0))
            return false;
    }
    return true;
}

/* Runs the kernel both ways; the first run's outputs are taken over by `moved`. */
static esp_status run_both(esp_coupling *coupling, coupling_probe *probe, float **moved, esp_error *err)
{
    esp_status status = run(coupling, probe, 1.0F, err);
    for (int i = 0; status == ESP_OK && i < probe->node->output_count; i++) {
        if (probe->node->outputs[i] < 0)
            continue;
        size_t elements = (size_t)esp_shape_elements(&probe->outputs[i].shape);
        float *again = esp_alloc_zero(elements, sizeof *again);
        if (again == NULL)
            return esp_fail_memory(err, "a trial run", elements * sizeof *again);
        moved[i] = probe->outputs[i].data;
        probe->outputs[i].data = again;
    }
    return status == ESP_OK ? run(coupling, probe, -1.0F, err) : status;
}

static esp_status follow_outputs(movement *self, esp_error *err)
{
    const esp_node *node = self->node;
    coupling_probe probe = {0};
    bool is_followed = true;
    float **moved = esp_alloc_zero((size_t)node->output_count, sizeof *moved);
    if (moved == NULL)
        return esp_fail_memory(err, "a trial run", (size_t)node->output_count * sizeof *moved);
    esp_status status = coupling_probe_open(self->coupling, self->index, &probe, err);
    if (status == ESP_OK)
        status = run_both(self->coupling, &probe, moved, err);
    for (int i = 0; status == ESP_OK && is_followed && i < node->output_count; i++) {
        if (node->outputs[i] < 0)
            continue;
        const landing at = {&probe.outputs[i].shape, moved[i], probe.outputs[i].data};
        status = follow_output(self, i, &at, &is_followed, err);
    }
    for (int i = 0; i < node->output_count; i++)
        esp_free(moved[i]);
    esp_free(moved);
    coupling_probe_close(&probe);
    if (status != ESP_OK || is_followed)
        return status;
    return coupling_block(self->coupling, self->index,
                          coupling_reason(self->coupling, "reshaped by node '%s'", node->name), err);
}

esp_status coupling_follow_move(esp_coupling *coupling, int index, esp_error *err)
{
    movement self = {.coupling = coupling,
                     .node = esp_graph_node(coupling->graph, index),
                     .index = index,
                     .input_axis = 1};
    const char *why_not = coupling_why_not_probed(coupling, self.node);
    if (why_not == NULL && !are_outputs_numbers(coupling, self.node))
        why_not = coupling_reason(coupling, "reshaped by node '%s'", self.node->name);
    if (why_not != NULL)
        return coupling_block(coupling, index, why_not, err);
    esp_status status = describe(&self, err);
    if (status == ESP_OK)
        status = follow_outputs(&self, err);
    esp_free(self.slots);
    return status;
}
