/* A log sink: library code never prints; it hands lines to whoever listens (the command line, the console).
 */
#ifndef ESP_BASE_LOG_H
#define ESP_BASE_LOG_H

#include "base/status.h"

typedef enum esp_log_level { ESP_LOG_DEBUG, ESP_LOG_INFO, ESP_LOG_WARNING } esp_log_level;

/* Called with one line, without newline; the text is valid during the call only. */
typedef void esp_log_fn(void *user, esp_log_level level, const char *line);

typedef struct esp_log {
    esp_log_fn *sink;
    void *user;
    esp_log_level least; /* lines below this level are dropped */
} esp_log;

/* NULL log: nothing happens. */
void esp_log_write(const esp_log *log, esp_log_level level, const char *format, ...) ESP_PRINTF(3, 4);

#endif
