/* Choosing whole slots of a coupled set: scores that can be compared between layers, and what floors and
 * multiples keep of what a ranking takes. */
#ifndef ESP_PRUNE_SLOT_CHOICE_H
#define ESP_PRUNE_SLOT_CHOICE_H

#include "prune/coupling.h"
#include "prune/mask.h"

/* What becomes of a slot. Columns: NAME, word. */
#define ESP_FATE_LIST(X)                                                                                     \
    X(STAYS, "stays")       /* the ranking keeps it */                                                       \
    X(GOES, "goes")         /* cut everywhere */                                                             \
    X(FLOOR, "floor")       /* ranked to go; the plan's floor keeps it */                                    \
    X(ROUND_TO, "round-to") /* ranked to go; stays so that a multiple of slots does */

typedef enum esp_fate {
#define ESP_FATE_ENUM(name, word) ESP_FATE_##name,
    ESP_FATE_LIST(ESP_FATE_ENUM)
#undef ESP_FATE_ENUM
} esp_fate;

/* Of `ranked` slots that a ranking takes, the floor keeps `floored` and the multiple `rounded`. A slot whose
 * writers' filters the model's own masks have cleared is carried: it is gone whatever its fate, and neither
 * floor nor multiple can bring it back. */
typedef struct esp_slot_choice {
    int64_t count;
    uint8_t *fates;   /* [count] of esp_fate */
    bool *is_carried; /* [count] */
    int64_t carried, ranked, floored, rounded;
} esp_slot_choice;

/* All slots stay, none is carried. */
esp_status esp_slot_choice_new(int64_t count, esp_slot_choice *out, esp_error *err);
void esp_slot_choice_free(esp_slot_choice *choice);

/* Marks the carried slots of a set: those of which every writer's filter is masked. */
void esp_slot_choice_carry(esp_slot_choice *choice, const esp_coupling *coupling, const esp_coupled_set *set,
                           const esp_mask *masks);

/* How many slots the floor keeps: the share, rounded up, at least one, and no more than there are. */
int64_t esp_slot_choice_least(const esp_slot_choice *choice, double floor);

/* How many slots can go at all: those that neither floor nor multiple keep, and those that are carried. */
int64_t esp_slot_choice_most(const esp_slot_choice *choice, double floor, int round_to);

/* Whether floor or multiple keep some of the slots that go. */
bool esp_slot_choice_is_short(const esp_slot_choice *choice, double floor, int round_to);

/* Takes back what floor and multiple keep of the slots that go, strongest first; of equal ones the last.
 * strength[count]. Where a ranking takes slots in ascending order of strength, of equal ones the first, what
 * goes in the end is the beginning of that order too: a larger ratio never lets a slot stay that a smaller
 * one cuts. */
esp_status esp_slot_choice_put_back(esp_slot_choice *choice, const double *strength, double floor,
                                    int round_to, esp_error *err);

/* ---- scores of slots ---- */

/* Layers differ in scale by orders of magnitude, so each layer's scores are taken in units of its mean slot
 * before they are added. */
typedef struct esp_slot_scorer {
    const esp_coupling *coupling;
    const esp_layers *layers;
    int32_t *place; /* per slot: its place in the set at hand, -1 elsewhere */
} esp_slot_scorer;

esp_status esp_slot_scorer_new(const esp_coupling *coupling, const esp_layers *layers, esp_slot_scorer *out,
                               esp_error *err);
void esp_slot_scorer_free(esp_slot_scorer *scorer);

/* The set at hand, or none when it is let go. */
void esp_slot_scorer_take(esp_slot_scorer *scorer, const esp_coupled_set *set);
void esp_slot_scorer_let_go(esp_slot_scorer *scorer, const esp_coupled_set *set);

/* Mean over the distinct slots in `slots` [count] of the sums of `values` [count] that belong to each; 0
 * without values. While no set is at hand. */
double esp_slot_scorer_mean(const esp_slot_scorer *scorer, const double *values, const int32_t *slots,
                            int64_t count);

/* Adds values[i] / mean to the score of slots[i], where that is of the set at hand; nothing when mean <= 0.
 */
void esp_slot_scorer_add(const esp_slot_scorer *scorer, const double *values, const int32_t *slots,
                         int64_t count, double mean, double *scores);

/* Clears what writes and what reads the slots with is_cut [esp_coupling_slot_limit] in all layers. */
void esp_slots_clear(const esp_coupling *coupling, const esp_layers *layers, const bool *is_cut,
                     esp_mask *masks);

#endif
