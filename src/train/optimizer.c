/* The optimizer cuts all parameters into tiles of a fixed size once; a step is one task per tile. A tile
 * touches its own elements only, so the result is the same for any number of threads. Sums over gradients are
 * made per tile and added in the order of the tiles.
 *
 * The rules are a table (optimizer_kind.h): each steps one tile of one parameter. They follow PyTorch's
 * torch.optim to the order of the operations: float arithmetic on the elements, coefficients in double. */
#include "train/optimizer.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/unknown.h"
#include "tensor/simd.h"

#define TILE_ELEMENTS 16384
#define MOST_MEMORY   2

typedef struct param_state {
    float *data;
    float *grad;                /* NULL: no step touches it (running statistics, frozen constants) */
    float *memory[MOST_MEMORY]; /* SGD: velocity; Adam: averages of gradients and of their squares */
    uint8_t *keep;              /* 0/1 per element, or NULL: all free */
    float decay;
    int64_t elements;
    bool is_frozen;
} param_state;

typedef struct tile {
    int param;
    int64_t first, count;
    double sum; /* of squares, when lengths are asked for; not finite when a gradient is not */
} tile;

struct esp_optimizer {
    esp_optimizer_kind kind;
    double momentum, dampening, beta1, beta2, epsilon;
    bool uses_nesterov;
    int64_t steps; /* done */
    esp_params *owner;
    int param_count;
    param_state *params;
    int64_t tile_count;
    tile *tiles;
};

/* ---- the rules ---- */

/* What a rule needs to know of the step. */
typedef struct step_rule {
    const esp_optimizer *optimizer;
    double lr;
} step_rule;

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

ESP_SIMD_CLONES
static void step_dampened(int64_t count, float lr, float momentum, float share, float decay,
                          const float *restrict grad, float *restrict velocity, float *restrict weight)
{
    for (int64_t i = 0; i < count; i++) {
        float g = grad[i] + decay * weight[i];
        float v = momentum * velocity[i] + share * g;
        velocity[i] = v;
        weight[i] -= lr * v;
    }
}

static void step_sgd(const step_rule *rule, const param_state *param, const tile *part)
{
    const esp_optimizer *optimizer = rule->optimizer;
    const float *grad = param->grad + part->first;
    float *velocity = param->memory[0] + part->first, *weight = param->data + part->first;
    float lr = (float)rule->lr, momentum = (float)optimizer->momentum;
    /* the first velocity is the gradient itself; without momentum dampening means nothing */
    if (optimizer->dampening > 0.0 && momentum > 0.0f && optimizer->steps > 0) {
        step_dampened(part->count, lr, momentum, (float)(1.0 - optimizer->dampening), param->decay, grad,
                      velocity, weight);
    } else {
        step_elements(part->count, lr, momentum, param->decay, optimizer->uses_nesterov, grad, velocity,
                      weight);
    }
}

/* Coefficients of one Adam step. */
typedef struct adam_step {
    float beta1, beta2, rest1, rest2; /* rest = 1 - beta */
    float decay;                      /* added to the gradient */
    float shrink;                     /* factor on the weight */
    float size, root, epsilon;        /* w -= size * m / (sqrt(v) / root + epsilon) */
} adam_step;

ESP_SIMD_CLONES
static void step_moments(int64_t count, const adam_step *step, const float *restrict grad,
                         float *restrict first, float *restrict second, float *restrict weight)
{
    for (int64_t i = 0; i < count; i++) {
        float w = weight[i] * step->shrink;
        float g = grad[i] + step->decay * w;
        float m = first[i] * step->beta1 + g * step->rest1;
        float v = second[i] * step->beta2 + step->rest2 * g * g;
        first[i] = m;
        second[i] = v;
        weight[i] = w - step->size * (m / (sqrtf(v) / step->root + step->epsilon));
    }
}

