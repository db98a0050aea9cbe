/* Small models and datasets for tests of training and of what stands on it. */
#ifndef ESP_TESTS_TRAIN_FIXTURES_H
#define ESP_TESTS_TRAIN_FIXTURES_H

#include "graph/graph.h"
#include "graph/params.h"
#include "train/data.h"
#include "unit/base/scratch.h"

/* Fails the running test with the error's message unless `status` is ESP_OK. */
void expect_ok(esp_status status, const esp_error *err);

/* Fails unless `status` is `expected` and the message holds `part` (NULL: any). Clears the error. */
void expect_failure(esp_status status, esp_status expected, esp_error *err, const char *part);

/* x [N,channels,height,width] -> Flatten -> Gemm (transB): logits [N,classes] = x weights^T + bias. Values
 * "x", "weight" [classes, channels*height*width], "bias" [classes]. `batch` is a fixed batch size, 0 = open.
 */
esp_graph *linear_model(int64_t batch, int channels, int height, int width, int classes, const float *weights,
                        const float *bias);

/* The same with weights from a seeded normal distribution and zero biases. */
esp_graph *random_linear_model(int channels, int height, int width, int classes, uint64_t seed);

/* x [N,1,size,size] -> Conv 3x3 pad 1 -> BatchNormalization -> Relu -> MaxPool 2 -> Conv 3x3 -> Relu ->
 * Flatten -> Dropout (when `drops`) -> Gemm. Weights "conv1", "scale", "shift", "mean", "variance", "conv2",
 * "weight", "bias". */
esp_graph *small_conv_model(int size, int filters, int classes, bool drops, uint64_t seed);

/* `count` images [1,size,size] of four classes: a bright quarter on noise, at the place the label says. */
esp_dataset *quarters_dataset(int64_t count, int size, uint64_t seed);

/* A dataset of noise with labels index % classes. */
esp_dataset *noise_dataset(int64_t count, int channels, int height, int width, int classes, uint64_t seed);

/* A graph's constant by name; fails the test when there is none. */
const esp_tensor *constant_of(const esp_graph *graph, const char *name);

/* Same constants, bit for bit. */
bool same_constants(const esp_graph *a, const esp_graph *b);

#endif
