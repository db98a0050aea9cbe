/* Gradients of convolution in channel blocks against the naive loops and finite differences, in every
 * instruction set this processor has: undefined lanes and gaps without influence, the same bits for any
 * number of threads. */
#include "unit/tensor/blocked_check.h"

#include "oracle/oracle.h"
#include "tensor/blocked_conv_internal.h"

static const esp_isa all_isas[] = {ESP_ISA_PLAIN, ESP_ISA_AVX2, ESP_ISA_AVX512};
enum { ISA_COUNT = sizeof all_isas / sizeof *all_isas };

static esp_blocked_conv plan_of(const blocked_method *method, esp_isa isa, const esp_conv_geometry *g,
                                esp_conv_pass pass, bool takes_plain)
{
    return (esp_blocked_conv){.geometry = *g,
                              .pass = pass,
                              .engine = {.isa = isa, .has_winograd = true, .has_blocked = true},
                              .takes_plain = takes_plain,
                              .method = method};
}

static void derive_output(esp_conv_geometry *g)
{
    g->out_height =
        esp_conv_output_size(g->height, g->kernel_h, g->stride_h, g->pad_top, g->pad_bottom, g->dilation_h);
    g->out_width =
        esp_conv_output_size(g->width, g->kernel_w, g->stride_w, g->pad_left, g->pad_right, g->dilation_w);
}

static esp_conv_geometry square(int64_t batch, int64_t channels, int64_t size, int64_t filters,
                                int64_t kernel, int64_t stride, int64_t pad)
{
    esp_conv_geometry g = {batch,  channels, size, size, filters, 1,   kernel, kernel, stride,
                           stride, 1,        1,    pad,  pad,     pad, pad,    0,      0};
    derive_output(&g);
    return g;
}

/* Everything of one case; images in blocks have gaps and NaN where no channel is. */
typedef struct grad_case {
    esp_conv_geometry g;
    pair x, w, dy, residual;
    double *dx, *dw, *db, *dx_added; /* what is right */
    image_buffer blocked_x, blocked_dy, blocked_residual;
    int64_t gap;
    double tolerance;
} grad_case;

static grad_case case_new(esp_rng *rng, const esp_conv_geometry *g)
{
    grad_case test = {.g = *g, .gap = pick_gap(rng)};
    int64_t inputs = g->batch * g->channels * g->height * g->width;
    test.x = pair_random(rng, inputs, -1.0, 1.0);
    test.residual = pair_random(rng, inputs, -1.0, 1.0);
    test.w = pair_random(rng, conv_weights(g), -1.0, 1.0);
    test.dy = pair_random(rng, g->batch * g->filters * conv_pixels(g), -1.0, 1.0);
    test.dx = doubles_new(inputs);
    test.dx_added = doubles_new(inputs);
    test.dw = doubles_new(conv_weights(g));
    test.db = doubles_new(g->filters);
    oracle_conv_backward(g, test.x.d, test.w.d, test.dy.d, test.dx, test.dw, test.db);
    for (int64_t i = 0; i < inputs; i++)
        test.dx_added[i] = test.dx[i] + test.residual.d[i];
    esp_shape in = images(g->batch, g->channels, g->height, g->width);
    test.blocked_x = buffer_from(in, pick_gap(rng), test.x.f);
    test.blocked_residual = buffer_from(in, pick_gap(rng), test.residual.f);
    test.blocked_dy =
        buffer_from(images(g->batch, g->filters, g->out_height, g->out_width), pick_gap(rng), test.dy.f);
    /* Float sums of `terms` products of size <= 1: rounding grows as the square root of their number. */
    double terms = (double)(g->batch * conv_pixels(g) + conv_group_filters(g) * conv_taps(g));
    test.tolerance = 2e-7 * 4.0 * sqrt(terms) + 1e-6;
    return test;
}

static void case_free(grad_case *test)
{
    pair_free(test->x);
    pair_free(test->w);
    pair_free(test->dy);
    pair_free(test->residual);
    free(test->dx);
    free(test->dx_added);
    free(test->dw);
    free(test->db);
    buffer_free(test->blocked_x);
    buffer_free(test->blocked_dy);
    buffer_free(test->blocked_residual);
}

