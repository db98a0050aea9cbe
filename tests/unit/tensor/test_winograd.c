/* Winograd convolution against the naive loops, in every instruction set this processor has: values within
 * the documented error, undefined lanes and gaps without influence, the same bits for any number of threads.
 */
#include "unit/tensor/check.h"

#include "oracle/oracle.h"
#include "tensor/blocked_conv_internal.h"
#include "tensor/winograd.h"

static const esp_isa all_isas[] = {ESP_ISA_PLAIN, ESP_ISA_AVX2, ESP_ISA_AVX512};
enum { ISA_COUNT = sizeof all_isas / sizeof *all_isas };

static esp_engine engine_of(esp_isa isa)
{
    return (esp_engine){.isa = isa, .has_winograd = true, .has_blocked = true};
}

/* ---- Images in channel blocks, with gaps ---- */

typedef struct image {
    esp_view view;
    int64_t floats;
} image;

static const float gap_value = 77.0f;

/* NaN everywhere, gap_value between images; exactly as large as it must be. */
static image image_new(int64_t n, int64_t c, int64_t h, int64_t w, int64_t gap_blocks)
{
    int64_t dims[4] = {n, c, h, w};
    int64_t own = conv_ceil_divide(c, ESP_BLOCK) * h * w * ESP_BLOCK, gap = gap_blocks * h * w * ESP_BLOCK;
    image made = {.view = {.dtype = ESP_F32, .layout = ESP_LAYOUT_BLOCKED, .shape = esp_shape_make(4, dims)},
                  .floats = n * own + (n - 1) * gap};
    made.view.image_stride = gap_blocks > 0 ? own + gap : 0;
    float *data = floats_new(made.floats);
    for (int64_t i = 0; i < made.floats; i++)
        if (i % (own + gap) >= own)
            data[i] = gap_value;
    made.view.data = data;
    return made;
}

static void image_free(image *i)
{
    free(i->view.data);
}

/* Element [n,c,p] of a blocked image with `p` counting pixels of a plane. */
static float *image_at(const image *i, int64_t n, int64_t c, int64_t p)
{
    int64_t plane = i->view.shape.dims[2] * i->view.shape.dims[3];
    return esp_view_f32(&i->view) + n * esp_view_image_stride(&i->view) +
           (c / ESP_BLOCK * plane + p) * ESP_BLOCK + c % ESP_BLOCK;
}

/* Calls for every element the pointer into the image and the index into a plain array. */
#define FOR_ELEMENTS(i, at, plain)                                                                           \
    for (int64_t plain = 0, plane_ = (i)->view.shape.dims[2] * (i)->view.shape.dims[3],                      \
                 channels_ = (i)->view.shape.dims[1], count_ = (i)->view.shape.dims[0] * channels_ * plane_; \
         plain < count_; plain++)                                                                            \
        for (float *at =                                                                                     \
                 image_at((i), plain / plane_ / channels_, plain / plane_ % channels_, plain % plane_);      \
             at != NULL; at = NULL)

static void image_set(image *i, const float *plain)
{
    FOR_ELEMENTS(i, at, index) *at = plain[index];
}

static void assert_gaps_untouched(const image *i)
{
    int64_t stride = esp_view_image_stride(&i->view);
    int64_t own = conv_ceil_divide(i->view.shape.dims[1], ESP_BLOCK) * i->view.shape.dims[2] *
                  i->view.shape.dims[3] * ESP_BLOCK;
    for (int64_t k = 0; k < i->floats; k++)
        if (k % stride >= own)
            assert_true(esp_view_f32(&i->view)[k] == gap_value);
}

/* ---- A case: geometry, data, extras, what the definition gives ---- */

typedef struct winograd_case {
    esp_conv_geometry g;
    bool is_gradient, has_residual, residual_is_output;
    int64_t gap_blocks;
    pair in, w, residual;
    pair scale, shift, in_scale, in_shift;
    esp_conv_extras extras;
    double *expected;
    int64_t out_count;
} winograd_case;

