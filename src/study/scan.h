/* A sensitivity scan as readers draw it: while it runs, and after it. */
#ifndef ESP_STUDY_SCAN_H
#define ESP_STUDY_SCAN_H

#include "prune/sensitivity.h"
#include "study/shared.h"

typedef struct esp_scan_point {
    bool is_done;
    double ratio, got;              /* as in esp_sensitivity_point */
    double top1_change, top1_error; /* points against the whole network, half-width of the 95 % interval */
    double loss_change;
} esp_scan_point;

typedef struct esp_scan_curve {
    char name[96];  /* of its first layer */
    char note[128]; /* why nothing can be cut; "" otherwise */
    int layer;      /* index of the first layer in the version; -1: none of that name */
    int layer_count;
    int point_count;
    esp_scan_point *points;
    double ratio; /* the largest that costs at most ESP_SCAN_TOLERANCE points of top-1 */
} esp_scan_curve;

#define ESP_SCAN_TOLERANCE 1.0

typedef struct esp_scan {
    esp_shared shared;
    int version;
    bool is_running;
    char by[64]; /* "wsp sound", "filter l1" */
    int64_t images;
    double top1; /* of the whole network */
    int done, total;
    int curve_count;
    esp_scan_curve *curves;
    esp_scan_point *points; /* of all curves */
} esp_scan;

/* Of what a scan has so far. `layers`: the version's. */
esp_status esp_scan_new(const esp_sensitivity *so_far, const esp_layers *layers, int version, const char *by,
                        bool is_running, esp_scan **out, esp_error *err);

#endif
