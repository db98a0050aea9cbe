/* Alphabets as data: how finely a cell divides and what each filling looks like. ASCII is the same code with
 * coarser tables. */
#include "ui/chart.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"

typedef struct alphabet_table {
    int levels;                  /* fillings of a cell, empty not counted */
    const uint32_t *across, *up; /* [levels]: filled from the left, from below */
    uint32_t track, hatch;
    int dots_x, dots_y;
    uint32_t heat[UI_HEAT_STEPS];
} alphabet_table;

static const uint32_t eighths_across[] = {0x258f, 0x258e, 0x258d, 0x258c, 0x258b, 0x258a, 0x2589, 0x2588};
static const uint32_t eighths_up[] = {0x2581, 0x2582, 0x2583, 0x2584, 0x2585, 0x2586, 0x2587, 0x2588};
static const uint32_t ascii_across[] = {'='};
static const uint32_t ascii_up[] = {'.', ':', '#'};

#define SHADES                                                                                               \
    {                                                                                                        \
        0x2591, 0x2591, 0x2592, 0x2592, 0x2593, 0x2593, 0x2588, 0x2588                                       \
    }

static const alphabet_table tables[] = {
    [UI_BRAILLE] = {8, eighths_across, eighths_up, 0x2500, 0x2591, 2, 4, SHADES},
    [UI_BLOCK] = {8, eighths_across, eighths_up, 0x2500, 0x2591, 2, 2, SHADES},
    [UI_ASCII] = {1, ascii_across, ascii_up, '.', 'x', 1, 1, {'.', ':', '-', '=', '+', '*', '#', '@'}},
};

static const alphabet_table *table_of(const ui_canvas *canvas)
{
    return &tables[canvas->alphabet];
}

static int up_levels(const ui_canvas *canvas)
{
    return canvas->alphabet == UI_ASCII ? 3 : 8;
}

/* Parts of `parts` for a share: what is there shows, what is not whole is not full. */
static int filled_parts(double share, int parts)
{
    int filled;

    if (!(share > 0.0))
        return 0;
    filled = (int)lround(fmin(share, 1.0) * parts);
    return filled == 0 ? 1 : filled;
}

/* Cells of a bar from part `from` to part `to`. */
static void draw_parts(ui_canvas *canvas, int x, int y, int width, int to, ui_element element)
{
    const alphabet_table *table = table_of(canvas);

    for (int i = 0; i < width && i * table->levels < to; i++) {
        int here = to - i * table->levels;
        ui_put(canvas, x + i, y, table->across[(here > table->levels ? table->levels : here) - 1], element);
    }
}

static void draw_track(ui_canvas *canvas, int x, int y, int width)
{
    for (int i = 0; i < width; i++)
        ui_put(canvas, x + i, y, table_of(canvas)->track, UI_TRACK);
}

void ui_bar(ui_canvas *canvas, int x, int y, int width, double share, ui_element element)
{
    draw_track(canvas, x, y, width);
    draw_parts(canvas, x, y, width, filled_parts(share, width * table_of(canvas)->levels), element);
}

/* The cut part is drawn in whole cells of a lighter sign: a cell has one foreground only. */
void ui_bar_split(ui_canvas *canvas, int x, int y, int width, double kept, double whole,
                  ui_element kept_element, ui_element cut_element)
{
    int levels = table_of(canvas)->levels;
    int kept_parts = filled_parts(kept, width * levels);
    int whole_cells = (filled_parts(whole, width * levels) + levels - 1) / levels;

    draw_track(canvas, x, y, width);
    for (int i = (kept_parts + levels - 1) / levels; i < whole_cells && i < width; i++)
        ui_put(canvas, x + i, y, table_of(canvas)->hatch, cut_element);
    draw_parts(canvas, x, y, width, kept_parts, kept_element);
}

void ui_column(ui_canvas *canvas, int x, ui_rect rect, double share, ui_element element)
{
    int levels = up_levels(canvas);
    int parts = filled_parts(share, rect.height * levels);

    for (int i = 0; i < rect.height && i * levels < parts; i++) {
        int here = parts - i * levels;
        ui_put(canvas, x, rect.y + rect.height - 1 - i,
               table_of(canvas)->up[(here > levels ? levels : here) - 1], element);
    }
}

