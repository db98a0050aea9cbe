/* The container, subsets, and whether data and model fit. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "unit/train/train_fixtures.h"

static void dataset_gives_back_what_the_reader_put_in(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_dataset *dataset = NULL;
    expect_ok(esp_dataset_new("folder:x", "3 images", 3, 2, 4, 5, 7, &dataset, &err), &err);
    memset(esp_dataset_pixels_mut(dataset, 1), 9, 40);
    esp_dataset_set_label(dataset, 2, 6);
    expect_ok(esp_dataset_set_class_name(dataset, 6, "cat", &err), &err);
    expect_failure(esp_dataset_set_class_name(dataset, 7, "dog", &err), ESP_INVALID, &err,
                   "class 7, expected 0 to 6");
    esp_dataset *other = esp_dataset_ref(dataset);
    esp_dataset_unref(dataset);
    assert_string_equal(esp_dataset_name(other), "folder:x");
    assert_string_equal(esp_dataset_note(other), "3 images");
    assert_int_equal(esp_dataset_count(other), 3);
    assert_int_equal(esp_dataset_channels(other), 2);
    assert_int_equal(esp_dataset_height(other), 4);
    assert_int_equal(esp_dataset_width(other), 5);
    assert_int_equal(esp_dataset_class_count(other), 7);
    assert_int_equal(esp_dataset_pixels(other, 0)[39], 0);
    assert_int_equal(esp_dataset_pixels(other, 1)[0], 9);
    assert_int_equal(esp_dataset_pixels(other, 1)[39], 9);
    assert_int_equal(esp_dataset_pixels(other, 2)[0], 0);
    assert_int_equal(esp_dataset_label(other, 2), 6);
    assert_string_equal(esp_dataset_class_name(other, 6), "cat");
    assert_string_equal(esp_dataset_class_name(other, 3), "class 3");
    esp_dataset_unref(other);
    esp_dataset_unref(NULL);
}

static void impossible_sizes_are_refused(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_dataset *dataset = NULL;
    expect_failure(esp_dataset_new("d", "", 0, 1, 1, 1, 1, &dataset, &err), ESP_INVALID, &err, "0 images");
    expect_failure(esp_dataset_new("d", "", INT64_C(1) << 33, 1, 1, 1, 1, &dataset, &err), ESP_INVALID, &err,
                   "images");
    expect_failure(esp_dataset_new("d", "", 1, 5, 1, 1, 1, &dataset, &err), ESP_INVALID, &err, "5 channels");
    expect_failure(esp_dataset_new("d", "", 1, 1, 0, 4, 1, &dataset, &err), ESP_INVALID, &err, "0x4");
    expect_failure(esp_dataset_new("d", "", 1, 1, 1, 1, 0, &dataset, &err), ESP_INVALID, &err, "0 classes");
    expect_failure(esp_dataset_new("d", "", UINT32_MAX, 4, INT32_MAX, INT32_MAX, 1, &dataset, &err),
                   ESP_NO_MEMORY, &err, NULL);
    assert_null(dataset);
}

static void running_out_of_memory_is_a_status(void **state)
{
    (void)state;
    size_t before = esp_memory_live();
    bool is_done = false;
    for (int64_t k = 1; !is_done; k++) {
        esp_error err = {0};
        esp_dataset *dataset = NULL;
        esp_memory_fuse(k);
        esp_status status = esp_dataset_new("d", "note", 2, 1, 2, 2, 3, &dataset, &err);
        is_done = !esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        assert_int_equal(status, is_done ? ESP_OK : ESP_NO_MEMORY);
        assert_true(is_done == (dataset != NULL));
        esp_dataset_unref(dataset);
        assert_int_equal(esp_memory_live(), before);
    }
}

/* 1x1 images whose pixel is their index; labels as given. */
static esp_dataset *labelled(const int *labels, int count, int classes)
{
    esp_error err = {0};
    esp_dataset *dataset = NULL;
    expect_ok(esp_dataset_new("labelled", "", count, 1, 1, 1, classes, &dataset, &err), &err);
    for (int i = 0; i < count; i++) {
        *esp_dataset_pixels_mut(dataset, i) = (uint8_t)i;
        esp_dataset_set_label(dataset, i, labels[i]);
    }
    expect_ok(esp_dataset_set_class_name(dataset, 0, "zero", &err), &err);
    return dataset;
}

