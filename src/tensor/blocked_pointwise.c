/* 1x1 convolution without padding: the pixels of an image are one row, whatever its shape, and a run is one
 * block of channels. At stride 1 tiles read the image itself. With a stride, or when something is done to x
 * on the way in, a task needs a copy of its pixels: it takes a chunk of them at a time, that stays in the
 * second-level cache, and multiplies it by all its panels. Pixels that are neighbours in the image are copied
 * by the tiles of the first panel, block by block as they are needed; others before. Images of one pixel are
 * taken together: they are the pixels then. */
#include <math.h>
#include <string.h>

#include "tensor/blocked_conv_internal.h"

typedef struct pointwise_job {
    const esp_conv_geometry *g;
    const blocked_kernels *kernels;
    blocked_panels panels;
    blocked_load load; /* rows are tiles */
    blocked_cut cut;
    int64_t images, pixels, tiles; /* pixels and tiles per image */
    int64_t blocks;                /* of channels, in a group */
    int64_t chunk_pixels;          /* room in the copy */
    bool copies;
    bool takes_in; /* tiles make the copy */

    /* The run. */
    const float *x, *packed;
    float *y;
    int64_t x_image, x_block, y_image, y_block, y_pixel;
    const esp_view *residual;
    int64_t residual_image, residual_pixel;
    bool clips_input;
    float in_low, in_high;
    blocked_vectors vectors;
    blocked_store store;
    blocked_run *runs;
    float *copy; /* per slot */
} pointwise_job;

static bool takes_images_together(const esp_conv_geometry *g)
{
    return conv_pixels(g) == 1 && g->batch > 1;
}

static void plan_job(const esp_blocked_conv *plan, bool has_entry, pointwise_job *job)
{
    const esp_conv_geometry *g = &plan->geometry;
    memset(job, 0, sizeof *job);
    job->g = g;
    job->kernels = esp_blocked_kernels(&plan->engine);
    job->panels = esp_blocked_panels(plan);
    bool is_together = takes_images_together(g);
    job->images = is_together ? 1 : g->batch;
    job->pixels = is_together ? g->batch : conv_pixels(g);
    job->copies = has_entry || is_together || g->stride_h != 1 || g->stride_w != 1;
    job->takes_in = has_entry && !is_together && g->stride_h == 1 && g->stride_w == 1;
    job->tiles = conv_ceil_divide(job->pixels, job->kernels->tile_pixels);
    job->blocks = blocked_count(conv_group_channels(g));

    double pieces = (double)(job->images * g->group);
    job->load = (blocked_load){
        .pieces = job->images * g->group,
        .groups_pieces = true,
        .rows = job->tiles,
        .panels = job->panels.group_panels,
        .flops =
            2.0 * pieces * (double)(job->pixels * job->panels.depth * job->panels.group_blocks * ESP_BLOCK),
        .row_lines = (double)(job->blocks * job->pixels) / (double)job->tiles,
        .weight_lines = (double)(job->panels.depth * job->panels.width / ESP_BLOCK),
        .copies = job->copies};
    job->cut = esp_blocked_cut(&job->load);
    job->chunk_pixels =
        conv_min(job->cut.chunk_rows * conv_ceil_divide(job->pixels, job->tiles), job->pixels);
}

/* Copies output pixels [from, to) of the channels of a group. */
static void copy_pixels(const pointwise_job *job, const float *x, int64_t group, int64_t from, int64_t to,
                        float *copy)
{
    const esp_conv_geometry *g = job->g;
    blocked_entry entry = {.clips = job->clips_input, .low = job->in_low, .high = job->in_high};
    bool is_together = takes_images_together(g);
    int64_t row_pixels = is_together ? job->pixels : g->out_width;
    int64_t x_pixel = is_together ? job->x_image : g->stride_w * ESP_BLOCK;
    for (int64_t b = 0; b < job->blocks; b++) {
        int64_t block = group * job->blocks + b;
        if (job->vectors.in_scale != NULL) {
            entry.scale = job->vectors.in_scale + block * ESP_BLOCK;
            entry.shift = job->vectors.in_shift + block * ESP_BLOCK;
        }
        float *target = copy + b * job->chunk_pixels * ESP_BLOCK;
        for (int64_t at = from; at < to;) {
            int64_t row = at / row_pixels, column = at % row_pixels;
            int64_t count = conv_min(to - at, row_pixels - column);
            const float *source =
                x + block * job->x_block + row * g->stride_h * g->width * ESP_BLOCK + column * x_pixel;
            job->kernels->pixels(count, source, x_pixel, &entry, target);
            target += count * ESP_BLOCK;
            at += count;
        }
    }
}

