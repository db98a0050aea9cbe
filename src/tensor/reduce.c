/* The index space of x is taken apart into the axes that stay and those that are folded. Where the innermost
 * axis is folded every result is made from runs of it, one by one; where it stays, a block of neighbouring
 * results is made at once, row by row. Gradients take the same way back: what they need to know of all that
 * was folded into a result (how many maxima there are, say) is a fold of its own. */
#include "tensor/reduce.h"

#include <math.h>

#include "tensor/simd.h"
#include "tensor/strides.h"
#include "tensor/vector_math.h"

enum { BLOCK = 512 };

/* What is folded: one number per result, from the elements x and the result's own number `pivot`. */
typedef enum fold_kind {
    FOLD_SUM,
    FOLD_ABS,
    FOLD_SQUARE,
    FOLD_EXP,   /* of x - pivot */
    FOLD_EQUAL, /* how many are the pivot */
    FOLD_MAX,
    FOLD_MIN,
    FOLD_PROD,
    FOLD_PROD_NONZERO,
} fold_kind;

enum { X, Y };

typedef struct reduce_job {
    esp_reduce_kind kind;
    esp_walk kept, folded;
    bool folds_inner; /* the innermost axis is folded */
    int64_t folded_count;
    int64_t length, block, blocks; /* of the innermost kept axis; results at once */
    int64_t rows, rows_per_task;
    const float *x, *y_in, *dy;
    float *y, *dx;
} reduce_job;

static void append_axis(esp_walk *walk, int64_t dim, int64_t x_stride, int64_t y_stride)
{
    walk->dims[walk->rank] = dim;
    walk->strides[X][walk->rank] = x_stride;
    walk->strides[Y][walk->rank] = y_stride;
    walk->rank++;
}

static void start_job(const esp_reduction *reduction, reduce_job *job)
{
    const esp_shape *x = &reduction->x;
    int64_t strides[ESP_MAX_RANK], y_strides[ESP_MAX_RANK], y_stride = 1;
    esp_shape_strides(x, strides);
    for (int i = x->rank - 1; i >= 0; i--) {
        y_strides[i] = y_stride;
        y_stride *= reduction->is_reduced[i] ? 1 : x->dims[i];
    }
    job->kind = reduction->kind;
    job->kept = job->folded = (esp_walk){.operands = 2};
    for (int i = 0; i < x->rank; i++) {
        if (reduction->is_reduced[i])
            append_axis(&job->folded, x->dims[i], strides[i], 0);
        else
            append_axis(&job->kept, x->dims[i], strides[i], y_strides[i]);
    }
    esp_walk_simplify(&job->kept);
    esp_walk_simplify(&job->folded);
    int kept = job->kept.rank - 1, folded = job->folded.rank - 1;
    job->folds_inner =
        job->folded.dims[folded] > 1 &&
        (job->kept.dims[kept] == 1 || job->folded.strides[X][folded] < job->kept.strides[X][kept]);
    job->folded_count = esp_walk_positions(&job->folded, job->folded.rank);
    job->length = job->kept.dims[kept];
    job->rows = esp_walk_positions(&job->kept, kept);
    /* results of a run are made one by one, so many to a task; those of rows by the block */
    int64_t work = job->folded_count > 0 ? job->folded_count : 1;
    job->block = job->folds_inner ? esp_tile_rows(work) : BLOCK;
    job->block = job->block > BLOCK ? BLOCK : job->block;
    job->blocks = esp_tile_count(job->length, job->block);
    job->rows_per_task = esp_tile_rows(work * (job->length < job->block ? job->length : job->block));
}

/* ---- folds ---- */

#define TERMS(value)                                                                                         \
    for (int64_t i = 0; i < count; i++) {                                                                    \
        float v = x[i * stride];                                                                             \
        terms[i] = (value);                                                                                  \
    }                                                                                                        \
    return esp_sum_f32(count, terms)

/* The sum of what `count` elements, at most BLOCK, contribute. */
ESP_SIMD_CLONES
static double sum_terms(fold_kind kind, int64_t count, const float *x, int64_t stride, float pivot)
{
    float terms[BLOCK];
    switch (kind) {
    case FOLD_ABS:
        TERMS(fabsf(v));
    case FOLD_SQUARE:
        TERMS(v * v);
    case FOLD_EXP:
        TERMS(esp_exp_f32(v - pivot));
    case FOLD_EQUAL:
        TERMS(v <= pivot && v >= pivot ? 1.0f : 0.0f);
    case FOLD_SUM:
    case FOLD_MAX:
    case FOLD_MIN:
    case FOLD_PROD:
    case FOLD_PROD_NONZERO:
        break;
    }
    if (stride == 1)
        return esp_sum_f32(count, x);
    TERMS(v);
}
#undef TERMS

