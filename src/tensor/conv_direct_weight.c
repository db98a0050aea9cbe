/* Direct convolution, weight gradient: dw[f][c][ky][kx] = sum over images and outputs of dy[f][y][x] *
 * x[c][..][..].
 *
 * Both are transposed so that channels lie side by side: dy to [pixel][filters padded to whole vectors], x to
 * padded [row][column][channels]. Then for one kernel row the kernel_w * channels values that a pixel uses
 * are neighbours, and an outer-product tile (some of them by one or two vectors of filters) stays in
 * registers while it walks over all pixels. Every chunk of images has its own sums; they are added up in
 * order of chunks. */
#include "tensor/conv_direct.h"

#include <string.h>

#include "tensor/conv_kernels.h"
#include "tensor/simd.h"

typedef struct weight_plan {
    const esp_conv_geometry *g;
    const conv_kernels *kernels;
    int64_t channels, filters, padded_filters; /* of a group; filters rounded up to whole vectors */
    int64_t run, runs;                         /* neighbouring weights of one kernel row; such runs */
    int64_t run_columns;                       /* kernel columns that make a run */
    int64_t columns;                           /* of the packed x */
    int64_t band, bands, images;
    int64_t x_image, dy_image; /* floats of one packed image */
    int64_t chunks, partial;   /* floats of a chunk's sums, all groups */
    int64_t parts, part;       /* filters of a group are split when chunks are few */
    size_t partial_bytes, slot_bytes, x_bytes;
} weight_plan;

/* Floats of packed x and dy that a level-2 cache holds; pixels that make the work of a tile worth its start;
 * tasks that keep a few cores busy. */
enum { WEIGHT_SLOT_FLOATS = 160 * 1024, WEIGHT_GOOD_PIXELS = 512, WEIGHT_GOOD_TASKS = 8 };

static weight_plan weight_plan_make(const conv_method *self, const esp_conv_geometry *g)
{
    weight_plan plan = {.g = g,
                        .kernels = self->kernels,
                        .channels = conv_group_channels(g),
                        .filters = conv_group_filters(g),
                        .chunks = esp_conv_chunk_count(g)};
    plan.padded_filters = conv_ceil_divide(plan.filters, plan.kernels->lanes) * plan.kernels->lanes;
    int64_t tile = 2 * plan.kernels->lanes, units = plan.chunks * g->group;
    plan.parts = conv_max(conv_min(WEIGHT_GOOD_TASKS / units, plan.padded_filters / tile), 1);
    plan.part = conv_ceil_divide(conv_ceil_divide(plan.padded_filters, plan.parts), tile) * tile;
    plan.part = conv_min(plan.part, plan.padded_filters);
    plan.parts = conv_ceil_divide(plan.padded_filters, plan.part);
    plan.run_columns = g->dilation_w == 1 ? g->kernel_w : 1;
    plan.run = plan.run_columns * plan.channels;
    plan.runs = g->kernel_h * g->kernel_w / plan.run_columns;
    plan.columns = (g->out_width - 1) * g->stride_w + (g->kernel_w - 1) * g->dilation_w + 1;

    int64_t row_floats = plan.columns * plan.channels * g->stride_h + g->out_width * plan.part;
    int64_t halo = plan.columns * plan.channels * ((g->kernel_h - 1) * g->dilation_h);
    plan.band = conv_min(conv_max((WEIGHT_SLOT_FLOATS - halo) / row_floats, 1), g->out_height);
    plan.bands = conv_ceil_divide(g->out_height, plan.band);
    plan.band = conv_ceil_divide(g->out_height, plan.bands);
    int64_t rows = (plan.band - 1) * g->stride_h + (g->kernel_h - 1) * g->dilation_h + 1;
    plan.x_image = rows * plan.columns * plan.channels;
    plan.dy_image = plan.band * g->out_width * plan.part;
    plan.images = 1;
    if (plan.bands == 1)
        plan.images = conv_max(conv_min(WEIGHT_SLOT_FLOATS / (plan.x_image + plan.dy_image),
                                        conv_ceil_divide(WEIGHT_GOOD_PIXELS, conv_pixels(g))),
                               1);

    plan.partial = g->group * conv_depth(g) * plan.padded_filters;
    plan.partial_bytes = conv_aligned((size_t)plan.partial * sizeof(float));
    plan.x_bytes = conv_aligned((size_t)(plan.images * plan.x_image) * sizeof(float));
    plan.slot_bytes = plan.x_bytes + conv_aligned((size_t)(plan.images * plan.dy_image) * sizeof(float));
    return plan;
}

