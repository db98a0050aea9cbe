/* From a decoded image of any size to the bytes a model takes: torchvision's Resize, CenterCrop and
 * RandomResizedCrop on PIL images. Sizes are computed from the full size of an image also when a reader has
 * shrunk it while decoding. */
#include "train/image.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

/* ---- memory ---- */

uint8_t *esp_buffer_need(esp_buffer *buffer, size_t size)
{
    if (buffer->capacity < size || buffer->data == NULL) {
        size_t capacity = size + size / 4 + 64; /* images differ a little: not a new block for each */
        uint8_t *data = esp_alloc(capacity, 1);
        if (data == NULL) {
            return NULL;
        }
        esp_free(buffer->data);
        *buffer = (esp_buffer){data, capacity};
    }
    return buffer->data;
}

void esp_buffer_free(esp_buffer *buffer)
{
    esp_free(buffer->data);
    *buffer = (esp_buffer){0};
}

void esp_image_free(esp_image *image)
{
    esp_buffer_free(&image->room);
    esp_buffer_free(&image->file);
    *image = (esp_image){0};
}

void esp_transform_room_free(esp_transform_room *room)
{
    esp_buffer_free(&room->rows);
    esp_buffer_free(&room->weights);
}

/* ---- sizes ---- */

static int rounded_part(int64_t of, int64_t numerator, int64_t denominator)
{
    int64_t part = (2 * of * numerator + denominator) / (2 * denominator);
    return part < 1 ? 1 : (int)part;
}

/* The size of the whole resized image. */
static void resized_size(const esp_transform *transform, int width, int height, int *full_width,
                         int *full_height)
{
    int shorter = transform->resize;
    if (shorter <= 0 && transform->resize_height > 0) {
        *full_width = transform->resize_width;
        *full_height = transform->resize_height;
        return;
    }
    if (shorter > 0) {
        int64_t longer =
            (int64_t)shorter * (width < height ? height : width) / (width < height ? width : height);
        *full_width = width <= height ? shorter : (int)longer;
        *full_height = width <= height ? (int)longer : shorter;
        return;
    }
    /* to cover height x width; exact when the image is that already */
    bool is_wide = (int64_t)width * transform->height >= (int64_t)height * transform->width;
    *full_height = is_wide ? transform->height : rounded_part(transform->width, height, width);
    *full_width = is_wide ? rounded_part(transform->height, width, height) : transform->width;
    *full_height = *full_height < transform->height ? transform->height : *full_height;
    *full_width = *full_width < transform->width ? transform->width : *full_width;
}

/* Python's round(difference / 2): halves go to the even neighbour. */
static int centred(int difference)
{
    int half = difference / 2;
    return difference % 2 == 1 && half % 2 == 1 ? half + 1 : half;
}

static int largest_shrink(double shorter, double wanted)
{
    int shrink = 8;
    while (shrink > 1 && shorter / shrink < wanted) {
        shrink /= 2;
    }
    return shrink;
}

int esp_box_shrink(const esp_transform *transform, const esp_box *box)
{
    int by_width = largest_shrink(box->width, 2.0 * transform->width);
    int by_height = largest_shrink(box->height, 2.0 * transform->height);
    return by_width < by_height ? by_width : by_height;
}

/* ---- resize and centre crop ---- */

static void copy_planes(const esp_transform *transform, const esp_image *image, uint8_t *out)
{
    int64_t plane = (int64_t)transform->height * transform->width;
    for (int64_t i = 0; i < plane; i++) {
        for (int c = 0; c < transform->channels; c++) {
            out[c * plane + i] = image->pixels[i * transform->channels + c];
        }
    }
}

