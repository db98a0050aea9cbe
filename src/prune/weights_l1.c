/* One pass over the weights gives both norms, at the speed of memory. A stored weight is a matrix: rows of
 * filters with a run of kernel positions for each channel, or (Gemm's other form) rows of channels with a
 * column for each filter. Rows are added up to row sums and to one line of column sums; long rows four at a
 * time, as their line does not stay in the nearest cache.
 *
 * A task takes a block of rows, cut by size alone; its column sums wait until all blocks are there and are
 * then added in order. */
#include "prune/weights.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/simd.h"

enum {
    TOGETHER = 4,             /* rows */
    BLOCK_ELEMENTS = 1 << 20, /* of a task, but ... */
    BLOCK_ROWS = 64,          /* ... not fewer rows: each block leaves a line of column sums */
    PARTS = 8,
    AHEAD = 512,      /* floats from here are asked for: what the hardware fetches ahead comes late */
    SHORT_ROW = 6144, /* floats: the column sums of one row stay in the first cache */
};

typedef double parts __attribute__((vector_size(PARTS * sizeof(double))));
typedef double parts_unaligned
    __attribute__((vector_size(PARTS * sizeof(double)), aligned(sizeof(double)), may_alias));
#define PARTS_AT(pointer) (*(parts_unaligned *)(pointer))

/* Lane by lane, which gcc 12 turns into one conversion; __builtin_convertvector it takes apart. */
static inline __attribute__((always_inline)) void load_magnitudes(const float *values, parts *out)
{
    parts loaded = {0};

    for (int lane = 0; lane < PARTS; lane++)
        loaded[lane] = fabs((double)values[lane]);
    *out = loaded;
}

static inline double sum_parts(const parts *sum)
{
    double total = 0;

    for (int i = 0; i < PARTS; i++)
        total += (*sum)[i];
    return total;
}

ESP_SIMD_CLONES double esp_magnitude_sum(int64_t count, const float *values)
{
    parts a = {0}, b = {0};
    int64_t i = 0;

    for (; i + 2 * PARTS <= count; i += 2 * PARTS) {
        parts u, v;
        load_magnitudes(values + i, &u);
        load_magnitudes(values + i + PARTS, &v);
        a += u;
        b += v;
    }
    a += b;
    double sum = sum_parts(&a);
    for (; i < count; i++)
        sum += fabs((double)values[i]);
    return sum;
}

ESP_SIMD_CLONES double esp_square_sum(int64_t count, const float *values)
{
    parts a = {0}, b = {0};
    int64_t i = 0;

    for (; i + 2 * PARTS <= count; i += 2 * PARTS) {
        parts u, v;
        load_magnitudes(values + i, &u);
        load_magnitudes(values + i + PARTS, &v);
        a += u * u;
        b += v * v;
    }
    a += b;
    double sum = sum_parts(&a);
    for (; i < count; i++)
        sum += (double)values[i] * (double)values[i];
    return sum;
}

/* columns[i] += |row[i]|; returns the sum of |row|. */
ESP_SIMD_CLONES static double add_row(int64_t length, const float *row, double *columns)
{
    parts first = {0}, second = {0};
    int64_t i = 0;

    for (; i + 2 * PARTS <= length; i += 2 * PARTS) {
        parts a, b;
        __builtin_prefetch(row + i + AHEAD);
        load_magnitudes(row + i, &a);
        load_magnitudes(row + i + PARTS, &b);
        first += a;
        second += b;
        PARTS_AT(columns + i) += a;
        PARTS_AT(columns + i + PARTS) += b;
    }
    first += second;
    double sum = sum_parts(&first);
    for (; i < length; i++) {
        double value = fabs((double)row[i]);
        sum += value;
        columns[i] += value;
    }
    return sum;
}

