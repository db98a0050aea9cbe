/* The flags that say how to train, and the images to train on: what `train` and `tune` share. */
#ifndef ESP_CLI_TRAIN_FLAGS_H
#define ESP_CLI_TRAIN_FLAGS_H

#include "cli/inputs.h"
#include "cli/options.h"
#include "train/trainer.h"

typedef struct esp_cli_train_flags {
    /* NULL: not given */
    const char *optimizer, *schedule, *milestones, *norm, *augment, *teacher, *mean, *std, *checkpoint_every;
    /* NAN: not given */
    double lr, gamma, every, min_lr, warmup, momentum, dampening, beta1, beta2, epsilon, weight_decay,
        clip_norm, clip_value, ema, label_smoothing, temperature, distillation, max_loss, min_delta;
    /* -1: not given */
    int64_t batch, crop, train_limit, limit, plateau_patience, cooldown, patience, recalibrate_images;
    bool uses_nesterov, flips, freezes_norm;
    esp_option_list freeze;
    const char *schedule_flag; /* what the command calls it: "--schedule" */
    esp_graph *teacher_graph;  /* owned; see esp_cli_train_flags_free */
} esp_cli_train_flags;

#define ESP_CLI_TRAIN_FLAGS_NONE                                                                             \
    {                                                                                                        \
        .lr = NAN, .gamma = NAN, .every = NAN, .min_lr = NAN, .warmup = NAN, .momentum = NAN,                \
        .dampening = NAN, .beta1 = NAN, .beta2 = NAN, .epsilon = NAN, .weight_decay = NAN, .clip_norm = NAN, \
        .clip_value = NAN, .ema = NAN, .label_smoothing = NAN, .temperature = NAN, .distillation = NAN,      \
        .max_loss = NAN, .min_delta = NAN, .batch = -1, .crop = -1, .train_limit = -1, .limit = -1,          \
        .plateau_patience = -1, .cooldown = -1, .patience = -1, .recalibrate_images = -1                     \
    }

/* Rows for a table of options, by heading. `it` is a pointer. */
/* clang-format off */
#define ESP_CLI_TRAIN_IMAGES_ROWS(it)                                                                          \
    {"crop", 0, ESP_OPTION_INT, &(it)->crop, "P", "random crops from images padded by P pixels", 0, 64, 0},    \
    {"flip", 0, ESP_OPTION_FLAG, &(it)->flips, NULL, "random horizontal flips", 0, 0, 0},                      \
    {"augment", 0, ESP_OPTION_TEXT, &(it)->augment, "LIST",                                                    \
     "more of it: crop=4,flip,resized=0.08:1,jitter=0.4,hue=0.1,cutout=8,mixup=0.2", 0, 0, 0},                 \
    {"train-limit", 0, ESP_OPTION_INT, &(it)->train_limit, "N", "N random images per epoch", 1, 1e9, 0},       \
    {"limit", 'n', ESP_OPTION_INT, &(it)->limit, "N", "measure on the first N images only", 1, 1e9, 0},        \
    {"mean", 0, ESP_OPTION_TEXT, &(it)->mean, "M[,M..]", "normalisation: mean of x/255 per channel", 0, 0, 0}, \
    {"std", 0, ESP_OPTION_TEXT, &(it)->std, "S[,S..]", "normalisation: standard deviation", 0, 0, 0}

