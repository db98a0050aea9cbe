/* A session: the open model with its versions, its data and a plan, owned by a worker thread. Every function
 * here may be called from one other thread (the UI's); what takes time becomes a job, and the answer arrives
 * as an event and a new snapshot. The session itself is changed by the worker thread only. */
#ifndef ESP_STUDY_SESSION_H
#define ESP_STUDY_SESSION_H

#include "study/finetune.h"
#include "study/plan_edit.h"
#include "study/snapshot.h"
#include "study/worker.h"

typedef struct esp_session esp_session;

typedef struct esp_session_options {
    const char *study_directory; /* NULL: versions live in memory only */
    int thread_count;            /* <= 0: one per core */
    const char *mean, *std;      /* overrides of the normalisation, or NULL */
    int64_t calibration_images;  /* 0: 500; the sample of the test set that estimates a plan's accuracy */
    uint64_t seed;
    bool hides_timings; /* see esp_snapshot */
    bool recalls_data;  /* opens the data that the study was last used with, if they are still there */
    /* Sizes that the file of the model to open leaves open, as for esp_input_shapes_parse; copied. A study
     * remembers them with the root. */
    const char *const *inputs;
    int input_count;
} esp_session_options;

esp_status esp_session_new(const esp_session_options *options, esp_session **out, esp_error *err);
void esp_session_free(esp_session *session); /* cancels what runs and waits for it; NULL is allowed */

/* ---- what happened ---- */
int esp_session_fd(const esp_session *session);
bool esp_session_next_event(esp_session *session, esp_event *out);
size_t esp_session_busy(esp_session *session); /* 0: idle, see study/worker.h */

size_t esp_session_demanded(esp_session *session); /* jobs a user asked for that are not over */

/* A new reference to the latest snapshot (esp_shared_unref); never NULL. */
const esp_snapshot *esp_session_snapshot(esp_session *session);

/* ---- jobs: each returns ESP_STATE when too many wait; failures of the job itself come as its event ---- */

/* Opens the study of the options, if any, and a model. `path` may be NULL when the study has versions; a
 * model the study does not start from becomes another root. */
esp_status esp_session_open(esp_session *session, const char *path, esp_error *err);

/* Test images now, training images when they are needed. */
esp_status esp_session_open_data(esp_session *session, const char *spec, esp_error *err);

esp_status esp_session_edit_plan(esp_session *session, const esp_plan_edit *edit, esp_error *err);
esp_status esp_session_select_layer(esp_session *session, int layer, int criterion, esp_error *err);

/* The whole test set: the current version, and the plan when it cuts something. */
esp_status esp_session_evaluate(esp_session *session, esp_error *err);

/* Latency of the current version, and of its root if that was not measured yet. */
esp_status esp_session_measure(esp_session *session, esp_error *err);

/* Why filter `channel` of a layer stays or goes; the answer follows the plan from then on. */
esp_status esp_session_explain(esp_session *session, int layer, int64_t channel, esp_error *err);

/* What cutting each part of the current version alone costs, by the plan's method, on training images. In a
 * study its points are kept, and a scan that was stopped goes on where it was. */
esp_status esp_session_scan(esp_session *session, esp_error *err);

/* How well the selected number of groups suits a layer, and how many its filters fall into by themselves
 * (elbow of the inertia), which becomes a rule of the plan. Self-grouping only. */
esp_status esp_session_suggest_groups(esp_session *session, int layer, esp_error *err);

/* Ratios for a budget: `text` is targets and, after a blank, how to spread them: "macs=0.5 saliency" (see
 * esp_budget_targets_parse and ESP_DISTRIBUTION_LIST; uniform when it says nothing). By sensitivity needs a
 * scan of this version by the plan's method. The plan changes. */
esp_status esp_session_solve(esp_session *session, const char *text, esp_error *err);

/* Surgery: the plan becomes a new version. */
esp_status esp_session_cut(esp_session *session, esp_error *err);

/* The same, with the weights of layers that lost input solved anew on training images (prune/reconstruct.h).
 */
esp_status esp_session_cut_reconstructed(esp_session *session, esp_error *err);

/* Batch-norm statistics of the current version measured again on training images: a new version. */
esp_status esp_session_recalibrate(esp_session *session, esp_error *err);

/* Trains the current version; the best epoch becomes a new version, also when it is cancelled half-way. Its
 * checkpoints lie in the study (in a temporary directory of the session without one); one that was stopped
 * or cut off is in the snapshots as `unfinished` until another training begins. */
esp_status esp_session_finetune(esp_session *session, const esp_finetune *options, esp_error *err);

/* Goes on with the unfinished training: what comes out is bit for bit what one run would have given. Opens
 * the data of that training when none is open. */
esp_status esp_session_resume(esp_session *session, esp_error *err);

/* Writes the current version as ONNX. */
esp_status esp_session_save(esp_session *session, const char *path, esp_error *err);

/* ---- plans of versions and files; what is found out comes as the snapshot's findings ---- */

/* What differs between two versions: figures, settings of the plans that made them, layers that come out
 * differently. Version 0 is the plan on the screen. */
esp_status esp_session_compare(esp_session *session, int a, int b, esp_error *err);

/* Takes the plan that made a version (or the one in the file `path`, when it is not NULL) over into the
 * present plan, fitted to the current version, merged by layer; `side`: as in esp_plan_merge, where the
 * present plan is a. Where something does not fit or both plans say different things, that is told first and
 * nothing changes until `applies`. */
esp_status esp_session_take_plan(esp_session *session, int version, const char *path, esp_plan_side side,
                                 bool applies, esp_error *err);

/* The plan before the last change of it (-1), or after it again (1). */
esp_status esp_session_step_plan(esp_session *session, int direction, esp_error *err);

/* Writes the present plan. */
esp_status esp_session_save_plan(esp_session *session, const char *path, esp_error *err);

/* Moves of the pointer to the current version. */
esp_status esp_session_undo(esp_session *session, esp_error *err);
esp_status esp_session_redo(esp_session *session, esp_error *err);
esp_status esp_session_go(esp_session *session, int version, esp_error *err);

/* Stops what runs and drops what waits. */
void esp_session_cancel(esp_session *session);

#endif
