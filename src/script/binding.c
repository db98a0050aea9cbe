/* Shared by all bindings: see binding.h for the rule that keeps them free of leaks. */
#include "script/binding.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "base/text.h"

#define ERROR_METATABLE "espalier.error"

esp_script_host *esp_lua_host(lua_State *L)
{
    return *(esp_script_host **)lua_getextraspace(L);
}

const esp_compute *esp_lua_compute(lua_State *L)
{
    return esp_lua_host(L)->compute;
}

/* ---- errors ---- */

static int error_to_string(lua_State *L)
{
    lua_getfield(L, 1, "message");
    lua_getfield(L, 1, "hint");
    if (lua_isstring(L, -1) && lua_rawlen(L, -1) > 0) {
        lua_pushfstring(L, "%s (%s)", lua_tostring(L, -2), lua_tostring(L, -1));
    } else {
        lua_pop(L, 1);
    }
    return 1;
}

void esp_lua_open_errors(lua_State *L)
{
    luaL_newmetatable(L, ERROR_METATABLE);
    lua_pushcfunction(L, error_to_string);
    lua_setfield(L, -2, "__tostring");
    lua_pop(L, 1);
}

void esp_lua_check(lua_State *L, esp_status status, const esp_error *err)
{
    if (status != ESP_OK) {
        esp_lua_raise(L, status, err, 1);
    }
}

void esp_lua_raise(lua_State *L, esp_status status, const esp_error *err, int level)
{
    lua_createtable(L, 0, 3);
    esp_lua_set_string(L, "code", esp_status_word(status));
    luaL_where(L, level);
    lua_pushstring(L, err->message[0] ? err->message : esp_status_word(status));
    lua_concat(L, 2);
    lua_setfield(L, -2, "message");
    esp_lua_set_string(L, "hint", err->hint);
    luaL_setmetatable(L, ERROR_METATABLE);
    lua_error(L);
}

int esp_lua_fail(lua_State *L, const char *format, ...)
{
    esp_error err = {0};
    char text[sizeof err.message];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    esp_lua_check(L, esp_fail(&err, ESP_INVALID, "%s", text), &err);
    return 0;
}

/* ---- the sandbox's walls ---- */

/* Where opening `path` would lead, links followed: itself, or the directory it would be made in. NULL when
 * that cannot be told, as for a link to nothing: opening it for writing would make a file elsewhere. */
static char *real_place(const char *path)
{
    char directory[4096];
    struct stat info;
    char *resolved = realpath(path, NULL);
    if (resolved || lstat(path, &info) == 0) {
        return resolved;
    }
    const char *slash = strrchr(path, '/');
    size_t length = slash ? (size_t)(slash - path) : 0;
    if (length >= sizeof directory) {
        return NULL;
    }
    snprintf(directory, sizeof directory, "%.*s", (int)length, path);
    return realpath(slash ? (length ? directory : "/") : ".", NULL);
}

static bool is_below(const char *place, const char *root)
{
    size_t length = root ? strlen(root) : 0;
    bool ends_with_slash = length > 0 && root[length - 1] == '/';
    return root && strncmp(place, root, length) == 0 &&
           (ends_with_slash || place[length] == 0 || place[length] == '/');
}

static bool is_below_roots(const esp_script_host *host, const char *path)
{
    char *place = real_place(path);
    bool is_inside = false;
    for (size_t i = 0; place && i < sizeof host->roots / sizeof host->roots[0]; i++) {
        is_inside = is_inside || is_below(place, host->roots[i]);
    }
    free(place);
    return is_inside;
}

bool esp_lua_is_module_place(lua_State *L, const char *path)
{
    const esp_script_host *host = esp_lua_host(L);
    char *place = realpath(path, NULL);
    bool is_library = place && is_below(place, host->module_directory);
    free(place);
    return is_library || is_below_roots(host, path);
}

void esp_lua_check_writable(lua_State *L, const char *path)
{
    const esp_script_host *host = esp_lua_host(L);
    esp_error err = {0};
    if (host->is_trusted || is_below_roots(host, path)) {
        return;
    }
    esp_fail(&err, ESP_INVALID, "%s: outside the directories this script may use", path);
    esp_error_set_hint(&err,
                       "it may use its own and the current directory; espalier run --trusted lifts this");
    esp_lua_check(L, ESP_INVALID, &err);
}

