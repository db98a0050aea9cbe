/* The prompt line: one question at a time, answered in the message row. */
#ifndef ESP_UI_PROMPT_H
#define ESP_UI_PROMPT_H

#include "ui/state.h"

void ui_prompt_open(ui_state *state, ui_prompt_kind kind, const char *initial, const char *format, ...)
    ESP_PRINTF(4, 5);

/* A key while a prompt is open. */
void ui_prompt_key(ui_state *state, ui_key key);

/* Editing of a line: a letter at its end (nothing happens when it is full), and the last one away. */
void ui_text_append(char *text, size_t size, ui_key key);
void ui_text_drop(char *text);

/* True for questions answered by one letter. */
bool ui_prompt_is_choice(const ui_prompt *prompt);

#endif
