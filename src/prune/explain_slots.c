/* Explanations where whole slots are chosen: WSP and FILTER. */
#include "prune/explain_internal.h"
#include "prune/ledger_internal.h"

#include <math.h>

#define FATE_WORD(name, word) word,
static const char *const fate_words[] = {ESP_FATE_LIST(FATE_WORD)};

/* What became of a slot that was ranked, as a word. Filters can be gone though nobody chose them. */
static const char *decide(const explanation *self, const esp_slot_choice *choice, int64_t place)
{
    bool was_live = esp_mask_filter_is_live(&self->preview->subject->masks[self->layer], self->channel);
    bool is_live = esp_mask_filter_is_live(&self->preview->items[self->layer].mask, self->channel);

    if (!was_live)
        return esp_reason_word(ESP_REASON_CARRIED);
    if (!is_live && choice->fates[place] != ESP_FATE_GOES)
        return esp_reason_word(ESP_REASON_CASCADE);
    return fate_words[choice->fates[place]];
}

/* The sentences that do not depend on the method; false when the method has to say them. */
static bool tell_common(explanation *self, const esp_slot_choice *choice, int64_t place)
{
    const esp_plan *plan = &self->preview->plan;

    if (!esp_mask_filter_is_live(&self->preview->subject->masks[self->layer], self->channel))
        explain_text(self, "why", "the model came with it masked");
    else if (choice->fates[place] == ESP_FATE_FLOOR) {
        explain_text(self, "why", "ranked to go, but at least %.4g %% of its set stay (%lld of %lld)",
                     100 * plan->floor, (long long)esp_slot_choice_least(choice, plan->floor),
                     (long long)choice->count);
        explain_text(self, "change", "a lower floor");
    } else if (choice->fates[place] == ESP_FATE_ROUND_TO) {
        explain_text(self, "why", "ranked to go, but what stays is rounded up to a multiple of %d",
                     plan->round_to);
        explain_text(self, "change", "round_to 1, or a higher ratio");
    } else if (choice->fates[place] == ESP_FATE_STAYS &&
               !esp_mask_filter_is_live(&self->preview->items[self->layer].mask, self->channel))
        explain_text(self, "why", "all channels it reads are cut");
    else
        return false;
    return true;
}

/* ---- WSP ---- */

/* The largest ratio at which a score is not below the percentile: the place of its last equal, as a share. */
static double ratio_at(const double *scores, int64_t count, int64_t place)
{
    int64_t not_above = 0;

    for (int64_t i = 0; i < count; i++)
        not_above += scores[i] <= scores[place];
    return count > 1 ? (double)(not_above - 1) / (double)(count - 1) : 1;
}

/* A limit in four places, rounded to the side on which the sentence holds: "up to" and "below" down, "above"
 * and "and more" up. A limit that has no more places stays what it is. */
static double told_limit(double limit, bool goes)
{
    const double unit = 1e4, noise = 1e-8;

    return goes ? floor(limit * unit + noise) / unit : ceil(limit * unit - noise) / unit;
}

/* Whether the thresholds of a pair are those of the ranking over all layers. */
static bool is_pair_ranked_globally(const explanation *self, const esp_wsp_pair *pair)
{
    const esp_coupling *coupling = self->preview->subject->coupling;

    return pair->set >= 0 && preview_set_ranks_globally(self->preview, esp_coupling_set(coupling, pair->set));
}

