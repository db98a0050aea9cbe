/* Datasets in Lua: espalier.data(spec, split). */
#include "io/dataset.h"
#include "script/binding.h"

static esp_dataset **new_data(lua_State *L)
{
    esp_dataset **box = lua_newuserdatauv(L, sizeof *box, 0);
    *box = NULL;
    luaL_setmetatable(L, ESP_LUA_DATA);
    return box;
}

esp_dataset *esp_lua_data_at(lua_State *L, int index)
{
    esp_dataset **box = luaL_checkudata(L, index, ESP_LUA_DATA);
    luaL_argcheck(L, *box, index, "this dataset has been released");
    return *box;
}

esp_dataset *esp_lua_field_data(lua_State *L, int index, const char *name, bool is_required)
{
    esp_dataset *dataset = NULL;
    if (lua_istable(L, index)) {
        esp_lua_raw_field(L, index, name);
        esp_dataset **box = luaL_testudata(L, -1, ESP_LUA_DATA);
        if (!box && !lua_isnil(L, -1)) {
            esp_lua_fail(L, "%s: found %s, expected a dataset", name, luaL_typename(L, -1));
        }
        dataset = box ? *box : NULL;
        lua_pop(L, 1);
    }
    if (!dataset && is_required) {
        esp_lua_fail(L, "%s is missing, expected a dataset", name);
    }
    return dataset;
}

/* data(spec [, "train" | "test"]) */
static int open_data(lua_State *L)
{
    static const char *const splits[] = {"train", "test", NULL};
    static const esp_split values[] = {ESP_SPLIT_TRAIN, ESP_SPLIT_TEST};
    const char *spec = luaL_checkstring(L, 1);
    esp_split split = values[luaL_checkoption(L, 2, "test", splits)];
    esp_error err = {0};
    esp_dataset **box = new_data(L);
    esp_lua_check(L, esp_dataset_open(spec, split, box, &err), &err);
    return 1;
}

/* data:head(n), data:subset(n [, seed]) */
static int data_head(lua_State *L)
{
    const esp_dataset *dataset = esp_lua_data_at(L, 1);
    int64_t count = luaL_checkinteger(L, 2);
    esp_error err = {0};
    esp_dataset **box = new_data(L);
    esp_lua_check(L, esp_dataset_head(dataset, count, box, &err), &err);
    return 1;
}

static int data_subset(lua_State *L)
{
    const esp_dataset *dataset = esp_lua_data_at(L, 1);
    int64_t count = luaL_checkinteger(L, 2);
    uint64_t seed = (uint64_t)luaL_optinteger(L, 3, 0);
    esp_error err = {0};
    esp_dataset **box = new_data(L);
    esp_lua_check(L, esp_dataset_subset(dataset, count, seed, box, &err), &err);
    return 1;
}

/* data:info() */
static int data_info(lua_State *L)
{
    const esp_dataset *dataset = esp_lua_data_at(L, 1);
    int classes = esp_dataset_class_count(dataset);
    lua_createtable(L, 0, 8);
    esp_lua_set_string(L, "name", esp_dataset_name(dataset));
    esp_lua_set_string(L, "note", esp_dataset_note(dataset));
    esp_lua_set_integer(L, "images", esp_dataset_count(dataset));
    esp_lua_set_integer(L, "channels", esp_dataset_channels(dataset));
    esp_lua_set_integer(L, "height", esp_dataset_height(dataset));
    esp_lua_set_integer(L, "width", esp_dataset_width(dataset));
    lua_createtable(L, classes, 0);
    for (int i = 0; i < classes; i++) {
        lua_pushstring(L, esp_dataset_class_name(dataset, i));
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "classes");
    return 1;
}

static int data_length(lua_State *L)
{
    lua_pushinteger(L, esp_dataset_count(esp_lua_data_at(L, 1)));
    return 1;
}

static int data_to_string(lua_State *L)
{
    const esp_dataset *dataset = esp_lua_data_at(L, 1);
    lua_pushfstring(L, "dataset %s (%d images)", esp_dataset_name(dataset), (int)esp_dataset_count(dataset));
    return 1;
}

static int data_free(lua_State *L)
{
    esp_dataset **box = luaL_checkudata(L, 1, ESP_LUA_DATA);
    esp_dataset_unref(*box);
    *box = NULL;
    return 0;
}

void esp_lua_open_data(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"head", data_head}, {"subset", data_subset}, {"info", data_info}, {NULL, NULL}};
    static const luaL_Reg meta[] = {
        {"__len", data_length}, {"__tostring", data_to_string}, {"__gc", data_free}, {NULL, NULL}};
    esp_lua_open_class(L, ESP_LUA_DATA, methods, meta);
    lua_pushcfunction(L, open_data);
    lua_setfield(L, -2, "data");
}
