/* Questions and what their answers do. Enter answers, Esc drops the question; yes/no questions take one
 * letter. */
#include "ui/prompt.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/text.h"

void ui_prompt_open(ui_state *state, ui_prompt_kind kind, const char *initial, const char *format, ...)
{
    va_list arguments;

    memset(&state->prompt, 0, sizeof state->prompt);
    state->prompt.kind = kind;
    snprintf(state->prompt.text, sizeof state->prompt.text, "%s", initial);
    va_start(arguments, format);
    vsnprintf(state->prompt.label, sizeof state->prompt.label, format, arguments);
    va_end(arguments);
    state->message[0] = '\0';
}

bool ui_prompt_is_choice(const ui_prompt *prompt)
{
    return prompt->kind == UI_PROMPT_QUIT || prompt->kind == UI_PROMPT_OVERWRITE ||
           prompt->kind == UI_PROMPT_PLAN_OVERWRITE;
}

static void close_prompt(ui_state *state)
{
    state->prompt.kind = UI_PROMPT_NONE;
}

/* ---- answers ---- */

static void save_to(ui_state *state, const char *path)
{
    esp_error err = {0};
    esp_status status = esp_session_save(state->session, path, &err);

    ui_say_failure(state, status, &err);
}

/* A path as a shell would take it: "~/" is the home directory. False when it does not fit. */
static bool at_home(const char *text, char *path, size_t size)
{
    const char *home = strncmp(text, "~/", 2) == 0 ? getenv("HOME") : NULL;
    int length = home ? snprintf(path, size, "%s%s", home, text + 1) : snprintf(path, size, "%s", text);

    return length >= 0 && (size_t)length < size;
}

/* The path that was typed, and closes the prompt; false, after saying why, when it is none. */
static bool take_path(ui_state *state, const char *what, char *path, size_t size)
{
    bool fits = at_home(state->prompt.text, path, size);

    close_prompt(state);
    if (!fits)
        ui_say(state, UI_ERROR, "%s: the file name is too long", what);
    else if (!path[0])
        ui_say(state, UI_WARN, "%s: no file name was given", what);
    else if (esp_file_is_directory(path))
        ui_say(state, UI_ERROR, "%s: %s is a directory", what, path);
    else
        return true;
    return false;
}

static void answer_save(ui_state *state)
{
    char path[sizeof state->prompt.text];

    if (!take_path(state, "save", path, sizeof path))
        return;
    if (esp_file_exists(path))
        ui_prompt_open(state, UI_PROMPT_OVERWRITE, path, "replace %.100s? y/n", path);
    else
        save_to(state, path);
}

static void save_plan_to(ui_state *state, const char *path)
{
    esp_error err = {0};

    ui_say_failure(state, esp_session_save_plan(state->session, path, &err), &err);
}

static void answer_plan_save(ui_state *state)
{
    char path[sizeof state->prompt.text];

    if (!take_path(state, "write plan", path, sizeof path))
        return;
    if (esp_file_exists(path))
        ui_prompt_open(state, UI_PROMPT_PLAN_OVERWRITE, path, "replace %.100s? y/n", path);
    else
        save_plan_to(state, path);
}

static void answer_plan_open(ui_state *state)
{
    esp_error err = {0};

    if (take_path(state, "open plan", state->taken_path, sizeof state->taken_path))
        ui_say_failure(
            state, esp_session_take_plan(state->session, 0, state->taken_path, ESP_PLAN_THEIRS, false, &err),
            &err);
}

static void answer_ratio(ui_state *state)
{
    esp_plan_edit edit = {.kind = ESP_EDIT_LAYER_RATIO_SET, .layer = state->layer};
    esp_error err = {0};
    bool is_number = esp_parse_f64(state->prompt.text, &edit.amount);
    esp_status status = ESP_OK;

    close_prompt(state);
    if (!is_number || edit.amount < 0.0 || edit.amount >= 1.0)
        status = esp_fail(&err, ESP_INVALID, "ratio '%s', expected a number in [0, 1)", state->prompt.text);
    else
        status = esp_session_edit_plan(state->session, &edit, &err);
    ui_say_failure(state, status, &err);
}

