/* The flags that make a plan, or change one from a file, and the images its criterion looks at: what `prune`
 * and `explain` share. */
#ifndef ESP_CLI_PLAN_FLAGS_H
#define ESP_CLI_PLAN_FLAGS_H

#include "cli/options.h"
#include "graph/graph.h"
#include "prune/preview.h"

typedef struct esp_cli_plan_flags {
    const char *path, *method, *mode, *init, *criterion, *scope; /* NULL: not given */
    double ratio, conv_ratio, fc_ratio, border_ratio, floor;     /* NAN: not given */
    int64_t groups, restarts, round_to, seed;                    /* 0, 0, 0, -1: not given */
    esp_option_list layer_ratios, layer_groups, ignored;
    bool has_no_cascade;
    const char *data;
    int64_t images;         /* 0: ESP_CALIBRATION_IMAGES */
    const char *mean, *std; /* overrides of their normalisation, or NULL */
} esp_cli_plan_flags;

#define ESP_CLI_PLAN_FLAGS_NONE                                                                              \
    {                                                                                                        \
        .ratio = NAN, .conv_ratio = NAN, .fc_ratio = NAN, .border_ratio = NAN, .floor = NAN, .seed = -1      \
    }

/* Rows of a table of options. `data_help` of esp_cli_data_help. */
#define ESP_CLI_PLAN_FLAGS_ROWS(it, data_help)                                                                 \
    {"method",                                                                                                 \
     'm',                                                                                                      \
     ESP_OPTION_TEXT,                                                                                          \
     &(it)->method,                                                                                            \
     "NAME",                                                                                                   \
     "wsp (weak sub-network), sg (self-grouping) or filter (lowest filters by a criterion)",                   \
     0,                                                                                                        \
     0,                                                                                                        \
     0},                                                                                                       \
        {"mode",      0,      ESP_OPTION_TEXT,                                                                 \
         &(it)->mode, "NAME", "wsp, sg: sound (default) or faithful to the published code",                    \
         0,           0,      0},                                                                              \
        {"criterion",                                                                                          \
         'c',                                                                                                  \
         ESP_OPTION_TEXT,                                                                                      \
         &(it)->criterion,                                                                                     \
         "NAME",                                                                                               \
         "filter: l1 (default) or another of 'espalier saliency --help'",                                      \
         0,                                                                                                    \
         0,                                                                                                    \
         0},                                                                                                   \
        {"scope",                                                                                              \
         0,                                                                                                    \
         ESP_OPTION_TEXT,                                                                                      \
         &(it)->scope,                                                                                         \
         "NAME",                                                                                               \
         "filter, sound wsp: layer (default), or global: one ranking over all layers",                         \
         0,                                                                                                    \
         0,                                                                                                    \
         0},                                                                                                   \
        {"floor",                                                                                              \
         0,                                                                                                    \
         ESP_OPTION_REAL,                                                                                      \
         &(it)->floor,                                                                                         \
         "R",                                                                                                  \
         "filter, sound wsp: share of a layer that always stays (default 0.1)",                                \
         0,                                                                                                    \
         1,                                                                                                    \
         0},                                                                                                   \
        {"round-to",                                                                                           \
         0,                                                                                                    \
         ESP_OPTION_INT,                                                                                       \
         &(it)->round_to,                                                                                      \
         "N",                                                                                                  \
         "filter, sound wsp: what stays is rounded up to a multiple, as 8",                                    \
         1,                                                                                                    \
         65536,                                                                                                \
         0},                                                                                                   \
        {"ratio", 'r', ESP_OPTION_REAL, &(it)->ratio, "R", "share to prune in every layer, in [0, 1)", 0,      \
         1,       true},                                                                                       \
        {"conv-ratio", 0, ESP_OPTION_REAL, &(it)->conv_ratio, "R", "for convolutions", 0, 1, true},            \
        {"fc-ratio", 0, ESP_OPTION_REAL, &(it)->fc_ratio, "R", "for fully connected layers", 0, 1, true},      \
        {"border-ratio",                                                                                       \
         0,                                                                                                    \
         ESP_OPTION_REAL,                                                                                      \
         &(it)->border_ratio,                                                                                  \
         "R",                                                                                                  \
         "wsp, filter: between last conv and first fc",                                                        \
         0,                                                                                                    \
         1,                                                                                                    \
         true},                                                                                                \
        {"layer",                                                                                              \
         'l',                                                                                                  \
         ESP_OPTION_LIST,                                                                                      \
         &(it)->layer_ratios,                                                                                  \
         "NAME=R",                                                                                             \
         "ratio of layers by name (* and ? match)",                                                            \
         0,                                                                                                    \
         0,                                                                                                    \
         0},                                                                                                   \
        {"ignore", 0, ESP_OPTION_LIST, &(it)->ignored, "NAME", "leave layers alone (* and ? match)", 0, 0, 0}, \
        {"groups", 'g', ESP_OPTION_INT, &(it)->groups, "K", "sg: groups per layer (default 16)", 1, 65536, 0}, \
        {"layer-groups",                                                                                       \
         0,                                                                                                    \
         ESP_OPTION_LIST,                                                                                      \
         &(it)->layer_groups,                                                                                  \
         "NAME=K",                                                                                             \
         "sg: groups of layers by name",                                                                       \
         0,                                                                                                    \
         0,                                                                                                    \
         0},                                                                                                   \
        {"init", 0, ESP_OPTION_TEXT, &(it)->init, "NAME", "sg: random (as published) or kmeans++", 0, 0, 0},   \
        {"restarts", 0, ESP_OPTION_INT, &(it)->restarts, "N", "sg: k-means restarts (default 10)", 1,          \
         10000,      0},                                                                                       \
        {"no-cascade",                                                                                         \
         0,                                                                                                    \
         ESP_OPTION_FLAG,                                                                                      \
         &(it)->has_no_cascade,                                                                                \
         NULL,                                                                                                 \
         "sg: filters that nobody reads stay",                                                                 \
         0,                                                                                                    \
         0,                                                                                                    \
         0},                                                                                                   \
        {"seed", 0, ESP_OPTION_INT, &(it)->seed, "N", "default 0; same seed, same result", 0, 1e15, 0},        \
        {"data", 'd', ESP_OPTION_TEXT, &(it)->data, "SPEC", data_help, 0, 0, 0},                               \
        {"calibrate",                                                                                          \
         0,                                                                                                    \
         ESP_OPTION_INT,                                                                                       \
         &(it)->images,                                                                                        \
         "N",                                                                                                  \
         "images that criteria with data look at (default 256)",                                               \
         1,                                                                                                    \
         1e9,                                                                                                  \
         0},                                                                                                   \
    {                                                                                                          \
        "plan", 0, ESP_OPTION_TEXT, &(it)->path, "PLAN.json", "start from this plan; other flags change it",   \
            0, 0, 0                                                                                            \
    }

