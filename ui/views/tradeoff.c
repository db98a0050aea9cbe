/* Trade-off: what cutting each part alone costs (a heatmap of the last sensitivity scan, ratios across), and
 * accuracy against MACs over all versions with their Pareto front. Wide terminals show both, narrow ones the
 * one chosen. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "ui/chart.h"
#include "ui/views/parts.h"

#define CELL_WIDTH  6
#define RATIO_WIDTH 7
#define LEAST_NAME  12
#define AXIS_WIDTH  7

/* ---- scan ---- */

/* Points of top-1 lost, to a heat: each step doubles what the one before means. */
static int heat_of(double lost)
{
    static const double most[] = {0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 25.0};
    int step = 0;

    while (step < (int)(sizeof most / sizeof *most) && lost > most[step])
        step++;
    return step;
}

static void draw_point(ui_canvas *canvas, int x, int y, const esp_scan_point *point)
{
    char text[16];
    int step = heat_of(-point->top1_change);

    if (!point->is_done) {
        ui_text_right(canvas, x, y, CELL_WIDTH, canvas->alphabet == UI_ASCII ? "." : "\u00b7", UI_FAINT);
        return;
    }
    snprintf(text, sizeof text, fabs(point->top1_change) < 9.95 ? "%.1f" : "%.0f", point->top1_change);
    ui_text_right(canvas, x, y, CELL_WIDTH, text, (ui_element)(UI_HEAT_0 + step));
    if (step == 0)
        ui_text_right(canvas, x, y, CELL_WIDTH, text, UI_DIM);
}

typedef struct scan_table {
    const esp_scan *scan;
    ui_rect rect;
    int name_width, first, shown; /* points of the grid that fit */
    const esp_scan_curve *grid;   /* a curve that has points */
} scan_table;

static const esp_scan_curve *curve_with_points(const esp_scan *scan)
{
    for (int c = 0; c < scan->curve_count; c++)
        if (scan->curves[c].point_count > 0)
            return &scan->curves[c];
    return NULL;
}

static scan_table plan_scan(const esp_scan *scan, ui_rect rect)
{
    scan_table table = {
        .scan = scan, .rect = rect, .grid = curve_with_points(scan), .name_width = LEAST_NAME};
    int count = table.grid ? table.grid->point_count : 0;
    int room = rect.width - 2 - LEAST_NAME - RATIO_WIDTH;

    table.shown = room / CELL_WIDTH < count ? room / CELL_WIDTH : count;
    table.shown = table.shown > 0 ? table.shown : 0;
    for (int c = 0; c < scan->curve_count; c++) {
        int width = ui_text_width(scan->curves[c].name);
        int most = LEAST_NAME + room - table.shown * CELL_WIDTH;
        width = width < most ? width : most;
        table.name_width = width > table.name_width ? width : table.name_width;
    }
    return table;
}

static void draw_scan_header(ui_canvas *canvas, const scan_table *table)
{
    int x = table->rect.x + 1 + table->name_width, y = table->rect.y;
    char text[16];

    ui_text(canvas, table->rect.x + 1, y, table->name_width, "part", UI_HEADING);
    for (int i = 0; i < table->shown; i++, x += CELL_WIDTH) {
        snprintf(text, sizeof text, "%.3g", table->grid->points[i].ratio);
        ui_text_right(canvas, x, y, CELL_WIDTH, text, UI_HEADING);
    }
    ui_text_right(canvas, x, y, RATIO_WIDTH, canvas->alphabet == UI_ASCII ? "1 pt" : "\u22641 pt",
                  UI_HEADING);
    ui_horizontal(canvas, table->rect.x, y + 1, table->rect.width, UI_BORDER);
}

