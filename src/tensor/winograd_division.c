/* How the work of a Winograd convolution is divided: into superblocks of tiles, whose transformed input and
 * products are in memory at a time, and into tasks. What an output is the sum of, and in which order, is the
 * same for all divisions but in what chunks channels are taken, and that depends on the problem only; so one
 * thread alone may be spared to divide a small problem. */
#include <math.h>

#include "tensor/winograd_internal.h"

/* Bytes of V and M. Private ones share a second-level cache with the parts of x and y they stand for, but
 * have at least FEW_TILES, for which it is just worth reading the weights, up to MOST_PRIVATE_BYTES. Shared
 * ones lie in the last level; MANY_TILES are as good as any more. */
enum {
    PRIVATE_BYTES = 300 << 10,
    MOST_PRIVATE_BYTES = 1100 << 10,
    SHARED_BYTES = 8 << 20,
    FEW_TILES = 28,
    MANY_TILES = 56
};

/* Images above FAR_BYTES (x and y together) are not in a core's caches when they are needed; weights above
 * NEAR_WEIGHTS do not stay there from one superblock to the next. */
enum { FAR_BYTES = 4 << 20, NEAR_WEIGHTS = 1 << 20 };

/* Tasks of fewer cycles (some 3 us) do not pay for handing them to a thread that waits. More than MOST_TASKS
 * balance no better, but fetch ahead for the wrong core more often; still none may take so long that
 * cancelling is slow. */
static const double least_task_cycles = 12e3, most_task_cycles = 8e6;
enum { MOST_TASKS = 64 };

/* Small problems are divided into two tasks, or four if those are large enough, of at least FEWEST_TILES:
 * fewer leave the multiply-add units waiting for each other. */
enum { FEWEST_TILES = 7 };

/* A shared superblock has at least so many tasks. CHUNK_BLOCKS of channels at a time: the transformed weights
 * of a wide block of filters, and M, lie in a second-level cache. */
enum { SHARED_TASKS = 8, CHUNK_BLOCKS = 8 };

static int64_t tile_bytes(const winograd_problem *p)
{
    return WINOGRAD_POINTS * ESP_BLOCK * (p->channel_blocks + p->filter_blocks) * (int64_t)sizeof(float);
}

static void divide_shared(const winograd_problem *p, winograd_division *d)
{
    d->superblocks = conv_ceil_divide(p->tiles, conv_max(SHARED_BYTES / tile_bytes(p), MANY_TILES));
    int64_t parts = 1;
    while (parts < WINOGRAD_PATCH && p->wides * parts < SHARED_TASKS)
        parts += parts == 3 ? 3 : 1; /* a divisor of six */
    d->task_rows = WINOGRAD_PATCH / parts;
    int64_t chunks = conv_ceil_divide(p->channel_blocks, CHUNK_BLOCKS * parts);
    d->chunk_blocks = conv_ceil_divide(p->channel_blocks, chunks);
    d->panel_point = winograd_odd_lines(d->chunk_blocks * ESP_BLOCK * p->wide_blocks);
}

/* Superblocks, and filters where there are too few tiles, in a number that several threads share evenly. */
static void divide_private(const winograd_problem *p, double cycles, bool is_alone, winograd_division *d)
{
    int64_t most = (int64_t)fmax(1.0, cycles / least_task_cycles);
    d->superblocks = conv_ceil_divide(p->tiles, conv_max(PRIVATE_BYTES / tile_bytes(p), FEW_TILES));
    d->filter_tasks = 1;
    if (most > 1 && !is_alone) {
        int64_t wanted = most < 8 ? 2 : 4;
        d->superblocks = conv_max(d->superblocks, conv_min(wanted, conv_max(p->tiles / FEWEST_TILES, 1)));
        if (d->superblocks == 1) {
            d->filter_tasks = conv_min(wanted, p->wides);
        } else {
            int64_t multiple = d->superblocks > 4 ? 4 : 2;
            d->superblocks = conv_min(conv_ceil_divide(d->superblocks, multiple) * multiple, p->tiles);
        }
    }
    most = conv_min(most, conv_max(MOST_TASKS, (int64_t)(cycles / most_task_cycles)));
    d->tile_tasks = conv_ceil_divide(d->superblocks, conv_ceil_divide(d->superblocks, most));
    d->is_far = p->batch * ESP_BLOCK * (int64_t)sizeof(float) *
                    (p->channel_blocks * p->grid.height * p->grid.width +
                     p->filter_blocks * p->grid.out_height * p->grid.out_width) >
                FAR_BYTES;
    d->fetches_weights =
        WINOGRAD_POINTS * esp_winograd_weight_point(p) * (int64_t)sizeof(float) > NEAR_WEIGHTS;
}

winograd_division esp_winograd_divide(const winograd_problem *p, int slots)
{
    winograd_division d = {0};
    const double cycles = esp_winograd_cycles(p);
    d.is_shared = !p->has_points && cycles >= 2.0 * least_task_cycles &&
                  conv_max(PRIVATE_BYTES / tile_bytes(p), FEW_TILES) * tile_bytes(p) > MOST_PRIVATE_BYTES;
    if (!d.is_shared) {
        divide_private(p, cycles, slots == 1, &d);
        /* What cannot be divided otherwise can still be by points. Channels are so few here that they make
         * one chunk. */
        d.is_shared = !p->has_points && slots > 1 && d.tile_tasks * d.filter_tasks == 1 &&
                      cycles >= SHARED_TASKS / 2 * least_task_cycles;
    }
    if (d.is_shared)
        divide_shared(p, &d);
    d.block_tiles = conv_ceil_divide(p->tiles, d.superblocks);
    d.v_point = winograd_odd_lines(p->channel_blocks * d.block_tiles);
    /* Tasks that finish their filters have products of their own. */
    int64_t blocks = d.is_shared && winograd_finishes(&d) ? p->wide_blocks : p->filter_blocks;
    d.m_point = winograd_odd_lines(blocks * d.block_tiles);
    return d;
}
