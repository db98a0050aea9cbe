/* Keys as the workbench knows them: code points, and names for the rest. */
#ifndef ESP_UI_KEYS_H
#define ESP_UI_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Columns: NAME, text for people, sign where there are signs. Codes start above Unicode. */
#define UI_KEY_LIST(X)                                                                                       \
    X(UP, "Up", "\u2191")                                                                                    \
    X(DOWN, "Down", "\u2193")                                                                                \
    X(LEFT, "Left", "\u2190")                                                                                \
    X(RIGHT, "Right", "\u2192")                                                                              \
    X(PAGE_UP, "PgUp", "PgUp")                                                                               \
    X(PAGE_DOWN, "PgDn", "PgDn")                                                                             \
    X(HOME, "Home", "Home")                                                                                  \
    X(END, "End", "End")                                                                                     \
    X(F1, "F1", "F1")                                                                                        \
    X(DELETE, "Del", "Del")                                                                                  \
    X(BACKSPACE, "Backspace", "Backspace")                                                                   \
    X(ENTER, "Enter", "\u21b5")                                                                              \
    X(ESCAPE, "Esc", "Esc")                                                                                  \
    X(TAB, "Tab", "Tab")                                                                                     \
    X(CTRL_R, "Ctrl-R", "Ctrl-R")                                                                            \
    X(CTRL_U, "Ctrl-U", "Ctrl-U")                                                                            \
    X(RESIZE, "resize", "resize")

enum {
    UI_KEY_NONE = 0,
    UI_KEY_BASE = 0x110000,
#define UI_KEY_ENUM(name, text, sign) UI_KEY_##name,
    UI_KEY_LIST(UI_KEY_ENUM)
#undef UI_KEY_ENUM
};

typedef uint32_t ui_key;

/* "+", "Up", "Ctrl-R"; with `has_signs` arrows are arrows. Returns `buffer`. */
char *ui_key_name(ui_key key, bool has_signs, char *buffer, size_t size);

#endif
