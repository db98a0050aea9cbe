/* The table of actions, how keys find them, and what they do. */
#include "ui/actions.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "ui/enabled.h"
#include "ui/form.h"
#include "ui/prompt.h"

/* ---- what they do ---- */

static void run_view(ui_state *state, const ui_action *action)
{
    state->view = (ui_view_id)(UI_VIEW_LAYERS + (int)(action->id - UI_ACTION_VIEW_LAYERS));
}

static void run_view_next(ui_state *state, const ui_action *action)
{
    (void)action;
    state->view = (ui_view_id)((state->view + 1) % UI_VIEW_HELP);
}

static void run_help(ui_state *state, const ui_action *action)
{
    (void)action;
    if (state->view == UI_VIEW_HELP) {
        state->view = state->view_before_help;
        return;
    }
    state->view_before_help = state->view;
    state->view = UI_VIEW_HELP;
    state->help_top = 0;
}

#define LEAST_SCREENFUL 8 /* lines */

static void run_move(ui_state *state, const ui_action *action)
{
    int screenful = state->body_rows > LEAST_SCREENFUL + 2 ? state->body_rows - 2 : LEAST_SCREENFUL;
    const struct {
        ui_action_id id;
        int delta;
    } moves[] = {{UI_ACTION_UP, -1},
                 {UI_ACTION_DOWN, 1},
                 {UI_ACTION_PAGE_UP, -screenful},
                 {UI_ACTION_PAGE_DOWN, screenful},
                 {UI_ACTION_FIRST, -10000},
                 {UI_ACTION_LAST, 10000}};
    const ui_view_ops *view = ui_view_of(state->view);

    for (size_t i = 0; i < sizeof moves / sizeof moves[0]; i++) {
        if (moves[i].id != action->id)
            continue;
        if (view->move)
            view->move(state, moves[i].delta);
        else
            ui_move_layer(state, moves[i].delta);
    }
}

static void run_filter(ui_state *state, const ui_action *action)
{
    (void)action;
    ui_prompt_open(state, UI_PROMPT_FILTER, state->filter, "show layers with");
}

static void send_edit(ui_state *state, esp_plan_edit_kind kind, double amount)
{
    const esp_plan_edit edit = {.kind = kind, .layer = state->layer, .amount = amount};
    esp_error err = {0};

    ui_say_failure(state, esp_session_edit_plan(state->session, &edit, &err), &err);
}

static void run_ratio(ui_state *state, const ui_action *action)
{
    static const struct {
        ui_action_id id;
        esp_plan_edit_kind kind;
        double amount;
    } steps[] = {{UI_ACTION_RATIO_UP, ESP_EDIT_RATIO_ADD, 0.05},
                 {UI_ACTION_RATIO_DOWN, ESP_EDIT_RATIO_ADD, -0.05},
                 {UI_ACTION_RATIO_UP_FINE, ESP_EDIT_RATIO_ADD, 0.01},
                 {UI_ACTION_RATIO_DOWN_FINE, ESP_EDIT_RATIO_ADD, -0.01},
                 {UI_ACTION_LAYER_UP, ESP_EDIT_LAYER_RATIO_ADD, 0.05},
                 {UI_ACTION_LAYER_DOWN, ESP_EDIT_LAYER_RATIO_ADD, -0.05}};

    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
        if (steps[i].id == action->id)
            send_edit(state, steps[i].kind, steps[i].amount);
}

static void run_ratio_enter(ui_state *state, const ui_action *action)
{
    (void)action;
    ui_prompt_open(state, UI_PROMPT_RATIO, "", "ratio of %.80s", ui_selected_layer(state)->name);
}

static void run_layer_edit(ui_state *state, const ui_action *action)
{
    send_edit(state, action->id == UI_ACTION_IGNORE ? ESP_EDIT_LAYER_IGNORE : ESP_EDIT_LAYER_RESET, 0.0);
}

static void run_plan_edit(ui_state *state, const ui_action *action)
{
    static const struct {
        ui_action_id id;
        esp_plan_edit_kind kind;
        double amount;
    } edits[] = {{UI_ACTION_METHOD, ESP_EDIT_METHOD_NEXT, 0.0},
                 {UI_ACTION_MODE, ESP_EDIT_MODE_NEXT, 0.0},
                 {UI_ACTION_PLAN_CRITERION, ESP_EDIT_CRITERION_NEXT, 0.0},
                 {UI_ACTION_SCOPE, ESP_EDIT_SCOPE_NEXT, 0.0},
                 {UI_ACTION_ROUND, ESP_EDIT_ROUND_NEXT, 0.0},
                 {UI_ACTION_GROUPS_UP, ESP_EDIT_GROUPS_ADD, 1.0},
                 {UI_ACTION_GROUPS_DOWN, ESP_EDIT_GROUPS_ADD, -1.0},
                 {UI_ACTION_CLEAR, ESP_EDIT_RESET, 0.0}};

    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++)
        if (edits[i].id == action->id)
            send_edit(state, edits[i].kind,
                      action->id == UI_ACTION_PLAN_CRITERION ? state->snapshot->data.is_open
                                                             : edits[i].amount);
}

