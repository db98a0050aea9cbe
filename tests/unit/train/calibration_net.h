/* The network and images whose numbers tests/oracle/calibration_reference.py computes with PyTorch. */
#ifndef ESP_TESTS_CALIBRATION_NET_H
#define ESP_TESTS_CALIBRATION_NET_H

#include "graph/graph.h"
#include "train/data.h"

/* x [N,2,6,6] -> conv1 3x3 -> norm1 -> Relu -> conv2 3x3 -> + what it read -> Relu -> Dropout -> conv3 3x3
 * stride 2 -> norm3 -> Relu -> mean over positions -> linear. Layers are called "conv1", "conv2", "conv3" and
 * "linear"; constants of the batch-norms "norm1.mean", "norm1.variance", ... The normalisation is in the
 * metadata. */
esp_graph *calibration_net(void);

/* Five images of three classes. */
esp_dataset *calibration_images(void);

/* |found - expected| <= tolerance * max |expected|. */
void assert_doubles(const double *found, const double *expected, int64_t count, double tolerance);

#endif
