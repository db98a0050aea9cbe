/* Group convolution against the naive loops on the equivalent dense weights, for every instruction set and
 * method. */
#include "unit/tensor/check.h"

#include "oracle/oracle.h"
#include "tensor/group_conv_internal.h"
#include "tensor/winograd.h"

enum { MOST_GROUPS = 20 };

/* A layer, its groups, and the truth. `y.d` is what is expected. */
typedef struct group_case {
    esp_conv_geometry g;
    int64_t count, *order;
    esp_filter_group groups[MOST_GROUPS];
    int64_t *lists[MOST_GROUPS];
    pair w[MOST_GROUPS], bias[MOST_GROUPS], x, dense, dense_bias, scale, shift, residual, y;
    bool has_scale, has_shift, has_residual, clips;
    double tolerance;
} group_case;

static void derive_output(esp_conv_geometry *g)
{
    g->out_height =
        esp_conv_output_size(g->height, g->kernel_h, g->stride_h, g->pad_top, g->pad_bottom, g->dilation_h);
    g->out_width =
        esp_conv_output_size(g->width, g->kernel_w, g->stride_w, g->pad_left, g->pad_right, g->dilation_w);
}

static esp_conv_geometry random_geometry(esp_rng *rng)
{
    esp_conv_geometry g = {.group = 1};
    do {
        g.batch = pick(rng, 1, 4);
        g.channels = pick(rng, 0, 3) == 0 ? 1 : pick(rng, 1, 24);
        g.filters = pick(rng, 0, 3) == 0 ? pick(rng, 1, 3) : pick(rng, 1, 60);
        g.height = pick(rng, 1, 19);
        g.width = pick(rng, 0, 5) == 0 ? pick(rng, 30, 70) : pick(rng, 1, 19);
        bool is_common = pick(rng, 0, 2) > 0;
        g.kernel_h = is_common ? 1 + 2 * pick(rng, 0, 1) : pick(rng, 1, 5);
        g.kernel_w = is_common ? g.kernel_h : pick(rng, 1, 5);
        g.stride_h = is_common ? pick(rng, 1, 2) : pick(rng, 1, 4);
        g.stride_w = is_common ? g.stride_h : pick(rng, 1, 4);
        g.dilation_h = is_common ? 1 : pick(rng, 1, 9);
        g.dilation_w = is_common ? 1 : pick(rng, 1, 3);
        g.pad_top = pick(rng, 0, g.kernel_h * g.dilation_h);
        g.pad_left = pick(rng, 0, g.kernel_w);
        g.pad_bottom = pick(rng, 0, g.kernel_h * g.dilation_h);
        g.pad_right = pick(rng, 0, g.kernel_w);
        derive_output(&g);
    } while (g.out_height < 1 || g.out_width < 1);
    return g;
}

/* Uneven groups: sizes by cutting the filters at random places, lists with or without repeats, or empty. */
static void make_groups(esp_rng *rng, group_case *test)
{
    const esp_conv_geometry *g = &test->g;
    int64_t left = g->filters, taps = conv_taps(g);
    test->count = pick(rng, 1, conv_min(MOST_GROUPS, g->filters));
    for (int64_t p = 0; p < test->count; p++) {
        esp_filter_group *group = &test->groups[p];
        int64_t others = test->count - p - 1;
        group->filters =
            others == 0 ? left : pick(rng, 1, conv_min(left - others, 1 + 3 * left / (others + 2)));
        left -= group->filters;
        bool has_repeats = pick(rng, 0, 4) == 0, is_empty = pick(rng, 0, 7) == 0;
        test->lists[p] = malloc((size_t)g->channels * 2 * sizeof(int64_t));
        assert_non_null(test->lists[p]);
        int64_t share = pick(rng, 1, 10);
        for (int64_t i = 0; !is_empty && i < g->channels; i++) {
            if (pick(rng, 1, 10) <= share)
                test->lists[p][group->channel_count++] = has_repeats ? pick(rng, 0, g->channels - 1) : i;
        }
        group->channels = test->lists[p];
        test->w[p] = pair_random(rng, group->filters * group->channel_count * taps, -1.0, 1.0);
        test->bias[p] = pair_random(rng, group->filters, -1.0, 1.0);
        group->w = test->w[p].f;
        group->bias = pick(rng, 0, 1) == 0 ? NULL : test->bias[p].f;
    }
    if (pick(rng, 0, 1) == 0)
        return;
    test->order = malloc((size_t)g->filters * sizeof *test->order);
    assert_non_null(test->order);
    for (int64_t f = 0; f < g->filters; f++)
        test->order[f] = f;
    for (int64_t f = g->filters - 1; f > 0; f--) {
        int64_t other = pick(rng, 0, f), kept = test->order[f];
        test->order[f] = test->order[other];
        test->order[other] = kept;
    }
}

