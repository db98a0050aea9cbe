/* Plans are small value structs; the only memory they own is their rules. */
#include "prune/plan_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "base/unknown.h"
#include "prune/criteria.h"

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

/* ---- words ---- */

#define WORD_OF_METHOD(name, word, title)  word,
#define TITLE_OF_METHOD(name, word, title) title,
#define WORD_OF(name, word)                word,
static const char *const method_words[] = {ESP_METHOD_LIST(WORD_OF_METHOD)};
static const char *const method_titles[] = {ESP_METHOD_LIST(TITLE_OF_METHOD)};
static const char *const mode_words[] = {ESP_MODE_LIST(WORD_OF)};
static const char *const scope_words[] = {ESP_SCOPE_LIST(WORD_OF)};

esp_status plan_parse_word(const char *what, const char *word, const char *const *words, size_t count,
                           int *out, esp_error *err)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(words[i], word) == 0) {
            *out = (int)i;
            return ESP_OK;
        }
    return esp_fail_unknown(err, what, word, words, count);
}

const char *esp_method_word(esp_method method)
{
    return method_words[method];
}

const char *esp_method_title(esp_method method)
{
    return method_titles[method];
}

const char *esp_mode_word(esp_mode mode)
{
    return mode_words[mode];
}

esp_status esp_method_parse(const char *word, esp_method *out, esp_error *err)
{
    int index = 0;
    esp_status status = plan_parse_word("method", word, method_words, COUNT_OF(method_words), &index, err);

    if (status == ESP_OK)
        *out = (esp_method)index;
    return status;
}

esp_status esp_mode_parse(const char *word, esp_mode *out, esp_error *err)
{
    int index = 0;
    esp_status status = plan_parse_word("mode", word, mode_words, COUNT_OF(mode_words), &index, err);

    if (status == ESP_OK)
        *out = (esp_mode)index;
    return status;
}

const char *esp_scope_word(esp_scope scope)
{
    return scope_words[scope];
}

esp_status esp_scope_parse(const char *word, esp_scope *out, esp_error *err)
{
    int index = 0;
    esp_status status = plan_parse_word("scope", word, scope_words, COUNT_OF(scope_words), &index, err);

    if (status == ESP_OK)
        *out = (esp_scope)index;
    return status;
}

/* ---- making and changing ---- */

esp_plan esp_plan_make(esp_method method, esp_mode mode, double ratio)
{
    esp_kmeans_options published = esp_kmeans_defaults();

    return (esp_plan){.method = method,
                      .mode = mode,
                      .conv_ratio = ratio,
                      .fc_ratio = ratio,
                      .border_ratio = ratio,
                      .groups = (int)published.k,
                      .init = published.init,
                      .restarts = published.restarts,
                      .max_iterations = published.max_iterations,
                      .criterion = "l1",
                      .scope = ESP_SCOPE_LAYER,
                      .floor = PLAN_FLOOR,
                      .round_to = 1,
                      .cascades = true};
}

bool esp_plan_ranks_slots(const esp_plan *plan)
{
    return plan->method == ESP_METHOD_FILTER ||
           (plan->method == ESP_METHOD_WSP && plan->mode == ESP_MODE_SOUND);
}

void esp_plan_set_method(esp_plan *plan, esp_method method, esp_mode mode)
{
    plan->method = method;
    plan->mode = mode;
    if (esp_plan_ranks_slots(plan))
        return;
    plan->scope = ESP_SCOPE_LAYER;
    plan->round_to = 1;
}

void esp_plan_free(esp_plan *plan)
{
    if (!plan)
        return;
    for (int i = 0; i < plan->rule_count; i++)
        esp_free(plan->rules[i].pattern);
    esp_free(plan->rules);
    plan->rules = NULL;
    plan->rule_count = 0;
}

esp_status plan_append_rule(esp_plan *plan, const esp_plan_rule *rule, esp_error *err)
{
    size_t count = (size_t)plan->rule_count;
    esp_plan_rule *rules = plan->rules;
    char *pattern = esp_strdup(rule->pattern);

    if (!pattern)
        return esp_fail_memory(err, "a plan's rule", strlen(rule->pattern) + 1);
    if (plan_room(count)) /* nothing else makes the list longer */
        rules = esp_realloc(plan->rules, count, plan_room(count), sizeof *rules);
    if (!rules) {
        esp_free(pattern);
        return esp_fail_memory(err, "a plan's rules", (count + 1) * sizeof *rules);
    }
    rules[count] = *rule;
    rules[count].pattern = pattern;
    plan->rules = rules;
    plan->rule_count++;
    return ESP_OK;
}

esp_status esp_plan_clone(const esp_plan *plan, esp_plan *out, esp_error *err)
{
    esp_plan copy = *plan;
    esp_status status = ESP_OK;

    *out = (esp_plan){0};
    copy.rules = NULL;
    copy.rule_count = 0;
    for (int i = 0; status == ESP_OK && i < plan->rule_count; i++)
        status = plan_append_rule(&copy, &plan->rules[i], err);
    if (status == ESP_OK)
        *out = copy;
    else
        esp_plan_free(&copy);
    return status;
}

esp_status plan_check_rule(const esp_plan_rule *rule, esp_error *err)
{
    if (!rule->pattern || !rule->pattern[0])
        return esp_fail(err, ESP_INVALID, "plan: a rule names no layer");
    if (!(rule->ratio < 1)) /* negative: not set; NaN fails */
        return esp_fail(err, ESP_INVALID, "plan: rule '%s': ratio is %g, expected a number in [0, 1)",
                        rule->pattern, rule->ratio);
    if (rule->groups < 0)
        return esp_fail(err, ESP_INVALID, "plan: rule '%s': groups is %d, expected at least 1", rule->pattern,
                        rule->groups);
    return ESP_OK;
}

