/* Depthwise convolution in channel blocks, forward with all extras and both gradients, against the naive
 * loops in every instruction set this processor has: undefined lanes and gaps without influence, the same
 * bits for any number of threads. */
#include "unit/tensor/blocked_check.h"

#include "oracle/oracle.h"
#include "tensor/blocked_conv_internal.h"

static const esp_isa all_isas[] = {ESP_ISA_PLAIN, ESP_ISA_AVX2, ESP_ISA_AVX512};
enum { ISA_COUNT = sizeof all_isas / sizeof *all_isas };

static esp_blocked_conv plan_of(const blocked_method *method, esp_isa isa, const esp_conv_geometry *g,
                                esp_conv_pass pass)
{
    return (esp_blocked_conv){.geometry = *g,
                              .pass = pass,
                              .engine = {.isa = isa, .has_winograd = true, .has_blocked = true},
                              .method = method};
}

static void derive_output(esp_conv_geometry *g)
{
    g->out_height =
        esp_conv_output_size(g->height, g->kernel_h, g->stride_h, g->pad_top, g->pad_bottom, g->dilation_h);
    g->out_width =
        esp_conv_output_size(g->width, g->kernel_w, g->stride_w, g->pad_left, g->pad_right, g->dilation_w);
}

static esp_conv_geometry square(int64_t batch, int64_t channels, int64_t size, int64_t kernel, int64_t stride,
                                int64_t pad)
{
    esp_conv_geometry g = {batch,  channels, size, size, channels, channels, kernel, kernel, stride,
                           stride, 1,        1,    pad,  pad,      pad,      pad,    0,      0};
    derive_output(&g);
    return g;
}

/* Random numbers for one case. The extras that are wanted are bits of `extras`. */
enum { ENTERS = 1, ENTRY_CLIPS = 2, SCALES = 4, SHIFTS = 8, ADDS = 16, ADDS_ITSELF = 32, CLIPS = 64 };
typedef struct depth_case {
    esp_conv_geometry g;
    int extras;
    pair x, w, dy, in_scale, in_shift, scale, shift, residual, dx_residual;
    image_buffer blocked_x, blocked_dy, blocked_residual;
    double *y, *dx, *dw, *db;
    int64_t gap;
    double tolerance;
} depth_case;

static const double in_low = -0.4, in_high = 0.7, low = -0.9, high = 1.1;

static double clip(double v, double lowest, double highest)
{
    return v < lowest ? lowest : v > highest ? highest : v;
}

/* y as extras define it, from the definition of convolution. */
static void find_y(depth_case *test)
{
    const esp_conv_geometry *g = &test->g;
    double *x = doubles_new(test->x.count);
    for (int64_t i = 0; i < test->x.count; i++) {
        int64_t c = i / (g->height * g->width) % g->channels;
        x[i] = test->x.d[i];
        if (test->extras & ENTERS)
            x[i] = x[i] * test->in_scale.d[c] + test->in_shift.d[c];
        if ((test->extras & ENTERS) && (test->extras & ENTRY_CLIPS))
            x[i] = clip(x[i], (double)(float)in_low, (double)(float)in_high);
    }
    oracle_conv_forward(g, x, test->w.d, NULL, test->y);
    for (int64_t i = 0; i < test->dy.count; i++) {
        int64_t f = i / conv_pixels(g) % g->filters;
        if (test->extras & SCALES)
            test->y[i] *= test->scale.d[f];
        if (test->extras & SHIFTS)
            test->y[i] += test->shift.d[f];
        if (test->extras & (ADDS | ADDS_ITSELF))
            test->y[i] += test->residual.d[i];
        if (test->extras & CLIPS)
            test->y[i] = clip(test->y[i], (double)(float)low, (double)(float)high);
    }
    free(x);
}