typedef struct weight_job {
    weight_plan plan;
    const float *x, *dy;
    float *dw;
    char *partials, *slots;
} weight_job;

static float *partial_of(const weight_job *job, int64_t chunk)
{
    return (float *)(void *)(job->partials + (size_t)chunk * job->plan.partial_bytes);
}

/* x of one image for output rows [y0, y0+rows): [row][column][channel] with zeros where the window leaves it.
 */
static void pack_x(const weight_job *job, int64_t image, int64_t group, int64_t y0, int64_t rows,
                   float *packed)
{
    const weight_plan *plan = &job->plan;
    const esp_conv_geometry *g = plan->g;
    int64_t extent = (rows - 1) * g->stride_h + (g->kernel_h - 1) * g->dilation_h + 1;
    int64_t left = conv_min(g->pad_left, plan->columns),
            right = conv_min(g->width + g->pad_left, plan->columns);
    int64_t row_floats = plan->columns * plan->channels, plane = g->height * g->width;
    const float *x = job->x + (image * g->channels + group * plan->channels) * plane;
    for (int64_t row = 0; row < extent; row++, packed += row_floats) {
        int64_t y = y0 * g->stride_h + row - g->pad_top;
        if (y < 0 || y >= g->height || right <= left) {
            memset(packed, 0, (size_t)row_floats * sizeof(float));
            continue;
        }
        memset(packed, 0, (size_t)(left * plan->channels) * sizeof(float));
        plan->kernels->transpose(plan->channels, plan->channels, right - left, x + y * g->width, plane,
                                 packed + left * plan->channels, plan->channels);
        memset(packed + right * plan->channels, 0,
               (size_t)((plan->columns - right) * plan->channels) * sizeof(float));
    }
}

/* All tiles of one kernel row (or, dilated, of one tap) over what is packed. */
static void add_run(const weight_plan *plan, const conv_sweep *sweep, int64_t filters, const float *x,
                    const float *dy, float *target)
{
    const conv_kernels *kernels = plan->kernels;
    for (int64_t f = 0; f < filters;) {
        int vectors = filters - f >= 2 * kernels->lanes ? 2 : 1;
        int64_t tiles = conv_ceil_divide(plan->run, kernels->outer_depth[vectors]);
        for (int64_t tile = 0; tile < tiles; tile++) {
            int64_t first = plan->run * tile / tiles, count = plan->run * (tile + 1) / tiles - first;
            kernels->outer[vectors][count](sweep, x + first, dy + f,
                                           target + first * plan->padded_filters + f, plan->padded_filters);
        }
        f += vectors * kernels->lanes;
    }
}

static void add_band(const weight_job *job, int64_t image, int64_t images, int64_t group, int64_t part,
                     int64_t y0, int slot, float *target)
{
    const weight_plan *plan = &job->plan;
    const esp_conv_geometry *g = plan->g;
    int64_t rows = conv_min(plan->band, g->out_height - y0), pixels = conv_pixels(g);
    int64_t first = part * plan->part, padded = conv_min(plan->part, plan->padded_filters - first);
    int64_t filters = conv_min(padded, plan->filters - first);
    char *memory = job->slots + (size_t)slot * plan->slot_bytes;
    float *x = (float *)(void *)memory, *dy = (float *)(void *)(memory + plan->x_bytes);
    for (int64_t n = 0; n < images; n++) {
        pack_x(job, image + n, group, y0, rows, x + n * plan->x_image);
        int64_t plane = (image + n) * g->filters + group * plan->filters + first;
        plan->kernels->transpose(filters, padded, rows * g->out_width,
                                 job->dy + plane * pixels + y0 * g->out_width, pixels,
                                 dy + n * plan->dy_image, padded);
    }
    const conv_sweep sweep = {.images = images,
                              .rows = rows,
                              .columns = g->out_width,
                              .x_image = plan->x_image,
                              .x_row = g->stride_h * plan->columns * plan->channels,
                              .x_column = g->stride_w * plan->channels,
                              .dy_image = plan->dy_image,
                              .dy_row = g->out_width * padded,
                              .dy_column = padded};
    int64_t row_runs = g->kernel_w / plan->run_columns;
    for (int64_t run = 0; run < plan->runs; run++) {
        int64_t tap_y = run / row_runs * g->dilation_h, tap_x = run % row_runs * g->dilation_w;
        add_run(plan, &sweep, padded, x + (tap_y * plan->columns + tap_x) * plan->channels, dy,
                target + run * plan->run * plan->padded_filters + first);
    }
}

