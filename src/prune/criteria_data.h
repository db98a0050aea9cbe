/* Criteria that look at data: what they measure, and the pass over the images that measures it. */
#ifndef ESP_PRUNE_CRITERIA_DATA_H
#define ESP_PRUNE_CRITERIA_DATA_H

#include "prune/criteria.h"

/* What is measured of a layer's map, per filter. */
enum {
    ESP_MEASURE_NOTHING,
    ESP_MEASURE_ACTIVATION,   /* mean |a| */
    ESP_MEASURE_NONZEROS,     /* share of elements that are not zero, behind the activation function */
    ESP_MEASURE_TAYLOR,       /* mean over images of |sum a * da| */
    ESP_MEASURE_TAYLOR_WEIGHT /* mean over images of (sum w * dw)^2 */
};

/* As esp_saliency_all for a criterion that needs data; `data` is not NULL. */
esp_status esp_measure_saliency(const esp_compute *compute, const esp_graph *graph, const esp_layers *layers,
                                int measure, const esp_criterion_data *data, double **scores, esp_error *err);

#endif
