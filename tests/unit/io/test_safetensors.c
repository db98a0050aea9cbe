/* safetensors files: every element type, everything a damaged file can say, what is written, and names of a
 * file matched with names of a network. Files are put together here byte by byte, as the format describes
 * them. */
#include "unit/base/scratch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "io/safetensors.h"
#include "io/safetensors_load.h"

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

/* A file of this header and data; returns its path. */
static const char *write_file(const char *directory, const char *header, const void *data, size_t size)
{
    const char *path = scratch_path(directory, "x.safetensors");
    size_t length = strlen(header);
    unsigned char *bytes = malloc(8 + length + size);

    assert_non_null(bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)((uint64_t)length >> 8 * i);
    memcpy(bytes + 8, header, length);
    if (size)
        memcpy(bytes + 8 + length, data, size);
    scratch_write(path, bytes, 8 + length + size);
    free(bytes);
    return path;
}

static esp_safetensors *open_file(const char *path)
{
    esp_error err = {0};
    esp_safetensors *file = NULL;

    if (esp_safetensors_open(path, &file, &err) != ESP_OK)
        fail_msg("%s", err.message);
    return file;
}

static esp_tensor *read_tensor(const esp_safetensors *file, const char *name)
{
    esp_error err = {0};
    esp_tensor *tensor = NULL;
    int index = esp_safetensors_find(file, name);

    assert_true(index >= 0);
    if (esp_safetensors_read(file, index, &tensor, &err) != ESP_OK)
        fail_msg("%s", err.message);
    return tensor;
}

static void assert_values(const esp_safetensors *file, const char *name, esp_dtype dtype, int count,
                          const double *expected)
{
    esp_tensor *tensor = read_tensor(file, name);

    assert_int_equal(esp_tensor_dtype(tensor), dtype);
    assert_int_equal(esp_tensor_elements(tensor), count);
    for (int i = 0; i < count; i++)
        assert_true(esp_tensor_get_f64(tensor, i) == expected[i]);
    esp_tensor_unref(tensor);
}

/* ---- reading ---- */

static void every_type_is_read_as_what_the_program_computes_in(void **state)
{
    static const unsigned char data[] = {
        0x00, 0x00, 0xc0, 0x3f, 0x00, 0x00, 0x00, 0xc0, /* F32 1.5, -2 */
        0x00, 0x3c, 0x01, 0x00, 0xff, 0x7b,             /* F16 1, the smallest subnormal, the largest */
        0x80, 0x3f, 0x49, 0xc0,                         /* BF16 1, -3.140625 */
        0,    0,    0,    0,    0,    0,    0xd0, 0x3f, /* F64 0.25 */
        0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, /* I64 -2 */
        0x01, 0x01, 0,    0,                            /* I32 257 */
        0xff,                                           /* U8 */
        1,    0,                                        /* BOOL */
    };
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                 "\"f32\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]},"
                                 "\"f16\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[8,14]},"
                                 "\"bf16\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[14,18]},"
                                 "\"f64\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[18,26]},"
                                 "\"i64\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[26,34]},"
                                 "\"i32\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[34,38]},"
                                 "\"u8\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[38,39]},"
                                 "\"bool\":{\"dtype\":\"BOOL\",\"shape\":[1,2],\"data_offsets\":[39,41]},"
                                 "\"none\":{\"dtype\":\"F32\",\"shape\":[4,0],\"data_offsets\":[41,41]}}    ";
    esp_safetensors *file = open_file(write_file(*state, header, data, sizeof data));
    char text[32];

    assert_int_equal(esp_safetensors_count(file), 9);
    assert_string_equal(esp_safetensors_at(file, 0)->name, "f32");
    assert_string_equal(esp_safetensors_at(file, 8)->name, "none");
    assert_string_equal(esp_shape_format(&esp_safetensors_at(file, 7)->shape, text, sizeof text), "1x2");
    assert_int_equal(esp_safetensors_find(file, "f3"), -1);
    assert_values(file, "f32", ESP_F32, 2, (double[]){1.5, -2});
    assert_values(file, "f16", ESP_F32, 3, (double[]){1, 0x1p-24, 65504});
    assert_values(file, "bf16", ESP_F32, 2, (double[]){1, -3.140625});
    assert_values(file, "f64", ESP_F32, 1, (double[]){0.25});
    assert_values(file, "i64", ESP_I64, 1, (double[]){-2});
    assert_values(file, "i32", ESP_I32, 1, (double[]){257});
    assert_values(file, "u8", ESP_U8, 1, (double[]){255});
    assert_values(file, "bool", ESP_BOOL, 2, (double[]){1, 0});
    assert_values(file, "none", ESP_F32, 0, NULL);
    esp_safetensors_close(file);
}

