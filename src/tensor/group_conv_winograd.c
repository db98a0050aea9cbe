/* Group convolution, Winograd's F(4x4,3x3) (winograd_transform.h; its error is winograd.h's) for 3x3 kernels
 * of stride 1. Vectors hold tiles, so that the 36 products are group convolutions by rows of tiles with any
 * number of filters per group, and images stay plain:
 *   lines      per channel and patch row, the columns 4t..4t+3 of all tiles t side by side, and a second time
 *              shifted by four columns: what the transform reads without caring where rows of tiles end (of
 *              one image: for four patch rows, the other two are those of the tiles below)
 *   V [36 points][channels][tiles]    of a unit
 *   M [36 points][filters][tiles]     of a chunk's filters
 *   rows       the 4 x 4*tiles results of a filter, cut where rows of the image end
 */
#include "tensor/group_conv_internal.h"
#include "tensor/winograd_transform.h"

#include <math.h>

#include "base/memory.h"

enum {
    GOOD_TASKS = 16,
    TASK_MACS = 1 << 20,
    LOCAL_FLOATS = 160 << 10,  /* V of a unit that is a task of its own */
    SHARED_FLOATS = 320 << 10, /* V of a unit that threads share */
    CHUNK_FLOATS = 48 << 10,   /* M of a chunk */
    FILL_CHANNELS = 8,
    FEW_UNITS = 7
};

/* ---- Plan ---- */

static int64_t round_to_vectors(const esp_group_conv *plan, int64_t tiles)
{
    int64_t lanes = plan->kernels->lanes;
    return conv_ceil_divide(tiles, lanes) * lanes;
}

/* How many rows of tiles (of one image) or images make the best unit of at most `most` tiles: the fewest
 * vectors in all, then the largest units. */
static int64_t best_part(const esp_group_conv *plan, int64_t count, int64_t tiles, int64_t most)
{
    int64_t best = 1, best_vectors = INT64_MAX;
    for (int64_t part = 1; part <= count && (part == 1 || part * tiles <= most); part++) {
        int64_t vectors = 0, units = conv_ceil_divide(count, part);
        for (int64_t u = 0; u < units; u++)
            vectors += round_to_vectors(plan, (count * (u + 1) / units - count * u / units) * tiles);
        if (vectors <= best_vectors) {
            best = part;
            best_vectors = vectors;
        }
    }
    return best;
}

/* Units of at most `most` tiles: whole images where several fit, rows of tiles of one image otherwise. */
static void divide_by(esp_group_conv *plan, int64_t most)
{
    const esp_conv_geometry *g = &plan->geometry;
    group_source *source = &plan->source;
    int64_t image = source->rows * source->columns;
    int64_t images = image <= most ? best_part(plan, g->batch, image, most) : 1;
    source->plane_count = images > 1 ? 2 * WINOGRAD_PATCH : 2 * WINOGRAD_TILE;
    source->extra_rows = images > 1 ? 0 : 1;
    esp_group_source_divide(source, g, images,
                            images > 1 ? source->rows : best_part(plan, source->rows, source->columns, most));
}

/* Units in the second-level cache are best. But weights are read once per unit: with many channels it is
 * better to have more tiles in the last level. */
static void divide(esp_group_conv *plan)
{
    const int64_t lanes = plan->kernels->lanes, tile = WINOGRAD_POINTS * conv_max(plan->used_count, 1);
    divide_by(plan, conv_max(LOCAL_FLOATS / tile, lanes));
    plan->is_shared = plan->source.units < FEW_UNITS || LOCAL_FLOATS / tile < 2 * lanes;
    if (LOCAL_FLOATS / tile < 4 * lanes && plan->is_shared)
        divide_by(plan, conv_max(SHARED_FLOATS / tile, 2 * lanes));
}

