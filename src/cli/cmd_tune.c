/* espalier tune: a pruning schedule, training and pruning by turns. A command of its own beside prune and
 * train, which it puts together: what it takes is a plan, a schedule and the options of training, what it
 * writes is one model, and what it shows is a table of steps. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/inputs.h"
#include "cli/plan_preset.h"
#include "cli/train_flags.h"
#include "io/checkpoint.h"
#include "io/onnx.h"

#define MAX_LOSS 1e4

typedef struct tune_request {
    esp_cli_plan_flags flags; /* with data and calibration images */
    const char *preset;
    esp_plan plan;
    esp_gradual schedule;
    esp_train_options training;
    esp_cli_train_flags train_flags;
    const char *output, *validation, *prune_schedule, *save_schedule, *state, *form;
    const char *measured; /* where the validation images come from, for people */
    char *state_path;     /* owned */
    double step, initial, local_epochs, local_lr, epochs, group_lasso; /* NAN: not given */
    int64_t steps, threads;
    int failures_told;
    esp_cli_images images; /* only --skip-bad */
    bool is_json, resumes, cuts, validates_on_test;
} tune_request;

/* ---- options ---- */

static void set_if_given(double given, double *target)
{
    if (!isnan(given)) {
        *target = given;
    }
}

static esp_status choose_schedule(tune_request *it, esp_error *err)
{
    esp_gradual *schedule = &it->schedule;
    esp_status status = ESP_OK;
    if (it->prune_schedule) {
        status = esp_gradual_open(it->prune_schedule, schedule, err);
    } else if (!it->preset) {
        status = esp_fail(err, ESP_INVALID,
                          "--prune-schedule is missing, expected one-shot, lg, g, l, linear, agp or a file "
                          "(or --preset)");
    }
    if (status != ESP_OK) {
        return status;
    }
    set_if_given(it->step, &schedule->step);
    set_if_given(it->initial, &schedule->initial);
    set_if_given(it->local_epochs, &schedule->local_epochs);
    set_if_given(it->local_lr, &schedule->local_lr);
    set_if_given(it->epochs, &schedule->epochs);
    set_if_given(it->group_lasso, &schedule->group_lasso);
    schedule->steps = it->steps ? (int)it->steps : schedule->steps;
    status = esp_gradual_check(schedule, err);
    return status == ESP_OK ? esp_gradual_check_plan(schedule, &it->plan, err) : status;
}

/* Flags that would do nothing are refused. */
static esp_status check_uses(const tune_request *it, esp_error *err)
{
    char found[64], kind[64];
    const esp_gradual *schedule = &it->schedule;
    const bool rises = esp_gradual_rises(schedule), steps_up = esp_gradual_has_equal_steps(schedule);
    const bool is_global = schedule->kind == ESP_GRADUAL_G, is_local = schedule->kind == ESP_GRADUAL_L;
    snprintf(kind, sizeof kind, "%s", esp_gradual_word(schedule->kind));
    esp_cli_method_text(&it->flags, &it->plan, found, sizeof found);
    const esp_cli_use uses[] = {
        {"--step", !isnan(it->step), steps_up, "schedules lg, g and l", kind},
        {"--steps", it->steps != 0, rises, "schedules linear and agp", kind},
        {"--initial", !isnan(it->initial), rises, "schedules linear and agp", kind},
        {"--local-epochs", !isnan(it->local_epochs), rises || (steps_up && !is_global),
         "schedules lg, l, linear and agp", kind},
        {"--local-lr", !isnan(it->local_lr), steps_up && !is_global, "schedules lg and l", kind},
        {"--epochs", !isnan(it->epochs), !is_local, "schedules that train at the end", kind},
        {"--form", it->form != NULL, it->cuts, "a model that is cut", "no --cut"},
        {"--form", it->form != NULL, it->plan.method == ESP_METHOD_SG, "method sg", found},
    };
    return esp_cli_check_uses(uses, sizeof uses / sizeof uses[0], err);
}

