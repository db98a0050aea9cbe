/* The bodies of group_conv_kernels.h for one instruction set. Before including it, define
 *   KERNEL(name), KERNEL_TARGET, KERNEL_ISA   the suffix and the function attribute of the set, its name
 *   VECTOR, LANES                             the type and how many floats it holds
 *   MASK, V_FIRST(n)                          the mask of the first n lanes, 0 <= n <= LANES
 *   V_ZERO V_SET V_LOAD V_STORE V_ADD V_SUB V_FMA(a*b+c) V_FNMA(c-a*b) V_CLIP(v, low, high)   NaN stays NaN
 *   V_STREAM(p, v)                            V_STORE to an aligned address, past the caches
 *   V_LOAD_MASK(p, mask) V_STORE_MASK(p, mask, v)   other lanes: zero / not touched
 *   TILE_SIZES(X)                             X(filters, vectors) for all tiles there are
 *   TILE_FILTERS, TILE_VECTORS                initialisers of the table's members
 *   HAS_FEW                                   1: there are registers enough for the tiles FEW
 * and the functions
 *   KERNEL(take)(copy, step, p)               what a group_copy writes; p: of lane 0. Lanes outside of its
 *                                             range may lie outside of x: they are not read
 *   KERNEL(split)(p, out)                     out[j] lane t = p[4*t + j], j < 4
 *   KERNEL(weave)(v, p)                       p[4*t + j] = v[j] lane t
 * All are undefined at the end. No include guard: this is a template. */

/* clang-format off: it does not know that UNROLL stands before a loop. */

KERNEL_INLINE void KERNEL(store_one)(float sum, VECTOR scale, VECTOR shift, const group_store *store,
                                     int64_t at, float *y)
{
    VECTOR value = V_FMA(V_SET(sum), scale, shift);
    if (store->residual != NULL)
        value = V_ADD(value, V_SET(store->residual[at]));
    if (store->clips)
        value = V_CLIP(value, V_SET(store->low), V_SET(store->high));
    V_STORE_MASK(y + at, V_FIRST(1), value);
}

