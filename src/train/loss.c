/* Softmax cross-entropy: loss = log(sum_c exp(z_c - max)) - (z_label - max), gradient (p - onehot) / batch.
 * Sums over classes and images are in double and in one fixed order, so the result never depends on threads.
 */
#include "train/loss.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>

/* How many classes stand before the label: a higher logit, or the same at a lower index. A logit that is not
 * a number stands before everything, so that a broken model is never counted as right. */
static int64_t label_rank(const float *logits, int64_t classes, int64_t label)
{
    float own = logits[label];
    int64_t rank = 0;
    for (int64_t c = 0; c < classes; c++) {
        bool is_behind = logits[c] < own || (logits[c] == own && c >= label);
        rank += !is_behind;
    }
    return rank;
}

void esp_cross_entropy(const float *logits, const int32_t *labels, int64_t batch, int64_t classes,
                       esp_loss_sums *sums, float *dlogits)
{
    for (int64_t n = 0; n < batch; n++) {
        const float *z = logits + n * classes;
        int64_t label = labels[n];
        assert(label >= 0 && label < classes);
        float highest = z[0];
        for (int64_t c = 1; c < classes; c++) {
            highest = z[c] > highest ? z[c] : highest;
        }
        double total = 0.0;
        for (int64_t c = 0; c < classes; c++) {
            total += exp((double)z[c] - (double)highest);
        }
        int64_t rank = label_rank(z, classes, label);
        sums->loss += log(total) - ((double)z[label] - (double)highest);
        sums->top1 += rank < 1;
        sums->top5 += rank < 5;
        sums->images++;
        if (dlogits == NULL) {
            continue;
        }
        float *dz = dlogits + n * classes;
        for (int64_t c = 0; c < classes; c++) {
            double p = exp((double)z[c] - (double)highest) / total;
            dz[c] = (float)((p - (c == label ? 1.0 : 0.0)) / (double)batch);
        }
    }
}
