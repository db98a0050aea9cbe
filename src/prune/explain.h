/* Why one filter stays or goes: its scores, their ranks and thresholds, who goes with it, and what would have
 * to change. */
#ifndef ESP_PRUNE_EXPLAIN_H
#define ESP_PRUNE_EXPLAIN_H

#include "base/text.h"
#include "prune/preview.h"

/* Filter `channel` (an output channel) of a layer. ESP_INVALID when there is no such layer or channel.
 *
 * {"layer", "weight", "channel", "filters", "method", "mode" (not FILTER), "asked": ratio, "stays": bool,
 *  "decision": "stays" | "goes" | "floor" | "round-to" | "carried" | "cascade" | a reason's word for filters
 * of which nothing could be chosen (prune/reason.h), "why": one sentence, "change": one sentence on what
 * would have to change (absent when nothing can), "ratio_limit": the ratio up to which (WSP) or below which
 * (FILTER) it stays, floor and multiple left aside; absent where no ratio of its own decides, "scores":
 * [{"name", "value", "threshold" (null: none), "rank": how many of the ranked are lower, "of", "percentile":
 * 100 * rank / (of - 1), "is_below"}], "partners": [{"layer", "role": "writes" | "reads" | "follows",
 * "channels": [..]}], "tied_by": [node, ..], "set": index of the coupled set, WSP as published: "pair":
 * {"writer", "reader"}; FILTER: "criterion", "writers": [{"layer", "score", "mean"}]; SG: "group", "members":
 * [filters], "threshold", "channels": [{"channel", "centroid", "importance", "state": "kept" | "pruned" |
 * "carried" | "cascade"}], "channels_kept"}
 *
 * SG decides about connections: there a filter goes when none of its channels is kept. */
esp_status esp_preview_explain(const esp_preview *preview, int layer, int64_t channel, json_t **out,
                               esp_error *err);

/* The same as lines of text. `explanation` is what esp_preview_explain made. */
esp_status esp_explain_print(const json_t *explanation, esp_text *out, esp_error *err);

#endif