/* The same of four rows, so that the columns are touched once for all of them. */
ESP_SIMD_CLONES static void add_four_rows(int64_t length, const float *const *rows, double *columns,
                                          double *sums)
{
    const float *r0 = rows[0], *r1 = rows[1], *r2 = rows[2], *r3 = rows[3];
    parts total[TOGETHER] = {{0}};
    int64_t i = 0;

    for (; i + PARTS <= length; i += PARTS) {
        parts a, b, c, d;
        __builtin_prefetch(r0 + i + AHEAD);
        __builtin_prefetch(r1 + i + AHEAD);
        __builtin_prefetch(r2 + i + AHEAD);
        __builtin_prefetch(r3 + i + AHEAD);
        load_magnitudes(r0 + i, &a);
        load_magnitudes(r1 + i, &b);
        load_magnitudes(r2 + i, &c);
        load_magnitudes(r3 + i, &d);
        total[0] += a;
        total[1] += b;
        total[2] += c;
        total[3] += d;
        PARTS_AT(columns + i) += (a + b) + (c + d);
    }
    for (int r = 0; r < TOGETHER; r++)
        sums[r] = sum_parts(&total[r]);
    for (; i < length; i++)
        for (int r = 0; r < TOGETHER; r++) {
            double value = fabs((double)rows[r][i]);
            sums[r] += value;
            columns[i] += value;
        }
}

static void add_rows(int64_t length, const float *const *rows, double *columns, double *sums)
{
    if (length > SHORT_ROW)
        add_four_rows(length, rows, columns, sums);
    else
        for (int r = 0; r < TOGETHER; r++)
            sums[r] = add_row(length, rows[r], columns);
}

/* ---- a layer ---- */

typedef struct measured_layer {
    const esp_layer *layer;
    const esp_mask *mask;
    const float *data;
    float *owned;                    /* groups of a transposed convolution are copied in canonical order */
    bool is_transposed;              /* rows are channels */
    bool is_whole;                   /* the mask keeps everything */
    int64_t rows, length, positions; /* length = columns * positions floats per row */
    int64_t block, blocks;           /* rows of a task, tasks */
    double *partial;                 /* [blocks, columns] */
    double *row_sums, *column_sums;  /* borrowed: of the result */
} measured_layer;

static int64_t column_count(const measured_layer *item)
{
    return item->is_transposed ? item->layer->filters : item->layer->channels;
}

/* A row as the mask leaves it. */
static void copy_masked(const measured_layer *item, int64_t row, float *out)
{
    const float *data = item->data + row * item->length;

    for (int64_t column = 0; column < column_count(item); column++)
        for (int64_t p = 0; p < item->positions; p++) {
            bool is_kept = item->is_transposed ? esp_mask_get(item->mask, column, row)
                                               : esp_mask_get(item->mask, row, column);
            out[column * item->positions + p] = is_kept ? data[column * item->positions + p] : 0;
        }
}

/* `lines` [length] doubles and `spare` [TOGETHER, length] floats are working memory. */
static void measure_block(const measured_layer *item, int64_t block, double *lines, float *spare)
{
    int64_t first = block * item->block, end = first + item->block, columns = column_count(item);
    double sums[TOGETHER], *partial = item->partial + block * columns;
    const float *rows[TOGETHER];

    memset(lines, 0, (size_t)item->length * sizeof *lines);
    end = end < item->rows ? end : item->rows;
    for (int64_t row = first; row < end; row += TOGETHER) {
        for (int64_t r = 0; r < TOGETHER; r++) {
            float *copy = spare + r * item->length;
            rows[r] = row + r < end && item->is_whole ? item->data + (row + r) * item->length : copy;
            if (row + r >= end)
                memset(copy, 0, (size_t)item->length * sizeof *copy);
            else if (!item->is_whole)
                copy_masked(item, row + r, copy);
        }
        add_rows(item->length, rows, lines, sums);
        for (int64_t r = 0; r < TOGETHER && row + r < end; r++)
            item->row_sums[row + r] = sums[r];
    }
    for (int64_t column = 0; column < columns; column++) {
        partial[column] = 0;
        for (int64_t p = 0; p < item->positions; p++)
            partial[column] += lines[column * item->positions + p];
    }
}

