/* The table of fields, and what can be done with a field without knowing which it is. */
#include "study/finetune.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "base/unknown.h"

/* ---- words of choices ---- */

static const char *optimizer_word(int value)
{
    return esp_optimizer_word((esp_optimizer_kind)value);
}

static const char *schedule_word(int value)
{
    return esp_schedule_word((esp_schedule_kind)value);
}

static const char *norm_word(int value)
{
    return esp_norm_mode_word((esp_norm_mode)value);
}

static const int optimizers[] = {
#define OPTIMIZER_OF(name, word, memory, lr, step) ESP_OPTIMIZER_##name,
    ESP_OPTIMIZER_LIST(OPTIMIZER_OF)
#undef OPTIMIZER_OF
};

/* Those that a word is enough for. */
static const int schedules[] = {ESP_SCHEDULE_COSINE,      ESP_SCHEDULE_CONSTANT, ESP_SCHEDULE_STEP,
                                ESP_SCHEDULE_EXPONENTIAL, ESP_SCHEDULE_ONECYCLE, ESP_SCHEDULE_PLATEAU};

static const int norms[] = {
#define NORM_OF(name, word) ESP_NORM_MODE_##name,
    ESP_NORM_MODE_LIST(NORM_OF)
#undef NORM_OF
};

/* ---- steps ---- */

static const double epoch_steps[] = {0.25, 0.5, 1,  2,  3,  4,  5,  6,   8,   10, 12,
                                     15,   20,  30, 40, 50, 60, 90, 100, 150, 200};
static const double rate_steps[] = {1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3,
                                    5e-3, 0.01, 0.02, 0.05, 0.1,  0.2,  0.5,  1};
static const double batch_steps[] = {8, 16, 32, 64, 128, 256, 512, 1024};
static const double decay_steps[] = {0,    1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4,
                                     1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1};
static const double crop_steps[] = {0, 1, 2, 3, 4, 6, 8, 12, 16, 32};
static const double smoothing_steps[] = {0, 0.05, 0.1, 0.15, 0.2, 0.3};
static const double ema_steps[] = {0, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999};
static const double patience_steps[] = {0, 1, 2, 3, 5, 10, 20, 50};
static const double share_steps[] = {0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5};
static const double interval_steps[] = {0, 10, 30, 60, 120, 300, 600, 1800};
static const double warmup_steps[] = {0, 0.25, 0.5, 1, 2, 3, 5, 10};
static const double limit_steps[] = {0, 500, 1000, 2000, 5000, 10000, 20000, 50000};

#define USUAL         (-1.0) /* what the word `usual` of a number stands for */
#define COUNT(array)  (int)(sizeof(array) / sizeof *(array))
#define STEPS(array)  .steps = array, .step_count = COUNT(array)
#define CHOICE(array) .values = array, .step_count = COUNT(array)
#define AT(member)    offsetof(esp_finetune, member)

