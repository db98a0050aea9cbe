/* espalier train: training and fine-tuning with the best version always on disk. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/inputs.h"
#include "cli/train_report.h"
#include "io/checkpoint.h"
#include "io/onnx.h"
#include "prune/group_lasso.h"
#include "prune/mask.h"
#include "train/classifier.h"
#include "train/trainer.h"

/* What is kept in a checkpoint beside the training's state: the epochs reported so far, as JSON. */
#define HISTORY_BLOCK "cli/history"

#define VALIDATION_SHARE   0.1
#define CHECKPOINT_SECONDS 300.0
#define MAX_LOSS           1e4

typedef struct train_request {
    esp_train_options options;
    esp_train_report report;
    const char *output, *data, *validation, *schedule, *milestones, *optimizer, *norm, *augment, *teacher;
    const char *checkpoint, *checkpoint_every, *resume, *log;
    int64_t threads, seed, crop, patience, classes, cooldown, plateau_patience;
    double lr, gamma, every, min_lr, warmup, lasso_strength;
    bool is_json, frees_masks, validates_on_test, replaces_classifier, flips;
    esp_cli_images images; /* only --skip-bad: --crop is an augmentation here */
    esp_option_list freeze;
    esp_graph *teacher_graph;
    esp_group_lasso *lasso;
    char note[64];
    esp_train_state resumed;
} train_request;

typedef struct train_data {
    esp_dataset *training, *validation;
    esp_dataset *test;  /* NULL when validation is the test set */
    bool shares_images; /* validation is a part of the training images */
} train_data;

/* ---- callbacks ---- */

/* Every new best goes to disk at once: an interrupted or killed run leaves it there. */
static esp_status on_epoch(void *user, const esp_epoch_report *report, esp_error *err)
{
    train_request *it = user;
    esp_train_report_epoch(&it->report, report);
    return report->is_best && report->graph && report->epoch > 0
               ? esp_onnx_save(report->graph, it->output, err)
               : ESP_OK;
}

static esp_status on_step(void *user, esp_trainer *trainer, const esp_step_report *report, esp_error *err)
{
    (void)trainer;
    (void)err;
    esp_train_report_step(&((train_request *)user)->report, report);
    return ESP_OK;
}

static esp_status save_checkpoint(train_request *it, const esp_train_state *state, esp_error *err)
{
    esp_train_state extra = {0};
    char *history = esp_json_dump(it->report.history, 1);
    esp_status status = history ? esp_train_state_put(&extra, HISTORY_BLOCK, history, strlen(history), err)
                                : esp_fail_memory(err, "the history", 0);
    if (status == ESP_OK) {
        status = esp_checkpoint_save(it->checkpoint, state, &extra, err);
    }
    esp_train_state_free(&extra);
    esp_free(history);
    return status;
}

static esp_status on_checkpoint(void *user, const esp_train_state *state, esp_error *err)
{
    train_request *it = user;
    esp_error why = {0};
    esp_status status = save_checkpoint(it, state, &why);
    esp_train_report_checkpoint(&it->report, status, &why);
    if (status != ESP_OK) {
        *err = why;
    }
    return status;
}

/* ---- options ---- */

static esp_status parse_milestones(const char *text, esp_schedule *schedule, esp_error *err)
{
    schedule->milestone_count = 0;
    while (*text) {
        char *end = NULL;
        double epoch = strtod(text, &end);
        bool is_number = end != text && (*end == ',' || *end == 0) && epoch > 0;
        if (!is_number || schedule->milestone_count == ESP_SCHEDULE_MAX_STEPS) {
            return esp_fail(err, ESP_INVALID,
                            "--milestones: found '%s', expected up to %d epochs such "
                            "as 30,60",
                            text, ESP_SCHEDULE_MAX_STEPS);
        }
        schedule->milestones[schedule->milestone_count++] = epoch;
        text = *end ? end + 1 : end;
    }
    return ESP_OK;
}

