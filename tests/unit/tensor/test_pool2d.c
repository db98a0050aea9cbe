/* Pooling against windows visited one by one; gradients against finite differences. */
#include "unit/tensor/check.h"

#include "oracle/oracle.h"

static int64_t outputs_of(const esp_pool2d_geometry *g)
{
    return g->batch * g->channels * g->out_height * g->out_width;
}

static int64_t inputs_of(const esp_pool2d_geometry *g)
{
    return g->batch * g->channels * g->height * g->width;
}

static void derive_output(esp_pool2d_geometry *g, bool ceil_mode)
{
    g->out_height = esp_pool2d_output_size(g->height, g->kernel_h, g->stride_h, g->pad_top, g->pad_bottom,
                                           g->dilation_h, ceil_mode);
    g->out_width = esp_pool2d_output_size(g->width, g->kernel_w, g->stride_w, g->pad_left, g->pad_right,
                                          g->dilation_w, ceil_mode);
}

static esp_pool2d_geometry random_geometry(esp_rng *rng, int64_t largest)
{
    esp_pool2d_geometry g = {0};
    do {
        g.batch = pick(rng, 1, 3);
        g.channels = pick(rng, 1, 4);
        g.height = pick(rng, 1, largest);
        g.width = pick(rng, 1, largest);
        g.kernel_h = pick(rng, 1, 4);
        g.kernel_w = pick(rng, 1, 4);
        g.stride_h = pick(rng, 1, 5);
        g.stride_w = pick(rng, 1, 5);
        g.dilation_h = pick(rng, 1, 2);
        g.dilation_w = pick(rng, 1, 2);
        g.pad_top = pick(rng, 0, 5);
        g.pad_left = pick(rng, 0, 2);
        g.pad_bottom = pick(rng, 0, 2);
        g.pad_right = pick(rng, 0, 5);
        g.counts_padding = pick(rng, 0, 1) == 1;
        derive_output(&g, pick(rng, 0, 1) == 1);
    } while (g.out_height <= 0 || g.out_width <= 0);
    return g;
}

static void forward_agrees_with_the_naive_loops_on_random_geometries(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 30);
    for (int i = 0; i < 300; i++) {
        esp_pool2d_geometry g = random_geometry(&rng, 20);
        pair x = pair_random(&rng, inputs_of(&g), -1.0, 1.0), y = pair_new(outputs_of(&g));
        const esp_compute *compute = &all->compute[i % (MOST_THREADS + 1)];
        oracle_pool(&g, true, x.d, y.d);
        assert_int_equal(esp_max_pool_forward(compute, &g, x.f, y.f), ESP_OK);
        assert_all_close("max", y.f, y.d, y.count, 0.0);
        oracle_pool(&g, false, x.d, y.d);
        assert_int_equal(esp_average_pool_forward(compute, &g, x.f, y.f), ESP_OK);
        assert_all_close("average", y.f, y.d, y.count, 1e-6);
        pair_free(x);
        pair_free(y);
    }
}

typedef struct loss_context {
    const esp_pool2d_geometry *g;
    bool is_max;
    const double *x, *dy;
    double *y;
} loss_context;

/* Windows that see nothing are -inf and carry no gradient. */
static double pool_loss(void *context)
{
    const loss_context *c = context;
    double sum = 0.0;
    oracle_pool(c->g, c->is_max, c->x, c->y);
    for (int64_t i = 0; i < outputs_of(c->g); i++)
        if (isfinite(c->y[i]))
            sum += c->y[i] * c->dy[i];
    return sum;
}

static void gradients_are_those_of_finite_differences(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 31);
    for (int i = 0; i < 120; i++) {
        esp_pool2d_geometry g = random_geometry(&rng, 9);
        pair x = pair_random(&rng, inputs_of(&g), -1.0, 1.0), dx = pair_new(inputs_of(&g));
        pair dy = pair_random(&rng, outputs_of(&g), -1.0, 1.0), y = pair_new(outputs_of(&g));
        const esp_compute *compute = &all->compute[i % (MOST_THREADS + 1)];
        loss_context context = {&g, true, x.d, dy.d, y.d};
        oracle_gradient(x.d, x.count, pool_loss, &context, dx.d);
        assert_int_equal(esp_max_pool_backward(compute, &g, x.f, dy.f, dx.f), ESP_OK);
        assert_all_close("max", dx.f, dx.d, dx.count, 1e-5);
        context.is_max = false;
        oracle_gradient(x.d, x.count, pool_loss, &context, dx.d);
        assert_int_equal(esp_average_pool_backward(compute, &g, dy.f, dx.f), ESP_OK);
        assert_all_close("average", dx.f, dx.d, dx.count, 1e-5);
        pair_free(x);
        pair_free(dx);
        pair_free(dy);
        pair_free(y);
    }
}