/* More elements than are converted at a time, and not a multiple of that. */
static void long_tensors_are_converted_to_the_end(void **state)
{
    enum { COUNT = 300001 };
    char header[128];
    double *values = malloc(COUNT * sizeof *values);

    assert_non_null(values);
    for (int i = 0; i < COUNT; i++)
        values[i] = i * 0.5;
    snprintf(header, sizeof header, "{\"a\":{\"dtype\":\"F64\",\"shape\":[%d],\"data_offsets\":[0,%d]}}",
             COUNT, 8 * COUNT);
    esp_safetensors *file = open_file(write_file(*state, header, values, COUNT * sizeof *values));
    assert_values(file, "a", ESP_F32, COUNT, values);
    esp_safetensors_close(file);
    free(values);
}

static void weights_are_in_memory_once(void **state)
{
    enum { BYTES = 8 << 20 };
    char header[128];
    char *data = calloc(BYTES, 1);

    assert_non_null(data);
    snprintf(header, sizeof header, "{\"a\":{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":[0,%d]}}",
             BYTES / 4, BYTES);
    const char *path = write_file(*state, header, data, BYTES);
    free(data);
    esp_memory_reset_peak();
    size_t before = esp_memory_live();
    esp_safetensors *file = open_file(path);
    esp_tensor *tensor = read_tensor(file, "a");
    assert_in_range(esp_memory_peak() - before, BYTES,
                    BYTES + BYTES / 2); /* large blocks are aligned to 2 MB */
    esp_tensor_unref(tensor);
    esp_safetensors_close(file);
}

typedef struct refusal {
    const char *header;
    size_t size; /* of the data */
    esp_status code;
    const char *words[2];
} refusal;

static void assert_refused(const char *path, esp_status code, const char *word, const char *word2)
{
    esp_error err = {0};
    esp_safetensors *file = NULL;
    esp_status status = esp_safetensors_open(path, &file, &err);

    if (status != code || !strstr(err.message, word) || !strstr(err.message, word2) ||
        !strstr(err.message, path))
        fail_msg("status %s, message \"%s\", expected %s with \"%s\" and \"%s\"", esp_status_word(status),
                 err.message, esp_status_word(code), word, word2);
    assert_null(file);
}

