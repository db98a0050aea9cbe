/* See winograd.h. What problem a plan is, whether Winograd is worth it there, in which form its weights are
 * packed, and the methods that follow from that.
 *
 * Transformed weights are 36 numbers for 9. They are packed like that only where they are few (KEPT_SIDE):
 * else they are packed as the direct kernels pack them, which then share them, and every run transforms them
 * again, a part at a time, into memory that it uses at once. */
#include "tensor/winograd.h"

#include <math.h>

#include "tensor/winograd_internal.h"

/* Transformed weights are kept up to so many channels and filters: 590 KB. Measured on a Zen 5 at 3.6 GHz,
 * one thread: 64 filters of 64 channels on 8x8 pixels of a network that stays in the caches take 9 us with
 * them and 17 us without. Larger weights come from memory, which is slow to read four times as much: 128
 * channels by 32 filters on 14x14 pixels take 51 us with them and 47 us without; 512 by 512, 1.70 ms and 2.05
 * ms, but 1.25 ms and 1.09 ms on two threads, which read from the same memory. */
enum { KEPT_SIDE = 64 };

bool esp_winograd_problem(const esp_blocked_conv *plan, winograd_problem *out)
{
    const esp_conv_geometry *g = &plan->geometry;
    if (g->kernel_h != 3 || g->kernel_w != 3 || g->stride_h != 1 || g->stride_w != 1 || g->dilation_h != 1 ||
        g->dilation_w != 1 || g->group != 1)
        return false;
    *out = (winograd_problem){.batch = g->batch, .is_gradient = plan->pass == ESP_CONV_GRAD_INPUT};
    if (out->is_gradient) {
        out->channels = g->filters;
        out->filters = g->channels;
        out->grid = (winograd_grid){.height = g->out_height,
                                    .width = g->out_width,
                                    .top = 2 - g->pad_top,
                                    .left = 2 - g->pad_left,
                                    .out_height = g->height,
                                    .out_width = g->width};
    } else {
        out->channels = g->channels;
        out->filters = g->filters;
        out->grid = (winograd_grid){.height = g->height,
                                    .width = g->width,
                                    .top = g->pad_top,
                                    .left = g->pad_left,
                                    .out_height = g->out_height,
                                    .out_width = g->out_width};
    }
    out->grid.tile_rows = conv_ceil_divide(out->grid.out_height, WINOGRAD_TILE);
    out->grid.tile_columns = conv_ceil_divide(out->grid.out_width, WINOGRAD_TILE);
    out->tiles = out->batch * out->grid.tile_rows * out->grid.tile_columns;
    out->channel_blocks = conv_ceil_divide(out->channels, ESP_BLOCK);
    out->filter_blocks = conv_ceil_divide(out->filters, ESP_BLOCK);
    out->wide_blocks = esp_blocked_kernels(&plan->engine)->filter_block / ESP_BLOCK;
    out->wides = conv_ceil_divide(out->filter_blocks, out->wide_blocks);
    return out->tiles > 0 && out->channels > 0 && out->filters > 0 && g->height > 0 && g->width > 0;
}

/* ---- Is it worth it? ---- */

/* Estimates in cycles of a core with two 512-bit multiply-add units; on others both change alike. Constants
 * are measured; what matters is the ratio of the two. */

/* Multiply-adds of `count` pixels in register tiles by all filters, for `depth` values of each. A pixel by
 * two blocks of filters takes a cycle, by a single block a little more than half of one; a tile of few pixels
 * waits for the latency of its sums. */
static double multiply_cycles(const winograd_problem *p, int64_t count, double depth)
{
    enum { TILE_PIXELS = 14 };
    const double latency = 4.0, tiles = (double)conv_ceil_divide(count, TILE_PIXELS);
    double pairs = (double)(p->filter_blocks / 2), pixels = (double)count;
    double cycles = pairs * fmax(pixels * 1.05, tiles * latency);
    if (p->filter_blocks % 2 != 0)
        cycles += fmax(pixels * 0.63, tiles * latency);
    return cycles * depth;
}

/* Calculation overlaps with reading weights, but not wholly. What a network does between two uses of its
 * weights leaves only small ones in a cache. */
static double with_weights(double cycles, double weights)
{
    const double bytes = weights * sizeof(float);
    double reading = bytes / (bytes > 1 << 20 ? 8.5 : 30.0);
    return fmax(cycles, reading) + 0.2 * fmin(cycles, reading);
}

/* Each superblock of about MANY_TILES transforms the weights anew where channels are many. A vector of
 * filters takes 90 cycles in the caches, and a few more until its points are multiplied. */
