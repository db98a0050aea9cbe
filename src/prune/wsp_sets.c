/* WSP on the data flow. A coupled set has several writers and readers; a slot's scores are sums over them.
 * Layers differ in scale by orders of magnitude, so each layer's norms are taken in units of its mean slot
 * before they are added. */
#include "prune/wsp_internal.h"

#include "base/memory.h"

typedef struct set_scorer {
    const esp_coupling *coupling;
    const esp_layers *layers;
    const esp_layer_l1 *norms;
    double *writer_means, *reader_means; /* per layer: mean norm of the slots it writes, reads */
    int32_t *place;                      /* per slot: its place in the set at hand, -1 elsewhere */
} set_scorer;

/* Mean over the distinct slots in `slots` [count] of the norms' sums. `place` is all -1 before and after. */
static double mean_of_slots(const double *norms, const int32_t *slots, int64_t count, int32_t *place)
{
    double total = 0;
    int64_t distinct = 0;

    if (!norms || !slots)
        return 0;
    for (int64_t i = 0; i < count; i++) {
        total += norms[i];
        distinct += place[slots[i]] < 0;
        place[slots[i]] = 0;
    }
    for (int64_t i = 0; i < count; i++)
        place[slots[i]] = -1;
    return distinct ? total / (double)distinct : 0;
}

static void add_scores(const set_scorer *scorer, const double *norms, const int32_t *slots, int64_t count,
                       double mean, double *scores)
{
    for (int64_t i = 0; mean > 0 && i < count; i++)
        if (scorer->place[slots[i]] >= 0)
            scores[scorer->place[slots[i]]] += norms[i] / mean;
}

static void fill_scores(const set_scorer *scorer, const esp_coupled_set *set, esp_wsp_pair *pair)
{
    for (int i = 0; i < set->writer_count; i++) {
        int l = set->writers[i];
        add_scores(scorer, scorer->norms[l].filters, esp_coupling_writes(scorer->coupling, l),
                   scorer->layers->items[l].filters, scorer->writer_means[l], pair->filter_l1);
    }
    for (int i = 0; i < set->reader_count; i++) {
        int l = set->readers[i];
        add_scores(scorer, scorer->norms[l].channels, esp_coupling_reads(scorer->coupling, l),
                   scorer->layers->items[l].channels, scorer->reader_means[l], pair->channel_l1);
    }
}

/* Which filter of the first writer and how many columns of the first reader a slot stands for. */
static void name_channels(const set_scorer *scorer, esp_wsp_pair *pair)
{
    const int32_t *writes = esp_coupling_writes(scorer->coupling, pair->writer);
    const int32_t *reads = esp_coupling_reads(scorer->coupling, pair->reader);
    int64_t columns = 0;

    for (int64_t f = scorer->layers->items[pair->writer].filters - 1; f >= 0; f--)
        if (scorer->place[writes[f]] >= 0)
            pair->filters[scorer->place[writes[f]]] = (int32_t)f;
    for (int64_t c = 0; c < scorer->layers->items[pair->reader].channels; c++)
        columns += scorer->place[reads[c]] >= 0;
    pair->span = columns / pair->channels;
}

static esp_status score_set(const set_scorer *scorer, int index, esp_wsp *wsp, esp_error *err)
{
    const esp_coupled_set *set = esp_coupling_set(scorer->coupling, index);
    esp_wsp_pair *pair;
    esp_status status = wsp_append(wsp, set->slot_count, &pair, err);

    if (status != ESP_OK)
        return status;
    pair->writer = set->writers[0];
    pair->reader = set->readers[0];
    pair->set = index;
    pair->is_sound = true;
    for (int64_t s = 0; s < set->slot_count; s++)
        scorer->place[set->slots[s]] = (int32_t)s;
    name_channels(scorer, pair);
    fill_scores(scorer, set, pair);
    for (int64_t s = 0; s < set->slot_count; s++)
        scorer->place[set->slots[s]] = -1;
    return ESP_OK;
}

/* NULL when a set can be measured and cut. */
static const char *why_not_scored(const esp_coupled_set *set, const esp_layer_l1 *norms)
{
    if (set->pinned_by)
        return set->pinned_by;
    if (!set->reader_count)
        return "no layer reads its channels";
    for (int i = 0; i < set->writer_count; i++)
        if (!norms[set->writers[i]].filters)
            return "a weight that writes the same channels is not stored in the model";
    for (int i = 0; i < set->reader_count; i++)
        if (!norms[set->readers[i]].channels)
            return "a weight that reads its channels is not stored in the model";
    return NULL;
}

