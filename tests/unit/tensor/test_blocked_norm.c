/* Batch-norm in training form over images in channel blocks, with residual and clip: against the definition
 * in double, gradients against finite differences. Every image has NaN in the lanes that belong to no
 * channel, and many have gaps between images. */
#include "unit/tensor/blocked_check.h"

#include "oracle/oracle.h"
#include "tensor/blocked.h"

static const float epsilon = 1e-3f, momentum = 0.9f, low = -0.5f, high = 1.25f;

typedef struct norm_case {
    esp_shape shape;
    int64_t batch, channels, inner;
    pair x, dy, residual, before, scale, bias; /* before: dresidual, to be added to */
    double *y, *mean, *variance, *masked;      /* masked: dy where y is inside the bounds */
    image_buffer x_image, y_image, dy_image, residual_image, dx_image, dresidual_image;
    float *saved_mean, *saved_inverse_std, *running_mean, *running_variance, *dscale, *dbias;
    esp_norm_train norm;
    void *scratch;
} norm_case;

static norm_case case_new(esp_rng *rng, esp_shape shape)
{
    int64_t count = esp_shape_elements(&shape), channels = shape.dims[1];
    norm_case t = {.shape = shape,
                   .batch = shape.dims[0],
                   .channels = channels,
                   .inner = shape.dims[2] * shape.dims[3],
                   .x = pair_random(rng, count, -1.0, 2.0),
                   .dy = pair_random(rng, count, -1.0, 1.0),
                   .residual = pair_random(rng, count, -1.0, 1.0),
                   .before = pair_random(rng, count, -1.0, 1.0),
                   .scale = pair_random(rng, channels, 0.5, 2.0),
                   .bias = pair_random(rng, channels, -1.0, 1.0),
                   .y = doubles_new(count),
                   .masked = doubles_new(count),
                   .mean = doubles_new(channels),
                   .variance = doubles_new(channels),
                   .saved_mean = floats_new(channels),
                   .saved_inverse_std = floats_new(channels),
                   .running_mean = floats_new(channels),
                   .running_variance = floats_new(channels),
                   .dscale = floats_new(channels),
                   .dbias = floats_new(channels)};
    for (int64_t c = 0; c < channels; c++) {
        t.running_mean[c] = 0.25f;
        t.running_variance[c] = 1.5f;
    }
    t.x_image = buffer_from(shape, pick_gap(rng), t.x.f);
    t.dy_image = buffer_from(shape, pick_gap(rng), t.dy.f);
    t.residual_image = buffer_from(shape, pick_gap(rng), t.residual.f);
    t.dresidual_image = buffer_from(shape, pick_gap(rng), t.before.f);
    t.y_image = buffer_new(shape, pick_gap(rng));
    t.dx_image = buffer_new(shape, pick_gap(rng));
    t.norm = (esp_norm_train){.scale = t.scale.f,
                              .bias = t.bias.f,
                              .epsilon = epsilon,
                              .momentum = momentum,
                              .running_mean = t.running_mean,
                              .running_variance = t.running_variance,
                              .saved_mean = t.saved_mean,
                              .saved_inverse_std = t.saved_inverse_std,
                              .clips = pick(rng, 0, 1) == 1,
                              .low = low,
                              .high = high};
    t.scratch = esp_alloc(esp_blocked_norm_scratch(&t.x_image.view), 1);
    assert_non_null(t.scratch);
    return t;
}

static void case_free(norm_case *t)
{
    pair pairs[] = {t->x, t->dy, t->residual, t->before, t->scale, t->bias};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        pair_free(pairs[i]);
    image_buffer buffers[] = {t->x_image,        t->y_image,  t->dy_image,
                              t->residual_image, t->dx_image, t->dresidual_image};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        buffer_free(buffers[i]);
    void *blocks[] = {t->y,
                      t->masked,
                      t->mean,
                      t->variance,
                      t->saved_mean,
                      t->saved_inverse_std,
                      t->running_mean,
                      t->running_variance,
                      t->dscale,
                      t->dbias};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        free(blocks[i]);
    esp_free(t->scratch);
}

/* y before it is clipped. */
static void normalise(norm_case *t)
{
    oracle_channel_statistics(t->batch, t->channels, t->inner, t->x.d, t->mean, t->variance);
    oracle_batch_norm(t->batch, t->channels, t->inner, t->x.d, t->scale.d, t->bias.d, t->mean, t->variance,
                      (double)epsilon, t->y);
    for (int64_t i = 0; t->norm.residual != NULL && i < t->x.count; i++)
        t->y[i] += t->residual.d[i];
}

static void expect_forward(norm_case *t)
{
    normalise(t);
    for (int64_t i = 0; t->norm.clips && i < t->x.count; i++)
        t->y[i] = fmin(fmax(t->y[i], (double)low), (double)high);
}

