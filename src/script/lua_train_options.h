/* What model:train{...} and model:prune_gradually{...} have in common: the keys that say how to train. */
#ifndef ESP_SCRIPT_LUA_TRAIN_OPTIONS_H
#define ESP_SCRIPT_LUA_TRAIN_OPTIONS_H

#include "prune/group_lasso.h"
#include "prune/mask.h"
#include "script/binding.h"
#include "train/trainer.h"

/* What C owns of a training that a script runs, and what its callbacks need. It hangs on a userdata that is
 * pushed before anything may raise. */
typedef struct esp_lua_training {
    lua_State *L;
    int on_epoch, on_step, rate; /* stack indices of functions, 0 when there is none */
    esp_held_masks masks;
    esp_schedule schedule;
    esp_train_state resumed;
    esp_dataset *rest, *held; /* when validation is a share of the training images */
    esp_group_lasso *lasso;
    const char *checkpoint; /* on the stack */
    char note[64];
} esp_lua_training;

esp_lua_training *esp_lua_push_training(lua_State *L);

/* The keys that esp_lua_read_training reads, for a list of allowed ones. The schedule's key is the caller's.
 */
#define ESP_LUA_TRAINING_KEYS                                                                                \
    "data", "validation", "lr", "milestones", "gamma", "every", "min_lr", "plateau_patience", "cooldown",    \
        "warmup", "batch", "momentum", "weight_decay", "nesterov", "crop", "flip", "freeze_norm",            \
        "train_limit", "limit", "mean", "std", "seed", "on_epoch", "on_step", "optimizer", "dampening",      \
        "beta1", "beta2", "epsilon", "clip_norm", "clip_value", "ema", "label_smoothing", "teacher",         \
        "temperature", "distill", "max_loss", "norm", "recalibrate_images", "freeze", "augment", "patience", \
        "min_delta", "checkpoint_steps", "checkpoint_seconds"

/* Puts what the table at 2 says into `options`, which have the usual values or those of a preset. What is
 * borrowed from the table stays on the stack, since callbacks may empty the table. */
void esp_lua_read_training(lua_State *L, esp_lua_training *it, const char *schedule_key,
                           esp_train_options *options);

/* `data`, and `validation`: a dataset, the share of the training images to hold back for it, or false:
 * nothing is measured, all images train, and the newest weights count. NULL where there is none and none is
 * required. Both stay on the stack. */
void esp_lua_read_training_data(lua_State *L, esp_lua_training *it, bool is_required, uint64_t seed,
                                const esp_dataset **data, const esp_dataset **validation);

/* Pushes the string in field `name` of the table at 2, which stays on the stack; NULL when it is nil. */
const char *esp_lua_keep_string(lua_State *L, const char *name);
/* Pushes a function likewise and returns its index; 0 when the field is nil. */
int esp_lua_keep_function(lua_State *L, const char *name);

/* Sets field `name` of the table on the top; what was not measured is absent. */
void esp_lua_set_eval(lua_State *L, const char *name, const esp_eval_result *result);

#endif
