/* What a plan asks of coupled sets. Rules speak of the filters of a layer: of the writers. A layer the plan
 * ignores stays as it is, so a set that would touch it, as writer, as reader or in between, stays whole. */
#include "prune/preview_internal.h"

#include "base/memory.h"

int preview_kind(bool writes_conv, bool reads_conv)
{
    if (!writes_conv)
        return PREVIEW_KIND_FC;
    return reads_conv ? PREVIEW_KIND_CONV : PREVIEW_KIND_BORDER;
}

double preview_kind_ratio(const esp_plan *plan, int kind)
{
    const double ratios[PREVIEW_KINDS] = {plan->conv_ratio, plan->fc_ratio, plan->border_ratio};

    return ratios[kind];
}

int preview_set_kind(const esp_preview *preview, const esp_coupled_set *set)
{
    bool reads_conv = false;

    for (int i = 0; i < set->reader_count; i++)
        reads_conv = reads_conv || preview->layers.items[set->readers[i]].is_conv;
    return preview_kind(preview->layers.items[set->writers[0]].is_conv, reads_conv);
}

double preview_set_ratio(const esp_preview *preview, const esp_coupled_set *set, int *rule_layer)
{
    double ratio = preview_kind_ratio(&preview->plan, preview_set_kind(preview, set));
    int layer = -1;

    for (int i = 0; i < set->writer_count; i++) {
        esp_layer_settings settings = preview_settings(preview, set->writers[i], 0);
        if (!settings.has_ratio || (layer >= 0 && ratio <= settings.ratio))
            continue;
        ratio = settings.ratio;
        layer = set->writers[i];
    }
    if (rule_layer)
        *rule_layer = layer;
    return ratio;
}

bool preview_set_ranks_globally(const esp_preview *preview, const esp_coupled_set *set)
{
    int rule_layer = -1;

    if (preview->plan.scope != ESP_SCOPE_GLOBAL)
        return false;
    preview_set_ratio(preview, set, &rule_layer);
    return rule_layer < 0;
}

esp_status preview_open_layers(esp_preview *preview, bool **out, esp_error *err)
{
    size_t count = (size_t)preview->layers.count;
    bool *is_open = esp_alloc(count, sizeof *is_open);

    *out = is_open;
    if (!is_open)
        return esp_fail_memory(err, "layers", count);
    for (int l = 0; l < preview->layers.count; l++)
        is_open[l] = preview_may_take_part(preview, l);
    return ESP_OK;
}

static int first_closed(const bool *is_open, const int *layers, int count)
{
    for (int i = 0; i < count; i++)
        if (!is_open[layers[i]])
            return layers[i];
    return -1;
}

/* Sets whose channels pass through a layer that must stay as it is, though it neither writes nor reads. */
static void mark_followers(const esp_preview *preview, const esp_coupling *coupling, int *obstacles)
{
    for (int l = 0; l < preview->layers.count; l++) {
        const esp_layer *layer = &preview->layers.items[l];
        const int32_t *writes = esp_coupling_writes(coupling, l);
        if (!esp_coupling_layer_follows(coupling, l) || !writes ||
            !preview_settings(preview, l, 0).is_ignored)
            continue;
        for (int64_t f = 0; f < layer->filters; f++) {
            int set = esp_coupling_slot_set(coupling, writes[f]);
            if (set >= 0)
                obstacles[set] = l;
        }
    }
}

esp_status preview_obstacles(const esp_preview *preview, const esp_coupling *coupling, const bool *is_open,
                             int **out, esp_error *err)
{
    int count = esp_coupling_set_count(coupling);
    int *obstacles = esp_alloc((size_t)count, sizeof *obstacles);

    *out = obstacles;
    if (!obstacles)
        return esp_fail_memory(err, "coupled sets", (size_t)count * sizeof *obstacles);
    for (int i = 0; i < count; i++)
        obstacles[i] = -1;
    mark_followers(preview, coupling, obstacles);
    for (int i = 0; i < count; i++) {
        const esp_coupled_set *set = esp_coupling_set(coupling, i);
        int writer = first_closed(is_open, set->writers, set->writer_count);
        int reader = first_closed(is_open, set->readers, set->reader_count);
        if (reader >= 0)
            obstacles[i] = reader;
        if (writer >= 0)
            obstacles[i] = writer;
    }
    return ESP_OK;
}

void preview_note_followers(esp_preview *preview, const esp_coupling *coupling)
{
    for (int l = 0; l < preview->layers.count; l++)
        if (esp_coupling_layer_follows(coupling, l) && !preview->items[l].note[0])
            preview_note(&preview->items[l],
                         "grouped convolution: its filters go with the channels they read");
}

static void layer_takes_part(esp_preview *preview, int layer, double ratio)
{
    preview->items[layer].takes_part = true;
    if (ratio > preview->items[layer].asked)
        preview->items[layer].asked = ratio;
}

void preview_takes_part(esp_preview *preview, const esp_coupled_set *set, double ratio)
{
    for (int w = 0; w < set->writer_count; w++)
        layer_takes_part(preview, set->writers[w], ratio);
    for (int r = 0; r < set->reader_count; r++)
        layer_takes_part(preview, set->readers[r], 0);
}
