/* The dataset container: all pixels as bytes in one block [count, channels, height, width], labels beside
 * them. A reader fills it and hands it out; from then on it is immutable and shared by reference count
 * between threads. */
#include "train/data.h"

#include <assert.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "graph/infer.h"

/* More classes than any image set has; keeps arithmetic on class counts far from overflow. */
#define ESP_MAX_CLASSES 1000000

struct esp_dataset {
    atomic_int references;
    char *name, *note;
    int64_t count, image_bytes;
    int channels, height, width, class_count;
    uint8_t *pixels;
    int32_t *labels;
    char **class_names; /* class_count entries, each set */
};

/* ---- life ---- */

static esp_status check_sizes(const char *name, int64_t count, int channels, int height, int width,
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

static bool name_classes(esp_dataset *dataset)
{
    for (int i = 0; i < dataset->class_count; i++) {
        char text[32];
        snprintf(text, sizeof(text), "class %d", i);
        dataset->class_names[i] = esp_strdup(text);
        if (dataset->class_names[i] == NULL) {
            return false;
        }
    }
    return true;
}

esp_status esp_dataset_new(const char *name, const char *note, int64_t count, int channels, int height,
                           int width, int class_count, esp_dataset **out, esp_error *err)
{
    *out = NULL;
    esp_status status = check_sizes(name, count, channels, height, width, class_count, err);
    if (status != ESP_OK) {
        return status;
    }
    esp_dataset *dataset = esp_alloc_zero(1, sizeof(*dataset));
    if (dataset == NULL) {
        return esp_fail_memory(err, "a dataset", sizeof(*dataset));
    }
    atomic_init(&dataset->references, 1);
    dataset->count = count;
    dataset->channels = channels;
    dataset->height = height;
    dataset->width = width;
    dataset->class_count = class_count;
    size_t image_bytes = 0;
    bool is_too_big = __builtin_mul_overflow((size_t)height, (size_t)width, &image_bytes) ||
                      __builtin_mul_overflow(image_bytes, (size_t)channels, &image_bytes) ||
                      image_bytes > (size_t)INT64_MAX / (size_t)count;
    if (!is_too_big) {
        dataset->image_bytes = (int64_t)image_bytes;
        dataset->pixels = esp_alloc_zero((size_t)count, image_bytes);
    }
    if (dataset->pixels != NULL) {
        dataset->labels = esp_alloc_zero((size_t)count, sizeof(*dataset->labels));
    }
    dataset->class_names = esp_alloc_zero((size_t)class_count, sizeof(*dataset->class_names));
    dataset->name = esp_strdup(name);
    dataset->note = esp_strdup(note == NULL ? "" : note);
    if (dataset->pixels == NULL || dataset->labels == NULL || dataset->class_names == NULL ||
        dataset->name == NULL || dataset->note == NULL || !name_classes(dataset)) {
        esp_dataset_unref(dataset);
        return esp_fail_memory(err, "the images of a dataset",
                               is_too_big ? SIZE_MAX : (size_t)count * image_bytes);
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
    esp_free(dataset->labels);
    esp_free(dataset->pixels);
    esp_free(dataset->note);
    esp_free(dataset->name);
    esp_free(dataset);
}

/* ---- filling ---- */

uint8_t *esp_dataset_pixels_mut(esp_dataset *dataset, int64_t index)
{
    assert(index >= 0 && index < dataset->count);
    return dataset->pixels + index * dataset->image_bytes;
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
    return dataset->class_names[label];
}

const uint8_t *esp_dataset_pixels(const esp_dataset *dataset, int64_t index)
{
    assert(index >= 0 && index < dataset->count);
    return dataset->pixels + index * dataset->image_bytes;
}

int esp_dataset_label(const esp_dataset *dataset, int64_t index)
{
    assert(index >= 0 && index < dataset->count);
    return dataset->labels[index];
}

/* ---- subsets ---- */

/* A dataset of the images `indices[0..count)`, or of the first `count` when `indices` is NULL. */
static esp_status copy_images(const esp_dataset *source, const uint32_t *indices, int64_t count,
                              const char *kind, esp_dataset **out, esp_error *err)
{
    char note[256];
    snprintf(note, sizeof(note), "%" PRId64 " of %" PRId64 " images, %s", count, source->count, kind);
    esp_dataset *copy = NULL;
    esp_status status = esp_dataset_new(source->name, note, count, source->channels, source->height,
                                        source->width, source->class_count, &copy, err);
    for (int i = 0; status == ESP_OK && i < source->class_count; i++) {
        status = esp_dataset_set_class_name(copy, i, source->class_names[i], err);
    }
    if (status != ESP_OK) {
        esp_dataset_unref(copy);
        return status;
    }
    for (int64_t i = 0; i < count; i++) {
        int64_t from = indices == NULL ? i : indices[i];
        memcpy(esp_dataset_pixels_mut(copy, i), esp_dataset_pixels(source, from),
               (size_t)source->image_bytes);
        copy->labels[i] = source->labels[from];
    }
    *out = copy;
    return ESP_OK;
}

/* Hands out `count` places one class at a time, in turns, to classes that have images left. */
static void share_places(const int64_t *available, int class_count, int64_t count, int64_t *quota)
{
    while (count > 0) {
        for (int c = 0; c < class_count && count > 0; c++) {
            if (quota[c] < available[c]) {
                quota[c]++;
                count--;
            }
        }
    }
}

esp_status esp_dataset_subset(const esp_dataset *dataset, int64_t count, uint64_t seed, esp_dataset **out,
                              esp_error *err)
{
    *out = NULL;
    if (count < 1) {
        return esp_fail(err, ESP_INVALID, "dataset '%s': subset of %" PRId64 " images, expected at least 1",
                        dataset->name, count);
    }
    count = count < dataset->count ? count : dataset->count;
    esp_status status = ESP_OK;
    size_t classes = (size_t)dataset->class_count;
    uint32_t *order = esp_alloc((size_t)dataset->count, sizeof(*order));
    int64_t *available = esp_alloc_zero(classes, sizeof(*available));
    int64_t *quota = esp_alloc_zero(classes, sizeof(*quota));
    if (order == NULL || available == NULL || quota == NULL) {
        status = esp_fail_memory(err, "a subset", (size_t)dataset->count * sizeof(*order));
        goto done;
    }
    for (int64_t i = 0; i < dataset->count; i++) {
        order[i] = (uint32_t)i;
        available[dataset->labels[i]]++;
    }
    share_places(available, dataset->class_count, count, quota);
    esp_rng rng;
    esp_rng_seed(&rng, seed);
    esp_rng_shuffle(&rng, order, (size_t)dataset->count);
    int64_t taken = 0; /* the chosen ones move to the front of `order`, which stays shuffled */
    for (int64_t i = 0; i < dataset->count; i++) {
        int64_t *places = &quota[dataset->labels[order[i]]];
        if (*places > 0) {
            (*places)--;
            order[taken++] = order[i];
        }
    }
    status = copy_images(dataset, order, taken, "class-balanced", out, err);
done:
    esp_free(quota);
    esp_free(available);
    esp_free(order);
    return status;
}

esp_status esp_dataset_head(const esp_dataset *dataset, int64_t count, esp_dataset **out, esp_error *err)
{
    *out = NULL;
    if (count < 1) {
        return esp_fail(err, ESP_INVALID, "dataset '%s': first %" PRId64 " images, expected at least 1",
                        dataset->name, count);
    }
    count = count < dataset->count ? count : dataset->count;
    return copy_images(dataset, NULL, count, "the first", out, err);
}

/* ---- does it fit a model? ---- */

bool esp_dataset_input_shape(const esp_dataset *dataset, const esp_graph *graph, int64_t batch,
                             esp_input_shape *out)
{
    const esp_value *input = esp_graph_value(graph, esp_graph_input(graph, 0));
    const int64_t image[4] = {batch, dataset->channels, dataset->height, dataset->width};
    esp_shape shape = input->shape.rank == 4 ? input->shape : esp_shape_make(4, image);
    bool is_open = input->shape.rank != 4;
    for (int i = 0; i < 4; i++) {
        if (shape.dims[i] < 0) {
            is_open = is_open || i > 0;
            shape.dims[i] = image[i];
        }
    }
    *out = (esp_input_shape){.name = input->name, .shape = shape};
    return is_open;
}

static esp_status check_input(const esp_dataset *dataset, const esp_graph *graph, esp_error *err)
{
    if (esp_graph_input_count(graph) != 1) {
        return esp_fail(err, ESP_SHAPE, "model has %d inputs, expected 1 for images",
                        esp_graph_input_count(graph));
    }
    const esp_value *input = esp_graph_value(graph, esp_graph_input(graph, 0));
    if (input->dtype != ESP_F32) {
        return esp_fail(err, ESP_SHAPE, "model input '%s' is %s, expected float32", input->name,
                        esp_dtype_name(input->dtype));
    }
    if (input->shape.rank < 0) {
        return ESP_OK;
    }
    const int64_t image[3] = {dataset->channels, dataset->height, dataset->width};
    bool fits = input->shape.rank == 4;
    for (int i = 0; fits && i < 3; i++) {
        fits = input->shape.dims[i + 1] < 0 || input->shape.dims[i + 1] == image[i];
    }
    if (!fits) {
        char text[128];
        esp_shape wanted = input->shape;
        if (wanted.rank == 4) { /* without the batch */
            wanted = esp_shape_make(3, input->shape.dims + 1);
        }
        return esp_fail(err, ESP_SHAPE, "model input '%s' takes %s, but the images of '%s' are %dx%dx%d",
                        input->name, esp_shape_format(&wanted, text, sizeof(text)), dataset->name,
                        dataset->channels, dataset->height, dataset->width);
    }
    return ESP_OK;
}

static esp_status check_classes(const esp_dataset *dataset, const char *name, const esp_shape *shape,
                                esp_error *err)
{
    bool is_classifier = shape->rank >= 2;
    for (int i = 2; is_classifier && i < shape->rank; i++) {
        is_classifier = shape->dims[i] == 1;
    }
    if (!is_classifier) {
        char text[128];
        return esp_fail(err, ESP_SHAPE, "model output '%s' is %s, expected class scores Nx%d for '%s'", name,
                        esp_shape_format(shape, text, sizeof(text)), dataset->class_count, dataset->name);
    }
    int64_t classes = shape->dims[1];
    bool has_background = classes == (int64_t)dataset->class_count + 1;
    if (classes >= dataset->class_count && !has_background) {
        return ESP_OK;
    }
    esp_status status = esp_fail(err, ESP_SHAPE, "model output '%s' has %" PRId64 " classes, but '%s' has %d",
                                 name, classes, dataset->name, dataset->class_count);
    if (has_background) {
        esp_error_set_hint(err, "one class more is usually a background class 0, which shifts every label");
    }
    return status;
}

esp_status esp_dataset_check_model(const esp_dataset *dataset, const esp_graph *graph, esp_error *err)
{
    esp_status status = check_input(dataset, graph, err);
    if (status != ESP_OK) {
        return status;
    }
    if (esp_graph_output_count(graph) != 1) {
        return esp_fail(err, ESP_SHAPE, "model has %d outputs, expected 1 with class scores",
                        esp_graph_output_count(graph));
    }
    esp_input_shape shape; /* at batch 1, or at the batch the model is fixed to */
    bool is_open = esp_dataset_input_shape(dataset, graph, 1, &shape);
    esp_inferred *inferred = NULL;
    status = esp_infer(graph, shape.shape.dims[0], is_open ? &shape : NULL, is_open ? 1 : 0, &inferred, err);
    if (status == ESP_OK) {
        int output = esp_graph_output(graph, 0);
        status = check_classes(dataset, esp_graph_value(graph, output)->name,
                               esp_inferred_shape(inferred, output), err);
    }
    esp_inferred_free(inferred);
    return status;
}
