/* Building networks in Lua: the thin part over esp_builder. The layers people think in (conv, dense, ...) are
 * in lua/espalier/network.lua. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "script/binding.h"

enum { INPUTS_MAX = 64, ATTRS_MAX = 16, INTS_MAX = 16 };

/* The open file of weights, when there is one, is the user value. */
typedef struct lua_builder {
    esp_builder *builder; /* NULL once finished */
    esp_rng rng;
} lua_builder;

static lua_builder *builder_at(lua_State *L, int index)
{
    lua_builder *it = esp_lua_check_userdata(L, index, ESP_LUA_BUILDER);
    if (!it->builder) {
        esp_lua_fail(L, "this network is finished: nothing can be added");
    }
    return it;
}

/* A value's number; one that no int holds is no value either. */
static int value_of(lua_State *L, lua_Integer value)
{
    if (value < 0 || value > INT_MAX) {
        esp_lua_fail(L, "value %lld: expected the number of a value of this network", (long long)value);
    }
    return (int)value;
}

/* Where the parameters of the builder at 1 come from; NULL when they are drawn. Always looked up: another
 * builder may have used the file meanwhile. */
static esp_weight_source *weights_of(lua_State *L)
{
    esp_weight_source *source = NULL;
    if (lua_getiuservalue(L, 1, 1) == LUA_TUSERDATA) {
        source = *esp_lua_weights_at(L, -1);
        if (!source) {
            esp_lua_fail(L, "weights: a network has been built from this file already");
        }
    }
    lua_pop(L, 1);
    return source;
}

static int builder_free(lua_State *L)
{
    lua_builder *it = esp_lua_check_userdata(L, 1, ESP_LUA_BUILDER);
    esp_builder_free(it->builder);
    it->builder = NULL;
    return 0;
}

/* builder(name [, {seed=0, opset=13, weights=}]): weights(path) gives what parameters are filled from */
static int new_builder(lua_State *L)
{
    static const char *const keys[] = {"seed", "opset", "weights", NULL};
    const char *name = esp_lua_check_string(L, 1);
    esp_error err = {0};
    esp_lua_check_keys(L, 2, keys);
    int64_t opset = esp_lua_field_integer(L, 2, "opset", 13);
    uint64_t seed = (uint64_t)esp_lua_field_integer(L, 2, "seed", 0);
    lua_builder *it = lua_newuserdatauv(L, sizeof *it, 1);
    *it = (lua_builder){0};
    luaL_setmetatable(L, ESP_LUA_BUILDER);
    if (esp_lua_has_field(L, 2, "weights")) {
        esp_lua_raw_field(L, 2, "weights");
        esp_lua_weights_at(L, -1);
        lua_setiuservalue(L, -2, 1);
    }
    esp_rng_seed(&it->rng, seed);
    esp_lua_check(L, esp_builder_new(name, opset, 7, &it->builder, &err), &err);
    return 1;
}

static esp_shape shape_at(lua_State *L, int index)
{
    esp_shape shape = {0};
    esp_lua_check_type(L, index, LUA_TTABLE);
    lua_Integer rank = (lua_Integer)lua_rawlen(L, index);
    if (rank > ESP_MAX_RANK - 1) {
        esp_lua_fail(L, "a shape of %d dims: expected at most %d", (int)rank, ESP_MAX_RANK - 1);
    }
    for (lua_Integer i = 1; i <= rank; i++) {
        lua_Integer dim = esp_lua_item_integer(L, index, i, "shape");
        if (dim < 1) {
            esp_lua_fail(L, "shape[%d]: found %lld, expected at least 1", (int)i, (long long)dim);
        }
        shape.dims[shape.rank++] = dim;
    }
    return shape;
}

/* The shape of a batch of what the table at `index` gives the dims of. */
static esp_shape batch_shape_at(lua_State *L, int index)
{
    esp_shape inner = shape_at(L, index);
    esp_shape shape = {.rank = inner.rank + 1, .dims = {ESP_DIM_BATCH}};
    memcpy(shape.dims + 1, inner.dims, (size_t)inner.rank * sizeof inner.dims[0]);
    return shape;
}

/* b:input(name, {channels, height, width}): the batch comes in front. */
static int builder_input(lua_State *L)
{
    lua_builder *it = builder_at(L, 1);
    const char *name = esp_lua_check_string(L, 2);
    esp_shape shape = batch_shape_at(L, 3);
    esp_error err = {0};
    int value = -1;
    esp_lua_check(L, esp_builder_input(it->builder, name, ESP_F32, &shape, "N", &value, &err), &err);
    lua_pushinteger(L, value);
    return 1;
}

