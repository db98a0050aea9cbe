/* Every operator's backward pass against finite differences (gradient_check.h). Rows have their cases here or in
 * one of the lists gradient_check.h names. */
#include "unit/graph/gradient_check.h"

/* ---- networks ---- */

static void build_conv(net *n)
{
    int x = net_input(n, "x", S4(2, 4, 5, 6));
    net_output(n,
               net_add(n, "Conv", IN(x, net_constant(n, S4(6, 2, 3, 2), NULL), net_constant(n, S1(6), NULL)),
                       AT(INTS("strides", 2, 1), INTS("pads", 1, 0, 2, 1), INTS("dilations", 1, 2),
                          esp_attr_int("group", 2))));
}

static void build_conv_same(net *n)
{
    int x = net_input(n, "x", S4(1, 2, 5, 5));
    int w = net_constant(n, S4(3, 2, 2, 2), NULL);
    int upper =
        net_add(n, "Conv", IN(x, w), AT(esp_attr_string("auto_pad", "SAME_UPPER"), INTS("strides", 2, 2)));
    int lower =
        net_add(n, "Conv", IN(x, w), AT(esp_attr_string("auto_pad", "SAME_LOWER"), INTS("strides", 2, 2)));
    net_output(n, net_add(n, "Add", IN(upper, lower), NULL)); /* one weight, two readers */
}

static void build_depthwise(net *n)
{
    int x = net_input(n, "x", S4(2, 3, 5, 5));
    net_output(n,
               net_add(n, "Conv", IN(x, net_constant(n, S4(3, 1, 3, 3), NULL), net_constant(n, S1(3), NULL)),
                       AT(INTS("pads", 1, 1, 1, 1), esp_attr_int("group", 3))));
}

/* Weights that are data: no constant anywhere. */
static void build_conv_of_data(net *n)
{
    int x = net_input(n, "x", S4(1, 2, 4, 4)), w = net_input(n, "w", S4(2, 2, 3, 3)),
        b = net_input(n, "b", S1(2));
    net_output(n, net_add(n, "Conv", IN(x, w, b), NULL));
}

/* Only the bias is trainable or wanted: the weight is folded from shapes. */
static void build_conv_bias_only(net *n)
{
    int x = net_input(n, "x", S4(1, 1, 2, 2));
    esp_tensor *half = tensor_f32(S1(1), (const float[]){0.5f});
    esp_attr value = {.name = "value", .type = ESP_ATTR_TENSOR, .tensor = half};
    int w = net_add(n, "ConstantOfShape", IN(net_ints(n, 4, 2, 1, 3, 3)), AT(value));
    int data = net_add(n, "ConstantOfShape", IN(net_ints(n, 4, 1, 1, 4, 4)), AT(value));
    int y = net_add(n, "Conv", IN(data, w, net_constant(n, S1(2), NULL)), NULL);
    net_output(n, net_add(n, "Mul", IN(y, x), NULL));
    esp_tensor_unref(half);
}

static void build_gemm(net *n)
{
    int x = net_input(n, "x", S2(4, 3));
    net_output(n, net_add(n, "Gemm", IN(x, net_constant(n, S2(5, 3), NULL), net_constant(n, S1(5), NULL)),
                          AT(esp_attr_int("transB", 1), esp_attr_float("alpha", 0.5f),
                             esp_attr_float("beta", 2.0f))));
}

static void build_gemm_transposed(net *n)
{
    int x = net_input(n, "x", S2(3, 4)), b = net_input(n, "b", S2(3, 5));
    net_output(n,
               net_add(n, "Gemm", IN(x, b, net_constant(n, S2(4, 1), NULL)), AT(esp_attr_int("transA", 1))));
}

static void build_gemm_both_transposed(net *n)
{
    int x = net_input(n, "x", S2(3, 4)), b = net_input(n, "b", S2(5, 3));
    net_output(n, net_add(n, "Gemm", IN(x, b), AT(esp_attr_int("transA", 1), esp_attr_int("transB", 1))));
}

static void build_matmul(net *n)
{
    int x = net_input(n, "x", S3(2, 3, 4));
    net_output(n, net_add(n, "MatMul", IN(x, net_constant(n, S2(4, 5), NULL)), NULL));
}

