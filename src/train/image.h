/* One decoded image, the source it comes from, and the transform that gives it the size a model takes.
 * Readers of file formats (io) implement sources; data sets whose images do not lie in memory stand on them.
 */
#ifndef ESP_TRAIN_IMAGE_H
#define ESP_TRAIN_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "train/augmentation.h"

#define ESP_MAX_IMAGE_CHANNELS 4

/* Larger images are refused before they are decoded: guards against decompression bombs (a quarter GiB as
 * RGB, the size at which Pillow warns of one). */
#define ESP_IMAGE_MOST_PIXELS INT64_C(89478485)

/* Memory that grows and is used again for the next image. Zero-initialise. */
typedef struct esp_buffer {
    uint8_t *data;
    size_t capacity;
} esp_buffer;

/* At least `size` bytes, contents undefined; NULL when memory is out (and the old block is kept). */
uint8_t *esp_buffer_need(esp_buffer *buffer, size_t size);
void esp_buffer_free(esp_buffer *buffer);

/* What a source fills. Zero-initialise, use for many images, release with esp_image_free. */
typedef struct esp_image {
    int width, height, channels;
    int full_width, full_height; /* before a reader shrank it while decoding; else the same */
    const uint8_t *pixels; /* [height, width, channels], into `room` or memory of the source; or NULL: */
    const float *values;   /* [channels, height, width] in 0..1, memory of the source */
    esp_buffer room, file;
} esp_image;

void esp_image_free(esp_image *image);

/* What is wanted of a source. */
typedef struct esp_image_wish {
    int channels; /* 1 or 3 */
    /* How far a reader may shrink an image of this full size while decoding (JPEG): 1, 2, 4 or 8. NULL: 1. */
    int (*shrink)(void *context, int full_width, int full_height);
    void *context;
} esp_image_wish;

/* Where images come from. `read` is called by many threads at once. */
typedef struct esp_image_source_ops {
    /* Messages name the image: its file, or its place in a file. */
    esp_status (*read)(void *user, int64_t index, const esp_image_wish *wish, esp_image *image,
                       esp_error *err);
    void (*free)(void *user);
} esp_image_source_ops;

/* ---- from any size to the model's ---- */

typedef enum esp_interpolation { ESP_INTERPOLATION_BILINEAR, ESP_INTERPOLATION_BICUBIC } esp_interpolation;

/* Resize, then centre crop, in bytes, as torchvision does on PIL images:
 *  - `resize` > 0: the shorter side becomes this, the longer one follows, rounded down;
 *  - else `resize_height` > 0: exactly resize_height x resize_width;
 *  - else images that are already height x width are taken as they are, others are resized to cover that;
 * then the centre of height x width is cut out, with black where the image is smaller. */
typedef struct esp_transform {
    int channels, height, width; /* what comes out */
    int resize;
    int resize_height, resize_width;
    esp_interpolation interpolation;
} esp_transform;

/* Scratch of one thread. Zero-initialise. */
typedef struct esp_transform_room {
    esp_buffer rows, weights;
} esp_transform_room;
void esp_transform_room_free(esp_transform_room *room);

/* out [channels, height, width]; the image has the transform's channels. ESP_NO_MEMORY only. */
esp_status esp_transform_apply(const esp_transform *transform, const esp_image *image,
                               esp_transform_room *room, uint8_t *out, esp_error *err);

/* A box of the full image, in its pixels. */
typedef struct esp_box {
    int x, y, width, height;
} esp_box;

/* torchvision's RandomResizedCrop.get_params: ten tries, then the largest centred box of an allowed ratio. */
esp_box esp_random_box(const esp_augmentation *augmentation, esp_rng *rng, int width, int height);

/* How far decoding may shrink an image of which this box is wanted: it stays at least twice as large as the
 * result. Only random boxes of training are read like that: networks see the difference (of 2,000 JPEGs of
 * 512x512 shrunk to 64 and resized to 32, ResNet-20 knows 1.9 % fewer), so that evaluation decodes all. */
int esp_box_shrink(const esp_transform *transform, const esp_box *box);

/* out [channels, height, width]: the box (given in full pixels) resized to exactly that. */
esp_status esp_transform_box(const esp_transform *transform, const esp_image *image, esp_box box,
                             esp_transform_room *room, uint8_t *out, esp_error *err);

/* Colours in bytes as Pillow computes them (ImageEnhance, and a turn of the hue as torchvision does it), in
 * place on pixels [channels, plane]. `amount`: a factor, 1 changes nothing; for the hue a share of the
 * circle, 0 changes nothing. Saturation and hue need 3 channels and change nothing else. */
typedef enum esp_colour {
    ESP_COLOUR_BRIGHTNESS,
    ESP_COLOUR_CONTRAST,
    ESP_COLOUR_SATURATION,
    ESP_COLOUR_HUE
} esp_colour;
void esp_colour_change(esp_colour colour, float amount, int channels, int64_t plane, uint8_t *pixels);

/* All that the augmentation has of it, in random order and by random amounts. */
void esp_colour_jitter(const esp_augmentation *augmentation, esp_rng *rng, int channels, int64_t plane,
                       uint8_t *pixels);

/* Pillow's resize (Resample.c): a separable filter whose support grows with the reduction, coefficients of 22
 * bits, rounded to bytes after each pass. Source [in_height, in_width, channels] interleaved with `stride`
 * bytes from row to row; of the virtual result of full_height x full_width the window `window` is computed
 * into planes out [channels, ...]: row y of channel c starts at out + c * out_plane + y * out_stride. */
typedef struct esp_resize_job {
    const uint8_t *pixels;
    int64_t stride;
    int in_width, in_height, channels;
    int full_width, full_height;
    esp_box window;
    esp_interpolation interpolation;
    uint8_t *out;
    int64_t out_plane, out_stride;
} esp_resize_job;
esp_status esp_resize(const esp_resize_job *job, esp_transform_room *room, esp_error *err);

#endif