/* By a word and the numbers beside it. */
static esp_status name_schedule(train_request *it, esp_error *err)
{
    esp_schedule_kind kind = it->milestones ? ESP_SCHEDULE_STEP : ESP_SCHEDULE_COSINE;
    esp_status status = it->schedule ? esp_schedule_parse_kind(it->schedule, &kind, err) : ESP_OK;
    if (status != ESP_OK) {
        return status;
    }
    esp_schedule *schedule = &it->options.schedule;
    *schedule = esp_schedule_make(kind, it->lr);
    schedule->gamma = isnan(it->gamma) ? schedule->gamma : it->gamma;
    schedule->every = isnan(it->every) ? 0 : it->every;
    schedule->min_lr = isnan(it->min_lr) ? 0 : it->min_lr;
    schedule->warmup_epochs = isnan(it->warmup) ? 0 : it->warmup;
    schedule->patience = it->plateau_patience < 0 ? schedule->patience : (int)it->plateau_patience;
    schedule->cooldown = (int)it->cooldown;
    return it->milestones ? parse_milestones(it->milestones, schedule, err) : ESP_OK;
}

/* As JSON, here or in a file. */
static esp_status read_schedule(train_request *it, esp_error *err)
{
    bool has_numbers = it->milestones || !isnan(it->gamma) || !isnan(it->every) || !isnan(it->min_lr) ||
                       !isnan(it->warmup) || it->plateau_patience >= 0 || it->cooldown > 0;
    if (has_numbers) {
        return esp_fail(err, ESP_INVALID,
                        "--schedule: is JSON, so its numbers belong there and not into options of their own");
    }
    json_t *json = NULL;
    esp_status status = it->schedule[0] == '{' ? esp_json_parse(it->schedule, "--schedule", &json, err)
                                               : esp_json_load(it->schedule, &json, err);
    if (status == ESP_OK) {
        status = esp_schedule_from_json(json, it->lr, &it->options.schedule, err);
    }
    json_decref(json);
    return status;
}

static esp_status choose_schedule(train_request *it, esp_error *err)
{
    size_t length = it->schedule ? strlen(it->schedule) : 0;
    bool is_file = length > 5 && strcmp(it->schedule + length - 5, ".json") == 0;
    bool is_json = length > 0 && it->schedule[0] == '{';
    esp_status status = is_file || is_json ? read_schedule(it, err) : name_schedule(it, err);
    return status == ESP_OK ? esp_schedule_check(&it->options.schedule, err) : status;
}

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
    return ESP_OK;
}

static esp_status choose_checkpoints(train_request *it, esp_error *err)
{
    esp_train_options *options = &it->options;
    if (!it->checkpoint) {
        it->checkpoint = it->resume;
    }
    if (!it->checkpoint) {
        return it->checkpoint_every
                   ? esp_fail(err, ESP_INVALID, "--checkpoint-every: expected --checkpoint FILE beside it")
                   : ESP_OK;
    }
    it->report.checkpoint = it->checkpoint;
    options->on_checkpoint = on_checkpoint;
    options->checkpoint_user = it;
    if (!it->checkpoint_every) {
        options->checkpoint_seconds = CHECKPOINT_SECONDS;
        return ESP_OK;
    }
    return parse_interval(it->checkpoint_every, options, err);
}

static esp_status choose_words(train_request *it, esp_error *err)
{
    esp_train_options *options = &it->options;
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
    if (isnan(it->lr)) {
        it->lr = esp_optimizer_default_lr(options->optimizer);
    }
    return status == ESP_OK ? choose_schedule(it, err) : status;
}