static void tell_weak(explanation *self, const esp_wsp_pair *pair, int64_t c)
{
    bool by_filter = pair->filter_l1[c] < pair->filter_threshold;
    bool by_channel = pair->channel_l1[c] < pair->channel_threshold;
    double limit =
        fmax(ratio_at(pair->filter_l1, pair->channels, c), ratio_at(pair->channel_l1, pair->channels, c));

    explain_score(self, "filter_l1", pair->filter_l1, pair->channels, c, pair->filter_threshold);
    explain_score(self, "channel_l1", pair->channel_l1, pair->channels, c, pair->channel_threshold);
    if (tell_common(self, &pair->choice, c))
        return;
    if (by_filter && by_channel)
        explain_text(self, "why", "weak by both norms: what is written into it, and what is read from it");
    else
        explain_text(self, "why", "not weak by %s",
                     by_filter    ? "what is read from it (channel_l1)"
                     : by_channel ? "what is written into it (filter_l1)"
                                  : "either norm");
    if (is_pair_ranked_globally(self, pair))
        explain_text(self, "change", "both norms %s the thresholds of the ranking over all layers",
                     by_filter && by_channel ? "not below" : "below");
    else if (limit < 1) {
        explain_text(self, "change",
                     by_filter && by_channel ? "stays at ratios up to %.4g" : "goes at ratios above %.4g",
                     told_limit(limit, by_filter && by_channel));
        explain_set(self, "ratio_limit", json_real(limit));
    } else
        explain_text(self, "change", "no ratio takes it: it is the strongest by a norm");
}

/* ---- FILTER ---- */

static void add_writer(explanation *self, json_t *writers, esp_slot_scorer *scorer, int layer, int32_t slot)
{
    const double *scores = self->preview->filter_scores[layer];
    const int32_t *writes = esp_coupling_writes(scorer->coupling, layer);
    int64_t filters = self->preview->layers.items[layer].filters;
    double sum = 0;
    json_t *item;

    for (int64_t f = 0; scores && f < filters; f++)
        sum += writes[f] == slot ? scores[f] : 0;
    item = json_pack("{s:s, s:o, s:o}", "layer", self->preview->layers.items[layer].name, "score",
                     scores ? json_real(sum) : json_null(), "mean",
                     scores ? json_real(esp_slot_scorer_mean(scorer, scores, writes, filters)) : json_null());
    if (!item || json_array_append_new(writers, item) != 0)
        self->is_broken = true;
}

static esp_status tell_writers(explanation *self, const esp_coupled_set *set, int32_t slot, esp_error *err)
{
    json_t *writers = json_array();
    esp_slot_scorer scorer;
    esp_status status =
        esp_slot_scorer_new(self->preview->subject->coupling, &self->preview->layers, &scorer, err);

    for (int w = 0; status == ESP_OK && w < set->writer_count; w++)
        add_writer(self, writers, &scorer, set->writers[w], slot);
    explain_set(self, "writers", writers);
    esp_slot_scorer_free(&scorer);
    return status;
}

/* Slots that go before this one where the set is ranked on its own. */
static int64_t order_of(const esp_filter_set *set, int64_t place)
{
    int64_t before = 0;

    for (int64_t s = 0; s < set->choice.count; s++)
        before += set->choice.is_carried[s] || set->scores[s] < set->scores[place] ||
                  (set->scores[s] <= set->scores[place] && s < place);
    return before;
}

static void tell_rank(explanation *self, const esp_filter_set *set, int64_t place)
{
    bool goes = set->choice.fates[place] == ESP_FATE_GOES;
    bool is_together = self->preview->plan.scope == ESP_SCOPE_GLOBAL && !set->has_rule;

    const esp_criterion *criterion = NULL;
    bool is_known = esp_criterion_find(self->preview->plan.criterion, &criterion, NULL) == ESP_OK;

    explain_set(self, "criterion", json_string(self->preview->plan.criterion));
    explain_set(self, "compares_layers", json_boolean(is_known && criterion->compares_layers));
    explain_score(self, "score", set->scores, set->choice.count, place, set->threshold);
    if (tell_common(self, &set->choice, place))
        return;
    explain_text(self, "why", goes ? "among the lowest of %s" : "not among the lowest of %s",
                 is_together ? "all layers of its kind" : "its coupled set");
    if (is_together)
        explain_text(self, "change", "a score %s the threshold of the ranking over all layers",
                     goes ? "above" : "below");
    else {
        double limit = (double)(order_of(set, place) + 1) / (double)set->choice.count;
        explain_text(self, "change", goes ? "stays at ratios below %.4g" : "goes at ratios of %.4g and more",
                     told_limit(limit, goes));
        explain_set(self, "ratio_limit", json_real(limit));
    }
}

/* ---- both ---- */

