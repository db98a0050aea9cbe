/* Self-grouping convolution (Guo et al., Neural Networks 132, 2020, arXiv 2009.13803; METHODS.md section 2).
 */
#ifndef ESP_PRUNE_SELFGROUP_H
#define ESP_PRUNE_SELFGROUP_H

#include "graph/layers.h"
#include "prune/kmeans.h"
#include "prune/mask.h"
#include "prune/plan.h"

/* v[f, c] = sum over kernel positions of |W[f,c] * M[f,c]|, importance [filters, channels] row-major; summed
 * in double, stored in float32. weight is canonical [filters, channels, positions]. */
void esp_importance(const float *weight, const esp_mask *mask, int64_t filters, int64_t channels,
                    int64_t positions, float *importance);

/* One step on one layer: threshold and group masks from a clustering; `mask` is the layer's mask so far and
 * is narrowed in place. `labels` [filters], `centroids` [k, channels]. `ratio` in [0, 1) is the share of all
 * connections of the layer that shall be masked afterwards, those masked before included; 0 asks for nothing:
 * the mask stays and the threshold is 0. ESP_INVALID for ratios and labels out of range. */
esp_status esp_selfgroup_step(const int32_t *labels, const double *centroids, int64_t k, double ratio,
                              esp_mode mode, esp_mask *mask, double *threshold, esp_error *err);

#endif
