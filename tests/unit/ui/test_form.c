/* The form of a training and the pages of findings: keys in, texts and cells out. No session: what would
 * start a training must not. */
#include <stdio.h>
#include <string.h>

#include "ui/actions.h"
#include "ui/form.h"
#include "ui/frame.h"
#include "unit/train/train_fixtures.h"

static esp_snapshot empty;

static ui_state open_form(void)
{
    ui_state ui = {.snapshot = &empty, .view = UI_VIEW_HISTORY};

    empty.finetune = esp_finetune_defaults();
    ui_form_open(&ui);
    return ui;
}

static void press_text(ui_state *ui, const char *text)
{
    for (; *text; text++)
        ui_press(ui, (ui_key)(unsigned char)*text);
}

static void go_to_field(ui_state *ui, const char *key)
{
    ui_press(ui, UI_KEY_HOME);
    for (int i = 0; i <= esp_finetune_find(key); i++)
        ui_press(ui, UI_KEY_DOWN);
}

static const char *text_of(const ui_state *ui, const char *key)
{
    return ui->form.texts[esp_finetune_find(key)];
}

/* A row of the canvas as text; signs beyond ASCII are '?'. */
static char *row_text(const ui_canvas *canvas, int y)
{
    static char row[512];
    int used = 0;

    for (int x = 0; x < canvas->width; x++) {
        uint32_t rune = ui_canvas_at(canvas, x, y)->rune;
        if (rune)
            row[used++] = rune < 0x80 ? (char)rune : '?';
    }
    row[used] = '\0';
    return row;
}

static bool shows(const ui_canvas *canvas, const char *piece)
{
    for (int y = 0; y < canvas->height; y++)
        if (strstr(row_text(canvas, y), piece))
            return true;
    return false;
}

static void the_first_letter_replaces_and_the_next_are_added(void **state)
{
    ui_state ui = open_form();

    (void)state;
    go_to_field(&ui, "epochs");
    press_text(&ui, "12");
    assert_string_equal(text_of(&ui, "epochs"), "12");
    assert_true(ui.form.values.epochs == 12);
    ui_press(&ui, UI_KEY_BACKSPACE);
    assert_true(ui.form.values.epochs == 1);
    ui_press(&ui, UI_KEY_UP);
    ui_press(&ui, UI_KEY_DOWN);
    press_text(&ui, "3");
    assert_true(ui.form.values.epochs == 3);
}

static void keys_change_choices_numbers_and_flags(void **state)
{
    ui_state ui = open_form();

    (void)state;
    go_to_field(&ui, "optimizer");
    ui_press(&ui, UI_KEY_RIGHT);
    assert_string_equal(text_of(&ui, "optimizer"), "adam");
    ui_press(&ui, ' ');
    assert_string_equal(text_of(&ui, "optimizer"), "adamw");
    ui_press(&ui, 's'); /* by its first letter */
    assert_string_equal(text_of(&ui, "optimizer"), "sgd");
    go_to_field(&ui, "flip");
    ui_press(&ui, 'y');
    assert_true(ui.form.values.flips);
    ui_press(&ui, UI_KEY_LEFT);
    assert_false(ui.form.values.flips);
    go_to_field(&ui, "batch");
    ui_press(&ui, UI_KEY_RIGHT);
    assert_string_equal(text_of(&ui, "batch"), "256");
    ui_press(&ui, UI_KEY_DELETE);
    assert_string_equal(text_of(&ui, "batch"), "128");
}

static void what_is_wrong_stands_beside_the_field_and_nothing_starts(void **state)
{
    ui_state ui = open_form();
    ui_canvas canvas;
    esp_error err = {0};

    (void)state;
    go_to_field(&ui, "lr");
    press_text(&ui, "fast");
    assert_non_null(strstr(ui.form.errors[esp_finetune_find("lr")], "learning rate 'fast'"));
    assert_true(ui.form.values.lr == 0); /* the old value */
    go_to_field(&ui, "seed");
    ui_press(&ui, UI_KEY_ENTER); /* would crash without a session if it started */
    assert_int_equal(ui.view, UI_VIEW_FORM);
    assert_int_equal(ui.form.cursor, 1 + esp_finetune_find("lr"));
    expect_ok(ui_canvas_new(80, 24, UI_BRAILLE, &canvas, &err), &err);
    ui_view_form.draw(&ui, &canvas, (ui_rect){0, 0, 80, 24});
    int line = -1;
    for (int y = 0; y < canvas.height - 1; y++)
        if (strstr(row_text(&canvas, y), "learning rate "))
            line = line < 0 ? y : line;
    assert_non_null(strstr(row_text(&canvas, line), "fast"));
    assert_non_null(strstr(row_text(&canvas, line), "learning rate 'fast'"));
    ui_canvas_free(&canvas);
}

