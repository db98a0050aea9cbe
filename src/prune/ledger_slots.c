/* The ledger of methods that choose whole slots. A layer's filters belong to one or more parts: a coupled set
 * (or a pair as published) that was ranked, or filters of which nothing could be chosen, for one reason each.
 * A part's steps are counted in slots and brought to the layer's filters of them. */
#include "prune/ledger_internal.h"

#include <math.h>
#include <stdio.h>

#include "base/memory.h"

/* A layer's filters in one part. */
typedef struct part_tally {
    int64_t filters;
    int64_t going;   /* chosen to go */
    int64_t carried; /* others that the model came with masked */
    int64_t dead;    /* without connections in the preview */
} part_tally;

/* ---- what was chosen ---- */

const esp_slot_choice *slots_choice(const slots_view *self, int entry)
{
    return self->preview->plan.method == ESP_METHOD_WSP ? &self->preview->wsp.pairs[entry].choice
                                                        : &self->preview->filter_sets[entry].choice;
}

double slots_ratio(const slots_view *self, int entry)
{
    return self->preview->plan.method == ESP_METHOD_WSP ? self->preview->wsp.pairs[entry].ratio
                                                        : self->preview->filter_sets[entry].ratio;
}

static void tally_filter(const slots_view *self, int layer, int64_t filter, const esp_slot_choice *choice,
                         int64_t slot, part_tally *tally)
{
    bool goes = choice && choice->fates[slot] == ESP_FATE_GOES;

    tally->filters++;
    tally->going += goes;
    tally->carried += !goes && !esp_mask_filter_is_live(&self->preview->subject->masks[layer], filter);
    tally->dead += !esp_mask_filter_is_live(&self->preview->items[layer].mask, filter);
}

/* ---- entries ---- */

/* From what was asked of the set to what the method's ranking takes. In slots; `unit`: filters of the layer
 * per slot. */
static esp_status add_ranking(const slots_view *self, int entry, bool is_together, double unit,
                              esp_ledger_layer *out, esp_error *err)
{
    const esp_slot_choice *choice = slots_choice(self, entry);
    double asked = slots_ratio(self, entry) * (double)choice->count;

    if (is_together)
        return ledger_add(out, ESP_REASON_RANKING, unit * (asked - (double)choice->ranked), err,
                          "the ranking over all layers %s",
                          asked > (double)choice->ranked ? "takes elsewhere" : "takes more here");
    return ledger_add(out, ESP_REASON_ROUNDING, unit * (asked - (double)choice->ranked), err,
                      "only whole filters go");
}

/* The same for WSP: a percentile at ratio r of n different norms has ceil(r(n-1)) of them below it. */
static esp_status add_weak(const slots_view *self, int entry, bool is_together, double unit,
                           esp_ledger_layer *out, esp_error *err)
{
    const esp_wsp_pair *pair = &self->preview->wsp.pairs[entry];
    double asked = pair->ratio * (double)pair->channels;
    double expected = ceil(pair->ratio * (double)(pair->channels - 1) - 1e-9);
    int64_t by_filter = 0, by_channel = 0, below;
    esp_status status = ESP_OK;

    for (int64_t c = 0; c < pair->channels; c++) {
        by_filter += pair->filter_l1[c] < pair->filter_threshold;
        by_channel += pair->channel_l1[c] < pair->channel_threshold;
    }
    below = by_filter < by_channel ? by_filter : by_channel;
    if (is_together) {
        status = ledger_add(out, ESP_REASON_RANKING, unit * (asked - (double)below), err,
                            "the ranking over all layers %s",
                            asked > (double)below ? "takes elsewhere" : "takes more here");
    } else {
        status = ledger_add(out, ESP_REASON_ROUNDING, unit * (asked - expected), err,
                            "only whole filters are below a percentile");
        if (status == ESP_OK)
            status = ledger_add(out, ESP_REASON_TIES, unit * (expected - (double)below), err,
                                "norms equal to the threshold stay");
    }
    if (status == ESP_OK)
        status = ledger_add(out, ESP_REASON_INTERSECTION, unit * (double)(below - pair->choice.ranked), err,
                            "weak by one norm, not by both");
    return status;
}

