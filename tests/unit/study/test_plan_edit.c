/* Edits of a plan, as keys make them. */
#include "study/plan_edit.h"
#include "unit/train/train_fixtures.h"

static esp_layer layers_of_test[] = {
    {.name = "/a/Conv", .weight_name = "a.weight", .is_conv = true},
    {.name = "/b/Conv", .weight_name = "b.weight", .is_conv = true},
    {.name = "/fc/Gemm", .weight_name = "fc.weight", .is_conv = false},
};
static const esp_layers three_layers = {3, layers_of_test};

static void apply(esp_plan *plan, esp_plan_edit_kind kind, int layer, double amount)
{
    esp_error err = {0};
    const esp_plan_edit edit = {.kind = kind, .layer = layer, .amount = amount};

    expect_ok(esp_plan_apply_edit(plan, &three_layers, &edit, &err), &err);
}

static void going_up_and_down_meets_the_same_ratios(void **state)
{
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.0);

    (void)state;
    for (int i = 0; i < 6; i++)
        apply(&plan, ESP_EDIT_RATIO_ADD, 0, 0.05);
    assert_true(plan.conv_ratio == 0.3);
    assert_true(plan.fc_ratio == 0.3 && plan.border_ratio == 0.3);
    for (int i = 0; i < 7; i++)
        apply(&plan, ESP_EDIT_RATIO_ADD, 0, -0.05);
    assert_true(plan.conv_ratio == 0.0);
    apply(&plan, ESP_EDIT_RATIO_ADD, 0, 7.0);
    assert_true(plan.conv_ratio == ESP_EDIT_RATIO_MAX);
    esp_plan_free(&plan);
}

static void a_layer_ratio_starts_from_what_holds_and_then_stands_alone(void **state)
{
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.2);

    (void)state;
    apply(&plan, ESP_EDIT_LAYER_RATIO_ADD, 1, 0.05);
    assert_true(esp_plan_layer_ratio(&plan, &layers_of_test[1]) == 0.25);
    apply(&plan, ESP_EDIT_RATIO_SET, 0, 0.5);
    assert_true(esp_plan_layer_ratio(&plan, &layers_of_test[1]) == 0.25);
    assert_true(esp_plan_layer_ratio(&plan, &layers_of_test[0]) == 0.5);
    assert_int_equal(plan.rule_count, 1);
    apply(&plan, ESP_EDIT_LAYER_RESET, 1, 0);
    assert_true(esp_plan_layer_ratio(&plan, &layers_of_test[1]) == 0.5);
    assert_int_equal(plan.rule_count, 0);
    esp_plan_free(&plan);
}

static void ignoring_is_taken_back_by_the_same_key_and_keeps_the_ratio(void **state)
{
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 0.2);

    (void)state;
    apply(&plan, ESP_EDIT_LAYER_RATIO_SET, 2, 0.6);
    apply(&plan, ESP_EDIT_LAYER_IGNORE, 2, 0);
    assert_true(esp_plan_layer_is_ignored(&plan, &layers_of_test[2]));
    assert_false(esp_plan_layer_is_ignored(&plan, &layers_of_test[0]));
    apply(&plan, ESP_EDIT_LAYER_IGNORE, 2, 0);
    assert_false(esp_plan_layer_is_ignored(&plan, &layers_of_test[2]));
    assert_true(esp_plan_layer_ratio(&plan, &layers_of_test[2]) == 0.6);
    esp_plan_free(&plan);
}

static void a_layer_rule_wins_over_an_earlier_pattern(void **state)
{
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.2);
    esp_error err = {0};

    (void)state;
    apply(&plan, ESP_EDIT_LAYER_RATIO_SET, 0, 0.1);
    expect_ok(esp_plan_add_rule(&plan, "*.weight", 0.4, 0, false, &err), &err);
    assert_true(esp_plan_layer_ratio(&plan, &layers_of_test[0]) == 0.4);
    apply(&plan, ESP_EDIT_LAYER_RATIO_SET, 0, 0.3);
    assert_true(esp_plan_layer_ratio(&plan, &layers_of_test[0]) == 0.3);
    assert_true(esp_plan_layer_ratio(&plan, &layers_of_test[1]) == 0.4);
    esp_plan_free(&plan);
}

