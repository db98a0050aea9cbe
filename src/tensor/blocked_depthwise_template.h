/* Inner loops of blocked_depthwise.c, once per instruction set (blocked_isas.h). A block of 16 channels is
 * done in ESP_BLOCK / LANES parts. Tiles of 14 pixels fit into 16 registers beside a weight and a pixel. No
 * include guard: this is a template. */

/* clang-format off: it does not know that UNROLL stands before a loop. */
KERNEL_INLINE void KERNEL(depthwise_part)(const int pixels, const float *x, const depthwise_tap *taps,
                                          int64_t count, const float *w, float *y, int64_t y_pixel,
                                          const blocked_store *store, int64_t lane)
{
    VECTOR sums[DEPTHWISE_PIXELS];
    UNROLL for (int p = 0; p < pixels; p++) sums[p] = V_ZERO();
    for (const depthwise_tap *tap = taps; tap < taps + count; tap++) {
        const float *from = x + tap->offset + lane;
        const VECTOR weight = V_LOAD(w + tap->weight + lane);
        UNROLL for (int p = 0; p < pixels; p++) sums[p] =
            V_FMA(V_LOAD(from + p * ESP_BLOCK), weight, sums[p]);
    }
    if (store->scale != NULL) {
        const VECTOR scale = V_LOAD(store->scale + lane);
        UNROLL for (int p = 0; p < pixels; p++) sums[p] = V_MUL(sums[p], scale);
    }
    if (store->shift != NULL) {
        const VECTOR shift = V_LOAD(store->shift + lane);
        UNROLL for (int p = 0; p < pixels; p++) sums[p] = V_ADD(sums[p], shift);
    }
    if (store->residual != NULL) {
        UNROLL for (int p = 0; p < pixels; p++) sums[p] =
            V_ADD(sums[p], V_LOAD(store->residual + p * store->residual_pixel + lane));
    }
    if (store->clips) {
        const VECTOR low = V_SET(store->low), high = V_SET(store->high);
        UNROLL for (int p = 0; p < pixels; p++) sums[p] = V_MIN(high, V_MAX(low, sums[p]));
    }
    UNROLL for (int p = 0; p < pixels; p++) V_STORE(y + p * y_pixel + lane, sums[p]);
}

/* Each tap has a pointer of its own, and all of them one index. */
KERNEL_INLINE void KERNEL(depthwise_outer_part)(const int count, const depthwise_sweep *sweep, const float *x,
                                                const depthwise_tap *taps, const float *dy, float *sums,
                                                int64_t lane)
{
    VECTOR total[DEPTHWISE_TAPS];
    const float *from[DEPTHWISE_TAPS];
    UNROLL for (int t = 0; t < count; t++)
    {
        total[t] = V_ZERO();
        from[t] = x + taps[t].offset + lane;
    }
    const float *gradient = dy + lane;
    int64_t at = 0;
    for (int64_t row = sweep->rows; row > 0; row--, at += sweep->x_gap)
        for (int64_t column = sweep->columns; column > 0; column--, at += ESP_BLOCK, gradient += ESP_BLOCK) {
            const VECTOR factor = V_LOAD(gradient);
            UNROLL for (int t = 0; t < count; t++) total[t] = V_FMA(V_LOAD(from[t] + at), factor, total[t]);
        }
    UNROLL for (int t = 0; t < count; t++)
    {
        float *target = sums + taps[t].weight + lane;
        V_STORE(target, V_ADD(V_LOAD(target), total[t]));
    }
}
/* clang-format on */

#define TILE_KERNEL(pixels)                                                                                  \
    KERNEL_TARGET static void KERNEL(depthwise_tile_##pixels)(const float *x, const depthwise_tap *taps,     \
                                                              int64_t count, const float *w, float *y,       \
                                                              int64_t y_pixel, const blocked_store *store)   \
    {                                                                                                        \
        for (int64_t lane = 0; lane < ESP_BLOCK; lane += LANES)                                              \
            KERNEL(depthwise_part)(pixels, x, taps, count, w, y, y_pixel, store, lane);                      \
    }
#define OUTER_KERNEL(count)                                                                                  \
    KERNEL_TARGET static void KERNEL(depthwise_outer_##count)(const depthwise_sweep *sweep, const float *x,  \
                                                              const depthwise_tap *taps, const float *dy,    \
                                                              float *sums)                                   \
    {                                                                                                        \
        for (int64_t lane = 0; lane < ESP_BLOCK; lane += LANES)                                              \
            KERNEL(depthwise_outer_part)(count, sweep, x, taps, dy, sums, lane);                             \
    }
#define TILE_ENTRY(pixels) [pixels] = KERNEL(depthwise_tile_##pixels),
#define OUTER_ENTRY(count) [count] = KERNEL(depthwise_outer_##count),

/* clang-format off: lists without separators. */
DEPTHWISE_PIXEL_LIST(TILE_KERNEL)
DEPTHWISE_TAP_LIST(OUTER_KERNEL)

static const depthwise_kernels KERNEL(depthwise_kernels) = {.tiles = {DEPTHWISE_PIXEL_LIST(TILE_ENTRY)},
                                                            .outer = {DEPTHWISE_TAP_LIST(OUTER_ENTRY)}};
/* clang-format on */

#undef TILE_KERNEL
#undef OUTER_KERNEL
#undef TILE_ENTRY
#undef OUTER_ENTRY
