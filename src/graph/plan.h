/* The memory plan: where in one block each buffer lies, given when it is in use. */
#ifndef ESP_GRAPH_PLAN_H
#define ESP_GRAPH_PLAN_H

#include <stddef.h>

#include "base/status.h"

typedef struct esp_plan_buffer {
    size_t bytes;
    int start, end; /* first and last moment of use, both included */
    size_t offset;  /* result; a multiple of ESP_ALIGNMENT */
} esp_plan_buffer;

/* Gives every buffer an offset so that buffers in use at the same moment do not overlap; `*total` is the size
 * of the block, at most the sum of all (rounded up) sizes. */
esp_status esp_plan_offsets(esp_plan_buffer *buffers, int count, size_t *total, esp_error *err);

/* The sum of all sizes, rounded up as the plan does: what the block would be without reuse. */
size_t esp_plan_unshared(const esp_plan_buffer *buffers, int count);

#endif
