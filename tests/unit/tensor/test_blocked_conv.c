/* Forward convolution in channel blocks against the naive loops: every forward method of this file's list
 * that fits a geometry, with every instruction set of this processor. Lanes that hold no channel are NaN,
 * images of blocked views have gaps, and scratch memory starts as NaN: whatever reads what it must not shows.
 */
#include "unit/tensor/check.h"

#include "oracle/oracle.h"
#include "tensor/blocked_conv_internal.h"

static const blocked_method *const methods[] = {&esp_blocked_pointwise, &esp_blocked_direct,
                                                &esp_blocked_stem};
enum { METHOD_COUNT = sizeof methods / sizeof *methods };

static const esp_isa isas[] = {ESP_ISA_PLAIN, ESP_ISA_AVX2, ESP_ISA_AVX512};
enum { ISA_COUNT = sizeof isas / sizeof *isas };

static void derive_output(esp_conv_geometry *g)
{
    g->out_height =
        esp_conv_output_size(g->height, g->kernel_h, g->stride_h, g->pad_top, g->pad_bottom, g->dilation_h);
    g->out_width =
        esp_conv_output_size(g->width, g->kernel_w, g->stride_w, g->pad_left, g->pad_right, g->dilation_w);
}

/* A square one, as networks have them. */
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

/* ---- images in memory ---- */

typedef struct image {
    esp_view view;
    float *block; /* exactly the storage, so that the address sanitizer sees a read past the end */
    int64_t count, gap;
} image;

static const float in_gap = 12345.0f;

/* Lanes without a channel are NaN, as are all values; gaps hold `in_gap`. */
static image image_new(const esp_shape *shape, esp_layout layout, int64_t gap)
{
    image made = {.gap = layout == ESP_LAYOUT_BLOCKED ? gap : 0};
    made.view = (esp_view){.dtype = ESP_F32, .layout = layout, .shape = *shape};
    int64_t images = shape->dims[0], own = esp_view_storage(&made.view) / images;
    made.view.image_stride = made.gap > 0 ? own + made.gap : 0;
    made.count = images * own + (images - 1) * made.gap;
    made.block = floats_new(made.count);
    made.view.data = made.block;
    for (int64_t n = 1; n < images; n++)
        for (int64_t i = 1; i <= made.gap; i++)
            made.block[n * (own + made.gap) - i] = in_gap;
    return made;
}

static float *image_at(const image *i, int64_t n, int64_t c, int64_t pixel)
{
    int64_t pixels = i->view.shape.dims[2] * i->view.shape.dims[3];
    float *first = i->block + n * esp_view_image_stride(&i->view);
    if (i->view.layout == ESP_LAYOUT_PLAIN)
        return first + c * pixels + pixel;
    return first + (c / ESP_BLOCK * pixels + pixel) * ESP_BLOCK + c % ESP_BLOCK;
}

/* `values` [N,C,pixels] */
static void image_set(const image *i, const float *values)
{
    const int64_t *dims = i->view.shape.dims;
    for (int64_t n = 0; n < dims[0]; n++)
        for (int64_t c = 0; c < dims[1]; c++)
            for (int64_t pixel = 0; pixel < dims[2] * dims[3]; pixel++)
                *image_at(i, n, c, pixel) = *values++;
}

static void image_get(const image *i, float *values)
{
    const int64_t *dims = i->view.shape.dims;
    for (int64_t n = 0; n < dims[0]; n++)
        for (int64_t c = 0; c < dims[1]; c++)
            for (int64_t pixel = 0; pixel < dims[2] * dims[3]; pixel++)
                *values++ = *image_at(i, n, c, pixel);
}

static void assert_gaps_untouched(const char *what, const image *i)
{
    int64_t images = i->view.shape.dims[0], stride = esp_view_image_stride(&i->view);
    for (int64_t n = 1; n < images; n++)
        for (int64_t at = 1; at <= i->gap; at++)
            if (i->block[n * stride - at] != in_gap)
                fail_msg("%s: wrote between images %lld and %lld", what, (long long)n - 1, (long long)n);
}

/* ---- a convolution and what goes with it ---- */

typedef struct conv_case {
    esp_conv_geometry g;
    pair x, w, in_scale, in_shift, scale, shift, residual;
    bool has_entry, has_scale, has_shift, has_residual, is_in_place;
    esp_conv_extras extras; /* without the residual */
    int64_t gap;
    double *expected;
    double tolerance;
} conv_case;

