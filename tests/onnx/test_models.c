/* Real models: what we compute agrees with what other runtimes computed, and a model that went through a file
 * of ours is the same model, to us and to ONNX's own checker. */
#include "unit/base/scratch.h"

#include <glob.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "graph/exec.h"
#include "io/onnx.h"
#include "io/onnx_internal.h"
#include "onnx/checker.h"
#include "unit/io/graph_check.h"
#include "unit/io/sample.h"

enum { MAX_OUTPUTS = 4 };

/* Files above this are loaded and run, but not written again: more megabytes prove nothing more. */
#define SAVE_LIMIT (64 << 20)

typedef struct outputs {
    int count;
    size_t sizes[MAX_OUTPUTS]; /* in floats */
    float *data[MAX_OUTPUTS];
} outputs;

static void outputs_free(outputs *set)
{
    for (int i = 0; i < set->count; i++)
        free(set->data[i]);
    set->count = 0;
}

static void *copy_of(const void *data, size_t size)
{
    void *copy = malloc(size);

    assert_non_null(copy);
    return memcpy(copy, data, size);
}

/* Runs the only input of a graph at this shape. */
static outputs run(const esp_graph *graph, const esp_shape *shape, const float *x)
{
    outputs result = {.count = esp_graph_output_count(graph)};
    esp_input_shape input = {esp_graph_value(graph, esp_graph_input(graph, 0))->name, *shape};
    esp_exec_options options = {.batch = shape->dims[0], .input_shapes = &input, .input_shape_count = 1};
    esp_exec *exec = NULL;

    assert_int_equal(esp_graph_input_count(graph), 1);
    assert_true(result.count <= MAX_OUTPUTS);
    REQUIRE(esp_exec_new(graph, &options, &exec, err));
    const esp_view *view = esp_exec_input(exec, 0);
    assert_true(esp_shape_equal(&view->shape, shape));
    memcpy(view->data, x, (size_t)esp_shape_elements(shape) * sizeof *x);
    REQUIRE(esp_exec_forward(exec, NULL, err));
    for (int i = 0; i < result.count; i++) {
        view = esp_exec_output(exec, i);
        assert_int_equal(view->dtype, ESP_F32);
        result.sizes[i] = (size_t)esp_shape_elements(&view->shape);
        result.data[i] = copy_of(view->data, result.sizes[i] * sizeof(float));
    }
    esp_exec_free(exec);
    return result;
}

static void assert_same_bits(const outputs *left, const outputs *right)
{
    assert_int_equal(left->count, right->count);
    for (int i = 0; i < left->count; i++) {
        assert_int_equal(left->sizes[i], right->sizes[i]);
        assert_memory_equal(left->data[i], right->data[i], left->sizes[i] * sizeof(float));
    }
}

/* Summation orders differ between runtimes: errors are measured against the largest output. */
static void assert_near(const char *model, const float *found, const float *expected, size_t count)
{
    double largest = 0, worst = 0;

    for (size_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)expected[i]));
        worst = fmax(worst, fabs((double)found[i] - (double)expected[i]));
    }
    if (!(worst <= 1e-4 * largest))
        fail_msg("%s: outputs differ by %g, the largest is %g", model, worst, largest);
}

static esp_graph *load(const char *path)
{
    esp_graph *graph = NULL;

    REQUIRE(esp_onnx_load(path, &graph, err));
    return graph;
}

/* The graph after a trip through a file in `directory`. */
static esp_graph *through_a_file(const esp_graph *graph, const char *directory, const char *name)
{
    const char *path = scratch_path(directory, name);
    void *again = NULL;
    size_t size = 0, file_size;

    REQUIRE(esp_onnx_save(graph, path, err));
    esp_graph *loaded = load(path);
    if (esp_graph_opset(graph) >= 13) /* older models are raised when they are saved */
        assert_graphs_equal(graph, loaded);
    else
        assert_int_equal(esp_graph_opset(loaded), 13);
    REQUIRE(esp_onnx_serialize(loaded, &again, &size, err));
    char *file = scratch_read(path, &file_size);
    assert_int_equal(file_size, size);
    assert_memory_equal(file, again, size);
    free(file);
    esp_free(again);
    return loaded;
}

static size_t weight_bytes(const esp_graph *graph)
{
    size_t bytes = 0;

    for (int i = 0; i < esp_graph_value_count(graph); i++)
        if (esp_graph_value(graph, i)->constant)
            bytes += (size_t)esp_tensor_elements(esp_graph_value(graph, i)->constant) * sizeof(float);
    return bytes;
}

/* ---- stored inputs and outputs ---- */

static float *read_floats(const char *directory, const json_t *entry, esp_shape *shape)
{
    const json_t *dims = json_object_get(entry, "shape");
    size_t size;

    shape->rank = (int)json_array_size(dims);
    for (int i = 0; i < shape->rank; i++)
        shape->dims[i] = json_integer_value(json_array_get(dims, (size_t)i));
    char *data =
        scratch_read(scratch_path(directory, json_string_value(json_object_get(entry, "file"))), &size);
    assert_int_equal(size, (size_t)esp_shape_elements(shape) * sizeof(float));
    return (float *)(void *)data;
}

