/* Batches: bytes to normalised floats, with random crop and flip. One task per image over the pool; what an
 * image gets depends on (seed, epoch, image index) only, so batches are the same for any number of threads
 * and any batch size. A pixel has 256 values, so normalising is a table look-up. */
#include <string.h>

#include "train/data.h"

typedef struct batch_job {
    const esp_dataset *dataset;
    const esp_augmentation *augmentation; /* NULL: none */
    uint64_t epoch_seed;
    const uint32_t *indices;
    int64_t channels, height, width;
    float *x;
    int32_t *labels;
    float table[ESP_MAX_IMAGE_CHANNELS][256];
} batch_job;

/* Float arithmetic in torchvision's order (ToTensor, then Normalize), so that inputs agree to the bit. */
static void fill_table(batch_job *job, const esp_normalization *normalization)
{
    for (int c = 0; c < job->channels; c++) {
        for (int value = 0; value < 256; value++) {
            job->table[c][value] = ((float)value / 255.0f - normalization->mean[c]) / normalization->std[c];
        }
    }
}

/* Where the crop starts in the image (may be negative: padding), and whether it is mirrored. */
typedef struct placement {
    int64_t y, x;
    bool is_flipped;
} placement;

static placement place_image(const batch_job *job, uint32_t index)
{
    placement place = {0};
    if (job->augmentation == NULL) {
        return place;
    }
    esp_rng rng;
    esp_rng_seed_stream(&rng, job->epoch_seed, index);
    int64_t padding = job->augmentation->crop_padding;
    if (padding > 0) {
        uint64_t offsets = (uint64_t)padding * 2 + 1;
        place.y = (int64_t)esp_rng_below(&rng, offsets) - padding;
        place.x = (int64_t)esp_rng_below(&rng, offsets) - padding;
    }
    place.is_flipped = job->augmentation->flips && esp_rng_below(&rng, 2) == 1;
    return place;
}

static void fill_row(const float *table, const uint8_t *source, int64_t width, int64_t shift, float *target)
{
    int64_t first = shift < 0 ? -shift : 0; /* target columns [first, end) have a source pixel */
    int64_t end = shift > 0 ? width - shift : width;
    first = first < width ? first : width;
    end = end > first ? end : first;
    memset(target, 0, (size_t)first * sizeof(float));
    for (int64_t x = first; x < end; x++) {
        target[x] = table[source[x + shift]];
    }
    memset(target + end, 0, (size_t)(width - end) * sizeof(float));
}

static void mirror_row(float *row, int64_t width)
{
    for (int64_t left = 0, right = width - 1; left < right; left++, right--) {
        float kept = row[left];
        row[left] = row[right];
        row[right] = kept;
    }
}

static void fill_image(void *context, int64_t task, int slot)
{
    (void)slot;
    const batch_job *job = context;
    uint32_t index = job->indices[task];
    const uint8_t *pixels = esp_dataset_pixels(job->dataset, index);
    float *target = job->x + task * job->channels * job->height * job->width;
    placement place = place_image(job, index);
    for (int64_t c = 0; c < job->channels; c++) {
        const uint8_t *plane = pixels + c * job->height * job->width;
        for (int64_t y = 0; y < job->height; y++, target += job->width) {
            int64_t source_y = y + place.y;
            if (source_y < 0 || source_y >= job->height) {
                memset(target, 0, (size_t)job->width * sizeof(float));
                continue;
            }
            fill_row(job->table[c], plane + source_y * job->width, job->width, place.x, target);
            if (place.is_flipped) {
                mirror_row(target, job->width);
            }
        }
    }
    job->labels[task] = esp_dataset_label(job->dataset, index);
}

esp_status esp_batch_fill(const esp_compute *compute, const esp_dataset *dataset,
                          const esp_normalization *normalization, const esp_augmentation *augmentation,
                          uint64_t seed, uint64_t epoch, const uint32_t *indices, int64_t count, float *x,
                          int32_t *labels)
{
    bool is_augmented = augmentation != NULL && (augmentation->crop_padding > 0 || augmentation->flips);
    batch_job job = {
        .dataset = dataset,
        .augmentation = is_augmented ? augmentation : NULL,
        .indices = indices,
        .channels = esp_dataset_channels(dataset),
        .height = esp_dataset_height(dataset),
        .width = esp_dataset_width(dataset),
        .x = x,
        .labels = labels,
    };
    esp_rng rng;
    esp_rng_seed_stream(&rng, seed, epoch);
    job.epoch_seed = esp_rng_u64(&rng);
    fill_table(&job, normalization);
    return esp_compute_run(compute, count, fill_image, &job);
}
