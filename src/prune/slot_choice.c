/* A choice is made in two steps: a ranking marks what goes, then the strongest of those are taken back until
 * floor and multiple hold. Both go by one order of the slots that does not depend on the ratio, so masks of
 * growing ratios are nested. The numbers of each step stay, so that the ledger can add up the difference
 * between asked and got. */
#include "prune/slot_choice.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"

/* Shares like 0.1 * 30 must not be rounded up to 4. */
#define WHOLE_TOLERANCE 1e-9

esp_status esp_slot_choice_new(int64_t count, esp_slot_choice *out, esp_error *err)
{
    esp_slot_choice choice = {.count = count};

    *out = (esp_slot_choice){0};
    choice.fates = esp_alloc_zero((size_t)count, sizeof *choice.fates);
    choice.is_carried = esp_alloc_zero((size_t)count, sizeof *choice.is_carried);
    if (!choice.fates || !choice.is_carried) {
        esp_slot_choice_free(&choice);
        return esp_fail_memory(err, "a coupled set", (size_t)count * sizeof *choice.fates);
    }
    *out = choice;
    return ESP_OK;
}

void esp_slot_choice_free(esp_slot_choice *choice)
{
    if (!choice)
        return;
    esp_free(choice->fates);
    esp_free(choice->is_carried);
    *choice = (esp_slot_choice){0};
}

/* The place of a slot in the ascending list, or -1. */
static int64_t find_slot(const int32_t *slots, int64_t count, int32_t slot)
{
    int64_t low = 0, high = count;

    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (slots[middle] < slot)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && slots[low] == slot ? low : -1;
}

void esp_slot_choice_carry(esp_slot_choice *choice, const esp_coupling *coupling, const esp_coupled_set *set,
                           const esp_mask *masks)
{
    for (int64_t s = 0; s < choice->count; s++)
        choice->is_carried[s] = set->writer_count > 0;
    for (int w = 0; w < set->writer_count; w++) {
        const int32_t *writes = esp_coupling_writes(coupling, set->writers[w]);
        const esp_mask *mask = &masks[set->writers[w]];
        for (int64_t f = 0; f < mask->filters; f++) {
            int64_t s =
                esp_mask_filter_is_live(mask, f) ? find_slot(set->slots, choice->count, writes[f]) : -1;
            if (s >= 0)
                choice->is_carried[s] = false;
        }
    }
    choice->carried = 0;
    for (int64_t s = 0; s < choice->count; s++)
        choice->carried += choice->is_carried[s];
}

int64_t esp_slot_choice_least(const esp_slot_choice *choice, double floor)
{
    int64_t least = (int64_t)ceil(floor * (double)choice->count - WHOLE_TOLERANCE);
    int64_t alive = choice->count - choice->carried;

    least = least < 1 ? 1 : least;
    return least < alive ? least : alive;
}

/* A number of slots that stays, rounded up to the multiple as far as there are slots. */
static int64_t round_staying(const esp_slot_choice *choice, int64_t staying, int round_to)
{
    int64_t alive = choice->count - choice->carried;
    int64_t multiple = (staying + round_to - 1) / round_to * round_to;

    return multiple < alive ? multiple : alive;
}

int64_t esp_slot_choice_most(const esp_slot_choice *choice, double floor, int round_to)
{
    return choice->count - round_staying(choice, esp_slot_choice_least(choice, floor), round_to);
}

typedef struct strength_order {
    double strength;
    int64_t slot;
} strength_order;

static int compare_strength(const void *a, const void *b)
{
    const strength_order *x = a, *y = b;

    if (x->strength < y->strength || x->strength > y->strength)
        return x->strength > y->strength ? -1 : 1;
    return (x->slot < y->slot) - (x->slot > y->slot);
}

/* Of the slots that are not carried: how many the ranking keeps, and how many of them must stay for the
 * floor, and for the multiple too. */
typedef struct staying_slots {
    int64_t kept, least, multiple;
} staying_slots;

static staying_slots count_staying(const esp_slot_choice *choice, double floor, int round_to)
{
    int64_t alive = choice->count - choice->carried;
    staying_slots staying = {.kept = alive};

    for (int64_t s = 0; s < choice->count; s++)
        staying.kept -= choice->fates[s] == ESP_FATE_GOES && !choice->is_carried[s];
    staying.least = esp_slot_choice_least(choice, floor);
    staying.least = staying.kept > staying.least ? staying.kept : staying.least;
    staying.multiple = round_staying(choice, staying.least, round_to);
    return staying;
}

