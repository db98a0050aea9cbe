/* The optimizer cuts all parameters into tiles of a fixed size once; a step is one task per tile. A tile
 * touches its own elements only, so the result is the same for any number of threads. */
#include "train/optimizer.h"

#include <string.h>

#include "base/memory.h"
#include "tensor/simd.h"

#define TILE_ELEMENTS 16384

typedef struct param_state {
    float *data;
    const float *grad;
    float *velocity;
    uint8_t *keep; /* 0/1 per element, or NULL: all free */
    float decay;
    int64_t elements;
} param_state;

typedef struct tile {
    int param;
    int64_t first, count;
} tile;

struct esp_optimizer {
    float momentum;
    bool uses_nesterov;
    esp_params *owner;
    int param_count;
    param_state *params;
    int64_t tile_count;
    tile *tiles;
};

ESP_SIMD_CLONES
static void step_elements(int64_t count, float lr, float momentum, float decay, bool uses_nesterov,
                          const float *restrict grad, float *restrict velocity, float *restrict weight)
{
    for (int64_t i = 0; i < count; i++) {
        float g = grad[i] + decay * weight[i];
        float v = momentum * velocity[i] + g;
        velocity[i] = v;
        weight[i] -= lr * (uses_nesterov ? g + momentum * v : v);
    }
}

void esp_sgd_step(int64_t count, float lr, float momentum, float decay, bool uses_nesterov, const float *grad,
                  float *velocity, float *weight)
{
    step_elements(count, lr, momentum, decay, uses_nesterov, grad, velocity, weight);
}

/* ---- making one ---- */

static esp_status add_mask(esp_optimizer *optimizer, const esp_graph *graph, const esp_params *params,
                           const esp_weight_mask *mask, esp_error *err)
{
    bool exists = mask->value >= 0 && mask->value < esp_graph_value_count(graph);
    int index = exists ? esp_params_find(params, mask->value) : -1;
    if (index < 0 || optimizer->params[index].velocity == NULL) {
        return esp_fail(err, ESP_INVALID, "mask of value %d '%s': expected a trainable constant", mask->value,
                        exists ? esp_graph_value(graph, mask->value)->name : "?");
    }
    param_state *param = &optimizer->params[index];
    if (param->keep == NULL) {
        param->keep = esp_alloc((size_t)param->elements, 1);
        if (param->keep == NULL) {
            return esp_fail_memory(err, "a mask", (size_t)param->elements);
        }
        memset(param->keep, 1, (size_t)param->elements);
    }
    for (int64_t i = 0; i < param->elements; i++) {
        param->keep[i] = param->keep[i] && mask->keep[i];
    }
    return ESP_OK;
}

static esp_status add_param(param_state *state, const esp_param *param, const esp_train_options *options,
                            esp_error *err)
{
    if (param->is_running || param->grad == NULL) {
        return ESP_OK; /* all NULL: no tile touches it */
    }
    bool decays = param->is_weight || !options->decays_weights_only;
    *state = (param_state){
        .data = param->data,
        .grad = param->grad,
        .velocity = esp_alloc_zero((size_t)param->elements, sizeof(float)),
        .decay = decays ? (float)options->weight_decay : 0.0f,
        .elements = param->elements,
    };
    return state->velocity != NULL
               ? ESP_OK
               : esp_fail_memory(err, param->name, (size_t)param->elements * sizeof(float));
}

static esp_status cut_tiles(esp_optimizer *optimizer, esp_error *err)
{
    for (int p = 0; p < optimizer->param_count; p++) {
        optimizer->tile_count += (optimizer->params[p].elements + TILE_ELEMENTS - 1) / TILE_ELEMENTS;
    }
    optimizer->tiles = esp_alloc((size_t)optimizer->tile_count, sizeof(*optimizer->tiles));
    if (optimizer->tiles == NULL) {
        return esp_fail_memory(err, "optimizer tiles",
                               (size_t)optimizer->tile_count * sizeof(*optimizer->tiles));
    }
    tile *next = optimizer->tiles;
    for (int p = 0; p < optimizer->param_count; p++) {
        int64_t elements = optimizer->params[p].elements;
        for (int64_t first = 0; first < elements; first += TILE_ELEMENTS) {
            int64_t left = elements - first;
            *next++ = (tile){p, first, left < TILE_ELEMENTS ? left : TILE_ELEMENTS};
        }
    }
    return ESP_OK;
}

