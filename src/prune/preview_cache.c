/* The cache keeps everything that costs a look at the weights. It belongs to one thread; what previews keep
 * after it is gone is in the subject, which never changes once made.
 *
 * Groupings accumulate while someone plays with k or the seed; past GROUPINGS_PER_LAYER for each layer they
 * are all dropped at once, which costs one slow preview in a long session. */
#include "prune/preview_internal.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "prune/selfgroup.h"

#define GROUPINGS_PER_LAYER 32

/* ---- subject ---- */

preview_subject *preview_subject_ref(preview_subject *subject)
{
    atomic_fetch_add(&subject->references, 1);
    return subject;
}

void preview_subject_unref(preview_subject *subject)
{
    if (!subject || atomic_fetch_sub(&subject->references, 1) > 1)
        return;
    for (int l = 0; subject->masks && l < subject->layers.count; l++)
        esp_mask_free(&subject->masks[l]);
    for (int i = 0; i < subject->shape_count; i++)
        esp_free((char *)(uintptr_t)subject->shapes[i].name);
    esp_free(subject->shapes);
    esp_free(subject->masks);
    esp_free(subject->is_stored);
    esp_free(subject->sharer);
    esp_layers_free(&subject->layers);
    esp_inferred_free(subject->inferred);
    esp_graph_unref(subject->graph);
    esp_free(subject);
}

static esp_status copy_shapes(preview_subject *subject, const esp_input_shape *shapes, int count,
                              esp_error *err)
{
    subject->shapes = esp_alloc_zero((size_t)count, sizeof *subject->shapes);
    if (!subject->shapes)
        return esp_fail_memory(err, "input shapes", (size_t)count * sizeof *subject->shapes);
    for (int i = 0; i < count; i++) {
        char *name = esp_strdup(shapes[i].name);
        if (!name)
            return esp_fail_memory(err, "input shapes", strlen(shapes[i].name) + 1);
        subject->shapes[subject->shape_count++] = (esp_input_shape){name, shapes[i].shape};
    }
    return ESP_OK;
}

static esp_status look_at_layers(preview_subject *subject, esp_error *err)
{
    const esp_layers *layers = &subject->layers;
    size_t count = (size_t)layers->count;
    esp_status status = ESP_OK;

    subject->masks = esp_alloc_zero(count, sizeof *subject->masks);
    subject->is_stored = esp_alloc_zero(count, sizeof *subject->is_stored);
    subject->sharer = esp_alloc_zero(count, sizeof *subject->sharer);
    if (!subject->masks || !subject->is_stored || !subject->sharer)
        return esp_fail_memory(err, "layers", count * sizeof *subject->masks);
    for (int l = 0; status == ESP_OK && l < layers->count; l++) {
        const esp_tensor *weight = esp_graph_value(subject->graph, layers->items[l].weight)->constant;
        subject->is_stored[l] = weight && esp_tensor_dtype(weight) == ESP_F32;
        subject->sharer[l] = -1;
        for (int other = 0; other < layers->count; other++)
            if (other != l && layers->items[other].weight == layers->items[l].weight)
                subject->sharer[l] = other;
        status = esp_mask_of_layer(subject->graph, &layers->items[l], &subject->masks[l], err);
    }
    return status;
}

esp_status preview_subject_new(const esp_graph *graph, const esp_input_shape *shapes, int shape_count,
                               preview_subject **out, esp_error *err)
{
    preview_subject *subject = esp_alloc_zero(1, sizeof *subject);
    esp_status status = ESP_OK;

    *out = NULL;
    if (!subject)
        return esp_fail_memory(err, "a preview", sizeof *subject);
    atomic_init(&subject->references, 1);
    subject->graph = esp_graph_ref(graph);
    status = copy_shapes(subject, shapes, shape_count, err);
    if (status == ESP_OK)
        status = esp_infer(graph, 1, shapes, shape_count, &subject->inferred, err);
    if (status == ESP_OK)
        status = esp_layers_list(graph, subject->inferred, &subject->layers, err);
    if (status == ESP_OK)
        status = esp_graph_count(graph, subject->inferred, &subject->whole, err);
    if (status == ESP_OK)
        status = look_at_layers(subject, err);
    if (status == ESP_OK)
        *out = subject;
    else
        preview_subject_unref(subject);
    return status;
}

/* ---- cache ---- */

