/* The functions of blocked_passes.h, once per instruction set (blocked_isas.h). A pixel is PARTS vectors. */
#define PARTS     (ESP_BLOCK / LANES)
#define EACH_PART UNROLL for (int v = 0; v < PARTS; v++)

#if LANES == 16
#define V_SUB(a, b)    _mm512_sub_ps(a, b)
#define V_STREAM(p, v) _mm512_stream_ps(p, v)
#define END_OF_STREAM  _mm_sfence()
/* g where low < y < high, else 0 */
#define V_BETWEEN(g, y, low, high)                                                                           \
    _mm512_maskz_mov_ps(                                                                                     \
        _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(y, low, _CMP_GT_OQ), y, high, _CMP_LT_OQ), g)
/* the larger of both; a NaN in either stays */
#define V_LARGER(best, v) _mm512_mask_max_ps(best, _mm512_cmp_ps_mask(best, best, _CMP_ORD_Q), best, v)
/* best = v and at = tap where v > best or the first NaN */
#define V_TAKE_LARGER(v, tap, best, at)                                                                      \
    do {                                                                                                     \
        __mmask16 is_larger =                                                                                \
            _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(best, best, _CMP_ORD_Q), v, best, _CMP_NLE_UQ);       \
        (best) = _mm512_mask_mov_ps(best, is_larger, v);                                                     \
        (at) = _mm512_mask_mov_ps(at, is_larger, tap);                                                       \
    } while (0)
#define V_HAS_NAN(v) (_mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q) != 0)
/* sum + g where at == tap */
#define V_ADD_AT(sum, at, tap, g) _mm512_mask_add_ps(sum, _mm512_cmp_ps_mask(at, tap, _CMP_EQ_OQ), sum, g)
#elif LANES == 8
#define V_SUB(a, b)    _mm256_sub_ps(a, b)
#define V_STREAM(p, v) _mm256_stream_ps(p, v)
#define END_OF_STREAM  _mm_sfence()
#define V_BETWEEN(g, y, low, high)                                                                           \
    _mm256_and_ps(g, _mm256_and_ps(_mm256_cmp_ps(y, low, _CMP_GT_OQ), _mm256_cmp_ps(y, high, _CMP_LT_OQ)))
#define V_LARGER(best, v)                                                                                    \
    _mm256_blendv_ps(_mm256_max_ps(best, v), best, _mm256_cmp_ps(best, best, _CMP_UNORD_Q))
#define V_TAKE_LARGER(v, tap, best, at)                                                                      \
    do {                                                                                                     \
        __m256 is_larger =                                                                                   \
            _mm256_and_ps(_mm256_cmp_ps(best, best, _CMP_ORD_Q), _mm256_cmp_ps(v, best, _CMP_NLE_UQ));       \
        (best) = _mm256_blendv_ps(best, v, is_larger);                                                       \
        (at) = _mm256_blendv_ps(at, tap, is_larger);                                                         \
    } while (0)
#define V_HAS_NAN(v)              (_mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)) != 0)
#define V_ADD_AT(sum, at, tap, g) _mm256_add_ps(sum, _mm256_and_ps(_mm256_cmp_ps(at, tap, _CMP_EQ_OQ), g))
#else
#define V_SUB(a, b)    ((a) - (b))
#define V_STREAM(p, v) V_STORE(p, v)
#define END_OF_STREAM  ((void)0)
#define V_BETWEEN(g, y, low, high)                                                                           \
    blocked_plain_select(((y) > (low)) & ((y) < (high)), g, (blocked_plain_vector){0})
#define V_LARGER(best, v) blocked_plain_select((best != best) | ((best) > (v)), best, v)
#define V_TAKE_LARGER(v, tap, best, at)                                                                      \
    do {                                                                                                     \
        blocked_plain_mask is_larger = ((best) == (best)) & ~((v) <= (best));                                \
        (best) = blocked_plain_select(is_larger, v, best);                                                   \
        (at) = blocked_plain_select(is_larger, tap, at);                                                     \
    } while (0)
