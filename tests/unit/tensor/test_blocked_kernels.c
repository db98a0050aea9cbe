/* The inner loops of blocked convolution against plain loops: every tile of every table, with every
 * instruction set of this processor. */
#include "unit/tensor/check.h"

#include "tensor/blocked_kernels.h"
#include "tensor/tensor.h"

static const int64_t pitches[] = {1, 2, 4, 16, 32};
enum { PITCH_COUNT = sizeof pitches / sizeof *pitches, MOST_PIXELS = 32, MOST_BLOCKS = 2 };

static const blocked_kernels *kernels_of(int isa)
{
    esp_engine engine = {.isa = (esp_isa)isa};
    return esp_isa_is_supported(engine.isa) ? esp_blocked_kernels(&engine) : NULL;
}

enum { ISA_COUNT = ESP_ISA_AVX512 + 1, X_FLOATS = 4096, ROWS = 3 + 16 + 1, Y_FLOATS = 8192 };

/* What all tiles work on: runs of 3, 16, 0 and 1 values, in no order. */
static const blocked_run runs[] = {{700, 3}, {0, 16}, {33, 0}, {900, 1}};
enum { RUN_COUNT = sizeof runs / sizeof *runs };

typedef struct tile_case {
    pair x, w, scale, shift, residual;
    int pixels, blocks;
    int64_t pitch, y_block, y_pixel;
    blocked_store store;
    bool is_stored; /* with `store`, not NULL */
} tile_case;

static double expected_value(const tile_case *c, int p, int b, int f)
{
    double sum = 0.0;
    int64_t row = 0;
    for (int r = 0; r < RUN_COUNT; r++)
        for (int32_t i = 0; i < runs[r].length; i++, row++)
            sum += c->x.d[runs[r].offset + p * c->pitch + i] * c->w.d[(row * c->blocks + b) * ESP_BLOCK + f];
    if (!c->is_stored)
        return sum;
    sum *= c->store.scale != NULL ? c->scale.d[b * ESP_BLOCK + f] : 1.0;
    sum += c->store.shift != NULL ? c->shift.d[b * ESP_BLOCK + f] : 0.0;
    if (c->store.residual != NULL)
        sum += c->residual.d[b * c->store.residual_block + p * c->store.residual_pixel + f];
    if (c->store.clips)
        sum = fmin(fmax(sum, (double)c->store.low), (double)c->store.high);
    return sum;
}

static void check_tile(const char *isa, blocked_tile_fn *tile, const tile_case *c)
{
    float *w = esp_alloc((size_t)c->w.count, sizeof *w); /* aligned, as packed weights are */
    memcpy(w, c->w.f, (size_t)c->w.count * sizeof *w);
    float *y = floats_new(Y_FLOATS);
    tile(c->x.f, runs, RUN_COUNT, w, y, c->y_block, c->y_pixel, c->is_stored ? &c->store : NULL);
    int64_t written = 0;
    for (int b = 0; b < c->blocks; b++)
        for (int p = 0; p < c->pixels; p++)
            for (int f = 0; f < ESP_BLOCK; f++) {
                double expected = expected_value(c, p, b, f);
                double found = (double)y[b * c->y_block + p * c->y_pixel + f];
                if (!(fabs(found - expected) <= 1e-5))
                    fail_msg("%s %d pixels, %d blocks, pitch %d: [%d][%d][%d] is %g, expected %g", isa,
                             c->pixels, c->blocks, (int)c->pitch, b, p, f, found, expected);
            }
    for (int64_t i = 0; i < Y_FLOATS; i++)
        written += !isnan(y[i]);
    assert_int_equal(written, c->blocks * c->pixels * ESP_BLOCK);
    free(y);
    esp_free(w);
}

