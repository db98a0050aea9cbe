/* Instruction sets of the group convolution kernels. A tile of F filters by V vectors costs F + V loads (F of
 * them broadcasts of weights) for F*V multiply-adds, and two multiply-adds per cycle need some eight sums
 * that do not wait for each other. So short blocks of filters get many vectors, tall ones few: 6 by 4, 8 by 3
 * and 12 by 2 all reach the peak with AVX-512's 32 registers (measured on Zen 5), 4 by 3 and 6 by 2 come
 * close with AVX2's 16. Blocks of one to three filters stay below it: waiting for sums, or for loads. */
#include "tensor/group_conv_kernels.h"

#include <stddef.h>

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 24")
#endif

#define KERNEL_INLINE KERNEL_TARGET static inline __attribute__((always_inline))

#define UP_TO_2(X, filters) X(filters, 1) X(filters, 2)
#define UP_TO_3(X, filters) UP_TO_2(X, filters) X(filters, 3)
#define UP_TO_4(X, filters) UP_TO_3(X, filters) X(filters, 4)

#if defined(__x86_64__)

#include <immintrin.h>

/* ---- AVX-512 ---- */

#define KERNEL(name)             name##_avx512
#define KERNEL_TARGET            __attribute__((target("avx512f,fma")))
#define KERNEL_ISA               ESP_ISA_AVX512
#define LANES                    16
#define VECTOR                   __m512
#define MASK                     __mmask16
#define V_FIRST(n)               ((__mmask16)(0xffffu >> (16 - (n))))
#define V_ZERO()                 _mm512_setzero_ps()
#define V_SET(x)                 _mm512_set1_ps(x)
#define V_LOAD(p)                _mm512_loadu_ps(p)
#define V_STORE(p, v)            _mm512_storeu_ps(p, v)
#define V_STREAM(p, v)           _mm512_stream_ps(p, v)
#define V_ADD(a, b)              _mm512_add_ps(a, b)
#define V_SUB(a, b)              _mm512_sub_ps(a, b)
#define V_FMA(a, b, c)           _mm512_fmadd_ps(a, b, c)
#define V_FNMA(a, b, c)          _mm512_fnmadd_ps(a, b, c)
#define V_CLIP(v, low, high)     _mm512_min_ps(high, _mm512_max_ps(low, v)) /* the second operand's NaN stays */
#define V_LOAD_MASK(p, mask)     _mm512_maskz_loadu_ps(mask, p)
#define V_STORE_MASK(p, mask, v) _mm512_mask_storeu_ps(p, mask, v)
#define TILE_FILTERS             12
#define HAS_FEW                  1
#define TILE_SIZES(X)                                                                                        \
    UP_TO_4(X, 1)                                                                                            \
    UP_TO_4(X, 2)                                                                                            \
    UP_TO_4(X, 3)                                                                                            \
    UP_TO_4(X, 4)                                                                                            \
    UP_TO_4(X, 5)                                                                                            \
    UP_TO_4(X, 6)                                                                                            \
    UP_TO_3(X, 7)                                                                                            \
    UP_TO_3(X, 8)                                                                                            \
    UP_TO_2(X, 9)                                                                                            \
    UP_TO_2(X, 10)                                                                                           \
    UP_TO_2(X, 11)                                                                                           \
    UP_TO_2(X, 12)
#define TILE_VECTORS                                                                                         \
    {                                                                                                        \
        0, 4, 4, 4, 4, 4, 4, 3, 3, 2, 2, 2, 2                                                                \
    }

KERNEL_INLINE __m512 take_avx512(const group_copy *copy, int64_t step, const float *p)
{
    const uint32_t mask = copy->mask;
    if (step == 1)
        return V_LOAD_MASK(p, (__mmask16)mask);
    if (step == 2) {
        const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        return _mm512_permutex2var_ps(V_LOAD_MASK(p, (__mmask16)(mask & 0xffffu)), even,
                                      V_LOAD_MASK(p + 16, (__mmask16)(mask >> 16)));
    }
    _Alignas(64) float values[16] = {0};
    for (int64_t i = copy->begin; i < 16 && i < copy->end; i++)
        values[i] = p[i * step];
    return _mm512_load_ps(values);
}

