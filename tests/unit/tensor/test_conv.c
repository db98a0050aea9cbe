/* Convolution against the naive loops, for each method that fits a geometry and for each pass. */
#include "unit/tensor/check.h"

#include "oracle/oracle.h"
#include "tensor/conv_internal.h"

static void derive_output(esp_conv_geometry *g)
{
    g->out_height =
        esp_conv_output_size(g->height, g->kernel_h, g->stride_h, g->pad_top, g->pad_bottom, g->dilation_h);
    g->out_width =
        esp_conv_output_size(g->width, g->kernel_w, g->stride_w, g->pad_left, g->pad_right, g->dilation_w);
}

static char *describe(const esp_conv_geometry *g, const char *method, const char *pass, char *text,
                      size_t size)
{
    snprintf(text, size, "%s %s [%d,%d,%d,%d] f%d g%d k%dx%d s%dx%d d%dx%d p%d,%d,%d,%d", method, pass,
             (int)g->batch, (int)g->channels, (int)g->height, (int)g->width, (int)g->filters, (int)g->group,
             (int)g->kernel_h, (int)g->kernel_w, (int)g->stride_h, (int)g->stride_w, (int)g->dilation_h,
             (int)g->dilation_w, (int)g->pad_top, (int)g->pad_left, (int)g->pad_bottom, (int)g->pad_right);
    return text;
}

typedef struct conv_case {
    esp_conv_geometry g;
    pair x, w, bias, y, dy, dx, dw, db;
    double tolerance;
} conv_case;

static conv_case case_new(esp_rng *rng, const esp_conv_geometry *g)
{
    conv_case test = {.g = *g};
    int64_t outputs = g->batch * g->filters * conv_pixels(g),
            inputs = g->batch * g->channels * g->height * g->width;
    test.x = pair_random(rng, inputs, -1.0, 1.0);
    test.w = pair_random(rng, conv_weights(g), -1.0, 1.0);
    test.bias = pair_random(rng, g->filters, -1.0, 1.0);
    test.dy = pair_random(rng, outputs, -1.0, 1.0);
    test.y = pair_new(outputs);
    test.dx = pair_new(inputs);
    test.dw = pair_new(conv_weights(g));
    test.db = pair_new(g->filters);
    /* Float sums of `terms` products of size <= 1: rounding grows as the square root of their number. */
    double terms =
        (double)conv_max(conv_depth(g), g->batch * conv_pixels(g)) + (double)(g->filters * conv_taps(g));
    test.tolerance = 2e-7 * 4.0 * sqrt(terms) + 1e-6;
    return test;
}

static void case_free(conv_case *test)
{
    pair *all[] = {&test->x, &test->w, &test->bias, &test->y, &test->dy, &test->dx, &test->dw, &test->db};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        pair_free(*all[i]);
}

static void *scratch_new(const conv_method *method, const esp_conv_geometry *g, esp_conv_pass pass, int slots)
{
    return esp_alloc(method->scratch(method, g, pass, slots), 1);
}

static void run_method(const esp_compute *compute, const conv_method *method, esp_conv_pass pass,
                       conv_case *test, bool with_bias)
{
    const esp_conv_geometry *g = &test->g;
    void *scratch = scratch_new(method, g, pass, esp_compute_slots(compute));
    assert_non_null(scratch);
    esp_status status = ESP_OK;
    switch (pass) {
    case ESP_CONV_FORWARD:
        status = method->forward(method, compute, g, test->x.f, test->w.f, with_bias ? test->bias.f : NULL,
                                 test->y.f, scratch);
        break;
    case ESP_CONV_GRAD_INPUT:
        status = method->grad_input(method, compute, g, test->dy.f, test->w.f, test->dx.f, scratch);
        break;
    case ESP_CONV_GRAD_WEIGHT:
        status = method->grad_weight(method, compute, g, test->x.f, test->dy.f, test->dw.f, scratch);
        break;
    }
    esp_free(scratch);
    assert_int_equal(status, ESP_OK);
}