#define V_HAS_NAN(v)              ((v)[0] != (v)[0] || (v)[1] != (v)[1] || (v)[2] != (v)[2] || (v)[3] != (v)[3])
#define V_ADD_AT(sum, at, tap, g) ((sum) + blocked_plain_select((at) == (tap), g, (blocked_plain_vector){0}))
#endif

/* Streaming stores want whole aligned vectors. */
#define IS_ALIGNED(p) ((uintptr_t)(p) % (LANES * sizeof(float)) == 0)

/* ---- values ---- */

typedef struct KERNEL(lines) {
    VECTOR center[PARTS], factor[PARTS], shift[PARTS], low, high;
} KERNEL(lines);

KERNEL_INLINE void KERNEL(load_lines)(const blocked_rescale *rescale, KERNEL(lines) * lines)
{
    lines->low = V_SET(rescale->low);
    lines->high = V_SET(rescale->high);
    EACH_PART
    {
        lines->center[v] = V_LOAD(rescale->center + v * LANES);
        lines->factor[v] = V_LOAD(rescale->factor + v * LANES);
        lines->shift[v] = V_LOAD(rescale->shift + v * LANES);
    }
}

KERNEL_INLINE void KERNEL(rescale_run)(int64_t count, const float *x, const blocked_rescale *rescale,
                                       const float *residual, bool has_residual, bool clips, bool streams,
                                       float *y)
{
    KERNEL(lines) l;
    KERNEL(load_lines)(rescale, &l);
    for (int64_t i = 0; i < count * ESP_BLOCK; i += ESP_BLOCK)
        EACH_PART
        {
            VECTOR value = V_FMA(V_SUB(V_LOAD(x + i + v * LANES), l.center[v]), l.factor[v], l.shift[v]);
            if (has_residual)
                value = V_ADD(value, V_LOAD(residual + i + v * LANES));
            if (clips)
                value = V_MIN(l.high, V_MAX(l.low, value));
            if (streams)
                V_STREAM(y + i + v * LANES, value);
            else
                V_STORE(y + i + v * LANES, value);
        }
    if (streams)
        END_OF_STREAM;
}

KERNEL_INLINE void KERNEL(rescale_form)(int64_t count, const float *x, const blocked_rescale *rescale,
                                        const float *residual, bool streams, float *y)
{
    if (residual != NULL && rescale->clips)
        KERNEL(rescale_run)(count, x, rescale, residual, true, true, streams, y);
    else if (residual != NULL)
        KERNEL(rescale_run)(count, x, rescale, residual, true, false, streams, y);
    else if (rescale->clips)
        KERNEL(rescale_run)(count, x, rescale, NULL, false, true, streams, y);
    else
        KERNEL(rescale_run)(count, x, rescale, NULL, false, false, streams, y);
}

KERNEL_TARGET
static void KERNEL(rescale)(int64_t count, const float *x, const blocked_rescale *rescale,
                            const float *residual, float *y)
{
    if (rescale->streams && IS_ALIGNED(y))
        KERNEL(rescale_form)(count, x, rescale, residual, true, y);
    else
        KERNEL(rescale_form)(count, x, rescale, residual, false, y);
}

/* How dy' is found. The second one repeats the forward pass operation by operation, so that both agree on
 * what was clipped. */
enum { KERNEL(UNMASKED), KERNEL(MASKED_BY_X), KERNEL(MASKED_BY_Y) };

KERNEL_INLINE int KERNEL(mask_of)(const blocked_gradient *run)
{
    if (!run->forward->clips)
        return KERNEL(UNMASKED);
    return run->y == NULL ? KERNEL(MASKED_BY_X) : KERNEL(MASKED_BY_Y);
}

/* dy' of the vector `i` floats from the beginning; `along` is x - center there. */
KERNEL_INLINE VECTOR KERNEL(masked)(const blocked_gradient *run, int mask, const KERNEL(lines) * l, int v,
                                    int64_t i, VECTOR along)
{
    VECTOR g = V_LOAD(run->dy + i);
    if (mask == KERNEL(MASKED_BY_X))
        g = V_BETWEEN(g, V_FMA(along, l->factor[v], l->shift[v]), l->low, l->high);
    else if (mask == KERNEL(MASKED_BY_Y))
        g = V_BETWEEN(g, V_LOAD(run->y + i), l->low, l->high);
    return g;
}

