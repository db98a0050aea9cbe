/* Names of a file matched with names of a network. Prefixes are put in front of the network's names rather
 * than cut off the file's: so a network whose own names begin alike is never misread. */
#include "io/safetensors_load.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "graph/op.h"
#include "io/safetensors.h"

enum { NAMES_SHOWN = 3 };

typedef struct name_list {
    char **items;
    int count, capacity;
} name_list;

struct esp_weight_source {
    esp_safetensors *file;
    char *prefix; /* NULL while it is not known */
    bool is_lenient;
    bool *is_asked; /* per tensor of the file */
    int taken;
    name_list lists[ESP_WEIGHTS_LISTS];
};

/* ---- lists of names ---- */

static esp_status add_name(name_list *list, const char *name, esp_error *err)
{
    if (list->count == list->capacity) {
        int capacity = list->capacity ? 2 * list->capacity : 16;
        char **items = esp_realloc(list->items, (size_t)list->count, (size_t)capacity, sizeof *items);

        if (!items)
            return esp_fail_memory(err, "a list of names", (size_t)capacity * sizeof *items);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count] = esp_strdup(name);
    if (!list->items[list->count])
        return esp_fail_memory(err, "a list of names", strlen(name));
    list->count++;
    return ESP_OK;
}

static void free_names(name_list *list)
{
    for (int i = 0; i < list->count; i++)
        esp_free(list->items[i]);
    esp_free(list->items);
    *list = (name_list){0};
}

/* "4 missing (a, b, c, ...)" */
static void describe_names(esp_text *text, const name_list *list, const char *what)
{
    if (list->count == 0)
        return;
    esp_text_printf(text, "%s%d %s (", text->length ? "; " : "", list->count, what);
    for (int i = 0; i < list->count && i < NAMES_SHOWN; i++)
        esp_text_printf(text, "%s%s", i ? ", " : "", list->items[i]);
    esp_text_append(text, list->count > NAMES_SHOWN ? ", ...)" : ")");
}

/* ---- the source ---- */

esp_status esp_weight_source_open(const char *path, const esp_weight_options *options,
                                  esp_weight_source **out, esp_error *err)
{
    esp_weight_source *source = esp_alloc_zero(1, sizeof *source);

    *out = NULL;
    if (!source)
        return esp_fail_memory(err, path, sizeof *source);
    esp_status status = esp_safetensors_open(path, &source->file, err);
    if (status == ESP_OK) {
        source->is_asked =
            esp_alloc_zero((size_t)esp_safetensors_count(source->file), sizeof *source->is_asked);
        if (!source->is_asked)
            status = esp_fail_memory(err, path, (size_t)esp_safetensors_count(source->file));
    }
    if (status == ESP_OK && options && options->prefix) {
        source->prefix = esp_strdup(options->prefix);
        if (!source->prefix)
            status = esp_fail_memory(err, path, strlen(options->prefix));
    }
    if (status != ESP_OK) {
        esp_weight_source_close(source);
        return status;
    }
    source->is_lenient = options && options->is_lenient;
    *out = source;
    return ESP_OK;
}

void esp_weight_source_close(esp_weight_source *source)
{
    if (!source)
        return;
    for (int i = 0; i < ESP_WEIGHTS_LISTS; i++)
        free_names(&source->lists[i]);
    esp_safetensors_close(source->file);
    esp_free(source->is_asked);
    esp_free(source->prefix);
    esp_free(source);
}

/* Length of what all names of the file begin with. */
static size_t common_length(const esp_safetensors *file)
{
    int count = esp_safetensors_count(file);
    const char *first = count ? esp_safetensors_at(file, 0)->name : "";
    size_t length = strlen(first);

    for (int i = 1; i < count; i++) {
        const char *name = esp_safetensors_at(file, i)->name;
        size_t same = 0;

        while (same < length && name[same] == first[same])
            same++;
        length = same;
    }
    return length;
}

/* Index of "PREFIX" "name" with a prefix of `length` bytes, or -1; -2 when memory is out. */
static int find_prefixed(const esp_safetensors *file, const char *prefix, size_t length, const char *name)
{
    esp_text text = {0};

    esp_text_append_n(&text, prefix, length);
    esp_text_append(&text, name);
    int index = text.is_broken ? -2 : esp_safetensors_find(file, text.data);
    esp_text_free(&text);
    return index;
}

/* Looks a name up, and finds the prefix of all names on the way: none, or the dotted beginnings that all
 * names share ("module.", "module.model."). */
