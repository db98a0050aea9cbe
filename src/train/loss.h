/* Losses on logits [batch, classes], and the counts that go with them. */
#ifndef ESP_TRAIN_LOSS_H
#define ESP_TRAIN_LOSS_H

#include <stdint.h>

typedef struct esp_loss_sums {
    double loss; /* sum over images of what is minimised: -log p(label), or esp_loss's */
    int64_t images, top1, top5;
} esp_loss_sums;

/* Adds one batch to `sums` (a tie counts for the lower class index). Labels must be in [0, classes). When
 * `dlogits` is not NULL it receives the gradient of the *mean* loss of this batch. Stable for any finite
 * logits. */
void esp_cross_entropy(const float *logits, const int32_t *labels, int64_t batch, int64_t classes,
                       esp_loss_sums *sums, float *dlogits);

/* What may be added to cross-entropy; all fields at zero add nothing. */
typedef struct esp_loss_terms {
    /* Targets are (1 - smoothing) * one-hot + smoothing / classes (Szegedy et al. 2016; PyTorch's
     * CrossEntropyLoss(label_smoothing)). */
    double smoothing;
    const int32_t
        *other; /* mixtures: the target is share * label + (1 - share) * other, per image; or NULL */
    const float *share;
    /* Distillation (Hinton, Vinyals and Dean 2015): (1 - mix) * cross-entropy + mix * T^2 * KL(t || s), with
     * t and s the softmax of the teacher's and of these logits over T. */
    const float *teacher; /* logits [batch, classes], or NULL */
    double temperature;   /* > 0 with a teacher */
    double mix;           /* 0 to 1 */
} esp_loss_terms;

/* As esp_cross_entropy; top-1 and top-5 count `labels`. NULL terms: the very same. */
void esp_loss(const esp_loss_terms *terms, const float *logits, const int32_t *labels, int64_t batch,
              int64_t classes, esp_loss_sums *sums, float *dlogits);

#endif
