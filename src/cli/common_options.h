/* The options that several commands take, each with its name, letter, argument and range in one place; and
 * what every command does before and after its own work: parsing, the thread pool, the model with sizes for
 * its open inputs.
 *
 *     const esp_option options[] = {
 *         ESP_CLI_DATA(&it.common, esp_cli_data_help(help, sizeof help)),
 *         {"limit", 'n', ...},
 *         ESP_CLI_MACHINE(cli, &it.common),
 *         ESP_CLI_JSON(&it.common, "one JSON object instead of text"),
 *         {0},
 *     };
 *     ...
 *     return esp_cli_run(cli, &syntax, argc, argv, run, &it, err);
 */
#ifndef ESP_CLI_COMMON_OPTIONS_H
#define ESP_CLI_COMMON_OPTIONS_H

#include "cli/cli.h"
#include "cli/inputs.h"

/* Where the rows below put what was given. */
typedef struct esp_cli_common {
    const char *data, *output; /* NULL: not given */
    const char *mean, *std;    /* overrides of the images' normalisation; NULL: not given */
    int64_t seed;
    int64_t threads; /* 0: all cores */
    esp_option_list inputs;
    bool is_json;
} esp_cli_common;

/* Rows of a table of options; `it` points at an esp_cli_common. */
/* clang-format off */
#define ESP_CLI_DATA(it, help) {"data", 'd', ESP_OPTION_TEXT, &(it)->data, "SPEC", (help), 0, 0, 0}
#define ESP_CLI_OUTPUT(it, argument, help) {"output", 'o', ESP_OPTION_TEXT, &(it)->output, (argument), (help), 0, 0, 0}
#define ESP_CLI_MEAN(it, help) {"mean", 0, ESP_OPTION_TEXT, &(it)->mean, "M[,M..]", (help), 0, 0, 0}
#define ESP_CLI_STD(it, help) {"std", 0, ESP_OPTION_TEXT, &(it)->std, "S[,S..]", (help), 0, 0, 0}
#define ESP_CLI_SEED(it, help) {"seed", 0, ESP_OPTION_INT, &(it)->seed, "N", (help), 0, 1e15, 0}
#define ESP_CLI_INPUT(it, help) {"input", 0, ESP_OPTION_LIST, &(it)->inputs, "NAME:SHAPE", (help), 0, 0, 0}
#define ESP_CLI_THREADS(it) {"threads", 't', ESP_OPTION_INT, &(it)->threads, "N", "default: all cores", 1, 1024, 0}
#define ESP_CLI_MACHINE(cli, it) ESP_CLI_THREADS(it), ESP_CLI_KERNELS(cli)
#define ESP_CLI_JSON(it, help) {"json", 0, ESP_OPTION_FLAG, &(it)->is_json, NULL, (help), 0, 0, 0}
/* clang-format on */

/* A command's own work, with its positional arguments. */
typedef esp_status esp_cli_body(esp_cli *cli, int count, char **items, void *context, esp_error *err);

/* Parses; prints the help page when it was asked for, else runs the body. */
esp_status esp_cli_run(esp_cli *cli, const esp_command_syntax *syntax, int argc, char **argv,
                       esp_cli_body *body, void *context, esp_error *err);

/* A model as commands open it. */
typedef struct esp_cli_model {
    esp_graph *graph;
    esp_input_shape shapes[ESP_CLI_INPUTS_MAX]; /* what --input says of it; borrows from the graph */
    int shape_count;
} esp_cli_model;

/* Makes the thread pool of --threads, loads the file and reads --input. Close it on failure too. */
esp_status esp_cli_model_open(esp_cli *cli, const esp_cli_common *common, const char *path,
                              esp_cli_model *out, esp_error *err);
void esp_cli_model_close(esp_cli_model *model);

#endif
