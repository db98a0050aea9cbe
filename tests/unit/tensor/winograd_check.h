/* What the tests of the Winograd convolution share: images with gaps, cases with what the definition gives,
 * and their runs by either form of packed weights. */
#ifndef ESP_TESTS_TENSOR_WINOGRAD_CHECK_H
#define ESP_TESTS_TENSOR_WINOGRAD_CHECK_H

#include "unit/tensor/check.h"

#include "oracle/oracle.h"
#include "tensor/blocked_conv_internal.h"
#include "tensor/winograd.h"

static const esp_isa all_isas[] = {ESP_ISA_PLAIN, ESP_ISA_AVX2, ESP_ISA_AVX512};
enum { ISA_COUNT = sizeof all_isas / sizeof *all_isas };

static inline esp_engine engine_of(esp_isa isa)
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
static inline image image_new(int64_t n, int64_t c, int64_t h, int64_t w, int64_t gap_blocks)
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

static inline void image_free(image *i)
{
    free(i->view.data);
}

/* Element [n,c,p] of a blocked image with `p` counting pixels of a plane. */
static inline float *image_at(const image *i, int64_t n, int64_t c, int64_t p)
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

static inline void image_set(image *i, const float *plain)
{
    FOR_ELEMENTS(i, at, index) *at = plain[index];
}

static inline void assert_gaps_untouched(const image *i)
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

static inline int64_t in_channels(const winograd_case *t)
{
    return t->is_gradient ? t->g.filters : t->g.channels;
}
static inline int64_t out_channels(const winograd_case *t)
{
    return t->is_gradient ? t->g.channels : t->g.filters;
}

static inline double clip(bool clips, double low, double high, double value)
{
    return clips ? fmin(fmax(value, low), high) : value;
}

static inline void expect_forward(winograd_case *t)
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

static inline void expect_gradient(winograd_case *t)
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

static inline void case_extras(esp_rng *rng, winograd_case *t)
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

static inline winograd_case case_new(esp_rng *rng, const esp_conv_geometry *g, bool is_gradient)
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

static inline void case_free(winograd_case *t)
{
    pair *all[] = {&t->in, &t->w, &t->residual, &t->scale, &t->shift, &t->in_scale, &t->in_shift};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        pair_free(*all[i]);
    free(t->expected);
}

/* How weights are packed: as they are, or transformed. */
typedef enum winograd_form { AS_PANELS, AS_POINTS } winograd_form;

static inline esp_blocked_conv plan_of(const winograd_case *t, esp_isa isa, winograd_form form)
{
    static const blocked_method *const methods[2][2] = {
        {&esp_blocked_winograd, &esp_blocked_winograd_points},
        {&esp_blocked_winograd_input, &esp_blocked_winograd_input_points}};
    return (esp_blocked_conv){.geometry = t->g,
                              .pass = t->is_gradient ? ESP_CONV_GRAD_INPUT : ESP_CONV_FORWARD,
                              .engine = engine_of(isa),
                              .method = methods[t->is_gradient][form]};
}

/* Runs the case; the result is plain. Memory has exactly the size asked for. */
static inline esp_status run_case(const esp_compute *compute, esp_isa isa, winograd_form form,
                                  const winograd_case *t, float *result)
{
    const esp_conv_geometry *g = &t->g;
    esp_blocked_conv plan = plan_of(t, isa, form);
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
    /* Scratch memory for many threads serves one, too. */
    size_t scratch_bytes =
        plan.method->scratch(&plan, compute != NULL ? esp_compute_slots(compute) : MOST_THREADS);
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
static inline double random_tolerance(const winograd_case *t)
{
    return 8e-6 * (double)(in_channels(t) + 8);
}

static inline char *describe(const winograd_case *t, esp_isa isa, winograd_form form, char *text, size_t size)
{
    const esp_conv_geometry *g = &t->g;
    snprintf(text, size, "%s %s from %s [%d,%d,%d,%d] f%d p%d,%d,%d,%d gap %d", esp_isa_name(isa),
             t->is_gradient ? "dx" : "y", form == AS_PANELS ? "panels" : "points", (int)g->batch,
             (int)g->channels, (int)g->height, (int)g->width, (int)g->filters, (int)g->pad_top,
             (int)g->pad_left, (int)g->pad_bottom, (int)g->pad_right, (int)t->gap_blocks);
    return text;
}

static inline esp_conv_geometry geometry_of(int64_t batch, int64_t channels, int64_t filters, int64_t height,
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

#endif
