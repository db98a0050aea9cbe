/* Train: the curves of the last fine-tuning, and a line per epoch. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "ui/chart.h"
#include "ui/views/parts.h"

#define AXIS_WIDTH 7

typedef double pick_fn(const esp_training_point *point);

static double pick_loss(const esp_training_point *point)
{
    return point->loss;
}
static double pick_top1(const esp_training_point *point)
{
    return point->is_validated ? point->top1 : (double)NAN;
}
static double pick_train_top1(const esp_training_point *point)
{
    return point->train_top1;
}

typedef struct curve_range {
    double least, most;
} curve_range;

static curve_range range_of(const esp_training_log *log, pick_fn *pick, curve_range range)
{
    for (int i = 0; i < log->count; i++) {
        double value = pick(&log->points[i]);
        if (!isfinite(value))
            continue;
        range.least = fmin(range.least, value);
        range.most = fmax(range.most, value);
    }
    return range;
}

static void draw_curve(const esp_training_log *log, pick_fn *pick, ui_dots *dots, curve_range range,
                       ui_element element)
{
    int last_column = -1, last_row = 0;
    double span = range.most > range.least ? range.most - range.least : 1.0;

    for (int i = 0; i < log->count; i++) {
        double value = pick(&log->points[i]);
        if (!isfinite(value))
            continue;
        int column = (int)(log->points[i].epoch / fmax(log->epochs, 1e-9) * (dots->columns - 1));
        int row = (int)((range.most - value) / span * (dots->rows - 1) + 0.5);
        ui_dots_line(dots, last_column < 0 ? column : last_column, last_column < 0 ? row : last_row, column,
                     row, element);
        last_column = column;
        last_row = row;
    }
}

/* One chart with up to two curves on a common scale. */
static void draw_chart(const esp_training_log *log, ui_canvas *canvas, ui_rect rect, const char *title,
                       pick_fn *first, ui_element first_element, pick_fn *second, ui_element second_element)
{
    ui_rect chart = ui_rect_shrink(rect, AXIS_WIDTH + 1, 1, 1, 1);
    curve_range range = range_of(log, first, (curve_range){INFINITY, -INFINITY});
    ui_dots dots;
    esp_error ignored = {0};

    if (second)
        range = range_of(log, second, range);
    ui_text(canvas, rect.x + 1, rect.y, rect.width - 2, title, UI_HEADING);
    ui_vertical(canvas, chart.x - 1, chart.y, chart.height, UI_BORDER);
    ui_horizontal(canvas, chart.x - 1, chart.y + chart.height, chart.width + 1, UI_BORDER);
    if (!isfinite(range.least) || ui_rect_is_empty(chart))
        return;
    char text[16];
    snprintf(text, sizeof text, "%.4g", range.most);
    ui_text_right(canvas, chart.x - AXIS_WIDTH - 1, chart.y, AXIS_WIDTH, text, UI_DIM);
    snprintf(text, sizeof text, "%.4g", range.least);
    ui_text_right(canvas, chart.x - AXIS_WIDTH - 1, chart.y + chart.height - 1, AXIS_WIDTH, text, UI_DIM);
    if (ui_dots_new(canvas, chart, &dots, &ignored) != ESP_OK)
        return;
    if (second)
        draw_curve(log, second, &dots, range, second_element);
    draw_curve(log, first, &dots, range, first_element);
    ui_dots_draw(&dots);
}

/* ---- the line per epoch ---- */

static void number_or_dash(char *text, size_t size, const char *format_value, double value)
{
    if (isfinite(value))
        snprintf(text, size, "%s", format_value);
    else
        snprintf(text, size, "-");
}

static void draw_epoch(const ui_state *state, ui_canvas *canvas, ui_rect rect, int y,
                       const esp_training_point *point)
{
    char loss[16], train[16], top1[16], rate[16], value[16];

    snprintf(value, sizeof value, "%.3f", point->loss);
    number_or_dash(loss, sizeof loss, value, point->loss);
    snprintf(value, sizeof value, "%.2f", point->train_top1);
    number_or_dash(train, sizeof train, value, point->train_top1);
    snprintf(value, sizeof value, "%.2f", point->top1);
    number_or_dash(top1, sizeof top1, value, point->is_validated ? point->top1 : (double)NAN);
    snprintf(rate, sizeof rate, "%.0f", point->images_per_s);
    ui_textf(canvas, rect.x + 1, y, rect.width - 2, point->is_best ? UI_GOOD : UI_TEXT,
             "%5.4g  %8s  %8s  %8s  %8.4g  %8s%s", point->epoch, loss, train, top1, point->lr,
             state->snapshot->hides_timings ? "####" : rate, point->is_best ? "  best so far" : "");
}

static void draw_epochs(const ui_state *state, ui_canvas *canvas, ui_rect rect, const esp_training_log *log)
{
    int shown = 0, first = log->count;

    /* The latest that fit; points inside an epoch are for the curves only. */
    while (first > 0 && shown < rect.height - 2) {
        first--;
        shown += log->points[first].is_validated ? 1 : 0;
    }
    ui_text(canvas, rect.x + 1, rect.y, rect.width - 2,
            "epoch      loss   train %    test %        lr  images/s", UI_HEADING);
    ui_horizontal(canvas, rect.x, rect.y + 1, rect.width, UI_BORDER);
    int y = rect.y + 2;
    for (int i = first; i < log->count; i++)
        if (log->points[i].is_validated && y < rect.y + rect.height)
            draw_epoch(state, canvas, rect, y++, &log->points[i]);
}

static void draw_train(ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    const esp_training_log *log = state->snapshot ? state->snapshot->training : NULL;
    int table_rows = rect.height >= 20 ? 8 : 5;
    ui_rect charts = ui_rect_shrink(rect, 0, 1, 0, table_rows);
    ui_rect left = {charts.x, charts.y, charts.width / 2, charts.height};
    char title[96];

    if (!log) {
        ui_say_empty(canvas, rect, "no training yet: t fine-tunes the current version");
        return;
    }
    snprintf(title, sizeof title, "%s version %d, %g epoch%s", log->is_running ? "fine-tuning" : "fine-tuned",
             log->from_version, log->epochs, log->epochs == 1.0 ? "" : "s");
    ui_heading(canvas, rect.x, rect.y, rect.width, title);
    draw_chart(log, canvas, left, "training loss", pick_loss, UI_LINE_LOSS, NULL, UI_TEXT);
    draw_chart(log, canvas, (ui_rect){left.x + left.width, left.y, charts.width - left.width, left.height},
               "top-1 % (test, training)", pick_top1, UI_LINE_TOP1, pick_train_top1, UI_LINE_LR);
    draw_epochs(state, canvas, (ui_rect){rect.x, rect.y + rect.height - table_rows, rect.width, table_rows},
                log);
}

const ui_view_ops ui_view_train = {
    .title = "Train", .has_side = false, .draw = draw_train, .draw_side = NULL};