static void a_global_window_is_the_mean_of_the_plane(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 32);
    esp_pool2d_geometry g = {.batch = 3,
                             .channels = 70,
                             .height = 7,
                             .width = 9,
                             .kernel_h = 7,
                             .kernel_w = 9,
                             .stride_h = 1,
                             .stride_w = 1,
                             .dilation_h = 1,
                             .dilation_w = 1};
    derive_output(&g, false);
    pair x = pair_random(&rng, inputs_of(&g), -1.0, 1.0), y = pair_new(outputs_of(&g));
    assert_int_equal(y.count, 210);
    oracle_pool(&g, false, x.d, y.d);
    assert_int_equal(esp_average_pool_forward(&all->compute[2], &g, x.f, y.f), ESP_OK);
    assert_all_close("mean", y.f, y.d, y.count, 1e-6);
    pair_free(x);
    pair_free(y);
}

/* Values from the ONNX operator descriptions of MaxPool-12 and AveragePool-11. */
static void ceil_mode_keeps_only_windows_that_start_inside(void **state)
{
    (void)state;
    assert_int_equal(esp_pool2d_output_size(4, 3, 2, 0, 0, 1, true), 2);
    assert_int_equal(esp_pool2d_output_size(4, 3, 2, 0, 0, 1, false), 1);
    assert_int_equal(esp_pool2d_output_size(2, 1, 3, 0, 0, 1, true),
                     1); /* a second window would start at 3 */
    assert_int_equal(esp_pool2d_output_size(3, 1, 3, 0, 0, 1, true), 1); /* right behind the last value */
    assert_int_equal(esp_pool2d_output_size(32, 5, 3, 0, 0, 1, true), 10);
    assert_int_equal(esp_pool2d_output_size(32, 5, 3, 0, 0, 1, false), 10);
    assert_int_equal(esp_pool2d_output_size(2, 3, 1, 0, 0, 1, true), 0);
}

static void the_first_of_equal_maxima_gets_the_gradient(void **state)
{
    (void)state;
    esp_pool2d_geometry g = {.batch = 1,
                             .channels = 1,
                             .height = 2,
                             .width = 2,
                             .kernel_h = 2,
                             .kernel_w = 2,
                             .stride_h = 1,
                             .stride_w = 1,
                             .dilation_h = 1,
                             .dilation_w = 1};
    derive_output(&g, false);
    const float x[] = {1.0f, 3.0f, 3.0f, 2.0f}, dy[] = {5.0f}, expected[] = {0.0f, 5.0f, 0.0f, 0.0f};
    float dx[4];
    assert_int_equal(esp_max_pool_backward(NULL, &g, x, dy, dx), ESP_OK);
    assert_same_bits("dx", dx, expected, 4);
}

static void a_nan_wins_the_window_and_its_gradient(void **state)
{
    (void)state;
    esp_pool2d_geometry g = {.batch = 1,
                             .channels = 1,
                             .height = 1,
                             .width = 4,
                             .kernel_h = 1,
                             .kernel_w = 4,
                             .stride_h = 1,
                             .stride_w = 1,
                             .dilation_h = 1,
                             .dilation_w = 1};
    derive_output(&g, false);
    const float x[] = {1.0f, NAN, 7.0f, NAN}, dy[] = {5.0f}, expected[] = {0.0f, 5.0f, 0.0f, 0.0f};
    float y[1], dx[4];
    assert_int_equal(esp_max_pool_forward(NULL, &g, x, y), ESP_OK);
    assert_true(isnan(y[0]));
    assert_int_equal(esp_max_pool_backward(NULL, &g, x, dy, dx), ESP_OK);
    assert_same_bits("dx", dx, expected, 4);
}

static void a_cancelled_run_says_so(void **state)
{
    esp_cancel cancel;
    esp_compute compute = cancelled_compute(*state, &cancel);
    esp_pool2d_geometry g = {.batch = 1,
                             .channels = 1,
                             .height = 1,
                             .width = 1,
                             .kernel_h = 1,
                             .kernel_w = 1,
                             .stride_h = 1,
                             .stride_w = 1,
                             .dilation_h = 1,
                             .dilation_w = 1,
                             .out_height = 1,
                             .out_width = 1};
    float x[1] = {1.0f}, y[1];
    assert_int_equal(esp_max_pool_forward(&compute, &g, x, y), ESP_CANCELLED);
    assert_int_equal(esp_max_pool_backward(&compute, &g, x, x, y), ESP_CANCELLED);
    assert_int_equal(esp_average_pool_forward(&compute, &g, x, y), ESP_CANCELLED);
    assert_int_equal(esp_average_pool_backward(&compute, &g, x, y), ESP_CANCELLED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_the_naive_loops_on_random_geometries),
        cmocka_unit_test(gradients_are_those_of_finite_differences),
        cmocka_unit_test(a_global_window_is_the_mean_of_the_plane),
        cmocka_unit_test(ceil_mode_keeps_only_windows_that_start_inside),
        cmocka_unit_test(the_first_of_equal_maxima_gets_the_gradient),
        cmocka_unit_test(a_nan_wins_the_window_and_its_gradient),
        cmocka_unit_test(a_cancelled_run_says_so),
    };
    return cmocka_run_group_tests(tests, contexts_setup, contexts_teardown);
}
