/* Saliency: how much each filter of the selected layer matters, in ascending order, with the threshold that
 * the asked ratio means for these scores; or, for WSP, both norms of every channel against each other with
 * both thresholds. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "ui/chart.h"
#include "ui/views/parts.h"

#define AXIS_WIDTH 8

static void axis_number(double value, char *text, size_t size)
{
    snprintf(text, size, value < 100 ? "%.3g" : "%.0f", value);
}

/* ---- sorted bars ---- */

/* The percentile that the ratio asks for, of scores in ascending order. */
static double threshold_of(const esp_layer_detail *detail, double ratio)
{
    double *sorted = esp_alloc((size_t)detail->filters, sizeof *sorted);
    double threshold = 0.0;

    if (!sorted)
        return threshold;
    memcpy(sorted, detail->scores, (size_t)detail->filters * sizeof *sorted);
    threshold = esp_percentile(sorted, detail->filters, 100.0 * ratio);
    esp_free(sorted);
    return threshold;
}

static void draw_threshold(ui_canvas *canvas, ui_rect chart, double share, double value)
{
    int y = chart.y + chart.height - 1 - (int)floor(fmin(share, 0.9999) * chart.height);
    char text[24];

    for (int x = chart.x; x < chart.x + chart.width; x++) {
        const ui_cell *cell = ui_canvas_at(canvas, x, y);
        if (cell && cell->rune == ' ')
            ui_put(canvas, x, y, canvas->alphabet == UI_ASCII ? '-' : 0x2504, UI_THRESHOLD);
    }
    axis_number(value, text, sizeof text);
    for (int x = chart.x - AXIS_WIDTH; x < chart.x - 1; x++)
        ui_put(canvas, x, y, ' ', UI_TEXT);
    ui_text_right(canvas, chart.x - AXIS_WIDTH, y, AXIS_WIDTH - 1, text, UI_THRESHOLD);
}

/* Under the filter that is asked about, on the axis. */
static void draw_cursor(const ui_state *state, ui_canvas *canvas, ui_rect chart,
                        const esp_layer_detail *detail)
{
    int64_t per_filter = chart.width / detail->filters;
    int64_t column;

    if (state->rank < 0 || state->rank >= detail->filters)
        return;
    column = per_filter > 0 ? state->rank * per_filter + (per_filter - 1) / 2
                            : state->rank * chart.width / detail->filters;
    ui_put(canvas, chart.x + (int)column, chart.y + chart.height, canvas->alphabet == UI_ASCII ? '^' : 0x25b2,
           UI_STRONG);
}

/* What there is to say about that filter where there is no panel beside the chart. */
static bool draw_why(const ui_state *state, ui_canvas *canvas, ui_rect chart, int y)
{
    const esp_explanation *explanation = ui_selected_explanation(state);

    if (!explanation || canvas->width >= UI_SIDE_FROM_WIDTH)
        return false;
    ui_textf(canvas, chart.x, y, chart.width, UI_TEXT, "filter %lld %s", (long long)explanation->channel,
             explanation->why);
    return true;
}

