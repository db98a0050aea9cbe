/* Convolution in channel blocks, gradient for the input: dx[c][y][x] = sum over filters and taps of
 * w[f][c][ky][kx] * dy[f][..][..].
 *
 * With stride s an input row meets only the taps whose distance from it is a multiple of s. So the rows of dx
 * fall into s phases, and so do its columns; each of the s*s phases is a small convolution of dy with stride
 * 1, which writes every s-th pixel of dx. No multiplication by inserted zeros happens; a phase without taps
 * gets zeros (or the residual).
 *
 * The tiles are those of the forward pass (blocked_kernels.h): pixels of dy are broadcast, panels of channels
 * are the weights. Taps whose row of dy lies outside the image are left out: weights are packed kernel row by
 * kernel row, so what is left is one range of them. Columns outside are zeros in a copy of dy that a task
 * makes of its rows. 1x1 kernels of stride 1 need none of this: pixels of a whole image are one row. */
#include <string.h>

#include "tensor/blocked_conv_internal.h"
#include "tensor/blocked_grad.h"

/* dy is fetched this many tiles ahead. */
enum { FETCH_TILES = 2 };

/* ---- the plan ---- */

typedef struct input_plan {
    const esp_conv_geometry *g;
    const blocked_kernels *kernels;
    blocked_panels panels; /* "filters" of the panels are channels of x */
    int64_t filters;       /* of a group */
    int64_t blocks;        /* of filters, in a group */
    int64_t images;
    bool is_flat;     /* pixels of an image are one row, cut into tiles: "rows" are tiles */
    bool is_together; /* images of one pixel: they are the pixels */
    bool copies;
    int64_t pixels;                                 /* flat: of an image */
    int64_t rows;                                   /* of dx, in steps of the stride; or tiles */
    int64_t row_lowest, row_highest, column_lowest; /* reach of the phases */
    int64_t copy_rows, copy_width; /* of the copy: rows that a chunk reaches, never more than there are */
    blocked_load load;
    blocked_cut cut;
} input_plan;

/* Channels take the place of filters. */
static esp_blocked_conv turned(const esp_blocked_conv *conv)
{
    esp_blocked_conv other = *conv;
    other.geometry.channels = conv->geometry.filters;
    other.geometry.filters = conv->geometry.channels;
    return other;
}

static bool is_flat(const esp_conv_geometry *g)
{
    return conv_taps(g) == 1 && g->stride_h == 1 && g->stride_w == 1 && g->pad_top == 0 && g->pad_left == 0 &&
           g->out_height == g->height && g->out_width == g->width;
}

static void plan_rows(input_plan *plan)
{
    const esp_conv_geometry *g = plan->g;
    grad_axis y = grad_axis_y(g), x = grad_axis_x(g);
    int64_t column_highest;
    grad_reach_of(&y, &plan->row_lowest, &plan->row_highest);
    grad_reach_of(&x, &plan->column_lowest, &column_highest);
    int64_t columns = conv_ceil_divide(g->width, g->stride_w);
    plan->rows = conv_ceil_divide(g->height, g->stride_h);
    plan->copies = plan->column_lowest < 0 || columns + column_highest > g->out_width;
    plan->copy_width = columns + column_highest - plan->column_lowest;
}

static void plan_flat(input_plan *plan)
{
    const esp_conv_geometry *g = plan->g;
    plan->is_together = conv_pixels(g) == 1 && g->batch > 1;
    plan->copies = plan->is_together;
    plan->images = plan->is_together ? 1 : g->batch;
    plan->pixels = plan->is_together ? g->batch : conv_pixels(g);
    plan->rows = conv_ceil_divide(plan->pixels, plan->kernels->tile_pixels);
}

