/* What per-image results say: shares with their intervals, differences on the same images, and what a budget
 * reads from a curve. */
#include "prune/sensitivity_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/unknown.h"

#define Z95 1.959963984540054 /* two-sided 95 % of the normal distribution */

static esp_sensitivity_share share_of(const unsigned char *hits, int64_t images)
{
    esp_sensitivity_share share = {0};
    double n = (double)images, p, middle, half;

    for (int64_t i = 0; i < images; i++)
        share.right += hits[i];
    p = (double)share.right / n;
    middle = (p + Z95 * Z95 / (2 * n)) / (1 + Z95 * Z95 / n);
    half = Z95 / (1 + Z95 * Z95 / n) * sqrt(p * (1 - p) / n + Z95 * Z95 / (4 * n * n));
    share.percent = 100 * p;
    share.low = 100 * fmax(0, middle - half);
    share.high = 100 * fmin(1, middle + half);
    return share;
}

/* `lost` were right before and are wrong now, `won` the other way round. */
static esp_sensitivity_change change_of_hits(const unsigned char *now, const unsigned char *before,
                                             int64_t images)
{
    int64_t lost = 0, won = 0;
    double n = (double)images + 2, l, w;

    for (int64_t i = 0; i < images; i++) {
        lost += before[i] && !now[i];
        won += now[i] && !before[i];
    }
    l = (double)lost + 0.5;
    w = (double)won + 0.5;
    return (esp_sensitivity_change){.value = 100 * (double)(won - lost) / (double)images,
                                    .error = 100 * Z95 * sqrt(l + w - (l - w) * (l - w) / n) / n};
}

static esp_sensitivity_change change_of_loss(const double *now, const double *before, int64_t images)
{
    double n = (double)images, mean = 0, squares = 0;

    for (int64_t i = 0; i < images; i++)
        mean += (now[i] - before[i]) / n;
    for (int64_t i = 0; i < images; i++) {
        double deviation = now[i] - before[i] - mean;
        squares += deviation * deviation;
    }
    return (esp_sensitivity_change){mean, images > 1 ? Z95 * sqrt(squares / (n - 1) / n) : (double)NAN};
}

void scan_summarize(const scan_scores *scores, const scan_scores *whole, esp_sensitivity_point *point)
{
    double sum = 0;

    for (int64_t i = 0; i < scores->images; i++)
        sum += scores->loss[i];
    point->loss = sum / (double)scores->images;
    point->top1 = share_of(scores->top1, scores->images);
    point->top5 = share_of(scores->top5, scores->images);
    point->is_done = true;
    if (!whole)
        return;
    point->loss_change = change_of_loss(scores->loss, whole->loss, scores->images);
    point->top1_change = change_of_hits(scores->top1, whole->top1, scores->images);
    point->top5_change = change_of_hits(scores->top5, whole->top5, scores->images);
}

/* ---- curves ---- */

static const char *const measure_words[] = {"loss", "top1", "top5"};

const char *esp_sensitivity_measure_word(esp_sensitivity_measure measure)
{
    return measure_words[measure];
}

esp_status esp_sensitivity_measure_parse(const char *word, esp_sensitivity_measure *out, esp_error *err)
{
    size_t count = sizeof measure_words / sizeof *measure_words;

    for (size_t i = 0; i < count; i++)
        if (strcmp(word, measure_words[i]) == 0) {
            *out = (esp_sensitivity_measure)i;
            return ESP_OK;
        }
    return esp_fail_unknown(err, "measure", word, measure_words, count);
}

double esp_sensitivity_cost(const esp_sensitivity_point *point, esp_sensitivity_measure measure)
{
    double cost = measure == ESP_SENSITIVITY_LOSS   ? point->loss_change.value
                  : measure == ESP_SENSITIVITY_TOP1 ? -point->top1_change.value
                                                    : -point->top5_change.value;

    /* a loss that overflowed costs everything */
    return isnan(cost) ? (double)INFINITY : fmax(cost, 0);
}

/* Corners of the envelope, from (0, 0) on; false when there is no other. */
typedef struct envelope_walk {
    const esp_sensitivity_curve *curve;
    esp_sensitivity_measure measure;
    int next;
    double ratio, cost;
} envelope_walk;

static bool walk_on(envelope_walk *walk)
{
    while (walk->next < walk->curve->point_count) {
        const esp_sensitivity_point *point = &walk->curve->points[walk->next++];
        if (!point->is_done)
            continue;
        walk->ratio = point->ratio;
        walk->cost = fmax(walk->cost, esp_sensitivity_cost(point, walk->measure));
        return true;
    }
    return false;
}

double esp_sensitivity_envelope(const esp_sensitivity_curve *curve, esp_sensitivity_measure measure,
                                double ratio)
{
    envelope_walk walk = {.curve = curve, .measure = measure};
    double from = 0, low = 0;

    while (walk_on(&walk)) {
        if (ratio <= walk.ratio)
            return low + (walk.cost - low) * fmax(0, ratio - from) / (walk.ratio - from);
        from = walk.ratio;
        low = walk.cost;
    }
    return low;
}

double esp_sensitivity_ratio(const esp_sensitivity_curve *curve, esp_sensitivity_measure measure,
                             double tolerance)
{
    envelope_walk walk = {.curve = curve, .measure = measure};
    double from = 0, low = 0;

    while (walk_on(&walk)) {
        if (walk.cost > tolerance)
            return from + (walk.ratio - from) * (tolerance - low) / (walk.cost - low);
        from = walk.ratio;
        low = walk.cost;
    }
    return from;
}

int esp_sensitivity_find(const esp_sensitivity *sensitivity, const char *layer)
{
    for (int c = 0; c < sensitivity->curve_count; c++)
        for (int l = 0; l < sensitivity->curves[c].layer_count; l++)
            if (strcmp(sensitivity->curves[c].layers[l], layer) == 0)
                return c;
    return -1;
}
