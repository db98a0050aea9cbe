/* One pass over the calibration images measures all layers. What is measured depends on single images, never
 * on how they are put into batches, and every sum runs over images in their order: the same numbers for any
 * batch size (but for the last bits of the network's own sums) and, bit for bit, for any number of threads.
 *
 * Activations: the taps of all layers become the outputs of a part of the network, run by an ordinary
 * executor.
 *
 * Gradients: a gate of ones [N, channels] stands behind every tap (train/probe.h), so that the gradient of
 * the gate is sum a * da over positions, image by image. For `taylor-weight` the gates stand right behind the
 * layers: there a = W x + b, so sum a * da is sum W * dW + b * sum da, and a shift beside the gate gives sum
 * da. The executor for training runs with batch-norm in evaluation form. */
#include "prune/criteria_data.h"

#include <inttypes.h>
#include <math.h>

#include "base/clock.h"
#include "base/memory.h"
#include "graph/extract.h"
#include "prune/criteria_tap.h"
#include "train/calibration.h"
#include "train/loss.h"
#include "train/meter.h"
#include "train/probe.h"

typedef struct layer_watch {
    esp_tap tap;  /* value -1: nothing is measured of the layer */
    int output;   /* activations: of the part */
    int input;    /* gradients: of the gate; the shift is the next one */
    double *sums; /* [filters] */
    double *bias; /* taylor-weight: [filters], NULL without */
} layer_watch;

typedef struct measurement {
    const esp_compute *compute;
    const esp_graph *graph;
    const esp_layers *layers;
    int measure;
    esp_inferred *inferred; /* batch 1, sizes of the data */
    esp_calibration images;
    layer_watch *watches; /* per layer */
    int watched;
    int outputs;       /* of the part */
    esp_graph *looked; /* what runs */
    esp_params *params;
    esp_exec *exec;
    int64_t batch;
    int64_t present; /* images in the batch that was run */
} measurement;

static bool takes_gradients(const measurement *m)
{
    return m->measure == ESP_MEASURE_TAYLOR || m->measure == ESP_MEASURE_TAYLOR_WEIGHT;
}

/* ---- what is watched ---- */

/* b of W x + b per filter. False when nobody can say. */
static bool find_bias(const measurement *m, const esp_layer *layer, layer_watch *watch, esp_status *status,
                      esp_error *err)
{
    if (layer->bias < 0)
        return true;
    const esp_tensor *bias = esp_inferred_constant(m->inferred, layer->bias);
    int64_t count = bias == NULL ? 0 : esp_tensor_elements(bias);
    if (count != 1 && count != layer->filters)
        return false;
    watch->bias = esp_alloc((size_t)layer->filters, sizeof *watch->bias);
    if (watch->bias == NULL) {
        *status = esp_fail_memory(err, "saliency", (size_t)layer->filters * sizeof *watch->bias);
        return false;
    }
    double factor = (double)esp_node_float(esp_graph_node(m->graph, layer->node), "beta", 1.0f);
    for (int64_t f = 0; f < layer->filters; f++)
        watch->bias[f] = factor * esp_tensor_get_f64(bias, count == 1 ? 0 : f);
    return true;
}

static esp_tap find_tap(const measurement *m, const esp_layer *layer)
{
    esp_tap tap = m->measure == ESP_MEASURE_NONZEROS ? esp_tap_rectified(m->graph, m->inferred, layer)
                                                     : esp_tap_map(m->graph, m->inferred, layer);
    if (m->measure == ESP_MEASURE_TAYLOR_WEIGHT && tap.value >= 0)
        tap.value = esp_graph_node(m->graph, layer->node)->outputs[0];
    return tap;
}

static esp_status watch_layer(measurement *m, int l, esp_error *err)
{
    const esp_layer *layer = &m->layers->items[l];
    layer_watch *watch = &m->watches[l];
    esp_status status = ESP_OK;
    watch->tap = find_tap(m, layer);
    if (watch->tap.value >= 0 && m->measure == ESP_MEASURE_TAYLOR_WEIGHT &&
        !find_bias(m, layer, watch, &status, err))
        watch->tap.value = -1;
    if (status != ESP_OK || watch->tap.value < 0)
        return status;
    watch->sums = esp_alloc_zero((size_t)layer->filters, sizeof *watch->sums);
    if (watch->sums == NULL)
        return esp_fail_memory(err, "saliency", (size_t)layer->filters * sizeof *watch->sums);
    m->watched++;
    return ESP_OK;
}