static input_plan input_plan_make(const esp_blocked_conv *conv)
{
    const esp_conv_geometry *g = &conv->geometry;
    esp_blocked_conv other = turned(conv);
    input_plan plan = {.g = g,
                       .kernels = esp_blocked_kernels(&conv->engine),
                       .panels = esp_blocked_panels(&other),
                       .filters = conv_group_filters(g),
                       .blocks = blocked_count(conv_group_filters(g)),
                       .images = g->batch,
                       .is_flat = is_flat(g)};
    if (plan.is_flat)
        plan_flat(&plan);
    else
        plan_rows(&plan);

    int64_t row_pixels = plan.is_flat ? plan.kernels->tile_pixels : g->out_width;
    int64_t halo = plan.row_highest - plan.row_lowest;
    plan.load =
        (blocked_load){.pieces = plan.images * g->group,
                       .groups_pieces = true,
                       .rows = plan.rows,
                       .panels = plan.panels.group_panels,
                       .flops = 2.0 * (double)(g->batch * conv_pixels(g)) *
                                (double)(plan.panels.depth * g->group * plan.panels.group_blocks * ESP_BLOCK),
                       .row_lines = (double)(plan.blocks * row_pixels),
                       .halo_lines = (double)(plan.blocks * row_pixels * halo),
                       .weight_lines = (double)(plan.panels.depth * plan.panels.width / ESP_BLOCK),
                       .copies = plan.copies};
    plan.cut = esp_blocked_cut(&plan.load);
    plan.copy_rows = conv_min(plan.cut.chunk_rows + halo, g->out_height);
    if (plan.is_flat)
        plan.copy_width = conv_min(plan.cut.chunk_rows * plan.kernels->tile_pixels, plan.pixels);
    return plan;
}

static bool fits(const esp_blocked_conv *conv)
{
    const esp_conv_geometry *g = &conv->geometry;
    if (conv->pass != ESP_CONV_GRAD_INPUT || conv->takes_plain || g->batch <= 0 || g->channels <= 0 ||
        g->filters <= 0 || conv_pixels(g) <= 0 || !blocked_fits_groups(g))
        return false;
    input_plan plan = input_plan_make(conv);
    int64_t block = conv_max(conv_pixels(g), plan.copy_rows * plan.copy_width) * ESP_BLOCK;
    return plan.blocks <= INT32_MAX / block;
}

static size_t packed_bytes(const esp_blocked_conv *conv)
{
    esp_blocked_conv other = turned(conv);
    return esp_blocked_panels_bytes(&other);
}

static size_t runs_bytes(const input_plan *plan)
{
    return conv_aligned((size_t)(plan->blocks * conv_taps(plan->g)) * sizeof(blocked_run));
}

static size_t slot_bytes(const input_plan *plan)
{
    int64_t floats = plan->copies ? plan->blocks * plan->copy_rows * plan->copy_width * ESP_BLOCK : 0;
    return runs_bytes(plan) + (size_t)floats * sizeof(float);
}

static size_t scratch_bytes(const esp_blocked_conv *conv, int slots)
{
    input_plan plan = input_plan_make(conv);
    return (size_t)slots * slot_bytes(&plan);
}

/* ---- packing ---- */

/* Taps that are transposed at a time, of how many channels; weights that make a task. */
enum { PIECE_TAPS = 16, WIDEST_PANEL = 32, TASK_WEIGHTS = 1 << 16 };

typedef struct input_pack {
    input_plan plan;
    const float *w;
    float *packed;
    int64_t filter_part, filter_tasks; /* of each panel */
} input_pack;

/* Rows of a panel are in order [phase y][phase x][ky][block of filters][kx][filter of the block]. */
typedef struct tap_place {
    int64_t row;            /* where the kernel row begins */
    int64_t index, columns; /* which of the kernel columns of its phase */
} tap_place;

static tap_place place_of(const input_plan *plan, int64_t tap)
{
    grad_axis y = grad_axis_y(plan->g), x = grad_axis_x(plan->g);
    int64_t ky = tap / x.kernel, kx = tap % x.kernel;
    int64_t phase_y = (ky * y.dilation - y.pad) % y.stride, phase_x = (kx * x.dilation - x.pad) % x.stride;
    phase_y += phase_y < 0 ? y.stride : 0;
    phase_x += phase_x < 0 ? x.stride : 0;
    grad_phase rows = grad_phase_of(&y, phase_y), columns = grad_phase_of(&x, phase_x);
    int64_t taps = grad_taps_before(&y, phase_y) * x.kernel + rows.count * grad_taps_before(&x, phase_x);
    taps += (ky - rows.first) / rows.step * columns.count;
    return (tap_place){
        .row = taps * plan->filters, .index = (kx - columns.first) / columns.step, .columns = columns.count};
}

static float *packed_row(const input_plan *plan, const tap_place *place, int64_t f, int64_t width,
                         float *panel)
{
    int64_t first = f / ESP_BLOCK * ESP_BLOCK, lanes = conv_min(ESP_BLOCK, plan->filters - first);
    return panel + (place->row + first * place->columns + place->index * lanes + (f - first)) * width;
}