/* `extra`: pixels behind the vectors that have filters in lanes. */
KERNEL_INLINE void KERNEL(tile)(const group_tile_kind kind, const int filters, const int vectors,
                                const int extra, int64_t depth, const int32_t *offsets, const float *x,
                                const float *w, int tail, float *y, int64_t y_plane, const group_ahead *ahead,
                                const int32_t *channels, const group_store *store)
{
    const MASK last = V_FIRST(extra > 0 ? LANES : tail);
    const int64_t x_ahead = ahead->x, w_step = ahead->w_step, found = extra > 0 ? tail - LANES : 0;
    const char *w_ahead = ahead->w;
    int64_t extra_at[GROUP_FEW];
    VECTOR sums[GROUP_FILTERS][GROUP_VECTORS], extras[GROUP_FEW];
    UNROLL for (int f = 0; f < filters; f++) UNROLL for (int v = 0; v < vectors; v++) sums[f][v] = V_ZERO();
    UNROLL for (int e = 0; e < extra; e++)
    {
        extras[e] = V_ZERO();
        extra_at[e] = vectors * LANES + (e < found ? e : 0);
    }
    if (kind != GROUP_TILE_RAW && !store->streams)
        UNROLL for (int f = 0; f < filters; f++) UNROLL for (int v = 0; v < vectors; v++)
            __builtin_prefetch(y + channels[f] * y_plane + v * LANES, 1);
    for (int64_t r = 0; r < depth; r++, w += filters, w_ahead += w_step) {
        const float *pixels = x + offsets[r];
        VECTOR value[GROUP_VECTORS];
        UNROLL for (int v = 0; v < vectors - 1; v++) value[v] = V_LOAD(pixels + v * LANES);
        if (kind == GROUP_TILE_STORED)
            value[vectors - 1] = V_LOAD_MASK(pixels + (vectors - 1) * LANES, last);
        else
            value[vectors - 1] = V_LOAD(pixels + (vectors - 1) * LANES);
        if (kind != GROUP_TILE_RAW)
            UNROLL for (int v = 0; v < vectors; v++) __builtin_prefetch(pixels + x_ahead + v * LANES);
        __builtin_prefetch(w_ahead);
        if (extra > 0) {
            const VECTOR column = V_LOAD_MASK(w, V_FIRST(filters));
            UNROLL for (int e = 0; e < extra; e++) extras[e] =
                V_FMA(column, V_SET(pixels[extra_at[e]]), extras[e]);
        }
        UNROLL for (int f = 0; f < filters; f++)
        {
            const VECTOR weight = V_SET(w[f]);
            UNROLL for (int v = 0; v < vectors; v++) sums[f][v] = V_FMA(weight, value[v], sums[f][v]);
        }
    }
    if (kind == GROUP_TILE_RAW) {
        UNROLL for (int f = 0; f < filters; f++) UNROLL for (int v = 0; v < vectors; v++)
            V_STORE(y + f * y_plane + v * LANES, sums[f][v]);
        return;
    }
    float rest[GROUP_FEW][LANES];
    UNROLL for (int e = 0; e < extra; e++) V_STORE(rest[e], extras[e]);
    UNROLL for (int f = 0; f < filters; f++)
    {
        const int64_t at = channels[f] * y_plane;
        const VECTOR scale = V_SET(store->scale[channels[f]]), shift = V_SET(store->shift[channels[f]]);
        UNROLL for (int v = 0; v < vectors; v++) sums[f][v] = V_FMA(sums[f][v], scale, shift);
        if (store->residual != NULL) {
            const float *residual = store->residual + at;
            UNROLL for (int v = 0; v < vectors - 1; v++) sums[f][v] =
                V_ADD(sums[f][v], V_LOAD(residual + v * LANES));
            sums[f][vectors - 1] =
                V_ADD(sums[f][vectors - 1], V_LOAD_MASK(residual + (vectors - 1) * LANES, last));
        }
        if (store->clips)
            UNROLL for (int v = 0; v < vectors; v++) sums[f][v] =
                V_CLIP(sums[f][v], V_SET(store->low), V_SET(store->high));
        if (kind == GROUP_TILE_STORED && store->streams && tail == LANES) {
            UNROLL for (int v = 0; v < vectors; v++) V_STREAM(y + at + v * LANES, sums[f][v]);
            continue;
        }
        UNROLL for (int v = 0; v < vectors - 1; v++) V_STORE(y + at + v * LANES, sums[f][v]);
        V_STORE_MASK(y + at + (vectors - 1) * LANES, last, sums[f][vectors - 1]);
        UNROLL for (int e = 0; e < extra; e++) if (e < found)
            KERNEL(store_one)(rest[e][f], scale, shift, store, at + vectors * LANES + e, y);
    }
}

KERNEL_INLINE void KERNEL(copy_all)(const group_copy *copies, int64_t count, int64_t step, const float *from,
                                    float *to)
{
    for (int64_t i = 0; i < count; i++)
        V_STORE(to + copies[i].to, KERNEL(take)(copies + i, step, from + copies[i].from));
}

KERNEL_TARGET static void KERNEL(copy)(const group_copy *copies, int64_t count, int64_t step,
                                       const float *from, float *to)
{
    if (step == 1)
        KERNEL(copy_all)(copies, count, 1, from, to);
    else if (step == 2)
        KERNEL(copy_all)(copies, count, 2, from, to);
    else
        KERNEL(copy_all)(copies, count, step, from, to);
}

KERNEL_TARGET static void KERNEL(finish)(const group_segment *segments, int64_t count, const float *sums,
                                         float *y, int64_t channel, const group_store *store)
{
    const VECTOR scale = V_SET(store->scale[channel]), shift = V_SET(store->shift[channel]);
    const VECTOR low = V_SET(store->low), high = V_SET(store->high);
    for (; count > 0; count--, segments++) {
        for (int64_t i = 0; i < segments->length; i += LANES) {
            const int64_t left = segments->length - i, at = segments->to + i;
            const MASK first = V_FIRST(left < LANES ? left : LANES);
            VECTOR value = V_FMA(V_LOAD_MASK(sums + segments->from + i, first), scale, shift);
            if (store->residual != NULL)
                value = V_ADD(value, V_LOAD_MASK(store->residual + at, first));
            if (store->clips)
                value = V_CLIP(value, low, high);
            V_STORE_MASK(y + at, first, value);
        }
    }
}

