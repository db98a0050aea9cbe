/* Building graphs: the builder collects values and nodes in any order, and checks each against the op table
 * as it comes. builder_finish.c makes the graph. */
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "graph/builder_internal.h"
#include "graph/op.h"
#include "graph/opaque.h"

/* After so many tries a made-up name gets a number nobody has had: many nodes of one name cost no search
 * each. */
#define SUFFIX_TRIES 16

/* Makes room for one more element in a growing array. */
static bool reserve(void **items, int count, int *capacity, size_t size)
{
    if (count < *capacity)
        return true;
    int larger = *capacity == 0 ? 32 : *capacity * 2;
    void *grown = esp_realloc(*items, (size_t)count, (size_t)larger, size);
    if (grown == NULL)
        return false;
    *items = grown;
    *capacity = larger;
    return true;
}

static bool append_int(int **items, int *count, int *capacity, int item)
{
    void *block = *items;
    if (!reserve(&block, *count, capacity, sizeof **items))
        return false;
    *items = block;
    (*items)[(*count)++] = item;
    return true;
}

esp_status esp_builder_new(const char *graph_name, int64_t opset, int64_t ir_version, esp_builder **out,
                           esp_error *err)
{
    *out = NULL;
    if (opset < ESP_OPSET_FIRST || opset > ESP_OPSET_LAST)
        return esp_fail(err, ESP_UNSUPPORTED, "graph '%s': opset %lld, expected %d to %d",
                        graph_name == NULL ? "" : graph_name, (long long)opset, ESP_OPSET_FIRST,
                        ESP_OPSET_LAST);
    esp_builder *builder = esp_alloc_zero(1, sizeof *builder);
    if (builder == NULL)
        return esp_builder_no_memory(err);
    builder->opset = opset;
    builder->ir_version = ir_version;
    builder->arena = esp_arena_new();
    builder->name = builder->arena == NULL ? NULL : esp_arena_strdup(builder->arena, graph_name);
    if (builder->name == NULL) {
        esp_builder_free(builder);
        return esp_builder_no_memory(err);
    }
    *out = builder;
    return ESP_OK;
}

void esp_builder_free(esp_builder *builder)
{
    if (builder == NULL)
        return;
    for (int i = 0; i < builder->value_count; i++)
        esp_tensor_unref((esp_tensor *)builder->values[i].value.constant);
    for (int i = 0; i < builder->tensor_count; i++)
        esp_tensor_unref(builder->tensors[i]);
    esp_free(builder->tensors);
    esp_free(builder->values);
    esp_free(builder->nodes);
    esp_free(builder->inputs);
    esp_free(builder->outputs);
    esp_name_table_free(&builder->value_names);
    esp_name_table_free(&builder->node_names);
    esp_metadata_free(&builder->metadata);
    esp_arena_free(builder->arena);
    esp_free(builder);
}

/* ---- values ---- */

/* A new value; the name must be free. */
static esp_status add_value(esp_builder *builder, const char *name, int *out, esp_error *err)
{
    if (name == NULL || name[0] == '\0')
        return esp_fail(err, ESP_INVALID, "graph '%s': a value without a name", builder->name);
    void *block = builder->values;
    char *copy = esp_arena_strdup(builder->arena, name);
    if (copy == NULL ||
        !reserve(&block, builder->value_count, &builder->value_capacity, sizeof *builder->values))
        return esp_builder_no_memory(err);
    builder->values = block;
    if (!esp_name_table_add(&builder->value_names, copy, builder->value_count))
        return esp_builder_no_memory(err);
    esp_value_draft *draft = &builder->values[builder->value_count];
    *draft =
        (esp_value_draft){.value = {.name = copy, .dtype = ESP_F32, .shape = {.rank = -1}, .producer = -1}};
    *out = builder->value_count++;
    return ESP_OK;
}

/* A value that an input or a constant defines: new, or met before as the input of a node. */
static esp_status define_value(esp_builder *builder, const char *name, const char *what, int *out,
                               esp_error *err)
{
    int index = name == NULL ? -1 : esp_name_table_find(&builder->value_names, name);
    if (index < 0)
        return add_value(builder, name, out, err);
    const esp_value_draft *draft = &builder->values[index];
    if (draft->is_input || draft->value.constant != NULL || draft->value.producer >= 0)
        return esp_fail(err, ESP_INVALID, "graph '%s': %s '%s' has the name of another value", builder->name,
                        what, name);
    *out = index;
    return ESP_OK;
}

