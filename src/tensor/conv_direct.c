/* Direct convolution, forward and input gradient.
 *
 * A plane is copied once into a padded plane whose rows lie `pitch` apart. Then every weight of a filter
 * looks at the same run of memory, only shifted: y[f][p] = sum over r of w[f][r] * packed[offset[r] + p],
 * with p running over rows and columns at once. No im2col; the columns where p falls between two rows are
 * computed and dropped.
 *
 * Strides: outputs j use inputs j*stride + tap. Sorting the inputs by their remainder (phase) modulo the
 * stride makes one padded plane per phase, in which neighbouring outputs use neighbouring inputs again. The
 * input gradient is the mirror image: one padded plane of dy, and one set of taps per phase of dx. Both are
 * described by the same `axis` record; after it is filled only tap_shift asks which of the two it is.
 *
 * Zero columns right of a row serve as those left of the next; likewise rows between images. Small planes of
 * several images are packed behind each other to fill the vectors, large planes are cut into bands of rows
 * that stay in the level-2 cache. All of that depends on the geometry only. */
#include "tensor/conv_direct.h"

#include <string.h>

#include "tensor/conv_kernels.h"

/* One direction of the plane. Packed index r of source phase a holds source[(first + r)*source_step + a +
 * source_origin]; output j of target phase a goes to target[j*target_step + a + target_origin]. */
typedef struct axis {
    int64_t kernel, stride, dilation;
    int64_t first, last; /* outputs j of all target phases */
    int64_t reach;       /* an output needs packed indices j - first ... + reach */
    int64_t source_size, source_step, source_origin;
    int64_t target_size, target_step, target_origin;
    int64_t source_phases, target_phases;
    bool is_mirrored; /* the input gradient: a tap reaches back, not ahead */
} axis;

