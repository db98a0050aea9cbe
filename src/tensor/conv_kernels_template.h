/* The bodies of conv_kernels.h and the table of them, included once per instruction set. The includer
 * defines, and this file takes back, KERNEL(name), KERNEL_TARGET   the name with a suffix, the function
 * attribute KERNEL_NAME                   what the table is called LANES, VECTOR                 width and
 * type of a vector V_ZERO V_SET V_LOAD V_STORE V_ADD V_FMA V_LOAD_FIRST, V_STORE_FIRST   the first n lanes
 * (all if n >= LANES); the rest zero / kept V_LOAD_EVEN, V_STORE_EVEN     the same for the floats p[0], p[2],
 * p[4] ... TILE_FILTERS, TILE_VECTORS, OUTER_DEPTH_1, OUTER_DEPTH_2 FILTER_COUNTS(X)              X(1) ...
 * X(TILE_FILTERS) OUTER_DEPTHS_1(X), _2(X)      X(1) ... X(OUTER_DEPTH_1), X(OUTER_DEPTH_2) and the functions
 *   KERNEL(square)                transposes LANES vectors in place
 *   KERNEL(is_supported)          whether this processor has the instruction set
 * No include guard: this is a template. */

/* clang-format off: it does not know that UNROLL stands before a loop. */
KERNEL_INLINE void KERNEL(rows_tile)(const int filters, int64_t depth, const int32_t *offsets,
                                     const float *base, const float *w, float *out, int64_t out_stride)
{
    VECTOR sums[TILE_FILTERS][TILE_VECTORS];
    UNROLL for (int f = 0; f < filters; f++) UNROLL for (int v = 0; v < TILE_VECTORS; v++) sums[f][v] =
        V_ZERO();
    for (int64_t r = 0; r < depth; r++, w += filters) {
        const float *pixels = base + offsets[r];
        VECTOR x[TILE_VECTORS];
        UNROLL for (int v = 0; v < TILE_VECTORS; v++) x[v] = V_LOAD(pixels + v * LANES);
        UNROLL for (int f = 0; f < filters; f++)
        {
            VECTOR weight = V_SET(w[f]);
            UNROLL for (int v = 0; v < TILE_VECTORS; v++) sums[f][v] = V_FMA(weight, x[v], sums[f][v]);
        }
    }
    UNROLL for (int f = 0; f < filters; f++) UNROLL for (int v = 0; v < TILE_VECTORS; v++)
        V_STORE(out + f * out_stride + v * LANES, sums[f][v]);
}

KERNEL_INLINE void KERNEL(outer_tile)(const int depth, const int vectors, const conv_sweep *sweep,
                                      const float *x, const float *dy, float *target, int64_t target_stride)
{
    VECTOR sums[OUTER_DEPTH_1][2];
    UNROLL for (int r = 0; r < depth; r++) UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = V_ZERO();
    const int64_t x_column = sweep->x_column, dy_column = sweep->dy_column;
    for (int64_t line = 0; line < sweep->images * sweep->rows; line++) {
        int64_t n = line / sweep->rows, row = line % sweep->rows;
        const float *a = x + n * sweep->x_image + row * sweep->x_row;
        const float *b = dy + n * sweep->dy_image + row * sweep->dy_row;
        for (int64_t column = 0; column < sweep->columns; column++, a += x_column, b += dy_column) {
            VECTOR gradient[2];
            UNROLL for (int v = 0; v < vectors; v++) gradient[v] = V_LOAD(b + v * LANES);
            UNROLL for (int r = 0; r < depth; r++)
            {
                VECTOR value = V_SET(a[r]);
                UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = V_FMA(value, gradient[v], sums[r][v]);
            }
        }
    }
    UNROLL for (int r = 0; r < depth; r++) UNROLL for (int v = 0; v < vectors; v++)
    {
        float *at = target + r * target_stride + v * LANES;
        V_STORE(at, V_ADD(V_LOAD(at), sums[r][v]));
    }
}

/* A block of the transposition: LANES source rows (zeros from `rows` on) by LANES columns. */
KERNEL_INLINE void KERNEL(load_block)(int64_t rows, int64_t columns, const float *source,
                                      int64_t source_stride, VECTOR block[LANES])
{
    if (rows >= LANES)
        UNROLL for (int i = 0; i < LANES; i++)
            __builtin_prefetch(source + i * source_stride + FETCH_AHEAD_ROWS);
    UNROLL for (int i = 0; i < LANES; i++) block[i] =
        i < rows ? V_LOAD_FIRST(source + i * source_stride, columns) : V_ZERO();
    KERNEL(square)(block);
}
/* clang-format on */

#define ROWS_KERNEL(filters)                                                                                 \
    KERNEL_TARGET static void KERNEL(rows_##filters)(int64_t depth, const int32_t *offsets,                  \
                                                     const float *base, const float *w, float *out,          \
                                                     int64_t out_stride)                                     \
    {                                                                                                        \
        KERNEL(rows_tile)(filters, depth, offsets, base, w, out, out_stride);                                \
    }
#define OUTER_KERNEL(vectors, depth)                                                                         \
    KERNEL_TARGET static void KERNEL(outer_##vectors##_##depth)(                                             \
        const conv_sweep *sweep, const float *x, const float *dy, float *target, int64_t target_stride)      \
    {                                                                                                        \
        KERNEL(outer_tile)(depth, vectors, sweep, x, dy, target, target_stride);                             \
    }

#define OUTER_1_KERNEL(depth) OUTER_KERNEL(1, depth)
#define OUTER_2_KERNEL(depth) OUTER_KERNEL(2, depth)

