/* Channels move between any lanes of blocked images, and nothing else changes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/rng.h"
#include "tensor/channel_copy.h"

enum { BATCH = 2, HEIGHT = 3, WIDTH = 5, GAP = 32 };

/* A blocked view with a gap between its images, filled with `value`, +1 per element. */
static esp_view make_image(int64_t channels, float value)
{
    esp_view view = {.dtype = ESP_F32,
                     .layout = ESP_LAYOUT_BLOCKED,
                     .shape = {.rank = 4, .dims = {BATCH, channels, HEIGHT, WIDTH}}};
    view.image_stride = esp_view_storage(&view) / BATCH + GAP;
    int64_t count = view.image_stride * BATCH;
    float *data = malloc((size_t)count * sizeof *data);
    assert_non_null(data);
    for (int64_t i = 0; i < count; i++)
        data[i] = value + (float)i;
    view.data = data;
    return view;
}

/* Where element (n, c, p) lies. */
static int64_t place(const esp_view *view, int64_t n, int64_t c, int64_t p)
{
    return n * view->image_stride + c / ESP_BLOCK * HEIGHT * WIDTH * ESP_BLOCK + p * ESP_BLOCK +
           c % ESP_BLOCK;
}

static void check(int64_t from_channels, int64_t from_channel, int64_t to_channels, int64_t to_channel,
                  int64_t channels)
{
    esp_view from = make_image(from_channels, 0.0f), to = make_image(to_channels, 1e6f);
    esp_view expected = make_image(to_channels, 1e6f);
    for (int64_t n = 0; n < BATCH; n++) {
        for (int64_t i = 0; i < channels * HEIGHT * WIDTH; i++) {
            int64_t c = i / (HEIGHT * WIDTH), p = i % (HEIGHT * WIDTH);
            esp_view_f32(&expected)[place(&to, n, to_channel + c, p)] =
                esp_view_f32(&from)[place(&from, n, from_channel + c, p)];
        }
    }
    assert_int_equal(esp_channel_copy(NULL, &from, from_channel, &to, to_channel, channels), ESP_OK);
    assert_memory_equal(to.data, expected.data, (size_t)(to.image_stride * BATCH) * sizeof(float));
    free(from.data);
    free(to.data);
    free(expected.data);
}

static void channels_move_between_any_lanes(void **state)
{
    (void)state;
    esp_rng rng;
    esp_rng_seed(&rng, 3);
    for (int i = 0; i < 300; i++) {
        int64_t channels = 1 + (int64_t)esp_rng_below(&rng, 40);
        int64_t from = (int64_t)esp_rng_below(&rng, 35), to = (int64_t)esp_rng_below(&rng, 35);
        check(from + channels + (int64_t)esp_rng_below(&rng, 3), from,
              to + channels + (int64_t)esp_rng_below(&rng, 3), to, channels);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(channels_move_between_any_lanes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
