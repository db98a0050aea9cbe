/* The nearest candidate goes into the message, because there is often only one line to show; the list goes
 * into the hint. */
#include "base/unknown.h"

#include "base/text.h"

esp_status esp_fail_unknown(esp_error *err, const char *what, const char *word, const char *const *candidates,
                            size_t count)
{
    const char *nearest = esp_nearest_word(word, candidates, count);
    esp_text list = {0};

    if (nearest)
        esp_fail(err, ESP_INVALID, "unknown %s '%s', did you mean '%s'?", what, word, nearest);
    else
        esp_fail(err, ESP_INVALID, "unknown %s '%s'", what, word);
    for (size_t i = 0; i < count; i++)
        esp_text_printf(&list, "%s%s", i ? ", " : "", candidates[i]);
    if (!list.is_broken && list.data)
        esp_error_set_hint(err, "known: %s", list.data);
    esp_text_free(&list);
    return ESP_INVALID;
}