static esp_status finish_options(train_request *it, esp_error *err)
{
    esp_train_options *options = &it->options;
    esp_status status = choose_words(it, err);
    if (status == ESP_OK) {
        status = choose_checkpoints(it, err);
    }
    if (it->crop > 0) {
        options->augmentation.crop_padding = (int)it->crop;
    }
    options->augmentation.flips = options->augmentation.flips || it->flips;
    options->seed = (uint64_t)it->seed;
    options->patience = (int)it->patience;
    options->freeze = it->freeze.items;
    options->freeze_count = it->freeze.count;
    options->evaluates_first = true;
    options->on_epoch = on_epoch;
    options->epoch_user = it;
    if (it->log) {
        options->on_step = on_step;
        options->step_user = it;
    }
    if (status == ESP_OK && it->validates_on_test && it->validation) {
        status =
            esp_fail(err, ESP_INVALID, "--validation and --validate-on-test: expected one of them, not both");
    }
    return status;
}

/* ---- data ---- */

static void release_data(train_data *data)
{
    esp_dataset_unref(data->training);
    esp_dataset_unref(data->validation);
    esp_dataset_unref(data->test);
}

static esp_status split_training(train_request *it, train_data *data, double share, esp_error *err)
{
    esp_dataset *rest = NULL, *held = NULL;
    int64_t all = esp_dataset_count(data->training);
    esp_status status = esp_dataset_split(data->training, share, it->options.seed, &rest, &held, err);
    if (status == ESP_OK) {
        snprintf(it->report.source, sizeof it->report.source,
                 "%lld of %lld training images, held back by seed %lld", (long long)esp_dataset_count(held),
                 (long long)all, (long long)it->seed);
        esp_dataset_unref(data->training);
        data->training = rest;
        data->validation = held;
        data->shares_images = true;
    }
    return status;
}

/* What is validated on. The test set only when the user says so. */
static esp_status open_validation(train_request *it, const esp_graph *graph, train_data *data, esp_error *err)
{
    double share = 0;
    char *source = it->report.source;
    size_t size = sizeof it->report.source;
    if (it->validation && esp_parse_f64(it->validation, &share)) {
        return share > 0 && share < 1
                   ? split_training(it, data, share, err)
                   : esp_fail(err, ESP_INVALID,
                              "--validation: found '%s', expected a share between 0 and 1 or a dataset",
                              it->validation);
    }
    const char *spec = it->validation ? it->validation : it->data;
    esp_error ignored = {0};
    if (esp_cli_open_data(spec, &it->images, ESP_SPLIT_VALIDATION, graph, &data->validation, &ignored) ==
        ESP_OK) {
        snprintf(source, size, "%lld validation images of %.100s",
                 (long long)esp_dataset_count(data->validation), spec);
        return ESP_OK;
    }
    if (!it->validation) {
        return split_training(it, data, VALIDATION_SHARE, err);
    }
    /* another dataset without validation images of its own: all it has for measuring */
    esp_status status = esp_cli_open_data(spec, &it->images, ESP_SPLIT_TEST, graph, &data->validation, err);
    if (status == ESP_OK) {
        snprintf(source, size, "%lld test images of %.100s", (long long)esp_dataset_count(data->validation),
                 spec);
    }
    return status;
}

static esp_status open_data(train_request *it, const esp_graph *graph, train_data *data, esp_error *err)
{
    esp_status status =
        esp_cli_open_data(it->data, &it->images, ESP_SPLIT_TRAIN, graph, &data->training, err);
    if (status == ESP_OK) {
        status = esp_cli_open_data(it->data, &it->images, ESP_SPLIT_TEST, graph, &data->test, err);
    }
    if (status == ESP_OK && it->validates_on_test) {
        data->validation = data->test;
        data->test = NULL;
        snprintf(it->report.source, sizeof it->report.source,
                 "the %lld test images: the best version is chosen by them",
                 (long long)esp_dataset_count(data->validation));
    } else if (status == ESP_OK) {
        status = open_validation(it, graph, data, err);
    }
    it->report.measured = it->validates_on_test ? "test" : "validation";
    return status;
}

/* ---- resuming ---- */

