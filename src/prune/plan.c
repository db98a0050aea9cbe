/* Plans are small value structs; the only memory they own is their rules. The JSON form writes every field,
 * so that a plan reads the same whatever the defaults of a later version. */
#include "prune/plan.h"

#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "base/unknown.h"

#define PLAN_VERSION    1
#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

/* ---- words ---- */

#define WORD_OF_METHOD(name, word, title)  word,
#define TITLE_OF_METHOD(name, word, title) title,
#define WORD_OF(name, word)                word,
static const char *const method_words[] = {ESP_METHOD_LIST(WORD_OF_METHOD)};
static const char *const method_titles[] = {ESP_METHOD_LIST(TITLE_OF_METHOD)};
static const char *const mode_words[] = {ESP_MODE_LIST(WORD_OF)};
static const char *const init_words[] = {ESP_KMEANS_INIT_LIST(WORD_OF)};

static esp_status parse_word(const char *what, const char *word, const char *const *words, size_t count,
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
    esp_status status = parse_word("method", word, method_words, COUNT_OF(method_words), &index, err);

    if (status == ESP_OK)
        *out = (esp_method)index;
    return status;
}

esp_status esp_mode_parse(const char *word, esp_mode *out, esp_error *err)
{
    int index = 0;
    esp_status status = parse_word("mode", word, mode_words, COUNT_OF(mode_words), &index, err);

    if (status == ESP_OK)
        *out = (esp_mode)index;
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
                      .max_iterations = published.max_iterations};
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

static esp_status append_rule(esp_plan *plan, const esp_plan_rule *rule, esp_error *err)
{
    size_t count = (size_t)plan->rule_count;
    esp_plan_rule *rules;
    char *pattern = esp_strdup(rule->pattern);

    if (!pattern)
        return esp_fail_memory(err, "a plan's rule", strlen(rule->pattern) + 1);
    rules = esp_realloc(plan->rules, count, count + 1, sizeof *rules);
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
        status = append_rule(&copy, &plan->rules[i], err);
    if (status == ESP_OK)
        *out = copy;
    else
        esp_plan_free(&copy);
    return status;
}

static esp_status check_rule(const esp_plan_rule *rule, esp_error *err)
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

static bool is_plain_name(const char *pattern)
{
    return !strpbrk(pattern, "*?");
}

esp_status esp_plan_add_rule(esp_plan *plan, const char *pattern, double ratio, int groups, bool is_ignored,
                             esp_error *err)
{
    esp_plan_rule rule = {(char *)(uintptr_t)pattern, ratio < 0 ? -1 : ratio, groups, is_ignored};
    esp_status status = check_rule(&rule, err);

    if (status != ESP_OK)
        return status;
    for (int i = 0; is_plain_name(pattern) && i < plan->rule_count; i++) {
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
    return append_rule(plan, &rule, err);
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
    for (int i = 0; status == ESP_OK && i < plan->rule_count; i++)
        status = check_rule(&plan->rules[i], err);
    return status;
}

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

esp_status esp_plan_to_json(const esp_plan *plan, json_t **out, esp_error *err)
{
    json_t *rules = NULL;
    esp_status status = esp_plan_check(plan, err);

    *out = NULL;
    if (status != ESP_OK)
        return status;
    rules = rules_to_json(plan);
    if (rules)
        *out = json_pack("{s:i, s:s, s:s, s:{s:f, s:f, s:f}, s:i, s:s, s:i, s:i, s:I, s:O}", "version",
                         PLAN_VERSION, "method", esp_method_word(plan->method), "mode",
                         esp_mode_word(plan->mode), "ratio", "conv", plan->conv_ratio, "fc", plan->fc_ratio,
                         "border", plan->border_ratio, "groups", plan->groups, "init", init_words[plan->init],
                         "restarts", plan->restarts, "max_iterations", plan->max_iterations, "seed",
                         (json_int_t)plan->seed, "rules", rules);
    json_decref(rules);
    return *out ? ESP_OK : esp_fail(err, ESP_INVALID, "plan: a rule's layer name is not valid UTF-8");
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

/* Absent keys leave `*out` as it is. */
static esp_status read_number(const json_t *object, const char *key, double *out, esp_error *err)
{
    const json_t *value = json_object_get(object, key);

    if (!value)
        return ESP_OK;
    if (!json_is_number(value))
        return esp_fail(err, ESP_INVALID, "plan: '%s' is not a number", key);
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
        return esp_fail(err, ESP_INVALID, "plan: '%s' is not a string", key);
    return parse_word(key, json_string_value(value), words, count, out, err);
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
    return esp_plan_add_rule(plan, json_string_value(name), rule.ratio, rule.groups, json_is_true(ignore),
                             err);
}

static esp_status read_rules(const json_t *json, esp_plan *plan, esp_error *err)
{
    const json_t *rules = json_object_get(json, "rules");
    esp_status status = ESP_OK;

    if (rules && !json_is_array(rules))
        return esp_fail(err, ESP_INVALID, "plan: 'rules' is not an array");
    for (size_t i = 0; status == ESP_OK && i < json_array_size(rules); i++)
        status = read_rule(json_array_get(rules, i), plan, err);
    return status;
}

static esp_status check_head(const json_t *json, esp_error *err)
{
    static const char *const keys[] = {"version", "method",   "mode",           "ratio", "groups",
                                       "init",    "restarts", "max_iterations", "seed",  "rules"};
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