static int64_t in_channels(const winograd_case *t)
{
    return t->is_gradient ? t->g.filters : t->g.channels;
}
static int64_t out_channels(const winograd_case *t)
{
    return t->is_gradient ? t->g.channels : t->g.filters;
}

static double clip(bool clips, double low, double high, double value)
{
    return clips ? fmin(fmax(value, low), high) : value;
}

static void expect_forward(winograd_case *t)
{
    const esp_conv_geometry *g = &t->g;
    const esp_conv_extras *e = &t->extras;
    double *x = doubles_new(t->in.count);
    for (int64_t i = 0; i < t->in.count; i++) {
        int64_t c = i / (g->height * g->width) % g->channels;
        x[i] = e->in_scale == NULL ? t->in.d[i]
                                   : clip(e->in_clips, (double)e->in_low, (double)e->in_high,
                                          t->in.d[i] * t->in_scale.d[c] + t->in_shift.d[c]);
    }
    oracle_conv_forward(g, x, t->w.d, NULL, t->expected);
    free(x);
    for (int64_t i = 0; i < t->out_count; i++) {
        int64_t f = i / conv_pixels(g) % g->filters;
        double value = t->expected[i] * (e->scale != NULL ? t->scale.d[f] : 1.0) +
                       (e->shift != NULL ? t->shift.d[f] : 0.0) + (t->has_residual ? t->residual.d[i] : 0.0);
        t->expected[i] = clip(e->clips, (double)e->low, (double)e->high, value);
    }
}

static void expect_gradient(winograd_case *t)
{
    double *dw = doubles_new(t->w.count), *db = doubles_new(t->g.filters);
    double *x = doubles_new(t->out_count);
    oracle_conv_backward(&t->g, x, t->w.d, t->in.d, t->expected, dw, db);
    for (int64_t i = 0; i < t->out_count; i++)
        t->expected[i] += t->has_residual ? t->residual.d[i] : 0.0;
    free(dw);
    free(db);
    free(x);
}

static void case_extras(esp_rng *rng, winograd_case *t)
{
    t->scale = pair_random(rng, t->g.filters, 0.5, 1.5);
    t->shift = pair_random(rng, t->g.filters, -1.0, 1.0);
    t->in_scale = pair_random(rng, t->g.channels, 0.5, 1.5);
    t->in_shift = pair_random(rng, t->g.channels, -0.5, 0.5);
    if (t->is_gradient)
        return;
    if (pick(rng, 0, 1) == 0)
        t->extras.scale = t->scale.f;
    if (pick(rng, 0, 1) == 0)
        t->extras.shift = t->shift.f;
    if (pick(rng, 0, 1) == 0) {
        t->extras.clips = true;
        t->extras.low = -0.25f;
        t->extras.high = pick(rng, 0, 1) == 0 ? 2.0f : INFINITY;
    }
    if (pick(rng, 0, 1) == 0) {
        t->extras.in_scale = t->in_scale.f;
        t->extras.in_shift = t->in_shift.f;
        t->extras.in_clips = pick(rng, 0, 1) == 0;
        t->extras.in_high = 1.0f;
    }
}

static winograd_case case_new(esp_rng *rng, const esp_conv_geometry *g, bool is_gradient)
{
    winograd_case t = {.g = *g, .is_gradient = is_gradient, .gap_blocks = pick(rng, 0, 2)};
    int64_t inputs = g->batch * g->channels * g->height * g->width,
            outputs = g->batch * g->filters * conv_pixels(g);
    t.out_count = is_gradient ? inputs : outputs;
    t.has_residual = pick(rng, 0, 1) == 0;
    t.residual_is_output = pick(rng, 0, 1) == 0;
    t.in = pair_random(rng, is_gradient ? outputs : inputs, -1.0, 1.0);
    t.w = pair_random(rng, conv_weights(g), -1.0, 1.0);
    t.residual = pair_random(rng, t.out_count, -1.0, 1.0);
    t.expected = doubles_new(t.out_count);
    case_extras(rng, &t);
    return t;
}

