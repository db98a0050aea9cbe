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
};

/* What a protected call runs: a file has a path, a text has none. */
typedef struct script_call {
    const char *path;
    int argument_count;
    char *const *arguments;
} script_call;

static void on_count(lua_State *L, lua_Debug *activation)
{
    (void)activation;
    esp_lua_poll_cancel(L);
}

void esp_lua_poll_cancel(lua_State *L)
{
    if (esp_compute_is_cancelled(esp_lua_compute(L))) {
        lua_sethook(L, on_count, LUA_MASKCOUNT, 1);
        esp_lua_check(L, ESP_CANCELLED, &(esp_error){.message = "cancelled"});
    }
}

/* Lua's allocator in terms of ours, so that scripts are counted and failure can be injected. Lua counts on
 * shrinking never to fail. */
static void *allocate(void *user, void *block, size_t old_size, size_t new_size)
{
    (void)user;
    if (new_size == 0) {
        esp_free(block);
        return NULL;
    }
    if (!block) {
        return esp_alloc(new_size, 1);
    }
    void *resized = esp_realloc(block, old_size, new_size, 1);
    return !resized && new_size <= old_size ? block : resized;
}

static int open_core(lua_State *L)
{
    lua_newtable(L);
    esp_lua_open_model(L);
    esp_lua_open_data(L);
    esp_lua_open_preview(L);
    esp_lua_open_builder(L);
    esp_lua_open_plot(L);
    esp_lua_open_weights(L);
    esp_lua_open_plan(L);
    esp_lua_open_budget(L);
    esp_lua_open_coupling(L);
    esp_lua_open_groups(L);
    esp_lua_open_gradual(L);
    esp_lua_open_calibrate(L);
    esp_lua_open_words(L);
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
    esp_lua_open_cancelling(L);
    set_module_path(L, script);
    if (!script->host.is_trusted) {
        esp_lua_open_sandbox(L);
    }
    return 0;
}

/* Replaces a directory by the real path of `path`; when there is none it stays, and a root that stays NULL
 * allows nothing. */
static esp_status set_directory(char **directory, const char *path, esp_error *err)
{
    char *resolved = realpath(path, NULL);
    if (!resolved) {
        return ESP_OK;
    }
    char *copy = esp_strdup(resolved);
    free(resolved);
    if (!copy) {
        return esp_fail_memory(err, "a directory's name", strlen(path));
    }
    esp_free(*directory);
    *directory = copy;
    return ESP_OK;
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
    status = set_directory(&script->library, script->library, err);
    if (status == ESP_OK) {
        status = set_directory(&script->roots[1], ".", err);
    }
    if (status == ESP_OK && options->granted) {
        status = set_directory(&script->roots[2], options->granted, err);
    }
    if (status != ESP_OK) {
        esp_script_free(script);
        return status;
    }
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
    esp_free(script->host.traceback);
    esp_free(script);
}

/* Keeps the error as it is (tables stay tables) and remembers where it happened. */
static int remember_traceback(lua_State *L)
{
    esp_script_host *host = esp_lua_host(L);
    luaL_traceback(L, L, NULL, 1);
    esp_free(host->traceback);
    host->traceback = esp_strdup(lua_tostring(L, -1));
    lua_pop(L, 1);
    return 1;
}

/* Texts and errors of ours say enough; of other values the type is all that can be told. */
static int message_of(lua_State *L)
{
    if (!lua_isstring(L, 1) && luaL_getmetafield(L, 1, "__tostring") == LUA_TNIL) {
        lua_pushfstring(L, "the script raised an error that is a %s value", luaL_typename(L, 1));
        return 1;
    }
    luaL_tolstring(L, 1, NULL);
    return 1;
}

/* A message of several lines, as require's, on one: each break and its indentation become one space. */
static void write_on_one_line(char *line, size_t size, const char *text)
{
    size_t length = 0;
    for (; *text && length + 1 < size; text++) {
        bool is_break = *text == '\n' || *text == '\t' || *text == '\r';
        if (!is_break) {
            line[length++] = *text;
        } else if (length > 0 && line[length - 1] != ' ') {
            line[length++] = ' ';
        }
    }
    line[length] = 0;
}

/* Pops the error value on the top of the stack and says it as a status. */
static esp_status take_error(esp_script *script, const char *name, int lua_status, esp_error *err)
{
    lua_State *L = script->L;
    char line[sizeof err->message];
    lua_pushcfunction(L, message_of); /* __tostring of a script's own table may raise, or be cancelled */
    lua_insert(L, -2);
    bool is_text = lua_pcall(L, 1, 1, 0) == LUA_OK;
    const char *message = is_text ? lua_tostring(L, -1) : NULL;
    write_on_one_line(line, sizeof line, message ? message : "an error that cannot be shown");
    lua_pop(L, 1);
    if (esp_compute_is_cancelled(script->host.compute)) {
        return esp_fail(err, ESP_CANCELLED, "%s", name);
    }
    if (lua_status == LUA_ERRMEM) {
        return esp_fail(err, ESP_NO_MEMORY, "%s: out of memory", name);
    }
    return esp_fail(err, ESP_SCRIPT, "%s", line);
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
    script->host.module_directory = script->library;
    lua_State *L = lua_newstate(allocate, NULL);
    if (!L) {
        return esp_fail_memory(err, "the Lua interpreter", 0);
    }
    script->L = L;
    *(esp_script_host **)lua_getextraspace(L) = &script->host;
    lua_pushcfunction(L, open_libraries);
    lua_pushlightuserdata(L, script);
    int lua_status = lua_pcall(L, 1, 0, 0);
    if (lua_status != LUA_OK) {
        esp_status status = take_error(script, "the Lua library", lua_status, err);
        script->L = NULL;
        lua_close(L);
        return status;
    }
    lua_sethook(L, on_count, LUA_MASKCOUNT, HOOK_INSTRUCTIONS);
    return ESP_OK;
}