static void draw_bars(const ui_state *state, ui_canvas *canvas, ui_rect rect, const esp_layer_detail *detail)
{
    const esp_preview_layer *item = ui_selected_preview(state);
    ui_rect chart = ui_rect_shrink(rect, AXIS_WIDTH + 1, 0, 1, 2);
    double most = detail->scores[detail->order[detail->filters - 1]];
    double asked =
        esp_plan_layer_ratio(&esp_snapshot_preview(state->snapshot)->plan, ui_selected_layer(state));
    char text[128];

    axis_number(most, text, sizeof text);
    ui_text_right(canvas, chart.x - AXIS_WIDTH, chart.y, AXIS_WIDTH - 1, text, UI_DIM);
    ui_text_right(canvas, chart.x - AXIS_WIDTH, chart.y + chart.height - 1, AXIS_WIDTH - 1, "0", UI_DIM);
    ui_vertical(canvas, chart.x - 1, chart.y, chart.height, UI_BORDER);
    ui_draw_sorted(canvas, chart, detail, item);
    ui_horizontal(canvas, chart.x - 1, chart.y + chart.height, chart.width + 1, UI_BORDER);
    if (item->takes_part && most > 0) {
        double threshold = threshold_of(detail, asked);
        draw_threshold(canvas, chart, threshold / most, threshold);
    }
    int cut = 0;
    for (int64_t f = 0; f < detail->filters; f++)
        cut += ui_filter_is_kept(item, f) ? 0 : 1;
    draw_cursor(state, canvas, chart, detail);
    int x = chart.x, y = chart.y + chart.height + 1;
    if (draw_why(state, canvas, chart, y))
        return;
    x += ui_textf(canvas, x, y, chart.width, UI_DIM, "%lld filters, weakest first   ",
                  (long long)detail->filters);
    x += ui_textf(canvas, x, y, chart.x + chart.width - x, UI_KEPT, "%lld kept  ",
                  (long long)detail->filters - cut);
    x += ui_textf(canvas, x, y, chart.x + chart.width - x, UI_CUT, "%d cut  ", cut);
    if (item->takes_part)
        ui_textf(canvas, x, y, chart.x + chart.width - x, UI_THRESHOLD, "asked %.3g", asked);
    else
        ui_textf(canvas, x, y, chart.x + chart.width - x, UI_DIM, "takes no part: %s", item->note);
}

/* ---- scatter ---- */

/* As published a layer is its pair's writer; in sound mode it may be one of several of its set. */
static const esp_wsp_pair *pair_of(const esp_preview *preview, const esp_layer_detail *detail)
{
    for (int i = 0; i < preview->wsp.pair_count; i++) {
        const esp_wsp_pair *pair = &preview->wsp.pairs[i];
        if (pair->set >= 0 ? pair->set == detail->set : pair->writer == detail->layer)
            return pair;
    }
    return NULL;
}

static double largest(const double *values, int64_t count)
{
    double most = 0.0;

    for (int64_t i = 0; i < count; i++)
        most = fmax(most, values[i]);
    return most;
}

static bool is_weak(const esp_wsp_pair *pair, int64_t channel)
{
    for (int64_t i = 0; i < pair->weak_count; i++)
        if (pair->weak[i] == channel)
            return true;
    return false;
}

static int place(double value, double most, int cells)
{
    return most > 0 ? (int)fmin(floor(value / most * (cells - 1) + 0.5), cells - 1) : 0;
}

/* One sign per channel; a weak one wins over a strong one in its cell. */
static void draw_points(ui_canvas *canvas, ui_rect chart, const esp_wsp_pair *pair, double most_x,
                        double most_y)
{
    bool is_ascii = canvas->alphabet == UI_ASCII;

    for (int weak = 0; weak < 2; weak++)
        for (int64_t c = 0; c < pair->channels; c++)
            if (is_weak(pair, c) == (weak != 0))
                ui_put(canvas, chart.x + place(pair->filter_l1[c], most_x, chart.width),
                       chart.y + chart.height - 1 - place(pair->channel_l1[c], most_y, chart.height),
                       weak ? (is_ascii ? 'x' : 0x25cf) : (is_ascii ? 'o' : 0x2022),
                       weak ? UI_BAD : UI_POINT);
}

/* Threshold lines as thin rules in the cells behind the points, and the weak corner they close off. */
static void draw_corner(ui_canvas *canvas, ui_rect chart, double share_x, double share_y)
{
    int x = chart.x + place(share_x, 1.0, chart.width);
    int y = chart.y + chart.height - 1 - place(share_y, 1.0, chart.height);
    bool is_ascii = canvas->alphabet == UI_ASCII;

    for (int j = chart.y; j < chart.y + chart.height; j++)
        ui_put(canvas, x, j, is_ascii ? '|' : 0x2506, UI_THRESHOLD);
    for (int i = chart.x; i < chart.x + chart.width; i++)
        ui_put(canvas, i, y, is_ascii ? '-' : 0x2504, UI_THRESHOLD);
    ui_put(canvas, x, y, is_ascii ? '+' : 0x253c, UI_THRESHOLD);
    for (int j = y + 1; j < chart.y + chart.height; j++)
        for (int i = chart.x; i < x; i++)
            ui_put(canvas, i, j, is_ascii ? '.' : 0x2591, UI_TRACK);
}

