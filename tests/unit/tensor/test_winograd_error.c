/* The error of the Winograd convolution: its bound, and what it usually is. */
#include "unit/tensor/winograd_check.h"

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
            assert_int_equal(run_case(NULL, all_isas[isa], i % 2 == 0 ? AS_PANELS : AS_POINTS, &t, y),
                             ESP_OK);
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
            assert_int_equal(run_case(NULL, all_isas[isa], i % 2 == 0 ? AS_PANELS : AS_POINTS, &t, y),
                             ESP_OK);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_error_stays_within_its_bound_at_any_scale),
        cmocka_unit_test(the_usual_error_is_what_the_header_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
