/* Coupled sets, the rule APART, and COPY where shapes do not say what was copied: whether every channel is
 * computed from itself alone is found by changing some. The node's own kernel runs on random numbers, then
 * for every binary digit of the channels' numbers with other random numbers in the channels that have the
 * digit, and in those that have not. An element that answers to one of the two for every digit depends on one
 * channel, and the answers are its number; one that answers to both mixes channels.
 *
 * Numbers lie between 1 and 2: roots and logarithms of them exist. */
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "prune/coupling_internal.h"

#define MIXED INT32_MAX

typedef struct trial {
    esp_coupling *coupling;
    coupling_probe probe;
    const coupling_value *input; /* of input 0 */
    esp_rng rng;
    float *base;      /* input 0 of the first run */
    void **first;     /* per output: what the first run gave */
    int32_t **number; /* per output and element: the channel it depends on, MIXED */
    bool **answers;   /* per output and element: to the run before */
} trial;

static void trial_close(trial *self)
{
    int outputs = self->probe.node == NULL ? 0 : self->probe.node->output_count;
    for (int i = 0; i < outputs; i++) {
        if (self->first != NULL)
            esp_free(self->first[i]);
        if (self->number != NULL)
            esp_free(self->number[i]);
        if (self->answers != NULL)
            esp_free(self->answers[i]);
    }
    esp_free(self->first);
    esp_free(self->number);
    esp_free(self->answers);
    esp_free(self->base);
    coupling_probe_close(&self->probe);
}

static size_t elements_of(const esp_view *view)
{
    return (size_t)esp_shape_elements(&view->shape);
}

static esp_status trial_open(esp_coupling *coupling, int index, trial *self, esp_error *err)
{
    const esp_node *node = esp_graph_node(coupling->graph, index);
    size_t outputs = (size_t)node->output_count;
    *self = (trial){.coupling = coupling, .input = coupling_input(coupling, node, 0)};
    esp_rng_seed(&self->rng, 1);
    esp_status status = coupling_probe_open(coupling, index, &self->probe, err);
    if (status != ESP_OK)
        return status;
    self->base = esp_alloc(elements_of(&self->probe.inputs[0]), sizeof *self->base);
    self->first = esp_alloc_zero(outputs, sizeof *self->first);
    self->number = esp_alloc_zero(outputs, sizeof *self->number);
    self->answers = esp_alloc_zero(outputs, sizeof *self->answers);
    bool has_memory =
        self->base != NULL && self->first != NULL && self->number != NULL && self->answers != NULL;
    for (size_t i = 0; has_memory && i < outputs; i++) {
        const esp_view *view = &self->probe.outputs[i];
        if (node->outputs[i] < 0)
            continue;
        self->first[i] = esp_alloc(elements_of(view), esp_dtype_size(view->dtype));
        self->number[i] = esp_alloc_zero(elements_of(view), sizeof(int32_t));
        self->answers[i] = esp_alloc_zero(elements_of(view), sizeof(bool));
        has_memory = self->first[i] != NULL && self->number[i] != NULL && self->answers[i] != NULL;
    }
    return has_memory ? ESP_OK : esp_fail_memory(err, "a trial run", elements_of(&self->probe.inputs[0]));
}

/* New numbers in the channels whose `digit` is `value`; the base in the others. digit -1: a new base. */
static void fill_input(trial *self, int digit, int value)
{
    float *x = self->probe.numbers[0], *base = self->base;
    esp_axis_span span = esp_axis_span_of(&self->probe.inputs[0].shape, self->input->axis);
    for (int64_t o = 0; o < span.outer; o++) {
        for (int64_t c = 0; c < span.count; c++) {
            bool is_new = digit < 0 || (c >> digit & 1) == value;
            for (int64_t i = 0; i < span.inner; i++, x++, base++) {
                *x = is_new ? 1.0F + (float)esp_rng_uniform(&self->rng) : *base;
                *base = digit < 0 ? *x : *base;
            }
        }
    }
}

static esp_status run_base(trial *self, esp_error *err)
{
    fill_input(self, -1, 0);
    esp_status status = coupling_probe_run(self->coupling, &self->probe, err);
    for (int i = 0; status == ESP_OK && i < self->probe.node->output_count; i++) {
        const esp_view *view = &self->probe.outputs[i];
        if (self->probe.node->outputs[i] >= 0)
            memcpy(self->first[i], view->data, elements_of(view) * esp_dtype_size(view->dtype));
    }
    return status;
}

