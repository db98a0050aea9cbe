/* Specs of datasets: SCHEME[:DIRECTORY][?OPTION,...]. One table of options is the parser, the help and the
 * "did you mean". Options begin at the last '?', unless a directory of the whole name is there; they are
 * separated by ',' or '&'. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "base/unknown.h"
#include "io/dataset_internal.h"

/* Images of a calibration or validation set are kept as bytes once they are decoded, up to so many MiB. */
#define USUAL_CACHE_MIB 512
#define MOST_SIDE       16384

typedef esp_status option_parser(const char *value, esp_dataset_query *query, esp_error *err);

static esp_status fail_value(const char *name, const char *value, const char *expected, esp_error *err)
{
    return esp_fail(err, ESP_INVALID, "option '%s' of a dataset: found '%s', expected %s", name, value,
                    expected);
}

/* "N" (then `*height` alone is set) or "HxW". */
static bool parse_sides(const char *value, int *height, int *width)
{
    char text[32];
    const char *cross = strchr(value, 'x');
    size_t length = cross ? (size_t)(cross - value) : strlen(value);
    int64_t first, second = 0;

    if (length >= sizeof text)
        return false;
    memcpy(text, value, length);
    text[length] = '\0';
    if (!esp_parse_i64(text, &first) || first < 1 || first > MOST_SIDE)
        return false;
    if (cross && (!esp_parse_i64(cross + 1, &second) || second < 1 || second > MOST_SIDE))
        return false;
    *height = (int)first;
    *width = (int)second;
    return true;
}

static esp_status parse_resize(const char *value, esp_dataset_query *query, esp_error *err)
{
    int height, width;

    if (!parse_sides(value, &height, &width))
        return fail_value("resize", value, "the shorter side such as 256, or HEIGHTxWIDTH", err);
    query->sizes.resize = width > 0 ? 0 : height;
    query->sizes.resize_height = width > 0 ? height : 0;
    query->sizes.resize_width = width;
    return ESP_OK;
}

static esp_status parse_crop(const char *value, esp_dataset_query *query, esp_error *err)
{
    int height, width;

    if (!parse_sides(value, &height, &width))
        return fail_value("crop", value, "a side such as 224, or HEIGHTxWIDTH", err);
    query->sizes.crop_height = height;
    query->sizes.crop_width = width > 0 ? width : height;
    return ESP_OK;
}

static esp_status parse_interpolation(const char *value, esp_dataset_query *query, esp_error *err)
{
    bool is_bicubic = strcmp(value, "bicubic") == 0;

    if (!is_bicubic && strcmp(value, "bilinear") != 0)
        return fail_value("interpolation", value, "bilinear or bicubic", err);
    query->sizes.interpolation = is_bicubic ? ESP_INTERPOLATION_BICUBIC : ESP_INTERPOLATION_BILINEAR;
    return ESP_OK;
}

static esp_status parse_channels(const char *value, esp_dataset_query *query, esp_error *err)
{
    bool is_grey = strcmp(value, "1") == 0;

    if (!is_grey && strcmp(value, "3") != 0)
        return fail_value("channels", value, "1 or 3", err);
    query->sizes.channels = is_grey ? 1 : 3;
    return ESP_OK;
}

static esp_status parse_skip_bad(const char *value, esp_dataset_query *query, esp_error *err)
{
    (void)value;
    (void)err;
    query->skips_bad = true;
    return ESP_OK;
}

static esp_status parse_test(const char *value, esp_dataset_query *query, esp_error *err)
{
    bool is_good = esp_parse_f64(value, &query->test) && query->test >= 0 && query->test <= 1;

    return is_good ? ESP_OK : fail_value("test", value, "a share of the images, 0 to 1", err);
}

static esp_status parse_val(const char *value, esp_dataset_query *query, esp_error *err)
{
    bool is_good = esp_parse_f64(value, &query->validation) && query->validation > 0 && query->validation < 1;

    return is_good ? ESP_OK : fail_value("val", value, "a share of the training images, 0 < share < 1", err);
}