static const esp_finetune_field fields[] = {
    {.key = "epochs",
     .title = "epochs",
     .help = "how often each image is seen; 0.25 is a quarter of the images",
     .kind = ESP_FIELD_REAL,
     .offset = AT(epochs),
     .least = 0,
     .most = 10000,
     .is_above = true,
     STEPS(epoch_steps)},
    {.key = "lr",
     .title = "learning rate",
     .help = "at its highest; usual is the optimizer's own",
     .kind = ESP_FIELD_REAL,
     .offset = AT(lr),
     .least = 0,
     .most = 100,
     .is_above = true,
     .nothing = "usual",
     STEPS(rate_steps)},
    {.key = "optimizer",
     .title = "optimizer",
     .help = "sgd with momentum 0.9, adam or adamw",
     .kind = ESP_FIELD_CHOICE,
     .offset = AT(optimizer),
     .word = optimizer_word,
     CHOICE(optimizers)},
    {.key = "schedule",
     .title = "schedule",
     .help = "how the learning rate goes on from there",
     .kind = ESP_FIELD_CHOICE,
     .offset = AT(schedule),
     .word = schedule_word,
     CHOICE(schedules)},
    {.key = "batch",
     .title = "batch",
     .help = "images per step",
     .kind = ESP_FIELD_INT,
     .offset = AT(batch),
     .least = 1,
     .most = 65536,
     STEPS(batch_steps)},
    {.key = "weight_decay",
     .title = "weight decay",
     .help = "pulls weights towards 0",
     .kind = ESP_FIELD_REAL,
     .offset = AT(weight_decay),
     .least = 0,
     .most = 1,
     STEPS(decay_steps)},
    {.key = "crop",
     .title = "random crop",
     .help = "from images padded by so many pixels",
     .kind = ESP_FIELD_INT,
     .offset = AT(crop),
     .least = 0,
     .most = 64,
     .nothing = "off",
     STEPS(crop_steps)},
    {.key = "flip",
     .title = "random flip",
     .help = "mirrors every second image, left to right",
     .kind = ESP_FIELD_FLAG,
     .offset = AT(flips)},
    {.key = "label_smoothing",
     .title = "label smoothing",
     .help = "share of each target that is spread over all classes",
     .kind = ESP_FIELD_REAL,
     .offset = AT(label_smoothing),
     .least = 0,
     .most = 1,
     .is_below = true,
     .nothing = "off",
     STEPS(smoothing_steps)},
    {.key = "distilled",
     .title = "distil",
     .help = "learn from the version that was opened, too",
     .kind = ESP_FIELD_FLAG,
     .offset = AT(distils)},
    {.key = "norm",
     .title = "batch-norm",
     .help = "by the batch, frozen, or measured again before each validation",
     .kind = ESP_FIELD_CHOICE,
     .offset = AT(norm),
     .word = norm_word,
     CHOICE(norms)},
    {.key = "freeze",
     .title = "freeze",
     .help = "layers that stay as they are: names, with * and blanks between",
     .kind = ESP_FIELD_TEXT,
     .offset = AT(freeze),
     .nothing = "nothing"},
    {.key = "ema",
     .title = "average (EMA)",
     .help = "of the weights, by this factor per step; it is what is measured and kept",
     .kind = ESP_FIELD_REAL,
     .offset = AT(ema),
     .least = 0,
     .most = 1,
     .is_below = true,
     .nothing = "off",
     STEPS(ema_steps)},
    {.key = "patience",
     .title = "stop early",
     .help = "after so many epochs without a lower validation loss",
     .kind = ESP_FIELD_INT,
     .offset = AT(patience),
     .least = 0,
     .most = 100000,
     .nothing = "never",
     STEPS(patience_steps)},
    {.key = "validation",
     .title = "validation",
     .help = "share of the training images held back, test, or usual: the data's own, else 0.1",
     .kind = ESP_FIELD_REAL,
     .offset = AT(validation),
     .least = 0,
     .most = 1,
     .is_above = true,
     .is_below = true,
     .nothing = "test",
     .usual = "usual",
     STEPS(share_steps)},
    {.key = "checkpoint_seconds",
     .title = "checkpoint",
     .help = "seconds between two, to go on from after a crash; epochs: only after each",
     .kind = ESP_FIELD_REAL,
     .offset = AT(checkpoint_seconds),
     .least = 0.01,
     .most = 1e6,
     .nothing = "epochs",
     STEPS(interval_steps)},
    {.key = "warmup",
     .title = "warm-up",
     .help = "epochs in which the learning rate rises from 0",
     .kind = ESP_FIELD_REAL,
     .offset = AT(warmup),
     .least = 0,
     .most = 10000,
     .nothing = "off",
     STEPS(warmup_steps)},
    {.key = "train_limit",
     .title = "images per epoch",
     .help = "chosen anew each epoch",
     .kind = ESP_FIELD_INT,
     .offset = AT(train_limit),
     .least = 0,
     .most = 1e9,
     .nothing = "all",
     STEPS(limit_steps)},
    {.key = "seed",
     .title = "seed",
     .help = "of the order of images, of random crops, of the images held back",
     .kind = ESP_FIELD_INT,
     .offset = AT(seed),
     .least = 0,
     .most = 1e15},
};

enum { FIELD_COUNT = sizeof fields / sizeof *fields };

const esp_finetune_field *esp_finetune_fields(int *count)
{
    *count = FIELD_COUNT;
    return fields;
}

int esp_finetune_find(const char *key)
{
    for (int i = 0; i < FIELD_COUNT; i++)
        if (strcmp(fields[i].key, key) == 0)
            return i;
    return -1;
}

