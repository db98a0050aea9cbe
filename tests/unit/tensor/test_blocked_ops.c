/* Passes over images in channel blocks against their definitions on plain arrays. Every image has NaN in the
 * lanes that belong to no channel, and many have gaps between images. */
/* labels: threads */
#include "unit/tensor/blocked_check.h"

#include "oracle/oracle.h"
#include "tensor/blocked.h"

static esp_shape random_images(esp_rng *rng, int64_t largest)
{
    int64_t side = pick(rng, 0, 3) == 0 ? 1 : pick(rng, 1, largest);
    return images(pick(rng, 1, 4), pick_channels(rng), side, pick(rng, 1, largest));
}

/* ---- layouts ---- */

static void images_go_to_blocks_and_back_unchanged(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 60);
    for (int i = 0; i < 200; i++) {
        esp_shape shape = random_images(&rng, i % 20 == 0 ? 70 : 12);
        int64_t count = esp_shape_elements(&shape);
        pair plain = pair_random(&rng, count, -1.0, 1.0), back = pair_new(count);
        esp_view from = {.data = plain.f, .dtype = ESP_F32, .shape = shape},
                 to = {.data = back.f, .dtype = ESP_F32, .shape = shape};
        image_buffer blocked = buffer_new(shape, pick_gap(&rng)), other = buffer_new(shape, pick_gap(&rng));
        const esp_compute *compute = &all->compute[i % 4];

        assert_int_equal(esp_layout_copy(compute, &from, &blocked.view), ESP_OK);
        assert_buffer_close("to blocks", &blocked, plain.d, 0.0);
        assert_int_equal(esp_layout_copy(compute, &blocked.view, &other.view), ESP_OK);
        assert_buffer_close("blocks to blocks", &other, plain.d, 0.0);
        assert_int_equal(esp_layout_copy(compute, &other.view, &to), ESP_OK);
        assert_all_close("to plain", back.f, plain.d, count, 0.0);
        memset(plain.f, 0, (size_t)count * sizeof(float));
        assert_int_equal(esp_layout_copy(compute, &to, &from), ESP_OK);
        assert_all_close("plain to plain", plain.f, plain.d, count, 0.0);
        buffer_free(blocked);
        buffer_free(other);
        pair_free(plain);
        pair_free(back);
    }
}

static void copies_take_plain_tensors_of_any_rank_and_empty_ones(void **state)
{
    contexts *all = *state;
    float from[] = {1.0f, 2.0f, 3.0f}, to[3] = {0};
    esp_view a = {.data = from, .dtype = ESP_F32, .shape = esp_shape_make(1, (const int64_t[]){3})}, b = a;
    b.data = to;
    assert_int_equal(esp_layout_copy(&all->compute[2], &a, &b), ESP_OK);
    assert_memory_equal(from, to, sizeof from);
    a.shape = b.shape = esp_shape_make(0, NULL);
    from[0] = 7.0f;
    assert_int_equal(esp_layout_copy(&all->compute[2], &a, &b), ESP_OK);
    assert_true(to[0] == 7.0f);
    a.shape = b.shape = images(0, 3, 2, 2);
    b.layout = ESP_LAYOUT_BLOCKED;
    assert_int_equal(esp_layout_copy(&all->compute[2], &a, &b), ESP_OK);
}

/* ---- affine ---- */

typedef struct affine_case {
    esp_shape shape;
    pair x, residual, scale, shift;
    image_buffer x_image, residual_image, y;
    esp_affine affine;
    double *expected;
} affine_case;

static affine_case affine_new(esp_rng *rng, esp_shape shape)
{
    int64_t count = esp_shape_elements(&shape);
    affine_case t = {.shape = shape,
                     .x = pair_random(rng, count, -1.0, 1.0),
                     .residual = pair_random(rng, count, -1.0, 1.0),
                     .scale = pair_random(rng, shape.dims[1], -2.0, 2.0),
                     .shift = pair_random(rng, shape.dims[1], -1.0, 1.0),
                     .y = buffer_new(shape, pick_gap(rng)),
                     .expected = doubles_new(count)};
    t.x_image = buffer_from(shape, pick_gap(rng), t.x.f);
    t.residual_image = buffer_from(shape, pick_gap(rng), t.residual.f);
    t.affine = (esp_affine){.scale = pick(rng, 0, 3) > 0 ? t.scale.f : NULL,
                            .shift = pick(rng, 0, 3) > 0 ? t.shift.f : NULL,
                            .clips = pick(rng, 0, 1) == 1,
                            .low = -0.25f,
                            .high = 0.75f};
    return t;
}

