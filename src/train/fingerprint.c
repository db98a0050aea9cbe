/* Sizes and dates of files are no part of it: a set that was copied to another machine is the same set. */
#include "train/fingerprint.h"

#include "base/hash.h"
#include "train/data_internal.h"

static uint64_t hash_labels(const esp_dataset *dataset)
{
    int64_t count = esp_dataset_count(dataset);
    uint64_t hash = esp_hash_word(0, (uint64_t)count);
    for (int64_t i = 0; i < count; i++) {
        hash = esp_hash_word(hash, (uint64_t)esp_dataset_label(dataset, i));
    }
    return hash;
}

esp_status esp_dataset_fingerprint_find(const esp_dataset *dataset, esp_dataset_fingerprint *out,
                                        esp_error *err)
{
    const esp_read_wish wish = {0};
    esp_read_room room = {0};
    esp_status status = ESP_OK;
    int64_t count = esp_dataset_count(dataset);
    int64_t sample =
        esp_dataset_is_lazy(dataset) && count > ESP_FINGERPRINT_IMAGES ? ESP_FINGERPRINT_IMAGES : count;
    size_t bytes = (size_t)esp_dataset_channels(dataset) * (size_t)esp_dataset_height(dataset) *
                   (size_t)esp_dataset_width(dataset) * (esp_dataset_is_float(dataset) ? sizeof(float) : 1);
    uint64_t hash = esp_hash_word(0, bytes);
    if (sample < count && dataset->picks != NULL) { /* which of the files, where not all of them are read */
        hash = esp_hash_bytes(hash, dataset->picks, (size_t)count * sizeof(*dataset->picks));
    }
    for (int64_t i = 0; status == ESP_OK && i < sample; i++) {
        const void *pixels = NULL;
        status = esp_dataset_read(dataset, i * count / sample, &wish, &room, &pixels, err);
        if (status == ESP_OK) {
            hash = esp_hash_bytes(hash, pixels, pixels == NULL ? 0 : bytes);
        }
    }
    esp_read_room_free(&room);
    if (status == ESP_OK) {
        *out = (esp_dataset_fingerprint){hash_labels(dataset), hash};
    }
    return status;
}
