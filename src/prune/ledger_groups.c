/* The ledger of self-grouping. A threshold at ratio r over n entries lets ceil(r(n-1)) of n different values
 * go. Members of a group have equal entries, which go together; whether a group keeps a channel is decided
 * for all of it. */
#include "prune/ledger_internal.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

typedef struct threshold_counts {
    int64_t going;         /* entries at or below the threshold */
    int64_t equal;         /* of those, equal to it and not carried */
    int64_t largest_equal; /* the most of one group and channel */
} threshold_counts;

static bool is_kept(const uint64_t *row, int64_t channel)
{
    return row[channel / 64] >> (channel % 64) & 1;
}

/* Whether (group, channel) counts as zero in sound mode: masked for some member. */
static void find_holes(const esp_grouping *grouping, const esp_mask *mask, bool *holes)
{
    for (int64_t f = 0; f < mask->filters; f++) {
        const uint64_t *row = mask->words + f * mask->row_words;
        bool *of_group = holes + grouping->labels[f] * mask->channels;
        for (int64_t c = 0; c < mask->channels; c++)
            of_group[c] = of_group[c] || !is_kept(row, c);
    }
}

/* The entries of one filter. holes, equals: per channel of its group. */
static void count_row(const double *centroid, const uint64_t *row, int64_t channels, double threshold,
                      const bool *holes, int64_t *equals, threshold_counts *counts)
{
    for (int64_t c = 0; c < channels; c++) {
        bool is_masked = !is_kept(row, c);
        double entry = holes[c] || is_masked ? 0 : centroid[c];
        if (entry > threshold)
            continue;
        counts->going++;
        if (is_masked || entry < threshold)
            continue;
        counts->equal++;
        equals[c]++;
        counts->largest_equal = equals[c] > counts->largest_equal ? equals[c] : counts->largest_equal;
    }
}

static esp_status count_threshold(const esp_preview *preview, int l, threshold_counts *out, esp_error *err)
{
    const esp_mask *mask = &preview->subject->masks[l];
    const esp_grouping *grouping = &preview->items[l].grouping;
    size_t cells = (size_t)(grouping->k * mask->channels);
    bool *holes = esp_alloc_zero(cells, sizeof *holes);
    int64_t *equals = esp_alloc_zero(cells, sizeof *equals);
    esp_status status = ESP_OK;

    *out = (threshold_counts){0};
    if (!holes || !equals) {
        status = esp_fail_memory(err, "a ledger", cells * sizeof *equals);
        goto done;
    }
    if (preview->plan.mode == ESP_MODE_SOUND)
        find_holes(grouping, mask, holes);
    for (int64_t f = 0; f < mask->filters; f++) {
        int64_t first = grouping->labels[f] * mask->channels;
        count_row(grouping->centroids + first, mask->words + f * mask->row_words, mask->channels,
                  grouping->threshold, holes + first, equals + first, out);
    }

done:
    esp_free(holes);
    esp_free(equals);
    return status;
}

/* What the threshold takes beyond what it would of different values. */
static esp_status explain_excess(double excess, const threshold_counts *counts, int64_t carried,
                                 double expected, esp_ledger_layer *out, esp_error *err)
{
    double masked = (double)carried > expected ? (double)carried - expected : 0;
    double others = (double)(counts->equal - counts->largest_equal);
    esp_status status;

    masked = masked < excess ? masked : excess;
    others = others < excess - masked ? others : excess - masked;
    status = ledger_add(out, ESP_REASON_CARRIED, -masked, err, "the model came with them masked");
    if (status == ESP_OK)
        status = ledger_add(out, ESP_REASON_TIES, -others, err, "entries equal to the threshold go together");
    if (status == ESP_OK)
        status = ledger_add(out, ESP_REASON_GROUPING, -(excess - masked - others), err,
                            "the members of a group share one importance per channel");
    return status;
}

static esp_status explain_step(const esp_preview *preview, int l, int64_t carried, int64_t stepped,
                               esp_ledger_layer *out, esp_error *err)
{
    double units = (double)out->units, ratio = out->asked, expected;
    threshold_counts counts;
    esp_status status = count_threshold(preview, l, &counts, err);

    if (status != ESP_OK)
        return status;
    expected = ceil(ratio * (units - 1));
    status = ledger_add(out, ESP_REASON_ROUNDING, ratio * units - expected, err, "only whole connections go");
    if (status != ESP_OK)
        return status;
    if (counts.going == out->units && stepped == carried)
        return ledger_add(out, ESP_REASON_TIES, expected - (double)stepped, err,
                          "all groups tie at the threshold: left as it was");
    if (counts.equal == out->units)
        return ledger_add(out, ESP_REASON_TIES, expected - (double)stepped, err,
                          "all entries are equal: the threshold takes all of them");
    status = explain_excess((double)counts.going - expected, &counts, carried, expected, out, err);
    if (status == ESP_OK)
        status = ledger_add(out, ESP_REASON_GROUPING, (double)(counts.going - stepped), err,
                            preview->plan.mode == ESP_MODE_FAITHFUL
                                ? "the first member's mask decides for its group"
                                : "the members of a group share one mask");
    return status;
}

/* A layer that was not grouped: why. */
static esp_status explain_whole(const esp_preview *preview, int l, esp_ledger_layer *out, esp_error *err)
{
    const esp_preview_layer *item = &preview->items[l];
    double amount = out->asked * (double)out->units;
    esp_reason reason;
    char why[128];

    if (preview_is_closed(preview, l, &reason, why, sizeof why))
        return ledger_add(out, reason, amount, err, "%s", why);
    if (item->role == ESP_ROLE_BODY)
        return ledger_add(out, ESP_REASON_METHOD, amount, err, "%s",
                          item->note[0] ? item->note : "the method leaves the layer out");
    return ledger_add(out, ESP_REASON_METHOD, amount, err, "%s: left whole, as published",
                      esp_role_word(item->role));
}

esp_status ledger_groups(const esp_preview *preview, int l, esp_ledger_layer *out, esp_error *err)
{
    const esp_layer *layer = &preview->layers.items[l];
    const esp_preview_layer *item = &preview->items[l];
    double kind = layer->is_conv ? preview->plan.conv_ratio : preview->plan.fc_ratio;
    int64_t carried = out->units - esp_mask_kept(&preview->subject->masks[l]);
    int64_t stepped = out->units - esp_mask_kept(&item->mask) - item->cascaded;
    esp_status status;

    out->asked = preview_settings(preview, l, kind).ratio;
    if (item->grouping.labels && out->asked > 0)
        status = explain_step(preview, l, carried, stepped, out, err);
    else if (item->grouping.labels)
        status =
            ledger_add(out, ESP_REASON_CARRIED, -(double)stepped, err, "the model came with them masked");
    else
        status = explain_whole(preview, l, out, err);
    if (status == ESP_OK && !item->grouping.labels) {
        status =
            ledger_add(out, ESP_REASON_CARRIED, -(double)carried, err, "the model came with them masked");
        if (status == ESP_OK) /* depthwise filters follow the channels they pass on */
            status = ledger_add(out, ESP_REASON_CASCADE, -(double)(stepped - carried), err,
                                "the channels they pass on are cut");
    }
    if (status == ESP_OK)
        status = ledger_add(out, ESP_REASON_CASCADE, -(double)item->cascaded, err,
                            "no layer reads the filters they are of");
    return status;
}
