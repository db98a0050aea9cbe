/* What the blocked convolution kernels share: the table of methods, packed weights of the forward methods,
 * the cut of a pass into tasks. */
#ifndef ESP_TENSOR_BLOCKED_CONV_INTERNAL_H
#define ESP_TENSOR_BLOCKED_CONV_INTERNAL_H

#include "tensor/blocked_conv.h"
#include "tensor/blocked_kernels.h"
#include "tensor/conv_internal.h"

/* One way to compute one or more passes. The functions are those of blocked_conv.h, for this method. */
struct blocked_method {
    const char *name;
    uint64_t pack_key; /* what `pack` makes; methods that pack alike have the same key */
    bool (*fits)(const esp_blocked_conv *plan); /* plan->method is not set yet */
    size_t (*packed_bytes)(const esp_blocked_conv *plan);
    esp_status (*pack)(const esp_compute *compute, const esp_blocked_conv *plan, const float *w,
                       void *packed);
    size_t (*scratch)(const esp_blocked_conv *plan, int slots);
    esp_status (*run)(const esp_compute *compute, const esp_blocked_conv *plan, const esp_view *x,
                      const void *packed, const esp_conv_extras *extras, const esp_view *y, void *scratch);
    esp_status (*grad_weight)(const esp_compute *compute, const esp_blocked_conv *plan, const esp_view *x,
                              const esp_view *dy, float *dw, float *db, void *scratch);
};

/* Forward, the preferred first. */
extern const blocked_method esp_blocked_depthwise; /* blocked_depthwise.c */
extern const blocked_method esp_blocked_winograd;  /* winograd.c: transforms weights in each run */
extern const blocked_method esp_blocked_winograd_points; /* winograd.c: few weights, packed transformed */
extern const blocked_method esp_blocked_pointwise; /* blocked_pointwise.c */
extern const blocked_method esp_blocked_stem;      /* blocked_stem.c: plain input of few channels */
extern const blocked_method esp_blocked_direct;    /* blocked_direct.c: any kernel, stride, dilation, group */
/* Gradient for the input. */
extern const blocked_method esp_blocked_depthwise_input; /* blocked_depthwise.c */
extern const blocked_method esp_blocked_winograd_input;  /* winograd.c: flipped, transposed weights */
extern const blocked_method esp_blocked_winograd_input_points; /* winograd.c: the same, few weights */
extern const blocked_method esp_blocked_direct_input;    /* blocked_grad_input.c: any stride, by phases */
/* Gradient for the weight. */
extern const blocked_method esp_blocked_depthwise_weight; /* blocked_depthwise.c */
extern const blocked_method esp_blocked_direct_weight;    /* blocked_grad_weight.c */

/* All of the above in order of preference; plans take the first that fits their pass. Tests run each. */
extern const blocked_method *const esp_blocked_methods[];
extern const int esp_blocked_method_count;

/* Blocks of 16 that hold `channels`. */
static inline int64_t blocked_count(int64_t channels)
{
    return conv_ceil_divide(channels, ESP_BLOCK);
}

/* The taps [first, last) of a kernel of `kernel` taps, whose first lies at `start - pad`, that lie in [0,
 * size). An empty range is (0, 0). */
static inline void blocked_taps(int64_t size, int64_t kernel, int64_t dilation, int64_t pad, int64_t start,
                                int64_t *first, int64_t *last)
{
    int64_t origin = start - pad;
    *first = origin >= 0 ? 0 : conv_ceil_divide(-origin, dilation);
    *last = origin >= size ? 0 : conv_min((size - 1 - origin) / dilation + 1, kernel);
    if (*last <= *first)
        *first = *last = 0;
}

/* Groups whose borders are borders of blocks, on both sides. */
static inline bool blocked_fits_groups(const esp_conv_geometry *g)
{
    return g->group == 1 ||
           (conv_group_channels(g) % ESP_BLOCK == 0 && conv_group_filters(g) % ESP_BLOCK == 0);
}

/* Offsets inside an image, in floats, that a run can hold. */
static inline bool blocked_fits_offsets(const esp_conv_geometry *g)
{
    return blocked_count(g->channels) * ESP_BLOCK <= INT32_MAX / g->height / g->width;
}

/* What blocked_stem.c has in common with blocked_direct.c. */
bool esp_blocked_direct_fits_bands(const esp_blocked_conv *plan);
size_t esp_blocked_direct_scratch(const esp_blocked_conv *plan, int slots);
esp_status esp_blocked_direct_run(const esp_compute *compute, const esp_blocked_conv *plan, const esp_view *x,
                                  const void *packed, const esp_conv_extras *extras, const esp_view *y,
                                  void *scratch);

/* ---- filters in panels (blocked_pack.c): what pointwise, direct and stem multiply by ----
 *
 * The filters of a group are cut into panels as wide as the widest tile (`filter_block` of the kernels); the
 * last panel of a group may be narrower. A panel holds conv_depth(g) rows of `16 * blocks` filters, missing
 * filters zero. The order of rows, which is that of the kernel's runs, is the method's. */
typedef struct blocked_panels {
    int64_t depth;         /* rows of a panel */
    int64_t width;         /* filters of all panels but the last of a group */
    int64_t group_blocks;  /* blocks of 16 filters of one group */
    int64_t group_panels;  /* panels of one group */
    int64_t group_filters; /* of them real */
} blocked_panels;

