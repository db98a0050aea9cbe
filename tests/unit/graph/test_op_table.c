/* The op table is consistent: versions do not overlap, defaults can be read, columns fit together. */
#include "unit/graph/net.h"

#include <string.h>

#include "base/text.h"

static void rows_of_one_operator_do_not_overlap(void **state)
{
    (void)state;
    for (int i = 0; i < esp_op_count(); i++) {
        const esp_op *a = esp_op_at(i);
        assert_true(a->opset_since <= a->opset_until);
        for (int j = i + 1; j < esp_op_count(); j++) {
            const esp_op *b = esp_op_at(j);
            bool is_apart = a->opset_until < b->opset_since || b->opset_until < a->opset_since;
            assert_true(strcmp(a->name, b->name) != 0 || is_apart);
        }
    }
}

static void every_operator_is_known_up_to_opset_21_unless_it_was_replaced(void **state)
{
    (void)state;
    for (int i = 0; i < esp_op_count(); i++) {
        const char *name = esp_op_at(i)->name;
        bool was_replaced = strcmp(name, "Upsample") == 0 || strcmp(name, "Scatter") == 0;
        assert_true(was_replaced == (esp_op_find(name, 21, NULL) == NULL));
    }
}

static void columns_of_a_row_fit_together(void **state)
{
    (void)state;
    for (int i = 0; i < esp_op_count(); i++) {
        const esp_op *op = esp_op_at(i);
        assert_non_null(op->infer);
        assert_non_null(op->forward);
        assert_true(op->output_min == 1 && op->output_max >= 1 && op->output_max <= 64);
        assert_true(op->input_max == -1 || op->input_max >= op->input_min);
        assert_true((op->trainable & op->running) == 0);
        assert_true((op->layer != NULL) == (op->rule == ESP_CHANNEL_CUT));
        assert_true(op->layer == NULL || op->macs != NULL);
        assert_true(op->trainable == 0 || op->backward != NULL);
        assert_true(op->blocks == NULL || op->backward != NULL);
    }
}

static void defaults_are_readable_texts(void **state)
{
    (void)state;
    for (int i = 0; i < esp_op_count(); i++) {
        for (const esp_attr_spec *spec = esp_op_at(i)->attrs; spec != NULL && spec->name != NULL; spec++) {
            int64_t number;
            double real;
            if (spec->otherwise == NULL)
                continue;
            if (spec->type == ESP_ATTR_INT)
                assert_true(esp_parse_i64(spec->otherwise, &number));
            else if (spec->type == ESP_ATTR_FLOAT)
                assert_true(esp_parse_f64(spec->otherwise, &real));
            else
                assert_int_equal(spec->type, ESP_ATTR_STRING);
        }
    }
}

static void versions_are_told_apart(void **state)
{
    (void)state;
    assert_int_equal(esp_op_find("Slice", 9, NULL)->input_max, 1);
    assert_int_equal(esp_op_find("Slice", 10, NULL)->input_max, 5);
    assert_int_equal(esp_op_find("Gemm", 10, NULL)->input_min, 3);
    assert_int_equal(esp_op_find("Gemm", 11, NULL)->input_min, 2);
    const esp_op *nearest = NULL;
    assert_null(esp_op_find("Where", 8, &nearest));
    assert_non_null(nearest);
    assert_int_equal(nearest->opset_since, 9);
    assert_null(esp_op_find("Conw", 13, &nearest));
    assert_string_equal(nearest->name, "Conv");
    assert_null(esp_op_find("EntirelyDifferent", 13, &nearest));
    assert_null(nearest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_one_operator_do_not_overlap),
        cmocka_unit_test(every_operator_is_known_up_to_opset_21_unless_it_was_replaced),
        cmocka_unit_test(columns_of_a_row_fit_together),
        cmocka_unit_test(defaults_are_readable_texts),
        cmocka_unit_test(versions_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
