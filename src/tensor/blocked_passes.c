/* See blocked_passes.h. The loops are in blocked_passes_template.h, compiled once per instruction set. */
#include "tensor/blocked_passes.h"

#include <math.h>

#include "tensor/engine.h"
#include "tensor/window.h"

blocked_window esp_blocked_window(const esp_pool2d_geometry *g, int64_t row, int64_t column)
{
    int64_t y = row * g->stride_h - g->pad_top, x = column * g->stride_w - g->pad_left;
    int64_t first_y, end_y, first_x, end_x;
    esp_window_taps(y, g->kernel_h, g->dilation_h, g->height, &first_y, &end_y);
    esp_window_taps(x, g->kernel_w, g->dilation_w, g->width, &first_x, &end_x);
    return (blocked_window){
        .rows = end_y - first_y,
        .columns = end_x - first_x,
        .last_y = y + (end_y - 1) * g->dilation_h,
        .offset = ((y + first_y * g->dilation_h) * g->width + x + first_x * g->dilation_w) * ESP_BLOCK,
        .row_step = g->dilation_h * g->width * ESP_BLOCK,
        .step_x = g->dilation_w * ESP_BLOCK,
    };
}

void esp_blocked_whole_columns(const esp_pool2d_geometry *g, int64_t *first, int64_t *end)
{
    int64_t room = g->width - 1 - (g->kernel_w - 1) * g->dilation_w + g->pad_left;
    *first = (g->pad_left + g->stride_w - 1) / g->stride_w;
    *end = room < 0 ? 0 : room / g->stride_w + 1;
}

#define BLOCKED_TEMPLATE "tensor/blocked_passes_template.h"
#include "tensor/blocked_isas.h"

const blocked_passes *esp_blocked_passes(void)
{
    switch (esp_engine_default()->isa) {
#if defined(__x86_64__)
    case ESP_ISA_AVX512:
        return &passes_avx512;
    case ESP_ISA_AVX2:
        return &passes_avx2;
#endif
    default:
        return &passes_plain;
    }
}
