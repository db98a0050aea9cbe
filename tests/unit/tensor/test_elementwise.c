/* Unary functions, broadcasting arithmetic and softmax against their definitions. */
#include "unit/tensor/check.h"

#include "oracle/oracle.h"
#include "tensor/elementwise.h"

static double normal_below(double x)
{
    return 0.5 * erfc(-x / sqrt(2.0));
}

static double gelu_tanh(double x)
{
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

/* The formulas of the ONNX operator texts. */
static double unary_truth(esp_unary_kind kind, double a, double b, double x)
{
    switch (kind) {
    case ESP_UNARY_RELU:
        return fmax(x, 0.0);
    case ESP_UNARY_CLIP:
        return fmin(fmax(x, a), b);
    case ESP_UNARY_SIGMOID:
        return 1.0 / (1.0 + exp(-x));
    case ESP_UNARY_HARD_SIGMOID:
        return fmax(0.0, fmin(1.0, a * x + b));
    case ESP_UNARY_EXP:
        return exp(x);
    case ESP_UNARY_SQRT:
        return sqrt(x);
    case ESP_UNARY_NEG:
        return -x;
    case ESP_UNARY_TANH:
        return tanh(x);
    case ESP_UNARY_SCALE:
        return a * x + b;
    case ESP_UNARY_LEAKY_RELU:
        return x < 0.0 ? a * x : x;
    case ESP_UNARY_ELU:
        return x < 0.0 ? a * expm1(x) : x;
    case ESP_UNARY_SELU:
        return x <= 0.0 ? b * (a * exp(x) - a) : b * x;
    case ESP_UNARY_CELU:
        return fmax(0.0, x) + fmin(0.0, a * expm1(x / a));
    case ESP_UNARY_THRESHOLDED_RELU:
        return x > a ? x : 0.0;
    case ESP_UNARY_HARD_SWISH:
        return x * fmax(0.0, fmin(1.0, x / 6.0 + 0.5));
    case ESP_UNARY_SOFTPLUS:
        return log1p(exp(x));
    case ESP_UNARY_SOFTSIGN:
        return x / (1.0 + fabs(x));
    case ESP_UNARY_MISH:
        return x * tanh(log1p(exp(x)));
    case ESP_UNARY_GELU:
        return x * normal_below(x);
    case ESP_UNARY_GELU_TANH:
        return gelu_tanh(x);
    case ESP_UNARY_ERF:
        return erf(x);
    case ESP_UNARY_SHRINK:
        return x < -b ? x + a : (x > b ? x - a : 0.0);
    case ESP_UNARY_LOG:
        return log(x);
    case ESP_UNARY_ABS:
        return fabs(x);
    case ESP_UNARY_RECIPROCAL:
        return 1.0 / x;
    case ESP_UNARY_SIN:
        return sin(x);
    case ESP_UNARY_COS:
        return cos(x);
    case ESP_UNARY_SIGN:
        return (x > 0.0) - (x < 0.0);
    case ESP_UNARY_FLOOR:
        return floor(x);
    case ESP_UNARY_CEIL:
        return ceil(x);
    case ESP_UNARY_ROUND:
        return nearbyint(x);
    }
    return NAN;
}

static double lowest_argument(esp_unary_kind kind)
{
    bool is_positive = kind == ESP_UNARY_SQRT || kind == ESP_UNARY_LOG || kind == ESP_UNARY_RECIPROCAL;
    return is_positive ? 0.1 : -4.0;
}

static void unary_functions_and_their_slopes_are_those_of_the_definition(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 50);
    const int64_t counts[] = {1, 17, 1000, 40000};
    for (int kind = 0; kind < ESP_UNARY_KINDS; kind++)
        for (int size = 0; size < 4; size++) {
            int64_t count = counts[size];
            float a = kind == ESP_UNARY_HARD_SIGMOID ? 0.2f : -0.5f, b = 0.75f;
            double low = lowest_argument((esp_unary_kind)kind);
            pair x = pair_random(&rng, count, low, 4.0), dy = pair_random(&rng, count, -1.0, 1.0);
            pair y = pair_new(count), dx = pair_new(count);
            for (int64_t i = 0; i < count; i++) {
                double above = unary_truth((esp_unary_kind)kind, (double)a, (double)b, x.d[i] + 1e-6);
                double below = unary_truth((esp_unary_kind)kind, (double)a, (double)b, x.d[i] - 1e-6);
                y.d[i] = unary_truth((esp_unary_kind)kind, (double)a, (double)b, x.d[i]);
                dx.d[i] = dy.d[i] * (above - below) / 2e-6;
            }
            const esp_compute *compute = &all->compute[size];
            assert_int_equal(esp_unary_forward(compute, (esp_unary_kind)kind, a, b, count, x.f, y.f), ESP_OK);
            assert_all_close("y", y.f, y.d, count, 1e-6);
            assert_int_equal(
                esp_unary_backward(compute, (esp_unary_kind)kind, a, b, count, x.f, y.f, dy.f, dx.f), ESP_OK);
            assert_all_close("dx", dx.f, dx.d, count, 2e-6);
            assert_int_equal(esp_unary_forward(compute, (esp_unary_kind)kind, a, b, count, x.f, x.f), ESP_OK);
            assert_same_bits("in place", x.f, y.f, count);
            pair_free(x);
            pair_free(dy);
            pair_free(y);
            pair_free(dx);
        }
}

