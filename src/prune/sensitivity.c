/* The scan. Parts are taken in the order of the first node they change, so that the activations kept in front
 * of it move forward only: the network in front of a part is run once, not once per ratio. Points are
 * measured one after the other, the images of a point on all threads; each is in the file before the next
 * begins. */
#include "prune/sensitivity_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"

#define DEFAULT_MEMORY ((size_t)512 << 20)

static const double default_ratios[] = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9};

typedef struct scan {
    esp_sensitivity_options options; /* with defaults filled in */
    scan_site site;
    scan_parts parts;
    sweep_cut cut;
    scan_file *file;
    double baseline_loss; /* of the file; negative: none */
    scan_scores whole, now;
    int *order; /* of the parts */
    esp_sensitivity *out;
} scan;

void esp_sensitivity_free(esp_sensitivity *sensitivity)
{
    if (!sensitivity)
        return;
    for (int c = 0; c < sensitivity->curve_count; c++) {
        esp_sensitivity_curve *curve = &sensitivity->curves[c];
        for (int l = 0; curve->layers && l < curve->layer_count; l++)
            esp_free(curve->layers[l]);
        esp_free(curve->layers);
        esp_free(curve->name);
        esp_free(curve->points);
    }
    esp_free(sensitivity->curves);
    json_decref(sensitivity->plan);
    esp_free(sensitivity->model);
    esp_free(sensitivity->graph_name);
    esp_free(sensitivity->data);
    esp_free(sensitivity);
}

/* ---- what is asked ---- */

static esp_status fill_options(const esp_sensitivity_options *asked, esp_sensitivity_options *out,
                               esp_error *err)
{
    *out = *asked;
    if (!out->ratios) {
        out->ratios = default_ratios;
        out->ratio_count = (int)(sizeof default_ratios / sizeof *default_ratios);
    }
    if (!out->memory)
        out->memory = DEFAULT_MEMORY;
    if (out->ratio_count < 1)
        return esp_fail(err, ESP_INVALID, "no ratios, expected at least one");
    for (int r = 0; r < out->ratio_count; r++)
        if (!(out->ratios[r] > (r ? out->ratios[r - 1] : 0) && out->ratios[r] < 1))
            return esp_fail(err, ESP_INVALID, "ratio %d is %g, expected rising numbers above 0 and below 1",
                            r + 1, out->ratios[r]);
    return ESP_OK;
}

static esp_status describe(scan *it, const esp_dataset *dataset, esp_error *err)
{
    char fingerprint[17];
    esp_sensitivity *out = it->out;

    out->model =
        esp_strdup(esp_sensitivity_fingerprint(it->site.sweep.graph, fingerprint, sizeof fingerprint));
    out->graph_name = esp_strdup(esp_graph_name(it->site.sweep.graph));
    out->data = esp_strdup(esp_dataset_name(dataset));
    out->images = it->site.sweep.images;
    out->seed = it->options.seed;
    return out->model && out->graph_name && out->data ? ESP_OK : esp_fail_memory(err, "a scan", sizeof *out);
}

/* ---- what is left to do ---- */

/* Whether a point has to be run: not done, and its masks are nobody else's. */
static bool is_to_run(const esp_sensitivity_curve *curve, int point)
{
    int same = curve->points[point].same_as;

    return !curve->points[point].is_done &&
           (same == ESP_SENSITIVITY_OWN || (same >= 0 && !curve->points[same].is_done));
}

static bool is_anything_left(const esp_sensitivity_curve *curve)
{
    for (int p = 0; p < curve->point_count; p++)
        if (!curve->points[p].is_done)
            return true;
    return false;
}

