/* Fusions: steps that do the work of several nodes in one pass over memory.
 *
 * A fusion joins two steps of which the second is the only reader of what the first makes; the joined step
 * stands at the second's place, where all inputs of both exist. Applied one after the other, fusions build
 * longer chains (a convolution takes in its batch-norm, then an addition, then the Relu behind it). */
#ifndef ESP_GRAPH_FUSE_H
#define ESP_GRAPH_FUSE_H

#include "graph/program_internal.h"

/* The two steps of a join, in order of execution. */
typedef struct esp_join {
    esp_compiler *compiler;
    const esp_step *first, *second;
    int input; /* of `second`: what `first` makes */
} esp_join;

typedef struct esp_fusion {
    bool is_for_training; /* holds in training too, with gradients */
    bool (*fits)(const esp_join *join);
    /* Fills in the joined step, which begins as a copy of `first` with the outputs of `second`; or, when
     * `is_second`, as a copy of `second`. */
    bool is_second;
    esp_status (*join)(const esp_join *join, esp_step *out, esp_error *err);
    /* Instead of `join`: makes two steps of the two, in their places. */
    void (*swap)(const esp_join *join, esp_step *first, esp_step *second);
} esp_fusion;

extern const esp_fusion esp_fuse_norm_line; /* fuse_line.c: arithmetic per channel behind a batch-norm */
extern const esp_fusion esp_fuse_conv_line; /* fuse_line.c: the same, or batch-norm, behind a convolution */
extern const esp_fusion esp_fuse_line_conv; /* fuse_line.c: batch-norm in front of a 1x1 convolution */
extern const esp_fusion esp_fuse_conv_add;  /* fuse_add.c: an addition behind a convolution */
extern const esp_fusion esp_fuse_norm_add;  /* fuse_add.c: an addition behind a batch-norm */
extern const esp_fusion esp_fuse_clip;      /* fuse_clip.c: Relu or Clip behind any of these */
extern const esp_fusion
    esp_fuse_conv_pool; /* fuse_pool.c: average pooling goes in front of a 1x1 convolution */

/* The step's inputs, made longer with absent ones. */
esp_status esp_fuse_lengthen(esp_compiler *c, esp_step *step, int count, esp_error *err);

/* Whether inputs [first, end) of a step are known when the program is made, but for changes of parameters. */
bool esp_fuse_has_fixed_inputs(const esp_compiler *c, const esp_step *step, int first, int end);

bool esp_fuse_is_conv(const esp_step *step);

/* What takes in what follows it as a convolution does: such, or a self-grouped layer in either layout. */
bool esp_fuse_is_layer(const esp_step *step);

/* Whether the second step of a join keeps images as the first step does, when it is a self-grouped layer; in
 * channel blocks otherwise. */
bool esp_fuse_lies_alike(const esp_join *join);

/* A batch-norm in channel blocks; in any layout. */
bool esp_fuse_is_norm(const esp_step *step);
bool esp_fuse_is_any_norm(const esp_step *step);
bool esp_fuse_has_input(const esp_step *step, int input);

/* Whether the second step of a join adds what the first makes to an image of the same shape that exists by
 * then; `*other` is that image. */
bool esp_fuse_is_addition(const esp_join *join, int *other);

#endif
