/* A run by a pruning schedule: steps of (resolve the plan against the weights of now, mask, measure, train),
 * then fine-tuning. Each phase of training is an esp_train of its own with a seed of its own, and a step
 * depends on nothing but the model before it: that is what makes a resumed run end in the same bits.
 *
 * LINEAR and AGP are one training to the reader: their phases ask the schedule for the rate at the epoch
 * counted from the beginning of the run (lr_at). */
#include "prune/gradual_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "prune/counts.h"
#include "prune/criteria.h"
#include "prune/group_lasso.h"

typedef struct run {
    const esp_compute *compute;
    const esp_gradual_options *options;
    const esp_gradual *schedule;
    const esp_graph *start;
    esp_dataset *training, *validation; /* fitted to the model, or NULL */
    esp_input_shape shape;              /* of the data, where the model leaves its own open */
    int shape_count;
    int steps;
    gradual_state state;
    esp_eval_result last; /* of state.graph; images 0 when it was not measured */
} run;

/* What one phase of training borrows. */
typedef struct phase {
    const esp_train_options *base;
    double offset, total; /* epochs before this phase, and of the run: for lr_at */
    esp_held_masks masks;
    esp_group_lasso *lasso;
    esp_train_penalty *penalties;
} phase;

/* ---- training ---- */

/* The rate at an epoch of a phase, by the one schedule that spans the run. */
static esp_status lr_at(void *user, double epoch, int64_t step, double *lr, esp_error *err)
{
    const phase *it = user;
    const esp_train_options *base = it->base;

    if (base->lr_fn)
        return base->lr_fn(base->lr_user, it->offset + epoch, step, lr, err);
    *lr = esp_schedule_lr(&base->schedule, it->offset + epoch, it->total);
    return ESP_OK;
}

static void phase_clear(phase *it)
{
    esp_held_masks_free(&it->masks);
    esp_group_lasso_free(it->lasso);
    esp_free(it->penalties);
}

/* The group lasso acts on the groups of the preview's clustering where it has one, else on single filters. */
static esp_status make_lasso(const run *r, const esp_preview *preview, phase *it, esp_error *err)
{
    size_t count = (size_t)preview->layers.count;
    const int32_t **labels = esp_alloc_zero(count, sizeof *labels);
    bool *takes_part = esp_alloc_zero(count, sizeof *takes_part);
    esp_status status = ESP_OK;

    if (!labels || !takes_part)
        status = esp_fail_memory(err, "group lasso", count * sizeof *labels);
    for (size_t l = 0; status == ESP_OK && l < count; l++) {
        takes_part[l] = preview->items[l].takes_part;
        labels[l] = preview->items[l].grouping.labels;
    }
    if (status == ESP_OK)
        status = esp_group_lasso_new(preview->graph, &preview->layers, takes_part, labels,
                                     r->schedule->group_lasso, &it->lasso, err);
    esp_free(labels);
    esp_free(takes_part);
    return status;
}

/* The caller's penalties, and the group lasso's behind them. */
static esp_status join_penalties(const phase *it, esp_train_options *options, esp_train_penalty **out,
                                 esp_error *err)
{
    int more;
    const esp_train_penalty *own = esp_group_lasso_penalties(it->lasso, &more);
    size_t count = (size_t)(options->penalty_count + more);
    esp_train_penalty *all = esp_alloc(count, sizeof *all);

    if (!all)
        return esp_fail_memory(err, "penalties", count * sizeof *all);
    for (int i = 0; i < options->penalty_count; i++)
        all[i] = options->penalties[i];
    for (int i = 0; i < more; i++)
        all[options->penalty_count + i] = own[i];
    options->penalties = all;
    options->penalty_count = (int)count;
    *out = all;
    return ESP_OK;
}

/* What every phase has in common. `number`: of the step, one more than all of them for the global phase. */
static esp_status prepare_phase(const run *r, const esp_preview *preview, int number, double epochs,
                                phase *it, esp_train_options *options, esp_error *err)
{
    esp_status status;

    *options = *r->options->training;
    options->epochs_limit = epochs;
    options->seed += (uint64_t)number;
    options->on_checkpoint = NULL;
    options->resume = NULL;
    status = esp_held_masks_of(r->state.graph, &it->masks, err);
    options->masks = it->masks.items;
    options->mask_count = it->masks.count;
    if (status == ESP_OK && preview && r->schedule->group_lasso > 0) {
        status = make_lasso(r, preview, it, err);
        if (status == ESP_OK)
            status = join_penalties(it, options, &it->penalties, err);
    }
    return status;
}

