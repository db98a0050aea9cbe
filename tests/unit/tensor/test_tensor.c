/* Shapes, reference counts, sharing and selection. */
#include "unit/tensor/check.h"

#include "tensor/tensor.h"

static esp_tensor *counting(esp_dtype dtype, const esp_shape *shape)
{
    esp_tensor *tensor = NULL;
    esp_error err = {0};
    assert_int_equal(esp_tensor_new(dtype, shape, &tensor, &err), ESP_OK);
    float *values = esp_tensor_f32_mut(tensor);
    for (int64_t i = 0; i < esp_tensor_elements(tensor); i++)
        values[i] = (float)i;
    return tensor;
}

static void a_shape_prints_as_people_write_it(void **state)
{
    (void)state;
    char text[64];
    esp_shape shape = esp_shape_make(4, (const int64_t[]){1, 64, -1, 56});
    assert_string_equal(esp_shape_format(&shape, text, sizeof text), "1x64x?x56");
    shape = esp_shape_make(0, NULL);
    assert_string_equal(esp_shape_format(&shape, text, sizeof text), "scalar");
    shape = esp_shape_make(2, (const int64_t[]){123456, 7});
    assert_string_equal(esp_shape_format(&shape, text, 5), "1234");
}

static void elements_of_a_shape_notice_overflow_and_negative_dims(void **state)
{
    (void)state;
    esp_shape shape = esp_shape_make(3, (const int64_t[]){3, 4, 5});
    assert_int_equal(esp_shape_elements(&shape), 60);
    shape = esp_shape_make(2, (const int64_t[]){INT64_MAX, 2});
    assert_int_equal(esp_shape_elements(&shape), -1);
    shape = esp_shape_make(2, (const int64_t[]){2, -1});
    assert_int_equal(esp_shape_elements(&shape), -1);
    shape = esp_shape_make(2, (const int64_t[]){2, 0});
    assert_int_equal(esp_shape_elements(&shape), 0);
    shape = esp_shape_make(0, NULL);
    assert_int_equal(esp_shape_elements(&shape), 1);
}

static void shapes_broadcast_from_the_right(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_shape a = esp_shape_make(4, (const int64_t[]){2, 3, 1, 5}),
              b = esp_shape_make(2, (const int64_t[]){4, 1});
    esp_shape out, expected = esp_shape_make(4, (const int64_t[]){2, 3, 4, 5});
    assert_int_equal(esp_shape_broadcast(&a, &b, &out, &err), ESP_OK);
    assert_true(esp_shape_equal(&out, &expected));
    assert_int_equal(esp_shape_broadcast(&b, &a, &out, &err), ESP_OK);
    assert_true(esp_shape_equal(&out, &expected));
    b = esp_shape_make(1, (const int64_t[]){3});
    assert_int_equal(esp_shape_broadcast(&a, &b, &out, &err), ESP_SHAPE);
    assert_non_null(strstr(err.message, "2x3x1x5 and 3 do not broadcast"));
}

static void strides_are_row_major(void **state)
{
    (void)state;
    esp_shape shape = esp_shape_make(3, (const int64_t[]){2, 3, 4});
    int64_t strides[ESP_MAX_RANK];
    esp_shape_strides(&shape, strides);
    assert_int_equal(strides[0], 12);
    assert_int_equal(strides[1], 4);
    assert_int_equal(strides[2], 1);
}

static void a_new_tensor_is_zero_and_an_impossible_one_is_refused(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_tensor *tensor = NULL;
    esp_shape shape = esp_shape_make(2, (const int64_t[]){3, 5});
    assert_int_equal(esp_tensor_new(ESP_I64, &shape, &tensor, &err), ESP_OK);
    for (int64_t i = 0; i < 15; i++)
        assert_int_equal(esp_tensor_get_i64(tensor, i), 0);
    esp_tensor_unref(tensor);
    shape = esp_shape_make(2, (const int64_t[]){3, -5});
    assert_int_equal(esp_tensor_new(ESP_I64, &shape, &tensor, &err), ESP_SHAPE);
    assert_null(tensor);
    shape = esp_shape_make(1, (const int64_t[]){INT64_MAX / 2});
    assert_int_equal(esp_tensor_new(ESP_F64, &shape, &tensor, &err), ESP_SHAPE);
    assert_null(tensor);
    shape = esp_shape_make(1, (const int64_t[]){0});
    assert_int_equal(esp_tensor_new(ESP_F32, &shape, &tensor, &err), ESP_OK);
    assert_int_equal(esp_tensor_elements(tensor), 0);
    esp_tensor_unref(tensor);
}

static void a_reshape_shares_storage_and_a_clone_does_not(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_shape shape = esp_shape_make(2, (const int64_t[]){2, 6}),
              other = esp_shape_make(3, (const int64_t[]){3, 2, 2});
    esp_tensor *tensor = counting(ESP_F32, &shape), *view = NULL, *copy = NULL;
    assert_int_equal(esp_tensor_clone(tensor, &copy, &err), ESP_OK);
    assert_int_equal(esp_tensor_reshape(tensor, &other, &view, &err), ESP_OK);
    assert_ptr_equal(esp_tensor_data(view), esp_tensor_data(tensor));
    assert_ptr_not_equal(esp_tensor_data(copy), esp_tensor_data(tensor));
    assert_true(esp_tensor_equal(copy, tensor));
    assert_false(esp_tensor_equal(view, tensor));
    esp_tensor_unref(tensor);
    assert_true(esp_tensor_f32(view)[11] == 11.0f); /* the storage outlives the tensor it was made for */
    other = esp_shape_make(1, (const int64_t[]){11});
    esp_tensor *bad = NULL;
    assert_int_equal(esp_tensor_reshape(view, &other, &bad, &err), ESP_SHAPE);
    assert_null(bad);
    esp_tensor_f32_mut(copy)[0] = -1.0f;
    assert_true(esp_tensor_f32(view)[0] == 0.0f);
    esp_tensor_unref(view);
    esp_tensor_unref(copy);
    esp_tensor_unref(NULL);
    assert_null(esp_tensor_ref(NULL));
}

