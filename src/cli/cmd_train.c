/* espalier train: training and fine-tuning with the best version always on disk. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/inputs.h"
#include "io/dataset.h"
#include "io/onnx.h"
#include "prune/mask.h"
#include "train/trainer.h"

typedef struct train_request {
    esp_train_options options;
    const char *output, *data, *schedule, *milestones;
    int64_t threads, seed, crop;
    bool is_json, frees_masks;
    json_t *history; /* one object per epoch */
} train_request;

static json_t *epoch_json(const esp_epoch_report *report)
{
    json_t *object = json_pack("{s:i, s:f, s:f, s:f, s:b, s:o}", "epoch", report->epoch, "lr", report->lr,
                               "images_per_s", report->images_per_s, "seconds", report->seconds, "is_best",
                               report->is_best, "validation", esp_cli_eval_json(&report->validation));
    if (object && report->epoch > 0) {
        json_object_set_new(object, "train_loss", esp_cli_json_real(report->train_loss));
        json_object_set_new(object, "train_top1", json_real(report->train_top1));
    }
    return object;
}

/* Every new best goes to disk at once: an interrupted or killed run leaves it there. */
static esp_status on_epoch(void *user, const esp_epoch_report *report, esp_error *err)
{
    train_request *it = user;
    char accuracy[48], seconds[16];
    json_array_append_new(it->history, epoch_json(report));
    if (!it->is_json) {
        esp_cli_end_progress();
        esp_cli_accuracy_text(&report->validation, accuracy, sizeof accuracy);
        if (report->epoch == 0) {
            printf("before       test top-1 %s  loss %.4f\n", accuracy, report->validation.loss);
        } else {
            printf("epoch %2d/%d  train loss %.4f top-1 %.2f %%  test top-1 %s loss %.4f  lr %.4g  %.0f "
                   "images/s  %s%s\n",
                   report->epoch, report->epochs, report->train_loss, report->train_top1, accuracy,
                   report->validation.loss, report->lr, report->images_per_s,
                   esp_format_duration(seconds, sizeof seconds, report->seconds),
                   report->is_best ? "  best" : "");
        }
        fflush(stdout);
    }
    return report->is_best && report->graph && report->epoch > 0
               ? esp_onnx_save(report->graph, it->output, err)
               : ESP_OK;
}

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

static esp_status finish_options(train_request *it, esp_error *err)
{
    esp_train_options *options = &it->options;
    esp_schedule *schedule = &options->schedule;
    esp_status status = it->schedule ? esp_schedule_parse_kind(it->schedule, &schedule->kind, err) : ESP_OK;
    if (status == ESP_OK && it->milestones) {
        status = parse_milestones(it->milestones, schedule, err);
    }
    options->seed = (uint64_t)it->seed;
    options->augmentation.crop_padding = (int)it->crop;
    options->evaluates_first = true;
    options->on_epoch = on_epoch;
    options->epoch_user = it;
    return status == ESP_OK ? esp_schedule_check(schedule, err) : status;
}

static esp_status print_result(const train_request *it, const esp_train_result *result, bool was_interrupted,
                               esp_error *err)
{
    char first[48], best[48];
    if (it->is_json) {
        return esp_cli_print_json(json_pack("{s:o, s:i, s:i, s:I, s:f, s:f, s:b, s:o, s:o, s:O}", "output",
                                            esp_cli_json_text(it->output), "epochs_done", result->epochs_done,
                                            "best_epoch", result->best_epoch, "steps",
                                            (json_int_t)result->steps, "seconds", result->seconds,
                                            "images_per_s", result->images_per_s, "interrupted",
                                            was_interrupted, "first", esp_cli_eval_json(&result->first),
                                            "best", esp_cli_eval_json(&result->best), "epochs", it->history),
                                  err);
    }
    esp_cli_end_progress();
    if (result->best.images == 0) {
        printf("wrote        %s: the weights as they were, nothing was measured yet\n", it->output);
        return ESP_OK;
    }
    printf("best         epoch %d: test top-1 %s (before %s)\nwrote        %s\n", result->best_epoch,
           esp_cli_accuracy_text(&result->best, best, sizeof best),
           esp_cli_accuracy_text(&result->first, first, sizeof first), it->output);
    return ESP_OK;
}

/* An interrupted training has put its best version into `trained` too: it is written before the status goes
 * on. */
