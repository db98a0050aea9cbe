/* What is saved loads again to the bit, and saving that gives the same bytes: random graphs over the whole
 * operator table with every attribute and element type. And nothing, neither damaged bytes nor missing
 * memory, does worse than an error. */
#include "unit/base/scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/rng.h"
#include "graph/op.h"
#include "io/onnx_internal.h"
#include "unit/io/graph_check.h"
#include "unit/io/sample.h"

enum { OPSET = 13, MAX_PICKS = 8 };

static int pick(esp_rng *rng, int bound)
{
    return (int)esp_rng_below(rng, (uint64_t)bound);
}

/* All but float64. */
static const esp_dtype kept_dtypes[] = {ESP_F32, ESP_I8,  ESP_I16, ESP_I32, ESP_I64,
                                        ESP_U8,  ESP_U16, ESP_U32, ESP_U64, ESP_BOOL};

static esp_tensor *random_tensor(esp_rng *rng)
{
    enum { KINDS = sizeof kept_dtypes / sizeof *kept_dtypes };
    esp_dtype dtype = kept_dtypes[pick(rng, KINDS)];
    esp_shape shape = {.rank = pick(rng, 5)};
    esp_tensor *tensor = NULL;

    for (int i = 0; i < shape.rank; i++)
        shape.dims[i] = pick(rng, 10) == 0 ? 0 : 1 + pick(rng, 3);
    REQUIRE(esp_tensor_new(dtype, &shape, &tensor, err));
    uint8_t *bytes = esp_tensor_data_mut(tensor);
    size_t size = (size_t)esp_tensor_elements(tensor) * esp_dtype_size(dtype);
    for (size_t i = 0; i < size; i++) /* all bit patterns, NaN included */
        bytes[i] = (uint8_t)(dtype == ESP_BOOL ? pick(rng, 2) : pick(rng, 256));
    return tensor;
}

static const int64_t some_ints[] = {0, -1, INT64_MAX, INT64_MIN, 7, 300};
static const float some_floats[] = {0, -0.f, 1e-42f, 3.4e38f, -1.5f, 7};
static const char *const some_strings[] = {"", "SAME_UPPER", "a b", "caf\xc3\xa9", "\xff\xfe", "x"};

/* A random value for an attribute of the table. A tensor in it is the caller's. */
static esp_attr random_attribute(esp_rng *rng, const esp_attr_spec *spec)
{
    esp_attr attr = {.name = spec->name, .type = spec->type};

    if (spec->type >= ESP_ATTR_INTS)
        attr.count = pick(rng, 6);
    attr.i = spec->type == ESP_ATTR_INT ? some_ints[pick(rng, 6)] : 0;
    attr.f = spec->type == ESP_ATTR_FLOAT ? some_floats[pick(rng, 6)] : 0;
    attr.s = spec->type == ESP_ATTR_STRING ? some_strings[pick(rng, 6)] : NULL;
    attr.tensor = spec->type == ESP_ATTR_TENSOR ? random_tensor(rng) : NULL;
    attr.ints = spec->type == ESP_ATTR_INTS ? some_ints : NULL;
    attr.floats = spec->type == ESP_ATTR_FLOATS ? some_floats : NULL;
    attr.strings = spec->type == ESP_ATTR_STRINGS ? some_strings : NULL;
    /* Attributes that name a type follow the floats to float32 on load, so only what stays may be stored
     * here. */
    if (spec->type == ESP_ATTR_INT && (strcmp(spec->name, "to") == 0 || strcmp(spec->name, "dtype") == 0))
        attr.i = ONNX__TENSOR_PROTO__DATA_TYPE__INT64;
    return attr;
}

/* Adds a node of this operator that reads any of the first `*value_count` values; its outputs join them. */
static void add_random_node(esp_rng *rng, esp_builder *builder, const esp_op *op, int index, int *value_count)
{
    int inputs[MAX_PICKS], outputs[MAX_PICKS], attr_count = 0;
    int most = op->input_max < 0 || op->input_max > MAX_PICKS ? MAX_PICKS : op->input_max;
    int input_count = op->input_min + pick(rng, most - op->input_min + 1);
    int most_outputs = op->output_max > MAX_PICKS ? MAX_PICKS : op->output_max;
    int output_count = op->output_min + pick(rng, most_outputs - op->output_min + 1);
    esp_attr attrs[32];
    char name[64];

    for (int i = 0; i < input_count; i++)
        inputs[i] =
            i >= op->input_min && op->input_max >= 0 && pick(rng, 3) == 0 ? -1 : pick(rng, *value_count);
    for (int i = 0; i < output_count; i++) {
        snprintf(name, sizeof name, "value/%d:%d", index, i);
        outputs[i] = -1;
        if (i == 0 || pick(rng, 3) > 0)
            REQUIRE(esp_builder_value(builder, name, &outputs[i], err));
    }
    for (const esp_attr_spec *spec = op->attrs; spec && spec->name && attr_count < 32; spec++)
        if (pick(rng, 3) > 0)
            attrs[attr_count++] = random_attribute(rng, spec);
    snprintf(name, sizeof name, "node %d", index);
    REQUIRE(esp_builder_node(builder, op->name, pick(rng, 4) ? name : "", inputs, input_count, outputs,
                             output_count, attrs, attr_count, err));
    for (int i = 0; i < attr_count; i++)
        esp_tensor_unref((esp_tensor *)attrs[i].tensor);
    for (int i = 0; i < output_count; i++)
        *value_count += outputs[i] >= 0;
}