static void a_nan_passes_through_every_unary_function(void **state)
{
    (void)state;
    for (int kind = 0; kind < ESP_UNARY_KINDS; kind++) {
        float x[40], y[40];
        for (int i = 0; i < 40; i++)
            x[i] = i % 3 == 0 ? NAN : 0.5f;
        assert_int_equal(esp_unary_forward(NULL, (esp_unary_kind)kind, 0.0f, 1.0f, 40, x, y), ESP_OK);
        for (int i = 0; i < 40; i++)
            assert_int_equal(isnan(y[i]), isnan(x[i]));
    }
}

/* The ends of the range: far out every function is what its formula tends to, or overflows to. */
static void far_arguments_give_what_the_formulas_tend_to(void **state)
{
    (void)state;
    const struct {
        esp_unary_kind kind;
        float x, y;
    } cases[] = {
        {ESP_UNARY_EXP, 200.0f, INFINITY},
        {ESP_UNARY_EXP, -200.0f, 0.0f},
        {ESP_UNARY_EXP, INFINITY, INFINITY},
        {ESP_UNARY_EXP, -INFINITY, 0.0f},
        {ESP_UNARY_SIGMOID, -1e30f, 0.0f},
        {ESP_UNARY_SIGMOID, INFINITY, 1.0f},
        {ESP_UNARY_TANH, -INFINITY, -1.0f},
        {ESP_UNARY_TANH, 1e30f, 1.0f},
        {ESP_UNARY_SOFTPLUS, 1e30f, 1e30f},
        {ESP_UNARY_SOFTPLUS, -INFINITY, 0.0f},
        {ESP_UNARY_MISH, 1e30f, 1e30f},
        {ESP_UNARY_MISH, -1e30f, 0.0f},
        {ESP_UNARY_GELU, 1e30f, 1e30f},
        {ESP_UNARY_GELU, -1e30f, 0.0f},
        {ESP_UNARY_GELU_TANH, 1e10f, 1e10f},
        {ESP_UNARY_GELU_TANH, -1e10f, 0.0f},
        {ESP_UNARY_ERF, INFINITY, 1.0f},
        {ESP_UNARY_ERF, -4.5f, -1.0f},
        {ESP_UNARY_ROUND, 8388609.0f, 8388609.0f},
        {ESP_UNARY_ROUND, -INFINITY, -INFINITY},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float y;
        assert_int_equal(esp_unary_forward(NULL, cases[i].kind, 1.0f, 1.0f, 1, &cases[i].x, &y), ESP_OK);
        assert_true(y <= cases[i].y && y >= cases[i].y);
    }
}

static void halves_round_to_even(void **state)
{
    (void)state;
    const float x[] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 0.49999997f, 3.7f};
    const float expected[] = {0.0f, 2.0f, 2.0f, -0.0f, -2.0f, -2.0f, 0.0f, 4.0f};
    float y[8];
    assert_int_equal(esp_unary_forward(NULL, ESP_UNARY_ROUND, 0, 0, 8, x, y), ESP_OK);
    assert_same_bits("rounded", y, expected, 8);
}

/* Relative to the C library in double, over the whole range; 2e-7 is some units in the last place. */
static void exponentials_are_exact_to_the_last_digits(void **state)
{
    (void)state;
    for (double at = -87.0; at < 88.5; at += 0.00737) {
        float x = (float)at, y;
        assert_int_equal(esp_unary_forward(NULL, ESP_UNARY_EXP, 0, 0, 1, &x, &y), ESP_OK);
        assert_true(fabs((double)y / exp((double)x) - 1.0) < 2e-7);
        x = (float)(at / 20.0);
        assert_int_equal(esp_unary_forward(NULL, ESP_UNARY_ERF, 0, 0, 1, &x, &y), ESP_OK);
        assert_true(fabs((double)y - erf((double)x)) <= 3e-7 * fabs(erf((double)x)));
        assert_int_equal(esp_unary_forward(NULL, ESP_UNARY_TANH, 0, 0, 1, &x, &y), ESP_OK);
        assert_true(fabs((double)y - tanh((double)x)) <= 3e-7 * fabs(tanh((double)x)));
        assert_int_equal(esp_unary_forward(NULL, ESP_UNARY_SOFTPLUS, 0, 0, 1, &x, &y), ESP_OK);
        assert_true(fabs((double)y / log1p(exp((double)x)) - 1.0) < 3e-7);
    }
}

