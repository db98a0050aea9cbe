/* What surrounds the views. The status line is always there and always complete: baseline -> now for parameters, MACs,
 * latency and accuracy; what is not known yet is a dash. */
#include "ui/frame.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "ui/actions.h"
#include "ui/chart.h"
#include "ui/prompt.h"

static const char *arrow(const ui_canvas *canvas) { return canvas->alphabet == UI_ASCII ? "->" : "\u2192"; }

static const char *dash(const ui_canvas *canvas) { return canvas->alphabet == UI_ASCII ? "-" : "\u2013"; }

/* ---- tabs ---- */

static void draw_tabs(const ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    const esp_study_version *current = esp_snapshot_current(state->snapshot);
    const esp_study_version *root = esp_snapshot_baseline(state->snapshot);
    int x = rect.x + 1;
    char place[128] = "";
    bool is_wide = rect.width >= 76;

    if (is_wide)
        x += ui_text(canvas, x, rect.y, 9, "espalier", UI_BRAND) + 2;
    for (int view = 0; view < UI_VIEW_COUNT; view++) {
        bool is_active = view == (int)state->view;
        bool is_named = is_wide || is_active;
        char label[32];
        if (view == UI_VIEW_HELP)
            snprintf(label, sizeof label, is_active ? " ? Help " : " ? ");
        else
            snprintf(label, sizeof label, is_named ? " %d %s " : " %d ", view + 1, ui_view_of((ui_view_id)view)->title);
        x += ui_text(canvas, x, rect.y, rect.width - x, label, is_active ? UI_TAB_ACTIVE : UI_TAB);
    }
    if (current && current->id != root->id)
        snprintf(place, sizeof place, "%.60s v%d", root->title, current->id);
    else if (current)
        snprintf(place, sizeof place, "%s", root->title);
    if (rect.width - x - 2 > 3) {
        int room = rect.width - x - 2, needed = ui_text_width(place);
        ui_text_middle(canvas, needed < room ? rect.width - 1 - needed : x + 1, rect.y, room, place, UI_DIM);
    }
}

/* ---- status ---- */

typedef struct figure {
    const char *label;
    char before[24], now[40], change[16];
    ui_element element;
} figure;

static void count_figure(figure *out, const char *label, double before, double now)
{
    out->label = label;
    esp_format_count(out->before, sizeof out->before, before);
    esp_format_count(out->now, sizeof out->now, now);
    out->element = UI_STRONG;
    if (before > 0 && fabs(now - before) > 0) {
        snprintf(out->change, sizeof out->change, "%+.0f%%", 100.0 * (now - before) / before);
        out->element = now < before ? UI_GOOD : UI_BAD;
    }
}

static void latency_text(const ui_state *state, const ui_canvas *canvas, const esp_study_version *version, char *text, size_t size)
{
    if (!version || version->metrics.latency_ms < 0)
        snprintf(text, size, "%s", dash(canvas));
    else if (state->snapshot->hides_timings)
        snprintf(text, size, "#.## ms");
    else
        esp_format_duration(text, size, version->metrics.latency_ms / 1000.0);
}

static void accuracy_text(const ui_canvas *canvas, int64_t images, bool is_full, double top1, double error, char *text,
                          size_t size)
{
    if (images == 0)
        snprintf(text, size, "%s", dash(canvas));
    else if (is_full)
        snprintf(text, size, "%.2f", top1);
    else
        snprintf(text, size, canvas->alphabet == UI_ASCII ? "%.1f+-%.1f" : "%.1f\u00b1%.1f", top1, error);
}

/* Accuracy now: the plan's when it cuts something, else the version's. */
static void accuracy_figure(const ui_state *state, const ui_canvas *canvas, figure *out)
{
    const esp_snapshot *snapshot = state->snapshot;
    const esp_metrics *before = &esp_snapshot_baseline(snapshot)->metrics;
    const esp_metrics *now = &esp_snapshot_current(snapshot)->metrics;
    bool is_plan = esp_snapshot_has_cut(snapshot);
    int64_t images = is_plan ? snapshot->estimate.images : now->eval_images;
    double top1 = is_plan ? snapshot->estimate.top1 : now->top1;
    double error = is_plan ? snapshot->estimate.top1_error : now->top1_error;

    out->label = "top-1";
    out->element = UI_STRONG;
    accuracy_text(canvas, before->eval_images, before->eval_is_full, before->top1, before->top1_error, out->before,
                  sizeof out->before);
    accuracy_text(canvas, images, is_plan ? snapshot->estimate.is_full : now->eval_is_full, top1, error, out->now,
                  sizeof out->now);
    if (images > 0 && before->eval_images > 0 && fabs(top1 - before->top1) > fmax(error, 0.05))
        out->element = top1 > before->top1 ? UI_GOOD : UI_BAD;
}

