/* Labelled images, how they are normalised, and how batches are made of them. Readers of file formats are in
 * io. */
#ifndef ESP_TRAIN_DATA_H
#define ESP_TRAIN_DATA_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compute.h"
#include "base/rng.h"
#include "graph/graph.h"
#include "graph/infer.h"
#include "train/augmentation.h"
#include "train/image.h"

typedef enum esp_split { ESP_SPLIT_TRAIN, ESP_SPLIT_TEST, ESP_SPLIT_VALIDATION } esp_split;

/* "train", "test", "validation". */
const char *esp_split_name(esp_split split);

/* A labelled set of images. They come out equally sized, as bytes, or as floats (esp_dataset_is_float). They
 * lie in memory, or, in a lazy set, are read from their source when a batch asks for them: what users ask for
 * is batches (esp_batch_read, loader.h). Reference-counted and immutable once filled, but for the memory of
 * images already read and of bad images met, which many threads may add to. */
typedef struct esp_dataset esp_dataset;

/* Unfilled (black images of class 0): the reader writes pixels and labels, then hands it out. `name` is the
 * spec it was opened with, `note` a human line ("30,000 images of 3 batches") or NULL; both are copied.
 * ESP_INVALID for sizes out of range: 1 to 2^32 - 1 images, 1 to ESP_MAX_IMAGE_CHANNELS channels, 1 to a
 * million classes. */
esp_status esp_dataset_new(const char *name, const char *note, int64_t count, int channels, int height,
                           int width, int class_count, esp_dataset **out, esp_error *err);
esp_dataset *esp_dataset_ref(const esp_dataset *dataset);
void esp_dataset_unref(esp_dataset *dataset);

/* For readers only. Indices and labels must be in range; a class name out of range is ESP_INVALID. */
uint8_t *esp_dataset_pixels_mut(esp_dataset *dataset, int64_t index); /* [channels, height, width], 0..255 */
void esp_dataset_set_label(esp_dataset *dataset, int64_t index, int label);
esp_status esp_dataset_set_class_name(esp_dataset *dataset, int label, const char *name, esp_error *err);

const char *esp_dataset_name(const esp_dataset *dataset);
const char *esp_dataset_note(const esp_dataset *dataset);
int64_t esp_dataset_count(const esp_dataset *dataset);
int esp_dataset_channels(const esp_dataset *dataset);
int esp_dataset_height(const esp_dataset *dataset);
int esp_dataset_width(const esp_dataset *dataset);
int esp_dataset_class_count(const esp_dataset *dataset);
const char *esp_dataset_class_name(const esp_dataset *dataset,
                                   int label); /* never NULL: "class 3" when unnamed */
/* NULL for a lazy set. */
const uint8_t *esp_dataset_pixels(const esp_dataset *dataset, int64_t index);
int esp_dataset_label(const esp_dataset *dataset, int64_t index);

/* ---- lazy sets ---- */

/* What a reader knows and was asked for, to decide the sizes images come out with. */
typedef struct esp_image_sizes {
    int channels;                    /* asked for, or 0 */
    int resize;                      /* asked for: shorter side, or 0 */
    int resize_height, resize_width; /* asked for: exact, or 0 */
    int crop_height, crop_width;     /* asked for, or 0 */
    esp_interpolation interpolation;
    int own_channels, own_height, own_width; /* of the images; 0 when they differ */
} esp_image_sizes;

/* The transform for a model's input of channels x height x width (0: open). What was asked for wins; then the
 * model decides, then the images where all have one size, else 3x224x224. A crop without a resize resizes to
 * 256/224 of it, a resize without a crop cuts 224/256 of it, both rounded (torchvision's recipe for
 * ImageNet); neither: images that have the wanted size are taken as they are, others are resized to 256/224
 * of it and cropped; inputs that are not square are filled by an exact resize. */
esp_transform esp_transform_decide(const esp_image_sizes *sizes, int channels, int height, int width);

/* A set whose images are read from a source. `take_user` is freed by ops->free, also on failure. `is_float`:
 * the source gives `values`. `skips_bad`: an image that cannot be read is left out and remembered
 * (esp_dataset_skipped) instead of failing the batch. `cache_bytes`: as many bytes of images are kept once
 * they are read; 0 = none. Labels are all 0 until they are set. */
typedef struct esp_lazy_images {
    const esp_image_source_ops *ops;
    void *take_user;
    esp_image_sizes sizes;
    bool is_float, skips_bad;
    size_t cache_bytes;
} esp_lazy_images;
esp_status esp_dataset_new_lazy(const char *name, const char *note, int64_t count, int class_count,
                                const esp_lazy_images *images, esp_dataset **out, esp_error *err);

bool esp_dataset_is_lazy(const esp_dataset *dataset);
bool esp_dataset_is_float(const esp_dataset *dataset);
/* How images come to their size; NULL for a set in memory. */
const esp_transform *esp_dataset_transform(const esp_dataset *dataset);

/* The set for a model: the same images at the size its input takes (esp_transform_decide); the set itself
 * when it lies in memory or fits already. Do this once where model and data meet, before
 * esp_dataset_check_model. A new reference. */
esp_status esp_dataset_fit(const esp_dataset *dataset, const esp_graph *graph, esp_dataset **out,
                           esp_error *err);