/* Parts by the first node they change; network order among equals. */
static esp_status order_parts(scan *it, esp_error *err)
{
    const scan_part *parts = it->parts.items;

    it->order = esp_alloc((size_t)it->parts.count, sizeof *it->order);
    if (!it->order)
        return esp_fail_memory(err, "parts", (size_t)it->parts.count * sizeof *it->order);
    for (int i = 0; i < it->parts.count; i++) {
        int j = i;
        for (; j > 0 && parts[it->order[j - 1]].first_node > parts[i].first_node; j--)
            it->order[j] = it->order[j - 1];
        it->order[j] = i;
    }
    return ESP_OK;
}

static void plan_progress(scan *it)
{
    scan_progress *progress = &it->site.progress;

    for (int c = 0; c < it->parts.count; c++)
        for (int p = 0; p < it->out->curves[c].point_count; p++) {
            bool is_run = it->out->curves[c].points[p].same_as == ESP_SENSITIVITY_OWN &&
                          !it->out->curves[c].points[p].is_done;
            progress->points_total += is_run;
            progress->work_total += is_run ? it->parts.items[c].work : 0;
        }
    progress->points_total++; /* the whole network */
    progress->work_total += (double)it->out->baseline.macs;
}

static void end_of_point(scan *it)
{
    scan_progress *progress = &it->site.progress;

    progress->points_done++;
    progress->work_done += progress->work;
    progress->work = 0;
    atomic_store(&progress->batches, 0);
}

/* ---- measuring ---- */

static esp_status check_against_file(const scan *it, esp_error *err)
{
    double found = it->baseline_loss, now = it->out->baseline.loss;

    if (found < 0 || fabs(found - now) <= 1e-4 * fmax(fabs(found), 1e-3))
        return ESP_OK;
    return esp_fail(
        err, ESP_STATE,
        "%s: the whole network has loss %.6g on these images, the file says %.6g: the data is not "
        "what it was",
        it->options.path, now, found);
}

static esp_status measure_whole(scan *it, esp_error *err)
{
    const sweep_cut nothing = {0};
    scan_progress *progress = &it->site.progress;
    double start = esp_clock_s();
    esp_status status = scan_scores_new(it->site.sweep.images, &it->whole, err);

    if (status == ESP_OK)
        status = scan_scores_new(it->site.sweep.images, &it->now, err);
    progress->what = "the whole network";
    progress->work = (double)it->out->baseline.macs;
    if (status == ESP_OK)
        status = scan_measure(&it->site, &nothing, it->site.sweep.graph, &it->whole, err);
    if (status != ESP_OK)
        return status;
    end_of_point(it);
    scan_summarize(&it->whole, NULL, &it->out->baseline);
    it->out->baseline_seconds = esp_clock_s() - start;
    status = check_against_file(it, err);
    return status == ESP_OK ? scan_file_begin(it->file, &it->options, it->out, err) : status;
}

/* What another point with the same masks gave. */
static void copy_point(const esp_sensitivity *out, const esp_sensitivity_curve *curve,
                       esp_sensitivity_point *point)
{
    const esp_sensitivity_point own = *point;

    *point = own.same_as == ESP_SENSITIVITY_WHOLE ? out->baseline : curve->points[own.same_as];
    point->ratio = own.ratio;
    point->got = own.got;
    point->same_as = own.same_as;
}

static esp_status run_point(scan *it, int index, esp_sensitivity_point *point, esp_error *err)
{
    esp_graph *masked = NULL;
    esp_status status = scan_part_graph(&it->parts, &it->site, index, point->ratio, &masked, err);

    it->site.progress.ratio = point->ratio;
    it->site.progress.work = it->parts.items[index].work;
    if (status == ESP_OK)
        status = scan_measure(&it->site, &it->cut, masked, &it->now, err);
    esp_graph_unref(masked);
    if (status != ESP_OK)
        return status;
    scan_summarize(&it->now, &it->whole, point);
    it->out->measured++;
    end_of_point(it);
    return ESP_OK;
}