/* Every method that fits gives what the loops give. */
static void check_case(esp_rng *rng, const esp_compute *compute, const esp_conv_geometry *g)
{
    char what[200];
    conv_case test = case_new(rng, g);
    bool with_bias = pick(rng, 0, 1) == 1;
    oracle_conv_forward(g, test.x.d, test.w.d, with_bias ? test.bias.d : NULL, test.y.d);
    oracle_conv_backward(g, test.x.d, test.w.d, test.dy.d, test.dx.d, test.dw.d, test.db.d);
    for (int m = 0; m < CONV_METHOD_COUNT; m++) {
        const conv_method *method = esp_conv_methods[m];
        if (method->fits(method, g, ESP_CONV_FORWARD)) {
            run_method(compute, method, ESP_CONV_FORWARD, &test, with_bias);
            assert_all_close(describe(g, method->name, "y", what, sizeof what), test.y.f, test.y.d,
                             test.y.count, test.tolerance);
        }
        if (method->fits(method, g, ESP_CONV_GRAD_INPUT)) {
            run_method(compute, method, ESP_CONV_GRAD_INPUT, &test, with_bias);
            assert_all_close(describe(g, method->name, "dx", what, sizeof what), test.dx.f, test.dx.d,
                             test.dx.count, test.tolerance);
        }
        if (method->fits(method, g, ESP_CONV_GRAD_WEIGHT)) {
            run_method(compute, method, ESP_CONV_GRAD_WEIGHT, &test, with_bias);
            assert_all_close(describe(g, method->name, "dw", what, sizeof what), test.dw.f, test.dw.d,
                             test.dw.count, test.tolerance);
        }
    }
    case_free(&test);
}

static esp_conv_geometry random_geometry(esp_rng *rng)
{
    esp_conv_geometry g = {0};
    do {
        bool is_depthwise = pick(rng, 0, 5) == 0;
        g.batch = pick(rng, 1, 3);
        g.group = is_depthwise ? pick(rng, 1, 9) : pick(rng, 0, 2) == 0 ? pick(rng, 2, 4) : 1;
        g.channels = g.group * (is_depthwise ? 1 : pick(rng, 1, 7));
        g.filters = g.group * (is_depthwise ? pick(rng, 1, 2) : pick(rng, 1, 19));
        g.height = pick(rng, 1, 19);
        g.width = pick(rng, 1, 19);
        g.kernel_h = pick(rng, 1, 5);
        g.kernel_w = pick(rng, 1, 5);
        g.stride_h = pick(rng, 1, 3);
        g.stride_w = pick(rng, 0, 2) == 0 ? pick(rng, 1, 6) : g.stride_h;
        g.dilation_h = pick(rng, 1, 2);
        g.dilation_w = pick(rng, 1, 3);
        g.pad_top = pick(rng, 0, 3);
        g.pad_left = pick(rng, 0, 6);
        g.pad_bottom = pick(rng, 0, 6);
        g.pad_right = pick(rng, 0, 3);
        derive_output(&g);
    } while (g.out_height <= 0 || g.out_width <= 0);
    return g;
}

static void every_method_agrees_with_the_naive_loops_on_random_geometries(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 20);
    for (int i = 0; i < 160; i++) {
        esp_conv_geometry g = random_geometry(&rng);
        check_case(&rng, &all->compute[1 + i % MOST_THREADS], &g);
    }
}

