/* Targets as text, and the report as JSON. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "base/unknown.h"
#include "prune/budget.h"

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

#define WORD_OF_MEASURE(name, word, unit, title)  word,
#define UNIT_OF_MEASURE(name, word, unit, title)  unit,
#define TITLE_OF_MEASURE(name, word, unit, title) title,
#define WORD_OF_DISTRIBUTION(name, word, title)   word,
static const char *const measure_words[] = {ESP_BUDGET_LIST(WORD_OF_MEASURE)};
static const char *const measure_units[] = {ESP_BUDGET_LIST(UNIT_OF_MEASURE)};
static const char *const measure_titles[] = {ESP_BUDGET_LIST(TITLE_OF_MEASURE)};
static const char *const distribution_words[] = {ESP_DISTRIBUTION_LIST(WORD_OF_DISTRIBUTION)};

const char *esp_budget_word(esp_budget_measure measure)
{
    return measure_words[measure];
}

const char *esp_budget_unit(esp_budget_measure measure)
{
    return measure_units[measure];
}

const char *esp_budget_title(esp_budget_measure measure)
{
    return measure_titles[measure];
}

const char *esp_distribution_word(esp_distribution distribution)
{
    return distribution_words[distribution];
}

static esp_status find_word(const char *what, const char *word, const char *const *words, size_t count,
                            int *out, esp_error *err)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(words[i], word) == 0) {
            *out = (int)i;
            return ESP_OK;
        }
    return esp_fail_unknown(err, what, word, words, count);
}

esp_status esp_distribution_parse(const char *word, esp_distribution *out, esp_error *err)
{
    int index = 0;
    esp_status status =
        find_word("distribution", word, distribution_words, COUNT_OF(distribution_words), &index, err);

    if (status == ESP_OK)
        *out = (esp_distribution)index;
    return status;
}

/* ---- targets ---- */

/* A number's unit: what it is worth, and whether it makes the number absolute. */
typedef struct target_unit {
    const char *text;
    bool is_time, is_absolute;
    double factor;
} target_unit;

static const target_unit target_units[] = {
    {"", false, false, 1},    {"", true, false, 1},    {"%", false, false, 0.01}, {"%", true, false, 0.01},
    {"k", false, true, 1e3},  {"M", false, true, 1e6}, {"G", false, true, 1e9},   {"ms", true, true, 1},
    {"us", true, true, 1e-3}, {"s", true, true, 1e3},
};

static esp_status check_target(esp_budget_measure measure, const esp_budget_target *target, esp_error *err)
{
    if (target->value > 0 && isfinite(target->value))
        return ESP_OK;
    return esp_fail(err, ESP_INVALID, "target %s: found %g, expected a share in (0, 1] or an amount above 0",
                    measure_words[measure], target->value);
}

static esp_status find_measure(const char *word, esp_budget_measure *out, esp_error *err)
{
    int index = 0;
    esp_status status = find_word("target", word, measure_words, COUNT_OF(measure_words), &index, err);

    if (status == ESP_OK)
        *out = (esp_budget_measure)index;
    return status;
}

esp_status esp_budget_target_set(const char *word, double value, esp_budget_target *targets, esp_error *err)
{
    esp_budget_measure measure = ESP_BUDGET_MACS;
    esp_budget_target target = {.is_set = true, .is_absolute = value > 1, .value = value};
    esp_status status = find_measure(word, &measure, err);

    if (status == ESP_OK)
        status = check_target(measure, &target, err);
    if (status == ESP_OK)
        targets[measure] = target;
    return status;
}

static esp_status parse_amount(esp_budget_measure measure, const char *text, esp_budget_target *out,
                               esp_error *err)
{
    char number[64];
    size_t length = strlen(text), digits = length;
    bool is_time = measure == ESP_BUDGET_LATENCY;

    while (digits > 0 && (isalpha((unsigned char)text[digits - 1]) || text[digits - 1] == '%'))
        digits--;
    snprintf(number, sizeof number, "%.*s", digits < sizeof number ? (int)digits : 0, text);
    for (size_t i = 0; i < COUNT_OF(target_units); i++) {
        const target_unit *unit = &target_units[i];
        double value;
        if (strcmp(unit->text, text + digits) != 0 || unit->is_time != is_time ||
            !esp_parse_f64(number, &value))
            continue;
        value *= unit->factor;
        *out = (esp_budget_target){.is_set = true,
                                   .is_absolute = unit->is_absolute || (value > 1 && unit->text[0] != '%'),
                                   .value = value};
        if (unit->text[0] == '%' && value > 1)
            return esp_fail(err, ESP_INVALID, "target %s: found %s, expected at most 100%%",
                            measure_words[measure], text);
        return check_target(measure, out, err);
    }
    return esp_fail(err, ESP_INVALID,
                    "target %s: found '%s', expected a share such as 0.5, or an amount such as %s",
                    measure_words[measure], text, is_time ? "3.5ms" : "20M");
}

