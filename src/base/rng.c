/* xoshiro256** 1.0 (Blackman and Vigna, 2018, https://prng.di.unimi.it/xoshiro256starstar.c), its state
 * filled by splitmix64 as its authors recommend. */
#include "base/rng.h"

#include <math.h>

static uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static uint64_t rotate_left(uint64_t x, int bits)
{
    return (x << bits) | (x >> (64 - bits));
}

void esp_rng_seed(esp_rng *rng, uint64_t seed)
{
    for (int i = 0; i < 4; i++)
        rng->state[i] = splitmix64(&seed);
}

void esp_rng_seed_stream(esp_rng *rng, uint64_t seed, uint64_t stream)
{
    /* Both words go through the mixer in turn: (seed, stream) and (stream, seed) differ, and so do
     * neighbours. */
    uint64_t mixed = splitmix64(&seed);

    mixed ^= rotate_left(stream, 32) * 0xD1342543DE82EF95u;
    esp_rng_seed(rng, splitmix64(&mixed) + stream);
}

uint64_t esp_rng_u64(esp_rng *rng)
{
    uint64_t *s = rng->state;
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

uint64_t esp_rng_below(esp_rng *rng, uint64_t bound)
{
    /* Values under 2^64 mod bound would make small results likelier: draw again. */
    uint64_t least = (0 - bound) % bound;
    uint64_t value;

    do
        value = esp_rng_u64(rng);
    while (value < least);
    return value % bound;
}

double esp_rng_uniform(esp_rng *rng)
{
    return (double)(esp_rng_u64(rng) >> 11) * 0x1.0p-53;
}

double esp_rng_normal(esp_rng *rng)
{
    double u = 1.0 - esp_rng_uniform(rng); /* in (0, 1], so that the logarithm is finite */
    double v = esp_rng_uniform(rng);

    return sqrt(-2.0 * log(u)) * cos(6.283185307179586476925 * v);
}

void esp_rng_shuffle(esp_rng *rng, uint32_t *items, size_t count)
{
    for (size_t i = count; i > 1; i--) {
        size_t j = (size_t)esp_rng_below(rng, i);
        uint32_t swapped = items[i - 1];
        items[i - 1] = items[j];
        items[j] = swapped;
    }
}
