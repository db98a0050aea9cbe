/* Reductions of integers: a plain walk, for the few elements that shapes are computed with. */
#include "tensor/reduce.h"

bool esp_reduce_takes_integers(esp_reduce_kind kind)
{
    return kind != ESP_REDUCE_L2 && kind != ESP_REDUCE_LOG_SUM && kind != ESP_REDUCE_LOG_SUM_EXP;
}

/* In 64 bits; those of uint64 are taken as they are. Real numbers never come here. */
static int64_t read_integer(const esp_view *view, int64_t at)
{
    switch (view->dtype) {
#define READ_CASE(name, type, text)                                                                          \
    case ESP_##name:                                                                                         \
        return (int64_t)((const type *)view->data)[at];
        ESP_DTYPE_LIST(READ_CASE)
#undef READ_CASE
    }
    return 0;
}

/* What does not fit keeps its low bits. */
static void write_integer(const esp_view *view, int64_t at, int64_t value)
{
    switch (view->dtype) {
#define WRITE_CASE(name, type, text)                                                                         \
    case ESP_##name:                                                                                         \
        ((type *)view->data)[at] = (type)value;                                                              \
        return;
        ESP_DTYPE_LIST(WRITE_CASE)
#undef WRITE_CASE
    }
}

/* What no number of the type is below, or above. */
static int64_t start_of(esp_reduce_kind kind, esp_dtype dtype)
{
    int unused_bits = 64 - 8 * (int)esp_dtype_size(dtype);
    bool is_signed = esp_dtype_is_signed(dtype);
    if (kind == ESP_REDUCE_MAX)
        return is_signed ? -(INT64_MAX >> unused_bits) - 1 : 0;
    if (kind == ESP_REDUCE_MIN && dtype == ESP_BOOL)
        return 1;
    if (kind == ESP_REDUCE_MIN)
        return is_signed ? INT64_MAX >> unused_bits : (int64_t)(UINT64_MAX >> unused_bits);
    return kind == ESP_REDUCE_PROD ? 1 : 0;
}

static bool is_below(bool is_signed, int64_t a, int64_t b)
{
    return is_signed ? a < b : (uint64_t)a < (uint64_t)b;
}

/* Through unsigned numbers: overflow wraps. */
static int64_t fold(esp_reduce_kind kind, bool is_signed, int64_t folded, int64_t value)
{
    uint64_t sum = (uint64_t)folded, v = (uint64_t)value;
    switch (kind) {
    case ESP_REDUCE_MAX:
        return is_below(is_signed, folded, value) ? value : folded;
    case ESP_REDUCE_MIN:
        return is_below(is_signed, value, folded) ? value : folded;
    case ESP_REDUCE_PROD:
        return (int64_t)(sum * v);
    case ESP_REDUCE_L1:
        return (int64_t)(sum + (is_signed && value < 0 ? 0 - v : v));
    case ESP_REDUCE_SUM_SQUARE:
        return (int64_t)(sum + v * v);
    case ESP_REDUCE_SUM:
    case ESP_REDUCE_MEAN:
    case ESP_REDUCE_L2:
    case ESP_REDUCE_LOG_SUM:
    case ESP_REDUCE_LOG_SUM_EXP:
        break;
    }
    return (int64_t)(sum + v);
}

static int64_t quotient(bool is_signed, int64_t sum, int64_t count)
{
    return is_signed ? sum / count : (int64_t)((uint64_t)sum / (uint64_t)count);
}

/* Where an element of x goes in y. */
static int64_t place_of(const esp_reduction *reduction, int64_t element)
{
    int64_t place = 0, stride = 1;
    for (int i = reduction->x.rank - 1; i >= 0; i--) {
        int64_t at = element % reduction->x.dims[i];
        element /= reduction->x.dims[i];
        if (reduction->is_reduced[i])
            continue;
        place += at * stride;
        stride *= reduction->x.dims[i];
    }
    return place;
}

esp_status esp_reduce_integers(const esp_reduction *reduction, const esp_view *x, const esp_view *y)
{
    int64_t count = esp_shape_elements(&x->shape), results = esp_shape_elements(&y->shape);
    bool is_signed = esp_dtype_is_signed(x->dtype);
    if (reduction->kind == ESP_REDUCE_MEAN && count == 0 && results > 0)
        return ESP_INVALID;
    for (int64_t i = 0; i < results; i++)
        write_integer(y, i, start_of(reduction->kind, y->dtype));
    for (int64_t i = 0; i < count; i++) {
        int64_t at = place_of(reduction, i);
        write_integer(y, at, fold(reduction->kind, is_signed, read_integer(y, at), read_integer(x, i)));
    }
    for (int64_t i = 0; reduction->kind == ESP_REDUCE_MEAN && i < results; i++)
        write_integer(y, i, quotient(is_signed, read_integer(y, i), count / results));
    return ESP_OK;
}
