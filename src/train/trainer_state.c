/* A training as a state that can be kept and gone on from. What a state holds:
 *
 *   identity    JSON: everything that decides the result (trainer_identity.c); compared key by key
 *   <numbers>   position and figures, each a block of 8 bytes: a whole number or a double (see `numbers`)
 *   weights     all parameters and running statistics, one after the other, as floats
 *   optimizer   its memory and masks (optimizer.c)
 *   random      random states of the two executors (dropout)
 *   average     EMA weights, when there are any
 *   best        weights of the best version so far, when there is one
 *   first, last, best figures: evaluation results (see `eval_numbers`)
 *
 * All numbers are as they lie in memory: little-endian on every machine this program runs on.
 *
 * The order of images is a function of (seed, epoch), so the position is enough. A state is made between two
 * steps. A step that is cancelled half-way has already moved running statistics and dropout's random states:
 * those are remembered before each step and put back. */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "train/trainer_internal.h"

#define STATE_VERSION 2

esp_status esp_trainer_prepare_state(esp_trainer *s, esp_error *err)
{
    const esp_train_options *options = s->options;
    size_t running = 0;
    for (int p = 0; p < esp_params_count(s->params); p++) {
        const esp_param *param = esp_params_at(s->params, p);
        running += param->is_running ? (size_t)param->elements : 0;
    }
    if (options->on_checkpoint != NULL || options->freeze_count > 0) {
        s->held = esp_alloc(running, sizeof(*s->held));
        if (s->held == NULL) {
            return esp_fail_memory(err, "running statistics", running * sizeof(*s->held));
        }
    }
    s->checkpoint_s = esp_clock_s();
    if (options->on_checkpoint == NULL && options->resume == NULL) {
        return ESP_OK;
    }
    return esp_trainer_identify(s, err);
}

/* ---- a step that is taken back ---- */

typedef enum copy_way { INTO_HELD, FROM_HELD, FROM_HELD_FROZEN } copy_way;

static void copy_running(esp_trainer *s, copy_way way)
{
    float *held = s->held;
    for (int p = 0; p < esp_params_count(s->params); p++) {
        esp_param *param = esp_params_at(s->params, p);
        if (!param->is_running) {
            continue;
        }
        size_t bytes = (size_t)param->elements * sizeof(float);
        if (way == INTO_HELD) {
            memcpy(held, param->data, bytes);
        } else if (way == FROM_HELD || esp_optimizer_is_frozen(s->optimizer, p)) {
            memcpy(param->data, held, bytes);
        }
        held += param->elements;
    }
}

void esp_trainer_hold_step(esp_trainer *s)
{
    if (s->held != NULL) {
        copy_running(s, INTO_HELD);
        s->held_random[0] = *esp_exec_rng(s->exec);
        s->held_random[1] = s->tail_exec == NULL ? s->held_random[0] : *esp_exec_rng(s->tail_exec);
    }
}

static void set_random(esp_trainer *s, const esp_rng random[2])
{
    *esp_exec_rng(s->exec) = random[0];
    if (s->tail_exec != NULL) {
        *esp_exec_rng(s->tail_exec) = random[1];
    }
}

void esp_trainer_take_back(esp_trainer *s)
{
    if (s->held != NULL) {
        copy_running(s, FROM_HELD);
        set_random(s, s->held_random);
        esp_params_touch(s->params);
    }
}

void esp_trainer_keep_frozen(esp_trainer *s)
{
    if (s->options->freeze_count > 0) {
        copy_running(s, FROM_HELD_FROZEN);
        esp_params_touch(s->params);
    }
}

/* ---- numbers ---- */

typedef enum number_kind { NUMBER_INT, NUMBER_INT64, NUMBER_REAL, NUMBER_BOOL } number_kind;

typedef struct number_row {
    const char *name;
    number_kind kind;
    size_t offset;
} number_row;

