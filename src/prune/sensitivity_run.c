/* The site of a scan: the images, the network, and what is said of the way; and scores of the images. */
#include "prune/sensitivity_internal.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/memory.h"
#include "graph/extract.h"
#include "train/loss.h"

enum { DEFAULT_BATCH = 20, DEFAULT_IMAGES = 1000 };

/* ---- progress ---- */

static void report(scan_site *site)
{
    scan_progress *progress = &site->progress;
    double share = (double)atomic_load(&progress->batches) / (double)site->sweep.batch_count;
    double seconds = esp_clock_s() - progress->start_s, work = progress->work_done + share * progress->work;
    double done = (double)progress->points_done + share;
    char detail[160];
    esp_progress report = {.stage = "sensitivity",
                           .done = done,
                           .total = (double)progress->points_total,
                           .unit = "points",
                           .rate = seconds > 0 ? done / seconds : 0,
                           .eta_s = -1,
                           .detail = detail};

    if (work > 0)
        report.eta_s = seconds * (progress->work_total - work) / work;
    if (progress->ratio > 0)
        snprintf(detail, sizeof detail, "%s at %.2f", progress->what, progress->ratio);
    else
        snprintf(detail, sizeof detail, "%s", progress->what ? progress->what : "");
    esp_compute_report(site->sweep.compute, &report);
}

static void count_batch(void *user, int slot)
{
    scan_site *site = user;

    if (site->progress.is_measuring)
        atomic_fetch_add(&site->progress.batches, 1);
    /* slot 0 is the thread that runs the job */
    if (slot == 0 && esp_meter_is_due(&site->progress.meter, false))
        report(site);
}

/* ---- the site ---- */

/* Whether images fit what computes the first output. */
static esp_status check_images(const esp_graph *graph, const esp_dataset *dataset, esp_error *err)
{
    const int output = esp_graph_output(graph, 0);
    const esp_extract extract = {.outputs = &output, .output_count = 1};
    esp_graph *part = NULL;
    esp_status status;

    if (esp_graph_output_count(graph) == 1)
        return esp_dataset_check_model(dataset, graph, err);
    status = esp_graph_extract(graph, &extract, &part, err);
    if (status == ESP_OK)
        status = esp_dataset_check_model(dataset, part, err);
    esp_graph_unref(part);
    return status;
}

esp_status scan_site_open(const esp_compute *compute, const esp_graph *graph, const esp_dataset *dataset,
                          const esp_sensitivity_options *options, scan_site *site, esp_error *err)
{
    const int output = esp_graph_output(graph, 0);
    sweep_site *sweep = &site->sweep;
    esp_dataset *fitted = NULL;
    esp_status status;

    *site = (scan_site){.sweep = {.compute = compute,
                                  .graph = graph,
                                  .last_output = output,
                                  .what = "sensitivity",
                                  .on_batch = count_batch,
                                  .on_batch_user = site}};
    sweep->single.cancel = compute ? compute->cancel : NULL;
    if (options->images < 0 || options->batch < 0)
        return esp_fail(err, ESP_INVALID, "%s %" PRId64 ", expected a number >= 1",
                        options->images < 0 ? "images" : "batch",
                        options->images < 0 ? options->images : options->batch);
    status = esp_dataset_fit(dataset, graph, &fitted, err);
    if (status == ESP_OK)
        status = check_images(graph, fitted, err);
    if (status == ESP_OK)
        status = esp_normalization_of(graph, esp_dataset_channels(fitted), &sweep->normalization, err);
    if (status == ESP_OK)
        status = esp_normalization_override(&sweep->normalization, options->mean, options->std, err);
    if (status == ESP_OK)
        status = esp_dataset_subset(fitted, options->images ? options->images : DEFAULT_IMAGES, options->seed,
                                    &site->images, err);
    esp_dataset_unref(fitted);
    if (status == ESP_OK) {
        sweep->dataset = site->images;
        sweep->images = esp_dataset_count(site->images);
        status = sweep_choose_batch(sweep, options->batch, DEFAULT_BATCH, err);
    }
    if (status == ESP_OK)
        status = sweep_mark_needed(sweep, &output, 1, err);
    site->progress.meter = esp_meter_make(compute);
    site->progress.start_s = esp_clock_s();
    if (status != ESP_OK)
        scan_site_close(site);
    return status;
}

void scan_site_close(scan_site *site)
{
    sweep_site_free(&site->sweep);
    esp_dataset_unref(site->images);
    *site = (scan_site){0};
}

/* ---- measuring ---- */

esp_status scan_scores_new(int64_t images, scan_scores *out, esp_error *err)
{
    size_t count = (size_t)images;
    scan_scores scores = {images, esp_alloc(count, sizeof(double)), esp_alloc(count, 1), esp_alloc(count, 1)};

    if (!scores.loss || !scores.top1 || !scores.top5) {
        scan_scores_free(&scores);
        return esp_fail_memory(err, "results per image", count * sizeof(double));
    }
    *out = scores;
    return ESP_OK;
}

void scan_scores_free(scan_scores *scores)
{
    esp_free(scores->loss);
    esp_free(scores->top1);
    esp_free(scores->top5);
    *scores = (scan_scores){0};
}

typedef struct scoring {
    const sweep_site *site;
    scan_scores *scores;
} scoring;

static esp_status score_batch(void *user, int64_t task, const esp_exec *exec, esp_error *err)
{
    const scoring *run = user;
    const sweep_site *site = run->site;
    const esp_view *logits = esp_exec_output(exec, 0);
    int64_t classes = esp_shape_elements(&logits->shape) / site->batch, first = task * site->batch;

    (void)err;
    for (int64_t i = 0; i < site->batch && first + i < site->images; i++) {
        int32_t label = esp_dataset_label(site->dataset, first + i);
        esp_loss_sums sums = {0};
        esp_cross_entropy(esp_view_f32(logits) + i * classes, &label, 1, classes, &sums, NULL);
        run->scores->loss[first + i] = sums.loss;
        run->scores->top1[first + i] = (unsigned char)sums.top1;
        run->scores->top5[first + i] = (unsigned char)sums.top5;
    }
    return ESP_OK;
}

esp_status scan_measure(scan_site *site, const sweep_cut *cut, const esp_graph *graph, scan_scores *out,
                        esp_error *err)
{
    sweep_site *sweep = &site->sweep;
    scoring run = {sweep, out};
    esp_inferred *inferred = NULL;
    sweep_part part = {.graph = graph,
                       .outputs = &sweep->last_output,
                       .output_count = 1,
                       .stops_at_logits = true,
                       .batch_count = sweep->batch_count,
                       .collect = score_batch,
                       .user = &run};
    /* values known before run time may follow from the constants that changed */
    esp_status status = esp_infer(graph, sweep->batch, sweep->has_shape ? &sweep->shape : NULL,
                                  sweep->has_shape ? 1 : 0, &inferred, err);

    part.inferred = inferred;
    atomic_store(&site->progress.batches, 0);
    site->progress.is_measuring = true;
    if (status == ESP_OK)
        status = sweep_run(sweep, cut, &part, err);
    site->progress.is_measuring = false;
    esp_inferred_free(inferred);
    return status;
}
