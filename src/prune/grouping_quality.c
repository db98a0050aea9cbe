/* Silhouettes need the distances of all pairs of rows, and those follow from the products of all pairs:
 * |x - y|^2 = x.x + y.y - 2 x.y. A task takes a block of rows against all rows, so that memory stays small
 * for any number of filters. Rows are moved to their mean first, which takes off most of what would cancel;
 * what still cancels is computed from the rows.
 *
 * Suggestions cluster one layer for every k in one batch: its restarts share the products (kmeans.c). */
#include "prune/grouping_quality.h"

#include <math.h>

#include "base/memory.h"
#include "prune/kmeans.h"
#include "tensor/blas.h"

enum { BLOCK_ROWS = 64 };
static const double LEAST_SHARE = 1e-3; /* of |x|^2 + |y|^2: a smaller |x - y|^2 has lost its digits */

/* ---- silhouettes ---- */

typedef struct distances {
    const float *rows; /* as they were given */
    float *centred;    /* [count, columns] */
    double *squares;   /* [count]: |x|^2 of the centred rows */
    int64_t count, columns, k;
    const int32_t *labels;
    int64_t *members; /* [k] */
    double *values;   /* [count] */
    esp_status *statuses;
} distances;

static double direct_square(const distances *all, int64_t a, int64_t b)
{
    const float *x = all->rows + a * all->columns, *y = all->rows + b * all->columns;
    double sum = 0;

    for (int64_t i = 0; i < all->columns; i++) {
        double difference = (double)x[i] - (double)y[i];
        sum += difference * difference;
    }
    return sum;
}

/* sums[g]: distances of one row to the members of each cluster, from its products with all rows. */
static void sum_distances(const distances *all, int64_t row, const float *products, double *sums)
{
    for (int64_t g = 0; g < all->k; g++)
        sums[g] = 0;
    for (int64_t other = 0; other < all->count; other++) {
        double both = all->squares[row] + all->squares[other];
        double square = both - 2 * (double)products[other];
        if (other == row)
            continue;
        if (square < LEAST_SHARE * both)
            square = direct_square(all, row, other);
        sums[all->labels[other]] += sqrt(square);
    }
}

static double silhouette_of(const distances *all, int64_t row, const double *sums)
{
    int32_t own = all->labels[row];
    double inside, outside = INFINITY;

    if (all->members[own] < 2)
        return 0;
    inside = sums[own] / (double)(all->members[own] - 1);
    for (int64_t g = 0; g < all->k; g++)
        if (g != own && all->members[g] && sums[g] / (double)all->members[g] < outside)
            outside = sums[g] / (double)all->members[g];
    if (isinf(outside))
        return NAN; /* nobody is in another cluster */
    double larger = inside > outside ? inside : outside;
    return larger > 0 ? (outside - inside) / larger : 0;
}

static void centre_task(void *context, int64_t task, int slot)
{
    const distances *all = context;
    int64_t first = task * BLOCK_ROWS,
            end = first + BLOCK_ROWS < all->count ? first + BLOCK_ROWS : all->count;
    const float *mean = all->centred + all->count * all->columns;

    (void)slot;
    for (int64_t row = first; row < end; row++) {
        double square = 0;
        for (int64_t i = 0; i < all->columns; i++) {
            float value = all->rows[row * all->columns + i] - mean[i];
            all->centred[row * all->columns + i] = value;
            square += (double)value * (double)value;
        }
        all->squares[row] = square;
    }
}

static void silhouette_task(void *context, int64_t task, int slot)
{
    const distances *all = context;
    int64_t first = task * BLOCK_ROWS;
    int64_t rows = all->count - first < BLOCK_ROWS ? all->count - first : BLOCK_ROWS;
    float *products = esp_alloc((size_t)(rows * all->count), sizeof *products);
    double *sums = esp_alloc((size_t)all->k, sizeof *sums);

    (void)slot;
    if (!products || !sums) {
        all->statuses[task] = ESP_NO_MEMORY;
    } else {
        esp_blas_gemm(false, true, rows, all->count, all->columns, 1, all->centred + first * all->columns,
                      all->columns, all->centred, all->columns, 0, products, all->count);
        for (int64_t r = 0; r < rows; r++) {
            sum_distances(all, first + r, products + r * all->count, sums);
            all->values[first + r] = silhouette_of(all, first + r, sums);
        }
    }
    esp_free(products);
    esp_free(sums);
}