static void add_blocks(const measured_layer *item)
{
    int64_t columns = column_count(item);

    for (int64_t block = 0; block < item->blocks; block++)
        for (int64_t column = 0; column < columns; column++)
            item->column_sums[column] += item->partial[block * columns + column];
}

/* Whether a mask keeps everything. */
static bool is_whole(const esp_mask *mask)
{
    int64_t full = mask->channels / 64, tail = mask->channels % 64;
    uint64_t lost = 0;

    for (int64_t f = 0; f < mask->filters; f++) {
        const uint64_t *row = mask->words + f * mask->row_words;
        for (int64_t w = 0; w < full; w++)
            lost |= ~row[w];
        if (tail)
            lost |= ~row[full] & (((uint64_t)1 << tail) - 1);
    }
    return !lost;
}

static esp_status layer_start(const esp_graph *graph, const esp_layer *layer, const esp_mask *mask,
                              measured_layer *item, esp_layer_l1 *out, esp_error *err)
{
    const esp_tensor *weight = esp_graph_value(graph, layer->weight)->constant;

    if (!weight || esp_tensor_dtype(weight) != ESP_F32)
        return esp_fail(err, ESP_UNSUPPORTED,
                        "layer '%s': its weight '%s' is not stored in the model as float32", layer->name,
                        layer->weight_name);
    *item = (measured_layer){.layer = layer,
                             .mask = mask,
                             .data = esp_tensor_f32(weight),
                             .is_transposed = layer->filter_axis > layer->channel_axis,
                             .is_whole = is_whole(mask),
                             .positions = layer->kernel_positions};
    if (item->is_transposed && layer->group > 1) {
        size_t elements = (size_t)esp_tensor_elements(weight);
        item->owned = esp_alloc(elements, sizeof *item->owned);
        if (!item->owned)
            return esp_fail_memory(err, "L1 norms", elements * sizeof *item->owned);
        esp_layer_weight_canonical(layer, weight, item->owned);
        item->data = item->owned;
        item->is_transposed = false;
    }
    item->rows = item->is_transposed ? layer->channels : layer->filters;
    item->length = column_count(item) * item->positions;
    item->block = item->length ? BLOCK_ELEMENTS / item->length : BLOCK_ROWS;
    item->block = item->block < BLOCK_ROWS ? BLOCK_ROWS : item->block / TOGETHER * TOGETHER;
    item->blocks = (item->rows + item->block - 1) / item->block;
    item->partial = esp_alloc((size_t)(item->blocks * column_count(item)), sizeof *item->partial);
    out->filters = esp_alloc_zero((size_t)layer->filters, sizeof *out->filters);
    out->channels = esp_alloc_zero((size_t)layer->channels, sizeof *out->channels);
    item->row_sums = item->is_transposed ? out->channels : out->filters;
    item->column_sums = item->is_transposed ? out->filters : out->channels;
    if (!item->partial || !out->filters || !out->channels)
        return esp_fail_memory(err, "L1 norms", (size_t)(item->blocks * column_count(item)) * sizeof(double));
    return ESP_OK;
}

static esp_status check_finite(const esp_layer *layer, const double *filters, esp_error *err)
{
    for (int64_t f = 0; f < layer->filters; f++)
        if (!isfinite(filters[f]))
            return esp_fail(err, ESP_INVALID,
                            "layer '%s': filter %lld of weight '%s' has a value that is not finite",
                            layer->name, (long long)f, layer->weight_name);
    return ESP_OK;
}

/* ---- all layers ---- */