static esp_status make_source(esp_group_conv *plan, esp_error *err)
{
    const esp_conv_geometry *g = &plan->geometry;
    group_source *source = &plan->source;
    int64_t columns = conv_ceil_divide(g->out_width, WINOGRAD_TILE);
    *source = (group_source){.lanes = plan->kernels->lanes,
                             .row_step = WINOGRAD_TILE,
                             .column_step = 1,
                             .rows = conv_ceil_divide(g->out_height, WINOGRAD_TILE),
                             .columns = columns,
                             .row_floats = columns * WINOGRAD_TILE,
                             .plane_count = 2 * WINOGRAD_TILE,
                             .extra_rows = 1};
    source->planes = esp_alloc(2 * WINOGRAD_PATCH, sizeof *source->planes);
    if (source->planes == NULL)
        return esp_fail_memory(err, "group convolution", 2 * WINOGRAD_PATCH * sizeof *source->planes);
    for (int k = 0; k < 2 * WINOGRAD_PATCH; k++)
        source->planes[k] = (group_plane){.dy = k / 2, .dx = k % 2 * WINOGRAD_TILE};
    divide(plan);
    return ESP_OK;
}

/* Points lie an odd number of cache lines apart, or the 36 of a transform would fall into one set of them. */
static int64_t odd_lines(int64_t floats)
{
    return (conv_ceil_divide(floats, 16) | 1) * 16;
}

static int64_t most_tiles(const esp_group_conv *plan)
{
    return round_to_vectors(plan, group_most_pixels(&plan->source));
}

esp_status esp_group_winograd_plan(esp_group_conv *plan, esp_error *err)
{
    esp_status status = make_source(plan, err);
    if (status != ESP_OK)
        return status;
    int64_t tiles = most_tiles(plan), total = 0;
    plan->channel_stride = tiles;
    plan->point_stride = odd_lines(plan->used_count * tiles);
    for (int64_t p = 0; p < plan->part_count; p++)
        total += plan->parts[p].channel_count;
    for (int64_t i = 0; i < total; i++)
        plan->offsets[i] = (int32_t)(plan->channels[i] * tiles);
    int64_t tasks = conv_min(GOOD_TASKS, esp_group_conv_macs(plan) / 4 / TASK_MACS);
    return esp_group_chunks(plan, plan->is_shared ? conv_max(tasks, 1) : 1,
                            conv_max(CHUNK_FLOATS / (WINOGRAD_POINTS * tiles), 1), 1, WINOGRAD_POINTS, err);
}

/* One block's transformed weights: [point][depth][filters], points `chunk_depth` floats apart: a chunk holds
 * point after point, and in each its blocks. */
void esp_group_winograd_pack(const esp_group_conv *plan, const esp_filter_group *group,
                             const group_block *block, int64_t chunk_depth, float *packed)
{
    const winograd_transforms *transforms = esp_winograd_transforms(&plan->engine);
    int64_t first = block->first_filter - plan->parts[block->part].first_filter;
    _Alignas(64) float taps[9][ESP_BLOCK] = {{0}}, points[WINOGRAD_POINTS][ESP_BLOCK];
    for (int64_t c = 0; c < group->channel_count; c++) {
        for (int64_t f = 0; f < block->filters; f++)
            for (int tap = 0; tap < 9; tap++)
                taps[tap][f] = group->w[((first + f) * group->channel_count + c) * 9 + tap];
        transforms->weights(taps[0], ESP_BLOCK, points[0], ESP_BLOCK);
        for (int point = 0; point < WINOGRAD_POINTS; point++)
            for (int64_t f = 0; f < block->filters; f++)
                packed[point * chunk_depth + c * block->filters + f] = points[point][f];
    }
}

/* ---- Scratch memory ---- */

/* Per slot: lines of a channel, runs, M, rows of a filter, segments. V per slot, or one for all. */
typedef struct winograd_memory {
    size_t v, lines, runs, m, rows, segments;
} winograd_memory;

static int64_t m_point(const esp_group_conv *plan)
{
    int64_t filters = 0;
    for (int64_t c = 0; c < plan->chunk_count; c++)
        filters = conv_max(filters, plan->chunks[c].filters);
    return odd_lines(filters * most_tiles(plan));
}

