/* Keys as the workbench knows them: code points, and names for the rest. */
#ifndef ESP_UI_KEYS_H
#define ESP_UI_KEYS_H

#include <stddef.h>
#include <stdint.h>

/* Columns: NAME, text for people. Codes start above Unicode. */
#define UI_KEY_LIST(X)                                                                                       \
    X(UP, "Up")                                                                                              \
    X(DOWN, "Down")                                                                                          \
    X(LEFT, "Left")                                                                                          \
    X(RIGHT, "Right")                                                                                        \
    X(PAGE_UP, "PgUp")                                                                                       \
    X(PAGE_DOWN, "PgDn")                                                                                     \
    X(HOME, "Home")                                                                                          \
    X(END, "End")                                                                                            \
    X(F1, "F1")                                                                                              \
    X(DELETE, "Del")                                                                                         \
    X(BACKSPACE, "Backspace")                                                                                \
    X(ENTER, "Enter")                                                                                        \
    X(ESCAPE, "Esc")                                                                                         \
    X(TAB, "Tab")                                                                                            \
    X(CTRL_R, "Ctrl-R")                                                                                      \
    X(CTRL_U, "Ctrl-U")                                                                                      \
    X(RESIZE, "resize")

enum {
    UI_KEY_NONE = 0,
    UI_KEY_BASE = 0x110000,
#define UI_KEY_ENUM(name, text) UI_KEY_##name,
    UI_KEY_LIST(UI_KEY_ENUM)
#undef UI_KEY_ENUM
};

typedef uint32_t ui_key;

/* "+", "Up", "Ctrl-R". Returns `buffer`. `is_short`: arrows as signs. */
char *ui_key_name(ui_key key, char *buffer, size_t size);

#endif
