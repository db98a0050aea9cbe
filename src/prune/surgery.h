/* Surgery: model + preview -> a new, physically smaller model, checked against the masked one (METHODS.md section 3). */
#ifndef ESP_PRUNE_SURGERY_H
#define ESP_PRUNE_SURGERY_H

#include "base/compute.h"
#include "prune/preview.h"

/* How a layer whose filters read different channels is written. */
typedef enum esp_group_form {
    ESP_GROUP_FORM_GROUPED, /* per executed group: gather its channels, convolve its filters; concat */
    ESP_GROUP_FORM_DENSE,   /* one dense layer with zeros */
} esp_group_form;

typedef struct esp_surgery_options {
    esp_group_form group_form;
    uint64_t seed;       /* input of the self-check */
    double tolerance;    /* 1e-4 relative */
} esp_surgery_options;

esp_surgery_options esp_surgery_defaults(void);

typedef struct esp_surgery_report {
    int64_t slots_removed;
    int layers_narrowed, layers_grouped, layers_with_masks; /* the last: zeros remain (their channels live on elsewhere) */
    int constants_to_bias, constants_explicit;  /* constants behind cut filters, and where they went */
    double largest_absolute, largest_relative;  /* masked model against cut model; relative to the largest |output| */
    esp_counts counts;
} esp_surgery_report;

/* Cuts. The self-check runs masked and cut model on the same random inputs; a difference above the tolerance is
 * ESP_MISMATCH and gives no graph. Metadata (normalisation, remaining masks) is kept. `report` may be NULL. */
esp_status esp_surgery(const esp_compute *compute, const esp_preview *preview, const esp_surgery_options *options,
                       esp_graph **out, esp_surgery_report *report, esp_error *err);

/* Largest differences between two models with the same inputs on seeded random input at batch `batch`, over all outputs. */
esp_status esp_compare_outputs(const esp_compute *compute, const esp_graph *a, const esp_graph *b,
                               const esp_input_shape *input_shapes, int input_shape_count, int64_t batch,
                               uint64_t seed, double *largest_absolute, double *largest_relative, esp_error *err);

#endif