static double clip(bool clips, float low, float high, double value)
{
    return !clips ? value : value < (double)low ? (double)low : value > (double)high ? (double)high : value;
}

static void expect(conv_case *c)
{
    const esp_conv_geometry *g = &c->g;
    int64_t in_pixels = g->height * g->width, out_pixels = conv_pixels(g);
    double *x = doubles_new(c->x.count);
    for (int64_t i = 0; i < c->x.count; i++) {
        int64_t channel = i / in_pixels % g->channels;
        x[i] = c->x.d[i];
        if (c->has_entry)
            x[i] = clip(c->extras.in_clips, c->extras.in_low, c->extras.in_high,
                        x[i] * c->in_scale.d[channel] + c->in_shift.d[channel]);
    }
    oracle_conv_forward(g, x, c->w.d, NULL, c->expected);
    for (int64_t i = 0; i < c->residual.count; i++) {
        int64_t f = i / out_pixels % g->filters;
        double value = c->expected[i] * (c->has_scale ? c->scale.d[f] : 1.0);
        value += c->has_shift ? c->shift.d[f] : 0.0;
        value += c->has_residual ? c->residual.d[i] : 0.0;
        c->expected[i] = clip(c->extras.clips, c->extras.low, c->extras.high, value);
    }
    free(x);
}

static conv_case case_new(esp_rng *rng, const esp_conv_geometry *g, bool is_adorned)
{
    conv_case c = {.g = *g};
    int64_t outputs = g->batch * g->filters * conv_pixels(g);
    c.x = pair_random(rng, g->batch * g->channels * g->height * g->width, -1.0, 1.0);
    c.w = pair_random(rng, conv_weights(g), -1.0, 1.0);
    c.in_scale = pair_random(rng, g->channels, -2.0, 2.0);
    c.in_shift = pair_random(rng, g->channels, -0.5, 1.0);
    c.scale = pair_random(rng, g->filters, -2.0, 2.0);
    c.shift = pair_random(rng, g->filters, -2.0, 2.0);
    c.residual = pair_random(rng, outputs, -2.0, 2.0);
    c.expected = doubles_new(outputs);
    if (is_adorned) {
        c.has_entry = pick(rng, 0, 1);
        c.has_scale = pick(rng, 0, 1);
        c.has_shift = pick(rng, 0, 1);
        c.has_residual = pick(rng, 0, 1);
        c.is_in_place = c.has_residual && pick(rng, 0, 1);
        c.gap = pick(rng, 0, 1) * pick(rng, 1, 40);
        c.extras.in_clips = pick(rng, 0, 1);
        c.extras.in_low = -0.25f, c.extras.in_high = pick(rng, 0, 1) ? INFINITY : 1.5f;
        c.extras.clips = pick(rng, 0, 1);
        c.extras.low = -0.5f, c.extras.high = pick(rng, 0, 1) ? INFINITY : 1.0f;
    }
    c.extras.in_scale = c.has_entry ? c.in_scale.f : NULL;
    c.extras.in_shift = c.has_entry ? c.in_shift.f : NULL;
    c.extras.scale = c.has_scale ? c.scale.f : NULL;
    c.extras.shift = c.has_shift ? c.shift.f : NULL;
    /* Float sums of `depth` products below 2.5 each, times a scale up to 2. */
    c.tolerance = 2e-6 * (1.0 + sqrt((double)conv_depth(g)));
    expect(&c);
    return c;
}

static void case_free(conv_case *c)
{
    pair *pairs[] = {&c->x, &c->w, &c->in_scale, &c->in_shift, &c->scale, &c->shift, &c->residual};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        pair_free(*pairs[i]);
    free(c->expected);
}

