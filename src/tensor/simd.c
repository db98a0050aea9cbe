/* See simd.h. */
#include "tensor/simd.h"

ESP_SIMD_CLONES
double esp_sum_f32(int64_t count, const float *x)
{
    esp_lanes lanes = {0};
    int64_t i = 0;
    for (; i + ESP_LANES <= count; i += ESP_LANES)
        lanes += ESP_LANES_FROM(x + i);
    double sum = esp_lanes_sum(&lanes);
    for (; i < count; i++)
        sum += (double)x[i];
    return sum;
}