static esp_status load_checkpoint(train_request *it, esp_error *err)
{
    if (!it->resume) {
        return ESP_OK;
    }
    esp_status status = esp_checkpoint_load(it->resume, &it->resumed, err);
    if (status != ESP_OK) {
        return status;
    }
    const esp_state_block *block = esp_train_state_find(&it->resumed, HISTORY_BLOCK);
    json_t *history = block ? json_loadb(block->data, block->size, 0, NULL) : NULL;
    if (json_is_array(history)) {
        json_decref(it->report.history);
        it->report.history = history;
    } else {
        json_decref(history);
    }
    it->options.resume = &it->resumed;
    return ESP_OK;
}

/* ---- the model ---- */

static esp_status load_teacher(train_request *it, esp_error *err)
{
    if (!it->teacher) {
        return ESP_OK;
    }
    esp_status status = esp_onnx_load(it->teacher, &it->teacher_graph, err);
    it->options.teacher = it->teacher_graph;
    return status;
}

/* Replaces the model by one for other classes when that was asked for. */
static esp_status replace_classifier(const train_request *it, const train_data *data, esp_graph **graph,
                                     esp_error *err)
{
    int64_t classes = it->classes > 0 ? it->classes : esp_dataset_class_count(data->training);
    if (it->classes == 0 && !it->replaces_classifier) {
        return ESP_OK;
    }
    esp_graph *other = NULL;
    esp_status status = esp_replace_classifier(*graph, classes, it->options.seed, &other, err);
    if (status == ESP_OK) {
        esp_graph_unref(*graph);
        *graph = other;
    }
    return status;
}

/* A group lasso over the kernels of all layers: each filter is its own group. */
static esp_status add_lasso(train_request *it, const esp_graph *graph, const esp_dataset *training,
                            esp_error *err)
{
    if (it->lasso_strength == 0) {
        return ESP_OK;
    }
    esp_input_shape shape;
    esp_inferred *inferred = NULL;
    esp_layers layers = {0};
    bool is_open = esp_dataset_input_shape(training, graph, 1, &shape);
    esp_status status = esp_infer(graph, 1, is_open ? &shape : NULL, is_open ? 1 : 0, &inferred, err);
    if (status == ESP_OK) {
        status = esp_layers_list(graph, inferred, &layers, err);
    }
    if (status == ESP_OK) {
        status = esp_group_lasso_new(graph, &layers, NULL, NULL, it->lasso_strength, &it->lasso, err);
    }
    if (status == ESP_OK) {
        it->options.penalties = esp_group_lasso_penalties(it->lasso, &it->options.penalty_count);
        snprintf(it->note, sizeof it->note, "group lasso %.17g", it->lasso_strength);
        it->options.note = it->note;
    }
    esp_layers_free(&layers);
    esp_inferred_free(inferred);
    return status;
}

/* ---- training ---- */

static esp_status measure_test(esp_cli *cli, const train_request *it, const train_data *data,
                               const esp_graph *trained, esp_eval_result *out, esp_error *err)
{
    const esp_eval_options options = {.limit = it->options.validation_limit};
    return esp_evaluate(&cli->compute, trained, data->test, &options, out, err);
}

/* Writes the best version, measures it on the test set if that was not what it was chosen by, and reports. */
static esp_status finish(esp_cli *cli, train_request *it, const train_data *data, const esp_graph *trained,
                         const esp_train_result *result, esp_status ended, esp_error *err)
{
    esp_eval_result test = {0};
    esp_status status = esp_onnx_save(trained, it->output, err);
    if (status == ESP_OK && ended == ESP_OK && data->test) {
        status = measure_test(cli, it, data, trained, &test, err);
    }
    return status == ESP_OK || status == ESP_CANCELLED
               ? esp_train_report_end(&it->report, result, ended, &test, err)
               : status;
}

