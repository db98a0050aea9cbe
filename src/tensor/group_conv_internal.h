/* What the files of group convolution share.
 *
 * Filters are cut into blocks of at most a tile's filters, none across groups; blocks into chunks, the share
 * of a task. Both methods multiply rows of pixels that lie side by side:
 *   rows      the pixels of a plane, either of x itself (1x1, stride 1) or of planes copied from it, one per
 *             tap that cannot be had by shifting another (group_conv_rows.c);
 *   winograd  one of the 36 points of the tiles of a plane (group_conv_winograd.c).
 * An image's share of work is a unit: some images, or some rows of one image. Small units fit into a core's
 * second-level cache and are a task each, from copying to storing; where there are too few of them, the
 * threads share a unit, step by step. */
#ifndef ESP_TENSOR_GROUP_CONV_INTERNAL_H
#define ESP_TENSOR_GROUP_CONV_INTERNAL_H

#include "tensor/conv_internal.h"
#include "tensor/group_conv.h"
#include "tensor/group_conv_kernels.h"

typedef struct group_part {
    int64_t filters, first_filter;
    int64_t channel_count, first_offset; /* its channels are plan->channels[first_offset ...] */
} group_part;

/* Filters that one tile computes. Their packed weights are [depth][filters], those of winograd once per
 * point. */
typedef struct group_block {
    int32_t part, filters, first_filter;
} group_block;

/* A run of blocks, and where their weights begin (floats, in the packed weights). */
typedef struct group_chunk {
    int64_t first, last; /* blocks */
    int64_t weights;
    int64_t filters;
} group_chunk;

/* One copy of x's planes: row r, column i of it is x[r*row_step + dy - pad_top][i*column_step + dx -
 * pad_left], zero outside. */
typedef struct group_plane {
    int64_t dy, dx;
} group_plane;

/* How planes are copied from x, and how the results are divided into units. */
typedef struct group_source {
    bool is_direct; /* rows: x itself, nothing is copied */
    int64_t row_step, column_step;
    int64_t rows,
        columns;        /* of results in an image; columns of a copied row: columns * row_width / columns */
    int64_t row_floats; /* floats of a copied row */
    int64_t extra_rows; /* a plane has this many more rows than a unit */
    int64_t plane_count;
    group_plane *planes;
    int64_t unit_images, unit_rows; /* of the largest unit; several images: all their rows */
    int64_t image_units, units;     /* units of an image (or of a batch of unit_images); of the batch */
    int64_t plane;                  /* floats of a copied plane */
    int64_t lanes;                  /* of a copy */
    int64_t copies;                 /* most copies that a channel of a unit takes */
} group_source;

struct esp_group_conv {
    esp_conv_geometry geometry;
    esp_engine engine;
    const group_kernels *kernels;
    bool is_winograd, is_shared;
    int64_t part_count, block_count, chunk_count;
    group_part *parts;
    group_block *blocks;
    group_chunk *chunks;
    int64_t used_count; /* channels that somebody reads */
    int32_t *used;      /* [used_count] */
    int32_t *channels;  /* of all parts: positions in `used` */
    int32_t *y_channel; /* [filters] */
    int32_t *offsets;   /* rows: of all parts, [channels][taps]; winograd: [channels] */
    group_source source;
    int64_t channel_stride; /* rows: floats between copied channels; winograd: between channels of a point */
    int64_t point_stride;   /* winograd: floats between points of the transformed input */
    int64_t weight_floats;
    double cost;
};

/* esp_group_conv_plan, with the method given: tests run each. GROUP_WINOGRAD is for 3x3 kernels of stride 1.
 */
typedef enum group_choice { GROUP_BEST, GROUP_ROWS, GROUP_WINOGRAD } group_choice;
esp_status esp_group_plan(const esp_engine *engine, const esp_conv_geometry *geometry,
                          const esp_filter_group *groups, int64_t count, const int64_t *order,
                          group_choice choice, esp_group_conv **out, esp_error *err);

/* The images and rows of one unit. */
typedef struct group_unit {
    int64_t first_image, images, first_row, rows;
} group_unit;

group_unit esp_group_unit(const group_source *source, const esp_conv_geometry *g, int64_t unit);

