/* What the kernels may use of this machine: chosen once, handed down, never changed during a computation. */
#ifndef ESP_TENSOR_ENGINE_H
#define ESP_TENSOR_ENGINE_H

#include <stdbool.h>

#include "base/status.h"

/* One list of instruction sets, the plain one first. Columns: NAME, text. PLAIN is C that any compiler takes;
 * AVX2 includes FMA; AVX512 is AVX-512F. */
#define ESP_ISA_LIST(X)                                                                                      \
    X(PLAIN, "plain")                                                                                        \
    X(AVX2, "avx2")                                                                                          \
    X(AVX512, "avx512")

typedef enum esp_isa {
#define ESP_ISA_ENUM(name, text) ESP_ISA_##name,
    ESP_ISA_LIST(ESP_ISA_ENUM)
#undef ESP_ISA_ENUM
} esp_isa;

typedef struct esp_engine {
    esp_isa isa;       /* kernels of this set; never one the processor does not have */
    bool has_winograd; /* 3x3 convolutions of stride 1 may use F(4x4,3x3): winograd.h states its error */
    bool has_blocked;  /* executors may keep images in ESP_LAYOUT_BLOCKED */
} esp_engine;

const char *esp_isa_name(esp_isa isa);
bool esp_isa_is_supported(esp_isa isa);

/* All this processor can do, unless the environment variable ESPALIER_KERNELS says less (read once; text as
 * in esp_engine_parse, nonsense in it is ignored). */
const esp_engine *esp_engine_default(void);

/* Words separated by commas, applied in order to `out`, which must hold a valid engine: an instruction set
 * ("avx512", "avx2", "plain"), "winograd"/"no-winograd", "blocked"/"no-blocked". ESP_INVALID names the word;
 * ESP_UNSUPPORTED when the processor lacks the instruction set. `out` is unchanged on failure. */
esp_status esp_engine_parse(const char *text, esp_engine *out, esp_error *err);

#endif
