/* Every type is read in pieces into 64-bit integers or doubles, computed there, and written in pieces: so
 * many loops as there are types and operations, not as there are pairs of them. uint64 travels as the signed
 * integer of its bits; where the two differ (order, quotients, powers, real numbers) it is said which it is.
 */
#include "tensor/typed.h"

#include <math.h>
#include <string.h>

#include "tensor/simd.h"
#include "tensor/strides.h"

enum { PIECE = 256 };

/* Numbers between two types. */
typedef union piece {
    int64_t integers[PIECE];
    uint64_t naturals[PIECE]; /* the same bits */
    double reals[PIECE];
} piece;

static bool is_real(esp_dtype dtype)
{
    return dtype == ESP_F32 || dtype == ESP_F64;
}

/* ---- reading and writing ---- */

#define LOAD_CASE(name, type, text)                                                                          \
    case ESP_##name:                                                                                         \
        for (int64_t i = 0; i < count; i++)                                                                  \
            out[i] = (LOADED)((const type *)view->data)[at + i * stride];                                    \
        return;

#define LOADED int64_t
static void load_integers(const esp_view *view, int64_t at, int64_t stride, int64_t count, int64_t *out)
{
    switch (view->dtype) {
        ESP_DTYPE_LIST(LOAD_CASE)
    }
}
#undef LOADED

#define LOADED double
static void load_reals(const esp_view *view, int64_t at, int64_t stride, int64_t count, double *out)
{
    switch (view->dtype) {
        ESP_DTYPE_LIST(LOAD_CASE)
    }
}
#undef LOADED
#undef LOAD_CASE

static void load(const esp_view *view, bool as_reals, int64_t at, int64_t stride, int64_t count, piece *out)
{
    if (as_reals)
        load_reals(view, at, stride, count, out->reals);
    else
        load_integers(view, at, stride, count, out->integers);
}

#define STORE(type, value)                                                                                   \
    for (int64_t i = 0; i < count; i++)                                                                      \
        ((type *)view->data)[at + i] = (type)(value);                                                        \
    return

/* `are_unsigned`: the values are bits of uint64. */
static void store_integers(const esp_view *view, int64_t at, int64_t count, bool are_unsigned,
                           const int64_t *values)
{
    switch (view->dtype) {
    case ESP_F32:
        STORE(float, are_unsigned ? (float)(uint64_t)values[i] : (float)values[i]);
    case ESP_F64:
        STORE(double, are_unsigned ? (double)(uint64_t)values[i] : (double)values[i]);
    case ESP_I32:
        STORE(int32_t, (uint32_t)(uint64_t)values[i]);
    case ESP_I64:
        STORE(int64_t, values[i]);
    case ESP_U8:
        STORE(uint8_t, (uint64_t)values[i] & UINT8_MAX);
    case ESP_I8:
        STORE(int8_t, (uint64_t)values[i] & UINT8_MAX);
    case ESP_I16:
        STORE(int16_t, (uint64_t)values[i] & UINT16_MAX);
    case ESP_U16:
        STORE(uint16_t, (uint64_t)values[i] & UINT16_MAX);
    case ESP_U32:
        STORE(uint32_t, (uint64_t)values[i] & UINT32_MAX);
    case ESP_U64:
        STORE(uint64_t, values[i]);
    case ESP_BOOL:
        STORE(uint8_t, values[i] != 0);
    }
}

/* Between `low` and `high`, which is the last number below 2^bits: a double of that power already is too
 * large. */
static int64_t bounded(double value, int64_t low, int64_t high)
{
    if (value != value)
        return 0;
    if (value >= (double)high)
        return high;
    return value <= (double)low ? low : (int64_t)value;
}

/* The same for uint64. */
static uint64_t bounded_unsigned(double value)
{
    if (!(value > 0.0))
        return 0;
    return value >= 0x1p64 ? UINT64_MAX : (uint64_t)value;
}