static void words_fill_the_fields_in_when_the_cursor_leaves_them(void **state)
{
    ui_state ui = open_form();

    (void)state;
    press_text(&ui, "7 0.05 adamw distil");
    ui_press(&ui, UI_KEY_TAB);
    assert_string_equal(text_of(&ui, "epochs"), "7");
    assert_string_equal(text_of(&ui, "lr"), "0.05");
    assert_string_equal(text_of(&ui, "optimizer"), "adamw");
    assert_string_equal(text_of(&ui, "distilled"), "yes");
    ui_press(&ui, UI_KEY_UP);
    press_text(&ui, "2 x");
    ui_press(&ui, UI_KEY_ENTER);
    assert_int_equal(ui.view, UI_VIEW_FORM);
    assert_non_null(strstr(ui.message, "'x', expected a number, an optimizer"));
}

static void letters_are_typed_and_escape_leaves(void **state)
{
    ui_state ui = open_form();

    (void)state;
    go_to_field(&ui, "freeze");
    press_text(&ui, "q?5 layer1.*");
    assert_false(ui.wants_quit);
    assert_string_equal(ui.form.values.freeze, "q?5 layer1.*");
    ui_press(&ui, UI_KEY_CTRL_U);
    assert_string_equal(ui.form.values.freeze, "");
    press_text(&ui, "conv1");
    ui_press(&ui, UI_KEY_ESCAPE);
    assert_int_equal(ui.view, UI_VIEW_HISTORY);
    ui_form_open(&ui); /* and is remembered */
    assert_string_equal(text_of(&ui, "freeze"), "conv1");
}

static void the_form_begins_as_the_study_was_trained_last(void **state)
{
    ui_state ui = {.snapshot = &empty};

    (void)state;
    empty.finetune = esp_finetune_defaults();
    empty.finetune.epochs = 9;
    ui_form_open(&ui);
    assert_string_equal(text_of(&ui, "epochs"), "9");
}

/* At the least size, every line comes onto the screen with its text as the cursor goes down. */
static void every_field_can_be_seen_on_the_smallest_screen(void **state)
{
    ui_state ui = open_form();
    ui_rect body = ui_layout_make(UI_LEAST_WIDTH, UI_LEAST_HEIGHT, false).body;
    ui_canvas canvas;
    esp_error err = {0};
    int count = 0;
    const esp_finetune_field *fields = esp_finetune_fields(&count);

    (void)state;
    assert_true(count <= UI_FORM_FIELDS);
    expect_ok(ui_canvas_new(UI_LEAST_WIDTH, UI_LEAST_HEIGHT, UI_ASCII, &canvas, &err), &err);
    for (int i = 0; i < count; i++) {
        ui_press(&ui, UI_KEY_DOWN);
        ui_canvas_clear(&canvas);
        ui_view_form.draw(&ui, &canvas, body);
        assert_true(shows(&canvas, fields[i].title));
        assert_true(ui_text_width(fields[i].help) > 0);
    }
    ui_canvas_free(&canvas);
}

/* ---- pages ---- */

static const esp_findings *make_page(int rows)
{
    esp_findings *page = NULL;
    esp_error err = {0};

    expect_ok(esp_findings_new(&page, &err), &err);
    snprintf(page->title, sizeof page->title, "A page");
    esp_findings_say(page, ESP_TONE_HEADING, "Section");
    ESP_FINDINGS_ROW(page, ESP_TONE_HEADING, "what", "layer", "why");
    for (int i = 0; i < rows; i++) {
        char name[32];
        snprintf(name, sizeof name, "layer%d.conv", i);
        ESP_FINDINGS_ROW(page, ESP_TONE_WARN, "gone", name,
                         "no layer has this name any more, and so its rule goes to the last one");
    }
    assert_false(page->is_broken);
    return page;
}

