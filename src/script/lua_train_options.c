/* One reader for the options of training. Tables and words become what the command line makes of its flags;
 * functions are called back inside protected calls. */
#include "script/lua_train_options.h"

#include <string.h>

#define TRAINING "espalier.training"

static int training_free(lua_State *L)
{
    esp_lua_training *it = lua_touserdata(L, 1);
    esp_held_masks_free(&it->masks);
    esp_schedule_free(&it->schedule);
    esp_train_state_free(&it->resumed);
    esp_dataset_unref(it->rest);
    esp_dataset_unref(it->held);
    esp_group_lasso_free(it->lasso);
    *it = (esp_lua_training){0};
    return 0;
}

esp_lua_training *esp_lua_push_training(lua_State *L)
{
    esp_lua_training *it = lua_newuserdatauv(L, sizeof *it, 0);
    *it = (esp_lua_training){.L = L};
    if (luaL_newmetatable(L, TRAINING)) {
        lua_pushcfunction(L, training_free);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return it;
}

/* ---- callbacks: each runs inside a protected call, since the trainer's memory must not be jumped over ----
 */

void esp_lua_set_eval(lua_State *L, const char *name, const esp_eval_result *result)
{
    if (result->images > 0) {
        esp_lua_push_eval(L, result);
        lua_setfield(L, -2, name);
    }
}

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
    esp_lua_set_eval(L, "validation", &report->validation);
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
    esp_lua_training *it = user;
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
    esp_lua_training *it = user;
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
    esp_lua_training *it = user;
    const rate_question question = {epoch, step, lr};
    return esp_lua_call_back(it->L, call_rate, it->rate, &question, "schedule", err);
}

/* ---- the table ---- */

/* Pushes field `name`, which stays on the stack, and returns its string or NULL. */
const char *esp_lua_keep_string(lua_State *L, const char *name)
{
    int type = esp_lua_raw_field(L, 2, name);
    if (type != LUA_TNIL && type != LUA_TSTRING) {
        esp_lua_fail(L, "%s: found %s, expected a string", name, lua_typename(L, type));
    }
    return lua_tostring(L, -1);
}

/* Pushes a function, which stays on the stack; 0 when the field is nil. */
int esp_lua_keep_function(lua_State *L, const char *name)
{
    int type = esp_lua_raw_field(L, 2, name);
    if (type != LUA_TNIL && type != LUA_TFUNCTION) {
        esp_lua_fail(L, "%s: found %s, expected a function", name, lua_typename(L, type));
    }
    return type == LUA_TFUNCTION ? lua_gettop(L) : 0;
}

/* Returns whether there are any. */
static bool read_milestones(lua_State *L, esp_schedule *schedule)
{
    int type = esp_lua_raw_field(L, 2, "milestones");
    if (type != LUA_TNIL && type != LUA_TTABLE) {
        esp_lua_fail(L, "milestones: found %s, expected a list of epochs", lua_typename(L, type));
    }
    int count = type == LUA_TTABLE ? (int)lua_rawlen(L, -1) : 0;
    if (count > ESP_SCHEDULE_MAX_STEPS) {
        esp_lua_fail(L, "milestones: found %d, expected at most %d", count, ESP_SCHEDULE_MAX_STEPS);
    }
    for (int i = 0; i < count; i++) {
        schedule->milestones[i] = esp_lua_item_number(L, -1, i + 1, "milestones");
    }
    lua_pop(L, 1);
    schedule->milestone_count = type == LUA_TTABLE ? count : schedule->milestone_count;
    return type == LUA_TTABLE;
}

static int read_count(lua_State *L, const char *name, int otherwise)
{
    int64_t value = esp_lua_field_integer(L, 2, name, otherwise);
    if (value < 0 || value > INT32_MAX) {
        esp_lua_fail(L, "%s: found %lld, expected 0 to %d", name, (long long)value, INT32_MAX);
    }
    return (int)value;
}