/* A filter's weights for the channels of a panel are neighbours: [channel][tap]. */
static void pack_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const input_pack *job = context;
    const input_plan *plan = &job->plan;
    const blocked_panels *panels = &plan->panels;
    int64_t part = task % job->filter_tasks, p = task / job->filter_tasks % panels->group_panels;
    int64_t group = task / job->filter_tasks / panels->group_panels;
    int64_t channels = conv_min(panels->width, panels->group_filters - p * panels->width);
    int64_t width = (int64_t)blocked_panel_blocks(panels, p) * ESP_BLOCK, taps = conv_taps(plan->g);
    float *panel = job->packed + blocked_panel_start(panels, group, p);
    int64_t start = part * job->filter_part, end = conv_min(start + job->filter_part, plan->filters);
    float piece[PIECE_TAPS * WIDEST_PANEL];
    for (int64_t first = 0; first < taps; first += PIECE_TAPS) {
        int64_t count = conv_min(PIECE_TAPS, taps - first);
        tap_place places[PIECE_TAPS];
        for (int64_t t = 0; t < count; t++)
            places[t] = place_of(plan, first + t);
        for (int64_t f = start; f < end; f++) {
            const float *w =
                job->w + ((group * plan->filters + f) * panels->group_filters + p * panels->width) * taps;
            if (taps == 1 && channels == width) {
                memcpy(packed_row(plan, places, f, width, panel), w, (size_t)width * sizeof *w);
                continue;
            }
            plan->kernels->transpose(channels, width, count, w + first, taps, piece, width);
            for (int64_t t = 0; t < count; t++)
                memcpy(packed_row(plan, &places[t], f, width, panel), piece + t * width,
                       (size_t)width * sizeof *w);
        }
    }
}

static esp_status pack(const esp_compute *compute, const esp_blocked_conv *conv, const float *w, void *packed)
{
    input_pack job = {.plan = input_plan_make(conv), .w = w, .packed = packed};
    int64_t filter_weights = job.plan.panels.width * conv_taps(&conv->geometry);
    job.filter_part = conv_min(conv_max(TASK_WEIGHTS / filter_weights, 1), job.plan.filters);
    job.filter_tasks = conv_ceil_divide(job.plan.filters, job.filter_part);
    return esp_compute_run(compute, conv->geometry.group * job.plan.panels.group_panels * job.filter_tasks,
                           pack_task, &job);
}

/* ---- the run ---- */

typedef struct input_job {
    input_plan plan;
    const esp_view *dy, *dx, *residual;
    int64_t dy_image, dx_image, residual_image;
    const float *packed;
    char *slots;
} input_job;

/* What a task works on: an image and a group, dy of a chunk of rows, a panel. */
typedef struct input_chunk {
    int64_t image, block; /* the first block of the panel in dx */
    int blocks;           /* of the panel */
    const float *w;
    blocked_tile_fn *const *tiles;
    const float *dy; /* place (row, column) of dy at dy[row*dy_row + column*ESP_BLOCK] */
    int64_t dy_row, dy_block;
    int64_t row, column; /* the place of dy that is at dy[0] */
    int64_t start, end;  /* rows */
    int64_t last_row;    /* of the rows of the whole task */
    bool fetches;        /* dy lies in the image and is met for the first time */
    blocked_run *runs;
} input_chunk;

static void chunk_to_panel(const input_job *job, int64_t group, int64_t p, input_chunk *chunk)
{
    const blocked_panels *panels = &job->plan.panels;
    chunk->blocks = blocked_panel_blocks(panels, p);
    chunk->block = group * panels->group_blocks + p * (panels->width / ESP_BLOCK);
    chunk->w = job->packed + blocked_panel_start(panels, group, p);
    chunk->tiles = job->plan.kernels->tiles(ESP_BLOCK, chunk->blocks);
}

/* `count` pixels of dx, `step` places apart, the first of them `pixel`: where they are, and what is added. */
typedef struct input_target {
    float *dx;
    int64_t block, pixel; /* floats from block to block, from pixel to pixel */
    blocked_store store;
} input_target;

