/* A file first, flags on top of it. A flag that means nothing for the method is refused: silence would let
 * people believe it did something. */
#include "cli/plan_flags.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "io/dataset.h"
#include "prune/criteria.h"

/* "NAME=VALUE" split at the last '='. */
static esp_status split_rule(const char *flag, const char *item, char *name, size_t size, double *value,
                             esp_error *err)
{
    const char *equals = strrchr(item, '=');
    if (!equals || equals == item || (size_t)(equals - item) >= size || !esp_parse_f64(equals + 1, value)) {
        return esp_fail(err, ESP_INVALID, "--%s: found '%s', expected NAME=NUMBER", flag, item);
    }
    snprintf(name, size, "%.*s", (int)(equals - item), item);
    return ESP_OK;
}

static esp_status add_ratio(const char *item, esp_plan *plan, esp_error *err)
{
    char name[256];
    double value = 0;
    esp_status status = split_rule("layer", item, name, sizeof name, &value, err);
    if (status == ESP_OK && !(value >= 0 && value < 1)) {
        status = esp_fail(err, ESP_INVALID, "--layer %s: found ratio %g, expected [0, 1)", name, value);
    }
    return status == ESP_OK ? esp_plan_add_rule(plan, name, value, 0, false, err) : status;
}

static esp_status add_groups(const char *item, esp_plan *plan, esp_error *err)
{
    char name[256];
    double value = 0;
    esp_status status = split_rule("layer-groups", item, name, sizeof name, &value, err);
    if (status == ESP_OK && !(value >= 1 && value <= 65536 && value == floor(value))) {
        status = esp_fail(err, ESP_INVALID,
                          "--layer-groups %s: found %g, expected a whole number of at least 1", name, value);
    }
    return status == ESP_OK ? esp_plan_add_rule(plan, name, -1, (int)value, false, err) : status;
}

static esp_status add_rules(const esp_cli_plan_flags *flags, esp_plan *plan, esp_error *err)
{
    esp_status status = ESP_OK;
    for (int i = 0; i < flags->layer_ratios.count && status == ESP_OK; i++) {
        status = add_ratio(flags->layer_ratios.items[i], plan, err);
    }
    for (int i = 0; i < flags->layer_groups.count && status == ESP_OK; i++) {
        status = add_groups(flags->layer_groups.items[i], plan, err);
    }
    for (int i = 0; i < flags->ignored.count && status == ESP_OK; i++) {
        status = esp_plan_add_rule(plan, flags->ignored.items[i], -1, 0, true, err);
    }
    return status;
}

static double given_or(double given, double otherwise)
{
    return isnan(given) ? otherwise : given;
}

bool esp_cli_has_ratio(const esp_cli_plan_flags *flags)
{
    return !isnan(flags->ratio) || !isnan(flags->conv_ratio) || !isnan(flags->fc_ratio) ||
           !isnan(flags->border_ratio) || flags->layer_ratios.count > 0;
}

static esp_status start(const esp_cli_plan_flags *flags, bool needs_ratio, esp_plan *plan, esp_error *err)
{
    if (flags->path) {
        return esp_plan_load(flags->path, plan, err);
    }
    if (!flags->method) {
        return esp_fail(err, ESP_INVALID, "--method is missing, expected wsp, sg or filter (or --plan FILE)");
    }
    if (needs_ratio && !esp_cli_has_ratio(flags)) {
        return esp_fail(err, ESP_INVALID, "--ratio is missing, expected a number in [0, 1)");
    }
    *plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0);
    return ESP_OK;
}

/* Another method than the file's forgets what only the file's method has a use for. */
static esp_status set_method(const esp_cli_plan_flags *flags, esp_plan *plan, esp_error *err)
{
    esp_method method = plan->method;
    esp_mode mode = plan->mode;
    esp_status status = flags->method ? esp_method_parse(flags->method, &method, err) : ESP_OK;
    if (status == ESP_OK && flags->mode) {
        status = esp_mode_parse(flags->mode, &mode, err);
    }
    if (status == ESP_OK && (method != plan->method || mode != plan->mode)) {
        esp_plan_set_method(plan, method, mode);
    }
    return status;
}

/* ---- flags that mean nothing here ---- */

esp_status esp_cli_check_uses(const esp_cli_use *uses, size_t count, esp_error *err)
{
    for (size_t i = 0; i < count; i++) {
        if (uses[i].is_given && !uses[i].fits) {
            return esp_fail(err, ESP_INVALID, "%s is for %s, found %s", uses[i].flag, uses[i].with,
                            uses[i].found);
        }
    }
    return ESP_OK;
}

char *esp_cli_method_text(const esp_cli_plan_flags *flags, const esp_plan *plan, char *buffer, size_t size)
{
    const char *mode = plan->method == ESP_METHOD_FILTER ? "" : esp_mode_word(plan->mode);
    snprintf(buffer, size, "%s %s%s%s%s",
             flags->method ? "--method"
             : flags->path ? "--plan of method"
                           : "method",
             esp_method_word(plan->method), mode[0] ? " (" : "", mode, mode[0] ? ")" : "");
    return buffer;
}

