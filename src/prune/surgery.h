/* Surgery: model + preview -> a new, physically smaller model, checked against the masked one (METHODS.md
 * section 3). */
#ifndef ESP_PRUNE_SURGERY_H
#define ESP_PRUNE_SURGERY_H

#include "base/compute.h"
#include "prune/preview.h"

/* How a layer whose filters read different channels is written. Only previews by self-grouping ask for
 * groups; what weak sub-networks leave in shortcuts stays dense with zeros. */
typedef enum esp_group_form {
    ESP_GROUP_FORM_GROUPED, /* per executed group: gather its channels, convolve its filters; concat. Equal,
                               disjoint groups of a convolution: one Conv(group=g) */
    ESP_GROUP_FORM_DENSE,   /* one dense layer with zeros */
} esp_group_form;

typedef struct esp_surgery_options {
    esp_group_form group_form;
    uint64_t seed;    /* input of the self-check */
    double tolerance; /* 1e-4 relative */
} esp_surgery_options;

esp_surgery_options esp_surgery_defaults(void);

typedef struct esp_surgery_report {
    int64_t slots_removed;
    int layers_narrowed;    /* fewer filters or channels */
    int layers_grouped;     /* in grouped form */
    int layers_with_masks;  /* zeros remain: their channels live on elsewhere, or the dense form was asked for
                             */
    int constants_to_bias;  /* constants behind cut filters, once per reader, by where they went */
    int constants_explicit; /* ... added as a map over the reader's output */
    double largest_absolute; /* masked model against cut model, over all outputs */
    double largest_relative; /* relative to the output's largest element */
    esp_counts counts;       /* of the cut model; zeros that remain as masks are not counted */
    esp_counts stored;       /* the same with these zeros, which any runtime computes */
} esp_surgery_report;

/* Cuts. Names of nodes and values that live on are kept; parts of a grouped layer are called <name>/group0,
 * ... Only slots whose every writer is masked (or constant) go; those whose constant would need a map larger
 * than what the cut saves, or a map in a model of open input sizes, stay as masks. Every layer keeps at least
 * one filter. The self-check runs masked and cut model on the same random inputs; a difference above the
 * tolerance is ESP_MISMATCH and gives no graph. Metadata (normalisation, remaining masks under ESP_MASKS_KEY)
 * is kept. `report` may be NULL. */
esp_status esp_surgery(const esp_compute *compute, const esp_preview *preview,
                       const esp_surgery_options *options, esp_graph **out, esp_surgery_report *report,
                       esp_error *err);

/* Largest differences between two models with the same inputs on seeded random input at batch `batch`, over
 * all outputs; an output made by a softmax is compared as logits. ESP_MISMATCH when inputs or outputs differ
 * in number or shape. */
esp_status esp_compare_outputs(const esp_compute *compute, const esp_graph *a, const esp_graph *b,
                               const esp_input_shape *input_shapes, int input_shape_count, int64_t batch,
                               uint64_t seed, double *largest_absolute, double *largest_relative,
                               esp_error *err);

#endif
