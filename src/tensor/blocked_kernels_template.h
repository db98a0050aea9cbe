/* The bodies of blocked_kernels.h and the table of them, for one instruction set: see blocked_isas.h. Also
 * needs KERNEL(transpose), of the type of blocked_kernels.transpose, and UP_TO_3, _6 and _14. No include
 * guard: this is a template. */

/* A tile as large as the registers allow. */
#if LANES == 16
#define TILE_ISA          ESP_ISA_AVX512
#define TILE_BLOCKS       2
#define TILE_PIXELS       14
#define PIXEL_COUNTS(...) UP_TO_14(__VA_ARGS__)
#elif LANES == 8
#define TILE_ISA          ESP_ISA_AVX2
#define TILE_BLOCKS       1
#define TILE_PIXELS       6
#define PIXEL_COUNTS(...) UP_TO_6(__VA_ARGS__)
#else
#define TILE_ISA          ESP_ISA_PLAIN
#define TILE_BLOCKS       1
#define TILE_PIXELS       3
#define PIXEL_COUNTS(...) UP_TO_3(__VA_ARGS__)
#endif

#define V_CLIP(v, low, high) V_MIN(high, V_MAX(low, v))

/* clang-format off: it does not know that UNROLL stands before a loop. */
/* Run `r` of a tile. */
KERNEL_INLINE void KERNEL(take_in)(const int pixels, const blocked_intake *intake, const blocked_run *runs,
                                   int64_t r)
{
    enum { BLOCK_VECTORS = ESP_BLOCK / LANES };
    const float *source = intake->source + r * intake->source_run;
    float *target = intake->target + runs[r].offset;
    const VECTOR low = V_SET(intake->low), high = V_SET(intake->high);
    UNROLL for (int v = 0; v < BLOCK_VECTORS; v++)
    {
        VECTOR scale = V_LOAD(intake->scale + r * ESP_BLOCK + v * LANES);
        VECTOR shift = V_LOAD(intake->shift + r * ESP_BLOCK + v * LANES);
        UNROLL for (int p = 0; p < pixels; p++)
        {
            const float *pixel = source + p * ESP_BLOCK;
            if (v == 0)
                __builtin_prefetch(pixel + pixels * ESP_BLOCK);
            VECTOR value = V_FMA(V_LOAD(pixel + v * LANES), scale, shift);
            V_STORE(target + p * ESP_BLOCK + v * LANES, V_CLIP(value, low, high));
        }
    }
}

KERNEL_INLINE void KERNEL(tile)(const int pixels, const int vectors, const int pitch, const float *x,
                                const blocked_run *runs, int64_t run_count, const float *w, float *y,
                                int64_t y_block, int64_t y_pixel, const blocked_store *store)
{
    enum { BLOCK_VECTORS = ESP_BLOCK / LANES };
    VECTOR sums[TILE_PIXELS][TILE_BLOCKS * BLOCK_VECTORS];
    const bool has_scale = store != NULL && store->scale != NULL;
    const bool has_shift = store != NULL && store->shift != NULL;
    UNROLL for (int v = 0; v < vectors; v++)
    {
        VECTOR start = V_ZERO();
        if (has_shift && !has_scale)
            start = V_LOAD(store->shift + v * LANES);
        UNROLL for (int p = 0; p < pixels; p++) sums[p][v] = start;
    }
    const char *fetch = NULL;
    int64_t fetch_bytes = 0, ahead = 0;
    if (store != NULL) {
        fetch = (const char *)store->fetch;
        fetch_bytes = store->fetch_lines * ESP_ALIGNMENT;
        ahead = store->ahead;
        if (store->residual != NULL) {
            UNROLL for (int v = 0; v < vectors; v += BLOCK_VECTORS)
            {
                const float *residual = store->residual + v / BLOCK_VECTORS * store->residual_block;
                UNROLL for (int p = 0; p < pixels; p++)
                    __builtin_prefetch(residual + p * store->residual_pixel);
            }
        }
    }

    const blocked_intake *intake = pitch == ESP_BLOCK && store != NULL ? store->intake : NULL;
    if (intake != NULL)
        KERNEL(take_in)(pixels, intake, runs, 0);
    for (const blocked_run *run = runs; run < runs + run_count; run++) {
        if (intake != NULL && run + 1 < runs + run_count)
            KERNEL(take_in)(pixels, intake, runs, run + 1 - runs);
        const float *value = x + run->offset;
        for (const char *end = fetch + fetch_bytes; fetch < end; fetch += ESP_ALIGNMENT)
            __builtin_prefetch(fetch, 0, 2);
        if (ahead != 0)
            UNROLL for (int p = 0; p < pixels; p++) __builtin_prefetch(value + ahead + p * pitch);
        for (const float *end = value + run->length; value < end; value++, w += vectors * LANES) {
            /* Else gcc keeps the pixels that the next step uses too, in registers that there are not. */
            __asm__("" : "+r"(value));
            VECTOR weights[TILE_BLOCKS * BLOCK_VECTORS];
            UNROLL for (int v = 0; v < vectors; v++) weights[v] = V_LOAD(w + v * LANES);
            UNROLL for (int p = 0; p < pixels; p++)
            {
                VECTOR broadcast = V_SET(value[p * pitch]);
                UNROLL for (int v = 0; v < vectors; v++) sums[p][v] =
                    V_FMA(broadcast, weights[v], sums[p][v]);
            }
        }
    }

    if (has_scale) {
        UNROLL for (int v = 0; v < vectors; v++)
        {
            VECTOR scale = V_LOAD(store->scale + v * LANES);
            VECTOR shift = V_ZERO();
            if (has_shift)
                shift = V_LOAD(store->shift + v * LANES);
            UNROLL for (int p = 0; p < pixels; p++) sums[p][v] = V_FMA(sums[p][v], scale, shift);
        }
    }
    if (store != NULL && store->residual != NULL) {
        UNROLL for (int v = 0; v < vectors; v++)
        {
            const float *residual =
                store->residual + v / BLOCK_VECTORS * store->residual_block + v % BLOCK_VECTORS * LANES;
            UNROLL for (int p = 0; p < pixels; p++) sums[p][v] =
                V_ADD(sums[p][v], V_LOAD(residual + p * store->residual_pixel));
        }
    }
    if (store != NULL && store->clips) {
        const VECTOR low = V_SET(store->low), high = V_SET(store->high);
        UNROLL for (int v = 0; v < vectors; v++)
        {
            UNROLL for (int p = 0; p < pixels; p++) sums[p][v] = V_CLIP(sums[p][v], low, high);
        }
    }
    UNROLL for (int v = 0; v < vectors; v++)
    {
        float *target = y + v / BLOCK_VECTORS * y_block + v % BLOCK_VECTORS * LANES;
        UNROLL for (int p = 0; p < pixels; p++) V_STORE(target + p * y_pixel, sums[p][v]);
    }
}
/* clang-format on */

