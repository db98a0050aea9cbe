/* A bounded queue of pointers between threads (mutex and condition variable; any number of producers and
 * consumers). Ownership of an item passes with it. */
#ifndef ESP_BASE_QUEUE_H
#define ESP_BASE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct esp_queue esp_queue;

esp_status esp_queue_new(size_t capacity, esp_queue **out, esp_error *err);

/* The queue must be empty of items the caller still wants; nobody may be waiting. */
void esp_queue_free(esp_queue *queue);

/* False when the queue is full or closed; never waits. */
bool esp_queue_try_push(esp_queue *queue, void *take_item);

/* Waits until there is room; false when the queue is closed. */
bool esp_queue_push(esp_queue *queue, void *take_item);

/* The oldest item, or NULL when empty; never waits. */
void *esp_queue_try_pop(esp_queue *queue);

/* Waits for an item; NULL when the queue is closed and empty. */
void *esp_queue_pop(esp_queue *queue);

/* After this pushes fail and pops drain what is left. */
void esp_queue_close(esp_queue *queue);

size_t esp_queue_count(esp_queue *queue);

#endif
