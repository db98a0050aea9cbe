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
#include "cli/train_flags.h"
#include "cli/train_report.h"
#include "io/checkpoint.h"
#include "io/onnx.h"
#include "prune/group_lasso.h"
#include "prune/mask.h"
#include "train/classifier.h"
#include "train/trainer.h"

/* What is kept in a checkpoint beside the training's state: the epochs reported so far, as JSON. */
#define HISTORY_BLOCK "cli/history"

#define MAX_LOSS 1e4

typedef struct train_request {
    esp_cli_train_flags flags;
    esp_train_options options;
    esp_train_report report;
    const char *output, *data, *validation, *checkpoint, *resume, *log;
    int64_t threads, seed, classes;
    double epochs, lasso_strength;
    bool is_json, frees_masks, validates_on_test, replaces_classifier;
    esp_cli_images images; /* only --skip-bad: --crop is an augmentation here */
    esp_group_lasso *lasso;
    int failures_told; /* of writing the best version */
    int written_epoch; /* whose weights -o has; 0: none of this run */
    char note[64];
    esp_train_state resumed;
} train_request;

/* ---- callbacks ---- */

/* Every new best goes to disk at once: an interrupted or killed run leaves it there. When it cannot be
 * written training goes on, and the end tries again. */
static esp_status on_epoch(void *user, const esp_epoch_report *report, esp_error *err)
{
    train_request *it = user;
    esp_error why = {0};
    (void)err;
    esp_train_report_epoch(&it->report, report);
    if (!report->is_best || !report->graph || report->epoch == 0) {
        return ESP_OK;
    }
    if (esp_onnx_save(report->graph, it->output, &why) == ESP_OK) {
        it->written_epoch = report->epoch;
    } else if (it->failures_told++ == 0) {
        esp_error_set_hint(&why, "training goes on; it is tried again");
        esp_cli_complain("warning", &why);
    }
    return ESP_OK;
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

static esp_status choose_checkpoints(train_request *it, esp_error *err)
{
    if (!it->checkpoint) {
        it->checkpoint = it->resume;
    }
    if (!it->checkpoint) {
        return it->flags.checkpoint_every
                   ? esp_fail(err, ESP_INVALID, "--checkpoint-every: expected --checkpoint FILE beside it")
                   : ESP_OK;
    }
    it->report.checkpoint = it->checkpoint;
    it->options.on_checkpoint = on_checkpoint;
    it->options.checkpoint_user = it;
    return ESP_OK;
}

static esp_status finish_options(train_request *it, esp_error *err)
{
    esp_train_options *options = &it->options;
    esp_status status = esp_cli_train_options(&it->flags, options, err);
    if (status == ESP_OK) {
        status = choose_checkpoints(it, err);
    }
    options->epochs_limit = it->epochs;
    options->seed = (uint64_t)it->seed;
    options->evaluates_first = true;
    options->on_epoch = on_epoch;
    options->epoch_user = it;
    if (it->log) {
        options->on_step = on_step;
        options->step_user = it;
    }
    return status;
}

static esp_status open_data(const esp_cli *cli, train_request *it, const esp_graph *graph,
                            esp_cli_train_data *data, esp_error *err)
{
    const esp_cli_train_data_wish wish = {.data = it->data,
                                          .images = &it->images,
                                          .validation = it->validation,
                                          .validates_on_test = it->validates_on_test,
                                          .seed = it->options.seed};
    esp_status status = esp_cli_train_data_open(&cli->compute, &wish, graph, data, err);
    if (status == ESP_OK) {
        it->report.measured = data->measured;
        it->report.has_validation = data->validation != NULL;
        memcpy(it->report.source, data->source, sizeof data->source);
    }
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

/* Replaces the model by one for other classes when that was asked for. */
static esp_status replace_classifier(const train_request *it, const esp_cli_train_data *data,
                                     esp_graph **graph, esp_error *err)
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
    esp_status status = esp_group_lasso_of_model(graph, training, it->lasso_strength, &it->lasso, err);
    if (status == ESP_OK) {
        it->options.penalties = esp_group_lasso_penalties(it->lasso, &it->options.penalty_count);
        snprintf(it->note, sizeof it->note, "group lasso %.17g", it->lasso_strength);
        it->options.note = it->note;
    }
    return status;
}

/* ---- training ---- */

static esp_status measure_test(esp_cli *cli, const train_request *it, const esp_cli_train_data *data,
                               const esp_graph *trained, esp_eval_result *out, esp_error *err)
{
    const esp_eval_options options = {.limit = it->options.validation_limit};
    return esp_evaluate(&cli->compute, trained, data->test, &options, out, err);
}

/* Writes the best version, measures it on the test set if that was not what it was chosen by, and reports. */
static esp_status finish(esp_cli *cli, train_request *it, const esp_cli_train_data *data,
                         const esp_graph *trained, const esp_train_result *result, esp_status ended,
                         esp_error *err)
{
    esp_eval_result test = {0};
    esp_status measured = ESP_OK, status = esp_onnx_save(trained, it->output, err);
    if (status != ESP_OK) {
        if (result->checkpoints > 0) {
            esp_error_set_hint(err, "the training is in %s: --resume %s goes on", it->checkpoint,
                               it->checkpoint);
        }
        return status;
    }
    if (ended == ESP_OK && !it->validates_on_test) {
        measured = measure_test(cli, it, data, trained, &test, err);
    }
    status = esp_train_report_end(&it->report, result, ended, &test, measured == ESP_OK ? err : NULL);
    if (measured != ESP_OK && measured != ESP_CANCELLED) {
        esp_error_prefix(err, "%s is written, but the test images could not be measured", it->output);
    }
    return measured != ESP_OK && measured != ESP_CANCELLED ? measured : status;
}

/* A training that failed, say at an image that cannot be read, has left its last best version and its last
 * checkpoint: both are named behind the hint of the failure. */
static void explain_failure(const train_request *it, const esp_train_result *result, esp_error *err)
{
    char hint[sizeof err->hint], more[sizeof err->hint] = "";
    if (it->written_epoch > 0) {
        snprintf(more, sizeof more, "the best version so far, of epoch %d, is in %s", it->written_epoch,
                 it->output);
    }
    if (it->checkpoint && result->checkpoints > 0) {
        size_t used = strlen(more);
        snprintf(more + used, sizeof more - used, "%s--resume %s goes on", used ? "; " : "", it->checkpoint);
    }
    if (more[0]) {
        snprintf(hint, sizeof hint, "%s", err->hint);
        esp_error_set_hint(err, "%s%s%s", hint, hint[0] ? "; " : "", more);
    }
}

static void explain_end(esp_status status, const train_request *it, const esp_train_result *result,
                        bool is_written, esp_error *err)
{
    char more[600] = "";
    if (it->checkpoint && result->checkpoints > 0) {
        snprintf(more, sizeof more, "; --resume %.500s goes on", it->checkpoint);
    }
    if (status == ESP_CANCELLED) {
        esp_fail(err, ESP_CANCELLED,
                 is_written ? "the best version so far is in %s%s" : "nothing was written to %s%s",
                 it->output, more);
    } else if (status == ESP_DIVERGED && is_written) {
        esp_error_set_hint(err, "try a lower learning rate; the best version so far is in %s", it->output);
    } else if (status != ESP_OK && !is_written) {
        if (status ==
            ESP_DIVERGED) { /* before there was a first version, without a measurement to begin with */
            esp_error_set_hint(err, "try a lower learning rate; nothing was written to %s", it->output);
        }
        explain_failure(it, result, err);
    }
}

/* An interrupted or diverged training has put its best version into `trained` too: it is written before the
 * status goes on. */
static esp_status train(esp_cli *cli, train_request *it, const esp_cli_train_data *data,
                        const esp_graph *graph, esp_error *err)
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
    explain_end(status, it, &result, is_written, err);
    esp_graph_unref(trained);
    esp_held_masks_free(&masks);
    return status;
}