/* The mean row, behind the centred ones. */
static void find_mean(const distances *all, double *sums)
{
    float *mean = all->centred + all->count * all->columns;

    for (int64_t i = 0; i < all->columns; i++)
        sums[i] = 0;
    for (int64_t row = 0; row < all->count; row++)
        for (int64_t i = 0; i < all->columns; i++)
            sums[i] += (double)all->rows[row * all->columns + i];
    for (int64_t i = 0; i < all->columns; i++)
        mean[i] = (float)(sums[i] / (double)all->count);
}

esp_status esp_silhouettes(const esp_compute *compute, const float *rows, int64_t count, int64_t columns,
                           const int32_t *labels, int64_t k, double *values, esp_error *err)
{
    int64_t tasks = (count + BLOCK_ROWS - 1) / BLOCK_ROWS;
    distances all = {.rows = rows,
                     .count = count,
                     .columns = columns,
                     .k = k,
                     .labels = labels,
                     .values = values,
                     .centred = esp_alloc((size_t)((count + 1) * columns), sizeof *all.centred),
                     .squares = esp_alloc((size_t)count, sizeof *all.squares),
                     .members = esp_alloc_zero((size_t)k, sizeof *all.members),
                     .statuses = esp_alloc_zero((size_t)tasks, sizeof *all.statuses)};
    double *sums = esp_alloc((size_t)columns, sizeof *sums);
    esp_status status = ESP_NO_MEMORY;

    if (!all.centred || !all.squares || !all.members || !all.statuses || !sums) {
        esp_fail_memory(err, "silhouettes", (size_t)((count + 1) * columns) * sizeof *all.centred);
        goto done;
    }
    for (int64_t row = 0; row < count; row++)
        all.members[labels[row]]++;
    find_mean(&all, sums);
    esp_blas_start();
    status = esp_compute_run(compute, tasks, centre_task, &all);
    if (status == ESP_OK)
        status = esp_compute_run(compute, tasks, silhouette_task, &all);
    if (status != ESP_OK)
        esp_fail(err, status, "silhouettes: cancelled");
    for (int64_t task = 0; status == ESP_OK && task < tasks; task++)
        if (all.statuses[task] != ESP_OK)
            status = esp_fail_memory(err, "silhouettes", (size_t)(BLOCK_ROWS * count) * sizeof *all.centred);

done:
    esp_free(all.centred);
    esp_free(all.squares);
    esp_free(all.members);
    esp_free(all.statuses);
    esp_free(sums);
    return status;
}

/* ---- the elbow ---- */

static const double ROUNDING = 1e-12; /* of a share: a straight line has no bend */

int64_t esp_elbow_of(const double *inertias, int64_t count, double *bend)
{
    double last = inertias[0], drop;
    int64_t best = 1;

    *bend = 0;
    for (int64_t i = 0; i < count; i++)
        last = inertias[i] < last ? inertias[i] : last;
    drop = inertias[0] - last;
    for (int64_t i = 1; drop > 0 && i < count - 1; i++) {
        /* a point that lies above an earlier one cannot win: it is nearer to the chord */
        double below = 1 - (double)i / (double)(count - 1) - (inertias[i] - last) / drop;
        if (below > *bend + ROUNDING) {
            *bend = below;
            best = i + 1;
        }
    }
    return best;
}

/* ---- one layer ---- */

esp_groups_options esp_groups_defaults(void)
{
    return (esp_groups_options){.most = 32, .restarts = 3};
}

/* What a suggestion's job of k groups is, with the plan's seed. */
static esp_kmeans_job elbow_job(const esp_preview *preview, int layer, const float *importance, int64_t k,
                                int restarts)
{
    const esp_layer *item = &preview->layers.items[layer];
    esp_kmeans_options options = esp_kmeans_defaults();

    options.k = k;
    options.restarts = restarts;
    options.max_iterations = preview->plan.max_iterations;
    options.init = preview->plan.init;
    options.seed = preview->plan.seed;
    return (esp_kmeans_job){importance, item->filters, item->channels, options};
}

