/* When to report progress: a job asks at every batch, the listener hears some twenty times a second. */
#ifndef ESP_TRAIN_METER_H
#define ESP_TRAIN_METER_H

#include <stdbool.h>

#include "base/compute.h"

typedef struct esp_meter {
    const esp_compute *compute; /* borrowed */
    double last_s;              /* clock of the last report; negative before the first */
} esp_meter;

esp_meter esp_meter_make(const esp_compute *compute);

/* True when someone listens and the last report is old enough; the caller then reports. `is_final` reports
 * are due whatever the time, so that a listener always sees the end of a stage. */
bool esp_meter_is_due(esp_meter *meter, bool is_final);

#endif
