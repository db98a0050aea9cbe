/* Fully connected layers.
 *
 * A task computes the dot products of FILTERS filters with up to MOST_ROWS rows of x, several of both at
 * once. With few rows reading the weights from memory takes longer than the arithmetic: they are read once.
 * Channels are taken in stretches, so that what is used again (x by every filter, w by every group of rows)
 * is still in the cache; between stretches the running sums wait in a buffer on the stack. There is nothing
 * to pack, so this is faster than the BLAS also where the arithmetic counts. */
#include "tensor/dense.h"

#include <string.h>

#include "tensor/simd.h"

enum {
    MOST_ROWS = 96,
    FILTERS = 16,        /* of a task, or a multiple of it */
    TASK_MACS = 1 << 16, /* at least, by taking more filters */
    X_FLOATS =
        128 << 10, /* of a stretch, when all rows go through the registers at once: half of a second cache */
    STRETCH = 512, /* channels of a stretch otherwise: w of a task fills most of a first cache */
    MOST_LANES = 16,
};

/* One set per instruction set. `products` computes, for each row r of x and each of the filters f, vectors of
 * `lanes` sums at sums[(f * rows + r) * lanes]; `count` is a multiple of lanes. `finish` adds each vector up.
 */
typedef struct dense_kernels {
    int lanes, rows; /* rows: of the tallest tile */
    void (*products)(int64_t rows, int64_t filters, int64_t count, const float *x, int64_t x_pitch,
                     const float *w, int64_t w_pitch, bool is_first, float *sums);
    void (*finish)(int64_t count, const float *sums, float *totals);
} dense_kernels;

#define BLOCKED_TEMPLATE "tensor/dense_template.h"
#include "tensor/blocked_isas.h"

static const dense_kernels *kernels_of(const esp_engine *engine)
{
    switch (engine->isa) {
#if defined(__x86_64__)
    case ESP_ISA_AVX512:
        return &dense_avx512;
    case ESP_ISA_AVX2:
        return &dense_avx2;
#endif
    default:
        return &dense_plain;
    }
}

typedef struct dense_job {
    const esp_dense *dense;
    const dense_kernels *kernels;
    const float *x, *w;
    float *y;
    int64_t stretch, whole; /* channels; whole: all but what is left over from vectors */
    int64_t filters, rows;  /* per task */
    int64_t row_tasks;
} dense_job;

static float finish(const esp_dense *dense, int64_t filter, float sum)
{
    if (dense->bias != NULL)
        sum += dense->bias[filter];
    if (dense->clips) {
        sum = sum < dense->low ? dense->low : sum;
        sum = sum > dense->high ? dense->high : sum;
    }
    return sum;
}

/* The channels left over from vectors, made a vector with zeros. */
static void pad(int64_t rows, int64_t left, int lanes, const float *from, int64_t pitch, float *to)
{
    memset(to, 0, (size_t)(rows * lanes) * sizeof(float));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < left; i++)
            to[r * lanes + i] = from[r * pitch + i];
}

static void products_at(const dense_job *job, int64_t first_row, int64_t rows, int64_t first, int64_t filters)
{
    const esp_dense *dense = job->dense;
    const dense_kernels *kernels = job->kernels;
    int64_t channels = dense->channels;
    const float *x = job->x + first_row * channels, *w = job->w + first * channels;
    float *y = job->y + first_row * dense->filters + first;
    _Alignas(64) float sums[FILTERS * MOST_ROWS * MOST_LANES];
    float totals[FILTERS * MOST_ROWS];

    for (int64_t c = 0; c < job->whole; c += job->stretch)
        kernels->products(rows, filters, esp_tile_end(c, job->stretch, job->whole) - c, x + c, channels,
                          w + c, channels, c == 0, sums);
    if (job->whole < channels) {
        float x_end[MOST_ROWS * MOST_LANES], w_end[FILTERS * MOST_LANES];
        int64_t left = channels - job->whole;
        pad(rows, left, kernels->lanes, x + job->whole, channels, x_end);
        pad(filters, left, kernels->lanes, w + job->whole, channels, w_end);
        kernels->products(rows, filters, kernels->lanes, x_end, kernels->lanes, w_end, kernels->lanes,
                          job->whole == 0, sums);
    }
    kernels->finish(filters * rows, sums, totals);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t f = 0; f < filters; f++)
            y[r * dense->filters + f] = finish(dense, first + f, totals[f * rows + r]);
}

static void dense_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const dense_job *job = context;
    int64_t row = task % job->row_tasks * job->rows, first = task / job->row_tasks * job->filters;
    int64_t rows = esp_tile_end(row, job->rows, job->dense->rows) - row;
    int64_t end = esp_tile_end(first, job->filters, job->dense->filters);
    for (int64_t f = first; f < end; f += FILTERS)
        products_at(job, row, rows, f, esp_tile_end(f, FILTERS, end) - f);
}

/* Without channels only bias and clip are left. */
static void fill(const esp_dense *dense, float *y)
{
    for (int64_t i = 0; i < dense->rows * dense->filters; i++)
        y[i] = finish(dense, i % dense->filters, 0.0f);
}

esp_status esp_dense_forward(const esp_compute *compute, const esp_engine *engine, const esp_dense *dense,
                             const float *x, const float *w, float *y)
{
    dense_job job = {
        .dense = dense, .kernels = kernels_of(engine), .x = x, .w = w, .y = y, .stretch = STRETCH};
    if (dense->rows == 0 || dense->filters == 0)
        return ESP_OK;
    if (dense->channels == 0) {
        fill(dense, y);
        return ESP_OK;
    }
    if (dense->rows <= job.kernels->rows)
        job.stretch = X_FLOATS / dense->rows / MOST_LANES * MOST_LANES;
    job.whole = dense->channels / job.kernels->lanes * job.kernels->lanes;

    /* rows evenly over their tasks, in whole tiles */
    int64_t tiles = esp_tile_count(dense->rows, job.kernels->rows), most = MOST_ROWS / job.kernels->rows;
    job.rows = esp_tile_count(tiles, esp_tile_count(tiles, most)) * job.kernels->rows;
    job.row_tasks = esp_tile_count(dense->rows, job.rows);
    int64_t macs = FILTERS * (job.rows < dense->rows ? job.rows : dense->rows) * dense->channels;
    job.filters = FILTERS * (macs >= TASK_MACS ? 1 : esp_tile_count(TASK_MACS, macs));
    return esp_compute_run(compute, job.row_tasks * esp_tile_count(dense->filters, job.filters), dense_task,
                           &job);
}
