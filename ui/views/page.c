/* A page of something found out (study/findings.h): lines and tables, fitted to the width and scrolled. Lines
 * are walked over once to be counted and once to be drawn. */
#include <stdio.h>
#include <string.h>

#include "ui/views/parts.h"

#define LEAST_COLUMN 6
#define BETWEEN      2 /* columns of a table */

typedef struct page_walk {
    ui_canvas *canvas; /* NULL: only counting */
    ui_rect rect;
    int top, line;
} page_walk;

static ui_element element_of(esp_tone tone)
{
    static const ui_element elements[] = {
        [ESP_TONE_PLAIN] = UI_TEXT, [ESP_TONE_HEADING] = UI_HEADING, [ESP_TONE_STRONG] = UI_STRONG,
        [ESP_TONE_GOOD] = UI_GOOD,  [ESP_TONE_WARN] = UI_WARN,       [ESP_TONE_DIM] = UI_DIM,
    };

    return elements[tone];
}

/* Row on the screen of the next line; -1: not on it. */
static int next_row(page_walk *walk)
{
    int row = walk->line++ - walk->top;

    return walk->canvas && row >= 0 && row < walk->rect.height ? walk->rect.y + row : -1;
}

/* Bytes of `text` that go into `room` columns, without the blanks where it breaks. */
static int fit_words(const char *text, int room)
{
    int length = (int)strlen(text), fit = length <= room ? length : room;

    while (fit < length && fit > 0 && text[fit] != ' ')
        fit--;
    return fit > 0 || length == 0 ? fit : room;
}

static const char *rest_after(const char *text, int fit)
{
    text += fit;
    return text + strspn(text, " ");
}

/* ---- tables ---- */

static bool is_table(const esp_findings_line *line)
{
    return line->cell_count > 1;
}

/* Lines from `first` that are one table. */
static int table_lines(const esp_findings *page, int first)
{
    int count = 1;

    while (first + count < page->count &&
           page->lines[first + count].cell_count == page->lines[first].cell_count)
        count++;
    return count;
}

static int widest(const int *widths, int count)
{
    int place = 0;

    for (int c = 1; c < count; c++)
        if (widths[c] >= widths[place])
            place = c;
    return place;
}

/* Natural widths, then the widest column gives until all fit. */
static void plan_columns(const esp_findings *page, int first, int lines, int room,
                         int widths[ESP_FINDINGS_CELLS])
{
    int columns = page->lines[first].cell_count, total = BETWEEN * (columns - 1);

    for (int c = 0; c < columns; c++) {
        widths[c] = 1;
        for (int i = 0; i < lines; i++) {
            int width = ui_text_width(page->lines[first + i].cells[c]);
            widths[c] = width > widths[c] ? width : widths[c];
        }
        total += widths[c];
    }
    while (total > room) {
        int place = widest(widths, columns);
        if (widths[place] <= LEAST_COLUMN)
            break;
        widths[place]--;
        total--;
    }
}

/* The last cell goes on in lines below; the others lose their middle. */
static void table_row(page_walk *walk, const esp_findings_line *line, const int *widths)
{
    const char *rest = line->cells[line->cell_count - 1];
    int y = next_row(walk), x = walk->rect.x + 1, last = line->cell_count - 1;

    for (int c = 0; c < last; c++) {
        if (y >= 0)
            ui_text_middle(walk->canvas, x, y, widths[c], line->cells[c], element_of(line->tone));
        x += widths[c] + BETWEEN;
    }
    for (;;) {
        int fit = fit_words(rest, widths[last]);
        if (y >= 0)
            ui_textf(walk->canvas, x, y, widths[last], element_of(line->tone), "%.*s", fit, rest);
        rest = rest_after(rest, fit);
        if (!*rest)
            return;
        y = next_row(walk);
    }
}

static void walk_table(page_walk *walk, const esp_findings *page, int first, int lines)
{
    int widths[ESP_FINDINGS_CELLS];

    plan_columns(page, first, lines, walk->rect.width - 2, widths);
    for (int i = 0; i < lines; i++)
        table_row(walk, &page->lines[first + i], widths);
}

/* ---- lines ---- */

static void walk_text(page_walk *walk, const esp_findings_line *line)
{
    const char *rest = line->cell_count ? line->cells[0] : "";
    int y;

    do {
        int fit = fit_words(rest, walk->rect.width - 2);
        y = next_row(walk);
        if (y >= 0 && line->tone == ESP_TONE_HEADING)
            ui_heading(walk->canvas, walk->rect.x, y, walk->rect.width, rest);
        else if (y >= 0)
            ui_textf(walk->canvas, walk->rect.x + 1, y, walk->rect.width - 2, element_of(line->tone), "%.*s",
                     fit, rest);
        rest = line->tone == ESP_TONE_HEADING ? "" : rest_after(rest, fit);
    } while (*rest);
}

static int walk_page(page_walk *walk, const esp_findings *page)
{
    for (int i = 0; i < page->count;) {
        int lines = is_table(&page->lines[i]) ? table_lines(page, i) : 1;
        if (is_table(&page->lines[i]))
            walk_table(walk, page, i, lines);
        else
            walk_text(walk, &page->lines[i]);
        i += lines;
    }
    return walk->line;
}

static void draw_page(ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    const esp_findings *page = state->snapshot ? state->snapshot->findings : NULL;
    page_walk counted = {.rect = ui_rect_shrink(rect, 0, 1, 0, 0)}, walk = counted;
    int lines;

    if (!page)
        return;
    lines = walk_page(&counted, page);
    state->page_top = state->page_top > lines - walk.rect.height ? lines - walk.rect.height : state->page_top;
    state->page_top = state->page_top < 0 ? 0 : state->page_top;
    ui_heading(canvas, rect.x, rect.y, rect.width, page->title);
    if (lines > walk.rect.height) {
        char place[40];
        snprintf(place, sizeof place, " %d-%d of %d ", state->page_top + 1,
                 state->page_top + walk.rect.height, lines);
        ui_text_right(canvas, rect.x, rect.y, rect.width - 1, place, UI_DIM);
    }
    walk.canvas = canvas;
    walk.top = state->page_top;
    walk_page(&walk, page);
}

static void move_page(ui_state *state, int delta)
{
    state->page_top = state->page_top + delta < 0 ? 0 : state->page_top + delta;
}

const ui_view_ops ui_view_page = {
    .title = "Page", .has_side = false, .draw = draw_page, .draw_side = NULL, .move = move_page};
