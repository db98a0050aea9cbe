/* The study on disk. SQLite gives atomic rows; base/file.h gives atomic model files (through the ONNX
 * writer). The schema's number is in user_version, so that a later program can migrate and an earlier one can
 * refuse. */
#include "study/store.h"

#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "io/onnx.h"

#define SCHEMA_NUMBER 1
#define BUSY_WAIT_MS  2000

static const char schema[] =
    "BEGIN IMMEDIATE;"
    "CREATE TABLE IF NOT EXISTS version (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES version(id), "
    "title TEXT NOT NULL,"
    " how TEXT NOT NULL, metrics TEXT NOT NULL, created TEXT NOT NULL);"
    "CREATE TABLE IF NOT EXISTS journal (id INTEGER PRIMARY KEY, at TEXT NOT NULL DEFAULT "
    "(strftime('%Y-%m-%dT%H:%M:%SZ','now')),"
    " action TEXT NOT NULL, detail TEXT NOT NULL);"
    "CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);"
    "PRAGMA user_version = 1;"
    "COMMIT;";

struct esp_store {
    char *directory;
    sqlite3 *db;
};

static esp_status fail_db(const esp_store *store, const char *what, esp_error *err)
{
    int code = store->db ? sqlite3_errcode(store->db) : SQLITE_NOMEM;
    esp_status status = code == SQLITE_NOMEM                              ? ESP_NO_MEMORY
                        : code == SQLITE_NOTADB || code == SQLITE_CORRUPT ? ESP_FORMAT
                                                                          : ESP_IO;

    return esp_fail(err, status, "%s/study.db: cannot %s: %s", store->directory, what,
                    store->db ? sqlite3_errmsg(store->db) : "out of memory");
}

/* ---- opening ---- */

static esp_status read_schema_number(esp_store *store, int *out, esp_error *err)
{
    sqlite3_stmt *statement = NULL;
    esp_status status = ESP_OK;

    if (sqlite3_prepare_v2(store->db, "PRAGMA user_version", -1, &statement, NULL) != SQLITE_OK ||
        sqlite3_step(statement) != SQLITE_ROW)
        status = fail_db(store, "read the study", err);
    else
        *out = sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    return status;
}

static esp_status prepare_schema(esp_store *store, esp_error *err)
{
    int number = 0;
    esp_status status = read_schema_number(store, &number, err);

    if (status != ESP_OK)
        return status;
    if (number > SCHEMA_NUMBER)
        return esp_fail(err, ESP_UNSUPPORTED, "%s/study.db: study format %d, expected at most %d",
                        store->directory, number, SCHEMA_NUMBER);
    if (sqlite3_exec(store->db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;", NULL, NULL,
                     NULL) != SQLITE_OK)
        return fail_db(store, "open the study", err);
    if (number < SCHEMA_NUMBER && sqlite3_exec(store->db, schema, NULL, NULL, NULL) != SQLITE_OK)
        return fail_db(store, "start the study", err);
    return ESP_OK;
}

esp_status esp_store_open(const char *directory, esp_store **out, esp_error *err)
{
    esp_store *store = esp_alloc_zero(1, sizeof *store);
    char *versions = esp_path_join(directory, "versions");
    char *database = esp_path_join(directory, "study.db");
    esp_status status = ESP_OK;

    *out = NULL;
    if (store)
        store->directory = esp_strdup(directory);
    if (!store || !store->directory || !versions || !database)
        status = esp_fail_memory(err, "study", sizeof *store);
    if (status == ESP_OK)
        status = esp_directory_make(versions, err);
    if (status == ESP_OK && sqlite3_open(database, &store->db) != SQLITE_OK)
        status = fail_db(store, "open the study", err);
    if (status == ESP_OK) {
        sqlite3_busy_timeout(store->db, BUSY_WAIT_MS);
        status = prepare_schema(store, err);
    }
    esp_free(versions);
    esp_free(database);
    if (status != ESP_OK) {
        esp_store_close(store);
        return status;
    }
    *out = store;
    return ESP_OK;
}

void esp_store_close(esp_store *store)
{
    if (!store)
        return;
    sqlite3_close(store->db);
    esp_free(store->directory);
    esp_free(store);
}

/* ---- files ---- */

static char *version_path(const esp_store *store, int id)
{
    char name[32];

    snprintf(name, sizeof name, "versions/%04d.onnx", id);
    return esp_path_join(store->directory, name);
}

