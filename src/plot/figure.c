/* Figures are gnuplot scripts with their data inside. The script goes to gnuplot's standard input through an
 * anonymous memory file instead of a pipe: nothing can block, and a gnuplot that dies early cannot raise
 * SIGPIPE in a host that has not asked for it. Its complaints are collected the same way. */
#include "plot/figure.h"

#include <errno.h>
#include <math.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

extern char **environ;

/* A gnuplot string in single quotes: only the quote itself is special, and line breaks must go. */
static void append_quoted(esp_text *text, const char *words)
{
    esp_text_append(text, "'");
    for (const char *c = words ? words : ""; *c; c++) {
        char piece[3] = {*c, 0, 0};
        if (*c == '\'') {
            piece[1] = '\'';
        } else if ((unsigned char)*c < ' ') {
            piece[0] = ' ';
        }
        esp_text_append(text, piece);
    }
    esp_text_append(text, "'");
}

/* Inside a data block fields are separated by blanks and quoted by '"', which cannot be escaped: it becomes
 * '. */
static void append_data_label(esp_text *text, const char *words)
{
    esp_text_append(text, " \"");
    for (const char *c = words ? words : ""; *c; c++) {
        char piece[2] = {*c, 0};
        if (*c == '"') {
            piece[0] = '\'';
        } else if ((unsigned char)*c < ' ' || *c == '\\') {
            piece[0] = ' ';
        }
        esp_text_append(text, piece);
    }
    esp_text_append(text, "\"");
}

static size_t append_series_data(esp_text *text, const esp_series *series, size_t index)
{
    size_t drawn = 0;
    esp_text_printf(text, "$series%zu << ESPALIER_END_OF_DATA\n", index);
    for (size_t i = 0; i < series->count; i++) {
        if (!isfinite(series->x[i]) || !isfinite(series->y[i])) {
            continue;
        }
        double error = series->y_error && isfinite(series->y_error[i]) ? series->y_error[i] : 0.0;
        esp_text_printf(text, "%.9g %.9g %.9g", series->x[i], series->y[i], error);
        append_data_label(text, series->labels ? series->labels[i] : "");
        esp_text_append(text, "\n");
        drawn++;
    }
    esp_text_append(text, "ESPALIER_END_OF_DATA\n");
    return drawn;
}

static const char *style_word(esp_series_style style)
{
    switch (style) {
    case ESP_SERIES_LINES:
        return "lines";
    case ESP_SERIES_POINTS:
        return "points";
    case ESP_SERIES_LINES_POINTS:
        break;
    }
    return "linespoints";
}

static void append_plot_clause(esp_text *text, const esp_series *series, size_t index)
{
    size_t colour = index + 1;
    esp_text_printf(text, "$series%zu using 1:2 with %s lc %zu lw 2 pt 7 ps 1.1 ", index,
                    style_word(series->style), colour);
    if (series->title && series->title[0]) {
        esp_text_append(text, "title ");
        append_quoted(text, series->title);
    } else {
        esp_text_append(text, "notitle");
    }
    if (series->y_error) {
        esp_text_printf(text, ", $series%zu using 1:2:3 with yerrorbars lc %zu lw 1 pt 0 notitle", index,
                        colour);
    }
    if (series->labels) {
        esp_text_printf(text, ", $series%zu using 1:2:4 with labels left offset 0.8,0.5 font ',10' notitle",
                        index);
    }
}

esp_status esp_figure_script(const esp_figure *figure, char **out, esp_error *err)
{
    *out = NULL;
    esp_text text = {0};
    size_t drawn = 0;
    esp_text_append(&text, "set encoding utf8\nset title ");
    append_quoted(&text, figure->title);
    esp_text_append(&text, " noenhanced\nset xlabel ");
    append_quoted(&text, figure->x_label);
    esp_text_append(&text, " noenhanced\nset ylabel ");
    append_quoted(&text, figure->y_label);
    esp_text_append(&text,
                    " noenhanced\nset key noenhanced bottom right\nset grid lc rgb '#d8d8d8'\n"
                    "set border 3 lc rgb '#606060'\nset tics nomirror\nset offsets graph 0.05, graph 0.12, "
                    "graph 0.05, graph 0.05\n"
                    "set linetype 1 lc rgb '#1b6ca8'\nset linetype 2 lc rgb '#c8501e'\n"
                    "set linetype 3 lc rgb '#3a8f4d'\nset linetype 4 lc rgb '#8455a6'\n");
    if (figure->x_is_log) {
        esp_text_append(&text, "set logscale x\n");
    }
    if (figure->y_is_log) {
        esp_text_append(&text, "set logscale y\n");
    }
    for (size_t i = 0; i < figure->series_count; i++) {
        drawn += append_series_data(&text, &figure->series[i], i);
    }
    esp_text_append(&text, "plot ");
    for (size_t i = 0; i < figure->series_count; i++) {
        esp_text_append(&text, i ? ", " : "");
        append_plot_clause(&text, &figure->series[i], i);
    }
    esp_text_append(&text, "\n");
    if (drawn == 0) {
        esp_text_free(&text);
        return esp_fail(err, ESP_INVALID,
                        "figure '%s': no point to draw; expected at least one with finite x and y",
                        figure->title ? figure->title : "");
    }
    *out = esp_text_take(&text);
    return *out ? ESP_OK : esp_fail_memory(err, "the figure's script", 0);
}