/* ---- keyword tables ---- */

/* The names as one text, which stays on the stack. */
static const char *push_known(lua_State *L, const char *const *names)
{
    luaL_Buffer text;
    luaL_buffinit(L, &text);
    for (int i = 0; names[i]; i++) {
        luaL_addstring(&text, i ? ", " : "");
        luaL_addstring(&text, names[i]);
    }
    luaL_pushresult(&text);
    return lua_tostring(L, -1);
}

static void fail_unknown_key(lua_State *L, const char *key, const char *const *names, size_t count)
{
    esp_error err = {0};
    const char *nearest = esp_nearest_word(key, names, count);
    esp_fail(&err, ESP_INVALID, "unknown key '%s'", key);
    if (nearest) {
        esp_error_set_hint(&err, "did you mean '%s'?", nearest);
    } else {
        esp_error_set_hint(&err, "known: %s", push_known(L, names));
    }
    esp_lua_check(L, ESP_INVALID, &err);
}

void esp_lua_check_keys(lua_State *L, int index, const char *const *names)
{
    size_t count = 0;
    if (lua_isnoneornil(L, index)) {
        return;
    }
    esp_lua_check_type(L, index, LUA_TTABLE);
    while (names[count]) {
        count++;
    }
    lua_pushnil(L);
    while (lua_next(L, index)) {
        bool is_known = false;
        const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "[number]";
        for (size_t i = 0; i < count; i++) {
            is_known = is_known || strcmp(key, names[i]) == 0;
        }
        if (!is_known) {
            fail_unknown_key(L, key, names, count);
        }
        lua_pop(L, 1);
    }
}

int esp_lua_raw_field(lua_State *L, int index, const char *name)
{
    index = lua_absindex(L, index);
    lua_pushstring(L, name);
    return lua_rawget(L, index);
}

/* Pushes a field; false (and nothing pushed) when it is absent. */
static bool push_field(lua_State *L, int index, const char *name)
{
    if (!lua_istable(L, index)) {
        return false;
    }
    if (esp_lua_raw_field(L, index, name) == LUA_TNIL) {
        lua_pop(L, 1);
        return false;
    }
    return true;
}

bool esp_lua_has_field(lua_State *L, int index, const char *name)
{
    bool has = push_field(L, index, name);
    if (has) {
        lua_pop(L, 1);
    }
    return has;
}

double esp_lua_field_number(lua_State *L, int index, const char *name, double otherwise)
{
    if (!push_field(L, index, name)) {
        return otherwise;
    }
    int is_number = 0;
    double value = lua_tonumberx(L, -1, &is_number);
    if (!is_number || !isfinite(value)) {
        esp_lua_fail(L, "%s: found %s, expected a number", name, luaL_tolstring(L, -1, NULL));
    }
    lua_pop(L, 1);
    return value;
}

int64_t esp_lua_field_integer(lua_State *L, int index, const char *name, int64_t otherwise)
{
    if (!push_field(L, index, name)) {
        return otherwise;
    }
    int is_integer = 0;
    lua_Integer value = lua_tointegerx(L, -1, &is_integer);
    if (!is_integer) {
        esp_lua_fail(L, "%s: found %s, expected a whole number", name, luaL_tolstring(L, -1, NULL));
    }
    lua_pop(L, 1);
    return value;
}

