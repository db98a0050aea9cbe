/* Criteria score the filters of one layer from its canonical weight [filters, channels, positions] with masks
 * applied. Sums run in double in stored order, so equal filters get equal scores to the last bit and ties
 * stay ties. */
#include "prune/criteria.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "base/unknown.h"
#include "graph/op.h"
#include "prune/criteria_data.h"
#include "prune/row_products.h"
#include "prune/weights.h"
#include "tensor/blas.h"
#include "tensor/simd.h"

/* What a task of the norms reads, at least. */
enum { NORM_ELEMENTS = 1 << 18 };

static int64_t filter_elements(const esp_layer *layer)
{
    return layer->channels * layer->kernel_h * layer->kernel_w;
}

/* ---- norms: blocks of filters over the pool ---- */

typedef struct norm_run {
    const float *weight;
    int64_t filters, length, block; /* filters of a task */
    double (*norm)(int64_t count, const float *values);
    double *scores;
} norm_run;

static void norm_task(void *context, int64_t task, int slot)
{
    const norm_run *run = context;
    int64_t end = (task + 1) * run->block;

    (void)slot;
    for (int64_t f = task * run->block; f < run->filters && f < end; f++)
        run->scores[f] = run->norm(run->length, run->weight + f * run->length);
}

static esp_status score_norms(const esp_criterion_context *context,
                              double (*norm)(int64_t count, const float *values), double *scores,
                              esp_error *err)
{
    norm_run run = {context->weight, context->layer->filters, filter_elements(context->layer), 1, norm,
                    scores};

    while (run.block * run.length < NORM_ELEMENTS)
        run.block *= 2;
    if (esp_compute_run(context->compute, (run.filters + run.block - 1) / run.block, norm_task, &run) !=
        ESP_OK)
        return esp_fail(err, ESP_CANCELLED, "layer '%s': cancelled", context->layer->name);
    return ESP_OK;
}

static esp_status score_l1(const esp_criterion_context *context, double *scores, esp_error *err)
{
    return score_norms(context, esp_magnitude_sum, scores, err);
}

static double root_of_squares(int64_t count, const float *values)
{
    return sqrt(esp_square_sum(count, values));
}

static esp_status score_l2(const esp_criterion_context *context, double *scores, esp_error *err)
{
    return score_norms(context, root_of_squares, scores, err);
}

/* ---- */

/* A batch-norm is the operator that has running statistics; its scale is its first trainable input. */
static int scale_value(const esp_node *node)
{
    if (!node->op->running || !node->op->trainable)
        return -1;
    int input = __builtin_ctz(node->op->trainable);
    return input < node->input_count ? node->inputs[input] : -1;
}

static esp_status score_bn_scale(const esp_criterion_context *context, double *scores, esp_error *err)
{
    const esp_graph *graph = context->graph;
    int output = esp_graph_node(graph, context->layer->node)->outputs[0];

    for (int i = 0; i < esp_graph_consumer_count(graph, output); i++) {
        int value = scale_value(esp_graph_node(graph, esp_graph_consumer(graph, output, i)));
        const esp_tensor *scale = value >= 0 ? esp_graph_value(graph, value)->constant : NULL;
        if (!scale || esp_tensor_elements(scale) != context->layer->filters)
            continue;
        for (int64_t f = 0; f < context->layer->filters; f++)
            scores[f] = fabs(esp_tensor_get_f64(scale, f));
        return ESP_OK;
    }
    esp_fail(err, ESP_UNSUPPORTED,
             "layer '%s': criterion 'bn-scale' needs a batch-norm behind the layer, there is none",
             context->layer->name);
    esp_error_set_hint(err, "networks with folded batch-norm have none left; 'l1' works on any layer");
    return ESP_UNSUPPORTED;
}

/* ---- distances between filters ---- */

typedef struct distance_run {
    const esp_row_products *products;
    double *scores;
} distance_run;

/* Sum over g of the roots of |x_f|^2 + |x_g|^2 - 2 x_f.x_g. Equal rows have equal products, so their distance
 * is 0. */