static char *describe(const esp_conv_geometry *g, esp_isa isa, const char *what, char *text, size_t size)
{
    snprintf(
        text, size,
        "%s %s [%d,%d,%d,%d] filters %d group %d kernel %dx%d stride %dx%d dilation %dx%d pad %d,%d,%d,%d",
        what, esp_isa_name(isa), (int)g->batch, (int)g->channels, (int)g->height, (int)g->width,
        (int)g->filters, (int)g->group, (int)g->kernel_h, (int)g->kernel_w, (int)g->stride_h,
        (int)g->stride_w, (int)g->dilation_h, (int)g->dilation_w, (int)g->pad_top, (int)g->pad_left,
        (int)g->pad_bottom, (int)g->pad_right);
    return text;
}

/* A block filled with NaN: scratch memory holds nothing that may matter. */
static void *dirty_block(size_t bytes)
{
    void *block = esp_alloc(bytes, 1);
    assert_non_null(block);
    memset(block, 0xff, bytes);
    return block;
}

/* dw and db into new arrays. */
static void run_weight(const esp_compute *compute, const esp_blocked_conv *plan, const grad_case *test,
                       float **dw, float **db)
{
    *dw = floats_new(conv_weights(&test->g));
    *db = floats_new(test->g.filters);
    esp_view plain = {.data = test->x.f,
                      .dtype = ESP_F32,
                      .shape = images(test->g.batch, test->g.channels, test->g.height, test->g.width)};
    void *scratch = dirty_block(plan->method->scratch(plan, esp_compute_slots(compute)));
    esp_status status =
        plan->method->grad_weight(compute, plan, plan->takes_plain ? &plain : &test->blocked_x.view,
                                  &test->blocked_dy.view, *dw, *db, scratch);
    esp_free(scratch);
    assert_int_equal(status, ESP_OK);
}

/* dx into a new image; `residual`: 0 none, 1 another image, 2 dx itself. */
static image_buffer run_input(const esp_compute *compute, const esp_blocked_conv *plan, const grad_case *test,
                              int residual)
{
    image_buffer dx = residual == 2 ? buffer_from(test->blocked_x.view.shape, test->gap, test->residual.f)
                                    : buffer_new(test->blocked_x.view.shape, test->gap);
    esp_conv_extras extras = {.residual = residual == 2 ? &dx.view : &test->blocked_residual.view};
    void *packed = dirty_block(plan->method->packed_bytes(plan));
    void *scratch = dirty_block(plan->method->scratch(plan, esp_compute_slots(compute)));
    assert_int_equal(plan->method->pack(compute, plan, test->w.f, packed), ESP_OK);
    esp_status status = plan->method->run(compute, plan, &test->blocked_dy.view, packed,
                                          residual == 0 ? NULL : &extras, &dx.view, scratch);
    esp_free(packed);
    esp_free(scratch);
    assert_int_equal(status, ESP_OK);
    return dx;
}

static void check_weight(const esp_compute *compute, esp_isa isa, const grad_case *test, bool takes_plain)
{
    char what[240];
    esp_blocked_conv plan =
        plan_of(&esp_blocked_direct_weight, isa, &test->g, ESP_CONV_GRAD_WEIGHT, takes_plain);
    if (!plan.method->fits(&plan))
        return;
    float *dw, *db;
    run_weight(compute, &plan, test, &dw, &db);
    assert_all_close(describe(&test->g, isa, takes_plain ? "dw of plain x" : "dw", what, sizeof what), dw,
                     test->dw, conv_weights(&test->g), test->tolerance);
    assert_all_close(describe(&test->g, isa, "db", what, sizeof what), db, test->db, test->g.filters,
                     test->tolerance);
    free(dw);
    free(db);
}

static void check_input(const esp_compute *compute, esp_isa isa, const grad_case *test)
{
    char what[240];
    esp_blocked_conv plan = plan_of(&esp_blocked_direct_input, isa, &test->g, ESP_CONV_GRAD_INPUT, false);
    if (!plan.method->fits(&plan))
        return;
    for (int residual = 0; residual < 3; residual++) {
        image_buffer dx = run_input(compute, &plan, test, residual);
        assert_buffer_close(describe(&test->g, isa, residual > 0 ? "dx added" : "dx", what, sizeof what), &dx,
                            residual > 0 ? test->dx_added : test->dx, test->tolerance);
        buffer_free(dx);
    }
}

