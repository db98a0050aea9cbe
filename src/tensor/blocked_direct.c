/* Direct convolution in channel blocks: any kernel, stride, dilation and pad; groups whose channels and
 * filters fill blocks. The same with a plain image of few channels as input (blocked_stem.c): a block is one
 * channel then. `unit` is the number of channels of a block, 16 or 1.
 *
 * An output row is a row of tiles. For a tile, a run is a kernel row of one block of channels: kernel_w
 * neighbouring pixels, `unit` floats each, all in one stretch of memory (with dilation: kernel_w runs of one
 * pixel). Kernel rows that fall outside the image are left out, which the order of the packed weights allows.
 *
 * Columns outside the image must be zeros: a task copies the rows it needs into a band with padded rows, as
 * many at a time as stay in the second-level cache, and does on the way what is to be done to x. Without
 * padding or anything to do to x, the image serves as its own band.
 *
 * Strides the kernels have no table for are sorted by phase while copying: the columns whose remainder modulo
 * the stride is the same become neighbours, so that neighbouring outputs use neighbouring pixels again. */
#include <string.h>

#include "tensor/blocked_conv_internal.h"

/* Rows of a band longer than this are left to conv.h: enormous pads or dilations. */
enum { MOST_COLUMNS = 1 << 16 };

/* Where the pixels of a row lie in the band. */
typedef struct band_columns {
    int64_t phases;  /* 1, or the stride */
    int64_t step;    /* input columns from one band column of a phase to the next */
    int64_t columns; /* of each phase */
    int64_t pitch;   /* floats from the first pixel of an output to that of the next */
} band_columns;

typedef struct direct_job {
    const esp_conv_geometry *g;
    const blocked_kernels *kernels;
    blocked_panels panels;
    blocked_load load;
    blocked_cut cut;
    band_columns row;
    int64_t unit;
    int64_t blocks;    /* of channels, in a group */
    int64_t tiles;     /* of an output row */
    int64_t band_rows; /* room in the band */
    int64_t band_row;  /* floats from row to row, block to block, whether copied or in place */
    int64_t band_block;
    int64_t row_runs; /* runs of one kernel row */
    bool copies;

    /* The run. */
    const float *x, *packed;
    float *y;
    int64_t x_image, y_image;
    const esp_view *residual;
    int64_t residual_image;
    bool clips_input;
    float in_low, in_high;
    blocked_vectors vectors;
    blocked_store store;
    blocked_run *runs;
    float *bands; /* per slot */
} direct_job;

static int64_t unit_of(const esp_blocked_conv *plan)
{
    return plan->takes_plain ? 1 : ESP_BLOCK;
}

static band_columns columns_of(const esp_blocked_conv *plan)
{
    const esp_conv_geometry *g = &plan->geometry;
    int64_t unit = unit_of(plan), reach = (g->kernel_w - 1) * g->dilation_w;
    band_columns row = {.phases = 1, .step = 1, .pitch = g->stride_w * unit};
    row.columns = (g->out_width - 1) * g->stride_w + reach + 1;
    if (esp_blocked_kernels(&plan->engine)->tiles(row.pitch, 1) == NULL) {
        row.phases = row.step = g->stride_w;
        row.columns = g->out_width + reach / g->stride_w;
        row.pitch = unit;
    }
    return row;
}

/* Offset of tap kx in a row of the band, in floats. */
static int64_t tap_offset(const direct_job *job, int64_t kx)
{
    int64_t column = kx * job->g->dilation_w;
    return (column % job->row.phases * job->row.columns + column / job->row.phases) * job->unit;
}

static bool is_contiguous(const direct_job *job)
{
    return job->g->dilation_w == 1 && job->row.phases == 1 && conv_group_channels(job->g) % job->unit == 0;
}

/* Input rows that `rows` neighbouring output rows reach over. */
static int64_t reach_of(const esp_conv_geometry *g, int64_t rows)
{
    int64_t reach = (rows - 1) * g->stride_h + (g->kernel_h - 1) * g->dilation_h + 1;
    return conv_min(reach, g->height);
}

