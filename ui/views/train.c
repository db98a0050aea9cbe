/* Train: the curves of the last fine-tuning, and a line per epoch. What was measured on held-back images is
 * drawn as signs, one per epoch, over the line of the running training figure, so that the two can be told
 * apart without colours. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "ui/chart.h"
#include "ui/views/parts.h"

#define AXIS_WIDTH 7
#define RATE_CHART 112 /* columns from which the learning rate has a chart of its own */
#define TALL_BODY  20
#define LOW_BODY   15
#define NARROW     37 /* columns of a chart whose legend is in short words */

typedef double pick_fn(const esp_training_point *point);

/* Averages of whole epochs lag behind the moving ones: they belong into the table. */
static double pick_loss(const esp_training_point *point)
{
    return point->is_validated ? (double)NAN : point->loss;
}
static double pick_validation_loss(const esp_training_point *point)
{
    return point->is_validated ? point->validation_loss : (double)NAN;
}
static double pick_top1(const esp_training_point *point)
{
    return point->is_validated ? point->top1 : (double)NAN;
}
static double pick_train_top1(const esp_training_point *point)
{
    return point->is_validated ? (double)NAN : point->train_top1;
}
static double pick_rate(const esp_training_point *point)
{
    return point->lr;
}

/* ---- a chart ---- */

typedef struct chart_curve {
    const char *word, *short_word;
    pick_fn *pick;
    ui_element element;
    bool is_signs; /* one per value, instead of a line */
} chart_curve;

typedef struct chart_plan {
    const char *title;
    chart_curve curves[2];
    int curve_count;
    double least_span; /* of the axis: noise is not to fill the chart */
    bool begins_at_0;
} chart_plan;

typedef struct curve_range {
    double least, most;
} curve_range;

/* Of the points from `first` on. */
static curve_range range_from(const esp_training_log *log, const chart_plan *plan, double first)
{
    curve_range range = {INFINITY, -INFINITY};

    for (int c = 0; c < plan->curve_count; c++)
        for (int i = 0; i < log->count; i++) {
            double value = plan->curves[c].pick(&log->points[i]);
            if (!isfinite(value) || log->points[i].epoch < first)
                continue;
            range.least = fmin(range.least, value);
            range.most = fmax(range.most, value);
        }
    return range;
}

/* A model that was just cut starts so badly that nothing else could be seen: then its start is drawn at the
 * edge. */
#define MOST_STRETCH   2.0
#define SETTLED_POINTS 8

static curve_range range_of(const esp_training_log *log, const chart_plan *plan)
{
    curve_range range = range_from(log, plan, 0.0), later = range_from(log, plan, DBL_MIN);
    double middle;

    if (log->count > SETTLED_POINTS && later.most > later.least &&
        range.most - range.least > MOST_STRETCH * (later.most - later.least))
        range = later;
    if (plan->begins_at_0 && isfinite(range.least))
        range.least = 0.0;
    if (!isfinite(range.least) || range.most - range.least >= plan->least_span)
        return range;
    middle = (range.most + range.least) / 2;
    range.least = fmax(middle - plan->least_span / 2, 0.0);
    range.most = range.least + plan->least_span;
    return range;
}

/* Where a point is, of `across` by `down`. */
static void place_of(const esp_training_log *log, const esp_training_point *point, double value,
                     curve_range range, int across, int down, int *column, int *row)
{
    double span = range.most > range.least ? range.most - range.least : 1.0;

    *column = (int)(point->epoch / fmax(log->epochs, 1e-9) * (across - 1));
    value = fmin(fmax(value, range.least), range.most);
    *row = (int)((range.most - value) / span * (down - 1) + 0.5);
}

static void draw_line(const esp_training_log *log, const chart_curve *curve, ui_dots *dots, curve_range range)
{
    int last_column = -1, last_row = 0;

    for (int i = 0; i < log->count; i++) {
        double value = curve->pick(&log->points[i]);
        int column, row;
        if (!isfinite(value))
            continue;
        place_of(log, &log->points[i], value, range, dots->columns, dots->rows, &column, &row);
        ui_dots_line(dots, last_column < 0 ? column : last_column, last_column < 0 ? row : last_row, column,
                     row, curve->element);
        last_column = column;
        last_row = row;
    }
}

static uint32_t sign_of(const ui_canvas *canvas)
{
    return canvas->alphabet == UI_ASCII ? 'o' : 0x25cf;
}

