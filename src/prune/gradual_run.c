/* A run by a pruning schedule: steps of (resolve the plan against the weights of now, mask, measure, train),
 * then fine-tuning. A step depends on nothing but the model before it and its number: that is what makes a
 * resumed run end in the same bits. A phase that was interrupted is begun again, pruning included, and only
 * its training goes on from where it was. */
#include "prune/gradual_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "prune/counts.h"
#include "prune/criteria.h"

typedef gradual_run run;

/* ---- one step ---- */

static esp_status measure(run *r, double *top1, double *loss, esp_error *err)
{
    const esp_train_options *training = r->options->training;
    const esp_eval_options options = {
        .limit = training->validation_limit, .mean = training->mean, .std = training->std};
    esp_status status;

    r->last = (esp_eval_result){0};
    if (!r->validation)
        return ESP_OK;
    status = esp_evaluate(r->compute, r->state.graph, r->validation, &options, &r->last, err);
    if (status == ESP_OK) {
        *top1 = r->last.top1;
        *loss = r->last.loss;
    }
    return status;
}

static void fill_record(const esp_preview *preview, esp_gradual_record *record)
{
    int64_t whole = 0, left = 0;

    for (int l = 0; l < preview->layers.count; l++) {
        const esp_preview_layer *item = &preview->items[l];
        if (!item->takes_part)
            continue;
        whole += esp_layer_weight_elements(&preview->layers.items[l]);
        left += item->params_after;
        record->layers++;
        record->executed_groups += item->grouping.labels ? item->grouping.executed_groups : 0;
        record->ratio = item->asked > record->ratio ? item->asked : record->ratio;
    }
    record->pruned = whole ? 1 - (double)left / (double)whole : 0;
    record->params = preview->after.params;
    record->macs = preview->after.macs;
}

/* What a criterion with data looks at. */
static esp_status calibrate(const run *r, esp_grouping_cache *cache, esp_error *err)
{
    int64_t images = r->options->calibration_images, count = esp_dataset_count(r->training);

    images = images > 0 ? images : ESP_CALIBRATION_IMAGES;
    const esp_criterion_data data = {.dataset = r->training,
                                     .images = images < count ? images : count,
                                     .mean = r->options->training->mean,
                                     .std = r->options->training->std,
                                     .seed = r->options->training->seed};
    return esp_preview_calibrate_with(cache, &data, err);
}

/* The plan of a step against the weights of now. */
static esp_status resolve(const run *r, int step, esp_preview **out, esp_error *err)
{
    esp_grouping_cache *cache = NULL;
    esp_plan plan = {0};
    esp_status status = esp_grouping_cache_new(&cache, err);

    if (status == ESP_OK && r->training)
        status = calibrate(r, cache, err);
    if (status == ESP_OK)
        status = esp_gradual_plan(r->schedule, r->options->plan, step, &plan, err);
    if (status == ESP_OK)
        status =
            esp_preview_new(r->compute, r->state.graph, &plan, &r->shape, r->shape_count, cache, out, err);
    esp_plan_free(&plan);
    esp_grouping_cache_free(cache);
    return status;
}

static esp_status tell(const run *r, esp_gradual_event event, const esp_gradual_record *record,
                       const esp_preview *preview, esp_error *err)
{
    const esp_gradual_report report = {
        .event = event, .steps = r->steps, .record = record, .preview = preview, .graph = r->state.graph};

    return r->options->on_event ? r->options->on_event(r->options->event_user, &report, err) : ESP_OK;
}

static esp_status mask(run *r, const esp_preview *preview, esp_error *err)
{
    esp_graph *masked = NULL;
    esp_status status = esp_preview_masked_graph(preview, &masked, err);

    if (status != ESP_OK)
        return status;
    esp_graph_unref(r->state.graph);
    r->state.graph = masked;
    return ESP_OK;
}

static esp_gradual_record empty_record(int step)
{
    return (esp_gradual_record){
        .step = step, .cut_top1 = NAN, .cut_loss = NAN, .trained_top1 = NAN, .trained_loss = NAN};
}

/* A step that does not come to its end leaves the state as it was but for the graph, which is the best so
 * far; the caller ends the run then. */