bool esp_slot_choice_is_short(const esp_slot_choice *choice, double floor, int round_to)
{
    staying_slots staying = count_staying(choice, floor, round_to);

    return staying.kept < staying.multiple;
}

esp_status esp_slot_choice_put_back(esp_slot_choice *choice, const double *strength, double floor,
                                    int round_to, esp_error *err)
{
    staying_slots staying = count_staying(choice, floor, round_to);
    int64_t going = 0;
    strength_order *order;

    if (staying.kept >= staying.multiple)
        return ESP_OK;
    order = esp_alloc((size_t)choice->count, sizeof *order);
    if (!order)
        return esp_fail_memory(err, "a coupled set", (size_t)choice->count * sizeof *order);
    for (int64_t s = 0; s < choice->count; s++)
        if (choice->fates[s] == ESP_FATE_GOES && !choice->is_carried[s])
            order[going++] = (strength_order){strength[s], s};
    qsort(order, (size_t)going, sizeof *order, compare_strength);
    for (int64_t i = 0; staying.kept < staying.multiple; i++, staying.kept++) {
        bool is_floor = staying.kept < staying.least;
        choice->fates[order[i].slot] = is_floor ? ESP_FATE_FLOOR : ESP_FATE_ROUND_TO;
        choice->floored += is_floor;
        choice->rounded += !is_floor;
    }
    esp_free(order);
    return ESP_OK;
}

/* ---- scores of slots ---- */

esp_status esp_slot_scorer_new(const esp_coupling *coupling, const esp_layers *layers, esp_slot_scorer *out,
                               esp_error *err)
{
    size_t slots = (size_t)esp_coupling_slot_limit(coupling);
    int32_t *place = esp_alloc(slots, sizeof *place);

    *out = (esp_slot_scorer){0};
    if (!place)
        return esp_fail_memory(err, "coupled sets", slots * sizeof *place);
    for (size_t s = 0; s < slots; s++)
        place[s] = -1;
    *out = (esp_slot_scorer){coupling, layers, place};
    return ESP_OK;
}

void esp_slot_scorer_free(esp_slot_scorer *scorer)
{
    if (!scorer)
        return;
    esp_free(scorer->place);
    *scorer = (esp_slot_scorer){0};
}

void esp_slot_scorer_take(esp_slot_scorer *scorer, const esp_coupled_set *set)
{
    for (int64_t s = 0; s < set->slot_count; s++)
        scorer->place[set->slots[s]] = (int32_t)s;
}

void esp_slot_scorer_let_go(esp_slot_scorer *scorer, const esp_coupled_set *set)
{
    for (int64_t s = 0; s < set->slot_count; s++)
        scorer->place[set->slots[s]] = -1;
}

double esp_slot_scorer_mean(const esp_slot_scorer *scorer, const double *values, const int32_t *slots,
                            int64_t count)
{
    double total = 0;
    int64_t distinct = 0;

    if (!values || !slots)
        return 0;
    for (int64_t i = 0; i < count; i++) {
        total += values[i];
        distinct += scorer->place[slots[i]] < 0;
        scorer->place[slots[i]] = 0;
    }
    for (int64_t i = 0; i < count; i++)
        scorer->place[slots[i]] = -1;
    return distinct ? total / (double)distinct : 0;
}

void esp_slot_scorer_add(const esp_slot_scorer *scorer, const double *values, const int32_t *slots,
                         int64_t count, double mean, double *scores)
{
    for (int64_t i = 0; mean > 0 && i < count; i++)
        if (scorer->place[slots[i]] >= 0)
            scores[scorer->place[slots[i]]] += values[i] / mean;
}

void esp_slots_clear(const esp_coupling *coupling, const esp_layers *layers, const bool *is_cut,
                     esp_mask *masks)
{
    for (int l = 0; l < layers->count; l++) {
        const int32_t *writes = esp_coupling_writes(coupling, l), *reads = esp_coupling_reads(coupling, l);
        for (int64_t f = 0; writes && f < layers->items[l].filters; f++)
            if (is_cut[writes[f]])
                esp_mask_clear_filter(&masks[l], f);
        for (int64_t c = 0; reads && c < layers->items[l].channels; c++)
            if (is_cut[reads[c]])
                esp_mask_clear_channel(&masks[l], c);
    }
}
