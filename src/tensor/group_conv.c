/* Group convolution: plans, packed weights, and the choice between the two methods, which depends on the
 * geometry, the grouping and the engine. See group_conv_internal.h. */
#include "tensor/group_conv_internal.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

/* Packed: biases in y's order, then weights. */
static size_t bias_bytes(const esp_group_conv *plan)
{
    return conv_aligned((size_t)plan->geometry.filters * sizeof(float));
}

/* ---- Plan ---- */

static esp_status check_part(const esp_conv_geometry *g, const esp_filter_group *group, int64_t index,
                             esp_error *err)
{
    if (group->filters < 1 || group->channel_count < 0)
        return esp_fail(
            err, ESP_INVALID,
            "group convolution: group %lld has %lld filters of %lld channels, expected at least 1 of 0",
            (long long)index, (long long)group->filters, (long long)group->channel_count);
    for (int64_t i = 0; i < group->channel_count; i++) {
        if (group->channels[i] < 0 || group->channels[i] >= g->channels)
            return esp_fail(err, ESP_INVALID,
                            "group convolution: group %lld reads channel %lld, expected 0 to %lld",
                            (long long)index, (long long)group->channels[i], (long long)g->channels - 1);
    }
    return ESP_OK;
}

static esp_status check_groups(const esp_conv_geometry *g, const esp_filter_group *groups, int64_t count,
                               esp_error *err)
{
    int64_t filters = 0;
    for (int64_t i = 0; i < count; i++) {
        esp_status status = check_part(g, &groups[i], i, err);
        if (status != ESP_OK)
            return status;
        filters += groups[i].filters;
    }
    if (filters != g->filters || g->group != 1)
        return esp_fail(err, ESP_INVALID,
                        "group convolution: groups have %lld filters, expected the layer's %lld",
                        (long long)filters, (long long)g->filters);
    if (g->channels * g->height * g->width >= INT32_MAX / conv_max(g->batch, 1) || g->filters >= INT32_MAX)
        return esp_fail(
            err, ESP_UNSUPPORTED, "group convolution: an input of %lldx%lldx%lldx%lld exceeds 32-bit offsets",
            (long long)g->batch, (long long)g->channels, (long long)g->height, (long long)g->width);
    return ESP_OK;
}

static esp_status set_order(esp_group_conv *plan, const int64_t *order, esp_error *err)
{
    const int64_t filters = plan->geometry.filters;
    bool *is_taken = esp_alloc_zero((size_t)filters, sizeof *is_taken);
    if (is_taken == NULL)
        return esp_fail_memory(err, "group convolution", (size_t)filters);
    esp_status status = ESP_OK;
    for (int64_t f = 0; status == ESP_OK && f < filters; f++) {
        int64_t channel = order == NULL ? f : order[f];
        if (channel < 0 || channel >= filters || is_taken[channel]) {
            status = esp_fail(
                err, ESP_INVALID,
                "group convolution: filter %lld becomes channel %lld, expected a permutation of %lld",
                (long long)f, (long long)channel, (long long)filters);
        } else {
            is_taken[channel] = true;
            plan->y_channel[f] = (int32_t)channel;
        }
    }
    esp_free(is_taken);
    return status;
}

/* Numbers the channels that are read, and every part's list in these numbers. */
static esp_status number_channels(esp_group_conv *plan, const esp_filter_group *groups, esp_error *err)
{
    const int64_t channels = plan->geometry.channels;
    int32_t *number = esp_alloc((size_t)channels, sizeof *number);
    if (number == NULL)
        return esp_fail_memory(err, "group convolution", (size_t)channels * sizeof *number);
    for (int64_t c = 0; c < channels; c++)
        number[c] = -1;
    for (int64_t p = 0; p < plan->part_count; p++)
        for (int64_t i = 0; i < groups[p].channel_count; i++)
            number[groups[p].channels[i]] = 0;
    for (int64_t c = 0; c < channels; c++) {
        if (number[c] < 0)
            continue;
        number[c] = (int32_t)plan->used_count;
        plan->used[plan->used_count++] = (int32_t)c;
    }
    for (int64_t p = 0; p < plan->part_count; p++)
        for (int64_t i = 0; i < groups[p].channel_count; i++)
            plan->channels[plan->parts[p].first_offset + i] = number[groups[p].channels[i]];
    esp_free(number);
    return ESP_OK;
}

/* ---- Blocks ---- */

/* Two multiply-adds and two loads per cycle (of weights, pixels, and what is asked for ahead); sums that wait
 * for each other; pixels that come from a second-level cache, each for the rows of taps that read it in turn.
 * Within some 10 % of what Zen 5 takes. */
