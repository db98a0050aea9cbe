/* CIFAR-10, binary version (Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html): records of one label
 * byte and 3072 pixel bytes, the red, green and blue planes of 32x32 in that order. Training images come in
 * five batch files; those that are there are read, and the dataset's note says how many. batches.meta.txt
 * names the classes, one a line. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "io/dataset_internal.h"

enum {
    CHANNELS = 3,
    SIDE = 32,
    CLASSES = 10,
    IMAGE_BYTES = CHANNELS * SIDE * SIDE,
    RECORD_BYTES = 1 + IMAGE_BYTES
};

#define META_LIMIT ((size_t)1 << 20)

static const char *const train_files[] = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                                          "data_batch_4.bin", "data_batch_5.bin"};
static const char *const test_files[] = {"test_batch.bin"};

enum { BATCHES_MAX = sizeof train_files / sizeof train_files[0] };

/* The batch files that are there, in memory. */
typedef struct batches {
    int wanted, count;
    struct {
        char *path, *data;
        int64_t records;
    } items[BATCHES_MAX];
} batches;

static void batches_free(batches *set)
{
    for (int i = 0; i < set->count; i++) {
        esp_free(set->items[i].path);
        esp_free(set->items[i].data);
    }
}

static esp_status check_batch(const char *path, const char *data, size_t size, esp_error *err)
{
    if (size == 0 || size % RECORD_BYTES != 0)
        return esp_fail(err, ESP_FORMAT, "%s: %zu bytes, expected a multiple of %d (one record); truncated?",
                        path, size, RECORD_BYTES);
    for (size_t i = 0; i < size / RECORD_BYTES; i++) {
        uint8_t label = (uint8_t)data[i * RECORD_BYTES];

        if (label >= CLASSES)
            return esp_fail(err, ESP_FORMAT, "%s: label %d of record %zu, expected 0 to %d", path, label, i,
                            CLASSES - 1);
    }
    return ESP_OK;
}

/* One batch file more in the set, when it is there. */
static esp_status read_batch(const char *directory, const char *name, batches *set, esp_error *err)
{
    char *path, *data;
    size_t size = 0;
    esp_status status = esp_dataset_file_find(directory, name, &path, err);

    if (status != ESP_OK || !path)
        return status;
    status = esp_file_read_gz(path, ESP_DATASET_FILE_LIMIT, &data, &size, err);
    if (status == ESP_OK)
        status = check_batch(path, data, size, err);
    set->items[set->count].path = path;
    set->items[set->count].data = data;
    set->items[set->count].records = (int64_t)(size / RECORD_BYTES);
    set->count++;
    return status;
}

static esp_status read_batches(const esp_dataset_request *request, batches *set, esp_error *err)
{
    bool is_train = request->split == ESP_SPLIT_TRAIN;
    const char *const *names = is_train ? train_files : test_files;
    esp_status status = ESP_OK;

    set->wanted = is_train ? BATCHES_MAX : 1;
    for (int i = 0; i < set->wanted && status == ESP_OK; i++)
        status = read_batch(request->directory, names[i], set, err);
    if (status == ESP_OK && set->count == 0)
        return esp_fail(err, ESP_IO, "%s has no %s batch, expected %s%s (.gz or not)", request->directory,
                        esp_split_name(request->split), names[0], is_train ? " to data_batch_5.bin" : "");
    return status;
}

static int64_t count_records(const batches *set)
{
    int64_t total = 0;

    for (int i = 0; i < set->count; i++)
        total += set->items[i].records;
    return total;
}

static void copy_records(const batches *set, esp_dataset *dataset)
{
    int64_t image = 0;

    for (int i = 0; i < set->count; i++)
        for (int64_t r = 0; r < set->items[i].records; r++, image++) {
            const char *record = set->items[i].data + r * RECORD_BYTES;

            esp_dataset_set_label(dataset, image, (uint8_t)record[0]);
            memcpy(esp_dataset_pixels_mut(dataset, image), record + 1, IMAGE_BYTES);
        }
}

/* Class names are a courtesy: without the file, classes have numbers. */
static esp_status name_classes(const char *directory, esp_dataset *dataset, esp_error *err)
{
    char *path = esp_path_join(directory, "batches.meta.txt"), *text = NULL;
    size_t size;
    esp_status status = ESP_OK;

    if (!path)
        return esp_fail_memory(err, "batches.meta.txt", strlen(directory));
    if (esp_file_exists(path))
        status = esp_file_read_gz(path, META_LIMIT, &text, &size, err);
    char *line = text;
    for (int label = 0; line && *line && label < CLASSES && status == ESP_OK; label++) {
        size_t length = strcspn(line, "\r\n");
        char *next = line + length + strspn(line + length, "\r\n");

        line[length] = '\0';
        status = esp_dataset_set_class_name(dataset, label, line, err);
        line = next;
    }
    esp_free(text);
    esp_free(path);
    return status;
}

static esp_status make_dataset(const esp_dataset_request *request, const batches *set, esp_dataset **out,
                               esp_error *err)
{
    char note[96];
    int64_t count = count_records(set);

    if (set->wanted > 1)
        snprintf(note, sizeof note, "%" PRId64 " train images, %d of %d batches", count, set->count,
                 set->wanted);
    else
        snprintf(note, sizeof note, "%" PRId64 " test images", count);
    esp_status status = esp_dataset_new(request->spec, note, count, CHANNELS, SIDE, SIDE, CLASSES, out, err);
    if (status != ESP_OK)
        return status;
    copy_records(set, *out);
    return name_classes(request->directory, *out, err);
}

esp_status esp_cifar10_open(const esp_dataset_request *request, esp_dataset **out, esp_error *err)
{
    batches set = {0};
    esp_status status = read_batches(request, &set, err);

    *out = NULL;
    if (status == ESP_OK)
        status = make_dataset(request, &set, out, err);
    if (status != ESP_OK) {
        esp_dataset_unref(*out);
        *out = NULL;
    }
    batches_free(&set);
    return status;
}
