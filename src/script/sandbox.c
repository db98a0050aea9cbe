/* The sandbox is an allow-list: the standard library is opened, then everything not named here is gone. What
 * touches files (io.open, require) is replaced by forms that stay inside the host's directories; load takes
 * text only, so no bytecode reaches the interpreter; there are no finalizers, because Lua runs them without
 * the hook that ends a cancelled script. Only what is named can be called, so a new Lua release
 * adds nothing by itself. */
#include <string.h>

#include "script/binding.h"

static const char *const base_names[] = {
    "assert", "error",   "ipairs", "next",         "pairs",        "pcall",    "rawequal",
    "rawget", "rawlen",  "rawset", "select",       "setmetatable", "tonumber", "tostring",
    "type",   "warn",    "xpcall", "getmetatable", "_VERSION",     "print",    "collectgarbage",
    "load",   "require", "string", "table",        "math",         "utf8",     "coroutine",
    "os",     "io",      "_G",     "package",      "debug",        "arg",      NULL};
static const char *const os_names[] = {"time", "clock", "date", "difftime", NULL};
static const char *const io_names[] = {"open", "write", "lines", "type", NULL};
static const char *const debug_names[] = {"traceback", NULL};
static const char *const string_removed[] = {"dump", NULL};

static bool is_listed(const char *name, const char *const *names)
{
    for (; *names; names++) {
        if (strcmp(name, *names) == 0) {
            return true;
        }
    }
    return false;
}

/* Removes from the table on the top every string key that is (not) listed. */
static void filter_table(lua_State *L, const char *const *names, bool keeps_listed)
{
    int table = lua_gettop(L);
    lua_pushnil(L);
    while (lua_next(L, table)) {
        lua_pop(L, 1);
        bool is_in = lua_type(L, -1) == LUA_TSTRING && is_listed(lua_tostring(L, -1), names);
        if (is_in != keeps_listed) {
            lua_pushvalue(L, -1);
            lua_pushnil(L); /* assigning nil to a present field is allowed during traversal */
            lua_rawset(L, table);
        }
    }
}

static void filter_global(lua_State *L, const char *name, const char *const *names, bool keeps_listed)
{
    if (lua_getglobal(L, name) == LUA_TTABLE) {
        filter_table(L, names, keeps_listed);
    }
    lua_pop(L, 1);
}

/* load(chunk [, name [, mode [, env]]]) with mode forced to text. */
static int load_text(lua_State *L)
{
    int count = lua_gettop(L);
    lua_settop(L, count < 4 ? 3 : 4);
    lua_pushliteral(L, "t");
    lua_replace(L, 3);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, count < 4 ? 3 : 4, LUA_MULTRET);
    return lua_gettop(L);
}

/* io.open and io.lines through the walls; the original is the upvalue. */
static int open_inside(lua_State *L)
{
    esp_lua_check_writable(L, esp_lua_check_string(L, 1));
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

/* setmetatable without __gc. */
static int set_metatable(lua_State *L)
{
    if (lua_istable(L, 2) && esp_lua_raw_field(L, 2, "__gc") != LUA_TNIL) {
        return esp_lua_fail(L, "__gc: finalizers need espalier run --trusted");
    }
    lua_settop(L, 2);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 2, 1);
    return 1;
}

static void wrap_field(lua_State *L, const char *table, const char *name, lua_CFunction wrapper)
{
    lua_getglobal(L, table);
    lua_getfield(L, -1, name);
    lua_pushcclosure(L, wrapper, 1);
    lua_setfield(L, -2, name);
    lua_pop(L, 1);
}

/* print(...) as Lua's, to the host. */
static int print_to_host(lua_State *L)
{
    const esp_script_host *host = esp_lua_host(L);
    int count = lua_gettop(L);
    luaL_Buffer buffer;
    luaL_buffinit(L, &buffer);
    for (int i = 1; i <= count; i++) {
        if (i > 1) {
            luaL_addchar(&buffer, '\t');
        }
        luaL_tolstring(L, i, NULL);
        luaL_addvalue(&buffer);
    }
    luaL_addchar(&buffer, '\n');
    luaL_pushresult(&buffer);
    size_t length = 0;
    const char *text = lua_tolstring(L, -1, &length);
    if (host->output) {
        host->output(host->output_user, text, length);
    }
    return 0;
}

/* io.write(...) to the host: strings and numbers. */
static int write_to_host(lua_State *L)
{
    const esp_script_host *host = esp_lua_host(L);
    for (int i = 1; i <= lua_gettop(L); i++) {
        const char *text = esp_lua_check_string(L, i);
        size_t length = lua_rawlen(L, i);
        if (host->output) {
            host->output(host->output_user, text, length);
        }
    }
    return 0;
}