static void draw_signs(const esp_training_log *log, const chart_curve *curve, ui_canvas *canvas,
                       ui_rect chart, curve_range range)
{
    for (int i = 0; i < log->count; i++) {
        double value = curve->pick(&log->points[i]);
        int column, row;
        if (!isfinite(value))
            continue;
        place_of(log, &log->points[i], value, range, chart.width, chart.height, &column, &row);
        ui_put(canvas, chart.x + column, chart.y + row, sign_of(canvas), curve->element);
    }
}

/* "loss  - training  o validation" */
static void draw_legend(const chart_plan *plan, ui_canvas *canvas, ui_rect rect)
{
    bool is_ascii = canvas->alphabet == UI_ASCII;
    bool is_narrow = rect.width < NARROW;
    int x = rect.x + 1, end = rect.x + rect.width - (is_narrow ? 0 : 1);

    x += ui_text(canvas, x, rect.y, end - x, plan->title, UI_HEADING) + (is_narrow ? 1 : 2);
    for (int c = 0; c < plan->curve_count && plan->curve_count > 1; c++) {
        const chart_curve *shown = &plan->curves[c];
        const char *word = is_narrow ? shown->short_word : shown->word;
        if (x + ui_text_width(word) + 2 > end)
            return;
        ui_put(canvas, x, rect.y,
               shown->is_signs ? sign_of(canvas)
               : is_ascii      ? '*'
                               : 0x2500,
               shown->element);
        x += 2 + ui_text(canvas, x + 2, rect.y, end - x - 2, word, UI_DIM) + (is_narrow ? 1 : 2);
    }
}

/* Values at the left, epochs below. */
static void draw_axes(const esp_training_log *log, ui_canvas *canvas, ui_rect chart, curve_range range)
{
    char text[24];

    ui_vertical(canvas, chart.x - 1, chart.y, chart.height, UI_BORDER);
    ui_horizontal(canvas, chart.x - 1, chart.y + chart.height, chart.width + 1, UI_BORDER);
    snprintf(text, sizeof text, "%g", log->epochs);
    ui_text_right(canvas, chart.x, chart.y + chart.height, chart.width, text, UI_DIM);
    ui_text(canvas, chart.x - 1, chart.y + chart.height, 1, "0", UI_DIM);
    if (!isfinite(range.least))
        return;
    for (int row = 0; row<chart.height; row += chart.height> 6 ? (chart.height - 1) / 2 : chart.height - 1) {
        double share = chart.height > 1 ? (double)row / (chart.height - 1) : 0.0;
        double value = range.most - share * (range.most - range.least);
        snprintf(text, sizeof text, value > 0 && value < 1e-3 ? "%.0e" : "%.3g", value);
        ui_text_right(canvas, chart.x - AXIS_WIDTH - 1, chart.y + row, AXIS_WIDTH, text, UI_DIM);
        if (chart.height < 2)
            break;
    }
}

static void draw_chart(const esp_training_log *log, ui_canvas *canvas, ui_rect rect, const chart_plan *plan)
{
    ui_rect chart = ui_rect_shrink(rect, AXIS_WIDTH + 1, 1, 1, 1);
    curve_range range = range_of(log, plan);
    ui_dots dots;
    esp_error ignored = {0};

    draw_legend(plan, canvas, rect);
    if (ui_rect_is_empty(chart))
        return;
    draw_axes(log, canvas, chart, range);
    if (!isfinite(range.least) || ui_dots_new(canvas, chart, &dots, &ignored) != ESP_OK)
        return;
    for (int c = 0; c < plan->curve_count; c++)
        if (!plan->curves[c].is_signs)
            draw_line(log, &plan->curves[c], &dots, range);
    ui_dots_draw(&dots);
    for (int c = 0; c < plan->curve_count; c++)
        if (plan->curves[c].is_signs)
            draw_signs(log, &plan->curves[c], canvas, chart, range);
}

static const char *measured_word(const esp_training_log *log)
{
    return log->is_on_test ? "test" : "validation";
}

static chart_plan loss_plan(const esp_training_log *log)
{
    return (chart_plan){.title = "loss",
                        .curves = {{"training", "train", pick_loss, UI_LINE_LOSS, false},
                                   {measured_word(log), log->is_on_test ? "test" : "valid.",
                                    pick_validation_loss, UI_LINE_TOP1, true}},
                        .curve_count = 2,
                        .least_span = 0.01};
}

static chart_plan accuracy_plan(const esp_training_log *log)
{
    return (chart_plan){
        .title = "top-1 %",
        .curves = {{"training", "train", pick_train_top1, UI_LINE_LOSS, false},
                   {measured_word(log), log->is_on_test ? "test" : "valid.", pick_top1, UI_LINE_TOP1, true}},
        .curve_count = 2,
        .least_span = 1.0};
}

