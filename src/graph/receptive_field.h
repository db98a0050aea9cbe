/* Receptive fields: how much of the network's input a value depends on (Araujo, Norris and Sim, "Computing
 * Receptive Fields of Convolutional Neural Networks", Distill 2019). Size and stride are in pixels of the
 * input, padding counted in, so the size may exceed the image. Through branches the larger field counts. */
#ifndef ESP_GRAPH_RECEPTIVE_FIELD_H
#define ESP_GRAPH_RECEPTIVE_FIELD_H

#include <stddef.h>

#include "graph/graph.h"
#include "graph/infer.h"

typedef enum esp_field_kind {
    ESP_FIELD_NONE,    /* does not depend on the input: constants, and what is computed from them */
    ESP_FIELD_WINDOW,  /* height x width pixels */
    ESP_FIELD_WHOLE,   /* the whole image: behind fully connected layers and global pools */
    ESP_FIELD_UNKNOWN, /* behind an operator nobody can look into */
} esp_field_kind;

/* Of one element. Sizes and strides are whole numbers but behind layers that enlarge images. */
typedef struct esp_field {
    esp_field_kind kind;
    double height, width;      /* of a window */
    double stride_y, stride_x; /* pixels from one element to the next; of a window */
} esp_field;

/* One field per value of the graph, into an array of esp_graph_value_count. `inferred` at batch 1; values
 * without a shape are unknown. */
void esp_receptive_fields(const esp_graph *graph, const esp_inferred *inferred, esp_field *out);

/* "35x35", "whole", "?" or "-". Returns `buffer`. */
char *esp_field_format(const esp_field *field, char *buffer, size_t size);

/* The stride in the same form: "4", "2x4", and "-" for what has none. */
char *esp_field_stride_format(const esp_field *field, char *buffer, size_t size);

#endif
