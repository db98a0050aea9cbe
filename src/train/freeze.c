/* Which constants a list of layer patterns freezes. A pattern is matched against the names of nodes that have
 * parameters ("/layer1/conv1/Conv") and of the parameters themselves ("layer1.0.bn1.weight"), since people
 * know the one or the other; a node stands for all its parameters, running statistics included. */
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "base/unknown.h"
#include "train/optimizer.h"

/* Marks what one pattern names; returns how many parameters that were. */
static int freeze_by(const esp_graph *graph, esp_params *params, const char *pattern, bool *frozen)
{
    int count = 0;
    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        const esp_node *node = esp_graph_node(graph, n);
        bool is_named = esp_glob_match(pattern, node->name);
        for (int i = 0; i < node->input_count; i++) {
            int p = node->inputs[i] < 0 ? -1 : esp_params_find(params, node->inputs[i]);
            if (p >= 0 && (is_named || esp_glob_match(pattern, esp_params_at(params, p)->name))) {
                frozen[p] = true;
                count++;
            }
        }
    }
    return count;
}

static bool has_params(const esp_params *params, const esp_node *node)
{
    for (int i = 0; i < node->input_count; i++) {
        if (node->inputs[i] >= 0 && esp_params_find(params, node->inputs[i]) >= 0) {
            return true;
        }
    }
    return false;
}

/* Names the nearest of all nodes and constants that could have been meant. Stars only blur the comparison. */
static esp_status fail_pattern(const esp_graph *graph, esp_params *params, const char *pattern,
                               esp_error *err)
{
    int nodes = esp_graph_node_count(graph), param_count = esp_params_count(params);
    size_t most = (size_t)nodes + (size_t)param_count, count = 0;
    const char **names = esp_alloc(most, sizeof(*names));
    char *word = esp_strdup(pattern);
    esp_status status = ESP_OK;
    if (names == NULL || word == NULL) {
        status = esp_fail_memory(err, "names of layers", most * sizeof(*names));
    } else {
        for (int n = 0; n < nodes; n++) {
            if (has_params(params, esp_graph_node(graph, n))) {
                names[count++] = esp_graph_node(graph, n)->name;
            }
        }
        for (int p = 0; p < param_count; p++) {
            names[count++] = esp_params_at(params, p)->name;
        }
        size_t length = 0;
        for (const char *letter = pattern; *letter != 0; letter++) {
            if (*letter != '*') {
                word[length++] = *letter;
            }
        }
        word[length] = 0;
        status = esp_fail_unknown(err, "layer to freeze", word, names, count);
    }
    esp_free(names);
    esp_free(word);
    return status;
}

esp_status esp_freeze_find(const esp_graph *graph, esp_params *params, const char *const *patterns, int count,
                           bool *frozen, esp_error *err)
{
    for (int i = 0; i < count; i++) {
        if (freeze_by(graph, params, patterns[i], frozen) == 0) {
            return fail_pattern(graph, params, patterns[i], err);
        }
    }
    return ESP_OK;
}
