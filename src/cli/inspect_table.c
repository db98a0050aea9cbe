/* The table for people. On a narrow terminal columns are left out, the least telling first. */
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "cli/inspect.h"
#include "cli/table.h"
#include "graph/op.h"

/* Columns in order: heading, alignment, and when it goes on a narrow terminal (1 first, 0 never). */
#define TABLE_COLUMNS(X)                                                                                     \
    X(LAYER, "layer", 'l', 0)                                                                                \
    X(KIND, "kind", 'l', 7)                                                                                  \
    X(ROLE, "role", 'l', 1)                                                                                  \
    X(OUTPUT, "output", 'l', 0)                                                                              \
    X(FILTERS, "filters", 'r', 6)                                                                            \
    X(CHANNELS, "channels", 'r', 4)                                                                          \
    X(PARAMS, "params", 'r', 0)                                                                              \
    X(MACS, "MACs", 'r', 0)                                                                                  \
    X(FIELD, "field", 'r', 8)                                                                                \
    X(STRIDE, "stride", 'r', 2)                                                                              \
    X(MEMORY, "memory", 'r', 5)                                                                              \
    X(SET, "set", 'r', 3)

enum column {
#define COLUMN_ENUM(name, heading, alignment, goes) COLUMN_##name,
    TABLE_COLUMNS(COLUMN_ENUM)
#undef COLUMN_ENUM
        COLUMN_COUNT
};

enum { GOES_LAST = 8, CELL_SIZE = 128 };

/* Both counters fit one line from here on. */
enum { SIZE_LINE_WIDTH = 100 };

static const char *const headings[] = {
#define COLUMN_HEADING(name, heading, alignment, goes) heading,
    TABLE_COLUMNS(COLUMN_HEADING)
#undef COLUMN_HEADING
};
static const char alignments[] = {
#define COLUMN_ALIGNMENT(name, heading, alignment, goes) alignment,
    TABLE_COLUMNS(COLUMN_ALIGNMENT)
#undef COLUMN_ALIGNMENT
};
static const int leaving[] = {
#define COLUMN_GOES(name, heading, alignment, goes) goes,
    TABLE_COLUMNS(COLUMN_GOES)
#undef COLUMN_GOES
};

static const char *kind_of(const esp_layer *layer, char *buffer, size_t size)
{
    if (!layer->is_conv) {
        return "fc";
    }
    size_t used = (size_t)snprintf(buffer, size, "%s", layer->filter_axis > 0 ? "up " : "conv ");
    for (int i = 0; i < layer->kernel_rank && used < size; i++) {
        used += (size_t)snprintf(buffer + used, size - used, "%s%lld", i > 0 ? "x" : "",
                                 (long long)layer->kernel[i]);
    }
    if (layer->group > 1 && used < size) {
        snprintf(buffer + used, size - used, " grouped");
    }
    return buffer;
}

/* "3", or "3+2" when the filters lie in two more sets. */
static void format_sets(const esp_inspection *it, int layer, char *buffer, size_t size)
{
    int sets[32];
    int count = esp_inspect_layer_sets(it, layer, sets, 32);
    if (count == 0) {
        snprintf(buffer, size, "-");
    } else if (count == 1) {
        snprintf(buffer, size, "%d", sets[0]);
    } else {
        snprintf(buffer, size, "%d+%d", sets[0], count - 1);
    }
}

static void format_cell(const esp_inspection *it, int index, enum column column, char *buffer, size_t size)
{
    const esp_layer *layer = &it->layers.items[index];
    int output = esp_graph_node(it->graph, layer->node)->outputs[0];
    switch (column) {
    case COLUMN_LAYER:
        snprintf(buffer, size, "%s", layer->name);
        break;
    case COLUMN_KIND: {
        char kind[48];
        snprintf(buffer, size, "%s", kind_of(layer, kind, sizeof kind));
        break;
    }
    case COLUMN_ROLE:
        snprintf(buffer, size, "%s", esp_role_word(layer->role));
        break;
    case COLUMN_OUTPUT:
        esp_inspect_shape(it, output, buffer, size);
        break;
    case COLUMN_FILTERS:
        snprintf(buffer, size, "%lld", (long long)layer->filters);
        break;
    case COLUMN_CHANNELS:
        snprintf(buffer, size, "%lld", (long long)layer->channels);
        break;
    case COLUMN_PARAMS:
        esp_format_count(buffer, size, (double)layer->params);
        break;
    case COLUMN_MACS:
        if (esp_inspect_has_shape(it, output)) {
            esp_format_count(buffer, size, (double)layer->macs);
        } else {
            snprintf(buffer, size, "unknown");
        }
        break;
    case COLUMN_FIELD:
        esp_field_format(&it->fields[output], buffer, size);
        break;
    case COLUMN_STRIDE:
        esp_field_stride_format(&it->fields[output], buffer, size);
        break;
    case COLUMN_MEMORY:
        if (esp_inspect_has_shape(it, output)) {
            esp_format_bytes(buffer, size, esp_inspect_bytes(it, output));
        } else {
            snprintf(buffer, size, "unknown");
        }
        break;
    default:
        format_sets(it, index, buffer, size);
    }
}