static esp_status suggest(const esp_compute *compute, const esp_preview *preview,
                          const esp_groups_options *options, const float *importance, esp_layer_groups *out,
                          esp_error *err)
{
    int64_t filters = preview->layers.items[out->layer].filters;
    int64_t count = options->most < filters ? options->most : filters;
    esp_kmeans_job *jobs = esp_alloc((size_t)count, sizeof *jobs);
    esp_kmeans_result *results = esp_alloc_zero((size_t)count, sizeof *results);
    esp_status status = ESP_OK;

    out->curve = esp_alloc((size_t)count, sizeof *out->curve);
    if (!jobs || !results || !out->curve) {
        status = esp_fail_memory(err, "a suggestion", (size_t)count * sizeof *jobs);
        goto done;
    }
    for (int64_t k = 1; k <= count; k++)
        jobs[k - 1] = elbow_job(preview, out->layer, importance, k, options->restarts);
    status = esp_kmeans_batch(compute, jobs, (int)count, results, err);
    if (status != ESP_OK)
        goto done;
    for (int64_t i = 0; i < count; i++)
        out->curve[i] = results[i].inertia;
    out->curve_count = count;
    out->suggested = esp_elbow_of(out->curve, count, &out->bend);

done:
    for (int64_t i = 0; results && i < count; i++)
        esp_kmeans_free(&results[i]);
    esp_free(jobs);
    esp_free(results);
    return status;
}

/* The inertia of one cluster of all rows. */
static esp_status find_spread(const float *rows, int64_t count, int64_t columns, double *spread,
                              esp_error *err)
{
    double *mean = esp_alloc_zero((size_t)columns, sizeof *mean), sum = 0;

    if (!mean)
        return esp_fail_memory(err, "a mean", (size_t)columns * sizeof *mean);
    for (int64_t row = 0; row < count; row++)
        for (int64_t i = 0; i < columns; i++)
            mean[i] += (double)rows[row * columns + i] / (double)count;
    for (int64_t row = 0; row < count; row++)
        for (int64_t i = 0; i < columns; i++) {
            double difference = (double)rows[row * columns + i] - mean[i];
            sum += difference * difference;
        }
    esp_free(mean);
    *spread = sum;
    return ESP_OK;
}

static esp_status measure_clusters(const esp_compute *compute, const esp_preview *preview,
                                   const float *importance, esp_layer_groups *out, esp_error *err)
{
    const esp_layer *layer = &preview->layers.items[out->layer];
    const esp_grouping *grouping = &preview->items[out->layer].grouping;
    double *values = esp_alloc((size_t)layer->filters, sizeof *values), sum = 0;
    esp_status status = ESP_OK;

    out->k = grouping->k;
    out->inertia = grouping->inertia;
    out->clusters = esp_alloc_zero((size_t)grouping->k, sizeof *out->clusters);
    if (!values || !out->clusters)
        status = esp_fail_memory(err, "clusters", (size_t)layer->filters * sizeof *values);
    if (status == ESP_OK)
        status = find_spread(importance, layer->filters, layer->channels, &out->spread, err);
    if (status == ESP_OK)
        status = esp_silhouettes(compute, importance, layer->filters, layer->channels, grouping->labels,
                                 grouping->k, values, err);
    for (int64_t f = 0; status == ESP_OK && f < layer->filters; f++) {
        esp_cluster_figures *cluster = &out->clusters[grouping->labels[f]];
        cluster->filters++;
        cluster->silhouette += values[f];
        sum += values[f];
    }
    for (int64_t g = 0; status == ESP_OK && g < grouping->k; g++)
        if (out->clusters[g].filters)
            out->clusters[g].silhouette /= (double)out->clusters[g].filters;
    out->silhouette = sum / (double)layer->filters;
    esp_free(values);
    return status;
}