static winograd_memory memory_for(const esp_group_conv *plan)
{
    const group_source *source = &plan->source;
    return (winograd_memory){
        .v = conv_aligned((size_t)(WINOGRAD_POINTS * plan->point_stride) * sizeof(float)),
        /* The last line is read up to a row and a vector of tiles further than it goes. */
        .lines = conv_aligned((size_t)(source->plane_count * source->plane + source->row_floats +
                                       WINOGRAD_TILE * plan->kernels->lanes) *
                              sizeof(float)),
        .runs = conv_aligned((size_t)source->copies * sizeof(group_copy)),
        .m = conv_aligned((size_t)(WINOGRAD_POINTS * m_point(plan)) * sizeof(float)),
        .rows = conv_aligned((size_t)(WINOGRAD_TILE * WINOGRAD_TILE * most_tiles(plan)) * sizeof(float)),
        .segments = conv_aligned((size_t)(WINOGRAD_TILE * source->unit_images * source->unit_rows) *
                                 sizeof(group_segment)),
    };
}

static size_t slot_bytes(const winograd_memory *memory)
{
    return memory->lines + memory->runs + memory->m + memory->rows + memory->segments;
}

size_t esp_group_winograd_scratch(const esp_group_conv *plan, int slots)
{
    winograd_memory memory = memory_for(plan);
    return memory.v * (plan->is_shared ? 1 : (size_t)slots) + slot_bytes(&memory) * (size_t)slots;
}

/* ---- Run ---- */

typedef struct winograd_job {
    group_run *run;
    winograd_memory memory;
    int64_t m_point;
    int slots;
} winograd_job;

typedef struct winograd_slot {
    float *v, *lines, *m, *rows;
    group_copy *runs;
    group_segment *segments;
} winograd_slot;

static winograd_slot slot_of(const winograd_job *job, int slot)
{
    const winograd_memory *memory = &job->memory;
    bool is_shared = job->run->plan->is_shared;
    char *at = job->run->scratch + memory->v * (is_shared ? 1 : (size_t)job->slots) +
               (size_t)slot * slot_bytes(memory);
    winograd_slot result = {
        .v = (float *)(void *)(job->run->scratch + (is_shared ? 0 : memory->v * (size_t)slot))};
    result.lines = (float *)(void *)at;
    at += memory->lines;
    result.runs = (group_copy *)(void *)at;
    at += memory->runs;
    result.m = (float *)(void *)at;
    at += memory->m;
    result.rows = (float *)(void *)at;
    at += memory->rows;
    result.segments = (group_segment *)(void *)at;
    return result;
}

static void transform_channels(const winograd_job *job, const group_unit *unit, int64_t first, int64_t last,
                               const winograd_slot *slot)
{
    const esp_group_conv *plan = job->run->plan;
    const esp_conv_geometry *g = &plan->geometry;
    const group_source *source = &plan->source;
    int64_t copies = esp_group_source_copies(source, g, unit, slot->runs);
    int64_t tiles = group_unit_pixels(source, unit);
    int64_t below = source->extra_rows > 0 ? source->row_floats : 2 * WINOGRAD_TILE * source->plane;
    for (int64_t i = first; i < last; i++) {
        const float *x =
            job->run->x + (unit->first_image * g->channels + plan->used[i]) * g->height * g->width;
        if (i + 1 < last)
            esp_group_source_fetch(source, g, unit,
                                   x + (plan->used[i + 1] - plan->used[i]) * g->height * g->width);
        plan->kernels->copy(slot->runs, copies, 1, x, slot->lines);
        plan->kernels->winograd_input(slot->lines, source->plane, below,
                                      conv_ceil_divide(tiles, plan->kernels->lanes),
                                      slot->v + i * plan->channel_stride, plan->point_stride);
    }
}

