/* A chain of chunks, newest first; a block is cut from the newest chunk, or gets a chunk of its own size when
 * it does not fit. Chunks double up to a limit, so that a graph of ten nodes and one of ten thousand both
 * take few. */
#include "base/arena.h"

#include <stdint.h>
#include <string.h>

#include "base/memory.h"

enum { BLOCK_ALIGNMENT = 16, FIRST_CHUNK = 4096, LARGEST_CHUNK = 1 << 20 };

typedef struct chunk {
    struct chunk *next;
    size_t used, capacity; /* bytes of `data` */
    _Alignas(BLOCK_ALIGNMENT) unsigned char data[];
} chunk;

struct esp_arena {
    chunk *newest;
    size_t next_capacity;
};

esp_arena *esp_arena_new(void)
{
    esp_arena *arena = esp_alloc_zero(1, sizeof *arena);

    if (arena)
        arena->next_capacity = FIRST_CHUNK;
    return arena;
}

void esp_arena_free(esp_arena *arena)
{
    chunk *at = arena ? arena->newest : NULL;

    while (at) {
        chunk *next = at->next;
        esp_free(at);
        at = next;
    }
    esp_free(arena);
}

/* Puts a chunk with room for `bytes` in front; false when memory is out. */
static int add_chunk(esp_arena *arena, size_t bytes)
{
    size_t capacity = arena->next_capacity > bytes ? arena->next_capacity : bytes;
    chunk *added;

    if (capacity > SIZE_MAX - sizeof *added)
        return 0;
    added = esp_alloc_zero(1, sizeof *added + capacity);
    if (!added)
        return 0;
    added->capacity = capacity;
    added->next = arena->newest;
    arena->newest = added;
    if (arena->next_capacity < LARGEST_CHUNK)
        arena->next_capacity *= 2;
    return 1;
}

void *esp_arena_alloc(esp_arena *arena, size_t count, size_t size)
{
    size_t bytes;
    void *block;

    if (__builtin_mul_overflow(count, size, &bytes) || bytes > PTRDIFF_MAX - BLOCK_ALIGNMENT)
        return NULL;
    bytes = (bytes + BLOCK_ALIGNMENT - 1) / BLOCK_ALIGNMENT * BLOCK_ALIGNMENT;
    if (bytes == 0)
        bytes = BLOCK_ALIGNMENT; /* blocks of no bytes are still distinct */
    if ((!arena->newest || arena->newest->capacity - arena->newest->used < bytes) && !add_chunk(arena, bytes))
        return NULL;
    block = arena->newest->data + arena->newest->used;
    arena->newest->used += bytes;
    return block;
}

char *esp_arena_strdup(esp_arena *arena, const char *text)
{
    return esp_arena_strndup(arena, text, text ? strlen(text) : 0);
}

char *esp_arena_strndup(esp_arena *arena, const char *text, size_t length)
{
    char *copy;

    length = text ? strnlen(text, length) : 0;
    copy = esp_arena_alloc(arena, length + 1, 1);
    if (copy && length > 0)
        memcpy(copy, text, length);
    return copy;
}

void *esp_arena_copy(esp_arena *arena, const void *data, size_t bytes)
{
    void *copy = esp_arena_alloc(arena, bytes, 1);

    if (copy && bytes > 0)
        memcpy(copy, data, bytes);
    return copy;
}
