/* Instruction sets of the direct convolution kernels. Tiles are as large as the registers allow: 8 filters by
 * 3 vectors of 16 with AVX-512's 32 registers (24 sums, 3 inputs, 1 weight), 6 by 2 of 8 with AVX2's 16. */
#include "tensor/conv_kernels.h"

#include <stddef.h>

#if defined(__x86_64__)

#include <immintrin.h>

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 24")
#endif

/* Hardware fetches ahead only within a page of memory, and planes are about as large as a page: copies fetch
 * this many floats ahead, where one stream or where many rows at once are read. Stores retire in order, so a
 * line that must come from the second level holds up all that follow: copies ask for it ahead, too. */
enum { FETCH_AHEAD = 1024, FETCH_AHEAD_ROWS = 128, STORE_AHEAD = 96 };

#define KERNEL_INLINE KERNEL_TARGET static inline __attribute__((always_inline))

/* X(1) X(2) ... : one function per size of a tile, so that its sums are registers. */
#define UP_TO_6(X)  X(1) X(2) X(3) X(4) X(5) X(6)
#define UP_TO_8(X)  UP_TO_6(X) X(7) X(8)
#define UP_TO_12(X) UP_TO_8(X) X(9) X(10) X(11) X(12)
#define UP_TO_24(X) UP_TO_12(X) X(13) X(14) X(15) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23) X(24)

/* ---- AVX-512 ---- */

#define KERNEL(name)           name##_avx512
#define KERNEL_NAME            "avx512"
#define V_LOAD_EVEN(p, n)      load_even_avx512(p, n)
#define V_STORE_EVEN(p, v, n)  store_even_avx512(p, v, n)
#define KERNEL_TARGET          __attribute__((target("avx512f,fma")))
#define LANES                  16
#define VECTOR                 __m512
#define V_ZERO()               _mm512_setzero_ps()
#define V_SET(x)               _mm512_set1_ps(x)
#define V_LOAD(p)              _mm512_loadu_ps(p)
#define V_STORE(p, v)          _mm512_storeu_ps(p, v)
#define V_ADD(a, b)            _mm512_add_ps(a, b)
#define V_FMA(a, b, c)         _mm512_fmadd_ps(a, b, c)
#define FIRST_LANES(n)         ((__mmask16)((n) >= 16 ? 0xffffu : (1u << (n)) - 1u))
#define V_LOAD_FIRST(p, n)     _mm512_maskz_loadu_ps(FIRST_LANES(n), p)
#define V_STORE_FIRST(p, v, n) _mm512_mask_storeu_ps(p, FIRST_LANES(n), v)
#define TILE_FILTERS           8
#define FILTER_COUNTS(X)       UP_TO_8(X)
#define TILE_VECTORS           3
#define OUTER_DEPTH_1          24
#define OUTER_DEPTHS_1(X)      UP_TO_24(X)
#define OUTER_DEPTH_2          12
#define OUTER_DEPTHS_2(X)      UP_TO_12(X)

static bool is_supported_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma");
}

KERNEL_INLINE __m512 load_even_avx512(const float *p, int64_t n)
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    int64_t span = 2 * n - 1;
    return _mm512_permutex2var_ps(V_LOAD_FIRST(p, span), even,
                                  V_LOAD_FIRST(p + 16, span < 16 ? 0 : span - 16));
}

KERNEL_INLINE void store_even_avx512(float *p, __m512 v, int64_t n)
{
    const __m512i low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const __m512i high = _mm512_setr_epi32(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15);
    int64_t span = 2 * n - 1, rest = span < 16 ? 0 : span - 16;
    _mm512_mask_storeu_ps(p, (__mmask16)((unsigned)FIRST_LANES(span) & 0x5555u),
                          _mm512_permutexvar_ps(low, v));
    _mm512_mask_storeu_ps(p + 16, (__mmask16)((unsigned)FIRST_LANES(rest) & 0x5555u),
                          _mm512_permutexvar_ps(high, v));
}

/* Pairs, then quadruples of lanes inside 128-bit quarters, then the quarters among each other. */
KERNEL_INLINE void square_avx512(__m512 v[16])
{
    __m512 a[16], b[16];
    UNROLL for (int i = 0; i < 8; i++)
    {
        a[2 * i] = _mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]);
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        UNROLL for (int j = 0; j < 2; j++)
        {
            __m512d low = _mm512_castps_pd(a[4 * i + j]), high = _mm512_castps_pd(a[4 * i + 2 + j]);
            b[4 * i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            b[4 * i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        __m512 even_low = _mm512_shuffle_f32x4(b[i], b[4 + i], 0x88);
        __m512 odd_low = _mm512_shuffle_f32x4(b[i], b[4 + i], 0xdd);
        __m512 even_high = _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0x88);
        __m512 odd_high = _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0xdd);
        v[i] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
        v[8 + i] = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
        v[4 + i] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
        v[12 + i] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
    }
}

