/* Greedy by size: the largest buffer first, each at the lowest offset that is free among the placed buffers
 * it shares a moment with. Placing large buffers first leaves gaps only small ones need to fit into; on
 * convolutional networks this is within a few percent of the largest simultaneous need. */
#include "graph/plan.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/memory.h"

static size_t rounded(size_t bytes)
{
    return (bytes + ESP_ALIGNMENT - 1) / ESP_ALIGNMENT * ESP_ALIGNMENT;
}

size_t esp_plan_unshared(const esp_plan_buffer *buffers, int count)
{
    size_t total = 0;
    for (int i = 0; i < count; i++)
        total += rounded(buffers[i].bytes);
    return total;
}

/* Larger first, then earlier, then in the given order, so that the plan never depends on the sort. */
static int compare_size(const void *a, const void *b)
{
    const esp_plan_buffer *x = *(esp_plan_buffer *const *)a, *y = *(esp_plan_buffer *const *)b;
    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    if (x->start != y->start)
        return x->start < y->start ? -1 : 1;
    return x < y ? -1 : x > y;
}

/* Puts `buffer` into the first gap of the placed ones, which are sorted by offset. */
static void place(esp_plan_buffer *buffer, esp_plan_buffer *const *placed, int placed_count)
{
    size_t free_from = 0, bytes = rounded(buffer->bytes);
    for (int i = 0; i < placed_count; i++) {
        const esp_plan_buffer *other = placed[i];
        if (other->end < buffer->start || other->start > buffer->end)
            continue;
        if (other->offset >= free_from + bytes)
            break;
        size_t other_end = other->offset + rounded(other->bytes);
        free_from = other_end > free_from ? other_end : free_from;
    }
    buffer->offset = free_from;
}

static void insert_by_offset(esp_plan_buffer **placed, int placed_count, esp_plan_buffer *buffer)
{
    int at = placed_count;
    for (; at > 0 && placed[at - 1]->offset > buffer->offset; at--)
        placed[at] = placed[at - 1];
    placed[at] = buffer;
}

esp_status esp_plan_offsets(esp_plan_buffer *buffers, int count, size_t *total, esp_error *err)
{
    esp_plan_buffer **order = esp_alloc((size_t)count, sizeof *order);
    esp_plan_buffer **placed = esp_alloc((size_t)count, sizeof *placed);
    esp_status status = ESP_OK;
    if (order == NULL || placed == NULL) {
        status = esp_fail_memory(err, "the memory plan", (size_t)count * sizeof *order);
    } else {
        size_t largest_end = 0;
        for (int i = 0; i < count; i++)
            order[i] = &buffers[i];
        if (count > 0)
            qsort(order, (size_t)count, sizeof *order, compare_size);
        for (int i = 0; i < count; i++) {
            place(order[i], placed, i);
            insert_by_offset(placed, i, order[i]);
            size_t end = order[i]->offset + rounded(order[i]->bytes);
            largest_end = end > largest_end ? end : largest_end;
        }
        *total = largest_end;
    }
    esp_free(order);
    esp_free(placed);
    return status;
}