/* By a word with its numbers beside it; without a word the schedule that is there keeps its kind. */
static void name_schedule(lua_State *L, const char *key, double lr, esp_schedule *schedule)
{
    esp_error err = {0};
    esp_schedule given = *schedule;
    esp_schedule_kind kind = schedule->kind;
    const char *word = esp_lua_field_string(L, 2, key, NULL);
    bool has_milestones = read_milestones(L, &given);
    if (word) {
        esp_lua_check(L, esp_schedule_parse_kind(word, &kind, &err), &err);
    } else if (has_milestones) {
        kind = ESP_SCHEDULE_STEP;
    }
    if (word || kind != schedule->kind) {
        *schedule = esp_schedule_make(kind, lr);
    }
    if (has_milestones) {
        schedule->milestone_count = given.milestone_count;
        memcpy(schedule->milestones, given.milestones, sizeof given.milestones);
    }
    schedule->lr = lr;
    schedule->gamma = esp_lua_field_number(L, 2, "gamma", schedule->gamma);
    schedule->every = esp_lua_field_number(L, 2, "every", schedule->every);
    schedule->min_lr = esp_lua_field_number(L, 2, "min_lr", schedule->min_lr);
    schedule->patience = read_count(L, "plateau_patience", schedule->patience);
    schedule->cooldown = read_count(L, "cooldown", schedule->cooldown);
}

/* ---- keys that would do nothing: refused, as the command line refuses such flags ---- */

typedef struct key_use {
    const char *key;
    bool fits;
    const char *with, *found;
} key_use;

static void check_uses(lua_State *L, const key_use *uses, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!uses[i].fits && esp_lua_has_field(L, 2, uses[i].key)) {
            esp_lua_fail(L, "%s is for %s, found %s", uses[i].key, uses[i].with, uses[i].found);
        }
    }
}

/* `lr` is left out: a function may stand beside the rate it replaces, in a table that several trainings use.
 */
static void check_no_schedule_words(lua_State *L, const char *found, bool takes_warmup)
{
    static const char with[] = "a schedule by its word";
    const key_use uses[] = {
        {"milestones", false, with, found},
        {"gamma", false, with, found},
        {"every", false, with, found},
        {"min_lr", false, with, found},
        {"plateau_patience", false, with, found},
        {"cooldown", false, with, found},
        {"warmup", takes_warmup, with, found},
    };
    check_uses(L, uses, sizeof uses / sizeof uses[0]);
}

static void check_schedule_uses(lua_State *L, esp_schedule_kind kind)
{
    const char *found = esp_schedule_word(kind);
    const bool has_milestones = kind == ESP_SCHEDULE_STEP || kind == ESP_SCHEDULE_MULTISTEP;
    const bool is_plateau = kind == ESP_SCHEDULE_PLATEAU;
    const key_use uses[] = {
        {"milestones", has_milestones, "schedules step and multistep", found},
        {"every", kind == ESP_SCHEDULE_STEP, "schedule step", found},
        {"every", !esp_lua_has_field(L, 2, "milestones"), "drops without milestones", "both"},
        {"gamma", has_milestones || is_plateau || kind == ESP_SCHEDULE_EXPONENTIAL,
         "schedules step, multistep, exponential and plateau", found},
        {"min_lr", is_plateau || kind == ESP_SCHEDULE_COSINE, "schedules cosine and plateau", found},
        {"plateau_patience", is_plateau, "schedule plateau", found},
        {"cooldown", is_plateau, "schedule plateau", found},
    };
    check_uses(L, uses, sizeof uses / sizeof uses[0]);
}

static void check_training_uses(lua_State *L, const esp_train_options *options)
{
    const char *optimizer = esp_optimizer_word(options->optimizer);
    const bool is_sgd = options->optimizer == ESP_OPTIMIZER_SGD, has_teacher = options->teacher != NULL;
    const esp_norm_mode norm = options->freezes_norm ? ESP_NORM_MODE_FROZEN : options->norm;
    const key_use uses[] = {
        {"momentum", is_sgd, "optimizer sgd", optimizer},
        {"nesterov", is_sgd || !options->uses_nesterov, "optimizer sgd", optimizer},
        {"dampening", is_sgd, "optimizer sgd", optimizer},
        {"beta1", !is_sgd, "optimizers adam and adamw", optimizer},
        {"beta2", !is_sgd, "optimizers adam and adamw", optimizer},
        {"epsilon", !is_sgd, "optimizers adam and adamw", optimizer},
        {"temperature", has_teacher, "a training with a teacher", "none"},
        {"distill", has_teacher, "a training with a teacher", "none"},
        {"min_delta", options->patience > 0, "a training with patience", "none"},
        {"recalibrate_images", norm == ESP_NORM_MODE_RECALIBRATE, "norm recalibrate",
         esp_norm_mode_word(norm)},
    };
    check_uses(L, uses, sizeof uses / sizeof uses[0]);
}

