/* The op table: one row per ONNX operator (ops.def). Import, shape inference, folding, executor, trainer,
 * counter, coupling, surgery and export all read it; there is no switch over operator names anywhere. */
#ifndef ESP_GRAPH_OP_H
#define ESP_GRAPH_OP_H

#include "base/compute.h"
#include "base/rng.h"
#include "graph/graph.h"
#include "tensor/engine.h"
#include "tensor/tensor.h"

/* How kept channels pass through an operator (METHODS.md section 3). */
typedef enum esp_channel_rule {
    ESP_CHANNEL_COPY,  /* output channels are input 0's channels, one to one; per-channel parameters follow */
    ESP_CHANNEL_TIE,   /* element-wise with broadcasting: equal positions of all inputs and the output go
                          together */
    ESP_CHANNEL_MOVE,  /* pure data movement (concat, slice, pad, flatten, reshape, transpose, gather): the
                          positions  of channels in the output are found by moving indices through the forward
                          kernel */
    ESP_CHANNEL_CUT,   /* a layer: reads its input's channels, makes new ones from its filters */
    ESP_CHANNEL_APART, /* as COPY without parameters when a trial run shows that every channel is computed
                          from itself alone (softmax over space); else as BLOCK */
    ESP_CHANNEL_GROUP, /* channels fall into as many equal runs as the attribute num_groups says, each
                          computed together: a run stays or goes; parameters are per channel or per run */
    ESP_CHANNEL_BLOCK, /* nothing can be cut through it: its inputs must keep all channels */
} esp_channel_rule;

typedef enum esp_op_flag {
    ESP_OP_VIEW = 1, /* the output is input 0's memory under another shape (when input 0 is not a constant) */
    ESP_OP_SHAPE_ONLY = 4, /* depends on input 0's shape alone (Shape): ties no channels, whatever the rule */
    ESP_OP_LOGITS = 8,     /* turns logits into probabilities at the end of a classifier (Softmax) */
    ESP_OP_KEEPS_ZERO = 16,     /* 0 in gives 0 out, element-wise (Relu): for constants behind cut filters */
    ESP_OP_POINTWISE = 32,      /* acts on each spatial position alone (element-wise, batch-norm) */
    ESP_OP_EVAL_VIEW = 64,      /* as ESP_OP_VIEW, but at evaluation only (Dropout) */
    ESP_OP_PREFERS_BLOCKS = 128 /* runs in channel blocks whatever its inputs are in; others follow them */
} esp_op_flag;

/* What backward reads. */
typedef enum esp_op_needs { ESP_NEEDS_INPUTS = 1, ESP_NEEDS_OUTPUTS = 2 } esp_op_needs;

typedef struct esp_attr_spec {
    const char *name;
    esp_attr_type type;
    const char *otherwise; /* default as text ("1", "0.9", "NOTSET"), or NULL for none */
} esp_attr_spec;

/* What a layer row tells about its weight (Conv, Gemm, MatMul with a constant). */
typedef struct esp_layer_form {
    int weight_input, bias_input; /* input positions; bias -1 when the operator has none */
    int filter_axis, channel_axis;
    bool is_conv;
} esp_layer_form;

/* Context of shape inference for one node: filled by graph/infer.c. */
typedef struct esp_infer_context {
    const esp_node *node;
    int64_t opset;
    int input_count;
    /* Shape and dtype always; data NULL unless the value is known. NULL = absent. */
    const esp_view *const *inputs;
    int output_count;
    esp_view *outputs; /* to fill: dtype and shape */
} esp_infer_context;

/* How a node runs when it keeps images in channel blocks (ESP_LAYOUT_BLOCKED). */
typedef struct esp_op_layouts {
    unsigned blocked_inputs; /* bit i: input i must be blocked; the others are plain. The last bit
                                stands for all inputs from there on */
    bool blocked_output;     /* output 0 is blocked; other outputs are plain */
} esp_op_layouts;

