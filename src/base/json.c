/* JSON through jansson. Its writer would do but for real numbers: it prints 17 digits, or a fixed count, and
 * byte stability asks for the shortest that reads back, so writing is done here; reading is jansson's. */
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

esp_status esp_json_parse(const char *text, const char *where, json_t **out, esp_error *err)
{
    json_error_t problem;

    *out = json_loads(text, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &problem);
    if (*out)
        return ESP_OK;
    if (json_error_code(&problem) == json_error_out_of_memory)
        return esp_fail_memory(err, where, strlen(text));
    return esp_fail(err, ESP_FORMAT, "%s:%d:%d: malformed JSON: %s", where, problem.line, problem.column,
                    problem.text);
}

esp_status esp_json_load(const char *path, json_t **out, esp_error *err)
{
    char *text;
    size_t size;
    esp_status status;

    *out = NULL;
    status = esp_file_read(path, &text, &size, err);
    if (status != ESP_OK)
        return status;
    if (memchr(text, '\0', size))
        status = esp_fail(err, ESP_FORMAT, "%s: malformed JSON: a zero byte in the text", path);
    else
        status = esp_json_parse(text, path, out, err);
    esp_free(text);
    return status;
}

static int digits_before_point(double magnitude)
{
    int count = 1;

    for (; magnitude >= 10; magnitude /= 10)
        count++;
    return count;
}

/* The fewest digits that read back to the same double; always with a point or an exponent, so that it stays
 * real. Whole numbers are written out (150.0, not 1.5e+02). */
static void write_real(esp_text *text, double value)
{
    char digits[40];
    int precision = 1;
    char *comma;

    do
        snprintf(digits, sizeof digits, "%.*g", precision, value);
    while (strtod(digits, NULL) != value && ++precision <= 17);
    if (fabs(value) < 1e15 && digits_before_point(fabs(value)) > precision)
        snprintf(digits, sizeof digits, "%.*g", digits_before_point(fabs(value)), value);
    comma = strchr(digits, ','); /* the decimal point of some locales */
    if (comma)
        *comma = '.';
    esp_text_append(text, digits);
    if (!strpbrk(digits, ".e"))
        esp_text_append(text, ".0");
}

/* RFC 8259 section 7: quotes, backslashes and control characters are escaped; the rest is UTF-8 as it is. */
static void write_string(esp_text *text, const char *string, size_t length)
{
    static const char letters[] = "\b\f\n\r\t";
    static const char names[] = "bfnrt";

    esp_text_append(text, "\"");
    for (size_t i = 0; i < length; i++) {
        const char *letter = string[i] ? strchr(letters, string[i]) : NULL;

        if (string[i] == '"' || string[i] == '\\')
            esp_text_printf(text, "\\%c", string[i]);
        else if (letter)
            esp_text_printf(text, "\\%c", names[letter - letters]);
        else if ((unsigned char)string[i] < 0x20u)
            esp_text_printf(text, "\\u%04x", (unsigned)string[i]);
        else
            esp_text_append_n(text, string + i, 1);
    }
    esp_text_append(text, "\"");
}

typedef struct writer {
    esp_text *text;
    int is_compact;
    int depth;
} writer;

static void write_value(writer *to, const json_t *value);

static void write_break(writer *to)
{
    if (!to->is_compact)
        esp_text_printf(to->text, "\n%*s", 2 * to->depth, "");
}

static int compare_names(const void *left, const void *right)
{
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

/* The members in byte order of their names: the order they were added in must not show. */
static void write_object(writer *to, const json_t *object)
{
    json_t *members =
        (json_t *)(uintptr_t)object; /* iteration changes nothing, jansson only lacks the const */
    size_t count = json_object_size(object), filled = 0;
    const char **names = esp_alloc(count, sizeof *names);

    if (!names) {
        to->text->is_broken = true;
        return;
    }
    for (void *at = json_object_iter(members); at; at = json_object_iter_next(members, at))
        names[filled++] = json_object_iter_key(at);
    qsort(names, count, sizeof *names, compare_names);
    esp_text_append(to->text, "{");
    to->depth++;
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            esp_text_append(to->text, ",");
        write_break(to);
        write_string(to->text, names[i], strlen(names[i]));
        esp_text_append(to->text, to->is_compact ? ":" : ": ");
        write_value(to, json_object_get(object, names[i]));
    }
    to->depth--;
    if (count > 0)
        write_break(to);
    esp_text_append(to->text, "}");
    esp_free(names);
}

static void write_array(writer *to, const json_t *array)
{
    size_t count = json_array_size(array);

    esp_text_append(to->text, "[");
    to->depth++;
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            esp_text_append(to->text, ",");
        write_break(to);
        write_value(to, json_array_get(array, i));
    }
    to->depth--;
    if (count > 0)
        write_break(to);
    esp_text_append(to->text, "]");
}

static void write_value(writer *to, const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        write_object(to, value);
        break;
    case JSON_ARRAY:
        write_array(to, value);
        break;
    case JSON_STRING:
        write_string(to->text, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
        esp_text_printf(to->text, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL:
        write_real(to->text, json_real_value(value));
        break;
    case JSON_TRUE:
        esp_text_append(to->text, "true");
        break;
    case JSON_FALSE:
        esp_text_append(to->text, "false");
        break;
    case JSON_NULL:
        esp_text_append(to->text, "null");
        break;
    }
}

char *esp_json_dump(const json_t *value, int is_compact)
{
    esp_text text = {0};
    writer to = {.text = &text, .is_compact = is_compact};

    write_value(&to, value);
    if (!is_compact)
        esp_text_append(&text, "\n");
    return esp_text_take(&text);
}

esp_status esp_json_save(const json_t *value, const char *path, esp_error *err)
{
    char *text = esp_json_dump(value, 0);
    esp_status status;

    if (!text)
        return esp_fail_memory(err, path, 1);
    status = esp_file_write(path, text, strlen(text), err);
    esp_free(text);
    return status;
}

json_t *esp_json_text(const char *text)
{
    json_t *good = json_string(text);
    char *copy = good != NULL ? NULL : esp_strdup(text);
    for (char *byte = copy; byte != NULL && *byte != '\0'; byte++)
        *byte = (unsigned char)*byte < 0x80 ? *byte : '?';
    json_t *result = good != NULL || copy == NULL ? good : json_string(copy);
    esp_free(copy);
    return result;
}