static void references_keep_a_tensor_alive_and_the_last_frees_it(void **state)
{
    (void)state;
    size_t before = esp_memory_live();
    esp_shape shape = esp_shape_make(1, (const int64_t[]){100});
    esp_tensor *tensor = counting(ESP_F32, &shape), *second = esp_tensor_ref(tensor);
    esp_tensor_unref(tensor);
    assert_true(esp_memory_live() > before);
    assert_true(esp_tensor_f32(second)[99] == 99.0f);
    esp_tensor_unref(second);
    assert_int_equal(esp_memory_live(), before);
}

static void elements_of_any_type_read_as_numbers(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_shape shape = esp_shape_make(1, (const int64_t[]){2});
    const double f64[] = {-2.0, 3.0};
    const float f32[] = {-2.0f, 3.0f};
    const int64_t i64[] = {-2, 3};
    const int32_t i32[] = {-2, 3};
    const uint8_t u8[] = {2, 3};
    const struct {
        esp_dtype dtype;
        const void *data;
        int64_t first;
    } cases[] = {
        {ESP_F64, f64, -2}, {ESP_F32, f32, -2}, {ESP_I64, i64, -2}, {ESP_I32, i32, -2}, {ESP_U8, u8, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        esp_tensor *tensor = NULL;
        assert_int_equal(esp_tensor_from(cases[i].dtype, &shape, cases[i].data, &tensor, &err), ESP_OK);
        assert_int_equal(esp_tensor_get_i64(tensor, 0), cases[i].first);
        assert_true(esp_tensor_get_f64(tensor, 1) == 3.0);
        esp_tensor_unref(tensor);
    }
    assert_string_equal(esp_dtype_name(ESP_F32), "float32");
    assert_int_equal(esp_dtype_size(ESP_F64), 8);
}

static void select_takes_slices_of_any_axis(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_shape shape = esp_shape_make(3, (const int64_t[]){2, 3, 4});
    esp_tensor *tensor = counting(ESP_F32, &shape);
    const int64_t indices[] = {2, 0, 2};
    for (int axis = 1; axis < 3; axis++) {
        esp_tensor *out = NULL;
        assert_int_equal(esp_tensor_select(tensor, axis, indices, 3, &out, &err), ESP_OK);
        const esp_shape *got = esp_tensor_shape(out);
        int64_t rows = axis == 1 ? 3 : 3, columns = axis == 1 ? 4 : 3;
        assert_int_equal(got->dims[1], rows);
        assert_int_equal(got->dims[2], columns);
        for (int64_t o = 0; o < 2; o++)
            for (int64_t y = 0; y < rows; y++)
                for (int64_t x = 0; x < columns; x++) {
                    int64_t from_y = axis == 1 ? indices[y] : y, from_x = axis == 2 ? indices[x] : x;
                    assert_true(esp_tensor_f32(out)[(o * rows + y) * columns + x] ==
                                (float)((o * 3 + from_y) * 4 + from_x));
                }
        esp_tensor_unref(out);
    }
    esp_tensor *bad = NULL;
    assert_int_equal(esp_tensor_select(tensor, 3, indices, 3, &bad, &err), ESP_SHAPE);
    assert_int_equal(esp_tensor_select(tensor, 0, indices, 3, &bad, &err), ESP_SHAPE);
    assert_non_null(strstr(err.message, "index 2 is outside axis 0"));
    assert_null(bad);
    esp_tensor_unref(tensor);
}

static void running_out_of_memory_leaks_nothing(void **state)
{
    (void)state;
    esp_shape shape = esp_shape_make(2, (const int64_t[]){4, 4}),
              flat = esp_shape_make(1, (const int64_t[]){16});
    size_t before = esp_memory_live();
    for (int64_t k = 1; k <= 6; k++) {
        esp_error err = {0};
        esp_tensor *tensor = NULL, *view = NULL;
        esp_memory_fuse(k);
        esp_status status = esp_tensor_new(ESP_F32, &shape, &tensor, &err);
        if (status == ESP_OK)
            status = esp_tensor_reshape(tensor, &flat, &view, &err);
        assert_int_equal(status, k <= 4 ? ESP_NO_MEMORY : ESP_OK);
        esp_memory_fuse(0);
        esp_tensor_unref(view);
        esp_tensor_unref(tensor);
        assert_int_equal(esp_memory_live(), before);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shape_prints_as_people_write_it),
        cmocka_unit_test(elements_of_a_shape_notice_overflow_and_negative_dims),
        cmocka_unit_test(shapes_broadcast_from_the_right),
        cmocka_unit_test(strides_are_row_major),
        cmocka_unit_test(a_new_tensor_is_zero_and_an_impossible_one_is_refused),
        cmocka_unit_test(a_reshape_shares_storage_and_a_clone_does_not),
        cmocka_unit_test(references_keep_a_tensor_alive_and_the_last_frees_it),
        cmocka_unit_test(elements_of_any_type_read_as_numbers),
        cmocka_unit_test(select_takes_slices_of_any_axis),
        cmocka_unit_test(running_out_of_memory_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
