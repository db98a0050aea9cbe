/* The two files of direct convolution, which share nothing but this: forward and input gradient
 * (conv_direct.c), weight gradient (conv_direct_weight.c). */
#ifndef ESP_TENSOR_CONV_DIRECT_H
#define ESP_TENSOR_CONV_DIRECT_H

#include "tensor/conv_internal.h"

size_t esp_conv_direct_weight_scratch(const conv_method *self, const esp_conv_geometry *geometry, int slots);
esp_status esp_conv_direct_grad_weight(const conv_method *self, const esp_compute *compute,
                                       const esp_conv_geometry *geometry, const float *x, const float *dy,
                                       float *dw, void *scratch);

#endif
