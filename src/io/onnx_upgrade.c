/* Models of older opsets are saved in opset 13, which every current tool reads. Between 7 and 13 some
 * operators moved attributes to inputs, some were renamed, and Softmax changed what its axis means; a table
 * says which. The graph is built anew with those nodes in their later form, and the rest as it is.
 *
 * Some nodes have no later form (opaque ones, a Dropout whose mask is read): then the model stays as it is.
 */
#include "io/onnx_internal.h"

#include <string.h>

#include "base/arena.h"
#include "base/memory.h"
#include "base/text.h"
#include "graph/infer.h"
#include "graph/op.h"
#include "graph/opaque.h"

/* The IR version of the ONNX release that brought opset 13. */
enum { IR_OF_OPSET_13 = 7, MOVES = 3, ADDED = 2, INPUTS_MAX = 8 };

typedef struct upgrader {
    const esp_graph *graph;
    esp_inferred *inferred; /* at batch 1, as far as shapes are known; NULL when nothing is */
    esp_builder *builder;
    esp_arena *arena;
    int *values; /* builder index per value */
    esp_error *err;
} upgrader;

typedef esp_status special_fn(upgrader *up, const esp_node *node, const int *inputs, const int *outputs);
typedef bool refuse_fn(const esp_graph *graph, const esp_node *node);

/* One operator that has another form in opset 13 than in `until` and before. */
typedef struct rule {
    const char *name;
    int until;
    const char *renamed; /* or NULL */
    struct {
        const char *attr; /* becomes the input at this position */
        int input;
    } moves[MOVES];
    int moved_input[2];  /* input [0] goes to position [1] */
    const char *dropped; /* an attribute that is gone; it must have its default */
    struct {
        const char *name, *value;
    } added[ADDED];
    special_fn *special;
    refuse_fn *is_refused;
} rule;

static special_fn upgrade_softmax;
static refuse_fn mask_is_read, is_not_spatial;

#define LIKE_UPSAMPLE .added = {{"coordinate_transformation_mode", "asymmetric"}, {"nearest_mode", "floor"}}

static const rule rules[] = {
    {"BatchNormalization", 8, .dropped = "spatial", .is_refused = is_not_spatial},
    {"Clip", 10, .moves = {{"min", 1}, {"max", 2}}},
    {"Dropout", 11, .moves = {{"ratio", 1}}, .is_refused = mask_is_read},
    {"LogSoftmax", 12, .special = upgrade_softmax},
    {"Pad", 10, .moves = {{"pads", 1}, {"value", 2}}},
    {"ReduceSum", 12, .moves = {{"axes", 1}}},
    {"Resize", 10, .moved_input = {1, 2}, LIKE_UPSAMPLE},
    {"Scatter", 10, .renamed = "ScatterElements"},
    {"Slice", 9, .moves = {{"starts", 1}, {"ends", 2}, {"axes", 3}}},
    {"Softmax", 12, .special = upgrade_softmax},
    {"Split", 12, .moves = {{"split", 1}}},
    {"Squeeze", 12, .moves = {{"axes", 1}}},
    {"TopK", 9, .moves = {{"k", 1}}},
    {"Unsqueeze", 12, .moves = {{"axes", 1}}},
    {"Upsample", 8, .renamed = "Resize", .moves = {{"scales", 2}}, LIKE_UPSAMPLE},
    {"Upsample", 9, .renamed = "Resize", .moved_input = {1, 2}, LIKE_UPSAMPLE},
};

static bool mask_is_read(const esp_graph *graph, const esp_node *node)
{
    int mask = node->output_count > 1 ? node->outputs[1] : -1;

    return mask >= 0 && (esp_graph_consumer_count(graph, mask) > 0 || esp_graph_is_output(graph, mask));
}

static bool is_not_spatial(const esp_graph *graph, const esp_node *node)
{
    (void)graph;
    return esp_node_int(node, "spatial", 1) != 1;
}

static const rule *find_rule(const char *name, int64_t opset)
{
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (opset <= rules[i].until && strcmp(rules[i].name, name) == 0)
            return &rules[i];
    return NULL;
}

static bool can_upgrade(const esp_graph *graph)
{
    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        const esp_node *node = esp_graph_node(graph, n);
        const rule *found = find_rule(node->op->name, esp_graph_opset(graph));

        if (esp_op_is_opaque(node->op) || (found && found->is_refused && found->is_refused(graph, node)))
            return false;
    }
    return true;
}

/* ---- nodes ---- */

