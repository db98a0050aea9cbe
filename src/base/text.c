/* Growing strings, and the small text rules that every surface shares. Nothing here depends on the locale's
 * decimal point when reading; writing goes through the C library and the program stays in the C numeric
 * locale. */
#include "base/text.h"

#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* Makes room for `more` bytes and the terminator. */
static bool reserve(esp_text *text, size_t more)
{
    size_t needed, capacity;
    char *grown;

    if (text->is_broken)
        return false;
    if (__builtin_add_overflow(text->length, more, &needed) || needed == SIZE_MAX) {
        text->is_broken = true;
        return false;
    }
    needed++;
    if (needed <= text->capacity)
        return true;
    capacity = text->capacity < 64 ? 64 : text->capacity;
    while (capacity < needed)
        capacity = capacity > SIZE_MAX / 2 ? needed : capacity * 2;
    grown = esp_realloc(text->data, text->data ? text->length + 1 : 0, capacity, 1);
    if (!grown) {
        text->is_broken = true;
        return false;
    }
    text->data = grown;
    text->capacity = capacity;
    return true;
}

void esp_text_append(esp_text *text, const char *piece)
{
    esp_text_append_n(text, piece, strlen(piece));
}

void esp_text_append_n(esp_text *text, const char *piece, size_t length)
{
    if (!reserve(text, length))
        return;
    if (length > 0)
        memcpy(text->data + text->length, piece, length);
    text->length += length;
    text->data[text->length] = '\0';
}

void esp_text_printf(esp_text *text, const char *format, ...)
{
    va_list arguments, again;
    int needed;

    va_start(arguments, format);
    va_copy(again, arguments);
    needed = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (needed < 0)
        text->is_broken = true;
    else if (reserve(text, (size_t)needed)) {
        vsnprintf(text->data + text->length, (size_t)needed + 1, format, again);
        text->length += (size_t)needed;
    }
    va_end(again);
}

void esp_text_free(esp_text *text)
{
    if (!text)
        return;
    esp_free(text->data);
    *text = (esp_text){0};
}

char *esp_text_take(esp_text *text)
{
    char *taken = NULL;

    if (!text->is_broken)
        taken = text->data ? text->data : esp_strdup("");
    else
        esp_free(text->data);
    *text = (esp_text){0};
    return taken;
}

/* Decimals that show `value` with `digits` significant digits once it is rounded: 25.55, 270.9, and 10.00 for
 * 9.9999. */
static int decimals_for(double value, int digits)
{
    double limit = 10;

    for (int decimals = digits - 1; decimals > 0; decimals--, limit *= 10) {
        double scale = pow(10.0, decimals);
        if (rint(fabs(value) * scale) / scale < limit)
            return decimals;
    }
    return 0;
}

/* True when printing `value` with these digits would show `limit` itself: 999.96 with 4 digits is 1000. */
static bool rounds_up_to(double value, int digits, double limit)
{
    double scale = pow(10.0, decimals_for(value, digits));

    return rint(fabs(value) * scale) / scale >= limit;
}

char *esp_format_count(char *buffer, size_t size, double count)
{
    static const char *const suffixes[] = {"", "k", "M", "G", "T", "P"};
    size_t step = 0;
    double value = count;

    if (!isfinite(count)) {
        snprintf(buffer, size, isnan(count) ? "nan" : count > 0 ? "inf" : "-inf");
        return buffer;
    }
    while (step + 1 < sizeof suffixes / sizeof *suffixes &&
           (fabs(value) >= 1000 || rounds_up_to(value, 4, 1000))) {
        value /= 1000;
        step++;
    }
    if (step == 0)
        snprintf(buffer, size, value == rint(value) ? "%.0f" : "%.4g", value);
    else
        snprintf(buffer, size, "%.*f%s", decimals_for(value, 4), value, suffixes[step]);
    return buffer;
}

char *esp_format_duration(char *buffer, size_t size, double seconds)
{
    const char *sign = seconds < 0 ? "-" : "";
    double s = fabs(seconds);

    if (!isfinite(seconds)) {
        snprintf(buffer, size, "?");
    } else if (s < 1 && !rounds_up_to(1000 * s, 3, 1000)) {
        double ms = 1000 * s;
        if (ms == 0)
            snprintf(buffer, size, "0 ms");
        else
            snprintf(buffer, size, "%s%.*f ms", sign, decimals_for(ms, 3), ms);
    } else if (s < 60 && !rounds_up_to(s, 3, 60)) {
        snprintf(buffer, size, "%s%.*f s", sign, decimals_for(s, 3), s);
    } else if (rint(s) < 3600) {
        long long whole = llrint(s);
        snprintf(buffer, size, "%s%lldm%02llds", sign, whole / 60, whole % 60);
    } else if (s < 1e12) {
        long long minutes = llrint(s / 60);
        snprintf(buffer, size, "%s%lldh%02lldm", sign, minutes / 60, minutes % 60);
    } else {
        snprintf(buffer, size, "?");
    }
    return buffer;
}