static void step_by_moments(const step_rule *rule, const param_state *param, const tile *part,
                            bool decays_apart)
{
    const esp_optimizer *optimizer = rule->optimizer;
    double beta1 = optimizer->beta1, beta2 = optimizer->beta2, step = (double)(optimizer->steps + 1);
    const adam_step numbers = {
        .beta1 = (float)beta1,
        .beta2 = (float)beta2,
        .rest1 = (float)(1.0 - beta1),
        .rest2 = (float)(1.0 - beta2),
        .decay = decays_apart ? 0.0f : param->decay,
        .shrink = decays_apart ? (float)(1.0 - rule->lr * (double)param->decay) : 1.0f,
        .size = (float)(rule->lr / (1.0 - pow(beta1, step))),
        .root = (float)sqrt(1.0 - pow(beta2, step)),
        .epsilon = (float)optimizer->epsilon,
    };
    step_moments(part->count, &numbers, param->grad + part->first, param->memory[0] + part->first,
                 param->memory[1] + part->first, param->data + part->first);
}

static void step_adam(const step_rule *rule, const param_state *param, const tile *part)
{
    step_by_moments(rule, param, part, false);
}

static void step_adamw(const step_rule *rule, const param_state *param, const tile *part)
{
    step_by_moments(rule, param, part, true);
}

typedef struct optimizer_row {
    int memory;
    double lr;
    void (*step)(const step_rule *rule, const param_state *param, const tile *part);
} optimizer_row;

static const optimizer_row optimizer_rows[] = {
#define ESP_OPTIMIZER_ROW(name, word, memory, lr, step) {memory, lr, step},
    ESP_OPTIMIZER_LIST(ESP_OPTIMIZER_ROW)
#undef ESP_OPTIMIZER_ROW
};

static const char *const optimizer_words[] = {
#define ESP_OPTIMIZER_WORD(name, word, memory, lr, step) word,
    ESP_OPTIMIZER_LIST(ESP_OPTIMIZER_WORD)
#undef ESP_OPTIMIZER_WORD
};

#define OPTIMIZER_COUNT (sizeof(optimizer_words) / sizeof(optimizer_words[0]))

esp_status esp_optimizer_parse_kind(const char *word, esp_optimizer_kind *out, esp_error *err)
{
    for (size_t i = 0; i < OPTIMIZER_COUNT; i++) {
        if (strcmp(word, optimizer_words[i]) == 0) {
            *out = (esp_optimizer_kind)i;
            return ESP_OK;
        }
    }
    return esp_fail_unknown(err, "optimizer", word, optimizer_words, OPTIMIZER_COUNT);
}

const char *esp_optimizer_word(esp_optimizer_kind kind)
{
    return (size_t)kind < OPTIMIZER_COUNT ? optimizer_words[kind] : "?";
}

double esp_optimizer_default_lr(esp_optimizer_kind kind)
{
    return (size_t)kind < OPTIMIZER_COUNT ? optimizer_rows[kind].lr : 0.01;
}

/* ---- making one ---- */

static esp_status add_mask(const esp_optimizer *optimizer, const esp_graph *graph,
                           const esp_weight_mask *mask, uint8_t **keeps, esp_error *err)
{
    bool exists = mask->value >= 0 && mask->value < esp_graph_value_count(graph);
    int index = exists ? esp_params_find(optimizer->owner, mask->value) : -1;
    if (index < 0 || esp_params_at(optimizer->owner, index)->grad == NULL) {
        return esp_fail(err, ESP_INVALID, "mask of value %d '%s': expected a trainable constant", mask->value,
                        exists ? esp_graph_value(graph, mask->value)->name : "?");
    }
    int64_t elements = esp_params_at(optimizer->owner, index)->elements;
    if (keeps[index] == NULL) {
        keeps[index] = esp_alloc((size_t)elements, 1);
        if (keeps[index] == NULL) {
            return esp_fail_memory(err, "a mask", (size_t)elements);
        }
        memset(keeps[index], 1, (size_t)elements);
    }
    for (int64_t i = 0; i < elements; i++) {
        keeps[index][i] = keeps[index][i] && mask->keep[i];
    }
    return ESP_OK;
}