static esp_status watch_layers(measurement *m, esp_error *err)
{
    size_t count = (size_t)m->layers->count;
    esp_input_shape shape;
    bool is_open = esp_dataset_input_shape(m->images.images, m->graph, 1, &shape);
    esp_status status = esp_infer(m->graph, 1, &shape, is_open ? 1 : 0, &m->inferred, err);
    if (status != ESP_OK)
        return status;
    m->watches = esp_alloc_zero(count, sizeof *m->watches);
    if (m->watches == NULL)
        return esp_fail_memory(err, "saliency", count * sizeof *m->watches);
    for (int l = 0; status == ESP_OK && l < m->layers->count; l++)
        status = watch_layer(m, l, err);
    return status;
}

/* ---- the network that is run ---- */

/* All taps are outputs, each once: layers in front of one sum share theirs. */
static esp_status make_part(measurement *m, esp_error *err)
{
    int *values = esp_alloc((size_t)m->layers->count, sizeof *values);
    if (values == NULL)
        return esp_fail_memory(err, "saliency", sizeof *values);
    for (int l = 0; l < m->layers->count; l++) {
        layer_watch *watch = &m->watches[l];
        if (watch->tap.value < 0)
            continue;
        for (watch->output = 0; watch->output < m->outputs; watch->output++) {
            if (values[watch->output] == watch->tap.value)
                break;
        }
        values[watch->output] = watch->tap.value;
        m->outputs += watch->output == m->outputs;
    }
    const esp_extract part = {.outputs = values, .output_count = m->outputs};
    esp_status status = esp_graph_extract(m->graph, &part, &m->looked, err);
    esp_free(values);
    return status;
}

static esp_status make_gated(measurement *m, esp_error *err)
{
    esp_probe_gate *gates = esp_alloc((size_t)m->watched, sizeof *gates);
    if (gates == NULL)
        return esp_fail_memory(err, "saliency", sizeof *gates);
    int count = 0, input = esp_graph_input_count(m->graph);
    for (int l = 0; l < m->layers->count; l++) {
        layer_watch *watch = &m->watches[l];
        if (watch->tap.value < 0)
            continue;
        watch->input = input;
        gates[count++] = (esp_probe_gate){watch->tap.value, watch->tap.axis, watch->bias != NULL};
        input += watch->bias == NULL ? 1 : 2;
    }
    const esp_probe_request request = {.inferred = m->inferred, .gate_count = count, .gates = gates};
    esp_status status = esp_probe_new(m->graph, &request, &m->looked, err);
    esp_free(gates);
    return status == ESP_OK ? esp_params_new(m->looked, &m->params, err) : status;
}

/* Bytes of values an image keeps while it runs: its taps, or every value and its gradient. */
static int64_t image_bytes(const measurement *m)
{
    int64_t elements = 0;
    for (int l = 0; !takes_gradients(m) && l < m->layers->count; l++) {
        if (m->watches[l].tap.value >= 0)
            elements += esp_shape_elements(esp_inferred_shape(m->inferred, m->watches[l].tap.value));
    }
    for (int v = 0; takes_gradients(m) && v < esp_graph_value_count(m->graph); v++) {
        if (esp_graph_value(m->graph, v)->producer >= 0)
            elements += 2 * esp_shape_elements(esp_inferred_shape(m->inferred, v));
    }
    return elements * (int64_t)sizeof(float);
}

/* A value whose dim 0 is not the images cannot be told apart by image. */
static esp_status check_taps(measurement *m, esp_error *err)
{
    for (int l = 0; l < m->layers->count; l++) {
        const layer_watch *watch = &m->watches[l];
        if (watch->tap.value < 0)
            continue;
        const char *name = esp_graph_value(m->graph, watch->tap.value)->name;
        const esp_shape *shape =
            esp_inferred_shape(esp_exec_inferred(m->exec), esp_graph_find_value(m->looked, name));
        if (shape->dims[0] != m->batch)
            return esp_fail(err, ESP_UNSUPPORTED,
                            "layer '%s': dim 0 of '%s' is %" PRId64 " for %" PRId64
                            " images, expected the images",
                            m->layers->items[l].name, name, shape->dims[0], m->batch);
    }
    return ESP_OK;
}

static esp_status want_gradients(measurement *m, esp_error *err)
{
    esp_status status = ESP_OK;
    for (int i = esp_graph_input_count(m->graph); status == ESP_OK && i < esp_graph_input_count(m->looked);
         i++)
        status = esp_exec_want_input_grad(m->exec, i, err);
    return status;
}

