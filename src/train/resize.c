/* Resizing as Pillow's Resample.c does it, to the byte: two separable passes, horizontal then vertical, whose
 * filter is stretched by the reduction (antialiasing), with coefficients of 22 bits and rounding to bytes
 * after each pass. Only the window that is wanted is computed, and only the rows it needs; a pixel's value
 * does not depend on the window. The rows between the passes lie plane by plane, so that the vertical pass
 * runs along memory and writes the planes that batches are made of. */
#include <math.h>
#include <string.h>

#include "train/image.h"

#define COEFFICIENT_BITS 22
#define COLUMN_BLOCK     256

/* The taps of one direction: for result i of the window, input first[i] .. first[i] + count[i] - 1. */
typedef struct taps {
    int32_t *first, *count, *weights; /* weights [results, room] */
    int room;
} taps;

static double bilinear(double x)
{
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double bicubic(double x) /* a = -0.5 */
{
    x = fabs(x);
    if (x < 1.0) {
        return (1.5 * x - 2.5) * x * x + 1.0;
    }
    return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 : 0.0;
}

typedef struct direction {
    int in, full;      /* sizes before, and of the whole result */
    int start, length; /* of the window */
} direction;

static double filter_support(const direction *d, esp_interpolation interpolation)
{
    double scale = (double)d->in / d->full;
    return (interpolation == ESP_INTERPOLATION_BICUBIC ? 2.0 : 1.0) * (scale < 1.0 ? 1.0 : scale);
}

static int tap_room(const direction *d, esp_interpolation interpolation)
{
    return (int)ceil(filter_support(d, interpolation)) * 2 + 1;
}

static size_t taps_bytes(const direction *d, int room)
{
    return (size_t)d->length * ((size_t)room + 2) * sizeof(int32_t);
}

/* precompute_coeffs and normalize_coeffs_8bpc. The weights are kept as doubles in `scratch` before rounding.
 */
static taps find_taps(const direction *d, esp_interpolation interpolation, int room, void *memory,
                      double *scratch)
{
    taps found = {.first = memory, .room = room};
    found.count = found.first + d->length;
    found.weights = found.count + d->length;
    double (*filter)(double) = interpolation == ESP_INTERPOLATION_BICUBIC ? bicubic : bilinear;
    double scale = (double)d->in / d->full;
    double stretch = scale < 1.0 ? 1.0 : scale;
    double support = filter_support(d, interpolation);
    for (int i = 0; i < d->length; i++) {
        double center = (d->start + i + 0.5) * scale, total = 0.0;
        int first = (int)(center - support + 0.5), end = (int)(center + support + 0.5);
        first = first < 0 ? 0 : first;
        end = end > d->in ? d->in : end;
        for (int k = 0; k < end - first; k++) {
            scratch[k] = filter((k + first - center + 0.5) * (1.0 / stretch));
            total += scratch[k];
        }
        int32_t *weights = found.weights + (int64_t)i * room;
        for (int k = 0; k < end - first; k++) {
            double weight = total != 0.0 ? scratch[k] / total : scratch[k];
            weights[k] = (int32_t)((weight < 0.0 ? -0.5 : 0.5) + weight * (1 << COEFFICIENT_BITS));
        }
        found.first[i] = first;
        found.count[i] = end - first;
    }
    return found;
}

static uint8_t to_byte(int32_t sum)
{
    int32_t value = sum >> COEFFICIENT_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* One row [in_width, channels] to `channels` rows of the window's width. */
static void filter_row(const taps *across, int width, int channels, const uint8_t *source, uint8_t *target)
{
    const int32_t half = 1 << (COEFFICIENT_BITS - 1);
    for (int x = 0; x < width; x++) {
        const int32_t *weights = across->weights + (int64_t)x * across->room;
        const uint8_t *pixel = source + (int64_t)across->first[x] * channels;
        int count = across->count[x];
        if (channels == 3) {
            int32_t sum[3] = {half, half, half};
            for (int k = 0; k < count; k++, pixel += 3) {
                sum[0] += pixel[0] * weights[k];
                sum[1] += pixel[1] * weights[k];
                sum[2] += pixel[2] * weights[k];
            }
            target[x] = to_byte(sum[0]);
            target[width + x] = to_byte(sum[1]);
            target[2 * width + x] = to_byte(sum[2]);
            continue;
        }
        for (int c = 0; c < channels; c++) {
            int32_t sum = half;
            for (int k = 0; k < count; k++) {
                sum += pixel[k * channels + c] * weights[k];
            }
            target[c * width + x] = to_byte(sum);
        }
    }
}

/* One row of the result from `count` rows that lie `stride` bytes apart. */
static void filter_column_row(const int32_t *weights, int count, const uint8_t *rows, int64_t stride,
                              int width, uint8_t *target)
{
    int32_t sums[COLUMN_BLOCK];
    for (int start = 0; start < width; start += COLUMN_BLOCK) {
        int block = width - start < COLUMN_BLOCK ? width - start : COLUMN_BLOCK;
        for (int x = 0; x < block; x++) {
            sums[x] = 1 << (COEFFICIENT_BITS - 1);
        }
        for (int k = 0; k < count; k++) {
            const uint8_t *row = rows + k * stride + start;
            int32_t weight = weights[k];
            for (int x = 0; x < block; x++) {
                sums[x] += row[x] * weight;
            }
        }
        for (int x = 0; x < block; x++) {
            target[start + x] = to_byte(sums[x]);
        }
    }
}

static bool is_plain(const direction *d)
{
    return d->in == d->full;
}

esp_status esp_resize(const esp_resize_job *job, esp_transform_room *room, esp_error *err)
{
    const direction x = {job->in_width, job->full_width, job->window.x, job->window.width};
    const direction y = {job->in_height, job->full_height, job->window.y, job->window.height};
    int x_room = tap_room(&x, job->interpolation), y_room = tap_room(&y, job->interpolation);
    size_t scratch_bytes = (size_t)(x_room > y_room ? x_room : y_room) * sizeof(double);
    size_t x_bytes = taps_bytes(&x, x_room), y_bytes = taps_bytes(&y, y_room);
    uint8_t *memory = esp_buffer_need(&room->weights, scratch_bytes + x_bytes + y_bytes);
    if (memory == NULL) {
        return esp_fail_memory(err, "the filter of a resize", scratch_bytes + x_bytes + y_bytes);
    }
    double *scratch = (double *)(void *)memory;
    taps across = find_taps(&x, job->interpolation, x_room, memory + scratch_bytes, scratch);
    taps down = find_taps(&y, job->interpolation, y_room, memory + scratch_bytes + x_bytes, scratch);
    int first = down.first[0]; /* rows the window needs; the first rise and so do the last */
    int last = down.first[y.length - 1] + down.count[y.length - 1];
    int64_t row_bytes = (int64_t)x.length * job->channels;
    uint8_t *rows = esp_buffer_need(&room->rows, (size_t)((last - first) * row_bytes));
    if (rows == NULL) {
        return esp_fail_memory(err, "the rows of a resize", (size_t)((last - first) * row_bytes));
    }
    for (int row = first; row < last; row++) {
        filter_row(&across, x.length, job->channels, job->pixels + row * job->stride,
                   rows + (row - first) * row_bytes);
    }
    for (int c = 0; c < job->channels; c++) {
        for (int i = 0; i < y.length; i++) {
            const uint8_t *source = rows + (down.first[i] - first) * row_bytes + (int64_t)c * x.length;
            uint8_t *target = job->out + c * job->out_plane + i * job->out_stride;
            if (is_plain(&y)) { /* weights 1 and 0: a copy */
                memcpy(target, rows + (y.start + i - first) * row_bytes + (int64_t)c * x.length,
                       (size_t)x.length);
                continue;
            }
            filter_column_row(down.weights + (int64_t)i * down.room, down.count[i], source, row_bytes,
                              x.length, target);
        }
    }
    return ESP_OK;
}
