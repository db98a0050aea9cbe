/* Saving: models past what one file holds as a pair of files that is never torn, and models of older opsets
 * in the forms of opset 13, which compute the same. */
#include "unit/base/scratch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/rng.h"
#include "graph/exec.h"
#include "graph/op.h"
#include "io/onnx_internal.h"
#include "unit/io/graph_check.h"
#include "unit/io/sample.h"

enum { SMALL_LIMIT = 4000, PIXELS = 6 * 6, BIG = 700 };

/* ---- pairs ---- */

/* x + w, w of 2800 bytes all `fill`: twice that does not fit SMALL_LIMIT. */
static esp_graph *heavy_network(float fill)
{
    esp_shape shape = {.rank = 1, .dims = {BIG}};
    esp_builder *builder;
    esp_graph *graph = NULL;
    int values[2], out = -1;

    REQUIRE(esp_builder_new("heavy", 13, 8, &builder, err));
    REQUIRE(esp_builder_input(builder, "x", ESP_F32, &shape, NULL, &values[0], err));
    for (int i = 0; i < 2; i++) {
        esp_tensor *tensor = NULL;

        REQUIRE(esp_tensor_new(ESP_F32, &shape, &tensor, err));
        for (int k = 0; k < BIG; k++)
            esp_tensor_f32_mut(tensor)[k] = fill + (float)i;
        REQUIRE(esp_builder_constant(builder, i ? "w1" : "w0", tensor, &values[1], err));
        esp_tensor_unref(tensor);
        REQUIRE(esp_builder_add(builder, "Add", NULL, values, 2, NULL, 0, i ? "y" : NULL, &out, err));
        values[0] = out;
    }
    REQUIRE(esp_builder_output(builder, out, ESP_F32, &shape, err));
    REQUIRE(esp_builder_finish(builder, &graph, err));
    return graph;
}

static void assert_holds(const char *path, const esp_graph *graph)
{
    esp_graph *loaded = NULL;

    REQUIRE(esp_onnx_load(path, &loaded, err));
    assert_graphs_equal(graph, loaded);
    esp_graph_unref(loaded);
}

static char *path_in(const char *directory, const char *name)
{
    char *path = esp_path_join(directory, name);

    assert_non_null(path);
    return path;
}

static void weights_past_the_limit_go_beside_the_model(void **state)
{
    char *directory = scratch_make(), *path = path_in(directory, "m.onnx");
    char *data = path_in(directory, "m.onnx.data");
    esp_graph *graph = heavy_network(1);
    size_t size;

    (void)state;
    REQUIRE(esp_onnx_save_limited(graph, path, SMALL_LIMIT, err));
    assert_int_equal(scratch_count(directory), 2);
    free(scratch_read(path, &size));
    assert_true(size < 1000);
    free(scratch_read(data, &size));
    assert_int_equal(size, 4096 + BIG * sizeof(float)); /* each tensor begins on a page */
    assert_holds(path, graph);
    esp_graph_unref(graph);
    esp_free(path);
    esp_free(data);
    scratch_remove(directory);
}

/* The new weights never go over those the model at the path uses; what it used goes when the new one is
 * there. */
static void pairs_are_replaced_by_other_pairs(void **state)
{
    char *directory = scratch_make(), *path = path_in(directory, "m.onnx");
    char *first = path_in(directory, "m.onnx.data"), *second = path_in(directory, "m.onnx.2.data");
    esp_graph *small = sample_network(13, 8);

    (void)state;
    for (int round = 0; round < 4; round++) {
        esp_graph *graph = heavy_network((float)round);

        REQUIRE(esp_onnx_save_limited(graph, path, SMALL_LIMIT, err));
        assert_holds(path, graph);
        assert_true(esp_file_exists(first) == (round % 2 == 0));
        assert_true(esp_file_exists(second) == (round % 2 == 1));
        assert_int_equal(scratch_count(directory), 2);
        esp_graph_unref(graph);
    }
    REQUIRE(esp_onnx_save(small, path, err)); /* one file again */
    assert_int_equal(scratch_count(directory), 1);
    esp_graph_unref(small);
    esp_free(path);
    esp_free(first);
    esp_free(second);
    scratch_remove(directory);
}

