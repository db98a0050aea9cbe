/* The words of augmentation: one table, read by the parser, the text form, the checks and the errors. Most
 * words set one number; `jitter` sets three, `resized` and `ratio` set two, `flip` takes no value.
 *
 * Every kind of choice has a random stream of its own, so that switching one on leaves the others as they
 * were. */
#include "train/augmentation.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "base/unknown.h"

typedef enum word_kind { WORD_FLAG, WORD_COUNT, WORD_NUMBER, WORD_RANGE, WORD_JITTER } word_kind;

typedef struct word {
    const char *name;
    word_kind kind;
    size_t first, second; /* offsets of the fields; `second` for ranges */
    double least, most;
    bool excludes_least;
    const char *expected;
} word;

#define FIELD(name) offsetof(esp_augmentation, name)

static const word words[] = {
    {"crop", WORD_COUNT, FIELD(crop_padding), 0, 0, 4096, false, "a whole number of pixels, 0 to 4096"},
    {"flip", WORD_FLAG, FIELD(flips), 0, 0, 1, false, "no value"},
    {"resized", WORD_RANGE, FIELD(least_area), FIELD(most_area), 0, 1, true,
     "shares of the area such as 0.08 or 0.08:1, above 0, at most 1"},
    {"ratio", WORD_RANGE, FIELD(least_ratio), FIELD(most_ratio), 0, 100, true,
     "width to height such as 0.75:1.3333, above 0, at most 100"},
    {"jitter", WORD_JITTER, 0, 0, 0, 100, false, "a number, 0 to 100"},
    {"brightness", WORD_NUMBER, FIELD(brightness), 0, 0, 100, false, "a number, 0 to 100"},
    {"contrast", WORD_NUMBER, FIELD(contrast), 0, 0, 100, false, "a number, 0 to 100"},
    {"saturation", WORD_NUMBER, FIELD(saturation), 0, 0, 100, false, "a number, 0 to 100"},
    {"hue", WORD_NUMBER, FIELD(hue), 0, 0, 0.5, false, "a number, 0 to 0.5"},
    {"cutout", WORD_COUNT, FIELD(cutout), 0, 0, 65535, false, "a whole number of pixels, 0 to 65535"},
    {"mixup", WORD_NUMBER, FIELD(mixup), 0, 0, 100, false, "a number, 0 to 100"},
};
enum { WORD_TOTAL = sizeof words / sizeof words[0] };

static double *number_at(esp_augmentation *augmentation, size_t offset)
{
    return (double *)(void *)((char *)augmentation + offset);
}

static double number_of(const esp_augmentation *augmentation, size_t offset)
{
    return *(const double *)(const void *)((const char *)augmentation + offset);
}

static int *count_at(esp_augmentation *augmentation, size_t offset)
{
    return (int *)(void *)((char *)augmentation + offset);
}

static int count_of(const esp_augmentation *augmentation, size_t offset)
{
    return *(const int *)(const void *)((const char *)augmentation + offset);
}

const char *const *esp_augmentation_words(size_t *count)
{
    /* in the order of the table; a test holds them together */
    static const char *const names[] = {"crop",     "flip",       "resized", "ratio",  "jitter", "brightness",
                                        "contrast", "saturation", "hue",     "cutout", "mixup",  NULL};
    if (count != NULL) {
        *count = WORD_TOTAL;
    }
    return names;
}

/* ---- checks ---- */

static bool is_inside(const word *rule, double value)
{
    return isfinite(value) && value <= rule->most &&
           (rule->excludes_least ? value > rule->least : value >= rule->least);
}

/* Is the field (or range) of this word as it may be? An unset range is. */
static bool is_good(const word *rule, const esp_augmentation *augmentation)
{
    if (rule->kind == WORD_RANGE) {
        double low = number_of(augmentation, rule->first), high = number_of(augmentation, rule->second);
        return (low == 0.0 && high == 0.0) || (is_inside(rule, low) && is_inside(rule, high) && low <= high);
    }
    if (rule->kind == WORD_COUNT) {
        return is_inside(rule, (double)count_of(augmentation, rule->first));
    }
    return rule->kind != WORD_NUMBER || is_inside(rule, number_of(augmentation, rule->first));
}

