/* A small seeded random generator (xoshiro256**, Blackman and Vigna 2018; seeded by splitmix64). Same seed,
 * same numbers, on every machine. Value type: copy it to save its state. */
#ifndef ESP_BASE_RNG_H
#define ESP_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

typedef struct esp_rng {
    uint64_t state[4];
} esp_rng;

void esp_rng_seed(esp_rng *rng, uint64_t seed);

/* A generator that is independent for each (seed, stream): one per layer, restart, image, ... */
void esp_rng_seed_stream(esp_rng *rng, uint64_t seed, uint64_t stream);

uint64_t esp_rng_u64(esp_rng *rng);

/* Uniform in [0, bound); bound >= 1. Unbiased. */
uint64_t esp_rng_below(esp_rng *rng, uint64_t bound);

/* Uniform in [0, 1). */
double esp_rng_uniform(esp_rng *rng);

/* Standard normal (Box-Muller without cached second value, so the state is the four words only). */
double esp_rng_normal(esp_rng *rng);

/* Fisher-Yates shuffle of `count` indices. */
void esp_rng_shuffle(esp_rng *rng, uint32_t *items, size_t count);

#endif
