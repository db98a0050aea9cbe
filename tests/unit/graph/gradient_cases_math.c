/* Gradient cases of functions, arithmetic, selection, reductions and normalisations. */
#include "unit/graph/gradient_check.h"

/* ---- functions of one number ---- */

static void build_unary(net *n, const char *op, const esp_attr *attrs)
{
    net_output(n, net_add(n, op, IN(net_input(n, "x", S2(3, 7))), attrs));
}

#define UNARY(function, op)                                                                                  \
    static void build_##function(net *n)                                                                     \
    {                                                                                                        \
        build_unary(n, op, NULL);                                                                            \
    }
#define UNARY_WITH(function, op, ...)                                                                        \
    static void build_##function(net *n)                                                                     \
    {                                                                                                        \
        build_unary(n, op, AT(__VA_ARGS__));                                                                 \
    }

UNARY(relu, "Relu")
UNARY_WITH(leaky_relu, "LeakyRelu", esp_attr_float("alpha", 0.2f))
UNARY_WITH(elu, "Elu", esp_attr_float("alpha", 1.5f))
UNARY(selu, "Selu")
UNARY_WITH(celu, "Celu", esp_attr_float("alpha", 0.7f))
UNARY_WITH(thresholded_relu, "ThresholdedRelu", esp_attr_float("alpha", 0.5f))
UNARY(hard_swish, "HardSwish")
UNARY(mish, "Mish")
UNARY(gelu, "Gelu")
UNARY_WITH(gelu_tanh, "Gelu", esp_attr_string("approximate", "tanh"))
UNARY(softplus, "Softplus")
UNARY(softsign, "Softsign")
UNARY_WITH(shrink, "Shrink", esp_attr_float("bias", 0.3f), esp_attr_float("lambd", 0.5f))
UNARY(erf, "Erf")
UNARY(log, "Log")
UNARY(abs, "Abs")
UNARY(reciprocal, "Reciprocal")
UNARY(sin, "Sin")
UNARY(cos, "Cos")

/* Steps: the slope is 0 beside them, and x itself has the gradient 1 here. */
static void build_step(net *n, const char *op)
{
    int x = net_input(n, "x", S2(3, 7));
    net_output(n, net_add(n, "Add", IN(x, net_add(n, op, IN(net_add(n, "Neg", IN(x), NULL)), NULL)), NULL));
}

#define STEP_OF(function, op)                                                                                \
    static void build_##function(net *n)                                                                     \
    {                                                                                                        \
        build_step(n, op);                                                                                   \
    }

STEP_OF(sign, "Sign")
STEP_OF(floor, "Floor")
STEP_OF(ceil, "Ceil")
STEP_OF(round, "Round")

/* ---- arithmetic ---- */

/* A slope per channel, and one for all that is data. */
static void build_p_relu(net *n)
{
    int x = net_input(n, "x", S4(2, 3, 2, 2)), slope = net_input(n, "slope", S1(1));
    int each = net_add(n, "PRelu", IN(x, net_constant(n, S3(3, 1, 1), NULL)), NULL);
    net_output(n, net_add(n, "Add", IN(each, net_add(n, "PRelu", IN(x, slope), NULL)), NULL));
}

static void build_pow(net *n)
{
    int a = net_input(n, "a", S3(2, 3, 2)), b = net_input(n, "b", S2(3, 1));
    int square = net_add(n, "Pow", IN(a, net_constant(n, S1(1), (const float[]){2})), NULL);
    int whole = net_add(n, "Pow", IN(a, net_int(n, 3)), NULL); /* an exponent of another type */
    int sum = net_add(n, "Add", IN(net_add(n, "Pow", IN(a, b), NULL), square), NULL);
    net_output(n, net_add(n, "Add", IN(sum, whole), NULL));
}

static void build_pow_7(net *n)
{
    int a = net_input(n, "a", S2(3, 4)), b = net_input(n, "b", S1(4));
    net_output(n, net_add(n, "Pow", IN(a, b), NULL));
}

static void build_variadic(net *n, const char *op)
{
    int a = net_input(n, "a", S2(3, 1)), b = net_input(n, "b", S3(2, 1, 4)),
        c = net_input(n, "c", S3(2, 3, 4));
    int all = net_add(n, op, IN(a, b, c), NULL);
    net_output(n, net_add(n, "Mul", IN(all, net_add(n, op, IN(c), NULL)), NULL));
}

static void build_mean(net *n)
{
    build_variadic(n, "Mean");
}

static void build_max(net *n)
{
    build_variadic(n, "Max");
}

static void build_min(net *n)
{
    build_variadic(n, "Min");
}

/* Both branches are broadcast; the condition comes from data. */
static void build_where(net *n)
{
    int a = net_input(n, "a", S2(3, 1)), b = net_input(n, "b", S3(2, 1, 4)),
        c = net_input(n, "c", S3(2, 3, 4));
    int condition = net_add(n, "Greater", IN(c, net_constant(n, S1(1), (const float[]){0.0f})), NULL);
    net_output(n, net_add(n, "Add", IN(net_add(n, "Where", IN(condition, a, b), NULL), c), NULL));
}