static void set_rate(const run *r, int steps_before, phase *it, esp_train_options *options)
{
    const esp_gradual *schedule = r->schedule;
    bool is_global = steps_before == r->steps;

    if (esp_gradual_rises(schedule)) {
        it->offset = steps_before * schedule->local_epochs;
        it->total = r->steps * schedule->local_epochs + schedule->epochs;
        options->lr_fn = lr_at;
        options->lr_user = it;
    } else if (!is_global) {
        options->schedule.kind = ESP_SCHEDULE_CONSTANT;
        if (schedule->local_lr > 0)
            options->schedule.lr = schedule->local_lr;
    }
}

/* Trains state.graph and puts the result in its place, also when training was cancelled or diverged and left
 * something. `preview`: of the last step, for the group lasso; NULL where there was none. */
static esp_status train(run *r, const esp_preview *preview, int steps_before, double epochs,
                        esp_gradual_record *record, esp_error *err)
{
    bool is_global = steps_before == r->steps;
    phase it = {.base = r->options->training};
    esp_train_options options;
    esp_train_result result = {0};
    esp_graph *trained = NULL;
    esp_status status = prepare_phase(r, preview, steps_before + 1, epochs, &it, &options, err);

    if (status == ESP_OK) {
        options.evaluates_first = is_global;
        set_rate(r, steps_before, &it, &options);
        status = esp_train(r->compute, r->state.graph, r->training, r->validation, &options, &trained,
                           &result, err);
        record->epochs += result.epochs_done < epochs ? result.epochs_done : epochs;
    }
    phase_clear(&it);
    if (trained) {
        esp_graph_unref(r->state.graph);
        r->state.graph = trained;
        r->last = result.best;
    }
    if (status == ESP_OK && r->validation) {
        record->trained_top1 = result.best.top1;
        record->trained_loss = result.best.loss;
    }
    return status;
}

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
    return esp_preview_calibrate(cache, r->training, images < count ? images : count,
                                 r->options->training->seed, err);
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
    status = tell(r, ESP_GRADUAL_PRUNED, &record, *preview, err);
    if (status == ESP_OK && esp_gradual_trains_locally(r->schedule)) {
        status = train(r, *preview, step - 1, r->schedule->local_epochs, &record, err);
        record.seconds = esp_clock_s() - start_s;
        if (status == ESP_OK)
            status = tell(r, ESP_GRADUAL_TRAINED, &record, *preview, err);
    }
    record.seconds = esp_clock_s() - start_s;
    if (status == ESP_OK)
        status = gradual_state_add(&r->state, &record, &kept, err);
    if (status != ESP_OK)
        return status;
    r->state.steps_done = step;
    return r->options->state_path ? gradual_state_save(r->options, r->start, &r->state, err) : ESP_OK;
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
        status = train(r, preview, r->steps, r->schedule->epochs, &record, err);
    esp_preview_free(preview);
    record.seconds = esp_clock_s() - start_s;
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
    result->steps = r->steps;
    result->steps_done = r->state.steps_done;
    result->record_count = r->state.record_count;
    result->records = r->state.records;
    result->last = r->last;
    r->state.records = NULL;
}

esp_status esp_prune_gradually(const esp_compute *compute, const esp_graph *graph,
                               const esp_dataset *training, const esp_dataset *validation,
                               const esp_gradual_options *options, esp_graph **out,
                               esp_gradual_result *result, esp_error *err)
{
    run r = {.compute = compute, .options = options, .schedule = options->schedule, .start = graph};
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
    if (training)
        status = esp_dataset_fit(training, graph, &r.training, err);
    if (status == ESP_OK && r.training)
        status = esp_dataset_check_model(r.training, graph, err);
    if (status == ESP_OK && r.training)
        r.shape_count = esp_dataset_input_shape(r.training, graph, 1, &r.shape);
    if (status == ESP_OK && validation)
        status = esp_dataset_fit(validation, graph, &r.validation, err);
    if (status == ESP_OK && options->state_path && options->resumes)
        status = gradual_state_load(options, graph, &r.state, err);
    resumed = r.state.steps_done;
    if (status == ESP_OK)
        status = run_steps(&r, &preview, err);
    esp_preview_free(preview);
    if (status == ESP_OK && esp_gradual_trains_globally(r.schedule))
        status = tune(&r, err);
    if (status == ESP_OK || status == ESP_CANCELLED || status == ESP_DIVERGED) {
        hand_out(&r, out, result);
        if (result)
            result->resumed_steps = resumed;
    }
    gradual_state_clear(&r.state);
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
