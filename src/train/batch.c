/* Batches: bytes to normalised floats, with random crop and flip, cutout and mixtures. One task per image
 * over the pool; what an image gets depends on (seed, epoch, image index) only, so batches are the same for
 * any number of threads and any batch size. A pixel has 256 values, so normalising bytes is a table look-up.
 */
#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "base/memory.h"
#include "train/data_internal.h"

/* Pixels of all images that are mixed at once: fits the nearest cache. */
#define MIX_BLOCK 1024

typedef struct batch_job {
    const esp_dataset *dataset;
    const esp_augmentation *augmentation; /* NULL: none */
    uint64_t epoch_seed;
    int64_t channels, height, width, count;
    float *x;
    const esp_batch_labels *labels;
    const esp_normalization *normalization;
    bool is_float;
    float table[ESP_MAX_IMAGE_CHANNELS][256];
    /* finishing images that are ready */
    const esp_batch_image *images;
    /* reading them first */
    const uint32_t *indices;
    esp_read_room *rooms; /* [slots]; NULL when images are at hand */
    pthread_mutex_t mutex;
    int64_t failed; /* the first task that failed, or `count`; with its reason: */
    esp_status status;
    esp_error error;
} batch_job;

/* Float arithmetic in torchvision's order (ToTensor, then Normalize), so that inputs agree to the bit. */
static void fill_table(batch_job *job)
{
    const esp_normalization *normalization = job->normalization;
    for (int c = 0; c < job->channels; c++) {
        for (int value = 0; value < 256; value++) {
            job->table[c][value] = ((float)value / 255.0f - normalization->mean[c]) / normalization->std[c];
        }
    }
}

/* ---- one image ---- */

/* Where the crop starts in the image (may be negative: padding), whether it is mirrored, and the square that
 * is cut out of the result: rows [hole_top, hole_bottom). */
typedef struct placement {
    int64_t y, x;
    bool is_flipped;
    int64_t hole_top, hole_bottom, hole_left, hole_right;
} placement;

