/* Channels are copied in runs that lie in one block on either side: a run of r lanes is r floats of every
 * pixel. One task copies one run of one image. Tasks may write lanes of the same block, but never the same
 * lanes. The length of a run is a constant of each copying loop, so that a pixel is a few moves. */
#include "tensor/channel_copy.h"

#include <string.h>

typedef struct copy_job {
    const float *from;
    float *to;
    int64_t from_stride, to_stride;   /* floats from image to image */
    int64_t from_channel, to_channel; /* the first */
    int64_t channels, pixels, runs;
} copy_job;

/* The run of channels that begins with channel `c`. */
static int64_t run_length(const copy_job *job, int64_t c)
{
    int64_t from_rest = ESP_BLOCK - (job->from_channel + c) % ESP_BLOCK;
    int64_t to_rest = ESP_BLOCK - (job->to_channel + c) % ESP_BLOCK;
    int64_t rest = from_rest < to_rest ? from_rest : to_rest;
    return rest < job->channels - c ? rest : job->channels - c;
}

static inline void copy_lanes(int64_t pixels, const float *from, float *to, size_t length)
{
    for (int64_t p = 0; p < pixels; p++)
        memcpy(to + p * ESP_BLOCK, from + p * ESP_BLOCK, length * sizeof *to);
}

static void copy_run(int64_t pixels, const float *from, float *to, int64_t length)
{
    switch (length) {
#define RUN(n)                                                                                               \
    case n:                                                                                                  \
        copy_lanes(pixels, from, to, n);                                                                     \
        break;
        RUN(1)
        RUN(2)
        RUN(3)
        RUN(4)
        RUN(5)
        RUN(6)
        RUN(7)
        RUN(8)
        RUN(9)
        RUN(10)
        RUN(11)
        RUN(12)
        RUN(13)
        RUN(14)
        RUN(15)
        RUN(16)
#undef RUN
    default:
        break;
    }
}

/* Where a channel begins in an image, in floats. */
static int64_t channel_offset(int64_t channel, int64_t pixels)
{
    return channel / ESP_BLOCK * pixels * ESP_BLOCK + channel % ESP_BLOCK;
}

static void copy_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const copy_job *job = context;
    int64_t image = task / job->runs, c = 0;
    for (int64_t run = task % job->runs; run > 0; run--)
        c += run_length(job, c);
    int64_t from_at = image * job->from_stride + channel_offset(job->from_channel + c, job->pixels);
    int64_t to_at = image * job->to_stride + channel_offset(job->to_channel + c, job->pixels);
    copy_run(job->pixels, job->from + from_at, job->to + to_at, run_length(job, c));
}

esp_status esp_channel_copy(const esp_compute *compute, const esp_view *from, int64_t from_channel,
                            const esp_view *to, int64_t to_channel, int64_t channels)
{
    copy_job job = {.from = esp_view_f32(from),
                    .to = esp_view_f32(to),
                    .from_stride = esp_view_image_stride(from),
                    .to_stride = esp_view_image_stride(to),
                    .from_channel = from_channel,
                    .to_channel = to_channel,
                    .channels = channels,
                    .pixels = from->shape.dims[2] * from->shape.dims[3]};
    for (int64_t c = 0; c < channels; c += run_length(&job, c))
        job.runs++;
    return esp_compute_run(compute, from->shape.dims[0] * job.runs, copy_task, &job);
}
