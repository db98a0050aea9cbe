/* Reading, plain and gzip; writing that leaves the old file or the new one; paths; the program's data files.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/paths.h"
#include "unit/base/scratch.h"

static int make_directory(void **state)
{
    *state = scratch_make();
    return 0;
}

static int remove_directory(void **state)
{
    scratch_remove(*state);
    return 0;
}

static void expect_content(const char *path, const char *expected)
{
    char *data = scratch_read(path, NULL);

    assert_string_equal(data, expected);
    free(data);
}

static void a_whole_file_is_read_and_ends_with_zero(void **state)
{
    const char *path = scratch_path(*state, "data");
    char *data;
    size_t size;

    for (size_t length = 0; length < 200000; length = length * 3 + 1) {
        char *written = malloc(length + 1);
        memset(written, 'x', length);
        scratch_write(path, written, length);
        assert_int_equal(esp_file_read(path, &data, &size, NULL), ESP_OK);
        assert_int_equal(size, length);
        assert_memory_equal(data, written, length);
        assert_int_equal(data[size], 0);
        esp_free(data);
        free(written);
    }
    /* A file whose size the system does not tell in advance. */
    assert_int_equal(esp_file_read("/proc/self/status", &data, &size, NULL), ESP_OK);
    assert_true(size > 0);
    esp_free(data);
}

static void reading_what_is_no_file_says_why(void **state)
{
    esp_error err = {0};
    char *data = (char *)1;
    size_t size;

    assert_int_equal(esp_file_read(scratch_path(*state, "none"), &data, &size, &err), ESP_IO);
    assert_non_null(strstr(err.message, "No such file"));
    assert_non_null(strstr(err.message, "/none"));
    assert_null(data);
    assert_int_equal(esp_file_read(*state, &data, &size, &err), ESP_IO);
    assert_non_null(strstr(err.message, "directory"));
    assert_int_equal(esp_file_read_gz(*state, 100, &data, &size, &err), ESP_IO);
    assert_int_equal(esp_file_read_gz(scratch_path(*state, "none"), 100, &data, &size, &err), ESP_IO);
}

enum { GZ_SIZE = 300000 };

static void write_gz(const char *path, const char *data, unsigned size)
{
    gzFile file = gzopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(gzwrite(file, data, size), (int)size);
    assert_int_equal(gzclose(file), Z_OK);
}

static char *noise(void)
{
    char *data = malloc(GZ_SIZE);
    uint32_t word = 1;

    assert_non_null(data);
    for (int i = 0; i < GZ_SIZE; i++) {
        word = word * 1664525u + 1013904223u;
        data[i] = (char)(word >> 24);
    }
    return data;
}

static void gzip_and_plain_files_read_alike(void **state)
{
    const char *packed = scratch_path(*state, "a.gz"), *plain = scratch_path(*state, "a");
    char *data, *written = noise();
    size_t size;

    write_gz(packed, written, GZ_SIZE);
    scratch_write(plain, written, GZ_SIZE);
    assert_int_equal(esp_file_read_gz(packed, GZ_SIZE, &data, &size, NULL), ESP_OK);
    assert_int_equal(size, GZ_SIZE);
    assert_memory_equal(data, written, GZ_SIZE);
    esp_free(data);
    assert_int_equal(esp_file_read_gz(plain, GZ_SIZE, &data, &size, NULL), ESP_OK);
    assert_int_equal(size, GZ_SIZE);
    assert_memory_equal(data, written, GZ_SIZE);
    assert_int_equal(data[size], 0);
    esp_free(data);
    free(written);
}

static void a_damaged_truncated_or_huge_gzip_file_is_refused(void **state)
{
    const char *path = scratch_path(*state, "a.gz");
    char *packed, *data = NULL, *written = noise();
    esp_error err = {0};
    size_t size, packed_size;

    write_gz(path, written, GZ_SIZE);
    assert_int_equal(esp_file_read_gz(path, GZ_SIZE - 1, &data, &size, &err), ESP_FORMAT);
    assert_non_null(strstr(err.message, "299999"));
    packed = scratch_read(path, &packed_size);
    for (size_t cut = 20; cut < packed_size; cut += packed_size / 7) {
        scratch_write(path, packed, packed_size - cut);
        assert_int_equal(esp_file_read_gz(path, GZ_SIZE, &data, &size, &err), ESP_FORMAT);
        assert_null(data);
    }
    scratch_write(path, packed, packed_size - 1);
    assert_int_equal(esp_file_read_gz(path, GZ_SIZE, &data, &size, &err), ESP_FORMAT);
    packed[packed_size / 2] ^= 0x55;
    scratch_write(path, packed, packed_size);
    assert_int_equal(esp_file_read_gz(path, GZ_SIZE, &data, &size, &err), ESP_FORMAT);
    assert_non_null(strstr(err.message, "a.gz"));
    free(packed);
    free(written);
}

