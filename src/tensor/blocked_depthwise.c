/* Depthwise convolution in channel blocks: each channel has a filter of its own, so a vector of 16 channels
 * is multiplied by a vector of 16 weights, tap by tap.
 *
 * All passes read a strip: some rows of one block of channels, copied with zeros around it into the first
 * levels of cache. On the way in it gets what stands in front of the convolution, and columns are sorted by
 * their phase of the stride, so that neighbouring outputs always read neighbouring pixels. Then a tile of up
 * to 14 outputs stays in registers over all taps, whatever the geometry. The gradient for the input is the
 * same with dy as the source: each phase of the stride has the taps that meet it (blocked_grad.h). The
 * gradient for the weight keeps up to nine taps in registers and passes over the strip's pixels.
 *
 * A unit of work is one strip of one block of one image; a task is a run of neighbouring units. */
#include <string.h>

#include "tensor/blocked_grad.h"

/* Floats from the start of a tile's first pixel in the strip, and to a tap's weights. */
typedef struct depthwise_tap {
    int32_t offset, weight;
} depthwise_tap;

/* y[p*y_pixel + c] = store(sum over taps of x[tap.offset + p*ESP_BLOCK + c] * w[tap.weight + c]), for a fixed
 * number of pixels. */
typedef void depthwise_tile_fn(const float *x, const depthwise_tap *taps, int64_t count, const float *w,
                               float *y, int64_t y_pixel, const blocked_store *store);

/* Rows of pixels; dy lies without gaps. */
typedef struct depthwise_sweep {
    int64_t rows, columns;
    int64_t x_gap; /* floats from the end of a row to the next */
} depthwise_sweep;

/* sums[tap.weight + c] += sum over pixels of x[tap.offset + pixel + c] * dy[pixel + c], for a fixed number of
 * taps. */
typedef void depthwise_outer_fn(const depthwise_sweep *sweep, const float *x, const depthwise_tap *taps,
                                const float *dy, float *sums);

enum { DEPTHWISE_PIXELS = 14, DEPTHWISE_TAPS = 9 };
#define DEPTHWISE_TAP_LIST(X)   X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)
#define DEPTHWISE_PIXEL_LIST(X) DEPTHWISE_TAP_LIST(X) X(10) X(11) X(12) X(13) X(14)

typedef struct depthwise_kernels {
    depthwise_tile_fn *tiles[DEPTHWISE_PIXELS + 1]; /* by pixels */
    depthwise_outer_fn *outer[DEPTHWISE_TAPS + 1];  /* by taps */
} depthwise_kernels;

#define BLOCKED_TEMPLATE "tensor/blocked_depthwise_template.h"
#include "tensor/blocked_isas.h"

static const depthwise_kernels *kernels_for(const esp_engine *engine)
{
#if defined(__x86_64__)
    if (engine->isa == ESP_ISA_AVX512)
        return &depthwise_kernels_avx512;
    if (engine->isa == ESP_ISA_AVX2)
        return &depthwise_kernels_avx2;
#endif
    (void)engine;
    return &depthwise_kernels_plain;
}

/* ---- the plan ---- */

enum { STRIP_BYTES = 96 << 10, TASK_STEPS = 100000, MOST_CHUNKS = 16 };

/* A strip of `rows` rows of work covers source rows first_row + row*row_step and the next `reach`, and source
 * columns from first_column on. Its layout is [row][phase][column of the phase][ESP_BLOCK]. */
typedef struct depthwise_plan {
    const esp_conv_geometry *g;
    const depthwise_kernels *kernels;
    const blocked_kernels *copies;
    int64_t height, width; /* of the source */
    int64_t first_row, row_step, reach, first_column;
    int64_t columns, phases, phase_columns;
    int64_t row_floats, strip_floats;
    int64_t rows, strip_rows, strips; /* rows of work */
    int64_t step_h, step_w;           /* outputs of one phase of the work are so far apart */
    int64_t out_height, out_width;    /* of what is written */
    int64_t blocks;
    int64_t units, task_units; /* units per task */
    int64_t chunks;            /* weight: of images */
} depthwise_plan;

