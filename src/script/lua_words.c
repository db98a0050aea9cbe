/* "Did you mean" and errors for the Lua part of the library. */
#include "base/text.h"
#include "script/binding.h"

enum { CANDIDATES_MAX = 128 };

/* nearest(word, {candidates}): the candidate that is near enough, or nil */
static int nearest(lua_State *L)
{
    const char *candidates[CANDIDATES_MAX];
    const char *word = esp_lua_check_string(L, 1);
    esp_lua_check_type(L, 2, LUA_TTABLE);
    lua_Integer count = (lua_Integer)lua_rawlen(L, 2);
    if (count > CANDIDATES_MAX) {
        return esp_lua_fail(L, "%d candidates, expected at most %d", (int)count, CANDIDATES_MAX);
    }
    esp_lua_check_stack(L, (int)count, "candidates");
    for (lua_Integer i = 0; i < count; i++) {
        lua_rawgeti(L, 2, i + 1); /* stays on the stack: the text is borrowed */
        candidates[i] = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
    }
    lua_pushstring(L, esp_nearest_word(word, candidates, (size_t)count));
    return 1;
}

/* fail(message [, level]): raises the error table of the library, with the place `level` calls further out as
 * `error` counts them (1: who calls fail), for checks written in Lua. */
static int fail(lua_State *L)
{
    const char *message = esp_lua_check_string(L, 1);
    lua_Integer level = esp_lua_optional_integer(L, 2, 1);
    esp_error err = {0};
    esp_fail(&err, ESP_INVALID, "%s", message);
    esp_lua_raise(L, ESP_INVALID, &err, level < 1 || level > 100 ? 1 : (int)level);
    return 0;
}

void esp_lua_open_words(lua_State *L)
{
    lua_pushcfunction(L, fail);
    lua_setfield(L, -2, "fail");
    lua_pushcfunction(L, nearest);
    lua_setfield(L, -2, "nearest");
}
