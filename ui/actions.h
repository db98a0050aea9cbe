/* The action table: what keys do, where, and why not. */
#ifndef ESP_UI_ACTIONS_H
#define ESP_UI_ACTIONS_H

#include <stdio.h>

#include "ui/state.h"

/* Where a key means something: one bit per view. */
#define UI_IN(view)    (1u << UI_VIEW_##view)
#define UI_IN_LAYERS   UI_IN(LAYERS)
#define UI_IN_SALIENCY UI_IN(SALIENCY)
#define UI_IN_HISTORY  UI_IN(HISTORY)
#define UI_IN_TRADEOFF UI_IN(TRADEOFF)
#define UI_IN_PLANNING (UI_IN(LAYERS) | UI_IN(SALIENCY) | UI_IN(GROUPS) | UI_IN(TRADEOFF))
#define UI_IN_HELP     UI_IN(HELP)
#define UI_IN_PAGE     UI_IN(PAGE)
#define UI_IN_FORM     UI_IN(FORM)
#define UI_IN_FRONT    (UI_IN_HELP | UI_IN_PAGE | UI_IN_FORM) /* pages in front of a view */
#define UI_ANYWHERE    ((1u << UI_VIEW_COUNT) - 1u)
#define UI_IN_ALL      (UI_ANYWHERE & ~UI_IN_FORM) /* letters typed into a form are no actions */

typedef enum ui_action_id {
    UI_ACTION_NONE,
#define UI_SECTION(title)
#define UI_ACTION(id, name, key, second, contexts, hint, partner, title, help, enabled, run) UI_ACTION_##id,
#include "ui/actions.def"
#undef UI_ACTION
#undef UI_SECTION
    UI_ACTION_COUNT
} ui_action_id;

typedef struct ui_action {
    ui_action_id id;
    const char *name;
    ui_key key, second_key;
    unsigned contexts;
    const char *hint;
    ui_action_id partner;
    const char *title, *help;
    const char *(*enabled)(const ui_state *state); /* why not, or NULL */
    void (*run)(ui_state *state, const struct ui_action *action);
} ui_action;

/* 1 .. UI_ACTION_COUNT - 1; ids in the order of the table. */
const ui_action *ui_action_at(ui_action_id id);

/* The heading an action stands under. */
const char *ui_action_section(ui_action_id id);

/* What a key means in a view, or NULL. */
const ui_action *ui_action_for_key(ui_view_id view, ui_key key);

/* A key press: prompt, action, or a word about why nothing happens. */
void ui_press(ui_state *state, ui_key key);

/* "+ =": the keys of an action. */
char *ui_action_keys(const ui_action *action, bool has_signs, char *buffer, size_t size);

/* "+/-": its first key and, when they share a hint, its partner's. */
char *ui_hint_keys(const ui_action *action, bool has_signs, char *buffer, size_t size);

/* The table, a line per action: section, keys, name, title and help between tabs; for the manual page. */
void ui_actions_print(FILE *stream);

#endif