esp_finetune esp_finetune_defaults(void)
{
    const esp_train_options usual = esp_train_defaults();

    return (esp_finetune){.epochs = 2,
                          .optimizer = (int)usual.optimizer,
                          .schedule = (int)usual.schedule.kind,
                          .batch = 128,
                          .weight_decay = usual.weight_decay,
                          .validation = ESP_VALIDATION_USUAL,
                          .checkpoint_seconds = 60};
}

double esp_finetune_lr(const esp_finetune *options)
{
    return options->lr > 0 ? options->lr : esp_optimizer_default_lr((esp_optimizer_kind)options->optimizer);
}

bool esp_finetune_is_on_test(const esp_finetune *options)
{
    return options->validation == 0;
}

double esp_finetune_share(const esp_finetune *options)
{
    return options->validation < 0 ? ESP_VALIDATION_SHARE : options->validation;
}

/* ---- access ---- */

static const void *member(const esp_finetune *options, const esp_finetune_field *field)
{
    return (const char *)options + field->offset;
}

static double number_of(const esp_finetune *options, const esp_finetune_field *field)
{
    double real;
    int64_t whole;

    if (field->kind == ESP_FIELD_REAL) {
        memcpy(&real, member(options, field), sizeof real);
        return real;
    }
    memcpy(&whole, member(options, field), sizeof whole);
    return (double)whole;
}

static void set_number(esp_finetune *options, const esp_finetune_field *field, double number)
{
    char *target = (char *)options + field->offset;
    int64_t whole = (int64_t)number;

    if (field->kind == ESP_FIELD_REAL)
        memcpy(target, &number, sizeof number);
    else
        memcpy(target, &whole, sizeof whole);
}

static bool is_on(const esp_finetune *options, const esp_finetune_field *field)
{
    return *(const bool *)member(options, field);
}

static int choice_of(const esp_finetune *options, const esp_finetune_field *field)
{
    return *(const int *)member(options, field);
}

static bool is_number(const esp_finetune_field *field)
{
    return field->kind == ESP_FIELD_REAL || field->kind == ESP_FIELD_INT;
}

/* ---- as text ---- */

char *esp_finetune_text(const esp_finetune *options, int index, char *buffer, size_t size)
{
    const esp_finetune_field *field = &fields[index];

    if (is_number(field) && field->usual && number_of(options, field) < 0)
        snprintf(buffer, size, "%s", field->usual);
    else if (is_number(field) && field->nothing && !(number_of(options, field) > 0))
        snprintf(buffer, size, "%s", field->nothing);
    else if (field->kind == ESP_FIELD_INT)
        snprintf(buffer, size, "%.0f", number_of(options, field));
    else if (field->kind == ESP_FIELD_REAL)
        snprintf(buffer, size, "%.6g", number_of(options, field));
    else if (field->kind == ESP_FIELD_FLAG)
        snprintf(buffer, size, "%s", is_on(options, field) ? "yes" : "no");
    else if (field->kind == ESP_FIELD_CHOICE)
        snprintf(buffer, size, "%s", field->word(choice_of(options, field)));
    else
        snprintf(buffer, size, "%s", (const char *)member(options, field));
    return buffer;
}

/* "above 0, up to 100, or usual" */
static void describe_range(const esp_finetune_field *field, char *text, size_t size)
{
    int used = field->is_above ? snprintf(text, size, "above %.15g", field->least)
                               : snprintf(text, size, "%.15g", field->least);

    used += snprintf(text + used, size - (size_t)used, field->is_below ? ", below %.15g" : " to %.15g",
                     field->most);
    if (field->usual)
        used += snprintf(text + used, size - (size_t)used, ", %s", field->usual);
    if (field->nothing)
        snprintf(text + used, size - (size_t)used, ", or %s", field->nothing);
}

static esp_status set_from_number(esp_finetune *options, const esp_finetune_field *field, double number,
                                  const char *text, esp_error *err)
{
    char range[64];
    bool is_low = field->is_above ? !(number > field->least) : !(number >= field->least);
    bool is_high = field->is_below ? !(number < field->most) : !(number <= field->most);
    bool is_whole = field->kind == ESP_FIELD_REAL || number == floor(number);

    if (isfinite(number) && !is_low && !is_high && is_whole) {
        set_number(options, field, number);
        return ESP_OK;
    }
    describe_range(field, range, sizeof range);
    return esp_fail(err, ESP_INVALID, "%s '%s', expected a%s number %s", field->title, text,
                    field->kind == ESP_FIELD_INT ? " whole" : "", range);
}

