/* Batch normalisation of blocked images in training form, with the residual and the clip that follow it.
 *
 * Two passes over the data each way: sums, then values. A chunk is a stretch of one block's pixels (several
 * small images, or a piece of a large one), whatever the number of threads; a task works on one chunk. Blocks
 * are taken in groups that fit the last cache together, so that the second pass finds there what the first
 * one read, and it goes through them backwards: what came last is nearest.
 *
 * Statistics (Chan, Golub and LeVeque 1979): a run of up to RUN pixels, read into the first cache, has its
 * mean and its squared deviations from that mean summed in float lanes; runs and then chunks are merged in
 * double, in order. Nothing is lost under a large common offset. Gradient sums: float lanes over a run, runs
 * in double, in order. */
#include <math.h>

#include "tensor/blocked.h"
#include "tensor/blocked_passes.h"
#include "tensor/blocked_planes.h"

enum {
    RUN = 256,               /* pixels: 16 KB */
    CHUNK = 4096,            /* pixels: 256 KB */
    GROUP_FLOATS = 3 << 20,  /* what the tensors of a group may have together: 12 MB */
    SMALL_FLOATS = 96 << 10, /* a block this large is worked on by one task from beginning to end */
};

/* What a chunk sums up. Forward: mean and squared deviations from it; backward: sums of dy' and
 * dy' * (x - mean). */
typedef struct chunk_sums {
    double first[ESP_BLOCK], second[ESP_BLOCK];
} chunk_sums;

typedef struct norm_job {
    const blocked_passes *passes;
    const esp_norm_train *norm;
    blocked_images x, y, residual, dy, dx, dresidual;
    bool adds_residual;
    bool streams; /* what is written is too large to be in the cache still when it is read */
    float *dscale, *dbias;
    chunk_sums *sums; /* [blocks][chunks] */
    int64_t images_per_chunk, pixels_per_chunk, pieces, chunks;
    int64_t first_block, group; /* blocks of the current group */
} norm_job;

static void cut_chunks(norm_job *job)
{
    const blocked_images *x = &job->x;
    job->images_per_chunk = x->pixels >= CHUNK ? 1 : CHUNK / (x->pixels > 0 ? x->pixels : 1);
    job->pixels_per_chunk = CHUNK;
    job->pieces = esp_tile_count(x->pixels, CHUNK);
    job->chunks = esp_tile_count(x->batch, job->images_per_chunk) * job->pieces;
}

size_t esp_blocked_norm_scratch(const esp_view *x)
{
    norm_job job = {.x = blocked_images_of(x)};
    cut_chunks(&job);
    return (size_t)(job.x.blocks * job.chunks) * sizeof(chunk_sums);
}

/* Images [n, last_n), pixels [pixel, pixel + count) of each. */
typedef struct chunk {
    int64_t n, last_n, pixel, count;
} chunk;

static chunk chunk_at(const norm_job *job, int64_t index)
{
    chunk c = {.n = index / job->pieces * job->images_per_chunk,
               .pixel = index % job->pieces * job->pixels_per_chunk};
    c.last_n = esp_tile_end(c.n, job->images_per_chunk, job->x.batch);
    c.count = esp_tile_end(c.pixel, job->pixels_per_chunk, job->x.pixels) - c.pixel;
    return c;
}

static chunk_sums *sums_at(const norm_job *job, int64_t block, int64_t index)
{
    return &job->sums[block * job->chunks + index];
}

/* ---- forward ---- */

/* Merges the statistics of `count` values into those of *counted. */
static void merge(chunk_sums *all, double *counted, const chunk_sums *more, double count)
{
    double total = *counted + count, share = count / total, weight = *counted * share;
    for (int lane = 0; lane < ESP_BLOCK; lane++) {
        double delta = more->first[lane] - all->first[lane];
        all->first[lane] += delta * share;
        all->second[lane] += more->second[lane] + delta * delta * weight;
    }
    *counted = total;
}