static void a_committed_file_replaces_the_old_one_and_leaves_nothing_else(void **state)
{
    const char *path = scratch_path(*state, "model.onnx");
    esp_file_writer *writer;
    struct stat info;

    scratch_write(path, "old", 3);
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(esp_file_writer_open(path, &writer, NULL), ESP_OK);
    fputs("new content", esp_file_writer_stream(writer));
    expect_content(path, "old");
    assert_int_equal(esp_file_writer_commit(writer, NULL), ESP_OK);
    expect_content(path, "new content");
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0640);
    assert_int_equal(scratch_count(*state), 1);
}

static void a_discarded_file_leaves_the_old_one(void **state)
{
    const char *path = scratch_path(*state, "model.onnx");
    esp_file_writer *writer;

    scratch_write(path, "old", 3);
    assert_int_equal(esp_file_writer_open(path, &writer, NULL), ESP_OK);
    fputs("half of it", esp_file_writer_stream(writer));
    esp_file_writer_discard(writer);
    esp_file_writer_discard(NULL);
    expect_content(path, "old");
    assert_int_equal(scratch_count(*state), 1);
}

static void a_write_that_failed_leaves_the_old_file(void **state)
{
    const char *path = scratch_path(*state, "model.onnx");
    esp_file_writer *writer;
    esp_error err = {0};
    int full;

    scratch_write(path, "old", 3);
    assert_int_equal(esp_file_writer_open(path, &writer, NULL), ESP_OK);
    /* The disk runs full: from here on the stream writes to a device that always is. */
    full = open("/dev/full", O_WRONLY);
    assert_true(full >= 0);
    assert_true(dup2(full, fileno(esp_file_writer_stream(writer))) >= 0);
    close(full);
    for (int i = 0; i < 10000; i++)
        fputs("more than any buffer", esp_file_writer_stream(writer));
    assert_int_equal(esp_file_writer_commit(writer, &err), ESP_IO);
    assert_non_null(strstr(err.message, "disk full"));
    assert_non_null(strstr(err.message, "model.onnx"));
    expect_content(path, "old");
    assert_int_equal(scratch_count(*state), 1);
}

static void a_rename_that_fails_leaves_no_temporary_file(void **state)
{
    const char *path = scratch_path(*state, "model.onnx");
    esp_file_writer *writer;
    esp_error err = {0};

    assert_int_equal(esp_file_writer_open(path, &writer, NULL), ESP_OK);
    assert_int_equal(mkdir(path, 0777), 0); /* somebody was quicker */
    assert_int_equal(esp_file_writer_commit(writer, &err), ESP_IO);
    assert_int_equal(scratch_count(*state), 1);
}

static void writing_where_no_file_can_be_fails_at_once(void **state)
{
    const char *const paths[] = {
        scratch_path(*state, "none/model.onnx"),
        scratch_path(*state, "file/model.onnx"),
        scratch_path(*state, "directory"),
        scratch_path(*state, "directory/"),
        scratch_path(*state, "pipe"),
        "",
    };
    struct stat info;

    scratch_write(scratch_path(*state, "file"), "x", 1);
    assert_int_equal(mkdir(scratch_path(*state, "directory"), 0777), 0);
    assert_int_equal(mkfifo(scratch_path(*state, "pipe"), 0666), 0);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        esp_error err = {0};
        esp_file_writer *writer = (esp_file_writer *)1;

        assert_int_equal(esp_file_writer_open(paths[i], &writer, &err), ESP_IO);
        assert_null(writer);
        assert_non_null(strstr(err.message, paths[i]));
    }
    assert_int_equal(scratch_count(*state), 3);
    /* What a rename would have destroyed. A pipe stands for devices too: those of the machine are not to be
     * risked. */
    assert_int_equal(lstat(scratch_path(*state, "pipe"), &info), 0);
    assert_true(S_ISFIFO(info.st_mode));
}

static void a_link_stays_a_link(void **state)
{
    const char *target = scratch_path(*state, "target"), *link = scratch_path(*state, "link");
    struct stat info;

    scratch_write(target, "old", 3);
    assert_int_equal(symlink(target, link), 0);
    assert_int_equal(esp_file_write(link, "new", 3, NULL), ESP_OK);
    assert_int_equal(lstat(link, &info), 0);
    assert_true(S_ISLNK(info.st_mode));
    expect_content(target, "new");
}

static void a_name_of_the_greatest_length_can_be_written(void **state)
{
    char name[256];

    memset(name, 'n', 255);
    name[255] = '\0';
    assert_int_equal(esp_file_write(scratch_path(*state, name), "x", 1, NULL), ESP_OK);
    expect_content(scratch_path(*state, name), "x");
}

