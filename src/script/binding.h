/* What the binding files share: errors as tables, keyword tables, and userdata that own C objects.
 *
 * Rule of all bindings: nothing that C must free is held across a call that may raise a Lua error, unless a
 * userdata made before it owns it. */
#ifndef ESP_SCRIPT_BINDING_H
#define ESP_SCRIPT_BINDING_H

#include <jansson.h>
#include <lauxlib.h>
#include <lua.h>

#include "base/compute.h"
#include "graph/graph.h"
#include "io/safetensors_load.h"
#include "prune/preview.h"
#include "train/data.h"
#include "train/evaluate.h"

/* What the interpreter knows of its host; reached from any binding. */
typedef struct esp_script_host {
    const esp_compute *compute;
    bool is_trusted;
    const char *roots[3];         /* directories where files may be written: absolute, NULL when absent */
    const char *module_directory; /* directory of the Lua library: modules are read there too */
    char *traceback;              /* where the last error was raised; owned by the script */
    void (*output)(void *user, const char *text, size_t length);
    void *output_user;
} esp_script_host;

esp_script_host *esp_lua_host(lua_State *L);
const esp_compute *esp_lua_compute(lua_State *L);

/* ESP_OK returns; anything else raises the error table {code=, message=, hint=}. */
void esp_lua_check(lua_State *L, esp_status status, const esp_error *err);
/* The same for an error, with the place `level` calls further out in front (1: who called this function). */
void esp_lua_raise(lua_State *L, esp_status status, const esp_error *err, int level);
/* Raises {code="invalid", message=...}. */
int esp_lua_fail(lua_State *L, const char *format, ...) ESP_PRINTF(2, 3);

/* What luaL_checktype, luaL_checkstring, luaL_checkudata, luaL_checkinteger and luaL_argcheck check, in their
 * words, but raised as an error table. */
void esp_lua_check_type(lua_State *L, int index, int type);
const char *esp_lua_check_string(lua_State *L, int index);
lua_Integer esp_lua_check_integer(lua_State *L, int index);
void *esp_lua_check_userdata(lua_State *L, int index, const char *class);
void esp_lua_check_argument(lua_State *L, bool holds, int index, const char *expected);
/* NULL when the argument is absent or nil. */
const char *esp_lua_optional_string(lua_State *L, int index);
lua_Integer esp_lua_optional_integer(lua_State *L, int index, lua_Integer otherwise);
/* What luaL_checkstack does; `what` needs the room. */
void esp_lua_check_stack(lua_State *L, int slots, const char *what);

/* Entry `place` of the list at `index`, read without metamethods; `what` names the list in the error:
 * "ratios[2]: found a boolean, expected a whole number". A text stays valid as long as the list holds it. */
lua_Integer esp_lua_item_integer(lua_State *L, int index, lua_Integer place, const char *what);
double esp_lua_item_number(lua_State *L, int index, lua_Integer place, const char *what);
const char *esp_lua_item_string(lua_State *L, int index, lua_Integer place, const char *what);

/* Pushes the metatable of error tables (their __tostring). */
void esp_lua_open_errors(lua_State *L);

/* ESP_INVALID raised when the sandbox does not allow writing there (and always allowed for trusted scripts).
 */
void esp_lua_check_writable(lua_State *L, const char *path);

/* True when a module may be read from this file: in the library, or where files may be written. */
bool esp_lua_is_module_place(lua_State *L, const char *path);

/* Raises once the script's cancel token is set, and makes every later instruction of this thread raise. */
void esp_lua_poll_cancel(lua_State *L);

/* Keyword tables: the table at `index` (absent = empty) may only have these keys; the error names the
 * nearest, or all of them where none is near. `names` ends with NULL. */
void esp_lua_check_keys(lua_State *L, int index, const char *const *names);
/* Fields are read without metamethods: nothing of the script runs while its tables are read, so what was read
 * from a table before is still in it. Pushes the field and returns its type. */
int esp_lua_raw_field(lua_State *L, int index, const char *name);
bool esp_lua_has_field(lua_State *L, int index, const char *name);
double esp_lua_field_number(lua_State *L, int index, const char *name, double otherwise);
int64_t esp_lua_field_integer(lua_State *L, int index, const char *name, int64_t otherwise);
bool esp_lua_field_boolean(lua_State *L, int index, const char *name, bool otherwise);
/* The string stays valid as long as the table holds it. */
const char *esp_lua_field_string(lua_State *L, int index, const char *name, const char *otherwise);

/* JSON to Lua and back. Arrays become sequences. Back: a table with [1] or an empty one marked by `is_array`.
 */
void esp_lua_push_json(lua_State *L, const json_t *value);
/* A userdata that owns a JSON value (may be NULL at first), pushed; set through the returned pointer. */
json_t **esp_lua_new_json(lua_State *L);
/* The table at `index` as JSON, in a pushed userdata; raises an error that names the entry that cannot be:
 * "plan: ratio.conv is nan, expected a finite number". */
json_t **esp_lua_push_table_json(lua_State *L, int index, const char *what);
json_t *esp_lua_to_json(lua_State *L,
                        int index); /* new reference; NULL with nothing raised when it cannot be */

/* ---- userdata ---- */
#define ESP_LUA_MODEL   "espalier.model"
#define ESP_LUA_DATA    "espalier.data"
#define ESP_LUA_PREVIEW "espalier.preview"
#define ESP_LUA_BUILDER "espalier.builder"
#define ESP_LUA_JSON    "espalier.json"
#define ESP_LUA_WEIGHTS "espalier.weights"

