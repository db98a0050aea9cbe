/* The plans that a version's desk had, one after the other, to go back and forward among. */
#ifndef ESP_STUDY_PLAN_HISTORY_H
#define ESP_STUDY_PLAN_HISTORY_H

#include "prune/plan.h"

#define ESP_PLAN_HISTORY_MAX 48

/* Zero-initialise. Owns its plans. */
typedef struct esp_plan_history {
    int count, at; /* plans; which of them is the present one */
    esp_plan plans[ESP_PLAN_HISTORY_MAX];
} esp_plan_history;

void esp_plan_history_free(esp_plan_history *history); /* leaves an empty one */

/* `plan` is the present one now (copied): forgets what was ahead, and the oldest when it is full. A plan like
 * the present one changes nothing. */
esp_status esp_plan_history_note(esp_plan_history *history, const esp_plan *plan, esp_error *err);

bool esp_plan_history_has(const esp_plan_history *history, int direction); /* -1: back, 1: forward */

/* Steps, and gives a copy of the plan that is the present one then. ESP_STATE when there is none. */
esp_status esp_plan_history_step(esp_plan_history *history, int direction, esp_plan *out, esp_error *err);

#endif
