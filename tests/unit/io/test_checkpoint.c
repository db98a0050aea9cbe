/* Checkpoint files: what is read is what was written, and nothing else is ever read. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "io/checkpoint.h"
#include "unit/train/train_fixtures.h"

static char *directory;

static int make_directory(void **state)
{
    (void)state;
    directory = scratch_make();
    return 0;
}

static int remove_directory(void **state)
{
    (void)state;
    scratch_remove(directory);
    return 0;
}

static esp_train_state sample(int scale)
{
    esp_error err = {0};
    esp_train_state state = {0};
    float weights[300];
    for (int i = 0; i < 300; i++) {
        weights[i] = (float)(i * scale);
    }
    expect_ok(esp_train_state_put(&state, "weights", weights, sizeof(weights), &err), &err);
    expect_ok(esp_train_state_put(&state, "empty", "", 0, &err), &err);
    expect_ok(esp_train_state_put(&state, "identity", "{\"batch\":8}", 11, &err), &err);
    return state;
}

static void expect_same(const esp_train_state *a, const esp_train_state *b)
{
    for (int i = 0; i < a->count; i++) {
        const esp_state_block *other = esp_train_state_find(b, a->blocks[i].name);
        assert_non_null(other);
        assert_int_equal(other->size, a->blocks[i].size);
        assert_memory_equal(other->data, a->blocks[i].data, other->size);
    }
}

static void what_is_read_is_what_was_written(void **state)
{
    (void)state;
    esp_error err = {0};
    char path[512];
    snprintf(path, sizeof(path), "%s", scratch_path(directory, "a.ckpt"));
    esp_train_state written = sample(1), extra = {0}, read = {0};
    expect_ok(esp_train_state_put(&extra, "cli/history", "[]", 2, &err), &err);
    expect_ok(esp_checkpoint_save(path, &written, &extra, &err), &err);
    expect_ok(esp_checkpoint_load(path, &read, &err), &err);
    assert_int_equal(read.count, 4);
    expect_same(&written, &read);
    expect_same(&extra, &read);
    esp_train_state_free(&read);
    /* the same names twice would make one of them unreadable */
    expect_failure(esp_train_state_put(&written, "weights", "x", 1, &err), ESP_INVALID, &err, "twice");
    expect_failure(esp_checkpoint_save(path, &written, &written, &err), ESP_INVALID, &err, "twice");
    expect_ok(esp_checkpoint_load(path, &read, &err), &err);
    assert_int_equal(read.count, 4);
    esp_train_state_free(&read);
    esp_train_state_free(&extra);
    esp_train_state_free(&written);
}

static void every_truncation_and_every_flipped_bit_is_noticed(void **state)
{
    (void)state;
    esp_error err = {0};
    char path[512], broken[512], *data = NULL;
    size_t size = 0;
    snprintf(path, sizeof(path), "%s", scratch_path(directory, "b.ckpt"));
    snprintf(broken, sizeof(broken), "%s", scratch_path(directory, "broken.ckpt"));
    esp_train_state written = sample(3), read = {0};
    expect_ok(esp_checkpoint_save(path, &written, NULL, &err), &err);
    expect_ok(esp_file_read(path, &data, &size, &err), &err);
    FILE *file = fopen(broken, "wb");
    for (size_t length = 0; length < size; length += length < 64 || length + 64 > size ? 1 : 13) {
        rewind(file);
        assert_int_equal(ftruncate(fileno(file), 0), 0);
        assert_int_equal(fwrite(data, 1, length, file), length);
        fflush(file);
        expect_failure(esp_checkpoint_load(broken, &read, &err), ESP_FORMAT, &err, "broken.ckpt: ");
        assert_int_equal(read.count, 0);
    }
    for (size_t at = 0; at < size; at += at < 100 || at + 24 > size ? 1 : 17) {
        data[at] = (char)(data[at] ^ (1 << at % 8));
        rewind(file);
        assert_int_equal(fwrite(data, 1, size, file), size);
        fflush(file);
        data[at] = (char)(data[at] ^ (1 << at % 8));
        esp_status status = esp_checkpoint_load(broken, &read, &err);
        assert_true(status == ESP_FORMAT || status == ESP_UNSUPPORTED);
        assert_int_equal(read.count, 0);
    }
    rewind(file);
    fwrite(data, 1, size, file);
    fwrite(data, 1, 3, file);
    fflush(file);
    expect_failure(esp_checkpoint_load(broken, &read, &err), ESP_FORMAT, &err, "3 bytes after its end");
    fclose(file);
    esp_free(data);
    esp_train_state_free(&written);
}

static void other_files_are_named(void **state)
{
    (void)state;
    esp_error err = {0};
    char path[512];
    esp_train_state read = {0};
    snprintf(path, sizeof(path), "%s", scratch_path(directory, "c.txt"));
    expect_ok(esp_file_write(path, "hello there, no checkpoint", 26, &err), &err);
    expect_failure(esp_checkpoint_load(path, &read, &err), ESP_FORMAT, &err, "c.txt: no checkpoint");
    expect_failure(esp_checkpoint_load("no/such.ckpt", &read, &err), ESP_IO, &err, "no/such.ckpt");
}

static void full_disk_leaves_the_old_checkpoint(void **state)
{
    (void)state;
    esp_error err = {0};
    char path[512];
    snprintf(path, sizeof(path), "%s", scratch_path(directory, "d.ckpt"));
    esp_train_state old = sample(1), later = sample(2), read = {0};
    expect_ok(esp_checkpoint_save(path, &old, NULL, &err), &err);
    /* a limit on the size of files is what a full disk looks like to one process */
    struct rlimit before, limit;
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = 600;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    esp_status status = esp_checkpoint_save(path, &later, NULL, &err);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, handler);
    expect_failure(status, ESP_IO, &err, "d.ckpt");
    expect_ok(esp_checkpoint_load(path, &read, &err), &err);
    expect_same(&old, &read);
    esp_train_state_free(&read);
    expect_ok(esp_checkpoint_save(path, &later, NULL, &err), &err);
    expect_ok(esp_checkpoint_load(path, &read, &err), &err);
    expect_same(&later, &read);
    esp_train_state_free(&read);
    esp_train_state_free(&old);
    esp_train_state_free(&later);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_read_is_what_was_written),
        cmocka_unit_test(every_truncation_and_every_flipped_bit_is_noticed),
        cmocka_unit_test(other_files_are_named),
        cmocka_unit_test(full_disk_leaves_the_old_checkpoint),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