static chart_plan rate_plan(void)
{
    return (chart_plan){.title = "learning rate",
                        .curves = {{"", "", pick_rate, UI_LINE_LR, false}},
                        .curve_count = 1,
                        .begins_at_0 = true};
}

/* ---- what runs now ---- */

/* "epoch 1.4 of 5   lr 0.0093   1240 images/s   2m10s left" */
static void draw_now(const ui_state *state, ui_canvas *canvas, ui_rect rect, const esp_training_log *log)
{
    const esp_training_point *last = log->count > 0 ? &log->points[log->count - 1] : NULL;
    bool hides = state->snapshot->hides_timings;
    char eta[24] = "", text[160];
    int used;

    if (!last) {
        ui_text(canvas, rect.x + 1, rect.y, rect.width - 2, "measuring the start", UI_DIM);
        return;
    }
    used = snprintf(text, sizeof text, "epoch %.3g of %g   lr %.3g", last->epoch, log->epochs, last->lr);
    if (last->images_per_s > 0)
        used +=
            hides ? snprintf(text + used, sizeof text - (size_t)used, "   # images/s")
                  : snprintf(text + used, sizeof text - (size_t)used, "   %.0f images/s", last->images_per_s);
    if (log->is_running && last->eta_s >= 0)
        snprintf(text + used, sizeof text - (size_t)used, "   %s left",
                 hides ? "#" : esp_format_duration(eta, sizeof eta, last->eta_s));
    ui_text(canvas, rect.x + 1, rect.y, rect.width - 2, text, log->is_running ? UI_STRONG : UI_TEXT);
}

/* The learning rate as one row, where a chart of it has no room. */
static void draw_rate_row(ui_canvas *canvas, ui_rect rect, const esp_training_log *log)
{
    int x = rect.x + AXIS_WIDTH + 1, width = rect.width - AXIS_WIDTH - 2;
    double most = 0.0;

    ui_text_right(canvas, rect.x, rect.y, AXIS_WIDTH, "lr", UI_HEADING);
    for (int i = 0; i < log->count; i++)
        most = isfinite(log->points[i].lr) ? fmax(most, log->points[i].lr) : most;
    for (int i = 0, drawn = -1; i < log->count && most > 0; i++) {
        int column = (int)(log->points[i].epoch / fmax(log->epochs, 1e-9) * (width - 1));
        for (; drawn < column && log->points[i].lr > 0; drawn++)
            ui_sparkline(canvas, x + drawn + 1, rect.y, 1, &log->points[i].lr, 1, most, UI_LINE_LR);
    }
}

/* ---- the line per epoch ---- */

typedef struct epoch_columns {
    bool has_validation_loss; /* there is room for it */
    const char *best;         /* the word for a best epoch that there is room for */
} epoch_columns;

static epoch_columns plan_columns(int width)
{
    return (epoch_columns){.has_validation_loss = width >= 78,
                           .best = width >= 82   ? "  best so far"
                                   : width >= 76 ? "  best"
                                                 : ""};
}

static char *number_or_dash(char *text, size_t size, int digits, double value)
{
    if (isfinite(value))
        snprintf(text, size, "%.*f", digits, value);
    else
        snprintf(text, size, "-");
    return text;
}

static void draw_epoch(const ui_state *state, ui_canvas *canvas, ui_rect rect, int y,
                       const esp_training_point *point)
{
    epoch_columns columns = plan_columns(rect.width);
    char loss[16], validation[24] = "", cell[16], train[16], top1[16], rate[16] = "####";

    if (columns.has_validation_loss)
        snprintf(validation, sizeof validation, "  %8s",
                 number_or_dash(cell, sizeof cell, 3, pick_validation_loss(point)));
    if (point->epoch <= 0)
        snprintf(rate, sizeof rate, "-");
    else if (!state->snapshot->hides_timings)
        snprintf(rate, sizeof rate, "%.0f", point->images_per_s);
    ui_textf(canvas, rect.x + 1, y, rect.width - 2, point->is_best ? UI_GOOD : UI_TEXT,
             "%s%4.4g  %8s%s  %8s  %8s  %8.3g  %8s%s", point->is_best ? "*" : " ", point->epoch,
             number_or_dash(loss, sizeof loss, 3, point->loss), validation,
             number_or_dash(train, sizeof train, 2, point->train_top1),
             number_or_dash(top1, sizeof top1, 2, pick_top1(point)), point->lr, rate,
             point->is_best ? columns.best : "");
}

