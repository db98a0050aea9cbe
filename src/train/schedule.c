/* Learning-rate schedules. A schedule is a pure function of the position in epochs, so resuming or a
 * fractional epoch needs no state; only a plateau has some, and that lies with the caller. Warm-up is a line
 * from 0 to where the schedule starts; cosine and one-cycle then span what is left, exponential counts from
 * there, and steps count whole epochs of training all the same.
 *
 * A part of a sequence is a schedule of its own over its own epochs. */
#include "train/schedule.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/unknown.h"

static const char *const schedule_words[] = {
#define ESP_SCHEDULE_WORD(name, word, gamma, help) word,
    ESP_SCHEDULE_LIST(ESP_SCHEDULE_WORD)
#undef ESP_SCHEDULE_WORD
};

static const double schedule_gammas[] = {
#define ESP_SCHEDULE_GAMMA(name, word, gamma, help) gamma,
    ESP_SCHEDULE_LIST(ESP_SCHEDULE_GAMMA)
#undef ESP_SCHEDULE_GAMMA
};

#define SCHEDULE_COUNT (sizeof(schedule_words) / sizeof(schedule_words[0]))

esp_schedule esp_schedule_make(esp_schedule_kind kind, double lr)
{
    return (esp_schedule){
        .kind = kind,
        .lr = lr,
        .gamma = (size_t)kind < SCHEDULE_COUNT ? schedule_gammas[kind] : 0.1,
        .rise = 0.3,
        .start_divisor = 25.0,
        .end_divisor = 1e4,
        .patience = 10,
        .threshold = 1e-4,
    };
}

/* ---- checks ---- */

