/* Subcommands are rows of commands.def; no name, or the name of a file, opens the workbench. Ctrl-C sets the
 * cancel token once, so that a job can put its work in order; a second one ends the program the usual way. */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/paths.h"
#include "base/text.h"
#include "tensor/blas.h"
#include "tensor/engine.h"

#define ESP_COMMAND(name, function, summary) esp_command_fn function;
#include "cli/commands.def"
#undef ESP_COMMAND

typedef struct command {
    const char *name;
    esp_command_fn *run;
    const char *summary;
} command;

static const command commands[] = {
#define ESP_COMMAND(name, function, summary) {name, function, summary},
#include "cli/commands.def"
#undef ESP_COMMAND
};
enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

/* A signal handler can only reach what is static. */
static esp_cancel interrupt;
static bool progress_line_is_open;

static void on_interrupt(int signal_number)
{
    esp_cancel_request(&interrupt);
    signal(signal_number, SIG_DFL);
}

static void catch_interrupts(void)
{
    struct sigaction action = {0};
    action.sa_handler = on_interrupt;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is a failed write, which esp_cli_finish_output finds */
}

static void show_progress(void *user, const esp_progress *progress)
{
    (void)user;
    char eta[32] = "";
    char left[16];
    if (progress->eta_s >= 0) {
        snprintf(eta, sizeof eta, "  %s left", esp_format_duration(left, sizeof left, progress->eta_s));
    }
    double share = progress->total > 0 ? 100.0 * progress->done / progress->total : 0.0;
    fprintf(stderr, "\r\033[K%s %3.0f %%  %.0f %s/s%s  %s", progress->stage, share, progress->rate,
            progress->unit, eta, progress->detail ? progress->detail : "");
    fflush(stderr);
    progress_line_is_open = true;
}

void esp_cli_end_progress(void)
{
    if (progress_line_is_open) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
        progress_line_is_open = false;
    }
}

esp_status esp_cli_set_kernels(const esp_cli *cli, esp_error *err)
{
    esp_engine checked = {0};
    if (cli->kernels == NULL) {
        return ESP_OK;
    }
    esp_status status = esp_engine_parse(cli->kernels, &checked, err);
    if (status == ESP_OK && setenv("ESPALIER_KERNELS", cli->kernels, 1) != 0) {
        status = esp_fail_memory(err, "the environment", strlen(cli->kernels));
    }
    return status;
}

esp_status esp_cli_start(esp_cli *cli, int64_t threads, esp_error *err)
{
    esp_status status = esp_cli_set_kernels(cli, err);
    if (status != ESP_OK) {
        return status;
    }
    esp_blas_start();
    status = esp_pool_new((int)threads, &cli->compute.pool, err);
    if (status == ESP_OK) {
        cli->threads = esp_pool_thread_count(cli->compute.pool);
        cli->compute.cancel = cli->cancel;
        cli->compute.on_progress = isatty(STDERR_FILENO) ? show_progress : NULL;
    }
    return status;
}

esp_status esp_cli_parse(const esp_command_syntax *syntax, int argc, char **argv,
                         esp_positionals *positionals, bool *is_done, esp_error *err)
{
    esp_status status = esp_options_parse(syntax, argc, argv, positionals, is_done, err);
    if (status == ESP_OK && *is_done) {
        esp_options_help(syntax);
    }
    return status;
}

/* Who read through a pipe has seen enough, as `| head` does: no reason to say anything. */
static bool reader_is_gone(void)
{
    struct pollfd output = {.fd = STDOUT_FILENO, .events = POLLOUT};
    return poll(&output, 1, 0) == 1 && (output.revents & POLLERR) != 0;
}

esp_status esp_cli_finish_output(esp_error *err)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) {
        return ESP_OK;
    }
    int reason = errno;
    if (!reader_is_gone()) {
        return esp_fail(err, ESP_IO, "standard output: %s", strerror(reason));
    }
    *err = (esp_error){0};
    return ESP_IO;
}

void esp_cli_complain(const char *kind, const esp_error *err)
{
    esp_cli_end_progress();
    fprintf(stderr, "%s: %s%s%s%s\n", kind, err->message, err->hint[0] ? " (" : "", err->hint,
            err->hint[0] ? ")" : "");
}

static void print_overview(void)
{
    int widest = 0;
    for (int i = 0; i < COMMAND_COUNT; i++) {
        int width = (int)strlen(commands[i].name);
        widest = width > widest ? width : widest;
    }
    printf("espalier %s: structured pruning of convolutional networks\n\n"
           "espalier [MODEL.onnx] [--data SPEC] [--study DIR]   open the workbench (no MODEL: the bundled "
           "sample)\n"
           "espalier COMMAND ...\n\nCommands\n",
           esp_version());
    for (int i = 0; i < COMMAND_COUNT; i++) {
        printf("  %-*s  %s\n", widest, commands[i].name, commands[i].summary);
    }
    printf("\nespalier COMMAND --help explains one. Exit status: 0 done, 1 failed, 2 bad usage, 130 "
           "interrupted.\n");
}