static void run_budget(ui_state *state, const ui_action *action)
{
    (void)action;
    ui_prompt_open(state, UI_PROMPT_BUDGET, "macs=0.5", "budget: macs, params, latency; how to spread it");
}

static void run_suggest(ui_state *state, const ui_action *action)
{
    esp_error err = {0};

    (void)action;
    ui_say_failure(state, esp_session_suggest_groups(state->session, state->layer, &err), &err);
}

static void run_criterion(ui_state *state, const ui_action *action)
{
    (void)action;
    do
        state->criterion = (state->criterion + 1) % esp_criterion_count();
    while (esp_criterion_needs_data(esp_criterion_at(state->criterion)) && !state->snapshot->data.is_open);
    state->rank = -1;
    ui_look_at_layer(state);
}

static void run_rank(ui_state *state, const ui_action *action)
{
    int last = (int)ui_selected_detail(state)->filters - 1;

    state->rank += action->id == UI_ACTION_FILTER_NEXT ? 1 : -1;
    state->rank = state->rank < 0 ? 0 : state->rank > last ? last : state->rank;
    ui_look_at_filter(state);
}

static void run_versions(ui_state *state, const ui_action *action)
{
    (void)action;
    state->shows_versions = !state->shows_versions;
}

static void run_scan(ui_state *state, const ui_action *action)
{
    esp_error err = {0};
    esp_status status = esp_session_scan(state->session, &err);

    (void)action;
    ui_say_failure(state, status, &err);
    if (status == ESP_OK)
        state->view = UI_VIEW_TRADEOFF;
}

static void run_scatter(ui_state *state, const ui_action *action)
{
    (void)action;
    state->shows_scatter = !state->shows_scatter;
}

static void run_job(ui_state *state, const ui_action *action)
{
    esp_error err = {0};
    esp_status status = ESP_OK;

    switch (action->id) {
    case UI_ACTION_CUT:
        status = esp_session_cut(state->session, &err);
        break;
    case UI_ACTION_CUT_SOLVED:
        status = esp_session_cut_reconstructed(state->session, &err);
        break;
    case UI_ACTION_RECALIBRATE:
        status = esp_session_recalibrate(state->session, &err);
        break;
    case UI_ACTION_EVALUATE:
        status = esp_session_evaluate(state->session, &err);
        break;
    case UI_ACTION_BENCH:
        status = esp_session_measure(state->session, &err);
        break;
    case UI_ACTION_UNDO:
        status = esp_session_undo(state->session, &err);
        break;
    default:
        status = esp_session_redo(state->session, &err);
    }
    ui_say_failure(state, status, &err);
}

static void run_finetune(ui_state *state, const ui_action *action)
{
    (void)action;
    ui_form_open(state);
}

static void run_form(ui_state *state, const ui_action *action)
{
    switch (action->id) {
    case UI_ACTION_FORM_START:
        ui_form_start(state);
        break;
    case UI_ACTION_FORM_NEXT:
        ui_form_next(state);
        break;
    case UI_ACTION_FORM_LESS:
    case UI_ACTION_FORM_MORE:
        ui_form_step(state, action->id == UI_ACTION_FORM_MORE ? 1 : -1);
        break;
    case UI_ACTION_FORM_USUAL:
        ui_form_usual(state);
        break;
    case UI_ACTION_FORM_ERASE:
    case UI_ACTION_FORM_CLEAR:
        ui_form_erase(state, action->id == UI_ACTION_FORM_CLEAR);
        break;
    default:
        ui_form_close(state);
    }
}

static void run_resume(ui_state *state, const ui_action *action)
{
    esp_error err = {0};
    esp_status status = esp_session_resume(state->session, &err);

    (void)action;
    ui_say_failure(state, status, &err);
    if (status == ESP_OK)
        state->view = UI_VIEW_TRAIN;
}

/* ---- plans of other versions and files ---- */

static void run_plan_file(ui_state *state, const ui_action *action)
{
    const esp_study_version *root = esp_snapshot_baseline(state->snapshot);
    char path[256];

    snprintf(path, sizeof path, "%.200s_plan.json", root->title);
    if (action->id == UI_ACTION_PLAN_OPEN)
        ui_prompt_open(state, UI_PROMPT_PLAN_OPEN, state->taken_path[0] ? state->taken_path : path,
                       "open plan");
    else
        ui_prompt_open(state, UI_PROMPT_PLAN_SAVE, path, "write plan to");
}