static void build_matmul_broadcast(net *n)
{
    int a = net_input(n, "a", S4(2, 1, 3, 4)), b = net_input(n, "b", S3(3, 4, 2));
    net_output(n, net_add(n, "MatMul", IN(a, b), NULL));
}

static void build_matmul_vectors(net *n)
{
    int a = net_input(n, "a", S1(4)), b = net_input(n, "b", S3(2, 4, 3)), c = net_input(n, "c", S1(3));
    net_output(n, net_add(n, "MatMul", IN(net_add(n, "MatMul", IN(a, b), NULL), c), NULL));
}

static void build_norm(net *n)
{
    int x = net_input(n, "x", S4(3, 2, 2, 3));
    net_output(n, net_add(n, "BatchNormalization",
                          IN(x, net_positive(n, S1(2)), net_constant(n, S1(2), NULL),
                             net_constant(n, S1(2), NULL), net_positive(n, S1(2))),
                          AT(esp_attr_float("epsilon", 1e-3f))));
}

static void build_norm_of_rows(net *n)
{
    int x = net_input(n, "x", S2(6, 3));
    net_output(n, net_add(n, "BatchNormalization",
                          IN(x, net_positive(n, S1(3)), net_constant(n, S1(3), NULL),
                             net_constant(n, S1(3), NULL), net_positive(n, S1(3))),
                          NULL));
}

static void build_dropout(net *n)
{
    int x = net_input(n, "x", S2(4, 8));
    net_output(n, net_add(n, "Dropout", IN(x), AT(esp_attr_float("ratio", 0.4f))));
}

static void build_dropout_12(net *n)
{
    int x = net_input(n, "x", S2(4, 8));
    esp_shape scalar = {0};
    int ratio = net_tensor(n, tensor_f32(scalar, (const float[]){0.3f}));
    net_output(n, net_add(n, "Dropout", IN(x, ratio), NULL));
}

static void build_max_pool(net *n)
{
    int x = net_input(n, "x", S4(2, 2, 5, 5));
    net_output(n, net_add(n, "MaxPool", IN(x),
                          AT(INTS("kernel_shape", 3, 2), INTS("strides", 2, 1), INTS("pads", 1, 0, 1, 1))));
}

static void build_max_pool_ceil(net *n)
{
    int x = net_input(n, "x", S4(1, 2, 6, 6));
    net_output(n, net_add(n, "MaxPool", IN(x),
                          AT(INTS("kernel_shape", 2, 2), INTS("strides", 3, 3), INTS("dilations", 2, 2),
                             esp_attr_int("ceil_mode", 1))));
}

static void build_average_pool(net *n)
{
    int x = net_input(n, "x", S4(2, 2, 5, 5));
    net_output(n, net_add(n, "AveragePool", IN(x),
                          AT(INTS("kernel_shape", 3, 3), INTS("strides", 2, 2), INTS("pads", 1, 1, 1, 1))));
}

static void build_average_pool_counting(net *n)
{
    int x = net_input(n, "x", S4(1, 2, 6, 5));
    net_output(n, net_add(n, "AveragePool", IN(x),
                          AT(INTS("kernel_shape", 3, 2), INTS("strides", 2, 2), INTS("pads", 1, 1, 1, 0),
                             esp_attr_int("count_include_pad", 1), esp_attr_int("ceil_mode", 1))));
}

static void build_global_max(net *n)
{
    net_output(n, net_add(n, "GlobalMaxPool", IN(net_input(n, "x", S4(2, 3, 3, 4))), NULL));
}

static void build_global_average(net *n)
{
    net_output(n, net_add(n, "GlobalAveragePool", IN(net_input(n, "x", S4(2, 3, 3, 4))), NULL));
}

static void build_reduce_mean(net *n)
{
    int x = net_input(n, "x", S4(2, 3, 3, 4));
    net_output(n, net_add(n, "ReduceMean", IN(x), AT(INTS("axes", -1, 2), esp_attr_int("keepdims", 0))));
}

static void build_reduce_mean_middle(net *n)
{
    int x = net_input(n, "x", S4(2, 3, 3, 4));
    net_output(n, net_add(n, "ReduceMean", IN(x, net_ints(n, 2, 0, 2)), NULL));
}

