/* See winograd.h. Transform patches of the input, multiply the 36 points of all tiles as 36 matrix
 * products, transform back.
 *
 * Tiles are worked off in superblocks, whose transformed input V and products M are held in scratch memory:
 *   V [36 points][blocks of channels][tiles][16], M [36 points][blocks of filters][tiles][16].
 * There are two ways to share the work, chosen by the problem:
 *   private  a task takes whole superblocks through all three steps in its own V and M, which fit into a
 *            core's second-level cache. No thread waits for another. Small problems are one such task.
 *   shared   where channels are so many that a superblock in a core's cache would have too few tiles to be
 *            worth reading the weights for: all threads work on the same superblock, step by step. Output of
 *            one superblock and input of the next are one step.
 * Lanes past the last channel may hold anything in x, and hence in V; the products stop before them. */
#include "tensor/winograd.h"

#include <math.h>

#include "tensor/winograd_internal.h"

/* Bytes of V and M. Private ones share a second-level cache with the parts of x and y they stand for, but
 * have at least FEW_TILES, for which it is just worth reading the weights, up to MOST_PRIVATE_BYTES. Shared
 * ones lie in the last level; MANY_TILES are as good as any more. */
enum {
    PRIVATE_BYTES = 300 << 10,
    MOST_PRIVATE_BYTES = 1100 << 10,
    SHARED_BYTES = 8 << 20,
    FEW_TILES = 28,
    MANY_TILES = 56
};

/* Images above FAR_BYTES (x and y together) are not in a core's caches when they are needed; weights above
 * NEAR_WEIGHTS do not stay there from one superblock to the next. */
enum { FAR_BYTES = 4 << 20, NEAR_WEIGHTS = 1 << 20 };

/* Tasks of fewer cycles (some 35 us) do not pay for waking a thread. More than MOST_TASKS balance no better,
 * but fetch ahead for the wrong core more often; still none may take so long that cancelling is slow. */
static const double least_task_cycles = 130e3, most_task_cycles = 8e6;
enum { MOST_TASKS = 64 };

/* Shared superblocks: neighbouring products go to one core, which fetches the weights of the next. */
enum { PRODUCTS_PER_TASK = 4 };

/* How the work is divided. */
typedef struct division {
    bool is_shared;
    int64_t superblocks, block_tiles; /* tiles of the largest superblock */
    int64_t tasks;                    /* private */
    bool is_far;                      /* private: x and y are fetched ahead */
    bool fetches_weights;
    int64_t v_point, m_point; /* floats from point to point */
} division;

typedef struct winograd_run {
    const winograd_problem *problem;
    const division *division;
    const blocked_kernels *kernels;
    const winograd_transforms *transforms;
    const float *x, *u;
    float *y;
    int64_t x_image, y_image, x_block, y_block, residual_image;
    const blocked_run *runs;
    blocked_entry entry; /* of all channels */
    blocked_store store; /* of all filters */
    float *buffers;      /* V and M: one pair, or one for each slot or task, whichever are fewer */
    int64_t slots;
    int64_t finished, started; /* shared: the superblocks whose output and input are being made; -1: none */
} winograd_run;

bool esp_winograd_problem(const esp_blocked_conv *plan, winograd_problem *out)
{
    const esp_conv_geometry *g = &plan->geometry;
    if (g->kernel_h != 3 || g->kernel_w != 3 || g->stride_h != 1 || g->stride_w != 1 || g->dilation_h != 1 ||
        g->dilation_w != 1 || g->group != 1)
        return false;
    *out = (winograd_problem){.batch = g->batch, .is_gradient = plan->pass == ESP_CONV_GRAD_INPUT};
    if (out->is_gradient) {
        out->channels = g->filters;
        out->filters = g->channels;
        out->grid = (winograd_grid){.height = g->out_height,
                                    .width = g->out_width,
                                    .top = 2 - g->pad_top,
                                    .left = 2 - g->pad_left,
                                    .out_height = g->height,
                                    .out_width = g->width};
    } else {
        out->channels = g->channels;
        out->filters = g->filters;
        out->grid = (winograd_grid){.height = g->height,
                                    .width = g->width,
                                    .top = g->pad_top,
                                    .left = g->pad_left,
                                    .out_height = g->out_height,
                                    .out_width = g->out_width};
    }
    out->grid.tile_rows = conv_ceil_divide(out->grid.out_height, WINOGRAD_TILE);
    out->grid.tile_columns = conv_ceil_divide(out->grid.out_width, WINOGRAD_TILE);
    out->tiles = out->batch * out->grid.tile_rows * out->grid.tile_columns;
    out->channel_blocks = conv_ceil_divide(out->channels, ESP_BLOCK);
    out->filter_blocks = conv_ceil_divide(out->filters, ESP_BLOCK);
    return out->tiles > 0 && out->channels > 0 && out->filters > 0 && g->height > 0 && g->width > 0;
}