static depth_case case_new(esp_rng *rng, const esp_conv_geometry *g, int extras)
{
    depth_case test = {.g = *g, .extras = extras, .gap = pick_gap(rng)};
    int64_t outputs = g->batch * g->filters * conv_pixels(g);
    test.x = pair_random(rng, g->batch * g->channels * g->height * g->width, -1.0, 1.0);
    test.dx_residual = pair_random(rng, test.x.count, -1.0, 1.0);
    test.w = pair_random(rng, conv_weights(g), -1.0, 1.0);
    test.dy = pair_random(rng, outputs, -1.0, 1.0);
    test.residual = pair_random(rng, outputs, -1.0, 1.0);
    test.in_scale = pair_random(rng, g->channels, -2.0, 2.0);
    test.in_shift = pair_random(rng, g->channels, -1.0, 1.0);
    test.scale = pair_random(rng, g->channels, -2.0, 2.0);
    test.shift = pair_random(rng, g->channels, -1.0, 1.0);
    test.y = doubles_new(outputs);
    test.dx = doubles_new(test.x.count);
    test.dw = doubles_new(test.w.count);
    test.db = doubles_new(g->filters);
    find_y(&test);
    oracle_conv_backward(g, test.x.d, test.w.d, test.dy.d, test.dx, test.dw, test.db);
    esp_shape out = images(g->batch, g->filters, g->out_height, g->out_width);
    test.blocked_x = buffer_from(images(g->batch, g->channels, g->height, g->width), pick_gap(rng), test.x.f);
    test.blocked_dy = buffer_from(out, pick_gap(rng), test.dy.f);
    test.blocked_residual = buffer_from(out, pick_gap(rng), test.residual.f);
    /* Float sums of `terms` products of size <= 3: rounding grows as the square root of their number. */
    double terms = (double)(g->batch * conv_pixels(g) + conv_taps(g));
    test.tolerance = 2e-7 * 12.0 * sqrt(terms) + 1e-6;
    return test;
}

static void case_free(depth_case *test)
{
    pair all[] = {test->x,        test->w,     test->dy,    test->residual,   test->in_scale,
                  test->in_shift, test->scale, test->shift, test->dx_residual};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        pair_free(all[i]);
    double *right[] = {test->y, test->dx, test->dw, test->db};
    for (size_t i = 0; i < sizeof right / sizeof *right; i++)
        free(right[i]);
    buffer_free(test->blocked_x);
    buffer_free(test->blocked_dy);
    buffer_free(test->blocked_residual);
}

static char *describe(const depth_case *test, esp_isa isa, const char *what, char *text, size_t size)
{
    const esp_conv_geometry *g = &test->g;
    snprintf(text, size,
             "%s %s [%d,%d,%d,%d] kernel %dx%d stride %dx%d dilation %dx%d pad %d,%d,%d,%d extras %d", what,
             esp_isa_name(isa), (int)g->batch, (int)g->channels, (int)g->height, (int)g->width,
             (int)g->kernel_h, (int)g->kernel_w, (int)g->stride_h, (int)g->stride_w, (int)g->dilation_h,
             (int)g->dilation_w, (int)g->pad_top, (int)g->pad_left, (int)g->pad_bottom, (int)g->pad_right,
             test->extras);
    return text;
}

/* Scratch memory and packed weights hold nothing that may matter before. */
static void *dirty_block(size_t bytes)
{
    void *block = esp_alloc(bytes, 1);
    assert_non_null(block);
    memset(block, 0xff, bytes);
    return block;
}

static void run_pass(const esp_compute *compute, const esp_blocked_conv *plan, const depth_case *test,
                     const image_buffer *x, const esp_conv_extras *extras, const image_buffer *y)
{
    void *packed = dirty_block(plan->method->packed_bytes(plan));
    void *scratch = dirty_block(plan->method->scratch(plan, esp_compute_slots(compute)));
    assert_int_equal(plan->method->pack(compute, plan, test->w.f, packed), ESP_OK);
    assert_int_equal(plan->method->run(compute, plan, &x->view, packed, extras, &y->view, scratch), ESP_OK);
    esp_free(packed);
    esp_free(scratch);
}