static void add_random_leaves(esp_rng *rng, esp_builder *builder, int *value_count)
{
    char name[32];
    int value;

    for (int i = 0; i < 3; i++) {
        esp_shape shape = {.rank = i == 2 ? -1 : 4,
                           .dims = {ESP_DIM_BATCH, 1 + pick(rng, 9), ESP_DIM_UNKNOWN, 5}};

        snprintf(name, sizeof name, "input %d", i);
        REQUIRE(esp_builder_input(builder, name, i == 1 ? ESP_I64 : ESP_F32, &shape, i == 0 ? "images" : NULL,
                                  &value, err));
        (*value_count)++;
    }
    for (int i = 0; i < 6; i++) {
        esp_tensor *tensor = random_tensor(rng);

        snprintf(name, sizeof name, "constant.%d", i);
        REQUIRE(esp_builder_constant(builder, name, tensor, &value, err));
        esp_tensor_unref(tensor);
        (*value_count)++;
    }
}

/* One node of every operator in the table, in random order, over random leaves. */
static esp_graph *random_graph(uint64_t seed)
{
    esp_rng rng;
    esp_builder *builder;
    esp_graph *graph = NULL;
    int value_count = 0;

    esp_rng_seed(&rng, seed);
    REQUIRE(esp_builder_new("random", OPSET, seed % 2 ? 3 : 7, &builder, err));
    add_random_leaves(&rng, builder, &value_count);
    for (int i = 0; i < 2 * esp_op_count(); i++) {
        const esp_op *op = esp_op_at(pick(&rng, esp_op_count()));

        if (op->opset_since <= OPSET && op->opset_until >= OPSET)
            add_random_node(&rng, builder, op, i, &value_count);
    }
    for (int i = 0; i < 2; i++) {
        esp_shape shape = {.rank = 2, .dims = {ESP_DIM_BATCH, 10}};

        REQUIRE(
            esp_builder_output(builder, value_count - 1 - i, i ? ESP_I64 : ESP_F32, i ? NULL : &shape, err));
    }
    REQUIRE(esp_builder_metadata(builder, "espalier.normalization", "{\"mean\":[0.5]}", err));
    REQUIRE(esp_builder_metadata(builder, "onnx.producer_name", "a test", err));
    REQUIRE(esp_builder_metadata(builder, "onnx.model_version", "-3", err));
    REQUIRE(esp_builder_metadata(builder, "empty", "", err));
    REQUIRE(esp_builder_finish(builder, &graph, err));
    return graph;
}

static esp_graph *read_as_stored(const void *data, size_t size)
{
    Onnx__ModelProto *model = NULL;
    esp_onnx_source source;
    esp_graph *graph = NULL;

    esp_onnx_source_memory(data, size, &source);
    REQUIRE(esp_onnx_source_decode(&source, &model, err));
    REQUIRE(esp_onnx_graph_read(model, &source, &graph, err));
    esp_onnx_model_free(model);
    esp_onnx_source_close(&source);
    return graph;
}

static void random_graphs_come_back_to_the_bit(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        void *first = NULL, *second = NULL;
        size_t first_size = 0, second_size = 0;
        esp_graph *graph = random_graph(seed);

        REQUIRE(esp_onnx_serialize(graph, &first, &first_size, err));
        esp_graph *back = read_as_stored(first, first_size);
        assert_graphs_equal(graph, back);
        REQUIRE(esp_onnx_serialize(back, &second, &second_size, err));
        assert_int_equal(first_size, second_size);
        assert_memory_equal(first, second, first_size);
        esp_free(first);
        esp_free(second);
        esp_graph_unref(back);
        esp_graph_unref(graph);
    }
}