static void affine_expect(affine_case *t)
{
    int64_t pixels = t->shape.dims[2] * t->shape.dims[3];
    for (int64_t i = 0; i < t->x.count; i++) {
        int64_t c = i / pixels % t->shape.dims[1];
        double v = t->x.d[i] * (t->affine.scale != NULL ? t->scale.d[c] : 1.0) +
                   (t->affine.shift != NULL ? t->shift.d[c] : 0.0) +
                   (t->affine.residual != NULL ? t->residual.d[i] : 0.0);
        t->expected[i] = t->affine.clips ? fmin(fmax(v, -0.25), 0.75) : v;
    }
}

static void affine_free(affine_case *t)
{
    pair_free(t->x);
    pair_free(t->residual);
    pair_free(t->scale);
    pair_free(t->shift);
    buffer_free(t->x_image);
    buffer_free(t->residual_image);
    buffer_free(t->y);
    free(t->expected);
}

static void affine_scales_shifts_adds_and_clips_each_channel(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 61);
    for (int i = 0; i < 200; i++) {
        affine_case t = affine_new(&rng, random_images(&rng, i % 20 == 0 ? 60 : 9));
        const esp_compute *compute = &all->compute[i % 4];
        t.affine.residual = i % 2 == 0 ? &t.residual_image.view : NULL;
        affine_expect(&t);
        assert_int_equal(esp_blocked_affine(compute, &t.x_image.view, &t.affine, &t.y.view), ESP_OK);
        assert_buffer_close("y", &t.y, t.expected, 1e-6);

        image_buffer *in_place = i % 4 == 0 ? &t.residual_image : &t.x_image;
        assert_int_equal(esp_blocked_affine(compute, &t.x_image.view, &t.affine, &in_place->view), ESP_OK);
        assert_buffers_have_the_same_bits("in place", in_place, &t.y);
        affine_free(&t);
    }
}

/* So large that they are written past the caches, from images with gaps and without. */
static void large_results_are_as_correct_as_small_ones(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 69);
    for (int i = 0; i < 2; i++) {
        affine_case t = affine_new(&rng, images(5, 50, 130, 115));
        t.affine.residual = i == 0 ? &t.residual_image.view : NULL;
        affine_expect(&t);
        assert_int_equal(esp_blocked_affine(&all->compute[2], &t.x_image.view, &t.affine, &t.y.view), ESP_OK);
        assert_buffer_close("y", &t.y, t.expected, 1e-6);
        affine_free(&t);
    }
}

static void clipping_lets_nan_pass(void **state)
{
    (void)state;
    esp_shape shape = images(1, 2, 1, 2);
    const float x[] = {NAN, 5.0f, -5.0f, INFINITY};
    image_buffer from = buffer_from(shape, 0, x), y = buffer_new(shape, 0);
    esp_affine affine = {.clips = true, .low = 0.0f, .high = 6.0f};
    assert_int_equal(esp_blocked_affine(NULL, &from.view, &affine, &y.view), ESP_OK);
    float *found = buffer_read(&y);
    assert_true(isnan(found[0]));
    assert_true(found[1] == 5.0f && found[2] == 0.0f && found[3] == 6.0f);
    free(found);
    buffer_free(from);
    buffer_free(y);
}

/* ---- element-wise ---- */