static void drop_groupings(esp_grouping_cache *cache)
{
    for (int i = 0; i < cache->grouping_count; i++)
        esp_kmeans_free(&cache->groupings[i].result);
    cache->grouping_count = 0;
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
    esp_coupling_free(cache->coupling);
    preview_subject_unref(cache->subject);
    *cache = (esp_grouping_cache){0};
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
    esp_free(cache);
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
    const preview_subject *subject = cache->subject;
    esp_status status = ESP_OK;

    if (!cache->coupling)
        status = esp_coupling_new(subject->graph, subject->inferred, &subject->layers, &cache->coupling, err);
    *out = cache->coupling;
    return status;
}

/* ---- norms and importance: a task per layer ---- */

typedef struct layer_tasks {
    esp_grouping_cache *cache;
    const bool *is_wanted;
    esp_status *statuses;
    esp_error *errors;
} layer_tasks;

static esp_status run_layer_tasks(const esp_compute *compute, esp_grouping_cache *cache,
                                  const bool *is_wanted, esp_task_fn *task, esp_error *err)
{
    size_t count = (size_t)cache->subject->layers.count;
    layer_tasks tasks = {cache, is_wanted, NULL, NULL};
    esp_status status = ESP_OK;

    tasks.statuses = esp_alloc_zero(count, sizeof *tasks.statuses);
    tasks.errors = esp_alloc_zero(count, sizeof *tasks.errors);
    if (!tasks.statuses || !tasks.errors) {
        status = esp_fail_memory(err, "layers", count * sizeof *tasks.errors);
        goto done;
    }
    status = esp_compute_run(compute, (int64_t)count, task, &tasks);
    if (status != ESP_OK)
        esp_fail(err, status, "preview: cancelled");
    for (size_t l = 0; status == ESP_OK && l < count; l++) {
        status = tasks.statuses[l];
        if (status != ESP_OK && err)
            *err = tasks.errors[l];
    }

done:
    esp_free(tasks.statuses);
    esp_free(tasks.errors);
    return status;
}

static void norms_task(void *context, int64_t layer, int slot)
{
    layer_tasks *tasks = context;
    const preview_subject *subject = tasks->cache->subject;

    (void)slot;
    if (subject->is_stored[layer] && !tasks->cache->norms[layer].filters)
        tasks->statuses[layer] =
            esp_layer_l1_of(subject->graph, &subject->layers.items[layer], &subject->masks[layer],
                            &tasks->cache->norms[layer], &tasks->errors[layer]);
}

esp_status preview_cache_norms(esp_grouping_cache *cache, const esp_compute *compute,
                               const esp_layer_l1 **out, esp_error *err)
{
    esp_status status = ESP_OK;

    if (!cache->has_norms)
        status = run_layer_tasks(compute, cache, NULL, norms_task, err);
    cache->has_norms = status == ESP_OK;
    *out = cache->norms;
    return status;
}

esp_status preview_importance(const preview_subject *subject, int layer, float **out, esp_error *err)
{
    const esp_layer *item = &subject->layers.items[layer];
    int64_t count = item->filters * item->channels;
    esp_weight_rows rows;
    float *importance;
    esp_status status = ESP_OK;

    *out = NULL;
    status = esp_weight_rows_of(subject->graph, item, &rows, err);
    if (status != ESP_OK)
        return status;
    importance = esp_alloc((size_t)count, sizeof *importance);
    if (importance)
        esp_importance(rows.data, &subject->masks[layer], item->filters, item->channels, rows.positions,
                       importance);
    else
        status = esp_fail_memory(err, item->name, (size_t)count * sizeof *importance);
    for (int64_t i = 0; status == ESP_OK && i < count; i++)
        if (!isfinite(importance[i]))
            status = esp_fail(err, ESP_INVALID,
                              "layer '%s': filter %lld of weight '%s' has a value that is not finite",
                              item->name, (long long)(i / item->channels), item->weight_name);
    esp_weight_rows_free(&rows);
    if (status == ESP_OK)
        *out = importance;
    else
        esp_free(importance);
    return status;
}

static void importance_task(void *context, int64_t layer, int slot)
{
    layer_tasks *tasks = context;

    (void)slot;
    if (tasks->is_wanted[layer] && !tasks->cache->importance[layer])
        tasks->statuses[layer] = preview_importance(tasks->cache->subject, (int)layer,
                                                    &tasks->cache->importance[layer], &tasks->errors[layer]);
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
    esp_status status = run_layer_tasks(compute, cache, missing, importance_task, err);

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