static int find_first(esp_weight_source *source, const char *name)
{
    const esp_safetensors *file = source->file;
    const char *first = esp_safetensors_count(file) ? esp_safetensors_at(file, 0)->name : "";
    size_t most = common_length(file), length = 0;
    int index = esp_safetensors_find(file, name);

    while (index == -1 && length < most) {
        do
            length++;
        while (length < most && first[length - 1] != '.');
        if (first[length - 1] == '.')
            index = find_prefixed(file, first, length, name);
    }
    if (index >= 0) {
        source->prefix = esp_strndup(first, length);
        index = source->prefix ? index : -2;
    }
    return index;
}

static esp_status note_mismatch(esp_weight_source *source, const char *name, const esp_shape *found,
                                const esp_shape *expected, esp_error *err)
{
    char found_text[128], expected_text[128];
    esp_text text = {0};

    esp_text_printf(&text, "%s: %s instead of %s", name,
                    esp_shape_format(found, found_text, sizeof found_text),
                    esp_shape_format(expected, expected_text, sizeof expected_text));
    esp_status status = text.is_broken ? esp_fail_memory(err, "a list of names", strlen(name))
                                       : add_name(&source->lists[ESP_WEIGHTS_MISMATCHED], text.data, err);
    esp_text_free(&text);
    return status;
}

esp_status esp_weight_source_take(esp_weight_source *source, const char *name, const esp_shape *shape,
                                  esp_tensor **out, esp_error *err)
{
    const esp_safetensors *file = source->file;
    int index = source->prefix ? find_prefixed(file, source->prefix, strlen(source->prefix), name)
                               : find_first(source, name);

    *out = NULL;
    if (index == -2)
        return esp_fail_memory(err, "a name", strlen(name));
    if (index < 0)
        return add_name(&source->lists[ESP_WEIGHTS_MISSING], name, err);
    const esp_safetensors_entry *entry = esp_safetensors_at(file, index);
    source->is_asked[index] = true;
    if (!esp_shape_equal(&entry->shape, shape))
        return note_mismatch(source, name, &entry->shape, shape, err);
    esp_tensor *tensor = NULL;
    esp_status status = esp_safetensors_read(file, index, &tensor, err);
    if (status == ESP_OK && esp_tensor_dtype(tensor) != ESP_F32) {
        esp_tensor_unref(tensor);
        return esp_fail(err, ESP_UNSUPPORTED,
                        "%s: tensor '%s': found elements of type %s, expected a float type",
                        esp_safetensors_path(file), entry->name, entry->type);
    }
    if (status != ESP_OK)
        return status;
    source->taken++;
    *out = tensor;
    return ESP_OK;
}

/* A counter that PyTorch's batch-norm keeps; running statistics here have none. */
static bool is_counter(const char *name)
{
    static const char counter[] = "num_batches_tracked";
    size_t length = strlen(name), tail = sizeof counter - 1;

    return length >= tail && strcmp(name + length - tail, counter) == 0 &&
           (length == tail || name[length - tail - 1] == '.');
}

static esp_status list_unexpected(esp_weight_source *source, esp_error *err)
{
    esp_status status = ESP_OK;

    free_names(&source->lists[ESP_WEIGHTS_UNEXPECTED]);
    for (int i = 0; i < esp_safetensors_count(source->file) && status == ESP_OK; i++) {
        const char *name = esp_safetensors_at(source->file, i)->name;

        if (!source->is_asked[i] && !is_counter(name))
            status = add_name(&source->lists[ESP_WEIGHTS_UNEXPECTED], name, err);
    }
    return status;
}

esp_status esp_weight_source_finish(esp_weight_source *source, esp_error *err)
{
    const char *path = esp_safetensors_path(source->file);
    esp_text text = {0};
    esp_status status = list_unexpected(source, err);

    if (status != ESP_OK)
        return status;
    describe_names(&text, &source->lists[ESP_WEIGHTS_MISSING], "missing");
    describe_names(&text, &source->lists[ESP_WEIGHTS_UNEXPECTED], "unexpected");
    describe_names(&text, &source->lists[ESP_WEIGHTS_MISMATCHED], "of another shape");
    if (text.is_broken)
        status = esp_fail_memory(err, "a message", text.length);
    else if (text.length && (!source->is_lenient || source->taken == 0)) {
        status = esp_fail(err, ESP_SHAPE, "%s: %s: %s", path,
                          source->taken ? "not the weights of this network" : "no weight of this network",
                          text.data);
        if (source->taken)
            esp_error_set_hint(err,
                               "strict = false leaves the network's own where the file has none that fits");
    }
    esp_text_free(&text);
    return status;
}

