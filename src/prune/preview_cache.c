/* The cache keeps everything that costs a look at the weights. It belongs to one thread; what previews keep
 * after it is gone is in the subject, which never changes once made.
 *
 * Groupings accumulate while someone plays with k or the seed; past GROUPINGS_PER_LAYER for each layer they
 * are all dropped at once, which costs one slow preview in a long session. */
#include "prune/preview_internal.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "prune/counts.h"
#include "prune/selfgroup.h"

#define GROUPINGS_PER_LAYER 32

static void drop_groupings(esp_grouping_cache *cache)
{
    for (int i = 0; i < cache->grouping_count; i++)
        esp_kmeans_free(&cache->groupings[i].result);
    cache->grouping_count = 0;
}

static void free_scores(double **scores, int layers)
{
    for (int l = 0; scores && l < layers; l++)
        esp_free(scores[l]);
    esp_free(scores);
}

static void drop_scores(esp_grouping_cache *cache)
{
    for (int i = 0; i < cache->scores_count; i++)
        free_scores(cache->scores[i].scores, cache->subject->layers.count);
    cache->scores_count = 0;
}

/* Forgets the model. */
static void clear(esp_grouping_cache *cache)
{
    int layers = cache->subject ? cache->subject->layers.count : 0;

    drop_groupings(cache);
    esp_free(cache->groupings);
    for (int l = 0; l < layers; l++) {
        if (cache->norms)
            esp_layer_l1_free(&cache->norms[l]);
        if (cache->importance)
            esp_free(cache->importance[l]);
    }
    esp_free(cache->norms);
    esp_free(cache->importance);
    drop_scores(cache);
    preview_subject_unref(cache->subject);
    *cache = (esp_grouping_cache){.calibration = cache->calibration,
                                  .calibration_images = cache->calibration_images,
                                  .calibration_seed = cache->calibration_seed,
                                  .calibration_mean = cache->calibration_mean,
                                  .calibration_std = cache->calibration_std};
}

esp_status esp_grouping_cache_new(esp_grouping_cache **out, esp_error *err)
{
    *out = esp_alloc_zero(1, sizeof **out);
    return *out ? ESP_OK : esp_fail_memory(err, "a cache", sizeof **out);
}

void esp_grouping_cache_free(esp_grouping_cache *cache)
{
    if (!cache)
        return;
    clear(cache);
    esp_dataset_unref(cache->calibration);
    esp_free(cache->calibration_mean);
    esp_free(cache->calibration_std);
    esp_free(cache);
}

/* A copy of a text that may be NULL. */
static esp_status copy_text(const char *text, char **out, esp_error *err)
{
    *out = text ? esp_strdup(text) : NULL;
    return text && !*out ? esp_fail_memory(err, "a normalisation", strlen(text)) : ESP_OK;
}

esp_status esp_preview_calibrate_with(esp_grouping_cache *cache, const esp_criterion_data *data,
                                      esp_error *err)
{
    int64_t count = data->dataset ? esp_dataset_count(data->dataset) : 0;
    char *mean = NULL, *std = NULL;
    esp_status status;

    if (data->images < 0 || (data->dataset && data->images > count))
        return esp_fail(err, ESP_INVALID, "calibration: found %lld images, expected 0 (the default) to %lld",
                        (long long)data->images, (long long)count);
    status = copy_text(data->mean, &mean, err);
    if (status == ESP_OK)
        status = copy_text(data->std, &std, err);
    if (status != ESP_OK) {
        esp_free(mean);
        return status;
    }
    drop_scores(cache);
    esp_dataset_unref(cache->calibration);
    esp_free(cache->calibration_mean);
    esp_free(cache->calibration_std);
    cache->calibration = data->dataset ? esp_dataset_ref(data->dataset) : NULL;
    cache->calibration_images = data->images;
    cache->calibration_seed = data->seed;
    cache->calibration_mean = mean;
    cache->calibration_std = std;
    return ESP_OK;
}

esp_status esp_preview_calibrate(esp_grouping_cache *cache, const esp_dataset *calibration, int64_t images,
                                 uint64_t seed, esp_error *err)
{
    const esp_criterion_data data = {.dataset = calibration, .images = images, .seed = seed};

    return esp_preview_calibrate_with(cache, &data, err);
}

static bool is_about(const preview_subject *subject, const esp_graph *graph, const esp_input_shape *shapes,
                     int count)
{
    if (!subject || subject->graph != graph || subject->shape_count != count)
        return false;
    for (int i = 0; i < count; i++)
        if (strcmp(subject->shapes[i].name, shapes[i].name) != 0 ||
            !esp_shape_equal(&subject->shapes[i].shape, &shapes[i].shape))
            return false;
    return true;
}

