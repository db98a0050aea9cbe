/* Convolution in channel blocks, gradient for the weight: dw[f][c][ky][kx] = sum over images and outputs of
 * dy[f][y][x] * x[c][..][..].
 *
 * For one tap of the kernel this is an outer product of the channels of a pixel of x by the filters of a
 * pixel of dy, added over all pixels: a tile of channels by filters stays in registers while it walks over a
 * strip of pixels that the level-1 cache holds. Padding needs no zeros: each tap walks over the outputs whose
 * input lies in the image. A plain x (few channels: the first layer) is copied strip by strip to padded rows
 * with its channels side by side, so that a whole kernel row is one run of weights.
 *
 * Tasks are parts of the filters by parts of the channels by chunks of strips. With one chunk a task keeps
 * its sums to itself and writes the weights; else the chunks' sums are added in order in a second run. */
#include <string.h>

#include "tensor/blocked_conv_internal.h"
#include "tensor/blocked_grad.h"
#include "tensor/simd.h"

/* What a tile walks over: pixels of several images. Strides in floats; pixels of dy are ESP_BLOCK apart. */
typedef struct grad_sweep {
    int64_t images, rows, columns;
    int64_t x_image, x_row, x_column;
    int64_t dy_image, dy_row;
    int64_t dy_block, sums_block; /* from one block of filters to the next, in dy and in sums */
    const float *ahead;           /* what is fetched into the level-2 cache on the way, a line per pixel */
    int64_t ahead_image, ahead_row, ahead_column;
} grad_sweep;

/* sums[b*sums_block + r*ESP_BLOCK + f] += sum over pixels of x[pixel + r] * dy[pixel + b*dy_block + f], for
 * numbers of blocks and rows that are fixed for each function. */
typedef void outer_fn(const grad_sweep *sweep, const float *x, const float *dy, float *sums);

typedef struct outer_kernels {
    int blocks;                /* most blocks of filters of a tile: 1 or 2 */
    int rows[3];               /* most rows of a tile of 1 and 2 blocks */
    outer_fn *const *tiles[3]; /* by blocks, then by rows */
} outer_kernels;

#define BLOCKED_TEMPLATE "tensor/blocked_grad_weight_template.h"
#include "tensor/blocked_isas.h"

static const outer_kernels *kernels_for(const esp_engine *engine)
{
#if defined(__x86_64__)
    if (engine->isa == ESP_ISA_AVX512)
        return &outer_kernels_avx512;
    if (engine->isa == ESP_ISA_AVX2)
        return &outer_kernels_avx2;
#endif
    (void)engine;
    return &outer_kernels_plain;
}

/* Pixels of a strip: of x and two blocks of dy the level-1 cache holds so many; a plain x is copied and wants
 * longer strips, which share fewer rows. Multiply-adds that make a task worth its start, and that make it
 * long. Pixels that make sums of their own worth their memory, and the most floats of such sums. */
enum {
    STRIP_PIXELS = 192,
    PLAIN_STRIP_PIXELS = 1024,
    GOOD_TASKS = 32,
    LEAST_PART_BLOCKS = 4,
    MOST_PART_BLOCKS = 48,
    CHUNK_PIXELS = 2048,
    MOST_CHUNKS = 64,
    MOST_SUMS = 4 << 20
};
static const int64_t short_task = INT64_C(1) << 24, long_task = INT64_C(1) << 28;

typedef struct weight_plan {
    const esp_conv_geometry *g;
    const outer_kernels *kernels;
    bool takes_plain;
    int64_t lanes; /* channels side by side: of a block, or of the whole plain image */
    int64_t channel_blocks, filter_blocks; /* of a group */
    int64_t taps, run_taps;                /* run_taps kernel columns make one run of weights */
    int64_t strip_rows, row_strips, strip_images, strips;
    int64_t chunks;
    int64_t filter_part, filter_parts, channel_part, channel_parts; /* blocks; parts of a group */
    int64_t parts, block_floats, part_floats;                       /* sums of a block of filters of a part */
    int64_t strip_height, strip_width, strip_floats;                /* of the copy of a plain x */
} weight_plan;

