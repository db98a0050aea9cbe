/* What several subcommands take: a model with sizes for its open inputs, and a JSON object as the whole
 * output. */
#ifndef ESP_CLI_INPUTS_H
#define ESP_CLI_INPUTS_H

#include <jansson.h>

#include "cli/options.h"
#include "graph/infer.h"
#include "train/evaluate.h"

#define ESP_CLI_INPUTS_MAX ESP_INPUT_SHAPES_MAX

/* Parses "name:1x3x48x192" items (or "1x3x48x192" for the model's first input). Names are checked against the
 * graph and borrow from it. Returns the number in `*count`. */
esp_status esp_cli_input_shapes(const esp_option_list *items, const esp_graph *graph, esp_input_shape *shapes,
                                int *count, esp_error *err);

/* "dataset: fashion-mnist, idx:DIR, ..." from the readers' own list. `buffer` of at least 128. Returns it. */
char *esp_cli_data_help(char *buffer, size_t size);

/* JSON has no NaN and no infinity: they become null. */
json_t *esp_cli_json_real(double value);

/* JSON is UTF-8; file names and names in a model need not be: bytes that are not become '?'. */
json_t *esp_cli_json_text(const char *text);

/* Prints one JSON object on standard output and drops the reference. */
esp_status esp_cli_print_json(json_t *take_object, esp_error *err);

/* {"images":..,"top1":..,"top5":..,"loss":..,...}: what eval, train and compare print of an evaluation; null
 * when nothing was evaluated. */
json_t *esp_cli_eval_json(const esp_eval_result *result);

/* "91.73 % ± 0.54" as text for people. `buffer` of at least 32. */
char *esp_cli_accuracy_text(const esp_eval_result *result, char *buffer, size_t size);

/* One line that says which normalisation was used and where it came from. */
char *esp_cli_normalization_text(const esp_normalization *normalization, char *buffer, size_t size);

#endif
