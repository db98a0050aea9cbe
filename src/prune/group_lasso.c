/* Whatever the order of a weight's two outer axes, the kernel positions of a (filter, channel) pair lie
 * together: at filter * filter_stride + channel * channel_stride. Its block is (group of the filter,
 * channel). One pass sums the squares of all blocks, a second one adds the gradient. */
#include "prune/group_lasso.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

typedef struct lasso_term {
    double lambda;
    int64_t filters, channels, positions, groups;
    int64_t filter_stride, channel_stride; /* elements from one filter, or channel, to the next */
    int32_t *labels;                       /* [filters] */
    double *norms;                         /* [groups, channels]: working memory */
} lasso_term;

struct esp_group_lasso {
    int count;
    lasso_term *terms;
    esp_train_penalty *penalties;
};

/* norms[g, c]: |W[g, c]|_2. */
static void find_norms(const lasso_term *term, const float *weight)
{
    int64_t blocks = term->groups * term->channels;

    memset(term->norms, 0, (size_t)blocks * sizeof *term->norms);
    for (int64_t f = 0; f < term->filters; f++) {
        double *norms = term->norms + term->labels[f] * term->channels;
        for (int64_t c = 0; c < term->channels; c++) {
            const float *slice = weight + f * term->filter_stride + c * term->channel_stride;
            for (int64_t i = 0; i < term->positions; i++)
                norms[c] += (double)slice[i] * (double)slice[i];
        }
    }
    for (int64_t block = 0; block < blocks; block++)
        term->norms[block] = sqrt(term->norms[block]);
}

static void add_gradient(void *user, int64_t count, const float *weight, float *gradient)
{
    const lasso_term *term = user;

    (void)count; /* filters x channels x positions */
    find_norms(term, weight);
    for (int64_t f = 0; f < term->filters; f++)
        for (int64_t c = 0; c < term->channels; c++) {
            double norm = term->norms[term->labels[f] * term->channels + c];
            int64_t first = f * term->filter_stride + c * term->channel_stride;
            for (int64_t i = first; norm > 0 && i < first + term->positions; i++)
                gradient[i] += (float)(term->lambda * (double)weight[i] / norm);
        }
}

double esp_group_lasso_value(const esp_group_lasso *lasso, int index, const float *weight)
{
    const lasso_term *term = &lasso->terms[index];
    double sum = 0;

    find_norms(term, weight);
    for (int64_t block = 0; block < term->groups * term->channels; block++)
        sum += term->norms[block];
    return term->lambda * sum;
}

static int64_t stride_of_axis(const esp_shape *shape, int axis)
{
    int64_t stride = 1;

    for (int i = axis + 1; i < shape->rank; i++)
        stride *= shape->dims[i];
    return stride;
}

static esp_status fill_labels(const esp_layer *layer, const int32_t *labels, lasso_term *term, esp_error *err)
{
    for (int64_t f = 0; f < layer->filters; f++) {
        int32_t label = labels ? labels[f] : (int32_t)f;
        if (label < 0 || label >= layer->filters)
            return esp_fail(err, ESP_INVALID,
                            "group lasso: filter %lld of layer '%s' has group %d, expected 0 to %lld",
                            (long long)f, layer->name, (int)label, (long long)layer->filters - 1);
        term->labels[f] = label;
        term->groups = label >= term->groups ? label + 1 : term->groups;
    }
    return ESP_OK;
}

static esp_status make_term(const esp_graph *graph, const esp_layer *layer, const int32_t *labels,
                            double lambda, lasso_term *term, esp_error *err)
{
    const esp_shape *shape = esp_tensor_shape(esp_graph_value(graph, layer->weight)->constant);
    esp_status status;

    *term = (lasso_term){.lambda = lambda,
                         .filters = layer->filters,
                         .channels = layer->channels,
                         .positions = layer->kernel_h * layer->kernel_w,
                         .filter_stride = stride_of_axis(shape, layer->filter_axis),
                         .channel_stride = stride_of_axis(shape, layer->channel_axis),
                         .labels = esp_alloc((size_t)layer->filters, sizeof *term->labels)};
    if (!term->labels)
        return esp_fail_memory(err, "group lasso", (size_t)layer->filters * sizeof *term->labels);
    status = fill_labels(layer, labels, term, err);
    if (status != ESP_OK)
        return status;
    term->norms = esp_alloc((size_t)(term->groups * term->channels), sizeof *term->norms);
    return term->norms ? ESP_OK
                       : esp_fail_memory(err, "group lasso",
                                         (size_t)(term->groups * term->channels) * sizeof *term->norms);
}