static esp_status measure_executed(const esp_preview *preview, esp_layer_groups *out, esp_error *err)
{
    const esp_preview_layer *item = &preview->items[out->layer];
    const esp_mask *mask = &item->mask;
    int32_t *groups = esp_alloc((size_t)mask->filters, sizeof *groups);

    if (!groups)
        return esp_fail_memory(err, "executed groups", (size_t)mask->filters * sizeof *groups);
    out->executed_count = esp_mask_executed_groups(mask, groups);
    out->executed = esp_alloc_zero((size_t)out->executed_count, sizeof *out->executed);
    if (!out->executed) {
        esp_free(groups);
        return esp_fail_memory(err, "executed groups", (size_t)out->executed_count * sizeof *out->executed);
    }
    for (int64_t f = 0; f < mask->filters; f++) {
        esp_executed_figures *group = &out->executed[groups[f]];
        if (group->filters++)
            continue;
        group->channels_kept = esp_mask_filter_kept(mask, f);
        group->density = (double)group->channels_kept / (double)mask->channels;
        group->cluster = item->grouping.labels[f];
    }
    out->density = (double)esp_mask_kept(mask) / (double)(mask->filters * mask->channels);
    esp_free(groups);
    return ESP_OK;
}

static esp_status measure_layer(const esp_compute *compute, const esp_preview *preview,
                                const esp_groups_options *options, esp_layer_groups *out, esp_error *err)
{
    float *importance = NULL;
    esp_status status = esp_preview_importance(preview, out->layer, &importance, err);

    if (status == ESP_OK)
        status = measure_clusters(compute, preview, importance, out, err);
    if (status == ESP_OK)
        status = measure_executed(preview, out, err);
    if (status == ESP_OK && options->suggests)
        status = suggest(compute, preview, options, importance, out, err);
    esp_free(importance);
    if (status != ESP_OK && status != ESP_CANCELLED)
        esp_error_prefix(err, "layer '%s'", preview->layers.items[out->layer].name);
    return status;
}

/* ---- all layers ---- */

static esp_status check_options(const esp_preview *preview, const esp_groups_options *options, esp_error *err)
{
    if (preview->plan.method != ESP_METHOD_SG)
        return esp_fail(err, ESP_INVALID, "groups: the plan's method is %s, expected %s",
                        esp_method_word(preview->plan.method), esp_method_word(ESP_METHOD_SG));
    if (options->most < 1 || options->most > 65536)
        return esp_fail(err, ESP_INVALID, "groups: largest k is %lld, expected 1 to 65536",
                        (long long)options->most);
    if (options->restarts < 1)
        return esp_fail(err, ESP_INVALID, "groups: %d restarts, expected at least 1", options->restarts);
    return ESP_OK;
}

static bool is_wanted(const esp_preview *preview, const esp_groups_options *options, int l)
{
    return preview->items[l].grouping.labels && (!options->only || options->only[l]);
}

static void report_progress(const esp_compute *compute, const char *name, int done, int total)
{
    esp_progress progress = {
        .stage = "groups", .done = done, .total = total, .unit = "layers", .eta_s = -1, .detail = name};

    esp_compute_report(compute, &progress);
}

esp_status esp_groups_report_new(const esp_compute *compute, const esp_preview *preview,
                                 const esp_groups_options *options, esp_groups_report *out, esp_error *err)
{
    esp_groups_report report = {0};
    int total = 0;
    esp_status status = check_options(preview, options, err);

    for (int l = 0; l < preview->layers.count; l++)
        total += is_wanted(preview, options, l);
    if (status == ESP_OK) {
        report.items = esp_alloc_zero((size_t)total, sizeof *report.items);
        status = report.items ? ESP_OK : esp_fail_memory(err, "groups", (size_t)total * sizeof *report.items);
    }
    for (int l = 0; status == ESP_OK && l < preview->layers.count; l++) {
        if (!is_wanted(preview, options, l))
            continue;
        report_progress(compute, preview->layers.items[l].name, report.count, total);
        report.items[report.count].layer = l;
        status = measure_layer(compute, preview, options, &report.items[report.count++], err);
    }
    if (status == ESP_OK)
        *out = report;
    else
        esp_groups_report_free(&report);
    return status;
}

