/* Plans as JSON. Every field of the method is written, so that a plan reads the same whatever the defaults of
 * a later version. Fields that came after the first plans are written by WSP and SG only where they are not
 * at their default, which therefore never changes. */
#include "prune/plan_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/unknown.h"

#define PLAN_VERSION    1
#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

#define WORD_OF_METHOD(name, word, title) word,
#define WORD_OF(name, word)               word,
static const char *const method_words[] = {ESP_METHOD_LIST(WORD_OF_METHOD)};
static const char *const mode_words[] = {ESP_MODE_LIST(WORD_OF)};
static const char *const scope_words[] = {ESP_SCOPE_LIST(WORD_OF)};
static const char *const init_words[] = {ESP_KMEANS_INIT_LIST(WORD_OF)};

/* ---- to JSON ---- */

static json_t *rules_to_json(const esp_plan *plan)
{
    json_t *rules = json_array();

    for (int i = 0; rules && i < plan->rule_count; i++) {
        const esp_plan_rule *rule = &plan->rules[i];
        json_t *item = json_pack("{s:s}", "layer", rule->pattern);
        bool is_whole = item != NULL;
        if (is_whole && rule->ratio >= 0)
            is_whole = json_object_set_new(item, "ratio", json_real(rule->ratio)) == 0;
        if (is_whole && rule->groups > 0)
            is_whole = json_object_set_new(item, "groups", json_integer(rule->groups)) == 0;
        if (is_whole && rule->is_ignored)
            is_whole = json_object_set_new(item, "ignore", json_true()) == 0;
        if (!is_whole || json_array_append(rules, item) != 0) {
            json_decref(rules);
            rules = NULL;
        }
        json_decref(item);
    }
    return rules;
}

/* json_object_set_new that remembers failure: a NULL value or no memory. */
static void put(json_t *object, const char *key, json_t *take_value, bool *is_whole)
{
    if (!take_value || json_object_set_new(object, key, take_value) != 0)
        *is_whole = false;
}

/* What WSP and SG have had since version 1. */
static void put_published(const esp_plan *plan, json_t *object, bool *is_whole)
{
    put(object, "mode", json_string(esp_mode_word(plan->mode)), is_whole);
    put(object, "groups", json_integer(plan->groups), is_whole);
    put(object, "init", json_string(init_words[plan->init]), is_whole);
    put(object, "restarts", json_integer(plan->restarts), is_whole);
    put(object, "max_iterations", json_integer(plan->max_iterations), is_whole);
    if (plan->method == ESP_METHOD_SG && !plan->cascades)
        put(object, "cascade", json_false(), is_whole);
}

static void put_ranking(const esp_plan *plan, json_t *object, bool *is_whole)
{
    bool is_filter = plan->method == ESP_METHOD_FILTER;

    if (is_filter)
        put(object, "criterion", json_string(plan->criterion), is_whole);
    if (is_filter || plan->scope != ESP_SCOPE_LAYER)
        put(object, "scope", json_string(esp_scope_word(plan->scope)), is_whole);
    if (is_filter || plan->floor < PLAN_FLOOR || plan->floor > PLAN_FLOOR)
        put(object, "floor", json_real(plan->floor), is_whole);
    if (is_filter || plan->round_to != 1)
        put(object, "round_to", json_integer(plan->round_to), is_whole);
}

esp_status esp_plan_to_json(const esp_plan *plan, json_t **out, esp_error *err)
{
    json_t *object;
    bool is_whole = true;
    esp_status status = esp_plan_check(plan, err);

    *out = NULL;
    if (status != ESP_OK)
        return status;
    object = json_pack("{s:i, s:s, s:{s:f, s:f, s:f}, s:I}", "version", PLAN_VERSION, "method",
                       esp_method_word(plan->method), "ratio", "conv", plan->conv_ratio, "fc", plan->fc_ratio,
                       "border", plan->border_ratio, "seed", (json_int_t)plan->seed);
    put(object, "rules", rules_to_json(plan), &is_whole);
    if (plan->method != ESP_METHOD_FILTER)
        put_published(plan, object, &is_whole);
    if (esp_plan_ranks_slots(plan))
        put_ranking(plan, object, &is_whole);
    if (object && is_whole) {
        *out = object;
        return ESP_OK;
    }
    json_decref(object);
    return esp_fail(err, ESP_INVALID, "plan: a rule's layer name is not valid UTF-8");
}

