/* Criteria that look at data against PyTorch; where a map is looked at; all criteria at once. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "graph/op.h"
#include "prune/criteria.h"
#include "prune/criteria_tap.h"
#include "unit/prune/prune_nets.h"
#include "unit/train/calibration_net.h"
#include "unit/train/calibration_reference.h"

enum { LAYERS = 4, RANDOM_NETS = 80 };

typedef struct fixture {
    esp_graph *graph;
    esp_dataset *images;
    esp_inferred *inferred;
    esp_layers layers; /* conv1, conv2, conv3, linear */
} fixture;

static int open_fixture(void **state)
{
    static fixture it;
    esp_error err = {0};

    it = (fixture){.graph = calibration_net(), .images = calibration_images()};
    expect_ok(esp_infer(it.graph, 1, NULL, 0, &it.inferred, &err), &err);
    expect_ok(esp_layers_list(it.graph, it.inferred, &it.layers, &err), &err);
    assert_int_equal(it.layers.count, LAYERS);
    *state = &it;
    return 0;
}

static int close_fixture(void **state)
{
    fixture *it = *state;

    esp_layers_free(&it->layers);
    esp_inferred_free(it->inferred);
    esp_graph_unref(it->graph);
    esp_dataset_unref(it->images);
    return 0;
}

static const esp_criterion *criterion_of(const char *name)
{
    const esp_criterion *criterion;
    esp_error err = {0};

    expect_ok(esp_criterion_find(name, &criterion, &err), &err);
    return criterion;
}

static void score_all(const esp_compute *compute, const fixture *it, const char *name, int64_t batch,
                      double **scores)
{
    const esp_criterion_data data = {.dataset = it->images, .batch = batch};
    esp_error err = {0};

    expect_ok(esp_saliency_all(compute, it->graph, &it->layers, criterion_of(name), &data, 0, scores, &err),
              &err);
}

static void free_scores(double **scores)
{
    for (int l = 0; l < LAYERS; l++)
        esp_free(scores[l]);
}

/* For one image at a time, two, all five, and what is chosen when nothing is said. */
static void expect_scores(const fixture *it, const char *name, const double *const expected[LAYERS])
{
    static const int64_t batches[] = {0, 1, 2, 5};

    for (size_t b = 0; b < 4; b++) {
        double *scores[LAYERS] = {0};
        score_all(NULL, it, name, batches[b], scores);
        for (int l = 0; l < LAYERS; l++) {
            if (!expected[l])
                assert_null(scores[l]);
            else /* float32 forward and backward */
                assert_doubles(scores[l], expected[l], it->layers.items[l].filters, 2e-5);
        }
        free_scores(scores);
    }
}

static void activation_is_the_mean_magnitude_that_pytorch_finds(void **state)
{
    const double *const expected[] = {activation_conv1, activation_conv2, activation_conv3,
                                      activation_linear};

    expect_scores(*state, "activation", expected);
}

/* conv2 is looked at behind the sum and its Relu; nothing behind the last layer gives zeros. */
static void apoz_counts_the_zeros_that_pytorch_counts(void **state)
{
    const double *const expected[] = {apoz_conv1, apoz_conv2, apoz_conv3, NULL};

    expect_scores(*state, "apoz", expected);
}

static void taylor_is_the_product_with_pytorchs_gradient(void **state)
{
    const double *const expected[] = {taylor_conv1, taylor_conv2, taylor_conv3, taylor_linear};

    expect_scores(*state, "taylor", expected);
}

static void taylor_weight_is_the_product_with_pytorchs_weight_gradient(void **state)
{
    const double *const expected[] = {taylor_weight_conv1, taylor_weight_conv2, taylor_weight_conv3,
                                      taylor_weight_linear};

    expect_scores(*state, "taylor-weight", expected);
}

