/* Dataset readers: tiny files written here byte by byte, every kind of damage, and the real sets where they
 * are. */
#include "unit/base/scratch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/file.h"
#include "base/memory.h"
#include "io/dataset.h"

enum { RECORD = 3073 };

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

/* An IDX file of `rank` sizes whose elements are 0, step, 2*step, ... modulo `modulus`; `missing` bytes
 * short. */
static size_t idx_bytes(uint8_t *bytes, int rank, const int *sizes, int step, int modulus, int missing)
{
    size_t at = 0;
    int elements = 1;

    bytes[at++] = 0;
    bytes[at++] = 0;
    bytes[at++] = 8;
    bytes[at++] = (uint8_t)rank;
    for (int i = 0; i < rank; i++) {
        bytes[at++] = 0;
        bytes[at++] = 0;
        bytes[at++] = (uint8_t)(sizes[i] >> 8);
        bytes[at++] = (uint8_t)sizes[i];
        elements *= sizes[i];
    }
    for (int i = 0; i < elements - missing; i++)
        bytes[at++] = (uint8_t)(i * step % modulus);
    return at;
}

static void write_gz(const char *path, const void *data, size_t size)
{
    gzFile file = gzopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(gzwrite(file, data, (unsigned)size), (int)size);
    assert_int_equal(gzclose(file), Z_OK);
}

static void write_idx(const char *directory, const char *name, int rank, const int *sizes, int step,
                      int modulus, int missing)
{
    uint8_t bytes[4096];
    size_t size = idx_bytes(bytes, rank, sizes, step, modulus, missing);

    scratch_write(scratch_path(directory, name), bytes, size);
}

static const int image_sizes[] = {7, 3, 5};

static void write_train_pair(const char *directory)
{
    write_idx(directory, "train-images-idx3-ubyte", 3, image_sizes, 1, 251, 0);
    write_idx(directory, "train-labels-idx1-ubyte", 1, image_sizes, 1, 4, 0);
}

static const char *spec_of(const char *scheme, const char *directory)
{
    static char spec[1024];

    snprintf(spec, sizeof spec, "%s:%s", scheme, directory);
    return spec;
}

/* Opening must fail with this code and each of these words in the message, on one line. */
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
    assert_null(strchr(err.message, '\n'));
}

static esp_dataset *open_set(const char *spec, esp_split split)
{
    esp_error err = {0};
    esp_dataset *dataset = NULL;

    if (esp_dataset_open(spec, split, &dataset, &err) != ESP_OK)
        fail_msg("%s", err.message);
    return dataset;
}

static void check_train_pair(const esp_dataset *dataset)
{
    assert_int_equal(esp_dataset_count(dataset), 7);
    assert_int_equal(esp_dataset_channels(dataset), 1);
    assert_int_equal(esp_dataset_height(dataset), 3);
    assert_int_equal(esp_dataset_width(dataset), 5);
    assert_int_equal(esp_dataset_class_count(dataset), 4);
    for (int i = 0; i < 7; i++) {
        assert_int_equal(esp_dataset_label(dataset, i), i % 4);
        for (int p = 0; p < 15; p++)
            assert_int_equal(esp_dataset_pixels(dataset, i)[p], (i * 15 + p) % 251);
    }
}

static void idx_reads_plain_files(void **state)
{
    write_train_pair(*state);
    esp_dataset *dataset = open_set(spec_of("idx", *state), ESP_SPLIT_TRAIN);
    check_train_pair(dataset);
    assert_string_equal(esp_dataset_name(dataset), spec_of("idx", *state));
    assert_string_equal(esp_dataset_note(dataset), "7 train images");
    assert_string_equal(esp_dataset_class_name(dataset, 3), "class 3");
    esp_dataset_unref(dataset);
}