static void store_reals(const esp_view *view, int64_t at, int64_t count, const double *values)
{
    switch (view->dtype) {
    case ESP_F32:
        STORE(float, values[i]);
    case ESP_F64:
        STORE(double, values[i]);
    case ESP_I32:
        STORE(int32_t, bounded(values[i], INT32_MIN, INT32_MAX));
    case ESP_I64:
        STORE(int64_t, bounded(values[i], INT64_MIN, INT64_MAX));
    case ESP_U8:
        STORE(uint8_t, bounded(values[i], 0, UINT8_MAX));
    case ESP_I8:
        STORE(int8_t, bounded(values[i], INT8_MIN, INT8_MAX));
    case ESP_I16:
        STORE(int16_t, bounded(values[i], INT16_MIN, INT16_MAX));
    case ESP_U16:
        STORE(uint16_t, bounded(values[i], 0, UINT16_MAX));
    case ESP_U32:
        STORE(uint32_t, bounded(values[i], 0, UINT32_MAX));
    case ESP_U64:
        STORE(uint64_t, bounded_unsigned(values[i]));
    case ESP_BOOL:
        STORE(uint8_t, values[i] < 0.0 || values[i] > 0.0 || values[i] != values[i]);
    }
}
#undef STORE

/* ---- one piece ---- */

static int64_t wrapping_product(int64_t p, int64_t q)
{
    return (int64_t)((uint64_t)p * (uint64_t)q);
}

/* The one quotient that does not fit wraps. */
static int64_t quotient(int64_t p, int64_t q)
{
    return q == -1 ? (int64_t)(0 - (uint64_t)p) : p / q;
}

static int64_t remainder_of(int64_t p, int64_t q)
{
    return q == -1 ? 0 : p % q;
}

static int64_t modulo(int64_t p, int64_t q)
{
    int64_t rest = remainder_of(p, q);
    return rest != 0 && (rest < 0) != (q < 0) ? rest + q : rest;
}

static double real_modulo(double p, double q)
{
    double rest = fmod(p, q);
    return (rest < 0.0 && q > 0.0) || (rest > 0.0 && q < 0.0) ? rest + q : rest;
}

/* By squaring. */
static int64_t power_unsigned(int64_t p, uint64_t q)
{
    int64_t result = 1;
    for (; q > 0; q >>= 1) {
        if ((q & 1) != 0)
            result = wrapping_product(result, p);
        p = wrapping_product(p, p);
    }
    return result;
}

/* A negative power is the integer part of the fraction. */
static int64_t power(int64_t p, int64_t q)
{
    if (q < 0)
        return p == 1 || (p == -1 && q % 2 == 0) ? 1 : (p == -1 ? -1 : 0);
    return power_unsigned(p, (uint64_t)q);
}

#define EACH(value)                                                                                          \
    for (int64_t i = 0; i < count; i++)                                                                      \
        out[i] = (value);                                                                                    \
    return

static void operate_integers(esp_typed_kind kind, int64_t count, const int64_t *p, const int64_t *q,
                             int64_t *out)
{
    switch (kind) {
    case ESP_TYPED_ADD:
        EACH((int64_t)((uint64_t)p[i] + (uint64_t)q[i]));
    case ESP_TYPED_SUB:
        EACH((int64_t)((uint64_t)p[i] - (uint64_t)q[i]));
    case ESP_TYPED_MUL:
        EACH(wrapping_product(p[i], q[i]));
    case ESP_TYPED_DIV:
        EACH(quotient(p[i], q[i]));
    case ESP_TYPED_MIN:
        EACH(p[i] < q[i] ? p[i] : q[i]);
    case ESP_TYPED_MAX:
        EACH(p[i] > q[i] ? p[i] : q[i]);
    case ESP_TYPED_POW:
        EACH(power(p[i], q[i]));
    case ESP_TYPED_PRELU:
        EACH(p[i] < 0 ? wrapping_product(p[i], q[i]) : p[i]);
    case ESP_TYPED_MODULO:
        EACH(modulo(p[i], q[i]));
    case ESP_TYPED_REMAINDER:
        EACH(remainder_of(p[i], q[i]));
    case ESP_TYPED_EQUAL:
        EACH(p[i] == q[i]);
    case ESP_TYPED_LESS:
        EACH(p[i] < q[i]);
    case ESP_TYPED_LESS_OR_EQUAL:
        EACH(p[i] <= q[i]);
    case ESP_TYPED_GREATER:
        EACH(p[i] > q[i]);
    case ESP_TYPED_GREATER_OR_EQUAL:
        EACH(p[i] >= q[i]);
    case ESP_TYPED_AND:
        EACH(p[i] != 0 && q[i] != 0);
    case ESP_TYPED_OR:
        EACH(p[i] != 0 || q[i] != 0);
    case ESP_TYPED_XOR:
        EACH((p[i] != 0) != (q[i] != 0));
    }
}