ESP_SIMD_CLONES static double sum_distances(int64_t count, const float *row, float square,
                                            const float *squares)
{
    double parts[ESP_LANES] = {0}, sum = 0;

    for (int64_t first = 0; first < count; first += ESP_LANES)
        for (int lane = 0; lane < ESP_LANES; lane++) {
            float distance = square + squares[first + lane] - 2 * row[first + lane];
            /* behind the last row everything is 0 */
            distance = first + lane < count && !(distance < 0) ? distance : 0;
            parts[lane] += (double)sqrtf(distance);
        }
    for (int lane = 0; lane < ESP_LANES; lane++)
        sum += parts[lane];
    return sum;
}

/* Filters of a task; and most filters whose products of all pairs are kept: 256 MB of them. */
enum { DISTANCE_ROWS = 64, MOST_PAIRED = 8192 };

static void distance_task(void *context, int64_t task, int slot)
{
    const distance_run *run = context;
    const esp_row_products *products = run->products;
    const float *squares = products->values + products->count * products->stride;
    int64_t end = (task + 1) * DISTANCE_ROWS;

    (void)slot;
    for (int64_t f = task * DISTANCE_ROWS; f < end && f < products->count; f++)
        run->scores[f] =
            sum_distances(products->count, products->values + f * products->stride, squares[f], squares);
}

static esp_status score_by_products(const esp_criterion_context *context, double *scores)
{
    int64_t count = context->layer->filters;
    esp_row_products products = {.rows = context->weight,
                                 .count = count,
                                 .columns = filter_elements(context->layer),
                                 .scale = 1,
                                 .stride = esp_row_products_stride(count)};
    distance_run run = {&products, scores};
    esp_status status = ESP_NO_MEMORY;

    /* and a row for the squares */
    products.values = esp_alloc_zero((size_t)((count + 1) * products.stride), sizeof *products.values);
    if (products.values)
        status = esp_row_products_fill(context->compute, &products, 1);
    for (int64_t f = 0; status == ESP_OK && f < count; f++)
        products.values[count * products.stride + f] = products.values[f * products.stride + f];
    if (status == ESP_OK)
        status = esp_compute_run(context->compute, (count + DISTANCE_ROWS - 1) / DISTANCE_ROWS, distance_task,
                                 &run);
    esp_free(products.values);
    return status;
}

/* For more filters than all pairs of them have room: DISTANCE_ROWS against all at a time. */
static esp_status score_in_blocks(const esp_criterion_context *context, double *scores)
{
    int64_t count = context->layer->filters, length = filter_elements(context->layer);
    float *products = esp_alloc((size_t)(DISTANCE_ROWS * count), sizeof *products);
    double *squares = esp_alloc((size_t)count, sizeof *squares);
    esp_status status = products && squares ? ESP_OK : ESP_NO_MEMORY;

    for (int64_t f = 0; status == ESP_OK && f < count; f++)
        squares[f] = esp_square_sum(length, context->weight + f * length);
    for (int64_t first = 0; status == ESP_OK && first < count; first += DISTANCE_ROWS) {
        int64_t block = count - first < DISTANCE_ROWS ? count - first : DISTANCE_ROWS;
        status =
            esp_gemm(context->compute, false, true, block, count, length, 1, context->weight + first * length,
                     length, context->weight, length, 0, products, count);
        for (int64_t f = 0; status == ESP_OK && f < block; f++) {
            scores[first + f] = 0;
            for (int64_t g = 0; g < count; g++) {
                double square = squares[first + f] + squares[g] - 2 * (double)products[f * count + g];
                scores[first + f] += g == first + f || square < 0 ? 0 : sqrt(square);
            }
        }
    }
    esp_free(products);
    esp_free(squares);
    return status;
}

/* score[f] = sum over g of |W_f - W_g| */
static esp_status score_fpgm(const esp_criterion_context *context, double *scores, esp_error *err)
{
    int64_t count = context->layer->filters;
    esp_status status =
        count <= MOST_PAIRED ? score_by_products(context, scores) : score_in_blocks(context, scores);

    if (status == ESP_CANCELLED)
        return esp_fail(err, ESP_CANCELLED, "layer '%s': cancelled", context->layer->name);
    return status == ESP_OK
               ? ESP_OK
               : esp_fail_memory(err, "distances between filters", (size_t)(count * count) * sizeof(float));
}