esp_status esp_builder_input(esp_builder *builder, const char *name, esp_dtype dtype, const esp_shape *shape,
                             const char *batch_name, int *out, esp_error *err)
{
    *out = -1;
    bool has_batch_name = batch_name != NULL && batch_name[0] != '\0';
    const char *batch = esp_arena_strdup(builder->arena, has_batch_name ? batch_name : "N");
    if (batch == NULL)
        return esp_builder_no_memory(err);
    int index = -1;
    esp_status status = define_value(builder, name, "input", &index, err);
    if (status != ESP_OK)
        return status;
    if (!append_int(&builder->inputs, &builder->input_count, &builder->input_capacity, index))
        return esp_builder_no_memory(err);
    esp_value_draft *draft = &builder->values[index];
    draft->is_input = true;
    draft->value.dtype = dtype;
    draft->value.shape = *shape;
    draft->value.batch_name = batch;
    *out = index;
    return ESP_OK;
}

esp_status esp_builder_constant(esp_builder *builder, const char *name, const esp_tensor *tensor, int *out,
                                esp_error *err)
{
    *out = -1;
    int index = -1;
    esp_status status = define_value(builder, name, "constant", &index, err);
    if (status != ESP_OK)
        return status;
    esp_value_draft *draft = &builder->values[index];
    draft->value.constant = esp_tensor_ref(tensor);
    draft->value.dtype = esp_tensor_dtype(tensor);
    draft->value.shape = *esp_tensor_shape(tensor);
    *out = index;
    return ESP_OK;
}

esp_status esp_builder_value(esp_builder *builder, const char *name, int *out, esp_error *err)
{
    *out = -1;
    int index = name == NULL ? -1 : esp_name_table_find(&builder->value_names, name);
    if (index >= 0) {
        *out = index;
        return ESP_OK;
    }
    return add_value(builder, name, out, err);
}

/* `wanted`, then `wanted_2`, ... : the first that is in neither table. */
static const char *unique_name(esp_builder *builder, const char *wanted)
{
    esp_text text = {0};
    const char *result = NULL;
    for (int attempt = 1; result == NULL; attempt++) {
        int suffix = attempt;
        if (attempt > SUFFIX_TRIES)
            suffix = builder->suffix = (builder->suffix > SUFFIX_TRIES ? builder->suffix : SUFFIX_TRIES) + 1;
        text.length = 0;
        esp_text_append(&text, wanted);
        if (suffix > 1)
            esp_text_printf(&text, "_%d", suffix);
        if (text.is_broken || text.data == NULL)
            break;
        if (esp_name_table_find(&builder->value_names, text.data) >= 0 ||
            esp_name_table_find(&builder->node_names, text.data) >= 0)
            continue;
        result = esp_arena_strdup(builder->arena, text.data);
        if (result == NULL)
            break;
    }
    esp_text_free(&text);
    return result;
}

const char *esp_builder_unique_name(esp_builder *builder, const char *wanted)
{
    return unique_name(builder, wanted == NULL || wanted[0] == '\0' ? "value" : wanted);
}

/* ---- nodes ---- */

static const char *attr_type_name(esp_attr_type type)
{
    static const char *const names[] = {"an int", "a float", "a string", "a tensor",
                                        "ints",   "floats",  "strings",  "bytes"};
    return names[type];
}

static bool copy_attr_strings(esp_builder *builder, esp_attr *attr)
{
    const char **copies = esp_arena_alloc(builder->arena, (size_t)attr->count + 1, sizeof *copies);
    for (int i = 0; copies != NULL && i < attr->count; i++) {
        copies[i] = esp_arena_strdup(builder->arena, attr->strings[i]);
        if (copies[i] == NULL)
            return false;
    }
    attr->strings = copies;
    return copies != NULL;
}

/* Copies what an attribute points to into the arena; tensors are shared by reference. */
static bool copy_attr(esp_builder *builder, const esp_attr *from, esp_attr *to)
{
    size_t count = (size_t)from->count;
    void *block = builder->tensors;
    *to = *from;
    to->name = esp_arena_strdup(builder->arena, from->name);
    if (to->name == NULL)
        return false;
    switch (from->type) {
    case ESP_ATTR_INT:
    case ESP_ATTR_FLOAT:
        return true;
    case ESP_ATTR_STRING:
        to->s = esp_arena_strdup(builder->arena, from->s);
        return to->s != NULL;
    case ESP_ATTR_TENSOR:
        if (!reserve(&block, builder->tensor_count, &builder->tensor_capacity, sizeof *builder->tensors))
            return false;
        builder->tensors = block;
        builder->tensors[builder->tensor_count++] = esp_tensor_ref(from->tensor);
        return true;
    case ESP_ATTR_INTS:
        to->ints = esp_arena_copy(builder->arena, from->ints, count * sizeof *from->ints);
        return to->ints != NULL;
    case ESP_ATTR_FLOATS:
        to->floats = esp_arena_copy(builder->arena, from->floats, count * sizeof *from->floats);
        return to->floats != NULL;
    case ESP_ATTR_STRINGS:
        return copy_attr_strings(builder, to);
    case ESP_ATTR_BYTES:
        to->s = esp_arena_copy(builder->arena, from->s, count);
        return to->s != NULL;
    }
    return false;
}