/* Evens and odds of pairs, then of the pairs' halves. */
KERNEL_INLINE void split_avx512(const float *p, __m512 out[4])
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    __m512 a = V_LOAD(p), b = V_LOAD(p + 16), c = V_LOAD(p + 32), d = V_LOAD(p + 48);
    __m512 even_low = _mm512_permutex2var_ps(a, even, b), even_high = _mm512_permutex2var_ps(c, even, d);
    __m512 odd_low = _mm512_permutex2var_ps(a, odd, b), odd_high = _mm512_permutex2var_ps(c, odd, d);
    out[0] = _mm512_permutex2var_ps(even_low, even, even_high);
    out[1] = _mm512_permutex2var_ps(odd_low, even, odd_high);
    out[2] = _mm512_permutex2var_ps(even_low, odd, even_high);
    out[3] = _mm512_permutex2var_ps(odd_low, odd, odd_high);
}

/* Quadruples inside 128-bit quarters, then the quarters among each other. */
KERNEL_INLINE void weave_avx512(const __m512 v[4], float *p)
{
    __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(v[0], v[1])),
            b = _mm512_castps_pd(_mm512_unpacklo_ps(v[2], v[3]));
    __m512d c = _mm512_castps_pd(_mm512_unpackhi_ps(v[0], v[1])),
            d = _mm512_castps_pd(_mm512_unpackhi_ps(v[2], v[3]));
    __m512 r0 = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), r1 = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    __m512 r2 = _mm512_castpd_ps(_mm512_unpacklo_pd(c, d)), r3 = _mm512_castpd_ps(_mm512_unpackhi_pd(c, d));
    __m512 low01 = _mm512_shuffle_f32x4(r0, r1, 0x44), low23 = _mm512_shuffle_f32x4(r2, r3, 0x44);
    __m512 high01 = _mm512_shuffle_f32x4(r0, r1, 0xee), high23 = _mm512_shuffle_f32x4(r2, r3, 0xee);
    V_STORE(p, _mm512_shuffle_f32x4(low01, low23, 0x88));
    V_STORE(p + 16, _mm512_shuffle_f32x4(low01, low23, 0xdd));
    V_STORE(p + 32, _mm512_shuffle_f32x4(high01, high23, 0x88));
    V_STORE(p + 48, _mm512_shuffle_f32x4(high01, high23, 0xdd));
}

#include "tensor/group_conv_kernels_template.h"

/* ---- AVX2 with FMA ---- */