/* What is multiplied: the tiles [first, last) of image n, a group. */
typedef struct pointwise_place {
    int64_t n, group, first, last;
    const float *image; /* the first pixel in x */
    const float *x;     /* the same or its copy */
    float *copy;
} pointwise_place;

static blocked_intake intake_of(const pointwise_job *job, const pointwise_place *place)
{
    int64_t channel = place->group * job->blocks * ESP_BLOCK;
    return (blocked_intake){
        .source_run = job->x_block,
        .scale = job->vectors.in_scale + channel,
        .shift = job->vectors.in_shift + channel,
        .low = job->clips_input ? job->in_low : -INFINITY,
        .high = job->clips_input ? job->in_high : INFINITY,
    };
}

/* One panel times the tiles of a place. */
static void multiply(const pointwise_job *job, const pointwise_place *place, int64_t p, bool is_new,
                     bool fetches)
{
    int blocks = blocked_panel_blocks(&job->panels, p);
    const float *weights = job->packed + blocked_panel_start(&job->panels, place->group, 0);
    const float *w = weights + blocked_panel_start(&job->panels, 0, p);
    int64_t block = place->group * job->panels.group_blocks + p * (job->panels.width / ESP_BLOCK);
    blocked_tile_fn *const *tiles = job->kernels->tiles(ESP_BLOCK, blocks);
    blocked_store store = blocked_store_of(&job->store, block);
    const float *residual = NULL;
    if (job->residual != NULL)
        residual = esp_view_f32(job->residual) + place->n * job->residual_image + block * job->y_block;
    float *y = job->y + place->n * job->y_image + block * job->y_block;

    /* The first panel finds x where it was left, block by block in different places. */
    if (is_new && !job->copies)
        store.ahead = job->kernels->tile_pixels * ESP_BLOCK;
    blocked_intake intake;
    if (is_new && job->takes_in) {
        intake = intake_of(job, place);
        store.intake = &intake;
    }
    blocked_fetch fetch = {0};
    if (fetches)
        fetch = esp_blocked_fetch(&job->panels, weights, p, place->last - place->first, job->blocks);
    int64_t start = blocked_part(job->pixels, job->tiles, place->first);
    for (int64_t t = place->first, from = start; t < place->last; t++) {
        int64_t to = blocked_part(job->pixels, job->tiles, t + 1);
        if (residual != NULL)
            store.residual = residual + from * job->residual_pixel;
        blocked_fetch_step(&fetch, job->blocks, &store);
        int64_t at = (from - start) * ESP_BLOCK;
        if (store.intake != NULL) {
            intake.source = place->image + at;
            intake.target = place->copy + at;
        }
        tiles[to - from](place->x + at, job->runs, job->blocks, w, y + from * job->y_pixel, job->y_block,
                         job->y_pixel, &store);
        from = to;
    }
}

static void pointwise_task(void *context, int64_t task, int slot)
{
    const pointwise_job *job = context;
    blocked_share share = esp_blocked_share(&job->load, &job->cut, task);
    float *copy = job->copy + slot * job->blocks * job->chunk_pixels * ESP_BLOCK;
    int64_t rows = share.last_row - share.first_row;
    int64_t chunks = conv_ceil_divide(rows, job->cut.chunk_rows);
    int64_t passes = chunks * (share.last_piece - share.first_piece);
    for (int64_t pass = 0; pass < passes; pass++) {
        int64_t piece = share.first_piece + pass / chunks, chunk = pass % chunks;
        pointwise_place place = {.n = piece / job->g->group,
                                 .group = piece % job->g->group,
                                 .first = share.first_row + blocked_part(rows, chunks, chunk),
                                 .last = share.first_row + blocked_part(rows, chunks, chunk + 1)};
        int64_t from = blocked_part(job->pixels, job->tiles, place.first);
        const float *image = job->x + place.n * job->x_image;
        place.image = image + place.group * job->blocks * job->x_block + from * ESP_BLOCK;
        place.copy = copy;
        place.x = job->copies ? copy : place.image;
        if (job->copies && !job->takes_in)
            copy_pixels(job, image, place.group, from, blocked_part(job->pixels, job->tiles, place.last),
                        copy);
        for (int64_t p = share.first_panel; p < share.last_panel; p++)
            multiply(job, &place, p, p == share.first_panel,
                     blocked_fetches(&share, p, pass == 0, pass == passes - 1));
    }
}

