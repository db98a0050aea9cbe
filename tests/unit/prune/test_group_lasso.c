/* The term against the sum of norms written out, its gradient against differences of the term. */
#include "prune/group_lasso.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "unit/prune/prune_nets.h"

typedef struct subject {
    esp_graph *graph;
    esp_inferred *inferred;
    esp_layers layers;
} subject;

static subject look_at(esp_graph *take_graph)
{
    subject it = {.graph = take_graph};
    esp_error err = {0};

    expect_ok(esp_infer(it.graph, 1, NULL, 0, &it.inferred, &err), &err);
    expect_ok(esp_layers_list(it.graph, it.inferred, &it.layers, &err), &err);
    return it;
}

static void forget(subject *it)
{
    esp_layers_free(&it->layers);
    esp_inferred_free(it->inferred);
    esp_graph_unref(it->graph);
}

static esp_group_lasso *lasso_of(const subject *it, const int32_t *const *labels, double lambda)
{
    esp_group_lasso *lasso = NULL;
    esp_error err = {0};

    expect_ok(esp_group_lasso_new(it->graph, &it->layers, NULL, labels, lambda, &lasso, &err), &err);
    return lasso;
}

/* lambda * sum over (label, channel) of the norm, on the weight in canonical order. */
static double naive_value(const esp_layer *layer, const float *canonical, const int32_t *labels,
                          double lambda)
{
    int64_t positions = layer->kernel_h * layer->kernel_w;
    double sum = 0;

    for (int64_t g = 0; g < layer->filters; g++)
        for (int64_t c = 0; c < layer->channels; c++) {
            double square = 0;
            for (int64_t f = 0; f < layer->filters; f++)
                for (int64_t p = 0; (labels ? labels[f] : f) == g && p < positions; p++)
                    square += pow((double)canonical[(f * layer->channels + c) * positions + p], 2);
            sum += sqrt(square);
        }
    return lambda * sum;
}

/* Layers of every way of writing a weight. */
static esp_graph *all_forms(void)
{
    net_tensor x;
    net n = net_start(2, 4, 4, 6, &x);

    x = net_unary(&n, "Relu", net_conv3(&n, x, 4));
    x = net_unary(&n, "Relu", net_conv1(&n, x, 3));
    x = net_flatten(&n, net_pool(&n, "MaxPool", x, 2, 2, 0));
    x = net_unary(&n, "Relu", net_fc(&n, x, 6, NET_GEMM_TRANSPOSED));
    x = net_unary(&n, "Relu", net_fc(&n, x, 5, NET_GEMM_PLAIN));
    net_output(&n, net_fc(&n, x, 4, NET_MATMUL));
    return net_finish(&n);
}

static const int32_t pairs[] = {0, 0, 1, 1, 2, 2};

static void term_is_the_sum_of_the_norms_of_all_blocks(void **state)
{
    subject it = look_at(all_forms());
    const int32_t *labels[8];
    float canonical[256];
    (void)state;

    for (int l = 0; l < 8; l++)
        labels[l] = pairs;
    for (int grouped = 0; grouped < 2; grouped++) {
        esp_group_lasso *lasso = lasso_of(&it, grouped ? labels : NULL, 0.25);
        int count;
        const esp_train_penalty *penalties = esp_group_lasso_penalties(lasso, &count);
        assert_int_equal(count, it.layers.count);
        for (int l = 0; l < count; l++) {
            const esp_tensor *weight = esp_graph_value(it.graph, it.layers.items[l].weight)->constant;
            assert_int_equal(penalties[l].value, it.layers.items[l].weight);
            esp_layer_weight_canonical(&it.layers.items[l], weight, canonical);
            double expected = naive_value(&it.layers.items[l], canonical, grouped ? pairs : NULL, 0.25);
            double found = esp_group_lasso_value(lasso, l, esp_tensor_f32(weight));
            assert_true(expected > 0 && fabs(found - expected) <= 1e-12 * expected);
        }
        esp_group_lasso_free(lasso);
    }
    forget(&it);
}

