/* Moving channels between images in channel blocks when they do not begin at the same lane. */
#ifndef ESP_TENSOR_CHANNEL_COPY_H
#define ESP_TENSOR_CHANNEL_COPY_H

#include "base/compute.h"
#include "tensor/tensor.h"

/* to[:, to_channel + c] = from[:, from_channel + c] for c in [0, channels); other channels of `to` keep what
 * they have. Blocked views of one batch and size, which may have gaps between images and must not overlap;
 * the channels must be there on both sides. */
esp_status esp_channel_copy(const esp_compute *compute, const esp_view *from, int64_t from_channel,
                            const esp_view *to, int64_t to_channel, int64_t channels);

#endif
