/* Works on the decoded message, before a graph is built of it: ranks are those the file declares. The
 * message's memory is esp_alloc's, so what is put in and taken out here is too. */
#include "io/onnx_raise.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "graph/op.h"

/* The opset that models are raised to. */
enum { RAISED = 7 };

/* What the file says about a value. */
typedef struct declared {
    const char *name;
    int64_t rank, last_dim; /* last_dim -1: open, or there is none */
} declared;

typedef struct raising {
    Onnx__GraphProto *graph;
    size_t declared_count, node_capacity, node_count;
    declared *declared;
    Onnx__NodeProto **nodes; /* the graph's, with what was put between them */
    esp_error *err;
} raising;

/* ---- declared ranks ---- */

static int compare_declared(const void *a, const void *b)
{
    return strcmp(((const declared *)a)->name, ((const declared *)b)->name);
}

static void add_info(raising *it, const Onnx__ValueInfoProto *info)
{
    const Onnx__TypeProto *type = info->type;
    if (!info->name || !type || type->value_case != ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE ||
        !type->tensor_type->shape)
        return;
    const Onnx__TensorShapeProto *shape = type->tensor_type->shape;
    const Onnx__TensorShapeProto__Dimension *last = shape->n_dim == 0 ? NULL : shape->dim[shape->n_dim - 1];
    bool is_known = last && last->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
    it->declared[it->declared_count++] =
        (declared){info->name, (int64_t)shape->n_dim, is_known ? last->dim_value : -1};
}

static esp_status list_declared(raising *it)
{
    const Onnx__GraphProto *graph = it->graph;
    size_t count = graph->n_input + graph->n_value_info + graph->n_initializer;
    it->declared = esp_alloc(count + 1, sizeof *it->declared);
    if (!it->declared)
        return esp_fail_memory(it->err, "declared shapes", count * sizeof *it->declared);
    for (size_t i = 0; i < graph->n_initializer; i++) {
        const Onnx__TensorProto *tensor = graph->initializer[i];
        if (tensor->name)
            it->declared[it->declared_count++] =
                (declared){tensor->name, (int64_t)tensor->n_dims,
                           tensor->n_dims > 0 ? tensor->dims[tensor->n_dims - 1] : -1};
    }
    for (size_t i = 0; i < graph->n_input; i++)
        add_info(it, graph->input[i]);
    for (size_t i = 0; i < graph->n_value_info; i++)
        add_info(it, graph->value_info[i]);
    if (it->declared_count > 1)
        qsort(it->declared, it->declared_count, sizeof *it->declared, compare_declared);
    return ESP_OK;
}

static const declared *find_declared(const raising *it, const char *name)
{
    declared wanted = {.name = name};
    return it->declared_count == 0
               ? NULL
               : bsearch(&wanted, it->declared, it->declared_count, sizeof wanted, compare_declared);
}

/* ---- attributes ---- */

static const Onnx__AttributeProto *find_attribute(const Onnx__NodeProto *node, const char *name)
{
    for (size_t i = 0; i < node->n_attribute; i++)
        if (node->attribute[i]->name && strcmp(node->attribute[i]->name, name) == 0)
            return node->attribute[i];
    return NULL;
}

static void message_free(void *data, void *block)
{
    (void)data;
    esp_free(block);
}

static void free_attribute(Onnx__AttributeProto *attribute)
{
    ProtobufCAllocator allocator = {.free = message_free};
    onnx__attribute_proto__free_unpacked(attribute, &allocator);
}

static bool has_attribute(const esp_op *row, const char *name)
{
    for (const esp_attr_spec *spec = row->attrs; spec && spec->name; spec++)
        if (strcmp(spec->name, name) == 0)
            return true;
    return false;
}

/* Takes the attribute away unless the operator still has it. */
static void drop(Onnx__NodeProto *node, const esp_op *row, const char *name)
{
    size_t kept = 0;
    if (has_attribute(row, name))
        return;
    for (size_t i = 0; i < node->n_attribute; i++) {
        Onnx__AttributeProto *attribute = node->attribute[i];
        if (attribute->name && strcmp(attribute->name, name) == 0)
            free_attribute(attribute);
        else
            node->attribute[kept++] = attribute;
    }
    node->n_attribute = kept;
}

