/* The dataset container: all pixels as bytes in one block [count, channels, height, width], or a source to
 * read them from (data_lazy.c), labels beside them. A reader fills it and hands it out; from then on it is
 * immutable and shared by reference count between threads. Parts of a set (data_parts.c) share its images. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "train/data_internal.h"

/* More classes than any image set has; keeps arithmetic on class counts far from overflow. */
#define ESP_MAX_CLASSES 1000000

const char *esp_split_name(esp_split split)
{
    static const char *const names[] = {"train", "test", "validation"};
    return names[split];
}

/* ---- life ---- */

esp_status esp_dataset_check_sizes(const char *name, int64_t count, int channels, int height, int width,
                                   int class_count, esp_error *err)
{
    /* Batches index images by uint32_t. */
    if (count < 1 || count > UINT32_MAX) {
        return esp_fail(err, ESP_INVALID, "dataset '%s': %" PRId64 " images, expected 1 to %" PRIu32, name,
                        count, UINT32_MAX);
    }
    if (channels < 1 || channels > ESP_MAX_IMAGE_CHANNELS) {
        return esp_fail(err, ESP_INVALID, "dataset '%s': %d channels, expected 1 to %d", name, channels,
                        ESP_MAX_IMAGE_CHANNELS);
    }
    if (height < 1 || width < 1) {
        return esp_fail(err, ESP_INVALID, "dataset '%s': images of %dx%d pixels, expected at least 1x1", name,
                        height, width);
    }
    if (class_count < 1 || class_count > ESP_MAX_CLASSES) {
        return esp_fail(err, ESP_INVALID, "dataset '%s': %d classes, expected 1 to %d", name, class_count,
                        ESP_MAX_CLASSES);
    }
    return ESP_OK;
}

esp_status esp_dataset_name_classes(esp_dataset *dataset, esp_error *err)
{
    dataset->class_names = esp_alloc_zero((size_t)dataset->class_count, sizeof(*dataset->class_names));
    for (int i = 0; dataset->class_names != NULL && i < dataset->class_count; i++) {
        char text[32];
        snprintf(text, sizeof(text), "class %d", i);
        dataset->class_names[i] = esp_strdup(text);
        if (dataset->class_names[i] == NULL) {
            return esp_fail_memory(err, "class names", sizeof(text));
        }
    }
    return dataset->class_names != NULL
               ? ESP_OK
               : esp_fail_memory(err, "class names",
                                 (size_t)dataset->class_count * sizeof(*dataset->class_names));
}

esp_status esp_dataset_make(const char *name, const char *note, int64_t count, int channels, int height,
                            int width, int class_count, esp_dataset **out, esp_error *err)
{
    *out = NULL;
    size_t values = 0;
    bool is_too_big = __builtin_mul_overflow((size_t)height, (size_t)width, &values) ||
                      __builtin_mul_overflow(values, (size_t)channels, &values) ||
                      values > (size_t)INT64_MAX / (size_t)count;
    if (is_too_big) { /* before gigabytes of labels are asked for */
        return esp_fail_memory(err, "the images of a dataset", SIZE_MAX);
    }
    esp_dataset *dataset = esp_alloc_zero(1, sizeof(*dataset));
    if (dataset == NULL) {
        return esp_fail_memory(err, "a dataset", sizeof(*dataset));
    }
    atomic_init(&dataset->references, 1);
    atomic_init(&dataset->cached, 0);
    dataset->count = count;
    dataset->channels = channels;
    dataset->height = height;
    dataset->width = width;
    dataset->class_count = class_count;
    dataset->image_values = (int64_t)values;
    dataset->labels = esp_alloc_zero((size_t)count, sizeof(*dataset->labels));
    dataset->name = esp_strdup(name);
    dataset->note = esp_strdup(note == NULL ? "" : note);
    if (dataset->labels == NULL || dataset->name == NULL || dataset->note == NULL) {
        esp_dataset_unref(dataset);
        return esp_fail_memory(err, "the images of a dataset", (size_t)count * values);
    }
    *out = dataset;
    return ESP_OK;
}

esp_status esp_dataset_new(const char *name, const char *note, int64_t count, int channels, int height,
                           int width, int class_count, esp_dataset **out, esp_error *err)
{
    *out = NULL;
    esp_dataset *dataset = NULL;
    esp_status status = esp_dataset_check_sizes(name, count, channels, height, width, class_count, err);
    if (status == ESP_OK) {
        status = esp_dataset_make(name, note, count, channels, height, width, class_count, &dataset, err);
    }
    if (status == ESP_OK) {
        status = esp_dataset_name_classes(dataset, err);
    }
    if (status == ESP_OK) {
        dataset->pixels = esp_alloc_zero((size_t)count, (size_t)dataset->image_values);
        if (dataset->pixels == NULL) {
            status = esp_fail_memory(err, "the images of a dataset",
                                     (size_t)count * (size_t)dataset->image_values);
        }
    }
    if (status != ESP_OK) {
        esp_dataset_unref(dataset);
        return status;
    }
    *out = dataset;
    return ESP_OK;
}