static esp_status take_step(run *r, int step, esp_preview **preview, esp_error *err)
{
    double start_s = esp_clock_s();
    esp_gradual_record record = empty_record(step), *kept;
    esp_status status = resolve(r, step, preview, err);

    if (status == ESP_OK)
        status = mask(r, *preview, err);
    if (status == ESP_OK)
        status = measure(r, &record.cut_top1, &record.cut_loss, err);
    if (status != ESP_OK)
        return status;
    fill_record(*preview, &record);
    record.seconds = esp_clock_s() - start_s;
    status = tell(r, ESP_GRADUAL_PRUNED, &record, *preview, err);
    if (status == ESP_OK && esp_gradual_trains_locally(r->schedule)) {
        status = gradual_train(r, *preview, step, r->schedule->local_epochs, start_s, &record, err);
        if (status == ESP_OK)
            status = tell(r, ESP_GRADUAL_TRAINED, &record, *preview, err);
    }
    if (status == ESP_OK)
        status = gradual_state_add(&r->state, &record, &kept, err);
    if (status != ESP_OK)
        return status;
    r->state.steps_done = step;
    if (r->options->state_path)
        gradual_keep_step(r);
    return ESP_OK;
}

/* ---- the whole ---- */

static esp_status run_steps(run *r, esp_preview **preview, esp_error *err)
{
    esp_status status = ESP_OK;

    for (int step = r->state.steps_done + 1; status == ESP_OK && step <= r->steps; step++) {
        const esp_progress progress = {.stage = "prune",
                                       .done = step - 1,
                                       .total = r->steps,
                                       .unit = "steps",
                                       .eta_s = -1,
                                       .detail = esp_gradual_word(r->schedule->kind)};
        esp_compute_report(r->compute, &progress);
        esp_preview_free(*preview);
        *preview = NULL;
        status = take_step(r, step, preview, err);
    }
    return status;
}

/* After a resume past the last step there is no preview of it: the masks as they are give the same groups of
 * the lasso only if they are made anew, which they are for every run alike. */
static esp_status tune(run *r, esp_error *err)
{
    double start_s = esp_clock_s();
    esp_gradual_record record = empty_record(0), *kept;
    const esp_gradual_record *before = &r->state.records[r->state.record_count - 1];
    esp_preview *preview = NULL;
    esp_status status = r->schedule->group_lasso > 0 ? resolve(r, r->steps, &preview, err) : ESP_OK;

    record.ratio = before->ratio;
    record.pruned = before->pruned;
    record.params = before->params;
    record.macs = before->macs;
    record.layers = before->layers;
    record.executed_groups = before->executed_groups;
    record.cut_top1 = isnan(before->trained_top1) ? before->cut_top1 : before->trained_top1;
    record.cut_loss = isnan(before->trained_loss) ? before->cut_loss : before->trained_loss;
    if (status == ESP_OK)
        status = gradual_train(r, preview, r->steps + 1, r->schedule->epochs, start_s, &record, err);
    esp_preview_free(preview);
    if (status == ESP_OK)
        status = gradual_state_add(&r->state, &record, &kept, err);
    return status == ESP_OK ? tell(r, ESP_GRADUAL_TUNED, kept, NULL, err) : status;
}

static esp_status check(const run *r, const esp_dataset *training, esp_error *err)
{
    bool trains = esp_gradual_trains_locally(r->schedule) || esp_gradual_trains_globally(r->schedule);
    esp_status status = esp_gradual_check(r->schedule, err);

    if (status == ESP_OK)
        status = esp_plan_check(r->options->plan, err);
    if (status == ESP_OK)
        status = esp_gradual_check_plan(r->schedule, r->options->plan, err);
    if (status == ESP_OK && r->options->resumes && !r->options->state_path)
        status = esp_fail(err, ESP_INVALID, "a run that resumes needs its state file, found none");
    if (status == ESP_OK && esp_gradual_rises(r->schedule) && !r->options->training->lr_fn &&
        r->options->training->schedule.kind == ESP_SCHEDULE_PLATEAU)
        status = esp_fail(err, ESP_INVALID,
                          "pruning schedule '%s' cannot follow the learning rate 'plateau': every pruning "
                          "raises the loss it waits for",
                          esp_gradual_word(r->schedule->kind));
    if (status == ESP_OK && trains && !training)
        status = esp_fail(err, ESP_INVALID, "pruning schedule '%s' trains, but there is no data to train on",
                          esp_gradual_word(r->schedule->kind));
    return status;
}

static void hand_out(run *r, esp_graph **out, esp_gradual_result *result)
{
    *out = r->state.graph;
    r->state.graph = NULL;
    if (!result)
        return;
    *result = (esp_gradual_result){.steps = r->steps,
                                   .steps_done = r->state.steps_done,
                                   .record_count = r->state.record_count,
                                   .records = r->state.records,
                                   .last = r->last,
                                   .resumed_training_step = r->resumed_training_step,
                                   .checkpoints = r->checkpoints,
                                   .checkpoint_failures = r->checkpoint_failures,
                                   .checkpoint_error = r->checkpoint_error};
    r->state.records = NULL;
}