bool esp_lua_field_boolean(lua_State *L, int index, const char *name, bool otherwise)
{
    if (!push_field(L, index, name)) {
        return otherwise;
    }
    if (!lua_isboolean(L, -1)) {
        esp_lua_fail(L, "%s: found %s, expected true or false", name, luaL_tolstring(L, -1, NULL));
    }
    bool value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

const char *esp_lua_field_string(lua_State *L, int index, const char *name, const char *otherwise)
{
    if (!push_field(L, index, name)) {
        return otherwise;
    }
    if (lua_type(L, -1) != LUA_TSTRING) {
        esp_lua_fail(L, "%s: found %s, expected a string", name, luaL_tolstring(L, -1, NULL));
    }
    const char *value = lua_tostring(L, -1);
    lua_pop(L, 1);
    return value;
}

/* ---- userdata ---- */

void esp_lua_open_class(lua_State *L, const char *name, const luaL_Reg *methods, const luaL_Reg *meta)
{
    luaL_newmetatable(L, name);
    luaL_setfuncs(L, meta, 0);
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    lua_setfield(L, -2, "__index");
    esp_lua_set_string(L, "__metatable", name);
    lua_pop(L, 1);
}

/* ---- results ---- */

void esp_lua_set_number(lua_State *L, const char *name, double value)
{
    lua_pushnumber(L, value);
    lua_setfield(L, -2, name);
}

void esp_lua_set_integer(lua_State *L, const char *name, int64_t value)
{
    lua_pushinteger(L, value);
    lua_setfield(L, -2, name);
}

void esp_lua_set_string(lua_State *L, const char *name, const char *value)
{
    lua_pushstring(L, value);
    lua_setfield(L, -2, name);
}

void esp_lua_set_boolean(lua_State *L, const char *name, bool value)
{
    lua_pushboolean(L, value);
    lua_setfield(L, -2, name);
}

void esp_lua_push_eval(lua_State *L, const esp_eval_result *result)
{
    lua_createtable(L, 0, 7);
    esp_lua_set_integer(L, "images", result->images);
    esp_lua_set_number(L, "top1", result->top1);
    esp_lua_set_number(L, "top5", result->top5);
    esp_lua_set_number(L, "loss", result->loss);
    esp_lua_set_number(L, "top1_error", result->top1_error);
    esp_lua_set_number(L, "seconds", result->seconds);
    esp_lua_set_number(L, "images_per_s", result->images_per_s);
}

void esp_lua_push_counts(lua_State *L, const esp_counts *counts)
{
    lua_createtable(L, 0, 4);
    esp_lua_set_integer(L, "params", counts->params);
    esp_lua_set_integer(L, "macs", counts->macs);
    esp_lua_set_number(L, "paper_params", counts->paper_params);
    esp_lua_set_number(L, "paper_macs", counts->paper_macs);
}

/* ---- JSON ---- */

static int free_json(lua_State *L)
{
    json_t **box = esp_lua_check_userdata(L, 1, ESP_LUA_JSON);
    json_decref(*box);
    *box = NULL;
    return 0;
}

json_t **esp_lua_new_json(lua_State *L)
{
    json_t **box = lua_newuserdatauv(L, sizeof *box, 0);
    *box = NULL;
    if (luaL_newmetatable(L, ESP_LUA_JSON)) {
        lua_pushcfunction(L, free_json);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return box;
}

void esp_lua_push_json(lua_State *L, const json_t *value)
{
    esp_lua_check_stack(L, 4, "JSON that is nested too deeply");
    switch (json_typeof(value)) {
    case JSON_OBJECT: {
        const char *key;
        json_t *item;
        lua_newtable(L);
        json_object_foreach((json_t *)value, key, item)
        {
            esp_lua_push_json(L, item);
            lua_setfield(L, -2, key);
        }
        return;
    }
    case JSON_ARRAY:
        lua_createtable(L, (int)json_array_size(value), 0);
        for (size_t i = 0; i < json_array_size(value); i++) {
            esp_lua_push_json(L, json_array_get(value, i));
            lua_rawseti(L, -2, (lua_Integer)i + 1);
        }
        return;
    case JSON_STRING:
        lua_pushlstring(L, json_string_value(value), json_string_length(value));
        return;
    case JSON_INTEGER:
        lua_pushinteger(L, json_integer_value(value));
        return;
    case JSON_REAL:
        lua_pushnumber(L, json_real_value(value));
        return;
    case JSON_TRUE:
    case JSON_FALSE:
        lua_pushboolean(L, json_is_true(value));
        return;
    case JSON_NULL:
        lua_pushnil(L);
        return;
    }
}

static json_t *table_to_json(lua_State *L, int index, int depth);

static json_t *value_to_json(lua_State *L, int index, int depth)
{
    switch (lua_type(L, index)) {
    case LUA_TBOOLEAN:
        return json_boolean(lua_toboolean(L, index));
    case LUA_TNUMBER:
        return lua_isinteger(L, index) ? json_integer(lua_tointeger(L, index))
                                       : json_real(lua_tonumber(L, index));
    case LUA_TSTRING:
        return json_string(lua_tostring(L, index));
    case LUA_TTABLE:
        return depth < 16 ? table_to_json(L, index, depth + 1) : NULL;
    default:
        return NULL;
    }
}

/* Uses only raw access and a stack checked beforehand, so nothing here can raise while JSON is held. */
static json_t *table_to_json(lua_State *L, int index, int depth)
{
    index = lua_absindex(L, index);
    lua_Integer length = (lua_Integer)lua_rawlen(L, index);
    json_t *result = length > 0 ? json_array() : json_object();
    bool is_good = result && lua_checkstack(L, 4);
    for (lua_Integer i = 1; is_good && i <= length; i++) {
        lua_rawgeti(L, index, i);
        is_good = json_array_append_new(result, value_to_json(L, -1, depth)) == 0;
        lua_pop(L, 1);
    }
    if (is_good && length == 0) {
        lua_pushnil(L);
        while (lua_next(L, index)) {
            bool is_named = lua_type(L, -2) == LUA_TSTRING;
            is_good = is_good && is_named &&
                      json_object_set_new(result, lua_tostring(L, -2), value_to_json(L, -1, depth)) == 0;
            lua_pop(L, 1);
        }
    }
    if (!is_good) {
        json_decref(result);
        return NULL;
    }
    return result;
}

json_t *esp_lua_to_json(lua_State *L, int index)
{
    return value_to_json(L, index, 0);
}

/* Writes the way to the first entry that JSON does not have into `path`, behind `used` characters, and pushes
 * its value; raises nothing. */
static bool find_fault(lua_State *L, int index, int depth, char *path, size_t size, size_t used)
{
    index = lua_absindex(L, index);
    int type = lua_type(L, index);
    if (type == LUA_TBOOLEAN || type == LUA_TSTRING ||
        (type == LUA_TNUMBER && isfinite(lua_tonumber(L, index)))) {
        return false;
    }
    if (type != LUA_TTABLE || depth > 16 || !lua_checkstack(L, 4)) {
        lua_pushvalue(L, index);
        return true;
    }
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        bool is_named = lua_type(L, -2) == LUA_TSTRING;
        int added = is_named
                        ? snprintf(path + used, size - used, "%s%s", depth ? "." : "", lua_tostring(L, -2))
                        : snprintf(path + used, size - used, "[%lld]", (long long)lua_tointeger(L, -2));
        size_t end = used + (size_t)added < size ? used + (size_t)added : size - 1;
        if (find_fault(L, -1, depth + 1, path, size, end)) {
            return true;
        }
    }
    path[used] = 0;
    return false;
}

json_t **esp_lua_push_table_json(lua_State *L, int index, const char *what)
{
    char path[128] = "";
    index = lua_absindex(L, index);
    json_t **box = esp_lua_new_json(L);
    *box = esp_lua_to_json(L, index);
    if (*box) {
        return box;
    }
    if (!find_fault(L, index, 0, path, sizeof path, 0)) {
        esp_lua_fail(L, "%s: a table is either a list or has names, found one that mixes them", what);
    }
    if (lua_type(L, -1) == LUA_TNUMBER) {
        double value = lua_tonumber(L, -1); /* the sign of NaN is nobody's business */
        esp_lua_fail(L, "%s: %s is %s, expected a finite number", what, path,
                     isnan(value) ? "nan"
                     : value > 0  ? "inf"
                                  : "-inf");
    }
    esp_lua_fail(L, "%s: %s is a %s, expected a number, a string, a boolean or a table of them", what, path,
                 luaL_typename(L, -1));
    return NULL;
}

esp_status esp_lua_call_back(lua_State *L, lua_CFunction caller, int callback, const void *argument,
                             const char *name, esp_error *err)
{
    if (!lua_checkstack(L, 8))
        return esp_fail_memory(err, "the Lua stack", 0);
    lua_pushcfunction(L, caller);
    lua_pushvalue(L, callback);
    lua_pushlightuserdata(L, (void *)(uintptr_t)argument);
    if (lua_pcall(L, 2, 0, 0) == LUA_OK)
        return ESP_OK;
    const char *message = luaL_tolstring(L, -1, NULL);
    esp_status status = esp_compute_is_cancelled(esp_lua_compute(L))
                            ? esp_fail(err, ESP_CANCELLED, "cancelled")
                            : esp_fail(err, ESP_SCRIPT, "%s: %s", name, message);
    lua_pop(L, 2);
    return status;
}