static image_buffer run_forward(const esp_compute *compute, esp_isa isa, const depth_case *test)
{
    esp_blocked_conv plan = plan_of(&esp_blocked_depthwise, isa, &test->g, ESP_CONV_FORWARD);
    assert_true(plan.method->fits(&plan));
    int bits = test->extras;
    image_buffer y = bits & ADDS_ITSELF
                         ? buffer_from(test->blocked_dy.view.shape, test->gap, test->residual.f)
                         : buffer_new(test->blocked_dy.view.shape, test->gap);
    esp_conv_extras extras = {.in_scale = bits & ENTERS ? test->in_scale.f : NULL,
                              .in_shift = bits & ENTERS ? test->in_shift.f : NULL,
                              .in_clips = bits & ENTRY_CLIPS,
                              .in_low = (float)in_low,
                              .in_high = (float)in_high,
                              .scale = bits & SCALES ? test->scale.f : NULL,
                              .shift = bits & SHIFTS ? test->shift.f : NULL,
                              .clips = bits & CLIPS,
                              .low = (float)low,
                              .high = (float)high};
    extras.residual = bits & ADDS_ITSELF ? &y.view : bits & ADDS ? &test->blocked_residual.view : NULL;
    run_pass(compute, &plan, test, &test->blocked_x, bits == 0 ? NULL : &extras, &y);
    return y;
}

/* dx; added to what was there when `adds`. */
static image_buffer run_input(const esp_compute *compute, esp_isa isa, const depth_case *test, bool adds)
{
    esp_blocked_conv plan = plan_of(&esp_blocked_depthwise_input, isa, &test->g, ESP_CONV_GRAD_INPUT);
    assert_true(plan.method->fits(&plan));
    image_buffer dx = adds ? buffer_from(test->blocked_x.view.shape, test->gap, test->dx_residual.f)
                           : buffer_new(test->blocked_x.view.shape, test->gap);
    esp_conv_extras extras = {.residual = &dx.view};
    run_pass(compute, &plan, test, &test->blocked_dy, adds ? &extras : NULL, &dx);
    return dx;
}

static void run_weight(const esp_compute *compute, esp_isa isa, const depth_case *test, float **dw,
                       float **db)
{
    esp_blocked_conv plan = plan_of(&esp_blocked_depthwise_weight, isa, &test->g, ESP_CONV_GRAD_WEIGHT);
    assert_true(plan.method->fits(&plan));
    *dw = floats_new(test->w.count);
    *db = floats_new(test->g.filters);
    void *scratch = dirty_block(plan.method->scratch(&plan, esp_compute_slots(compute)));
    assert_int_equal(plan.method->grad_weight(compute, &plan, &test->blocked_x.view, &test->blocked_dy.view,
                                              *dw, *db, scratch),
                     ESP_OK);
    esp_free(scratch);
}

static void check_isa(const esp_compute *compute, esp_isa isa, const depth_case *test)
{
    char what[240];
    image_buffer y = run_forward(compute, isa, test);
    assert_buffer_close(describe(test, isa, "y", what, sizeof what), &y, test->y, test->tolerance);
    buffer_free(y);

    image_buffer dx = run_input(compute, isa, test, false);
    assert_buffer_close(describe(test, isa, "dx", what, sizeof what), &dx, test->dx, test->tolerance);
    buffer_free(dx);
    double *added = doubles_new(test->x.count);
    for (int64_t i = 0; i < test->x.count; i++)
        added[i] = test->dx[i] + test->dx_residual.d[i];
    dx = run_input(compute, isa, test, true);
    assert_buffer_close(describe(test, isa, "dx added", what, sizeof what), &dx, added, test->tolerance);
    buffer_free(dx);
    free(added);

    float *dw, *db;
    run_weight(compute, isa, test, &dw, &db);
    assert_all_close(describe(test, isa, "dw", what, sizeof what), dw, test->dw, test->w.count,
                     test->tolerance);
    assert_all_close(describe(test, isa, "db", what, sizeof what), db, test->db, test->g.filters,
                     test->tolerance);
    free(dw);
    free(db);
}

static void check_case(esp_rng *rng, const esp_compute *compute, const esp_conv_geometry *g, int extras)
{
    depth_case test = case_new(rng, g, extras);
    for (int i = 0; i < ISA_COUNT; i++)
        if (esp_isa_is_supported(all_isas[i]))
            check_isa(compute, all_isas[i], &test);
    case_free(&test);
}