/* x is the source: forward, gradient for the weight. */
static void plan_source_x(depthwise_plan *plan)
{
    const esp_conv_geometry *g = plan->g;
    plan->height = g->height, plan->width = g->width;
    plan->first_row = -g->pad_top, plan->first_column = -g->pad_left;
    plan->row_step = g->stride_h;
    plan->reach = (g->kernel_h - 1) * g->dilation_h + 1;
    plan->columns = (g->out_width - 1) * g->stride_w + (g->kernel_w - 1) * g->dilation_w + 1;
    plan->phases = conv_min(g->stride_w, plan->columns);
    plan->rows = plan->out_height = g->out_height;
    plan->out_width = g->out_width;
    plan->step_h = plan->step_w = 1;
}

/* dy is the source: gradient for the input. */
static void plan_source_dy(depthwise_plan *plan)
{
    const esp_conv_geometry *g = plan->g;
    grad_axis y = grad_axis_y(g), x = grad_axis_x(g);
    int64_t last_row, last_column;
    grad_reach_of(&y, &plan->first_row, &last_row);
    grad_reach_of(&x, &plan->first_column, &last_column);
    plan->height = g->out_height, plan->width = g->out_width;
    plan->row_step = 1;
    plan->reach = last_row - plan->first_row + 1;
    plan->columns = conv_ceil_divide(g->width, g->stride_w) + last_column - plan->first_column;
    plan->phases = 1;
    plan->rows = conv_ceil_divide(g->height, g->stride_h);
    plan->out_height = g->height, plan->out_width = g->width;
    plan->step_h = g->stride_h, plan->step_w = g->stride_w;
}

static depthwise_plan depthwise_plan_make(const esp_blocked_conv *conv)
{
    const esp_conv_geometry *g = &conv->geometry;
    depthwise_plan plan = {.g = g,
                           .kernels = kernels_for(&conv->engine),
                           .copies = esp_blocked_kernels(&conv->engine),
                           .blocks = blocked_count(g->channels)};
    if (conv->pass == ESP_CONV_GRAD_INPUT)
        plan_source_dy(&plan);
    else
        plan_source_x(&plan);
    plan.phase_columns = conv_ceil_divide(plan.columns, plan.phases);
    plan.row_floats = plan.phases * plan.phase_columns * ESP_BLOCK;
    int64_t source_rows = STRIP_BYTES / (plan.row_floats * (int64_t)sizeof(float));
    plan.strip_rows = conv_max((source_rows - plan.reach) / plan.row_step + 1, 1);
    plan.strips = conv_ceil_divide(plan.rows, plan.strip_rows);
    plan.strip_rows = conv_ceil_divide(plan.rows, plan.strips);
    plan.strips = conv_ceil_divide(plan.rows, plan.strip_rows);
    plan.strip_floats = ((plan.strip_rows - 1) * plan.row_step + plan.reach) * plan.row_floats;

    int64_t unit_steps = plan.strip_rows * g->out_width * conv_taps(g) + plan.strip_floats / ESP_BLOCK;
    plan.units = g->batch * plan.blocks * plan.strips;
    if (conv->pass == ESP_CONV_GRAD_WEIGHT) {
        int64_t wanted = conv_ceil_divide(plan.units * unit_steps / TASK_STEPS, plan.blocks);
        plan.chunks = conv_max(conv_min(conv_min(wanted, g->batch), MOST_CHUNKS), 1);
        plan.units = plan.blocks * plan.chunks;
        unit_steps *= conv_ceil_divide(g->batch, plan.chunks) * plan.strips;
    }
    plan.task_units = conv_max(TASK_STEPS / unit_steps, 1);
    return plan;
}

static int64_t task_count(const depthwise_plan *plan)
{
    return conv_ceil_divide(plan->units, plan->task_units);
}

static bool fits_pass(const esp_blocked_conv *conv, esp_conv_pass pass)
{
    const esp_conv_geometry *g = &conv->geometry;
    if (conv->pass != pass || conv->takes_plain || g->batch <= 0 || conv_pixels(g) <= 0 || g->channels <= 0 ||
        g->group != g->channels || g->filters != g->channels)
        return false;
    depthwise_plan plan = depthwise_plan_make(conv);
    return plan.row_floats <= INT32_MAX / ((plan.strip_rows - 1) * plan.row_step + plan.reach);
}