/* Packs and runs; `y` [N,F,pixels] gets the result. */
static esp_status run_plan(const esp_compute *compute, const esp_blocked_conv *plan, const conv_case *c,
                           float *y)
{
    const esp_conv_geometry *g = &c->g;
    esp_shape x_shape = {4, {g->batch, g->channels, g->height, g->width}};
    esp_shape y_shape = {4, {g->batch, g->filters, g->out_height, g->out_width}};
    image in = image_new(&x_shape, plan->takes_plain ? ESP_LAYOUT_PLAIN : ESP_LAYOUT_BLOCKED, c->gap);
    image out = image_new(&y_shape, ESP_LAYOUT_BLOCKED, 2 * c->gap);
    image added = image_new(&y_shape, ESP_LAYOUT_BLOCKED, 3 * c->gap);
    image_set(&in, c->x.f);
    image_set(c->is_in_place ? &out : &added, c->residual.f);
    esp_conv_extras extras = c->extras;
    extras.residual = !c->has_residual ? NULL : c->is_in_place ? &out.view : &added.view;

    size_t scratch_bytes = esp_blocked_conv_scratch(plan, esp_compute_slots(compute));
    void *scratch = esp_alloc(scratch_bytes, 1), *packed = esp_alloc(esp_blocked_conv_packed_bytes(plan), 1);
    assert_non_null(scratch);
    assert_non_null(packed);
    memset(scratch, 0xff, scratch_bytes);
    memset(packed, 0xff, esp_blocked_conv_packed_bytes(plan));
    esp_status status = esp_blocked_conv_pack(compute, plan, c->w.f, packed);
    if (status == ESP_OK)
        status = esp_blocked_conv_run(compute, plan, &in.view, packed, &extras, &out.view, scratch);
    image_get(&out, y);
    assert_gaps_untouched("y", &out);
    esp_free(scratch);
    esp_free(packed);
    free(in.block);
    free(out.block);
    free(added.block);
    return status;
}

static bool plan_with(const blocked_method *method, esp_isa isa, const esp_conv_geometry *g, bool takes_plain,
                      esp_blocked_conv *plan)
{
    *plan = (esp_blocked_conv){.geometry = *g,
                               .pass = ESP_CONV_FORWARD,
                               .engine = {.isa = isa, .has_blocked = true},
                               .takes_plain = takes_plain};
    plan->method = method;
    return esp_isa_is_supported(isa) && method->fits(plan);
}

static char *describe(const conv_case *c, const esp_blocked_conv *plan, char *text, size_t size)
{
    const esp_conv_geometry *g = &c->g;
    snprintf(text, size, "%s %s [%d,%d,%d,%d] f%d g%d k%dx%d s%dx%d d%dx%d p%d,%d,%d,%d%s%s%s%s%s",
             plan->method->name, esp_isa_name(plan->engine.isa), (int)g->batch, (int)g->channels,
             (int)g->height, (int)g->width, (int)g->filters, (int)g->group, (int)g->kernel_h,
             (int)g->kernel_w, (int)g->stride_h, (int)g->stride_w, (int)g->dilation_h, (int)g->dilation_w,
             (int)g->pad_top, (int)g->pad_left, (int)g->pad_bottom, (int)g->pad_right,
             c->has_entry ? " entry" : "", c->has_scale ? " scale" : "", c->has_shift ? " shift" : "",
             c->has_residual ? " residual" : "", c->is_in_place ? " in place" : "");
    return text;
}

/* All methods and instruction sets; the number of runs. */
static int check_case(const esp_compute *compute, const conv_case *c)
{
    int runs = 0;
    float *y = floats_new(c->residual.count);
    for (int m = 0; m < METHOD_COUNT; m++)
        for (int i = 0; i < ISA_COUNT; i++)
            for (int plain = 0; plain < 2; plain++) {
                esp_blocked_conv plan;
                if (!plan_with(methods[m], isas[i], &c->g, plain, &plan))
                    continue;
                char text[200];
                describe(c, &plan, text, sizeof text);
                assert_int_equal(run_plan(compute, &plan, c, y), ESP_OK);
                assert_all_close(text, y, c->expected, c->residual.count, c->tolerance);
                runs++;
            }
    free(y);
    return runs;
}

/* ---- random geometries ---- */

static int64_t pick_channels(esp_rng *rng)
{
    static const int64_t counts[] = {1, 2, 3, 4, 7, 15, 16, 17, 31, 32, 33, 48, 64};
    return counts[pick(rng, 0, sizeof counts / sizeof *counts - 1)];
}

