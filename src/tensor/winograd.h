/* Convolution by Winograd's minimal filtering F(4x4,3x3): 36 multiplications where the definition has 144,
 * for 3x3 kernels of stride 1, dilation 1 and group 1. Used where esp_engine.has_winograd allows it and where
 * it is faster; this file says what it costs in accuracy and in memory.
 *
 * Accuracy. With u = 2^-24, every output y computed from `channels` channels differs from the exact one by at
 * most
 *     (channels + 30) * 2304 * u * sum over c of X_c * W_c
 * where X_c is the largest |x| of channel c in the 6x6 patch that the output's 4x4 tile reads, W_c the
 * largest |w| of the 9 weights. 2304 is the square of 48, the largest row sum of |A'| (|G| 1 . |B'| 1): how
 * much the transforms can amplify; `channels + 30` counts the roundings on the way of one value. The bound
 * holds for any input that does not overflow, and is far from what is seen: with normally or uniformly
 * distributed x and w the root mean square of the error is 1.0e-7 to 1.4e-7 of that of `sum |x| |w|` over the
 * products of an output (direct convolution: 0.3e-7), or 1e-6, 2e-6 and 4e-6 of that of y with 16, 64 and 512
 * channels. The last row and column of a tile have the largest errors, three times those figures in its last
 * corner.
 *
 * What else differs from a direct sum: an error is relative to the largest value *nearby*, so a pixel next to
 * much larger ones of its tile loses digits; an infinity or NaN in a patch makes the whole tile NaN; values
 * above 1e36 can overflow.
 *
 * Memory. Transformed weights take 36/9 = 4 times the plain ones (filters rounded up to 16). They are packed
 * only for up to 64 channels and filters; more weights are packed as they are and transformed in every run, a
 * part at a time. */
#ifndef ESP_TENSOR_WINOGRAD_H
#define ESP_TENSOR_WINOGRAD_H

#include <stdint.h>

/* The factor of `sum over c of X_c * W_c` above. */
static inline double esp_winograd_error_bound(int64_t channels)
{
    return (double)(channels + 30) * 2304.0 * 0x1p-24;
}

/* For values of similar size, the error's root mean square over that of `sum |x| |w|` stays below this. */
#define ESP_WINOGRAD_USUAL_ERROR 2e-7

#endif