static void statistics_of_run(const norm_job *job, int64_t count, const float *x, chunk_sums *sums)
{
    float center[ESP_BLOCK], rest[ESP_BLOCK], squares[ESP_BLOCK];
    job->passes->statistics(count, x, center, rest, squares);
    for (int lane = 0; lane < ESP_BLOCK; lane++) {
        /* what rounding took from the mean */
        double left = (double)rest[lane] / (double)count;
        sums->first[lane] = (double)center[lane] + left;
        sums->second[lane] = (double)squares[lane] - (double)rest[lane] * left;
    }
}

static void statistics_of_chunk(const norm_job *job, int64_t block, int64_t index)
{
    chunk c = chunk_at(job, index);
    chunk_sums all = {{0}, {0}}, run;
    double counted = 0.0;
    for (int64_t n = c.n; n < c.last_n; n++)
        for (int64_t p = c.pixel; p < c.pixel + c.count; p += RUN) {
            int64_t count = esp_tile_end(p, RUN, c.pixel + c.count) - p;
            statistics_of_run(job, count, blocked_place(&job->x, n, block, p), &run);
            merge(&all, &counted, &run, (double)count);
        }
    *sums_at(job, block, index) = all;
}

/* Merges the chunks of a block; saves its statistics and moves the running ones. */
static void finish_statistics(const norm_job *job, int64_t block)
{
    const esp_norm_train *norm = job->norm;
    chunk_sums all = {{0}, {0}};
    double counted = 0.0;
    for (int64_t i = 0; i < job->chunks; i++) {
        chunk c = chunk_at(job, i);
        merge(&all, &counted, sums_at(job, block, i), (double)((c.last_n - c.n) * c.count));
    }
    float keep = norm->momentum;
    for (int lane = 0; lane < ESP_BLOCK && block * ESP_BLOCK + lane < job->x.channels; lane++) {
        int64_t channel = block * ESP_BLOCK + lane;
        float mean = (float)all.first[lane];
        double variance = all.second[lane] / counted;
        double unbiased = counted > 1.0 ? all.second[lane] / (counted - 1.0) : variance;
        norm->saved_mean[channel] = mean;
        norm->saved_inverse_std[channel] = (float)(1.0 / sqrt(variance + (double)norm->epsilon));
        norm->running_mean[channel] = norm->running_mean[channel] * keep + mean * (1.0f - keep);
        norm->running_variance[channel] =
            norm->running_variance[channel] * keep + (float)unbiased * (1.0f - keep);
    }
}

/* What the forward pass does with a block once its statistics are known. */
static void rescale_of_block(const norm_job *job, int64_t block, blocked_rescale *rescale)
{
    const esp_norm_train *norm = job->norm;
    int64_t channels = job->x.channels;
    float scale[ESP_BLOCK];
    blocked_lanes_load(norm->saved_mean, channels, block, 0.0f, rescale->center);
    blocked_lanes_load(norm->saved_inverse_std, channels, block, 0.0f, rescale->factor);
    blocked_lanes_load(norm->scale, channels, block, 0.0f, scale);
    blocked_lanes_load(norm->bias, channels, block, 0.0f, rescale->shift);
    for (int lane = 0; lane < ESP_BLOCK; lane++)
        rescale->factor[lane] *= scale[lane];
    rescale->clips = norm->clips;
    rescale->low = norm->low;
    rescale->high = norm->high;
    rescale->streams = job->streams;
}

static void normalise_chunk(const norm_job *job, int64_t block, int64_t index)
{
    chunk c = chunk_at(job, index);
    blocked_rescale rescale;
    rescale_of_block(job, block, &rescale);
    for (int64_t n = c.n; n < c.last_n; n++)
        job->passes->rescale(c.count, blocked_place(&job->x, n, block, c.pixel), &rescale,
                             blocked_place(&job->residual, n, block, c.pixel),
                             blocked_place(&job->y, n, block, c.pixel));
}

/* ---- backward ---- */