/* A window of eight ints that starts 8-n in has its first n lanes set. */
static const int32_t lane_masks[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

#define KERNEL(name)             name##_avx2
#define KERNEL_TARGET            __attribute__((target("avx2,fma")))
#define KERNEL_ISA               ESP_ISA_AVX2
#define LANES                    8
#define VECTOR                   __m256
#define MASK                     __m256i
#define V_FIRST(n)               _mm256_loadu_si256((const __m256i *)(const void *)(lane_masks + 8 - (n)))
#define V_ZERO()                 _mm256_setzero_ps()
#define V_SET(x)                 _mm256_set1_ps(x)
#define V_LOAD(p)                _mm256_loadu_ps(p)
#define V_STORE(p, v)            _mm256_storeu_ps(p, v)
#define V_STREAM(p, v)           _mm256_stream_ps(p, v)
#define V_ADD(a, b)              _mm256_add_ps(a, b)
#define V_SUB(a, b)              _mm256_sub_ps(a, b)
#define V_FMA(a, b, c)           _mm256_fmadd_ps(a, b, c)
#define V_FNMA(a, b, c)          _mm256_fnmadd_ps(a, b, c)
#define V_CLIP(v, low, high)     _mm256_min_ps(high, _mm256_max_ps(low, v))
#define V_LOAD_MASK(p, mask)     _mm256_maskload_ps(p, mask)
#define V_STORE_MASK(p, mask, v) _mm256_maskstore_ps(p, mask, v)
#define TILE_FILTERS             6
#define HAS_FEW                  0
#define TILE_SIZES(X)                                                                                        \
    UP_TO_4(X, 1)                                                                                            \
    UP_TO_4(X, 2)                                                                                            \
    UP_TO_3(X, 3)                                                                                            \
    UP_TO_3(X, 4)                                                                                            \
    UP_TO_2(X, 5)                                                                                            \
    UP_TO_2(X, 6)
#define TILE_VECTORS                                                                                         \
    {                                                                                                        \
        0, 4, 4, 3, 3, 2, 2                                                                                  \
    }

KERNEL_INLINE __m256 take_avx2(const group_copy *copy, int64_t step, const float *p)
{
    const int64_t first = copy->begin, last = copy->end < 8 ? copy->end : 8;
    if (step == 1)
        return V_LOAD_MASK(p, _mm256_andnot_si256(V_FIRST(first), V_FIRST(last)));
    if (step == 2 && first == 0 && copy->end > 8) {
        __m256d halves = _mm256_castps_pd(_mm256_shuffle_ps(V_LOAD(p), V_LOAD(p + 8), 0x88));
        return _mm256_castpd_ps(_mm256_permute4x64_pd(halves, 0xd8));
    }
    _Alignas(32) float values[8] = {0};
    for (int64_t i = first; i < last; i++)
        values[i] = p[i * step];
    return _mm256_load_ps(values);
}

/* The inverse of weave: halves apart, then quadruples inside 128-bit halves. */
KERNEL_INLINE void split_avx2(const float *p, __m256 out[4])
{
    __m256 a = V_LOAD(p), b = V_LOAD(p + 8), c = V_LOAD(p + 16), d = V_LOAD(p + 24);
    /* Lanes are tiles 0 4, 1 5, 2 6, 3 7 of two quadruples each. */
    __m256 r0 = _mm256_permute2f128_ps(a, c, 0x20), r1 = _mm256_permute2f128_ps(a, c, 0x31);
    __m256 r2 = _mm256_permute2f128_ps(b, d, 0x20), r3 = _mm256_permute2f128_ps(b, d, 0x31);
    __m256 low01 = _mm256_unpacklo_ps(r0, r1), low23 = _mm256_unpacklo_ps(r2, r3);
    __m256 high01 = _mm256_unpackhi_ps(r0, r1), high23 = _mm256_unpackhi_ps(r2, r3);
    out[0] = _mm256_shuffle_ps(low01, low23, 0x44);
    out[1] = _mm256_shuffle_ps(low01, low23, 0xee);
    out[2] = _mm256_shuffle_ps(high01, high23, 0x44);
    out[3] = _mm256_shuffle_ps(high01, high23, 0xee);
}

KERNEL_INLINE void weave_avx2(const __m256 v[4], float *p)
{
    __m256 low01 = _mm256_unpacklo_ps(v[0], v[1]), low23 = _mm256_unpacklo_ps(v[2], v[3]);
    __m256 high01 = _mm256_unpackhi_ps(v[0], v[1]), high23 = _mm256_unpackhi_ps(v[2], v[3]);
    __m256 r0 = _mm256_shuffle_ps(low01, low23, 0x44), r1 = _mm256_shuffle_ps(low01, low23, 0xee);
    __m256 r2 = _mm256_shuffle_ps(high01, high23, 0x44), r3 = _mm256_shuffle_ps(high01, high23, 0xee);
    V_STORE(p, _mm256_permute2f128_ps(r0, r1, 0x20));
    V_STORE(p + 8, _mm256_permute2f128_ps(r2, r3, 0x20));
    V_STORE(p + 16, _mm256_permute2f128_ps(r0, r1, 0x31));
    V_STORE(p + 24, _mm256_permute2f128_ps(r2, r3, 0x31));
}

#include "tensor/group_conv_kernels_template.h"

#endif

/* ---- plain: what the compiler makes of four floats ---- */

typedef float plain_vector __attribute__((vector_size(16)));
typedef float plain_memory __attribute__((vector_size(16), aligned(4), may_alias));

static inline plain_vector clip_plain(plain_vector v, plain_vector low, plain_vector high)
{
    for (int i = 0; i < 4; i++) {
        float raised = low[i] > v[i] ? low[i] : v[i];
        v[i] = high[i] < raised ? high[i] : raised;
    }
    return v;
}

static inline plain_vector take_plain(const group_copy *copy, int64_t step, const float *p)
{
    plain_vector v = {0};
    if (step == 1 && copy->begin == 0 && copy->end >= 4)
        return *(const plain_memory *)p;
    for (int64_t i = copy->begin; i < 4 && i < copy->end; i++)
        v[i] = p[i * step];
    return v;
}

static inline plain_vector load_mask_plain(const float *p, int count)
{
    plain_vector v = {0};
    if (count == 4)
        return *(const plain_memory *)p;
    for (int i = 0; i < count; i++)
        v[i] = p[i];
    return v;
}

static inline void store_mask_plain(float *p, int count, plain_vector v)
{
    for (int i = 0; i < count; i++)
        p[i] = v[i];
}

static inline void split_plain(const float *p, plain_vector out[4])
{
    for (int t = 0; t < 4; t++)
        for (int j = 0; j < 4; j++)
            out[j][t] = p[4 * t + j];
}

static inline void weave_plain(const plain_vector v[4], float *p)
{
    for (int t = 0; t < 4; t++)
        for (int j = 0; j < 4; j++)
            p[4 * t + j] = v[j][t];
}

#define KERNEL(name) name##_plain
#define KERNEL_TARGET
#define KERNEL_ISA               ESP_ISA_PLAIN
#define LANES                    4
#define VECTOR                   plain_vector
#define MASK                     int
#define V_FIRST(n)               ((int)(n))
#define V_ZERO()                 ((plain_vector){0})
#define V_SET(x)                 ((plain_vector){0} + (x))
#define V_LOAD(p)                (*(const plain_memory *)(p))
#define V_STORE(p, v)            (*(plain_memory *)(p) = (v))
#define V_STREAM(p, v)           V_STORE(p, v)
#define V_ADD(a, b)              ((a) + (b))
#define V_SUB(a, b)              ((a) - (b))
#define V_FMA(a, b, c)           ((a) * (b) + (c))
#define V_FNMA(a, b, c)          ((c) - (a) * (b))
#define V_CLIP(v, low, high)     clip_plain(v, low, high)
#define V_LOAD_MASK(p, mask)     load_mask_plain(p, mask)
#define V_STORE_MASK(p, mask, v) store_mask_plain(p, mask, v)
#define TILE_FILTERS             6
#define HAS_FEW                  0
#define TILE_SIZES(X)                                                                                        \
    UP_TO_4(X, 1)                                                                                            \
    UP_TO_4(X, 2)                                                                                            \
    UP_TO_3(X, 3)                                                                                            \
    UP_TO_3(X, 4)                                                                                            \
    UP_TO_2(X, 5)                                                                                            \
    UP_TO_2(X, 6)
#define TILE_VECTORS                                                                                         \
    {                                                                                                        \
        0, 4, 4, 3, 3, 2, 2                                                                                  \
    }
#include "tensor/group_conv_kernels_template.h"

const group_kernels *esp_group_kernels(const esp_engine *engine)
{
#if defined(__x86_64__)
    if (engine->isa == ESP_ISA_AVX512)
        return &kernels_avx512;
    if (engine->isa == ESP_ISA_AVX2)
        return &kernels_avx2;
#endif
    (void)engine;
    return &kernels_plain;
}
