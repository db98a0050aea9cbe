/* folder:DIR: which files are found, in which order, with which labels; splits; damage; sizes. The images are
 * the small ones in images/. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <png.h>

#include "base/file.h"
#include "base/memory.h"
#include "io/dataset.h"
#include "unit/base/scratch.h"

enum { WIDTH = 29, HEIGHT = 23 };

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

/* Copies images/`image` to root/`place`, making directories. */
static void put(const char *root, const char *place, const char *image)
{
    char source[512];
    char *data = NULL;
    size_t size = 0;
    const char *path = scratch_path(root, place);
    char *directory = esp_path_directory(path);

    snprintf(source, sizeof source, "%s/tests/unit/io/images/%s", ESP_SOURCE_DIR, image);
    assert_int_equal(esp_file_read(source, &data, &size, NULL), ESP_OK);
    assert_int_equal(esp_directory_make(directory, NULL), ESP_OK);
    scratch_write(path, data, size);
    esp_free(directory);
    esp_free(data);
}

static const char *spec_of(const char *root, const char *options)
{
    static char spec[4][1024];
    static int next;
    char *buffer = spec[next++ % 4];

    snprintf(buffer, sizeof spec[0], "folder:%s%s", root, options);
    return buffer;
}

static esp_dataset *open_set(const char *spec, esp_split split)
{
    esp_error err = {0};
    esp_dataset *dataset = NULL;

    if (esp_dataset_open(spec, split, &dataset, &err) != ESP_OK)
        fail_msg("%s", err.message);
    return dataset;
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

/* The images of a set as floats in 0..1, [count, C, H, W]; fails the test when one cannot be read. */
static float *read_all(const esp_dataset *dataset, int32_t *labels)
{
    int64_t count = esp_dataset_count(dataset);
    size_t size =
        (size_t)(esp_dataset_channels(dataset) * esp_dataset_height(dataset) * esp_dataset_width(dataset));
    float *x = esp_alloc((size_t)count * size, sizeof(float));
    uint32_t order[64];
    const esp_normalization plain = {.channels = 3, .std = {1, 1, 1, 1}};
    const esp_batch_labels targets = {.label = labels};
    esp_error err = {0};

    assert_true(count <= 64);
    for (uint32_t i = 0; i < 64; i++)
        order[i] = i;
    if (esp_batch_read(NULL, dataset, &plain, NULL, 0, 0, order, count, x, &targets, &err) != ESP_OK)
        fail_msg("%s", err.message);
    return x;
}

static bool is_same_image(const float *x, const char *expected_rgb)
{
    char source[512];
    char *data = NULL;
    size_t size = 0;
    bool is_same = true;

    snprintf(source, sizeof source, "%s/tests/unit/io/images/%s", ESP_SOURCE_DIR, expected_rgb);
    assert_int_equal(esp_file_read(source, &data, &size, NULL), ESP_OK);
    for (int i = 0; i < WIDTH * HEIGHT; i++)
        for (int c = 0; c < 3; c++)
            is_same = is_same && x[c * WIDTH * HEIGHT + i] == (float)(uint8_t)data[i * 3 + c] / 255.0f;
    esp_free(data);
    return is_same;
}

static void classes_and_files_are_ordered_as_python_sorts_them(void **state)
{
    const char *root = *state;
    int32_t labels[64];

    put(root, "test/b/2.png", "rgb.png");
    put(root, "test/b/10.PNG", "rgba.png"); /* '1' < '2' */
    put(root, "test/b/sub/0.jpeg", "rgb420.jpg");
    put(root, "test/b/sub/deep/0.png", "rgb16.png");
    put(root, "test/b/sub-a/1.JPG", "rgb444.jpg"); /* "b/sub" < "b/sub-a" < "b/sub/deep" */
    put(root, "test/Z/a.png", "palette.png");      /* capitals come first */
    put(root, "test/\xc3\xa4/a.png", "grey1.png"); /* code points, not a locale's order */
    put(root, "test/.hidden/a.png", "rgb.png");
    put(root, "test/b/notes.txt", "rgb.png");
    put(root, "test/b/scan.tiff", "rgb.png");
    esp_dataset *dataset = open_set(spec_of(root, ""), ESP_SPLIT_TEST);

    assert_int_equal(esp_dataset_class_count(dataset), 3);
    assert_string_equal(esp_dataset_class_name(dataset, 0), "Z");
    assert_string_equal(esp_dataset_class_name(dataset, 1), "b");
    assert_string_equal(esp_dataset_class_name(dataset, 2), "\xc3\xa4");
    assert_int_equal(esp_dataset_count(dataset), 7);
    assert_non_null(strstr(esp_dataset_note(dataset), "1 files of other formats"));
    assert_int_equal(esp_dataset_width(dataset), WIDTH);
    assert_int_equal(esp_dataset_height(dataset), HEIGHT);
    float *x = read_all(dataset, labels);
    static const char *const expected[] = {"palette.rgb", "rgba.rgb",  "rgb.rgb",  "rgb420.rgb",
                                           "rgb444.rgb",  "rgb16.rgb", "grey1.rgb"};
    static const int expected_labels[] = {0, 1, 1, 1, 1, 1, 2};
    for (int i = 0; i < 7; i++) {
        if (!is_same_image(x + i * 3 * WIDTH * HEIGHT, expected[i]))
            fail_msg("image %d is not %s", i, expected[i]);
        assert_int_equal(labels[i], expected_labels[i]);
    }
    esp_free(x);
    esp_dataset_unref(dataset);
}

static void directories_train_val_and_test_are_the_splits(void **state)
{
    const char *root = *state;

    put(root, "train/a/1.png", "rgb.png");
    put(root, "train/a/2.png", "rgb.png");
    put(root, "train/b/1.png", "rgb.png");
    put(root, "val/b/1.png", "rgb.png");
    esp_dataset *dataset = open_set(spec_of(root, ""), ESP_SPLIT_TRAIN);
    assert_int_equal(esp_dataset_count(dataset), 3);
    esp_dataset_unref(dataset);
    /* val alone is for testing, and its labels are those of train */
    dataset = open_set(spec_of(root, ""), ESP_SPLIT_TEST);
    assert_int_equal(esp_dataset_count(dataset), 1);
    assert_int_equal(esp_dataset_class_count(dataset), 2);
    assert_int_equal(esp_dataset_label(dataset, 0), 1);
    esp_dataset_unref(dataset);
    assert_refused(spec_of(root, ""), ESP_SPLIT_VALIDATION, ESP_STATE, "no validation images", "");
    assert_refused(spec_of(root, "?test=0.5"), ESP_SPLIT_TEST, ESP_INVALID, "'test'", "val");
    dataset = open_set(spec_of(root, "?val=0.5"), ESP_SPLIT_VALIDATION);
    assert_int_equal(esp_dataset_count(dataset), 1); /* half of a's two; b's only one stays */
    assert_int_equal(esp_dataset_label(dataset, 0), 0);
    esp_dataset_unref(dataset);
    dataset = open_set(spec_of(root, "?val=0.5"), ESP_SPLIT_TRAIN);
    assert_int_equal(esp_dataset_count(dataset), 2);
    esp_dataset_unref(dataset);
    /* with test beside it, val is for validation */
    put(root, "test/a/1.png", "rgb.png");
    put(root, "test/a/2.png", "rgb.png");
    put(root, "elsewhere/notes.txt", "rgb.png");
    dataset = open_set(spec_of(root, ""), ESP_SPLIT_TEST);
    assert_int_equal(esp_dataset_count(dataset), 2);
    esp_dataset_unref(dataset);
    dataset = open_set(spec_of(root, ""), ESP_SPLIT_VALIDATION);
    assert_int_equal(esp_dataset_count(dataset), 1);
    esp_dataset_unref(dataset);
    assert_refused(spec_of(root, "?val=0.5"), ESP_SPLIT_TRAIN, ESP_INVALID, "of its own", "'val'");
    put(root, "test/c/1.png", "rgb.png");
    assert_refused(spec_of(root, ""), ESP_SPLIT_TEST, ESP_FORMAT, "'c' is not one of the 2", "train");
}

static void one_directory_per_class_is_split_by_seed(void **state)
{
    const char *root = *state;
    char name[64];
    bool differs = false;
    int32_t labels[64];

    for (int c = 0; c < 2; c++)
        for (int i = 0; i < 10; i++) {
            snprintf(name, sizeof name, "%c/%d.png", 'a' + c, i);
            put(root, name, (i + c) % 3 == 0 ? "rgb.png" : (i + c) % 3 == 1 ? "palette.png" : "rgba.png");
        }
    esp_dataset *test = open_set(spec_of(root, ""), ESP_SPLIT_TEST);
    esp_dataset *training = open_set(spec_of(root, ""), ESP_SPLIT_TRAIN);
    assert_int_equal(esp_dataset_count(test), 4); /* a fifth of every class */
    assert_int_equal(esp_dataset_count(training), 16);
    float *first = read_all(test, labels);
    assert_int_equal(labels[0] + labels[1] + labels[2] + labels[3], 2);
    for (int seed = 1; seed < 6 && !differs; seed++) {
        snprintf(name, sizeof name, "?seed=%d", seed);
        esp_dataset *other = open_set(spec_of(root, name), ESP_SPLIT_TEST);
        float *second = read_all(other, labels);
        differs = memcmp(first, second, 4 * 3 * WIDTH * HEIGHT * sizeof(float)) != 0;
        esp_free(second);
        esp_dataset_unref(other);
    }
    assert_true(differs);
    esp_free(first);
    esp_dataset_unref(test);
    esp_dataset_unref(training);
    test = open_set(spec_of(root, "?test=1"), ESP_SPLIT_TEST);
    assert_int_equal(esp_dataset_count(test), 20);
    esp_dataset_unref(test);
    assert_refused(spec_of(root, "?test=1"), ESP_SPLIT_TRAIN, ESP_INVALID, "no training images", "1");
    assert_refused(spec_of(root, "?test=0"), ESP_SPLIT_TEST, ESP_INVALID, "no test images", "0");
    training = open_set(spec_of(root, "?test=0.2,val=0.25"), ESP_SPLIT_TRAIN);
    assert_int_equal(esp_dataset_count(training), 12);
    esp_dataset_unref(training);
    training = open_set(spec_of(root, "?test=0.2&val=0.25"), ESP_SPLIT_VALIDATION);
    assert_int_equal(esp_dataset_count(training), 4);
    esp_dataset_unref(training);
}

static void what_is_no_set_of_images_says_what_is_missing(void **state)
{
    const char *root = *state;

    assert_refused(spec_of(root, ""), ESP_SPLIT_TEST, ESP_FORMAT, "no directories, expected one per class",
                   root);
    assert_refused(spec_of(root, "/absent"), ESP_SPLIT_TEST, ESP_IO, "not there", "absent");
    put(root, "a/1.png", "rgb.png");
    assert_int_equal(mkdir(scratch_path(root, "b"), 0700), 0);
    put(root, "b/scan.webp", "rgb.png");
    assert_refused(spec_of(root, ""), ESP_SPLIT_TEST, ESP_FORMAT, "/b: no images", "other formats");
    esp_dataset *dataset = open_set(spec_of(root, "?skip-bad,test=1"), ESP_SPLIT_TEST);
    assert_int_equal(esp_dataset_class_count(dataset), 2);
    assert_non_null(strstr(esp_dataset_note(dataset), "1 classes without images"));
    esp_dataset_unref(dataset);
    assert_int_equal(unlink(scratch_path(root, "a/1.png")), 0);
    assert_refused(spec_of(root, "?skip-bad,test=1"), ESP_SPLIT_TEST, ESP_FORMAT, "no images",
                   "2 directories");
    assert_refused("folder", ESP_SPLIT_TEST, ESP_INVALID, "names no directory", "folder:DIR");
}

static void links_are_followed_and_loops_are_told(void **state)
{
    const char *root = *state;

    put(root, "store/x.png", "rgb.png");
    put(root, "set/a/1.png", "rgb.png");
    assert_int_equal(symlink("../../store", scratch_path(root, "set/a/more")), 0);
    assert_int_equal(symlink("a", scratch_path(root, "set/b")), 0);
    esp_dataset *dataset = open_set(spec_of(scratch_path(root, "set"), "?test=1"), ESP_SPLIT_TEST);
    assert_int_equal(esp_dataset_count(dataset), 4);
    esp_dataset_unref(dataset);
    assert_int_equal(symlink("..", scratch_path(root, "set/a/up")), 0);
    assert_refused(spec_of(scratch_path(root, "set"), "?test=1"), ESP_SPLIT_TEST, ESP_IO, "leads back",
                   "up/a");
}

static void bad_files_fail_their_batch_by_name_or_are_left_out(void **state)
{
    const char *root = *state;
    char message[512];
    int32_t labels[8];
    uint32_t order[5] = {0, 1, 2, 3, 4};
    float *x = esp_alloc(5 * 3 * WIDTH * HEIGHT, sizeof(float));
    const esp_normalization plain = {.channels = 3, .std = {1, 1, 1, 1}};
    const esp_batch_labels targets = {.label = labels};
    esp_error err = {0};

    put(root, "a/1.png", "rgb.png");
    put(root, "a/2.png", "rgba.png");
    scratch_write(scratch_path(root, "a/3.jpg"), "\xff\xd8\xff no", 6);
    put(root, "b/1.png", "palette.png");
    assert_int_equal(symlink("/nowhere", scratch_path(root, "b/2.png")), 0);
    esp_dataset *dataset = open_set(spec_of(root, "?test=1"), ESP_SPLIT_TEST);
    assert_int_equal(esp_dataset_count(dataset), 5);
    assert_int_equal(esp_batch_read(NULL, dataset, &plain, NULL, 0, 0, order, 5, x, &targets, &err),
                     ESP_FORMAT);
    assert_non_null(strstr(err.message, "a/3.jpg: damaged JPEG"));
    assert_non_null(strstr(err.hint, "skip-bad"));
    assert_int_equal(esp_batch_read(NULL, dataset, &plain, NULL, 0, 0, order + 4, 1, x, &targets, &err),
                     ESP_IO);
    assert_non_null(strstr(err.message, "b/2.png: No such file"));
    esp_dataset_unref(dataset);
    dataset = open_set(spec_of(root, "?test=1,skip-bad"), ESP_SPLIT_TEST);
    assert_int_equal(esp_batch_read(NULL, dataset, &plain, NULL, 0, 0, order, 5, x, &targets, &err), ESP_OK);
    assert_true(is_same_image(x + 2 * 3 * WIDTH * HEIGHT, "palette.rgb")); /* instead of a/3.jpg */
    assert_int_equal(labels[2], 1);
    assert_true(is_same_image(x + 4 * 3 * WIDTH * HEIGHT, "rgb.rgb")); /* after the last comes the first */
    assert_int_equal(labels[4], 0);
    assert_int_equal(esp_dataset_skipped(dataset), 2);
    assert_true(esp_dataset_skipped_message(dataset, 0, message, sizeof message));
    assert_non_null(strstr(message, "a/3.jpg"));
    esp_dataset_unref(dataset);
    esp_free(x);
}

static void a_pipe_among_the_images_holds_nobody_up(void **state)
{
    const char *root = *state;

    put(root, "a/1.png", "rgb.png");
    assert_int_equal(mkfifo(scratch_path(root, "a/2.png"), 0600), 0);
    esp_dataset *dataset = open_set(spec_of(root, "?test=1"), ESP_SPLIT_TEST);
    assert_int_equal(esp_dataset_count(dataset), 1);
    esp_dataset_unref(dataset);
}

static void sizes_come_from_the_request_or_the_images(void **state)
{
    const char *root = *state;
    static const struct {
        const char *options;
        int channels, height, width;
    } cases[] = {
        {"?test=1", 3, 224, 224}, /* images of two sizes */
        {"?test=1,resize=20", 3, 18, 18},
        {"?test=1,crop=16", 3, 16, 16},
        {"?test=1,crop=16x20,channels=1", 1, 16, 20},
        {"?test=1,resize=9x7,interpolation=bicubic", 3, 9, 7},
    };

    put(root, "a/1.png", "rgb.png");
    put(root, "a/2.png", "wide.png");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        esp_dataset *dataset = open_set(spec_of(root, cases[i].options), ESP_SPLIT_TEST);
        assert_int_equal(esp_dataset_channels(dataset), cases[i].channels);
        assert_int_equal(esp_dataset_height(dataset), cases[i].height);
        assert_int_equal(esp_dataset_width(dataset), cases[i].width);
        int32_t labels[2];
        esp_free(read_all(dataset, labels));
        esp_dataset_unref(dataset);
    }
    put(root, "grey/1.png", "grey.png");
    assert_int_equal(unlink(scratch_path(root, "a/1.png")), 0);
    assert_int_equal(unlink(scratch_path(root, "a/2.png")), 0);
    put(root, "a/1.jpg", "tones.jpg");
    esp_dataset *dataset = open_set(spec_of(root, "?test=1"), ESP_SPLIT_TEST);
    assert_int_equal(esp_dataset_channels(dataset), 1); /* all are grey */
    assert_int_equal(esp_dataset_height(dataset), HEIGHT);
    esp_dataset_unref(dataset);
}

