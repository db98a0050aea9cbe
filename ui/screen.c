/* Curses, kept in one place. The terminal is put back on three ways out: ui_screen_close (normal ends and
 * signals that ask to end, which the main loop turns into normal ends), and a handler for signals that mean a
 * crash. The handler uses only what is safe in one: it writes the bytes that leave full-screen mode, which
 * were computed when the screen was opened, restores the line settings, and lets the signal do what it would
 * have done. That needs two pieces of process-wide state, as signals and terminals are process-wide
 * themselves. */
#include "ui/screen.h"

#include <curses.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <term.h>
#include <termios.h>
#include <unistd.h>

#include "base/memory.h"

#define ESCAPE_DELAY_MS 25
#define MOST_PAIRS      256

typedef struct pair_entry {
    short foreground, background;
} pair_entry;

struct ui_screen {
    SCREEN *curses;
    ui_theme theme;
    ui_alphabet alphabet;
    int pair_count, pair_limit;
    pair_entry pairs[MOST_PAIRS];
    attr_t attributes[UI_ELEMENT_COUNT][2];
    short pair_of[UI_ELEMENT_COUNT][2];
};

/* ---- crashes ---- */

static const int crash_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
#define CRASH_SIGNALS (sizeof crash_signals / sizeof crash_signals[0])

static struct {
    struct termios settings;
    char leave[256]; /* bytes that leave full-screen mode */
    size_t leave_length;
    struct sigaction before[CRASH_SIGNALS];
} crash;

static void on_crash(int number)
{
    ssize_t ignored = write(STDOUT_FILENO, crash.leave, crash.leave_length);

    (void)ignored;
    tcsetattr(STDIN_FILENO, TCSANOW, &crash.settings);
    for (size_t i = 0; i < CRASH_SIGNALS; i++)
        if (crash_signals[i] == number)
            sigaction(number, &crash.before[i], NULL);
    raise(number);
}

static void remember_leaving(const char *capability)
{
    const char *bytes = tigetstr(capability);
    size_t length = bytes && bytes != (const char *)-1 ? strlen(bytes) : 0;

    if (crash.leave_length + length <= sizeof crash.leave && length > 0) {
        memcpy(crash.leave + crash.leave_length, bytes, length);
        crash.leave_length += length;
    }
}

static void watch_for_crashes(void)
{
    struct sigaction action = {.sa_handler = on_crash};

    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < CRASH_SIGNALS; i++)
        sigaction(crash_signals[i], &action, &crash.before[i]);
}

static void stop_watching(void)
{
    for (size_t i = 0; i < CRASH_SIGNALS; i++)
        sigaction(crash_signals[i], &crash.before[i], NULL);
}

/* ---- opening ---- */

static esp_status check_terminal(esp_error *err)
{
    const char *name = getenv("TERM");
    int found = 0;

    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) {
        esp_fail(err, ESP_UNSUPPORTED, "the workbench needs a terminal, found standard %s that is none",
                 isatty(STDOUT_FILENO) ? "input" : "output");
        esp_error_set_hint(err, "every action is also a subcommand: espalier --help");
        return ESP_UNSUPPORTED;
    }
    if (setupterm(name, STDOUT_FILENO, &found) == ERR)
        return esp_fail(err, ESP_UNSUPPORTED, "TERM is '%s', a terminal this system knows nothing about",
                        name ? name : "");
    const char *move = tigetstr("cup");
    if (!move || move == (const char *)-1)
        return esp_fail(
            err, ESP_UNSUPPORTED,
            "TERM is '%s', a terminal that cannot move its cursor; the workbench needs one that can",
            name ? name : "");
    return ESP_OK;
}

static ui_alphabet choose_alphabet(bool is_ascii)
{
    const char *name = getenv("TERM");

    if (is_ascii || strcmp(nl_langinfo(CODESET), "UTF-8") != 0 || (name && strcmp(name, "linux") == 0))
        return UI_ASCII; /* the kernel's console has few of the signs */
    return UI_BRAILLE;
}

static short pair_for(ui_screen *screen, short foreground, short background)
{
    for (int i = 0; i < screen->pair_count; i++)
        if (screen->pairs[i].foreground == foreground && screen->pairs[i].background == background)
            return (short)(i + 1);
    if (screen->pair_count >= screen->pair_limit)
        return 0;
    screen->pairs[screen->pair_count] = (pair_entry){foreground, background};
    init_pair((short)(screen->pair_count + 1), foreground, background);
    return (short)++screen->pair_count;
}