double esp_winograd_cycles(const winograd_problem *p)
{
    enum { TAPS = 9, MANY_TILES = 100, MANY_BLOCKS = 16 };
    const double input = 120.0, output = 190.0, start = 600.0; /* per tile and block; per run */
    const double transform = p->has_points ? 0.0 : 150.0;      /* per channel and block of filters */
    bool is_shared = p->channel_blocks + p->filter_blocks > MANY_BLOCKS;
    double repeats = is_shared ? (double)conv_ceil_divide(p->tiles, MANY_TILES) : 1.0;
    double vectors = (double)(p->channels * p->filter_blocks);
    double weights = (p->has_points ? WINOGRAD_POINTS : TAPS) * vectors * ESP_BLOCK;
    double products = multiply_cycles(p, p->tiles, (double)(WINOGRAD_POINTS * p->channels));
    double tile = input * (double)p->channel_blocks + output * (double)p->filter_blocks;
    return with_weights(products, weights) + tile * (double)p->tiles + transform * vectors * repeats + start;
}

static double direct_cycles(const winograd_problem *p)
{
    const double store = 2.5; /* per pixel and block */
    double weights = (double)(9 * p->channels * p->filter_blocks * ESP_BLOCK);
    double rows = (double)(p->batch * p->grid.out_height);
    double products = rows * multiply_cycles(p, p->grid.out_width, (double)(9 * p->channels));
    return with_weights(products, weights) + rows * (double)(p->grid.out_width * p->filter_blocks) * store;
}

/* A smaller gain is not worth the digits that it costs. */
static const double least_gain = 0.9;

static bool fits_pass(const esp_blocked_conv *plan, esp_conv_pass pass, bool has_points)
{
    winograd_problem problem;
    if (plan->pass != pass || !plan->engine.has_winograd || plan->takes_plain ||
        !esp_winograd_problem(plan, &problem))
        return false;
    problem.has_points = problem.channels <= KEPT_SIDE && problem.filters <= KEPT_SIDE;
    return problem.has_points == has_points &&
           esp_winograd_cycles(&problem) < least_gain * direct_cycles(&problem);
}

static bool fits_forward(const esp_blocked_conv *plan)
{
    return fits_pass(plan, ESP_CONV_FORWARD, false);
}

static bool fits_forward_points(const esp_blocked_conv *plan)
{
    return fits_pass(plan, ESP_CONV_FORWARD, true);
}

static bool fits_input(const esp_blocked_conv *plan)
{
    return fits_pass(plan, ESP_CONV_GRAD_INPUT, false);
}

static bool fits_input_points(const esp_blocked_conv *plan)
{
    return fits_pass(plan, ESP_CONV_GRAD_INPUT, true);
}

/* ---- The methods ---- */

/* The problem of a plan whose method is one of those below. */
static bool problem_of(const esp_blocked_conv *plan, winograd_problem *out)
{
    bool is_problem = esp_winograd_problem(plan, out);
    if (is_problem)
        out->has_points = plan->method->pack == esp_winograd_pack;
    return is_problem;
}

static size_t scratch_bytes(const esp_blocked_conv *plan, int slots)
{
    winograd_problem problem;
    return problem_of(plan, &problem) ? esp_winograd_scratch(plan, &problem, slots) : 0;
}

static esp_status run(const esp_compute *compute, const esp_blocked_conv *plan, const esp_view *x,
                      const void *packed, const esp_conv_extras *extras, const esp_view *y, void *scratch)
{
    winograd_problem problem;
    if (!problem_of(plan, &problem))
        return ESP_OK; /* nothing to compute */
    return esp_winograd_run(compute, plan, &problem, x, packed, extras, y, scratch);
}

/* The direct gradient has the filters of a channel in panels, which are not flipped. */
static size_t input_panels_bytes(const esp_blocked_conv *plan)
{
    return esp_blocked_direct_input.packed_bytes(plan);
}

static esp_status pack_input_panels(const esp_compute *compute, const esp_blocked_conv *plan, const float *w,
                                    void *packed)
{
    return esp_blocked_direct_input.pack(compute, plan, w, packed);
}

enum { WINOGRAD_PACK = 0x77696e6f, WINOGRAD_PACK_INPUT, WINOGRAD_PANELS_INPUT };

const blocked_method esp_blocked_winograd = {
    .name = "winograd",
    .pack_key = BLOCKED_PANELS_KEY,
    .fits = fits_forward,
    .packed_bytes = esp_blocked_panels_bytes,
    .pack = esp_blocked_pack_blocked,
    .scratch = scratch_bytes,
    .run = run,
};

const blocked_method esp_blocked_winograd_points = {
    .name = "winograd",
    .pack_key = WINOGRAD_PACK,
    .fits = fits_forward_points,
    .packed_bytes = esp_winograd_packed_bytes,
    .pack = esp_winograd_pack,
    .scratch = scratch_bytes,
    .run = run,
};

const blocked_method esp_blocked_winograd_input = {
    .name = "winograd",
    .pack_key = WINOGRAD_PANELS_INPUT,
    .fits = fits_input,
    .packed_bytes = input_panels_bytes,
    .pack = pack_input_panels,
    .scratch = scratch_bytes,
    .run = run,
};

const blocked_method esp_blocked_winograd_input_points = {
    .name = "winograd",
    .pack_key = WINOGRAD_PACK_INPUT,
    .fits = fits_input_points,
    .packed_bytes = esp_winograd_packed_bytes,
    .pack = esp_winograd_pack,
    .scratch = scratch_bytes,
    .run = run,
};
