/* npy:DIR, arrays of numpy: x_train.npy with images and y_train.npy with their classes, and the same for test
 * and val. Images are [N,H,W,C], [N,C,H,W] or [N,H,W], as bytes or as float32 in 0..1. They are read from the
 * file when a batch asks for them, so the arrays may be larger than memory. Classes are whole numbers of any
 * width. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "io/dataset_internal.h"
#include "io/image_file.h"

#define MOST_HEADER  ((size_t)1 << 16)
#define MOST_CLASSES 1000000
/* Images whose floats are looked at before the set is used. */
#define SAMPLED_IMAGES 16
/* Floats above this are taken for bytes that nobody divided by 255. */
#define MOST_FLOAT 16.0f

/* The images: a source. */
typedef struct array {
    char *path;
    int file;
    esp_npy_header header;
    int64_t count;
    int channels, height, width;
    bool is_nhwc, is_float;
    float scale;
} array;

static void array_free(void *user)
{
    array *it = user;

    if (!it)
        return;
    if (it->file >= 0)
        close(it->file);
    esp_free(it->path);
    esp_free(it);
}

static esp_status fail_system(const char *path, esp_error *err)
{
    return esp_fail(err, ESP_IO, "%s: %s", path, strerror(errno));
}

/* ---- reading an image ---- */