#define TILE_KERNEL(pixels, blocks, pitch)                                                                   \
    KERNEL_TARGET static void KERNEL(tile_##pixels##_##blocks##_##pitch)(                                    \
        const float *x, const blocked_run *runs, int64_t run_count, const float *w, float *y,                \
        int64_t y_block, int64_t y_pixel, const blocked_store *store)                                        \
    {                                                                                                        \
        KERNEL(tile)                                                                                         \
        (pixels, (blocks)*ESP_BLOCK / LANES, pitch, x, runs, run_count, w, y, y_block, y_pixel, store);      \
    }
#define TILE_ENTRY(pixels, blocks, pitch) [pixels] = KERNEL(tile_##pixels##_##blocks##_##pitch),
#define TILE_TABLE(blocks, pitch)                                                                            \
    PIXEL_COUNTS(TILE_KERNEL, blocks, pitch)                                                                 \
    static blocked_tile_fn *const KERNEL(tiles_##blocks##_##pitch)[] = {                                     \
        PIXEL_COUNTS(TILE_ENTRY, blocks, pitch)};

/* clang-format off: lists without separators. */
TILE_TABLE(1, 1)
TILE_TABLE(1, 2)
TILE_TABLE(1, 4)
TILE_TABLE(1, 16)
TILE_TABLE(1, 32)
#if TILE_BLOCKS == 2
TILE_TABLE(2, 1)
TILE_TABLE(2, 2)
TILE_TABLE(2, 4)
TILE_TABLE(2, 16)
TILE_TABLE(2, 32)
#endif
/* clang-format on */

static blocked_tile_fn *const *KERNEL(tiles)(int64_t pitch, int blocks)
{
    static blocked_tile_fn *const *const tables[TILE_BLOCKS][5] = {
        {KERNEL(tiles_1_1), KERNEL(tiles_1_2), KERNEL(tiles_1_4), KERNEL(tiles_1_16), KERNEL(tiles_1_32)},
#if TILE_BLOCKS == 2
        {KERNEL(tiles_2_1), KERNEL(tiles_2_2), KERNEL(tiles_2_4), KERNEL(tiles_2_16), KERNEL(tiles_2_32)},
#endif
    };
    switch (pitch) {
    case 1:
        return tables[blocks - 1][0];
    case 2:
        return tables[blocks - 1][1];
    case 4:
        return tables[blocks - 1][2];
    case 16:
        return tables[blocks - 1][3];
    case 32:
        return tables[blocks - 1][4];
    default:
        return NULL;
    }
}

/* clang-format off: it does not know that UNROLL stands before a loop. */
KERNEL_TARGET static void KERNEL(pixels)(int64_t count, const float *x, int64_t x_pixel,
                                         const blocked_entry *entry, float *y)
{
    enum { BLOCK_VECTORS = ESP_BLOCK / LANES };
    VECTOR scale[BLOCK_VECTORS], shift[BLOCK_VECTORS];
    if (entry->scale == NULL) {
        for (int64_t p = 0; p < count; p++, x += x_pixel, y += ESP_BLOCK)
            UNROLL for (int v = 0; v < BLOCK_VECTORS; v++) V_STORE(y + v * LANES, V_LOAD(x + v * LANES));
        return;
    }
    const VECTOR low = V_SET(entry->low), high = V_SET(entry->high);
    UNROLL for (int v = 0; v < BLOCK_VECTORS; v++)
    {
        scale[v] = V_LOAD(entry->scale + v * LANES);
        shift[v] = V_LOAD(entry->shift + v * LANES);
    }
    for (int64_t p = 0; p < count; p++, x += x_pixel, y += ESP_BLOCK)
        UNROLL for (int v = 0; v < BLOCK_VECTORS; v++)
        {
            VECTOR value = V_FMA(V_LOAD(x + v * LANES), scale[v], shift[v]);
            V_STORE(y + v * LANES, entry->clips ? V_CLIP(value, low, high) : value);
        }
}
/* clang-format on */

static const blocked_kernels KERNEL(blocked_kernels) = {
    .isa = TILE_ISA,
    .filter_block = TILE_BLOCKS * ESP_BLOCK,
    .tile_pixels = TILE_PIXELS,
    .tiles = KERNEL(tiles),
    .pixels = KERNEL(pixels),
    .transpose = KERNEL(transpose),
};

#undef TILE_ISA
#undef TILE_BLOCKS
#undef TILE_PIXELS
#undef PIXEL_COUNTS
#undef V_CLIP
#undef TILE_KERNEL
#undef TILE_ENTRY
#undef TILE_TABLE