/* The dense layer, written down filter by filter. */
static void fill_dense(group_case *test)
{
    const esp_conv_geometry *g = &test->g;
    int64_t taps = conv_taps(g), filter = 0;
    for (int64_t p = 0; p < test->count; p++)
        for (int64_t f = 0; f < test->groups[p].filters; f++, filter++) {
            int64_t channel = test->order == NULL ? filter : test->order[filter];
            test->dense_bias.d[channel] = test->groups[p].bias == NULL ? 0.0 : test->bias[p].d[f];
            for (int64_t i = 0; i < test->groups[p].channel_count; i++)
                for (int64_t tap = 0; tap < taps; tap++)
                    test->dense.d[(channel * g->channels + test->lists[p][i]) * taps + tap] +=
                        test->w[p].d[(f * test->groups[p].channel_count + i) * taps + tap];
        }
}

static group_case case_new(esp_rng *rng, const esp_conv_geometry *geometry)
{
    group_case test = {.g = *geometry};
    const esp_conv_geometry *g = &test.g;
    int64_t pixels = conv_pixels(g), outputs = g->batch * g->filters * pixels;
    make_groups(rng, &test);
    test.x = pair_random(rng, g->batch * g->channels * g->height * g->width, -1.0, 1.0);
    test.dense = pair_new(conv_weights(g));
    test.dense_bias = pair_new(g->filters);
    test.scale = pair_random(rng, g->filters, -2.0, 2.0);
    test.shift = pair_random(rng, g->filters, -1.0, 1.0);
    test.residual = pair_random(rng, outputs, -1.0, 1.0);
    test.y = pair_new(outputs);
    test.has_scale = pick(rng, 0, 1) == 1;
    test.has_shift = pick(rng, 0, 1) == 1;
    test.has_residual = pick(rng, 0, 1) == 1;
    test.clips = pick(rng, 0, 1) == 1;
    fill_dense(&test);
    oracle_conv_forward(g, test.x.d, test.dense.d, test.dense_bias.d, test.y.d);
    for (int64_t i = 0; i < outputs; i++) {
        int64_t channel = i / pixels % g->filters;
        double value = test.y.d[i] * (test.has_scale ? test.scale.d[channel] : 1.0);
        value += test.has_shift ? test.shift.d[channel] : 0.0;
        value += test.has_residual ? test.residual.d[i] : 0.0;
        test.y.d[i] = test.clips ? fmin(fmax(value, -0.5), 2.0) : value;
    }
    /* Float sums of products of size <= 1 or 2, scaled by at most 2. */
    test.tolerance = 2e-7 * 8.0 * sqrt((double)conv_depth(g) * 2.0) + 1e-6;
    return test;
}

static void case_free(group_case *test)
{
    pair *all[] = {&test->x,     &test->dense,    &test->dense_bias, &test->scale,
                   &test->shift, &test->residual, &test->y};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        pair_free(*all[i]);
    for (int64_t p = 0; p < test->count; p++) {
        free(test->lists[p]);
        pair_free(test->w[p]);
        pair_free(test->bias[p]);
    }
    free(test->order);
}

static esp_view view_of(const esp_conv_geometry *g, bool is_input, float *data)
{
    esp_view view = {.data = data, .dtype = ESP_F32, .layout = ESP_LAYOUT_PLAIN};
    view.shape = is_input ? esp_shape_make(4, (int64_t[]){g->batch, g->channels, g->height, g->width})
                          : esp_shape_make(4, (int64_t[]){g->batch, g->filters, g->out_height, g->out_width});
    return view;
}

