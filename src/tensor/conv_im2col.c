/* Convolution by im2col and BLAS: any stride, pad, dilation and group.
 *
 * A panel holds the inputs of a band of output rows, one row per weight of a filter: [depth, rows*out_width],
 * so that y = w * panel, panel gradient = w^T * dy, dw = dy * panel^T. Bands keep the panel in the level-2
 * cache. Inside a panel each run of neighbouring outputs with stride 1 is one memcpy. A 1x1 convolution with
 * stride 1 and no pads is its own panel. */
#include <string.h>

#include "tensor/blas.h"
#include "tensor/conv_internal.h"

enum { PANEL_FLOATS = 160 * 1024, PANEL_LEAST_COLUMNS = 256 };

static bool fits(const conv_method *self, const esp_conv_geometry *g, esp_conv_pass pass)
{
    (void)self;
    (void)g;
    (void)pass;
    return true;
}

/* x itself is the panel. */
static bool is_pointwise(const esp_conv_geometry *g)
{
    return g->kernel_h == 1 && g->kernel_w == 1 && g->stride_h == 1 && g->stride_w == 1 && g->pad_top == 0 &&
           g->pad_left == 0 && g->out_height == g->height && g->out_width == g->width;
}

/* Output rows per panel. */
static int64_t band_rows(const esp_conv_geometry *g)
{
    int64_t columns = conv_max(PANEL_FLOATS / conv_max(conv_depth(g), 1), PANEL_LEAST_COLUMNS);
    return conv_min(conv_max(columns / conv_max(g->out_width, 1), 1), conv_max(g->out_height, 1));
}

static size_t panel_bytes(const esp_conv_geometry *g)
{
    if (is_pointwise(g))
        return 0;
    return conv_aligned((size_t)(conv_depth(g) * band_rows(g) * g->out_width) * sizeof(float));
}

static size_t scratch_bytes(const conv_method *self, const esp_conv_geometry *g, esp_conv_pass pass,
                            int slots)
{
    (void)self;
    size_t bytes = panel_bytes(g) * (size_t)slots;
    if (pass == ESP_CONV_GRAD_WEIGHT)
        bytes += conv_partials_bytes(g);
    return bytes;
}

/* One row of a panel: the input row under kernel column `tap`, [first, last) of it inside the image. */
static void gather_row(const esp_conv_geometry *g, const float *x_row, int64_t tap, int64_t first,
                       int64_t last, float *row)
{
    for (int64_t x = 0; x < first; x++)
        row[x] = 0.0f;
    const float *source = x_row + (first * g->stride_w + tap - g->pad_left);
    if (g->stride_w == 1 && last > first)
        memcpy(row + first, source, (size_t)(last - first) * sizeof(float));
    else
        for (int64_t x = first; x < last; x++)
            row[x] = source[(x - first) * g->stride_w];
    for (int64_t x = last; x < g->out_width; x++)
        row[x] = 0.0f;
}

/* x [group channels, height, width] of one image to panel [depth, rows*out_width] for output rows y0... */
static void im2col(const esp_conv_geometry *g, const float *x, int64_t y0, int64_t rows, float *panel)
{
    for (int64_t c = 0; c < conv_group_channels(g); c++)
        for (int64_t tap = 0; tap < conv_taps(g); tap++) {
            int64_t tap_y = tap / g->kernel_w * g->dilation_h, tap_x = tap % g->kernel_w * g->dilation_w;
            int64_t first, last;
            esp_window_outputs(g->width, g->out_width, g->stride_w, g->pad_left, tap_x, &first, &last);
            for (int64_t y = y0; y < y0 + rows; y++, panel += g->out_width) {
                int64_t in_y = y * g->stride_h + tap_y - g->pad_top;
                if (in_y < 0 || in_y >= g->height || first == last)
                    memset(panel, 0, (size_t)g->out_width * sizeof(float));
                else
                    gather_row(g, x + (c * g->height + in_y) * g->width, tap_x, first, last, panel);
            }
        }
}

