/* espalier run: a Lua script without a screen. */
#include <stdio.h>

#include "cli/common_options.h"
#include "script/script.h"

/* What cannot be written ends the script: the reader of a pipe has gone, or the disk is full. */
static void write_output(void *user, const char *text, size_t length)
{
    esp_cli *cli = user;
    esp_cli_end_progress();
    fwrite(text, 1, length, stdout);
    if (fflush(stdout) != 0) {
        esp_cancel_request(cli->cancel);
    }
}

typedef struct run_request {
    esp_cli_common common;
    bool is_trusted;
} run_request;

/* SCRIPT.lua [ARGUMENT...] */
static esp_status run(esp_cli *cli, int count, char **items, void *context, esp_error *err)
{
    const run_request *it = context;
    esp_script *script = NULL;
    esp_status status = esp_cli_start(cli, it->common.threads, err);
    if (status == ESP_OK) {
        const esp_script_options options = {.compute = &cli->compute,
                                            .is_trusted = it->is_trusted,
                                            .output = write_output,
                                            .output_user = cli};
        status = esp_script_new(&options, &script, err);
    }
    if (status == ESP_OK) {
        status = esp_script_run_file(script, items[0], count - 1, items + 1, err);
    }
    if (status == ESP_CANCELLED && ferror(stdout)) {
        status = esp_cli_finish_output(err);
    }
    if (status == ESP_SCRIPT && esp_script_traceback(script)[0]) {
        esp_cli_end_progress();
        fprintf(stderr, "%s\n", esp_script_traceback(script));
    }
    esp_script_free(script);
    return status;
}

esp_status esp_command_run(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    run_request it = {0};
    const esp_option options[] = {
        {"trusted", 0, ESP_OPTION_FLAG, &it.is_trusted, NULL, "lift the sandbox: processes, all files", 0, 0,
         0},
        ESP_CLI_MACHINE(cli, &it.common),
        {0},
    };
    const esp_command_syntax syntax = {
        "run",
        "Run a Lua script. It may write below its own and the current directory; --trusted lifts that.\n"
        "Options come before the script; what follows it is the script's.",
        "[options] SCRIPT.lua [ARGUMENT...]",
        "  espalier run scripts/experiments/first_prune.lua",
        1,
        -1,
        options,
        true};
    return esp_cli_run(cli, &syntax, argc, argv, run, &it, err);
}
