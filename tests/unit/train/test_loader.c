/* Lazy sets and the loader: the same images as sets in memory, for any number of threads and in any order of
 * arrival; bad images; the memory of images already read; parts; sizes. */
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "train/evaluate.h"
#include "train/loader.h"
#include "unit/train/lazy_fixtures.h"

enum { SIDE = 8, CHANNELS = 3, SIZE = CHANNELS * SIDE * SIDE, IMAGES = 61, CLASSES = 4 };

static const esp_normalization norm = {
    .channels = CHANNELS, .mean = {0.5f, 0.4f, 0.3f}, .std = {0.2f, 0.25f, 0.125f}};
static const esp_image_sizes own_size = {.own_channels = CHANNELS, .own_height = SIDE, .own_width = SIDE};

static made_images same_size(void)
{
    return (made_images){.width = SIDE, .height = SIDE};
}

/* The images of `made` in memory. */
static esp_dataset *in_memory(int64_t count)
{
    esp_dataset *dataset = NULL;
    esp_error err = {0};

    expect_ok(esp_dataset_new("memory", "", count, CHANNELS, SIDE, SIDE, CLASSES, &dataset, &err), &err);
    for (int64_t i = 0; i < count; i++) {
        uint8_t *pixels = esp_dataset_pixels_mut(dataset, i);
        for (int k = 0; k < SIZE; k++) {
            pixels[k] = made_pixel(i, k % SIDE, k / SIDE % SIDE, k / (SIDE * SIDE));
        }
        esp_dataset_set_label(dataset, i, (int)(i % CLASSES));
    }
    return dataset;
}

typedef struct result {
    float x[IMAGES * SIZE], share[IMAGES];
    int32_t label[IMAGES], other[IMAGES];
} result;

static esp_batch_labels labels_at(result *r, int64_t at)
{
    return (esp_batch_labels){r->label + at, r->other + at, r->share + at};
}

static void fill_order(uint32_t *order)
{
    for (int i = 0; i < IMAGES; i++) {
        order[i] = (uint32_t)(i * 17 % IMAGES);
    }
}

/* One pass in batches of `batch`, by a loader. */
static esp_status run_pass(const esp_compute *compute, const esp_dataset *dataset,
                           const esp_augmentation *augmentation, int threads, int64_t ahead, int64_t batch,
                           bool leaves_out_bad, result *out, esp_error *err)
{
    const esp_loader_options options = {augmentation, 7, batch, threads, ahead, leaves_out_bad};
    uint32_t order[IMAGES];
    esp_loader *loader = NULL;
    fill_order(order);
    expect_ok(esp_loader_new(dataset, &norm, &options, &loader, err), err);
    esp_status status = esp_loader_begin(loader, 3, order, IMAGES, err);
    for (int64_t done = 0; status == ESP_OK && done < IMAGES; done += batch) {
        int64_t count = IMAGES - done < batch ? IMAGES - done : batch;
        const esp_batch_labels labels = labels_at(out, done);
        status = esp_loader_take(loader, compute, count, out->x + done * SIZE, &labels, err);
    }
    esp_loader_free(loader);
    return status;
}

static void a_pass_is_the_same_for_any_number_of_threads_and_places(void **state)
{
    (void)state;
    static const struct {
        int threads;
        int64_t ahead;
    } kinds[] = {{-1, 0}, {1, 0}, {2, 10}, {4, 23}, {7, 200}};
    const esp_augmentation augmentations[] = {
        {0},
        {.crop_padding = 2, .flips = true},
        {.least_area = 0.3, .most_area = 1.0, .brightness = 0.4, .hue = 0.2, .cutout = 3, .mixup = 0.3}};
    made_images made = {.width = SIDE, .height = SIDE, .delay_us = 300};
    esp_dataset *lazy = made_dataset(&made, IMAGES, CLASSES, &own_size, false, 0);
    esp_dataset *memory = in_memory(IMAGES);
    result *expected = esp_alloc_zero(1, sizeof *expected), *found = esp_alloc_zero(1, sizeof *found);
    uint32_t order[IMAGES];
    esp_error err = {0};

    fill_order(order);
    for (size_t a = 0; a < 3; a++) {
        for (int64_t done = 0; done < IMAGES; done += 10) { /* batch by batch: mixtures are within a batch */
            const esp_batch_labels labels = labels_at(expected, done);
            int64_t count = IMAGES - done < 10 ? IMAGES - done : 10;
            expect_ok(esp_batch_read(NULL, memory, &norm, &augmentations[a], 7, 3, order + done, count,
                                     expected->x + done * SIZE, &labels, &err),
                      &err);
        }
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            memset(found, 1, sizeof *found);
            expect_ok(run_pass(NULL, lazy, &augmentations[a], kinds[k].threads, kinds[k].ahead, 10, false,
                               found, &err),
                      &err);
            assert_memory_equal(found, expected, sizeof *found);
        }
    }
    esp_free(expected);
    esp_free(found);
    esp_dataset_unref(lazy);
    esp_dataset_unref(memory);
    assert_int_equal(made.freed, 1);
}

