/* Training in Lua: model:train{...} and what belongs to it. What training borrows from the table (strings,
 * datasets, functions, the teacher) stays on the stack, since callbacks may empty the table; what C owns
 * hangs on a userdata that was pushed before. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "io/checkpoint.h"
#include "prune/group_lasso.h"
#include "prune/mask.h"
#include "script/binding.h"
#include "train/classifier.h"
#include "train/trainer.h"

#define TRAINING "espalier.training"

typedef struct training {
    lua_State *L;
    int on_epoch, on_step, rate; /* stack indices of functions, 0 when there is none */
    esp_held_masks masks;
    esp_schedule schedule;
    esp_train_state resumed;
    esp_dataset *rest, *held; /* when validation is a share of the training images */
    esp_dataset *fitted;      /* the images at the size of the model */
    const char *checkpoint;   /* on the stack */
    esp_inferred *inferred;   /* for the layers of the group lasso */
    esp_layers layers;
    esp_group_lasso *lasso;
    char note[64];
} training;

static int training_free(lua_State *L)
{
    training *it = lua_touserdata(L, 1);
    esp_held_masks_free(&it->masks);
    esp_schedule_free(&it->schedule);
    esp_train_state_free(&it->resumed);
    esp_dataset_unref(it->rest);
    esp_dataset_unref(it->held);
    esp_dataset_unref(it->fitted);
    esp_group_lasso_free(it->lasso);
    esp_layers_free(&it->layers);
    esp_inferred_free(it->inferred);
    it->layers = (esp_layers){0};
    it->lasso = NULL;
    it->inferred = NULL;
    it->masks = (esp_held_masks){0};
    it->rest = it->held = it->fitted = NULL;
    return 0;
}