/* ---- layer-adaptive magnitude ---- */

static int compare_squares(const void *a, const void *b)
{
    double first = *(const double *)a, second = *(const double *)b;

    return (first > second) - (first < second);
}

/* The paper orders weights by magnitude and divides each square by the sum of the squares from it on. Here a
 * filter's squares are one term, and filters of equal sums share a denominator with all of them, so that ties
 * stay ties. */
static esp_status score_lamp(const esp_criterion_context *context, double *scores, esp_error *err)
{
    size_t count = (size_t)context->layer->filters;
    double *sorted = esp_alloc(count, sizeof *sorted), *sums = esp_alloc(count + 1, sizeof *sums);
    esp_status status = score_norms(context, esp_square_sum, scores, err);

    if (status == ESP_OK && (!sorted || !sums))
        status = esp_fail_memory(err, "sums of squares", count * sizeof *sorted);
    if (status == ESP_OK) {
        memcpy(sorted, scores, count * sizeof *sorted);
        qsort(sorted, count, sizeof *sorted, compare_squares);
        sums[count] = 0;
        for (size_t i = count; i-- > 0;)
            sums[i] = sums[i + 1] + sorted[i];
        for (size_t f = 0; f < count; f++) {
            size_t low = 0, high = count; /* to the first that is not below */
            while (low < high) {
                size_t middle = (low + high) / 2;
                if (sorted[middle] < scores[f])
                    low = middle + 1;
                else
                    high = middle;
            }
            scores[f] = scores[f] > 0 ? scores[f] / sums[low] : 0;
        }
    }
    esp_free(sorted);
    esp_free(sums);
    return status;
}

static esp_status score_random(const esp_criterion_context *context, double *scores, esp_error *err)
{
    esp_rng rng;

    (void)err;
    esp_rng_seed_stream(&rng, context->seed, (uint64_t)context->layer->node);
    for (int64_t f = 0; f < context->layer->filters; f++)
        scores[f] = esp_rng_uniform(&rng);
    return ESP_OK;
}

/* ---- the table ---- */

static const esp_criterion criteria[] = {
#define ESP_CRITERION(function, measure, compares, name, title, source, definition)                          \
    {name, title, source, definition, function, measure, compares},
#include "prune/criteria.def"
#undef ESP_CRITERION
};

int esp_criterion_count(void)
{
    return (int)(sizeof criteria / sizeof *criteria);
}

const esp_criterion *esp_criterion_at(int index)
{
    return &criteria[index];
}

esp_status esp_criterion_find(const char *name, const esp_criterion **out, esp_error *err)
{
    const char *names[sizeof criteria / sizeof *criteria];

    *out = NULL;
    for (int i = 0; i < esp_criterion_count(); i++) {
        names[i] = criteria[i].name;
        if (strcmp(criteria[i].name, name) == 0) {
            *out = &criteria[i];
            return ESP_OK;
        }
    }
    return esp_fail_unknown(err, "criterion", name, names, (size_t)esp_criterion_count());
}

bool esp_criterion_needs_data(const esp_criterion *criterion)
{
    return criterion->measure != ESP_MEASURE_NOTHING;
}

static esp_status fail_without_data(const esp_criterion *criterion, esp_error *err)
{
    esp_fail(err, ESP_INVALID, "criterion '%s' looks at data, found no data set", criterion->name);
    esp_error_set_hint(err, "give it images (--data SPEC, or data = in Lua); 'l1' needs none");
    return ESP_INVALID;
}

esp_status esp_saliency(const esp_compute *compute, const esp_graph *graph, const esp_layer *layer,
                        const esp_criterion *criterion, uint64_t seed, double *scores, esp_error *err)
{
    esp_weight_rows rows;
    esp_status status = ESP_OK;

    if (esp_criterion_needs_data(criterion))
        return fail_without_data(criterion, err);
    /* Masks a model carries are zeros in its weights: nothing more to apply. */
    status = esp_weight_rows_of(graph, layer, &rows, err);
    if (status != ESP_OK)
        return status;
    esp_criterion_context context = {compute, graph, layer, rows.data, seed};
    status = criterion->score(&context, scores, err);
    esp_weight_rows_free(&rows);
    return status;
}