static esp_status make_exec(measurement *m, int64_t asked_batch, esp_error *err)
{
    esp_status status = takes_gradients(m) ? make_gated(m, err) : make_part(m, err);
    if (status != ESP_OK)
        return status;
    const esp_exec_options options = {.batch = esp_calibration_batch(&m->images, asked_batch, image_bytes(m)),
                                      .is_training = takes_gradients(m),
                                      .freezes_norm = takes_gradients(m),
                                      .params = m->params,
                                      .slots = esp_compute_slots(m->compute)};
    status = esp_calibration_exec(&m->images, m->looked, options, &m->exec, &m->batch, err);
    if (status == ESP_OK)
        status = check_taps(m, err);
    return status == ESP_OK && takes_gradients(m) ? want_gradients(m, err) : status;
}

/* ---- reading a batch ---- */

/* Where channel `c` of image `n`, outer position `o` begins in a plain [images, outer.., channels, inner..].
 */
typedef struct map_form {
    int64_t outer, channels, inner;
} map_form;

static map_form form_of(const esp_shape *shape, int axis)
{
    map_form form = {1, shape->dims[axis], 1};
    for (int i = 1; i < shape->rank; i++) {
        form.outer *= i < axis ? shape->dims[i] : 1;
        form.inner *= i > axis ? shape->dims[i] : 1;
    }
    return form;
}

static double sum_magnitudes(int64_t count, const float *values)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += fabs((double)values[i]);
    return sum;
}

static double count_nonzeros(int64_t count, const float *values)
{
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++)
        found += values[i] != 0;
    return (double)found;
}

/* A task is a layer. */
static void read_map(void *context, int64_t task, int slot)
{
    const measurement *m = context;
    const layer_watch *watch = &m->watches[task];
    (void)slot;
    if (watch->tap.value < 0)
        return;
    const esp_view *map = esp_exec_output(m->exec, watch->output);
    map_form form = form_of(&map->shape, watch->tap.axis);
    double mean = 1.0 / ((double)m->images.count * (double)(form.outer * form.inner));
    for (int64_t n = 0; n < m->present; n++) {
        for (int64_t i = 0; i < form.outer * form.channels; i++) {
            const float *values = esp_view_f32(map) + (n * form.outer * form.channels + i) * form.inner;
            double sum = m->measure == ESP_MEASURE_ACTIVATION ? sum_magnitudes(form.inner, values)
                                                              : count_nonzeros(form.inner, values);
            watch->sums[i % form.channels] += sum * mean;
        }
    }
}

/* The loss of a batch is the mean over its images: one image's gradient is that times their number. */
static void read_gates(measurement *m)
{
    double images = (double)m->present, mean = 1.0 / (double)m->images.count;
    for (int l = 0; l < m->layers->count; l++) {
        const layer_watch *watch = &m->watches[l];
        int64_t filters = m->layers->items[l].filters;
        const esp_view *gate = watch->tap.value < 0 ? NULL : esp_exec_input_grad(m->exec, watch->input);
        if (gate == NULL) /* the loss does not depend on it */
            continue;
        const esp_view *shift = watch->bias == NULL ? NULL : esp_exec_input_grad(m->exec, watch->input + 1);
        for (int64_t i = 0; i < m->present * filters; i++) {
            double product = (double)esp_view_f32(gate)[i];
            if (shift != NULL)
                product -= watch->bias[i % filters] * (double)esp_view_f32(shift)[i];
            product *= images;
            watch->sums[i % filters] +=
                mean * (m->measure == ESP_MEASURE_TAYLOR ? fabs(product) : product * product);
        }
    }
}

static void fill_gates(measurement *m)
{
    for (int l = 0; l < m->layers->count; l++) {
        const layer_watch *watch = &m->watches[l];
        for (int k = 0; watch->tap.value >= 0 && k < (watch->bias == NULL ? 1 : 2); k++) {
            const esp_view *view = esp_exec_input(m->exec, watch->input + k);
            for (int64_t i = 0; i < esp_shape_elements(&view->shape); i++)
                esp_view_f32(view)[i] = k == 0 ? 1.0f : 0.0f;
        }
    }
}

