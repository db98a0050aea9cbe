/* The loader: a ring of places for images, filled by threads in the order of the pass and emptied by the one
 * that takes batches. Position p of the pass lies in place p modulo the ring's size. A thread takes the next
 * position as long as the ring has room, reads the image into its place, and marks it; taking waits for the
 * positions of a batch, finishes them (normalising, crop, flip, mixing) over the compute pool, and gives
 * their places back. Which thread read an image does not matter to what it holds.
 *
 * Everything in the ring is under one mutex, but for the pixels of a place: while it is being read they are
 * the reader's, and once it is marked they are the taker's. */
#include "train/loader.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "train/data_internal.h"

#define MOST_THREADS   64
#define RING_BYTES     ((size_t)256 << 20)
#define CANCEL_POLL_MS 50

typedef struct place {
    uint8_t *space;
    const void *pixels; /* into space or the set's memory; NULL: left out */
    int64_t index;      /* of the image that lies here */
    bool is_ready;
    esp_status status;
    esp_error error;
} place;

struct esp_loader {
    const esp_dataset *dataset;
    esp_normalization normalization;
    esp_augmentation augmentation;
    uint64_t seed, epoch_seed, epoch;
    int64_t batch;
    bool leaves_out_bad;
    esp_batch_image *images; /* [batch] */
    double waited_s;

    pthread_mutex_t mutex;
    pthread_cond_t has_room, has_image;
    place *ring; /* NULL: nothing runs ahead */
    uint8_t *ring_memory;
    int64_t ring_size;
    const uint32_t *order;
    int64_t count, next, taken; /* of the pass; positions [taken, next) are in the ring */
    int busy;                   /* threads that are reading */
    bool is_stopping;
    int thread_count;
    pthread_t threads[MOST_THREADS];
};

/* ---- reading one image ---- */

/* Reads the image of order position p; the next good one when it is bad and may be replaced. */
static esp_status read_place(const esp_loader *loader, place *at, esp_read_room *room, esp_error *err)
{
    const esp_read_wish wish = {&loader->augmentation, loader->epoch_seed, at->space};
    int64_t count = esp_dataset_count(loader->dataset);
    for (int64_t tried = 0; tried < count; tried++) {
        esp_status status = esp_dataset_read(loader->dataset, at->index, &wish, room, &at->pixels, err);
        if (status != ESP_OK || at->pixels != NULL || loader->leaves_out_bad) {
            return status;
        }
        at->index = (at->index + 1) % count;
    }
    return esp_fail(err, ESP_FORMAT, "dataset '%s': none of its %" PRId64 " images can be read",
                    esp_dataset_name(loader->dataset), count);
}

static bool has_work(const esp_loader *loader)
{
    return loader->next < loader->count && loader->next < loader->taken + loader->ring_size;
}

static void *run_thread(void *user)
{
    esp_loader *loader = user;
    esp_read_room room = {0};
    pthread_mutex_lock(&loader->mutex);
    for (;;) {
        while (!loader->is_stopping && !has_work(loader)) {
            pthread_cond_wait(&loader->has_room, &loader->mutex);
        }
        if (loader->is_stopping) {
            break;
        }
        place *at = &loader->ring[loader->next % loader->ring_size];
        at->index = loader->order[loader->next++];
        loader->busy++;
        pthread_mutex_unlock(&loader->mutex);
        esp_status status = read_place(loader, at, &room, &at->error);
        pthread_mutex_lock(&loader->mutex);
        at->status = status;
        at->is_ready = true;
        loader->busy--;
        pthread_cond_signal(&loader->has_image);
    }
    pthread_mutex_unlock(&loader->mutex);
    esp_read_room_free(&room);
    return NULL;
}

/* ---- life ---- */

static size_t image_bytes(const esp_dataset *dataset)
{
    return (size_t)esp_dataset_channels(dataset) * (size_t)esp_dataset_height(dataset) *
           (size_t)esp_dataset_width(dataset) * (esp_dataset_is_float(dataset) ? sizeof(float) : 1);
}

static esp_status make_ring(esp_loader *loader, int64_t ahead, esp_error *err)
{
    size_t bytes = (image_bytes(loader->dataset) + ESP_ALIGNMENT - 1) / ESP_ALIGNMENT * ESP_ALIGNMENT;
    int64_t size = ahead > 0 ? ahead : 2 * loader->batch;
    int64_t fitting = (int64_t)(RING_BYTES / bytes);
    size = ahead <= 0 && size > fitting ? fitting : size;
    size = size < loader->batch ? loader->batch : size; /* a batch is taken as a whole */
    loader->ring = esp_alloc_zero((size_t)size, sizeof(*loader->ring));
    loader->ring_memory = esp_alloc((size_t)size, bytes);
    if (loader->ring == NULL || loader->ring_memory == NULL) {
        return esp_fail_memory(err, "the loader's images", (size_t)size * bytes);
    }
    loader->ring_size = size;
    for (int64_t i = 0; i < size; i++) {
        loader->ring[i].space = loader->ring_memory + (size_t)i * bytes;
    }
    return ESP_OK;
}

