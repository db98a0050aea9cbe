/* Rules of a plan by their pattern. Plans hold as many rules as somebody wrote, generated ones tens of
 * thousands: what asks for each rule of one plan in another goes over a sorted list of both, not over all
 * pairs. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "prune/plan_internal.h"

static int compare_places(const void *a, const void *b)
{
    const plan_rule_place *left = a, *right = b;
    int order = strcmp(left->pattern, right->pattern);

    return order ? order : (left->place > right->place) - (left->place < right->place);
}

esp_status plan_rule_index_new(const esp_plan_rule *rules, int count, plan_rule_index *out, esp_error *err)
{
    plan_rule_place *places = esp_alloc((size_t)count, sizeof *places);

    *out = (plan_rule_index){0};
    if (!places)
        return esp_fail_memory(err, "rules of a plan", (size_t)count * sizeof *places);
    for (int i = 0; i < count; i++)
        places[i] = (plan_rule_place){rules[i].pattern, i};
    qsort(places, (size_t)count, sizeof *places, compare_places);
    *out = (plan_rule_index){count, places};
    return ESP_OK;
}

void plan_rule_index_free(plan_rule_index *index)
{
    esp_free(index->places);
    *index = (plan_rule_index){0};
}

const plan_rule_place *plan_rule_index_find(const plan_rule_index *index, const char *pattern, int *count)
{
    int low = 0, high = index->count, end;

    while (low < high) {
        int middle = low + (high - low) / 2;
        if (strcmp(index->places[middle].pattern, pattern) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (end = low; end < index->count && strcmp(index->places[end].pattern, pattern) == 0; end++)
        continue;
    *count = end - low;
    return index->places + low;
}

/* What rules with one name come to, said in their order: one rule in the place of the last. */
static void merge_run(esp_plan_rule *rules, const plan_rule_place *places, int count, bool *is_merged)
{
    esp_plan_rule *last = &rules[places[count - 1].place];

    for (int i = count - 2; i >= 0; i--) {
        const esp_plan_rule *earlier = &rules[places[i].place];
        last->ratio = last->ratio < 0 ? earlier->ratio : last->ratio;
        last->groups = last->groups ? last->groups : earlier->groups;
        is_merged[places[i].place] = true;
    }
}

esp_status plan_merge_rules(esp_plan *plan, esp_error *err)
{
    bool *is_merged = esp_alloc_zero((size_t)plan->rule_count, sizeof *is_merged);
    plan_rule_index index = {0};
    int kept = 0;
    esp_status status = is_merged ? plan_rule_index_new(plan->rules, plan->rule_count, &index, err)
                                  : esp_fail_memory(err, "rules of a plan", (size_t)plan->rule_count);

    for (int i = 0, count; status == ESP_OK && i < index.count; i += count) {
        const plan_rule_place *run = plan_rule_index_find(&index, index.places[i].pattern, &count);
        if (plan_is_plain_name(run->pattern))
            merge_run(plan->rules, run, count, is_merged);
    }
    plan_rule_index_free(&index);
    for (int i = 0; status == ESP_OK && i < plan->rule_count; i++) {
        if (is_merged[i])
            esp_free(plan->rules[i].pattern);
        else
            plan->rules[kept++] = plan->rules[i];
    }
    if (status == ESP_OK)
        plan->rule_count = kept;
    esp_free(is_merged);
    return status;
}