static void groups_never_fall_below_one(void **state)
{
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 0.2);

    (void)state;
    apply(&plan, ESP_EDIT_GROUPS_ADD, 0, -100);
    assert_int_equal(plan.groups, 1);
    apply(&plan, ESP_EDIT_GROUPS_ADD, 0, 1);
    assert_int_equal(plan.groups, 2);
    esp_plan_free(&plan);
}

static void an_edit_of_no_layer_fails_and_changes_nothing(void **state)
{
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 0.2);
    const esp_plan_edit edit = {.kind = ESP_EDIT_LAYER_RATIO_SET, .layer = 3, .amount = 0.5};
    esp_error err = {0};

    (void)state;
    expect_failure(esp_plan_apply_edit(&plan, &three_layers, &edit, &err), ESP_INVALID, &err, "layer 3");
    assert_int_equal(plan.rule_count, 0);
    esp_plan_free(&plan);
}

static void a_typed_ratio_is_kept_as_it_is_and_keys_do_not_lower_it(void **state)
{
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.2);
    esp_error err = {0};
    const esp_plan_edit too_much = {.kind = ESP_EDIT_LAYER_RATIO_SET, .layer = 1, .amount = 1.0};

    (void)state;
    apply(&plan, ESP_EDIT_LAYER_RATIO_SET, 1, 0.999);
    assert_true(esp_plan_layer_ratio(&plan, &three_layers.items[1]) == 0.999);
    apply(&plan, ESP_EDIT_LAYER_RATIO_ADD, 1, 0.05);
    assert_true(esp_plan_layer_ratio(&plan, &three_layers.items[1]) == 0.999);
    assert_int_equal(esp_plan_apply_edit(&plan, &three_layers, &too_much, &err), ESP_INVALID);
    esp_plan_free(&plan);
}

/* Any method can be reached from any other, with a plan that is valid all the way. */
static void the_method_key_goes_through_all_methods_and_back(void **state)
{
    static const esp_method order[] = {ESP_METHOD_SG, ESP_METHOD_FILTER, ESP_METHOD_WSP};
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.5);
    esp_error err = {0};

    (void)state;
    plan.scope = ESP_SCOPE_GLOBAL;
    plan.round_to = 8;
    for (int i = 0; i < 3; i++) {
        apply(&plan, ESP_EDIT_METHOD_NEXT, 0, 0);
        assert_int_equal(plan.method, order[i]);
        expect_ok(esp_plan_check(&plan, &err), &err);
        assert_true(plan.conv_ratio == 0.5);
    }
    plan.scope = ESP_SCOPE_GLOBAL;
    apply(&plan, ESP_EDIT_MODE_NEXT, 0, 0);
    assert_int_equal(plan.mode, ESP_MODE_FAITHFUL);
    expect_ok(esp_plan_check(&plan, &err), &err);
    esp_plan_free(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(going_up_and_down_meets_the_same_ratios),
        cmocka_unit_test(a_layer_ratio_starts_from_what_holds_and_then_stands_alone),
        cmocka_unit_test(ignoring_is_taken_back_by_the_same_key_and_keeps_the_ratio),
        cmocka_unit_test(a_layer_rule_wins_over_an_earlier_pattern),
        cmocka_unit_test(groups_never_fall_below_one),
        cmocka_unit_test(an_edit_of_no_layer_fails_and_changes_nothing),
        cmocka_unit_test(a_typed_ratio_is_kept_as_it_is_and_keys_do_not_lower_it),
        cmocka_unit_test(the_method_key_goes_through_all_methods_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