static void plan_strips(weight_plan *plan)
{
    const esp_conv_geometry *g = plan->g;
    int64_t pixels = plan->takes_plain ? PLAIN_STRIP_PIXELS : STRIP_PIXELS;
    plan->strip_rows = conv_min(conv_max(pixels / g->out_width, 1), g->out_height);
    plan->row_strips = conv_ceil_divide(g->out_height, plan->strip_rows);
    plan->strip_rows = conv_ceil_divide(g->out_height, plan->row_strips);
    plan->row_strips = conv_ceil_divide(g->out_height, plan->strip_rows);
    plan->strip_images = plan->row_strips > 1 ? 1 : conv_min(conv_max(pixels / conv_pixels(g), 1), g->batch);
    plan->strips = conv_ceil_divide(g->batch, plan->strip_images) * plan->row_strips;
    if (!plan->takes_plain)
        return;
    plan->strip_height = (plan->strip_rows - 1) * g->stride_h + (g->kernel_h - 1) * g->dilation_h + 1;
    plan->strip_width = (g->out_width - 1) * g->stride_w + (g->kernel_w - 1) * g->dilation_w + 1;
    plan->strip_floats = plan->strip_images * plan->strip_height * plan->strip_width * plan->lanes;
}

/* Halves the longer side of the parts until there are `wanted` of them and a strip of both fits the level-2
 * cache. */
static void plan_parts(weight_plan *plan, int64_t wanted)
{
    int64_t filters = plan->filter_blocks, channels = plan->channel_blocks, parts = 1;
    while ((parts < wanted || filters + channels > MOST_PART_BLOCKS) &&
           conv_max(filters, channels) > LEAST_PART_BLOCKS) {
        int64_t *longer = filters >= channels ? &filters : &channels;
        *longer = conv_ceil_divide(*longer, 4) * 2;
        parts =
            conv_ceil_divide(plan->filter_blocks, filters) * conv_ceil_divide(plan->channel_blocks, channels);
    }
    plan->filter_part = filters;
    plan->filter_parts = conv_ceil_divide(plan->filter_blocks, filters);
    plan->channel_part = channels;
    plan->channel_parts = conv_ceil_divide(plan->channel_blocks, channels);
    plan->parts = plan->g->group * plan->filter_parts * plan->channel_parts;
}

static void plan_tasks(weight_plan *plan)
{
    const esp_conv_geometry *g = plan->g;
    int64_t weights =
        g->group * plan->filter_blocks * plan->channel_blocks * plan->taps * plan->lanes * ESP_BLOCK;
    int64_t pixels = g->batch * conv_pixels(g), work = pixels * weights / g->group;
    int64_t wanted = conv_max(conv_max(conv_min(work / short_task, GOOD_TASKS), work / long_task), 1);
    plan->chunks = conv_min(conv_min(wanted, pixels / CHUNK_PIXELS), conv_min(plan->strips, MOST_CHUNKS));
    plan->chunks = conv_max(conv_min(plan->chunks, MOST_SUMS / weights), 1);
    plan_parts(plan, conv_ceil_divide(wanted, plan->chunks * g->group));
    plan->block_floats = plan->channel_part * plan->taps * plan->lanes * ESP_BLOCK;
    plan->part_floats = plan->filter_part * plan->block_floats;
}

static weight_plan weight_plan_make(const esp_blocked_conv *conv)
{
    const esp_conv_geometry *g = &conv->geometry;
    weight_plan plan = {.g = g, .kernels = kernels_for(&conv->engine), .takes_plain = conv->takes_plain};
    plan.lanes = conv->takes_plain ? g->channels : ESP_BLOCK;
    plan.channel_blocks = conv_ceil_divide(conv_group_channels(g), plan.lanes);
    plan.filter_blocks = conv_ceil_divide(conv_group_filters(g), ESP_BLOCK);
    plan.taps = conv_taps(g);
    plan.run_taps = conv->takes_plain && g->dilation_w == 1 ? g->kernel_w : 1;
    plan_strips(&plan);
    plan_tasks(&plan);
    return plan;
}