esp_status esp_budget_targets_parse(const char *text, esp_budget_target *targets, esp_error *err)
{
    esp_budget_target parsed[ESP_BUDGET_COUNT];
    esp_status status = ESP_OK;

    memcpy(parsed, targets, sizeof parsed);
    do {
        size_t length = strcspn(text, ",");
        const char *equals = memchr(text, '=', length);
        esp_budget_measure measure = ESP_BUDGET_MACS;
        char word[64], amount[64];
        if (!equals || length >= sizeof word)
            return esp_fail(err, ESP_INVALID, "target: found '%.*s', expected NAME=AMOUNT, such as macs=0.5",
                            length < 64 ? (int)length : 64, text);
        snprintf(word, sizeof word, "%.*s", (int)(equals - text), text);
        snprintf(amount, sizeof amount, "%.*s", (int)(length - (size_t)(equals - text) - 1), equals + 1);
        status = find_measure(word, &measure, err);
        if (status == ESP_OK)
            status = parse_amount(measure, amount, &parsed[measure], err);
        text += length;
    } while (status == ESP_OK && *text++ == ',');
    if (status == ESP_OK)
        memcpy(targets, parsed, sizeof parsed);
    return status;
}

/* ---- the report ---- */

double esp_budget_prediction_error(const esp_budget_report *report)
{
    const esp_budget_amount *latency = &report->amounts[ESP_BUDGET_LATENCY];

    if (!report->is_measured || !latency->is_known || !(latency->before > 0) || !(latency->after > 0) ||
        !(report->measured_before_ms > 0))
        return 0;
    /* shares: how fast the machine is changes from minute to minute, for both networks alike */
    return report->measured_ms / report->measured_before_ms / (latency->after / latency->before) - 1;
}

static json_t *amount_to_json(const esp_budget_amount *amount)
{
    json_t *object =
        json_pack("{s:b, s:f, s:f, s:f, s:f}", "is_target", (int)amount->is_set, "before", amount->before,
                  "after", amount->after, "share", amount->before > 0 ? amount->after / amount->before : 1.0,
                  "next", amount->next);

    if (object && amount->is_set && json_object_set_new(object, "target", json_real(amount->target)) != 0) {
        json_decref(object);
        object = NULL;
    }
    return object;
}

static json_t *latency_to_json(const esp_budget_report *report)
{
    json_t *object =
        json_pack("{s:s, s:I, s:I, s:i, s:f}", "machine", report->machine, "table_known",
                  (json_int_t)report->table_known, "table_measured", (json_int_t)report->table_measured,
                  "corrections", report->corrections, "exponent", report->exponent);

    if (object && report->is_measured)
        json_object_update_new(object,
                               json_pack("{s:f, s:f, s:f, s:f, s:f}", "first_error", report->first_error,
                                         "measured_before_ms", report->measured_before_ms, "measured_ms",
                                         report->measured_ms, "measured_share",
                                         report->measured_ms / fmax(report->measured_before_ms, 1e-12),
                                         "prediction_error", esp_budget_prediction_error(report)));
    return object;
}

esp_status esp_budget_report_to_json(const esp_budget_report *report, json_t **out, esp_error *err)
{
    json_t *targets = json_object(), *object = NULL;
    bool is_whole = targets != NULL;

    *out = NULL;
    for (int i = 0; is_whole && i < ESP_BUDGET_COUNT; i++)
        if (report->amounts[i].is_known)
            is_whole =
                json_object_set_new(targets, measure_words[i], amount_to_json(&report->amounts[i])) == 0;
    if (is_whole)
        object =
            json_pack("{s:s, s:O, s:f, s:f, s:i, s:s}", "distribution",
                      distribution_words[report->distribution], "amounts", targets, "level", report->level,
                      "tolerance", report->tolerance, "previews", report->previews, "note", report->note);
    json_decref(targets);
    if (object && report->binding >= 0)
        is_whole = json_object_set_new(object, "binding", json_string(measure_words[report->binding])) == 0;
    if (object && is_whole && report->machine[0])
        is_whole = json_object_set_new(object, "latency", latency_to_json(report)) == 0;
    if (!object || !is_whole) {
        json_decref(object);
        return esp_fail_memory(err, "a budget's report", sizeof *report);
    }
    *out = object;
    return ESP_OK;
}
