/* Datasets in Lua: espalier.data(spec, split) or espalier.data(spec, {split=, model=, resize=, ...}), and
 * augmentations as text or as a table of the same words. Tables become the text that the command line takes,
 * so there is one parser for each. */
#include <string.h>

#include "io/dataset.h"
#include "script/binding.h"

#define MOST_KEYS 32

static esp_dataset **new_data(lua_State *L)
{
    esp_dataset **box = lua_newuserdatauv(L, sizeof *box, 0);
    *box = NULL;
    luaL_setmetatable(L, ESP_LUA_DATA);
    return box;
}

esp_dataset *esp_lua_data_at(lua_State *L, int index)
{
    esp_dataset **box = esp_lua_check_userdata(L, index, ESP_LUA_DATA);
    esp_lua_check_argument(L, *box != NULL, index, "this dataset has been released");
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

/* ---- tables as text ---- */

/* The value on the top as text in a spec ("256", "0.08:1"), pushed; raises for what has no such form. */
static void push_value_text(lua_State *L, const char *name)
{
    int value = lua_absindex(L, -1);
    if (lua_istable(L, value)) { /* a range {low, high} */
        lua_rawgeti(L, value, 1);
        lua_rawgeti(L, value, 2);
        if (!lua_isnumber(L, -1) || !lua_isnumber(L, -2) || lua_rawlen(L, value) != 2) {
            esp_lua_fail(L, "%s: found a table, expected a value or a range {low, high}", name);
        }
        lua_pushfstring(L, "%f:%f", (LUAI_UACNUMBER)lua_tonumber(L, -2), (LUAI_UACNUMBER)lua_tonumber(L, -1));
        return;
    }
    if (lua_type(L, value) != LUA_TSTRING && lua_type(L, value) != LUA_TNUMBER) {
        esp_lua_fail(L, "%s: found %s, expected a number, a string or true", name, luaL_typename(L, value));
    }
    lua_Number number = lua_tonumber(L, value);
    bool is_whole = lua_type(L, value) == LUA_TNUMBER && number == (lua_Number)(lua_Integer)number;
    if (is_whole) { /* 2.0 is 2 */
        lua_pushfstring(L, "%I", (LUAI_UACINT)(lua_Integer)number);
    } else {
        luaL_tolstring(L, value, NULL);
    }
}

/* Appends "name=value" of field `name` of the table at `index` to the text on the top; nothing when it is
 * absent or false. `word` is what the text calls it. */
static void append_field(lua_State *L, int index, const char *name, const char *word, const char *separator)
{
    int text = lua_absindex(L, -1);
    esp_lua_raw_field(L, index, name);
    if (lua_toboolean(L, -1)) {
        const char *between = lua_rawlen(L, text) > 0 ? separator : "";
        if (lua_isboolean(L, -1)) {
            lua_pushfstring(L, "%s%s%s", lua_tostring(L, text), between, word);
        } else {
            push_value_text(L, name);
            lua_pushfstring(L, "%s%s%s=%s", lua_tostring(L, text), between, word, lua_tostring(L, -1));
        }
        lua_replace(L, text);
    }
    lua_settop(L, text);
}

/* Pushes the text form of the augmentation at `index`, a string or a table. */
static void push_augmentation_text(lua_State *L, int index)
{
    index = lua_absindex(L, index);
    if (!lua_istable(L, index)) {
        lua_pushstring(L, esp_lua_check_string(L, index));
        return;
    }
    size_t count = 0;
    const char *const *words = esp_augmentation_words(&count);
    esp_lua_check_keys(L, index, words);
    lua_pushliteral(L, "");
    for (size_t i = 0; i < count; i++) {
        append_field(L, index, words[i], words[i], ",");
    }
}

void esp_lua_field_augmentation(lua_State *L, int index, const char *name, esp_augmentation *out)
{
    esp_error err = {0};
    int top = lua_gettop(L);
    if (lua_istable(L, index) && esp_lua_raw_field(L, index, name) != LUA_TNIL) {
        push_augmentation_text(L, -1);
        esp_lua_check(L, esp_augmentation_parse(lua_tostring(L, -1), out, &err), &err);
    } else {
        *out = (esp_augmentation){0};
    }
    lua_settop(L, top);
}

/* augmentation(text or table) -> the canonical text, checked */
static int normal_augmentation(lua_State *L)
{
    char text[ESP_AUGMENTATION_TEXT_MAX];
    esp_augmentation augmentation;
    esp_error err = {0};
    push_augmentation_text(L, 1);
    esp_lua_check(L, esp_augmentation_parse(lua_tostring(L, -1), &augmentation, &err), &err);
    lua_pushstring(L, esp_augmentation_text(&augmentation, text, sizeof text));
    return 1;
}

/* ---- opening ---- */

/* A key of Lua for an option of a spec: "skip-bad" is skip_bad. */
static void option_key(const char *option, char *buffer, size_t size)
{
    size_t i = 0;
    for (; option[i] && i + 1 < size; i++) {
        buffer[i] = option[i] == '-' ? '_' : option[i];
    }
    buffer[i] = '\0';
}

/* Pushes the spec with the options of the table at 2 behind it. */
static void push_spec(lua_State *L)
{
    static const char *const own[] = {"split", "model"};
    enum { OWN = sizeof own / sizeof own[0], LONGEST = 24 };
    char keys[MOST_KEYS][LONGEST];
    const char *names[MOST_KEYS + OWN + 1] = {own[0], own[1]};
    size_t count = 0;
    const esp_dataset_option *options = esp_dataset_options(&count);
    for (size_t i = 0; i < count && i < MOST_KEYS; i++) {
        option_key(options[i].name, keys[i], sizeof keys[i]);
        names[OWN + i] = keys[i];
    }
    esp_lua_check_keys(L, 2, names);
    lua_pushliteral(L, "");
    for (size_t i = 0; i < count && i < MOST_KEYS; i++) {
        append_field(L, 2, keys[i], options[i].name, ",");
    }
    const char *spec = lua_tostring(L, 1);
    const char *separator = lua_rawlen(L, -1) == 0 ? "" : strchr(spec, '?') ? "," : "?";
    lua_pushfstring(L, "%s%s%s", spec, separator, lua_tostring(L, -1));
}

static esp_split split_of(lua_State *L, const char *word)
{
    for (int i = ESP_SPLIT_TRAIN; i <= ESP_SPLIT_VALIDATION; i++) {
        if (strcmp(word, esp_split_name((esp_split)i)) == 0) {
            return (esp_split)i;
        }
    }
    esp_lua_fail(L, "split: found '%s', expected train, test or validation", word);
    return ESP_SPLIT_TEST;
}

/* data(spec [, "train" | "test" | "validation"]), data(spec, {split=, model=, resize=, crop=, skip_bad=,
 * ...}) */
static int open_data(lua_State *L)
{
    esp_split split = ESP_SPLIT_TEST;
    const esp_lua_model *model = NULL;
    esp_error err = {0};
    esp_lua_check_string(L, 1);
    if (lua_istable(L, 2)) {
        push_spec(L);
        split = split_of(L, esp_lua_field_string(L, 2, "split", "test"));
        if (esp_lua_raw_field(L, 2, "model") != LUA_TNIL) {
            model = esp_lua_model_at(L, -1);
        }
        lua_pop(L, 1);
    } else {
        const char *word = esp_lua_optional_string(L, 2);
        split = split_of(L, word ? word : "test");
        lua_pushvalue(L, 1);
    }
    const char *spec = lua_tostring(L, -1);
    esp_dataset **box = new_data(L);
    esp_status status = model ? esp_dataset_open_for(spec, split, model->graph, box, &err)
                              : esp_dataset_open(spec, split, box, &err);
    esp_lua_check(L, status, &err);
    return 1;
}

/* data:fit(model): the same images at the size the model takes */
static int data_fit(lua_State *L)
{
    const esp_dataset *dataset = esp_lua_data_at(L, 1);
    const esp_lua_model *model = esp_lua_model_at(L, 2);
    esp_error err = {0};
    esp_dataset **box = new_data(L);
    esp_lua_check(L, esp_dataset_fit(dataset, model->graph, box, &err), &err);
    return 1;
}

/* data:split(share [, seed]) -> the rest, the share */
static int data_split(lua_State *L)
{
    const esp_dataset *dataset = esp_lua_data_at(L, 1);
    esp_lua_check_type(L, 2, LUA_TNUMBER);
    double share = lua_tonumber(L, 2);
    uint64_t seed = (uint64_t)esp_lua_optional_integer(L, 3, 0);
    esp_error err = {0};
    esp_dataset **rest = new_data(L);
    esp_dataset **held = new_data(L);
    esp_lua_check(L, esp_dataset_split(dataset, share, seed, rest, held, &err), &err);
    return 2;
}

/* data:skipped() -> how many bad images were left out so far, and messages of the first ones */
static int data_skipped(lua_State *L)
{
    const esp_dataset *dataset = esp_lua_data_at(L, 1);
    char message[512];
    lua_pushinteger(L, esp_dataset_skipped(dataset));
    lua_newtable(L);
    for (int i = 0; esp_dataset_skipped_message(dataset, i, message, sizeof message); i++) {
        lua_pushstring(L, message);
        lua_rawseti(L, -2, i + 1);
    }
    return 2;
}

/* data:head(n), data:subset(n [, seed]) */
static int data_head(lua_State *L)
{
    const esp_dataset *dataset = esp_lua_data_at(L, 1);
    int64_t count = esp_lua_check_integer(L, 2);
    esp_error err = {0};
    esp_dataset **box = new_data(L);
    esp_lua_check(L, esp_dataset_head(dataset, count, box, &err), &err);
    return 1;
}

static int data_subset(lua_State *L)
{
    const esp_dataset *dataset = esp_lua_data_at(L, 1);
    int64_t count = esp_lua_check_integer(L, 2);
    uint64_t seed = (uint64_t)esp_lua_optional_integer(L, 3, 0);
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
    lua_createtable(L, 0, 9);
    esp_lua_set_boolean(L, "lazy", esp_dataset_is_lazy(dataset));
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
        {"head", data_head}, {"subset", data_subset},   {"split", data_split}, {"fit", data_fit},
        {"info", data_info}, {"skipped", data_skipped}, {NULL, NULL}};
    static const luaL_Reg meta[] = {
        {"__len", data_length}, {"__tostring", data_to_string}, {"__gc", data_free}, {NULL, NULL}};
    esp_lua_open_class(L, ESP_LUA_DATA, methods, meta);
    lua_pushcfunction(L, open_data);
    lua_setfield(L, -2, "data");
    lua_pushcfunction(L, normal_augmentation);
    lua_setfield(L, -2, "augmentation");
}
