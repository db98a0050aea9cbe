/* Taking over what the engine says, and moving cursors. */
#include "ui/state.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const ui_view_ops *const views[UI_VIEW_COUNT] = {
#define UI_VIEW_TABLE(name, table) &table,
    UI_VIEW_LIST(UI_VIEW_TABLE)
#undef UI_VIEW_TABLE
};

const ui_view_ops *ui_view_of(ui_view_id view)
{
    return views[view];
}

/* ---- messages ---- */

void ui_say(ui_state *state, ui_element element, const char *format, ...)
{
    char text[sizeof state->message]; /* an argument may be the message that is there now */
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    memcpy(state->message, text, sizeof text);
    state->message_element = element;
}

void ui_say_failure(ui_state *state, esp_status status, const esp_error *err)
{
    if (status == ESP_OK || status == ESP_CANCELLED)
        return;
    if (err->hint[0])
        ui_say(state, UI_ERROR, "%s (%s)", err->message, err->hint);
    else
        ui_say(state, UI_ERROR, "%s", err->message);
}

/* ---- the engine's side ---- */

/* A first look: at a layer that can be pruned. */
static int first_interesting_layer(const esp_preview *preview)
{
    for (int i = 0; i < preview->layers.count; i++)
        if (preview->items[i].takes_part)
            return i;
    return 0;
}

static void follow_version(ui_state *state)
{
    const esp_preview *preview = esp_snapshot_preview(state->snapshot);

    if (!preview || state->seen_version == state->snapshot->current)
        return;
    if (state->seen_version == 0)
        state->layer = first_interesting_layer(preview);
    state->seen_version = state->snapshot->current;
    if (state->layer >= preview->layers.count)
        state->layer = preview->layers.count - 1;
    if (state->layer < 0)
        state->layer = 0;
    int ids[UI_MOST_VERSIONS], depths[UI_MOST_VERSIONS];
    int count = ui_version_tree(state->snapshot->versions, ids, depths, UI_MOST_VERSIONS);
    for (int i = 0; i < count; i++)
        if (ids[i] == state->snapshot->current)
            state->version_row = i;
    ui_look_at_layer(state);
}

/* What was found out is shown when it comes. */
static void open_page(ui_state *state)
{
    state->seen_findings = state->snapshot->findings_serial;
    if (state->view == UI_VIEW_FORM)
        return;
    if (state->view != UI_VIEW_PAGE)
        state->view_before_page = state->view;
    state->view = UI_VIEW_PAGE;
    state->page_top = 0;
}

void ui_state_take_snapshot(ui_state *state, const esp_snapshot *take_snapshot)
{
    esp_shared_unref(state->snapshot);
    state->snapshot = take_snapshot;
    if (take_snapshot->findings_serial > state->seen_findings)
        open_page(state);
    if (take_snapshot->message_serial > state->seen_message) {
        state->seen_message = take_snapshot->message_serial;
        ui_say(state, UI_GOOD, "%s", take_snapshot->message);
    }
    follow_version(state);
}

/* Words for the end of a job that was stopped; quiet for those nobody asked for. */
static void say_cancelled(ui_state *state, const esp_event *event)
{
    if (strcmp(event->title, "estimate") != 0)
        ui_say(state, UI_WARN, "%s: stopped%s%s", event->title, state->message[0] ? "; " : "",
               state->message_element == UI_GOOD ? state->message : "");
}

/* A layer that cannot be scored is no news to somebody who reads about something else. */
static bool is_aside(const ui_state *state, const esp_event *event)
{
    return strcmp(event->title, "look") == 0 && state->message[0] && state->view != UI_VIEW_SALIENCY;
}

void ui_state_take_event(ui_state *state, const esp_event *event)
{
    if (event->kind == ESP_EVENT_PROGRESS) {
        state->has_progress = true;
        state->progress = event->progress;
        state->running_title = event->title;
        return;
    }
    if (event->kind != ESP_EVENT_FINISHED)
        return;
    if (state->running_title && strcmp(state->running_title, event->title) == 0)
        state->has_progress = false;
    if (event->status == ESP_CANCELLED)
        say_cancelled(state, event);
    else if (!is_aside(state, event))
        ui_say_failure(state, event->status, &event->error);
    if (strcmp(event->title, "open") == 0 && event->status != ESP_OK &&
        !esp_snapshot_preview(state->snapshot)) {
        state->failure = event->status;
        state->failure_error = event->error;
        state->wants_quit = true;
    }
}