static esp_status write_graph(const esp_store *store, const esp_study_version *version, esp_error *err)
{
    char *path = version_path(store, version->id);
    esp_status status = path ? esp_onnx_save(version->graph, path, err) : esp_fail_memory(err, "path", 64);

    esp_free(path);
    return status;
}

esp_status esp_store_graph(esp_store *store, int id, esp_graph **out, esp_error *err)
{
    char *path = version_path(store, id);
    esp_status status;

    *out = NULL;
    status = path ? esp_onnx_load(path, out, err) : esp_fail_memory(err, "path", 64);
    esp_free(path);
    return status;
}

/* ---- rows ---- */

/* Runs one statement whose parameters are texts (NULL gives SQL NULL). */
static esp_status run_texts(esp_store *store, const char *sql, const char *const *texts, int count,
                            const char *what, esp_error *err)
{
    sqlite3_stmt *statement = NULL;
    esp_status status = ESP_OK;
    int code = sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL);

    for (int i = 0; code == SQLITE_OK && i < count; i++)
        code = texts[i] ? sqlite3_bind_text(statement, i + 1, texts[i], -1, SQLITE_STATIC)
                        : sqlite3_bind_null(statement, i + 1);
    if (code != SQLITE_OK || sqlite3_step(statement) != SQLITE_DONE)
        status = fail_db(store, what, err);
    sqlite3_finalize(statement);
    return status;
}

static esp_status metrics_text(const esp_metrics *metrics, char **out, esp_error *err)
{
    json_t *json = NULL;
    esp_status status = esp_metrics_to_json(metrics, &json, err);

    *out = status == ESP_OK ? esp_json_dump(json, 1) : NULL;
    json_decref(json);
    if (status == ESP_OK && !*out)
        status = esp_fail_memory(err, "metrics", sizeof *metrics);
    return status;
}

static esp_status has_version(esp_store *store, int id, bool *out, esp_error *err)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(store->db, "SELECT 1 FROM version WHERE id = ?", -1, &statement, NULL);

    if (code == SQLITE_OK && (code = sqlite3_bind_int(statement, 1, id)) == SQLITE_OK)
        code = sqlite3_step(statement);
    *out = code == SQLITE_ROW;
    sqlite3_finalize(statement);
    return code == SQLITE_ROW || code == SQLITE_DONE ? ESP_OK : fail_db(store, "look up a version", err);
}

esp_status esp_store_add(esp_store *store, const esp_study_version *version, esp_error *err)
{
    char id[16], parent[16];
    char *metrics = NULL;
    bool exists = false;
    esp_status status = has_version(store, version->id, &exists, err);

    if (status != ESP_OK)
        return status;
    if (exists)
        return esp_fail(err, ESP_STATE, "%s: version %d exists already", store->directory, version->id);
    status = metrics_text(&version->metrics, &metrics, err);
    if (status == ESP_OK)
        status = write_graph(store, version, err);
    if (status == ESP_OK) {
        snprintf(id, sizeof id, "%d", version->id);
        snprintf(parent, sizeof parent, "%d", version->parent);
        const char *texts[] = {id,
                               version->parent > 0 ? parent : NULL,
                               version->title,
                               version->how ? version->how : "{}",
                               metrics,
                               version->created};
        status = run_texts(
            store, "INSERT INTO version (id, parent, title, how, metrics, created) VALUES (?,?,?,?,?,?)",
            texts, 6, "write a version", err);
    }
    esp_free(metrics);
    return status;
}

esp_status esp_store_set_metrics(esp_store *store, int id, const esp_metrics *metrics, esp_error *err)
{
    char number[16];
    char *text = NULL;
    esp_status status = metrics_text(metrics, &text, err);

    snprintf(number, sizeof number, "%d", id);
    if (status == ESP_OK) {
        const char *texts[] = {text, number};
        status =
            run_texts(store, "UPDATE version SET metrics = ? WHERE id = ?", texts, 2, "write metrics", err);
    }
    if (status == ESP_OK && sqlite3_changes(store->db) == 0)
        status = esp_fail(err, ESP_INVALID, "%s: there is no version %d", store->directory, id);
    esp_free(text);
    return status;
}

esp_status esp_store_set_current(esp_store *store, int id, esp_error *err)
{
    char number[16];
    const char *texts[] = {number};

    snprintf(number, sizeof number, "%d", id);
    return run_texts(store, "INSERT OR REPLACE INTO setting (name, value) VALUES ('current', ?)", texts, 1,
                     "record the current version", err);
}