static esp_status read_at(const array *it, int64_t index, size_t bytes, uint8_t *target, esp_error *err)
{
    uint64_t offset = it->header.data_offset + (uint64_t)index * bytes;

    for (size_t done = 0; done < bytes;) {
        ssize_t got = pread(it->file, target + done, bytes - done, (off_t)(offset + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail_system(it->path, err);
        if (got == 0)
            return esp_fail(err, ESP_FORMAT, "%s: truncated at image %" PRId64, it->path, index);
        done += (size_t)got;
    }
    return ESP_OK;
}

/* Bytes [H,W,C] of the file's channels from either order. */
static void interleave(const array *it, const uint8_t *source, uint8_t *target)
{
    size_t plane = (size_t)it->height * (size_t)it->width, channels = (size_t)it->channels;

    for (size_t i = 0; i < plane; i++)
        for (size_t c = 0; c < channels; c++)
            target[i * channels + c] = source[c * plane + i];
}

/* From the file's channels to those wanted, in place: `pixels` has room for both. */
static void change_channels(const array *it, int wanted, uint8_t *pixels)
{
    int64_t plane = (int64_t)it->height * it->width;

    if (it->channels == 3 && wanted == 1)
        esp_grey_from_rgb(pixels, plane, pixels);
    for (int64_t i = plane - 1; it->channels == 1 && wanted == 3 && i >= 0; i--)
        memset(pixels + 3 * i, pixels[i], 3);
}

static esp_status read_bytes(const array *it, int64_t index, const esp_image_wish *wish, esp_image *image,
                             esp_error *err)
{
    size_t bytes = (size_t)it->height * (size_t)it->width * (size_t)it->channels;
    int most = it->channels > wish->channels ? it->channels : wish->channels;
    uint8_t *raw = esp_buffer_need(&image->file, bytes);
    uint8_t *pixels = esp_buffer_need(&image->room, bytes / (size_t)it->channels * (size_t)most);

    if (!raw || !pixels)
        return esp_fail_memory(err, "an image", bytes);
    esp_status status = read_at(it, index, bytes, it->is_nhwc ? pixels : raw, err);
    if (status != ESP_OK)
        return status;
    if (!it->is_nhwc)
        interleave(it, raw, pixels);
    if (it->channels != wish->channels)
        change_channels(it, wish->channels, pixels);
    image->pixels = pixels;
    return ESP_OK;
}

static esp_status read_floats(const array *it, int64_t index, esp_image *image, esp_error *err)
{
    size_t plane = (size_t)it->height * (size_t)it->width, channels = (size_t)it->channels;
    size_t bytes = plane * channels * sizeof(float);
    float *raw = (float *)(void *)esp_buffer_need(&image->file, bytes);
    float *planes = (float *)(void *)esp_buffer_need(&image->room, bytes);

    if (!raw || !planes)
        return esp_fail_memory(err, "an image", bytes);
    esp_status status = read_at(it, index, bytes, (uint8_t *)raw, err);
    if (status != ESP_OK)
        return status;
    for (size_t c = 0; c < channels; c++)
        for (size_t i = 0; i < plane; i++) {
            float value = raw[it->is_nhwc ? i * channels + c : c * plane + i] / it->scale;

            if (!isfinite(value))
                return esp_fail(err, ESP_FORMAT, "%s: image %" PRId64 " has a value that is not finite",
                                it->path, index);
            planes[c * plane + i] = value;
        }
    image->values = planes;
    image->pixels = NULL;
    return ESP_OK;
}

static esp_status array_read(void *user, int64_t index, const esp_image_wish *wish, esp_image *image,
                             esp_error *err)
{
    const array *it = user;

    image->width = image->full_width = it->width;
    image->height = image->full_height = it->height;
    image->channels = it->is_float ? it->channels : wish->channels;
    return it->is_float ? read_floats(it, index, image, err) : read_bytes(it, index, wish, image, err);
}

static const esp_image_source_ops array_ops = {array_read, array_free};

/* ---- opening the images ---- */

static bool is_channels(int64_t size)
{
    return size >= 1 && size <= ESP_MAX_IMAGE_CHANNELS;
}

static esp_status fail_shape(const array *it, const char *what, esp_error *err)
{
    char text[96] = "";
    size_t used = 0;

    for (int i = 0; i < it->header.rank && used < sizeof text; i++)
        used +=
            (size_t)snprintf(text + used, sizeof text - used, "%s%" PRId64, i ? "," : "", it->header.dims[i]);
    return esp_fail(err, ESP_FORMAT, "%s: shape [%s], %s", it->path, text, what);
}

/* Which of the dimensions are channels, height and width. */
static esp_status find_order(array *it, esp_array_order asked, esp_error *err)
{
    const int64_t *dims = it->header.dims;
    int64_t height, width, channels = 1;

    if (it->header.rank == 3) {
        height = dims[1];
        width = dims[2];
    } else if (it->header.rank == 4) {
        bool may_nhwc = is_channels(dims[3]), may_nchw = is_channels(dims[1]);

        if (asked == ESP_ARRAY_ANY && may_nhwc == may_nchw)
            return fail_shape(it,
                              may_nhwc ? "which may be NHWC or NCHW: say ?layout=nhwc or ?layout=nchw"
                                       : "expected NHWC or NCHW with 1 to 4 channels",
                              err);
        it->is_nhwc = asked == ESP_ARRAY_NHWC || (asked == ESP_ARRAY_ANY && may_nhwc);
        height = it->is_nhwc ? dims[1] : dims[2];
        width = it->is_nhwc ? dims[2] : dims[3];
        channels = it->is_nhwc ? dims[3] : dims[1];
    } else {
        return fail_shape(it, "expected images [N,H,W,C], [N,C,H,W] or [N,H,W]", err);
    }
    if (dims[0] < 1 || dims[0] > UINT32_MAX || !is_channels(channels))
        return fail_shape(it, "expected at least one image and 1 to 4 channels", err);
    it->count = dims[0];
    it->channels = (int)channels;
    esp_status status = esp_image_check_size(it->path, width, height, err);
    if (status == ESP_OK) {
        it->height = (int)height;
        it->width = (int)width;
    }
    return status;
}

/* Floats that nobody divided would train without an error, and badly. */
static esp_status check_floats(const array *it, bool has_scale, esp_error *err)
{
    esp_image image = {0};
    int64_t count = it->count < SAMPLED_IMAGES ? it->count : SAMPLED_IMAGES;
    size_t values = (size_t)it->height * (size_t)it->width * (size_t)it->channels;
    float largest = 0;
    esp_status status = ESP_OK;

    for (int64_t i = 0; i < count && status == ESP_OK; i++) {
        status = read_floats(it, i * it->count / count, &image, err);
        for (size_t k = 0; status == ESP_OK && k < values; k++)
            largest = fmaxf(largest, fabsf(image.values[k]));
    }
    esp_image_free(&image);
    if (status != ESP_OK || has_scale || largest <= MOST_FLOAT)
        return status == ESP_FORMAT ? ESP_OK : status; /* a bad image is told when it is read */
    esp_fail(err, ESP_FORMAT, "%s: float32 values up to %g, expected 0 to 1", it->path, (double)largest);
    esp_error_set_hint(err, "say ?scale=255 to divide them, or ?scale=1 to take them as they are");
    return ESP_FORMAT;
}

static esp_status read_header(array *it, esp_error *err)
{
    struct stat facts;

    if (fstat(it->file, &facts) != 0)
        return fail_system(it->path, err);
    size_t size = (size_t)facts.st_size < MOST_HEADER ? (size_t)facts.st_size : MOST_HEADER;
    char *bytes = esp_alloc(size + 1, 1);
    if (!bytes)
        return esp_fail_memory(err, it->path, size);
    ssize_t got = pread(it->file, bytes, size, 0);
    esp_status status = got < 0 ? fail_system(it->path, err)
                                : esp_npy_header_read(it->path, bytes, (size_t)got, (uint64_t)facts.st_size,
                                                      &it->header, err);
    esp_free(bytes);
    return status;
}

static esp_status open_images(const char *take_path, const esp_dataset_query *query, array **out,
                              esp_error *err)
{
    array *it = esp_alloc_zero(1, sizeof *it);

    if (!it) {
        esp_free((void *)take_path);
        return esp_fail_memory(err, "an array", sizeof *it);
    }
    it->path = (char *)take_path;
    it->scale = query->scale > 0 ? (float)query->scale : 1.0f;
    it->file = open(it->path, O_RDONLY | O_CLOEXEC);
    esp_status status = it->file < 0 ? fail_system(it->path, err) : read_header(it, err);
    it->is_float = it->header.type == 'f';
    bool is_fine = it->header.item_size == (it->is_float ? 4 : 1) && it->header.type != 'i';
    if (status == ESP_OK && !is_fine)
        status =
            esp_fail(err, ESP_UNSUPPORTED, "%s: elements %c%d, expected bytes (u1) or floats (f4) for images",
                     it->path, it->header.type, it->header.item_size);
    if (status == ESP_OK)
        status = find_order(it, query->layout, err);
    if (status == ESP_OK && it->is_float)
        status = check_floats(it, query->scale > 0, err);
    if (status == ESP_OK)
        *out = it;
    else
        array_free(it);
    return status;
}

/* ---- classes ---- */

typedef struct classes {
    char *path, *data;
    esp_npy_header header;
    int64_t count;
} classes;

static void classes_free(classes *it)
{
    esp_free(it->path);
    esp_free(it->data);
    *it = (classes){0};
}

static int64_t class_at(const classes *it, int64_t index)
{
    int size = it->header.item_size;
    const uint8_t *bytes = (const uint8_t *)it->data + it->header.data_offset + (size_t)index * (size_t)size;
    uint64_t value = 0;

    for (int i = 0; i < size; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    bool is_negative = it->header.type == 'i' && (bytes[size - 1] & 0x80) != 0;
    if (is_negative && size < 8)
        value |= UINT64_MAX << (8 * size);
    return (int64_t)value;
}

static esp_status read_classes(const char *take_path, classes *out, esp_error *err)
{
    size_t size;

    out->path = (char *)take_path;
    esp_status status = esp_file_read(out->path, &out->data, &size, err);
    if (status == ESP_OK)
        status = esp_npy_header_read(out->path, out->data, size, size, &out->header, err);
    if (status != ESP_OK)
        return status;
    bool is_column = out->header.rank == 2 && out->header.dims[1] == 1; /* as Keras has CIFAR's */
    if ((out->header.rank != 1 && !is_column) || out->header.type == 'f' || out->header.type == 'b')
        return esp_fail(err, ESP_FORMAT, "%s: expected whole numbers [N], one class per image", out->path);
    out->count = out->header.dims[0];
    return ESP_OK;
}

static esp_status find_largest(const classes *it, int64_t *largest, esp_error *err)
{
    for (int64_t i = 0; i < it->count; i++) {
        int64_t label = class_at(it, i);

        if (label < 0 || label >= MOST_CLASSES)
            return esp_fail(err, ESP_FORMAT, "%s: label %" PRId64 " of image %" PRId64 ", expected 0 to %d",
                            it->path, label, i, MOST_CLASSES - 1);
        *largest = label > *largest ? label : *largest;
    }
    return ESP_OK;
}

static char *part_path(const char *directory, const char *letter, const char *part)
{
    char name[32];

    snprintf(name, sizeof name, "%s_%s.npy", letter, part);
    return esp_path_join(directory, name);
}

/* The number of classes is one more than the largest label of all parts, so that they agree. */
static esp_status count_classes(const char *directory, const classes *own, int *out, esp_error *err)
{
    static const char *const parts[] = {"train", "test", "val"};
    int64_t largest = 1;
    esp_status status = find_largest(own, &largest, err);

    for (size_t i = 0; i < sizeof parts / sizeof *parts && status == ESP_OK; i++) {
        classes other = {0};
        char *path = part_path(directory, "y", parts[i]);

        if (!path)
            return esp_fail_memory(err, "a path", strlen(directory));
        bool is_other = esp_file_exists(path) && strcmp(path, own->path) != 0;
        if (is_other)
            status = read_classes(path, &other, err);
        else
            esp_free(path);
        if (status == ESP_OK && is_other)
            status = find_largest(&other, &largest, err);
        classes_free(&other);
    }
    *out = (int)largest + 1;
    return status;
}

/* ---- the dataset ---- */

static esp_status check_sizes(const array *it, const esp_image_sizes *asked, esp_error *err)
{
    bool changes =
        asked->resize > 0 || asked->resize_height > 0 || asked->crop_height > 0 || asked->channels > 0;

    if (it->is_float && changes)
        return esp_fail(err, ESP_INVALID,
                        "%s: float images cannot be resized, cropped or turned grey; bytes can", it->path);
    if (asked->channels > 0 && it->channels != 1 && it->channels != 3)
        return esp_fail(err, ESP_INVALID, "%s: images of %d channels, expected 1 or 3 to change their number",
                        it->path, it->channels);
    return ESP_OK;
}

/* `take_images` belongs to the set from here on. */
static esp_status make_dataset(const esp_dataset_request *request, const char *part, array *take_images,
                               const classes *labels, int class_count, esp_dataset **out, esp_error *err)
{
    char note[128];
    array *it = take_images;
    int64_t count = it->count;
    esp_dataset *dataset = NULL;
    esp_lazy_images images = {.ops = &array_ops,
                              .take_user = it,
                              .sizes = request->query->sizes,
                              .is_float = it->is_float,
                              .skips_bad = request->query->skips_bad,
                              .cache_bytes = (size_t)request->query->cache_mib << 20};

    images.sizes.own_channels = it->channels;
    images.sizes.own_height = it->height;
    images.sizes.own_width = it->width;
    bool is_fixed = it->is_float || (it->channels != 1 && it->channels != 3);
    if (is_fixed)
        images.sizes.channels = it->channels;
    snprintf(note, sizeof note, "%" PRId64 " images of x_%s.npy, %s", count, part,
             it->is_float ? "float32" : "uint8");
    esp_status status = esp_dataset_new_lazy(request->spec, note, count, class_count, &images, &dataset, err);
    if (status != ESP_OK)
        return status;
    for (int64_t i = 0; i < count; i++)
        esp_dataset_set_label(dataset, i, (int)class_at(labels, i));
    *out = dataset;
    return ESP_OK;
}

static esp_status open_part(const esp_dataset_request *request, const char *part, esp_dataset **out,
                            esp_error *err)
{
    array *images = NULL;
    classes labels = {0};
    int class_count = 0;
    char *x = part_path(request->directory, "x", part), *y = part_path(request->directory, "y", part);

    if (!x || !y) {
        esp_free(x);
        esp_free(y);
        return esp_fail_memory(err, "a path", strlen(request->directory));
    }
    esp_status status = open_images(x, request->query, &images, err);
    if (status == ESP_OK) {
        status = read_classes(y, &labels, err);
        y = NULL;
    }
    esp_free(y);
    if (status == ESP_OK && labels.count != images->count)
        status = esp_fail(err, ESP_FORMAT, "%s has %" PRId64 " labels, expected %" PRId64 " as %s has images",
                          labels.path, labels.count, images->count, images->path);
    if (status == ESP_OK)
        status = count_classes(request->directory, &labels, &class_count, err);
    if (status == ESP_OK)
        status = check_sizes(images, &request->query->sizes, err);
    if (status == ESP_OK) {
        status = make_dataset(request, part, images, &labels, class_count, out, err);
        images = NULL;
    }
    array_free(images);
    classes_free(&labels);
    return status;
}

esp_status esp_npy_open(const esp_dataset_request *request, esp_dataset **out, esp_error *err)
{
    char *own = part_path(request->directory, "x", "val");

    *out = NULL;
    if (!own)
        return esp_fail_memory(err, "a path", strlen(request->directory));
    *request->has_validation = esp_file_exists(own);
    esp_free(own);
    bool wants_own = request->split == ESP_SPLIT_VALIDATION && *request->has_validation;
    *request->gave_training = request->split == ESP_SPLIT_VALIDATION && !wants_own;
    return open_part(request,
                     request->split == ESP_SPLIT_TEST ? "test"
                     : wants_own                      ? "val"
                                                      : "train",
                     out, err);
}
