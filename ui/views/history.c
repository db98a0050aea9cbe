/* History: the tree of versions with what was measured on them. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "ui/views/parts.h"

#define MOST_DEPTH 12

static void latency_of(const ui_state *state, const esp_metrics *metrics, char *text, size_t size)
{
    if (metrics->latency_ms < 0)
        snprintf(text, size, "-");
    else if (state->snapshot->hides_timings)
        snprintf(text, size, "#.## ms");
    else
        esp_format_duration(text, size, metrics->latency_ms / 1000.0);
}

static void top1_of(const esp_metrics *metrics, char *text, size_t size)
{
    if (metrics->eval_images == 0)
        snprintf(text, size, "-");
    else
        snprintf(text, size, metrics->eval_is_full ? "%.2f " : "%.1f~", metrics->top1);
}

#define METRICS_WIDTH 38

static void draw_metrics(const ui_state *state, ui_canvas *canvas, int x, int y,
                         const esp_study_version *version)
{
    char params[16], macs[16], latency[24], top1[16];

    esp_format_count(params, sizeof params, (double)version->metrics.counts.params);
    esp_format_count(macs, sizeof macs, (double)version->metrics.counts.macs);
    latency_of(state, &version->metrics, latency, sizeof latency);
    top1_of(&version->metrics, top1, sizeof top1);
    ui_text_right(canvas, x, y, 8, params, UI_TEXT);
    ui_text_right(canvas, x + 8, y, 9, macs, UI_TEXT);
    ui_text_right(canvas, x + 17, y, 11, latency, UI_TEXT);
    ui_text_right(canvas, x + 28, y, 9, top1, version->metrics.eval_images ? UI_STRONG : UI_DIM);
}

/* Whether the branch at `depth` goes on below row `i`. */
static bool goes_on(const int *depths, int count, int i, int depth)
{
    for (i++; i < count && depths[i] >= depth; i++)
        if (depths[i] == depth)
            return true;
    return false;
}

/* Branches as thin lines: a child hangs under its parent. */
static int draw_branch(ui_canvas *canvas, int x, int y, const int *depths, int count, int i)
{
    bool is_ascii = canvas->alphabet == UI_ASCII;
    int depth = depths[i] < MOST_DEPTH ? depths[i] : MOST_DEPTH;

    for (int level = 1; level < depth; level++, x += 2)
        if (goes_on(depths, count, i, level))
            ui_put(canvas, x, y, is_ascii ? '|' : 0x2502, UI_BORDER);
    if (depth == 0)
        return x;
    if (goes_on(depths, count, i, depth))
        ui_put(canvas, x, y, is_ascii ? '|' : 0x251c, UI_BORDER);
    else
        ui_put(canvas, x, y, is_ascii ? '`' : 0x2514, UI_BORDER);
    ui_put(canvas, x + 1, y, is_ascii ? '-' : 0x2500, UI_BORDER);
    return x + 2;
}

static void draw_version(const ui_state *state, ui_canvas *canvas, ui_rect rect, int y, const int *ids,
                         const int *depths, int count, int i)
{
    int id = ids[i];
    const esp_study_version *version = esp_versions_find(state->snapshot->versions, id);
    bool is_current = id == state->snapshot->current;
    int end = rect.x + rect.width - METRICS_WIDTH;
    int x = rect.x + 1;

    if (id == state->marked)
        ui_text(canvas, rect.x, y, 1, canvas->alphabet == UI_ASCII ? ">" : "\u25b6", UI_KEY);
    ui_text(canvas, x, y, 1, is_current ? (canvas->alphabet == UI_ASCII ? "*" : "\u25cf") : " ", UI_BRAND);
    x = draw_branch(canvas, x + 2, y, depths, count, i);
    x += ui_textf(canvas, x, y, end - x, UI_DIM, "%d ", id);
    x += ui_text(canvas, x, y, end - x - 2, version->title, is_current ? UI_STRONG : UI_TEXT);
    if (!version->is_saved && end - x > 8)
        ui_text(canvas, x + 1, y, end - x - 1, "unsaved", UI_WARN);
    draw_metrics(state, canvas, end, y, version);
}

static void draw_history(ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    int ids[UI_MOST_VERSIONS], depths[UI_MOST_VERSIONS];
    int count =
        state->snapshot ? ui_version_tree(state->snapshot->versions, ids, depths, UI_MOST_VERSIONS) : 0;
    int end = rect.x + rect.width - METRICS_WIDTH;
    ui_rect rows = ui_rect_shrink(rect, 0, 2, 0, 0);

    if (count == 0) {
        ui_say_empty(canvas, rect, "opening the model");
        return;
    }
    ui_text(canvas, rect.x + 3, rect.y, end - rect.x - 3, "version", UI_HEADING);
    ui_text(canvas, end, rect.y, METRICS_WIDTH, "  params     MACs    latency   top-1 ", UI_HEADING);
    ui_horizontal(canvas, rect.x, rect.y + 1, rect.width, UI_BORDER);
    if (state->version_row >= count)
        state->version_row = count - 1;
    state->history_top = ui_scroll(state->history_top, state->version_row, count, rows.height);
    for (int i = state->history_top; i < count && i - state->history_top < rows.height; i++) {
        int y = rows.y + i - state->history_top;
        draw_version(state, canvas, rect, y, ids, depths, count, i);
        if (i == state->version_row)
            ui_select_row(canvas, rows, y);
    }
}

/* Columns of the longest name in a JSON object with its indent. */
static int longest_label(json_t *json, int depth)
{
    const char *key;
    json_t *value;
    int longest = 0;

    json_object_foreach(json, key, value)
    {
        int own = 2 * depth + (int)strlen(key);
        int inner = json_is_object(value) ? longest_label(value, depth < 3 ? depth + 1 : depth) : 0;
        longest = own > longest ? own : longest;
        longest = inner > longest ? inner : longest;
    }
    return longest;
}

