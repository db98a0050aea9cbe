/* Pruning schedules: when the ratio of a plan rises over training, and running one.
 *
 * A schedule is plain data and stands beside a plan, which says where the ratio ends. At every step the plan
 * is resolved anew against the weights as they are then (layers are grouped again, filters ranked again), at
 * ratios that are cumulative: the share that is gone after the step, what went before included. Masks only
 * grow. */
#ifndef ESP_PRUNE_GRADUAL_H
#define ESP_PRUNE_GRADUAL_H

#include <jansson.h>

#include "prune/preview.h"
#include "prune/surgery.h"
#include "train/trainer.h"

/* One list of schedules. LG, G and L are SG-CNN's (Guo et al. 2020; METHODS.md section 2), AGP is Zhu and
 * Gupta's "To prune, or not to prune" (2017). Columns: NAME, word, what happens. */
#define ESP_GRADUAL_LIST(X)                                                                                  \
    X(ONE_SHOT, "one-shot", "everything at once, then global fine-tuning")                                   \
    X(LG, "lg", "steps of equal size with local training after each, then global fine-tuning")               \
    X(G, "g", "the same steps without training in between, then global fine-tuning")                         \
    X(L, "l", "steps with local training, no global fine-tuning")                                            \
    X(LINEAR, "linear", "the ratio rises in a line while one training goes on")                              \
    X(AGP, "agp", "the ratio rises fast, then ever slower (cubic), while one training goes on")

typedef enum esp_gradual_kind {
#define ESP_GRADUAL_ENUM(name, word, title) ESP_GRADUAL_##name,
    ESP_GRADUAL_LIST(ESP_GRADUAL_ENUM)
#undef ESP_GRADUAL_ENUM
} esp_gradual_kind;

typedef struct esp_gradual {
    esp_gradual_kind kind;
    double step;    /* LG, G, L: by how much the ratio rises, (0, 1]; 0.1 as published */
    int steps;      /* LINEAR, AGP: n, prunings on the way, >= 1; 10 */
    double initial; /* LINEAR, AGP: s_i, ratio the rise begins with, [0, 1); above 0 it is a step before
                       the n */
    double
        local_epochs;   /* LG, L: trained after each step; LINEAR, AGP: dt, from one pruning to the next; 3 */
    double local_lr;    /* LG, L: constant rate of local training; 0: the training's own */
    double epochs;      /* trained at the end (not L), 0 for none; 90 as published */
    double group_lasso; /* lambda of a group-lasso term over what takes part (group_lasso.h), 0: none */
} esp_gradual;

esp_gradual esp_gradual_defaults(esp_gradual_kind kind);
/* Ranges; ESP_INVALID says which, found and expected. */
esp_status esp_gradual_check(const esp_gradual *schedule, esp_error *err);
/* Whether it leads to this plan's ratios: a rise that begins above them does not. ESP_INVALID. */
esp_status esp_gradual_check_plan(const esp_gradual *schedule, const esp_plan *plan, esp_error *err);
/* LINEAR and AGP: one training in which the ratio rises; otherwise LG, G and L have equal steps. */
bool esp_gradual_rises(const esp_gradual *schedule);
bool esp_gradual_has_equal_steps(const esp_gradual *schedule);
const char *esp_gradual_word(esp_gradual_kind kind);
const char *esp_gradual_title(esp_gradual_kind kind);
esp_status esp_gradual_parse_kind(const char *word, esp_gradual_kind *out, esp_error *err);
bool esp_gradual_trains_locally(const esp_gradual *schedule);
bool esp_gradual_trains_globally(const esp_gradual *schedule);

/* {"version": 1, "schedule": "lg", "step": 0.1, "local_epochs": 3, "local_lr": 0, "epochs": 90,
 * "group_lasso": 0}, "steps" and "initial" for linear and agp. Read: "schedule" must be there ("version" too
 * in a file), what else is missing has its default; unknown keys are errors that name the nearest.
 * Byte-stable. */