/* A band holds only rows inside the image, at most all of them. */
static void plan_job(const esp_blocked_conv *plan, bool has_entry, direct_job *job)
{
    const esp_conv_geometry *g = &plan->geometry;
    memset(job, 0, sizeof *job);
    job->g = g;
    job->kernels = esp_blocked_kernels(&plan->engine);
    job->panels = esp_blocked_panels(plan);
    job->row = columns_of(plan);
    job->unit = unit_of(plan);
    job->blocks = conv_ceil_divide(conv_group_channels(g), job->unit);
    job->tiles = conv_ceil_divide(g->out_width, job->kernels->tile_pixels);
    job->row_runs = job->blocks * (is_contiguous(job) ? 1 : g->kernel_w);
    job->copies = has_entry || job->row.phases > 1 || g->pad_left != 0 || job->row.columns > g->width;

    double pieces = (double)(g->batch * g->group), rows = (double)g->out_height;
    double row_lines =
        (double)(job->blocks * job->row.columns * job->row.phases * job->unit) / (double)ESP_BLOCK;
    job->load = (blocked_load){
        .pieces = g->batch * g->group,
        .groups_pieces = true,
        .rows = g->out_height,
        .panels = job->panels.group_panels,
        .flops = 2.0 * pieces * rows * (double)(g->out_width * job->panels.depth) *
                 (double)(job->panels.group_blocks * ESP_BLOCK),
        .row_lines = row_lines * (double)reach_of(g, g->out_height) / rows,
        .halo_lines = row_lines * (double)conv_max((g->kernel_h - 1) * g->dilation_h + 1 - g->stride_h, 0),
        .weight_lines = (double)(job->panels.depth * job->panels.width / ESP_BLOCK),
        .copies = job->copies};
    job->cut = esp_blocked_cut(&job->load);
    job->band_rows = reach_of(g, conv_min(g->out_height, job->cut.chunk_rows));
    job->band_row = (job->copies ? job->row.phases * job->row.columns : g->width) * job->unit;
    job->band_block = job->band_row * (job->copies ? job->band_rows : g->height);
}

/* As kernels.pixels, for one channel of a plain image. */
static void copy_floats(int64_t count, const float *x, int64_t step, const blocked_entry *entry, float *y)
{
    if (entry->scale == NULL) {
        for (int64_t i = 0; i < count; i++)
            y[i] = x[i * step];
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        float value = x[i * step] * *entry->scale + *entry->shift;
        if (entry->clips) {
            value = value < entry->low ? entry->low : value;
            value = value > entry->high ? entry->high : value;
        }
        y[i] = value;
    }
}

/* One row of one block: zeros, pixels, zeros for each phase. */
static void copy_row(const direct_job *job, const float *source, const blocked_entry *entry, float *band)
{
    const esp_conv_geometry *g = job->g;
    int64_t columns = job->row.columns, step = job->row.step, unit = job->unit;
    for (int64_t phase = 0; phase < job->row.phases; phase++, band += columns * unit) {
        int64_t start = phase - g->pad_left; /* input column of band column 0 */
        int64_t low = start >= 0 ? 0 : conv_min(conv_ceil_divide(-start, step), columns);
        int64_t high = start >= g->width ? 0 : conv_min((g->width - 1 - start) / step + 1, columns);
        high = conv_max(low, high);
        memset(band, 0, (size_t)(low * unit) * sizeof *band);
        memset(band + high * unit, 0, (size_t)((columns - high) * unit) * sizeof *band);
        if (high == low)
            continue;
        const float *first = source + (start + low * step) * unit;
        if (unit == ESP_BLOCK)
            job->kernels->pixels(high - low, first, step * ESP_BLOCK, entry, band + low * ESP_BLOCK);
        else
            copy_floats(high - low, first, step, entry, band + low);
    }
}

static void copy_band(const direct_job *job, const float *x, int64_t first_block, int64_t first_row,
                      int64_t last_row, float *band)
{
    const esp_conv_geometry *g = job->g;
    blocked_entry entry = {.clips = job->clips_input, .low = job->in_low, .high = job->in_high};
    for (int64_t b = 0; b < job->blocks; b++) {
        int64_t block = first_block + b;
        if (job->vectors.in_scale != NULL) {
            entry.scale = job->vectors.in_scale + block * job->unit;
            entry.shift = job->vectors.in_shift + block * job->unit;
        }
        for (int64_t row = first_row; row < last_row; row++)
            copy_row(job, x + (block * g->height + row) * g->width * job->unit, &entry,
                     band + b * job->band_block + (row - first_row) * job->band_row);
    }
}

/* What is multiplied: some output rows of image n, a group, and a band whose first row is input row
 * `band_first`. */
