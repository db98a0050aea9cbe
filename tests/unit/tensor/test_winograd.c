/* Winograd convolution against the naive loops, in every instruction set this processor has and with either
 * form of packed weights: values within the documented error, undefined lanes and gaps without influence, the
 * same bits for any number of threads and either form. */
#include "unit/tensor/winograd_check.h"

/* Channels up to which sums are made in one go, whatever the form of the weights. */
enum { CHUNK_CHANNELS = 128 };

/* What 1, 2 and 3 threads compute has the bits of `one`. */
static void check_threads(const contexts *all, esp_isa isa, winograd_form form, const winograd_case *t,
                          const float *one)
{
    char what[160];
    describe(t, isa, form, what, sizeof what);
    float *many = floats_new(t->out_count);
    for (int threads = 1; threads <= MOST_THREADS; threads++) {
        assert_int_equal(run_case(&all->compute[threads], isa, form, t, many), ESP_OK);
        assert_same_bits(what, many, one, t->out_count);
    }
    free(many);
}

/* What the definition says, by `isa`, by either form of weights and any number of threads. */
static void check_case(const contexts *all, esp_isa isa, const winograd_case *t)
{
    char what[160];
    describe(t, isa, AS_PANELS, what, sizeof what);
    float *panels = floats_new(t->out_count), *points = floats_new(t->out_count);
    assert_int_equal(run_case(NULL, isa, AS_PANELS, t, panels), ESP_OK);
    assert_all_close(what, panels, t->expected, t->out_count, random_tolerance(t));
    check_threads(all, isa, AS_PANELS, t, panels);
    assert_int_equal(run_case(NULL, isa, AS_POINTS, t, points), ESP_OK);
    assert_true(in_channels(t) <= CHUNK_CHANNELS);
    assert_same_bits(what, points, panels, t->out_count);
    check_threads(all, isa, AS_POINTS, t, points);
    free(panels);
    free(points);
}

static esp_conv_geometry random_geometry(esp_rng *rng)
{
    esp_conv_geometry g;
    do {
        int64_t pads[4];
        bool is_same = pick(rng, 0, 2) == 0;
        for (int i = 0; i < 4; i++)
            pads[i] = is_same ? 1 : pick(rng, 0, 5);
        int64_t most = pick(rng, 0, 9) == 0 ? 70 : 24;
        g = geometry_of(pick(rng, 1, 3), pick(rng, 1, most), pick(rng, 1, most), pick(rng, 1, 13),
                        pick(rng, 1, 13), pads);
    } while (g.out_height <= 0 || g.out_width <= 0);
    return g;
}

static void sweep(const contexts *all, bool is_gradient)
{
    esp_rng rng;
    esp_rng_seed(&rng, is_gradient ? 12 : 11);
    for (int i = 0; i < 240; i++) {
        esp_conv_geometry g = random_geometry(&rng);
        winograd_case t = case_new(&rng, &g, is_gradient);
        if (is_gradient)
            expect_gradient(&t);
        else
            expect_forward(&t);
        for (int isa = 0; isa < ISA_COUNT; isa++)
            if (esp_isa_is_supported(all_isas[isa]))
                check_case(all, all_isas[isa], &t);
        case_free(&t);
    }
}

static void any_geometry_gives_what_the_definition_gives(void **state)
{
    sweep(*state, false);
}

static void the_gradient_is_that_of_the_definition(void **state)
{
    sweep(*state, true);
}

/* ---- Large problems: several tasks and superblocks ---- */

/* Element [n,f,y,x] of the result without extras, of either pass, and the factor of the error bound. */
static double sum_at(const winograd_case *t, int64_t n, int64_t f, int64_t y, int64_t x)
{
    const esp_conv_geometry *g = &t->g;
    int64_t in_h = t->is_gradient ? g->out_height : g->height,
            in_w = t->is_gradient ? g->out_width : g->width;
    double sum = 0.0;
    for (int64_t c = 0; c < in_channels(t); c++)
        for (int64_t k = 0; k < 9; k++) {
            int64_t ky = k / 3, kx = k % 3;
            int64_t in_y = t->is_gradient ? y + g->pad_top - ky : y + ky - g->pad_top;
            int64_t in_x = t->is_gradient ? x + g->pad_left - kx : x + kx - g->pad_left;
            int64_t weight = t->is_gradient ? c * g->channels + f : f * g->channels + c;
            if (in_y >= 0 && in_y < in_h && in_x >= 0 && in_x < in_w)
                sum +=
                    t->in.d[((n * in_channels(t) + c) * in_h + in_y) * in_w + in_x] * t->w.d[weight * 9 + k];
        }
    return sum;
}