static double tile_cycles(double filters, double vectors, double extra, double reuse)
{
    double products = 0.5 * (filters * vectors + extra) + 0.4;
    double loads = 0.5 * (filters + 2.0 * vectors + 1.0 + extra);
    return fmax(fmax(products, loads), fmax(4.0, fmax(1.7, 2.7 / reuse) * vectors));
}

void esp_group_add_cycles(const group_kernels *kernels, double count, int64_t vectors, int64_t extra,
                          int64_t reuse, group_cycles *cycles)
{
    for (int f = 1; f <= kernels->filters; f++) {
        const group_tiles tiles = group_cut_tiles(vectors, kernels->vectors[f]);
        for (uint32_t t = 0; t < tiles.count; t++) {
            double width = (double)group_tile_width(&tiles, t);
            double rest = t == tiles.count - 1 ? (double)extra : 0.0;
            cycles->row[f] += count * tile_cycles(f, width, rest, (double)reuse);
            cycles->once[f] += count * (40.0 + 2.0 * f * (width + rest));
        }
    }
}

static double blocks_cycles(int64_t filters, int64_t blocks, double depth, const group_cycles *cycles)
{
    int64_t small = filters / blocks, large_blocks = filters % blocks;
    double total = (double)(blocks - large_blocks) * (depth * cycles->row[small] + cycles->once[small]);
    if (large_blocks > 0)
        total += (double)large_blocks * (depth * cycles->row[small + 1] + cycles->once[small + 1]);
    return total;
}

double esp_group_blocks(esp_group_conv *plan, int64_t taps, const group_cycles *cycles)
{
    double total = 0.0;
    plan->block_count = 0;
    for (int64_t p = 0; p < plan->part_count; p++) {
        const group_part *part = &plan->parts[p];
        const double depth = (double)(part->channel_count * taps);
        int64_t fewest = conv_ceil_divide(part->filters, plan->kernels->filters), best = fewest;
        for (int64_t blocks = fewest + 1; blocks <= conv_min(2 * fewest + 1, part->filters); blocks++) {
            if (blocks_cycles(part->filters, blocks, depth, cycles) <
                blocks_cycles(part->filters, best, depth, cycles))
                best = blocks;
        }
        total += blocks_cycles(part->filters, best, depth, cycles);
        for (int64_t b = 0; b < best; b++) {
            int64_t first = part->filters * b / best, last = part->filters * (b + 1) / best;
            plan->blocks[plan->block_count++] =
                (group_block){.part = (int32_t)p,
                              .filters = (int32_t)(last - first),
                              .first_filter = (int32_t)(part->first_filter + first)};
        }
    }
    return total;
}

static esp_status make_parts(esp_group_conv *plan, const esp_filter_group *groups, esp_error *err)
{
    const esp_conv_geometry *g = &plan->geometry;
    int64_t entries = 0, filters = 0;
    plan->parts = esp_alloc((size_t)plan->part_count, sizeof *plan->parts);
    if (plan->parts == NULL)
        return esp_fail_memory(err, "group convolution", (size_t)plan->part_count * sizeof *plan->parts);
    for (int64_t p = 0; p < plan->part_count; p++) {
        plan->parts[p] = (group_part){.filters = groups[p].filters,
                                      .first_filter = filters,
                                      .channel_count = groups[p].channel_count,
                                      .first_offset = entries};
        filters += groups[p].filters;
        entries += groups[p].channel_count;
    }
    plan->blocks = esp_alloc((size_t)g->filters, sizeof *plan->blocks);
    plan->used = esp_alloc((size_t)g->channels, sizeof *plan->used);
    plan->channels = esp_alloc((size_t)entries, sizeof *plan->channels);
    plan->y_channel = esp_alloc((size_t)g->filters, sizeof *plan->y_channel);
    plan->offsets = esp_alloc((size_t)(entries * conv_taps(g)), sizeof *plan->offsets);
    if (plan->blocks == NULL || plan->used == NULL || plan->channels == NULL || plan->y_channel == NULL ||
        plan->offsets == NULL)
        return esp_fail_memory(err, "group convolution", (size_t)(entries * conv_taps(g)) * sizeof(int32_t));
    return number_channels(plan, groups, err);
}

static double block_work(const esp_group_conv *plan, const group_block *block, int64_t taps)
{
    double depth = (double)(plan->parts[block->part].channel_count * taps);
    return (depth + 8.0) * (double)block->filters;
}

