/* The products of all pairs of rows: X X^T, on the tile kernels of convolution, which are the fastest matrix
 * product there is here. A row is a "pixel", and the rows are packed a second time as "filters".
 *
 * Only squared distances between rows and means of rows are asked of the products, so the rows may be moved
 * and scaled first. They are moved so that the products are about as large as the distances, else the
 * difference of the two would lose digits: by a point in their midst, per column the median of nine rows. A
 * mean would do as well as long as no row lies far off. They are scaled by a power of two, so that squares
 * neither overflow nor vanish.
 *
 * Columns go in panels, so that what is packed stays small beside the rows; products of a panel are added to
 * those of the panels before it. Only the tiles on and below the diagonal are computed. */
#include "prune/row_products.h"

#include <string.h>

#include "base/memory.h"
#include "tensor/blocked_kernels.h"
#include "tensor/tensor.h"

enum {
    PANEL = 512,     /* columns packed and summed at a time: a tile's share of them stays in the cache */
    TILE = 224,      /* side of a tile of products: a multiple of all tile sizes of the kernels */
    PACK_ROWS = 32,  /* rows packed by one task: a multiple of every filter_block */
    CENTRE_ROWS = 9, /* rows whose median is the centre */
    CENTRE_COLUMNS = 256,
};

typedef struct packing {
    const esp_row_products *target;
    float *pixels;                  /* [panel/16][count][16] */
    float *filters;                 /* [stride/filter_block][panel][filter_block] */
    float *centre;                  /* [PANEL] */
    int64_t first, columns, padded; /* the panel at hand; padded to whole blocks */
} packing;

typedef struct panel_run {
    const blocked_kernels *kernels;
    packing *items;
    int count;
    int64_t *ends; /* tasks up to and with each item */
} panel_run;

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Which item a task belongs to; `task` becomes its number there. */
static packing *find_item(const panel_run *run, int64_t *task)
{
    int item = 0;

    while (*task >= run->ends[item])
        item++;
    *task -= item ? run->ends[item - 1] : 0;
    return &run->items[item];
}

/* ---- packing ---- */

/* The smaller of each pair to the first. */
static void sort_pairs(int64_t count, float *restrict first, float *restrict second)
{
    for (int64_t i = 0; i < count; i++) {
        float a = first[i], b = second[i];
        first[i] = a < b ? a : b;
        second[i] = a < b ? b : a;
    }
}

/* centre[i] = the median of nine rows' values in column first + i. The exchanges are those of the least
 * network that leaves the median of nine in the middle (Devillard, Fast median search, 1998). */
static void find_centre(const esp_row_products *job, int64_t first, int64_t columns, float *centre)
{
    static const int exchanges[][2] = {{1, 2}, {4, 5}, {7, 8}, {0, 1}, {3, 4}, {6, 7}, {1, 2},
                                       {4, 5}, {7, 8}, {0, 3}, {5, 8}, {4, 7}, {3, 6}, {1, 4},
                                       {2, 5}, {4, 7}, {4, 2}, {6, 4}, {4, 2}};
    float values[CENTRE_ROWS][CENTRE_COLUMNS];

    for (int64_t start = 0; start < columns; start += CENTRE_COLUMNS) {
        int64_t count = columns - start < CENTRE_COLUMNS ? columns - start : CENTRE_COLUMNS;
        for (int r = 0; r < CENTRE_ROWS; r++)
            memcpy(values[r],
                   job->rows + r * (job->count - 1) / (CENTRE_ROWS - 1) * job->columns + first + start,
                   (size_t)count * sizeof **values);
        for (size_t i = 0; i < sizeof exchanges / sizeof *exchanges; i++)
            sort_pairs(count, values[exchanges[i][0]], values[exchanges[i][1]]);
        memcpy(centre + start, values[CENTRE_ROWS / 2], (size_t)count * sizeof **values);
    }
}

/* PACK_ROWS rows of the panel, moved and scaled, with zeros for rows and columns that are not there. */
static void centre_rows(const packing *item, int64_t first_row, float *out)
{
    const esp_row_products *job = item->target;

    for (int64_t r = 0; r < PACK_ROWS; r++) {
        float *target = out + r * item->padded;
        const float *row = job->rows + (first_row + r) * job->columns + item->first;
        int64_t columns = first_row + r < job->count ? item->columns : 0;
        for (int64_t i = 0; i < columns; i++)
            target[i] = (row[i] - item->centre[i]) * job->scale;
        for (int64_t i = columns; i < item->padded; i++)
            target[i] = 0;
    }
}

static void pack_task(void *context, int64_t task, int slot)
{
    const panel_run *run = context;
    packing *item = find_item(run, &task);
    int64_t count = item->target->count, first = task * PACK_ROWS, width = run->kernels->filter_block;
    int64_t rows = count - first < PACK_ROWS ? count - first : PACK_ROWS;
    float centred[PACK_ROWS * PANEL];

    (void)slot;
    centre_rows(item, first, centred);
    for (int64_t block = 0; block < item->padded / ESP_BLOCK; block++)
        for (int64_t r = 0; r < rows; r++)
            memcpy(item->pixels + (block * count + first + r) * ESP_BLOCK,
                   centred + r * item->padded + block * ESP_BLOCK, ESP_BLOCK * sizeof *centred);
    for (int64_t f = 0; f < PACK_ROWS; f += width)
        run->kernels->transpose(width, width, item->padded, centred + f * item->padded, item->padded,
                                item->filters + (first + f) * item->padded, width);
}

/* ---- tiles ---- */