#define TRAINER_AT(member) offsetof(esp_trainer, member)
static const number_row numbers[] = {
    {"epoch", NUMBER_INT, TRAINER_AT(now.epoch)},
    {"epoch.images", NUMBER_INT64, TRAINER_AT(now.sums.images)},
    {"epoch.loss", NUMBER_REAL, TRAINER_AT(now.sums.loss)},
    {"epoch.top1", NUMBER_INT64, TRAINER_AT(now.sums.top1)},
    {"epoch.top5", NUMBER_INT64, TRAINER_AT(now.sums.top5)},
    {"epoch.lr", NUMBER_REAL, TRAINER_AT(now.lr)},
    {"epoch.seconds_before", NUMBER_REAL, TRAINER_AT(now.seconds_before)},
    {"images", NUMBER_INT64, TRAINER_AT(images_done)},
    {"steps", NUMBER_INT64, TRAINER_AT(result.steps)},
    {"seconds", NUMBER_REAL, TRAINER_AT(result.seconds)},
    {"epochs_done", NUMBER_INT, TRAINER_AT(result.epochs_done)},
    {"best_epoch", NUMBER_INT, TRAINER_AT(result.best_epoch)},
    {"validation_seconds", NUMBER_REAL, TRAINER_AT(validation_s)},
    {"plateau.factor", NUMBER_REAL, TRAINER_AT(plateau.factor)},
    {"plateau.best", NUMBER_REAL, TRAINER_AT(plateau.best)},
    {"plateau.bad", NUMBER_INT, TRAINER_AT(plateau.bad)},
    {"plateau.cooldown", NUMBER_INT, TRAINER_AT(plateau.cooldown)},
    {"plateau.part", NUMBER_INT, TRAINER_AT(plateau.part)},
    {"lowest_loss", NUMBER_REAL, TRAINER_AT(lowest_loss)},
    {"waited", NUMBER_INT, TRAINER_AT(waited)},
    {"first_is_done", NUMBER_BOOL, TRAINER_AT(first_is_done)},
};

#define EVAL_AT(member) offsetof(esp_eval_result, member)
static const number_row eval_numbers[] = {
    {"images", NUMBER_INT64, EVAL_AT(images)},
    {"top1", NUMBER_REAL, EVAL_AT(top1)},
    {"top5", NUMBER_REAL, EVAL_AT(top5)},
    {"loss", NUMBER_REAL, EVAL_AT(loss)},
    {"top1_error", NUMBER_REAL, EVAL_AT(top1_error)},
    {"seconds", NUMBER_REAL, EVAL_AT(seconds)},
    {"images_per_s", NUMBER_REAL, EVAL_AT(images_per_s)},
};

#define COUNT_OF(table) (sizeof(table) / sizeof((table)[0]))

static const struct {
    const char *name;
    size_t offset;
} evals[] = {
    {"first", TRAINER_AT(result.first)},
    {"best", TRAINER_AT(result.best)},
    {"last", TRAINER_AT(result.last)},
};

static uint64_t load_number(const char *base, const number_row *row)
{
    const void *at = base + row->offset;
    int64_t whole = 0;
    uint64_t bits = 0;
    switch (row->kind) {
    case NUMBER_INT:
        whole = *(const int *)at;
        break;
    case NUMBER_INT64:
        whole = *(const int64_t *)at;
        break;
    case NUMBER_BOOL:
        whole = *(const bool *)at;
        break;
    case NUMBER_REAL:
        memcpy(&bits, at, sizeof(bits));
        return bits;
    }
    memcpy(&bits, &whole, sizeof(bits));
    return bits;
}

static esp_status store_number(char *base, const number_row *row, uint64_t bits, esp_error *err)
{
    void *at = base + row->offset;
    int64_t whole = 0;
    memcpy(&whole, &bits, sizeof(whole));
    bool is_bad = row->kind == NUMBER_REAL ? false
                  : row->kind == NUMBER_INT64
                      ? whole < 0
                      : whole < 0 || whole > (row->kind == NUMBER_BOOL ? 1 : INT32_MAX);
    if (is_bad) {
        return esp_fail(err, ESP_FORMAT, "'%s' is %" PRId64 ", which cannot be", row->name, whole);
    }
    switch (row->kind) {
    case NUMBER_INT:
        *(int *)at = (int)whole;
        break;
    case NUMBER_INT64:
        *(int64_t *)at = whole;
        break;
    case NUMBER_BOOL:
        *(bool *)at = whole != 0;
        break;
    case NUMBER_REAL:
        memcpy(at, &bits, sizeof(bits));
        break;
    }
    return ESP_OK;
}

static const char *block_name(char *buffer, size_t size, const char *group, const char *name)
{
    snprintf(buffer, size, "%s%s%s", group, group[0] != 0 ? "." : "", name);
    return buffer;
}

static esp_status put_numbers(esp_train_state *state, const char *group, const void *base,
                              const number_row *rows, size_t count, esp_error *err)
{
    char name[64];
    esp_status status = ESP_OK;
    for (size_t i = 0; status == ESP_OK && i < count; i++) {
        uint64_t bits = load_number(base, &rows[i]);
        status = esp_train_state_put(state, block_name(name, sizeof(name), group, rows[i].name), &bits,
                                     sizeof(bits), err);
    }
    return status;
}

