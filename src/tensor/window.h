/* Windows that slide along one axis: what convolution and pooling share. */
#ifndef ESP_TENSOR_WINDOW_H
#define ESP_TENSOR_WINDOW_H

#include <stdint.h>

/* How many windows of `kernel` taps, `dilation` apart, start `stride` apart in `padded` places; 0 when not
 * even one fits. */
static inline int64_t esp_window_count(int64_t padded, int64_t kernel, int64_t stride, int64_t dilation)
{
    int64_t room = padded - dilation * (kernel - 1) - 1;
    return room < 0 ? 0 : room / stride + 1;
}

/* The outputs [*first, *last) whose tap at distance `tap` (already times dilation) lies in [0, size). */
static inline void esp_window_outputs(int64_t size, int64_t out_size, int64_t stride, int64_t pad,
                                      int64_t tap, int64_t *first, int64_t *last)
{
    int64_t lowest = pad - tap, highest = size - 1 + pad - tap;
    *first = lowest <= 0 ? 0 : (lowest + stride - 1) / stride;
    *last = highest < 0 ? 0 : highest / stride + 1;
    *first = *first < out_size ? *first : out_size;
    *last = *last < out_size ? *last : out_size;
    if (*last < *first)
        *last = *first;
}

/* The taps [*first, *last) of a window that lie in [0, size) when its first one is at `start`. */
static inline void esp_window_taps(int64_t start, int64_t kernel, int64_t dilation, int64_t size,
                                   int64_t *first, int64_t *last)
{
    *first = start >= 0 ? 0 : (-start + dilation - 1) / dilation;
    *last = start + (kernel - 1) * dilation < size ? kernel
            : start >= size                        ? 0
                                                   : (size - 1 - start) / dilation + 1;
    if (*first > kernel)
        *first = kernel;
    if (*last < *first)
        *last = *first;
}

#endif