static void options_of_a_spec_are_checked(void **state)
{
    const char *root = *state;
    static const struct {
        const char *options, *word, *word2;
    } cases[] = {
        {"?resise=3", "'resise'", "did you mean 'resize'"},
        {"?resize", "'resize'", "takes N|HxW"},
        {"?resize=0", "'resize'", "found '0'"},
        {"?resize=5x", "'resize'", "found '5x'"},
        {"?crop=99999", "'crop'", "found '99999'"},
        {"?interpolation=nearest", "'interpolation'", "bilinear or bicubic"},
        {"?channels=2", "'channels'", "1 or 3"},
        {"?skip-bad=1", "'skip-bad'", "no value"},
        {"?test=1.5", "'test'", "0 to 1"},
        {"?val=0", "'val'", "found '0'"},
        {"?seed=-1", "'seed'", "found '-1'"},
        {"?cache=x", "'cache'", "found 'x'"},
        {"?layout=nchw", "'layout'", "nothing for folder"},
        {"?crop=3,", "no directories", ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(spec_of(root, cases[i].options), ESP_SPLIT_TEST,
                       i + 1 < sizeof cases / sizeof *cases ? ESP_INVALID : ESP_FORMAT, cases[i].word,
                       cases[i].word2);
    /* a directory with a question mark in its name is a directory */
    put(root, "odd?crop=1/a/1.png", "rgb.png");
    put(root, "odd?crop=1/a/2.png", "rgb.png");
    esp_dataset *dataset = open_set(spec_of(root, "/odd?crop=1"), ESP_SPLIT_TRAIN);
    assert_int_equal(esp_dataset_width(dataset), WIDTH);
    esp_dataset_unref(dataset);
}

/* Opens, reads and closes; with the k-th allocation failing, for every k until nothing fails. */
static void an_allocation_that_fails_is_told_and_leaves_nothing_behind(void **state)
{
    const char *root = *state;
    const esp_normalization plain = {.channels = 3, .std = {1, 1, 1, 1}};
    static float x[2 * 3 * WIDTH * HEIGHT];
    static const uint32_t order[2] = {0, 1};
    int32_t labels[2];
    const esp_batch_labels targets = {.label = labels};
    bool was_burnt = true;
    char spec[1024];

    put(root, "train/a/1.png", "rgb.png");
    put(root, "train/a/sub/2.jpg", "cmyk.jpg");
    put(root, "train/b/1.png", "palette.png");
    put(root, "train/b/2.png", "grey16.png");
    put(root, "test/b/2.png", "grey16.png");
    snprintf(spec, sizeof spec, "folder:%s?val=0.5,channels=1,skip-bad", root);
    size_t before = esp_memory_live();
    for (int64_t k = 1; was_burnt; k++) {
        esp_error err = {0};
        esp_dataset *dataset = NULL;

        esp_memory_fuse(k);
        esp_status status = esp_dataset_open(spec, ESP_SPLIT_TRAIN, &dataset, &err);
        if (status == ESP_OK)
            status = esp_batch_read(NULL, dataset, &plain, NULL, 0, 0, order, 2, x, &targets, &err);
        was_burnt = esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        /* a sample of headers, and the cache, are done without when there is no memory for them */
        assert_true(status == ESP_OK || (was_burnt && status == ESP_NO_MEMORY && err.message[0] != '\0'));
        assert_true(status != ESP_OK || esp_dataset_skipped(dataset) == 0);
        esp_dataset_unref(dataset);
        assert_int_equal(esp_memory_live(), before);
        assert_true(k < 2000);
    }
}

/* ---- real images ---- */

static void write_png(const char *path, const uint8_t *planes, int side)
{
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)side,
                       .height = (png_uint_32)side,
                       .format = PNG_FORMAT_RGB};
    uint8_t rgb[3 * 32 * 32];

    for (int i = 0; i < side * side; i++)
        for (int c = 0; c < 3; c++)
            rgb[3 * i + c] = planes[c * side * side + i];
    assert_int_equal(png_image_write_to_file(&image, path, 0, rgb, 0, NULL), 1);
}