KERNEL_INLINE void KERNEL(gradient_run)(int64_t count, const blocked_gradient *run,
                                        const blocked_slopes *slopes, int mask, bool streams, float *dx)
{
    const blocked_gradient r = *run;
    VECTOR mean_dy[PARTS], slope[PARTS];
    KERNEL(lines) l;
    KERNEL(load_lines)(r.forward, &l);
    EACH_PART
    {
        mean_dy[v] = V_LOAD(slopes->mean_dy + v * LANES);
        slope[v] = V_LOAD(slopes->slope + v * LANES);
    }
    for (int64_t i = 0; i < count * ESP_BLOCK; i += ESP_BLOCK)
        EACH_PART
        {
            VECTOR along = V_SUB(V_LOAD(r.x + i + v * LANES), l.center[v]);
            VECTOR g = KERNEL(masked)(&r, mask, &l, v, i + v * LANES, along);
            g = V_MUL(V_SUB(V_SUB(g, mean_dy[v]), V_MUL(along, slope[v])), l.factor[v]);
            if (streams)
                V_STREAM(dx + i + v * LANES, g);
            else
                V_STORE(dx + i + v * LANES, g);
        }
    if (streams)
        END_OF_STREAM;
}

KERNEL_INLINE void KERNEL(gradient_form)(int64_t count, const blocked_gradient *run,
                                         const blocked_slopes *slopes, bool streams, float *dx)
{
    switch (KERNEL(mask_of)(run)) {
    case KERNEL(UNMASKED):
        KERNEL(gradient_run)(count, run, slopes, KERNEL(UNMASKED), streams, dx);
        break;
    case KERNEL(MASKED_BY_X):
        KERNEL(gradient_run)(count, run, slopes, KERNEL(MASKED_BY_X), streams, dx);
        break;
    default:
        KERNEL(gradient_run)(count, run, slopes, KERNEL(MASKED_BY_Y), streams, dx);
    }
}

KERNEL_TARGET
static void KERNEL(gradient)(int64_t count, const blocked_gradient *run, const blocked_slopes *slopes,
                             float *dx)
{
    if (slopes->streams && IS_ALIGNED(dx))
        KERNEL(gradient_form)(count, run, slopes, true, dx);
    else
        KERNEL(gradient_form)(count, run, slopes, false, dx);
}

/* ---- sums ---- */

/* Several sums side by side hide the latency of an addition. */
#define CHAINS 4

KERNEL_TARGET
static void KERNEL(statistics)(int64_t count, const float *x, float *center, float *rest, float *squares)
{
    int64_t whole = count / CHAINS * CHAINS;
    for (int part = 0; part < PARTS; part++) {
        const float *from = x + part * LANES;
        VECTOR sums[CHAINS], deviations[CHAINS];
        UNROLL for (int c = 0; c < CHAINS; c++) sums[c] = V_ZERO();
        for (int64_t p = 0; p < whole; p += CHAINS)
            UNROLL for (int c = 0; c < CHAINS; c++) sums[c] =
                V_ADD(sums[c], V_LOAD(from + (p + c) * ESP_BLOCK));
        for (int64_t p = whole; p < count; p++)
            sums[0] = V_ADD(sums[0], V_LOAD(from + p * ESP_BLOCK));
        VECTOR mean = V_ADD(V_ADD(sums[0], sums[1]), V_ADD(sums[2], sums[3]));
        mean = V_MUL(mean, V_SET(1.0f / (float)count));

        UNROLL for (int c = 0; c < CHAINS; c++) sums[c] = deviations[c] = V_ZERO();
        for (int64_t p = 0; p < whole; p += CHAINS)
            UNROLL for (int c = 0; c < CHAINS; c++)
            {
                VECTOR d = V_SUB(V_LOAD(from + (p + c) * ESP_BLOCK), mean);
                deviations[c] = V_ADD(deviations[c], d);
                sums[c] = V_FMA(d, d, sums[c]);
            }
        for (int64_t p = whole; p < count; p++) {
            VECTOR d = V_SUB(V_LOAD(from + p * ESP_BLOCK), mean);
            deviations[0] = V_ADD(deviations[0], d);
            sums[0] = V_FMA(d, d, sums[0]);
        }
        V_STORE(center + part * LANES, mean);
        V_STORE(rest + part * LANES,
                V_ADD(V_ADD(deviations[0], deviations[1]), V_ADD(deviations[2], deviations[3])));
        V_STORE(squares + part * LANES, V_ADD(V_ADD(sums[0], sums[1]), V_ADD(sums[2], sums[3])));
    }
}
#undef CHAINS