/* Adds a panel back to the image it would have been taken from. */
static void col2im(const esp_conv_geometry *g, const float *panel, int64_t y0, int64_t rows, float *dx)
{
    for (int64_t c = 0; c < conv_group_channels(g); c++)
        for (int64_t tap = 0; tap < conv_taps(g); tap++) {
            int64_t tap_y = tap / g->kernel_w * g->dilation_h, tap_x = tap % g->kernel_w * g->dilation_w;
            int64_t first, last;
            esp_window_outputs(g->width, g->out_width, g->stride_w, g->pad_left, tap_x, &first, &last);
            for (int64_t y = y0; y < y0 + rows; y++, panel += g->out_width) {
                int64_t in_y = y * g->stride_h + tap_y - g->pad_top;
                if (in_y < 0 || in_y >= g->height || first == last)
                    continue;
                float *target =
                    dx + (c * g->height + in_y) * g->width + first * g->stride_w + tap_x - g->pad_left;
                for (int64_t i = first; i < last; i++)
                    target[(i - first) * g->stride_w] += panel[i];
            }
        }
}

typedef struct im2col_job {
    const esp_conv_geometry *g;
    const float *x, *w, *bias, *dy;
    float *y, *dx, *partial;
    char *panels;
    size_t panel_bytes;
    int64_t rows, bands, chunks, partial_stride;
} im2col_job;

static im2col_job job_for(const esp_conv_geometry *g, void *scratch)
{
    im2col_job job = {.g = g, .panels = scratch, .panel_bytes = panel_bytes(g), .rows = band_rows(g)};
    job.bands = conv_ceil_divide(g->out_height, job.rows);
    return job;
}

/* The panel of group `group` of image `n` for a band; *stride is its row stride. */
static const float *panel_for(const im2col_job *job, int64_t n, int64_t group, int64_t band, int slot,
                              int64_t *stride)
{
    const esp_conv_geometry *g = job->g;
    const float *x = job->x + (n * g->channels + group * conv_group_channels(g)) * g->height * g->width;
    int64_t y0 = band * job->rows, rows = conv_min(job->rows, g->out_height - y0);
    if (is_pointwise(g)) {
        *stride = conv_pixels(g);
        return x + y0 * g->out_width;
    }
    float *panel = (float *)(void *)(job->panels + (size_t)slot * job->panel_bytes);
    im2col(g, x, y0, rows, panel);
    *stride = rows * g->out_width;
    return panel;
}

static void forward_task(void *context, int64_t task, int slot)
{
    const im2col_job *job = context;
    const esp_conv_geometry *g = job->g;
    int64_t n = task / (g->group * job->bands), group = task / job->bands % g->group,
            band = task % job->bands;
    int64_t filters = conv_group_filters(g), depth = conv_depth(g), pixels = conv_pixels(g), stride;
    int64_t y0 = band * job->rows, columns = conv_min(job->rows, g->out_height - y0) * g->out_width;
    float *y = job->y + (n * g->filters + group * filters) * pixels + y0 * g->out_width;

    for (int64_t f = 0; job->bias != NULL && f < filters; f++)
        for (int64_t i = 0; i < columns; i++)
            y[f * pixels + i] = job->bias[group * filters + f];
    const float *panel = panel_for(job, n, group, band, slot, &stride);
    esp_blas_gemm(false, false, filters, columns, depth, 1.0f, job->w + group * filters * depth, depth, panel,
                  stride, job->bias != NULL ? 1.0f : 0.0f, y, pixels);
}

static esp_status forward(const conv_method *self, const esp_compute *compute, const esp_conv_geometry *g,
                          const float *x, const float *w, const float *bias, float *y, void *scratch)
{
    (void)self;
    im2col_job job = job_for(g, scratch);
    job.x = x, job.w = w, job.bias = bias, job.y = y;
    return esp_compute_run(compute, g->batch * g->group * job.bands, forward_task, &job);
}

