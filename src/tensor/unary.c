/* Functions of one number and their gradients, made from the rows of unary.def: a loop over a tile for each,
 * compiled for every instruction set (simd.h). */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize(                                                                                        \
    "no-trapping-math") /* exception flags are nobody's: a comparison may become a selection */
#endif

#include "tensor/elementwise.h"

#include "tensor/simd.h"
#include "tensor/vector_math.h"

static inline float clip(float x, float low, float high)
{
    float raised = x < low ? low : x;
    return raised > high ? high : raised;
}

/* tanh(log(1 + e^x)) = w / (w + 2) with w = e^2x + 2 e^x, which is 1 in float from 20 on. */
static inline float tanh_softplus(float x)
{
    float e = esp_exp_f32(x > 20.0f ? 20.0f : x), w = e * e + 2.0f * e;
    return w / (w + 2.0f);
}

static inline float mish_slope(float x)
{
    float e = esp_exp_f32(x > 20.0f ? 20.0f : x), w = e * e + 2.0f * e;
    float slope = 4.0f * (e * e + e) / ((w + 2.0f) * (w + 2.0f));
    return w / (w + 2.0f) + clip(x, -100.0f, 100.0f) * slope;
}

/* The chance that a normally distributed number is below x. */
static inline float normal_below(float x)
{
    return 0.5f * (1.0f + esp_erf_f32(x * 0.707106781f));
}

static inline float gelu_slope(float x)
{
    return normal_below(x) + clip(x, -100.0f, 100.0f) * 0.398942280f * esp_exp_f32(-0.5f * x * x);
}

/* x (1 + tanh u) / 2 = x / (1 + e^-2u), u = sqrt(2/pi) (x + 0.044715 x^3) */
static inline float gelu_tanh(float x)
{
    return x * esp_sigmoid_f32(1.59576912f * (x + 0.044715f * x * x * x));
}

static inline float gelu_tanh_slope(float x)
{
    float bounded = clip(x, -100.0f, 100.0f), square = bounded * bounded;
    float s = esp_sigmoid_f32(1.59576912f * bounded * (1.0f + 0.044715f * square));
    return s + bounded * s * (1.0f - s) * 1.59576912f * (1.0f + 0.134145f * square);
}

static inline float shrink(float x, float bias, float lambda)
{
    float inside = x < -lambda ? x + bias : (x > lambda ? x - bias : 0.0f);
    return x != x ? x : inside;
}

/* In the default rounding mode an addition rounds half to even; from 2^23 on there is nothing to round. */
static inline float half_to_even(float x)
{
    float size = fabsf(x), rounded = (size + 8388608.0f) - 8388608.0f;
    return size < 8388608.0f ? copysignf(rounded, x) : x;
}

typedef void forward_tile(float a, float b, int64_t count, const float *x, float *y);
typedef void gradient_tile(float a, float b, int64_t count, const float *v, const float *dy, float *dx);

#define ESP_UNARY_ROW(name, reads, value, gradient)                                                          \
    ESP_SIMD_CLONES                                                                                          \
    static void forward_##name(float a, float b, int64_t count, const float *x_tile, float *y_tile)          \
    {                                                                                                        \
        (void)a;                                                                                             \
        (void)b;                                                                                             \
        ESP_INDEPENDENT                                                                                      \
        for (int64_t i = 0; i < count; i++) {                                                                \
            float x = x_tile[i];                                                                             \
            y_tile[i] = (value);                                                                             \
        }                                                                                                    \
    }                                                                                                        \
    ESP_SIMD_CLONES                                                                                          \
    static void gradient_##name(float a, float b, int64_t count, const float *v_tile, const float *dy_tile,  \
                                float *dx_tile)                                                              \
    {                                                                                                        \
        (void)a;                                                                                             \
        (void)b;                                                                                             \
        ESP_INDEPENDENT                                                                                      \
        for (int64_t i = 0; i < count; i++) {                                                                \
            float v = v_tile[i], dy = dy_tile[i];                                                            \
            (void)v;                                                                                         \
            dx_tile[i] = (gradient);                                                                         \
        }                                                                                                    \
    }
#include "tensor/unary.def"
#undef ESP_UNARY_ROW

typedef struct unary_function {
    esp_unary_reads reads;
    forward_tile *forward;
    gradient_tile *gradient;
} unary_function;

static const unary_function functions[] = {
#define ESP_UNARY_ROW(name, reads, value, gradient) {ESP_READS_##reads, forward_##name, gradient_##name},
#include "tensor/unary.def"
#undef ESP_UNARY_ROW
};

_Static_assert(sizeof functions / sizeof *functions == ESP_UNARY_KINDS, "a row for every function");

esp_unary_reads esp_unary_gradient_reads(esp_unary_kind kind)
{
    return functions[kind].reads;
}

typedef struct unary_job {
    const unary_function *function;
    float a, b;
    int64_t count;
    const float *in, *dy;
    float *out;
} unary_job;

static void unary_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const unary_job *job = context;
    int64_t start = task * ESP_FLAT_TILE;
    job->function->forward(job->a, job->b, esp_tile_end(start, ESP_FLAT_TILE, job->count) - start,
                           job->in + start, job->out + start);
}

esp_status esp_unary_forward(const esp_compute *compute, esp_unary_kind kind, float a, float b, int64_t count,
                             const float *x, float *y)
{
    unary_job job = {.function = &functions[kind], .a = a, .b = b, .count = count, .in = x, .out = y};
    return esp_compute_run(compute, esp_tile_count(count, ESP_FLAT_TILE), unary_task, &job);
}

static void unary_gradient_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const unary_job *job = context;
    int64_t start = task * ESP_FLAT_TILE;
    job->function->gradient(job->a, job->b, esp_tile_end(start, ESP_FLAT_TILE, job->count) - start,
                            job->in + start, job->dy + start, job->out + start);
}

esp_status esp_unary_backward(const esp_compute *compute, esp_unary_kind kind, float a, float b,
                              int64_t count, const float *x, const float *y, const float *dy, float *dx)
{
    const float *const read[] = {[ESP_READS_INPUT] = x, [ESP_READS_OUTPUT] = y, [ESP_READS_NEITHER] = dy};
    unary_job job = {.function = &functions[kind],
                     .a = a,
                     .b = b,
                     .count = count,
                     .in = read[functions[kind].reads],
                     .dy = dy,
                     .out = dx};
    return esp_compute_run(compute, esp_tile_count(count, ESP_FLAT_TILE), unary_gradient_task, &job);
}
