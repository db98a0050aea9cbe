/* Pruning schedules as data: words, JSON, the ratio at each step, and what was published. Running them is in
 * gradual_run.c. */
#include "prune/gradual.h"

#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/unknown.h"

#define GRADUAL_VERSION 1
#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

static const double ROUNDING = 1e-9; /* of a ratio: 6 x 0.1 is 0.6 */

/* ---- words ---- */

#define WORD_OF(name, word, title)  word,
#define TITLE_OF(name, word, title) title,
static const char *const kind_words[] = {ESP_GRADUAL_LIST(WORD_OF)};
static const char *const kind_titles[] = {ESP_GRADUAL_LIST(TITLE_OF)};
static const char *const preset_words[] = {ESP_PRESET_LIST(WORD_OF)};

const char *esp_gradual_word(esp_gradual_kind kind)
{
    return kind_words[kind];
}

const char *esp_gradual_title(esp_gradual_kind kind)
{
    return kind_titles[kind];
}

esp_status esp_gradual_parse_kind(const char *word, esp_gradual_kind *out, esp_error *err)
{
    for (size_t i = 0; i < COUNT_OF(kind_words); i++)
        if (strcmp(kind_words[i], word) == 0) {
            *out = (esp_gradual_kind)i;
            return ESP_OK;
        }
    return esp_fail_unknown(err, "pruning schedule", word, kind_words, COUNT_OF(kind_words));
}

/* ---- values ---- */

esp_gradual esp_gradual_defaults(esp_gradual_kind kind)
{
    return (esp_gradual){.kind = kind, .step = 0.1, .steps = 10, .local_epochs = 3, .epochs = 90};
}

bool esp_gradual_has_equal_steps(const esp_gradual *schedule)
{
    return schedule->kind == ESP_GRADUAL_LG || schedule->kind == ESP_GRADUAL_G ||
           schedule->kind == ESP_GRADUAL_L;
}

bool esp_gradual_rises(const esp_gradual *schedule)
{
    return schedule->kind == ESP_GRADUAL_LINEAR || schedule->kind == ESP_GRADUAL_AGP;
}

bool esp_gradual_trains_locally(const esp_gradual *schedule)
{
    return schedule->kind != ESP_GRADUAL_ONE_SHOT && schedule->kind != ESP_GRADUAL_G &&
           schedule->local_epochs > 0;
}

bool esp_gradual_trains_globally(const esp_gradual *schedule)
{
    return schedule->kind != ESP_GRADUAL_L && schedule->epochs > 0;
}

static esp_status refuse(const char *key, double value, const char *expected, esp_error *err)
{
    return esp_fail(err, ESP_INVALID, "pruning schedule: %s is %g, expected %s", key, value, expected);
}

esp_status esp_gradual_check(const esp_gradual *schedule, esp_error *err)
{
    if (!(schedule->step > 0 && schedule->step <= 1))
        return refuse("step", schedule->step, "a number in (0, 1]", err);
    if (schedule->steps < 1 || schedule->steps > 100000)
        return refuse("steps", schedule->steps, "1 to 100000", err);
    if (!(schedule->initial >= 0 && schedule->initial < 1))
        return refuse("initial", schedule->initial, "a number in [0, 1)", err);
    if (!(schedule->local_epochs >= 0 && schedule->local_epochs <= 1e6))
        return refuse("local_epochs", schedule->local_epochs, "a number from 0 to a million", err);
    if (!(schedule->epochs >= 0 && schedule->epochs <= 1e6))
        return refuse("epochs", schedule->epochs, "a number from 0 to a million", err);
    if (!(schedule->local_lr >= 0 && isfinite(schedule->local_lr)))
        return refuse("local_lr", schedule->local_lr, "a number of at least 0", err);
    if (!(schedule->group_lasso >= 0 && isfinite(schedule->group_lasso)))
        return refuse("group_lasso", schedule->group_lasso, "a number of at least 0", err);
    return ESP_OK;
}

/* ---- steps ---- */

static double largest_ratio(const esp_plan *plan)
{
    double most = plan->conv_ratio > plan->fc_ratio ? plan->conv_ratio : plan->fc_ratio;

    if (plan->method != ESP_METHOD_SG && plan->border_ratio > most)
        most = plan->border_ratio;
    for (int i = 0; i < plan->rule_count; i++)
        if (!plan->rules[i].is_ignored && plan->rules[i].ratio > most)
            most = plan->rules[i].ratio;
    return most;
}

esp_status esp_gradual_check_plan(const esp_gradual *schedule, const esp_plan *plan, esp_error *err)
{
    double most = largest_ratio(plan);

    if (esp_gradual_rises(schedule) && schedule->initial > most)
        return esp_fail(err, ESP_INVALID,
                        "pruning schedule: initial is %g, expected at most the plan's largest ratio, %g",
                        schedule->initial, most);
    return ESP_OK;
}

/* LINEAR and AGP: a rise that does not begin at 0 has its beginning as a step of its own. */
static int steps_before_rise(const esp_gradual *schedule)
{
    return schedule->initial > 0;
}

