/* A 1x1 convolution and the average pooling behind it commute: both are linear, one over channels, the other
 * over space. Pooling first leaves the convolution a fraction of the positions (DenseNet's transitions). The
 * two steps change places; the value between them becomes the pooled input. */
#include "graph/fuse.h"
#include "graph/ops.h"

static bool is_plain_pointwise(const esp_join *join)
{
    const esp_step *conv = join->first;
    const esp_view *values = join->compiler->program->values;
    const esp_shape *x = &values[conv->inputs[ESP_CONV_X]].shape;
    const esp_shape *w = &values[conv->inputs[ESP_CONV_WEIGHT]].shape;
    const esp_shape *y = &values[conv->outputs[0]].shape;
    return w->dims[2] == 1 && w->dims[3] == 1 && x->dims[2] == y->dims[2] && x->dims[3] == y->dims[3];
}

/* Every window lies inside the image, so its weights add up to one. */
static bool is_unpadded(const esp_join *join)
{
    const esp_step *pool = join->second;
    const esp_node *node = esp_graph_node(join->compiler->graph, pool->node);
    const esp_shape *x = &join->compiler->program->values[pool->inputs[0]].shape;
    esp_window window;
    bool is_ceil = esp_node_int(node, "ceil_mode", 0) != 0;
    if (esp_op_window(node, x, NULL, is_ceil, &window, NULL) != ESP_OK)
        return false;
    for (int i = 0; i < 2; i++) {
        int64_t reach = (window.out[i] - 1) * window.stride[i] + (window.kernel[i] - 1) * window.dilation[i];
        if (window.pad_begin[i] != 0 || window.pad_end[i] != 0 || reach >= x->dims[2 + i])
            return false;
    }
    return true;
}

/* The image between the two, pooled before it is convolved. */
static esp_view pooled_input(const esp_join *join)
{
    const esp_view *values = join->compiler->program->values;
    esp_view pooled = values[join->second->outputs[0]];
    pooled.shape.dims[1] = values[join->first->inputs[ESP_CONV_X]].shape.dims[1];
    return pooled;
}

/* Whether the convolution has a blocked form at the smaller size too. */
static bool is_blocked_behind(const esp_join *join)
{
    const esp_step *conv = join->first;
    esp_op_layouts layouts;
    esp_view x = pooled_input(join);
    esp_view y = join->compiler->program->values[join->second->outputs[0]];
    const esp_view *inputs[ESP_CONV_RESIDUAL] = {&x};
    esp_view *outputs[1] = {&y};
    esp_op_context context = conv->context;
    for (int i = 1; i < conv->input_count; i++)
        inputs[i] = conv->inputs[i] < 0 ? NULL : &join->compiler->program->values[conv->inputs[i]];
    context.inputs = inputs;
    context.outputs = outputs;
    return conv->op->blocks(&context, &layouts) && esp_bit(layouts.blocked_inputs, ESP_CONV_X);
}

static bool fits_conv_pool(const esp_join *join)
{
    const esp_step *conv = join->first, *pool = join->second;
    return esp_fuse_is_conv(conv) && esp_bit(conv->layouts.blocked_inputs, ESP_CONV_X) &&
           conv->input_count <= ESP_CONV_RESIDUAL && !conv->fused.clips && pool->is_blocked &&
           pool->op->prepare == esp_op_pool_prepare && pool->op->forward == esp_op_average_pool_forward &&
           is_plain_pointwise(join) && is_unpadded(join) && is_blocked_behind(join);
}

/* The inputs' arrays are the steps' own, so they are simply written. */
static void swap_conv_pool(const esp_join *join, esp_step *first, esp_step *second)
{
    int middle = join->first->outputs[0], x = join->first->inputs[ESP_CONV_X];
    join->compiler->program->values[middle].shape = pooled_input(join).shape;
    *first = *join->second;
    *second = *join->first;
    first->inputs[0] = x;
    second->inputs[ESP_CONV_X] = middle;
    int *outputs = first->outputs;
    first->outputs = second->outputs;
    second->outputs = outputs;
}

const esp_fusion esp_fuse_conv_pool = {.fits = fits_conv_pool, .swap = swap_conv_pool};