/* ---- Is it worth it? ---- */

/* Estimates in cycles of a core with two 512-bit multiply-add units; on others both change alike. Constants
 * are measured; what matters is the ratio of the two. */

/* Multiply-adds of `count` pixels in register tiles by all filters, for `depth` values of each. A pixel by
 * two blocks of filters takes a cycle, by a single block a little more than half of one; a tile of few pixels
 * waits for the latency of its sums. */
static double multiply_cycles(const winograd_problem *p, int64_t count, double depth)
{
    enum { TILE_PIXELS = 14 };
    const double latency = 4.0, tiles = (double)conv_ceil_divide(count, TILE_PIXELS);
    double pairs = (double)(p->filter_blocks / 2), pixels = (double)count;
    double cycles = pairs * fmax(pixels * 1.05, tiles * latency);
    if (p->filter_blocks % 2 != 0)
        cycles += fmax(pixels * 0.63, tiles * latency);
    return cycles * depth;
}

/* Calculation overlaps with reading weights, but not wholly. What a network does between two uses of its
 * weights leaves only small ones in a cache. */
static double with_weights(double cycles, double weights)
{
    const double bytes = weights * sizeof(float);
    double reading = bytes / (bytes > 1 << 20 ? 8.5 : 30.0);
    return fmax(cycles, reading) + 0.2 * fmin(cycles, reading);
}

static double winograd_cycles(const winograd_problem *p)
{
    const double input = 120.0, output = 190.0, start = 600.0; /* per tile and block; per run */
    double weights = (double)(WINOGRAD_POINTS * p->channels * p->filter_blocks * ESP_BLOCK);
    double products = multiply_cycles(p, p->tiles, (double)(WINOGRAD_POINTS * p->channels));
    double tile = input * (double)p->channel_blocks + output * (double)p->filter_blocks;
    return with_weights(products, weights) + tile * (double)p->tiles + start;
}

static double direct_cycles(const winograd_problem *p)
{
    const double store = 2.5; /* per pixel and block */
    double weights = (double)(9 * p->channels * p->filter_blocks * ESP_BLOCK);
    double rows = (double)(p->batch * p->grid.out_height);
    double products = rows * multiply_cycles(p, p->grid.out_width, (double)(9 * p->channels));
    return with_weights(products, weights) + rows * (double)(p->grid.out_width * p->filter_blocks) * store;
}

/* A smaller gain is not worth the digits that it costs. */
static const double least_gain = 0.9;

static bool fits_pass(const esp_blocked_conv *plan, esp_conv_pass pass)
{
    winograd_problem problem;
    return plan->pass == pass && plan->engine.has_winograd && !plan->takes_plain &&
           esp_winograd_problem(plan, &problem) &&
           winograd_cycles(&problem) < least_gain * direct_cycles(&problem);
}

static bool fits_forward(const esp_blocked_conv *plan)
{
    return fits_pass(plan, ESP_CONV_FORWARD);
}

static bool fits_input(const esp_blocked_conv *plan)
{
    return fits_pass(plan, ESP_CONV_GRAD_INPUT);
}

/* ---- Division of work ---- */