esp_status preview_cache_use(esp_grouping_cache *cache, const esp_graph *graph, const esp_input_shape *shapes,
                             int shape_count, esp_error *err)
{
    size_t count;
    esp_status status = ESP_OK;

    if (is_about(cache->subject, graph, shapes, shape_count))
        return ESP_OK;
    clear(cache);
    status = preview_subject_new(graph, shapes, shape_count, &cache->subject, err);
    if (status != ESP_OK)
        return status;
    count = (size_t)cache->subject->layers.count;
    cache->norms = esp_alloc_zero(count, sizeof *cache->norms);
    cache->importance = esp_alloc_zero(count, sizeof *cache->importance);
    cache->grouping_capacity = (int)count * GROUPINGS_PER_LAYER;
    cache->groupings = esp_alloc_zero((size_t)cache->grouping_capacity, sizeof *cache->groupings);
    if (cache->norms && cache->importance && cache->groupings)
        return ESP_OK;
    clear(cache);
    return esp_fail_memory(err, "a cache", count * GROUPINGS_PER_LAYER * sizeof *cache->groupings);
}

esp_status preview_cache_coupling(esp_grouping_cache *cache, const esp_coupling **out, esp_error *err)
{
    esp_status status = preview_subject_couple(cache->subject, err);

    *out = cache->subject->coupling;
    return status;
}

esp_status preview_cache_before(esp_grouping_cache *cache, const esp_compute *compute, esp_counts *out,
                                esp_error *err)
{
    const preview_subject *subject = cache->subject;
    const esp_coupling *coupling;
    esp_status status = preview_cache_coupling(cache, &coupling, err);

    if (status == ESP_OK && !cache->has_before)
        status = esp_subject_count(compute, subject, &cache->before, err);
    cache->has_before = cache->has_before || status == ESP_OK;
    *out = cache->before;
    return status;
}

/* ---- norms ---- */

esp_status preview_cache_norms(esp_grouping_cache *cache, const esp_compute *compute,
                               const esp_layer_l1 **out, esp_error *err)
{
    const preview_subject *subject = cache->subject;
    esp_status status = ESP_OK;

    if (!cache->has_norms)
        status = esp_layers_l1(compute, subject->graph, &subject->layers, subject->masks, subject->is_stored,
                               cache->norms, err);
    cache->has_norms = status == ESP_OK;
    *out = cache->norms;
    return status;
}

/* ---- scores of criteria ---- */

static const cached_scores *find_scores(const esp_grouping_cache *cache, const esp_plan *plan)
{
    for (int i = 0; i < cache->scores_count; i++)
        if (strcmp(cache->scores[i].criterion, plan->criterion) == 0 && cache->scores[i].seed == plan->seed)
            return &cache->scores[i];
    return NULL;
}

/* A ranking has no place for what is not a number. */
static esp_status check_scores(const preview_subject *subject, const char *criterion, double *const *scores,
                               esp_error *err)
{
    for (int l = 0; l < subject->layers.count; l++) {
        const esp_layer *layer = &subject->layers.items[l];
        for (int64_t f = 0; scores[l] && f < layer->filters; f++)
            if (!isfinite(scores[l][f]))
                return esp_fail(err, ESP_INVALID,
                                "layer '%s': criterion '%s' gives filter %lld of weight '%s' a score that is "
                                "not finite",
                                layer->name, criterion, (long long)f, layer->weight_name);
    }
    return ESP_OK;
}

static esp_status fill_scores(const esp_grouping_cache *cache, const esp_compute *compute,
                              const esp_plan *plan, double **scores, esp_error *err)
{
    const preview_subject *subject = cache->subject;
    const esp_criterion *criterion;
    esp_criterion_data data = {.dataset = cache->calibration,
                               .images = cache->calibration_images,
                               .seed = cache->calibration_seed,
                               .mean = cache->calibration_mean,
                               .std = cache->calibration_std};
    esp_status status = esp_criterion_find(plan->criterion, &criterion, err);

    if (status == ESP_OK)
        status = esp_saliency_all(compute, subject->graph, &subject->layers, criterion,
                                  cache->calibration ? &data : NULL, plan->seed, scores, err);
    if (status == ESP_OK)
        status = check_scores(subject, plan->criterion, scores, err);
    return status;
}

