/* Concatenation in place: a part that is in channel blocks and begins at a whole block of the result is
 * written right where the result wants it, by whoever makes the part. Its view then has gaps between images,
 * and what it writes into the lanes behind its channels is written over when the concatenation copies its
 * neighbour there. Parts that begin inside a block are copied.
 *
 * Concatenations are visited from the last to the first, so that a result that is itself a part already has
 * its place. Then
 * - one whose parts are the first parts of a larger one (DenseNet, where every concatenation begins with all
 *   the parts of the one before) is written into the larger one's memory, which need not copy them again;
 * - one whose parts all lie next to each other in a larger result, in its own order, is a part of that too.
 * A part that is wanted in two places lies in the first it was given and is copied to the other. */
#include "graph/ops.h"
#include "graph/program_internal.h"

static bool is_blocked_concat(const esp_step *step)
{
    return step->is_blocked && step->op->forward == esp_op_concat_forward;
}

static int64_t channels_of(const esp_compiler *c, int value)
{
    return c->program->values[value].shape.dims[1];
}

/* Where a result lies, or lies as a root. */
static esp_place place_of(const esp_compiler *c, int value)
{
    return c->places[value].root < 0 ? (esp_place){.root = value} : c->places[value];
}

/* Whether whoever makes the value may be told where to write it. */
static bool can_move(const esp_compiler *c, int value)
{
    int producer = c->producer[value];
    if (producer < 0 || c->places[value].root >= 0 || c->is_out[value])
        return false;
    const esp_step *step = &c->program->steps[producer];
    return step->outputs[0] == value && !esp_compiler_is_view(c, step) &&
           c->program->values[value].layout == ESP_LAYOUT_BLOCKED;
}

/* The place of a result whose parts already lie side by side in a larger one. */
static bool find_common_place(const esp_compiler *c, const esp_step *step, esp_place *out)
{
    esp_place first = c->places[step->inputs[0]];
    int64_t channel = first.channel;
    if (first.root < 0)
        return false;
    for (int i = 0; i < step->input_count; i++) {
        esp_place place = c->places[step->inputs[i]];
        if (place.root != first.root || place.channel != channel)
            return false;
        channel += channels_of(c, step->inputs[i]);
    }
    *out = first;
    return true;
}

static void place_inputs(esp_compiler *c, const esp_step *step)
{
    esp_place whole = place_of(c, step->outputs[0]);
    int64_t channel = whole.channel;
    for (int i = 0; i < step->input_count; i++) {
        int part = step->inputs[i];
        if (channel % ESP_BLOCK == 0 && can_move(c, part))
            c->places[part] = (esp_place){.root = whole.root, .channel = channel};
        channel += channels_of(c, part);
    }
}

static bool begins_with(const esp_step *whole, const esp_step *front)
{
    bool begins = front->input_count < whole->input_count;
    for (int i = 0; begins && i < front->input_count; i++)
        begins = front->inputs[i] == whole->inputs[i];
    return begins;
}

/* The longest earlier concatenation of the first inputs of step `s` is done in the memory of its result. */
static void place_front(esp_compiler *c, int s)
{
    esp_step *whole = &c->program->steps[s];
    for (int t = s - 1; t >= 0; t--) {
        const esp_step *front = &c->program->steps[t];
        if (!is_blocked_concat(front) || !begins_with(whole, front) || !can_move(c, front->outputs[0]) ||
            front->input_count <= whole->fused.present_inputs)
            continue;
        c->places[front->outputs[0]] = place_of(c, whole->outputs[0]);
        whole->fused.present_inputs = front->input_count;
        return;
    }
}

void esp_compiler_place_parts(esp_compiler *c)
{
    for (int v = 0; v < esp_compiler_values(c); v++)
        c->places[v].root = -1;
    for (int s = c->program->step_count - 1; s >= 0; s--) {
        const esp_step *step = &c->program->steps[s];
        esp_place place;
        if (!is_blocked_concat(step))
            continue;
        if (c->places[step->outputs[0]].root < 0 && find_common_place(c, step, &place)) {
            c->places[step->outputs[0]] = place;
            continue;
        }
        place_front(c, s);
        place_inputs(c, step);
    }
}