static void a_pass_begins_anywhere_and_drops_what_was_read_ahead(void **state)
{
    (void)state;
    made_images made = {.width = SIDE, .height = SIDE, .delay_us = 100};
    esp_dataset *lazy = made_dataset(&made, IMAGES, CLASSES, &own_size, false, 0);
    const esp_loader_options options = {.batch = 8, .threads = 3, .ahead = 20};
    esp_loader *loader = NULL;
    uint32_t order[IMAGES], reversed[IMAGES];
    float x[8 * SIZE];
    int32_t label[8];
    const esp_batch_labels labels = {.label = label};
    esp_error err = {0};

    fill_order(order);
    for (int i = 0; i < IMAGES; i++) {
        reversed[i] = order[IMAGES - 1 - i];
    }
    expect_ok(esp_loader_new(lazy, &norm, &options, &loader, &err), &err);
    for (int turn = 0; turn < 10; turn++) {
        expect_ok(esp_loader_begin(loader, 1, order, IMAGES, &err), &err);
        int reads = made.reads;
        expect_ok(esp_loader_take(loader, NULL, 3, x, &labels, &err), &err);
        while (made.reads < reads + 15) { /* until places after the batch are filled */
            sched_yield();
        }
        expect_ok(esp_loader_begin(loader, 1, reversed + 20, IMAGES - 20, &err), &err);
        expect_ok(esp_loader_take(loader, NULL, 8, x, &labels, &err), &err);
        for (int i = 0; i < 8; i++) {
            assert_int_equal(label[i], reversed[20 + i] % CLASSES);
        }
    }
    expect_failure(esp_loader_take(loader, NULL, 9, x, &labels, &err), ESP_STATE, &err, "expected 1 to 8");
    expect_failure(esp_loader_begin(loader, 1, (const uint32_t[]){IMAGES}, 1, &err), ESP_INVALID, &err,
                   "image 61");
    esp_loader_free(loader);
    esp_dataset_unref(lazy);
}

static void a_bad_image_is_an_error_that_names_the_first_in_order(void **state)
{
    (void)state;
    esp_pool *pool = NULL;
    esp_error err = {0};
    made_images made = {.width = SIDE,
                        .height = SIDE,
                        .delay_us = 200,
                        .bad = {40, 57},
                        .bad_count = 2,
                        .bad_status = ESP_FORMAT};
    esp_dataset *lazy = made_dataset(&made, IMAGES, CLASSES, &own_size, false, 0);
    result *found = esp_alloc_zero(1, sizeof *found);
    uint32_t order[IMAGES];
    int first = 0;

    fill_order(order);
    while (order[first] != 40 && order[first] != 57) {
        first++;
    }
    char name[32];
    snprintf(name, sizeof name, "image %d is bad", (int)order[first]);
    for (int threads = -1; threads <= 4; threads += 2) {
        expect_failure(run_pass(NULL, lazy, NULL, threads, 0, IMAGES, false, found, &err), ESP_FORMAT, &err,
                       name);
    }
    expect_ok(esp_pool_new(3, &pool, &err), &err);
    const esp_compute compute = {.pool = pool};
    const esp_batch_labels labels = labels_at(found, 0);
    for (int turn = 0; turn < 5; turn++) {
        expect_failure(
            esp_batch_read(&compute, lazy, &norm, NULL, 0, 0, order, IMAGES, found->x, &labels, &err),
            ESP_FORMAT, &err, name);
    }
    esp_pool_free(pool);
    esp_free(found);
    esp_dataset_unref(lazy);
}