static int64_t greatest_common_divisor(int64_t a, int64_t b)
{
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static axis axis_make(bool is_gradient, int64_t size, int64_t out_size, int64_t kernel, int64_t stride,
                      int64_t dilation, int64_t pad)
{
    axis a = {.kernel = kernel,
              .stride = stride,
              .dilation = dilation,
              .source_phases = 1,
              .target_phases = 1,
              .is_mirrored = is_gradient};
    a.reach = (kernel - 1) * dilation / stride;
    if (is_gradient) {
        a.first = pad / stride;
        a.last = (size - 1 + pad) / stride + 1;
        a.source_size = out_size, a.source_step = 1, a.source_origin = -a.reach;
        a.target_size = size, a.target_step = stride, a.target_origin = -pad;
        a.target_phases = stride;
    } else {
        a.last = out_size;
        a.source_size = size, a.source_step = stride, a.source_origin = -pad;
        a.target_size = out_size, a.target_step = 1;
        a.source_phases = conv_min(kernel, stride / greatest_common_divisor(stride, dilation));
    }
    return a;
}

static int64_t tap_remainder(const axis *a, int64_t tap)
{
    return tap * a->dilation % a->stride;
}

/* Remainders repeat with this period, so the first `source_phases` taps have different ones. */
static int64_t source_phase_of(const axis *a, int64_t tap)
{
    return a->source_phases > 1 ? tap % a->source_phases : 0;
}
static int64_t source_remainder(const axis *a, int64_t phase)
{
    return a->source_step == 1 ? 0 : tap_remainder(a, phase);
}

static bool serves_target(const axis *a, int64_t tap, int64_t phase)
{
    return a->target_phases == 1 || tap_remainder(a, tap) == phase;
}

static int64_t tap_shift(const axis *a, int64_t tap)
{
    int64_t steps = tap * a->dilation / a->stride;
    return a->is_mirrored ? a->reach - steps : steps;
}

/* The packed indices [*low, *high) of a source phase, counted from output `from`, that lie inside the source.
 */
static void packed_inside(const axis *a, int64_t phase, int64_t from, int64_t extent, int64_t *low,
                          int64_t *high)
{
    int64_t start = from * a->source_step + source_remainder(a, phase) + a->source_origin;
    *low = start >= 0 ? 0 : conv_min(conv_ceil_divide(-start, a->source_step), extent);
    *high = start >= a->source_size ? 0 : conv_min((a->source_size - 1 - start) / a->source_step + 1, extent);
    if (*high < *low)
        *high = *low;
}

/* The outputs [*low, *high) of [from, to) that exist in a target phase. */
static void targets_inside(const axis *a, int64_t phase, int64_t from, int64_t to, int64_t *low,
                           int64_t *high)
{
    int64_t start = phase + a->target_origin;
    *low = conv_max(start >= 0 ? 0 : conv_ceil_divide(-start, a->target_step), from);
    *high =
        a->target_size - 1 - start < 0 ? 0 : conv_min((a->target_size - 1 - start) / a->target_step + 1, to);
    if (*high < *low)
        *high = *low;
}

/* Zero columns (or rows) that neighbours can share. */
static int64_t shared_zeros(const axis *a)
{
    int64_t extent = a->last - a->first + a->reach, shared = a->reach;
    for (int64_t phase = 0; phase < a->source_phases; phase++) {
        int64_t low, high;
        packed_inside(a, phase, a->first, extent, &low, &high);
        shared = conv_min(shared, conv_min(low, extent - high));
    }
    return shared;
}

/* How a pass is cut up and where things lie in scratch memory. A "source" is an input channel of the group
 * (of dy in the gradient: a filter), a "target" an output. */
typedef struct direct_plan {
    const esp_conv_geometry *g;
    const conv_kernels *kernels;
    axis rows, columns;
    int64_t sources, targets, taps;
    int64_t source_stride, target_stride; /* of weights, in floats */
    int64_t pitch, shared_columns;        /* floats per packed row; of them zeros that serve two rows */
    int64_t images, image_pitch;          /* packed together; floats from one to the next */
    int64_t band, bands;                  /* rows of outputs per task */
    int64_t plane, channel;               /* floats of one packed plane, of all phases of a source */
    int64_t tile, flat, blocks;           /* pixels per tile; floats per target; blocks of targets */
    size_t weight_bytes, offset_bytes, packed_bytes, slot_bytes;
} direct_plan;

/* Floats of one slot: what fits in a level-2 cache beside the weights; pixels that fill tiles well; tasks
 * that keep a few cores busy; floats of weights that are used on a row of tiles before the next ones. */
enum {
    SLOT_FLOATS = 160 * 1024,
    GOOD_PIXELS = 512,
    GOOD_TASKS = 8,
    WEIGHT_FLOATS = 48 * 1024,
    SMALL_MACS = 1 << 19
};

/* Rows per band: as many as fit a slot, fewer when one image would otherwise be too few tasks. */
static int64_t band_for(const direct_plan *plan, int64_t rows)
{
    const esp_conv_geometry *g = plan->g;
    int64_t phases = plan->rows.source_phases * plan->columns.source_phases;
    int64_t row_floats = plan->pitch * (plan->sources * phases + plan->targets);
    int64_t band = conv_min(conv_max(SLOT_FLOATS / row_floats - plan->rows.reach, 1), rows);
    int64_t units = g->batch * g->group, bands = conv_ceil_divide(rows, band);
    double macs = (double)(conv_weights(g) / g->group) * (double)conv_pixels(g);
    if (units < GOOD_TASKS && macs > (double)SMALL_MACS * 2.0)
        bands = conv_max(bands, conv_min(conv_ceil_divide(GOOD_TASKS, units),
                                         conv_min(conv_ceil_divide(rows, 2), (int64_t)(macs / SMALL_MACS))));
    return conv_ceil_divide(rows, bands);
}

static int64_t images_for(const direct_plan *plan, int64_t image_floats)
{
    int64_t phases = plan->rows.source_phases * plan->columns.source_phases;
    int64_t room = SLOT_FLOATS / (image_floats * (plan->sources * phases + plan->targets));
    int64_t wanted = conv_ceil_divide(GOOD_PIXELS, image_floats);
    return conv_max(conv_min(conv_min(wanted, room), plan->g->batch * plan->g->group / GOOD_TASKS), 1);
}

static direct_plan plan_make(const conv_method *self, const esp_conv_geometry *g, bool is_gradient)
{
    direct_plan plan = {.g = g, .kernels = self->kernels, .taps = conv_taps(g)};
    plan.rows =
        axis_make(is_gradient, g->height, g->out_height, g->kernel_h, g->stride_h, g->dilation_h, g->pad_top);
    plan.columns =
        axis_make(is_gradient, g->width, g->out_width, g->kernel_w, g->stride_w, g->dilation_w, g->pad_left);
    plan.sources = is_gradient ? conv_group_filters(g) : conv_group_channels(g);
    plan.targets = is_gradient ? conv_group_channels(g) : conv_group_filters(g);
    plan.source_stride = is_gradient ? conv_depth(g) : plan.taps;
    plan.target_stride = is_gradient ? plan.taps : conv_depth(g);

    int64_t rows = plan.rows.last - plan.rows.first, columns = plan.columns.last - plan.columns.first;
    plan.shared_columns = shared_zeros(&plan.columns);
    plan.pitch = columns + plan.columns.reach - plan.shared_columns;
    plan.band = band_for(&plan, rows);
    plan.bands = conv_ceil_divide(rows, plan.band);
    int64_t image_rows = plan.band + plan.rows.reach;
    if (plan.bands == 1)
        image_rows -= shared_zeros(&plan.rows);
    plan.image_pitch = image_rows * plan.pitch;
    plan.images = plan.bands == 1 ? images_for(&plan, plan.image_pitch) : 1;

    int64_t before_last = (plan.images - 1) * plan.image_pitch;
    /* One vector more, for what the last row of the last image spills: the plane behind it may be full by
     * then. */
    plan.plane =
        before_last + (plan.band + plan.rows.reach) * plan.pitch + plan.shared_columns + plan.kernels->lanes;
    plan.channel = plan.plane * plan.rows.source_phases * plan.columns.source_phases;
    plan.tile = (int64_t)plan.kernels->lanes * plan.kernels->tile_vectors;
    plan.flat = conv_ceil_divide(before_last + (plan.band - 1) * plan.pitch + columns, plan.tile) * plan.tile;
    plan.blocks = conv_ceil_divide(plan.targets, plan.kernels->tile_filters);

    plan.weight_bytes = conv_aligned((size_t)conv_weights(g) * sizeof(float));
    plan.offset_bytes = conv_aligned((size_t)(plan.sources * plan.taps) * sizeof(int32_t));
    plan.packed_bytes = conv_aligned((size_t)(plan.sources * plan.channel + 2 * plan.tile) * sizeof(float));
    plan.slot_bytes = plan.packed_bytes + conv_aligned((size_t)(plan.targets * plan.flat) * sizeof(float));
    return plan;
}

static size_t plan_scratch(const direct_plan *plan, int slots)
{
    return plan->weight_bytes + plan->offset_bytes + (size_t)slots * plan->slot_bytes;
}

static bool fits(const conv_method *self, const esp_conv_geometry *g, esp_conv_pass pass)
{
    if (!self->kernels->is_supported())
        return false;
    if (pass == ESP_CONV_GRAD_WEIGHT)
        return true;
    /* Offsets are 32-bit. */
    direct_plan plan = plan_make(self, g, pass == ESP_CONV_GRAD_INPUT);
    return plan.sources * plan.channel < INT32_MAX / 2;
}

typedef struct direct_job {
    direct_plan plan;
    const float *source, *w, *bias;
    float *target, *weights;
    int32_t *offsets;
    char *slots;
} direct_job;

static bool tap_serves(const direct_plan *plan, int64_t tap, int64_t phase_y, int64_t phase_x)
{
    return serves_target(&plan->rows, tap / plan->g->kernel_w, phase_y) &&
           serves_target(&plan->columns, tap % plan->g->kernel_w, phase_x);
}

static int64_t phase_taps(const direct_plan *plan, int64_t phase_y, int64_t phase_x)
{
    int64_t count = 0;
    for (int64_t tap = 0; tap < plan->taps; tap++)
        count += tap_serves(plan, tap, phase_y, phase_x);
    return count;
}

/* Where a packed plane holds the input of `tap` for output 0. */
static int64_t tap_offset(const direct_plan *plan, int64_t tap)
{
    int64_t tap_y = tap / plan->g->kernel_w, tap_x = tap % plan->g->kernel_w;
    int64_t phase = source_phase_of(&plan->rows, tap_y) * plan->columns.source_phases +
                    source_phase_of(&plan->columns, tap_x);
    return phase * plan->plane + tap_shift(&plan->rows, tap_y) * plan->pitch +
           tap_shift(&plan->columns, tap_x);
}

/* Phases of the target lie one after the other, each ordered by source, then tap. */
static void list_offsets(const direct_plan *plan, int32_t *offsets)
{
    for (int64_t y = 0; y < plan->rows.target_phases; y++)
        for (int64_t x = 0; x < plan->columns.target_phases; x++)
            for (int64_t source = 0; source < plan->sources; source++)
                for (int64_t tap = 0; tap < plan->taps; tap++)
                    if (tap_serves(plan, tap, y, x))
                        *offsets++ = (int32_t)(source * plan->channel + tap_offset(plan, tap));
}

static int64_t block_start(const direct_plan *plan, int64_t block)
{
    return plan->targets * block / plan->blocks;
}

/* The weights of a group, by phase, then block of targets, in the order of `offsets` with the targets of a
 * block side by side. A task is a block. */
static void pack_weights_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const direct_job *job = context;
    const direct_plan *plan = &job->plan;
    int64_t group = task / plan->blocks, block = task % plan->blocks,
            group_weights = conv_weights(plan->g) / plan->g->group;
    int64_t first = block_start(plan, block), count = block_start(plan, block + 1) - first;
    const float *w = job->w + group * group_weights + first * plan->target_stride;
    float *phase_weights = job->weights + group * group_weights;
    for (int64_t y = 0; y < plan->rows.target_phases; y++)
        for (int64_t x = 0; x < plan->columns.target_phases; x++) {
            int64_t depth = plan->sources * phase_taps(plan, y, x);
            float *packed = phase_weights + first * depth;
            for (int64_t source = 0; source < plan->sources; source++)
                for (int64_t tap = 0; tap < plan->taps; tap++) {
                    if (!tap_serves(plan, tap, y, x))
                        continue;
                    for (int64_t i = 0; i < count; i++)
                        *packed++ = w[i * plan->target_stride + source * plan->source_stride + tap];
                }
            phase_weights += plan->targets * depth;
        }
}