/* Signals are for the threads that asked for them. */
static esp_status start_threads(esp_loader *loader, int wanted, esp_error *err)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (loader->thread_count < wanted &&
           pthread_create(&loader->threads[loader->thread_count], NULL, run_thread, loader) == 0) {
        loader->thread_count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return loader->thread_count > 0 ? ESP_OK : esp_fail(err, ESP_IO, "loader: no thread could be started");
}

static int wanted_threads(int asked)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    long wanted = asked > 0 ? asked : cores > 0 ? cores : 1;
    return (int)(wanted < MOST_THREADS ? wanted : MOST_THREADS);
}

esp_status esp_loader_new(const esp_dataset *dataset, const esp_normalization *normalization,
                          const esp_loader_options *options, esp_loader **out, esp_error *err)
{
    *out = NULL;
    if (options->batch < 1) {
        return esp_fail(err, ESP_INVALID, "loader: batches of %" PRId64 " images, expected at least 1",
                        options->batch);
    }
    esp_loader *loader = esp_alloc_zero(1, sizeof(*loader));
    if (loader == NULL) {
        return esp_fail_memory(err, "a loader", sizeof(*loader));
    }
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&loader->mutex, NULL);
    pthread_cond_init(&loader->has_room, NULL);
    pthread_cond_init(&loader->has_image, &monotonic);
    pthread_condattr_destroy(&monotonic);
    loader->dataset = dataset;
    loader->normalization = *normalization;
    loader->augmentation = options->augmentation != NULL ? *options->augmentation : (esp_augmentation){0};
    loader->seed = options->seed;
    loader->batch = options->batch;
    loader->leaves_out_bad = options->leaves_out_bad;
    loader->images = esp_alloc_zero((size_t)options->batch, sizeof(*loader->images));
    esp_status status =
        loader->images != NULL
            ? esp_augmentation_check(&loader->augmentation, err)
            : esp_fail_memory(err, "a batch", (size_t)options->batch * sizeof(*loader->images));
    bool runs_ahead = options->threads >= 0 && !esp_dataset_is_at_hand(dataset, &loader->augmentation);
    if (status == ESP_OK && (runs_ahead || options->leaves_out_bad)) {
        /* without threads, reading by turns uses the ring's places all the same */
        status = esp_dataset_is_at_hand(dataset, &loader->augmentation)
                     ? ESP_OK
                     : make_ring(loader, options->ahead, err);
    }
    if (status == ESP_OK && runs_ahead) {
        status = start_threads(loader, wanted_threads(options->threads), err);
    }
    if (status != ESP_OK) {
        esp_loader_free(loader);
        return status;
    }
    *out = loader;
    return ESP_OK;
}

void esp_loader_free(esp_loader *loader)
{
    if (loader == NULL) {
        return;
    }
    pthread_mutex_lock(&loader->mutex);
    loader->is_stopping = true;
    pthread_cond_broadcast(&loader->has_room);
    pthread_mutex_unlock(&loader->mutex);
    for (int i = 0; i < loader->thread_count; i++) {
        pthread_join(loader->threads[i], NULL);
    }
    pthread_cond_destroy(&loader->has_image);
    pthread_cond_destroy(&loader->has_room);
    pthread_mutex_destroy(&loader->mutex);
    esp_free(loader->ring_memory);
    esp_free(loader->ring);
    esp_free(loader->images);
    esp_free(loader);
}

/* ---- a pass ---- */

esp_status esp_loader_begin(esp_loader *loader, uint64_t epoch, const uint32_t *order, int64_t count,
                            esp_error *err)
{
    int64_t images = esp_dataset_count(loader->dataset);
    for (int64_t i = 0; i < count; i++) {
        if (order[i] >= images) {
            return esp_fail(err, ESP_INVALID,
                            "loader: image %" PRIu32 " in the order, expected below %" PRId64, order[i],
                            images);
        }
    }
    pthread_mutex_lock(&loader->mutex);
    loader->count = 0; /* nobody takes a new position; wait for those that read */
    loader->next = 0;
    while (loader->busy > 0) {
        pthread_cond_wait(&loader->has_image, &loader->mutex);
    }
    for (int64_t i = 0; i < loader->ring_size; i++) {
        loader->ring[i].is_ready = false;
    }
    loader->order = order;
    loader->taken = 0;
    loader->epoch = epoch;
    loader->epoch_seed = esp_epoch_seed(loader->seed, epoch);
    loader->count = count;
    pthread_cond_broadcast(&loader->has_room);
    pthread_mutex_unlock(&loader->mutex);
    return ESP_OK;
}