/* Images found bad and left out so far, over all sets that share the source; the messages of the first of
 * them. 0 for sets that do not skip. `buffer` of at least 512 bytes. */
int64_t esp_dataset_skipped(const esp_dataset *dataset);
bool esp_dataset_skipped_message(const esp_dataset *dataset, int64_t which, char *buffer, size_t size);

/* ---- parts of a set: they share the images ---- */

/* Cuts off a share (0 < share < 1) of every class, chosen by seed: `*out_held` has it, `*out_rest` what is
 * left, both in the set's order. A class of one image stays in the rest. ESP_INVALID when either would be
 * empty. */
esp_status esp_dataset_split(const esp_dataset *dataset, double share, uint64_t seed, esp_dataset **out_rest,
                             esp_dataset **out_held, esp_error *err);

/* A class-balanced subset of `count` images chosen by seed, in shuffled order; all of them when the set is
 * smaller. ESP_INVALID for a count below 1. */
esp_status esp_dataset_subset(const esp_dataset *dataset, int64_t count, uint64_t seed, esp_dataset **out,
                              esp_error *err);
/* The first `count` images, likewise. */
esp_status esp_dataset_head(const esp_dataset *dataset, int64_t count, esp_dataset **out, esp_error *err);

/* ---- normalisation: x = (pixel/255 - mean[c]) / std[c] ---- */
typedef enum esp_norm_origin { ESP_NORM_FROM_MODEL, ESP_NORM_FROM_USER, ESP_NORM_DEFAULT } esp_norm_origin;

typedef struct esp_normalization {
    int channels;
    float mean[ESP_MAX_IMAGE_CHANNELS];
    float std[ESP_MAX_IMAGE_CHANNELS]; /* > 0 */
    esp_norm_origin origin;
} esp_normalization;

/* Metadata key: {"mean":[...],"scale":255,"std":[...]} as JSON, one line. */
#define ESP_NORMALIZATION_KEY "espalier.normalization"

/* What to use for a model on images of `channels`: the model's metadata, else a documented default (3
 * channels: the ImageNet constants of torchvision, .485 .456 .406 / .229 .224 .225; 1 channel:
 * Fashion-MNIST's .2860 / .3530; any other: .5 / .5). Metadata may have another positive "scale": what is
 * returned is for 255, numerically the same. Metadata with another number of channels or bad numbers is an
 * error that names the key. */
esp_status esp_normalization_of(const esp_graph *graph, int channels, esp_normalization *out, esp_error *err);

/* Parses "0.5,0.5,0.5" (or one number for all channels) for the --mean and --std flags into `out`, and marks
 * it ESP_NORM_FROM_USER; either text may be NULL to keep what is there. */
esp_status esp_normalization_override(esp_normalization *out, const char *mean, const char *std,
                                      esp_error *err);

/* A graph with the normalisation stored in its metadata. */
esp_status esp_normalization_store(const esp_graph *graph, const esp_normalization *normalization,
                                   esp_graph **out, esp_error *err);

/* ---- batches ---- */

/* Where the labels of a batch go. With mixup the image at i is share[i] of an image of class label[i] and the
 * rest of one of class other[i], so its loss is share * loss(label) + (1 - share) * loss(other); without,
 * share is 1 and other is label. */
typedef struct esp_batch_labels {
    int32_t *label; /* [count] */
    int32_t *other; /* [count], or NULL: then images are not mixed, whatever the augmentation says */
    float *share;   /* [count], together with other */
} esp_batch_labels;

/* Writes images `indices[0..count)` normalised into x [count, C, H, W] and their labels. Padding by crops is
 * 0 after normalisation. Random choices depend on (seed, epoch, image index) only; the partner of a mixture
 * is the next image of the batch (of the last: the first). `augmentation` may be NULL. In a lazy set an image
 * that cannot be read is an error that names it; in one that skips such images the next good one of the set
 * takes its place. */
esp_status esp_batch_read(const esp_compute *compute, const esp_dataset *dataset,
                          const esp_normalization *normalization, const esp_augmentation *augmentation,
                          uint64_t seed, uint64_t epoch, const uint32_t *indices, int64_t count, float *x,
                          const esp_batch_labels *labels, esp_error *err);

/* The same without mixtures and without a message. */
esp_status esp_batch_fill(const esp_compute *compute, const esp_dataset *dataset,
                          const esp_normalization *normalization, const esp_augmentation *augmentation,
                          uint64_t seed, uint64_t epoch, const uint32_t *indices, int64_t count, float *x,
                          int32_t *labels);

/* Does the dataset fit the model? One float input of rank 4 with these channels and sizes (or open ones), and
 * an output [N, classes] (or [N, classes, 1, 1]) with at least the set's classes; a model with one more class
 * than the set (1001) is refused too, with a hint. Message says model's and data's shape. */
esp_status esp_dataset_check_model(const esp_dataset *dataset, const esp_graph *graph, esp_error *err);

/* The shape a checked model's only input takes for `batch` of these images: the model's own sizes, and the
 * data's where the model leaves them open. Returns whether more than the batch is open: only then an executor
 * has to be told. */
bool esp_dataset_input_shape(const esp_dataset *dataset, const esp_graph *graph, int64_t batch,
                             esp_input_shape *out);

#endif
