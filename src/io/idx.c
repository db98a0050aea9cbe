/* The IDX format of MNIST (LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/): a big-endian magic
 * number 0x00 0x00 TYPE RANK, RANK big-endian sizes of 32 bits, then the elements. Images are unsigned bytes
 * of rank 3 [count, height, width], labels unsigned bytes of rank 1. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "io/dataset_internal.h"

#define MAGIC_IMAGES 0x00000803u
#define MAGIC_LABELS 0x00000801u
#define MAX_SIDE     65535u /* of an image; anything larger is a damaged header */
#define FEWEST       2      /* classes */

/* Names by split, as the files have been published since 1998. */
static const char *const image_files[] = {"train-images-idx3-ubyte", "t10k-images-idx3-ubyte"};
static const char *const label_files[] = {"train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"};

static const char *const fashion_names[] = {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                                            "Sandal",      "Shirt",   "Sneaker",  "Bag",   "Ankle boot"};
enum { FASHION_COUNT = sizeof fashion_names / sizeof fashion_names[0] };

/* One IDX file in memory. */
typedef struct idx_file {
    char *path, *data;
    uint32_t sizes[3];
    const uint8_t *elements;
} idx_file;

static void idx_close(idx_file *file)
{
    esp_free(file->path);
    esp_free(file->data);
}

static uint32_t big_endian(const char *bytes)
{
    const uint8_t *b = (const uint8_t *)bytes;

    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* Checks the magic number and that the file has the bytes its sizes speak of, no more and no less. */
static esp_status check_header(idx_file *file, size_t size, uint32_t magic, esp_error *err)
{
    size_t rank = magic & 0xff, header = 4 + 4 * rank;
    uint64_t expected = 1;

    if (size < header)
        return esp_fail(err, ESP_FORMAT, "%s: truncated: %zu bytes, expected a header of %zu", file->path,
                        size, header);
    if (big_endian(file->data) != magic)
        return esp_fail(err, ESP_FORMAT, "%s: magic number 0x%08" PRIx32 ", expected 0x%08" PRIx32 " (%s)",
                        file->path, big_endian(file->data), magic,
                        magic == MAGIC_IMAGES ? "bytes of rank 3" : "bytes of rank 1");
    for (size_t i = 0; i < rank; i++) {
        file->sizes[i] = big_endian(file->data + 4 + 4 * i);
        if (file->sizes[i] == 0 || (i > 0 && file->sizes[i] > MAX_SIDE))
            return esp_fail(err, ESP_FORMAT, "%s: size %zu is %" PRIu32 ", expected 1 to %" PRIu32,
                            file->path, i, file->sizes[i], i > 0 ? MAX_SIDE : UINT32_MAX);
        expected *= file->sizes[i]; /* at most 2^64 - 2^33: sizes fit in 32, 16 and 16 bits */
    }
    if (size - header != expected)
        return esp_fail(err, ESP_FORMAT, "%s: %s: %zu bytes of elements, expected %" PRIu64, file->path,
                        size - header < expected ? "truncated" : "too long", size - header, expected);
    file->elements = (const uint8_t *)file->data + header;
    return ESP_OK;
}

static esp_status idx_read(const char *directory, const char *name, uint32_t magic, idx_file *out,
                           esp_error *err)
{
    size_t size;
    esp_status status = esp_dataset_file_read(directory, name, &out->path, &out->data, &size, err);

    return status == ESP_OK ? check_header(out, size, magic, err) : status;
}

/* Labels below `limit`; `*out_classes` is the largest plus one. */
static esp_status count_classes(const idx_file *labels, int limit, int *out_classes, esp_error *err)
{
    int largest = FEWEST - 1;

    for (uint32_t i = 0; i < labels->sizes[0]; i++) {
        int label = labels->elements[i];

        if (label >= limit)
            return esp_fail(err, ESP_FORMAT, "%s: label %d of image %" PRIu32 ", expected 0 to %d",
                            labels->path, label, i, limit - 1);
        if (label > largest)
            largest = label;
    }
    *out_classes = largest + 1;
    return ESP_OK;
}

static esp_status fill(const esp_dataset_request *request, const idx_file *images, const idx_file *labels,
                       int class_count, esp_dataset **out, esp_error *err)
{
    char note[96];
    size_t image_bytes = (size_t)images->sizes[1] * images->sizes[2];

    snprintf(note, sizeof note, "%" PRIu32 " %s images", images->sizes[0], esp_split_name(request->split));
    esp_status status = esp_dataset_new(request->spec, note, images->sizes[0], 1, (int)images->sizes[1],
                                        (int)images->sizes[2], class_count, out, err);
    if (status != ESP_OK)
        return status;
    for (uint32_t i = 0; i < images->sizes[0]; i++) {
        memcpy(esp_dataset_pixels_mut(*out, i), images->elements + i * image_bytes, image_bytes);
        esp_dataset_set_label(*out, i, labels->elements[i]);
    }
    return ESP_OK;
}

/* `class_count` 0: as many as the labels have. */
static esp_status read_pair(const esp_dataset_request *request, int class_count, esp_dataset **out,
                            esp_error *err)
{
    idx_file images = {0}, labels = {0};
    int found = 0;
    esp_status status = idx_read(request->directory, image_files[request->split], MAGIC_IMAGES, &images, err);

    *out = NULL;
    if (status == ESP_OK)
        status = idx_read(request->directory, label_files[request->split], MAGIC_LABELS, &labels, err);
    if (status == ESP_OK && images.sizes[0] != labels.sizes[0])
        status = esp_fail(err, ESP_FORMAT, "%s has %" PRIu32 " labels, expected %" PRIu32 " as %s has images",
                          labels.path, labels.sizes[0], images.sizes[0], images.path);
    if (status == ESP_OK)
        status = count_classes(&labels, class_count > 0 ? class_count : 256, &found, err);
    if (status == ESP_OK)
        status = fill(request, &images, &labels, class_count > 0 ? class_count : found, out, err);
    idx_close(&images);
    idx_close(&labels);
    return status;
}

esp_status esp_idx_open(const esp_dataset_request *request, esp_dataset **out, esp_error *err)
{
    return read_pair(request, 0, out, err);
}

esp_status esp_fashion_mnist_open(const esp_dataset_request *request, esp_dataset **out, esp_error *err)
{
    esp_status status = read_pair(request, FASHION_COUNT, out, err);

    for (int i = 0; i < FASHION_COUNT && status == ESP_OK; i++)
        status = esp_dataset_set_class_name(*out, i, fashion_names[i], err);
    if (status != ESP_OK) {
        esp_dataset_unref(*out);
        *out = NULL;
    }
    return status;
}
