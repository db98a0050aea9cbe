/* Convolution with images in channel blocks (ESP_LAYOUT_BLOCKED): a plan is made once for a geometry, weights
 * are packed once per set of weights, then it runs any number of times. conv.h computes the same on plain
 * images, for every geometry; a plan exists only where a blocked kernel fits.
 *
 * Results depend on the geometry and the engine only, never on the number of threads. */
#ifndef ESP_TENSOR_BLOCKED_CONV_H
#define ESP_TENSOR_BLOCKED_CONV_H

#include "tensor/conv.h"
#include "tensor/engine.h"
#include "tensor/tensor.h"

typedef struct blocked_method blocked_method;

typedef struct esp_blocked_conv {
    esp_conv_geometry geometry;
    esp_conv_pass pass;
    esp_engine engine;
    bool takes_plain; /* FORWARD: x is a plain image (few channels: the first layer); y is blocked */
    const blocked_method *method;
} esp_blocked_conv;

/* What is done on the way in and on the way out, beside the convolution. All optional; zeroed = nothing. */
typedef struct esp_conv_extras {
    /* x' = clip(x * in_scale[c] + in_shift[c]) before the convolution, padding stays 0 (batch-norm and ReLU
     * in front of a convolution). [channels]; both or none. */
    const float *in_scale, *in_shift;
    bool in_clips;
    float in_low, in_high;
    /* y = clip(sum * scale[f] + shift[f] + residual). scale and shift [filters], each may be NULL; residual
     * has y's layout and shape (its own image_stride) and may be y itself. */
    const float *scale, *shift;
    const esp_view *residual;
    bool clips;
    float low, high;
} esp_conv_extras;

/* false: no blocked kernel fits; use conv.h. GRAD_INPUT computes dx (blocked) from dy (blocked); GRAD_WEIGHT
 * computes dw (plain [F,C/group,kh,kw]) from x and dy (blocked; x plain when takes_plain). */
bool esp_blocked_conv_plan(const esp_engine *engine, const esp_conv_geometry *geometry, esp_conv_pass pass,
                           bool takes_plain, esp_blocked_conv *out);

/* A short name for the method: "winograd", "direct", "pointwise", "depthwise", ... */
const char *esp_blocked_conv_name(const esp_blocked_conv *plan);

/* Packed weights (FORWARD and GRAD_INPUT): plans with equal keys and equally shaped weights share them. The
 * key is never 0. `packed` is aligned to ESP_ALIGNMENT. */
uint64_t esp_blocked_conv_pack_key(const esp_blocked_conv *plan);
size_t esp_blocked_conv_packed_bytes(const esp_blocked_conv *plan);
esp_status esp_blocked_conv_pack(const esp_compute *compute, const esp_blocked_conv *plan, const float *w,
                                 void *packed);

/* Bytes of scratch memory (aligned to ESP_ALIGNMENT) for runs on at most `slots` threads. */
size_t esp_blocked_conv_scratch(const esp_blocked_conv *plan, int slots);

/* FORWARD: x -> y. GRAD_INPUT: dy (as x) -> dx (as y); of extras only `residual` counts there: what is added,
 * dx itself to accumulate. `extras` may be NULL. */
esp_status esp_blocked_conv_run(const esp_compute *compute, const esp_blocked_conv *plan, const esp_view *x,
                                const void *packed, const esp_conv_extras *extras, const esp_view *y,
                                void *scratch);

/* GRAD_WEIGHT: dw overwritten; db [filters] or NULL. Summed over images in a fixed order. */
esp_status esp_blocked_conv_grad_weight(const esp_compute *compute, const esp_blocked_conv *plan,
                                        const esp_view *x, const esp_view *dy, float *dw, float *db,
                                        void *scratch);

#endif
