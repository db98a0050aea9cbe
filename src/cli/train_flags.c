/* Flags become options in one direction: what was given wins over what the options have, be it the usual
 * values or those of a preset. */
#include "cli/train_flags.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/plan_flags.h"
#include "io/onnx.h"

#define VALIDATION_SHARE   0.1
#define CHECKPOINT_SECONDS 300.0

static void set_real(double given, double *target)
{
    if (!isnan(given)) {
        *target = given;
    }
}

static void set_int(int64_t given, int64_t *target)
{
    if (given >= 0) {
        *target = given;
    }
}

/* ---- learning rate ---- */

static esp_status parse_milestones(const char *text, esp_schedule *schedule, esp_error *err)
{
    schedule->milestone_count = 0;
    while (*text) {
        char *end = NULL;
        double epoch = strtod(text, &end);
        bool is_number = end != text && (*end == ',' || *end == 0) && epoch > 0;
        if (!is_number || schedule->milestone_count == ESP_SCHEDULE_MAX_STEPS) {
            return esp_fail(err, ESP_INVALID,
                            "--milestones: found '%s', expected up to %d epochs such as 30,60", text,
                            ESP_SCHEDULE_MAX_STEPS);
        }
        schedule->milestones[schedule->milestone_count++] = epoch;
        text = *end ? end + 1 : end;
    }
    return ESP_OK;
}

static esp_status check_schedule_uses(const esp_cli_train_flags *it, const esp_schedule *schedule,
                                      esp_error *err)
{
    char found[64];
    const esp_schedule_kind kind = schedule->kind;
    const bool has_milestones = kind == ESP_SCHEDULE_STEP || kind == ESP_SCHEDULE_MULTISTEP;
    const bool is_plateau = kind == ESP_SCHEDULE_PLATEAU;
    snprintf(found, sizeof found, "%s", esp_schedule_word(kind));
    const esp_cli_use uses[] = {
        {"--milestones", it->milestones != NULL, has_milestones, "schedules step and multistep", found},
        {"--milestones", it->milestones != NULL, isnan(it->every), "drops that are not --every", "both"},
        {"--every", !isnan(it->every), kind == ESP_SCHEDULE_STEP, "schedule step", found},
        {"--gamma", !isnan(it->gamma), has_milestones || is_plateau || kind == ESP_SCHEDULE_EXPONENTIAL,
         "schedules step, multistep, exponential and plateau", found},
        {"--min-lr", !isnan(it->min_lr), is_plateau || kind == ESP_SCHEDULE_COSINE,
         "schedules cosine and plateau", found},
        {"--plateau-patience", it->plateau_patience >= 0, is_plateau, "schedule plateau", found},
        {"--cooldown", it->cooldown >= 0, is_plateau, "schedule plateau", found},
    };
    return esp_cli_check_uses(uses, sizeof uses / sizeof uses[0], err);
}

/* By a word and the numbers beside it. Without a word a schedule that is there keeps its kind. */
static esp_status name_schedule(const esp_cli_train_flags *it, double lr, esp_schedule *schedule,
                                esp_error *err)
{
    esp_schedule_kind kind = it->milestones ? ESP_SCHEDULE_STEP : schedule->kind;
    esp_status status = it->schedule ? esp_schedule_parse_kind(it->schedule, &kind, err) : ESP_OK;
    if (status != ESP_OK) {
        return status;
    }
    if (it->schedule || kind != schedule->kind) {
        *schedule = esp_schedule_make(kind, lr);
    }
    schedule->lr = lr;
    set_real(it->gamma, &schedule->gamma);
    set_real(it->every, &schedule->every);
    set_real(it->min_lr, &schedule->min_lr);
    set_real(it->warmup, &schedule->warmup_epochs);
    schedule->patience = it->plateau_patience < 0 ? schedule->patience : (int)it->plateau_patience;
    schedule->cooldown = it->cooldown < 0 ? schedule->cooldown : (int)it->cooldown;
    status = it->milestones ? parse_milestones(it->milestones, schedule, err) : ESP_OK;
    return status == ESP_OK ? check_schedule_uses(it, schedule, err) : status;
}