static esp_status train(const esp_compute *compute, norm_case *t)
{
    return esp_blocked_norm_train(compute, &t->norm, &t->x_image.view, &t->y_image.view, t->scratch);
}

static void check_forward(const esp_compute *compute, norm_case *t)
{
    double count = (double)(t->batch * t->inner), rest = (double)(1.0f - momentum);
    expect_forward(t);
    assert_int_equal(train(compute, t), ESP_OK);
    assert_buffer_close("y", &t->y_image, t->y, 2e-5);
    assert_all_close("saved mean", t->saved_mean, t->mean, t->channels, 1e-6);
    for (int64_t c = 0; c < t->channels; c++) {
        double unbiased = count > 1.0 ? t->variance[c] * count / (count - 1.0) : t->variance[c];
        double mean = 0.25 * (double)momentum + t->mean[c] * rest;
        double variance = 1.5 * (double)momentum + unbiased * rest;
        double inverse_std = 1.0 / sqrt(t->variance[c] + (double)epsilon);
        assert_all_close("running mean", t->running_mean + c, &mean, 1, 1e-6);
        assert_all_close("running variance", t->running_variance + c, &variance, 1, 1e-6);
        assert_all_close("saved 1/std", t->saved_inverse_std + c, &inverse_std, 1, 1e-5);
    }
}

static void training_normalises_adds_the_residual_and_clips(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 70);
    for (int i = 0; i < 120; i++) {
        esp_shape shape = images(pick(&rng, 1, 9), pick_channels(&rng), pick(&rng, 1, 12), pick(&rng, 1, 20));
        norm_case t = case_new(&rng, shape);
        t.norm.residual = i % 2 == 0 ? &t.residual_image.view : NULL;
        check_forward(&all->compute[i % 4], &t);
        case_free(&t);
    }
}

/* Images of many chunks, chunks of many images, more than one group of blocks. */
static void large_images_are_normalised_in_pieces(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 71);
    const int64_t sizes[][4] = {{3, 17, 75, 80}, {150, 33, 8, 8}, {7, 5, 33, 40}, {9, 33, 112, 112}};
    for (int i = 0; i < 4; i++) {
        const int64_t *s = sizes[i];
        norm_case t = case_new(&rng, images(s[0], s[1], s[2], s[3]));
        t.norm.residual = i % 2 == 0 ? &t.residual_image.view : NULL;
        check_forward(&all->compute[2], &t);
        case_free(&t);
    }
}

/* Sums of plain squares would lose the variance below an offset of 1000 standard deviations. */
static void a_large_common_offset_does_not_hurt_the_variance(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 72);
    norm_case t = case_new(&rng, images(8, 2, 40, 30));
    for (int64_t i = 0; i < t.x.count; i++) {
        t.x.f[i] = 1000.0f + t.x.f[i];
        t.x.d[i] = (double)t.x.f[i];
    }
    buffer_free(t.x_image);
    t.x_image = buffer_from(t.shape, 0, t.x.f);
    oracle_channel_statistics(t.batch, t.channels, t.inner, t.x.d, t.mean, t.variance);
    assert_int_equal(train(&all->compute[2], &t), ESP_OK);
    for (int64_t c = 0; c < t.channels; c++) {
        double inverse_std = 1.0 / sqrt(t.variance[c] + (double)epsilon);
        assert_all_close("saved 1/std", t.saved_inverse_std + c, &inverse_std, 1, 1e-5);
    }
    case_free(&t);
}

/* With the clip taken as the mask it is: finite differences must not step over a bound. */
static double norm_loss(void *context)
{
    norm_case *t = context;
    normalise(t);
    return oracle_dot(t->x.count, t->y, t->masked);
}

static void find_masked(norm_case *t)
{
    normalise(t);
    for (int64_t i = 0; i < t->x.count; i++) {
        bool is_inside = !t->norm.clips || (t->y[i] > (double)low && t->y[i] < (double)high);
        t->masked[i] = is_inside ? t->dy.d[i] : 0.0;
    }
}

static esp_status backward(const esp_compute *compute, norm_case *t, const esp_view *dx,
                           const esp_view *dresidual, bool adds)
{
    return esp_blocked_norm_backward(compute, &t->norm, &t->x_image.view,
                                     t->norm.clips && t->norm.residual != NULL ? &t->y_image.view : NULL,
                                     &t->dy_image.view, dx, t->dscale, t->dbias, dresidual, adds, t->scratch);
}

