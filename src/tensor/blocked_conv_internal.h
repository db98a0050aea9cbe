/* What the blocked convolution kernels share: the table of methods. */
#ifndef ESP_TENSOR_BLOCKED_CONV_INTERNAL_H
#define ESP_TENSOR_BLOCKED_CONV_INTERNAL_H

#include "tensor/blocked_conv.h"
#include "tensor/blocked_kernels.h"
#include "tensor/conv_internal.h"

/* One way to compute one or more passes. The functions are those of blocked_conv.h, for this method. */
struct blocked_method {
    const char *name;
    uint64_t pack_key; /* what `pack` makes; methods that pack alike have the same key */
    bool (*fits)(const esp_blocked_conv *plan); /* plan->method is not set yet */
    size_t (*packed_bytes)(const esp_blocked_conv *plan);
    esp_status (*pack)(const esp_compute *compute, const esp_blocked_conv *plan, const float *w,
                       void *packed);
    size_t (*scratch)(const esp_blocked_conv *plan, int slots);
    esp_status (*run)(const esp_compute *compute, const esp_blocked_conv *plan, const esp_view *x,
                      const void *packed, const esp_conv_extras *extras, const esp_view *y, void *scratch);
    esp_status (*grad_weight)(const esp_compute *compute, const esp_blocked_conv *plan, const esp_view *x,
                              const esp_view *dy, float *dw, float *db, void *scratch);
};

/* Forward, the preferred first. */
extern const blocked_method esp_blocked_depthwise; /* blocked_depthwise.c */
extern const blocked_method esp_blocked_winograd;  /* winograd.c */
extern const blocked_method esp_blocked_pointwise; /* blocked_pointwise.c */
extern const blocked_method esp_blocked_stem;      /* blocked_stem.c: plain input of few channels */
extern const blocked_method esp_blocked_direct;    /* blocked_direct.c: any kernel, stride, dilation, group */
/* Gradient for the input. */
extern const blocked_method esp_blocked_depthwise_input; /* blocked_depthwise.c */
extern const blocked_method esp_blocked_winograd_input;  /* winograd.c: flipped, transposed weights */
extern const blocked_method esp_blocked_direct_input;    /* blocked_grad_input.c: any stride, by phases */
/* Gradient for the weight. */
extern const blocked_method esp_blocked_depthwise_weight; /* blocked_depthwise.c */
extern const blocked_method esp_blocked_direct_weight;    /* blocked_grad_weight.c */

/* All of the above in order of preference; plans take the first that fits their pass. Tests run each. */
extern const blocked_method *const esp_blocked_methods[];
extern const int esp_blocked_method_count;

#endif