/* Images at the size of the model, and the shape they give it. */
static esp_status fit_data(run *r, const esp_graph *graph, const esp_dataset *training,
                           const esp_dataset *validation, esp_error *err)
{
    esp_status status = training ? esp_dataset_fit(training, graph, &r->training, err) : ESP_OK;

    if (status == ESP_OK && r->training)
        status = esp_dataset_check_model(r->training, graph, err);
    if (status == ESP_OK && r->training)
        r->shape_count = esp_dataset_input_shape(r->training, graph, 1, &r->shape);
    if (status == ESP_OK && validation)
        status = esp_dataset_fit(validation, graph, &r->validation, err);
    return status;
}

/* Finds out before hours of work whether the state can be written, and where an interrupted run stands. */
static esp_status open_state(run *r, const esp_graph *graph, esp_error *err)
{
    esp_file_writer *writer = NULL;
    esp_status status = gradual_identity(r, graph, &r->identity, err);

    if (status == ESP_OK)
        status = esp_file_writer_open(r->options->state_path, &writer, err);
    esp_file_writer_discard(writer);
    return status == ESP_OK && r->options->resumes ? gradual_resume(r, err) : status;
}

esp_status esp_prune_gradually(const esp_compute *compute, const esp_graph *graph,
                               const esp_dataset *training, const esp_dataset *validation,
                               const esp_gradual_options *options, esp_graph **out,
                               esp_gradual_result *result, esp_error *err)
{
    run r = {.compute = compute, .options = options, .schedule = options->schedule};
    esp_preview *preview = NULL;
    int resumed = 0;
    esp_status status = check(&r, training, err);

    *out = NULL;
    if (result)
        *result = (esp_gradual_result){0};
    if (status != ESP_OK)
        return status;
    r.steps = esp_gradual_steps(r.schedule, options->plan);
    r.state.graph = esp_graph_ref(graph);
    status = fit_data(&r, graph, training, validation, err);
    if (status == ESP_OK && options->state_path)
        status = open_state(&r, graph, err);
    resumed = r.state.steps_done;
    if (status == ESP_OK)
        status = run_steps(&r, &preview, err);
    esp_preview_free(preview);
    if (status == ESP_OK && esp_gradual_trains_globally(r.schedule))
        status = tune(&r, err);
    if (status == ESP_OK || status == ESP_CANCELLED || status == ESP_DIVERGED)
        hand_out(&r, out, result);
    else if (result) /* no model, but what is kept on disk can be gone on from */
        *result = (esp_gradual_result){
            .steps = r.steps, .steps_done = r.state.steps_done, .checkpoints = r.checkpoints};
    if (result)
        result->resumed_steps = resumed;
    gradual_state_clear(&r.state);
    json_decref(r.identity);
    esp_dataset_unref(r.training);
    esp_dataset_unref(r.validation);
    return status;
}

void esp_gradual_result_free(esp_gradual_result *result)
{
    if (!result)
        return;
    esp_free(result->records);
    *result = (esp_gradual_result){0};
}

/* ---- surgery ---- */

/* The plan with nothing more to prune: ratios at 0, what is ignored stays ignored. Nothing is ranked, so the
 * criterion does not matter, but for some one would need data. */
static esp_status nothing_more(const esp_plan *plan, esp_plan *out, esp_error *err)
{
    const esp_plan plain = esp_plan_make(plan->method, plan->mode, 0);
    esp_status status = esp_plan_clone(plan, out, err);

    if (status != ESP_OK)
        return status;
    out->conv_ratio = out->fc_ratio = out->border_ratio = 0;
    snprintf(out->criterion, sizeof out->criterion, "%s", plain.criterion);
    for (int i = 0; i < out->rule_count; i++)
        if (out->rules[i].ratio >= 0)
            out->rules[i].ratio = 0;
    return ESP_OK;
}

esp_status esp_gradual_cut(const esp_compute *compute, const esp_graph *masked, const esp_plan *plan,
                           const esp_dataset *dataset, const esp_surgery_options *options, esp_graph **out,
                           esp_surgery_report *report, esp_error *err)
{
    esp_input_shape shape;
    int shape_count = dataset && esp_dataset_input_shape(dataset, masked, 1, &shape);
    esp_preview *preview = NULL;
    esp_plan cut = {0};
    esp_status status = nothing_more(plan, &cut, err);

    *out = NULL;
    if (status == ESP_OK)
        status = esp_preview_new(compute, masked, &cut, shape_count ? &shape : NULL, shape_count, NULL,
                                 &preview, err);
    if (status == ESP_OK)
        status = esp_surgery(compute, preview, options, out, report, err);
    esp_preview_free(preview);
    esp_plan_free(&cut);
    return status;
}