/* y's data is NULL when nothing was added to it: then it is found again from x. */
static blocked_gradient gradient_at(const norm_job *job, const blocked_rescale *forward, int64_t n,
                                    int64_t block, int64_t pixel)
{
    return (blocked_gradient){.x = blocked_place(&job->x, n, block, pixel),
                              .dy = blocked_place(&job->dy, n, block, pixel),
                              .y = blocked_place(&job->y, n, block, pixel),
                              .forward = forward,
                              .dresidual = blocked_place(&job->dresidual, n, block, pixel),
                              .adds_residual = job->adds_residual,
                              .streams = job->streams && job->dresidual.data != job->dy.data};
}

static void gradient_sums_of_chunk(const norm_job *job, int64_t block, int64_t index)
{
    chunk c = chunk_at(job, index);
    chunk_sums all = {{0}, {0}};
    blocked_rescale forward;
    float sum_dy[ESP_BLOCK], sum_dy_x[ESP_BLOCK];
    rescale_of_block(job, block, &forward);
    for (int64_t n = c.n; n < c.last_n; n++)
        for (int64_t p = c.pixel; p < c.pixel + c.count; p += RUN) {
            blocked_gradient run = gradient_at(job, &forward, n, block, p);
            job->passes->gradient_sums(esp_tile_end(p, RUN, c.pixel + c.count) - p, &run, sum_dy, sum_dy_x);
            for (int lane = 0; lane < ESP_BLOCK; lane++) {
                all.first[lane] += (double)sum_dy[lane];
                all.second[lane] += (double)sum_dy_x[lane];
            }
        }
    *sums_at(job, block, index) = all;
}

/* Sums over the chunks of a block: the gradients of scale and bias. They stay in the first chunk's place, for
 * the pass that follows. */
static void finish_gradient_sums(const norm_job *job, int64_t block)
{
    chunk_sums *all = sums_at(job, block, 0);
    for (int64_t i = 1; i < job->chunks; i++)
        for (int lane = 0; lane < ESP_BLOCK; lane++) {
            all->first[lane] += sums_at(job, block, i)->first[lane];
            all->second[lane] += sums_at(job, block, i)->second[lane];
        }
    for (int lane = 0; lane < ESP_BLOCK && block * ESP_BLOCK + lane < job->x.channels; lane++) {
        int64_t channel = block * ESP_BLOCK + lane;
        job->dbias[channel] = (float)all->first[lane];
        job->dscale[channel] = (float)(all->second[lane] * (double)job->norm->saved_inverse_std[channel]);
    }
}

static void slopes_of_block(const norm_job *job, int64_t block, blocked_slopes *slopes)
{
    double count = (double)job->x.batch * (double)job->x.pixels;
    const chunk_sums *all = sums_at(job, block, 0);
    float spread[ESP_BLOCK];
    blocked_lanes_load(job->norm->saved_inverse_std, job->x.channels, block, 0.0f, spread);
    for (int lane = 0; lane < ESP_BLOCK; lane++) {
        double inverse_std = (double)spread[lane];
        slopes->mean_dy[lane] = (float)(all->first[lane] / count);
        slopes->slope[lane] = (float)(all->second[lane] * inverse_std * inverse_std / count);
    }
    slopes->streams = job->streams;
}

static void gradient_of_chunk(const norm_job *job, int64_t block, int64_t index)
{
    chunk c = chunk_at(job, index);
    blocked_rescale forward;
    blocked_slopes slopes;
    rescale_of_block(job, block, &forward);
    slopes_of_block(job, block, &slopes);
    bool is_masked_already = job->dresidual.data != NULL && !job->adds_residual;
    forward.clips = forward.clips && !is_masked_already;
    for (int64_t n = c.n; n < c.last_n; n++) {
        blocked_gradient run = gradient_at(job, &forward, n, block, c.pixel);
        if (is_masked_already)
            run.dy = run.dresidual;
        job->passes->gradient(c.count, &run, &slopes, blocked_place(&job->dx, n, block, c.pixel));
    }
}

/* ---- passes ---- */

static void sum_chunk(const norm_job *job, int64_t block, int64_t index)
{
    if (job->dx.data != NULL)
        gradient_sums_of_chunk(job, block, index);
    else
        statistics_of_chunk(job, block, index);
}

