/* What a Resize or Upsample node asks for, resolved to one source table per axis (ops_resize.c runs them). */
#ifndef ESP_GRAPH_RESIZE_H
#define ESP_GRAPH_RESIZE_H

#include "graph/ops.h"

typedef enum esp_resize_mode { ESP_RESIZE_NEAREST, ESP_RESIZE_LINEAR, ESP_RESIZE_CUBIC } esp_resize_mode;

typedef enum esp_resize_coordinate {
    ESP_COORDINATE_HALF_PIXEL,
    ESP_COORDINATE_HALF_PIXEL_SYMMETRIC,
    ESP_COORDINATE_PYTORCH_HALF_PIXEL,
    ESP_COORDINATE_ALIGN_CORNERS,
    ESP_COORDINATE_ASYMMETRIC,
    ESP_COORDINATE_TF_HALF_PIXEL_FOR_NN,
    ESP_COORDINATE_TF_CROP_AND_RESIZE,
} esp_resize_coordinate;

typedef enum esp_resize_rounding {
    ESP_ROUND_PREFER_FLOOR,
    ESP_ROUND_PREFER_CEIL,
    ESP_ROUND_FLOOR,
    ESP_ROUND_CEIL,
} esp_resize_rounding;

typedef struct esp_resize_axis {
    bool is_resized;
    int64_t in, out;
    double scale;
    double length;             /* of the output before it was rounded to whole positions */
    double roi_start, roi_end; /* in parts of the input; crops only */
} esp_resize_axis;

typedef struct esp_resize {
    esp_resize_mode mode;
    esp_resize_coordinate coordinate;
    esp_resize_rounding rounding;
    bool excludes_outside, antialiases;
    float cubic_a, extrapolation;
    int rank;
    esp_resize_axis axes[ESP_MAX_RANK];
} esp_resize;

/* Reads a node at any opset. ESP_SHAPE and ESP_UNSUPPORTED say what does not fit. */
esp_status esp_resize_read(const esp_infer_context *context, esp_resize *out, esp_error *err);

/* How many input positions an output position is made of. */
int64_t esp_resize_taps(const esp_resize *resize, int axis);

/* Fills `sources` and `weights`, [out, taps] each. A position that lies outside a crop has no source: its
 * first source is -1 in the nearest mode; otherwise `is_outside` (per output position) says so, and its
 * weights are 0. */
void esp_resize_tables(const esp_resize *resize, int axis, int64_t *sources, float *weights,
                       bool *is_outside);

#endif