static int collect_figures(const ui_state *state, const ui_canvas *canvas, figure figures[4])
{
    const esp_preview *preview = esp_snapshot_preview(state->snapshot);
    const esp_study_version *root = esp_snapshot_baseline(state->snapshot);

    memset(figures, 0, 4 * sizeof *figures);
    if (!preview || !root)
        return 0;
    count_figure(&figures[0], "params", (double)root->metrics.counts.params, (double)preview->after.params);
    count_figure(&figures[1], "MACs", (double)root->metrics.counts.macs, (double)preview->after.macs);
    figures[2].label = "latency";
    figures[2].element = UI_STRONG;
    latency_text(state, canvas, root, figures[2].before, sizeof figures[2].before);
    latency_text(state, canvas, esp_snapshot_current(state->snapshot), figures[2].now, sizeof figures[2].now);
    accuracy_figure(state, canvas, &figures[3]);
    return 4;
}

/* Columns of a figure: label, before, arrow, now and, with `detail` 2, the change. */
static int draw_figure(ui_canvas *canvas, int x, int y, int room, const figure *shown, int detail)
{
    int start = x;

    if (detail >= 1)
        x += ui_textf(canvas, x, y, room, UI_DIM, "%s ", shown->label);
    x += ui_text(canvas, x, y, room - (x - start), shown->before, UI_TEXT);
    x += ui_textf(canvas, x, y, room - (x - start), UI_DIM, detail >= 1 ? " %s " : "%s", arrow(canvas));
    x += ui_text(canvas, x, y, room - (x - start), shown->now, shown->element);
    if (detail >= 2 && shown->change[0])
        x += ui_textf(canvas, x, y, room - (x - start), shown->element, " %s", shown->change);
    return x - start;
}

static int figure_width(const ui_canvas *canvas, const figure *shown, int detail)
{
    int width = ui_text_width(shown->before) + ui_text_width(shown->now) + ui_text_width(arrow(canvas));

    if (detail >= 1)
        width += ui_text_width(shown->label) + 3;
    if (detail >= 2 && shown->change[0])
        width += ui_text_width(shown->change) + 1;
    return width;
}

/* As much detail as fits; the change in percent goes first, then the labels. */
static void draw_figures(const ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    figure figures[4];
    int count = collect_figures(state, canvas, figures);
    int detail = 2, x = rect.x + 1, total;

    if (count == 0) {
        ui_text(canvas, x, rect.y, rect.width - 2, state->failure ? "" : "opening the model", UI_DIM);
        return;
    }
    for (; detail > 0; detail--) {
        total = 2 + 3 * (count - 1);
        for (int i = 0; i < count; i++)
            total += figure_width(canvas, &figures[i], detail);
        if (total <= rect.width)
            break;
    }
    for (int i = 0; i < count; i++)
        x += draw_figure(canvas, x, rect.y, rect.x + rect.width - x, &figures[i], detail) + (detail > 0 ? 3 : 2);
}

static void draw_plan_line(const ui_state *state, ui_canvas *canvas, ui_rect rect, int y)
{
    const esp_preview *preview = esp_snapshot_preview(state->snapshot);
    const esp_data_state *data = &state->snapshot->data;
    const char *dot = canvas->alphabet == UI_ASCII ? "|" : "\u00b7";
    char text[256], groups[32] = "", rules[32] = "";

    if (!preview)
        return;
    if (preview->plan.method == ESP_METHOD_SG)
        snprintf(groups, sizeof groups, " %s %d groups", dot, preview->plan.groups);
    if (preview->plan.rule_count > 0)
        snprintf(rules, sizeof rules, " %s %d layer rule%s", dot, preview->plan.rule_count,
                 preview->plan.rule_count == 1 ? "" : "s");
    snprintf(text, sizeof text, "plan %s %s %s %s ratio %.2f%s%s", esp_method_word(preview->plan.method), dot,
             esp_mode_word(preview->plan.mode), dot, preview->plan.conv_ratio, groups, rules);
    int used = ui_text(canvas, rect.x + 1, y, rect.width - 2, text, UI_DIM);
    snprintf(text, sizeof text, "%s%s", data->is_open ? data->name : "no data", state->snapshot->has_study ? " + study" : "");
    if (rect.width - used - 6 > 10)
        ui_text_right(canvas, rect.x + used + 4, y, rect.width - used - 5, text, UI_DIM);
}

static void draw_status(const ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    if (rect.height >= 2) {
        draw_plan_line(state, canvas, rect, rect.y);
        draw_figures(state, canvas, (ui_rect){rect.x, rect.y + 1, rect.width, 1});
        return;
    }
    draw_figures(state, canvas, rect);
}