static attr_t curses_attributes(unsigned attributes)
{
    return (attributes & UI_BOLD ? A_BOLD : 0) | (attributes & UI_FAINT_TEXT ? A_DIM : 0) |
           (attributes & UI_REVERSE ? A_REVERSE : 0) | (attributes & UI_UNDERLINE ? A_UNDERLINE : 0);
}

/* Bright colours on a terminal with eight: the plain one, bold; bright black, which may be invisible, is dim
 * instead. */
static ui_style fit_style(ui_style style)
{
    if (COLORS < 16 && style.foreground == 8) {
        style.foreground = 7;
        style.attributes |= UI_FAINT_TEXT;
    } else if (COLORS < 16 && style.foreground > 8) {
        style.foreground = (short)(style.foreground - 8);
        style.attributes |= UI_BOLD;
    }
    return style;
}

static void prepare_styles(ui_screen *screen)
{
    screen->pair_limit = COLOR_PAIRS - 1 < MOST_PAIRS ? COLOR_PAIRS - 1 : MOST_PAIRS;
    for (int element = 0; element < UI_ELEMENT_COUNT; element++)
        for (int selected = 0; selected < 2; selected++) {
            ui_style style = ui_theme_style(screen->theme, (ui_element)element, selected != 0);
            if (screen->theme != UI_THEME_MONO) {
                style = fit_style(style);
                screen->pair_of[element][selected] = pair_for(screen, style.foreground, style.background);
            }
            screen->attributes[element][selected] = curses_attributes(style.attributes);
        }
}

static esp_status choose_theme(ui_screen *screen, const char *wanted, esp_error *err)
{
    int colors = tigetnum("colors");

    screen->theme = ui_theme_choose(colors, getenv("NO_COLOR"));
    return wanted ? ui_theme_parse(wanted, &screen->theme, err) : ESP_OK;
}

/* What terminals send for these whatever their description says. */
static void define_common_keys(void)
{
    static const struct {
        const char *bytes;
        int code;
    } keys[] = {{"\033[A", KEY_UP},     {"\033[B", KEY_DOWN},   {"\033[C", KEY_RIGHT}, {"\033[D", KEY_LEFT},
                {"\033[H", KEY_HOME},   {"\033[F", KEY_END},    {"\033OH", KEY_HOME},  {"\033OF", KEY_END},
                {"\033[1~", KEY_HOME},  {"\033[4~", KEY_END},   {"\033[7~", KEY_HOME}, {"\033[8~", KEY_END},
                {"\033[5~", KEY_PPAGE}, {"\033[6~", KEY_NPAGE}, {"\033[3~", KEY_DC}};

    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (key_defined(keys[i].bytes) == 0)
            define_key(keys[i].bytes, keys[i].code);
}

static void start_curses(ui_screen *screen)
{
    set_escdelay(ESCAPE_DELAY_MS);
    cbreak();
    noecho();
    nonl();
    keypad(stdscr, TRUE);
    nodelay(stdscr, TRUE);
    leaveok(stdscr, FALSE);
    if (screen->theme != UI_THEME_MONO && start_color() == OK) {
        use_default_colors();
    } else {
        screen->theme = UI_THEME_MONO;
    }
    prepare_styles(screen);
    curs_set(0);
    define_common_keys();
}

esp_status ui_screen_open(const char *theme, bool is_ascii, ui_screen **out, esp_error *err)
{
    ui_screen *screen = NULL;
    esp_status status;

    *out = NULL;
    setlocale(LC_CTYPE, "");
    status = check_terminal(err);
    if (status != ESP_OK)
        return status;
    screen = esp_alloc_zero(1, sizeof *screen);
    if (!screen)
        return esp_fail_memory(err, "screen", sizeof *screen);
    screen->alphabet = choose_alphabet(is_ascii);
    status = choose_theme(screen, theme, err);
    if (status == ESP_OK) {
        crash.leave_length = 0;
        tcgetattr(STDIN_FILENO, &crash.settings);
        remember_leaving("cnorm");
        remember_leaving("sgr0");
        remember_leaving("rmcup");
        remember_leaving("rmkx");
        screen->curses = newterm(NULL, stdout, stdin);
        if (!screen->curses)
            status = esp_fail(err, ESP_UNSUPPORTED, "the terminal could not be set up");
    }
    if (status != ESP_OK) {
        esp_free(screen);
        return status;
    }
    start_curses(screen);
    watch_for_crashes();
    *out = screen;
    return ESP_OK;
}