typedef struct esp_lua_model {
    esp_graph *graph;
    esp_grouping_cache *cache; /* made when first needed */
} esp_lua_model;

/* Makes a metatable with `methods` as __index. Scripts do not get at it: a finalizer called by hand would
 * release what a running function works on. */
void esp_lua_open_class(lua_State *L, const char *name, const luaL_Reg *methods, const luaL_Reg *meta);

/* A new empty model on the stack, to load into. */
esp_lua_model *esp_lua_new_model(lua_State *L);
esp_lua_model *esp_lua_model_at(lua_State *L, int index);
esp_dataset *esp_lua_data_at(lua_State *L, int index);
/* The dataset in a keyword; raises when it is absent and required. NULL when absent. */
esp_dataset *esp_lua_field_data(lua_State *L, int index, const char *name, bool is_required);
/* The augmentation in a keyword: text "crop=4,flip" or a table {crop=4, flip=true, resized={0.08, 1}}; none
 * when absent. Raises for what is wrong with it. */
void esp_lua_field_augmentation(lua_State *L, int index, const char *name, esp_augmentation *out);
/* Pushes an empty plan that is freed with its userdata; the plan given by a table (its JSON form; `ratio` may
 * be one number) or by the path of a plan file at `index`. */
esp_plan *esp_lua_new_plan(lua_State *L);
esp_plan *esp_lua_push_plan(lua_State *L, int index);
/* The JSON form of the plan given by a table, in a pushed userdata, with what scripts may leave out. */
json_t **esp_lua_push_plan_json(lua_State *L, int index);
/* The keywords data=, images=, seed=, mean=, std= of the table at `index`: what criteria with data look at; a
 * NULL dataset where there is none. Borrowed from the table. */
esp_criterion_data esp_lua_criterion_data(lua_State *L, int index);
/* The same, given to the cache, which keeps what it had when there is no `data`. */
void esp_lua_calibrate(lua_State *L, int index, esp_grouping_cache *cache);
/* The model's cache for previews, made when first needed. */
esp_grouping_cache *esp_lua_model_cache(lua_State *L, esp_lua_model *model);
/* Pushes a new empty preview. */
esp_preview **esp_lua_new_preview(lua_State *L);

/* The open file of weights at this place; NULL once a network was built from it. */
esp_weight_source **esp_lua_weights_at(lua_State *L, int index);
/* Pushes {loaded=, missing={}, unexpected={}, mismatched={}}. */
void esp_lua_push_weight_report(lua_State *L, const esp_weight_source *source);

/* Calls `caller` in a protected call with the function at `callback` and `argument` as a light userdata: for
 * callbacks out of C code whose memory must not be jumped over. ESP_SCRIPT with `name` and the message when
 * it raises, ESP_CANCELLED when the script was cancelled. */
esp_status esp_lua_call_back(lua_State *L, lua_CFunction caller, int callback, const void *argument,
                             const char *name, esp_error *err);

/* A caller for esp_lua_call_back: gives the function a table of the esp_epoch_report that is the argument. */
int esp_lua_call_on_epoch(lua_State *L);

/* Pushes {images=, top1=, top5=, loss=, top1_error=, seconds=, images_per_s=}. */
void esp_lua_push_eval(lua_State *L, const esp_eval_result *result);
void esp_lua_push_counts(lua_State *L, const esp_counts *counts);

/* model:bench{...} (lua_bench.c). */
int esp_lua_model_bench(lua_State *L);

/* model:train{...} and model:replace_classifier(n) (lua_train.c). */
int esp_lua_model_train(lua_State *L);
int esp_lua_model_replace_classifier(lua_State *L);

/* model:sensitivity{...} (lua_sensitivity.c). */
int esp_lua_model_sensitivity(lua_State *L);

/* Sets field `name` of the table on the top. */
void esp_lua_set_number(lua_State *L, const char *name, double value);
void esp_lua_set_integer(lua_State *L, const char *name, int64_t value);
void esp_lua_set_string(lua_State *L, const char *name, const char *value);
void esp_lua_set_boolean(lua_State *L, const char *name, bool value);

/* Each adds its functions to the core module table on the top of the stack. */
void esp_lua_open_model(lua_State *L);
void esp_lua_open_data(lua_State *L);
void esp_lua_open_preview(lua_State *L);
void esp_lua_open_builder(lua_State *L);
void esp_lua_open_plot(lua_State *L);
void esp_lua_open_weights(lua_State *L); /* after open_model: models get methods more */
void esp_lua_open_plan(lua_State *L);    /* after open_model, as are the next */
void esp_lua_open_budget(lua_State *L);
void esp_lua_open_coupling(lua_State *L);
void esp_lua_open_groups(lua_State *L);
void esp_lua_open_gradual(lua_State *L);
void esp_lua_open_calibrate(lua_State *L); /* and after open_preview */
void esp_lua_open_words(lua_State *L);

/* Replaces the standard library by what the sandbox allows. */
void esp_lua_open_sandbox(lua_State *L);
/* print and io.write go to the host's output. */
void esp_lua_open_output(lua_State *L);
/* Coroutines and message handlers end with the script when it is cancelled. */
void esp_lua_open_cancelling(lua_State *L);

#endif