static void tiles_are_sums_of_products_with_scale_shift_residual_and_clip(void **state)
{
    (void)state;
    esp_rng rng;
    esp_rng_seed(&rng, 40);
    tile_case c = {.x = pair_random(&rng, X_FLOATS, -1.0, 1.0),
                   .w = pair_random(&rng, ROWS * MOST_BLOCKS * ESP_BLOCK, -1.0, 1.0),
                   .scale = pair_random(&rng, MOST_BLOCKS * ESP_BLOCK, -2.0, 2.0),
                   .shift = pair_random(&rng, MOST_BLOCKS * ESP_BLOCK, -2.0, 2.0),
                   .residual = pair_random(&rng, Y_FLOATS, -2.0, 2.0)};
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        const blocked_kernels *kernels = kernels_of(isa);
        if (kernels == NULL)
            continue;
        assert_int_equal(kernels->isa, isa);
        assert_true(kernels->tile_pixels <= MOST_PIXELS);
        for (int i = 0; i < PITCH_COUNT; i++)
            for (c.blocks = 1; c.blocks <= kernels->filter_block / ESP_BLOCK; c.blocks++)
                for (c.pixels = 1; c.pixels <= kernels->tile_pixels; c.pixels++)
                    for (int stored = 0; stored < 4; stored++) {
                        c.pitch = pitches[i];
                        c.y_pixel = stored == 1 ? 48 : ESP_BLOCK;
                        c.y_block = c.y_pixel * kernels->tile_pixels + 16;
                        c.is_stored = stored > 0;
                        c.store = (blocked_store){.residual_block = 1600, .residual_pixel = 32};
                        c.store.scale = stored == 2 ? c.scale.f : NULL;
                        c.store.shift = stored >= 2 ? c.shift.f : NULL;
                        c.store.residual = stored != 2 ? c.residual.f : NULL;
                        c.store.clips = stored >= 2;
                        c.store.low = -0.5f, c.store.high = stored == 2 ? INFINITY : 0.75f;
                        check_tile(esp_isa_name(kernels->isa), kernels->tiles(c.pitch, c.blocks)[c.pixels],
                                   &c);
                    }
        assert_null(kernels->tiles(3, 1));
        assert_null(kernels->tiles(64, 1));
    }
    pair *pairs[] = {&c.x, &c.w, &c.scale, &c.shift, &c.residual};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        pair_free(*pairs[i]);
}

/* ---- tiles that fill x themselves ---- */

enum { TAKEN_RUNS = 4, TAKEN_CHANNELS = TAKEN_RUNS * ESP_BLOCK - 11, MOST_TAKEN = MOST_PIXELS * ESP_BLOCK };

/* Runs of whole blocks, the last one of 5 channels; x holds the blocks in another order than the source. */
static const blocked_run taken_runs[TAKEN_RUNS] = {
    {2 * MOST_TAKEN, 16}, {0, 16}, {3 * MOST_TAKEN, 16}, {MOST_TAKEN, 5}};

typedef struct intake_case {
    pair source, w, scale, shift; /* source [run][pixel][16] */
    int pixels, blocks;
    float low, high;
} intake_case;

static double taken(const intake_case *c, int r, int p, int lane)
{
    int channel = r * ESP_BLOCK + lane;
    double value = c->source.d[r * MOST_TAKEN + p * ESP_BLOCK + lane];
    return fmin(fmax(value * c->scale.d[channel] + c->shift.d[channel], (double)c->low), (double)c->high);
}

static void check_intake(const blocked_kernels *kernels, const intake_case *c)
{
    float *w = esp_alloc((size_t)c->w.count, sizeof *w);
    memcpy(w, c->w.f, (size_t)c->w.count * sizeof *w);
    float *x = floats_new(TAKEN_RUNS * MOST_TAKEN), *y = floats_new(MOST_BLOCKS * MOST_TAKEN);
    blocked_intake intake = {.source = c->source.f,
                             .source_run = MOST_TAKEN,
                             .target = x,
                             .scale = c->scale.f,
                             .shift = c->shift.f,
                             .low = c->low,
                             .high = c->high};
    blocked_store store = {.intake = &intake};
    blocked_tile_fn *tile = kernels->tiles(ESP_BLOCK, c->blocks)[c->pixels];
    tile(x, taken_runs, TAKEN_RUNS, w, y, MOST_TAKEN, ESP_BLOCK, &store);
    int64_t filled = 0;
    for (int64_t i = 0; i < TAKEN_RUNS * MOST_TAKEN; i++)
        filled += !isnan(x[i]);
    assert_int_equal(filled, TAKEN_RUNS * c->pixels * ESP_BLOCK);
    for (int p = 0; p < c->pixels; p++) {
        for (int r = 0; r < TAKEN_RUNS; r++)
            for (int lane = 0; lane < ESP_BLOCK; lane++)
                assert_float_equal(x[taken_runs[r].offset + p * ESP_BLOCK + lane], taken(c, r, p, lane),
                                   1e-6);
        for (int f = 0; f < c->blocks * ESP_BLOCK; f++) {
            double sum = 0.0;
            for (int i = 0; i < TAKEN_CHANNELS; i++)
                sum += taken(c, i / ESP_BLOCK, p, i % ESP_BLOCK) * c->w.d[i * c->blocks * ESP_BLOCK + f];
            assert_float_equal(y[f / ESP_BLOCK * MOST_TAKEN + p * ESP_BLOCK + f % ESP_BLOCK], sum, 1e-5);
        }
    }
    free(x);
    free(y);
    esp_free(w);
}

