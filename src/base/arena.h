/* An arena: many small blocks that live and die together (names, attributes, node lists of a graph). */
#ifndef ESP_BASE_ARENA_H
#define ESP_BASE_ARENA_H

#include <stddef.h>

typedef struct esp_arena esp_arena;

/* NULL when memory is out. */
esp_arena *esp_arena_new(void);
void esp_arena_free(esp_arena *arena);

/* Zeroed, 16-byte aligned; NULL when memory is out or count*size overflows. */
void *esp_arena_alloc(esp_arena *arena, size_t count, size_t size);

/* A copy of `text` in the arena; NULL text gives "". NULL when memory is out. */
char *esp_arena_strdup(esp_arena *arena, const char *text);
char *esp_arena_strndup(esp_arena *arena, const char *text, size_t length);

/* A copy of `bytes` bytes. */
void *esp_arena_copy(esp_arena *arena, const void *data, size_t bytes);

#endif