static void idx_reads_gzipped_files(void **state)
{
    uint8_t bytes[256];
    size_t size = idx_bytes(bytes, 3, image_sizes, 1, 251, 0);

    write_gz(scratch_path(*state, "train-images-idx3-ubyte.gz"), bytes, size);
    size = idx_bytes(bytes, 1, image_sizes, 1, 4, 0);
    write_gz(scratch_path(*state, "train-labels-idx1-ubyte.gz"), bytes, size);
    esp_dataset *dataset = open_set(spec_of("idx", *state), ESP_SPLIT_TRAIN);
    check_train_pair(dataset);
    esp_dataset_unref(dataset);
}

static void idx_test_split_reads_the_t10k_files(void **state)
{
    const int sizes[] = {2, 4, 4};

    write_train_pair(*state);
    write_idx(*state, "t10k-images-idx3-ubyte", 3, sizes, 1, 251, 0);
    write_idx(*state, "t10k-labels-idx1-ubyte", 1, sizes, 0, 1, 0);
    esp_dataset *dataset = open_set(spec_of("idx", *state), ESP_SPLIT_TEST);
    assert_int_equal(esp_dataset_count(dataset), 2);
    assert_int_equal(esp_dataset_class_count(dataset), 2); /* all labels are 0, but one class is no task */
    esp_dataset_unref(dataset);
}

static void idx_names_both_variants_of_a_missing_file(void **state)
{
    write_idx(*state, "train-images-idx3-ubyte", 3, image_sizes, 1, 251, 0);
    assert_refused(spec_of("idx", *state), ESP_SPLIT_TRAIN, ESP_IO, "neither train-labels-idx1-ubyte nor",
                   "train-labels-idx1-ubyte.gz");
}

static void idx_refuses_a_bad_magic_number(void **state)
{
    write_train_pair(*state);
    write_idx(*state, "train-labels-idx1-ubyte", 3, image_sizes, 1, 4, 0);
    assert_refused(spec_of("idx", *state), ESP_SPLIT_TRAIN, ESP_FORMAT, "0x00000803", "expected 0x00000801");
}

static void idx_refuses_truncated_and_overlong_files(void **state)
{
    write_train_pair(*state);
    write_idx(*state, "train-images-idx3-ubyte", 3, image_sizes, 1, 251, 1);
    assert_refused(spec_of("idx", *state), ESP_SPLIT_TRAIN, ESP_FORMAT, "truncated: 104 bytes",
                   "expected 105");
    write_idx(*state, "train-images-idx3-ubyte", 3, image_sizes, 1, 251, -2);
    assert_refused(spec_of("idx", *state), ESP_SPLIT_TRAIN, ESP_FORMAT, "too long: 107 bytes",
                   "expected 105");
    scratch_write(scratch_path(*state, "train-images-idx3-ubyte"), "\0\0\x08\x03\0", 5);
    assert_refused(spec_of("idx", *state), ESP_SPLIT_TRAIN, ESP_FORMAT, "5 bytes", "header of 16");
    scratch_write(scratch_path(*state, "train-images-idx3-ubyte"), "", 0);
    assert_refused(spec_of("idx", *state), ESP_SPLIT_TRAIN, ESP_FORMAT, "0 bytes", "header of 16");
}

static void idx_refuses_a_cut_off_gzip_stream(void **state)
{
    uint8_t bytes[256];
    size_t size = idx_bytes(bytes, 3, image_sizes, 1, 251, 0);
    const char *path = scratch_path(*state, "train-images-idx3-ubyte.gz");

    write_idx(*state, "train-labels-idx1-ubyte", 1, image_sizes, 1, 4, 0);
    write_gz(path, bytes, size);
    char *zipped = scratch_read(path, &size);
    scratch_write(path, zipped, size / 2);
    free(zipped);
    assert_refused(spec_of("idx", *state), ESP_SPLIT_TRAIN, ESP_FORMAT, "train-images-idx3-ubyte.gz", "gzip");
}

/* Sizes that multiply to far more than the file must not be believed. */
static void idx_checks_sizes_before_it_allocates(void **state)
{
    const uint8_t huge[] = {0, 0, 8, 3, 0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 1, 2, 3};

    write_train_pair(*state);
    scratch_write(scratch_path(*state, "train-images-idx3-ubyte"), huge, sizeof huge);
    esp_memory_reset_peak();
    size_t before = esp_memory_peak();
    assert_refused(spec_of("idx", *state), ESP_SPLIT_TRAIN, ESP_FORMAT, "3 bytes of elements",
                   "expected 18446181123756261375");
    assert_true(esp_memory_peak() - before < (size_t)1 << 20);
}