typedef struct direct_place {
    int64_t n, group, first_row, last_row, band_first;
    const float *band;
} direct_place;

/* One panel times one output row. */
static void multiply_row(const direct_job *job, const direct_place *place, int64_t p, int64_t row,
                         blocked_fetch *fetch)
{
    const esp_conv_geometry *g = job->g;
    int blocks = blocked_panel_blocks(&job->panels, p);
    int64_t first_tap, last_tap;
    blocked_taps(g->height, g->kernel_h, g->dilation_h, g->pad_top, row * g->stride_h, &first_tap, &last_tap);
    int64_t tap_rows = conv_group_channels(g) * g->kernel_w; /* of a panel, per kernel row */
    const float *w = job->packed + blocked_panel_start(&job->panels, place->group, p) +
                     first_tap * tap_rows * blocks * ESP_BLOCK;
    int64_t block = place->group * job->panels.group_blocks + p * (job->panels.width / ESP_BLOCK);
    int64_t y_block = conv_pixels(g) * ESP_BLOCK, at = block * y_block + row * g->out_width * ESP_BLOCK;
    int64_t run_count = (last_tap - first_tap) * job->row_runs;
    const float *x = place->band;
    if (run_count > 0)
        x += (row * g->stride_h + first_tap * g->dilation_h - g->pad_top - place->band_first) * job->band_row;

    blocked_tile_fn *const *tiles = job->kernels->tiles(job->row.pitch, blocks);
    blocked_store store = blocked_store_of(&job->store, block);
    const float *residual = NULL;
    if (job->residual != NULL)
        residual = esp_view_f32(job->residual) + place->n * job->residual_image + at;
    float *y = job->y + place->n * job->y_image + at;
    for (int64_t t = 0, from = 0; t < job->tiles; t++) {
        int64_t to = blocked_part(g->out_width, job->tiles, t + 1);
        if (residual != NULL)
            store.residual = residual + from * ESP_BLOCK;
        blocked_fetch_step(fetch, run_count, &store);
        tiles[to - from](x + from * job->row.pitch, job->runs, run_count, w, y + from * ESP_BLOCK, y_block,
                         ESP_BLOCK, &store);
        from = to;
    }
}

/* All panels of a task times the rows of a chunk. */
static void multiply_chunk(const direct_job *job, const blocked_share *share, direct_place *place,
                           bool is_first_pass, bool is_last_pass, float *band)
{
    const esp_conv_geometry *g = job->g;
    int64_t first_block = place->group * job->blocks;
    const float *x = job->x + place->n * job->x_image;
    place->band = x + first_block * job->band_block;
    if (job->copies) {
        int64_t top = place->first_row * g->stride_h - g->pad_top;
        int64_t bottom =
            (place->last_row - 1) * g->stride_h - g->pad_top + (g->kernel_h - 1) * g->dilation_h + 1;
        place->band_first = conv_min(conv_max(top, 0), g->height);
        copy_band(job, x, first_block, place->band_first, conv_min(bottom, g->height), band);
        place->band = band;
    }
    int64_t tiles = (place->last_row - place->first_row) * job->tiles;
    const float *weights = job->packed + blocked_panel_start(&job->panels, place->group, 0);
    for (int64_t p = share->first_panel; p < share->last_panel; p++) {
        blocked_fetch fetch = {0};
        if (blocked_fetches(share, p, is_first_pass, is_last_pass))
            fetch = esp_blocked_fetch(&job->panels, weights, p, tiles, g->kernel_h * job->row_runs);
        for (int64_t row = place->first_row; row < place->last_row; row++)
            multiply_row(job, place, p, row, &fetch);
    }
}

static void direct_task(void *context, int64_t task, int slot)
{
    const direct_job *job = context;
    const esp_conv_geometry *g = job->g;
    blocked_share share = esp_blocked_share(&job->load, &job->cut, task);
    float *band = job->bands + slot * job->blocks * job->band_block;
    int64_t rows = share.last_row - share.first_row;
    int64_t chunks = conv_ceil_divide(rows, job->cut.chunk_rows);
    int64_t passes = chunks * (share.last_piece - share.first_piece);
    for (int64_t pass = 0; pass < passes; pass++) {
        int64_t piece = share.first_piece + pass / chunks, chunk = pass % chunks;
        direct_place place = {.n = piece / g->group,
                              .group = piece % g->group,
                              .first_row = share.first_row + blocked_part(rows, chunks, chunk),
                              .last_row = share.first_row + blocked_part(rows, chunks, chunk + 1)};
        multiply_chunk(job, &share, &place, pass == 0, pass == passes - 1, band);
    }
}