static esp_status parse_seed(const char *value, esp_dataset_query *query, esp_error *err)
{
    int64_t seed = 0;
    bool is_good = esp_parse_i64(value, &seed) && seed >= 0;

    query->seed = (uint64_t)seed;
    return is_good ? ESP_OK : fail_value("seed", value, "a whole number, at least 0", err);
}

static esp_status parse_cache(const char *value, esp_dataset_query *query, esp_error *err)
{
    bool is_good = esp_parse_i64(value, &query->cache_mib) && query->cache_mib >= 0 &&
                   query->cache_mib <= INT64_C(1) << 24;

    return is_good ? ESP_OK : fail_value("cache", value, "MiB, 0 to 16777216", err);
}

static esp_status parse_layout(const char *value, esp_dataset_query *query, esp_error *err)
{
    bool is_nchw = strcmp(value, "nchw") == 0;

    if (!is_nchw && strcmp(value, "nhwc") != 0)
        return fail_value("layout", value, "nchw or nhwc", err);
    query->layout = is_nchw ? ESP_ARRAY_NCHW : ESP_ARRAY_NHWC;
    return ESP_OK;
}

static esp_status parse_scale(const char *value, esp_dataset_query *query, esp_error *err)
{
    bool is_good = esp_parse_f64(value, &query->scale) && query->scale > 0;

    return is_good ? ESP_OK : fail_value("scale", value, "a number above 0", err);
}

/* Columns: name, argument, group, parser, help. */
#define OPTION_LIST(X)                                                                                       \
    X("resize", "N|HxW", ESP_DATASET_SIZES, parse_resize,                                                    \
      "the shorter side becomes N, or the image exactly HxW (default: crop * 256/224)")                      \
    X("crop", "N|HxW", ESP_DATASET_SIZES, parse_crop,                                                        \
      "the centre of this size (default: the model's input, else the images' own, else 224)")                \
    X("interpolation", "NAME", ESP_DATASET_SIZES, parse_interpolation,                                       \
      "bilinear (default) or bicubic, antialiased as Pillow does it")                                        \
    X("channels", "1|3", ESP_DATASET_SIZES, parse_channels, "grey or RGB (default: the model's input)")      \
    X("skip-bad", NULL, ESP_DATASET_LAZY, parse_skip_bad,                                                    \
      "leave out images that cannot be read, and count them")                                                \
    X("cache", "MIB", ESP_DATASET_SIZES, parse_cache,                                                        \
      "memory for images already decoded (default 512, 0 = none)")                                           \
    X("test", "SHARE", ESP_DATASET_TEST, parse_test,                                                         \
      "of a folder without train/ and test/: share of every class that is for testing (default 0.2)")        \
    X("val", "SHARE", ESP_DATASET_PARTS, parse_val,                                                          \
      "share of every class of the training images that is held out for validation")                         \
    X("seed", "N", ESP_DATASET_PARTS, parse_seed, "which images those are (default 0)")                      \
    X("layout", "NAME", ESP_DATASET_ARRAYS, parse_layout, "nchw or nhwc, where the shape leaves it open")    \
    X("scale", "S", ESP_DATASET_ARRAYS, parse_scale, "float32 images are divided by S (default 1: 0 to 1)")

#define OPTION_ROW(name, argument, group, parser, help) {name, argument, help, group},
static const esp_dataset_option options[] = {OPTION_LIST(OPTION_ROW)};

#define OPTION_PARSER(name, argument, group, parser, help) parser,
static option_parser *const parsers[] = {OPTION_LIST(OPTION_PARSER)};

enum { OPTION_COUNT = sizeof options / sizeof options[0] };

const esp_dataset_option *esp_dataset_options(size_t *out_count)
{
    *out_count = OPTION_COUNT;
    return options;
}

