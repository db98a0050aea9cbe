/* Cells, text and charts, without a terminal. */
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "ui/chart.h"
#include "unit/train/train_fixtures.h"

static ui_canvas new_canvas(int width, int height, ui_alphabet alphabet)
{
    ui_canvas canvas;
    esp_error err = {0};

    expect_ok(ui_canvas_new(width, height, alphabet, &canvas, &err), &err);
    return canvas;
}

static void assert_row(const ui_canvas *canvas, int y, const char *expected)
{
    char row[256] = "";
    size_t used = 0;

    for (int x = 0; x < canvas->width; x++) {
        uint32_t rune = ui_canvas_at(canvas, x, y)->rune;
        if (rune)
            used += (size_t)snprintf(row + used, sizeof row - used, rune < 0x80 ? "%c" : "<%x>", (int)rune);
    }
    assert_string_equal(row, expected);
}

static void drawing_outside_does_nothing(void **state)
{
    ui_canvas canvas = new_canvas(4, 2, UI_BRAILLE);

    (void)state;
    ui_put(&canvas, -1, 0, 'x', UI_TEXT);
    ui_put(&canvas, 4, 0, 'x', UI_TEXT);
    ui_put(&canvas, 0, -1, 'x', UI_TEXT);
    ui_put(&canvas, 0, 2, 'x', UI_TEXT);
    ui_text(&canvas, -2, 0, 6, "abcdef", UI_TEXT);
    assert_row(&canvas, 0, "cdef");
    assert_row(&canvas, 1, "    ");
    assert_null(ui_canvas_at(&canvas, 4, 0));
    ui_canvas_free(&canvas);
}

static void long_text_ends_in_an_ellipsis_and_short_text_does_not(void **state)
{
    ui_canvas canvas = new_canvas(6, 3, UI_BRAILLE);

    (void)state;
    assert_int_equal(ui_text(&canvas, 0, 0, 6, "abcdef", UI_TEXT), 6);
    assert_row(&canvas, 0, "abcdef");
    assert_int_equal(ui_text(&canvas, 0, 1, 6, "abcdefg", UI_TEXT), 6);
    assert_row(&canvas, 1, "abcde<2026>");
    ui_text_right(&canvas, 0, 2, 6, "abc", UI_TEXT);
    assert_row(&canvas, 2, "   abc");
    ui_canvas_free(&canvas);
}

static void a_long_name_keeps_its_beginning_and_more_of_its_end(void **state)
{
    ui_canvas canvas = new_canvas(10, 1, UI_ASCII);

    (void)state;
    assert_int_equal(ui_text_middle(&canvas, 0, 0, 10, "layer1.block2.conv3", UI_TEXT), 10);
    assert_row(&canvas, 0, "la~2.conv3");
    ui_canvas_free(&canvas);
}

static void nothing_that_could_steer_a_terminal_becomes_a_cell(void **state)
{
    ui_canvas canvas = new_canvas(8, 1, UI_BRAILLE);

    (void)state;
    ui_text(&canvas, 0, 0, 8, "a\033[2J\xff\xc2\x9b", UI_TEXT);
    for (int x = 0; x < 8; x++) {
        uint32_t rune = ui_canvas_at(&canvas, x, 0)->rune;
        assert_true(rune >= 0x20 && rune != 0x7f && !(rune >= 0x80 && rune < 0xa0));
    }
    assert_row(&canvas, 0, "a?[2J?? ");
    ui_canvas_free(&canvas);
}

static void wide_letters_take_two_cells_and_leave_no_half(void **state)
{
    ui_canvas canvas = new_canvas(5, 1, UI_BRAILLE);

    (void)state;
    assert_int_equal(ui_text_width("\u6a39\u6a39"), 4);
    ui_text(&canvas, 0, 0, 5, "\u6a39\u6a39", UI_TEXT);
    assert_row(&canvas, 0, "<6a39><6a39> ");
    ui_put(&canvas, 1, 0, 'x', UI_TEXT); /* on the right half of the first */
    assert_row(&canvas, 0, " x<6a39> ");
    ui_put(&canvas, 2, 0, 'y', UI_TEXT); /* on the left half of the second */
    assert_row(&canvas, 0, " xy  ");
    ui_put(&canvas, 4, 0, 0x6a39, UI_TEXT); /* no room for both halves */
    assert_row(&canvas, 0, " xy  ");
    ui_canvas_free(&canvas);
}

static void bars_are_drawn_in_eighths_and_a_little_still_shows(void **state)
{
    ui_canvas canvas = new_canvas(4, 4, UI_BRAILLE);

    (void)state;
    ui_bar(&canvas, 0, 0, 4, 0.0, UI_KEPT);
    assert_row(&canvas, 0, "<2500><2500><2500><2500>");
    ui_bar(&canvas, 0, 1, 4, 0.0001, UI_KEPT);
    assert_row(&canvas, 1, "<258f><2500><2500><2500>");
    ui_bar(&canvas, 0, 2, 4, 0.375, UI_KEPT); /* 12 of 32 eighths */
    assert_row(&canvas, 2, "<2588><258c><2500><2500>");
    ui_bar_split(&canvas, 0, 3, 4, 0.5, 1.0, UI_KEPT, UI_CUT);
    assert_row(&canvas, 3, "<2588><2588><2591><2591>");
    ui_canvas_free(&canvas);
}

