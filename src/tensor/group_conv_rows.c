/* Group convolution by rows of pixels. A filter's sum runs over (channel, tap) pairs; each pair is a row of
 * pixels at some offset, so a group is a list of offsets, and nothing is gathered. 1x1 convolutions of stride
 * 1 read x itself. Others read planes that a row of x is copied to once per column tap (and per phase of the
 * vertical stride): there the pixels of a tap lie side by side, without gaps between the rows, for any
 * stride, dilation and padding, and row taps are mere shifts.
 *
 * Images so small that a vector's last lanes would often be idle (7x7) are joined: planes hold the pixels of
 * several images, with one plane per tap, and sums go through a buffer that is cut at the images' ends. */
#include "tensor/group_conv_internal.h"

#include <string.h>

#include "base/memory.h"

enum {
    GOOD_TASKS = 16,
    TASK_MACS = 1 << 20,     /* some 10 us: fewer do not pay for waking a thread */
    UNIT_FLOATS = 96 << 10,  /* planes of a unit that is a task of its own: fits into a second-level cache */
    JOINED_FLOATS = 1 << 20, /* planes of joined images */
    RANGE_VECTORS = 12,      /* vectors of pixels that blocks take turns at; a multiple of all tiles' */
    FEW_UNITS = 8,
    FETCH_FLOATS = 1 << 20, /* x that is longer will not be found in a cache */
    STREAM_FLOATS = 3 << 20 /* nor will y, by whoever reads it */
};

/* ---- Plan ---- */

static bool can_read_x(const esp_conv_geometry *g)
{
    return conv_taps(g) == 1 && g->stride_h == 1 && g->stride_w == 1 && g->pad_top == 0 && g->pad_left == 0 &&
           g->pad_bottom == 0 && g->pad_right == 0;
}

static int64_t vectors_for(const esp_group_conv *plan, int64_t pixels)
{
    return conv_ceil_divide(pixels, plan->kernels->lanes);
}

/* A few pixels too many for whole vectors (7x7, 14x14) go along with the last of them, filters in lanes. */
static int64_t extra_pixels(const esp_group_conv *plan, int64_t pixels)
{
    const int64_t lanes = plan->kernels->lanes, extra = pixels % lanes;
    group_tile_kind kind = extra == 1 ? GROUP_TILE_ODD : GROUP_TILE_FEW;
    return pixels > lanes && extra <= GROUP_FEW && plan->kernels->tiles[kind] != NULL ? extra : 0;
}

/* Vectors of the pixels of a unit of one image (extra pixels do not count), or of several. */
static int64_t unit_vectors(const esp_group_conv *plan, int64_t pixels)
{
    return vectors_for(plan, plan->source.unit_images > 1 ? pixels : pixels - extra_pixels(plan, pixels));
}

/* Vectors of all images when none are joined. */
static int64_t vectors_alone(const esp_group_conv *plan)
{
    int64_t pixels = conv_pixels(&plan->geometry);
    return plan->geometry.batch * vectors_for(plan, pixels - extra_pixels(plan, pixels));
}

static bool joins_images(const esp_group_conv *plan)
{
    const esp_conv_geometry *g = &plan->geometry;
    return vectors_for(plan, g->batch * conv_pixels(g)) * 100 < vectors_alone(plan) * 93;
}

/* Distinct phases of the vertical taps, in order; the number of them. */
static int64_t row_phases(const esp_conv_geometry *g, int64_t *phases)
{
    int64_t count = 0;
    for (int64_t ky = 0; ky < g->kernel_h; ky++) {
        int64_t phase = ky * g->dilation_h % g->stride_h, i = 0;
        while (i < count && phases[i] != phase)
            i++;
        if (i == count)
            phases[count++] = phase;
    }
    return count;
}

/* A plane per tap, or per column tap and row phase: then `phases` of them. */
static esp_status make_planes(esp_group_conv *plan, int64_t *phases, bool has_all_taps, esp_error *err)
{
    const esp_conv_geometry *g = &plan->geometry;
    group_source *source = &plan->source;
    int64_t lines = has_all_taps ? g->kernel_h : row_phases(g, phases);
    source->plane_count = lines * g->kernel_w;
    source->planes = esp_alloc((size_t)source->plane_count, sizeof *source->planes);
    if (source->planes == NULL)
        return esp_fail_memory(err, "group convolution", (size_t)source->plane_count * sizeof(group_plane));
    for (int64_t k = 0; k < source->plane_count; k++) {
        int64_t line = k / g->kernel_w;
        source->planes[k] = (group_plane){.dy = has_all_taps ? line * g->dilation_h : phases[line],
                                          .dx = k % g->kernel_w * g->dilation_w};
    }
    source->extra_rows = has_all_taps ? 0 : (g->kernel_h - 1) * g->dilation_h / g->stride_h;
    return ESP_OK;
}