static void shapes_of_real_networks_agree_with_the_naive_loops(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 21);
    const esp_conv_geometry shapes[] = {
        /* LeNet-5's first, ResNet's 3x3 with and without stride, its 1x1 shortcut, the 7x7 stem, depthwise.
         */
        {.batch = 2,
         .channels = 1,
         .height = 28,
         .width = 28,
         .filters = 6,
         .group = 1,
         .kernel_h = 5,
         .kernel_w = 5,
         .stride_h = 1,
         .stride_w = 1,
         .dilation_h = 1,
         .dilation_w = 1,
         .pad_top = 2,
         .pad_left = 2,
         .pad_bottom = 2,
         .pad_right = 2},
        {.batch = 3,
         .channels = 16,
         .height = 28,
         .width = 28,
         .filters = 16,
         .group = 1,
         .kernel_h = 3,
         .kernel_w = 3,
         .stride_h = 1,
         .stride_w = 1,
         .dilation_h = 1,
         .dilation_w = 1,
         .pad_top = 1,
         .pad_left = 1,
         .pad_bottom = 1,
         .pad_right = 1},
        {.batch = 2,
         .channels = 32,
         .height = 14,
         .width = 14,
         .filters = 64,
         .group = 1,
         .kernel_h = 3,
         .kernel_w = 3,
         .stride_h = 2,
         .stride_w = 2,
         .dilation_h = 1,
         .dilation_w = 1,
         .pad_top = 1,
         .pad_left = 1,
         .pad_bottom = 1,
         .pad_right = 1},
        {.batch = 2,
         .channels = 40,
         .height = 14,
         .width = 13,
         .filters = 33,
         .group = 1,
         .kernel_h = 1,
         .kernel_w = 1,
         .stride_h = 2,
         .stride_w = 2,
         .dilation_h = 1,
         .dilation_w = 1},
        {.batch = 17,
         .channels = 8,
         .height = 7,
         .width = 7,
         .filters = 24,
         .group = 1,
         .kernel_h = 3,
         .kernel_w = 3,
         .stride_h = 1,
         .stride_w = 1,
         .dilation_h = 1,
         .dilation_w = 1,
         .pad_top = 1,
         .pad_left = 1,
         .pad_bottom = 1,
         .pad_right = 1},
        {.batch = 1,
         .channels = 3,
         .height = 61,
         .width = 64,
         .filters = 18,
         .group = 1,
         .kernel_h = 7,
         .kernel_w = 7,
         .stride_h = 2,
         .stride_w = 2,
         .dilation_h = 1,
         .dilation_w = 1,
         .pad_top = 3,
         .pad_left = 3,
         .pad_bottom = 3,
         .pad_right = 3},
        {.batch = 2,
         .channels = 24,
         .height = 30,
         .width = 30,
         .filters = 24,
         .group = 24,
         .kernel_h = 3,
         .kernel_w = 3,
         .stride_h = 1,
         .stride_w = 1,
         .dilation_h = 1,
         .dilation_w = 1,
         .pad_top = 1,
         .pad_left = 1,
         .pad_bottom = 1,
         .pad_right = 1},
        {.batch = 2,
         .channels = 70,
         .height = 1,
         .width = 1,
         .filters = 5,
         .group = 1,
         .kernel_h = 1,
         .kernel_w = 1,
         .stride_h = 1,
         .stride_w = 1,
         .dilation_h = 1,
         .dilation_w = 1},
        /* Large enough that one plane is cut into bands. */
        {.batch = 1,
         .channels = 48,
         .height = 90,
         .width = 80,
         .filters = 4,
         .group = 1,
         .kernel_h = 3,
         .kernel_w = 3,
         .stride_h = 1,
         .stride_w = 1,
         .dilation_h = 1,
         .dilation_w = 1,
         .pad_top = 1,
         .pad_left = 1,
         .pad_bottom = 1,
         .pad_right = 1},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        esp_conv_geometry g = shapes[i];
        derive_output(&g);
        check_case(&rng, &all->compute[2], &g);
    }
}

