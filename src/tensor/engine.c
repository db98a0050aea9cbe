/* See engine.h. The default is found once, by whichever thread asks first. */
#include "tensor/engine.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static esp_engine default_engine;
static pthread_once_t default_once = PTHREAD_ONCE_INIT;

static const char *const isa_names[] = {
#define ESP_ISA_TEXT(name, text) text,
    ESP_ISA_LIST(ESP_ISA_TEXT)
#undef ESP_ISA_TEXT
};

enum { ISA_COUNT = sizeof isa_names / sizeof *isa_names };

const char *esp_isa_name(esp_isa isa)
{
    return isa_names[isa];
}

bool esp_isa_is_supported(esp_isa isa)
{
#if defined(__x86_64__)
    if (isa == ESP_ISA_AVX512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma");
    if (isa == ESP_ISA_AVX2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return isa == ESP_ISA_PLAIN;
}

static bool is_word(const char *word, size_t length, const char *text)
{
    return strlen(text) == length && memcmp(word, text, length) == 0;
}

static esp_status apply_word(const char *word, size_t length, esp_engine *engine, esp_error *err)
{
    for (int i = 0; i < ISA_COUNT; i++) {
        if (!is_word(word, length, isa_names[i]))
            continue;
        if (!esp_isa_is_supported((esp_isa)i))
            return esp_fail(err, ESP_UNSUPPORTED, "kernels: this processor has no %s", isa_names[i]);
        engine->isa = (esp_isa)i;
        return ESP_OK;
    }
    bool is_off = length > 3 && memcmp(word, "no-", 3) == 0;
    const char *what = is_off ? word + 3 : word;
    size_t what_length = is_off ? length - 3 : length;
    if (is_word(what, what_length, "winograd"))
        engine->has_winograd = !is_off;
    else if (is_word(what, what_length, "blocked"))
        engine->has_blocked = !is_off;
    else
        return esp_fail(err, ESP_INVALID,
                        "kernels: found '%.*s', expected avx512, avx2, plain, [no-]winograd or [no-]blocked",
                        (int)length, word);
    return ESP_OK;
}

esp_status esp_engine_parse(const char *text, esp_engine *out, esp_error *err)
{
    esp_engine engine = *out;
    while (*text != 0) {
        size_t length = strcspn(text, ",");
        esp_status status = length == 0 ? ESP_OK : apply_word(text, length, &engine, err);
        if (status != ESP_OK)
            return status;
        text += length + (text[length] == ',');
    }
    *out = engine;
    return ESP_OK;
}

static void find_default(void)
{
    default_engine = (esp_engine){.isa = ESP_ISA_PLAIN, .has_winograd = true, .has_blocked = true};
    for (int i = 0; i < ISA_COUNT; i++) {
        if (esp_isa_is_supported((esp_isa)i))
            default_engine.isa = (esp_isa)i;
    }
    const char *wanted = getenv("ESPALIER_KERNELS");
    if (wanted != NULL)
        (void)esp_engine_parse(wanted, &default_engine, NULL);
}

const esp_engine *esp_engine_default(void)
{
    pthread_once(&default_once, find_default);
    return &default_engine;
}
