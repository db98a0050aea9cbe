/* The generator against its authors' numbers, and its distributions against their moments. */
#include <math.h>

#include "base/rng.h"
#include "unit/base/scratch.h"

static void xoshiro_gives_the_published_sequence(void **state)
{
    /* Reference implementation, state 1, 2, 3, 4. */
    static const uint64_t expected[] = {
        11520u,
        0u,
        1509978240u,
        1215971899390074240u,
        1216172134540287360u,
        607988272756665600u,
        16172922978634559625u,
        8476171486693032832u,
        10595114339597558777u,
        2904607092377533576u,
    };
    esp_rng rng = {{1, 2, 3, 4}};

    (void)state;
    for (int i = 0; i < 10; i++)
        assert_true(esp_rng_u64(&rng) == expected[i]);
}

static void a_seed_is_spread_by_splitmix64(void **state)
{
    /* Published outputs of splitmix64 for seed 1234567. */
    static const uint64_t expected[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u,
                                        4593380528125082431u};
    esp_rng rng;

    (void)state;
    esp_rng_seed(&rng, 1234567);
    for (int i = 0; i < 4; i++)
        assert_true(rng.state[i] == expected[i]);
}

static void streams_of_one_seed_differ_and_repeat(void **state)
{
    uint64_t first[64];

    (void)state;
    for (uint64_t seed = 0; seed < 8; seed++)
        for (uint64_t stream = 0; stream < 8; stream++) {
            esp_rng rng, again;
            uint64_t value;

            esp_rng_seed_stream(&rng, seed, stream);
            esp_rng_seed_stream(&again, seed, stream);
            value = esp_rng_u64(&rng);
            assert_true(value == esp_rng_u64(&again));
            first[seed * 8 + stream] = value;
        }
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < i; j++)
            assert_true(first[i] != first[j]);
}

static void below_stays_below_and_is_even(void **state)
{
    enum { BOUND = 6, DRAWS = 60000 };
    int counts[BOUND] = {0};
    esp_rng rng;

    (void)state;
    esp_rng_seed(&rng, 5);
    for (int i = 0; i < DRAWS; i++) {
        uint64_t value = esp_rng_below(&rng, BOUND);
        assert_true(value < BOUND);
        counts[value]++;
    }
    /* Five standard deviations of a binomial count around 10000. */
    for (int i = 0; i < BOUND; i++)
        assert_in_range(counts[i], 10000 - 457, 10000 + 457);
    assert_int_equal(esp_rng_below(&rng, 1), 0);
}

static void below_is_even_for_a_bound_that_does_not_divide_the_range(void **state)
{
    enum { DRAWS = 30000 };
    uint64_t third = (uint64_t)1 << 62;
    int low = 0;
    esp_rng rng;

    (void)state;
    esp_rng_seed(&rng, 6);
    /* A bare remainder would give half of the draws to the lowest third. */
    for (int i = 0; i < DRAWS; i++)
        low += esp_rng_below(&rng, 3 * third) < third;
    assert_in_range(low, DRAWS / 3 - 409, DRAWS / 3 + 409);
}

static void uniform_and_normal_have_their_moments(void **state)
{
    enum { DRAWS = 100000 };
    double sum = 0, normal_sum = 0, normal_squares = 0, normal_cubes = 0;
    esp_rng rng;

    (void)state;
    esp_rng_seed(&rng, 11);
    for (int i = 0; i < DRAWS; i++) {
        double u = esp_rng_uniform(&rng), z = esp_rng_normal(&rng);
        assert_true(u >= 0 && u < 1 && isfinite(z));
        sum += u;
        normal_sum += z;
        normal_squares += z * z;
        normal_cubes += z * z * z;
    }
    /* Five standard errors each: 0.289, 1, 1.41 and 3.87 over the root of 100000. */
    assert_true(fabs(sum / DRAWS - 0.5) < 0.0046);
    assert_true(fabs(normal_sum / DRAWS) < 0.016);
    assert_true(fabs(normal_squares / DRAWS - 1) < 0.023);
    assert_true(fabs(normal_cubes / DRAWS) < 0.062);
}

static void shuffle_is_a_permutation_and_moves_every_place(void **state)
{
    enum { COUNT = 10, ROUNDS = 20000 };
    int at_front[COUNT] = {0};
    esp_rng rng;

    (void)state;
    esp_rng_seed(&rng, 3);
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t items[COUNT];
        unsigned seen = 0;

        for (uint32_t i = 0; i < COUNT; i++)
            items[i] = i;
        esp_rng_shuffle(&rng, items, COUNT);
        for (int i = 0; i < COUNT; i++)
            seen |= 1u << items[i];
        assert_int_equal(seen, (1u << COUNT) - 1);
        at_front[items[0]]++;
    }
    for (int i = 0; i < COUNT; i++)
        assert_in_range(at_front[i], 2000 - 213, 2000 + 213);
    esp_rng_shuffle(&rng, NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(xoshiro_gives_the_published_sequence),
        cmocka_unit_test(a_seed_is_spread_by_splitmix64),
        cmocka_unit_test(streams_of_one_seed_differ_and_repeat),
        cmocka_unit_test(below_stays_below_and_is_even),
        cmocka_unit_test(below_is_even_for_a_bound_that_does_not_divide_the_range),
        cmocka_unit_test(uniform_and_normal_have_their_moments),
        cmocka_unit_test(shuffle_is_a_permutation_and_moves_every_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
