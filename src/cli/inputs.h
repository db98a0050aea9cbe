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

/* ---- images that do not lie in memory ---- */

/* What --resize, --crop, --interpolation and --skip-bad say: short for options after the spec. */
typedef struct esp_cli_images {
    const char *resize, *crop, *interpolation;
    bool skips_bad;
} esp_cli_images;

/* Rows for a table of options. Commands whose --crop means something else leave the sizes to the spec. */
#define ESP_CLI_SKIP_BAD(images)                                                                             \
    {                                                                                                        \
        "skip-bad", 0, ESP_OPTION_FLAG, &(images)->skips_bad, NULL,                                          \
            "leave out images that cannot be read, and count them", 0, 0, 0                                  \
    }
#define ESP_CLI_IMAGES(images)                                                                               \
    {"resize",                                                                                               \
     0,                                                                                                      \
     ESP_OPTION_TEXT,                                                                                        \
     &(images)->resize,                                                                                      \
     "N|HxW",                                                                                                \
     "images of files: the shorter side becomes N (default: crop * 256/224)",                                \
     0,                                                                                                      \
     0,                                                                                                      \
     0},                                                                                                     \
        {"crop",                                                                                             \
         0,                                                                                                  \
         ESP_OPTION_TEXT,                                                                                    \
         &(images)->crop,                                                                                    \
         "N|HxW",                                                                                            \
         "images of files: then the centre (default: the model's input)",                                    \
         0,                                                                                                  \
         0,                                                                                                  \
         0},                                                                                                 \
        {"interpolation",                                                                                    \
         0,                                                                                                  \
         ESP_OPTION_TEXT,                                                                                    \
         &(images)->interpolation,                                                                           \
         "NAME",                                                                                             \
         "bilinear (default) or bicubic",                                                                    \
         0,                                                                                                  \
         0,                                                                                                  \
         0},                                                                                                 \
        ESP_CLI_SKIP_BAD(images)

/* Opens a split of `spec` with what `images` (or NULL) adds to it, for a model (NULL: at the images' own
 * size). */
esp_status esp_cli_open_data(const char *spec, const esp_cli_images *images, esp_split split,
                             const esp_graph *graph, esp_dataset **out, esp_error *err);

/* Says in the hint of a failed computation where the size of the images came from, when the model leaves it
 * open. `graph` and `dataset` may be NULL. */
void esp_cli_explain_size(esp_status status, const esp_graph *graph, const esp_dataset *dataset,
                          esp_error *err);

/* How images come to their size: "shorter side to 256, centre 224x224, bilinear, 3 channels". `buffer` of at
 * least 160. Returns it; "as they are" for a set in memory. */
char *esp_cli_transform_text(const esp_dataset *dataset, char *buffer, size_t size);

/* Bad images that were left out: their messages as an array, and as lines on standard error. */
json_t *esp_cli_skipped_json(const esp_dataset *dataset);
void esp_cli_warn_skipped(const esp_dataset *dataset);

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
