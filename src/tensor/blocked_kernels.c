/* The convolution kernels in channel blocks, for each instruction set. A pixel's channel is broadcast and
 * multiplied by a vector of filters, so a tile of P pixels by V vectors costs P + V loads for P*V
 * multiply-adds. Tiles are as large as the registers allow: 14 pixels by 2 vectors of 16 with AVX-512's 32
 * registers (28 sums, 2 weights, 1 pixel), 6 by 2 of 8 with AVX2's 16. Plain C is written for 16 registers of
 * 4 floats, 3 pixels by 4 vectors. */
#include "tensor/blocked_kernels.h"

#include <stddef.h>

#include "base/memory.h"
#include "tensor/conv_kernels.h"
#include "tensor/tensor.h"

/* X(1, ...) X(2, ...) : one function per size of a tile, so that its sums are registers. */
/* clang-format off: lists without separators. */
#define UP_TO_3(X, ...) X(1, __VA_ARGS__) X(2, __VA_ARGS__) X(3, __VA_ARGS__)
#define UP_TO_6(X, ...) UP_TO_3(X, __VA_ARGS__) X(4, __VA_ARGS__) X(5, __VA_ARGS__) X(6, __VA_ARGS__)
#define UP_TO_10(X, ...)                                                                                     \
    UP_TO_6(X, __VA_ARGS__) X(7, __VA_ARGS__) X(8, __VA_ARGS__) X(9, __VA_ARGS__) X(10, __VA_ARGS__)
#define UP_TO_14(X, ...)                                                                                     \
    UP_TO_10(X, __VA_ARGS__) X(11, __VA_ARGS__) X(12, __VA_ARGS__) X(13, __VA_ARGS__) X(14, __VA_ARGS__)
/* clang-format on */

#if defined(__x86_64__)
static void transpose_avx512(int64_t rows, int64_t padded_rows, int64_t columns, const float *source,
                             int64_t source_stride, float *target, int64_t target_stride)
{
    esp_conv_avx512.transpose(rows, padded_rows, columns, source, source_stride, target, target_stride);
}
static void transpose_avx2(int64_t rows, int64_t padded_rows, int64_t columns, const float *source,
                           int64_t source_stride, float *target, int64_t target_stride)
{
    esp_conv_avx2.transpose(rows, padded_rows, columns, source, source_stride, target, target_stride);
}
#endif

static void transpose_plain(int64_t rows, int64_t padded_rows, int64_t columns, const float *source,
                            int64_t source_stride, float *target, int64_t target_stride)
{
    for (int64_t column = 0; column < columns; column++)
        for (int64_t row = 0; row < padded_rows; row++)
            target[column * target_stride + row] = row < rows ? source[row * source_stride + column] : 0.0f;
}

#define BLOCKED_TEMPLATE "tensor/blocked_kernels_template.h"
#include "tensor/blocked_isas.h"

const blocked_kernels *esp_blocked_kernels(const esp_engine *engine)
{
#if defined(__x86_64__)
    if (engine->isa == ESP_ISA_AVX512)
        return &blocked_kernels_avx512;
    if (engine->isa == ESP_ISA_AVX2)
        return &blocked_kernels_avx2;
#endif
    (void)engine;
    return &blocked_kernels_plain;
}