/* The plain kernels, tested by themselves, are the truth here: bit by bit. */
static void unary_functions_and_gradients_are_those_of_plain_images(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 62);
    for (int i = 0; i < 180; i++) {
        esp_unary_kind kind = (esp_unary_kind)(i % (ESP_UNARY_SCALE + 1));
        esp_shape shape = random_images(&rng, 9);
        int64_t count = esp_shape_elements(&shape);
        const esp_compute *compute = &all->compute[i % 4];
        pair x = pair_random(&rng, count, 0.1, 1.0), y = pair_new(count),
             dy = pair_random(&rng, count, -1.0, 1.0), dx = pair_new(count);
        float a = 0.3f, b = 0.6f;
        assert_int_equal(esp_unary_forward(NULL, kind, a, b, count, x.f, y.f), ESP_OK);
        assert_int_equal(esp_unary_backward(NULL, kind, a, b, count, x.f, y.f, dy.f, dx.f), ESP_OK);
        image_buffer bx = buffer_from(shape, pick_gap(&rng), x.f), by = buffer_new(shape, pick_gap(&rng)),
                     bdy = buffer_from(shape, pick_gap(&rng), dy.f), expected_y = buffer_from(shape, 0, y.f),
                     expected_dx = buffer_from(shape, 0, dx.f), bdx = buffer_new(shape, pick_gap(&rng));
        assert_int_equal(esp_blocked_unary(compute, kind, a, b, &bx.view, &by.view), ESP_OK);
        assert_buffers_have_the_same_bits("y", &by, &expected_y);
        bool reads_x = kind == ESP_UNARY_CLIP || kind == ESP_UNARY_HARD_SIGMOID,
             reads_none = kind == ESP_UNARY_NEG || kind == ESP_UNARY_SCALE;
        assert_int_equal(esp_blocked_unary_backward(compute, kind, a, b, reads_x ? &bx.view : NULL,
                                                    reads_x || reads_none ? NULL : &by.view, &bdy.view,
                                                    &bdx.view),
                         ESP_OK);
        assert_buffers_have_the_same_bits("dx", &bdx, &expected_dx);
        image_buffer buffers[] = {bx, by, bdy, expected_y, expected_dx, bdx};
        for (size_t j = 0; j < sizeof buffers / sizeof *buffers; j++)
            buffer_free(buffers[j]);
        pair_free(x);
        pair_free(y);
        pair_free(dy);
        pair_free(dx);
    }
}

static double operate(esp_binary_kind kind, double a, double b)
{
    return kind == ESP_BINARY_ADD   ? a + b
           : kind == ESP_BINARY_SUB ? a - b
           : kind == ESP_BINARY_MUL ? a * b
                                    : a / b;
}

/* The shapes b may have. */
static esp_shape random_operand(esp_rng *rng, const esp_shape *a)
{
    int64_t n = a->dims[0], c = a->dims[1];
    switch (pick(rng, 0, 5)) {
    case 0:
        return *a;
    case 1:
        return esp_shape_make(0, NULL);
    case 2:
        return esp_shape_make(1, (const int64_t[]){1});
    case 3:
        return esp_shape_make(3, (const int64_t[]){c, 1, 1});
    case 4:
        return images(1, pick(rng, 0, 1) == 0 ? 1 : c, 1, 1);
    default:
        return images(n, pick(rng, 0, 1) == 0 ? 1 : c, 1, 1);
    }
}

static void binary_arithmetic_takes_equal_shapes_channels_images_and_numbers(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 63);
    for (int i = 0; i < 400; i++) {
        esp_binary_kind kind = (esp_binary_kind)(i % 4);
        esp_shape shape = random_images(&rng, 9), operand = random_operand(&rng, &shape);
        int64_t count = esp_shape_elements(&shape);
        pair a = pair_random(&rng, count, -1.0, 1.0),
             b = pair_random(&rng, esp_shape_elements(&operand), 0.5, 2.0);
        double *expected = doubles_new(count);
        for (int64_t j = 0; j < count; j++)
            expected[j] = operate(kind, a.d[j], b.d[oracle_broadcast_offset(&shape, &operand, j)]);
        image_buffer ba = buffer_from(shape, pick_gap(&rng), a.f), y = buffer_new(shape, pick_gap(&rng)),
                     bb = {0};
        esp_view view = {.data = b.f, .dtype = ESP_F32, .shape = operand};
        bool is_equal = esp_shape_equal(&shape, &operand);
        if (operand.rank == 4 && (is_equal || i % 3 == 0)) {
            bb = buffer_from(operand, pick_gap(&rng), b.f);
            view = bb.view;
        }
        assert_true(esp_blocked_binary_fits(&shape, &operand));
        assert_int_equal(esp_blocked_binary(&all->compute[i % 4], kind, &ba.view, &view, &y.view), ESP_OK);
        assert_buffer_close("y", &y, expected, 1e-6);
        assert_int_equal(esp_blocked_binary(&all->compute[i % 4], kind, &ba.view, &view, &ba.view), ESP_OK);
        assert_buffers_have_the_same_bits("in place", &ba, &y);
        buffer_free(ba);
        buffer_free(bb);
        buffer_free(y);
        pair_free(a);
        pair_free(b);
        free(expected);
    }
}