esp_status esp_store_set_setting(esp_store *store, const char *name, const char *value, esp_error *err)
{
    const char *texts[] = {name, value};

    return value ? run_texts(store, "INSERT OR REPLACE INTO setting (name, value) VALUES (?,?)", texts, 2,
                             "write a setting", err)
                 : run_texts(store, "DELETE FROM setting WHERE name = ?", texts, 1, "remove a setting", err);
}

esp_status esp_store_setting(esp_store *store, const char *name, char **out, esp_error *err)
{
    sqlite3_stmt *statement = NULL;
    esp_status status = ESP_OK;
    int code =
        sqlite3_prepare_v2(store->db, "SELECT value FROM setting WHERE name = ?", -1, &statement, NULL);

    *out = NULL;
    if (code == SQLITE_OK && (code = sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC)) == SQLITE_OK)
        code = sqlite3_step(statement);
    if (code == SQLITE_ROW) {
        const char *value = (const char *)sqlite3_column_text(statement, 0);
        *out = esp_strdup(value ? value : "");
        status = *out ? ESP_OK : esp_fail_memory(err, "setting", 64);
    } else if (code != SQLITE_DONE) {
        status = fail_db(store, "read a setting", err);
    }
    sqlite3_finalize(statement);
    return status;
}

static int64_t read_number(esp_store *store, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    int64_t number = 0;

    if (sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW)
        number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return number;
}

int esp_store_current(esp_store *store)
{
    return (int)read_number(store, "SELECT CAST(value AS INTEGER) FROM setting WHERE name = 'current'");
}

esp_status esp_store_journal(esp_store *store, const char *action, const char *detail, esp_error *err)
{
    const char *texts[] = {action, detail ? detail : "{}"};

    return run_texts(store, "INSERT INTO journal (action, detail) VALUES (?,?)", texts, 2,
                     "write the journal", err);
}

int64_t esp_store_journal_count(esp_store *store)
{
    return read_number(store, "SELECT count(*) FROM journal");
}

/* ---- reading all versions ---- */

static void copy_column(sqlite3_stmt *statement, int column, char *target, size_t size)
{
    const unsigned char *text = sqlite3_column_text(statement, column);

    snprintf(target, size, "%s", text ? (const char *)text : "");
}

/* Columns: id, parent, title, how, metrics, created. */
static esp_status read_version(const esp_store *store, sqlite3_stmt *statement, esp_study_version *out,
                               esp_error *err)
{
    const char *metrics = (const char *)sqlite3_column_text(statement, 4);
    const char *how = (const char *)sqlite3_column_text(statement, 3);
    json_t *json = NULL;
    esp_status status;

    memset(out, 0, sizeof *out);
    out->id = sqlite3_column_int(statement, 0);
    out->parent = sqlite3_column_int(statement, 1);
    copy_column(statement, 2, out->title, sizeof out->title);
    copy_column(statement, 5, out->created, sizeof out->created);
    out->is_saved = true;
    status = esp_json_parse(metrics ? metrics : "", "metrics", &json, err);
    if (status == ESP_OK)
        status = esp_metrics_from_json(json, &out->metrics, err);
    json_decref(json);
    if (status != ESP_OK) {
        esp_error_prefix(err, "%s/study.db: version %d", store->directory, out->id);
        return status;
    }
    out->how = esp_strdup(how ? how : "{}");
    return out->how ? ESP_OK : esp_fail_memory(err, "version", 64);
}

esp_status esp_store_versions(esp_store *store, esp_versions **out, esp_error *err)
{
    static const char sql[] = "SELECT id, parent, title, how, metrics, created FROM version ORDER BY id";
    esp_versions *versions = NULL;
    sqlite3_stmt *statement = NULL;
    esp_status status = ESP_OK;
    int code = sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL);

    *out = NULL;
    while (code == SQLITE_OK && status == ESP_OK && sqlite3_step(statement) == SQLITE_ROW) {
        esp_study_version version;
        esp_versions *longer = NULL;
        status = read_version(store, statement, &version, err);
        if (status == ESP_OK)
            status = esp_versions_with(versions, &version, &longer, err);
        if (status == ESP_OK) {
            esp_shared_unref(versions);
            versions = longer;
        }
        esp_version_clear(&version);
    }
    if (status == ESP_OK && sqlite3_errcode(store->db) != SQLITE_OK &&
        sqlite3_errcode(store->db) != SQLITE_DONE)
        status = fail_db(store, "read the versions", err);
    sqlite3_finalize(statement);
    if (status != ESP_OK) {
        esp_shared_unref(versions);
        return status;
    }
    *out = versions;
    return ESP_OK;
}
