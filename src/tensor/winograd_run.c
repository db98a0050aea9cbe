/* The run of a Winograd convolution. Transform patches of the input, multiply the 36 points of all tiles as
 * 36 matrix products, transform back.
 *
 * Tiles are worked off in superblocks, whose transformed input V and products M are held in scratch memory:
 *   V [36 points][blocks of channels][tiles][16], M [36 points][blocks of filters][tiles][16].
 * There are two ways to share the work, chosen by the problem:
 *   private  a task takes whole superblocks through all three steps in its own V and M, which fit into a
 *            core's second-level cache. No thread waits for another. Where tiles are too few for several
 *            tasks, each has a part of the filters, and its own V. Weights that are not transformed yet are
 *            transformed before, by all threads, once for all superblocks.
 *   shared   where channels are so many that a superblock in a core's cache would have too few tiles to be
 *            worth reading the weights for: all threads work on the same superblock. First they make V. Then
 *            a task has a wide block of filters: chunk by chunk of channels it transforms their weights, into
 *            a panel in its core's cache, and multiplies V by that. It has M of its filters to itself and
 *            transforms it back. With few filters a task has some of the six rows of points only, M is
 *            shared, and transforming it back is one step with making the next superblock's V.
 * Lanes past the last channel may hold anything in x, and hence in V; the products stop before them. */
#include "tensor/winograd_internal.h"

/* Units of transformed weights, ESP_BLOCK channels by a wide block of filters, that make a task. */
enum { UNITS_PER_TASK = 6 };

typedef struct winograd_run {
    const winograd_problem *problem;
    const winograd_division *division;
    const blocked_kernels *kernels;
    const winograd_transforms *transforms;
    const float *x;
    float *y;
    int64_t x_image, y_image, x_block, y_block, residual_image;
    const blocked_run *runs;
    blocked_entry entry; /* of all channels */
    blocked_store store; /* of all filters */

    const float *panels; /* weights as the direct kernels have them; NULL when they come transformed */
    const float *points; /* private: transformed weights, packed or made here */
    float *made;         /* where they are made */
    float *v, *m;        /* shared; M only where tasks have not their own */
    float *buffers;      /* of tasks: one for each slot or task, whichever are fewer */
    int64_t buffer_floats, slots;
    int64_t finished, started; /* shared: the superblocks whose output and input are being made; -1: none */
} winograd_run;

/* ---- Scratch memory: runs, vectors of the extras, what is shared, buffers of tasks ---- */

static size_t runs_bytes(const winograd_problem *p)
{
    return conv_aligned((size_t)p->channel_blocks * sizeof(blocked_run));
}

typedef struct scratch_floats {
    int64_t points, v, m; /* for all */
    int64_t buffer;       /* for each task */
    int64_t tasks;
} scratch_floats;

static int64_t shared_task_count(const winograd_problem *p, const winograd_division *d)
{
    return p->wides * (WINOGRAD_PATCH / d->task_rows);
}

static scratch_floats scratch_for(const winograd_problem *p, const winograd_division *d)
{
    const int64_t v = WINOGRAD_POINTS * d->v_point, m = WINOGRAD_POINTS * d->m_point;
    if (!d->is_shared)
        return (scratch_floats){.points = p->has_points ? 0 : WINOGRAD_POINTS * esp_winograd_weight_point(p),
                                .buffer = v + m,
                                .tasks = d->tile_tasks * d->filter_tasks};
    const int64_t panel = d->task_rows * WINOGRAD_PATCH * d->panel_point;
    if (winograd_finishes(d))
        return (scratch_floats){.v = v, .buffer = panel + m, .tasks = shared_task_count(p, d)};
    return (scratch_floats){.v = v, .m = m, .buffer = panel, .tasks = shared_task_count(p, d)};
}

static int64_t scratch_count(const winograd_problem *p, int slots)
{
    winograd_division d = esp_winograd_divide(p, slots);
    scratch_floats floats = scratch_for(p, &d);
    return floats.points + floats.v + floats.m + conv_min(slots, floats.tasks) * floats.buffer;
}

