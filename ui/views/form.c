/* The form of a training: a line per field with its text, and beside it what is wrong with it, else a word
 * about it. */
#include "ui/form.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "graph/layers.h"
#include "ui/views/parts.h"

#define LABEL_WIDTH 17
#define VALUE_WIDTH 14
#define HELP_FROM   84 /* columns from which every field has its help beside it */

/* ---- words about a field ---- */

static int frozen_layers(const ui_state *state)
{
    const esp_preview *preview = esp_snapshot_preview(state->snapshot);
    char copy[ESP_FINETUNE_TEXT];
    const char *patterns[ESP_FINETUNE_PATTERNS];
    int count = esp_finetune_patterns(&state->form.values, copy, patterns), frozen = 0;

    for (int l = 0; preview && l < preview->layers.count; l++) {
        const esp_layer *layer = &preview->layers.items[l];
        bool is_frozen = false;
        for (int p = 0; p < count; p++)
            is_frozen = is_frozen || esp_glob_match(patterns[p], layer->name) ||
                        esp_glob_match(patterns[p], layer->weight_name);
        frozen += is_frozen ? 1 : 0;
    }
    return frozen;
}

/* What the text means here and now; "" when there is nothing to say. */
static void say_meaning(const ui_state *state, const char *key, char *text, size_t size)
{
    const esp_finetune *values = &state->form.values;
    const esp_study_version *current = esp_snapshot_current(state->snapshot);
    const esp_study_version *root = esp_snapshot_baseline(state->snapshot);
    double train_count = (double)state->snapshot->data.train_count;
    int64_t own = state->snapshot->data.validation_count;

    text[0] = '\0';
    if (strcmp(key, "lr") == 0 && !(values->lr > 0))
        snprintf(text, size, "%g for %s", esp_finetune_lr(values),
                 esp_optimizer_word((esp_optimizer_kind)values->optimizer));
    else if (strcmp(key, "freeze") == 0 && values->freeze[0])
        snprintf(text, size, "%d of %d layers", frozen_layers(state),
                 esp_snapshot_preview(state->snapshot)->layers.count);
    else if (strcmp(key, "distilled") == 0 && values->distils)
        snprintf(text, size, root == current ? "it is that version itself" : "from version %d, %.40s",
                 root->id, root->title);
    else if (strcmp(key, "validation") == 0 && esp_finetune_is_on_test(values))
        snprintf(text, size, "then top-1 is no test any more");
    else if (strcmp(key, "validation") == 0 && values->validation < 0 && own > 0)
        snprintf(text, size, "the data's own %lld images", (long long)own);
    else if (strcmp(key, "validation") == 0 && train_count > 0)
        snprintf(text, size, "%.0f of %.0f images", esp_finetune_share(values) * train_count, train_count);
    else if (strcmp(key, "checkpoint_seconds") == 0 && !state->snapshot->has_study)
        snprintf(text, size, "without --study until you quit");
}

/* ---- lines ---- */

typedef struct form_line {
    const char *label, *text, *error, *help, *empty;
    bool is_choice;
    char meaning[96];
} form_line;

static form_line line_at(const ui_state *state, int index)
{
    const ui_form *form = &state->form;
    int count = 0;
    const esp_finetune_field *field = &esp_finetune_fields(&count)[index > 0 ? index - 1 : 0];
    form_line line = {0};

    if (index == 0)
        return (form_line){.label = "in words",
                           .text = form->words,
                           .error = form->words_error,
                           .empty = "",
                           .help = "epochs, learning rate, words, as in: 2 0.01 adamw onecycle distil"};
    line = (form_line){.label = field->title,
                       .text = form->texts[index - 1],
                       .error = form->errors[index - 1],
                       .help = field->help,
                       .empty = field->kind == ESP_FIELD_TEXT ? field->nothing : "",
                       .is_choice = field->kind == ESP_FIELD_CHOICE || field->kind == ESP_FIELD_FLAG};
    say_meaning(state, field->key, line.meaning, sizeof line.meaning);
    return line;
}

/* The end of a text that is longer than its place, since that is where one types. */
static const char *visible_end(const char *text, int room)
{
    while (*text && ui_text_width(text) > room)
        text++;
    return text;
}