static void skipped_images_are_replaced_by_the_next_in_training(void **state)
{
    (void)state;
    made_images made = {
        .width = SIDE, .height = SIDE, .bad = {5, 6, 60}, .bad_count = 3, .bad_status = ESP_IO};
    esp_dataset *lazy = made_dataset(&made, IMAGES, CLASSES, &own_size, true, 0), *memory = in_memory(IMAGES);
    result *found = esp_alloc_zero(1, sizeof *found), *expected = esp_alloc_zero(1, sizeof *expected);
    uint32_t order[IMAGES];
    char message[512];
    esp_error err = {0};

    fill_order(order);
    for (int i = 0; i < IMAGES; i++) {
        order[i] = order[i] == 5 || order[i] == 6 ? 7 : order[i] == 60 ? 0 : order[i];
    }
    const esp_batch_labels labels = labels_at(expected, 0);
    expect_ok(esp_batch_read(NULL, memory, &norm, NULL, 7, 3, order, IMAGES, expected->x, &labels, &err),
              &err);
    for (int threads = -1; threads < 3; threads++) {
        expect_ok(run_pass(NULL, lazy, NULL, threads, 0, IMAGES, false, found, &err), &err);
        assert_memory_equal(found, expected, sizeof *found);
    }
    assert_int_equal(esp_dataset_skipped(lazy), 3);
    assert_true(esp_dataset_skipped_message(lazy, 0, message, sizeof message));
    assert_non_null(strstr(message, "is bad"));
    assert_false(esp_dataset_skipped_message(lazy, 3, message, sizeof message));
    esp_free(found);
    esp_free(expected);
    esp_dataset_unref(lazy);
    esp_dataset_unref(memory);
}

static void a_set_of_bad_images_only_is_an_error_not_a_loop(void **state)
{
    (void)state;
    made_images made = {
        .width = SIDE, .height = SIDE, .bad = {0, 1, 2}, .bad_count = 3, .bad_status = ESP_FORMAT};
    esp_dataset *lazy = made_dataset(&made, 3, CLASSES, &own_size, true, 0);
    const uint32_t index = 1;
    float x[SIZE];
    int32_t label;
    const esp_batch_labels labels = {.label = &label};
    esp_error err = {0};

    expect_failure(esp_batch_read(NULL, lazy, &norm, NULL, 0, 0, &index, 1, x, &labels, &err), ESP_FORMAT,
                   &err, "none of its 3 images");
    esp_dataset_unref(lazy);
}

static void running_out_of_memory_is_no_bad_image(void **state)
{
    (void)state;
    made_images made = {
        .width = SIDE, .height = SIDE, .bad = {2}, .bad_count = 1, .bad_status = ESP_NO_MEMORY};
    esp_dataset *lazy = made_dataset(&made, 3, CLASSES, &own_size, true, 0);
    const uint32_t index = 2;
    float x[SIZE];
    int32_t label;
    const esp_batch_labels labels = {.label = &label};
    esp_error err = {0};

    expect_failure(esp_batch_read(NULL, lazy, &norm, NULL, 0, 0, &index, 1, x, &labels, &err), ESP_NO_MEMORY,
                   &err, "is bad");
    assert_int_equal(esp_dataset_skipped(lazy), 0);
    esp_dataset_unref(lazy);
}

static void cancelling_ends_the_wait_for_images(void **state)
{
    (void)state;
    made_images made = {.width = SIDE, .height = SIDE, .delay_us = 2000};
    esp_dataset *lazy = made_dataset(&made, IMAGES, CLASSES, &own_size, false, 0);
    esp_cancel cancel = {0};
    const esp_compute compute = {.cancel = &cancel};
    result *found = esp_alloc_zero(1, sizeof *found);
    esp_error err = {0};

    esp_cancel_request(&cancel);
    expect_failure(run_pass(&compute, lazy, NULL, 1, 0, IMAGES, false, found, &err), ESP_CANCELLED, &err,
                   NULL);
    esp_free(found);
    esp_dataset_unref(lazy);
}

/* ---- evaluation ---- */

static double known_accuracy(const esp_dataset *dataset, esp_graph *model, esp_eval_result *out)
{
    esp_error err = {0};

    expect_ok(esp_evaluate(NULL, model, dataset, &(esp_eval_options){.batch = 7}, out, &err), &err);
    return out->top1;
}

