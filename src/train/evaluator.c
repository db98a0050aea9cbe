/* One executor serves a whole evaluation: images do not meet each other in evaluation form, so a partial last
 * batch is filled up with zeros and only its own rows are read. Images that do not lie in memory are read
 * ahead by the loader; bad ones that the set leaves out close up before the batch is measured. */
#include "train/evaluator.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "train/loader.h"
#include "train/loss.h"
#include "train/meter.h"

#define ESP_EVALUATE_BATCH 100

struct esp_evaluator {
    esp_dataset *dataset; /* at the model's size */
    esp_normalization normalization;
    esp_exec *exec;
    esp_loader *loader;
    int64_t batch, images, image_size;
    uint32_t *order; /* [images]: 0, 1, 2, ... */
    int32_t *labels; /* [batch] */
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

static esp_status make_loader(esp_evaluator *evaluator, int threads, esp_error *err)
{
    const esp_dataset *dataset = evaluator->dataset;
    evaluator->image_size =
        (int64_t)esp_dataset_channels(dataset) * esp_dataset_height(dataset) * esp_dataset_width(dataset);
    evaluator->order = esp_alloc((size_t)evaluator->images, sizeof(*evaluator->order));
    evaluator->labels = esp_alloc((size_t)evaluator->batch, sizeof(*evaluator->labels));
    if (evaluator->order == NULL || evaluator->labels == NULL) {
        return esp_fail_memory(err, "a batch", (size_t)evaluator->images * sizeof(*evaluator->order));
    }
    for (int64_t i = 0; i < evaluator->images; i++) {
        evaluator->order[i] = (uint32_t)i;
    }
    const esp_loader_options options = {
        .batch = evaluator->batch, .threads = threads, .leaves_out_bad = true};
    return esp_loader_new(dataset, &evaluator->normalization, &options, &evaluator->loader, err);
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
    evaluator->normalization = *normalization;
    evaluator->images = limit > 0 && limit < count ? limit : count;
    esp_status status = esp_dataset_fit(dataset, graph, &evaluator->dataset, err);
    if (status == ESP_OK) {
        status = make_exec(evaluator, graph, params, options, slots, err);
    }
    if (status == ESP_OK) {
        status = make_loader(evaluator, slots, err);
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
    esp_loader_free(evaluator->loader);
    esp_free(evaluator->labels);
    esp_free(evaluator->order);
    esp_exec_free(evaluator->exec);
    esp_dataset_unref(evaluator->dataset);
    esp_free(evaluator);
}

/* ---- measuring ---- */

/* Closes the gaps of images that were left out (label -1); returns how many images there are. */
static int64_t close_gaps(esp_evaluator *evaluator, int64_t count, float *x)
{
    int64_t kept = 0, size = evaluator->image_size;
    for (int64_t i = 0; i < count; i++) {
        if (evaluator->labels[i] < 0) {
            continue;
        }
        if (kept < i) {
            memcpy(x + kept * size, x + i * size, (size_t)size * sizeof(float));
            evaluator->labels[kept] = evaluator->labels[i];
        }
        kept++;
    }
    return kept;
}

/* Adds the next `count` images to `sums`. */
static esp_status measure_batch(esp_evaluator *evaluator, const esp_compute *compute, int64_t count,
                                esp_loss_sums *sums, esp_error *err)
{
    float *x = esp_view_f32(esp_exec_input(evaluator->exec, 0));
    const esp_batch_labels labels = {.label = evaluator->labels};
    esp_status status = esp_loader_take(evaluator->loader, compute, count, x, &labels, err);
    if (status != ESP_OK) {
        return status == ESP_CANCELLED ? esp_fail(err, status, "evaluation stopped") : status;
    }
    count = close_gaps(evaluator, count, x);
    if (count == 0) {
        return ESP_OK;
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
                   const esp_loss_sums *sums, int64_t done, double seconds)
{
    double measured = sums->images > 0 ? (double)sums->images : 1.0, images = (double)done;
    double rate = seconds > 0.0 ? images / seconds : 0.0;
    char detail[96];
    snprintf(detail, sizeof(detail), "loss %.3f  top-1 %.1f %%", sums->loss / measured,
             100.0 * (double)sums->top1 / measured);
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
        .skipped = evaluator->images - sums->images,
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
    esp_status status = esp_loader_begin(evaluator->loader, 0, evaluator->order, evaluator->images, err);
    for (int64_t done = 0; status == ESP_OK && done < evaluator->images;) {
        int64_t left = evaluator->images - done;
        int64_t count = left < evaluator->batch ? left : evaluator->batch;
        status = esp_compute_is_cancelled(compute) ? esp_fail(err, ESP_CANCELLED, "evaluation stopped")
                                                   : measure_batch(evaluator, compute, count, &sums, err);
        done += count;
        if (status == ESP_OK && esp_meter_is_due(&meter, done == evaluator->images)) {
            report(evaluator, compute, stage, &sums, done, esp_clock_s() - start);
        }
    }
    if (status == ESP_OK && sums.images == 0) {
        status = esp_fail(err, ESP_FORMAT, "dataset '%s': none of its %" PRId64 " images can be read",
                          esp_dataset_name(evaluator->dataset), evaluator->images);
    }
    if (status != ESP_OK) {
        return status;
    }
    summarize(evaluator, &sums, esp_clock_s() - start, out);
    return ESP_OK;
}
