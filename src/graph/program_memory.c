/* Where a compiled network's values live.
 *
 * Time is one line: step i of n runs forward at moment i and backward at moment 2n-1-i. Every value lives in
 * a store: memory it has alone, or shares with the values it is a view of, or takes over from an input that
 * dies (in place), or with the other parts of a concatenation (program_concat.c). A store is in use from the
 * moment it is first written to the last moment anything reads it, in either direction; the plan packs stores
 * into one block accordingly. Gradients are stores of the same kind (program_grads.c). Parameters, constants
 * and what was folded from them live elsewhere and are only pointed to. */
#include <string.h>

#include "base/memory.h"
#include "graph/program_internal.h"

int esp_compiler_backward_moment(const esp_compiler *c, int step)
{
    return 2 * c->program->step_count - 1 - step;
}

int esp_compiler_end_of_time(const esp_compiler *c)
{
    return 2 * c->program->step_count;
}

/* A new store; the arrays have room for all that can ever be made (see new_compiler). */
int esp_compiler_new_store(esp_compiler *c, size_t bytes, int start, int end)
{
    int index = c->store_count++;
    c->stores[index] = (esp_store){.last_read = -1};
    c->buffers[index] = (esp_plan_buffer){.bytes = bytes, .start = start, .end = end};
    return index;
}

void esp_compiler_use_store(esp_compiler *c, int store, int moment)
{
    if (store == ESP_NO_STORE)
        return;
    esp_plan_buffer *buffer = &c->buffers[store];
    buffer->start = moment < buffer->start ? moment : buffer->start;
    buffer->end = moment > buffer->end ? moment : buffer->end;
}

size_t esp_compiler_value_bytes(const esp_compiler *c, int value)
{
    const esp_view *view = &c->program->values[value];
    return (size_t)esp_view_storage(view) * esp_dtype_size(view->dtype);
}

static void put_value(esp_compiler *c, int value, int store, size_t offset)
{
    c->value_store[value] = store;
    c->value_offset[value] = offset;
    if (store == ESP_NO_STORE)
        return;
    esp_store *s = &c->stores[store];
    s->last_read = c->last_reader[value] > s->last_read ? c->last_reader[value] : s->last_read;
    s->is_pinned = s->is_pinned || c->is_out[value];
    if (c->is_out[value] || c->request->keeps_values)
        esp_compiler_use_store(c, store, esp_compiler_end_of_time(c));
    if (c->request->keeps_values)
        esp_compiler_use_store(c, store, 0);
}

/* A value that has memory of its own, or its part of a larger one's. */
static void put_new_value(esp_compiler *c, int value, int moment)
{
    esp_place place = c->places[value];
    int root = place.root < 0 ? value : place.root;
    bool is_new = c->root_store[root] == ESP_NO_STORE;
    if (is_new)
        c->root_store[root] = esp_compiler_new_store(c, esp_compiler_value_bytes(c, root), moment, moment);
    size_t offset = 0;
    if (place.root >= 0) {
        esp_view *view = &c->program->values[value];
        const esp_view *whole = &c->program->values[root];
        offset = (size_t)(place.channel * view->shape.dims[2] * view->shape.dims[3]) * sizeof(float);
        view->image_stride = esp_view_image_stride(whole);
    }
    if (place.root >= 0 || !is_new)
        c->stores[c->root_store[root]].is_pinned = true;
    put_value(c, value, c->root_store[root], offset);
    esp_compiler_use_store(c, c->root_store[root], moment);
}

static bool is_alike(const esp_view *x, const esp_view *y)
{
    return x->dtype == y->dtype && x->layout == y->layout && esp_shape_equal(&x->shape, &y->shape);
}

/* Whether output 0 may be written over input `input`, which nobody may need afterwards and no other input may
 * share. */
static bool may_write_over(const esp_compiler *c, const esp_step *step, int s, int input)
{
    int x = step->inputs[input];
    if (!esp_bit(step->op->over, input) || x < 0 || c->value_store[x] == ESP_NO_STORE)
        return false;
    int own = c->value_store[x];
    const esp_view *from = &c->program->values[x], *to = &c->program->values[step->outputs[0]];
    if (c->stores[own].is_pinned || c->stores[own].last_read > s || !is_alike(from, to))
        return false;
    for (int i = 0; i < step->input_count; i++) {
        if (i != input && step->inputs[i] >= 0 && c->value_store[step->inputs[i]] == own)
            return false;
    }
    return true;
}