static esp_status make_source(esp_group_conv *plan, int64_t *phases, esp_error *err)
{
    const esp_conv_geometry *g = &plan->geometry;
    group_source *source = &plan->source;
    *source = (group_source){.lanes = plan->kernels->lanes,
                             .row_step = g->stride_h,
                             .column_step = g->stride_w,
                             .rows = g->out_height,
                             .columns = g->out_width,
                             .row_floats = g->out_width};
    bool joins = joins_images(plan);
    if (can_read_x(g) && !joins) {
        source->is_direct = true;
        esp_group_source_divide(source, g, 1, g->out_height);
        return ESP_OK;
    }
    int64_t reach = (g->kernel_h - 1) * g->dilation_h / g->stride_h;
    bool has_all_taps =
        joins || row_phases(g, phases) * (g->out_height + reach) >= g->kernel_h * g->out_height;
    esp_status status = make_planes(plan, phases, has_all_taps, err);
    if (status != ESP_OK)
        return status;
    int64_t row = conv_max(plan->used_count, 1) * source->plane_count * source->row_floats;
    if (joins) {
        int64_t images = conv_max(JOINED_FLOATS / (row * g->out_height), 2);
        images = conv_ceil_divide(g->batch, conv_ceil_divide(g->batch, images));
        esp_group_source_divide(source, g, images, g->out_height);
        if (source->unit_images > 1)
            return ESP_OK;
    }
    int64_t rows = conv_max(UNIT_FLOATS / row, conv_max(source->extra_rows * 2, 1));
    esp_group_source_divide(source, g, 1, conv_min(rows, g->out_height));
    return ESP_OK;
}

static void fill_offsets(esp_group_conv *plan, const int64_t *phases)
{
    const esp_conv_geometry *g = &plan->geometry;
    const group_source *source = &plan->source;
    int64_t taps = conv_taps(g), total = 0;
    for (int64_t p = 0; p < plan->part_count; p++)
        total += plan->parts[p].channel_count;
    for (int64_t i = 0; i < total; i++) {
        int64_t base = source->is_direct ? plan->used[plan->channels[i]] * plan->channel_stride
                                         : plan->channels[i] * plan->channel_stride;
        for (int64_t tap = 0; tap < taps; tap++) {
            int64_t ky = tap / g->kernel_w, plane = tap, shift = 0;
            if (!source->is_direct && (source->extra_rows > 0 || source->plane_count < taps)) {
                int64_t line = 0;
                while (phases[line] != ky * g->dilation_h % g->stride_h)
                    line++;
                plane = line * g->kernel_w + tap % g->kernel_w;
                shift = ky * g->dilation_h / g->stride_h * source->row_floats;
            }
            plan->offsets[i * taps + tap] =
                (int32_t)(base + plane * source->plane * !source->is_direct + shift);
        }
    }
}

/* Vectors of a unit are gone through in ranges, the last of which may be half as long again. */
static int64_t range_count(int64_t vectors)
{
    return conv_max((vectors + RANGE_VECTORS / 2) / RANGE_VECTORS, 1);
}

static int64_t range_first(int64_t vectors, int64_t range)
{
    return range == range_count(vectors) ? vectors : range * RANGE_VECTORS;
}

esp_status esp_group_rows_plan(esp_group_conv *plan, esp_error *err)
{
    const esp_conv_geometry *g = &plan->geometry;
    int64_t *phases = esp_alloc((size_t)g->kernel_h, sizeof *phases);
    if (phases == NULL)
        return esp_fail_memory(err, "group convolution", (size_t)g->kernel_h * sizeof *phases);
    esp_status status = make_source(plan, phases, err);
    if (status == ESP_OK) {
        const group_source *source = &plan->source;
        plan->channel_stride =
            source->is_direct ? g->height * g->width : source->plane_count * source->plane + 16;
        if (plan->channel_stride * conv_max(plan->used_count, g->channels) >= INT32_MAX)
            status =
                esp_fail(err, ESP_UNSUPPORTED,
                         "group convolution: planes of %lld floats for %lld channels exceed 32-bit offsets",
                         (long long)plan->channel_stride, (long long)g->channels);
        else
            fill_offsets(plan, phases);
        plan->is_shared = source->is_direct || source->units < FEW_UNITS;
        int64_t ranges = range_count(unit_vectors(plan, group_most_pixels(source)));
        int64_t tasks = conv_min(GOOD_TASKS, esp_group_conv_macs(plan) / TASK_MACS);
        int64_t chunks =
            plan->is_shared ? conv_ceil_divide(tasks, ranges * (source->is_direct ? g->batch : 1)) : 1;
        if (status == ESP_OK)
            status = esp_group_chunks(plan, conv_max(chunks, 1), INT64_MAX, conv_taps(g), 1, err);
    }
    esp_free(phases);
    return status;
}

