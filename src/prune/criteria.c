/* Criteria score the filters of one layer from its canonical weight [filters, channels, positions] with masks
 * applied. Sums run in double in stored order, so equal filters get equal scores to the last bit and ties
 * stay ties. */
#include "prune/criteria.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "base/unknown.h"
#include "graph/op.h"
#include "prune/weights.h"
#include "tensor/blas.h"

static int64_t filter_elements(const esp_layer *layer)
{
    return layer->channels * layer->kernel_h * layer->kernel_w;
}

static esp_status score_l1(const esp_criterion_context *context, double *scores, esp_error *err)
{
    int64_t length = filter_elements(context->layer);

    (void)err;
    for (int64_t f = 0; f < context->layer->filters; f++) {
        const float *filter = context->weight + f * length;
        scores[f] = 0;
        for (int64_t i = 0; i < length; i++)
            scores[f] += fabs((double)filter[i]);
    }
    return ESP_OK;
}

static double sum_of_squares(const float *values, int64_t length)
{
    double sum = 0;

    for (int64_t i = 0; i < length; i++)
        sum += (double)values[i] * (double)values[i];
    return sum;
}

static esp_status score_l2(const esp_criterion_context *context, double *scores, esp_error *err)
{
    int64_t length = filter_elements(context->layer);

    (void)err;
    for (int64_t f = 0; f < context->layer->filters; f++)
        scores[f] = sqrt(sum_of_squares(context->weight + f * length, length));
    return ESP_OK;
}

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

/* rows [count, length] with the mean row taken off: distances stay, and the products below cancel less.
 * `mean` is [length] of working memory. */
static void centre_rows(const float *rows, int64_t count, int64_t length, double *mean, float *centred)
{
    memset(mean, 0, (size_t)length * sizeof *mean);
    for (int64_t f = 0; f < count; f++)
        for (int64_t i = 0; i < length; i++)
            mean[i] += (double)rows[f * length + i];
    for (int64_t f = 0; f < count; f++)
        for (int64_t i = 0; i < length; i++)
            centred[f * length + i] = (float)((double)rows[f * length + i] - mean[i] / (double)count);
}

#define FPGM_BLOCK 64

/* score[f] = sum over g of |W_f - W_g|; the squared distances of a block of filters come from one matrix
 * product. */
static esp_status score_fpgm(const esp_criterion_context *context, double *scores, esp_error *err)
{
    int64_t count = context->layer->filters, length = filter_elements(context->layer);
    float *rows = esp_alloc((size_t)(count * length), sizeof *rows);
    float *products = esp_alloc((size_t)(FPGM_BLOCK * count), sizeof *products);
    double *squares = esp_alloc((size_t)count, sizeof *squares);
    double *mean = esp_alloc((size_t)length, sizeof *mean);
    esp_status status = ESP_OK;

    if (!rows || !products || !squares || !mean) {
        status = esp_fail_memory(err, "distances between filters", (size_t)(count * length) * sizeof *rows);
        goto done;
    }
    centre_rows(context->weight, count, length, mean, rows);
    for (int64_t f = 0; f < count; f++)
        squares[f] = sum_of_squares(rows + f * length, length);
    for (int64_t first = 0; first < count; first += FPGM_BLOCK) {
        int64_t block = count - first < FPGM_BLOCK ? count - first : FPGM_BLOCK;
        esp_blas_gemm(false, true, block, count, length, 1, rows + first * length, length, rows, length, 0,
                      products, count);
        for (int64_t f = 0; f < block; f++) {
            scores[first + f] = 0;
            for (int64_t g = 0; g < count; g++) {
                double square = squares[first + f] + squares[g] - 2 * (double)products[f * count + g];
                scores[first + f] += g == first + f || square < 0 ? 0 : sqrt(square);
            }
        }
    }

done:
    esp_free(rows);
    esp_free(products);
    esp_free(squares);
    esp_free(mean);
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
#define ESP_CRITERION(function, name, title, source) {name, title, source, function},
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

esp_status esp_saliency(const esp_graph *graph, const esp_layer *layer, const esp_criterion *criterion,
                        uint64_t seed, double *scores, esp_error *err)
{
    esp_weight_rows rows;
    /* Masks a model carries are zeros in its weights: nothing more to apply. */
    esp_status status = esp_weight_rows_of(graph, layer, &rows, err);

    if (status != ESP_OK)
        return status;
    esp_criterion_context context = {graph, layer, rows.data, seed};
    status = criterion->score(&context, scores, err);
    esp_weight_rows_free(&rows);
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

/* Quickselect with three-way partition (masked entries make long runs of equal zeros): afterwards
 * values[rank] is the one a sort would put there, nothing before it is larger and nothing behind it smaller.
 */
static void select_rank(double *values, int64_t count, int64_t rank)
{
    int64_t low = 0, high = count; /* the rank lies in [low, high) */

    while (high - low > 1) {
        double pivot = median_of_three(values[low], values[low + (high - low) / 2], values[high - 1]);
        int64_t less = low, next = low, more = high;
        while (next < more) {
            if (values[next] < pivot)
                swap(&values[less++], &values[next++]);
            else if (values[next] > pivot)
                swap(&values[next], &values[--more]);
            else
                next++;
        }
        if (rank < less)
            high = less;
        else if (rank >= more)
            low = more;
        else
            return;
    }
}

/* Where percentile p of `count` sorted values lies: behind which of them, and how far on the way to the next.
 */
static double find_position(int64_t count, double p, int64_t *below)
{
    double position = (double)(count - 1) * (p / 100);

    *below = (int64_t)floor(position);
    *below = *below < 0 ? 0 : *below > count - 1 ? count - 1 : *below;
    return position - (double)*below;
}

/* NumPy's interpolation to the last bit: it counts from the nearer neighbour. */
static double interpolate(double low, double high, double share)
{
    return share >= 0.5 ? high - (high - low) * (1 - share) : low + (high - low) * share;
}

double esp_percentile(double *values, int64_t count, double p)
{
    int64_t below;
    double share = find_position(count, p, &below), high;

    select_rank(values, count, below);
    if (below == count - 1)
        return values[below];
    high = values[below + 1];
    for (int64_t i = below + 2; i < count; i++)
        high = values[i] < high ? values[i] : high;
    return interpolate(values[below], high, share);
}

static int compare_values(const void *a, const void *b)
{
    double first = ((const esp_repeated *)a)->value, second = ((const esp_repeated *)b)->value;

    return (first > second) - (first < second);
}

/* The value at a rank of the expanded list; `items` are sorted. */
static double value_at(const esp_repeated *items, int64_t count, int64_t rank)
{
    int64_t i = 0;

    for (; i < count - 1 && rank >= items[i].times; i++)
        rank -= items[i].times;
    return items[i].value;
}

double esp_percentile_repeated(esp_repeated *items, int64_t count, double p)
{
    int64_t total = 0, below;
    double share;

    for (int64_t i = 0; i < count; i++)
        total += items[i].times;
    qsort(items, (size_t)count, sizeof *items, compare_values);
    share = find_position(total, p, &below);
    if (below == total - 1)
        return value_at(items, count, below);
    return interpolate(value_at(items, count, below), value_at(items, count, below + 1), share);
}
