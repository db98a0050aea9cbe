/* One phase of a run by a pruning schedule: an esp_train of its own, with a seed of its own, on the masked
 * model of now. LINEAR and AGP are one training to the reader: their phases ask the schedule for the rate at
 * the epoch counted from the beginning of the run (lr_at). */
#include <math.h>

#include "base/clock.h"
#include "base/memory.h"
#include "prune/gradual_internal.h"
#include "prune/group_lasso.h"

typedef gradual_run run;

/* What one phase of training borrows. */
typedef struct phase {
    run *run;
    int number;
    double start_s; /* the clock when it began, earlier by what it had taken before it was interrupted */
    const esp_train_options *base;
    double offset, total; /* epochs before this phase, and of the run: for lr_at */
    esp_held_masks masks;
    esp_group_lasso *lasso;
    esp_train_penalty *penalties;
} phase;

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

static esp_status keep_training(void *user, const esp_train_state *state, esp_error *err)
{
    const phase *it = user;

    return gradual_keep_training(it->run, it->number, esp_clock_s() - it->start_s, state, err);
}

/* Whether and where the training of this phase is kept and gone on from. */
static void set_checkpoints(phase *it, esp_train_options *options)
{
    const run *r = it->run;
    bool is_kept = r->options->state_path && r->options->save_training;

    options->on_checkpoint = is_kept ? keep_training : NULL;
    options->checkpoint_user = it;
    options->resume = NULL;
    if (r->state.training.phase == it->number) {
        options->resume = &r->state.training.state;
        it->start_s -= r->state.training.seconds;
    }
}

/* What every phase has in common. */
static esp_status prepare_phase(const esp_preview *preview, double epochs, phase *it,
                                esp_train_options *options, esp_error *err)
{
    const run *r = it->run;
    esp_status status;

    *options = *r->options->training;
    options->epochs_limit = epochs;
    options->seed += (uint64_t)it->number;
    set_checkpoints(it, options);
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

static void set_rate(phase *it, bool is_global, esp_train_options *options)
{
    const run *r = it->run;
    const esp_gradual *schedule = r->schedule;

    if (esp_gradual_rises(schedule)) {
        it->offset = (it->number - 1) * schedule->local_epochs;
        it->total = r->steps * schedule->local_epochs + schedule->epochs;
        options->lr_fn = lr_at;
        options->lr_user = it;
    } else if (!is_global) {
        options->schedule.kind = ESP_SCHEDULE_CONSTANT;
        if (schedule->local_lr > 0)
            options->schedule.lr = schedule->local_lr;
    }
}

/* What a phase that ended leaves behind. */
static void take_result(run *r, const phase *it, const esp_train_result *result, double epochs,
                        esp_gradual_record *record)
{
    r->resumed_training_step += result->resumed_step;
    record->epochs += result->epochs_done < epochs ? result->epochs_done : epochs;
    record->seconds = esp_clock_s() - it->start_s;
    if (r->state.training.phase == it->number) {
        esp_train_state_free(&r->state.training.state);
        r->state.training = (gradual_training){0};
    }
}

esp_status gradual_train(gradual_run *r, const esp_preview *preview, int number, double epochs,
                         double start_s, esp_gradual_record *record, esp_error *err)
{
    bool is_global = number == r->steps + 1;
    phase it = {.run = r, .number = number, .start_s = start_s, .base = r->options->training};
    esp_train_options options;
    esp_train_result result = {0};
    esp_graph *trained = NULL;
    esp_status status = prepare_phase(preview, epochs, &it, &options, err);

    if (status == ESP_OK) {
        options.evaluates_first = is_global;
        set_rate(&it, is_global, &options);
        status = esp_train(r->compute, r->state.graph, r->training, r->validation, &options, &trained,
                           &result, err);
    }
    take_result(r, &it, &result, epochs, record);
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