static void multiply(const winograd_job *job, const group_chunk *chunk, int64_t vectors,
                     const winograd_slot *slot)
{
    const esp_group_conv *plan = job->run->plan;
    const int lanes = plan->kernels->lanes;
    const float *w = job->run->weights + chunk->weights;
    for (int64_t point = 0; point < WINOGRAD_POINTS; point++) {
        const float *v = slot->v + point * plan->point_stride;
        float *m = slot->m + point * job->m_point;
        for (int64_t b = chunk->first; b < chunk->last; b++) {
            const group_block *block = &plan->blocks[b];
            const group_part *part = &plan->parts[block->part];
            const group_tiles tiles = group_cut_tiles(vectors, plan->kernels->vectors[block->filters]);
            group_ahead ahead =
                esp_group_ahead(job->run, w, part->channel_count, block->filters, tiles.count);
            int64_t at = 0;
            for (uint32_t t = 0; t < tiles.count; t++) {
                int64_t width = group_tile_width(&tiles, t);
                plan->kernels->tiles[GROUP_TILE_RAW][block->filters * GROUP_VECTORS + width - 1](
                    part->channel_count, plan->offsets + part->first_offset, v + at, w, lanes, m + at,
                    plan->channel_stride, &ahead, NULL, NULL);
                at += width * lanes;
                ahead.w += part->channel_count * ahead.w_step;
            }
            w += part->channel_count * block->filters;
            m += block->filters * plan->channel_stride;
        }
    }
}

/* Where the rows of results lie in y, for a filter of the unit's first image. */
static int64_t cut_segments(const esp_group_conv *plan, const group_unit *unit, group_segment *segments)
{
    const esp_conv_geometry *g = &plan->geometry;
    const group_source *source = &plan->source;
    const int64_t row = WINOGRAD_TILE * most_tiles(plan);
    int64_t count = 0;
    for (int64_t n = 0; n < unit->images; n++) {
        for (int64_t r = 0; r < unit->rows; r++) {
            int64_t top = (unit->first_row + r) * WINOGRAD_TILE;
            for (int64_t i = 0; i < WINOGRAD_TILE && top + i < g->out_height; i++)
                segments[count++] =
                    (group_segment){.from = (int32_t)(i * row + (n * unit->rows + r) * source->row_floats),
                                    .length = (int32_t)g->out_width,
                                    .to = n * g->filters * conv_pixels(g) + (top + i) * g->out_width};
        }
    }
    return count;
}

/* Asks for the rows of y that will be written, of the unit's first image. */
static void fetch_rows(const esp_conv_geometry *g, const group_unit *unit, float *y)
{
    int64_t first = unit->first_row * WINOGRAD_TILE * g->out_width;
    int64_t last = conv_min(first + unit->rows * WINOGRAD_TILE * g->out_width, conv_pixels(g));
    for (int64_t i = first; i < last; i += 16)
        __builtin_prefetch(y + i, 1);
}

static void finish_chunk(const winograd_job *job, const group_unit *unit, const group_chunk *chunk,
                         int64_t vectors, const winograd_slot *slot)
{
    const esp_group_conv *plan = job->run->plan;
    const esp_conv_geometry *g = &plan->geometry;
    const int32_t *channels = plan->y_channel + plan->blocks[chunk->first].first_filter;
    int64_t count = cut_segments(plan, unit, slot->segments);
    for (int64_t f = 0; f < chunk->filters; f++) {
        int64_t at = (unit->first_image * g->filters + channels[f]) * conv_pixels(g);
        group_store store = job->run->store;
        if (store.residual != NULL)
            store.residual += at;
        if (f + 1 < chunk->filters)
            fetch_rows(g, unit, job->run->y + at + (channels[f + 1] - channels[f]) * conv_pixels(g));
        plan->kernels->winograd_output(slot->m + f * plan->channel_stride, job->m_point, vectors, slot->rows,
                                       WINOGRAD_TILE * most_tiles(plan));
        plan->kernels->finish(slot->segments, count, slot->rows, job->run->y + at, channels[f], &store);
    }
}

