/* The ledger of a preview: per layer what the plan asks, what it gets, and the reasons for the difference in
 * numbers that add up to it. A layer that is left whole silently is a defect: it has a reason here. */
#ifndef ESP_PRUNE_LEDGER_H
#define ESP_PRUNE_LEDGER_H

#include "base/text.h"
#include "prune/preview.h"
#include "prune/reason.h"

/* `amount` filters (WSP, FILTER) or connections (SG) stay for this reason though the plan asks for them;
 * negative: that many more go than it asks for. Fractions come from ratios that ask for parts of a filter. */
typedef struct esp_ledger_entry {
    esp_reason reason;
    double amount;
    double share; /* of the layer's filters or connections */
    char text[160];
} esp_ledger_entry;

/* asked - got = sum of the shares, to rounding errors of doubles. `asked` is what the plan says for the
 * layer, also when it takes no part. */
typedef struct esp_ledger_layer {
    double asked, got; /* shares of `units` */
    int64_t units;     /* filters or connections of the layer */
    int entry_count;   /* in the order of the steps that make the masks; none when got is what was asked */
    esp_ledger_entry *entries;
} esp_ledger_layer;

typedef struct esp_ledger {
    bool counts_filters; /* units are filters, not connections */
    int count;           /* of layers: as in the preview */
    esp_ledger_layer *layers;
} esp_ledger;

esp_status esp_ledger_new(const esp_preview *preview, esp_ledger *out, esp_error *err);
void esp_ledger_free(esp_ledger *ledger);

/* The reasons of one layer in one line, largest first: "intersection 12, rounding 0.2"; `size` bounds it. */
char *esp_ledger_summary(const esp_ledger_layer *layer, char *buffer, size_t size);

/* Why nothing at all is cut though the plan asks for it, in a line: the reasons that most layers have,
 * without the names in them, and how many layers have each. False, and an empty buffer, when something is cut
 * or nothing was asked. */
enum { ESP_LEDGER_NOTHING_SIZE = 400 };
bool esp_ledger_nothing(const esp_ledger *ledger, const esp_preview *preview, char *buffer, size_t size);

/* {"unit": "filters", "layers": [{"name", "asked", "got", "units", "entries": [{"reason", "amount", "share",
 * "text"}]}]}; of one layer without the name. */
esp_status esp_ledger_to_json(const esp_ledger *ledger, const esp_layers *layers, json_t **out,
                              esp_error *err);
json_t *esp_ledger_layer_to_json(const esp_ledger_layer *layer);

#endif