static void threads_change_no_bit(void **state)
{
    const fixture *it = *state;
    esp_compute compute = {0};
    esp_error err = {0};

    expect_ok(esp_pool_new(3, &compute.pool, &err), &err);
    for (int c = 0; c < esp_criterion_count(); c++) {
        double *one[LAYERS] = {0}, *three[LAYERS] = {0};
        score_all(NULL, it, esp_criterion_at(c)->name, 2, one);
        score_all(&compute, it, esp_criterion_at(c)->name, 2, three);
        for (int l = 0; l < LAYERS; l++) {
            assert_int_equal(one[l] != NULL, three[l] != NULL);
            if (one[l])
                assert_memory_equal(one[l], three[l], (size_t)it->layers.items[l].filters * sizeof(double));
        }
        free_scores(one);
        free_scores(three);
    }
    esp_pool_free(compute.pool);
}

static void the_seed_chooses_the_images(void **state)
{
    const fixture *it = *state;
    double first[6][4];
    esp_error err = {0};
    int different = 0;

    for (uint64_t seed = 0; seed < 6; seed++) {
        const esp_criterion_data data = {.dataset = it->images, .images = 2, .seed = seed % 3};
        double *scores[LAYERS] = {0};
        expect_ok(
            esp_saliency_all(NULL, it->graph, &it->layers, criterion_of("taylor"), &data, 0, scores, &err),
            &err);
        memcpy(first[seed], scores[0], sizeof first[seed]);
        free_scores(scores);
        if (seed >= 3)
            assert_memory_equal(first[seed], first[seed - 3], sizeof first[seed]);
        different += memcmp(first[seed], first[0], sizeof first[0]) != 0;
    }
    assert_true(different >= 2);
}

static void a_criterion_that_looks_at_data_asks_for_it(void **state)
{
    const fixture *it = *state;
    double *scores[LAYERS] = {0}, one[4];
    esp_error err = {0};
    int count = 0;

    for (int c = 0; c < esp_criterion_count(); c++) {
        const esp_criterion *criterion = esp_criterion_at(c);
        assert_true(strlen(criterion->definition) > 0 && strlen(criterion->source) > 0);
        if (!esp_criterion_needs_data(criterion))
            continue;
        count++;
        assert_int_equal(esp_saliency_all(NULL, it->graph, &it->layers, criterion, NULL, 0, scores, &err),
                         ESP_INVALID);
        assert_non_null(strstr(err.message, criterion->name));
        assert_non_null(strstr(err.hint, "--data"));
        assert_int_equal(esp_saliency(NULL, it->graph, &it->layers.items[0], criterion, 0, one, &err),
                         ESP_INVALID);
    }
    assert_int_equal(count, 4);
    for (int l = 0; l < LAYERS; l++)
        assert_null(scores[l]);
}

static void criteria_without_data_score_all_layers_as_one_by_one(void **state)
{
    const fixture *it = *state;
    esp_error err = {0};

    for (int c = 0; c < esp_criterion_count(); c++) {
        const esp_criterion *criterion = esp_criterion_at(c);
        double *scores[LAYERS] = {0}, alone[6];
        if (esp_criterion_needs_data(criterion))
            continue;
        expect_ok(esp_saliency_all(NULL, it->graph, &it->layers, criterion, NULL, 3, scores, &err), &err);
        for (int l = 0; l < LAYERS; l++) {
            const esp_layer *layer = &it->layers.items[l];
            bool speaks = esp_saliency(NULL, it->graph, layer, criterion, 3, alone, &err) == ESP_OK;
            assert_int_equal(speaks, scores[l] != NULL);
            if (speaks)
                assert_memory_equal(scores[l], alone, (size_t)layer->filters * sizeof(double));
        }
        free_scores(scores);
    }
}

static void a_criterion_that_says_nothing_of_any_layer_is_an_error(void **state)
{
    net_view view = net_look(net_chain(NET_GEMM_PLAIN, 1));
    double *scores[8] = {0};
    esp_error err = {0};
    (void)state;

    assert_true(view.layers->count <= 8);
    assert_int_equal(
        esp_saliency_all(NULL, view.graph, view.layers, criterion_of("bn-scale"), NULL, 0, scores, &err),
        ESP_UNSUPPORTED);
    assert_non_null(strstr(err.message, "bn-scale"));
    net_forget(&view);
}