static void draw_curve_row(const ui_state *state, ui_canvas *canvas, const scan_table *table,
                           const esp_scan_curve *curve, int y)
{
    int x = table->rect.x + 1;
    char name[96];

    ui_text_middle(canvas, x, y, table->name_width,
                   curve->layer >= 0
                       ? ui_layer_name(&esp_snapshot_preview(state->snapshot)->layers.items[curve->layer],
                                       name, sizeof name)
                       : curve->name,
                   curve->note[0] ? UI_DIM : UI_TEXT);
    x += table->name_width;
    if (curve->point_count == 0) {
        ui_text(canvas, x + 2, y, table->rect.x + table->rect.width - x - 2, curve->note, UI_DIM);
        return;
    }
    for (int i = 0; i < table->shown && i < curve->point_count; i++, x += CELL_WIDTH)
        draw_point(canvas, x, y, &curve->points[i]);
    ui_textf(canvas, x + RATIO_WIDTH - 4, y, 5, curve->ratio > 0 ? UI_STRONG : UI_DIM, "%4.2f", curve->ratio);
}

static int row_of_layer(const esp_scan *scan, int layer)
{
    for (int c = 0; c < scan->curve_count; c++)
        if (scan->curves[c].layer == layer)
            return c;
    return -1;
}

static void draw_scan(ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    const esp_scan *scan = state->snapshot ? state->snapshot->scan : NULL;
    ui_rect rows = ui_rect_shrink(rect, 0, 3, 0, 0);
    char title[160];

    if (!scan || scan->version != state->snapshot->current) {
        ui_heading(canvas, rect.x, rect.y, rect.width, "Sensitivity");
        ui_say_empty(canvas, rect,
                     state->snapshot && state->snapshot->data.is_open
                         ? "S measures what cutting each layer alone costs"
                         : "needs data: start with --data SPEC");
        return;
    }
    snprintf(title, sizeof title, "Sensitivity, %s: change of top-1 on %lld images, from %.1f %%%s", scan->by,
             (long long)scan->images, scan->top1, scan->is_running ? " (running)" : "");
    ui_heading(canvas, rect.x, rect.y, rect.width, title);
    scan_table table = plan_scan(scan, ui_rect_shrink(rect, 0, 1, 0, 0));
    draw_scan_header(canvas, &table);
    int cursor = row_of_layer(scan, state->layer);
    state->scan_top =
        ui_scroll(state->scan_top, cursor < 0 ? state->scan_top : cursor, scan->curve_count, rows.height);
    for (int c = state->scan_top; c < scan->curve_count && c - state->scan_top < rows.height; c++) {
        draw_curve_row(state, canvas, &table, &scan->curves[c], rows.y + c - state->scan_top);
        if (c == cursor)
            ui_select_row(canvas, rows, rows.y + c - state->scan_top);
    }
}

/* ---- versions ---- */

typedef struct tradeoff_range {
    double least_macs, most_macs, least_top1, most_top1;
    int count;
} tradeoff_range;

static bool is_measured(const esp_study_version *version)
{
    return version->metrics.eval_images > 0;
}

/* No other version has at most its MACs and a better accuracy, or fewer and the same. */
static bool is_on_front(const esp_versions *versions, const esp_study_version *version)
{
    double macs = (double)version->metrics.counts.macs, top1 = version->metrics.top1;

    for (int i = 0; i < versions->count; i++) {
        const esp_study_version *other = &versions->items[i];
        double other_macs = (double)other->metrics.counts.macs;
        if (!is_measured(other) || other == version || other_macs > macs || other->metrics.top1 < top1)
            continue;
        if (other_macs < macs || other->metrics.top1 > top1 || other->id < version->id)
            return false;
    }
    return true;
}

static tradeoff_range range_of(const esp_versions *versions)
{
    tradeoff_range range = {INFINITY, 0.0, INFINITY, -INFINITY, 0};

    for (int i = 0; versions && i < versions->count; i++) {
        const esp_metrics *metrics = &versions->items[i].metrics;
        if (metrics->eval_images == 0)
            continue;
        range.least_macs = fmin(range.least_macs, (double)metrics->counts.macs);
        range.most_macs = fmax(range.most_macs, (double)metrics->counts.macs);
        range.least_top1 = fmin(range.least_top1, metrics->top1);
        range.most_top1 = fmax(range.most_top1, metrics->top1);
        range.count++;
    }
    return range;
}

