/* Counting references: the last one to let go frees. Increments need no ordering; the decrement that reaches
 * zero must see everything the other holders did. */
#include "study/shared.h"

#include <stdatomic.h>
#include <string.h>

void esp_shared_init(esp_shared *shared, void (*release)(esp_shared *self))
{
    atomic_init(&shared->references, 1);
    shared->release = release;
}

void *esp_shared_ref(const void *shared)
{
    esp_shared *counted = (esp_shared *)shared;

    if (counted)
        atomic_fetch_add_explicit(&counted->references, 1, memory_order_relaxed);
    return counted;
}

void esp_shared_unref(const void *shared)
{
    esp_shared *counted = (esp_shared *)shared;

    if (counted && atomic_fetch_sub_explicit(&counted->references, 1, memory_order_acq_rel) == 1)
        counted->release(counted);
}

void esp_shared_set(void *slot, const void *next)
{
    void *previous;
    void *held = esp_shared_ref(next);

    memcpy(&previous, slot, sizeof previous);
    memcpy(slot, &held, sizeof held);
    esp_shared_unref(previous);
}