/* ---- operands ---- */

static esp_status reserve_node(raising *it)
{
    if (it->node_count < it->node_capacity)
        return ESP_OK;
    size_t capacity = it->node_capacity + it->node_capacity / 2 + 16;
    Onnx__NodeProto **grown = esp_realloc(it->nodes, it->node_count, capacity, sizeof *grown);
    if (!grown)
        return esp_fail_memory(it->err, "nodes", capacity * sizeof *grown);
    it->nodes = grown;
    it->node_capacity = capacity;
    return ESP_OK;
}

static char **new_names(char *take_name)
{
    char **names = take_name ? esp_alloc(1, sizeof *names) : NULL;
    if (names)
        names[0] = take_name;
    else
        esp_free(take_name);
    return names;
}

static Onnx__AttributeProto *new_axes(int64_t first, int64_t count)
{
    Onnx__AttributeProto *axes = esp_alloc(1, sizeof *axes);
    if (!axes)
        return NULL;
    onnx__attribute_proto__init(axes);
    axes->name = esp_strdup("axes");
    axes->has_type = true;
    axes->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS;
    axes->ints = esp_alloc((size_t)count, sizeof *axes->ints);
    axes->n_ints = axes->ints ? (size_t)count : 0;
    for (size_t i = 0; i < axes->n_ints; i++)
        axes->ints[i] = first + (int64_t)i;
    if (axes->name && axes->ints)
        return axes;
    free_attribute(axes);
    return NULL;
}

/* Unsqueeze of `input`; its output is named after the node that will read it. NULL: no memory. */
static Onnx__NodeProto *new_unsqueeze(const char *input, const char *output, int64_t first, int64_t count)
{
    ProtobufCAllocator allocator = {.free = message_free};
    Onnx__NodeProto *node = esp_alloc(1, sizeof *node);
    if (!node)
        return NULL;
    onnx__node_proto__init(node);
    node->op_type = esp_strdup("Unsqueeze");
    node->input = new_names(esp_strdup(input));
    node->n_input = node->input ? 1 : 0;
    node->output = new_names(esp_strdup(output));
    node->n_output = node->output ? 1 : 0;
    node->attribute = esp_alloc(1, sizeof *node->attribute);
    if (node->attribute && (node->attribute[0] = new_axes(first, count)))
        node->n_attribute = 1;
    if (node->op_type && node->n_input == 1 && node->n_output == 1 && node->n_attribute == 1)
        return node;
    onnx__node_proto__free_unpacked(node, &allocator);
    return NULL;
}

/* Puts dims of 1 behind those of the node's second input. */
static esp_status widen_operand(raising *it, Onnx__NodeProto *node, int64_t rank, int64_t count)
{
    const char *output = node->n_output > 0 ? node->output[0] : "";
    size_t size = strlen(node->input[1]) + strlen(output) + 16;
    char *name = esp_alloc(1, size);
    Onnx__NodeProto *unsqueeze = NULL;
    esp_status status = reserve_node(it);
    if (name && status == ESP_OK) {
        /* unique, because the output it is for is */
        snprintf(name, size, "%s/%s/widened", node->input[1], output);
        unsqueeze = new_unsqueeze(node->input[1], name, rank, count);
    }
    if (!unsqueeze) {
        esp_free(name);
        return status == ESP_OK ? esp_fail_memory(it->err, "a node", size) : status;
    }
    it->nodes[it->node_count++] = unsqueeze;
    esp_free(node->input[1]);
    node->input[1] = name;
    return ESP_OK;
}

static esp_status fail_rank(const raising *it, const Onnx__NodeProto *node, const char *value)
{
    return esp_fail(
        it->err, ESP_UNSUPPORTED,
        "node '%.160s' (%.160s) broadcasts as opset 6 does, which needs the shape of '%.160s', but the "
        "file does not declare it",
        node->name ? node->name : "", node->op_type, value);
}

/* Where the second operand begins, counted in dims of the first: `axis`, or what PRelu implies. -1: from the
 * last dim on. */
