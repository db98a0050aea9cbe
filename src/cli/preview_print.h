/* A preview for people: what each layer gives, and why not what was asked. */
#ifndef ESP_CLI_PREVIEW_PRINT_H
#define ESP_CLI_PREVIEW_PRINT_H

#include "prune/preview.h"

/* A table with one line per layer, its reasons in short, and the counts before and after. `is_long`: every
 * reason in full below the table. */
esp_status esp_cli_preview_print(const esp_preview *preview, bool is_long, esp_error *err);

#endif