/* Whatever allocation fails, the pair at the path is the old one or the new one, whole. */
static void a_pair_survives_every_failed_allocation(void **state)
{
    char *directory = scratch_make(), *path = path_in(directory, "m.onnx");
    esp_graph *old = heavy_network(1), *new = heavy_network(5);
    bool is_done = false;

    (void)state;
    REQUIRE(esp_onnx_save_limited(old, path, SMALL_LIMIT, err));
    size_t live = esp_memory_live();
    for (int k = 1; !is_done; k++) {
        esp_error error = {0};

        esp_memory_fuse(k);
        esp_status status = esp_onnx_save_limited(new, path, SMALL_LIMIT, &error);
        is_done = !esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        assert_int_equal(esp_memory_live(), live);
        assert_holds(path, status == ESP_OK ? new : old);
        assert_int_equal(scratch_count(directory), 2);
        if (status == ESP_OK && !is_done) /* only the sync of the directory was left out */
            REQUIRE(esp_onnx_save_limited(old, path, SMALL_LIMIT, err));
    }
    esp_graph_unref(old);
    esp_graph_unref(new);
    esp_free(path);
    scratch_remove(directory);
}

static void a_data_file_of_somebody_else_is_left_alone(void **state)
{
    char *directory = scratch_make(), *path = path_in(directory, "m.onnx");
    char *other = path_in(directory, "m.onnx.2.data");
    esp_graph *graph = heavy_network(1);
    size_t size;

    (void)state;
    scratch_write(other, "mine", 4);
    REQUIRE(esp_onnx_save_limited(graph, path, SMALL_LIMIT, err));
    char *kept = scratch_read(other, &size);
    assert_int_equal(size, 4);
    free(kept);
    assert_holds(path, graph);
    esp_graph_unref(graph);
    esp_free(path);
    esp_free(other);
    scratch_remove(directory);
}

static void spent_weights_are_not_saved(void **state)
{
    esp_graph *graph = heavy_network(1);
    const esp_tensor *weight = esp_graph_value(graph, esp_graph_find_value(graph, "w0"))->constant;
    esp_error error = {0};
    void *bytes;
    size_t size;

    (void)state;
    assert_true(esp_tensor_spend(weight));
    assert_int_equal(esp_onnx_serialize(graph, &bytes, &size, &error), ESP_STATE);
    assert_non_null(strstr(error.message, "'w0'"));
    esp_graph_unref(graph);
}

/* ---- opset 13 ---- */

typedef struct old_form {
    const char *op;
    int64_t opset;
    esp_attr attrs[3];
    int attr_count;
    const float *second; /* contents of a constant second input, or NULL */
    int second_count;
} old_form;

static const int64_t two[] = {2}, starts[] = {1, 2}, ends[] = {2, 6}, axes[] = {1, 3}, halves[] = {1, 1},
                     pads[] = {0, 0, 1, 0, 0, 1, 0, 2};
static const float scales[] = {1, 1, 2, 3};

