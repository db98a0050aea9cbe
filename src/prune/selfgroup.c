/* Self-grouping, steps 1 and 3 to 5 of METHODS.md section 2 (step 2 is kmeans.c).
 *
 * A cluster's value of a channel is the centroid where the cluster still has that channel, else zero. Whether
 * it has it is one mask row per cluster: the first member's as published, the common part of all members' in
 * sound mode. */
#include "prune/selfgroup.h"

#include <math.h>

#include "base/memory.h"
#include "prune/criteria.h"

/* Slices of one kernel position are their own sums. */
static void copy_magnitudes(const float *weight, int64_t count, float *importance)
{
    for (int64_t i = 0; i < count; i++)
        importance[i] = fabsf(weight[i]);
}

static void sum_slices(const float *weight, int64_t channels, int64_t positions, float *importance)
{
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0;
        for (int64_t i = 0; i < positions; i++)
            sum += fabs((double)weight[c * positions + i]);
        importance[c] = (float)sum;
    }
}

void esp_importance(const float *weight, const esp_mask *mask, int64_t filters, int64_t channels,
                    int64_t positions, float *importance)
{
    for (int64_t f = 0; f < filters; f++) {
        const float *filter = weight + f * channels * positions;
        float *row = importance + f * channels;
        bool is_whole = esp_mask_filter_kept(mask, f) == channels;
        if (positions == 1)
            copy_magnitudes(filter, channels, row);
        else
            sum_slices(filter, channels, positions, row);
        for (int64_t c = 0; !is_whole && c < channels; c++)
            if (!esp_mask_get(mask, f, c))
                row[c] = 0;
    }
}

static esp_status check_step(const int32_t *labels, int64_t k, double ratio, const esp_mask *mask,
                             esp_error *err)
{
    if (!(ratio >= 0 && ratio < 1))
        return esp_fail(err, ESP_INVALID, "self-grouping: ratio is %g, expected a number in [0, 1)", ratio);
    for (int64_t f = 0; f < mask->filters; f++)
        if (labels[f] < 0 || labels[f] >= k)
            return esp_fail(err, ESP_INVALID, "self-grouping: filter %lld has label %d, expected 0 to %lld",
                            (long long)f, (int)labels[f], (long long)k - 1);
    return ESP_OK;
}

/* has[g]: the channels cluster g still has. */
static void join_members(const int32_t *labels, esp_mode mode, const esp_mask *mask, esp_mask *has)
{
    for (int64_t g = 0; g < has->filters; g++) {
        bool is_first = true;
        for (int64_t f = 0; f < mask->filters; f++) {
            if (labels[f] != g || (!is_first && mode == ESP_MODE_FAITHFUL))
                continue;
            is_first = false;
            for (int64_t w = 0; w < mask->row_words; w++)
                has->words[g * has->row_words + w] &= mask->words[f * mask->row_words + w];
        }
    }
}

/* times[g, c]: in how many members an entry counts as the centroid; elsewhere it counts as zero. All members,
 * less those that have lost the channel: masks are mostly ones, so it is the zeros that are looked for. */
static void count_entries(const int32_t *labels, esp_mode mode, const esp_mask *mask, const esp_mask *has,
                          esp_repeated *times)
{
    int64_t channels = mask->channels;

    for (int64_t f = 0; f < mask->filters; f++) /* members, in the first column for now */
        times[labels[f] * channels].times++;
    for (int64_t g = 0; g < has->filters; g++)
        for (int64_t c = 1; c < channels; c++)
            times[g * channels + c].times = times[g * channels].times;
    for (int64_t f = 0; f < mask->filters; f++) {
        /* in sound mode a filter counts with its cluster's channels */
        const uint64_t *row = mode == ESP_MODE_SOUND ? has->words + labels[f] * has->row_words
                                                     : mask->words + f * mask->row_words;
        esp_repeated *entries = times + labels[f] * channels;
        for (int64_t w = 0; w < mask->row_words; w++)
            for (uint64_t lost = ~row[w]; lost; lost &= lost - 1) {
                int64_t c = w * 64 + __builtin_ctzll(lost);
                if (c < channels)
                    entries[c].times--;
            }
    }
}

/* The percentile over every filter's entries. Members of a cluster share its centroid, so an entry is a value
 * and how often it counts: k rows to sort, not one for each filter. */
static esp_status find_threshold(const int32_t *labels, const double *centroids, double ratio, esp_mode mode,
                                 const esp_mask *mask, const esp_mask *has, double *threshold, esp_error *err)
{
    int64_t count = has->filters * mask->channels, zeros = mask->filters * mask->channels;
    esp_repeated *entries = esp_alloc_zero((size_t)count + 1, sizeof *entries);

    if (!entries)
        return esp_fail_memory(err, "self-grouping", (size_t)count * sizeof *entries);
    count_entries(labels, mode, mask, has, entries);
    for (int64_t i = 0; i < count; i++) {
        entries[i].value = centroids[i];
        zeros -= entries[i].times;
    }
    entries[count].times = zeros;
    *threshold = mode == ESP_MODE_SOUND
                     ? esp_ratio_threshold_repeated(entries, count + 1, ratio)
                     : esp_percentile_repeated(entries, count + 1, esp_percent_of(ratio)); /* as published */
    esp_free(entries);
    return ESP_OK;
}

/* Clears the bits of a row whose centroid is not above the limit; strict '>': ties and zeros go, as
 * published.
 */
static void keep_above(const double *centroid, int64_t channels, double limit, uint64_t *words)
{
    for (int64_t first = 0; first < channels; first += 64) {
        int64_t end = first + 64 < channels ? first + 64 : channels;
        uint64_t above = 0;
        for (int64_t c = first; c < end; c++)
            above |= (uint64_t)(centroid[c] > limit) << (c - first);
        words[first / 64] &= above;
    }
}

esp_status esp_selfgroup_step(const int32_t *labels, const double *centroids, int64_t k, double ratio,
                              esp_mode mode, esp_mask *mask, double *threshold, esp_error *err)
{
    esp_mask keep = {0};
    double limit = 0;
    esp_status status = check_step(labels, k, ratio, mask, err);

    if (status == ESP_OK && ratio == 0) {
        *threshold = 0;
        return ESP_OK;
    }
    if (status == ESP_OK)
        status = esp_mask_new(k, mask->channels, &keep, err);
    if (status != ESP_OK)
        return status;

    join_members(labels, mode, mask, &keep);
    status = find_threshold(labels, centroids, ratio, mode, mask, &keep, &limit, err);
    if (status == ESP_OK) {
        for (int64_t g = 0; g < k; g++)
            keep_above(centroids + g * mask->channels, mask->channels, limit,
                       keep.words + g * keep.row_words);
        for (int64_t f = 0; f < mask->filters; f++)
            for (int64_t w = 0; w < mask->row_words; w++)
                mask->words[f * mask->row_words + w] &= keep.words[labels[f] * keep.row_words + w];
        *threshold = limit;
    }
    esp_mask_free(&keep);
    return status;
}