/* What one task works on. */
typedef struct piece {
    int64_t group, image, images, row, rows; /* rows are outputs j, from `row` */
    float *packed, *flat;
} piece;

static piece piece_of(const direct_job *job, int64_t task, int slot)
{
    const direct_plan *plan = &job->plan;
    piece p = {.group = task / plan->bands % plan->g->group};
    p.image = task / plan->bands / plan->g->group * plan->images;
    p.images = conv_min(plan->images, plan->g->batch - p.image);
    p.row = plan->rows.first + task % plan->bands * plan->band;
    p.rows = conv_min(plan->band, plan->rows.last - p.row);
    char *memory = job->slots + (size_t)slot * plan->slot_bytes;
    p.packed = (float *)(void *)memory;
    p.flat = (float *)(void *)(memory + plan->packed_bytes);
    return p;
}

static void zero(float *values, int64_t count)
{
    if (count > 0)
        memset(values, 0, (size_t)count * sizeof(float));
}

/* What a packed plane of one phase holds. */
typedef struct phase_view {
    int64_t top, bottom, left, right; /* packed rows and columns that hold values; zeros around */
    int64_t extent;                   /* packed rows */
    int64_t origin;                   /* of the first value in the source plane */
} phase_view;

static phase_view phase_view_of(const direct_plan *plan, const piece *p, int64_t phase_y, int64_t phase_x)
{
    const axis *rows = &plan->rows, *columns = &plan->columns;
    phase_view v = {.extent = p->rows + rows->reach};
    packed_inside(rows, phase_y, p->row, v.extent, &v.top, &v.bottom);
    packed_inside(columns, phase_x, columns->first, columns->last - columns->first + columns->reach, &v.left,
                  &v.right);
    int64_t y = (p->row + v.top) * rows->source_step + source_remainder(rows, phase_y) + rows->source_origin;
    int64_t x = (columns->first + v.left) * columns->source_step + source_remainder(columns, phase_x) +
                columns->source_origin;
    v.origin = y * columns->source_size + x;
    return v;
}

