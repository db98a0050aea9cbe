/* The same figures three ways. Standard output has lines, or with --json one object at the end; the log has
 * one object per line as things happen, so that another program can follow. */
#include "cli/train_report.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/text.h"
#include "cli/cli.h"
#include "cli/inputs.h"

/* ---- the log ---- */

esp_status esp_train_report_open(esp_train_report *it, const char *log, bool is_resumed, esp_error *err)
{
    if (!log) {
        return ESP_OK;
    }
    it->log = fopen(log, is_resumed ? "a" : "w");
    return it->log ? ESP_OK : esp_fail(err, ESP_IO, "%s: cannot write: %s", log, strerror(errno));
}

esp_status esp_train_report_close(esp_train_report *it, esp_error *err)
{
    if (!it->log) {
        return ESP_OK;
    }
    bool is_bad = ferror(it->log) != 0;
    is_bad = fclose(it->log) != 0 || is_bad;
    it->log = NULL;
    return is_bad ? esp_fail(err, ESP_IO, "--log: could not be written to the end") : ESP_OK;
}

/* One line; takes the object. */
static void write_line(esp_train_report *it, const char *event, json_t *take_object)
{
    if (it->log && take_object) {
        json_object_set_new(take_object, "event", json_string(event));
        json_dumpf(take_object, it->log, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(12));
        fputc('\n', it->log);
        fflush(it->log);
    }
    json_decref(take_object);
}

void esp_train_report_start(esp_train_report *it, const esp_train_options *options)
{
    if (!it->is_json) {
        printf("%-12s %s\n", it->measured, it->source);
    }
    if (it->log) {
        json_t *schedule = esp_schedule_to_json(&options->schedule);
        write_line(it, "start",
                   json_pack("{s:f, s:s, s:o, s:I, s:s, s:o}", "epochs", options->epochs_limit, "optimizer",
                             esp_optimizer_word(options->optimizer), "schedule",
                             schedule ? schedule : json_null(), "seed", (json_int_t)options->seed,
                             "validation", it->source, "output", esp_cli_json_text(it->output)));
    }
}

void esp_train_report_step(esp_train_report *it, const esp_step_report *report)
{
    if (!it->log || report->step % it->log_every != 0) {
        return;
    }
    write_line(it, "progress",
               json_pack("{s:i, s:I, s:o, s:o, s:f, s:f, s:f, s:f, s:o}", "epoch", report->epoch, "step",
                         (json_int_t)report->step, "loss", esp_cli_json_real(report->loss), "epoch_loss",
                         esp_cli_json_real(report->epoch_loss), "top1", report->epoch_top1, "top5",
                         report->epoch_top5, "lr", report->lr, "images_per_s", report->images_per_s, "eta_s",
                         report->eta_s >= 0 ? json_real(report->eta_s) : json_null()));
}

/* ---- epochs ---- */

static json_t *epoch_json(const esp_epoch_report *report)
{
    json_t *object = json_pack("{s:i, s:f, s:f, s:f, s:b, s:o}", "epoch", report->epoch, "lr", report->lr,
                               "images_per_s", report->images_per_s, "seconds", report->seconds, "is_best",
                               report->is_best, "validation", esp_cli_eval_json(&report->validation));
    if (object && report->epoch > 0) {
        json_object_set_new(object, "train_loss", esp_cli_json_real(report->train_loss));
        json_object_set_new(object, "train_top1", json_real(report->train_top1));
        json_object_set_new(object, "train_top5", json_real(report->train_top5));
    }
    return object;
}

static void print_epoch(const esp_train_report *it, const esp_epoch_report *report)
{
    char accuracy[48], seconds[16];
    esp_cli_end_progress();
    esp_cli_accuracy_text(&report->validation, accuracy, sizeof accuracy);
    if (report->epoch == 0) {
        printf("before       %s top-1 %s  loss %.4f\n", it->measured, accuracy, report->validation.loss);
        fflush(stdout);
        return;
    }
    printf("epoch %2d/%d  train loss %.4f top-1 %.2f %%", report->epoch, report->epochs, report->train_loss,
           report->train_top1);
    if (it->has_validation) {
        printf("  %s top-1 %s loss %.4f", it->measured, accuracy, report->validation.loss);
    }
    printf("  lr %.4g  %.0f images/s  %s%s\n", report->lr, report->images_per_s,
           esp_format_duration(seconds, sizeof seconds, report->seconds),
           it->has_validation && report->is_best ? "  best" : "");
    fflush(stdout);
}

void esp_train_report_epoch(esp_train_report *it, const esp_epoch_report *report)
{
    json_array_append_new(it->history, epoch_json(report));
    write_line(it, "epoch", epoch_json(report));
    if (!it->is_json) {
        print_epoch(it, report);
    }
}

