/* Merging is laying one plan's rules behind the other's: later rules win (plan.h), so the winner's go last.
 * Conflicts are only told, never guessed at: whoever merges has said who wins. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "prune/plan_diff.h"
#include "prune/plan_internal.h"

void esp_plan_conflicts_free(esp_plan_conflicts *conflicts)
{
    for (int i = 0; i < conflicts->count; i++) {
        esp_free(conflicts->items[i].where);
        esp_free(conflicts->items[i].a);
        esp_free(conflicts->items[i].b);
    }
    esp_free(conflicts->items);
    *conflicts = (esp_plan_conflicts){0};
}

static esp_status add_conflict(esp_plan_conflicts *conflicts, const char *where, const char *a, const char *b,
                               bool took_b, esp_error *err)
{
    size_t count = (size_t)conflicts->count;
    esp_plan_conflict *items = conflicts->items, *item;

    if (plan_room(count))
        items = esp_realloc(conflicts->items, count, plan_room(count), sizeof *items);
    if (!items)
        return esp_fail_memory(err, "conflicts of plans", (count + 1) * sizeof *items);
    conflicts->items = items;
    item = &items[count];
    *item = (esp_plan_conflict){esp_strdup(where), esp_strdup(a), esp_strdup(b), took_b};
    conflicts->count++;
    return item->where && item->a && item->b ? ESP_OK : esp_fail_memory(err, "conflicts of plans", 0);
}

/* General fields that differ, one entry each. */
static esp_status general_conflicts(const esp_plan *a, const esp_plan *b, bool took_b,
                                    esp_plan_conflicts *out, esp_error *err)
{
    esp_plan_changes changes = {0};
    esp_status status = esp_plan_diff(a, b, &changes, err);

    for (int i = 0; status == ESP_OK && i < changes.count; i++) {
        const esp_plan_change *item = &changes.items[i];
        if (!item->is_rule)
            status = add_conflict(out, item->where, item->a ? item->a : "default",
                                  item->b ? item->b : "default", took_b, err);
    }
    esp_plan_changes_free(&changes);
    return status;
}

/* What a rule, or all rules of a plan for one layer, say. */
typedef struct saying {
    bool has_any;
    double ratio; /* negative: nothing */
    int groups;   /* 0: nothing */
    bool is_ignored;
} saying;

static esp_status compare_sayings(const char *subject, const saying *a, const saying *b, bool took_b,
                                  esp_plan_conflicts *out, esp_error *err)
{
    char where[400], left[32], right[32];
    esp_status status = ESP_OK;

    if (a->ratio >= 0 && b->ratio >= 0 && a->ratio != b->ratio) {
        snprintf(where, sizeof where, "%.340s: ratio", subject);
        snprintf(left, sizeof left, "%.12g", a->ratio);
        snprintf(right, sizeof right, "%.12g", b->ratio);
        status = add_conflict(out, where, left, right, took_b, err);
    }
    if (status == ESP_OK && a->groups && b->groups && a->groups != b->groups) {
        snprintf(where, sizeof where, "%.340s: groups", subject);
        snprintf(left, sizeof left, "%d", a->groups);
        snprintf(right, sizeof right, "%d", b->groups);
        status = add_conflict(out, where, left, right, took_b, err);
    }
    if (status == ESP_OK && a->is_ignored != b->is_ignored) {
        snprintf(where, sizeof where, "%.340s: ignore", subject);
        status = add_conflict(out, where, a->is_ignored ? "true" : "false", b->is_ignored ? "true" : "false",
                              took_b, err);
    }
    return status;
}

static saying saying_of_rule(const esp_plan_rule *rule)
{
    return (saying){true, rule->ratio, rule->groups, rule->is_ignored};
}

static saying saying_of_plan(const esp_plan *plan, const esp_layer *layer)
{
    saying all = {false, -1, 0, false};

    for (int i = 0; i < plan->rule_count; i++) {
        const esp_plan_rule *rule = &plan->rules[i];
        if (!esp_layer_matches(layer, rule->pattern))
            continue;
        all.has_any = true;
        all.ratio = rule->ratio >= 0 ? rule->ratio : all.ratio;
        all.groups = rule->groups ? rule->groups : all.groups;
        all.is_ignored = rule->is_ignored;
    }
    return all;
}

static esp_status conflicts_by_layer(const esp_plan *a, const esp_plan *b, const esp_layers *layers,
                                     bool took_b, esp_plan_conflicts *out, esp_error *err)
{
    esp_status status = ESP_OK;

    for (int l = 0; status == ESP_OK && l < layers->count; l++) {
        saying left = saying_of_plan(a, &layers->items[l]), right = saying_of_plan(b, &layers->items[l]);
        char subject[360];
        if (!left.has_any || !right.has_any)
            continue;
        snprintf(subject, sizeof subject, "layer '%.340s'", layers->items[l].name);
        status = compare_sayings(subject, &left, &right, took_b, out, err);
    }
    return status;
}

static esp_status compare_rules(const esp_plan_rule *a, const esp_plan_rule *b, bool took_b,
                                esp_plan_conflicts *out, esp_error *err)
{
    saying first = saying_of_rule(a), second = saying_of_rule(b);
    char subject[360];

    if (strcmp(a->pattern, b->pattern) == 0)
        snprintf(subject, sizeof subject, "rule '%.340s'", a->pattern);
    else if (esp_glob_match(a->pattern, b->pattern) || esp_glob_match(b->pattern, a->pattern))
        snprintf(subject, sizeof subject, "rules '%.160s' and '%.160s'", a->pattern, b->pattern);
    else
        return ESP_OK;
    return compare_sayings(subject, &first, &second, took_b, out, err);
}