static void build_unary(net *n, const char *op, const esp_attr *attrs)
{
    net_output(n, net_add(n, op, IN(net_input(n, "x", S2(3, 7))), attrs));
}

static void build_relu(net *n)
{
    build_unary(n, "Relu", NULL);
}

static void build_clip(net *n)
{
    build_unary(n, "Clip", AT(esp_attr_float("min", -0.5f), esp_attr_float("max", 0.5f)));
}

static void build_clip_11(net *n)
{
    esp_shape scalar = {0};
    int x = net_input(n, "x", S2(3, 7));
    int low = net_tensor(n, tensor_f32(scalar, (const float[]){-0.5f}));
    int high = net_tensor(n, tensor_f32(scalar, (const float[]){0.5f}));
    int both = net_add(n, "Clip", IN(x, low, high), NULL);
    net_output(n, net_add(n, "Add", IN(both, net_add(n, "Clip", IN(x, NET_NONE, high), NULL)), NULL));
}

static void build_sigmoid(net *n)
{
    build_unary(n, "Sigmoid", NULL);
}

static void build_hard_sigmoid(net *n)
{
    build_unary(n, "HardSigmoid", AT(esp_attr_float("alpha", 1.0f))); /* kinks at -0.5 and 0.5 */
}

static void build_tanh(net *n)
{
    build_unary(n, "Tanh", NULL);
}

static void build_exp(net *n)
{
    build_unary(n, "Exp", NULL);
}

static void build_sqrt(net *n)
{
    build_unary(n, "Sqrt", NULL);
}

static void build_neg(net *n)
{
    build_unary(n, "Neg", NULL);
}

static void build_binary(net *n, const char *op)
{
    int a = net_input(n, "a", S3(2, 3, 4)), b = net_input(n, "b", S2(3, 1)),
        c = net_input(n, "c", S3(2, 3, 4));
    int wide = net_add(n, op, IN(a, b), NULL), narrow = net_add(n, op, IN(b, a), NULL);
    net_output(n, net_add(n, op, IN(net_add(n, op, IN(wide, c), NULL), narrow), NULL));
}

static void build_add(net *n)
{
    build_binary(n, "Add");
}

static void build_sub(net *n)
{
    build_binary(n, "Sub");
}

static void build_mul(net *n)
{
    build_binary(n, "Mul");
}

static void build_div(net *n)
{
    build_binary(n, "Div");
}

static void build_sum(net *n)
{
    int a = net_input(n, "a", S2(3, 1)), b = net_input(n, "b", S3(2, 1, 4)),
        c = net_input(n, "c", S3(2, 3, 4));
    net_output(n, net_add(n, "Sum", IN(a, b, c, a), NULL));
}

static void build_softmax(net *n)
{
    net_output(n, net_add(n, "Softmax", IN(net_input(n, "x", S3(2, 3, 4))), NULL));
}

static void build_softmax_middle(net *n)
{
    net_output(n, net_add(n, "Softmax", IN(net_input(n, "x", S3(2, 3, 4))), AT(esp_attr_int("axis", 1))));
}

static void build_log_softmax(net *n)
{
    net_output(n, net_add(n, "LogSoftmax", IN(net_input(n, "x", S3(2, 3, 4))), NULL));
}

static void build_log_softmax_middle(net *n)
{
    net_output(n, net_add(n, "LogSoftmax", IN(net_input(n, "x", S3(2, 3, 4))), AT(esp_attr_int("axis", -2))));
}

static void build_identity(net *n)
{
    net_output(n, net_add(n, "Identity", IN(net_input(n, "x", S3(2, 3, 4))), NULL));
}

static void build_flatten(net *n)
{
    net_output(n, net_add(n, "Flatten", IN(net_input(n, "x", S3(2, 3, 4))), AT(esp_attr_int("axis", 2))));
}

/* The view's input has other readers too, before and after it. */
static void build_reshape(net *n)
{
    int x = net_input(n, "x", S3(2, 3, 4));
    int a = net_add(n, "Tanh", IN(x), NULL);
    int early = net_add(n, "Mul", IN(a, a), NULL);
    int view = net_add(n, "Reshape", IN(a, net_ints(n, 3, 0, -1, 3)), NULL);
    int late = net_add(n, "Exp", IN(a), NULL);
    int back =
        net_add(n, "Reshape", IN(net_add(n, "Sigmoid", IN(view), NULL), net_ints(n, 3, 2, 3, 4)), NULL);
    net_output(n, net_add(n, "Sum", IN(early, back, late), NULL));
}