/* Which gnuplot terminal writes the format that the ending of `path` names; NULL when none does. */
static const char *terminal_of(const char *path)
{
    const char *base = esp_path_base(path);
    const char *dot = strrchr(base, '.');
    if (!dot) {
        return NULL;
    }
    if (strcmp(dot, ".png") == 0) {
        return "pngcairo";
    }
    if (strcmp(dot, ".svg") == 0) {
        return "svg";
    }
    if (strcmp(dot, ".pdf") == 0) {
        return "pdfcairo";
    }
    return NULL;
}

/* Size in the terminal's own unit: pixels, but inches for PDF. */
static void append_terminal(esp_text *text, const esp_figure *figure, const char *terminal)
{
    int width = figure->width > 0 ? figure->width : 960;
    int height = figure->height > 0 ? figure->height : 640;
    if (strcmp(terminal, "pdfcairo") == 0) {
        esp_text_printf(text, "set terminal pdfcairo size %.2fin,%.2fin font 'Sans,11'\n", width / 120.0,
                        height / 120.0);
    } else {
        esp_text_printf(text, "set terminal %s size %d,%d font 'Sans,11'\n", terminal, width, height);
    }
}

/* First line of what gnuplot wrote to its standard error. */
static void read_complaint(int file, char *line, size_t size)
{
    ssize_t length = pread(file, line, size - 1, 0);
    line[length > 0 ? length : 0] = 0;
    char *start = line;
    while (*start == '\n' || *start == ' ' || *start == '^') {
        start++;
    }
    start[strcspn(start, "\n")] = 0;
    memmove(line, start, strlen(start) + 1);
}

static esp_status wait_for(pid_t child, int complaints, esp_error *err)
{
    int status = 0;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) {
            return esp_fail(err, ESP_INTERNAL, "gnuplot: %s", strerror(errno));
        }
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return ESP_OK;
    }
    char line[200];
    read_complaint(complaints, line, sizeof line);
    return esp_fail(err, ESP_INTERNAL, "gnuplot failed: %s", line[0] ? line : "no message");
}

/* Runs gnuplot on a script. It must not read the user's start-up file (-d). */
static esp_status run_gnuplot(const char *script, esp_error *err)
{
    esp_status status = ESP_OK;
    posix_spawn_file_actions_t actions;
    bool has_actions = false;
    int input = memfd_create("gnuplot-input", MFD_CLOEXEC);
    int complaints = memfd_create("gnuplot-complaints", MFD_CLOEXEC);
    size_t length = strlen(script);
    if (input < 0 || complaints < 0) {
        status = esp_fail(err, ESP_IO, "a memory file for gnuplot: %s", strerror(errno));
        goto done;
    }
    if (write(input, script, length) != (ssize_t)length || lseek(input, 0, SEEK_SET) != 0) {
        status = esp_fail(err, ESP_IO, "writing gnuplot's script: %s", strerror(errno));
        goto done;
    }
    has_actions = posix_spawn_file_actions_init(&actions) == 0;
    if (!has_actions || posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO) != 0 ||
        posix_spawn_file_actions_adddup2(&actions, complaints, STDOUT_FILENO) != 0 ||
        posix_spawn_file_actions_adddup2(&actions, complaints, STDERR_FILENO) != 0) {
        status = esp_fail_memory(err, "starting gnuplot", 0);
        goto done;
    }
    pid_t child = 0;
    char *arguments[] = {(char[]){"gnuplot"}, (char[]){"-d"}, NULL};
    int failure = posix_spawnp(&child, "gnuplot", &actions, NULL, arguments, environ);
    if (failure != 0) {
        status = esp_fail(err, ESP_IO, "gnuplot could not be started: %s", strerror(failure));
        esp_error_set_hint(err, "install it: apt-get install gnuplot-nox");
        goto done;
    }
    status = wait_for(child, complaints, err);
done:
    if (has_actions) {
        posix_spawn_file_actions_destroy(&actions);
    }
    if (input >= 0) {
        close(input);
    }
    if (complaints >= 0) {
        close(complaints);
    }
    return status;
}

esp_status esp_figure_check_path(const char *path, esp_error *err)
{
    return terminal_of(path)
               ? ESP_OK
               : esp_fail(err, ESP_INVALID,
                          "%s: unknown kind of picture; expected a name ending in .png, .svg or .pdf", path);
}

esp_status esp_figure_write(const esp_figure *figure, const char *path, esp_error *err)
{
    const char *terminal = terminal_of(path);
    if (!terminal) {
        return esp_figure_check_path(path, err);
    }
    esp_text text = {0};
    esp_text temporary = {0};
    char *script = NULL;
    esp_status status = esp_figure_script(figure, &script, err);
    if (status != ESP_OK) {
        return status;
    }
    /* gnuplot opens the file itself, so it gets a temporary name in the same directory. */
    esp_text_printf(&temporary, "%s.%ld.part", path, (long)getpid());
    append_terminal(&text, figure, terminal);
    esp_text_append(&text, "set output ");
    append_quoted(&text, temporary.data);
    esp_text_append(&text, "\n");
    esp_text_append(&text, script);
    if (text.is_broken || temporary.is_broken) {
        status = esp_fail_memory(err, "the figure's script", 0);
        goto done;
    }
    status = run_gnuplot(text.data, err);
    if (status == ESP_OK && rename(temporary.data, path) != 0) {
        status = esp_fail(err, ESP_IO, "%s: cannot be written: %s", path, strerror(errno));
    }
    if (status != ESP_OK) {
        esp_error_prefix(err, "%s", path);
        unlink(temporary.data);
    }
done:
    esp_free(script);
    esp_text_free(&text);
    esp_text_free(&temporary);
    return status;
}
