/* Group convolution, the way in: which rows of x are copied where. A list of copies, a vector each, is made
 * per unit and serves every channel, so that the edges of images cost nothing while pixels are moved. */
#include "tensor/group_conv_internal.h"

#include "base/memory.h"

void esp_group_source_divide(group_source *source, const esp_conv_geometry *g, int64_t images, int64_t rows)
{
    source->unit_images = conv_min(images, g->batch);
    source->image_units = source->unit_images > 1 ? 1 : conv_ceil_divide(source->rows, rows);
    source->unit_rows = conv_ceil_divide(source->rows, source->image_units);
    source->units = conv_ceil_divide(g->batch, source->unit_images) * source->image_units;
    int64_t plane_rows = source->unit_images * (source->unit_rows + source->extra_rows);
    source->plane = conv_ceil_divide(plane_rows * source->row_floats, 64) * 64;
    source->copies = source->plane_count * plane_rows * conv_ceil_divide(source->row_floats, source->lanes);
}

group_unit esp_group_unit(const group_source *source, const esp_conv_geometry *g, int64_t unit)
{
    int64_t part = unit % source->image_units;
    group_unit result = {.first_image = unit / source->image_units * source->unit_images};
    result.images = conv_min(source->unit_images, g->batch - result.first_image);
    result.first_row = source->rows * part / source->image_units;
    result.rows = source->rows * (part + 1) / source->image_units - result.first_row;
    return result;
}

/* `lead` zeros, `length` floats from `from` on, a step apart, and `trail` zeros, to go to `to`. */
typedef struct row_run {
    int64_t to, from, lead, length, trail;
} row_run;

/* What is on its way from rows of x to copies. */
typedef struct run_list {
    const group_source *source;
    group_copy *copies;
    int64_t count;
    row_run last; /* grows as long as rows go on from each other */
} run_list;

/* Whether `run` goes on where `last` ends, there and here. */
static bool goes_on(const row_run *last, const row_run *run, int64_t step)
{
    if (last->to + last->lead + last->length + last->trail != run->to)
        return false;
    if (last->length == 0 || run->length == 0)
        return last->length == 0 && run->length == 0;
    return last->trail == 0 && run->lead == 0 && last->from + last->length * step == run->from;
}

static uint32_t mask_of(int64_t begin, int64_t end, int64_t step)
{
    uint32_t mask = 0;
    for (int64_t i = begin; step <= 2 && i < end; i++)
        mask |= (uint32_t)1 << i * step;
    return mask;
}

/* Cuts the last run into vectors. */
static void finish_run(run_list *list)
{
    const row_run *run = &list->last;
    const int64_t lanes = list->source->lanes, step = list->source->column_step;
    for (int64_t i = 0; i < run->lead + run->length + run->trail; i += lanes) {
        int64_t begin = conv_min(conv_max(run->lead - i, 0), lanes);
        int64_t end = conv_min(conv_max(run->lead + run->length - i, 0), lanes + 1);
        list->copies[list->count++] = (group_copy){.to = (int32_t)(run->to + i),
                                                   .from = (int32_t)(run->from + (i - run->lead) * step),
                                                   .begin = (int16_t)begin,
                                                   .end = (int16_t)end,
                                                   .mask = mask_of(begin, conv_min(end, lanes), step)};
    }
    list->last = (row_run){.to = -1};
}

static void add_run(run_list *list, const row_run *run)
{
    if (!goes_on(&list->last, run, list->source->column_step)) {
        finish_run(list);
        list->last = *run;
        return;
    }
    list->last.lead += run->lead;
    list->last.length += run->length;
    list->last.trail = run->trail;
}

static void add_plane(run_list *list, const esp_conv_geometry *g, const group_unit *unit,
                      const group_plane *plane, int64_t to)
{
    const group_source *source = list->source;
    int64_t first, last;
    esp_window_outputs(g->width, source->row_floats, source->column_step, g->pad_left, plane->dx, &first,
                       &last);
    int64_t x = first * source->column_step + plane->dx - g->pad_left;
    for (int64_t n = 0; n < unit->images; n++) {
        for (int64_t r = 0; r < unit->rows + source->extra_rows; r++, to += source->row_floats) {
            int64_t y = (unit->first_row + r) * source->row_step + plane->dy - g->pad_top;
            row_run run = {.to = to, .lead = source->row_floats};
            if (y >= 0 && y < g->height && first < last)
                run = (row_run){.to = to,
                                .from = (n * g->channels * g->height + y) * g->width + x,
                                .lead = first,
                                .length = last - first,
                                .trail = source->row_floats - last};
            add_run(list, &run);
        }
    }
}

int64_t esp_group_source_copies(const group_source *source, const esp_conv_geometry *g,
                                const group_unit *unit, group_copy *copies)
{
    run_list list = {.source = source, .copies = copies, .last = {.to = -1}};
    for (int64_t k = 0; k < source->plane_count; k++)
        add_plane(&list, g, unit, &source->planes[k], k * source->plane);
    finish_run(&list);
    return list.count;
}

void esp_group_source_fetch(const group_source *source, const esp_conv_geometry *g, const group_unit *unit,
                            const float *x)
{
    int64_t first = conv_max(unit->first_row * source->row_step - g->pad_top, 0) * g->width;
    int64_t rows = (unit->rows + source->extra_rows) * source->row_step;
    int64_t last = conv_min(first + rows * g->width, g->height * g->width);
    for (int64_t i = first; i < last; i += ESP_ALIGNMENT / (int64_t)sizeof *x)
        __builtin_prefetch(x + i);
}
