/* The table of a training's fields, through the functions that know no field by name. */
#include <stdio.h>
#include <string.h>

#include "study/finetune.h"
#include "unit/train/train_fixtures.h"

static int field(const char *key)
{
    int index = esp_finetune_find(key);

    if (index < 0)
        fail_msg("no field '%s'", key);
    return index;
}

static void set(esp_finetune *options, const char *key, const char *text)
{
    esp_error err = {0};

    expect_ok(esp_finetune_set(options, field(key), text, &err), &err);
}

static void refuse(const char *key, const char *text, const char *piece)
{
    esp_finetune options = esp_finetune_defaults(), before = options;
    esp_error err = {0};
    esp_status status = esp_finetune_set(&options, field(key), text, &err);

    expect_failure(status, ESP_INVALID, &err, piece);
    assert_memory_equal(&options, &before, sizeof options);
}

static void assert_text(const esp_finetune *options, const char *key, const char *expected)
{
    char text[ESP_FINETUNE_TEXT];

    assert_string_equal(esp_finetune_text(options, field(key), text, sizeof text), expected);
}

static void every_field_reads_back_what_it_shows(void **state)
{
    int count = 0;
    const esp_finetune_field *fields = esp_finetune_fields(&count);
    esp_finetune usual = esp_finetune_defaults();

    (void)state;
    for (int i = 0; i < count; i++) {
        esp_finetune other = usual;
        char text[ESP_FINETUNE_TEXT];
        esp_error err = {0};
        esp_finetune_text(&usual, i, text, sizeof text);
        expect_ok(esp_finetune_set(&other, i, text, &err), &err);
        assert_memory_equal(&other, &usual, sizeof usual);
        assert_true(strlen(fields[i].title) > 0 && strlen(fields[i].title) <= 16); /* the form's column */
        assert_true(strlen(fields[i].help) > 0);
        for (int j = 0; j < i; j++)
            assert_string_not_equal(fields[i].key, fields[j].key);
    }
}

static void words_stand_for_nothing(void **state)
{
    esp_finetune options = esp_finetune_defaults();

    (void)state;
    assert_text(&options, "lr", "usual");
    assert_true(esp_finetune_lr(&options) == 0.01); /* as published for fine-tuning by SGD */
    set(&options, "optimizer", "adamw");
    assert_true(esp_finetune_lr(&options) == 0.001);
    set(&options, "lr", "0.3");
    assert_true(esp_finetune_lr(&options) == 0.3);
    set(&options, "lr", "usual");
    assert_true(options.lr == 0);
    assert_text(&options, "validation", "usual"); /* the data's own, else a tenth, as on the command line */
    assert_true(esp_finetune_share(&options) == 0.1 && !esp_finetune_is_on_test(&options));
    set(&options, "validation", "test");
    assert_true(options.validation == 0 && esp_finetune_is_on_test(&options));
    assert_text(&options, "validation", "test");
    set(&options, "patience", "never");
    assert_text(&options, "patience", "never");
}

static void what_makes_no_sense_is_refused_and_changes_nothing(void **state)
{
    (void)state;
    refuse("epochs", "0", "epochs '0', expected a number above 0");
    refuse("epochs", "nan", "epochs 'nan'");
    refuse("epochs", "", "epochs ''");
    refuse("lr", "-1", "learning rate '-1', expected a number above 0 to 100, or usual");
    refuse("batch", "1.5", "expected a whole number");
    refuse("batch", "1e9", "1 to 65536");
    refuse("ema", "1", "0, below 1, or off");
    refuse("validation", "1", "above 0, below 1, usual, or test");
    refuse("validation", "-1", "above 0, below 1, usual, or test");
    refuse("optimizer", "adam2", "did you mean 'adam'?");
    refuse("schedule", "sequence", "schedule");
    refuse("flip", "maybe", "yes or no");
}

static void steps_go_through_values_and_end_or_go_round(void **state)
{
    esp_finetune options = esp_finetune_defaults();

    (void)state;
    esp_finetune_step(&options, field("lr"), 1); /* from the usual rate */
    assert_text(&options, "lr", "0.02");
    esp_finetune_step(&options, field("lr"), -1);
    assert_text(&options, "lr", "0.01");
    set(&options, "lr", "0.013");
    esp_finetune_step(&options, field("lr"), 1);
    assert_text(&options, "lr", "0.02");
    for (int i = 0; i < 100; i++)
        esp_finetune_step(&options, field("epochs"), -1);
    assert_text(&options, "epochs", "0.25");
    for (int i = 0; i < 3; i++)
        esp_finetune_step(&options, field("optimizer"), 1);
    assert_text(&options, "optimizer", "sgd");
    esp_finetune_step(&options, field("optimizer"), -1);
    assert_text(&options, "optimizer", "adamw");
    esp_finetune_step(&options, field("flip"), 1);
    assert_text(&options, "flip", "yes");
    esp_finetune_step(&options, field("seed"), -1);
    assert_text(&options, "seed", "0");
    esp_finetune_step(&options, field("seed"), 1);
    assert_text(&options, "seed", "1");
}

