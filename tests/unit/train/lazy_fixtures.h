/* A source of images for tests of lazy sets: pictures are made by arithmetic when they are asked for, reads
 * are counted, and chosen images are bad. */
#ifndef ESP_TESTS_LAZY_FIXTURES_H
#define ESP_TESTS_LAZY_FIXTURES_H

#include <stdatomic.h>

#include "train/data.h"
#include "unit/train/train_fixtures.h"

typedef struct made_images {
    int width, height; /* of image 0; image i is wider by i % spread */
    int spread;        /* 0 and 1: all have one size */
    int bad[4];        /* images that cannot be read; bad_count of them */
    int bad_count;
    esp_status bad_status;
    atomic_int reads, freed;
    atomic_int shrunk;   /* reads that could have been of an image 8 times as small */
    atomic_int delay_us; /* image i takes delay_us * (i % 3): threads overtake each other */
} made_images;

/* A set of `count` images with labels i % classes. `made` is the caller's and outlives the set. */
esp_dataset *made_dataset(made_images *made, int64_t count, int classes, const esp_image_sizes *sizes,
                          bool skips_bad, size_t cache_bytes);

/* Pixel (x, y) of channel c of image i, before any transform. */
uint8_t made_pixel(int64_t i, int x, int y, int c);

#endif