bool plan_is_plain_name(const char *pattern)
{
    return !strpbrk(pattern, "*?");
}

esp_status esp_plan_add_rule(esp_plan *plan, const char *pattern, double ratio, int groups, bool is_ignored,
                             esp_error *err)
{
    esp_plan_rule rule = {(char *)(uintptr_t)pattern, ratio < 0 ? -1 : ratio, groups, is_ignored};
    esp_status status = plan_check_rule(&rule, err);

    if (status != ESP_OK)
        return status;
    for (int i = 0; plan_is_plain_name(pattern) && i < plan->rule_count; i++) {
        esp_plan_rule old = plan->rules[i];
        if (strcmp(old.pattern, pattern) != 0)
            continue;
        /* The merged rule goes last: what was said last wins over wildcards said in between. */
        memmove(&plan->rules[i], &plan->rules[i + 1],
                (size_t)(plan->rule_count - i - 1) * sizeof *plan->rules);
        plan->rules[plan->rule_count - 1] = (esp_plan_rule){old.pattern, ratio < 0 ? old.ratio : ratio,
                                                            groups ? groups : old.groups, is_ignored};
        return ESP_OK;
    }
    return plan_append_rule(plan, &rule, err);
}

esp_layer_settings esp_plan_resolve(const esp_plan *plan, const char *node_name, const char *weight_name,
                                    double otherwise)
{
    esp_layer_settings settings = {false, otherwise, plan->groups, false};

    for (int i = 0; i < plan->rule_count; i++) {
        const esp_plan_rule *rule = &plan->rules[i];
        if (!esp_glob_match(rule->pattern, node_name) && !esp_glob_match(rule->pattern, weight_name))
            continue;
        settings.is_ignored = rule->is_ignored;
        if (rule->ratio >= 0) {
            settings.has_ratio = true;
            settings.ratio = rule->ratio;
        }
        if (rule->groups > 0)
            settings.groups = rule->groups;
    }
    return settings;
}

static esp_status check_ratio(const char *which, double ratio, esp_error *err)
{
    if (ratio >= 0 && ratio < 1)
        return ESP_OK;
    return esp_fail(err, ESP_INVALID, "plan: %s ratio is %g, expected a number in [0, 1)", which, ratio);
}

static esp_status check_count(const char *what, int count, esp_error *err)
{
    if (count >= 1)
        return ESP_OK;
    return esp_fail(err, ESP_INVALID, "plan: %s is %d, expected at least 1", what, count);
}

/* Faithful masks would be neither the published ones nor sound; connections have no slots to round. */
static esp_status refuse_ranking(const esp_plan *plan, const char *what, esp_error *err)
{
    if (plan->method == ESP_METHOD_WSP)
        return esp_fail(err, ESP_INVALID,
                        "plan: %s changes masks that mode 'faithful' reproduces as published, expected mode "
                        "'sound'",
                        what);
    return esp_fail(err, ESP_INVALID,
                    "plan: %s is about whole filters, method '%s' chooses connections; expected method 'wsp' "
                    "or 'filter'",
                    what, esp_method_word(plan->method));
}

static esp_status check_ranking(const esp_plan *plan, esp_error *err)
{
    const esp_criterion *criterion;
    char what[48];
    esp_status status = check_count("round_to", plan->round_to, err);

    if (status == ESP_OK && !(plan->floor >= 0 && plan->floor <= 1))
        status = esp_fail(err, ESP_INVALID, "plan: floor is %g, expected a number in [0, 1]", plan->floor);
    if (status == ESP_OK && esp_criterion_find(plan->criterion, &criterion, err) != ESP_OK) {
        esp_error_prefix(err, "plan");
        status = ESP_INVALID;
    }
    if (status != ESP_OK || esp_plan_ranks_slots(plan))
        return status;
    if (plan->scope != ESP_SCOPE_LAYER)
        return refuse_ranking(plan, "scope 'global'", err);
    if (plan->round_to == 1)
        return ESP_OK;
    snprintf(what, sizeof what, "round_to %d", plan->round_to);
    return refuse_ranking(plan, what, err);
}

esp_status esp_plan_check(const esp_plan *plan, esp_error *err)
{
    esp_status status = check_ratio("conv", plan->conv_ratio, err);

    if (status == ESP_OK)
        status = check_ratio("fc", plan->fc_ratio, err);
    if (status == ESP_OK)
        status = check_ratio("border", plan->border_ratio, err);
    if (status == ESP_OK)
        status = check_count("groups", plan->groups, err);
    if (status == ESP_OK)
        status = check_count("restarts", plan->restarts, err);
    if (status == ESP_OK)
        status = check_count("max_iterations", plan->max_iterations, err);
    if (status == ESP_OK && plan->seed > INT64_MAX)
        status = esp_fail(err, ESP_INVALID, "plan: seed is %llu, expected at most %lld",
                          (unsigned long long)plan->seed, (long long)INT64_MAX);
    if (status == ESP_OK)
        status = check_ranking(plan, err);
    for (int i = 0; status == ESP_OK && i < plan->rule_count; i++)
        status = plan_check_rule(&plan->rules[i], err);
    return status;
}