esp_status esp_gradual_to_json(const esp_gradual *schedule, json_t **out, esp_error *err);
esp_status esp_gradual_from_json(const json_t *json, esp_gradual *out, esp_error *err);
/* A word of the list, or the path of a JSON file. */
esp_status esp_gradual_open(const char *word_or_path, esp_gradual *out, esp_error *err);

/* How many steps lead to the ratios of this plan; at least 1. */
int esp_gradual_steps(const esp_gradual *schedule, const esp_plan *plan);
/* The ratio at step 1.. of a layer whose ratio in the plan is `target`. */
double esp_gradual_ratio(const esp_gradual *schedule, double target, int step);
/* The plan with every ratio as it is at a step. Free with esp_plan_free. */
esp_status esp_gradual_plan(const esp_gradual *schedule, const esp_plan *plan, int step, esp_plan *out,
                            esp_error *err);

/* ---- published settings ---- */

/* Whether this preset trains a model as it was pruned before, so that no ratio has to be asked for. */
bool esp_preset_keeps_masks(const char *word);

/* One list of presets. Columns: NAME, word, title. */
#define ESP_PRESET_LIST(X)                                                                                   \
    X(SG_CNN, "sg-cnn", "self-grouping on ImageNet: 16 groups, fc up to 0.6, LG in steps of 0.1")            \
    X(WSP, "wsp", "weak sub-networks on ImageNet: one shot")                                                 \
    X(CUB, "cub", "transfer to CUB-200: the masks of the model are kept")

/* Fills in what was published (METHODS.md): method and mode `faithful`, ratios of `ratio` (sg-cnn: fully
 * connected layers stop at 0.6), schedule and epochs, and of the training options the optimizer's: learning
 * rate 0.01, divided by 10 after one and two thirds of the epochs (30 and 60 of 90), momentum 0.9, weight
 * decay 1e-4, batch 128 (wsp 256; cub: 0.001, 5e-4, 32). The number of local epochs ("a few") was not
 * published: 3. `training` may be NULL. Unknown words name the nearest. Plan: free with esp_plan_free. */
esp_status esp_gradual_preset(const char *word, double ratio, esp_gradual *schedule, esp_plan *plan,
                              esp_train_options *training, esp_error *err);

/* ---- running ---- */

/* What one step did. Accuracies in percent; NaN where nothing was measured. */
typedef struct esp_gradual_record {
    int step;                          /* 1-based; 0: the global fine-tuning at the end */
    double ratio;                      /* asked of the layers that are asked most */
    double pruned;                     /* share of the weights of the layers that take part that is gone */
    int64_t params, macs;              /* `true` counter */
    int layers;                        /* that take part */
    int64_t executed_groups;           /* over all of them; 0 when the method makes none */
    double cut_top1, cut_loss;         /* after the step, before its training */
    double trained_top1, trained_loss; /* after its training */
    double epochs, seconds;
} esp_gradual_record;

/* What has just happened: the step's masks were made and measured; its local training ended; the global
 * fine-tuning ended. */
typedef enum esp_gradual_event {
    ESP_GRADUAL_PRUNED,
    ESP_GRADUAL_TRAINED,
    ESP_GRADUAL_TUNED
} esp_gradual_event;

typedef struct esp_gradual_report {
    esp_gradual_event event;
    int steps;
    const esp_gradual_record *record; /* so far */
    const esp_preview *preview;       /* of the step; NULL for TUNED. Valid during the call */
    const esp_graph *graph;           /* the masked model as it is now; valid during the call */
} esp_gradual_report;
typedef esp_status esp_gradual_fn(void *user, const esp_gradual_report *report, esp_error *err);