static esp_status finish_point(scan *it, int curve, int point, esp_error *err)
{
    esp_status status = scan_file_point(it->file, it->out, curve, point, err);

    if (status == ESP_OK && it->options.on_point)
        it->options.on_point(it->options.user, it->out, curve, point);
    return status;
}

static esp_status scan_one(scan *it, int index, esp_error *err)
{
    esp_sensitivity_curve *curve = &it->out->curves[index];
    esp_status status = ESP_OK;
    bool is_run = false;

    for (int p = 0; p < curve->point_count; p++)
        is_run = is_run || is_to_run(curve, p);
    it->site.progress.what = curve->name;
    if (is_run)
        status = sweep_advance(&it->site.sweep, &it->cut, it->parts.items[index].first_node, err);
    for (int p = 0; status == ESP_OK && p < curve->point_count; p++) {
        esp_sensitivity_point *point = &curve->points[p];
        if (point->is_done)
            continue;
        if (point->same_as == ESP_SENSITIVITY_OWN) {
            status = run_point(it, index, point, err);
        } else {
            copy_point(it->out, curve, point);
            it->out->reused++;
        }
        if (status == ESP_OK)
            status = finish_point(it, index, p, err);
    }
    return status;
}

static esp_status scan_all(scan *it, esp_error *err)
{
    bool is_left = it->baseline_loss < 0;
    esp_status status;

    for (int c = 0; c < it->out->curve_count; c++)
        is_left = is_left || is_anything_left(&it->out->curves[c]);
    plan_progress(it);
    /* a file that has everything still has its images looked at: they must be what they were */
    status = measure_whole(it, err);
    for (int i = 0; is_left && status == ESP_OK && i < it->parts.count; i++)
        status = scan_one(it, it->order[i], err);
    return status;
}

static esp_status prepare(scan *it, const esp_compute *compute, const esp_graph *graph,
                          const esp_dataset *dataset, esp_error *err)
{
    esp_status status = scan_site_open(compute, graph, dataset, &it->options, &it->site, err);

    it->cut.limit = it->options.memory;
    if (status == ESP_OK)
        status = describe(it, dataset, err);
    if (status == ESP_OK)
        status = scan_parts_open(&it->site, &it->options, &it->parts, it->out, err);
    if (status == ESP_OK)
        status = order_parts(it, err);
    if (status == ESP_OK)
        status = scan_file_open(&it->options, &it->site, it->out, &it->file, &it->baseline_loss, err);
    return status;
}

static bool is_complete(const esp_sensitivity *out)
{
    for (int c = 0; c < out->curve_count; c++)
        if (is_anything_left(&out->curves[c]))
            return false;
    return out->baseline.is_done;
}

esp_status esp_sensitivity_scan(const esp_compute *compute, const esp_graph *graph,
                                const esp_dataset *dataset, const esp_sensitivity_options *options,
                                esp_sensitivity **out, esp_error *err)
{
    double start = esp_clock_s();
    scan it = {.baseline_loss = -1};
    esp_status status = fill_options(options, &it.options, err);

    *out = NULL;
    if (status != ESP_OK)
        return status;
    it.out = esp_alloc_zero(1, sizeof *it.out);
    if (!it.out)
        return esp_fail_memory(err, "a scan", sizeof *it.out);
    status = prepare(&it, compute, graph, dataset, err);
    if (status == ESP_OK)
        status = scan_all(&it, err);
    it.out->held_bytes = it.cut.most_bytes;
    it.out->seconds = esp_clock_s() - start;
    it.out->is_complete = is_complete(it.out);

    scan_file_close(it.file);
    sweep_cut_free(&it.cut);
    scan_scores_free(&it.whole);
    scan_scores_free(&it.now);
    esp_free(it.order);
    scan_parts_close(&it.parts);
    scan_site_close(&it.site);
    if (status == ESP_OK || status == ESP_CANCELLED)
        *out = it.out;
    else
        esp_sensitivity_free(it.out);
    return status;
}
