/* WSP on the data flow. A coupled set has several writers and readers; a slot's scores are sums over them, of
 * norms in units of each layer's mean slot. */
#include "prune/wsp_internal.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "prune/criteria.h"

typedef struct set_scorer {
    esp_slot_scorer slots;
    const esp_layer_l1 *norms;
    double *writer_means, *reader_means; /* per layer: mean norm of the slots it writes, reads */
} set_scorer;

static void fill_scores(const set_scorer *scorer, const esp_coupled_set *set, esp_wsp_pair *pair)
{
    const esp_slot_scorer *slots = &scorer->slots;

    for (int i = 0; i < set->writer_count; i++) {
        int l = set->writers[i];
        esp_slot_scorer_add(slots, scorer->norms[l].filters, esp_coupling_writes(slots->coupling, l),
                            slots->layers->items[l].filters, scorer->writer_means[l], pair->filter_l1);
    }
    for (int i = 0; i < set->reader_count; i++) {
        int l = set->readers[i];
        esp_slot_scorer_add(slots, scorer->norms[l].channels, esp_coupling_reads(slots->coupling, l),
                            slots->layers->items[l].channels, scorer->reader_means[l], pair->channel_l1);
    }
}

/* Which filter of the first writer and how many columns of the first reader a slot stands for. */
static void name_channels(const esp_slot_scorer *scorer, esp_wsp_pair *pair)
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

