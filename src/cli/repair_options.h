/* What `prune` does with images to the model it writes: least-squares reconstruction of layers that lost
 * input, and batch-norm statistics measured again. */
#ifndef ESP_CLI_REPAIR_OPTIONS_H
#define ESP_CLI_REPAIR_OPTIONS_H

#include <jansson.h>

#include "cli/options.h"
#include "prune/reconstruct.h"
#include "train/recalibrate.h"

typedef struct esp_cli_repair {
    int64_t recalibrate, reconstruct; /* images; 0: not asked for */
    double ridge;                     /* 0: the default */
    const char *mean, *std;
    /* what was done */
    esp_recalibrate_result recalibrated;
    esp_reconstruct_report reconstructed;
} esp_cli_repair;

/* Rows of a table of options; the data is --data's. */
/* clang-format off */
#define ESP_CLI_REPAIR_ROWS(it)                                                                              \
    {"reconstruct", 0, ESP_OPTION_INT, &(it)->reconstruct, "N",                                              \
     "solve layers that lost input for their old outputs, on N images of --data for training", 1, 1e9, 0},   \
    {"ridge", 0, ESP_OPTION_REAL, &(it)->ridge, "R",                                                         \
     "of --reconstruct: what holds weights where they were (default 0.01)", 0, 1e6, 0},                      \
    {"recalibrate", 0, ESP_OPTION_INT, &(it)->recalibrate, "N",                                              \
     "measure batch-norm statistics again at last, on N images of --data for training", 1, 1e9, 0},          \
    {"mean", 0, ESP_OPTION_TEXT, &(it)->mean, "M[,M..]",                                                     \
     "normalisation of these images instead of the model's own", 0, 0, 0},                                   \
    {"std", 0, ESP_OPTION_TEXT, &(it)->std, "S[,S..]", "likewise", 0, 0, 0}
/* clang-format on */

bool esp_cli_repair_is_given(const esp_cli_repair *repair);

/* ESP_INVALID for an option without the one it belongs to, and without data (`spec` NULL) for what looks at
 * images. */
esp_status esp_cli_repair_check(const esp_cli_repair *repair, const char *spec, esp_error *err);

/* The model that `prune` writes: masked or cut, reconstructed and recalibrated as asked. `spec` may be NULL
 * when neither was; what esp_cli_repair_check refuses must not come here. `report` is filled when the model
 * is cut. */
esp_status esp_cli_repair_make(esp_cli_repair *repair, const esp_compute *compute, const esp_preview *preview,
                               const char *spec, bool is_masked, const esp_surgery_options *surgery,
                               esp_graph **out, esp_surgery_report *report, esp_error *err);
void esp_cli_repair_free(esp_cli_repair *repair);

/* Lines for people: what was done. */
void esp_cli_repair_print(const esp_cli_repair *repair, const esp_preview *preview);

/* Adds "reconstruct" and "recalibrate" to the object where they were asked for. */
void esp_cli_repair_json(const esp_cli_repair *repair, const esp_preview *preview, json_t *object);

#endif
