/* Sensitivity: what cutting one part of a network alone costs, by how much is cut.
 *
 * A part is what a plan's ratio moves together: a coupled set with all its writers and readers (sound WSP,
 * ranked filters), or one layer (self-grouping, whose masks are per layer, and WSP as published). Each part
 * is masked at each ratio of a grid while all others stay whole, and the masked network is measured on the
 * same images as the whole one, so that changes have paired intervals. */
#ifndef ESP_PRUNE_SENSITIVITY_H
#define ESP_PRUNE_SENSITIVITY_H

#include <jansson.h>

#include "base/compute.h"
#include "graph/layers.h"
#include "prune/plan.h"
#include "train/data.h"

/* A share of images with its 95 % Wilson interval (Wilson 1927), all in percent. */
typedef struct esp_sensitivity_share {
    int64_t right; /* images */
    double percent, low, high;
} esp_sensitivity_share;

/* A difference to the whole network on the same images with the half-width of its 95 % interval. */
typedef struct esp_sensitivity_change {
    double value, error;
} esp_sensitivity_change;

typedef struct esp_sensitivity_point {
    bool is_done;
    double ratio; /* asked for the part */
    double got;   /* share of its first layer's filters (SG: connections) that is masked */
    int same_as;  /* an earlier point of the curve that has the same masks, ESP_SENSITIVITY_WHOLE when nothing
                     is masked, ESP_SENSITIVITY_OWN otherwise */
    int64_t params, macs; /* `true` counter, of the whole network with the masks: what surgery leaves */
    esp_sensitivity_share top1, top5;
    double loss; /* mean cross-entropy */
    /* To the baseline. Accuracy in points; by McNemar's counts: the variance of the difference with half an
     * image added to each of the four cells (Agresti and Min, Statistics in Medicine 24, 2005), so that it
     * is never 0. Loss: standard error of the mean of the images' differences. */
    esp_sensitivity_change top1_change, top5_change, loss_change;
} esp_sensitivity_point;

enum { ESP_SENSITIVITY_WHOLE = -1, ESP_SENSITIVITY_OWN = -2 };

typedef struct esp_sensitivity_curve {
    char *name; /* of the first layer */
    int layer_count;
    char **layers;  /* names of those that the plan gives the ratio to: writers of the set, or the layer */
    int set;        /* index of the coupled set; -1: a layer */
    char note[128]; /* why nothing can be cut of it; "" otherwise: a curve with a note has no points */
    int point_count;
    esp_sensitivity_point *points; /* by rising ratio */
} esp_sensitivity_curve;

typedef struct esp_sensitivity {
    char *model; /* fingerprint: 16 hex digits */
    char *graph_name, *data;
    int64_t images;
    uint64_t seed;
    json_t *plan;                   /* what the parts were masked by; its ratios are 0 */
    esp_sensitivity_point baseline; /* its changes are 0 */
    int curve_count;
    esp_sensitivity_curve *curves;     /* in network order of the first layers */
    bool is_complete;                  /* every point of every curve without a note is done */
    int64_t measured, reused, resumed; /* points: run now; not run for equal masks; read from the file */
    double seconds, baseline_seconds;  /* of this call; of the whole network's run */
    size_t held_bytes;                 /* most memory that kept activations took */
} esp_sensitivity;

typedef struct esp_sensitivity_options {
    const esp_plan *plan; /* method, mode and constants count, and rules but for their ratios */
    const double *ratios; /* rising, in (0, 1); NULL: 0.1, 0.2, ... 0.9 */
    int ratio_count;
    const char *const
        *patterns; /* layers wanted (wildcards * and ?): parts with one that matches; NULL: all */
    int pattern_count;
    int64_t images; /* class-balanced subset by seed; 0: 1000; more than there are: all */
    uint64_t seed;
    int64_t batch;          /* images per task; 0: chosen */
    size_t memory;          /* bytes that kept activations may take; 0: 512 MiB */
    const char *mean, *std; /* overrides of the normalisation, or NULL */
    const char *path;       /* JSON lines are appended there point by point; NULL: none */
    bool resumes;           /* what the file has is not measured again; a file that is not there is begun */
    /* After every point that is done, from the thread that runs the job; may be NULL. */
    void (*on_point)(void *user, const esp_sensitivity *so_far, int curve, int point);
    void *user;
} esp_sensitivity_options;

/* The scan. The first output of the network classifies; sizes it leaves open are those of the images. The
 * same result, to the bit, for any number of threads.
 *
 * ESP_INVALID: a pattern that matches no layer, ratios out of order or range, a file that exists and is not
 * to be resumed. ESP_STATE: a file of another model, data set, images, seed or plan, saying which. When
 * cancelled (ESP_CANCELLED) `*out` still holds what is done; it is NULL after any other failure. */
esp_status esp_sensitivity_scan(const esp_compute *compute, const esp_graph *graph,
                                const esp_dataset *dataset, const esp_sensitivity_options *options,
                                esp_sensitivity **out, esp_error *err);
void esp_sensitivity_free(esp_sensitivity *sensitivity);

/* Reads a file that a scan wrote, whole or not: curves have the points that are there. A last line that was
 * cut off is passed over; any other line that is none of ours is ESP_FORMAT with its number. */
esp_status esp_sensitivity_load(const char *path, esp_sensitivity **out, esp_error *err);

/* {"baseline": {...}, "curves": [{"name", "layers", "set", "note", "points": [{...}]}], "images", ...}. */
esp_status esp_sensitivity_to_json(const esp_sensitivity *sensitivity, json_t **out, esp_error *err);

/* Fingerprint of a network: operators, names, attributes and contents of constants. 16 hex digits;
 * `buffer` of at least 17. Returns it. */
char *esp_sensitivity_fingerprint(const esp_graph *graph, char *buffer, size_t size);

/* ---- what a curve tells a budget ---- */

typedef enum esp_sensitivity_measure {
    ESP_SENSITIVITY_LOSS, /* increase of the loss */
    ESP_SENSITIVITY_TOP1, /* drop of top-1, in points */
    ESP_SENSITIVITY_TOP5, /* drop of top-5, in points */
} esp_sensitivity_measure;

/* "loss", "top1", "top5". */
const char *esp_sensitivity_measure_word(esp_sensitivity_measure measure);
esp_status esp_sensitivity_measure_parse(const char *word, esp_sensitivity_measure *out, esp_error *err);

/* What a point costs: never below 0. */
double esp_sensitivity_cost(const esp_sensitivity_point *point, esp_sensitivity_measure measure);

/* The smallest rising curve that lies on or above the points (0 at ratio 0), straight between them, at a
 * ratio; beyond the last point its value there. Points that are not done are passed over. */
double esp_sensitivity_envelope(const esp_sensitivity_curve *curve, esp_sensitivity_measure measure,
                                double ratio);

/* The largest ratio whose envelope is within `tolerance` (>= 0); the last ratio measured when all are, 0 for
 * a curve without points. */
double esp_sensitivity_ratio(const esp_sensitivity_curve *curve, esp_sensitivity_measure measure,
                             double tolerance);

/* Index of the curve that gives a layer its ratio, or -1. */
int esp_sensitivity_find(const esp_sensitivity *sensitivity, const char *layer);

#endif