static void tiles_take_pixels_in_and_leave_them_for_the_next_panel(void **state)
{
    (void)state;
    esp_rng rng;
    esp_rng_seed(&rng, 43);
    intake_case c = {.source = pair_random(&rng, TAKEN_RUNS * MOST_TAKEN, -1.0, 1.0),
                     .w = pair_random(&rng, TAKEN_CHANNELS * MOST_BLOCKS * ESP_BLOCK, -1.0, 1.0),
                     .scale = pair_random(&rng, TAKEN_RUNS * ESP_BLOCK, -2.0, 2.0),
                     .shift = pair_random(&rng, TAKEN_RUNS * ESP_BLOCK, -1.0, 1.0)};
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        const blocked_kernels *kernels = kernels_of(isa);
        if (kernels == NULL)
            continue;
        for (c.blocks = 1; c.blocks <= kernels->filter_block / ESP_BLOCK; c.blocks++)
            for (c.pixels = 1; c.pixels <= kernels->tile_pixels; c.pixels++)
                for (int kind = 0; kind < 3; kind++) {
                    c.low = kind == 0 ? -INFINITY : 0.0f;
                    c.high = kind == 2 ? 1.0f : INFINITY;
                    check_intake(kernels, &c);
                }
    }
    pair_free(c.source);
    pair_free(c.w);
    pair_free(c.scale);
    pair_free(c.shift);
}

static void clipping_keeps_nan(void **state)
{
    (void)state;
    float w[ESP_BLOCK] __attribute__((aligned(ESP_ALIGNMENT))), y[ESP_BLOCK];
    const blocked_run one = {0, 1};
    const blocked_store store = {.clips = true, .low = 0.0f, .high = 6.0f};
    float x = 1.0f;
    for (int f = 0; f < ESP_BLOCK; f++)
        w[f] = (float)(f - 4);
    w[5] = NAN;
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        const blocked_kernels *kernels = kernels_of(isa);
        if (kernels == NULL)
            continue;
        kernels->tiles(16, 1)[1](&x, &one, 1, w, y, 0, 0, &store);
        for (int f = 0; f < ESP_BLOCK; f++)
            assert_true(f == 5 ? isnan(y[f]) : y[f] == fminf(fmaxf((float)(f - 4), 0.0f), 6.0f));
    }
}

static void pixels_are_copied_side_by_side_and_changed_on_the_way(void **state)
{
    (void)state;
    esp_rng rng;
    esp_rng_seed(&rng, 41);
    enum { COUNT = 7 };
    const int64_t step = 80;
    pair x = pair_random(&rng, (COUNT - 1) * step + ESP_BLOCK, -2.0, 2.0);
    pair scale = pair_random(&rng, ESP_BLOCK, -2.0, 2.0), shift = pair_random(&rng, ESP_BLOCK, -1.0, 1.0);
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (int kind = 0; kind < 3; kind++) {
            const blocked_kernels *kernels = kernels_of(isa);
            if (kernels == NULL)
                continue;
            float *y = floats_new(COUNT * ESP_BLOCK);
            blocked_entry entry = {.clips = kind != 1, .low = -0.25f, .high = 1.0f};
            entry.scale = kind > 0 ? scale.f : NULL;
            entry.shift = kind > 0 ? shift.f : NULL;
            kernels->pixels(COUNT, x.f, step, &entry, y);
            for (int i = 0; i < COUNT * ESP_BLOCK; i++) {
                int lane = i % ESP_BLOCK;
                double expected = x.d[i / ESP_BLOCK * step + lane];
                if (kind > 0)
                    expected = expected * scale.d[lane] + shift.d[lane];
                if (kind == 2)
                    expected = fmin(fmax(expected, -0.25), 1.0);
                assert_true(fabs((double)y[i] - expected) <= 1e-6);
            }
            free(y);
        }
    pair_free(x);
    pair_free(scale);
    pair_free(shift);
}

static void weights_are_transposed_with_zeros_for_missing_filters(void **state)
{
    (void)state;
    esp_rng rng;
    esp_rng_seed(&rng, 42);
    enum { ROWS_MOST = 32, COLUMNS = 45, STRIDE = 47 };
    pair source = pair_random(&rng, (ROWS_MOST - 1) * STRIDE + COLUMNS, 1.0, 2.0);
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (int64_t filters = 1; filters <= ROWS_MOST; filters += 3) {
            const blocked_kernels *kernels = kernels_of(isa);
            if (kernels == NULL)
                continue;
            float *target = floats_new(COLUMNS * ROWS_MOST);
            kernels->transpose(filters, ROWS_MOST, COLUMNS, source.f, STRIDE, target, ROWS_MOST);
            for (int64_t i = 0; i < COLUMNS * ROWS_MOST; i++) {
                int64_t column = i / ROWS_MOST, row = i % ROWS_MOST;
                assert_true(target[i] == (row < filters ? source.f[row * STRIDE + column] : 0.0f));
            }
            free(target);
        }
    pair_free(source);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiles_are_sums_of_products_with_scale_shift_residual_and_clip),
        cmocka_unit_test(tiles_take_pixels_in_and_leave_them_for_the_next_panel),
        cmocka_unit_test(clipping_keeps_nan),
        cmocka_unit_test(pixels_are_copied_side_by_side_and_changed_on_the_way),
        cmocka_unit_test(weights_are_transposed_with_zeros_for_missing_filters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