/* What answered to the digit's being 1 (`value` 1, the second run) and what did not. */
static void note_answers(trial *self, int digit, int value)
{
    for (int i = 0; i < self->probe.node->output_count; i++) {
        const esp_view *view = &self->probe.outputs[i];
        size_t size = esp_dtype_size(view->dtype);
        for (size_t k = 0; self->probe.node->outputs[i] >= 0 && k < elements_of(view); k++) {
            bool is_new = memcmp((const char *)view->data + k * size, (const char *)self->first[i] + k * size,
                                 size) != 0;
            int32_t *number = &self->number[i][k];
            if (value == 1 && is_new == self->answers[i][k])
                *number = MIXED;
            else if (value == 1 && is_new && *number != MIXED)
                *number |= 1 << digit;
            self->answers[i][k] = is_new;
        }
    }
}

static esp_status run_digits(trial *self, esp_error *err)
{
    esp_status status = run_base(self, err);
    for (int digit = 0; status == ESP_OK && (digit == 0 || (self->input->count - 1) >> digit > 0); digit++) {
        for (int value = 0; status == ESP_OK && value < 2; value++) {
            fill_input(self, digit, value);
            status = coupling_probe_run(self->coupling, &self->probe, err);
            if (status == ESP_OK)
                note_answers(self, digit, value);
        }
    }
    return status;
}

/* Slice j of the output along `axis` depends on channel j alone. */
static bool is_kept_apart(const trial *self, int output, int axis)
{
    const esp_view *view = &self->probe.outputs[output];
    if (axis >= view->shape.rank || view->shape.dims[axis] != self->input->count)
        return false;
    esp_axis_span span = esp_axis_span_of(&view->shape, axis);
    const int32_t *number = self->number[output];
    for (int64_t k = 0; k < span.outer * span.count * span.inner; k++) {
        if (number[k] != k / span.inner % span.count)
            return false;
    }
    return true;
}

/* The axis that keeps channels apart, or -1. */
static int find_axis(const trial *self, int output)
{
    int rank = self->probe.outputs[output].shape.rank;
    if (is_kept_apart(self, output, self->input->axis))
        return self->input->axis;
    for (int axis = 1; axis < rank; axis++) {
        if (is_kept_apart(self, output, axis))
            return axis;
    }
    return -1;
}

/* Other inputs are known numbers that do not run along the channels; shapes are known. */
static const char *why_not_tried(esp_coupling *coupling, const esp_node *node)
{
    const coupling_value *input = coupling_input(coupling, node, 0);
    const char *why_not = coupling_why_not_probed(coupling, node);
    for (int i = 1; i < node->input_count && why_not == NULL; i++) {
        if (node->inputs[i] >= 0 && !coupling_is_known(coupling, node->inputs[i]))
            why_not = coupling_reason(coupling, "node '%s' has computed parameters", node->name);
    }
    for (int i = 0; i < node->output_count && why_not == NULL; i++) {
        if (node->outputs[i] >= 0 && esp_inferred_shape(coupling->inferred, node->outputs[i])->rank < 0)
            why_not = coupling_reason(coupling, "reshaped by node '%s'", node->name);
    }
    return why_not == NULL && input == NULL
               ? coupling_reason(coupling, "node '%s' (%s) needs all channels", node->name, node->op->name)
               : why_not;
}

esp_status coupling_follow_apart(esp_coupling *coupling, int index, esp_error *err)
{
    const esp_node *node = esp_graph_node(coupling->graph, index);
    const char *why_not = why_not_tried(coupling, node);
    if (why_not != NULL)
        return coupling_block(coupling, index, why_not, err);
    trial self;
    bool is_apart = true;
    esp_status status = trial_open(coupling, index, &self, err);
    if (status == ESP_OK)
        status = run_digits(&self, err);
    for (int i = 0; status == ESP_OK && is_apart && i < node->output_count; i++) {
        if (node->outputs[i] < 0)
            continue;
        int axis = find_axis(&self, i);
        is_apart = axis >= 0;
        if (is_apart)
            coupling->values[node->outputs[i]] = (coupling_value){axis, self.input->count, self.input->slots};
    }
    trial_close(&self);
    if (status != ESP_OK || is_apart)
        return status;
    return coupling_block(
        coupling, index,
        coupling_reason(coupling, "node '%s' (%s) mixes channels", node->name, node->op->name), err);
}
