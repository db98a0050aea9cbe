/* What a node does to a number is found by running it on a few numbers, whatever it is called: a node is
 * affine when its output lies on a line through them, a rectifier when some of them become 0. Operators are
 * not listed here. */
#include "prune/criteria_tap.h"

#include <math.h>

#include "base/memory.h"
#include "graph/op.h"

enum { POINTS = 9, MOST_INPUTS = 8 };
static const float points[POINTS] = {-8, -4, -2, -1, 0, 1, 2, 4, 8};

typedef enum curve { CURVE_AFFINE, CURVE_RECTIFIER, CURVE_OTHER } curve;

typedef struct look {
    const esp_graph *graph;
    const esp_inferred *inferred;
    int axis;
} look;

static int activation_inputs(const look *it, const esp_node *node)
{
    int count = 0;
    for (int i = 0; i < node->input_count; i++)
        count += node->inputs[i] >= 0 && esp_inferred_constant(it->inferred, node->inputs[i]) == NULL;
    return count;
}

/* ---- what a node does to numbers ---- */

/* y [POINTS, channels] of one channel. */
static curve read_curve(const float *y, int64_t channels)
{
    double zero = (double)y[4 * channels], one = (double)y[5 * channels], most = 1;
    bool is_affine = true;
    int zeros = 0;
    for (int p = 0; p < POINTS; p++)
        most = fmax(most, fabs((double)y[p * channels]));
    for (int p = 0; p < POINTS; p++) {
        double value = (double)y[p * channels];
        /* not a number: not on the line either */
        is_affine = is_affine && fabs(value - (zero + (double)points[p] * (one - zero))) <= 1e-4 * most;
        zeros += value == 0 && points[p] != 0;
    }
    if (is_affine)
        return CURVE_AFFINE;
    return zeros > 0 ? CURVE_RECTIFIER : CURVE_OTHER;
}

/* One curve for all channels: affine when all are, a rectifier when any is. */
static curve read_curves(const float *y, int64_t channels)
{
    curve all = CURVE_AFFINE;
    for (int64_t c = 0; c < channels; c++) {
        curve one = read_curve(y + c, channels);
        if (one == CURVE_RECTIFIER)
            return one;
        all = one == CURVE_AFFINE ? all : one;
    }
    return all;
}

/* The input that is the map; the others are constants that go with [points, channels, 1..]. */
static bool fill_inputs(const look *it, const esp_node *node, const esp_view *x, esp_view *views,
                        const esp_view **pointers)
{
    if (node->input_count > MOST_INPUTS)
        return false;
    for (int i = 0; i < node->input_count; i++) {
        pointers[i] = NULL;
        if (node->inputs[i] < 0)
            continue;
        const esp_tensor *constant = esp_inferred_constant(it->inferred, node->inputs[i]);
        esp_shape both;
        views[i] = constant == NULL ? *x : esp_tensor_view(constant);
        bool is_parameter = node->op->running != 0; /* of a batch-norm: [channels], not broadcast */
        if (constant != NULL && !is_parameter &&
            (esp_shape_broadcast(&x->shape, &views[i].shape, &both, NULL) != ESP_OK ||
             !esp_shape_equal(&both, &x->shape)))
            return false;
        pointers[i] = &views[i];
    }
    return true;
}

static curve run_points(const look *it, const esp_node *node, const esp_shape *shape, float *memory)
{
    int64_t channels = shape->dims[it->axis];
    esp_view x = {.data = memory, .dtype = ESP_F32, .shape = *shape};
    esp_view y = {.data = memory + POINTS * channels, .dtype = ESP_F32, .shape = *shape};
    esp_view views[MOST_INPUTS], *outputs[1] = {&y};
    const esp_view *inputs[MOST_INPUTS];
    for (int p = 0; p < POINTS; p++) {
        for (int64_t c = 0; c < channels; c++)
            memory[p * channels + c] = points[p];
    }
    if (!fill_inputs(it, node, &x, views, inputs))
        return CURVE_OTHER;
    const esp_op_context context = {.node = node,
                                    .opset = esp_graph_opset(it->graph),
                                    .input_count = node->input_count,
                                    .output_count = 1,
                                    .inputs = inputs,
                                    .outputs = outputs};
    return esp_op_run_once(&context, NULL) == ESP_OK ? read_curves(esp_view_f32(&y), channels) : CURVE_OTHER;
}