/* Normal numbers of standard deviation `std`, or one value everywhere. */
static void fill_constant(lua_State *L, int index, lua_builder *it, esp_tensor *tensor)
{
    float *data = esp_tensor_f32_mut(tensor);
    int64_t count = esp_tensor_elements(tensor);
    double std = esp_lua_field_number(L, index, "std", 0);
    double value = esp_lua_field_number(L, index, "fill", 0);
    if (!(std > 0) && value == 0) {
        return; /* as it was made */
    }
    for (int64_t i = 0; i < count; i++) {
        data[i] = (float)(std > 0 ? std * esp_rng_normal(&it->rng) : value);
    }
}

/* A box that keeps a tensor until the builder has its own reference. */
static int tensor_free(lua_State *L)
{
    esp_tensor **box = lua_touserdata(L, 1);
    esp_tensor_unref(*box);
    *box = NULL;
    return 0;
}

static esp_tensor **push_tensor_box(lua_State *L)
{
    esp_tensor **box = lua_newuserdatauv(L, sizeof *box, 0);
    *box = NULL;
    if (luaL_newmetatable(L, "espalier.tensor")) {
        lua_pushcfunction(L, tensor_free);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return box;
}

/* A constant of the builder at 1: from the file of weights when it has one that fits, else as the table says.
 */
static int add_constant(lua_State *L, bool is_parameter)
{
    static const char *const keys[] = {"std", "fill", NULL};
    lua_builder *it = builder_at(L, 1);
    const char *name = esp_lua_check_string(L, 2);
    esp_shape shape = shape_at(L, 3);
    esp_error err = {0};
    int value = -1;
    esp_lua_check_keys(L, 4, keys);
    esp_tensor **box = push_tensor_box(L);
    esp_weight_source *weights = is_parameter ? weights_of(L) : NULL;
    if (weights) {
        esp_lua_check(L, esp_weight_source_take(weights, name, &shape, box, &err), &err);
    }
    if (!*box) {
        esp_lua_check(L, esp_tensor_new(ESP_F32, &shape, box, &err), &err);
        fill_constant(L, 4, it, *box);
    }
    esp_lua_check(L, esp_builder_constant(it->builder, name, *box, &value, &err), &err);
    lua_pushinteger(L, value);
    return 1;
}

/* b:constant(name, {dims}, {std=0.1} | {fill=1}) */
static int builder_constant(lua_State *L)
{
    return add_constant(L, false);
}

/* b:parameter(name, {dims}, {std=0.1} | {fill=1}): what weights are loaded for */
static int builder_parameter(lua_State *L)
{
    return add_constant(L, true);
}

/* b:integers(name, {values}): a constant of int64, for shapes and bounds. */
static int builder_integers(lua_State *L)
{
    lua_builder *it = builder_at(L, 1);
    const char *name = esp_lua_check_string(L, 2);
    esp_lua_check_type(L, 3, LUA_TTABLE);
    esp_shape shape = {.rank = 1, .dims = {(int64_t)lua_rawlen(L, 3)}};
    esp_error err = {0};
    int value = -1;
    esp_tensor **box = push_tensor_box(L);
    esp_lua_check(L, esp_tensor_new(ESP_I64, &shape, box, &err), &err);
    for (int64_t i = 0; i < shape.dims[0]; i++) {
        ((int64_t *)esp_tensor_data_mut(*box))[i] = esp_lua_item_integer(L, 3, i + 1, "values");
    }
    esp_lua_check(L, esp_builder_constant(it->builder, name, *box, &value, &err), &err);
    lua_pushinteger(L, value);
    return 1;
}

/* One attribute from the key at -2 and the value at -1. `ints` has INTS_MAX places. */
static esp_attr attr_of(lua_State *L, int64_t *ints)
{
    const char *name = lua_tostring(L, -2);
    if (lua_isinteger(L, -1)) {
        return esp_attr_int(name, lua_tointeger(L, -1));
    }
    if (lua_type(L, -1) == LUA_TNUMBER) {
        return esp_attr_float(name, (float)lua_tonumber(L, -1));
    }
    if (lua_type(L, -1) == LUA_TSTRING) {
        return esp_attr_string(name, lua_tostring(L, -1));
    }
    char what[64];
    snprintf(what, sizeof what, "attribute %s", name);
    if (lua_type(L, -1) != LUA_TTABLE) {
        esp_lua_fail(L, "%s: found a %s, expected a number, a string or a list of whole numbers", what,
                     luaL_typename(L, -1));
    }
    int count = (int)lua_rawlen(L, -1);
    if (count > INTS_MAX) {
        esp_lua_fail(L, "%s: found %d numbers, expected at most %d", what, count, INTS_MAX);
    }
    for (int i = 0; i < count; i++) {
        ints[i] = esp_lua_item_integer(L, lua_gettop(L), i + 1, what);
    }
    return esp_attr_ints(name, ints, count);
}

static int compare_attrs(const void *left, const void *right)
{
    return strcmp(((const esp_attr *)left)->name, ((const esp_attr *)right)->name);
}

/* By name: Lua's own order differs from run to run, and one script should always make the same file. */
static int read_attrs(lua_State *L, int index, esp_attr *attrs, int64_t (*ints)[INTS_MAX])
{
    int count = 0;
    if (lua_isnoneornil(L, index)) {
        return 0;
    }
    esp_lua_check_type(L, index, LUA_TTABLE);
    lua_pushnil(L);
    while (lua_next(L, index)) {
        if (count == ATTRS_MAX || lua_type(L, -2) != LUA_TSTRING) {
            esp_lua_fail(L, "attributes: expected at most %d, by name", ATTRS_MAX);
        }
        attrs[count] = attr_of(L, ints[count]);
        count++;
        lua_pop(L, 1);
    }
    qsort(attrs, (size_t)count, sizeof *attrs, compare_attrs);
    return count;
}

/* b:node(operator, {inputs}, {attributes}, name, output_name): false stands for an absent input. Returns its
 * output. */
static int builder_node(lua_State *L)
{
    lua_builder *it = builder_at(L, 1);
    const char *operator_name = esp_lua_check_string(L, 2);
    const char *name = esp_lua_optional_string(L, 5);
    const char *output_name = esp_lua_optional_string(L, 6);
    int inputs[INPUTS_MAX];
    esp_attr attrs[ATTRS_MAX];
    int64_t ints[ATTRS_MAX][INTS_MAX];
    esp_error err = {0};
    int output = -1;
    esp_lua_check_type(L, 3, LUA_TTABLE);
    int input_count = (int)lua_rawlen(L, 3);
    if (input_count > INPUTS_MAX) {
        return esp_lua_fail(L, "%s: %d inputs, expected at most %d", operator_name, input_count, INPUTS_MAX);
    }
    for (int i = 0; i < input_count; i++) {
        bool is_absent = lua_rawgeti(L, 3, i + 1) == LUA_TBOOLEAN;
        lua_pop(L, 1);
        inputs[i] = is_absent ? -1 : value_of(L, esp_lua_item_integer(L, 3, i + 1, "inputs"));
    }
    int attr_count = read_attrs(L, 4, attrs, ints);
    esp_lua_check(L,
                  esp_builder_add(it->builder, operator_name, name, inputs, input_count, attrs, attr_count,
                                  output_name, &output, &err),
                  &err);
    lua_pushinteger(L, output);
    return 1;
}

/* b:output(value [, {dims}]): what the file declares of it; the batch comes in front. */
static int builder_output(lua_State *L)
{
    lua_builder *it = builder_at(L, 1);
    int value = value_of(L, esp_lua_check_integer(L, 2));
    bool has_shape = !lua_isnoneornil(L, 3);
    esp_shape shape = has_shape ? batch_shape_at(L, 3) : (esp_shape){0};
    esp_error err = {0};
    esp_lua_check(L, esp_builder_output(it->builder, value, ESP_F32, has_shape ? &shape : NULL, &err), &err);
    return 0;
}

/* Ends the account with the file of weights: reports what it had, and closes it. */
static void finish_weights(lua_State *L)
{
    esp_error err = {0};
    esp_status status = esp_weight_source_finish(weights_of(L), &err);
    if (status == ESP_OK) {
        esp_lua_push_weight_report(L, weights_of(L));
    }
    lua_getiuservalue(L, 1, 1);
    esp_weight_source **box = esp_lua_weights_at(L, -1);
    esp_weight_source_close(*box);
    *box = NULL;
    lua_pop(L, 1);
    esp_lua_check(L, status, &err);
}

/* b:finish(): the model, and what model:load_weights reports when there were weights. */
static int builder_finish(lua_State *L)
{
    lua_builder *it = builder_at(L, 1);
    esp_error err = {0};
    esp_lua_model *model = esp_lua_new_model(L);
    bool has_weights = weights_of(L) != NULL;
    if (has_weights) {
        finish_weights(L);
    }
    esp_builder *builder = it->builder;
    it->builder = NULL;
    esp_lua_check(L, esp_builder_finish(builder, &model->graph, &err), &err);
    return has_weights ? 2 : 1;
}

void esp_lua_open_builder(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"input", builder_input},         {"constant", builder_constant},
        {"parameter", builder_parameter}, {"integers", builder_integers},
        {"node", builder_node},           {"output", builder_output},
        {"finish", builder_finish},       {NULL, NULL},
    };
    static const luaL_Reg meta[] = {{"__gc", builder_free}, {NULL, NULL}};
    esp_lua_open_class(L, ESP_LUA_BUILDER, methods, meta);
    lua_pushcfunction(L, new_builder);
    lua_setfield(L, -2, "builder");
}
