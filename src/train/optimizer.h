/* Optimizers over all parameters of a network, with masks held and layers frozen: the state the trainer
 * steps. */
#ifndef ESP_TRAIN_OPTIMIZER_H
#define ESP_TRAIN_OPTIMIZER_H

#include "graph/params.h"
#include "train/trainer.h"

typedef struct esp_optimizer esp_optimizer;

/* For `params` of `graph` (both borrowed). Reads the optimizer's kind and constants, weight decay, `freeze`
 * and the masks of `options`; masks are copied, several of one constant are intersected. A mask of something
 * that is not a trainable constant, and a pattern that freezes nothing, are ESP_INVALID. Its memory starts at
 * 0. */
esp_status esp_optimizer_new(const esp_graph *graph, esp_params *params, const esp_train_options *options,
                             esp_optimizer **out, esp_error *err);
void esp_optimizer_free(esp_optimizer *optimizer);

/* Puts zeros where the masks are 0. */
void esp_optimizer_hold_masks(esp_optimizer *optimizer);

/* Other masks instead of those there are; held at once. Nothing changes on failure. */
esp_status esp_optimizer_set_masks(esp_optimizer *optimizer, const esp_graph *graph,
                                   const esp_weight_mask *masks, int count, esp_error *err);

/* The mask of parameter `index`, a 0/1 byte per element; NULL when all are free. */
const uint8_t *esp_optimizer_mask(const esp_optimizer *optimizer, int index);
bool esp_optimizer_is_frozen(const esp_optimizer *optimizer, int index);

/* One step with the gradients in the params, then masks on weights and memory: weight decay and momentum
 * must not bring a masked weight back. Never stops half-way, so cancelled training leaves whole steps. */
void esp_optimizer_step(esp_optimizer *optimizer, const esp_compute *compute, double lr);

/* What a step would read: whether there is no NaN and no infinity in it. */
bool esp_optimizer_gradients_are_finite(esp_optimizer *optimizer, const esp_compute *compute);

/* Cuts gradients to [-value, value] (value 0: not), then scales them by norm / (length + 1e-6) when their
 * common length is above `norm` (0: not), as torch.nn.utils.clip_grad_value_ and clip_grad_norm_ do. Masked
 * entries count as 0, frozen layers not at all. Sums are in one fixed order. */
void esp_optimizer_clip(esp_optimizer *optimizer, const esp_compute *compute, double value, double norm);

/* Everything a step depends on beside weights and gradients, as bytes; masks too. Reading checks all sizes:
 * ESP_FORMAT, and then the optimizer must not be used any more. */
size_t esp_optimizer_state_size(const esp_optimizer *optimizer);
void esp_optimizer_state_write(const esp_optimizer *optimizer, void *out);
esp_status esp_optimizer_state_read(esp_optimizer *optimizer, const void *data, size_t size, esp_error *err);

/* Marks the parameters that `patterns` name: `frozen[parameters]`. A pattern ('*' and '?') is matched against
 * names of nodes and of their constants. One that matches nothing is ESP_INVALID and names the nearest. */
esp_status esp_freeze_find(const esp_graph *graph, esp_params *params, const char *const *patterns, int count,
                           bool *frozen, esp_error *err);

#endif
