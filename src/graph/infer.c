/* One pass over the nodes in order. Every value gets its type and shape from its node's infer function; a
 * node whose inputs are all known, or that reads shapes only, is run at once and its result kept, so that the
 * arithmetic on shapes that exporters leave around is gone before anything runs. Results are tensors shared
 * by reference with whoever needs them later (executors, simplification). */
#include "graph/infer.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "graph/infer_internal.h"
#include "graph/op.h"
#include "graph/opaque.h"

/* What folding may add to memory: the results of all nodes of one inference together take at most this many
 * bytes, and FOLD_FACTOR times those of the constants in the graph. A node beyond that, or with more work
 * than FOLD_WORK, stays a node. Test models are about that give their weights as ConstantOfShape: those of
 * VGG19 take 548 MiB, and must become weights; a file of a few bytes that asks for gigabytes gets none. */
#define FOLD_BYTES  ((size_t)704 << 20)
#define FOLD_FACTOR 4
#define FOLD_WORK   ((double)(1u << 28))

typedef struct value_facts {
    esp_shape shape; /* rank -1: unknown */
    esp_dtype dtype;
    bool is_pure;         /* known from constants alone */
    bool is_tainted;      /* follows from what a file declares about a node nobody can infer */
    esp_tensor *constant; /* a reference, or NULL */
} value_facts;

struct esp_inferred {
    int value_count, node_count;
    value_facts *values;
    char *batch_name;
    char **refusals;    /* per node: why it cannot be inferred in this form, or NULL */
    size_t fold_budget; /* bytes that folding may still take */
};

void esp_inferred_free(esp_inferred *inferred)
{
    if (inferred == NULL)
        return;
    for (int v = 0; inferred->values != NULL && v < inferred->value_count; v++)
        esp_tensor_unref(inferred->values[v].constant);
    for (int n = 0; inferred->refusals != NULL && n < inferred->node_count; n++)
        esp_free(inferred->refusals[n]);
    esp_free(inferred->refusals);
    esp_free(inferred->values);
    esp_free(inferred->batch_name);
    esp_free(inferred);
}

const esp_shape *esp_inferred_shape(const esp_inferred *inferred, int value)
{
    return &inferred->values[value].shape;
}

esp_dtype esp_inferred_dtype(const esp_inferred *inferred, int value)
{
    return inferred->values[value].dtype;
}

const esp_tensor *esp_inferred_constant(const esp_inferred *inferred, int value)
{
    return inferred->values[value].constant;
}

bool esp_inferred_is_pure(const esp_inferred *inferred, int value)
{
    return inferred->values[value].is_pure;
}

bool esp_inferred_is_tainted(const esp_inferred *inferred, int value)
{
    return inferred->values[value].is_tainted;
}

const char *esp_inferred_refusal(const esp_inferred *inferred, int node)
{
    return inferred->refusals[node];
}

static esp_view view_of(const esp_inferred *inferred, int value)
{
    const value_facts *facts = &inferred->values[value];
    if (facts->constant != NULL)
        return esp_tensor_view(facts->constant);
    return (esp_view){.dtype = facts->dtype, .shape = facts->shape};
}

void esp_inferred_views(const esp_inferred *inferred, const esp_graph *graph, int node, esp_view *inputs,
                        const esp_view **input_pointers, esp_view *outputs)
{
    const esp_node *n = esp_graph_node(graph, node);
    for (int i = 0; i < n->input_count; i++) {
        if (n->inputs[i] >= 0)
            inputs[i] = view_of(inferred, n->inputs[i]);
        input_pointers[i] = n->inputs[i] >= 0 ? &inputs[i] : NULL;
    }
    for (int i = 0; i < n->output_count; i++)
        outputs[i] = n->outputs[i] >= 0 ? view_of(inferred, n->outputs[i]) : (esp_view){0};
}

/* ---- inputs ---- */

static const esp_shape *given_shape(const esp_infer_request *request, const char *name)
{
    for (int i = 0; i < request->input_shape_count; i++) {
        if (strcmp(request->input_shapes[i].name, name) == 0)
            return &request->input_shapes[i].shape;
    }
    return NULL;
}

