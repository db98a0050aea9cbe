/* CIFAR-10 and CIFAR-100, binary versions (Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html): records
 * of one label byte, or of two (coarse, fine: the fine one counts), and 3072 pixel bytes, the red, green and
 * blue planes of 32x32 in that order. CIFAR-10's training images come in five batch files; those that are
 * there are read, and the dataset's note says how many. A text file names the classes, one a line. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "io/dataset_internal.h"

enum { CHANNELS = 3, SIDE = 32, IMAGE_BYTES = CHANNELS * SIDE * SIDE };

#define META_LIMIT  ((size_t)1 << 20)
#define BATCHES_MAX 5

typedef struct cifar_format {
    int classes, label_bytes; /* the last label byte counts */
    const char *train_files[BATCHES_MAX + 1], *test_files[2], *names_file;
} cifar_format;

static const cifar_format cifar10 = {
    .classes = 10,
    .label_bytes = 1,
    .train_files = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
                    "data_batch_5.bin"},
    .test_files = {"test_batch.bin"},
    .names_file = "batches.meta.txt",
};

static const cifar_format cifar100 = {
    .classes = 100,
    .label_bytes = 2,
    .train_files = {"train.bin"},
    .test_files = {"test.bin"},
    .names_file = "fine_label_names.txt",
};

static size_t record_bytes(const cifar_format *format)
{
    return (size_t)format->label_bytes + IMAGE_BYTES;
}

static int record_label(const cifar_format *format, const char *record)
{
    return (uint8_t)record[format->label_bytes - 1];
}

/* The batch files that are there, in memory. */
typedef struct batches {
    const cifar_format *format;
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

static esp_status check_batch(const cifar_format *format, const char *path, const char *data, size_t size,
                              esp_error *err)
{
    size_t record = record_bytes(format);

    if (size == 0 || size % record != 0)
        return esp_fail(err, ESP_FORMAT, "%s: %zu bytes, expected a multiple of %zu (one record); truncated?",
                        path, size, record);
    for (size_t i = 0; i < size / record; i++) {
        int label = record_label(format, data + i * record);

        if (label >= format->classes)
            return esp_fail(err, ESP_FORMAT, "%s: label %d of record %zu, expected 0 to %d", path, label, i,
                            format->classes - 1);
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
        status = check_batch(set->format, path, data, size, err);
    set->items[set->count].path = path;
    set->items[set->count].data = data;
    set->items[set->count].records = (int64_t)(size / record_bytes(set->format));
    set->count++;
    return status;
}

static esp_status read_batches(const esp_dataset_request *request, batches *set, esp_error *err)
{
    bool is_train = request->split == ESP_SPLIT_TRAIN;
    const char *const *names = is_train ? set->format->train_files : set->format->test_files;
    esp_status status = ESP_OK;

    while (set->wanted < BATCHES_MAX && names[set->wanted])
        set->wanted++;
    for (int i = 0; i < set->wanted && status == ESP_OK; i++)
        status = read_batch(request->directory, names[i], set, err);
    if (status == ESP_OK && set->count == 0)
        return esp_fail(err, ESP_IO, "%s has no %s batch, expected %s%s (.gz or not)", request->directory,
                        esp_split_name(request->split), names[0],
                        set->wanted > 1 ? " to data_batch_5.bin" : "");
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
    size_t size = record_bytes(set->format);

    for (int i = 0; i < set->count; i++)
        for (int64_t r = 0; r < set->items[i].records; r++, image++) {
            const char *record = set->items[i].data + (size_t)r * size;

            esp_dataset_set_label(dataset, image, record_label(set->format, record));
            memcpy(esp_dataset_pixels_mut(dataset, image), record + set->format->label_bytes, IMAGE_BYTES);
        }
}

/* Class names are a courtesy: without the file, classes have numbers. */
static esp_status name_classes(const char *directory, const cifar_format *format, esp_dataset *dataset,
                               esp_error *err)
{
    char *path = esp_path_join(directory, format->names_file), *text = NULL;
    size_t size;
    esp_status status = ESP_OK;

    if (!path)
        return esp_fail_memory(err, format->names_file, strlen(directory));
    if (esp_file_exists(path))
        status = esp_file_read_gz(path, META_LIMIT, &text, &size, err);
    char *line = text;
    for (int label = 0; line && *line && label < format->classes && status == ESP_OK; label++) {
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
        snprintf(note, sizeof note, "%" PRId64 " %s images", count, esp_split_name(request->split));
    esp_status status =
        esp_dataset_new(request->spec, note, count, CHANNELS, SIDE, SIDE, set->format->classes, out, err);
    if (status != ESP_OK)
        return status;
    copy_records(set, *out);
    return name_classes(request->directory, set->format, *out, err);
}

static esp_status cifar_open(const esp_dataset_request *request, const cifar_format *format,
                             esp_dataset **out, esp_error *err)
{
    batches set = {.format = format};
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

esp_status esp_cifar10_open(const esp_dataset_request *request, esp_dataset **out, esp_error *err)
{
    return cifar_open(request, &cifar10, out, err);
}

esp_status esp_cifar100_open(const esp_dataset_request *request, esp_dataset **out, esp_error *err)
{
    return cifar_open(request, &cifar100, out, err);
}
