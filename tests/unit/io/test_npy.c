/* npy:DIR and CIFAR-100: arrays written here byte by byte, in every order and width, and every kind of
 * damage. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "io/dataset.h"
#include "unit/base/scratch.h"

enum { COUNT = 6, HEIGHT = 5, WIDTH = 7, CHANNELS = 3, PIXELS = CHANNELS * HEIGHT * WIDTH };

static int make_directory(void **state)
{
    *state = scratch_make();
    return *state == NULL;
}

static int remove_directory(void **state)
{
    scratch_remove(*state);
    return 0;
}

/* A .npy file of this version; the header's text is `text` padded as numpy pads it. `missing` bytes short. */
static void write_npy(const char *path, int version, const char *text, const void *data, size_t size,
                      int missing)
{
    char *bytes = esp_alloc(size + 1024, 1);
    size_t start = version == 1 ? 10 : 12, length = strlen(text);
    size_t padded = (start + length + 1 + 63) / 64 * 64 - start;

    memset(bytes, ' ', start + padded);
    memcpy(bytes, "\x93NUMPY", 6);
    bytes[6] = (char)version;
    bytes[7] = 0;
    for (size_t i = 8; i < start; i++)
        bytes[i] = (char)(padded >> (8 * (i - 8)));
    memcpy(bytes + start, text, length);
    bytes[start + padded - 1] = '\n';
    memcpy(bytes + start + padded, data, size);
    scratch_write(path, bytes, start + padded + size - (size_t)missing);
    esp_free(bytes);
}

static uint8_t pixel(int i, int c, int y, int x)
{
    return (uint8_t)(i * 31 + c * 71 + y * 13 + x * 3);
}

static void header(char *text, size_t size, const char *type, const char *shape)
{
    snprintf(text, size, "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", type, shape);
}

static void write_labels(const char *directory, const char *name, const char *type, int item)
{
    char text[128];
    uint8_t bytes[COUNT * 8] = {0};

    for (int i = 0; i < COUNT; i++)
        bytes[i * item] = (uint8_t)(i % 4);
    header(text, sizeof text, type, "6,");
    write_npy(scratch_path(directory, name), 1, text, bytes, (size_t)(COUNT * item), 0);
}

/* x_NAME.npy with the pixels in this order, as bytes or as floats (divided by `divisor`). */
static void write_images(const char *directory, const char *name, bool is_nhwc, bool is_float, float divisor,
                         int version)
{
    char text[128];
    uint8_t bytes[COUNT * PIXELS];
    float floats[COUNT * PIXELS];
    int at = 0;

    for (int i = 0; i < COUNT; i++)
        for (int k = 0; k < PIXELS; k++, at++) {
            int c = is_nhwc ? k % CHANNELS : k / (HEIGHT * WIDTH),
                p = is_nhwc ? k / CHANNELS : k % (HEIGHT * WIDTH);

            bytes[at] = pixel(i, c, p / WIDTH, p % WIDTH);
            floats[at] = (float)bytes[at] / divisor;
        }
    header(text, sizeof text, is_float ? "<f4" : "|u1", is_nhwc ? "6, 5, 7, 3" : "6, 3, 5, 7");
    write_npy(scratch_path(directory, name), version, text, is_float ? (const void *)floats : bytes,
              is_float ? sizeof floats : sizeof bytes, 0);
}

static const char *spec_of(const char *directory, const char *options)
{
    static char spec[1024];

    snprintf(spec, sizeof spec, "npy:%s%s", directory, options);
    return spec;
}

static void assert_refused(const char *spec, esp_split split, esp_status code, const char *word,
                           const char *word2)
{
    esp_error err = {0};
    esp_dataset *dataset = (esp_dataset *)&err;
    esp_status status = esp_dataset_open(spec, split, &dataset, &err);

    if (status != code || !strstr(err.message, word) || !strstr(err.message, word2))
        fail_msg("%s: status %s, message \"%s\", expected %s with \"%s\" and \"%s\"", spec,
                 esp_status_word(status), err.message, esp_status_word(code), word, word2);
    assert_null(dataset);
}