/* One source plane of one image, one phase. */
static void pack_phase(const direct_plan *plan, const phase_view *v, const float *source, float *target)
{
    const axis *rows = &plan->rows, *columns = &plan->columns;
    zero(target, v->top * plan->pitch);
    if (v->right > v->left && v->bottom > v->top)
        plan->kernels->pack(v->bottom - v->top, v->left, v->right - v->left, plan->pitch, source + v->origin,
                            rows->source_step * columns->source_size, columns->source_step,
                            target + v->top * plan->pitch);
    else
        zero(target + v->top * plan->pitch, (v->bottom - v->top) * plan->pitch);
    zero(target + v->bottom * plan->pitch, (v->extent - v->bottom) * plan->pitch + plan->shared_columns);
}

/* All sources of a piece, in the order they lie in memory: every phase of a plane while it is in the cache.
 * An image may spill into the next one, which therefore comes later. */
static void pack_sources(const direct_job *job, const piece *p)
{
    const direct_plan *plan = &job->plan;
    int64_t stored = plan->rows.source_size * plan->columns.source_size;
    for (int64_t n = 0; n < p->images; n++)
        for (int64_t source = 0; source < plan->sources; source++) {
            int64_t index = ((p->image + n) * plan->g->group + p->group) * plan->sources + source;
            float *target = p->packed + source * plan->channel + n * plan->image_pitch;
            for (int64_t y = 0; y < plan->rows.source_phases; y++)
                for (int64_t x = 0; x < plan->columns.source_phases; x++, target += plan->plane) {
                    phase_view view = phase_view_of(plan, p, y, x);
                    pack_phase(plan, &view, job->source + index * stored, target);
                }
        }
    zero(p->packed + plan->sources * plan->channel, 2 * plan->tile);
}