/* What goes beyond what was chosen: already masked, or left without inputs or outputs. */
static esp_status add_gone(const part_tally *tally, esp_ledger_layer *out, esp_error *err)
{
    esp_status status =
        ledger_add(out, ESP_REASON_CARRIED, -(double)tally->carried, err, "the model came with them masked");

    if (status == ESP_OK)
        status = ledger_add(out, ESP_REASON_CASCADE, -(double)(tally->dead - tally->going - tally->carried),
                            err, "all channels they read or pass on are cut");
    return status;
}

/* A part that was ranked. `own` is what the plan asks of the layer itself. */
static esp_status add_part(const slots_view *self, int entry, double own, int partner, bool is_together,
                           const part_tally *tally, esp_ledger_layer *out, esp_error *err)
{
    const esp_plan *plan = &self->preview->plan;
    const esp_slot_choice *choice = slots_choice(self, entry);
    double ratio = slots_ratio(self, entry), unit = (double)tally->filters / (double)choice->count;
    int64_t going = choice->ranked - choice->floored - choice->rounded;
    esp_status status;

    out->asked += own * (double)tally->filters;
    status = ledger_add(out, ESP_REASON_COUPLING, (own - ratio) * (double)tally->filters, err,
                        "the set it is coupled in is asked for %.4g %%%s%.60s", 100 * ratio,
                        partner >= 0 ? ", by the rule of " : "",
                        partner >= 0 ? self->preview->layers.items[partner].name : "");
    if (status == ESP_OK)
        status = plan->method == ESP_METHOD_WSP ? add_weak(self, entry, is_together, unit, out, err)
                                                : add_ranking(self, entry, is_together, unit, out, err);
    if (status == ESP_OK)
        status = ledger_add(out, ESP_REASON_FLOOR, unit * (double)choice->floored, err,
                            "at least %.4g %% of a coupled set stay", 100 * plan->floor);
    if (status == ESP_OK)
        status = ledger_add(out, ESP_REASON_ROUND_TO, unit * (double)choice->rounded, err,
                            "what stays is rounded up to a multiple of %d", plan->round_to);
    if (status == ESP_OK)
        status = ledger_add(out, ESP_REASON_COUPLING, unit * (double)going - (double)tally->going, err,
                            "one slot stands for several of its filters");
    return status == ESP_OK ? add_gone(tally, out, err) : status;
}

/* A part of which nothing could be chosen. */
static esp_status add_refused(double own, const part_tally *tally, esp_reason reason, const char *why,
                              esp_ledger_layer *out, esp_error *err)
{
    esp_status status;

    out->asked += own * (double)tally->filters;
    status = ledger_add(out, reason, own * (double)tally->filters, err, "%s", why);
    return status == ESP_OK ? add_gone(tally, out, err) : status;
}

/* ---- pairs as published ---- */

double slots_own_ratio(const slots_view *self, int layer, bool reads_conv)
{
    int kind = preview_kind(self->preview->layers.items[layer].is_conv, reads_conv);

    return preview_settings(self->preview, layer, preview_kind_ratio(&self->preview->plan, kind)).ratio;
}

int slots_why_no_pair(const slots_view *self, int layer, esp_reason *reason, char *why, size_t size)
{
    const esp_wsp *wsp = &self->preview->wsp;
    const esp_wsp_left_out *left_out = NULL;

    for (int i = 0; i < wsp->left_out_count && !left_out; i++)
        if (wsp->left_out[i].writer == layer)
            left_out = &wsp->left_out[i];
    if (preview_is_closed(self->preview, layer, reason, why, size))
        return left_out ? left_out->reader : -1;
    *reason = left_out ? left_out->reason : ESP_REASON_METHOD;
    snprintf(why, size, "%s",
             left_out ? left_out->why
             : self->preview->layers.items[layer].role == ESP_ROLE_SHORTCUT
                 ? "shortcut: left out, as published"
                 : "no pair as published");
    return left_out ? left_out->reader : -1;
}

