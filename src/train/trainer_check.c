/* Everything that can be refused before training begins. */
#include <inttypes.h>
#include <math.h>

#include "graph/exec.h"
#include "graph/op.h"
#include "train/trainer_internal.h"

#define MOST_EPOCHS 1e6

typedef struct range_check {
    const char *what;
    double value;
    bool is_good;
    const char *expected;
} range_check;

static esp_status check_ranges(const range_check *checks, size_t count, esp_error *err)
{
    for (size_t i = 0; i < count; i++) {
        if (!checks[i].is_good) {
            return esp_fail(err, ESP_INVALID, "training: %s %g, expected %s", checks[i].what, checks[i].value,
                            checks[i].expected);
        }
    }
    return ESP_OK;
}

/* A number >= 0 and not above `most`. */
static bool is_within(double value, double most)
{
    return value >= 0.0 && value <= most && isfinite(value);
}

static esp_status check_optimizer(const esp_train_options *o, esp_error *err)
{
    const range_check checks[] = {
        {"momentum", o->momentum, o->momentum >= 0.0 && o->momentum < 1.0, "0 <= momentum < 1"},
        {"weight decay", o->weight_decay, is_within(o->weight_decay, HUGE_VAL), "a number >= 0"},
        {"Nesterov's form with momentum", o->momentum, !o->uses_nesterov || o->momentum > 0.0,
         "a momentum > 0"},
        {"dampening", o->dampening, o->dampening >= 0.0 && o->dampening < 1.0, "0 <= dampening < 1"},
        {"Nesterov's form with dampening", o->dampening, !o->uses_nesterov || o->dampening == 0.0,
         "no dampening"},
        {"beta1", o->beta1, o->beta1 >= 0.0 && o->beta1 < 1.0, "0 <= beta1 < 1 (0: 0.9)"},
        {"beta2", o->beta2, o->beta2 >= 0.0 && o->beta2 < 1.0, "0 <= beta2 < 1 (0: 0.999)"},
        {"epsilon", o->epsilon, is_within(o->epsilon, 1.0), "a number in [0, 1] (0: 1e-8)"},
        {"gradient norm limit", o->clip_norm, is_within(o->clip_norm, HUGE_VAL), "a number > 0 (0: none)"},
        {"gradient value limit", o->clip_value, is_within(o->clip_value, HUGE_VAL), "a number > 0 (0: none)"},
        {"EMA decay", o->ema_decay, o->ema_decay >= 0.0 && o->ema_decay < 1.0, "0 < decay < 1 (0: none)"},
    };
    return check_ranges(checks, sizeof(checks) / sizeof(checks[0]), err);
}

static esp_status check_objective(const esp_train_options *o, esp_error *err)
{
    const range_check checks[] = {
        {"label smoothing", o->label_smoothing, o->label_smoothing >= 0.0 && o->label_smoothing < 1.0,
         "0 <= smoothing < 1"},
        {"temperature", o->temperature, is_within(o->temperature, 1e6), "a number > 0 (0: 4)"},
        {"share of the teacher", o->distillation, is_within(o->distillation, 1.0), "0 to 1"},
        {"share of the teacher without a teacher", o->distillation,
         o->teacher != NULL || o->distillation == 0.0, "0"},
        {"loss limit", o->max_loss, is_within(o->max_loss, HUGE_VAL), "a number > 0 (0: none)"},
        {"patience", o->patience, o->patience >= 0, "epochs > 0 (0: never stops)"},
        {"min_delta", o->min_delta, is_within(o->min_delta, HUGE_VAL), "a number >= 0"},
        {"images for recalibration", (double)o->recalibrate_images, o->recalibrate_images >= 0,
         "at least 1 (0: 1024)"},
        {"norm mode", (double)o->norm, (unsigned)o->norm <= ESP_NORM_MODE_RECALIBRATE, "a mode of the list"},
        {"checkpoint steps", (double)o->checkpoint_steps, o->checkpoint_steps >= 0, "at least 1 (0: none)"},
        {"checkpoint seconds", o->checkpoint_seconds, is_within(o->checkpoint_seconds, HUGE_VAL),
         "a number > 0 (0: none)"},
    };
    return check_ranges(checks, sizeof(checks) / sizeof(checks[0]), err);
}