#define ENTRY(type, shape, begin, end)                                                                       \
    "{\"dtype\":" type ",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static void damaged_headers_are_told_with_their_tensor(void **state)
{
    static const refusal refusals[] = {
        {"", 0, ESP_FORMAT, {"malformed JSON", ""}},
        {"[]", 0, ESP_FORMAT, {"expected a JSON object", ""}},
        {"{\"a\":1}", 0, ESP_FORMAT, {"'a'", "expected an object"}},
        {"{\"a\":{}}", 0, ESP_FORMAT, {"'a'", "dtype: found nothing"}},
        {"{\"a\":" ENTRY("3", "[1]", "0", "4") "}", 4, ESP_FORMAT, {"'a'", "found a whole number"}},
        {"{\"a\":" ENTRY("\"F33\"", "[1]", "0", "4") "}", 4, ESP_UNSUPPORTED, {"'a'", "'F33'"}},
        {"{\"a\":" ENTRY("\"F32\"", "[-1]", "0", "4") "}", 4, ESP_FORMAT, {"'a'", "shape: found -1"}},
        {"{\"a\":" ENTRY("\"F32\"", "[1.5]", "0", "4") "}", 4, ESP_FORMAT, {"'a'", "shape: found a number"}},
        {"{\"a\":" ENTRY("\"F32\"", "1", "0", "4") "}", 4, ESP_FORMAT, {"'a'", "a list of numbers"}},
        {"{\"a\":" ENTRY("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "0", "4") "}",
         4,
         ESP_UNSUPPORTED,
         {"'a'", "at most 8"}},
        {"{\"a\":" ENTRY("\"F32\"", "[4294967296,4294967296]", "0", "4") "}",
         4,
         ESP_FORMAT,
         {"'a'", "counted"}},
        {"{\"a\":" ENTRY("\"F64\"", "[2305843009213693952]", "0", "8") "}",
         8,
         ESP_FORMAT,
         {"'a'", "counted"}},
        {"{\"a\":" ENTRY("\"F32\"", "[99999999999999999999]", "0", "4") "}", 4, ESP_FORMAT, {"too big", ""}},
        {"{\"a\":" ENTRY("\"F32\"", "[2]", "0", "4") "}",
         4,
         ESP_FORMAT,
         {"'a'", "found 4 bytes, expected 8"}},
        {"{\"a\":" ENTRY("\"F32\"", "[1]", "0", "4") "}", 3, ESP_FORMAT, {"'a'", "3 bytes of data"}},
        {"{\"a\":" ENTRY("\"F32\"", "[1]", "4", "0") "}", 4, ESP_FORMAT, {"'a'", "4 to 0"}},
        {"{\"a\":" ENTRY("\"F32\"", "[1]", "-4", "0") "}", 4, ESP_FORMAT, {"'a'", "data_offsets: found -4"}},
        {"{\"a\":" ENTRY("\"F32\"", "[1]", "0,0", "4") "}", 4, ESP_FORMAT, {"'a'", "exactly 2"}},
        {"{\"a\":" ENTRY("\"F32\"", "[1]", "0", "4") ",\"b\":" ENTRY("\"F32\"", "[1]", "8", "12") "}",
         12,
         ESP_FORMAT,
         {"'b'", "expected 4"}},
        {"{\"a\":" ENTRY("\"F32\"", "[2]", "0", "8") ",\"b\":" ENTRY("\"F32\"", "[1]", "4", "8") "}",
         8,
         ESP_FORMAT,
         {"'b'", "inside tensor 'a'"}},
        {"{\"a\":" ENTRY("\"F32\"", "[1]", "0", "4") "}", 5, ESP_FORMAT, {"5 bytes of data", "expected 4"}},
        {"{\"a\":" ENTRY("\"F32\"", "[1]", "0", "4") ",\"a\":" ENTRY("\"F32\"", "[1]", "0", "4") "}",
         4,
         ESP_FORMAT,
         {"duplicate", "a"}},
        {"{\"\xff\":" ENTRY("\"F32\"", "[1]", "0", "4") "}", 4, ESP_FORMAT, {"malformed JSON", "0xff"}},
        {"{\"a\\u0000b\":" ENTRY("\"F32\"", "[1]", "0", "4") "}", 4, ESP_FORMAT, {"malformed JSON", ""}},
        {"{\"__metadata__\":{\"a\":1}}", 0, ESP_FORMAT, {"__metadata__", "texts"}},
        {"{\"__metadata__\":[]}", 0, ESP_FORMAT, {"__metadata__", "texts"}},
    };
    static const unsigned char data[16];

    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        const refusal *it = &refusals[i];

        assert_refused(write_file(*state, it->header, data, it->size), it->code, it->words[0], it->words[1]);
    }
}

