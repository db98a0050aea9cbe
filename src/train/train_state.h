/* The state of a training as named blocks of bytes: what a checkpoint holds. The trainer writes and reads the
 * blocks, io puts them into a file; neither knows the other. */
#ifndef ESP_TRAIN_TRAIN_STATE_H
#define ESP_TRAIN_TRAIN_STATE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Longest name with its ending zero. */
#define ESP_STATE_NAME_MAX 256

typedef struct esp_state_block {
    char *name; /* unique in a state, not empty */
    void *data; /* `size` bytes, aligned for anything */
    size_t size;
} esp_state_block;

/* Zero-initialise. Owns its blocks. */
typedef struct esp_train_state {
    int count, capacity;
    esp_state_block *blocks;
} esp_train_state;

void esp_train_state_free(esp_train_state *state); /* NULL is allowed; leaves an empty state */

/* A new block of undefined bytes for the caller to fill; `*out` points to them. ESP_INVALID for a name that
 * is taken, empty or too long. */
esp_status esp_train_state_add(esp_train_state *state, const char *name, size_t size, void **out,
                               esp_error *err);
/* The same with contents. */
esp_status esp_train_state_put(esp_train_state *state, const char *name, const void *data, size_t size,
                               esp_error *err);

/* NULL when there is none. */
const esp_state_block *esp_train_state_find(const esp_train_state *state, const char *name);

/* Copies a block of exactly `size` bytes into `data`. ESP_FORMAT when it is missing or of another size. */
esp_status esp_train_state_get(const esp_train_state *state, const char *name, void *data, size_t size,
                               esp_error *err);

#endif