esp_status esp_trainer_check(const esp_train_options *o, esp_error *err)
{
    int64_t least = o->train_limit < o->validation_limit ? o->train_limit : o->validation_limit;
    int padding = o->augmentation.crop_padding;
    const range_check checks[] = {
        {"epochs", o->epochs_limit, o->epochs_limit > 0.0 && o->epochs_limit <= MOST_EPOCHS,
         "a number > 0, at most a million"},
        {"batch", (double)o->batch, o->batch >= 0, "at least 1 (0: the default)"},
        {"crop padding", padding, padding >= 0, "at least 0"},
        {"image limit", (double)least, least >= 0, "at least 1 (0: all)"},
    };
    esp_status status = check_ranges(checks, sizeof(checks) / sizeof(checks[0]), err);
    if (status == ESP_OK) {
        status = check_optimizer(o, err);
    }
    if (status == ESP_OK) {
        status = check_objective(o, err);
    }
    if (status == ESP_OK) {
        status = esp_augmentation_check(&o->augmentation, err);
    }
    return status == ESP_OK && o->lr_fn == NULL ? esp_schedule_check(&o->schedule, err) : status;
}

/* ---- data ---- */

/* Readers check labels against their own list of classes; what a wrong one would do here is read past the
 * logits, so nobody's word is taken for it. */
static esp_status check_labels(const esp_dataset *dataset, esp_error *err)
{
    int classes = esp_dataset_class_count(dataset);
    for (int64_t i = 0; i < esp_dataset_count(dataset); i++) {
        int label = esp_dataset_label(dataset, i);
        if (label < 0 || label >= classes) {
            return esp_fail(err, ESP_INVALID,
                            "dataset '%s': image %" PRId64 " has label %d, expected 0 to %d",
                            esp_dataset_name(dataset), i, label, classes - 1);
        }
    }
    return ESP_OK;
}

esp_status esp_trainer_check_data(const esp_graph *graph, const esp_dataset *training,
                                  const esp_dataset *validation, esp_error *err)
{
    esp_status status = esp_dataset_check_model(training, graph, err);
    if (status == ESP_OK) {
        status = check_labels(training, err);
    }
    if (status == ESP_OK && validation != NULL) {
        status = esp_dataset_check_model(validation, graph, err);
    }
    if (status == ESP_OK && validation != NULL) {
        status = check_labels(validation, err);
    }
    if (status == ESP_OK && validation != NULL &&
        esp_dataset_channels(validation) != esp_dataset_channels(training)) {
        status = esp_fail(err, ESP_SHAPE, "validation images have %d channels, training images %d",
                          esp_dataset_channels(validation), esp_dataset_channels(training));
    }
    return status;
}

esp_status esp_trainer_check_penalties(const esp_trainer *s, esp_error *err)
{
    const esp_train_options *options = s->options;
    for (int i = 0; i < options->penalty_count; i++) {
        int value = options->penalties[i].value;
        bool exists = value >= 0 && value < esp_graph_value_count(s->graph);
        int index = exists ? esp_params_find(s->params, value) : -1;
        if (index < 0 || esp_params_at(s->params, index)->grad == NULL) {
            return esp_fail(err, ESP_INVALID, "penalty on value %d '%s': expected a trainable constant",
                            value, exists ? esp_graph_value(s->graph, value)->name : "?");
        }
    }
    return ESP_OK;
}

/* Batch statistics of one number are no statistics: the variance is 0 and every output the shift alone. That
 * happens to batches of one image behind a global pooling. */
esp_status esp_trainer_check_norms(const esp_trainer *s, esp_error *err)
{
    if (s->batch > 1 || s->options->norm == ESP_NORM_MODE_FROZEN || s->options->freezes_norm) {
        return ESP_OK;
    }
    const esp_inferred *inferred = esp_exec_inferred(s->exec);
    for (int n = 0; n < esp_graph_node_count(s->graph); n++) {
        const esp_node *node = esp_graph_node(s->graph, n);
        if (node->op->running == 0) {
            continue;
        }
        const esp_shape *shape = esp_inferred_shape(inferred, node->inputs[0]);
        if (shape->rank < 2 || esp_shape_elements(shape) > shape->dims[1]) {
            continue;
        }
        esp_fail(err, ESP_INVALID,
                 "training: '%s' would normalise by one value per channel in batches of one image, expected "
                 "a batch of at least 2",
                 node->name);
        esp_error_set_hint(err, "or freeze the normalisation");
        return ESP_INVALID;
    }
    return ESP_OK;
}
