/* The finalizer of splitmix64 (Steele, Lea, Flood 2014) over what came before, eight bytes at a time: some
 * two gigabytes per second, which is why whole models and data sets can be looked at. */
#include "base/hash.h"

#include <string.h>

uint64_t esp_hash_word(uint64_t hash, uint64_t word)
{
    uint64_t z = (hash ^ word) + 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t esp_hash_bytes(uint64_t hash, const void *data, size_t count)
{
    const unsigned char *bytes = data;
    uint64_t word;

    hash = esp_hash_word(hash, count);
    for (; count >= sizeof word; count -= sizeof word, bytes += sizeof word) {
        memcpy(&word, bytes, sizeof word);
        hash = esp_hash_word(hash, word);
    }
    word = 0;
    if (count)
        memcpy(&word, bytes, count);
    return esp_hash_word(hash, word);
}

uint64_t esp_hash_text(uint64_t hash, const char *text)
{
    return esp_hash_bytes(hash, text ? text : "", text ? strlen(text) : 0);
}
