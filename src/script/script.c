/* One interpreter per script. Its extra space points at the host record, so bindings find the pool and the
 * cancel token without globals. A count hook polls the token; once it is set the hook raises again at every
 * instruction, so no pcall can hold a cancelled script back. */
#include "script/script.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lualib.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/paths.h"
#include "script/binding.h"

enum { HOOK_INSTRUCTIONS = 10000 };

struct esp_script {
    lua_State *L;
    esp_script_host host;
    char *roots[3]; /* script's directory, current directory, granted; resolved, owned */
    char *library;  /* directory of the Lua library */
    char *traceback;
};

static void poll_cancel(lua_State *L, lua_Debug *activation)
{
    (void)activation;
    if (esp_compute_is_cancelled(esp_lua_compute(L))) {
        lua_sethook(L, poll_cancel, LUA_MASKCOUNT, 1);
        luaL_error(L, "cancelled");
    }
}

/* Lua's allocator in terms of ours, so that scripts are counted and failure can be injected. */
static void *allocate(void *user, void *block, size_t old_size, size_t new_size)
{
    (void)user;
    if (new_size == 0) {
        esp_free(block);
        return NULL;
    }
    return block ? esp_realloc(block, old_size, new_size, 1) : esp_alloc(new_size, 1);
}

static int open_core(lua_State *L)
{
    lua_newtable(L);
    esp_lua_open_model(L);
    esp_lua_open_data(L);
    esp_lua_open_preview(L);
    esp_lua_open_builder(L);
    esp_lua_open_plot(L);
    esp_lua_set_string(L, "version", esp_version());
    return 1;
}

/* Sets package.path to the library and the script's own directory. */
static void set_module_path(lua_State *L, const esp_script *script)
{
    lua_getglobal(L, "package");
    lua_pushfstring(L, "%s/?.lua;%s/?/init.lua;%s/?.lua", script->library, script->library,
                    script->roots[0] ? script->roots[0] : ".");
    lua_setfield(L, -2, "path");
    lua_pushliteral(L, "");
    lua_setfield(L, -2, "cpath");
    lua_getfield(L, -1, "preload");
    lua_pushcfunction(L, open_core);
    lua_setfield(L, -2, "espalier.core");
    lua_pop(L, 2);
}

/* Everything that may raise for want of memory runs in here. */
static int open_libraries(lua_State *L)
{
    const esp_script *script = lua_touserdata(L, 1);
    luaL_openlibs(L);
    esp_lua_open_errors(L);
    esp_lua_open_output(L);
    set_module_path(L, script);
    if (!script->host.is_trusted) {
        esp_lua_open_sandbox(L);
    }
    return 0;
}

esp_status esp_script_new(const esp_script_options *options, esp_script **out, esp_error *err)
{
    *out = NULL;
    esp_script *script = esp_alloc_zero(1, sizeof *script);
    if (!script) {
        return esp_fail_memory(err, "a script", sizeof *script);
    }
    script->host = (esp_script_host){.compute = options->compute,
                                     .is_trusted = options->is_trusted,
                                     .output = options->output,
                                     .output_user = options->output_user};
    esp_status status = esp_data_path("lua", &script->library, err);
    if (status != ESP_OK) {
        esp_script_free(script);
        return status;
    }
    char *here = realpath(".", NULL);
    char *granted = options->granted ? realpath(options->granted, NULL) : NULL;
    script->roots[1] = esp_strdup(here);
    script->roots[2] = esp_strdup(granted);
    free(here);
    free(granted);
    *out = script;
    return ESP_OK;
}

void esp_script_free(esp_script *script)
{
    if (!script) {
        return;
    }
    if (script->L) {
        lua_close(script->L);
    }
    for (size_t i = 0; i < 3; i++) {
        esp_free(script->roots[i]);
    }
    esp_free(script->library);
    esp_free(script->traceback);
    esp_free(script);
}

/* The interpreter is made when the script's own directory is known. */
static esp_status open_interpreter(esp_script *script, esp_error *err)
{
    if (script->L) {
        return ESP_OK;
    }
    for (size_t i = 0; i < 3; i++) {
        script->host.roots[i] = script->roots[i];
    }
    lua_State *L = lua_newstate(allocate, NULL);
    if (!L) {
        return esp_fail_memory(err, "the Lua interpreter", 0);
    }
    script->L = L;
    *(esp_script_host **)lua_getextraspace(L) = &script->host;
    lua_pushcfunction(L, open_libraries);
    lua_pushlightuserdata(L, script);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
        return esp_fail(err, ESP_SCRIPT, "the Lua library could not be opened: %s", lua_tostring(L, -1));
    }
    lua_sethook(L, poll_cancel, LUA_MASKCOUNT, HOOK_INSTRUCTIONS);
    return ESP_OK;
}