static bool has_term(const esp_graph *graph, const esp_layers *layers, const bool *takes_part, int l)
{
    const esp_layer *layer = &layers->items[l];
    const esp_tensor *weight = esp_graph_value(graph, layer->weight)->constant;

    if ((takes_part && !takes_part[l]) || layer->group != 1 || !weight ||
        esp_tensor_dtype(weight) != ESP_F32 || !esp_tensor_elements(weight))
        return false;
    for (int other = 0; other < l; other++)
        if (layers->items[other].weight == layer->weight && has_term(graph, layers, takes_part, other))
            return false;
    return true;
}

esp_status esp_group_lasso_new(const esp_graph *graph, const esp_layers *layers, const bool *takes_part,
                               const int32_t *const *labels, double lambda, esp_group_lasso **out,
                               esp_error *err)
{
    size_t count = (size_t)layers->count;
    esp_group_lasso *lasso = NULL;
    esp_status status = ESP_OK;

    *out = NULL;
    if (!(lambda >= 0 && isfinite(lambda)))
        return esp_fail(err, ESP_INVALID, "group lasso: lambda is %g, expected a number of at least 0",
                        lambda);
    lasso = esp_alloc_zero(1, sizeof *lasso);
    if (!lasso)
        return esp_fail_memory(err, "group lasso", sizeof *lasso);
    lasso->terms = esp_alloc_zero(count, sizeof *lasso->terms);
    lasso->penalties = esp_alloc_zero(count, sizeof *lasso->penalties);
    if (!lasso->terms || !lasso->penalties)
        status = esp_fail_memory(err, "group lasso", count * sizeof *lasso->terms);
    for (int l = 0; status == ESP_OK && l < layers->count; l++) {
        lasso_term *term = &lasso->terms[lasso->count];
        if (!has_term(graph, layers, takes_part, l))
            continue;
        lasso->penalties[lasso->count++] =
            (esp_train_penalty){.value = layers->items[l].weight, .add = add_gradient, .user = term};
        status = make_term(graph, &layers->items[l], labels ? labels[l] : NULL, lambda, term, err);
    }
    if (status == ESP_OK)
        *out = lasso;
    else
        esp_group_lasso_free(lasso);
    return status;
}

static esp_status of_fitted(const esp_graph *graph, const esp_dataset *fitted, double lambda,
                            esp_group_lasso **out, esp_error *err)
{
    esp_input_shape shape;
    esp_inferred *inferred = NULL;
    esp_layers layers = {0};
    esp_status status = esp_dataset_check_model(fitted, graph, err);

    if (status != ESP_OK)
        return status;
    int open = esp_dataset_input_shape(fitted, graph, 1, &shape);
    status = esp_infer(graph, 1, open ? &shape : NULL, open, &inferred, err);
    if (status == ESP_OK)
        status = esp_layers_list(graph, inferred, &layers, err);
    if (status == ESP_OK)
        status = esp_group_lasso_new(graph, &layers, NULL, NULL, lambda, out, err);
    esp_layers_free(&layers);
    esp_inferred_free(inferred);
    return status;
}

esp_status esp_group_lasso_of_model(const esp_graph *graph, const esp_dataset *dataset, double lambda,
                                    esp_group_lasso **out, esp_error *err)
{
    esp_dataset *fitted = NULL;
    esp_status status = esp_dataset_fit(dataset, graph, &fitted, err);

    *out = NULL;
    if (status == ESP_OK)
        status = of_fitted(graph, fitted, lambda, out, err);
    esp_dataset_unref(fitted);
    return status;
}

void esp_group_lasso_free(esp_group_lasso *lasso)
{
    if (!lasso)
        return;
    for (int i = 0; lasso->terms && i < lasso->count; i++) {
        esp_free(lasso->terms[i].labels);
        esp_free(lasso->terms[i].norms);
    }
    esp_free(lasso->terms);
    esp_free(lasso->penalties);
    esp_free(lasso);
}

const esp_train_penalty *esp_group_lasso_penalties(const esp_group_lasso *lasso, int *count)
{
    *count = lasso->count;
    return lasso->penalties;
}