void ui_screen_close(ui_screen *screen)
{
    if (!screen)
        return;
    stop_watching();
    endwin();
    delscreen(screen->curses);
    esp_free(screen);
}

/* ---- size ---- */

ui_theme ui_screen_theme(const ui_screen *screen)
{
    return screen->theme;
}

ui_alphabet ui_screen_alphabet(const ui_screen *screen)
{
    return screen->alphabet;
}

void ui_screen_size(const ui_screen *screen, int *width, int *height)
{
    (void)screen;
    getmaxyx(stdscr, *height, *width);
}

void ui_screen_resize(ui_screen *screen)
{
    struct winsize size;

    (void)screen;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0)
        resizeterm(size.ws_row, size.ws_col);
    clearok(curscr, TRUE);
}

/* ---- drawing ---- */

void ui_screen_blit(ui_screen *screen, const ui_canvas *canvas, int cursor_x, int cursor_y)
{
    for (int y = 0; y < canvas->height; y++)
        for (int x = 0; x < canvas->width; x++) {
            const ui_cell *cell = ui_canvas_at(canvas, x, y);
            const wchar_t text[2] = {(wchar_t)cell->rune, 0};
            cchar_t shown;
            if (cell->rune == 0)
                continue;
            setcchar(&shown, text, screen->attributes[cell->element][cell->is_selected],
                     screen->pair_of[cell->element][cell->is_selected], NULL);
            mvadd_wch(y, x, &shown);
        }
    curs_set(cursor_x >= 0);
    if (cursor_x >= 0)
        move(cursor_y, cursor_x);
    refresh();
}

/* ---- keys ---- */

static ui_key function_key(wint_t code)
{
    static const struct {
        wint_t code;
        ui_key key;
    } keys[] = {{KEY_UP, UI_KEY_UP},
                {KEY_DOWN, UI_KEY_DOWN},
                {KEY_LEFT, UI_KEY_LEFT},
                {KEY_RIGHT, UI_KEY_RIGHT},
                {KEY_PPAGE, UI_KEY_PAGE_UP},
                {KEY_NPAGE, UI_KEY_PAGE_DOWN},
                {KEY_HOME, UI_KEY_HOME},
                {KEY_END, UI_KEY_END},
                {KEY_F(1), UI_KEY_F1},
                {KEY_DC, UI_KEY_DELETE},
                {KEY_BACKSPACE, UI_KEY_BACKSPACE},
                {KEY_ENTER, UI_KEY_ENTER},
                {KEY_RESIZE, UI_KEY_RESIZE}};

    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (keys[i].code == code)
            return keys[i].key;
    return UI_KEY_RESIZE; /* an unknown function key: nothing to do but draw */
}

static ui_key plain_key(wint_t code)
{
    switch (code) {
    case '\r':
    case '\n':
        return UI_KEY_ENTER;
    case '\t':
        return UI_KEY_TAB;
    case 27:
        return UI_KEY_ESCAPE;
    case 8:
    case 127:
        return UI_KEY_BACKSPACE;
    case 'R' - 64:
        return UI_KEY_CTRL_R;
    case 'U' - 64:
        return UI_KEY_CTRL_U;
    default:
        return (ui_key)code;
    }
}

/* Sequences that the terminal's description does not know must not be taken for the letters in them. Returns
 * whether the escape just read began one; it is then read to its end. */
static bool swallow_sequence(void)
{
    wint_t code = 0;
    int kind = get_wch(&code);

    if (kind == KEY_CODE_YES)
        ungetch((int)code); /* an arrow right behind it: a key of its own */
    if (kind != OK)
        return false;
    if (code != '[' && code != 'O') {
        unget_wch((wchar_t)code);
        return false;
    }
    while (get_wch(&code) == OK && (code < 0x40 || code > 0x7e)) {
    }
    return true;
}

ui_key ui_screen_key(ui_screen *screen)
{
    wint_t code = 0;
    int kind = get_wch(&code);

    (void)screen;
    if (kind == ERR || (kind == OK && code == 0))
        return UI_KEY_NONE;
    if (kind == OK && code == 27 && swallow_sequence())
        return UI_KEY_RESIZE;
    return kind == KEY_CODE_YES ? function_key(code) : plain_key(code);
}