/* Keeps the error as it is (tables stay tables) and remembers where it happened. */
static int remember_traceback(lua_State *L)
{
    esp_script *script = lua_touserdata(L, lua_upvalueindex(1));
    luaL_traceback(L, L, NULL, 1);
    esp_free(script->traceback);
    script->traceback = esp_strdup(lua_tostring(L, -1));
    lua_pop(L, 1);
    return 1;
}

static int message_of(lua_State *L)
{
    luaL_tolstring(L, 1, NULL);
    return 1;
}

/* The error value on the top of the stack as a status. */
static esp_status take_error(esp_script *script, const char *name, esp_error *err)
{
    lua_State *L = script->L;
    if (esp_compute_is_cancelled(script->host.compute)) {
        return esp_fail(err, ESP_CANCELLED, "%s", name);
    }
    lua_pushcfunction(L, message_of); /* __tostring of a script's own table may raise */
    lua_insert(L, -2);
    bool is_text = lua_pcall(L, 1, 1, 0) == LUA_OK;
    const char *message = is_text ? lua_tostring(L, -1) : NULL;
    esp_status status = esp_fail(err, ESP_SCRIPT, "%s", message ? message : "an error that cannot be shown");
    lua_pop(L, 1);
    return status;
}

/* Runs the chunk on the top of the stack with its arguments. */
static esp_status run_chunk(esp_script *script, const char *name, int argument_count, char *const *arguments,
                            esp_error *err)
{
    lua_State *L = script->L;
    int base = lua_gettop(L) - 1;
    if (!lua_checkstack(L, argument_count + 8)) {
        lua_settop(L, base);
        return esp_fail_memory(err, "the script's arguments", 0);
    }
    lua_pushlightuserdata(L, script);
    lua_pushcclosure(L, remember_traceback, 1);
    lua_insert(L, base + 1);
    for (int i = 0; i < argument_count; i++) {
        lua_pushstring(L, arguments[i]);
    }
    esp_status status =
        lua_pcall(L, argument_count, 0, base + 1) == LUA_OK ? ESP_OK : take_error(script, name, err);
    lua_settop(L, base);
    return status;
}

static void set_arg(lua_State *L, const char *path, int count, char *const *arguments)
{
    lua_createtable(L, count, 1);
    lua_pushstring(L, path);
    lua_rawseti(L, -2, 0);
    for (int i = 0; i < count; i++) {
        lua_pushstring(L, arguments[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setglobal(L, "arg");
}

static void set_script_directory(esp_script *script, const char *path)
{
    char *resolved = realpath(path, NULL);
    if (resolved) {
        size_t length = (size_t)(esp_path_base(resolved) - resolved);
        esp_free(script->roots[0]);
        script->roots[0] = esp_strndup(resolved, length > 1 ? length - 1 : length);
    }
    free(resolved);
}

esp_status esp_script_run_file(esp_script *script, const char *path, int argument_count,
                               char *const *arguments, esp_error *err)
{
    char *text = NULL;
    size_t size = 0;
    esp_status status = esp_file_read(path, &text, &size, err);
    if (status != ESP_OK) {
        return status;
    }
    set_script_directory(script, path);
    status = open_interpreter(script, err);
    if (status == ESP_OK) {
        /* a first line "#!..." is for the shell */
        const char *start = text[0] == '#' ? text + strcspn(text, "\n") : text;
        char chunk_name[PATH_MAX + 2];
        snprintf(chunk_name, sizeof chunk_name, "@%s", path);
        if (luaL_loadbufferx(script->L, start, size - (size_t)(start - text), chunk_name, "t") != LUA_OK) {
            status = take_error(script, path, err);
        } else {
            set_arg(script->L, path, argument_count, arguments);
            status = run_chunk(script, path, argument_count, arguments, err);
        }
    }
    esp_free(text);
    return status;
}

esp_status esp_script_run_text(esp_script *script, const char *text, const char *name, esp_error *err)
{
    char chunk_name[256];
    esp_status status = open_interpreter(script, err);
    if (status != ESP_OK) {
        return status;
    }
    snprintf(chunk_name, sizeof chunk_name, "=%s", name);
    if (luaL_loadbufferx(script->L, text, strlen(text), chunk_name, "t") != LUA_OK) {
        return take_error(script, name, err);
    }
    return run_chunk(script, name, 0, NULL, err);
}

const char *esp_script_traceback(const esp_script *script)
{
    return script->traceback ? script->traceback : "";
}