static const esp_attr_spec *find_spec(const esp_op *op, const char *name)
{
    for (const esp_attr_spec *spec = op->attrs; spec != NULL && spec->name != NULL; spec++) {
        if (strcmp(spec->name, name) == 0)
            return spec;
    }
    return NULL;
}

static esp_status check_attr(const esp_op *op, const char *node_name, const esp_attr *attr, esp_error *err)
{
    const esp_attr_spec *spec = find_spec(op, attr->name);
    if (spec == NULL)
        return esp_fail(err, ESP_UNSUPPORTED, "node '%s' (%s): unknown attribute '%s'", node_name, op->name,
                        attr->name);
    if (spec->type != attr->type &&
        !(attr->count == 0 && spec->type >= ESP_ATTR_INTS && attr->type >= ESP_ATTR_INTS))
        return esp_fail(err, ESP_FORMAT, "node '%s' (%s): attribute '%s' is %s, expected %s", node_name,
                        op->name, attr->name, attr_type_name(attr->type), attr_type_name(spec->type));
    return ESP_OK;
}

static bool attr_is_given(const esp_attr *attrs, int count, const char *name)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(attrs[i].name, name) == 0)
            return true;
    }
    return false;
}

/* The op table's defaults of what the node leaves out. Table texts are well-formed numbers (a test reads
 * all). */
static bool add_defaults(esp_builder *builder, esp_node *node)
{
    int spec_count = 0;
    for (const esp_attr_spec *spec = node->op->attrs; spec != NULL && spec->name != NULL; spec++)
        spec_count++;
    esp_attr *defaults = esp_arena_alloc(builder->arena, (size_t)spec_count + 1, sizeof *defaults);
    if (defaults == NULL)
        return false;
    int count = 0;
    for (int i = 0; i < spec_count; i++) {
        const esp_attr_spec *spec = &node->op->attrs[i];
        if (spec->otherwise == NULL || attr_is_given(node->attrs, node->attr_count, spec->name))
            continue;
        esp_attr *attr = &defaults[count++];
        *attr = (esp_attr){.name = spec->name, .type = spec->type};
        double number = 0;
        if (spec->type == ESP_ATTR_INT)
            esp_parse_i64(spec->otherwise, &attr->i);
        else if (spec->type == ESP_ATTR_FLOAT && esp_parse_f64(spec->otherwise, &number))
            attr->f = (float)number;
        else if (spec->type == ESP_ATTR_STRING)
            attr->s = spec->otherwise;
    }
    node->defaults = defaults;
    node->default_count = count;
    return true;
}

static esp_status copy_attrs(esp_builder *builder, esp_node *node, const esp_attr *attrs, int count,
                             esp_error *err)
{
    esp_attr *copies = esp_arena_alloc(builder->arena, (size_t)count + 1, sizeof *copies);
    if (copies == NULL)
        return esp_builder_no_memory(err);
    for (int i = 0; i < count; i++) {
        bool is_free = esp_op_is_opaque(node->op); /* to carry what nobody understands */
        esp_status status = is_free ? ESP_OK : check_attr(node->op, node->name, &attrs[i], err);
        if (status != ESP_OK)
            return status;
        if (!is_free && attr_is_given(attrs, i, attrs[i].name))
            return esp_fail(err, ESP_FORMAT, "node '%s' (%s): attribute '%s' is given twice", node->name,
                            node->op->name, attrs[i].name);
        if (!copy_attr(builder, &attrs[i], &copies[i]))
            return esp_builder_no_memory(err);
    }
    node->attrs = copies;
    node->attr_count = count;
    return add_defaults(builder, node) ? ESP_OK : esp_builder_no_memory(err);
}

