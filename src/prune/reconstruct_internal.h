/* What the files of reconstruction share: one run in progress. reconstruct.c finds the layers and gathers
 * what the original network gives, reconstruct_layer.c solves one layer, reconstruct_cut.c cuts the result.
 */
#ifndef ESP_PRUNE_RECONSTRUCT_INTERNAL_H
#define ESP_PRUNE_RECONSTRUCT_INTERNAL_H

#include "prune/reconstruct.h"
#include "prune/sweep.h"
#include "train/calibration.h"

/* A layer that lost input. Unknowns of a filter are its connections to channels that any filter reads, in the
 * order [channels, kernel positions]; samples are ordered by image. */
typedef struct subject {
    int index; /* in preview->layers */
    const esp_layer *layer;
    const esp_mask *mask;
    const char *reason; /* why it is left alone, or "" */
    int input, output;  /* values */
    int tap;            /* output of the part of the original */
    int64_t places;     /* positions of its output */
    int64_t positions;  /* of them sampled per image */
    int64_t samples;
    int64_t channel_count, filter_count, unknowns;
    int64_t *channels;  /* [channel_count] that are read */
    int64_t *column_of; /* [layer->channels]: place in `channels`, or -1 */
    int64_t *filters;   /* [filter_count] that read any */
    float *targets;     /* [samples, filter_count]: what the original gives */
    double error_before, error_after;
} subject;

typedef struct reconstruction {
    const esp_compute *compute;
    const esp_preview *preview;
    const esp_reconstruct_options *options; /* with defaults */
    esp_inferred *inferred;                 /* of preview->graph at batch 1, sizes of the data */
    esp_calibration images;
    esp_graph *graph; /* the masked model, solved so far; values as in preview->graph */
    int count;
    subject *subjects;
    int64_t batch;   /* of the pass over the original network */
    sweep_site site; /* of `graph` */
    sweep_cut cut;   /* in front of the layer at hand, or as near as memory allows */
} reconstruction;

/* Sampled positions of an image: places[positions], ascending. */
void reconstruct_places(const reconstruction *r, const subject *s, int64_t image, int64_t *places);

/* "alpha" or "beta" of a fully connected layer; 1 for others. */
double reconstruct_factor(const reconstruction *r, const subject *s, const char *name);

/* Solves a layer: r->graph gets its new weights. */
esp_status reconstruct_layer(reconstruction *r, subject *s, esp_error *err);

#endif
