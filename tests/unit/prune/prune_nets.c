/* The structure of the two networks is what matters; weights are random unless a test sets them. */
#include "unit/prune/prune_nets.h"

#include <string.h>

#include "unit/base/scratch.h"

esp_graph *net_with_values(esp_graph *take_graph, const char *constant, const float *values)
{
    esp_error err = {0};
    int value = esp_graph_find_value(take_graph, constant);
    esp_tensor *tensor = NULL;
    esp_graph *changed = NULL;

    assert_true(value >= 0);
    expect_ok(esp_tensor_from(ESP_F32, esp_tensor_shape(esp_graph_value(take_graph, value)->constant), values,
                              &tensor, &err),
              &err);
    expect_ok(esp_graph_with_constants(take_graph, 1, &value, &tensor, &changed, &err), &err);
    esp_tensor_unref(tensor);
    esp_graph_unref(take_graph);
    return changed;
}

const char *net_weight_name(const esp_graph *graph, const char *node)
{
    int index = esp_graph_find_node(graph, node);

    assert_true(index >= 0);
    return esp_graph_value(graph, esp_graph_node(graph, index)->inputs[1])->name;
}

static net_tensor conv_norm(net *n, net_tensor x, int64_t filters, int64_t kernel, int64_t stride)
{
    return net_norm(n, net_conv(n, x, filters,
                                (net_conv_options){.kernel = kernel, .stride = stride, .pad = kernel / 2}));
}

esp_graph *net_residual(uint64_t seed)
{
    net_tensor x, y, z;
    net n = net_start(3, 8, 8, seed, &x);

    x = net_unary(&n, "Relu", conv_norm(&n, x, 6, 3, 1));
    y = net_unary(&n, "Relu", conv_norm(&n, x, 6, 3, 1));
    y = conv_norm(&n, y, 6, 3, 1);
    x = net_unary(&n, "Relu", net_binary(&n, "Add", x, y));
    y = net_unary(&n, "Relu", conv_norm(&n, x, 8, 3, 2));
    y = conv_norm(&n, y, 8, 3, 1);
    z = conv_norm(&n, x, 8, 1, 2);
    x = net_unary(&n, "Relu", net_binary(&n, "Add", y, z));
    x = net_flatten(&n, net_global(&n, x));
    net_output(&n, net_fc(&n, x, 5, NET_GEMM_TRANSPOSED));
    return net_finish(&n);
}

esp_graph *net_chain(net_fc_form form, uint64_t seed)
{
    net_tensor x;
    net n = net_start(2, 4, 4, seed, &x);

    x = net_unary(&n, "Relu", net_conv3(&n, x, 4));
    x = net_unary(&n, "Relu", net_conv3(&n, x, 3));
    x = net_flatten(&n, net_pool(&n, "MaxPool", x, 2, 2, 0));
    x = net_unary(&n, "Relu", net_fc(&n, x, 6, form));
    net_output(&n, net_fc(&n, x, 5, form));
    return net_finish(&n);
}

esp_preview *preview_of(const esp_graph *graph, const esp_plan *plan, esp_grouping_cache *cache)
{
    esp_error err = {0};
    esp_preview *preview = NULL;

    expect_ok(esp_preview_new(NULL, graph, plan, NULL, 0, cache, &preview, &err), &err);
    return preview;
}

int preview_layer(const esp_preview *preview, const char *node)
{
    int layer = esp_layers_find(&preview->layers, node);

    if (layer < 0)
        fail_msg("no layer '%s'", node);
    return layer;
}

const char *mask_text(const esp_mask *mask)
{
    static char buffers[4][4096];
    static int next;
    char *text = buffers[next++ % 4], *end = text;

    assert_true((size_t)(mask->filters * (mask->channels + 1)) < sizeof *buffers);
    for (int64_t f = 0; f < mask->filters; f++) {
        esp_mask_row_text(mask, f, end);
        end += mask->channels;
        *end++ = ' ';
    }
    end[-1] = '\0';
    return text;
}
