/* The table shows what the ledger knows in a line per layer; the long form has a line per reason. */
#include "cli/preview_print.h"

#include <stdio.h>

#include "base/text.h"
#include "cli/table.h"
#include "prune/ledger.h"

static bool has_groups(const esp_preview *preview)
{
    return preview->plan.method == ESP_METHOD_SG;
}

static void fill_row(const esp_preview *preview, const esp_ledger *ledger, int i, esp_table *table)
{
    const esp_preview_layer *item = &preview->items[i];
    char before[16], after[16], why[160];
    esp_table_cell(table, "%s", preview->layers.items[i].name);
    esp_table_cell(table, "%s", esp_role_word(item->role));
    esp_table_cell(table, "%.1f %%", 100 * ledger->layers[i].asked);
    esp_table_cell(table, "%.1f %%", 100 * ledger->layers[i].got);
    esp_table_cell(table, "%s", esp_format_count(before, sizeof before, (double)item->params_before));
    esp_table_cell(table, "%s", esp_format_count(after, sizeof after, (double)item->params_after));
    esp_table_cell(table, "%.1f %%",
                   item->params_before > 0 ? 100.0 * (double)item->params_after / (double)item->params_before
                                           : 100.0);
    if (item->grouping.labels) {
        esp_table_cell(table, "%lld", (long long)item->grouping.executed_groups);
    } else if (has_groups(preview)) {
        esp_table_cell(table, "%s", "");
    }
    esp_table_cell(table, "%s", esp_ledger_summary(&ledger->layers[i], why, sizeof why));
}

static esp_status print_table(const esp_preview *preview, const esp_ledger *ledger, esp_error *err)
{
    static const char *const headings[] = {"layer", "role", "asked", "got", "weights", "", "left", "groups"};
    size_t columns = sizeof headings / sizeof *headings - !has_groups(preview);
    esp_table *table = esp_table_new(has_groups(preview) ? "llrrrrrrl" : "llrrrrrl");
    for (size_t i = 0; i < columns; i++) {
        esp_table_cell(table, "%s", headings[i]);
    }
    esp_table_cell(table, "why not as asked (%s)", ledger->counts_filters ? "filters" : "connections");
    for (int i = 0; i < preview->layers.count; i++) {
        fill_row(preview, ledger, i, table);
    }
    esp_status status = esp_table_print(table, err);
    esp_table_free(table);
    return status;
}

static void print_reasons(const esp_preview *preview, const esp_ledger *ledger)
{
    const char *unit = ledger->counts_filters ? "filters" : "connections";
    printf("\nledger: what stays though asked for; with a minus, what goes beyond it\n");
    for (int i = 0; i < ledger->count; i++) {
        const esp_ledger_layer *layer = &ledger->layers[i];
        printf("%s: asked %.2f of %lld %s, got %.2f\n", preview->layers.items[i].name,
               layer->asked * (double)layer->units, (long long)layer->units, unit,
               layer->got * (double)layer->units);
        for (int e = 0; e < layer->entry_count; e++) {
            printf("  %10.2f  %-12s %s\n", layer->entries[e].amount,
                   esp_reason_word(layer->entries[e].reason), layer->entries[e].text);
        }
    }
}

static void print_change(const char *what, double before, double after)
{
    char left[16], right[16];
    printf("%-8s %s -> %s  (%.1f %%)\n", what, esp_format_count(left, sizeof left, before),
           esp_format_count(right, sizeof right, after), before > 0 ? 100.0 * after / before : 100.0);
}

/* Layers that had connections and lose them all cut every path through them. */
static void print_dead(const esp_preview *preview)
{
    int dead = 0;
    const char *first = "";
    for (int i = 0; i < preview->layers.count; i++) {
        const esp_preview_layer *item = &preview->items[i];
        if (item->params_before > 0 && item->params_after == 0) {
            first = dead ? first : preview->layers.items[i].name;
            dead++;
        }
    }
    if (dead > 0) {
        printf("warning  no connection is left in %d layer%s (%s%s): the network is dead there\n", dead,
               dead == 1 ? "" : "s", first, dead == 1 ? "" : ", ...");
    }
}

/* Zeros that surgery cannot take out are no part of the counts above. */
static void print_stored(const esp_preview *preview)
{
    char params[16], macs[16];
    if (preview->stored.params > preview->after.params || preview->stored.macs > preview->after.macs) {
        printf("stored   %s params, %s MACs with the zeros that stay, which a runtime computes\n",
               esp_format_count(params, sizeof params, (double)preview->stored.params),
               esp_format_count(macs, sizeof macs, (double)preview->stored.macs));
    }
}

static void print_heading(const esp_plan *plan)
{
    printf("%s (%s), ", esp_method_word(plan->method), esp_method_title(plan->method));
    if (plan->method == ESP_METHOD_FILTER) {
        printf("criterion %s", plan->criterion);
    } else {
        printf("%s", esp_mode_word(plan->mode));
    }
    if (plan->scope != ESP_SCOPE_LAYER) {
        printf(", scope %s", esp_scope_word(plan->scope));
    }
    if (plan->round_to > 1) {
        printf(", multiples of %d", plan->round_to);
    }
    printf("\n\n");
}

esp_status esp_cli_preview_print(const esp_preview *preview, bool is_long, esp_error *err)
{
    esp_ledger ledger;
    esp_status status = esp_ledger_new(preview, &ledger, err);
    if (status != ESP_OK) {
        return status;
    }
    print_heading(&preview->plan);
    status = print_table(preview, &ledger, err);
    if (is_long) {
        print_reasons(preview, &ledger);
    }
    putchar('\n');
    print_change("params", (double)preview->before.params, (double)preview->after.params);
    print_change("MACs", (double)preview->before.macs, (double)preview->after.macs);
    print_stored(preview);
    print_dead(preview);
    char nothing[ESP_LEDGER_NOTHING_SIZE];
    if (esp_ledger_nothing(&ledger, preview, nothing, sizeof nothing)) {
        printf("warning  nothing can be cut: %s\n", nothing);
    }
    esp_ledger_free(&ledger);
    return status;
}