esp_status preview_cache_scores(esp_grouping_cache *cache, const esp_compute *compute, const esp_plan *plan,
                                double *const **out, esp_error *err)
{
    size_t count = (size_t)cache->subject->layers.count;
    const cached_scores *known = find_scores(cache, plan);
    cached_scores fresh = {.seed = plan->seed};
    esp_status status;

    *out = known ? known->scores : NULL;
    if (known)
        return ESP_OK;
    memcpy(fresh.criterion, plan->criterion, sizeof fresh.criterion);
    fresh.scores = esp_alloc_zero(count, sizeof *fresh.scores);
    if (!fresh.scores)
        return esp_fail_memory(err, "scores", count * sizeof *fresh.scores);
    status = fill_scores(cache, compute, plan, fresh.scores, err);
    if (status != ESP_OK) {
        free_scores(fresh.scores, cache->subject->layers.count);
        return status;
    }
    if (cache->scores_count == PREVIEW_CACHED_SCORES)
        drop_scores(cache);
    cache->scores[cache->scores_count++] = fresh;
    *out = fresh.scores;
    return ESP_OK;
}

/* ---- importance: blocks of filters over the pool ---- */

enum { IMPORTANCE_ELEMENTS = 1 << 19 }; /* weights of a task, at least */

typedef struct importance_run {
    const preview_subject *subject;
    esp_weight_rows *rows; /* per layer; data NULL where nothing is wanted */
    float **importance;    /* per layer */
    int64_t *ends;         /* tasks up to and with each layer */
    atomic_bool *is_wrong; /* per layer: not all finite */
} importance_run;

static int64_t block_filters(const esp_layer *layer)
{
    int64_t elements = esp_layer_weight_elements(layer) / (layer->filters ? layer->filters : 1);

    return elements ? 1 + IMPORTANCE_ELEMENTS / elements : layer->filters + 1;
}

static void importance_task(void *context, int64_t task, int slot)
{
    const importance_run *run = context;
    int l = 0;

    (void)slot;
    while (task >= run->ends[l])
        l++;
    const esp_layer *layer = &run->subject->layers.items[l];
    const esp_mask *mask = &run->subject->masks[l];
    int64_t block = block_filters(layer), first = (task - (l ? run->ends[l - 1] : 0)) * block;
    int64_t filters = layer->filters - first < block ? layer->filters - first : block;
    float *importance = run->importance[l] + first * layer->channels;
    esp_mask part = {filters, layer->channels, mask->row_words, mask->words + first * mask->row_words};

    esp_importance(run->rows[l].data + first * layer->channels * run->rows[l].positions, &part, filters,
                   layer->channels, run->rows[l].positions, importance);
    if (!isfinite(esp_magnitude_sum(filters * layer->channels, importance)))
        atomic_store(&run->is_wrong[l], true);
}

static esp_status refuse_importance(const esp_layer *layer, const float *importance, esp_error *err)
{
    int64_t i = 0;

    while (isfinite(importance[i]))
        i++;
    return esp_fail(err, ESP_INVALID, "layer '%s': filter %lld of weight '%s' has a value that is not finite",
                    layer->name, (long long)(i / layer->channels), layer->weight_name);
}

/* Makes room for a layer's importance and lists its tasks. */
static esp_status importance_start(importance_run *run, int l, int64_t *tasks, esp_error *err)
{
    const esp_layer *layer = &run->subject->layers.items[l];
    size_t elements = (size_t)(layer->filters * layer->channels);
    esp_status status = esp_weight_rows_of(run->subject->graph, layer, &run->rows[l], err);

    if (status != ESP_OK)
        return status;
    run->importance[l] = esp_alloc(elements, sizeof **run->importance);
    if (!run->importance[l])
        return esp_fail_memory(err, layer->name, elements * sizeof **run->importance);
    *tasks += (layer->filters + block_filters(layer) - 1) / block_filters(layer);
    return ESP_OK;
}

/* importance[l] of the layers with is_wanted that have none yet; on failure those stay without. */
static esp_status fill_importance(const esp_compute *compute, const preview_subject *subject,
                                  const bool *is_wanted, float **importance, esp_error *err)
{
    size_t count = (size_t)subject->layers.count;
    importance_run run = {.subject = subject,
                          .rows = esp_alloc_zero(count, sizeof *run.rows),
                          .importance = esp_alloc_zero(count, sizeof *run.importance),
                          .ends = esp_alloc_zero(count, sizeof *run.ends),
                          .is_wrong = esp_alloc_zero(count, sizeof *run.is_wrong)};
    int64_t tasks = 0;
    esp_status status = ESP_OK;

    if (!run.rows || !run.importance || !run.ends || !run.is_wrong)
        status = esp_fail_memory(err, "layers", count * sizeof *run.rows);
    for (size_t l = 0; status == ESP_OK && l < count; l++) {
        if (is_wanted[l] && !importance[l])
            status = importance_start(&run, (int)l, &tasks, err);
        run.ends[l] = tasks;
    }
    if (status == ESP_OK && esp_compute_run(compute, tasks, importance_task, &run) != ESP_OK)
        status = esp_fail(err, ESP_CANCELLED, "preview: cancelled");
    for (size_t l = 0; status == ESP_OK && l < count; l++)
        if (run.is_wrong[l])
            status = refuse_importance(&subject->layers.items[l], run.importance[l], err);
    for (size_t l = 0; run.importance && l < count; l++) {
        if (status != ESP_OK)
            esp_free(run.importance[l]);
        else if (run.importance[l])
            importance[l] = run.importance[l];
    }
    for (size_t l = 0; run.rows && l < count; l++)
        esp_weight_rows_free(&run.rows[l]);
    esp_free(run.rows);
    esp_free(run.importance);
    esp_free(run.ends);
    esp_free(run.is_wrong);
    return status;
}

