/* Training and fine-tuning: an optimizer, a schedule, masks held, the best version kept; what is beside that
 * (distillation, penalties, clipping, an average of the weights, early stopping, checkpoints) is off unless
 * asked for, and then costs nothing: all fields at zero is plain SGD without momentum. */
#ifndef ESP_TRAIN_TRAINER_H
#define ESP_TRAIN_TRAINER_H

#include "base/compute.h"
#include "graph/graph.h"
#include "train/data.h"
#include "train/evaluate.h"
#include "train/optimizer_kind.h"
#include "train/schedule.h"
#include "train/train_state.h"

/* Weights that must stay zero: for one constant of the graph, a 0/1 byte per element (1 = free). Borrowed. */
typedef struct esp_weight_mask {
    int value;
    const uint8_t *keep;
} esp_weight_mask;

/* A term of the loss that depends on weights alone: its gradient is added to that of one constant of the
 * graph after backward, before clipping and the step. `add` adds to `gradient` and writes nothing else; it
 * must do the same for any number of threads. Borrowed. */
typedef struct esp_train_penalty {
    int value;
    void (*add)(void *user, int64_t count, const float *weight, float *gradient);
    void *user;
} esp_train_penalty;

/* Batch-norm while training. Columns: NAME, word. */
#define ESP_NORM_MODE_LIST(X)                                                                                \
    X(TRAIN, "train")   /* by the batch; running statistics follow with the model's own momentum */          \
    X(FROZEN, "frozen") /* by the running statistics, which stay as they are */                              \
    X(RECALIBRATE, "recalibrate") /* by the batch; running statistics are measured again on training images  \
                                     before every validation (recalibrate.h) */

typedef enum esp_norm_mode {
#define ESP_NORM_MODE_ENUM(name, word) ESP_NORM_MODE_##name,
    ESP_NORM_MODE_LIST(ESP_NORM_MODE_ENUM)
#undef ESP_NORM_MODE_ENUM
} esp_norm_mode;

esp_status esp_norm_mode_parse(const char *word, esp_norm_mode *out, esp_error *err);
const char *esp_norm_mode_word(esp_norm_mode mode);

/* A training that is going on, for the callbacks below. */
typedef struct esp_trainer esp_trainer;

/* After each step. */
typedef struct esp_step_report {
    int epoch, epochs; /* 1-based */
    int64_t step;      /* steps done, over all epochs */
    double position;   /* in epochs, after the step: 2.5 = half-way through the third */
    double loss;       /* of this batch, as it is minimised, without penalties */
    double epoch_loss, epoch_top1, epoch_top5; /* running averages over the epoch; percent */
    double lr, images_per_s, eta_s;            /* eta negative when unknown */
} esp_step_report;

/* May read the trainer and change its masks. A failing status stops the training with it. */
typedef esp_status esp_step_fn(void *user, esp_trainer *trainer, const esp_step_report *report,
                               esp_error *err);

/* The present weights as a graph (a new reference), and other masks from here on: weights and the optimizer's
 * memory are zero where they say so at once. They replace the masks of before: what is no longer masked may
 * grow. The best version so far is forgotten, since it was another network. Copied. */
esp_status esp_trainer_graph(const esp_trainer *trainer, esp_graph **out, esp_error *err);
esp_status esp_trainer_set_masks(esp_trainer *trainer, const esp_weight_mask *masks, int count,
                                 esp_error *err);

/* Keeps a checkpoint, usually in a file (io/checkpoint.h). `state` is valid during the call. A failure does
 * not stop the training: it is counted in the result, and tried again at the next interval. */
typedef esp_status esp_checkpoint_fn(void *user, const esp_train_state *state, esp_error *err);

/* Once after each epoch, and at the start with epoch 0 when `evaluates_first`; is_best says that these
 * weights are the best so far. */
typedef struct esp_epoch_report {
    int epoch, epochs;             /* 1-based; 0 = before training */
    double train_loss, train_top1; /* running averages over the epoch; NaN at epoch 0 */
    double train_top5;
    double lr; /* at the end of the epoch */
    double images_per_s, seconds;
    esp_eval_result validation;
    bool is_best;
    const esp_graph *graph; /* the present weights as a graph; valid during the call (ref to keep) when
                               is_best, else NULL */
} esp_epoch_report;
typedef esp_status esp_epoch_fn(void *user, const esp_epoch_report *report, esp_error *err);