static training *push_training(lua_State *L)
{
    training *it = lua_newuserdatauv(L, sizeof *it, 0);
    *it = (training){.L = L};
    if (luaL_newmetatable(L, TRAINING)) {
        lua_pushcfunction(L, training_free);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return it;
}

/* ---- callbacks: each runs inside a protected call, since the trainer's memory must not be jumped over ----
 */

static void push_epoch(lua_State *L, const esp_epoch_report *report)
{
    lua_createtable(L, 0, 10);
    esp_lua_set_integer(L, "epoch", report->epoch);
    esp_lua_set_integer(L, "epochs", report->epochs);
    esp_lua_set_number(L, "train_loss", report->train_loss);
    esp_lua_set_number(L, "train_top1", report->train_top1);
    esp_lua_set_number(L, "train_top5", report->train_top5);
    esp_lua_set_number(L, "lr", report->lr);
    esp_lua_set_number(L, "images_per_s", report->images_per_s);
    esp_lua_set_number(L, "seconds", report->seconds);
    esp_lua_set_boolean(L, "is_best", report->is_best);
    esp_lua_push_eval(L, &report->validation);
    lua_setfield(L, -2, "validation");
}

int esp_lua_call_on_epoch(lua_State *L)
{
    lua_pushvalue(L, 1);
    push_epoch(L, lua_touserdata(L, 2));
    lua_call(L, 1, 0);
    return 0;
}

static esp_status on_epoch(void *user, const esp_epoch_report *report, esp_error *err)
{
    training *it = user;
    return esp_lua_call_back(it->L, esp_lua_call_on_epoch, it->on_epoch, report, "on_epoch", err);
}

static int call_on_step(lua_State *L)
{
    const esp_step_report *report = lua_touserdata(L, 2);
    lua_pushvalue(L, 1);
    lua_createtable(L, 0, 10);
    esp_lua_set_integer(L, "epoch", report->epoch);
    esp_lua_set_integer(L, "epochs", report->epochs);
    esp_lua_set_integer(L, "step", report->step);
    esp_lua_set_number(L, "position", report->position);
    esp_lua_set_number(L, "loss", report->loss);
    esp_lua_set_number(L, "epoch_loss", report->epoch_loss);
    esp_lua_set_number(L, "top1", report->epoch_top1);
    esp_lua_set_number(L, "top5", report->epoch_top5);
    esp_lua_set_number(L, "lr", report->lr);
    esp_lua_set_number(L, "images_per_s", report->images_per_s);
    lua_call(L, 1, 0);
    return 0;
}

static esp_status on_step(void *user, esp_trainer *trainer, const esp_step_report *report, esp_error *err)
{
    (void)trainer;
    training *it = user;
    return esp_lua_call_back(it->L, call_on_step, it->on_step, report, "on_step", err);
}

typedef struct rate_question {
    double epoch;
    int64_t step;
    double *answer;
} rate_question;

static int call_rate(lua_State *L)
{
    const rate_question *question = lua_touserdata(L, 2);
    lua_pushvalue(L, 1);
    lua_pushnumber(L, question->epoch);
    lua_pushinteger(L, question->step);
    lua_call(L, 2, 1);
    if (lua_type(L, -1) != LUA_TNUMBER) {
        return esp_lua_fail(L, "found %s, expected a learning rate", luaL_typename(L, -1));
    }
    *question->answer = lua_tonumber(L, -1);
    return 0;
}

static esp_status ask_rate(void *user, double epoch, int64_t step, double *lr, esp_error *err)
{
    training *it = user;
    const rate_question question = {epoch, step, lr};
    return esp_lua_call_back(it->L, call_rate, it->rate, &question, "schedule", err);
}

static esp_status save_checkpoint(void *user, const esp_train_state *state, esp_error *err)
{
    const training *it = user;
    return esp_checkpoint_save(it->checkpoint, state, NULL, err);
}

/* ---- the table ---- */

/* Pushes field `name`, which stays on the stack, and returns its string or NULL. */
static const char *keep_string(lua_State *L, const char *name)
{
    int type = esp_lua_raw_field(L, 2, name);
    if (type != LUA_TNIL && type != LUA_TSTRING) {
        esp_lua_fail(L, "%s: found %s, expected a string", name, lua_typename(L, type));
    }
    return lua_tostring(L, -1);
}

/* Pushes a function, which stays on the stack; 0 when the field is nil. */
static int keep_function(lua_State *L, const char *name)
{
    int type = esp_lua_raw_field(L, 2, name);
    if (type != LUA_TNIL && type != LUA_TFUNCTION) {
        esp_lua_fail(L, "%s: found %s, expected a function", name, lua_typename(L, type));
    }
    return type == LUA_TFUNCTION ? lua_gettop(L) : 0;
}

static void read_milestones(lua_State *L, esp_schedule *schedule)
{
    if (esp_lua_raw_field(L, 2, "milestones") == LUA_TTABLE) {
        int count = (int)lua_rawlen(L, -1);
        if (count > ESP_SCHEDULE_MAX_STEPS) {
            esp_lua_fail(L, "milestones: found %d, expected at most %d", count, ESP_SCHEDULE_MAX_STEPS);
        }
        schedule->milestone_count = count;
        for (int i = 0; i < count; i++) {
            lua_rawgeti(L, -1, i + 1);
            schedule->milestones[i] = luaL_checknumber(L, -1);
            lua_pop(L, 1);
        }
    }
    lua_pop(L, 1);
}

/* A table as JSON has it, a word with its numbers beside it, or a function(epoch, step). */
static void read_schedule(lua_State *L, training *it, esp_train_options *options)
{
    esp_error err = {0};
    double lr = esp_lua_field_number(L, 2, "lr", esp_optimizer_default_lr(options->optimizer));
    int type = esp_lua_raw_field(L, 2, "schedule");
    if (type == LUA_TFUNCTION) {
        it->rate = lua_gettop(L);
        options->lr_fn = ask_rate;
        options->lr_user = it;
        return;
    }
    if (type == LUA_TTABLE) {
        int table = lua_gettop(L);
        json_t **box = esp_lua_push_table_json(L, table, "schedule");
        esp_lua_check(L, esp_schedule_from_json(*box, lr, &it->schedule, &err), &err);
    } else {
        esp_schedule_kind kind = ESP_SCHEDULE_COSINE;
        const char *word = esp_lua_field_string(L, 2, "schedule", esp_schedule_word(kind));
        esp_lua_check(L, esp_schedule_parse_kind(word, &kind, &err), &err);
        it->schedule = esp_schedule_make(kind, lr);
        it->schedule.gamma = esp_lua_field_number(L, 2, "gamma", it->schedule.gamma);
        read_milestones(L, &it->schedule);
    }
    it->schedule.warmup_epochs = esp_lua_field_number(L, 2, "warmup", it->schedule.warmup_epochs);
    esp_lua_check(L, esp_schedule_check(&it->schedule, &err), &err);
    options->schedule = it->schedule;
}

static void read_optimizer(lua_State *L, esp_train_options *options)
{
    esp_error err = {0};
    const char *word = esp_lua_field_string(L, 2, "optimizer", "sgd");
    esp_lua_check(L, esp_optimizer_parse_kind(word, &options->optimizer, &err), &err);
    options->momentum = esp_lua_field_number(L, 2, "momentum", options->momentum);
    options->dampening = esp_lua_field_number(L, 2, "dampening", 0);
    options->beta1 = esp_lua_field_number(L, 2, "beta1", 0);
    options->beta2 = esp_lua_field_number(L, 2, "beta2", 0);
    options->epsilon = esp_lua_field_number(L, 2, "epsilon", 0);
    options->weight_decay = esp_lua_field_number(L, 2, "weight_decay", options->weight_decay);
    options->uses_nesterov = esp_lua_field_boolean(L, 2, "nesterov", false);
    options->clip_norm = esp_lua_field_number(L, 2, "clip_norm", 0);
    options->clip_value = esp_lua_field_number(L, 2, "clip_value", 0);
    options->ema_decay = esp_lua_field_number(L, 2, "ema", 0);
}

/* `freeze`: a pattern or a list of them. The array and the strings stay on the stack. */
static void read_freeze(lua_State *L, esp_train_options *options)
{
    int type = esp_lua_raw_field(L, 2, "freeze");
    int field = lua_gettop(L);
    if (type == LUA_TNIL) {
        return;
    }
    if (type != LUA_TSTRING && type != LUA_TTABLE) {
        esp_lua_fail(L, "freeze: found %s, expected a layer pattern or a list of them",
                     lua_typename(L, type));
    }
    int count = type == LUA_TSTRING ? 1 : (int)lua_rawlen(L, field);
    const char **patterns = lua_newuserdatauv(L, (size_t)(count + 1) * sizeof *patterns, 0);
    luaL_checkstack(L, count + 8, "too many patterns");
    for (int i = 0; i < count; i++) {
        if (type == LUA_TSTRING) {
            lua_pushvalue(L, field);
        } else {
            lua_rawgeti(L, field, i + 1);
        }
        if (lua_type(L, -1) != LUA_TSTRING) {
            esp_lua_fail(L, "freeze: entry %d is %s, expected a layer pattern", i + 1, luaL_typename(L, -1));
        }
        patterns[i] = lua_tostring(L, -1);
    }
    options->freeze = patterns;
    options->freeze_count = count;
}

static void read_objective(lua_State *L, esp_train_options *options)
{
    esp_error err = {0};
    options->label_smoothing = esp_lua_field_number(L, 2, "label_smoothing", 0);
    options->temperature = esp_lua_field_number(L, 2, "temperature", 0);
    options->distillation = esp_lua_field_number(L, 2, "distill", 0);
    options->max_loss = esp_lua_field_number(L, 2, "max_loss", 1e4);
    if (esp_lua_raw_field(L, 2, "teacher") != LUA_TNIL) {
        esp_lua_model *teacher = luaL_testudata(L, -1, ESP_LUA_MODEL);
        if (!teacher || !teacher->graph) {
            esp_lua_fail(L, "teacher: found %s, expected a model", luaL_typename(L, -1));
        }
        options->teacher = teacher->graph;
    }
    options->freezes_norm = esp_lua_field_boolean(L, 2, "freeze_norm", false);
    const char *norm = esp_lua_field_string(L, 2, "norm", "train");
    esp_lua_check(L, esp_norm_mode_parse(norm, &options->norm, &err), &err);
    options->recalibrate_images = esp_lua_field_integer(L, 2, "recalibrate_images", 0);
    read_freeze(L, options);
}

static void read_data_options(lua_State *L, esp_train_options *options)
{
    esp_lua_field_augmentation(L, 2, "augment", &options->augmentation);
    options->augmentation.crop_padding =
        (int)esp_lua_field_integer(L, 2, "crop", options->augmentation.crop_padding);
    options->augmentation.flips = esp_lua_field_boolean(L, 2, "flip", options->augmentation.flips);
    options->batch = esp_lua_field_integer(L, 2, "batch", options->batch);
    options->train_limit = esp_lua_field_integer(L, 2, "train_limit", 0);
    options->validation_limit = esp_lua_field_integer(L, 2, "limit", 0);
    options->seed = (uint64_t)esp_lua_field_integer(L, 2, "seed", 0);
    options->mean = keep_string(L, "mean");
    options->std = keep_string(L, "std");
}

static void read_ends(lua_State *L, training *it, esp_train_options *options)
{
    esp_error err = {0};
    options->patience = (int)esp_lua_field_integer(L, 2, "patience", 0);
    options->min_delta = esp_lua_field_number(L, 2, "min_delta", 0);
    options->evaluates_first = esp_lua_field_boolean(L, 2, "measure_first", false);
    options->checkpoint_steps = esp_lua_field_integer(L, 2, "checkpoint_steps", 0);
    options->checkpoint_seconds = esp_lua_field_number(L, 2, "checkpoint_seconds", 0);
    it->checkpoint = keep_string(L, "checkpoint");
    if (it->checkpoint) {
        esp_lua_check_writable(L, it->checkpoint);
        options->on_checkpoint = save_checkpoint;
        options->checkpoint_user = it;
    }
    const char *resume = keep_string(L, "resume");
    if (resume) {
        esp_lua_check(L, esp_checkpoint_load(resume, &it->resumed, &err), &err);
        options->resume = &it->resumed;
    }
    it->on_epoch = keep_function(L, "on_epoch");
    it->on_step = keep_function(L, "on_step");
    options->on_epoch = it->on_epoch ? on_epoch : NULL;
    options->on_step = it->on_step ? on_step : NULL;
    options->epoch_user = it;
    options->step_user = it;
}

/* `validation`: a dataset, or the share of the training images to hold back for it. */
static void read_data(lua_State *L, training *it, uint64_t seed, const esp_dataset **data,
                      const esp_dataset **validation)
{
    esp_error err = {0};
    *data = esp_lua_field_data(L, 2, "data", true);
    esp_lua_raw_field(L, 2, "data");
    if (esp_lua_raw_field(L, 2, "validation") == LUA_TNUMBER) {
        esp_lua_check(L, esp_dataset_split(*data, lua_tonumber(L, -1), seed, &it->rest, &it->held, &err),
                      &err);
        *data = it->rest;
        *validation = it->held;
    } else {
        *validation = esp_lua_field_data(L, 2, "validation", true);
    }
}

/* `group_lasso`: its strength; over the kernels of all layers, each filter its own group. */
static void read_lasso(lua_State *L, training *it, const esp_graph *graph, const esp_dataset *data,
                       esp_train_options *options)
{
    double strength = esp_lua_field_number(L, 2, "group_lasso", 0);
    esp_error err = {0};
    esp_input_shape shape;
    if (strength == 0) {
        return;
    }
    esp_lua_check(L, esp_dataset_fit(data, graph, &it->fitted, &err), &err);
    esp_lua_check(L, esp_dataset_check_model(it->fitted, graph, &err), &err);
    bool is_open = esp_dataset_input_shape(it->fitted, graph, 1, &shape);
    esp_lua_check(L, esp_infer(graph, 1, is_open ? &shape : NULL, is_open ? 1 : 0, &it->inferred, &err),
                  &err);
    esp_lua_check(L, esp_layers_list(graph, it->inferred, &it->layers, &err), &err);
    esp_lua_check(L, esp_group_lasso_new(graph, &it->layers, NULL, NULL, strength, &it->lasso, &err), &err);
    options->penalties = esp_group_lasso_penalties(it->lasso, &options->penalty_count);
    snprintf(it->note, sizeof it->note, "group lasso %.17g", strength);
    options->note = it->note;
}

static void push_result(lua_State *L, const esp_train_result *result)
{
    lua_createtable(L, 0, 12);
    esp_lua_set_integer(L, "epochs_done", result->epochs_done);
    esp_lua_set_integer(L, "best_epoch", result->best_epoch);
    esp_lua_set_integer(L, "steps", result->steps);
    esp_lua_set_number(L, "seconds", result->seconds);
    esp_lua_set_number(L, "images_per_s", result->images_per_s);
    esp_lua_set_boolean(L, "stopped_early", result->stopped_early);
    esp_lua_set_integer(L, "resumed_step", result->resumed_step);
    esp_lua_set_integer(L, "checkpoints", result->checkpoints);
    esp_lua_set_integer(L, "checkpoint_failures", result->checkpoint_failures);
    if (result->checkpoint_failures > 0) {
        esp_lua_set_string(L, "checkpoint_error", result->checkpoint_error.message);
    }
    esp_lua_push_eval(L, &result->best);
    lua_setfield(L, -2, "best");
    esp_lua_push_eval(L, &result->last);
    lua_setfield(L, -2, "last");
}

/* model:train{data=, validation=, epochs=, ...}: the best version, and a result table */
int esp_lua_model_train(lua_State *L)
{
    static const char *const keys[] = {"data",
                                       "validation",
                                       "epochs",
                                       "lr",
                                       "schedule",
                                       "milestones",
                                       "gamma",
                                       "warmup",
                                       "batch",
                                       "momentum",
                                       "weight_decay",
                                       "nesterov",
                                       "crop",
                                       "flip",
                                       "freeze_norm",
                                       "free_masks",
                                       "train_limit",
                                       "limit",
                                       "mean",
                                       "std",
                                       "seed",
                                       "measure_first",
                                       "on_epoch",
                                       "on_step",
                                       "optimizer",
                                       "dampening",
                                       "beta1",
                                       "beta2",
                                       "epsilon",
                                       "clip_norm",
                                       "clip_value",
                                       "ema",
                                       "label_smoothing",
                                       "teacher",
                                       "temperature",
                                       "distill",
                                       "max_loss",
                                       "norm",
                                       "recalibrate_images",
                                       "freeze",
                                       "augment",
                                       "patience",
                                       "min_delta",
                                       "checkpoint",
                                       "checkpoint_steps",
                                       "checkpoint_seconds",
                                       "resume",
                                       "group_lasso",
                                       NULL};
    const esp_graph *graph = esp_lua_model_at(L, 1)->graph;
    esp_train_options options = esp_train_defaults();
    esp_train_result result = {0};
    esp_error err = {0};
    esp_lua_check_type(L, 2, LUA_TTABLE);
    esp_lua_check_keys(L, 2, keys);
    luaL_checkstack(L, 40, "training");
    training *it = push_training(L);
    options.epochs_limit = esp_lua_field_number(L, 2, "epochs", NAN);
    if (!(options.epochs_limit > 0)) {
        return esp_lua_fail(L, "epochs: expected a number above 0");
    }
    const esp_dataset *data = NULL, *validation = NULL;
    read_optimizer(L, &options);
    read_schedule(L, it, &options);
    read_objective(L, &options);
    read_data_options(L, &options);
    read_ends(L, it, &options);
    read_data(L, it, options.seed, &data, &validation);
    read_lasso(L, it, graph, data, &options);
    if (!esp_lua_field_boolean(L, 2, "free_masks", false)) {
        esp_lua_check(L, esp_held_masks_of(graph, &it->masks, &err), &err);
        options.masks = it->masks.items;
        options.mask_count = it->masks.count;
    }
    esp_lua_model *model = esp_lua_new_model(L);
    esp_lua_check(
        L, esp_train(esp_lua_compute(L), graph, data, validation, &options, &model->graph, &result, &err),
        &err);
    push_result(L, &result);
    return 2;
}

/* model:replace_classifier(classes [, seed]): a new model whose last layer is new, for other classes */
int esp_lua_model_replace_classifier(lua_State *L)
{
    const esp_graph *graph = esp_lua_model_at(L, 1)->graph;
    int64_t classes = esp_lua_check_integer(L, 2);
    uint64_t seed = (uint64_t)luaL_optinteger(L, 3, 0);
    esp_error err = {0};
    esp_lua_model *model = esp_lua_new_model(L);
    esp_lua_check(L, esp_replace_classifier(graph, classes, seed, &model->graph, &err), &err);
    return 1;
}
