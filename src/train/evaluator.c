/* One executor serves a whole evaluation: images do not meet each other in evaluation form, so a partial last
 * batch is filled up with zeros and only its own rows are read. Nothing is allocated during a run. */
#include "train/evaluator.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "train/loss.h"
#include "train/meter.h"

#define ESP_EVALUATE_BATCH 100

struct esp_evaluator {
    const esp_dataset *dataset;
    esp_normalization normalization;
    esp_exec *exec;
    int64_t batch, images, image_size;
    uint32_t *indices; /* [batch] */
    int32_t *labels;   /* [batch] */
};

/* ---- making one ---- */

static int64_t first_dim(const esp_inferred *inferred, int value)
{
    const esp_shape *shape = esp_inferred_shape(inferred, value);
    return shape->rank == 0 ? 1 : shape->dims[0];
}

/* Whether images come and go in batches of the size that is asked for. */
static esp_status check_batch(const esp_graph *graph, const esp_exec_options *options, esp_error *err)
{
    esp_inferred *inferred = NULL;
    esp_status status =
        esp_infer(graph, options->batch, options->input_shapes, options->input_shape_count, &inferred, err);
    if (status != ESP_OK) {
        return status;
    }
    int64_t taken = first_dim(inferred, esp_graph_input(graph, 0));
    int64_t given = first_dim(inferred, esp_graph_output(graph, 0));
    esp_inferred_free(inferred);
    if (taken != options->batch || given != options->batch) {
        return esp_fail(err, ESP_SHAPE, "model is fixed to batches of %" PRId64 ", found a batch of %" PRId64,
                        taken == options->batch ? given : taken, options->batch);
    }
    return ESP_OK;
}

esp_status esp_image_exec_new(const esp_graph *graph, const esp_dataset *dataset, esp_exec_options options,
                              esp_exec **out, esp_error *err)
{
    *out = NULL;
    esp_input_shape shape;
    if (esp_dataset_input_shape(dataset, graph, options.batch, &shape)) {
        options.input_shapes = &shape;
        options.input_shape_count = 1;
    }
    options.stops_at_logits = true;
    esp_status status = check_batch(graph, &options, err);
    return status == ESP_OK ? esp_exec_new(graph, &options, out, err) : status;
}

/* The batch size the file itself gives, or 1 when it is open. */
static int64_t fixed_batch(const esp_graph *graph)
{
    const esp_value *input = esp_graph_value(graph, esp_graph_input(graph, 0));
    bool is_fixed = input->shape.rank > 0 && input->shape.dims[0] > 0;
    return is_fixed ? input->shape.dims[0] : 1;
}

static esp_status make_exec(esp_evaluator *evaluator, const esp_graph *graph, esp_params *params,
                            const esp_eval_options *asked, int slots, esp_error *err)
{
    int64_t wanted = asked->batch > 0 ? asked->batch : ESP_EVALUATE_BATCH;
    wanted = wanted < evaluator->images ? wanted : evaluator->images;
    esp_exec_options options = {
        .batch = wanted, .params = params, .spends_weights = asked->spends_weights, .slots = slots};
    esp_status status = esp_image_exec_new(graph, evaluator->dataset, options, &evaluator->exec, err);
    int64_t fixed = fixed_batch(graph);
    if (status == ESP_SHAPE && asked->batch == 0 && fixed != wanted) {
        /* Exporters write batch 1 and sometimes bake it into shapes: then image by image is what the model
         * does. */
        options.batch = fixed;
        status = esp_image_exec_new(graph, evaluator->dataset, options, &evaluator->exec, err);
    }
    evaluator->batch = options.batch;
    return status;
}

esp_status esp_evaluator_new(const esp_graph *graph, const esp_dataset *dataset,
                             const esp_normalization *normalization, esp_params *params,
                             const esp_eval_options *options, int slots, esp_evaluator **out, esp_error *err)
{
    int64_t batch = options->batch, limit = options->limit;
    *out = NULL;
    if (batch < 0 || limit < 0) {
        return esp_fail(err, ESP_INVALID, "evaluation: %s %" PRId64 ", expected a number >= 0",
                        batch < 0 ? "batch" : "limit", batch < 0 ? batch : limit);
    }
    esp_evaluator *evaluator = esp_alloc_zero(1, sizeof(*evaluator));
    if (evaluator == NULL) {
        return esp_fail_memory(err, "an evaluator", sizeof(*evaluator));
    }
    int64_t count = esp_dataset_count(dataset);
    evaluator->dataset = dataset;
    evaluator->normalization = *normalization;
    evaluator->images = limit > 0 && limit < count ? limit : count;
    evaluator->image_size =
        (int64_t)esp_dataset_channels(dataset) * esp_dataset_height(dataset) * esp_dataset_width(dataset);
    esp_status status = make_exec(evaluator, graph, params, options, slots, err);
    if (status == ESP_OK) {
        evaluator->indices = esp_alloc((size_t)evaluator->batch, sizeof(*evaluator->indices));
        evaluator->labels = esp_alloc((size_t)evaluator->batch, sizeof(*evaluator->labels));
        if (evaluator->indices == NULL || evaluator->labels == NULL) {
            status = esp_fail_memory(err, "a batch", (size_t)evaluator->batch * sizeof(*evaluator->indices));
        }
    }
    if (status != ESP_OK) {
        esp_evaluator_free(evaluator);
        return status;
    }
    *out = evaluator;
    return ESP_OK;
}

