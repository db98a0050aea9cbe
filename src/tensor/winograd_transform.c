/* See winograd_transform.h. The template is included once per instruction set; vectors of the plain one are
 * four floats, which compilers map to what every processor of the family has, or to scalars. */
#include "tensor/winograd_transform.h"

#include <stddef.h>

#include "tensor/tensor.h"

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 6")
#endif
#define KERNEL_INLINE KERNEL_TARGET static inline __attribute__((always_inline))

/* ---- Plain C ---- */

typedef float lanes4 __attribute__((vector_size(16)));
typedef float lanes4_unaligned __attribute__((vector_size(16), aligned(sizeof(float)), may_alias));
typedef int32_t bits4 __attribute__((vector_size(16)));

/* Comparisons with NaN are false, so it is neither below nor above. */
static inline lanes4 clip_plain(lanes4 v, lanes4 low, lanes4 high)
{
    bits4 is_below = v < low;
    bits4 raised = ((bits4)low & is_below) | ((bits4)v & ~is_below);
    bits4 is_above = (lanes4)raised > high;
    return (lanes4)(((bits4)high & is_above) | (raised & ~is_above));
}

#define KERNEL(name) name##_plain
#define KERNEL_TARGET
#define LANES                4
#define VECTOR               lanes4
#define V_SET(x)             ((lanes4){x, x, x, x})
#define V_LOAD(p)            (*(const lanes4_unaligned *)(p))
#define V_STORE(p, v)        (*(lanes4_unaligned *)(p) = (v))
#define V_ADD(a, b)          ((a) + (b))
#define V_SUB(a, b)          ((a) - (b))
#define V_MUL(a, b)          ((a) * (b))
#define V_FMA(a, b, c)       ((a) * (b) + (c))
#define V_FNMA(a, b, c)      ((c) - (a) * (b))
#define V_CLIP(v, low, high) clip_plain(v, low, high)
#include "tensor/winograd_transform_template.h"

#if defined(__x86_64__)

#include <immintrin.h>

/* ---- AVX2 with FMA ---- */

#define KERNEL(name)         name##_avx2
#define KERNEL_TARGET        __attribute__((target("avx2,fma")))
#define LANES                8
#define VECTOR               __m256
#define V_SET(x)             _mm256_set1_ps(x)
#define V_LOAD(p)            _mm256_loadu_ps(p)
#define V_STORE(p, v)        _mm256_storeu_ps(p, v)
#define V_ADD(a, b)          _mm256_add_ps(a, b)
#define V_SUB(a, b)          _mm256_sub_ps(a, b)
#define V_MUL(a, b)          _mm256_mul_ps(a, b)
#define V_FMA(a, b, c)       _mm256_fmadd_ps(a, b, c)
#define V_FNMA(a, b, c)      _mm256_fnmadd_ps(a, b, c)
#define V_CLIP(v, low, high) _mm256_min_ps(high, _mm256_max_ps(low, v)) /* the second operand's NaN stays */
#include "tensor/winograd_transform_template.h"

/* ---- AVX-512 ---- */

#define KERNEL(name)         name##_avx512
#define KERNEL_TARGET        __attribute__((target("avx512f,fma")))
#define LANES                16
#define VECTOR               __m512
#define V_SET(x)             _mm512_set1_ps(x)
#define V_LOAD(p)            _mm512_loadu_ps(p)
#define V_STORE(p, v)        _mm512_storeu_ps(p, v)
#define V_ADD(a, b)          _mm512_add_ps(a, b)
#define V_SUB(a, b)          _mm512_sub_ps(a, b)
#define V_MUL(a, b)          _mm512_mul_ps(a, b)
#define V_FMA(a, b, c)       _mm512_fmadd_ps(a, b, c)
#define V_FNMA(a, b, c)      _mm512_fnmadd_ps(a, b, c)
#define V_CLIP(v, low, high) _mm512_min_ps(high, _mm512_max_ps(low, v))
#include "tensor/winograd_transform_template.h"

#endif

const winograd_transforms *esp_winograd_transforms(const esp_engine *engine)
{
#if defined(__x86_64__)
    if (engine->isa == ESP_ISA_AVX512)
        return &transforms_avx512;
    if (engine->isa == ESP_ISA_AVX2)
        return &transforms_avx2;
#else
    (void)engine;
#endif
    return &transforms_plain;
}
