/* Batches against a naive version that pads, crops and mirrors a whole image step by step. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "unit/train/train_fixtures.h"

enum { CHANNELS = 3, HEIGHT = 5, WIDTH = 7, SIZE = CHANNELS * HEIGHT * WIDTH, IMAGES = 40 };

static const esp_normalization norm = {
    .channels = CHANNELS, .mean = {0.5f, 0.4f, 0.3f}, .std = {0.2f, 0.25f, 0.125f}};

/* One image: normalised, padded by zeros, cropped at (dy, dx) of the padded one, mirrored. */
static void naive_image(const uint8_t *pixels, int padding, int dy, int dx, bool is_flipped, float *out)
{
    for (int c = 0; c < CHANNELS; c++) {
        for (int y = 0; y < HEIGHT; y++) {
            for (int x = 0; x < WIDTH; x++) {
                int from_y = y + dy - padding;
                int from_x = (is_flipped ? WIDTH - 1 - x : x) + dx - padding;
                bool is_inside = from_y >= 0 && from_y < HEIGHT && from_x >= 0 && from_x < WIDTH;
                float value = 0.0f;
                if (is_inside) {
                    uint8_t pixel = pixels[(c * HEIGHT + from_y) * WIDTH + from_x];
                    value = ((float)pixel / 255.0f - norm.mean[c]) / norm.std[c];
                }
                out[(c * HEIGHT + y) * WIDTH + x] = value;
            }
        }
    }
}

typedef struct fixture {
    esp_dataset *dataset;
    uint32_t indices[IMAGES];
    float x[IMAGES * SIZE];
    int32_t labels[IMAGES];
} fixture;

static int set_up(void **state)
{
    fixture *f = esp_alloc_zero(1, sizeof(*f));
    f->dataset = noise_dataset(IMAGES, CHANNELS, HEIGHT, WIDTH, 10, 5);
    for (int i = 0; i < IMAGES; i++) {
        f->indices[i] = (uint32_t)((i * 7) % IMAGES);
    }
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    esp_dataset_unref(f->dataset);
    esp_free(f);
    return 0;
}

static void fill(fixture *f, const esp_augmentation *augmentation, uint64_t seed, uint64_t epoch)
{
    assert_int_equal(esp_batch_fill(NULL, f->dataset, &norm, augmentation, seed, epoch, f->indices, IMAGES,
                                    f->x, f->labels),
                     ESP_OK);
}

static void without_augmentation_images_are_normalised_only(void **state)
{
    fixture *f = *state;
    fill(f, NULL, 1, 1);
    float expected[SIZE];
    for (int i = 0; i < IMAGES; i++) {
        naive_image(esp_dataset_pixels(f->dataset, f->indices[i]), 0, 0, 0, false, expected);
        assert_memory_equal(f->x + i * SIZE, expected, sizeof(expected));
        assert_int_equal(f->labels[i], f->indices[i] % 10);
    }
}

/* The crop and flip that give this batch image, as 2 * (dy * span + dx) + flip; -1 when none does. */
static int find_choice(const fixture *f, int i, int padding)
{
    int span = 2 * padding + 1;
    float expected[SIZE];
    for (int choice = 0; choice < 2 * span * span; choice++) {
        int dy = choice / 2 / span, dx = choice / 2 % span;
        naive_image(esp_dataset_pixels(f->dataset, f->indices[i]), padding, dy, dx, choice % 2 == 1,
                    expected);
        if (memcmp(f->x + i * SIZE, expected, sizeof(expected)) == 0) {
            return choice;
        }
    }
    return -1;
}

static void crops_and_flips_are_those_of_a_padded_image(void **state)
{
    fixture *f = *state;
    const esp_augmentation augmentation = {.crop_padding = 2, .flips = true};
    bool seen[2 * 5 * 5] = {false};
    int kinds = 0, flipped = 0;
    for (uint64_t epoch = 0; epoch < 5; epoch++) {
        fill(f, &augmentation, 9, epoch);
        for (int i = 0; i < IMAGES; i++) {
            int choice = find_choice(f, i, 2);
            assert_true(choice >= 0);
            kinds += !seen[choice];
            seen[choice] = true;
            flipped += choice % 2;
        }
    }
    /* 200 draws from 50 kinds: all but one or two appear, and about half are mirrored (5 sigma = 35) */
    assert_true(kinds > 40);
    assert_true(flipped > 65 && flipped < 135);
}

static void crops_alone_never_mirror_and_flips_alone_never_move(void **state)
{
    fixture *f = *state;
    fill(f, &(esp_augmentation){.crop_padding = 1}, 3, 1);
    for (int i = 0; i < IMAGES; i++) {
        assert_int_equal(find_choice(f, i, 1) % 2, 0);
    }
    fill(f, &(esp_augmentation){.flips = true}, 3, 1);
    for (int i = 0; i < IMAGES; i++) {
        assert_in_range(find_choice(f, i, 0), 0, 1);
    }
}

static void padding_larger_than_the_image_gives_zeros_not_trouble(void **state)
{
    fixture *f = *state;
    fill(f, &(esp_augmentation){.crop_padding = 20, .flips = true}, 3, 1);
    int empty = 0;
    for (int i = 0; i < IMAGES; i++) {
        assert_true(find_choice(f, i, 20) >= 0);
        bool is_empty = true;
        for (int k = 0; k < SIZE; k++) {
            is_empty = is_empty && f->x[i * SIZE + k] == 0.0f;
        }
        empty += is_empty;
    }
    assert_true(empty > 0);
}

static void choices_depend_on_seed_epoch_and_image_only(void **state)
{
    fixture *f = *state;
    const esp_augmentation augmentation = {.crop_padding = 2, .flips = true};
    fill(f, &augmentation, 9, 4);
    float *first = esp_alloc(IMAGES * SIZE, sizeof(float));
    memcpy(first, f->x, sizeof(f->x));

    /* alone, elsewhere in a batch, and on four threads */
    float alone[SIZE];
    int32_t label = 0;
    assert_int_equal(
        esp_batch_fill(NULL, f->dataset, &norm, &augmentation, 9, 4, f->indices + 11, 1, alone, &label),
        ESP_OK);
    assert_memory_equal(alone, first + 11 * SIZE, sizeof(alone));
    esp_error err = {0};
    esp_compute compute = {0};
    expect_ok(esp_pool_new(4, &compute.pool, &err), &err);
    memset(f->x, 0, sizeof(f->x));
    assert_int_equal(
        esp_batch_fill(&compute, f->dataset, &norm, &augmentation, 9, 4, f->indices, IMAGES, f->x, f->labels),
        ESP_OK);
    esp_pool_free(compute.pool);
    assert_memory_equal(f->x, first, sizeof(f->x));

    fill(f, &augmentation, 9, 5);
    assert_memory_not_equal(f->x, first, sizeof(f->x));
    fill(f, &augmentation, 10, 4);
    assert_memory_not_equal(f->x, first, sizeof(f->x));
    esp_free(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(without_augmentation_images_are_normalised_only, set_up, tear_down),
        cmocka_unit_test_setup_teardown(crops_and_flips_are_those_of_a_padded_image, set_up, tear_down),
        cmocka_unit_test_setup_teardown(crops_alone_never_mirror_and_flips_alone_never_move, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(padding_larger_than_the_image_gives_zeros_not_trouble, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(choices_depend_on_seed_epoch_and_image_only, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