esp_status esp_optimizer_set_masks(esp_optimizer *optimizer, const esp_graph *graph,
                                   const esp_weight_mask *masks, int count, esp_error *err)
{
    esp_status status = ESP_OK;
    size_t param_count = (size_t)optimizer->param_count;
    uint8_t **keeps = esp_alloc_zero(param_count, sizeof(*keeps));
    if (keeps == NULL) {
        return esp_fail_memory(err, "masks", param_count * sizeof(*keeps));
    }
    for (int m = 0; status == ESP_OK && m < count; m++) {
        status = add_mask(optimizer, graph, &masks[m], keeps, err);
    }
    for (int p = 0; p < optimizer->param_count; p++) {
        uint8_t *unused = keeps[p];
        if (status == ESP_OK) {
            unused = optimizer->params[p].keep;
            optimizer->params[p].keep = keeps[p];
        }
        esp_free(unused);
    }
    esp_free(keeps);
    if (status == ESP_OK) {
        esp_optimizer_hold_masks(optimizer);
    }
    return status;
}

static esp_status add_param(esp_optimizer *optimizer, param_state *state, const esp_param *param,
                            const esp_train_options *options, esp_error *err)
{
    *state = (param_state){.data = param->data, .elements = param->elements, .is_frozen = state->is_frozen};
    if (param->is_running || param->grad == NULL || state->is_frozen) {
        return ESP_OK; /* no gradient: no tile touches it */
    }
    bool decays = param->is_weight || !options->decays_weights_only;
    state->grad = param->grad;
    state->decay = decays ? (float)options->weight_decay : 0.0f;
    for (int m = 0; m < optimizer_rows[optimizer->kind].memory; m++) {
        state->memory[m] = esp_alloc_zero((size_t)param->elements, sizeof(float));
        if (state->memory[m] == NULL) {
            return esp_fail_memory(err, param->name, (size_t)param->elements * sizeof(float));
        }
    }
    return ESP_OK;
}

static int64_t tile_count_of(const param_state *param)
{
    return param->grad == NULL ? 0 : (param->elements + TILE_ELEMENTS - 1) / TILE_ELEMENTS;
}

static esp_status cut_tiles(esp_optimizer *optimizer, esp_error *err)
{
    for (int p = 0; p < optimizer->param_count; p++) {
        optimizer->tile_count += tile_count_of(&optimizer->params[p]);
    }
    optimizer->tiles = esp_alloc((size_t)optimizer->tile_count, sizeof(*optimizer->tiles));
    if (optimizer->tiles == NULL) {
        return esp_fail_memory(err, "optimizer tiles",
                               (size_t)optimizer->tile_count * sizeof(*optimizer->tiles));
    }
    tile *next = optimizer->tiles;
    for (int p = 0; p < optimizer->param_count; p++) {
        int64_t count = tile_count_of(&optimizer->params[p]), elements = optimizer->params[p].elements;
        for (int64_t t = 0; t < count; t++) {
            int64_t first = t * TILE_ELEMENTS, left = elements - first;
            *next++ =
                (tile){.param = p, .first = first, .count = left < TILE_ELEMENTS ? left : TILE_ELEMENTS};
        }
    }
    return ESP_OK;
}

/* Whom `freeze` names. */
static esp_status mark_frozen(esp_optimizer *optimizer, const esp_graph *graph, esp_params *params,
                              const esp_train_options *options, esp_error *err)
{
    if (options->freeze_count == 0) {
        return ESP_OK;
    }
    bool *frozen = esp_alloc_zero((size_t)optimizer->param_count, sizeof(*frozen));
    if (frozen == NULL) {
        return esp_fail_memory(err, "frozen layers", (size_t)optimizer->param_count);
    }
    esp_status status = esp_freeze_find(graph, params, options->freeze, options->freeze_count, frozen, err);
    for (int p = 0; status == ESP_OK && p < optimizer->param_count; p++) {
        optimizer->params[p].is_frozen = frozen[p];
    }
    esp_free(frozen);
    return status;
}