static void evaluation_leaves_bad_images_out_and_counts_them(void **state)
{
    (void)state;
    enum { GOOD = IMAGES - 3 };
    made_images made = {
        .width = SIDE, .height = SIDE, .bad = {0, 20, 60}, .bad_count = 3, .bad_status = ESP_FORMAT};
    esp_dataset *lazy = made_dataset(&made, IMAGES, CLASSES, &own_size, true, 0), *memory = NULL;
    esp_graph *model = random_linear_model(CHANNELS, SIDE, SIDE, CLASSES, 4);
    esp_eval_result expected = {0}, found = {0};
    esp_error err = {0};
    int at = 0;

    expect_ok(esp_dataset_new("good", "", GOOD, CHANNELS, SIDE, SIDE, CLASSES, &memory, &err), &err);
    for (int i = 0; i < IMAGES; i++) {
        if (i == 0 || i == 20 || i == 60) {
            continue;
        }
        for (int k = 0; k < SIZE; k++) {
            esp_dataset_pixels_mut(memory, at)[k] =
                made_pixel(i, k % SIDE, k / SIDE % SIDE, k / (SIDE * SIDE));
        }
        esp_dataset_set_label(memory, at++, i % CLASSES);
    }
    known_accuracy(memory, model, &expected);
    known_accuracy(lazy, model, &found);
    assert_int_equal(found.images, GOOD);
    assert_int_equal(found.skipped, 3);
    assert_true(found.top1 == expected.top1 && found.top5 == expected.top5);
    assert_true(fabs(found.loss - expected.loss) < 1e-9 * fabs(expected.loss));
    esp_graph_unref(model);
    esp_dataset_unref(lazy);
    esp_dataset_unref(memory);
}

/* ---- images already read ---- */

static void images_are_read_once_as_far_as_the_cache_reaches(void **state)
{
    (void)state;
    static const struct {
        size_t cache;
        int reads; /* of two passes */
    } cases[] = {{0, 2 * IMAGES}, {(size_t)IMAGES * SIZE, IMAGES}, {(size_t)20 * SIZE, 2 * IMAGES - 20}};
    result *first = esp_alloc_zero(1, sizeof *first), *second = esp_alloc_zero(1, sizeof *second);
    esp_error err = {0};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        made_images made = same_size();
        esp_dataset *lazy = made_dataset(&made, IMAGES, CLASSES, &own_size, false, cases[i].cache);

        expect_ok(run_pass(NULL, lazy, NULL, 3, 0, 10, false, first, &err), &err);
        expect_ok(run_pass(NULL, lazy, NULL, 3, 0, 10, false, second, &err), &err);
        assert_int_equal(made.reads, cases[i].reads);
        assert_memory_equal(first, second, sizeof *first);
        /* colours change a copy, never what is kept */
        const esp_augmentation colours = {.brightness = 0.5};
        expect_ok(run_pass(NULL, lazy, &colours, 2, 0, 10, false, second, &err), &err);
        assert_memory_not_equal(first->x, second->x, sizeof first->x);
        expect_ok(run_pass(NULL, lazy, NULL, 2, 0, 10, false, second, &err), &err);
        assert_memory_equal(first, second, sizeof *first);
        esp_dataset_unref(lazy);
    }
    esp_free(first);
    esp_free(second);
}

/* ---- parts ---- */

/* A JPEG that is shrunk while it is decoded is another picture to a network. */
static void images_are_decoded_whole_unless_a_random_box_is_wanted(void **state)
{
    (void)state;
    made_images made = {.width = 9, .height = 7};
    const esp_image_sizes sizes = {.resize = 4, .crop_height = 4, .crop_width = 4};
    esp_dataset *dataset = made_dataset(&made, 4, 2, &sizes, false, 0);
    const esp_normalization normalization = {.channels = 3, .std = {1, 1, 1}};
    const esp_augmentation flips = {.flips = true, .brightness = 0.5};
    const esp_augmentation boxes = {.least_area = 0.5, .most_area = 1, .least_ratio = 1, .most_ratio = 1};
    const esp_augmentation *const whole[] = {NULL, &flips};
    const uint32_t indices[] = {0, 1, 2, 3};
    float x[4 * 3 * 4 * 4];
    int32_t labels[4];
    const esp_batch_labels out = {.label = labels};
    esp_error err = {0};
    for (int i = 0; i < 2; i++) {
        expect_ok(esp_batch_read(NULL, dataset, &normalization, whole[i], 1, 1, indices, 4, x, &out, &err),
                  &err);
    }
    assert_int_equal(atomic_load(&made.shrunk), 0);
    expect_ok(esp_batch_read(NULL, dataset, &normalization, &boxes, 1, 1, indices, 4, x, &out, &err), &err);
    assert_int_equal(atomic_load(&made.shrunk), 4);
    esp_dataset_unref(dataset);
}