/* s_f / sum of s_g over those not smaller, with naive sums. */
static void lamp_divides_by_the_squares_that_are_not_smaller(void **state)
{
    const fixture *it = *state;
    double *lamp[LAYERS] = {0}, *l2[LAYERS] = {0};

    score_all(NULL, it, "lamp", 0, lamp);
    score_all(NULL, it, "l2", 0, l2);
    for (int l = 0; l < LAYERS; l++) {
        int64_t filters = it->layers.items[l].filters;
        double largest = 0;
        for (int64_t f = 0; f < filters; f++) {
            double sum = 0;
            for (int64_t g = 0; g < filters; g++) {
                sum += l2[l][g] >= l2[l][f] ? l2[l][g] * l2[l][g] : 0;
                assert_int_equal(l2[l][f] < l2[l][g], lamp[l][f] < lamp[l][g]); /* the order stays */
            }
            assert_true(fabs(lamp[l][f] - l2[l][f] * l2[l][f] / sum) < 1e-12);
            largest = fmax(largest, lamp[l][f]);
        }
        assert_true(largest == 1);
    }
    free_scores(lamp);
    free_scores(l2);
}

static void lamp_of_equal_and_of_empty_filters_is_equal_and_zero(void **state)
{
    const float weight[] = {1, 2, 0, 0, 2, 1, 3, 0}; /* of linear_model [filters, channels] */
    const float bias[4] = {0};
    net_view view = net_look(linear_model(0, 2, 1, 1, 4, weight, bias));
    double scores[4];
    esp_error err = {0};
    (void)state;

    expect_ok(esp_saliency(NULL, view.graph, &view.layers->items[0], criterion_of("lamp"), 0, scores, &err),
              &err);
    assert_true(scores[0] == 5.0 / 19 && scores[2] == scores[0] && scores[1] == 0 && scores[3] == 1);
    net_forget(&view);
}

/* ---- taps ---- */

static const struct {
    const char *op;
    bool is_rectified;
} functions[] = {{"Relu", true},      {"LeakyRelu", false}, {"Sigmoid", false},
                 {"HardSwish", true}, {"Elu", false},       {"ThresholdedRelu", true}};

static int numbers(net *n, const char *name, int64_t channels)
{
    const int64_t dims[] = {1, channels, 1, 1};

    return net_random(n, name, 4, dims, 0.3, 1);
}

static net_tensor with_numbers(net *n, const char *op, net_tensor x)
{
    const int inputs[] = {x.value, numbers(n, op, x.channels)};

    return net_node(n, op, inputs, 2, NULL, 0, x);
}

/* Conv - Add and Div with a number per channel - batch-norm - function - Mul with a number per channel. */
static void a_map_is_looked_at_behind_its_activation_function(void **state)
{
    (void)state;

    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        net_tensor x;
        net n = net_start_opset(14, 2, 5, 5, i, &x);
        net_tensor y = with_numbers(&n, "Div", with_numbers(&n, "Add", net_conv3(&n, x, 3)));
        y = net_unary(&n, functions[i].op, net_norm(&n, y));
        net_output(&n, with_numbers(&n, "Mul", y));
        net_view view = net_look(net_finish(&n));
        const esp_layer *layer = &view.layers->items[0];
        const esp_node *node = esp_graph_node(view.graph, esp_graph_node_count(view.graph) - 2);
        assert_string_equal(node->op->name, functions[i].op);
        assert_int_equal(esp_tap_map(view.graph, view.inferred, layer).value, node->outputs[0]);
        assert_int_equal(esp_tap_map(view.graph, view.inferred, layer).axis, 1);
        assert_int_equal(esp_tap_rectified(view.graph, view.inferred, layer).value,
                         functions[i].is_rectified ? node->outputs[0] : -1);
        net_forget(&view);
    }
}

/* Two readers: nobody knows which of them the map is for. */
static void a_map_with_two_readers_is_looked_at_itself(void **state)
{
    net_tensor x;
    net n = net_start(2, 5, 5, 1, &x);
    net_tensor y = net_conv3(&n, x, 3);
    (void)state;

    net_output(&n, net_binary(&n, "Mul", y, net_unary(&n, "Sigmoid", y)));
    net_view view = net_look(net_finish(&n));
    const esp_layer *layer = &view.layers->items[0];
    assert_int_equal(esp_tap_map(view.graph, view.inferred, layer).value,
                     esp_graph_node(view.graph, layer->node)->outputs[0]);
    assert_int_equal(esp_tap_rectified(view.graph, view.inferred, layer).value, -1);
    net_forget(&view);
}