static void pick_axis(esp_rng *rng, int64_t *size, int64_t *kernel, int64_t *stride, int64_t *dilation,
                      int64_t *pad_begin, int64_t *pad_end)
{
    *size = pick(rng, 0, 4) == 0 ? 1 : pick(rng, 1, 33);
    *kernel = pick(rng, 0, 1) ? pick(rng, 1, 5) : 1 + 2 * pick(rng, 0, 1);
    *stride = pick(rng, 0, 2) ? pick(rng, 1, 2) : pick(rng, 1, 5);
    *dilation = pick(rng, 0, 3) ? 1 : pick(rng, 0, 3) ? pick(rng, 2, 4) : pick(rng, 20, 60);
    *pad_begin = pick(rng, 0, 2) ? pick(rng, 0, 2) : pick(rng, 0, 9);
    *pad_end = pick(rng, 0, 2) ? *pad_begin : pick(rng, 0, 9);
    if (*kernel > 1 && *dilation > 10)
        *pad_begin = *pad_end = pick(rng, 0, *dilation * (*kernel - 1));
}

static esp_conv_geometry random_geometry(esp_rng *rng)
{
    for (;;) {
        esp_conv_geometry g = {.batch = pick(rng, 1, 3),
                               .channels = pick_channels(rng),
                               .filters = pick_channels(rng),
                               .group = 1};
        if (pick(rng, 0, 5) == 0) {
            g.group = pick(rng, 2, 4);
            g.channels = g.group * 16 * pick(rng, 1, 2);
            g.filters = g.group * 16 * pick(rng, 1, 3);
        }
        pick_axis(rng, &g.height, &g.kernel_h, &g.stride_h, &g.dilation_h, &g.pad_top, &g.pad_bottom);
        pick_axis(rng, &g.width, &g.kernel_w, &g.stride_w, &g.dilation_w, &g.pad_left, &g.pad_right);
        if (pick(rng, 0, 3) == 0) {
            g.kernel_h = g.kernel_w = 1;
            g.pad_top = g.pad_left = g.pad_bottom = g.pad_right = 0;
        }
        derive_output(&g);
        int64_t work = g.batch * conv_pixels(&g) * conv_weights(&g);
        if (work > 0 && work < 400000)
            return g;
    }
}

static void forward_agrees_with_the_naive_loops_on_random_geometries(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 30);
    int runs = 0;
    for (int i = 0; i < 400; i++) {
        esp_conv_geometry g = random_geometry(&rng);
        conv_case c = case_new(&rng, &g, true);
        runs += check_case(&all->compute[1 + i % MOST_THREADS], &c);
        case_free(&c);
    }
    assert_true(runs >= 400);
}

static void shapes_of_real_networks_agree_with_the_naive_loops(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 31);
    const esp_conv_geometry shapes[] = {
        square(2, 1, 28, 6, 5, 1, 2),   /* LeNet-5's first */
        square(1, 3, 61, 64, 7, 2, 3),  /* ResNet-50's first */
        square(3, 16, 32, 16, 3, 1, 1), /* ResNet-20 */
        square(2, 32, 16, 64, 3, 2, 1), square(2, 64, 8, 64, 3, 1, 1),  square(1, 48, 30, 80, 3, 1, 1),
        square(2, 40, 14, 33, 1, 2, 0), square(1, 130, 7, 70, 1, 1, 0), square(33, 70, 1, 50, 1, 1, 0),
        square(5, 24, 2, 40, 1, 2, 0), /* one pixel left: images together, with a stride */
        square(2, 16, 4, 96, 3, 1, 1),  square(1, 33, 12, 16, 3, 3, 0),
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int adorned = 0; adorned < 2; adorned++) {
            conv_case c = case_new(&rng, &shapes[i], adorned);
            assert_true(check_case(&all->compute[2], &c) > 0);
            case_free(&c);
        }
}

/* Batch-norm and ReLU in front of a 1x1: filters of several panels, pixels of several tasks and chunks,
 * groups, and channels that do not fill their last block. */
static void pixels_are_changed_on_the_way_into_every_panel_task_and_chunk(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 34);
    esp_conv_geometry shapes[] = {
        square(1, 72, 14, 128, 1, 1, 0),  square(2, 250, 7, 130, 1, 1, 0),
        square(1, 4000, 12, 33, 1, 1, 0), /* more than a chunk */
        square(1, 64, 9, 96, 1, 1, 0),    square(3, 40, 14, 70, 1, 2, 0),
        square(20, 33, 1, 64, 1, 1, 0),
    };
    shapes[3].group = 2;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int clips = 0; clips < 2; clips++) {
            conv_case c = case_new(&rng, &shapes[s], true);
            c.has_entry = true;
            c.extras.in_scale = c.in_scale.f, c.extras.in_shift = c.in_shift.f;
            c.extras.in_clips = clips != 0;
            c.extras.in_low = 0.0f, c.extras.in_high = INFINITY;
            expect(&c);
            assert_true(check_case(&all->compute[1 + (int)s % MOST_THREADS], &c) > 0);
            case_free(&c);
        }
}