static void binary_arithmetic_refuses_other_broadcasts(void **state)
{
    (void)state;
    esp_shape a = images(2, 20, 5, 7), vector = esp_shape_make(1, (const int64_t[]){7});
    esp_shape refused[] = {images(1, 20, 5, 7), images(2, 20, 5, 1), images(2, 20, 1, 7),
                           images(2, 10, 1, 1), images(3, 20, 1, 1), vector};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        assert_false(esp_blocked_binary_fits(&a, &refused[i]));
    assert_false(esp_blocked_binary_fits(&vector, &vector));
}

static void binary_gradients_are_the_derivatives(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 64);
    for (int i = 0; i < 80; i++) {
        esp_binary_kind kind = (esp_binary_kind)(i % 4);
        esp_shape shape = random_images(&rng, 8);
        int64_t count = esp_shape_elements(&shape);
        pair a = pair_random(&rng, count, -1.0, 1.0), b = pair_random(&rng, count, 0.5, 2.0),
             dy = pair_random(&rng, count, -1.0, 1.0);
        double *expected_a = doubles_new(count), *expected_b = doubles_new(count), step = 1e-5;
        for (int64_t j = 0; j < count; j++) {
            double x = a.d[j], z = b.d[j];
            expected_a[j] =
                dy.d[j] * (operate(kind, x + step, z) - operate(kind, x - step, z)) / (2.0 * step);
            expected_b[j] =
                dy.d[j] * (operate(kind, x, z + step) - operate(kind, x, z - step)) / (2.0 * step);
        }
        image_buffer ba = buffer_from(shape, pick_gap(&rng), a.f),
                     bb = buffer_from(shape, pick_gap(&rng), b.f),
                     bdy = buffer_from(shape, pick_gap(&rng), dy.f), da = buffer_new(shape, pick_gap(&rng)),
                     db = buffer_new(shape, pick_gap(&rng));
        bool is_linear = kind == ESP_BINARY_ADD || kind == ESP_BINARY_SUB;
        const esp_view *va = is_linear ? NULL : &ba.view, *vb = is_linear ? NULL : &bb.view;
        const esp_compute *compute = &all->compute[i % 4];
        assert_int_equal(esp_blocked_binary_backward(compute, kind, va, vb, &bdy.view, &da.view, &db.view),
                         ESP_OK);
        assert_buffer_close("da", &da, expected_a, 1e-5);
        assert_buffer_close("db", &db, expected_b, 1e-5);
        assert_int_equal(esp_blocked_binary_backward(compute, kind, va, vb, &bdy.view, NULL, NULL), ESP_OK);
        assert_int_equal(esp_blocked_binary_backward(compute, kind, va, vb, &bdy.view, &bdy.view, NULL),
                         ESP_OK);
        assert_buffers_have_the_same_bits("in place", &bdy, &da);
        image_buffer buffers[] = {ba, bb, bdy, da, db};
        for (size_t j = 0; j < sizeof buffers / sizeof *buffers; j++)
            buffer_free(buffers[j]);
        pair_free(a);
        pair_free(b);
        pair_free(dy);
        free(expected_a);
        free(expected_b);
    }
}

static void accumulating_adds_to_what_is_there(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 65);
    for (int i = 0; i < 40; i++) {
        esp_shape shape = random_images(&rng, 10);
        int64_t count = esp_shape_elements(&shape);
        pair x = pair_random(&rng, count, -1.0, 1.0), y = pair_random(&rng, count, -1.0, 1.0);
        image_buffer bx = buffer_from(shape, pick_gap(&rng), x.f),
                     by = buffer_from(shape, pick_gap(&rng), y.f);
        for (int64_t j = 0; j < count; j++)
            y.d[j] += x.d[j];
        assert_int_equal(esp_blocked_accumulate(&all->compute[i % 4], &bx.view, &by.view), ESP_OK);
        assert_buffer_close("y", &by, y.d, 1e-6);
        buffer_free(bx);
        buffer_free(by);
        pair_free(x);
        pair_free(y);
    }
}

/* ---- pooling ---- */

