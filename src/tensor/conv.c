/* Convolution: the choice of method, and what all methods share (bias gradient, fixed-order reduction). */
#include "tensor/conv.h"

#include <string.h>

#include "tensor/conv_internal.h"
#include "tensor/simd.h"

const conv_method *const esp_conv_methods[] = {&esp_conv_depthwise, &esp_conv_direct_avx512,
                                               &esp_conv_direct_avx2, &esp_conv_im2col};

static const conv_method *method_for(const esp_conv_geometry *geometry, esp_conv_pass pass)
{
    int i = 0;
    while (!esp_conv_methods[i]->fits(esp_conv_methods[i], geometry, pass))
        i++;
    return esp_conv_methods[i];
}

int64_t esp_conv_output_size(int64_t size, int64_t kernel, int64_t stride, int64_t pad_begin, int64_t pad_end,
                             int64_t dilation)
{
    return esp_window_count(size + pad_begin + pad_end, kernel, stride, dilation);
}

static bool is_empty(const esp_conv_geometry *g)
{
    return g->batch == 0 || g->filters == 0 || conv_pixels(g) == 0;
}

size_t esp_conv_scratch(const esp_conv_geometry *geometry, esp_conv_pass pass, int slots)
{
    if (is_empty(geometry))
        return 0;
    const conv_method *method = method_for(geometry, pass);
    return method->scratch(method, geometry, pass, slots);
}

esp_status esp_conv_forward(const esp_compute *compute, const esp_conv_geometry *geometry, const float *x,
                            const float *w, const float *bias, float *y, void *scratch)
{
    if (is_empty(geometry))
        return ESP_OK;
    const conv_method *method = method_for(geometry, ESP_CONV_FORWARD);
    return method->forward(method, compute, geometry, x, w, bias, y, scratch);
}

esp_status esp_conv_grad_input(const esp_compute *compute, const esp_conv_geometry *geometry, const float *dy,
                               const float *w, float *dx, void *scratch)
{
    const esp_conv_geometry *g = geometry;
    if (is_empty(g)) {
        memset(dx, 0, (size_t)(g->batch * g->channels * g->height * g->width) * sizeof(float));
        return ESP_OK;
    }
    const conv_method *method = method_for(g, ESP_CONV_GRAD_INPUT);
    return method->grad_input(method, compute, g, dy, w, dx, scratch);
}

typedef struct bias_job {
    const esp_conv_geometry *g;
    const float *dy;
    float *db;
} bias_job;

/* Sixteen lanes per plane, then planes in order, in double. */
static void bias_task(void *context, int64_t f, int slot)
{
    (void)slot;
    const bias_job *job = context;
    enum { LANES = 16 };
    int64_t pixels = conv_pixels(job->g);
    double total = 0.0;
    for (int64_t n = 0; n < job->g->batch; n++) {
        const float *plane = job->dy + (n * job->g->filters + f) * pixels;
        float sums[LANES] = {0};
        int64_t i = 0;
        for (; i + LANES <= pixels; i += LANES)
            for (int lane = 0; lane < LANES; lane++)
                sums[lane] += plane[i + lane];
        for (int lane = 0; i < pixels; i++, lane++)
            sums[lane] += plane[i];
        for (int lane = 0; lane < LANES; lane++)
            total += (double)sums[lane];
    }
    job->db[f] = (float)total;
}

esp_status esp_conv_grad_weight(const esp_compute *compute, const esp_conv_geometry *geometry, const float *x,
                                const float *dy, float *dw, float *db, void *scratch)
{
    if (is_empty(geometry)) {
        memset(dw, 0, (size_t)conv_weights(geometry) * sizeof(float));
        if (db != NULL)
            memset(db, 0, (size_t)geometry->filters * sizeof(float));
        return ESP_OK;
    }
    if (db != NULL) {
        bias_job job = {geometry, dy, db};
        esp_status status = esp_compute_run(compute, geometry->filters, bias_task, &job);
        if (status != ESP_OK)
            return status;
    }
    const conv_method *method = method_for(geometry, ESP_CONV_GRAD_WEIGHT);
    return method->grad_weight(method, compute, geometry, x, dy, dw, scratch);
}

int64_t esp_conv_chunk_count(const esp_conv_geometry *geometry)
{
    enum { MOST_CHUNKS = 16, MOST_FLOATS = 4 << 20 };
    int64_t room = MOST_FLOATS / conv_max(conv_weights(geometry), 1);
    return conv_max(conv_min(conv_min(geometry->batch, MOST_CHUNKS), room), 1);
}

typedef struct reduce_job {
    const float *partial;
    float *dw;
    int64_t chunks, count, stride, block;
} reduce_job;

ESP_SIMD_CLONES
static void add_to(int64_t count, const float *restrict source, float *restrict target)
{
    for (int64_t i = 0; i < count; i++)
        target[i] += source[i];
}

static void reduce_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const reduce_job *job = context;
    int64_t start = task * job->block, count = conv_min(job->block, job->count - start);
    memcpy(job->dw + start, job->partial + start, (size_t)count * sizeof(float));
    for (int64_t chunk = 1; chunk < job->chunks; chunk++)
        add_to(count, job->partial + chunk * job->stride + start, job->dw + start);
}

esp_status esp_conv_reduce(const esp_compute *compute, int64_t chunks, int64_t count, int64_t stride,
                           const float *partial, float *dw)
{
    enum { BLOCK = 8192 };
    reduce_job job = {
        .partial = partial, .dw = dw, .chunks = chunks, .count = count, .stride = stride, .block = BLOCK};
    return esp_compute_run(compute, conv_ceil_divide(count, BLOCK), reduce_task, &job);
}
