/* Checkpoints of a session's training: DIR/training.ckpt in a study, a file in a temporary directory of the
 * session without one.
 *
 * The file holds all that is needed to go on: the trainer's state, and beside it the version, the options,
 * the data and the curve. The study's setting "unfinished" says that there is such a training, and has its
 * curve again, so that opening a study need not read the file. Order: the setting goes before the file does,
 * and comes after it; so what is offered is there. DIR/training.lock is locked while a training runs: another
 * program in the same study neither offers that training nor writes over its file. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "io/checkpoint.h"
#include "study/session_internal.h"

#define FILE_NAME          "training.ckpt"
#define LOCK_NAME          "training.lock"
#define BLOCK_NAME         "study/training"
#define UNFINISHED_SETTING "unfinished"
#define OPTIONS_SETTING    "finetune"

typedef struct esp_keeper {
    char *directory, *path;
    bool is_temporary;
    int lock;        /* descriptor; -1: not locked */
    bool is_keeping; /* a training runs whose checkpoints go to `path` */
    bool has_failed; /* said already */
    int version;
    esp_finetune options;
} esp_keeper;

/* ---- places ---- */

static char *make_temporary(void)
{
    const char *base = getenv("TMPDIR");
    char *directory = esp_path_join(base && base[0] ? base : "/tmp", "espalier-XXXXXX");

    if (directory && !mkdtemp(directory)) {
        esp_free(directory);
        return NULL;
    }
    return directory;
}

static esp_keeper *keeper_of(esp_session *session)
{
    esp_keeper *keeper = session->keeper;

    if (keeper)
        return keeper;
    keeper = esp_alloc_zero(1, sizeof *keeper);
    if (!keeper)
        return NULL;
    keeper->lock = -1;
    keeper->is_temporary = !session->study_directory;
    keeper->directory = session->study_directory ? esp_strdup(session->study_directory) : make_temporary();
    keeper->path = keeper->directory ? esp_path_join(keeper->directory, FILE_NAME) : NULL;
    session->keeper = keeper;
    if (!keeper->path) {
        esp_session_keep_free(session);
        return NULL;
    }
    return keeper;
}

static void unlock(esp_keeper *keeper)
{
    if (keeper->lock >= 0)
        close(keeper->lock);
    keeper->lock = -1;
}

