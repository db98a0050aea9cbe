/* The main loop. It sleeps in poll() on the terminal, the worker's pipe and a pipe that signal handlers write
 * to; it never waits for the engine. Whatever woke it, it takes all keys and all events there are, and draws
 * once.
 *
 * Signals need one piece of process-wide state: the pipe their handler writes to. */
#include "ui/app.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/paths.h"
#include "ui/actions.h"
#include "ui/frame.h"
#include "ui/screen.h"

#define SAMPLE_MODEL "sample_models/resnet20.onnx"
#define SAMPLE_DATA  "fashion-mnist"

/* ---- signals ---- */

static int signal_pipe_write = -1;

static const int watched[] = {SIGINT, SIGTERM, SIGHUP, SIGWINCH};
#define WATCHED_COUNT (sizeof watched / sizeof watched[0])

static void on_signal(int number)
{
    int saved = errno;
    char byte = number == SIGWINCH ? 'w' : 'q';
    ssize_t ignored = write(signal_pipe_write, &byte, 1);

    (void)ignored;
    errno = saved;
}

typedef struct app {
    const ui_app_options *options;
    ui_screen *screen;
    ui_canvas canvas;
    ui_state state;
    int signal_read, signal_write;
    struct sigaction before[WATCHED_COUNT];
    bool is_watching, was_interrupted, is_gone;
    int idle_fd; /* -1: nobody asks */
    uint64_t key_count;
    FILE *trace;
    double start_s, key_s; /* key_s: when the oldest key without an answer came; 0: none */
    uint64_t key_serial;   /* snapshot that was on the screen then */
} app;

static esp_status watch_signals(app *a, esp_error *err)
{
    struct sigaction action = {.sa_handler = on_signal};
    int ends[2];

    if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0)
        return esp_fail(err, ESP_IO, "cannot make a pipe: %s", strerror(errno));
    a->signal_read = ends[0];
    a->signal_write = signal_pipe_write = ends[1];
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < WATCHED_COUNT; i++)
        sigaction(watched[i], &action, &a->before[i]);
    a->is_watching = true;
    return ESP_OK;
}

static void unwatch_signals(app *a)
{
    if (!a->is_watching)
        return;
    for (size_t i = 0; i < WATCHED_COUNT; i++)
        sigaction(watched[i], &a->before[i], NULL);
    close(a->signal_read);
    close(a->signal_write);
    signal_pipe_write = -1;
}

/* ---- what woke us ---- */

static esp_status fit_canvas(app *a, esp_error *err)
{
    int width, height;
    ui_canvas canvas;
    esp_status status;

    ui_screen_size(a->screen, &width, &height);
    if (width == a->canvas.width && height == a->canvas.height)
        return ESP_OK;
    status = ui_canvas_new(width, height, ui_screen_alphabet(a->screen), &canvas, err);
    if (status != ESP_OK)
        return status;
    canvas.is_mono = ui_screen_theme(a->screen) == UI_THEME_MONO;
    ui_canvas_free(&a->canvas);
    a->canvas = canvas;
    return ESP_OK;
}

static void take_signals(app *a)
{
    char byte;

    while (read(a->signal_read, &byte, 1) == 1) {
        if (byte == 'w')
            ui_screen_resize(a->screen);
        else
            a->was_interrupted = a->state.wants_quit = true;
    }
}

static void look_at_jobs(app *a)
{
    a->state.busy = esp_session_busy(a->state.session);
    a->state.demanded = esp_session_demanded(a->state.session);
}

static void take_keys(app *a)
{
    ui_key key;

    while (!a->state.wants_quit && (key = ui_screen_key(a->screen)) != UI_KEY_NONE) {
        if (key == UI_KEY_RESIZE)
            continue;
        a->key_count++;
        if (a->key_s <= 0) {
            a->key_s = esp_clock_s();
            a->key_serial = a->state.snapshot ? a->state.snapshot->serial : 0;
        }
        ui_press(&a->state, key);
        look_at_jobs(a);
    }
}

static void take_events(app *a)
{
    esp_event event;

    while (esp_session_next_event(a->state.session, &event)) {
        if (event.kind == ESP_EVENT_NOTICE)
            ui_state_take_snapshot(&a->state, esp_session_snapshot(a->state.session));
        else
            ui_state_take_event(&a->state, &event);
    }
    look_at_jobs(a);
    if (a->state.busy == 0)
        a->state.has_progress = false;
}

/* ---- drawing and its times ---- */