static void results_have_the_same_bits_for_one_two_and_three_threads(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 32);
    const esp_conv_geometry shapes[] = {square(2, 64, 28, 48, 3, 1, 1), square(1, 96, 14, 80, 1, 1, 0),
                                        square(3, 80, 14, 96, 1, 2, 0), square(1, 3, 56, 64, 7, 2, 3)};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        conv_case c = case_new(&rng, &shapes[s], true);
        float *first = floats_new(c.residual.count), *y = floats_new(c.residual.count);
        for (int m = 0; m < METHOD_COUNT; m++)
            for (int i = 0; i < ISA_COUNT; i++) {
                esp_blocked_conv plan;
                if (!plan_with(methods[m], isas[i], &c.g, methods[m] == &esp_blocked_stem, &plan))
                    continue;
                assert_int_equal(run_plan(NULL, &plan, &c, first), ESP_OK);
                for (int threads = 1; threads <= MOST_THREADS; threads++) {
                    assert_int_equal(run_plan(&all->compute[threads], &plan, &c, y), ESP_OK);
                    assert_same_bits(plan.method->name, y, first, c.residual.count);
                }
            }
        free(first);
        free(y);
        case_free(&c);
    }
}

static void nan_and_infinity_reach_the_filters_that_see_them_and_no_others(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 33);
    esp_conv_geometry g = square(2, 20, 6, 18, 3, 1, 1);
    conv_case c = case_new(&rng, &g, false);
    c.extras.clips = true, c.extras.low = 0.0f, c.extras.high = 6.0f;
    int64_t pixels = g.height * g.width;
    c.x.f[(0 * g.channels + 19) * pixels + 0] = NAN; /* seen by outputs (0,0) (0,1) (1,0) (1,1) of image 0 */
    c.x.f[(1 * g.channels + 3) * pixels + 35] = INFINITY;
    float *y = floats_new(c.residual.count);
    for (int i = 0; i < ISA_COUNT; i++) {
        esp_blocked_conv plan;
        if (!plan_with(&esp_blocked_direct, isas[i], &g, false, &plan))
            continue;
        assert_int_equal(run_plan(&all->compute[2], &plan, &c, y), ESP_OK);
        for (int64_t at = 0; at < c.residual.count; at++) {
            int64_t n = at / pixels / g.filters, row = at % pixels / 6, column = at % 6;
            bool sees_nan = n == 0 && row <= 1 && column <= 1;
            bool sees_infinity = n == 1 && row >= 4 && column >= 4;
            if (sees_nan != isnan(y[at]) || (sees_infinity && y[at] != 0.0f && y[at] != 6.0f))
                fail_msg("%s: output %lld is %g", esp_isa_name(isas[i]), (long long)at, (double)y[at]);
        }
    }
    free(y);
    case_free(&c);
}

static void plans_refuse_what_no_method_can_do(void **state)
{
    (void)state;
    esp_engine engine = *esp_engine_default();
    engine.has_blocked = true;
    esp_blocked_conv plan;
    esp_conv_geometry g = square(1, 32, 8, 32, 3, 1, 1);
    assert_true(esp_blocked_conv_plan(&engine, &g, ESP_CONV_FORWARD, false, &plan));
    assert_non_null(esp_blocked_conv_name(&plan));
    assert_false(esp_blocked_conv_plan(&engine, &g, ESP_CONV_FORWARD, true, &plan)); /* too many channels */
    g.group = 4; /* eight channels: half a block */
    assert_false(esp_blocked_conv_plan(&engine, &g, ESP_CONV_FORWARD, false, &plan));
    g.group = 2;
    assert_true(esp_blocked_conv_plan(&engine, &g, ESP_CONV_FORWARD, false, &plan));
    g.batch = 0;
    assert_false(esp_blocked_conv_plan(&engine, &g, ESP_CONV_FORWARD, false, &plan));
    g.batch = 1;
    engine.has_blocked = false;
    assert_false(esp_blocked_conv_plan(&engine, &g, ESP_CONV_FORWARD, false, &plan));
}

