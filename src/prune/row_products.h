/* The products of all pairs of rows of a matrix, from which the distances of all pairs follow:
 * |x - y|^2 = x.x + y.y - 2 x.y. */
#ifndef ESP_PRUNE_ROW_PRODUCTS_H
#define ESP_PRUNE_ROW_PRODUCTS_H

#include "base/compute.h"

/* Before they are multiplied, all rows are moved by a point in their midst and multiplied by `scale`, which
 * changes no comparison of distances between rows or means of rows. */
typedef struct esp_row_products {
    const float *rows; /* [count, columns], finite */
    int64_t count, columns;
    float scale;    /* a power of two that brings the largest value near 1; 1 where none is far from it */
    float *values;  /* [count, stride]: symmetric to the last bit; 0 from column `count` on */
    int64_t stride; /* esp_row_products_stride(count) */
} esp_row_products;

/* A multiple of 32. */
int64_t esp_row_products_stride(int64_t count);

/* Fills `values` of all items over the pool. Products of equal rows are equal to the last bit. ESP_NO_MEMORY
 * or ESP_CANCELLED. */
esp_status esp_row_products_fill(const esp_compute *compute, const esp_row_products *items, int count);

#endif