static void a_saved_file_is_what_was_serialized(void **state)
{
    char *directory = scratch_make();
    const char *path = scratch_path(directory, "network.onnx");
    esp_graph *graph = sample_network(OPSET, 7), *loaded = NULL;
    void *bytes = NULL;
    size_t size = 0, file_size;

    (void)state;
    REQUIRE(esp_onnx_save(graph, path, err));
    REQUIRE(esp_onnx_serialize(graph, &bytes, &size, err));
    char *file = scratch_read(path, &file_size);
    assert_int_equal(file_size, size);
    assert_memory_equal(file, bytes, size);
    assert_int_equal(scratch_count(directory), 1); /* no temporary file is left */
    REQUIRE(esp_onnx_load(path, &loaded, err));
    assert_int_equal(esp_graph_node_count(loaded), 3); /* Constant is folded */
    free(file);
    esp_free(bytes);
    esp_graph_unref(loaded);
    esp_graph_unref(graph);
    scratch_remove(directory);
}

static void saving_where_nothing_can_be_written_fails_cleanly(void **state)
{
    char *directory = scratch_make();
    esp_graph *graph = sample_network(OPSET, 7);
    esp_error err = {0};

    (void)state;
    assert_int_equal(esp_onnx_save(graph, scratch_path(directory, "no/such/file.onnx"), &err), ESP_IO);
    assert_non_null(strstr(err.message, "no/such/file.onnx"));
    assert_int_equal(scratch_count(directory), 0);
    esp_graph_unref(graph);
    scratch_remove(directory);
}

/* One input, one constant and one output of the type. */
static esp_graph *graph_of_dtype(esp_dtype dtype, const void *data, int64_t count)
{
    esp_shape shape = {.rank = 1, .dims = {count}};
    esp_builder *builder;
    esp_graph *graph = NULL;
    esp_tensor *tensor = NULL;
    int values[2], out;

    REQUIRE(esp_tensor_from(dtype, &shape, data, &tensor, err));
    REQUIRE(esp_builder_new("typed", OPSET, 7, &builder, err));
    REQUIRE(esp_builder_input(builder, "x", dtype, &shape, NULL, &values[0], err));
    REQUIRE(esp_builder_constant(builder, "c", tensor, &values[1], err));
    REQUIRE(esp_builder_add(builder, "Max", "max", values, 2, NULL, 0, "y", &out, err));
    REQUIRE(esp_builder_output(builder, out, dtype, &shape, err));
    REQUIRE(esp_builder_finish(builder, &graph, err));
    esp_tensor_unref(tensor);
    return graph;
}

static void every_type_is_saved_as_itself_byte_for_byte(void **state)
{
    uint8_t data[24];

    (void)state;
    for (size_t i = 0; i < sizeof kept_dtypes / sizeof *kept_dtypes; i++) {
        esp_dtype dtype = kept_dtypes[i];
        int64_t count = (int64_t)(sizeof data / esp_dtype_size(dtype));
        void *bytes = NULL, *again = NULL;
        size_t size = 0, size_again = 0;

        for (size_t b = 0; b < sizeof data; b++)
            data[b] = (uint8_t)(dtype == ESP_BOOL ? b % 2 : 0x61 + 17 * b);
        esp_graph *graph = graph_of_dtype(dtype, data, count);
        REQUIRE(esp_onnx_serialize(graph, &bytes, &size, err));
        esp_graph *back = read_as_stored(bytes, size);
        const esp_value *constant = esp_graph_value(back, esp_graph_find_value(back, "c"));
        assert_int_equal(constant->dtype, dtype);
        assert_memory_equal(esp_tensor_data(constant->constant), data, sizeof data);
        assert_graphs_equal(graph, back);
        REQUIRE(esp_onnx_serialize(back, &again, &size_again, err));
        assert_int_equal(size, size_again);
        assert_memory_equal(bytes, again, size);
        esp_free(bytes);
        esp_free(again);
        esp_graph_unref(graph);
        esp_graph_unref(back);
    }
}

/* Graphs may hold float64, which no other layer computes in: the file does too, and comes back as float32. */
static void float64_constants_are_saved_as_double(void **state)
{
    const double pi[] = {3.14159265358979};
    esp_shape shape = {.rank = 1, .dims = {1}};
    esp_builder *builder;
    esp_graph *graph = NULL;
    esp_tensor *tensor = NULL;
    void *bytes = NULL;
    size_t size = 0;
    int values[2], out;

    (void)state;
    REQUIRE(esp_tensor_from(ESP_F64, &shape, pi, &tensor, err));
    REQUIRE(esp_builder_new("double", OPSET, 7, &builder, err));
    REQUIRE(esp_builder_input(builder, "x", ESP_F64, &shape, NULL, &values[0], err));
    REQUIRE(esp_builder_constant(builder, "pi", tensor, &values[1], err));
    REQUIRE(esp_builder_add(builder, "Add", "add", values, 2, NULL, 0, "y", &out, err));
    REQUIRE(esp_builder_output(builder, out, ESP_F64, &shape, err));
    REQUIRE(esp_builder_finish(builder, &graph, err));
    REQUIRE(esp_onnx_serialize(graph, &bytes, &size, err));
    esp_graph *back = read_as_stored(bytes, size);
    const esp_value *constant = esp_graph_value(back, esp_graph_find_value(back, "pi"));
    assert_int_equal(constant->dtype, ESP_F32);
    assert_true(esp_tensor_f32(constant->constant)[0] == (float)pi[0]);
    assert_int_equal(esp_graph_value(back, esp_graph_input(back, 0))->dtype, ESP_F32);
    esp_free(bytes);
    esp_tensor_unref(tensor);
    esp_graph_unref(back);
    esp_graph_unref(graph);
}