static esp_status check_arity(const esp_node *node, esp_error *err)
{
    const esp_op *op = node->op;
    if (node->input_count < op->input_min || (op->input_max >= 0 && node->input_count > op->input_max))
        return esp_fail(err, ESP_FORMAT, "node '%s' (%s): %d inputs, expected %d to %d", node->name, op->name,
                        node->input_count, op->input_min, op->input_max);
    if (node->output_count < op->output_min || node->output_count > op->output_max)
        return esp_fail(err, ESP_FORMAT, "node '%s' (%s): %d outputs, expected %d to %d", node->name,
                        op->name, node->output_count, op->output_min, op->output_max);
    for (int i = 0; i < op->input_min; i++) {
        if (node->inputs[i] < 0)
            return esp_fail(err, ESP_FORMAT, "node '%s' (%s): input %d is missing", node->name, op->name, i);
    }
    if (op->output_min > 0 && node->outputs[0] < 0)
        return esp_fail(err, ESP_FORMAT, "node '%s' (%s): it has no first output", node->name, op->name);
    return ESP_OK;
}

/* Marks the value as made by the node that is about to be added. */
static esp_status claim_output(esp_builder *builder, const esp_node *node, int value, esp_error *err)
{
    esp_value_draft *draft = &builder->values[value];
    if (draft->value.producer == builder->node_count)
        return esp_fail(err, ESP_FORMAT, "node '%s' makes value '%s' twice", node->name, draft->value.name);
    if (draft->value.producer >= 0)
        return esp_fail(err, ESP_FORMAT, "value '%s' is made twice: by node '%s' and by node '%s'",
                        draft->value.name, builder->nodes[draft->value.producer].name, node->name);
    if (draft->is_input || draft->value.constant != NULL)
        return esp_fail(err, ESP_FORMAT, "node '%s' makes value '%s', which is %s", node->name,
                        draft->value.name, draft->is_input ? "a graph input" : "a constant");
    draft->value.producer = builder->node_count;
    return ESP_OK;
}

/* Undoes claim_output for a node that is not added after all. */
static void release_outputs(esp_builder *builder, const int *outputs, int count)
{
    for (int i = 0; i < count; i++) {
        bool is_known = outputs[i] >= 0 && outputs[i] < builder->value_count;
        if (is_known && builder->values[outputs[i]].value.producer == builder->node_count)
            builder->values[outputs[i]].value.producer = -1;
    }
}

static esp_status claim_values(esp_builder *builder, const esp_node *node, esp_error *err)
{
    for (int i = 0; i < node->input_count; i++) {
        if (node->inputs[i] >= builder->value_count)
            return esp_fail(err, ESP_INVALID, "node '%s': input %d is value %d of %d", node->name, i,
                            node->inputs[i], builder->value_count);
    }
    for (int i = 0; i < node->output_count; i++) {
        int value = node->outputs[i];
        if (value >= builder->value_count)
            return esp_fail(err, ESP_INVALID, "node '%s': output %d is value %d of %d", node->name, i, value,
                            builder->value_count);
        esp_status status = value < 0 ? ESP_OK : claim_output(builder, node, value, err);
        if (status != ESP_OK)
            return status;
    }
    return ESP_OK;
}

static esp_status find_op(const esp_builder *builder, const char *op_type, const char *name,
                          const esp_op **out, esp_error *err)
{
    const esp_op *nearest = NULL;
    if (strstr(op_type, "::") != NULL) {
        const char *copy = esp_arena_strdup(builder->arena, op_type);
        *out = copy == NULL ? NULL : esp_opaque_row_new(builder->arena, copy);
        return *out == NULL ? esp_builder_no_memory(err) : ESP_OK;
    }
    *out = esp_op_find(op_type, builder->opset, &nearest);
    if (*out != NULL)
        return ESP_OK;
    esp_fail(err, ESP_UNSUPPORTED, "node '%s': operator '%s' of opset %lld is not known", name, op_type,
             (long long)builder->opset);
    if (nearest != NULL && strcmp(nearest->name, op_type) == 0)
        esp_error_set_hint(err, "%s is known for opsets %d to %d", op_type, nearest->opset_since,
                           nearest->opset_until);
    else if (nearest != NULL)
        esp_error_set_hint(err, "did you mean %s?", nearest->name);
    return ESP_UNSUPPORTED;
}

/* The node's name: as given when it is free, else made unique; from operator and first output when empty. */
static const char *name_node(esp_builder *builder, const char *op_type, const char *name, const int *outputs,
                             int output_count)
{
    if (name != NULL && name[0] != '\0') {
        if (esp_name_table_find(&builder->node_names, name) < 0)
            return esp_arena_strdup(builder->arena, name);
        return unique_name(builder, name);
    }
    esp_text text = {0};
    const char *separator = strstr(op_type, "::");
    esp_text_append(&text, separator == NULL ? op_type : separator + 2);
    if (output_count > 0 && outputs[0] >= 0 && outputs[0] < builder->value_count)
        esp_text_printf(&text, "_%s", builder->values[outputs[0]].value.name);
    const char *made = text.is_broken ? NULL : unique_name(builder, text.data);
    esp_text_free(&text);
    return made;
}