static esp_status finish_options(tune_request *it, esp_error *err)
{
    esp_text path = {0};
    bool keeps_masks = it->preset && esp_preset_keeps_masks(it->preset);
    esp_status status = esp_cli_preset_fill(it->preset, &it->flags, &it->schedule, &it->training, err);
    if (status == ESP_OK) {
        status = esp_cli_plan_make(&it->flags, !keeps_masks, &it->plan, err);
    }
    if (status == ESP_OK) {
        status = choose_schedule(it, err);
    }
    if (status == ESP_OK) {
        status = check_uses(it, err);
    }
    it->training.max_loss = MAX_LOSS;
    it->training.seed = it->flags.seed >= 0 ? (uint64_t)it->flags.seed : 0;
    if (status == ESP_OK) {
        status = esp_cli_train_options(&it->train_flags, &it->training, err);
    }
    if (status == ESP_OK && it->form && strcmp(it->form, "grouped") != 0 && strcmp(it->form, "dense") != 0) {
        status = esp_fail(err, ESP_INVALID, "--form: found '%s', expected grouped or dense", it->form);
    }
    if (status != ESP_OK) {
        return status;
    }
    esp_text_printf(&path, it->state ? "%s" : "%s.state.json", it->state ? it->state : it->output);
    it->state_path = esp_text_take(&path);
    return it->state_path ? ESP_OK : esp_fail_memory(err, "a path", strlen(it->output));
}

/* ---- what is shown ---- */

static void print_accuracy(const char *what, double top1)
{
    if (isfinite(top1)) {
        printf("  %s top-1 %.2f %%", what, top1);
    }
}

static esp_status on_event(void *user, const esp_gradual_report *report, esp_error *err)
{
    const tune_request *it = user;
    const esp_gradual_record *record = report->record;
    char params[16], macs[16], seconds[16];
    (void)err;
    if (it->is_json) {
        return ESP_OK;
    }
    esp_cli_end_progress();
    esp_format_duration(seconds, sizeof seconds, record->seconds);
    if (report->event == ESP_GRADUAL_PRUNED) {
        printf("step %d/%d  ratio %.3f  pruned %.1f %%  params %s  MACs %s", record->step, report->steps,
               record->ratio, 100 * record->pruned,
               esp_format_count(params, sizeof params, (double)record->params),
               esp_format_count(macs, sizeof macs, (double)record->macs));
        if (record->executed_groups) {
            printf("  %lld groups in %d layers", (long long)record->executed_groups, record->layers);
        }
        print_accuracy("cut", record->cut_top1);
        printf("\n");
    } else {
        const char *what = report->event == ESP_GRADUAL_TRAINED ? "local" : "global";
        printf("  %s training, %g epochs:", what, record->epochs);
        print_accuracy("", record->trained_top1);
        printf("  %s\n", seconds);
    }
    fflush(stdout);
    return ESP_OK;
}

/* A full disk is said once, and counted at the end. */
static void on_failure(void *user, const esp_error *why)
{
    tune_request *it = user;
    if (it->failures_told++ == 0) {
        esp_error told = *why;
        esp_error_set_hint(&told, "the run goes on; what was kept before stays");
        esp_cli_complain("warning", &told);
    }
}

static json_t *surgery_json(const esp_surgery_report *report)
{
    return json_pack("{s:I, s:i, s:i, s:o, s:I, s:I}", "slots_removed", (json_int_t)report->slots_removed,
                     "layers_narrowed", report->layers_narrowed, "layers_grouped", report->layers_grouped,
                     "largest_relative", esp_cli_json_real(report->largest_relative), "params",
                     (json_int_t)report->counts.params, "macs", (json_int_t)report->counts.macs);
}