/* What happens to dy' on the way. */
enum { KERNEL(KEEPS_NOTHING), KERNEL(KEEPS), KERNEL(STREAMS), KERNEL(ADDS) };

KERNEL_INLINE void KERNEL(gradient_sums_run)(int64_t count, const blocked_gradient *run, int mask,
                                             int residual, float *sum_dy, float *sum_dy_x)
{
    const blocked_gradient r = *run;
    VECTOR sums[2][PARTS], products[2][PARTS];
    KERNEL(lines) l;
    KERNEL(load_lines)(r.forward, &l);
    EACH_PART sums[0][v] = sums[1][v] = products[0][v] = products[1][v] = V_ZERO();
    for (int64_t p = 0; p < count; p += 2)
        UNROLL for (int chain = 0; chain < 2; chain++)
        {
            if (p + chain == count)
                break;
            EACH_PART
            {
                int64_t i = (p + chain) * ESP_BLOCK + v * LANES;
                VECTOR along = V_SUB(V_LOAD(r.x + i), l.center[v]);
                VECTOR g = KERNEL(masked)(&r, mask, &l, v, i, along);
                if (residual == KERNEL(ADDS))
                    V_STORE(r.dresidual + i, V_ADD(V_LOAD(r.dresidual + i), g));
                else if (residual == KERNEL(KEEPS))
                    V_STORE(r.dresidual + i, g);
                else if (residual == KERNEL(STREAMS))
                    V_STREAM(r.dresidual + i, g);
                sums[chain][v] = V_ADD(sums[chain][v], g);
                products[chain][v] = V_FMA(g, along, products[chain][v]);
            }
        }
    if (residual == KERNEL(STREAMS))
        END_OF_STREAM;
    EACH_PART
    {
        V_STORE(sum_dy + v * LANES, V_ADD(sums[0][v], sums[1][v]));
        V_STORE(sum_dy_x + v * LANES, V_ADD(products[0][v], products[1][v]));
    }
}

KERNEL_INLINE void KERNEL(gradient_sums_form)(int64_t count, const blocked_gradient *run, int residual,
                                              float *sum_dy, float *sum_dy_x)
{
    switch (KERNEL(mask_of)(run)) {
    case KERNEL(UNMASKED):
        KERNEL(gradient_sums_run)(count, run, KERNEL(UNMASKED), residual, sum_dy, sum_dy_x);
        break;
    case KERNEL(MASKED_BY_X):
        KERNEL(gradient_sums_run)(count, run, KERNEL(MASKED_BY_X), residual, sum_dy, sum_dy_x);
        break;
    default:
        KERNEL(gradient_sums_run)(count, run, KERNEL(MASKED_BY_Y), residual, sum_dy, sum_dy_x);
    }
}

KERNEL_TARGET
static void KERNEL(gradient_sums)(int64_t count, const blocked_gradient *run, float *sum_dy, float *sum_dy_x)
{
    if (run->dresidual == NULL)
        KERNEL(gradient_sums_form)(count, run, KERNEL(KEEPS_NOTHING), sum_dy, sum_dy_x);
    else if (run->adds_residual)
        KERNEL(gradient_sums_form)(count, run, KERNEL(ADDS), sum_dy, sum_dy_x);
    else if (run->streams && IS_ALIGNED(run->dresidual))
        KERNEL(gradient_sums_form)(count, run, KERNEL(STREAMS), sum_dy, sum_dy_x);
    else
        KERNEL(gradient_sums_form)(count, run, KERNEL(KEEPS), sum_dy, sum_dy_x);
}

/* ---- pooling ---- */

/* Goes through a row of windows; `w` is the present one, `is_other` says that it is not just the one before,
 * moved. */