void esp_group_rows_pack(const esp_group_conv *plan, const esp_filter_group *group, const group_block *block,
                         float *packed)
{
    int64_t depth = group->channel_count * conv_taps(&plan->geometry);
    const float *w = group->w + (block->first_filter - plan->parts[block->part].first_filter) * depth;
    for (int64_t f = 0; f < block->filters; f++)
        for (int64_t r = 0; r < depth; r++)
            packed[r * block->filters + f] = w[f * depth + r];
}

/* ---- Scratch memory: planes, then a list of runs and a buffer of sums per slot ---- */

static size_t planes_bytes(const esp_group_conv *plan)
{
    if (plan->source.is_direct)
        return 0;
    return conv_aligned((size_t)(plan->used_count * plan->channel_stride) * sizeof(float));
}

static size_t runs_bytes(const esp_group_conv *plan)
{
    return plan->source.is_direct ? 0 : conv_aligned((size_t)plan->source.copies * sizeof(group_copy));
}

/* Joined images: the sums of a block, and where they go. */
static int64_t segment_limit(const esp_group_conv *plan)
{
    return GROUP_VECTORS * plan->kernels->lanes / conv_max(conv_pixels(&plan->geometry), 1) + 2;
}

static size_t slot_bytes(const esp_group_conv *plan)
{
    if (plan->source.unit_images <= 1)
        return 0;
    return conv_aligned((size_t)segment_limit(plan) * sizeof(group_segment)) +
           (size_t)(GROUP_FILTERS * GROUP_VECTORS * plan->kernels->lanes) * sizeof(float);
}

size_t esp_group_rows_scratch(const esp_group_conv *plan, int slots)
{
    size_t copies = plan->is_shared ? 1 : (size_t)slots;
    return copies * (planes_bytes(plan) + runs_bytes(plan)) + (size_t)slots * slot_bytes(plan);
}

/* The planes and the runs of a slot (or of all). */
static float *planes_of(const group_run *run, int slot)
{
    size_t index = run->plan->is_shared ? 0 : (size_t)slot;
    return (float *)(void *)(run->scratch + index * (planes_bytes(run->plan) + runs_bytes(run->plan)));
}

static group_copy *runs_of(const group_run *run, int slot)
{
    return (group_copy *)(void *)((char *)planes_of(run, slot) + planes_bytes(run->plan));
}

static char *buffer_of(const group_run *run, int slot, int slots)
{
    size_t copies = run->plan->is_shared ? 1 : (size_t)slots;
    return run->scratch + copies * (planes_bytes(run->plan) + runs_bytes(run->plan)) +
           (size_t)slot * slot_bytes(run->plan);
}

/* ---- Run ---- */

typedef struct rows_job {
    group_run *run;
    int slots;
    bool streams;
    int64_t ranges, copies; /* shared: of the unit at work */
} rows_job;

static void fill_channel(const rows_job *job, const group_unit *unit, int64_t index, int slot, int64_t copies)
{
    const esp_group_conv *plan = job->run->plan;
    const esp_conv_geometry *g = &plan->geometry;
    const group_copy *runs = runs_of(job->run, slot);
    const float *x =
        job->run->x + (unit->first_image * g->channels + plan->used[index]) * g->height * g->width;
    float *planes = planes_of(job->run, slot) + index * plan->channel_stride;
    if (index + 1 < plan->used_count)
        esp_group_source_fetch(&plan->source, g, unit,
                               x + (plan->used[index + 1] - plan->used[index]) * g->height * g->width);
    plan->kernels->copy(runs, copies, plan->source.column_step, x, planes);
}