/* False when another program has it; true also where files cannot be locked at all. */
static bool lock(esp_keeper *keeper)
{
    char *path = keeper->is_temporary ? NULL : esp_path_join(keeper->directory, LOCK_NAME);

    if (!path || keeper->lock >= 0)
        return true;
    keeper->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    esp_free(path);
    if (keeper->lock >= 0 && flock(keeper->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        unlock(keeper);
        return false;
    }
    return true;
}

void esp_session_keep_free(esp_session *session)
{
    esp_keeper *keeper = session->keeper;

    if (!keeper)
        return;
    unlock(keeper);
    if (keeper->is_temporary && keeper->directory) {
        if (keeper->path)
            unlink(keeper->path);
        rmdir(keeper->directory);
    }
    esp_free(keeper->path);
    esp_free(keeper->directory);
    esp_free(keeper);
    session->keeper = NULL;
}

/* ---- the study's settings ---- */

static esp_status put_setting(esp_session *session, const char *name, json_t *take_value, esp_error *err)
{
    char *text = take_value ? esp_json_dump(take_value, 1) : NULL;
    esp_status status = take_value && !text ? esp_fail_memory(err, "setting", 64) : ESP_OK;

    json_decref(take_value);
    if (status == ESP_OK && session->store)
        status = esp_store_set_setting(session->store, name, text, err);
    esp_free(text);
    return status;
}

static json_t *get_setting(esp_session *session, const char *name)
{
    esp_error ignored = {0};
    char *text = NULL;
    json_t *json = NULL;

    if (esp_store_setting(session->store, name, &text, &ignored) == ESP_OK && text)
        (void)esp_json_parse(text, name, &json, &ignored);
    esp_free(text);
    return json;
}

static void forget_unfinished(esp_session *session)
{
    esp_error ignored = {0};

    session->now.unfinished = (esp_unfinished){0};
    (void)put_setting(session, UNFINISHED_SETTING, NULL, &ignored);
    if (session->keeper)
        unlink(session->keeper->path);
}

/* The curve of the training that is offered, to be seen before anybody goes on with it. */
static void recall_curve(esp_session *session, const json_t *offer)
{
    const esp_unfinished *found = &session->now.unfinished;
    const json_t *curve = json_object_get(offer, "curve");
    esp_training_log *log = NULL;
    esp_error ignored = {0};

    if (!json_is_array(curve) ||
        esp_training_log_new(found->version, found->epochs, &log, &ignored) != ESP_OK)
        return;
    log->is_running = false;
    log->is_on_test = json_is_true(json_object_get(offer, "on_test"));
    if (esp_training_log_fill(log, curve, &ignored) != ESP_OK) {
        esp_shared_unref(log);
        return;
    }
    esp_shared_unref(session->now.training);
    session->now.training = log;
}

void esp_session_recall_training(esp_session *session)
{
    esp_keeper *keeper = keeper_of(session);
    json_t *options = get_setting(session, OPTIONS_SETTING),
           *offer = get_setting(session, UNFINISHED_SETTING);
    esp_unfinished found = {0};
    esp_error ignored = {0};

    if (options)
        (void)esp_finetune_from_json(options, &session->now.finetune, &ignored);
    if (offer)
        found = (esp_unfinished){(int)json_integer_value(json_object_get(offer, "version")),
                                 json_number_value(json_object_get(offer, "position")),
                                 json_number_value(json_object_get(offer, "epochs"))};
    if (keeper && esp_versions_find(session->now.versions, found.version) && esp_file_exists(keeper->path) &&
        lock(keeper)) {
        session->now.unfinished = found;
        unlock(keeper);
        recall_curve(session, offer);
    }
    json_decref(options);
    json_decref(offer);
}

/* ---- while a training runs ---- */

void esp_session_keep_begin(esp_session *session, int version, const esp_finetune *options, bool resumes)
{
    esp_keeper *keeper = keeper_of(session);
    esp_error err = {0};

    session->now.finetune = *options;
    (void)put_setting(session, OPTIONS_SETTING, esp_finetune_to_json(options), &err);
    if (!keeper || !lock(keeper)) {
        esp_session_say(session, keeper ? "another program trains in this study: no checkpoints of this one"
                                        : "no place for checkpoints: this training cannot be gone on with");
        return;
    }
    if (!resumes)
        forget_unfinished(session);
    keeper->is_keeping = session->now.keeps_training = true;
    keeper->has_failed = false;
    keeper->version = version;
    keeper->options = *options;
}

/* What lies beside the trainer's state. */
static esp_status describe(const esp_session *session, const esp_keeper *keeper, esp_train_state *extra,
                           esp_error *err)
{
    json_t *json = json_pack("{s:i, s:s, s:o, s:o}", "version", keeper->version, "data",
                             session->data_spec ? session->data_spec : "", "options",
                             esp_finetune_to_json(&keeper->options), "curve",
                             esp_training_log_to_json(session->now.training));
    char *text = json ? esp_json_dump(json, 1) : NULL;
    esp_status status = text ? esp_train_state_put(extra, BLOCK_NAME, text, strlen(text), err)
                             : esp_fail_memory(err, "checkpoint", 64);

    esp_free(text);
    json_decref(json);
    return status;
}

static esp_status write_checkpoint(esp_session *session, const esp_train_state *state, esp_error *err)
{
    const esp_keeper *keeper = session->keeper;
    const esp_training_log *log = session->now.training;
    esp_unfinished offer = {keeper->version, log->count > 0 ? log->points[log->count - 1].epoch : 0.0,
                            keeper->options.epochs};
    esp_train_state extra = {0};
    esp_status status = describe(session, keeper, &extra, err);

    if (status == ESP_OK)
        status = esp_checkpoint_save(keeper->path, state, &extra, err);
    if (status == ESP_OK)
        status = put_setting(session, UNFINISHED_SETTING,
                             json_pack("{s:i, s:f, s:f, s:b, s:o}", "version", offer.version, "position",
                                       offer.position, "epochs", offer.epochs, "on_test", log->is_on_test,
                                       "curve", esp_training_log_to_json(log)),
                             err);
    if (status == ESP_OK)
        session->now.unfinished = offer;
    esp_train_state_free(&extra);
    return status;
}

esp_status esp_session_keep(void *user, const esp_train_state *state, esp_error *err)
{
    esp_session *session = user;
    esp_keeper *keeper = session->keeper;
    esp_error ignored = {0};
    esp_status status;

    if (!keeper || !keeper->is_keeping)
        return ESP_OK;
    status = write_checkpoint(session, state, err);
    if (status != ESP_OK && !keeper->has_failed) {
        keeper->has_failed = true;
        esp_session_say(session, "checkpoint: %.120s; the training goes on", err->message);
        (void)esp_session_post(session, &ignored);
    }
    return status;
}

void esp_session_keep_end(esp_session *session, bool can_go_on)
{
    esp_keeper *keeper = session->keeper;

    if (!keeper || !keeper->is_keeping)
        return;
    if (!can_go_on)
        forget_unfinished(session);
    keeper->is_keeping = session->now.keeps_training = false;
    unlock(keeper);
}

/* ---- going on ---- */

static esp_status read_description(const esp_train_state *state, esp_finetune *options, char **out_data_spec,
                                   esp_training_log **out_log, esp_error *err)
{
    const esp_state_block *block = esp_train_state_find(state, BLOCK_NAME);
    json_t *json = block ? json_loadb(block->data, block->size, 0, NULL) : NULL;
    const char *spec = json_string_value(json_object_get(json, "data"));
    esp_training_log *log = NULL;
    esp_status status =
        json && spec ? ESP_OK : esp_fail(err, ESP_FORMAT, "'%s' is missing or damaged", BLOCK_NAME);

    if (status == ESP_OK)
        status = esp_finetune_from_json(json_object_get(json, "options"), options, err);
    if (status == ESP_OK)
        status = esp_training_log_new((int)json_integer_value(json_object_get(json, "version")),
                                      options->epochs, &log, err);
    if (status == ESP_OK)
        status = esp_training_log_fill(log, json_object_get(json, "curve"), err);
    if (status == ESP_OK && !(*out_data_spec = esp_strdup(spec)))
        status = esp_fail_memory(err, "data", 64);
    json_decref(json);
    if (status != ESP_OK) {
        esp_shared_unref(log);
        return status;
    }
    log->is_on_test = esp_finetune_is_on_test(options);
    *out_log = log;
    return ESP_OK;
}

esp_status esp_session_kept(esp_session *session, esp_finetune *options, char **out_data_spec,
                            esp_train_state *state, esp_training_log **out_log, esp_error *err)
{
    esp_keeper *keeper = session->keeper;
    esp_status status;

    if (!keeper || session->now.unfinished.version == 0)
        return esp_fail(err, ESP_STATE, "there is no unfinished training");
    status = esp_checkpoint_load(keeper->path, state, err);
    if (status != ESP_OK)
        return status;
    status = read_description(state, options, out_data_spec, out_log, err);
    if (status != ESP_OK) {
        esp_error_prefix(err, "%s", keeper->path);
        esp_train_state_free(state);
    }
    return status;
}
