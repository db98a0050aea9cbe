/* Fingerprints: 64 bits that tell contents apart, the same on every machine this program runs on (little
 * endian). Not for secrets: who wants two contents with one hash can make them. */
#ifndef ESP_BASE_HASH_H
#define ESP_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* Begin with any number, such as 0, and feed what came out back in. Each call mixes in the length too, so
 * that ("ab", "c") is not ("a", "bc"). */
uint64_t esp_hash_word(uint64_t hash, uint64_t word);
uint64_t esp_hash_bytes(uint64_t hash, const void *data, size_t count);
uint64_t esp_hash_text(uint64_t hash, const char *text); /* NULL counts as "" */

#endif