/* Cuts the pixels [first, last) of a unit where images end. */
static int64_t cut_segments(const esp_group_conv *plan, int64_t first, int64_t last, group_segment *segments)
{
    const int64_t pixels = conv_pixels(&plan->geometry), image = pixels * plan->geometry.filters;
    int64_t count = 0;
    for (int64_t p = first; p < last;) {
        int64_t n = p / pixels, end = conv_min((n + 1) * pixels, last);
        segments[count++] = (group_segment){
            .from = (int32_t)(p - first), .length = (int32_t)(end - p), .to = n * image + p - n * pixels};
        p = end;
    }
    return count;
}

/* The pixels of one image are neighbours in y as well: the tile stores them. A tail longer than a vector:
 * extra pixels go along. */
static void tile_alone(const rows_job *job, const group_block *block, const float *x, const float *w,
                       int64_t y, int64_t vectors, int tail, const group_ahead *ahead)
{
    const esp_group_conv *plan = job->run->plan;
    const group_part *part = &plan->parts[block->part];
    const int64_t taps = conv_taps(&plan->geometry);
    group_store store = job->run->store;
    store.streams = job->streams;
    if (store.residual != NULL)
        store.residual += y;
    const int extra = tail - plan->kernels->lanes;
    group_tile_kind kind = extra <= 0 ? GROUP_TILE_STORED : extra == 1 ? GROUP_TILE_ODD : GROUP_TILE_FEW;
    plan->kernels->tiles[kind][block->filters * GROUP_VECTORS + vectors - 1](
        part->channel_count * taps, plan->offsets + part->first_offset * taps, x, w, tail, job->run->y + y,
        conv_pixels(&plan->geometry), ahead, plan->y_channel + block->first_filter, &store);
}

static void tile_joined(const rows_job *job, const group_block *block, const float *x, const float *w,
                        int64_t y, int64_t first, int64_t last, int64_t vectors, const group_ahead *ahead,
                        char *buffer)
{
    const esp_group_conv *plan = job->run->plan;
    const group_part *part = &plan->parts[block->part];
    const int64_t taps = conv_taps(&plan->geometry), width = vectors * plan->kernels->lanes;
    group_segment *segments = (group_segment *)(void *)buffer;
    float *sums =
        (float *)(void *)(buffer + conv_aligned((size_t)segment_limit(plan) * sizeof(group_segment)));
    plan->kernels->tiles[GROUP_TILE_RAW][block->filters * GROUP_VECTORS + vectors - 1](
        part->channel_count * taps, plan->offsets + part->first_offset * taps, x, w, plan->kernels->lanes,
        sums, width, ahead, NULL, NULL);
    int64_t count = cut_segments(plan, first, last, segments);
    for (int64_t f = 0; f < block->filters; f++) {
        int64_t channel = plan->y_channel[block->first_filter + f];
        int64_t at = y + channel * conv_pixels(&plan->geometry);
        group_store store = job->run->store;
        if (store.residual != NULL)
            store.residual += at;
        plan->kernels->finish(segments, count, sums + f * width, job->run->y + at, channel, &store);
    }
}

/* The channels of x that a chunk asks for while it computes a range, bit by bit: what the next range reads.
 * Their rows lie too far apart for hardware to see where they go on. */
typedef struct range_fetch {
    const float *x; /* of the first channel */
    int64_t floats; /* of a channel */
    int64_t next, last;
} range_fetch;

static range_fetch fetch_begin(const rows_job *job, const group_unit *unit, int64_t chunk, int64_t first,
                               int64_t last, int64_t pixels)
{
    const esp_group_conv *plan = job->run->plan;
    const esp_conv_geometry *g = &plan->geometry;
    int64_t begin = last * plan->kernels->lanes, image = unit->first_image;
    range_fetch fetch = {.floats = (last - first) * plan->kernels->lanes};
    if (!plan->source.is_direct || g->batch * g->channels * plan->channel_stride < FETCH_FLOATS)
        return fetch;
    if (begin >= pixels) {
        begin = 0;
        image++;
    }
    fetch.x = job->run->x + image * g->channels * plan->channel_stride + begin;
    fetch.floats = conv_min(fetch.floats, pixels - begin);
    if (image < g->batch) {
        fetch.next = plan->used_count * chunk / plan->chunk_count;
        fetch.last = plan->used_count * (chunk + 1) / plan->chunk_count;
    }
    return fetch;
}