/* An attribute as a constant. One integer becomes a list of one, which is what TopK wants. */
static esp_status make_constant(upgrader *up, const esp_node *node, const esp_attr *attr, int *out)
{
    bool is_float = attr->type == ESP_ATTR_FLOAT || attr->type == ESP_ATTR_FLOATS;
    bool is_list = attr->type == ESP_ATTR_INTS || attr->type == ESP_ATTR_FLOATS;
    const void *data = attr->type == ESP_ATTR_INTS     ? (const void *)attr->ints
                       : attr->type == ESP_ATTR_FLOATS ? (const void *)attr->floats
                       : is_float                      ? (const void *)&attr->f
                                                       : (const void *)&attr->i;
    esp_shape shape = {.rank = attr->type == ESP_ATTR_FLOAT ? 0 : 1, .dims = {is_list ? attr->count : 1}};
    esp_tensor *tensor;
    esp_text text = {0};

    esp_text_printf(&text, "%s/%s", node->name, attr->name);
    const char *name = text.is_broken ? NULL : esp_builder_unique_name(up->builder, text.data);
    esp_text_free(&text);
    if (!name)
        return esp_fail_memory(up->err, "a name", strlen(node->name));
    esp_status status = esp_tensor_from(is_float ? ESP_F32 : ESP_I64, &shape, data, &tensor, up->err);
    if (status != ESP_OK)
        return status;
    status = esp_builder_constant(up->builder, name, tensor, out, up->err);
    esp_tensor_unref(tensor);
    return status;
}

/* The position an attribute moves to, 0 when it stays. */
static int moved_to(const rule *how, const char *attr)
{
    for (int i = 0; i < MOVES && how->moves[i].attr; i++)
        if (strcmp(how->moves[i].attr, attr) == 0)
            return how->moves[i].input;
    return 0;
}

static esp_status upgrade_by_rule(upgrader *up, const esp_node *node, const rule *how, const int *old_inputs,
                                  const int *outputs)
{
    esp_attr *attrs = esp_arena_alloc(up->arena, (size_t)node->attr_count + ADDED, sizeof *attrs);
    int inputs[INPUTS_MAX], input_count = node->input_count, attr_count = 0;
    esp_status status = ESP_OK;

    if (!attrs || input_count > INPUTS_MAX)
        return esp_fail_memory(up->err, "a node", (size_t)node->attr_count * sizeof *attrs);
    for (int i = 0; i < INPUTS_MAX; i++)
        inputs[i] = i < input_count ? old_inputs[i] : -1;
    if (how->moved_input[0] > 0) {
        inputs[how->moved_input[1]] = inputs[how->moved_input[0]];
        inputs[how->moved_input[0]] = -1;
        input_count = how->moved_input[1] + 1;
    }
    for (int i = 0; i < node->attr_count && status == ESP_OK; i++) {
        const esp_attr *attr = &node->attrs[i];
        int input = moved_to(how, attr->name);

        if (how->dropped && strcmp(attr->name, how->dropped) == 0)
            continue;
        if (input == 0) {
            attrs[attr_count++] = *attr;
            continue;
        }
        status = make_constant(up, node, attr, &inputs[input]);
        input_count = input + 1 > input_count ? input + 1 : input_count;
    }
    for (int i = 0; i < ADDED && how->added[i].name; i++)
        attrs[attr_count++] = esp_attr_string(how->added[i].name, how->added[i].value);
    if (status != ESP_OK)
        return status;
    return esp_builder_node(up->builder, how->renamed ? how->renamed : node->op->name, node->name, inputs,
                            input_count, outputs, node->output_count, attrs, attr_count, up->err);
}

/* True when all elements from `axis` on lie along one dim, `*out`: then both meanings of the axis agree. */
static bool is_one_axis(const upgrader *up, const esp_node *node, int64_t axis, int64_t *out)
{
    const esp_shape *shape = up->inferred ? esp_inferred_shape(up->inferred, node->inputs[0]) : NULL;
    int64_t long_dims = 0;

    if (!shape || shape->rank < 1)
        return false;
    axis += axis < 0 ? shape->rank : 0;
    *out = axis;
    for (int64_t i = axis; i >= 0 && i < shape->rank; i++) {
        if (shape->dims[i] == 1)
            continue;
        long_dims++;
        *out = i;
    }
    return axis >= 0 && axis < shape->rank && long_dims <= 1;
}

/* Until opset 12 the input is taken for a matrix, everything from the axis on for its columns. */
static esp_status upgrade_softmax(upgrader *up, const esp_node *node, const int *inputs, const int *outputs)
{
    int64_t axis = esp_node_int(node, "axis", 1), one_axis = 0;
    esp_attr old_axis = esp_attr_int("axis", axis), new_axis = esp_attr_int("axis", -1);
    int flat, soft, shape;

    if (is_one_axis(up, node, axis, &one_axis)) {
        new_axis.i = one_axis;
        return esp_builder_node(up->builder, node->op->name, node->name, inputs, 1, outputs, 1, &new_axis, 1,
                                up->err);
    }
    esp_status status =
        esp_builder_add(up->builder, "Flatten", NULL, inputs, 1, &old_axis, 1, NULL, &flat, up->err);
    if (status == ESP_OK)
        status = esp_builder_add(up->builder, node->op->name, node->name, &flat, 1, &new_axis, 1, NULL, &soft,
                                 up->err);
    if (status == ESP_OK)
        status = esp_builder_add(up->builder, "Shape", NULL, inputs, 1, NULL, 0, NULL, &shape, up->err);
    if (status != ESP_OK)
        return status;
    return esp_builder_node(up->builder, "Reshape", NULL, (int[]){soft, shape}, 2, outputs, 1, NULL, 0,
                            up->err);
}