typedef struct esp_train_options {
    double epochs_limit; /* epochs; may be fractional: 0.25 = a quarter of the images */
    int64_t batch;       /* 0 = 128 */
    esp_schedule schedule;
    double momentum;     /* 0.9 as published */
    double weight_decay; /* 1e-4; not on biases and normalisation when `decays_weights_only` */
    bool decays_weights_only;
    bool uses_nesterov;
    esp_augmentation augmentation;
    uint64_t seed;
    const esp_weight_mask *masks; /* held: applied before the first and after every step */
    int mask_count;
    int64_t train_limit;      /* use the first N shuffled images per epoch; 0 = all */
    int64_t validation_limit; /* 0 = all */
    bool evaluates_first;     /* measure before the first step, so that best can be the start */
    bool freezes_norm;
    const char *mean, *std;
    esp_epoch_fn *on_epoch; /* may be NULL; a failing status stops the training with it */
    void *epoch_user;

    esp_optimizer_kind optimizer; /* SGD */
    double dampening;             /* SGD: 0 <= d < 1, not with Nesterov's form */
    double beta1, beta2, epsilon; /* Adam, AdamW; 0 = 0.9, 0.999, 1e-8 */
    esp_lr_fn *lr_fn;             /* instead of `schedule`, or NULL */
    void *lr_user;
    double label_smoothing; /* share of each target spread evenly over all classes; 0 <= s < 1 */
    /* Distillation (Hinton, Vinyals and Dean 2015): the loss is (1 - distillation) * cross-entropy +
     * distillation * T^2 * KL(teacher || student), both softened by the temperature T. */
    const esp_graph *teacher; /* a model of as many classes, or NULL; borrowed */
    double temperature;       /* 0 = 4 */
    double distillation;      /* 0 to 1; with a teacher 0 means 0.5 */
    const esp_train_penalty *penalties;
    int penalty_count;
    const char *note;  /* what else decides the result, such as strengths of penalties: compared on resuming;
                          or NULL */
    double clip_norm;  /* gradients are scaled so that their common norm is at most this; 0 = off */
    double clip_value; /* every entry of the gradient is cut to [-v, v]; 0 = off */
    double ema_decay;  /* an average of all weights, avg = d * avg + (1 - d) * w after each step: that is what
                          is  measured and kept as the best. 0 = off */
    int patience;      /* stop after so many epochs without a better validation loss; 0 = never */
    double min_delta;  /* by how much a loss must be lower to count as better, for `patience` */
    const char *const *freeze; /* layers, or constants, by '*' pattern that stay as they are */
    int freeze_count;
    esp_norm_mode norm;         /* freezes_norm is short for FROZEN */
    int64_t recalibrate_images; /* 0 = 1024 */
    double max_loss;            /* a batch whose loss is above this has diverged; 0 = only infinity and NaN */
    esp_step_fn *on_step;
    void *step_user;
    /* A checkpoint after the first step that ends so many steps or seconds after the last one, after every
     * epoch, and when training is cancelled. */
    esp_checkpoint_fn *on_checkpoint;
    void *checkpoint_user;
    int64_t checkpoint_steps;      /* 0 = not by steps */
    double checkpoint_seconds;     /* 0 = not by time */
    const esp_train_state *resume; /* goes on from here; borrowed. Model, data and all options that decide the
                                      result must be those of the training that wrote it: ESP_MISMATCH names
                                      what differs. Then the result is bit for bit that of a run in one go */
} esp_train_options;

/* Batch, momentum 0.9, decay 1e-4 and lr 0.01 as published for fine-tuning; the rate follows a cosine, which
 * suits runs of any length (the published steps at epochs 30 and 60 of 90 are the schedule `step`). */
esp_train_options esp_train_defaults(void);

typedef struct esp_train_result {
    int epochs_done;
    int best_epoch;
    esp_eval_result first, best, last; /* `first` only when evaluates_first (images 0 otherwise) */
    double seconds, images_per_s;      /* training only, without evaluation */
    int64_t steps;
    bool stopped_early;      /* by `patience` */
    int64_t resumed_step;    /* steps that a checkpoint brought along; 0: none */
    int checkpoints;         /* written */
    int checkpoint_failures; /* not written; the last reason: */
    esp_error checkpoint_error;
    char diverged_at[128]; /* node or constant where NaN or infinity first appeared; "" otherwise */
} esp_train_result;

/* Trains a copy. `*out` is the best version by validation top-1 (ties: lower loss), with masks held and the
 * normalisation stored in its metadata. On ESP_CANCELLED `*out` is the best version so far when there is one
 * (after at least one validation; otherwise the weights as they are), and `*result` is filled: cancelled
 * training keeps its work. ESP_DIVERGED when the loss is not finite: names the step, and `*out` is the best
 * version so far or NULL; `*result` is filled. After any other failure `*out` is NULL. Every image of an
 * epoch is seen once: the last batch is smaller (a single left-over image joins the batch before it); a
 * fraction of an epoch is rounded up to whole batches. A model fixed to its batch size is refused with a
 * message. `validation` may be NULL: then nothing is measured and each epoch's weights count as the best.
 * `result` may be NULL. The same options, data and model give the same bits for any number of threads. */
esp_status esp_train(const esp_compute *compute, const esp_graph *graph, const esp_dataset *training,
                     const esp_dataset *validation, const esp_train_options *options, esp_graph **out,
                     esp_train_result *result, esp_error *err);

/* One optimizer step on arrays: v = momentum*v + (grad + decay*w); w -= lr*v (Nesterov: w -= lr*(grad' +
 * momentum*v)), as PyTorch's SGD does it. */
void esp_sgd_step(int64_t count, float lr, float momentum, float decay, bool uses_nesterov, const float *grad,
                  float *velocity, float *weight);

#endif