/* What the sign of the numbers has no part in is the same operation. */
static void operate_unsigned(esp_typed_kind kind, int64_t count, const uint64_t *p, const uint64_t *q,
                             int64_t *out)
{
    switch (kind) {
    case ESP_TYPED_DIV:
        EACH((int64_t)(p[i] / q[i]));
    case ESP_TYPED_MODULO:
    case ESP_TYPED_REMAINDER:
        EACH((int64_t)(p[i] % q[i]));
    case ESP_TYPED_MIN:
        EACH((int64_t)(p[i] < q[i] ? p[i] : q[i]));
    case ESP_TYPED_MAX:
        EACH((int64_t)(p[i] > q[i] ? p[i] : q[i]));
    case ESP_TYPED_POW:
        EACH(power_unsigned((int64_t)p[i], q[i]));
    case ESP_TYPED_PRELU:
        EACH((int64_t)p[i]);
    case ESP_TYPED_LESS:
        EACH(p[i] < q[i]);
    case ESP_TYPED_LESS_OR_EQUAL:
        EACH(p[i] <= q[i]);
    case ESP_TYPED_GREATER:
        EACH(p[i] > q[i]);
    case ESP_TYPED_GREATER_OR_EQUAL:
        EACH(p[i] >= q[i]);
    case ESP_TYPED_ADD:
    case ESP_TYPED_SUB:
    case ESP_TYPED_MUL:
    case ESP_TYPED_EQUAL:
    case ESP_TYPED_AND:
    case ESP_TYPED_OR:
    case ESP_TYPED_XOR:
        break;
    }
    operate_integers(kind, count, (const int64_t *)p, (const int64_t *)q, out);
}

static void operate_reals(esp_typed_kind kind, int64_t count, const double *p, const double *q, double *out)
{
    switch (kind) {
    case ESP_TYPED_ADD:
        EACH(p[i] + q[i]);
    case ESP_TYPED_SUB:
        EACH(p[i] - q[i]);
    case ESP_TYPED_MUL:
        EACH(p[i] * q[i]);
    case ESP_TYPED_DIV:
        EACH(p[i] / q[i]);
    case ESP_TYPED_MIN:
        EACH(p[i] < q[i] || p[i] != p[i] ? p[i] : q[i]);
    case ESP_TYPED_MAX:
        EACH(p[i] > q[i] || p[i] != p[i] ? p[i] : q[i]);
    case ESP_TYPED_POW:
        EACH(pow(p[i], q[i]));
    case ESP_TYPED_PRELU:
        EACH(p[i] < 0.0 ? p[i] * q[i] : p[i]);
    case ESP_TYPED_MODULO:
        EACH(real_modulo(p[i], q[i]));
    case ESP_TYPED_REMAINDER:
        EACH(fmod(p[i], q[i]));
    case ESP_TYPED_EQUAL:
        EACH(p[i] <= q[i] && p[i] >= q[i] ? 1.0 : 0.0);
    case ESP_TYPED_LESS:
        EACH(p[i] < q[i] ? 1.0 : 0.0);
    case ESP_TYPED_LESS_OR_EQUAL:
        EACH(p[i] <= q[i] ? 1.0 : 0.0);
    case ESP_TYPED_GREATER:
        EACH(p[i] > q[i] ? 1.0 : 0.0);
    case ESP_TYPED_GREATER_OR_EQUAL:
        EACH(p[i] >= q[i] ? 1.0 : 0.0);
    case ESP_TYPED_AND:
    case ESP_TYPED_OR:
    case ESP_TYPED_XOR: /* of bool alone */
        EACH(0.0);
    }
}
#undef EACH