/* Rows 0..2, and 3..5, of Winograd's B' times a column (winograd_transform.h). */
KERNEL_INLINE void KERNEL(input_upper)(const VECTOR *d, VECTOR *out)
{
    VECTOR even = V_FNMA(V_SET(4.0f), d[2], d[4]), odd = V_FNMA(V_SET(4.0f), d[1], d[3]);
    out[0] = V_FNMA(V_SET(5.0f), d[2], V_FMA(V_SET(4.0f), d[0], d[4]));
    out[1] = V_ADD(even, odd);
    out[2] = V_SUB(even, odd);
}

KERNEL_INLINE void KERNEL(input_lower)(const VECTOR *d, VECTOR *out)
{
    VECTOR even = V_SUB(d[4], d[2]), odd = V_SUB(d[3], d[1]);
    out[0] = V_FMA(V_SET(2.0f), odd, even);
    out[1] = V_FNMA(V_SET(2.0f), odd, even);
    out[2] = V_FNMA(V_SET(5.0f), d[3], V_FMA(V_SET(4.0f), d[1], d[5]));
}

/* Columns first, as they come out of the lines: that needs no more registers than six rows of six sums. */
KERNEL_TARGET static void KERNEL(winograd_input)(const float *lines, int64_t line, int64_t below,
                                                 int64_t vectors, float *v, int64_t point_stride)
{
    for (; vectors > 0; vectors--, lines += 4 * LANES, v += LANES) {
        VECTOR columns[6][6]; /* [point of the row][row of the patch] */
        UNROLL for (int i = 0; i < 6; i++)
        {
            VECTOR d[8], out[6];
            const float *row = lines + 2 * (i % 4) * line + i / 4 * below;
            KERNEL(split)(row, d);
            KERNEL(split)(row + line, d + 4);
            KERNEL(input_upper)(d, out);
            KERNEL(input_lower)(d, out + 3);
            UNROLL for (int j = 0; j < 6; j++) columns[j][i] = out[j];
        }
        UNROLL for (int j = 0; j < 6; j++)
        {
            VECTOR out[6];
            KERNEL(input_upper)(columns[j], out);
            KERNEL(input_lower)(columns[j], out + 3);
            UNROLL for (int i = 0; i < 6; i++) V_STORE(v + (6 * i + j) * point_stride, out[i]);
        }
    }
}

/* A' times a column of six. */
KERNEL_INLINE void KERNEL(output_column)(const VECTOR *m, VECTOR *out)
{
    VECTOR near_sum = V_ADD(m[1], m[2]), near_difference = V_SUB(m[1], m[2]);
    VECTOR far_sum = V_ADD(m[3], m[4]), far_difference = V_SUB(m[3], m[4]);
    out[0] = V_ADD(V_ADD(m[0], near_sum), far_sum);
    out[1] = V_FMA(V_SET(2.0f), far_difference, near_difference);
    out[2] = V_FMA(V_SET(4.0f), far_sum, near_sum);
    out[3] = V_ADD(V_FMA(V_SET(8.0f), far_difference, near_difference), m[5]);
}

KERNEL_TARGET static void KERNEL(winograd_output)(const float *m, int64_t point_stride, int64_t vectors,
                                                  float *rows, int64_t row)
{
    for (; vectors > 0; vectors--, m += LANES, rows += 4 * LANES) {
        VECTOR columns[4][6];
        UNROLL for (int j = 0; j < 6; j++)
        {
            VECTOR sums[6], out[4];
            UNROLL for (int i = 0; i < 6; i++) sums[i] = V_LOAD(m + (6 * i + j) * point_stride);
            KERNEL(output_column)(sums, out);
            UNROLL for (int i = 0; i < 4; i++) columns[i][j] = out[i];
        }
        UNROLL for (int i = 0; i < 4; i++)
        {
            VECTOR out[4];
            KERNEL(output_column)(columns[i], out);
            KERNEL(weave)(out, rows + i * row);
        }
    }
}
/* clang-format on */

#define TILE_KERNEL(kind, name, extra, filters, vectors)                                                     \
    KERNEL_TARGET static void KERNEL(name##_##filters##_##vectors)(                                          \
        int64_t depth, const int32_t *offsets, const float *x, const float *w, int tail, float *y,           \
        int64_t y_plane, const group_ahead *ahead, const int32_t *channels, const group_store *store)        \
    {                                                                                                        \
        KERNEL(tile)                                                                                         \
        (kind, filters, vectors, extra, depth, offsets, x, w, tail, y, y_plane, ahead, channels, store);     \
    }