static int place(double value, double least, double most, int cells)
{
    return most > least ? (int)((value - least) / (most - least) * (cells - 1) + 0.5) : cells / 2;
}

/* A sign and the number of each version; those on the front stand out. */
static void draw_versions(const ui_state *state, ui_canvas *canvas, ui_rect chart, tradeoff_range range)
{
    const esp_versions *versions = state->snapshot->versions;
    bool is_ascii = canvas->alphabet == UI_ASCII;

    for (int i = 0; i < versions->count; i++) {
        const esp_study_version *version = &versions->items[i];
        bool is_front;
        int x, y;
        if (!is_measured(version))
            continue;
        is_front = is_on_front(versions, version);
        x = chart.x + place((double)version->metrics.counts.macs, 0.0, range.most_macs, chart.width - 3);
        y = chart.y + chart.height - 1 -
            place(version->metrics.top1, range.least_top1, range.most_top1, chart.height);
        ui_put(canvas, x, y, is_front ? (is_ascii ? '*' : 0x25cf) : (is_ascii ? 'o' : 0x25cb),
               is_front ? UI_GOOD : UI_DIM);
        ui_textf(canvas, x + 1, y, 3, version->id == state->snapshot->current ? UI_STRONG : UI_DIM, "%d",
                 version->id);
    }
}

static void draw_chart(ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    const esp_versions *versions = state->snapshot ? state->snapshot->versions : NULL;
    tradeoff_range range = range_of(versions);
    ui_rect chart = ui_rect_shrink(rect, AXIS_WIDTH, 2, 1, 2);
    char text[24];

    ui_heading(canvas, rect.x, rect.y, rect.width, "top-1 against MACs");
    if (range.count == 0 || ui_rect_is_empty(chart) || chart.width < 8) {
        ui_say_empty(canvas, rect, range.count == 0 ? "no version was evaluated yet" : "");
        return;
    }
    snprintf(text, sizeof text, "%.2f", range.most_top1);
    ui_text_right(canvas, rect.x,
                  chart.y + chart.height - 1 -
                      place(range.most_top1, range.least_top1, range.most_top1, chart.height),
                  AXIS_WIDTH - 1, text, UI_DIM);
    if (range.most_top1 > range.least_top1) {
        snprintf(text, sizeof text, "%.2f", range.least_top1);
        ui_text_right(canvas, rect.x, chart.y + chart.height - 1, AXIS_WIDTH - 1, text, UI_DIM);
    }
    ui_vertical(canvas, chart.x - 1, chart.y, chart.height, UI_BORDER);
    ui_horizontal(canvas, chart.x - 1, chart.y + chart.height, chart.width + 1, UI_BORDER);
    esp_format_count(text, sizeof text, range.most_macs);
    ui_text(canvas, chart.x, chart.y + chart.height + 1, chart.width, "0", UI_DIM);
    ui_text_right(canvas, chart.x, chart.y + chart.height + 1, chart.width, text, UI_DIM);
    draw_versions(state, canvas, chart, range);
}

/* ---- the view ---- */

static void draw_tradeoff(ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    bool has_side = rect.width < canvas->width; /* the chart is beside */

    if (!esp_snapshot_preview(state->snapshot))
        ui_say_empty(canvas, rect, "opening the model");
    else if (state->shows_versions && !has_side)
        draw_chart(state, canvas, rect);
    else
        draw_scan(state, canvas, rect);
}

static void draw_tradeoff_side(ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    ui_vertical(canvas, rect.x, rect.y, rect.height, UI_BORDER);
    draw_chart(state, canvas, ui_rect_shrink(rect, 1, 0, 0, 0));
}

const ui_view_ops ui_view_tradeoff = {
    .title = "Trade-off", .has_side = true, .draw = draw_tradeoff, .draw_side = draw_tradeoff_side};