static esp_status check_given_names(const esp_infer_request *request, esp_error *err)
{
    const esp_graph *graph = request->graph;
    for (int i = 0; i < request->input_shape_count; i++) {
        const char *name = request->input_shapes[i].name;
        bool is_found = false;
        for (int j = 0; j < esp_graph_input_count(graph); j++)
            is_found = is_found || strcmp(esp_graph_value(graph, esp_graph_input(graph, j))->name, name) == 0;
        if (is_found)
            continue;
        esp_fail(err, ESP_INVALID, "a shape is given for '%s', which is no input of the network", name);
        if (esp_graph_input_count(graph) > 0)
            esp_error_set_hint(err, "its first input is '%s'",
                               esp_graph_value(graph, esp_graph_input(graph, 0))->name);
        return ESP_INVALID;
    }
    return ESP_OK;
}

/* The concrete shape of an input. `*is_stretched` when a batch of 1 fixed by the file was replaced by a
 * larger one. A fixed leading dim is taken for the batch in the first input, and in others that look like it.
 */
static esp_status resolve_input(const esp_infer_request *request, const esp_value *value, esp_shape *out,
                                bool *is_stretched, esp_error *err)
{
    const esp_value *first = esp_graph_value(request->graph, esp_graph_input(request->graph, 0));
    const esp_shape *given = given_shape(request, value->name),
                    *first_given = given_shape(request, first->name);
    int first_rank = first_given != NULL ? first_given->rank : first->shape.rank;
    esp_shape shape = given != NULL ? *given : value->shape;
    char text[96];
    for (int i = 0; i < shape.rank; i++) {
        if (shape.dims[i] == ESP_DIM_BATCH)
            shape.dims[i] = request->batch;
    }
    /* At the batch the file itself fixes nothing needs to grow. */
    bool is_own_batch = first_rank > 0 && first_given == NULL && first->shape.dims[0] == request->batch;
    if (shape.rank > 0 && shape.rank == first_rank && shape.dims[0] == 1 && request->batch > 1 &&
        !is_own_batch) {
        shape.dims[0] = request->batch;
        *is_stretched = *is_stretched || value->shape.rank < 1 || value->shape.dims[0] == 1;
    } else if (shape.rank > 0 && value == first && given == NULL && shape.dims[0] > 0 &&
               shape.dims[0] != request->batch) {
        return esp_fail(err, ESP_SHAPE, "input '%s' is fixed to a batch of %" PRId64 ", asked for %" PRId64,
                        value->name, shape.dims[0], request->batch);
    }
    bool is_known = shape.rank >= 0;
    for (int i = 0; i < shape.rank; i++)
        is_known = is_known && shape.dims[i] >= 0;
    if (!is_known && (request->allows_unknown || request->trusts_file)) {
        shape = (esp_shape){.rank = -1};
    } else if (!is_known) {
        esp_fail(err, ESP_SHAPE, "input '%s' has no fixed size: %s", value->name,
                 shape.rank < 0 ? "the file declares none" : esp_shape_format(&shape, text, sizeof text));
        esp_error_set_hint(err, "give its shape, as in --input %s:1x3x224x224", value->name);
        return ESP_SHAPE;
    }
    *out = shape;
    return ESP_OK;
}

static esp_status set_inputs(const esp_infer_request *request, esp_inferred *inferred, bool *is_stretched,
                             esp_error *err)
{
    const esp_graph *graph = request->graph;
    for (int v = 0; v < inferred->value_count; v++) {
        const esp_value *value = esp_graph_value(graph, v);
        value_facts *facts = &inferred->values[v];
        *facts = (value_facts){.shape = {.rank = -1}, .dtype = value->dtype};
        if (value->constant == NULL)
            continue;
        facts->constant = esp_tensor_ref(value->constant);
        facts->shape = *esp_tensor_shape(value->constant);
        inferred->fold_budget +=
            FOLD_FACTOR * (size_t)esp_tensor_elements(value->constant) * esp_dtype_size(value->dtype);
        facts->is_pure = true;
    }
    for (int i = 0; i < esp_graph_input_count(graph); i++) {
        int v = esp_graph_input(graph, i);
        esp_status status =
            resolve_input(request, esp_graph_value(graph, v), &inferred->values[v].shape, is_stretched, err);
        if (status != ESP_OK)
            return status;
        inferred->values[v].is_tainted = request->trusts_file && inferred->values[v].shape.rank < 0;
        const char *name = esp_graph_value(graph, v)->batch_name;
        if (inferred->batch_name == NULL && (inferred->batch_name = esp_strdup(name)) == NULL)
            return esp_fail_memory(err, "a name", strlen(name));
    }
    return ESP_OK;
}

