/* Why a layer gets less, or more, than the plan asks of it: the one list of reasons. */
#ifndef ESP_PRUNE_REASON_H
#define ESP_PRUNE_REASON_H

/* Columns: NAME, word, what it says when nothing more special is known. */
#define ESP_REASON_LIST(X)                                                                                   \
    X(INTERSECTION, "intersection", "weak by one norm, not by both")                                         \
    X(RANKING, "ranking", "the ranking over all layers takes elsewhere, or more here")                       \
    X(TIES, "ties", "equal scores at the threshold go or stay together")                                     \
    X(ROUNDING, "rounding", "only whole filters and connections go")                                         \
    X(FLOOR, "floor", "the plan's floor keeps them")                                                         \
    X(ROUND_TO, "round-to", "what stays is rounded up to a multiple")                                        \
    X(COUPLING, "coupling", "its channels go with those of other layers")                                    \
    X(GROUPING, "grouping", "the filters of a group share one decision per channel")                         \
    X(CASCADE, "cascade", "nothing reads them any more, or nothing feeds them")                              \
    X(CARRIED, "carried", "the model came with them masked")                                                 \
    X(METHOD, "method", "the method leaves the layer out")                                                   \
    X(CRITERION, "criterion", "the criterion says nothing of the layer")                                     \
    X(IGNORED, "ignored", "the plan ignores the layer")                                                      \
    X(UNCUTTABLE, "uncuttable", "nothing of it can be cut")

typedef enum esp_reason {
#define ESP_REASON_ENUM(name, word, title) ESP_REASON_##name,
    ESP_REASON_LIST(ESP_REASON_ENUM)
#undef ESP_REASON_ENUM
} esp_reason;

const char *esp_reason_word(esp_reason reason);
const char *esp_reason_title(esp_reason reason);

#endif