static bool fits_forward(const esp_blocked_conv *conv)
{
    return fits_pass(conv, ESP_CONV_FORWARD);
}

static bool fits_input(const esp_blocked_conv *conv)
{
    return fits_pass(conv, ESP_CONV_GRAD_INPUT);
}

static bool fits_weight(const esp_blocked_conv *conv)
{
    return fits_pass(conv, ESP_CONV_GRAD_WEIGHT);
}

/* ---- packing: [block][tap][ESP_BLOCK], the same for both passes that take weights ---- */

static size_t packed_bytes(const esp_blocked_conv *conv)
{
    const esp_conv_geometry *g = &conv->geometry;
    return (size_t)(blocked_count(g->channels) * conv_taps(g) * ESP_BLOCK) * sizeof(float);
}

static esp_status pack(const esp_compute *compute, const esp_blocked_conv *conv, const float *w, void *packed)
{
    (void)compute; /* a few thousand weights */
    const esp_conv_geometry *g = &conv->geometry;
    int64_t taps = conv_taps(g);
    float *target = packed;
    for (int64_t c = 0; c < g->channels; c += ESP_BLOCK, target += taps * ESP_BLOCK)
        esp_blocked_kernels(&conv->engine)
            ->transpose(conv_min(ESP_BLOCK, g->channels - c), ESP_BLOCK, taps, w + c * taps, taps, target,
                        ESP_BLOCK);
    return ESP_OK;
}

/* ---- strips ---- */

typedef struct depthwise_job {
    depthwise_plan plan;
    const esp_view *source, *target, *residual;
    int64_t source_image, target_image, residual_image;
    const float *w; /* packed */
    const struct depthwise_phase *phases;
    int64_t phase_count;
    const depthwise_tap *taps;
    blocked_entry entry; /* of block 0 */
    blocked_store store; /* of block 0 */
    float *sums;         /* weight: [block][chunk][tap][ESP_BLOCK] */
    float *strips;       /* one per slot */
} depthwise_job;

/* Fills the strip of rows [start, end) of work. What lies beside the image is zero already, and so are rows
 * above and below it unless another strip was there. */
static void copy_strip(const depthwise_job *job, int64_t image, int64_t block, int64_t start, int64_t end,
                       float *strip)
{
    const depthwise_plan *plan = &job->plan;
    const float *source = esp_view_f32(job->source) + image * job->source_image +
                          block * plan->height * plan->width * ESP_BLOCK;
    blocked_entry entry = job->entry;
    if (entry.scale != NULL) {
        entry.scale += block * ESP_BLOCK;
        entry.shift += block * ESP_BLOCK;
    }
    int64_t first = start * plan->row_step + plan->first_row;
    int64_t last = (end - 1) * plan->row_step + plan->first_row + plan->reach;
    for (int64_t row = first; row < last; row++, strip += plan->row_floats) {
        if (row < 0 || row >= plan->height) {
            if (plan->strips > 1)
                memset(strip, 0, (size_t)plan->row_floats * sizeof *strip);
            continue;
        }
        for (int64_t phase = 0; phase < plan->phases; phase++) {
            /* Columns first_column + phase + i*phases of the image. */
            int64_t column = plan->first_column + phase;
            int64_t from = column < 0 ? conv_ceil_divide(-column, plan->phases) : 0;
            int64_t to = conv_min(plan->phase_columns, conv_ceil_divide(plan->width - column, plan->phases));
            if (from < to)
                plan->copies->pixels(to - from,
                                     source + (row * plan->width + column + from * plan->phases) * ESP_BLOCK,
                                     plan->phases * ESP_BLOCK, &entry,
                                     strip + (phase * plan->phase_columns + from) * ESP_BLOCK);
        }
    }
}

static int32_t strip_offset(const depthwise_plan *plan, int64_t row, int64_t column)
{
    int64_t place = column % plan->phases * plan->phase_columns + column / plan->phases;
    return (int32_t)(row * plan->row_floats + place * ESP_BLOCK);
}

