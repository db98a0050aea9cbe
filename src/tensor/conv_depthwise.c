/* Depthwise convolution: each filter sees one channel. The arithmetic is too thin for a matrix product, so
 * each tap adds a scaled, shifted input row to the output row: y[y][x] += w[tap] *
 * x[y*stride+..][x*stride+..]. Channel multipliers (several filters per channel) are allowed. */
#include <string.h>

#include "tensor/conv_internal.h"
#include "tensor/simd.h"

static bool fits(const conv_method *self, const esp_conv_geometry *g, esp_conv_pass pass)
{
    (void)self;
    (void)pass;
    return g->group == g->channels && g->group > 1;
}

/* Forward and the input gradient need none; weight gradients sum per chunk. */
static size_t scratch_bytes(const conv_method *self, const esp_conv_geometry *g, esp_conv_pass pass,
                            int slots)
{
    (void)self;
    (void)slots;
    return pass == ESP_CONV_GRAD_WEIGHT ? conv_partials_bytes(g) : 0;
}

typedef struct depthwise_job {
    const esp_conv_geometry *g;
    const float *x, *w, *bias, *dy;
    float *y, *dx, *partial;
    int64_t chunks, partial_stride;
} depthwise_job;

/* The output rows and columns that a tap reaches, and where its input begins relative to output (0, 0). */
typedef struct tap_window {
    int64_t y0, y1, x0, x1, offset;
} tap_window;

static tap_window window_of(const esp_conv_geometry *g, int64_t tap)
{
    int64_t tap_y = tap / g->kernel_w * g->dilation_h, tap_x = tap % g->kernel_w * g->dilation_w;
    tap_window window;
    esp_window_outputs(g->height, g->out_height, g->stride_h, g->pad_top, tap_y, &window.y0, &window.y1);
    esp_window_outputs(g->width, g->out_width, g->stride_w, g->pad_left, tap_x, &window.x0, &window.x1);
    window.offset = (tap_y - g->pad_top) * g->width + tap_x - g->pad_left;
    return window;
}

/* One filter over one plane. x [height, width], y [out_height, out_width]. */
ESP_SIMD_CLONES
static void plane_forward(const esp_conv_geometry *g, const float *restrict x, const float *restrict w,
                          float bias, float *restrict y)
{
    for (int64_t i = 0; i < conv_pixels(g); i++)
        y[i] = bias;
    for (int64_t tap = 0; tap < conv_taps(g); tap++) {
        tap_window t = window_of(g, tap);
        float weight = w[tap];
        for (int64_t row = t.y0; row < t.y1; row++) {
            const float *source = x + row * g->stride_h * g->width + t.offset;
            float *target = y + row * g->out_width;
            if (g->stride_w == 1)
                for (int64_t i = t.x0; i < t.x1; i++)
                    target[i] += weight * source[i];
            else
                for (int64_t i = t.x0; i < t.x1; i++)
                    target[i] += weight * source[i * g->stride_w];
        }
    }
}

/* dx += gradient of one filter. */
ESP_SIMD_CLONES
static void plane_grad_input(const esp_conv_geometry *g, const float *restrict dy, const float *restrict w,
                             float *restrict dx)
{
    for (int64_t tap = 0; tap < conv_taps(g); tap++) {
        tap_window t = window_of(g, tap);
        float weight = w[tap];
        for (int64_t row = t.y0; row < t.y1; row++) {
            float *target = dx + row * g->stride_h * g->width + t.offset;
            const float *source = dy + row * g->out_width;
            if (g->stride_w == 1)
                for (int64_t i = t.x0; i < t.x1; i++)
                    target[i] += weight * source[i];
            else
                for (int64_t i = t.x0; i < t.x1; i++)
                    target[i * g->stride_w] += weight * source[i];
        }
    }
}

/* Sixteen running sums make the order of addition the same for every instruction set, and vectorisable. */
enum { LANES = 16 };

