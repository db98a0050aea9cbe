/* The one wording for a name that is not in a table: "unknown criterion 'l11', did you mean 'l1'?". */
#ifndef ESP_BASE_UNKNOWN_H
#define ESP_BASE_UNKNOWN_H

#include <stddef.h>

#include "base/status.h"

/* Fills `err` with ESP_INVALID and returns it. `what` is what kind of name it is ("criterion"). The hint
 * lists the candidates as far as they fit. */
esp_status esp_fail_unknown(esp_error *err, const char *what, const char *word, const char *const *candidates,
                            size_t count);

#endif
