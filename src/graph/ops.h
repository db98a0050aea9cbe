/* What the operator files (ops_*.c) share: declarations for the op table, and helpers for reading attributes,
 * known inputs and shapes. Kernels themselves are in src/tensor. */
#ifndef ESP_GRAPH_OPS_H
#define ESP_GRAPH_OPS_H

#include "graph/op.h"
#include "tensor/conv.h"

/* The functions a row of ops.def may name; those a row leaves NULL have no definition. */
#define ESP_OP_DECLARE(name)                                                                                 \
    esp_status esp_op_##name##_infer(esp_infer_context *context, esp_error *err);                            \
    esp_status esp_op_##name##_forward(const esp_op_context *context, esp_error *err);                       \
    esp_status esp_op_##name##_backward(const esp_op_context *context, esp_error *err);                      \
    size_t esp_op_##name##_scratch(const esp_op_context *context, int slots);                                \
    size_t esp_op_##name##_saved(const esp_op_context *context);                                             \
    int64_t esp_op_##name##_macs(const esp_infer_context *context);                                          \
    bool esp_op_##name##_layer(const esp_node *node, esp_layer_form *form);                                  \
    esp_status esp_op_##name##_narrow(esp_narrow_context *context, esp_error *err);                          \
    void esp_op_##name##_prepare(const esp_op_context *context, void *plan);                                 \
    bool esp_op_##name##_blocks(const esp_op_context *context, esp_op_layouts *out);                         \
    void esp_op_##name##_packs(const esp_op_context *context, esp_op_pack packs[ESP_OP_PACKS]);              \
    esp_status esp_op_##name##_pack(const esp_op_context *context, int index, void *target);                 \
    const char *esp_op_##name##_method(const esp_op_context *context);