static void case_free(winograd_case *t)
{
    pair *all[] = {&t->in, &t->w, &t->residual, &t->scale, &t->shift, &t->in_scale, &t->in_shift};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        pair_free(*all[i]);
    free(t->expected);
}

static esp_blocked_conv plan_of(const winograd_case *t, esp_isa isa)
{
    return (esp_blocked_conv){.geometry = t->g,
                              .pass = t->is_gradient ? ESP_CONV_GRAD_INPUT : ESP_CONV_FORWARD,
                              .engine = engine_of(isa),
                              .method = t->is_gradient ? &esp_blocked_winograd_input : &esp_blocked_winograd};
}

/* Runs the case; the result is plain. Memory has exactly the size asked for. */
static esp_status run_case(const esp_compute *compute, esp_isa isa, const winograd_case *t, float *result)
{
    const esp_conv_geometry *g = &t->g;
    esp_blocked_conv plan = plan_of(t, isa);
    int64_t in_h = t->is_gradient ? g->out_height : g->height,
            in_w = t->is_gradient ? g->out_width : g->width;
    int64_t out_h = t->is_gradient ? g->height : g->out_height,
            out_w = t->is_gradient ? g->width : g->out_width;
    image x = image_new(g->batch, in_channels(t), in_h, in_w, t->gap_blocks);
    image y = image_new(g->batch, out_channels(t), out_h, out_w, t->gap_blocks);
    image residual = image_new(g->batch, out_channels(t), out_h, out_w, 1);
    image_set(&x, t->in.f);
    image_set(t->residual_is_output ? &y : &residual, t->residual.f);
    esp_conv_extras extras = t->extras;
    if (t->has_residual)
        extras.residual = t->residual_is_output ? &y.view : &residual.view;

    void *packed = esp_alloc(plan.method->packed_bytes(&plan), 1);
    size_t scratch_bytes = plan.method->scratch(&plan, esp_compute_slots(compute));
    void *scratch = esp_alloc(scratch_bytes, 1);
    assert_non_null(packed);
    assert_non_null(scratch);
    memset(scratch, 0xff, scratch_bytes); /* NaN */
    memset(packed, 0xff, plan.method->packed_bytes(&plan));
    esp_status status = plan.method->pack(compute, &plan, t->w.f, packed);
    if (status == ESP_OK)
        status = plan.method->run(compute, &plan, &x.view, packed, &extras, &y.view, scratch);
    if (status == ESP_OK) {
        FOR_ELEMENTS(&y, at, index) result[index] = *at;
        assert_gaps_untouched(&y);
    }
    esp_free(packed);
    esp_free(scratch);
    image_free(&x);
    image_free(&y);
    image_free(&residual);
    return status;
}

/* Errors of values in [-1, 1] are normally distributed; in the tile's last corner, where they are largest,
 * their standard deviation is 0.8e-6 per channel. Prologue and epilogue scale by less than 2. */
static double random_tolerance(const winograd_case *t)
{
    return 8e-6 * (double)(in_channels(t) + 8);
}

static char *describe(const winograd_case *t, esp_isa isa, char *text, size_t size)
{
    const esp_conv_geometry *g = &t->g;
    snprintf(text, size, "%s %s [%d,%d,%d,%d] f%d p%d,%d,%d,%d gap %d", esp_isa_name(isa),
             t->is_gradient ? "dx" : "y", (int)g->batch, (int)g->channels, (int)g->height, (int)g->width,
             (int)g->filters, (int)g->pad_top, (int)g->pad_left, (int)g->pad_bottom, (int)g->pad_right,
             (int)t->gap_blocks);
    return text;
}