/* A flag and what it belongs to: one row of a table for esp_cli_check_uses. */
typedef struct esp_cli_use {
    const char *flag;
    bool is_given, fits;
    const char *with;  /* what it belongs to: "method sg" */
    const char *found; /* what there is instead: "--method wsp" */
} esp_cli_use;

/* ESP_INVALID, naming both, for the first flag that was given and does not fit. */
esp_status esp_cli_check_uses(const esp_cli_use *uses, size_t count, esp_error *err);

/* "--method wsp", or where else the plan's method is from. `buffer` of at least 64. Returns it. */
char *esp_cli_method_text(const esp_cli_plan_flags *flags, const esp_plan *plan, char *buffer, size_t size);

/* Whether any flag says how much is pruned. */
bool esp_cli_has_ratio(const esp_cli_plan_flags *flags);

/* `needs_ratio`: without a file some ratio must be given. Free with esp_plan_free. */
esp_status esp_cli_plan_make(const esp_cli_plan_flags *flags, bool needs_ratio, esp_plan *plan,
                             esp_error *err);

/* Opens the data for the plan's criterion where that needs any; else *dataset is NULL. `*out` borrows it: to be
 * released (esp_dataset_unref) after it. */
esp_status esp_cli_plan_images(const esp_cli_plan_flags *flags, const esp_plan *plan, const esp_graph *graph,
                               esp_dataset **dataset, esp_criterion_data *out, esp_error *err);

/* The same, given to the cache. */
esp_status esp_cli_plan_calibrate(const esp_cli_plan_flags *flags, const esp_plan *plan,
                                  const esp_graph *graph, esp_grouping_cache *cache, esp_error *err);

#endif
