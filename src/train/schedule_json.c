/* Schedules as JSON, both ways, from one table of fields. */
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/memory.h"
#include "base/unknown.h"
#include "train/schedule.h"

/* Sequences in sequences; more than that is a mistake, or an attack on the stack. */
#define MOST_DEPTH 4

typedef struct schedule_field {
    const char *key;
    bool is_integer; /* int in the struct, double otherwise */
    size_t offset;
    unsigned kinds; /* whose JSON has it, as bits; all when 0 */
} schedule_field;

#define KIND(name) (1u << ESP_SCHEDULE_##name)

static const schedule_field fields[] = {
    {"lr", false, offsetof(esp_schedule, lr), 0},
    {"gamma", false, offsetof(esp_schedule, gamma),
     KIND(STEP) | KIND(MULTISTEP) | KIND(EXPONENTIAL) | KIND(PLATEAU)},
    {"warmup", false, offsetof(esp_schedule, warmup_epochs), 0},
    {"every", false, offsetof(esp_schedule, every), KIND(STEP)},
    {"min_lr", false, offsetof(esp_schedule, min_lr), KIND(COSINE) | KIND(PLATEAU)},
    {"rise", false, offsetof(esp_schedule, rise), KIND(ONECYCLE)},
    {"start_divisor", false, offsetof(esp_schedule, start_divisor), KIND(ONECYCLE)},
    {"end_divisor", false, offsetof(esp_schedule, end_divisor), KIND(ONECYCLE)},
    {"patience", true, offsetof(esp_schedule, patience), KIND(PLATEAU)},
    {"threshold", false, offsetof(esp_schedule, threshold), KIND(PLATEAU)},
    {"cooldown", true, offsetof(esp_schedule, cooldown), KIND(PLATEAU)},
    {"epochs", false, offsetof(esp_schedule, span), 0},
};

enum { FIELD_COUNT = sizeof(fields) / sizeof(fields[0]) };

/* Keys that are no numbers. */
static const char *const other_keys[] = {"kind", "milestones", "parts"};

static esp_status check_keys(const json_t *json, esp_error *err)
{
    const char *names[FIELD_COUNT + 3] = {other_keys[0], other_keys[1], other_keys[2]};
    for (int f = 0; f < FIELD_COUNT; f++) {
        names[3 + f] = fields[f].key;
    }
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)json, key, value)
    {
        bool is_known = false;
        for (int i = 0; i < FIELD_COUNT + 3; i++) {
            is_known = is_known || strcmp(key, names[i]) == 0;
        }
        if (!is_known) {
            return esp_fail_unknown(err, "key of a schedule", key, names, FIELD_COUNT + 3);
        }
    }
    return ESP_OK;
}

static void set_number(esp_schedule *schedule, const schedule_field *field, double number)
{
    char *at = (char *)schedule + field->offset;
    if (field->is_integer) {
        *(int *)(void *)at = (int)number;
    } else {
        *(double *)(void *)at = number;
    }
}

static double get_number(const esp_schedule *schedule, const schedule_field *field)
{
    const char *at = (const char *)schedule + field->offset;
    return field->is_integer ? *(const int *)(const void *)at : *(const double *)(const void *)at;
}

static esp_status read_numbers(const json_t *json, esp_schedule *out, esp_error *err)
{
    for (int f = 0; f < FIELD_COUNT; f++) {
        const json_t *value = json_object_get(json, fields[f].key);
        if (value == NULL) {
            continue;
        }
        double number = json_number_value(value);
        bool is_whole = number == floor(number) && fabs(number) <= 1e9;
        if (!json_is_number(value) || (fields[f].is_integer && !is_whole)) {
            return esp_fail(err, ESP_INVALID, "schedule: '%s' is no %s", fields[f].key,
                            fields[f].is_integer ? "whole number" : "number");
        }
        if (fields[f].kinds != 0 && (fields[f].kinds & (1u << out->kind)) == 0) {
            return esp_fail(err, ESP_INVALID, "schedule: '%s' means nothing to '%s'", fields[f].key,
                            esp_schedule_word(out->kind));
        }
        set_number(out, &fields[f], number);
    }
    return ESP_OK;
}