/* What the definition says, by `isa`, and the same bits by 1, 2 and 3 threads. */
static void check_case(const contexts *all, esp_isa isa, const winograd_case *t)
{
    char what[160];
    describe(t, isa, what, sizeof what);
    float *one = floats_new(t->out_count), *many = floats_new(t->out_count);
    assert_int_equal(run_case(NULL, isa, t, one), ESP_OK);
    assert_all_close(what, one, t->expected, t->out_count, random_tolerance(t));
    for (int threads = 1; threads <= MOST_THREADS; threads++) {
        assert_int_equal(run_case(&all->compute[threads], isa, t, many), ESP_OK);
        assert_same_bits(what, many, one, t->out_count);
    }
    free(one);
    free(many);
}

static esp_conv_geometry geometry_of(int64_t batch, int64_t channels, int64_t filters, int64_t height,
                                     int64_t width, const int64_t pads[4])
{
    esp_conv_geometry g = {.batch = batch,
                           .channels = channels,
                           .height = height,
                           .width = width,
                           .filters = filters,
                           .group = 1,
                           .kernel_h = 3,
                           .kernel_w = 3,
                           .stride_h = 1,
                           .stride_w = 1,
                           .dilation_h = 1,
                           .dilation_w = 1,
                           .pad_top = pads[0],
                           .pad_left = pads[1],
                           .pad_bottom = pads[2],
                           .pad_right = pads[3]};
    g.out_height = esp_conv_output_size(height, 3, 1, pads[0], pads[2], 1);
    g.out_width = esp_conv_output_size(width, 3, 1, pads[1], pads[3], 1);
    return g;
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
static void check_samples(const contexts *all, esp_rng *rng, const esp_conv_geometry *g, bool is_gradient)
{
    winograd_case t = case_new(rng, g, is_gradient);
    char what[160];
    memset(&t.extras, 0, sizeof t.extras);
    t.has_residual = false;
    esp_isa isa = esp_engine_default()->isa;
    describe(&t, isa, what, sizeof what);
    float *one = floats_new(t.out_count), *many = floats_new(t.out_count);
    assert_int_equal(run_case(NULL, isa, &t, one), ESP_OK);
    for (int threads = 2; threads <= MOST_THREADS; threads++) {
        assert_int_equal(run_case(&all->compute[threads], isa, &t, many), ESP_OK);
        assert_same_bits(what, many, one, t.out_count);
    }
    int64_t h = is_gradient ? g->height : g->out_height, w = is_gradient ? g->width : g->out_width;
    for (int i = 0; i < 300; i++) {
        int64_t at = pick(rng, 0, t.out_count - 1);
        double expected =
            sum_at(&t, at / w / h / out_channels(&t), at / w / h % out_channels(&t), at / w % h, at % w);
        assert_all_close(what, &one[at], &expected, 1, random_tolerance(&t));
    }
    free(one);
    free(many);
    case_free(&t);
}

static void work_in_many_parts_gives_the_same(void **state)
{
    static const int64_t pads[4] = {1, 1, 1, 1};
    static const int64_t sizes[][5] = {
        {3, 17, 40, 61, 59},   /* several private superblocks and tasks */
        {1, 128, 128, 21, 18}, /* two of them */
        {1, 130, 128, 21, 18}, /* one shared superblock */
        {1, 700, 150, 30, 34}, /* one, few filters */
        {5, 290, 300, 27, 25}, /* several */
    };
    esp_rng rng;
    esp_rng_seed(&rng, 13);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t *s = sizes[i];
        esp_conv_geometry g = geometry_of(s[0], s[1], s[2], s[3], s[4], pads);
        check_samples(*state, &rng, &g, i % 2 == 0);
    }
}

/* ---- Accuracy ---- */

static double largest(const double *values, int64_t count)
{
    double most = 0.0;
    for (int64_t i = 0; i < count; i++)
        most = fmax(most, fabs(values[i]));
    return most;
}