static esp_pool2d_geometry random_geometry(esp_rng *rng, int64_t largest)
{
    esp_pool2d_geometry g = {0};
    do {
        bool ceil_mode = pick(rng, 0, 1) == 1;
        g.batch = pick(rng, 1, 3);
        g.channels = pick_channels(rng);
        g.height = pick(rng, 1, largest);
        g.width = pick(rng, 1, largest);
        g.kernel_h = pick(rng, 0, 5) == 0 ? g.height : pick(rng, 1, 4);
        g.kernel_w = pick(rng, 0, 5) == 0 ? g.width : pick(rng, 1, 4);
        g.stride_h = pick(rng, 1, 5);
        g.stride_w = pick(rng, 1, 5);
        g.dilation_h = pick(rng, 1, 3);
        g.dilation_w = pick(rng, 1, 3);
        g.pad_top = pick(rng, 0, 5);
        g.pad_left = pick(rng, 0, 2);
        g.pad_bottom = pick(rng, 0, 2);
        g.pad_right = pick(rng, 0, 5);
        g.counts_padding = pick(rng, 0, 1) == 1;
        g.out_height = esp_pool2d_output_size(g.height, g.kernel_h, g.stride_h, g.pad_top, g.pad_bottom,
                                              g.dilation_h, ceil_mode);
        g.out_width = esp_pool2d_output_size(g.width, g.kernel_w, g.stride_w, g.pad_left, g.pad_right,
                                             g.dilation_w, ceil_mode);
    } while (g.out_height <= 0 || g.out_width <= 0);
    return g;
}

static void pooling_agrees_with_windows_visited_one_by_one(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 66);
    for (int i = 0; i < 200; i++) {
        esp_pool2d_geometry g = random_geometry(&rng, i % 20 == 0 ? 90 : 14);
        esp_shape in = images(g.batch, g.channels, g.height, g.width),
                  out = images(g.batch, g.channels, g.out_height, g.out_width);
        pair x = pair_random(&rng, esp_shape_elements(&in), -1.0, 1.0),
             y = pair_new(esp_shape_elements(&out));
        image_buffer bx = buffer_from(in, pick_gap(&rng), x.f), by = buffer_new(out, pick_gap(&rng));
        const esp_compute *compute = &all->compute[i % 4];
        oracle_pool(&g, true, x.d, y.d);
        assert_int_equal(esp_blocked_max_pool(compute, &g, &bx.view, &by.view), ESP_OK);
        assert_buffer_close("max", &by, y.d, 0.0);
        oracle_pool(&g, false, x.d, y.d);
        assert_int_equal(esp_blocked_average_pool(compute, &g, &bx.view, &by.view), ESP_OK);
        assert_buffer_close("average", &by, y.d, 1e-6);
        buffer_free(bx);
        buffer_free(by);
        pair_free(x);
        pair_free(y);
    }
}

/* The same numbers, or NaN in both. */
static void assert_same_numbers(const image_buffer *found, const float *expected)
{
    float *plain = buffer_read(found);
    for (int64_t i = 0; i < esp_shape_elements(&found->view.shape); i++)
        if (!(plain[i] == expected[i] || (isnan(plain[i]) && isnan(expected[i]))))
            fail_msg("element %lld is %g, expected %g", (long long)i, (double)plain[i], (double)expected[i]);
    free(plain);
}

/* Against the plain kernels, which are tested by finite differences; with ties, and NaN now and then. */
static void pooling_and_its_gradients_are_those_of_plain_images(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 67);
    for (int i = 0; i < 200; i++) {
        esp_pool2d_geometry g = random_geometry(&rng, i % 20 == 0 ? 60 : 14);
        esp_shape in = images(g.batch, g.channels, g.height, g.width),
                  out = images(g.batch, g.channels, g.out_height, g.out_width);
        pair x = pair_random(&rng, esp_shape_elements(&in), -1.0, 1.0), dx = pair_new(x.count),
             dy = pair_random(&rng, esp_shape_elements(&out), -1.0, 1.0);
        for (int64_t j = 0; j < x.count; j++)
            x.f[j] = pick(&rng, 0, 40) == 0 ? NAN : roundf(4.0f * x.f[j]);
        image_buffer bx = buffer_from(in, pick_gap(&rng), x.f), bdx = buffer_new(in, pick_gap(&rng)),
                     bdy = buffer_from(out, pick_gap(&rng), dy.f), by = buffer_new(out, 0);
        const esp_compute *compute = &all->compute[i % 4];
        float *y = floats_new(dy.count);
        assert_int_equal(esp_max_pool_forward(NULL, &g, x.f, y), ESP_OK);
        assert_int_equal(esp_blocked_max_pool(compute, &g, &bx.view, &by.view), ESP_OK);
        assert_same_numbers(&by, y);
        assert_int_equal(esp_max_pool_backward(NULL, &g, x.f, dy.f, dx.f), ESP_OK);
        for (int64_t j = 0; j < dx.count; j++)
            dx.d[j] = (double)dx.f[j];
        assert_int_equal(esp_blocked_max_pool_backward(compute, &g, &bx.view, &bdy.view, &bdx.view), ESP_OK);
        assert_buffer_close("max", &bdx, dx.d, 1e-6);
        assert_int_equal(esp_average_pool_backward(NULL, &g, dy.f, dx.f), ESP_OK);
        for (int64_t j = 0; j < dx.count; j++)
            dx.d[j] = (double)dx.f[j];
        assert_int_equal(esp_blocked_average_pool_backward(compute, &g, &bdy.view, &bdx.view), ESP_OK);
        assert_buffer_close("average", &bdx, dx.d, 1e-6);
        buffer_free(bx);
        buffer_free(bdx);
        buffer_free(bdy);
        buffer_free(by);
        pair_free(x);
        pair_free(dx);
        pair_free(dy);
        free(y);
    }
}