static void fetch_some(const esp_group_conv *plan, range_fetch *fetch, int64_t blocks_left)
{
    int64_t upto = fetch->next + conv_ceil_divide(fetch->last - fetch->next, blocks_left);
    for (; fetch->next < upto; fetch->next++) {
        const float *x = fetch->x + plan->used[fetch->next] * plan->channel_stride;
        for (int64_t i = 0; i < fetch->floats; i += 16)
            __builtin_prefetch(x + i);
    }
}

/* Stores past the caches are not ordered by what threads tell each other that a task is done. */
static void finish_streams(void)
{
#if defined(__x86_64__)
    __builtin_ia32_sfence();
#endif
}

/* The blocks of a chunk on the vectors [first, last) of a unit. */
static void compute_range(const rows_job *job, const group_unit *unit, const group_chunk *chunk,
                          int64_t first, int64_t last, int slot)
{
    const esp_group_conv *plan = job->run->plan;
    const esp_conv_geometry *g = &plan->geometry;
    const int64_t lanes = plan->kernels->lanes, taps = conv_taps(g);
    const int64_t pixels = group_unit_pixels(&plan->source, unit), all = unit_vectors(plan, pixels);
    const float *x = plan->source.is_direct
                         ? job->run->x + unit->first_image * g->channels * g->height * g->width
                         : planes_of(job->run, slot);
    const float *w = job->run->weights + chunk->weights;
    int64_t y = unit->first_image * g->filters * conv_pixels(g) + unit->first_row * g->out_width;
    range_fetch fetch = fetch_begin(job, unit, chunk - plan->chunks, first, last, pixels);
    for (int64_t b = chunk->first; b < chunk->last; b++) {
        fetch_some(plan, &fetch, chunk->last - b);
        const group_block *block = &plan->blocks[b];
        const int64_t depth = plan->parts[block->part].channel_count * taps;
        const group_tiles tiles = group_cut_tiles(last - first, plan->kernels->vectors[block->filters]);
        group_ahead ahead = esp_group_ahead(job->run, w, depth, block->filters, tiles.count);
        int64_t v = first;
        for (uint32_t t = 0; t < tiles.count; t++) {
            int64_t vectors = group_tile_width(&tiles, t), p = v * lanes;
            int64_t end = v + vectors == all ? pixels : p + vectors * lanes;
            int tail = (int)(end - p - (vectors - 1) * lanes);
            ahead.x = end < pixels ? vectors * lanes : 0;
            if (plan->source.unit_images > 1)
                tile_joined(job, block, x + p, w, y, p, end, vectors, &ahead,
                            buffer_of(job->run, slot, job->slots));
            else
                tile_alone(job, block, x + p, w, y + p, vectors, tail, &ahead);
            v += vectors;
            ahead.w += depth * ahead.w_step;
        }
        w += depth * block->filters;
    }
    if (job->streams)
        finish_streams();
}

static void run_local(void *context, int64_t task, int slot)
{
    const rows_job *job = context;
    const esp_group_conv *plan = job->run->plan;
    group_unit unit = esp_group_unit(&plan->source, &plan->geometry, task);
    int64_t copies = esp_group_source_copies(&plan->source, &plan->geometry, &unit, runs_of(job->run, slot));
    for (int64_t i = 0; i < plan->used_count; i++)
        fill_channel(job, &unit, i, slot, copies);
    int64_t vectors = unit_vectors(plan, group_unit_pixels(&plan->source, &unit));
    int64_t ranges = range_count(vectors);
    for (int64_t r = 0; r < ranges; r++)
        for (int64_t c = 0; c < plan->chunk_count; c++)
            compute_range(job, &unit, &plan->chunks[c], range_first(vectors, r), range_first(vectors, r + 1),
                          slot);
}

static void run_fill(void *context, int64_t task, int slot)
{
    const rows_job *job = context;
    const esp_group_conv *plan = job->run->plan;
    (void)slot;
    group_unit unit = esp_group_unit(&plan->source, &plan->geometry, job->run->unit);
    int64_t tasks = conv_min(plan->used_count, GOOD_TASKS);
    for (int64_t i = plan->used_count * task / tasks; i < plan->used_count * (task + 1) / tasks; i++)
        fill_channel(job, &unit, i, 0, job->copies);
}

