/* What the op table says of an operator, for people: one entry per operator, its rows taken together. Command
 * line and documents print this. */
#ifndef ESP_GRAPH_OP_FACTS_H
#define ESP_GRAPH_OP_FACTS_H

#include <stdbool.h>

#include "graph/op.h"

typedef struct esp_op_facts {
    const char *name;
    int first_row, row_count; /* rows of the table: esp_op_at */
    bool has_gradient;        /* of every row */
    bool takes_blocks;        /* runs on images in channel blocks as well as on plain ones */
    bool is_layer;            /* can have filters that are pruned */
    const char *channels;     /* esp_channel_word of its rule */
} esp_op_facts;

/* "copy", "tie", "move", "cut", "block". */
const char *esp_channel_word(esp_channel_rule rule);

/* What a channel rule means for pruning, in a sentence. */
const char *esp_channel_meaning(esp_channel_rule rule);

/* Entry `index` in the order of the table; false when there are no more. */
bool esp_op_facts_at(int index, esp_op_facts *out);

/* The opsets in which the operator is understood: "7 to 21", or "9 to 13, 15 to 21". Returns `buffer`. */
char *esp_op_opsets(const esp_op_facts *facts, char *buffer, size_t size);

#endif
