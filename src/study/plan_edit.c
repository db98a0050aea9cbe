/* Edits work on a copy that replaces the plan when everything went well. Ratios are kept on a grid of
 * thousandths, so that going up and down by keys meets the same numbers again. */
#include "study/plan_edit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "prune/criteria.h"

static double clamp_ratio(double ratio)
{
    double on_grid = round(ratio * 1000.0) / 1000.0;

    return on_grid < 0.0 ? 0.0 : on_grid > ESP_EDIT_RATIO_MAX ? ESP_EDIT_RATIO_MAX : on_grid;
}

static int rule_index(const esp_plan *plan, const esp_layer *layer)
{
    for (int i = 0; i < plan->rule_count; i++)
        if (strcmp(plan->rules[i].pattern, layer->weight_name) == 0)
            return i;
    return -1;
}

const esp_plan_rule *esp_plan_layer_rule(const esp_plan *plan, const esp_layer *layer)
{
    int index = rule_index(plan, layer);

    return index < 0 ? NULL : &plan->rules[index];
}

static bool rule_matches(const esp_plan_rule *rule, const esp_layer *layer)
{
    return esp_glob_match(rule->pattern, layer->weight_name) || esp_glob_match(rule->pattern, layer->name);
}

double esp_plan_layer_ratio(const esp_plan *plan, const esp_layer *layer)
{
    double ratio = layer->is_conv ? plan->conv_ratio : plan->fc_ratio;

    for (int i = 0; i < plan->rule_count; i++)
        if (plan->rules[i].ratio >= 0 && rule_matches(&plan->rules[i], layer))
            ratio = plan->rules[i].ratio;
    return ratio;
}

bool esp_plan_layer_is_ignored(const esp_plan *plan, const esp_layer *layer)
{
    bool is_ignored = false;

    for (int i = 0; i < plan->rule_count; i++)
        if (rule_matches(&plan->rules[i], layer))
            is_ignored = plan->rules[i].is_ignored;
    return is_ignored;
}

static void drop_rule(esp_plan *plan, int index)
{
    esp_free(plan->rules[index].pattern);
    memmove(&plan->rules[index], &plan->rules[index + 1],
            (size_t)(plan->rule_count - index - 1) * sizeof *plan->rules);
    plan->rule_count--;
}

static void drop_all_rules(esp_plan *plan)
{
    while (plan->rule_count > 0)
        drop_rule(plan, plan->rule_count - 1);
}

/* A step by keys ends at ESP_EDIT_RATIO_MAX, but takes nothing back from a ratio that was typed above it. */
static double step_ratio(double ratio, double amount)
{
    return amount > 0.0 && ratio > ESP_EDIT_RATIO_MAX ? ratio : clamp_ratio(ratio + amount);
}

/* The layer's own rule is moved to the end, where it wins over patterns. */
static esp_status set_rule(esp_plan *plan, const esp_layer *layer, double ratio, bool is_ignored,
                           esp_error *err)
{
    int index = rule_index(plan, layer);
    int groups = index < 0 ? 0 : plan->rules[index].groups;

    if (index >= 0)
        drop_rule(plan, index);
    return esp_plan_add_rule(plan, layer->weight_name, ratio, groups, is_ignored, err);
}

static void set_ratios(esp_plan *plan, double amount, bool is_relative)
{
    plan->conv_ratio = clamp_ratio(amount + (is_relative ? plan->conv_ratio : 0.0));
    plan->fc_ratio = clamp_ratio(amount + (is_relative ? plan->fc_ratio : 0.0));
    plan->border_ratio = clamp_ratio(amount + (is_relative ? plan->border_ratio : 0.0));
}

static esp_status edit_layer(esp_plan *plan, const esp_layer *layer, const esp_plan_edit *edit,
                             esp_error *err)
{
    const esp_plan_rule *own = esp_plan_layer_rule(plan, layer);
    int index = rule_index(plan, layer);

    switch (edit->kind) {
    case ESP_EDIT_LAYER_RATIO_ADD:
        return set_rule(plan, layer, step_ratio(esp_plan_layer_ratio(plan, layer), edit->amount), false, err);
    case ESP_EDIT_LAYER_RATIO_SET:
        if (!(edit->amount >= 0.0 && edit->amount < 1.0))
            return esp_fail(err, ESP_INVALID, "ratio %g, expected a number in [0, 1)", edit->amount);
        return set_rule(plan, layer, edit->amount, false, err);
    case ESP_EDIT_LAYER_IGNORE:
        return set_rule(plan, layer, own ? own->ratio : -1.0, !esp_plan_layer_is_ignored(plan, layer), err);
    default:
        if (index >= 0)
            drop_rule(plan, index);
        return ESP_OK;
    }
}