int esp_weight_source_taken(const esp_weight_source *source)
{
    return source->taken;
}

int esp_weight_source_count(const esp_weight_source *source, esp_weight_list list)
{
    return source->lists[list].count;
}

const char *esp_weight_source_name(const esp_weight_source *source, esp_weight_list list, int index)
{
    return source->lists[list].items[index];
}

/* ---- graphs ---- */

/* Calls `visit` for every parameter once: float constants that some node takes as a trainable input or as a
 * running statistic. */
typedef esp_status visit_fn(void *user, int value_index, const esp_value *value, esp_error *err);

static esp_status visit_node(const esp_graph *graph, const esp_node *node, bool *is_visited, visit_fn *visit,
                             void *user, esp_error *err)
{
    esp_status status = ESP_OK;

    for (int i = 0; i < node->input_count && i < 32 && status == ESP_OK; i++) {
        int v = node->inputs[i];

        if (v < 0 || is_visited[v] || ((node->op->trainable | node->op->running) >> i & 1U) == 0)
            continue;
        const esp_value *value = esp_graph_value(graph, v);
        if (!value->constant || value->dtype != ESP_F32)
            continue;
        is_visited[v] = true;
        status = visit(user, v, value, err);
    }
    return status;
}

static esp_status visit_parameters(const esp_graph *graph, visit_fn *visit, void *user, esp_error *err)
{
    bool *is_visited = esp_alloc_zero((size_t)esp_graph_value_count(graph), sizeof *is_visited);
    esp_status status = is_visited ? ESP_OK : esp_fail_memory(err, "the parameters", 0);

    for (int n = 0; n < esp_graph_node_count(graph) && status == ESP_OK; n++)
        status = visit_node(graph, esp_graph_node(graph, n), is_visited, visit, user, err);
    esp_free(is_visited);
    return status;
}

/* What has been read; room for all values. */
typedef struct loading {
    esp_weight_source *source;
    int *values;
    esp_tensor **tensors;
    int count;
} loading;

static esp_status load_parameter(void *user, int value_index, const esp_value *value, esp_error *err)
{
    loading *it = user;
    esp_tensor *tensor = NULL;
    esp_status status = esp_weight_source_take(it->source, value->name, &value->shape, &tensor, err);

    if (status == ESP_OK && tensor) {
        it->values[it->count] = value_index;
        it->tensors[it->count++] = tensor;
    }
    return status;
}

esp_status esp_graph_load_weights(const esp_graph *graph, esp_weight_source *source, esp_graph **out,
                                  esp_error *err)
{
    size_t most = (size_t)esp_graph_value_count(graph);
    loading it = {source, esp_alloc(most, sizeof *it.values), esp_alloc(most, sizeof *it.tensors), 0};
    esp_status status = ESP_OK;

    *out = NULL;
    if (!it.values || !it.tensors)
        status = esp_fail_memory(err, "a list of parameters", most * sizeof *it.tensors);
    if (status == ESP_OK)
        status = visit_parameters(graph, load_parameter, &it, err);
    if (status == ESP_OK)
        status = esp_weight_source_finish(source, err);
    if (status == ESP_OK)
        status = esp_graph_with_constants(graph, it.count, it.values, it.tensors, out, err);
    for (int i = 0; i < it.count; i++)
        esp_tensor_unref(it.tensors[i]);
    esp_free(it.tensors);
    esp_free(it.values);
    return status;
}

typedef struct saving {
    esp_named_tensor *items;
    int count;
} saving;

static esp_status save_parameter(void *user, int value_index, const esp_value *value, esp_error *err)
{
    saving *it = user;

    (void)value_index;
    (void)err;
    it->items[it->count++] = (esp_named_tensor){value->name, value->constant};
    return ESP_OK;
}

esp_status esp_graph_save_weights(const esp_graph *graph, const char *path, esp_error *err)
{
    size_t most = (size_t)esp_graph_value_count(graph);
    saving it = {esp_alloc(most, sizeof *it.items), 0};
    esp_status status = it.items ? ESP_OK : esp_fail_memory(err, path, most * sizeof *it.items);

    if (status == ESP_OK)
        status = visit_parameters(graph, save_parameter, &it, err);
    if (status == ESP_OK)
        status = esp_safetensors_save(path, it.items, it.count, err);
    esp_free(it.items);
    return status;
}