esp_status esp_group_chunks(esp_group_conv *plan, int64_t count, int64_t most, int64_t taps, int64_t points,
                            esp_error *err)
{
    double total = 0.0, done = 0.0;
    plan->chunks = esp_alloc((size_t)plan->block_count, sizeof *plan->chunks);
    if (plan->chunks == NULL)
        return esp_fail_memory(err, "group convolution", (size_t)plan->block_count * sizeof *plan->chunks);
    for (int64_t b = 0; b < plan->block_count; b++)
        total += block_work(plan, &plan->blocks[b], taps);
    group_chunk *chunk = NULL;
    for (int64_t b = 0; b < plan->block_count; b++) {
        const group_block *block = &plan->blocks[b];
        if (chunk == NULL || done >= total * (double)plan->chunk_count / (double)count ||
            chunk->filters + block->filters > most) {
            chunk = &plan->chunks[plan->chunk_count++];
            *chunk = (group_chunk){.first = b, .weights = plan->weight_floats};
        }
        chunk->last = b + 1;
        chunk->filters += block->filters;
        plan->weight_floats += plan->parts[block->part].channel_count * taps * points * block->filters;
        done += block_work(plan, block, taps);
    }
    return ESP_OK;
}

static bool may_take_winograd(const esp_group_conv *plan)
{
    const esp_conv_geometry *g = &plan->geometry;
    return plan->engine.has_winograd && g->kernel_h == 3 && g->kernel_w == 3 && g->stride_h == 1 &&
           g->stride_w == 1 && g->dilation_h == 1 && g->dilation_w == 1;
}

/* Cuts the blocks for the method, too. */
static void choose_method(esp_group_conv *plan, group_choice choice)
{
    double winograd = INFINITY, rows;
    if (choice == GROUP_WINOGRAD || (choice == GROUP_BEST && may_take_winograd(plan)))
        winograd = esp_group_winograd_cycles(plan);
    rows = esp_group_rows_cycles(plan);
    plan->is_winograd = choice == GROUP_WINOGRAD || winograd < rows;
    if (plan->is_winograd)
        winograd = esp_group_winograd_cycles(plan);
    plan->cost = 2.0 * plan->kernels->lanes * (plan->is_winograd ? winograd : rows);
}

esp_status esp_group_plan(const esp_engine *engine, const esp_conv_geometry *geometry,
                          const esp_filter_group *groups, int64_t count, const int64_t *order,
                          group_choice choice, esp_group_conv **out, esp_error *err)
{
    *out = NULL;
    esp_status status = check_groups(geometry, groups, count, err);
    if (status != ESP_OK)
        return status;
    esp_group_conv *plan = esp_alloc_zero(1, sizeof *plan);
    if (plan == NULL)
        return esp_fail_memory(err, "group convolution", sizeof *plan);
    plan->geometry = *geometry;
    plan->engine = *engine;
    plan->kernels = esp_group_kernels(engine);
    plan->part_count = count;
    status = make_parts(plan, groups, err);
    if (status == ESP_OK)
        status = set_order(plan, order, err);
    if (status == ESP_OK) {
        choose_method(plan, choice);
        status = plan->is_winograd ? esp_group_winograd_plan(plan, err) : esp_group_rows_plan(plan, err);
    }
    if (status == ESP_OK)
        *out = plan;
    else
        esp_group_conv_free(plan);
    return status;
}

esp_status esp_group_conv_plan(const esp_engine *engine, const esp_conv_geometry *geometry,
                               const esp_filter_group *groups, int64_t count, const int64_t *order,
                               esp_group_conv **out, esp_error *err)
{
    return esp_group_plan(engine, geometry, groups, count, order, GROUP_BEST, out, err);
}

void esp_group_conv_free(esp_group_conv *plan)
{
    if (plan == NULL)
        return;
    esp_free(plan->parts);
    esp_free(plan->blocks);
    esp_free(plan->chunks);
    esp_free(plan->used);
    esp_free(plan->channels);
    esp_free(plan->y_channel);
    esp_free(plan->offsets);
    esp_free(plan->source.planes);
    esp_free(plan);
}

/* ---- What a plan says of itself ---- */

esp_layout esp_group_conv_x_layout(const esp_group_conv *plan)
{
    (void)plan;
    return ESP_LAYOUT_PLAIN;
}

esp_layout esp_group_conv_y_layout(const esp_group_conv *plan)
{
    (void)plan;
    return ESP_LAYOUT_PLAIN;
}

const char *esp_group_conv_name(const esp_group_conv *plan)
{
    return plan->is_winograd ? "winograd" : "rows";
}

