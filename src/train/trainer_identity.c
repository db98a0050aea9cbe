/* See train_identity.h. A message names the first thing that differs; the seed decides which images are held
 * back, so it is looked at before them. */
#include "train/train_identity.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/json.h"
#include "graph/fingerprint.h"
#include "train/fingerprint.h"
#include "train/trainer_internal.h"

static json_t *graph_text(const esp_graph *graph)
{
    return graph == NULL ? json_string("none")
                         : json_sprintf("%s of %d nodes (%016" PRIx64 ")", esp_graph_name(graph),
                                        esp_graph_node_count(graph), esp_graph_fingerprint(graph));
}

static esp_status put_dataset(json_t *json, const char *key, const esp_dataset *dataset, esp_error *err)
{
    esp_dataset_fingerprint found;
    if (dataset == NULL) {
        json_object_set_new(json, key, json_string("none"));
        return ESP_OK;
    }
    esp_status status = esp_dataset_fingerprint_find(dataset, &found, err);
    if (status == ESP_OK) {
        json_object_set_new(json, key,
                            json_sprintf("%" PRId64 " images %dx%dx%d of %d classes (labels %016" PRIx64
                                         ", pixels %016" PRIx64 ")",
                                         esp_dataset_count(dataset), esp_dataset_channels(dataset),
                                         esp_dataset_height(dataset), esp_dataset_width(dataset),
                                         esp_dataset_class_count(dataset), found.labels, found.images));
    }
    return status;
}

static uint64_t masks_hash(const esp_graph *graph, const esp_train_options *options)
{
    uint64_t hash = 0;
    for (int i = 0; i < options->mask_count; i++) {
        const esp_weight_mask *mask = &options->masks[i];
        const esp_tensor *constant = esp_graph_value(graph, mask->value)->constant;
        hash = esp_hash_word(hash, (uint64_t)mask->value);
        hash = esp_hash_bytes(hash, mask->keep, (size_t)esp_tensor_elements(constant));
    }
    return hash;
}

static json_t *normalization_text(const esp_normalization *normalization)
{
    json_t *list = json_array();
    for (int c = 0; c < normalization->channels; c++) {
        json_array_append_new(list, json_real((double)normalization->mean[c]));
        json_array_append_new(list, json_real((double)normalization->std[c]));
    }
    return list;
}

static json_t *freeze_list(const esp_train_options *options)
{
    json_t *list = json_array();
    for (int i = 0; i < options->freeze_count; i++) {
        json_array_append_new(list, json_string(options->freeze[i]));
    }
    return list;
}

/* The options. A missing value (memory is out) leaves its key out. */
static void put_options(json_t *json, const esp_train_options *o, const esp_dataset *training)
{
    char augmentation[ESP_AUGMENTATION_TEXT_MAX];
    bool is_frozen = o->freezes_norm || o->norm == ESP_NORM_MODE_FROZEN;
    int64_t count = training == NULL ? 0 : esp_dataset_count(training);
    int64_t batch = o->batch > 0 ? o->batch : esp_train_defaults().batch;
    esp_augmentation_text(&o->augmentation, augmentation, sizeof(augmentation));
    json_object_set_new(json, "augmentation", json_string(augmentation));
    json_object_set_new(json, "schedule",
                        o->lr_fn != NULL ? json_string("a function") : esp_schedule_to_json(&o->schedule));
    json_object_set_new(json, "optimizer", json_string(esp_optimizer_word(o->optimizer)));
    json_object_set_new(json, "seed", json_sprintf("%" PRIu64, o->seed));
    json_object_set_new(json, "teacher", graph_text(o->teacher));
    json_object_set_new(json, "freeze", freeze_list(o));
    json_object_set_new(json, "note", json_string(o->note == NULL ? "" : o->note));
    json_object_set_new(json, "batch-norm", json_string(is_frozen ? "frozen" : esp_norm_mode_word(o->norm)));
    const struct {
        const char *key;
        double value;
    } values[] = {
        {"epochs", o->epochs_limit},
        {"batch", (double)batch},
        {"momentum", o->momentum},
        {"weight decay", o->weight_decay},
        {"decay of weights only", o->decays_weights_only},
        {"Nesterov", o->uses_nesterov},
        {"dampening", o->dampening},
        {"beta1", o->beta1},
        {"beta2", o->beta2},
        {"epsilon", o->epsilon},
        {"images per epoch", (double)(o->train_limit > 0 && o->train_limit < count ? o->train_limit : count)},
        {"validation limit", (double)o->validation_limit},
        {"measuring first", o->evaluates_first},
        {"label smoothing", o->label_smoothing},
        {"temperature", o->temperature},
        {"share of the teacher", o->distillation},
        {"penalties", o->penalty_count},
        {"gradient norm limit", o->clip_norm},
        {"gradient value limit", o->clip_value},
        {"EMA decay", o->ema_decay},
        {"patience", o->patience},
        {"min_delta", o->min_delta},
        {"images for recalibration", (double)o->recalibrate_images},
    };
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        json_object_set_new(json, values[i].key, json_real(values[i].value));
    }
}

