/* Lines: batch-norm, and arithmetic with a constant per channel (exporters write batch-norm's scale and bias
 * as a Mul and an Add behind it), become one scale and one shift per channel at evaluation. A convolution
 * takes them in behind its sum, and in front of its input when it is 1x1; elsewhere a batch-norm takes in
 * what follows it. Only what is known before the run, but for changes of parameters, is a line. */
#include <string.h>

#include "graph/fuse.h"
#include "graph/ops.h"

static bool is_evaluated_norm(const esp_join *join, const esp_step *step)
{
    return esp_fuse_is_any_norm(step) && esp_fuse_has_fixed_inputs(join->compiler, step, 1, 5) &&
           !esp_fuse_has_input(step, ESP_NORM_RESIDUAL);
}

/* Whether the second step is nothing but lines on what the first makes; how many. */
static int line_count(const esp_join *join)
{
    const esp_step *step = join->second;
    esp_line line;
    int wide;
    if (!esp_fuse_lies_alike(join) || step->fused.clips)
        return 0;
    if (is_evaluated_norm(join, step))
        return join->input == 0 ? 1 + step->fused.line_count : 0;
    bool is_line = esp_op_binary_line(&step->context, &line, &wide) && wide == join->input &&
                   esp_fuse_has_fixed_inputs(join->compiler, step, 1 - wide, 2 - wide);
    return is_line ? 1 : 0;
}

/* Appends a line that reads `count` values of another step to the inputs of `out`. */
static esp_status append(const esp_join *join, esp_step *out, const esp_line *line, const esp_step *from,
                         esp_line *target, esp_error *err)
{
    int count = line->kind == ESP_LINE_NORM ? 4 : 1, at = out->input_count;
    esp_status status = esp_fuse_lengthen(join->compiler, out, at + count, err);
    if (status != ESP_OK)
        return status;
    memcpy(&out->inputs[at], &from->inputs[line->input], (size_t)count * sizeof *out->inputs);
    *target = *line;
    target->input = at;
    return ESP_OK;
}

/* Appends all lines of a step (see line_count) to `lines` of `out`. */
static esp_status take_lines(const esp_join *join, const esp_step *from, esp_step *out, esp_line *lines,
                             int *count, esp_error *err)
{
    esp_line own;
    int wide;
    if (esp_fuse_is_any_norm(from)) {
        const esp_node *node = esp_graph_node(join->compiler->graph, from->node);
        own =
            (esp_line){.kind = ESP_LINE_NORM, .input = 1, .epsilon = esp_node_float(node, "epsilon", 1e-5f)};
    } else {
        esp_op_binary_line(&from->context, &own, &wide);
    }
    esp_status status = append(join, out, &own, from, &lines[(*count)++], err);
    for (int i = 0; status == ESP_OK && i < from->fused.line_count; i++)
        status = append(join, out, &from->fused.lines[i], from, &lines[(*count)++], err);
    return status;
}

/* ---- behind a batch-norm or a convolution ---- */

static bool has_room(const esp_join *join)
{
    int more = line_count(join);
    return more > 0 && !join->first->fused.clips && join->first->fused.line_count + more <= ESP_FUSED_LINES;
}

static bool fits_norm_line(const esp_join *join)
{
    return join->first->is_blocked && is_evaluated_norm(join, join->first) &&
           !esp_fuse_is_norm(join->second) && has_room(join);
}

static esp_status join_norm_line(const esp_join *join, esp_step *out, esp_error *err)
{
    esp_status status = ESP_OK;
    if (out->input_count < ESP_NORM_INPUTS)
        status = esp_fuse_lengthen(join->compiler, out, ESP_NORM_INPUTS, err);
    return status == ESP_OK
               ? take_lines(join, join->second, out, out->fused.lines, &out->fused.line_count, err)
               : status;
}

const esp_fusion esp_fuse_norm_line = {.fits = fits_norm_line, .join = join_norm_line};

static bool fits_conv_line(const esp_join *join)
{
    return esp_fuse_is_layer(join->first) && !esp_fuse_has_input(join->first, ESP_CONV_RESIDUAL) &&
           has_room(join);
}

static esp_status join_conv_line(const esp_join *join, esp_step *out, esp_error *err)
{
    esp_status status = ESP_OK;
    if (out->input_count < ESP_CONV_INPUTS)
        status = esp_fuse_lengthen(join->compiler, out, ESP_CONV_INPUTS, err);
    return status == ESP_OK
               ? take_lines(join, join->second, out, out->fused.lines, &out->fused.line_count, err)
               : status;
}

const esp_fusion esp_fuse_conv_line = {.fits = fits_conv_line, .join = join_conv_line};

/* ---- in front of a convolution ---- */

/* Only where each element is read for one output position, or it would be normalised again and again. */
static bool is_pointwise(const esp_join *join, const esp_step *conv)
{
    const esp_shape *w = &join->compiler->program->values[conv->inputs[ESP_CONV_WEIGHT]].shape;
    return w->dims[2] == 1 && w->dims[3] == 1;
}

static bool fits_line_conv(const esp_join *join)
{
    const esp_step *norm = join->first, *conv = join->second;
    return norm->is_blocked && is_evaluated_norm(join, norm) && norm->fused.line_count < ESP_FUSED_LINES &&
           esp_fuse_is_conv(conv) && join->input == ESP_CONV_X &&
           esp_bit(conv->layouts.blocked_inputs, ESP_CONV_X) && is_pointwise(join, conv) &&
           conv->fused.in_line_count == 0;
}

static esp_status join_line_conv(const esp_join *join, esp_step *out, esp_error *err)
{
    const esp_step *norm = join->first;
    int least = out->input_count < ESP_CONV_INPUTS ? ESP_CONV_INPUTS : out->input_count;
    esp_status status = esp_fuse_lengthen(join->compiler, out, least, err);
    if (status != ESP_OK)
        return status;
    out->inputs[ESP_CONV_X] = norm->inputs[0];
    out->fused.in_clips = norm->fused.clips;
    out->fused.in_low = norm->fused.low;
    out->fused.in_high = norm->fused.high;
    return take_lines(join, norm, out, out->fused.in_lines, &out->fused.in_line_count, err);
}

const esp_fusion esp_fuse_line_conv = {.fits = fits_line_conv, .is_second = true, .join = join_line_conv};
