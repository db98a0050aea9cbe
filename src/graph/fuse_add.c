/* Additions: a blocked convolution (at evaluation) or batch-norm (in training too) adds an image of its
 * output's shape on the way out, when that image exists by then. */
#include "graph/fuse.h"
#include "graph/ops.h"

static esp_status take_residual(const esp_join *join, esp_step *out, int input, int inputs, esp_error *err)
{
    int count = out->input_count < inputs ? inputs : out->input_count;
    esp_status status = esp_fuse_lengthen(join->compiler, out, count, err); /* a copy, to be written */
    if (status != ESP_OK)
        return status;
    esp_fuse_is_addition(join, &out->inputs[input]);
    if (out->is_blocked)
        out->layouts.blocked_inputs |= 1u << input;
    return ESP_OK;
}

static bool fits(const esp_join *join, int input)
{
    int other;
    return !join->first->fused.clips && !esp_fuse_has_input(join->first, input) &&
           esp_fuse_is_addition(join, &other);
}

static bool fits_conv_add(const esp_join *join)
{
    return esp_fuse_is_layer(join->first) && fits(join, ESP_CONV_RESIDUAL);
}

static esp_status join_conv_add(const esp_join *join, esp_step *out, esp_error *err)
{
    return take_residual(join, out, ESP_CONV_RESIDUAL, ESP_CONV_INPUTS, err);
}

const esp_fusion esp_fuse_conv_add = {.fits = fits_conv_add, .join = join_conv_add};

static bool fits_norm_add(const esp_join *join)
{
    return esp_fuse_is_norm(join->first) && fits(join, ESP_NORM_RESIDUAL);
}

static esp_status join_norm_add(const esp_join *join, esp_step *out, esp_error *err)
{
    return take_residual(join, out, ESP_NORM_RESIDUAL, ESP_NORM_INPUTS, err);
}

const esp_fusion esp_fuse_norm_add = {.is_for_training = true, .fits = fits_norm_add, .join = join_norm_add};