static void keys_are_equal_exactly_when_packed_weights_are(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 34);
    /* Weights [64,16,1,1] of one group and of four; the same pixels for two methods. */
    esp_conv_geometry g = square(1, 16, 4, 64, 1, 1, 0), grouped = square(1, 64, 4, 64, 1, 1, 0);
    grouped.group = 4;
    pair w = pair_random(&rng, 64 * 16, -1.0, 1.0);
    for (int i = 0; i < ISA_COUNT; i++) {
        esp_blocked_conv a, b, c;
        if (!plan_with(&esp_blocked_pointwise, isas[i], &g, false, &a) ||
            !plan_with(&esp_blocked_direct, isas[i], &g, false, &b) ||
            !plan_with(&esp_blocked_direct, isas[i], &grouped, false, &c))
            continue;
        size_t bytes = esp_blocked_conv_packed_bytes(&a);
        assert_int_equal(esp_blocked_conv_packed_bytes(&b), bytes);
        void *packed_a = esp_alloc(bytes, 1), *packed_b = esp_alloc(bytes, 1);
        assert_int_equal(esp_blocked_conv_pack(&all->compute[2], &a, w.f, packed_a), ESP_OK);
        assert_int_equal(esp_blocked_conv_pack(&all->compute[2], &b, w.f, packed_b), ESP_OK);
        assert_memory_equal(packed_a, packed_b, bytes);
        assert_true(esp_blocked_conv_pack_key(&a) == esp_blocked_conv_pack_key(&b));
        assert_true(esp_blocked_conv_pack_key(&a) != esp_blocked_conv_pack_key(&c));
        assert_true(esp_blocked_conv_pack_key(&a) != 0);
        esp_free(packed_a);
        esp_free(packed_b);
    }
    pair_free(w);
}

static void a_cancelled_run_says_so(void **state)
{
    contexts *all = *state;
    esp_cancel cancel;
    esp_compute compute = cancelled_compute(all, &cancel);
    esp_rng rng;
    esp_rng_seed(&rng, 35);
    esp_conv_geometry g = square(1, 16, 4, 16, 3, 1, 1);
    conv_case c = case_new(&rng, &g, false);
    esp_blocked_conv plan;
    assert_true(plan_with(&esp_blocked_direct, ESP_ISA_PLAIN, &g, false, &plan));
    float *y = floats_new(c.residual.count);
    assert_int_equal(run_plan(&compute, &plan, &c, y), ESP_CANCELLED);
    free(y);
    case_free(&c);
}

static void tiny_problems_are_one_task_and_large_ones_many(void **state)
{
    (void)state;
    blocked_load load = {
        .pieces = 1, .rows = 7, .panels = 2, .flops = 1e6, .row_lines = 10.0, .weight_lines = 100.0};
    assert_int_equal(esp_blocked_cut(&load).tasks, 1);
    load.pieces = 8; /* images are tasks of their own */
    assert_int_equal(esp_blocked_cut(&load).tasks, 8);
    load.pieces = 1;
    load.flops = 1e9;
    assert_int_equal(esp_blocked_cut(&load).tasks, 14); /* no more than there are parts */
    load.rows = 56;
    load.panels = 16;
    blocked_cut cut = esp_blocked_cut(&load);
    assert_true(cut.tasks >= 16 && cut.tasks <= 128);
    assert_int_equal(cut.row_tasks * cut.panel_tasks, cut.tasks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_the_naive_loops_on_random_geometries),
        cmocka_unit_test(shapes_of_real_networks_agree_with_the_naive_loops),
        cmocka_unit_test(pixels_are_changed_on_the_way_into_every_panel_task_and_chunk),
        cmocka_unit_test(results_have_the_same_bits_for_one_two_and_three_threads),
        cmocka_unit_test(nan_and_infinity_reach_the_filters_that_see_them_and_no_others),
        cmocka_unit_test(plans_refuse_what_no_method_can_do),
        cmocka_unit_test(keys_are_equal_exactly_when_packed_weights_are),
        cmocka_unit_test(a_cancelled_run_says_so),
        cmocka_unit_test(tiny_problems_are_one_task_and_large_ones_many),
    };
    return cmocka_run_group_tests(tests, contexts_setup, contexts_teardown);
}