static void compute_chunk(const winograd_job *job, const group_unit *unit, const group_chunk *chunk,
                          const winograd_slot *slot)
{
    const esp_group_conv *plan = job->run->plan;
    int64_t vectors = conv_ceil_divide(group_unit_pixels(&plan->source, unit), plan->kernels->lanes);
    multiply(job, chunk, vectors, slot);
    finish_chunk(job, unit, chunk, vectors, slot);
}

static void run_local(void *context, int64_t task, int slot)
{
    const winograd_job *job = context;
    const esp_group_conv *plan = job->run->plan;
    group_unit unit = esp_group_unit(&plan->source, &plan->geometry, task);
    winograd_slot memory = slot_of(job, slot);
    transform_channels(job, &unit, 0, plan->used_count, &memory);
    for (int64_t c = 0; c < plan->chunk_count; c++)
        compute_chunk(job, &unit, &plan->chunks[c], &memory);
}

static void run_transform(void *context, int64_t task, int slot)
{
    const winograd_job *job = context;
    const esp_group_conv *plan = job->run->plan;
    group_unit unit = esp_group_unit(&plan->source, &plan->geometry, job->run->unit);
    winograd_slot memory = slot_of(job, slot);
    transform_channels(job, &unit, task * FILL_CHANNELS,
                       conv_min((task + 1) * FILL_CHANNELS, plan->used_count), &memory);
}

static void run_chunk(void *context, int64_t task, int slot)
{
    const winograd_job *job = context;
    const esp_group_conv *plan = job->run->plan;
    group_unit unit = esp_group_unit(&plan->source, &plan->geometry, job->run->unit);
    winograd_slot memory = slot_of(job, slot);
    compute_chunk(job, &unit, &plan->chunks[task], &memory);
}

esp_status esp_group_winograd_run(const esp_compute *compute, group_run *run)
{
    const esp_group_conv *plan = run->plan;
    winograd_job job = {.run = run,
                        .memory = memory_for(plan),
                        .m_point = m_point(plan),
                        .slots = esp_compute_slots(compute)};
    if (!plan->is_shared)
        return esp_compute_run(compute, plan->source.units, run_local, &job);
    esp_status status = ESP_OK;
    for (run->unit = 0; status == ESP_OK && run->unit < plan->source.units; run->unit++) {
        if (plan->used_count > 0)
            status = esp_compute_run(compute, conv_ceil_divide(plan->used_count, FILL_CHANNELS),
                                     run_transform, &job);
        if (status == ESP_OK)
            status = esp_compute_run(compute, plan->chunk_count, run_chunk, &job);
    }
    return status;
}

/* ---- Estimate ---- */

#define WEIGHT_CYCLES    0.7   /* to read one from memory */
#define TRANSFORM_CYCLES 550.0 /* of a vector of tiles and a channel, with reading or writing its pixels */

double esp_group_winograd_cycles(esp_group_conv *plan)
{
    const esp_conv_geometry *g = &plan->geometry;
    const group_kernels *kernels = plan->kernels;
    int64_t rows = conv_ceil_divide(g->out_height, WINOGRAD_TILE);
    int64_t columns = conv_ceil_divide(g->out_width, WINOGRAD_TILE);
    int64_t vectors = round_to_vectors(plan, g->batch * rows * columns) / kernels->lanes;
    group_cycles cycles = {0};
    double weights = 0.0;
    esp_group_add_cycles(kernels, WINOGRAD_POINTS, vectors, 0, 2, &cycles);
    double products = esp_group_blocks(plan, 1, &cycles);
    for (int64_t p = 0; p < plan->part_count; p++)
        weights += (double)(plan->parts[p].channel_count * plan->parts[p].filters);
    /* Few tiles: the weights must come from memory. */
    return fmax(products, WINOGRAD_POINTS * weights * WEIGHT_CYCLES) +
           (double)(vectors * (plan->used_count + g->filters)) * TRANSFORM_CYCLES;
}