static esp_status print_json(const tune_request *it, const esp_gradual_result *result,
                             const esp_eval_result *test, const esp_surgery_report *surgery,
                             bool was_interrupted, esp_error *err)
{
    json_t *schedule = NULL, *plan = NULL;
    esp_status status = esp_gradual_to_json(&it->schedule, &schedule, err);
    if (status == ESP_OK) {
        status = esp_plan_to_json(&it->plan, &plan, err);
    }
    if (status != ESP_OK) {
        json_decref(schedule);
        return status;
    }
    json_t *object =
        json_pack("{s:o, s:o, s:o, s:i, s:i, s:i, s:I, s:i, s:i, s:b, s:s, s:o, s:o}", "output",
                  esp_cli_json_text(it->output), "schedule", schedule, "plan", plan, "steps", result->steps,
                  "steps_done", result->steps_done, "resumed_steps", result->resumed_steps,
                  "resumed_training_step", (json_int_t)result->resumed_training_step, "checkpoints",
                  result->checkpoints, "checkpoint_failures", result->checkpoint_failures, "interrupted",
                  (int)was_interrupted, "validation", it->measured, "test", esp_cli_eval_json(test),
                  "records", esp_gradual_records_to_json(result->records, result->record_count));
    if (object && result->checkpoint_failures > 0) {
        json_object_set_new(object, "checkpoint_error", esp_cli_json_text(result->checkpoint_error.message));
    }
    if (object && it->cuts && !was_interrupted) {
        json_object_set_new(object, "surgery", surgery_json(surgery));
    }
    return esp_cli_print_json(object, err);
}

static esp_status print_result(const tune_request *it, const esp_gradual_result *result,
                               const esp_eval_result *test, const esp_surgery_report *surgery,
                               bool was_interrupted, esp_error *err)
{
    char accuracy[48];
    esp_cli_end_progress();
    if (it->is_json) {
        return print_json(it, result, test, surgery, was_interrupted, err);
    }
    if (it->cuts && !was_interrupted) {
        printf("cut      %lld channels removed, %d layers narrowed, %d grouped; largest difference %.2g "
               "relative\n",
               (long long)surgery->slots_removed, surgery->layers_narrowed, surgery->layers_grouped,
               surgery->largest_relative);
    }
    if (test->images > 0) {
        printf("test     top-1 %s\n", esp_cli_accuracy_text(test, accuracy, sizeof accuracy));
    }
    if (result->checkpoint_failures > 0) {
        printf("kept     %d of %d checkpoints could not be written\n", result->checkpoint_failures,
               result->checkpoints + result->checkpoint_failures);
    }
    printf("wrote    %s%s\n", it->output,
           it->cuts && !was_interrupted ? "" : " (masked: same shapes, zeros inside)");
    return ESP_OK;
}

/* ---- running ---- */

static esp_status open_data(const esp_cli *cli, tune_request *it, const esp_graph *graph,
                            esp_cli_train_data *data, esp_error *err)
{
    const esp_cli_train_data_wish wish = {.data = it->flags.data,
                                          .images = &it->images,
                                          .validation = it->validation,
                                          .validates_on_test = it->validates_on_test,
                                          .seed = it->training.seed};
    return esp_cli_train_data_open(&cli->compute, &wish, graph, data, err);
}

static esp_status measure(esp_cli *cli, const tune_request *it, const esp_cli_train_data *data,
                          const esp_graph *masked, esp_eval_result *out, esp_error *err)
{
    const esp_eval_options options = {
        .limit = it->training.validation_limit, .mean = it->training.mean, .std = it->training.std};
    esp_dataset *test = NULL;
    esp_status status = esp_dataset_fit(data->test, masked, &test, err);
    if (status == ESP_OK) {
        status = esp_evaluate(&cli->compute, masked, test, &options, out, err);
    }
    esp_dataset_unref(test);
    return status;
}

/* Writes the model, cut if that was asked for. Where it cannot be cut the masked one is written: what took
 * hours is not lost. */