static void subset_is_balanced_without_repeats_and_follows_the_seed(void **state)
{
    (void)state;
    /* 2 of class 0, 20 of class 1, 18 of class 2 */
    int labels[40];
    for (int i = 0; i < 40; i++) {
        labels[i] = i < 2 ? 0 : i < 22 ? 1 : 2;
    }
    esp_error err = {0};
    esp_dataset *dataset = labelled(labels, 40, 3), *subset = NULL, *again = NULL, *other = NULL;
    expect_ok(esp_dataset_subset(dataset, 12, 4, &subset, &err), &err);
    expect_ok(esp_dataset_subset(dataset, 12, 4, &again, &err), &err);
    expect_ok(esp_dataset_subset(dataset, 12, 5, &other, &err), &err);
    int counts[3] = {0}, differing = 0;
    bool seen[40] = {false};
    for (int i = 0; i < 12; i++) {
        uint8_t from = *esp_dataset_pixels(subset, i);
        assert_false(seen[from]);
        seen[from] = true;
        assert_int_equal(esp_dataset_label(subset, i), labels[from]);
        counts[labels[from]]++;
        assert_int_equal(*esp_dataset_pixels(again, i), from);
        differing += *esp_dataset_pixels(other, i) != from;
    }
    assert_int_equal(counts[0], 2);
    assert_int_equal(counts[1], 5);
    assert_int_equal(counts[2], 5);
    assert_true(differing > 0);
    assert_string_equal(esp_dataset_class_name(subset, 0), "zero");
    esp_dataset_unref(subset);
    expect_ok(esp_dataset_subset(dataset, 1000, 4, &subset, &err), &err);
    assert_int_equal(esp_dataset_count(subset), 40);
    esp_dataset *none = NULL;
    expect_failure(esp_dataset_subset(dataset, 0, 4, &none, &err), ESP_INVALID, &err, "at least 1");
    esp_dataset_unref(subset);
    esp_dataset_unref(again);
    esp_dataset_unref(other);
    esp_dataset_unref(dataset);
}

static void head_is_the_first_images_in_order(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_dataset *dataset = labelled((const int[]){0, 1, 2, 1}, 4, 3), *head = NULL;
    expect_ok(esp_dataset_head(dataset, 3, &head, &err), &err);
    assert_int_equal(esp_dataset_count(head), 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(*esp_dataset_pixels(head, i), i);
        assert_int_equal(esp_dataset_label(head, i), i);
    }
    esp_dataset_unref(head);
    esp_dataset_unref(dataset);
}

static void check(int channels, int height, int width, int classes, const esp_graph *graph, const char *part)
{
    esp_error err = {0};
    esp_dataset *dataset = noise_dataset(20, channels, height, width, classes, 1);
    esp_status status = esp_dataset_check_model(dataset, graph, &err);
    if (part == NULL) {
        expect_ok(status, &err);
    } else {
        expect_failure(status, ESP_SHAPE, &err, part);
    }
    esp_dataset_unref(dataset);
}

static void model_and_data_must_agree(void **state)
{
    (void)state;
    esp_graph *graph = random_linear_model(3, 4, 5, 10, 1);
    check(3, 4, 5, 10, graph, NULL);
    check(3, 4, 5, 8, graph, NULL); /* fewer classes than the model: a part of what it was trained on */
    check(1, 4, 5, 10, graph, "model input 'x' takes 3x4x5, but the images of 'noise' are 1x4x5");
    check(3, 5, 4, 10, graph, "3x5x4");
    check(3, 4, 5, 11, graph, "model output 'logits' has 10 classes, but 'noise' has 11");
    check(3, 4, 5, 9, graph, "has 10 classes, but 'noise' has 9");
    esp_graph_unref(graph);
}

static void one_class_more_is_refused_with_a_hint(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_graph *graph = random_linear_model(1, 2, 2, 5, 1);
    esp_dataset *dataset = noise_dataset(4, 1, 2, 2, 4, 1);
    assert_int_equal(esp_dataset_check_model(dataset, graph, &err), ESP_SHAPE);
    assert_non_null(strstr(err.hint, "background"));
    esp_dataset_unref(dataset);
    esp_graph_unref(graph);
}

static void open_sizes_take_the_datas(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_builder *builder = NULL;
    const int64_t dims[4] = {ESP_DIM_BATCH, 3, ESP_DIM_UNKNOWN, ESP_DIM_UNKNOWN};
    esp_shape shape = esp_shape_make(4, dims);
    int value = -1, pooled = -1;
    expect_ok(esp_builder_new("open", 13, 7, &builder, &err), &err);
    expect_ok(esp_builder_input(builder, "x", ESP_F32, &shape, "N", &value, &err), &err);
    expect_ok(esp_builder_add(builder, "GlobalAveragePool", "pool", &value, 1, NULL, 0, "y", &pooled, &err),
              &err);
    expect_ok(esp_builder_output(builder, pooled, ESP_F32, NULL, &err), &err);
    esp_graph *graph = NULL;
    expect_ok(esp_builder_finish(builder, &graph, &err), &err);
    esp_dataset *dataset = noise_dataset(4, 3, 6, 9, 3, 1);
    expect_ok(esp_dataset_check_model(dataset, graph, &err), &err);
    esp_input_shape input;
    assert_true(esp_dataset_input_shape(dataset, graph, 8, &input));
    const int64_t expected[4] = {8, 3, 6, 9};
    assert_memory_equal(input.shape.dims, expected, sizeof(expected));
    esp_dataset_unref(dataset);
    esp_graph_unref(graph);

    graph = random_linear_model(3, 6, 9, 3, 1);
    dataset = noise_dataset(4, 3, 6, 9, 3, 1);
    assert_false(esp_dataset_input_shape(dataset, graph, 8, &input));
    esp_dataset_unref(dataset);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dataset_gives_back_what_the_reader_put_in),
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(running_out_of_memory_is_a_status),
        cmocka_unit_test(subset_is_balanced_without_repeats_and_follows_the_seed),
        cmocka_unit_test(head_is_the_first_images_in_order),
        cmocka_unit_test(model_and_data_must_agree),
        cmocka_unit_test(one_class_more_is_refused_with_a_hint),
        cmocka_unit_test(open_sizes_take_the_datas),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
