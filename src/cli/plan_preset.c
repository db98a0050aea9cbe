/* A preset is a plan: its words and numbers go where the flags have none, so that flags win and one function
 * makes the plan. */
#include "cli/plan_preset.h"

#include <math.h>
#include <string.h>

static void fill_number(double *flag, double value)
{
    if (isnan(*flag)) {
        *flag = value;
    }
}

/* Without a ratio that was asked for the plan's are none: that one is missing is not for a preset to hide. */
static void fill_choices(esp_cli_plan_flags *flags, const esp_plan *plan, bool has_ratios)
{
    bool is_sg = plan->method == ESP_METHOD_SG;
    if (is_sg && !flags->groups) {
        flags->groups = plan->groups;
    }
    if (!has_ratios) {
        return;
    }
    fill_number(&flags->conv_ratio, plan->conv_ratio);
    fill_number(&flags->fc_ratio, plan->fc_ratio);
    if (!is_sg) {
        fill_number(&flags->border_ratio, plan->border_ratio);
    }
}

esp_status esp_cli_preset_fill(const char *preset, esp_cli_plan_flags *flags, esp_gradual *schedule,
                               esp_train_options *training, esp_error *err)
{
    esp_gradual unused;
    esp_plan plan;
    if (!preset) {
        return ESP_OK;
    }
    if (flags->path) {
        return esp_fail(err, ESP_INVALID, "--plan and --preset: found both, expected one");
    }
    esp_status status = esp_gradual_preset(preset, isnan(flags->ratio) ? 0 : flags->ratio,
                                           schedule ? schedule : &unused, &plan, training, err);
    if (status != ESP_OK) {
        return status;
    }
    const char *method = esp_method_word(plan.method);
    if (flags->method && strcmp(flags->method, method) != 0) {
        esp_plan_free(&plan);
        return esp_fail(err, ESP_INVALID, "--preset %s is of method %s, found --method %s", preset, method,
                        flags->method);
    }
    flags->method = method;
    flags->mode = flags->mode ? flags->mode : esp_mode_word(plan.mode);
    fill_choices(flags, &plan, !isnan(flags->ratio) || esp_preset_keeps_masks(preset));
    esp_plan_free(&plan);
    return ESP_OK;
}