#define LEAST_VALUE 8 /* columns that a value keeps beside a long name */

static int label_column(const ui_rect *rect, json_t *json)
{
    int column = longest_label(json, 0) + 1, most = rect->width - LEAST_VALUE;

    return column < UI_FACT_COLUMN || most < UI_FACT_COLUMN ? UI_FACT_COLUMN : column < most ? column : most;
}

/* Every scalar of a JSON object, and of the objects in it, as a line; the deeper, the further in. The version
 * of the format says nothing about the model. */
static void draw_json(ui_canvas *canvas, ui_rect *rect, int column, json_t *json, int depth)
{
    const char *key;
    json_t *value;

    json_object_foreach(json, key, value)
    {
        char label[32];
        snprintf(label, sizeof label, "%*s%.24s", 2 * depth, "", key);
        if (json_is_object(value)) {
            ui_fact_at(canvas, rect, column, label, UI_HEADING, "%s", "");
            draw_json(canvas, rect, column, value, depth < 3 ? depth + 1 : depth);
        } else if (json_is_string(value)) {
            ui_fact_at(canvas, rect, column, label, UI_TEXT, "%s", json_string_value(value));
        } else if (json_is_number(value) && strcmp(key, "version") != 0) {
            ui_fact_at(canvas, rect, column, label, UI_TEXT, "%.6g", json_number_value(value));
        } else if (json_array_size(value) > 0) {
            ui_fact_at(canvas, rect, column, label, UI_TEXT, "%zu", json_array_size(value));
        }
    }
}

static void draw_how(ui_canvas *canvas, ui_rect *rect, const char *how)
{
    json_t *json = NULL;
    esp_error ignored = {0};

    if (esp_json_parse(how, "how", &json, &ignored) == ESP_OK)
        draw_json(canvas, rect, label_column(rect, json), json, 0);
    json_decref(json);
}

/* "2026-11-22 20:10" of an ISO 8601 time. */
static void made_at(const ui_state *state, const esp_study_version *version, char *text, size_t size)
{
    if (state->snapshot->hides_timings)
        snprintf(text, size, "####-##-##");
    else if (strlen(version->created) < 16)
        snprintf(text, size, "%s", version->created);
    else
        snprintf(text, size, "%.10s %.5s", version->created, version->created + 11);
}

/* What grouping layers brought, once it was measured. */
static void draw_grouping(ui_canvas *canvas, ui_rect *rect, const ui_state *state, const esp_metrics *metrics)
{
    if (metrics->grouped_layers == 0 || state->snapshot->hides_timings)
        return;
    ui_fact(canvas, rect, "grouping", UI_TEXT, "%.2fx of %.2fx", metrics->grouping_real,
            metrics->grouping_theory);
    if (metrics->grouped_slower > 0)
        ui_fact(canvas, rect, "slower", UI_WARN, "%d of %d layers", metrics->grouped_slower,
                metrics->grouped_layers);
}

/* How the selected version came to be. */
static void draw_history_side(ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    int ids[UI_MOST_VERSIONS], depths[UI_MOST_VERSIONS];
    int count =
        state->snapshot ? ui_version_tree(state->snapshot->versions, ids, depths, UI_MOST_VERSIONS) : 0;
    const esp_study_version *version =
        state->version_row < count ? esp_versions_find(state->snapshot->versions, ids[state->version_row])
                                   : NULL;
    ui_rect inside = ui_rect_shrink(rect, 2, 1, 1, 0);
    char made[40];

    ui_vertical(canvas, rect.x, rect.y, rect.height, UI_BORDER);
    if (!version)
        return;
    ui_heading(canvas, rect.x + 1, rect.y, rect.width - 1, "Selected");
    ui_text_middle(canvas, inside.x, inside.y, inside.width, version->title, UI_STRONG);
    inside = ui_rect_shrink(inside, 0, 1, 0, 0);
    ui_fact(canvas, &inside, "version", UI_TEXT, "%d", version->id);
    if (version->parent)
        ui_fact(canvas, &inside, "from", UI_TEXT, "version %d", version->parent);
    made_at(state, version, made, sizeof made);
    ui_fact(canvas, &inside, "made", UI_TEXT, "%s", made);
    ui_fact(canvas, &inside, "kept", UI_TEXT, "%s", version->is_saved ? "yes" : "in memory only");
    if (version->metrics.eval_images)
        ui_fact(canvas, &inside, "top-1", UI_TEXT, "%.2f %% of %lld", version->metrics.top1,
                (long long)version->metrics.eval_images);
    draw_grouping(canvas, &inside, state, &version->metrics);
    if (state->snapshot->unfinished.version == version->id)
        ui_fact(canvas, &inside, "training", UI_WARN, "stopped at %.3g of %g",
                state->snapshot->unfinished.position, state->snapshot->unfinished.epochs);
    inside = ui_rect_shrink(inside, 0, 1, 0, 0);
    draw_how(canvas, &inside, version->how);
}

static void move_history(ui_state *state, int delta)
{
    int count = state->snapshot && state->snapshot->versions ? state->snapshot->versions->count : 0;
    int row = state->version_row + delta;

    state->version_row = row < 0 ? 0 : row >= count ? (count > 0 ? count - 1 : 0) : row;
}

const ui_view_ops ui_view_history = {.title = "History",
                                     .has_side = true,
                                     .draw = draw_history,
                                     .draw_side = draw_history_side,
                                     .move = move_history};
