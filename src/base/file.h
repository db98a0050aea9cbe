/* Files: whole-file reading (plain or gzip), and writing that leaves the old file or the new one, never half.
 */
#ifndef ESP_BASE_FILE_H
#define ESP_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/status.h"

/* The whole of a file or pipe. `*out_data` is owned by the caller (esp_free) and followed by a zero byte.
 * Directories and unreadable files are ESP_IO with the system's reason. */
esp_status esp_file_read(const char *path, char **out_data, size_t *out_size, esp_error *err);

/* The same through zlib: reads gzip and plain files alike; a damaged or truncated gzip stream is ESP_FORMAT.
 * More than `limit` bytes of content is ESP_FORMAT (a guard against decompression bombs). */
esp_status esp_file_read_gz(const char *path, size_t limit, char **out_data, size_t *out_size,
                            esp_error *err);

bool esp_file_exists(const char *path);
bool esp_file_is_directory(const char *path);

/* A file being written under a temporary name in the directory of `path`. */
typedef struct esp_file_writer esp_file_writer;

/* Fails at once when the directory does not exist or cannot be written. */
esp_status esp_file_writer_open(const char *path, esp_file_writer **out, esp_error *err);
FILE *esp_file_writer_stream(esp_file_writer *writer);

/* Flushes, syncs, renames over `path`. Frees the writer whatever happens; on failure `path` is untouched. */
esp_status esp_file_writer_commit(esp_file_writer *take_writer, esp_error *err);

/* Removes the temporary file and frees the writer; NULL is allowed. */
void esp_file_writer_discard(esp_file_writer *take_writer);

/* Open, write, commit in one go. */
esp_status esp_file_write(const char *path, const void *data, size_t size, esp_error *err);

/* Creates a directory and its parents; existing ones are fine. */
esp_status esp_directory_make(const char *path, esp_error *err);

/* "dir/name" in a new string (esp_free); NULL when memory is out. */
char *esp_path_join(const char *directory, const char *name);

/* Pointer to the part after the last '/'. */
const char *esp_path_base(const char *path);

/* The part before the last '/' in a new string (esp_free): "." when there is no '/', "/" for what lies in the
 * root; NULL when memory is out. */
char *esp_path_directory(const char *path);

#endif
