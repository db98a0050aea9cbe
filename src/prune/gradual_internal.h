/* What the files of a run by a pruning schedule share: the run and its state between steps (gradual_run.c),
 * one phase of training (gradual_phase.c), and what is kept on disk (gradual_state.c). */
#ifndef ESP_PRUNE_GRADUAL_INTERNAL_H
#define ESP_PRUNE_GRADUAL_INTERNAL_H

#include "prune/gradual.h"

/* A training that was interrupted inside a phase, read from disk. */
typedef struct gradual_training {
    int phase;             /* number of the phase it belongs to; 0: there is none */
    esp_train_state state; /* the trainer's */
    double seconds;        /* the phase had taken so long */
} gradual_training;

typedef struct gradual_state {
    int steps_done;
    esp_graph *graph; /* masked, as it is after these steps; own reference */
    int record_count, record_capacity;
    esp_gradual_record *records;
    int kept_steps;     /* steps_done of the state on disk; 0: there is none of this run */
    bool owns_files;    /* what lies under state_path is of this run */
    bool is_behind;     /* steps_done of them could not be kept: no training may be kept that follows them */
    esp_graph *to_keep; /* the model that could not be written, then */
    gradual_training training;
} gradual_state;

/* Phases are numbered as the steps they follow; the one at the end has one more than all steps. */
typedef struct gradual_run {
    const esp_compute *compute;
    const esp_gradual_options *options;
    const esp_gradual *schedule;
    esp_dataset *training, *validation; /* fitted to the model, or NULL */
    esp_input_shape shape;              /* of the data, where the model leaves its own open */
    int shape_count;
    int steps;
    json_t *identity; /* what the run is, for the files; NULL when nothing is kept */
    gradual_state state;
    esp_eval_result last; /* of state.graph; images 0 when it was not measured */
    int64_t resumed_training_step;
    int checkpoints, checkpoint_failures;
    esp_error checkpoint_error;
} gradual_run;

/* ---- gradual_phase.c ---- */

/* Trains state.graph and puts the result in its place, also when training was cancelled or diverged and left
 * something. `preview`: of the last step, for the group lasso; NULL where there was none. `start_s`: the
 * clock when the phase began. Fills in what the record says of training. */
esp_status gradual_train(gradual_run *run, const esp_preview *preview, int phase, double epochs,
                         double start_s, esp_gradual_record *record, esp_error *err);

/* ---- gradual_state.c ---- */

void gradual_state_clear(gradual_state *state);

/* Appends a record; `*out` points to it until the next one is added. */
esp_status gradual_state_add(gradual_state *state, const esp_gradual_record *record, esp_gradual_record **out,
                             esp_error *err);

/* The run that begins with `start`: its plan, its schedule and what decides its training. */
esp_status gradual_identity(const gradual_run *run, const esp_graph *start, json_t **out, esp_error *err);

/* Each counts what cannot be written, says it, and leaves what was there. After a step its model is the one
 * read back from disk, so that a run goes on from the same whether it is interrupted or not. */
void gradual_keep_step(gradual_run *run);
esp_status gradual_keep_training(gradual_run *run, int phase, double seconds, const esp_train_state *state,
                                 esp_error *err);

/* ESP_STATE when there is nothing; a training that belongs to no step to come is left aside. */
esp_status gradual_resume(gradual_run *run, esp_error *err);

#endif
