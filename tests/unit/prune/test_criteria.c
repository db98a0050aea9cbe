/* Criteria against naive loops, and percentiles against a sorted list. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "prune/criteria.h"
#include "unit/base/scratch.h"
#include "unit/prune/prune_nets.h"

static int compare_doubles(const void *a, const void *b)
{
    double first = *(const double *)a, second = *(const double *)b;

    return (first > second) - (first < second);
}

/* NumPy's definition: linear between the neighbours of (n-1)p/100 in the sorted list. */
static double naive_percentile(const double *values, int64_t count, double p)
{
    double *sorted = esp_alloc((size_t)count, sizeof *sorted), position = (double)(count - 1) * (p / 100),
           found;
    int64_t below = (int64_t)position;

    memcpy(sorted, values, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, compare_doubles);
    found = below + 1 < count
                ? sorted[below] + (sorted[below + 1] - sorted[below]) * (position - (double)below)
                : sorted[count - 1];
    esp_free(sorted);
    return found;
}

static void percentile_agrees_with_a_sorted_list(void **state)
{
    esp_rng rng;
    double values[301], scratch[301];
    (void)state;

    esp_rng_seed(&rng, 1);
    for (int round = 0; round < 300; round++) {
        int64_t count = 1 + (int64_t)esp_rng_below(&rng, 300),
                distinct = 1 + (int64_t)esp_rng_below(&rng, 40);
        double p = round % 3 ? 100 * esp_rng_uniform(&rng) : 10 * (double)esp_rng_below(&rng, 11);
        for (int64_t i = 0; i < count; i++)
            values[i] = round % 2 ? esp_rng_normal(&rng) : (double)esp_rng_below(&rng, (uint64_t)distinct);
        memcpy(scratch, values, sizeof values);
        assert_true(fabs(esp_percentile(scratch, count, p) - naive_percentile(values, count, p)) < 1e-12);
    }
}

static void percentile_rounds_as_numpy_does(void **state)
{
    double a[] = {0.84, 0.1, 0.82}, b[] = {0.17, 0.78, 0.51}, c[] = {0.05, 0.52, 0.2};
    (void)state;

    /* from numpy.percentile 1.24; low + (high - low) * share differs in the last digit for all three */
    assert_true(esp_percentile(a, 3, 35) == 0.6039999999999999);
    assert_true(esp_percentile(b, 3, 47) == 0.4896);
    assert_true(esp_percentile(c, 3, 37) == 0.161);
}

static void percentile_of_equal_values_is_that_value(void **state)
{
    double values[7] = {0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1};
    (void)state;

    for (double p = 0; p <= 100; p += 12.5)
        assert_true(esp_percentile(values, 7, p) == 0.1);
}

/* Every ratio of two digits, of lists whose places are whole numbers for some of them: the threshold is the
 * value at the place, whatever 100 * 0.07 is in binary. */
static void threshold_at_a_whole_place_is_the_value_there(void **state)
{
    static const int64_t counts[] = {11, 21, 26, 51, 101, 201, 1001, 12801};
    int above = 0;
    (void)state;

    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (int percent = 1; percent < 100; percent++) {
            int64_t count = counts[i], place = (count - 1) * percent / 100;
            double *values = malloc((size_t)count * sizeof *values), ratio = percent / 100.0;
            esp_repeated *items = malloc((size_t)count * sizeof *items);
            assert_true(values && items);
            if ((count - 1) * percent % 100 == 0) {
                for (int64_t v = 0; v < count; v++) {
                    values[v] =
                        1 + (double)(v * 7919 % count); /* a permutation: counts have no factor 7919 */
                    items[v] = (esp_repeated){values[v], 1};
                }
                assert_true(esp_ratio_threshold(values, count, ratio) == 1 + (double)place);
                assert_true(esp_ratio_threshold_repeated(items, count, ratio) == 1 + (double)place);
                above += esp_percentile(values, count, 100 * ratio) > 1 + (double)place;
            }
            free(values);
            free(items);
        }
    assert_true(above > 0); /* NumPy's is not: the value itself would be below it */
}

/* From numpy.percentile(x, 7) of 0..100, which is not 7; and 100 * 0.07 is not 7 either. */
static void percent_of_a_ratio_is_the_decimal_number(void **state)
{
    double values[101];
    (void)state;

    for (int percent = 0; percent < 100; percent++)
        assert_true(esp_percent_of(percent / 100.0) == percent);
    for (int permille = 0; permille < 1000; permille++)
        assert_true(esp_percent_of(permille / 1000.0) == permille / 10.0);
    for (int v = 0; v <= 100; v++)
        values[v] = v;
    assert_true(esp_percentile(values, 101, esp_percent_of(0.07)) == 7.000000000000001);
}

