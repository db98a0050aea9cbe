/* What the files of the Winograd convolution share: the problem as both passes see it, packed weights, the
 * division of the work. */
#ifndef ESP_TENSOR_WINOGRAD_INTERNAL_H
#define ESP_TENSOR_WINOGRAD_INTERNAL_H

#include "tensor/blocked_conv_internal.h"
#include "tensor/winograd_transform.h"

/* The convolution that is computed. For the gradient, its input is dy, its channels are the filters of the
 * geometry, its filters the channels. "Wide blocks" of filters are what the widest kernel computes at a time;
 * the last one may have fewer blocks. */
typedef struct winograd_problem {
    winograd_grid grid;
    int64_t batch, channels, filters;
    int64_t channel_blocks, filter_blocks; /* of ESP_BLOCK, rounded up */
    int64_t wide_blocks, wides;            /* blocks of a wide block, and how many of those */
    int64_t tiles;                         /* of all images */
    bool is_gradient;
    bool has_points; /* packed weights are transformed; else each run transforms them */
} winograd_problem;

/* False where F(4x4,3x3) cannot compute the plan's pass. has_points is for the caller to set. */
bool esp_winograd_problem(const esp_blocked_conv *plan, winograd_problem *out);

/* Blocks of ESP_BLOCK filters of a wide block. */
static inline int64_t winograd_wide_blocks(const winograd_problem *p, int64_t wide)
{
    return conv_min(p->filter_blocks - wide * p->wide_blocks, p->wide_blocks);
}

/* An estimate of what a run takes, in cycles of a core with two 512-bit multiply-add units. */
double esp_winograd_cycles(const winograd_problem *problem);

/* ---- Weights ----
 *
 * Transformed ones are [36 points][wide blocks of filters][channels][filters of the block]. Points are this
 * many floats apart: an odd number of cache lines, so that a filter's points lie in different sets of the
 * caches. */
int64_t esp_winograd_weight_point(const winograd_problem *problem);

/* Packs transformed weights. */
size_t esp_winograd_packed_bytes(const esp_blocked_conv *plan);
esp_status esp_winograd_pack(const esp_compute *compute, const esp_blocked_conv *plan, const float *w,
                             void *packed);

/* Floats of `lines` cache lines, one more if they are even in number. */
static inline int64_t winograd_odd_lines(int64_t lines)
{
    return (lines | 1) * ESP_BLOCK;
}

/* ---- The division of the work (winograd_division.c) ---- */

typedef struct winograd_division {
    bool is_shared;
    int64_t superblocks, block_tiles; /* tiles of the largest superblock */

    /* Private: the tasks are tile_tasks times filter_tasks. */
    int64_t tile_tasks;   /* each has some superblocks */
    int64_t filter_tasks; /* each has some of the wide blocks */
    bool is_far;          /* x and y are fetched ahead */
    bool fetches_weights;

    /* Shared: the tasks of a superblock are its wide blocks times 6 / task_rows. */
    int64_t task_rows;    /* how many of the six rows of points a task computes */
    int64_t chunk_blocks; /* channels are taken in chunks of so many blocks */
    int64_t panel_point;  /* floats from point to point of a chunk's transformed weights */

    int64_t v_point, m_point; /* floats from point to point */
} winograd_division;

winograd_division esp_winograd_divide(const winograd_problem *problem, int slots);

/* Shared tasks that have all points of their filters also transform them back. */
static inline bool winograd_finishes(const winograd_division *d)
{
    return d->task_rows == WINOGRAD_PATCH;
}

static inline int64_t winograd_superblock_start(const winograd_problem *p, const winograd_division *d,
                                                int64_t superblock)
{
    return blocked_part(p->tiles, d->superblocks, superblock);
}

/* ---- The run (winograd_run.c) ---- */

size_t esp_winograd_scratch(const esp_blocked_conv *plan, const winograd_problem *problem, int slots);

esp_status esp_winograd_run(const esp_compute *compute, const esp_blocked_conv *plan,
                            const winograd_problem *problem, const esp_view *x, const void *packed,
                            const esp_conv_extras *extras, const esp_view *y, void *scratch);

#endif