static void explain_end(esp_status status, const train_request *it, bool is_written, esp_error *err)
{
    if (status == ESP_CANCELLED) {
        esp_fail(err, ESP_CANCELLED,
                 is_written ? "the best version so far is in %s" : "nothing was written to %s", it->output);
        if (it->checkpoint) {
            esp_error_set_hint(err, "--resume %s goes on", it->checkpoint);
        }
    } else if (status == ESP_DIVERGED && is_written) {
        esp_error_set_hint(err, "try a lower learning rate; the best version so far is in %s", it->output);
    }
}

/* An interrupted or diverged training has put its best version into `trained` too: it is written before the
 * status goes on. */
static esp_status train(esp_cli *cli, train_request *it, const train_data *data, const esp_graph *graph,
                        esp_error *err)
{
    esp_graph *trained = NULL;
    esp_held_masks masks = {0};
    esp_train_result result = {0};
    esp_status status = ESP_OK;
    if (!it->frees_masks) {
        status = esp_held_masks_of(graph, &masks, err);
        it->options.masks = masks.items;
        it->options.mask_count = masks.count;
    }
    if (status == ESP_OK) {
        esp_train_report_start(&it->report, &it->options);
        it->report.training = data->training;
        status = esp_train(&cli->compute, graph, data->training, data->validation, &it->options, &trained,
                           &result, err);
    }
    bool is_written = trained != NULL;
    if (trained) {
        esp_error later = {0};
        esp_status finished = finish(cli, it, data, trained, &result, status, &later);
        if (finished != ESP_OK) {
            status = finished;
            *err = later;
        }
    }
    esp_cli_warn_skipped(data->training);
    if (data->validation && !data->shares_images) {
        esp_cli_warn_skipped(data->validation);
    }
    if (data->test) {
        esp_cli_warn_skipped(data->test);
    }
    explain_end(status, it, is_written, err);
    esp_graph_unref(trained);
    esp_held_masks_free(&masks);
    return status;
}

/* Finds out before hours of work whether the result can be written where it was asked for. */
static esp_status check_writable(const char *path, esp_error *err)
{
    esp_file_writer *writer = NULL;
    esp_status status = esp_file_writer_open(path, &writer, err);
    esp_file_writer_discard(writer);
    return status;
}

static esp_status run(esp_cli *cli, train_request *it, const char *model, esp_error *err)
{
    esp_graph *graph = NULL;
    train_data data = {0};
    esp_status status = finish_options(it, err);
    if (status == ESP_OK) {
        status = esp_onnx_load(model, &graph, err);
    }
    if (status == ESP_OK) {
        status = load_teacher(it, err);
    }
    if (status == ESP_OK) {
        status = check_writable(it->output, err);
    }
    if (status == ESP_OK && it->checkpoint) {
        status = check_writable(it->checkpoint, err);
    }
    if (status == ESP_OK) {
        status = load_checkpoint(it, err);
    }
    if (status == ESP_OK) {
        status = esp_cli_start(cli, it->threads, err);
    }
    if (status == ESP_OK) {
        status = open_data(it, graph, &data, err);
    }
    if (status == ESP_OK) {
        status = replace_classifier(it, &data, &graph, err);
    }
    if (status == ESP_OK) {
        status = esp_dataset_check_model(data.training, graph, err);
    }
    if (status == ESP_OK) {
        status = add_lasso(it, graph, data.training, err);
    }
    if (status == ESP_OK) {
        status = esp_train_report_open(&it->report, it->log, it->resume != NULL, err);
    }
    if (status == ESP_OK) {
        status = train(cli, it, &data, graph, err);
        esp_cli_explain_size(status, graph, data.training, err);
        esp_error ignored = {0};
        esp_status closed = esp_train_report_close(&it->report, status == ESP_OK ? err : &ignored);
        status = status == ESP_OK ? closed : status;
    }
    release_data(&data);
    esp_graph_unref(graph);
    return status;
}

