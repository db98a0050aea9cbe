/* Named blocks in the order in which they were added. There are a few per parameter of a network, so looking
 * one up goes through all of them. */
#include "train/train_state.h"

#include <string.h>

#include "base/memory.h"

void esp_train_state_free(esp_train_state *state)
{
    if (state == NULL) {
        return;
    }
    for (int i = 0; i < state->count; i++) {
        esp_free(state->blocks[i].name);
        esp_free(state->blocks[i].data);
    }
    esp_free(state->blocks);
    *state = (esp_train_state){0};
}

static esp_status make_room(esp_train_state *state, esp_error *err)
{
    if (state->count < state->capacity) {
        return ESP_OK;
    }
    int capacity = state->capacity == 0 ? 64 : state->capacity * 2;
    esp_state_block *blocks =
        esp_realloc(state->blocks, (size_t)state->count, (size_t)capacity, sizeof(*blocks));
    if (blocks == NULL) {
        return esp_fail_memory(err, "the state of a training", (size_t)capacity * sizeof(*blocks));
    }
    state->blocks = blocks;
    state->capacity = capacity;
    return ESP_OK;
}

esp_status esp_train_state_add(esp_train_state *state, const char *name, size_t size, void **out,
                               esp_error *err)
{
    size_t length = strlen(name);
    if (length == 0 || length >= ESP_STATE_NAME_MAX) {
        return esp_fail(err, ESP_INVALID, "state block '%.40s': a name of %zu letters, expected 1 to %d",
                        name, length, ESP_STATE_NAME_MAX - 1);
    }
    if (esp_train_state_find(state, name) != NULL) {
        return esp_fail(err, ESP_INVALID, "state block '%s' is there twice", name);
    }
    esp_status status = make_room(state, err);
    if (status != ESP_OK) {
        return status;
    }
    esp_state_block block = {.name = esp_strdup(name), .data = esp_alloc(size, 1), .size = size};
    if (block.name == NULL || block.data == NULL) {
        esp_free(block.name);
        esp_free(block.data);
        return esp_fail_memory(err, name, size);
    }
    state->blocks[state->count++] = block;
    *out = block.data;
    return ESP_OK;
}

esp_status esp_train_state_put(esp_train_state *state, const char *name, const void *data, size_t size,
                               esp_error *err)
{
    void *copy = NULL;
    esp_status status = esp_train_state_add(state, name, size, &copy, err);
    if (status == ESP_OK && size > 0) {
        memcpy(copy, data, size);
    }
    return status;
}

const esp_state_block *esp_train_state_find(const esp_train_state *state, const char *name)
{
    for (int i = 0; i < state->count; i++) {
        if (strcmp(state->blocks[i].name, name) == 0) {
            return &state->blocks[i];
        }
    }
    return NULL;
}

esp_status esp_train_state_get(const esp_train_state *state, const char *name, void *data, size_t size,
                               esp_error *err)
{
    const esp_state_block *block = esp_train_state_find(state, name);
    if (block == NULL) {
        return esp_fail(err, ESP_FORMAT, "'%s' is missing", name);
    }
    if (block->size != size) {
        return esp_fail(err, ESP_FORMAT, "'%s' has %zu bytes, expected %zu", name, block->size, size);
    }
    if (size > 0) {
        memcpy(data, block->data, size);
    }
    return ESP_OK;
}
