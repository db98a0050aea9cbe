/* Batches prepared ahead: images are read, decoded and transformed by threads of the loader's own while the
 * network computes. What a batch holds depends on (data, seed, epoch, order) only, never on the number of
 * threads. For images in memory nothing runs ahead: making a batch of them is a copy. */
#ifndef ESP_TRAIN_LOADER_H
#define ESP_TRAIN_LOADER_H

#include "base/compute.h"
#include "train/data.h"

typedef struct esp_loader esp_loader;

typedef struct esp_loader_options {
    const esp_augmentation *augmentation; /* NULL: none; copied */
    uint64_t seed;
    int64_t batch; /* largest number of images taken at once; >= 1 */
    int threads; /* decoding threads; 0: one per core; negative: none, images are read when they are taken */
    int64_t ahead;       /* images kept ready; 0: two batches, less when they would take more than 256 MiB */
    bool leaves_out_bad; /* bad images of a set that skips them become labels -1 (evaluation) instead of the
                            next good image (training) */
} esp_loader_options;

/* Everything but `options` is borrowed for the loader's life. */
esp_status esp_loader_new(const esp_dataset *dataset, const esp_normalization *normalization,
                          const esp_loader_options *options, esp_loader **out, esp_error *err);
void esp_loader_free(esp_loader *loader); /* stops the threads */

/* Begins a pass over order[0..count), which is borrowed until the next begin; what was read ahead of an
 * unfinished pass is dropped. Threads start reading at once. `epoch` is for the augmentation's choices. A
 * pass may begin anywhere in an epoch's order: resuming is beginning at order + n. */
esp_status esp_loader_begin(esp_loader *loader, uint64_t epoch, const uint32_t *order, int64_t count,
                            esp_error *err);

/* The next `count` images of the pass (at most `batch`, and not more than are left), as esp_batch_read gives
 * them. Waits for the threads; cancelling `compute` ends the waiting. */
esp_status esp_loader_take(esp_loader *loader, const esp_compute *compute, int64_t count, float *x,
                           const esp_batch_labels *labels, esp_error *err);

/* Seconds esp_loader_take has waited for images since the loader was made: 0 when loading is no bottleneck.
 */
double esp_loader_waited_s(const esp_loader *loader);

#endif
