/* Layers: the table, one row per layer, with bars for its share of the network and for what the plan leaves
 * of it. Columns are a table of their own; the narrower the screen, the fewer of them, least important first.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "ui/chart.h"
#include "ui/views/parts.h"

typedef enum column_id {
    COLUMN_SHAPE,
    COLUMN_PARAMS,
    COLUMN_PARAMS_BAR,
    COLUMN_MACS,
    COLUMN_MACS_BAR,
    COLUMN_ASKED,
    COLUMN_GOT,
    COLUMN_KEPT,
    COLUMN_KEPT_BAR,
    COLUMN_COUNT
} column_id;

typedef struct column {
    const char *title;
    int width, rank; /* rank: the lower, the sooner it is shown */
    bool is_left;
} column;

static const column columns[COLUMN_COUNT] = {
    [COLUMN_SHAPE] = {"shape", 12, 5, true},     [COLUMN_PARAMS] = {"params", 6, 0, false},
    [COLUMN_PARAMS_BAR] = {"share", 6, 6, true}, [COLUMN_MACS] = {"MACs", 6, 1, false},
    [COLUMN_MACS_BAR] = {"share", 6, 7, true},   [COLUMN_ASKED] = {"asked", 8, 2, false},
    [COLUMN_GOT] = {"got", 5, 3, false},         [COLUMN_KEPT] = {"kept", 8, 8, false},
    [COLUMN_KEPT_BAR] = {"left", 7, 4, true},
};

#define LEAST_NAME_WIDTH 12
#define MOST_NAME_WIDTH  28
#define NARROW_TABLE     66
#define MOST_BAR_WIDTH   24

typedef struct table {
    ui_rect rect;
    int name_width;
    bool is_shown[COLUMN_COUNT];
    int bar_width; /* of the last column, which takes what is left */
} table;

/* Gives room to a width, up to `most`. */
static void spread(int *width, int most, int *room)
{
    int more = most - *width < *room ? most - *width : *room;

    *width += more;
    *room -= more;
}

/* The longest name, within reason: on a narrow screen columns are worth more than whole names. */
static int wanted_name_width(const esp_preview *preview, int room)
{
    int most = room < NARROW_TABLE ? LEAST_NAME_WIDTH + 4 : MOST_NAME_WIDTH, widest = LEAST_NAME_WIDTH;
    char name[128];

    for (int i = 0; preview && i < preview->layers.count; i++) {
        int width = ui_text_width(ui_layer_name(&preview->layers.items[i], name, sizeof name));
        widest = width > widest ? width : widest;
    }
    return widest < most ? widest : most;
}

static table plan_table(ui_rect rect, const esp_preview *preview)
{
    table plan = {.rect = rect,
                  .name_width = wanted_name_width(preview, rect.width),
                  .bar_width = columns[COLUMN_KEPT_BAR].width};
    int room = rect.width - 2 - plan.name_width;

    for (int rank = 0; rank < COLUMN_COUNT; rank++)
        for (int i = 0; i < COLUMN_COUNT; i++)
            if (columns[i].rank == rank && columns[i].width + 2 <= room) {
                plan.is_shown[i] = true;
                room -= columns[i].width + 2;
            }
    spread(&plan.bar_width, MOST_BAR_WIDTH, &room);
    return plan;
}

static int column_width(const table *plan, int id)
{
    return id == COLUMN_KEPT_BAR ? plan->bar_width : columns[id].width;
}

static void draw_header(ui_canvas *canvas, const table *plan)
{
    int x = plan->rect.x + 1;

    ui_text(canvas, x, plan->rect.y, plan->name_width, "layer", UI_HEADING);
    x += plan->name_width + 2;
    for (int i = 0; i < COLUMN_COUNT; i++) {
        if (!plan->is_shown[i])
            continue;
        if (columns[i].is_left)
            ui_text(canvas, x, plan->rect.y, column_width(plan, i), columns[i].title, UI_HEADING);
        else
            ui_text_right(canvas, x, plan->rect.y, column_width(plan, i), columns[i].title, UI_HEADING);
        x += column_width(plan, i) + 2;
    }
    ui_horizontal(canvas, plan->rect.x, plan->rect.y + 1, plan->rect.width, UI_BORDER);
}

/* ---- one row ---- */

typedef struct row {
    const esp_preview *preview;
    const esp_layer *layer;
    const esp_preview_layer *item;
    const char *word; /* why it is not ordinary, or "" */
    bool has_own_ratio;
    double most_params, most_macs;
} row;

/* Two digits, unless more were typed: 0.999 is not 1.00. */
static void ratio_text(char *text, size_t size, double ratio, bool is_own)
{
    bool is_short = fabs(100.0 * ratio - round(100.0 * ratio)) < 1e-6;

    snprintf(text, size, is_short ? "%s%.2f" : "%s%.4g", is_own ? "*" : "", ratio);
}