/* ---- whole arrays ---- */

enum { A, B, Y, CONDITION };

typedef struct typed_job {
    esp_typed_kind kind;
    bool in_reals, in_unsigned; /* doubles; bits of uint64 */
    esp_walk walk;
    const esp_view *a, *b, *y, *condition;
    int64_t length, pieces, rows, rows_per_task;
} typed_job;

static void start_job(typed_job *job)
{
    job->walk.rank = job->y->shape.rank;
    for (int d = 0; d < job->walk.rank; d++)
        job->walk.dims[d] = job->y->shape.dims[d];
    esp_broadcast_strides(&job->a->shape, job->walk.rank, job->walk.strides[A]);
    esp_broadcast_strides(&job->b->shape, job->walk.rank, job->walk.strides[B]);
    esp_shape_strides(&job->y->shape, job->walk.strides[Y]);
    job->walk.operands = 3;
    if (job->condition != NULL) {
        esp_broadcast_strides(&job->condition->shape, job->walk.rank, job->walk.strides[CONDITION]);
        job->walk.operands = 4;
    }
    esp_walk_simplify(&job->walk);
    job->length = job->walk.dims[job->walk.rank - 1];
    job->pieces = esp_tile_count(job->length, ESP_FLAT_TILE);
    job->rows = esp_walk_positions(&job->walk, job->walk.rank - 1);
    job->rows_per_task = esp_tile_rows(job->length);
}

typedef void row_fn(const typed_job *job, const int64_t at[ESP_MOST_WALKED], int64_t count);

/* The part of a task in each of its rows. */
static void each_row(const typed_job *job, int64_t task, row_fn *row_of)
{
    int inner = job->walk.rank - 1;
    int64_t start = task % job->pieces * ESP_FLAT_TILE;
    int64_t count = esp_tile_end(start, ESP_FLAT_TILE, job->length) - start;
    int64_t first = task / job->pieces * job->rows_per_task;
    int64_t last = esp_tile_end(first, job->rows_per_task, job->rows), at[ESP_MOST_WALKED];
    for (int64_t row = first; row < last; row++) {
        esp_walk_locate(&job->walk, inner, row, at);
        for (int i = 0; i < job->walk.operands; i++)
            at[i] += start * job->walk.strides[i][inner];
        row_of(job, at, count);
    }
}

static esp_status run_job(const esp_compute *compute, typed_job *job, esp_task_fn *task)
{
    return esp_compute_run(compute, esp_tile_count(job->rows, job->rows_per_task) * job->pieces, task, job);
}

static void operate_row(const typed_job *job, const int64_t at[ESP_MOST_WALKED], int64_t count)
{
    int inner = job->walk.rank - 1;
    int64_t a_stride = job->walk.strides[A][inner], b_stride = job->walk.strides[B][inner];
    piece p, q, out;
    for (int64_t i = 0; i < count; i += PIECE) {
        int64_t length = esp_tile_end(i, PIECE, count) - i;
        load(job->a, job->in_reals, at[A] + i * a_stride, a_stride, length, &p);
        load(job->b, job->in_reals, at[B] + i * b_stride, b_stride, length, &q);
        if (job->in_reals) {
            operate_reals(job->kind, length, p.reals, q.reals, out.reals);
            store_reals(job->y, at[Y] + i, length, out.reals);
            continue;
        }
        if (job->in_unsigned)
            operate_unsigned(job->kind, length, p.naturals, q.naturals, out.integers);
        else
            operate_integers(job->kind, length, p.integers, q.integers, out.integers);
        store_integers(job->y, at[Y] + i, length, job->in_unsigned, out.integers);
    }
}

static void binary_task(void *context, int64_t task, int slot)
{
    (void)slot;
    each_row(context, task, operate_row);
}