static const old_form forms[] = {
    {"Softmax", 7, {{.name = "axis", .type = ESP_ATTR_INT, .i = 1}}, 1, NULL, 0},
    {"Softmax", 11, {{.name = "axis", .type = ESP_ATTR_INT, .i = 3}}, 1, NULL, 0},
    {"LogSoftmax", 9, {{.name = "axis", .type = ESP_ATTR_INT, .i = 2}}, 1, NULL, 0},
    {"Softmax", 12, {{0}}, 0, NULL, 0},
    {"ReduceSum", 11, {{.name = "axes", .type = ESP_ATTR_INTS, .count = 2, .ints = axes}}, 1, NULL, 0},
    {"ReduceSum", 8, {{0}}, 0, NULL, 0},
    {"Unsqueeze", 9, {{.name = "axes", .type = ESP_ATTR_INTS, .count = 1, .ints = two}}, 1, NULL, 0},
    {"Slice",
     9,
     {{.name = "starts", .type = ESP_ATTR_INTS, .count = 2, .ints = starts},
      {.name = "ends", .type = ESP_ATTR_INTS, .count = 2, .ints = ends},
      {.name = "axes", .type = ESP_ATTR_INTS, .count = 2, .ints = axes}},
     3,
     NULL,
     0},
    {"Pad",
     8,
     {{.name = "pads", .type = ESP_ATTR_INTS, .count = 8, .ints = pads},
      {.name = "value", .type = ESP_ATTR_FLOAT, .f = 0.5f}},
     2,
     NULL,
     0},
    {"Pad",
     10,
     {{.name = "mode", .type = ESP_ATTR_STRING, .s = "reflect"},
      {.name = "pads", .type = ESP_ATTR_INTS, .count = 8, .ints = pads}},
     2,
     NULL,
     0},
    {"Clip",
     10,
     {{.name = "max", .type = ESP_ATTR_FLOAT, .f = 0.25f},
      {.name = "min", .type = ESP_ATTR_FLOAT, .f = -0.5f}},
     2,
     NULL,
     0},
    {"Clip", 7, {{.name = "max", .type = ESP_ATTR_FLOAT, .f = 0.25f}}, 1, NULL, 0},
    {"Dropout", 10, {{.name = "ratio", .type = ESP_ATTR_FLOAT, .f = 0.3f}}, 1, NULL, 0},
    {"Split",
     11,
     {{.name = "axis", .type = ESP_ATTR_INT, .i = 1},
      {.name = "split", .type = ESP_ATTR_INTS, .count = 2, .ints = halves}},
     2,
     NULL,
     0},
    {"TopK", 9, {{.name = "k", .type = ESP_ATTR_INT, .i = 2}}, 1, NULL, 0},
    {"Upsample", 8, {{.name = "scales", .type = ESP_ATTR_FLOATS, .count = 4, .floats = scales}}, 1, NULL, 0},
    {"Upsample", 9, {{.name = "mode", .type = ESP_ATTR_STRING, .s = "linear"}}, 1, scales, 4},
    {"Resize", 10, {{.name = "mode", .type = ESP_ATTR_STRING, .s = "nearest"}}, 1, scales, 4},
};

/* x [2,2,6,6] -> the node -> y, with every output the operator has by then. */
static esp_graph *old_network(const old_form *form)
{
    esp_shape input = {.rank = 4, .dims = {ESP_DIM_BATCH, 2, 6, 6}},
              list = {.rank = 1, .dims = {form->second_count}};
    bool has_two = strcmp(form->op, "Split") == 0 || strcmp(form->op, "TopK") == 0;
    esp_builder *builder;
    esp_graph *graph = NULL;
    int values[2], outputs[2];

    REQUIRE(esp_builder_new("old", form->opset, 4, &builder, err));
    REQUIRE(esp_builder_input(builder, "x", ESP_F32, &input, "N", &values[0], err));
    if (form->second) {
        esp_tensor *tensor = NULL;

        REQUIRE(esp_tensor_from(ESP_F32, &list, form->second, &tensor, err));
        REQUIRE(esp_builder_constant(builder, "second", tensor, &values[1], err));
        esp_tensor_unref(tensor);
    }
    REQUIRE(esp_builder_value(builder, "y", &outputs[0], err));
    REQUIRE(esp_builder_value(builder, "z", &outputs[1], err));
    REQUIRE(esp_builder_node(builder, form->op, "node", values, form->second ? 2 : 1, outputs,
                             has_two ? 2 : 1, form->attrs, form->attr_count, err));
    if (!has_two)
        REQUIRE(esp_builder_node(builder, "Relu", "rest", outputs, 1, outputs + 1, 1, NULL, 0, err));
    REQUIRE(esp_builder_output(builder, outputs[0], ESP_F32, NULL, err));
    REQUIRE(esp_builder_output(builder, outputs[1], strcmp(form->op, "TopK") == 0 ? ESP_I64 : ESP_F32, NULL,
                               err));
    REQUIRE(esp_builder_finish(builder, &graph, err));
    return graph;
}

static esp_exec *run_network(const esp_graph *graph)
{
    esp_exec_options options = {.batch = 2};
    esp_exec *exec = NULL;
    esp_rng rng;

    REQUIRE(esp_exec_new(graph, &options, &exec, err));
    esp_rng_seed(&rng, 3);
    for (int i = 0; i < 2 * 2 * PIXELS; i++)
        esp_view_f32(esp_exec_input(exec, 0))[i] = (float)esp_rng_normal(&rng);
    REQUIRE(esp_exec_forward(exec, NULL, err));
    return exec;
}