/* Sums, concatenations, slices, depthwise layers, gates, flatten: one image at a time says what batches say.
 */
static void random_networks_score_the_same_in_any_batches(void **state)
{
    int scored = 0;
    (void)state;

    for (uint64_t seed = 0; seed < RANDOM_NETS; seed++) {
        net_view view = net_look(net_random_classifier(seed));
        const esp_shape *x = esp_inferred_shape(view.inferred, esp_graph_input(view.graph, 0));
        const esp_shape *y = esp_inferred_shape(view.inferred, esp_graph_output(view.graph, 0));
        esp_dataset *images =
            noise_dataset(5, (int)x->dims[1], (int)x->dims[2], (int)x->dims[3], (int)y->dims[1], seed);
        const esp_criterion *criterion = esp_criterion_at((int)(seed % (uint64_t)esp_criterion_count()));
        double *single[64] = {0}, *batches[64] = {0};
        esp_criterion_data data = {.dataset = images, .batch = 1};
        esp_error err = {0};
        assert_true(view.layers->count <= 64);
        esp_status status =
            esp_saliency_all(NULL, view.graph, view.layers, criterion, &data, 0, single, &err);
        data.batch = 3;
        assert_int_equal(esp_saliency_all(NULL, view.graph, view.layers, criterion, &data, 0, batches, &err),
                         status);
        assert_true(status == ESP_OK || status == ESP_UNSUPPORTED);
        for (int l = 0; l < view.layers->count; l++) {
            assert_int_equal(single[l] != NULL, batches[l] != NULL);
            if (single[l]) /* gradients of different sums in float32 */
                assert_doubles(batches[l], single[l], view.layers->items[l].filters, 1e-3);
            scored += single[l] != NULL;
            esp_free(single[l]);
            esp_free(batches[l]);
        }
        esp_dataset_unref(images);
        net_forget(&view);
    }
    assert_true(scored > RANDOM_NETS);
}

static void every_allocation_may_fail(void **state)
{
    static const char *const names[] = {"apoz", "taylor-weight", "lamp"};
    const fixture *it = *state;

    for (size_t i = 0; i < 3; i++) {
        for (int64_t k = 1;; k++) {
            const esp_criterion_data data = {.dataset = it->images};
            double *scores[LAYERS] = {0};
            esp_error err = {0};
            const esp_criterion *criterion = criterion_of(names[i]);
            esp_memory_fuse(k);
            esp_status status =
                esp_saliency_all(NULL, it->graph, &it->layers, criterion, &data, 0, scores, &err);
            bool has_burnt = esp_memory_fuse_burnt();
            esp_memory_fuse(0);
            if (status != ESP_OK) {
                assert_int_equal(status, ESP_NO_MEMORY);
                for (int l = 0; l < LAYERS; l++)
                    assert_null(scores[l]);
            }
            free_scores(scores);
            if (!has_burnt)
                break;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(activation_is_the_mean_magnitude_that_pytorch_finds),
        cmocka_unit_test(apoz_counts_the_zeros_that_pytorch_counts),
        cmocka_unit_test(taylor_is_the_product_with_pytorchs_gradient),
        cmocka_unit_test(taylor_weight_is_the_product_with_pytorchs_weight_gradient),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(the_seed_chooses_the_images),
        cmocka_unit_test(a_criterion_that_looks_at_data_asks_for_it),
        cmocka_unit_test(criteria_without_data_score_all_layers_as_one_by_one),
        cmocka_unit_test(a_criterion_that_says_nothing_of_any_layer_is_an_error),
        cmocka_unit_test(lamp_divides_by_the_squares_that_are_not_smaller),
        cmocka_unit_test(lamp_of_equal_and_of_empty_filters_is_equal_and_zero),
        cmocka_unit_test(a_map_is_looked_at_behind_its_activation_function),
        cmocka_unit_test(a_map_with_two_readers_is_looked_at_itself),
        cmocka_unit_test(random_networks_score_the_same_in_any_batches),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests_name("criteria on data", tests, open_fixture, close_fixture);
}