/* Finds out before hours of work whether what is to be written can be, each in a file of its own. */
static esp_status check_files(const train_request *it, esp_error *err)
{
    const struct {
        const char *flag, *path;
    } files[] = {{"-o", it->output}, {"--checkpoint", it->checkpoint}, {"--log", it->log}};
    esp_status status = ESP_OK;
    for (size_t i = 0; status == ESP_OK && i < sizeof files / sizeof files[0]; i++) {
        for (size_t other = 0; status == ESP_OK && files[i].path && other < i; other++) {
            if (files[other].path && esp_cli_is_same_file(files[i].path, files[other].path)) {
                status = esp_fail(err, ESP_INVALID, "%s and %s: expected two files, found '%s'",
                                  files[other].flag, files[i].flag, files[i].path);
            }
        }
        /* a log may be a pipe or a terminal; it is opened before training */
        if (status == ESP_OK && files[i].path && files[i].path != it->log) {
            status = esp_cli_check_writable(files[i].path, err);
        }
    }
    return status;
}

static esp_status run(esp_cli *cli, train_request *it, const char *model, esp_error *err)
{
    esp_graph *graph = NULL;
    esp_cli_train_data data = {0};
    esp_status status = finish_options(it, err);
    if (status == ESP_OK) {
        status = esp_onnx_load(model, &graph, err);
    }
    if (status == ESP_OK) {
        status = check_files(it, err);
    }
    if (status == ESP_OK) {
        status = load_checkpoint(it, err);
    }
    if (status == ESP_OK) {
        status = esp_cli_start(cli, it->threads, err);
    }
    if (status == ESP_OK) {
        status = open_data(cli, it, graph, &data, err);
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
    esp_cli_train_data_close(&data);
    esp_graph_unref(graph);
    return status;
}

esp_status esp_command_train(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    bool is_done = false;
    char data_help[128];
    train_request it = {.flags = ESP_CLI_TRAIN_FLAGS_NONE,
                        .options = esp_train_defaults(),
                        .epochs = NAN,
                        .report = {.log_every = 20}};
    it.flags.schedule_flag = "--schedule";
    it.options.max_loss = MAX_LOSS;
    const esp_option options[] = {
        {"output", 'o', ESP_OPTION_TEXT, &it.output, "OUT.onnx", "where the best version goes", 0, 0, 0},
        {"data", 'd', ESP_OPTION_TEXT, &it.data, "SPEC", esp_cli_data_help(data_help, sizeof data_help), 0, 0,
         0},
        {"epochs", 'e', ESP_OPTION_REAL, &it.epochs, "N", "how long; 0.25 is a quarter of the images", 1e-6,
         1e6, 0},
        {"batch", 'b', ESP_OPTION_INT, &it.flags.batch, "N", "images per step (default 128)", 1, 65536, 0},
        {"seed", 0, ESP_OPTION_INT, &it.seed, "N", "default 0; same seed, same result", 0, 1e15, 0},
        ESP_OPTIONS_ABOUT("Images"),
        ESP_CLI_VALIDATION_ROWS(&it),
        ESP_CLI_TRAIN_IMAGES_ROWS(&it.flags),
        ESP_CLI_SKIP_BAD(&it.images),
        ESP_OPTIONS_ABOUT("Learning rate"),
        ESP_CLI_TRAIN_RATE_ROWS(&it.flags, "schedule"),
        ESP_OPTIONS_ABOUT("Optimizer"),
        ESP_CLI_TRAIN_OPTIMIZER_ROWS(&it.flags),
        ESP_OPTIONS_ABOUT("Loss"),
        ESP_CLI_TRAIN_LOSS_ROWS(&it.flags),
        {"group-lasso", 0, ESP_OPTION_REAL, &it.lasso_strength, "L",
         "weight of a group lasso over the kernels of all layers", 0, 1e6, 0},
        ESP_OPTIONS_ABOUT("Model"),
        ESP_CLI_TRAIN_MODEL_ROWS(&it.flags),
        {"free-masks", 0, ESP_OPTION_FLAG, &it.frees_masks, NULL, "let masked weights grow back", 0, 0, 0},
        {"replace-classifier", 0, ESP_OPTION_FLAG, &it.replaces_classifier, NULL,
         "a new last layer for the classes of the data", 0, 0, 0},
        {"classes", 0, ESP_OPTION_INT, &it.classes, "N", "a new last layer for N classes", 1, 1000000, 0},
        ESP_OPTIONS_ABOUT("Ending and going on"),
        ESP_CLI_TRAIN_END_ROWS(&it.flags),
        {"checkpoint", 0, ESP_OPTION_TEXT, &it.checkpoint, "FILE", "keep the state of the training here", 0,
         0, 0},
        {"checkpoint-every", 0, ESP_OPTION_TEXT, &it.flags.checkpoint_every, "N",
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
    if (!it.output || !it.data || isnan(it.epochs)) {
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
    esp_cli_train_flags_free(&it.flags);
    esp_group_lasso_free(it.lasso);
    return status;
}
