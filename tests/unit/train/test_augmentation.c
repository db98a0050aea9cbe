/* Augmentation: its words, and what it does to batches against naive versions that do one thing to one image.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "unit/train/train_fixtures.h"

enum { CHANNELS = 3, HEIGHT = 9, WIDTH = 12, PLANE = HEIGHT * WIDTH, SIZE = CHANNELS * PLANE, IMAGES = 30 };

static const esp_normalization norm = {
    .channels = CHANNELS, .mean = {0.5f, 0.4f, 0.3f}, .std = {0.2f, 0.25f, 0.125f}};

/* ---- words ---- */

static esp_augmentation parsed(const char *text)
{
    esp_augmentation augmentation = {0};
    esp_error err = {0};

    expect_ok(esp_augmentation_parse(text, &augmentation, &err), &err);
    return augmentation;
}

static void a_list_of_words_says_what_is_done(void **state)
{
    (void)state;
    esp_augmentation a = parsed("crop=4,flip,resized=0.08,ratio=0.5:2,jitter=0.4,hue=0.1,cutout=8,mixup=0.2");

    assert_int_equal(a.crop_padding, 4);
    assert_true(a.flips);
    assert_true(a.least_area == 0.08 && a.most_area == 1.0);
    assert_true(a.least_ratio == 0.5 && a.most_ratio == 2.0);
    assert_true(a.brightness == 0.4 && a.contrast == 0.4 && a.saturation == 0.4 && a.hue == 0.1);
    assert_int_equal(a.cutout, 8);
    assert_true(a.mixup == 0.2);
    assert_true(parsed("resized=0.2:0.5").most_area == 0.5);
    assert_true(esp_augmentation_is_none(&(esp_augmentation){0}));
    assert_true(esp_augmentation_is_none(NULL));
    assert_false(esp_augmentation_is_none(&a));
}

static void the_text_of_an_augmentation_parses_to_the_same(void **state)
{
    static const char *const texts[] = {"",
                                        "none",
                                        "flip",
                                        "crop=3,cutout=2",
                                        "brightness=0.3,contrast=0.2,saturation=1,hue=0.5",
                                        "resized=0.08:0.123456789,ratio=1:3,mixup=1.5"};

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        esp_augmentation first = parsed(texts[i]);
        char text[ESP_AUGMENTATION_TEXT_MAX], again[ESP_AUGMENTATION_TEXT_MAX];
        esp_augmentation second = parsed(esp_augmentation_text(&first, text, sizeof text));

        assert_string_equal(text, esp_augmentation_text(&second, again, sizeof again));
        assert_true(first.least_area == second.least_area && first.most_area == second.most_area &&
                    first.most_ratio == second.most_ratio && first.mixup == second.mixup &&
                    first.hue == second.hue && first.saturation == second.saturation &&
                    first.crop_padding == second.crop_padding && first.cutout == second.cutout &&
                    first.flips == second.flips);
    }
    char all[ESP_AUGMENTATION_TEXT_MAX];
    esp_augmentation most =
        parsed("crop=4096,flip,resized=0.123456789:0.987654321,ratio=0.123456789:99.1234567,"
               "brightness=12.3456789,contrast=12.3456789,saturation=12.3456789,hue=0.123456789,"
               "cutout=65535,mixup=12.3456789");
    assert_true(strlen(esp_augmentation_text(&most, all, sizeof all)) < sizeof all - 1);
    assert_non_null(strstr(all, "mixup=12.3456789"));
}

static void wrong_words_and_values_are_named(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"flop", "unknown augmentation 'flop', did you mean 'flip'?"},
        {"flip=1", "'flip': found '1', expected no value"},
        {"crop", "'crop': found 'nothing'"},
        {"crop=-1", "'crop': found '-1'"},
        {"crop=1.5", "'crop': found '1.5'"},
        {"hue=0.6", "'hue': found '0.6', expected a number, 0 to 0.5"},
        {"mixup=nan", "'mixup': found 'nan'"},
        {"resized=0", "'resized': found '0'"},
        {"resized=0.5:0.2", "'resized': found '0.5:0.2'"},
        {"resized=0.5:", "'resized': found '0.5:'"},
        {"ratio=1:2", "nothing without 'resized'"},
        {"flip,,crop=2", "unknown augmentation ''"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        esp_augmentation untouched = {.cutout = 77};
        esp_error err = {0};

        expect_failure(esp_augmentation_parse(cases[i].text, &untouched, &err), ESP_INVALID, &err,
                       cases[i].message);
        assert_int_equal(untouched.cutout, 77);
    }
    esp_error err = {0};
    expect_failure(esp_augmentation_check(&(esp_augmentation){.hue = 0.7}, &err), ESP_INVALID, &err,
                   "hue 0.7");
    expect_failure(esp_augmentation_check(&(esp_augmentation){.most_area = 0.5, .least_area = 0.6}, &err),
                   ESP_INVALID, &err, "resized");
    expect_failure(esp_augmentation_check(&(esp_augmentation){.mixup = (double)NAN}, &err), ESP_INVALID, &err,
                   "mixup");
}

