/* Help: the action table, read out. */
#include <string.h>

#include "ui/actions.h"
#include "ui/views/parts.h"

#define HELP_COLUMN 30

/* Lines of the page as they are walked over; without a canvas they are only counted. */
typedef struct help_page {
    ui_canvas *canvas;
    ui_rect rect;
    int top, line;
} help_page;

static int next_row(help_page *page)
{
    int row = page->line++ - page->top;

    return row >= 0 && row < page->rect.height ? page->rect.y + row : -1;
}

static void section_line(help_page *page, const char *title)
{
    int y;

    if (page->line > 0)
        (void)next_row(page);
    y = next_row(page);
    if (y >= 0 && page->canvas)
        ui_heading(page->canvas, page->rect.x, y, page->rect.width, title);
}

/* As many words as fit; returns how many bytes of the text they were. */
static int draw_words(help_page *page, int y, int room, const char *text)
{
    int length = (int)strlen(text), fit = length <= room ? length : room;

    while (fit < length && fit > 0 && text[fit] != ' ')
        fit--;
    if (fit == 0)
        fit = length < room ? length : room;
    if (y >= 0 && page->canvas)
        ui_textf(page->canvas, page->rect.x + HELP_COLUMN, y, room, UI_TEXT, "%.*s", fit, text);
    return fit + (text[fit] == ' ' ? 1 : 0);
}

static void action_line(help_page *page, const ui_action *action)
{
    int x = page->rect.x + 1, room = page->rect.width - HELP_COLUMN - 2;
    const char *rest = action->help;
    char keys[40];
    int y = next_row(page);

    rest += draw_words(page, y, room, rest);
    if (y >= 0 && page->canvas) {
        ui_action_keys(action, page->canvas->alphabet != UI_ASCII, keys, sizeof keys);
        ui_text_right(page->canvas, x, y, 9, keys, UI_KEY);
        ui_text(page->canvas, x + 11, y, HELP_COLUMN - 13, action->title, UI_STRONG);
    }
    while (*rest)
        rest += draw_words(page, next_row(page), room, rest);
}

static int walk(help_page *page)
{
    const char *section = "";

    for (int id = 1; id < UI_ACTION_COUNT; id++) {
        const char *own = ui_action_section((ui_action_id)id);
        if (strcmp(own, section) != 0)
            section_line(page, own);
        section = own;
        action_line(page, ui_action_at((ui_action_id)id));
    }
    return page->line;
}

static void draw_help(ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    help_page counted = {.rect = rect};
    int lines = walk(&counted);
    help_page page = {.canvas = canvas, .rect = rect};

    if (state->help_top > lines - rect.height)
        state->help_top = lines - rect.height;
    if (state->help_top < 0)
        state->help_top = 0;
    page.top = state->help_top;
    walk(&page);
}

static void move_help(ui_state *state, int delta)
{
    state->help_top = state->help_top + delta < 0 ? 0 : state->help_top + delta;
}

const ui_view_ops ui_view_help = {
    .title = "Help", .has_side = false, .draw = draw_help, .draw_side = NULL, .move = move_help};
