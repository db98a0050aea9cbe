/* What the files of the plan share. */
#ifndef ESP_PRUNE_PLAN_INTERNAL_H
#define ESP_PRUNE_PLAN_INTERNAL_H

#include "prune/plan.h"

/* The default floor; part of the file format. */
#define PLAN_FLOOR 0.1

/* The place of a word in a list; others are refused with the nearest. */
esp_status plan_parse_word(const char *what, const char *word, const char *const *words, size_t count,
                           int *out, esp_error *err);

#endif