static void finish_sums(const norm_job *job, int64_t block)
{
    if (job->dx.data != NULL)
        finish_gradient_sums(job, block);
    else
        finish_statistics(job, block);
}

static void write_chunk(const norm_job *job, int64_t block, int64_t index)
{
    if (job->dx.data != NULL)
        gradient_of_chunk(job, block, index);
    else
        normalise_chunk(job, block, index);
}

static void sum_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const norm_job *job = context;
    sum_chunk(job, job->first_block + task / job->chunks, task % job->chunks);
}

static void write_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const norm_job *job = context;
    int64_t from_end = job->group * job->chunks - 1 - task;
    write_chunk(job, job->first_block + from_end / job->chunks, from_end % job->chunks);
}

static void whole_block_task(void *context, int64_t block, int slot)
{
    (void)slot;
    const norm_job *job = context;
    for (int64_t i = 0; i < job->chunks; i++)
        sum_chunk(job, block, i);
    finish_sums(job, block);
    for (int64_t i = job->chunks - 1; i >= 0; i--)
        write_chunk(job, block, i);
}

/* `tensors` are read or written by each pass. */
static esp_status run_norm(const esp_compute *compute, norm_job *job, int64_t tensors)
{
    int64_t block_floats = job->x.batch * job->x.pixels * ESP_BLOCK * tensors;
    if (block_floats == 0)
        return ESP_OK;
    if (block_floats <= SMALL_FLOATS)
        return esp_compute_run(compute, job->x.blocks, whole_block_task, job);

    int64_t group = block_floats >= GROUP_FLOATS ? 1 : GROUP_FLOATS / block_floats;
    esp_status status = ESP_OK;
    for (int64_t first = 0; status == ESP_OK && first < job->x.blocks; first += group) {
        job->first_block = first;
        job->group = esp_tile_end(first, group, job->x.blocks) - first;
        status = esp_compute_run(compute, job->group * job->chunks, sum_task, job);
        for (int64_t b = first; status == ESP_OK && b < first + job->group; b++)
            finish_sums(job, b);
        if (status == ESP_OK)
            status = esp_compute_run(compute, job->group * job->chunks, write_task, job);
    }
    return status;
}

esp_status esp_blocked_norm_train(const esp_compute *compute, const esp_norm_train *norm, const esp_view *x,
                                  const esp_view *y, void *scratch)
{
    norm_job job = {.passes = esp_blocked_passes(),
                    .norm = norm,
                    .x = blocked_images_of(x),
                    .y = blocked_images_of(y),
                    .residual = blocked_images_if(norm->residual),
                    .sums = scratch};
    cut_chunks(&job);
    job.streams = esp_view_storage(y) >= BLOCKED_STREAMED_FLOATS && y->data != x->data;
    return run_norm(compute, &job, norm->residual != NULL ? 3 : 2);
}

esp_status esp_blocked_norm_backward(const esp_compute *compute, const esp_norm_train *norm,
                                     const esp_view *x, const esp_view *y, const esp_view *dy,
                                     const esp_view *dx, float *dscale, float *dbias,
                                     const esp_view *dresidual, bool adds_residual, void *scratch)
{
    norm_job job = {.passes = esp_blocked_passes(),
                    .norm = norm,
                    .x = blocked_images_of(x),
                    .y = blocked_images_if(norm->residual != NULL ? y : NULL),
                    .dy = blocked_images_of(dy),
                    .dx = blocked_images_of(dx),
                    .dresidual = blocked_images_if(dresidual),
                    .adds_residual = adds_residual,
                    .dscale = dscale,
                    .dbias = dbias,
                    .sums = scratch};
    cut_chunks(&job);
    if (job.x.batch * job.x.pixels == 0) {
        for (int64_t c = 0; c < job.x.channels; c++)
            dscale[c] = dbias[c] = 0.0f;
        return ESP_OK;
    }
    job.streams = esp_view_storage(dx) >= BLOCKED_STREAMED_FLOATS && dx->data != dy->data;
    return run_norm(compute, &job, dresidual != NULL ? 4 : 3);
}
