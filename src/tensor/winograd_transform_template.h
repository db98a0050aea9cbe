/* The transforms of winograd_transform.h for one instruction set. Before including it, define
 *   KERNEL(name), KERNEL_TARGET   the suffix and the function attribute of the set
 *   VECTOR, LANES                 the type and how many floats it holds, a divisor of ESP_BLOCK
 *   V_SET V_LOAD V_STORE V_ADD V_SUB V_MUL V_FMA(a*b+c) V_FNMA(c-a*b) V_CLIP(v, low, high)   NaN stays NaN
 * All are undefined at the end. Six rows of six vectors do not fit into registers, so a transform goes over
 * its columns twice and keeps half of the rows each time: no half shares work with the other.
 * No include guard: this is a template. */

/* clang-format off: it does not know that UNROLL stands before a loop. */

/* Rows 0..2, and 3..5, of B' times a column. */
KERNEL_INLINE void KERNEL(input_upper)(VECTOR d0, VECTOR d1, VECTOR d2, VECTOR d3, VECTOR d4, VECTOR *out)
{
    VECTOR even = V_FNMA(V_SET(4.0f), d2, d4), odd = V_FNMA(V_SET(4.0f), d1, d3);
    out[0] = V_FNMA(V_SET(5.0f), d2, V_FMA(V_SET(4.0f), d0, d4));
    out[1] = V_ADD(even, odd);
    out[2] = V_SUB(even, odd);
}

KERNEL_INLINE void KERNEL(input_lower)(VECTOR d1, VECTOR d2, VECTOR d3, VECTOR d4, VECTOR d5, VECTOR *out)
{
    VECTOR even = V_SUB(d4, d2), odd = V_SUB(d3, d1);
    out[0] = V_FMA(V_SET(2.0f), odd, even);
    out[1] = V_FNMA(V_SET(2.0f), odd, even);
    out[2] = V_FNMA(V_SET(5.0f), d3, V_FMA(V_SET(4.0f), d1, d5));
}

/* One tile from the patch at x, whose rows are `row` floats apart. */
KERNEL_INLINE void KERNEL(input_half)(const bool is_lower, const float *x, int64_t row, float *v,
                                      int64_t point_stride)
{
    VECTOR half[3][WINOGRAD_PATCH];
    UNROLL for (int j = 0; j < WINOGRAD_PATCH; j++)
    {
        const float *p = x + j * ESP_BLOCK + (is_lower ? row : 0);
        VECTOR d[5], out[3];
        UNROLL for (int i = 0; i < 5; i++) d[i] = V_LOAD(p + i * row);
        if (is_lower)
            KERNEL(input_lower)(d[0], d[1], d[2], d[3], d[4], out);
        else
            KERNEL(input_upper)(d[0], d[1], d[2], d[3], d[4], out);
        UNROLL for (int i = 0; i < 3; i++) half[i][j] = out[i];
    }
    if (is_lower)
        v += 3 * WINOGRAD_PATCH * point_stride;
    UNROLL for (int i = 0; i < 3; i++)
    {
        const VECTOR *d = half[i];
        VECTOR out[WINOGRAD_PATCH];
        KERNEL(input_upper)(d[0], d[1], d[2], d[3], d[4], out);
        KERNEL(input_lower)(d[1], d[2], d[3], d[4], d[5], out + 3);
        UNROLL for (int j = 0; j < WINOGRAD_PATCH; j++, v += point_stride) V_STORE(v, out[j]);
    }
}

KERNEL_INLINE void KERNEL(input_tile)(const float *x, int64_t row, float *v, int64_t point_stride)
{
    for (int lane = 0; lane < ESP_BLOCK; lane += LANES) {
        KERNEL(input_half)(false, x + lane, row, v + lane, point_stride);
        KERNEL(input_half)(true, x + lane, row, v + lane, point_stride);
    }
}

/* The patch whose first pixel is (y, x) of the plane, as `entry` makes it, with zeros where the plane ends.
 */
