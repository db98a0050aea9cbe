/* --preset: published settings as what the flags of a plan leave open. */
#ifndef ESP_CLI_PLAN_PRESET_H
#define ESP_CLI_PLAN_PRESET_H

#include "cli/plan_flags.h"
#include "prune/gradual.h"

/* A row of a table of options. */
#define ESP_CLI_PRESET_ROW(preset)                                                                           \
    {                                                                                                        \
        "preset", 0, ESP_OPTION_TEXT, preset, "NAME",                                                        \
            "as published: sg-cnn, wsp or cub (masks are kept); --ratio is that of the convolutions", 0, 0,  \
            0                                                                                                \
    }

/* Fills flags that were not given, before esp_cli_plan_make: method, mode, groups and ratios; and `*schedule`
 * and the optimizer's part of `*training` where these are not NULL. Nothing happens when `preset` is NULL.
 * ESP_INVALID beside a plan file, beside another method. */
esp_status esp_cli_preset_fill(const char *preset, esp_cli_plan_flags *flags, esp_gradual *schedule,
                               esp_train_options *training, esp_error *err);

#endif