static void a_new_page_opens_by_itself_and_escape_closes_it(void **state)
{
    ui_state ui = {.view = UI_VIEW_HISTORY};
    esp_snapshot fields = {.findings = make_page(1), .findings_serial = 1};
    esp_snapshot *snapshot = NULL;
    esp_error err = {0};

    (void)state;
    expect_ok(esp_snapshot_new(&fields, &snapshot, &err), &err);
    ui_state_take_snapshot(&ui, esp_shared_ref(snapshot));
    assert_int_equal(ui.view, UI_VIEW_PAGE);
    ui_press(&ui, UI_KEY_ENTER); /* it asks nothing */
    assert_non_null(strstr(ui.message, "asks nothing"));
    ui_press(&ui, UI_KEY_ESCAPE);
    assert_int_equal(ui.view, UI_VIEW_HISTORY);
    ui_state_take_snapshot(&ui, esp_shared_ref(snapshot)); /* the same page does not come back */
    assert_int_equal(ui.view, UI_VIEW_HISTORY);
    ui_state_release(&ui);
    esp_shared_unref(snapshot);
    esp_shared_unref(fields.findings);
}

static void tables_fit_any_width_and_lose_no_word_of_the_last_column(void **state)
{
    esp_snapshot snapshot = {.findings = make_page(2), .findings_serial = 1};
    ui_state ui = {.snapshot = &snapshot, .view = UI_VIEW_PAGE};

    (void)state;
    for (int width = 30; width <= 120; width += 15) {
        ui_canvas canvas;
        esp_error err = {0};
        char all[8192] = "";
        expect_ok(ui_canvas_new(width, 60, UI_ASCII, &canvas, &err), &err);
        ui_view_page.draw(&ui, &canvas, (ui_rect){0, 0, width, 60});
        for (int y = 0; y < canvas.height; y++) {
            strcat(all, row_text(&canvas, y));
            strcat(all, " ");
        }
        static const char *const words[] = {"any", "more,", "rule", "goes", "last", "one"};
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
            assert_non_null(strstr(all, words[i]));
        ui_canvas_free(&canvas);
    }
    esp_shared_unref(snapshot.findings);
}

static void a_long_page_scrolls_to_its_end_and_not_beyond(void **state)
{
    esp_snapshot snapshot = {.findings = make_page(50), .findings_serial = 1};
    ui_state ui = {.snapshot = &snapshot, .view = UI_VIEW_PAGE};
    ui_canvas canvas;
    esp_error err = {0};

    (void)state;
    expect_ok(ui_canvas_new(100, 20, UI_ASCII, &canvas, &err), &err);
    ui_view_page.draw(&ui, &canvas, (ui_rect){0, 0, 100, 20});
    assert_true(shows(&canvas, "layer0.conv"));
    assert_true(shows(&canvas, "1-19 of 52"));
    ui_press(&ui, UI_KEY_END);
    ui_canvas_clear(&canvas);
    ui_view_page.draw(&ui, &canvas, (ui_rect){0, 0, 100, 20});
    assert_true(shows(&canvas, "layer49.conv"));
    assert_true(shows(&canvas, "34-52 of 52"));
    ui_canvas_free(&canvas);
    esp_shared_unref(snapshot.findings);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_letter_replaces_and_the_next_are_added),
        cmocka_unit_test(keys_change_choices_numbers_and_flags),
        cmocka_unit_test(what_is_wrong_stands_beside_the_field_and_nothing_starts),
        cmocka_unit_test(words_fill_the_fields_in_when_the_cursor_leaves_them),
        cmocka_unit_test(letters_are_typed_and_escape_leaves),
        cmocka_unit_test(the_form_begins_as_the_study_was_trained_last),
        cmocka_unit_test(every_field_can_be_seen_on_the_smallest_screen),
        cmocka_unit_test(a_new_page_opens_by_itself_and_escape_closes_it),
        cmocka_unit_test(tables_fit_any_width_and_lose_no_word_of_the_last_column),
        cmocka_unit_test(a_long_page_scrolls_to_its_end_and_not_beyond),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
