/* Norms of weights against naive sums: both stored orders, masks, sizes around the edges of blocks. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "prune/weights.h"
#include "unit/base/scratch.h"
#include "unit/prune/prune_nets.h"

/* Convolutions of 3x3, 1x1 and 5x5 and two fully connected layers, one of them cut into blocks. */
static net_view look(net_fc_form form)
{
    net_tensor x;
    net n = net_start(3, 6, 6, 5, &x);

    x = net_unary(&n, "Relu", net_conv3(&n, x, 7));
    x = net_unary(&n, "Relu", net_conv1(&n, x, 13));
    x = net_unary(&n, "Relu", net_conv(&n, x, 34, (net_conv_options){.kernel = 5, .stride = 1, .pad = 2}));
    x = net_unary(&n, "Relu", net_fc(&n, net_flatten(&n, x), 901, form));
    net_output(&n, net_fc(&n, x, 18, form));
    return net_look(net_finish(&n));
}

static esp_mask *make_masks(const net_view *view, double share)
{
    esp_mask *masks = esp_alloc_zero((size_t)view->layers->count, sizeof *masks);
    esp_rng rng;
    esp_error err = {0};

    esp_rng_seed(&rng, 9);
    for (int l = 0; l < view->layers->count; l++) {
        const esp_layer *layer = &view->layers->items[l];
        expect_ok(esp_mask_new(layer->filters, layer->channels, &masks[l], &err), &err);
        for (int64_t i = 0; i < layer->filters * layer->channels; i++)
            if (esp_rng_uniform(&rng) < share)
                esp_mask_clear(&masks[l], i / layer->channels, i % layer->channels);
    }
    return masks;
}

static void free_masks(const net_view *view, esp_mask *masks)
{
    for (int l = 0; l < view->layers->count; l++)
        esp_mask_free(&masks[l]);
    esp_free(masks);
}

static void check_close(double found, double expected)
{
    if (!(fabs(found - expected) <= 1e-12 * (expected + 1)))
        fail_msg("found %.17g, expected %.17g", found, expected);
}

static void check_layer(const net_view *view, int l, const esp_mask *mask, const esp_layer_l1 *found)
{
    const esp_layer *layer = &view->layers->items[l];
    int64_t positions = layer->kernel_h * layer->kernel_w, filters = layer->filters,
            channels = layer->channels;
    float *weight = esp_alloc((size_t)(filters * channels * positions), sizeof *weight);
    double *expected = esp_alloc_zero((size_t)(filters + channels), sizeof *expected);

    esp_layer_weight_canonical(layer, esp_graph_value(view->graph, layer->weight)->constant, weight);
    for (int64_t f = 0; f < filters; f++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t p = 0; esp_mask_get(mask, f, c) && p < positions; p++) {
                expected[f] += fabs((double)weight[(f * channels + c) * positions + p]);
                expected[filters + c] += fabs((double)weight[(f * channels + c) * positions + p]);
            }
    for (int64_t f = 0; f < filters; f++)
        check_close(found->filters[f], expected[f]);
    for (int64_t c = 0; c < channels; c++)
        check_close(found->channels[c], expected[filters + c]);
    esp_free(weight);
    esp_free(expected);
}

static void norms_agree_with_naive_sums_for_any_order_and_mask(void **state)
{
    (void)state;
    for (int round = 0; round < 4; round++) {
        net_view view = look(round % 2 ? NET_GEMM_PLAIN : NET_GEMM_TRANSPOSED);
        esp_mask *masks = make_masks(&view, round / 2 ? 0.3 : 0);
        esp_layer_l1 norms[8];
        esp_error err = {0};
        assert_int_equal(view.layers->count, 5);
        expect_ok(esp_layers_l1(NULL, view.graph, view.layers, masks, NULL, norms, &err), &err);
        for (int l = 0; l < 5; l++) {
            check_layer(&view, l, &masks[l], &norms[l]);
            esp_layer_l1_free(&norms[l]);
        }
        free_masks(&view, masks);
        net_forget(&view);
    }
}

