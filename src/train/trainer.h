/* Training and fine-tuning: SGD with momentum and weight decay, masks held, best version kept. */
#ifndef ESP_TRAIN_TRAINER_H
#define ESP_TRAIN_TRAINER_H

#include "base/compute.h"
#include "graph/graph.h"
#include "train/data.h"
#include "train/evaluate.h"
#include "train/schedule.h"

/* Weights that must stay zero: for one constant of the graph, a 0/1 byte per element (1 = free). Borrowed. */
typedef struct esp_weight_mask {
    int value;
    const uint8_t *keep;
} esp_weight_mask;

/* Once after each epoch, and at the start with epoch 0 when `evaluates_first`; is_best says that these
 * weights are the best so far. */
typedef struct esp_epoch_report {
    int epoch, epochs;             /* 1-based; 0 = before training */
    double train_loss, train_top1; /* running averages over the epoch; NaN at epoch 0 */
    double lr;                     /* at the end of the epoch */
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
