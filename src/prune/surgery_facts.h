/* Facts about a model that decisions of surgery share (prune/surgery_decision.h). */
#ifndef ESP_PRUNE_SURGERY_FACTS_H
#define ESP_PRUNE_SURGERY_FACTS_H

#include <pthread.h>

#include "prune/surgery_internal.h"

/* Made under the mutex; what was made once never changes. */
struct surgery_facts {
    pthread_mutex_t mutex;
    bool has_tried_two;
    esp_inferred *inferred_two;
    surgery_values *silent; /* what channels carry when all filters are masked; NULL until asked for */
};

#endif