/* Pixels (or tiles) of a unit, and in the largest one. */
static inline int64_t group_unit_pixels(const group_source *source, const group_unit *unit)
{
    return unit->images * unit->rows * source->columns;
}
static inline int64_t group_most_pixels(const group_source *source)
{
    return source->unit_images * source->unit_rows * source->columns;
}

/* Lists the copies that fill the planes of one channel of a unit (at most source->copies) and returns their
 * number. `from` counts from the channel's plane in the unit's first image. Up to a vector behind each plane
 * is written, too. */
int64_t esp_group_source_copies(const group_source *source, const esp_conv_geometry *g,
                                const group_unit *unit, group_copy *copies);

/* Asks for what the copies of a channel will read (of the unit's first image): planes are too short, and too
 * far from each other, for hardware to do so in time. `x` is the channel's plane. */
void esp_group_source_fetch(const group_source *source, const esp_conv_geometry *g, const group_unit *unit,
                            const float *x);

/* Fills unit_images ... copies for units of at most so many images and rows. */
void esp_group_source_divide(group_source *source, const esp_conv_geometry *g, int64_t images, int64_t rows);

/* Cycles that a block of so many filters takes for all pixels of a layer: per row of its depth, and once. A
 * method's tiles decide. */
typedef struct group_cycles {
    double row[GROUP_FILTERS + 1], once[GROUP_FILTERS + 1];
} group_cycles;

/* Adds `count` times the tiles of `vectors` vectors and `extra` pixels (those of kinds ODD and FEW); `reuse`
 * rows read the same pixels. */
void esp_group_add_cycles(const group_kernels *kernels, double count, int64_t vectors, int64_t extra,
                          int64_t reuse, group_cycles *cycles);

/* Cuts the filters into the blocks that take the fewest cycles, and returns how many. */
double esp_group_blocks(esp_group_conv *plan, int64_t taps, const group_cycles *cycles);

/* A row of vectors in tiles of at most `most`: equally wide, or the first ones a vector wider. */
typedef struct group_tiles {
    uint32_t count, width, wider;
} group_tiles;

static inline group_tiles group_cut_tiles(int64_t vectors, int most)
{
    uint32_t all = (uint32_t)vectors, count = (all + (uint32_t)most - 1) / (uint32_t)most;
    return count == 0 ? (group_tiles){0} : (group_tiles){count, all / count, all % count};
}

static inline int64_t group_tile_width(const group_tiles *tiles, uint32_t tile)
{
    return (int64_t)tiles->width + (tile < tiles->wider);
}

/* Everything a run needs to know. */
typedef struct group_run {
    const esp_group_conv *plan;
    const float *x, *weights;
    float *y;
    group_store store;
    char *scratch; /* of the method */
    int64_t unit;  /* shared: the one at work */
} group_run;

esp_status esp_group_rows_plan(esp_group_conv *plan, esp_error *err);
esp_status esp_group_winograd_plan(esp_group_conv *plan, esp_error *err);

/* Estimates, in cycles; the blocks are then cut for that method. */
double esp_group_rows_cycles(esp_group_conv *plan);
double esp_group_winograd_cycles(esp_group_conv *plan);

size_t esp_group_rows_scratch(const esp_group_conv *plan, int slots);
size_t esp_group_winograd_scratch(const esp_group_conv *plan, int slots);
esp_status esp_group_rows_run(const esp_compute *compute, group_run *run);
esp_status esp_group_winograd_run(const esp_compute *compute, group_run *run);
void esp_group_rows_pack(const esp_group_conv *plan, const esp_filter_group *group, const group_block *block,
                         float *packed);
void esp_group_winograd_pack(const esp_group_conv *plan, const esp_filter_group *group,
                             const group_block *block, int64_t chunk_depth, float *packed);

/* Cuts the blocks into `count` (or fewer) chunks of about equal work, none with more than `most` filters (but
 * every block fits), and lays out the weights: `points` times the depth of each filter's channels. */
esp_status esp_group_chunks(esp_group_conv *plan, int64_t count, int64_t most, int64_t taps, int64_t points,
                            esp_error *err);

/* What the tiles of a block ask for: a share each of the next block's weights, which lie behind those of this
 * one. `w` moves on with each tile, by depth * w_step. */
group_ahead esp_group_ahead(const group_run *run, const float *w, int64_t depth, int64_t filters,
                            uint32_t tiles);

#endif