/* ---- nodes ---- */

/* Room for the views of any node of the graph. */
typedef struct view_room {
    esp_view *inputs, *outputs;
    const esp_view **input_pointers;
    esp_view **output_pointers;
} view_room;

static void free_room(view_room *room)
{
    esp_free(room->inputs);
    esp_free(room->outputs);
    esp_free(room->input_pointers);
    esp_free(room->output_pointers);
}

static bool make_room(const esp_graph *graph, view_room *room)
{
    size_t inputs = 1, outputs = 1;
    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        const esp_node *node = esp_graph_node(graph, n);
        inputs = (size_t)node->input_count > inputs ? (size_t)node->input_count : inputs;
        outputs = (size_t)node->output_count > outputs ? (size_t)node->output_count : outputs;
    }
    *room = (view_room){.inputs = esp_alloc(inputs, sizeof(esp_view)),
                        .outputs = esp_alloc(outputs, sizeof(esp_view)),
                        .input_pointers = esp_alloc(inputs, sizeof(esp_view *)),
                        .output_pointers = esp_alloc(outputs, sizeof(esp_view *))};
    return room->inputs != NULL && room->outputs != NULL && room->input_pointers != NULL &&
           room->output_pointers != NULL;
}

/* "node 'conv1' (Conv) on 1x3x32x32, 16x3x3x3" */
static void name_node(const esp_infer_context *context, esp_error *err)
{
    if (err == NULL)
        return;
    char text[256] = "", shape[96];
    size_t length = 0;
    for (int i = 0; i < context->input_count && length + 100 < sizeof text; i++) {
        const char *form = context->inputs[i] == NULL
                               ? "-"
                               : esp_shape_format(&context->inputs[i]->shape, shape, sizeof shape);
        int printed = snprintf(text + length, sizeof text - length, "%s%s", i == 0 ? " on " : ", ", form);
        length += printed > 0 ? (size_t)printed : 0;
    }
    esp_error_prefix(err, "node '%s' (%s)%s", context->node->name, context->node->op->name, text);
}

/* Multiply-accumulates, or elements that are read: counted generously, for FOLD_WORK. */
static double fold_work(const esp_infer_context *context, double elements)
{
    const esp_node *node = context->node;
    const esp_attr *window = esp_node_attr(node, "kernel_shape");
    double work = elements;
    for (int i = 0; window != NULL && window->type == ESP_ATTR_INTS && i < window->count; i++)
        work *= (double)window->ints[i];
    work *= (double)esp_node_int(node, "size", 1);
    double macs = node->op->macs == NULL ? 0 : (double)node->op->macs(context);
    return macs > work ? macs : work;
}

/* Whether the results fit what folding may still take; then they are charged for. */
static bool can_fold(const esp_infer_context *context, esp_inferred *inferred)
{
    double bytes = 0, elements = 0;
    for (int i = 0; i < context->output_count; i++) {
        if (context->node->outputs[i] < 0)
            continue;
        double count = (double)esp_shape_elements(&context->outputs[i].shape);
        elements += count;
        bytes += count * (double)esp_dtype_size(context->outputs[i].dtype);
    }
    for (int i = 0; i < context->input_count; i++) {
        if (context->inputs[i] != NULL)
            elements += (double)esp_shape_elements(&context->inputs[i]->shape);
    }
    if (bytes > (double)inferred->fold_budget || fold_work(context, elements) > FOLD_WORK)
        return false;
    inferred->fold_budget -= (size_t)bytes;
    return true;
}

