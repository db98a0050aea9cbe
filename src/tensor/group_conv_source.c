/* Group convolution, the way in: which rows of x are copied where. A list of runs is made per unit and serves
 * every channel, so that the edges of images cost nothing while pixels are moved. */
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
    source->copies = source->plane_count * plane_rows;
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

/* Whether `run` goes on where `last` ends, there and here. */
static bool goes_on(const group_copy *last, const group_copy *run, int64_t step)
{
    if (last->to + last->lead + last->length + last->trail != run->to)
        return false;
    if (last->length == 0 || run->length == 0)
        return last->length == 0 && run->length == 0;
    return last->trail == 0 && run->lead == 0 && last->from + last->length * step == run->from;
}

/* Adds a run, or makes the last one longer. */
static int64_t add_run(group_copy *runs, int64_t count, int64_t step, const group_copy *run)
{
    if (count == 0 || !goes_on(&runs[count - 1], run, step)) {
        runs[count] = *run;
        return count + 1;
    }
    runs[count - 1].lead += run->lead;
    runs[count - 1].length += run->length;
    runs[count - 1].trail = run->trail;
    return count;
}

static int64_t add_plane(group_copy *runs, int64_t count, const group_source *source,
                         const esp_conv_geometry *g, const group_unit *unit, const group_plane *plane,
                         int64_t to)
{
    int64_t first, last;
    esp_window_outputs(g->width, source->row_floats, source->column_step, g->pad_left, plane->dx, &first,
                       &last);
    int64_t x = first * source->column_step + plane->dx - g->pad_left;
    for (int64_t n = 0; n < unit->images; n++) {
        for (int64_t r = 0; r < unit->rows + source->extra_rows; r++, to += source->row_floats) {
            int64_t y = (unit->first_row + r) * source->row_step + plane->dy - g->pad_top;
            group_copy run = {.to = (int32_t)to, .lead = (int32_t)source->row_floats};
            if (y >= 0 && y < g->height && first < last)
                run = (group_copy){.to = (int32_t)to,
                                   .from = (int32_t)((n * g->channels * g->height + y) * g->width + x),
                                   .lead = (int32_t)first,
                                   .length = (int32_t)(last - first),
                                   .trail = (int32_t)(source->row_floats - last)};
            count = add_run(runs, count, source->column_step, &run);
        }
    }
    return count;
}

int64_t esp_group_source_runs(const group_source *source, const esp_conv_geometry *g, const group_unit *unit,
                              group_copy *runs)
{
    int64_t count = 0;
    for (int64_t k = 0; k < source->plane_count; k++)
        count = add_plane(runs, count, source, g, unit, &source->planes[k], k * source->plane);
    return count;
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