typedef struct esp_gradual_options {
    const esp_gradual *schedule;
    const esp_plan *plan;
    const esp_train_options
        *training;              /* of every phase. Masks, epochs, seed and first measurement are set
                                   here, and what is done at a checkpoint; how often is taken from it */
    int64_t calibration_images; /* training images a criterion with data looks at; 0: its default */
    esp_gradual_fn *on_event;   /* may be NULL; a failing status ends the run with it */
    void *event_user;

    /* NULL: nothing is kept. After each step the masked model goes to <state_path>.<step>.onnx and then the
     * state file to state_path; the training of a phase goes to <state_path>.training after every epoch,
     * every `checkpoint_steps` or `checkpoint_seconds` of `training`, and when it is cancelled. Whenever the
     * program is killed, what lies there is whole and belongs together. With `resumes` a run goes on from
     * there, inside a phase too, and ends in the same bits as one that was not interrupted. ESP_STATE when
     * there is no such file, ESP_MISMATCH when it is of another model, plan, schedule, training or data.
     *
     * What cannot be written is counted in the result and said by `on_failure`; the run goes on, what was
     * kept before stays, and the next time it is tried again. Only a place that cannot be written to at all
     * is refused, before anything is computed. */
    const char *state_path;
    bool resumes;
    esp_status (*save)(const esp_graph *graph, const char *path, esp_error *err); /* esp_onnx_save */
    esp_status (*load)(const char *path, esp_graph **out, esp_error *err);        /* esp_onnx_load */
    /* esp_checkpoint_save, esp_checkpoint_load; NULL: only finished steps are kept. */
    esp_status (*save_training)(const char *path, const esp_train_state *state, const esp_train_state *extra,
                                esp_error *err);
    esp_status (*load_training)(const char *path, esp_train_state *out, esp_error *err);
    void (*on_failure)(void *event_user, const esp_error *why); /* may be NULL */
} esp_gradual_options;

typedef struct esp_gradual_result {
    int steps, steps_done;
    int resumed_steps;             /* of steps_done: taken over from the state file */
    int64_t resumed_training_step; /* optimizer steps of the phase after them that were taken over */
    int checkpoints;               /* steps and trainings that were kept */
    int checkpoint_failures;       /* that could not be; the last reason: */
    esp_error checkpoint_error;
    int record_count;
    esp_gradual_record *records; /* in order; those of an interrupted run before this one included */
    esp_eval_result last;        /* of the model handed out; images 0 when not measured */
} esp_gradual_result;
void esp_gradual_result_free(esp_gradual_result *result);

/* Runs a schedule. `*out` is the masked model, same shapes, with its masks in the metadata. `validation` may
 * be NULL (nothing is measured, the newest weights count); `training` only when nothing is trained and the
 * plan's criterion needs no data. Local training goes on from the best of its own epochs, the global one also
 * considers the weights it began with.
 *
 * Learning rates: LG and L train locally at a constant rate and follow the training's schedule at the end;
 * LINEAR and AGP are one training whose schedule spans all of it.
 *
 * On ESP_CANCELLED and ESP_DIVERGED `*out` is the best version so far (never NULL) and `*result` is filled;
 * after any other failure `*out` is NULL, the state file, if any, has the last finished step, and `*result`
 * says only how many there are and what was kept (steps, steps_done, resumed_steps, checkpoints). */
esp_status esp_prune_gradually(const esp_compute *compute, const esp_graph *graph,
                               const esp_dataset *training, const esp_dataset *validation,
                               const esp_gradual_options *options, esp_graph **out,
                               esp_gradual_result *result, esp_error *err);

/* Surgery on a masked model, by the method and mode of its plan: cuts what its masks allow and nothing more.
 * `dataset` (fitted to the model, or NULL) has the sizes that the model leaves open. */
esp_status esp_gradual_cut(const esp_compute *compute, const esp_graph *masked, const esp_plan *plan,
                           const esp_dataset *dataset, const esp_surgery_options *options, esp_graph **out,
                           esp_surgery_report *report, esp_error *err);

/* Removes a state file, its model and its training; for when the result is safe. Missing ones are fine. */
void esp_gradual_state_remove(const char *state_path);

/* [{step, ratio, pruned, params, macs, layers, executed_groups, cut_top1, cut_loss, trained_top1,
 * trained_loss, epochs, seconds}]; null where nothing was measured. NULL when memory is out. */
json_t *esp_gradual_records_to_json(const esp_gradual_record *records, int count);

#endif