ESP_OP_DECLARE(conv)
ESP_OP_DECLARE(pool)
ESP_OP_DECLARE(max_pool)
ESP_OP_DECLARE(average_pool)
ESP_OP_DECLARE(global_pool)
ESP_OP_DECLARE(lp_pool)
ESP_OP_DECLARE(conv_transpose)
ESP_OP_DECLARE(resize)
ESP_OP_DECLARE(split)
ESP_OP_DECLARE(tile)
ESP_OP_DECLARE(depth_to_space)
ESP_OP_DECLARE(space_to_depth)
ESP_OP_DECLARE(gather_elements)
ESP_OP_DECLARE(gather_nd)
ESP_OP_DECLARE(scatter_elements)
ESP_OP_DECLARE(scatter_nd)
ESP_OP_DECLARE(arg)
ESP_OP_DECLARE(arg_max)
ESP_OP_DECLARE(arg_min)
ESP_OP_DECLARE(top_k)
ESP_OP_DECLARE(one_hot)
ESP_OP_DECLARE(cum_sum)
ESP_OP_DECLARE(size)
ESP_OP_DECLARE(range)
ESP_OP_DECLARE(global_average_pool)
ESP_OP_DECLARE(global_max_pool)
ESP_OP_DECLARE(reduce_mean)
ESP_OP_DECLARE(batch_norm)
ESP_OP_DECLARE(dropout)
ESP_OP_DECLARE(unary)
ESP_OP_DECLARE(instance_norm)
ESP_OP_DECLARE(layer_norm)
ESP_OP_DECLARE(group_norm)
ESP_OP_DECLARE(row_norm)
ESP_OP_DECLARE(mean_variance)
ESP_OP_DECLARE(lp_norm)
ESP_OP_DECLARE(axes_norm)
ESP_OP_DECLARE(lrn)
ESP_OP_DECLARE(numeric)
ESP_OP_DECLARE(hard_swish)
ESP_OP_DECLARE(leaky_relu)
ESP_OP_DECLARE(elu)
ESP_OP_DECLARE(selu)
ESP_OP_DECLARE(celu)
ESP_OP_DECLARE(thresholded_relu)
ESP_OP_DECLARE(softplus)
ESP_OP_DECLARE(softsign)
ESP_OP_DECLARE(mish)
ESP_OP_DECLARE(gelu)
ESP_OP_DECLARE(erf)
ESP_OP_DECLARE(shrink)
ESP_OP_DECLARE(log)
ESP_OP_DECLARE(abs)
ESP_OP_DECLARE(reciprocal)
ESP_OP_DECLARE(floor)
ESP_OP_DECLARE(ceil)
ESP_OP_DECLARE(round)
ESP_OP_DECLARE(sign)
ESP_OP_DECLARE(sin)
ESP_OP_DECLARE(cos)
ESP_OP_DECLARE(pow)
ESP_OP_DECLARE(p_relu)
ESP_OP_DECLARE(mod)
ESP_OP_DECLARE(variadic)
ESP_OP_DECLARE(mean)
ESP_OP_DECLARE(min)
ESP_OP_DECLARE(max)
ESP_OP_DECLARE(extreme)
ESP_OP_DECLARE(compare)
ESP_OP_DECLARE(less)
ESP_OP_DECLARE(less_or_equal)
ESP_OP_DECLARE(greater)
ESP_OP_DECLARE(greater_or_equal)
ESP_OP_DECLARE(logic)
ESP_OP_DECLARE(and)
ESP_OP_DECLARE(or)
ESP_OP_DECLARE(xor)
ESP_OP_DECLARE(not )
ESP_OP_DECLARE(is_nan)
ESP_OP_DECLARE(cast_like)
ESP_OP_DECLARE(reduce)
ESP_OP_DECLARE(reduce_numbers)
ESP_OP_DECLARE(reduce_extreme)
ESP_OP_DECLARE(reduce_sum)
ESP_OP_DECLARE(reduce_max)
ESP_OP_DECLARE(reduce_min)
ESP_OP_DECLARE(reduce_prod)
ESP_OP_DECLARE(reduce_l1)
ESP_OP_DECLARE(reduce_l2)
ESP_OP_DECLARE(reduce_sum_square)
ESP_OP_DECLARE(reduce_log_sum)
ESP_OP_DECLARE(reduce_log_sum_exp)
ESP_OP_DECLARE(relu)
ESP_OP_DECLARE(clip)
ESP_OP_DECLARE(sigmoid)
ESP_OP_DECLARE(hard_sigmoid)
ESP_OP_DECLARE(tanh)
ESP_OP_DECLARE(exp)
ESP_OP_DECLARE(sqrt)
ESP_OP_DECLARE(neg)
ESP_OP_DECLARE(binary)
ESP_OP_DECLARE(add)
ESP_OP_DECLARE(sub)
ESP_OP_DECLARE(mul)
ESP_OP_DECLARE(div)
ESP_OP_DECLARE(sum)
ESP_OP_DECLARE(equal)
ESP_OP_DECLARE(where)
ESP_OP_DECLARE(softmax)
ESP_OP_DECLARE(log_softmax)
ESP_OP_DECLARE(gemm)
ESP_OP_DECLARE(matmul)
ESP_OP_DECLARE(view)
ESP_OP_DECLARE(identity)
ESP_OP_DECLARE(flatten)
ESP_OP_DECLARE(reshape)
ESP_OP_DECLARE(squeeze)
ESP_OP_DECLARE(unsqueeze)
ESP_OP_DECLARE(shape)
ESP_OP_DECLARE(constant)
ESP_OP_DECLARE(constant_of_shape)
ESP_OP_DECLARE(cast)
ESP_OP_DECLARE(concat)
ESP_OP_DECLARE(transpose)
ESP_OP_DECLARE(slice)
ESP_OP_DECLARE(pad)
ESP_OP_DECLARE(gather)
ESP_OP_DECLARE(expand)

/* ---- helpers (ops_common.c) ---- */

/* The input, or NULL when it is absent. */
static inline const esp_view *esp_infer_input(const esp_infer_context *context, int index)
{
    return index < context->input_count ? context->inputs[index] : NULL;
}

static inline const esp_view *esp_op_input(const esp_op_context *context, int index)
{
    return index < context->input_count ? context->inputs[index] : NULL;
}

/* Where the gradient of an input goes, or NULL when it is not wanted. */
static inline esp_view *esp_op_input_grad(const esp_op_context *context, int index)
{
    return index < context->input_count ? context->input_grads[index] : NULL;
}