static void no_step_leaves_the_range(void **state)
{
    int count = 0;

    (void)state;
    (void)esp_finetune_fields(&count);
    for (int i = 0; i < count; i++)
        for (int direction = -1; direction <= 1; direction += 2) {
            esp_finetune options = esp_finetune_defaults();
            for (int n = 0; n < 40; n++) {
                char text[ESP_FINETUNE_TEXT];
                esp_error err = {0};
                esp_finetune_step(&options, i, direction);
                esp_finetune_text(&options, i, text, sizeof text);
                expect_ok(esp_finetune_set(&options, i, text, &err), &err);
            }
        }
}

static void a_line_of_words_is_epochs_rate_and_words(void **state)
{
    esp_finetune options = esp_finetune_defaults(), before;
    esp_error err = {0};

    (void)state;
    expect_ok(esp_finetune_words(&options, "5 0.02 adamw onecycle distil", &err), &err);
    assert_true(options.epochs == 5 && options.lr == 0.02 && options.distils);
    assert_text(&options, "optimizer", "adamw");
    assert_text(&options, "schedule", "onecycle");
    before = options;
    expect_failure(esp_finetune_words(&options, "7 x", &err), ESP_INVALID, &err, "'x', expected a number");
    assert_memory_equal(&options, &before, sizeof options);
}

static void json_keeps_every_field(void **state)
{
    static const char *const values[][2] = {{"epochs", "3.5"},
                                            {"lr", "0.07"},
                                            {"optimizer", "adam"},
                                            {"schedule", "plateau"},
                                            {"batch", "17"},
                                            {"weight_decay", "0.003"},
                                            {"crop", "4"},
                                            {"flip", "yes"},
                                            {"label_smoothing", "0.1"},
                                            {"distilled", "yes"},
                                            {"norm", "frozen"},
                                            {"freeze", "conv1 layer1.*"},
                                            {"ema", "0.99"},
                                            {"patience", "3"},
                                            {"validation", "test"},
                                            {"checkpoint_seconds", "30"},
                                            {"warmup", "0.5"},
                                            {"train_limit", "5000"},
                                            {"seed", "9"}};
    esp_finetune options = esp_finetune_defaults(), read;
    json_t *json;
    esp_error err = {0};
    int count = 0;

    (void)state;
    (void)esp_finetune_fields(&count);
    assert_int_equal(count, sizeof values / sizeof *values);
    for (int i = 0; i < count; i++)
        set(&options, values[i][0], values[i][1]);
    json = esp_finetune_to_json(&options);
    expect_ok(esp_finetune_from_json(json, &read, &err), &err);
    assert_memory_equal(&read, &options, sizeof options);
    json_object_set_new(json, "batch", json_string("many"));
    expect_failure(esp_finetune_from_json(json, &read, &err), ESP_INVALID, &err, "batch");
    json_object_set_new(json, "batch", json_integer(0));
    expect_failure(esp_finetune_from_json(json, &read, &err), ESP_INVALID, &err, "batch '0'");
    json_object_del(json, "batch");
    expect_ok(esp_finetune_from_json(json, &read, &err), &err);
    assert_int_equal(read.batch, 128);
    json_decref(json);
}

static void patterns_are_split_at_blanks_and_commas(void **state)
{
    esp_finetune options = esp_finetune_defaults();
    char copy[ESP_FINETUNE_TEXT];
    const char *patterns[ESP_FINETUNE_PATTERNS];

    (void)state;
    assert_int_equal(esp_finetune_patterns(&options, copy, patterns), 0);
    set(&options, "freeze", " conv1, layer1.*  fc ");
    assert_int_equal(esp_finetune_patterns(&options, copy, patterns), 3);
    assert_string_equal(patterns[0], "conv1");
    assert_string_equal(patterns[1], "layer1.*");
    assert_string_equal(patterns[2], "fc");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_reads_back_what_it_shows),
        cmocka_unit_test(words_stand_for_nothing),
        cmocka_unit_test(what_makes_no_sense_is_refused_and_changes_nothing),
        cmocka_unit_test(steps_go_through_values_and_end_or_go_round),
        cmocka_unit_test(no_step_leaves_the_range),
        cmocka_unit_test(a_line_of_words_is_epochs_rate_and_words),
        cmocka_unit_test(json_keeps_every_field),
        cmocka_unit_test(patterns_are_split_at_blanks_and_commas),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