static void percentile_ends_where_values_are_no_numbers(void **state)
{
    double values[9] = {NAN, 3, NAN, 1, 2, NAN, 5, NAN, NAN};
    (void)state;

    for (double p = 0; p <= 100; p += 10)
        esp_percentile(values, 9, p);
}

static void percentile_of_repeated_values_is_that_of_the_long_list(void **state)
{
    esp_rng rng;
    (void)state;

    esp_rng_seed(&rng, 2);
    for (int round = 0; round < 200; round++) {
        esp_repeated items[20];
        double list[200];
        int64_t count = 0, kinds = 1 + (int64_t)esp_rng_below(&rng, 20);
        double p = 100 * esp_rng_uniform(&rng);
        for (int64_t i = 0; i < kinds; i++) {
            items[i] = (esp_repeated){(double)esp_rng_below(&rng, 12) / 3, (int64_t)esp_rng_below(&rng, 10)};
            items[i].times += i == 0;
            for (int64_t j = 0; j < items[i].times; j++)
                list[count++] = items[i].value;
        }
        assert_true(esp_percentile_repeated(items, kinds, p) == esp_percentile(list, count, p));
    }
}

/* Scores of a layer of the residual network by a criterion. */
static void score(const net_view *view, const char *node, const char *name, uint64_t seed, double *scores)
{
    const esp_criterion *criterion;
    esp_error err = {0};

    expect_ok(esp_criterion_find(name, &criterion, &err), &err);
    expect_ok(esp_saliency(NULL, view->graph, &view->layers->items[net_layer(view, node)], criterion, seed,
                           scores, &err),
              &err);
}

static void norms_agree_with_naive_sums(void **state)
{
    net_view view = net_look(net_chain(NET_GEMM_PLAIN, 3));
    static const char *const nodes[] = {"Conv3", "Gemm7"};
    (void)state;

    for (int n = 0; n < 2; n++) {
        const esp_layer *layer = &view.layers->items[net_layer(&view, nodes[n])];
        const float *data = esp_tensor_f32(esp_graph_value(view.graph, layer->weight)->constant);
        double l1[8], l2[8];
        score(&view, nodes[n], "l1", 0, l1);
        score(&view, nodes[n], "l2", 0, l2);
        for (int64_t f = 0; f < layer->filters; f++) {
            double sum = 0, squares = 0;
            int64_t length = layer->channels * layer->kernel_h * layer->kernel_w;
            for (int64_t i = 0; i < length; i++) { /* Gemm7 is stored [in, out] */
                double w = (double)data[n ? i * layer->filters + f : f * length + i];
                sum += fabs(w);
                squares += w * w;
            }
            assert_true(fabs(l1[f] - sum) < 1e-9);
            assert_true(fabs(l2[f] - sqrt(squares)) < 1e-9);
        }
    }
    net_forget(&view);
}

static void fpgm_sums_the_distances_to_all_other_filters(void **state)
{
    net_view view = net_look(net_residual(4));
    const esp_layer *layer = &view.layers->items[net_layer(&view, "Conv14")];
    const float *data = esp_tensor_f32(esp_graph_value(view.graph, layer->weight)->constant);
    int64_t length = layer->channels * 9;
    double scores[8];
    (void)state;

    score(&view, "Conv14", "fpgm", 0, scores);
    for (int64_t f = 0; f < 8; f++) {
        double expected = 0;
        for (int64_t g = 0; g < 8; g++) {
            double square = 0;
            for (int64_t i = 0; i < length; i++)
                square += pow((double)data[f * length + i] - (double)data[g * length + i], 2);
            expected += sqrt(square);
        }
        assert_true(fabs(scores[f] - expected) < 1e-4 * expected); /* products in float32 */
    }
    net_forget(&view);
}