static void check_images(const char *spec, esp_split split, bool is_float)
{
    esp_dataset *dataset = NULL;
    esp_error err = {0};
    uint32_t order[COUNT] = {5, 4, 3, 2, 1, 0};
    float x[COUNT * PIXELS];
    int32_t labels[COUNT];
    const esp_batch_labels targets = {.label = labels};
    const esp_normalization norm = {.channels = 3, .mean = {0.5f, 0.25f, 0.125f}, .std = {0.5f, 0.25f, 2.0f}};

    if (esp_dataset_open(spec, split, &dataset, &err) != ESP_OK)
        fail_msg("%s", err.message);
    assert_int_equal(esp_dataset_count(dataset), COUNT);
    assert_int_equal(esp_dataset_class_count(dataset), 4);
    assert_int_equal(esp_dataset_channels(dataset), CHANNELS);
    assert_int_equal(esp_dataset_height(dataset), HEIGHT);
    assert_int_equal(esp_dataset_width(dataset), WIDTH);
    assert_int_equal(esp_dataset_is_float(dataset), is_float);
    if (esp_batch_read(NULL, dataset, &norm, NULL, 0, 0, order, COUNT, x, &targets, &err) != ESP_OK)
        fail_msg("%s", err.message);
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(labels[i], order[i] % 4);
        for (int k = 0; k < PIXELS; k++) {
            int c = k / (HEIGHT * WIDTH), p = k % (HEIGHT * WIDTH);
            float value = (float)pixel((int)order[i], c, p / WIDTH, p % WIDTH) / 255.0f;

            assert_true(fabsf(x[i * PIXELS + k] - (value - norm.mean[c]) / norm.std[c]) < 1e-6f);
        }
    }
    esp_dataset_unref(dataset);
}

static void arrays_of_either_order_type_and_version_give_their_images(void **state)
{
    const char *root = *state;

    for (int kind = 0; kind < 4; kind++) {
        write_images(root, "x_train.npy", kind % 2 == 0, kind >= 2, 255.0f, 1 + kind % 3);
        write_labels(root, "y_train.npy",
                     kind == 0   ? "<i8"
                     : kind == 1 ? "|u1"
                                 : "<i4",
                     kind == 0   ? 8
                     : kind == 1 ? 1
                                 : 4);
        check_images(spec_of(root, ""), ESP_SPLIT_TRAIN, kind >= 2);
    }
    assert_refused(spec_of(root, ""), ESP_SPLIT_TEST, ESP_IO, "x_test.npy", "No such file");
    assert_refused(spec_of(root, ""), ESP_SPLIT_VALIDATION, ESP_STATE, "no validation images", "");
    write_images(root, "x_val.npy", true, true, 255.0f, 1);
    write_labels(root, "y_val.npy", "<u2", 2);
    check_images(spec_of(root, ""), ESP_SPLIT_VALIDATION, true);
}

static void floats_that_nobody_divided_are_told(void **state)
{
    const char *root = *state;

    write_images(root, "x_test.npy", true, true, 1.0f, 1);
    write_labels(root, "y_test.npy", "<i8", 8);
    assert_refused(spec_of(root, ""), ESP_SPLIT_TEST, ESP_FORMAT, "x_test.npy", "expected 0 to 1");
    check_images(spec_of(root, "?scale=255"), ESP_SPLIT_TEST, true);
    assert_refused(spec_of(root, "?scale=255,resize=4"), ESP_SPLIT_TEST, ESP_INVALID, "float images",
                   "resized");
}