static void parts_of_a_lazy_set_read_the_images_they_name(void **state)
{
    (void)state;
    made_images made = same_size();
    esp_dataset *lazy = made_dataset(&made, IMAGES, CLASSES, &own_size, false, 1 << 20),
                *memory = in_memory(IMAGES);
    esp_dataset *parts[2][4] = {{0}};
    esp_error err = {0};

    for (int i = 0; i < 2; i++) {
        const esp_dataset *set = i == 0 ? lazy : memory;
        expect_ok(esp_dataset_split(set, 0.3, 5, &parts[i][0], &parts[i][1], &err), &err);
        expect_ok(esp_dataset_subset(parts[i][0], 12, 2, &parts[i][2], &err), &err);
        expect_ok(esp_dataset_head(parts[i][2], 5, &parts[i][3], &err), &err);
    }
    esp_dataset_unref(lazy); /* parts hold what they need */
    esp_dataset_unref(memory);
    /* a part of a part is among it, and its head is its first images */
    for (int i = 0; i < 12; i++) {
        int found = 0;
        for (int64_t k = 0; k < esp_dataset_count(parts[1][0]); k++) {
            found += esp_dataset_pixels(parts[1][2], i) == esp_dataset_pixels(parts[1][0], k);
        }
        assert_int_equal(found, 1);
        assert_true(i >= 5 || esp_dataset_pixels(parts[1][3], i) == esp_dataset_pixels(parts[1][2], i));
    }
    for (int p = 0; p < 4; p++) {
        int64_t count = esp_dataset_count(parts[0][p]);
        assert_int_equal(count, esp_dataset_count(parts[1][p]));
        for (int64_t i = 0; i < count; i++) {
            uint32_t index = (uint32_t)i;
            float x[2][SIZE];
            int32_t label[2];
            for (int k = 0; k < 2; k++) {
                const esp_batch_labels labels = {.label = &label[k]};
                expect_ok(
                    esp_batch_read(NULL, parts[k][p], &norm, NULL, 0, 0, &index, 1, x[k], &labels, &err),
                    &err);
            }
            assert_memory_equal(x[0], x[1], sizeof x[0]);
            assert_int_equal(label[0], label[1]);
        }
    }
    for (int i = 0; i < 8; i++) {
        esp_dataset_unref(parts[i / 4][i % 4]);
    }
    assert_int_equal(made.freed, 1);
}

static void a_split_holds_a_share_of_every_class_and_loses_no_image(void **state)
{
    (void)state;
    esp_dataset *whole = noise_dataset(100, 1, 2, 2, 3, 1), *rest = NULL, *held = NULL, *other = NULL,
                *unused = NULL;
    esp_error err = {0};
    int64_t counts[2][3] = {{0}};
    bool differs = false;

    expect_ok(esp_dataset_split(whole, 0.25, 9, &rest, &held, &err), &err);
    for (int64_t i = 0; i < esp_dataset_count(rest); i++) {
        counts[0][esp_dataset_label(rest, i)]++;
    }
    for (int64_t i = 0; i < esp_dataset_count(held); i++) {
        counts[1][esp_dataset_label(held, i)]++;
        /* no image is in both */
        for (int64_t k = 0; k < esp_dataset_count(rest); k++) {
            assert_ptr_not_equal(esp_dataset_pixels(rest, k), esp_dataset_pixels(held, i));
        }
    }
    const int64_t all[3] = {34, 33, 33}, wanted[3] = {9, 8, 8};
    for (int c = 0; c < 3; c++) {
        assert_int_equal(counts[0][c] + counts[1][c], all[c]);
        assert_int_equal(counts[1][c], wanted[c]);
    }
    expect_ok(esp_dataset_split(whole, 0.25, 10, &unused, &other, &err), &err);
    for (int64_t i = 0; i < esp_dataset_count(held); i++) {
        differs = differs || esp_dataset_pixels(held, i) != esp_dataset_pixels(other, i);
    }
    assert_true(differs);
    esp_dataset_unref(unused);
    esp_dataset_unref(other);
    esp_dataset_unref(rest);
    esp_dataset_unref(held);
    expect_failure(esp_dataset_split(whole, 1.0, 9, &rest, &held, &err), ESP_INVALID, &err, "share of 1");
    expect_failure(esp_dataset_split(whole, NAN, 9, &rest, &held, &err), ESP_INVALID, &err, "share");
    esp_dataset_unref(whole);
    whole = noise_dataset(3, 1, 2, 2, 3, 1);
    expect_failure(esp_dataset_split(whole, 0.5, 9, &rest, &held, &err), ESP_INVALID, &err, "3 and 0");
    assert_null(rest);
    esp_dataset_unref(whole);
}

