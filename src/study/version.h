/* Versions: immutable models in a study, with their parent, what made them, and what was measured on them. */
#ifndef ESP_STUDY_VERSION_H
#define ESP_STUDY_VERSION_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "graph/graph.h"
#include "graph/layers.h"
#include "study/shared.h"
#include "train/evaluate.h"
#include "train/grouping.h"

/* What is known about a model. Counts are always known. */
typedef struct esp_metrics {
    esp_counts counts;
    int64_t eval_images; /* 0: not evaluated */
    bool eval_is_full;   /* the whole test set, not a sample of it */
    double top1, top1_error, top5, loss;
    double latency_ms; /* median; negative: not measured */
    double latency_spread;
    int latency_threads;
    int grouped_layers, grouped_slower; /* self-grouped ones, and those of them that would be faster dense */
    double grouping_theory, grouping_real; /* speed-up over dense that was promised, and that was measured */
} esp_metrics;

void esp_metrics_set_eval(esp_metrics *metrics, const esp_eval_result *result, bool is_full);
void esp_metrics_set_latency(esp_metrics *metrics, const esp_latency_result *result);
void esp_metrics_set_grouping(esp_metrics *metrics, const esp_grouping_gains *gains);

/* What other weights in a model of the same shapes leave true: counts and latency; accuracy is unknown. */
esp_metrics esp_metrics_of_shapes(const esp_metrics *from);

/* {"params", "macs", "paper_params", "paper_macs", "eval": {...}, "latency": {...}, "grouping": {...}};
 * unknown parts are left out. */
esp_status esp_metrics_to_json(const esp_metrics *metrics, json_t **out, esp_error *err);
esp_status esp_metrics_from_json(const json_t *json, esp_metrics *out, esp_error *err);

typedef struct esp_study_version {
    int id;           /* from 1, in order of making */
    int parent;       /* 0: a root */
    char title[96];   /* "resnet20_cifar10", "wsp 0.40 cut", "2 epochs" */
    char *how;        /* one line of JSON: {"open": path}, {"cut": plan}, {"train": options} */
    char created[32]; /* UTC, ISO 8601 */
    bool is_saved;    /* in a study, or written to a file by the user, or a file the user opened */
    bool is_outside; /* of a study that could not take it (full disk), or whose parent it could not: in memory
                      */
    esp_metrics metrics;
    esp_graph *graph; /* NULL for a version of a study that was not read yet */
} esp_study_version;

/* All versions of a session at one time. Shared and immutable: a change makes a new list. */
typedef struct esp_versions {
    esp_shared shared;
    int count;
    esp_study_version *items; /* ascending ids */
} esp_versions;

/* A copy with one version more (fields copied, graph referenced), or with the one of the same id replaced.
 * `versions` may be NULL. */
esp_status esp_versions_with(const esp_versions *versions, const esp_study_version *version,
                             esp_versions **out, esp_error *err);
const esp_study_version *esp_versions_find(const esp_versions *versions,
                                           int id); /* NULL when there is none */

/* The root that a version descends from. */
const esp_study_version *esp_versions_root(const esp_versions *versions, int id);

/* Highest id + 1. */
int esp_versions_next_id(const esp_versions *versions);

/* Releases the strings and the graph of a single version (not the struct). */
void esp_version_clear(esp_study_version *version);

#endif
