/* The form of a training: which field the cursor is on, what is typed, and whether it makes sense. Knows no
 * field: all it shows and changes is in the table of study/finetune.h. */
#ifndef ESP_UI_FORM_H
#define ESP_UI_FORM_H

#include "ui/state.h"

/* Shows the form; filled in as it was last time, the first time as the study's last training was. */
void ui_form_open(ui_state *state);
void ui_form_close(ui_state *state);

/* A key that is typed into the field at the cursor; false when it is none, and is an action then. */
bool ui_form_type(ui_state *state, ui_key key);

/* The cursor by lines; the field below, round the end. */
void ui_form_move(ui_state *state, int delta);
void ui_form_next(ui_state *state);

/* The next value or choice, up (1) or down (-1); the usual one. */
void ui_form_step(ui_state *state, int direction);
void ui_form_usual(ui_state *state);

/* Erases the last letter of a text, or all of it. */
void ui_form_erase(ui_state *state, bool all);

/* Starts the training; where a field makes no sense the cursor goes there instead. */
void ui_form_start(ui_state *state);

/* Lines of the form: the words and the fields. */
int ui_form_lines(void);

#endif
