/* What decides the result of a training, as a JSON object whose keys are words for people: what a checkpoint
 * was made with must be what it is gone on with. */
#ifndef ESP_TRAIN_TRAIN_IDENTITY_H
#define ESP_TRAIN_TRAIN_IDENTITY_H

#include <jansson.h>

#include "train/trainer.h"

/* Model, masks, data and options. Images of both sets are looked at (fingerprint.h); either set may be NULL.
 * `*out` is the caller's (json_decref). */
esp_status esp_train_identity(const esp_graph *graph, const esp_train_options *options,
                              const esp_dataset *training, const esp_dataset *validation, json_t **out,
                              esp_error *err);

/* ESP_MISMATCH names the first key whose value differs: "<what> is of another training: its seed is 0, found
 * 1". */
esp_status esp_train_identity_check(const json_t *now, const json_t *then, const char *what, esp_error *err);

#endif