static void run_plan_step(ui_state *state, const ui_action *action)
{
    esp_error err = {0};
    int direction = action->id == UI_ACTION_PLAN_BACK ? -1 : 1;

    ui_say_failure(state, esp_session_step_plan(state->session, direction, &err), &err);
}

static void run_mark(ui_state *state, const ui_action *action)
{
    int id = ui_version_at_cursor(state);

    (void)action;
    state->marked = state->marked == id ? 0 : id;
}

static void run_compare(ui_state *state, const ui_action *action)
{
    int id = ui_version_at_cursor(state);
    int other = state->marked == id ? 0 : state->marked;
    esp_error err = {0};

    (void)action;
    ui_say_failure(state, esp_session_compare(state->session, other, id, &err), &err);
}

static void take(ui_state *state, int version, esp_plan_side side, bool applies)
{
    esp_error err = {0};

    ui_say_failure(state,
                   esp_session_take_plan(state->session, version > 0 ? version : 0,
                                         version > 0 ? NULL : state->taken_path, side, applies, &err),
                   &err);
}

static void run_take(ui_state *state, const ui_action *action)
{
    (void)action;
    take(state, ui_version_at_cursor(state), ESP_PLAN_THEIRS, false);
}

static void run_page_close(ui_state *state, const ui_action *action)
{
    (void)action;
    state->view = state->view == UI_VIEW_HELP ? state->view_before_help : state->view_before_page;
}

/* Takes over what the page is about, or shows what that would be with another winner. */
static void run_page_take(ui_state *state, const ui_action *action)
{
    static const esp_plan_side next[] = {[ESP_PLAN_THEIRS] = ESP_PLAN_RULES,
                                         [ESP_PLAN_RULES] = ESP_PLAN_OURS,
                                         [ESP_PLAN_OURS] = ESP_PLAN_THEIRS};
    const esp_findings *page = state->snapshot->findings;
    bool applies = action->id == UI_ACTION_PAGE_APPLY;

    take(state, page->takes_version, applies ? page->side : next[page->side], applies);
    if (applies)
        run_page_close(state, action);
}

static void run_save(ui_state *state, const ui_action *action)
{
    const esp_study_version *current = esp_snapshot_current(state->snapshot);
    const esp_study_version *root = esp_snapshot_baseline(state->snapshot);
    char path[256];

    (void)action;
    snprintf(path, sizeof path, "%s_v%d.onnx", root->title, current->id);
    ui_prompt_open(state, UI_PROMPT_SAVE, path, "save version %d as", current->id);
}

static void run_go(ui_state *state, const ui_action *action)
{
    esp_error err = {0};

    (void)action;
    ui_say_failure(state, esp_session_go(state->session, ui_version_at_cursor(state), &err), &err);
}

static void run_cancel(ui_state *state, const ui_action *action)
{
    (void)action;
    if (state->busy > 0)
        esp_session_cancel(state->session);
    else if (state->filter[0])
        state->filter[0] = '\0';
}

static int unsaved_versions(const ui_state *state)
{
    const esp_versions *versions = state->snapshot ? state->snapshot->versions : NULL;
    int count = 0;

    for (int i = 0; versions && i < versions->count; i++)
        count += versions->items[i].is_saved ? 0 : 1;
    return count;
}

static void run_quit(ui_state *state, const ui_action *action)
{
    int unsaved = unsaved_versions(state);
    bool trains = state->snapshot && state->snapshot->training && state->snapshot->training->is_running;

    (void)action;
    if (ui_is_busy(state) && trains && state->snapshot->has_study && state->snapshot->keeps_training)
        ui_prompt_open(state, UI_PROMPT_QUIT, "",
                       "Stop the training and quit? The study can go on with it. y/n");
    else if (ui_is_busy(state))
        ui_prompt_open(state, UI_PROMPT_QUIT, "", "a job is running. Stop it and quit? y/n");
    else if (unsaved > 0)
        ui_prompt_open(state, UI_PROMPT_QUIT, "", "%d version%s not saved. Quit all the same? y/n", unsaved,
                       unsaved == 1 ? " is" : "s are");
    else
        state->wants_quit = true;
}

/* ---- the table ---- */