int64_t esp_group_conv_macs(const esp_group_conv *plan)
{
    const esp_conv_geometry *g = &plan->geometry;
    int64_t weights = 0;
    for (int64_t p = 0; p < plan->part_count; p++)
        weights += plan->parts[p].filters * plan->parts[p].channel_count * conv_taps(g);
    return g->batch * conv_pixels(g) * weights;
}

double esp_group_conv_cost(const esp_group_conv *plan)
{
    return plan->cost;
}

/* Row f of a group in the dense weight. */
static int64_t dense_row(const esp_conv_geometry *geometry, int64_t filter, const int64_t *order)
{
    return (order == NULL ? filter : order[filter]) * geometry->channels * conv_taps(geometry);
}

void esp_group_conv_spread(const esp_conv_geometry *geometry, const esp_filter_group *group,
                           int64_t first_filter, const int64_t *order, float *dense)
{
    const int64_t taps = conv_taps(geometry);
    const float *w = group->w;
    for (int64_t f = 0; f < group->filters; f++) {
        float *row = dense + dense_row(geometry, first_filter + f, order);
        memset(row, 0, (size_t)(geometry->channels * taps) * sizeof *row);
        for (int64_t i = 0; i < group->channel_count; i++, w += taps)
            for (int64_t tap = 0; tap < taps; tap++)
                row[group->channels[i] * taps + tap] += w[tap];
    }
}

void esp_group_conv_collect(const esp_conv_geometry *geometry, const esp_filter_group *group,
                            int64_t first_filter, const int64_t *order, const float *dense, float *grad)
{
    const int64_t taps = conv_taps(geometry);
    for (int64_t f = 0; f < group->filters; f++) {
        const float *row = dense + dense_row(geometry, first_filter + f, order);
        for (int64_t i = 0; i < group->channel_count; i++, grad += taps)
            memcpy(grad, row + group->channels[i] * taps, (size_t)taps * sizeof *grad);
    }
}

void esp_group_conv_densify(const esp_conv_geometry *geometry, const esp_filter_group *groups, int64_t count,
                            const int64_t *order, float *w, float *bias)
{
    int64_t filter = 0;
    for (int64_t p = 0; p < count; p++) {
        const esp_filter_group *group = &groups[p];
        esp_group_conv_spread(geometry, group, filter, order, w);
        for (int64_t f = 0; f < group->filters; f++, filter++) {
            if (bias != NULL)
                bias[order == NULL ? filter : order[filter]] = group->bias == NULL ? 0.0f : group->bias[f];
        }
    }
}

/* ---- Packed weights ---- */

uint64_t esp_group_conv_pack_key(const esp_group_conv *plan)
{
    /* How filters are cut into blocks and blocks into chunks decides where weights lie. */
    uint64_t key = 0x67726f7570636f6eu ^ (uint64_t)plan->is_winograd;
    for (int64_t c = 0; c < plan->chunk_count; c++)
        key = (key ^ (uint64_t)plan->chunks[c].last) * 0x100000001b3u;
    for (int64_t b = 0; b < plan->block_count; b++)
        key = (key ^ (uint64_t)plan->blocks[b].filters) * 0x100000001b3u;
    return key == 0 ? 1 : key;
}

size_t esp_group_conv_packed_bytes(const esp_group_conv *plan)
{
    return bias_bytes(plan) + (size_t)plan->weight_floats * sizeof(float);
}

typedef struct pack_job {
    const esp_group_conv *plan;
    const esp_filter_group *groups;
    float *bias, *weights;
} pack_job;

static void pack_chunk(void *context, int64_t task, int slot)
{
    const pack_job *job = context;
    const esp_group_conv *plan = job->plan;
    const group_chunk *chunk = &plan->chunks[task];
    int64_t depth = 0;
    (void)slot;
    for (int64_t b = chunk->first; b < chunk->last; b++)
        depth += plan->parts[plan->blocks[b].part].channel_count * plan->blocks[b].filters;
    float *packed = job->weights + chunk->weights;
    for (int64_t b = chunk->first; b < chunk->last; b++) {
        const group_block *block = &plan->blocks[b];
        const group_part *part = &plan->parts[block->part];
        const esp_filter_group *group = &job->groups[block->part];
        int64_t weights = part->channel_count * block->filters;
        if (plan->is_winograd) {
            esp_group_winograd_pack(plan, group, block, depth, packed);
            packed += weights;
        } else {
            esp_group_rows_pack(plan, group, block, packed);
            packed += weights * conv_taps(&plan->geometry);
        }
        for (int64_t f = 0; f < block->filters; f++)
            job->bias[plan->y_channel[block->first_filter + f]] =
                group->bias == NULL ? 0.0f : group->bias[block->first_filter - part->first_filter + f];
    }
}