static double shown_value(const word *rule, const esp_augmentation *augmentation)
{
    return rule->kind == WORD_COUNT ? (double)count_of(augmentation, rule->first)
                                    : number_of(augmentation, rule->first);
}

esp_status esp_augmentation_check(const esp_augmentation *augmentation, esp_error *err)
{
    for (int i = 0; i < WORD_TOTAL; i++) {
        if (!is_good(&words[i], augmentation)) {
            return esp_fail(err, ESP_INVALID, "augmentation: %s %g, expected %s", words[i].name,
                            shown_value(&words[i], augmentation), words[i].expected);
        }
    }
    return ESP_OK;
}

bool esp_augmentation_is_none(const esp_augmentation *augmentation)
{
    char text[ESP_AUGMENTATION_TEXT_MAX];
    return augmentation == NULL || esp_augmentation_text(augmentation, text, sizeof(text))[0] == '\0';
}

/* ---- parsing ---- */

static esp_status fail_value(const word *rule, const char *value, esp_error *err)
{
    return esp_fail(err, ESP_INVALID, "augmentation '%s': found '%s', expected %s", rule->name, value,
                    rule->expected);
}

static bool parse_range(const word *rule, char *value, esp_augmentation *out)
{
    char *colon = strchr(value, ':');
    double low = 0.0, high = rule->first == FIELD(least_area) ? 1.0 : 0.0;
    if (colon != NULL) {
        *colon = '\0';
    }
    bool is_number = esp_parse_f64(value, &low) && (colon == NULL || esp_parse_f64(colon + 1, &high));
    if (colon != NULL) {
        *colon = ':';
    } else if (high == 0.0) {
        high = low;
    }
    *number_at(out, rule->first) = low;
    *number_at(out, rule->second) = high;
    return is_number && is_inside(rule, low) && is_inside(rule, high) && low <= high;
}

static esp_status parse_value(const word *rule, char *value, esp_augmentation *out, esp_error *err)
{
    double number = 0.0;
    int64_t whole = 0;
    bool is_fine = value != NULL;
    switch (rule->kind) {
    case WORD_FLAG:
        out->flips = true;
        is_fine = value == NULL;
        break;
    case WORD_COUNT:
        is_fine = is_fine && esp_parse_i64(value, &whole) && is_inside(rule, (double)whole);
        *count_at(out, rule->first) = is_fine ? (int)whole : 0;
        break;
    case WORD_NUMBER:
        is_fine = is_fine && esp_parse_f64(value, &number) && is_inside(rule, number);
        *number_at(out, rule->first) = number;
        break;
    case WORD_RANGE:
        is_fine = is_fine && parse_range(rule, value, out);
        break;
    case WORD_JITTER:
        is_fine = is_fine && esp_parse_f64(value, &number) && is_inside(rule, number);
        out->brightness = out->contrast = out->saturation = number;
        break;
    }
    return is_fine ? ESP_OK : fail_value(rule, value == NULL ? "nothing" : value, err);
}

static esp_status parse_item(char *item, esp_augmentation *out, esp_error *err)
{
    char *value = strchr(item, '=');
    if (value != NULL) {
        *value++ = '\0';
    }
    for (int i = 0; i < WORD_TOTAL; i++) {
        if (strcmp(item, words[i].name) == 0) {
            return parse_value(&words[i], value, out, err);
        }
    }
    size_t count = 0;
    const char *const *names = esp_augmentation_words(&count);
    return esp_fail_unknown(err, "augmentation", item, names, count);
}