static input_target target_of(const input_job *job, const input_chunk *chunk)
{
    const esp_conv_geometry *g = job->plan.g;
    int64_t plane = g->height * g->width * ESP_BLOCK;
    bool is_together = job->plan.is_together;
    input_target target = {.block = plane, .pixel = is_together ? job->dx_image : g->stride_w * ESP_BLOCK};
    target.dx = esp_view_f32(job->dx) + chunk->image * job->dx_image + chunk->block * plane;
    if (job->residual == NULL)
        return target;
    target.store.residual =
        esp_view_f32(job->residual) + chunk->image * job->residual_image + chunk->block * plane;
    target.store.residual_block = plane;
    target.store.residual_pixel = is_together ? job->residual_image : target.pixel;
    return target;
}

/* Pixels that no tap meets. */
static void fill(const input_target *target, int blocks, int64_t first, int64_t count)
{
    for (int b = 0; b < blocks; b++) {
        float *dx = target->dx + b * target->block + first;
        const float *residual = target->store.residual;
        if (residual == NULL) {
            for (int64_t i = 0; i < count; i++)
                memset(dx + i * target->pixel, 0, ESP_BLOCK * sizeof *dx);
            continue;
        }
        residual += b * target->store.residual_block + first;
        if (residual == dx)
            continue;
        for (int64_t i = 0; i < count; i++)
            memcpy(dx + i * target->pixel, residual + i * target->store.residual_pixel,
                   ESP_BLOCK * sizeof *dx);
    }
}

/* Runs of the taps [start, end) of a phase's rows and all taps of its columns, from the first of them on. */
static int64_t list_runs(const input_plan *plan, const input_chunk *chunk, const grad_phase *rows,
                         const grad_phase *columns, int64_t start, int64_t end)
{
    blocked_run *run = chunk->runs;
    for (int64_t t = start; t < end; t++)
        for (int64_t b = 0; b < plan->blocks; b++) {
            int64_t lanes = conv_min(ESP_BLOCK, plan->filters - b * ESP_BLOCK);
            int64_t at = b * chunk->dy_block - (t - start) * rows->retreat * chunk->dy_row;
            for (int64_t u = 0; u < columns->count; u++, at -= columns->retreat * ESP_BLOCK)
                *run++ = (blocked_run){.offset = (int32_t)at, .length = (int32_t)lanes};
        }
    return run - chunk->runs;
}

/* Asks for neighbouring pixels of all blocks of dy that will be wanted soon: hardware sees no pattern in many
 * short runs. */
static void fetch(const input_plan *plan, const float *dy, int64_t dy_block, int64_t pixels)
{
    for (int64_t b = 0; b < plan->blocks; b++)
        for (int64_t i = 0; i < pixels; i++)
            __builtin_prefetch(dy + b * dy_block + i * ESP_BLOCK, 0, 2);
}

/* The pixels of one phase of a chunk's rows, for the chunk's panel; `w` is the phase's. */
static void add_phase(const input_job *job, const input_chunk *chunk, int64_t phase_y, int64_t phase_x,
                      const float *w)
{
    const input_plan *plan = &job->plan;
    const esp_conv_geometry *g = plan->g;
    grad_axis y = grad_axis_y(g), x = grad_axis_x(g);
    grad_phase rows = grad_phase_of(&y, phase_y), columns = grad_phase_of(&x, phase_x);
    input_target target = target_of(job, chunk);
    const float *residual = target.store.residual;
    int64_t tiles = conv_ceil_divide(columns.size, plan->kernels->tile_pixels),
            width = chunk->blocks * ESP_BLOCK;
    int64_t listed_start = 0, listed_end = 0, run_count = 0;
    for (int64_t i = chunk->start; i < conv_min(chunk->end, rows.size); i++) {
        int64_t start = 0, end = 0, pixel = ((i * g->stride_h + phase_y) * g->width + phase_x) * ESP_BLOCK;
        if (rows.count > 0 && columns.count > 0)
            grad_taps_inside(&rows, i, g->out_height, &start, &end);
        if (start >= end) {
            fill(&target, chunk->blocks, pixel, columns.size);
            continue;
        }
        if (start != listed_start || end != listed_end) {
            run_count = list_runs(plan, chunk, &rows, &columns, start, end);
            listed_start = start;
            listed_end = end;
        }
        const float *dy = chunk->dy + (i + rows.offset - start * rows.retreat - chunk->row) * chunk->dy_row +
                          (columns.offset - chunk->column) * ESP_BLOCK;
        if (chunk->fetches && i + 1 < chunk->last_row)
            fetch(plan, dy + chunk->dy_row, chunk->dy_block, columns.size);
        const float *weights = w + start * columns.count * plan->filters * width;
        for (int64_t t = 0; t < tiles; t++) {
            int64_t from = blocked_part(columns.size, tiles, t),
                    to = blocked_part(columns.size, tiles, t + 1);
            int64_t at = pixel + from * target.pixel;
            if (residual != NULL)
                target.store.residual = residual + at;
            chunk->tiles[to - from](dy + from * ESP_BLOCK, chunk->runs, run_count, weights, target.dx + at,
                                    target.block, target.pixel, &target.store);
        }
        target.store.residual = residual;
    }
}

