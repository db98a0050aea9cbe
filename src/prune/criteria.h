/* The criteria table: how much a filter of a layer matters. One row per criterion in criteria.def. */
#ifndef ESP_PRUNE_CRITERIA_H
#define ESP_PRUNE_CRITERIA_H

#include "base/compute.h"
#include "graph/layers.h"
#include "train/data.h"

typedef struct esp_criterion_context {
    const esp_compute *compute;
    const esp_graph *graph;
    const esp_layer *layer;
    const float *weight; /* canonical [filters, channels, kernel positions], mask applied */
    uint64_t seed;
} esp_criterion_context;

/* What a criterion that looks at data sees. Borrowed. */
typedef struct esp_criterion_data {
    const esp_dataset *dataset; /* labelled images that fit the model (esp_dataset_check_model) */
    int64_t images;             /* a class-balanced subset of so many, chosen by `seed`; 0: 256 */
    int64_t batch;          /* images run at once; 0: as many as fit some memory. Scores do not depend on it
                               but for the last bits */
    const char *mean, *std; /* overrides of the normalisation, or NULL */
    uint64_t seed;
} esp_criterion_data;

enum { ESP_CALIBRATION_IMAGES = 256 };

typedef struct esp_criterion {
    const char *name;       /* "l1" */
    const char *title;      /* "L1 norm of the filter" */
    const char *source;     /* the paper it comes from */
    const char *definition; /* the score of a filter, exactly, in one line */
    esp_status (*score)(const esp_criterion_context *context, double *scores,
                        esp_error *err); /* scores[filters]; NULL: the criterion needs data */
    int measure;          /* what is measured on data: esp_measure of criteria_data.h; 0: nothing */
    bool compares_layers; /* scores of different layers compare as they are; else in units of the layer's mean
                           */
} esp_criterion;

/* Whether it looks at data: then esp_saliency refuses it, and esp_saliency_all wants a data set. */
bool esp_criterion_needs_data(const esp_criterion *criterion);

int esp_criterion_count(void);
const esp_criterion *esp_criterion_at(int index);
/* Unknown names: ESP_INVALID naming the nearest. */
esp_status esp_criterion_find(const char *name, const esp_criterion **out, esp_error *err);

/* Saliency of every filter of a layer by a criterion that needs no data, with the masks the model carries
 * applied. scores[filters]. `compute` may be NULL: one thread, not to be cancelled. */
esp_status esp_saliency(const esp_compute *compute, const esp_graph *graph, const esp_layer *layer,
                        const esp_criterion *criterion, uint64_t seed, double *scores, esp_error *err);

/* Saliency of every filter of every layer, whatever the criterion: scores[l] has filters of layer l numbers
 * (esp_free each), or is NULL where the criterion says nothing of the layer: no batch-norm behind it
 * (`bn-scale`), no activation function that gives zeros (`apoz`), a weight that is not stored in the model,
 * or an output that nobody can attribute to images. ESP_UNSUPPORTED when that is so for every layer. Higher
 * is more important, always. `scores` is an array of layers->count, untouched on failure. `data` may be NULL
 * when the criterion needs none; a criterion that needs it without one is ESP_INVALID with a hint. All layers
 * are measured in one pass over the data. The same bits for any number of threads. `seed`: of `random`. */
esp_status esp_saliency_all(const esp_compute *compute, const esp_graph *graph, const esp_layers *layers,
                            const esp_criterion *criterion, const esp_criterion_data *data, uint64_t seed,
                            double **scores, esp_error *err);

/* NumPy's linear-interpolation percentile, p in [0, 100], to the last bit; `values` is reordered in place,
 * not sorted. count >= 1. Linear time. */
double esp_percentile(double *values, int64_t count, double p);

/* A ratio in percent, as a percentile wants it: 0.07 is 7, not the 7.000000000000001 of binary arithmetic. */
double esp_percent_of(double ratio);

/* The percentile at a ratio in [0, 1], ratios being decimal numbers: a place among the values that misses a
 * whole number by rounding alone is that number. 0.07 of 101 values is the eighth smallest, exactly, so that
 * what is equal to it is equal to the threshold; NumPy's is a hair above it. Reorders `values`. */
double esp_ratio_threshold(double *values, int64_t count, double ratio);

/* The same of values that occur several times: as esp_percentile of the list in which each stands `times`
 * times. Reorders `items`; times >= 0, at least one above 0. */
typedef struct esp_repeated {
    double value;
    int64_t times;
} esp_repeated;
double esp_percentile_repeated(esp_repeated *items, int64_t count, double p);
double esp_ratio_threshold_repeated(esp_repeated *items, int64_t count, double ratio);

#endif