static curve curve_of(const look *it, const esp_node *node, int value)
{
    esp_shape shape = *esp_inferred_shape(it->inferred, value);
    int64_t channels = shape.dims[it->axis];
    for (int i = 0; i < shape.rank; i++)
        shape.dims[i] = i == 0 ? POINTS : i == it->axis ? channels : 1;
    float *memory = esp_alloc_zero(2 * POINTS * (size_t)channels, sizeof *memory);
    if (memory == NULL)
        return CURVE_OTHER; /* the map is looked at one node earlier than it could be */
    curve found = run_points(it, node, &shape, memory);
    esp_free(memory);
    return found;
}

/* ---- following a map ---- */

/* The node that alone reads the value and keeps its shape position by position; NULL when there is none. */
static const esp_node *only_reader(const look *it, int value)
{
    if (esp_graph_consumer_count(it->graph, value) != 1 || esp_graph_is_output(it->graph, value))
        return NULL;
    const esp_node *node = esp_graph_node(it->graph, esp_graph_consumer(it->graph, value, 0));
    if ((node->op->flags & ESP_OP_POINTWISE) == 0 || node->op->forward == NULL || node->outputs[0] < 0 ||
        esp_inferred_dtype(it->inferred, node->outputs[0]) != ESP_F32)
        return NULL;
    return esp_shape_equal(esp_inferred_shape(it->inferred, node->outputs[0]),
                           esp_inferred_shape(it->inferred, value))
               ? node
               : NULL;
}

static bool is_sum_of_maps(const look *it, const esp_node *node)
{
    const esp_shape *shape = esp_inferred_shape(it->inferred, node->outputs[0]);
    for (int i = 0; i < node->input_count; i++) {
        if (node->inputs[i] < 0 || esp_inferred_constant(it->inferred, node->inputs[i]) != NULL ||
            !esp_shape_equal(esp_inferred_shape(it->inferred, node->inputs[i]), shape))
            return false;
    }
    return true;
}

static int follow(const look *it, int value, bool passes_sums, bool *is_rectified)
{
    for (const esp_node *node = only_reader(it, value); node != NULL; node = only_reader(it, value)) {
        int inputs = activation_inputs(it, node);
        if (inputs > 1 && (!passes_sums || !is_sum_of_maps(it, node)))
            return value;
        curve shape = inputs > 1 ? CURVE_AFFINE : curve_of(it, node, value);
        value = node->outputs[0];
        *is_rectified = shape == CURVE_RECTIFIER;
        if (shape != CURVE_AFFINE)
            return value;
    }
    return value;
}

static esp_tap tap(const esp_graph *graph, const esp_inferred *inferred, const esp_layer *layer,
                   bool is_rectified)
{
    const esp_tap none = {-1, 0};
    int value = esp_graph_node(graph, layer->node)->outputs[0];
    const esp_shape *shape = esp_inferred_shape(inferred, value);
    look it = {graph, inferred, layer->is_conv ? 1 : shape->rank - 1};
    bool ends_in_zeros = false;
    /* images in dim 0, filters in the channels */
    if (it.axis < 1 || it.axis >= shape->rank || shape->dims[0] != 1 ||
        shape->dims[it.axis] != layer->filters || layer->filters < 1 ||
        esp_inferred_constant(inferred, value) != NULL)
        return none;
    value = follow(&it, value, is_rectified, &ends_in_zeros);
    return is_rectified && !ends_in_zeros ? none : (esp_tap){value, it.axis};
}

esp_tap esp_tap_map(const esp_graph *graph, const esp_inferred *inferred, const esp_layer *layer)
{
    return tap(graph, inferred, layer, false);
}

esp_tap esp_tap_rectified(const esp_graph *graph, const esp_inferred *inferred, const esp_layer *layer)
{
    return tap(graph, inferred, layer, true);
}
