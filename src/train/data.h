/* Images in memory, how they are normalised, and how batches are made of them. Readers of file formats are in
 * io. */
#ifndef ESP_TRAIN_DATA_H
#define ESP_TRAIN_DATA_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compute.h"
#include "base/rng.h"
#include "graph/graph.h"
#include "graph/infer.h"

#define ESP_MAX_IMAGE_CHANNELS 4

typedef enum esp_split { ESP_SPLIT_TRAIN, ESP_SPLIT_TEST } esp_split;

/* A labelled set of equally sized images, all in memory. Reference-counted and immutable once filled. */
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
const uint8_t *esp_dataset_pixels(const esp_dataset *dataset, int64_t index);
int esp_dataset_label(const esp_dataset *dataset, int64_t index);

/* A class-balanced subset of `count` images chosen by seed, in shuffled order; all of them when the set is
 * smaller. A copy. ESP_INVALID for a count below 1. */
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
typedef struct esp_augmentation {
    int crop_padding; /* random crop of the original size from the image padded by this many zeros; 0 = off */
    bool flips;       /* horizontal flip with probability 1/2 */
} esp_augmentation;

/* Writes images `indices[0..count)` normalised into x [count, C, H, W] and their labels. Padding by crops is
 * 0 after normalisation. Random choices depend on (seed, epoch, image index) only. `augmentation` may be
 * NULL. */
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
