/* A reference count around something that is not changed any more, so that several snapshots can hold it. */
#ifndef ESP_STUDY_SHARED_H
#define ESP_STUDY_SHARED_H

#include <stddef.h>

/* Placed first in the struct it counts for. Counts are atomic: the worker makes, the UI releases. */
typedef struct esp_shared {
    _Atomic int references;
    void (*release)(struct esp_shared *self); /* frees the whole struct */
} esp_shared;

/* One reference, held by the caller. */
void esp_shared_init(esp_shared *shared, void (*release)(esp_shared *self));

void *esp_shared_ref(const void *shared);  /* NULL gives NULL */
void esp_shared_unref(const void *shared); /* NULL is allowed */

/* Puts a reference of `next` in place of what `*slot` holds. */
void esp_shared_set(void *slot, const void *next);

#endif