static esp_status score_set(set_scorer *scorer, int index, esp_wsp *wsp, esp_error *err)
{
    const esp_coupled_set *set = esp_coupling_set(scorer->slots.coupling, index);
    esp_wsp_pair *pair;
    esp_status status = wsp_append(wsp, set->slot_count, &pair, err);

    if (status != ESP_OK)
        return status;
    pair->writer = set->writers[0];
    pair->reader = set->readers[0];
    pair->writer_count = set->writer_count;
    pair->reader_count = set->reader_count;
    pair->set = index;
    pair->is_sound = true;
    esp_slot_scorer_take(&scorer->slots, set);
    name_channels(&scorer->slots, pair);
    fill_scores(scorer, set, pair);
    esp_slot_scorer_let_go(&scorer->slots, set);
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

static esp_status fill_sets(set_scorer *scorer, esp_wsp *wsp, esp_error *err)
{
    const esp_coupling *coupling = scorer->slots.coupling;
    esp_status status = ESP_OK;

    for (int index = 0; status == ESP_OK && index < esp_coupling_set_count(coupling); index++) {
        const esp_coupled_set *set = esp_coupling_set(coupling, index);
        const char *why = why_not_scored(set, scorer->norms);
        if (!why && set->writer_count)
            status = score_set(scorer, index, wsp, err);
        for (int i = 0; why && status == ESP_OK && i < set->writer_count; i++)
            status = wsp_note_left_out(wsp, set->writers[i], set->reader_count ? set->readers[0] : -1,
                                       ESP_REASON_UNCUTTABLE, why, err);
    }
    return status;
}

static void scorer_free(set_scorer *scorer)
{
    esp_slot_scorer_free(&scorer->slots);
    esp_free(scorer->writer_means);
    esp_free(scorer->reader_means);
}

static esp_status scorer_fill(set_scorer *scorer, const esp_coupling *coupling, const esp_layers *layers,
                              esp_error *err)
{
    size_t count = (size_t)layers->count;
    esp_status status = esp_slot_scorer_new(coupling, layers, &scorer->slots, err);

    if (status != ESP_OK)
        return status;
    scorer->writer_means = esp_alloc_zero(count, sizeof *scorer->writer_means);
    scorer->reader_means = esp_alloc_zero(count, sizeof *scorer->reader_means);
    if (!scorer->writer_means || !scorer->reader_means)
        return esp_fail_memory(err, "coupled sets", count * sizeof *scorer->writer_means);
    for (int l = 0; l < layers->count; l++) {
        const esp_layer *layer = &layers->items[l];
        scorer->writer_means[l] = esp_slot_scorer_mean(&scorer->slots, scorer->norms[l].filters,
                                                       esp_coupling_writes(coupling, l), layer->filters);
        scorer->reader_means[l] = esp_slot_scorer_mean(&scorer->slots, scorer->norms[l].channels,
                                                       esp_coupling_reads(coupling, l), layer->channels);
    }
    return ESP_OK;
}

esp_status esp_wsp_sets(const esp_coupling *coupling, const esp_layers *layers, const esp_layer_l1 *norms,
                        esp_wsp *out, esp_error *err)
{
    size_t sets = (size_t)esp_coupling_set_count(coupling);
    set_scorer scorer = {.norms = norms};
    esp_wsp wsp = {0};
    esp_status status = scorer_fill(&scorer, coupling, layers, err);

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

/* ---- one ranking over several sets ---- */

/* Scores of a set are sums over its layers: by the number of layers they compare with other sets'. */
static double filter_unit(const esp_wsp_pair *pair)
{
    return 1.0 / pair->writer_count;
}

static double channel_unit(const esp_wsp_pair *pair)
{
    return 1.0 / pair->reader_count;
}

/* Scores per layer of all sets that are ranked together, by each norm. */
typedef struct score_pool {
    int64_t count;
    double *filters, *channels;
} score_pool;

static esp_status pool_fill(esp_wsp_pair *const *pairs, int count, score_pool *pool, esp_error *err)
{
    int64_t next = 0;

    for (int i = 0; i < count; i++)
        pool->count += pairs[i]->channels;
    pool->filters = esp_alloc((size_t)pool->count, sizeof *pool->filters);
    pool->channels = esp_alloc((size_t)pool->count, sizeof *pool->channels);
    if (!pool->filters || !pool->channels)
        return esp_fail_memory(err, "coupled sets", (size_t)pool->count * sizeof *pool->filters);
    for (int i = 0; i < count; i++)
        for (int64_t c = 0; c < pairs[i]->channels; c++, next++) {
            pool->filters[next] = pairs[i]->filter_l1[c] * filter_unit(pairs[i]);
            pool->channels[next] = pairs[i]->channel_l1[c] * channel_unit(pairs[i]);
        }
    return ESP_OK;
}

static void pool_free(score_pool *pool)
{
    esp_free(pool->filters);
    esp_free(pool->channels);
}

/* The common threshold in the units of a set. Division rounds: it must part the set's scores as the common
 * one does. */
static double own_threshold(const double *scores, int64_t count, double unit, double threshold)
{
    double own = threshold / unit;

    for (int64_t c = 0; c < count; c++) {
        if (scores[c] * unit < threshold)
            own = fmax(own, nextafter(scores[c], INFINITY));
        else
            own = fmin(own, scores[c]);
    }
    return own;
}

esp_status esp_wsp_select_together(esp_wsp_pair *const *pairs, int count, double ratio, esp_error *err)
{
    score_pool pool = {0};
    double filter_threshold, channel_threshold;
    esp_status status = pool_fill(pairs, count, &pool, err);

    if (status != ESP_OK || pool.count == 0)
        goto done;
    filter_threshold = esp_ratio_threshold(pool.filters, pool.count, ratio);
    channel_threshold = esp_ratio_threshold(pool.channels, pool.count, ratio);
    for (int i = 0; i < count; i++) {
        esp_wsp_pair *pair = pairs[i];
        pair->filter_threshold =
            own_threshold(pair->filter_l1, pair->channels, filter_unit(pair), filter_threshold);
        pair->channel_threshold =
            own_threshold(pair->channel_l1, pair->channels, channel_unit(pair), channel_threshold);
        wsp_mark_weak(pair);
    }

done:
    pool_free(&pool);
    return status;
}

/* ---- what floor and multiple keep ---- */

static int compare_scores(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

/* How many of the sorted scores are not above `score`. A percentile is above it from the ratio on that lies
 * behind all of those. */
static int64_t count_not_above(const double *sorted, int64_t count, double score)
{
    int64_t low = 0, high = count;

    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (sorted[middle] <= score)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void pool_sort(score_pool *pool)
{
    qsort(pool->filters, (size_t)pool->count, sizeof *pool->filters, compare_scores);
    qsort(pool->channels, (size_t)pool->count, sizeof *pool->channels, compare_scores);
}

typedef struct weak_order {
    int64_t rank;    /* the larger of its ranks by both norms: the norm that lets it go last decides */
    double strength; /* sum of both scores */
    int64_t channel;
} weak_order;

static int compare_weak(const void *a, const void *b)
{
    const weak_order *x = a, *y = b;

    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    if (x->strength < y->strength || x->strength > y->strength)
        return x->strength < y->strength ? -1 : 1;
    return (x->channel > y->channel) - (x->channel < y->channel);
}

/* order [channels], places [channels]: where each channel stands in the order in which they become weak. */
static void place_channels(const esp_wsp_pair *pair, const score_pool *pool, weak_order *order,
                           double *places)
{
    for (int64_t c = 0; c < pair->channels; c++) {
        double filter = pair->filter_l1[c] * filter_unit(pair);
        double channel = pair->channel_l1[c] * channel_unit(pair);
        int64_t by_filter = count_not_above(pool->filters, pool->count, filter);
        int64_t by_channel = count_not_above(pool->channels, pool->count, channel);
        order[c] = (weak_order){by_filter > by_channel ? by_filter : by_channel, filter + channel, c};
    }
    qsort(order, (size_t)pair->channels, sizeof *order, compare_weak);
    for (int64_t i = 0; i < pair->channels; i++)
        places[order[i].channel] = (double)i;
}

static esp_status put_back(esp_wsp_pair *pair, const score_pool *pool, double floor, int round_to,
                           esp_error *err)
{
    size_t count = (size_t)pair->channels;
    weak_order *order = esp_alloc(count, sizeof *order);
    double *places = esp_alloc(count, sizeof *places);
    esp_status status;

    if (!order || !places) {
        status = esp_fail_memory(err, "a coupled set", count * sizeof *order);
        goto done;
    }
    place_channels(pair, pool, order, places);
    status = esp_slot_choice_put_back(&pair->choice, places, floor, round_to, err);
    pair->weak_count = 0;
    for (int64_t c = 0; c < pair->channels; c++)
        if (pair->choice.fates[c] == ESP_FATE_GOES)
            pair->weak[pair->weak_count++] = (int32_t)c;

done:
    esp_free(order);
    esp_free(places);
    return status;
}

esp_status esp_wsp_put_back(esp_wsp_pair *const *pairs, int count, double floor, int round_to, esp_error *err)
{
    score_pool pool = {0};
    esp_status status = ESP_OK;

    for (int i = 0; status == ESP_OK && i < count; i++) {
        if (!esp_slot_choice_is_short(&pairs[i]->choice, floor, round_to))
            continue;
        if (!pool.filters) { /* most previews need none */
            status = pool_fill(pairs, count, &pool, err);
            if (status != ESP_OK)
                break;
            pool_sort(&pool);
        }
        status = put_back(pairs[i], &pool, floor, round_to, err);
    }
    pool_free(&pool);
    return status;
}

/* A channel becomes weak when the ratio passes the place of the last score that is not above its own, by the
 * norm that lets it go last: percentiles go from score to score in equal steps, and ties stay. */
esp_status esp_wsp_largest_ratio(const esp_wsp_pair *pair, int64_t most, double *out, esp_error *err)
{
    esp_wsp_pair copy = *pair, *pairs[1] = {&copy};
    score_pool pool = {0};
    size_t count = (size_t)pair->channels;
    weak_order *order = esp_alloc(count, sizeof *order);
    double *places = esp_alloc(count, sizeof *places);
    esp_status status = order && places ? pool_fill(pairs, 1, &pool, err)
                                        : esp_fail_memory(err, "a coupled set", count * sizeof *order);

    if (status == ESP_OK) {
        pool_sort(&pool);
        place_channels(pair, &pool, order, places);
        double place = most < pair->channels && pair->channels > 1
                           ? (double)(order[most].rank - 1) / (double)(pair->channels - 1)
                           : 1;
        *out = fmin(floor(place * 1e4 + 1e-9) / 1e4, 0.9999);
    }
    esp_free(order);
    esp_free(places);
    pool_free(&pool);
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
    esp_slots_clear(coupling, layers, is_weak, masks);
    esp_free(is_weak);
    return ESP_OK;
}
