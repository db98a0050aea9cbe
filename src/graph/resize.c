/* Reading Resize (ONNX -10, -11, -13, -18, -19) and Upsample (-7, -9), and where output positions come from.
 * Resize-10 and Upsample are the later Resize with asymmetric coordinates, nearest positions rounded down.
 * Formulas are those of the operator's specification. */
#include "graph/resize.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* ---- attributes ---- */

static int find_word(const char *word, const char *const *words, int count)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(word, words[i]) == 0)
            return i;
    }
    return -1;
}

#define FIND_WORD(word, words) find_word((word), (words), (int)(sizeof(words) / sizeof *(words)))

/* Opsets before 11 say the mode and the scales, and nothing else. */
static bool is_old_form(const esp_node *node)
{
    return node->op->input_max <= 2;
}

static esp_status read_modes(const esp_node *node, esp_resize *resize, esp_error *err)
{
    static const char *const modes[] = {"nearest", "linear", "cubic", "bilinear"};
    static const char *const coordinates[] = {
        "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners",
        "asymmetric", "tf_half_pixel_for_nn", "tf_crop_and_resize",
    };
    static const char *const roundings[] = {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"};
    const char *mode_word = esp_node_string(node, "mode", "nearest");
    const char *coordinate_word = esp_node_string(node, "coordinate_transformation_mode", "half_pixel");
    const char *rounding_word = esp_node_string(node, "nearest_mode", "round_prefer_floor");
    int mode = FIND_WORD(mode_word, modes), coordinate = FIND_WORD(coordinate_word, coordinates);
    int rounding = FIND_WORD(rounding_word, roundings);
    if (mode < 0)
        return esp_fail(err, ESP_UNSUPPORTED, "attribute 'mode' is '%s', expected nearest, linear or cubic",
                        mode_word);
    if (coordinate < 0)
        return esp_fail(err, ESP_UNSUPPORTED, "attribute 'coordinate_transformation_mode' is '%s'",
                        coordinate_word);
    if (rounding < 0)
        return esp_fail(err, ESP_UNSUPPORTED, "attribute 'nearest_mode' is '%s'", rounding_word);
    bool is_old = is_old_form(node);
    resize->mode = mode == 3 ? ESP_RESIZE_LINEAR : (esp_resize_mode)mode;
    resize->coordinate = is_old ? ESP_COORDINATE_ASYMMETRIC : (esp_resize_coordinate)coordinate;
    resize->rounding = is_old ? ESP_ROUND_FLOOR : (esp_resize_rounding)rounding;
    resize->cubic_a = esp_node_float(node, "cubic_coeff_a", -0.75f);
    resize->extrapolation = esp_node_float(node, "extrapolation_value", 0.0f);
    resize->excludes_outside = esp_node_int(node, "exclude_outside", 0) != 0;
    resize->antialiases = esp_node_int(node, "antialias", 0) != 0;
    return ESP_OK;
}

/* ---- axes, scales and sizes ---- */

/* The axes that scales and sizes speak of: all, or those of the attribute. */
static esp_status read_axes(const esp_node *node, int rank, int axes[ESP_MAX_RANK], int *count,
                            esp_error *err)
{
    int64_t given[ESP_MAX_RANK];
    bool is_used[ESP_MAX_RANK] = {false};
    *count = esp_node_ints(node, "axes", given, ESP_MAX_RANK);
    if (*count > ESP_MAX_RANK)
        return esp_fail(err, ESP_SHAPE, "attribute 'axes' has %d entries, input has %d dimensions", *count,
                        rank);
    for (int i = 0; *count == 0 && i < rank; i++)
        axes[i] = i;
    for (int i = 0; i < *count; i++) {
        esp_status status = esp_op_axis(given[i], rank, &axes[i], err);
        if (status == ESP_OK && is_used[axes[i]])
            status = esp_fail(err, ESP_SHAPE, "axis %d is resized twice", axes[i]);
        if (status != ESP_OK)
            return status;
        is_used[axes[i]] = true;
    }
    if (*count == 0)
        *count = rank;
    return ESP_OK;
}

/* Floats of an input with known contents. `*found` is 0 when it is absent or empty. */
static esp_status known_floats(const esp_infer_context *context, int input, const char *what, float *out,
                               int most, int *found, esp_error *err)
{
    const esp_view *view = esp_infer_input(context, input);
    *found = 0;
    if (view == NULL || esp_shape_elements(&view->shape) == 0)
        return ESP_OK;
    int64_t count = esp_shape_elements(&view->shape);
    if (view->dtype != ESP_F32)
        return esp_fail(err, ESP_SHAPE, "%s (input %d) are %s, expected %s", what, input,
                        esp_dtype_name(view->dtype), esp_dtype_name(ESP_F32));
    if (view->data == NULL)
        return esp_fail(err, ESP_UNSUPPORTED,
                        "%s (input %d) are computed from the network's data, expected a constant or a shape",
                        what, input);
    if (count > most)
        return esp_fail(err, ESP_SHAPE, "%s (input %d) has %" PRId64 " entries, expected at most %d", what,
                        input, count, most);
    memcpy(out, view->data, (size_t)count * sizeof *out);
    *found = (int)count;
    return ESP_OK;
}

static esp_status read_scales(const esp_infer_context *context, float scales[ESP_MAX_RANK], int *count,
                              esp_error *err)
{
    const esp_attr *attr = esp_node_attr(context->node, "scales");
    if (attr == NULL)
        return known_floats(context, is_old_form(context->node) ? 1 : 2, "scales", scales, ESP_MAX_RANK,
                            count, err);
    if (attr->count > ESP_MAX_RANK)
        return esp_fail(err, ESP_SHAPE, "attribute 'scales' has %d entries, expected at most %d", attr->count,
                        ESP_MAX_RANK);
    *count = attr->count;
    memcpy(scales, attr->floats, (size_t)attr->count * sizeof *scales);
    return ESP_OK;
}

/* out = floor(in * scale), computed in float32 as other runtimes do. */
static esp_status scale_axes(esp_resize *resize, const int *axes, int count, const float *scales,
                             esp_error *err)
{
    for (int i = 0; i < count; i++) {
        esp_resize_axis *axis = &resize->axes[axes[i]];
        bool is_crop = resize->coordinate == ESP_COORDINATE_TF_CROP_AND_RESIZE;
        float part = is_crop ? (float)(axis->roi_end - axis->roi_start) : 1.0f;
        float length = (float)axis->in * part * scales[i];
        if (!(scales[i] > 0.0f) || !(length < (float)INT32_MAX))
            return esp_fail(err, ESP_SHAPE, "dim %d of %" PRId64 " cannot be scaled by %g", axes[i], axis->in,
                            (double)scales[i]);
        axis->scale = (double)scales[i];
        axis->length = (double)length;
        axis->out = (int64_t)floorf(length);
    }
    return ESP_OK;
}

/* keep_aspect_ratio_policy: one scale for all axes, so that no result is larger (smaller) than its size. */
static esp_status keep_aspect(const char *policy, esp_resize *resize, const int *axes, int count,
                              esp_error *err)
{
    bool is_not_larger = strcmp(policy, "not_larger") == 0;
    double scale = 0;
    if (!is_not_larger && strcmp(policy, "not_smaller") != 0)
        return esp_fail(err, ESP_UNSUPPORTED, "attribute 'keep_aspect_ratio_policy' is '%s'", policy);
    for (int i = 0; i < count; i++) {
        double own = resize->axes[axes[i]].scale;
        if (i == 0 || (is_not_larger ? own < scale : own > scale))
            scale = own;
    }
    for (int i = 0; i < count; i++) {
        esp_resize_axis *axis = &resize->axes[axes[i]];
        axis->scale = scale;
        axis->length = scale * (double)axis->in;
        if (!(axis->length < (double)INT32_MAX))
            return esp_fail(err, ESP_SHAPE, "dim %d of %" PRId64 " cannot be scaled by %g", axes[i], axis->in,
                            scale);
        axis->out = (int64_t)floor(axis->length + 0.5);
    }
    return ESP_OK;
}

static esp_status size_axes(const esp_infer_context *context, esp_resize *resize, const int *axes, int count,
                            esp_error *err)
{
    int64_t sizes[ESP_MAX_RANK];
    int found;
    esp_status status = esp_op_known_ints(context, 3, "sizes", sizes, &found, err);
    if (status == ESP_OK && found != count)
        status = esp_fail(err, ESP_SHAPE, "%d sizes, expected %d", found, count);
    for (int i = 0; status == ESP_OK && i < count; i++) {
        esp_resize_axis *axis = &resize->axes[axes[i]];
        if (sizes[i] < 0 || sizes[i] > INT32_MAX || axis->in == 0)
            return esp_fail(err, ESP_SHAPE, "dim %d of %" PRId64 " cannot become %" PRId64, axes[i], axis->in,
                            sizes[i]);
        axis->out = sizes[i];
        axis->length = (double)sizes[i];
        axis->scale = (double)sizes[i] / (double)axis->in;
    }
    const char *policy = esp_node_string(context->node, "keep_aspect_ratio_policy", "stretch");
    if (status != ESP_OK || strcmp(policy, "stretch") == 0)
        return status;
    return keep_aspect(policy, resize, axes, count, err);
}

static esp_status read_roi(const esp_infer_context *context, esp_resize *resize, const int *axes, int count,
                           esp_error *err)
{
    float roi[2 * ESP_MAX_RANK];
    int found;
    if (resize->coordinate != ESP_COORDINATE_TF_CROP_AND_RESIZE)
        return ESP_OK;
    esp_status status = known_floats(context, 1, "roi", roi, 2 * ESP_MAX_RANK, &found, err);
    if (status == ESP_OK && found != 2 * count)
        status = esp_fail(err, ESP_SHAPE, "roi (input 1) has %d entries, expected %d", found, 2 * count);
    for (int i = 0; status == ESP_OK && i < count; i++) {
        resize->axes[axes[i]].roi_start = (double)roi[i];
        resize->axes[axes[i]].roi_end = (double)roi[count + i];
        if (!(fabsf(roi[i]) < 1e6f) || !(fabsf(roi[count + i]) < 1e6f))
            status = esp_fail(err, ESP_SHAPE, "roi %g to %g", (double)roi[i], (double)roi[count + i]);
    }
    return status;
}

/* An axis that stays as it is needs no table. */
static void mark_resized(esp_resize *resize)
{
    for (int d = 0; d < resize->rank; d++) {
        esp_resize_axis *axis = &resize->axes[d];
        bool is_whole =
            axis->roi_start <= 0.0 && axis->roi_start >= 0.0 && axis->roi_end >= 1.0 && axis->roi_end <= 1.0;
        bool is_same_scale = axis->scale >= 1.0 && axis->scale <= 1.0;
        axis->is_resized = axis->in != axis->out || !is_same_scale || !is_whole;
    }
}

esp_status esp_resize_read(const esp_infer_context *context, esp_resize *out, esp_error *err)
{
    const esp_node *node = context->node;
    const esp_shape *x = &context->inputs[0]->shape;
    esp_resize resize = {.rank = x->rank};
    int axes[ESP_MAX_RANK], axis_count, scale_count;
    float scales[ESP_MAX_RANK];
    for (int d = 0; d < x->rank; d++)
        resize.axes[d] = (esp_resize_axis){
            .in = x->dims[d], .out = x->dims[d], .scale = 1.0, .length = (double)x->dims[d], .roi_end = 1.0};
    esp_status status = read_modes(node, &resize, err);
    if (status == ESP_OK)
        status = read_axes(node, x->rank, axes, &axis_count, err);
    if (status == ESP_OK)
        status = read_roi(context, &resize, axes, axis_count, err);
    if (status == ESP_OK)
        status = read_scales(context, scales, &scale_count, err);
    if (status != ESP_OK)
        return status;
    if (scale_count == 0 && esp_infer_input(context, 3) == NULL)
        return esp_fail(err, ESP_FORMAT, "neither scales nor sizes are given");
    if (scale_count != 0 && scale_count != axis_count)
        return esp_fail(err, ESP_SHAPE, "%d scales, expected %d", scale_count, axis_count);
    status = scale_count != 0 ? scale_axes(&resize, axes, axis_count, scales, err)
                              : size_axes(context, &resize, axes, axis_count, err);
    if (status != ESP_OK)
        return status;
    mark_resized(&resize);
    *out = resize;
    return ESP_OK;
}

/* ---- tables ---- */

/* Where output position `j` lies in the input; false when outside a crop. */
static bool locate(const esp_resize *resize, const esp_resize_axis *axis, int64_t j, double *out)
{
    double x = (double)j, last = (double)(axis->in - 1);
    switch (resize->coordinate) {
    case ESP_COORDINATE_HALF_PIXEL:
        *out = (x + 0.5) / axis->scale - 0.5;
        return true;
    case ESP_COORDINATE_HALF_PIXEL_SYMMETRIC:
        *out =
            (double)axis->in / 2.0 * (1.0 - (double)axis->out / axis->length) + (x + 0.5) / axis->scale - 0.5;
        return true;
    case ESP_COORDINATE_PYTORCH_HALF_PIXEL:
        *out = axis->out > 1 ? (x + 0.5) / axis->scale - 0.5 : 0.0;
        return true;
    case ESP_COORDINATE_ALIGN_CORNERS:
        *out = axis->out > 1 ? x * last / (axis->length - 1.0) : 0.0;
        return true;
    case ESP_COORDINATE_ASYMMETRIC:
        *out = x / axis->scale;
        return true;
    case ESP_COORDINATE_TF_HALF_PIXEL_FOR_NN:
        *out = (x + 0.5) / axis->scale;
        return true;
    case ESP_COORDINATE_TF_CROP_AND_RESIZE:
        break;
    }
    double part = axis->roi_end - axis->roi_start;
    *out = axis->out > 1 ? (axis->roi_start + x * part / ((double)axis->out - 1.0)) * last
                         : 0.5 * (axis->roi_start + axis->roi_end) * last;
    return *out >= 0.0 && *out <= last;
}

static int64_t clamp_position(double position, int64_t in)
{
    return position <= 0.0 ? 0 : position >= (double)(in - 1) ? in - 1 : (int64_t)position;
}

static double round_position(esp_resize_rounding rounding, double position)
{
    switch (rounding) {
    case ESP_ROUND_PREFER_FLOOR:
        return ceil(position - 0.5);
    case ESP_ROUND_PREFER_CEIL:
        return floor(position + 0.5);
    case ESP_ROUND_FLOOR:
        return floor(position);
    case ESP_ROUND_CEIL:
        break;
    }
    return ceil(position);
}

/* Antialiasing stretches the filter when an axis shrinks. */
static double filter_scale(const esp_resize *resize, const esp_resize_axis *axis)
{
    return resize->antialiases && axis->scale < 1.0 ? axis->scale : 1.0;
}

/* The filter reaches this far to either side, in positions of the input. */
static int64_t filter_reach(const esp_resize *resize, const esp_resize_axis *axis)
{
    double reach = (resize->mode == ESP_RESIZE_CUBIC ? 2.0 : 1.0) / filter_scale(resize, axis);
    int64_t most = 2 * axis->in + 2; /* where there are outputs at all, the scale is at least 1 / in */
    return reach < (double)most ? (int64_t)ceil(reach) : most;
}

int64_t esp_resize_taps(const esp_resize *resize, int axis)
{
    return resize->mode == ESP_RESIZE_NEAREST ? 1 : 2 * filter_reach(resize, &resize->axes[axis]);
}

/* Keys' cubic with parameter a (ONNX cubic_coeff_a), or the triangle of linear interpolation. */
static double filter_at(const esp_resize *resize, double distance)
{
    double d = fabs(distance), a = (double)resize->cubic_a;
    if (resize->mode == ESP_RESIZE_LINEAR)
        return d < 1.0 ? 1.0 - d : 0.0;
    if (d <= 1.0)
        return ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
    return d < 2.0 ? ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a : 0.0;
}

/* The weights of one output position around `position`; taps beyond the ends read the last pixel. */
static void fill_taps(const esp_resize *resize, const esp_resize_axis *axis, double position, int64_t taps,
                      int64_t *sources, float *weights)
{
    double base = floor(position), scale = filter_scale(resize, axis), sum = 0.0;
    bool is_normalised = scale < 1.0 || resize->excludes_outside;
    for (int pass = 0; pass < 2; pass++) { /* the second one divides by the sum of the first */
        for (int64_t k = 0; k < taps; k++) {
            double at = base + (double)(k - taps / 2 + 1);
            bool is_outside = at < 0.0 || at > (double)(axis->in - 1);
            double weight = filter_at(resize, (at - position) * scale);
            if (is_outside && resize->excludes_outside)
                weight = 0.0;
            if (pass == 0)
                sum += weight;
            bool divides = is_normalised && (sum > 0.0 || sum < 0.0);
            sources[k] = clamp_position(at, axis->in);
            weights[k] = (float)(divides ? weight / sum : weight);
        }
    }
}

void esp_resize_tables(const esp_resize *resize, int axis_index, int64_t *sources, float *weights,
                       bool *is_outside)
{
    const esp_resize_axis *axis = &resize->axes[axis_index];
    int64_t taps = esp_resize_taps(resize, axis_index);
    for (int64_t j = 0; j < axis->out; j++) {
        double position = 0.0;
        bool is_inside = locate(resize, axis, j, &position);
        if (resize->mode == ESP_RESIZE_NEAREST) {
            sources[j] =
                is_inside ? clamp_position(round_position(resize->rounding, position), axis->in) : -1;
            continue;
        }
        is_outside[j] = !is_inside;
        if (is_inside) {
            fill_taps(resize, axis, position, taps, sources + j * taps, weights + j * taps);
            continue;
        }
        memset(sources + j * taps, 0, (size_t)taps * sizeof *sources);
        memset(weights + j * taps, 0, (size_t)taps * sizeof *weights);
    }
}