/* Some hundred elements of a large result, and its bits by several threads. */
static void check_samples(const contexts *all, esp_rng *rng, const esp_conv_geometry *g, bool is_gradient,
                          winograd_form form)
{
    winograd_case t = case_new(rng, g, is_gradient);
    char what[160];
    memset(&t.extras, 0, sizeof t.extras);
    t.has_residual = false;
    esp_isa isa = esp_engine_default()->isa;
    describe(&t, isa, form, what, sizeof what);
    float *one = floats_new(t.out_count);
    assert_int_equal(run_case(NULL, isa, form, &t, one), ESP_OK);
    check_threads(all, isa, form, &t, one);
    int64_t h = is_gradient ? g->height : g->out_height, w = is_gradient ? g->width : g->out_width;
    for (int i = 0; i < 300; i++) {
        int64_t at = pick(rng, 0, t.out_count - 1);
        double expected =
            sum_at(&t, at / w / h / out_channels(&t), at / w / h % out_channels(&t), at / w % h, at % w);
        assert_all_close(what, &one[at], &expected, 1, random_tolerance(&t));
    }
    free(one);
    case_free(&t);
}

static void work_in_many_parts_gives_the_same(void **state)
{
    static const int64_t pads[4] = {1, 1, 1, 1};
    static const struct {
        int64_t batch, channels, filters, height, width;
        winograd_form form;
    } sizes[] = {
        {3, 17, 40, 61, 59, AS_PANELS},   /* several private superblocks and tasks */
        {3, 17, 40, 61, 59, AS_POINTS},   /* the same, weights transformed before */
        {1, 128, 128, 21, 18, AS_PANELS}, /* some tasks by tiles */
        {1, 64, 64, 8, 8, AS_POINTS},     /* tasks by filters */
        {1, 90, 70, 8, 7, AS_PANELS},     /* the same, weights transformed first */
        {1, 128, 32, 11, 9, AS_PANELS},   /* neither: by points */
        {1, 130, 128, 21, 18, AS_PANELS}, /* a shared superblock, two rows of points to a task */
        {1, 700, 50, 30, 34, AS_PANELS},  /* one row */
        {2, 290, 300, 14, 14, AS_PANELS}, /* all rows: tasks finish their filters; three chunks of channels */
        {5, 290, 300, 27, 25, AS_PANELS}, /* several superblocks of them */
        {5, 290, 100, 27, 25, AS_PANELS}, /* several whose products are shared */
    };
    esp_rng rng;
    esp_rng_seed(&rng, 13);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        esp_conv_geometry g = geometry_of(sizes[i].batch, sizes[i].channels, sizes[i].filters,
                                          sizes[i].height, sizes[i].width, pads);
        check_samples(*state, &rng, &g, i % 2 == 0, sizes[i].form);
    }
}

/* ---- The methods ---- */

/* Whether one of the two methods of a pass takes a problem; never both. */
static bool fits(esp_conv_pass method_pass, esp_conv_pass pass, bool has_winograd, const esp_conv_geometry *g)
{
    esp_blocked_conv plan = {.geometry = *g, .pass = pass, .engine = *esp_engine_default()};
    plan.engine.has_winograd = has_winograd;
    bool is_gradient = method_pass == ESP_CONV_GRAD_INPUT;
    bool panels = (is_gradient ? &esp_blocked_winograd_input : &esp_blocked_winograd)->fits(&plan);
    bool points =
        (is_gradient ? &esp_blocked_winograd_input_points : &esp_blocked_winograd_points)->fits(&plan);
    assert_false(panels && points);
    return panels || points;
}

static void it_is_for_large_3x3_convolutions_of_stride_1(void **state)
{
    (void)state;
    static const int64_t pads[4] = {1, 1, 1, 1};
    const esp_conv_geometry good = geometry_of(1, 128, 128, 56, 56, pads);
    assert_true(fits(ESP_CONV_FORWARD, ESP_CONV_FORWARD, true, &good));
    assert_true(fits(ESP_CONV_GRAD_INPUT, ESP_CONV_GRAD_INPUT, true, &good));
    assert_false(fits(ESP_CONV_FORWARD, ESP_CONV_GRAD_INPUT, true, &good));
    assert_false(fits(ESP_CONV_GRAD_INPUT, ESP_CONV_FORWARD, true, &good));
    assert_false(fits(ESP_CONV_FORWARD, ESP_CONV_FORWARD, false, &good));
    assert_false(fits(ESP_CONV_GRAD_INPUT, ESP_CONV_GRAD_INPUT, false, &good));

    esp_conv_geometry other[7];
    for (int i = 0; i < 7; i++)
        other[i] = good;
    other[0].kernel_h = 1;
    other[1].kernel_w = 5;
    other[2].stride_h = 2;
    other[3].stride_w = 2;
    other[4].dilation_h = 2;
    other[5].dilation_w = 2;
    other[6].group = 2;
    for (int i = 0; i < 7; i++) {
        assert_false(fits(ESP_CONV_FORWARD, ESP_CONV_FORWARD, true, &other[i]));
        assert_false(fits(ESP_CONV_GRAD_INPUT, ESP_CONV_GRAD_INPUT, true, &other[i]));
    }

    /* One pixel of four by four is computed for each that is wanted, weights of 4 times the size are read. */
    esp_conv_geometry pixel = geometry_of(1, 512, 512, 1, 1, pads);
    assert_false(fits(ESP_CONV_FORWARD, ESP_CONV_FORWARD, true, &pixel));
}