static void draw_epochs(const ui_state *state, ui_canvas *canvas, ui_rect rect, const esp_training_log *log,
                        bool has_rule)
{
    int shown = 0, first = log->count, room = rect.height - (has_rule ? 2 : 1);
    int y = rect.y + (has_rule ? 2 : 1);

    /* The latest that fit; points inside an epoch are for the curves only. */
    while (first > 0 && shown < room) {
        first--;
        shown += log->points[first].is_validated ? 1 : 0;
    }
    ui_textf(canvas, rect.x + 1, rect.y, rect.width - 2, UI_HEADING,
             "epoch      loss%s   train %%  %8s        lr  images/s",
             plan_columns(rect.width).has_validation_loss ? log->is_on_test ? "   in test" : "  in valid."
                                                          : "",
             log->is_on_test ? "test %" : "valid. %");
    if (has_rule)
        ui_horizontal(canvas, rect.x, rect.y + 1, rect.width, UI_BORDER);
    for (int i = first; i < log->count; i++)
        if (log->points[i].is_validated && y < rect.y + rect.height)
            draw_epoch(state, canvas, rect, y++, &log->points[i]);
}

/* ---- all of it ---- */

static void draw_charts(const esp_training_log *log, ui_canvas *canvas, ui_rect rect)
{
    const chart_plan loss = loss_plan(log), accuracy = accuracy_plan(log), rate = rate_plan();
    bool has_rate_chart = rect.width >= RATE_CHART;
    int third = rect.width / 4;
    ui_rect both = has_rate_chart ? ui_rect_shrink(rect, 0, 0, third, 0) : ui_rect_shrink(rect, 0, 0, 0, 1);
    ui_rect left = {both.x, both.y, both.width / 2, both.height};
    ui_rect right = {left.x + left.width, left.y, both.width - left.width, left.height};

    draw_chart(log, canvas, left, &loss);
    draw_chart(log, canvas, right, &accuracy);
    if (has_rate_chart)
        draw_chart(log, canvas, (ui_rect){both.x + both.width, rect.y, third, rect.height}, &rate);
    else
        draw_rate_row(canvas, (ui_rect){rect.x, rect.y + rect.height - 1, rect.width, 1}, log);
}

static void say_nothing_yet(const ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    const esp_snapshot *snapshot = state->snapshot;
    const esp_unfinished *unfinished = snapshot ? &snapshot->unfinished : NULL;
    char text[128];

    if (unfinished && unfinished->version) {
        snprintf(text, sizeof text, "a training of version %d stopped at epoch %.3g of %g: T goes on with it",
                 unfinished->version, unfinished->position, unfinished->epochs);
        ui_say_empty(canvas, rect, text);
    } else {
        ui_say_empty(canvas, rect,
                     snapshot && snapshot->data.is_open ? "no training yet: t fine-tunes the current version"
                                                        : "no training yet: it needs data, --data SPEC");
    }
}

static void draw_train(ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    const esp_training_log *log = state->snapshot ? state->snapshot->training : NULL;
    bool has_rule = rect.height >= LOW_BODY;
    int table_rows = rect.height >= TALL_BODY ? rect.height / 3 : has_rule ? 5 : 3;
    ui_rect charts = ui_rect_shrink(rect, 0, 2, 0, table_rows);
    const esp_unfinished *unfinished = state->snapshot ? &state->snapshot->unfinished : NULL;
    bool is_unfinished;
    char title[128], resumed[48] = "";

    if (!log) {
        say_nothing_yet(state, canvas, rect);
        return;
    }
    is_unfinished = !log->is_running && unfinished->version == log->from_version;
    if (is_unfinished)
        snprintf(resumed, sizeof resumed, ", stopped at %.3g: T goes on", unfinished->position);
    else if (log->resumed_at > 0)
        snprintf(resumed, sizeof resumed, ", resumed at %.3g", log->resumed_at);
    snprintf(title, sizeof title, "%s version %d, %g epoch%s%s",
             log->is_running || is_unfinished ? "fine-tuning" : "fine-tuned", log->from_version, log->epochs,
             log->epochs == 1.0 ? "" : "s", resumed);
    ui_heading(canvas, rect.x, rect.y, rect.width, title);
    draw_now(state, canvas, (ui_rect){rect.x, rect.y + 1, rect.width, 1}, log);
    draw_charts(log, canvas, charts);
    draw_epochs(state, canvas, (ui_rect){rect.x, rect.y + rect.height - table_rows, rect.width, table_rows},
                log, has_rule);
}

const ui_view_ops ui_view_train = {
    .title = "Train", .has_side = false, .draw = draw_train, .draw_side = NULL};
