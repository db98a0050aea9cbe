/* Formats a line and hands it over. Lines longer than the buffer are cut: a log line is read by people. */
#include "base/log.h"

#include <stdio.h>

void esp_log_write(const esp_log *log, esp_log_level level, const char *format, ...)
{
    char line[1024];
    va_list arguments;

    if (!log || !log->sink || level < log->least)
        return;
    va_start(arguments, format);
    if (vsnprintf(line, sizeof line, format, arguments) < 0)
        line[0] = '\0';
    va_end(arguments);
    for (char *at = line; *at != '\0'; at++)
        if (*at == '\n' || *at == '\r')
            *at = ' ';
    log->sink(log->user, level, line);
}