static void norms_are_the_same_for_any_number_of_threads(void **state)
{
    net_view view = look(NET_GEMM_PLAIN);
    esp_mask *masks = make_masks(&view, 0);
    esp_layer_l1 alone[8], shared[8];
    esp_pool *pool;
    esp_error err = {0};
    (void)state;

    expect_ok(esp_pool_new(3, &pool, &err), &err);
    esp_compute compute = {.pool = pool};
    expect_ok(esp_layers_l1(NULL, view.graph, view.layers, masks, NULL, alone, &err), &err);
    expect_ok(esp_layers_l1(&compute, view.graph, view.layers, masks, NULL, shared, &err), &err);
    for (int l = 0; l < 5; l++) {
        const esp_layer *layer = &view.layers->items[l];
        assert_memory_equal(alone[l].filters, shared[l].filters, (size_t)layer->filters * sizeof(double));
        assert_memory_equal(alone[l].channels, shared[l].channels, (size_t)layer->channels * sizeof(double));
        esp_layer_l1_free(&alone[l]);
        esp_layer_l1_free(&shared[l]);
    }
    esp_pool_free(pool);
    free_masks(&view, masks);
    net_forget(&view);
}

static void only_the_layers_that_are_wanted_are_measured(void **state)
{
    net_view view = look(NET_GEMM_PLAIN);
    esp_mask *masks = make_masks(&view, 0);
    const bool is_wanted[] = {false, true, false, false, true};
    esp_layer_l1 norms[8];
    esp_error err = {0};
    (void)state;

    expect_ok(esp_layers_l1(NULL, view.graph, view.layers, masks, is_wanted, norms, &err), &err);
    for (int l = 0; l < 5; l++) {
        assert_int_equal(norms[l].filters != NULL, is_wanted[l]);
        esp_layer_l1_free(&norms[l]);
    }
    free_masks(&view, masks);
    net_forget(&view);
}

static void norms_survive_every_failed_allocation(void **state)
{
    net_view view = look(NET_GEMM_PLAIN);
    esp_mask *masks = make_masks(&view, 0);
    size_t live = esp_memory_live();
    int failures = 0;
    (void)state;

    for (int64_t k = 1;; k++) {
        esp_layer_l1 norms[8];
        esp_error err = {0};
        esp_memory_fuse(k);
        esp_status status = esp_layers_l1(NULL, view.graph, view.layers, masks, NULL, norms, &err);
        bool has_burnt = esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        assert_int_equal(status, has_burnt ? ESP_NO_MEMORY : ESP_OK);
        for (int l = 0; l < 5; l++)
            esp_layer_l1_free(&norms[l]);
        assert_int_equal(esp_memory_live(), live);
        if (!has_burnt)
            break;
        failures++;
    }
    assert_true(failures > 10);
    free_masks(&view, masks);
    net_forget(&view);
}

static void sums_of_any_length_agree_with_naive_ones(void **state)
{
    float values[100];
    esp_rng rng;
    (void)state;

    esp_rng_seed(&rng, 1);
    for (int count = 0; count <= 100; count++) {
        double magnitudes = 0, squares = 0;
        for (int i = 0; i < count; i++) {
            values[i] = (float)esp_rng_normal(&rng);
            magnitudes += fabs((double)values[i]);
            squares += (double)values[i] * (double)values[i];
        }
        check_close(esp_magnitude_sum(count, values), magnitudes);
        check_close(esp_square_sum(count, values), squares);
    }
    values[37] = NAN;
    assert_true(isnan(esp_magnitude_sum(100, values)));
    values[37] = -INFINITY;
    assert_true(isinf(esp_magnitude_sum(100, values)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_agree_with_naive_sums_for_any_order_and_mask),
        cmocka_unit_test(norms_are_the_same_for_any_number_of_threads),
        cmocka_unit_test(only_the_layers_that_are_wanted_are_measured),
        cmocka_unit_test(norms_survive_every_failed_allocation),
        cmocka_unit_test(sums_of_any_length_agree_with_naive_ones),
    };
    return cmocka_run_group_tests_name("weights", tests, NULL, NULL);
}
