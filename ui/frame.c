/* What surrounds the views. The status line is always there and always complete: baseline -> now for
 * parameters, MACs, latency and accuracy; what is not known yet is a dash. */
#include "ui/frame.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "ui/actions.h"
#include "ui/chart.h"
#include "ui/prompt.h"

static const char *arrow(const ui_canvas *canvas)
{
    return canvas->alphabet == UI_ASCII ? "->" : "\u2192";
}

static const char *dash(const ui_canvas *canvas)
{
    return canvas->alphabet == UI_ASCII ? "-" : "\u2013";
}

/* ---- tabs ---- */

/* The tab that a page without one belongs to. */
static ui_view_id tab_of(const ui_state *state)
{
    return state->view == UI_VIEW_PAGE   ? state->view_before_page
           : state->view == UI_VIEW_FORM ? UI_VIEW_TRAIN
                                         : state->view;
}

static void draw_tabs(const ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    const esp_study_version *current = esp_snapshot_current(state->snapshot);
    const esp_study_version *root = esp_snapshot_baseline(state->snapshot);
    int x = rect.x + 1;
    char place[128] = "";
    bool is_wide = rect.width >= 76; /* room for the names of all views */

    if (rect.width >= 96)
        x += ui_text(canvas, x, rect.y, 9, "espalier", UI_BRAND) + 2;
    for (int view = 0; view <= UI_VIEW_HELP; view++) {
        bool is_active = view == (int)tab_of(state);
        bool is_named = is_wide || is_active;
        char label[32];
        if (view == UI_VIEW_HELP)
            snprintf(label, sizeof label, is_active ? " ? Help " : " ? ");
        else
            snprintf(label, sizeof label, is_named ? " %d %s " : " %d ", view + 1,
                     ui_view_of((ui_view_id)view)->title);
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

static void latency_text(const ui_state *state, const ui_canvas *canvas, const esp_study_version *version,
                         char *text, size_t size)
{
    if (!version || version->metrics.latency_ms < 0)
        snprintf(text, size, "%s", dash(canvas));
    else if (state->snapshot->hides_timings)
        snprintf(text, size, "#.## ms");
    else
        esp_format_duration(text, size, version->metrics.latency_ms / 1000.0);
}

static void accuracy_text(const ui_canvas *canvas, int64_t images, bool is_full, double top1, double error,
                          char *text, size_t size)
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
    accuracy_text(canvas, before->eval_images, before->eval_is_full, before->top1, before->top1_error,
                  out->before, sizeof out->before);
    accuracy_text(canvas, images, is_plan ? snapshot->estimate.is_full : now->eval_is_full, top1, error,
                  out->now, sizeof out->now);
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

/* Label, before, arrow, now and, with `detail` 2, the change. Returns the columns used. */
static int draw_figure(ui_canvas *canvas, int x, int y, int room, const figure *shown, int detail)
{
    int start = x;

    x += ui_textf(canvas, x, y, room, UI_DIM, "%s ", shown->label);
    x += ui_text(canvas, x, y, room - (x - start), shown->before, UI_TEXT);
    x += ui_textf(canvas, x, y, room - (x - start), UI_DIM, " %s ", arrow(canvas));
    x += ui_text(canvas, x, y, room - (x - start), shown->now, shown->element);
    if (detail >= 2 && shown->change[0])
        x += ui_textf(canvas, x, y, room - (x - start), shown->element, " %s", shown->change);
    return x - start;
}

static int figure_width(const ui_canvas *canvas, const figure *shown, int detail)
{
    int width = ui_text_width(shown->label) + ui_text_width(shown->before) + ui_text_width(shown->now) +
                ui_text_width(arrow(canvas)) + 3;

    return detail >= 2 && shown->change[0] ? width + ui_text_width(shown->change) + 1 : width;
}

/* The change in percent is left out where it does not fit. */
static void draw_figures(ui_canvas *canvas, ui_rect rect, const figure *figures, int count)
{
    int detail = 2, x = rect.x + 1, total;

    for (; detail > 1; detail--) {
        total = 2 + 3 * (count - 1);
        for (int i = 0; i < count; i++)
            total += figure_width(canvas, &figures[i], detail);
        if (total <= rect.width)
            break;
    }
    for (int i = 0; i < count; i++)
        x += draw_figure(canvas, x, rect.y, rect.x + rect.width - x, &figures[i], detail) + 3;
}

/* "cifar10:/a/long/way/to/it" becomes "cifar10:it". */
static void shorten_path(char *spec)
{
    char *colon = strchr(spec, ':');
    char *slash = strrchr(spec, '/');

    if (colon && slash && slash > colon && slash[1])
        memmove(colon + 1, slash + 1, strlen(slash));
}

/* "plan sg . sound . 0.50 . 16 groups . 2 layer rules" */
static void describe_plan(const esp_plan *plan, const char *dot, char *text, size_t size)
{
    char method[48] = "", scope[24] = "", multiple[24] = "", rules[32] = "";

    if (plan->method == ESP_METHOD_SG)
        snprintf(method, sizeof method, " %s %d groups", dot, plan->groups);
    if (plan->scope == ESP_SCOPE_GLOBAL)
        snprintf(scope, sizeof scope, " %s %s", dot, esp_scope_word(plan->scope));
    if (plan->round_to > 1)
        snprintf(multiple, sizeof multiple, " %s by %d", dot, plan->round_to);
    if (plan->rule_count > 0)
        snprintf(rules, sizeof rules, " %s %d layer rule%s", dot, plan->rule_count,
                 plan->rule_count == 1 ? "" : "s");
    snprintf(text, size, "plan %s %s %s %s %.2f%s%s%s%s", esp_method_word(plan->method), dot,
             plan->method == ESP_METHOD_FILTER ? plan->criterion : esp_mode_word(plan->mode), dot,
             plan->conv_ratio, method, scope, multiple, rules);
}

/* The rule between view and status, with the plan at its left and the data at its right. */
static void draw_plan(const ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    const esp_preview *preview = esp_snapshot_preview(state->snapshot);
    const esp_data_state *data = &state->snapshot->data;
    const char *dot = canvas->alphabet == UI_ASCII ? "|" : "\u00b7";
    char text[256];
    int used, room;

    ui_heading(canvas, rect.x, rect.y, rect.width, "");
    if (!preview)
        return;
    describe_plan(&preview->plan, dot, text, sizeof text);
    ui_heading(canvas, rect.x, rect.y, rect.width, text);
    used = ui_text_width(text) + 4;
    room = rect.width - used - 6;
    snprintf(text, sizeof text, "%s%s", data->is_open ? data->name : "no data",
             state->snapshot->has_study ? " + study" : "");
    shorten_path(text);
    if (room < 8)
        return;
    if (ui_text_width(text) < room)
        room = ui_text_width(text);
    ui_put(canvas, rect.x + rect.width - room - 3, rect.y, ' ', UI_BORDER);
    ui_put(canvas, rect.x + rect.width - 2, rect.y, ' ', UI_BORDER);
    ui_text_middle(canvas, rect.x + rect.width - room - 2, rect.y, room, text, UI_DIM);
}

static void draw_status(const ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    figure figures[4];
    int count = collect_figures(state, canvas, figures);

    if (count == 0)
        ui_text(canvas, rect.x + 1, rect.y, rect.width - 2, "opening the model", UI_DIM);
    else if (rect.height == 1)
        draw_figures(canvas, rect, figures, count);
    else {
        draw_figures(canvas, rect, figures, 2);
        draw_figures(canvas, (ui_rect){rect.x, rect.y + 1, rect.width, 1}, figures + 2, 2);
    }
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

#define WIDE_PROGRESS 96 /* columns from which there is room for a long bar */

static double progress_share(const ui_state *state)
{
    return state->progress.total > 0 ? state->progress.done / state->progress.total : 0.0;
}

static void draw_progress(const ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    const esp_progress_copy *progress = &state->progress;
    bool is_part = progress->stage[0] && strcmp(progress->stage, state->running_title) != 0;
    double share = progress_share(state);
    int x = rect.x + 1, end = rect.x + rect.width - 1, bar = rect.width < WIDE_PROGRESS ? 6 : 14;
    char eta[24] = "";

    x += ui_textf(canvas, x, rect.y, end - x, UI_STRONG, "%s%s%s ", state->running_title, is_part ? ": " : "",
                  is_part ? progress->stage : "");
    ui_bar(canvas, x, rect.y, bar, share, UI_KEPT);
    x += bar + 1;
    x += ui_textf(canvas, x, rect.y, end - x, UI_TEXT, "%3.0f%%  %s", 100.0 * share, progress->detail);
    if (!state->snapshot->hides_timings && progress->eta_s >= 0) {
        esp_format_duration(eta, sizeof eta, progress->eta_s);
        ui_textf(canvas, x, rect.y, end - x, UI_DIM, "  %.0f %s/s  %s left", progress->rate, progress->unit,
                 eta);
    }
}

/* A message, with what runs at its right: neither hides the other. */
static void draw_words(const ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    char running[64] = "";
    int used = 0;

    if (state->has_progress) {
        snprintf(running, sizeof running, "%.40s %3.0f%%", state->running_title,
                 100.0 * progress_share(state));
        used = ui_text_width(running) + 2;
        ui_text_right(canvas, rect.x + 1, rect.y, rect.width - 2, running, UI_STRONG);
    }
    ui_text(canvas, rect.x + 1, rect.y, rect.width - 2 - used, state->message, state->message_element);
}

/* What the file of the plan holds where that is more than the figures say. */
static void draw_stored(const ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    const esp_preview *preview = esp_snapshot_preview(state->snapshot);
    char params[16], macs[16];

    if (!preview ||
        (preview->stored.params <= preview->after.params && preview->stored.macs <= preview->after.macs))
        return;
    ui_textf(canvas, rect.x + 1, rect.y, rect.width - 2, UI_WARN,
             rect.width < WIDE_PROGRESS
                 ? "stored %s params, %s MACs with zeros that stay"
                 : "stored %s params, %s MACs with the zeros that stay, which a runtime "
                   "computes",
             esp_format_count(params, sizeof params, (double)preview->stored.params),
             esp_format_count(macs, sizeof macs, (double)preview->stored.macs));
}

static ui_cursor draw_message(const ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    ui_cursor hidden = {-1, -1};

    if (state->prompt.kind != UI_PROMPT_NONE)
        return draw_prompt(state, canvas, rect);
    if (state->message[0])
        draw_words(state, canvas, rect);
    else if (state->has_progress)
        draw_progress(state, canvas, rect);
    else if (state->filter[0])
        ui_textf(canvas, rect.x + 1, rect.y, rect.width - 2, UI_DIM, "layers with '%s' only; Esc shows all",
                 state->filter);
    else
        draw_stored(state, canvas, rect);
    return hidden;
}

/* ---- hints ---- */

/* A hint that ends in '!' is always there, at the right. */
static bool is_standing(const ui_action *action)
{
    size_t length = strlen(action->hint);

    return length > 0 && action->hint[length - 1] == '!';
}

/* What this view alone can do comes first, what is always there last; -1: no hint here. */
#define HINT_PASSES 3

static int hint_pass(const ui_action *action, ui_view_id view)
{
    bool is_own = action->contexts == 1u << view || !(action->contexts & ~UI_IN_FRONT);

    if (!(action->contexts & (1u << view)) || !action->hint[0])
        return -1;
    return is_standing(action) ? HINT_PASSES - 1 : is_own ? 0 : 1;
}

static int draw_hint(const ui_action *action, ui_canvas *canvas, int x, int y, int end)
{
    int word = (int)strcspn(action->hint, "!");
    char keys[40];
    int width;

    ui_hint_keys(action, canvas->alphabet != UI_ASCII, keys, sizeof keys);
    width = ui_text_width(keys) + 1 + word;
    if (x + width > end)
        return 0;
    x += ui_text(canvas, x, y, end - x, keys, UI_KEY);
    ui_textf(canvas, x + 1, y, end - x, UI_HINT, "%.*s", word, action->hint);
    return width;
}

static void draw_hints(const ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    int x = rect.x + 1, end = rect.x + rect.width - 1;
    int standing = 0;

    if (state->prompt.kind != UI_PROMPT_NONE) {
        ui_text(canvas, x, rect.y, rect.width - 2,
                ui_prompt_is_choice(&state->prompt) ? "y yes   n no"
                                                    : "Enter accepts   Esc drops it   Ctrl-U clears",
                UI_HINT);
        return;
    }
    for (int id = 1; id < UI_ACTION_COUNT; id++) {
        const ui_action *action = ui_action_at((ui_action_id)id);
        if (is_standing(action) && (action->contexts & (1u << state->view)))
            standing += (int)strlen(action->hint) + 3; /* key, blank, two between, less the mark */
    }
    for (int pass = 0; pass < HINT_PASSES; pass++)
        for (int id = 1; id < UI_ACTION_COUNT; id++) {
            const ui_action *action = ui_action_at((ui_action_id)id);
            if (hint_pass(action, state->view) != pass || action->enabled(state))
                continue;
            int used = draw_hint(action, canvas, x, rect.y, pass == HINT_PASSES - 1 ? end : end - standing);
            x += used > 0 ? used + 2 : 0;
        }
}

/* ---- all of it ---- */

static void draw_too_small(ui_canvas *canvas)
{
    char text[64];

    snprintf(text, sizeof text, "%dx%d is too small: at least %dx%d", canvas->width, canvas->height,
             UI_LEAST_WIDTH, UI_LEAST_HEIGHT);
    if (ui_text_width(text) > canvas->width)
        snprintf(text, sizeof text, "needs %dx%d", UI_LEAST_WIDTH, UI_LEAST_HEIGHT);
    ui_text(canvas, 0, canvas->height / 2, canvas->width, text, UI_WARN);
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
    state->body_rows = layout.body.height;
    draw_tabs(state, canvas, layout.tabs);
    view->draw(state, canvas, layout.body);
    if (layout.has_side && view->draw_side)
        view->draw_side(state, canvas, layout.side);
    if (state->snapshot) {
        draw_plan(state, canvas, layout.plan);
        draw_status(state, canvas, layout.status);
    }
    draw_hints(state, canvas, layout.hints);
    return draw_message(state, canvas, layout.message);
}