static esp_status write_model(esp_cli *cli, const tune_request *it, const esp_cli_train_data *data,
                              const esp_graph *masked, bool cuts, esp_surgery_report *report, esp_error *err)
{
    esp_surgery_options options = esp_surgery_defaults();
    esp_graph *cut = NULL;
    if (!cuts) {
        return esp_onnx_save(masked, it->output, err);
    }
    options.group_form =
        it->form && strcmp(it->form, "dense") == 0 ? ESP_GROUP_FORM_DENSE : ESP_GROUP_FORM_GROUPED;
    esp_status status =
        esp_gradual_cut(&cli->compute, masked, &it->plan, data->training, &options, &cut, report, err);
    if (status == ESP_OK) {
        status = esp_onnx_save(cut, it->output, err);
    } else if (esp_onnx_save(masked, it->output, NULL) == ESP_OK) {
        esp_error_set_hint(err, "%s has the masked model, not cut", it->output);
    }
    esp_graph_unref(cut);
    return status;
}

static esp_status finish(esp_cli *cli, const tune_request *it, const esp_cli_train_data *data,
                         const esp_graph *masked, const esp_gradual_result *result, bool was_interrupted,
                         esp_error *err)
{
    esp_surgery_report report = {0};
    esp_eval_result test = {0};
    esp_status measured = ESP_OK;
    esp_status status = write_model(cli, it, data, masked, it->cuts && !was_interrupted, &report, err);
    if (status != ESP_OK) {
        return status;
    }
    /* an interrupted user wants to go, not to wait for a measurement */
    if (!was_interrupted) {
        measured = measure(cli, it, data, masked, &test, err);
    }
    status = print_result(it, result, &test, &report, was_interrupted, measured == ESP_OK ? err : NULL);
    if (measured != ESP_OK) {
        esp_error_prefix(err, "%s is written, but the test images could not be measured", it->output);
    }
    return measured == ESP_OK ? status : measured;
}

/* Where the work of a run that did not come to its end is. */
static void explain_end(const tune_request *it, const esp_gradual_result *result, esp_status status,
                        bool is_written, esp_error *err)
{
    const bool is_kept = result->checkpoints > 0 || it->resumes;
    if (status == ESP_CANCELLED && is_written) {
        esp_fail(err, ESP_CANCELLED, "%d of %d steps are done; the model so far is in %s%s",
                 result->steps_done, result->steps, it->output, is_kept ? ", --resume goes on" : "");
    } else if (status == ESP_DIVERGED && is_written) {
        esp_error_set_hint(err, "try a lower learning rate; the best version so far is in %s", it->output);
    } else if (!is_written && result->checkpoints > 0) {
        char hint[sizeof err->hint];
        snprintf(hint, sizeof hint, "%s", err->hint);
        esp_error_set_hint(err, "%s%s%d of %d steps are done, --resume goes on", hint, hint[0] ? "; " : "",
                           result->steps_done, result->steps);
    }
}

static esp_status run(esp_cli *cli, tune_request *it, const esp_graph *graph, const esp_cli_train_data *data,
                      esp_error *err)
{
    const esp_gradual_options options = {.schedule = &it->schedule,
                                         .plan = &it->plan,
                                         .training = &it->training,
                                         .calibration_images = it->flags.images,
                                         .on_event = on_event,
                                         .event_user = it,
                                         .state_path = it->state_path,
                                         .resumes = it->resumes,
                                         .save = esp_onnx_save,
                                         .load = esp_onnx_load,
                                         .save_training = esp_checkpoint_save,
                                         .load_training = esp_checkpoint_load,
                                         .on_failure = on_failure};
    esp_gradual_result result = {0};
    esp_graph *masked = NULL;
    esp_status status = esp_prune_gradually(&cli->compute, graph, data->training, data->validation, &options,
                                            &masked, &result, err);
    if (masked) {
        esp_error finish_error = {0};
        esp_status finished = finish(cli, it, data, masked, &result, status != ESP_OK, &finish_error);
        if (finished != ESP_OK && err) {
            *err = finish_error;
        }
        status = finished == ESP_OK ? status : finished;
    }
    if (status == ESP_OK) {
        esp_gradual_state_remove(it->state_path);
    } else {
        explain_end(it, &result, status, masked != NULL, err);
    }
    esp_gradual_result_free(&result);
    esp_graph_unref(masked);
    return status;
}

