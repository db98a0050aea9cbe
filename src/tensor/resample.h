/* Linear resampling along one axis: every output position is a weighted sum of a few input positions. Chains
 * of it make linear and cubic interpolation of any number of axes, with and without antialiasing. */
#ifndef ESP_TENSOR_RESAMPLE_H
#define ESP_TENSOR_RESAMPLE_H

#include "base/compute.h"

/* x [outer, in, inner] -> y [outer, out, inner]: y[o, j, i] = sum over k of weights[j, k] * x[o, sources[j,
 * k], i], `taps` terms each. */
typedef struct esp_resample {
    int64_t outer, in, out, inner, taps;
    const int64_t *sources; /* [out, taps], each in [0, in) */
    const float *weights;   /* [out, taps] */
} esp_resample;

esp_status esp_resample_forward(const esp_compute *compute, const esp_resample *resample, const float *x,
                                float *y);

/* dx, overwritten. */
esp_status esp_resample_backward(const esp_compute *compute, const esp_resample *resample, const float *dy,
                                 float *dx);

#endif
