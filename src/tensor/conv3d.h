/* Convolution of volumes (ONNX Conv-11 on NxCxDxHxW), forward and both gradients, in plain loops over rows.
 * Images have kernels of their own: conv.h. */
#ifndef ESP_TENSOR_CONV3D_H
#define ESP_TENSOR_CONV3D_H

#include <stdint.h>

#include "base/compute.h"

enum { ESP_VOLUME_AXES = 3 };

/* x [batch, channels, size...], w [filters, channels/group, kernel...], y [batch, filters, out...]. */
typedef struct esp_conv3d_geometry {
    int64_t batch, channels, filters, group;
    int64_t size[ESP_VOLUME_AXES], kernel[ESP_VOLUME_AXES], stride[ESP_VOLUME_AXES];
    int64_t dilation[ESP_VOLUME_AXES], pad_begin[ESP_VOLUME_AXES], out[ESP_VOLUME_AXES];
} esp_conv3d_geometry;

/* y = conv(x, w) + bias; bias [filters] or NULL. */
esp_status esp_conv3d_forward(const esp_compute *compute, const esp_conv3d_geometry *geometry, const float *x,
                              const float *w, const float *bias, float *y);

/* dx, overwritten. */
esp_status esp_conv3d_grad_input(const esp_compute *compute, const esp_conv3d_geometry *geometry,
                                 const float *dy, const float *w, float *dx);

/* dw, overwritten. */
esp_status esp_conv3d_grad_weight(const esp_compute *compute, const esp_conv3d_geometry *geometry,
                                  const float *x, const float *dy, float *dw);

#endif
