/* Bindings: which channels of a model go together. */
#include "prune/coupling.h"
#include "script/binding.h"

/* What a call holds, owned by a userdata. */
typedef struct coupling_work {
    esp_inferred *inferred;
    esp_layers layers;
    esp_coupling *coupling;
} coupling_work;

static int work_free(lua_State *L)
{
    coupling_work *it = lua_touserdata(L, 1);
    esp_coupling_free(it->coupling);
    esp_layers_free(&it->layers);
    esp_inferred_free(it->inferred);
    *it = (coupling_work){0};
    return 0;
}

static coupling_work *push_work(lua_State *L)
{
    coupling_work *it = lua_newuserdatauv(L, sizeof *it, 0);
    *it = (coupling_work){0};
    luaL_setmetatable(L, "espalier.coupling_work");
    return it;
}

/* model:coupling{input=} -> {slots=, cuttable=, pinned={{reason=, slots=}, ...}, sets={...}}: as
 * `inspect --coupling --json` */
static int model_coupling(lua_State *L)
{
    static const char *const keys[] = {"input", NULL};
    esp_lua_model *model = esp_lua_model_at(L, 1);
    esp_error err = {0};
    esp_input_shape shapes[ESP_INPUT_SHAPES_MAX];
    int count = 0;
    lua_settop(L, 2);
    esp_lua_check_keys(L, 2, keys);
    if (lua_istable(L, 2) && esp_lua_has_field(L, 2, "input")) {
        const char *item = esp_lua_field_string(L, 2, "input", "");
        esp_lua_check(L, esp_input_shapes_parse(&item, 1, model->graph, shapes, &count, &err), &err);
    }
    coupling_work *it = push_work(L);
    esp_lua_check(L, esp_infer(model->graph, 1, shapes, count, &it->inferred, &err), &err);
    esp_lua_check(L, esp_layers_list(model->graph, it->inferred, &it->layers, &err), &err);
    esp_lua_check(L, esp_coupling_new(model->graph, it->inferred, &it->layers, &it->coupling, &err), &err);
    json_t **box = esp_lua_new_json(L);
    esp_lua_check(L, esp_coupling_to_json(it->coupling, box, &err), &err);
    esp_lua_push_json(L, *box);
    return 1;
}

/* The core module is on the top of the stack. */
void esp_lua_open_coupling(lua_State *L)
{
    static const luaL_Reg methods[] = {{"coupling", model_coupling}, {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", work_free}, {NULL, NULL}};
    luaL_newmetatable(L, "espalier.coupling_work");
    luaL_setfuncs(L, meta, 0);
    lua_pop(L, 1);
    luaL_getmetatable(L, ESP_LUA_MODEL);
    lua_getfield(L, -1, "__index");
    luaL_setfuncs(L, methods, 0);
    lua_pop(L, 2);
}
