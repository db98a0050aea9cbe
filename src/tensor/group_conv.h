/* Diverse group convolution: the filters of a layer fall into groups, and the filters of a group all read the
 * same list of input channels. Groups have any size, lists any length; lists may overlap, and a channel may
 * be in none. In ONNX: Gather (axis 1) -> Conv per group -> Concat (axis 1), and optionally a Gather that
 * puts the filters in another order; here it is one operation that gathers nothing: a list of row offsets per
 * group stands for the gathered tensor (Guo et al., Self-grouping convolutional neural networks, 2021).
 *
 * A plan is made once for a geometry and a grouping, weights are packed once per set of weights, then it runs
 * any number of times. Results depend on geometry, grouping and engine only, never on the number of threads.
 *
 * One group that reads all channels is an ordinary dense convolution: a way to keep a network of grouped
 * layers in plain layout throughout. */
#ifndef ESP_TENSOR_GROUP_CONV_H
#define ESP_TENSOR_GROUP_CONV_H

#include "tensor/blocked_conv.h"

typedef struct esp_filter_group {
    int64_t filters;         /* >= 1 */
    int64_t channel_count;   /* 0: these filters are their bias alone */
    const int64_t *channels; /* [channel_count], in [0, geometry.channels), in w's order; repeats add up */
    const float *w;          /* [filters, channel_count, kernel_h, kernel_w]; read by pack only */
    const float *bias;       /* [filters] or NULL; read by pack only */
} esp_filter_group;

/* Immutable; any number of threads may run it, each with its own scratch memory. */
typedef struct esp_group_conv esp_group_conv;

/* `geometry` is that of the whole layer: all channels of x, all filters, group 1. The groups' filters follow
 * each other: together they are geometry->filters. `order` [filters] says which channel of y a filter becomes
 * (a permutation; NULL: its own number). Nothing is borrowed after the call. ESP_INVALID for counts, channels
 * or an order that do not fit; ESP_UNSUPPORTED when the geometry exceeds 32-bit offsets. */
esp_status esp_group_conv_plan(const esp_engine *engine, const esp_conv_geometry *geometry,
                               const esp_filter_group *groups, int64_t count, const int64_t *order,
                               esp_group_conv **out, esp_error *err);
void esp_group_conv_free(esp_group_conv *plan); /* NULL is allowed */

/* How x, y and the residual must lie; PLAIN for every method there is at present. */
esp_layout esp_group_conv_x_layout(const esp_group_conv *plan);
esp_layout esp_group_conv_y_layout(const esp_group_conv *plan);

/* "rows" (row offsets over plain images), "winograd" (the same on transformed 3x3 tiles). */
const char *esp_group_conv_name(const esp_group_conv *plan);

/* Multiply-adds of the surviving weights, as METHODS.md counts them: out_height*out_width*weights*batch. */
int64_t esp_group_conv_macs(const esp_group_conv *plan);

/* Estimates of time on one core, in multiply-adds that the vector units could do meanwhile: comparable with
 * each other, within some 30 % of measured times. `cost`: this plan. `dense_cost`: the fastest of the blocked
 * dense forms with zeros filled in, images blocked already; `copy_cost`: changing the layout of a tensor of
 * that many elements. A caller whose images are plain on both sides should run a layer dense when
 *   dense_cost + copy_cost(x) + copy_cost(y) < cost. */
double esp_group_conv_cost(const esp_group_conv *plan);
double esp_group_conv_dense_cost(const esp_engine *engine, const esp_conv_geometry *geometry);
double esp_group_conv_copy_cost(const esp_engine *engine, int64_t elements);

/* The dense weight of the same layer, [filters, channels, kh, kw] and bias [filters] (NULL: not wanted), in
 * y's order: what a caller that prefers the dense form packs. `groups` and `order` as for the plan. */
void esp_group_conv_densify(const esp_conv_geometry *geometry, const esp_filter_group *groups, int64_t count,
                            const int64_t *order, float *w, float *bias);

/* One group's part of that: its rows of the dense weight are zeroed and its weights put where they belong.
 * `first_filter`: the number of filters in the groups before. `collect` is the way back, for gradients: what
 * the dense weight's gradient `dense` [filters, channels, kh, kw] has for each of the group's weights, into
 * `grad` (laid out as w). Groups can be treated at the same time. */
void esp_group_conv_spread(const esp_conv_geometry *geometry, const esp_filter_group *group,
                           int64_t first_filter, const int64_t *order, float *dense);
void esp_group_conv_collect(const esp_conv_geometry *geometry, const esp_filter_group *group,
                            int64_t first_filter, const int64_t *order, const float *dense, float *grad);

/* Packed weights and biases: `groups` must have the plan's counts and channels. Plans with equal keys and
 * equal groups (counts, lists, order) share them; the key is never 0. `packed` is aligned to ESP_ALIGNMENT.
 */
uint64_t esp_group_conv_pack_key(const esp_group_conv *plan);
size_t esp_group_conv_packed_bytes(const esp_group_conv *plan);
esp_status esp_group_conv_pack(const esp_compute *compute, const esp_group_conv *plan,
                               const esp_filter_group *groups, void *packed);

/* Bytes of scratch memory (aligned to ESP_ALIGNMENT) for runs on at most `slots` threads. */
size_t esp_group_conv_scratch(const esp_group_conv *plan, int slots);

/* y = clip((conv(x) + bias) * scale[c] + shift[c] + residual), c a channel of y. Of `extras` (NULL: none) the
 * in_* members must be unset; the residual has y's layout and may be y. Views are plain; x and y must not
 * overlap. */
esp_status esp_group_conv_run(const esp_compute *compute, const esp_group_conv *plan, const esp_view *x,
                              const void *packed, const esp_conv_extras *extras, const esp_view *y,
                              void *scratch);

#endif