/* Plans, packs and runs; y gets NAN first, or the residual when y takes its place. */
static void run_case(const esp_compute *compute, const esp_engine *engine, group_choice choice,
                     group_case *test, bool is_in_place, float *y)
{
    const esp_conv_geometry *g = &test->g;
    esp_group_conv *plan = NULL;
    assert_int_equal(esp_group_plan(engine, g, test->groups, test->count, test->order, choice, &plan, NULL),
                     ESP_OK);
    void *packed = esp_alloc(esp_group_conv_packed_bytes(plan), 1);
    void *scratch = esp_alloc(esp_group_conv_scratch(plan, esp_compute_slots(compute)), 1);
    assert_non_null(packed);
    assert_non_null(scratch);
    memset(packed, 0xff, esp_group_conv_packed_bytes(plan));
    memset(scratch, 0xff, esp_group_conv_scratch(plan, esp_compute_slots(compute)));
    assert_int_equal(esp_group_conv_pack(compute, plan, test->groups, packed), ESP_OK);
    for (int64_t i = 0; i < test->y.count; i++)
        y[i] = is_in_place ? test->residual.f[i] : NAN;
    esp_view x = view_of(g, true, test->x.f), target = view_of(g, false, y);
    esp_view residual = view_of(g, false, test->residual.f);
    esp_conv_extras extras = {.scale = test->has_scale ? test->scale.f : NULL,
                              .shift = test->has_shift ? test->shift.f : NULL,
                              .residual = test->has_residual ? is_in_place ? &target : &residual : NULL,
                              .clips = test->clips,
                              .low = -0.5f,
                              .high = 2.0f};
    assert_int_equal(esp_group_conv_run(compute, plan, &x, packed, &extras, &target, scratch), ESP_OK);
    esp_free(packed);
    esp_free(scratch);
    esp_group_conv_free(plan);
}

static bool fits_winograd(const esp_conv_geometry *g)
{
    return g->kernel_h == 3 && g->kernel_w == 3 && g->stride_h == 1 && g->stride_w == 1 &&
           g->dilation_h == 1 && g->dilation_w == 1;
}

static void check_case(esp_rng *rng, const esp_conv_geometry *g)
{
    group_case test = case_new(rng, g);
    bool is_in_place = test.has_residual && pick(rng, 0, 1) == 1;
    for (int isa = ESP_ISA_PLAIN; isa <= ESP_ISA_AVX512; isa++) {
        if (!esp_isa_is_supported((esp_isa)isa))
            continue;
        esp_engine engine = {.isa = (esp_isa)isa, .has_winograd = true, .has_blocked = true};
        for (int choice = GROUP_ROWS; choice <= (fits_winograd(g) ? GROUP_WINOGRAD : GROUP_ROWS); choice++) {
            char what[200];
            snprintf(what, sizeof what, "%s %s [%d,%d,%d,%d] f%d k%dx%d s%dx%d d%dx%d p%d,%d,%d,%d groups %d",
                     esp_isa_name((esp_isa)isa), choice == GROUP_WINOGRAD ? "winograd" : "rows",
                     (int)g->batch, (int)g->channels, (int)g->height, (int)g->width, (int)g->filters,
                     (int)g->kernel_h, (int)g->kernel_w, (int)g->stride_h, (int)g->stride_w,
                     (int)g->dilation_h, (int)g->dilation_w, (int)g->pad_top, (int)g->pad_left,
                     (int)g->pad_bottom, (int)g->pad_right, (int)test.count);
            run_case(NULL, &engine, (group_choice)choice, &test, is_in_place, test.y.f);
            /* Winograd's sums lose some bits more; test_winograd holds it to its bound. */
            double tolerance = test.tolerance * (choice == GROUP_WINOGRAD ? 16.0 : 1.0);
            assert_all_close(what, test.y.f, test.y.d, test.y.count, tolerance);
        }
    }
    case_free(&test);
}

static void any_grouping_equals_the_dense_layer_with_zeros(void **state)
{
    (void)state;
    esp_rng rng;
    esp_rng_seed(&rng, 20);
    for (int i = 0; i < 400; i++) {
        esp_conv_geometry g = random_geometry(&rng);
        check_case(&rng, &g);
    }
}