static void fpgm_of_many_filters_agrees_with_naive_sums_over_any_number_of_threads(void **state)
{
    enum { FILTERS = 250, LENGTH = 12 * 9 };
    net_tensor x;
    net n = net_start(12, 5, 5, 11, &x);
    net_output(&n, net_conv3(&n, x, FILTERS));
    net_view view = net_look(net_finish(&n));
    const float *data = esp_tensor_f32(esp_graph_value(view.graph, view.layers->items[0].weight)->constant);
    const esp_criterion *criterion;
    double alone[FILTERS], shared[FILTERS];
    esp_pool *pool;
    esp_error err = {0};
    (void)state;

    expect_ok(esp_pool_new(3, &pool, &err), &err);
    esp_compute compute = {.pool = pool};
    expect_ok(esp_criterion_find("fpgm", &criterion, &err), &err);
    expect_ok(esp_saliency(NULL, view.graph, &view.layers->items[0], criterion, 0, alone, &err), &err);
    expect_ok(esp_saliency(&compute, view.graph, &view.layers->items[0], criterion, 0, shared, &err), &err);
    assert_memory_equal(alone, shared, sizeof alone);
    for (int f = 0; f < FILTERS; f++) {
        double expected = 0;
        for (int g = 0; g < FILTERS; g++) {
            double square = 0;
            for (int i = 0; i < LENGTH; i++)
                square += pow((double)data[f * LENGTH + i] - (double)data[g * LENGTH + i], 2);
            expected += sqrt(square);
        }
        assert_true(fabs(alone[f] - expected) < 1e-5 * expected); /* products in float32 */
    }
    esp_pool_free(pool);
    net_forget(&view);
}

static void bn_scale_is_the_scale_behind_the_layer(void **state)
{
    net_view view = net_look(net_residual(5));
    int norm = esp_graph_find_node(view.graph, "BatchNormalization5"); /* behind Conv4 */
    const esp_tensor *scale =
        esp_graph_value(view.graph, esp_graph_node(view.graph, norm)->inputs[1])->constant;
    double scores[6];
    (void)state;

    score(&view, "Conv4", "bn-scale", 0, scores);
    for (int64_t f = 0; f < 6; f++)
        assert_true(scores[f] == fabs((double)esp_tensor_f32(scale)[f]));
    net_forget(&view);
}

static void bn_scale_says_when_there_is_no_batch_norm(void **state)
{
    net_view view = net_look(net_chain(NET_GEMM_PLAIN, 3));
    const esp_criterion *criterion;
    double scores[8];
    esp_error err = {0};
    (void)state;

    expect_ok(esp_criterion_find("bn-scale", &criterion, &err), &err);
    assert_int_equal(esp_saliency(NULL, view.graph, &view.layers->items[0], criterion, 0, scores, &err),
                     ESP_UNSUPPORTED);
    assert_non_null(strstr(err.message, "Conv1"));
    assert_non_null(strstr(err.hint, "l1"));
    net_forget(&view);
}

static void random_scores_repeat_with_the_seed_and_differ_by_layer(void **state)
{
    net_view view = net_look(net_residual(6));
    double first[6], again[6], other_seed[6], other_layer[6];
    (void)state;

    score(&view, "Conv4", "random", 1, first);
    score(&view, "Conv4", "random", 1, again);
    score(&view, "Conv4", "random", 2, other_seed);
    score(&view, "Conv7", "random", 1, other_layer);
    assert_memory_equal(first, again, sizeof first);
    assert_memory_not_equal(first, other_seed, sizeof first);
    assert_memory_not_equal(first, other_layer, sizeof first);
    net_forget(&view);
}

static void unknown_criterion_names_the_nearest(void **state)
{
    const esp_criterion *criterion;
    esp_error err = {0};
    (void)state;

    assert_int_equal(esp_criterion_find("fgpm", &criterion, &err), ESP_INVALID);
    assert_null(criterion);
    assert_non_null(strstr(err.message, "did you mean 'fpgm'"));
    for (int i = 0; i < esp_criterion_count(); i++) {
        expect_ok(esp_criterion_find(esp_criterion_at(i)->name, &criterion, &err), &err);
        assert_ptr_equal(criterion, esp_criterion_at(i));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(percentile_agrees_with_a_sorted_list),
        cmocka_unit_test(percentile_rounds_as_numpy_does),
        cmocka_unit_test(percentile_of_equal_values_is_that_value),
        cmocka_unit_test(threshold_at_a_whole_place_is_the_value_there),
        cmocka_unit_test(percent_of_a_ratio_is_the_decimal_number),
        cmocka_unit_test(percentile_ends_where_values_are_no_numbers),
        cmocka_unit_test(percentile_of_repeated_values_is_that_of_the_long_list),
        cmocka_unit_test(norms_agree_with_naive_sums),
        cmocka_unit_test(fpgm_sums_the_distances_to_all_other_filters),
        cmocka_unit_test(fpgm_of_many_filters_agrees_with_naive_sums_over_any_number_of_threads),
        cmocka_unit_test(bn_scale_is_the_scale_behind_the_layer),
        cmocka_unit_test(bn_scale_says_when_there_is_no_batch_norm),
        cmocka_unit_test(random_scores_repeat_with_the_seed_and_differ_by_layer),
        cmocka_unit_test(unknown_criterion_names_the_nearest),
    };
    return cmocka_run_group_tests_name("criteria", tests, NULL, NULL);
}
