/* Transfer: the last layer of a classifier replaced by one for other classes. */
#ifndef ESP_TRAIN_CLASSIFIER_H
#define ESP_TRAIN_CLASSIFIER_H

#include "graph/graph.h"

/* A new graph whose last layer (Gemm, MatMul with or without an Add behind it, or Conv; what lies between it
 * and the output may only move data or turn logits into probabilities) has `classes` filters. Its weights and
 * biases are new, drawn from U(-1/sqrt(n), 1/sqrt(n)) with n inputs per filter, as PyTorch's Linear and
 * Conv2d do, by `seed`; everything else, masks and cut structure included, is the model's own tensors. A last
 * layer that surgery had split into groups becomes one whole layer over all that the groups read.
 * ESP_UNSUPPORTED when there is no such layer, naming what was found. A model that has as many classes
 * already gets new weights all the same. */
esp_status esp_replace_classifier(const esp_graph *graph, int64_t classes, uint64_t seed, esp_graph **out,
                                  esp_error *err);

/* The classes a model tells apart: the second dim of its first output; 0 when that is not known. */
int64_t esp_model_classes(const esp_graph *graph);

#endif