static void bytes_are_resized_like_files_and_change_channels(void **state)
{
    const char *root = *state;
    esp_dataset *dataset = NULL;
    esp_error err = {0};
    const uint32_t index = 2;
    float x[HEIGHT * WIDTH];
    int32_t label;
    const esp_batch_labels targets = {.label = &label};
    const esp_normalization plain = {.channels = 1, .std = {1}};

    write_images(root, "x_test.npy", false, false, 1.0f, 2);
    write_labels(root, "y_test.npy", "<i8", 8);
    assert_int_equal(esp_dataset_open(spec_of(root, "?channels=1"), ESP_SPLIT_TEST, &dataset, &err), ESP_OK);
    assert_int_equal(esp_dataset_channels(dataset), 1);
    assert_int_equal(esp_batch_read(NULL, dataset, &plain, NULL, 0, 0, &index, 1, x, &targets, &err), ESP_OK);
    for (int p = 0; p < HEIGHT * WIDTH; p++) {
        double grey = 0.299 * pixel(2, 0, p / WIDTH, p % WIDTH) + 0.587 * pixel(2, 1, p / WIDTH, p % WIDTH) +
                      0.114 * pixel(2, 2, p / WIDTH, p % WIDTH);
        assert_true(fabs(255.0 * (double)x[p] - grey) < 0.51);
    }
    esp_dataset_unref(dataset);
    assert_int_equal(esp_dataset_open(spec_of(root, "?resize=10,crop=8"), ESP_SPLIT_TEST, &dataset, &err),
                     ESP_OK);
    assert_int_equal(esp_dataset_height(dataset), 8);
    esp_dataset_unref(dataset);
}

static void damaged_arrays_are_refused_by_name(void **state)
{
    const char *root = *state;
    static const struct {
        const char *text;
        esp_status code;
        const char *word;
    } cases[] = {
        {"{'descr': '|u1', 'fortran_order': True, 'shape': (6, 5, 7, 3), }", ESP_UNSUPPORTED,
         "Fortran order"},
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (6, 5, 7, 3), }", ESP_UNSUPPORTED, "'>f4'"},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (6, 5, 7), }", ESP_FORMAT, "truncated"},
        {"{'descr': '|i1', 'fortran_order': False, 'shape': (6, 5, 7, 3), }", ESP_UNSUPPORTED, "elements i1"},
        {"{'descr': '<U4', 'fortran_order': False, 'shape': (6, 5, 7, 3), }", ESP_UNSUPPORTED, "'<U4'"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (6, 5, 7, 4), }", ESP_FORMAT, "truncated"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (6, 9), }", ESP_FORMAT, "shape [6,9]"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 3, 5, 3), }", ESP_FORMAT, "layout=nhwc"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 9, 5, 7), }", ESP_FORMAT, "1 to 4 channels"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (0, 5, 7, 3), }", ESP_FORMAT,
         "at least one image"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (6, 5, 7, 3, 1), }", ESP_FORMAT, "its header"},
        {"{'descr': '|u1', 'fortran_order': False}", ESP_FORMAT, "its header"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (6, 5, 7, 3), 'x': 1}", ESP_FORMAT, "its header"},
        {"{'descr': '|u1', 'fortran_order': Falsch, 'shape': (6, 5, 7, 3)}", ESP_FORMAT, "its header"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999, 99999999, 7, 3)}", ESP_FORMAT,
         "too large"},
        {"", ESP_FORMAT, "its header"},
    };
    uint8_t data[COUNT * PIXELS] = {0};

    write_labels(root, "y_test.npy", "<i8", 8);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_npy(scratch_path(root, "x_test.npy"), 1, cases[i].text, data, sizeof data, 0);
        assert_refused(spec_of(root, ""), ESP_SPLIT_TEST, cases[i].code, "x_test.npy", cases[i].word);
    }
    write_npy(scratch_path(root, "x_test.npy"), 4, cases[0].text, data, sizeof data, 0);
    assert_refused(spec_of(root, ""), ESP_SPLIT_TEST, ESP_UNSUPPORTED, "version 4", "1 to 3");
    for (size_t size = 0; size < 80; size += 7) { /* cut within the header */
        scratch_write(scratch_path(root, "x_test.npy"),
                      "\x93NUMPY\x01\x00\x76\x00{'descr': '|u1', 'fortran_order': False, "
                      "'shape': (6, 5, 7, 3), }                   ",
                      size);
        assert_refused(spec_of(root, ""), ESP_SPLIT_TEST, ESP_FORMAT, "x_test.npy", "");
    }
}

