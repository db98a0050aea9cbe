/* What the readers of dataset formats share. */
#ifndef ESP_IO_DATASET_INTERNAL_H
#define ESP_IO_DATASET_INTERNAL_H

#include "io/dataset.h"

/* No file of a dataset that is held in memory is larger than this. */
#define ESP_DATASET_FILE_LIMIT ((size_t)UINT32_MAX)

typedef struct esp_dataset_request {
    const char *spec; /* as given: becomes the dataset's name */
    const char *directory;
    esp_split split;
} esp_dataset_request;

/* The directory is known to exist. */
typedef esp_status esp_dataset_reader(const esp_dataset_request *request, esp_dataset **out, esp_error *err);

esp_dataset_reader esp_fashion_mnist_open;
esp_dataset_reader esp_idx_open;
esp_dataset_reader esp_cifar10_open;

/* The path of `directory/name`, or of `directory/name.gz`, whichever is there (the plain one first); NULL
 * when neither is. The caller's (esp_free). */
esp_status esp_dataset_file_find(const char *directory, const char *name, char **out, esp_error *err);

/* The content of the file that esp_dataset_file_find finds; ESP_IO when there is none.
 * `*out_path` is the one that was read, also when reading failed; both are the caller's (esp_free). */
esp_status esp_dataset_file_read(const char *directory, const char *name, char **out_path, char **out_data,
                                 size_t *out_size, esp_error *err);

/* "train" or "test". */
const char *esp_split_name(esp_split split);

#endif
