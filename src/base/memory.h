/* Allocation: aligned, overflow-checked, counted, and able to fail on purpose in tests. */
#ifndef ESP_BASE_MEMORY_H
#define ESP_BASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* Alignment of every block in bytes: one cache line, one AVX-512 register. */
#define ESP_ALIGNMENT 64

/* `count * size` bytes aligned to ESP_ALIGNMENT, or NULL on overflow or when memory is out. A product of 0
 * gives a valid block. The `_zero` form clears it. */
void *esp_alloc(size_t count, size_t size);
void *esp_alloc_zero(size_t count, size_t size);

/* Grows or shrinks; the old block is untouched when NULL comes back. `old_count` elements are kept. */
void *esp_realloc(void *block, size_t old_count, size_t new_count, size_t size);

/* Frees a block of esp_alloc*; NULL is allowed. */
void esp_free(void *block);

/* A copy of `text` (NULL gives NULL); of its first `length` bytes. Free with esp_free. */
char *esp_strdup(const char *text);
char *esp_strndup(const char *text, size_t length);

/* Bytes in live blocks of this process, and the largest that figure has been since the last reset. */
size_t esp_memory_live(void);
size_t esp_memory_peak(void);
void esp_memory_reset_peak(void);

/* Test hook: the k-th allocation from now fails (k >= 1), later ones succeed again; 0 disarms. Beside
 * the counters above this is the one piece of process-wide state in src/, and only tests touch it. */
void esp_memory_fuse(int64_t k);

/* True when an armed fuse has burnt (an allocation was refused). */
int esp_memory_fuse_burnt(void);

#endif