static int64_t between(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

static placement place_image(const batch_job *job, uint32_t index)
{
    placement place = {0};
    if (job->augmentation == NULL) {
        return place;
    }
    esp_rng rng;
    esp_choice_seed(&rng, job->epoch_seed, ESP_CHOICE_PLACE, index);
    int64_t padding = job->augmentation->crop_padding;
    if (padding > 0) {
        uint64_t offsets = (uint64_t)padding * 2 + 1;
        place.y = (int64_t)esp_rng_below(&rng, offsets) - padding;
        place.x = (int64_t)esp_rng_below(&rng, offsets) - padding;
    }
    place.is_flipped = job->augmentation->flips && esp_rng_below(&rng, 2) == 1;
    int64_t side = job->augmentation->cutout;
    if (side > 0) { /* centred on a pixel of the image: at the border a part of it is outside, as published */
        esp_choice_seed(&rng, job->epoch_seed, ESP_CHOICE_CUTOUT, index);
        int64_t top = (int64_t)esp_rng_below(&rng, (uint64_t)job->height) - side / 2;
        int64_t left = (int64_t)esp_rng_below(&rng, (uint64_t)job->width) - side / 2;
        place.hole_top = between(top, 0, job->height);
        place.hole_bottom = between(top + side, 0, job->height);
        place.hole_left = between(left, 0, job->width);
        place.hole_right = between(left + side, 0, job->width);
    }
    return place;
}

/* Normalises one row of channel c: pixel y*width + x of its plane, for x in [0, count). */
static void normalise(const batch_job *job, const void *pixels, int c, int64_t first, int64_t count,
                      float *target)
{
    if (!job->is_float) {
        const uint8_t *source = (const uint8_t *)pixels + first;
        for (int64_t x = 0; x < count; x++) {
            target[x] = job->table[c][source[x]];
        }
        return;
    }
    const float *source = (const float *)pixels + first;
    float mean = job->normalization->mean[c], std = job->normalization->std[c];
    for (int64_t x = 0; x < count; x++) {
        target[x] = (source[x] - mean) / std;
    }
}

static void fill_row(const batch_job *job, const void *pixels, int c, int64_t row, int64_t shift,
                     float *target)
{
    int64_t width = job->width;
    int64_t first = shift < 0 ? -shift : 0; /* target columns [first, end) have a source pixel */
    int64_t end = shift > 0 ? width - shift : width;
    first = first < width ? first : width;
    end = end > first ? end : first;
    memset(target, 0, (size_t)first * sizeof(float));
    normalise(job, pixels, c, row + first + shift, end - first, target + first);
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

static void finish_row(const batch_job *job, const placement *place, const void *pixels, int c, int64_t y,
                       float *target)
{
    int64_t source_y = y + place->y;
    if (source_y < 0 || source_y >= job->height) {
        memset(target, 0, (size_t)job->width * sizeof(float));
        return;
    }
    fill_row(job, pixels, c, (c * job->height + source_y) * job->width, place->x, target);
    if (place->is_flipped) {
        mirror_row(target, job->width);
    }
    if (y >= place->hole_top && y < place->hole_bottom) {
        memset(target + place->hole_left, 0, (size_t)(place->hole_right - place->hole_left) * sizeof(float));
    }
}

/* Image and label at place `task` of the batch. */
static void finish_image(const batch_job *job, int64_t task, const esp_batch_image *image)
{
    int64_t size = job->channels * job->height * job->width;
    float *target = job->x + task * size;
    if (image->pixels == NULL) {
        memset(target, 0, (size_t)size * sizeof(float));
        job->labels->label[task] = -1;
    } else {
        placement place = place_image(job, (uint32_t)image->index);
        for (int c = 0; c < job->channels; c++) {
            for (int64_t y = 0; y < job->height; y++, target += job->width) {
                finish_row(job, &place, image->pixels, c, y, target);
            }
        }
        job->labels->label[task] = esp_dataset_label(job->dataset, image->index);
    }
    if (job->labels->other != NULL) {
        job->labels->other[task] = job->labels->label[task];
        job->labels->share[task] =
            (float)esp_mixup_share(job->augmentation, job->epoch_seed, (uint32_t)image->index);
    }
}

/* ---- mixtures ---- */

/* Pixels [task * MIX_BLOCK, ...) of all images: each is mixed with the next one, which is still as it was. */
static void mix_block(void *context, int64_t task, int slot)
{
    (void)slot;
    const batch_job *job = context;
    int64_t size = job->channels * job->height * job->width;
    int64_t start = task * MIX_BLOCK, length = size - start < MIX_BLOCK ? size - start : MIX_BLOCK;
    float first[MIX_BLOCK];
    memcpy(first, job->x + start, (size_t)length * sizeof(float));
    for (int64_t i = 0; i < job->count; i++) {
        float *own = job->x + i * size + start;
        const float *other = i + 1 < job->count ? own + size : first;
        float share = job->labels->share[i];
        for (int64_t k = 0; k < length; k++) {
            own[k] = share * own[k] + (1.0f - share) * other[k];
        }
    }
}

static esp_status mix(const esp_compute *compute, batch_job *job)
{
    bool is_mixed = job->labels->other != NULL && job->augmentation != NULL && job->augmentation->mixup > 0.0;
    if (!is_mixed) {
        return ESP_OK;
    }
    for (int64_t i = 0; i < job->count; i++) {
        job->labels->other[i] = job->labels->label[i + 1 < job->count ? i + 1 : 0];
    }
    int64_t size = job->channels * job->height * job->width;
    return esp_compute_run(compute, (size + MIX_BLOCK - 1) / MIX_BLOCK, mix_block, job);
}

/* ---- the whole ---- */

static batch_job make_job(const esp_dataset *dataset, const esp_normalization *normalization,
                          const esp_augmentation *augmentation, uint64_t epoch_seed, int64_t count, float *x,
                          const esp_batch_labels *labels)
{
    batch_job job = {
        .dataset = dataset,
        .augmentation = augmentation,
        .epoch_seed = epoch_seed,
        .channels = esp_dataset_channels(dataset),
        .height = esp_dataset_height(dataset),
        .width = esp_dataset_width(dataset),
        .count = count,
        .x = x,
        .labels = labels,
        .normalization = normalization,
        .is_float = esp_dataset_is_float(dataset),
    };
    if (!job.is_float) {
        fill_table(&job);
    }
    return job;
}

static void finish_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const batch_job *job = context;
    finish_image(job, task, &job->images[task]);
}

esp_status esp_batch_finish(const esp_compute *compute, const esp_dataset *dataset,
                            const esp_normalization *normalization, const esp_augmentation *augmentation,
                            uint64_t epoch_seed, const esp_batch_image *images, int64_t count, float *x,
                            const esp_batch_labels *labels)
{
    batch_job job = make_job(dataset, normalization, augmentation, epoch_seed, count, x, labels);
    job.images = images;
    esp_status status = esp_compute_run(compute, count, finish_task, &job);
    return status == ESP_OK ? mix(compute, &job) : status;
}

/* The first good image from `image->index` on, going around the set once. */
static esp_status read_good(const batch_job *job, esp_batch_image *image, esp_read_room *room, esp_error *err)
{
    const esp_read_wish wish = {.augmentation = job->augmentation, .epoch_seed = job->epoch_seed};
    int64_t count = esp_dataset_count(job->dataset);
    for (int64_t tried = 0; tried < count; tried++) {
        esp_status status = esp_dataset_read(job->dataset, image->index, &wish, room, &image->pixels, err);
        if (status != ESP_OK || image->pixels != NULL) {
            return status;
        }
        image->index = (image->index + 1) % count;
    }
    return esp_fail(err, ESP_FORMAT, "dataset '%s': none of its %" PRId64 " images can be read",
                    esp_dataset_name(job->dataset), count);
}

static void read_task(void *context, int64_t task, int slot)
{
    batch_job *job = context;
    esp_batch_image image = {.index = job->indices[task]};
    if (job->rooms == NULL) {
        image.pixels = esp_dataset_pixels(job->dataset, image.index);
        finish_image(job, task, &image);
        return;
    }
    esp_error error = {0};
    esp_status status = read_good(job, &image, &job->rooms[slot], &error);
    if (status == ESP_OK) {
        finish_image(job, task, &image);
        return;
    }
    pthread_mutex_lock(&job->mutex);
    if (task < job->failed) { /* the first image of the batch, whichever thread meets a bad one first */
        job->failed = task;
        job->status = status;
        job->error = error;
    }
    pthread_mutex_unlock(&job->mutex);
}

static esp_status read_images(const esp_compute *compute, batch_job *job, esp_error *err)
{
    int slots = esp_compute_slots(compute);
    job->rooms = esp_alloc_zero((size_t)slots, sizeof(*job->rooms));
    if (job->rooms == NULL) {
        return esp_fail_memory(err, "room for images", (size_t)slots * sizeof(*job->rooms));
    }
    job->failed = job->count;
    pthread_mutex_init(&job->mutex, NULL);
    esp_status status = esp_compute_run(compute, job->count, read_task, job);
    pthread_mutex_destroy(&job->mutex);
    for (int i = 0; i < slots; i++) {
        esp_read_room_free(&job->rooms[i]);
    }
    esp_free(job->rooms);
    if (status == ESP_OK && job->status != ESP_OK) {
        status = job->status;
        if (err != NULL) {
            *err = job->error;
        }
    }
    return status;
}

esp_status esp_batch_read(const esp_compute *compute, const esp_dataset *dataset,
                          const esp_normalization *normalization, const esp_augmentation *augmentation,
                          uint64_t seed, uint64_t epoch, const uint32_t *indices, int64_t count, float *x,
                          const esp_batch_labels *labels, esp_error *err)
{
    batch_job job =
        make_job(dataset, normalization, augmentation, esp_epoch_seed(seed, epoch), count, x, labels);
    job.indices = indices;
    esp_status status = esp_dataset_is_at_hand(dataset, augmentation)
                            ? esp_compute_run(compute, count, read_task, &job)
                            : read_images(compute, &job, err);
    if (status == ESP_OK) {
        status = mix(compute, &job);
    }
    return status == ESP_CANCELLED ? esp_fail(err, ESP_CANCELLED, "reading images stopped") : status;
}

esp_status esp_batch_fill(const esp_compute *compute, const esp_dataset *dataset,
                          const esp_normalization *normalization, const esp_augmentation *augmentation,
                          uint64_t seed, uint64_t epoch, const uint32_t *indices, int64_t count, float *x,
                          int32_t *labels)
{
    const esp_batch_labels plain = {.label = labels};
    return esp_batch_read(compute, dataset, normalization, augmentation, seed, epoch, indices, count, x,
                          &plain, NULL);
}
