/* Filter pruning resolved against a model. A criterion scores the filters of the layers that write a coupled
 * set; a slot's score is the mean over those writers, in units of each layer's mean slot, so that no layer
 * outvotes another by its scale and sets can be ranked against each other (the group importance of Fang et
 * al., DepGraph, CVPR 2023, with normalisation by the mean). A criterion whose scores compare across layers
 * as they are is taken at its word: a second normalisation would undo its own. The lowest go, in all layers
 * of the set.
 *
 * Slots that the model's own masks have emptied rank first: ratios count from the whole model. */
#include "prune/preview_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* ---- scores ---- */

static esp_status copy_scores(esp_preview *preview, double *const *scores, esp_error *err)
{
    size_t count = (size_t)preview->layers.count;

    preview->filter_scores = esp_alloc_zero(count, sizeof *preview->filter_scores);
    if (!preview->filter_scores)
        return esp_fail_memory(err, "scores", count * sizeof *preview->filter_scores);
    for (size_t l = 0; l < count; l++) {
        size_t filters = (size_t)preview->layers.items[l].filters;
        if (!scores[l])
            continue;
        preview->filter_scores[l] = esp_alloc(filters, sizeof **preview->filter_scores);
        if (!preview->filter_scores[l])
            return esp_fail_memory(err, "scores", filters * sizeof **preview->filter_scores);
        memcpy(preview->filter_scores[l], scores[l], filters * sizeof **preview->filter_scores);
    }
    return ESP_OK;
}

/* How many writers the criterion speaks of. */
static int scored_writers(const esp_preview *preview, const esp_coupled_set *set)
{
    int scored = 0;

    for (int w = 0; w < set->writer_count; w++)
        scored += preview->filter_scores[set->writers[w]] != NULL;
    return scored;
}

static void score_slots(const esp_preview *preview, esp_slot_scorer *scorer, const double *units,
                        const esp_coupled_set *set, double *scores)
{
    int scored = scored_writers(preview, set);

    esp_slot_scorer_take(scorer, set);
    for (int w = 0; w < set->writer_count; w++) {
        int l = set->writers[w];
        if (preview->filter_scores[l])
            esp_slot_scorer_add(scorer, preview->filter_scores[l], esp_coupling_writes(scorer->coupling, l),
                                preview->layers.items[l].filters, units[l], scores);
    }
    esp_slot_scorer_let_go(scorer, set);
    for (int64_t s = 0; s < set->slot_count; s++)
        scores[s] /= scored;
}

static esp_status add_set(esp_preview *preview, esp_slot_scorer *scorer, const double *units, int index,
                          esp_error *err)
{
    const esp_coupled_set *set = esp_coupling_set(scorer->coupling, index);
    esp_filter_set *out = &preview->filter_sets[preview->filter_set_count];
    int rule_layer;
    esp_status status = esp_slot_choice_new(set->slot_count, &out->choice, err);

    if (status != ESP_OK)
        return status;
    preview->filter_set_count++;
    out->set = index;
    out->ratio = preview_set_ratio(preview, set, &rule_layer);
    out->has_rule = rule_layer >= 0;
    out->kind = preview_set_kind(preview, set);
    out->threshold = INFINITY;
    out->scores = esp_alloc_zero((size_t)set->slot_count, sizeof *out->scores);
    if (!out->scores)
        return esp_fail_memory(err, "a coupled set", (size_t)set->slot_count * sizeof *out->scores);
    esp_slot_choice_carry(&out->choice, scorer->coupling, set, preview->subject->masks);
    score_slots(preview, scorer, units, set, out->scores);
    preview_takes_part(preview, set, out->ratio);
    return ESP_OK;
}

/* What each layer's scores are divided by. */
static esp_status fill_units(const esp_preview *preview, const esp_slot_scorer *scorer, double *units,
                             esp_error *err)
{
    const esp_criterion *criterion;
    esp_status status = esp_criterion_find(preview->plan.criterion, &criterion, err);

    for (int l = 0; status == ESP_OK && l < preview->layers.count; l++)
        units[l] = criterion->compares_layers ? 1
                                              : esp_slot_scorer_mean(scorer, preview->filter_scores[l],
                                                                     esp_coupling_writes(scorer->coupling, l),
                                                                     preview->layers.items[l].filters);
    return status;
}

/* The sets that can be ranked, in the order of the coupling. */
static esp_status list_sets(esp_preview *preview, const esp_coupling *coupling, const int *obstacles,
                            esp_error *err)
{
    size_t count = (size_t)preview->layers.count;
    double *units = esp_alloc_zero(count, sizeof *units);
    esp_slot_scorer scorer = {0};
    esp_status status = units ? esp_slot_scorer_new(coupling, &preview->layers, &scorer, err)
                              : esp_fail_memory(err, "layers", count * sizeof *units);

    if (status == ESP_OK)
        status = fill_units(preview, &scorer, units, err);
    for (int i = 0; status == ESP_OK && i < esp_coupling_set_count(coupling); i++) {
        const esp_coupled_set *set = esp_coupling_set(coupling, i);
        bool is_free = !set->pinned_by && set->writer_count && set->reader_count && obstacles[i] < 0;
        if (is_free && scored_writers(preview, set))
            status = add_set(preview, &scorer, units, i, err);
    }
    esp_slot_scorer_free(&scorer);
    esp_free(units);
    return status;
}