/* As JSON, here or in a file. */
static esp_status read_schedule(const esp_cli_train_flags *it, double lr, esp_schedule *schedule,
                                esp_error *err)
{
    bool has_numbers = it->milestones || !isnan(it->gamma) || !isnan(it->every) || !isnan(it->min_lr) ||
                       !isnan(it->warmup) || it->plateau_patience >= 0 || it->cooldown >= 0;
    if (has_numbers) {
        return esp_fail(err, ESP_INVALID,
                        "%s: is JSON, so its numbers belong there and not into options of their own",
                        it->schedule_flag);
    }
    json_t *json = NULL;
    esp_status status = it->schedule[0] == '{' ? esp_json_parse(it->schedule, it->schedule_flag, &json, err)
                                               : esp_json_load(it->schedule, &json, err);
    if (status == ESP_OK) {
        status = esp_schedule_from_json(json, lr, schedule, err);
    }
    json_decref(json);
    return status;
}

static esp_status choose_schedule(const esp_cli_train_flags *it, esp_train_options *options, esp_error *err)
{
    size_t length = it->schedule ? strlen(it->schedule) : 0;
    bool is_file = length > 5 && strcmp(it->schedule + length - 5, ".json") == 0;
    bool is_json = length > 0 && it->schedule[0] == '{';
    double lr = it->optimizer ? esp_optimizer_default_lr(options->optimizer) : options->schedule.lr;
    set_real(it->lr, &lr);
    esp_status status = is_file || is_json ? read_schedule(it, lr, &options->schedule, err)
                                           : name_schedule(it, lr, &options->schedule, err);
    return status == ESP_OK ? esp_schedule_check(&options->schedule, err) : status;
}

/* ---- the rest ---- */

/* "200s", "5m", "500steps", or two of them with a comma. */
static esp_status parse_interval(const char *text, esp_train_options *options, esp_error *err)
{
    const char *at = text;
    while (*at) {
        char *end = NULL;
        double value = strtod(at, &end);
        size_t unit = strcspn(end, ",");
        bool is_steps = unit == 5 && strncmp(end, "steps", 5) == 0;
        bool is_time = unit == 1 && (*end == 's' || *end == 'm');
        bool is_good = end != at && isfinite(value) && value > 0 &&
                       (is_time || (is_steps && value == floor(value) && value < 1e15));
        if (!is_good) {
            return esp_fail(err, ESP_INVALID,
                            "--checkpoint-every: found '%s', expected seconds, minutes or steps such as "
                            "200s, 5m or 500steps",
                            text);
        }
        if (is_steps) {
            options->checkpoint_steps = (int64_t)value;
        } else {
            options->checkpoint_seconds = *end == 'm' ? 60 * value : value;
        }
        at = end + unit + (end[unit] == ',');
    }
    return options->checkpoint_steps > 0 || options->checkpoint_seconds > 0
               ? ESP_OK
               : esp_fail(err, ESP_INVALID, "--checkpoint-every: found nothing, expected such as 200s");
}

static esp_status check_uses(const esp_cli_train_flags *it, const esp_train_options *options, esp_error *err)
{
    char optimizer[16];
    const bool is_sgd = options->optimizer == ESP_OPTIMIZER_SGD, has_teacher = it->teacher != NULL;
    const bool is_frozen = options->freezes_norm || options->norm == ESP_NORM_MODE_FROZEN;
    snprintf(optimizer, sizeof optimizer, "%s", esp_optimizer_word(options->optimizer));
    const esp_cli_use uses[] = {
        {"--momentum", !isnan(it->momentum), is_sgd, "optimizer sgd", optimizer},
        {"--nesterov", it->uses_nesterov, is_sgd, "optimizer sgd", optimizer},
        {"--dampening", !isnan(it->dampening), is_sgd, "optimizer sgd", optimizer},
        {"--beta1", !isnan(it->beta1), !is_sgd, "optimizers adam and adamw", optimizer},
        {"--beta2", !isnan(it->beta2), !is_sgd, "optimizers adam and adamw", optimizer},
        {"--epsilon", !isnan(it->epsilon), !is_sgd, "optimizers adam and adamw", optimizer},
        {"--temperature", !isnan(it->temperature), has_teacher, "a training with --teacher", "none"},
        {"--distill", !isnan(it->distillation), has_teacher, "a training with --teacher", "none"},
        {"--min-delta", !isnan(it->min_delta), it->patience > 0, "a training with --patience", "none"},
        {"--freeze-norm", it->freezes_norm, it->norm == NULL || options->norm == ESP_NORM_MODE_FROZEN,
         "--norm frozen", it->norm},
        {"--recalibrate-images", it->recalibrate_images >= 0,
         options->norm == ESP_NORM_MODE_RECALIBRATE && !is_frozen, "--norm recalibrate",
         esp_norm_mode_word(is_frozen ? ESP_NORM_MODE_FROZEN : options->norm)},
    };
    return esp_cli_check_uses(uses, sizeof uses / sizeof uses[0], err);
}

