/* Explanations of self-grouping: a filter shares its group's decision for every channel. */
#include "prune/explain_internal.h"

#include "base/memory.h"

static void add(explanation *self, json_t *list, json_t *take_item)
{
    if (!take_item || json_array_append_new(list, take_item) != 0)
        self->is_broken = true;
}

/* What became of the connection to channel c. A group that keeps the channel loses it to a cascade only. */
static const char *state_of(const explanation *self, int64_t c, double centroid)
{
    const esp_preview_layer *item = &self->preview->items[self->layer];
    bool is_dead = !esp_mask_filter_is_live(&item->mask, self->channel);

    if (esp_mask_get(&item->mask, self->channel, c))
        return "kept";
    if (!esp_mask_get(&self->preview->subject->masks[self->layer], self->channel, c))
        return "carried";
    return is_dead && item->cascaded && centroid > item->grouping.threshold ? "cascade" : "pruned";
}

static esp_status tell_channels(explanation *self, esp_error *err)
{
    const esp_grouping *grouping = &self->preview->items[self->layer].grouping;
    const esp_layer *layer = &self->preview->layers.items[self->layer];
    const double *centroid = grouping->centroids + grouping->labels[self->channel] * layer->channels;
    json_t *list = json_array();
    float *importance;
    esp_status status = esp_preview_importance(self->preview, self->layer, &importance, err);

    if (status != ESP_OK) {
        json_decref(list);
        return status;
    }
    for (int64_t c = 0; c < layer->channels; c++)
        add(self, list,
            json_pack("{s:I, s:f, s:f, s:s}", "channel", (json_int_t)c, "centroid", centroid[c], "importance",
                      (double)importance[self->channel * layer->channels + c], "state",
                      state_of(self, c, centroid[c])));
    explain_set(self, "channels", list);
    esp_free(importance);
    return ESP_OK;
}

static void tell_members(explanation *self)
{
    const esp_grouping *grouping = &self->preview->items[self->layer].grouping;
    json_t *members = json_array();

    for (int64_t f = 0; f < self->preview->layers.items[self->layer].filters; f++)
        if (grouping->labels[f] == grouping->labels[self->channel])
            add(self, members, json_integer(f));
    explain_set(self, "group", json_integer(grouping->labels[self->channel]));
    explain_set(self, "members", members);
    explain_set(self, "threshold", json_real(grouping->threshold));
}

static void tell_grouped(explanation *self, int64_t kept)
{
    const esp_preview_layer *item = &self->preview->items[self->layer];
    const esp_grouping *grouping = &item->grouping;
    int64_t channels = self->preview->layers.items[self->layer].channels;
    const double *centroid = grouping->centroids + grouping->labels[self->channel] * channels;
    double largest = 0;
    bool is_chosen = false;

    for (int64_t c = 0; c < channels; c++) {
        largest = centroid[c] > largest ? centroid[c] : largest;
        is_chosen = is_chosen || centroid[c] > grouping->threshold;
    }
    if (!esp_mask_filter_is_live(&self->preview->subject->masks[self->layer], self->channel)) {
        explain_set(self, "decision", json_string(esp_reason_word(ESP_REASON_CARRIED)));
        explain_text(self, "why", "the model came with it masked");
    } else if (!kept && is_chosen && item->cascaded) {
        explain_set(self, "decision", json_string(esp_reason_word(ESP_REASON_CASCADE)));
        explain_text(self, "why", "no layer reads it any more");
        explain_text(self, "change", "a plan without cascade, or lower ratios where it is read");
    } else {
        explain_set(self, "decision", json_string(kept ? "stays" : "goes"));
        explain_text(self, "why", "its group keeps %lld of %lld channels: those above the threshold",
                     (long long)kept, (long long)channels);
        explain_text(self, "change",
                     kept ? "goes when the threshold reaches %.6g, its group's largest entry"
                          : "stays when the threshold is below %.6g, its group's largest entry",
                     largest);
    }
}

static void tell_whole(explanation *self)
{
    const esp_preview_layer *item = &self->preview->items[self->layer];
    esp_reason reason = ESP_REASON_METHOD;
    char why[160];

    if (!esp_mask_filter_is_live(&item->mask, self->channel)) {
        bool was_live = esp_mask_filter_is_live(&self->preview->subject->masks[self->layer], self->channel);
        reason = was_live ? ESP_REASON_CASCADE : ESP_REASON_CARRIED;
        explain_text(self, "why", was_live ? "no layer reads it any more" : "the model came with it masked");
    } else if (preview_is_closed(self->preview, self->layer, &reason, why, sizeof why)) {
        explain_text(self, "why", "%s", why);
    } else {
        reason = ESP_REASON_METHOD;
        explain_text(self, "why", "%s: left whole, as published", esp_role_word(item->role));
        explain_text(self, "change", "another method");
    }
    explain_set(self, "decision", json_string(esp_reason_word(reason)));
}

esp_status explain_groups(explanation *self, esp_error *err)
{
    const esp_preview *preview = self->preview;
    const esp_layer *layer = &preview->layers.items[self->layer];
    const int32_t *writes = esp_coupling_writes(preview->subject->coupling, self->layer);
    int64_t kept = esp_mask_filter_kept(&preview->items[self->layer].mask, self->channel);
    double kind = layer->is_conv ? preview->plan.conv_ratio : preview->plan.fc_ratio;

    explain_set(self, "asked", json_real(preview_settings(preview, self->layer, kind).ratio));
    explain_set(self, "channels_kept", json_integer(kept));
    if (writes)
        explain_slot(self, writes[self->channel]);
    if (!preview->items[self->layer].grouping.labels) {
        tell_whole(self);
        return ESP_OK;
    }
    tell_members(self);
    tell_grouped(self, kept);
    return tell_channels(self, err);
}
