/* See group_nets.h. */
#include "unit/graph/group_nets.h"

#include "unit/graph/block_nets.h"

int group_gather(const group_layer *at, int first, int step, int *count)
{
    int64_t list[64];
    esp_tensor *tensor;
    esp_error err = {0};
    *count = 0;
    for (int c = first; c < at->channels; c += step) {
        list[*count] = *count % 3 == 2 ? c - at->channels : c; /* some counted from the end */
        ++*count;
    }
    esp_shape shape = S1(*count);
    must(esp_tensor_from(ESP_I64, &shape, list, &tensor, &err), &err);
    return net_add(at->n, "Gather", IN(at->x, net_tensor(at->n, tensor)), AT(esp_attr_int("axis", 1)));
}

int group_convolve(const group_layer *at, int x, int channels, int filters)
{
    int pad = at->kernel / 2;
    int w = net_constant(at->n, S4(filters, channels, at->kernel, at->kernel), NULL);
    int b = at->has_bias ? net_constant(at->n, S1(filters), NULL) : NET_NONE;
    return net_add(at->n, "Conv", IN(x, w, b),
                   AT(INTS("pads", pad, pad, pad, pad), INTS("strides", at->stride, at->stride)));
}

int group_branch(const group_layer *at, int first, int step, int filters)
{
    int count, chosen = group_gather(at, first, step, &count);
    return group_convolve(at, chosen, count, filters);
}

int group_reorder(const group_layer *at, int y, int filters)
{
    int64_t list[64];
    esp_tensor *tensor;
    esp_error err = {0};
    for (int i = 0; i < filters; i++)
        list[i] = (i * 7 + 3) % filters; /* 7 and filters share no divisor */
    esp_shape shape = S1(filters);
    must(esp_tensor_from(ESP_I64, &shape, list, &tensor, &err), &err);
    return net_add(at->n, "Gather", IN(y, net_tensor(at->n, tensor)), AT(esp_attr_int("axis", 1)));
}

int group_uneven(const group_layer *at)
{
    int a = group_branch(at, 0, 2, 3), b = group_branch(at, 1, 3, 12), c = group_branch(at, 2, 19, 5);
    return block_concat(at->n, IN(a, b, c));
}

void group_flatten(group_layer *at)
{
    int pooled = net_add(at->n, "GlobalAveragePool", IN(at->x), NULL);
    at->x = net_add(at->n, "Flatten", IN(pooled), AT(esp_attr_int("axis", 1)));
}

int group_dense_branch(const group_layer *at, int first, int step, int filters, bool is_usual)
{
    int count, chosen = group_gather(at, first, step, &count);
    int w = is_usual ? net_constant(at->n, S2(filters, count), NULL)
                     : net_constant(at->n, S2(count, filters), NULL);
    int b = at->has_bias ? net_constant(at->n, S1(filters), NULL) : NET_NONE;
    return net_add(at->n, "Gemm", IN(chosen, w, b), AT(esp_attr_int("transB", is_usual)));
}
