/* Error records. A message is one printable line that fits its buffer whatever goes in: file names and node
 * names come from outside, so control characters in them must not reach a terminal. */
#include "base/status.h"

#include <stdio.h>
#include <string.h>

const char *esp_status_word(esp_status status)
{
    switch (status) {
#define ESP_STATUS_WORD(name, word)                                                                          \
    case ESP_##name:                                                                                         \
        return word;
        ESP_STATUS_LIST(ESP_STATUS_WORD)
#undef ESP_STATUS_WORD
    }
    return "unknown";
}

/* Number of bytes of `text` before `length` that end on a whole UTF-8 character. */
static size_t whole_characters(const char *text, size_t length)
{
    while (length > 0 && ((unsigned char)text[length] & 0xC0u) == 0x80u)
        length--;
    return length;
}

/* Formats into `out` of `size` bytes; what does not fit is cut with "...". */
static void format_line(char *out, size_t size, const char *format, va_list arguments)
{
    int needed = vsnprintf(out, size, format, arguments);

    if (needed < 0)
        out[0] = '\0';
    else if ((size_t)needed >= size)
        memcpy(out + whole_characters(out, size - sizeof "..."), "...", sizeof "...");
    for (char *at = out; *at != '\0'; at++)
        if ((unsigned char)*at < 0x20u || *at == 0x7F)
            *at = '?';
}

esp_status esp_fail(esp_error *err, esp_status code, const char *format, ...)
{
    if (err) {
        /* Arguments may point into the old message, so it is replaced only once the new one is whole. */
        char message[sizeof err->message];
        va_list arguments;

        va_start(arguments, format);
        format_line(message, sizeof message, format, arguments);
        va_end(arguments);
        memcpy(err->message, message, sizeof message);
        err->code = code;
        err->hint[0] = '\0';
    }
    return code;
}

void esp_error_set_hint(esp_error *err, const char *format, ...)
{
    char hint[sizeof err->hint];
    va_list arguments;

    if (!err)
        return;
    va_start(arguments, format);
    format_line(hint, sizeof hint, format, arguments);
    va_end(arguments);
    memcpy(err->hint, hint, sizeof hint);
}

void esp_error_prefix(esp_error *err, const char *format, ...)
{
    char prefix[sizeof err->message];
    char message[sizeof err->message];
    va_list arguments;
    size_t length;

    if (!err)
        return;
    va_start(arguments, format);
    format_line(prefix, sizeof prefix, format, arguments);
    va_end(arguments);
    memcpy(message, err->message, sizeof message);
    length = strlen(prefix) + 2;
    if (length + strlen(message) < sizeof err->message) {
        memcpy(err->message, prefix, length - 2);
        memcpy(err->message + length - 2, ": ", 2);
        memcpy(err->message + length, message, strlen(message) + 1);
        return;
    }
    /* Too long together: the cause matters more than the end of a long place name. */
    esp_status code = err->code;
    char hint[sizeof err->hint];
    memcpy(hint, err->hint, sizeof hint);
    esp_fail(err, code, "%.*s: %s",
             (int)whole_characters(prefix, strlen(prefix) < 200 ? strlen(prefix) : 200), prefix, message);
    memcpy(err->hint, hint, sizeof hint);
}

esp_status esp_fail_memory(esp_error *err, const char *what, size_t bytes)
{
    return esp_fail(err, ESP_NO_MEMORY, "%s: out of memory, %zu bytes were needed", what, bytes);
}
