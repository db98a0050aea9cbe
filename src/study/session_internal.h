/* The inside of a session, shared by session.c (life, commands, snapshots) and the session_*.c files (the
 * jobs). */
#ifndef ESP_STUDY_SESSION_INTERNAL_H
#define ESP_STUDY_SESSION_INTERNAL_H

#include <pthread.h>

#include "prune/coupling.h"
#include "study/plan_history.h"
#include "study/session.h"
#include "study/store.h"
#include "train/train_state.h"

#define ESP_SESSION_REDO_MAX 64

/* What belongs to one version while it is being looked at: its plan and the clusterings already computed. */
typedef struct esp_desk {
    int version;
    esp_plan plan;
    esp_plan_history history; /* plans that were on the screen, `plan` among them */
    esp_grouping_cache *cache;
    esp_coupling *coupling; /* NULL until a layer was looked at; borrows from `coupled` */
    const esp_preview_box *coupled;
    int scored; /* criterion with data whose scores are kept, plus 1; 0: none */
    int score_count;
    double **scores; /* per layer; NULL where it says nothing */
    bool has_solved; /* a budget made the plan `solved` of the plan `asked` */
    esp_plan asked, solved;
} esp_desk;

struct esp_session {
    esp_worker *worker;
    char *study_directory, *mean, *std;
    char *inputs[ESP_INPUT_SHAPES_MAX];
    int input_count;
    int64_t calibration_images;

    pthread_mutex_t mutex; /* guards `latest` */
    esp_snapshot *latest;

    /* the worker thread's from here on; `now` holds the references that the next snapshot will take */
    esp_snapshot now;
    esp_store *store;
    bool recalls_data;
    char *data_spec;
    esp_dataset *training_set, *test_set, *calibration_set;
    esp_dataset *validation_set; /* the data's own; NULL: they have none */
    esp_desk *desks;
    int desk_count;
    int redo[ESP_SESSION_REDO_MAX];
    int redo_count;
    int selected_layer, selected_criterion;
    esp_sensitivity *sensitivity; /* the last scan, of version `now.scan->version` */
    char sensitivity_by[64];      /* what it masked by */
    char untold[96];              /* the next message begins with it */
    struct esp_keeper *keeper;    /* of checkpoints (session_checkpoint.c); NULL before the first training */
};

/* A job with its data: one struct for all, as there is little of it. */
typedef struct esp_session_job {
    esp_job job;
    char *text; /* path or spec */
    int number, other_number;
    int64_t channel;
    esp_plan_edit edit;
    esp_finetune finetune;
    bool applies;
} esp_session_job;

esp_job_run_fn esp_session_run_open, esp_session_run_data, esp_session_run_edit, esp_session_run_select,
    esp_session_run_estimate, esp_session_run_evaluate, esp_session_run_measure, esp_session_run_cut,
    esp_session_run_finetune, esp_session_run_save, esp_session_run_undo, esp_session_run_redo,
    esp_session_run_go, esp_session_run_explain, esp_session_run_scan, esp_session_run_solve,
    esp_session_run_suggest, esp_session_run_recalibrate, esp_session_run_resume, esp_session_run_compare,
    esp_session_run_take, esp_session_run_save_plan, esp_session_run_step_plan;

/* A job for `run`, not submitted. */
esp_status esp_session_job_new(const char *title, unsigned flags, esp_job_run_fn *run, const char *text,
                               esp_session_job **out, esp_error *err);

/* Makes `now` the latest snapshot and wakes the reader. */
esp_status esp_session_post(esp_session *session, esp_error *err);

/* What the reader should be told with the next snapshot. */
void esp_session_say(esp_session *session, const char *format, ...) ESP_PRINTF(2, 3);

/* ESP_STATE unless a model is open; unless data are open too; training images are read when first needed. */
esp_status esp_session_need_model(const esp_session *session, esp_error *err);
esp_status esp_session_need_data(const esp_session *session, esp_error *err);
esp_status esp_session_need_training_set(esp_session *session, esp_error *err);

/* The current version, with its graph (read from the study when it was not yet). */
esp_status esp_session_current_graph(esp_session *session, const esp_study_version **out, esp_error *err);