static division divide(const winograd_problem *p)
{
    division d = {0};
    int64_t tile_bytes =
        WINOGRAD_POINTS * ESP_BLOCK * (p->channel_blocks + p->filter_blocks) * (int64_t)sizeof(float);
    const double cycles = winograd_cycles(p);
    int64_t tasks = (int64_t)fmax(1.0, cycles / least_task_cycles);
    int64_t most = conv_max(PRIVATE_BYTES / tile_bytes, FEW_TILES);
    d.is_shared = most * tile_bytes > MOST_PRIVATE_BYTES && tasks > 1;
    if (d.is_shared)
        most = conv_max(SHARED_BYTES / tile_bytes, MANY_TILES);
    d.superblocks = conv_ceil_divide(p->tiles, most);
    if (!d.is_shared && tasks > 1) {
        /* Several, in a number that several threads can share evenly. */
        int64_t wanted = conv_min(conv_min(tasks, 4), conv_max(2 * p->tiles / FEW_TILES, 1));
        d.superblocks = conv_max(d.superblocks, wanted);
        int64_t multiple = d.superblocks > 4 ? 4 : 2;
        d.superblocks = conv_min(conv_ceil_divide(d.superblocks, multiple) * multiple, p->tiles);
    }
    tasks = conv_min(tasks, conv_max(MOST_TASKS, (int64_t)(cycles / most_task_cycles)));
    d.tasks = conv_ceil_divide(d.superblocks, conv_ceil_divide(d.superblocks, tasks));
    d.is_far = p->batch * ESP_BLOCK * (int64_t)sizeof(float) *
                   (p->channel_blocks * p->grid.height * p->grid.width +
                    p->filter_blocks * p->grid.out_height * p->grid.out_width) >
               FAR_BYTES;
    d.fetches_weights =
        WINOGRAD_POINTS * esp_winograd_weight_point(p) * (int64_t)sizeof(float) > NEAR_WEIGHTS;
    d.block_tiles = conv_ceil_divide(p->tiles, d.superblocks);
    d.v_point = winograd_odd_lines(p->channel_blocks * d.block_tiles);
    d.m_point = winograd_odd_lines(p->filter_blocks * d.block_tiles);
    return d;
}

/* Floats of one pair of V and M. */
static int64_t buffer_floats(const division *d)
{
    return WINOGRAD_POINTS * (d->v_point + d->m_point);
}

/* Scratch memory: runs, vectors of the extras, buffers. */
static size_t runs_bytes(const winograd_problem *p)
{
    return conv_aligned((size_t)p->channel_blocks * sizeof(blocked_run));
}

static size_t scratch_bytes(const esp_blocked_conv *plan, int slots)
{
    winograd_problem p;
    if (!esp_winograd_problem(plan, &p))
        return 0;
    division d = divide(&p);
    int64_t buffers = d.is_shared ? 1 : conv_min(slots, d.tasks);
    int64_t floats = esp_blocked_vectors_size(&plan->geometry) + buffers * buffer_floats(&d);
    return runs_bytes(&p) + (size_t)floats * sizeof(float);
}

/* ---- The three steps, on tiles first .. first+count ---- */

static void transform_input(const winograd_run *run, int64_t block, int64_t first, int64_t count, float *v)
{
    blocked_entry entry = run->entry;
    if (entry.scale != NULL) {
        entry.scale += block * ESP_BLOCK;
        entry.shift += block * ESP_BLOCK;
    }
    run->transforms->input(&run->problem->grid, &entry, run->x + block * run->x_block, run->x_image, first,
                           count, v + block * run->division->block_tiles * ESP_BLOCK, run->division->v_point);
}

static const float ones[ESP_BLOCK] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, zeros[ESP_BLOCK];

static void transform_output(const winograd_run *run, int64_t block, int64_t first, int64_t count,
                             const float *m)
{
    blocked_store store = run->store;
    store.scale = store.scale != NULL ? store.scale + block * ESP_BLOCK : ones;
    store.shift = store.shift != NULL ? store.shift + block * ESP_BLOCK : zeros;
    if (store.residual != NULL)
        store.residual += block * run->y_block;
    run->transforms->output(&run->problem->grid, &store, run->residual_image,
                            m + block * run->division->block_tiles * ESP_BLOCK, run->division->m_point, first,
                            count, run->y + block * run->y_block, run->y_image);
}