static void add_phases(const input_job *job, const input_chunk *chunk)
{
    const input_plan *plan = &job->plan;
    grad_axis y = grad_axis_y(plan->g), x = grad_axis_x(plan->g);
    const float *w = chunk->w;
    for (int64_t phase_y = 0; phase_y < y.stride; phase_y++)
        for (int64_t phase_x = 0; phase_x < x.stride; phase_x++) {
            add_phase(job, chunk, phase_y, phase_x, w);
            w += grad_phase_of(&y, phase_y).count * grad_phase_of(&x, phase_x).count * plan->filters *
                 chunk->blocks * ESP_BLOCK;
        }
}

/* Rows of dy that a chunk reaches, with zeros beside them. */
static void copy_rows(const input_job *job, int64_t group, input_chunk *chunk, float *copy)
{
    const input_plan *plan = &job->plan;
    const esp_conv_geometry *g = plan->g;
    static const blocked_entry as_it_is;
    int64_t first = conv_max(chunk->start + plan->row_lowest, 0);
    int64_t last = conv_min(chunk->end + plan->row_highest, g->out_height);
    int64_t left = conv_min(conv_max(-plan->column_lowest, 0), plan->copy_width);
    int64_t skipped = conv_max(plan->column_lowest, 0);
    int64_t width = conv_max(conv_min(g->out_width - skipped, plan->copy_width - left), 0);
    const float *dy = esp_view_f32(job->dy) + chunk->image * job->dy_image +
                      group * plan->blocks * conv_pixels(g) * ESP_BLOCK;
    chunk->dy = copy;
    chunk->dy_row = plan->copy_width * ESP_BLOCK;
    chunk->dy_block = plan->copy_rows * chunk->dy_row;
    chunk->row = first;
    chunk->column = plan->column_lowest;
    for (int64_t b = 0; b < plan->blocks; b++)
        for (int64_t row = first; row < last; row++) {
            float *target = copy + b * chunk->dy_block + (row - first) * chunk->dy_row;
            const float *source = dy + ((b * g->out_height + row) * g->out_width + skipped) * ESP_BLOCK;
            memset(target, 0, (size_t)(left * ESP_BLOCK) * sizeof *target);
            plan->kernels->pixels(width, source, ESP_BLOCK, &as_it_is, target + left * ESP_BLOCK);
            memset(target + (left + width) * ESP_BLOCK, 0,
                   (size_t)((plan->copy_width - left - width) * ESP_BLOCK) * sizeof *target);
        }
}

/* The tiles [start, end) of the pixels of an image, or of images of one pixel. */
static void multiply_flat(const input_job *job, const input_chunk *chunk)
{
    const input_plan *plan = &job->plan;
    input_target target = target_of(job, chunk);
    const float *residual = target.store.residual;
    int64_t first = blocked_part(plan->pixels, plan->rows, chunk->start);
    for (int64_t t = chunk->start; t < chunk->end; t++) {
        int64_t from = blocked_part(plan->pixels, plan->rows, t),
                to = blocked_part(plan->pixels, plan->rows, t + 1);
        if (residual != NULL)
            target.store.residual = residual + from * target.store.residual_pixel;
        int64_t later = t + FETCH_TILES;
        if (chunk->fetches && later < chunk->last_row) {
            int64_t next = blocked_part(plan->pixels, plan->rows, later);
            fetch(plan, chunk->dy + (next - first) * ESP_BLOCK, chunk->dy_block,
                  blocked_part(plan->pixels, plan->rows, later + 1) - next);
        }
        chunk->tiles[to - from](chunk->dy + (from - first) * ESP_BLOCK, chunk->runs, plan->blocks, chunk->w,
                                target.dx + from * target.pixel, target.block, target.pixel, &target.store);
    }
}