static int64_t operand_axis(const Onnx__NodeProto *node, const declared *operand)
{
    const Onnx__AttributeProto *broadcast = find_attribute(node, "broadcast");
    const Onnx__AttributeProto *axis = find_attribute(node, "axis");
    if (strcmp(node->op_type, "PRelu") == 0)
        return operand && operand->rank == 1 && operand->last_dim != 1 ? 1 : -1;
    return broadcast && broadcast->i == 1 && axis ? axis->i : -1;
}

static esp_status align_operand(raising *it, Onnx__NodeProto *node, const esp_op *row)
{
    if (node->n_input < 2 || !node->input[0] || !node->input[1] || has_attribute(row, "axis"))
        return ESP_OK;
    const declared *first = find_declared(it, node->input[0]);
    const declared *second = find_declared(it, node->input[1]);
    int64_t axis = operand_axis(node, second);
    if (axis < 0)
        return ESP_OK;
    if (!first || !second)
        return fail_rank(it, node, first ? node->input[1] : node->input[0]);
    int64_t missing = axis > first->rank ? -1 : first->rank - axis - second->rank;
    if (missing < 0 || first->rank > ESP_MAX_RANK)
        return esp_fail(it->err, ESP_SHAPE,
                        "node '%.160s' (%.160s): %" PRId64 " dims from axis %" PRId64
                        " on do not fit %" PRId64,
                        node->name ? node->name : "", node->op_type, second->rank, axis, first->rank);
    return missing == 0 ? ESP_OK : widen_operand(it, node, second->rank, missing);
}

/* ---- the model ---- */

static esp_status raise_node(raising *it, Onnx__NodeProto *node)
{
    const esp_op *row = !node->op_type || !esp_onnx_is_default_domain(node->domain)
                            ? NULL
                            : esp_op_find(node->op_type, RAISED, NULL);
    esp_status status = row ? align_operand(it, node, row) : ESP_OK;
    if (status == ESP_OK && row) {
        if (find_attribute(node, "broadcast"))
            drop(node, row, "axis");
        drop(node, row, "broadcast");
        drop(node, row, "is_test");
        drop(node, row, "consumed_inputs");
    }
    return status == ESP_OK ? reserve_node(it) : status;
}

/* The nodes move to a longer list one by one; what was not reached when memory ends is moved too, so that the
 * message can be freed as a whole. */
static esp_status raise_nodes(raising *it)
{
    Onnx__NodeProto **old = it->graph->node;
    size_t count = it->graph->n_node;
    esp_status status = ESP_OK;
    it->node_capacity = count + 16;
    it->nodes = esp_alloc(it->node_capacity, sizeof *it->nodes);
    if (!it->nodes)
        return esp_fail_memory(it->err, "nodes", it->node_capacity * sizeof *it->nodes);
    for (size_t i = 0; i < count; i++) {
        if (status == ESP_OK)
            status = raise_node(it, old[i]);
        if (it->node_count < it->node_capacity) {
            it->nodes[it->node_count++] = old[i];
        } else { /* no memory */
            ProtobufCAllocator allocator = {.free = message_free};
            onnx__node_proto__free_unpacked(old[i], &allocator);
        }
    }
    esp_free(old);
    it->graph->node = it->nodes;
    it->graph->n_node = it->node_count;
    return status;
}

esp_status esp_onnx_raise(Onnx__ModelProto *model, esp_error *err)
{
    Onnx__OperatorSetIdProto *import = NULL;
    for (size_t i = 0; i < model->n_opset_import; i++)
        if (esp_onnx_is_default_domain(model->opset_import[i]->domain))
            import = model->opset_import[i];
    if (!import || import->version < 1 || import->version >= RAISED || !model->graph)
        return ESP_OK;
    raising it = {.graph = model->graph, .err = err};
    esp_status status = list_declared(&it);
    if (status == ESP_OK)
        status = raise_nodes(&it);
    esp_free(it.declared);
    if (status == ESP_OK) {
        import->version = RAISED;
        import->has_version = true;
    }
    return status;
}
