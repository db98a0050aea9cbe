/* Surgery, the new graph. Only what the outputs need is written, back to front decided: a constant chain
 * whose end was replaced (an exporter's Reshape target) disappears. Names of everything that lives on are
 * kept; names of new things are free in both graphs. */
#include "prune/surgery_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* A tensor that stands in the place of an old constant: narrowed the same way twice, it is written once. */
typedef struct variant {
    struct variant *next;
    const esp_tensor *tensor;
    const char *name;
    int index;
} variant;

struct graph_writer {
    surgery *self;
    esp_builder *builder;
    int *index_of;             /* per old value: builder index, or -1 */
    bool *is_needed;           /* per old value: in its old form */
    bool *has_new_name;        /* per old value: its name was given to a variant */
    variant **variants;        /* per old value */
    const char *last_constant; /* name of the constant that writer_constant gave last */
    esp_mask_notes *masks;
};

/* ---- what is needed ---- */

static bool is_replaced(const surgery *self, int node_index, int input)
{
    const esp_node *node = esp_graph_node(self->graph, node_index);
    esp_layer_form form;
    if (esp_coupling_layer_at(self->coupling, node_index) >= 0 && node->op->layer(node, &form))
        return input == form.weight_input || (input == form.bias_input && surgery_bias(self, node) != NULL);
    const node_edit *edit = &self->edits[node_index];
    return input < edit->input_count && edit->inputs[input] != NULL;
}

bool surgery_is_node_needed(const bool *is_needed, const esp_node *node)
{
    for (int i = 0; i < node->output_count; i++) {
        if (node->outputs[i] >= 0 && is_needed[node->outputs[i]])
            return true;
    }
    return false;
}

void surgery_mark_needed(const surgery *self, bool *is_needed)
{
    for (int i = 0; i < esp_graph_output_count(self->graph); i++)
        is_needed[esp_graph_output(self->graph, i)] = true;
    for (int i = esp_graph_node_count(self->graph) - 1; i >= 0; i--) {
        const esp_node *node = esp_graph_node(self->graph, i);
        if (!surgery_is_node_needed(is_needed, node))
            continue;
        for (int k = 0; k < node->output_count; k++) { /* it writes all its outputs under their names */
            if (node->outputs[k] >= 0)
                is_needed[node->outputs[k]] = true;
        }
        for (int k = 0; k < node->input_count; k++) {
            if (node->inputs[k] >= 0 && !is_replaced(self, i, k))
                is_needed[node->inputs[k]] = true;
        }
    }
}

/* ---- names and values ---- */

const char *writer_name(graph_writer *writer, const char *format, ...)
{
    char wanted[512], candidate[544];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(wanted, sizeof wanted, format, arguments);
    va_end(arguments);
    for (int attempt = 1; attempt < 100000; attempt++) {
        if (attempt == 1)
            snprintf(candidate, sizeof candidate, "%s", wanted);
        else
            snprintf(candidate, sizeof candidate, "%s_%d", wanted, attempt);
        if (esp_graph_find_value(writer->self->graph, candidate) >= 0 ||
            esp_graph_find_node(writer->self->graph, candidate) >= 0)
            continue;
        const char *name = esp_builder_unique_name(writer->builder, candidate);
        if (name == NULL || strcmp(name, candidate) == 0)
            return name;
    }
    return NULL;
}

static esp_status put_constant(graph_writer *writer, const char *name, const esp_tensor *tensor, int *out,
                               esp_error *err)
{
    if (name == NULL)
        return esp_fail_memory(err, "surgery", 0);
    writer->last_constant = name;
    return esp_builder_constant(writer->builder, name, tensor, out, err);
}

esp_status writer_value(graph_writer *writer, int old_value, int *out, esp_error *err)
{
    const esp_value *value = esp_graph_value(writer->self->graph, old_value);
    esp_status status = ESP_OK;
    if (writer->index_of[old_value] < 0 && value->constant != NULL)
        status = put_constant(writer, value->name, value->constant, &writer->index_of[old_value], err);
    else if (writer->index_of[old_value] < 0)
        status = esp_builder_value(writer->builder, value->name, &writer->index_of[old_value], err);
    if (status == ESP_OK)
        *out = writer->index_of[old_value];
    return status;
}

esp_status writer_new_value(graph_writer *writer, const char *name, int *out, esp_error *err)
{
    return esp_builder_value(writer->builder, name, out, err);
}

static esp_status add_variant(graph_writer *writer, int old_value, const esp_tensor *tensor, int index,
                              esp_error *err)
{
    variant *item = esp_arena_alloc(writer->self->arena, 1, sizeof *item);
    if (item == NULL)
        return esp_fail_memory(err, "surgery", sizeof *item);
    *item = (variant){writer->variants[old_value], esp_tensor_ref(tensor), writer->last_constant, index};
    writer->variants[old_value] = item;
    return ESP_OK;
}