static double combine(fold_kind kind, double folded, double v)
{
    switch (kind) {
    case FOLD_MAX:
        return v > folded || v != v ? v : folded;
    case FOLD_MIN:
        return v < folded || v != v ? v : folded;
    case FOLD_PROD:
        return folded * v;
    case FOLD_PROD_NONZERO:
        return v < 0.0 || v > 0.0 || v != v ? folded * v : folded;
    case FOLD_SUM:
    case FOLD_ABS:
    case FOLD_SQUARE:
    case FOLD_EXP:
    case FOLD_EQUAL:
        break;
    }
    return folded + v;
}

static bool is_sum(fold_kind kind)
{
    return kind < FOLD_MAX;
}

static double start_of(fold_kind kind)
{
    if (is_sum(kind))
        return 0.0;
    if (kind == FOLD_MAX || kind == FOLD_MIN)
        return kind == FOLD_MAX ? -INFINITY : INFINITY;
    return 1.0;
}

/* One result from the runs of the innermost folded axis. */
static double fold_runs(const reduce_job *job, fold_kind kind, const float *x, float pivot)
{
    const esp_walk *walk = &job->folded;
    int inner = walk->rank - 1;
    int64_t rows = esp_walk_positions(walk, inner), length = walk->dims[inner];
    int64_t stride = walk->strides[X][inner], at[ESP_MOST_WALKED];
    double folded = start_of(kind);
    for (int64_t row = 0; row < rows; row++) {
        esp_walk_locate(walk, inner, row, at);
        const float *run = x + at[X];
        for (int64_t i = 0; is_sum(kind) && i < length; i += BLOCK)
            folded += sum_terms(kind, esp_tile_end(i, BLOCK, length) - i, run + i * stride, stride, pivot);
        for (int64_t i = 0; !is_sum(kind) && i < length; i++)
            folded = combine(kind, folded, (double)run[i * stride]);
    }
    return folded;
}

#define FOLD_ROW(value)                                                                                      \
    for (int64_t i = 0; i < count; i++) {                                                                    \
        float v = x[i * stride];                                                                             \
        folded[i] += (double)(value);                                                                        \
    }                                                                                                        \
    return

/* Adds a row of x to the results of a block. */
ESP_SIMD_CLONES
static void fold_row(fold_kind kind, int64_t count, const float *x, int64_t stride, const float *pivots,
                     double *folded)
{
    switch (kind) {
    case FOLD_SUM:
        FOLD_ROW(v);
    case FOLD_ABS:
        FOLD_ROW(fabsf(v));
    case FOLD_SQUARE:
        FOLD_ROW(v * v);
    case FOLD_EXP:
        FOLD_ROW(esp_exp_f32(v - pivots[i]));
    case FOLD_EQUAL:
        FOLD_ROW(v <= pivots[i] && v >= pivots[i] ? 1.0f : 0.0f);
    case FOLD_MAX:
    case FOLD_MIN:
    case FOLD_PROD:
    case FOLD_PROD_NONZERO:
        break;
    }
    for (int64_t i = 0; i < count; i++)
        folded[i] = combine(kind, folded[i], (double)x[i * stride]);
}
#undef FOLD_ROW

/* folded[0..count) of results that lie next to each other on the innermost kept axis; x at the first.
 * `pivots` may be NULL where the kind has none. */
