/* The model is copied with momentum 0 (probe.h), so that after a forward pass of the training form the
 * running statistics are those of the batch alone. They are pooled over the batches in double (Chan, Golub
 * and LeVeque 1979): what comes out is what one pass over all values would give, but for rounding. */
#include "train/recalibrate.h"

#include <inttypes.h>

#include "base/clock.h"
#include "base/memory.h"
#include "graph/op.h"
#include "train/calibration.h"
#include "train/meter.h"
#include "train/probe.h"

#define DEFAULT_BATCH 100

/* One batch-norm's statistics. */
typedef struct norm {
    int values[2]; /* mean and variance in the model */
    int64_t channels;
    int64_t positions;      /* per image */
    int parameters[2];      /* the same in the copy's parameters */
    int64_t count;          /* numbers per channel so far */
    double *mean, *squares; /* [channels]: mean, and sum of squared distances from it */
} norm;

typedef struct recalibration {
    const esp_compute *compute;
    const esp_graph *graph;
    esp_calibration images;
    esp_inferred *inferred; /* batch 1 */
    int norm_count;
    norm *norms;
    esp_graph *copy;
    esp_params *params;
    esp_exec *exec, *tail_exec;
    int64_t batch, tail;
    int64_t batches;
} recalibration;

/* ---- the batch-norms ---- */

static bool is_norm(const esp_graph *graph, const esp_node *node, int values[2])
{
    unsigned running = node->op->running;
    int count = 0;
    for (int i = 0; i < node->input_count && running >> i != 0; i++) {
        if ((running >> i & 1U) == 0)
            continue;
        int v = node->inputs[i];
        if (v < 0 || count == 2 || esp_graph_value(graph, v)->constant == NULL)
            return false;
        values[count++] = v;
    }
    return count == 2;
}

static esp_status add_norm(recalibration *r, const esp_node *node, const int values[2], esp_error *err)
{
    const esp_shape *x = esp_inferred_shape(r->inferred, node->inputs[0]);
    norm *made = &r->norms[r->norm_count++];
    *made = (norm){.values = {values[0], values[1]}, .channels = x->dims[1], .positions = 1};
    for (int i = 2; i < x->rank; i++)
        made->positions *= x->dims[i];
    made->mean = esp_alloc_zero((size_t)made->channels, sizeof *made->mean);
    made->squares = esp_alloc_zero((size_t)made->channels, sizeof *made->squares);
    if (made->mean == NULL || made->squares == NULL)
        return esp_fail_memory(err, "batch-norm statistics", (size_t)made->channels * sizeof *made->mean);
    for (int k = 0; k < r->norm_count - 1; k++) {
        if (r->norms[k].values[0] == values[0] || r->norms[k].values[1] == values[1])
            return esp_fail(err, ESP_UNSUPPORTED,
                            "node '%s': its statistics '%s' are another batch-norm's too, expected its own",
                            node->name, esp_graph_value(r->graph, values[0])->name);
    }
    return ESP_OK;
}

static esp_status find_norms(recalibration *r, esp_error *err)
{
    esp_input_shape shape;
    bool is_open = esp_dataset_input_shape(r->images.images, r->graph, 1, &shape);
    esp_status status = esp_infer(r->graph, 1, &shape, is_open ? 1 : 0, &r->inferred, err);
    r->norms = esp_alloc_zero((size_t)esp_graph_node_count(r->graph), sizeof *r->norms);
    if (status == ESP_OK && r->norms == NULL)
        status = esp_fail_memory(err, "batch-norm statistics", sizeof *r->norms);
    for (int n = 0; status == ESP_OK && n < esp_graph_node_count(r->graph); n++) {
        const esp_node *node = esp_graph_node(r->graph, n);
        int values[2];
        if (is_norm(r->graph, node, values))
            status = add_norm(r, node, values, err);
    }
    return status;
}

/* ---- running ---- */