/* ---- from JSON ---- */

static esp_status check_keys(const json_t *object, const char *where, const char *const *keys, size_t count,
                             esp_error *err)
{
    const char *key;
    const json_t *value;
    void *at = json_object_iter((json_t *)(uintptr_t)object);

    for (; at; at = json_object_iter_next((json_t *)(uintptr_t)object, at)) {
        bool is_known = false;
        key = json_object_iter_key(at);
        value = json_object_iter_value(at);
        for (size_t i = 0; value && i < count; i++)
            is_known = is_known || strcmp(keys[i], key) == 0;
        if (!is_known) {
            esp_fail_unknown(err, "key", key, keys, count);
            esp_error_prefix(err, "%s", where);
            return ESP_INVALID;
        }
    }
    return ESP_OK;
}

static const char *kind_of(const json_t *value)
{
    return json_is_object(value)    ? "an object"
           : json_is_array(value)   ? "an array"
           : json_is_string(value)  ? "a string"
           : json_is_number(value)  ? "a number"
           : json_is_boolean(value) ? "a boolean"
                                    : "null";
}

/* Absent keys leave `*out` as it is. */
static esp_status read_number(const json_t *object, const char *key, double *out, esp_error *err)
{
    const json_t *value = json_object_get(object, key);

    if (!value)
        return ESP_OK;
    if (!json_is_number(value))
        return esp_fail(err, ESP_INVALID, "plan: '%s' is not a number: found %s", key, kind_of(value));
    *out = json_number_value(value);
    return ESP_OK;
}

static esp_status read_integer(const json_t *object, const char *key, int64_t least, int64_t most,
                               int64_t *out, esp_error *err)
{
    const json_t *value = json_object_get(object, key);

    if (!value)
        return ESP_OK;
    if (!json_is_integer(value) || json_integer_value(value) < least || json_integer_value(value) > most)
        return esp_fail(err, ESP_INVALID, "plan: '%s' is not a whole number of at least %lld", key,
                        (long long)least);
    *out = json_integer_value(value);
    return ESP_OK;
}

static esp_status read_int(const json_t *object, const char *key, int *out, esp_error *err)
{
    int64_t value = *out;
    esp_status status = read_integer(object, key, 1, INT32_MAX, &value, err);

    *out = (int)value;
    return status;
}

static esp_status read_word(const json_t *object, const char *key, const char *const *words, size_t count,
                            int *out, esp_error *err)
{
    const json_t *value = json_object_get(object, key);

    if (!value)
        return ESP_OK;
    if (!json_is_string(value))
        return esp_fail(err, ESP_INVALID, "plan: '%s' is not a string: found %s", key, kind_of(value));
    return plan_parse_word(key, json_string_value(value), words, count, out, err);
}

static esp_status read_ratios(const json_t *json, esp_plan *plan, esp_error *err)
{
    static const char *const keys[] = {"conv", "fc", "border"};
    const json_t *ratio = json_object_get(json, "ratio");
    esp_status status;

    if (json_is_number(ratio))
        plan->conv_ratio = plan->fc_ratio = plan->border_ratio = json_number_value(ratio);
    if (!ratio || json_is_number(ratio))
        return ESP_OK;
    if (!json_is_object(ratio))
        return esp_fail(err, ESP_INVALID, "plan: 'ratio' is neither a number nor an object");
    status = check_keys(ratio, "plan: ratio", keys, COUNT_OF(keys), err);
    if (status == ESP_OK)
        status = read_number(ratio, "conv", &plan->conv_ratio, err);
    if (status == ESP_OK)
        status = read_number(ratio, "fc", &plan->fc_ratio, err);
    if (status == ESP_OK)
        status = read_number(ratio, "border", &plan->border_ratio, err);
    return status;
}

