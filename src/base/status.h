/* Status codes and the error record that every fallible function fills. */
#ifndef ESP_BASE_STATUS_H
#define ESP_BASE_STATUS_H

#include <stdarg.h>
#include <stddef.h>

/* One list: enum, Lua error codes and log texts all come from it. Columns: NAME, code word. */
#define ESP_STATUS_LIST(X)                                                                                   \
    X(OK, "ok")                   /* success */                                                              \
    X(CANCELLED, "cancelled")     /* the user asked to stop; not an error to the user */                     \
    X(NO_MEMORY, "no-memory")     /* an allocation failed */                                                 \
    X(IO, "io")                   /* the operating system refused: missing file, full disk, ... */           \
    X(FORMAT, "format")           /* a file or text is malformed */                                          \
    X(UNSUPPORTED, "unsupported") /* well-formed, but outside what the program does */                       \
    X(INVALID, "invalid")         /* a bad argument: flag, ratio, name, key */                               \
    X(SHAPE, "shape")             /* shapes or types that do not fit together */                             \
    X(STATE, "state")             /* not possible now (nothing to undo, no data loaded, ...) */              \
    X(DIVERGED, "diverged")       /* training produced NaN or infinity */                                    \
    X(MISMATCH, "mismatch")       /* a self-check failed: two computations that must agree do not */         \
    X(SCRIPT, "script")           /* a Lua script failed: its message and place */                           \
    X(INTERNAL, "internal")       /* a library failed in a way it should not */

typedef enum esp_status {
#define ESP_STATUS_ENUM(name, word) ESP_##name,
    ESP_STATUS_LIST(ESP_STATUS_ENUM)
#undef ESP_STATUS_ENUM
} esp_status;

/* The code word of a status, e.g. "no-memory"; never NULL. */
const char *esp_status_word(esp_status status);

/* Owned by the caller, usually on the stack. Zero-initialise it: `esp_error err = {0};`. */
typedef struct esp_error {
    esp_status code;
    char message[512]; /* what, where, found, expected; one line, no trailing newline */
    char hint[256];    /* what to try; empty when there is nothing to say */
} esp_error;

#if defined(__GNUC__)
#define ESP_PRINTF(format_index, first_index) __attribute__((format(printf, format_index, first_index)))
#else
#define ESP_PRINTF(format_index, first_index)
#endif

/* Fills `err` (NULL is allowed) and returns `code`, so that `return esp_fail(err, ESP_IO, "...")` reads well.
 * Long messages are cut with "..."; control characters in them become '?'. Clears the hint. */
esp_status esp_fail(esp_error *err, esp_status code, const char *format, ...) ESP_PRINTF(3, 4);

/* Sets the hint of an error that is already filled. */
void esp_error_set_hint(esp_error *err, const char *format, ...) ESP_PRINTF(2, 3);

/* Puts "<text>: " in front of the message, to add the file or layer an inner function did not know. */
void esp_error_prefix(esp_error *err, const char *format, ...) ESP_PRINTF(2, 3);

/* Out of memory, in the one wording used everywhere. */
esp_status esp_fail_memory(esp_error *err, const char *what, size_t bytes);

#endif