/* The taps of a pass whose source is x. */
static void list_taps(const depthwise_plan *plan, depthwise_tap *taps)
{
    const esp_conv_geometry *g = plan->g;
    for (int64_t ky = 0; ky < g->kernel_h; ky++)
        for (int64_t kx = 0; kx < g->kernel_w; kx++) {
            int64_t tap = ky * g->kernel_w + kx;
            taps[tap] = (depthwise_tap){.offset = strip_offset(plan, ky * g->dilation_h, kx * g->dilation_w),
                                        .weight = (int32_t)(tap * ESP_BLOCK)};
        }
}

static float *clear_strip(const depthwise_job *job, int slot)
{
    float *strip = job->strips + slot * job->plan.strip_floats;
    memset(strip, 0, (size_t)job->plan.strip_floats * sizeof *strip);
    return strip;
}

/* ---- forward and the gradient for the input ---- */

/* Outputs (row + i*step_h, column + j*step_w), and the taps they are sums of. */
typedef struct depthwise_phase {
    int64_t row, column, rows, columns;
    int64_t first_tap, count;
} depthwise_phase;

static int64_t phase_count(const esp_blocked_conv *conv)
{
    const esp_conv_geometry *g = &conv->geometry;
    return conv->pass == ESP_CONV_GRAD_INPUT ? g->stride_h * g->stride_w : 1;
}

static void list_phases(const depthwise_plan *plan, depthwise_phase *phase, depthwise_tap *taps)
{
    grad_axis y = grad_axis_y(plan->g), x = grad_axis_x(plan->g);
    int64_t tap = 0;
    for (int64_t row = 0; row < y.stride; row++)
        for (int64_t column = 0; column < x.stride; column++, phase++) {
            grad_phase rows = grad_phase_of(&y, row), columns = grad_phase_of(&x, column);
            *phase = (depthwise_phase){row, column, rows.size, columns.size, tap, rows.count * columns.count};
            for (int64_t t = 0; t < rows.count; t++)
                for (int64_t u = 0; u < columns.count; u++) {
                    int64_t ky = rows.first + t * rows.step, kx = columns.first + u * columns.step;
                    taps[tap++] = (depthwise_tap){
                        .offset = strip_offset(plan, rows.offset - t * rows.retreat - plan->first_row,
                                               columns.offset - u * columns.retreat - plan->first_column),
                        .weight = (int32_t)((ky * x.kernel + kx) * ESP_BLOCK)};
                }
        }
}

/* The outputs of one phase in rows [start, end) of work of a block. */
static void run_phase(const depthwise_job *job, const depthwise_phase *phase, int64_t image, int64_t block,
                      int64_t start, int64_t end, const float *strip)
{
    const depthwise_plan *plan = &job->plan;
    int64_t plane = block * plan->out_height * plan->out_width * ESP_BLOCK;
    int64_t tiles = conv_ceil_divide(phase->columns, DEPTHWISE_PIXELS), pixel = plan->step_w * ESP_BLOCK;
    float *target = esp_view_f32(job->target) + image * job->target_image + plane;
    const float *residual = NULL, *w = job->w + block * conv_taps(plan->g) * ESP_BLOCK;
    blocked_store store = blocked_store_of(&job->store, block);
    store.residual_pixel = pixel;
    if (job->residual != NULL)
        residual = esp_view_f32(job->residual) + image * job->residual_image + plane;
    for (int64_t i = start; i < conv_min(end, phase->rows); i++) {
        const float *x = strip + (i - start) * plan->row_step * plan->row_floats;
        int64_t row = ((i * plan->step_h + phase->row) * plan->out_width + phase->column) * ESP_BLOCK;
        for (int64_t t = 0; t < tiles; t++) {
            int64_t from = blocked_part(phase->columns, tiles, t);
            int64_t count = blocked_part(phase->columns, tiles, t + 1) - from, at = row + from * pixel;
            if (residual != NULL)
                store.residual = residual + at;
            plan->kernels->tiles[count](x + from * ESP_BLOCK, job->taps + phase->first_tap, phase->count, w,
                                        target + at, pixel, &store);
        }
    }
}

