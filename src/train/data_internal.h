/* What the files about data sets share: a set, the source of a lazy one, and reading one image of it. */
#ifndef ESP_TRAIN_DATA_INTERNAL_H
#define ESP_TRAIN_DATA_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "train/data.h"

/* Messages of bad images that are kept; more are only counted. */
#define ESP_SKIPPED_KEPT 20

/* Images on disk; shared by sets that read them at different sizes. */
typedef struct esp_lazy_source {
    atomic_int references;
    esp_image_source_ops ops;
    void *user;
    esp_image_sizes sizes;
    bool is_float, skips_bad;
    size_t cache_bytes;
    _Atomic uint8_t *is_bad; /* [images of the root]; NULL unless skips_bad */
    pthread_mutex_t mutex;   /* for what is below */
    int64_t skipped;
    char *messages[ESP_SKIPPED_KEPT];
} esp_lazy_source;

/* A set is a root, which has the images, or a part: places in a root. */
struct esp_dataset {
    atomic_int references;
    char *name, *note;
    int64_t count, image_values;
    int channels, height, width, class_count;
    int32_t *labels;
    esp_dataset *root;       /* NULL: this is one */
    uint32_t *picks;         /* part: [count] images of the root; NULL: its first ones */
    char **class_names;      /* root: class_count entries, each set */
    uint8_t *pixels;         /* root in memory */
    esp_lazy_source *source; /* lazy root */
    esp_transform transform;
    uint8_t *_Atomic *cache; /* lazy root: [count] images once they are read, or NULL */
    atomic_size_t cached;    /* bytes in it */
};

/* A set without images and labels; the caller checks the sizes. */
esp_status esp_dataset_make(const char *name, const char *note, int64_t count, int channels, int height,
                            int width, int class_count, esp_dataset **out, esp_error *err);
/* Names "class 0", ... for a root. */
esp_status esp_dataset_name_classes(esp_dataset *dataset, esp_error *err);
esp_status esp_dataset_check_sizes(const char *name, int64_t count, int channels, int height, int width,
                                   int class_count, esp_error *err);

const esp_dataset *esp_dataset_root(const esp_dataset *dataset);

void esp_lazy_source_unref(esp_lazy_source *source);
void esp_dataset_free_cache(esp_dataset *dataset);

/* Scratch of one thread that reads images. Zero-initialise. */
typedef struct esp_read_room {
    esp_image image;
    esp_transform_room transform;
    esp_buffer planes;
} esp_read_room;
void esp_read_room_free(esp_read_room *room);

/* How an image is wanted. */
typedef struct esp_read_wish {
    const esp_augmentation *augmentation; /* only boxes and colours count here; NULL: none */
    uint64_t epoch_seed;
    uint8_t *space; /* image_values bytes (floats in a set of floats) to read into, or NULL: the room's */
} esp_read_wish;

/* The image as bytes, or floats in 0..1, [channels, height, width]: in `*out`, which points into the wish's
 * space, the room, or memory of the set. NULL in `*out` with ESP_OK: bad, and the set skips such images. */
esp_status esp_dataset_read(const esp_dataset *dataset, int64_t index, const esp_read_wish *wish,
                            esp_read_room *room, const void **out, esp_error *err);

/* Whether reading an image takes no more than a pointer. */
bool esp_dataset_is_at_hand(const esp_dataset *dataset, const esp_augmentation *augmentation);

/* ---- finishing: batch.c ---- */

/* One image of a batch: what esp_dataset_read gave, and the image it is (bad ones are replaced). */
typedef struct esp_batch_image {
    const void *pixels; /* NULL: left out; zeros, label -1 */
    int64_t index;
} esp_batch_image;

/* Normalises `count` images into x, placed, mirrored, cut out and mixed. */
esp_status esp_batch_finish(const esp_compute *compute, const esp_dataset *dataset,
                            const esp_normalization *normalization, const esp_augmentation *augmentation,
                            uint64_t epoch_seed, const esp_batch_image *images, int64_t count, float *x,
                            const esp_batch_labels *labels);

#endif
