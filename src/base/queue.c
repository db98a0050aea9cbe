/* A ring under one mutex. Two conditions, so that a push wakes a consumer and a pop a producer, never the
 * wrong kind. */
#include "base/queue.h"

#include <pthread.h>

#include "base/memory.h"

struct esp_queue {
    pthread_mutex_t mutex;
    pthread_cond_t has_item, has_room;
    void **items; /* ring of `capacity`, the oldest at `first` */
    size_t capacity, first, count;
    bool is_closed;
};

esp_status esp_queue_new(size_t capacity, esp_queue **out, esp_error *err)
{
    esp_queue *queue;

    *out = NULL;
    if (capacity == 0)
        return esp_fail(err, ESP_INVALID, "queue: capacity is 0, expected at least 1");
    queue = esp_alloc_zero(1, sizeof *queue);
    if (!queue)
        return esp_fail_memory(err, "queue", sizeof *queue);
    queue->items = esp_alloc(capacity, sizeof *queue->items);
    if (!queue->items) {
        esp_free(queue);
        return esp_fail_memory(err, "queue", capacity * sizeof *queue->items);
    }
    queue->capacity = capacity;
    /* With default attributes these cannot fail on Linux. */
    pthread_mutex_init(&queue->mutex, NULL);
    pthread_cond_init(&queue->has_item, NULL);
    pthread_cond_init(&queue->has_room, NULL);
    *out = queue;
    return ESP_OK;
}

void esp_queue_free(esp_queue *queue)
{
    if (!queue)
        return;
    pthread_cond_destroy(&queue->has_room);
    pthread_cond_destroy(&queue->has_item);
    pthread_mutex_destroy(&queue->mutex);
    esp_free(queue->items);
    esp_free(queue);
}

/* Both need the mutex. */
static bool put(esp_queue *queue, void *item)
{
    if (queue->is_closed || queue->count == queue->capacity)
        return false;
    queue->items[(queue->first + queue->count) % queue->capacity] = item;
    queue->count++;
    pthread_cond_signal(&queue->has_item);
    return true;
}

static void *get(esp_queue *queue)
{
    void *item;

    if (queue->count == 0)
        return NULL;
    item = queue->items[queue->first];
    queue->first = (queue->first + 1) % queue->capacity;
    queue->count--;
    pthread_cond_signal(&queue->has_room);
    return item;
}

bool esp_queue_try_push(esp_queue *queue, void *take_item)
{
    bool is_pushed;

    pthread_mutex_lock(&queue->mutex);
    is_pushed = put(queue, take_item);
    pthread_mutex_unlock(&queue->mutex);
    return is_pushed;
}

bool esp_queue_push(esp_queue *queue, void *take_item)
{
    bool is_pushed;

    pthread_mutex_lock(&queue->mutex);
    while (!queue->is_closed && queue->count == queue->capacity)
        pthread_cond_wait(&queue->has_room, &queue->mutex);
    is_pushed = put(queue, take_item);
    pthread_mutex_unlock(&queue->mutex);
    return is_pushed;
}

void *esp_queue_try_pop(esp_queue *queue)
{
    void *item;

    pthread_mutex_lock(&queue->mutex);
    item = get(queue);
    pthread_mutex_unlock(&queue->mutex);
    return item;
}

void *esp_queue_pop(esp_queue *queue)
{
    void *item;

    pthread_mutex_lock(&queue->mutex);
    while (!queue->is_closed && queue->count == 0)
        pthread_cond_wait(&queue->has_item, &queue->mutex);
    item = get(queue);
    pthread_mutex_unlock(&queue->mutex);
    return item;
}

void esp_queue_close(esp_queue *queue)
{
    pthread_mutex_lock(&queue->mutex);
    queue->is_closed = true;
    pthread_cond_broadcast(&queue->has_item);
    pthread_cond_broadcast(&queue->has_room);
    pthread_mutex_unlock(&queue->mutex);
}

size_t esp_queue_count(esp_queue *queue)
{
    size_t count;

    pthread_mutex_lock(&queue->mutex);
    count = queue->count;
    pthread_mutex_unlock(&queue->mutex);
    return count;
}
