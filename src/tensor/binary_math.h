/* What the rows of binary.def need, for the files that make loops of them. */
#ifndef ESP_TENSOR_BINARY_MATH_H
#define ESP_TENSOR_BINARY_MATH_H

#include <math.h>

/* p^q; exporters write squares, cubes and their slopes this way. */
static inline float esp_pow_f32(float p, float q)
{
    if (q == 2.0f)
        return p * p;
    return q == 1.0f ? p : powf(p, q);
}

#endif
