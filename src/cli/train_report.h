/* What `espalier train` tells: lines for people, one JSON object at the end, JSON lines in a log. */
#ifndef ESP_CLI_TRAIN_REPORT_H
#define ESP_CLI_TRAIN_REPORT_H

#include <jansson.h>
#include <stdio.h>

#include "train/trainer.h"

typedef struct esp_train_report {
    bool is_json;         /* nothing but the object at the end on standard output */
    const char *measured; /* "validation" or "test": what accuracies are of */
    bool has_validation;  /* false: nothing is measured between epochs, the newest weights count */
    char source[160];     /* where the validation images come from, for people */
    const char *output, *checkpoint;
    const esp_dataset *training; /* for the bad images that were left out */
    json_t *history;   /* one object per epoch; a resumed run begins with those of the runs before */
    FILE *log;         /* NULL: none */
    int64_t log_every; /* steps between two lines of progress */
    int failures_told; /* of checkpoints */
} esp_train_report;

/* Opens the log; a resumed run adds to what is there. */
esp_status esp_train_report_open(esp_train_report *it, const char *log, bool is_resumed, esp_error *err);
/* ESP_IO when the log could not be written. */
esp_status esp_train_report_close(esp_train_report *it, esp_error *err);

void esp_train_report_start(esp_train_report *it, const esp_train_options *options);
void esp_train_report_epoch(esp_train_report *it, const esp_epoch_report *report);
void esp_train_report_step(esp_train_report *it, const esp_step_report *report);
/* A checkpoint that could not be written is said once on standard error, and in the log each time. */
void esp_train_report_checkpoint(esp_train_report *it, esp_status status, const esp_error *why);

/* What the end of a training was; `status` is ESP_OK, ESP_CANCELLED or ESP_DIVERGED. `test` has 0 images when
 * it was not measured. */
esp_status esp_train_report_end(esp_train_report *it, const esp_train_result *result, esp_status status,
                                const esp_eval_result *test, esp_error *err);

#endif