#define ESP_CLI_TRAIN_RATE_ROWS(it, schedule_name)                                                             \
    {"lr", 0, ESP_OPTION_REAL, &(it)->lr, "RATE", "default 0.01; 0.001 for adam and adamw", 1e-12, 1e3, 0},    \
    {schedule_name, 0, ESP_OPTION_TEXT, &(it)->schedule, "NAME|JSON",                                          \
     "cosine (default), constant, step, multistep, exponential, onecycle, plateau; JSON or FILE.json",         \
     0, 0, 0},                                                                                                 \
    {"warmup", 0, ESP_OPTION_REAL, &(it)->warmup, "N", "epochs of linear warm-up in front of any", 0, 1e6, 0}, \
    {"milestones", 0, ESP_OPTION_TEXT, &(it)->milestones, "E,E,..",                                            \
     "step, multistep: epochs at which the rate drops (default: thirds)", 0, 0, 0},                            \
    {"every", 0, ESP_OPTION_REAL, &(it)->every, "N", "step: a drop every N epochs instead", 1e-6, 1e6, 0},     \
    {"gamma", 0, ESP_OPTION_REAL, &(it)->gamma, "F",                                                           \
     "factor of a drop (default 0.1); exponential: of an epoch (default 0.95)", 1e-9, 1, 0},                   \
    {"min-lr", 0, ESP_OPTION_REAL, &(it)->min_lr, "RATE", "cosine, plateau: never below", 0, 1e3, 0},          \
    {"plateau-patience", 0, ESP_OPTION_INT, &(it)->plateau_patience, "N",                                      \
     "plateau: epochs without a lower loss before a drop (default 10)", 0, 1e6, 0},                            \
    {"cooldown", 0, ESP_OPTION_INT, &(it)->cooldown, "N", "plateau: epochs of rest after a drop", 0, 1e6, 0}

#define ESP_CLI_TRAIN_OPTIMIZER_ROWS(it)                                                                       \
    {"optimizer", 0, ESP_OPTION_TEXT, &(it)->optimizer, "NAME", "sgd (default), adam or adamw", 0, 0, 0},      \
    {"momentum", 0, ESP_OPTION_REAL, &(it)->momentum, "M", "sgd: default 0.9", 0, 1, true},                    \
    {"nesterov", 0, ESP_OPTION_FLAG, &(it)->uses_nesterov, NULL, "sgd: Nesterov momentum", 0, 0, 0},           \
    {"dampening", 0, ESP_OPTION_REAL, &(it)->dampening, "D", "sgd: default 0", 0, 1, true},                    \
    {"beta1", 0, ESP_OPTION_REAL, &(it)->beta1, "B", "adam, adamw: default 0.9", 0, 1, true},                  \
    {"beta2", 0, ESP_OPTION_REAL, &(it)->beta2, "B", "adam, adamw: default 0.999", 0, 1, true},                \
    {"epsilon", 0, ESP_OPTION_REAL, &(it)->epsilon, "E", "adam, adamw: default 1e-8", 0, 1, 0},                \
    {"weight-decay", 0, ESP_OPTION_REAL, &(it)->weight_decay, "W", "default 1e-4", 0, 1, 0},                   \
    {"clip-norm", 0, ESP_OPTION_REAL, &(it)->clip_norm, "L", "scale gradients down to this common length",     \
     0, 1e9, 0},                                                                                               \
    {"clip-value", 0, ESP_OPTION_REAL, &(it)->clip_value, "V", "cut gradients to [-V, V]", 0, 1e9, 0},         \
    {"ema", 0, ESP_OPTION_REAL, &(it)->ema, "D",                                                               \
     "average the weights by D per step (0.999); the average is measured and kept", 0, 1, true}

#define ESP_CLI_TRAIN_LOSS_ROWS(it)                                                                            \
    {"label-smoothing", 0, ESP_OPTION_REAL, &(it)->label_smoothing, "S",                                       \
     "share of each target spread over all classes", 0, 1, true},                                              \
    {"teacher", 0, ESP_OPTION_TEXT, &(it)->teacher, "MODEL.onnx", "distil from this model too", 0, 0, 0},      \
    {"temperature", 0, ESP_OPTION_REAL, &(it)->temperature, "T", "of the teacher (default 4)", 1e-3, 1e6, 0},  \
    {"distill", 0, ESP_OPTION_REAL, &(it)->distillation, "W", "the teacher's share of the loss (default 0.5)", \
     1e-6, 1, 0},                                                                                              \
    {"max-loss", 0, ESP_OPTION_REAL, &(it)->max_loss, "L",                                                     \
     "a batch above it ends the training as diverged (default 1e4; 0: never)", 0, 1e300, 0}