static esp_status read_rule(const json_t *json, esp_plan *plan, esp_error *err)
{
    static const char *const keys[] = {"layer", "ratio", "groups", "ignore"};
    const json_t *name, *ignore;
    esp_plan_rule rule = {.ratio = -1};
    esp_status status;

    if (!json_is_object(json))
        return esp_fail(err, ESP_INVALID, "plan: a rule is not an object");
    name = json_object_get(json, "layer");
    ignore = json_object_get(json, "ignore");
    status = check_keys(json, "plan: rule", keys, COUNT_OF(keys), err);
    if (status == ESP_OK && !json_is_string(name))
        status = esp_fail(err, ESP_INVALID, "plan: a rule has no string 'layer'");
    if (status == ESP_OK && ignore && !json_is_boolean(ignore))
        status = esp_fail(err, ESP_INVALID, "plan: 'ignore' is neither true nor false");
    if (status == ESP_OK)
        status = read_number(json, "ratio", &rule.ratio, err);
    if (status == ESP_OK)
        status = read_int(json, "groups", &rule.groups, err);
    if (status != ESP_OK)
        return status;
    if (json_object_get(json, "ratio") && !(rule.ratio >= 0 && rule.ratio < 1))
        return esp_fail(err, ESP_INVALID, "plan: rule '%s': ratio is %g, expected a number in [0, 1)",
                        json_string_value(name), rule.ratio);
    rule.pattern = (char *)(uintptr_t)json_string_value(name);
    rule.is_ignored = json_is_true(ignore);
    status = plan_check_rule(&rule, err);
    return status == ESP_OK ? plan_append_rule(plan, &rule, err) : status;
}

static esp_status read_rule_at(const json_t *json, size_t place, esp_plan *plan, esp_error *err)
{
    esp_status status = read_rule(json, plan, err);

    if (status == ESP_INVALID)
        esp_error_prefix(err, "rules[%zu]", place);
    return status;
}

static esp_status read_rules(const json_t *json, esp_plan *plan, esp_error *err)
{
    const json_t *rules = json_object_get(json, "rules");
    esp_status status = ESP_OK;

    if (rules && !json_is_array(rules))
        return esp_fail(err, ESP_INVALID, "plan: 'rules' is not an array");
    for (size_t i = 0; status == ESP_OK && i < json_array_size(rules); i++)
        status = read_rule_at(json_array_get(rules, i), i, plan, err);
    return status == ESP_OK ? plan_merge_rules(plan, err) : status;
}

static esp_status check_head(const json_t *json, esp_error *err)
{
    static const char *const keys[] = {"version",   "method",   "mode",           "ratio",    "groups",
                                       "init",      "restarts", "max_iterations", "seed",     "rules",
                                       "criterion", "scope",    "floor",          "round_to", "cascade"};
    const json_t *version = json_object_get(json, "version");
    esp_status status;

    if (!json_is_object(json))
        return esp_fail(err, ESP_INVALID, "plan: not a JSON object");
    status = check_keys(json, "plan", keys, COUNT_OF(keys), err);
    if (status != ESP_OK)
        return status;
    if (!json_is_integer(version) || json_integer_value(version) != PLAN_VERSION)
        return esp_fail(err, ESP_INVALID, "plan: 'version' is missing or unknown, expected %d", PLAN_VERSION);
    if (!json_object_get(json, "method"))
        return esp_fail(err, ESP_INVALID, "plan: 'method' is missing, expected one of the methods' names");
    return ESP_OK;
}