static void files_of_another_kind_are_told(void **state)
{
    const char *path = scratch_path(*state, "y.safetensors");
    unsigned char deep[8 + 5000] = {0x88, 0x13};

    assert_refused(scratch_path(*state, "missing"), ESP_IO, "No such file", "");
    assert_refused(*state, ESP_IO, "directory", "");
    scratch_write(path, "", 0);
    assert_refused(path, ESP_FORMAT, "0 bytes", "");
    scratch_write(path, "\1\0\0\0\0\0\0\0", 8);
    assert_refused(path, ESP_FORMAT, "header's length is 1", "");
    scratch_write(path, "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    assert_refused(path, ESP_FORMAT, "18446744073709551615", "at most 100000000");
    scratch_write(path, "\2\0\0\0\0\0\0\0{\0", 10);
    assert_refused(path, ESP_FORMAT, "zero byte", "");
    memset(deep + 8, '[', 5000);
    scratch_write(path, deep, sizeof deep);
    assert_refused(path, ESP_FORMAT, "malformed JSON", "");
}

/* Written and read again: the same words, the same bytes. */
static void integers_of_every_width_come_back_as_they_were(void **state)
{
    static const esp_dtype dtypes[] = {ESP_I8,  ESP_I16, ESP_I32, ESP_I64, ESP_U8,
                                       ESP_U16, ESP_U32, ESP_U64, ESP_BOOL};
    const char *path = scratch_path(*state, "typed");
    const uint8_t bytes[] = {1, 0, 1, 1, 0, 0, 1, 0};
    esp_error err = {0};

    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        esp_shape shape = {.rank = 1, .dims = {(int64_t)(sizeof bytes / esp_dtype_size(dtypes[i]))}};
        esp_tensor *tensor = NULL, *back = NULL;

        assert_int_equal(esp_tensor_from(dtypes[i], &shape, bytes, &tensor, &err), ESP_OK);
        assert_int_equal(esp_safetensors_save(path, &(esp_named_tensor){"a", tensor}, 1, &err), ESP_OK);
        esp_safetensors *file = open_file(path);
        assert_int_equal(esp_safetensors_read(file, 0, &back, &err), ESP_OK);
        assert_true(esp_tensor_equal(tensor, back));
        esp_safetensors_close(file);
        esp_tensor_unref(tensor);
        esp_tensor_unref(back);
    }
}

static void types_nobody_computes_in_are_refused_when_read(void **state)
{
    esp_error err = {0};
    esp_tensor *tensor = NULL;
    esp_safetensors *file =
        open_file(write_file(*state, "{\"a\":" ENTRY("\"C64\"", "[1]", "0", "8") "}", "abcdefgh", 8));

    assert_int_equal(esp_safetensors_read(file, 0, &tensor, &err), ESP_UNSUPPORTED);
    assert_non_null(strstr(err.message, "'a'"));
    assert_null(tensor);
    esp_safetensors_close(file);
}

static void a_file_cut_after_it_was_opened_is_an_error(void **state)
{
    esp_error err = {0};
    esp_tensor *tensor = NULL;
    const char *path = write_file(*state, "{\"a\":" ENTRY("\"F32\"", "[2]", "0", "8") "}", "abcdefgh", 8);
    esp_safetensors *file = open_file(path);

    scratch_write(path, "abc", 3);
    assert_int_equal(esp_safetensors_read(file, 0, &tensor, &err), ESP_IO);
    assert_non_null(strstr(err.message, "'a'"));
    assert_null(tensor);
    esp_safetensors_close(file);
}

/* ---- writing ---- */

static esp_tensor *tensor_of(esp_dtype dtype, int64_t count, const void *data)
{
    esp_error err = {0};
    esp_tensor *tensor = NULL;
    esp_shape shape = esp_shape_make(1, &count);

    assert_int_equal(esp_tensor_from(dtype, &shape, data, &tensor, &err), ESP_OK);
    return tensor;
}

