/* model:bench{batch=, repeats=, train=, layers=, against=}: how long a network takes on this machine. */
#include "base/memory.h"
#include "graph/op.h"
#include "script/binding.h"
#include "train/grouping.h"
#include "train/latency.h"

/* What must be freed whatever Lua raises: a userdata with a finalizer. */
typedef struct bench {
    esp_latency_result results[2];
    esp_inferred *inferred;
    esp_grouping_gains groupings;
} bench;

static int release_bench(lua_State *L)
{
    bench *it = lua_touserdata(L, 1);
    for (int i = 0; i < 2; i++) {
        esp_free(it->results[i].node_ms);
        esp_free(it->results[i].node_info);
    }
    esp_grouping_gains_free(&it->groupings);
    esp_inferred_free(it->inferred);
    *it = (bench){0};
    return 0;
}

static bench *new_bench(lua_State *L)
{
    bench *it = lua_newuserdatauv(L, sizeof *it, 0);
    *it = (bench){0};
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, release_bench);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    return it;
}

static void push_memory(lua_State *L, const esp_latency_memory *memory)
{
    lua_createtable(L, 0, 6);
    esp_lua_set_integer(L, "weights", (int64_t)memory->weights);
    esp_lua_set_integer(L, "live", (int64_t)memory->live);
    esp_lua_set_integer(L, "activations", (int64_t)memory->planned);
    esp_lua_set_integer(L, "packed", (int64_t)memory->packed);
    esp_lua_set_integer(L, "scratch", (int64_t)memory->scratch);
    esp_lua_set_integer(L, "peak", (int64_t)memory->peak);
}

static void push_times(lua_State *L, const esp_latency_result *result, bool is_training)
{
    lua_createtable(L, 0, 12);
    esp_lua_set_number(L, "median_ms", result->median_ms);
    esp_lua_set_number(L, "min_ms", result->min_ms);
    esp_lua_set_number(L, "p90_ms", result->p90_ms);
    esp_lua_set_number(L, "spread", result->spread);
    esp_lua_set_integer(L, "batch", result->batch);
    esp_lua_set_integer(L, "threads", result->threads);
    esp_lua_set_integer(L, "repeats", result->repeats);
    if (is_training) {
        esp_lua_set_number(L, "forward_ms", result->forward_ms);
        esp_lua_set_number(L, "backward_ms", result->backward_ms);
        esp_lua_set_number(L, "update_ms", result->update_ms);
    }
    push_memory(L, &result->memory);
    lua_setfield(L, -2, "memory");
}

/* One entry per step: {name=, op=, ms=, kernel=, layout=, with={names of nodes computed in it}}. */
static void push_layers(lua_State *L, const esp_graph *graph, const esp_latency_result *result)
{
    lua_newtable(L);
    for (int n = 0; n < result->node_count; n++) {
        const esp_node *node = esp_graph_node(graph, n);
        const esp_exec_node_info *info = &result->node_info[n];
        if (info->fused_into != n || info->method[0] == '\0') {
            continue;
        }
        lua_createtable(L, 0, 6);
        esp_lua_set_string(L, "name", node->name);
        esp_lua_set_string(L, "op", node->op->name);
        esp_lua_set_number(L, "ms", result->node_ms[n]);
        esp_lua_set_string(L, "kernel", info->method);
        esp_lua_set_string(L, "layout", info->layout == ESP_LAYOUT_BLOCKED ? "blocked" : "plain");
        lua_newtable(L);
        for (int other = 0; other < result->node_count; other++) {
            if (other != n && result->node_info[other].fused_into == n) {
                lua_pushstring(L, esp_graph_node(graph, other)->name);
                lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
            }
        }
        lua_setfield(L, -2, "with");
        lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    }
}

/* One entry per self-grouped layer: what the arithmetic promises beside what the clock says. */
static void push_groupings(lua_State *L, const esp_grouping_gains *list)
{
    lua_createtable(L, list->count, 0);
    for (int i = 0; i < list->count; i++) {
        const esp_grouping_gain *item = &list->items[i];
        lua_createtable(L, 0, 6);
        esp_lua_set_string(L, "name", item->name);
        esp_lua_set_integer(L, "groups", item->groups);
        esp_lua_set_number(L, "theory", esp_grouping_theory(item));
        esp_lua_set_number(L, "real", esp_grouping_real(item));
        esp_lua_set_number(L, "ms", item->ms);
        esp_lua_set_number(L, "dense_ms", item->dense_ms);
        lua_rawseti(L, -2, i + 1);
    }
}

static void measure_groupings(lua_State *L, bench *it, const esp_graph *graph)
{
    esp_error err = {0};
    esp_lua_check(L, esp_infer(graph, it->results[0].batch, NULL, 0, &it->inferred, &err), &err);
    esp_lua_check(L,
                  esp_grouping_gains_measure(esp_lua_compute(L), graph, it->inferred, it->results[0].node_ms,
                                             &it->groupings, &err),
                  &err);
}

/* The network named by `against`, or NULL. */
static const esp_graph *other_graph(lua_State *L)
{
    if (!esp_lua_has_field(L, 2, "against")) {
        return NULL;
    }
    esp_lua_raw_field(L, 2, "against"); /* stays in the table, which stays in its place */
    if (luaL_testudata(L, -1, ESP_LUA_MODEL) == NULL) {
        esp_lua_fail(L, "against: expected a model, found %s", luaL_typename(L, -1));
    }
    const esp_graph *graph = esp_lua_model_at(L, -1)->graph;
    lua_pop(L, 1);
    return graph;
}

int esp_lua_model_bench(lua_State *L)
{
    static const char *const keys[] = {"batch", "repeats", "train", "layers", "against", NULL};
    const esp_graph *graph = esp_lua_model_at(L, 1)->graph;
    esp_error err = {0};
    esp_lua_check_keys(L, 2, keys);
    const esp_graph *other = other_graph(L);
    bool has_layers = esp_lua_field_boolean(L, 2, "layers", false);
    const esp_latency_options options = {
        .batch = esp_lua_field_integer(L, 2, "batch", 1),
        .repeats = (int)esp_lua_field_integer(L, 2, "repeats", 0),
        .is_training = esp_lua_field_boolean(L, 2, "train", false),
    };
    const esp_latency_subject subjects[2] = {
        {.graph = graph, .options = options, .wants_nodes = has_layers},
        {.graph = other, .options = options},
    };
    bench *it = new_bench(L);
    esp_lua_check(
        L, esp_measure_latencies(esp_lua_compute(L), subjects, other == NULL ? 1 : 2, it->results, &err),
        &err);
    if (has_layers && !options.is_training) {
        measure_groupings(L, it, graph);
    }
    push_times(L, &it->results[0], options.is_training);
    if (has_layers) {
        push_layers(L, graph, &it->results[0]);
        lua_setfield(L, -2, "layers");
        push_groupings(L, &it->groupings);
        lua_setfield(L, -2, "groupings");
    }
    if (other == NULL) {
        return 1;
    }
    push_times(L, &it->results[1], options.is_training);
    return 2;
}