/* Bands of one image overlap in dx, so they are one task. */
static void grad_input_task(void *context, int64_t task, int slot)
{
    const im2col_job *job = context;
    const esp_conv_geometry *g = job->g;
    int64_t n = task / g->group, group = task % g->group;
    int64_t filters = conv_group_filters(g), depth = conv_depth(g), pixels = conv_pixels(g);
    int64_t plane = g->height * g->width;
    const float *dy = job->dy + (n * g->filters + group * filters) * pixels;
    const float *w = job->w + group * filters * depth;
    float *dx = job->dx + (n * g->channels + group * conv_group_channels(g)) * plane;

    if (is_pointwise(g)) {
        esp_blas_gemm(true, false, depth, pixels, filters, 1.0f, w, depth, dy, pixels, 0.0f, dx, plane);
        return;
    }
    memset(dx, 0, (size_t)(conv_group_channels(g) * plane) * sizeof(float));
    float *panel = (float *)(void *)(job->panels + (size_t)slot * job->panel_bytes);
    for (int64_t y0 = 0; y0 < g->out_height; y0 += job->rows) {
        int64_t rows = conv_min(job->rows, g->out_height - y0), columns = rows * g->out_width;
        esp_blas_gemm(true, false, depth, columns, filters, 1.0f, w, depth, dy + y0 * g->out_width, pixels,
                      0.0f, panel, columns);
        col2im(g, panel, y0, rows, dx);
    }
}

static esp_status grad_input(const conv_method *self, const esp_compute *compute, const esp_conv_geometry *g,
                             const float *dy, const float *w, float *dx, void *scratch)
{
    (void)self;
    im2col_job job = job_for(g, scratch);
    job.dy = dy, job.w = w, job.dx = dx;
    return esp_compute_run(compute, g->batch * g->group, grad_input_task, &job);
}

static void grad_weight_task(void *context, int64_t task, int slot)
{
    const im2col_job *job = context;
    const esp_conv_geometry *g = job->g;
    int64_t chunk = task / g->group, group = task % g->group;
    int64_t filters = conv_group_filters(g), depth = conv_depth(g), pixels = conv_pixels(g), stride;
    int64_t first = conv_chunk_start(g, job->chunks, chunk),
            last = conv_chunk_start(g, job->chunks, chunk + 1);
    float *partial = job->partial + chunk * job->partial_stride + group * filters * depth;

    memset(partial, 0, (size_t)(filters * depth) * sizeof(float));
    for (int64_t n = first; n < last; n++)
        for (int64_t band = 0; band < job->bands; band++) {
            int64_t y0 = band * job->rows, columns = conv_min(job->rows, g->out_height - y0) * g->out_width;
            const float *dy = job->dy + (n * g->filters + group * filters) * pixels + y0 * g->out_width;
            const float *panel = panel_for(job, n, group, band, slot, &stride);
            esp_blas_gemm(false, true, filters, depth, columns, 1.0f, dy, pixels, panel, stride, 1.0f,
                          partial, depth);
        }
}

static esp_status grad_weight(const conv_method *self, const esp_compute *compute, const esp_conv_geometry *g,
                              const float *x, const float *dy, float *dw, void *scratch)
{
    (void)self;
    im2col_job job = job_for(g, scratch);
    job.x = x, job.dy = dy, job.chunks = esp_conv_chunk_count(g);
    job.partial_stride = conv_partial_stride(g);
    job.partial = scratch;
    job.panels = (char *)scratch + conv_partials_bytes(g);
    esp_status status = esp_compute_run(compute, job.chunks * g->group, grad_weight_task, &job);
    if (status != ESP_OK)
        return status;
    return esp_conv_reduce(compute, job.chunks, conv_weights(g), job.partial_stride, job.partial, dw);
}

const conv_method esp_conv_im2col = {.name = "im2col",
                                     .fits = fits,
                                     .scratch = scratch_bytes,
                                     .forward = forward,
                                     .grad_input = grad_input,
                                     .grad_weight = grad_weight};
