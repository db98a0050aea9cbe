/* What the files of the trainer share. */
#ifndef ESP_TRAIN_TRAINER_INTERNAL_H
#define ESP_TRAIN_TRAINER_INTERNAL_H

#include "train/evaluator.h"
#include "train/loader.h"
#include "train/loss.h"
#include "train/meter.h"
#include "train/optimizer.h"
#include "train/trainer.h"

/* The epoch that is going on. */
typedef struct esp_epoch_state {
    int epoch;      /* 1-based */
    int64_t images; /* it will see so many */
    esp_loss_sums sums;
    double start_s; /* the clock when it began, or was resumed */
    double lr;
    double seconds_before; /* of training, in the epochs before */
    bool is_closed;        /* measured and counted: only the caller has still to be told */
} esp_epoch_state;

struct esp_trainer {
    const esp_compute *compute;
    const esp_train_options *options;
    esp_dataset *training, *validation; /* fitted to the model */
    esp_graph *graph;                   /* the start, with its normalisation in the metadata */
    esp_normalization normalization;
    esp_params *params;   /* under training */
    esp_params *average;  /* EMA of them; NULL: none */
    esp_params *measured; /* whichever of the two is validated and kept */
    esp_optimizer *optimizer;
    esp_exec *exec, *tail_exec; /* for batches of `batch` and of `tail` images; no tail_exec when tail is 0 */
    esp_exec *teacher, *tail_teacher;
    float teacher_scale[ESP_MAX_IMAGE_CHANNELS], teacher_shift[ESP_MAX_IMAGE_CHANNELS]; /* of its inputs */
    bool teacher_sees_the_same; /* scale 1 and shift 0 */
    esp_evaluator *evaluator;   /* NULL: no validation */
    esp_loader *loader;
    uint32_t *order;                /* image indices in this epoch's order */
    int32_t *labels, *other_labels; /* other_labels and shares: mixtures only */
    float *shares;
    float *held;            /* all running statistics and random states as they were before the step; NULL */
    esp_rng held_random[2]; /* unless a checkpoint or frozen layers need them */
    esp_meter meter;
    int64_t batch, tail;
    int64_t epoch_images, last_images; /* images of an epoch, and of the last one, which may be a fraction */
    int epochs;
    esp_epoch_state now;
    int64_t images_done; /* over all epochs */
    double validation_s; /* of the last validation: for the estimate of time left */
    esp_plateau plateau;
    double lowest_loss;  /* validation's, for `patience` */
    int waited;          /* epochs without a better one */
    bool first_is_done;  /* the measurement before the first step */
    double checkpoint_s; /* the clock at the last checkpoint */
    int64_t checkpoint_step;
    char *identity; /* what a checkpoint must have been made with, as JSON; NULL without checkpoints */
    esp_graph *best;
    esp_train_result result;
};

/* ---- trainer_check.c ---- */
esp_status esp_trainer_check(const esp_train_options *options, esp_error *err);
/* Labels of the set within the model's classes; batch statistics that exist. */
esp_status esp_trainer_check_data(const esp_graph *graph, const esp_dataset *training,
                                  const esp_dataset *validation, esp_error *err);
esp_status esp_trainer_check_penalties(const esp_trainer *s, esp_error *err);
esp_status esp_trainer_check_norms(const esp_trainer *s, esp_error *err);

/* ---- trainer_epoch.c ---- */
/* Begins epoch `epoch` (1-based) at its first image. */
void esp_trainer_begin(esp_trainer *s, int epoch);
/* The learning rate at the present position. */
esp_status esp_trainer_rate(esp_trainer *s, double *lr, esp_error *err);
/* Trains the present epoch to its end, from wherever it is. */
esp_status esp_trainer_epoch(esp_trainer *s, esp_error *err);
/* Measures, keeps the best, tells the caller. */
esp_status esp_trainer_close(esp_trainer *s, esp_epoch_report *report, esp_error *err);

/* ---- trainer_extras.c: what is off unless asked for ---- */
esp_status esp_trainer_add_teacher(esp_trainer *s, esp_error *err);
/* Logits of the teacher for the batch in `x`; NULL without one. */
esp_status esp_trainer_teach(esp_trainer *s, const float *x, int64_t count, const float **logits,
                             esp_error *err);
void esp_trainer_penalize(esp_trainer *s);
/* The average follows the weights. */
void esp_trainer_average(esp_trainer *s);
/* Running statistics of the measured weights, when they are to be recalibrated. */
esp_status esp_trainer_recalibrate(esp_trainer *s, esp_error *err);

/* ---- trainer_trouble.c ---- */
typedef enum esp_trouble { ESP_TROUBLE_LOSS, ESP_TROUBLE_GRADIENT, ESP_TROUBLE_VALIDATION } esp_trouble;
/* Fills `err` with ESP_DIVERGED: the step, and the layer where NaN or infinity first appeared, found by going
 * through the failed step again. `count`: images of the batch, which begins at `first` of the order. */
esp_status esp_trainer_diverged(esp_trainer *s, esp_trouble trouble, double loss, int64_t first,
                                int64_t count, esp_error *err);

/* ---- trainer_identity.c ---- */
/* Makes `identity`: everything that decides the result (train_identity.h). */
esp_status esp_trainer_identify(esp_trainer *s, esp_error *err);
/* ESP_MISMATCH when the state's identity is another. */
esp_status esp_trainer_check_identity(const esp_trainer *s, const esp_train_state *state, esp_error *err);

/* ---- trainer_state.c ---- */
/* Makes `identity`, and goes to where `options->resume` stands. */
esp_status esp_trainer_prepare_state(esp_trainer *s, esp_error *err);
esp_status esp_trainer_resume(esp_trainer *s, esp_error *err);
/* Remembers running statistics and random states, and takes a failed step back to them. */
void esp_trainer_hold_step(esp_trainer *s);
void esp_trainer_take_back(esp_trainer *s);
/* Running statistics of frozen layers are what they were before the step. */
void esp_trainer_keep_frozen(esp_trainer *s);
/* Whether the interval is over. */
bool esp_trainer_checkpoint_is_due(const esp_trainer *s);
/* Hands the state to `on_checkpoint`; failures are counted only. Out of memory is one of them. */
void esp_trainer_checkpoint(esp_trainer *s);

#endif