static void every_word_of_the_list_is_understood(void **state)
{
    size_t count = 0;
    const char *const *words = esp_augmentation_words(&count);

    (void)state;
    assert_null(words[count]);
    for (size_t i = 0; i < count; i++) {
        char text[64];
        esp_augmentation augmentation;

        snprintf(text, sizeof text, strcmp(words[i], "flip") == 0 ? "%s" : "resized=0.5,%s=0.5", words[i]);
        esp_error err = {0};
        esp_status status = esp_augmentation_parse(text, &augmentation, &err);
        assert_true(status == ESP_OK || strstr(err.message, "whole number") != NULL);
    }
}

/* ---- batches ---- */

typedef struct fixture {
    esp_dataset *dataset;
    uint32_t indices[IMAGES];
    float x[IMAGES * SIZE], plain[IMAGES * SIZE], share[IMAGES];
    int32_t label[IMAGES], other[IMAGES];
} fixture;

static void fill(fixture *f, const char *augmentation, uint64_t seed, uint64_t epoch, bool mixes)
{
    esp_augmentation a = parsed(augmentation);
    const esp_batch_labels labels = {f->label, mixes ? f->other : NULL, mixes ? f->share : NULL};
    esp_error err = {0};

    expect_ok(
        esp_batch_read(NULL, f->dataset, &norm, &a, seed, epoch, f->indices, IMAGES, f->x, &labels, &err),
        &err);
}