static esp_status fill(esp_optimizer *optimizer, const esp_graph *graph, esp_params *params,
                       const esp_train_options *options, esp_error *err)
{
    esp_status status = mark_frozen(optimizer, graph, params, options, err);
    for (int p = 0; status == ESP_OK && p < optimizer->param_count; p++) {
        status = add_param(optimizer, &optimizer->params[p], esp_params_at(params, p), options, err);
    }
    if (status == ESP_OK) {
        status = cut_tiles(optimizer, err);
    }
    if (status == ESP_OK && optimizer->tile_count == 0) {
        status =
            esp_fail(err, ESP_INVALID, "model '%s' has nothing to train: %s", esp_graph_name(graph),
                     options->freeze_count > 0 ? "everything is frozen" : "no float constant feeds a layer");
    }
    /* last: masks that are checked are held, which writes into the params */
    if (status == ESP_OK && options->mask_count > 0) {
        status = esp_optimizer_set_masks(optimizer, graph, options->masks, options->mask_count, err);
    }
    return status;
}

esp_status esp_optimizer_new(const esp_graph *graph, esp_params *params, const esp_train_options *options,
                             esp_optimizer **out, esp_error *err)
{
    *out = NULL;
    if ((size_t)options->optimizer >= OPTIMIZER_COUNT) {
        return esp_fail(err, ESP_INVALID, "unknown optimizer %d", (int)options->optimizer);
    }
    int param_count = esp_params_count(params);
    esp_optimizer *optimizer = esp_alloc_zero(1, sizeof(*optimizer));
    param_state *states = esp_alloc_zero((size_t)param_count, sizeof(*states));
    if (optimizer == NULL || states == NULL) {
        esp_free(states);
        esp_free(optimizer);
        return esp_fail_memory(err, "an optimizer", (size_t)param_count * sizeof(*states));
    }
    optimizer->kind = options->optimizer;
    optimizer->momentum = options->momentum;
    optimizer->dampening = options->dampening;
    optimizer->uses_nesterov = options->uses_nesterov;
    optimizer->beta1 = options->beta1 > 0.0 ? options->beta1 : 0.9;
    optimizer->beta2 = options->beta2 > 0.0 ? options->beta2 : 0.999;
    optimizer->epsilon = options->epsilon > 0.0 ? options->epsilon : 1e-8;
    optimizer->owner = params;
    optimizer->param_count = param_count;
    optimizer->params = states;
    esp_status status = fill(optimizer, graph, params, options, err);
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
        for (int m = 0; m < MOST_MEMORY; m++) {
            esp_free(optimizer->params[p].memory[m]);
        }
        esp_free(optimizer->params[p].keep);
    }
    esp_free(optimizer->tiles);
    esp_free(optimizer->params);
    esp_free(optimizer);
}

const uint8_t *esp_optimizer_mask(const esp_optimizer *optimizer, int index)
{
    return optimizer->params[index].keep;
}

bool esp_optimizer_is_frozen(const esp_optimizer *optimizer, int index)
{
    return optimizer->params[index].is_frozen;
}

/* ---- stepping ---- */

ESP_SIMD_CLONES
static void hold_elements(int64_t count, const uint8_t *restrict keep, float *restrict values)
{
    for (int64_t i = 0; i < count; i++) {
        /* not a product: that would leave -0 and turn infinity into NaN */
        values[i] = keep[i] ? values[i] : 0.0f;
    }
}

static void hold_mask(const param_state *param, int64_t first, int64_t count)
{
    if (param->keep == NULL) {
        return;
    }
    hold_elements(count, param->keep + first, param->data + first);
    for (int m = 0; m < MOST_MEMORY && param->memory[m] != NULL; m++) {
        hold_elements(count, param->keep + first, param->memory[m] + first);
    }
}

void esp_optimizer_hold_masks(esp_optimizer *optimizer)
{
    for (int p = 0; p < optimizer->param_count; p++) {
        hold_mask(&optimizer->params[p], 0, optimizer->params[p].elements);
    }
    esp_params_touch(optimizer->owner);
}