static void run_task(void *context, int64_t task, int slot)
{
    const depthwise_job *job = context;
    const depthwise_plan *plan = &job->plan;
    float *strip = clear_strip(job, slot);
    int64_t last = conv_min((task + 1) * plan->task_units, plan->units);
    for (int64_t unit = task * plan->task_units; unit < last; unit++) {
        int64_t start = unit % plan->strips * plan->strip_rows, plane = unit / plan->strips;
        int64_t end = conv_min(start + plan->strip_rows, plan->rows);
        int64_t image = plane / plan->blocks, block = plane % plan->blocks;
        copy_strip(job, image, block, start, end, strip);
        for (int64_t p = 0; p < job->phase_count; p++)
            run_phase(job, &job->phases[p], image, block, start, end, strip);
    }
}

/* Scratch memory: vectors of the extras, phases, taps, strips. */
static size_t vectors_bytes(const esp_blocked_conv *conv)
{
    return conv_aligned((size_t)esp_blocked_vectors_size(&conv->geometry) * sizeof(float));
}

static size_t phases_bytes(const esp_blocked_conv *conv)
{
    return conv_aligned((size_t)phase_count(conv) * sizeof(depthwise_phase));
}

static size_t taps_bytes(const esp_blocked_conv *conv)
{
    return conv_aligned((size_t)conv_taps(&conv->geometry) * sizeof(depthwise_tap));
}

static size_t run_scratch(const esp_blocked_conv *conv, int slots)
{
    depthwise_plan plan = depthwise_plan_make(conv);
    return vectors_bytes(conv) + phases_bytes(conv) + taps_bytes(conv) +
           (size_t)slots * (size_t)plan.strip_floats * sizeof(float);
}

static esp_status run(const esp_compute *compute, const esp_blocked_conv *conv, const esp_view *x,
                      const void *packed, const esp_conv_extras *extras, const esp_view *y, void *scratch)
{
    static const esp_conv_extras nothing;
    const esp_conv_extras *wanted = extras != NULL ? extras : &nothing;
    depthwise_job job = {.plan = depthwise_plan_make(conv),
                         .source = x,
                         .target = y,
                         .residual = wanted->residual,
                         .w = packed,
                         .phase_count = phase_count(conv)};
    job.source_image = esp_view_image_stride(x);
    job.target_image = esp_view_image_stride(y);
    if (job.residual != NULL)
        job.residual_image = esp_view_image_stride(job.residual);

    char *memory = scratch;
    depthwise_phase *phases = (depthwise_phase *)(void *)(memory + vectors_bytes(conv));
    depthwise_tap *taps = (depthwise_tap *)(void *)((char *)phases + phases_bytes(conv));
    job.phases = phases;
    job.taps = taps;
    job.strips = (float *)(void *)((char *)taps + taps_bytes(conv));
    if (conv->pass == ESP_CONV_GRAD_INPUT) {
        list_phases(&job.plan, phases, taps);
    } else {
        blocked_vectors vectors = esp_blocked_vectors(&conv->geometry, wanted, scratch);
        job.store = esp_blocked_store(wanted, &vectors);
        job.entry = (blocked_entry){.scale = vectors.in_scale,
                                    .shift = vectors.in_shift,
                                    .clips = wanted->in_clips,
                                    .low = wanted->in_low,
                                    .high = wanted->in_high};
        *phases = (depthwise_phase){0, 0, job.plan.rows, job.plan.out_width, 0, conv_taps(&conv->geometry)};
        list_taps(&job.plan, taps);
    }
    return esp_compute_run(compute, task_count(&job.plan), run_task, &job);
}

/* ---- the gradient for the weight ---- */

static void add_strip(const depthwise_job *job, int64_t image, int64_t block, int64_t start, int64_t end,
                      const float *strip, float *sums)
{
    const depthwise_plan *plan = &job->plan;
    int64_t taps = conv_taps(plan->g), pieces = conv_ceil_divide(taps, DEPTHWISE_TAPS);
    const float *dy = esp_view_f32(job->target) + image * job->target_image +
                      (block * plan->out_height + start) * plan->out_width * ESP_BLOCK;
    depthwise_sweep sweep = {.rows = end - start,
                             .columns = plan->out_width,
                             .x_gap = plan->row_step * plan->row_floats - plan->out_width * ESP_BLOCK};
    for (int64_t piece = 0; piece < pieces; piece++) {
        int64_t first = blocked_part(taps, pieces, piece),
                count = blocked_part(taps, pieces, piece + 1) - first;
        plan->kernels->outer[count](&sweep, strip, job->taps + first, dy, sums);
    }
}