/* Runs a node whose result is known now. */
static esp_status fold_node(const esp_infer_context *context, view_room *room, bool is_pure,
                            esp_inferred *inferred, esp_error *err)
{
    const esp_node *node = context->node;
    esp_tensor **tensors = esp_alloc_zero((size_t)node->output_count, sizeof *tensors);
    esp_status status = tensors == NULL
                            ? esp_fail_memory(err, "folding", (size_t)node->output_count * sizeof *tensors)
                            : ESP_OK;
    for (int i = 0; status == ESP_OK && i < node->output_count; i++) {
        room->output_pointers[i] = NULL;
        if (node->outputs[i] < 0)
            continue;
        status = esp_tensor_new(context->outputs[i].dtype, &context->outputs[i].shape, &tensors[i], err);
        if (status != ESP_OK)
            continue;
        context->outputs[i].data = esp_tensor_data_mut(tensors[i]);
        room->output_pointers[i] = &context->outputs[i];
    }
    esp_op_context run = {.node = node,
                          .opset = context->opset,
                          .input_count = context->input_count,
                          .output_count = context->output_count,
                          .inputs = context->inputs,
                          .outputs = room->output_pointers};
    if (status == ESP_OK)
        status = esp_op_run_once(&run, err);
    for (int i = 0; tensors != NULL && i < node->output_count; i++) {
        if (status == ESP_OK && tensors[i] != NULL) {
            inferred->values[node->outputs[i]].constant = tensors[i];
            inferred->values[node->outputs[i]].is_pure = is_pure;
        } else {
            esp_tensor_unref(tensors[i]);
        }
    }
    esp_free(tensors);
    return status;
}

/* Takes the result of a pure node from an earlier inference. */
static bool reuse_folded(const esp_inferred *folded, const esp_node *node, esp_inferred *inferred)
{
    for (int i = 0; i < node->output_count; i++) {
        int v = node->outputs[i];
        if (v >= 0 && (folded == NULL || !folded->values[v].is_pure))
            return false;
    }
    for (int i = 0; i < node->output_count; i++) {
        int v = node->outputs[i];
        if (v < 0)
            continue;
        inferred->values[v].constant = esp_tensor_ref(folded->values[v].constant);
        inferred->values[v].is_pure = true;
    }
    return true;
}

/* The shape in numbers, or unknown as a whole. */
static esp_shape resolve_declared(const esp_infer_request *request, esp_shape shape)
{
    for (int i = 0; i < shape.rank; i++) {
        if (shape.dims[i] == ESP_DIM_BATCH)
            shape.dims[i] = request->batch;
        if (shape.dims[i] < 0)
            return (esp_shape){.rank = -1};
    }
    return esp_shape_elements(&shape) < 0 ? (esp_shape){.rank = -1} : shape;
}

/* A node that cannot be inferred: its outputs are what the file declares, if anything. */
static void trust_declared(const esp_infer_request *request, const esp_node *node, bool has_declared,
                           esp_inferred *inferred)
{
    for (int i = 0; i < node->output_count; i++) {
        esp_shape shape = {.rank = -1};
        esp_dtype dtype = ESP_F32;
        if (node->outputs[i] < 0)
            continue;
        if (has_declared)
            esp_opaque_declared(request->graph, node, i, &dtype, &shape);
        value_facts *facts = &inferred->values[node->outputs[i]];
        facts->is_tainted = true;
        facts->shape = resolve_declared(request, shape);
        facts->dtype = dtype;
    }
}

/* An operator in a form that is not supported, in a model that is being read: noted, for simplify.c to make
 * the node opaque. */
static esp_status note_refusal(const esp_infer_request *request, int n, const esp_error *why,
                               esp_inferred *inferred, esp_error *err)
{
    inferred->refusals[n] = esp_strdup(why->message);
    if (inferred->refusals[n] == NULL)
        return esp_fail_memory(err, "a message", strlen(why->message));
    trust_declared(request, esp_graph_node(request->graph, n), true, inferred);
    return ESP_OK;
}

static esp_status check_sizes(const esp_infer_context *context, esp_error *err)
{
    for (int i = 0; i < context->output_count; i++) {
        if (context->node->outputs[i] >= 0 && esp_shape_elements(&context->outputs[i].shape) < 0)
            return esp_fail(err, ESP_SHAPE, "output %d would be too large", i);
    }
    return ESP_OK;
}