static void draw_value(ui_canvas *canvas, int x, int y, int room, const form_line *line, bool is_selected)
{
    bool is_ascii = canvas->alphabet == UI_ASCII;
    ui_element element = line->error[0] ? UI_ERROR : is_selected ? UI_STRONG : UI_TEXT;
    int end = x + room;

    if (is_selected && line->is_choice)
        ui_put(canvas, x, y, is_ascii ? '<' : 0x25c2, UI_KEY);
    x += 2;
    if (line->text[0])
        x += ui_text(canvas, x, y, end - x - 2, visible_end(line->text, end - x - 2), element);
    else if (!is_selected)
        x += ui_text(canvas, x, y, end - x - 2, line->empty, UI_DIM);
    if (is_selected && line->is_choice)
        ui_put(canvas, x + 1, y, is_ascii ? '>' : 0x25b8, UI_KEY);
    else if (is_selected)
        ui_put(canvas, x, y, is_ascii ? '_' : 0x2581, UI_PROMPT);
}

/* Words and patterns get more room than numbers do. */
static int value_width(const form_line *line, int room)
{
    int wanted = ui_text_width(line->text) + 4;

    wanted = wanted < VALUE_WIDTH ? VALUE_WIDTH : wanted;
    return wanted < room * 2 / 3 ? wanted : room * 2 / 3;
}

static void draw_line(const ui_state *state, ui_canvas *canvas, ui_rect rows, int y, int index)
{
    form_line line = line_at(state, index);
    bool is_selected = index == state->form.cursor;
    int x = rows.x + 2, end = rows.x + rows.width - 1;
    int width = value_width(&line, end - x - LABEL_WIDTH);

    ui_text(canvas, x, y, LABEL_WIDTH, line.label, index == 0 ? UI_DIM : UI_TEXT);
    x += LABEL_WIDTH;
    draw_value(canvas, x, y, width, &line, is_selected);
    x += width + 1;
    if (line.error[0])
        ui_text(canvas, x, y, end - x, line.error, UI_ERROR);
    else if (line.meaning[0])
        ui_text(canvas, x, y, end - x, line.meaning, UI_HEADING);
    else if (rows.width >= HELP_FROM)
        ui_text(canvas, x, y, end - x, line.help, UI_DIM);
    if (is_selected)
        ui_select_row(canvas, rows, y);
}

static void draw_more(ui_canvas *canvas, ui_rect rows, int top, int count)
{
    bool is_ascii = canvas->alphabet == UI_ASCII;

    if (top > 0)
        ui_put(canvas, rows.x, rows.y, is_ascii ? '^' : 0x2191, UI_KEY);
    if (top + rows.height < count)
        ui_put(canvas, rows.x, rows.y + rows.height - 1, is_ascii ? 'v' : 0x2193, UI_KEY);
}

static void draw_title(const ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    const esp_study_version *current = esp_snapshot_current(state->snapshot);
    const esp_unfinished *unfinished = &state->snapshot->unfinished;
    char title[128];

    if (!current)
        return;
    if (unfinished->version)
        snprintf(title, sizeof title, "Fine-tune version %d: ends the stopped one, T would go on with it",
                 current->id);
    else
        snprintf(title, sizeof title, "Fine-tune version %d, %.80s", current->id, current->title);
    ui_heading(canvas, rect.x, rect.y, rect.width, title);
}

static void draw_form(ui_state *state, ui_canvas *canvas, ui_rect rect)
{
    ui_rect rows = ui_rect_shrink(rect, 0, 1, 0, 1);
    ui_form *form = &state->form;
    int count = ui_form_lines();
    form_line selected = line_at(state, form->cursor);

    if (!state->snapshot)
        return;
    draw_title(state, canvas, rect);
    form->top = ui_scroll(form->top, form->cursor, count, rows.height);
    for (int i = form->top; i < count && i - form->top < rows.height; i++)
        draw_line(state, canvas, rows, rows.y + i - form->top, i);
    draw_more(canvas, rows, form->top, count);
    ui_text(canvas, rect.x + 2, rect.y + rect.height - 1, rect.width - 3,
            selected.error[0] ? selected.error : selected.help, selected.error[0] ? UI_ERROR : UI_DIM);
}

const ui_view_ops ui_view_form = {
    .title = "Training", .has_side = false, .draw = draw_form, .draw_side = NULL, .move = ui_form_move};