static void set_numbers(const esp_cli_train_flags *it, esp_train_options *options)
{
    int64_t patience = options->patience, crop = options->augmentation.crop_padding;
    set_real(it->momentum, &options->momentum);
    set_real(it->dampening, &options->dampening);
    set_real(it->beta1, &options->beta1);
    set_real(it->beta2, &options->beta2);
    set_real(it->epsilon, &options->epsilon);
    set_real(it->weight_decay, &options->weight_decay);
    set_real(it->clip_norm, &options->clip_norm);
    set_real(it->clip_value, &options->clip_value);
    set_real(it->ema, &options->ema_decay);
    set_real(it->label_smoothing, &options->label_smoothing);
    set_real(it->temperature, &options->temperature);
    set_real(it->distillation, &options->distillation);
    set_real(it->max_loss, &options->max_loss);
    set_real(it->min_delta, &options->min_delta);
    set_int(it->batch, &options->batch);
    set_int(it->train_limit, &options->train_limit);
    set_int(it->limit, &options->validation_limit);
    set_int(it->recalibrate_images, &options->recalibrate_images);
    set_int(it->patience, &patience);
    set_int(it->crop, &crop);
    options->patience = (int)patience;
    options->augmentation.crop_padding = (int)crop;
    options->augmentation.flips = options->augmentation.flips || it->flips;
    options->uses_nesterov = options->uses_nesterov || it->uses_nesterov;
    options->freezes_norm = options->freezes_norm || it->freezes_norm;
    options->mean = it->mean;
    options->std = it->std;
    options->freeze = it->freeze.items;
    options->freeze_count = it->freeze.count;
}

esp_status esp_cli_train_options(esp_cli_train_flags *it, esp_train_options *options, esp_error *err)
{
    esp_status status = ESP_OK;
    if (it->optimizer) {
        status = esp_optimizer_parse_kind(it->optimizer, &options->optimizer, err);
    }
    if (status == ESP_OK && it->norm) {
        status = esp_norm_mode_parse(it->norm, &options->norm, err);
    }
    if (status == ESP_OK && it->augment) {
        status = esp_augmentation_parse(it->augment, &options->augmentation, err);
    }
    if (status == ESP_OK) {
        status = choose_schedule(it, options, err);
    }
    if (status == ESP_OK && it->checkpoint_every) {
        status = parse_interval(it->checkpoint_every, options, err);
    } else if (status == ESP_OK) {
        options->checkpoint_seconds = CHECKPOINT_SECONDS;
    }
    if (status != ESP_OK) {
        return status;
    }
    set_numbers(it, options);
    status = check_uses(it, options, err);
    if (status == ESP_OK && it->teacher) {
        status = esp_onnx_load(it->teacher, &it->teacher_graph, err);
        options->teacher = it->teacher_graph;
    }
    return status;
}

void esp_cli_train_flags_free(esp_cli_train_flags *flags)
{
    esp_graph_unref(flags->teacher_graph);
    flags->teacher_graph = NULL;
}

/* ---- images ---- */

static esp_status split_training(const esp_cli_train_data_wish *wish, double share, esp_cli_train_data *data,
                                 esp_error *err)
{
    esp_dataset *rest = NULL, *held = NULL;
    long long all = (long long)esp_dataset_count(data->training);
    esp_status status = esp_dataset_split(data->training, share, wish->seed, &rest, &held, err);
    if (status == ESP_OK) {
        snprintf(data->source, sizeof data->source, "%lld of %lld training images, held back by seed %lld",
                 (long long)esp_dataset_count(held), all, (long long)wish->seed);
        esp_dataset_unref(data->training);
        data->training = rest;
        data->validation = held;
        data->shares_images = true;
    }
    return status;
}

