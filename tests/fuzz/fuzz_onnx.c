/* Any bytes as an ONNX model: an error or a graph, and a graph can be counted, compiled for, written and read
 * again. What reading may fold is bounded (graph/infer.c), what running would take is not: nothing runs here.
 */
#include <stdint.h>
#include <stdlib.h>

#include "base/memory.h"
#include "graph/layers.h"
#include "io/onnx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void count_graph(const esp_graph *graph)
{
    esp_inferred *inferred;
    esp_counts counts;
    esp_error err = {0};

    if (esp_infer(graph, 1, NULL, 0, &inferred, &err) != ESP_OK)
        return;
    (void)!esp_graph_count(graph, inferred, &counts, &err);
    esp_inferred_free(inferred);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    esp_graph *graph, *again;
    esp_error err = {0};
    void *bytes;
    size_t written;

    if (esp_onnx_parse(data, size, "fuzz", &graph, &err) != ESP_OK) {
        if (err.message[0] == '\0')
            abort();
        return 0;
    }
    count_graph(graph);
    if (esp_onnx_serialize(graph, &bytes, &written, &err) == ESP_OK) {
        if (esp_onnx_parse(bytes, written, "again", &again, &err) != ESP_OK)
            abort();
        esp_graph_unref(again);
        esp_free(bytes);
    }
    esp_graph_unref(graph);
    return 0;
}