static void the_public_functions_agree_with_the_naive_loops(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 22);
    for (int i = 0; i < 40; i++) {
        esp_conv_geometry g = random_geometry(&rng);
        conv_case test = case_new(&rng, &g);
        const esp_compute *compute = &all->compute[2];
        oracle_conv_forward(&g, test.x.d, test.w.d, test.bias.d, test.y.d);
        oracle_conv_backward(&g, test.x.d, test.w.d, test.dy.d, test.dx.d, test.dw.d, test.db.d);
        void *scratch[3];
        for (int pass = 0; pass < 3; pass++)
            scratch[pass] = esp_alloc(esp_conv_scratch(&g, (esp_conv_pass)pass, 2), 1);
        assert_int_equal(esp_conv_forward(compute, &g, test.x.f, test.w.f, test.bias.f, test.y.f, scratch[0]),
                         ESP_OK);
        assert_int_equal(esp_conv_grad_input(compute, &g, test.dy.f, test.w.f, test.dx.f, scratch[1]),
                         ESP_OK);
        assert_int_equal(
            esp_conv_grad_weight(compute, &g, test.x.f, test.dy.f, test.dw.f, test.db.f, scratch[2]), ESP_OK);
        assert_all_close("y", test.y.f, test.y.d, test.y.count, test.tolerance);
        assert_all_close("dx", test.dx.f, test.dx.d, test.dx.count, test.tolerance);
        assert_all_close("dw", test.dw.f, test.dw.d, test.dw.count, test.tolerance);
        assert_all_close("db", test.db.f, test.db.d, test.db.count, test.tolerance);
        for (int pass = 0; pass < 3; pass++)
            esp_free(scratch[pass]);
        case_free(&test);
    }
}

static void results_have_the_same_bits_for_one_two_and_three_threads(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 23);
    for (int i = 0; i < 25; i++) {
        esp_conv_geometry g = random_geometry(&rng);
        g.batch = pick(&rng, 1, 20);
        conv_case test = case_new(&rng, &g);
        for (int m = 0; m < CONV_METHOD_COUNT; m++)
            for (int pass = 0; pass < 3; pass++) {
                if (!esp_conv_methods[m]->fits(esp_conv_methods[m], &g, (esp_conv_pass)pass))
                    continue;
                pair *out = pass == 0 ? &test.y : pass == 1 ? &test.dx : &test.dw;
                float *first = floats_new(out->count);
                run_method(&all->compute[1], esp_conv_methods[m], (esp_conv_pass)pass, &test, true);
                memcpy(first, out->f, (size_t)out->count * sizeof(float));
                for (int threads = 0; threads <= MOST_THREADS; threads++) {
                    run_method(&all->compute[threads], esp_conv_methods[m], (esp_conv_pass)pass, &test, true);
                    assert_same_bits(esp_conv_methods[m]->name, out->f, first, out->count);
                }
                free(first);
            }
        case_free(&test);
    }
}

typedef struct loss_context {
    const esp_conv_geometry *g;
    const double *x, *w, *bias, *dy;
    double *y;
} loss_context;

static double conv_loss(void *context)
{
    const loss_context *c = context;
    oracle_conv_forward(c->g, c->x, c->w, c->bias, c->y);
    return oracle_dot(c->g->batch * c->g->filters * conv_pixels(c->g), c->y, c->dy);
}

static void gradients_are_those_of_finite_differences(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 24);
    esp_conv_geometry g = {.batch = 2,
                           .channels = 4,
                           .height = 5,
                           .width = 6,
                           .filters = 6,
                           .group = 2,
                           .kernel_h = 3,
                           .kernel_w = 2,
                           .stride_h = 2,
                           .stride_w = 1,
                           .dilation_h = 1,
                           .dilation_w = 2,
                           .pad_top = 1,
                           .pad_left = 2,
                           .pad_bottom = 0,
                           .pad_right = 1};
    derive_output(&g);
    conv_case test = case_new(&rng, &g);
    loss_context context = {&g, test.x.d, test.w.d, test.bias.d, test.dy.d, test.y.d};
    oracle_gradient(test.x.d, test.x.count, conv_loss, &context, test.dx.d);
    oracle_gradient(test.w.d, test.w.count, conv_loss, &context, test.dw.d);
    oracle_gradient(test.bias.d, test.bias.count, conv_loss, &context, test.db.d);
    void *scratch = esp_alloc(
        esp_conv_scratch(&g, ESP_CONV_GRAD_INPUT, 2) + esp_conv_scratch(&g, ESP_CONV_GRAD_WEIGHT, 2), 1);
    assert_int_equal(esp_conv_grad_input(&all->compute[2], &g, test.dy.f, test.w.f, test.dx.f, scratch),
                     ESP_OK);
    assert_int_equal(
        esp_conv_grad_weight(&all->compute[2], &g, test.x.f, test.dy.f, test.dw.f, test.db.f, scratch),
        ESP_OK);
    assert_all_close("dx", test.dx.f, test.dx.d, test.dx.count, 1e-5);
    assert_all_close("dw", test.dw.f, test.dw.d, test.dw.count, 1e-5);
    assert_all_close("db", test.db.f, test.db.d, test.db.count, 1e-5);
    esp_free(scratch);
    case_free(&test);
}

