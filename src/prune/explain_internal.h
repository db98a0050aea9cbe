/* What the files of the explanation share: one JSON object while it is written. */
#ifndef ESP_PRUNE_EXPLAIN_INTERNAL_H
#define ESP_PRUNE_EXPLAIN_INTERNAL_H

#include "prune/explain.h"
#include "prune/preview_internal.h"

typedef struct explanation {
    const esp_preview *preview;
    int layer;
    int64_t channel;
    json_t *object;
    bool is_broken; /* no memory, or a name that is no UTF-8 */
} explanation;

void explain_set(explanation *self, const char *key, json_t *take_value);
void explain_text(explanation *self, const char *key, const char *format, ...) ESP_PRINTF(3, 4);

/* A score among `count` ranked ones. */
void explain_score(explanation *self, const char *name, const double *scores, int64_t count, int64_t place,
                   double threshold);

/* Partners of a slot in all layers, and what ties them. */
void explain_slot(explanation *self, int32_t slot);

/* The methods (explain_slots.c, explain_groups.c). */
esp_status explain_slots(explanation *self, esp_error *err);
esp_status explain_groups(explanation *self, esp_error *err);

#endif
