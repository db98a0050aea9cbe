/* Broadcasting arithmetic. The index space is simplified first: equal shapes become one flat loop, a bias per
 * channel becomes rows with one repeated value. Gradients visit the kept positions of an input in tasks and
 * fold the broadcast positions in order, in double, so that sums do not depend on the number of threads. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize(                                                                                        \
    "no-trapping-math") /* exception flags are nobody's: a comparison may become a selection */
#endif

#include <string.h>

#include "tensor/binary_math.h"
#include "tensor/elementwise.h"
#include "tensor/simd.h"
#include "tensor/strides.h"
#include "tensor/vector_math.h"

enum { A, B, Y, TARGET };

/* Every run goes through here: stride 0 repeats one value, 1 is contiguous. */
#define OPERATE_RUN(value, of_a, of_b)                                                                       \
    ESP_INDEPENDENT                                                                                          \
    for (int64_t i = 0; i < count; i++) {                                                                    \
        float p = of_a, q = of_b;                                                                            \
        y[i] = (value);                                                                                      \
    }
#define ESP_BINARY_ROW(name, reads, value, of_a, of_b)                                                       \
    case ESP_BINARY_##name:                                                                                  \
        if (stride_a == 1 && stride_b == 1)                                                                  \
            OPERATE_RUN(value, a[i], b[i])                                                                   \
        else if (stride_a == 1 && stride_b == 0)                                                             \
            OPERATE_RUN(value, a[i], repeated_b)                                                             \
        else if (stride_a == 0 && stride_b == 1)                                                             \
            OPERATE_RUN(value, repeated_a, b[i])                                                             \
        else                                                                                                 \
            OPERATE_RUN(value, a[i * stride_a], b[i * stride_b])                                             \
        return;

ESP_SIMD_CLONES
static void operate(esp_binary_kind kind, int64_t count, const float *a, int64_t stride_a, const float *b,
                    int64_t stride_b, float *y)
{
    float repeated_a = a[0], repeated_b = b[0];
    switch (kind) {
#include "tensor/binary.def"
    }
}
#undef OPERATE_RUN
#undef ESP_BINARY_ROW

typedef struct forward_job {
    esp_binary_kind kind;
    esp_walk walk;
    const float *a, *b;
    float *y;
    int64_t length, pieces, rows, rows_per_task;
} forward_job;

static void forward_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const forward_job *job = context;
    const esp_walk *walk = &job->walk;
    int inner = walk->rank - 1;
    int64_t start = task % job->pieces * ESP_FLAT_TILE;
    int64_t count = esp_tile_end(start, ESP_FLAT_TILE, job->length) - start;
    int64_t first = task / job->pieces * job->rows_per_task;
    int64_t last = esp_tile_end(first, job->rows_per_task, job->rows), at[ESP_MOST_WALKED];
    for (int64_t row = first; row < last; row++) {
        esp_walk_locate(walk, inner, row, at);
        operate(job->kind, count, job->a + at[A] + start * walk->strides[A][inner], walk->strides[A][inner],
                job->b + at[B] + start * walk->strides[B][inner], walk->strides[B][inner],
                job->y + at[Y] + start);
    }
}

/* The walk over a, b and y together. */
static esp_walk walk_of(const esp_view *a, const esp_view *b, const esp_view *y)
{
    esp_walk walk = {.rank = y->shape.rank, .operands = 3};
    for (int d = 0; d < walk.rank; d++)
        walk.dims[d] = y->shape.dims[d];
    esp_broadcast_strides(&a->shape, walk.rank, walk.strides[A]);
    esp_broadcast_strides(&b->shape, walk.rank, walk.strides[B]);
    esp_shape_strides(&y->shape, walk.strides[Y]);
    return walk;
}

