/* Evaluation of a finished model: check that model and data fit, decide the normalisation, measure. */
#include "train/evaluate.h"

#include "train/evaluator.h"

esp_status esp_evaluate(const esp_compute *compute, const esp_graph *graph, const esp_dataset *dataset,
                        const esp_eval_options *options, esp_eval_result *out, esp_error *err)
{
    esp_eval_options chosen = options == NULL ? (esp_eval_options){0} : *options;
    esp_normalization normalization;
    esp_evaluator *evaluator = NULL;
    esp_dataset *fitted = NULL;
    esp_status status = esp_dataset_fit(dataset, graph, &fitted, err);
    if (status == ESP_OK) {
        status = esp_dataset_check_model(fitted, graph, err);
    }
    if (status == ESP_OK) {
        status = esp_normalization_of(graph, esp_dataset_channels(fitted), &normalization, err);
    }
    if (status == ESP_OK) {
        status = esp_normalization_override(&normalization, chosen.mean, chosen.std, err);
    }
    if (status == ESP_OK) {
        status = esp_evaluator_new(graph, fitted, &normalization, NULL, &chosen, esp_compute_slots(compute),
                                   &evaluator, err);
    }
    if (status == ESP_OK) {
        status = esp_evaluator_run(evaluator, compute, "evaluate", out, err);
    }
    esp_evaluator_free(evaluator);
    esp_dataset_unref(fitted);
    return status;
}
