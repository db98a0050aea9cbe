/* Arguments and entries of lists, checked. What is wrong is said in the words of the Lua library, but raised
 * as an error table. */
#include "script/binding.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- arguments ---- */

static void fail_argument(lua_State *L, int index, const char *text)
{
    lua_Debug info = {0};
    if (lua_getstack(L, 0, &info)) {
        lua_getinfo(L, "n", &info);
    }
    const char *name = info.name ? info.name : "?";
    if (info.namewhat && strcmp(info.namewhat, "method") == 0 && --index == 0) {
        esp_lua_fail(L, "calling '%s' on bad self (%s)", name, text);
    }
    esp_lua_fail(L, "bad argument #%d to '%s' (%s)", index, name, text);
}

static void fail_type(lua_State *L, int index, const char *expected)
{
    char text[128];
    const char *found = luaL_getmetafield(L, index, "__name") == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    if (!found) {
        found = luaL_typename(L, index);
    }
    snprintf(text, sizeof text, "%s expected, got %s", expected, found);
    fail_argument(L, index, text);
}

void esp_lua_check_type(lua_State *L, int index, int type)
{
    index = lua_absindex(L, index);
    if (lua_type(L, index) != type) {
        fail_type(L, index, lua_typename(L, type));
    }
}

const char *esp_lua_check_string(lua_State *L, int index)
{
    index = lua_absindex(L, index);
    const char *text = lua_tostring(L, index);
    if (!text) {
        fail_type(L, index, "string");
    }
    return text;
}

lua_Integer esp_lua_check_integer(lua_State *L, int index)
{
    int is_integer = 0;
    index = lua_absindex(L, index);
    lua_Integer value = lua_tointegerx(L, index, &is_integer);
    if (!is_integer) {
        fail_type(L, index, "whole number");
    }
    return value;
}

void *esp_lua_check_userdata(lua_State *L, int index, const char *class)
{
    index = lua_absindex(L, index);
    void *found = luaL_testudata(L, index, class);
    if (!found) {
        fail_type(L, index, class);
    }
    return found;
}

void esp_lua_check_argument(lua_State *L, bool holds, int index, const char *expected)
{
    if (!holds) {
        fail_argument(L, index, expected);
    }
}

const char *esp_lua_optional_string(lua_State *L, int index)
{
    return lua_isnoneornil(L, index) ? NULL : esp_lua_check_string(L, index);
}

lua_Integer esp_lua_optional_integer(lua_State *L, int index, lua_Integer otherwise)
{
    return lua_isnoneornil(L, index) ? otherwise : esp_lua_check_integer(L, index);
}

void esp_lua_check_stack(lua_State *L, int slots, const char *what)
{
    esp_error err = {0};
    if (!lua_checkstack(L, slots)) {
        esp_lua_check(L, esp_fail(&err, ESP_NO_MEMORY, "%s: no room for %d values on the stack", what, slots),
                      &err);
    }
}

/* ---- entries of lists ---- */

/* The entry is on the top of the stack. A value is shown where it has a short form. */
static void fail_item(lua_State *L, lua_Integer place, const char *what, const char *expected)
{
    if (lua_type(L, -1) == LUA_TNUMBER) {
        esp_lua_fail(L, "%s[%lld]: found %s, expected %s", what, (long long)place,
                     luaL_tolstring(L, -1, NULL), expected);
    }
    esp_lua_fail(L, "%s[%lld]: found a %s, expected %s", what, (long long)place, luaL_typename(L, -1),
                 expected);
}

lua_Integer esp_lua_item_integer(lua_State *L, int index, lua_Integer place, const char *what)
{
    int is_integer = 0;
    lua_rawgeti(L, index, place);
    lua_Integer value = lua_type(L, -1) == LUA_TNUMBER ? lua_tointegerx(L, -1, &is_integer) : 0;
    if (!is_integer) {
        fail_item(L, place, what, "a whole number");
    }
    lua_pop(L, 1);
    return value;
}

double esp_lua_item_number(lua_State *L, int index, lua_Integer place, const char *what)
{
    if (lua_rawgeti(L, index, place) != LUA_TNUMBER || !isfinite(lua_tonumber(L, -1))) {
        fail_item(L, place, what, "a finite number");
    }
    double value = lua_tonumber(L, -1);
    lua_pop(L, 1);
    return value;
}

const char *esp_lua_item_string(lua_State *L, int index, lua_Integer place, const char *what)
{
    if (lua_rawgeti(L, index, place) != LUA_TSTRING) {
        fail_item(L, place, what, "a string");
    }
    const char *value = lua_tostring(L, -1);
    lua_pop(L, 1);
    return value;
}