KERNEL_INLINE void KERNEL(fill_patch)(const bool enters, const winograd_grid *grid,
                                      const blocked_entry *entry, const float *plane, int64_t y, int64_t x,
                                      float *patch)
{
    const VECTOR zero = V_SET(0.0f);
    const int64_t first = x < 0 ? -x : 0, last = grid->width - x; /* the columns that are there */
    for (int64_t i = 0; i < WINOGRAD_PATCH; i++, y++) {
        const bool is_row = y >= 0 && y < grid->height;
        const float *pixels = plane + (is_row ? y * grid->width + x : 0) * ESP_BLOCK;
        for (int64_t j = 0; j < WINOGRAD_PATCH; j++, patch += ESP_BLOCK) {
            const bool is_pixel = is_row && j >= first && j < last;
            for (int lane = 0; lane < ESP_BLOCK; lane += LANES) {
                VECTOR value = zero;
                if (is_pixel) {
                    value = V_LOAD(pixels + j * ESP_BLOCK + lane);
                    if (enters)
                        value = V_FMA(value, V_LOAD(entry->scale + lane), V_LOAD(entry->shift + lane));
                    if (enters && entry->clips)
                        value = V_CLIP(value, V_SET(entry->low), V_SET(entry->high));
                }
                V_STORE(patch + lane, value);
            }
        }
    }
}

