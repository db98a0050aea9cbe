/* Each change of a text is tried on `values` at once: what makes no sense leaves its error beside the text
 * and the old value behind it, and nothing starts before the errors are gone. */
#include "ui/form.h"

#include <stdio.h>
#include <string.h>

#include "ui/prompt.h"

int ui_form_lines(void)
{
    int count = 0;

    (void)esp_finetune_fields(&count);
    return count + 1;
}

static int field_count(void)
{
    return ui_form_lines() - 1;
}

static const esp_finetune_field *field_at(int index)
{
    int count = 0;

    return &esp_finetune_fields(&count)[index];
}

/* Texts as the values are. */
static void show_values(ui_form *form)
{
    for (int i = 0; i < field_count() && i < UI_FORM_FIELDS; i++) {
        esp_finetune_text(&form->values, i, form->texts[i], sizeof form->texts[i]);
        form->errors[i][0] = '\0';
    }
}

void ui_form_open(ui_state *state)
{
    ui_form *form = &state->form;

    if (!form->was_opened)
        form->values = state->snapshot->finetune;
    form->was_opened = true;
    show_values(form);
    form->words[0] = form->words_error[0] = '\0';
    form->cursor = form->top = 0;
    form->is_fresh = true;
    state->view_before_page = state->view;
    state->view = UI_VIEW_FORM;
}

void ui_form_close(ui_state *state)
{
    state->view = state->view_before_page == UI_VIEW_FORM ? UI_VIEW_TRAIN : state->view_before_page;
}

/* ---- texts ---- */

static void try_field(ui_form *form, int index)
{
    esp_error err = {0};
    esp_status status = esp_finetune_set(&form->values, index, form->texts[index], &err);

    snprintf(form->errors[index], sizeof form->errors[index], "%.127s", status == ESP_OK ? "" : err.message);
}

static void try_words(ui_form *form)
{
    esp_finetune values = form->values;
    esp_error err = {0};
    esp_status status = esp_finetune_words(&values, form->words, &err);

    snprintf(form->words_error, sizeof form->words_error, "%.127s", status == ESP_OK ? "" : err.message);
}

/* The words become values of the fields when the cursor leaves them. */
static void take_words(ui_form *form)
{
    esp_error ignored = {0};

    if (!form->words[0] || esp_finetune_words(&form->values, form->words, &ignored) != ESP_OK)
        return;
    form->words[0] = '\0';
    show_values(form);
}

static bool is_typed(const ui_form *form)
{
    esp_finetune_kind kind = form->cursor == 0 ? ESP_FIELD_TEXT : field_at(form->cursor - 1)->kind;

    return kind == ESP_FIELD_TEXT || kind == ESP_FIELD_REAL || kind == ESP_FIELD_INT;
}

static char *text_at(ui_form *form)
{
    return form->cursor == 0 ? form->words : form->texts[form->cursor - 1];
}

static void changed(ui_form *form)
{
    form->is_fresh = false;
    if (form->cursor == 0)
        try_words(form);
    else
        try_field(form, form->cursor - 1);
}

/* The next choice that begins with the letter. */
static bool choose_by_letter(ui_form *form, ui_key key)
{
    int index = form->cursor - 1, count = field_at(index)->kind == ESP_FIELD_FLAG ? 2 : 16;
    esp_finetune tried = form->values;
    char text[ESP_FINETUNE_TEXT];

    for (int i = 0; i < count; i++) {
        esp_finetune_step(&tried, index, 1);
        esp_finetune_text(&tried, index, text, sizeof text);
        if ((ui_key)(unsigned char)text[0] != key)
            continue;
        form->values = tried;
        snprintf(form->texts[index], sizeof form->texts[index], "%s", text);
        form->errors[index][0] = '\0';
        return true;
    }
    return false;
}

bool ui_form_type(ui_state *state, ui_key key)
{
    ui_form *form = &state->form;

    if (key < 0x20 || key >= UI_KEY_BASE)
        return false;
    if (!is_typed(form))
        return choose_by_letter(form, key);
    if (key == ' ' && form->cursor > 0 && field_at(form->cursor - 1)->kind != ESP_FIELD_TEXT)
        return false; /* no number has a blank: it steps */
    if (form->is_fresh)
        text_at(form)[0] = '\0';
    ui_text_append(text_at(form), ESP_FINETUNE_TEXT, key);
    changed(form);
    state->message[0] = '\0';
    return true;
}

void ui_form_erase(ui_state *state, bool all)
{
    ui_form *form = &state->form;

    if (!is_typed(form))
        return;
    if (all)
        text_at(form)[0] = '\0';
    else
        ui_text_drop(text_at(form));
    changed(form);
}

/* ---- moving and stepping ---- */

static void go_to(ui_form *form, int line)
{
    int last = ui_form_lines() - 1;

    if (form->cursor == 0)
        take_words(form);
    form->cursor = line < 0 ? 0 : line > last ? last : line;
    form->is_fresh = true;
}

void ui_form_move(ui_state *state, int delta)
{
    go_to(&state->form, state->form.cursor + delta);
}

void ui_form_next(ui_state *state)
{
    go_to(&state->form, (state->form.cursor + 1) % ui_form_lines());
}

static void show_field(ui_form *form, int index)
{
    esp_finetune_text(&form->values, index, form->texts[index], sizeof form->texts[index]);
    form->errors[index][0] = '\0';
    form->is_fresh = true;
}

void ui_form_step(ui_state *state, int direction)
{
    ui_form *form = &state->form;

    if (form->cursor == 0 || field_at(form->cursor - 1)->kind == ESP_FIELD_TEXT) {
        ui_say(state, UI_WARN, "this one is typed");
        return;
    }
    esp_finetune_step(&form->values, form->cursor - 1, direction);
    show_field(form, form->cursor - 1);
}

void ui_form_usual(ui_state *state)
{
    const esp_finetune usual = esp_finetune_defaults();
    ui_form *form = &state->form;
    char text[ESP_FINETUNE_TEXT];
    esp_error ignored = {0};

    if (form->cursor == 0) {
        ui_form_erase(state, true);
        return;
    }
    esp_finetune_text(&usual, form->cursor - 1, text, sizeof text);
    (void)esp_finetune_set(&form->values, form->cursor - 1, text, &ignored);
    show_field(form, form->cursor - 1);
}

/* ---- starting ---- */

/* The line of the first error, or -1. */
static int first_error(const ui_form *form)
{
    if (form->words_error[0])
        return 0;
    for (int i = 0; i < field_count(); i++)
        if (form->errors[i][0])
            return i + 1;
    return -1;
}

void ui_form_start(ui_state *state)
{
    ui_form *form = &state->form;
    int wrong;
    esp_error err = {0};
    esp_status status;

    take_words(form);
    wrong = first_error(form);
    if (wrong >= 0) {
        form->cursor = wrong;
        form->is_fresh = false;
        ui_say(state, UI_ERROR, "%s", wrong == 0 ? form->words_error : form->errors[wrong - 1]);
        return;
    }
    status = esp_session_finetune(state->session, &form->values, &err);
    ui_say_failure(state, status, &err);
    if (status == ESP_OK)
        state->view = UI_VIEW_TRAIN;
}