static esp_status fill_sets(const set_scorer *scorer, esp_wsp *wsp, esp_error *err)
{
    esp_status status = ESP_OK;

    for (int index = 0; status == ESP_OK && index < esp_coupling_set_count(scorer->coupling); index++) {
        const esp_coupled_set *set = esp_coupling_set(scorer->coupling, index);
        const char *why = why_not_scored(set, scorer->norms);
        if (!why && set->writer_count)
            status = score_set(scorer, index, wsp, err);
        for (int i = 0; why && status == ESP_OK && i < set->writer_count; i++)
            status =
                wsp_note_left_out(wsp, set->writers[i], set->reader_count ? set->readers[0] : -1, why, err);
    }
    return status;
}

static void scorer_free(set_scorer *scorer)
{
    esp_free(scorer->place);
    esp_free(scorer->writer_means);
    esp_free(scorer->reader_means);
}

static esp_status scorer_fill(set_scorer *scorer, esp_error *err)
{
    size_t slots = (size_t)esp_coupling_slot_limit(scorer->coupling), count = (size_t)scorer->layers->count;

    scorer->place = esp_alloc(slots, sizeof *scorer->place);
    scorer->writer_means = esp_alloc_zero(count, sizeof *scorer->writer_means);
    scorer->reader_means = esp_alloc_zero(count, sizeof *scorer->reader_means);
    if (!scorer->place || !scorer->writer_means || !scorer->reader_means)
        return esp_fail_memory(err, "coupled sets", slots * sizeof *scorer->place);
    for (size_t s = 0; s < slots; s++)
        scorer->place[s] = -1;
    for (int l = 0; l < scorer->layers->count; l++) {
        const esp_layer *layer = &scorer->layers->items[l];
        scorer->writer_means[l] =
            mean_of_slots(scorer->norms[l].filters, esp_coupling_writes(scorer->coupling, l), layer->filters,
                          scorer->place);
        scorer->reader_means[l] =
            mean_of_slots(scorer->norms[l].channels, esp_coupling_reads(scorer->coupling, l), layer->channels,
                          scorer->place);
    }
    return ESP_OK;
}

esp_status esp_wsp_sets(const esp_coupling *coupling, const esp_layers *layers, const esp_layer_l1 *norms,
                        esp_wsp *out, esp_error *err)
{
    size_t sets = (size_t)esp_coupling_set_count(coupling);
    set_scorer scorer = {.coupling = coupling, .layers = layers, .norms = norms};
    esp_wsp wsp = {0};
    esp_status status = scorer_fill(&scorer, err);

    *out = (esp_wsp){0};
    if (status == ESP_OK) {
        wsp.pairs = esp_alloc_zero(sets, sizeof *wsp.pairs);
        status = wsp.pairs ? fill_sets(&scorer, &wsp, err)
                           : esp_fail_memory(err, "coupled sets", sets * sizeof *wsp.pairs);
    }
    scorer_free(&scorer);
    if (status == ESP_OK)
        *out = wsp;
    else
        esp_wsp_free(&wsp);
    return status;
}

esp_status esp_wsp_apply_sets(const esp_wsp *wsp, const esp_coupling *coupling, const esp_layers *layers,
                              esp_mask *masks, esp_error *err)
{
    size_t slots = (size_t)esp_coupling_slot_limit(coupling);
    bool *is_weak = esp_alloc_zero(slots, sizeof *is_weak);

    if (!is_weak)
        return esp_fail_memory(err, "coupled sets", slots * sizeof *is_weak);
    for (int i = 0; i < wsp->pair_count; i++) {
        const esp_wsp_pair *pair = &wsp->pairs[i];
        for (int64_t w = 0; pair->set >= 0 && w < pair->weak_count; w++)
            is_weak[esp_coupling_set(coupling, pair->set)->slots[pair->weak[w]]] = true;
    }
    for (int l = 0; l < layers->count; l++) {
        const int32_t *writes = esp_coupling_writes(coupling, l), *reads = esp_coupling_reads(coupling, l);
        for (int64_t f = 0; writes && f < layers->items[l].filters; f++)
            if (is_weak[writes[f]])
                esp_mask_clear_filter(&masks[l], f);
        for (int64_t c = 0; reads && c < layers->items[l].channels; c++)
            if (is_weak[reads[c]])
                esp_mask_clear_channel(&masks[l], c);
    }
    esp_free(is_weak);
    return ESP_OK;
}