/* One thread alone divides the work in its own way. */
size_t esp_winograd_scratch(const esp_blocked_conv *plan, const winograd_problem *p, int slots)
{
    int64_t count = conv_max(scratch_count(p, slots), scratch_count(p, 1));
    return runs_bytes(p) + (size_t)(esp_blocked_vectors_size(&plan->geometry) + count) * sizeof(float);
}

/* Fewer tasks than threads: a buffer for each task, there are no more. */
static float *buffer_of(const winograd_run *run, int64_t tasks, int64_t task, int slot)
{
    return run->buffers + (tasks <= run->slots ? task : slot) * run->buffer_floats;
}

/* ---- The steps, on tiles first .. first+count ---- */

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

/* `m` is that of the block. */
static void transform_output(const winograd_run *run, int64_t block, int64_t first, int64_t count,
                             const float *m)
{
    blocked_store store = run->store;
    store.scale = store.scale != NULL ? store.scale + block * ESP_BLOCK : ones;
    store.shift = store.shift != NULL ? store.shift + block * ESP_BLOCK : zeros;
    if (store.residual != NULL)
        store.residual += block * run->y_block;
    run->transforms->output(&run->problem->grid, &store, run->residual_image, m, run->division->m_point,
                            first, count, run->y + block * run->y_block, run->y_image);
}

/* M of a block of filters, in an M that begins with block 0. */
static float *block_of(const winograd_run *run, float *m, int64_t block)
{
    return m + block * run->division->block_tiles * ESP_BLOCK;
}

/* Rows [first_row, last_row) of the points of a wide block of filters by a block of channels. */
static void transform_weights(const winograd_run *run, int first_row, int last_row, int64_t wide,
                              int64_t channel_block, float *u, int64_t point_stride)
{
    enum { SIDE = 3, TAPS = SIDE * SIDE };
    const winograd_problem *p = run->problem;
    const int64_t width = winograd_wide_blocks(p, wide) * ESP_BLOCK, first = channel_block * ESP_BLOCK;
    const int64_t lanes = conv_min(p->channels - first, ESP_BLOCK);
    winograd_taps taps = {.row = SIDE * p->channels * width, .column = lanes * width};
    taps.first = run->panels + wide * p->wide_blocks * ESP_BLOCK * TAPS * p->channels + first * SIDE * width;
    if (p->is_gradient) {
        taps.first += (SIDE - 1) * (taps.row + taps.column);
        taps.row = -taps.row;
        taps.column = -taps.column;
    }
    run->transforms->weight_rows(first_row, last_row, &taps, lanes, width, u, point_stride);
}

/* One of the products: a point, a wide block of filters, some blocks of channels. */
typedef struct winograd_product {
    const float *v, *weights;
    float *m; /* of the first of the filters */
    const blocked_run *runs;
    int64_t run_count;
    int64_t blocks; /* of filters */
    bool adds;      /* to what is in m */
    int64_t next_v; /* floats to V of the next product: V is fetched ahead; 0: it is near */
} winograd_product;

/* For all `count` tiles. Meanwhile something is fetched, in equal parts; the first part alone would leave
 * memory idle during the others. */
static void multiply(const winograd_run *run, const winograd_product *now, int64_t count,
                     blocked_fetch *fetch)
{
    const int64_t block_floats = run->division->block_tiles * ESP_BLOCK;
    blocked_tile_fn *const *tiles = run->kernels->tiles(ESP_BLOCK, (int)now->blocks);
    int64_t parts = conv_ceil_divide(count, run->kernels->tile_pixels);
    blocked_store store = {.residual_block = block_floats, .residual_pixel = ESP_BLOCK};
    for (int64_t part = 0; part < parts; part++) {
        int64_t start = blocked_part(count, parts, part), end = blocked_part(count, parts, part + 1);
        blocked_fetch_step(fetch, now->run_count, &store);
        if (now->adds)
            store.residual = now->m + start * ESP_BLOCK;
        if (now->next_v != 0)
            store.ahead = (part + 1 < parts ? end - start : -start) * ESP_BLOCK;
        if (part + 1 == parts)
            store.ahead += now->next_v;
        tiles[end - start](now->v + start * ESP_BLOCK, now->runs, now->run_count, now->weights,
                           now->m + start * ESP_BLOCK, block_floats, ESP_BLOCK, &store);
    }
}