static void set_arg(lua_State *L, const script_call *call)
{
    lua_createtable(L, call->argument_count, 1);
    lua_pushstring(L, call->path);
    lua_rawseti(L, -2, 0);
    for (int i = 0; i < call->argument_count; i++) {
        lua_pushstring(L, call->arguments[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setglobal(L, "arg");
}

/* chunk, call: inside a protected call, because making the arguments may run out of memory. */
static int call_chunk(lua_State *L)
{
    const script_call *call = lua_touserdata(L, 2);
    lua_settop(L, 1);
    if (call->path) {
        set_arg(L, call);
    }
    esp_lua_check_stack(L, call->argument_count, "arguments of the script");
    for (int i = 0; i < call->argument_count; i++) {
        lua_pushstring(L, call->arguments[i]);
    }
    lua_call(L, call->argument_count, 0);
    return 0;
}

/* Loads a text and runs it. `chunk_name` is Lua's: "@file" or "=name". */
static esp_status run_chunk(esp_script *script, const char *text, size_t size, const char *chunk_name,
                            script_call *call, esp_error *err)
{
    esp_status status = open_interpreter(script, err);
    if (status != ESP_OK) {
        return status;
    }
    lua_State *L = script->L;
    int base = lua_gettop(L);
    esp_free(script->host.traceback);
    script->host.traceback = NULL;
    lua_pushcfunction(L, remember_traceback);
    lua_pushcfunction(L, call_chunk);
    int lua_status = luaL_loadbufferx(L, text, size, chunk_name, "t");
    if (lua_status == LUA_OK) {
        lua_pushlightuserdata(L, call);
        lua_status = lua_pcall(L, 2, 0, base + 1);
    }
    if (lua_status != LUA_OK) {
        status = take_error(script, chunk_name + 1, lua_status, err);
    }
    lua_settop(L, base);
    return status;
}

static esp_status set_script_directory(esp_script *script, const char *path, esp_error *err)
{
    char *resolved = realpath(path, NULL);
    esp_status status = ESP_OK;
    if (resolved) {
        size_t length = (size_t)(esp_path_base(resolved) - resolved);
        resolved[length > 1 ? length - 1 : length] = 0;
        status = set_directory(&script->roots[0], resolved, err);
    }
    free(resolved);
    return status;
}

esp_status esp_script_run_file(esp_script *script, const char *path, int argument_count,
                               char *const *arguments, esp_error *err)
{
    char *text = NULL;
    size_t size = 0;
    esp_status status = esp_file_read(path, &text, &size, err);
    if (status == ESP_OK && !script->L) {
        status = set_script_directory(script, path, err);
    }
    if (status == ESP_OK) {
        /* a first line "#!..." is for the shell */
        const char *start = text[0] == '#' ? text + strcspn(text, "\n") : text;
        char chunk_name[PATH_MAX + 2];
        script_call call = {path, argument_count, arguments};
        snprintf(chunk_name, sizeof chunk_name, "@%s", path);
        status = run_chunk(script, start, size - (size_t)(start - text), chunk_name, &call, err);
    }
    esp_free(text);
    return status;
}

esp_status esp_script_run_text(esp_script *script, const char *text, const char *name, esp_error *err)
{
    char chunk_name[256];
    script_call call = {0};
    snprintf(chunk_name, sizeof chunk_name, "=%s", name);
    return run_chunk(script, text, strlen(text), chunk_name, &call, err);
}

/* What esp_script_call hands to the protected call, and gets back. */
typedef struct library_call {
    const char *module, *function;
    const json_t *argument;
    json_t *result;
} library_call;

static int call_library(lua_State *L)
{
    library_call *call = lua_touserdata(L, 1);
    lua_getglobal(L, "require");
    lua_pushstring(L, call->module);
    lua_call(L, 1, 1);
    lua_getfield(L, -1, call->function);
    esp_lua_push_json(L, call->argument);
    lua_call(L, 1, 1);
    call->result = esp_lua_to_json(L, -1);
    return call->result ? 0 : esp_lua_fail(L, "%s returned no plain data", call->function);
}

esp_status esp_script_call(esp_script *script, const char *module, const char *function,
                           const json_t *argument, json_t **out, esp_error *err)
{
    library_call call = {module, function, argument, NULL};
    esp_status status = open_interpreter(script, err);
    *out = NULL;
    if (status != ESP_OK) {
        return status;
    }
    lua_State *L = script->L;
    int base = lua_gettop(L);
    lua_pushcfunction(L, remember_traceback);
    lua_pushcfunction(L, call_library);
    lua_pushlightuserdata(L, &call);
    int lua_status = lua_pcall(L, 1, 0, base + 1);
    if (lua_status != LUA_OK) {
        status = take_error(script, module, lua_status, err);
    } else {
        *out = call.result;
    }
    lua_settop(L, base);
    return status;
}

const char *esp_script_traceback(const esp_script *script)
{
    return script->host.traceback ? script->host.traceback : "";
}
