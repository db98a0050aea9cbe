/* An evaluator: a model and a dataset made ready once and measured any number of times. Behind esp_evaluate,
 * and the trainer's validation, where it reads the weights under training. */
#ifndef ESP_TRAIN_EVALUATOR_H
#define ESP_TRAIN_EVALUATOR_H

#include "train/evaluate.h"

typedef struct esp_evaluator esp_evaluator;

/* The dataset, at the model's size (esp_dataset_fit), must fit the model (esp_dataset_check_model). `params`
 * may be NULL: then the graph's own constants are measured. Everything is borrowed for the evaluator's life.
 * Of `options` batch, limit and spends_weights count; a batch that was asked for and that the model refuses
 * is an error. `slots`: threads that will run it, and as many read images ahead when the set is lazy. */
esp_status esp_evaluator_new(const esp_graph *graph, const esp_dataset *dataset,
                             const esp_normalization *normalization, esp_params *params,
                             const esp_eval_options *options, int slots, esp_evaluator **out, esp_error *err);
void esp_evaluator_free(esp_evaluator *evaluator);

/* Measures once, reporting progress under `stage`. Allocates nothing for images in memory. `*out` is set on
 * success only. */
esp_status esp_evaluator_run(esp_evaluator *evaluator, const esp_compute *compute, const char *stage,
                             esp_eval_result *out, esp_error *err);

/* For an executor of a checked model on `batch` images: fails with ESP_SHAPE when the model keeps another
 * batch size. Fills what is about shapes and leaves the rest of `options` as it is. */
esp_status esp_image_exec_new(const esp_graph *graph, const esp_dataset *dataset, esp_exec_options options,
                              esp_exec **out, esp_error *err);

#endif