esp_status esp_group_conv_pack(const esp_compute *compute, const esp_group_conv *plan,
                               const esp_filter_group *groups, void *packed)
{
    pack_job job = {.plan = plan, .groups = groups, .bias = packed};
    job.weights = (float *)(void *)((char *)packed + bias_bytes(plan));
    return esp_compute_run(compute, plan->chunk_count, pack_chunk, &job);
}

/* ---- Run ---- */

/* Scratch memory: scale and shift of all filters, then the method's. */
size_t esp_group_conv_scratch(const esp_group_conv *plan, int slots)
{
    return 2 * bias_bytes(plan) + (plan->is_winograd ? esp_group_winograd_scratch(plan, slots)
                                                     : esp_group_rows_scratch(plan, slots));
}

static void make_store(const esp_group_conv *plan, const esp_conv_extras *extras, const float *bias,
                       float *scale, float *shift, group_store *store)
{
    *store = (group_store){.scale = scale, .shift = shift};
    for (int64_t f = 0; f < plan->geometry.filters; f++) {
        scale[f] = extras != NULL && extras->scale != NULL ? extras->scale[f] : 1.0f;
        shift[f] = bias[f] * scale[f] + (extras != NULL && extras->shift != NULL ? extras->shift[f] : 0.0f);
    }
    if (extras == NULL)
        return;
    store->residual = extras->residual == NULL ? NULL : esp_view_f32(extras->residual);
    store->clips = extras->clips;
    store->low = extras->low;
    store->high = extras->high;
}

esp_status esp_group_conv_run(const esp_compute *compute, const esp_group_conv *plan, const esp_view *x,
                              const void *packed, const esp_conv_extras *extras, const esp_view *y,
                              void *scratch)
{
    const esp_conv_geometry *g = &plan->geometry;
    if (g->batch == 0 || conv_pixels(g) == 0)
        return ESP_OK;
    float *scale = scratch, *shift = (float *)(void *)((char *)scratch + bias_bytes(plan));
    group_run run = {.plan = plan,
                     .x = esp_view_f32(x),
                     .weights = (const float *)(const void *)((const char *)packed + bias_bytes(plan)),
                     .y = esp_view_f32(y),
                     .scratch = (char *)scratch + 2 * bias_bytes(plan)};
    make_store(plan, extras, packed, scale, shift, &run.store);
    return plan->is_winograd ? esp_group_winograd_run(compute, &run) : esp_group_rows_run(compute, &run);
}

group_ahead esp_group_ahead(const group_run *run, const float *w, int64_t depth, int64_t filters,
                            uint32_t tiles)
{
    const float *next = w + depth * filters;
    if (next + depth * filters > run->weights + run->plan->weight_floats)
        return (group_ahead){.w = (const char *)w};
    return (group_ahead){.w = (const char *)next,
                         .w_step = (int64_t)((uint32_t)filters * (uint32_t)sizeof *w / tiles)};
}

/* ---- Dense forms, for comparison ---- */

/* Fitted to layers of 7x7 to 112x112 pixels with 16 to 512 channels, batches of 1 and 8. */
double esp_group_conv_dense_cost(const esp_engine *engine, const esp_conv_geometry *geometry)
{
    esp_blocked_conv plan;
    double macs = (double)(geometry->batch * conv_pixels(geometry)) * (double)conv_weights(geometry);
    if (!esp_blocked_conv_plan(engine, geometry, ESP_CONV_FORWARD, false, &plan))
        return macs * 1.3;
    if (strcmp(esp_blocked_conv_name(&plan), "pointwise") == 0)
        return macs / 0.94;
    if (strcmp(esp_blocked_conv_name(&plan), "winograd") != 0)
        return macs / 0.9;
    int64_t tiles = geometry->batch * conv_ceil_divide(geometry->out_height, 4) *
                    conv_ceil_divide(geometry->out_width, 4);
    double products = 36.0 * (double)(geometry->channels * geometry->filters);
    return (double)tiles *
               (products * 1.2 + 180.0 * (double)geometry->channels + 140.0 * (double)geometry->filters) +
           products * 3.0;
}

double esp_group_conv_copy_cost(const esp_engine *engine, int64_t elements)
{
    (void)engine;
    return (double)elements * 40.0;
}