static void check_case(esp_rng *rng, const esp_compute *compute, const esp_conv_geometry *g)
{
    grad_case test = case_new(rng, g);
    for (int i = 0; i < ISA_COUNT; i++) {
        if (!esp_isa_is_supported(all_isas[i]))
            continue;
        check_weight(compute, all_isas[i], &test, false);
        check_weight(compute, all_isas[i], &test, true);
        check_input(compute, all_isas[i], &test);
    }
    case_free(&test);
}

static esp_conv_geometry random_geometry(esp_rng *rng)
{
    esp_conv_geometry g = {0};
    do {
        g.batch = pick(rng, 1, 4);
        g.group = pick(rng, 0, 4) == 0 ? pick(rng, 2, 3) : 1;
        g.channels = g.group == 1 ? pick_channels(rng) : g.group * ESP_BLOCK * pick(rng, 1, 2);
        g.filters = g.group == 1 ? pick_channels(rng) : g.group * ESP_BLOCK * pick(rng, 1, 2);
        g.height = pick(rng, 1, 12);
        g.width = pick(rng, 1, 20);
        g.kernel_h = pick(rng, 1, 5);
        g.kernel_w = pick(rng, 1, 5);
        g.stride_h = pick(rng, 1, 4);
        g.stride_w = pick(rng, 0, 1) == 0 ? g.stride_h : pick(rng, 1, 4);
        g.dilation_h = pick(rng, 0, 2) == 0 ? pick(rng, 2, 6) : 1;
        g.dilation_w = pick(rng, 0, 2) == 0 ? pick(rng, 2, 6) : 1;
        g.pad_top = pick(rng, 0, 4);
        g.pad_left = pick(rng, 0, 4);
        g.pad_bottom = pick(rng, 0, 4);
        g.pad_right = pick(rng, 0, 4);
        derive_output(&g);
    } while (g.out_height == 0 || g.out_width == 0);
    return g;
}

static void gradients_equal_the_loops_for_random_geometries(void **state)
{
    const contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 20);
    for (int i = 0; i < 120; i++) {
        esp_conv_geometry g = random_geometry(&rng);
        check_case(&rng, &all->compute[2], &g);
    }
}

static void gradients_equal_the_loops_for_the_usual_layers(void **state)
{
    const contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 21);
    const esp_conv_geometry usual[] = {
        square(2, 3, 24, 64, 7, 2, 3),  square(3, 3, 16, 16, 3, 1, 1),  square(2, 16, 16, 16, 3, 1, 1),
        square(2, 32, 15, 64, 3, 2, 1), square(2, 32, 14, 64, 1, 1, 0), square(2, 64, 14, 32, 1, 2, 0),
        square(5, 48, 7, 32, 3, 1, 1),  square(3, 64, 7, 96, 1, 1, 0),  square(7, 33, 1, 65, 1, 1, 0),
        square(2, 1, 14, 20, 5, 1, 0),  square(1, 17, 30, 31, 3, 1, 1), square(1, 16, 1, 16, 3, 1, 1)};
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
        check_case(&rng, &all->compute[2], &usual[i]);
}

