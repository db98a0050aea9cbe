/* See strides.h. */
#include "tensor/strides.h"

#include <stdbool.h>

static bool walks_as_one(const esp_walk *walk, int outer, int inner)
{
    for (int i = 0; i < walk->operands; i++)
        if (walk->strides[i][outer] != walk->strides[i][inner] * walk->dims[inner])
            return false;
    return true;
}

static void move_dimension(esp_walk *walk, int to, int from)
{
    walk->dims[to] = walk->dims[from];
    for (int i = 0; i < walk->operands; i++)
        walk->strides[i][to] = walk->strides[i][from];
}

void esp_walk_simplify(esp_walk *walk)
{
    int rank = 0;
    for (int d = 0; d < walk->rank; d++) {
        if (walk->dims[d] == 1)
            continue;
        if (rank > 0 && walks_as_one(walk, rank - 1, d)) {
            int64_t joined = walk->dims[rank - 1] * walk->dims[d];
            move_dimension(walk, rank - 1, d);
            walk->dims[rank - 1] = joined;
        } else {
            move_dimension(walk, rank++, d);
        }
    }
    if (rank == 0) {
        rank = 1;
        walk->dims[0] = 1;
        for (int i = 0; i < walk->operands; i++)
            walk->strides[i][0] = 0;
    }
    walk->rank = rank;
}

int64_t esp_walk_positions(const esp_walk *walk, int rank)
{
    int64_t positions = 1;
    for (int d = 0; d < rank; d++)
        positions *= walk->dims[d];
    return positions;
}

void esp_walk_locate(const esp_walk *walk, int rank, int64_t index, int64_t offsets[ESP_MOST_WALKED])
{
    for (int i = 0; i < walk->operands; i++)
        offsets[i] = 0;
    for (int d = rank - 1; d >= 0; d--) {
        int64_t at = index % walk->dims[d];
        index /= walk->dims[d];
        for (int i = 0; i < walk->operands; i++)
            offsets[i] += at * walk->strides[i][d];
    }
}

void esp_broadcast_strides(const esp_shape *shape, int rank, int64_t *strides)
{
    int64_t stride = 1;
    for (int d = rank - 1; d >= 0; d--) {
        int own = d - (rank - shape->rank);
        strides[d] = own < 0 || shape->dims[own] == 1 ? 0 : stride;
        if (own >= 0)
            stride *= shape->dims[own];
    }
}

esp_axis_span esp_axis_span_of(const esp_shape *shape, int axis)
{
    esp_axis_span span = {.outer = 1, .count = shape->dims[axis], .inner = 1};
    for (int i = 0; i < shape->rank; i++) {
        span.outer *= i < axis ? shape->dims[i] : 1;
        span.inner *= i > axis ? shape->dims[i] : 1;
    }
    span.stride = span.count * span.inner;
    return span;
}