static void idx_refuses_sizes_of_zero(void **state)
{
    const int none[] = {0, 3, 5};

    write_train_pair(*state);
    write_idx(*state, "train-images-idx3-ubyte", 3, none, 1, 251, 0);
    assert_refused(spec_of("idx", *state), ESP_SPLIT_TRAIN, ESP_FORMAT, "size 0 is 0", "expected 1");
}

static void idx_refuses_counts_that_disagree(void **state)
{
    const int sizes[] = {6};

    write_train_pair(*state);
    write_idx(*state, "train-labels-idx1-ubyte", 1, sizes, 1, 4, 0);
    assert_refused(spec_of("idx", *state), ESP_SPLIT_TRAIN, ESP_FORMAT, "6 labels", "expected 7");
}

static void fashion_mnist_refuses_an_eleventh_class(void **state)
{
    write_train_pair(*state);
    write_idx(*state, "train-labels-idx1-ubyte", 1, image_sizes, 2, 251, 0);
    assert_refused(spec_of("fashion-mnist", *state), ESP_SPLIT_TRAIN, ESP_FORMAT, "label 10 of image 5",
                   "expected 0 to 9");
}

static void fashion_mnist_always_has_ten_named_classes(void **state)
{
    write_train_pair(*state);
    esp_dataset *dataset = open_set(spec_of("fashion-mnist", *state), ESP_SPLIT_TRAIN);
    assert_int_equal(esp_dataset_class_count(dataset), 10);
    assert_string_equal(esp_dataset_class_name(dataset, 0), "T-shirt/top");
    assert_string_equal(esp_dataset_class_name(dataset, 9), "Ankle boot");
    esp_dataset_unref(dataset);
}

/* ---- CIFAR-10 ---- */

static void write_batch(const char *directory, const char *name, int records, int first_label, int missing)
{
    static uint8_t bytes[4 * RECORD];

    for (int r = 0; r < records; r++) {
        bytes[r * RECORD] = (uint8_t)(first_label + r);
        for (int i = 1; i < RECORD; i++)
            bytes[r * RECORD + i] = (uint8_t)(i * 7 + r + first_label);
    }
    scratch_write(scratch_path(directory, name), bytes, (size_t)(records * RECORD - missing));
}

static void cifar10_reads_the_batches_that_are_there(void **state)
{
    const char *names = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";

    write_batch(*state, "data_batch_1.bin", 2, 0, 0);
    write_batch(*state, "data_batch_4.bin", 3, 5, 0);
    scratch_write(scratch_path(*state, "batches.meta.txt"), names, strlen(names));
    esp_dataset *dataset = open_set(spec_of("cifar10", *state), ESP_SPLIT_TRAIN);
    assert_int_equal(esp_dataset_count(dataset), 5);
    assert_int_equal(esp_dataset_channels(dataset), 3);
    assert_int_equal(esp_dataset_height(dataset), 32);
    assert_int_equal(esp_dataset_width(dataset), 32);
    assert_int_equal(esp_dataset_class_count(dataset), 10);
    assert_string_equal(esp_dataset_note(dataset), "5 train images, 2 of 5 batches");
    assert_string_equal(esp_dataset_class_name(dataset, 9), "truck");
    const int labels[] = {0, 1, 5, 6, 7};
    for (int i = 0; i < 5; i++) {
        int offset = i < 2 ? i : i + 3;
        assert_int_equal(esp_dataset_label(dataset, i), labels[i]);
        for (int p = 0; p < RECORD - 1; p++)
            assert_int_equal(esp_dataset_pixels(dataset, i)[p], (uint8_t)((p + 1) * 7 + offset));
    }
    esp_dataset_unref(dataset);
}