static void cifar10_as_files_is_cifar10(void **state)
{
    enum { IMAGES = 60 };
    const char *root = *state, *shared = shared_directory();
    char spec[1024], name[64];
    esp_dataset *dataset = NULL, *records = NULL;
    int32_t labels[64], expected_labels[64];

    if (!shared)
        skip();
    snprintf(spec, sizeof spec, "cifar10:%s/data/cifar10", shared);
    records = open_set(spec, ESP_SPLIT_TEST);
    uint32_t order[IMAGES]; /* by class, as files are */
    int at = 0;
    for (int c = 0; c < 10; c++) {
        snprintf(name, sizeof name, "test/%d", c);
        assert_int_equal(esp_directory_make(scratch_path(root, name), NULL), ESP_OK);
        for (int i = 0; at < (c + 1) * IMAGES / 10; i++) {
            if (esp_dataset_label(records, i) != c)
                continue;
            snprintf(name, sizeof name, "test/%d/%06d.png", c, i);
            write_png(scratch_path(root, name), esp_dataset_pixels(records, i), 32);
            order[at++] = (uint32_t)i;
        }
    }
    dataset = open_set(spec_of(root, ""), ESP_SPLIT_TEST);
    assert_int_equal(esp_dataset_count(dataset), IMAGES);
    float *found = read_all(dataset, labels), *expected = esp_alloc(IMAGES * 3072, sizeof(float));
    const esp_normalization plain = {.channels = 3, .std = {1, 1, 1, 1}};
    const esp_batch_labels targets = {.label = expected_labels};
    assert_int_equal(
        esp_batch_read(NULL, records, &plain, NULL, 0, 0, order, IMAGES, expected, &targets, NULL), ESP_OK);
    assert_memory_equal(found, expected, IMAGES * 3072 * sizeof(float));
    assert_memory_equal(labels, expected_labels, IMAGES * sizeof *labels);
    esp_free(found);
    esp_free(expected);
    esp_dataset_unref(dataset);
    esp_dataset_unref(records);
}

#define WITH_FILES(test) cmocka_unit_test_setup_teardown(test, make_directory, remove_directory)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FILES(classes_and_files_are_ordered_as_python_sorts_them),
        WITH_FILES(directories_train_val_and_test_are_the_splits),
        WITH_FILES(one_directory_per_class_is_split_by_seed),
        WITH_FILES(what_is_no_set_of_images_says_what_is_missing),
        WITH_FILES(links_are_followed_and_loops_are_told),
        WITH_FILES(bad_files_fail_their_batch_by_name_or_are_left_out),
        WITH_FILES(a_pipe_among_the_images_holds_nobody_up),
        WITH_FILES(sizes_come_from_the_request_or_the_images),
        WITH_FILES(options_of_a_spec_are_checked),
        WITH_FILES(an_allocation_that_fails_is_told_and_leaves_nothing_behind),
        WITH_FILES(cifar10_as_files_is_cifar10),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