esp_status esp_augmentation_parse(const char *text, esp_augmentation *out, esp_error *err)
{
    esp_augmentation parsed = {0};
    if (text[0] == '\0' || strcmp(text, "none") == 0) {
        *out = parsed;
        return ESP_OK;
    }
    char *copy = esp_strdup(text);
    if (copy == NULL) {
        return esp_fail_memory(err, "an augmentation", strlen(text) + 1);
    }
    esp_status status = ESP_OK;
    for (char *item = copy; status == ESP_OK && item != NULL;) {
        char *comma = strchr(item, ',');
        if (comma != NULL) {
            *comma++ = '\0';
        }
        status = parse_item(item, &parsed, err);
        item = comma;
    }
    esp_free(copy);
    if (status == ESP_OK && parsed.most_area == 0.0 && parsed.most_ratio != 0.0) {
        status = esp_fail(err, ESP_INVALID, "augmentation 'ratio' says nothing without 'resized'");
    }
    if (status == ESP_OK) {
        *out = parsed;
    }
    return status;
}

/* ---- text ---- */

char *esp_augmentation_text(const esp_augmentation *augmentation, char *buffer, size_t size)
{
    size_t used = 0;
    buffer[0] = '\0';
    for (int i = 0; i < WORD_TOTAL && used < size; i++) {
        const word *rule = &words[i];
        const char *comma = used > 0 ? "," : "";
        int added = 0;
        if (rule->kind == WORD_FLAG && augmentation->flips) {
            added = snprintf(buffer + used, size - used, "%s%s", comma, rule->name);
        } else if (rule->kind == WORD_COUNT && count_of(augmentation, rule->first) != 0) {
            added = snprintf(buffer + used, size - used, "%s%s=%d", comma, rule->name,
                             count_of(augmentation, rule->first));
        } else if (rule->kind == WORD_NUMBER && number_of(augmentation, rule->first) != 0.0) {
            added = snprintf(buffer + used, size - used, "%s%s=%.9g", comma, rule->name,
                             number_of(augmentation, rule->first));
        } else if (rule->kind == WORD_RANGE && number_of(augmentation, rule->second) != 0.0) {
            added = snprintf(buffer + used, size - used, "%s%s=%.9g:%.9g", comma, rule->name,
                             number_of(augmentation, rule->first), number_of(augmentation, rule->second));
        }
        used += added > 0 ? (size_t)added : 0;
    }
    return buffer;
}

/* ---- choices ---- */

uint64_t esp_epoch_seed(uint64_t seed, uint64_t epoch)
{
    esp_rng rng;
    esp_rng_seed_stream(&rng, seed, epoch);
    return esp_rng_u64(&rng);
}

void esp_choice_seed(esp_rng *rng, uint64_t epoch_seed, esp_choice kind, uint32_t image)
{
    esp_rng_seed_stream(rng, epoch_seed, (uint64_t)kind << 32 | image);
}

/* Marsaglia and Tsang, "A simple method for generating gamma variables" (2000); shapes below 1 by their
 * note 6. */
static double gamma_variate(esp_rng *rng, double shape)
{
    double boost = 1.0;
    if (shape < 1.0) {
        boost = pow(1.0 - esp_rng_uniform(rng), 1.0 / shape);
        shape += 1.0;
    }
    double d = shape - 1.0 / 3.0, c = 1.0 / sqrt(9.0 * d);
    for (;;) {
        double x = esp_rng_normal(rng), v = 1.0 + c * x;
        double u = 1.0 - esp_rng_uniform(rng);
        v = v * v * v;
        if (v > 0.0 && log(u) < 0.5 * x * x + d - d * v + d * log(v)) {
            return boost * d * v;
        }
    }
}

double esp_mixup_share(const esp_augmentation *augmentation, uint64_t epoch_seed, uint32_t image)
{
    if (augmentation == NULL || augmentation->mixup <= 0.0) {
        return 1.0;
    }
    esp_rng rng;
    esp_choice_seed(&rng, epoch_seed, ESP_CHOICE_MIX, image);
    double a = gamma_variate(&rng, augmentation->mixup), b = gamma_variate(&rng, augmentation->mixup);
    return a + b > 0.0 ? a / (a + b) : (double)esp_rng_below(&rng, 2); /* both underflow: an end */
}