esp_status esp_builder_node(esp_builder *builder, const char *op_type, const char *name, const int *inputs,
                            int input_count, const int *outputs, int output_count, const esp_attr *attrs,
                            int attr_count, esp_error *err)
{
    esp_node node = {.input_count = input_count, .output_count = output_count};
    node.name = name_node(builder, op_type, name, outputs, output_count);
    if (node.name == NULL)
        return esp_builder_no_memory(err);
    esp_status status = find_op(builder, op_type, node.name, &node.op, err);
    if (status != ESP_OK)
        return status;
    node.inputs = esp_arena_copy(builder->arena, inputs, (size_t)input_count * sizeof *inputs);
    node.outputs = esp_arena_copy(builder->arena, outputs, (size_t)output_count * sizeof *outputs);
    void *block = builder->nodes;
    if (node.inputs == NULL || node.outputs == NULL ||
        !reserve(&block, builder->node_count, &builder->node_capacity, sizeof *builder->nodes))
        return esp_builder_no_memory(err);
    builder->nodes = block;
    status = check_arity(&node, err);
    if (status == ESP_OK)
        status = claim_values(builder, &node, err);
    if (status == ESP_OK)
        status = copy_attrs(builder, &node, attrs, attr_count, err);
    if (status == ESP_OK && !esp_name_table_add(&builder->node_names, node.name, builder->node_count))
        status = esp_builder_no_memory(err);
    if (status != ESP_OK) {
        release_outputs(builder, outputs, output_count);
        return status;
    }
    builder->nodes[builder->node_count++] = node;
    return ESP_OK;
}

esp_status esp_builder_add(esp_builder *builder, const char *op_type, const char *name, const int *inputs,
                           int input_count, const esp_attr *attrs, int attr_count, const char *output_name,
                           int *out, esp_error *err)
{
    *out = -1;
    bool is_named = name != NULL && name[0] != '\0';
    const char *node_name = is_named ? name : unique_name(builder, op_type);
    esp_text text = {0};
    esp_text_printf(&text, "%s_output", node_name == NULL ? "" : node_name);
    const char *value_name = output_name;
    if (value_name == NULL)
        value_name = text.is_broken ? NULL : unique_name(builder, text.data);
    bool has_memory = node_name != NULL && !text.is_broken && value_name != NULL;
    esp_text_free(&text);
    if (!has_memory)
        return esp_builder_no_memory(err);
    int value;
    esp_status status = esp_builder_value(builder, value_name, &value, err);
    if (status == ESP_OK)
        status = esp_builder_node(builder, op_type, node_name, inputs, input_count, &value, 1, attrs,
                                  attr_count, err);
    if (status == ESP_OK)
        *out = value;
    return status;
}

/* ---- outputs and metadata ---- */

esp_status esp_builder_output(esp_builder *builder, int value, esp_dtype dtype, const esp_shape *shape,
                              esp_error *err)
{
    if (value < 0 || value >= builder->value_count)
        return esp_fail(err, ESP_INVALID, "graph '%s': output is value %d of %d", builder->name, value,
                        builder->value_count);
    esp_value_draft *draft = &builder->values[value];
    if (draft->is_output)
        return esp_fail(err, ESP_FORMAT, "graph '%s': '%s' is an output twice", builder->name,
                        draft->value.name);
    if (!append_int(&builder->outputs, &builder->output_count, &builder->output_capacity, value))
        return esp_builder_no_memory(err);
    draft->is_output = true;
    if (!draft->is_input && draft->value.constant == NULL) {
        draft->value.dtype = dtype;
        if (shape != NULL)
            draft->value.shape = *shape;
    }
    return ESP_OK;
}

int esp_builder_find(const esp_builder *builder, const char *name)
{
    return esp_name_table_find(&builder->value_names, name);
}

void esp_builder_declare(esp_builder *builder, int value, esp_dtype dtype, const esp_shape *shape)
{
    esp_value_draft *draft = &builder->values[value];
    if (draft->is_input || draft->is_output || draft->value.constant != NULL)
        return;
    draft->value.dtype = dtype;
    draft->value.shape = *shape;
}

esp_status esp_builder_metadata(esp_builder *builder, const char *key, const char *value, esp_error *err)
{
    if (key == NULL || key[0] == '\0')
        return esp_fail(err, ESP_INVALID, "graph '%s': a metadata entry needs a key", builder->name);
    return esp_metadata_set(&builder->metadata, key, value) ? ESP_OK : esp_builder_no_memory(err);
}