esp_dataset *esp_dataset_ref(const esp_dataset *dataset)
{
    esp_dataset *shared = (esp_dataset *)dataset; /* only the count changes */
    if (shared != NULL) {
        atomic_fetch_add_explicit(&shared->references, 1, memory_order_relaxed);
    }
    return shared;
}

void esp_dataset_unref(esp_dataset *dataset)
{
    if (dataset == NULL || atomic_fetch_sub_explicit(&dataset->references, 1, memory_order_acq_rel) > 1) {
        return;
    }
    for (int i = 0; dataset->class_names != NULL && i < dataset->class_count; i++) {
        esp_free(dataset->class_names[i]);
    }
    esp_free(dataset->class_names);
    esp_dataset_free_cache(dataset);
    esp_lazy_source_unref(dataset->source);
    esp_dataset_unref(dataset->root);
    esp_free(dataset->picks);
    esp_free(dataset->labels);
    esp_free(dataset->pixels);
    esp_free(dataset->note);
    esp_free(dataset->name);
    esp_free(dataset);
}

const esp_dataset *esp_dataset_root(const esp_dataset *dataset)
{
    return dataset->root != NULL ? dataset->root : dataset;
}

/* ---- filling ---- */

uint8_t *esp_dataset_pixels_mut(esp_dataset *dataset, int64_t index)
{
    assert(index >= 0 && index < dataset->count && dataset->pixels != NULL);
    return dataset->pixels + index * dataset->image_values;
}

void esp_dataset_set_label(esp_dataset *dataset, int64_t index, int label)
{
    assert(index >= 0 && index < dataset->count && label >= 0 && label < dataset->class_count);
    dataset->labels[index] = label;
}

esp_status esp_dataset_set_class_name(esp_dataset *dataset, int label, const char *name, esp_error *err)
{
    if (label < 0 || label >= dataset->class_count) {
        return esp_fail(err, ESP_INVALID, "dataset '%s': name for class %d, expected 0 to %d", dataset->name,
                        label, dataset->class_count - 1);
    }
    char *copy = esp_strdup(name);
    if (copy == NULL) {
        return esp_fail_memory(err, "a class name", strlen(name) + 1);
    }
    esp_free(dataset->class_names[label]);
    dataset->class_names[label] = copy;
    return ESP_OK;
}

/* ---- reading ---- */

const char *esp_dataset_name(const esp_dataset *dataset)
{
    return dataset->name;
}
const char *esp_dataset_note(const esp_dataset *dataset)
{
    return dataset->note;
}
int64_t esp_dataset_count(const esp_dataset *dataset)
{
    return dataset->count;
}
int esp_dataset_channels(const esp_dataset *dataset)
{
    return dataset->channels;
}
int esp_dataset_height(const esp_dataset *dataset)
{
    return dataset->height;
}
int esp_dataset_width(const esp_dataset *dataset)
{
    return dataset->width;
}
int esp_dataset_class_count(const esp_dataset *dataset)
{
    return dataset->class_count;
}

const char *esp_dataset_class_name(const esp_dataset *dataset, int label)
{
    assert(label >= 0 && label < dataset->class_count);
    return esp_dataset_root(dataset)->class_names[label];
}

const uint8_t *esp_dataset_pixels(const esp_dataset *dataset, int64_t index)
{
    assert(index >= 0 && index < dataset->count);
    const esp_dataset *root = esp_dataset_root(dataset);
    int64_t image = dataset->picks != NULL ? dataset->picks[index] : index;
    return root->pixels == NULL ? NULL : root->pixels + image * root->image_values;
}

int esp_dataset_label(const esp_dataset *dataset, int64_t index)
{
    assert(index >= 0 && index < dataset->count);
    return dataset->labels[index];
}

bool esp_dataset_is_lazy(const esp_dataset *dataset)
{
    return esp_dataset_root(dataset)->source != NULL;
}

bool esp_dataset_is_float(const esp_dataset *dataset)
{
    const esp_dataset *root = esp_dataset_root(dataset);
    return root->source != NULL && root->source->is_float;
}

const esp_transform *esp_dataset_transform(const esp_dataset *dataset)
{
    const esp_dataset *root = esp_dataset_root(dataset);
    return root->source != NULL ? &root->transform : NULL;
}