/* Whether this run is the blocked form: some input or output is in channel blocks. */
bool esp_op_is_blocked(const esp_op_context *context);

/* Whether a view is a float image [N,C,H,W]; one that may be in channel blocks. */
static inline bool esp_view_is_image(const esp_view *view)
{
    return view->dtype == ESP_F32 && view->shape.rank == 4 && esp_shape_elements(&view->shape) > 0;
}

/* esp_op.blocks of operators with one image in and one out. */
bool esp_op_image_blocks(const esp_op_context *context, esp_op_layouts *out);

/* Inputs of steps that do more than their node's work (esp_fused): the node's own come first, then the image
 * added to the result, then what lines read. */
enum {
    ESP_CONV_X,
    ESP_CONV_WEIGHT,
    ESP_CONV_BIAS,
    ESP_CONV_RESIDUAL,
    ESP_CONV_INPUTS,
    ESP_NORM_RESIDUAL = 5,
    ESP_NORM_INPUTS
};

/* Lines one after the other as x * scale + shift; [channels] each, and zeros up to whole blocks. */
void esp_fold_lines(const esp_op_context *context, const esp_line *lines, int line_count, int64_t channels,
                    float *scale, float *shift);

static inline int64_t esp_block_channels(int64_t channels)
{
    return (channels + ESP_BLOCK - 1) / ESP_BLOCK * ESP_BLOCK;
}

/* A Conv's geometry, of views with shapes. */
void esp_op_conv_geometry(const esp_op_context *context, esp_conv_geometry *geometry);

/* The gradient of a bias per channel: output 0's [N,F,...] summed over all but F. */
esp_status esp_op_bias_gradient(const esp_op_context *context, const esp_view *bias_grad);

/* Dims as kernels that know no blocks see them: blocked images are [N, blocks, H, W, 16]. */
esp_shape esp_view_kernel_shape(const esp_view *view);

/* Runs `run` from one view to another: over all images at once, or image by image where blocked ones lie with
 * gaps between them. Shapes are esp_view_kernel_shape's. */
typedef esp_status esp_images_fn(void *user, const esp_shape *from, const esp_shape *to, const void *source,
                                 void *target);
esp_status esp_op_each_image(const esp_view *from, const esp_view *to, esp_images_fn *run, void *user);

/* Whether a unary operator is a clip (Relu, Clip), and its range. Inputs' data must be known. */
bool esp_op_clip_range(const esp_op_context *context, float *low, float *high);

/* Whether the node is arithmetic with one number per channel or for all; `*line` then says what, `*wide`
 * which input is the image. */
bool esp_op_binary_line(const esp_op_context *context, esp_line *line, int *wide);

/* Whether a Gemm is computed by dense.h, which can clip its output. */
bool esp_op_gemm_is_dense(const esp_op_context *context);

/* The channels [channel, channel + channels) of blocked images, as a view with gaps; `channel` is a multiple
 * of ESP_BLOCK. */
esp_view esp_view_channel_range(const esp_view *view, int64_t channel, int64_t channels);

/* The prepared plan, made into `local` now when the caller brought none. */
const void *esp_op_plan(const esp_op_context *context, void *local);

/* ESP_SHAPE unless every present input is float32. */
esp_status esp_op_expect_f32(const esp_infer_context *context, esp_error *err);

/* ESP_SHAPE unless the input has this rank. `form` describes it, e.g. "NxCxHxW". */
esp_status esp_op_expect_rank(const esp_infer_context *context, int input, int rank, const char *form,
                              esp_error *err);

/* Integers of a view with known contents (int32 or int64): how many there are, or -1 for another type or
 * unknown contents. At most `max` are copied. */
int64_t esp_view_ints(const esp_view *view, int64_t *out, int max);

/* The same for an input whose contents inference needs, at most ESP_MAX_RANK of them; errors name `what`. */
esp_status esp_op_known_ints(const esp_infer_context *context, int input, const char *what,
                             int64_t out[ESP_MAX_RANK], int *count, esp_error *err);