static void a_minimum_or_maximum_of_nan_is_nan(void **state)
{
    (void)state;
    float a[] = {NAN, 1.0f, NAN}, b[] = {1.0f, NAN, NAN}, y[3];
    esp_view va = {.data = a, .shape = {.rank = 1, .dims = {3}}}, vb = va, vy = va;
    vb.data = b;
    vy.data = y;
    for (int kind = ESP_BINARY_MIN; kind <= ESP_BINARY_MAX; kind++) {
        assert_int_equal(esp_binary_forward(NULL, (esp_binary_kind)kind, &va, &vb, &vy), ESP_OK);
        for (int i = 0; i < 3; i++)
            assert_true(isnan(y[i]));
    }
}

static void relu_has_no_slope_at_zero(void **state)
{
    (void)state;
    const float y[] = {0.0f, -0.0f, 1.0f}, dy[] = {2.0f, 2.0f, 2.0f}, expected[] = {0.0f, 0.0f, 2.0f};
    float dx[3];
    assert_int_equal(esp_unary_backward(NULL, ESP_UNARY_RELU, 0.0f, 0.0f, 3, NULL, y, dy, dx), ESP_OK);
    assert_same_bits("dx", dx, expected, 3);
}

static double binary_truth(esp_binary_kind kind, double a, double b)
{
    switch (kind) {
    case ESP_BINARY_ADD:
        return a + b;
    case ESP_BINARY_SUB:
        return a - b;
    case ESP_BINARY_MUL:
        return a * b;
    case ESP_BINARY_DIV:
        return a / b;
    case ESP_BINARY_MIN:
        return fmin(a, b);
    case ESP_BINARY_MAX:
        return fmax(a, b);
    case ESP_BINARY_POW:
        return pow(a, b);
    case ESP_BINARY_PRELU:
        return a < 0.0 ? a * b : a;
    }
    return NAN;
}

typedef struct binary_case {
    esp_binary_kind kind;
    esp_shape a_shape, b_shape, y_shape;
    pair a, b, y, dy, da, db;
} binary_case;

static void binary_oracle(binary_case *t)
{
    for (int64_t i = 0; i < t->y.count; i++)
        t->y.d[i] = binary_truth(t->kind, t->a.d[oracle_broadcast_offset(&t->y_shape, &t->a_shape, i)],
                                 t->b.d[oracle_broadcast_offset(&t->y_shape, &t->b_shape, i)]);
}

static double binary_loss(void *context)
{
    binary_case *t = context;
    binary_oracle(t);
    return oracle_dot(t->y.count, t->y.d, t->dy.d);
}

/* Two shapes that broadcast: each drops leading dimensions and makes some of the others 1. */
static binary_case binary_case_new(esp_rng *rng, esp_binary_kind kind, int64_t largest)
{
    binary_case t = {.kind = kind};
    int rank = (int)pick(rng, 0, 4);
    esp_shape *shapes[] = {&t.a_shape, &t.b_shape};
    t.a_shape.rank = t.b_shape.rank = rank;
    for (int d = 0; d < rank; d++) {
        int64_t size = pick(rng, 1, largest);
        int64_t keep = pick(rng, 0, 3);
        t.a_shape.dims[d] = keep == 1 ? 1 : size;
        t.b_shape.dims[d] = keep == 2 ? 1 : size;
    }
    esp_shape *shorter = shapes[pick(rng, 0, 1)];
    int dropped = (int)pick(rng, 0, rank);
    esp_shape whole = *shorter;
    *shorter = esp_shape_make(rank - dropped, whole.dims + dropped);
    esp_error err = {0};
    assert_int_equal(esp_shape_broadcast(&t.a_shape, &t.b_shape, &t.y_shape, &err), ESP_OK);
    double low = kind == ESP_BINARY_PRELU ? -2.0 : 0.5;
    t.a = pair_random(rng, esp_shape_elements(&t.a_shape), low, 2.0);
    t.b = pair_random(rng, esp_shape_elements(&t.b_shape), 0.5, 2.0);
    int64_t count = esp_shape_elements(&t.y_shape);
    t.y = pair_new(count);
    t.dy = pair_random(rng, count, -1.0, 1.0);
    t.da = pair_new(t.a.count);
    t.db = pair_new(t.b.count);
    return t;
}