static esp_status check_uses(const esp_cli_plan_flags *flags, const esp_plan *plan, esp_error *err)
{
    char found[64];
    const bool is_sg = plan->method == ESP_METHOD_SG, is_filter = plan->method == ESP_METHOD_FILTER;
    esp_cli_method_text(flags, plan, found, sizeof found);
    const esp_cli_use uses[] = {
        {"--mode", flags->mode != NULL, !is_filter, "methods wsp and sg", found},
        {"--criterion", flags->criterion != NULL, is_filter, "method filter", found},
        {"--floor", !isnan(flags->floor), esp_plan_ranks_slots(plan), "methods filter and sound wsp", found},
        {"--border-ratio", !isnan(flags->border_ratio), !is_sg, "methods wsp and filter", found},
        {"--groups", flags->groups != 0, is_sg, "method sg", found},
        {"--layer-groups", flags->layer_groups.count > 0, is_sg, "method sg", found},
        {"--init", flags->init != NULL, is_sg, "method sg", found},
        {"--restarts", flags->restarts != 0, is_sg, "method sg", found},
        {"--no-cascade", flags->has_no_cascade, is_sg, "method sg", found},
        {"--mean", flags->mean != NULL, flags->data != NULL, "the images of --data", "no --data"},
        {"--std", flags->std != NULL, flags->data != NULL, "the images of --data", "no --data"},
    };
    return esp_cli_check_uses(uses, sizeof uses / sizeof uses[0], err);
}

static esp_status set_init(const esp_cli_plan_flags *flags, esp_plan *plan, esp_error *err)
{
    bool is_random = flags->init && strcmp(flags->init, "random") == 0;
    if (!flags->init) {
        return ESP_OK;
    }
    if (!is_random && strcmp(flags->init, "kmeans++") != 0) {
        return esp_fail(err, ESP_INVALID, "--init: found '%s', expected random or kmeans++", flags->init);
    }
    plan->init = is_random ? ESP_KMEANS_RANDOM : ESP_KMEANS_PLUS_PLUS;
    return ESP_OK;
}

/* What chooses among whole slots. */
static esp_status set_ranking(const esp_cli_plan_flags *flags, esp_plan *plan, esp_error *err)
{
    const esp_criterion *criterion;
    esp_status status = flags->scope ? esp_scope_parse(flags->scope, &plan->scope, err) : ESP_OK;
    if (status == ESP_OK && flags->criterion) {
        status = esp_criterion_find(flags->criterion, &criterion, err);
    }
    if (status != ESP_OK) {
        return status;
    }
    if (flags->criterion) {
        snprintf(plan->criterion, sizeof plan->criterion, "%s", flags->criterion);
    }
    plan->floor = given_or(flags->floor, plan->floor);
    plan->round_to = flags->round_to ? (int)flags->round_to : plan->round_to;
    plan->cascades = plan->cascades && !flags->has_no_cascade;
    return ESP_OK;
}

static void set_numbers(const esp_cli_plan_flags *flags, esp_plan *plan)
{
    plan->conv_ratio = given_or(flags->conv_ratio, given_or(flags->ratio, plan->conv_ratio));
    plan->fc_ratio = given_or(flags->fc_ratio, given_or(flags->ratio, plan->fc_ratio));
    plan->border_ratio = given_or(flags->border_ratio, given_or(flags->ratio, plan->border_ratio));
    plan->groups = flags->groups ? (int)flags->groups : plan->groups;
    plan->restarts = flags->restarts ? (int)flags->restarts : plan->restarts;
    plan->seed = flags->seed >= 0 ? (uint64_t)flags->seed : plan->seed;
}

esp_status esp_cli_plan_make(const esp_cli_plan_flags *flags, bool needs_ratio, esp_plan *plan,
                             esp_error *err)
{
    esp_status status = start(flags, needs_ratio, plan, err);
    if (status == ESP_OK) {
        status = set_method(flags, plan, err);
    }
    if (status == ESP_OK) {
        status = check_uses(flags, plan, err);
    }
    if (status == ESP_OK) {
        status = set_init(flags, plan, err);
    }
    if (status == ESP_OK) {
        status = set_ranking(flags, plan, err);
    }
    if (status == ESP_OK) {
        set_numbers(flags, plan);
        status = add_rules(flags, plan, err);
    }
    return status == ESP_OK ? esp_plan_check(plan, err) : status;
}

esp_status esp_cli_plan_images(const esp_cli_plan_flags *flags, const esp_plan *plan, const esp_graph *graph,
                               esp_dataset **dataset, esp_criterion_data *out, esp_error *err)
{
    const esp_criterion *criterion;
    int64_t images = flags->images ? flags->images : ESP_CALIBRATION_IMAGES;
    esp_status status = esp_criterion_find(plan->criterion, &criterion, err);
    *dataset = NULL;
    *out = (esp_criterion_data){0};
    if (status != ESP_OK || plan->method != ESP_METHOD_FILTER || !esp_criterion_needs_data(criterion)) {
        return status;
    }
    if (!flags->data) {
        return esp_fail(err, ESP_INVALID, "criterion '%s' looks at images: --data SPEC is missing",
                        criterion->name);
    }
    status = esp_dataset_open_for(flags->data, ESP_SPLIT_TRAIN, graph, dataset, err);
    if (status == ESP_OK) {
        int64_t count = esp_dataset_count(*dataset);
        *out = (esp_criterion_data){.dataset = *dataset,
                                    .images = images < count ? images : count,
                                    .mean = flags->mean,
                                    .std = flags->std,
                                    .seed = plan->seed};
    }
    return status;
}

esp_status esp_cli_plan_calibrate(const esp_cli_plan_flags *flags, const esp_plan *plan,
                                  const esp_graph *graph, esp_grouping_cache *cache, esp_error *err)
{
    esp_dataset *dataset = NULL;
    esp_criterion_data data;
    esp_status status = esp_cli_plan_images(flags, plan, graph, &dataset, &data, err);
    if (status == ESP_OK && dataset) {
        status = esp_preview_calibrate_with(cache, &data, err);
    }
    esp_dataset_unref(dataset);
    return status;
}