static void check_backward(const esp_compute *compute, norm_case *t, bool wants_residual, bool adds)
{
    double *dx = doubles_new(t->x.count), *dscale = doubles_new(t->channels),
           *dbias = doubles_new(t->channels);
    find_masked(t);
    oracle_gradient(t->x.d, t->x.count, norm_loss, t, dx);
    oracle_gradient(t->scale.d, t->channels, norm_loss, t, dscale);
    oracle_gradient(t->bias.d, t->channels, norm_loss, t, dbias);
    assert_int_equal(train(compute, t), ESP_OK);
    assert_int_equal(
        backward(compute, t, &t->dx_image.view, wants_residual ? &t->dresidual_image.view : NULL, adds),
        ESP_OK);
    assert_buffer_close("dx", &t->dx_image, dx, 5e-5);
    assert_all_close("dscale", t->dscale, dscale, t->channels, 5e-5);
    assert_all_close("dbias", t->dbias, dbias, t->channels, 5e-5);
    for (int64_t i = 0; i < t->x.count; i++)
        t->before.d[i] = !wants_residual ? t->before.d[i] : t->masked[i] + (adds ? t->before.d[i] : 0.0);
    assert_buffer_close("dresidual", &t->dresidual_image, t->before.d, 1e-6);

    if (!adds) {
        assert_int_equal(
            backward(compute, t, &t->dy_image.view, wants_residual ? &t->dresidual_image.view : NULL, false),
            ESP_OK);
        assert_buffers_have_the_same_bits("in place of dy", &t->dy_image, &t->dx_image);
    }
    free(dx);
    free(dscale);
    free(dbias);
}

static void gradients_are_those_of_finite_differences(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 73);
    for (int i = 0; i < 60; i++) {
        int64_t channels = i % 2 == 0 ? pick(&rng, 1, 4) : pick(&rng, 16, 18);
        norm_case t = case_new(&rng, images(pick(&rng, 2, 4), channels, pick(&rng, 1, 4), pick(&rng, 1, 4)));
        t.norm.residual = i % 3 > 0 ? &t.residual_image.view : NULL;
        check_backward(&all->compute[i % 4], &t, i % 3 > 0, i % 3 == 2);
        case_free(&t);
    }
}

/* The same in closed form, for sizes where finite differences would take too long. */
static void large_images_have_the_same_gradients(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 74);
    const int64_t sizes[][4] = {{3, 17, 75, 80}, {150, 33, 8, 8}, {7, 5, 33, 40}, {9, 33, 112, 112}};
    for (int i = 0; i < 4; i++) {
        norm_case t = case_new(&rng, images(sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3]));
        double *sum_dy = doubles_new(t.channels), *sum_dy_x = doubles_new(t.channels),
               count = (double)(t.batch * t.inner);
        t.norm.clips = i % 2 == 0;
        t.norm.residual = i != 2 ? &t.residual_image.view : NULL;
        find_masked(&t);
        for (int64_t j = 0; j < t.x.count; j++) {
            int64_t c = j / t.inner % t.channels;
            sum_dy[c] += t.masked[j];
            sum_dy_x[c] += t.masked[j] * (t.x.d[j] - t.mean[c]) / sqrt(t.variance[c] + (double)epsilon);
        }
        for (int64_t j = 0; j < t.x.count; j++) { /* y becomes dx */
            int64_t c = j / t.inner % t.channels;
            double inverse_std = 1.0 / sqrt(t.variance[c] + (double)epsilon);
            double along = (t.x.d[j] - t.mean[c]) * inverse_std * sum_dy_x[c] / count;
            t.y[j] = t.scale.d[c] * inverse_std * (t.masked[j] - sum_dy[c] / count - along);
        }
        assert_int_equal(train(&all->compute[2], &t), ESP_OK);
        assert_int_equal(backward(&all->compute[2], &t, &t.dx_image.view,
                                  i % 2 == 0 ? &t.dresidual_image.view : NULL, false),
                         ESP_OK);
        /* a y right at a bound may fall on either side in float */
        float *dx = buffer_read(&t.dx_image);
        int64_t wrong = 0;
        for (int64_t j = 0; j < t.x.count; j++)
            wrong += fabs((double)dx[j] - t.y[j]) > 5e-4;
        assert_in_range(wrong, 0, t.x.count / 10000);
        assert_all_close("dscale", t.dscale, sum_dy_x, t.channels, 2e-2);
        assert_all_close("dbias", t.dbias, sum_dy, t.channels, 2e-2);
        free(dx);
        free(sum_dy);
        free(sum_dy_x);
        case_free(&t);
    }
}