static void answer_budget(ui_state *state)
{
    esp_error err = {0};

    close_prompt(state);
    if (state->prompt.text[0])
        ui_say_failure(state, esp_session_solve(state->session, state->prompt.text, &err), &err);
    else
        ui_say(state, UI_WARN, "budget: no target was given");
}

static void apply_filter(ui_state *state)
{
    snprintf(state->filter, sizeof state->filter, "%.63s", state->prompt.text);
    state->layer_top = 0;
    if (!ui_layer_is_visible(state, state->layer))
        ui_move_layer(state, 1);
    if (!ui_layer_is_visible(state, state->layer))
        ui_move_layer(state, -1);
}

static void answer(ui_state *state)
{
    switch (state->prompt.kind) {
    case UI_PROMPT_SAVE:
        answer_save(state);
        break;
    case UI_PROMPT_RATIO:
        answer_ratio(state);
        break;
    case UI_PROMPT_PLAN_OPEN:
        answer_plan_open(state);
        break;
    case UI_PROMPT_PLAN_SAVE:
        answer_plan_save(state);
        break;
    case UI_PROMPT_BUDGET:
        answer_budget(state);
        break;
    default:
        close_prompt(state);
    }
}

static void answer_choice(ui_state *state, bool is_yes)
{
    ui_prompt asked = state->prompt;

    close_prompt(state);
    if (!is_yes)
        return;
    if (asked.kind == UI_PROMPT_QUIT)
        state->wants_quit = true;
    else if (asked.kind == UI_PROMPT_PLAN_OVERWRITE)
        save_plan_to(state, asked.text);
    else
        save_to(state, asked.text);
}

/* ---- editing ---- */

void ui_text_append(char *text, size_t size, ui_key key)
{
    size_t length = strlen(text);
    char bytes[5] = {0};

    if (key < 0x80)
        bytes[0] = (char)key;
    else if (key < 0x800)
        snprintf(bytes, sizeof bytes, "%c%c", (int)(0xc0 | (key >> 6)), (int)(0x80 | (key & 63)));
    else if (key < 0x10000)
        snprintf(bytes, sizeof bytes, "%c%c%c", (int)(0xe0 | (key >> 12)), (int)(0x80 | ((key >> 6) & 63)),
                 (int)(0x80 | (key & 63)));
    else
        snprintf(bytes, sizeof bytes, "%c%c%c%c", (int)(0xf0 | (key >> 18)), (int)(0x80 | ((key >> 12) & 63)),
                 (int)(0x80 | ((key >> 6) & 63)), (int)(0x80 | (key & 63)));
    if (length + strlen(bytes) < size)
        strcat(text, bytes);
}

void ui_text_drop(char *text)
{
    size_t length = strlen(text);

    while (length > 0 && ((unsigned char)text[length - 1] & 0xc0) == 0x80)
        length--;
    if (length > 0)
        text[length - 1] = '\0';
}

void ui_prompt_key(ui_state *state, ui_key key)
{
    ui_prompt *prompt = &state->prompt;

    if (key == UI_KEY_ESCAPE) {
        if (prompt->kind == UI_PROMPT_FILTER) {
            prompt->text[0] = '\0';
            apply_filter(state);
        }
        close_prompt(state);
        return;
    }
    if (ui_prompt_is_choice(prompt)) {
        if (key == 'y' || key == 'Y' || key == 'n' || key == 'N')
            answer_choice(state, key == 'y' || key == 'Y');
        return;
    }
    if (key == UI_KEY_ENTER) {
        answer(state);
        return;
    }
    if (key == UI_KEY_BACKSPACE || key == UI_KEY_DELETE)
        ui_text_drop(prompt->text);
    else if (key == UI_KEY_CTRL_U)
        prompt->text[0] = '\0';
    else if (key >= 0x20 && key < UI_KEY_BASE)
        ui_text_append(prompt->text, sizeof prompt->text, key);
    if (prompt->kind == UI_PROMPT_FILTER)
        apply_filter(state);
}
