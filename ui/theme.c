/* One table, three columns of looks. */
#include "ui/theme.h"

#include <string.h>

#include "base/text.h"

typedef struct theme_row {
    short fg256, bg256, fg16, bg16;
    const char *mono, *attributes;
} theme_row;

static const theme_row rows[UI_ELEMENT_COUNT] = {
#define UI_ELEMENT(name, fg256, bg256, fg16, bg16, mono, attributes)                                         \
    {fg256, bg256, fg16, bg16, mono, attributes},
#include "ui/theme.def"
#undef UI_ELEMENT
};

static const char *const words[] = {
#define UI_THEME_WORD(name, word, colors) word,
    UI_THEME_LIST(UI_THEME_WORD)
#undef UI_THEME_WORD
};

static const int least_colors[] = {
#define UI_THEME_COLORS(name, word, colors) colors,
    UI_THEME_LIST(UI_THEME_COLORS)
#undef UI_THEME_COLORS
};

#define THEME_COUNT (sizeof words / sizeof words[0])

/* Background of the selected row. */
#define SELECTED_256 237
#define SELECTED_16  4

static unsigned parse_attributes(const char *letters)
{
    unsigned attributes = 0;

    for (; *letters; letters++)
        attributes |= *letters == 'B'   ? UI_BOLD
                      : *letters == 'D' ? UI_FAINT_TEXT
                      : *letters == 'R' ? UI_REVERSE
                                        : UI_UNDERLINE;
    return attributes;
}

ui_style ui_theme_style(ui_theme theme, ui_element element, bool is_selected)
{
    const theme_row *row = &rows[element];
    ui_style style = {-1, -1, 0};

    if (theme == UI_THEME_MONO) {
        style.attributes = parse_attributes(row->mono);
        if (is_selected)
            style.attributes = (style.attributes | UI_REVERSE) & ~(unsigned)UI_FAINT_TEXT;
        return style;
    }
    style.foreground = theme == UI_THEME_256 ? row->fg256 : row->fg16;
    style.background = theme == UI_THEME_256 ? row->bg256 : row->bg16;
    style.attributes = parse_attributes(row->attributes);
    if (is_selected)
        style.background = theme == UI_THEME_256 ? SELECTED_256 : SELECTED_16;
    if (is_selected && style.foreground == style.background)
        style.foreground = 15;
    return style;
}

ui_theme ui_theme_choose(int colors, const char *no_color)
{
    ui_theme best = UI_THEME_MONO;

    if (no_color && *no_color)
        return UI_THEME_MONO;
    for (size_t i = THEME_COUNT; i-- > 0;)
        if (colors >= least_colors[i])
            best = (ui_theme)i;
    return best;
}

esp_status ui_theme_parse(const char *word, ui_theme *out, esp_error *err)
{
    for (size_t i = 0; i < THEME_COUNT; i++)
        if (strcmp(word, words[i]) == 0) {
            *out = (ui_theme)i;
            return ESP_OK;
        }
    const char *nearest = esp_nearest_word(word, words, THEME_COUNT);
    esp_fail(err, ESP_INVALID, "theme '%s' is unknown, expected 256, 16 or mono", word);
    if (nearest)
        esp_error_set_hint(err, "did you mean '%s'?", nearest);
    return ESP_INVALID;
}

const char *ui_theme_word(ui_theme theme)
{
    return words[theme];
}