char *esp_format_bytes(char *buffer, size_t size, double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    size_t step = 0;
    double value = bytes;

    if (!isfinite(bytes)) {
        snprintf(buffer, size, "?");
        return buffer;
    }
    while (step + 1 < sizeof units / sizeof *units && fabs(value) * 10 >= 10235) {
        value /= 1024;
        step++;
    }
    snprintf(buffer, size, "%.*f %s", step == 0 ? 0 : 1, value, units[step]);
    return buffer;
}

/* Damerau-Levenshtein distance in its optimal string alignment form (Boytsov 2011), case-insensitive. Words
 * longer than a row are never near. */
enum { LONGEST_WORD = 127 };

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static bool same_letter(char a, char b)
{
    return tolower((unsigned char)a) == tolower((unsigned char)b);
}

static size_t edit_distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    size_t rows[3][LONGEST_WORD + 1];
    size_t *before = rows[0], *last = rows[1], *row = rows[2];

    for (size_t j = 0; j <= b_length; j++)
        last[j] = j;
    for (size_t i = 1; i <= a_length; i++) {
        size_t *oldest = before;

        row[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            size_t changed = last[j - 1] + (same_letter(a[i - 1], b[j - 1]) ? 0 : 1);
            row[j] = least(changed, least(last[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && same_letter(a[i - 1], b[j - 2]) && same_letter(a[i - 2], b[j - 1]))
                row[j] = least(row[j], before[j - 2] + 1);
        }
        before = last;
        last = row;
        row = oldest;
    }
    return last[b_length];
}

const char *esp_nearest_word(const char *word, const char *const *candidates, size_t count)
{
    size_t length = strlen(word);
    size_t nearest_distance = length / 3 > 2 ? length / 3 + 1 : 3;
    const char *nearest = NULL;

    if (length == 0 || length > LONGEST_WORD)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        size_t candidate_length = candidates[i] ? strlen(candidates[i]) : 0;
        size_t distance;

        if (candidate_length == 0 || candidate_length > LONGEST_WORD)
            continue;
        distance = edit_distance(word, length, candidates[i], candidate_length);
        /* When every letter would have to change, the words have nothing in common. */
        if (distance < nearest_distance &&
            distance < (length > candidate_length ? length : candidate_length)) {
            nearest_distance = distance;
            nearest = candidates[i];
        }
    }
    return nearest;
}

bool esp_parse_i64(const char *text, int64_t *out)
{
    char *end;
    long long value;

    if (!text || !(isdigit((unsigned char)text[0]) ||
                   ((text[0] == '-' || text[0] == '+') && isdigit((unsigned char)text[1]))))
        return false;
    errno = 0;
    value = strtoll(text, &end, 10);
    if (errno != 0 || *end != '\0')
        return false;
    *out = value;
    return true;
}

/* A decimal number as the C locale writes it: digits, one point, an exponent. No hexadecimal, no "inf". */
static bool is_decimal(const char *text)
{
    size_t digits = 0;

    if (*text == '-' || *text == '+')
        text++;
    for (; isdigit((unsigned char)*text); text++)
        digits++;
    if (*text == '.')
        for (text++; isdigit((unsigned char)*text); text++)
            digits++;
    if (digits == 0)
        return false;
    if (*text == 'e' || *text == 'E') {
        text++;
        if (*text == '-' || *text == '+')
            text++;
        if (!isdigit((unsigned char)*text))
            return false;
        while (isdigit((unsigned char)*text))
            text++;
    }
    return *text == '\0';
}

bool esp_parse_f64(const char *text, double *out)
{
    locale_t c_locale;
    char *end;
    double value;

    if (!text || !is_decimal(text))
        return false;
    c_locale = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
    if (!c_locale)
        return false;
    value = strtod_l(text, &end, c_locale);
    freelocale(c_locale);
    if (*end != '\0' || !isfinite(value))
        return false;
    *out = value;
    return true;
}

bool esp_glob_match(const char *pattern, const char *name)
{
    const char *star = NULL, *resume = NULL;

    /* Only the last '*' is ever widened again: linear in practice, and no recursion. */
    while (*name != '\0') {
        if (*pattern == '*') {
            star = pattern++;
            resume = name;
        } else if (*pattern == '?' || *pattern == *name) {
            pattern++;
            name++;
        } else if (star) {
            pattern = star + 1;
            name = ++resume;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == '\0';
}