static void build_cast_like(net *n)
{
    int x = net_input(n, "x", S2(3, 4));
    net_output(n, net_add(n, "CastLike", IN(x, net_constant(n, S1(1), NULL)), NULL));
}

/* ---- reductions: over the last axes, the middle and the first; in attributes and as an input ---- */

static void build_reduction(net *n, const char *op, bool has_input)
{
    int x = net_input(n, "x", S4(2, 3, 2, 3)), last, middle;
    if (has_input) {
        last = net_add(n, op, IN(x, net_ints(n, 2, 3, -2)), AT(esp_attr_int("keepdims", 0)));
        middle = net_add(n, op, IN(x, net_ints(n, 1, 1)), NULL);
    } else {
        last = net_add(n, op, IN(x), AT(INTS("axes", 3, 2), esp_attr_int("keepdims", 0)));
        middle = net_add(n, op, IN(x), AT(INTS("axes", 1)));
    }
    net_output(n, last);
    net_output(n, middle);
    net_output(n, net_add(n, op, IN(x), NULL));
}

#define REDUCTION(function, op)                                                                              \
    static void build_##function(net *n)                                                                     \
    {                                                                                                        \
        build_reduction(n, op, false);                                                                       \
    }                                                                                                        \
    static void build_##function##_input(net *n)                                                             \
    {                                                                                                        \
        build_reduction(n, op, true);                                                                        \
    }

REDUCTION(reduce_mean, "ReduceMean")
REDUCTION(reduce_sum, "ReduceSum")
REDUCTION(reduce_max, "ReduceMax")
REDUCTION(reduce_min, "ReduceMin")
REDUCTION(reduce_prod, "ReduceProd")
REDUCTION(reduce_l1, "ReduceL1")
REDUCTION(reduce_l2, "ReduceL2")
REDUCTION(reduce_sum_square, "ReduceSumSquare")
REDUCTION(reduce_log_sum, "ReduceLogSum")
REDUCTION(reduce_log_sum_exp, "ReduceLogSumExp")

/* One 0, and two, among the factors: the others' product is the gradient there. */
static void build_reduce_prod_zeros(net *n)
{
    int x = net_input(n, "x", S2(3, 4));
    int zeros = net_constant(n, S2(3, 4), (const float[]){1, 0, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1});
    int product = net_add(n, "Mul", IN(x, zeros), NULL);
    net_output(n, net_add(n, "ReduceProd", IN(product), AT(INTS("axes", 1))));
}

/* ---- normalisations ---- */

static void build_instance_norm(net *n)
{
    int x = net_input(n, "x", S4(2, 3, 2, 3));
    net_output(n, net_add(n, "InstanceNormalization",
                          IN(x, net_positive(n, S1(3)), net_constant(n, S1(3), NULL)),
                          AT(esp_attr_float("epsilon", 0.01f))));
}

/* Scale and bias per group until opset 20, per channel since. */
static void build_group_norm_18(net *n)
{
    int x = net_input(n, "x", S4(2, 4, 2, 2));
    net_output(n,
               net_add(n, "GroupNormalization", IN(x, net_positive(n, S1(2)), net_constant(n, S1(2), NULL)),
                       AT(esp_attr_int("num_groups", 2), esp_attr_float("epsilon", 0.01f))));
}

static void build_group_norm_21(net *n)
{
    int x = net_input(n, "x", S4(2, 4, 2, 2));
    net_output(n,
               net_add(n, "GroupNormalization", IN(x, net_positive(n, S1(4)), net_constant(n, S1(4), NULL)),
                       AT(esp_attr_int("num_groups", 2), esp_attr_float("epsilon", 0.01f))));
}

/* The statistics are outputs too, and pass gradients. */
static void build_layer_norm(net *n)
{
    esp_error err = {0};
    int x = net_input(n, "x", S3(2, 3, 4));
    const int inputs[3] = {x, net_positive(n, S2(3, 4)), net_constant(n, S2(3, 4), NULL)};
    int outputs[3];
    const char *const names[3] = {"y", "mean", "inverse_std"};
    const esp_attr attrs[] = {esp_attr_int("axis", 1), esp_attr_float("epsilon", 0.01f)};
    for (int i = 0; i < 3; i++)
        must(esp_builder_value(n->builder, names[i], &outputs[i], &err), &err);
    must(esp_builder_node(n->builder, "LayerNormalization", "norm", inputs, 3, outputs, 3, attrs, 2, &err),
         &err);
    for (int i = 0; i < 3; i++)
        net_output(n, outputs[i]);
}

static void build_layer_norm_of_last(net *n)
{
    int x = net_input(n, "x", S3(2, 3, 4));
    net_output(n, net_add(n, "LayerNormalization", IN(x, net_positive(n, S1(4))),
                          AT(esp_attr_float("epsilon", 0.01f))));
}

static void build_mean_variance(net *n)
{
    int x = net_input(n, "x", S4(2, 2, 2, 3));
    int channels = net_add(n, "MeanVarianceNormalization", IN(x), NULL);
    int rows = net_add(n, "MeanVarianceNormalization", IN(x), AT(INTS("axes", -1, 1)));
    net_output(n, net_add(n, "Add", IN(channels, rows), NULL));
}