esp_status preview_importance(const preview_subject *subject, int layer, float **out, esp_error *err)
{
    size_t count = (size_t)subject->layers.count;
    bool *is_wanted = esp_alloc_zero(count, sizeof *is_wanted);
    float **importance = esp_alloc_zero(count, sizeof *importance);
    esp_status status = ESP_OK;

    *out = NULL;
    if (!is_wanted || !importance) {
        status = esp_fail_memory(err, "layers", count * sizeof *importance);
        goto done;
    }
    is_wanted[layer] = true;
    status = fill_importance(NULL, subject, is_wanted, importance, err);
    if (status == ESP_OK)
        *out = importance[layer];

done:
    esp_free(is_wanted);
    esp_free(importance);
    return status;
}

/* ---- groupings ---- */

static bool same_options(const esp_kmeans_options *a, const esp_kmeans_options *b)
{
    return a->k == b->k && a->restarts == b->restarts && a->max_iterations == b->max_iterations &&
           a->tolerance == b->tolerance && a->init == b->init && a->seed == b->seed;
}

const esp_kmeans_result *preview_cache_grouping(const esp_grouping_cache *cache, int layer,
                                                const esp_kmeans_options *options)
{
    for (int i = 0; i < cache->grouping_count; i++)
        if (cache->groupings[i].layer == layer && same_options(&cache->groupings[i].options, options))
            return &cache->groupings[i].result;
    return NULL;
}

/* missing[layer] and how many there are. */
static int find_missing(const esp_grouping_cache *cache, const bool *is_wanted,
                        const esp_kmeans_options *options, bool *missing)
{
    int count = 0;

    for (int l = 0; l < cache->subject->layers.count; l++) {
        missing[l] = is_wanted[l] && !preview_cache_grouping(cache, l, &options[l]);
        count += missing[l];
    }
    return count;
}

/* jobs and results have room for `count`. */
static esp_status cluster_missing(esp_grouping_cache *cache, const esp_compute *compute, const bool *missing,
                                  const esp_kmeans_options *options, esp_kmeans_job *jobs,
                                  esp_kmeans_result *results, esp_error *err)
{
    int count = 0, next = 0;
    esp_status status = fill_importance(compute, cache->subject, missing, cache->importance, err);

    if (status != ESP_OK)
        return status;
    for (int l = 0; l < cache->subject->layers.count; l++) {
        const esp_layer *layer = &cache->subject->layers.items[l];
        if (missing[l])
            jobs[count++] =
                (esp_kmeans_job){cache->importance[l], layer->filters, layer->channels, options[l]};
    }
    status = esp_kmeans_batch(compute, jobs, count, results, err);
    for (int l = 0; status == ESP_OK && l < cache->subject->layers.count; l++)
        if (missing[l])
            cache->groupings[cache->grouping_count++] = (cached_grouping){l, options[l], results[next++]};
    return status;
}

esp_status preview_cache_cluster(esp_grouping_cache *cache, const esp_compute *compute, const bool *is_wanted,
                                 const esp_kmeans_options *options, esp_error *err)
{
    size_t layers = (size_t)cache->subject->layers.count;
    bool *missing = esp_alloc_zero(layers, sizeof *missing);
    esp_kmeans_job *jobs = esp_alloc_zero(layers, sizeof *jobs);
    esp_kmeans_result *results = esp_alloc_zero(layers, sizeof *results);
    esp_status status = ESP_OK;

    if (!missing || !jobs || !results) {
        status = esp_fail_memory(err, "groupings", layers * sizeof *results);
        goto done;
    }
    int count = find_missing(cache, is_wanted, options, missing);
    if (cache->grouping_count + count > cache->grouping_capacity) {
        drop_groupings(cache);
        count = find_missing(cache, is_wanted, options, missing);
    }
    if (count)
        status = cluster_missing(cache, compute, missing, options, jobs, results, err);

done:
    esp_free(missing);
    esp_free(jobs);
    esp_free(results);
    return status;
}