static esp_status read_milestones(const json_t *json, esp_schedule *out, esp_error *err)
{
    const json_t *list = json_object_get(json, "milestones");
    if (list == NULL) {
        return ESP_OK;
    }
    if (out->kind != ESP_SCHEDULE_STEP && out->kind != ESP_SCHEDULE_MULTISTEP) {
        return esp_fail(err, ESP_INVALID, "schedule: 'milestones' means nothing to '%s'",
                        esp_schedule_word(out->kind));
    }
    if (!json_is_array(list) || json_array_size(list) > ESP_SCHEDULE_MAX_STEPS) {
        return esp_fail(err, ESP_INVALID, "schedule: 'milestones' is no list of at most %d epochs",
                        ESP_SCHEDULE_MAX_STEPS);
    }
    out->milestone_count = (int)json_array_size(list);
    for (int i = 0; i < out->milestone_count; i++) {
        const json_t *item = json_array_get(list, (size_t)i);
        if (!json_is_number(item)) {
            return esp_fail(err, ESP_INVALID, "schedule: milestone %d is no number", i + 1);
        }
        out->milestones[i] = json_number_value(item);
    }
    return ESP_OK;
}

static esp_status read_schedule(const json_t *json, double lr, int depth, esp_schedule *out, esp_error *err);

static esp_status read_parts(const json_t *json, int depth, esp_schedule *out, esp_error *err)
{
    const json_t *list = json_object_get(json, "parts");
    if (list == NULL) {
        return ESP_OK;
    }
    size_t count = json_array_size(list);
    if (out->kind != ESP_SCHEDULE_SEQUENCE || !json_is_array(list) || count > ESP_SCHEDULE_MAX_PARTS) {
        return esp_fail(err, ESP_INVALID,
                        "schedule: 'parts' expects a sequence and a list of at most %d schedules",
                        ESP_SCHEDULE_MAX_PARTS);
    }
    if (depth == MOST_DEPTH) {
        return esp_fail(err, ESP_INVALID, "schedule: sequences nested more than %d deep", MOST_DEPTH);
    }
    out->parts = esp_alloc_zero(count, sizeof(*out->parts));
    if (out->parts == NULL) {
        return esp_fail_memory(err, "parts of a schedule", count * sizeof(*out->parts));
    }
    out->part_count = (int)count;
    for (size_t i = 0; i < count; i++) {
        esp_status status = read_schedule(json_array_get(list, i), out->lr, depth + 1, &out->parts[i], err);
        if (status != ESP_OK) {
            esp_error_prefix(err, "part %zu of %zu", i + 1, count);
            return status;
        }
    }
    return ESP_OK;
}

/* Fills `out`, which esp_schedule_free then releases whatever happened. */
static esp_status read_schedule(const json_t *json, double lr, int depth, esp_schedule *out, esp_error *err)
{
    esp_schedule_kind kind = ESP_SCHEDULE_CONSTANT;
    *out = (esp_schedule){0};
    if (!json_is_object(json)) {
        return esp_fail(err, ESP_INVALID, "schedule: expected an object such as {\"kind\":\"cosine\"}");
    }
    const json_t *word = json_object_get(json, "kind");
    bool has_parts = json_object_get(json, "parts") != NULL;
    if (!json_is_string(word) && !(word == NULL && has_parts)) {
        return esp_fail(err, ESP_INVALID, "schedule: 'kind' is %s, expected a word such as \"cosine\"",
                        word == NULL ? "missing" : "no text");
    }
    esp_status status = check_keys(json, err);
    if (status == ESP_OK) {
        kind = ESP_SCHEDULE_SEQUENCE;
        status = word == NULL ? ESP_OK : esp_schedule_parse_kind(json_string_value(word), &kind, err);
    }
    if (status == ESP_OK) {
        *out = esp_schedule_make(kind, lr);
        status = read_numbers(json, out, err);
    }
    if (status == ESP_OK) {
        status = read_milestones(json, out, err);
    }
    return status == ESP_OK ? read_parts(json, depth, out, err) : status;
}

