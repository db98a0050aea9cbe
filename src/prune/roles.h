/* What part a layer plays in the published methods: stem, shortcut, final classifier, or an ordinary one. */
#ifndef ESP_PRUNE_ROLES_H
#define ESP_PRUNE_ROLES_H

#include "graph/layers.h"

typedef enum esp_role {
    ESP_ROLE_BODY,
    ESP_ROLE_STEM,     /* first convolution: reads the network's input */
    ESP_ROLE_SHORTCUT, /* 1x1 convolution beside a residual branch: its way to the Add is shorter than the
                          other's and starts from the same value */
    ESP_ROLE_GROUPED,  /* group > 1 (depthwise): has no filter x channel choice of its own */
} esp_role;

const char *esp_role_word(esp_role role);

/* roles[layers->count]. Found from the graph's structure, never from names. */
esp_status esp_roles_find(const esp_graph *graph, const esp_layers *layers, esp_role *roles, esp_error *err);

#endif