/* What follows from a node that failed: an error, or nothing known where something before is not known. */
static esp_status handle_failure(const esp_infer_request *request, int n, const esp_infer_context *context,
                                 bool is_partial, bool is_tainted, const esp_error *why,
                                 esp_inferred *inferred, esp_error *err)
{
    if (is_tainted && why->code != ESP_NO_MEMORY) {
        trust_declared(request, context->node, false, inferred);
        return ESP_OK;
    }
    if (is_partial && why->code != ESP_NO_MEMORY)
        return ESP_OK;
    if (request->allows_unknown && why->code == ESP_UNSUPPORTED)
        return note_refusal(request, n, why, inferred, err);
    esp_status status = why->code;
    if (err != NULL)
        *err = *why;
    name_node(context, err);
    return status;
}

static esp_status infer_node(const esp_infer_request *request, int n, view_room *room, bool is_partial,
                             esp_inferred *inferred, esp_error *err)
{
    const esp_node *node = esp_graph_node(request->graph, n);
    bool is_known = true, is_pure = true, is_missing = false, is_tainted = false;
    if (esp_op_is_opaque(node->op)) {
        trust_declared(request, node, true, inferred);
        return ESP_OK;
    }
    esp_inferred_views(inferred, request->graph, n, room->inputs, room->input_pointers, room->outputs);
    for (int i = 0; i < node->input_count; i++) {
        const value_facts *facts = node->inputs[i] < 0 ? NULL : &inferred->values[node->inputs[i]];
        is_known = is_known && (facts == NULL || facts->constant != NULL);
        is_pure = is_pure && (facts == NULL || facts->is_pure);
        is_missing = is_missing || (facts != NULL && facts->shape.rank < 0);
        is_tainted = is_tainted || (facts != NULL && facts->is_tainted);
    }
    if (is_missing && is_tainted)
        trust_declared(request, node, false, inferred);
    if (is_missing && (is_partial || is_tainted))
        return ESP_OK;
    esp_infer_context context = {.node = node,
                                 .opset = esp_graph_opset(request->graph),
                                 .input_count = node->input_count,
                                 .inputs = room->input_pointers,
                                 .output_count = node->output_count,
                                 .outputs = room->outputs};
    esp_error why = {0};
    esp_status status = node->op->infer(&context, &why);
    if (status == ESP_OK)
        status = check_sizes(&context, &why);
    why.code = status;
    if (status != ESP_OK)
        return handle_failure(request, n, &context, is_partial, is_tainted, &why, inferred, err);
    for (int i = 0; i < node->output_count; i++) {
        if (node->outputs[i] < 0)
            continue;
        inferred->values[node->outputs[i]].shape = room->outputs[i].shape;
        inferred->values[node->outputs[i]].dtype = room->outputs[i].dtype;
        inferred->values[node->outputs[i]].is_tainted = is_tainted;
    }
    if (!is_known && (node->op->flags & ESP_OP_SHAPE_ONLY) == 0)
        return ESP_OK;
    if (is_pure && reuse_folded(request->folded, node, inferred))
        return ESP_OK;
    if (!can_fold(&context, inferred))
        return ESP_OK;
    status = fold_node(&context, room, is_pure, inferred, &why);
    why.code = status;
    return status == ESP_OK
               ? ESP_OK
               : handle_failure(request, n, &context, is_partial, is_tainted, &why, inferred, err);
}

/* A model whose file fixes the batch to 1 may still run at others; it does when its outputs grow along. */
static esp_status check_stretched(const esp_infer_request *request, const esp_inferred *inferred,
                                  esp_error *err)
{
    for (int i = 0; i < esp_graph_output_count(request->graph); i++) {
        int v = esp_graph_output(request->graph, i);
        const esp_shape *shape = &inferred->values[v].shape;
        char text[96];
        if (shape->rank > 0 && shape->dims[0] != request->batch && !inferred->values[v].is_tainted)
            return esp_fail(err, ESP_SHAPE, "output '%s' would be %s at a batch of %" PRId64,
                            esp_graph_value(request->graph, v)->name,
                            esp_shape_format(shape, text, sizeof text), request->batch);
    }
    return ESP_OK;
}

