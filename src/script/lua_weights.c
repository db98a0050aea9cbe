/* Weights by name in Lua: model:load_weights, model:save_weights, and the open file a network is built from.
 */
#include "io/safetensors_load.h"
#include "script/binding.h"

esp_weight_source **esp_lua_weights_at(lua_State *L, int index)
{
    return esp_lua_check_userdata(L, index, ESP_LUA_WEIGHTS);
}

static int weights_free(lua_State *L)
{
    esp_weight_source **box = esp_lua_weights_at(L, 1);
    esp_weight_source_close(*box);
    *box = NULL;
    return 0;
}

/* Pushes an open source for the path and the keywords {strict=true, prefix=} at these places. */
static esp_weight_source *push_source(lua_State *L, int path, int keywords)
{
    static const char *const keys[] = {"strict", "prefix", NULL};
    const char *file = esp_lua_check_string(L, path);
    esp_error err = {0};
    esp_lua_check_keys(L, keywords, keys);
    const esp_weight_options options = {
        .prefix = esp_lua_field_string(L, keywords, "prefix", NULL),
        .is_lenient = !esp_lua_field_boolean(L, keywords, "strict", true),
    };
    esp_weight_source **box = lua_newuserdatauv(L, sizeof *box, 0);
    *box = NULL;
    luaL_setmetatable(L, ESP_LUA_WEIGHTS);
    esp_lua_check(L, esp_weight_source_open(file, &options, box, &err), &err);
    return *box;
}

void esp_lua_push_weight_report(lua_State *L, const esp_weight_source *source)
{
    static const char *const names[ESP_WEIGHTS_LISTS] = {[ESP_WEIGHTS_MISSING] = "missing",
                                                         [ESP_WEIGHTS_UNEXPECTED] = "unexpected",
                                                         [ESP_WEIGHTS_MISMATCHED] = "mismatched"};
    lua_createtable(L, 0, 1 + ESP_WEIGHTS_LISTS);
    esp_lua_set_integer(L, "loaded", esp_weight_source_taken(source));
    for (int list = 0; list < ESP_WEIGHTS_LISTS; list++) {
        int count = esp_weight_source_count(source, (esp_weight_list)list);
        lua_createtable(L, count, 0);
        for (int i = 0; i < count; i++) {
            lua_pushstring(L, esp_weight_source_name(source, (esp_weight_list)list, i));
            lua_rawseti(L, -2, i + 1);
        }
        lua_setfield(L, -2, names[list]);
    }
}

/* weights(path [, {strict=true, prefix=}]): for builder{weights=}, once */
static int open_weights(lua_State *L)
{
    push_source(L, 1, 2);
    return 1;
}

/* model:load_weights(path [, {strict=true, prefix=}]): a new model, and {loaded=, missing=, unexpected=,
 * mismatched=}. Without `strict` the model's own stay where the file has none that fits. */
static int model_load_weights(lua_State *L)
{
    const esp_graph *graph = esp_lua_model_at(L, 1)->graph;
    esp_weight_source *source = push_source(L, 2, 3);
    esp_error err = {0};
    esp_lua_model *model = esp_lua_new_model(L);
    esp_lua_check(L, esp_graph_load_weights(graph, source, &model->graph, &err), &err);
    esp_lua_push_weight_report(L, source);
    return 2;
}

/* model:save_weights(path) */
static int model_save_weights(lua_State *L)
{
    const char *path = esp_lua_check_string(L, 2);
    esp_error err = {0};
    esp_lua_check_writable(L, path);
    esp_lua_check(L, esp_graph_save_weights(esp_lua_model_at(L, 1)->graph, path, &err), &err);
    return 0;
}

void esp_lua_open_weights(lua_State *L)
{
    static const luaL_Reg methods[] = {{NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", weights_free}, {NULL, NULL}};
    static const luaL_Reg model_methods[] = {
        {"load_weights", model_load_weights}, {"save_weights", model_save_weights}, {NULL, NULL}};
    esp_lua_open_class(L, ESP_LUA_WEIGHTS, methods, meta);
    luaL_getmetatable(L, ESP_LUA_MODEL);
    lua_getfield(L, -1, "__index");
    luaL_setfuncs(L, model_methods, 0);
    lua_pop(L, 2);
    lua_pushcfunction(L, open_weights);
    lua_setfield(L, -2, "weights");
}
