/* What surgery would make of a model under masks, decided without writing it: which slots go, where constants
 * behind them go, which layers become grouped. Surgery carries out this very decision, so its counts are
 * those of the file. */
#ifndef ESP_PRUNE_SURGERY_DECISION_H
#define ESP_PRUNE_SURGERY_DECISION_H

#include "base/compute.h"
#include "prune/mask.h"

struct preview_subject;

/* Facts about a model that decisions need whatever the masks are: made when the first one asks, kept by the
 * subject. Any thread may ask. */
typedef struct surgery_facts surgery_facts;
esp_status surgery_facts_new(surgery_facts **out, esp_error *err);
void surgery_facts_free(surgery_facts *facts);

/* What becomes of one layer. */
typedef struct surgery_forecast_layer {
    int64_t stored, live; /* elements of its weight in the cut model; those that no mask clears */
} surgery_forecast_layer;

/* `true` counters only. `live` is what every surface shows of the written file; `stored` has the zeros that
 * stay as masks as well, which any runtime computes. */
typedef struct surgery_forecast {
    esp_counts live, stored;
    surgery_forecast_layer *layers; /* one per layer */
    bool *is_removed;               /* per slot of the coupling */
} surgery_forecast;

/* `subject` needs its coupling; `masks` has one per layer. `wants_groups`: layers whose filters read
 * different channels are written group by group. Free with surgery_forecast_free. */
esp_status surgery_forecast_new(const esp_compute *compute, const struct preview_subject *subject,
                                const esp_mask *masks, bool wants_groups, surgery_forecast *out,
                                esp_error *err);
void surgery_forecast_free(surgery_forecast *forecast);

#endif