/* Rules of b that a plain name can meet, in their order: its own, and those with wildcards. */
static esp_status compare_plain(const esp_plan_rule *a, const esp_plan *b, const plan_rule_index *index,
                                const plan_rule_index *wild, bool took_b, esp_plan_conflicts *out,
                                esp_error *err)
{
    int count, w = 0;
    const plan_rule_place *same = plan_rule_index_find(index, a->pattern, &count);
    esp_status status = ESP_OK;

    for (int s = 0; status == ESP_OK && (s < count || w < wild->count);) {
        bool is_wild = s == count || (w < wild->count && wild->places[w].place < same[s].place);
        const plan_rule_place *next = is_wild ? &wild->places[w++] : &same[s++];
        status = compare_rules(a, &b->rules[next->place], took_b, out, err);
    }
    return status;
}

static esp_status list_wildcards(const esp_plan *plan, plan_rule_index *out, esp_error *err)
{
    *out = (plan_rule_index){0, esp_alloc((size_t)plan->rule_count, sizeof *out->places)};
    if (!out->places)
        return esp_fail_memory(err, "rules of a plan", (size_t)plan->rule_count * sizeof *out->places);
    for (int i = 0; i < plan->rule_count; i++)
        if (!plan_is_plain_name(plan->rules[i].pattern))
            out->places[out->count++] = (plan_rule_place){plan->rules[i].pattern, i};
    return ESP_OK;
}

static esp_status conflicts_by_pattern(const esp_plan *a, const esp_plan *b, bool took_b,
                                       esp_plan_conflicts *out, esp_error *err)
{
    plan_rule_index index = {0}, wild = {0};
    esp_status status = plan_rule_index_new(b->rules, b->rule_count, &index, err);

    if (status == ESP_OK)
        status = list_wildcards(b, &wild, err);
    for (int i = 0; status == ESP_OK && i < a->rule_count; i++) {
        const esp_plan_rule *rule = &a->rules[i];
        if (plan_is_plain_name(rule->pattern))
            status = compare_plain(rule, b, &index, &wild, took_b, out, err);
        for (int j = 0; status == ESP_OK && !plan_is_plain_name(rule->pattern) && j < b->rule_count; j++)
            status = compare_rules(rule, &b->rules[j], took_b, out, err);
    }
    plan_rule_index_free(&index);
    plan_rule_index_free(&wild);
    return status;
}

static esp_status append_rules(const esp_plan *from, esp_plan *to, esp_error *err)
{
    esp_status status = ESP_OK;

    for (int i = 0; status == ESP_OK && i < from->rule_count; i++)
        status = plan_append_rule(to, &from->rules[i], err);
    return status;
}

/* General fields of `general`; rules of `under`, then of `over`. */
static esp_status lay_over(const esp_plan *general, const esp_plan *under, const esp_plan *over,
                           esp_plan *out, esp_error *err)
{
    esp_plan merged = *general;
    esp_status status;

    merged.rules = NULL;
    merged.rule_count = 0;
    status = append_rules(under, &merged, err);
    if (status == ESP_OK)
        status = append_rules(over, &merged, err);
    if (status == ESP_OK)
        status = plan_merge_rules(&merged, err);
    if (status == ESP_OK)
        status = esp_plan_check(&merged, err);
    if (status == ESP_OK)
        *out = merged;
    else
        esp_plan_free(&merged);
    return status;
}

esp_status esp_plan_merge(const esp_plan *a, const esp_plan *b, esp_plan_side side, const esp_layers *layers,
                          esp_plan *out, esp_plan_conflicts *conflicts, esp_error *err)
{
    bool rules_of_b = side != ESP_PLAN_OURS;
    esp_plan_conflicts found = {0};
    esp_plan merged = {0};
    esp_status status = general_conflicts(a, b, side == ESP_PLAN_THEIRS, &found, err);

    *out = (esp_plan){0};
    *conflicts = (esp_plan_conflicts){0};
    if (status == ESP_OK)
        status = layers ? conflicts_by_layer(a, b, layers, rules_of_b, &found, err)
                        : conflicts_by_pattern(a, b, rules_of_b, &found, err);
    if (status == ESP_OK)
        status =
            lay_over(side == ESP_PLAN_THEIRS ? b : a, rules_of_b ? a : b, rules_of_b ? b : a, &merged, err);
    if (status == ESP_OK) {
        *out = merged;
        *conflicts = found;
    } else {
        esp_plan_conflicts_free(&found);
    }
    return status;
}

esp_status esp_plan_merge_to_json(const esp_plan *merged, const esp_plan_conflicts *conflicts, json_t **out,
                                  esp_error *err)
{
    json_t *plan = NULL, *list = json_array();
    esp_status status = esp_plan_to_json(merged, &plan, err);

    *out = NULL;
    for (int i = 0; i < conflicts->count; i++) {
        const esp_plan_conflict *item = &conflicts->items[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s}", "where", item->where, "a", item->a, "b",
                                              item->b, "took", item->took_b ? "b" : "a"));
    }
    if (status == ESP_OK && json_array_size(list) == (size_t)conflicts->count)
        *out = json_pack("{s:O, s:O}", "plan", plan, "conflicts", list);
    json_decref(plan);
    json_decref(list);
    if (status == ESP_OK && !*out)
        status = esp_fail(err, ESP_INVALID, "plan: a layer's name is not valid UTF-8");
    return status;
}