static void check_stored_model(const char *shared, const char *io_directory, const char *scratch)
{
    json_t *io = json_load_file(scratch_path(io_directory, "io.json"), 0, NULL);
    const char *model = json_string_value(json_object_get(io, "model"));
    const json_t *expected = json_object_get(io, "outputs");
    esp_shape shape;
    char path[512];

    assert_non_null(model);
    snprintf(path, sizeof path, "%s/models/%s", shared, model);
    esp_graph *graph = load(path), *again = through_a_file(graph, scratch, model);
    float *x = read_floats(io_directory, json_array_get(json_object_get(io, "inputs"), 0), &shape);
    outputs before = run(graph, &shape, x), after = run(again, &shape, x);
    assert_same_bits(&before, &after);
    assert_int_equal(before.count, json_array_size(expected));
    for (int i = 0; i < before.count; i++) {
        float *y = read_floats(io_directory, json_array_get(expected, (size_t)i), &shape);

        assert_int_equal(esp_shape_elements(&shape), before.sizes[i]);
        assert_near(model, before.data[i], y, before.sizes[i]);
        free(y);
    }
    outputs_free(&before);
    outputs_free(&after);
    free(x);
    esp_graph_unref(graph);
    esp_graph_unref(again);
    json_decref(io);
}

/* Expected output of a light model, a TensorProto, for the ramp x[i] = i / 150528. */
static void check_light_model(const char *path, const char *scratch)
{
    static const esp_shape shape = {.rank = 4, .dims = {1, 3, 224, 224}};
    enum { PIXELS = 150528 };
    char expected_path[512];
    size_t size;

    float *x = malloc(PIXELS * sizeof *x);
    assert_non_null(x);
    for (int i = 0; i < PIXELS; i++)
        x[i] = (float)i / PIXELS;
    snprintf(expected_path, sizeof expected_path, "%.*s_output_0.pb", (int)strlen(path) - 5, path);
    char *bytes = scratch_read(expected_path, &size);
    Onnx__TensorProto *proto = onnx__tensor_proto__unpack(NULL, size, (const uint8_t *)bytes);
    esp_tensor *expected = NULL;
    assert_non_null(proto);
    REQUIRE(esp_onnx_tensor_read(proto, NULL, &expected, err));

    esp_graph *graph = load(path);
    outputs before = run(graph, &shape, x);
    assert_int_equal(before.sizes[0], esp_tensor_elements(expected));
    assert_near(path, before.data[0], esp_tensor_f32(expected), before.sizes[0]);
    if (weight_bytes(graph) <= SAVE_LIMIT) {
        esp_graph *again = through_a_file(graph, scratch, esp_path_base(path));
        outputs after = run(again, &shape, x);

        assert_same_bits(&before, &after);
        outputs_free(&after);
        esp_graph_unref(again);
    }
    outputs_free(&before);
    esp_graph_unref(graph);
    esp_tensor_unref(expected);
    onnx__tensor_proto__free_unpacked(proto, NULL);
    free(bytes);
    free(x);
}

static void stored_models_compute_what_onnxruntime_did(void **state)
{
    const char *shared = shared_directory();
    char pattern[512];
    glob_t found;

    if (!shared)
        skip();
    snprintf(pattern, sizeof pattern, "%s/models/io/*", shared);
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++)
        check_stored_model(shared, found.gl_pathv[i], *state);
    globfree(&found);
}

static void light_models_compute_their_stored_outputs(void **state)
{
    const char *shared = shared_directory();
    char pattern[512];
    glob_t found;

    if (!shared)
        skip();
    snprintf(pattern, sizeof pattern, "%s/models/light/*.onnx", shared);
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++)
        check_light_model(found.gl_pathv[i], *state);
    globfree(&found);
}

static void save_for_checker(const char *pattern, const char *directory)
{
    glob_t found;

    if (glob(pattern, 0, NULL, &found) != 0)
        return;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        esp_graph *graph = load(found.gl_pathv[i]);

        REQUIRE(esp_onnx_save(graph, scratch_path(directory, esp_path_base(found.gl_pathv[i])), err));
        esp_graph_unref(graph);
    }
    globfree(&found);
}

/* Our own network at several versions (before IR 4 constants must be listed as inputs), and the real models.
 */
static void the_onnx_checker_accepts_what_we_save(void **state)
{
    const char *shared = shared_directory();
    const int64_t versions[][2] = {{9, 3}, {11, 6}, {13, 7}, {17, 8}};
    char *directory = scratch_make(), pattern[512];

    (void)state;
    for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++) {
        esp_graph *graph = sample_network(versions[i][0], versions[i][1]);
        char name[32];

        snprintf(name, sizeof name, "opset%d.onnx", (int)versions[i][0]);
        REQUIRE(esp_onnx_save(graph, scratch_path(directory, name), err));
        esp_graph_unref(graph);
    }
    if (shared) {
        snprintf(pattern, sizeof pattern, "%s/models/*.onnx", shared);
        save_for_checker(pattern, directory);
        snprintf(pattern, sizeof pattern, "%s/models/light/light_[ds]*.onnx", shared);
        save_for_checker(pattern, directory);
    }
    bool has_checker = onnx_checker_accepts(directory);
    scratch_remove(directory);
    if (!has_checker) {
        print_message("skipped: python3-onnx is not installed\n");
        skip();
    }
}

static int make_directory(void **state)
{
    *state = scratch_make();
    return *state == NULL;
}

static int remove_directory(void **state)
{
    scratch_remove(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(stored_models_compute_what_onnxruntime_did, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(light_models_compute_their_stored_outputs, make_directory,
                                        remove_directory),
        cmocka_unit_test(the_onnx_checker_accepts_what_we_save),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
