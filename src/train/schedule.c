/* Learning-rate schedules. A schedule is a pure function of the position in epochs, so resuming or a
 * fractional epoch needs no state. Warm-up is a line from 0 to where the schedule starts; the cosine then
 * spans what is left. */
#include "train/schedule.h"

#include <math.h>
#include <string.h>

#include "base/unknown.h"

static const char *const schedule_words[] = {
#define ESP_SCHEDULE_WORD(name, word) word,
    ESP_SCHEDULE_LIST(ESP_SCHEDULE_WORD)
#undef ESP_SCHEDULE_WORD
};

#define SCHEDULE_COUNT (sizeof(schedule_words) / sizeof(schedule_words[0]))

static esp_status check_milestones(const esp_schedule *schedule, esp_error *err)
{
    if (schedule->milestone_count < 0 || schedule->milestone_count > ESP_SCHEDULE_MAX_STEPS) {
        return esp_fail(err, ESP_INVALID, "schedule: %d milestones, expected 0 to %d",
                        schedule->milestone_count, ESP_SCHEDULE_MAX_STEPS);
    }
    double previous = 0.0;
    for (int i = 0; i < schedule->milestone_count; i++) {
        double milestone = schedule->milestones[i];
        if (!isfinite(milestone) || milestone < 0.0) {
            return esp_fail(err, ESP_INVALID, "schedule: milestone %d is %g, expected an epoch >= 0", i + 1,
                            milestone);
        }
        if (i > 0 && milestone <= previous) {
            return esp_fail(err, ESP_INVALID, "schedule: milestone %g after %g, expected ascending epochs",
                            milestone, previous);
        }
        previous = milestone;
    }
    return ESP_OK;
}

esp_status esp_schedule_check(const esp_schedule *schedule, esp_error *err)
{
    if ((size_t)schedule->kind >= SCHEDULE_COUNT) {
        return esp_fail(err, ESP_INVALID, "schedule: unknown kind %d", (int)schedule->kind);
    }
    if (!isfinite(schedule->lr) || schedule->lr <= 0.0) {
        return esp_fail(err, ESP_INVALID, "schedule: learning rate %g, expected a number > 0", schedule->lr);
    }
    if (!isfinite(schedule->warmup_epochs) || schedule->warmup_epochs < 0.0) {
        return esp_fail(err, ESP_INVALID, "schedule: warm-up of %g epochs, expected a number >= 0",
                        schedule->warmup_epochs);
    }
    if (schedule->kind != ESP_SCHEDULE_STEP) {
        return ESP_OK;
    }
    if (!isfinite(schedule->gamma) || schedule->gamma <= 0.0) {
        return esp_fail(err, ESP_INVALID, "schedule: gamma %g, expected a number > 0", schedule->gamma);
    }
    return check_milestones(schedule, err);
}

static double step_factor(const esp_schedule *schedule, double epoch, double epochs)
{
    double factor = 1.0;
    if (schedule->milestone_count == 0) {
        factor *= epoch >= epochs / 3.0 ? schedule->gamma : 1.0;
        factor *= epoch >= epochs * 2.0 / 3.0 ? schedule->gamma : 1.0;
    }
    for (int i = 0; i < schedule->milestone_count; i++) {
        if (epoch >= schedule->milestones[i]) {
            factor *= schedule->gamma;
        }
    }
    return factor;
}

static double cosine_factor(const esp_schedule *schedule, double epoch, double epochs)
{
    double span = epochs - schedule->warmup_epochs;
    if (span <= 0.0) {
        return 1.0;
    }
    double done = (epoch - schedule->warmup_epochs) / span;
    done = fmin(fmax(done, 0.0), 1.0);
    return 0.5 * (1.0 + cos(acos(-1.0) * done));
}

double esp_schedule_lr(const esp_schedule *schedule, double epoch, double epochs)
{
    double factor = 1.0;
    if (epoch < schedule->warmup_epochs) {
        factor = epoch / schedule->warmup_epochs;
    }
    if (schedule->kind == ESP_SCHEDULE_STEP) {
        factor *= step_factor(schedule, epoch, epochs);
    } else if (schedule->kind == ESP_SCHEDULE_COSINE) {
        factor *= cosine_factor(schedule, epoch, epochs);
    }
    return schedule->lr * factor;
}

esp_status esp_schedule_parse_kind(const char *word, esp_schedule_kind *out, esp_error *err)
{
    for (size_t i = 0; i < SCHEDULE_COUNT; i++) {
        if (strcmp(word, schedule_words[i]) == 0) {
            *out = (esp_schedule_kind)i;
            return ESP_OK;
        }
    }
    return esp_fail_unknown(err, "schedule", word, schedule_words, SCHEDULE_COUNT);
}

const char *esp_schedule_word(esp_schedule_kind kind)
{
    return (size_t)kind < SCHEDULE_COUNT ? schedule_words[kind] : "?";
}
