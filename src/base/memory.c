/* Blocks from posix_memalign. They carry no header: malloc_usable_size gives the size back for the count of
 * live bytes, and a block can be released by whoever holds it. All counters are relaxed atomics, because they
 * order nothing.
 *
 * Large blocks are activations and weights, which are read from end to end: huge pages, where the system has
 * them, spare the processor looking up an address every 4 KB. */
#include "base/memory.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20, LARGE = 2 * HUGE_PAGE };

static _Atomic size_t live_bytes;
static _Atomic size_t peak_bytes;
static _Atomic int64_t fuse_left; /* allocations until the one that fails; 0 is disarmed */
static _Atomic int fuse_burnt;

static void count_block(void *block)
{
    size_t size = malloc_usable_size(block);
    size_t live = atomic_fetch_add_explicit(&live_bytes, size, memory_order_relaxed) + size;
    size_t peak = atomic_load_explicit(&peak_bytes, memory_order_relaxed);

    while (live > peak && !atomic_compare_exchange_weak_explicit(&peak_bytes, &peak, live,
                                                                 memory_order_relaxed, memory_order_relaxed))
        ;
}

static void uncount_block(void *block)
{
    atomic_fetch_sub_explicit(&live_bytes, malloc_usable_size(block), memory_order_relaxed);
}

/* True when this allocation is the one that an armed fuse refuses. */
static int is_refused(void)
{
    int64_t left = atomic_load_explicit(&fuse_left, memory_order_relaxed);

    while (left > 0) {
        if (atomic_compare_exchange_weak_explicit(&fuse_left, &left, left - 1, memory_order_relaxed,
                                                  memory_order_relaxed)) {
            if (left == 1)
                atomic_store_explicit(&fuse_burnt, 1, memory_order_relaxed);
            return left == 1;
        }
    }
    return 0;
}

/* Bytes to ask for, a multiple of the alignment as aligned_alloc wants; 0 on overflow. */
static size_t rounded_size(size_t count, size_t size)
{
    size_t bytes;

    if (__builtin_mul_overflow(count, size, &bytes) || bytes > PTRDIFF_MAX - ESP_ALIGNMENT)
        return 0;
    if (bytes == 0)
        bytes = 1;
    return (bytes + ESP_ALIGNMENT - 1) / ESP_ALIGNMENT * ESP_ALIGNMENT;
}

/* A wish, not a demand: without huge pages the block is as good. */
static void want_huge_pages(void *block, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    (void)madvise(block, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#else
    (void)block;
    (void)bytes;
#endif
}

void *esp_alloc(size_t count, size_t size)
{
    size_t bytes = rounded_size(count, size);
    void *block = NULL;

    if (bytes == 0 || is_refused())
        return NULL;
    if (posix_memalign(&block, bytes >= LARGE ? HUGE_PAGE : ESP_ALIGNMENT, bytes) != 0)
        return NULL;
    if (bytes >= LARGE)
        want_huge_pages(block, bytes);
    count_block(block);
    return block;
}

void *esp_alloc_zero(size_t count, size_t size)
{
    void *block = esp_alloc(count, size);

    if (block)
        memset(block, 0, count * size);
    return block;
}

void *esp_realloc(void *block, size_t old_count, size_t new_count, size_t size)
{
    void *grown = esp_alloc(new_count, size);

    /* realloc would lose the alignment, so the content is always copied. */
    if (grown && block)
        memcpy(grown, block, (old_count < new_count ? old_count : new_count) * size);
    if (grown)
        esp_free(block);
    return grown;
}

void esp_free(void *block)
{
    if (block)
        uncount_block(block);
    free(block);
}

char *esp_strdup(const char *text)
{
    return text ? esp_strndup(text, strlen(text)) : NULL;
}

char *esp_strndup(const char *text, size_t length)
{
    char *copy;

    if (!text)
        return NULL;
    length = strnlen(text, length);
    copy = length < SIZE_MAX ? esp_alloc(length + 1, 1) : NULL;
    if (copy) {
        memcpy(copy, text, length);
        copy[length] = '\0';
    }
    return copy;
}

size_t esp_memory_live(void)
{
    return atomic_load_explicit(&live_bytes, memory_order_relaxed);
}

size_t esp_memory_peak(void)
{
    return atomic_load_explicit(&peak_bytes, memory_order_relaxed);
}

void esp_memory_reset_peak(void)
{
    atomic_store_explicit(&peak_bytes, esp_memory_live(), memory_order_relaxed);
}

void esp_memory_fuse(int64_t k)
{
    atomic_store_explicit(&fuse_burnt, 0, memory_order_relaxed);
    atomic_store_explicit(&fuse_left, k > 0 ? k : 0, memory_order_relaxed);
}

int esp_memory_fuse_burnt(void)
{
    return atomic_load_explicit(&fuse_burnt, memory_order_relaxed);
}