static int set_up(void **state)
{
    fixture *f = esp_alloc_zero(1, sizeof *f);

    f->dataset = noise_dataset(IMAGES, CHANNELS, HEIGHT, WIDTH, 10, 5);
    for (int i = 0; i < IMAGES; i++) {
        f->indices[i] = (uint32_t)((i * 7) % IMAGES);
    }
    fill(f, "", 1, 1, false);
    memcpy(f->plain, f->x, sizeof f->x);
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

/* The square of zeros in an image, which is else as it was. */
static void check_hole(const float *x, const float *plain, int side, int *area, bool *is_cut_at_top,
                       bool *is_cut_at_left)
{
    int top = HEIGHT, bottom = -1, left = WIDTH, right = -1;

    for (int p = 0; p < PLANE; p++) {
        if (x[p] == 0.0f && plain[p] != 0.0f) {
            int y = p / WIDTH, column = p % WIDTH;
            top = y < top ? y : top;
            bottom = y > bottom ? y : bottom;
            left = column < left ? column : left;
            right = column > right ? column : right;
        }
    }
    assert_true(bottom - top + 1 <= side && right - left + 1 <= side);
    for (int k = 0; k < SIZE; k++) {
        int y = k % PLANE / WIDTH, column = k % WIDTH;
        bool is_inside = y >= top && y <= bottom && column >= left && column <= right;
        assert_true(x[k] == (is_inside ? 0.0f : plain[k]));
    }
    *area = (bottom - top + 1) * (right - left + 1);
    *is_cut_at_top = top == 0 && bottom - top + 1 < side;
    *is_cut_at_left = left == 0 && right - left + 1 < side;
}

static void cutout_clears_one_square_that_may_reach_over_the_edge(void **state)
{
    fixture *f = *state;
    int whole = 0, partial = 0, cut_at_top = 0, cut_at_left = 0;

    for (uint64_t epoch = 0; epoch < 5; epoch++) {
        fill(f, "cutout=4", 3, epoch, false);
        for (int i = 0; i < IMAGES; i++) {
            int area;
            bool is_cut_at_top, is_cut_at_left;
            check_hole(f->x + i * SIZE, f->plain + i * SIZE, 4, &area, &is_cut_at_top, &is_cut_at_left);
            cut_at_top += is_cut_at_top;
            cut_at_left += is_cut_at_left;
            whole += area == 16;
            partial += area < 16;
        }
    }
    /* the centre is uniform over 9 x 12 pixels, of which 6 x 9 leave the square whole: half of 150, 5 sigma =
     * 31 */
    assert_true(whole > 44 && whole < 106);
    assert_int_equal(whole + partial, 150);
    assert_true(cut_at_top > 5 && cut_at_left > 5); /* of 33 and 25 expected */
}

static void mixtures_are_of_an_image_and_the_next_with_their_labels(void **state)
{
    fixture *f = *state;
    double mean = 0, extremes = 0;

    fill(f, "mixup=0.4", 3, 1, true);
    for (int i = 0; i < IMAGES; i++) {
        int next = (i + 1) % IMAGES;
        float s = f->share[i];

        assert_true(s >= 0.0f && s <= 1.0f);
        assert_int_equal(f->label[i], f->indices[i] % 10);
        assert_int_equal(f->other[i], f->indices[next] % 10);
        for (int k = 0; k < SIZE; k++) {
            float expected = s * f->plain[i * SIZE + k] + (1.0f - s) * f->plain[next * SIZE + k];
            assert_true(fabsf(f->x[i * SIZE + k] - expected) <= 1e-5f);
        }
    }
    /* Beta(0.4, 0.4): mean 1/2, variance 1/(4 * 1.8) */
    esp_augmentation a = {.mixup = 0.4};
    for (uint32_t i = 0; i < 4000; i++) {
        double s = esp_mixup_share(&a, 11, i);
        mean += s / 4000;
        extremes += (s - 0.5) * (s - 0.5) / 4000;
    }
    assert_true(fabs(mean - 0.5) < 0.03);
    assert_true(fabs(extremes - 1.0 / 7.2) < 0.01);
}

static void without_room_for_mixed_labels_images_are_not_mixed(void **state)
{
    fixture *f = *state;

    fill(f, "mixup=0.4", 3, 1, false);
    assert_memory_equal(f->x, f->plain, sizeof f->x);
}

static void a_share_of_one_kind_does_not_move_with_another(void **state)
{
    fixture *f = *state;
    float *flipped = esp_alloc(IMAGES * SIZE, sizeof(float));
    int same = 0;

    /* with cutout switched on, crops and flips stay where they were */
    fill(f, "crop=2,flip", 3, 1, false);
    memcpy(flipped, f->x, sizeof f->x);
    fill(f, "crop=2,flip,cutout=3,mixup=0.4", 3, 1, false);
    for (int k = 0; k < IMAGES * SIZE; k++) {
        same += f->x[k] == flipped[k];
        assert_true(f->x[k] == flipped[k] || f->x[k] == 0.0f);
    }
    assert_true(same > IMAGES * SIZE * 3 / 4);
    esp_free(flipped);
    /* and are independent of it: no two kinds draw the same numbers */
    uint64_t draws[5];
    for (int kind = ESP_CHOICE_PLACE; kind <= ESP_CHOICE_MIX; kind++) {
        esp_rng rng;
        esp_choice_seed(&rng, 12, (esp_choice)kind, 3);
        draws[kind] = esp_rng_u64(&rng);
        for (int before = 0; before < kind; before++) {
            assert_true(draws[before] != draws[kind]);
        }
    }
}

static void resized_boxes_are_inside_and_of_the_area_and_ratio_asked_for(void **state)
{
    (void)state;
    const esp_augmentation a = {.least_area = 0.2, .most_area = 0.6, .least_ratio = 0.5, .most_ratio = 2.0};
    double sum = 0;

    for (uint64_t seed = 0; seed < 2000; seed++) {
        esp_rng rng;
        esp_rng_seed(&rng, seed);
        esp_box box = esp_random_box(&a, &rng, 400, 300);
        double area = (double)box.width * box.height / (400.0 * 300.0),
               ratio = (double)box.width / box.height;

        assert_true(box.x >= 0 && box.y >= 0 && box.x + box.width <= 400 && box.y + box.height <= 300);
        assert_true(area > 0.195 && area < 0.605 && ratio > 0.49 && ratio < 2.03);
        sum += area / 2000;
    }
    assert_true(fabs(sum - 0.4) < 0.02); /* a little below: large boxes of odd ratios do not fit */
    /* an image that no box of these ratios fits gives its largest centred one */
    const esp_augmentation whole = {.least_area = 0.9, .most_area = 1.0};
    esp_rng rng;
    esp_rng_seed(&rng, 1);
    esp_box box = esp_random_box(&whole, &rng, 400, 10);
    assert_int_equal(box.height, 10);
    assert_int_equal(box.width, 13);
    assert_int_equal(box.x, 193);
    box = esp_random_box(&whole, &rng, 1, 1);
    assert_true(box.width == 1 && box.height == 1);
}

static void a_resized_image_is_its_box_at_the_size_of_the_batch(void **state)
{
    fixture *f = *state;
    const esp_transform transform = {.channels = CHANNELS, .height = HEIGHT, .width = WIDTH};
    esp_augmentation a = parsed("resized=0.2:0.9");
    esp_transform_room room = {0};
    uint8_t interleaved[SIZE], expected[SIZE];

    fill(f, "resized=0.2:0.9", 21, 2, false);
    for (int i = 0; i < IMAGES; i++) {
        const uint8_t *pixels = esp_dataset_pixels(f->dataset, f->indices[i]);
        for (int k = 0; k < SIZE; k++) {
            interleaved[k % PLANE * CHANNELS + k / PLANE] = pixels[k];
        }
        const esp_image image = {WIDTH, HEIGHT, CHANNELS, WIDTH, HEIGHT, interleaved, NULL, {0}, {0}};
        esp_rng rng;
        esp_choice_seed(&rng, esp_epoch_seed(21, 2), ESP_CHOICE_BOX, f->indices[i]);
        esp_box box = esp_random_box(&a, &rng, WIDTH, HEIGHT);
        assert_int_equal(esp_transform_box(&transform, &image, box, &room, expected, NULL), ESP_OK);
        for (int k = 0; k < SIZE; k++) {
            int c = k / PLANE;
            float value = ((float)expected[k] / 255.0f - norm.mean[c]) / norm.std[c];
            assert_true(f->x[i * SIZE + k] == value);
        }
    }
    esp_transform_room_free(&room);
}

static void colours_change_by_image_and_epoch_and_not_by_batch(void **state)
{
    fixture *f = *state;
    float first[SIZE];

    fill(f, "jitter=0.5,hue=0.2", 4, 1, false);
    memcpy(first, f->x + 5 * SIZE, sizeof first);
    assert_memory_not_equal(first, f->plain + 5 * SIZE, sizeof first);
    /* image indices[5] alone */
    esp_augmentation a = parsed("jitter=0.5,hue=0.2");
    const esp_batch_labels labels = {.label = f->label};
    assert_int_equal(
        esp_batch_read(NULL, f->dataset, &norm, &a, 4, 1, f->indices + 5, 1, f->x, &labels, NULL), ESP_OK);
    assert_memory_equal(first, f->x, sizeof first);
    assert_int_equal(
        esp_batch_read(NULL, f->dataset, &norm, &a, 4, 2, f->indices + 5, 1, f->x, &labels, NULL), ESP_OK);
    assert_memory_not_equal(first, f->x, sizeof first);
}

#define WITH_BATCH(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_list_of_words_says_what_is_done),
        cmocka_unit_test(the_text_of_an_augmentation_parses_to_the_same),
        cmocka_unit_test(wrong_words_and_values_are_named),
        cmocka_unit_test(every_word_of_the_list_is_understood),
        WITH_BATCH(cutout_clears_one_square_that_may_reach_over_the_edge),
        WITH_BATCH(mixtures_are_of_an_image_and_the_next_with_their_labels),
        WITH_BATCH(without_room_for_mixed_labels_images_are_not_mixed),
        WITH_BATCH(a_share_of_one_kind_does_not_move_with_another),
        cmocka_unit_test(resized_boxes_are_inside_and_of_the_area_and_ratio_asked_for),
        WITH_BATCH(a_resized_image_is_its_box_at_the_size_of_the_batch),
        WITH_BATCH(colours_change_by_image_and_epoch_and_not_by_batch),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