static void gradient_is_that_of_the_term(void **state)
{
    subject it = look_at(all_forms());
    const int32_t *labels[8];
    float weight[256], gradient[256];
    const float h = 1.0F / 8192;
    (void)state;

    for (int l = 0; l < 8; l++)
        labels[l] = pairs;
    esp_group_lasso *lasso = lasso_of(&it, labels, 3);
    int count;
    const esp_train_penalty *penalties = esp_group_lasso_penalties(lasso, &count);
    for (int l = 0; l < count; l++) {
        const esp_tensor *tensor = esp_graph_value(it.graph, it.layers.items[l].weight)->constant;
        int64_t elements = esp_tensor_elements(tensor);
        memcpy(weight, esp_tensor_f32(tensor), (size_t)elements * sizeof *weight);
        for (int64_t i = 0; i < elements; i++)
            gradient[i] = 100; /* the term adds */
        penalties[l].add(penalties[l].user, elements, weight, gradient);
        for (int64_t i = 0; i < elements; i++) {
            float kept = weight[i];
            weight[i] = kept + h;
            double above = esp_group_lasso_value(lasso, l, weight), up = (double)weight[i];
            weight[i] = kept - h;
            double below = esp_group_lasso_value(lasso, l, weight), down = (double)weight[i];
            weight[i] = kept;
            double slope = (above - below) / (up - down);
            /* central differences err by h^2 times the third derivative; floats near 100 by 4e-6 */
            if (!(fabs((double)gradient[i] - 100 - slope) < 1e-3))
                fail_msg("layer %d, weight %d: %g, expected %g", l, (int)i, (double)gradient[i] - 100, slope);
        }
    }
    esp_group_lasso_free(lasso);
    forget(&it);
}

static void blocks_that_are_zero_feel_nothing(void **state)
{
    subject it = look_at(all_forms());
    esp_group_lasso *lasso = lasso_of(&it, NULL, 2);
    float weight[4 * 2 * 9] = {0}, gradient[4 * 2 * 9] = {0};
    int count;
    const esp_train_penalty *penalties = esp_group_lasso_penalties(lasso, &count);
    (void)state;

    weight[9] = -3; /* filter 0, channel 1 */
    penalties[0].add(penalties[0].user, 72, weight, gradient);
    for (int i = 0; i < 72; i++)
        assert_true(gradient[i] == (i == 9 ? -2 : 0));
    esp_group_lasso_free(lasso);
    forget(&it);
}

static void layers_that_take_no_part_have_no_term(void **state)
{
    subject it = look_at(all_forms());
    const bool takes_part[] = {false, true, false, false, true};
    esp_group_lasso *lasso = NULL;
    esp_error err = {0};
    int count;
    (void)state;

    expect_ok(esp_group_lasso_new(it.graph, &it.layers, takes_part, NULL, 1, &lasso, &err), &err);
    const esp_train_penalty *penalties = esp_group_lasso_penalties(lasso, &count);
    assert_int_equal(count, 2);
    assert_int_equal(penalties[0].value, it.layers.items[1].weight);
    assert_int_equal(penalties[1].value, it.layers.items[4].weight);
    esp_group_lasso_free(lasso);
    forget(&it);
}

static void lambda_and_labels_out_of_range_are_refused(void **state)
{
    subject it = look_at(all_forms());
    const int32_t wrong[] = {0, 1, 2, 4, 0, 0};
    const int32_t *labels[8] = {wrong};
    esp_group_lasso *lasso = NULL;
    esp_error err = {0};
    (void)state;

    expect_failure(esp_group_lasso_new(it.graph, &it.layers, NULL, NULL, -1, &lasso, &err), ESP_INVALID, &err,
                   "lambda");
    expect_failure(esp_group_lasso_new(it.graph, &it.layers, NULL, NULL, (double)NAN, &lasso, &err),
                   ESP_INVALID, &err, "lambda");
    expect_failure(esp_group_lasso_new(it.graph, &it.layers, NULL, labels, 1, &lasso, &err), ESP_INVALID,
                   &err, "filter 3");
    assert_null(lasso);
    forget(&it);
}

static void failed_allocations_leave_nothing_behind(void **state)
{
    subject it = look_at(all_forms());
    size_t live = esp_memory_live();
    (void)state;

    for (int64_t k = 1; k < 100; k++) {
        esp_group_lasso *lasso = NULL;
        esp_memory_fuse(k);
        esp_status status = esp_group_lasso_new(it.graph, &it.layers, NULL, NULL, 1, &lasso, NULL);
        bool has_burnt = esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        assert_int_equal(status, has_burnt ? ESP_NO_MEMORY : ESP_OK);
        esp_group_lasso_free(lasso);
        assert_int_equal(esp_memory_live(), live);
        if (!has_burnt)
            break;
        assert_true(k < 99);
    }
    forget(&it);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(term_is_the_sum_of_the_norms_of_all_blocks),
        cmocka_unit_test(gradient_is_that_of_the_term),
        cmocka_unit_test(blocks_that_are_zero_feel_nothing),
        cmocka_unit_test(layers_that_take_no_part_have_no_term),
        cmocka_unit_test(lambda_and_labels_out_of_range_are_refused),
        cmocka_unit_test(failed_allocations_leave_nothing_behind),
    };
    return cmocka_run_group_tests_name("group lasso", tests, NULL, NULL);
}
