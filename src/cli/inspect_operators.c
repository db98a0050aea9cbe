/* The op table for people and machines: what models may be made of. */
#include <jansson.h>
#include <stdio.h>

#include "cli/inputs.h"
#include "cli/inspect.h"
#include "cli/table.h"
#include "graph/op_facts.h"

static json_t *operator_json(const esp_op_facts *facts)
{
    json_t *opsets = json_array();
    for (int i = 0; i < facts->row_count; i++) {
        const esp_op *row = esp_op_at(facts->first_row + i);
        json_array_append_new(opsets, json_pack("[i,i]", row->opset_since, row->opset_until));
    }
    return json_pack("{s:s, s:o, s:b, s:b, s:b, s:s}", "name", facts->name, "opsets", opsets, "gradient",
                     facts->has_gradient, "blocked", facts->takes_blocks, "layer", facts->is_layer,
                     "channels", facts->channels);
}

static esp_status print_json(esp_error *err)
{
    esp_op_facts facts;
    json_t *list = json_array();
    for (int i = 0; esp_op_facts_at(i, &facts); i++) {
        json_array_append_new(list, operator_json(&facts));
    }
    return esp_cli_print_json(json_pack("{s:o}", "operators", list), err);
}

esp_status esp_inspect_print_operators(bool is_json, esp_error *err)
{
    static const char *const headings[] = {"operator", "opsets", "gradient", "layouts", "channels"};
    esp_op_facts facts;
    char opsets[96];
    if (is_json) {
        return print_json(err);
    }
    esp_table *table = esp_table_new("lllll");
    for (size_t i = 0; i < sizeof headings / sizeof *headings; i++) {
        esp_table_cell(table, "%s", headings[i]);
    }
    for (int i = 0; esp_op_facts_at(i, &facts); i++) {
        esp_table_cell(table, "%s", facts.name);
        esp_table_cell(table, "%s", esp_op_opsets(&facts, opsets, sizeof opsets));
        esp_table_cell(table, "%s", facts.has_gradient ? "yes" : "no");
        esp_table_cell(table, "%s", facts.takes_blocks ? "plain, blocked" : "plain");
        esp_table_cell(table, "%s", facts.channels);
    }
    esp_status status = esp_table_print(table, err);
    esp_table_free(table);
    if (status == ESP_OK) {
        putchar('\n');
    }
    for (int rule = ESP_CHANNEL_COPY; status == ESP_OK && rule <= ESP_CHANNEL_BLOCK; rule++) {
        printf("%-6s %s\n", esp_channel_word((esp_channel_rule)rule),
               esp_channel_meaning((esp_channel_rule)rule));
    }
    return status;
}