/* A trainable constant seen through a view beside its ordinary use. */
static void build_view_of_weight(net *n)
{
    int x = net_input(n, "x", S2(2, 6)), w = net_constant(n, S2(6, 4), NULL);
    int y = net_add(n, "MatMul", IN(x, w), NULL);
    int v = net_add(n, "Reshape", IN(w, net_ints(n, 2, 4, 6)), NULL);
    int s = net_add(n, "ReduceMean", IN(v), AT(INTS("axes", 1), esp_attr_int("keepdims", 0)));
    net_output(n, net_add(n, "Add", IN(y, s), NULL));
}

static void build_squeeze(net *n)
{
    net_output(n, net_add(n, "Squeeze", IN(net_input(n, "x", S4(2, 1, 3, 1))), AT(INTS("axes", 1, -1))));
}

static void build_squeeze_13(net *n)
{
    net_output(n, net_add(n, "Squeeze", IN(net_input(n, "x", S4(2, 1, 3, 1))), NULL));
}

static void build_unsqueeze(net *n)
{
    net_output(n, net_add(n, "Unsqueeze", IN(net_input(n, "x", S2(2, 3))), AT(INTS("axes", 0, 3))));
}

static void build_unsqueeze_13(net *n)
{
    net_output(n, net_add(n, "Unsqueeze", IN(net_input(n, "x", S2(2, 3)), net_ints(n, 1, -1)), NULL));
}

static void build_cast(net *n)
{
    net_output(n, net_add(n, "Cast", IN(net_input(n, "x", S2(2, 3))), AT(esp_attr_int("to", 1))));
}

static void build_concat(net *n)
{
    int a = net_input(n, "a", S3(2, 1, 3)), b = net_input(n, "b", S3(2, 2, 3));
    net_output(n, net_add(n, "Concat", IN(a, b, a), AT(esp_attr_int("axis", -2))));
}

static void build_transpose(net *n)
{
    net_output(n,
               net_add(n, "Transpose", IN(net_input(n, "x", S4(2, 3, 2, 4))), AT(INTS("perm", 3, 1, 0, 2))));
}

static void build_slice(net *n)
{
    net_output(n, net_add(n, "Slice", IN(net_input(n, "x", S3(3, 5, 4))),
                          AT(INTS("starts", 1, -3), INTS("ends", 9, -1), INTS("axes", 1, 2))));
}

static void build_slice_10(net *n)
{
    int x = net_input(n, "x", S3(3, 5, 4));
    net_output(n, net_add(n, "Slice",
                          IN(x, net_ints(n, 2, -1, 0), net_ints(n, 2, -9, 4), net_ints(n, 2, 1, 2),
                             net_ints(n, 2, -2, 3)),
                          NULL));
}

static void build_pad(net *n)
{
    net_output(n, net_add(n, "Pad", IN(net_input(n, "x", S3(2, 3, 4))),
                          AT(INTS("pads", 0, 1, 2, 1, 0, -1), esp_attr_float("value", 3.0f))));
}

static void build_pad_11(net *n)
{
    net_output(n, net_add(n, "Pad", IN(net_input(n, "x", S2(3, 4)), net_ints(n, 4, 1, -1, 0, 2)), NULL));
}

static void build_pad_18(net *n)
{
    esp_shape scalar = {0};
    int value = net_tensor(n, tensor_f32(scalar, (const float[]){-2.0f}));
    net_output(n, net_add(n, "Pad",
                          IN(net_input(n, "x", S3(2, 3, 4)), net_ints(n, 2, 1, 2), value, net_ints(n, 1, -1)),
                          NULL));
}

static void build_gather(net *n)
{
    int x = net_input(n, "x", S3(2, 4, 3));
    net_output(n, net_add(n, "Gather", IN(x, net_ints(n, 5, 3, 0, -1, 1, 0)), AT(esp_attr_int("axis", 1))));
}

static void build_expand(net *n)
{
    int x = net_input(n, "x", S3(2, 1, 3));
    net_output(n, net_add(n, "Expand", IN(x, net_ints(n, 4, 2, 1, 4, 1)), NULL));
}