/* ---- ranking ---- */

/* Equal scores (a batch-norm that was never trained, say) go in the order of `share`, so that each set gives
 * the same share of them and none is emptied for being first. */
typedef struct ranked_slot {
    double score; /* carried slots: below all */
    double share; /* the slot's place among those of its set, in (0, 1) */
    int set;      /* index into filter_sets */
    int64_t slot;
} ranked_slot;

static int compare_ranked(const void *a, const void *b)
{
    const ranked_slot *x = a, *y = b;

    if (x->score < y->score || x->score > y->score)
        return x->score < y->score ? -1 : 1;
    if (x->share < y->share || x->share > y->share)
        return x->share < y->share ? -1 : 1;
    if (x->set != y->set)
        return x->set < y->set ? -1 : 1;
    return (x->slot > y->slot) - (x->slot < y->slot);
}

static int64_t list_slots(const esp_filter_set *sets, const int *members, int member_count, ranked_slot *out)
{
    int64_t count = 0;

    for (int m = 0; m < member_count; m++) {
        const esp_filter_set *set = &sets[members[m]];
        for (int64_t s = 0; s < set->choice.count; s++)
            out[count++] = (ranked_slot){set->choice.is_carried[s] ? -INFINITY : set->scores[s],
                                         ((double)s + 0.5) / (double)set->choice.count, members[m], s};
    }
    qsort(out, (size_t)count, sizeof *out, compare_ranked);
    return count;
}

/* Marks the lowest `target` slots; those whose set is down to its floor are passed over, and others go in
 * their place. `alive` [filter_set_count]: slots of each set that still stay; NULL: no other set could give
 * more, floors come later. */
static void take_lowest(esp_preview *preview, const ranked_slot *order, int64_t count, int64_t target,
                        int64_t *alive)
{
    esp_filter_set *sets = preview->filter_sets;
    int64_t next = 0;

    for (; next < count && target > 0; next++) {
        esp_filter_set *set = &sets[order[next].set];
        bool is_carried = set->choice.is_carried[order[next].slot];
        int64_t *left = alive ? &alive[order[next].set] : NULL;
        bool is_spared =
            left && !is_carried && *left <= esp_slot_choice_least(&set->choice, preview->plan.floor);
        set->choice.fates[order[next].slot] = is_spared ? ESP_FATE_FLOOR : ESP_FATE_GOES;
        set->choice.ranked++;
        set->choice.floored += is_spared;
        if (left && !is_spared && !is_carried)
            --*left;
        target -= !is_spared;
    }
    for (int64_t i = 0; i < count; i++)
        sets[order[i].set].threshold = next < count ? order[next].score : INFINITY;
}

/* Slots of the member sets in one ranking. */
static esp_status rank_together(esp_preview *preview, const int *members, int member_count, double ratio,
                                esp_error *err)
{
    size_t total = 0, sets = (size_t)preview->filter_set_count;
    ranked_slot *order;
    int64_t *alive = esp_alloc_zero(sets, sizeof *alive);

    for (int m = 0; m < member_count; m++)
        total += (size_t)preview->filter_sets[members[m]].choice.count;
    order = esp_alloc(total, sizeof *order);
    if (!alive || !order) {
        esp_free(alive);
        esp_free(order);
        return esp_fail_memory(err, "a ranking", total * sizeof *order);
    }
    for (int m = 0; m < member_count; m++) {
        const esp_slot_choice *choice = &preview->filter_sets[members[m]].choice;
        alive[members[m]] = choice->count - choice->carried;
    }
    int64_t count = list_slots(preview->filter_sets, members, member_count, order);
    /* shares like 0.3 * 10 are meant as the whole number they miss by rounding */
    take_lowest(preview, order, count, (int64_t)floor(ratio * (double)count + 1e-9),
                member_count > 1 ? alive : NULL);
    esp_free(alive);
    esp_free(order);
    return ESP_OK;
}

/* Global scope: per kind, the sets that follow the kind's ratio; the others, and all in layer scope, each on
 * its own. */
static esp_status rank(esp_preview *preview, esp_error *err)
{
    bool is_global = preview->plan.scope == ESP_SCOPE_GLOBAL;
    int count = preview->filter_set_count;
    int *members = esp_alloc((size_t)count, sizeof *members);
    esp_status status = members ? ESP_OK : esp_fail_memory(err, "sets", (size_t)count * sizeof *members);

    for (int kind = 0; is_global && status == ESP_OK && kind < PREVIEW_KINDS; kind++) {
        int member_count = 0;
        for (int i = 0; i < count; i++)
            if (preview->filter_sets[i].kind == kind && !preview->filter_sets[i].has_rule)
                members[member_count++] = i;
        if (member_count)
            status =
                rank_together(preview, members, member_count, preview_kind_ratio(&preview->plan, kind), err);
    }
    for (int i = 0; status == ESP_OK && i < count; i++)
        if (!is_global || preview->filter_sets[i].has_rule)
            status = rank_together(preview, &i, 1, preview->filter_sets[i].ratio, err);
    for (int i = 0; status == ESP_OK && i < count; i++)
        status = esp_slot_choice_put_back(&preview->filter_sets[i].choice, preview->filter_sets[i].scores,
                                          preview->plan.floor, preview->plan.round_to, err);
    esp_free(members);
    return status;
}