/* With the mutex held: whether the next `count` positions are ready. */
static bool is_batch_ready(const esp_loader *loader, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (!loader->ring[(loader->taken + i) % loader->ring_size].is_ready) {
            return false;
        }
    }
    return true;
}

/* Waits for the next `count` images and looks for the first that failed. */
static esp_status wait_for_batch(esp_loader *loader, const esp_compute *compute, int64_t count,
                                 esp_error *err)
{
    esp_status status = ESP_OK;
    double start = esp_clock_s();
    pthread_mutex_lock(&loader->mutex);
    bool has_waited = false;
    while (status == ESP_OK && !is_batch_ready(loader, count)) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += CANCEL_POLL_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        pthread_cond_timedwait(&loader->has_image, &loader->mutex, &until);
        has_waited = true;
        if (esp_compute_is_cancelled(compute)) {
            status = esp_fail(err, ESP_CANCELLED, "reading images stopped");
        }
    }
    for (int64_t i = 0; status == ESP_OK && i < count; i++) {
        const place *at = &loader->ring[(loader->taken + i) % loader->ring_size];
        loader->images[i] = (esp_batch_image){at->pixels, at->index};
        status = at->status;
        if (status != ESP_OK && err != NULL) {
            *err = at->error;
        }
    }
    pthread_mutex_unlock(&loader->mutex);
    loader->waited_s += has_waited ? esp_clock_s() - start : 0.0;
    return status;
}

/* Gives the places of a batch back. */
static void release_batch(esp_loader *loader, int64_t count)
{
    pthread_mutex_lock(&loader->mutex);
    for (int64_t i = 0; i < count; i++) {
        loader->ring[(loader->taken + i) % loader->ring_size].is_ready = false;
    }
    loader->taken += count;
    pthread_cond_broadcast(&loader->has_room);
    pthread_mutex_unlock(&loader->mutex);
}

/* Reading into the ring's places in the calling thread's pool, when no threads run ahead. */
typedef struct turn {
    esp_loader *loader;
    esp_read_room *rooms;
} turn;

static void read_turn(void *context, int64_t task, int slot)
{
    turn *it = context;
    esp_loader *loader = it->loader;
    place *at = &loader->ring[(loader->taken + task) % loader->ring_size];
    at->index = loader->order[loader->taken + task];
    at->status = read_place(loader, at, &it->rooms[slot], &at->error);
    at->is_ready = true;
}

static esp_status read_by_turns(esp_loader *loader, const esp_compute *compute, int64_t count, esp_error *err)
{
    int slots = esp_compute_slots(compute);
    turn it = {loader, esp_alloc_zero((size_t)slots, sizeof(*it.rooms))};
    if (it.rooms == NULL) {
        return esp_fail_memory(err, "room for images", (size_t)slots * sizeof(*it.rooms));
    }
    esp_status status = esp_compute_run(compute, count, read_turn, &it);
    for (int i = 0; i < slots; i++) {
        esp_read_room_free(&it.rooms[i]);
    }
    esp_free(it.rooms);
    return status == ESP_CANCELLED ? esp_fail(err, ESP_CANCELLED, "reading images stopped") : status;
}

esp_status esp_loader_take(esp_loader *loader, const esp_compute *compute, int64_t count, float *x,
                           const esp_batch_labels *labels, esp_error *err)
{
    if (count < 1 || count > loader->batch || count > loader->count - loader->taken) {
        return esp_fail(err, ESP_STATE,
                        "loader: %" PRId64 " images asked for, expected 1 to %" PRId64 " (%" PRId64
                        " are left of the pass)",
                        count, loader->batch, loader->count - loader->taken);
    }
    const esp_augmentation *augmentation = &loader->augmentation;
    if (loader->ring == NULL) {
        esp_status status =
            esp_batch_read(compute, loader->dataset, &loader->normalization, augmentation, loader->seed,
                           loader->epoch, loader->order + loader->taken, count, x, labels, err);
        loader->taken += status == ESP_OK ? count : 0;
        return status;
    }
    esp_status status = loader->thread_count > 0 ? ESP_OK : read_by_turns(loader, compute, count, err);
    if (status == ESP_OK) {
        status = wait_for_batch(loader, compute, count, err);
    }
    if (status != ESP_OK) {
        return status;
    }
    status = esp_batch_finish(compute, loader->dataset, &loader->normalization, augmentation,
                              loader->epoch_seed, loader->images, count, x, labels);
    release_batch(loader, count);
    return status == ESP_CANCELLED ? esp_fail(err, ESP_CANCELLED, "making a batch stopped") : status;
}

double esp_loader_waited_s(const esp_loader *loader)
{
    return loader->waited_s;
}