blocked_panels esp_blocked_panels(const esp_blocked_conv *plan);

/* Blocks of 16 filters of panel `p` of a group, and where it begins in the packed weights, in floats. */
static inline int blocked_panel_blocks(const blocked_panels *panels, int64_t p)
{
    int64_t wide = panels->width / ESP_BLOCK;
    return (int)conv_min(wide, panels->group_blocks - p * wide);
}
static inline int64_t blocked_panel_start(const blocked_panels *panels, int64_t group, int64_t p)
{
    return (group * panels->group_blocks * ESP_BLOCK + p * panels->width) * panels->depth;
}
size_t esp_blocked_panels_bytes(const esp_blocked_conv *plan);

/* Keys of the two orders of rows. */
enum { BLOCKED_PANELS_KEY = 1, BLOCKED_PLAIN_PANELS_KEY = 2 };

/* Rows of a panel in order [kh][channel block][kw][channel of the block] and [kh][channel][kw]: a kernel row
 * that lies outside the image can be left out at either end. */
esp_status esp_blocked_pack_blocked(const esp_compute *compute, const esp_blocked_conv *plan, const float *w,
                                    void *packed);
esp_status esp_blocked_pack_plain(const esp_compute *compute, const esp_blocked_conv *plan, const float *w,
                                  void *packed);

/* ---- parameters per channel and filter ---- */

/* Vectors of extras as kernels load them, whole blocks: copied where the last block is not full. */
typedef struct blocked_vectors {
    const float *in_scale, *in_shift, *scale, *shift;
} blocked_vectors;

/* Floats of scratch memory that esp_blocked_vectors needs. */
int64_t esp_blocked_vectors_size(const esp_conv_geometry *geometry);
blocked_vectors esp_blocked_vectors(const esp_conv_geometry *geometry, const esp_conv_extras *extras,
                                    float *scratch);

/* The store of the kernels for a plan; scale and shift are those of filter 0, residual is not set. */
blocked_store esp_blocked_store(const esp_conv_extras *extras, const blocked_vectors *vectors);

/* The same from a block of filters on. */
static inline blocked_store blocked_store_of(const blocked_store *store, int64_t block)
{
    blocked_store moved = *store;
    if (moved.scale != NULL)
        moved.scale += block * ESP_BLOCK;
    if (moved.shift != NULL)
        moved.shift += block * ESP_BLOCK;
    return moved;
}

/* Part `index` of `parts` nearly equal ones of `count` things begins here. */
static inline int64_t blocked_part(int64_t count, int64_t parts, int64_t index)
{
    return count * index / parts;
}

/* ---- the cut into tasks (blocked_cut.c) ---- */

/* What a forward pass has to do. "Rows" are whatever an image can be cut by beside filters. Costs are in
 * cache lines. */
typedef struct blocked_load {
    int64_t pieces;      /* images times groups */
    bool groups_pieces;  /* a task may do several small ones; else each piece is at least one task */
    int64_t rows;        /* of a piece */
    int64_t panels;      /* of a piece */
    double flops;        /* of the whole pass */
    double row_lines;    /* x: per row */
    double halo_lines;   /* x: rows that neighbouring parts both need */
    double weight_lines; /* per panel */
    bool copies;         /* x is copied by each task */
} blocked_load;

/* A task does some pieces; when all pieces are tasks of their own, some rows and panels of one piece. It
 * takes `chunk_rows` rows at a time, and all its panels over them. */
typedef struct blocked_cut {
    int64_t piece_tasks, row_tasks, panel_tasks;
    int64_t tasks; /* the product */
    int64_t chunk_rows;
} blocked_cut;

/* The cheapest cut. One task for what takes less than some ten microseconds. */
blocked_cut esp_blocked_cut(const blocked_load *load);

/* What a task does: [first, last) of each. */
typedef struct blocked_share {
    int64_t first_piece, last_piece, first_row, last_row, first_panel, last_panel;
} blocked_share;

/* Neighbouring tasks have the same panels, then the same image. */
blocked_share esp_blocked_share(const blocked_load *load, const blocked_cut *cut, int64_t task);

/* ---- fetching the next panel ----
 *
 * Weights mostly come from memory, x from a cache. While tiles are multiplied by one panel the next one is
 * fetched, a few lines with each run, so that memory is never waited for and never idle. */
typedef struct blocked_fetch {
    const float *next, *end; /* what is left to fetch */
    int64_t lines;           /* with each run */
} blocked_fetch;

/* While panel `p` is multiplied by `tiles` tiles of `runs` runs. Nothing is fetched after the last panel. */
blocked_fetch esp_blocked_fetch(const blocked_panels *panels, const float *group_weights, int64_t p,
                                int64_t tiles, int64_t runs);

/* A task passes over its panels for each chunk of x. The next panel is not there yet in the first pass; what
 * comes after the last panel is needed after the last pass. */
static inline bool blocked_fetches(const blocked_share *share, int64_t p, bool is_first_pass,
                                   bool is_last_pass)
{
    return p + 1 < share->last_panel ? is_first_pass : is_last_pass;
}

/* Before each tile. */
static inline void blocked_fetch_step(blocked_fetch *fetch, int64_t runs, blocked_store *store)
{
    store->fetch = fetch->next;
    store->fetch_lines = fetch->next < fetch->end ? fetch->lines : 0;
    fetch->next += runs * store->fetch_lines * ESP_BLOCK;
}

#endif
