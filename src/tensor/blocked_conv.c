/* Convolution in channel blocks: the table of methods, the choice between them, and what the forward methods
 * share. A plan takes the first method that fits; geometries without elements are left to conv.h. */
#include "tensor/blocked_conv.h"

#include <string.h>

#include "tensor/blocked_conv_internal.h"

const blocked_method *const esp_blocked_methods[] = {
    /* forward */
    &esp_blocked_depthwise,
    &esp_blocked_winograd_points,
    &esp_blocked_winograd,
    &esp_blocked_pointwise,
    &esp_blocked_stem,
    &esp_blocked_direct,
    /* gradient for the input */
    &esp_blocked_depthwise_input,
    &esp_blocked_winograd_input_points,
    &esp_blocked_winograd_input,
    &esp_blocked_direct_input,
    /* gradient for the weight */
    &esp_blocked_depthwise_weight,
    &esp_blocked_direct_weight,
};
const int esp_blocked_method_count = sizeof esp_blocked_methods / sizeof *esp_blocked_methods;

static bool is_empty(const esp_conv_geometry *g)
{
    return g->batch <= 0 || g->channels <= 0 || g->filters <= 0 || g->height <= 0 || g->width <= 0 ||
           conv_taps(g) <= 0 || conv_pixels(g) <= 0;
}

bool esp_blocked_conv_plan(const esp_engine *engine, const esp_conv_geometry *geometry, esp_conv_pass pass,
                           bool takes_plain, esp_blocked_conv *out)
{
    if (!engine->has_blocked || is_empty(geometry))
        return false;
    esp_blocked_conv plan = {
        .geometry = *geometry, .pass = pass, .engine = *engine, .takes_plain = takes_plain};
    for (int i = 0; i < esp_blocked_method_count; i++) {
        if (!esp_blocked_methods[i]->fits(&plan))
            continue;
        plan.method = esp_blocked_methods[i];
        *out = plan;
        return true;
    }
    return false;
}

const char *esp_blocked_conv_name(const esp_blocked_conv *plan)
{
    return plan->method->name;
}

/* Panels depend on the width of tiles and on the number of groups beside the method, for the gradient of the
 * input on the phases of the stride, too. */
uint64_t esp_blocked_conv_pack_key(const esp_blocked_conv *plan)
{
    uint64_t key = plan->method->pack_key;
    key = key * 1000003u + (uint64_t)esp_blocked_kernels(&plan->engine)->filter_block;
    const esp_conv_geometry *g = &plan->geometry;
    key = key * 1000003u + (uint64_t)g->group;
    const int64_t phases[] = {g->stride_h,   g->stride_w, g->dilation_h,
                              g->dilation_w, g->pad_top,  g->pad_left};
    for (size_t i = 0; plan->pass == ESP_CONV_GRAD_INPUT && i < sizeof phases / sizeof *phases; i++)
        key = key * 1000003u + (uint64_t)phases[i];
    return key != 0 ? key : 1;
}

size_t esp_blocked_conv_packed_bytes(const esp_blocked_conv *plan)
{
    return plan->method->packed_bytes(plan);
}

esp_status esp_blocked_conv_pack(const esp_compute *compute, const esp_blocked_conv *plan, const float *w,
                                 void *packed)
{
    return plan->method->pack(compute, plan, w, packed);
}

size_t esp_blocked_conv_scratch(const esp_blocked_conv *plan, int slots)
{
    return plan->method->scratch(plan, slots);
}

esp_status esp_blocked_conv_run(const esp_compute *compute, const esp_blocked_conv *plan, const esp_view *x,
                                const void *packed, const esp_conv_extras *extras, const esp_view *y,
                                void *scratch)
{
    static const esp_conv_extras nothing;
    return plan->method->run(compute, plan, x, packed, extras != NULL ? extras : &nothing, y, scratch);
}

esp_status esp_blocked_conv_grad_weight(const esp_compute *compute, const esp_blocked_conv *plan,
                                        const esp_view *x, const esp_view *dy, float *dw, float *db,
                                        void *scratch)
{
    return plan->method->grad_weight(compute, plan, x, dy, dw, db, scratch);
}

int64_t esp_blocked_vectors_size(const esp_conv_geometry *geometry)
{
    return 2 * ESP_BLOCK * (blocked_count(geometry->channels) + blocked_count(geometry->filters));
}

static const float *whole_blocks(const float *values, int64_t count, float **scratch)
{
    if (values == NULL || count % ESP_BLOCK == 0)
        return values;
    float *copy = *scratch;
    int64_t whole = blocked_count(count) * ESP_BLOCK;
    memcpy(copy, values, (size_t)count * sizeof *copy);
    memset(copy + count, 0, (size_t)(whole - count) * sizeof *copy);
    *scratch += whole;
    return copy;
}

blocked_vectors esp_blocked_vectors(const esp_conv_geometry *geometry, const esp_conv_extras *extras,
                                    float *scratch)
{
    blocked_vectors vectors;
    vectors.in_scale = whole_blocks(extras->in_scale, geometry->channels, &scratch);
    vectors.in_shift = whole_blocks(extras->in_shift, geometry->channels, &scratch);
    vectors.scale = whole_blocks(extras->scale, geometry->filters, &scratch);
    vectors.shift = whole_blocks(extras->shift, geometry->filters, &scratch);
    return vectors;
}

blocked_store esp_blocked_store(const esp_conv_extras *extras, const blocked_vectors *vectors)
{
    return (blocked_store){
        .scale = vectors->scale,
        .shift = vectors->shift,
        .clips = extras->clips,
        .low = extras->low,
        .high = extras->high,
    };
}