/* Flips, cuts, swaps or repeats some bytes. */
static size_t damage(esp_rng *rng, uint8_t *bytes, size_t size)
{
    int kind = pick(rng, 4);
    size_t at = (size_t)esp_rng_below(rng, size), length = 1 + (size_t)pick(rng, 8);

    if (kind == 0)
        return at;
    if (at + length > size)
        length = size - at;
    for (size_t i = 0; i < length && kind == 1; i++)
        bytes[at + i] = (uint8_t)pick(rng, 256);
    if (kind == 2)
        bytes[at] ^= (uint8_t)(1 << pick(rng, 8));
    if (kind == 3)
        memmove(bytes + at, bytes + (size_t)pick(rng, (int)(size - length)), length);
    return size;
}

/* Under the sanitizers this is the test that no byte of a file is trusted. */
static void damaged_bytes_give_an_error_or_a_graph(void **state)
{
    esp_rng rng;
    int refused = 0;

    (void)state;
    esp_rng_seed(&rng, 20);
    for (int source = 0; source < 2; source++) {
        esp_graph *graph = source ? random_graph(5) : sample_network(OPSET, 7);
        void *bytes = NULL;
        size_t size = 0, live = 0;

        REQUIRE(esp_onnx_serialize(graph, &bytes, &size, err));
        uint8_t *copy = malloc(size);
        assert_non_null(copy);
        live = esp_memory_live();
        for (int round = 0; round < 3000; round++) {
            esp_error err = {0};
            esp_graph *read = NULL;
            size_t left = size;

            memcpy(copy, bytes, size);
            for (int times = 1 + pick(&rng, 3); times > 0 && left > 16; times--)
                left = damage(&rng, copy, left);
            esp_status status = esp_onnx_parse(copy, left, "damaged.onnx", &read, &err);
            assert_true((status == ESP_OK) == (read != NULL));
            assert_true(status == ESP_OK || strncmp(err.message, "damaged.onnx: ", 14) == 0);
            refused += status != ESP_OK;
            esp_graph_unref(read);
            assert_int_equal(esp_memory_live(), live);
        }
        free(copy);
        esp_free(bytes);
        esp_graph_unref(graph);
    }
    assert_true(refused > 3000);
}

/* Whichever allocation fails, loading and saving give an ordinary error, leak nothing and leave the old file.
 */
static void loading_and_saving_survive_every_failed_allocation(void **state)
{
    char *directory = scratch_make();
    const char *path = scratch_path(directory, "network.onnx");
    esp_graph *graph = sample_network(OPSET, 7);
    size_t live = esp_memory_live();

    (void)state;
    REQUIRE(esp_onnx_save(graph, path, err));
    for (int is_save = 0; is_save < 2; is_save++) {
        bool is_done = false;

        for (int k = 1; !is_done; k++) {
            esp_error err = {0};
            esp_graph *loaded = NULL;

            esp_memory_fuse(k);
            esp_status status =
                is_save ? esp_onnx_save(graph, path, &err) : esp_onnx_load(path, &loaded, &err);
            is_done = !esp_memory_fuse_burnt();
            esp_memory_fuse(0);
            if (is_done)
                assert_int_equal(status, ESP_OK);
            assert_true(status == ESP_OK || loaded == NULL);
            esp_graph_unref(loaded);
            assert_int_equal(esp_memory_live(), live);
            assert_int_equal(scratch_count(directory), 1);
        }
    }
    esp_graph_unref(graph);
    scratch_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_graphs_come_back_to_the_bit),
        cmocka_unit_test(a_saved_file_is_what_was_serialized),
        cmocka_unit_test(saving_where_nothing_can_be_written_fails_cleanly),
        cmocka_unit_test(every_type_is_saved_as_itself_byte_for_byte),
        cmocka_unit_test(float64_constants_are_saved_as_double),
        cmocka_unit_test(damaged_bytes_give_an_error_or_a_graph),
        cmocka_unit_test(loading_and_saving_survive_every_failed_allocation),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