/* ---- masks and notes ---- */

static esp_status clear_slots(esp_preview *preview, const esp_coupling *coupling, esp_error *err)
{
    size_t slots = (size_t)esp_coupling_slot_limit(coupling), layers = (size_t)preview->layers.count;
    bool *is_cut = esp_alloc_zero(slots, sizeof *is_cut);
    esp_mask *masks = esp_alloc(layers, sizeof *masks);
    esp_status status = ESP_OK;

    if (!is_cut || !masks) {
        status = esp_fail_memory(err, "coupled sets", slots * sizeof *is_cut);
        goto done;
    }
    for (size_t l = 0; l < layers; l++)
        masks[l] = preview->items[l].mask; /* the same words */
    for (int i = 0; i < preview->filter_set_count; i++) {
        const esp_filter_set *set = &preview->filter_sets[i];
        for (int64_t s = 0; s < set->choice.count; s++)
            if (set->choice.fates[s] == ESP_FATE_GOES)
                is_cut[esp_coupling_set(coupling, set->set)->slots[s]] = true;
    }
    esp_slots_clear(coupling, &preview->layers, is_cut, masks);

done:
    esp_free(is_cut);
    esp_free(masks);
    return status;
}

static void note_sets(esp_preview *preview, const esp_coupling *coupling)
{
    for (int i = 0; i < preview->filter_set_count; i++) {
        const esp_filter_set *filter_set = &preview->filter_sets[i];
        const esp_slot_choice *choice = &filter_set->choice;
        const esp_coupled_set *set = esp_coupling_set(coupling, filter_set->set);
        long long going = choice->ranked - choice->floored - choice->rounded;
        for (int w = 0; w < set->writer_count; w++)
            preview_note(&preview->items[set->writers[w]], "%lld of %lld channels go%s%s", going,
                         (long long)choice->count, choice->floored ? ", the floor keeps others" : "",
                         choice->rounded ? ", others stay to fill a multiple" : "");
    }
}

/* Why layers stay whole, where nothing was noted yet. */
static void note_others(esp_preview *preview, const esp_coupling *coupling, const int *obstacles)
{
    for (int i = 0; i < esp_coupling_set_count(coupling); i++) {
        const esp_coupled_set *set = esp_coupling_set(coupling, i);
        for (int w = 0; w < set->writer_count; w++) {
            esp_preview_layer *item = &preview->items[set->writers[w]];
            if (item->note[0])
                continue;
            if (set->pinned_by)
                preview_note(item, "filters stay: %s", set->pinned_by);
            else if (!set->reader_count)
                preview_note(item, "filters stay: no layer reads its channels");
            else if (obstacles[i] >= 0)
                preview_note(item, "filters stay: coupled with '%.50s', which takes no part",
                             preview->layers.items[obstacles[i]].name);
            else if (!scored_writers(preview, set))
                preview_note(item, "filters stay: criterion '%s' says nothing of it",
                             preview->plan.criterion);
        }
    }
}

esp_status preview_by_filter(const esp_compute *compute, esp_grouping_cache *cache, esp_preview *preview,
                             esp_error *err)
{
    const esp_coupling *coupling = NULL;
    double *const *scores;
    bool *is_open = NULL;
    int *obstacles = NULL;
    esp_status status = preview_cache_coupling(cache, &coupling, err);

    if (status == ESP_OK)
        status = preview_cache_scores(cache, compute, &preview->plan, &scores, err);
    if (status == ESP_OK)
        status = copy_scores(preview, scores, err);
    if (status == ESP_OK)
        status = preview_open_layers(preview, &is_open, err);
    if (status == ESP_OK)
        status = preview_obstacles(preview, coupling, is_open, &obstacles, err);
    if (status == ESP_OK) {
        size_t sets = (size_t)esp_coupling_set_count(coupling);
        preview->filter_sets = esp_alloc_zero(sets, sizeof *preview->filter_sets);
        if (!preview->filter_sets)
            status = esp_fail_memory(err, "coupled sets", sets * sizeof *preview->filter_sets);
    }
    if (status == ESP_OK)
        status = list_sets(preview, coupling, obstacles, err);
    if (status == ESP_OK)
        status = rank(preview, err);
    if (status == ESP_OK)
        status = clear_slots(preview, coupling, err);
    if (status == ESP_OK) {
        note_sets(preview, coupling);
        note_others(preview, coupling, obstacles);
        preview_note_followers(preview, coupling);
    }
    esp_free(is_open);
    esp_free(obstacles);
    return status;
}