#define RAW_KERNEL(filters, vectors)    TILE_KERNEL(GROUP_TILE_RAW, raw_tile, 0, filters, vectors)
#define STORED_KERNEL(filters, vectors) TILE_KERNEL(GROUP_TILE_STORED, stored_tile, 0, filters, vectors)
#define ODD_KERNEL(filters, vectors)    TILE_KERNEL(GROUP_TILE_ODD, odd_tile, 1, filters, vectors)
#define FEW_KERNEL(filters, vectors)    TILE_KERNEL(GROUP_TILE_FEW, few_tile, GROUP_FEW, filters, vectors)

#define TILE_ENTRY(name, filters, vectors)                                                                   \
    [(filters)*GROUP_VECTORS + (vectors)-1] = KERNEL(name##_##filters##_##vectors),
#define RAW_ENTRY(filters, vectors)    TILE_ENTRY(raw_tile, filters, vectors)
#define STORED_ENTRY(filters, vectors) TILE_ENTRY(stored_tile, filters, vectors)
#define ODD_ENTRY(filters, vectors)    TILE_ENTRY(odd_tile, filters, vectors)
#define FEW_ENTRY(filters, vectors)    TILE_ENTRY(few_tile, filters, vectors)

/* An odd pixel has its filters in lanes: there must be enough. */
#define HAS_ODD (LANES >= TILE_FILTERS)

/* clang-format off: lists without separators. */
TILE_SIZES(RAW_KERNEL)
TILE_SIZES(STORED_KERNEL)
#if HAS_ODD
TILE_SIZES(ODD_KERNEL)
#endif
#if HAS_FEW
TILE_SIZES(FEW_KERNEL)
#endif

typedef group_tile_fn *const KERNEL(tile_table)[(GROUP_FILTERS + 1) * GROUP_VECTORS];
static KERNEL(tile_table) KERNEL(raw_tiles) = {TILE_SIZES(RAW_ENTRY)};
static KERNEL(tile_table) KERNEL(stored_tiles) = {TILE_SIZES(STORED_ENTRY)};
#if HAS_ODD
static KERNEL(tile_table) KERNEL(odd_tiles) = {TILE_SIZES(ODD_ENTRY)};
#endif
#if HAS_FEW
static KERNEL(tile_table) KERNEL(few_tiles) = {TILE_SIZES(FEW_ENTRY)};
#endif
/* clang-format on */

static const group_kernels KERNEL(kernels) = {
    .isa = KERNEL_ISA,
    .lanes = LANES,
    .filters = TILE_FILTERS,
    .vectors = TILE_VECTORS,
    .tiles =
        {
            [GROUP_TILE_RAW] = KERNEL(raw_tiles),
            [GROUP_TILE_STORED] = KERNEL(stored_tiles),
#if HAS_ODD
            [GROUP_TILE_ODD] = KERNEL(odd_tiles),
#endif
#if HAS_FEW
            [GROUP_TILE_FEW] = KERNEL(few_tiles),
#endif
        },
    .copy = KERNEL(copy),
    .finish = KERNEL(finish),
    .winograd_input = KERNEL(winograd_input),
    .winograd_output = KERNEL(winograd_output),
};

#undef TILE_KERNEL
#undef RAW_KERNEL
#undef STORED_KERNEL
#undef ODD_KERNEL
#undef FEW_KERNEL
#undef TILE_ENTRY
#undef RAW_ENTRY
#undef STORED_ENTRY
#undef ODD_ENTRY
#undef FEW_ENTRY
#undef HAS_ODD
#undef HAS_FEW
#undef KERNEL
#undef KERNEL_TARGET
#undef KERNEL_ISA
#undef VECTOR
#undef LANES
#undef MASK
#undef V_FIRST
#undef V_ZERO
#undef V_SET
#undef V_LOAD
#undef V_STORE
#undef V_STREAM
#undef V_ADD
#undef V_SUB
#undef V_FMA
#undef V_FNMA
#undef V_CLIP
#undef V_LOAD_MASK
#undef V_STORE_MASK
#undef TILE_SIZES
#undef TILE_FILTERS
#undef TILE_VECTORS