static esp_status save_schedule(const tune_request *it, esp_error *err)
{
    json_t *json = NULL;
    esp_status status = esp_gradual_to_json(&it->schedule, &json, err);
    if (status == ESP_OK) {
        status = esp_json_save(json, it->save_schedule, err);
    }
    json_decref(json);
    return status;
}

static esp_status tune(esp_cli *cli, tune_request *it, const char *path, esp_error *err)
{
    esp_graph *graph = NULL;
    esp_cli_train_data data = {0};
    esp_status status = finish_options(it, err);
    if (status == ESP_OK && it->save_schedule) {
        status = save_schedule(it, err);
    }
    if (status == ESP_OK) {
        status = esp_onnx_load(path, &graph, err);
    }
    if (status == ESP_OK) { /* before hours of work */
        status =
            esp_cli_is_same_file(it->output, it->state_path)
                ? esp_fail(err, ESP_INVALID, "-o and --state: expected two files, found '%s'", it->output)
                : esp_cli_check_writable(it->output, err);
    }
    if (status == ESP_OK) {
        status = esp_cli_start(cli, it->threads, err);
    }
    if (status == ESP_OK) {
        status = open_data(cli, it, graph, &data, err);
    }
    if (status == ESP_OK && !it->is_json) {
        printf("%s, %s: %s\naccuracies on %s\n", esp_method_title(it->plan.method),
               esp_gradual_word(it->schedule.kind), esp_gradual_title(it->schedule.kind), data.source);
    }
    it->measured = data.source;
    if (status == ESP_OK) {
        status = run(cli, it, graph, &data, err);
        esp_cli_explain_size(status, graph, data.training, err);
    }
    esp_cli_train_data_close(&data);
    esp_graph_unref(graph);
    return status;
}

