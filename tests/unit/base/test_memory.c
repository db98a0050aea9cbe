/* Alignment, overflow, counting, the fuse; and the arena on top. */
#include <string.h>

#include "base/arena.h"
#include "base/memory.h"
#include "unit/base/scratch.h"

static bool is_aligned(const void *block, size_t alignment)
{
    return (uintptr_t)block % alignment == 0;
}

static void blocks_are_aligned_before_and_after_realloc(void **state)
{
    (void)state;
    for (size_t size = 0; size < 300; size += 7) {
        char *block = esp_alloc(size, 1);
        assert_non_null(block);
        assert_true(is_aligned(block, ESP_ALIGNMENT));
        memset(block, 7, size);
        block = esp_realloc(block, size, 3 * size + 100000, 1);
        assert_non_null(block);
        assert_true(is_aligned(block, ESP_ALIGNMENT));
        for (size_t i = 0; i < size; i++)
            assert_int_equal(block[i], 7);
        block = esp_realloc(block, 3 * size + 100000, size / 2, 1);
        assert_true(is_aligned(block, ESP_ALIGNMENT));
        for (size_t i = 0; i < size / 2; i++)
            assert_int_equal(block[i], 7);
        esp_free(block);
    }
}

static void a_product_that_overflows_gives_null(void **state)
{
    (void)state;
    assert_null(esp_alloc(SIZE_MAX / 2 + 2, 2));
    assert_null(esp_alloc_zero((size_t)1 << 40, (size_t)1 << 40));
    assert_null(esp_alloc(SIZE_MAX, 1));
    assert_null(esp_strdup(NULL));
    esp_free(NULL);
}

static void zeroed_blocks_are_zero(void **state)
{
    unsigned char *block = esp_alloc(4096, 1);

    (void)state;
    memset(block, 0xFF, 4096);
    esp_free(block);
    block = esp_alloc_zero(512, 8);
    for (int i = 0; i < 4096; i++)
        assert_int_equal(block[i], 0);
    esp_free(block);
}

static void live_and_peak_follow_the_blocks(void **state)
{
    size_t before = esp_memory_live();
    void *large, *small;

    (void)state;
    esp_memory_reset_peak();
    large = esp_alloc(1000000, 1);
    assert_true(esp_memory_live() >= before + 1000000);
    esp_free(large);
    small = esp_alloc(10, 1);
    assert_true(esp_memory_live() < before + 1000);
    assert_true(esp_memory_peak() >= before + 1000000);
    esp_memory_reset_peak();
    assert_true(esp_memory_peak() < before + 1000);
    esp_free(small);
    assert_int_equal(esp_memory_live(), before);
}

static void the_fuse_fails_the_kth_allocation_and_no_other(void **state)
{
    (void)state;
    for (int k = 1; k <= 4; k++) {
        esp_memory_fuse(k);
        for (int i = 1; i <= 6; i++) {
            void *block = esp_alloc(1, 1);
            assert_int_equal(block == NULL, i == k);
            assert_int_equal(esp_memory_fuse_burnt(), i >= k);
            esp_free(block);
        }
    }
    esp_memory_fuse(2);
    esp_memory_fuse(0);
    for (int i = 0; i < 3; i++) {
        void *block = esp_alloc(1, 1);
        assert_non_null(block);
        esp_free(block);
    }
    assert_int_equal(esp_memory_fuse_burnt(), 0);
}

static void a_refused_realloc_leaves_the_old_block(void **state)
{
    char *block = esp_strdup("kept");

    (void)state;
    esp_memory_fuse(1);
    assert_null(esp_realloc(block, 5, 500, 1));
    esp_memory_fuse(0);
    assert_string_equal(block, "kept");
    esp_free(block);
}

static void strndup_stops_at_the_length_or_the_end(void **state)
{
    char *text = esp_strndup("filters", 4);

    (void)state;
    assert_string_equal(text, "filt");
    esp_free(text);
    text = esp_strndup("abc", 100);
    assert_string_equal(text, "abc");
    esp_free(text);
}

static void arena_blocks_are_zero_aligned_and_do_not_overlap(void **state)
{
    enum { COUNT = 400 };
    esp_arena *arena = esp_arena_new();
    unsigned char *blocks[COUNT];

    (void)state;
    for (int i = 0; i < COUNT; i++) {
        size_t size = (size_t)(i * 37 % 3000);
        blocks[i] = esp_arena_alloc(arena, size, 1);
        assert_non_null(blocks[i]);
        assert_true(is_aligned(blocks[i], 16));
        for (size_t j = 0; j < size; j++)
            assert_int_equal(blocks[i][j], 0);
        memset(blocks[i], i % 251, size);
    }
    for (int i = 0; i < COUNT; i++)
        for (size_t j = 0; j < (size_t)(i * 37 % 3000); j++)
            assert_int_equal(blocks[i][j], i % 251);
    esp_arena_free(arena);
}

static void arena_copies_text_and_takes_null_for_empty(void **state)
{
    esp_arena *arena = esp_arena_new();
    int numbers[3] = {1, 2, 3};
    int *copy;

    (void)state;
    assert_string_equal(esp_arena_strdup(arena, "conv1"), "conv1");
    assert_string_equal(esp_arena_strdup(arena, NULL), "");
    assert_string_equal(esp_arena_strndup(arena, "layer1.0", 6), "layer1");
    copy = esp_arena_copy(arena, numbers, sizeof numbers);
    assert_memory_equal(copy, numbers, sizeof numbers);
    assert_null(esp_arena_alloc(arena, SIZE_MAX / 4, 8));
    esp_arena_free(arena);
    esp_arena_free(NULL);
}

static void arena_survives_every_allocation_failure(void **state)
{
    size_t before = esp_memory_live();
    bool is_done = false;

    (void)state;
    for (int k = 1; !is_done; k++) {
        esp_arena *arena;

        esp_memory_fuse(k);
        arena = esp_arena_new();
        for (int i = 0; arena && i < 20; i++) {
            char *block = esp_arena_alloc(arena, 1000, 1);
            if (block)
                memset(block, 1, 1000);
        }
        is_done = !esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        esp_arena_free(arena);
        assert_int_equal(esp_memory_live(), before);
        assert_true(k < 100);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_aligned_before_and_after_realloc),
        cmocka_unit_test(a_product_that_overflows_gives_null),
        cmocka_unit_test(zeroed_blocks_are_zero),
        cmocka_unit_test(live_and_peak_follow_the_blocks),
        cmocka_unit_test(the_fuse_fails_the_kth_allocation_and_no_other),
        cmocka_unit_test(a_refused_realloc_leaves_the_old_block),
        cmocka_unit_test(strndup_stops_at_the_length_or_the_end),
        cmocka_unit_test(arena_blocks_are_zero_aligned_and_do_not_overlap),
        cmocka_unit_test(arena_copies_text_and_takes_null_for_empty),
        cmocka_unit_test(arena_survives_every_allocation_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