static void what_is_written_does_not_depend_on_the_order_given(void **state)
{
    esp_error err = {0};
    esp_tensor *bytes = tensor_of(ESP_U8, 3, "abc");
    esp_tensor *floats = tensor_of(ESP_F32, 2, (float[]){1, 2});
    const esp_named_tensor items[] = {{"a", bytes}, {"z", floats}, {"b", floats}};
    const esp_named_tensor turned[] = {{"b", floats}, {"z", floats}, {"a", bytes}};
    const char *first = scratch_path(*state, "1"), *second = scratch_path(*state, "2");
    static const char expected[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                   "\"a\":{\"data_offsets\":[16,19],\"dtype\":\"U8\",\"shape\":[3]},"
                                   "\"b\":{\"data_offsets\":[0,8],\"dtype\":\"F32\",\"shape\":[2]},"
                                   "\"z\":{\"data_offsets\":[8,16],\"dtype\":\"F32\",\"shape\":[2]}}";
    size_t size = 0, size2 = 0;

    assert_int_equal(esp_safetensors_save(first, items, 3, &err), ESP_OK);
    assert_int_equal(esp_safetensors_save(second, turned, 3, &err), ESP_OK);
    char *content = scratch_read(first, &size), *content2 = scratch_read(second, &size2);
    assert_int_equal(size, size2);
    assert_memory_equal(content, content2, size);
    assert_int_equal((unsigned char)content[0] % 8, 0);
    assert_memory_equal(content + 8, expected, strlen(expected));
    assert_memory_equal(content + size - 3, "abc", 3);
    free(content);
    free(content2);

    esp_safetensors *file = open_file(first);
    assert_values(file, "z", ESP_F32, 2, (double[]){1, 2});
    assert_values(file, "a", ESP_U8, 3, (double[]){'a', 'b', 'c'});
    esp_safetensors_close(file);
    esp_tensor_unref(bytes);
    esp_tensor_unref(floats);
}

static void names_no_file_can_hold_are_refused(void **state)
{
    esp_error err = {0};
    esp_tensor *floats = tensor_of(ESP_F32, 2, (float[]){1, 2});
    const esp_named_tensor twice[] = {{"b", floats}, {"b", floats}};
    const esp_named_tensor metadata[] = {{"__metadata__", floats}};
    const esp_named_tensor latin[] = {{"\xe9", floats}};
    const char *path = scratch_path(*state, "never");

    assert_int_equal(esp_safetensors_save(path, twice, 2, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "'b'"));
    assert_int_equal(esp_safetensors_save(path, metadata, 1, &err), ESP_INVALID);
    assert_int_equal(esp_safetensors_save(path, latin, 1, &err), ESP_UNSUPPORTED);
    assert_int_equal(esp_safetensors_save(scratch_path(*state, "no/where"), latin, 0, &err), ESP_IO);
    assert_int_equal(scratch_count(*state), 0);
    esp_tensor_unref(floats);
}

/* ---- weights by name ---- */

static esp_weight_source *open_source(const char *path, const char *prefix, bool is_lenient)
{
    esp_error err = {0};
    esp_weight_source *source = NULL;
    const esp_weight_options options = {prefix, is_lenient};

    if (esp_weight_source_open(path, &options, &source, &err) != ESP_OK)
        fail_msg("%s", err.message);
    return source;
}

/* The first value of a parameter; NaN when the source has none that fits. */
static float take(esp_weight_source *source, const char *name, int64_t count)
{
    esp_error err = {0};
    esp_tensor *tensor = NULL;
    esp_shape shape = esp_shape_make(1, &count);

    if (esp_weight_source_take(source, name, &shape, &tensor, &err) != ESP_OK)
        fail_msg("%s", err.message);
    float value = tensor ? esp_tensor_f32(tensor)[0] : NAN;
    esp_tensor_unref(tensor);
    return value;
}

/* Floats 0, 1, 2, ... under these names. */
static const char *write_floats(const char *directory, int count, const char *const *names)
{
    esp_error err = {0};
    esp_named_tensor items[8];
    const char *path = scratch_path(directory, "floats.safetensors");

    for (int i = 0; i < count; i++)
        items[i] = (esp_named_tensor){names[i], tensor_of(ESP_F32, 1, (float[]){(float)i})};
    assert_int_equal(esp_safetensors_save(path, items, count, &err), ESP_OK);
    for (int i = 0; i < count; i++)
        esp_tensor_unref((esp_tensor *)items[i].tensor);
    return path;
}

static void a_prefix_of_all_names_is_found(void **state)
{
    static const char *const plain[] = {"features.a", "features.b"};
    static const char *const wrapped[] = {"module.model.a.w", "module.model.a.b"};
    esp_error err = {0};
    esp_weight_source *source = open_source(write_floats(*state, 2, plain), NULL, false);

    assert_true(take(source, "features.b", 1) ==
                1); /* the network's own names begin so: nothing is cut off */
    assert_true(take(source, "features.a", 1) == 0);
    assert_int_equal(esp_weight_source_finish(source, &err), ESP_OK);
    esp_weight_source_close(source);

    source = open_source(write_floats(*state, 2, wrapped), NULL, false);
    assert_true(take(source, "a.b", 1) == 1);
    assert_true(take(source, "a.w", 1) == 0);
    assert_int_equal(esp_weight_source_finish(source, &err), ESP_OK);
    assert_int_equal(esp_weight_source_taken(source), 2);
    esp_weight_source_close(source);
}

static void a_prefix_that_is_given_is_the_only_one(void **state)
{
    static const char *const names[] = {"net.a", "net.b", "head.a"};
    esp_error err = {0};
    esp_weight_source *source = open_source(write_floats(*state, 3, names), "net.", true);

    assert_true(take(source, "a", 1) == 0);
    assert_true(take(source, "b", 1) == 1);
    assert_true(isnan(take(source, "head.a", 1)));
    assert_int_equal(esp_weight_source_finish(source, &err), ESP_OK);
    assert_int_equal(esp_weight_source_count(source, ESP_WEIGHTS_UNEXPECTED), 1);
    assert_string_equal(esp_weight_source_name(source, ESP_WEIGHTS_UNEXPECTED, 0), "head.a");
    esp_weight_source_close(source);
}

static void what_does_not_fit_is_listed_and_counted(void **state)
{
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "bn.num_batches_tracked"};
    esp_error err = {0};
    esp_weight_source *source = open_source(write_floats(*state, 7, names), NULL, false);

    assert_true(take(source, "b", 1) == 1);
    assert_true(isnan(take(source, "a", 3)));
    assert_true(isnan(take(source, "x", 1)));
    assert_int_equal(esp_weight_source_finish(source, &err), ESP_SHAPE);
    assert_non_null(strstr(err.message, "1 missing (x)"));
    assert_non_null(strstr(err.message, "4 unexpected (c, d, e, ...)"));
    assert_non_null(strstr(err.message, "1 of another shape (a: 1 instead of 3)"));
    assert_null(strstr(err.message, "num_batches_tracked"));
    esp_weight_source_close(source);
}