/* clang-format off: lists without separators. */
FILTER_COUNTS(ROWS_KERNEL)
OUTER_DEPTHS_1(OUTER_1_KERNEL)
OUTER_DEPTHS_2(OUTER_2_KERNEL)
/* clang-format on */

#define ROWS_ENTRY(filters)  [filters] = KERNEL(rows_##filters),
#define OUTER_1_ENTRY(depth) [depth] = KERNEL(outer_1_##depth),
#define OUTER_2_ENTRY(depth) [depth] = KERNEL(outer_2_##depth),

static conv_rows_fn *const KERNEL(rows_table)[] = {FILTER_COUNTS(ROWS_ENTRY)};
static conv_outer_fn *const KERNEL(outer_1_table)[] = {OUTER_DEPTHS_1(OUTER_1_ENTRY)};
static conv_outer_fn *const KERNEL(outer_2_table)[] = {OUTER_DEPTHS_2(OUTER_2_ENTRY)};

KERNEL_TARGET static void KERNEL(pack)(int64_t rows, int64_t left, int64_t width, int64_t pitch,
                                       const float *source, int64_t source_row, int64_t step, float *target)
{
    /* Zeros are whole vectors too: what they spill over is written later. */
    for (int64_t row = 0; row < rows; row++, source += source_row, target += pitch) {
        for (int64_t i = 0; i < left; i += LANES)
            V_STORE(target + i, V_ZERO());
        float *values = target + left;
        int64_t i = 0;
        if (step == 1)
            for (; i < width; i += LANES) {
                __builtin_prefetch(source + i + FETCH_AHEAD);
                __builtin_prefetch(values + i + STORE_AHEAD, 1);
                V_STORE(values + i, V_LOAD_FIRST(source + i, width - i));
            }
        else if (step == 2)
            for (; i < width; i += LANES) {
                __builtin_prefetch(source + 2 * i + FETCH_AHEAD);
                __builtin_prefetch(values + i + STORE_AHEAD, 1);
                V_STORE(values + i, V_LOAD_EVEN(source + 2 * i, width - i));
            }
        else
            for (; i < width; i++)
                values[i] = source[i * step];
        for (i += left; i < pitch; i += LANES)
            V_STORE(target + i, V_ZERO());
    }
}

KERNEL_TARGET static void KERNEL(unpack)(int64_t rows, int64_t width, int64_t pitch, float bias,
                                         const float *flat, int64_t target_row, int64_t step, float *target)
{
    const VECTOR offset = V_SET(bias);
    for (int64_t row = 0; row < rows; row++, flat += pitch, target += target_row) {
        int64_t i = 0;
        if (step == 1)
            for (; i < width; i += LANES) {
                __builtin_prefetch(target + i + FETCH_AHEAD, 1);
                V_STORE_FIRST(target + i, V_ADD(V_LOAD_FIRST(flat + i, width - i), offset), width - i);
            }
        else if (step == 2)
            for (; i < width; i += LANES)
                V_STORE_EVEN(target + 2 * i, V_ADD(V_LOAD_FIRST(flat + i, width - i), offset), width - i);
        else
            for (; i < width; i++)
                target[i * step] = flat[i] + bias;
    }
}

KERNEL_TARGET static void KERNEL(transpose)(int64_t rows, int64_t padded_rows, int64_t columns,
                                            const float *source, int64_t source_stride, float *target,
                                            int64_t target_stride)
{
    for (int64_t row = 0; row < padded_rows; row += LANES)
        for (int64_t column = 0; column < columns; column += LANES) {
            VECTOR block[LANES];
            KERNEL(load_block)
            (rows - row, columns - column, source + row * source_stride + column, source_stride, block);
            float *stored = target + column * target_stride + row;
            for (int64_t i = 0; i < LANES && i < columns - column; i++, stored += target_stride) {
                __builtin_prefetch(stored + LANES * target_stride, 1);
                V_STORE_FIRST(stored, block[i], padded_rows - row);
            }
        }
}

const conv_kernels KERNEL(esp_conv) = {
    .name = KERNEL_NAME,
    .is_supported = KERNEL(is_supported),
    .lanes = LANES,
    .tile_filters = TILE_FILTERS,
    .tile_vectors = TILE_VECTORS,
    .rows = KERNEL(rows_table),
    .outer_depth = {0, OUTER_DEPTH_1, OUTER_DEPTH_2},
    .outer = {NULL, KERNEL(outer_1_table), KERNEL(outer_2_table)},
    .pack = KERNEL(pack),
    .unpack = KERNEL(unpack),
    .transpose = KERNEL(transpose),
};

#undef KERNEL
#undef KERNEL_TARGET
#undef KERNEL_NAME
#undef LANES
#undef VECTOR
#undef V_ZERO
#undef V_SET
#undef V_LOAD
#undef V_STORE
#undef V_ADD
#undef V_FMA
#undef FIRST_LANES
#undef V_LOAD_FIRST
#undef V_STORE_FIRST
#undef V_LOAD_EVEN
#undef V_STORE_EVEN
#undef TILE_FILTERS
#undef TILE_VECTORS
#undef FILTER_COUNTS
#undef OUTER_DEPTH_1
#undef OUTER_DEPTHS_1
#undef OUTER_DEPTH_2
#undef OUTER_DEPTHS_2
#undef ROWS_KERNEL
#undef OUTER_KERNEL
#undef OUTER_1_KERNEL
#undef OUTER_2_KERNEL
#undef ROWS_ENTRY
#undef OUTER_1_ENTRY
#undef OUTER_2_ENTRY