/* Tiles without the cancel token: a run then cannot stop early, and has no other way to fail. */
static void run_tiles(const esp_optimizer *optimizer, const esp_compute *compute, esp_task_fn *task,
                      void *job)
{
    esp_compute whole = {.pool = compute == NULL ? NULL : compute->pool};
    (void)esp_compute_run(&whole, optimizer->tile_count, task, job);
}

static void step_tile(void *context, int64_t task, int slot)
{
    (void)slot;
    const step_rule *rule = context;
    const tile *part = &rule->optimizer->tiles[task];
    const param_state *param = &rule->optimizer->params[part->param];
    optimizer_rows[rule->optimizer->kind].step(rule, param, part);
    hold_mask(param, part->first, part->count);
}

void esp_optimizer_step(esp_optimizer *optimizer, const esp_compute *compute, double lr)
{
    step_rule rule = {.optimizer = optimizer, .lr = lr};
    run_tiles(optimizer, compute, step_tile, &rule);
    optimizer->steps++;
    esp_params_touch(optimizer->owner);
}

/* ---- gradients as a whole ---- */

/* By the bits: an exponent of all ones is infinity or NaN. */
ESP_SIMD_CLONES
static uint32_t count_wild(int64_t count, const float *values)
{
    uint32_t wild = 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof(bits));
        wild += (bits & UINT32_C(0x7f800000)) == UINT32_C(0x7f800000);
    }
    return wild;
}

static void check_tile(void *context, int64_t task, int slot)
{
    (void)slot;
    const esp_optimizer *optimizer = context;
    tile *part = &optimizer->tiles[task];
    part->sum = (double)count_wild(part->count, optimizer->params[part->param].grad + part->first);
}

static double sum_of_tiles(const esp_optimizer *optimizer)
{
    double sum = 0.0;
    for (int64_t t = 0; t < optimizer->tile_count; t++) {
        sum += optimizer->tiles[t].sum;
    }
    return sum;
}

bool esp_optimizer_gradients_are_finite(esp_optimizer *optimizer, const esp_compute *compute)
{
    run_tiles(optimizer, compute, check_tile, optimizer);
    return sum_of_tiles(optimizer) == 0.0;
}

typedef struct clip_job {
    const esp_optimizer *optimizer;
    float limit; /* of an entry; 0: none */
    float scale;
} clip_job;

static void measure_tile(void *context, int64_t task, int slot)
{
    (void)slot;
    const clip_job *job = context;
    tile *part = &job->optimizer->tiles[task];
    const param_state *param = &job->optimizer->params[part->param];
    float *grad = param->grad + part->first;
    if (param->keep != NULL) {
        hold_elements(part->count, param->keep + part->first, grad);
    }
    double sum = 0.0;
    for (int64_t i = 0; i < part->count; i++) {
        if (job->limit > 0.0f) {
            grad[i] = fminf(fmaxf(grad[i], -job->limit), job->limit);
        }
        sum += (double)grad[i] * (double)grad[i];
    }
    part->sum = sum;
}

static void scale_tile(void *context, int64_t task, int slot)
{
    (void)slot;
    const clip_job *job = context;
    const tile *part = &job->optimizer->tiles[task];
    float *grad = job->optimizer->params[part->param].grad + part->first;
    for (int64_t i = 0; i < part->count; i++) {
        grad[i] *= job->scale;
    }
}

void esp_optimizer_clip(esp_optimizer *optimizer, const esp_compute *compute, double value, double norm)
{
    clip_job job = {.optimizer = optimizer, .limit = (float)value};
    run_tiles(optimizer, compute, measure_tile, &job);
    double length = sqrt(sum_of_tiles(optimizer));
    if (norm > 0.0 && norm / (length + 1e-6) < 1.0) {
        job.scale = (float)(norm / (length + 1e-6));
        run_tiles(optimizer, compute, scale_tile, &job);
    }
}

/* ---- state as bytes: steps; per parameter its memory; per parameter whether it is masked, and its mask as
 * one bit per element ---- */

static size_t mask_bytes(const param_state *param)
{
    return ((size_t)param->elements + 7) / 8;
}