void esp_lua_open_output(lua_State *L)
{
    lua_pushcfunction(L, print_to_host);
    lua_setglobal(L, "print");
    lua_getglobal(L, "io");
    lua_pushcfunction(L, write_to_host);
    lua_setfield(L, -2, "write");
    lua_pop(L, 1);
}

/* The function in the upvalue, unless and until the script is cancelled. A coroutine that was ended by the
 * hook gives control back to the one that resumed it, whose own count starts anew: without the check here,
 * coroutines that resume coroutines could go on for ages. */
static int call_unless_cancelled(lua_State *L)
{
    esp_lua_poll_cancel(L);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    esp_lua_poll_cancel(L);
    return lua_gettop(L);
}

/* coroutine.wrap(f): what it returns resumes. */
static int wrap_coroutine(lua_State *L)
{
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 1, 1);
    lua_pushcclosure(L, call_unless_cancelled, 1);
    return 1;
}

/* The handler in the upvalue. Lua calls it inside the hook that ends a cancelled script, where no hook is: a
 * handler that takes its time there could not be stopped. */
static int handle_unless_cancelled(lua_State *L)
{
    lua_settop(L, 1);
    if (!esp_compute_is_cancelled(esp_lua_compute(L))) {
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_insert(L, 1);
        lua_call(L, 1, 1);
    }
    return 1;
}

static int return_all(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    (void)context;
    return lua_gettop(L);
}

/* xpcall(f, handler, ...): a continuation, because f may yield. */
static int call_with_handler(lua_State *L)
{
    esp_lua_check_type(L, 2, LUA_TFUNCTION);
    lua_pushvalue(L, 2);
    lua_pushcclosure(L, handle_unless_cancelled, 1);
    lua_replace(L, 2);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_callk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, return_all);
    return return_all(L, LUA_OK, 0);
}

void esp_lua_open_cancelling(lua_State *L)
{
    wrap_field(L, "_G", "xpcall", call_with_handler);
    wrap_field(L, "coroutine", "resume", call_unless_cancelled);
    wrap_field(L, "coroutine", "wrap", wrap_coroutine);
}

/* The value behind a global library must not be reachable through string methods either: the metatable of
 * strings points at the (filtered) string table itself, and getmetatable is limited by a __metatable field.
 */
static void lock_string_metatable(lua_State *L)
{
    lua_pushliteral(L, "");
    if (lua_getmetatable(L, -1)) {
        lua_pushliteral(L, "string");
        lua_setfield(L, -2, "__metatable");
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

/* Only the searchers for preloaded modules and Lua files stay; file modules are read as text. */
static int search_text(lua_State *L)
{
    const char *name = esp_lua_check_string(L, 1);
    lua_getfield(L, lua_upvalueindex(1), "searchpath");
    lua_pushstring(L, name);
    lua_getfield(L, lua_upvalueindex(1), "path");
    lua_call(L, 2, 2);
    if (lua_isnil(L, -2)) {
        return 1; /* the message that says where it was looked for */
    }
    lua_pop(L, 1);
    const char *path = lua_tostring(L, -1);
    /* links, or a name that is a search path by itself, may lead anywhere */
    if (!esp_lua_is_module_place(L, path)) {
        return esp_lua_fail(L, "module '%s': %s: outside the directories this script may use", name, path);
    }
    if (luaL_loadfilex(L, path, "t") != LUA_OK) {
        return esp_lua_fail(L, "module '%s': %s", name, lua_tostring(L, -1));
    }
    lua_pushvalue(L, -2);
    return 2;
}

static void limit_searchers(lua_State *L)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "searchers");
    lua_createtable(L, 2, 0);
    lua_rawgeti(L, -2, 1);
    lua_rawseti(L, -2, 1);
    lua_createtable(L, 0, 2); /* what the searcher needs, out of the script's reach */
    lua_getfield(L, -4, "searchpath");
    lua_setfield(L, -2, "searchpath");
    lua_getfield(L, -4, "path");
    lua_setfield(L, -2, "path");
    lua_pushcclosure(L, search_text, 1);
    lua_rawseti(L, -2, 2);
    lua_setfield(L, -3, "searchers");
    lua_pop(L, 2);
}

void esp_lua_open_sandbox(lua_State *L)
{
    static const char *const package_names[] = {"loaded", "preload", "searchers", NULL};
    limit_searchers(L);
    filter_global(L, "package", package_names, true);
    filter_global(L, "os", os_names, true);
    filter_global(L, "io", io_names, true);
    filter_global(L, "debug", debug_names, true);
    filter_global(L, "string", string_removed, false);
    wrap_field(L, "io", "open", open_inside);
    wrap_field(L, "io", "lines", open_inside);
    wrap_field(L, "_G", "load", load_text);
    wrap_field(L, "_G", "setmetatable", set_metatable);
    lua_pushglobaltable(L);
    filter_table(L, base_names, true);
    lua_pop(L, 1);
    lock_string_metatable(L);
}