/* One of the products: a point, and a wide block of filters, which is up to kernels->filter_block of them. */
typedef struct winograd_product {
    int64_t point, block, blocks; /* of ESP_BLOCK filters */
    const float *weights;
} winograd_product;

static int64_t wide_count(const winograd_run *run)
{
    return conv_ceil_divide(run->problem->filter_blocks * ESP_BLOCK, run->kernels->filter_block);
}

static int64_t product_count(const winograd_run *run)
{
    return WINOGRAD_POINTS * wide_count(run);
}

static winograd_product product_at(const winograd_run *run, int64_t index)
{
    const winograd_problem *p = run->problem;
    const int64_t wide = run->kernels->filter_block / ESP_BLOCK, count = wide_count(run);
    winograd_product made = {.point = index / count, .block = index % count * wide};
    made.blocks = conv_min(p->filter_blocks - made.block, wide);
    made.weights = run->u + made.point * esp_winograd_weight_point(p) + made.block * ESP_BLOCK * p->channels;
    return made;
}

/* One product for all `count` tiles. Meanwhile the next one's weights are fetched, in equal parts; the first
 * part alone would leave memory idle during the others. */
static void multiply(const winograd_run *run, int64_t index, int64_t count, const float *v, float *m)
{
    const division *d = run->division;
    const int64_t block_floats = d->block_tiles * ESP_BLOCK;
    const winograd_product now = product_at(run, index);
    blocked_tile_fn *const *tiles = run->kernels->tiles(ESP_BLOCK, (int)now.blocks);
    int64_t parts = conv_ceil_divide(count, run->kernels->tile_pixels);
    blocked_store store = {0};
    if (d->fetches_weights && parts > 1 && index + 1 < product_count(run)) {
        const winograd_product next = product_at(run, index + 1);
        store.fetch = next.weights;
        store.fetch_lines = conv_ceil_divide(ESP_BLOCK * next.blocks, parts);
    }
    v += now.point * d->v_point;
    m += now.point * d->m_point + now.block * block_floats;
    for (int64_t part = 0; part < parts; part++) {
        int64_t start = blocked_part(count, parts, part), end = blocked_part(count, parts, part + 1);
        tiles[end - start](v + start * ESP_BLOCK, run->runs, run->problem->channel_blocks, now.weights,
                           m + start * ESP_BLOCK, block_floats, ESP_BLOCK, &store);
        if (store.fetch != NULL)
            store.fetch += store.fetch_lines * run->problem->channel_blocks * ESP_BLOCK;
    }
}

static int64_t superblock_start(const winograd_run *run, int64_t superblock)
{
    return blocked_part(run->problem->tiles, run->division->superblocks, superblock);
}

/* ---- Memory ahead of time ----
 *
 * Transforms wait for memory while multiply-adds idle, and products the other way round. So while a
 * superblock is multiplied, what it will write and what the next one will read is asked for, a little with
 * each product. */

/* Rows of all blocks of some images: x or y. Row r is row r % height of image r / height; of each row the
 * columns first_column ... are meant. */
typedef struct image_rows {
    const float *data;
    int64_t image_stride, blocks, height, width;
    int64_t first, count, first_column, columns;
} image_rows;

/* The input, or the output, of tiles first .. first+count. */
static image_rows rows_of(const winograd_run *run, bool is_output, int64_t first, int64_t count)
{
    const winograd_grid *g = &run->problem->grid;
    image_rows rows = {.data = is_output ? run->y : run->x,
                       .image_stride = is_output ? run->y_image : run->x_image,
                       .blocks = is_output ? run->problem->filter_blocks : run->problem->channel_blocks,
                       .height = is_output ? g->out_height : g->height,
                       .width = is_output ? g->out_width : g->width};
    int64_t top = is_output ? 0 : g->top, left = is_output ? 0 : g->left;
    int64_t reach = is_output ? WINOGRAD_TILE : WINOGRAD_PATCH;
    int64_t last = first + count - 1, columns = g->tile_columns;
    int64_t from = first / columns, to = last / columns; /* rows of tiles */
    int64_t start = conv_max(from % g->tile_rows * WINOGRAD_TILE - top, 0);
    int64_t end = conv_min(to % g->tile_rows * WINOGRAD_TILE - top + reach, rows.height);
    rows.first = from / g->tile_rows * rows.height + start;
    rows.count = conv_max(to / g->tile_rows * rows.height + end - rows.first, 0);
    rows.columns = rows.width;
    if (from == to) {
        rows.first_column = conv_max(first % columns * WINOGRAD_TILE - left, 0);
        rows.columns =
            conv_min(last % columns * WINOGRAD_TILE - left + reach, rows.width) - rows.first_column;
    }
    return rows;
}