static esp_status read_flag(const json_t *object, const char *key, bool *out, esp_error *err)
{
    const json_t *value = json_object_get(object, key);

    if (value && !json_is_boolean(value))
        return esp_fail(err, ESP_INVALID, "plan: '%s' is neither true nor false", key);
    *out = value ? json_is_true(value) : *out;
    return ESP_OK;
}

/* A name that is too long cannot be one of the table: what fits of it is refused with the nearest. */
static esp_status read_criterion(const json_t *json, esp_plan *plan, esp_error *err)
{
    const json_t *value = json_object_get(json, "criterion");

    if (!value)
        return ESP_OK;
    if (!json_is_string(value))
        return esp_fail(err, ESP_INVALID, "plan: 'criterion' is not a string");
    snprintf(plan->criterion, sizeof plan->criterion, "%s", json_string_value(value));
    return ESP_OK;
}

static esp_status read_ranking(const json_t *json, esp_plan *plan, esp_error *err)
{
    int scope = (int)plan->scope;
    esp_status status = read_criterion(json, plan, err);

    if (status == ESP_OK)
        status = read_word(json, "scope", scope_words, COUNT_OF(scope_words), &scope, err);
    if (status == ESP_OK)
        status = read_number(json, "floor", &plan->floor, err);
    if (status == ESP_OK)
        status = read_int(json, "round_to", &plan->round_to, err);
    if (status == ESP_OK)
        status = read_flag(json, "cascade", &plan->cascades, err);
    plan->scope = (esp_scope)scope;
    return status;
}

static esp_status read_fields(const json_t *json, esp_plan *plan, esp_error *err)
{
    int method = (int)plan->method, mode = (int)plan->mode, init = (int)plan->init;
    int64_t seed = 0;
    esp_status status = read_word(json, "method", method_words, COUNT_OF(method_words), &method, err);

    if (status == ESP_OK)
        status = read_word(json, "mode", mode_words, COUNT_OF(mode_words), &mode, err);
    if (status == ESP_OK)
        status = read_word(json, "init", init_words, COUNT_OF(init_words), &init, err);
    if (status == ESP_OK)
        status = read_int(json, "groups", &plan->groups, err);
    if (status == ESP_OK)
        status = read_int(json, "restarts", &plan->restarts, err);
    if (status == ESP_OK)
        status = read_int(json, "max_iterations", &plan->max_iterations, err);
    if (status == ESP_OK)
        status = read_integer(json, "seed", 0, INT64_MAX, &seed, err);
    plan->method = (esp_method)method;
    plan->mode = (esp_mode)mode;
    plan->init = (esp_kmeans_init)init;
    plan->seed = (uint64_t)seed;
    return status;
}

esp_status esp_plan_from_json(const json_t *json, esp_plan *out, esp_error *err)
{
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0);
    esp_status status;

    *out = (esp_plan){0};
    status = check_head(json, err);
    if (status == ESP_OK)
        status = read_fields(json, &plan, err);
    if (status == ESP_OK)
        status = read_ranking(json, &plan, err);
    if (status == ESP_OK)
        status = read_ratios(json, &plan, err);
    if (status == ESP_OK)
        status = read_rules(json, &plan, err);
    if (status == ESP_OK)
        status = esp_plan_check(&plan, err);
    if (status == ESP_OK)
        *out = plan;
    else
        esp_plan_free(&plan);
    return status;
}

esp_status esp_plan_load(const char *path, esp_plan *out, esp_error *err)
{
    json_t *json;
    esp_status status;

    *out = (esp_plan){0};
    status = esp_json_load(path, &json, err);
    if (status != ESP_OK)
        return status;
    status = esp_plan_from_json(json, out, err);
    if (status != ESP_OK)
        esp_error_prefix(err, "%s", path);
    json_decref(json);
    return status;
}

esp_status esp_plan_save(const esp_plan *plan, const char *path, esp_error *err)
{
    json_t *json;
    esp_status status = esp_plan_to_json(plan, &json, err);

    if (status == ESP_OK)
        status = esp_json_save(json, path, err);
    json_decref(json);
    return status;
}