static void gradients_equal_the_loops_at_the_edges_of_geometry(void **state)
{
    const contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 22);
    /* batch, channels, height, width, filters, group, kernel, stride, dilation, pads, output */
    esp_conv_geometry odd[] = {
        {1, 16, 1, 1, 16, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0},       /* one pixel */
        {2, 5, 1, 1, 7, 1, 1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 0, 0},         /* pads around one pixel */
        {1, 20, 3, 2, 18, 1, 7, 7, 1, 1, 1, 1, 5, 6, 4, 5, 0, 0},       /* kernel larger than the image */
        {1, 16, 4, 4, 16, 1, 2, 2, 1, 1, 40, 37, 30, 28, 30, 28, 0, 0}, /* huge dilation */
        {1, 16, 5, 5, 16, 1, 1, 1, 1, 1, 1, 1, 9, 8, 7, 6, 0, 0},       /* big pads: outputs of nothing */
        {1, 16, 9, 11, 16, 1, 1, 1, 5, 4, 1, 1, 0, 0, 0, 0, 0, 0},      /* stride larger than the kernel */
        {2, 16, 8, 9, 16, 1, 3, 3, 2, 3, 1, 1, 0, 0, 0, 0, 0, 0},       /* inputs that no output meets */
        {1, 16, 12, 12, 16, 1, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0}, /* stride and dilation share a divisor */
        {1, 16, 13, 13, 16, 1, 4, 3, 4, 6, 6, 4, 5, 5, 5, 5, 0, 0}, /* phases with few of the taps */
        {1, 32, 1, 60, 32, 2, 1, 9, 1, 1, 1, 1, 0, 4, 0, 4, 0, 0},  /* one row, groups */
        {1, 32, 60, 1, 48, 1, 9, 1, 3, 1, 1, 1, 4, 0, 4, 0, 0, 0},  /* one column */
        {1, 16, 6, 6, 16, 1, 17, 18, 1, 1, 1, 1, 8, 9, 8, 8, 0, 0}, /* more taps than are packed at a time */
        {1, 3, 2, 1100, 16, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0}, /* rows longer than a strip */
        {2, 16, 300, 2, 16, 1, 3, 1, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0}, /* many rows, several strips */
    };
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        derive_output(&odd[i]);
        assert_true(conv_pixels(&odd[i]) > 0);
        check_case(&rng, &all->compute[2], &odd[i]);
    }
}

/* Enough work for many tasks; every way to cut it: chunks of images, parts of filters and channels. */
static void gradients_have_the_same_bits_for_any_number_of_threads(void **state)
{
    const contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 23);
    const esp_conv_geometry large[] = {square(9, 16, 32, 32, 3, 1, 1), square(2, 256, 7, 256, 1, 1, 0),
                                       square(4, 3, 64, 32, 3, 2, 1), square(3, 144, 9, 80, 3, 2, 1)};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        grad_case test = case_new(&rng, &large[i]);
        bool takes_plain = test.g.channels == 3;
        const esp_isa isa = esp_engine_default()->isa;
        esp_blocked_conv weight =
            plan_of(&esp_blocked_direct_weight, isa, &test.g, ESP_CONV_GRAD_WEIGHT, takes_plain);
        esp_blocked_conv input = plan_of(&esp_blocked_direct_input, isa, &test.g, ESP_CONV_GRAD_INPUT, false);
        check_weight(&all->compute[1], isa, &test, takes_plain);
        float *dw[MOST_THREADS + 1], *db[MOST_THREADS + 1];
        image_buffer dx[MOST_THREADS + 1];
        for (int threads = 1; threads <= MOST_THREADS; threads++) {
            run_weight(&all->compute[threads], &weight, &test, &dw[threads], &db[threads]);
            dx[threads] = run_input(&all->compute[threads], &input, &test, 1);
            assert_same_bits("dw", dw[threads], dw[1], conv_weights(&test.g));
            assert_same_bits("db", db[threads], db[1], test.g.filters);
            assert_buffers_have_the_same_bits("dx", &dx[threads], &dx[1]);
        }
        for (int threads = 1; threads <= MOST_THREADS; threads++) {
            free(dw[threads]);
            free(db[threads]);
            buffer_free(dx[threads]);
        }
        case_free(&test);
    }
}

/* loss = sum of y * dy, as a function of x or w. */
typedef struct loss_of {
    const esp_conv_geometry *g;
    const double *x, *w, *dy;
    double *y;
} loss_of;

static double conv_loss(void *context)
{
    const loss_of *loss = context;
    oracle_conv_forward(loss->g, loss->x, loss->w, NULL, loss->y);
    return oracle_dot(loss->g->batch * loss->g->filters * conv_pixels(loss->g), loss->y, loss->dy);
}