/* The table without the columns that have left. */
static esp_table *make_table(const esp_inspection *it, int left, char *alignment)
{
    size_t shown = 0;
    for (int column = 0; column < COLUMN_COUNT; column++) {
        if (leaving[column] == 0 || leaving[column] > left) {
            alignment[shown++] = alignments[column];
        }
    }
    alignment[shown] = '\0';
    esp_table *table = esp_table_new(alignment);
    for (int row = -1; row < it->layers.count; row++) {
        for (int column = 0; column < COLUMN_COUNT; column++) {
            char cell[CELL_SIZE];
            if (leaving[column] != 0 && leaving[column] <= left) {
                continue;
            }
            if (row >= 0) {
                format_cell(it, row, (enum column)column, cell, sizeof cell);
            }
            esp_table_cell(table, "%s", row < 0 ? headings[column] : cell);
        }
    }
    return table;
}

static esp_status print_layers(const esp_inspection *it, size_t width, esp_error *err)
{
    char alignment[COLUMN_COUNT + 1];
    esp_table *table = make_table(it, 0, alignment);
    for (int left = 1; left <= GOES_LAST && width > 0 && table && esp_table_width(table) > width; left++) {
        esp_table_free(table);
        table = make_table(it, left, alignment);
    }
    esp_status status = esp_table_print(table, err);
    esp_table_free(table);
    return status;
}

static void print_interface(const esp_inspection *it, bool is_output)
{
    int count = is_output ? esp_graph_output_count(it->graph) : esp_graph_input_count(it->graph);
    for (int i = 0; i < count; i++) {
        int value = is_output ? esp_graph_output(it->graph, i) : esp_graph_input(it->graph, i);
        char shape[96];
        printf("%-10s %s  %s  %s\n", is_output ? "output" : "input", esp_graph_value(it->graph, value)->name,
               esp_inspect_shape(it, value, shape, sizeof shape),
               esp_dtype_name(esp_inferred_dtype(it->one, value)));
    }
}

static void print_memory(const esp_inspection *it)
{
    char all[32], live[32];
    if (it->has_memory) {
        printf("%-10s %s of activations per image, %s at most at once\n", "memory",
               esp_format_bytes(all, sizeof all, it->value_bytes),
               esp_format_bytes(live, sizeof live, it->live_bytes));
    } else {
        printf("%-10s unknown, as some shapes are; MACs count what is known\n", "memory");
    }
}

static void print_coupling(const esp_inspection *it)
{
    if (!it->coupling) {
        printf("%-10s unknown: %s\n", "coupled", it->coupling_error.message);
        return;
    }
    int count = esp_coupling_set_count(it->coupling), pinned = 0;
    for (int i = 0; i < count; i++) {
        pinned += esp_coupling_set(it->coupling, i)->pinned_by != NULL;
    }
    esp_coupling_totals totals = esp_coupling_count(it->coupling);
    printf("%-10s %d sets of channels, %d of them pinned (--coupling says why)\n", "coupled", count, pinned);
    printf("%-10s %lld of %lld channels that layers write\n", "cuttable", (long long)totals.cuttable,
           (long long)totals.slots);
}

esp_status esp_inspect_print_table(const esp_inspection *it, size_t width, esp_error *err)
{
    char params[16], macs[16], paper_params[16], paper_macs[16];
    printf("%s  opset %lld, %d nodes\n", it->path, (long long)esp_graph_opset(it->graph),
           esp_graph_node_count(it->graph));
    if (it->run_error.code != ESP_OK) {
        printf("%-10s %s\n", "no run", it->run_error.message);
    }
    print_interface(it, false);
    print_interface(it, true);
    const char *next = width > 0 && width < SIZE_LINE_WIDTH ? "\n           " : "   ";
    printf("%-10s %s params, %s MACs per image (true)%s%s params, %s MACs (paper)\n", "size",
           esp_format_count(params, sizeof params, (double)it->counts.params),
           esp_format_count(macs, sizeof macs, (double)it->counts.macs), next,
           esp_format_count(paper_params, sizeof paper_params, it->counts.paper_params),
           esp_format_count(paper_macs, sizeof paper_macs, it->counts.paper_macs));
    print_memory(it);
    print_coupling(it);
    putchar('\n');
    return print_layers(it, width, err);
}
