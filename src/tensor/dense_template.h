/* Tiles of dot products of dense.c, once per instruction set (blocked_isas.h): `rows` rows of x with
 * `filters` rows of w, one vector of running sums each. */

#if LANES == 16
#define V_SUM(v)  _mm512_reduce_add_ps(v)
#define MOST_ROWS 6
#elif LANES == 8
#define V_SUM(v)  KERNEL(sum)(v)
#define MOST_ROWS 3
KERNEL_INLINE float KERNEL(sum)(__m256 v)
{
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
#else
#define V_SUM(v)  (((v)[0] + (v)[1]) + ((v)[2] + (v)[3]))
#define MOST_ROWS 3
#endif

/* sums[f * sums_pitch + r] = or += the product over `count` channels, a multiple of LANES; the vectors of
 * running sums are kept there from one stretch of channels to the next. One or two rows go through w as fast
 * as the processor foresees it by itself; more of them it must be told what comes. */
KERNEL_INLINE void KERNEL(tile)(int rows, int filters, int64_t count, const float *x, int64_t x_pitch,
                                const float *w, int64_t w_pitch, bool is_first, float *sums,
                                int64_t sums_pitch)
{
    VECTOR total[8][MOST_ROWS];
    UNROLL for (int f = 0; f < filters; f++) UNROLL for (int r = 0; r < rows; r++)
    {
        total[f][r] = V_ZERO();
        if (!is_first)
            total[f][r] = V_LOAD(sums + (f * sums_pitch + r) * LANES);
    }
    for (int64_t i = 0; i < count; i += LANES) {
        VECTOR weights[8];
        UNROLL for (int f = 0; f < filters; f++)
        {
            weights[f] = V_LOAD(w + f * w_pitch + i);
            if (rows > 2)
                __builtin_prefetch(w + f * w_pitch + i + STRETCH);
        }
        UNROLL for (int r = 0; r < rows; r++)
        {
            VECTOR value = V_LOAD(x + r * x_pitch + i);
            UNROLL for (int f = 0; f < filters; f++) total[f][r] = V_FMA(value, weights[f], total[f][r]);
        }
    }
    UNROLL for (int f = 0; f < filters; f++) UNROLL for (int r = 0; r < rows; r++)
        V_STORE(sums + (f * sums_pitch + r) * LANES, total[f][r]);
}

/* Any number of rows and filters, by the tiles there are. */
KERNEL_TARGET
static void KERNEL(products)(int64_t rows, int64_t filters, int64_t count, const float *x, int64_t x_pitch,
                             const float *w, int64_t w_pitch, bool is_first, float *sums)
{
    for (int64_t r = 0; r < rows; r += MOST_ROWS) {
        int64_t f = 0, height = rows - r < MOST_ROWS ? rows - r : MOST_ROWS;
        const float *from = x + r * x_pitch;
#define TILE(height, width)                                                                                  \
    KERNEL(tile)                                                                                             \
    (height, width, count, from, x_pitch, w + f * w_pitch, w_pitch, is_first, sums + (f * rows + r) * LANES, \
     rows)
#define TILES_OF(height)                                                                                     \
    for (; f + 4 <= filters; f += 4)                                                                         \
        TILE(height, 4);                                                                                     \
    for (; f < filters; f++)                                                                                 \
        TILE(height, 1);                                                                                     \
    break
        switch (height) {
        case 1:
            for (; f + 8 <= filters; f += 8)
                TILE(1, 8);
            TILES_OF(1);
        case 2:
            TILES_OF(2);
        case 3:
            TILES_OF(3);
#if MOST_ROWS == 6
        case 4:
            TILES_OF(4);
        case 5:
            TILES_OF(5);
        case 6:
            TILES_OF(6);
#endif
        }
#undef TILE
#undef TILES_OF
    }
}

/* Adds up the vectors. */
KERNEL_TARGET
static void KERNEL(finish)(int64_t count, const float *sums, float *totals)
{
    for (int64_t i = 0; i < count; i++)
        totals[i] = V_SUM(V_LOAD(sums + i * LANES));
}

static const dense_kernels KERNEL(dense) = {LANES, MOST_ROWS, KERNEL(products), KERNEL(finish)};

#undef V_SUM
#undef MOST_ROWS