static esp_conv_geometry square(int64_t batch, int64_t channels, int64_t size, int64_t filters,
                                int64_t kernel, int64_t stride, int64_t pad)
{
    esp_conv_geometry g = {.batch = batch,
                           .channels = channels,
                           .height = size,
                           .width = size,
                           .filters = filters,
                           .group = 1,
                           .kernel_h = kernel,
                           .kernel_w = kernel,
                           .stride_h = stride,
                           .stride_w = stride,
                           .dilation_h = 1,
                           .dilation_w = 1,
                           .pad_top = pad,
                           .pad_left = pad,
                           .pad_bottom = pad,
                           .pad_right = pad};
    derive_output(&g);
    return g;
}

/* Large enough that work is divided: bands of rows, joined images, several chunks of filters. */
static const int64_t large_cases[][7] = {
    {1, 40, 28, 64, 3, 1, 1},  {8, 96, 7, 80, 1, 1, 0},  {9, 24, 7, 48, 3, 1, 1},
    {1, 64, 56, 40, 1, 1, 0},  {2, 32, 56, 32, 3, 2, 1}, {1, 200, 14, 130, 3, 1, 1},
    {5, 16, 14, 40, 3, 2, 1},  {1, 3, 64, 40, 7, 2, 3},  {3, 128, 14, 60, 3, 1, 1},
    {1, 100, 7, 150, 3, 1, 1}, {1, 60, 14, 70, 1, 1, 0}, {1, 300, 14, 96, 3, 2, 1},
    {3, 40, 10, 33, 1, 1, 0},
};
enum { LARGE_CASES = sizeof large_cases / sizeof *large_cases };

static esp_conv_geometry large_case(int index)
{
    const int64_t *c = large_cases[index];
    return square(c[0], c[1], c[2], c[3], c[4], c[5], c[6]);
}

static void layers_of_real_size_equal_the_dense_layer(void **state)
{
    (void)state;
    esp_rng rng;
    esp_rng_seed(&rng, 21);
    for (int i = 0; i < LARGE_CASES; i++) {
        esp_conv_geometry g = large_case(i);
        check_case(&rng, &g);
    }
}

/* One pixel too many for whole vectors, and up to five, for vectors of 4, 8 and 16 pixels. */
static void pixels_left_over_from_vectors_equal_the_dense_layer(void **state)
{
    (void)state;
    esp_rng rng;
    esp_rng_seed(&rng, 26);
    for (int64_t kernel = 1; kernel <= 3; kernel += 2) {
        for (int64_t pixels = 33; pixels <= 37; pixels++) {
            for (int64_t filters = 1; filters <= 50; filters += 7) {
                esp_conv_geometry g = square(2, 5, pixels, filters, kernel, 1, kernel / 2);
                g.height = 1;
                derive_output(&g);
                check_case(&rng, &g);
            }
        }
    }
}

static void bits_do_not_depend_on_the_number_of_threads(void **state)
{
    (void)state;
    esp_rng rng;
    esp_rng_seed(&rng, 22);
    for (int i = 0; i < LARGE_CASES; i++) {
        esp_conv_geometry g = large_case(i);
        group_case test = case_new(&rng, &g);
        float *first = floats_new(test.y.count);
        for (int choice = GROUP_ROWS; choice <= (fits_winograd(&g) ? GROUP_WINOGRAD : GROUP_ROWS); choice++) {
            run_case(NULL, esp_engine_default(), (group_choice)choice, &test, false, first);
            for (int threads = 2; threads <= 3; threads++) {
                esp_compute compute = {0};
                assert_int_equal(esp_pool_new(threads, &compute.pool, NULL), ESP_OK);
                run_case(&compute, esp_engine_default(), (group_choice)choice, &test, false, test.y.f);
                assert_memory_equal(first, test.y.f, (size_t)test.y.count * sizeof(float));
                esp_pool_free(compute.pool);
            }
        }
        free(first);
        case_free(&test);
    }
}