/* Offsets in a band must fit in a run. */
bool esp_blocked_direct_fits_bands(const esp_blocked_conv *plan)
{
    const esp_conv_geometry *g = &plan->geometry;
    band_columns row = columns_of(plan);
    int64_t columns = row.columns * row.phases;
    return columns <= MOST_COLUMNS &&
           blocked_count(g->channels) * ESP_BLOCK <= INT32_MAX / g->height / conv_max(columns, g->width);
}

static bool fits(const esp_blocked_conv *plan)
{
    return plan->pass == ESP_CONV_FORWARD && !plan->takes_plain && blocked_fits_groups(&plan->geometry) &&
           esp_blocked_direct_fits_bands(plan);
}

static int64_t run_count(const direct_job *job)
{
    return job->g->kernel_h * job->row_runs;
}

/* Runs of kernel row 0, 1, ...: whichever kernel row a tile begins with, the next ones lie as these do. */
static void fill_runs(const direct_job *job)
{
    const esp_conv_geometry *g = job->g;
    blocked_run *run = job->runs;
    for (int64_t ky = 0; ky < g->kernel_h; ky++)
        for (int64_t b = 0; b < job->blocks; b++) {
            int64_t start = b * job->band_block + ky * g->dilation_h * job->band_row;
            int64_t lanes = conv_min(job->unit, conv_group_channels(g) - b * job->unit);
            int64_t taps = is_contiguous(job) ? 1 : g->kernel_w;
            for (int64_t kx = 0; kx < taps; kx++, run++) {
                run->offset = (int32_t)(start + tap_offset(job, kx));
                run->length = (int32_t)(lanes * g->kernel_w / taps);
            }
        }
}

/* Scratch memory: vectors, runs, then a band per slot. */
static size_t runs_bytes(const direct_job *job)
{
    return conv_aligned((size_t)run_count(job) * sizeof(blocked_run));
}

size_t esp_blocked_direct_scratch(const esp_blocked_conv *plan, int slots)
{
    direct_job job;
    plan_job(plan, true, &job);
    return (size_t)esp_blocked_vectors_size(&plan->geometry) * sizeof(float) + runs_bytes(&job) +
           (size_t)slots * (size_t)(job.blocks * job.band_block) * sizeof(float);
}

esp_status esp_blocked_direct_run(const esp_compute *compute, const esp_blocked_conv *plan, const esp_view *x,
                                  const void *packed, const esp_conv_extras *extras, const esp_view *y,
                                  void *scratch)
{
    const esp_conv_geometry *g = &plan->geometry;
    direct_job job;
    plan_job(plan, extras->in_scale != NULL, &job);
    job.x = esp_view_f32(x);
    job.x_image = esp_view_image_stride(x);
    job.packed = packed;
    job.y = esp_view_f32(y);
    job.y_image = esp_view_image_stride(y);
    job.clips_input = extras->in_clips;
    job.in_low = extras->in_low, job.in_high = extras->in_high;

    float *vectors = scratch;
    job.vectors = esp_blocked_vectors(g, extras, vectors);
    job.runs = (blocked_run *)(void *)(vectors + esp_blocked_vectors_size(g));
    job.bands = (float *)(void *)((char *)job.runs + runs_bytes(&job));
    job.store = esp_blocked_store(extras, &job.vectors);
    if (extras->residual != NULL) {
        job.residual = extras->residual;
        job.residual_image = esp_view_image_stride(extras->residual);
        job.store.residual_block = conv_pixels(g) * ESP_BLOCK;
        job.store.residual_pixel = ESP_BLOCK;
    }
    fill_runs(&job);
    return esp_compute_run(compute, job.cut.tasks, direct_task, &job);
}

const blocked_method esp_blocked_direct = {
    .name = "direct",
    .pack_key = BLOCKED_PANELS_KEY,
    .fits = fits,
    .packed_bytes = esp_blocked_panels_bytes,
    .pack = esp_blocked_pack_blocked,
    .scratch = esp_blocked_direct_scratch,
    .run = esp_blocked_direct_run,
};