/* A residual block whose input has three readers, one of them the addition itself. */
static void build_residual(net *n)
{
    int x = net_input(n, "x", S4(2, 2, 4, 4));
    int stem = net_add(n, "Conv", IN(x, net_constant(n, S4(3, 2, 3, 3), NULL)), AT(INTS("pads", 1, 1, 1, 1)));
    int a = net_add(n, "Tanh", IN(stem), NULL);
    int b = net_add(n, "Conv", IN(a, net_constant(n, S4(3, 3, 3, 3), NULL)), AT(INTS("pads", 1, 1, 1, 1)));
    int c = net_add(n, "Sigmoid", IN(b), NULL);
    int sum = net_add(n, "Add", IN(c, a), NULL);
    int joined = net_add(n, "Concat", IN(sum, a, sum), AT(esp_attr_int("axis", 1)));
    net_output(n, net_add(n, "Mul", IN(joined, joined), NULL));
}

/* Two outputs, one of which is also read on the way to the other. */
static void build_two_outputs(net *n)
{
    int x = net_input(n, "x", S2(3, 4));
    int a = net_add(n, "Tanh", IN(x), NULL);
    int b = net_add(n, "Reshape", IN(a, net_ints(n, 2, 4, 3)), NULL);
    net_output(n, a);
    net_output(n, b);
    net_output(n, net_add(n, "Exp", IN(b), NULL));
}

static const gradient_case cases[] = {
    {"conv", 13, SIGNED, build_conv, false},
    {"conv with automatic padding", 13, SIGNED, build_conv_same, false},
    {"depthwise conv", 7, SIGNED, build_depthwise, false},
    {"conv of two inputs", 13, SIGNED, build_conv_of_data, false},
    {"conv with bias alone", 13, SIGNED, build_conv_bias_only, false},
    {"gemm", 13, SIGNED, build_gemm, false},
    {"gemm 7", 7, SIGNED, build_gemm, false},
    {"gemm, A transposed", 11, SIGNED, build_gemm_transposed, false},
    {"gemm, both transposed", 13, SIGNED, build_gemm_both_transposed, false},
    {"matmul", 13, SIGNED, build_matmul, false},
    {"matmul, broadcast", 13, SIGNED, build_matmul_broadcast, false},
    {"matmul, vectors", 13, SIGNED, build_matmul_vectors, false},
    {"batch-norm 7", 7, SIGNED, build_norm, false},
    {"batch-norm 9", 9, SIGNED, build_norm, false},
    {"batch-norm 15", 15, SIGNED, build_norm, false},
    {"batch-norm of rows", 15, SIGNED, build_norm_of_rows, false},
    {"batch-norm, frozen", 15, SIGNED, build_norm, true},
    {"dropout 7", 7, SIGNED, build_dropout, false},
    {"dropout 12", 12, SIGNED, build_dropout_12, false},
    {"max pool 7", 7, SPACED, build_max_pool, false},
    {"max pool 8", 8, SPACED, build_max_pool, false},
    {"max pool 12", 12, SPACED, build_max_pool_ceil, false},
    {"average pool 7", 7, SIGNED, build_average_pool, false},
    {"average pool 11", 11, SIGNED, build_average_pool_counting, false},
    {"average pool 19", 19, SIGNED, build_average_pool_counting, false},
    {"global max pool", 13, SPACED, build_global_max, false},
    {"global average pool", 13, SIGNED, build_global_average, false},
    {"reduce mean 13", 13, SIGNED, build_reduce_mean, false},
    {"reduce mean 18", 18, SIGNED, build_reduce_mean_middle, false},
    {"relu", 13, SPACED, build_relu, false},
    {"clip 6", 9, SPACED, build_clip, false},
    {"clip 11", 13, SPACED, build_clip_11, false},
    {"sigmoid", 13, SIGNED, build_sigmoid, false},
    {"hard sigmoid", 13, SPACED, build_hard_sigmoid, false},
    {"tanh", 13, SIGNED, build_tanh, false},
    {"exp", 13, SIGNED, build_exp, false},
    {"sqrt", 13, POSITIVE, build_sqrt, false},
    {"neg", 13, SIGNED, build_neg, false},
    {"add", 13, SIGNED, build_add, false},
    {"sub", 13, SIGNED, build_sub, false},
    {"mul", 13, SIGNED, build_mul, false},
    {"div", 13, POSITIVE, build_div, false},
    {"sum", 13, SIGNED, build_sum, false},
    {"softmax 1", 11, SIGNED, build_softmax, false},
    {"softmax 13", 13, SIGNED, build_softmax_middle, false},
    {"log softmax 1", 11, SIGNED, build_log_softmax, false},
    {"log softmax 13", 13, SIGNED, build_log_softmax_middle, false},
    {"identity", 13, SIGNED, build_identity, false},
    {"flatten", 13, SIGNED, build_flatten, false},
    {"reshape 5", 13, SIGNED, build_reshape, false},
    {"reshape 14", 14, SIGNED, build_reshape, false},
    {"view of a weight", 13, SIGNED, build_view_of_weight, false},
    {"squeeze 1", 11, SIGNED, build_squeeze, false},
    {"squeeze 13", 13, SIGNED, build_squeeze_13, false},
    {"unsqueeze 1", 11, SIGNED, build_unsqueeze, false},
    {"unsqueeze 13", 13, SIGNED, build_unsqueeze_13, false},
    {"cast 13", 13, SIGNED, build_cast, false},
    {"cast 19", 19, SIGNED, build_cast, false},
    {"concat", 13, SIGNED, build_concat, false},
    {"transpose", 13, SIGNED, build_transpose, false},
    {"slice 1", 9, SIGNED, build_slice, false},
    {"slice 10", 13, SIGNED, build_slice_10, false},
    {"pad 2", 9, SIGNED, build_pad, false},
    {"pad 11", 13, SIGNED, build_pad_11, false},
    {"pad 18", 18, SIGNED, build_pad_18, false},
    {"gather", 13, SIGNED, build_gather, false},
    {"expand", 13, SIGNED, build_expand, false},
    {"residual block", 13, SIGNED, build_residual, false},
    {"two outputs", 13, SIGNED, build_two_outputs, false},
};

