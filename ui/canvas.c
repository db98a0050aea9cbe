/* Cells and text. Every write is clipped here, so views may draw without thinking of edges. A wide code point
 * occupies its cell and the next, whose rune is 0; writing over either half blanks the other. */
#include "ui/canvas.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <wchar.h>

#include "base/memory.h"

ui_rect ui_rect_shrink(ui_rect rect, int left, int top, int right, int bottom)
{
    ui_rect inner = {rect.x + left, rect.y + top, rect.width - left - right, rect.height - top - bottom};

    if (inner.width < 0)
        inner.width = 0;
    if (inner.height < 0)
        inner.height = 0;
    return inner;
}

esp_status ui_canvas_new(int width, int height, ui_alphabet alphabet, ui_canvas *out, esp_error *err)
{
    ui_canvas canvas = {.width = width, .height = height, .alphabet = alphabet};

    memset(out, 0, sizeof *out);
    if (width < 1 || height < 1)
        return esp_fail(err, ESP_INVALID, "canvas: size %dx%d, expected at least 1x1", width, height);
    canvas.cells = esp_alloc((size_t)width * (size_t)height, sizeof *canvas.cells);
    if (!canvas.cells)
        return esp_fail_memory(err, "canvas", (size_t)width * (size_t)height * sizeof *canvas.cells);
    ui_canvas_clear(&canvas);
    *out = canvas;
    return ESP_OK;
}

void ui_canvas_free(ui_canvas *canvas)
{
    esp_free(canvas->cells);
    memset(canvas, 0, sizeof *canvas);
}

void ui_canvas_clear(ui_canvas *canvas)
{
    const ui_cell blank = {.rune = ' ', .element = UI_TEXT};

    for (int i = 0; i < canvas->width * canvas->height; i++)
        canvas->cells[i] = blank;
}

static ui_cell *cell_at(const ui_canvas *canvas, int x, int y)
{
    if (x < 0 || y < 0 || x >= canvas->width || y >= canvas->height)
        return NULL;
    return &canvas->cells[y * canvas->width + x];
}

const ui_cell *ui_canvas_at(const ui_canvas *canvas, int x, int y)
{
    return cell_at(canvas, x, y);
}

/* 0 for what must not reach a terminal. */
static int rune_width(uint32_t rune)
{
    if (rune < 0x20 || (rune >= 0x7f && rune < 0xa0))
        return 0;
    if (rune < 0x300)
        return 1;
    int width = wcwidth((wchar_t)rune);
    return width < 0 ? 1 : width;
}

/* Half a wide code point must not stay behind. */
static void break_pair(ui_canvas *canvas, int x, int y)
{
    ui_cell *cell = cell_at(canvas, x, y);
    ui_cell *next = cell_at(canvas, x + 1, y);
    ui_cell *previous = cell_at(canvas, x - 1, y);

    if (cell->rune == 0 && previous)
        previous->rune = ' ';
    if (cell->rune != 0 && next && next->rune == 0)
        next->rune = ' ';
}

void ui_put(ui_canvas *canvas, int x, int y, uint32_t rune, ui_element element)
{
    ui_cell *cell = cell_at(canvas, x, y);
    ui_cell *next = cell_at(canvas, x + 1, y);
    int width = rune_width(rune);

    if (!cell)
        return;
    if (width == 0)
        rune = '?';
    break_pair(canvas, x, y);
    cell->element = (uint8_t)element;
    cell->rune = rune;
    if (width < 2)
        return;
    if (!next) {
        cell->rune = ' ';
        return;
    }
    break_pair(canvas, x + 1, y);
    next->rune = 0;
    next->element = (uint8_t)element;
}

/* ---- UTF-8 ---- */

/* The next code point; bytes that are none give U+FFFD one at a time. */
static uint32_t next_rune(const char **text)
{
    const unsigned char *bytes = (const unsigned char *)*text;
    int length = bytes[0] < 0x80                       ? 1
                 : bytes[0] >= 0xf0 && bytes[0] < 0xf5 ? 4
                 : bytes[0] >= 0xe0 && bytes[0] < 0xf0 ? 3
                 : bytes[0] >= 0xc2 && bytes[0] < 0xe0 ? 2
                                                       : 0;
    uint32_t rune = length == 1 ? bytes[0] : bytes[0] & (0xffu >> (length + 1));

    for (int i = 1; i < length; i++) {
        if ((bytes[i] & 0xc0) != 0x80) {
            length = 0;
            break;
        }
        rune = (rune << 6) | (bytes[i] & 0x3fu);
    }
    if (length == 0) {
        *text += 1;
        return '?';
    }
    *text += length;
    return rune;
}