/* By the model's metadata, unless the options say otherwise; nothing without images. */
static esp_status put_normalization(json_t *json, const esp_graph *graph, const esp_train_options *options,
                                    const esp_dataset *training, esp_error *err)
{
    esp_normalization normalization;
    if (training == NULL) {
        return ESP_OK;
    }
    esp_status status = esp_normalization_of(graph, esp_dataset_channels(training), &normalization, err);
    if (status == ESP_OK) {
        status = esp_normalization_override(&normalization, options->mean, options->std, err);
    }
    if (status == ESP_OK) {
        json_object_set_new(json, "normalisation", normalization_text(&normalization));
    }
    return status;
}

esp_status esp_train_identity(const esp_graph *graph, const esp_train_options *options,
                              const esp_dataset *training, const esp_dataset *validation, json_t **out,
                              esp_error *err)
{
    *out = NULL;
    json_t *json = json_object();
    if (json == NULL) {
        return esp_fail_memory(err, "the identity of a training", 0);
    }
    json_object_set_new(json, "model", graph_text(graph));
    json_object_set_new(json, "masks", json_sprintf("%016" PRIx64, masks_hash(graph, options)));
    put_options(json, options, training);
    esp_status status = put_normalization(json, graph, options, training, err);
    if (status == ESP_OK) {
        status = put_dataset(json, "training data", training, err);
    }
    if (status == ESP_OK) {
        status = put_dataset(json, "validation data", validation, err);
    }
    if (status != ESP_OK) {
        json_decref(json);
        return status;
    }
    *out = json;
    return ESP_OK;
}

/* ---- comparing ---- */

static char *value_text(const json_t *value)
{
    return value == NULL ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(12));
}

esp_status esp_train_identity_check(const json_t *now, const json_t *then, const char *what, esp_error *err)
{
    static const char *const first[] = {"model", "seed", "training data", "validation data", NULL};
    const char *different = NULL, *key = NULL;
    json_t *value = NULL;
    for (int i = 0; different == NULL && first[i] != NULL; i++) {
        different =
            json_equal(json_object_get(now, first[i]), json_object_get(then, first[i])) ? NULL : first[i];
    }
    json_object_foreach((json_t *)now, key, value)
    {
        if (different == NULL && !json_equal(value, json_object_get(then, key))) {
            different = key;
        }
    }
    if (different == NULL) {
        return ESP_OK;
    }
    char *old_text = value_text(json_object_get(then, different));
    char *new_text = value_text(json_object_get(now, different));
    esp_fail(err, ESP_MISMATCH, "%s is of another training: its %s is %.160s, found %.160s", what, different,
             old_text == NULL ? "missing" : old_text, new_text == NULL ? "missing" : new_text);
    esp_error_set_hint(err, "resume with the same model, data and options as before");
    free(old_text);
    free(new_text);
    return ESP_MISMATCH;
}

/* ---- of a trainer ---- */

esp_status esp_trainer_identify(esp_trainer *s, esp_error *err)
{
    json_t *json = NULL;
    esp_status status = esp_train_identity(s->graph, s->options, s->training, s->validation, &json, err);
    if (status == ESP_OK) {
        s->identity = esp_json_dump(json, 1);
        status = s->identity == NULL ? esp_fail_memory(err, "the identity of a training", 0) : ESP_OK;
    }
    json_decref(json);
    return status;
}

esp_status esp_trainer_check_identity(const esp_trainer *s, const esp_train_state *state, esp_error *err)
{
    const esp_state_block *block = esp_train_state_find(state, "identity");
    if (block == NULL) {
        return esp_fail(err, ESP_FORMAT, "'identity' is missing");
    }
    json_t *then = json_loadb(block->data, block->size, JSON_REJECT_DUPLICATES, NULL);
    json_t *now = json_loads(s->identity, 0, NULL);
    esp_status status = then == NULL || now == NULL || !json_is_object(then)
                            ? esp_fail(err, ESP_FORMAT, "'identity' is no JSON object")
                            : esp_train_identity_check(now, then, "the checkpoint", err);
    json_decref(then);
    json_decref(now);
    return status;
}
