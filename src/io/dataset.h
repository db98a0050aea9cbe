/* Datasets by a spec string: SCHEME or SCHEME:DIR. The whole split is read into memory (train/data.h). */
#ifndef ESP_IO_DATASET_H
#define ESP_IO_DATASET_H

#include <stddef.h>

#include "base/status.h"
#include "train/data.h"

/* One list of schemes: the opener, help texts and "did you mean" come from it.
 * Columns: scheme, reader, directory when the spec gives none (NULL: it must), help text. */
#define ESP_DATASET_LIST(X)                                                                                  \
    X("fashion-mnist", esp_fashion_mnist_open, "/usr/share/datasets/fashion-mnist",                          \
      "Fashion-MNIST: 60,000 and 10,000 grey 28x28 images of 10 kinds of clothes (Debian: "                  \
      "dataset-fashion-mnist)")                                                                              \
    X("idx", esp_idx_open, NULL, "a directory with the four files of MNIST in IDX format, gzipped or not")   \
    X("cifar10", esp_cifar10_open, NULL, "a directory with CIFAR-10 in its binary version")

typedef struct esp_dataset_scheme {
    const char *name;
    const char *default_directory; /* NULL: the spec must name one */
    const char *help;              /* one line */
} esp_dataset_scheme;

/* The schemes in the order of the list; `*out_count` of them. */
const esp_dataset_scheme *esp_dataset_schemes(size_t *out_count);

/* Opens one split. ESP_INVALID for an unknown scheme (names the nearest one) or a missing directory part,
 * ESP_IO for missing files (names what was looked for), ESP_FORMAT for damaged ones (found and expected). */
esp_status esp_dataset_open(const char *spec, esp_split split, esp_dataset **out, esp_error *err);

#endif