static void labels_are_checked(void **state)
{
    const char *root = *state;
    const int64_t negative[COUNT] = {0, 1, -1, 1, 0, 1};
    const char *y = "y_test.npy";
    char text[128];

    write_images(root, "x_test.npy", true, false, 1.0f, 1);
    assert_refused(spec_of(root, ""), ESP_SPLIT_TEST, ESP_IO, y, "No such file");
    header(text, sizeof text, "<i8", "6,");
    write_npy(scratch_path(root, y), 1, text, negative, sizeof negative, 0);
    assert_refused(spec_of(root, ""), ESP_SPLIT_TEST, ESP_FORMAT, "label -1 of image 2", y);
    header(text, sizeof text, "<i2", "6,");
    write_npy(scratch_path(root, y), 1, text, "\0\0\xfe\xff\0\0\0\0\0\0\0\0", 12, 0);
    assert_refused(spec_of(root, ""), ESP_SPLIT_TEST, ESP_FORMAT, "label -2 of image 1", y);
    header(text, sizeof text, "<i8", "5,");
    write_npy(scratch_path(root, y), 1, text, (const int64_t[5]){0}, 40, 0);
    assert_refused(spec_of(root, ""), ESP_SPLIT_TEST, ESP_FORMAT, "5 labels", "expected 6");
    header(text, sizeof text, "<f4", "6,");
    write_npy(scratch_path(root, y), 1, text, (const float[6]){0}, 24, 0);
    assert_refused(spec_of(root, ""), ESP_SPLIT_TEST, ESP_FORMAT, "whole numbers", y);
    header(text, sizeof text, "<i8", "6, 1");
    write_npy(scratch_path(root, y), 1, text, (const int64_t[6]){3, 2, 1}, 48, 0);
    esp_dataset *dataset = NULL;
    assert_int_equal(esp_dataset_open(spec_of(root, ""), ESP_SPLIT_TEST, &dataset, NULL), ESP_OK);
    assert_int_equal(esp_dataset_label(dataset, 1), 2);
    esp_dataset_unref(dataset);
}

static void a_value_that_is_no_number_fails_its_batch_by_name(void **state)
{
    const char *root = *state;
    float values[COUNT * PIXELS] = {0};
    char text[128];
    esp_dataset *dataset = NULL;
    esp_error err = {0};
    uint32_t order[COUNT] = {0, 1, 2, 3, 4, 5};
    float x[COUNT * PIXELS];
    int32_t labels[COUNT];
    const esp_batch_labels targets = {.label = labels};
    const esp_normalization plain = {.channels = 3, .std = {1, 1, 1}};

    values[4 * PIXELS + 9] = NAN;
    header(text, sizeof text, "<f4", "6, 5, 7, 3");
    write_npy(scratch_path(root, "x_test.npy"), 1, text, values, sizeof values, 0);
    write_labels(root, "y_test.npy", "<i8", 8);
    assert_int_equal(esp_dataset_open(spec_of(root, ""), ESP_SPLIT_TEST, &dataset, &err), ESP_OK);
    assert_int_equal(esp_batch_read(NULL, dataset, &plain, NULL, 0, 0, order, COUNT, x, &targets, &err),
                     ESP_FORMAT);
    assert_non_null(strstr(err.message, "image 4 has a value that is not finite"));
    const esp_augmentation colours = {.hue = 0.1};
    assert_int_equal(esp_batch_read(NULL, dataset, &plain, &colours, 0, 0, order, 1, x, &targets, &err),
                     ESP_INVALID);
    assert_non_null(strstr(err.message, "holds floats"));
    esp_dataset_unref(dataset);
}

/* ---- CIFAR-100 ---- */