esp_status esp_command_tune(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    bool is_done = false;
    char data_help[128];
    tune_request it = {.flags = ESP_CLI_PLAN_FLAGS_NONE,
                       .training = esp_train_defaults(),
                       .step = NAN,
                       .initial = NAN,
                       .local_epochs = NAN,
                       .local_lr = NAN,
                       .epochs = NAN,
                       .group_lasso = NAN,
                       .train_flags = ESP_CLI_TRAIN_FLAGS_NONE};
    it.train_flags.schedule_flag = "--lr-schedule";
    const esp_option options[] = {
        {"output", 'o', ESP_OPTION_TEXT, &it.output, "OUT.onnx", "where the pruned and trained model goes", 0,
         0, 0},
        {"prune-schedule", 'p', ESP_OPTION_TEXT, &it.prune_schedule, "WHAT",
         "one-shot, lg, g, l, linear, agp, or a JSON file", 0, 0, 0},
        ESP_CLI_PRESET_ROW(&it.preset),
        ESP_CLI_PLAN_FLAGS_ROWS(&it.flags, esp_cli_data_help(data_help, sizeof data_help)),
        {"step", 0, ESP_OPTION_REAL, &it.step, "S", "lg, g, l: the ratio rises by this (default 0.1)", 1e-6,
         1, 0},
        {"steps", 0, ESP_OPTION_INT, &it.steps, "N", "linear, agp: prunings on the way (default 10)", 1,
         100000, 0},
        {"initial", 0, ESP_OPTION_REAL, &it.initial, "R", "linear, agp: ratio the rise begins with", 0, 1,
         true},
        {"local-epochs", 0, ESP_OPTION_REAL, &it.local_epochs, "N", "trained after each step (default 3)", 0,
         1e6, 0},
        {"local-lr", 0, ESP_OPTION_REAL, &it.local_lr, "RATE",
         "lg, l: its learning rate (default: that of --lr)", 1e-12, 1e3, 0},
        {"epochs", 'e', ESP_OPTION_REAL, &it.epochs, "N", "trained at the end (default 90)", 0, 1e6, 0},
        {"group-lasso", 0, ESP_OPTION_REAL, &it.group_lasso, "L", "weight of a group-lasso term", 0, 1e6, 0},
        {"save-schedule", 0, ESP_OPTION_TEXT, &it.save_schedule, "FILE", "write the pruning schedule as JSON",
         0, 0, 0},
        {"cut", 0, ESP_OPTION_FLAG, &it.cuts, NULL, "end with surgery: write the physically smaller model", 0,
         0, 0},
        {"form", 0, ESP_OPTION_TEXT, &it.form, "NAME",
         "cut: sg layers as grouped (default) or dense with zeros", 0, 0, 0},
        {"batch", 'b', ESP_OPTION_INT, &it.train_flags.batch, "N", "images per step (default 128)", 1, 65536,
         0},
        ESP_OPTIONS_ABOUT("Images"),
        ESP_CLI_VALIDATION_ROWS(&it),
        ESP_CLI_TRAIN_IMAGES_ROWS(&it.train_flags),
        ESP_CLI_SKIP_BAD(&it.images),
        ESP_OPTIONS_ABOUT("Learning rate"),
        ESP_CLI_TRAIN_RATE_ROWS(&it.train_flags, "lr-schedule"),
        ESP_OPTIONS_ABOUT("Optimizer"),
        ESP_CLI_TRAIN_OPTIMIZER_ROWS(&it.train_flags),
        ESP_OPTIONS_ABOUT("Loss"),
        ESP_CLI_TRAIN_LOSS_ROWS(&it.train_flags),
        ESP_OPTIONS_ABOUT("Model"),
        ESP_CLI_TRAIN_MODEL_ROWS(&it.train_flags),
        ESP_OPTIONS_ABOUT("Ending and going on"),
        ESP_CLI_TRAIN_END_ROWS(&it.train_flags),
        {"state", 0, ESP_OPTION_TEXT, &it.state, "FILE",
         "where the run is kept (default OUT.onnx.state.json), with its model and training beside it", 0, 0,
         0},
        {"checkpoint-every", 0, ESP_OPTION_TEXT, &it.train_flags.checkpoint_every, "N",
         "200s, 5m or 500steps (default 5m); and after every epoch and step", 0, 0, 0},
        {"resume", 0, ESP_OPTION_FLAG, &it.resumes, NULL,
         "go on where an interrupted run stood: the result is that of one uninterrupted run", 0, 0, 0},
        ESP_OPTIONS_ABOUT("Machine and output"),
        {"threads", 't', ESP_OPTION_INT, &it.threads, "N", "default: all cores", 1, 1024, 0},
        ESP_CLI_KERNELS(cli),
        {"json", 0, ESP_OPTION_FLAG, &it.is_json, NULL, "one JSON object at the end instead of lines", 0, 0,
         0},
        {0},
    };
    const esp_command_syntax syntax = {
        "tune",
        "Prune in steps and train in between (SG-CNN's LG, G and L; linear and AGP; one shot).\n"
        "Ctrl-C leaves the best version so far and a state that --resume goes on from.",
        "MODEL.onnx -o OUT.onnx --data SPEC --method M --ratio R --prune-schedule WHAT [options]",
        "  espalier tune resnet.onnx -o half.onnx --data cifar10:DIR --preset sg-cnn --ratio 0.5 --epochs 2 "
        "--local-epochs 1\n"
        "  espalier tune resnet.onnx -o half.onnx --data cifar10:DIR -m filter -c taylor -r 0.5 -p "
        "agp "
        "--steps 5 --cut",
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
    if (!it.output || !it.flags.data) {
        return esp_fail(err, ESP_INVALID, "%s is missing", it.output ? "--data SPEC" : "-o OUT.onnx");
    }
    status = tune(cli, &it, positionals.items[0], err);
    esp_plan_free(&it.plan);
    esp_free(it.state_path);
    esp_schedule_free(&it.training.schedule);
    esp_cli_train_flags_free(&it.train_flags);
    return status;
}