/* ---- all layers ---- */

static esp_status score_layers(const esp_compute *compute, const esp_graph *graph, const esp_layers *layers,
                               const esp_criterion *criterion, uint64_t seed, double **scores, esp_error *err)
{
    esp_status status = ESP_OK;

    for (int l = 0; status == ESP_OK && l < layers->count; l++) {
        const esp_layer *layer = &layers->items[l];
        esp_error why = {0};
        scores[l] = esp_alloc((size_t)layer->filters, sizeof **scores);
        if (!scores[l])
            return esp_fail_memory(err, "saliency", (size_t)layer->filters * sizeof **scores);
        status = esp_saliency(compute, graph, layer, criterion, seed, scores[l], &why);
        if (status == ESP_OK)
            continue;
        if (status == ESP_UNSUPPORTED) { /* says nothing of this layer */
            esp_free(scores[l]);
            scores[l] = NULL;
            status = ESP_OK;
        } else if (err) {
            *err = why;
        }
    }
    return status;
}

static bool says_nothing(const esp_layers *layers, double *const *scores)
{
    for (int l = 0; l < layers->count; l++)
        if (scores[l])
            return false;
    return layers->count > 0;
}

static esp_status fail_everywhere(const esp_criterion *criterion, esp_error *err)
{
    esp_fail(err, ESP_UNSUPPORTED, "criterion '%s' says nothing of any layer of this model (it is: %s)",
             criterion->name, criterion->definition);
    esp_error_set_hint(err, "'l1' works on any layer");
    return ESP_UNSUPPORTED;
}

esp_status esp_saliency_all(const esp_compute *compute, const esp_graph *graph, const esp_layers *layers,
                            const esp_criterion *criterion, const esp_criterion_data *data, uint64_t seed,
                            double **scores, esp_error *err)
{
    double **found;
    esp_status status;

    if (esp_criterion_needs_data(criterion) && (!data || !data->dataset))
        return fail_without_data(criterion, err);
    found = esp_alloc_zero((size_t)layers->count, sizeof *found);
    if (!found)
        return esp_fail_memory(err, "saliency", (size_t)layers->count * sizeof *found);
    status = esp_criterion_needs_data(criterion)
                 ? esp_measure_saliency(compute, graph, layers, criterion->measure, data, found, err)
                 : score_layers(compute, graph, layers, criterion, seed, found, err);
    if (status == ESP_OK && says_nothing(layers, found))
        status = fail_everywhere(criterion, err);
    for (int l = 0; l < layers->count; l++) {
        if (status == ESP_OK)
            scores[l] = found[l];
        else
            esp_free(found[l]);
    }
    esp_free(found);
    return status;
}

/* ---- percentile ---- */

static void swap(double *a, double *b)
{
    double kept = *a;

    *a = *b;
    *b = kept;
}

static double median_of_three(double a, double b, double c)
{
    if (a > b)
        swap(&a, &b);
    if (b > c)
        b = c;
    return a > b ? a : b;
}

/* Moves the values below `limit` (or up to it) of [low, high) to its front, whatever they are without a jump
 * that the processor could guess wrong; returns where the others begin. */
static int64_t part_below(double *values, int64_t low, int64_t high, double limit, bool takes_equal)
{
    int64_t next = low;

    for (int64_t i = low; i < high; i++) {
        double value = values[i];
        values[i] = values[next];
        values[next] = value;
        next += takes_equal ? value <= limit : value < limit;
    }
    return next;
}

/* Quickselect with three parts (masked entries make long runs of equal zeros): afterwards values[rank] is the
 * one a sort would put there, nothing before it is larger and nothing behind it smaller. */
static void select_rank(double *values, int64_t count, int64_t rank)
{
    int64_t low = 0, high = count; /* the rank lies in [low, high) */

    while (high - low > 1) {
        double pivot = median_of_three(values[low], values[low + (high - low) / 2], values[high - 1]);
        int64_t less = part_below(values, low, high, pivot, false);
        if (rank < less) {
            high = less;
            continue;
        }
        low = part_below(values, less, high, pivot, true);
        if (rank < low || low == less) /* the latter: the pivot is not a number */
            return;
    }
}

