/* Limits how often progress is reported, so that formatting and drawing cost nothing beside the work. */
#include "train/meter.h"

#include "base/clock.h"

#define ESP_METER_INTERVAL_S 0.05

esp_meter esp_meter_make(const esp_compute *compute)
{
    return (esp_meter){.compute = compute, .last_s = -1.0};
}

bool esp_meter_is_due(esp_meter *meter, bool is_final)
{
    if (meter->compute == NULL || meter->compute->on_progress == NULL) {
        return false;
    }
    double now = esp_clock_s();
    if (!is_final && meter->last_s >= 0.0 && now - meter->last_s < ESP_METER_INTERVAL_S) {
        return false;
    }
    meter->last_s = now;
    return true;
}