static void writing_survives_every_allocation_failure(void **state)
{
    size_t before = esp_memory_live();
    const char *path = scratch_path(*state, "model.onnx");
    bool is_done = false;

    scratch_write(path, "old", 3);
    for (int k = 1; !is_done; k++) {
        esp_status status;

        esp_memory_fuse(k);
        status = esp_file_write(path, "new", 3, NULL);
        is_done = !esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        if (status != ESP_OK)
            expect_content(path, "old");
        assert_int_equal(scratch_count(*state), 1);
        assert_int_equal(esp_memory_live(), before);
    }
    expect_content(path, "new");
}

static void directories_are_made_with_their_parents(void **state)
{
    esp_error err = {0};

    assert_int_equal(esp_directory_make(scratch_path(*state, "a/b//c/"), NULL), ESP_OK);
    assert_true(esp_file_is_directory(scratch_path(*state, "a/b/c")));
    assert_int_equal(esp_directory_make(scratch_path(*state, "a/b"), NULL), ESP_OK);
    scratch_write(scratch_path(*state, "file"), "x", 1);
    assert_int_equal(esp_directory_make(scratch_path(*state, "file/below"), &err), ESP_IO);
    assert_int_equal(esp_directory_make(scratch_path(*state, "file"), &err), ESP_IO);
    assert_int_equal(esp_directory_make("", &err), ESP_IO);
    assert_true(esp_file_exists(scratch_path(*state, "file")));
    assert_false(esp_file_is_directory(scratch_path(*state, "file")));
    assert_false(esp_file_exists(scratch_path(*state, "none")));
}

static void paths_join_and_come_apart(void **state)
{
    static const char *const cases[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"/", "b", "/b"}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *joined = esp_path_join(cases[i][0], cases[i][1]);
        assert_string_equal(joined, cases[i][2]);
        esp_free(joined);
    }
    assert_string_equal(esp_path_base("a/b/c.onnx"), "c.onnx");
    assert_string_equal(esp_path_base("c.onnx"), "c.onnx");
    assert_string_equal(esp_path_base("a/"), "");
    static const char *const directories[][2] = {
        {"a/b/c.onnx", "a/b"}, {"a/", "a"}, {"c.onnx", "."}, {"/c.onnx", "/"}};
    for (size_t i = 0; i < sizeof directories / sizeof *directories; i++) {
        char *directory = esp_path_directory(directories[i][0]);
        assert_string_equal(directory, directories[i][1]);
        esp_free(directory);
    }
}

static void data_files_are_found_in_the_named_directory_first(void **state)
{
    char *path;
    esp_error err = {0};

    unsetenv("ESPALIER_DATA_DIR");
    assert_int_equal(esp_data_path("CMakeLists.txt", &path, NULL), ESP_OK);
    assert_string_equal(path, ESP_SOURCE_DIR "/CMakeLists.txt");
    esp_free(path);

    scratch_write(scratch_path(*state, "CMakeLists.txt"), "x", 1);
    setenv("ESPALIER_DATA_DIR", *state, 1);
    assert_int_equal(esp_data_path("CMakeLists.txt", &path, NULL), ESP_OK);
    assert_string_equal(path, scratch_path(*state, "CMakeLists.txt"));
    esp_free(path);

    assert_int_equal(esp_data_path("no/such/file", &path, &err), ESP_IO);
    assert_null(path);
    assert_non_null(strstr(err.message, *state));
    assert_non_null(strstr(err.message, ESP_SOURCE_DIR));
    unsetenv("ESPALIER_DATA_DIR");
}

#define IN_DIRECTORY(test) cmocka_unit_test_setup_teardown(test, make_directory, remove_directory)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIRECTORY(a_whole_file_is_read_and_ends_with_zero),
        IN_DIRECTORY(reading_what_is_no_file_says_why),
        IN_DIRECTORY(gzip_and_plain_files_read_alike),
        IN_DIRECTORY(a_damaged_truncated_or_huge_gzip_file_is_refused),
        IN_DIRECTORY(a_committed_file_replaces_the_old_one_and_leaves_nothing_else),
        IN_DIRECTORY(a_discarded_file_leaves_the_old_one),
        IN_DIRECTORY(a_write_that_failed_leaves_the_old_file),
        IN_DIRECTORY(a_rename_that_fails_leaves_no_temporary_file),
        IN_DIRECTORY(writing_where_no_file_can_be_fails_at_once),
        IN_DIRECTORY(a_link_stays_a_link),
        IN_DIRECTORY(a_name_of_the_greatest_length_can_be_written),
        IN_DIRECTORY(writing_survives_every_allocation_failure),
        IN_DIRECTORY(directories_are_made_with_their_parents),
        IN_DIRECTORY(paths_join_and_come_apart),
        IN_DIRECTORY(data_files_are_found_in_the_named_directory_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
