/* What the readers of dataset formats share. */
#ifndef ESP_IO_DATASET_INTERNAL_H
#define ESP_IO_DATASET_INTERNAL_H

#include "io/dataset.h"

/* No file of a dataset that is held in memory is larger than this. */
#define ESP_DATASET_FILE_LIMIT ((size_t)UINT32_MAX)

/* How the elements of an array of images are ordered. */
typedef enum esp_array_order { ESP_ARRAY_ANY, ESP_ARRAY_NCHW, ESP_ARRAY_NHWC } esp_array_order;

/* A spec taken apart: SCHEME[:DIRECTORY][?OPTION,...]. */
typedef struct esp_dataset_query {
    int scheme;      /* index in the list */
    char *directory; /* NULL: none is named */
    esp_image_sizes sizes;
    double test, validation; /* shares; negative: not given */
    double scale;            /* floats are divided by it; 0: not given */
    uint64_t seed;
    esp_array_order layout;
    bool skips_bad;
    int64_t cache_mib;
} esp_dataset_query;

/* Parses a spec; ESP_INVALID names what is wrong with it. Options a scheme does not take are errors. */
esp_status esp_dataset_query_parse(const char *spec, esp_dataset_query *out, esp_error *err);
void esp_dataset_query_free(esp_dataset_query *query);

typedef struct esp_dataset_request {
    const char *spec;      /* as given: becomes the dataset's name */
    const char *directory; /* known to exist */
    esp_split split;       /* never VALIDATION for readers that have no such files */
    const esp_dataset_query *query;
    /* Set by a reader that was asked for VALIDATION and found no files of it: what it gave are the training
     * images, to be cut by share. */
    bool *gave_training;
    /* Set by a reader whose directory has validation images of its own. */
    bool *has_validation;
} esp_dataset_request;

typedef esp_status esp_dataset_reader(const esp_dataset_request *request, esp_dataset **out, esp_error *err);

esp_dataset_reader esp_fashion_mnist_open;
esp_dataset_reader esp_idx_open;
esp_dataset_reader esp_cifar10_open;
esp_dataset_reader esp_cifar100_open;
esp_dataset_reader esp_folder_open;
esp_dataset_reader esp_npy_open;

/* The path of `directory/name`, or of `directory/name.gz`, whichever is there (the plain one first); NULL
 * when neither is. The caller's (esp_free). */
esp_status esp_dataset_file_find(const char *directory, const char *name, char **out, esp_error *err);

/* The content of the file that esp_dataset_file_find finds; ESP_IO when there is none.
 * `*out_path` is the one that was read, also when reading failed; both are the caller's (esp_free). */
esp_status esp_dataset_file_read(const char *directory, const char *name, char **out_path, char **out_data,
                                 size_t *out_size, esp_error *err);

/* Puts a lazy set over one in memory in its place, at the sizes that are asked for. `*set` stays as it is on
 * failure. */
esp_status esp_dataset_resize(const esp_dataset_query *query, esp_dataset **set, esp_error *err);

/* ---- npy: numpy's file format of one array (npy_header.c) ---- */
#define ESP_NPY_RANK_MAX 4

typedef struct esp_npy_header {
    char type;     /* 'u' unsigned, 'i' signed, 'f' float, 'b' boolean */
    int item_size; /* bytes */
    int rank;
    int64_t dims[ESP_NPY_RANK_MAX];
    size_t data_offset;
} esp_npy_header;

/* Reads the header of the `size` first bytes of a file of `file_size` bytes, and checks that the elements are
 * all there. Versions 1, 2 and 3, little-endian, in C order; fortran_order is ESP_UNSUPPORTED. */
esp_status esp_npy_header_read(const char *path, const char *bytes, size_t size, uint64_t file_size,
                               esp_npy_header *out, esp_error *err);

#endif