static esp_conv_geometry random_geometry(esp_rng *rng)
{
    esp_conv_geometry g = {0};
    do {
        g.batch = pick(rng, 1, 4);
        g.channels = g.filters = g.group = pick_channels(rng);
        g.height = pick(rng, 1, 14);
        g.width = pick(rng, 1, 40);
        g.kernel_h = pick(rng, 1, 6);
        g.kernel_w = pick(rng, 1, 6);
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

static void depthwise_equals_the_loops_for_random_geometries_and_extras(void **state)
{
    const contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 30);
    for (int i = 0; i < 150; i++) {
        esp_conv_geometry g = random_geometry(&rng);
        check_case(&rng, &all->compute[2], &g, (int)pick(&rng, 0, 127));
    }
}

static void depthwise_equals_the_loops_for_the_usual_layers(void **state)
{
    const contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 31);
    const esp_conv_geometry usual[] = {square(2, 32, 56, 3, 1, 1), square(2, 24, 57, 3, 2, 1),
                                       square(2, 16, 28, 5, 1, 2), square(2, 16, 28, 5, 2, 2),
                                       square(9, 48, 7, 3, 1, 1),  square(3, 16, 14, 7, 1, 3)};
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
        check_case(&rng, &all->compute[2], &usual[i], SCALES | SHIFTS | CLIPS);
}

static void depthwise_equals_the_loops_at_the_edges_of_geometry(void **state)
{
    const contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 32);
    /* batch, channels, height, width, filters, group, kernel, stride, dilation, pads, output */
    esp_conv_geometry odd[] = {
        {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0},          /* one channel, one pixel */
        {2, 5, 1, 1, 5, 5, 1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 0, 0},          /* pads around one pixel */
        {1, 20, 3, 2, 20, 20, 7, 7, 1, 1, 1, 1, 5, 6, 4, 5, 0, 0},       /* kernel larger than the image */
        {1, 16, 4, 4, 16, 16, 2, 2, 1, 1, 40, 37, 30, 28, 30, 28, 0, 0}, /* huge dilation */
        {1, 16, 9, 11, 16, 16, 1, 1, 5, 4, 1, 1, 0, 0, 0, 0, 0, 0},      /* stride larger than the kernel */
        {2, 16, 8, 9, 16, 16, 3, 3, 2, 3, 1, 1, 0, 0, 0, 0, 0, 0},       /* inputs that no output meets */
        {1, 16, 12, 12, 16, 16, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0}, /* stride and dilation share a divisor */
        {1, 16, 5, 3, 16, 16, 1, 2, 9, 7, 1, 1, 2, 0, 2, 0, 0, 0},   /* a stride longer than the rows */
        {3, 33, 130, 70, 33, 33, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0}, /* several strips */
        {2, 16, 150, 90, 16, 16, 5, 3, 2, 2, 1, 1, 2, 1, 2, 1, 0, 0}, /* several strips with a stride */
        {1, 16, 9, 1000, 16, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0}, /* long rows */
    };
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        derive_output(&odd[i]);
        assert_true(conv_pixels(&odd[i]) > 0);
        check_case(&rng, &all->compute[2], &odd[i], (int)pick(&rng, 0, 127));
    }
}