static void weight_task(void *context, int64_t task, int slot)
{
    const depthwise_job *job = context;
    const depthwise_plan *plan = &job->plan;
    float *strip = clear_strip(job, slot);
    int64_t last = conv_min((task + 1) * plan->task_units, plan->units),
            size = conv_taps(plan->g) * ESP_BLOCK;
    for (int64_t unit = task * plan->task_units; unit < last; unit++) {
        int64_t block = unit / plan->chunks, chunk = unit % plan->chunks;
        float *sums = job->sums + unit * size;
        memset(sums, 0, (size_t)size * sizeof *sums);
        int64_t image_end = conv_chunk_start(plan->g, plan->chunks, chunk + 1);
        for (int64_t n = conv_chunk_start(plan->g, plan->chunks, chunk); n < image_end; n++)
            for (int64_t start = 0; start < plan->rows; start += plan->strip_rows) {
                int64_t end = conv_min(start + plan->strip_rows, plan->rows);
                copy_strip(job, n, block, start, end, strip);
                add_strip(job, n, block, start, end, strip, sums);
            }
    }
}

/* Scratch memory: what the bias gradient needs, taps, sums, strips. */
static size_t sums_bytes(const depthwise_plan *plan)
{
    return (size_t)(plan->blocks * plan->chunks * conv_taps(plan->g) * ESP_BLOCK) * sizeof(float);
}

static size_t weight_scratch(const esp_blocked_conv *conv, int slots)
{
    depthwise_plan plan = depthwise_plan_make(conv);
    return esp_grad_bias_bytes(&conv->geometry) + taps_bytes(conv) + sums_bytes(&plan) +
           (size_t)slots * (size_t)plan.strip_floats * sizeof(float);
}

static esp_status grad_weight(const esp_compute *compute, const esp_blocked_conv *conv, const esp_view *x,
                              const esp_view *dy, float *dw, float *db, void *scratch)
{
    const esp_conv_geometry *g = &conv->geometry;
    depthwise_job job = {.plan = depthwise_plan_make(conv), .source = x, .target = dy};
    const depthwise_plan *plan = &job.plan;
    job.source_image = esp_view_image_stride(x);
    job.target_image = esp_view_image_stride(dy);
    depthwise_tap *taps = (depthwise_tap *)(void *)((char *)scratch + esp_grad_bias_bytes(g));
    job.taps = taps;
    job.sums = (float *)(void *)((char *)taps + taps_bytes(conv));
    job.strips = (float *)(void *)((char *)job.sums + sums_bytes(plan));
    list_taps(plan, taps);
    esp_status status = ESP_OK;
    if (db != NULL)
        status = esp_grad_bias(compute, g, dy, db, scratch);
    if (status == ESP_OK)
        status = esp_compute_run(compute, task_count(plan), weight_task, &job);
    if (status != ESP_OK)
        return status;
    int64_t count = conv_taps(g);
    for (int64_t c = 0; c < g->channels; c++)
        for (int64_t tap = 0; tap < count; tap++) {
            float sum = 0.0f;
            for (int64_t chunk = 0; chunk < plan->chunks; chunk++)
                sum += job.sums[((c / ESP_BLOCK * plan->chunks + chunk) * count + tap) * ESP_BLOCK +
                                c % ESP_BLOCK];
            dw[c * count + tap] = sum;
        }
    return ESP_OK;
}

enum { DEPTHWISE_PACK = 0x6477 };

const blocked_method esp_blocked_depthwise = {.name = "depthwise",
                                              .pack_key = DEPTHWISE_PACK,
                                              .fits = fits_forward,
                                              .packed_bytes = packed_bytes,
                                              .pack = pack,
                                              .scratch = run_scratch,
                                              .run = run};

const blocked_method esp_blocked_depthwise_input = {.name = "depthwise",
                                                    .pack_key = DEPTHWISE_PACK,
                                                    .fits = fits_input,
                                                    .packed_bytes = packed_bytes,
                                                    .pack = pack,
                                                    .scratch = run_scratch,
                                                    .run = run};

const blocked_method esp_blocked_depthwise_weight = {
    .name = "depthwise", .fits = fits_weight, .scratch = weight_scratch, .grad_weight = grad_weight};