/* Something done to every channel alone: batch-norm, or arithmetic with one number per channel or for all. */
typedef enum esp_line_kind {
    ESP_LINE_NORM, /* inputs: scale, bias, mean, variance */
    ESP_LINE_ADD,
    ESP_LINE_SUB,
    ESP_LINE_MUL,
    ESP_LINE_DIV,
} esp_line_kind;

typedef struct esp_line {
    esp_line_kind kind;
    int input;     /* the first input it reads */
    float epsilon; /* of a batch-norm */
} esp_line;

/* What a step does beside its own node's work when it stands for several nodes (fuse.h): only blocked forms
 * and fully connected layers do. In this order: own work, lines, residual (where the operator's file says
 * there is such an input), clip. A convolution does in_lines and then in_clips to its input first. */
enum { ESP_FUSED_LINES = 6 };
typedef struct esp_fused {
    int line_count, in_line_count;
    esp_line lines[ESP_FUSED_LINES], in_lines[ESP_FUSED_LINES];
    bool clips, in_clips; /* min(max(v, low), high) */
    float low, high, in_low, in_high;
    int present_inputs; /* concatenation: so many inputs at the front are in their place already */
    const struct esp_group_layer *group; /* a self-grouped layer (group_layer.h) */
} esp_fused;

/* Data that is made from constants and parameters before a run: packed weights, folded normalisation. */
enum { ESP_OP_PACKS = 4 };
typedef struct esp_op_pack {
    size_t bytes;
    int input;    /* the input it is made of; -1: of several */
    uint64_t key; /* not 0: what other steps pack from the same tensor with this key is the same */
    bool is_for_backward;
    unsigned replaces; /* bit i: forward reads this instead of input i. The last bit stands for all inputs
                          from there on */
} esp_op_pack;

/* Context of forward and backward for one node. Absent inputs/outputs are NULL. */
typedef struct esp_op_context {
    const esp_compute *compute;
    const esp_node *node;
    const esp_op *op;         /* NULL: the node's */
    const esp_engine *engine; /* NULL: plain images only */
    int64_t opset;
    bool is_training;
    bool has_backward;      /* a backward pass may follow, whatever form forward has */
    const esp_fused *fused; /* NULL: the node alone */
    int input_count, output_count;
    const esp_view *const *inputs;
    esp_view *const *outputs;
    const esp_view *const *output_grads; /* backward only: NULL entry = no gradient reaches this output */
    esp_view *const *input_grads; /* NULL array: no backward will follow. NULL entry = not wanted; backward
                                     must overwrite the others */
    void *scratch;                /* esp_op.scratch bytes, shared by all nodes: lives for one call */
    void *saved;                  /* esp_op.saved bytes, private to this node: forward to backward */
    esp_rng *rng;                 /* training only (Dropout) */
    const void *plan;             /* what esp_op.prepare made; NULL: the kernel prepares for itself */
    unsigned adds;                /* backward: bit i, the gradient of input i is added to what is there */
    void *packed[ESP_OP_PACKS];   /* what esp_op.pack made */
} esp_op_context;

/* Rewrites what a MOVE node says in numbers (Reshape's target, Slice's bounds, Pad's amounts, Gather's
 * indices) after channels were removed or reordered. Called by surgery with the new channel lists. */
typedef struct esp_narrow_context {
    const esp_node *node;
    int64_t opset;
    const esp_view *const *inputs; /* old shapes (batch 1), data of known values */
    const esp_view *output;        /* old shape of output 0 */
    int input_axis, output_axis;   /* channel axes of input 0 and output 0; -1 when nothing changes there */
    const int64_t *input_kept;     /* old channel indices that remain, in their new order */
    int64_t input_kept_count;
    const int64_t *output_kept;
    int64_t output_kept_count;
    const int64_t *output_source;      /* per old output channel: old input channel, or -1 = padding */
    int output_count;                  /* of the node: `output` is an array */
    const int64_t *output_kept_counts; /* per output: channels that remain */
    /* results: replacements for constant inputs (NULL = unchanged) and for attributes */
    esp_tensor *new_inputs[8];
    esp_attr new_attrs[8]; /* `ints` memory comes from `arena` */
    int new_attr_count;
    const char *dropped_attr; /* an attribute that must go; NULL: none */
    struct esp_arena *arena;
} esp_narrow_context;