/* Ints that are an attribute in older versions and an input (`input`) in newer ones. `*count` is -1 when
 * there is neither. `context` may stand for a node at run time: only node and inputs are read. */
esp_status esp_op_attr_or_input_ints(const esp_infer_context *context, const char *attr, int input,
                                     int64_t out[ESP_MAX_RANK], int *count, esp_error *err);

/* A run-time context seen as an inference context (for code that serves infer and prepare). */
esp_infer_context esp_op_as_infer(const esp_op_context *context);

/* -rank..rank-1 to 0..rank-1. */
esp_status esp_op_axis(int64_t axis, int rank, int *out, esp_error *err);

/* Product of dims [from, to). */
int64_t esp_shape_product(const esp_shape *shape, int from, int to);

/* Sums `dy` over the axes along which target's shape was broadcast (the gradient of broadcasting). */
esp_status esp_op_reduce_to(const esp_compute *compute, const esp_view *dy, const esp_view *target);

/* Next multi-index in row-major order; false after the last. */
bool esp_index_next(const esp_shape *shape, int64_t index[ESP_MAX_RANK]);
int64_t esp_index_offset(const int64_t index[ESP_MAX_RANK], const int64_t strides[ESP_MAX_RANK], int rank);

size_t esp_view_bytes(const esp_view *view);

/* A copy of a known integer input with `count` replaced contents, keeping its type: for narrow functions. */
esp_status esp_op_replace_ints(const esp_view *old, const int64_t *values, int count, esp_tensor **out,
                               esp_error *err);

/* Puts changed ints where a node has them: in the constant input `input` or, where it has none, in an
 * attribute. */
esp_status esp_narrow_ints(esp_narrow_context *context, const char *attr, int input, const int64_t *values,
                           int count, esp_error *err);

/* A narrow context seen as an inference context. */
esp_infer_context esp_narrow_as_infer(const esp_narrow_context *context);

/* ESP_UNSUPPORTED unless the kept output channels are the kept input channels in order, over and over: what a
 * node that repeats channels makes of them without being told. */
esp_status esp_narrow_repeats(const esp_narrow_context *context, esp_error *err);

/* The place of each of output_kept's sources among the kept inputs, -1 for padding: how a channel list looks
 * through a data movement after narrowing. `positions` has room for output_kept_count. */
esp_status esp_narrow_positions(const esp_narrow_context *context, int64_t *positions, esp_error *err);

/* ---- sliding windows (ops_window.c) ---- */

enum { ESP_WINDOW_AXES = 3 };

/* A sliding window over the dims behind NxC (Conv, pools): strides, dilations, pads and auto_pad of the
 * node's attributes, resolved. Images have two axes, volumes three; a signal NxCxL is an image of height 1.
 */
typedef struct esp_window {
    int axes;
    int64_t size[ESP_WINDOW_AXES];
    int64_t kernel[ESP_WINDOW_AXES], stride[ESP_WINDOW_AXES], dilation[ESP_WINDOW_AXES];
    int64_t pad_begin[ESP_WINDOW_AXES], pad_end[ESP_WINDOW_AXES], out[ESP_WINDOW_AXES];
} esp_window;

/* `kernel` NULL: from the attribute kernel_shape. ESP_SHAPE when the window does not fit. */
esp_status esp_op_window(const esp_node *node, const esp_shape *input, const int64_t *kernel, bool ceil_mode,
                         esp_window *out, esp_error *err);

/* The parts of it that need no output size: everything but `out`, and `pads` only when auto_pad asks for none
 * (`*is_same`: it asks for as many outputs as the strides say; `*is_lower`: the odd pixel goes in front). */
esp_status esp_op_window_attrs(const esp_node *node, const esp_shape *input, const int64_t *kernel,
                               esp_window *out, bool *is_same, bool *is_lower, esp_error *err);

/* A convolution of two axes with this window. */
esp_conv_geometry esp_window_geometry(const esp_window *window, int64_t batch, int64_t channels,
                                      int64_t filters, int64_t group);

/* `input` with other channels and other sizes of the window's axes. */
esp_shape esp_window_shape(const esp_shape *input, int64_t channels, const int64_t *sizes);

#endif