static esp_status run_backward(measurement *m, esp_error *err)
{
    const esp_view *logits = esp_exec_output(m->exec, 0);
    const esp_view *gradient = esp_exec_output_grad(m->exec, 0);
    int64_t elements = esp_shape_elements(&logits->shape), classes = elements / m->batch;
    esp_loss_sums sums = {0};
    esp_cross_entropy(esp_view_f32(logits), m->images.labels, m->present, classes, &sums,
                      esp_view_f32(gradient));
    for (int64_t i = m->present * classes; i < elements; i++)
        esp_view_f32(gradient)[i] = 0.0f;
    return esp_exec_backward(m->exec, m->compute, err);
}

static esp_status run_batch(measurement *m, int64_t first, esp_error *err)
{
    int64_t left = m->images.count - first;
    m->present = left < m->batch ? left : m->batch;
    esp_status status =
        esp_calibration_fill(&m->images, m->compute, first, m->present, m->batch, m->exec, err);
    if (takes_gradients(m))
        fill_gates(m);
    if (status == ESP_OK)
        status = esp_exec_forward(m->exec, m->compute, err);
    if (status == ESP_OK && takes_gradients(m))
        status = run_backward(m, err);
    if (status != ESP_OK)
        return status;
    if (takes_gradients(m))
        read_gates(m);
    else if (esp_compute_run(m->compute, m->layers->count, read_map, m) != ESP_OK)
        return esp_fail(err, ESP_CANCELLED, "cancelled");
    return ESP_OK;
}

static esp_status run(measurement *m, esp_error *err)
{
    esp_meter meter = esp_meter_make(m->compute);
    double start = esp_clock_s();
    esp_status status = ESP_OK;
    for (int64_t first = 0; status == ESP_OK && first < m->images.count; first += m->batch) {
        status = esp_compute_is_cancelled(m->compute) ? esp_fail(err, ESP_CANCELLED, "cancelled")
                                                      : run_batch(m, first, err);
        double done = (double)(first + m->present), total = (double)m->images.count;
        if (status != ESP_OK || !esp_meter_is_due(&meter, done >= total))
            continue;
        double seconds = esp_clock_s() - start, rate = seconds > 0 ? done / seconds : 0;
        const esp_progress progress = {.stage = "calibrate",
                                       .done = done,
                                       .total = total,
                                       .unit = "images",
                                       .rate = rate,
                                       .eta_s = rate > 0 ? (total - done) / rate : -1,
                                       .detail = ""};
        esp_compute_report(m->compute, &progress);
    }
    return status;
}

/* ---- the whole ---- */

static esp_status check_scores(const measurement *m, esp_error *err)
{
    for (int l = 0; l < m->layers->count; l++) {
        for (int64_t f = 0; m->watches[l].sums != NULL && f < m->layers->items[l].filters; f++) {
            if (!isfinite(m->watches[l].sums[f]))
                return esp_fail(err, ESP_INVALID,
                                "layer '%s': the score of filter %" PRId64
                                " is not finite: the model's outputs are not",
                                m->layers->items[l].name, f);
        }
    }
    return ESP_OK;
}

static void tear_down(measurement *m)
{
    esp_exec_free(m->exec);
    esp_params_free(m->params);
    esp_graph_unref(m->looked);
    for (int l = 0; m->watches != NULL && l < m->layers->count; l++) {
        esp_free(m->watches[l].sums);
        esp_free(m->watches[l].bias);
    }
    esp_free(m->watches);
    esp_calibration_close(&m->images);
    esp_inferred_free(m->inferred);
}

esp_status esp_measure_saliency(const esp_compute *compute, const esp_graph *graph, const esp_layers *layers,
                                int measure, const esp_criterion_data *data, double **scores, esp_error *err)
{
    measurement m = {.compute = compute, .graph = graph, .layers = layers, .measure = measure};
    int64_t images = data->images == 0 ? ESP_CALIBRATION_IMAGES : data->images;
    if (data->batch < 0 || images < 0)
        return esp_fail(err, ESP_INVALID, "calibration: %s %" PRId64 ", expected at least 1",
                        images < 0 ? "images" : "batch", images < 0 ? images : data->batch);
    esp_status status =
        esp_calibration_open(graph, data->dataset, images, data->seed, data->mean, data->std, &m.images, err);
    if (status == ESP_OK)
        status = watch_layers(&m, err);
    if (status == ESP_OK && m.watched > 0)
        status = make_exec(&m, data->batch, err);
    if (status == ESP_OK && m.watched > 0)
        status = run(&m, err);
    if (status == ESP_OK)
        status = check_scores(&m, err);
    for (int l = 0; status == ESP_OK && l < layers->count; l++) {
        scores[l] = m.watches[l].sums;
        m.watches[l].sums = NULL;
    }
    tear_down(&m);
    return status;
}
