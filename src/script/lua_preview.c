/* Plans and previews in Lua. A plan is a plain table; a preview is a userdata whose tables come from the same
 * JSON that the command line prints. */
#include <string.h>

#include "base/memory.h"
#include "prune/explain.h"
#include "prune/ledger.h"
#include "prune/surgery.h"
#include "script/binding.h"

esp_preview **esp_lua_new_preview(lua_State *L)
{
    esp_preview **box = lua_newuserdatauv(L, sizeof *box, 0);
    *box = NULL;
    luaL_setmetatable(L, ESP_LUA_PREVIEW);
    return box;
}

static esp_preview *preview_at(lua_State *L, int index)
{
    esp_preview **box = esp_lua_check_userdata(L, index, ESP_LUA_PREVIEW);
    esp_lua_check_argument(L, *box, index, "this preview has been released");
    return *box;
}

static int preview_free(lua_State *L)
{
    esp_preview **box = esp_lua_check_userdata(L, 1, ESP_LUA_PREVIEW);
    esp_preview_free(*box);
    *box = NULL;
    return 0;
}

/* The position of a layer given by node or weight name, or by 1-based number. */
static int layer_at(lua_State *L, int index, const esp_preview *preview)
{
    if (lua_isinteger(L, index)) {
        lua_Integer number = lua_tointeger(L, index);
        if (number < 1 || number > preview->layers.count) {
            esp_lua_fail(L, "layer %d: expected 1 to %d", (int)number, preview->layers.count);
        }
        return (int)number - 1;
    }
    int layer = -1;
    esp_error err = {0};
    esp_lua_check(L, esp_layers_require(&preview->layers, esp_lua_check_string(L, index), &layer, &err),
                  &err);
    return layer;
}

/* preview:table([{masks=true}]): the whole preview as one table. */
static int preview_table(lua_State *L)
{
    static const char *const keys[] = {"masks", NULL};
    const esp_preview *preview = preview_at(L, 1);
    esp_error err = {0};
    esp_lua_check_keys(L, 2, keys);
    bool with_masks = esp_lua_field_boolean(L, 2, "masks", false);
    json_t **box = esp_lua_new_json(L);
    esp_lua_check(L, esp_preview_to_json(preview, with_masks, box, &err), &err);
    esp_lua_push_json(L, *box);
    return 1;
}

/* The ledger is C's only between two calls that cannot raise. */
static esp_status ledger_json(const esp_preview *preview, json_t **out, esp_error *err)
{
    esp_ledger ledger;
    esp_status status = esp_ledger_new(preview, &ledger, err);
    if (status == ESP_OK) {
        status = esp_ledger_to_json(&ledger, &preview->layers, out, err);
        esp_ledger_free(&ledger);
    }
    return status;
}

/* preview:ledger(): {unit="filters"|"connections", layers={{name=, asked=, got=, units=, entries={{reason=,
 * amount=, share=, text=}, ...}}, ...}}; the shares of a layer add up to asked - got. */
static int preview_ledger(lua_State *L)
{
    const esp_preview *preview = preview_at(L, 1);
    esp_error err = {0};
    json_t **box = esp_lua_new_json(L);
    esp_lua_check(L, ledger_json(preview, box, &err), &err);
    esp_lua_push_json(L, *box);
    return 1;
}

static esp_status explain_text(const json_t *told, char **out, esp_error *err)
{
    esp_text text = {0};
    esp_status status = esp_explain_print(told, &text, err);
    *out = status == ESP_OK ? esp_text_take(&text) : NULL;
    esp_text_free(&text);
    return status == ESP_OK && !*out ? esp_fail_memory(err, "an explanation", 0) : status;
}

/* preview:explain(layer, channel): why the filter stays or goes, as a table and as text. Channels count from
 * 0, as in the tables of previews and on the command line. */
static int preview_explain(lua_State *L)
{
    const esp_preview *preview = preview_at(L, 1);
    int layer = layer_at(L, 2, preview);
    lua_Integer channel = esp_lua_check_integer(L, 3);
    esp_error err = {0};
    json_t **box = esp_lua_new_json(L);
    json_t **text = esp_lua_new_json(L); /* owns the text */
    char *lines = NULL;
    esp_lua_check(L, esp_preview_explain(preview, layer, channel, box, &err), &err);
    esp_lua_push_json(L, *box);
    esp_lua_check(L, explain_text(*box, &lines, &err), &err);
    *text = json_string(lines);
    esp_free(lines);
    lua_pushstring(L, json_string_value(*text));
    return 2;
}

/* preview:before(), preview:after(): counts, as espalier inspect has them. */
static int preview_before(lua_State *L)
{
    esp_lua_push_counts(L, &preview_at(L, 1)->before);
    return 1;
}

static int preview_after(lua_State *L)
{
    esp_lua_push_counts(L, &preview_at(L, 1)->after);
    return 1;
}

/* preview:stored(): counts of the file as it stands: after() and the zeros that surgery cannot take out. */
static int preview_stored(lua_State *L)
{
    esp_lua_push_counts(L, &preview_at(L, 1)->stored);
    return 1;
}