size_t esp_optimizer_state_size(const esp_optimizer *optimizer)
{
    size_t size = sizeof(int64_t);
    for (int p = 0; p < optimizer->param_count; p++) {
        const param_state *param = &optimizer->params[p];
        for (int m = 0; m < MOST_MEMORY && param->memory[m] != NULL; m++) {
            size += (size_t)param->elements * sizeof(float);
        }
        size += 1 + (param->keep == NULL ? 0 : mask_bytes(param));
    }
    return size;
}

static uint8_t *write_bytes(uint8_t *at, const void *data, size_t size)
{
    memcpy(at, data, size);
    return at + size;
}

void esp_optimizer_state_write(const esp_optimizer *optimizer, void *out)
{
    uint8_t *at = write_bytes(out, &optimizer->steps, sizeof(optimizer->steps));
    for (int p = 0; p < optimizer->param_count; p++) {
        const param_state *param = &optimizer->params[p];
        for (int m = 0; m < MOST_MEMORY && param->memory[m] != NULL; m++) {
            at = write_bytes(at, param->memory[m], (size_t)param->elements * sizeof(float));
        }
    }
    for (int p = 0; p < optimizer->param_count; p++) {
        const param_state *param = &optimizer->params[p];
        *at++ = param->keep != NULL;
        if (param->keep == NULL) {
            continue;
        }
        memset(at, 0, mask_bytes(param));
        for (int64_t i = 0; i < param->elements; i++) {
            at[i / 8] |= (uint8_t)(param->keep[i] << (i % 8));
        }
        at += mask_bytes(param);
    }
}

/* What is left to be read. */
typedef struct byte_reader {
    const uint8_t *at;
    size_t left;
} byte_reader;

static bool read_bytes(byte_reader *reader, void *out, size_t size)
{
    if (reader->left < size) {
        return false;
    }
    memcpy(out, reader->at, size);
    reader->at += size;
    reader->left -= size;
    return true;
}

static bool read_mask(byte_reader *reader, param_state *param, esp_status *status, esp_error *err)
{
    uint8_t is_masked = 0;
    if (!read_bytes(reader, &is_masked, 1) || is_masked > 1 ||
        (is_masked && (reader->left < mask_bytes(param) || (param->grad == NULL && !param->is_frozen)))) {
        return false;
    }
    esp_free(param->keep);
    param->keep = NULL;
    if (!is_masked) {
        return true;
    }
    param->keep = esp_alloc((size_t)param->elements, 1);
    if (param->keep == NULL) {
        *status = esp_fail_memory(err, "a mask", (size_t)param->elements);
        return true;
    }
    for (int64_t i = 0; i < param->elements; i++) {
        param->keep[i] = reader->at[i / 8] >> (i % 8) & 1;
    }
    reader->at += mask_bytes(param);
    reader->left -= mask_bytes(param);
    return true;
}

esp_status esp_optimizer_state_read(esp_optimizer *optimizer, const void *data, size_t size, esp_error *err)
{
    esp_status status = ESP_OK;
    byte_reader reader = {data, size};
    bool is_good = read_bytes(&reader, &optimizer->steps, sizeof(optimizer->steps)) && optimizer->steps >= 0;
    for (int p = 0; is_good && p < optimizer->param_count; p++) {
        param_state *param = &optimizer->params[p];
        for (int m = 0; is_good && m < MOST_MEMORY && param->memory[m] != NULL; m++) {
            is_good = read_bytes(&reader, param->memory[m], (size_t)param->elements * sizeof(float));
        }
    }
    for (int p = 0; is_good && status == ESP_OK && p < optimizer->param_count; p++) {
        is_good = read_mask(&reader, &optimizer->params[p], &status, err);
    }
    if (is_good && status == ESP_OK && reader.left == 0) {
        return ESP_OK;
    }
    return status != ESP_OK
               ? status
               : esp_fail(err, ESP_FORMAT, "the optimizer's memory has %zu bytes, which do not fit the model",
                          size);
}