static esp_status set_choice(esp_finetune *options, const esp_finetune_field *field, const char *text,
                             esp_error *err)
{
    const char *words[16];

    for (int i = 0; i < field->step_count; i++) {
        words[i] = field->word(field->values[i]);
        if (strcmp(words[i], text) != 0)
            continue;
        memcpy((char *)options + field->offset, &field->values[i], sizeof(int));
        return ESP_OK;
    }
    return esp_fail_unknown(err, field->title, text, words, (size_t)field->step_count);
}

static esp_status set_flag(esp_finetune *options, const esp_finetune_field *field, const char *text,
                           esp_error *err)
{
    bool is_yes = strcmp(text, "yes") == 0;

    if (!is_yes && strcmp(text, "no") != 0)
        return esp_fail(err, ESP_INVALID, "%s '%s', expected yes or no", field->title, text);
    memcpy((char *)options + field->offset, &is_yes, sizeof is_yes);
    return ESP_OK;
}

static esp_status set_text(esp_finetune *options, const esp_finetune_field *field, const char *text,
                           esp_error *err)
{
    char *target = (char *)options + field->offset;

    if (strlen(text) >= ESP_FINETUNE_TEXT)
        return esp_fail(err, ESP_INVALID, "%s: longer than %d letters", field->title, ESP_FINETUNE_TEXT - 1);
    memset(target, 0, ESP_FINETUNE_TEXT);
    memcpy(target, text, strlen(text));
    return ESP_OK;
}

esp_status esp_finetune_set(esp_finetune *options, int index, const char *text, esp_error *err)
{
    const esp_finetune_field *field = &fields[index];
    double number = NAN;

    if (field->kind == ESP_FIELD_CHOICE)
        return set_choice(options, field, text, err);
    if (field->kind == ESP_FIELD_FLAG)
        return set_flag(options, field, text, err);
    if (field->kind == ESP_FIELD_TEXT)
        return set_text(options, field, text, err);
    if (field->nothing && strcmp(text, field->nothing) == 0) {
        set_number(options, field, 0);
        return ESP_OK;
    }
    if (field->usual && strcmp(text, field->usual) == 0) {
        set_number(options, field, USUAL);
        return ESP_OK;
    }
    if (!esp_parse_f64(text, &number))
        number = NAN;
    return set_from_number(options, field, number, text, err);
}

/* ---- stepping ---- */

static int place_of(const esp_finetune_field *field, int value)
{
    for (int i = 0; i < field->step_count; i++)
        if (field->values[i] == value)
            return i;
    return 0;
}

/* The nearest value of the steps beyond `from`; `from` itself past the ends. */
static double step_number(const esp_finetune_field *field, double from, int direction)
{
    double slack = 1e-9 * fabs(from) + 1e-12;

    if (!field->steps) {
        double next = from + direction;
        return next < field->least || next > field->most ? from : next;
    }
    for (int i = 0; i < field->step_count; i++) {
        double value = field->steps[direction > 0 ? i : field->step_count - 1 - i];
        if (direction > 0 ? value > from + slack : value < from - slack)
            return value;
    }
    return from;
}

void esp_finetune_step(esp_finetune *options, int index, int direction)
{
    const esp_finetune_field *field = &fields[index];
    char *target = (char *)options + field->offset;

    if (field->kind == ESP_FIELD_FLAG) {
        bool other = !is_on(options, field);
        memcpy(target, &other, sizeof other);
    } else if (field->kind == ESP_FIELD_CHOICE) {
        int count = field->step_count;
        int place = (place_of(field, choice_of(options, field)) + direction + count) % count;
        memcpy(target, &field->values[place], sizeof(int));
    } else if (is_number(field)) {
        double from = number_of(options, field);
        if (field->offset == AT(lr) && !(from > 0))
            from = esp_finetune_lr(options);
        if (field->usual && direction < 0 && !(from > 0)) { /* below all steps; the word for 0 comes after */
            set_number(options, field, USUAL);
            return;
        }
        set_number(options, field, step_number(field, from, direction));
    }
}

/* ---- the words of a line ---- */

static esp_status take_word(const char *word, esp_finetune *out, esp_error *err)
{
    esp_error ignored = {0};

    if (strcmp(word, "distil") == 0) {
        out->distils = true;
        return ESP_OK;
    }
    if (esp_finetune_set(out, esp_finetune_find("optimizer"), word, &ignored) == ESP_OK ||
        esp_finetune_set(out, esp_finetune_find("schedule"), word, &ignored) == ESP_OK)
        return ESP_OK;
    return esp_fail(err, ESP_INVALID,
                    "'%s', expected a number, an optimizer (sgd, adam, adamw), a schedule, or distil", word);
}