/* A table as JSON has it, a word with its numbers beside it, or a function(epoch, step). */
static void read_schedule(lua_State *L, esp_lua_training *it, const char *key, esp_train_options *options)
{
    esp_error err = {0};
    double usual = esp_lua_has_field(L, 2, "optimizer") ? esp_optimizer_default_lr(options->optimizer)
                                                        : options->schedule.lr;
    double lr = esp_lua_field_number(L, 2, "lr", usual);
    int type = esp_lua_raw_field(L, 2, key);
    if (type == LUA_TFUNCTION) {
        check_no_schedule_words(L, "a function", false);
        it->rate = lua_gettop(L);
        options->lr_fn = ask_rate;
        options->lr_user = it;
        return;
    }
    if (type == LUA_TTABLE) {
        check_no_schedule_words(L, "a table", true);
        json_t **box = esp_lua_push_table_json(L, lua_gettop(L), key);
        esp_lua_check(L, esp_schedule_from_json(*box, lr, &it->schedule, &err), &err);
    } else {
        it->schedule = options->schedule; /* which owns nothing: only JSON makes parts */
        name_schedule(L, key, lr, &it->schedule);
        check_schedule_uses(L, it->schedule.kind);
    }
    it->schedule.warmup_epochs = esp_lua_field_number(L, 2, "warmup", it->schedule.warmup_epochs);
    esp_lua_check(L, esp_schedule_check(&it->schedule, &err), &err);
    options->schedule = it->schedule;
}

static void read_optimizer(lua_State *L, esp_train_options *options)
{
    esp_error err = {0};
    const char *word = esp_lua_field_string(L, 2, "optimizer", esp_optimizer_word(options->optimizer));
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
    esp_lua_check_stack(L, count + 8, "patterns of layers");
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
    options->mean = esp_lua_keep_string(L, "mean");
    options->std = esp_lua_keep_string(L, "std");
}

/* Callbacks, and when it ends or is kept. */
static void read_ends(lua_State *L, esp_lua_training *it, esp_train_options *options)
{
    options->patience = read_count(L, "patience", options->patience);
    options->min_delta = esp_lua_field_number(L, 2, "min_delta", options->min_delta);
    options->checkpoint_steps = esp_lua_field_integer(L, 2, "checkpoint_steps", 0);
    options->checkpoint_seconds = esp_lua_field_number(L, 2, "checkpoint_seconds", 0);
    it->on_epoch = esp_lua_keep_function(L, "on_epoch");
    it->on_step = esp_lua_keep_function(L, "on_step");
    options->on_epoch = it->on_epoch ? on_epoch : NULL;
    options->on_step = it->on_step ? on_step : NULL;
    options->epoch_user = it;
    options->step_user = it;
}

void esp_lua_read_training(lua_State *L, esp_lua_training *it, const char *schedule_key,
                           esp_train_options *options)
{
    esp_lua_check_stack(L, 40, "training");
    read_optimizer(L, options);
    read_schedule(L, it, schedule_key, options);
    read_objective(L, options);
    read_data_options(L, options);
    read_ends(L, it, options);
    check_training_uses(L, options);
}

void esp_lua_read_training_data(lua_State *L, esp_lua_training *it, bool is_required, uint64_t seed,
                                const esp_dataset **data, const esp_dataset **validation)
{
    esp_error err = {0};
    *data = esp_lua_field_data(L, 2, "data", is_required);
    esp_lua_raw_field(L, 2, "data");
    int type = esp_lua_raw_field(L, 2, "validation");
    if (type == LUA_TBOOLEAN && !lua_toboolean(L, -1)) {
        *validation = NULL;
    } else if (type == LUA_TNUMBER && *data) {
        esp_lua_check(L, esp_dataset_split(*data, lua_tonumber(L, -1), seed, &it->rest, &it->held, &err),
                      &err);
        *data = it->rest;
        *validation = it->held;
    } else {
        *validation = esp_lua_field_data(L, 2, "validation", is_required);
    }
}
