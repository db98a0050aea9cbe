/* What a training in a session is asked to do: one table of fields, with their words, ranges and steps. The
 * workbench's form, the JSON in a study and the checks all read it. */
#ifndef ESP_STUDY_FINETUNE_H
#define ESP_STUDY_FINETUNE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "train/optimizer_kind.h"
#include "train/schedule.h"
#include "train/trainer.h"

/* Longest text of a field with its ending zero. */
#define ESP_FINETUNE_TEXT 160

/* Values of `validation` that are no share, and the share that is usual. */
#define ESP_VALIDATION_USUAL (-1.0)
#define ESP_VALIDATION_SHARE 0.1

/* Plain bytes: copied by assignment. Start from esp_finetune_defaults. */
typedef struct esp_finetune {
    double epochs; /* may be fractional */
    double lr;     /* 0: the optimizer's usual one */
    int optimizer; /* esp_optimizer_kind */
    int schedule;  /* esp_schedule_kind; not those that need more than a word */
    int64_t batch;
    double weight_decay;
    int64_t crop; /* pixels of padding; 0: no random crop */
    bool flips;
    double label_smoothing;
    bool distils;                   /* the version that the trained one descends from is the teacher */
    int norm;                       /* esp_norm_mode */
    char freeze[ESP_FINETUNE_TEXT]; /* patterns of layers that stay as they are, with blanks between */
    double ema;                     /* 0: no average of the weights */
    int64_t patience;               /* 0: never stops early */
    double validation;              /* share of the training images that is held back; 0: the test images;
                                       ESP_VALIDATION_USUAL: the data's own validation images, else a tenth */
    double checkpoint_seconds;      /* 0: after epochs only */
    double warmup;                  /* epochs */
    int64_t train_limit;            /* images per epoch; 0: all */
    int64_t seed;
    int64_t validation_limit; /* 0: all; no field of the form */
} esp_finetune;

/* What people mean who say nothing: two epochs, SGD at 0.01 along a cosine, batch 128, a tenth held back, a
 * checkpoint per minute. */
esp_finetune esp_finetune_defaults(void);

typedef enum esp_finetune_kind {
    ESP_FIELD_REAL,
    ESP_FIELD_INT,
    ESP_FIELD_FLAG,
    ESP_FIELD_CHOICE,
    ESP_FIELD_TEXT,
} esp_finetune_kind;

/* One row of the table. */
typedef struct esp_finetune_field {
    const char *key;   /* in JSON: "epochs" */
    const char *title; /* "learning rate" */
    const char *help;  /* one line */
    esp_finetune_kind kind;
    size_t offset;
    double least, most;  /* of numbers, inclusive; `is_above`: greater than `least` */
    bool is_above;       /* `least` itself is not allowed */
    bool is_below;       /* `most` itself is not allowed */
    const char *nothing; /* the word for 0 ("off", "usual"), or NULL: 0 is a number as any other */
    const char *usual;   /* the word for -1 ("usual"), below 0 and all steps, or NULL: there is none */
    const double *steps; /* values that stepping goes through, ascending; NULL: one more, one less */
    int step_count;      /* of `steps`; of a choice its number of words */
    const int *values;   /* of a choice: the values, in the order of stepping */
    const char *(*word)(int value);
} esp_finetune_field;

/* The fields in the order of the form. */
const esp_finetune_field *esp_finetune_fields(int *count);

/* Place of a key in the table, or -1. */
int esp_finetune_find(const char *key);

/* A field as people type it: "0.01", "usual", "adamw", "yes". `size` of at least ESP_FINETUNE_TEXT. Returns
 * `buffer`. */
char *esp_finetune_text(const esp_finetune *options, int field, char *buffer, size_t size);

/* Sets a field from such a text. ESP_INVALID says what was found and expected, in a few words (a form shows
 * them beside the field); the options are unchanged then. */
esp_status esp_finetune_set(esp_finetune *options, int field, const char *text, esp_error *err);

/* The next value up (direction 1) or down (-1); choices and flags go round, numbers end at their range.
 * Texts are unchanged. */
void esp_finetune_step(esp_finetune *options, int field, int direction);

/* Whether it is the test images that the best epoch is chosen by; the share of the training images that is
 * held back where the data have no validation images of their own. */
bool esp_finetune_is_on_test(const esp_finetune *options);
double esp_finetune_share(const esp_finetune *options);

/* The learning rate that `lr` 0 stands for, resolved. */
double esp_finetune_lr(const esp_finetune *options);

/* "2 0.01 adamw onecycle distil": epochs, then the learning rate, then words of an optimizer, a schedule, or
 * "distil", over what `options` has. On failure nothing is changed. */
esp_status esp_finetune_words(esp_finetune *options, const char *text, esp_error *err);

/* All fields by their keys; read: what is missing has its default, unknown keys are passed over (a study may
 * be of a later program), values out of range are ESP_INVALID. */
json_t *esp_finetune_to_json(const esp_finetune *options); /* new reference; NULL: memory is out */
esp_status esp_finetune_from_json(const json_t *json, esp_finetune *out, esp_error *err);

/* The patterns of `freeze`, in place: `copy` is written, `patterns` point into it. Returns how many. */
#define ESP_FINETUNE_PATTERNS 32
int esp_finetune_patterns(const esp_finetune *options, char copy[ESP_FINETUNE_TEXT],
                          const char *patterns[ESP_FINETUNE_PATTERNS]);

#endif