esp_status esp_schedule_from_json(const json_t *json, double lr, esp_schedule *out, esp_error *err)
{
    esp_schedule schedule;
    esp_status status = read_schedule(json, lr, 0, &schedule, err);
    if (status == ESP_OK) {
        status = esp_schedule_check(&schedule, err);
    }
    if (status == ESP_OK) {
        *out = schedule;
    } else {
        esp_schedule_free(&schedule);
    }
    return status;
}

static bool set_list(json_t *json, const char *key, json_t *take_list)
{
    return take_list != NULL && json_object_set_new(json, key, take_list) == 0;
}

static bool write_fields(const esp_schedule *schedule, json_t *json)
{
    bool is_good = json_object_set_new(json, "kind", json_string(esp_schedule_word(schedule->kind))) == 0;
    for (int f = 0; is_good && f < FIELD_COUNT; f++) {
        double number = get_number(schedule, &fields[f]);
        bool belongs = fields[f].kinds == 0 || (fields[f].kinds & (1u << schedule->kind)) != 0;
        bool is_default = fields[f].kinds == 0 && number == 0.0; /* no warm-up, no span */
        if (belongs && !is_default) {
            json_t *value = fields[f].is_integer ? json_integer((json_int_t)number) : json_real(number);
            is_good = json_object_set_new(json, fields[f].key, value) == 0;
        }
    }
    return is_good;
}

json_t *esp_schedule_to_json(const esp_schedule *schedule)
{
    json_t *json = json_object();
    bool is_good = json != NULL && write_fields(schedule, json);
    if (is_good && schedule->milestone_count > 0) {
        json_t *list = json_array();
        for (int i = 0; is_good && i < schedule->milestone_count; i++) {
            is_good = json_array_append_new(list, json_real(schedule->milestones[i])) == 0;
        }
        is_good = set_list(json, "milestones", list) && is_good;
    }
    if (is_good && schedule->part_count > 0) {
        json_t *list = json_array();
        for (int i = 0; is_good && i < schedule->part_count; i++) {
            is_good = json_array_append_new(list, esp_schedule_to_json(&schedule->parts[i])) == 0;
        }
        is_good = set_list(json, "parts", list) && is_good;
    }
    if (!is_good) {
        json_decref(json);
        return NULL;
    }
    return json;
}

esp_status esp_schedule_copy(const esp_schedule *schedule, esp_schedule *out, esp_error *err)
{
    esp_schedule copy = *schedule;
    esp_status status = ESP_OK;
    copy.parts = NULL;
    copy.part_count = 0;
    if (schedule->part_count > 0) {
        copy.parts = esp_alloc_zero((size_t)schedule->part_count, sizeof(*copy.parts));
        if (copy.parts == NULL) {
            return esp_fail_memory(err, "a schedule", (size_t)schedule->part_count * sizeof(*copy.parts));
        }
    }
    for (int i = 0; status == ESP_OK && i < schedule->part_count; i++) {
        status = esp_schedule_copy(&schedule->parts[i], &copy.parts[i], err);
        copy.part_count += status == ESP_OK;
    }
    if (status == ESP_OK) {
        *out = copy;
    } else {
        esp_schedule_free(&copy);
    }
    return status;
}

void esp_schedule_free(esp_schedule *schedule)
{
    if (schedule == NULL) {
        return;
    }
    for (int i = 0; i < schedule->part_count; i++) {
        esp_schedule_free(&schedule->parts[i]);
    }
    esp_free(schedule->parts);
    schedule->parts = NULL;
    schedule->part_count = 0;
}
