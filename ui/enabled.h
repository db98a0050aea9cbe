/* When actions are possible: the column "enabled" of the action table. Each says why not, or NULL. */
#ifndef ESP_UI_ENABLED_H
#define ESP_UI_ENABLED_H

#include "ui/state.h"

const char *ui_always(const ui_state *state);
const char *ui_needs_model(const ui_state *state);
const char *ui_needs_layer(const ui_state *state);
const char *ui_needs_plannable_layer(const ui_state *state);
const char *ui_needs_layer_rule(const ui_state *state);
const char *ui_needs_grouping(const ui_state *state);
const char *ui_needs_groupable_layer(const ui_state *state);
const char *ui_needs_wsp(const ui_state *state);
const char *ui_needs_filter(const ui_state *state);
const char *ui_needs_modes(const ui_state *state);
const char *ui_needs_ranking(const ui_state *state);
const char *ui_needs_detail(const ui_state *state);
const char *ui_needs_quiet(const ui_state *state);
const char *ui_needs_cut(const ui_state *state);
const char *ui_needs_data(const ui_state *state);
const char *ui_needs_cut_and_data(const ui_state *state);
const char *ui_needs_training(const ui_state *state);
const char *ui_needs_undo(const ui_state *state);
const char *ui_needs_redo(const ui_state *state);
const char *ui_needs_other_version(const ui_state *state);
const char *ui_needs_versions(const ui_state *state);
const char *ui_needs_unfinished(const ui_state *state);
const char *ui_needs_taking(const ui_state *state);
const char *ui_needs_sides(const ui_state *state);
const char *ui_needs_plan_before(const ui_state *state);
const char *ui_needs_plan_after(const ui_state *state);
const char *ui_needs_busy(const ui_state *state);

/* The version selected in the history; 0: none. */
int ui_version_at_cursor(const ui_state *state);

#endif