static bool fits(const esp_blocked_conv *plan)
{
    const esp_conv_geometry *g = &plan->geometry;
    return plan->pass == ESP_CONV_FORWARD && !plan->takes_plain && conv_taps(g) == 1 && g->pad_top == 0 &&
           g->pad_left == 0 && (g->out_height - 1) * g->stride_h < g->height &&
           (g->out_width - 1) * g->stride_w < g->width && blocked_fits_groups(g) && blocked_fits_offsets(g);
}

/* Scratch memory: vectors, runs, then a chunk per slot. */
static size_t runs_bytes(const pointwise_job *job)
{
    return conv_aligned((size_t)job->blocks * sizeof(blocked_run));
}

static size_t scratch(const esp_blocked_conv *plan, int slots)
{
    pointwise_job job;
    plan_job(plan, true, &job);
    return (size_t)esp_blocked_vectors_size(&plan->geometry) * sizeof(float) + runs_bytes(&job) +
           (size_t)slots * (size_t)(job.blocks * job.chunk_pixels * ESP_BLOCK) * sizeof(float);
}

static esp_status run(const esp_compute *compute, const esp_blocked_conv *plan, const esp_view *x,
                      const void *packed, const esp_conv_extras *extras, const esp_view *y,
                      void *scratch_memory)
{
    const esp_conv_geometry *g = &plan->geometry;
    pointwise_job job;
    plan_job(plan, extras->in_scale != NULL, &job);
    bool is_together = takes_images_together(g);
    job.x = esp_view_f32(x);
    job.x_image = esp_view_image_stride(x);
    job.x_block = g->height * g->width * ESP_BLOCK;
    job.packed = packed;
    job.y = esp_view_f32(y);
    job.y_image = esp_view_image_stride(y);
    job.y_block = conv_pixels(g) * ESP_BLOCK;
    job.y_pixel = is_together ? job.y_image : ESP_BLOCK;
    job.clips_input = extras->in_clips;
    job.in_low = extras->in_low, job.in_high = extras->in_high;

    float *vectors = scratch_memory;
    job.vectors = esp_blocked_vectors(g, extras, vectors);
    job.runs = (blocked_run *)(void *)(vectors + esp_blocked_vectors_size(g));
    job.copy = (float *)(void *)((char *)job.runs + runs_bytes(&job));
    job.store = esp_blocked_store(extras, &job.vectors);
    if (extras->residual != NULL) {
        job.residual = extras->residual;
        job.residual_image = esp_view_image_stride(extras->residual);
        job.residual_pixel = is_together ? job.residual_image : ESP_BLOCK;
        job.store.residual_block = job.y_block;
        job.store.residual_pixel = job.residual_pixel;
    }
    int64_t stride = (job.copies ? job.chunk_pixels : g->height * g->width) * ESP_BLOCK;
    for (int64_t b = 0; b < job.blocks; b++)
        job.runs[b] =
            (blocked_run){.offset = (int32_t)(b * stride),
                          .length = (int32_t)conv_min(ESP_BLOCK, conv_group_channels(g) - b * ESP_BLOCK)};
    return esp_compute_run(compute, job.cut.tasks, pointwise_task, &job);
}

const blocked_method esp_blocked_pointwise = {
    .name = "pointwise",
    .pack_key = BLOCKED_PANELS_KEY,
    .fits = fits,
    .packed_bytes = esp_blocked_panels_bytes,
    .pack = esp_blocked_pack_blocked,
    .scratch = scratch,
    .run = run,
};