static esp_status make_exec(recalibration *r, int64_t batch, esp_exec **out, esp_error *err)
{
    const esp_exec_options options = {
        .batch = batch, .is_training = true, .params = r->params, .slots = esp_compute_slots(r->compute)};
    int64_t taken = 0;
    esp_status status = esp_calibration_exec(&r->images, r->copy, options, out, &taken, err);
    if (status == ESP_OK && taken != batch)
        status = esp_fail(err, ESP_SHAPE,
                          "the model is fixed to batches of %" PRId64
                          ", batch-norm is measured on at least 2 images",
                          taken);
    return status;
}

static esp_status make_copy(recalibration *r, esp_error *err)
{
    const esp_probe_request request = {.inferred = r->inferred, .measures_norms = true};
    esp_status status = esp_probe_new(r->graph, &request, &r->copy, err);
    if (status == ESP_OK)
        status = esp_params_new(r->copy, &r->params, err);
    for (int i = 0; status == ESP_OK && i < r->norm_count; i++) {
        for (int k = 0; k < 2; k++) {
            const char *name = esp_graph_value(r->graph, r->norms[i].values[k])->name;
            r->norms[i].parameters[k] = esp_params_find(r->params, esp_graph_find_value(r->copy, name));
            if (r->norms[i].parameters[k] < 0)
                return esp_fail(err, ESP_UNSUPPORTED, "statistics '%s' are no float32 constant", name);
        }
    }
    return status;
}

static void plan_batches(recalibration *r, int64_t asked)
{
    r->batch = asked > 0 ? asked : DEFAULT_BATCH;
    r->batch = r->batch > 2 ? r->batch : 2;
    r->batch = r->batch < r->images.count ? r->batch : r->images.count;
    r->tail = r->images.count % r->batch;
    if (r->tail == 1)
        r->tail = r->batch + 1;
}

/* Pools the statistics of a batch with those so far. */
static void pool(const recalibration *r, norm *n, int64_t images)
{
    const float *means = esp_params_at(r->params, n->parameters[0])->data;
    const float *variances = esp_params_at(r->params, n->parameters[1])->data;
    double added = (double)(images * n->positions), before = (double)n->count, all = before + added;
    for (int64_t c = 0; c < n->channels; c++) {
        double distance = (double)means[c] - n->mean[c];
        n->mean[c] += distance * added / all;
        /* the running variance is the unbiased one */
        n->squares[c] += (double)variances[c] * (added - 1) + distance * distance * before * added / all;
    }
    n->count += images * n->positions;
}

static esp_status run_batch(recalibration *r, int64_t first, int64_t count, esp_error *err)
{
    esp_exec *exec = count == r->tail ? r->tail_exec : r->exec;
    esp_status status = esp_calibration_fill(&r->images, r->compute, first, count, count, exec, err);
    if (status == ESP_OK)
        status = esp_exec_forward(exec, r->compute, err);
    for (int i = 0; status == ESP_OK && i < r->norm_count; i++)
        pool(r, &r->norms[i], count);
    r->batches++;
    return status;
}

static esp_status run(recalibration *r, esp_error *err)
{
    esp_meter meter = esp_meter_make(r->compute);
    double start = esp_clock_s();
    esp_status status = make_copy(r, err);
    if (status == ESP_OK && r->images.count != r->tail)
        status = make_exec(r, r->batch, &r->exec, err);
    if (status == ESP_OK && r->tail > 0)
        status = make_exec(r, r->tail, &r->tail_exec, err);
    int64_t done = 0;
    while (status == ESP_OK && done < r->images.count) {
        int64_t left = r->images.count - done, count = left == r->tail ? r->tail : r->batch;
        status = esp_compute_is_cancelled(r->compute) ? esp_fail(err, ESP_CANCELLED, "cancelled")
                                                      : run_batch(r, done, count, err);
        done += count;
        if (status != ESP_OK || !esp_meter_is_due(&meter, done >= r->images.count))
            continue;
        double seconds = esp_clock_s() - start, rate = seconds > 0 ? (double)done / seconds : 0;
        const esp_progress progress = {.stage = "recalibrate",
                                       .done = (double)done,
                                       .total = (double)r->images.count,
                                       .unit = "images",
                                       .rate = rate,
                                       .eta_s = rate > 0 ? (double)(r->images.count - done) / rate : -1,
                                       .detail = ""};
        esp_compute_report(r->compute, &progress);
    }
    return status;
}

