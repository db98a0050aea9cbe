/* Images to look at a network with: a class-balanced subset of a data set, normalised for the network, in
 * batches. What criteria, recalibration and reconstruction run on. */
#ifndef ESP_TRAIN_CALIBRATION_H
#define ESP_TRAIN_CALIBRATION_H

#include "graph/exec.h"
#include "train/data.h"

typedef struct esp_calibration {
    esp_dataset *images; /* the subset */
    int64_t count;
    int64_t image_size; /* elements */
    esp_normalization normalization;
    uint32_t *indices; /* [count] scratch */
    int32_t *labels;   /* [count]: of the last batch, from its first image on */
} esp_calibration;

/* A subset of `images` (0: all, in their order) by `seed`; the data set, at the model's size
 * (esp_dataset_fit), must fit the model (esp_dataset_check_model). `mean` and `std` override the
 * normalisation, or are NULL. */
esp_status esp_calibration_open(const esp_graph *model, const esp_dataset *dataset, int64_t images,
                                uint64_t seed, const char *mean, const char *std, esp_calibration *out,
                                esp_error *err);
void esp_calibration_close(esp_calibration *calibration); /* of zeros is allowed */

/* Writes images [first, first + count) into the executor's first input, zeros for the rest of its `batch`. */
esp_status esp_calibration_fill(esp_calibration *calibration, const esp_compute *compute, int64_t first,
                                int64_t count, int64_t batch, esp_exec *exec, esp_error *err);

/* Executor of `graph` (the model, or what was made of it: probe.h) on batches of options.batch of these
 * images; a model that is fixed to one image gets them one by one. `*batch` says which it was. */
esp_status esp_calibration_exec(const esp_calibration *calibration, const esp_graph *graph,
                                esp_exec_options options, esp_exec **out, int64_t *batch, esp_error *err);

/* Images to run at once when each keeps so many bytes: what some memory allows, as many as there are at most.
 * An `asked` above 0 wins. */
int64_t esp_calibration_batch(const esp_calibration *calibration, int64_t asked, int64_t image_bytes);

#endif