esp_status esp_binary_forward(const esp_compute *compute, esp_binary_kind kind, const esp_view *a,
                              const esp_view *b, const esp_view *y)
{
    if (esp_shape_elements(&y->shape) <= 0)
        return ESP_OK;
    forward_job job = {.kind = kind,
                       .walk = walk_of(a, b, y),
                       .a = esp_view_f32(a),
                       .b = esp_view_f32(b),
                       .y = esp_view_f32(y)};
    esp_walk_simplify(&job.walk);
    job.length = job.walk.dims[job.walk.rank - 1];
    job.pieces = esp_tile_count(job.length, ESP_FLAT_TILE);
    job.rows = esp_walk_positions(&job.walk, job.walk.rank - 1);
    job.rows_per_task = esp_tile_rows(job.length);
    return esp_compute_run(compute, esp_tile_count(job.rows, job.rows_per_task) * job.pieces, forward_task,
                           &job);
}

/* Terms are made this many at a time before they are folded. */
enum { BLOCK = 512 };

typedef struct backward_job {
    esp_binary_kind kind;
    int input;       /* A or B: whose gradient */
    esp_walk kept;   /* dimensions the input has */
    esp_walk folded; /* dimensions over which it was broadcast */
    bool folds_inner, folds;
    const float *a, *b, *dy;
    float *target;
    int64_t block, blocks;
} backward_job;

static const bool gradient_reads[] = {
#define ESP_BINARY_ROW(name, reads, value, of_a, of_b) (reads) != 0,
#include "tensor/binary.def"
#undef ESP_BINARY_ROW
};

#define TERMS(part)                                                                                          \
    for (int64_t i = 0; i < count; i++) {                                                                    \
        float g = dy[i * stride_dy], p = a[i * stride_a], q = b[i * stride_b];                               \
        (void)p;                                                                                             \
        (void)q;                                                                                             \
        terms[i] = (part);                                                                                   \
    }
#define ESP_BINARY_ROW(name, reads, value, of_a, of_b)                                                       \
    case ESP_BINARY_##name:                                                                                  \
        if (job->input == A)                                                                                 \
            TERMS(of_a)                                                                                      \
        else                                                                                                 \
            TERMS(of_b)                                                                                      \
        return;

/* terms[i] = dy[i] times the derivative of a op b for the input asked for. */
ESP_SIMD_CLONES
static void gradient_terms(const backward_job *job, int64_t count, const float *a, int64_t stride_a,
                           const float *b, int64_t stride_b, const float *dy, int64_t stride_dy, float *terms)
{
    switch (job->kind) {
#include "tensor/binary.def"
    }
}
#undef TERMS
#undef ESP_BINARY_ROW

/* One element of the gradient: everything that was broadcast from it, whose innermost dimension is a run. */
static double fold_run(const backward_job *job, const int64_t at[ESP_MOST_WALKED])
{
    const esp_walk *walk = &job->folded;
    int inner = walk->rank - 1;
    int64_t rows = esp_walk_positions(walk, inner), length = walk->dims[inner], offset[ESP_MOST_WALKED];
    const int64_t stride_a = walk->strides[A][inner], stride_b = walk->strides[B][inner],
                  stride_y = walk->strides[Y][inner];
    float terms[BLOCK];
    double sum = 0.0;
    for (int64_t row = 0; row < rows; row++) {
        esp_walk_locate(walk, inner, row, offset);
        for (int64_t i = 0; i < length; i += BLOCK) {
            int64_t count = esp_tile_end(i, BLOCK, length) - i;
            gradient_terms(job, count, job->a + at[A] + offset[A] + i * stride_a, stride_a,
                           job->b + at[B] + offset[B] + i * stride_b, stride_b,
                           job->dy + at[Y] + offset[Y] + i * stride_y, stride_y, terms);
            sum += esp_sum_f32(count, terms);
        }
    }
    return sum;
}

/* A run of `count` elements of the gradient, each with its own sum over the broadcast positions. */
static void fold_rows(const backward_job *job, const int64_t at[ESP_MOST_WALKED], int64_t count)
{
    const esp_walk *kept = &job->kept, *folded = &job->folded;
    int inner = kept->rank - 1;
    int64_t rows = esp_walk_positions(folded, folded->rank), offset[ESP_MOST_WALKED];
    float terms[BLOCK];
    double sums[BLOCK] = {0};
    for (int64_t row = 0; row < rows; row++) {
        esp_walk_locate(folded, folded->rank, row, offset);
        gradient_terms(job, count, job->a + at[A] + offset[A], kept->strides[A][inner],
                       job->b + at[B] + offset[B], kept->strides[B][inner], job->dy + at[Y] + offset[Y],
                       kept->strides[Y][inner], terms);
        for (int64_t i = 0; i < count; i++)
            sums[i] += (double)terms[i];
    }
    for (int64_t i = 0; i < count; i++)
        job->target[at[TARGET] + i * kept->strides[TARGET][inner]] = (float)sums[i];
}