int esp_gradual_steps(const esp_gradual *schedule, const esp_plan *plan)
{
    int steps = 1;

    if (esp_gradual_has_equal_steps(schedule))
        steps = (int)ceil((largest_ratio(plan) - ROUNDING) / schedule->step);
    else if (esp_gradual_rises(schedule))
        steps = schedule->steps + steps_before_rise(schedule);
    return steps < 1 ? 1 : steps;
}

/* s_t = s_f + (s_i - s_f) (1 - x)^power, x the share of the way that is behind: cubic as Zhu and Gupta have
 * it, or straight. */
static double risen(const esp_gradual *schedule, double target, int step)
{
    double share = (double)(step - steps_before_rise(schedule)) / schedule->steps;
    double power = schedule->kind == ESP_GRADUAL_AGP ? 3 : 1;
    double initial = schedule->initial < target ? schedule->initial : target;

    if (share >= 1)
        return target;
    return target + (initial - target) * pow(1 - share, power);
}

double esp_gradual_ratio(const esp_gradual *schedule, double target, int step)
{
    if (esp_gradual_rises(schedule))
        return risen(schedule, target, step);
    if (schedule->kind == ESP_GRADUAL_ONE_SHOT || step * schedule->step > target - ROUNDING)
        return target;
    return step * schedule->step;
}

esp_status esp_gradual_plan(const esp_gradual *schedule, const esp_plan *plan, int step, esp_plan *out,
                            esp_error *err)
{
    esp_status status = esp_plan_clone(plan, out, err);

    if (status != ESP_OK)
        return status;
    out->conv_ratio = esp_gradual_ratio(schedule, plan->conv_ratio, step);
    out->fc_ratio = esp_gradual_ratio(schedule, plan->fc_ratio, step);
    out->border_ratio = esp_gradual_ratio(schedule, plan->border_ratio, step);
    for (int i = 0; i < out->rule_count; i++)
        if (out->rules[i].ratio >= 0)
            out->rules[i].ratio = esp_gradual_ratio(schedule, plan->rules[i].ratio, step);
    return ESP_OK;
}

/* ---- JSON ---- */

esp_status esp_gradual_to_json(const esp_gradual *schedule, json_t **out, esp_error *err)
{
    esp_status status = esp_gradual_check(schedule, err);
    int is_whole = 0;

    *out = NULL;
    if (status != ESP_OK)
        return status;
    json_t *object = json_pack("{s:i, s:s, s:f, s:f}", "version", GRADUAL_VERSION, "schedule",
                               esp_gradual_word(schedule->kind), "epochs", schedule->epochs, "group_lasso",
                               schedule->group_lasso);
    if (esp_gradual_has_equal_steps(schedule))
        is_whole |= json_object_set_new(object, "step", json_real(schedule->step));
    if (esp_gradual_rises(schedule)) {
        is_whole |= json_object_set_new(object, "steps", json_integer(schedule->steps));
        is_whole |= json_object_set_new(object, "initial", json_real(schedule->initial));
    }
    if (schedule->kind == ESP_GRADUAL_LG || schedule->kind == ESP_GRADUAL_L)
        is_whole |= json_object_set_new(object, "local_lr", json_real(schedule->local_lr));
    if (schedule->kind != ESP_GRADUAL_ONE_SHOT && schedule->kind != ESP_GRADUAL_G)
        is_whole |= json_object_set_new(object, "local_epochs", json_real(schedule->local_epochs));
    if (object && is_whole == 0) {
        *out = object;
        return ESP_OK;
    }
    json_decref(object);
    return esp_fail_memory(err, "a pruning schedule", sizeof *schedule);
}

/* The keys a schedule may have beside "version" and "schedule", and where they go. */
typedef struct number_key {
    const char *name;
    double *target;
} number_key;

static esp_status check_keys(const json_t *json, esp_error *err)
{
    static const char *const keys[] = {"version",      "schedule", "step",   "steps",      "initial",
                                       "local_epochs", "local_lr", "epochs", "group_lasso"};
    json_t *object = (json_t *)(uintptr_t)json;

    for (void *at = json_object_iter(object); at; at = json_object_iter_next(object, at)) {
        bool is_known = false;
        for (size_t i = 0; i < COUNT_OF(keys); i++)
            is_known = is_known || strcmp(keys[i], json_object_iter_key(at)) == 0;
        if (!is_known) {
            esp_fail_unknown(err, "key", json_object_iter_key(at), keys, COUNT_OF(keys));
            esp_error_prefix(err, "pruning schedule");
            return ESP_INVALID;
        }
    }
    return ESP_OK;
}

static esp_status read_kind(const json_t *json, esp_gradual *out, esp_error *err)
{
    const json_t *version = json_object_get(json, "version"), *word = json_object_get(json, "schedule");
    esp_gradual_kind kind = ESP_GRADUAL_ONE_SHOT;
    esp_status status;

    if (version && (!json_is_integer(version) || json_integer_value(version) != GRADUAL_VERSION))
        return esp_fail(err, ESP_INVALID, "pruning schedule: 'version' is unknown, expected %d",
                        GRADUAL_VERSION);
    if (!json_is_string(word))
        return esp_fail(err, ESP_INVALID,
                        "pruning schedule: 'schedule' is missing, expected a word such as 'lg' or 'agp'");
    status = esp_gradual_parse_kind(json_string_value(word), &kind, err);
    if (status == ESP_OK)
        *out = esp_gradual_defaults(kind);
    return status;
}

