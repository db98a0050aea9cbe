/* Names in a model: what ONNX allows in them and what is taken. They go to JSON, to Lua, to terminals and
 * into plans, so they must be UTF-8; a file with others is refused with the place, since changing a name
 * could make two of them equal. */
#include "io/onnx_internal.h"

#include <stdio.h>
#include <string.h>

/* Bytes of the character that begins here, 0 when it is none: RFC 3629, without surrogates and overlong
 * forms. */
static size_t utf8_length(const unsigned char *text)
{
    uint32_t code;
    size_t length = text[0] < 0x80                      ? 1
                    : text[0] >= 0xc2 && text[0] < 0xe0 ? 2
                    : text[0] >= 0xe0 && text[0] < 0xf0 ? 3
                    : text[0] >= 0xf0 && text[0] < 0xf5 ? 4
                                                        : 0;

    if (length < 2)
        return length;
    code = text[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80) /* a zero byte too */
            return 0;
        code = code << 6 | (text[i] & 0x3fu);
    }
    bool is_short = (length == 3 && code < 0x800) || (length == 4 && (code < 0x10000 || code > 0x10ffff));
    return is_short || (code >= 0xd800 && code < 0xe000) ? 0 : length;
}

bool esp_onnx_is_utf8(const char *text)
{
    const unsigned char *at = (const unsigned char *)text;

    while (*at) {
        size_t length = utf8_length(at);

        if (length == 0)
            return false;
        at += length;
    }
    return true;
}

esp_status esp_onnx_check_name(const char *what, const char *name, esp_error *err)
{
    char shown[128];
    size_t length = 0;

    if (!name || esp_onnx_is_utf8(name))
        return ESP_OK;
    for (const char *at = name; *at && length + 8 < sizeof shown; at++) {
        unsigned char byte = (unsigned char)*at;

        length += (size_t)snprintf(shown + length, sizeof shown - length,
                                   byte >= 0x20 && byte < 0x7f ? "%c" : "\\x%02x", byte);
    }
    return esp_fail(err, ESP_FORMAT, "%s '%s' is not UTF-8, expected a name in UTF-8", what, shown);
}

bool esp_onnx_is_default_domain(const char *domain)
{
    return !domain || domain[0] == '\0' || strcmp(domain, "ai.onnx") == 0;
}
