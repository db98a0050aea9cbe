/* Themes: what each element of the screen looks like, as data. Knows nothing of curses. */
#ifndef ESP_UI_THEME_H
#define ESP_UI_THEME_H

#include <stdbool.h>

#include "base/status.h"

typedef enum ui_element {
#define UI_ELEMENT(name, fg256, bg256, fg16, bg16, mono, attributes) UI_##name,
#include "ui/theme.def"
#undef UI_ELEMENT
    UI_ELEMENT_COUNT
} ui_element;

#define UI_HEAT_STEPS 8 /* UI_HEAT_0 .. UI_HEAT_7 */

typedef enum ui_attribute { UI_BOLD = 1, UI_FAINT_TEXT = 2, UI_REVERSE = 4, UI_UNDERLINE = 8 } ui_attribute;

typedef struct ui_style {
    short foreground, background; /* palette index; -1: the terminal's own */
    unsigned attributes;          /* ui_attribute */
} ui_style;

/* One list of themes. Columns: NAME, word, colours the terminal must have. */
#define UI_THEME_LIST(X)                                                                                     \
    X(256, "256", 256)                                                                                       \
    X(16, "16", 8)                                                                                           \
    X(MONO, "mono", 0)

typedef enum ui_theme {
#define UI_THEME_ENUM(name, word, colors) UI_THEME_##name,
    UI_THEME_LIST(UI_THEME_ENUM)
#undef UI_THEME_ENUM
} ui_theme;

/* How an element looks. The selected row of a list keeps its elements' foregrounds on another background. */
ui_style ui_theme_style(ui_theme theme, ui_element element, bool is_selected);

/* The best theme for a terminal with `colors` colours; mono when NO_COLOR is set (`no_color` its value, or
 * NULL). */
ui_theme ui_theme_choose(int colors, const char *no_color);

/* By word; unknown words name the nearest. */
esp_status ui_theme_parse(const char *word, ui_theme *out, esp_error *err);
const char *ui_theme_word(ui_theme theme);

#endif
