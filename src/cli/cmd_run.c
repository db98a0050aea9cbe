/* espalier run: a Lua script without a screen. */
#include <stdio.h>

#include "cli/cli.h"
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

esp_status esp_command_run(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    int64_t threads = 0;
    bool is_trusted = false, is_done = false;
    const esp_option options[] = {
        {"trusted", 0, ESP_OPTION_FLAG, &is_trusted, NULL, "lift the sandbox: processes, all files", 0, 0, 0},
        {"threads", 't', ESP_OPTION_INT, &threads, "N", "default: all cores", 1, 1024, 0},
        ESP_CLI_KERNELS(cli),
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
    char *items[argc + 1];
    esp_positionals positionals = {0, items};
    esp_script *script = NULL;
    esp_status status = esp_cli_parse(&syntax, argc, argv, &positionals, &is_done, err);
    if (status != ESP_OK || is_done) {
        return status;
    }
    status = esp_cli_start(cli, threads, err);
    if (status == ESP_OK) {
        const esp_script_options script_options = {
            .compute = &cli->compute, .is_trusted = is_trusted, .output = write_output, .output_user = cli};
        status = esp_script_new(&script_options, &script, err);
    }
    if (status == ESP_OK) {
        status = esp_script_run_file(script, positionals.items[0], positionals.count - 1,
                                     positionals.items + 1, err);
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