/* ---- the new graph ---- */

static esp_status make_tensor(const recalibration *r, const norm *n, int which, esp_tensor **out,
                              esp_error *err)
{
    const esp_tensor *old = esp_graph_value(r->graph, n->values[which])->constant;
    esp_status status = esp_tensor_new_unset(ESP_F32, esp_tensor_shape(old), out, err);
    for (int64_t c = 0; status == ESP_OK && c < n->channels; c++) {
        double value = which == 0 ? n->mean[c] : n->squares[c] / (double)(n->count - 1);
        esp_tensor_f32_mut(*out)[c] = (float)value;
    }
    return status;
}

static esp_status make_graph(const recalibration *r, esp_graph **out, esp_error *err)
{
    size_t count = 2 * (size_t)r->norm_count;
    int *values = esp_alloc(count, sizeof *values);
    esp_tensor **tensors = esp_alloc_zero(count, sizeof *tensors);
    esp_status status = ESP_OK;
    if (values == NULL || tensors == NULL)
        status = esp_fail_memory(err, "batch-norm statistics", count * sizeof *tensors);
    for (size_t i = 0; status == ESP_OK && i < count; i++) {
        values[i] = r->norms[i / 2].values[i % 2];
        status = make_tensor(r, &r->norms[i / 2], (int)(i % 2), &tensors[i], err);
    }
    if (status == ESP_OK)
        status = esp_graph_with_constants(r->graph, (int)count, values, tensors, out, err);
    for (size_t i = 0; tensors != NULL && i < count; i++)
        esp_tensor_unref(tensors[i]);
    esp_free(tensors);
    esp_free(values);
    return status;
}

static void tear_down(recalibration *r)
{
    esp_exec_free(r->tail_exec);
    esp_exec_free(r->exec);
    esp_params_free(r->params);
    esp_graph_unref(r->copy);
    for (int i = 0; i < r->norm_count; i++) {
        esp_free(r->norms[i].mean);
        esp_free(r->norms[i].squares);
    }
    esp_free(r->norms);
    esp_inferred_free(r->inferred);
    esp_calibration_close(&r->images);
}

static esp_status recalibrate(recalibration *r, const esp_recalibrate_options *options, esp_graph **out,
                              esp_error *err)
{
    esp_status status = find_norms(r, err);
    if (status != ESP_OK)
        return status;
    if (r->norm_count == 0) {
        *out = esp_graph_ref(r->graph);
        return ESP_OK;
    }
    if (r->images.count < 2)
        return esp_fail(err, ESP_INVALID,
                        "recalibration: %" PRId64 " image, batch-norm is measured on at least 2",
                        r->images.count);
    plan_batches(r, options->batch);
    status = run(r, err);
    return status == ESP_OK ? make_graph(r, out, err) : status;
}

esp_status esp_recalibrate(const esp_compute *compute, const esp_graph *graph, const esp_dataset *dataset,
                           const esp_recalibrate_options *options, esp_graph **out,
                           esp_recalibrate_result *result, esp_error *err)
{
    const esp_recalibrate_options chosen = options == NULL ? (esp_recalibrate_options){0} : *options;
    recalibration r = {.compute = compute, .graph = graph};
    double start = esp_clock_s();
    *out = NULL;
    if (chosen.batch < 0)
        return esp_fail(err, ESP_INVALID, "recalibration: batch %" PRId64 ", expected at least 2",
                        chosen.batch);
    esp_status status = esp_calibration_open(graph, dataset, chosen.images, chosen.seed, chosen.mean,
                                             chosen.std, &r.images, err);
    if (status == ESP_OK)
        status = recalibrate(&r, &chosen, out, err);
    if (status == ESP_OK && result != NULL)
        *result = (esp_recalibrate_result){.images = r.norm_count > 0 ? r.images.count : 0,
                                           .batches = r.batches,
                                           .norms = r.norm_count,
                                           .seconds = esp_clock_s() - start};
    tear_down(&r);
    return status;
}