enum { CASE_COUNT = sizeof cases / sizeof *cases };

static void gradients_agree_with_finite_differences(void **state)
{
    (void)state;
    for (int i = 0; i < CASE_COUNT; i++)
        check_gradients(&cases[i]);
}

static void mark_covered(const gradient_case *list, int count, bool *is_covered)
{
    for (int i = 0; i < count; i++) {
        net n = net_new(list[i].opset);
        list[i].build(&n);
        esp_graph *graph = net_finish(&n);
        for (int k = 0; k < esp_graph_node_count(graph); k++)
            is_covered[esp_graph_node(graph, k)->op - esp_op_at(0)] = true;
        esp_graph_unref(graph);
    }
}

static void every_row_with_a_backward_has_a_case(void **state)
{
    (void)state;
    bool is_covered[512] = {false};
    assert_true(esp_op_count() <= 512);
    mark_covered(cases, CASE_COUNT, is_covered);
    mark_covered(gradient_cases_of_math.cases, gradient_cases_of_math.count, is_covered);
    mark_covered(gradient_cases_of_space.cases, gradient_cases_of_space.count, is_covered);
    for (int i = 0; i < esp_op_count(); i++) {
        const esp_op *op = esp_op_at(i);
        if (op->backward == NULL || is_covered[i])
            continue;
        print_error("%s (opset %d to %d) has no gradient case\n", op->name, op->opset_since, op->opset_until);
        fail();
    }
}

/* Only what leads to a trainable parameter is computed: the stem's input gradient is not. */
static void gradients_nobody_asked_for_are_not_there(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    build_conv(&n);
    esp_graph *graph = net_finish(&n);
    esp_params *params;
    must(esp_params_new(graph, &params, &err), &err);
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 2, .is_training = true, .params = params});
    assert_null(esp_exec_input_grad(exec, 0));
    size_t without = esp_exec_planned_bytes(exec);
    must(esp_exec_want_input_grad(exec, 0, &err), &err);
    assert_true(esp_exec_planned_bytes(exec) > without);
    esp_exec_free(exec);
    esp_params_free(params);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_agree_with_finite_differences),
        cmocka_unit_test(every_row_with_a_backward_has_a_case),
        cmocka_unit_test(gradients_nobody_asked_for_are_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