typedef struct KERNEL(walk) {
    const esp_pool2d_geometry *g;
    int64_t row, first_whole, end_whole, column;
    bool is_other;
    blocked_window w;
} KERNEL(walk);

KERNEL_INLINE void KERNEL(find_window)(KERNEL(walk) * walk)
{
    walk->is_other = walk->column <= walk->first_whole || walk->column >= walk->end_whole;
    if (walk->is_other)
        walk->w = esp_blocked_window(walk->g, walk->row, walk->column);
    else
        walk->w.offset += walk->g->stride_w * ESP_BLOCK;
}

KERNEL_INLINE KERNEL(walk) KERNEL(walk_row)(const esp_pool2d_geometry *g, int64_t row)
{
    KERNEL(walk) walk = {.g = g, .row = row};
    esp_blocked_whole_columns(g, &walk.first_whole, &walk.end_whole);
    KERNEL(find_window)(&walk);
    return walk;
}

#define EACH_WINDOW(walk)                                                                                    \
    for (KERNEL(walk) walk = KERNEL(walk_row)(g, row); walk.column < g->out_width;                           \
         walk.column++, KERNEL(find_window)(&walk))

#define EACH_TAP(w)                                                                                          \
    for (int64_t tap_y = 0; tap_y < (w).rows; tap_y++)                                                       \
        for (int64_t tap_x = 0; tap_x < (w).columns; tap_x++)
#define TAP(w) ((w).offset + tap_y * (w).row_step + tap_x * (w).step_x + v * LANES)

/* Asks for what the window one row further down needs and this one has not. */
KERNEL_INLINE void KERNEL(fetch_below)(const esp_pool2d_geometry *g, const float *x, const blocked_window *w)
{
    const float *below = x + w->offset + w->rows * w->row_step;
    for (int64_t row = 0; row < g->stride_h; row++)
        for (int64_t pixel = 0; pixel < g->stride_w; pixel++)
            __builtin_prefetch(below + (row * g->width + pixel) * ESP_BLOCK);
}

KERNEL_INLINE void KERNEL(max_window)(const blocked_window *w, const float *x, float *y)
{
    VECTOR best[PARTS];
    EACH_PART best[v] = V_SET(-INFINITY);
    EACH_TAP(*w) EACH_PART
    {
        VECTOR value = V_LOAD(x + TAP(*w));
        best[v] = V_LARGER(best[v], value);
    }
    EACH_PART V_STORE(y + v * LANES, best[v]);
}

/* A whole window of rows x columns taps, known when this is compiled. A number larger than all others takes
 * one instruction a tap when there is no NaN; a sum tells whether there was one (or two infinities: no harm).
 */
KERNEL_INLINE void KERNEL(max_whole)(const blocked_window *w, int64_t rows, int64_t columns, const float *x,
                                     float *y)
{
    VECTOR best[PARTS], sum[PARTS];
    bool has_nan = false;
    EACH_PART best[v] = sum[v] = V_LOAD(x + w->offset + v * LANES);
    UNROLL for (int64_t tap_y = 0; tap_y < rows; tap_y++)
        UNROLL for (int64_t tap_x = tap_y == 0; tap_x < columns; tap_x++) EACH_PART
    {
        VECTOR value = V_LOAD(x + TAP(*w));
        best[v] = V_MAX(best[v], value);
        sum[v] = V_ADD(sum[v], value);
    }
    EACH_PART
    {
        V_STORE(y + v * LANES, best[v]);
        has_nan |= V_HAS_NAN(sum[v]);
    }
    if (has_nan)
        KERNEL(max_window)(w, x, y);
}

KERNEL_TARGET
static void KERNEL(max_row)(const esp_pool2d_geometry *g, const float *x, int64_t row, float *y)
{
    EACH_WINDOW(walk)
    {
        const blocked_window w = walk.w;
        KERNEL(fetch_below)(g, x, &w);
        if (w.rows == 3 && w.columns == 3)
            KERNEL(max_whole)(&w, 3, 3, x, y);
        else if (w.rows == 2 && w.columns == 2)
            KERNEL(max_whole)(&w, 2, 2, x, y);
        else
            KERNEL(max_window)(&w, x, y);
        y += ESP_BLOCK;
    }
}

