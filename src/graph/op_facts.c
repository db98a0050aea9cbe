/* Rows of one operator follow each other in the table, in the order of their opsets. */
#include "graph/op_facts.h"

#include <stdio.h>
#include <string.h>

/* Columns: NAME, word, meaning. */
#define CHANNEL_RULES(X)                                                                                     \
    X(COPY, "copy", "output channels are the input's, one to one")                                           \
    X(TIE, "tie", "equal positions of all inputs and the output are cut together")                           \
    X(MOVE, "move", "channels are followed to where they go")                                                \
    X(CUT, "cut", "reads channels, makes new ones: a layer with filters to cut")                             \
    X(APART, "apart", "copy where each channel is computed from itself alone, else block")                   \
    X(GROUP, "group", "channels normalised together are cut together")                                       \
    X(BLOCK, "block", "its inputs keep all their channels")

const char *esp_channel_word(esp_channel_rule rule)
{
    static const char *const words[] = {
#define CHANNEL_WORD(name, word, meaning) [ESP_CHANNEL_##name] = (word),
        CHANNEL_RULES(CHANNEL_WORD)
#undef CHANNEL_WORD
    };
    return words[rule];
}

const char *esp_channel_meaning(esp_channel_rule rule)
{
    static const char *const meanings[] = {
#define CHANNEL_MEANING(name, word, meaning) [ESP_CHANNEL_##name] = (meaning),
        CHANNEL_RULES(CHANNEL_MEANING)
#undef CHANNEL_MEANING
    };
    return meanings[rule];
}

static int rows_from(int first)
{
    int count = 1;
    while (first + count < esp_op_count() &&
           strcmp(esp_op_at(first + count)->name, esp_op_at(first)->name) == 0)
        count++;
    return count;
}

bool esp_op_facts_at(int index, esp_op_facts *out)
{
    int first = 0;
    for (int i = 0; i < index && first < esp_op_count(); i++)
        first += rows_from(first);
    if (first >= esp_op_count())
        return false;
    const esp_op *op = esp_op_at(first);
    *out = (esp_op_facts){.name = op->name,
                          .first_row = first,
                          .row_count = rows_from(first),
                          .has_gradient = true,
                          .channels = esp_channel_word(op->rule)};
    for (int i = 0; i < out->row_count; i++) {
        op = esp_op_at(first + i);
        out->has_gradient = out->has_gradient && op->backward != NULL;
        out->takes_blocks = out->takes_blocks || op->blocks != NULL;
        out->is_layer = out->is_layer || op->layer != NULL;
    }
    return true;
}

char *esp_op_opsets(const esp_op_facts *facts, char *buffer, size_t size)
{
    size_t length = 0;
    if (size > 0)
        buffer[0] = '\0';
    for (int i = 0; i < facts->row_count && length < size;) {
        const esp_op *op = esp_op_at(facts->first_row + i);
        int until = op->opset_until;
        while (++i < facts->row_count && esp_op_at(facts->first_row + i)->opset_since == until + 1)
            until = esp_op_at(facts->first_row + i)->opset_until;
        int printed = snprintf(buffer + length, size - length, "%s%d to %d", length == 0 ? "" : ", ",
                               op->opset_since, until);
        length += printed > 0 ? (size_t)printed : 0;
    }
    return buffer;
}