static bool fits(const esp_blocked_conv *plan)
{
    const esp_conv_geometry *g = &plan->geometry;
    if (plan->pass != ESP_CONV_GRAD_WEIGHT || g->batch <= 0 || g->channels <= 0 || g->filters <= 0 ||
        conv_pixels(g) <= 0)
        return false;
    if (g->group == 1)
        return true;
    return !plan->takes_plain && conv_group_channels(g) % ESP_BLOCK == 0 &&
           conv_group_filters(g) % ESP_BLOCK == 0;
}

static size_t sums_bytes(const weight_plan *plan)
{
    if (plan->chunks == 1)
        return 0;
    return (size_t)(plan->chunks * plan->parts * plan->part_floats) * sizeof(float);
}

static size_t copy_bytes(const weight_plan *plan)
{
    return conv_aligned((size_t)plan->strip_floats * sizeof(float));
}

/* A slot holds the copy of a plain x, then the sums of a task that keeps them to itself. */
static size_t slot_bytes(const weight_plan *plan)
{
    size_t own_sums = plan->chunks == 1 ? (size_t)plan->part_floats * sizeof(float) : 0;
    return copy_bytes(plan) + own_sums;
}

static size_t scratch_bytes(const esp_blocked_conv *conv, int slots)
{
    weight_plan plan = weight_plan_make(conv);
    return esp_grad_bias_bytes(plan.g) + sums_bytes(&plan) + (size_t)slots * slot_bytes(&plan);
}

typedef struct weight_job {
    weight_plan plan;
    const esp_view *x, *dy;
    int64_t x_image, dy_image;
    float *dw;
    float *sums;
    char *slots;
} weight_job;

/* A part of the weights of one group, in blocks. */
typedef struct weight_part {
    int64_t group, filter_start, filter_end, channel_start, channel_end;
} weight_part;

static weight_part part_of(const weight_plan *plan, int64_t index)
{
    int64_t filter_index = index / plan->channel_parts;
    weight_part part = {.group = filter_index / plan->filter_parts,
                        .filter_start = filter_index % plan->filter_parts * plan->filter_part,
                        .channel_start = index % plan->channel_parts * plan->channel_part};
    part.filter_end = conv_min(part.filter_start + plan->filter_part, plan->filter_blocks);
    part.channel_end = conv_min(part.channel_start + plan->channel_part, plan->channel_blocks);
    return part;
}

typedef struct weight_strip {
    int64_t image, images, y_start, y_end;
} weight_strip;

static weight_strip strip_of(const weight_plan *plan, int64_t index)
{
    const esp_conv_geometry *g = plan->g;
    weight_strip strip = {.image = index / plan->row_strips * plan->strip_images,
                          .y_start = index % plan->row_strips * plan->strip_rows};
    strip.images = conv_min(plan->strip_images, g->batch - strip.image);
    strip.y_end = conv_min(strip.y_start + plan->strip_rows, g->out_height);
    return strip;
}

/* The rows and columns of a plain x that a strip needs: [image][row][column][channel], zeros outside. */
static void copy_plain(const weight_job *job, const weight_strip *strip, float *copy)
{
    const weight_plan *plan = &job->plan;
    const esp_conv_geometry *g = plan->g;
    memset(copy, 0, (size_t)plan->strip_floats * sizeof(float));
    int64_t top = strip->y_start * g->stride_h - g->pad_top;
    int64_t first = conv_max(0, -top), last = conv_min(plan->strip_height, g->height - top);
    int64_t left = g->pad_left, right = conv_min(plan->strip_width, g->width + g->pad_left);
    for (int64_t n = 0; n < strip->images; n++)
        for (int64_t row = first; row < last; row++) {
            float *target = copy + (n * plan->strip_height + row) * plan->strip_width * plan->lanes;
            for (int64_t c = 0; c < plan->lanes; c++) {
                const float *source = esp_view_f32(job->x) + (strip->image + n) * job->x_image +
                                      (c * g->height + top + row) * g->width - left;
                for (int64_t column = left; column < right; column++)
                    target[column * plan->lanes + c] = source[column];
            }
        }
}

