/* Softmax cross-entropy: loss = log(sum_c exp(z_c - max)) - (z_label - max), gradient (p - onehot) / batch.
 * With other targets q: loss = sum_c q_c (log(sum exp) - z_c), gradient (p - q) / batch, since q adds up
 * to 1. T^2 times the divergence from a teacher has the gradient T (s - t) / batch. Sums over classes and
 * images are in double and in one fixed order, so the result never depends on threads.
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

/* ---- with more terms ---- */

/* A softmax of z / temperature: its largest logit, and the sum it divides by. */
typedef struct softmax {
    const float *z;
    double inverse_t, highest, total;
} softmax;

static softmax softmax_of(const float *z, int64_t classes, double temperature)
{
    softmax result = {.z = z, .inverse_t = 1.0 / temperature, .highest = (double)z[0]};
    for (int64_t c = 1; c < classes; c++) {
        result.highest = (double)z[c] > result.highest ? (double)z[c] : result.highest;
    }
    for (int64_t c = 0; c < classes; c++) {
        result.total += exp(((double)z[c] - result.highest) * result.inverse_t);
    }
    return result;
}

static double log_probability(const softmax *s, int64_t c)
{
    return ((double)s->z[c] - s->highest) * s->inverse_t - log(s->total);
}

/* The target of image `n` for class `c`. */
static double target_of(const esp_loss_terms *terms, int64_t n, int64_t c, int64_t label, int64_t classes)
{
    double target = c == label ? 1.0 : 0.0;
    if (terms->other != NULL) {
        double share = (double)terms->share[n];
        target = share * target + (c == terms->other[n] ? 1.0 - share : 0.0);
    }
    return (1.0 - terms->smoothing) * target + terms->smoothing / (double)classes;
}

/* The loss of image `n`; its gradient times `scale` goes to `dz` unless that is NULL. */
static double image_loss(const esp_loss_terms *terms, const float *z, int64_t n, int64_t label,
                         int64_t classes, double scale, float *dz)
{
    double mix = terms->teacher == NULL ? 0.0 : terms->mix, t = terms->temperature;
    softmax own = softmax_of(z, classes, 1.0), soft = {0}, teacher = {0};
    if (mix > 0.0) {
        soft = softmax_of(z, classes, t);
        teacher = softmax_of(terms->teacher + n * classes, classes, t);
    }
    double loss = 0.0;
    for (int64_t c = 0; c < classes; c++) {
        double target = target_of(terms, n, c, label, classes), log_p = log_probability(&own, c);
        double gradient = (1.0 - mix) * (exp(log_p) - target);
        loss -= target == 0.0 ? 0.0 : (1.0 - mix) * target * log_p;
        if (mix > 0.0) {
            double log_t = log_probability(&teacher, c), log_s = log_probability(&soft, c);
            loss += mix * t * t * exp(log_t) * (log_t - log_s);
            gradient += mix * t * (exp(log_s) - exp(log_t));
        }
        if (dz != NULL) {
            dz[c] = (float)(gradient * scale);
        }
    }
    return loss;
}

void esp_loss(const esp_loss_terms *terms, const float *logits, const int32_t *labels, int64_t batch,
              int64_t classes, esp_loss_sums *sums, float *dlogits)
{
    if (terms == NULL || (terms->smoothing == 0.0 && terms->other == NULL && terms->teacher == NULL)) {
        esp_cross_entropy(logits, labels, batch, classes, sums, dlogits);
        return;
    }
    for (int64_t n = 0; n < batch; n++) {
        const float *z = logits + n * classes;
        assert(labels[n] >= 0 && labels[n] < classes);
        int64_t rank = label_rank(z, classes, labels[n]);
        sums->loss += image_loss(terms, z, n, labels[n], classes, 1.0 / (double)batch,
                                 dlogits == NULL ? NULL : dlogits + n * classes);
        sums->top1 += rank < 1;
        sums->top5 += rank < 5;
        sums->images++;
    }
}