void esp_groups_report_free(esp_groups_report *report)
{
    if (!report)
        return;
    for (int i = 0; i < report->count; i++) {
        esp_free(report->items[i].clusters);
        esp_free(report->items[i].executed);
        esp_free(report->items[i].curve);
    }
    esp_free(report->items);
    *report = (esp_groups_report){0};
}

esp_status esp_groups_suggest_rules(const esp_preview *preview, const esp_groups_report *report,
                                    esp_plan *plan, esp_error *err)
{
    esp_status status = ESP_OK;

    for (int i = 0; status == ESP_OK && i < report->count; i++)
        if (report->items[i].curve_count)
            status = esp_plan_add_rule(plan, preview->layers.items[report->items[i].layer].name, -1,
                                       (int)report->items[i].suggested, false, err);
    return status;
}

/* ---- JSON ---- */

static json_t *real_or_null(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

/* Appends; remembers failure. */
static void append(json_t *list, json_t *take_value, bool *is_whole)
{
    if (!take_value || json_array_append_new(list, take_value) != 0)
        *is_whole = false;
}

static json_t *clusters_to_json(const esp_layer_groups *item, bool *is_whole)
{
    json_t *list = json_array();

    for (int64_t g = 0; g < item->k; g++)
        append(list,
               json_pack("{s:I, s:o}", "filters", (json_int_t)item->clusters[g].filters, "silhouette",
                         real_or_null(item->clusters[g].silhouette)),
               is_whole);
    return list;
}

static json_t *executed_to_json(const esp_layer_groups *item, bool *is_whole)
{
    json_t *list = json_array();

    for (int64_t g = 0; g < item->executed_count; g++) {
        const esp_executed_figures *group = &item->executed[g];
        append(list,
               json_pack("{s:I, s:I, s:f, s:i}", "filters", (json_int_t)group->filters, "channels_kept",
                         (json_int_t)group->channels_kept, "density", group->density, "cluster",
                         (int)group->cluster),
               is_whole);
    }
    return list;
}

static json_t *curve_to_json(const esp_layer_groups *item, bool *is_whole)
{
    json_t *list = json_array();

    for (int64_t i = 0; i < item->curve_count; i++)
        append(list, json_real(item->curve[i]), is_whole);
    return list;
}

static json_t *layer_to_json(const esp_preview *preview, const esp_layer_groups *item, bool *is_whole)
{
    const esp_layer *layer = &preview->layers.items[item->layer];
    json_t *object =
        json_pack("{s:s, s:s, s:I, s:I, s:I, s:f, s:f, s:o, s:o, s:f, s:o, s:o}", "name", layer->name,
                  "weight", layer->weight_name, "filters", (json_int_t)layer->filters, "channels",
                  (json_int_t)layer->channels, "groups", (json_int_t)item->k, "inertia", item->inertia,
                  "spread", item->spread, "explained", real_or_null(1 - item->inertia / item->spread),
                  "silhouette", real_or_null(item->silhouette), "density", item->density, "clusters",
                  clusters_to_json(item, is_whole), "executed_groups", executed_to_json(item, is_whole));

    if (object && item->curve_count &&
        (json_object_set_new(object, "curve", curve_to_json(item, is_whole)) != 0 ||
         json_object_set_new(object, "suggested", json_integer((json_int_t)item->suggested)) != 0 ||
         json_object_set_new(object, "bend", json_real(item->bend)) != 0))
        *is_whole = false;
    return object;
}

esp_status esp_groups_report_to_json(const esp_preview *preview, const esp_groups_report *report,
                                     json_t **out, esp_error *err)
{
    json_t *layers = json_array(), *object = NULL;
    bool is_whole = layers != NULL;

    *out = NULL;
    for (int i = 0; i < report->count; i++)
        append(layers, layer_to_json(preview, &report->items[i], &is_whole), &is_whole);
    if (is_whole)
        object = json_pack("{s:O}", "layers", layers);
    json_decref(layers);
    if (!object)
        return esp_fail(err, ESP_INVALID, "groups: a layer's name is not valid UTF-8");
    *out = object;
    return ESP_OK;
}