/* The pixels whose weight is (ky, kx) and where they start; false when there are none. */
typedef struct weight_walk {
    grad_sweep sweep;
    const float *x, *dy;
    int64_t x_block; /* from one block of channels to the next */
} weight_walk;

static bool walk_blocked(const weight_job *job, const weight_strip *strip, int64_t ky, int64_t kx,
                         weight_walk *walk)
{
    const esp_conv_geometry *g = job->plan.g;
    int64_t y_start, y_end, x_start, x_end;
    esp_window_outputs(g->height, g->out_height, g->stride_h, g->pad_top, ky * g->dilation_h, &y_start,
                       &y_end);
    esp_window_outputs(g->width, g->out_width, g->stride_w, g->pad_left, kx * g->dilation_w, &x_start,
                       &x_end);
    y_start = conv_max(y_start, strip->y_start);
    y_end = conv_min(y_end, strip->y_end);
    if (y_start >= y_end || x_start >= x_end)
        return false;
    int64_t in_y = y_start * g->stride_h + ky * g->dilation_h - g->pad_top;
    int64_t in_x = x_start * g->stride_w + kx * g->dilation_w - g->pad_left;
    walk->x_block = g->height * g->width * ESP_BLOCK;
    walk->x = esp_view_f32(job->x) + strip->image * job->x_image + (in_y * g->width + in_x) * ESP_BLOCK;
    walk->dy =
        esp_view_f32(job->dy) + strip->image * job->dy_image + (y_start * g->out_width + x_start) * ESP_BLOCK;
    walk->sweep.rows = y_end - y_start;
    walk->sweep.columns = x_end - x_start;
    walk->sweep.x_image = job->x_image;
    walk->sweep.x_row = g->stride_h * g->width * ESP_BLOCK;
    walk->sweep.x_column = g->stride_w * ESP_BLOCK;
    return true;
}

static bool walk_copy(const weight_job *job, const weight_strip *strip, int64_t ky, int64_t kx,
                      const float *copy, weight_walk *walk)
{
    const weight_plan *plan = &job->plan;
    const esp_conv_geometry *g = plan->g;
    int64_t row = plan->strip_width * plan->lanes;
    walk->x_block = 0;
    walk->x = copy + ky * g->dilation_h * row + kx * g->dilation_w * plan->lanes;
    walk->dy =
        esp_view_f32(job->dy) + strip->image * job->dy_image + strip->y_start * g->out_width * ESP_BLOCK;
    walk->sweep.rows = strip->y_end - strip->y_start;
    walk->sweep.columns = g->out_width;
    walk->sweep.x_image = plan->strip_height * row;
    walk->sweep.x_row = g->stride_h * row;
    walk->sweep.x_column = g->stride_w * plan->lanes;
    return true;
}

/* What the tiles of a strip fetch ahead: each of them one block of the next strip. */
typedef struct weight_fetch {
    int64_t x_blocks, dy_blocks; /* still to be fetched */
    int64_t x_distance, dy_distance, x_block, dy_block;
} weight_fetch;

static weight_fetch fetch_for(const weight_job *job, const weight_part *part, int64_t index, int64_t end)
{
    const weight_plan *plan = &job->plan;
    const esp_conv_geometry *g = plan->g;
    if (index + 1 >= end)
        return (weight_fetch){0};
    weight_strip now = strip_of(plan, index), next = strip_of(plan, index + 1);
    int64_t images = next.image - now.image, rows = next.y_start - now.y_start;
    weight_fetch fetch = {.x_blocks = plan->takes_plain ? 0 : part->channel_end - part->channel_start,
                          .dy_blocks = part->filter_end - part->filter_start,
                          .x_distance = images * job->x_image + rows * g->stride_h * g->width * ESP_BLOCK,
                          .dy_distance = images * job->dy_image + rows * g->out_width * ESP_BLOCK,
                          .x_block = g->height * g->width * ESP_BLOCK,
                          .dy_block = conv_pixels(g) * ESP_BLOCK};
    return fetch;
}