static void a_cancelled_pass_says_so(void **state)
{
    contexts *all = *state;
    esp_cancel cancel;
    esp_compute compute = cancelled_compute(all, &cancel);
    esp_rng rng;
    esp_rng_seed(&rng, 25);
    esp_conv_geometry g = random_geometry(&rng);
    conv_case test = case_new(&rng, &g);
    void *scratch[3];
    for (int pass = 0; pass < 3; pass++)
        scratch[pass] = esp_alloc(esp_conv_scratch(&g, (esp_conv_pass)pass, 2), 1);
    assert_int_equal(esp_conv_forward(&compute, &g, test.x.f, test.w.f, NULL, test.y.f, scratch[0]),
                     ESP_CANCELLED);
    assert_int_equal(esp_conv_grad_input(&compute, &g, test.dy.f, test.w.f, test.dx.f, scratch[1]),
                     ESP_CANCELLED);
    assert_int_equal(
        esp_conv_grad_weight(&compute, &g, test.x.f, test.dy.f, test.dw.f, test.db.f, scratch[2]),
        ESP_CANCELLED);
    for (int pass = 0; pass < 3; pass++)
        esp_free(scratch[pass]);
    case_free(&test);
}

static void output_size_counts_the_places_a_kernel_fits(void **state)
{
    (void)state;
    for (int64_t size = 0; size <= 9; size++)
        for (int64_t kernel = 1; kernel <= 4; kernel++)
            for (int64_t stride = 1; stride <= 4; stride++)
                for (int64_t pad = 0; pad <= 2; pad++)
                    for (int64_t dilation = 1; dilation <= 2; dilation++) {
                        int64_t places = 0;
                        while (places * stride + dilation * (kernel - 1) + 1 <= size + pad + 1)
                            places++;
                        assert_int_equal(esp_conv_output_size(size, kernel, stride, pad, 1, dilation),
                                         places);
                    }
}

static void an_empty_batch_gives_zero_gradients(void **state)
{
    (void)state;
    esp_conv_geometry g = {.batch = 0,
                           .channels = 2,
                           .height = 4,
                           .width = 4,
                           .filters = 3,
                           .group = 1,
                           .kernel_h = 3,
                           .kernel_w = 3,
                           .stride_h = 1,
                           .stride_w = 1,
                           .dilation_h = 1,
                           .dilation_w = 1};
    derive_output(&g);
    float dw[54], db[3], none[1] = {0};
    assert_int_equal(esp_conv_grad_weight(NULL, &g, none, none, dw, db, NULL), ESP_OK);
    for (int i = 0; i < 54; i++)
        assert_true(dw[i] == 0.0f);
    for (int i = 0; i < 3; i++)
        assert_true(db[i] == 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_method_agrees_with_the_naive_loops_on_random_geometries),
        cmocka_unit_test(shapes_of_real_networks_agree_with_the_naive_loops),
        cmocka_unit_test(the_public_functions_agree_with_the_naive_loops),
        cmocka_unit_test(results_have_the_same_bits_for_one_two_and_three_threads),
        cmocka_unit_test(gradients_are_those_of_finite_differences),
        cmocka_unit_test(a_cancelled_pass_says_so),
        cmocka_unit_test(output_size_counts_the_places_a_kernel_fits),
        cmocka_unit_test(an_empty_batch_gives_zero_gradients),
    };
    return cmocka_run_group_tests(tests, contexts_setup, contexts_teardown);
}
