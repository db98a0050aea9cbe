/* What the files of the scan share: the images and the network (site; sweep.h), what is masked alone (parts),
 * and the file. */
#ifndef ESP_PRUNE_SENSITIVITY_INTERNAL_H
#define ESP_PRUNE_SENSITIVITY_INTERNAL_H

#include <stdatomic.h>

#include "graph/infer.h"
#include "prune/preview.h"
#include "prune/sensitivity.h"
#include "prune/sweep.h"
#include "train/meter.h"

/* ---- sensitivity_run.c: running parts of the network on the images ---- */

/* How far the scan is; reported by the thread that runs the job only. */
typedef struct scan_progress {
    esp_meter meter;
    const char *what; /* the part under way */
    double ratio;     /* 0: the whole network */
    int64_t points_done, points_total;
    double work_done, work_total, work; /* in MACs per image; of the point under way */
    double start_s;
    bool is_measuring;           /* else activations are being computed on the way to a point */
    atomic_int_fast64_t batches; /* of the point under way that are done */
} scan_progress;

typedef struct scan_site {
    sweep_site sweep;
    esp_dataset *images; /* the subset */
    scan_progress progress;
} scan_site;

esp_status scan_site_open(const esp_compute *compute, const esp_graph *graph, const esp_dataset *dataset,
                          const esp_sensitivity_options *options, scan_site *site, esp_error *err);
void scan_site_close(scan_site *site);

/* Of each image: loss, and whether the label is first, or among the first five. */
typedef struct scan_scores {
    int64_t images;
    double *loss;
    unsigned char *top1, *top5;
} scan_scores;
esp_status scan_scores_new(int64_t images, scan_scores *out, esp_error *err);
void scan_scores_free(scan_scores *scores);

/* Runs what lies behind the cut. `graph` is the site's but for constants that only nodes behind the cut read.
 */
esp_status scan_measure(scan_site *site, const sweep_cut *cut, const esp_graph *graph, scan_scores *out,
                        esp_error *err);

/* ---- sensitivity_parts.c: what is masked alone ---- */

typedef struct scan_part {
    int layer_count;
    int *layers;    /* that get the ratio */
    int first_node; /* the first one that a mask of the part changes, over all ratios */
    double work;    /* MACs per image of the layers from there on */
} scan_part;

typedef struct scan_parts {
    const esp_graph *graph;
    esp_grouping_cache *cache;
    esp_plan plan; /* every ratio 0 */
    bool has_shape;
    esp_input_shape shape; /* at batch 1 */
    int count;
    scan_part *items;
} scan_parts;

/* Lists parts and, for each, every point: what it masks, what that leaves, whether its masks are another's.
 * Fills the curves of `out`. */
esp_status scan_parts_open(const scan_site *site, const esp_sensitivity_options *options, scan_parts *parts,
                           esp_sensitivity *out, esp_error *err);
void scan_parts_close(scan_parts *parts);

/* The network with part `index` masked at a ratio. */
esp_status scan_part_graph(const scan_parts *parts, const scan_site *site, int index, double ratio,
                           esp_graph **out, esp_error *err);

/* ---- sensitivity_stats.c ---- */

/* What the scores say, beside those of the whole network (NULL: of itself). */
void scan_summarize(const scan_scores *scores, const scan_scores *whole, esp_sensitivity_point *point);

/* ---- sensitivity_file.c, sensitivity_json.c ---- */

typedef struct scan_file scan_file;

/* Opens, or does nothing without a path. What a file that is resumed has goes into `sensitivity`, and
 * `*baseline_loss` is what it says of the whole network (negative: nothing). */
esp_status scan_file_open(const esp_sensitivity_options *options, const scan_site *site,
                          esp_sensitivity *sensitivity, scan_file **out, double *baseline_loss,
                          esp_error *err);
/* What the call is after, parts and the whole network, as far as the file does not have them. */
esp_status scan_file_begin(scan_file *file, const esp_sensitivity_options *options,
                           const esp_sensitivity *sensitivity, esp_error *err);
esp_status scan_file_point(scan_file *file, const esp_sensitivity *sensitivity, int curve, int point,
                           esp_error *err);
void scan_file_close(scan_file *file);

/* NULL when memory is out. Names that are no UTF-8 have '?' for what is not. */
json_t *scan_text_to_json(const char *text);
json_t *scan_point_to_json(const esp_sensitivity_curve *curve, const esp_sensitivity_point *point);
json_t *scan_curve_to_json(const esp_sensitivity_curve *curve);
/* False for what is none of ours; `*same_ratio` is the ratio of the point with the same masks (0: the whole,
 * negative: own). */
bool scan_point_from_json(const json_t *json, esp_sensitivity_point *out, double *same_ratio);

#endif