/* Points a sweep to the next block to be fetched: x and dy are where the part's first blocks are. */
static void fetch_next(weight_fetch *fetch, const float *x, const float *dy, grad_sweep *sweep)
{
    if (fetch->x_blocks > 0) {
        sweep->ahead = x + fetch->x_distance + --fetch->x_blocks * fetch->x_block;
        sweep->ahead_image = sweep->x_image;
        sweep->ahead_row = sweep->x_row;
        sweep->ahead_column = sweep->x_column;
    } else if (fetch->dy_blocks > 0) {
        sweep->ahead = dy + fetch->dy_distance + --fetch->dy_blocks * fetch->dy_block;
        sweep->ahead_image = sweep->dy_image;
        sweep->ahead_row = sweep->dy_row;
        sweep->ahead_column = ESP_BLOCK;
    } else {
        sweep->ahead = dy;
        sweep->ahead_image = sweep->ahead_row = sweep->ahead_column = 0;
    }
}

/* The filters from `f` on, as many as a tile takes, and one tap: all channels of a part. */
static void add_tap(const weight_job *job, const weight_part *part, int64_t f, const weight_walk *walk,
                    weight_fetch *fetch, float *sums)
{
    const weight_plan *plan = &job->plan;
    grad_sweep sweep = walk->sweep;
    int blocks = (int)conv_min(plan->kernels->blocks, part->filter_end - f);
    int64_t run = plan->run_taps * plan->lanes, pieces = conv_ceil_divide(run, plan->kernels->rows[blocks]);
    const float *first_dy =
        walk->dy + (part->group * plan->filter_blocks + part->filter_start) * sweep.dy_block;
    const float *first_x =
        walk->x + (part->group * plan->channel_blocks + part->channel_start) * walk->x_block;
    const float *dy = first_dy + (f - part->filter_start) * sweep.dy_block, *x = first_x;
    sums += (f - part->filter_start) * plan->block_floats;
    for (int64_t c = part->channel_start; c < part->channel_end; c++) {
        for (int64_t piece = 0; piece < pieces; piece++) {
            int64_t start = run * piece / pieces, rows = run * (piece + 1) / pieces - start;
            fetch_next(fetch, first_x, first_dy, &sweep);
            plan->kernels->tiles[blocks][rows](&sweep, x + start, dy, sums + start * ESP_BLOCK);
        }
        x += walk->x_block;
        sums += plan->taps * plan->lanes * ESP_BLOCK;
    }
}

/* What a strip adds to the sums [filter block][channel block][tap][lane][ESP_BLOCK] of a part. */
static void add_strip(const weight_job *job, const weight_part *part, const weight_strip *strip,
                      const float *copy, weight_fetch fetch, float *sums)
{
    const weight_plan *plan = &job->plan;
    const esp_conv_geometry *g = plan->g;
    for (int64_t f = part->filter_start; f < part->filter_end; f += plan->kernels->blocks)
        for (int64_t tap = 0; tap < plan->taps; tap += plan->run_taps) {
            int64_t ky = tap / g->kernel_w, kx = tap % g->kernel_w;
            weight_walk walk;
            if (!(plan->takes_plain ? walk_copy(job, strip, ky, kx, copy, &walk)
                                    : walk_blocked(job, strip, ky, kx, &walk)))
                continue;
            grad_sweep *sweep = &walk.sweep;
            sweep->images = strip->images;
            sweep->dy_image = job->dy_image;
            sweep->dy_row = g->out_width * ESP_BLOCK;
            sweep->dy_block = conv_pixels(g) * ESP_BLOCK;
            sweep->sums_block = plan->block_floats;
            if (sweep->columns * sweep->x_column == sweep->x_row && sweep->columns == g->out_width) {
                sweep->columns *= sweep->rows;
                sweep->rows = 1;
            }
            add_tap(job, part, f, &walk, &fetch, sums + tap * plan->lanes * ESP_BLOCK);
        }
}