void esp_train_report_checkpoint(esp_train_report *it, esp_status status, const esp_error *why)
{
    if (status == ESP_OK) {
        write_line(it, "checkpoint", json_pack("{s:o}", "file", esp_cli_json_text(it->checkpoint)));
        return;
    }
    write_line(it, "checkpoint-failed", json_pack("{s:o}", "message", esp_cli_json_text(why->message)));
    if (it->failures_told++ == 0) {
        esp_error told = *why;
        esp_error_set_hint(&told, "training goes on; the checkpoint before is kept");
        esp_cli_complain("warning", &told);
    }
}

/* ---- the end ---- */

static json_t *result_json(const esp_train_report *it, const esp_train_result *result, esp_status status,
                           const esp_eval_result *test)
{
    json_t *object = json_pack(
        "{s:o, s:i, s:i, s:I, s:f, s:f, s:b, s:o, s:o, s:o, s:s, s:s, s:b, s:I, s:i, s:i}", "output",
        esp_cli_json_text(it->output), "epochs_done", result->epochs_done, "best_epoch", result->best_epoch,
        "steps", (json_int_t)result->steps, "seconds", result->seconds, "images_per_s", result->images_per_s,
        "interrupted", status == ESP_CANCELLED, "first", esp_cli_eval_json(&result->first), "best",
        esp_cli_eval_json(&result->best), "test", esp_cli_eval_json(test), "measured_on",
        it->has_validation ? it->measured : "none", "validation_from", it->source, "stopped_early",
        result->stopped_early, "resumed_step", (json_int_t)result->resumed_step, "checkpoints",
        result->checkpoints, "checkpoint_failures", result->checkpoint_failures);
    if (object && result->checkpoint_failures > 0) {
        json_object_set_new(object, "checkpoint_error", esp_cli_json_text(result->checkpoint_error.message));
    }
    if (object && it->training) {
        json_object_set_new(object, "skipped", json_integer(esp_dataset_skipped(it->training)));
        json_object_set_new(object, "skipped_messages", esp_cli_skipped_json(it->training));
    }
    if (object && status == ESP_DIVERGED) {
        json_object_set_new(object, "diverged_at", esp_cli_json_text(result->diverged_at));
    }
    return object;
}

/* What was chosen by validation images. */
static void print_best(const esp_train_report *it, const esp_train_result *result)
{
    char first[48], best[48];
    printf("best         epoch %d: %s top-1 %s (before %s)\n", result->best_epoch, it->measured,
           esp_cli_accuracy_text(&result->best, best, sizeof best),
           esp_cli_accuracy_text(&result->first, first, sizeof first));
    if (result->best_epoch == 0 && result->epochs_done > 0 && strcmp(it->measured, "validation") == 0) {
        printf(
            "note         no epoch was better than the start; a network that was trained on the images held "
            "back knows them already (--validation SPEC)\n");
    }
}

static void print_rest(const esp_train_report *it, const esp_train_result *result,
                       const esp_eval_result *test)
{
    char accuracy[48];
    if (test->images > 0) {
        printf("test         top-1 %s  top-5 %.2f %%  loss %.4f\n",
               esp_cli_accuracy_text(test, accuracy, sizeof accuracy), test->top5, test->loss);
    }
    if (it->training && esp_dataset_skipped(it->training) > 0) {
        printf("left out     %lld bad images\n", (long long)esp_dataset_skipped(it->training));
    }
    if (result->checkpoint_failures > 0) {
        printf("checkpoints  %d of %d could not be written\n", result->checkpoint_failures,
               result->checkpoints + result->checkpoint_failures);
    }
    printf("wrote        %s\n", it->output);
}

static void print_end(const esp_train_report *it, const esp_train_result *result, const esp_eval_result *test)
{
    esp_cli_end_progress();
    if (result->stopped_early) {
        printf("stopped      the loss on %s images has not fallen any more\n",
               it->has_validation ? it->measured : "training");
    }
    if (it->has_validation && result->best.images == 0) {
        printf("wrote        %s: the weights as they were, nothing was measured yet\n", it->output);
        return;
    }
    if (it->has_validation) {
        print_best(it, result);
    }
    print_rest(it, result, test);
}
esp_status esp_train_report_end(esp_train_report *it, const esp_train_result *result, esp_status status,
                                const esp_eval_result *test, esp_error *err)
{
    write_line(it, "end", result_json(it, result, status, test));
    if (!it->is_json) {
        print_end(it, result, test);
        return ESP_OK;
    }
    json_t *object = result_json(it, result, status, test);
    if (object) {
        json_object_set(object, "epochs", it->history);
    }
    return esp_cli_print_json(object, err);
}