static void trace_frame(app *a, double began_s)
{
    double now = esp_clock_s();
    uint64_t serial = a->state.snapshot ? a->state.snapshot->serial : 0;

    if (!a->trace)
        return;
    fprintf(a->trace, "frame at_ms %.2f draw_ms %.2f\n", (now - a->start_s) * 1000.0,
            (now - began_s) * 1000.0);
    if (a->key_s > 0 && (serial > a->key_serial || a->state.busy == 0)) {
        fprintf(a->trace, "answer key_to_screen_ms %.2f\n", (now - a->key_s) * 1000.0);
        a->key_s = 0;
    }
    fflush(a->trace);
}

static esp_status draw(app *a, esp_error *err)
{
    double began = esp_clock_s();
    esp_status status = fit_canvas(a, err);
    ui_cursor cursor;

    if (status != ESP_OK)
        return status;
    cursor = ui_draw_frame(&a->state, &a->canvas);
    ui_screen_blit(a->screen, &a->canvas, cursor.x, cursor.y);
    trace_frame(a, began);
    return ESP_OK;
}

static void mark_idle(const app *a)
{
    if (a->idle_fd >= 0 && esp_session_busy(a->state.session) == 0)
        dprintf(a->idle_fd, "\033]777;idle %llu\007", (unsigned long long)a->key_count);
}

static esp_status run_loop(app *a, esp_error *err)
{
    struct pollfd sources[] = {{.fd = STDIN_FILENO, .events = POLLIN},
                               {.fd = esp_session_fd(a->state.session), .events = POLLIN},
                               {.fd = a->signal_read, .events = POLLIN}};
    esp_status status = ESP_OK;

    for (;;) {
        take_signals(a);
        take_keys(a);
        take_events(a);
        if (a->state.wants_quit || a->is_gone)
            break;
        status = draw(a, err);
        if (status != ESP_OK)
            return status;
        mark_idle(a);
        if (poll(sources, 3, -1) < 0 && errno != EINTR)
            return esp_fail(err, ESP_IO, "poll: %s", strerror(errno));
        a->is_gone = (sources[0].revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;
    }
    return ESP_OK;
}

/* ---- start and end ---- */

static esp_status start_jobs(app *a, esp_error *err)
{
    const ui_app_options *options = a->options;
    const char *data = options->data_spec;
    char *sample = NULL;
    esp_status status = ESP_OK;

    if (!options->model_path && !options->study_directory) {
        status = esp_data_path(SAMPLE_MODEL, &sample, err);
        data = data ? data : SAMPLE_DATA;
    }
    if (status == ESP_OK)
        status = esp_session_open(a->state.session, sample ? sample : options->model_path, err);
    if (status == ESP_OK && data)
        status = esp_session_open_data(a->state.session, data, err);
    esp_free(sample);
    return status;
}

static esp_status start(app *a, esp_error *err)
{
    const char *idle_fd = getenv("ESPALIER_TEST_IDLE_FD");
    const ui_app_options *options = a->options;
    esp_session_options session = {.study_directory = options->study_directory,
                                   .thread_count = options->threads,
                                   .inputs = options->inputs,
                                   .input_count = options->input_count,
                                   .recalls_data = !options->data_spec,
                                   .hides_timings = options->hides_timings || idle_fd};
    esp_status status = ESP_OK;

    a->idle_fd = idle_fd ? atoi(idle_fd) : -1;
    if (options->trace_path && !(a->trace = fopen(options->trace_path, "w")))
        status = esp_fail(err, ESP_IO, "%s: %s", options->trace_path, strerror(errno));
    if (status == ESP_OK)
        status = ui_screen_open(options->theme, options->is_ascii, &a->screen, err);
    if (status == ESP_OK)
        status = watch_signals(a, err);
    if (status == ESP_OK)
        status = esp_session_new(&session, &a->state.session, err);
    if (status == ESP_OK)
        status = start_jobs(a, err);
    if (status == ESP_OK)
        ui_state_take_snapshot(&a->state, esp_session_snapshot(a->state.session));
    return status;
}

static void finish(app *a)
{
    ui_screen_close(a->screen);
    unwatch_signals(a);
    ui_state_release(&a->state);
    esp_session_free(a->state.session);
    ui_canvas_free(&a->canvas);
    if (a->trace)
        fclose(a->trace);
}

esp_status ui_app_run(const ui_app_options *options, esp_error *err)
{
    app a = {.options = options, .start_s = esp_clock_s(), .idle_fd = -1};
    esp_status status = start(&a, err);

    if (status == ESP_OK)
        status = run_loop(&a, err);
    if (status == ESP_OK && a.state.failure != ESP_OK) {
        status = a.state.failure;
        if (err)
            *err = a.state.failure_error;
    }
    if (status == ESP_OK && a.was_interrupted)
        status = ESP_CANCELLED;
    finish(&a);
    return status;
}