/* The plan for a pass over 3x3 weights. */
static esp_blocked_conv chosen(const esp_conv_geometry *g, esp_conv_pass pass)
{
    esp_engine engine = *esp_engine_default();
    engine.has_winograd = true;
    esp_blocked_conv plan;
    assert_true(esp_blocked_conv_plan(&engine, g, pass, false, &plan));
    assert_string_equal(esp_blocked_conv_name(&plan), "winograd");
    return plan;
}

static void many_weights_are_packed_as_they_are_and_shared_with_direct_kernels(void **state)
{
    (void)state;
    static const int64_t pads[4] = {1, 1, 1, 1};
    esp_conv_geometry g = geometry_of(1, 100, 64, 28, 28, pads);
    esp_blocked_conv plan = chosen(&g, ESP_CONV_FORWARD), direct = plan;
    direct.method = &esp_blocked_direct;
    size_t bytes = esp_blocked_conv_packed_bytes(&plan);
    assert_int_equal(bytes, (size_t)conv_weights(&g) * sizeof(float));
    assert_int_equal(esp_blocked_conv_pack_key(&plan), esp_blocked_conv_pack_key(&direct));
    assert_int_equal(esp_blocked_conv_packed_bytes(&direct), bytes);

    float *w = floats_new(conv_weights(&g)), *ours = esp_alloc(bytes, 1), *theirs = esp_alloc(bytes, 1);
    assert_non_null(ours);
    assert_non_null(theirs);
    for (int64_t i = 0; i < conv_weights(&g); i++)
        w[i] = (float)i;
    assert_int_equal(esp_blocked_conv_pack(NULL, &plan, w, ours), ESP_OK);
    assert_int_equal(esp_blocked_conv_pack(NULL, &direct, w, theirs), ESP_OK);
    assert_memory_equal(ours, theirs, bytes);
    free(w);
    esp_free(ours);
    esp_free(theirs);

    plan = chosen(&g, ESP_CONV_GRAD_INPUT);
    assert_true(esp_blocked_conv_packed_bytes(&plan) <= bytes * 112 / 100); /* 100 channels in 7 blocks */
}

static void few_weights_are_packed_transformed(void **state)
{
    (void)state;
    static const int64_t pads[4] = {1, 1, 1, 1};
    const esp_conv_geometry g = geometry_of(1, 48, 64, 28, 28, pads);
    static const esp_conv_pass passes[] = {ESP_CONV_FORWARD, ESP_CONV_GRAD_INPUT};
    for (int i = 0; i < 2; i++) {
        esp_blocked_conv plan = chosen(&g, passes[i]);
        size_t bytes = esp_blocked_conv_packed_bytes(&plan), plain = (size_t)conv_weights(&g) * sizeof(float);
        assert_true(bytes >= 4 * plain && bytes <= 4 * plain + 36 * ESP_ALIGNMENT);
    }
}

/* Weights that are transformed in the run are transformed a part at a time. */
static void scratch_memory_does_not_hold_many_transformed_weights(void **state)
{
    (void)state;
    static const int64_t pads[4] = {1, 1, 1, 1};
    const esp_conv_geometry g = geometry_of(1, 512, 512, 14, 14, pads);
    esp_blocked_conv plan = chosen(&g, ESP_CONV_FORWARD);
    size_t transformed = (size_t)conv_weights(&g) * 4 * sizeof(float);
    assert_true(esp_blocked_conv_scratch(&plan, 2) < transformed / 8);
}

static void a_set_cancel_token_ends_it(void **state)
{
    static const int64_t pads[4] = {1, 1, 1, 1};
    const contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 16);
    esp_cancel cancel;
    esp_compute compute = cancelled_compute(all, &cancel);
    esp_conv_geometry g = geometry_of(1, 20, 20, 14, 14, pads);
    winograd_case t = case_new(&rng, &g, false);
    float *y = floats_new(t.out_count);
    assert_int_equal(run_case(&compute, ESP_ISA_PLAIN, AS_PANELS, &t, y), ESP_CANCELLED);
    free(y);
    case_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_geometry_gives_what_the_definition_gives),
        cmocka_unit_test(the_gradient_is_that_of_the_definition),
        cmocka_unit_test(work_in_many_parts_gives_the_same),
        cmocka_unit_test(it_is_for_large_3x3_convolutions_of_stride_1),
        cmocka_unit_test(many_weights_are_packed_as_they_are_and_shared_with_direct_kernels),
        cmocka_unit_test(few_weights_are_packed_transformed),
        cmocka_unit_test(scratch_memory_does_not_hold_many_transformed_weights),
        cmocka_unit_test(a_set_cancel_token_ends_it),
    };
    return cmocka_run_group_tests(tests, contexts_setup, contexts_teardown);
}