/* ---- the scheme ---- */

static esp_status find_scheme(const char *spec, size_t length, int *out, esp_error *err)
{
    enum { MOST = 32 };
    const char *names[MOST];
    size_t count;
    const esp_dataset_scheme *schemes = esp_dataset_schemes(&count);

    for (size_t i = 0; i < count && i < MOST; i++) {
        names[i] = schemes[i].name;
        if (strlen(names[i]) == length && strncmp(names[i], spec, length) == 0) {
            *out = (int)i;
            return ESP_OK;
        }
    }
    char *word = esp_strndup(spec, length);
    if (!word)
        return esp_fail_memory(err, "a dataset's name", length);
    esp_fail_unknown(err, "dataset", word, names, count);
    esp_free(word);
    return ESP_INVALID;
}

/* ---- options ---- */

static esp_status fail_option(const char *name, unsigned taken, esp_error *err)
{
    const char *names[OPTION_COUNT];
    size_t count = 0;

    for (size_t i = 0; i < OPTION_COUNT; i++)
        if (options[i].group & taken)
            names[count++] = options[i].name;
    return esp_fail_unknown(err, "option of a dataset", name, names, count);
}

static esp_status parse_option(char *item, unsigned taken, const char *scheme, esp_dataset_query *query,
                               esp_error *err)
{
    char *value = strchr(item, '=');

    if (value)
        *value++ = '\0';
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (strcmp(options[i].name, item) != 0)
            continue;
        if (!(options[i].group & taken))
            return esp_fail(err, ESP_INVALID, "option '%s' of a dataset means nothing for %s", item, scheme);
        if (!value != !options[i].argument)
            return esp_fail(err, ESP_INVALID, "option '%s' of a dataset takes %s", item,
                            value ? "no value" : options[i].argument);
        return parsers[i](value, query, err);
    }
    return fail_option(item, taken, err);
}

static esp_status parse_options(char *text, unsigned taken, const char *scheme, esp_dataset_query *query,
                                esp_error *err)
{
    esp_status status = ESP_OK;

    while (status == ESP_OK && *text) {
        size_t length = strcspn(text, ",&");
        char *next = text[length] ? text + length + 1 : text + length;

        text[length] = '\0';
        status = parse_option(text, taken, scheme, query, err);
        text = next;
    }
    return status;
}

esp_status esp_dataset_query_parse(const char *spec, esp_dataset_query *out, esp_error *err)
{
    size_t length = strcspn(spec, ":?");
    esp_dataset_query query = {.test = -1, .validation = -1, .cache_mib = USUAL_CACHE_MIB};
    esp_status status = find_scheme(spec, length, &query.scheme, err);

    *out = (esp_dataset_query){0};
    if (status != ESP_OK)
        return status;
    size_t count;
    const esp_dataset_scheme *scheme = &esp_dataset_schemes(&count)[query.scheme];
    const char *rest = spec[length] == ':' ? spec + length + 1 : spec + length;
    const char *mark = strrchr(rest, '?');
    if (mark && esp_file_is_directory(rest))
        mark = NULL;
    char *options_text = mark ? esp_strdup(mark + 1) : NULL;
    query.directory = esp_strndup(rest, mark ? (size_t)(mark - rest) : strlen(rest));
    if (!query.directory || (mark && !options_text))
        status = esp_fail_memory(err, "a dataset's name", strlen(spec));
    if (status == ESP_OK && options_text)
        status = parse_options(options_text, scheme->options, scheme->name, &query, err);
    esp_free(options_text);
    if (status == ESP_OK && query.directory[0] == '\0') {
        esp_free(query.directory);
        query.directory = NULL;
    }
    if (status == ESP_OK)
        *out = query;
    else
        esp_free(query.directory);
    return status;
}

void esp_dataset_query_free(esp_dataset_query *query)
{
    esp_free(query->directory);
    query->directory = NULL;
}
