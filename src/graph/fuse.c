/* The table of fusions and the walk that applies them. See fuse.h. */
#include "graph/fuse.h"

#include <string.h>

#include "graph/ops.h"

/* In order: what comes first has the first choice. Steps are visited from the last to the first, so that of
 * two branches that could both take an addition in, the one that ends later does, and nothing waits. */
static const esp_fusion *const fusions[] = {
    &esp_fuse_norm_line, &esp_fuse_conv_line, &esp_fuse_conv_add,  &esp_fuse_norm_add,
    &esp_fuse_clip,      &esp_fuse_conv_pool, &esp_fuse_line_conv,
};

enum { FUSION_COUNT = sizeof fusions / sizeof *fusions };

esp_status esp_fuse_lengthen(esp_compiler *c, esp_step *step, int count, esp_error *err)
{
    int *inputs = esp_arena_alloc(c->arena, (size_t)count, sizeof *inputs);
    if (inputs == NULL)
        return esp_compiler_no_memory(err);
    for (int i = 0; i < count; i++)
        inputs[i] = i < step->input_count ? step->inputs[i] : -1;
    step->inputs = inputs;
    step->input_count = count;
    return ESP_OK;
}

bool esp_fuse_has_fixed_inputs(const esp_compiler *c, const esp_step *step, int first, int end)
{
    for (int i = first; i < end && i < step->input_count; i++) {
        if (step->inputs[i] >= 0 && !esp_compiler_is_fixed(c, step->inputs[i]))
            return false;
    }
    return true;
}

bool esp_fuse_is_conv(const esp_step *step)
{
    return step->is_blocked && step->op->forward == esp_op_conv_forward;
}

bool esp_fuse_is_layer(const esp_step *step)
{
    return esp_fuse_is_conv(step) || step->fused.group != NULL;
}

bool esp_fuse_lies_alike(const esp_join *join)
{
    bool is_plain = join->first != NULL && join->first->fused.group != NULL && !join->first->is_blocked;
    return join->second->is_blocked != is_plain;
}

/* Frozen statistics in training have a backward of their own, which knows of nothing else. */
bool esp_fuse_is_any_norm(const esp_step *step)
{
    bool is_frozen = step->context.has_backward && !step->context.is_training;
    return !is_frozen && step->op->forward == esp_op_batch_norm_forward;
}

bool esp_fuse_is_norm(const esp_step *step)
{
    return step->is_blocked && esp_fuse_is_any_norm(step);
}

bool esp_fuse_has_input(const esp_step *step, int input)
{
    return input < step->input_count && step->inputs[input] >= 0;
}

/* An Add, or a Sum of two: what hands its gradient to both inputs unchanged. */
bool esp_fuse_is_addition(const esp_join *join, int *other)
{
    const esp_step *step = join->second;
    const esp_view *values = join->compiler->program->values;
    if (!esp_fuse_lies_alike(join) || (step->op->passes & 3) != 3 || step->input_count != 2 || step->fused.clips)
        return false;
    *other = step->inputs[1 - join->input];
    return esp_shape_equal(&values[step->inputs[0]].shape, &values[step->inputs[1]].shape);
}

/* ---- applying ---- */

/* The only reader of what a step makes, or -1: somebody else wants it, or it is an output. */
static int only_reader(const esp_compiler *c, const esp_step *step, int *input)
{
    if (step->is_joined || !esp_compiler_has_one_output(c, step) || c->read_count[step->outputs[0]] != 1)
        return -1;
    int reader = c->last_reader[step->outputs[0]];
    for (int i = 0; reader >= 0 && i < c->program->steps[reader].input_count; i++) {
        if (c->program->steps[reader].inputs[i] == step->outputs[0])
            *input = i;
    }
    return reader;
}

/* The joined step takes the second's place; all that was read by the first is read there. */
static void put_joined(esp_compiler *c, int first, int second, const esp_step *joined)
{
    esp_program *program = c->program;
    for (int n = 0; n < esp_graph_node_count(c->graph); n++)
        program->node_steps[n] = program->node_steps[n] == first ? second : program->node_steps[n];
    program->steps[second] = *joined;
    program->steps[first].is_joined = true;
    for (int i = 0; i < joined->input_count; i++) {
        int v = joined->inputs[i];
        if (v >= 0 && c->last_reader[v] < second)
            c->last_reader[v] = second;
    }
    for (int i = 0; i < joined->output_count; i++) {
        if (joined->outputs[i] >= 0)
            c->producer[joined->outputs[i]] = second;
    }
}

static void put_swapped(esp_compiler *c, const esp_join *join, const esp_fusion *fusion)
{
    int first = (int)(join->first - c->program->steps), second = (int)(join->second - c->program->steps);
    esp_step new_first = *join->first, new_second = *join->second;
    fusion->swap(join, &new_first, &new_second);
    for (int n = 0; n < esp_graph_node_count(c->graph); n++) {
        int at = c->program->node_steps[n];
        c->program->node_steps[n] = at == first ? second : at == second ? first : at;
    }
    c->program->steps[first] = new_first;
    c->program->steps[second] = new_second;
    for (int i = 0; i < new_second.input_count; i++) {
        int v = new_second.inputs[i];
        if (v >= 0 && c->last_reader[v] < second)
            c->last_reader[v] = second;
    }
}

/* `*joined_at` is the step to visit again, for what may follow there: -1 when nothing was joined. */
static esp_status try_join(esp_compiler *c, const esp_fusion *fusion, int s, int *joined_at, esp_error *err)
{
    esp_step *first = &c->program->steps[s];
    esp_join join = {.compiler = c, .first = first};
    int reader = only_reader(c, first, &join.input);
    *joined_at = -1;
    if (reader < 0)
        return ESP_OK;
    join.second = &c->program->steps[reader];
    if (!esp_compiler_has_one_output(c, join.second) || !fusion->fits(&join))
        return ESP_OK;
    if (fusion->swap != NULL) {
        put_swapped(c, &join, fusion);
        return ESP_OK;
    }
    esp_step joined = fusion->is_second ? *join.second : *join.first;
    joined.outputs = join.second->outputs;
    joined.output_count = join.second->output_count;
    esp_status status = fusion->join(&join, &joined, err);
    if (status == ESP_OK)
        put_joined(c, s, reader, &joined);
    *joined_at = reader;
    return status;
}

esp_status esp_compiler_fuse(esp_compiler *c, esp_error *err)
{
    esp_status status = ESP_OK;
    for (int f = 0; f < FUSION_COUNT; f++) {
        if (c->request->is_training && !fusions[f]->is_for_training)
            continue;
        for (int s = c->program->step_count - 1; status == ESP_OK && s >= 0;) {
            int joined_at;
            status = try_join(c, fusions[f], s, &joined_at, err);
            s = joined_at < 0 ? s - 1 : joined_at;
        }
    }
    return status;
}