static esp_status layer_of_pairs(const slots_view *self, int layer, esp_ledger_layer *out, esp_error *err)
{
    const esp_layers *layers = &self->preview->layers;
    const esp_wsp *wsp = &self->preview->wsp;
    part_tally tally = {0};
    int entry = -1, reader;
    esp_reason reason;
    char why[128];

    for (int i = 0; i < wsp->pair_count; i++)
        if (wsp->pairs[i].writer == layer)
            entry = i;
    for (int64_t f = 0; f < layers->items[layer].filters; f++)
        tally_filter(self, layer, f, entry >= 0 ? &wsp->pairs[entry].choice : NULL, f, &tally);
    if (entry >= 0)
        return add_part(self, entry,
                        slots_own_ratio(self, layer, layers->items[wsp->pairs[entry].reader].is_conv), -1,
                        false, &tally, out, err);
    reader = slots_why_no_pair(self, layer, &reason, why, sizeof why);
    return add_refused(slots_own_ratio(self, layer, layers->items[reader >= 0 ? reader : layer].is_conv),
                       &tally, reason, why, out, err);
}

/* ---- coupled sets ---- */

esp_reason slots_why_not_ranked(const slots_view *self, int layer, int index, const char *pinned_by,
                                char *why, size_t size)
{
    const esp_coupled_set *set = index >= 0 ? esp_coupling_set(self->coupling, index) : NULL;
    int obstacle = index >= 0 ? self->obstacles[index] : -1;
    esp_reason reason = ESP_REASON_UNCUTTABLE, other;
    char of_other[96] = "";
    bool is_closed = preview_is_closed(self->preview, layer, &reason, why, size);

    if (is_closed && reason == ESP_REASON_IGNORED)
        return reason;
    reason = ESP_REASON_UNCUTTABLE;
    if (pinned_by)
        snprintf(why, size, "%s", pinned_by);
    else if (set && !set->reader_count)
        snprintf(why, size, "no layer reads its channels");
    else if (is_closed && (!set || obstacle == layer || obstacle < 0))
        return reason; /* with what closes it */
    else if (obstacle >= 0) {
        preview_is_closed(self->preview, obstacle, &other, of_other, sizeof of_other);
        snprintf(why, size, "coupled with '%.50s', which takes no part: %s",
                 self->preview->layers.items[obstacle].name, of_other);
        return ESP_REASON_COUPLING;
    } else if (set && set->writer_count && self->preview->plan.method == ESP_METHOD_FILTER) {
        snprintf(why, size, "criterion '%s' says nothing of it", self->preview->plan.criterion);
        return ESP_REASON_CRITERION;
    } else
        snprintf(why, size, "its channels were not followed");
    return reason;
}

/* The part of a layer's filters that are of set `index` (-1: of none). */
static esp_status part_of_set(const slots_view *self, int layer, int index, const part_tally *tally,
                              const char *pinned_by, esp_ledger_layer *out, esp_error *err)
{
    const esp_preview *preview = self->preview;
    const esp_coupled_set *set = index >= 0 ? esp_coupling_set(self->coupling, index) : NULL;
    int entry = index >= 0 ? self->entry_of_set[index] : -1, partner = -1;
    bool reads_conv = preview->layers.items[layer].is_conv;
    char why[224];
    double own;

    for (int r = 0; set && r < set->reader_count; r++)
        reads_conv = (r && reads_conv) || preview->layers.items[set->readers[r]].is_conv;
    own = slots_own_ratio(self, layer, reads_conv);
    if (entry >= 0) {
        preview_set_ratio(preview, set, &partner);
        return add_part(self, entry, own, partner, preview->plan.scope == ESP_SCOPE_GLOBAL && partner < 0,
                        tally, out, err);
    }
    esp_reason reason = slots_why_not_ranked(self, layer, index, pinned_by, why, sizeof why);
    return add_refused(own, tally, reason, why, out, err);
}

