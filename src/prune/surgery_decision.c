/* The decision: what surgery will do, found from the graph, its coupled sets and masks. Weights are looked at
 * only where a cut channel leaves a constant that a layer still reads (surgery_values.c, surgery_fold.c).
 *
 * Surgery opens it on the masked model, because it writes that model's numbers; a preview opens it on the
 * model as it is. Nothing decided depends on which: shapes, coupled sets and silent values are the subject's
 * in both cases. */
#include "prune/surgery_internal.h"

#include <pthread.h>
#include <string.h>

#include "base/memory.h"
#include "prune/surgery_facts.h"

/* ---- facts ---- */

esp_status surgery_facts_new(surgery_facts **out, esp_error *err)
{
    surgery_facts *facts = esp_alloc_zero(1, sizeof *facts);
    *out = NULL;
    if (facts == NULL)
        return esp_fail_memory(err, "facts about a model", sizeof *facts);
    if (pthread_mutex_init(&facts->mutex, NULL) != 0) {
        esp_free(facts);
        return esp_fail(err, ESP_INTERNAL, "a lock could not be made");
    }
    *out = facts;
    return ESP_OK;
}

void surgery_facts_free(surgery_facts *facts)
{
    if (facts == NULL)
        return;
    pthread_mutex_destroy(&facts->mutex);
    esp_inferred_free(facts->inferred_two);
    if (facts->silent != NULL)
        surgery_values_free(facts->silent);
    esp_free(facts->silent);
    esp_free(facts);
}

/* Sizes the file leaves open, doubled. NULL: no memory. */
static esp_input_shape *doubled_sizes(surgery *self)
{
    size_t count = (size_t)self->input_shape_count;
    esp_input_shape *shapes = esp_arena_copy(self->arena, self->input_shapes, count * sizeof *shapes);
    for (int i = 0; shapes != NULL && i < self->input_shape_count; i++) {
        const esp_shape *declared =
            &esp_graph_value(self->graph, esp_graph_find_value(self->graph, shapes[i].name))->shape;
        for (int k = 1; k < shapes[i].shape.rank && k < declared->rank; k++)
            shapes[i].shape.dims[k] *= declared->dims[k] == ESP_DIM_UNKNOWN ? 2 : 1;
    }
    return shapes;
}

/* A model that cannot be inferred for two images has one batch size; only memory is an error. */
static esp_status infer_two(surgery *self, surgery_facts *facts, esp_error *err)
{
    const esp_graph *graph = self->subject->graph;
    const esp_input_shape *larger = surgery_has_open_sizes(self) ? doubled_sizes(self) : NULL;
    esp_error found = {0};
    esp_status status = ESP_SHAPE;
    if (surgery_has_open_sizes(self) && larger == NULL)
        return esp_fail_memory(err, "surgery", 0);
    if (larger != NULL)
        status = esp_infer(graph, 2, larger, self->input_shape_count, &facts->inferred_two, &found);
    if (status != ESP_OK && status != ESP_NO_MEMORY)
        status =
            esp_infer(graph, 2, self->input_shapes, self->input_shape_count, &facts->inferred_two, &found);
    if (status != ESP_OK)
        facts->inferred_two = NULL;
    if (status == ESP_NO_MEMORY && err != NULL)
        *err = found;
    return status == ESP_NO_MEMORY ? status : ESP_OK;
}

esp_status surgery_infer_two(surgery *self, esp_error *err)
{
    surgery_facts *facts = self->subject->facts;
    esp_status status = ESP_OK;
    pthread_mutex_lock(&facts->mutex);
    if (!facts->has_tried_two)
        status = infer_two(self, facts, err);
    facts->has_tried_two = status == ESP_OK;
    pthread_mutex_unlock(&facts->mutex);
    self->inferred_two = facts->inferred_two;
    return status;
}

/* ---- opening ---- */

bool surgery_has_open_sizes(const surgery *self)
{
    return self->input_shape_count > 0;
}

/* Sizes the preview was made with, for the inputs whose file leaves some open; the batch stays what the file
 * says. */
static esp_status note_open_sizes(surgery *self, esp_error *err)
{
    int count = esp_graph_input_count(self->graph);
    self->input_shapes = esp_arena_alloc(self->arena, (size_t)count + 1, sizeof *self->input_shapes);
    if (self->input_shapes == NULL)
        return esp_fail_memory(err, "surgery", (size_t)count * sizeof *self->input_shapes);
    for (int i = 0; i < count; i++) {
        int index = esp_graph_input(self->graph, i);
        const esp_value *value = esp_graph_value(self->graph, index);
        esp_shape shape = *esp_inferred_shape(self->inferred, index);
        bool is_open = value->shape.rank < 0;
        for (int k = 0; k < value->shape.rank; k++) {
            is_open = is_open || value->shape.dims[k] == ESP_DIM_UNKNOWN;
            if (value->shape.dims[k] == ESP_DIM_BATCH)
                shape.dims[k] = ESP_DIM_BATCH;
        }
        if (is_open)
            self->input_shapes[self->input_shape_count++] = (esp_input_shape){value->name, shape};
    }
    return ESP_OK;
}

