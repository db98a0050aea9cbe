/* A study on disk: DIR/study.db (SQLite, write-ahead log) with one row per version and a journal of actions,
 * and DIR/versions/NNNN.onnx, the models, which any ONNX tool can open.
 *
 * Order of writing: the model's file first (complete or not at all), its row after. So every row has its
 * file; a file without a row is left over from a crash, is ignored, and is replaced when its number comes up
 * again. */
#ifndef ESP_STUDY_STORE_H
#define ESP_STUDY_STORE_H

#include "study/version.h"

typedef struct esp_store esp_store;

/* Opens a study, or starts one in a new or empty directory. Two programs may read the same study; writers
 * wait for each other. ESP_UNSUPPORTED for a study of a later format; ESP_FORMAT for a study.db that is none.
 */
esp_status esp_store_open(const char *directory, esp_store **out, esp_error *err);
void esp_store_close(esp_store *store); /* NULL is allowed */

/* Writes a version with its graph. An id that exists is ESP_STATE. */
esp_status esp_store_add(esp_store *store, const esp_study_version *version, esp_error *err);

/* New metrics of a version that is there. */
esp_status esp_store_set_metrics(esp_store *store, int id, const esp_metrics *metrics, esp_error *err);

/* Which version the user was at; 0 when none was recorded. */
esp_status esp_store_set_current(esp_store *store, int id, esp_error *err);
int esp_store_current(esp_store *store);

/* A named text of the study, replaced (NULL: removed); `*out` (esp_free) is NULL when there is none. Names of
 * settings are this program's. */
esp_status esp_store_set_setting(esp_store *store, const char *name, const char *value, esp_error *err);
esp_status esp_store_setting(esp_store *store, const char *name, char **out, esp_error *err);

/* All versions without their graphs; `*out` is NULL for a new study (NULL is the empty list). */
esp_status esp_store_versions(esp_store *store, esp_versions **out, esp_error *err);

/* The model of a version. */
esp_status esp_store_graph(esp_store *store, int id, esp_graph **out, esp_error *err);

/* Adds a line to the journal: what was done (one word) and its details (one line of JSON). */
esp_status esp_store_journal(esp_store *store, const char *action, const char *detail, esp_error *err);
int64_t esp_store_journal_count(esp_store *store);

#endif