static void a_nan_wins_a_window_wherever_it_is(void **state)
{
    (void)state;
    esp_pool2d_geometry g = {.batch = 1,
                             .channels = 3,
                             .height = 1,
                             .width = 3,
                             .kernel_h = 1,
                             .kernel_w = 3,
                             .stride_h = 1,
                             .stride_w = 1,
                             .dilation_h = 1,
                             .dilation_w = 1,
                             .out_height = 1,
                             .out_width = 1};
    const float x[] = {NAN, 7.0f, 1.0f, 1.0f, NAN, 7.0f, 1.0f, 7.0f, NAN};
    image_buffer bx = buffer_from(images(1, 3, 1, 3), 0, x), by = buffer_new(images(1, 3, 1, 1), 0);
    assert_int_equal(esp_blocked_max_pool(NULL, &g, &bx.view, &by.view), ESP_OK);
    for (int c = 0; c < 3; c++)
        assert_true(isnan(by.memory[c]));
    buffer_free(bx);
    buffer_free(by);
}

/* ---- all of them ---- */

typedef esp_status pass(const esp_compute *compute, const image_buffer *x, image_buffer *y);

static const esp_pool2d_geometry overlapping = {.batch = 3,
                                                .channels = 40,
                                                .height = 50,
                                                .width = 40,
                                                .kernel_h = 3,
                                                .kernel_w = 3,
                                                .stride_h = 1,
                                                .stride_w = 1,
                                                .dilation_h = 1,
                                                .dilation_w = 1,
                                                .pad_top = 1,
                                                .pad_left = 1,
                                                .pad_bottom = 1,
                                                .pad_right = 1,
                                                .out_height = 50,
                                                .out_width = 40};

static esp_status pass_copy(const esp_compute *compute, const image_buffer *x, image_buffer *y)
{
    return esp_layout_copy(compute, &x->view, &y->view);
}

static esp_status pass_affine(const esp_compute *compute, const image_buffer *x, image_buffer *y)
{
    return esp_blocked_affine(compute, &x->view, &(esp_affine){.clips = true, .high = 0.5f}, &y->view);
}

static esp_status pass_unary(const esp_compute *compute, const image_buffer *x, image_buffer *y)
{
    return esp_blocked_unary(compute, ESP_UNARY_RELU, 0.0f, 0.0f, &x->view, &y->view);
}

static esp_status pass_unary_backward(const esp_compute *compute, const image_buffer *x, image_buffer *y)
{
    return esp_blocked_unary_backward(compute, ESP_UNARY_RELU, 0.0f, 0.0f, NULL, &x->view, &x->view,
                                      &y->view);
}

static esp_status pass_binary(const esp_compute *compute, const image_buffer *x, image_buffer *y)
{
    return esp_blocked_binary(compute, ESP_BINARY_MUL, &x->view, &x->view, &y->view);
}

static esp_status pass_scalar(const esp_compute *compute, const image_buffer *x, image_buffer *y)
{
    float two = 2.0f;
    esp_view number = {.data = &two, .dtype = ESP_F32};
    return esp_blocked_binary(compute, ESP_BINARY_MUL, &x->view, &number, &y->view);
}