/* ---- sizes ---- */

static void check_transform(const esp_image_sizes *sizes, int channels, int height, int width,
                            const esp_transform *expected)
{
    esp_transform found = esp_transform_decide(sizes, channels, height, width);

    assert_int_equal(found.channels, expected->channels);
    assert_int_equal(found.height, expected->height);
    assert_int_equal(found.width, expected->width);
    assert_int_equal(found.resize, expected->resize);
    assert_int_equal(found.resize_height, expected->resize_height);
    assert_int_equal(found.resize_width, expected->resize_width);
}

static void sizes_follow_the_request_then_the_model_then_the_images(void **state)
{
    (void)state;
    static const struct {
        esp_image_sizes sizes;
        int model[3];
        esp_transform expected;
    } cases[] = {
        /* nothing is known */
        {{0}, {0, 0, 0}, {.channels = 3, .height = 224, .width = 224, .resize = 256}},
        /* the model alone: resize = 256/224 of it */
        {{0}, {3, 224, 224}, {.channels = 3, .height = 224, .width = 224, .resize = 256}},
        {{0}, {3, 227, 227}, {.channels = 3, .height = 227, .width = 227, .resize = 259}},
        {{0}, {1, 28, 28}, {.channels = 1, .height = 28, .width = 28, .resize = 32}},
        {{0},
         {3, 48, 192},
         {.channels = 3, .height = 48, .width = 192, .resize_height = 48, .resize_width = 192}},
        /* images that have the model's size, or no model: as they are */
        {{.own_channels = 3, .own_height = 32, .own_width = 32},
         {3, 32, 32},
         {.channels = 3, .height = 32, .width = 32}},
        {{.own_channels = 1, .own_height = 32, .own_width = 20},
         {0, 0, 0},
         {.channels = 1, .height = 32, .width = 20}},
        {{.own_channels = 1, .own_height = 32, .own_width = 20},
         {3, 32, 32},
         {.channels = 3, .height = 32, .width = 32, .resize = 37}},
        /* a request */
        {{.crop_height = 112, .crop_width = 112},
         {3, 224, 224},
         {.channels = 3, .height = 112, .width = 112, .resize = 128}},
        {{.resize = 232}, {3, 224, 224}, {.channels = 3, .height = 224, .width = 224, .resize = 232}},
        {{.resize = 128}, {0, 0, 0}, {.channels = 3, .height = 112, .width = 112, .resize = 128}},
        {{.resize = 36, .crop_height = 32, .crop_width = 32, .own_height = 32, .own_width = 32},
         {0, 0, 0},
         {.channels = 3, .height = 32, .width = 32, .resize = 36}},
        {{.resize_height = 50, .resize_width = 60, .channels = 1},
         {0, 0, 0},
         {.channels = 1, .height = 50, .width = 60, .resize_height = 50, .resize_width = 60}},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_transform(&cases[i].sizes, cases[i].model[0], cases[i].model[1], cases[i].model[2],
                        &cases[i].expected);
    }
}