/* All targets of one phase, into p->flat. Weights that do not fit the cache are taken some blocks at a time.
 */
static void multiply(const direct_plan *plan, const piece *p, int64_t depth, const int32_t *offsets,
                     const float *weights)
{
    int64_t columns = plan->columns.last - plan->columns.first;
    int64_t pixels = (p->images - 1) * plan->image_pitch + (p->rows - 1) * plan->pitch + columns;
    int64_t together = conv_max(WEIGHT_FLOATS / (depth * plan->kernels->tile_filters), 1);
    for (int64_t from = 0; from < plan->blocks; from += together) {
        int64_t to = conv_min(from + together, plan->blocks);
        for (int64_t pixel = 0; pixel < pixels; pixel += plan->tile)
            for (int64_t block = from; block < to; block++) {
                int64_t first = block_start(plan, block), count = block_start(plan, block + 1) - first;
                plan->kernels->rows[count](depth, offsets, p->packed + pixel, weights + first * depth,
                                           p->flat + first * plan->flat + pixel, plan->flat);
            }
    }
}

/* Drops the columns between rows, adds the bias, and spreads a phase over the target. */
static void unpack_targets(const direct_job *job, const piece *p, int64_t phase_y, int64_t phase_x)
{
    const direct_plan *plan = &job->plan;
    const axis *rows = &plan->rows, *columns = &plan->columns;
    int64_t top, bottom, left, right;
    targets_inside(rows, phase_y, p->row, p->row + p->rows, &top, &bottom);
    targets_inside(columns, phase_x, columns->first, columns->last, &left, &right);
    if (bottom <= top || right <= left)
        return;
    int64_t y = top * rows->target_step + phase_y + rows->target_origin;
    int64_t x = left * columns->target_step + phase_x + columns->target_origin;
    int64_t stored = rows->target_size * columns->target_size;
    int64_t start = (top - p->row) * plan->pitch + left - columns->first;
    for (int64_t target = 0; target < plan->targets; target++)
        for (int64_t n = 0; n < p->images; n++) {
            int64_t channel = p->group * plan->targets + target;
            int64_t index = (p->image + n) * plan->g->group * plan->targets + channel;
            plan->kernels->unpack(bottom - top, right - left, plan->pitch,
                                  job->bias != NULL ? job->bias[channel] : 0.0f,
                                  p->flat + target * plan->flat + n * plan->image_pitch + start,
                                  rows->target_step * columns->target_size, columns->target_step,
                                  job->target + index * stored + y * columns->target_size + x);
        }
}

