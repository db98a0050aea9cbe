/* Batch-norm statistics measured again on images: what a network whose channels were cut or masked needs
 * before anything else, and costs no training. */
#ifndef ESP_TRAIN_RECALIBRATE_H
#define ESP_TRAIN_RECALIBRATE_H

#include "base/compute.h"
#include "graph/graph.h"
#include "train/data.h"

typedef struct esp_recalibrate_options {
    int64_t images; /* a class-balanced subset of so many, chosen by `seed`; 0: all, in their order */
    int64_t batch;  /* images normalised together; 0: 100, or as many as there are */
    uint64_t seed;
    const char *mean, *std; /* overrides of the images' normalisation, or NULL */
} esp_recalibrate_options;

typedef struct esp_recalibrate_result {
    int64_t images, batches;
    int norms; /* batch-norms whose statistics were replaced; 0: the model has none and is unchanged */
    double seconds;
} esp_recalibrate_result;

/* A new graph in which the running mean and variance of every batch-norm are those of its input over the
 * images, when every batch-norm normalises by its batch (the training form; dropout is off). Mean and
 * variance are pooled over all images, exactly, whatever the batches: mean = sum x / n, variance = sum (x -
 * mean)^2 / (n - 1), no momentum and nothing of the old statistics; one batch of all images is PyTorch's
 * BatchNorm2d with momentum=None after one forward pass in training mode. Nothing else changes. A model
 * without batch-norm is handed back as it is, with `norms` 0. Every batch has at least two images (a single
 * left-over image joins the batch before it). `options` and `result` may be NULL. Errors as in esp_evaluate.
 * Reports progress, can be cancelled; the same bits for any number of threads. */
esp_status esp_recalibrate(const esp_compute *compute, const esp_graph *graph, const esp_dataset *dataset,
                           const esp_recalibrate_options *options, esp_graph **out,
                           esp_recalibrate_result *result, esp_error *err);

#endif