static void binary_case_free(binary_case *t)
{
    pair all[] = {t->a, t->b, t->y, t->dy, t->da, t->db};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        pair_free(all[i]);
}

static esp_view view_of(float *data, esp_shape shape)
{
    return (esp_view){.data = data, .dtype = ESP_F32, .layout = ESP_LAYOUT_PLAIN, .shape = shape};
}

static void binary_arithmetic_broadcasts_as_defined(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 51);
    for (int i = 0; i < 400; i++) {
        binary_case t = binary_case_new(&rng, (esp_binary_kind)(i % ESP_BINARY_KINDS), i % 10 == 0 ? 30 : 7);
        binary_oracle(&t);
        esp_view a = view_of(t.a.f, t.a_shape), b = view_of(t.b.f, t.b_shape), y = view_of(t.y.f, t.y_shape);
        assert_int_equal(esp_binary_forward(&all->compute[i % 4], t.kind, &a, &b, &y), ESP_OK);
        assert_all_close("y", t.y.f, t.y.d, t.y.count, 1e-6);
        binary_case_free(&t);
    }
}

static void binary_gradients_are_those_of_finite_differences(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 52);
    for (int i = 0; i < 200; i++) {
        binary_case t = binary_case_new(&rng, (esp_binary_kind)(i % ESP_BINARY_KINDS), 4);
        oracle_gradient(t.a.d, t.a.count, binary_loss, &t, t.da.d);
        oracle_gradient(t.b.d, t.b.count, binary_loss, &t, t.db.d);
        esp_view a = view_of(t.a.f, t.a_shape), b = view_of(t.b.f, t.b_shape),
                 dy = view_of(t.dy.f, t.y_shape);
        esp_view da = view_of(t.da.f, t.a_shape), db = view_of(t.db.f, t.b_shape);
        assert_int_equal(esp_binary_backward(&all->compute[i % 4], t.kind, &a, &b, &dy, &da, &db), ESP_OK);
        assert_all_close("da", t.da.f, t.da.d, t.da.count, 5e-6);
        assert_all_close("db", t.db.f, t.db.d, t.db.count, 5e-6);
        binary_case_free(&t);
    }
}

static void a_large_per_channel_gradient_is_the_sum_over_images_and_pixels(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 53);
    enum { BATCH = 9, CHANNELS = 11, PIXELS = 700 };
    esp_shape whole = esp_shape_make(3, (const int64_t[]){BATCH, CHANNELS, PIXELS});
    esp_shape channel = esp_shape_make(2, (const int64_t[]){CHANNELS, 1});
    pair x = pair_random(&rng, BATCH * CHANNELS * PIXELS, -1.0, 1.0);
    pair dy = pair_random(&rng, BATCH * CHANNELS * PIXELS, -1.0, 1.0);
    pair scale = pair_random(&rng, CHANNELS, 0.5, 2.0), dscale = pair_new(CHANNELS);
    for (int64_t i = 0; i < x.count; i++)
        dscale.d[i / PIXELS % CHANNELS] += x.d[i] * dy.d[i];
    float *first = floats_new(CHANNELS);
    for (int threads = 1; threads <= MOST_THREADS; threads++) {
        esp_view a = view_of(x.f, whole), b = view_of(scale.f, channel), g = view_of(dy.f, whole);
        esp_view none = view_of(NULL, whole), db = view_of(dscale.f, channel);
        assert_int_equal(esp_binary_backward(&all->compute[threads], ESP_BINARY_MUL, &a, &b, &g, &none, &db),
                         ESP_OK);
        assert_all_close("dscale", dscale.f, dscale.d, CHANNELS, 1e-5);
        if (threads == 1)
            memcpy(first, dscale.f, CHANNELS * sizeof(float));
        assert_same_bits("dscale", dscale.f, first, CHANNELS);
    }
    free(first);
    pair_free(x);
    pair_free(dy);
    pair_free(scale);
    pair_free(dscale);
}

static void accumulate_adds_in_place(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 54);
    pair x = pair_random(&rng, 50001, -1.0, 1.0), y = pair_random(&rng, 50001, -1.0, 1.0);
    for (int64_t i = 0; i < y.count; i++)
        y.d[i] += x.d[i];
    assert_int_equal(esp_accumulate(&all->compute[3], x.count, x.f, y.f), ESP_OK);
    assert_all_close("y", y.f, y.d, y.count, 1e-6);
    pair_free(x);
    pair_free(y);
}

