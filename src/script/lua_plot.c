/* espalier.plot(figure, path): a figure as a plain table. */
#include <string.h>

#include "plot/figure.h"
#include "script/binding.h"

enum { SERIES_MAX = 16 };

/* The sequence in field `name` of the table at `index` as doubles in a userdata left on the stack; NULL and
 * nothing left when it is absent. Entries that are not numbers become NaN, which figures leave out. */
static double *push_numbers(lua_State *L, int index, const char *name, size_t *count)
{
    int type = esp_lua_raw_field(L, index, name);
    if (type == LUA_TNIL) {
        lua_pop(L, 1);
        return NULL;
    }
    if (type != LUA_TTABLE) {
        esp_lua_fail(L, "%s: found a %s, expected a list of numbers", name, lua_typename(L, type));
    }
    int source = lua_gettop(L);
    *count = (size_t)lua_rawlen(L, source);
    double *values = lua_newuserdatauv(L, (*count + 1) * sizeof *values, 0);
    for (size_t i = 0; i < *count; i++) {
        lua_rawgeti(L, source, (lua_Integer)i + 1);
        values[i] = lua_isnumber(L, -1) ? lua_tonumber(L, -1) : 0.0 / 0.0;
        lua_pop(L, 1);
    }
    return values;
}

static const char **push_labels(lua_State *L, int index, size_t count)
{
    int type = esp_lua_raw_field(L, index, "labels");
    if (type == LUA_TNIL) {
        lua_pop(L, 1);
        return NULL;
    }
    if (type != LUA_TTABLE) {
        esp_lua_fail(L, "labels: found a %s, expected a list of texts", lua_typename(L, type));
    }
    int source = lua_gettop(L);
    const char **labels = lua_newuserdatauv(L, (count + 1) * sizeof *labels, 0);
    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, source, (lua_Integer)i + 1);
        bool has_none = !lua_toboolean(L, -1); /* nil or false */
        lua_pop(L, 1);
        /* the table keeps the string alive */
        labels[i] = has_none ? NULL : esp_lua_item_string(L, source, (lua_Integer)i + 1, "labels");
    }
    return labels;
}

/* Reads series `number`; what it points to stays on the stack until the figure is drawn. */
static void read_series(lua_State *L, int index, int number, esp_series *series)
{
    static const char *const keys[] = {"title", "x", "y", "error", "labels", "style", NULL};
    static const char *const styles[] = {"lines", "points", "linespoints", NULL};
    size_t x_count = 0, y_count = 0, error_count = 0;
    esp_lua_check_stack(L, 12, "a figure's series");
    esp_lua_check_keys(L, index, keys);
    series->title = esp_lua_field_string(L, index, "title", "");
    series->x = push_numbers(L, index, "x", &x_count);
    series->y = push_numbers(L, index, "y", &y_count);
    if (!series->x || !series->y || x_count != y_count) {
        esp_lua_fail(L, "series %d: found %d x and %d y, expected as many of each", number, (int)x_count,
                     (int)y_count);
    }
    series->count = x_count;
    series->y_error = push_numbers(L, index, "error", &error_count);
    if (series->y_error && error_count != x_count) {
        esp_lua_fail(L, "series %d: found %d errors for %d points", number, (int)error_count, (int)x_count);
    }
    series->labels = push_labels(L, index, x_count);
    const char *style = esp_lua_field_string(L, index, "style", "linespoints");
    for (int i = 0; styles[i]; i++) {
        if (strcmp(style, styles[i]) == 0) {
            series->style = (esp_series_style)i;
            return;
        }
    }
    esp_lua_fail(L, "series %d: style: found '%s', expected lines, points or linespoints", number, style);
}

static int plot(lua_State *L)
{
    static const char *const keys[] = {"title", "x_label", "y_label", "x_log", "y_log",
                                       "width", "height",  "series",  NULL};
    const char *path = esp_lua_check_string(L, 2);
    esp_series series[SERIES_MAX] = {0};
    esp_error err = {0};
    esp_lua_check_keys(L, 1, keys);
    esp_lua_check_writable(L, path);
    esp_figure figure = {
        .title = esp_lua_field_string(L, 1, "title", ""),
        .x_label = esp_lua_field_string(L, 1, "x_label", ""),
        .y_label = esp_lua_field_string(L, 1, "y_label", ""),
        .x_is_log = esp_lua_field_boolean(L, 1, "x_log", false),
        .y_is_log = esp_lua_field_boolean(L, 1, "y_log", false),
        .width = (int)esp_lua_field_integer(L, 1, "width", 0),
        .height = (int)esp_lua_field_integer(L, 1, "height", 0),
        .series = series,
    };
    if (esp_lua_raw_field(L, 1, "series") != LUA_TTABLE || lua_rawlen(L, -1) > SERIES_MAX) {
        return esp_lua_fail(L, "series: expected a list of 1 to %d tables {title=, x=, y=}", SERIES_MAX);
    }
    int list = lua_gettop(L);
    figure.series_count = (size_t)lua_rawlen(L, list);
    for (size_t i = 0; i < figure.series_count; i++) {
        esp_lua_check_stack(L, 4, "a figure's series");
        if (lua_rawgeti(L, list, (lua_Integer)i + 1) != LUA_TTABLE) {
            return esp_lua_fail(L, "series[%d]: found a %s, expected a table {title=, x=, y=}", (int)i + 1,
                                luaL_typename(L, -1));
        }
        read_series(L, lua_gettop(L), (int)i + 1, &series[i]);
    }
    esp_lua_check(L, esp_figure_write(&figure, path, &err), &err);
    return 0;
}

void esp_lua_open_plot(lua_State *L)
{
    lua_pushcfunction(L, plot);
    lua_setfield(L, -2, "plot");
}
