/* Includes the file BLOCKED_TEMPLATE once per instruction set of ESP_ISA_LIST that this compiler can target,
 * the plain one always, with these words defined:
 *   LANES, VECTOR               floats of a vector, and its type; LANES divides ESP_BLOCK
 *   KERNEL(name)                the name with a suffix of the instruction set
 *   KERNEL_TARGET               attribute of functions that use it
 *   KERNEL_INLINE               the same for functions that must be inlined
 *   V_ZERO V_SET V_LOAD V_STORE V_ADD V_MUL V_FMA (a*b + c)
 *   V_MAX V_MIN                 (limit, v): a NaN in v stays
 *   UNROLL                      in front of a loop whose bounds are constants (with the address sanitizer it
 *                               means nothing: every load is checked, and unrolled code takes minutes to
 *                               compile)
 * and takes back BLOCKED_TEMPLATE. No include guard: every kernel file includes it for its own template. */
#include "tensor/tensor.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define UNROLL
#elif defined(__clang__)
#if __has_feature(address_sanitizer)
#define UNROLL
#else
#define UNROLL _Pragma("unroll")
#endif
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif
#define KERNEL_INLINE KERNEL_TARGET static inline __attribute__((always_inline))

/* ---- plain: what the compiler makes of four floats ---- */

#ifndef ESP_BLOCKED_PLAIN_VECTOR
#define ESP_BLOCKED_PLAIN_VECTOR
typedef float blocked_plain_vector __attribute__((vector_size(16)));
typedef float blocked_plain_memory __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t blocked_plain_mask __attribute__((vector_size(16)));

static inline blocked_plain_vector blocked_plain_select(blocked_plain_mask is_first, blocked_plain_vector a,
                                                        blocked_plain_vector b)
{
    return (blocked_plain_vector)((is_first & (blocked_plain_mask)a) | (~is_first & (blocked_plain_mask)b));
}
#endif

#define LANES        4
#define VECTOR       blocked_plain_vector
#define KERNEL(name) name##_plain
#define KERNEL_TARGET
#define V_ZERO()        ((blocked_plain_vector){0})
#define V_SET(x)        ((blocked_plain_vector){0} + (x))
#define V_LOAD(p)       (*(const blocked_plain_memory *)(p))
#define V_STORE(p, v)   (*(blocked_plain_memory *)(p) = (v))
#define V_ADD(a, b)     ((a) + (b))
#define V_MUL(a, b)     ((a) * (b))
#define V_FMA(a, b, c)  ((a) * (b) + (c))
#define V_MAX(limit, v) blocked_plain_select((limit) > (v), limit, v)
#define V_MIN(limit, v) blocked_plain_select((limit) < (v), limit, v)
#include BLOCKED_TEMPLATE
#undef LANES
#undef VECTOR
#undef KERNEL
#undef KERNEL_TARGET
#undef V_ZERO
#undef V_SET
#undef V_LOAD
#undef V_STORE
#undef V_ADD
#undef V_MUL
#undef V_FMA
#undef V_MAX
#undef V_MIN

#if defined(__x86_64__)

/* ---- AVX2 with FMA ---- */

#define LANES           8
#define VECTOR          __m256
#define KERNEL(name)    name##_avx2
#define KERNEL_TARGET   __attribute__((target("avx2,fma")))
#define V_ZERO()        _mm256_setzero_ps()
#define V_SET(x)        _mm256_set1_ps(x)
#define V_LOAD(p)       _mm256_loadu_ps(p)
#define V_STORE(p, v)   _mm256_storeu_ps(p, v)
#define V_ADD(a, b)     _mm256_add_ps(a, b)
#define V_MUL(a, b)     _mm256_mul_ps(a, b)
#define V_FMA(a, b, c)  _mm256_fmadd_ps(a, b, c)
#define V_MAX(limit, v) _mm256_max_ps(limit, v)
#define V_MIN(limit, v) _mm256_min_ps(limit, v)
#include BLOCKED_TEMPLATE
#undef LANES
#undef VECTOR
#undef KERNEL
#undef KERNEL_TARGET
#undef V_ZERO
#undef V_SET
#undef V_LOAD
#undef V_STORE
#undef V_ADD
#undef V_MUL
#undef V_FMA
#undef V_MAX
#undef V_MIN

/* ---- AVX-512F ---- */

#define LANES           16
#define VECTOR          __m512
#define KERNEL(name)    name##_avx512
#define KERNEL_TARGET   __attribute__((target("avx512f,fma")))
#define V_ZERO()        _mm512_setzero_ps()
#define V_SET(x)        _mm512_set1_ps(x)
#define V_LOAD(p)       _mm512_loadu_ps(p)
#define V_STORE(p, v)   _mm512_storeu_ps(p, v)
#define V_ADD(a, b)     _mm512_add_ps(a, b)
#define V_MUL(a, b)     _mm512_mul_ps(a, b)
#define V_FMA(a, b, c)  _mm512_fmadd_ps(a, b, c)
#define V_MAX(limit, v) _mm512_max_ps(limit, v)
#define V_MIN(limit, v) _mm512_min_ps(limit, v)
#include BLOCKED_TEMPLATE
#undef LANES
#undef VECTOR
#undef KERNEL
#undef KERNEL_TARGET
#undef V_ZERO
#undef V_SET
#undef V_LOAD
#undef V_STORE
#undef V_ADD
#undef V_MUL
#undef V_FMA
#undef V_MAX
#undef V_MIN

#endif

#undef UNROLL
#undef KERNEL_INLINE
#undef BLOCKED_TEMPLATE