/* Rows of taps are added up for themselves, so that no lane adds up very many terms. */
KERNEL_TARGET
static void KERNEL(average_row)(const esp_pool2d_geometry *g, const float *x, int64_t row, float *y)
{
    float weight = 0.0f;
    EACH_WINDOW(walk)
    {
        const blocked_window w = walk.w;
        VECTOR sums[PARTS];
        KERNEL(fetch_below)(g, x, &w);
        if (walk.is_other)
            weight = esp_pool2d_weight(g, row, walk.column);
        EACH_PART sums[v] = V_ZERO();
        for (int64_t tap_y = 0; tap_y < w.rows; tap_y++) {
            VECTOR row_sums[PARTS];
            EACH_PART row_sums[v] = V_ZERO();
            for (int64_t tap_x = 0; tap_x < w.columns; tap_x++)
                EACH_PART row_sums[v] = V_ADD(row_sums[v], V_LOAD(x + TAP(w)));
            EACH_PART sums[v] = V_ADD(sums[v], row_sums[v]);
        }
        EACH_PART V_STORE(y + v * LANES, V_MUL(sums[v], V_SET(weight)));
        y += ESP_BLOCK;
    }
}

/* The first maximum is looked for again, with its tap's number; then each tap gets what is its own. */
KERNEL_TARGET
static void KERNEL(max_backward_row)(const esp_pool2d_geometry *g, const float *x, int64_t row,
                                     const float *dy, float *dx)
{
    EACH_WINDOW(walk)
    {
        const blocked_window w = walk.w;
        const float *from = dy + walk.column * ESP_BLOCK;
        if (w.rows == 0 || w.columns == 0)
            continue;
        VECTOR best[PARTS], at[PARTS], gradient[PARTS];
        KERNEL(fetch_below)(g, x, &w);
        EACH_PART
        {
            best[v] = V_LOAD(x + w.offset + v * LANES);
            at[v] = V_ZERO();
            gradient[v] = V_LOAD(from + v * LANES);
        }
        float number = 0.0f;
        EACH_TAP(w)
        {
            VECTOR tap = V_SET(number);
            EACH_PART
            {
                VECTOR value = V_LOAD(x + TAP(w));
                V_TAKE_LARGER(value, tap, best[v], at[v]);
            }
            number += 1.0f;
        }
        number = 0.0f;
        EACH_TAP(w)
        {
            VECTOR tap = V_SET(number);
            EACH_PART V_STORE(dx + TAP(w), V_ADD_AT(V_LOAD(dx + TAP(w)), at[v], tap, gradient[v]));
            number += 1.0f;
        }
    }
}

KERNEL_TARGET
static void KERNEL(average_backward_row)(const esp_pool2d_geometry *g, const float *x, int64_t row,
                                         const float *dy, float *dx)
{
    (void)x;
    float weight = 0.0f;
    EACH_WINDOW(walk)
    {
        const blocked_window w = walk.w;
        VECTOR share[PARTS];
        if (walk.is_other)
            weight = esp_pool2d_weight(g, row, walk.column);
        EACH_PART share[v] = V_MUL(V_LOAD(dy + walk.column * ESP_BLOCK + v * LANES), V_SET(weight));
        EACH_TAP(w) EACH_PART V_STORE(dx + TAP(w), V_ADD(V_LOAD(dx + TAP(w)), share[v]));
    }
}

static const blocked_passes KERNEL(passes) = {
    .rescale = KERNEL(rescale),
    .statistics = KERNEL(statistics),
    .gradient_sums = KERNEL(gradient_sums),
    .gradient = KERNEL(gradient),
    .max_row = KERNEL(max_row),
    .average_row = KERNEL(average_row),
    .max_backward_row = KERNEL(max_backward_row),
    .average_backward_row = KERNEL(average_backward_row),
};

#undef EACH_WINDOW
#undef EACH_TAP
#undef TAP
#undef PARTS
#undef EACH_PART
#undef IS_ALIGNED
#undef END_OF_STREAM
#undef V_STREAM
#undef V_SUB
#undef V_BETWEEN
#undef V_LARGER
#undef V_TAKE_LARGER
#undef V_HAS_NAN
#undef V_ADD_AT