/* Whether `why` says that nothing can be cut; the ledger is C's only between two calls that cannot raise. */
static esp_status find_nothing(const esp_preview *preview, char *why, size_t size, bool *out, esp_error *err)
{
    esp_ledger ledger;
    esp_status status = esp_ledger_new(preview, &ledger, err);
    if (status == ESP_OK) {
        *out = esp_ledger_nothing(&ledger, preview, why, size);
        esp_ledger_free(&ledger);
    }
    return status;
}

/* preview:nothing(): why nothing at all can be cut though it was asked for; nil when something can. */
static int preview_nothing(lua_State *L)
{
    char why[ESP_LEDGER_NOTHING_SIZE];
    bool is_nothing = false;
    esp_error err = {0};
    esp_lua_check(L, find_nothing(preview_at(L, 1), why, sizeof why, &is_nothing, &err), &err);
    if (is_nothing)
        lua_pushstring(L, why);
    else
        lua_pushnil(L);
    return 1;
}

/* preview:mask(layer): one 0/1 string per filter. */
static int preview_mask(lua_State *L)
{
    const esp_preview *preview = preview_at(L, 1);
    const esp_mask *mask = &preview->items[layer_at(L, 2, preview)].mask;
    char *buffer = lua_newuserdatauv(L, (size_t)mask->channels + 1, 0);
    lua_createtable(L, (int)mask->filters, 0);
    for (int64_t f = 0; f < mask->filters; f++) {
        lua_pushstring(L, esp_mask_row_text(mask, f, buffer));
        lua_rawseti(L, -2, f + 1);
    }
    return 1;
}

/* preview:masked(): the masked model, same shapes. */
static int preview_masked(lua_State *L)
{
    const esp_preview *preview = preview_at(L, 1);
    esp_error err = {0};
    esp_lua_model *model = esp_lua_new_model(L);
    esp_lua_check(L, esp_preview_masked_graph(preview, &model->graph, &err), &err);
    return 1;
}

static void push_report(lua_State *L, const esp_surgery_report *report)
{
    lua_createtable(L, 0, 10);
    esp_lua_set_integer(L, "slots_removed", report->slots_removed);
    esp_lua_set_integer(L, "layers_narrowed", report->layers_narrowed);
    esp_lua_set_integer(L, "layers_grouped", report->layers_grouped);
    esp_lua_set_integer(L, "layers_with_masks", report->layers_with_masks);
    esp_lua_set_integer(L, "constants_to_bias", report->constants_to_bias);
    esp_lua_set_integer(L, "constants_explicit", report->constants_explicit);
    esp_lua_set_number(L, "largest_absolute", report->largest_absolute);
    esp_lua_set_number(L, "largest_relative", report->largest_relative);
    esp_lua_set_integer(L, "params", report->counts.params);
    esp_lua_set_integer(L, "macs", report->counts.macs);
}

/* preview:cut([{form="grouped"|"dense"}]): the cut model and a report. */
static int preview_cut(lua_State *L)
{
    static const char *const keys[] = {"form", NULL};
    const esp_preview *preview = preview_at(L, 1);
    esp_surgery_options options = esp_surgery_defaults();
    esp_surgery_report report = {0};
    esp_error err = {0};
    esp_lua_check_keys(L, 2, keys);
    const char *form = esp_lua_field_string(L, 2, "form", "grouped");
    if (strcmp(form, "grouped") != 0 && strcmp(form, "dense") != 0) {
        return esp_lua_fail(L, "form: found '%s', expected grouped or dense", form);
    }
    options.group_form = strcmp(form, "dense") == 0 ? ESP_GROUP_FORM_DENSE : ESP_GROUP_FORM_GROUPED;
    esp_lua_model *model = esp_lua_new_model(L);
    esp_lua_check(L, esp_surgery(esp_lua_compute(L), preview, &options, &model->graph, &report, &err), &err);
    push_report(L, &report);
    return 2;
}

/* preview:save_plan(path) */
static int preview_save_plan(lua_State *L)
{
    const esp_preview *preview = preview_at(L, 1);
    const char *path = esp_lua_check_string(L, 2);
    esp_error err = {0};
    esp_lua_check_writable(L, path);
    esp_lua_check(L, esp_plan_save(&preview->plan, path, &err), &err);
    return 0;
}

static int preview_to_string(lua_State *L)
{
    const esp_preview *preview = preview_at(L, 1);
    bool is_filter = preview->plan.method == ESP_METHOD_FILTER;
    lua_pushfstring(L, "preview (%s, %s, %d layers)", esp_method_word(preview->plan.method),
                    is_filter ? preview->plan.criterion : esp_mode_word(preview->plan.mode),
                    preview->layers.count);
    return 1;
}

void esp_lua_open_preview(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"table", preview_table},     {"ledger", preview_ledger},       {"explain", preview_explain},
        {"before", preview_before},   {"after", preview_after},         {"stored", preview_stored},
        {"nothing", preview_nothing}, {"mask", preview_mask},           {"masked", preview_masked},
        {"cut", preview_cut},         {"save_plan", preview_save_plan}, {NULL, NULL},
    };
    static const luaL_Reg meta[] = {{"__gc", preview_free}, {"__tostring", preview_to_string}, {NULL, NULL}};
    esp_lua_open_class(L, ESP_LUA_PREVIEW, methods, meta);
}