esp_status esp_command_train(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    bool is_done = false;
    char data_help[128];
    train_request it = {.options = esp_train_defaults(),
                        .lr = NAN,
                        .gamma = NAN,
                        .every = NAN,
                        .min_lr = NAN,
                        .warmup = NAN,
                        .plateau_patience = -1,
                        .report = {.log_every = 20}};
    esp_train_options *train_options = &it.options;
    train_options->epochs_limit = NAN;
    train_options->max_loss = MAX_LOSS;
    const esp_option options[] = {
        {"output", 'o', ESP_OPTION_TEXT, &it.output, "OUT.onnx", "where the best version goes", 0, 0, 0},
        {"data", 'd', ESP_OPTION_TEXT, &it.data, "SPEC", esp_cli_data_help(data_help, sizeof data_help), 0, 0,
         0},
        {"epochs", 'e', ESP_OPTION_REAL, &train_options->epochs_limit, "N",
         "how long; 0.25 is a quarter of the images", 1e-6, 1e6, 0},
        {"batch", 'b', ESP_OPTION_INT, &train_options->batch, "N", "images per step (default 128)", 1, 65536,
         0},
        {"seed", 0, ESP_OPTION_INT, &it.seed, "N", "default 0; same seed, same result", 0, 1e15, 0},
        ESP_OPTIONS_ABOUT("Images"),
        {"validation", 0, ESP_OPTION_TEXT, &it.validation, "SHARE|SPEC",
         "what the best is chosen by (default: the data's own validation images, else 0.1 of training)", 0, 0,
         0},
        {"validate-on-test", 0, ESP_OPTION_FLAG, &it.validates_on_test, NULL,
         "choose the best by the test images: its figure is then no test any more", 0, 0, 0},
        {"crop", 0, ESP_OPTION_INT, &it.crop, "P", "random crops from images padded by P pixels", 0, 64, 0},
        {"flip", 0, ESP_OPTION_FLAG, &it.flips, NULL, "random horizontal flips", 0, 0, 0},
        {"augment", 0, ESP_OPTION_TEXT, &it.augment, "LIST",
         "more of it: crop=4,flip,resized=0.08:1,jitter=0.4,hue=0.1,cutout=8,mixup=0.2", 0, 0, 0},
        {"train-limit", 0, ESP_OPTION_INT, &train_options->train_limit, "N", "N random images per epoch", 1,
         1e9, 0},
        {"limit", 'n', ESP_OPTION_INT, &train_options->validation_limit, "N",
         "measure on the first N images only", 1, 1e9, 0},
        {"mean", 0, ESP_OPTION_TEXT, &train_options->mean, "M[,M..]",
         "normalisation: mean of x/255 per channel", 0, 0, 0},
        {"std", 0, ESP_OPTION_TEXT, &train_options->std, "S[,S..]", "normalisation: standard deviation", 0, 0,
         0},
        ESP_CLI_SKIP_BAD(&it.images),
        ESP_OPTIONS_ABOUT("Learning rate"),
        {"lr", 0, ESP_OPTION_REAL, &it.lr, "RATE", "default 0.01; 0.001 for adam and adamw", 1e-12, 1e3, 0},
        {"schedule", 0, ESP_OPTION_TEXT, &it.schedule, "NAME|JSON",
         "cosine (default), constant, step, multistep, exponential, onecycle, plateau; JSON or FILE.json", 0,
         0, 0},
        {"warmup", 0, ESP_OPTION_REAL, &it.warmup, "N", "epochs of linear warm-up in front of any", 0, 1e6,
         0},
        {"milestones", 0, ESP_OPTION_TEXT, &it.milestones, "E,E,..",
         "step, multistep: epochs at which the rate drops (default: thirds)", 0, 0, 0},
        {"every", 0, ESP_OPTION_REAL, &it.every, "N", "step: a drop every N epochs instead", 1e-6, 1e6, 0},
        {"gamma", 0, ESP_OPTION_REAL, &it.gamma, "F",
         "factor of a drop (default 0.1); exponential: of an epoch (default 0.95)", 1e-9, 1, 0},
        {"min-lr", 0, ESP_OPTION_REAL, &it.min_lr, "RATE", "cosine, plateau: never below", 0, 1e3, 0},
        {"plateau-patience", 0, ESP_OPTION_INT, &it.plateau_patience, "N",
         "plateau: epochs without a lower loss before a drop (default 10)", 0, 1e6, 0},
        {"cooldown", 0, ESP_OPTION_INT, &it.cooldown, "N", "plateau: epochs of rest after a drop", 0, 1e6, 0},
        ESP_OPTIONS_ABOUT("Optimizer"),
        {"optimizer", 0, ESP_OPTION_TEXT, &it.optimizer, "NAME", "sgd (default), adam or adamw", 0, 0, 0},
        {"momentum", 0, ESP_OPTION_REAL, &train_options->momentum, "M", "sgd: default 0.9", 0, 1, true},
        {"nesterov", 0, ESP_OPTION_FLAG, &train_options->uses_nesterov, NULL, "sgd: Nesterov momentum", 0, 0,
         0},
        {"dampening", 0, ESP_OPTION_REAL, &train_options->dampening, "D", "sgd: default 0", 0, 1, true},
        {"beta1", 0, ESP_OPTION_REAL, &train_options->beta1, "B", "adam, adamw: default 0.9", 0, 1, true},
        {"beta2", 0, ESP_OPTION_REAL, &train_options->beta2, "B", "adam, adamw: default 0.999", 0, 1, true},
        {"epsilon", 0, ESP_OPTION_REAL, &train_options->epsilon, "E", "adam, adamw: default 1e-8", 0, 1, 0},
        {"weight-decay", 0, ESP_OPTION_REAL, &train_options->weight_decay, "W", "default 1e-4", 0, 1, 0},
        {"clip-norm", 0, ESP_OPTION_REAL, &train_options->clip_norm, "L",
         "scale gradients down to this common length", 0, 1e9, 0},
        {"clip-value", 0, ESP_OPTION_REAL, &train_options->clip_value, "V", "cut gradients to [-V, V]", 0,
         1e9, 0},
        {"ema", 0, ESP_OPTION_REAL, &train_options->ema_decay, "D",
         "average the weights by D per step (0.999); the average is measured and kept", 0, 1, true},
        ESP_OPTIONS_ABOUT("Loss"),
        {"label-smoothing", 0, ESP_OPTION_REAL, &train_options->label_smoothing, "S",
         "share of each target spread over all classes", 0, 1, true},
        {"teacher", 0, ESP_OPTION_TEXT, &it.teacher, "MODEL.onnx", "distil from this model too", 0, 0, 0},
        {"temperature", 0, ESP_OPTION_REAL, &train_options->temperature, "T", "of the teacher (default 4)",
         1e-3, 1e6, 0},
        {"distill", 0, ESP_OPTION_REAL, &train_options->distillation, "W",
         "the teacher's share of the loss (default 0.5)", 1e-6, 1, 0},
        {"group-lasso", 0, ESP_OPTION_REAL, &it.lasso_strength, "L",
         "weight of a group lasso over the kernels of all layers", 0, 1e6, 0},
        {"max-loss", 0, ESP_OPTION_REAL, &train_options->max_loss, "L",
         "a batch above it ends the training as diverged (default 1e4; 0: never)", 0, 1e300, 0},
        ESP_OPTIONS_ABOUT("Model"),
        {"freeze", 0, ESP_OPTION_LIST, &it.freeze, "PATTERN",
         "layers that stay as they are, with '*'; may be given several times", 0, 0, 0},
        {"norm", 0, ESP_OPTION_TEXT, &it.norm, "MODE",
         "batch-norm: train (default), frozen, or recalibrate before every validation", 0, 0, 0},
        {"freeze-norm", 0, ESP_OPTION_FLAG, &train_options->freezes_norm, NULL, "short for --norm frozen", 0,
         0, 0},
        {"recalibrate-images", 0, ESP_OPTION_INT, &train_options->recalibrate_images, "N",
         "how many for --norm recalibrate (default 1024)", 1, 1e9, 0},
        {"free-masks", 0, ESP_OPTION_FLAG, &it.frees_masks, NULL, "let masked weights grow back", 0, 0, 0},
        {"replace-classifier", 0, ESP_OPTION_FLAG, &it.replaces_classifier, NULL,
         "a new last layer for the classes of the data", 0, 0, 0},
        {"classes", 0, ESP_OPTION_INT, &it.classes, "N", "a new last layer for N classes", 1, 1000000, 0},
        ESP_OPTIONS_ABOUT("Ending and going on"),
        {"patience", 0, ESP_OPTION_INT, &it.patience, "N",
         "stop after N epochs without a lower validation loss", 1, 1e6, 0},
        {"min-delta", 0, ESP_OPTION_REAL, &train_options->min_delta, "D", "by how much it must be lower", 0,
         1e9, 0},
        {"checkpoint", 0, ESP_OPTION_TEXT, &it.checkpoint, "FILE", "keep the state of the training here", 0,
         0, 0},
        {"checkpoint-every", 0, ESP_OPTION_TEXT, &it.checkpoint_every, "N",
         "200s, 5m or 500steps (default 5m); and after every epoch", 0, 0, 0},
        {"resume", 0, ESP_OPTION_TEXT, &it.resume, "FILE",
         "go on from a checkpoint: the result is that of one uninterrupted run", 0, 0, 0},
        ESP_OPTIONS_ABOUT("Machine and output"),
        {"threads", 't', ESP_OPTION_INT, &it.threads, "N", "default: all cores", 1, 1024, 0},
        ESP_CLI_KERNELS(cli),
        {"json", 0, ESP_OPTION_FLAG, &it.is_json, NULL, "one JSON object at the end instead of lines", 0, 0,
         0},
        {"log", 0, ESP_OPTION_TEXT, &it.log, "FILE.jsonl",
         "progress, epochs and the end as they happen, one JSON object per line", 0, 0, 0},
        {"log-every", 0, ESP_OPTION_INT, &it.report.log_every, "N",
         "steps between two lines of progress (default 20)", 1, 1e9, 0},
        {0},
    };
    const esp_command_syntax syntax = {
        "train",
        "Train or fine-tune. The best version by top-1 on validation images is kept and measured once on "
        "the\n"
        "test images; masks of a pruned model are held. Ctrl-C ends early and leaves the best version so "
        "far.",
        "MODEL.onnx -o OUT.onnx --data SPEC --epochs N [options]",
        "  espalier train smaller.onnx -o tuned.onnx --data fashion-mnist --epochs 2 --lr 0.01 --crop 2 "
        "--flip\n"
        "  espalier train big.onnx -o out.onnx --data cifar10:DIR --epochs 30 --optimizer adamw --warmup 1\n"
        "           --checkpoint run.ckpt --checkpoint-every 200s      # and after a crash: --resume "
        "run.ckpt",
        1,
        1,
        options,
        false};
    char *items[argc + 1];
    esp_positionals positionals = {0, items};
    esp_status status = esp_cli_parse(&syntax, argc, argv, &positionals, &is_done, err);
    if (status != ESP_OK || is_done) {
        return status;
    }
    if (!it.output || !it.data || isnan(train_options->epochs_limit)) {
        const char *missing = !it.output ? "-o OUT.onnx" : !it.data ? "--data SPEC" : "--epochs N";
        return esp_fail(err, ESP_INVALID, "%s is missing", missing);
    }
    it.report.is_json = it.is_json;
    it.report.output = it.output;
    it.report.history = json_array();
    status = run(cli, &it, positionals.items[0], err);
    json_decref(it.report.history);
    esp_train_state_free(&it.resumed);
    esp_schedule_free(&it.options.schedule);
    esp_graph_unref(it.teacher_graph);
    esp_group_lasso_free(it.lasso);
    return status;
}
