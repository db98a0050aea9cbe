/* What a checkpoint must have been made with to be gone on from: the model, the data and every option that
 * decides the result, as a JSON object whose keys are words for people, since a message names the first that
 * differs. Models and data are told apart by a hash of their contents; of images only number, sizes and
 * labels are looked at, because going through all pixels would take as long as an epoch. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "graph/op.h"
#include "train/trainer_internal.h"

/* ---- fingerprints: FNV-1a (Fowler, Noll, Vo) over bytes ---- */

static uint64_t mix_bytes(uint64_t hash, const void *data, size_t size)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    }
    return hash;
}

#define HASH_START UINT64_C(0xcbf29ce484222325)

static uint64_t graph_hash(const esp_graph *graph)
{
    uint64_t hash = HASH_START;
    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        const esp_node *node = esp_graph_node(graph, n);
        hash = mix_bytes(hash, node->op->name, strlen(node->op->name));
        hash = mix_bytes(hash, node->inputs, (size_t)node->input_count * sizeof(*node->inputs));
        hash = mix_bytes(hash, node->outputs, (size_t)node->output_count * sizeof(*node->outputs));
    }
    for (int v = 0; v < esp_graph_value_count(graph); v++) {
        const esp_tensor *constant = esp_graph_value(graph, v)->constant;
        if (constant != NULL) {
            hash =
                mix_bytes(hash, esp_tensor_data(constant),
                          (size_t)esp_tensor_elements(constant) * esp_dtype_size(esp_tensor_dtype(constant)));
        }
    }
    return hash;
}

static uint64_t labels_hash(const esp_dataset *dataset)
{
    uint64_t hash = HASH_START;
    for (int64_t i = 0; i < esp_dataset_count(dataset); i++) {
        int label = esp_dataset_label(dataset, i);
        hash = mix_bytes(hash, &label, sizeof(label));
    }
    return hash;
}

static uint64_t masks_hash(const esp_trainer *s)
{
    uint64_t hash = HASH_START;
    for (int p = 0; p < esp_params_count(s->params); p++) {
        const uint8_t *keep = esp_optimizer_mask(s->optimizer, p);
        if (keep != NULL) {
            hash = mix_bytes(hash, &p, sizeof(p));
            hash = mix_bytes(hash, keep, (size_t)esp_params_at(s->params, p)->elements);
        }
    }
    return hash;
}

/* ---- identity ---- */

static json_t *graph_text(const esp_graph *graph)
{
    return graph == NULL ? json_string("none")
                         : json_sprintf("%s of %d nodes (%016" PRIx64 ")", esp_graph_name(graph),
                                        esp_graph_node_count(graph), graph_hash(graph));
}

static json_t *dataset_text(const esp_dataset *dataset)
{
    return dataset == NULL ? json_string("none")
                           : json_sprintf("%" PRId64 " images %dx%dx%d of %d classes (%016" PRIx64 ")",
                                          esp_dataset_count(dataset), esp_dataset_channels(dataset),
                                          esp_dataset_height(dataset), esp_dataset_width(dataset),
                                          esp_dataset_class_count(dataset), labels_hash(dataset));
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

/* Everything that decides the result. A missing value (memory is out) leaves its key out. */
static void describe(const esp_trainer *s, json_t *json)
{
    const esp_train_options *o = s->options;
    char augmentation[ESP_AUGMENTATION_TEXT_MAX];
    bool is_frozen = o->freezes_norm || o->norm == ESP_NORM_MODE_FROZEN;
    esp_augmentation_text(&o->augmentation, augmentation, sizeof(augmentation));
    json_object_set_new(json, "model", graph_text(s->graph));
    json_object_set_new(json, "training data", dataset_text(s->training));
    json_object_set_new(json, "validation data", dataset_text(s->validation));
    json_object_set_new(json, "masks", json_sprintf("%016" PRIx64, masks_hash(s)));
    json_object_set_new(json, "normalisation", normalization_text(&s->normalization));
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
        {"batch", (double)s->batch},
        {"momentum", o->momentum},
        {"weight decay", o->weight_decay},
        {"decay of weights only", o->decays_weights_only},
        {"Nesterov", o->uses_nesterov},
        {"dampening", o->dampening},
        {"beta1", o->beta1},
        {"beta2", o->beta2},
        {"epsilon", o->epsilon},
        {"images per epoch", (double)s->epoch_images},
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

static char *value_text(const json_t *value)
{
    return value == NULL ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(12));
}

/* Names the first thing that differs. The seed decides which images are held back, so it comes before them.
 */
static esp_status compare_identity(const json_t *now, const json_t *then, esp_error *err)
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
    esp_fail(err, ESP_MISMATCH, "the checkpoint is of another training: its %s is %.160s, found %.160s",
             different, old_text == NULL ? "missing" : old_text, new_text == NULL ? "missing" : new_text);
    esp_error_set_hint(err, "resume with the same model, data and options as before");
    free(old_text);
    free(new_text);
    return ESP_MISMATCH;
}

char *esp_trainer_identify(const esp_trainer *s)
{
    json_t *json = json_object();
    char *text = NULL;
    if (json != NULL) {
        describe(s, json);
        text = esp_json_dump(json, 1);
    }
    json_decref(json);
    return text;
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
                            : compare_identity(now, then, err);
    json_decref(then);
    json_decref(now);
    return status;
}
