/* The options of a budget: what `espalier prune --target` takes, and how its answer is shown. */
#ifndef ESP_CLI_BUDGET_OPTIONS_H
#define ESP_CLI_BUDGET_OPTIONS_H

#include "cli/cli.h"
#include "prune/budget.h"

/* What the flags said; starts as zeros. */
typedef struct esp_cli_budget {
    esp_option_list targets;
    const char *distribution, *sensitivity, *cost;
    bool is_measured, is_unmeasured, is_fresh;
} esp_cli_budget;

#define ESP_CLI_BUDGET_ROWS(it)                                                                              \
    {"target",                                                                                               \
     0,                                                                                                      \
     ESP_OPTION_LIST,                                                                                        \
     &(it)->targets,                                                                                         \
     "NAME=AMOUNT",                                                                                          \
     "solve the ratios: macs, params, latency, stored-macs, stored-params (with zeros that stay); share of " \
     "the unpruned model that may remain (0.5), or an amount "                                               \
     "(20M, 3.5ms); several: all hold",                                                                      \
     0,                                                                                                      \
     0,                                                                                                      \
     0},                                                                                                     \
        {"distribution",                                                                                     \
         0,                                                                                                  \
         ESP_OPTION_TEXT,                                                                                    \
         &(it)->distribution,                                                                                \
         "NAME",                                                                                             \
         "--target: uniform (default), saliency or sensitivity",                                             \
         0,                                                                                                  \
         0,                                                                                                  \
         0},                                                                                                 \
        {"sensitivity",                                                                                      \
         0,                                                                                                  \
         ESP_OPTION_TEXT,                                                                                    \
         &(it)->sensitivity,                                                                                 \
         "FILE",                                                                                             \
         "--target: curves by 'espalier sensitivity', for that distribution",                                \
         0,                                                                                                  \
         0,                                                                                                  \
         0},                                                                                                 \
        {"cost",      0,      ESP_OPTION_TEXT,                                                               \
         &(it)->cost, "NAME", "--target: what of the curves counts: loss (default), top1 or top5",           \
         0,           0,      0},                                                                            \
        {"measure",                                                                                          \
         0,                                                                                                  \
         ESP_OPTION_FLAG,                                                                                    \
         &(it)->is_measured,                                                                                 \
         NULL,                                                                                               \
         "--target: predict latency, cut and measure it (a target for latency does)",                        \
         0,                                                                                                  \
         0,                                                                                                  \
         0},                                                                                                 \
        {"no-measure",                                                                                       \
         0,                                                                                                  \
         ESP_OPTION_FLAG,                                                                                    \
         &(it)->is_unmeasured,                                                                               \
         NULL,                                                                                               \
         "--target latency: believe the prediction",                                                         \
         0,                                                                                                  \
         0,                                                                                                  \
         0},                                                                                                 \
    {                                                                                                        \
        "fresh-table", 0, ESP_OPTION_FLAG, &(it)->is_fresh, NULL,                                            \
            "--target: measure layers again, neither read nor keep the latency table", 0, 0, 0               \
    }

bool esp_cli_budget_is_given(const esp_cli_budget *it);

/* What the budget's options say of a solve, without the curves. Options that mean nothing without a target
 * are ESP_INVALID. */
esp_status esp_cli_budget_options(const esp_cli_budget *it, esp_budget_options *out, esp_error *err);

/* Replaces `plan` by the solved one. `options` as from esp_cli_budget_options, with what the caller knows
 * (shapes, group form, ratios that stay). */
esp_status esp_cli_budget_solve(esp_cli *cli, const esp_cli_budget *it, esp_budget_options *options,
                                const esp_graph *graph, esp_grouping_cache *cache, esp_plan *plan,
                                esp_budget_report *report, esp_error *err);

/* For people, on standard output. */
void esp_cli_budget_print(const esp_budget_report *report);

#endif
