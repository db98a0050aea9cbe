/* The first layer: x is a plain image of few channels, y is in channel blocks. The band of the direct method
 * holds plain padded rows, and a run is a kernel row of one channel: kernel_w floats, the next pixel
 * `stride_w` floats away. Nothing is wasted on lanes that hold no channel. */
#include "tensor/blocked_conv_internal.h"

/* With more channels runs of channels are longer than runs of columns: convert the image, then. */
enum { MOST_CHANNELS = 16 };

static bool fits(const esp_blocked_conv *plan)
{
    const esp_conv_geometry *g = &plan->geometry;
    return plan->pass == ESP_CONV_FORWARD && plan->takes_plain && g->channels <= MOST_CHANNELS &&
           (g->group == 1 || conv_group_filters(g) % ESP_BLOCK == 0) && esp_blocked_direct_fits_bands(plan);
}

const blocked_method esp_blocked_stem = {
    .name = "stem",
    .pack_key = BLOCKED_PLAIN_PANELS_KEY,
    .fits = fits,
    .packed_bytes = esp_blocked_panels_bytes,
    .pack = esp_blocked_pack_plain,
    .scratch = esp_blocked_direct_scratch,
    .run = esp_blocked_direct_run,
};
