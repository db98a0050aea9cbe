/* What pairs as published (wsp.c) and coupled sets (wsp_sets.c) share. */
#ifndef ESP_PRUNE_WSP_INTERNAL_H
#define ESP_PRUNE_WSP_INTERNAL_H

#include "prune/wsp.h"

/* A pair of `channels` zeroed scores at the end of the list, which has room. */
esp_status wsp_append(esp_wsp *wsp, int64_t channels, esp_wsp_pair **out, esp_error *err);

esp_status wsp_note_left_out(esp_wsp *wsp, int writer, int reader, esp_reason reason, const char *why,
                             esp_error *err);

/* The weak channels of a pair from its thresholds. */
void wsp_mark_weak(esp_wsp_pair *pair);

#endif
