/* The idle mark travels in the terminal's own byte stream ("ESC ] 777 ; idle N BEL"), behind everything that
 * was drawn before it, so seeing it means that those bytes have been drawn here too. */
#include "terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include <utmp.h>
#include <vterm.h>

#define MARK_START "\033]777;idle "

struct terminal {
    int master, slave; /* the slave is kept open, to look at its settings after the end */
    int life;          /* a pipe whose other end only the child holds: hangs up when it ends */
    pid_t child;
    VTerm *vterm;
    VTermScreen *screen;
    int width, height;
    struct termios before;
    char *bytes; /* all that came, terminated */
    size_t length, capacity, scanned;
    long idle_keys; /* of the last mark; -1 before the first */
    long sent_keys;
    long marks;
};

/* There in builds with the address sanitizer. */
void __lsan_do_leak_check(void) __attribute__((weak));

static void run_child(const terminal_options *options, const ui_app_options *app)
{
    esp_error err = {0};
    esp_status status;

    for (int number = 1; number < NSIG; number++) /* the test runner has handlers of its own */
        signal(number, SIG_DFL);
    setenv("TERM", options->term ? options->term : "screen-256color", 1);
    setenv("LC_ALL", options->locale ? options->locale : "C.UTF-8", 1);
    setenv("ESPALIER_TEST_IDLE_FD", "1", 1);
    unsetenv("COLORTERM");
    unsetenv("NO_COLOR");
    unsetenv("ESCDELAY");
    unsetenv("LINES");
    unsetenv("COLUMNS");
    if (options->has_no_color)
        setenv("NO_COLOR", "1", 1);
    status = ui_app_run(app, &err);
    if (status != ESP_OK)
        fprintf(stderr, "%s\r\n", err.message);
    fflush(NULL);
    if (__lsan_do_leak_check)
        __lsan_do_leak_check(); /* _exit would skip it */
    _exit((int)status);
}

/* Marks among the bytes that are new. A signal typed at the terminal flushes its output, so a mark may have
 * lost its end: what counts is the last beginning before an end. */
static void find_marks(terminal *t)
{
    const char *found, *later;

    while ((found = strstr(t->bytes + t->scanned, MARK_START)) != NULL) {
        const char *end = strchr(found, '\007');
        if (!end)
            return; /* the rest of it is on its way */
        while ((later = strstr(found + 1, MARK_START)) != NULL && later < end)
            found = later;
        t->idle_keys = strtol(found + strlen(MARK_START), NULL, 10);
        t->marks++;
        t->scanned = (size_t)(end - t->bytes);
    }
}

/* Reads what there is, waiting for at least one byte; false when the child has ended and all it sent was
 * read. */
static bool pump(terminal *t)
{
    char buffer[4096];
    struct pollfd sources[] = {{.fd = t->master, .events = POLLIN}, {.fd = t->life, .events = 0}};
    ssize_t got;

    while (poll(sources, 2, -1) < 0)
        assert_int_equal(errno, EINTR);
    if (!(sources[0].revents & POLLIN) && sources[1].revents)
        return false;
    got = read(t->master, buffer, sizeof buffer);
    if (got < 0 && errno == EAGAIN)
        return true; /* a signal typed at the terminal has flushed what poll saw */
    assert_true(got > 0);
    vterm_input_write(t->vterm, buffer, (size_t)got);
    if (t->length + (size_t)got + 1 > t->capacity) {
        t->capacity = 2 * (t->capacity + (size_t)got + 1);
        t->bytes = realloc(t->bytes, t->capacity);
        assert_non_null(t->bytes);
    }
    memcpy(t->bytes + t->length, buffer, (size_t)got);
    t->length += (size_t)got;
    t->bytes[t->length] = '\0';
    find_marks(t);
    return true;
}

static void wait_idle(terminal *t)
{
    while (t->idle_keys < t->sent_keys && pump(t)) {
    }
}

terminal *terminal_start(const terminal_options *options, const ui_app_options *app)
{
    terminal *t = calloc(1, sizeof *t);
    struct winsize size = {.ws_row = (unsigned short)options->height,
                           .ws_col = (unsigned short)options->width};

    assert_non_null(t);
    int life[2];
    t->width = options->width;
    t->height = options->height;
    t->idle_keys = -1;
    t->bytes = calloc(1, 1);
    t->vterm = vterm_new(options->height, options->width);
    vterm_set_utf8(t->vterm, 1);
    t->screen = vterm_obtain_screen(t->vterm);
    vterm_screen_enable_altscreen(t->screen, 1);
    vterm_screen_reset(t->screen, 1);
    assert_int_equal(openpty(&t->master, &t->slave, NULL, NULL, &size), 0);
    assert_int_equal(fcntl(t->master, F_SETFL, O_NONBLOCK), 0);
    tcgetattr(t->slave, &t->before);
    assert_int_equal(pipe(life), 0);
    t->life = life[0];
    fflush(NULL);
    t->child = fork();
    assert_true(t->child >= 0);
    if (t->child == 0) {
        close(t->master);
        close(life[0]);
        login_tty(t->slave);
        run_child(options, app);
    }
    close(life[1]);
    wait_idle(t);
    return t;
}