static void older_models_are_saved_in_opset_13_and_compute_the_same(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        esp_graph *old = old_network(&forms[i]), *raised = NULL;
        void *bytes = NULL;
        size_t size;

        REQUIRE(esp_onnx_serialize(old, &bytes, &size, err));
        REQUIRE(esp_onnx_parse(bytes, size, "raised", &raised, err));
        assert_int_equal(esp_graph_opset(raised), 13);
        assert_true(esp_graph_find_node(raised, "node") >= 0);
        esp_exec *a = run_network(old), *b = run_network(raised);
        for (int k = 0; k < 2; k++) {
            const esp_view *left = esp_exec_output(a, k), *right = esp_exec_output(b, k);

            if (!esp_shape_equal(&left->shape, &right->shape))
                fail_msg("%s of opset %d: output %d has another shape", forms[i].op, (int)forms[i].opset, k);
            for (int64_t e = 0; e < esp_shape_elements(&left->shape); e++)
                if (fabs(esp_view_get_f64(left, e) - esp_view_get_f64(right, e)) > 1e-6)
                    fail_msg("%s of opset %d: output %d differs", forms[i].op, (int)forms[i].opset, k);
        }
        esp_exec_free(a);
        esp_exec_free(b);
        esp_free(bytes);
        esp_graph_unref(old);
        esp_graph_unref(raised);
    }
}

/* Newer ones stay what they are, and so do models with nodes nobody can translate. */
static void other_models_keep_their_opset(void **state)
{
    for (int64_t opset = 13; opset <= 21; opset += 4) {
        esp_graph *graph = sample_network(opset, 8), *same = NULL;

        (void)state;
        REQUIRE(esp_onnx_upgrade(graph, &same, err));
        assert_ptr_equal(graph, same);
        esp_graph_unref(graph);
        esp_graph_unref(same);
    }
    old_form mask = {"Dropout", 9, {{0}}, 0, NULL, 0};
    esp_graph *graph = old_network(&mask), *raised = NULL;
    REQUIRE(esp_onnx_upgrade(graph, &raised, err));
    assert_int_equal(esp_graph_opset(raised), 13); /* nobody reads the mask */
    esp_graph_unref(graph);
    esp_graph_unref(raised);
}

/* The checker of ONNX wants a shape for every output, and builders of networks rarely say one. */
static void an_output_without_a_shape_gets_the_one_it_has(void **state)
{
    for (int is_open = 0; is_open < 2; is_open++) {
        const esp_shape input = {.rank = 4, .dims = {is_open ? ESP_DIM_BATCH : 3, 2, 5, 7}};
        esp_builder *builder = NULL;
        esp_graph *graph = NULL, *read = NULL;
        void *bytes = NULL;
        size_t size = 0;
        int x, y;

        (void)state;
        REQUIRE(esp_builder_new("shapeless", 13, 8, &builder, err));
        REQUIRE(esp_builder_input(builder, "x", ESP_F32, &input, "batch", &x, err));
        REQUIRE(esp_builder_add(builder, "Flatten", "f", &x, 1, NULL, 0, "y", &y, err));
        REQUIRE(esp_builder_output(builder, y, ESP_F32, NULL, err));
        REQUIRE(esp_builder_finish(builder, &graph, err));
        assert_int_equal(esp_graph_value(graph, esp_graph_output(graph, 0))->shape.rank, -1);
        REQUIRE(esp_onnx_serialize(graph, &bytes, &size, err));
        REQUIRE(esp_onnx_parse(bytes, size, "shapeless", &read, err));
        const esp_shape *shape = &esp_graph_value(read, esp_graph_output(read, 0))->shape;
        assert_int_equal(shape->rank, 2);
        assert_int_equal(shape->dims[0], is_open ? ESP_DIM_BATCH : 3);
        assert_int_equal(shape->dims[1], 70);
        esp_free(bytes);
        esp_graph_unref(graph);
        esp_graph_unref(read);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_output_without_a_shape_gets_the_one_it_has),
        cmocka_unit_test(weights_past_the_limit_go_beside_the_model),
        cmocka_unit_test(pairs_are_replaced_by_other_pairs),
        cmocka_unit_test(a_pair_survives_every_failed_allocation),
        cmocka_unit_test(a_data_file_of_somebody_else_is_left_alone),
        cmocka_unit_test(spent_weights_are_not_saved),
        cmocka_unit_test(older_models_are_saved_in_opset_13_and_compute_the_same),
        cmocka_unit_test(other_models_keep_their_opset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