static bool has_zero(const esp_view *view)
{
    int64_t count = esp_shape_elements(&view->shape);
    piece values;
    for (int64_t i = 0; i < count; i += PIECE) {
        int64_t length = esp_tile_end(i, PIECE, count) - i;
        load_integers(view, i, 1, length, values.integers);
        for (int64_t j = 0; j < length; j++) {
            if (values.integers[j] == 0)
                return true;
        }
    }
    return false;
}

/* Where uint64 meets another integer type its bits are taken as int64, but an exponent of uint64 is never
 * negative. */
static bool is_unsigned(esp_typed_kind kind, esp_dtype a, esp_dtype b)
{
    return b == ESP_U64 && (a == ESP_U64 || kind == ESP_TYPED_POW);
}

esp_status esp_typed_binary(const esp_compute *compute, esp_typed_kind kind, const esp_view *a,
                            const esp_view *b, const esp_view *y)
{
    bool divides = kind == ESP_TYPED_DIV || kind == ESP_TYPED_MODULO || kind == ESP_TYPED_REMAINDER;
    typed_job job = {.kind = kind,
                     .in_reals = is_real(a->dtype) || is_real(b->dtype),
                     .in_unsigned = is_unsigned(kind, a->dtype, b->dtype),
                     .a = a,
                     .b = b,
                     .y = y};
    if (esp_shape_elements(&y->shape) <= 0)
        return ESP_OK;
    if (divides && !job.in_reals && has_zero(b))
        return ESP_INVALID;
    start_job(&job);
    return run_job(compute, &job, binary_task);
}

#define CHOOSE_CASE(name, type, text)                                                                        \
    case ESP_##name:                                                                                         \
        for (int64_t i = 0; i < count; i++)                                                                  \
            ((type *)job->y->data)[at[Y] + i] = condition[i * c_stride] != 0                                 \
                                                    ? ((const type *)job->a->data)[at[A] + i * a_stride]     \
                                                    : ((const type *)job->b->data)[at[B] + i * b_stride];    \
        return;

static void choose_row(const typed_job *job, const int64_t at[ESP_MOST_WALKED], int64_t count)
{
    int inner = job->walk.rank - 1;
    int64_t a_stride = job->walk.strides[A][inner], b_stride = job->walk.strides[B][inner];
    int64_t c_stride = job->walk.strides[CONDITION][inner];
    const uint8_t *condition = (const uint8_t *)job->condition->data + at[CONDITION];
    switch (job->y->dtype) {
        ESP_DTYPE_LIST(CHOOSE_CASE)
    }
}
#undef CHOOSE_CASE

static void choose_task(void *context, int64_t task, int slot)
{
    (void)slot;
    each_row(context, task, choose_row);
}

esp_status esp_typed_choose(const esp_compute *compute, const esp_view *condition, const esp_view *a,
                            const esp_view *b, const esp_view *y)
{
    typed_job job = {.a = a, .b = b, .y = y, .condition = condition};
    if (esp_shape_elements(&y->shape) <= 0)
        return ESP_OK;
    start_job(&job);
    return run_job(compute, &job, choose_task);
}

static void cast_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const typed_job *job = context;
    int64_t start = task * ESP_FLAT_TILE, end = esp_tile_end(start, ESP_FLAT_TILE, job->length);
    piece values;
    for (int64_t i = start; i < end; i += PIECE) {
        int64_t length = esp_tile_end(i, PIECE, end) - i;
        load(job->a, job->in_reals, i, 1, length, &values);
        if (job->in_reals)
            store_reals(job->y, i, length, values.reals);
        else
            store_integers(job->y, i, length, job->in_unsigned, values.integers);
    }
}

esp_status esp_typed_cast(const esp_compute *compute, const esp_view *x, const esp_view *y)
{
    typed_job job = {.in_reals = is_real(x->dtype),
                     .in_unsigned = x->dtype == ESP_U64,
                     .a = x,
                     .y = y,
                     .length = esp_shape_elements(&x->shape)};
    return esp_compute_run(compute, esp_tile_count(job.length, ESP_FLAT_TILE), cast_task, &job);
}
