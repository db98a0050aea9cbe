/* When actions are possible: each function says why not, or NULL. */
#include "ui/enabled.h"

const char *ui_always(const ui_state *state)
{
    (void)state;
    return NULL;
}

const char *ui_needs_model(const ui_state *state)
{
    return esp_snapshot_preview(state->snapshot) ? NULL : "no model is open yet";
}

const char *ui_needs_layer(const ui_state *state)
{
    const esp_preview_layer *item = ui_selected_preview(state);

    if (!item)
        return "no layer is selected";
    return ui_layer_is_visible(state, state->layer) ? NULL : "the filter hides every layer";
}

const char *ui_needs_plannable_layer(const ui_state *state)
{
    const char *reason = ui_needs_layer(state);

    if (!reason && ui_selected_preview(state)->role == ESP_ROLE_GROUPED &&
        !ui_selected_preview(state)->takes_part)
        reason = "a grouped convolution is cut with the layers around it";
    return reason;
}

const char *ui_needs_layer_rule(const ui_state *state)
{
    const char *reason = ui_needs_layer(state);

    if (!reason &&
        !esp_plan_layer_rule(&esp_snapshot_preview(state->snapshot)->plan, ui_selected_layer(state)))
        reason = "nothing was set for this layer alone";
    return reason;
}

const char *ui_needs_grouping(const ui_state *state)
{
    const char *reason = ui_needs_model(state);

    if (!reason && esp_snapshot_preview(state->snapshot)->plan.method != ESP_METHOD_SG)
        reason = "groups belong to self-grouping: press m to change the method";
    return reason;
}

const char *ui_needs_groupable_layer(const ui_state *state)
{
    const char *reason = ui_needs_grouping(state);

    return reason ? reason : ui_needs_layer(state);
}

const char *ui_needs_wsp(const ui_state *state)
{
    const char *reason = ui_needs_model(state);

    if (!reason && esp_snapshot_preview(state->snapshot)->plan.method != ESP_METHOD_WSP)
        reason = "the scatter belongs to WSP: press m to change the method";
    return reason;
}

const char *ui_needs_filter(const ui_state *state)
{
    const char *reason = ui_needs_model(state);

    if (!reason && esp_snapshot_preview(state->snapshot)->plan.method != ESP_METHOD_FILTER)
        reason = "the criterion belongs to the method filter: press m to change the method";
    return reason;
}

const char *ui_needs_modes(const ui_state *state)
{
    const char *reason = ui_needs_model(state);

    if (!reason && esp_snapshot_preview(state->snapshot)->plan.method == ESP_METHOD_FILTER)
        reason = "sound and faithful are modes of wsp and sg";
    return reason;
}

const char *ui_needs_ranking(const ui_state *state)
{
    const char *reason = ui_needs_model(state);

    if (!reason && !esp_plan_ranks_slots(&esp_snapshot_preview(state->snapshot)->plan))
        reason = "only filter and sound wsp rank whole filters";
    return reason;
}

const char *ui_needs_detail(const ui_state *state)
{
    return ui_selected_detail(state) ? NULL : "the layer is still being scored";
}

const char *ui_needs_quiet(const ui_state *state)
{
    const char *reason = ui_needs_model(state);

    return !reason && ui_is_busy(state) ? "a job is running: wait, or Esc to stop it" : reason;
}

const char *ui_needs_cut(const ui_state *state)
{
    const char *reason = ui_needs_quiet(state);

    return !reason && !esp_snapshot_has_cut(state->snapshot)
               ? "the plan keeps every weight: raise a ratio first"
               : reason;
}

const char *ui_needs_data(const ui_state *state)
{
    const char *reason = ui_needs_quiet(state);

    return !reason && !state->snapshot->data.is_open ? "no data is open: start with --data SPEC" : reason;
}

const char *ui_needs_cut_and_data(const ui_state *state)
{
    const char *reason = ui_needs_cut(state);

    return reason ? reason : ui_needs_data(state);
}

const char *ui_needs_training(const ui_state *state)
{
    const char *reason = ui_needs_data(state);

    return !reason && esp_snapshot_has_cut(state->snapshot)
               ? "the plan is not cut yet: x cuts it, 0 clears it"
               : reason;
}

const char *ui_needs_undo(const ui_state *state)
{
    return state->snapshot && state->snapshot->undo_to
               ? NULL
               : "nothing to undo: this is the version that was opened";
}

const char *ui_needs_redo(const ui_state *state)
{
    return state->snapshot && state->snapshot->redo_to ? NULL : "nothing to redo";
}

int ui_version_at_cursor(const ui_state *state)
{
    int ids[UI_MOST_VERSIONS], depths[UI_MOST_VERSIONS];
    int count =
        state->snapshot ? ui_version_tree(state->snapshot->versions, ids, depths, UI_MOST_VERSIONS) : 0;

    return state->version_row < count ? ids[state->version_row] : 0;
}

const char *ui_needs_other_version(const ui_state *state)
{
    int id = ui_version_at_cursor(state);

    return id == 0                          ? "there are no versions yet"
           : id == state->snapshot->current ? "this is the current version"
                                            : NULL;
}

const char *ui_needs_versions(const ui_state *state)
{
    return ui_version_at_cursor(state) ? NULL : "there are no versions yet";
}

const char *ui_needs_unfinished(const ui_state *state)
{
    const char *reason = ui_needs_quiet(state);

    return !reason && state->snapshot->unfinished.version == 0 ? "no training was stopped or cut off"
                                                               : reason;
}

const char *ui_needs_taking(const ui_state *state)
{
    const esp_findings *page = state->snapshot ? state->snapshot->findings : NULL;

    return page && page->takes_version ? NULL : "this page asks nothing; Esc closes it";
}

const char *ui_needs_sides(const ui_state *state)
{
    const char *reason = ui_needs_taking(state);

    return !reason && !state->snapshot->findings->has_sides ? "the present plan asks nothing that could win"
                                                            : reason;
}

const char *ui_needs_plan_before(const ui_state *state)
{
    const char *reason = ui_needs_model(state);

    return !reason && !state->snapshot->can_take_back ? "the plan was not changed before this" : reason;
}

const char *ui_needs_plan_after(const ui_state *state)
{
    const char *reason = ui_needs_model(state);

    return !reason && !state->snapshot->can_go_forward ? "no change of the plan was taken back" : reason;
}

const char *ui_needs_busy(const ui_state *state)
{
    return ui_is_busy(state) || state->filter[0] ? NULL : "nothing is running";
}