/* The input whose memory output 0 takes over; -1: none. */
static int find_over(const esp_compiler *c, const esp_step *step, int s)
{
    if (c->request->is_training || c->request->keeps_values || !esp_compiler_has_one_output(c, step) ||
        c->places[step->outputs[0]].root >= 0 || c->root_store[step->outputs[0]] != ESP_NO_STORE)
        return -1;
    for (int i = 0; i < step->input_count; i++) {
        if (may_write_over(c, step, s, i))
            return i;
    }
    return -1;
}

/* Output 0 is input `input`'s memory. */
static void share_value(esp_compiler *c, const esp_step *step, int input)
{
    int from = step->inputs[input], to = step->outputs[0];
    c->program->values[to].data = c->program->values[from].data;
    c->program->values[to].image_stride = c->program->values[from].image_stride;
    put_value(c, to, c->value_store[from], c->value_offset[from]);
}

static void store_step_values(esp_compiler *c, int s)
{
    esp_step *step = &c->program->steps[s];
    step->runs_forward = !esp_compiler_is_view(c, step);
    for (int i = 0; i < step->input_count; i++) {
        if (step->inputs[i] >= 0)
            esp_compiler_use_store(c, c->value_store[step->inputs[i]], s);
    }
    int over = step->runs_forward ? find_over(c, step, s) : -1;
    if (over >= 0)
        c->in_place_bytes += esp_compiler_value_bytes(c, step->outputs[0]);
    if (!step->runs_forward || over >= 0) {
        share_value(c, step, over >= 0 ? over : 0);
        return;
    }
    for (int i = 0; i < step->output_count; i++) {
        if (esp_compiler_writes(c, step, i))
            put_new_value(c, step->outputs[i], s);
    }
}

void esp_compiler_store_values(esp_compiler *c)
{
    for (int v = 0; v < esp_compiler_values(c); v++)
        c->value_store[v] = c->grad_store[v] = c->root_store[v] = ESP_NO_STORE;
    for (int i = 0; i < esp_graph_input_count(c->graph); i++) {
        int v = esp_graph_input(c->graph, i);
        int index = esp_compiler_new_store(c, esp_compiler_value_bytes(c, v), 0, esp_compiler_end_of_time(c));
        c->stores[index].is_pinned = true;
        put_value(c, v, index, 0);
    }
    for (int s = 0; s < c->program->step_count; s++)
        store_step_values(c, s);
}

/* ---- memory ---- */

static void *store_pointer(const esp_compiler *c, int store, size_t offset)
{
    return (char *)c->program->memory + c->buffers[store].offset + offset;
}

esp_status esp_compiler_place(esp_compiler *c, esp_error *err)
{
    esp_program *program = c->program;
    esp_status status = esp_plan_offsets(c->buffers, c->store_count, &program->planned_bytes, err);
    if (status != ESP_OK)
        return status;
    program->unplanned_bytes = esp_plan_unshared(c->buffers, c->store_count) + c->in_place_bytes;
    program->memory = esp_alloc(program->planned_bytes, 1);
    if (program->memory == NULL)
        return esp_fail_memory(err, "activations", program->planned_bytes);
    for (int v = 0; v < esp_compiler_values(c); v++) {
        if (c->value_store[v] != ESP_NO_STORE)
            program->values[v].data = store_pointer(c, c->value_store[v], c->value_offset[v]);
        if (c->grad_store[v] != ESP_NO_STORE)
            program->grads[v].data = store_pointer(c, c->grad_store[v], c->grad_offset[v]);
    }
    for (int i = 0; i < c->temporary_count; i++)
        c->temporaries[i].view.data = store_pointer(c, c->temporaries[i].store, c->temporaries[i].offset);
    for (int i = 0; i < esp_graph_input_count(c->graph); i++) {
        int v = esp_graph_input(c->graph, i);
        memset(program->values[v].data, 0, esp_compiler_value_bytes(c, v));
    }
    return ESP_OK;
}