/* ---- message, progress, prompt ---- */

static ui_cursor draw_prompt(const ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    const ui_prompt *prompt = &state->prompt;
    int x = rect.x + 1 + ui_text(canvas, rect.x + 1, rect.y, rect.width - 12, prompt->label, UI_PROMPT);
    int room = rect.x + rect.width - x - 2;
    const char *shown = prompt->text;

    if (ui_prompt_is_choice(prompt))
        return (ui_cursor){x + 1, rect.y};
    x += ui_text(canvas, x, rect.y, 2, ": ", UI_PROMPT);
    room -= 2;
    while (*shown && ui_text_width(shown) > room)
        shown++;
    x += ui_text(canvas, x, rect.y, room, shown, UI_TEXT);
    return (ui_cursor){x, rect.y};
}

static void draw_progress(const ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    const esp_progress_copy *progress = &state->progress;
    double share = progress->total > 0 ? progress->done / progress->total : 0.0;
    int x = rect.x + 1, end = rect.x + rect.width - 1;
    char eta[24] = "";

    x += ui_textf(canvas, x, rect.y, end - x, UI_STRONG, "%s ", state->running_title);
    ui_bar(canvas, x, rect.y, 14, share, UI_KEPT);
    x += 15;
    x += ui_textf(canvas, x, rect.y, end - x, UI_TEXT, "%3.0f%%  %s", 100.0 * share, progress->detail);
    if (!state->snapshot->hides_timings && progress->eta_s >= 0) {
        esp_format_duration(eta, sizeof eta, progress->eta_s);
        ui_textf(canvas, x, rect.y, end - x, UI_DIM, "  %.0f %s/s  %s left", progress->rate, progress->unit, eta);
    }
}

static ui_cursor draw_message(const ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    ui_cursor hidden = {-1, -1};

    if (state->prompt.kind != UI_PROMPT_NONE)
        return draw_prompt(state, canvas, rect);
    if (state->message[0])
        ui_text(canvas, rect.x + 1, rect.y, rect.width - 2, state->message, state->message_element);
    else if (state->has_progress)
        draw_progress(state, canvas, rect);
    else if (state->filter[0])
        ui_textf(canvas, rect.x + 1, rect.y, rect.width - 2, UI_DIM, "layers with '%s' only; Esc shows all", state->filter);
    return hidden;
}

/* ---- hints ---- */

static void draw_hints(const ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    int x = rect.x + 1, end = rect.x + rect.width - 1;
    char keys[40];

    if (state->prompt.kind != UI_PROMPT_NONE) {
        ui_text(canvas, x, rect.y, rect.width - 2,
                ui_prompt_is_choice(&state->prompt) ? "y yes   n no" : "Enter accepts   Esc drops it   Ctrl-U clears",
                UI_HINT);
        return;
    }
    for (int id = 1; id < UI_ACTION_COUNT; id++) {
        const ui_action *action = ui_action_at((ui_action_id)id);
        if (!(action->contexts & (1u << state->view)) || !action->hint[0] || action->enabled(state))
            continue;
        ui_action_keys(action, action->partner != UI_ACTION_NONE, keys, sizeof keys);
        if (!action->partner)
            ui_key_name(action->key, keys, sizeof keys);
        if (x + ui_text_width(keys) + 1 + ui_text_width(action->hint) > end)
            break;
        x += ui_text(canvas, x, rect.y, end - x, keys, UI_KEY);
        x += 1 + ui_text(canvas, x + 1, rect.y, end - x, action->hint, UI_HINT) + 2;
    }
}

/* ---- all of it ---- */

static void draw_too_small(ui_canvas *canvas)
{
    ui_textf(canvas, 0, canvas->height / 2, canvas->width, UI_WARN, "%dx%d is too small: at least %dx%d", canvas->width,
             canvas->height, UI_LEAST_WIDTH, UI_LEAST_HEIGHT);
}

ui_cursor ui_draw_frame(ui_state *state, ui_canvas *canvas)
{
    const ui_view_ops *view = ui_view_of(state->view);
    ui_layout layout = ui_layout_make(canvas->width, canvas->height, view->has_side);

    ui_canvas_clear(canvas);
    if (layout.is_too_small) {
        draw_too_small(canvas);
        return (ui_cursor){-1, -1};
    }
    draw_tabs(state, canvas, layout.tabs);
    view->draw(state, canvas, layout.body);
    if (layout.has_side && view->draw_side)
        view->draw_side(state, canvas, layout.side);
    if (state->snapshot)
        draw_status(state, canvas, layout.status);
    draw_hints(state, canvas, layout.hints);
    return draw_message(state, canvas, layout.message);
}