static esp_status allocate_lists(surgery *self, esp_error *err)
{
    int64_t longest = 1;
    for (int value = 0; value < esp_graph_value_count(self->graph); value++) {
        int64_t count = esp_coupling_value(self->coupling, value).count;
        self->kept[value] = (channel_list){.is_identity = true};
        if (!surgery_has_channels(self, value))
            continue;
        longest = count > longest ? count : longest;
        self->kept[value].indices = esp_arena_alloc(self->arena, (size_t)count + 1, sizeof(int64_t));
        if (self->kept[value].indices == NULL)
            return esp_fail_memory(err, "surgery", (size_t)count * sizeof(int64_t));
    }
    self->sort_buffer = esp_arena_alloc(self->arena, (size_t)longest, sizeof *self->sort_buffer);
    return self->sort_buffer == NULL ? esp_fail_memory(err, "surgery", (size_t)longest * sizeof(int64_t))
                                     : ESP_OK;
}

static esp_status allocate(surgery *self, esp_error *err)
{
    size_t values = (size_t)esp_graph_value_count(self->graph),
           nodes = (size_t)esp_graph_node_count(self->graph);
    size_t slots = (size_t)esp_coupling_slot_limit(self->coupling), layers = (size_t)self->layers->count;
    self->is_constant = esp_arena_alloc(self->arena, values + 1, sizeof(bool *));
    self->kept = esp_arena_alloc(self->arena, values + 1, sizeof *self->kept);
    self->is_candidate = esp_arena_alloc(self->arena, slots, sizeof(bool));
    self->is_removed = esp_arena_alloc(self->arena, slots, sizeof(bool));
    self->rank = esp_arena_alloc(self->arena, slots, sizeof *self->rank);
    self->layer_cuts = esp_arena_alloc(self->arena, layers + 1, sizeof *self->layer_cuts);
    self->edits = esp_arena_alloc(self->arena, nodes + 1, sizeof *self->edits);
    if (self->is_constant == NULL || self->kept == NULL || self->is_candidate == NULL ||
        self->is_removed == NULL || self->rank == NULL || self->layer_cuts == NULL || self->edits == NULL)
        return esp_fail_memory(err, "surgery", (values + nodes + slots) * sizeof(void *));
    for (size_t i = 0; i < slots; i++)
        self->rank[i] = -1;
    esp_status status = note_open_sizes(self, err);
    return status == ESP_OK ? allocate_lists(self, err) : status;
}

esp_status surgery_open(surgery *self, const esp_compute *compute, const preview_subject *subject,
                        const esp_mask *masks, bool wants_groups, const esp_graph *masked,
                        const esp_inferred *masked_inferred, esp_error *err)
{
    *self = (surgery){.compute = compute,
                      .subject = subject,
                      .masks = masks,
                      .wants_groups = wants_groups,
                      .graph = masked != NULL ? masked : subject->graph,
                      .inferred = masked != NULL ? masked_inferred : subject->inferred,
                      .layers = &subject->layers,
                      .coupling = subject->coupling,
                      .arena = esp_arena_new()};
    return self->arena == NULL ? esp_fail_memory(err, "surgery", 0) : allocate(self, err);
}

void surgery_close(surgery *self)
{
    if (self->arena == NULL)
        return;
    surgery_release_edits(self);
    for (int i = 0; self->layer_cuts != NULL && i < self->layers->count; i++)
        esp_tensor_unref(self->layer_cuts[i].added_map);
    if (self->values != NULL)
        surgery_values_free(self->values);
    esp_arena_free(self->arena);
}

/* ---- deciding ---- */

/* Every round makes candidates fewer, so this ends. */
esp_status surgery_decide(surgery *self, esp_error *err)
{
    esp_status status = surgery_find_constants(self, err);
    bool has_vetoed = true;
    for (int64_t last = -1; status == ESP_OK && has_vetoed;) {
        int64_t candidates = 0;
        for (int32_t slot = 0; slot < esp_coupling_slot_limit(self->coupling); slot++)
            candidates += self->is_candidate[slot];
        if (candidates == last) /* a step objects to what no candidate explains: then nothing is cut */
            memset(self->is_candidate, 0, (size_t)esp_coupling_slot_limit(self->coupling));
        last = candidates;
        surgery_choose(self);
        if (!surgery_lay_out(self))
            return esp_fail(err, ESP_INTERNAL, "surgery: the remaining channels do not fit together");
        status = surgery_edit_nodes(self, &has_vetoed, err);
        if (status == ESP_OK && !has_vetoed)
            status = surgery_fold_constants(self, &has_vetoed, err);
    }
    return status == ESP_OK ? surgery_choose_forms(self, err) : status;
}