/* dw of one block of filters of a part from its finished sums. */
static void store_block(const weight_job *job, const weight_part *part, int64_t filter_block,
                        const float *sums)
{
    const weight_plan *plan = &job->plan;
    const esp_conv_geometry *g = plan->g;
    int64_t channels = conv_group_channels(g), filters = conv_group_filters(g);
    int64_t filter = filter_block * ESP_BLOCK, count = conv_min(ESP_BLOCK, filters - filter);
    for (int64_t c = part->channel_start; c < part->channel_end;
         c++, sums += plan->taps * plan->lanes * ESP_BLOCK) {
        int64_t lanes = conv_min(plan->lanes, channels - c * plan->lanes);
        for (int64_t f = 0; f < count; f++) {
            float *target =
                job->dw + ((part->group * filters + filter + f) * channels + c * plan->lanes) * plan->taps;
            for (int64_t lane = 0; lane < lanes; lane++)
                for (int64_t tap = 0; tap < plan->taps; tap++)
                    *target++ = sums[(tap * plan->lanes + lane) * ESP_BLOCK + f];
        }
    }
}

static void weight_task(void *context, int64_t task, int slot)
{
    const weight_job *job = context;
    const weight_plan *plan = &job->plan;
    int64_t chunk = task / plan->parts;
    weight_part part = part_of(plan, task % plan->parts);
    float *copy = (float *)(void *)(job->slots + (size_t)slot * slot_bytes(plan));
    float *sums = job->sums + task * plan->part_floats;
    if (plan->chunks == 1)
        sums = copy + copy_bytes(plan) / sizeof(float);
    memset(sums, 0, (size_t)plan->part_floats * sizeof(float));
    int64_t end = plan->strips * (chunk + 1) / plan->chunks;
    for (int64_t index = plan->strips * chunk / plan->chunks; index < end; index++) {
        weight_strip strip = strip_of(plan, index);
        if (plan->takes_plain)
            copy_plain(job, &strip, copy);
        add_strip(job, &part, &strip, copy, fetch_for(job, &part, index, end), sums);
    }
    if (plan->chunks > 1)
        return;
    for (int64_t f = part.filter_start; f < part.filter_end; f++)
        store_block(job, &part, f, sums + (f - part.filter_start) * plan->block_floats);
}

ESP_SIMD_CLONES
static void add_to(int64_t count, const float *restrict source, float *restrict target)
{
    for (int64_t i = 0; i < count; i++)
        target[i] += source[i];
}

/* Adds the chunks' sums of one block of filters of a part, in order. */
static void reduce_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const weight_job *job = context;
    const weight_plan *plan = &job->plan;
    int64_t index = task / plan->filter_part, offset = task % plan->filter_part;
    weight_part part = part_of(plan, index);
    if (part.filter_start + offset >= part.filter_end)
        return;
    float *sums = job->sums + index * plan->part_floats + offset * plan->block_floats;
    for (int64_t chunk = 1; chunk < plan->chunks; chunk++)
        add_to(plan->block_floats, sums + chunk * plan->parts * plan->part_floats, sums);
    store_block(job, &part, part.filter_start + offset, sums);
}

static esp_status grad_weight(const esp_compute *compute, const esp_blocked_conv *conv, const esp_view *x,
                              const esp_view *dy, float *dw, float *db, void *scratch)
{
    weight_job job = {.plan = weight_plan_make(conv), .x = x, .dy = dy, .dw = dw};
    const weight_plan *plan = &job.plan;
    job.x_image = esp_view_image_stride(x);
    job.dy_image = esp_view_image_stride(dy);
    char *memory = scratch;
    memory += esp_grad_bias_bytes(plan->g);
    job.sums = (float *)(void *)memory;
    job.slots = memory + sums_bytes(plan);
    esp_status status = ESP_OK;
    if (db != NULL)
        status = esp_grad_bias(compute, plan->g, dy, db, scratch);
    if (status == ESP_OK)
        status = esp_compute_run(compute, plan->chunks * plan->parts, weight_task, &job);
    if (status == ESP_OK && plan->chunks > 1)
        status = esp_compute_run(compute, plan->parts * plan->filter_part, reduce_task, &job);
    return status;
}

const blocked_method esp_blocked_direct_weight = {
    .name = "direct", .fits = fits, .scratch = scratch_bytes, .grad_weight = grad_weight};
