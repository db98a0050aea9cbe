/* What the workbench shows and where its cursors are. One struct, owned by the UI thread; the engine's side
 * of things is in the snapshot, which is only read. */
#ifndef ESP_UI_STATE_H
#define ESP_UI_STATE_H

#include "study/session.h"
#include "ui/keys.h"
#include "ui/layout.h"

/* One list of views; those after HELP are pages in front of one, without a tab. Columns: NAME, table of
 * functions. */
#define UI_VIEW_LIST(X)                                                                                      \
    X(LAYERS, ui_view_layers)                                                                                \
    X(SALIENCY, ui_view_saliency)                                                                            \
    X(GROUPS, ui_view_groups)                                                                                \
    X(TRAIN, ui_view_train)                                                                                  \
    X(HISTORY, ui_view_history)                                                                              \
    X(TRADEOFF, ui_view_tradeoff)                                                                            \
    X(HELP, ui_view_help)                                                                                    \
    X(PAGE, ui_view_page)                                                                                    \
    X(FORM, ui_view_form)

typedef enum ui_view_id {
#define UI_VIEW_ENUM(name, table) UI_VIEW_##name,
    UI_VIEW_LIST(UI_VIEW_ENUM)
#undef UI_VIEW_ENUM
        UI_VIEW_COUNT
} ui_view_id;

typedef enum ui_prompt_kind {
    UI_PROMPT_NONE,
    UI_PROMPT_SAVE,           /* a path */
    UI_PROMPT_OVERWRITE,      /* y or n */
    UI_PROMPT_RATIO,          /* a ratio for the layer */
    UI_PROMPT_FILTER,         /* a part of layer names; acts while typing */
    UI_PROMPT_BUDGET,         /* targets, and how to spread them */
    UI_PROMPT_QUIT,           /* y or n */
    UI_PROMPT_PLAN_OPEN,      /* a path */
    UI_PROMPT_PLAN_SAVE,      /* a path */
    UI_PROMPT_PLAN_OVERWRITE, /* y or n */
} ui_prompt_kind;

typedef struct ui_prompt {
    ui_prompt_kind kind;
    char label[128];
    char text[512];
} ui_prompt;

/* The form of a training: a line of words, then the fields of the table (study/finetune.h). Texts are what is
 * shown and typed; `values` follows those that make sense. */
#define UI_FORM_FIELDS 24
typedef struct ui_form {
    bool was_opened;
    bool is_fresh; /* the next letter begins the text anew */
    int cursor;    /* 0: the words; then the fields */
    int top;
    esp_finetune values;
    char words[ESP_FINETUNE_TEXT], words_error[128];
    char texts[UI_FORM_FIELDS][ESP_FINETUNE_TEXT];
    char errors[UI_FORM_FIELDS][128]; /* "": none */
} ui_form;

typedef struct ui_state {
    esp_session *session;         /* NULL: pictures only (tests of views) */
    const esp_snapshot *snapshot; /* own reference; NULL before the first */

    ui_view_id view, view_before_help, view_before_page;
    int layer;     /* selected layer of the current version */
    int layer_top; /* first row of the table on screen */
    int criterion;
    bool shows_scatter;
    int rank; /* filter looked at in the saliency view, in ascending order of its score; -1: none */
    bool shows_versions; /* the trade-off view where there is room for one half only */
    int scan_top;
    int version_row; /* selected row of the history */
    int history_top, help_top, page_top;
    int body_rows; /* of the last frame; 0 before the first */
    int marked;    /* version to compare with; 0: none */
    uint64_t seen_findings;
    char taken_path[512]; /* the plan's file, when the page is about taking one over */
    char filter[64];
    ui_form form;

    ui_prompt prompt;
    char message[512];
    ui_element message_element;
    uint64_t seen_message; /* serial of the last snapshot message taken over */
    int seen_version;      /* current version of the last snapshot */
    bool has_progress;
    esp_progress_copy progress;
    const char *running_title; /* of the job that reports progress */
    size_t busy;               /* jobs, as of the last look; `demanded`: those the user asked for */
    size_t demanded;

    bool wants_quit;
    esp_status failure; /* the model could not be opened: the program ends with it */
    esp_error failure_error;
} ui_state;

/* A table of functions per view. */
typedef struct ui_view_ops {
    const char *title;
    bool has_side;
    void (*draw)(ui_state *state, ui_canvas *canvas, ui_rect rect);
    void (*draw_side)(ui_state *state, ui_canvas *canvas, ui_rect rect); /* NULL without a side panel */
    /* Moves the view's cursor by `delta` lines (large numbers: to the ends). NULL: the layer cursor moves. */
    void (*move)(ui_state *state, int delta);
} ui_view_ops;

const ui_view_ops *ui_view_of(ui_view_id view);
#define UI_VIEW_EXTERN(name, table) extern const ui_view_ops table;
UI_VIEW_LIST(UI_VIEW_EXTERN)
#undef UI_VIEW_EXTERN

/* Takes the latest snapshot over: cursors stay in range, messages appear. */
void ui_state_take_snapshot(ui_state *state, const esp_snapshot *take_snapshot);
void ui_state_take_event(ui_state *state, const esp_event *event);
void ui_state_release(ui_state *state);

void ui_say(ui_state *state, ui_element element, const char *format, ...) ESP_PRINTF(3, 4);

/* Shows a failure in the message line; ESP_CANCELLED and ESP_OK say nothing. */
void ui_say_failure(ui_state *state, esp_status status, const esp_error *err);

/* Selected layer and its part of the preview; NULL without a model. */
const esp_layer *ui_selected_layer(const ui_state *state);
const esp_preview_layer *ui_selected_preview(const ui_state *state);

/* The filter at `rank` of the selected layer, and why it stays or goes; -1 and NULL while that is not known.
 */
int64_t ui_selected_filter(const ui_state *state);
const esp_explanation *ui_selected_explanation(const ui_state *state);
void ui_look_at_filter(ui_state *state);

/* The detail of the selected layer; NULL while it is being computed. */
const esp_layer_detail *ui_selected_detail(const ui_state *state);

/* Layers that pass the filter: does this one? */
bool ui_layer_is_visible(const ui_state *state, int layer);

/* Moves the layer cursor over visible layers and tells the engine what to look at. */
void ui_move_layer(ui_state *state, int delta);
void ui_look_at_layer(ui_state *state);

/* Jobs that are not yet over, without the ones nobody asked for. */
bool ui_is_busy(const ui_state *state);

/* Versions in the order of the tree: fills at most `max` ids and depths; returns how many it filled. */
#define UI_MOST_VERSIONS 512
int ui_version_tree(const esp_versions *versions, int *ids, int *depths, int max);

#endif