/* As shown: combining marks are dropped, the rest is what ui_put makes of it. */
static int shown_width(uint32_t rune)
{
    int width = rune_width(rune);

    return width == 0 && rune < 0x300 ? 1 : width;
}

int ui_text_width(const char *text)
{
    int width = 0;

    while (text && *text)
        width += shown_width(next_rune(&text));
    return width;
}

static uint32_t ellipsis(const ui_canvas *canvas)
{
    return canvas->alphabet == UI_ASCII ? '~' : 0x2026;
}

/* Draws columns [0, width) of a text. */
static int draw_text(ui_canvas *canvas, int x, int y, int width, const char *text, ui_element element)
{
    int used = 0;

    while (*text) {
        uint32_t rune = next_rune(&text);
        int columns = shown_width(rune);
        if (columns == 0)
            continue;
        if (used + columns > width)
            break;
        ui_put(canvas, x + used, y, rune, element);
        used += columns;
    }
    return used;
}

int ui_text(ui_canvas *canvas, int x, int y, int width, const char *text, ui_element element)
{
    int used;

    if (width <= 0 || !text)
        return 0;
    if (ui_text_width(text) <= width)
        return draw_text(canvas, x, y, width, text, element);
    used = draw_text(canvas, x, y, width - 1, text, element);
    ui_put(canvas, x + used, y, ellipsis(canvas), element);
    return used + 1;
}

int ui_textf(ui_canvas *canvas, int x, int y, int width, ui_element element, const char *format, ...)
{
    char buffer[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    return ui_text(canvas, x, y, width, buffer, element);
}

void ui_text_right(ui_canvas *canvas, int x, int y, int width, const char *text, ui_element element)
{
    int needed = ui_text_width(text);

    if (needed < width)
        x += width - needed;
    ui_text(canvas, x, y, needed < width ? needed : width, text, element);
}

int ui_text_middle(ui_canvas *canvas, int x, int y, int width, const char *text, ui_element element)
{
    int total = ui_text_width(text);
    int head = (width - 1) / 4, tail = width - 1 - head, skipped = 0;
    int used;

    if (total <= width || width < 5)
        return ui_text(canvas, x, y, width, text, element);
    used = draw_text(canvas, x, y, head, text, element);
    ui_put(canvas, x + used, y, ellipsis(canvas), element);
    while (*text && skipped < total - tail)
        skipped += shown_width(next_rune(&text));
    return used + 1 + draw_text(canvas, x + used + 1, y, tail, text, element);
}

/* ---- lines ---- */

void ui_select_row(ui_canvas *canvas, ui_rect rect, int y)
{
    for (int x = rect.x; x < rect.x + rect.width; x++) {
        ui_cell *cell = cell_at(canvas, x, y);
        if (cell)
            cell->is_selected = 1;
    }
}

void ui_horizontal(ui_canvas *canvas, int x, int y, int width, ui_element element)
{
    for (int i = 0; i < width; i++)
        ui_put(canvas, x + i, y, canvas->alphabet == UI_ASCII ? '-' : 0x2500, element);
}

void ui_vertical(ui_canvas *canvas, int x, int y, int height, ui_element element)
{
    for (int i = 0; i < height; i++)
        ui_put(canvas, x, y + i, canvas->alphabet == UI_ASCII ? '|' : 0x2502, element);
}

void ui_heading(ui_canvas *canvas, int x, int y, int width, const char *title)
{
    int used;

    ui_horizontal(canvas, x, y, width, UI_BORDER);
    if (width < 6 || !title[0])
        return;
    ui_put(canvas, x + 1, y, ' ', UI_BORDER);
    used = ui_text(canvas, x + 2, y, width - 4, title, UI_HEADING);
    ui_put(canvas, x + 2 + used, y, ' ', UI_BORDER);
}