static void cifar10_classes_have_numbers_without_a_name_file(void **state)
{
    write_batch(*state, "test_batch.bin", 1, 3, 0);
    esp_dataset *dataset = open_set(spec_of("cifar10", *state), ESP_SPLIT_TEST);
    assert_string_equal(esp_dataset_class_name(dataset, 3), "class 3");
    assert_string_equal(esp_dataset_note(dataset), "1 test images");
    esp_dataset_unref(dataset);
}

static void cifar10_refuses_damaged_batches(void **state)
{
    write_batch(*state, "test_batch.bin", 2, 0, 10);
    assert_refused(spec_of("cifar10", *state), ESP_SPLIT_TEST, ESP_FORMAT, "6136 bytes", "multiple of 3073");
    write_batch(*state, "test_batch.bin", 0, 0, 0);
    assert_refused(spec_of("cifar10", *state), ESP_SPLIT_TEST, ESP_FORMAT, "0 bytes", "multiple of 3073");
    write_batch(*state, "test_batch.bin", 2, 9, 0);
    assert_refused(spec_of("cifar10", *state), ESP_SPLIT_TEST, ESP_FORMAT, "label 10 of record 1",
                   "expected 0 to 9");
}

static void cifar10_names_the_batches_it_looked_for(void **state)
{
    assert_refused(spec_of("cifar10", *state), ESP_SPLIT_TRAIN, ESP_IO, "no train batch", "data_batch_1.bin");
    assert_refused(spec_of("cifar10", *state), ESP_SPLIT_TEST, ESP_IO, "no test batch", "test_batch.bin");
}

/* ---- specs ---- */

static void an_unknown_scheme_names_the_nearest(void **state)
{
    esp_error err = {0};
    esp_dataset *dataset;

    (void)state;
    assert_int_equal(esp_dataset_open("cifar-10:x", ESP_SPLIT_TEST, &dataset, &err), ESP_INVALID);
    assert_string_equal(err.message, "unknown dataset 'cifar-10', did you mean 'cifar10'?");
    size_t count;
    const esp_dataset_scheme *schemes = esp_dataset_schemes(&count);
    for (size_t i = 0; i < count; i++)
        assert_non_null(strstr(err.hint, schemes[i].name));
}

static void a_spec_must_name_a_directory_that_exists(void **state)
{
    assert_refused("cifar10", ESP_SPLIT_TEST, ESP_INVALID, "'cifar10'", "expected cifar10:DIR");
    assert_refused("idx:", ESP_SPLIT_TEST, ESP_INVALID, "'idx:'", "expected idx:DIR");
    assert_refused("", ESP_SPLIT_TEST, ESP_INVALID, "unknown dataset", "''");
    assert_refused(spec_of("idx", scratch_path(*state, "nowhere")), ESP_SPLIT_TEST, ESP_IO, "nowhere",
                   "not there, expected a directory");
    scratch_write(scratch_path(*state, "plain"), "x", 1);
    assert_refused(spec_of("cifar10", scratch_path(*state, "plain")), ESP_SPLIT_TEST, ESP_IO, "plain",
                   "a file, expected a directory");
}

/* Whichever allocation fails, the answer is an ordinary error and nothing leaks. */
static void opening_survives_every_failed_allocation(void **state)
{
    esp_error err = {0};
    esp_dataset *dataset;
    const char *schemes[] = {"fashion-mnist", "cifar10"};

    write_train_pair(*state);
    write_batch(*state, "data_batch_2.bin", 2, 0, 0);
    scratch_write(scratch_path(*state, "batches.meta.txt"), "one\ntwo\n", 8);
    for (int s = 0; s < 2; s++) {
        const char *spec = spec_of(schemes[s], *state);
        size_t live = esp_memory_live();
        bool is_done = false;

        for (int k = 1; !is_done; k++) {
            esp_memory_fuse(k);
            esp_status status = esp_dataset_open(spec, ESP_SPLIT_TRAIN, &dataset, &err);
            is_done = !esp_memory_fuse_burnt();
            esp_memory_fuse(0);
            /* a set with a part missing would be an answer too, and a wrong one */
            assert_int_equal(status, is_done ? ESP_OK : ESP_NO_MEMORY);
            esp_dataset_unref(dataset);
            assert_int_equal(esp_memory_live(), live);
        }
    }
}