/* Asks for part `part` of `parts`. Inline, because gcc takes a function that only prefetches for one without
 * effect and leaves out its calls. */
__attribute__((always_inline)) static inline void fetch_rows(const image_rows *rows, int64_t part,
                                                             int64_t parts)
{
    int64_t end = blocked_part(rows->blocks * rows->count, parts, part + 1);
    for (int64_t i = blocked_part(rows->blocks * rows->count, parts, part); i < end; i++) {
        int64_t block = i / rows->count, row = rows->first + i % rows->count;
        const float *at =
            rows->data + row / rows->height * rows->image_stride +
            ((block * rows->height + row % rows->height) * rows->width + rows->first_column) * ESP_BLOCK;
        for (int64_t pixel = 0; pixel < rows->columns; pixel++)
            __builtin_prefetch(at + pixel * ESP_BLOCK, 0, 2);
    }
}

/* ---- Private superblocks ---- */

static void multiply_superblock(const winograd_run *run, int64_t superblock, const float *v, float *m)
{
    const division *d = run->division;
    int64_t first = superblock_start(run, superblock), next = superblock_start(run, superblock + 1);
    image_rows written = {0}, read = {0};
    if (d->is_far)
        written = rows_of(run, true, first, next - first);
    if (d->is_far && superblock + 1 < d->superblocks)
        read = rows_of(run, false, next, superblock_start(run, superblock + 2) - next);
    int64_t products = product_count(run);
    for (int64_t product = 0; product < products; product++) {
        fetch_rows(&written, product, products);
        fetch_rows(&read, product, products);
        multiply(run, product, next - first, v, m);
    }
}

static void private_task(void *context, int64_t task, int slot)
{
    const winograd_run *run = context;
    const winograd_problem *p = run->problem;
    const division *d = run->division;
    /* Fewer tasks than threads: a buffer for each task, there are no more. */
    int64_t buffer = d->tasks <= run->slots ? task : slot;
    float *v = run->buffers + buffer * buffer_floats(d), *m = v + WINOGRAD_POINTS * d->v_point;
    int64_t end = blocked_part(d->superblocks, d->tasks, task + 1);
    for (int64_t s = blocked_part(d->superblocks, d->tasks, task); s < end; s++) {
        int64_t first = superblock_start(run, s), count = superblock_start(run, s + 1) - first;
        for (int64_t block = 0; block < p->channel_blocks; block++)
            transform_input(run, block, first, count, v);
        multiply_superblock(run, s, v, m);
        for (int64_t block = 0; block < p->filter_blocks; block++)
            transform_output(run, block, first, count, m);
    }
}

/* ---- Shared superblocks ---- */

static void transform_task(void *context, int64_t task, int slot)
{
    const winograd_run *run = context;
    float *v = run->buffers, *m = v + WINOGRAD_POINTS * run->division->v_point;
    int64_t outputs = run->finished >= 0 ? run->problem->filter_blocks : 0;
    (void)slot;
    bool is_output = task < outputs;
    int64_t superblock = is_output ? run->finished : run->started;
    int64_t first = superblock_start(run, superblock), count = superblock_start(run, superblock + 1) - first;
    if (is_output)
        transform_output(run, task, first, count, m);
    else
        transform_input(run, task - outputs, first, count, v);
}

static void multiply_task(void *context, int64_t task, int slot)
{
    const winograd_run *run = context;
    float *v = run->buffers, *m = v + WINOGRAD_POINTS * run->division->v_point;
    int64_t first = superblock_start(run, run->started);
    (void)slot;
    int64_t count = superblock_start(run, run->started + 1) - first;
    int64_t end = conv_min((task + 1) * PRODUCTS_PER_TASK, product_count(run));
    for (int64_t product = task * PRODUCTS_PER_TASK; product < end; product++)
        multiply(run, product, count, v, m);
}

