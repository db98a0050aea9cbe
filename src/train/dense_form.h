/* How long one convolution or fully connected layer takes on its own. */
#ifndef ESP_TRAIN_DENSE_FORM_H
#define ESP_TRAIN_DENSE_FORM_H

#include "base/compute.h"
#include "tensor/conv.h"

/* Median seconds of a forward pass with the kernel the default engine prefers, images lying as it wants them,
 * weights packed before. A 1x1 convolution of 1x1 images is run as a fully connected layer. */
esp_status esp_dense_form_seconds(const esp_compute *compute, const esp_conv_geometry *geometry, double *out,
                                  esp_error *err);

#endif