static void cell_text(const row *r, int id, char *text, size_t size, ui_element *element)
{
    *element = r->word[0] ? UI_DIM : UI_TEXT;
    switch (id) {
    case COLUMN_PARAMS:
        esp_format_count(text, size, (double)r->item->params_before);
        break;
    case COLUMN_MACS:
        esp_format_count(text, size, (double)r->item->macs_before);
        break;
    case COLUMN_ASKED:
        if (r->word[0])
            snprintf(text, size, "%.8s", r->word);
        else
            ratio_text(text, size, r->item->asked, r->has_own_ratio);
        *element = r->word[0] ? UI_DIM : r->has_own_ratio ? UI_ASKED : UI_TEXT;
        break;
    case COLUMN_GOT:
        if (r->item->takes_part)
            snprintf(text, size, "%.2f", r->item->got);
        else
            text[0] = '\0';
        *element = r->item->takes_part && r->item->got > 0 ? UI_STRONG : UI_DIM;
        break;
    case COLUMN_KEPT:
        if (r->item->grouping.labels)
            snprintf(text, size, "%lld grp", (long long)r->item->grouping.executed_groups);
        else
            snprintf(text, size, "%lld/%lld", (long long)r->item->filters_kept, (long long)r->layer->filters);
        break;
    default:
        text[0] = '\0';
    }
}

static double share(double value, double most)
{
    return most > 0 ? value / most : 0.0;
}

static void draw_cell(ui_canvas *canvas, const row *r, int id, int x, int y, int width)
{
    char text[48];
    ui_element element;

    switch (id) {
    case COLUMN_SHAPE:
        ui_text(canvas, x, y, width, ui_layer_shape(canvas, r->layer, text, sizeof text), UI_DIM);
        break;
    case COLUMN_PARAMS_BAR:
        ui_bar(canvas, x, y, width, share((double)r->item->params_before, r->most_params), UI_SHARE);
        break;
    case COLUMN_MACS_BAR:
        ui_bar(canvas, x, y, width, share((double)r->item->macs_before, r->most_macs), UI_SHARE);
        break;
    case COLUMN_KEPT_BAR:
        ui_bar_split(canvas, x, y, width,
                     share((double)r->item->params_after, (double)r->item->params_before), 1.0, UI_KEPT,
                     UI_CUT);
        break;
    default:
        cell_text(r, id, text, sizeof text, &element);
        ui_text_right(canvas, x, y, width, text, element);
    }
}

static void draw_row(ui_canvas *canvas, const table *plan, const row *r, int y)
{
    int x = plan->rect.x + 1;
    char name[128];

    ui_text_middle(canvas, x, y, plan->name_width, ui_layer_name(r->layer, name, sizeof name),
                   r->word[0] ? UI_DIM : UI_TEXT);
    x += plan->name_width + 2;
    for (int i = 0; i < COLUMN_COUNT; i++) {
        if (!plan->is_shown[i])
            continue;
        draw_cell(canvas, r, i, x, y, column_width(plan, i));
        x += column_width(plan, i) + 2;
    }
}

/* ---- the table ---- */

static row row_of(const ui_state *state, const esp_preview *preview, int layer)
{
    row r = {.preview = preview,
             .layer = &preview->layers.items[layer],
             .item = &preview->items[layer],
             .word = ui_layer_word(state, layer)};
    const esp_plan_rule *rule = esp_plan_layer_rule(&preview->plan, r.layer);

    r.has_own_ratio = rule && rule->ratio >= 0;
    for (int i = 0; i < preview->layers.count; i++) {
        const esp_preview_layer *item = &preview->items[i];
        r.most_params =
            (double)item->params_before > r.most_params ? (double)item->params_before : r.most_params;
        r.most_macs = (double)item->macs_before > r.most_macs ? (double)item->macs_before : r.most_macs;
    }
    return r;
}

static void draw_rows(ui_state *state, ui_canvas *canvas, const table *plan, const esp_preview *preview,
                      ui_rect rows)
{
    int shown = 0, cursor = 0, place = 0;

    for (int i = 0; i < preview->layers.count; i++) {
        if (i == state->layer)
            cursor = shown;
        shown += ui_layer_is_visible(state, i) ? 1 : 0;
    }
    state->layer_top = ui_scroll(state->layer_top, cursor, shown, rows.height);
    for (int i = 0; i < preview->layers.count; i++) {
        if (!ui_layer_is_visible(state, i))
            continue;
        int y = rows.y + place - state->layer_top;
        if (place >= state->layer_top && y < rows.y + rows.height) {
            row r = row_of(state, preview, i);
            draw_row(canvas, plan, &r, y);
            if (i == state->layer)
                ui_select_row(canvas, rows, y);
        }
        place++;
    }
    if (shown == 0)
        ui_say_empty(canvas, rows, "no layer has this in its name");
}

static void draw_layers(ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    const esp_preview *preview = esp_snapshot_preview(state->snapshot);
    table plan = plan_table(rect, preview);

    if (!preview) {
        ui_say_empty(canvas, rect, "opening the model");
        return;
    }
    draw_header(canvas, &plan);
    draw_rows(state, canvas, &plan, preview, ui_rect_shrink(rect, 0, 2, 0, 0));
}

const ui_view_ops ui_view_layers = {
    .title = "Layers", .has_side = true, .draw = draw_layers, .draw_side = ui_draw_layer_side};