/* The one after it in the list of methods; the first after the last. */
static esp_method next_method(esp_method method)
{
    static const esp_method methods[] = {
#define METHOD_OF(name, word, title) ESP_METHOD_##name,
        ESP_METHOD_LIST(METHOD_OF)
#undef METHOD_OF
    };
    size_t count = sizeof methods / sizeof *methods;

    for (size_t i = 0; i + 1 < count; i++)
        if (methods[i] == method)
            return methods[i + 1];
    return methods[0];
}

/* The criterion after the plan's in the table, round it. */
static esp_status next_criterion(esp_plan *plan, bool has_data, esp_error *err)
{
    int count = esp_criterion_count(), at = 0;

    if (plan->method != ESP_METHOD_FILTER)
        return esp_fail(err, ESP_STATE, "a criterion belongs to the method filter, the plan's is %s",
                        esp_method_word(plan->method));
    while (at < count && strcmp(esp_criterion_at(at)->name, plan->criterion) != 0)
        at++;
    for (int i = 1; i <= count; i++) {
        const esp_criterion *criterion = esp_criterion_at((at + i) % count);
        if (esp_criterion_needs_data(criterion) && !has_data)
            continue;
        snprintf(plan->criterion, sizeof plan->criterion, "%s", criterion->name);
        break;
    }
    return ESP_OK;
}

/* Multiples that kernels like, one after the other. */
static int next_multiple(int multiple)
{
    return multiple < 8 ? 8 : multiple < 32 ? multiple * 2 : 1;
}

static esp_status edit_ranking(esp_plan *plan, esp_plan_edit_kind kind, esp_error *err)
{
    if (!esp_plan_ranks_slots(plan))
        return esp_fail(err, ESP_STATE, "scope and multiple belong to filter and to wsp in sound mode");
    if (kind == ESP_EDIT_SCOPE_NEXT)
        plan->scope = plan->scope == ESP_SCOPE_LAYER ? ESP_SCOPE_GLOBAL : ESP_SCOPE_LAYER;
    else
        plan->round_to = next_multiple(plan->round_to);
    return ESP_OK;
}

esp_status esp_plan_apply_edit(esp_plan *plan, const esp_layers *layers, const esp_plan_edit *edit,
                               esp_error *err)
{
    esp_plan next;
    esp_status status = esp_plan_clone(plan, &next, err);

    if (status != ESP_OK)
        return status;
    switch (edit->kind) {
    case ESP_EDIT_RATIO_ADD:
    case ESP_EDIT_RATIO_SET:
        set_ratios(&next, edit->amount, edit->kind == ESP_EDIT_RATIO_ADD);
        break;
    case ESP_EDIT_GROUPS_ADD:
        next.groups = (int)fmin(fmax(next.groups + edit->amount, 1.0), 1024.0);
        break;
    case ESP_EDIT_METHOD_NEXT:
        esp_plan_set_method(&next, next_method(next.method), next.mode);
        break;
    case ESP_EDIT_MODE_NEXT:
        esp_plan_set_method(&next, next.method,
                            next.mode == ESP_MODE_SOUND ? ESP_MODE_FAITHFUL : ESP_MODE_SOUND);
        break;
    case ESP_EDIT_CRITERION_NEXT:
        status = next_criterion(&next, edit->amount > 0, err);
        break;
    case ESP_EDIT_SCOPE_NEXT:
    case ESP_EDIT_ROUND_NEXT:
        status = edit_ranking(&next, edit->kind, err);
        break;
    case ESP_EDIT_RESET:
        set_ratios(&next, 0.0, false);
        drop_all_rules(&next);
        break;
    default:
        status = edit->layer >= 0 && edit->layer < layers->count
                     ? edit_layer(&next, &layers->items[edit->layer], edit, err)
                     : esp_fail(err, ESP_INVALID, "plan: layer %d, expected 0 to %d", edit->layer,
                                layers->count - 1);
    }
    if (status != ESP_OK) {
        esp_plan_free(&next);
        return status;
    }
    esp_plan_free(plan);
    *plan = next;
    return ESP_OK;
}
