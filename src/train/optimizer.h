/* SGD with momentum over all parameters of a network, with masks held: the state the trainer steps. */
#ifndef ESP_TRAIN_OPTIMIZER_H
#define ESP_TRAIN_OPTIMIZER_H

#include "graph/params.h"
#include "train/trainer.h"

typedef struct esp_optimizer esp_optimizer;

/* For `params` of `graph` (both borrowed). Reads momentum, weight decay, Nesterov and the masks of `options`;
 * masks are copied, several of one constant are intersected. A mask of something that is not a trainable
 * constant is ESP_INVALID. Velocities start at 0. */
esp_status esp_optimizer_new(const esp_graph *graph, esp_params *params, const esp_train_options *options,
                             esp_optimizer **out, esp_error *err);
void esp_optimizer_free(esp_optimizer *optimizer);

/* Puts zeros where the masks are 0. */
void esp_optimizer_hold_masks(esp_optimizer *optimizer);

/* One step with the gradients in the params, then masks on weights and velocities: weight decay and momentum
 * must not bring a masked weight back. Never stops half-way, so cancelled training leaves whole steps. */
void esp_optimizer_step(esp_optimizer *optimizer, const esp_compute *compute, double lr);

#endif