static void list_flat_runs(const input_plan *plan, const input_chunk *chunk)
{
    for (int64_t b = 0; b < plan->blocks; b++)
        chunk->runs[b] = (blocked_run){.offset = (int32_t)(b * chunk->dy_block),
                                       .length = (int32_t)conv_min(ESP_BLOCK, plan->filters - b * ESP_BLOCK)};
}

/* Where a chunk finds dy: in the image itself, or in a copy. */
static void find_dy(const input_job *job, int64_t group, input_chunk *chunk, float *copy)
{
    const input_plan *plan = &job->plan;
    const esp_conv_geometry *g = plan->g;
    static const blocked_entry as_it_is;
    if (plan->copies && !plan->is_together) {
        copy_rows(job, group, chunk, copy);
        return;
    }
    int64_t first = plan->is_flat ? blocked_part(plan->pixels, plan->rows, chunk->start) : 0;
    const float *dy = esp_view_f32(job->dy) + group * plan->blocks * conv_pixels(g) * ESP_BLOCK;
    chunk->row = chunk->column = 0;
    if (plan->is_together) {
        int64_t count = blocked_part(plan->pixels, plan->rows, chunk->end) - first;
        chunk->dy = copy;
        chunk->dy_block = plan->copy_width * ESP_BLOCK;
        for (int64_t b = 0; b < plan->blocks; b++)
            plan->kernels->pixels(count, dy + first * job->dy_image + b * ESP_BLOCK, job->dy_image, &as_it_is,
                                  copy + b * chunk->dy_block);
    } else {
        chunk->dy = dy + chunk->image * job->dy_image + first * ESP_BLOCK;
        chunk->dy_row = g->out_width * ESP_BLOCK;
        chunk->dy_block = conv_pixels(g) * ESP_BLOCK;
    }
    if (plan->is_flat)
        list_flat_runs(plan, chunk);
}

/* All that a task does of one image and group. */
static void multiply_piece(const input_job *job, const blocked_share *share, int64_t piece, char *memory)
{
    const input_plan *plan = &job->plan;
    int64_t group = piece % plan->g->group;
    input_chunk chunk = {
        .image = piece / plan->g->group, .last_row = share->last_row, .runs = (blocked_run *)(void *)memory};
    float *copy = (float *)(void *)(memory + runs_bytes(plan));
    for (int64_t row = share->first_row; row < share->last_row; row += plan->cut.chunk_rows) {
        chunk.start = row;
        chunk.end = conv_min(row + plan->cut.chunk_rows, share->last_row);
        find_dy(job, group, &chunk, copy);
        for (int64_t p = share->first_panel; p < share->last_panel; p++) {
            chunk_to_panel(job, group, p, &chunk);
            chunk.fetches = p == share->first_panel && !plan->copies;
            if (plan->is_flat)
                multiply_flat(job, &chunk);
            else
                add_phases(job, &chunk);
        }
    }
}

static void input_task(void *context, int64_t task, int slot)
{
    const input_job *job = context;
    blocked_share share = esp_blocked_share(&job->plan.load, &job->plan.cut, task);
    char *memory = job->slots + (size_t)slot * slot_bytes(&job->plan);
    for (int64_t piece = share.first_piece; piece < share.last_piece; piece++)
        multiply_piece(job, &share, piece, memory);
}

static esp_status run(const esp_compute *compute, const esp_blocked_conv *conv, const esp_view *x,
                      const void *packed, const esp_conv_extras *extras, const esp_view *y, void *scratch)
{
    input_job job = {.plan = input_plan_make(conv),
                     .dy = x,
                     .dx = y,
                     .residual = extras != NULL ? extras->residual : NULL,
                     .packed = packed,
                     .slots = scratch};
    job.dy_image = esp_view_image_stride(x);
    job.dx_image = esp_view_image_stride(y);
    if (job.residual != NULL)
        job.residual_image = esp_view_image_stride(job.residual);
    return esp_compute_run(compute, job.plan.cut.tasks, input_task, &job);
}

/* Panels depend on stride, dilation and pads, but weights of one layer always meet the same ones. */
const blocked_method esp_blocked_direct_input = {.name = "direct",
                                                 .pack_key = 0x6e70,
                                                 .fits = fits,
                                                 .packed_bytes = packed_bytes,
                                                 .pack = pack,
                                                 .scratch = scratch_bytes,
                                                 .run = run};