double esp_percent_of(double ratio)
{
    return round(ratio * 1e11) / 1e9;
}

/* Where percentile p of `count` values lies, counted from 0. */
static double percentile_place(int64_t count, double p)
{
    return (double)(count - 1) * (p / 100);
}

/* The same of a decimal ratio, whose nearest double and the product with it are off by a few units in the
 * last place. */
static double ratio_place(int64_t count, double ratio)
{
    double place = (double)(count - 1) * ratio, whole = round(place);

    return fabs(place - whole) <= 4 * DBL_EPSILON * (double)count ? whole : place;
}

/* Behind which of `count` sorted values a place lies, and how far on the way to the next. */
static double part_place(int64_t count, double position, int64_t *below)
{
    *below = (int64_t)floor(position);
    *below = *below < 0 ? 0 : *below > count - 1 ? count - 1 : *below;
    return position - (double)*below;
}

/* NumPy's interpolation to the last bit: it counts from the nearer neighbour. */
static double interpolate(double low, double high, double share)
{
    return share >= 0.5 ? high - (high - low) * (1 - share) : low + (high - low) * share;
}

static double value_at(double *values, int64_t count, double place)
{
    int64_t below;
    double share = part_place(count, place, &below), high;

    select_rank(values, count, below);
    if (below == count - 1)
        return values[below];
    high = values[below + 1];
    for (int64_t i = below + 2; i < count; i++)
        high = values[i] < high ? values[i] : high;
    return interpolate(values[below], high, share);
}

double esp_percentile(double *values, int64_t count, double p)
{
    return value_at(values, count, percentile_place(count, p));
}

double esp_ratio_threshold(double *values, int64_t count, double ratio)
{
    return value_at(values, count, ratio_place(count, ratio));
}

/* As part_below. */
static int64_t part_items_below(esp_repeated *items, int64_t low, int64_t high, double limit,
                                bool takes_equal)
{
    int64_t next = low;

    for (int64_t i = low; i < high; i++) {
        esp_repeated item = items[i];
        items[i] = items[next];
        items[next] = item;
        next += takes_equal ? item.value <= limit : item.value < limit;
    }
    return next;
}

static int64_t count_times(const esp_repeated *items, int64_t low, int64_t high)
{
    int64_t times = 0;

    for (int64_t i = low; i < high; i++)
        times += items[i].times;
    return times;
}

/* The values at `rank` and the next one of the expanded list, as select_rank finds them. */
static void select_repeated(esp_repeated *items, int64_t count, int64_t rank, double *value, double *next)
{
    int64_t low = 0, high = count, before = 0; /* `before` values lie below items[low] */

    for (;;) {
        double pivot =
            median_of_three(items[low].value, items[low + (high - low) / 2].value, items[high - 1].value);
        int64_t less = part_items_below(items, low, high, pivot, false);
        int64_t times = count_times(items, low, less);
        if (rank < before + times) {
            high = less;
            continue;
        }
        before += times;
        low = part_items_below(items, less, high, pivot, true);
        before += count_times(items, less, low);
        *value = *next = pivot;
        if (rank < before || low == less || low == high)
            break;
    }
    if (rank + 1 < before)
        return;
    *next = INFINITY;
    for (int64_t i = low; i < count; i++)
        if (items[i].times && items[i].value < *next)
            *next = items[i].value;
}

static double repeated_at(esp_repeated *items, int64_t count, int64_t total, double place)
{
    int64_t below;
    double share = part_place(total, place, &below), low, high;

    select_repeated(items, count, below, &low, &high);
    return below == total - 1 ? low : interpolate(low, high, share);
}

double esp_percentile_repeated(esp_repeated *items, int64_t count, double p)
{
    int64_t total = count_times(items, 0, count);

    return repeated_at(items, count, total, percentile_place(total, p));
}

double esp_ratio_threshold_repeated(esp_repeated *items, int64_t count, double ratio)
{
    int64_t total = count_times(items, 0, count);

    return repeated_at(items, count, total, ratio_place(total, ratio));
}