static void fold(const reduce_job *job, fold_kind kind, int64_t count, const float *x, const float *pivots,
                 double *folded)
{
    int64_t stride = job->kept.strides[X][job->kept.rank - 1], at[ESP_MOST_WALKED];
    if (job->folds_inner) {
        for (int64_t i = 0; i < count; i++)
            folded[i] = fold_runs(job, kind, x + i * stride, pivots == NULL ? 0.0f : pivots[i]);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        folded[i] = start_of(kind);
    for (int64_t row = 0; row < job->folded_count; row++) {
        esp_walk_locate(&job->folded, job->folded.rank, row, at);
        fold_row(kind, count, x + at[X], stride, pivots, folded);
    }
}

/* ---- forward ---- */

/* The largest of all, where it is a number. */
static void fold_exponentials(const reduce_job *job, int64_t count, const float *x, double *folded)
{
    float pivots[BLOCK];
    fold(job, FOLD_MAX, count, x, NULL, folded);
    for (int64_t i = 0; i < count; i++)
        pivots[i] = isfinite(folded[i]) ? (float)folded[i] : 0.0f;
    fold(job, FOLD_EXP, count, x, pivots, folded);
    for (int64_t i = 0; i < count; i++)
        folded[i] = (double)pivots[i] + log(folded[i]);
}

static void reduce_block(const reduce_job *job, int64_t count, const float *x, double *folded)
{
    static const fold_kind kinds[] = {
        [ESP_REDUCE_SUM] = FOLD_SUM,   [ESP_REDUCE_MEAN] = FOLD_SUM,          [ESP_REDUCE_MAX] = FOLD_MAX,
        [ESP_REDUCE_MIN] = FOLD_MIN,   [ESP_REDUCE_PROD] = FOLD_PROD,         [ESP_REDUCE_L1] = FOLD_ABS,
        [ESP_REDUCE_L2] = FOLD_SQUARE, [ESP_REDUCE_SUM_SQUARE] = FOLD_SQUARE, [ESP_REDUCE_LOG_SUM] = FOLD_SUM,
    };
    if (job->kind == ESP_REDUCE_LOG_SUM_EXP) {
        fold_exponentials(job, count, x, folded);
        return;
    }
    fold(job, kinds[job->kind], count, x, NULL, folded);
    for (int64_t i = 0; i < count; i++) {
        if (job->kind == ESP_REDUCE_MEAN)
            folded[i] /= (double)job->folded_count;
        else if (job->kind == ESP_REDUCE_L2)
            folded[i] = sqrt(folded[i]);
        else if (job->kind == ESP_REDUCE_LOG_SUM)
            folded[i] = log(folded[i]);
    }
}

typedef void block_fn(const reduce_job *job, const int64_t at[ESP_MOST_WALKED], int64_t count);

/* The blocks of a task. */
static void each_block(const reduce_job *job, int64_t task, block_fn *block_of)
{
    int inner = job->kept.rank - 1;
    int64_t start = task % job->blocks * job->block, at[ESP_MOST_WALKED];
    int64_t count = esp_tile_end(start, job->block, job->length) - start;
    int64_t first = task / job->blocks * job->rows_per_task;
    int64_t last = esp_tile_end(first, job->rows_per_task, job->rows);
    for (int64_t row = first; row < last; row++) {
        esp_walk_locate(&job->kept, inner, row, at);
        at[X] += start * job->kept.strides[X][inner];
        at[Y] += start * job->kept.strides[Y][inner];
        block_of(job, at, count);
    }
}

static esp_status run_job(const esp_compute *compute, reduce_job *job, esp_task_fn *task)
{
    return esp_compute_run(compute, esp_tile_count(job->rows, job->rows_per_task) * job->blocks, task, job);
}

static void forward_block(const reduce_job *job, const int64_t at[ESP_MOST_WALKED], int64_t count)
{
    double folded[BLOCK];
    int64_t stride = job->kept.strides[Y][job->kept.rank - 1];
    reduce_block(job, count, job->x + at[X], folded);
    for (int64_t i = 0; i < count; i++)
        job->y[at[Y] + i * stride] = (float)folded[i];
}

static void forward_task(void *context, int64_t task, int slot)
{
    (void)slot;
    each_block(context, task, forward_block);
}

esp_status esp_reduce_forward(const esp_compute *compute, const esp_reduction *reduction, const float *x,
                              float *y)
{
    reduce_job job = {.x = x, .y = y};
    start_job(reduction, &job);
    return run_job(compute, &job, forward_task);
}

/* ---- backward ---- */

/* What the gradients of a result's elements are made with: `factor`, and `other`. */
typedef struct factors {
    float factor[BLOCK], other[BLOCK];
} factors;

/* A product's part at x is the product of all others: none but x is 0, or the only one that is, or several.
 */
static void product_factors(const reduce_job *job, int64_t count, const float *x, const float *dy,
                            factors *out)
{
    double zeros[BLOCK], product[BLOCK];
    float pivots[BLOCK] = {0};
    fold(job, FOLD_EQUAL, count, x, pivots, zeros);
    fold(job, FOLD_PROD_NONZERO, count, x, NULL, product);
    for (int64_t i = 0; i < count; i++) {
        float whole = (float)((double)dy[i] * product[i]);
        out->factor[i] = zeros[i] < 0.5 ? whole : 0.0f;
        out->other[i] = zeros[i] > 0.5 && zeros[i] < 1.5 ? whole : 0.0f;
    }
}

static void shared_factors(const reduce_job *job, int64_t count, const float *x, const float *y,
                           const float *dy, factors *out)
{
    double holders[BLOCK];
    fold(job, FOLD_EQUAL, count, x, y, holders);
    for (int64_t i = 0; i < count; i++) {
        out->factor[i] = holders[i] > 0.5 ? (float)((double)dy[i] / holders[i]) : 0.0f;
        out->other[i] = y[i];
    }
}

static void find_factors(const reduce_job *job, int64_t count, const float *x, const float *y,
                         const float *dy, factors *out)
{
    switch (job->kind) {
    case ESP_REDUCE_MAX:
    case ESP_REDUCE_MIN:
        shared_factors(job, count, x, y, dy, out);
        return;
    case ESP_REDUCE_PROD:
        product_factors(job, count, x, dy, out);
        return;
    case ESP_REDUCE_SUM:
    case ESP_REDUCE_MEAN:
    case ESP_REDUCE_L1:
    case ESP_REDUCE_L2:
    case ESP_REDUCE_SUM_SQUARE:
    case ESP_REDUCE_LOG_SUM:
    case ESP_REDUCE_LOG_SUM_EXP:
        break;
    }
    for (int64_t i = 0; i < count; i++) {
        float factor = dy[i];
        if (job->kind == ESP_REDUCE_MEAN)
            factor = (float)((double)dy[i] / (double)job->folded_count);
        else if (job->kind == ESP_REDUCE_SUM_SQUARE)
            factor = 2.0f * dy[i];
        else if (job->kind == ESP_REDUCE_L2)
            factor = y[i] > 0.0f ? dy[i] / y[i] : 0.0f;
        else if (job->kind == ESP_REDUCE_LOG_SUM)
            factor = (float)((double)dy[i] * exp(-(double)y[i]));
        out->factor[i] = factor;
        out->other[i] = y == NULL ? 0.0f : y[i];
    }
}

#define SLOPES(value)                                                                                        \
    for (int64_t i = 0; i < count; i++) {                                                                    \
        float factor = factors_[i * factor_stride], other = others[i * factor_stride];                       \
        (void)other;                                                                                         \
        dx[i * stride] = (value);                                                                            \
    }                                                                                                        \
    return

/* dx of a run of x: all of one result (factor_stride 0), or one of each (1). */
ESP_SIMD_CLONES
static void gradient_run(esp_reduce_kind kind, int64_t count, const float *x, int64_t stride,
                         const float *factors_, const float *others, int64_t factor_stride, float *dx)
{
    switch (kind) {
    case ESP_REDUCE_SUM:
    case ESP_REDUCE_MEAN:
    case ESP_REDUCE_LOG_SUM:
        SLOPES(factor);
    case ESP_REDUCE_MAX:
    case ESP_REDUCE_MIN:
        SLOPES(x[i * stride] <= other && x[i * stride] >= other ? factor : 0.0f);
    case ESP_REDUCE_PROD:
        SLOPES(x[i * stride] < 0.0f || x[i * stride] > 0.0f ? factor / x[i * stride] : other);
    case ESP_REDUCE_L1:
        SLOPES(x[i * stride] > 0.0f ? factor : (x[i * stride] < 0.0f ? -factor : 0.0f));
    case ESP_REDUCE_L2:
    case ESP_REDUCE_SUM_SQUARE:
        SLOPES(factor * x[i * stride]);
    case ESP_REDUCE_LOG_SUM_EXP:
        SLOPES(factor * esp_exp_f32(x[i * stride] - other));
    }
}
#undef SLOPES

/* Results of a block lie next to each other in y, too. */
static void backward_block(const reduce_job *job, const int64_t at[ESP_MOST_WALKED], int64_t count)
{
    const esp_walk *walk = &job->folded;
    bool reads = job->kind != ESP_REDUCE_SUM && job->kind != ESP_REDUCE_MEAN;
    const float *x = reads ? job->x + at[X] : NULL, *y = reads ? job->y_in + at[Y] : NULL;
    int64_t stride = job->kept.strides[X][job->kept.rank - 1], offset[ESP_MOST_WALKED];
    int inner = job->folds_inner ? walk->rank - 1 : walk->rank;
    int64_t rows = esp_walk_positions(walk, inner);
    factors of;
    find_factors(job, count, x, y, job->dy + at[Y], &of);
    for (int64_t row = 0; row < rows; row++) {
        esp_walk_locate(walk, inner, row, offset);
        float *dx = job->dx + at[X] + offset[X];
        const float *from = reads ? x + offset[X] : dx;
        if (!job->folds_inner) {
            gradient_run(job->kind, count, from, stride, of.factor, of.other, 1, dx);
            continue;
        }
        for (int64_t i = 0; i < count; i++)
            gradient_run(job->kind, walk->dims[inner], from + i * stride, walk->strides[X][inner],
                         of.factor + i, of.other + i, 0, dx + i * stride);
    }
}

static void backward_task(void *context, int64_t task, int slot)
{
    (void)slot;
    each_block(context, task, backward_block);
}

esp_status esp_reduce_backward(const esp_compute *compute, const esp_reduction *reduction, const float *x,
                               const float *y, const float *dy, float *dx)
{
    reduce_job job = {.x = x, .y_in = y, .dy = dy, .dx = dx};
    start_job(reduction, &job);
    return run_job(compute, &job, backward_task);
}
