/* Datasets by a spec string: SCHEME, SCHEME:DIR, SCHEME:DIR?OPTION,OPTION=VALUE (train/data.h). */
#ifndef ESP_IO_DATASET_H
#define ESP_IO_DATASET_H

#include <stddef.h>

#include "base/status.h"
#include "train/data.h"

/* Which options a scheme takes. */
#define ESP_DATASET_PARTS  1  /* val, seed */
#define ESP_DATASET_SIZES  2  /* resize, crop, interpolation, channels, cache */
#define ESP_DATASET_TEST   4  /* test */
#define ESP_DATASET_ARRAYS 8  /* layout, scale */
#define ESP_DATASET_LAZY   16 /* skip-bad; its readers look for validation images of their own */
#define ESP_DATASET_COMMON (ESP_DATASET_PARTS | ESP_DATASET_SIZES)

/* One list of schemes: the opener, help texts and "did you mean" come from it.
 * Columns: scheme, reader, directory when the spec gives none (NULL: it must), options, help text. */
#define ESP_DATASET_LIST(X)                                                                                  \
    X("fashion-mnist", esp_fashion_mnist_open, "/usr/share/datasets/fashion-mnist", ESP_DATASET_COMMON,      \
      "Fashion-MNIST: 60,000 and 10,000 grey 28x28 images of 10 kinds of clothes (Debian: "                  \
      "dataset-fashion-mnist)")                                                                              \
    X("idx", esp_idx_open, NULL, ESP_DATASET_COMMON,                                                         \
      "a directory with the four files of MNIST in IDX format, gzipped or not")                              \
    X("cifar10", esp_cifar10_open, NULL, ESP_DATASET_COMMON,                                                 \
      "a directory with CIFAR-10 in its binary version")                                                     \
    X("cifar100", esp_cifar100_open, NULL, ESP_DATASET_COMMON,                                               \
      "a directory with CIFAR-100 in its binary version: the 100 fine labels")                               \
    X("folder", esp_folder_open, NULL, ESP_DATASET_COMMON | ESP_DATASET_LAZY | ESP_DATASET_TEST,             \
      "JPEG and PNG images, one directory per class, in train/ and test/ (or val/), else split by seed")     \
    X("npy", esp_npy_open, NULL, ESP_DATASET_COMMON | ESP_DATASET_LAZY | ESP_DATASET_ARRAYS,                 \
      "x_train.npy, y_train.npy, x_test.npy, y_test.npy: uint8 or float32, NHWC or NCHW")

typedef struct esp_dataset_scheme {
    const char *name;
    const char *default_directory; /* NULL: the spec must name one */
    unsigned options;              /* ESP_DATASET_PARTS, ... */
    const char *help;              /* one line */
} esp_dataset_scheme;

/* The schemes in the order of the list; `*out_count` of them. */
const esp_dataset_scheme *esp_dataset_schemes(size_t *out_count);

/* One line per option of a spec: "resize=N|HxW" and what it does; `*out_count` of them. */
typedef struct esp_dataset_option {
    const char *name, *argument, *help; /* argument NULL: none */
    unsigned group;                     /* ESP_DATASET_PARTS, ... */
} esp_dataset_option;
const esp_dataset_option *esp_dataset_options(size_t *out_count);

/* Opens one split. ESP_INVALID for an unknown scheme or option (names the nearest one) or a missing directory
 * part, ESP_IO for missing files (names what was looked for), ESP_FORMAT for damaged ones (found and
 * expected). VALIDATION: images of their own where the format has some (folder: val/ beside test/; npy:
 * x_val.npy), else the share `val` of the training images chosen by `seed` for every class, which TRAIN then
 * leaves out; ESP_STATE when there is neither. */
esp_status esp_dataset_open(const char *spec, esp_split split, esp_dataset **out, esp_error *err);

/* The same at the size a model takes (esp_dataset_fit): what to call where a model is at hand. */
esp_status esp_dataset_open_for(const char *spec, esp_split split, const esp_graph *graph, esp_dataset **out,
                                esp_error *err);

#endif
