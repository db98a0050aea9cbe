/* Outer-product tiles of blocked_grad_weight.c, once per instruction set (blocked_isas.h). Tiles fill the
 * registers: 24 rows by 1 block or 12 by 2 of AVX-512's 32, 6 rows by 1 block (two vectors) of AVX2's 16, 2
 * rows by 1 block (four vectors) of the plain 16. No include guard: this is a template. */

/* Lists without separators. clang-format breaks them differently each time. */
/* clang-format off */
#define PARTS (ESP_BLOCK / LANES)
#if LANES == 16
#define OUTER_ROWS_1    24
#define OUTER_LIST_1(X) \
    X(1, 1) X(1, 2) X(1, 3) X(1, 4) X(1, 5) X(1, 6) X(1, 7) X(1, 8) X(1, 9) X(1, 10) X(1, 11) X(1, 12) \
    X(1, 13) X(1, 14) X(1, 15) X(1, 16) X(1, 17) X(1, 18) X(1, 19) X(1, 20) X(1, 21) X(1, 22) X(1, 23) X(1, 24)
#define OUTER_ROWS_2 12
#define OUTER_LIST_2(X)                                                                                      \
    X(2, 1) X(2, 2) X(2, 3) X(2, 4) X(2, 5) X(2, 6) X(2, 7) X(2, 8) X(2, 9) X(2, 10) X(2, 11) X(2, 12)
#elif LANES == 8
#define OUTER_ROWS_1    6
#define OUTER_LIST_1(X) X(1, 1) X(1, 2) X(1, 3) X(1, 4) X(1, 5) X(1, 6)
#else
#define OUTER_ROWS_1    2
#define OUTER_LIST_1(X) X(1, 1) X(1, 2)
#endif
/* clang-format on */

/* clang-format off: it does not know that UNROLL stands before a loop. */
KERNEL_INLINE void KERNEL(outer_tile)(const int blocks, const int rows, const grad_sweep *sweep,
                                      const float *x, const float *dy, float *sums)
{
    VECTOR total[24][2 * PARTS];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < blocks * PARTS; v++) total[r][v] =
        V_ZERO();
    const int64_t x_column = sweep->x_column, dy_block = sweep->dy_block;
    const int64_t ahead_column = sweep->ahead_column, columns = sweep->columns;
    const int64_t x_row = sweep->x_row - columns * x_column, dy_row = sweep->dy_row - columns * ESP_BLOCK;
    const int64_t ahead_row = sweep->ahead_row - columns * ahead_column;
    for (int64_t image = 0; image < sweep->images; image++) {
        const float *a = x + image * sweep->x_image, *b = dy + image * sweep->dy_image;
        const float *ahead = sweep->ahead + image * sweep->ahead_image;
        for (int64_t row = sweep->rows; row > 0; row--, a += x_row, b += dy_row, ahead += ahead_row)
            for (int64_t column = columns; column > 0; column--) {
                VECTOR gradient[2 * PARTS];
                UNROLL for (int v = 0; v < blocks * PARTS; v++) gradient[v] =
                    V_LOAD(b + v / PARTS * dy_block + v % PARTS * LANES);
                UNROLL for (int r = 0; r < rows; r++)
                {
                    VECTOR value = V_SET(a[r]);
                    UNROLL for (int v = 0; v < blocks * PARTS; v++) total[r][v] =
                        V_FMA(value, gradient[v], total[r][v]);
                }
                __builtin_prefetch(ahead, 0, 2);
                a += x_column;
                b += ESP_BLOCK;
                ahead += ahead_column;
            }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < blocks * PARTS; v++)
    {
        float *at = sums + v / PARTS * sweep->sums_block + r * ESP_BLOCK + v % PARTS * LANES;
        V_STORE(at, V_ADD(V_LOAD(at), total[r][v]));
    }
}
/* clang-format on */

#define OUTER_KERNEL(blocks, rows)                                                                           \
    KERNEL_TARGET static void KERNEL(outer_##blocks##_##rows)(const grad_sweep *sweep, const float *x,       \
                                                              const float *dy, float *sums)                  \
    {                                                                                                        \
        KERNEL(outer_tile)(blocks, rows, sweep, x, dy, sums);                                                \
    }
#define OUTER_ENTRY(blocks, rows) [rows] = KERNEL(outer_##blocks##_##rows),

/* clang-format off: lists without separators. */
OUTER_LIST_1(OUTER_KERNEL)
static outer_fn *const KERNEL(outer_1)[] = {OUTER_LIST_1(OUTER_ENTRY)};
#ifdef OUTER_ROWS_2
OUTER_LIST_2(OUTER_KERNEL)
static outer_fn *const KERNEL(outer_2)[] = {OUTER_LIST_2(OUTER_ENTRY)};
#endif
/* clang-format on */

static const outer_kernels KERNEL(outer_kernels) = {
#ifdef OUTER_ROWS_2
    .blocks = 2,
    .rows = {0, OUTER_ROWS_1, OUTER_ROWS_2},
    .tiles = {NULL, KERNEL(outer_1), KERNEL(outer_2)},
#else
    .blocks = 1,
    .rows = {0, OUTER_ROWS_1},
    .tiles = {NULL, KERNEL(outer_1)},
#endif
};

#undef PARTS
#undef OUTER_ROWS_1
#undef OUTER_LIST_1
#undef OUTER_ROWS_2
#undef OUTER_LIST_2
#undef OUTER_KERNEL
#undef OUTER_ENTRY