static esp_status add_node(upgrader *up, const esp_node *node)
{
    size_t count = (size_t)node->input_count + (size_t)node->output_count;
    int *inputs = esp_arena_alloc(up->arena, count + 1, sizeof *inputs),
        *outputs = inputs + node->input_count;
    const rule *how = find_rule(node->op->name, esp_graph_opset(up->graph));

    if (!inputs)
        return esp_fail_memory(up->err, "a node", count * sizeof *inputs);
    for (int i = 0; i < node->input_count; i++)
        inputs[i] = node->inputs[i] < 0 ? -1 : up->values[node->inputs[i]];
    for (int i = 0; i < node->output_count; i++)
        outputs[i] = node->outputs[i] < 0 ? -1 : up->values[node->outputs[i]];
    if (how && how->special)
        return how->special(up, node, inputs, outputs);
    if (how)
        return upgrade_by_rule(up, node, how, inputs, outputs);
    return esp_builder_node(up->builder, node->op->name, node->name, inputs, node->input_count, outputs,
                            node->output_count, node->attrs, node->attr_count, up->err);
}

/* ---- the graph ---- */

/* All names are taken before any is made up. */
static esp_status add_values(upgrader *up)
{
    const esp_graph *graph = up->graph;
    esp_status status = ESP_OK;

    for (int i = 0; i < esp_graph_input_count(graph) && status == ESP_OK; i++) {
        int v = esp_graph_input(graph, i);
        const esp_value *value = esp_graph_value(graph, v);

        status = esp_builder_input(up->builder, value->name, value->dtype, &value->shape, value->batch_name,
                                   &up->values[v], up->err);
    }
    for (int v = 0; v < esp_graph_value_count(graph) && status == ESP_OK; v++) {
        const esp_value *value = esp_graph_value(graph, v);

        if (value->constant)
            status = esp_builder_constant(up->builder, value->name, value->constant, &up->values[v], up->err);
        else
            status = esp_builder_value(up->builder, value->name, &up->values[v], up->err);
    }
    return status;
}

static esp_status add_rest(upgrader *up)
{
    const esp_graph *graph = up->graph;
    esp_status status = ESP_OK;

    for (int i = 0; i < esp_graph_output_count(graph) && status == ESP_OK; i++) {
        int v = esp_graph_output(graph, i);
        const esp_value *value = esp_graph_value(graph, v);

        status = esp_builder_output(up->builder, up->values[v], value->dtype,
                                    value->shape.rank < 0 ? NULL : &value->shape, up->err);
    }
    for (int i = 0; i < esp_graph_metadata_count(graph) && status == ESP_OK; i++)
        status = esp_builder_metadata(up->builder, esp_graph_metadata_key(graph, i),
                                      esp_graph_metadata_value(graph, i), up->err);
    return status;
}

static esp_status build(upgrader *up, esp_graph **out)
{
    const esp_graph *graph = up->graph;
    int64_t ir = esp_graph_ir_version(graph);
    esp_status status = esp_builder_new(esp_graph_name(graph), ESP_ONNX_OPSET_SAVED,
                                        ir < IR_OF_OPSET_13 ? IR_OF_OPSET_13 : ir, &up->builder, up->err);

    if (status == ESP_OK)
        status = add_values(up);
    for (int n = 0; n < esp_graph_node_count(graph) && status == ESP_OK; n++)
        status = add_node(up, esp_graph_node(graph, n));
    if (status == ESP_OK)
        status = add_rest(up);
    if (status != ESP_OK) {
        esp_builder_free(up->builder);
        return status;
    }
    return esp_builder_finish(up->builder, out, up->err);
}

esp_status esp_onnx_upgrade(const esp_graph *graph, esp_graph **out, esp_error *err)
{
    upgrader up = {.graph = graph, .err = err};

    *out = NULL;
    if (esp_graph_opset(graph) >= ESP_ONNX_OPSET_SAVED || !can_upgrade(graph)) {
        *out = esp_graph_ref(graph);
        return ESP_OK;
    }
    up.arena = esp_arena_new();
    up.values = esp_alloc((size_t)esp_graph_value_count(graph), sizeof *up.values);
    esp_status status = ESP_OK;
    if (!up.arena || !up.values)
        status =
            esp_fail_memory(err, "writing a model", (size_t)esp_graph_value_count(graph) * sizeof *up.values);
    if (status == ESP_OK && esp_infer(graph, 1, NULL, 0, &up.inferred, NULL) != ESP_OK)
        up.inferred = NULL; /* open sizes: Softmax takes the long way */
    if (status == ESP_OK)
        status = build(&up, out);
    esp_inferred_free(up.inferred);
    esp_free(up.values);
    esp_arena_free(up.arena);
    return status;
}
