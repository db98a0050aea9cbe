/* model:prune_gradually{...}: a plan and a pruning schedule run over training. Tables are read through the
 * JSON forms of plan and schedule, so keys and messages are those of the files. */
#include <string.h>

#include "base/memory.h"
#include "io/checkpoint.h"
#include "io/onnx.h"
#include "prune/gradual.h"
#include "script/lua_train_options.h"

/* Pushed before the run, so that a Lua error finds an owner for everything. */
typedef struct gradual_call {
    lua_State *L;
    int on_event; /* stack index of a function, 0 when there is none */
    esp_gradual_result result;
} gradual_call;

static int call_free(lua_State *L)
{
    gradual_call *it = lua_touserdata(L, 1);
    esp_gradual_result_free(&it->result);
    return 0;
}

static gradual_call *push_call(lua_State *L)
{
    gradual_call *it = lua_newuserdatauv(L, sizeof *it, 0);
    *it = (gradual_call){.L = L};
    if (luaL_newmetatable(L, "espalier.gradual")) {
        lua_pushcfunction(L, call_free);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return it;
}

/* ---- callbacks: in protected calls, since the run's memory must not be jumped over ---- */

static void push_record(lua_State *L, const esp_gradual_record *record)
{
    json_t **box = esp_lua_new_json(L);
    *box = esp_gradual_records_to_json(record, 1);
    if (!*box) {
        esp_error err = {0};
        esp_lua_check(L, esp_fail_memory(&err, "records", 0), &err);
    }
    esp_lua_push_json(L, *box);
    lua_rawgeti(L, -1, 1);
    lua_replace(L, -3);
    lua_pop(L, 1);
}

static int call_on_event(lua_State *L)
{
    static const char *const words[] = {"pruned", "trained", "tuned"};
    const esp_gradual_report *report = lua_touserdata(L, 2);
    lua_pushvalue(L, 1);
    push_record(L, report->record);
    esp_lua_set_string(L, "event", words[report->event]);
    esp_lua_set_integer(L, "steps", report->steps);
    lua_call(L, 1, 0);
    return 0;
}

static esp_status on_event(void *user, const esp_gradual_report *report, esp_error *err)
{
    const gradual_call *it = user;
    return esp_lua_call_back(it->L, call_on_event, it->on_event, report, "on_event", err);
}

/* ---- options ---- */

/* `schedule`: a word, the path of a file, or a table of the same form. */
static void read_schedule(lua_State *L, bool is_required, esp_gradual *schedule)
{
    esp_error err = {0};
    int type = esp_lua_raw_field(L, 2, "schedule");
    if (type == LUA_TSTRING) {
        esp_lua_check(L, esp_gradual_open(lua_tostring(L, -1), schedule, &err), &err);
    } else if (type == LUA_TTABLE) {
        json_t **box = esp_lua_push_table_json(L, -1, "schedule");
        esp_lua_check(L, esp_gradual_from_json(*box, schedule, &err), &err);
        lua_pop(L, 1);
    } else if (is_required) {
        esp_lua_fail(L, "schedule: expected a word such as \"lg\", a path or a table");
    }
    lua_pop(L, 1);
    schedule->step = esp_lua_field_number(L, 2, "step", schedule->step);
    schedule->steps = (int)esp_lua_field_integer(L, 2, "steps", schedule->steps);
    schedule->initial = esp_lua_field_number(L, 2, "initial", schedule->initial);
    schedule->local_epochs = esp_lua_field_number(L, 2, "local_epochs", schedule->local_epochs);
    schedule->local_lr = esp_lua_field_number(L, 2, "local_lr", schedule->local_lr);
    schedule->epochs = esp_lua_field_number(L, 2, "epochs", schedule->epochs);
    schedule->group_lasso = esp_lua_field_number(L, 2, "group_lasso", schedule->group_lasso);
    esp_lua_check(L, esp_gradual_check(schedule, &err), &err);
}

/* Pushes the plan: `plan`, or what `preset` and `ratio` say, which also fill in schedule and training. */
static const esp_plan *read_plan(lua_State *L, esp_gradual *schedule, esp_train_options *training)
{
    const char *preset = esp_lua_field_string(L, 2, "preset", NULL);
    esp_error err = {0};
    bool has_plan = esp_lua_has_field(L, 2, "plan");
    if (has_plan == (preset != NULL)) {
        esp_lua_fail(L, "expected either plan or preset");
    }
    if (!preset) {
        if (esp_lua_has_field(L, 2, "ratio")) {
            esp_lua_fail(L, "ratio belongs to a preset; the plan has its own");
        }
        esp_lua_raw_field(L, 2, "plan");
        return esp_lua_push_plan(L, -1);
    }
    esp_plan *plan = esp_lua_new_plan(L);
    esp_lua_check(
        L, esp_gradual_preset(preset, esp_lua_field_number(L, 2, "ratio", 0), schedule, plan, training, &err),
        &err);
    return plan;
}

static void push_result(lua_State *L, const esp_gradual_result *result)
{
    lua_createtable(L, 0, 9);
    esp_lua_set_integer(L, "steps", result->steps);
    esp_lua_set_integer(L, "steps_done", result->steps_done);
    esp_lua_set_integer(L, "resumed_steps", result->resumed_steps);
    esp_lua_set_integer(L, "resumed_training_step", result->resumed_training_step);
    esp_lua_set_integer(L, "checkpoints", result->checkpoints);
    esp_lua_set_integer(L, "checkpoint_failures", result->checkpoint_failures);
    if (result->checkpoint_failures > 0) {
        esp_lua_set_string(L, "checkpoint_error", result->checkpoint_error.message);
    }
    if (result->last.images > 0) {
        esp_lua_push_eval(L, &result->last);
        lua_setfield(L, -2, "last");
    }
    json_t **box = esp_lua_new_json(L);
    *box = esp_gradual_records_to_json(result->records, result->record_count);
    if (!*box) {
        esp_error err = {0};
        esp_lua_check(L, esp_fail_memory(&err, "records", 0), &err);
    }
    esp_lua_push_json(L, *box);
    lua_setfield(L, -3, "records");
    lua_pop(L, 1);
}

/* Events, the state file and calibration. Callbacks may empty the table: what the run reads stays on the
 * stack. */
static void read_run(lua_State *L, gradual_call *it, esp_gradual_options *options)
{
    it->on_event = esp_lua_keep_function(L, "on_event");
    options->on_event = it->on_event ? on_event : NULL;
    options->event_user = it;
    options->calibration_images = esp_lua_field_integer(L, 2, "calibration", 0);
    options->state_path = esp_lua_keep_string(L, "state");
    options->resumes = esp_lua_field_boolean(L, 2, "resume", false);
    options->save = esp_onnx_save;
    options->load = esp_onnx_load;
    options->save_training = esp_checkpoint_save;
    options->load_training = esp_checkpoint_load;
    if (options->state_path) {
        esp_lua_check_writable(L, options->state_path);
    }
}

/* Replaces the masked model on the top by the cut one. */
static void cut(lua_State *L, const esp_plan *plan, const esp_dataset *data)
{
    const char *form = esp_lua_field_string(L, 2, "form", "grouped");
    esp_surgery_options options = esp_surgery_defaults();
    const esp_graph *masked = esp_lua_model_at(L, -1)->graph;
    esp_error err = {0};
    options.group_form = strcmp(form, "dense") == 0 ? ESP_GROUP_FORM_DENSE : ESP_GROUP_FORM_GROUPED;
    esp_lua_model *model = esp_lua_new_model(L);
    esp_lua_check(
        L, esp_gradual_cut(esp_lua_compute(L), masked, plan, data, &options, &model->graph, NULL, &err),
        &err);
    lua_replace(L, -2);
}

/* model:prune_gradually{plan=, schedule=, data=, validation=, ...}: the masked (cut=true: cut) model, and
 * {steps=, steps_done=, resumed_steps=, resumed_training_step=, checkpoints=, checkpoint_failures=,
 * records={...}, last=} */
static int model_prune_gradually(lua_State *L)
{
    static const char *const keys[] = {ESP_LUA_TRAINING_KEYS,
                                       "plan",
                                       "preset",
                                       "ratio",
                                       "schedule",
                                       "step",
                                       "steps",
                                       "initial",
                                       "local_epochs",
                                       "epochs",
                                       "local_lr",
                                       "group_lasso",
                                       "lr_schedule",
                                       "calibration",
                                       "state",
                                       "resume",
                                       "cut",
                                       "form",
                                       "on_event",
                                       NULL};
    const esp_graph *graph = esp_lua_model_at(L, 1)->graph;
    esp_gradual schedule = esp_gradual_defaults(ESP_GRADUAL_ONE_SHOT);
    esp_train_options training = esp_train_defaults();
    esp_error err = {0};
    esp_lua_check_type(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    esp_lua_check_stack(L, 80, "a pruning schedule");
    esp_lua_check_keys(L, 2, keys);
    const esp_plan *plan = read_plan(L, &schedule, &training);
    read_schedule(L, !esp_lua_has_field(L, 2, "preset"), &schedule);
    esp_lua_training *trained = esp_lua_push_training(L);
    esp_lua_read_training(L, trained, "lr_schedule", &training);
    const char *form = esp_lua_field_string(L, 2, "form", "grouped");
    if (strcmp(form, "grouped") != 0 && strcmp(form, "dense") != 0) {
        return esp_lua_fail(L, "form: found '%s', expected grouped or dense", form);
    }
    bool cuts = esp_lua_field_boolean(L, 2, "cut", false);
    gradual_call *it = push_call(L);
    esp_gradual_options options = {.schedule = &schedule, .plan = plan, .training = &training};
    read_run(L, it, &options);
    const esp_dataset *data, *validation;
    esp_lua_read_training_data(L, trained, false, training.seed, &data, &validation);
    esp_lua_model *model = esp_lua_new_model(L);
    esp_lua_check(L,
                  esp_prune_gradually(esp_lua_compute(L), graph, data, validation, &options, &model->graph,
                                      &it->result, &err),
                  &err);
    if (cuts) {
        cut(L, plan, data);
    }
    push_result(L, &it->result);
    if (options.state_path) {
        esp_gradual_state_remove(options.state_path);
    }
    return 2;
}

void esp_lua_open_gradual(lua_State *L)
{
    static const luaL_Reg methods[] = {{"prune_gradually", model_prune_gradually}, {NULL, NULL}};
    luaL_getmetatable(L, ESP_LUA_MODEL);
    lua_getfield(L, -1, "__index");
    luaL_setfuncs(L, methods, 0);
    lua_pop(L, 2);
}