/* Tasks: unit (when nothing is copied), then range, then chunk. */
static void run_products(void *context, int64_t task, int slot)
{
    const rows_job *job = context;
    const esp_group_conv *plan = job->run->plan;
    int64_t chunk = task % plan->chunk_count, range = task / plan->chunk_count % job->ranges;
    int64_t index = plan->source.is_direct ? task / plan->chunk_count / job->ranges : job->run->unit;
    group_unit unit = esp_group_unit(&plan->source, &plan->geometry, index);
    int64_t vectors = unit_vectors(plan, group_unit_pixels(&plan->source, &unit));
    if (range < range_count(vectors))
        compute_range(job, &unit, &plan->chunks[chunk], range_first(vectors, range),
                      range_first(vectors, range + 1), slot);
}

esp_status esp_group_rows_run(const esp_compute *compute, group_run *run)
{
    const esp_group_conv *plan = run->plan;
    const group_source *source = &plan->source;
    rows_job job = {.run = run, .slots = esp_compute_slots(compute)};
    const int64_t outputs = plan->geometry.batch * plan->geometry.filters * conv_pixels(&plan->geometry);
    job.streams = outputs >= STREAM_FLOATS && conv_pixels(&plan->geometry) % 16 == 0 &&
                  (uintptr_t)run->y % ESP_ALIGNMENT == 0 && source->is_direct;
    if (!plan->is_shared)
        return esp_compute_run(compute, source->units, run_local, &job);
    if (source->is_direct) {
        job.ranges = range_count(unit_vectors(plan, conv_pixels(&plan->geometry)));
        return esp_compute_run(compute, source->units * job.ranges * plan->chunk_count, run_products, &job);
    }
    esp_status status = ESP_OK;
    for (run->unit = 0; status == ESP_OK && run->unit < source->units; run->unit++) {
        group_unit unit = esp_group_unit(source, &plan->geometry, run->unit);
        job.copies = esp_group_source_copies(source, &plan->geometry, &unit, runs_of(run, 0));
        if (plan->used_count > 0)
            status = esp_compute_run(compute, conv_min(plan->used_count, GOOD_TASKS), run_fill, &job);
        job.ranges = range_count(unit_vectors(plan, group_unit_pixels(source, &unit)));
        if (status == ESP_OK)
            status = esp_compute_run(compute, job.ranges * plan->chunk_count, run_products, &job);
    }
    return status;
}

/* ---- Estimate ---- */

enum { FAR_FLOATS = 150 << 10, FAR_ROWS = 20 /* taller images are cut into units */ };

static void count_cycles(const esp_group_conv *plan, group_cycles *cycles)
{
    const esp_conv_geometry *g = &plan->geometry;
    int64_t pixels = conv_pixels(g), extra = extra_pixels(plan, pixels);
    double count = (double)g->batch;
    if (joins_images(plan)) {
        pixels *= g->batch;
        count = 1.0;
        extra = 0;
    }
    int64_t vectors = vectors_for(plan, pixels - extra), ranges = range_count(vectors);
    for (int64_t r = 0; r < ranges; r++)
        esp_group_add_cycles(plan->kernels, count, range_first(vectors, r + 1) - range_first(vectors, r),
                             r == ranges - 1 ? extra : 0, joins_images(plan) ? 1 : g->kernel_h, cycles);
}

/* Copies of a channel of all images, and the floats they make of one. */
static double copy_count(const esp_group_conv *plan, double *floats)
{
    const esp_conv_geometry *g = &plan->geometry;
    int64_t phases = conv_min(g->kernel_h, g->stride_h), reach = (g->kernel_h - 1) / g->stride_h;
    int64_t rows = joins_images(plan)
                       ? g->kernel_h * g->out_height
                       : conv_min(phases * (g->out_height + reach), g->kernel_h * g->out_height);
    *floats = (double)(rows * g->kernel_w * g->out_width);
    return (double)(g->batch * rows * g->kernel_w * vectors_for(plan, g->out_width));
}

double esp_group_rows_cycles(esp_group_conv *plan)
{
    const esp_conv_geometry *g = &plan->geometry;
    group_cycles cycles = {0};
    count_cycles(plan, &cycles);
    double products = esp_group_blocks(plan, conv_taps(g), &cycles), floats;
    if (can_read_x(g) && !joins_images(plan))
        return products;
    double copies = (double)plan->used_count * copy_count(plan, &floats);
    /* Planes that do not fit into a second-level cache beside the weights are read from the third. */
    bool is_far = (double)plan->used_count * floats >= FAR_FLOATS && g->out_height * g->stride_h < FAR_ROWS;
    return products * (is_far ? 1.3 : 1.0) + copies * (g->stride_w == 1 ? 8.0 : 16.0);
}