static void cifar100_has_the_fine_labels_and_their_names(void **state)
{
    const char *root = *state;
    enum { RECORD = 3074, IMAGES = 3 };
    uint8_t *bytes = esp_alloc(IMAGES, RECORD);
    char spec[1024], names[1200] = "";
    esp_dataset *dataset = NULL;
    esp_error err = {0};

    for (int i = 0; i < IMAGES; i++) {
        memset(bytes + i * RECORD, 10 * i, RECORD);
        bytes[i * RECORD] = (uint8_t)(19 - i);     /* coarse */
        bytes[i * RECORD + 1] = (uint8_t)(99 - i); /* fine */
    }
    for (int c = 0; c < 100; c++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "name %d\n", c);
    scratch_write(scratch_path(root, "test.bin"), bytes, IMAGES * RECORD);
    scratch_write(scratch_path(root, "fine_label_names.txt"), names, strlen(names));
    snprintf(spec, sizeof spec, "cifar100:%s", root);
    if (esp_dataset_open(spec, ESP_SPLIT_TEST, &dataset, &err) != ESP_OK)
        fail_msg("%s", err.message);
    assert_int_equal(esp_dataset_count(dataset), IMAGES);
    assert_int_equal(esp_dataset_class_count(dataset), 100);
    for (int i = 0; i < IMAGES; i++) {
        assert_int_equal(esp_dataset_label(dataset, i), 99 - i);
        assert_int_equal(esp_dataset_pixels(dataset, i)[0], 10 * i);
        assert_int_equal(esp_dataset_pixels(dataset, i)[3071], 10 * i);
    }
    assert_string_equal(esp_dataset_class_name(dataset, 98), "name 98");
    esp_dataset_unref(dataset);
    /* at another size the pixels are resized when a batch asks for them; these images are of one colour each
     */
    snprintf(spec, sizeof spec, "cifar100:%s?resize=50,crop=48x40", root);
    if (esp_dataset_open(spec, ESP_SPLIT_TEST, &dataset, &err) != ESP_OK)
        fail_msg("%s", err.message);
    assert_true(esp_dataset_is_lazy(dataset));
    assert_int_equal(esp_dataset_height(dataset), 48);
    assert_int_equal(esp_dataset_width(dataset), 40);
    assert_string_equal(esp_dataset_class_name(dataset, 98), "name 98");
    static float x[3 * 48 * 40];
    const uint32_t second = 1;
    int32_t label;
    const esp_batch_labels targets = {.label = &label};
    const esp_normalization plain = {.channels = 3, .std = {1, 1, 1}};
    assert_int_equal(esp_batch_read(NULL, dataset, &plain, NULL, 0, 0, &second, 1, x, &targets, &err),
                     ESP_OK);
    assert_int_equal(label, 98);
    for (int k = 0; k < 3 * 48 * 40; k++)
        assert_true(x[k] == 10.0f / 255.0f);
    esp_dataset_unref(dataset);
    snprintf(spec, sizeof spec, "cifar100:%s", root);
    bytes[RECORD + 1] = 100;
    scratch_write(scratch_path(root, "train.bin"), bytes, IMAGES * RECORD);
    assert_refused(spec, ESP_SPLIT_TRAIN, ESP_FORMAT, "label 100 of record 1", "0 to 99");
    scratch_write(scratch_path(root, "train.bin"), bytes, IMAGES * RECORD - 1);
    assert_refused(spec, ESP_SPLIT_TRAIN, ESP_FORMAT, "multiple of 3074", "train.bin");
    esp_free(bytes);
}

#define WITH_FILES(test) cmocka_unit_test_setup_teardown(test, make_directory, remove_directory)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FILES(arrays_of_either_order_type_and_version_give_their_images),
        WITH_FILES(floats_that_nobody_divided_are_told),
        WITH_FILES(bytes_are_resized_like_files_and_change_channels),
        WITH_FILES(damaged_arrays_are_refused_by_name),
        WITH_FILES(labels_are_checked),
        WITH_FILES(a_value_that_is_no_number_fails_its_batch_by_name),
        WITH_FILES(cifar100_has_the_fine_labels_and_their_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
