/* Lua scripts over the engine: one interpreter with the espalier module, in a sandbox unless it is trusted.
 *
 * The sandbox has no processes, no dynamic libraries, no bytecode. Files are written only below the script's
 * directory, the current directory and directories that were granted; io.open reads only there too. */
#ifndef ESP_SCRIPT_SCRIPT_H
#define ESP_SCRIPT_SCRIPT_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "base/compute.h"

typedef struct esp_script esp_script;

/* Receives what print() and io.write() produce, as it comes. */
typedef void esp_script_output_fn(void *user, const char *text, size_t length);

typedef struct esp_script_options {
    const esp_compute *compute; /* borrowed for the script's life; its cancel token stops the script */
    bool is_trusted;            /* the whole of Lua's standard library */
    const char *granted;        /* one more directory where files may be written; NULL for none */
    esp_script_output_fn *output;
    void *output_user;
} esp_script_options;

esp_status esp_script_new(const esp_script_options *options, esp_script **out, esp_error *err);
void esp_script_free(esp_script *script); /* NULL is allowed */

/* Runs a file with `arguments` as the global `arg` and as `...`. A failing script is ESP_SCRIPT with
 * "file:line: what"; a cancelled one ESP_CANCELLED; a missing file ESP_IO. */
esp_status esp_script_run_file(esp_script *script, const char *path, int argument_count,
                               char *const *arguments, esp_error *err);

/* The same for a text; `name` stands in messages. */
esp_status esp_script_run_text(esp_script *script, const char *text, const char *name, esp_error *err);

/* Calls a function of a module of the Lua library with one argument, and gives its result; both are plain
 * data. ESP_SCRIPT when it fails or its result is no plain data. `*out` is a new reference. */
esp_status esp_script_call(esp_script *script, const char *module, const char *function,
                           const json_t *argument, json_t **out, esp_error *err);

/* Where the last failure was, line by line; "" when nothing failed. */
const char *esp_script_traceback(const esp_script *script);

#endif
