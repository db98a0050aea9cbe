/* Instruction sets chosen at run time, and the vector type of loops that add up.
 *
 * A function marked ESP_SIMD_CLONES is compiled once per instruction set named here and the loader picks the
 * best one; its loops are plain C that the compiler vectorises. Where that mechanism is missing (other
 * processors, clang, sanitizer builds, whose run-time checks cannot run that early) the mark means nothing
 * and results stay correct. */
#ifndef ESP_TENSOR_SIMD_H
#define ESP_TENSOR_SIMD_H

#include <stdint.h>

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) &&             \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && defined(__OPTIMIZE__)
#define ESP_SIMD_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ESP_SIMD_CLONES
#endif

/* Sixteen floats that are added lane by lane: the compiler may not reorder a sum by itself, so sums are
 * written with sixteen running parts. The order is then the same for every instruction set. */
enum { ESP_LANES = 16 };
typedef float esp_lanes __attribute__((vector_size(ESP_LANES * sizeof(float))));
typedef float esp_lanes_unaligned
    __attribute__((vector_size(ESP_LANES * sizeof(float)), aligned(sizeof(float)), may_alias));

/* The sixteen floats at `pointer`, as a value or to assign to. */
#define ESP_LANES_AT(pointer)   (*(esp_lanes_unaligned *)(pointer))
#define ESP_LANES_FROM(pointer) (*(const esp_lanes_unaligned *)(pointer))

/* The sum of the parts, in order. */
static inline double esp_lanes_sum(const esp_lanes *lanes)
{
    double sum = 0.0;
    for (int lane = 0; lane < ESP_LANES; lane++)
        sum += (double)(*lanes)[lane];
    return sum;
}

/* The sum of `count` floats: lanes in float, then the lanes and what is left over in double. For runs of up
 * to some thousand; longer ones lose digits in the lanes. */
double esp_sum_f32(int64_t count, const float *x);

/* Kernels over flat arrays work in tiles of this many floats, whatever the number of threads. */
enum { ESP_FLAT_TILE = 16384 };

static inline int64_t esp_tile_count(int64_t count, int64_t tile)
{
    return (count + tile - 1) / tile;
}

static inline int64_t esp_tile_end(int64_t start, int64_t tile, int64_t count)
{
    return start + tile < count ? start + tile : count;
}

/* How many rows of `length` floats make a tile. */
static inline int64_t esp_tile_rows(int64_t length)
{
    return length >= ESP_FLAT_TILE ? 1 : ESP_FLAT_TILE / (length > 0 ? length : 1);
}

#endif