static void a_lenient_source_wants_at_least_one_tensor(void **state)
{
    static const char *const names[] = {"a", "b"};
    esp_error err = {0};
    const char *path = write_floats(*state, 2, names);
    esp_weight_source *source = open_source(path, NULL, true);

    assert_true(isnan(take(source, "x", 1)));
    assert_int_equal(esp_weight_source_finish(source, &err), ESP_SHAPE);
    assert_true(take(source, "a", 1) == 0);
    assert_int_equal(esp_weight_source_finish(source, &err), ESP_OK);
    assert_int_equal(esp_weight_source_count(source, ESP_WEIGHTS_MISSING), 1);
    esp_weight_source_close(source);
}

static void whole_numbers_are_no_weights(void **state)
{
    esp_error err = {0};
    esp_tensor *tensor = NULL;
    esp_shape shape = {.rank = 1, .dims = {1}};
    esp_weight_source *source = open_source(
        write_file(*state, "{\"a\":" ENTRY("\"I32\"", "[1]", "0", "4") "}", "abcd", 4), NULL, true);

    assert_int_equal(esp_weight_source_take(source, "a", &shape, &tensor, &err), ESP_UNSUPPORTED);
    assert_non_null(strstr(err.message, "'a'"));
    assert_null(tensor);
    esp_weight_source_close(source);
}

/* Conv (weight and bias), then Clip, whose bounds are constants but no parameters. */
static esp_graph *small_graph(float weight)
{
    esp_error err = {0};
    esp_builder *builder = NULL;
    esp_graph *graph = NULL;
    esp_shape image = {.rank = 4, .dims = {ESP_DIM_BATCH, 1, 2, 2}},
              kernel = {.rank = 4, .dims = {1, 1, 1, 1}};
    esp_shape scalar = {0};
    esp_tensor *constants[3] = {NULL, tensor_of(ESP_F32, 1, (float[]){weight / 2}), NULL};
    const char *const names[] = {"conv.weight", "conv.bias", "bound"};
    int inputs[4], output = -1;

    assert_int_equal(esp_tensor_from(ESP_F32, &kernel, &weight, &constants[0], &err), ESP_OK);
    assert_int_equal(esp_tensor_from(ESP_F32, &scalar, (float[]){6}, &constants[2], &err), ESP_OK);
    assert_int_equal(esp_builder_new("small", 13, 7, &builder, &err), ESP_OK);
    assert_int_equal(esp_builder_input(builder, "x", ESP_F32, &image, "N", &inputs[0], &err), ESP_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(esp_builder_constant(builder, names[i], constants[i], &inputs[i + 1], &err), ESP_OK);
        esp_tensor_unref(constants[i]);
    }
    assert_int_equal(esp_builder_add(builder, "Conv", "conv", inputs, 3, NULL, 0, NULL, &output, &err),
                     ESP_OK);
    int clip[] = {output, -1, inputs[3]};
    assert_int_equal(esp_builder_add(builder, "Clip", "clip", clip, 3, NULL, 0, NULL, &output, &err), ESP_OK);
    assert_int_equal(esp_builder_output(builder, output, ESP_F32, NULL, &err), ESP_OK);
    assert_int_equal(esp_builder_finish(builder, &graph, &err), ESP_OK);
    return graph;
}

