/* Relu or Clip behind a blocked convolution, batch-norm or addition, or behind a fully connected layer: done
 * on the way out. In training behind a batch-norm only, whose backward knows of it. */
#include "graph/fuse.h"
#include "graph/ops.h"

/* Sums of two images of one shape; their clip has no gradient of its own. */
static bool is_addition(const esp_join *join)
{
    const esp_step *step = join->first;
    esp_join as_second = {.compiler = join->compiler, .second = step};
    int other;
    return !join->compiler->request->is_training && step->input_count == 2 &&
           esp_fuse_is_addition(&as_second, &other);
}

static bool is_dense(const esp_join *join)
{
    const esp_step *step = join->first;
    return !join->compiler->request->is_training && step->op->forward == esp_op_gemm_forward &&
           esp_op_gemm_is_dense(&step->context);
}

static bool can_clip(const esp_join *join)
{
    const esp_step *step = join->first;
    bool is_training = join->compiler->request->is_training;
    return (esp_fuse_is_layer(step) && !is_training) || esp_fuse_is_norm(step) || is_addition(join) ||
           is_dense(join);
}

static bool fits_clip(const esp_join *join)
{
    float low, high;
    const esp_step *clip = join->second;
    return clip->op->forward == esp_op_unary_forward && join->input == 0 && !join->first->fused.clips &&
           can_clip(join) && clip->is_blocked == join->first->is_blocked &&
           esp_fuse_has_fixed_inputs(join->compiler, clip, 1, clip->input_count) &&
           esp_op_clip_range(&clip->context, &low, &high);
}

static esp_status join_clip(const esp_join *join, esp_step *out, esp_error *err)
{
    (void)err;
    out->fused.clips = true;
    esp_op_clip_range(&join->second->context, &out->fused.low, &out->fused.high);
    return ESP_OK;
}

const esp_fusion esp_fuse_clip = {.is_for_training = true, .fits = fits_clip, .join = join_clip};