/* tallies [sets + 1], the last for filters without a set; all zero before and after. */
static esp_status layer_of_sets(const slots_view *self, int layer, part_tally *tallies, esp_ledger_layer *out,
                                esp_error *err)
{
    const esp_layer *it = &self->preview->layers.items[layer];
    const int32_t *writes = esp_coupling_writes(self->coupling, layer);
    int sets = esp_coupling_set_count(self->coupling);
    esp_status status = ESP_OK;

    for (int64_t f = 0; f < it->filters; f++) {
        int set = writes ? esp_coupling_slot_set(self->coupling, writes[f]) : -1;
        int entry = set >= 0 ? self->entry_of_set[set] : -1;
        tally_filter(self, layer, f, entry >= 0 ? slots_choice(self, entry) : NULL,
                     entry >= 0 ? self->place[writes[f]] : 0, &tallies[set >= 0 ? set : sets]);
    }
    for (int64_t f = 0; status == ESP_OK && f < it->filters; f++) {
        int set = writes ? esp_coupling_slot_set(self->coupling, writes[f]) : -1;
        part_tally *tally = &tallies[set >= 0 ? set : sets];
        if (tally->filters)
            status = part_of_set(self, layer, set, tally,
                                 writes ? esp_coupling_pinned_by(self->coupling, writes[f]) : NULL, out, err);
        *tally = (part_tally){0};
    }
    return status;
}

/* ---- all layers ---- */

static void index_sets(slots_view *self)
{
    const esp_preview *preview = self->preview;

    for (int i = 0; i < esp_coupling_set_count(self->coupling); i++) {
        const esp_coupled_set *set = esp_coupling_set(self->coupling, i);
        self->entry_of_set[i] = -1;
        for (int64_t s = 0; s < set->slot_count; s++)
            self->place[set->slots[s]] = (int32_t)s;
    }
    for (int i = 0; i < preview->wsp.pair_count; i++)
        if (preview->wsp.pairs[i].set >= 0)
            self->entry_of_set[preview->wsp.pairs[i].set] = i;
    for (int i = 0; i < preview->filter_set_count; i++)
        self->entry_of_set[preview->filter_sets[i].set] = i;
}

static esp_status find_obstacles(slots_view *self, esp_error *err)
{
    size_t count = (size_t)self->preview->layers.count;
    bool *is_open = esp_alloc(count, sizeof *is_open);
    esp_reason reason;
    char why[128];
    esp_status status;

    if (!is_open)
        return esp_fail_memory(err, "layers", count);
    for (size_t l = 0; l < count; l++)
        is_open[l] = !preview_is_closed(self->preview, (int)l, &reason, why, sizeof why);
    status = preview_obstacles(self->preview, self->coupling, is_open, &self->obstacles, err);
    esp_free(is_open);
    return status;
}

esp_status slots_view_open(const esp_preview *preview, slots_view *out, esp_error *err)
{
    const esp_coupling *coupling = preview->subject->coupling;
    size_t sets = (size_t)esp_coupling_set_count(coupling), slots = (size_t)esp_coupling_slot_limit(coupling);
    slots_view self = {.preview = preview,
                       .coupling = coupling,
                       .is_published = !esp_plan_ranks_slots(&preview->plan),
                       .entry_of_set = esp_alloc(sets, sizeof *self.entry_of_set),
                       .place = esp_alloc_zero(slots, sizeof *self.place)};
    esp_status status = ESP_OK;

    if (!self.entry_of_set || !self.place)
        status = esp_fail_memory(err, "coupled sets", slots * sizeof *self.place);
    if (status == ESP_OK) {
        index_sets(&self);
        status = find_obstacles(&self, err);
    }
    if (status == ESP_OK)
        *out = self;
    else
        slots_view_close(&self);
    return status;
}

void slots_view_close(slots_view *view)
{
    esp_free(view->entry_of_set);
    esp_free(view->place);
    esp_free(view->obstacles);
}

esp_status ledger_slots(const esp_preview *preview, esp_ledger *out, esp_error *err)
{
    size_t sets = (size_t)esp_coupling_set_count(preview->subject->coupling);
    part_tally *tallies = esp_alloc_zero(sets + 1, sizeof *tallies);
    slots_view self = {0};
    esp_status status = tallies ? slots_view_open(preview, &self, err)
                                : esp_fail_memory(err, "a ledger", (sets + 1) * sizeof *tallies);

    for (int l = 0; status == ESP_OK && l < out->count; l++) {
        esp_ledger_layer *line = &out->layers[l];
        status = self.is_published ? layer_of_pairs(&self, l, line, err)
                                   : layer_of_sets(&self, l, tallies, line, err);
        line->asked /= line->units ? (double)line->units : 1;
    }
    slots_view_close(&self);
    esp_free(tallies);
    return status;
}
