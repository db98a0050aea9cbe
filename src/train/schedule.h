/* Learning-rate schedules as plain data. */
#ifndef ESP_TRAIN_SCHEDULE_H
#define ESP_TRAIN_SCHEDULE_H

#include "base/status.h"

#define ESP_SCHEDULE_MAX_STEPS 16

/* One list. Columns: NAME, word. */
#define ESP_SCHEDULE_LIST(X)                                                                                 \
    X(CONSTANT, "constant")                                                                                  \
    X(STEP, "step")     /* lr * gamma^(number of milestones passed) */                                       \
    X(COSINE, "cosine") /* half a cosine from lr to 0 over all steps */

typedef enum esp_schedule_kind {
#define ESP_SCHEDULE_ENUM(name, word) ESP_SCHEDULE_##name,
    ESP_SCHEDULE_LIST(ESP_SCHEDULE_ENUM)
#undef ESP_SCHEDULE_ENUM
} esp_schedule_kind;

typedef struct esp_schedule {
    esp_schedule_kind kind;
    double lr;    /* > 0 */
    double gamma; /* step: 0.1 unless told */
    int milestone_count;
    /* step: epochs, ascending; fractions of an epoch are allowed. None means one and two thirds of all
     * epochs, the proportions of the published 30 and 60 of 90. */
    double milestones[ESP_SCHEDULE_MAX_STEPS];
    double warmup_epochs; /* linear from 0; 0 = none */
} esp_schedule;

esp_status esp_schedule_check(const esp_schedule *schedule, esp_error *err);

/* Learning rate at `epoch` (fractional: 2.5 = half-way through the third) of `epochs`. */
double esp_schedule_lr(const esp_schedule *schedule, double epoch, double epochs);

/* "step", "cosine", ... to kind; unknown words name the nearest. */
esp_status esp_schedule_parse_kind(const char *word, esp_schedule_kind *out, esp_error *err);
const char *esp_schedule_word(esp_schedule_kind kind);

#endif