#include "tensor/conv_kernels_template.h"

/* ---- AVX2 with FMA ---- */

/* A window of eight ints that starts 8-n in has its first n lanes set. */
static const int32_t lane_masks[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

#define KERNEL(name)          name##_avx2
#define KERNEL_NAME           "avx2"
#define V_LOAD_EVEN(p, n)     load_even_avx2(p, n)
#define V_STORE_EVEN(p, v, n) store_even_avx2(p, v, n)
#define KERNEL_TARGET         __attribute__((target("avx2,fma")))
#define LANES                 8
#define VECTOR                __m256
#define V_ZERO()              _mm256_setzero_ps()
#define V_SET(x)              _mm256_set1_ps(x)
#define V_LOAD(p)             _mm256_loadu_ps(p)
#define V_STORE(p, v)         _mm256_storeu_ps(p, v)
#define V_ADD(a, b)           _mm256_add_ps(a, b)
#define V_FMA(a, b, c)        _mm256_fmadd_ps(a, b, c)
#define FIRST_LANES(n)                                                                                       \
    _mm256_loadu_si256((const __m256i *)(const void *)(lane_masks + 8 - ((n) < 8 ? (n) : 8)))
#define V_LOAD_FIRST(p, n)     _mm256_maskload_ps(p, FIRST_LANES(n))
#define V_STORE_FIRST(p, v, n) _mm256_maskstore_ps(p, FIRST_LANES(n), v)
#define TILE_FILTERS           6
#define FILTER_COUNTS(X)       UP_TO_6(X)
#define TILE_VECTORS           2
#define OUTER_DEPTH_1          12
#define OUTER_DEPTHS_1(X)      UP_TO_12(X)
#define OUTER_DEPTH_2          6
#define OUTER_DEPTHS_2(X)      UP_TO_6(X)

static bool is_supported_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

KERNEL_INLINE __m256 load_even_avx2(const float *p, int64_t n)
{
    int64_t span = 2 * n - 1;
    __m256 low = V_LOAD_FIRST(p, span), high = V_LOAD_FIRST(p + 8, span < 8 ? 0 : span - 8);
    __m256d halves = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0x88));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(halves, 0xd8));
}

KERNEL_INLINE void store_even_avx2(float *p, __m256 v, int64_t n)
{
    const __m256i even = _mm256_setr_epi32(-1, 0, -1, 0, -1, 0, -1, 0);
    const __m256i low = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3),
                  high = _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7);
    int64_t span = 2 * n - 1, rest = span < 8 ? 0 : span - 8;
    _mm256_maskstore_ps(p, _mm256_and_si256(FIRST_LANES(span), even), _mm256_permutevar8x32_ps(v, low));
    _mm256_maskstore_ps(p + 8, _mm256_and_si256(FIRST_LANES(rest), even), _mm256_permutevar8x32_ps(v, high));
}

KERNEL_INLINE void square_avx2(__m256 v[8])
{
    __m256 a[8], b[8];
    UNROLL for (int i = 0; i < 4; i++)
    {
        a[2 * i] = _mm256_unpacklo_ps(v[2 * i], v[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_ps(v[2 * i], v[2 * i + 1]);
    }
    UNROLL for (int i = 0; i < 2; i++)
    {
        UNROLL for (int j = 0; j < 2; j++)
        {
            __m256d low = _mm256_castps_pd(a[4 * i + j]), high = _mm256_castps_pd(a[4 * i + 2 + j]);
            b[4 * i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, high));
            b[4 * i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, high));
        }
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        v[i] = _mm256_permute2f128_ps(b[i], b[4 + i], 0x20);
        v[4 + i] = _mm256_permute2f128_ps(b[i], b[4 + i], 0x31);
    }
}

#include "tensor/conv_kernels_template.h"

#else

static bool is_never_supported(void)
{
    return false;
}
const conv_kernels esp_conv_avx512 = {.name = "avx512", .is_supported = is_never_supported};
const conv_kernels esp_conv_avx2 = {.name = "avx2", .is_supported = is_never_supported};

#endif