#define ESP_CLI_TRAIN_MODEL_ROWS(it)                                                                           \
    {"freeze", 0, ESP_OPTION_LIST, &(it)->freeze, "PATTERN",                                                   \
     "layers that stay as they are, with '*'; may be given several times", 0, 0, 0},                           \
    {"norm", 0, ESP_OPTION_TEXT, &(it)->norm, "MODE",                                                          \
     "batch-norm: train (default), frozen, or recalibrate before every validation", 0, 0, 0},                  \
    {"freeze-norm", 0, ESP_OPTION_FLAG, &(it)->freezes_norm, NULL, "short for --norm frozen", 0, 0, 0},        \
    {"recalibrate-images", 0, ESP_OPTION_INT, &(it)->recalibrate_images, "N",                                  \
     "how many for --norm recalibrate (default 1024)", 1, 1e9, 0}

#define ESP_CLI_TRAIN_END_ROWS(it)                                                                             \
    {"patience", 0, ESP_OPTION_INT, &(it)->patience, "N",                                                      \
     "stop after N epochs without a lower validation loss", 1, 1e6, 0},                                        \
    {"min-delta", 0, ESP_OPTION_REAL, &(it)->min_delta, "D", "by how much it must be lower", 0, 1e9, 0}
/* clang-format on */

/* Puts what was given into `options`, which have the usual values (or those of a preset): a schedule that is
 * not named stays, with another rate. Loads the teacher. Flags that would do nothing are refused. The options
 * borrow from the flags; what they own is the schedule (esp_schedule_free). */
esp_status esp_cli_train_options(esp_cli_train_flags *flags, esp_train_options *options, esp_error *err);
void esp_cli_train_flags_free(esp_cli_train_flags *flags);

/* ---- images ---- */

typedef struct esp_cli_train_data {
    esp_dataset *training, *test;
    esp_dataset *validation; /* NULL: nothing is measured between epochs, all images train */
    bool shares_images;      /* validation is a part of one of the others */
    const char *measured;    /* "validation" or "test": what versions are chosen by */
    char source[160];        /* where the validation images come from, for people */
} esp_cli_train_data;

typedef struct esp_cli_train_data_wish {
    const char *data;             /* the spec */
    const esp_cli_images *images; /* or NULL */
    const char *validation; /* a share of the training images, a dataset, "none", or NULL: the data's own
                               validation images, else 0.1 of the training images */
    bool validates_on_test;
    uint64_t seed; /* chooses the share */
} esp_cli_train_data_wish;

#define ESP_CLI_VALIDATION_ROWS(it)                                                                          \
    {"validation",                                                                                           \
     0,                                                                                                      \
     ESP_OPTION_TEXT,                                                                                        \
     &(it)->validation,                                                                                      \
     "SHARE|SPEC",                                                                                           \
     "what the best is chosen by: default the data's own validation images, else 0.1 of training; or none",  \
     0,                                                                                                      \
     0,                                                                                                      \
     0},                                                                                                     \
    {                                                                                                        \
        "validate-on-test", 0, ESP_OPTION_FLAG, &(it)->validates_on_test, NULL,                              \
            "choose the best by the test images: its figure is then no test any more", 0, 0, 0               \
    }

/* Opens all three for a model. With validates_on_test validation is the test set. `compute` is asked between
 * two sets whether the user wants to go. */
esp_status esp_cli_train_data_open(const esp_compute *compute, const esp_cli_train_data_wish *wish,
                                   const esp_graph *graph, esp_cli_train_data *out, esp_error *err);
/* Names the bad images that were left out, once each, and releases. */
void esp_cli_train_data_close(esp_cli_train_data *data);

/* ---- files ---- */

/* Whether a file could be written there; nothing is. */
esp_status esp_cli_check_writable(const char *path, esp_error *err);
/* Also under two names. Files that do not exist yet are told apart by their names. */
bool esp_cli_is_same_file(const char *one, const char *other);

#endif