KERNEL_TARGET static void KERNEL(input)(const winograd_grid *grid, const blocked_entry *entry, const float *x,
                                        int64_t image_stride, int64_t first, int64_t count, float *v,
                                        int64_t point_stride)
{
    _Alignas(64) float patch[WINOGRAD_PATCH * WINOGRAD_PATCH * ESP_BLOCK];
    const int64_t columns = grid->tile_columns, row = grid->width * ESP_BLOCK;
    int64_t column = first % columns, line = first / columns;
    const float *plane = x + line / grid->tile_rows * image_stride;
    const bool enters = entry->scale != NULL;
    line %= grid->tile_rows;
    for (int64_t i = 0; i < count; i++, v += ESP_BLOCK) {
        int64_t top = line * WINOGRAD_TILE - grid->top, left = column * WINOGRAD_TILE - grid->left;
        bool is_inside = top >= 0 && left >= 0 && top + WINOGRAD_PATCH <= grid->height &&
                         left + WINOGRAD_PATCH <= grid->width;
        if (is_inside && !enters) {
            KERNEL(input_tile)(plane + top * row + left * ESP_BLOCK, row, v, point_stride);
        } else {
            if (enters)
                KERNEL(fill_patch)(true, grid, entry, plane, top, left, patch);
            else
                KERNEL(fill_patch)(false, grid, entry, plane, top, left, patch);
            KERNEL(input_tile)(patch, WINOGRAD_PATCH * ESP_BLOCK, v, point_stride);
        }
        if (++column == columns) {
            column = 0;
            line++;
        }
        if (line == grid->tile_rows) {
            line = 0;
            plane += image_stride;
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

/* Rows 0 and 2 (even), or 1 and 3, of A' times a column that is in memory. */
KERNEL_INLINE void KERNEL(output_pair)(const bool is_odd, const float *m, int64_t step, VECTOR *a, VECTOR *b)
{
    VECTOR m1 = V_LOAD(m + step), m2 = V_LOAD(m + 2 * step);
    VECTOR m3 = V_LOAD(m + 3 * step), m4 = V_LOAD(m + 4 * step);
    if (is_odd) {
        VECTOR near = V_SUB(m1, m2), far = V_SUB(m3, m4);
        *a = V_FMA(V_SET(2.0f), far, near);
        *b = V_ADD(V_FMA(V_SET(8.0f), far, near), V_LOAD(m + 5 * step));
    } else {
        VECTOR near = V_ADD(m1, m2), far = V_ADD(m3, m4);
        *a = V_ADD(V_ADD(V_LOAD(m), near), far);
        *b = V_FMA(V_SET(4.0f), far, near);
    }
}

/* Where a tile of the output goes. */
typedef struct KERNEL(target) {
    float *y;              /* its first pixel */
    const float *residual; /* of the same pixel; NULL: none */
    int64_t row;           /* floats from row to row, in both */
    int64_t rows, columns; /* how much of the tile is inside */
} KERNEL(target);

/* Finishes one row of a tile, which has some or all of its pixels. */
KERNEL_INLINE void KERNEL(store_row)(const bool adds, const bool clips, const blocked_store *store,
                                     const VECTOR *sums, int64_t pixels, int lane, float *y,
                                     const float *residual)
{
    const VECTOR scale = V_LOAD(store->scale + lane), shift = V_LOAD(store->shift + lane);
    UNROLL for (int j = 0; j < WINOGRAD_TILE; j++)
    {
        if (j >= pixels)
            break;
        VECTOR value = V_FMA(sums[j], scale, shift);
        if (adds)
            value = V_ADD(value, V_LOAD(residual + j * ESP_BLOCK));
        if (clips)
            value = V_CLIP(value, V_SET(store->low), V_SET(store->high));
        V_STORE(y + j * ESP_BLOCK, value);
    }
}

KERNEL_INLINE void KERNEL(output_half)(const bool is_odd, const bool adds, const bool clips,
                                       const blocked_store *store, const float *m, int64_t point_stride,
                                       int lane, const KERNEL(target) * to)
{
    VECTOR half[2][WINOGRAD_PATCH];
    UNROLL for (int j = 0; j < WINOGRAD_PATCH; j++) KERNEL(output_pair)(
        is_odd, m + j * point_stride, WINOGRAD_PATCH * point_stride, &half[0][j], &half[1][j]);
    UNROLL for (int i = 0; i < 2; i++)
    {
        const int64_t line = 2 * i + is_odd;
        VECTOR sums[WINOGRAD_TILE];
        KERNEL(output_column)(half[i], sums);
        if (line < to->rows)
            KERNEL(store_row)
        (adds, clips, store, sums, to->columns, lane, to->y + line * to->row + lane,
         adds ? to->residual + line * to->row + lane : NULL);
    }
}

KERNEL_INLINE void KERNEL(output_tile)(const bool adds, const bool clips, const blocked_store *store,
                                       const float *m, int64_t point_stride, const KERNEL(target) * to)
{
    for (int lane = 0; lane < ESP_BLOCK; lane += LANES) {
        KERNEL(output_half)(false, adds, clips, store, m + lane, point_stride, lane, to);
        KERNEL(output_half)(true, adds, clips, store, m + lane, point_stride, lane, to);
    }
}

KERNEL_INLINE void KERNEL(output_tiles)(const bool adds, const bool clips, const winograd_grid *grid,
                                        const blocked_store *store, int64_t residual_image, const float *m,
                                        int64_t point_stride, int64_t first, int64_t count, float *y,
                                        int64_t image_stride)
{
    const int64_t columns = grid->tile_columns, row = grid->out_width * ESP_BLOCK;
    int64_t column = first % columns, line = first / columns;
    int64_t image = line / grid->tile_rows;
    line %= grid->tile_rows;
    for (int64_t i = 0; i < count; i++, m += ESP_BLOCK) {
        int64_t top = line * WINOGRAD_TILE, left = column * WINOGRAD_TILE;
        int64_t at = top * row + left * ESP_BLOCK;
        KERNEL(target) to = {.y = y + image * image_stride + at, .row = row};
        if (adds)
            to.residual = store->residual + image * residual_image + at;
        to.rows = grid->out_height - top;
        to.columns = grid->out_width - left;
        if (to.rows >= WINOGRAD_TILE && to.columns >= WINOGRAD_TILE) {
            to.rows = to.columns = WINOGRAD_TILE;
            KERNEL(output_tile)(adds, clips, store, m, point_stride, &to);
        } else {
            KERNEL(output_tile)(adds, clips, store, m, point_stride, &to);
        }
        if (++column == columns) {
            column = 0;
            line++;
        }
        if (line == grid->tile_rows) {
            line = 0;
            image++;
        }
    }
}

#define OUTPUT_VARIANT(name, adds, clips)                                                                    \
    KERNEL_TARGET static void KERNEL(name)(const winograd_grid *grid, const blocked_store *store,            \
                                           int64_t residual_image, const float *m, int64_t point_stride,     \
                                           int64_t first, int64_t count, float *y, int64_t image_stride)     \
    {                                                                                                        \
        KERNEL(output_tiles)                                                                                 \
        (adds, clips, grid, store, residual_image, m, point_stride, first, count, y, image_stride);          \
    }
OUTPUT_VARIANT(output_bare, false, false)
OUTPUT_VARIANT(output_clips, false, true)
OUTPUT_VARIANT(output_adds, true, false)
OUTPUT_VARIANT(output_adds_clips, true, true)
#undef OUTPUT_VARIANT

static void KERNEL(output)(const winograd_grid *grid, const blocked_store *store, int64_t residual_image,
                           const float *m, int64_t point_stride, int64_t first, int64_t count, float *y,
                           int64_t image_stride)
{
    bool adds = store->residual != NULL;
    if (adds && store->clips)
        KERNEL(output_adds_clips)
    (grid, store, residual_image, m, point_stride, first, count, y, image_stride);
    else if (adds)
        KERNEL(output_adds)(grid, store, residual_image, m, point_stride, first, count, y, image_stride);
    else if (store->clips)
        KERNEL(output_clips)(grid, store, residual_image, m, point_stride, first, count, y, image_stride);
    else KERNEL(output_bare)(grid, store, residual_image, m, point_stride, first, count, y, image_stride);
}

/* G times a column of three. */
KERNEL_INLINE void KERNEL(weight_column)(VECTOR g0, VECTOR g1, VECTOR g2, VECTOR *out)
{
    VECTOR outer = V_MUL(V_SET(-1.0f / 6.0f), V_ADD(g0, g2)), middle = V_MUL(V_SET(1.0f / 6.0f), g1);
    VECTOR wide = V_FMA(V_SET(1.0f / 24.0f), g0, V_MUL(V_SET(1.0f / 6.0f), g2));
    VECTOR narrow = V_MUL(V_SET(1.0f / 12.0f), g1);
    out[0] = V_MUL(V_SET(0.25f), g0);
    out[1] = V_SUB(outer, middle);
    out[2] = V_ADD(outer, middle);
    out[3] = V_ADD(wide, narrow);
    out[4] = V_SUB(wide, narrow);
    out[5] = g2;
}

/* One row of U. What the other rows would need of the columns is left out by the compiler. */
KERNEL_INLINE void KERNEL(weight_row)(const int row, const winograd_taps *taps, int64_t channels,
                                      int64_t width, float *u, int64_t point_stride)
{
    const float *above = taps->first, *middle = above + taps->row, *below = middle + taps->row;
    for (int64_t i = 0; i < channels * width; i += LANES) {
        VECTOR column[3];
        UNROLL for (int j = 0; j < 3; j++)
        {
            const int64_t at = i + j * taps->column;
            VECTOR out[WINOGRAD_PATCH];
            KERNEL(weight_column)(V_LOAD(above + at), V_LOAD(middle + at), V_LOAD(below + at), out);
            column[j] = out[row];
        }
        VECTOR out[WINOGRAD_PATCH];
        KERNEL(weight_column)(column[0], column[1], column[2], out);
        UNROLL for (int j = 0; j < WINOGRAD_PATCH; j++) V_STORE(u + i + j * point_stride, out[j]);
    }
}

KERNEL_TARGET static void KERNEL(weight_rows)(int first_row, int last_row, const winograd_taps *taps,
                                              int64_t channels, int64_t width, float *u, int64_t point_stride)
{
    for (int row = first_row; row < last_row; row++, u += WINOGRAD_PATCH * point_stride) {
        switch (row) {
        case 0:
            KERNEL(weight_row)(0, taps, channels, width, u, point_stride);
            break;
        case 1:
            KERNEL(weight_row)(1, taps, channels, width, u, point_stride);
            break;
        case 2:
            KERNEL(weight_row)(2, taps, channels, width, u, point_stride);
            break;
        case 3:
            KERNEL(weight_row)(3, taps, channels, width, u, point_stride);
            break;
        case 4:
            KERNEL(weight_row)(4, taps, channels, width, u, point_stride);
            break;
        default:
            KERNEL(weight_row)(5, taps, channels, width, u, point_stride);
        }
    }
}

KERNEL_TARGET static void KERNEL(weights)(const float *g, int64_t tap_stride, float *u, int64_t point_stride)
{
    const winograd_taps taps = {.first = g, .row = 3 * tap_stride, .column = tap_stride};
    KERNEL(weight_rows)(0, WINOGRAD_PATCH, &taps, 1, ESP_BLOCK, u, point_stride);
}

static const winograd_transforms KERNEL(transforms) = {
    .input = KERNEL(input),
    .output = KERNEL(output),
    .weights = KERNEL(weights),
    .weight_rows = KERNEL(weight_rows),
};

#undef KERNEL
#undef KERNEL_TARGET
#undef VECTOR
#undef LANES
#undef V_SET
#undef V_LOAD
#undef V_STORE
#undef V_ADD
#undef V_SUB
#undef V_MUL
#undef V_FMA
#undef V_FNMA
#undef V_CLIP