static void gradients_are_the_slopes_of_the_loss(void **state)
{
    const contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 24);
    const esp_conv_geometry small[] = {{1, 3, 6, 5, 4, 1, 3, 3, 2, 1, 1, 2, 1, 2, 1, 2, 0, 0},
                                       {2, 18, 3, 3, 3, 1, 2, 2, 1, 2, 1, 1, 0, 1, 1, 0, 0, 0}};
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
        esp_conv_geometry g = small[i];
        derive_output(&g);
        grad_case test = case_new(&rng, &g);
        double *y = doubles_new(test.dy.count);
        loss_of loss = {.g = &g, .x = test.x.d, .w = test.w.d, .dy = test.dy.d, .y = y};
        oracle_gradient(test.x.d, test.x.count, conv_loss, &loss, test.dx);
        oracle_gradient(test.w.d, test.w.count, conv_loss, &loss, test.dw);
        for (int64_t at = 0; at < test.x.count; at++)
            test.dx_added[at] = test.dx[at] + test.residual.d[at];
        test.tolerance = 1e-5; /* differences of steps of 1e-5 in double are good to about 1e-9 */
        check_weight(&all->compute[1], ESP_ISA_PLAIN, &test, false);
        check_weight(&all->compute[1], esp_engine_default()->isa, &test, true);
        check_input(&all->compute[1], esp_engine_default()->isa, &test);
        free(y);
        case_free(&test);
    }
}

static void nan_of_one_channel_reaches_its_own_weights_only(void **state)
{
    const contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 25);
    esp_conv_geometry g = square(1, 17, 5, 20, 3, 1, 1);
    grad_case test = case_new(&rng, &g);
    test.blocked_x.memory[blocked_index(&test.blocked_x.view, 4 * 25 + 12)] = NAN;
    esp_blocked_conv plan =
        plan_of(&esp_blocked_direct_weight, esp_engine_default()->isa, &g, ESP_CONV_GRAD_WEIGHT, false);
    float *dw, *db;
    run_weight(&all->compute[1], &plan, &test, &dw, &db);
    for (int64_t i = 0; i < conv_weights(&g); i++)
        assert_int_equal(isnan(dw[i]) != 0, i / 9 % g.channels == 4);
    free(dw);
    free(db);
    case_free(&test);
}

static void groups_that_cut_through_blocks_do_not_fit(void **state)
{
    (void)state;
    esp_conv_geometry g = square(1, 48, 5, 32, 3, 1, 1);
    const blocked_method *methods[] = {&esp_blocked_direct_weight, &esp_blocked_direct_input};
    const esp_conv_pass passes[] = {ESP_CONV_GRAD_WEIGHT, ESP_CONV_GRAD_INPUT};
    for (int m = 0; m < 2; m++) {
        esp_blocked_conv plan = plan_of(methods[m], ESP_ISA_PLAIN, &g, passes[m], false);
        plan.geometry.group = 2; /* 24 channels each */
        assert_false(methods[m]->fits(&plan));
        plan.geometry.channels = 32;
        assert_true(methods[m]->fits(&plan));
        plan.pass = ESP_CONV_FORWARD;
        assert_false(methods[m]->fits(&plan));
    }
}

static void cancelled_gradients_say_so(void **state)
{
    const contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 26);
    esp_conv_geometry g = square(1, 16, 6, 16, 3, 1, 1);
    grad_case test = case_new(&rng, &g);
    esp_cancel cancel;
    esp_compute compute = cancelled_compute(all, &cancel);
    esp_blocked_conv plan =
        plan_of(&esp_blocked_direct_weight, ESP_ISA_PLAIN, &g, ESP_CONV_GRAD_WEIGHT, false);
    float *dw = floats_new(conv_weights(&g));
    void *scratch = dirty_block(plan.method->scratch(&plan, esp_compute_slots(&compute)));
    assert_int_equal(plan.method->grad_weight(&compute, &plan, &test.blocked_x.view, &test.blocked_dy.view,
                                              dw, NULL, scratch),
                     ESP_CANCELLED);
    free(dw);
    esp_free(scratch);
    case_free(&test);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_equal_the_loops_for_random_geometries),
        cmocka_unit_test(gradients_equal_the_loops_for_the_usual_layers),
        cmocka_unit_test(gradients_equal_the_loops_at_the_edges_of_geometry),
        cmocka_unit_test(gradients_have_the_same_bits_for_any_number_of_threads),
        cmocka_unit_test(gradients_are_the_slopes_of_the_loss),
        cmocka_unit_test(nan_of_one_channel_reaches_its_own_weights_only),
        cmocka_unit_test(groups_that_cut_through_blocks_do_not_fit),
        cmocka_unit_test(cancelled_gradients_say_so),
    };
    return cmocka_run_group_tests(tests, contexts_setup, contexts_teardown);
}