void ui_state_release(ui_state *state)
{
    esp_shared_unref(state->snapshot);
    state->snapshot = NULL;
}

bool ui_is_busy(const ui_state *state)
{
    return state->demanded > 0;
}

/* ---- layers ---- */

const esp_layer *ui_selected_layer(const ui_state *state)
{
    const esp_preview *preview = esp_snapshot_preview(state->snapshot);

    return preview && state->layer >= 0 && state->layer < preview->layers.count
               ? &preview->layers.items[state->layer]
               : NULL;
}

const esp_preview_layer *ui_selected_preview(const ui_state *state)
{
    return ui_selected_layer(state) ? &state->snapshot->box->preview->items[state->layer] : NULL;
}

const esp_layer_detail *ui_selected_detail(const ui_state *state)
{
    const esp_layer_detail *detail = state->snapshot ? state->snapshot->detail : NULL;

    return detail && detail->version == state->snapshot->current && detail->layer == state->layer &&
                   detail->criterion == state->criterion
               ? detail
               : NULL;
}

int64_t ui_selected_filter(const ui_state *state)
{
    const esp_layer_detail *detail = ui_selected_detail(state);

    return detail && state->rank >= 0 && state->rank < detail->filters ? detail->order[state->rank] : -1;
}

const esp_explanation *ui_selected_explanation(const ui_state *state)
{
    const esp_explanation *explanation = state->snapshot ? state->snapshot->explanation : NULL;
    int64_t filter = ui_selected_filter(state);

    return explanation && filter >= 0 && explanation->box == state->snapshot->box &&
                   explanation->layer == state->layer && explanation->channel == filter
               ? explanation
               : NULL;
}

void ui_look_at_filter(ui_state *state)
{
    int64_t filter = ui_selected_filter(state);
    esp_error err = {0};

    if (state->session && filter >= 0)
        ui_say_failure(state, esp_session_explain(state->session, state->layer, filter, &err), &err);
}

bool ui_layer_is_visible(const ui_state *state, int layer)
{
    const esp_preview *preview = esp_snapshot_preview(state->snapshot);

    if (!preview || layer < 0 || layer >= preview->layers.count)
        return false;
    return strcasestr(preview->layers.items[layer].name, state->filter) != NULL ||
           strcasestr(preview->layers.items[layer].weight_name, state->filter) != NULL;
}

void ui_look_at_layer(ui_state *state)
{
    esp_error err = {0};

    if (state->session && ui_selected_layer(state))
        ui_say_failure(state, esp_session_select_layer(state->session, state->layer, state->criterion, &err),
                       &err);
}

void ui_move_layer(ui_state *state, int delta)
{
    const esp_preview *preview = esp_snapshot_preview(state->snapshot);
    int before = state->layer;
    int step = delta < 0 ? -1 : 1;

    for (int i = state->layer + step, left = delta < 0 ? -delta : delta;
         preview && left > 0 && i >= 0 && i < preview->layers.count; i += step)
        if (ui_layer_is_visible(state, i)) {
            state->layer = i;
            left--;
        }
    if (state->layer != before) {
        state->rank = -1;
        ui_look_at_layer(state);
    }
}

/* ---- versions ---- */

static void walk_tree(const esp_versions *versions, int parent, int depth, int *ids, int *depths, int max,
                      int *count)
{
    for (int i = 0; i < versions->count; i++) {
        const esp_study_version *version = &versions->items[i];
        /* A parent is always older, so this ends. */
        if (version->parent != parent || version->id <= parent)
            continue;
        if (*count < max) {
            ids[*count] = version->id;
            depths[*count] = depth;
        }
        ++*count;
        walk_tree(versions, version->id, depth + 1, ids, depths, max, count);
    }
}

int ui_version_tree(const esp_versions *versions, int *ids, int *depths, int max)
{
    int count = 0;

    if (versions)
        walk_tree(versions, 0, 0, ids, depths, max, &count);
    return count < max ? count : max;
}