static esp_status run_shared(const esp_compute *compute, winograd_run *run)
{
    esp_status status = ESP_OK;
    const winograd_problem *p = run->problem;
    const int64_t superblocks = run->division->superblocks;
    for (int64_t s = 0; status == ESP_OK && s <= superblocks; s++) {
        run->finished = s - 1;
        run->started = s < superblocks ? s : -1;
        int64_t tasks = (s > 0 ? p->filter_blocks : 0) + (s < superblocks ? p->channel_blocks : 0);
        status = esp_compute_run(compute, tasks, transform_task, run);
        if (status == ESP_OK && s < superblocks)
            status = esp_compute_run(compute, conv_ceil_divide(product_count(run), PRODUCTS_PER_TASK),
                                     multiply_task, run);
    }
    return status;
}

/* ---- The method ---- */

static void set_extras(winograd_run *run, const esp_conv_geometry *geometry, const esp_conv_extras *extras,
                       float *scratch)
{
    blocked_vectors vectors = esp_blocked_vectors(geometry, extras, scratch);
    run->store = esp_blocked_store(extras, &vectors);
    if (extras->residual != NULL) {
        run->store.residual = esp_view_f32(extras->residual);
        run->residual_image = esp_view_image_stride(extras->residual);
    }
    run->entry = (blocked_entry){.scale = vectors.in_scale,
                                 .shift = vectors.in_shift,
                                 .clips = extras->in_clips,
                                 .low = extras->in_low,
                                 .high = extras->in_high};
}

static esp_status run_winograd(const esp_compute *compute, const esp_blocked_conv *plan, const esp_view *x,
                               const void *packed, const esp_conv_extras *extras, const esp_view *y,
                               void *scratch)
{
    winograd_problem p;
    if (!esp_winograd_problem(plan, &p))
        return ESP_OK; /* nothing to compute */
    division d = divide(&p);
    blocked_run *runs = scratch;
    for (int64_t block = 0; block < p.channel_blocks; block++)
        runs[block] = (blocked_run){.offset = (int32_t)(block * d.block_tiles * ESP_BLOCK),
                                    .length = (int32_t)conv_min(p.channels - block * ESP_BLOCK, ESP_BLOCK)};
    float *vectors = (float *)(void *)((char *)scratch + runs_bytes(&p));
    winograd_run run = {.problem = &p,
                        .division = &d,
                        .kernels = esp_blocked_kernels(&plan->engine),
                        .transforms = esp_winograd_transforms(&plan->engine),
                        .x = esp_view_f32(x),
                        .u = packed,
                        .y = esp_view_f32(y),
                        .x_image = esp_view_image_stride(x),
                        .y_image = esp_view_image_stride(y),
                        .x_block = p.grid.height * p.grid.width * ESP_BLOCK,
                        .y_block = p.grid.out_height * p.grid.out_width * ESP_BLOCK,
                        .slots = esp_compute_slots(compute),
                        .runs = runs,
                        .buffers = vectors + esp_blocked_vectors_size(&plan->geometry)};
    set_extras(&run, &plan->geometry, extras, vectors);
    if (d.is_shared)
        return run_shared(compute, &run);
    return esp_compute_run(compute, d.tasks, private_task, &run);
}

enum { WINOGRAD_PACK = 0x77696e6f, WINOGRAD_PACK_INPUT };

const blocked_method esp_blocked_winograd = {
    .name = "winograd",
    .pack_key = WINOGRAD_PACK,
    .fits = fits_forward,
    .packed_bytes = esp_winograd_packed_bytes,
    .pack = esp_winograd_pack,
    .scratch = scratch_bytes,
    .run = run_winograd,
};

const blocked_method esp_blocked_winograd_input = {
    .name = "winograd",
    .pack_key = WINOGRAD_PACK_INPUT,
    .fits = fits_input,
    .packed_bytes = esp_winograd_packed_bytes,
    .pack = esp_winograd_pack,
    .scratch = scratch_bytes,
    .run = run_winograd,
};
