/* Least-squares reconstruction: the weights of layers whose input lost channels are solved anew, so that
 * their outputs on images come as near as can be to those of the original network. */
#ifndef ESP_PRUNE_RECONSTRUCT_H
#define ESP_PRUNE_RECONSTRUCT_H

#include "base/compute.h"
#include "prune/surgery.h"
#include "train/data.h"

typedef struct esp_reconstruct_options {
    const esp_dataset *dataset; /* images to calibrate on; borrowed */
    int64_t images;             /* a class-balanced subset of so many, chosen by `seed`; 0: 256 */
    int64_t positions; /* output positions sampled per image and convolution; 0: 10, and more where that
                          is less than 8 samples per unknown; never more than there are */
    double ridge;      /* share of the mean diagonal of X'X that is added to it; 0: 1e-2 */
    uint64_t seed;
    const char *mean, *std; /* overrides of the images' normalisation, or NULL */
    size_t memory; /* bytes for activations that are kept from layer to layer; 0: 512 MiB. With less, parts of
                      the network run again */
} esp_reconstruct_options;

enum { ESP_RECONSTRUCT_IMAGES = 256 };

/* What became of one layer. Errors are |Y - Y'|^2 / |Y - mean Y|^2 over the samples and filters that were
 * solved; NaN when Y is constant. */
typedef struct esp_reconstruct_layer {
    int layer;        /* index in preview->layers */
    int64_t samples;  /* 0: it was left as it is, for `reason` */
    int64_t unknowns; /* most of a filter */
    double error_before, error_after;
    const char *reason; /* "" when it was solved; equations without a solution (activations that are not
                           finite) leave a layer as it is too */
} esp_reconstruct_layer;

typedef struct esp_reconstruct_report {
    int count;
    esp_reconstruct_layer *layers; /* those that lost input, in network order */
    int64_t images;
    int64_t passes; /* over the pruned network from the images on: 1 where the memory is enough */
    double seconds;
} esp_reconstruct_report;

void esp_reconstruct_report_free(esp_reconstruct_report *report);

/* For every layer that reads fewer channels than before, in network order: per set of filters that read the
 * same channels min over W, b of |Y - X W - b|^2 + lambda |W - W0|^2, where Y is what the original network's
 * layer gives (preview->graph), X what the layer reads in the pruned network, whose layers in front are
 * solved already, W the connections the preview keeps, W0 their old values: what images do not say stays as
 * it was (He et al., Channel Pruning for Accelerating Very Deep Neural Networks, 2017, section 3.1.2; Luo et
 * al., ThiNet, 2017, section 3.3). The intercept b goes into the layer's bias, or, of a layer without one
 * whose only reader is a batch-norm, into that one's mean; other layers are solved without. Layers:
 * convolutions of one group of any stride, padding and dilation, and fully connected ones on [N, channels],
 * whose weight is theirs alone.
 *
 * `*out` is the masked model with the new weights: nodes and values as in preview->graph, zeros where the
 * preview has them. The same bits for any number of threads. Reports progress, can be cancelled. `report` may
 * be NULL; free it. */
esp_status esp_reconstruct(const esp_compute *compute, const esp_preview *preview,
                           const esp_reconstruct_options *options, esp_graph **out,
                           esp_reconstruct_report *report, esp_error *err);

/* esp_surgery of the preview with the weights of `masked`, which esp_reconstruct made of it. */
esp_status esp_reconstruct_cut(const esp_compute *compute, const esp_preview *preview,
                               const esp_graph *masked, const esp_surgery_options *options, esp_graph **out,
                               esp_surgery_report *report, esp_error *err);

#endif