static const ui_action table[UI_ACTION_COUNT] = {
#define UI_SECTION(title)
#define UI_ACTION(id, name, key, second, contexts, hint, partner, title, help, enabled, run)                 \
    [UI_ACTION_##id] = {UI_ACTION_##id,      name,  key,  second,  contexts, hint,                           \
                        UI_ACTION_##partner, title, help, enabled, run},
#include "ui/actions.def"
#undef UI_ACTION
#undef UI_SECTION
};

/* Sections with the place in the table they start at: the table once more, as a list of marks. */
typedef struct section_mark {
    const char *title; /* NULL: an action */
    ui_action_id id;
} section_mark;

static const section_mark marks[] = {
#define UI_SECTION(title) {title, UI_ACTION_NONE},
#define UI_ACTION(id, name, key, second, contexts, hint, partner, title, help, enabled, run)                 \
    {NULL, UI_ACTION_##id},
#include "ui/actions.def"
#undef UI_ACTION
#undef UI_SECTION
};

const char *ui_action_section(ui_action_id id)
{
    const char *title = "";

    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        if (marks[i].title)
            title = marks[i].title;
        else if (marks[i].id == id)
            break;
    }
    return title;
}

const ui_action *ui_action_at(ui_action_id id)
{
    return id > UI_ACTION_NONE && id < UI_ACTION_COUNT ? &table[id] : NULL;
}

const ui_action *ui_action_for_key(ui_view_id view, ui_key key)
{
    for (int id = 1; id < UI_ACTION_COUNT; id++) {
        const ui_action *action = &table[id];
        if ((action->contexts & (1u << view)) && key != 0 &&
            (action->key == key || action->second_key == key))
            return action;
    }
    return NULL;
}

/* Where else a key would work, to say so. */
static const ui_action *action_elsewhere(ui_key key)
{
    for (int view = 0; view < UI_VIEW_COUNT; view++) {
        const ui_action *action = ui_action_for_key((ui_view_id)view, key);
        if (action)
            return action;
    }
    return NULL;
}

void ui_press(ui_state *state, ui_key key)
{
    const ui_action *action = ui_action_for_key(state->view, key);
    char name[16];

    if (state->prompt.kind != UI_PROMPT_NONE) {
        ui_prompt_key(state, key);
        return;
    }
    if (state->view == UI_VIEW_FORM && ui_form_type(state, key))
        return;
    if (!action) {
        action = action_elsewhere(key);
        if (action)
            ui_say(state, UI_WARN, "%s: %s is not in this view", ui_key_name(key, false, name, sizeof name),
                   action->title);
        else
            ui_say(state, UI_WARN, "%s does nothing; ? shows the keys",
                   ui_key_name(key, false, name, sizeof name));
        return;
    }
    const char *reason = action->enabled(state);
    if (reason) {
        ui_say(state, UI_WARN, "%s: %s", action->title, reason);
        return;
    }
    state->message[0] = '\0';
    action->run(state, action);
}

char *ui_key_name(ui_key key, bool has_signs, char *buffer, size_t size)
{
    static const char *const names[][2] = {
#define UI_KEY_TEXT(name, text, sign) {text, sign},
        UI_KEY_LIST(UI_KEY_TEXT)
#undef UI_KEY_TEXT
    };
    uint32_t index = key - UI_KEY_BASE - 1;

    if (key > UI_KEY_BASE && index < sizeof names / sizeof names[0])
        snprintf(buffer, size, "%s", names[index][has_signs ? 1 : 0]);
    else if (key == ' ')
        snprintf(buffer, size, "Space");
    else if (key > 0x20 && key < 0x7f)
        snprintf(buffer, size, "%c", (int)key);
    else if (key < 0x20)
        snprintf(buffer, size, "Ctrl-%c", (int)key + 64);
    else
        snprintf(buffer, size, "U+%04X", (unsigned)key);
    return buffer;
}

char *ui_action_keys(const ui_action *action, bool has_signs, char *buffer, size_t size)
{
    char name[16], other[16];

    ui_key_name(action->key, has_signs, name, sizeof name);
    if (action->second_key)
        snprintf(buffer, size, "%s %s", name,
                 ui_key_name(action->second_key, has_signs, other, sizeof other));
    else
        snprintf(buffer, size, "%s", name);
    return buffer;
}

char *ui_hint_keys(const ui_action *action, bool has_signs, char *buffer, size_t size)
{
    char name[16], other[16];

    ui_key_name(action->key, has_signs, name, sizeof name);
    if (action->partner)
        snprintf(buffer, size, "%s/%s", name,
                 ui_key_name(table[action->partner].key, has_signs, other, sizeof other));
    else
        snprintf(buffer, size, "%s", name);
    return buffer;
}

void ui_actions_print(FILE *stream)
{
    char keys[40];

    for (int id = 1; id < UI_ACTION_COUNT; id++)
        fprintf(stream, "%s\t%s\t%s\t%s\t%s\n", ui_action_section((ui_action_id)id),
                ui_action_keys(&table[id], false, keys, sizeof keys), table[id].name, table[id].title,
                table[id].help);
}