static void draw_scatter(const ui_state *state, ui_canvas *canvas, ui_rect rect,
                         const esp_layer_detail *detail)
{
    const esp_preview *preview = esp_snapshot_preview(state->snapshot);
    const esp_wsp_pair *pair = pair_of(preview, detail);
    ui_rect chart = ui_rect_shrink(rect, AXIS_WIDTH + 1, 1, 1, 3);
    char text[128];

    if (!pair) {
        ui_say_empty(canvas, rect,
                     ui_selected_preview(state)->note[0] ? ui_selected_preview(state)->note
                                                         : "no layer reads what this one writes");
        return;
    }
    double most_x = fmax(largest(pair->filter_l1, pair->channels), pair->filter_threshold);
    double most_y = fmax(largest(pair->channel_l1, pair->channels), pair->channel_threshold);
    ui_textf(canvas, rect.x + 1, rect.y, rect.width - 2, UI_DIM, "L1 read by %s%s",
             ui_layer_name(&preview->layers.items[pair->reader], text, sizeof text),
             pair->set >= 0 ? " (coupled set, in units of each layer's mean)" : "");
    axis_number(most_y, text, sizeof text);
    ui_text_right(canvas, chart.x - AXIS_WIDTH, chart.y, AXIS_WIDTH - 1, text, UI_DIM);
    ui_vertical(canvas, chart.x - 1, chart.y, chart.height, UI_BORDER);
    ui_horizontal(canvas, chart.x - 1, chart.y + chart.height, chart.width + 1, UI_BORDER);
    if (pair->ratio > 0)
        draw_corner(canvas, chart, most_x > 0 ? pair->filter_threshold / most_x : 0,
                    most_y > 0 ? pair->channel_threshold / most_y : 0);
    draw_points(canvas, chart, pair, most_x, most_y);
    axis_number(most_x, text, sizeof text);
    ui_text(canvas, chart.x, chart.y + chart.height + 1, chart.width, "L1 of the filter", UI_DIM);
    ui_text_right(canvas, chart.x, chart.y + chart.height + 1, chart.width, text, UI_DIM);
    int x = chart.x, y = chart.y + chart.height + 2;
    x += ui_textf(canvas, x, y, chart.width, UI_POINT, "%lld channels   ", (long long)pair->channels);
    x += ui_textf(canvas, x, y, chart.width, UI_BAD, "%lld weak by both norms   ",
                  (long long)pair->weak_count);
    ui_textf(canvas, x, y, chart.x + chart.width - x, UI_THRESHOLD, "asked %.3g", pair->ratio);
}

/* ---- the view ---- */

static void draw_saliency(ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    const esp_layer *layer = ui_selected_layer(state);
    const esp_layer_detail *detail = ui_selected_detail(state);
    const esp_criterion *criterion = esp_criterion_at(state->criterion);
    ui_rect inside = ui_rect_shrink(rect, 0, 2, 0, 0);
    bool is_scatter =
        layer && state->shows_scatter && esp_snapshot_preview(state->snapshot)->plan.method == ESP_METHOD_WSP;
    char title[192];

    if (!layer) {
        ui_say_empty(canvas, rect, "opening the model");
        return;
    }
    ui_heading(canvas, rect.x, rect.y, rect.width, ui_layer_name(layer, title, sizeof title));
    if (is_scatter && detail) {
        draw_scatter(state, canvas, ui_rect_shrink(rect, 0, 1, 0, 0), detail);
        return;
    }
    ui_textf(canvas, rect.x + 1, rect.y + 1, rect.width - 2, UI_DIM, "%s: %s", criterion->name,
             criterion->title);
    if (detail)
        draw_bars(state, canvas, inside, detail);
    else
        ui_say_empty(canvas, inside, "scoring");
}

const ui_view_ops ui_view_saliency = {
    .title = "Saliency", .has_side = true, .draw = draw_saliency, .draw_side = ui_draw_layer_side};
