/* Learning-rate schedules as plain data: kinds with their numbers, a warm-up in front of any, and sequences
 * of them. JSON and Lua tables of the same form: {"kind":"cosine","lr":0.1,"warmup":2}. */
#ifndef ESP_TRAIN_SCHEDULE_H
#define ESP_TRAIN_SCHEDULE_H

#include <jansson.h>
#include <stdint.h>

#include "base/status.h"

#define ESP_SCHEDULE_MAX_STEPS 16
#define ESP_SCHEDULE_MAX_PARTS 64

/* One list. Columns: NAME, word, gamma when none is given, what it does. */
#define ESP_SCHEDULE_LIST(X)                                                                                 \
    X(CONSTANT, "constant", 0.1, "the same rate throughout")                                                 \
    X(STEP, "step", 0.1, "lr * gamma^(milestones passed), or every N epochs")                                \
    X(COSINE, "cosine", 0.1, "half a cosine from lr to min_lr over all steps")                               \
    X(MULTISTEP, "multistep", 0.1, "step with milestones that must be given")                                \
    X(EXPONENTIAL, "exponential", 0.95, "lr * gamma^(whole epochs done)")                                    \
    X(ONECYCLE, "onecycle", 0.1, "up from lr/start_divisor to lr, then down to almost nothing")              \
    X(PLATEAU, "plateau", 0.1, "times gamma when the validation loss no longer falls")                       \
    X(SEQUENCE, "sequence", 0.1, "parts, one after the other")

typedef enum esp_schedule_kind {
#define ESP_SCHEDULE_ENUM(name, word, gamma, help) ESP_SCHEDULE_##name,
    ESP_SCHEDULE_LIST(ESP_SCHEDULE_ENUM)
#undef ESP_SCHEDULE_ENUM
} esp_schedule_kind;

typedef struct esp_schedule {
    esp_schedule_kind kind;
    double lr;    /* > 0 */
    double gamma; /* step, multistep, exponential, plateau: factor of a drop */
    int milestone_count;
    /* step: epochs, ascending; fractions of an epoch are allowed. None means one and two thirds of all
     * epochs, the proportions of the published 30 and 60 of 90. */
    double milestones[ESP_SCHEDULE_MAX_STEPS];
    double warmup_epochs; /* linear from 0; 0 = none */
    double every;         /* step: a drop every so many epochs instead of milestones; 0 = milestones */
    double min_lr;        /* cosine, plateau: never below */
    /* One-cycle (Smith and Topin 2018, cosine form): the rate rises from lr / start_divisor to lr during the
     * share `rise` of all steps and then falls to lr / start_divisor / end_divisor. */
    double rise, start_divisor, end_divisor;
    /* Plateau: a drop after more than `patience` validations in a row whose loss is not below the best by the
     * share `threshold`; then no counting during `cooldown` validations. */
    int patience;
    double threshold;
    int cooldown;
    double span; /* as a part of a sequence: epochs; 0 = what is left (the last part only) */
    int part_count;
    struct esp_schedule *parts; /* sequence; owned when it comes from esp_schedule_from_json */
} esp_schedule;

/* A kind with the numbers people mean when they say no others: gamma of the table, one-cycle 0.3, 25 and 1e4,
 * plateau with patience 10 and threshold 1e-4 (PyTorch's). */
esp_schedule esp_schedule_make(esp_schedule_kind kind, double lr);

/* Negative, infinite and NaN numbers, milestones that do not ascend, sequences that do not add up. */
esp_status esp_schedule_check(const esp_schedule *schedule, esp_error *err);

/* Learning rate at `epoch` (fractional: 2.5 = half-way through the third) of `epochs`, before any plateau. */
double esp_schedule_lr(const esp_schedule *schedule, double epoch, double epochs);

/* What a plateau has seen. Plain bytes: part of a checkpoint. */
typedef struct esp_plateau {
    double factor, best;
    int32_t bad, cooldown;
    int32_t part; /* which part of a sequence this is about */
    int32_t unused;
} esp_plateau;
esp_plateau esp_plateau_start(void);

/* The same with what was measured so far. */
double esp_schedule_lr_after(const esp_schedule *schedule, const esp_plateau *plateau, double epoch,
                             double epochs);

/* Tells of a validation loss after the epoch that ended at `epoch`; nothing happens unless the schedule (or
 * the part of it that is running) is a plateau. */
void esp_schedule_measured(const esp_schedule *schedule, esp_plateau *plateau, double epoch, double epochs,
                           double loss);

/* From {"kind":..., "lr":..., "gamma":..., "milestones":[...], "warmup":..., "every":..., "min_lr":...,
 * "rise":..., "start_divisor":..., "end_divisor":..., "patience":..., "threshold":..., "cooldown":...,
 * "epochs":... (of a part), "parts":[...]}. What is missing is as esp_schedule_make has it; a missing lr is
 * `lr`, of a part that of its sequence. Unknown keys name the nearest. Checked. Release with
 * esp_schedule_free. */
esp_status esp_schedule_from_json(const json_t *json, double lr, esp_schedule *out, esp_error *err);
json_t *esp_schedule_to_json(const esp_schedule *schedule); /* new reference; NULL: memory is out */
esp_status esp_schedule_copy(const esp_schedule *schedule, esp_schedule *out, esp_error *err);
void esp_schedule_free(esp_schedule *schedule); /* releases the parts; NULL is allowed */

/* "step", "cosine", ... to kind; unknown words name the nearest. */
esp_status esp_schedule_parse_kind(const char *word, esp_schedule_kind *out, esp_error *err);
const char *esp_schedule_word(esp_schedule_kind kind);

/* A learning rate by the caller's own rule, at `epoch` (fractional, from 0) and `step` (from 0). It must
 * depend on these two alone: a training that is resumed asks again from where it stands. A rate that is
 * negative or not finite stops the training. */
typedef esp_status esp_lr_fn(void *user, double epoch, int64_t step, double *lr, esp_error *err);

#endif
