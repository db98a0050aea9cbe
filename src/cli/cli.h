/* The command line: finds the subcommand, runs it, and turns a status into an exit status. */
#ifndef ESP_CLI_CLI_H
#define ESP_CLI_CLI_H

#include <stdbool.h>

#include "base/compute.h"
#include "cli/options.h"

/* What the command line needs of the workbench, given by main: cli may not know curses. */
typedef struct esp_workbench_request {
    const char *model;         /* NULL: the bundled sample */
    const char *data;          /* NULL: the sample's, or none */
    const char *study;         /* NULL: nothing is kept on disk */
    int threads;               /* 0: all cores */
    const char *theme;         /* NULL: chosen for the terminal */
    const char *trace;         /* file for frame times, or NULL */
    bool is_ascii;             /* draw with ASCII letters only */
    const char *const *inputs; /* sizes the file leaves open, as for esp_input_shapes_parse */
    int input_count;
} esp_workbench_request;
typedef esp_status esp_workbench_fn(const esp_workbench_request *request, esp_error *err);

/* Exit statuses: 0 done, 1 failed, 2 bad usage, 130 interrupted. */
int esp_cli_main(int argc, char **argv, esp_workbench_fn *workbench);

/* ---- for the subcommands ---- */

/* What every subcommand gets. */
typedef struct esp_cli {
    esp_compute compute; /* pool and cancel token; progress goes to standard error when it is a terminal */
    esp_workbench_fn *workbench;
    const char *command; /* "prune"; "" before one is known and for the workbench */
    esp_cancel *cancel;  /* set by the first Ctrl-C */
    int threads;
    const char *kernels; /* --kernels, or NULL: see esp_engine_parse */
} esp_cli;

/* The option of every command that has --threads. */
#define ESP_CLI_KERNELS(cli)                                                                                 \
    {                                                                                                        \
        "kernels", 0, ESP_OPTION_TEXT, &(cli)->kernels, "LIST",                                              \
            "what may run: avx512, avx2 or plain, [no-]winograd, [no-]blocked", 0, 0, 0                      \
    }

/* One row per subcommand in commands.def. */
typedef esp_status esp_command_fn(esp_cli *cli, int argc, char **argv, esp_error *err);

/* Parses, and prints the help page when it was asked for (`*is_done` is then true). */
esp_status esp_cli_parse(const esp_command_syntax *syntax, int argc, char **argv,
                         esp_positionals *positionals, bool *is_done, esp_error *err);

/* Makes the thread pool (0 = all cores) and sets what --kernels says. Called by commands that compute. */
esp_status esp_cli_start(esp_cli *cli, int64_t threads, esp_error *err);

/* Makes --kernels what ESPALIER_KERNELS says, before anybody asks for the default engine. */
esp_status esp_cli_set_kernels(const esp_cli *cli, esp_error *err);

/* Ends a progress line on the terminal, so that other output starts on its own line. */
void esp_cli_end_progress(void);

/* Flushes standard output; ESP_IO when it cannot take what was printed: with a message (full disk),
 * without one when whoever reads a pipe has gone. */
esp_status esp_cli_finish_output(esp_error *err);

/* An error or a warning as a line on standard error. */
void esp_cli_complain(const char *kind, const esp_error *err);

#endif