static void ascii_charts_hold_ascii_only(void **state)
{
    ui_canvas canvas = new_canvas(8, 4, UI_ASCII);
    const double values[] = {1, 2, 3, 4};
    ui_dots dots;
    esp_error err = {0};

    (void)state;
    ui_bar(&canvas, 0, 0, 4, 0.4, UI_KEPT);
    ui_bar_split(&canvas, 4, 0, 4, 0.5, 1.0, UI_KEPT, UI_CUT);
    ui_sparkline(&canvas, 0, 1, 8, values, 4, 4, UI_KEPT);
    ui_column(&canvas, 0, (ui_rect){0, 0, 1, 4}, 0.7, UI_KEPT);
    ui_heading(&canvas, 0, 2, 8, "too long a title");
    expect_ok(ui_dots_new(&canvas, (ui_rect){4, 1, 4, 3}, &dots, &err), &err);
    ui_dots_line(&dots, 0, 0, dots.columns - 1, dots.rows - 1, UI_POINT);
    ui_dots_draw(&dots);
    for (int i = 0; i < 32; i++)
        assert_true(canvas.cells[i].rune >= 0x20 && canvas.cells[i].rune < 0x7f);
    ui_canvas_free(&canvas);
}

/* Braille numbers its dots 1-2-3 down the left, 4-5-6 down the right, then 7 and 8 below. */
static void braille_dots_lie_where_unicode_puts_them(void **state)
{
    static const uint32_t bits[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    esp_error err = {0};

    (void)state;
    for (int row = 0; row < 4; row++)
        for (int column = 0; column < 2; column++) {
            ui_canvas canvas = new_canvas(1, 1, UI_BRAILLE);
            ui_dots dots;
            expect_ok(ui_dots_new(&canvas, (ui_rect){0, 0, 1, 1}, &dots, &err), &err);
            ui_dots_set(&dots, column, row, UI_POINT);
            ui_dots_draw(&dots);
            assert_int_equal(ui_canvas_at(&canvas, 0, 0)->rune, 0x2800 + bits[row][column]);
            ui_canvas_free(&canvas);
        }
}

static void a_theme_is_chosen_by_colours_and_no_color_wins(void **state)
{
    ui_theme theme;
    esp_error err = {0};

    (void)state;
    assert_int_equal(ui_theme_choose(256, NULL), UI_THEME_256);
    assert_int_equal(ui_theme_choose(16, NULL), UI_THEME_16);
    assert_int_equal(ui_theme_choose(8, NULL), UI_THEME_16);
    assert_int_equal(ui_theme_choose(-1, NULL), UI_THEME_MONO);
    assert_int_equal(ui_theme_choose(256, "1"), UI_THEME_MONO);
    assert_int_equal(ui_theme_choose(256, ""), UI_THEME_256); /* no-color.org: an empty value is none */
    expect_failure(ui_theme_parse("moni", &theme, &err), ESP_INVALID, &err, "moni");
}

static void mono_uses_no_colour_and_shows_the_selection(void **state)
{
    (void)state;
    for (int element = 0; element < UI_ELEMENT_COUNT; element++) {
        ui_style plain = ui_theme_style(UI_THEME_MONO, (ui_element)element, false);
        ui_style selected = ui_theme_style(UI_THEME_MONO, (ui_element)element, true);
        assert_int_equal(plain.foreground, -1);
        assert_int_equal(plain.background, -1);
        assert_true(selected.attributes & UI_REVERSE);
    }
}

static void no_selected_text_vanishes_in_its_background(void **state)
{
    (void)state;
    for (int theme = UI_THEME_256; theme <= UI_THEME_16; theme++)
        for (int element = 0; element < UI_ELEMENT_COUNT; element++) {
            ui_style style = ui_theme_style((ui_theme)theme, (ui_element)element, true);
            assert_int_not_equal(style.foreground, style.background);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drawing_outside_does_nothing),
        cmocka_unit_test(long_text_ends_in_an_ellipsis_and_short_text_does_not),
        cmocka_unit_test(a_long_name_keeps_its_beginning_and_more_of_its_end),
        cmocka_unit_test(nothing_that_could_steer_a_terminal_becomes_a_cell),
        cmocka_unit_test(wide_letters_take_two_cells_and_leave_no_half),
        cmocka_unit_test(bars_are_drawn_in_eighths_and_a_little_still_shows),
        cmocka_unit_test(ascii_charts_hold_ascii_only),
        cmocka_unit_test(braille_dots_lie_where_unicode_puts_them),
        cmocka_unit_test(a_theme_is_chosen_by_colours_and_no_color_wins),
        cmocka_unit_test(mono_uses_no_colour_and_shows_the_selection),
        cmocka_unit_test(no_selected_text_vanishes_in_its_background),
    };
    setlocale(LC_CTYPE, "C.UTF-8");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