esp_status esp_infer_run(const esp_infer_request *request, esp_inferred **out, esp_error *err)
{
    const esp_graph *graph = request->graph;
    *out = NULL;
    if (request->batch < 1)
        return esp_fail(err, ESP_INVALID, "batch is %" PRId64 ", expected 1 or more", request->batch);
    esp_status status = check_given_names(request, err);
    if (status != ESP_OK)
        return status;
    view_room room = {0};
    bool is_stretched = false, is_partial = false;
    esp_inferred *inferred = esp_alloc_zero(1, sizeof *inferred);
    if (inferred != NULL) {
        inferred->value_count = esp_graph_value_count(graph);
        inferred->node_count = esp_graph_node_count(graph);
        inferred->fold_budget = FOLD_BYTES;
        inferred->values = esp_alloc_zero((size_t)inferred->value_count, sizeof *inferred->values);
        inferred->refusals = esp_alloc_zero((size_t)inferred->node_count, sizeof *inferred->refusals);
    }
    if (inferred == NULL || inferred->values == NULL || inferred->refusals == NULL ||
        !make_room(graph, &room))
        status = esp_fail_memory(err, "shape inference", 0);
    if (status == ESP_OK)
        status = set_inputs(request, inferred, &is_stretched, err);
    for (int i = 0; status == ESP_OK && i < esp_graph_input_count(graph); i++)
        is_partial = is_partial || inferred->values[esp_graph_input(graph, i)].shape.rank < 0;
    for (int n = 0; status == ESP_OK && n < esp_graph_node_count(graph); n++)
        status = infer_node(request, n, &room, is_partial, inferred, err);
    if (status == ESP_OK && is_stretched && !is_partial)
        status = check_stretched(request, inferred, err);
    if (is_stretched && (status == ESP_SHAPE || status == ESP_UNSUPPORTED)) {
        status = ESP_SHAPE;
        if (err != NULL)
            err->code = status;
        esp_error_prefix(err, "the model is fixed to a batch of 1");
    }
    free_room(&room);
    if (status == ESP_OK)
        *out = inferred;
    else
        esp_inferred_free(inferred);
    return status;
}

esp_status esp_infer(const esp_graph *graph, int64_t batch, const esp_input_shape *input_shapes,
                     int input_shape_count, esp_inferred **out, esp_error *err)
{
    esp_infer_request request = {
        .graph = graph, .batch = batch, .input_shapes = input_shapes, .input_shape_count = input_shape_count};
    return esp_infer_run(&request, out, err);
}

esp_status esp_infer_declared(const esp_graph *graph, int64_t batch, esp_inferred **out, esp_error *err)
{
    esp_infer_request request = {.graph = graph, .batch = batch, .trusts_file = true};
    return esp_infer_run(&request, out, err);
}

/* ---- for people ---- */

/* A dim that is `one` at batch 1 and `two` at batch 2. */
static int format_dim(const esp_inferred *inferred, int64_t one, int64_t two, char *buffer, size_t size)
{
    const char *name = inferred->batch_name == NULL ? "N" : inferred->batch_name;
    if (one == two)
        return snprintf(buffer, size, "%" PRId64, one);
    if (one == 1 && two == 2)
        return snprintf(buffer, size, "%s", name);
    if (two == 2 * one)
        return snprintf(buffer, size, "%" PRId64 "%s", one, name);
    return snprintf(buffer, size, "?");
}

char *esp_shape_format_batch(const esp_inferred *inferred_one, const esp_inferred *inferred_two, int value,
                             char *buffer, size_t size)
{
    const esp_shape *one = esp_inferred_shape(inferred_one, value);
    const esp_shape *two = inferred_two == NULL ? one : esp_inferred_shape(inferred_two, value);
    if (one->rank != two->rank || one->rank <= 0)
        return esp_shape_format(one, buffer, size);
    size_t length = 0;
    for (int i = 0; i < one->rank && length < size; i++) {
        if (i > 0 && length + 1 < size)
            buffer[length++] = 'x';
        int printed = format_dim(inferred_one, one->dims[i], two->dims[i], buffer + length, size - length);
        length += printed > 0 ? (size_t)printed : 0;
    }
    return buffer;
}