static void backward_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const backward_job *job = context;
    const esp_walk *kept = &job->kept;
    int inner = kept->rank - 1;
    int64_t start = task % job->blocks * job->block, at[ESP_MOST_WALKED];
    int64_t count = esp_tile_end(start, job->block, kept->dims[inner]) - start;
    esp_walk_locate(kept, inner, task / job->blocks, at);
    for (int i = 0; i < kept->operands; i++)
        at[i] += start * kept->strides[i][inner];

    if (!job->folds) {
        gradient_terms(job, count, job->a + at[A], kept->strides[A][inner], job->b + at[B],
                       kept->strides[B][inner], job->dy + at[Y], kept->strides[Y][inner],
                       job->target + at[TARGET]);
        return;
    }
    if (!job->folds_inner) {
        fold_rows(job, at, count);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        job->target[at[TARGET]] = (float)fold_run(job, at);
        for (int operand = 0; operand < kept->operands; operand++)
            at[operand] += kept->strides[operand][inner];
    }
}

static void append_dimension(esp_walk *walk, const esp_walk *from, int d)
{
    walk->dims[walk->rank] = from->dims[d];
    for (int i = 0; i < from->operands; i++)
        walk->strides[i][walk->rank] = from->strides[i][d];
    walk->rank++;
}

static esp_status backward_of(const esp_compute *compute, backward_job *job, const esp_walk *walk,
                              const esp_view *target)
{
    esp_walk all = *walk;
    all.operands = 4;
    esp_broadcast_strides(&target->shape, all.rank, all.strides[TARGET]);
    esp_walk_simplify(&all);
    job->target = esp_view_f32(target);
    job->kept = (esp_walk){.operands = 4};
    job->folded = (esp_walk){.operands = 4};
    for (int d = 0; d < all.rank; d++)
        append_dimension(all.strides[TARGET][d] == 0 ? &job->folded : &job->kept, &all, d);
    job->folds = job->folded.rank > 0 && esp_walk_positions(&job->folded, job->folded.rank) > 1;
    job->folds_inner = all.strides[TARGET][all.rank - 1] == 0;
    esp_walk_simplify(&job->kept);
    esp_walk_simplify(&job->folded);

    /* A folded run is work enough for a task of few elements. */
    job->block = !job->folds ? ESP_FLAT_TILE : job->folds_inner ? 8 : BLOCK;
    int inner = job->kept.rank - 1;
    job->blocks = esp_tile_count(job->kept.dims[inner], job->block);
    return esp_compute_run(compute, esp_walk_positions(&job->kept, inner) * job->blocks, backward_task, job);
}

esp_status esp_binary_backward(const esp_compute *compute, esp_binary_kind kind, const esp_view *a,
                               const esp_view *b, const esp_view *dy, const esp_view *da, const esp_view *db)
{
    if (esp_shape_elements(&dy->shape) <= 0) {
        for (int i = 0; i < 2; i++) {
            const esp_view *target = i == 0 ? da : db;
            if (target->data != NULL && esp_shape_elements(&target->shape) > 0)
                memset(target->data, 0, (size_t)esp_shape_elements(&target->shape) * sizeof(float));
        }
        return ESP_OK;
    }
    bool reads =
        gradient_reads[kind]; /* else they may not be there; dy, which is no shorter, stands for them */
    backward_job job = {.kind = kind,
                        .a = esp_view_f32(reads ? a : dy),
                        .b = esp_view_f32(reads ? b : dy),
                        .dy = esp_view_f32(dy)};
    esp_walk walk = walk_of(a, b, dy);
    esp_status status = ESP_OK;
    if (da->data != NULL) {
        job.input = A;
        status = backward_of(compute, &job, &walk, da);
    }
    if (status == ESP_OK && db->data != NULL) {
        job.input = B;
        status = backward_of(compute, &job, &walk, db);
    }
    return status;
}
