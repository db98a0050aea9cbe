/* Concatenation in place: a part that is in channel blocks and begins at a whole block of the result is
 * written right where the result wants it, by whoever makes the part. Its view then has gaps between images.
 *
 * Concatenations are visited from the last to the first, so that a result that is itself a part already has
 * its place. One whose parts all lie next to each other in a larger result, in its own order, is a part of
 * that too (DenseNet, where every concatenation begins with all the parts of the one before). A part that is
 * wanted in two places lies in the first it was given and is copied to the other. */
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
    int result = step->outputs[0];
    esp_place whole = c->places[result].root < 0 ? (esp_place){.root = result} : c->places[result];
    int64_t channel = whole.channel;
    for (int i = 0; i < step->input_count; i++) {
        int part = step->inputs[i];
        if (can_move(c, part))
            c->places[part] = (esp_place){.root = whole.root, .channel = channel};
        channel += channels_of(c, part);
    }
}

void esp_compiler_place_parts(esp_compiler *c)
{
    for (int v = 0; v < esp_compiler_values(c); v++)
        c->places[v].root = -1;
    for (int s = c->program->step_count - 1; s >= 0; s--) {
        const esp_step *step = &c->program->steps[s];
        if (!is_blocked_concat(step))
            continue;
        esp_place place;
        if (c->places[step->outputs[0]].root < 0 && find_common_place(c, step, &place))
            c->places[step->outputs[0]] = place;
        else
            place_inputs(c, step);
    }
}
