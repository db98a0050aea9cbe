/* The table of `espalier bench --layers`. A step of the executor may do the work of several nodes
 * (convolution, batch-norm, activation, addition): its row is that of its main node, and the others are named
 * in it. MACs are those of all of them. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "cli/bench.h"
#include "cli/inputs.h"
#include "cli/table.h"
#include "graph/op.h"

/* Per image; layers know theirs, everything else has none. */
static int64_t own_macs(const esp_bench *it, int node)
{
    for (int i = 0; i < it->layers.count; i++) {
        if (it->layers.items[i].node == node) {
            return it->layers.items[i].macs;
        }
    }
    return 0;
}

static bool is_fused(const esp_bench *it, int node)
{
    return it->result.node_info[node].fused_into != node;
}

/* Of a node's whole step; 0 for a node that runs in another one's. */
static int64_t step_macs(const esp_bench *it, int node)
{
    int64_t macs = 0;
    for (int i = 0; i < it->result.node_count; i++) {
        if (it->result.node_info[i].fused_into == node) {
            macs += own_macs(it, i);
        }
    }
    return macs;
}

static double total_ms(const esp_bench *it)
{
    double total = 0;
    for (int i = 0; i < it->result.node_count; i++) {
        total += it->result.node_ms[i];
    }
    return total;
}

static double share(const esp_bench *it, int node)
{
    double total = total_ms(it);
    return total > 0 ? it->result.node_ms[node] / total : 0.0;
}

static double gflops(const esp_bench *it, int node)
{
    double ms = it->result.node_ms[node];
    return ms > 0 ? 2.0 * (double)step_macs(it, node) * (double)it->result.batch / (ms * 1e6) : 0.0;
}

static double share_of_peak(const esp_bench *it, int node)
{
    return it->peak.gflops > 0 ? gflops(it, node) / it->peak.gflops : 0.0;
}

static const char *layout_word(esp_layout layout)
{
    return layout == ESP_LAYOUT_BLOCKED ? "blocked" : "plain";
}

/* "BatchNormalization Relu": operators of the nodes that run in this one's step. */
static char *fused_text(const esp_bench *it, int node)
{
    esp_text text = {0};
    for (int i = 0; i < it->result.node_count; i++) {
        if (i != node && it->result.node_info[i].fused_into == node) {
            esp_text_printf(&text, "%s%s", text.length ? " " : "", esp_graph_node(it->graph, i)->op->name);
        }
    }
    return esp_text_take(&text);
}

static esp_status add_row(esp_table *table, const esp_bench *it, int index, esp_error *err)
{
    const esp_node *node = esp_graph_node(it->graph, index);
    const esp_exec_node_info *info = &it->result.node_info[index];
    char *fused = fused_text(it, index);
    if (!fused) {
        return esp_fail_memory(err, "the table of layers", 0);
    }
    esp_table_cell(table, "%s", node->name);
    esp_table_cell(table, "%s", node->op->name);
    esp_table_cell(table, "%.3f", it->result.node_ms[index]);
    esp_table_cell(table, "%.1f %%", 100.0 * share(it, index));
    if (step_macs(it, index) > 0) {
        esp_table_cell(table, "%.1f", gflops(it, index));
        esp_table_cell(table, "%.0f %%", 100.0 * share_of_peak(it, index));
    } else {
        esp_table_cell(table, "%s", "");
        esp_table_cell(table, "%s", "");
    }
    esp_table_cell(table, "%s", layout_word(info->layout));
    esp_table_cell(table, "%s", info->method);
    esp_table_cell(table, "%s", fused);
    esp_free(fused);
    return ESP_OK;
}

esp_status esp_bench_print_layers(const esp_bench *it, esp_error *err)
{
    static const char *const headings[] = {"node",    "operator", "ms",     "share", "GFLOP/s",
                                           "of peak", "layout",   "kernel", "with"};
    esp_table *table = esp_table_new("llrrrrlll");
    esp_status status = ESP_OK;
    for (size_t i = 0; i < sizeof headings / sizeof headings[0]; i++) {
        esp_table_cell(table, "%s", headings[i]);
    }
    for (int i = 0; status == ESP_OK && i < it->result.node_count; i++) {
        if (!is_fused(it, i) && it->result.node_info[i].method[0] != 0) {
            status = add_row(table, it, i, err);
        }
    }
    if (status == ESP_OK) {
        printf("\npeak     %.0f GFLOP/s (%s), memory read at %.1f GB/s, on %d thread%s\n\n", it->peak.gflops,
               esp_isa_name(it->peak.isa), it->peak.gb_per_s, it->peak.threads,
               it->peak.threads == 1 ? "" : "s");
        status = esp_table_print(table, err);
    }
    esp_table_free(table);
    return status;
}

json_t *esp_bench_layers_json(const esp_bench *it)
{
    json_t *list = json_array();
    for (int i = 0; i < it->result.node_count; i++) {
        const esp_node *node = esp_graph_node(it->graph, i);
        const esp_exec_node_info *info = &it->result.node_info[i];
        json_t *object =
            json_pack("{s:o, s:s, s:f, s:f, s:I, s:f, s:f, s:s, s:s?}", "name", esp_cli_json_text(node->name),
                      "operator", node->op->name, "ms", it->result.node_ms[i], "share", share(it, i), "macs",
                      (json_int_t)step_macs(it, i), "gflops", gflops(it, i), "share_of_peak",
                      share_of_peak(it, i), "layout", layout_word(info->layout), "kernel", info->method);
        if (object && is_fused(it, i)) {
            const char *into = esp_graph_node(it->graph, info->fused_into)->name;
            json_object_set_new(object, "fused_into", esp_cli_json_text(into));
        }
        json_array_append_new(list, object);
    }
    return list;
}

json_t *esp_bench_peak_json(const esp_peak *peak)
{
    return json_pack("{s:s, s:i, s:f, s:f}", "isa", esp_isa_name(peak->isa), "threads", peak->threads,
                     "gflops", peak->gflops, "gb_per_s", peak->gb_per_s);
}