/* sum over c of (largest |x| of the patch) * (largest |w| of the filter), for the tile of pixel (y, x). */
static double bound_factor(const winograd_case *t, int64_t f, int64_t y, int64_t x)
{
    const esp_conv_geometry *g = &t->g;
    double sum = 0.0;
    int64_t top = y / 4 * 4 - g->pad_top, left = x / 4 * 4 - g->pad_left;
    for (int64_t c = 0; c < g->channels; c++) {
        double most = 0.0;
        for (int64_t row = conv_max(top, 0); row < conv_min(top + 6, g->height); row++)
            for (int64_t column = conv_max(left, 0); column < conv_min(left + 6, g->width); column++)
                most = fmax(most, fabs(t->in.d[(c * g->height + row) * g->width + column]));
        sum += most * largest(t->w.d + (f * g->channels + c) * 9, 9);
    }
    return sum;
}

/* Values whose sizes are spread over `bits` powers of two. */
static void spread(esp_rng *rng, pair *values, int64_t bits)
{
    for (int64_t i = 0; i < values->count; i++) {
        values->f[i] = ldexpf(values->f[i], (int)pick(rng, -bits / 2, bits / 2));
        values->d[i] = (double)values->f[i];
    }
}

static void the_error_stays_within_its_bound_at_any_scale(void **state)
{
    (void)state;
    esp_rng rng;
    esp_rng_seed(&rng, 14);
    for (int i = 0; i < 60; i++) {
        static const int64_t pads[4] = {1, 1, 1, 1};
        esp_conv_geometry g = geometry_of(1, pick(&rng, 1, 40), 3, 9, 10, pads);
        winograd_case t = case_new(&rng, &g, false);
        memset(&t.extras, 0, sizeof t.extras);
        t.has_residual = false;
        spread(&rng, &t.in, pick(&rng, 0, 40));
        spread(&rng, &t.w, pick(&rng, 0, 40));
        expect_forward(&t);
        float *y = floats_new(t.out_count);
        for (int isa = 0; isa < ISA_COUNT; isa++) {
            if (!esp_isa_is_supported(all_isas[isa]))
                continue;
            assert_int_equal(run_case(NULL, all_isas[isa], &t, y), ESP_OK);
            for (int64_t k = 0; k < t.out_count; k++) {
                int64_t column = k % g.out_width, row = k / g.out_width % g.out_height;
                double limit = esp_winograd_error_bound(g.channels) *
                               bound_factor(&t, k / conv_pixels(&g) % g.filters, row, column);
                assert_true(fabs((double)y[k] - t.expected[k]) <= limit);
            }
        }
        free(y);
        case_free(&t);
    }
}

static void normal_values(esp_rng *rng, pair *values)
{
    for (int64_t i = 0; i < values->count; i++) {
        values->f[i] = (float)esp_rng_normal(rng);
        values->d[i] = (double)values->f[i];
    }
}

/* sum |x| |w| of every element */
static double *absolute_sums(const winograd_case *t)
{
    double *x = doubles_new(t->in.count), *w = doubles_new(t->w.count), *y = doubles_new(t->out_count);
    for (int64_t i = 0; i < t->in.count; i++)
        x[i] = fabs(t->in.d[i]);
    for (int64_t i = 0; i < t->w.count; i++)
        w[i] = fabs(t->w.d[i]);
    oracle_conv_forward(&t->g, x, w, NULL, y);
    free(x);
    free(w);
    return y;
}

static void the_usual_error_is_what_the_header_says(void **state)
{
    (void)state;
    static const int64_t pads[4] = {1, 1, 1, 1}, channel_counts[] = {16, 64, 512};
    esp_rng rng;
    esp_rng_seed(&rng, 15);
    for (size_t i = 0; i < sizeof channel_counts / sizeof *channel_counts; i++) {
        esp_conv_geometry g = geometry_of(1, channel_counts[i], 16, 12, 12, pads);
        winograd_case t = case_new(&rng, &g, false);
        memset(&t.extras, 0, sizeof t.extras);
        t.has_residual = false;
        normal_values(&rng, &t.in);
        normal_values(&rng, &t.w);
        expect_forward(&t);
        float *y = floats_new(t.out_count);
        double *absolute = absolute_sums(&t);
        for (int isa = 0; isa < ISA_COUNT; isa++) {
            if (!esp_isa_is_supported(all_isas[isa]))
                continue;
            assert_int_equal(run_case(NULL, all_isas[isa], &t, y), ESP_OK);
            double errors = 0.0, sums = 0.0;
            for (int64_t k = 0; k < t.out_count; k++) {
                errors += pow((double)y[k] - t.expected[k], 2.0);
                sums += pow(absolute[k], 2.0);
            }
            assert_true(sqrt(errors / sums) <= ESP_WINOGRAD_USUAL_ERROR);
        }
        free(absolute);
        free(y);
        case_free(&t);
    }
}