/* Reads a version's graph from the study when that was not done yet. Lists made before do not see it. */
esp_status esp_session_load_graph(esp_session *session, int id, esp_error *err);

/* Sizes for the inputs that a version's file leaves open: those its root was opened with. `graph` is the
 * version's; names borrow from it. `shapes` has ESP_INPUT_SHAPES_MAX. */
esp_status esp_session_input_shapes(const esp_session *session, int id, const esp_graph *graph,
                                    esp_input_shape *shapes, int *out_count, esp_error *err);

/* Replaces (same id) or adds a version, here and in the study. */
esp_status esp_session_put_version(esp_session *session, const esp_study_version *version, bool is_new,
                                   esp_error *err);

/* A new child of the current version (or a root) made of `graph`: fills id, parent, created; makes it
 * current; the plan of the new version starts at ratio 0 with the method and mode in use. */
esp_status esp_session_add_version(esp_session *session, int parent, const char *title, json_t *take_how,
                                   const esp_graph *graph, const esp_metrics *metrics, esp_error *err);

/* Makes a version current and resolves its plan. */
esp_status esp_session_go_to(esp_session *session, const esp_compute *compute, int version, esp_error *err);

/* The training images that the plan's criterion looks at; `out` stays as it is when it looks at none. */
esp_status esp_session_plan_data(esp_session *session, const esp_plan *plan, esp_criterion_data *out,
                                 esp_error *err);

/* Gives them to the cache, when it does. */
esp_status esp_session_calibrate(esp_session *session, const esp_plan *plan, esp_grouping_cache *cache,
                                 esp_error *err);

/* The reasons of the preview that is shown; posted, unless a change of the plan is waiting that would void
 * them. */
esp_status esp_session_give_reasons(esp_session *session, esp_error *err);

/* The explanation again for the plan that is shown now; none when that cannot be. */
void esp_session_explain_again(esp_session *session);

/* Puts back the plan that is on the screen. */
void esp_session_restore_plan(esp_session *session, esp_desk *desk);

/* Shows a page; takes it whatever happens. ESP_NO_MEMORY when lines are missing. Not posted. */
esp_status esp_session_show(esp_session *session, esp_findings *take_findings, esp_error *err);

/* Opens data unless some are open; a study remembers which. */
esp_status esp_session_use_data(esp_session *session, const char *spec, esp_error *err);
void esp_session_recall_data(esp_session *session);

/* ---- checkpoints: session_checkpoint.c ---- */

/* What a study remembers of trainings, when it is opened: the last options, and the one to go on with. */
void esp_session_recall_training(esp_session *session);

/* A training begins: no checkpoint of an earlier one is left. Failures are said, not returned: a training
 * without checkpoints is still one. `resumes`: the file stays. */
void esp_session_keep_begin(esp_session *session, int version, const esp_finetune *options, bool resumes);

/* Keeps a state, and what is needed to go on from it; an esp_checkpoint_fn, `user` the session. */
esp_checkpoint_fn esp_session_keep;

/* A training is over. `can_go_on`: its checkpoint stays. */
void esp_session_keep_end(esp_session *session, bool can_go_on);

/* The unfinished training: its options, its state, and the curve so far. */
esp_status esp_session_kept(esp_session *session, esp_finetune *options, char **out_data_spec,
                            esp_train_state *state, esp_training_log **log, esp_error *err);

void esp_session_keep_free(esp_session *session);

/* Resolves the current plan: a new preview in `now`, the estimate forgotten. */
esp_status esp_session_refresh(esp_session *session, const esp_compute *compute, esp_error *err);

/* Submits the background estimate when there is something to estimate. */
void esp_session_want_estimate(esp_session *session);

/* Forgets the scores of a desk. */
void esp_session_forget_scores(esp_desk *desk);

/* The selected layer of the current version, looked at closely. */
esp_status esp_session_look(esp_session *session, const esp_compute *compute, esp_layer_detail **out,
                            esp_error *err);

esp_desk *esp_session_desk(esp_session *session); /* of the current version; NULL when there is none */

void esp_session_journal(esp_session *session, const char *action, const char *detail);

#endif