esp_status esp_gradual_from_json(const json_t *json, esp_gradual *out, esp_error *err)
{
    esp_gradual schedule = {0};
    double steps = 0;
    esp_status status;

    if (!json_is_object(json))
        return esp_fail(err, ESP_INVALID, "pruning schedule: not a JSON object");
    status = check_keys(json, err);
    if (status == ESP_OK)
        status = read_kind(json, &schedule, err);
    const number_key numbers[] = {{"step", &schedule.step},
                                  {"steps", &steps},
                                  {"initial", &schedule.initial},
                                  {"local_epochs", &schedule.local_epochs},
                                  {"local_lr", &schedule.local_lr},
                                  {"epochs", &schedule.epochs},
                                  {"group_lasso", &schedule.group_lasso}};
    steps = schedule.steps;
    for (size_t i = 0; status == ESP_OK && i < COUNT_OF(numbers); i++) {
        const json_t *value = json_object_get(json, numbers[i].name);
        if (value && !json_is_number(value))
            status = esp_fail(err, ESP_INVALID, "pruning schedule: '%s' is not a number", numbers[i].name);
        else if (value)
            *numbers[i].target = json_number_value(value);
    }
    if (status == ESP_OK && !(steps >= 1 && steps <= 100000 && steps == floor(steps)))
        status = refuse("steps", steps, "a whole number from 1 to 100000", err);
    if (status != ESP_OK)
        return status;
    schedule.steps = (int)steps;
    status = esp_gradual_check(&schedule, err);
    if (status == ESP_OK)
        *out = schedule;
    return status;
}

esp_status esp_gradual_open(const char *word_or_path, esp_gradual *out, esp_error *err)
{
    size_t length = strlen(word_or_path);
    bool is_path = strchr(word_or_path, '/') || (length > 5 && !strcmp(word_or_path + length - 5, ".json"));
    json_t *json = NULL;
    esp_gradual_kind kind = ESP_GRADUAL_ONE_SHOT;
    esp_status status;

    if (!is_path) {
        status = esp_gradual_parse_kind(word_or_path, &kind, err);
        if (status == ESP_OK)
            *out = esp_gradual_defaults(kind);
        return status;
    }
    status = esp_json_load(word_or_path, &json, err);
    if (status == ESP_OK) {
        status = esp_gradual_from_json(json, out, err);
        if (status != ESP_OK)
            esp_error_prefix(err, "%s", word_or_path);
    }
    json_decref(json);
    return status;
}

/* ---- published settings ---- */

typedef struct published {
    esp_method method;
    esp_gradual_kind kind;
    int64_t batch;
    double lr, weight_decay;
    double most_fc; /* fully connected layers stop there */
    bool keeps_masks;
} published;

/* In the order of ESP_PRESET_LIST. */
static const published presets[] = {
    {ESP_METHOD_SG, ESP_GRADUAL_LG, 128, 0.01, 1e-4, 0.6, false},
    {ESP_METHOD_WSP, ESP_GRADUAL_ONE_SHOT, 256, 0.01, 1e-4, 1, false},
    {ESP_METHOD_SG, ESP_GRADUAL_ONE_SHOT, 32, 0.001, 5e-4, 0.6, true},
};

static size_t find_preset(const char *word)
{
    size_t index = 0;

    while (index < COUNT_OF(presets) && strcmp(preset_words[index], word) != 0)
        index++;
    return index;
}

bool esp_preset_keeps_masks(const char *word)
{
    size_t index = find_preset(word);

    return index < COUNT_OF(presets) && presets[index].keeps_masks;
}

esp_status esp_gradual_preset(const char *word, double ratio, esp_gradual *schedule, esp_plan *plan,
                              esp_train_options *training, esp_error *err)
{
    size_t index = find_preset(word);

    if (index == COUNT_OF(presets))
        return esp_fail_unknown(err, "preset", word, preset_words, COUNT_OF(preset_words));
    if (!(ratio >= 0 && ratio < 1))
        return esp_fail(err, ESP_INVALID, "preset '%s': ratio is %g, expected a number in [0, 1)", word,
                        ratio);
    const published *it = &presets[index];
    *schedule = esp_gradual_defaults(it->kind);
    *plan = esp_plan_make(it->method, ESP_MODE_FAITHFUL, ratio);
    plan->fc_ratio = ratio < it->most_fc ? ratio : it->most_fc;
    if (!training)
        return ESP_OK;
    training->batch = it->batch;
    training->momentum = 0.9;
    training->weight_decay = it->weight_decay;
    /* without milestones: thirds of all epochs, as 30 and 60 of 90 are */
    training->schedule = esp_schedule_make(ESP_SCHEDULE_STEP, it->lr);
    return ESP_OK;
}