void esp_evaluator_free(esp_evaluator *evaluator)
{
    if (evaluator == NULL) {
        return;
    }
    esp_free(evaluator->labels);
    esp_free(evaluator->indices);
    esp_exec_free(evaluator->exec);
    esp_free(evaluator);
}

/* ---- measuring ---- */

/* Adds images [first, first + count) to `sums`. */
static esp_status measure_batch(esp_evaluator *evaluator, const esp_compute *compute, int64_t first,
                                int64_t count, esp_loss_sums *sums, esp_error *err)
{
    float *x = esp_view_f32(esp_exec_input(evaluator->exec, 0));
    for (int64_t i = 0; i < count; i++) {
        evaluator->indices[i] = (uint32_t)(first + i);
    }
    esp_status status = esp_batch_fill(compute, evaluator->dataset, &evaluator->normalization, NULL, 0, 0,
                                       evaluator->indices, count, x, evaluator->labels);
    if (status != ESP_OK) {
        return esp_fail(err, status, "evaluation stopped");
    }
    int64_t rest = (evaluator->batch - count) * evaluator->image_size;
    memset(x + count * evaluator->image_size, 0, (size_t)rest * sizeof(float));
    status = esp_exec_forward(evaluator->exec, compute, err);
    if (status == ESP_OK) {
        const esp_view *logits = esp_exec_output(evaluator->exec, 0);
        int64_t classes = esp_shape_elements(&logits->shape) / evaluator->batch;
        esp_cross_entropy(esp_view_f32(logits), evaluator->labels, count, classes, sums, NULL);
    }
    return status;
}

/* Half-width of the Wilson score interval (Wilson 1927) at 95 %, as a fraction. */
static double wilson_half_width(int64_t hits, int64_t images)
{
    double z = 1.959963984540054;
    double n = (double)images;
    double p = (double)hits / n;
    return z / (1.0 + z * z / n) * sqrt(p * (1.0 - p) / n + z * z / (4.0 * n * n));
}

static void report(const esp_evaluator *evaluator, const esp_compute *compute, const char *stage,
                   const esp_loss_sums *sums, double seconds)
{
    double images = (double)sums->images;
    double rate = seconds > 0.0 ? images / seconds : 0.0;
    char detail[96];
    snprintf(detail, sizeof(detail), "loss %.3f  top-1 %.1f %%", sums->loss / images,
             100.0 * (double)sums->top1 / images);
    esp_progress progress = {
        .stage = stage,
        .done = images,
        .total = (double)evaluator->images,
        .unit = "images",
        .rate = rate,
        .eta_s = rate > 0.0 ? ((double)evaluator->images - images) / rate : -1.0,
        .detail = detail,
    };
    esp_compute_report(compute, &progress);
}

static void summarize(const esp_evaluator *evaluator, const esp_loss_sums *sums, double seconds,
                      esp_eval_result *out)
{
    double images = (double)sums->images;
    *out = (esp_eval_result){
        .images = sums->images,
        .top1 = 100.0 * (double)sums->top1 / images,
        .top5 = 100.0 * (double)sums->top5 / images,
        .loss = sums->loss / images,
        .top1_error = 100.0 * wilson_half_width(sums->top1, sums->images),
        .seconds = seconds,
        .images_per_s = seconds > 0.0 ? images / seconds : 0.0,
        .normalization = evaluator->normalization,
    };
}

esp_status esp_evaluator_run(esp_evaluator *evaluator, const esp_compute *compute, const char *stage,
                             esp_eval_result *out, esp_error *err)
{
    esp_loss_sums sums = {0};
    esp_meter meter = esp_meter_make(compute);
    double start = esp_clock_s();
    while (sums.images < evaluator->images) {
        int64_t left = evaluator->images - sums.images;
        int64_t count = left < evaluator->batch ? left : evaluator->batch;
        esp_status status = esp_compute_is_cancelled(compute)
                                ? esp_fail(err, ESP_CANCELLED, "evaluation stopped")
                                : measure_batch(evaluator, compute, sums.images, count, &sums, err);
        if (status != ESP_OK) {
            return status;
        }
        if (esp_meter_is_due(&meter, sums.images == evaluator->images)) {
            report(evaluator, compute, stage, &sums, esp_clock_s() - start);
        }
    }
    summarize(evaluator, &sums, esp_clock_s() - start, out);
    return ESP_OK;
}