static esp_status check_milestones(const esp_schedule *schedule, esp_error *err)
{
    if (schedule->milestone_count < 0 || schedule->milestone_count > ESP_SCHEDULE_MAX_STEPS) {
        return esp_fail(err, ESP_INVALID, "schedule: %d milestones, expected 0 to %d",
                        schedule->milestone_count, ESP_SCHEDULE_MAX_STEPS);
    }
    if (schedule->kind == ESP_SCHEDULE_MULTISTEP && schedule->milestone_count == 0) {
        return esp_fail(err, ESP_INVALID, "schedule: multistep without milestones, expected epochs");
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

static esp_status check_number(const char *what, double value, bool is_good, const char *expected,
                               esp_error *err)
{
    return isfinite(value) && is_good
               ? ESP_OK
               : esp_fail(err, ESP_INVALID, "schedule: %s %g, expected %s", what, value, expected);
}

static esp_status check_cycle(const esp_schedule *schedule, esp_error *err)
{
    esp_status status = check_number("rise", schedule->rise, schedule->rise > 0.0 && schedule->rise < 1.0,
                                     "a share of all steps between 0 and 1", err);
    if (status == ESP_OK) {
        status = check_number("start_divisor", schedule->start_divisor, schedule->start_divisor >= 1.0,
                              "at least 1", err);
    }
    return status == ESP_OK ? check_number("end_divisor", schedule->end_divisor, schedule->end_divisor >= 1.0,
                                           "at least 1", err)
                            : status;
}

static esp_status check_plateau(const esp_schedule *schedule, esp_error *err)
{
    esp_status status =
        check_number("patience", schedule->patience, schedule->patience >= 0, "validations >= 0", err);
    if (status == ESP_OK) {
        status =
            check_number("cooldown", schedule->cooldown, schedule->cooldown >= 0, "validations >= 0", err);
    }
    return status == ESP_OK ? check_number("threshold", schedule->threshold,
                                           schedule->threshold >= 0.0 && schedule->threshold < 1.0,
                                           "a share in [0, 1)", err)
                            : status;
}

static esp_status check_parts(const esp_schedule *schedule, esp_error *err)
{
    if (schedule->part_count < 1 || schedule->part_count > ESP_SCHEDULE_MAX_PARTS) {
        return esp_fail(err, ESP_INVALID, "schedule: a sequence of %d parts, expected 1 to %d",
                        schedule->part_count, ESP_SCHEDULE_MAX_PARTS);
    }
    for (int i = 0; i < schedule->part_count; i++) {
        double span = schedule->parts[i].span;
        bool is_last = i == schedule->part_count - 1;
        esp_status status = esp_schedule_check(&schedule->parts[i], err);
        if (status == ESP_OK && (!isfinite(span) || span < 0.0 || (span == 0.0 && !is_last))) {
            status = esp_fail(err, ESP_INVALID, "schedule: %g epochs, expected a number > 0", span);
        }
        if (status != ESP_OK) {
            esp_error_prefix(err, "part %d of %d", i + 1, schedule->part_count);
            return status;
        }
    }
    return ESP_OK;
}

static bool has_gamma(esp_schedule_kind kind)
{
    return kind == ESP_SCHEDULE_STEP || kind == ESP_SCHEDULE_MULTISTEP || kind == ESP_SCHEDULE_EXPONENTIAL ||
           kind == ESP_SCHEDULE_PLATEAU;
}

static esp_status check_common(const esp_schedule *schedule, esp_error *err)
{
    if (!isfinite(schedule->lr) || schedule->lr <= 0.0) {
        return esp_fail(err, ESP_INVALID, "schedule: learning rate %g, expected a number > 0", schedule->lr);
    }
    if (!isfinite(schedule->warmup_epochs) || schedule->warmup_epochs < 0.0) {
        return esp_fail(err, ESP_INVALID, "schedule: warm-up of %g epochs, expected a number >= 0",
                        schedule->warmup_epochs);
    }
    if (has_gamma(schedule->kind) && (!isfinite(schedule->gamma) || schedule->gamma <= 0.0)) {
        return esp_fail(err, ESP_INVALID, "schedule: gamma %g, expected a number > 0", schedule->gamma);
    }
    esp_status status =
        check_number("min_lr", schedule->min_lr, schedule->min_lr >= 0.0 && schedule->min_lr <= schedule->lr,
                     "a rate from 0 to lr", err);
    return status == ESP_OK
               ? check_number("every", schedule->every, schedule->every >= 0.0, "epochs >= 0", err)
               : status;
}

esp_status esp_schedule_check(const esp_schedule *schedule, esp_error *err)
{
    if ((size_t)schedule->kind >= SCHEDULE_COUNT) {
        return esp_fail(err, ESP_INVALID, "schedule: unknown kind %d", (int)schedule->kind);
    }
    esp_status status = check_common(schedule, err);
    if (status != ESP_OK) {
        return status;
    }
    switch (schedule->kind) {
    case ESP_SCHEDULE_STEP:
    case ESP_SCHEDULE_MULTISTEP:
        return check_milestones(schedule, err);
    case ESP_SCHEDULE_ONECYCLE:
        return check_cycle(schedule, err);
    case ESP_SCHEDULE_PLATEAU:
        return check_plateau(schedule, err);
    case ESP_SCHEDULE_SEQUENCE:
        return check_parts(schedule, err);
    default:
        return ESP_OK;
    }
}

/* ---- rates, as factors of lr ---- */

static double step_factor(const esp_schedule *schedule, double epoch, double epochs)
{
    double factor = 1.0;
    if (schedule->every > 0.0) {
        return pow(schedule->gamma, floor(epoch / schedule->every));
    }
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

/* How much of what comes after the warm-up is done, 0 to 1; 0 when nothing comes after it. */
static double share_done(const esp_schedule *schedule, double epoch, double epochs)
{
    double span = epochs - schedule->warmup_epochs;
    if (span <= 0.0) {
        return 0.0;
    }
    double done = (epoch - schedule->warmup_epochs) / span;
    return fmin(fmax(done, 0.0), 1.0);
}

/* From 1 to 0 along half a cosine. */
static double half_cosine(double done)
{
    return 0.5 * (1.0 + cos(acos(-1.0) * done));
}

static double cosine_factor(const esp_schedule *schedule, double epoch, double epochs)
{
    double lowest = schedule->min_lr / schedule->lr;
    return lowest + (1.0 - lowest) * half_cosine(share_done(schedule, epoch, epochs));
}

static double exponential_factor(const esp_schedule *schedule, double epoch)
{
    return pow(schedule->gamma, floor(fmax(epoch - schedule->warmup_epochs, 0.0)));
}

static double cycle_factor(const esp_schedule *schedule, double epoch, double epochs)
{
    double done = share_done(schedule, epoch, epochs), rise = schedule->rise;
    double low = 1.0 / schedule->start_divisor, end = low / schedule->end_divisor;
    return done < rise ? low + (1.0 - low) * (1.0 - half_cosine(done / rise))
                       : end + (1.0 - end) * half_cosine((done - rise) / (1.0 - rise));
}

/* The part that runs at `epoch`; sets where it starts and how long it is. */
static int find_part(const esp_schedule *schedule, double epoch, double epochs, double *start, double *span)
{
    double begin = 0.0;
    int last = schedule->part_count - 1;
    for (int i = 0; i < last; i++) {
        double end = begin + schedule->parts[i].span;
        if (epoch < end) {
            *start = begin;
            *span = schedule->parts[i].span;
            return i;
        }
        begin = end;
    }
    *start = begin;
    *span = schedule->parts[last].span > 0.0 ? schedule->parts[last].span : fmax(epochs - begin, 0.0);
    return last;
}

static double factor_of(const esp_schedule *schedule, const esp_plateau *plateau, double epoch, double epochs)
{
    switch (schedule->kind) {
    case ESP_SCHEDULE_STEP:
    case ESP_SCHEDULE_MULTISTEP:
        return step_factor(schedule, epoch, epochs);
    case ESP_SCHEDULE_COSINE:
        return cosine_factor(schedule, epoch, epochs);
    case ESP_SCHEDULE_EXPONENTIAL:
        return exponential_factor(schedule, epoch);
    case ESP_SCHEDULE_ONECYCLE:
        return cycle_factor(schedule, epoch, epochs);
    case ESP_SCHEDULE_PLATEAU:
        return fmax(plateau->factor, schedule->min_lr / schedule->lr);
    default:
        return 1.0;
    }
}

/* `plateau` counts for the part it is about; other parts have seen nothing yet. */
static double rate(const esp_schedule *schedule, const esp_plateau *plateau, int part, double epoch,
                   double epochs)
{
    double factor = 1.0;
    if (epoch < schedule->warmup_epochs) {
        factor = epoch / schedule->warmup_epochs;
    }
    if (schedule->kind == ESP_SCHEDULE_SEQUENCE) {
        double start = 0.0, span = 0.0;
        int index = find_part(schedule, epoch, epochs, &start, &span);
        const esp_schedule *inner = &schedule->parts[index];
        return factor * rate(inner, plateau, part * ESP_SCHEDULE_MAX_PARTS + index + 1, epoch - start, span);
    }
    const esp_plateau fresh = esp_plateau_start();
    factor *= factor_of(schedule, plateau->part == part ? plateau : &fresh, epoch, epochs);
    return schedule->lr * factor;
}

double esp_schedule_lr(const esp_schedule *schedule, double epoch, double epochs)
{
    const esp_plateau fresh = esp_plateau_start();
    return rate(schedule, &fresh, 0, epoch, epochs);
}

double esp_schedule_lr_after(const esp_schedule *schedule, const esp_plateau *plateau, double epoch,
                             double epochs)
{
    return rate(schedule, plateau, 0, epoch, epochs);
}

/* ---- plateaus ---- */

esp_plateau esp_plateau_start(void)
{
    return (esp_plateau){.factor = 1.0, .best = INFINITY};
}

/* The order of PyTorch's ReduceLROnPlateau. */
static void note_loss(const esp_schedule *schedule, esp_plateau *plateau, double loss)
{
    if (loss < plateau->best * (1.0 - schedule->threshold) || isinf(plateau->best)) {
        plateau->best = loss;
        plateau->bad = 0;
    } else {
        plateau->bad++;
    }
    if (plateau->cooldown > 0) {
        plateau->cooldown--;
        plateau->bad = 0;
    }
    if (plateau->bad > schedule->patience) {
        plateau->factor *= schedule->gamma;
        plateau->cooldown = schedule->cooldown;
        plateau->bad = 0;
    }
}

void esp_schedule_measured(const esp_schedule *schedule, esp_plateau *plateau, double epoch, double epochs,
                           double loss)
{
    int part = 0;
    double at =
        epoch > 0.5 ? epoch - 0.5 : 0.0; /* within the epoch that ended, not at the next part's start */
    while (schedule->kind == ESP_SCHEDULE_SEQUENCE) {
        double start = 0.0, span = 0.0;
        int index = find_part(schedule, at, epochs, &start, &span);
        part = part * ESP_SCHEDULE_MAX_PARTS + index + 1;
        schedule = &schedule->parts[index];
        at -= start;
        epochs = span;
    }
    if (schedule->kind != ESP_SCHEDULE_PLATEAU) {
        return;
    }
    if (plateau->part != part) {
        *plateau = esp_plateau_start();
        plateau->part = part;
    }
    note_loss(schedule, plateau, loss);
}

/* ---- words ---- */

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