esp_status writer_constant(graph_writer *writer, int old_value, const char *name, const esp_tensor *tensor,
                           int *out, esp_error *err)
{
    if (old_value < 0)
        return put_constant(writer, writer_name(writer, "%s", name), tensor, out, err);
    const esp_value *value = esp_graph_value(writer->self->graph, old_value);
    if (writer->is_needed[old_value] && value->constant != NULL &&
        esp_tensor_equal(value->constant, tensor)) {
        writer->last_constant = value->name;
        return writer_value(writer, old_value, out, err);
    }
    for (const variant *item = writer->variants[old_value]; item != NULL; item = item->next) {
        if (!esp_tensor_equal(item->tensor, tensor))
            continue;
        writer->last_constant = item->name;
        *out = item->index;
        return ESP_OK;
    }
    bool is_free = !writer->is_needed[old_value] && !writer->has_new_name[old_value];
    writer->has_new_name[old_value] = true;
    const char *new_name = is_free ? value->name : writer_name(writer, "%s/cut", name);
    esp_status status = put_constant(writer, new_name, tensor, out, err);
    return status == ESP_OK ? add_variant(writer, old_value, tensor, *out, err) : status;
}

esp_status writer_note_mask(graph_writer *writer, const esp_mask *mask, esp_error *err)
{
    return esp_mask_notes_add(writer->masks, writer->last_constant, mask, err);
}

/* ---- nodes ---- */

esp_status writer_node(graph_writer *writer, const char *op, const char *name, const int *inputs,
                       int input_count, int output, const esp_attr *attrs, int attr_count, esp_error *err)
{
    return esp_builder_node(writer->builder, op, name, inputs, input_count, &output, 1, attrs, attr_count,
                            err);
}

static esp_status write_with_attrs(graph_writer *writer, const esp_node *node, const char *name,
                                   const int *inputs, int input_count, const int *outputs, int output_count,
                                   const esp_attr *attrs, int attr_count, const char *dropped, esp_error *err)
{
    size_t capacity = (size_t)(node->attr_count + attr_count);
    esp_attr *merged = esp_arena_alloc(writer->self->arena, capacity + 1, sizeof *merged);
    int count = 0;
    if (merged == NULL)
        return esp_fail_memory(err, "surgery", capacity * sizeof *merged);
    for (int i = 0; i < node->attr_count; i++) {
        bool is_overridden = dropped != NULL && strcmp(dropped, node->attrs[i].name) == 0;
        for (int k = 0; k < attr_count; k++)
            is_overridden = is_overridden || strcmp(attrs[k].name, node->attrs[i].name) == 0;
        if (!is_overridden)
            merged[count++] = node->attrs[i];
    }
    for (int k = 0; k < attr_count; k++)
        merged[count++] = attrs[k];
    return esp_builder_node(writer->builder, node->op->name, name == NULL ? node->name : name, inputs,
                            input_count, outputs, output_count, merged, count, err);
}

esp_status writer_old_node(graph_writer *writer, const esp_node *node, const char *name, const int *inputs,
                           int input_count, const int *outputs, int output_count, const esp_attr *attrs,
                           int attr_count, esp_error *err)
{
    return write_with_attrs(writer, node, name, inputs, input_count, outputs, output_count, attrs, attr_count,
                            NULL, err);
}

static esp_status write_node(graph_writer *writer, int index, esp_error *err)
{
    surgery *self = writer->self;
    const esp_node *node = esp_graph_node(self->graph, index);
    const node_edit *edit = &self->edits[index];
    int input_count = node->input_count;
    for (int i = node->input_count; i < edit->input_count; i++)
        input_count = edit->inputs[i] != NULL ? i + 1 : input_count;
    size_t count = (size_t)(input_count + node->output_count);
    int *inputs = esp_arena_alloc(self->arena, count + 1, sizeof *inputs);
    if (inputs == NULL)
        return esp_fail_memory(err, "surgery", count * sizeof *inputs);
    int *outputs = inputs + input_count;
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < input_count; i++) {
        int value = i < node->input_count ? node->inputs[i] : -1;
        const esp_tensor *constant = i < edit->input_count ? edit->inputs[i] : NULL;
        inputs[i] = -1;
        if (constant != NULL)
            status = writer_constant(writer, value,
                                     value < 0 ? node->name : esp_graph_value(self->graph, value)->name,
                                     constant, &inputs[i], err);
        else if (value >= 0)
            status = writer_value(writer, value, &inputs[i], err);
    }
    for (int i = 0; status == ESP_OK && i < node->output_count; i++) {
        outputs[i] = -1;
        if (node->outputs[i] >= 0)
            status = writer_value(writer, node->outputs[i], &outputs[i], err);
    }
    return status == ESP_OK
               ? write_with_attrs(writer, node, NULL, inputs, input_count, outputs, node->output_count,
                                  edit->attrs, edit->attr_count, edit->dropped_attr, err)
               : status;
}