static esp_status get_numbers(const esp_train_state *state, const char *group, void *base,
                              const number_row *rows, size_t count, esp_error *err)
{
    char name[64];
    esp_status status = ESP_OK;
    for (size_t i = 0; status == ESP_OK && i < count; i++) {
        uint64_t bits = 0;
        status = esp_train_state_get(state, block_name(name, sizeof(name), group, rows[i].name), &bits,
                                     sizeof(bits), err);
        if (status == ESP_OK) {
            status = store_number(base, &rows[i], bits, err);
        }
    }
    return status;
}

/* ---- weights ---- */

static size_t weight_bytes(const esp_trainer *s)
{
    size_t bytes = 0;
    for (int p = 0; p < esp_params_count(s->params); p++) {
        bytes += (size_t)esp_params_at(s->params, p)->elements * sizeof(float);
    }
    return bytes;
}

/* Of `params`, or, with a graph, of its constants. */
static esp_status put_weights(const esp_trainer *s, esp_train_state *state, const char *name,
                              esp_params *params, const esp_graph *graph, esp_error *err)
{
    void *block = NULL;
    esp_status status = esp_train_state_add(state, name, weight_bytes(s), &block, err);
    float *at = block;
    for (int p = 0; status == ESP_OK && p < esp_params_count(params); p++) {
        const esp_param *param = esp_params_at(params, p);
        const float *data =
            graph == NULL ? param->data : esp_tensor_f32(esp_graph_value(graph, param->value)->constant);
        memcpy(at, data, (size_t)param->elements * sizeof(float));
        at += param->elements;
    }
    return status;
}

static esp_status get_weights(const esp_trainer *s, const esp_train_state *state, const char *name,
                              esp_params *params, esp_error *err)
{
    const esp_state_block *block = esp_train_state_find(state, name);
    if (block == NULL || block->size != weight_bytes(s)) {
        return esp_fail(err, ESP_FORMAT, "'%s' has %zu bytes, expected %zu", name,
                        block == NULL ? 0 : block->size, weight_bytes(s));
    }
    const float *at = block->data;
    for (int p = 0; p < esp_params_count(params); p++) {
        esp_param *param = esp_params_at(params, p);
        memcpy(param->data, at, (size_t)param->elements * sizeof(float));
        at += param->elements;
    }
    esp_params_touch(params);
    return ESP_OK;
}

static esp_status get_best(esp_trainer *s, const esp_train_state *state, esp_error *err)
{
    esp_params *params = NULL;
    esp_status status = esp_params_new(s->graph, &params, err);
    if (status == ESP_OK) {
        status = get_weights(s, state, "best", params, err);
    }
    if (status == ESP_OK) {
        status = esp_params_to_graph(params, &s->best, err);
    }
    esp_params_free(params);
    return status;
}

/* ---- the whole ---- */

bool esp_trainer_checkpoint_is_due(const esp_trainer *s)
{
    const esp_train_options *options = s->options;
    if (options->on_checkpoint == NULL) {
        return false;
    }
    bool by_steps =
        options->checkpoint_steps > 0 && s->result.steps - s->checkpoint_step >= options->checkpoint_steps;
    return by_steps || (options->checkpoint_seconds > 0.0 &&
                        esp_clock_s() - s->checkpoint_s >= options->checkpoint_seconds);
}

static esp_status put_optimizer(const esp_trainer *s, esp_train_state *state, esp_error *err)
{
    void *block = NULL;
    esp_status status =
        esp_train_state_add(state, "optimizer", esp_optimizer_state_size(s->optimizer), &block, err);
    if (status == ESP_OK) {
        esp_optimizer_state_write(s->optimizer, block);
    }
    return status;
}

static esp_status make_state(esp_trainer *s, esp_train_state *state, esp_error *err)
{
    uint64_t version = STATE_VERSION;
    esp_rng random[2] = {*esp_exec_rng(s->exec), *esp_exec_rng(s->exec)};
    if (s->tail_exec != NULL) {
        random[1] = *esp_exec_rng(s->tail_exec);
    }
    esp_status status = esp_train_state_put(state, "version", &version, sizeof(version), err);
    if (status == ESP_OK) {
        status = esp_train_state_put(state, "identity", s->identity, strlen(s->identity), err);
    }
    if (status == ESP_OK) {
        status = put_numbers(state, "", s, numbers, COUNT_OF(numbers), err);
    }
    for (size_t i = 0; status == ESP_OK && i < COUNT_OF(evals); i++) {
        status = put_numbers(state, evals[i].name, (const char *)s + evals[i].offset, eval_numbers,
                             COUNT_OF(eval_numbers), err);
    }
    if (status == ESP_OK) {
        status = esp_train_state_put(state, "random", random, sizeof(random), err);
    }
    if (status == ESP_OK) {
        status = put_weights(s, state, "weights", s->params, NULL, err);
    }
    if (status == ESP_OK) {
        status = put_optimizer(s, state, err);
    }
    if (status == ESP_OK && s->average != NULL) {
        status = put_weights(s, state, "average", s->average, NULL, err);
    }
    if (status == ESP_OK && s->best != NULL) {
        status = put_weights(s, state, "best", s->params, s->best, err);
    }
    return status;
}