void ui_column_hatched(ui_canvas *canvas, int x, ui_rect rect, double share, ui_element element)
{
    int cells = filled_parts(share, rect.height);

    for (int i = 0; i < cells; i++)
        ui_put(canvas, x, rect.y + rect.height - 1 - i, table_of(canvas)->hatch, element);
}

void ui_sparkline(ui_canvas *canvas, int x, int y, int width, const double *values, int count, double most,
                  ui_element element)
{
    ui_rect row = {x, y, width, 1};

    for (int i = 0; i < width && count > 0; i++) {
        double value = values[(int64_t)i * count / width];
        ui_column(canvas, x + i, row, most > 0 ? value / most : 0.0, element);
    }
}

/* ---- dots ---- */

esp_status ui_dots_new(ui_canvas *canvas, ui_rect rect, ui_dots *out, esp_error *err)
{
    const alphabet_table *table = table_of(canvas);
    size_t cells = ui_rect_is_empty(rect) ? 0 : (size_t)rect.width * (size_t)rect.height;
    ui_dots dots = {.canvas = canvas,
                    .rect = rect,
                    .columns = rect.width * table->dots_x,
                    .rows = rect.height * table->dots_y};

    *out = dots;
    dots.bits = esp_alloc_zero(cells, 2);
    if (!dots.bits)
        return esp_fail_memory(err, "chart", cells * 2);
    dots.elements = dots.bits + cells;
    *out = dots;
    return ESP_OK;
}

void ui_dots_set(ui_dots *dots, int column, int row, ui_element element)
{
    const alphabet_table *table = table_of(dots->canvas);
    int cell;

    if (column < 0 || row < 0 || column >= dots->columns || row >= dots->rows)
        return;
    cell = row / table->dots_y * dots->rect.width + column / table->dots_x;
    dots->bits[cell] |= (uint8_t)(1u << (row % table->dots_y * table->dots_x + column % table->dots_x));
    dots->elements[cell] = (uint8_t)element;
}

/* Bresenham. */
void ui_dots_line(ui_dots *dots, int column_0, int row_0, int column_1, int row_1, ui_element element)
{
    int dx = abs(column_1 - column_0), dy = -abs(row_1 - row_0);
    int step_x = column_0 < column_1 ? 1 : -1, step_y = row_0 < row_1 ? 1 : -1;
    int error = dx + dy;

    for (;;) {
        int twice = 2 * error;
        ui_dots_set(dots, column_0, row_0, element);
        if (column_0 == column_1 && row_0 == row_1)
            return;
        if (twice >= dy) {
            error += dy;
            column_0 += step_x;
        }
        if (twice <= dx) {
            error += dx;
            row_0 += step_y;
        }
    }
}

/* Our bits go row by row; braille numbers its dots down the columns, the last row after. */
static uint32_t braille_rune(unsigned bits)
{
    static const unsigned char places[8] = {0x01, 0x08, 0x02, 0x10, 0x04, 0x20, 0x40, 0x80};
    unsigned pattern = 0;

    for (unsigned i = 0; i < 8; i++)
        if (bits & (1u << i))
            pattern |= places[i];
    return 0x2800 + pattern;
}

/* Quadrants by bits: 1 upper left, 2 upper right, 4 lower left, 8 lower right. */
static const uint32_t quadrants[16] = {' ',    0x2598, 0x259d, 0x2580, 0x2596, 0x258c, 0x259e, 0x259b,
                                       0x2597, 0x259a, 0x2590, 0x259c, 0x2584, 0x2599, 0x259f, 0x2588};

static uint32_t dot_rune(ui_alphabet alphabet, unsigned bits)
{
    if (alphabet == UI_BRAILLE)
        return braille_rune(bits);
    return alphabet == UI_BLOCK ? quadrants[bits & 15] : '*';
}

void ui_dots_draw(ui_dots *dots)
{
    for (int i = 0; dots->bits && i < dots->rect.width * dots->rect.height; i++)
        if (dots->bits[i])
            ui_put(dots->canvas, dots->rect.x + i % dots->rect.width, dots->rect.y + i / dots->rect.width,
                   dot_rune(dots->canvas->alphabet, dots->bits[i]), (ui_element)dots->elements[i]);
    esp_free(dots->bits);
    dots->bits = NULL;
}

uint32_t ui_heat_rune(const ui_canvas *canvas, int step)
{
    return table_of(canvas)->heat[step];
}