esp_status esp_transform_apply(const esp_transform *transform, const esp_image *image,
                               esp_transform_room *room, uint8_t *out, esp_error *err)
{
    int full_width = 0, full_height = 0;
    resized_size(transform, image->full_width, image->full_height, &full_width, &full_height);
    int width = transform->width < full_width ? transform->width : full_width;
    int height = transform->height < full_height ? transform->height : full_height;
    int64_t plane = (int64_t)transform->height * transform->width;
    bool is_whole = width == transform->width && height == transform->height;
    if (is_whole && full_width == width && full_height == height && image->width == width &&
        image->height == height) {
        copy_planes(transform, image, out);
        return ESP_OK;
    }
    if (!is_whole) { /* black where the image does not reach */
        memset(out, 0, (size_t)(plane * transform->channels));
    }
    int64_t left = (transform->width - width) / 2, top = (transform->height - height) / 2;
    const esp_resize_job job = {
        .pixels = image->pixels,
        .stride = (int64_t)image->width * image->channels,
        .in_width = image->width,
        .in_height = image->height,
        .channels = image->channels,
        .full_width = full_width,
        .full_height = full_height,
        .window = {centred(full_width - width), centred(full_height - height), width, height},
        .interpolation = transform->interpolation,
        .out = out + top * transform->width + left,
        .out_plane = plane,
        .out_stride = transform->width,
    };
    return esp_resize(&job, room, err);
}

/* ---- random boxes ---- */

static double uniform_between(esp_rng *rng, double low, double high)
{
    return low + (high - low) * esp_rng_uniform(rng);
}

esp_box esp_random_box(const esp_augmentation *augmentation, esp_rng *rng, int width, int height)
{
    bool is_default = augmentation->most_ratio == 0.0;
    double least_ratio = is_default ? 3.0 / 4.0 : augmentation->least_ratio;
    double most_ratio = is_default ? 4.0 / 3.0 : augmentation->most_ratio;
    for (int attempt = 0; attempt < 10; attempt++) {
        double area =
            (double)width * height * uniform_between(rng, augmentation->least_area, augmentation->most_area);
        double ratio = exp(uniform_between(rng, log(least_ratio), log(most_ratio)));
        double box_width = rint(sqrt(area * ratio)), box_height = rint(sqrt(area / ratio));
        if (box_width >= 1.0 && box_width <= width && box_height >= 1.0 && box_height <= height) {
            esp_box box = {.width = (int)box_width, .height = (int)box_height};
            box.y = (int)esp_rng_below(rng, (uint64_t)(height - box.height) + 1);
            box.x = (int)esp_rng_below(rng, (uint64_t)(width - box.width) + 1);
            return box;
        }
    }
    esp_box box = {.width = width, .height = height};
    double own_ratio = (double)width / height;
    if (own_ratio < least_ratio) {
        box.height = (int)rint(width / least_ratio);
    } else if (own_ratio > most_ratio) {
        box.width = (int)rint(height * most_ratio);
    }
    /* an image of one pixel in a direction rounds to nothing */
    box.width = box.width < 1 ? 1 : box.width;
    box.height = box.height < 1 ? 1 : box.height;
    box.x = (width - box.width) / 2;
    box.y = (height - box.height) / 2;
    return box;
}

/* A span of the full image in an image that was shrunk from `full` to `now` pixels. */
static void shrink_span(int full, int now, int *start, int *length)
{
    if (full == now) {
        return;
    }
    int first = (int)((int64_t)*start * now / full);
    int end = (int)(((int64_t)(*start + *length) * now + full - 1) / full);
    end = end > now ? now : end;
    first = first < end ? first : end - 1;
    *start = first;
    *length = end - first;
}

esp_status esp_transform_box(const esp_transform *transform, const esp_image *image, esp_box box,
                             esp_transform_room *room, uint8_t *out, esp_error *err)
{
    shrink_span(image->full_width, image->width, &box.x, &box.width);
    shrink_span(image->full_height, image->height, &box.y, &box.height);
    int64_t stride = (int64_t)image->width * image->channels;
    const esp_resize_job job = {
        .pixels = image->pixels + box.y * stride + (int64_t)box.x * image->channels,
        .stride = stride,
        .in_width = box.width,
        .in_height = box.height,
        .channels = image->channels,
        .full_width = transform->width,
        .full_height = transform->height,
        .window = {0, 0, transform->width, transform->height},
        .interpolation = transform->interpolation,
        .out = out,
        .out_plane = (int64_t)transform->height * transform->width,
        .out_stride = transform->width,
    };
    return esp_resize(&job, room, err);
}
