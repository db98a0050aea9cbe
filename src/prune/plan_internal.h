/* What the files of the plan share. */
#ifndef ESP_PRUNE_PLAN_INTERNAL_H
#define ESP_PRUNE_PLAN_INTERNAL_H

#include "prune/plan.h"

/* The default floor; part of the file format. */
#define PLAN_FLOOR 0.1

/* The place of a word in a list; others are refused with the nearest. */
esp_status plan_parse_word(const char *what, const char *word, const char *const *words, size_t count,
                           int *out, esp_error *err);

/* What a list of `count` entries that grows by one is given room for: the next power of two when it is full,
 * else what it has (0: leave it). A block moves with every esp_realloc, one by one would be quadratic. */
static inline size_t plan_room(size_t count)
{
    return count & (count - 1) ? 0 : count ? 2 * count : 1;
}

/* Rules sorted by pattern, those with one pattern in their order. Patterns borrow. */
typedef struct plan_rule_place {
    const char *pattern;
    int place; /* in the plan */
} plan_rule_place;

typedef struct plan_rule_index {
    int count;
    plan_rule_place *places;
} plan_rule_index;

esp_status plan_rule_index_new(const esp_plan_rule *rules, int count, plan_rule_index *out, esp_error *err);
void plan_rule_index_free(plan_rule_index *index);

/* The rules with exactly this pattern, *count of them. */
const plan_rule_place *plan_rule_index_find(const plan_rule_index *index, const char *pattern, int *count);

bool plan_is_plain_name(const char *pattern);

/* Ranges of one rule. */
esp_status plan_check_rule(const esp_plan_rule *rule, esp_error *err);

/* Puts a rule behind the others, even where its name is there already. The rule is the caller's to check. */
esp_status plan_append_rule(esp_plan *plan, const esp_plan_rule *rule, esp_error *err);

/* Makes of rules that repeat a name what esp_plan_add_rule would have made of them one by one. */
esp_status plan_merge_rules(esp_plan *plan, esp_error *err);

#endif