static esp_status train(esp_cli *cli, train_request *it, const esp_graph *graph, esp_error *err)
{
    esp_dataset *training = NULL, *test = NULL;
    esp_graph *trained = NULL;
    esp_held_masks masks = {0};
    esp_train_result result = {0};
    esp_status status = esp_dataset_open(it->data, ESP_SPLIT_TRAIN, &training, err);
    if (status == ESP_OK) {
        status = esp_dataset_open(it->data, ESP_SPLIT_TEST, &test, err);
    }
    if (status == ESP_OK && !it->frees_masks) {
        status = esp_held_masks_of(graph, &masks, err);
        it->options.masks = masks.items;
        it->options.mask_count = masks.count;
    }
    if (status == ESP_OK) {
        status = esp_train(&cli->compute, graph, training, test, &it->options, &trained, &result, err);
    }
    if (trained) {
        esp_error save_error = {0};
        esp_status saved = esp_onnx_save(trained, it->output, &save_error);
        if (saved == ESP_OK && (status == ESP_OK || status == ESP_CANCELLED)) {
            saved = print_result(it, &result, status == ESP_CANCELLED, &save_error);
        }
        if (saved != ESP_OK) {
            status = saved;
            *err = save_error;
        }
    }
    if (status == ESP_CANCELLED && err) {
        esp_fail(err, ESP_CANCELLED,
                 trained ? "the best version so far is in %s" : "nothing was written to %s", it->output);
    }
    esp_graph_unref(trained);
    esp_held_masks_free(&masks);
    esp_dataset_unref(training);
    esp_dataset_unref(test);
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

esp_status esp_command_train(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    bool is_done = false;
    char data_help[128];
    train_request it = {.options = esp_train_defaults()};
    esp_train_options *train_options = &it.options;
    train_options->epochs_limit = NAN;
    const esp_option options[] = {
        {"output", 'o', ESP_OPTION_TEXT, &it.output, "OUT.onnx", "where the best version goes", 0, 0, 0},
        {"data", 'd', ESP_OPTION_TEXT, &it.data, "SPEC", esp_cli_data_help(data_help, sizeof data_help), 0, 0,
         0},
        {"epochs", 'e', ESP_OPTION_REAL, &train_options->epochs_limit, "N",
         "how long; 0.25 is a quarter of the images", 1e-6, 1e6, 0},
        {"lr", 0, ESP_OPTION_REAL, &train_options->schedule.lr, "RATE", "learning rate (default 0.01)", 1e-12,
         1e3, 0},
        {"schedule", 0, ESP_OPTION_TEXT, &it.schedule, "NAME", "cosine (default), step or constant", 0, 0, 0},
        {"milestones", 0, ESP_OPTION_TEXT, &it.milestones, "E,E,..",
         "step: epochs at which the rate drops (default: thirds)", 0, 0, 0},
        {"gamma", 0, ESP_OPTION_REAL, &train_options->schedule.gamma, "F",
         "step: factor of a drop (default 0.1)", 1e-9, 1, 0},
        {"warmup", 0, ESP_OPTION_REAL, &train_options->schedule.warmup_epochs, "N",
         "epochs of linear warm-up", 0, 1e6, 0},
        {"batch", 'b', ESP_OPTION_INT, &train_options->batch, "N", "images per step (default 128)", 1, 65536,
         0},
        {"momentum", 0, ESP_OPTION_REAL, &train_options->momentum, "M", "default 0.9", 0, 1, true},
        {"weight-decay", 0, ESP_OPTION_REAL, &train_options->weight_decay, "W", "default 1e-4", 0, 1, 0},
        {"nesterov", 0, ESP_OPTION_FLAG, &train_options->uses_nesterov, NULL, "Nesterov momentum", 0, 0, 0},
        {"crop", 0, ESP_OPTION_INT, &it.crop, "P", "random crops from images padded by P pixels", 0, 64, 0},
        {"flip", 0, ESP_OPTION_FLAG, &train_options->augmentation.flips, NULL, "random horizontal flips", 0,
         0, 0},
        {"freeze-norm", 0, ESP_OPTION_FLAG, &train_options->freezes_norm, NULL, "keep batch-norm statistics",
         0, 0, 0},
        {"free-masks", 0, ESP_OPTION_FLAG, &it.frees_masks, NULL, "let masked weights grow back", 0, 0, 0},
        {"train-limit", 0, ESP_OPTION_INT, &train_options->train_limit, "N", "N random images per epoch", 1,
         1e9, 0},
        {"limit", 'n', ESP_OPTION_INT, &train_options->validation_limit, "N",
         "measure on the first N test images", 1, 1e9, 0},
        {"mean", 0, ESP_OPTION_TEXT, &train_options->mean, "M[,M..]",
         "normalisation: mean of x/255 per channel", 0, 0, 0},
        {"std", 0, ESP_OPTION_TEXT, &train_options->std, "S[,S..]", "normalisation: standard deviation", 0, 0,
         0},
        {"seed", 0, ESP_OPTION_INT, &it.seed, "N", "default 0; same seed, same result", 0, 1e15, 0},
        {"threads", 't', ESP_OPTION_INT, &it.threads, "N", "default: all cores", 1, 1024, 0},
        ESP_CLI_KERNELS(cli),
        {"json", 0, ESP_OPTION_FLAG, &it.is_json, NULL, "one JSON object at the end instead of lines", 0, 0,
         0},
        {0},
    };
    const esp_command_syntax syntax = {"train",
                                       "Train or fine-tune with SGD. The best version by top-1 on the test "
                                       "images is kept; masks of a pruned model\n"
                                       "are held. Ctrl-C ends early and leaves the best version so far.",
                                       "MODEL.onnx -o OUT.onnx --data SPEC --epochs N [options]",
                                       "  espalier train smaller.onnx -o tuned.onnx --data fashion-mnist "
                                       "--epochs 2 --lr 0.01 --crop 2 --flip",
                                       1,
                                       1,
                                       options,
                                       false};
    char *items[argc + 1];
    esp_positionals positionals = {0, items};
    esp_graph *graph = NULL;
    esp_status status = esp_cli_parse(&syntax, argc, argv, &positionals, &is_done, err);
    if (status != ESP_OK || is_done) {
        return status;
    }
    if (!it.output || !it.data || isnan(train_options->epochs_limit)) {
        const char *missing = !it.output ? "-o OUT.onnx" : !it.data ? "--data SPEC" : "--epochs N";
        return esp_fail(err, ESP_INVALID, "%s is missing", missing);
    }
    it.history = json_array();
    status = finish_options(&it, err);
    if (status == ESP_OK) {
        status = esp_onnx_load(positionals.items[0], &graph, err);
    }
    if (status == ESP_OK) {
        status = check_writable(it.output, err);
    }
    if (status == ESP_OK) {
        status = esp_cli_start(cli, it.threads, err);
    }
    if (status == ESP_OK) {
        status = train(cli, &it, graph, err);
    }
    esp_graph_unref(graph);
    json_decref(it.history);
    return status;
}