typedef struct l1_run {
    measured_layer *items;
    int64_t *ends; /* tasks up to and with each item */
    int count;
    int64_t length; /* of the longest row */
    double *lines;  /* [slots, length] */
    float *spare;   /* [slots, TOGETHER, length] */
} l1_run;

static void block_task(void *context, int64_t task, int slot)
{
    const l1_run *run = context;
    int i = 0;

    while (task >= run->ends[i])
        i++;
    measure_block(&run->items[i], task - (i ? run->ends[i - 1] : 0), run->lines + slot * run->length,
                  run->spare + slot * TOGETHER * run->length);
}

static void add_task(void *context, int64_t task, int slot)
{
    const l1_run *run = context;

    (void)slot;
    add_blocks(&run->items[task]);
}

static esp_status run_blocks(const esp_compute *compute, l1_run *run, esp_error *err)
{
    int64_t tasks = run->count ? run->ends[run->count - 1] : 0;
    size_t slots = (size_t)esp_compute_slots(compute), length;
    esp_status status;

    for (int i = 0; i < run->count; i++)
        run->length = run->items[i].length > run->length ? run->items[i].length : run->length;
    length = (size_t)run->length;
    run->lines = esp_alloc(slots * length, sizeof *run->lines);
    run->spare = esp_alloc(slots * TOGETHER * length, sizeof *run->spare);
    if (!run->lines || !run->spare)
        return esp_fail_memory(err, "L1 norms", slots * length * sizeof *run->lines);
    status = esp_compute_run(compute, tasks, block_task, run);
    if (status == ESP_OK)
        status = esp_compute_run(compute, run->count, add_task, run);
    return status == ESP_OK ? ESP_OK : esp_fail(err, status, "L1 norms: cancelled");
}

esp_status esp_layers_l1(const esp_compute *compute, const esp_graph *graph, const esp_layers *layers,
                         const esp_mask *masks, const bool *is_wanted, esp_layer_l1 *out, esp_error *err)
{
    size_t count = (size_t)layers->count;
    l1_run run = {.items = esp_alloc_zero(count, sizeof *run.items),
                  .ends = esp_alloc(count, sizeof *run.ends)};
    int64_t tasks = 0;
    esp_status status = ESP_OK;

    for (size_t l = 0; l < count; l++)
        out[l] = (esp_layer_l1){0};
    if (!run.items || !run.ends)
        status = esp_fail_memory(err, "L1 norms", count * sizeof *run.items);
    for (int l = 0; status == ESP_OK && l < layers->count; l++) {
        if (is_wanted && !is_wanted[l])
            continue;
        measured_layer *item = &run.items[run.count];
        status = layer_start(graph, &layers->items[l], &masks[l], item, &out[l], err);
        tasks += item->blocks;
        run.ends[run.count++] = tasks;
    }
    if (status == ESP_OK)
        status = run_blocks(compute, &run, err);
    for (int l = 0; status == ESP_OK && l < layers->count; l++)
        if (out[l].filters)
            status = check_finite(&layers->items[l], out[l].filters, err);

    for (int i = 0; i < run.count; i++) {
        esp_free(run.items[i].partial);
        esp_free(run.items[i].owned);
    }
    for (size_t l = 0; status != ESP_OK && l < count; l++)
        esp_layer_l1_free(&out[l]);
    esp_free(run.items);
    esp_free(run.ends);
    esp_free(run.lines);
    esp_free(run.spare);
    return status;
}

esp_status esp_layer_l1_of(const esp_graph *graph, const esp_layer *layer, const esp_mask *mask,
                           esp_layer_l1 *out, esp_error *err)
{
    esp_layer item = *layer;
    esp_layers one = {1, &item};

    return esp_layers_l1(NULL, graph, &one, mask, NULL, out, err);
}

void esp_layer_l1_free(esp_layer_l1 *l1)
{
    if (!l1)
        return;
    esp_free(l1->filters);
    esp_free(l1->channels);
    *l1 = (esp_layer_l1){0};
}