static void build_lp_norm(net *n)
{
    int x = net_input(n, "x", S3(2, 3, 4));
    int two = net_add(n, "LpNormalization", IN(x), AT(esp_attr_int("axis", 1)));
    int one = net_add(n, "LpNormalization", IN(x), AT(esp_attr_int("p", 1)));
    net_output(n, net_add(n, "Add", IN(two, one), NULL));
}

/* An even window is one channel longer behind. */
static void build_lrn(net *n)
{
    int x = net_input(n, "x", S4(2, 5, 2, 2));
    int odd = net_add(n, "LRN", IN(x), AT(esp_attr_int("size", 3), esp_attr_float("alpha", 0.8f)));
    int even = net_add(n, "LRN", IN(x),
                       AT(esp_attr_int("size", 4), esp_attr_float("alpha", 0.8f),
                          esp_attr_float("beta", 0.5f), esp_attr_float("bias", 2.0f)));
    net_output(n, net_add(n, "Add", IN(odd, even), NULL));
}

#define REDUCTION_CASES(name, function, fill, input_since)                                                   \
    {name " by attribute", (input_since)-1, fill, build_##function, false},                                  \
    {                                                                                                        \
        name " by input", input_since, fill, build_##function##_input, false                                 \
    }

static const gradient_case cases[] = {
    {"relu", 13, SPACED, build_relu, false},
    {"leaky relu", 13, SPACED, build_leaky_relu, false},
    {"elu", 13, SPACED, build_elu, false},
    {"selu", 13, SPACED, build_selu, false},
    {"celu", 13, SPACED, build_celu, false},
    {"thresholded relu", 13, SPACED, build_thresholded_relu, false},
    {"hard swish", 14, SPACED, build_hard_swish, false},
    {"mish", 18, SPACED, build_mish, false},
    {"gelu", 20, SPACED, build_gelu, false},
    {"gelu by tanh", 20, SPACED, build_gelu_tanh, false},
    {"softplus", 13, SPACED, build_softplus, false},
    {"softsign", 13, SPACED, build_softsign, false},
    {"shrink", 13, SPACED, build_shrink, false},
    {"erf", 13, SPACED, build_erf, false},
    {"log", 13, POSITIVE, build_log, false},
    {"abs", 13, SPACED, build_abs, false},
    {"reciprocal", 13, POSITIVE, build_reciprocal, false},
    {"sin", 13, SIGNED, build_sin, false},
    {"cos", 13, SIGNED, build_cos, false},
    {"sign", 13, SPACED, build_sign, false},
    {"floor", 13, SPACED, build_floor, false},
    {"ceil", 13, SPACED, build_ceil, false},
    {"round", 13, SPACED, build_round, false},
    {"prelu", 13, SPACED, build_p_relu, false},
    {"pow 7", 11, POSITIVE, build_pow_7, false},
    {"pow 12", 13, POSITIVE, build_pow, false},
    {"mean", 13, SIGNED, build_mean, false},
    {"max", 13, SIGNED, build_max, false},
    {"min", 13, SIGNED, build_min, false},
    {"where", 13, SPACED, build_where, false},
    {"cast like 15", 15, SIGNED, build_cast_like, false},
    {"cast like 19", 19, SIGNED, build_cast_like, false},
    REDUCTION_CASES("reduce mean", reduce_mean, SIGNED, 18),
    REDUCTION_CASES("reduce sum", reduce_sum, SIGNED, 13),
    REDUCTION_CASES("reduce max", reduce_max, SPACED, 18),
    REDUCTION_CASES("reduce min", reduce_min, SPACED, 18),
    REDUCTION_CASES("reduce prod", reduce_prod, POSITIVE, 18),
    REDUCTION_CASES("reduce l1", reduce_l1, SPACED, 18),
    REDUCTION_CASES("reduce l2", reduce_l2, SIGNED, 18),
    REDUCTION_CASES("reduce sum square", reduce_sum_square, SIGNED, 18),
    REDUCTION_CASES("reduce log sum", reduce_log_sum, POSITIVE, 18),
    REDUCTION_CASES("reduce log sum exp", reduce_log_sum_exp, SIGNED, 18),
    {"reduce prod of zeros", 13, POSITIVE, build_reduce_prod_zeros, false},
    {"instance norm", 13, SIGNED, build_instance_norm, false},
    {"group norm 18", 18, SIGNED, build_group_norm_18, false},
    {"group norm 21", 21, SIGNED, build_group_norm_21, false},
    {"layer norm", 17, SIGNED, build_layer_norm, false},
    {"layer norm of the last axis", 17, SIGNED, build_layer_norm_of_last, false},
    {"mean and variance norm", 13, SIGNED, build_mean_variance, false},
    {"lp norm", 13, SPACED, build_lp_norm, false},
    {"lrn", 13, SIGNED, build_lrn, false},
};

const gradient_cases gradient_cases_of_math = {cases, sizeof cases / sizeof *cases};
