/* Loss and accuracy of a model on a dataset; latency.h, which comes with it, has how long it takes. */
#ifndef ESP_TRAIN_EVALUATE_H
#define ESP_TRAIN_EVALUATE_H

#include "base/compute.h"
#include "graph/exec.h"
#include "train/data.h"
#include "train/latency.h"

typedef struct esp_eval_options {
    int64_t batch;          /* 0 = 100 (or what the model is fixed to) */
    int64_t limit;          /* first images only; 0 = all */
    const char *mean, *std; /* overrides of the normalisation, or NULL */
    bool spends_weights; /* as esp_exec_options.spends_weights: for who needs the model no more afterwards */
} esp_eval_options;

typedef struct esp_eval_result {
    int64_t images;    /* measured */
    int64_t skipped;   /* bad images left out */
    double top1, top5; /* percent */
    double loss;       /* mean cross-entropy */
    double top1_error; /* half-width of the 95 % Wilson interval of top1, in points */
    double seconds, images_per_s;
    esp_normalization normalization; /* what was used */
} esp_eval_result;

/* A lazy set is read at the model's size (esp_dataset_fit). Models that end in Softmax are read before it.
 * `options` may be NULL. Reports progress, can be cancelled.
 */
esp_status esp_evaluate(const esp_compute *compute, const esp_graph *graph, const esp_dataset *dataset,
                        const esp_eval_options *options, esp_eval_result *out, esp_error *err);

#endif