void terminal_send(terminal *t, const char *key)
{
    size_t length = strlen(key);

    assert_int_equal(write(t->master, key, length), (ssize_t)length);
    t->sent_keys++;
}

void terminal_press(terminal *t, const char *const *keys, int count)
{
    for (int i = 0; i < count; i++)
        terminal_send(t, keys[i]);
    wait_idle(t);
}

void terminal_signal(terminal *t, int number)
{
    kill(t->child, number);
}

void terminal_resize(terminal *t, int width, int height)
{
    struct winsize size = {.ws_row = (unsigned short)height, .ws_col = (unsigned short)width};
    long marks = t->marks;

    t->width = width;
    t->height = height;
    vterm_set_size(t->vterm, height, width);
    ioctl(t->master, TIOCSWINSZ, &size);
    while (t->marks == marks && pump(t)) {
    }
}

/* What the child sent last may still be on its way when it has ended: a mark of our own, sent after it, ends
 * the wait. */
int terminal_finish(terminal *t)
{
    int status = 0;

    while (pump(t)) {
    }
    assert_int_equal(waitpid(t->child, &status, 0), t->child);
    t->child = 0;
    assert_int_equal(write(t->slave, "\033]777;idle 999999\007", 18), 18);
    while (t->idle_keys != 999999)
        (void)pump(t);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static const char *find_last(const char *text, const char *piece)
{
    const char *last = NULL;

    for (const char *found = strstr(text, piece); found; found = strstr(found + 1, piece))
        last = found;
    return last;
}

bool terminal_is_restored(const terminal *t)
{
    struct termios now;
    const char *enter = find_last(t->bytes, "\033[?1049h"), *leave = find_last(t->bytes, "\033[?1049l");
    const char *hide = find_last(t->bytes, "\033[?25l"), *show = find_last(t->bytes, "\033[?25h");

    if (tcgetattr(t->slave, &now) != 0)
        return false;
    return (!enter || (leave && leave > enter)) && (!hide || (show && show > hide)) &&
           now.c_lflag == t->before.c_lflag && now.c_iflag == t->before.c_iflag &&
           now.c_oflag == t->before.c_oflag;
}

/* ---- looking ---- */

static size_t put_rune(char *target, uint32_t rune)
{
    if (rune < 0x80) {
        target[0] = (char)(rune ? rune : ' ');
        return 1;
    }
    if (rune < 0x800) {
        target[0] = (char)(0xc0 | (rune >> 6));
        target[1] = (char)(0x80 | (rune & 63));
        return 2;
    }
    target[0] = (char)(0xe0 | (rune >> 12));
    target[1] = (char)(0x80 | ((rune >> 6) & 63));
    target[2] = (char)(0x80 | (rune & 63));
    return 3;
}

static bool is_highlighted(const terminal *t, int y)
{
    VTermScreenCell cell;

    vterm_screen_get_cell(t->screen, (VTermPos){.row = y, .col = 0}, &cell);
    return cell.attrs.reverse || !VTERM_COLOR_IS_DEFAULT_BG(&cell.bg);
}

char *terminal_text(terminal *t)
{
    char *text = calloc((size_t)t->height, (size_t)t->width * 4 + 4);
    size_t used = 0;

    assert_non_null(text);
    for (int y = 0; y < t->height; y++) {
        text[used++] = is_highlighted(t, y) ? '>' : '|';
        size_t end = used;
        for (int x = 0; x < t->width; x++) {
            VTermScreenCell cell;
            vterm_screen_get_cell(t->screen, (VTermPos){.row = y, .col = x}, &cell);
            used += put_rune(text + used, cell.chars[0]);
            if (cell.chars[0] && cell.chars[0] != ' ')
                end = used;
            if (cell.width == 2)
                x++;
        }
        used = end;
        text[used++] = '\n';
    }
    text[used] = '\0';
    return text;
}

const char *terminal_bytes(const terminal *t)
{
    return t->bytes;
}

void terminal_free(terminal *t)
{
    if (!t)
        return;
    if (t->child > 0) {
        kill(t->child, SIGKILL);
        waitpid(t->child, NULL, 0);
    }
    close(t->master);
    close(t->slave);
    close(t->life);
    vterm_free(t->vterm);
    free(t->bytes);
    free(t);
}