ESP_SIMD_CLONES
static void plane_grad_weight(const esp_conv_geometry *g, const float *restrict x, const float *restrict dy,
                              float *restrict dw)
{
    for (int64_t tap = 0; tap < conv_taps(g); tap++) {
        tap_window t = window_of(g, tap);
        float sums[LANES] = {0};
        for (int64_t row = t.y0; row < t.y1; row++) {
            const float *a = x + row * g->stride_h * g->width + t.offset;
            const float *b = dy + row * g->out_width;
            int64_t i = t.x0;
            for (; g->stride_w == 1 && i + LANES <= t.x1; i += LANES)
                for (int lane = 0; lane < LANES; lane++)
                    sums[lane] += a[i + lane] * b[i + lane];
            for (int lane = 0; i < t.x1; i++, lane = (lane + 1) % LANES)
                sums[lane] += a[i * g->stride_w] * b[i];
        }
        float sum = 0.0f;
        for (int lane = 0; lane < LANES; lane++)
            sum += sums[lane];
        dw[tap] += sum;
    }
}

static void forward_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const depthwise_job *job = context;
    const esp_conv_geometry *g = job->g;
    int64_t n = task / g->channels, c = task % g->channels, multiplier = conv_group_filters(g);
    for (int64_t f = c * multiplier; f < (c + 1) * multiplier; f++)
        plane_forward(g, job->x + task * g->height * g->width, job->w + f * conv_taps(g),
                      job->bias != NULL ? job->bias[f] : 0.0f,
                      job->y + (n * g->filters + f) * conv_pixels(g));
}

static esp_status forward(const conv_method *self, const esp_compute *compute, const esp_conv_geometry *g,
                          const float *x, const float *w, const float *bias, float *y, void *scratch)
{
    (void)self;
    (void)scratch;
    depthwise_job job = {.g = g, .x = x, .w = w, .bias = bias, .y = y};
    return esp_compute_run(compute, g->batch * g->channels, forward_task, &job);
}

static void grad_input_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const depthwise_job *job = context;
    const esp_conv_geometry *g = job->g;
    int64_t n = task / g->channels, c = task % g->channels, multiplier = conv_group_filters(g);
    float *dx = job->dx + task * g->height * g->width;
    memset(dx, 0, (size_t)(g->height * g->width) * sizeof(float));
    for (int64_t f = c * multiplier; f < (c + 1) * multiplier; f++)
        plane_grad_input(g, job->dy + (n * g->filters + f) * conv_pixels(g), job->w + f * conv_taps(g), dx);
}

static esp_status grad_input(const conv_method *self, const esp_compute *compute, const esp_conv_geometry *g,
                             const float *dy, const float *w, float *dx, void *scratch)
{
    (void)self;
    (void)scratch;
    depthwise_job job = {.g = g, .dy = dy, .w = w, .dx = dx};
    return esp_compute_run(compute, g->batch * g->channels, grad_input_task, &job);
}

static void grad_weight_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const depthwise_job *job = context;
    const esp_conv_geometry *g = job->g;
    int64_t chunk = task / g->channels, c = task % g->channels, multiplier = conv_group_filters(g);
    int64_t first = conv_chunk_start(g, job->chunks, chunk),
            last = conv_chunk_start(g, job->chunks, chunk + 1);
    for (int64_t f = c * multiplier; f < (c + 1) * multiplier; f++) {
        float *dw = job->partial + chunk * job->partial_stride + f * conv_taps(g);
        memset(dw, 0, (size_t)conv_taps(g) * sizeof(float));
        for (int64_t n = first; n < last; n++)
            plane_grad_weight(g, job->x + (n * g->channels + c) * g->height * g->width,
                              job->dy + (n * g->filters + f) * conv_pixels(g), dw);
    }
}

static esp_status grad_weight(const conv_method *self, const esp_compute *compute, const esp_conv_geometry *g,
                              const float *x, const float *dy, float *dw, void *scratch)
{
    (void)self;
    depthwise_job job = {.g = g,
                         .x = x,
                         .dy = dy,
                         .partial = scratch,
                         .chunks = esp_conv_chunk_count(g),
                         .partial_stride = conv_partial_stride(g)};
    esp_status status = esp_compute_run(compute, job.chunks * g->channels, grad_weight_task, &job);
    if (status != ESP_OK)
        return status;
    return esp_conv_reduce(compute, job.chunks, conv_weights(g), job.partial_stride, job.partial, dw);
}

const conv_method esp_conv_depthwise = {.name = "depthwise",
                                        .fits = fits,
                                        .scratch = scratch_bytes,
                                        .forward = forward,
                                        .grad_input = grad_input,
                                        .grad_weight = grad_weight};