static void tell_refused(explanation *self, esp_reason reason, const char *why)
{
    bool is_live = esp_mask_filter_is_live(&self->preview->items[self->layer].mask, self->channel);
    bool was_live = esp_mask_filter_is_live(&self->preview->subject->masks[self->layer], self->channel);

    if (!is_live) {
        explain_set(self, "decision",
                    json_string(esp_reason_word(was_live ? ESP_REASON_CASCADE : ESP_REASON_CARRIED)));
        explain_text(self, "why",
                     was_live ? "all channels it reads or passes on are cut"
                              : "the model came with it masked");
        return;
    }
    explain_set(self, "decision", json_string(esp_reason_word(reason)));
    explain_text(self, "why", "%s", why);
    if (reason == ESP_REASON_IGNORED)
        explain_text(self, "change", "a plan that does not ignore it");
    else if (reason == ESP_REASON_COUPLING)
        explain_text(self, "change", "all layers it is coupled with take part");
    else if (reason == ESP_REASON_CRITERION)
        explain_text(self, "change", "another criterion");
    else if (reason == ESP_REASON_METHOD)
        explain_text(self, "change", "mode sound, or another method");
}

static esp_status explain_set_slot(explanation *self, const slots_view *view, int32_t slot, esp_error *err)
{
    int index = esp_coupling_slot_set(view->coupling, slot);
    int entry = index >= 0 ? view->entry_of_set[index] : -1;
    const esp_coupled_set *set = index >= 0 ? esp_coupling_set(view->coupling, index) : NULL;
    bool reads_conv = self->preview->layers.items[self->layer].is_conv;
    char why[224];

    explain_slot(self, slot);
    if (entry < 0) {
        esp_reason reason = slots_why_not_ranked(
            view, self->layer, index, esp_coupling_pinned_by(view->coupling, slot), why, sizeof why);
        explain_set(self, "asked", json_real(slots_own_ratio(view, self->layer, reads_conv)));
        tell_refused(self, reason, why);
        return ESP_OK;
    }
    explain_set(self, "asked", json_real(slots_ratio(view, entry)));
    explain_set(self, "decision", json_string(decide(self, slots_choice(view, entry), view->place[slot])));
    if (self->preview->plan.method == ESP_METHOD_WSP) {
        tell_weak(self, &self->preview->wsp.pairs[entry], view->place[slot]);
        return ESP_OK;
    }
    tell_rank(self, &self->preview->filter_sets[entry], view->place[slot]);
    return tell_writers(self, set, slot, err);
}

static void explain_pair(explanation *self, const slots_view *view)
{
    const esp_wsp *wsp = &self->preview->wsp;
    const esp_layer *items = self->preview->layers.items;
    const esp_wsp_pair *pair = NULL;
    esp_reason reason;
    char why[224];

    for (int i = 0; i < wsp->pair_count; i++)
        if (wsp->pairs[i].writer == self->layer)
            pair = &wsp->pairs[i];
    if (!pair) {
        int reader = slots_why_no_pair(view, self->layer, &reason, why, sizeof why);
        explain_set(
            self, "asked",
            json_real(slots_own_ratio(view, self->layer, items[reader >= 0 ? reader : self->layer].is_conv)));
        tell_refused(self, reason, why);
        return;
    }
    explain_set(self, "asked", json_real(pair->ratio));
    explain_set(self, "decision", json_string(decide(self, &pair->choice, self->channel)));
    explain_set(
        self, "pair",
        json_pack("{s:s, s:s}", "writer", items[pair->writer].name, "reader", items[pair->reader].name));
    tell_weak(self, pair, self->channel);
}

esp_status explain_slots(explanation *self, esp_error *err)
{
    slots_view view = {0};
    const int32_t *writes = esp_coupling_writes(self->preview->subject->coupling, self->layer);
    esp_status status = slots_view_open(self->preview, &view, err);

    if (status != ESP_OK)
        return status;
    if (view.is_published) {
        if (writes)
            explain_slot(self, writes[self->channel]);
        explain_pair(self, &view);
    } else {
        status = explain_set_slot(self, &view, writes ? writes[self->channel] : ESP_SLOT_ZERO, err);
    }
    slots_view_close(&view);
    return status;
}