/* Parameters of the file as things stand. */
static esp_status count_stored(const surgery *self, int64_t *out, esp_error *err)
{
    esp_counts live, stored = {0};
    esp_status status = surgery_count(self, &live, &stored, err);
    *out = stored.params;
    return status;
}

esp_status surgery_order(surgery *self, esp_error *err)
{
    bool has_vetoed = false;
    int64_t before = 0, after = 0;
    esp_status status = count_stored(self, &before, err);
    if (status == ESP_OK)
        status = surgery_find_groups(self, err);
    if (status == ESP_OK)
        status = surgery_edit_nodes(self, &has_vetoed, err);
    if (status == ESP_OK && !has_vetoed)
        status = count_stored(self, &after, err);
    /* a constant that several nodes share is written once while these agree on the order */
    if (status != ESP_OK || (!has_vetoed && after <= before))
        return status;
    /* Only the order goes: what is cut (is_removed) was settled, and folded into its readers, before. */
    for (int32_t slot = 0; slot < esp_coupling_slot_limit(self->coupling); slot++)
        self->rank[slot] = -1;
    surgery_lay_out(self);
    return surgery_edit_nodes(self, &has_vetoed, err);
}

/* ---- what it comes to ---- */

static bool is_parameter(const surgery *self, const esp_node *node, int input)
{
    return input < 32 && node->inputs[input] >= 0 && (node->op->trainable >> input & 1U) != 0 &&
           esp_graph_value(self->graph, node->inputs[input])->constant != NULL;
}

static bool is_known_node(const surgery *self, const esp_node *node)
{
    for (int i = 0; i < node->output_count; i++) {
        if (node->outputs[i] >= 0 && esp_inferred_constant(self->inferred, node->outputs[i]) == NULL)
            return false;
    }
    return true;
}

/* Whether the order of channels can change what is stored: parameters that several nodes share are written
 * once while these agree on the order, and what is computed from parameters alone becomes a constant in
 * another order. Elsewhere a count needs no order. */
static bool does_order_matter(const surgery *self)
{
    bool is_any_grouped = false;
    for (int i = 0; i < self->layers->count; i++)
        is_any_grouped = is_any_grouped || self->layer_cuts[i].is_grouped;
    for (int n = 0; is_any_grouped && n < esp_graph_node_count(self->graph); n++) {
        const esp_node *node = esp_graph_node(self->graph, n);
        for (int i = 0; i < node->input_count; i++) {
            if (is_parameter(self, node, i) &&
                (esp_graph_consumer_count(self->graph, node->inputs[i]) > 1 || is_known_node(self, node)))
                return true;
        }
    }
    return false;
}

static esp_status take_forecast(const surgery *self, surgery_forecast *out, esp_error *err)
{
    size_t layers = (size_t)self->layers->count, slots = (size_t)esp_coupling_slot_limit(self->coupling);
    surgery_forecast forecast = {.layers = esp_alloc_zero(layers, sizeof *forecast.layers),
                                 .is_removed = esp_alloc_zero(slots, sizeof(bool))};
    esp_status status = forecast.layers != NULL && forecast.is_removed != NULL
                            ? surgery_count(self, &forecast.live, &forecast.stored, err)
                            : esp_fail_memory(err, "counts", slots);
    if (status != ESP_OK) {
        surgery_forecast_free(&forecast);
        return status;
    }
    for (size_t i = 0; i < layers; i++)
        forecast.layers[i] = (surgery_forecast_layer){self->layer_cuts[i].stored, self->layer_cuts[i].live};
    memcpy(forecast.is_removed, self->is_removed, slots * sizeof(bool));
    *out = forecast;
    return ESP_OK;
}

esp_status surgery_forecast_new(const esp_compute *compute, const preview_subject *subject,
                                const esp_mask *masks, bool wants_groups, surgery_forecast *out,
                                esp_error *err)
{
    surgery self;
    *out = (surgery_forecast){0};
    esp_status status = surgery_open(&self, compute, subject, masks, wants_groups, NULL, NULL, err);
    if (status == ESP_OK)
        status = surgery_decide(&self, err);
    if (status == ESP_OK && does_order_matter(&self))
        status = surgery_order(&self, err);
    if (status == ESP_OK)
        status = take_forecast(&self, out, err);
    surgery_close(&self);
    return status;
}

void surgery_forecast_free(surgery_forecast *forecast)
{
    if (forecast == NULL)
        return;
    esp_free(forecast->layers);
    esp_free(forecast->is_removed);
    *forecast = (surgery_forecast){0};
}
