/* Images through a network in pieces: batch by batch over the pool, and with the activations in front of some
 * node kept, so that what lies behind it can be run again without what lies before. What the sensitivity scan
 * and reconstruction run on. */
#ifndef ESP_PRUNE_SWEEP_H
#define ESP_PRUNE_SWEEP_H

#include "base/compute.h"
#include "graph/exec.h"
#include "graph/infer.h"
#include "train/data.h"

typedef struct sweep_site {
    const esp_compute *compute;
    esp_compute single; /* what one task runs with: no pool, the same cancel token */
    const esp_graph
        *graph; /* may be replaced by one of other constants, where nodes behind the cut read them */
    const esp_dataset *dataset;
    esp_normalization normalization;
    bool has_shape; /* sizes the network leaves open */
    esp_input_shape shape;
    int64_t images, batch, batch_count;
    esp_inferred *inferred;                 /* the network at `batch` */
    bool *is_needed;                        /* per node */
    int last_output;                        /* value that is kept to the end; -1: none */
    const char *what;                       /* "sensitivity": what is stopped by the cancel token */
    void (*on_batch)(void *user, int slot); /* a batch is done; or NULL. On any thread */
    void *on_batch_user;
    int64_t passes; /* how often a part was run from the images on */
} sweep_site;

/* The batch: `asked`, or (0) `usual` or what the file is fixed to; ESP_SHAPE when images do not come and go
 * in batches of that size. Needs compute, graph, dataset, images, last_output. */
esp_status sweep_choose_batch(sweep_site *site, int64_t asked, int64_t usual, esp_error *err);

/* is_needed: the nodes that make these values, and all before them, as far as they are not known before run
 * time. After the batch. */
esp_status sweep_mark_needed(sweep_site *site, const int *values, int count, esp_error *err);

/* Whether the first dim of a value is the batch. */
bool sweep_comes_in_batches(const sweep_site *site, int value);

void sweep_site_free(sweep_site *site); /* what the functions above made */

/* Values that nodes in front of `node` made and later ones need, for all images. Zero-initialise, set
 * `limit`. */
typedef struct sweep_cut {
    size_t limit; /* bytes */
    int node;     /* 0: nothing is kept, images come from the data set */
    int count;
    int *values;
    int64_t batch_count;
    void **blocks; /* [batch_count][count] */
    size_t bytes, most_bytes;
} sweep_cut;

/* Moves the cut on, to `node` or the last node before it where what is kept fits the limit; it may stay where
 * it is. Images that were never looked at have their activations computed from the start. */
esp_status sweep_advance(sweep_site *site, sweep_cut *cut, int node, esp_error *err);
void sweep_cut_free(sweep_cut *cut);

/* A batch is done: its outputs are in the executor, which has run on this thread. */
typedef esp_status sweep_collect_fn(void *user, int64_t task, const esp_exec *exec, esp_error *err);

/* What lies between the cut and some values, of batches [first, first + batch_count). */
typedef struct sweep_part {
    const esp_graph *graph;       /* the site's but for constants that only nodes behind the cut read */
    const esp_inferred *inferred; /* of it */
    const int *outputs;           /* values */
    int output_count;
    bool stops_at_logits; /* the output is read before a Softmax */
    int64_t first, batch_count;
    sweep_collect_fn *collect;
    void *user;
} sweep_part;
esp_status sweep_run(sweep_site *site, const sweep_cut *cut, const sweep_part *part, esp_error *err);

#endif