/* ---- The method ---- */

static bool fits(const blocked_method *method, esp_conv_pass pass, bool has_winograd,
                 const esp_conv_geometry *g)
{
    esp_blocked_conv plan = {.geometry = *g, .pass = pass, .engine = *esp_engine_default()};
    plan.engine.has_winograd = has_winograd;
    return method->fits(&plan);
}

static void it_is_for_large_3x3_convolutions_of_stride_1(void **state)
{
    (void)state;
    static const int64_t pads[4] = {1, 1, 1, 1};
    const esp_conv_geometry good = geometry_of(1, 64, 64, 56, 56, pads);
    assert_true(fits(&esp_blocked_winograd, ESP_CONV_FORWARD, true, &good));
    assert_true(fits(&esp_blocked_winograd_input, ESP_CONV_GRAD_INPUT, true, &good));
    assert_false(fits(&esp_blocked_winograd, ESP_CONV_GRAD_INPUT, true, &good));
    assert_false(fits(&esp_blocked_winograd_input, ESP_CONV_FORWARD, true, &good));
    assert_false(fits(&esp_blocked_winograd, ESP_CONV_FORWARD, false, &good));
    assert_false(fits(&esp_blocked_winograd_input, ESP_CONV_GRAD_INPUT, false, &good));

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
        assert_false(fits(&esp_blocked_winograd, ESP_CONV_FORWARD, true, &other[i]));
        assert_false(fits(&esp_blocked_winograd_input, ESP_CONV_GRAD_INPUT, true, &other[i]));
    }

    /* One pixel of four by four is computed for each that is wanted, weights of 4 times the size are read. */
    esp_conv_geometry pixel = geometry_of(1, 512, 512, 1, 1, pads);
    assert_false(fits(&esp_blocked_winograd, ESP_CONV_FORWARD, true, &pixel));
}

static void packed_weights_take_four_times_the_room(void **state)
{
    (void)state;
    static const int64_t pads[4] = {1, 1, 1, 1};
    esp_conv_geometry g = geometry_of(1, 100, 64, 14, 14, pads);
    winograd_case t = {.g = g};
    esp_blocked_conv plan = plan_of(&t, esp_engine_default()->isa);
    size_t bytes = plan.method->packed_bytes(&plan), plain = (size_t)conv_weights(&g) * sizeof(float);
    assert_true(bytes >= 4 * plain && bytes <= 4 * plain + 36 * ESP_ALIGNMENT);
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
    assert_int_equal(run_case(&compute, ESP_ISA_PLAIN, &t, y), ESP_CANCELLED);
    free(y);
    case_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_geometry_gives_what_the_definition_gives),
        cmocka_unit_test(the_gradient_is_that_of_the_definition),
        cmocka_unit_test(work_in_many_parts_gives_the_same),
        cmocka_unit_test(the_error_stays_within_its_bound_at_any_scale),
        cmocka_unit_test(the_usual_error_is_what_the_header_says),
        cmocka_unit_test(it_is_for_large_3x3_convolutions_of_stride_1),
        cmocka_unit_test(packed_weights_take_four_times_the_room),
        cmocka_unit_test(a_set_cancel_token_ends_it),
    };
    return cmocka_run_group_tests(tests, contexts_setup, contexts_teardown);
}
