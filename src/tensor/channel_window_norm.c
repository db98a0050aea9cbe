/* A task takes some neighbouring positions of one image through all channels, so every loop is over
 * positions. */
#include "tensor/channel_window_norm.h"

#include <math.h>

#include "tensor/simd.h"

enum { POSITIONS = 256 };

typedef struct window_job {
    const esp_window_norm *norm;
    const float *x, *dy;
    float *powers, *shares; /* s^-beta, and dy * y / s */
    float *out;
    int64_t pieces; /* of an image's positions */
} window_job;

/* sums[i] = the squares of channels [first, last) at position i, added up. */
ESP_SIMD_CLONES
static void sum_squares(int64_t count, const float *x, int64_t step, int64_t first, int64_t last, float *sums)
{
    for (int64_t i = 0; i < count; i++)
        sums[i] = 0.0f;
    for (int64_t c = first; c < last; c++) {
        for (int64_t i = 0; i < count; i++)
            sums[i] += x[c * step + i] * x[c * step + i];
    }
}

/* s and s^-beta of the sums of squares. The exponent of the published networks is 0.75. */
ESP_SIMD_CLONES
static void find_powers(int64_t count, const esp_window_norm *norm, float *sums, float *powers)
{
    float share = norm->alpha / (float)norm->size;
    for (int64_t i = 0; i < count; i++)
        sums[i] = norm->bias + share * sums[i];
    if (norm->beta == 0.75f) {
        for (int64_t i = 0; i < count; i++)
            powers[i] = 1.0f / (sqrtf(sums[i]) * sqrtf(sqrtf(sums[i])));
        return;
    }
    for (int64_t i = 0; i < count; i++)
        powers[i] = powf(sums[i], -norm->beta);
}

typedef struct window_piece {
    int64_t offset, count; /* of the first channel; positions */
} window_piece;

static window_piece piece_of(const window_job *job, int64_t task)
{
    const esp_window_norm *norm = job->norm;
    int64_t start = task % job->pieces * POSITIONS;
    return (window_piece){.offset = task / job->pieces * norm->channels * norm->inner + start,
                          .count = esp_tile_end(start, POSITIONS, norm->inner) - start};
}

/* The first channel of the window of a channel, and the one behind its last. */
static int64_t first_of(const esp_window_norm *norm, int64_t c)
{
    int64_t first = c - (norm->size - 1) / 2;
    return first < 0 ? 0 : first;
}

static int64_t last_of(const esp_window_norm *norm, int64_t c)
{
    int64_t last = c + norm->size - (norm->size - 1) / 2;
    return last > norm->channels ? norm->channels : last;
}

static void forward_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const window_job *job = context;
    const esp_window_norm *norm = job->norm;
    window_piece piece = piece_of(job, task);
    const float *x = job->x + piece.offset;
    float sums[POSITIONS], powers[POSITIONS];
    for (int64_t c = 0; c < norm->channels; c++) {
        float *y = job->out + piece.offset + c * norm->inner;
        sum_squares(piece.count, x, norm->inner, first_of(norm, c), last_of(norm, c), sums);
        find_powers(piece.count, norm, sums, powers);
        for (int64_t i = 0; i < piece.count; i++)
            y[i] = x[c * norm->inner + i] * powers[i];
    }
}

static esp_status run_pieces(const esp_compute *compute, window_job *job, esp_task_fn *task)
{
    job->pieces = esp_tile_count(job->norm->inner, POSITIONS);
    return esp_compute_run(compute, job->norm->batch * job->pieces, task, job);
}

esp_status esp_window_norm_forward(const esp_compute *compute, const esp_window_norm *norm, const float *x,
                                   float *y)
{
    window_job job = {.norm = norm, .x = x, .out = y};
    return run_pieces(compute, &job, forward_task);
}

static void share_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const window_job *job = context;
    const esp_window_norm *norm = job->norm;
    window_piece piece = piece_of(job, task);
    const float *x = job->x + piece.offset;
    float sums[POSITIONS];
    for (int64_t c = 0; c < norm->channels; c++) {
        int64_t at = piece.offset + c * norm->inner;
        sum_squares(piece.count, x, norm->inner, first_of(norm, c), last_of(norm, c), sums);
        find_powers(piece.count, norm, sums, job->powers + at);
        for (int64_t i = 0; i < piece.count; i++)
            job->shares[at + i] = job->dy[at + i] * job->x[at + i] * job->powers[at + i] / sums[i];
    }
}

/* dx[c] = dy[c] s[c]^-beta - 2 alpha beta / size * x[c] * the shares of all channels whose window holds c */
static void gradient_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const window_job *job = context;
    const esp_window_norm *norm = job->norm;
    window_piece piece = piece_of(job, task);
    float factor = 2.0f * norm->alpha * norm->beta / (float)norm->size, sums[POSITIONS];
    for (int64_t c = 0; c < norm->channels; c++) {
        int64_t at = piece.offset + c * norm->inner;
        int64_t first = c + 1 - (norm->size - (norm->size - 1) / 2), last = c + 1 + (norm->size - 1) / 2;
        first = first < 0 ? 0 : first;
        last = last > norm->channels ? norm->channels : last;
        for (int64_t i = 0; i < piece.count; i++)
            sums[i] = 0.0f;
        for (int64_t k = first; k < last; k++) {
            for (int64_t i = 0; i < piece.count; i++)
                sums[i] += job->shares[piece.offset + k * norm->inner + i];
        }
        for (int64_t i = 0; i < piece.count; i++)
            job->out[at + i] = job->dy[at + i] * job->powers[at + i] - factor * job->x[at + i] * sums[i];
    }
}

esp_status esp_window_norm_backward(const esp_compute *compute, const esp_window_norm *norm, const float *x,
                                    const float *dy, float *scratch, float *dx)
{
    int64_t elements = norm->batch * norm->channels * norm->inner;
    window_job job = {
        .norm = norm, .x = x, .dy = dy, .powers = scratch, .shares = scratch + elements, .out = dx};
    esp_status status = run_pieces(compute, &job, share_task);
    return status == ESP_OK ? run_pieces(compute, &job, gradient_task) : status;
}
