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
    return prompt->kind == UI_PROMPT_QUIT || prompt->kind == UI_PROMPT_OVERWRITE;
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

static void answer_save(ui_state *state)
{
    char path[sizeof state->prompt.text];
    bool fits = at_home(state->prompt.text, path, sizeof path);

    close_prompt(state);
    if (!fits)
        ui_say(state, UI_ERROR, "save: the file name is too long");
    else if (!path[0])
        ui_say(state, UI_WARN, "save: no file name was given");
    else if (esp_file_is_directory(path))
        ui_say(state, UI_ERROR, "save: %s is a directory", path);
    else if (esp_file_exists(path))
        ui_prompt_open(state, UI_PROMPT_OVERWRITE, path, "replace %.100s? y/n", path);
    else
        save_to(state, path);
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

/* A word of an optimizer, a schedule, or "distil". */
static esp_status take_training_word(const char *word, esp_finetune *out, esp_error *err)
{
    esp_error ignored = {0};

    if (strcmp(word, "distil") == 0) {
        out->distils = true;
        return ESP_OK;
    }
    if (esp_optimizer_parse_kind(word, &out->optimizer, &ignored) == ESP_OK)
        return ESP_OK;
    if (esp_schedule_parse_kind(word, &out->schedule, &ignored) == ESP_OK &&
        out->schedule != ESP_SCHEDULE_SEQUENCE && out->schedule != ESP_SCHEDULE_MULTISTEP) {
        out->has_schedule = true;
        return ESP_OK;
    }
    return esp_fail(err, ESP_INVALID,
                    "'%s', expected a number, an optimizer (sgd, adam, adamw), a schedule, or distil", word);
}

static esp_status take_training_number(const char *text, int place, esp_finetune *out, esp_error *err)
{
    if (place == 0 && (!esp_parse_f64(text, &out->epochs) || !(out->epochs > 0.0 && out->epochs <= 10000.0)))
        return esp_fail(err, ESP_INVALID, "epochs '%s', expected a number above 0, up to 10000", text);
    if (place == 1 && (!esp_parse_f64(text, &out->lr) || !(out->lr > 0.0 && out->lr <= 100.0)))
        return esp_fail(err, ESP_INVALID, "learning rate '%s', expected a number above 0, up to 100", text);
    return ESP_OK;
}

/* "EPOCHS [LR] [WORD...]": a learning rate that is not there is the optimizer's usual one. */
static esp_status parse_finetune(const char *text, esp_finetune *out, esp_error *err)
{
    char copy[sizeof((ui_prompt *)0)->text], *rest = copy, *word;
    int numbers = 0;
    esp_status status = ESP_OK;

    snprintf(copy, sizeof copy, "%s", text);
    while (status == ESP_OK && (word = strtok_r(rest, " ", &rest)) != NULL) {
        bool is_number = word[0] == '-' || word[0] == '.' || (word[0] >= '0' && word[0] <= '9');
        if (numbers < 2 && (is_number || numbers == 0))
            status = take_training_number(word, numbers++, out, err);
        else
            status = take_training_word(word, out, err);
    }
    if (status == ESP_OK && numbers == 0)
        status =
            esp_fail(err, ESP_INVALID, "'%s', expected epochs, as in '2 0.01 adamw onecycle distil'", text);
    return status;
}

static void answer_epochs(ui_state *state)
{
    esp_finetune options = {0};
    esp_error err = {0};
    esp_status status = parse_finetune(state->prompt.text, &options, &err);

    close_prompt(state);
    if (status == ESP_OK)
        status = esp_session_finetune(state->session, &options, &err);
    ui_say_failure(state, status, &err);
    if (status == ESP_OK)
        state->view = UI_VIEW_TRAIN;
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
    case UI_PROMPT_EPOCHS:
        answer_epochs(state);
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
    else
        save_to(state, asked.text);
}

/* ---- editing ---- */

static void append_rune(char *text, size_t size, ui_key key)
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

static void drop_rune(char *text)
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
        drop_rune(prompt->text);
    else if (key == UI_KEY_CTRL_U)
        prompt->text[0] = '\0';
    else if (key >= 0x20 && key < UI_KEY_BASE)
        append_rune(prompt->text, sizeof prompt->text, key);
    if (prompt->kind == UI_PROMPT_FILTER)
        apply_filter(state);
}