static float constant_of(const esp_graph *graph, const char *name)
{
    return esp_tensor_f32(esp_graph_value(graph, esp_graph_find_value(graph, name))->constant)[0];
}

static void a_graph_gets_the_parameters_another_saved(void **state)
{
    esp_error err = {0};
    esp_graph *trained = small_graph(3), *fresh = small_graph(0), *loaded = NULL;
    const char *path = scratch_path(*state, "w.safetensors");

    assert_int_equal(esp_graph_save_weights(trained, path, &err), ESP_OK);
    esp_safetensors *file = open_file(path);
    assert_int_equal(esp_safetensors_count(file), 2); /* not the bound */
    esp_safetensors_close(file);

    esp_weight_source *source = open_source(path, NULL, false);
    assert_int_equal(esp_graph_load_weights(fresh, source, &loaded, &err), ESP_OK);
    esp_weight_source_close(source);
    assert_true(constant_of(loaded, "conv.weight") == 3);
    assert_true(constant_of(loaded, "conv.bias") == 1.5f);
    assert_true(constant_of(fresh, "conv.weight") == 0);
    esp_graph_unref(loaded);
    esp_graph_unref(fresh);
    esp_graph_unref(trained);
}

/* ---- memory ---- */

static void memory_that_runs_out_is_an_error_and_leaks_nothing(void **state)
{
    esp_error err = {0};
    esp_graph *graph = small_graph(3);
    const char *path = scratch_path(*state, "w.safetensors");
    bool is_burnt = true;

    assert_int_equal(esp_graph_save_weights(graph, path, &err), ESP_OK);
    for (int64_t k = 1; is_burnt; k++) {
        size_t before = esp_memory_live();
        esp_weight_source *source = NULL;
        esp_graph *loaded = NULL;

        esp_memory_fuse(k);
        esp_status status = esp_weight_source_open(path, NULL, &source, &err);
        if (status == ESP_OK)
            status = esp_graph_load_weights(graph, source, &loaded, &err);
        is_burnt = esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        assert_int_equal(status, is_burnt ? ESP_NO_MEMORY : ESP_OK);
        esp_weight_source_close(source);
        esp_graph_unref(loaded);
        assert_int_equal(esp_memory_live(), before);
    }
    esp_graph_unref(graph);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_directory, remove_directory)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_type_is_read_as_what_the_program_computes_in),
        TEST(long_tensors_are_converted_to_the_end),
        TEST(weights_are_in_memory_once),
        TEST(damaged_headers_are_told_with_their_tensor),
        TEST(files_of_another_kind_are_told),
        TEST(integers_of_every_width_come_back_as_they_were),
        TEST(types_nobody_computes_in_are_refused_when_read),
        TEST(a_file_cut_after_it_was_opened_is_an_error),
        TEST(what_is_written_does_not_depend_on_the_order_given),
        TEST(names_no_file_can_hold_are_refused),
        TEST(a_prefix_of_all_names_is_found),
        TEST(a_prefix_that_is_given_is_the_only_one),
        TEST(what_does_not_fit_is_listed_and_counted),
        TEST(a_lenient_source_wants_at_least_one_tensor),
        TEST(whole_numbers_are_no_weights),
        TEST(a_graph_gets_the_parameters_another_saved),
        TEST(memory_that_runs_out_is_an_error_and_leaks_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