/* `floats` from `at` on, with `runs` runs of each of the tiles. */
static blocked_fetch fetch_of(const winograd_run *run, const float *at, int64_t floats, int64_t count,
                              int64_t runs)
{
    int64_t parts = conv_ceil_divide(count, run->kernels->tile_pixels);
    return (blocked_fetch){
        .next = at, .end = at + floats, .lines = conv_ceil_divide(floats / ESP_BLOCK, parts * runs)};
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

/* All points of some units, once for all superblocks. */
static void weights_task(void *context, int64_t task, int slot)
{
    const winograd_run *run = context;
    const winograd_problem *p = run->problem;
    (void)slot;
    int64_t end = conv_min((task + 1) * UNITS_PER_TASK, p->wides * p->channel_blocks);
    for (int64_t unit = task * UNITS_PER_TASK; unit < end; unit++) {
        int64_t wide = unit / p->channel_blocks, block = unit % p->channel_blocks;
        int64_t width = winograd_wide_blocks(p, wide) * ESP_BLOCK;
        float *u = run->made + wide * p->wide_blocks * ESP_BLOCK * p->channels + block * ESP_BLOCK * width;
        transform_weights(run, 0, WINOGRAD_PATCH, wide, block, u, esp_winograd_weight_point(p));
    }
}

/* Weights of a point and a wide block. */
static const float *weights_at(const winograd_run *run, int64_t point, int64_t wide)
{
    const winograd_problem *p = run->problem;
    return run->points + point * esp_winograd_weight_point(p) +
           wide * p->wide_blocks * ESP_BLOCK * p->channels;
}

/* What a private task works on. */
typedef struct private_part {
    int64_t first_superblock, last_superblock, first_wide, last_wide;
    float *v, *m;
} private_part;

static void multiply_superblock(const winograd_run *run, const private_part *part, int64_t superblock)
{
    const winograd_problem *p = run->problem;
    const winograd_division *d = run->division;
    int64_t first = winograd_superblock_start(p, d, superblock);
    int64_t next = winograd_superblock_start(p, d, superblock + 1);
    image_rows written = {0}, read = {0};
    if (d->is_far)
        written = rows_of(run, true, first, next - first);
    if (d->is_far && superblock + 1 < d->superblocks)
        read = rows_of(run, false, next, winograd_superblock_start(p, d, superblock + 2) - next);
    int64_t wides = part->last_wide - part->first_wide, products = WINOGRAD_POINTS * wides;
    for (int64_t index = 0; index < products; index++) {
        int64_t point = index / wides, wide = part->first_wide + index % wides, block = wide * p->wide_blocks;
        int64_t after = (index + 1) % wides + part->first_wide;
        winograd_product now = {.v = part->v + point * d->v_point,
                                .weights = weights_at(run, point, wide),
                                .m = block_of(run, part->m + point * d->m_point, block),
                                .runs = run->runs,
                                .run_count = p->channel_blocks,
                                .blocks = winograd_wide_blocks(p, wide)};
        blocked_fetch fetch = {0};
        if (d->fetches_weights && next - first > run->kernels->tile_pixels && index + 1 < products)
            fetch = fetch_of(run, weights_at(run, (index + 1) / wides, after),
                             winograd_wide_blocks(p, after) * ESP_BLOCK * p->channels, next - first,
                             p->channel_blocks);
        fetch_rows(&written, index, products);
        fetch_rows(&read, index, products);
        multiply(run, &now, next - first, &fetch);
    }
}

static void private_task(void *context, int64_t task, int slot)
{
    const winograd_run *run = context;
    const winograd_problem *p = run->problem;
    const winograd_division *d = run->division;
    int64_t of_tiles = task / d->filter_tasks, of_filters = task % d->filter_tasks;
    float *v = buffer_of(run, d->tile_tasks * d->filter_tasks, task, slot);
    const private_part part = {.first_superblock = blocked_part(d->superblocks, d->tile_tasks, of_tiles),
                               .last_superblock = blocked_part(d->superblocks, d->tile_tasks, of_tiles + 1),
                               .first_wide = blocked_part(p->wides, d->filter_tasks, of_filters),
                               .last_wide = blocked_part(p->wides, d->filter_tasks, of_filters + 1),
                               .v = v,
                               .m = v + WINOGRAD_POINTS * d->v_point};
    int64_t last_block = conv_min(part.last_wide * p->wide_blocks, p->filter_blocks);
    for (int64_t s = part.first_superblock; s < part.last_superblock; s++) {
        int64_t first = winograd_superblock_start(p, d, s);
        int64_t count = winograd_superblock_start(p, d, s + 1) - first;
        for (int64_t block = 0; block < p->channel_blocks; block++)
            transform_input(run, block, first, count, part.v);
        multiply_superblock(run, &part, s);
        for (int64_t block = part.first_wide * p->wide_blocks; block < last_block; block++)
            transform_output(run, block, first, count, block_of(run, part.m, block));
    }
}

static esp_status run_private(const esp_compute *compute, winograd_run *run)
{
    const winograd_problem *p = run->problem;
    int64_t tasks = run->division->tile_tasks * run->division->filter_tasks;
    if (run->panels != NULL) {
        esp_status status = esp_compute_run(
            compute, conv_ceil_divide(p->wides * p->channel_blocks, UNITS_PER_TASK), weights_task, run);
        if (status != ESP_OK)
            return status;
    }
    return esp_compute_run(compute, tasks, private_task, run);
}

/* ---- Shared superblocks ---- */

static void transform_task(void *context, int64_t task, int slot)
{
    const winograd_run *run = context;
    int64_t outputs = run->finished >= 0 ? run->problem->filter_blocks : 0;
    (void)slot;
    bool is_output = task < outputs;
    int64_t superblock = is_output ? run->finished : run->started;
    int64_t first = winograd_superblock_start(run->problem, run->division, superblock);
    int64_t count = winograd_superblock_start(run->problem, run->division, superblock + 1) - first;
    if (is_output)
        transform_output(run, task, first, count, block_of(run, run->m, task));
    else
        transform_input(run, task - outputs, first, count, run->v);
}

/* What a shared task works on: some rows of points of a wide block of filters, by all channels. */
typedef struct shared_part {
    int64_t wide;
    int first_row, last_row;
    int64_t first, count; /* tiles */
    float *v, *m, *panel;
} shared_part;

/* By the chunk of channels from `first_block` on, into m. */
static void multiply_chunk(const winograd_run *run, const shared_part *part, int64_t first_block,
                           blocked_fetch *fetch)
{
    const winograd_problem *p = run->problem;
    const winograd_division *d = run->division;
    int64_t blocks = winograd_wide_blocks(p, part->wide);
    int64_t last_block = conv_min(first_block + d->chunk_blocks, p->channel_blocks);
    for (int64_t block = first_block; block < last_block; block++)
        transform_weights(run, part->first_row, part->last_row, part->wide, block,
                          part->panel + (block - first_block) * ESP_BLOCK * blocks * ESP_BLOCK,
                          d->panel_point);
    for (int64_t i = 0; i < d->task_rows * WINOGRAD_PATCH; i++) {
        int64_t point = part->first_row * WINOGRAD_PATCH + i;
        const winograd_product now = {.v = part->v + point * d->v_point,
                                      .weights = part->panel + i * d->panel_point,
                                      .m = part->m + point * d->m_point,
                                      .runs = run->runs + first_block,
                                      .run_count = last_block - first_block,
                                      .blocks = blocks,
                                      .adds = first_block > 0,
                                      .next_v = d->v_point};
        multiply(run, &now, part->count, fetch);
    }
}

static void multiply_task(void *context, int64_t task, int slot)
{
    const winograd_run *run = context;
    const winograd_problem *p = run->problem;
    const winograd_division *d = run->division;
    const int64_t parts = WINOGRAD_PATCH / d->task_rows, tasks = shared_task_count(p, d);
    float *panel = buffer_of(run, tasks, task, slot);
    shared_part part = {.wide = task / parts,
                        .first_row = (int)(task % parts * d->task_rows),
                        .first = winograd_superblock_start(p, d, run->started),
                        .panel = panel,
                        .v = run->v,
                        .m = panel + d->task_rows * WINOGRAD_PATCH * d->panel_point};
    part.last_row = part.first_row + (int)d->task_rows;
    part.count = winograd_superblock_start(p, d, run->started + 1) - part.first;
    if (!winograd_finishes(d))
        part.m = block_of(run, run->m, part.wide * p->wide_blocks);

    /* This thread's next task is likely to be so far away. */
    blocked_fetch fetch = {0};
    const int64_t next = (task + run->slots) / parts;
    if (next != part.wide && next < p->wides)
        fetch = fetch_of(run, run->panels + next * p->wide_blocks * ESP_BLOCK * 9 * p->channels,
                         winograd_wide_blocks(p, next) * ESP_BLOCK * 9 * p->channels, part.count,
                         d->task_rows * WINOGRAD_PATCH * p->channel_blocks);

    for (int64_t block = 0; block < p->channel_blocks; block += d->chunk_blocks)
        multiply_chunk(run, &part, block, &fetch);
    for (int64_t i = 0; winograd_finishes(d) && i < winograd_wide_blocks(p, part.wide); i++)
        transform_output(run, part.wide * p->wide_blocks + i, part.first, part.count,
                         block_of(run, part.m, i));
}

static esp_status run_shared(const esp_compute *compute, winograd_run *run)
{
    esp_status status = ESP_OK;
    const winograd_problem *p = run->problem;
    const winograd_division *d = run->division;
    const bool finishes = winograd_finishes(d);
    for (int64_t s = 0; status == ESP_OK && s <= d->superblocks; s++) {
        run->finished = finishes ? -1 : s - 1;
        run->started = s < d->superblocks ? s : -1;
        int64_t tasks = (run->finished >= 0 ? p->filter_blocks : 0);
        tasks += run->started >= 0 ? p->channel_blocks : 0;
        status = esp_compute_run(compute, tasks, transform_task, run);
        if (status == ESP_OK && run->started >= 0)
            status = esp_compute_run(compute, shared_task_count(p, d), multiply_task, run);
    }
    return status;
}

/* ---- The run ---- */

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

esp_status esp_winograd_run(const esp_compute *compute, const esp_blocked_conv *plan,
                            const winograd_problem *p, const esp_view *x, const void *packed,
                            const esp_conv_extras *extras, const esp_view *y, void *scratch)
{
    const int slots = esp_compute_slots(compute);
    const winograd_division d = esp_winograd_divide(p, slots);
    const scratch_floats floats = scratch_for(p, &d);
    blocked_run *runs = scratch;
    for (int64_t block = 0; block < p->channel_blocks; block++)
        runs[block] = (blocked_run){.offset = (int32_t)(block * d.block_tiles * ESP_BLOCK),
                                    .length = (int32_t)conv_min(p->channels - block * ESP_BLOCK, ESP_BLOCK)};
    float *vectors = (float *)(void *)((char *)scratch + runs_bytes(p));
    float *own = vectors + esp_blocked_vectors_size(&plan->geometry);
    winograd_run run = {.problem = p,
                        .division = &d,
                        .kernels = esp_blocked_kernels(&plan->engine),
                        .transforms = esp_winograd_transforms(&plan->engine),
                        .x = esp_view_f32(x),
                        .y = esp_view_f32(y),
                        .x_image = esp_view_image_stride(x),
                        .y_image = esp_view_image_stride(y),
                        .x_block = p->grid.height * p->grid.width * ESP_BLOCK,
                        .y_block = p->grid.out_height * p->grid.out_width * ESP_BLOCK,
                        .runs = runs,
                        .panels = p->has_points ? NULL : packed,
                        .points = p->has_points ? packed : own,
                        .made = own,
                        .v = own + floats.points,
                        .m = own + floats.points + floats.v,
                        .buffers = own + floats.points + floats.v + floats.m,
                        .buffer_floats = floats.buffer,
                        .slots = slots};
    set_extras(&run, &plan->geometry, extras, vectors);
    return d.is_shared ? run_shared(compute, &run) : run_private(compute, &run);
}