static esp_status pass_binary_backward(const esp_compute *compute, const image_buffer *x, image_buffer *y)
{
    return esp_blocked_binary_backward(compute, ESP_BINARY_MUL, &x->view, &x->view, &x->view, NULL, &y->view);
}

static esp_status pass_accumulate(const esp_compute *compute, const image_buffer *x, image_buffer *y)
{
    esp_status status = esp_layout_copy(NULL, &x->view, &y->view);
    return status == ESP_OK ? esp_blocked_accumulate(compute, &x->view, &y->view) : status;
}

static esp_status pass_max(const esp_compute *compute, const image_buffer *x, image_buffer *y)
{
    return esp_blocked_max_pool(compute, &overlapping, &x->view, &y->view);
}

static esp_status pass_max_backward(const esp_compute *compute, const image_buffer *x, image_buffer *y)
{
    return esp_blocked_max_pool_backward(compute, &overlapping, &x->view, &x->view, &y->view);
}

static esp_status pass_average(const esp_compute *compute, const image_buffer *x, image_buffer *y)
{
    return esp_blocked_average_pool(compute, &overlapping, &x->view, &y->view);
}

static esp_status pass_average_backward(const esp_compute *compute, const image_buffer *x, image_buffer *y)
{
    return esp_blocked_average_pool_backward(compute, &overlapping, &x->view, &y->view);
}

static pass *const passes[] = {pass_copy,   pass_affine,       pass_unary,           pass_unary_backward,
                               pass_binary, pass_scalar,       pass_binary_backward, pass_accumulate,
                               pass_max,    pass_max_backward, pass_average,         pass_average_backward};

static void results_have_the_same_bits_for_one_two_and_three_threads(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 68);
    esp_shape shape = images(3, 40, 50, 40);
    pair x = pair_random(&rng, esp_shape_elements(&shape), -1.0, 1.0);
    image_buffer from = buffer_from(shape, 48, x.f);
    for (size_t i = 0; i < sizeof passes / sizeof *passes; i++) {
        image_buffer one = buffer_new(shape, 0);
        assert_int_equal(passes[i](&all->compute[1], &from, &one), ESP_OK);
        for (int threads = 2; threads <= MOST_THREADS; threads++) {
            image_buffer many = buffer_new(shape, 0);
            assert_int_equal(passes[i](&all->compute[threads], &from, &many), ESP_OK);
            assert_buffers_have_the_same_bits("y", &many, &one);
            buffer_free(many);
        }
        buffer_free(one);
    }
    buffer_free(from);
    pair_free(x);
}

static void cancelled_passes_say_so(void **state)
{
    esp_cancel cancel;
    esp_compute compute = cancelled_compute(*state, &cancel);
    esp_shape shape = images(3, 40, 50, 40);
    image_buffer x = buffer_new(shape, 0), y = buffer_new(shape, 16);
    for (size_t i = 0; i < sizeof passes / sizeof *passes; i++)
        assert_int_equal(passes[i](&compute, &x, &y), ESP_CANCELLED);
    buffer_free(x);
    buffer_free(y);
}

static int group(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(images_go_to_blocks_and_back_unchanged),
        cmocka_unit_test(copies_take_plain_tensors_of_any_rank_and_empty_ones),
        cmocka_unit_test(affine_scales_shifts_adds_and_clips_each_channel),
        cmocka_unit_test(large_results_are_as_correct_as_small_ones),
        cmocka_unit_test(clipping_lets_nan_pass),
        cmocka_unit_test(unary_functions_and_gradients_are_those_of_plain_images),
        cmocka_unit_test(binary_arithmetic_takes_equal_shapes_channels_images_and_numbers),
        cmocka_unit_test(binary_arithmetic_refuses_other_broadcasts),
        cmocka_unit_test(binary_gradients_are_the_derivatives),
        cmocka_unit_test(accumulating_adds_to_what_is_there),
        cmocka_unit_test(pooling_agrees_with_windows_visited_one_by_one),
        cmocka_unit_test(pooling_and_its_gradients_are_those_of_plain_images),
        cmocka_unit_test(a_nan_wins_a_window_wherever_it_is),
        cmocka_unit_test(results_have_the_same_bits_for_one_two_and_three_threads),
        cmocka_unit_test(cancelled_passes_say_so),
    };
    return cmocka_run_group_tests(tests, contexts_setup, contexts_teardown);
}

int main(void)
{
    return run_with_every_instruction_set(group);
}
