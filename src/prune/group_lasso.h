/* Group lasso: a term of the loss that drives whole (group, channel) blocks of weights to zero, so that what
 * self-grouping is going to mask has little to lose (Guo et al. 2020; Wen et al., "Learning structured
 * sparsity in deep neural networks", NIPS 2016).
 *
 *   R = lambda * sum over layers, groups g and channels c of |W[g, c]|_2,
 *
 * where W[g, c] are all weights by which the filters of group g read channel c: filters of g x kernel
 * positions. Its gradient is lambda * w / |W[g, c]|_2 for every weight w of a block, and 0 for a block that
 * is zero (the least subgradient), so that what is masked feels nothing. */
#ifndef ESP_PRUNE_GROUP_LASSO_H
#define ESP_PRUNE_GROUP_LASSO_H

#include "graph/layers.h"
#include "train/trainer.h"

typedef struct esp_group_lasso esp_group_lasso;

/* One term for every layer with takes_part (NULL: all that have group 1 and a stored weight). labels[layer]
 * [filters] are the groups, numbered from 0; NULL (the array, or a layer's entry): each filter is its own
 * group. A weight that several layers share gets the term once. Copies what it needs. ESP_INVALID for a
 * lambda below 0 or not finite and for labels out of [0, filters). */
esp_status esp_group_lasso_new(const esp_graph *graph, const esp_layers *layers, const bool *takes_part,
                               const int32_t *const *labels, double lambda, esp_group_lasso **out,
                               esp_error *err);
/* The same over all layers of a model at the size of these images, each filter its own group. */
esp_status esp_group_lasso_of_model(const esp_graph *graph, const esp_dataset *dataset, double lambda,
                                    esp_group_lasso **out, esp_error *err);
void esp_group_lasso_free(esp_group_lasso *lasso);

/* For esp_train_options.penalties; borrowed. One training at a time. */
const esp_train_penalty *esp_group_lasso_penalties(const esp_group_lasso *lasso, int *count);

/* R of one term for its weight [elements], in the stored order. */
double esp_group_lasso_value(const esp_group_lasso *lasso, int term, const float *weight);

#endif