esp_status esp_optimizer_new(const esp_graph *graph, esp_params *params, const esp_train_options *options,
                             esp_optimizer **out, esp_error *err)
{
    *out = NULL;
    esp_status status = ESP_OK;
    int param_count = esp_params_count(params);
    esp_optimizer *optimizer = esp_alloc_zero(1, sizeof(*optimizer));
    param_state *states = esp_alloc_zero((size_t)param_count, sizeof(*states));
    if (optimizer == NULL || states == NULL) {
        esp_free(states);
        esp_free(optimizer);
        return esp_fail_memory(err, "an optimizer", (size_t)param_count * sizeof(*states));
    }
    optimizer->momentum = (float)options->momentum;
    optimizer->uses_nesterov = options->uses_nesterov;
    optimizer->owner = params;
    optimizer->param_count = param_count;
    optimizer->params = states;
    for (int p = 0; status == ESP_OK && p < param_count; p++) {
        status = add_param(&states[p], esp_params_at(params, p), options, err);
    }
    for (int m = 0; status == ESP_OK && m < options->mask_count; m++) {
        status = add_mask(optimizer, graph, params, &options->masks[m], err);
    }
    if (status == ESP_OK) {
        status = cut_tiles(optimizer, err);
    }
    if (status == ESP_OK && optimizer->tile_count == 0) {
        status =
            esp_fail(err, ESP_INVALID, "model '%s' has nothing to train: no float constant feeds a layer",
                     esp_graph_name(graph));
    }
    if (status != ESP_OK) {
        esp_optimizer_free(optimizer);
        return status;
    }
    *out = optimizer;
    return ESP_OK;
}

void esp_optimizer_free(esp_optimizer *optimizer)
{
    if (optimizer == NULL) {
        return;
    }
    for (int p = 0; p < optimizer->param_count; p++) {
        esp_free(optimizer->params[p].velocity);
        esp_free(optimizer->params[p].keep);
    }
    esp_free(optimizer->tiles);
    esp_free(optimizer->params);
    esp_free(optimizer);
}

/* ---- stepping ---- */

ESP_SIMD_CLONES
static void hold_elements(int64_t count, const uint8_t *restrict keep, float *restrict velocity,
                          float *restrict weight)
{
    for (int64_t i = 0; i < count; i++) {
        /* not a product: that would leave -0 and turn infinity into NaN */
        weight[i] = keep[i] ? weight[i] : 0.0f;
        velocity[i] = keep[i] ? velocity[i] : 0.0f;
    }
}

static void hold_mask(const param_state *param, int64_t first, int64_t count)
{
    if (param->keep != NULL) {
        hold_elements(count, param->keep + first, param->velocity + first, param->data + first);
    }
}

void esp_optimizer_hold_masks(esp_optimizer *optimizer)
{
    for (int p = 0; p < optimizer->param_count; p++) {
        hold_mask(&optimizer->params[p], 0, optimizer->params[p].elements);
    }
    esp_params_touch(optimizer->owner);
}

typedef struct step_job {
    const esp_optimizer *optimizer;
    float lr;
} step_job;

static void step_tile(void *context, int64_t task, int slot)
{
    (void)slot;
    const step_job *job = context;
    const tile *part = &job->optimizer->tiles[task];
    const param_state *param = &job->optimizer->params[part->param];
    esp_sgd_step(part->count, job->lr, job->optimizer->momentum, param->decay, job->optimizer->uses_nesterov,
                 param->grad + part->first, param->velocity + part->first, param->data + part->first);
    hold_mask(param, part->first, part->count);
}

void esp_optimizer_step(esp_optimizer *optimizer, const esp_compute *compute, double lr)
{
    step_job job = {.optimizer = optimizer, .lr = (float)lr};
    /* without the cancel token a run cannot stop early, and has no other way to fail */
    esp_compute whole = {.pool = compute == NULL ? NULL : compute->pool};
    (void)esp_compute_run(&whole, optimizer->tile_count, step_tile, &job);
    esp_params_touch(optimizer->owner);
}