static void results_have_the_same_bits_for_one_two_and_three_threads(void **state)
{
    contexts *all = *state;
    const int64_t sizes[][4] = {{20, 7, 9, 37}, {40, 33, 16, 20}, {5, 20, 70, 70}};
    for (int i = 0; i < 3; i++) {
        norm_case one = {0};
        for (int threads = 1; threads <= MOST_THREADS; threads++) {
            esp_rng rng;
            esp_rng_seed(&rng, 75);
            norm_case t = case_new(&rng, images(sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3]));
            t.norm.clips = true;
            assert_int_equal(train(&all->compute[threads], &t), ESP_OK);
            assert_int_equal(backward(&all->compute[threads], &t, &t.dx_image.view, NULL, false), ESP_OK);
            if (threads == 1) {
                one = t;
                continue;
            }
            assert_buffers_have_the_same_bits("y", &t.y_image, &one.y_image);
            assert_buffers_have_the_same_bits("dx", &t.dx_image, &one.dx_image);
            assert_same_bits("running variance", t.running_variance, one.running_variance, t.channels);
            assert_same_bits("dscale", t.dscale, one.dscale, t.channels);
            assert_same_bits("dbias", t.dbias, one.dbias, t.channels);
            case_free(&t);
        }
        case_free(&one);
    }
}

static void a_gradient_is_zero_where_y_is_clipped(void **state)
{
    (void)state;
    esp_shape shape = images(1, 1, 1, 4);
    const float x[] = {-3.0f, -1.0f, 1.0f, 3.0f}, dy[] = {1.0f, 1.0f, 1.0f, 1.0f};
    float scale = 1.0f, bias = 0.0f, running[2] = {0}, saved[2], dscale, dbias;
    image_buffer bx = buffer_from(shape, 0, x), bdy = buffer_from(shape, 0, dy), y = buffer_new(shape, 0),
                 dx = buffer_new(shape, 0), dresidual = buffer_new(shape, 0);
    double scratch[64];
    assert_true(esp_blocked_norm_scratch(&bx.view) <= sizeof scratch);
    esp_norm_train norm = {.scale = &scale,
                           .bias = &bias,
                           .epsilon = epsilon,
                           .running_mean = &running[0],
                           .running_variance = &running[1],
                           .saved_mean = &saved[0],
                           .saved_inverse_std = &saved[1],
                           .clips = true,
                           .low = 0.0f,
                           .high = INFINITY};
    assert_int_equal(esp_blocked_norm_train(NULL, &norm, &bx.view, &y.view, scratch), ESP_OK);
    assert_int_equal(esp_blocked_norm_backward(NULL, &norm, &bx.view, &y.view, &bdy.view, &dx.view, &dscale,
                                               &dbias, &dresidual.view, false, scratch),
                     ESP_OK);
    const double expected[] = {0.0, 0.0, 1.0, 1.0};
    assert_buffer_close("dresidual", &dresidual, expected, 0.0);
    assert_true(dbias == 2.0f);
    image_buffer buffers[] = {bx, bdy, y, dx, dresidual};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        buffer_free(buffers[i]);
}

static void no_images_give_no_gradient(void **state)
{
    (void)state;
    esp_view none = {.dtype = ESP_F32, .layout = ESP_LAYOUT_BLOCKED, .shape = images(0, 3, 2, 2)};
    float dscale[] = {1.0f, 1.0f, 1.0f}, dbias[] = {1.0f, 1.0f, 1.0f};
    esp_norm_train norm = {.epsilon = epsilon};
    assert_int_equal(esp_blocked_norm_train(NULL, &norm, &none, &none, NULL), ESP_OK);
    assert_int_equal(
        esp_blocked_norm_backward(NULL, &norm, &none, NULL, &none, &none, dscale, dbias, NULL, false, NULL),
        ESP_OK);
    for (int c = 0; c < 3; c++)
        assert_true(dscale[c] == 0.0f && dbias[c] == 0.0f);
}

static void a_cancelled_run_says_so(void **state)
{
    esp_cancel cancel;
    esp_compute compute = cancelled_compute(*state, &cancel);
    esp_rng rng;
    esp_rng_seed(&rng, 76);
    for (int i = 0; i < 2; i++) {
        norm_case t = case_new(&rng, i == 0 ? images(2, 3, 4, 4) : images(4, 20, 60, 50));
        assert_int_equal(train(&compute, &t), ESP_CANCELLED);
        t.norm.clips = false;
        assert_int_equal(backward(&compute, &t, &t.dx_image.view, NULL, false), ESP_CANCELLED);
        case_free(&t);
    }
}

static int group(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_normalises_adds_the_residual_and_clips),
        cmocka_unit_test(large_images_are_normalised_in_pieces),
        cmocka_unit_test(a_large_common_offset_does_not_hurt_the_variance),
        cmocka_unit_test(gradients_are_those_of_finite_differences),
        cmocka_unit_test(large_images_have_the_same_gradients),
        cmocka_unit_test(results_have_the_same_bits_for_one_two_and_three_threads),
        cmocka_unit_test(a_gradient_is_zero_where_y_is_clipped),
        cmocka_unit_test(no_images_give_no_gradient),
        cmocka_unit_test(a_cancelled_run_says_so),
    };
    return cmocka_run_group_tests(tests, contexts_setup, contexts_teardown);
}

int main(void)
{
    return run_with_every_instruction_set(group);
}
