/* The bias gradient in channel blocks: sums over dy, made per chunk of images, the chunks added in order. */
#include <string.h>

#include "tensor/blocked_grad.h"
#include "tensor/simd.h"

enum { MOST_BIAS_CHUNKS = 8, DENSE_PIXELS = 4096 };

static int64_t chunk_count(const esp_conv_geometry *g)
{
    return conv_min(g->batch, MOST_BIAS_CHUNKS);
}

size_t esp_grad_bias_bytes(const esp_conv_geometry *geometry)
{
    return conv_aligned((size_t)(chunk_count(geometry) * blocked_count(geometry->filters) * ESP_BLOCK) *
                        sizeof(double));
}

typedef struct bias_job {
    const esp_conv_geometry *g;
    const float *dy;
    int64_t dy_image;
    double *sums; /* [filter block][chunk][ESP_BLOCK] */
} bias_job;

/* Sixteen lanes in float for some thousand pixels, then in double. */
ESP_SIMD_CLONES
static void add_pixels(int64_t pixels, const float *dy, double sums[ESP_BLOCK])
{
    for (int64_t start = 0; start < pixels; start += DENSE_PIXELS) {
        int64_t end = conv_min(start + DENSE_PIXELS, pixels), i = start;
        esp_lanes even = {0}, odd = {0};
        for (; i + 2 <= end; i += 2) {
            even += ESP_LANES_FROM(dy + i * ESP_BLOCK);
            odd += ESP_LANES_FROM(dy + (i + 1) * ESP_BLOCK);
        }
        if (i < end)
            even += ESP_LANES_FROM(dy + i * ESP_BLOCK);
        even += odd;
        for (int lane = 0; lane < ESP_BLOCK; lane++)
            sums[lane] += (double)even[lane];
    }
}

static void bias_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const bias_job *job = context;
    const esp_conv_geometry *g = job->g;
    int64_t chunks = chunk_count(g), block = task / chunks, chunk = task % chunks, pixels = conv_pixels(g);
    double *sums = job->sums + task * ESP_BLOCK;
    memset(sums, 0, ESP_BLOCK * sizeof *sums);
    for (int64_t n = conv_chunk_start(g, chunks, chunk); n < conv_chunk_start(g, chunks, chunk + 1); n++)
        add_pixels(pixels, job->dy + n * job->dy_image + block * pixels * ESP_BLOCK, sums);
}

esp_status esp_grad_bias(const esp_compute *compute, const esp_conv_geometry *geometry, const esp_view *dy,
                         float *db, void *scratch)
{
    bias_job job = {
        .g = geometry, .dy = esp_view_f32(dy), .dy_image = esp_view_image_stride(dy), .sums = scratch};
    int64_t chunks = chunk_count(geometry);
    esp_status status = esp_compute_run(compute, blocked_count(geometry->filters) * chunks, bias_task, &job);
    if (status != ESP_OK)
        return status;
    for (int64_t f = 0; f < geometry->filters; f++) {
        double sum = 0.0;
        for (int64_t chunk = 0; chunk < chunks; chunk++)
            sum += job.sums[(f / ESP_BLOCK * chunks + chunk) * ESP_BLOCK + f % ESP_BLOCK];
        db[f] = (float)sum;
    }
    return ESP_OK;
}