static void a_lazy_set_takes_the_size_of_a_model_and_its_parts_do(void **state)
{
    (void)state;
    made_images made = {.width = 20, .height = 17, .spread = 5};
    esp_dataset *lazy =
        made_dataset(&made, 30, CLASSES, &(esp_image_sizes){.own_channels = 3}, false, 1 << 20);
    esp_dataset *part = NULL, *fitted = NULL, *again = NULL, *memory = in_memory(4), *same = NULL;
    esp_graph *model = random_linear_model(3, 12, 12, CLASSES, 1);
    esp_eval_result measured = {0};
    esp_error err = {0};

    expect_ok(esp_dataset_subset(lazy, 9, 1, &part, &err), &err);
    expect_failure(esp_dataset_check_model(part, model, &err), ESP_SHAPE, &err, "3x12x12");
    expect_ok(esp_dataset_fit(part, model, &fitted, &err), &err);
    assert_int_equal(esp_dataset_height(fitted), 12);
    assert_int_equal(esp_dataset_width(fitted), 12);
    assert_int_equal(esp_dataset_count(fitted), 9);
    expect_ok(esp_dataset_check_model(fitted, model, &err), &err);
    for (int i = 0; i < 9; i++) {
        assert_int_equal(esp_dataset_label(fitted, i), esp_dataset_label(part, i));
    }
    expect_ok(esp_dataset_fit(fitted, model, &again, &err), &err);
    assert_ptr_equal(again, fitted); /* it fits: the set itself */
    expect_ok(esp_dataset_fit(memory, model, &same, &err), &err);
    assert_ptr_equal(same, memory);
    /* evaluation fits on its own, so the set may be as it was opened */
    known_accuracy(part, model, &measured);
    assert_int_equal(measured.images, 9);
    esp_dataset_unref(lazy);
    esp_dataset_unref(part);
    esp_dataset_unref(fitted);
    esp_dataset_unref(again);
    esp_dataset_unref(memory);
    esp_dataset_unref(same);
    esp_graph_unref(model);
    assert_int_equal(made.freed, 1);
}

static void allocations_that_fail_leave_nothing_behind(void **state)
{
    (void)state;
    const esp_loader_options options = {.batch = 4, .threads = 2};
    size_t before = esp_memory_live();
    esp_error err = {0};

    for (int64_t k = 1; k < 40; k++) {
        made_images made = same_size();
        esp_dataset *lazy = made_dataset(&made, 20, CLASSES, &own_size, true, 1 << 20);
        esp_dataset *rest = NULL, *held = NULL;
        esp_loader *loader = NULL;
        esp_memory_fuse(k);
        esp_status status = esp_dataset_split(lazy, 0.5, 1, &rest, &held, &err);
        if (status == ESP_OK) {
            status = esp_loader_new(held, &norm, &options, &loader, &err);
        }
        bool was_burnt = esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        assert_int_equal(status, was_burnt ? ESP_NO_MEMORY : ESP_OK);
        esp_loader_free(loader);
        esp_dataset_unref(rest);
        esp_dataset_unref(held);
        esp_dataset_unref(lazy);
        assert_int_equal(made.freed, 1);
        assert_int_equal(esp_memory_live(), before);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pass_is_the_same_for_any_number_of_threads_and_places),
        cmocka_unit_test(a_pass_begins_anywhere_and_drops_what_was_read_ahead),
        cmocka_unit_test(a_bad_image_is_an_error_that_names_the_first_in_order),
        cmocka_unit_test(skipped_images_are_replaced_by_the_next_in_training),
        cmocka_unit_test(a_set_of_bad_images_only_is_an_error_not_a_loop),
        cmocka_unit_test(running_out_of_memory_is_no_bad_image),
        cmocka_unit_test(cancelling_ends_the_wait_for_images),
        cmocka_unit_test(evaluation_leaves_bad_images_out_and_counts_them),
        cmocka_unit_test(images_are_read_once_as_far_as_the_cache_reaches),
        cmocka_unit_test(images_are_decoded_whole_unless_a_random_box_is_wanted),
        cmocka_unit_test(parts_of_a_lazy_set_read_the_images_they_name),
        cmocka_unit_test(a_split_holds_a_share_of_every_class_and_loses_no_image),
        cmocka_unit_test(sizes_follow_the_request_then_the_model_then_the_images),
        cmocka_unit_test(a_lazy_set_takes_the_size_of_a_model_and_its_parts_do),
        cmocka_unit_test(allocations_that_fail_leave_nothing_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
