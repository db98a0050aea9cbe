/* Weights [filters, channels/group, kh, kw] in panels: transposed, so that the filters of a panel are
 * neighbours, with rows in the order in which the kernels meet them. A piece of some columns (weights of one
 * filter) is transposed into a buffer in the first-level cache, and its rows are then put where they belong;
 * 1x1 kernels go straight there. */
#include <string.h>

#include "tensor/blocked_conv_internal.h"

/* Columns at a time; about this many columns of work make a task. */
enum { PIECE_COLUMNS = 128, TASK_COLUMNS = 2048, WIDEST_PANEL = 32 };

blocked_panels esp_blocked_panels(const esp_blocked_conv *plan)
{
    const esp_conv_geometry *g = &plan->geometry;
    int64_t width = esp_blocked_kernels(&plan->engine)->filter_block;
    blocked_panels panels = {.depth = conv_depth(g), .width = width, .group_filters = conv_group_filters(g)};
    panels.group_blocks = blocked_count(panels.group_filters);
    panels.group_panels = conv_ceil_divide(panels.group_blocks * ESP_BLOCK, width);
    return panels;
}

size_t esp_blocked_panels_bytes(const esp_blocked_conv *plan)
{
    blocked_panels panels = esp_blocked_panels(plan);
    return (size_t)blocked_panel_start(&panels, plan->geometry.group, 0) * sizeof(float);
}

typedef struct pack_job {
    const esp_conv_geometry *g;
    const blocked_kernels *kernels;
    blocked_panels panels;
    const float *w;
    float *packed;
    int64_t column_tasks; /* of each panel */
    bool is_blocked;      /* the order of rows */
} pack_job;

static int64_t row_of(const pack_job *job, int64_t column)
{
    const esp_conv_geometry *g = job->g;
    int64_t channels = conv_group_channels(g);
    int64_t c = column / conv_taps(g), tap = column % conv_taps(g);
    int64_t ky = tap / g->kernel_w, kx = tap % g->kernel_w;
    if (!job->is_blocked)
        return (ky * channels + c) * g->kernel_w + kx;
    int64_t first = c / ESP_BLOCK * ESP_BLOCK, lanes = conv_min(ESP_BLOCK, channels - first);
    return (ky * channels + first) * g->kernel_w + kx * lanes + (c - first);
}

static void pack_piece(const pack_job *job, const float *w, int64_t filters, int64_t width, int64_t from,
                       int64_t to, float *panel)
{
    int64_t depth = job->panels.depth;
    if (conv_taps(job->g) == 1) {
        job->kernels->transpose(filters, width, to - from, w + from, depth, panel + from * width, width);
        return;
    }
    float piece[PIECE_COLUMNS * WIDEST_PANEL];
    job->kernels->transpose(filters, width, to - from, w + from, depth, piece, width);
    for (int64_t column = from; column < to; column++)
        memcpy(panel + row_of(job, column) * width, piece + (column - from) * width,
               (size_t)width * sizeof(float));
}

static void pack_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const pack_job *job = context;
    const blocked_panels *panels = &job->panels;
    int64_t part = task % job->column_tasks, p = task / job->column_tasks % panels->group_panels;
    int64_t group = task / job->column_tasks / panels->group_panels;
    int64_t first = p * panels->width, filters = conv_min(panels->width, panels->group_filters - first);
    const float *w = job->w + (group * panels->group_filters + first) * panels->depth;
    float *panel = job->packed + blocked_panel_start(panels, group, p);
    int64_t width = (int64_t)blocked_panel_blocks(panels, p) * ESP_BLOCK;

    int64_t end = blocked_part(panels->depth, job->column_tasks, part + 1);
    for (int64_t from = blocked_part(panels->depth, job->column_tasks, part); from < end;
         from += PIECE_COLUMNS)
        pack_piece(job, w, filters, width, from, conv_min(from + PIECE_COLUMNS, end), panel);
}

static esp_status pack(const esp_compute *compute, const esp_blocked_conv *plan, const float *w, void *packed,
                       bool is_blocked)
{
    pack_job job = {.g = &plan->geometry,
                    .kernels = esp_blocked_kernels(&plan->engine),
                    .panels = esp_blocked_panels(plan),
                    .w = w,
                    .packed = packed,
                    .is_blocked = is_blocked};
    job.column_tasks = conv_ceil_divide(job.panels.depth, TASK_COLUMNS);
    return esp_compute_run(compute, plan->geometry.group * job.panels.group_panels * job.column_tasks,
                           pack_task, &job);
}

esp_status esp_blocked_pack_blocked(const esp_compute *compute, const esp_blocked_conv *plan, const float *w,
                                    void *packed)
{
    return pack(compute, plan, w, packed, true);
}

esp_status esp_blocked_pack_plain(const esp_compute *compute, const esp_blocked_conv *plan, const float *w,
                                  void *packed)
{
    return pack(compute, plan, w, packed, false);
}

blocked_fetch esp_blocked_fetch(const blocked_panels *panels, const float *group_weights, int64_t p,
                                int64_t tiles, int64_t runs)
{
    if (p + 1 >= panels->group_panels || tiles * runs == 0)
        return (blocked_fetch){0};
    int64_t floats = blocked_panel_blocks(panels, p + 1) * panels->depth * ESP_BLOCK;
    const float *next = group_weights + blocked_panel_start(panels, 0, p + 1);
    return (blocked_fetch){
        .next = next, .end = next + floats, .lines = conv_ceil_divide(floats / ESP_BLOCK, tiles * runs)};
}