/* At most this many bytes are prepared per node. */
#define ESP_OP_PLAN_MAX 1024

struct esp_op {
    const char *name;
    int opset_since, opset_until; /* versions of the ONNX operator that are understood */
    int input_min, input_max;     /* max -1: any number */
    int output_min, output_max;
    const esp_attr_spec *attrs; /* ends with a NULL name */
    esp_status (*infer)(esp_infer_context *context, esp_error *err);
    esp_status (*forward)(const esp_op_context *context, esp_error *err);
    esp_status (*backward)(const esp_op_context *context, esp_error *err); /* NULL: no gradient passes */
    size_t (*scratch)(const esp_op_context *context, int slots); /* bytes; views have shapes but no data */
    size_t (*saved)(const esp_op_context *context);              /* bytes; NULL: nothing is saved */
    int64_t (*macs)(const esp_infer_context *context);           /* per run; NULL: 0 (METHODS.md section 4) */
    bool (*layer)(const esp_node *node, esp_layer_form *form);   /* NULL unless it is a layer (rule CUT) */
    esp_status (*narrow)(esp_narrow_context *context, esp_error *err); /* NULL: nothing to rewrite */
    esp_channel_rule rule;
    unsigned flags;     /* esp_op_flag */
    unsigned needs;     /* esp_op_needs of backward */
    unsigned trainable; /* bit i: input i is a trainable parameter when it is a float constant */
    unsigned running;   /* bit i: input i is a running statistic, updated by training (BatchNormalization) */
    unsigned over;      /* bit i: evaluation may write output 0 over input i when that dies here and has the
                           output's shape and layout */
    unsigned passes;    /* bit i: the gradient of input i is the output's, when their shapes agree */
    unsigned adds;      /* bit i: backward of the blocked form can add the gradient of input i */
    /* Whether the node takes images in channel blocks, and which; views have shapes, and data when it is
     * known. NULL: it takes plain images only. */
    bool (*blocks)(const esp_op_context *context, esp_op_layouts *out);
    /* Reads attributes, shapes and the contents of known inputs into `plan` (at most ESP_OP_PLAN_MAX bytes),
     * once per compiled graph, so that runs look nothing up. NULL: nothing to prepare. Cannot fail: infer has
     * accepted the node. */
    void (*prepare)(const esp_op_context *context, void *plan);
    /* What is to be packed, in the order of `packed` (bytes 0: nothing), and packing one of it. */
    void (*packs)(const esp_op_context *context, esp_op_pack packs[ESP_OP_PACKS]);
    esp_status (*pack)(const esp_op_context *context, int index, void *target);
    const char *(*method)(
        const esp_op_context *context); /* a short name of what forward runs; NULL: layout's */
};

/* The row for an operator at an opset, or NULL. `nearest` (may be NULL) receives a hint: the row of another
 * version or a similarly named operator, or NULL. */
const esp_op *esp_op_find(const char *name, int64_t opset, const esp_op **nearest);

int esp_op_count(void);
const esp_op *esp_op_at(int index);

/* A node's forward or backward kernel; errors name the node. */
esp_status esp_op_forward(const esp_op_context *context, esp_error *err);
esp_status esp_op_backward(const esp_op_context *context, esp_error *err);

/* Runs a node's forward kernel once, outside an executor: allocates scratch and saved memory for the call.
 * All shapes must have been inferred; used by constant folding and by whoever moves data through single
 * nodes. */
esp_status esp_op_run_once(const esp_op_context *context, esp_error *err);

#endif