/* Products of rows [y0, y1) with rows [x0, x0 + filter_block) over the panel. */
static void multiply_strip(const blocked_kernels *kernels, const packing *item, int64_t y0, int64_t y1,
                           int64_t x0)
{
    int64_t width = kernels->filter_block, count = item->target->count, stride = item->target->stride;
    blocked_tile_fn *const *tiles = kernels->tiles(ESP_BLOCK, (int)(width / ESP_BLOCK));
    const float *filters = item->filters + x0 * item->padded;
    int64_t run_count = item->padded / ESP_BLOCK;
    blocked_run runs[PANEL / ESP_BLOCK];

    for (int64_t i = 0; i < run_count; i++)
        runs[i] = (blocked_run){(int32_t)(i * count * ESP_BLOCK), ESP_BLOCK};
    for (int64_t y = y0; y < y1; y += kernels->tile_pixels) {
        int64_t pixels = y1 - y < kernels->tile_pixels ? y1 - y : kernels->tile_pixels;
        float *out = item->target->values + y * stride + x0;
        blocked_store sum = {.residual = out, .residual_block = ESP_BLOCK, .residual_pixel = stride};
        tiles[pixels](item->pixels + y * ESP_BLOCK, runs, run_count, filters, out, ESP_BLOCK, stride,
                      item->first ? &sum : NULL);
    }
}

/* Tiles are numbered along the rows of the lower triangle: (0,0) (1,0) (1,1) (2,0) ... */
static void product_task(void *context, int64_t task, int slot)
{
    const panel_run *run = context;
    const packing *item = find_item(run, &task);
    const esp_row_products *target = item->target;
    int64_t count = target->count, stride = target->stride, row = 0;

    (void)slot;
    for (; task > row; row++)
        task -= row + 1;
    int64_t y0 = row * TILE, y1 = y0 + TILE < count ? y0 + TILE : count;
    int64_t last = divide_up(count, PACK_ROWS) * PACK_ROWS; /* of what is packed */
    int64_t x0 = task * TILE, x1 = x0 + TILE < last ? x0 + TILE : last;
    for (int64_t x = x0; x < x1; x += run->kernels->filter_block)
        multiply_strip(run->kernels, item, y0, y1, x);
    for (int64_t y = y0; row == task && y < y1; y++)
        for (int64_t x = count; x < stride; x++)
            target->values[y * stride + x] = 0;
    if (row > task && item->first + item->columns == target->columns)
        run->kernels->transpose(y1 - y0, y1 - y0, x1 - x0, target->values + y0 * stride + x0, stride,
                                target->values + x0 * stride + y0, stride);
}

/* ---- panels ---- */

static esp_status run_over(const esp_compute *compute, panel_run *run, bool packs)
{
    int64_t tasks = 0;

    for (int i = 0; i < run->count; i++) {
        int64_t tiles = divide_up(run->items[i].target->count, TILE);
        if (run->items[i].columns > 0)
            tasks += packs ? divide_up(run->items[i].target->count, PACK_ROWS) : tiles * (tiles + 1) / 2;
        run->ends[i] = tasks;
    }
    return esp_compute_run(compute, tasks, packs ? pack_task : product_task, run);
}

/* The panel that begins at column `first`, of the jobs that have so many columns. */
static esp_status add_panel(const esp_compute *compute, panel_run *run, int64_t first)
{
    for (int i = 0; i < run->count; i++) {
        packing *item = &run->items[i];
        int64_t left = item->target->columns - first;
        item->first = first;
        item->columns = left > PANEL ? PANEL : left > 0 ? left : 0;
        item->padded = divide_up(item->columns, ESP_BLOCK) * ESP_BLOCK;
        find_centre(item->target, first, item->columns, item->centre);
    }
    esp_status status = run_over(compute, run, true);
    return status == ESP_OK ? run_over(compute, run, false) : status;
}

static esp_status packing_new(const esp_row_products *target, packing *item)
{
    size_t columns = (size_t)(target->columns < PANEL ? target->columns : PANEL);

    columns = (columns + ESP_BLOCK - 1) / ESP_BLOCK * ESP_BLOCK;
    *item = (packing){.target = target};
    item->pixels = esp_alloc(columns * (size_t)target->count, sizeof *item->pixels);
    item->filters = esp_alloc(columns * (size_t)target->stride, sizeof *item->filters);
    item->centre = esp_alloc(columns, sizeof *item->centre);
    return item->pixels && item->filters && item->centre ? ESP_OK : ESP_NO_MEMORY;
}

int64_t esp_row_products_stride(int64_t count)
{
    /* an odd number of 32s: rows a power of two apart would share their places in the caches */
    return ((count + PACK_ROWS - 1) / PACK_ROWS | 1) * PACK_ROWS;
}

esp_status esp_row_products_fill(const esp_compute *compute, const esp_row_products *items, int count)
{
    panel_run run = {.kernels = esp_blocked_kernels(esp_engine_default())};
    int64_t columns = 0;
    esp_status status = ESP_OK;

    run.items = esp_alloc_zero((size_t)count, sizeof *run.items);
    run.ends = esp_alloc((size_t)count, sizeof *run.ends);
    if (!run.items || !run.ends)
        status = ESP_NO_MEMORY;
    for (; status == ESP_OK && run.count < count; run.count++) {
        const esp_row_products *item = &items[run.count];
        columns = item->columns > columns ? item->columns : columns;
        status = packing_new(item, &run.items[run.count]);
    }
    for (int64_t first = 0; status == ESP_OK && first < columns; first += PANEL)
        status = add_panel(compute, &run, first);

    for (int i = 0; run.items && i < run.count; i++) {
        esp_free(run.items[i].pixels);
        esp_free(run.items[i].filters);
        esp_free(run.items[i].centre);
    }
    esp_free(run.items);
    esp_free(run.ends);
    return status;
}