static void chunk_task(void *context, int64_t task, int slot)
{
    const weight_job *job = context;
    const weight_plan *plan = &job->plan;
    int64_t part = task % plan->parts, group = task / plan->parts % plan->g->group;
    int64_t chunk = task / plan->parts / plan->g->group, depth = conv_depth(plan->g);
    int64_t last = conv_chunk_start(plan->g, plan->chunks, chunk + 1), first = part * plan->part;
    float *target = partial_of(job, chunk) + group * depth * plan->padded_filters;
    size_t zeroed = (size_t)conv_min(plan->part, plan->padded_filters - first) * sizeof(float);
    for (int64_t r = 0; r < depth; r++)
        memset(target + r * plan->padded_filters + first, 0, zeroed);
    for (int64_t image = conv_chunk_start(plan->g, plan->chunks, chunk); image < last; image += plan->images)
        for (int64_t y0 = 0; y0 < plan->g->out_height; y0 += plan->band)
            add_band(job, image, conv_min(plan->images, last - image), group, part, y0, slot, target);
}

/* Sums are [group][kernel_h][kernel_w][channel][padded filter]. A task takes a block of filters of a group,
 * adds up the chunks in order, and puts each value where ONNX has it. */
enum { COLLECTED = 16 };

static void collect_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const weight_job *job = context;
    const weight_plan *plan = &job->plan;
    const int64_t taps = conv_taps(plan->g), channels = plan->channels, depth = conv_depth(plan->g);
    const int64_t blocks = conv_ceil_divide(plan->filters, COLLECTED), group = task / blocks;
    const int64_t first = task % blocks * COLLECTED, count = conv_min(COLLECTED, plan->filters - first);
    for (int64_t channel = 0; channel < channels; channel++)
        for (int64_t tap = 0; tap < taps; tap++) {
            int64_t at = (group * depth + tap * channels + channel) * plan->padded_filters + first;
            float sums[COLLECTED];
            memcpy(sums, partial_of(job, 0) + at, (size_t)count * sizeof(float));
            for (int64_t chunk = 1; chunk < plan->chunks; chunk++) {
                const float *more = partial_of(job, chunk) + at;
                for (int64_t f = 0; f < count; f++)
                    sums[f] += more[f];
            }
            float *dw = job->dw + (group * plan->filters + first) * depth + channel * taps + tap;
            for (int64_t f = 0; f < count; f++)
                dw[f * depth] = sums[f];
        }
}

size_t esp_conv_direct_weight_scratch(const conv_method *self, const esp_conv_geometry *geometry, int slots)
{
    weight_plan plan = weight_plan_make(self, geometry);
    return (size_t)plan.chunks * plan.partial_bytes + (size_t)slots * plan.slot_bytes;
}

esp_status esp_conv_direct_grad_weight(const conv_method *self, const esp_compute *compute,
                                       const esp_conv_geometry *geometry, const float *x, const float *dy,
                                       float *dw, void *scratch)
{
    weight_job job = {
        .plan = weight_plan_make(self, geometry), .x = x, .dy = dy, .dw = dw, .partials = scratch};
    job.slots = job.partials + (size_t)job.plan.chunks * job.plan.partial_bytes;
    esp_status status =
        esp_compute_run(compute, job.plan.chunks * geometry->group * job.plan.parts, chunk_task, &job);
    if (status != ESP_OK)
        return status;
    int64_t blocks = conv_ceil_divide(job.plan.filters, COLLECTED);
    return esp_compute_run(compute, geometry->group * blocks, collect_task, &job);
}