static void depthwise_has_the_same_bits_for_any_number_of_threads(void **state)
{
    const contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 33);
    const esp_conv_geometry large[] = {square(6, 48, 56, 3, 1, 1), square(12, 160, 14, 3, 2, 1)};
    const esp_isa isa = esp_engine_default()->isa;
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        depth_case test = case_new(&rng, &large[i], ENTERS | SHIFTS | CLIPS);
        image_buffer y[MOST_THREADS + 1], dx[MOST_THREADS + 1];
        float *dw[MOST_THREADS + 1], *db[MOST_THREADS + 1];
        for (int threads = 1; threads <= MOST_THREADS; threads++) {
            const esp_compute *compute = &all->compute[threads];
            y[threads] = run_forward(compute, isa, &test);
            dx[threads] = run_input(compute, isa, &test, true);
            run_weight(compute, isa, &test, &dw[threads], &db[threads]);
            assert_buffers_have_the_same_bits("y", &y[threads], &y[1]);
            assert_buffers_have_the_same_bits("dx", &dx[threads], &dx[1]);
            assert_same_bits("dw", dw[threads], dw[1], test.w.count);
            assert_same_bits("db", db[threads], db[1], test.g.filters);
        }
        assert_all_close("dw", dw[1], test.dw, test.w.count, test.tolerance);
        for (int threads = 1; threads <= MOST_THREADS; threads++) {
            buffer_free(y[threads]);
            buffer_free(dx[threads]);
            free(dw[threads]);
            free(db[threads]);
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

static void depthwise_gradients_are_the_slopes_of_the_loss(void **state)
{
    const contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 34);
    esp_conv_geometry g = {2, 18, 5, 6, 18, 18, 3, 2, 2, 1, 1, 2, 1, 2, 1, 0, 0, 0};
    derive_output(&g);
    depth_case test = case_new(&rng, &g, 0);
    double *y = doubles_new(test.dy.count);
    loss_of loss = {.g = &g, .x = test.x.d, .w = test.w.d, .dy = test.dy.d, .y = y};
    oracle_gradient(test.x.d, test.x.count, conv_loss, &loss, test.dx);
    oracle_gradient(test.w.d, test.w.count, conv_loss, &loss, test.dw);
    test.tolerance = 1e-5; /* differences of steps of 1e-5 in double are good to about 1e-9 */
    check_isa(&all->compute[1], esp_engine_default()->isa, &test);
    free(y);
    case_free(&test);
}

static void a_nan_stays_in_its_channel_and_is_not_clipped_away(void **state)
{
    const contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 35);
    esp_conv_geometry g = square(1, 17, 5, 3, 1, 1);
    depth_case test = case_new(&rng, &g, ENTERS | ENTRY_CLIPS | SCALES | CLIPS);
    test.blocked_x.memory[blocked_index(&test.blocked_x.view, 4 * 25 + 12)] = NAN;
    for (int i = 0; i < ISA_COUNT; i++) {
        if (!esp_isa_is_supported(all_isas[i]))
            continue;
        image_buffer y = run_forward(&all->compute[1], all_isas[i], &test);
        float *plain = buffer_read(&y);
        for (int64_t at = 0; at < 17 * 25; at++) {
            bool sees = at / 25 == 4 && labs(at % 25 / 5 - 2) <= 1 && labs(at % 5 - 2) <= 1;
            assert_int_equal(isnan(plain[at]) != 0, sees);
        }
        free(plain);
        buffer_free(y);
    }
    case_free(&test);
}

static void only_one_filter_for_each_channel_fits(void **state)
{
    (void)state;
    esp_conv_geometry g = square(1, 32, 5, 3, 1, 1);
    esp_blocked_conv plan = plan_of(&esp_blocked_depthwise, ESP_ISA_PLAIN, &g, ESP_CONV_FORWARD);
    assert_true(esp_blocked_depthwise.fits(&plan));
    assert_false(esp_blocked_depthwise_input.fits(&plan));
    assert_false(esp_blocked_depthwise_weight.fits(&plan));
    plan.geometry.filters = 64;
    assert_false(esp_blocked_depthwise.fits(&plan));
    plan.geometry.filters = 32;
    plan.geometry.group = 16;
    assert_false(esp_blocked_depthwise.fits(&plan));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(depthwise_equals_the_loops_for_random_geometries_and_extras),
        cmocka_unit_test(depthwise_equals_the_loops_for_the_usual_layers),
        cmocka_unit_test(depthwise_equals_the_loops_at_the_edges_of_geometry),
        cmocka_unit_test(depthwise_has_the_same_bits_for_any_number_of_threads),
        cmocka_unit_test(depthwise_gradients_are_the_slopes_of_the_loss),
        cmocka_unit_test(a_nan_stays_in_its_channel_and_is_not_clipped_away),
        cmocka_unit_test(only_one_filter_for_each_channel_fits),
    };
    return cmocka_run_group_tests(tests, contexts_setup, contexts_teardown);
}
