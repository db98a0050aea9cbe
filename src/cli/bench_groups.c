/* What grouping layers brought, at the end of `espalier bench --layers`. */
#include <stdio.h>

#include "cli/bench.h"
#include "cli/inputs.h"
#include "cli/table.h"

static void add_row(esp_table *table, const char *name, const char *groups, const esp_grouping_gain *item)
{
    esp_table_cell(table, "%s", name);
    esp_table_cell(table, "%s", groups);
    esp_table_cell(table, "%.3f", item->ms);
    esp_table_cell(table, "%.3f", item->dense_ms);
    esp_table_cell(table, "%.2fx", esp_grouping_theory(item));
    esp_table_cell(table, "%.2fx", esp_grouping_real(item));
    esp_table_cell(table, "%s", esp_grouping_loses(item) ? "slower than dense" : "");
}

static void print_verdict(const esp_grouping_gains *list)
{
    int losers = 0;
    for (int i = 0; i < list->count; i++) {
        losers += esp_grouping_loses(&list->items[i]);
    }
    if (losers == 0) {
        printf("\nNo grouped layer is slower than its dense form on this machine.\n");
        return;
    }
    printf("\nOn this machine grouping makes %d of %d layers slower than their dense form:", losers,
           list->count);
    for (int i = 0, told = 0; i < list->count; i++) {
        if (esp_grouping_loses(&list->items[i])) {
            printf("%s %s", told++ > 0 ? "," : "", list->items[i].name);
        }
    }
    printf(".\n");
}

esp_status esp_bench_print_groupings(const esp_bench *bench, esp_error *err)
{
    static const char *const headings[] = {"grouped layer", "groups", "ms", "dense ms", "theory", "real", ""};
    const esp_grouping_gains *list = &bench->groupings;
    if (list->count == 0) {
        return ESP_OK;
    }
    esp_table *table = esp_table_new("lrrrrrl");
    for (size_t i = 0; i < sizeof headings / sizeof headings[0]; i++) {
        esp_table_cell(table, "%s", headings[i]);
    }
    for (int i = 0; i < list->count; i++) {
        char groups[24];
        snprintf(groups, sizeof groups, "%lld", (long long)list->items[i].groups);
        add_row(table, list->items[i].name, groups, &list->items[i]);
    }
    const esp_grouping_gain total = esp_grouping_total(list);
    add_row(table, "all", "", &total);
    putchar('\n');
    esp_status status = esp_table_print(table, err);
    esp_table_free(table);
    print_verdict(list);
    return status;
}

static json_t *item_json(const esp_grouping_gain *item)
{
    return json_pack("{s:I, s:I, s:f, s:f, s:f, s:f, s:b}", "macs", (json_int_t)item->macs, "dense_macs",
                     (json_int_t)item->dense_macs, "ms", item->ms, "dense_ms", item->dense_ms, "theory",
                     esp_grouping_theory(item), "real", esp_grouping_real(item), "loses",
                     esp_grouping_loses(item));
}

json_t *esp_bench_groupings_json(const esp_bench *bench)
{
    const esp_grouping_gains *list = &bench->groupings;
    if (list->count == 0) {
        return json_null();
    }
    const esp_grouping_gain total = esp_grouping_total(list);
    json_t *object = item_json(&total), *layers = json_array();
    for (int i = 0; i < list->count; i++) {
        json_t *layer = item_json(&list->items[i]);
        json_object_set_new(layer, "name", esp_cli_json_text(list->items[i].name));
        json_object_set_new(layer, "groups", json_integer((json_int_t)list->items[i].groups));
        json_array_append_new(layers, layer);
    }
    json_object_set_new(object, "layers", layers);
    return object;
}
