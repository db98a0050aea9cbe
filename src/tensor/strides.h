/* Walking several arrays over one multi-index space: what broadcasting arithmetic and strided copies share.
 */
#ifndef ESP_TENSOR_STRIDES_H
#define ESP_TENSOR_STRIDES_H

#include "tensor/tensor.h"

enum { ESP_MOST_WALKED = 4 };

/* `operands` arrays walked together; strides in elements. */
typedef struct esp_walk {
    int rank, operands;
    int64_t dims[ESP_MAX_RANK];
    int64_t strides[ESP_MOST_WALKED][ESP_MAX_RANK];
} esp_walk;

/* Drops dimensions of size 1 and joins neighbours that every operand walks as one. The order of visits stays;
 * the rank is at least 1 afterwards (an empty or scalar space keeps its number of elements). */
void esp_walk_simplify(esp_walk *walk);

/* Number of positions of the first `rank` dimensions. */
int64_t esp_walk_positions(const esp_walk *walk, int rank);

/* Offsets of position `index` (row-major over the first `rank` dimensions) into each operand. */
void esp_walk_locate(const esp_walk *walk, int rank, int64_t index, int64_t offsets[ESP_MOST_WALKED]);

/* Row-major strides of `shape` seen from a space of `rank` dimensions: 0 where it is broadcast. */
void esp_broadcast_strides(const esp_shape *shape, int rank, int64_t *strides);

/* Elements at one place of an axis lie in `outer` runs of `inner`, `stride` = count * inner apart. */
typedef struct esp_axis_span {
    int64_t outer, count, inner, stride;
} esp_axis_span;
esp_axis_span esp_axis_span_of(const esp_shape *shape, int axis);

#endif