void esp_trainer_checkpoint(esp_trainer *s)
{
    if (s->options->on_checkpoint == NULL) {
        return;
    }
    esp_train_state state = {0};
    esp_error err = {0};
    esp_status status = make_state(s, &state, &err);
    if (status == ESP_OK) {
        status = s->options->on_checkpoint(s->options->checkpoint_user, &state, &err);
    }
    if (status == ESP_OK) {
        s->result.checkpoints++;
    } else {
        s->result.checkpoint_failures++;
        s->result.checkpoint_error = err;
    }
    esp_train_state_free(&state);
    s->checkpoint_s = esp_clock_s();
    s->checkpoint_step = s->result.steps;
}

/* A position that an uninterrupted training could have had. */
static esp_status check_position(const esp_trainer *s, esp_error *err)
{
    const esp_epoch_state *now = &s->now;
    int64_t done = now->sums.images;
    bool is_good = now->epoch >= 1 && now->epoch <= s->epochs + 1 && done <= now->images &&
                   (done % s->batch == 0 || done == now->images) && now->sums.top1 <= done &&
                   now->sums.top5 <= done && !(now->epoch == s->epochs + 1 && done > 0);
    return is_good ? ESP_OK
                   : esp_fail(err, ESP_FORMAT, "a position at image %" PRId64 " of epoch %d, which cannot be",
                              done, now->epoch);
}

static esp_status read_position(esp_trainer *s, const esp_train_state *state, esp_error *err)
{
    esp_rng random[2];
    esp_status status = get_numbers(state, "", s, numbers, COUNT_OF(numbers), err);
    for (size_t i = 0; status == ESP_OK && i < COUNT_OF(evals); i++) {
        esp_eval_result *result = (void *)((char *)s + evals[i].offset);
        status = get_numbers(state, evals[i].name, result, eval_numbers, COUNT_OF(eval_numbers), err);
        result->normalization = s->normalization;
    }
    if (status == ESP_OK) {
        s->now.images = s->now.epoch >= s->epochs ? s->last_images : s->epoch_images;
        status = check_position(s, err);
    }
    if (status == ESP_OK) {
        status = esp_train_state_get(state, "random", random, sizeof(random), err);
    }
    if (status == ESP_OK) {
        set_random(s, random);
        s->result.resumed_step = s->result.steps;
        s->checkpoint_step = s->result.steps;
    }
    return status;
}

esp_status esp_trainer_resume(esp_trainer *s, esp_error *err)
{
    const esp_train_state *state = s->options->resume;
    uint64_t version = 0;
    esp_status status = esp_train_state_get(state, "version", &version, sizeof(version), err);
    if (status == ESP_OK && version != STATE_VERSION) {
        status = esp_fail(err, ESP_UNSUPPORTED, "version %" PRIu64 ", expected %d", version, STATE_VERSION);
    }
    if (status == ESP_OK) {
        status = esp_trainer_check_identity(s, state, err);
    }
    if (status == ESP_OK) {
        status = read_position(s, state, err);
    }
    if (status == ESP_OK) {
        status = get_weights(s, state, "weights", s->params, err);
    }
    const esp_state_block *optimizer = esp_train_state_find(state, "optimizer");
    if (status == ESP_OK) {
        status = optimizer == NULL
                     ? esp_fail(err, ESP_FORMAT, "'optimizer' is missing")
                     : esp_optimizer_state_read(s->optimizer, optimizer->data, optimizer->size, err);
    }
    if (status == ESP_OK && s->average != NULL) {
        status = get_weights(s, state, "average", s->average, err);
    }
    if (status == ESP_OK && esp_train_state_find(state, "best") != NULL) {
        status = get_best(s, state, err);
    }
    if (status != ESP_OK) {
        esp_error_prefix(err, "cannot resume");
    }
    return status;
}
