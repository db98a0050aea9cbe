/* Training in Lua: model:train{...} and what belongs to it. */
#include <math.h>
#include <stdio.h>

#include "io/checkpoint.h"
#include "script/lua_train_options.h"
#include "train/classifier.h"

static esp_status save_checkpoint(void *user, const esp_train_state *state, esp_error *err)
{
    const esp_lua_training *it = user;
    return esp_checkpoint_save(it->checkpoint, state, NULL, err);
}

static void read_checkpoint(lua_State *L, esp_lua_training *it, esp_train_options *options)
{
    esp_error err = {0};
    it->checkpoint = esp_lua_keep_string(L, "checkpoint");
    if (it->checkpoint) {
        esp_lua_check_writable(L, it->checkpoint);
        options->on_checkpoint = save_checkpoint;
        options->checkpoint_user = it;
    } else if (options->checkpoint_steps > 0 || options->checkpoint_seconds > 0) {
        esp_lua_fail(L, "%s is for a training with a checkpoint, found none",
                     options->checkpoint_steps > 0 ? "checkpoint_steps" : "checkpoint_seconds");
    }
    const char *resume = esp_lua_keep_string(L, "resume");
    if (resume) {
        esp_lua_check(L, esp_checkpoint_load(resume, &it->resumed, &err), &err);
        options->resume = &it->resumed;
    }
}

/* `group_lasso`: its strength; over the kernels of all layers, each filter its own group. */
static void read_lasso(lua_State *L, esp_lua_training *it, const esp_graph *graph, const esp_dataset *data,
                       esp_train_options *options)
{
    double strength = esp_lua_field_number(L, 2, "group_lasso", 0);
    esp_error err = {0};
    if (strength == 0) {
        return;
    }
    esp_lua_check(L, esp_group_lasso_of_model(graph, data, strength, &it->lasso, &err), &err);
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
    esp_lua_set_eval(L, "best", &result->best);
    esp_lua_set_eval(L, "last", &result->last);
}

/* model:train{data=, validation=, epochs=, ...}: the best version, and a result table */
int esp_lua_model_train(lua_State *L)
{
    static const char *const keys[] = {
        ESP_LUA_TRAINING_KEYS, "schedule", "epochs",      "free_masks", "measure_first",
        "checkpoint",          "resume",   "group_lasso", NULL};
    const esp_graph *graph = esp_lua_model_at(L, 1)->graph;
    esp_train_options options = esp_train_defaults();
    esp_train_result result = {0};
    esp_error err = {0};
    esp_lua_check_type(L, 2, LUA_TTABLE);
    esp_lua_check_keys(L, 2, keys);
    esp_lua_check_stack(L, 60, "training");
    esp_lua_training *it = esp_lua_push_training(L);
    options.epochs_limit = esp_lua_field_number(L, 2, "epochs", NAN);
    if (!(options.epochs_limit > 0)) {
        return esp_lua_fail(L, "epochs: expected a number above 0");
    }
    const esp_dataset *data = NULL, *validation = NULL;
    options.evaluates_first = esp_lua_field_boolean(L, 2, "measure_first", false);
    esp_lua_read_training(L, it, "schedule", &options);
    read_checkpoint(L, it, &options);
    esp_lua_read_training_data(L, it, true, options.seed, &data, &validation);
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
    uint64_t seed = (uint64_t)esp_lua_optional_integer(L, 3, 0);
    esp_error err = {0};
    esp_lua_model *model = esp_lua_new_model(L);
    esp_lua_check(L, esp_replace_classifier(graph, classes, seed, &model->graph, &err), &err);
    return 1;
}
