/* The optimizers there are: one table for options, help, Lua and the steps themselves. */
#ifndef ESP_TRAIN_OPTIMIZER_KIND_H
#define ESP_TRAIN_OPTIMIZER_KIND_H

#include "base/status.h"

/* One list. Columns: NAME, word, floats of memory per weight, default learning rate of fine-tuning, step
 * (optimizer.c). */
#define ESP_OPTIMIZER_LIST(X)                                                                                \
    X(SGD, "sgd", 1, 0.01, step_sgd)    /* momentum, dampening, Nesterov's form, decay added to gradients */ \
    X(ADAM, "adam", 2, 1e-3, step_adam) /* Kingma and Ba 2015; decay added to gradients */                   \
    X(ADAMW, "adamw", 2, 1e-3, step_adamw) /* Loshchilov and Hutter 2019: decay apart from gradients */

typedef enum esp_optimizer_kind {
#define ESP_OPTIMIZER_ENUM(name, word, memory, lr, step) ESP_OPTIMIZER_##name,
    ESP_OPTIMIZER_LIST(ESP_OPTIMIZER_ENUM)
#undef ESP_OPTIMIZER_ENUM
} esp_optimizer_kind;

/* Unknown words name the nearest. */
esp_status esp_optimizer_parse_kind(const char *word, esp_optimizer_kind *out, esp_error *err);
const char *esp_optimizer_word(esp_optimizer_kind kind);

/* What the learning rate is when nobody says: as published for fine-tuning by SGD; 1e-3 for Adam's family. */
double esp_optimizer_default_lr(esp_optimizer_kind kind);

#endif
