/* The header of numpy's .npy format (numpy.lib.format): "\x93NUMPY", two version bytes, the length of the
 * text that follows (2 bytes little-endian in version 1, 4 in 2 and 3), then a Python dictionary
 * {'descr': '<f4', 'fortran_order': False, 'shape': (60000, 28, 28), } padded with blanks, then the elements.
 * The dictionary is read by its three keys; anything else in it is an error, as numpy has it. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "io/dataset_internal.h"

/* What is left of the dictionary's text. */
typedef struct cursor {
    const char *at, *end;
} cursor;

static void skip_blanks(cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\t'))
        c->at++;
}

static bool take(cursor *c, char wanted)
{
    skip_blanks(c);
    if (c->at == c->end || *c->at != wanted)
        return false;
    c->at++;
    return true;
}

static bool take_word(cursor *c, const char *word)
{
    size_t length = strlen(word);

    skip_blanks(c);
    if ((size_t)(c->end - c->at) < length || memcmp(c->at, word, length) != 0)
        return false;
    c->at += length;
    return true;
}

/* A string in quotes of either kind. */
static bool take_text(cursor *c, char *buffer, size_t size)
{
    size_t length = 0;

    skip_blanks(c);
    if (c->at == c->end || (*c->at != '\'' && *c->at != '"'))
        return false;
    char quote = *c->at++;
    while (c->at < c->end && *c->at != quote && length + 1 < size)
        buffer[length++] = *c->at++;
    buffer[length] = '\0';
    return take(c, quote);
}

static bool take_number(cursor *c, int64_t *out)
{
    int64_t value = 0;
    int digits = 0;

    skip_blanks(c);
    while (c->at < c->end && *c->at >= '0' && *c->at <= '9' && digits < 15) {
        value = 10 * value + (*c->at++ - '0');
        digits++;
    }
    *out = value;
    return digits > 0;
}

/* "(3, 4)", "(3,)", "()". False also for more dimensions than there is room for. */
static bool take_shape(cursor *c, esp_npy_header *out)
{
    out->rank = 0;
    if (!take(c, '('))
        return false;
    while (!take(c, ')')) {
        if (out->rank == ESP_NPY_RANK_MAX || !take_number(c, &out->dims[out->rank]))
            return false;
        out->rank++;
        if (!take(c, ',') && (c->at == c->end || *c->at != ')'))
            return false;
    }
    return true;
}

static esp_status fail_type(const char *path, const char *type, esp_error *err)
{
    return esp_fail(err, ESP_UNSUPPORTED, "%s: elements of type '%s', expected little-endian %s", path, type,
                    "integers (|u1, <i8, ...) or floats (<f4)");
}

static esp_status read_type(const char *path, const char *type, esp_npy_header *out, esp_error *err)
{
    bool has_order = type[0] == '<' || type[0] == '|';
    bool has_kind = has_order && type[1] != '\0' && strchr("uifb", type[1]) != NULL;
    bool has_size = has_kind && type[2] != '\0' && strchr("1248", type[2]) != NULL && type[3] == '\0';

    if (!has_size || (type[0] == '|' && type[2] != '1'))
        return fail_type(path, type, err);
    out->type = type[1];
    out->item_size = type[2] - '0';
    return ESP_OK;
}

static esp_status read_dictionary(const char *path, cursor text, esp_npy_header *out, esp_error *err)
{
    bool has_type = false, has_order = false, has_shape = false, is_fortran = false;
    char key[24], type[24] = "";
    bool is_good = take(&text, '{');

    while (is_good && !take(&text, '}')) {
        is_good = take_text(&text, key, sizeof key) && take(&text, ':');
        if (is_good && strcmp(key, "descr") == 0) {
            has_type = is_good = take_text(&text, type, sizeof type);
        } else if (is_good && strcmp(key, "fortran_order") == 0) {
            is_fortran = take_word(&text, "True");
            has_order = is_good = is_fortran || take_word(&text, "False");
        } else if (is_good && strcmp(key, "shape") == 0) {
            has_shape = is_good = take_shape(&text, out);
        } else {
            is_good = false;
        }
        if (is_good && !take(&text, ',') && (text.at == text.end || *text.at != '}'))
            is_good = false;
    }
    if (!is_good || !has_type || !has_order || !has_shape)
        return esp_fail(
            err, ESP_FORMAT,
            "%s: its header is not {'descr': '...', 'fortran_order': ..., 'shape': (up to %d sizes)}", path,
            ESP_NPY_RANK_MAX);
    if (is_fortran) {
        esp_fail(err, ESP_UNSUPPORTED, "%s: the array is in Fortran order, expected C order", path);
        esp_error_set_hint(err, "save it with numpy.save(name, numpy.ascontiguousarray(array))");
        return ESP_UNSUPPORTED;
    }
    return read_type(path, type, out, err);
}

static esp_status check_size(const char *path, const esp_npy_header *header, uint64_t file_size,
                             esp_error *err)
{
    uint64_t bytes = (uint64_t)header->item_size;

    for (int i = 0; i < header->rank; i++)
        if (__builtin_mul_overflow(bytes, (uint64_t)header->dims[i], &bytes))
            return esp_fail(err, ESP_FORMAT, "%s: its shape is too large for any file", path);
    if (file_size - header->data_offset < bytes)
        return esp_fail(err, ESP_FORMAT,
                        "%s: truncated: %" PRIu64 " bytes of elements, expected %" PRIu64 " for its shape",
                        path, file_size - header->data_offset, bytes);
    return ESP_OK;
}

esp_status esp_npy_header_read(const char *path, const char *bytes, size_t size, uint64_t file_size,
                               esp_npy_header *out, esp_error *err)
{
    const uint8_t *b = (const uint8_t *)bytes;
    esp_npy_header header = {0};

    if (size < 10 || memcmp(bytes, "\x93NUMPY", 6) != 0)
        return esp_fail(err, ESP_FORMAT, "%s: not an .npy file: it does not begin with \\x93NUMPY", path);
    bool is_long = b[6] >= 2;
    if (b[6] < 1 || b[6] > 3)
        return esp_fail(err, ESP_UNSUPPORTED, "%s: version %d of the .npy format, expected 1 to 3", path,
                        b[6]);
    size_t start = is_long ? 12 : 10;
    size_t length = b[8] | (size_t)b[9] << 8;
    if (is_long)
        length |= size < start ? SIZE_MAX / 2 : (size_t)b[10] << 16 | (size_t)b[11] << 24;
    if (size < start || length > size - start)
        return esp_fail(err, ESP_FORMAT, "%s: truncated: a header of %zu bytes, found %zu", path, length,
                        size < start ? 0 : size - start);
    header.data_offset = start + length;
    const cursor text = {bytes + start, bytes + start + length};
    esp_status status = read_dictionary(path, text, &header, err);
    if (status == ESP_OK)
        status = check_size(path, &header, file_size, err);
    if (status == ESP_OK)
        *out = header;
    return status;
}