esp_status esp_finetune_words(esp_finetune *options, const char *text, esp_error *err)
{
    static const char *const keys[] = {"epochs", "lr"};
    char copy[ESP_FINETUNE_TEXT], *rest = copy, *word;
    esp_finetune next = *options;
    int numbers = 0;
    esp_status status = ESP_OK;

    snprintf(copy, sizeof copy, "%s", text);
    while (status == ESP_OK && (word = strtok_r(rest, " ", &rest)) != NULL) {
        bool is_numeric = word[0] == '-' || word[0] == '.' || (word[0] >= '0' && word[0] <= '9');
        if (is_numeric && numbers < 2)
            status = esp_finetune_set(&next, esp_finetune_find(keys[numbers++]), word, err);
        else
            status = take_word(word, &next, err);
    }
    if (status == ESP_OK)
        *options = next;
    return status;
}

/* ---- JSON ---- */

json_t *esp_finetune_to_json(const esp_finetune *options)
{
    json_t *json = json_object();
    char text[ESP_FINETUNE_TEXT];

    for (int i = 0; json && i < FIELD_COUNT; i++) {
        const esp_finetune_field *field = &fields[i];
        json_t *value;
        bool is_usual = is_number(field) && field->usual && number_of(options, field) < 0;
        if (is_usual)
            value = json_string(field->usual);
        else if (field->kind == ESP_FIELD_REAL)
            value = json_real(number_of(options, field));
        else if (field->kind == ESP_FIELD_INT)
            value = json_integer((json_int_t)number_of(options, field));
        else if (field->kind == ESP_FIELD_FLAG)
            value = json_boolean(is_on(options, field));
        else
            value = json_string(esp_finetune_text(options, i, text, sizeof text));
        if (json_object_set_new(json, field->key, value) != 0) {
            json_decref(json);
            return NULL;
        }
    }
    return json;
}

static esp_status read_field(const json_t *value, int index, esp_finetune *out, esp_error *err)
{
    const esp_finetune_field *field = &fields[index];
    double number = json_number_value(value);

    if (is_number(field) && json_is_number(value)) {
        if (field->nothing && number == 0) {
            set_number(out, field, 0);
            return ESP_OK;
        }
        char text[32];
        snprintf(text, sizeof text, "%g", number);
        return set_from_number(out, field, number, text, err);
    }
    if (field->kind == ESP_FIELD_FLAG && json_is_boolean(value))
        return set_flag(out, field, json_is_true(value) ? "yes" : "no", err);
    bool is_usual =
        field->usual && json_is_string(value) && strcmp(json_string_value(value), field->usual) == 0;
    if (is_usual || (!is_number(field) && field->kind != ESP_FIELD_FLAG && json_is_string(value)))
        return esp_finetune_set(out, index, json_string_value(value), err);
    return esp_fail(err, ESP_INVALID, "training: '%s' has a value of another kind than expected", field->key);
}

esp_status esp_finetune_from_json(const json_t *json, esp_finetune *out, esp_error *err)
{
    esp_finetune options = esp_finetune_defaults();
    esp_status status =
        json_is_object(json) ? ESP_OK : esp_fail(err, ESP_INVALID, "training: no JSON object");

    for (int i = 0; status == ESP_OK && i < FIELD_COUNT; i++) {
        const json_t *value = json_object_get(json, fields[i].key);
        if (value)
            status = read_field(value, i, &options, err);
    }
    if (status == ESP_OK)
        *out = options;
    return status;
}

/* ---- patterns ---- */

int esp_finetune_patterns(const esp_finetune *options, char copy[ESP_FINETUNE_TEXT],
                          const char *patterns[ESP_FINETUNE_PATTERNS])
{
    char *rest = copy, *word;
    int count = 0;

    memcpy(copy, options->freeze, ESP_FINETUNE_TEXT);
    copy[ESP_FINETUNE_TEXT - 1] = '\0';
    while (count < ESP_FINETUNE_PATTERNS && (word = strtok_r(rest, " ,", &rest)) != NULL)
        patterns[count++] = word;
    return count;
}
