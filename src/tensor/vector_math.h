/* Exponential, logistic and error functions in float32 that a compiler can vectorise: no calls, no tables, no
 * branches. Each is within some units in the last place of the exact value; NaN stays NaN, infinities and
 * results too large or too small are as in the C library. (Range reduction as in Cody and Waite 1980,
 * polynomials fitted to double precision values.) */
#ifndef ESP_TENSOR_VECTOR_MATH_H
#define ESP_TENSOR_VECTOR_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* A loop whose iterations are independent even where its arrays are the same: y = f(x) in place. */
#if defined(__GNUC__) && !defined(__clang__)
#define ESP_INDEPENDENT _Pragma("GCC ivdep")
#else
#define ESP_INDEPENDENT
#endif

static inline uint32_t esp_float_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float esp_float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* x = n ln 2 + r, |r| <= ln 2 / 2: e^r - 1 into `*less_one`, and 2^n in two factors, since 2^n itself may be
 * no float. */
static inline void esp_exp_parts(float x, float *less_one, float *factor, float *more)
{
    const float round_here = 12582912.0f; /* 1.5 * 2^23: adding it leaves the integer in the last bits */
    float low = x < -104.0f ? -104.0f : x, kept = low > 89.0f ? 89.0f : low;
    float shifted = kept * 1.44269504f + round_here, n = shifted - round_here;
    float r = (kept - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    *less_one = p * r * r + r;
    int32_t power = (int32_t)(esp_float_bits(shifted) - esp_float_bits(round_here)), half = power >> 1;
    *factor = esp_float_of((uint32_t)(half + 127) << 23);
    *more = esp_float_of((uint32_t)(power - half + 127) << 23);
}

static inline float esp_exp_f32(float x)
{
    float less_one, factor, more;
    esp_exp_parts(x, &less_one, &factor, &more);
    return (1.0f + less_one) * factor * more;
}

/* e^x - 1 */
static inline float esp_expm1_f32(float x)
{
    float less_one, factor, more;
    esp_exp_parts(x, &less_one, &factor, &more);
    float far = (1.0f + less_one) * factor * more - 1.0f;
    return fabsf(x) < 0.34f ? less_one : far;
}

/* 1 / (1 + e^-x) */
static inline float esp_sigmoid_f32(float x)
{
    return 1.0f / (1.0f + esp_exp_f32(-x));
}

static inline float esp_tanh_f32(float x)
{
    float z = x * x, p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z + -5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z + -3.33332819422e-1f;
    float near = p * z * x + x;
    float size = 1.0f - 2.0f / (esp_exp_f32(2.0f * fabsf(x)) + 1.0f);
    float far = x < 0.0f ? -size : size;
    return fabsf(x) < 0.625f ? near : far;
}

/* log(1 + e^x): the series of 2 artanh(s), s <= 1/3 */
static inline float esp_softplus_f32(float x)
{
    float e = esp_exp_f32(-fabsf(x)), s = e / (2.0f + e), z = s * s, p = 2.0f / 13.0f;
    p = p * z + 2.0f / 11.0f;
    p = p * z + 2.0f / 9.0f;
    p = p * z + 2.0f / 7.0f;
    p = p * z + 2.0f / 5.0f;
    p = p * z + 2.0f / 3.0f;
    p = p * z + 2.0f;
    return (x < 0.0f ? 0.0f : x) + p * s;
}

/* The error function: a polynomial up to 1, 1 - e^(-x x) times one of 1 / (1 + |x| / 2) from there on. */
static inline float esp_erf_f32(float x)
{
    float size = fabsf(x), z = x * x, t = 1.0f / (1.0f + 0.5f * size);
    float p = 7.882497448e-5f, q = -5.354061723e-2f;
    p = p * z + -8.018855006e-4f;
    p = p * z + 5.189312156e-3f;
    p = p * z + -2.685432881e-2f;
    p = p * z + 1.128359735e-1f;
    p = p * z + -3.761262596e-1f;
    p = p * z + 1.128379107f;
    q = q * t + -5.733873695e-2f;
    q = q * t + 4.038383663e-1f;
    q = q * t + 1.012682468e-1f;
    q = q * t + 3.308406770e-1f;
    q = q * t + 2.736181617e-1f;
    q = q * t + 6.064087502e-4f;
    float rest = 1.0f - q * esp_exp_f32(-z);
    float far = size > 4.0f ? 1.0f : rest; /* the next float is 1; the polynomial ends here */
    far = x < 0.0f ? -far : far;
    return size < 1.0f ? p * x : far;
}

#endif