/* ---- the whole ---- */

static esp_status write_ends(graph_writer *writer, esp_error *err)
{
    const esp_graph *graph = writer->self->graph;
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < esp_graph_input_count(graph); i++) {
        int index = esp_graph_input(graph, i);
        const esp_value *value = esp_graph_value(graph, index);
        status = esp_builder_input(writer->builder, value->name, value->dtype, &value->shape,
                                   value->batch_name, &writer->index_of[index], err);
    }
    for (int i = 0; status == ESP_OK && i < esp_graph_output_count(graph); i++) {
        int index = -1;
        const esp_value *value = esp_graph_value(graph, esp_graph_output(graph, i));
        status = writer_value(writer, esp_graph_output(graph, i), &index, err);
        if (status == ESP_OK)
            status = esp_builder_output(writer->builder, index, value->dtype,
                                        value->shape.rank >= 0 ? &value->shape : NULL, err);
    }
    return status;
}

static esp_status write_metadata(graph_writer *writer, esp_error *err)
{
    const esp_graph *graph = writer->self->graph;
    char *names = NULL, *bits = NULL;
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < esp_graph_metadata_count(graph); i++) {
        const char *key = esp_graph_metadata_key(graph, i);
        if (strcmp(key, ESP_MASKS_KEY) != 0 && strcmp(key, ESP_MASK_BITS_KEY) != 0)
            status = esp_builder_metadata(writer->builder, key, esp_graph_metadata_value(graph, i), err);
    }
    if (status == ESP_OK)
        status = esp_mask_notes_text(writer->masks, true, &names, &bits, err);
    if (status == ESP_OK && names != NULL)
        status = esp_builder_metadata(writer->builder, ESP_MASKS_KEY, names, err);
    if (status == ESP_OK && bits != NULL)
        status = esp_builder_metadata(writer->builder, ESP_MASK_BITS_KEY, bits, err);
    esp_free(names);
    esp_free(bits);
    return status;
}

static esp_status writer_open(graph_writer *writer, surgery *self, esp_error *err)
{
    size_t values = (size_t)esp_graph_value_count(self->graph);
    *writer = (graph_writer){.self = self};
    writer->index_of = esp_arena_alloc(self->arena, values + 1, sizeof *writer->index_of);
    writer->is_needed = esp_arena_alloc(self->arena, values + 1, sizeof *writer->is_needed);
    writer->has_new_name = esp_arena_alloc(self->arena, values + 1, sizeof *writer->has_new_name);
    writer->variants = esp_arena_alloc(self->arena, values + 1, sizeof(variant *));
    if (writer->index_of == NULL || writer->is_needed == NULL || writer->has_new_name == NULL ||
        writer->variants == NULL)
        return esp_fail_memory(err, "surgery", values * sizeof(variant *));
    for (size_t i = 0; i < values; i++)
        writer->index_of[i] = -1;
    esp_status status = esp_mask_notes_new(&writer->masks, err);
    if (status != ESP_OK)
        return status;
    return esp_builder_new(esp_graph_name(self->graph), esp_graph_opset(self->graph),
                           esp_graph_ir_version(self->graph), &writer->builder, err);
}

static void writer_close(graph_writer *writer)
{
    esp_builder_free(writer->builder);
    esp_mask_notes_free(writer->masks);
    for (int i = 0; writer->variants != NULL && i < esp_graph_value_count(writer->self->graph); i++) {
        for (variant *item = writer->variants[i]; item != NULL; item = item->next)
            esp_tensor_unref((esp_tensor *)item->tensor);
    }
}

esp_status surgery_rewrite(surgery *self, esp_graph **out, esp_error *err)
{
    graph_writer writer;
    esp_status status = writer_open(&writer, self, err);
    if (status == ESP_OK) {
        surgery_mark_needed(self, writer.is_needed);
        status = write_ends(&writer, err);
    }
    for (int i = 0; status == ESP_OK && i < esp_graph_node_count(self->graph); i++) {
        const esp_node *node = esp_graph_node(self->graph, i);
        int layer = esp_coupling_layer_at(self->coupling, i);
        if (!surgery_is_node_needed(writer.is_needed, node))
            continue;
        status = layer >= 0 ? surgery_write_layer(self, &writer, layer, err) : write_node(&writer, i, err);
        if (status != ESP_OK)
            esp_error_prefix(err, "node '%s'", node->name);
    }
    if (status == ESP_OK)
        status = write_metadata(&writer, err);
    if (status == ESP_OK) {
        esp_builder *builder = writer.builder;
        writer.builder = NULL;
        status = esp_builder_finish(builder, out, err);
    }
    writer_close(&writer);
    return status;
}