/* What is validated on. The test set only when the user says so. */
static esp_status open_validation(const esp_cli_train_data_wish *wish, const esp_graph *graph,
                                  esp_cli_train_data *data, esp_error *err)
{
    double share = 0;
    char *source = data->source;
    size_t size = sizeof data->source;
    if (wish->validation && strcmp(wish->validation, "none") == 0) {
        snprintf(source, size, "none: all %lld images train", (long long)esp_dataset_count(data->training));
        return ESP_OK;
    }
    if (wish->validation && esp_parse_f64(wish->validation, &share)) {
        return share > 0 && share < 1
                   ? split_training(wish, share, data, err)
                   : esp_fail(err, ESP_INVALID,
                              "--validation: found '%s', expected a share between 0 and 1 or a dataset",
                              wish->validation);
    }
    const char *spec = wish->validation ? wish->validation : wish->data;
    esp_error why = {0};
    esp_status status =
        esp_cli_open_data(spec, wish->images, ESP_SPLIT_VALIDATION, graph, &data->validation, &why);
    if (status == ESP_OK) {
        snprintf(source, size, "%lld validation images of %.100s",
                 (long long)esp_dataset_count(data->validation), spec);
    }
    /* images that are there and cannot be read are not replaced by others behind the user's back */
    if (status != ESP_STATE) {
        *err = why;
        return status;
    }
    if (!wish->validation) {
        return split_training(wish, VALIDATION_SHARE, data, err);
    }
    /* another dataset without validation images of its own: all it has for measuring */
    status = esp_cli_open_data(spec, wish->images, ESP_SPLIT_TEST, graph, &data->validation, err);
    if (status == ESP_OK) {
        snprintf(source, size, "%lld test images of %.100s", (long long)esp_dataset_count(data->validation),
                 spec);
    }
    return status;
}

static esp_status go_on(const esp_compute *compute, esp_error *err)
{
    return esp_compute_is_cancelled(compute) ? esp_fail(err, ESP_CANCELLED, "nothing was begun") : ESP_OK;
}

static esp_status open_all(const esp_compute *compute, const esp_cli_train_data_wish *wish,
                           const esp_graph *graph, esp_cli_train_data *data, esp_error *err)
{
    esp_status status =
        esp_cli_open_data(wish->data, wish->images, ESP_SPLIT_TRAIN, graph, &data->training, err);
    if (status == ESP_OK) {
        status = go_on(compute, err);
    }
    if (status == ESP_OK) {
        status = esp_cli_open_data(wish->data, wish->images, ESP_SPLIT_TEST, graph, &data->test, err);
    }
    if (status == ESP_OK) {
        status = go_on(compute, err);
    }
    if (status != ESP_OK) {
        return status;
    }
    data->measured = wish->validates_on_test ? "test" : "validation";
    if (!wish->validates_on_test) {
        return open_validation(wish, graph, data, err);
    }
    data->validation = esp_dataset_ref(data->test);
    data->shares_images = true;
    snprintf(data->source, sizeof data->source, "the %lld test images: the best version is chosen by them",
             (long long)esp_dataset_count(data->test));
    return ESP_OK;
}

static void release(esp_cli_train_data *data)
{
    esp_dataset_unref(data->training);
    esp_dataset_unref(data->validation);
    esp_dataset_unref(data->test);
    *data = (esp_cli_train_data){0};
}

esp_status esp_cli_train_data_open(const esp_compute *compute, const esp_cli_train_data_wish *wish,
                                   const esp_graph *graph, esp_cli_train_data *out, esp_error *err)
{
    esp_cli_train_data data = {0};
    if (wish->validates_on_test && wish->validation) {
        return esp_fail(err, ESP_INVALID,
                        "--validation and --validate-on-test: expected one of them, not both");
    }
    esp_status status = open_all(compute, wish, graph, &data, err);
    if (status == ESP_OK) {
        *out = data;
    } else {
        release(&data);
    }
    return status;
}

void esp_cli_train_data_close(esp_cli_train_data *data)
{
    const esp_dataset *sets[] = {data->training, data->shares_images ? NULL : data->validation, data->test};
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        if (sets[i]) {
            esp_cli_warn_skipped(sets[i]);
        }
    }
    release(data);
}

/* ---- files ---- */

esp_status esp_cli_check_writable(const char *path, esp_error *err)
{
    esp_file_writer *writer = NULL;
    esp_status status = esp_file_writer_open(path, &writer, err);
    esp_file_writer_discard(writer);
    return status;
}

bool esp_cli_is_same_file(const char *one, const char *other)
{
    struct stat a, b;
    bool exist = stat(one, &a) == 0 && stat(other, &b) == 0;
    return strcmp(one, other) == 0 || (exist && a.st_dev == b.st_dev && a.st_ino == b.st_ino);
}
