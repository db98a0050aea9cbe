/* Softmax cross-entropy on logits [batch, classes], and the counts that go with it. */
#ifndef ESP_TRAIN_LOSS_H
#define ESP_TRAIN_LOSS_H

#include <stdint.h>

typedef struct esp_loss_sums {
    double loss; /* sum over images of -log p(label) */
    int64_t images, top1, top5;
} esp_loss_sums;

/* Adds one batch to `sums` (a tie counts for the lower class index). Labels must be in [0, classes). When
 * `dlogits` is not NULL it receives the gradient of the *mean* loss of this batch. Stable for any finite
 * logits. */
void esp_cross_entropy(const float *logits, const int32_t *labels, int64_t batch, int64_t classes,
                       esp_loss_sums *sums, float *dlogits);

#endif