static void not_a_number_stays_in_the_pixels_that_read_it(void **state)
{
    (void)state;
    esp_rng rng;
    esp_rng_seed(&rng, 23);
    for (int kernel = 1; kernel <= 3; kernel += 2) {
        esp_conv_geometry g = square(2, 2, 12, 2, kernel, 1, kernel / 2);
        group_case test = case_new(&rng, &g);
        int64_t lists[2][1] = {{0}, {1}};
        for (int p = 0; p < 2; p++)
            test.groups[p] =
                (esp_filter_group){.filters = 1, .channel_count = 1, .channels = lists[p], .w = test.scale.f};
        float w[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
        test.groups[0].w = test.groups[1].w = w;
        esp_filter_group groups[2] = {test.groups[0], test.groups[1]};
        test.x.f[0] = NAN; /* channel 0 of image 0 */
        esp_group_conv *plan = NULL;
        assert_int_equal(esp_group_plan(esp_engine_default(), &g, groups, 2, NULL, GROUP_ROWS, &plan, NULL),
                         ESP_OK);
        void *packed = esp_alloc(esp_group_conv_packed_bytes(plan), 1);
        void *scratch = esp_alloc(esp_group_conv_scratch(plan, 1), 1);
        assert_int_equal(esp_group_conv_pack(NULL, plan, groups, packed), ESP_OK);
        esp_view x = view_of(&g, true, test.x.f), y = view_of(&g, false, test.y.f);
        esp_conv_extras relu = {.clips = true, .low = 0.0f, .high = INFINITY};
        assert_int_equal(esp_group_conv_run(NULL, plan, &x, packed, &relu, &y, scratch), ESP_OK);
        for (int64_t i = 0; i < test.y.count; i++) {
            bool reads_it = i < 144 && i / 12 <= kernel / 2 && i % 12 <= kernel / 2;
            assert_int_equal(isnan(test.y.f[i]) != 0, reads_it);
        }
        esp_free(packed);
        esp_free(scratch);
        esp_group_conv_free(plan);
        case_free(&test);
    }
}

/* So much output that it is written past the caches where its address allows. */
static void outputs_longer_than_a_cache_are_the_same(void **state)
{
    (void)state;
    esp_rng rng;
    esp_rng_seed(&rng, 25);
    esp_conv_geometry g = square(2, 8, 256, 25, 1, 1, 0);
    group_case test = case_new(&rng, &g);
    size_t bytes = (size_t)test.y.count * sizeof(float);
    char *block = esp_alloc(bytes + ESP_ALIGNMENT, 1);
    assert_non_null(block);
    for (int isa = ESP_ISA_PLAIN; isa <= ESP_ISA_AVX512; isa++) {
        if (!esp_isa_is_supported((esp_isa)isa))
            continue;
        esp_engine engine = {.isa = (esp_isa)isa};
        run_case(NULL, &engine, GROUP_ROWS, &test, false, (float *)(void *)block);
        assert_all_close("aligned", (float *)(void *)block, test.y.d, test.y.count, test.tolerance);
        memcpy(test.y.f, block, bytes);
        float *shifted = (float *)(void *)(block + sizeof(float));
        run_case(NULL, &engine, GROUP_ROWS, &test, false, shifted);
        assert_memory_equal(shifted, test.y.f, bytes);
    }
    esp_free(block);
    case_free(&test);
}

static void densify_gives_the_weights_with_zeros(void **state)
{
    (void)state;
    esp_rng rng;
    esp_rng_seed(&rng, 24);
    for (int i = 0; i < 20; i++) {
        esp_conv_geometry g = random_geometry(&rng);
        group_case test = case_new(&rng, &g);
        esp_group_conv_densify(&g, test.groups, test.count, test.order, test.dense.f, test.dense_bias.f);
        assert_all_close("weights", test.dense.f, test.dense.d, test.dense.count, 1e-6);
        assert_all_close("bias", test.dense_bias.f, test.dense_bias.d, test.dense_bias.count, 0.0);
        case_free(&test);
    }
}

static void plans_refuse_groups_that_do_not_fit(void **state)
{
    (void)state;
    esp_conv_geometry g = square(1, 4, 8, 6, 3, 1, 1);
    int64_t good[] = {0, 3}, bad[] = {0, 4}, twice[] = {0, 1, 2, 3, 4, 4}, outside[] = {0, 1, 2, 3, 4, 6};
    esp_filter_group groups[2] = {{.filters = 2, .channel_count = 2, .channels = good},
                                  {.filters = 4, .channel_count = 2, .channels = good}};
    esp_group_conv *plan = (esp_group_conv *)1;
    esp_error err;
    const esp_engine *engine = esp_engine_default();
    groups[1].filters = 3;
    assert_int_equal(esp_group_conv_plan(engine, &g, groups, 2, NULL, &plan, &err), ESP_INVALID);
    assert_null(plan);
    groups[1].filters = 4;
    groups[1].channels = bad;
    assert_int_equal(esp_group_conv_plan(engine, &g, groups, 2, NULL, &plan, &err), ESP_INVALID);
    groups[1].channels = good;
    assert_int_equal(esp_group_conv_plan(engine, &g, groups, 2, twice, &plan, &err), ESP_INVALID);
    assert_int_equal(esp_group_conv_plan(engine, &g, groups, 2, outside, &plan, &err), ESP_INVALID);
    assert_int_equal(esp_group_conv_plan(engine, &g, groups, 2, NULL, &plan, &err), ESP_OK);
    assert_int_equal(esp_group_conv_macs(plan), 6 * 2 * 9 * 64);
    esp_group_conv_free(plan);
}

static void a_plan_without_memory_fails_and_leaks_nothing(void **state)
{
    (void)state;
    esp_conv_geometry g = square(1, 4, 8, 6, 3, 1, 1);
    int64_t list[] = {0, 3};
    esp_filter_group group = {.filters = 6, .channel_count = 2, .channels = list};
    size_t before = esp_memory_live();
    for (int choice = GROUP_ROWS; choice <= GROUP_WINOGRAD; choice++) {
        esp_status status = ESP_OK;
        int64_t k = 0;
        do {
            esp_group_conv *plan = NULL;
            esp_memory_fuse(++k);
            status =
                esp_group_plan(esp_engine_default(), &g, &group, 1, NULL, (group_choice)choice, &plan, NULL);
            bool has_burnt = esp_memory_fuse_burnt();
            esp_memory_fuse(0);
            assert_int_equal(status, has_burnt ? ESP_NO_MEMORY : ESP_OK);
            esp_group_conv_free(plan);
            assert_int_equal(esp_memory_live(), before);
        } while (status != ESP_OK);
        assert_true(k > 5);
    }
}

static void pruned_layers_cost_less_than_whole_ones(void **state)
{
    (void)state;
    const esp_engine *engine = esp_engine_default();
    int64_t list[256];
    for (int64_t c = 0; c < 256; c++)
        list[c] = c;
    for (int kernel = 1; kernel <= 3; kernel += 2) {
        esp_conv_geometry g = square(1, 256, 14, 256, kernel, 1, kernel / 2);
        double costs[2];
        for (int i = 0; i < 2; i++) {
            esp_filter_group group = {.filters = 256, .channel_count = i == 0 ? 51 : 256, .channels = list};
            esp_group_conv *plan = NULL;
            assert_int_equal(esp_group_conv_plan(engine, &g, &group, 1, NULL, &plan, NULL), ESP_OK);
            costs[i] = esp_group_conv_cost(plan);
            esp_group_conv_free(plan);
        }
        assert_true(costs[0] < costs[1] * 0.5);
        assert_true(costs[0] < esp_group_conv_dense_cost(engine, &g));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_grouping_equals_the_dense_layer_with_zeros),
        cmocka_unit_test(layers_of_real_size_equal_the_dense_layer),
        cmocka_unit_test(pixels_left_over_from_vectors_equal_the_dense_layer),
        cmocka_unit_test(bits_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(not_a_number_stays_in_the_pixels_that_read_it),
        cmocka_unit_test(outputs_longer_than_a_cache_are_the_same),
        cmocka_unit_test(densify_gives_the_weights_with_zeros),
        cmocka_unit_test(plans_refuse_groups_that_do_not_fit),
        cmocka_unit_test(a_plan_without_memory_fails_and_leaks_nothing),
        cmocka_unit_test(pruned_layers_cost_less_than_whole_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
