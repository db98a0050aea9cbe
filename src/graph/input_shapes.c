/* Reads what people write for the sizes a file leaves open: "x:1x3x48x192", or "1x3x48x192" for the first
 * input. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "graph/infer.h"

#define NAMES_MAX 32 /* that are looked through for a similar one */

static bool parse_shape(const char *text, esp_shape *out)
{
    out->rank = 0;
    while (*text) {
        char *end = NULL;
        long long dim = strtoll(text, &end, 10);
        if (end == text || dim < 1 || out->rank == ESP_MAX_RANK || (*end != 0 && *end != 'x'))
            return false;
        out->dims[out->rank++] = dim;
        if (*end == 'x' && end[1] == 0)
            return false;
        text = *end ? end + 1 : end;
    }
    return out->rank > 0;
}

static esp_status find_input(const esp_graph *graph, const char *item, size_t length, const char **out,
                             esp_error *err)
{
    const char *names[NAMES_MAX];
    size_t count = 0;
    char word[96];

    for (int i = 0; i < esp_graph_input_count(graph); i++) {
        const char *name = esp_graph_value(graph, esp_graph_input(graph, i))->name;
        if (strlen(name) == length && memcmp(name, item, length) == 0) {
            *out = name;
            return ESP_OK;
        }
        if (count < NAMES_MAX)
            names[count++] = name;
    }
    snprintf(word, sizeof word, "%.*s", (int)length, item);
    esp_status status = esp_fail(err, ESP_INVALID, "--input: the model has no input '%s'", word);
    const char *nearest = esp_nearest_word(word, names, count);
    esp_error_set_hint(err, "its first input is '%s'", nearest ? nearest : count ? names[0] : "");
    return status;
}

esp_status esp_input_shapes_parse(const char *const *items, int item_count, const esp_graph *graph,
                                  esp_input_shape *shapes, int *out_count, esp_error *err)
{
    *out_count = 0;
    if (item_count > ESP_INPUT_SHAPES_MAX)
        return esp_fail(err, ESP_INVALID, "--input: given more than %d times", ESP_INPUT_SHAPES_MAX);
    for (int i = 0; i < item_count; i++) {
        const char *item = items[i];
        const char *colon = strrchr(item, ':');
        esp_status status = ESP_OK;
        if (!parse_shape(colon ? colon + 1 : item, &shapes[i].shape))
            return esp_fail(err, ESP_INVALID, "--input: found '%s', expected NAME:1x3x224x224", item);
        if (!colon && esp_graph_input_count(graph) > 0)
            shapes[i].name = esp_graph_value(graph, esp_graph_input(graph, 0))->name;
        else
            status = find_input(graph, item, colon ? (size_t)(colon - item) : 0, &shapes[i].name, err);
        if (status != ESP_OK)
            return status;
    }
    *out_count = item_count;
    return ESP_OK;
}
