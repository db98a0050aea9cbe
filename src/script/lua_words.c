/* "Did you mean" for the Lua part of the library. */
#include "base/text.h"
#include "script/binding.h"

enum { CANDIDATES_MAX = 128 };

/* nearest(word, {candidates}): the candidate that is near enough, or nil */
static int nearest(lua_State *L)
{
    const char *candidates[CANDIDATES_MAX];
    const char *word = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_Integer count = (lua_Integer)lua_rawlen(L, 2);
    if (count > CANDIDATES_MAX) {
        return esp_lua_fail(L, "%d candidates, expected at most %d", (int)count, CANDIDATES_MAX);
    }
    luaL_checkstack(L, (int)count, "too many candidates");
    for (lua_Integer i = 0; i < count; i++) {
        lua_rawgeti(L, 2, i + 1); /* stays on the stack: the text is borrowed */
        candidates[i] = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
    }
    lua_pushstring(L, esp_nearest_word(word, candidates, (size_t)count));
    return 1;
}

void esp_lua_open_words(lua_State *L)
{
    lua_pushcfunction(L, nearest);
    lua_setfield(L, -2, "nearest");
}
