/* The nearest candidate goes into the message, because there is often only one line to show; the list goes
 * into the hint, the nearest in front since not all of a long list fits. */
#include "base/unknown.h"

#include <string.h>

#include "base/text.h"

static bool is_divider(char c)
{
    return c == '\0' || c == '/' || c == '.';
}

/* Exporters write one name as layer2.0.conv1 or /layer2/layer2.0/conv1/Conv: both dividers are the same. */
static bool begins_with(const char *text, const char *part, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (text[i] != part[i] && !(text[i] && is_divider(text[i]) && is_divider(part[i])))
            return false;
    return is_divider(text[length]);
}

/* Whether `part` is some of the components of a path, in a row. */
static bool has_components(const char *path, const char *part)
{
    size_t length = strlen(part), path_length = strlen(path);

    for (size_t i = 0; length && i + length <= path_length; i++)
        if ((i == 0 || is_divider(path[i - 1])) && begins_with(path + i, part, length))
            return true;
    return false;
}

static const char *find_nearest(const char *word, const char *const *candidates, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (candidates[i] && has_components(candidates[i], word))
            return candidates[i];
    return esp_nearest_word(word, candidates, count);
}

esp_status esp_fail_unknown(esp_error *err, const char *what, const char *word, const char *const *candidates,
                            size_t count)
{
    const char *nearest = find_nearest(word, candidates, count);
    esp_text list = {0};

    if (nearest)
        esp_fail(err, ESP_INVALID, "unknown %s '%s', did you mean '%s'?", what, word, nearest);
    else
        esp_fail(err, ESP_INVALID, "unknown %s '%s'", what, word);
    if (nearest)
        esp_text_append(&list, nearest);
    for (size_t i = 0; i < count; i++)
        if (candidates[i] != nearest)
            esp_text_printf(&list, "%s%s", list.length ? ", " : "", candidates[i]);
    if (!list.is_broken && list.data)
        esp_error_set_hint(err, "known: %s", list.data);
    esp_text_free(&list);
    return ESP_INVALID;
}