typedef struct softmax_case {
    int64_t outer, axis, inner;
    pair x, y, dy, dx;
} softmax_case;

static double softmax_loss(void *context)
{
    softmax_case *t = context;
    oracle_softmax(t->outer, t->axis, t->inner, t->x.d, t->y.d);
    return oracle_dot(t->y.count, t->y.d, t->dy.d);
}

static void softmax_and_its_gradient_are_those_of_the_definition(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 55);
    for (int i = 0; i < 60; i++) {
        softmax_case t = {.outer = pick(&rng, 1, 5), .axis = pick(&rng, 1, 12), .inner = pick(&rng, 1, 3)};
        int64_t count = t.outer * t.axis * t.inner;
        t.x = pair_random(&rng, count, -3.0, 3.0);
        t.dy = pair_random(&rng, count, -1.0, 1.0);
        t.y = pair_new(count);
        t.dx = pair_new(count);
        oracle_gradient(t.x.d, count, softmax_loss, &t, t.dx.d);
        oracle_softmax(t.outer, t.axis, t.inner, t.x.d, t.y.d);
        const esp_compute *compute = &all->compute[i % 4];
        assert_int_equal(esp_softmax_forward(compute, t.outer, t.axis, t.inner, t.x.f, t.y.f), ESP_OK);
        assert_all_close("y", t.y.f, t.y.d, count, 1e-6);
        assert_int_equal(esp_softmax_backward(compute, t.outer, t.axis, t.inner, t.y.f, t.dy.f, t.dx.f),
                         ESP_OK);
        assert_all_close("dx", t.dx.f, t.dx.d, count, 1e-5);
        pair_free(t.x);
        pair_free(t.dy);
        pair_free(t.y);
        pair_free(t.dx);
    }
}

static void softmax_of_large_logits_does_not_overflow(void **state)
{
    (void)state;
    const float x[] = {1000.0f, 1000.0f, -1000.0f};
    float y[3];
    assert_int_equal(esp_softmax_forward(NULL, 1, 3, 1, x, y), ESP_OK);
    assert_true(y[0] == 0.5f && y[1] == 0.5f && y[2] == 0.0f);
}

static void a_cancelled_run_says_so(void **state)
{
    esp_cancel cancel;
    esp_compute compute = cancelled_compute(*state, &cancel);
    float x[1] = {1.0f}, y[1] = {1.0f};
    esp_view view = view_of(x, esp_shape_make(0, NULL));
    assert_int_equal(esp_unary_forward(&compute, ESP_UNARY_RELU, 0.0f, 0.0f, 1, x, y), ESP_CANCELLED);
    assert_int_equal(esp_unary_backward(&compute, ESP_UNARY_RELU, 0.0f, 0.0f, 1, x, x, x, y), ESP_CANCELLED);
    assert_int_equal(esp_binary_forward(&compute, ESP_BINARY_ADD, &view, &view, &view), ESP_CANCELLED);
    assert_int_equal(esp_binary_backward(&compute, ESP_BINARY_ADD, &view, &view, &view, &view, &view),
                     ESP_CANCELLED);
    assert_int_equal(esp_accumulate(&compute, 1, x, y), ESP_CANCELLED);
    assert_int_equal(esp_softmax_forward(&compute, 1, 1, 1, x, y), ESP_CANCELLED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unary_functions_and_their_slopes_are_those_of_the_definition),
        cmocka_unit_test(a_nan_passes_through_every_unary_function),
        cmocka_unit_test(far_arguments_give_what_the_formulas_tend_to),
        cmocka_unit_test(halves_round_to_even),
        cmocka_unit_test(exponentials_are_exact_to_the_last_digits),
        cmocka_unit_test(a_minimum_or_maximum_of_nan_is_nan),
        cmocka_unit_test(relu_has_no_slope_at_zero),
        cmocka_unit_test(binary_arithmetic_broadcasts_as_defined),
        cmocka_unit_test(binary_gradients_are_those_of_finite_differences),
        cmocka_unit_test(a_large_per_channel_gradient_is_the_sum_over_images_and_pixels),
        cmocka_unit_test(accumulate_adds_in_place),
        cmocka_unit_test(softmax_and_its_gradient_are_those_of_the_definition),
        cmocka_unit_test(softmax_of_large_logits_does_not_overflow),
        cmocka_unit_test(a_cancelled_run_says_so),
    };
    return cmocka_run_group_tests(tests, contexts_setup, contexts_teardown);
}