/* ---- the real sets ---- */

static void debian_fashion_mnist_has_the_published_counts(void **state)
{
    (void)state;
    if (!esp_file_is_directory("/usr/share/datasets/fashion-mnist")) {
        print_message("skipped: Debian's dataset-fashion-mnist is not installed\n");
        skip();
    }
    const esp_split splits[] = {ESP_SPLIT_TRAIN, ESP_SPLIT_TEST};
    for (int s = 0; s < 2; s++) {
        esp_dataset *dataset = open_set("fashion-mnist", splits[s]);
        int per_class[10] = {0};

        assert_int_equal(esp_dataset_count(dataset), s == 0 ? 60000 : 10000);
        assert_int_equal(esp_dataset_height(dataset), 28);
        for (int64_t i = 0; i < esp_dataset_count(dataset); i++)
            per_class[esp_dataset_label(dataset, i)]++;
        for (int c = 0; c < 10; c++) /* the set is balanced by construction (Xiao, Rasul and Vollgraf 2017) */
            assert_int_equal(per_class[c], s == 0 ? 6000 : 1000);
        esp_dataset_unref(dataset);
    }
}

static void the_real_cifar10_has_the_published_mean(void **state)
{
    const char *shared = shared_directory();
    const double means[] = {.4914, .4822,
                            .4465}; /* over the training images; the test set's differ by < .01 */

    (void)state;
    if (!shared)
        skip();
    char directory[512];
    snprintf(directory, sizeof directory, "%s/data/cifar10", shared);
    esp_dataset *dataset = open_set(spec_of("cifar10", directory), ESP_SPLIT_TEST);
    assert_int_equal(esp_dataset_count(dataset), 10000);
    double sums[3] = {0};
    for (int64_t i = 0; i < 10000; i++)
        for (int p = 0; p < 3072; p++)
            sums[p / 1024] += esp_dataset_pixels(dataset, i)[p];
    for (int c = 0; c < 3; c++)
        assert_true(fabs(sums[c] / (255. * 1024 * 10000) - means[c]) < .01);
    assert_string_equal(esp_dataset_class_name(dataset, 0), "airplane");
    esp_dataset_unref(dataset);
}

#define IN_DIRECTORY(test) cmocka_unit_test_setup_teardown(test, make_directory, remove_directory)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIRECTORY(idx_reads_plain_files),
        IN_DIRECTORY(idx_reads_gzipped_files),
        IN_DIRECTORY(idx_test_split_reads_the_t10k_files),
        IN_DIRECTORY(idx_names_both_variants_of_a_missing_file),
        IN_DIRECTORY(idx_refuses_a_bad_magic_number),
        IN_DIRECTORY(idx_refuses_truncated_and_overlong_files),
        IN_DIRECTORY(idx_refuses_a_cut_off_gzip_stream),
        IN_DIRECTORY(idx_checks_sizes_before_it_allocates),
        IN_DIRECTORY(idx_refuses_sizes_of_zero),
        IN_DIRECTORY(idx_refuses_counts_that_disagree),
        IN_DIRECTORY(fashion_mnist_refuses_an_eleventh_class),
        IN_DIRECTORY(fashion_mnist_always_has_ten_named_classes),
        IN_DIRECTORY(cifar10_reads_the_batches_that_are_there),
        IN_DIRECTORY(cifar10_classes_have_numbers_without_a_name_file),
        IN_DIRECTORY(cifar10_refuses_damaged_batches),
        IN_DIRECTORY(cifar10_names_the_batches_it_looked_for),
        cmocka_unit_test(an_unknown_scheme_names_the_nearest),
        IN_DIRECTORY(a_spec_must_name_a_directory_that_exists),
        IN_DIRECTORY(opening_survives_every_failed_allocation),
        cmocka_unit_test(debian_fashion_mnist_has_the_published_counts),
        cmocka_unit_test(the_real_cifar10_has_the_published_mean),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
