/* The memory plan: buffers alive together never overlap, and reuse never costs more than no reuse. */
#include "unit/graph/net.h"

#include "base/memory.h"
#include "graph/plan.h"

enum { COUNT = 120, ROUNDS = 200 };

static bool is_alive_together(const esp_plan_buffer *a, const esp_plan_buffer *b)
{
    return a->start <= b->end && b->start <= a->end;
}

static void buffers_alive_together_do_not_overlap(void **state)
{
    (void)state;
    esp_rng rng;
    esp_rng_seed(&rng, 1);
    for (int round = 0; round < ROUNDS; round++) {
        esp_plan_buffer buffers[COUNT];
        int count = 1 + (int)esp_rng_below(&rng, COUNT);
        for (int i = 0; i < count; i++) {
            int start = (int)esp_rng_below(&rng, 60);
            buffers[i] = (esp_plan_buffer){.bytes = (size_t)esp_rng_below(&rng, 5000),
                                           .start = start,
                                           .end = start + (int)esp_rng_below(&rng, 12)};
        }
        esp_error err = {0};
        size_t total, least = 0;
        must(esp_plan_offsets(buffers, count, &total, &err), &err);
        assert_true(total <= esp_plan_unshared(buffers, count));
        for (int i = 0; i < count; i++) {
            assert_int_equal(buffers[i].offset % ESP_ALIGNMENT, 0);
            assert_true(buffers[i].offset + buffers[i].bytes <= total);
            for (int j = 0; j < i; j++) {
                const esp_plan_buffer *a = &buffers[i], *b = &buffers[j];
                bool overlaps = a->bytes > 0 && b->bytes > 0 && a->offset < b->offset + b->bytes &&
                                b->offset < a->offset + a->bytes;
                assert_false(is_alive_together(a, b) && overlaps);
            }
        }
        for (int moment = 0; moment < 80; moment++) {
            size_t alive = 0;
            for (int i = 0; i < count; i++)
                alive += buffers[i].start <= moment && moment <= buffers[i].end ? buffers[i].bytes : 0;
            least = alive > least ? alive : least;
        }
        assert_true(total >= least);
    }
}

static void a_chain_needs_two_buffers(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_plan_buffer buffers[10];
    size_t total;
    for (int i = 0; i < 10; i++)
        buffers[i] = (esp_plan_buffer){.bytes = 1000, .start = i, .end = i + 1};
    must(esp_plan_offsets(buffers, 10, &total, &err), &err);
    assert_int_equal(total, 2 * 1024);
    assert_int_equal(esp_plan_unshared(buffers, 10), 10 * 1024);
}

static void nothing_needs_nothing(void **state)
{
    (void)state;
    esp_error err = {0};
    size_t total = 1;
    must(esp_plan_offsets(NULL, 0, &total, &err), &err);
    assert_int_equal(total, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buffers_alive_together_do_not_overlap),
        cmocka_unit_test(a_chain_needs_two_buffers),
        cmocka_unit_test(nothing_needs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