static esp_status open_workbench(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    esp_workbench_request request = {0};
    esp_option_list inputs = {0};
    int64_t threads = 0;
    bool is_done = false;
    const esp_option options[] = {
        {"data", 'd', ESP_OPTION_TEXT, &request.data, "SPEC", "dataset, e.g. fashion-mnist or cifar10:DIR", 0,
         0, 0},
        {"study", 's', ESP_OPTION_TEXT, &request.study, "DIR", "keep every version in this directory", 0, 0,
         0},
        {"input", 0, ESP_OPTION_LIST, &inputs, "NAME:SHAPE", "fix sizes the file leaves open", 0, 0, 0},
        {"theme", 0, ESP_OPTION_TEXT, &request.theme, "NAME",
         "colours: 256, 16 or mono (default: the terminal's)", 0, 0, 0},
        {"ascii", 0, ESP_OPTION_FLAG, &request.is_ascii, NULL, "draw with ASCII letters only", 0, 0, 0},
        {"threads", 't', ESP_OPTION_INT, &threads, "N", "threads to compute with (default: all cores)", 1,
         1024, 0},
        ESP_CLI_KERNELS(cli),
        {"trace", 0, ESP_OPTION_TEXT, &request.trace, "FILE", "write frame times to a file", 0, 0, 0},
        {0},
    };
    const esp_command_syntax syntax = {"",
                                       "Open the workbench.",
                                       "[MODEL.onnx] [options]",
                                       "  espalier model.onnx --data fashion-mnist",
                                       0,
                                       1,
                                       options,
                                       false};
    char *items[argc + 1];
    esp_positionals positionals = {0, items};
    esp_status status = esp_cli_parse(&syntax, argc, argv, &positionals, &is_done, err);
    if (status != ESP_OK || is_done) {
        return status;
    }
    status = esp_cli_set_kernels(cli, err);
    if (status != ESP_OK) {
        return status;
    }
    request.model = positionals.count ? positionals.items[0] : NULL;
    request.threads = (int)threads;
    request.inputs = inputs.items;
    request.input_count = inputs.count;
    signal(SIGINT, SIG_DFL); /* the workbench has its own way to end */
    signal(SIGTERM, SIG_DFL);
    return cli->workbench(&request, err);
}

static esp_status fail_unknown_command(const char *name, esp_error *err)
{
    const char *names[COMMAND_COUNT];
    for (int i = 0; i < COMMAND_COUNT; i++) {
        names[i] = commands[i].name;
    }
    esp_status status = esp_fail(err, ESP_INVALID, "'%s' is neither a command nor a file", name);
    const char *nearest = esp_nearest_word(name, names, COMMAND_COUNT);
    if (nearest) {
        esp_error_set_hint(err, "did you mean 'espalier %s'?", nearest);
    } else {
        esp_error_set_hint(err, "espalier --help lists the commands");
    }
    return status;
}

static esp_status dispatch(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    const char *first = argc > 0 ? argv[0] : NULL;
    if (first && (strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0 || strcmp(first, "help") == 0)) {
        print_overview();
        return ESP_OK;
    }
    if (first && strcmp(first, "--version") == 0) {
        printf("espalier %s\n", esp_version());
        return ESP_OK;
    }
    for (int i = 0; first && i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i].name, first) == 0) {
            cli->command = commands[i].name;
            return commands[i].run(cli, argc - 1, argv + 1, err);
        }
    }
    bool is_path =
        first && (first[0] == '-' || strchr(first, '/') || strchr(first, '.') || esp_file_exists(first));
    if (first && !is_path) {
        return fail_unknown_command(first, err);
    }
    return open_workbench(cli, argc, argv, err);
}

/* A standard stream that was closed would give its number to the next file that is opened, and what is
 * printed would go into that file. Its place is taken by a file that refuses: printing then fails as it
 * should. */
static void occupy_standard_streams(void)
{
    for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; stream++) {
        if (fcntl(stream, F_GETFD) == -1 && errno == EBADF) {
            (void)open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY);
        }
    }
}

int esp_cli_main(int argc, char **argv, esp_workbench_fn *workbench)
{
    esp_error err = {0};
    char kind[64] = "espalier";
    esp_cli cli = {.workbench = workbench, .command = "", .cancel = &interrupt};
    occupy_standard_streams();
    catch_interrupts();
    esp_status status = dispatch(&cli, argc - 1, argv + 1, &err);
    esp_cli_end_progress();
    if (status == ESP_OK) {
        status = esp_cli_finish_output(&err);
    }
    esp_pool_free(cli.compute.pool);
    if (cli.command[0]) {
        snprintf(kind, sizeof kind, "espalier %s", cli.command);
    }
    if (status == ESP_CANCELLED) {
        fprintf(stderr, "%s: interrupted%s%s\n", kind, err.message[0] ? ": " : "", err.message);
        return 130;
    }
    if (status != ESP_OK) {
        if (err.message[0]) {
            esp_cli_complain(kind, &err);
        }
        return status == ESP_INVALID ? 2 : 1;
    }
    return 0;
}