static void direct_task(void *context, int64_t task, int slot)
{
    const direct_job *job = context;
    const direct_plan *plan = &job->plan;
    piece p = piece_of(job, task, slot);
    pack_sources(job, &p);
    const int32_t *offsets = job->offsets;
    const float *weights = job->weights + p.group * (conv_weights(plan->g) / plan->g->group);
    for (int64_t y = 0; y < plan->rows.target_phases; y++)
        for (int64_t x = 0; x < plan->columns.target_phases; x++) {
            int64_t depth = plan->sources * phase_taps(plan, y, x);
            if (depth > 0)
                multiply(plan, &p, depth, offsets, weights);
            else /* inputs that no output looks at */
                zero(p.flat, plan->targets * plan->flat);
            unpack_targets(job, &p, y, x);
            offsets += depth;
            weights += depth * plan->targets;
        }
}

static esp_status run(const esp_compute *compute, direct_job *job, void *scratch)
{
    const direct_plan *plan = &job->plan;
    job->weights = scratch;
    job->offsets = (int32_t *)(void *)((char *)scratch + plan->weight_bytes);
    job->slots = (char *)scratch + plan->weight_bytes + plan->offset_bytes;
    list_offsets(plan, job->offsets);
    esp_status status = esp_compute_run(compute, plan->blocks * plan->g->group, pack_weights_task, job);
    if (status != ESP_OK)
        return status;
    int64_t tasks = conv_ceil_divide(plan->g->batch, plan->images) * plan->g->group * plan->bands;
    return esp_compute_run(compute, tasks, direct_task, job);
}

static size_t scratch_bytes(const conv_method *self, const esp_conv_geometry *g, esp_conv_pass pass,
                            int slots)
{
    if (pass == ESP_CONV_GRAD_WEIGHT)
        return esp_conv_direct_weight_scratch(self, g, slots);
    direct_plan plan = plan_make(self, g, pass == ESP_CONV_GRAD_INPUT);
    return plan_scratch(&plan, slots);
}

static esp_status forward(const conv_method *self, const esp_compute *compute, const esp_conv_geometry *g,
                          const float *x, const float *w, const float *bias, float *y, void *scratch)
{
    direct_job job = {.plan = plan_make(self, g, false), .source = x, .w = w, .bias = bias, .target = y};
    return run(compute, &job, scratch);
}

static esp_status grad_input(const conv_method *self, const esp_compute *compute, const esp_conv_geometry *g,
                             const float *dy, const float *w, float *dx, void *scratch)
{
    direct_job job = {.plan = plan_make(self, g, true), .source = dy, .w = w, .target = dx};
    return run(compute, &job, scratch);
}

const conv_method esp_conv_direct_avx512 = {.name = "direct (avx512)",
                                            .kernels = &esp_conv_avx512,
                                            .fits = fits,
                                            .scratch = scratch_bytes,
                                            .forward = forward,
                                            .grad_input = grad_input,
                                            .grad_weight = esp_conv_direct_grad_weight};
const conv_method esp_conv_direct_avx2 = {.name = "direct (avx2)",
                                          .kernels = &esp_conv_avx2,
                                          .fits = fits,
                                          .scratch = scratch_bytes,
                                          .forward = forward,
                                          .grad_input = grad_input,
                                          .grad_weight = esp_conv_direct_grad_weight};
