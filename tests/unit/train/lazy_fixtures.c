#include "unit/train/lazy_fixtures.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"

uint8_t made_pixel(int64_t i, int x, int y, int c)
{
    return (uint8_t)(i * 37 + x * 11 + y * 5 + c * 83 + x * y % 7);
}

static esp_status made_read(void *user, int64_t index, const esp_image_wish *wish, esp_image *image,
                            esp_error *err)
{
    made_images *made = user;
    int width = made->width + (made->spread > 1 ? (int)index % made->spread : 0);

    atomic_fetch_add(&made->reads, 1);
    usleep((unsigned)(made->delay_us * (int)(index % 3)));
    for (int i = 0; i < made->bad_count; i++) {
        if (made->bad[i] == index) {
            return esp_fail(err, made->bad_status, "image %d is bad", (int)index);
        }
    }
    uint8_t *pixels = esp_buffer_need(&image->room, (size_t)(width * made->height * wish->channels));
    assert_non_null(pixels);
    if (wish->shrink != NULL) {
        assert_true(wish->shrink(wish->context, width, made->height) >= 1);
        atomic_fetch_add(&made->shrunk, wish->shrink(wish->context, 8000, 8000) == 8);
    }
    for (int y = 0; y < made->height; y++) {
        for (int x = 0; x < width; x++) {
            for (int c = 0; c < wish->channels; c++) {
                pixels[(y * width + x) * wish->channels + c] = made_pixel(index, x, y, c);
            }
        }
    }
    image->width = image->full_width = width;
    image->height = image->full_height = made->height;
    image->channels = wish->channels;
    image->pixels = pixels;
    return ESP_OK;
}

static void made_free(void *user)
{
    atomic_fetch_add(&((made_images *)user)->freed, 1);
}

esp_dataset *made_dataset(made_images *made, int64_t count, int classes, const esp_image_sizes *sizes,
                          bool skips_bad, size_t cache_bytes)
{
    static const esp_image_source_ops ops = {made_read, made_free};
    const esp_lazy_images images = {
        .ops = &ops, .take_user = made, .sizes = *sizes, .skips_bad = skips_bad, .cache_bytes = cache_bytes};
    esp_dataset *dataset = NULL;
    esp_error err = {0};

    expect_ok(esp_dataset_new_lazy("made", "", count, classes, &images, &dataset, &err), &err);
    for (int64_t i = 0; i < count; i++) {
        esp_dataset_set_label(dataset, i, (int)(i % classes));
    }
    return dataset;
}
