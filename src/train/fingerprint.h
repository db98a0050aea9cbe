/* Is it the same set of images? */
#ifndef ESP_TRAIN_FINGERPRINT_H
#define ESP_TRAIN_FINGERPRINT_H

#include "train/data.h"

/* Images that are read of a set whose images lie in files. */
#define ESP_FINGERPRINT_IMAGES 64

typedef struct esp_dataset_fingerprint {
    uint64_t labels; /* of all of them, in order */
    uint64_t images; /* pixels as a network sees them: of all images of a set in memory, of
                        ESP_FINGERPRINT_IMAGES spread evenly over any other */
} esp_dataset_fingerprint;

/* An image of the sample that cannot be read fails as in a batch (its file is named); a set that skips such
 * images takes it for what it is: missing. */
esp_status esp_dataset_fingerprint_find(const esp_dataset *dataset, esp_dataset_fingerprint *out,
                                        esp_error *err);

#endif
