/* Files. A file is written under a temporary name in its own directory (a rename across file systems is not
 * atomic), synced, renamed, and the directory synced, so that a crash leaves the old content or the new one.
 */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/text.h"

struct esp_file_writer {
    char *path;           /* where the content goes */
    char *temporary_path; /* where it is until then */
    FILE *stream;
};

/* Opens for reading what is not a directory; -1 and `err` otherwise. */
static int open_for_reading(const char *path, struct stat *info, esp_error *err)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);

    if (descriptor < 0) {
        esp_fail(err, ESP_IO, "%s: %s", path, strerror(errno));
        return -1;
    }
    if (fstat(descriptor, info) != 0 || S_ISDIR(info->st_mode)) {
        esp_fail(err, ESP_IO, "%s: %s", path, S_ISDIR(info->st_mode) ? "Is a directory" : strerror(errno));
        close(descriptor);
        return -1;
    }
    return descriptor;
}

/* Room for one more read: at least 1 byte beyond `size`, and the final zero. */
static esp_status grow_buffer(const char *path, char **data, size_t size, size_t *capacity, esp_error *err)
{
    size_t wanted = *capacity < 65536 ? 65536 : *capacity * 2;
    char *grown = wanted > *capacity ? esp_realloc(*data, size, wanted, 1) : NULL;

    if (!grown)
        return esp_fail_memory(err, path, wanted);
    *data = grown;
    *capacity = wanted;
    return ESP_OK;
}

esp_status esp_file_read(const char *path, char **out_data, size_t *out_size, esp_error *err)
{
    esp_status status = ESP_OK;
    struct stat info;
    int descriptor = open_for_reading(path, &info, err);
    size_t size = 0, capacity;
    char *data;

    *out_data = NULL;
    if (descriptor < 0)
        return ESP_IO;
    /* The size is a hint: the file may change while it is read, and /proc files say 0. */
    capacity = info.st_size > 0 ? (size_t)info.st_size + 2 : 4096;
    data = esp_alloc(capacity, 1);
    if (!data)
        status = esp_fail_memory(err, path, capacity);
    while (status == ESP_OK) {
        ssize_t count;

        if (capacity - size < 2) {
            status = grow_buffer(path, &data, size, &capacity, err);
            continue;
        }
        count = read(descriptor, data + size, capacity - size - 1);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            status = esp_fail(err, ESP_IO, "%s: %s", path, strerror(errno));
        if (count <= 0)
            break;
        size += (size_t)count;
    }
    close(descriptor);
    if (status != ESP_OK) {
        esp_free(data);
        return status;
    }
    data[size] = '\0';
    *out_data = data;
    *out_size = size;
    return ESP_OK;
}

/* Reads the opened stream to its end. */
static esp_status read_stream(gzFile stream, const char *path, size_t limit, char **data, size_t *size,
                              esp_error *err)
{
    size_t capacity = 0;

    for (;;) {
        unsigned wanted;
        int count, zlib_error;

        if (capacity - *size < 2) {
            esp_status status = grow_buffer(path, data, *size, &capacity, err);
            if (status != ESP_OK)
                return status;
        }
        wanted = capacity - *size - 1 < INT_MAX ? (unsigned)(capacity - *size - 1) : (unsigned)INT_MAX;
        errno = 0;
        count = gzread(stream, *data + *size, wanted);
        if (count <= 0) {
            /* gzread says 0 at the end of a stream that was cut off too; gzerror knows better. */
            const char *reason = gzerror(stream, &zlib_error);

            if (zlib_error == Z_ERRNO)
                return esp_fail(err, ESP_IO, "%s: %s", path, strerror(errno));
            if (zlib_error == Z_MEM_ERROR)
                return esp_fail_memory(err, path, wanted);
            if (zlib_error != Z_OK && zlib_error != Z_STREAM_END)
                return esp_fail(err, ESP_FORMAT, "%s: damaged or truncated gzip data after %zu bytes (%s)",
                                path, *size, zlib_error == Z_BUF_ERROR ? "unexpected end of file" : reason);
            (*data)[*size] = '\0';
            return ESP_OK;
        }
        *size += (size_t)count;
        if (*size > limit)
            return esp_fail(err, ESP_FORMAT, "%s: more than %zu bytes of content, expected at most that",
                            path, limit);
    }
}

esp_status esp_file_read_gz(const char *path, size_t limit, char **out_data, size_t *out_size, esp_error *err)
{
    struct stat info;
    int descriptor = open_for_reading(path, &info, err);
    char *data = NULL;
    size_t size = 0;
    gzFile stream;
    esp_status status;

    *out_data = NULL;
    if (descriptor < 0)
        return ESP_IO;
    stream = gzdopen(descriptor, "rb");
    if (!stream) {
        close(descriptor);
        return esp_fail_memory(err, path, 1);
    }
    gzbuffer(stream, 1u << 17);
    status = read_stream(stream, path, limit, &data, &size, err);
    gzclose(stream);
    if (status != ESP_OK) {
        esp_free(data);
        return status;
    }
    *out_data = data;
    *out_size = size;
    return ESP_OK;
}

bool esp_file_exists(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0;
}

bool esp_file_is_directory(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* Follows symbolic links, so that a link to a model stays a link and its target is replaced. */
static char *final_path(const char *path)
{
    char *resolved = realpath(path, NULL);
    char *copy = esp_strdup(resolved ? resolved : path);

    free(resolved);
    return copy;
}

/* Creates a file of its own in the directory of the final one. Sets `temporary_path` only when it exists. */
static esp_status create_temporary(esp_file_writer *writer, int *out_descriptor, esp_error *err)
{
    char *directory = esp_path_directory(writer->path);
    esp_status status = ESP_OK;
    int descriptor = -1;

    if (!directory)
        return esp_fail_memory(err, writer->path, strlen(writer->path));
    for (int attempt = 0; descriptor < 0 && status == ESP_OK; attempt++) {
        /* A short name, since the final one may already be as long as a name can be. */
        long long unique = (long long)(1e9 * esp_clock_s()) + attempt;
        esp_text name = {0};

        esp_text_printf(&name, "%s/.espalier-%ld-%llx.tmp", directory, (long)getpid(), unique);
        writer->temporary_path = esp_text_take(&name);
        if (!writer->temporary_path) {
            status = esp_fail_memory(err, writer->path, strlen(directory));
            break;
        }
        /* Mode 0666 less the umask, as for any new file. */
        descriptor = open(writer->temporary_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor < 0) {
            esp_free(writer->temporary_path);
            writer->temporary_path = NULL;
            if (errno != EEXIST || attempt > 100)
                status = esp_fail(err, ESP_IO, "%s: cannot write: %s", writer->path, strerror(errno));
        }
    }
    esp_free(directory);
    *out_descriptor = descriptor;
    return status;
}

/* Refuses what a rename would destroy: a directory, a device, a pipe. */
static esp_status check_target(const char *path, struct stat *old, bool *is_there, esp_error *err)
{
    if (path[0] == '\0')
        return esp_fail(err, ESP_IO, "cannot write: the path is empty, expected the name of a file");
    *is_there = stat(path, old) == 0;
    if (esp_path_base(path)[0] == '\0' || (*is_there && S_ISDIR(old->st_mode)))
        return esp_fail(err, ESP_IO, "%s: cannot write: it names a directory, expected a file", path);
    if (*is_there && !S_ISREG(old->st_mode))
        return esp_fail(err, ESP_IO, "%s: cannot write: it is a device or pipe, expected a regular file",
                        path);
    return ESP_OK;
}

esp_status esp_file_writer_open(const char *path, esp_file_writer **out, esp_error *err)
{
    esp_file_writer *writer;
    struct stat old;
    bool is_there = false;
    int descriptor = -1;
    esp_status status;

    *out = NULL;
    status = check_target(path, &old, &is_there, err);
    if (status != ESP_OK)
        return status;
    writer = esp_alloc_zero(1, sizeof *writer);
    if (!writer)
        return esp_fail_memory(err, path, sizeof *writer);
    writer->path = final_path(path);
    if (!writer->path)
        status = esp_fail_memory(err, path, strlen(path));
    if (status == ESP_OK)
        status = create_temporary(writer, &descriptor, err);
    if (status == ESP_OK) {
        writer->stream = fdopen(descriptor, "wb");
        if (!writer->stream) {
            close(descriptor);
            status = esp_fail_memory(err, path, sizeof *writer->stream);
        }
    }
    if (status != ESP_OK) {
        esp_file_writer_discard(writer);
        return status;
    }
    /* A replaced file keeps its permissions; that they cannot be set is no reason to lose the content. */
    if (is_there && fchmod(descriptor, old.st_mode & 0777u) != 0)
        errno = 0;
    *out = writer;
    return ESP_OK;
}

FILE *esp_file_writer_stream(esp_file_writer *writer)
{
    return writer->stream;
}

/* Makes the rename itself durable. Some file systems cannot sync a directory: the content is safe even so. */
static void sync_directory(const char *path)
{
    char *directory = esp_path_directory(path);
    int descriptor = directory ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

    if (descriptor >= 0) {
        fsync(descriptor);
        close(descriptor);
    }
    esp_free(directory);
}

esp_status esp_file_writer_commit(esp_file_writer *take_writer, esp_error *err)
{
    esp_file_writer *writer = take_writer;
    bool is_written = !ferror(writer->stream);
    const char *reason = "an earlier write failed, is the disk full?"; /* the stream does not keep why */

    if (is_written && (fflush(writer->stream) != 0 || fsync(fileno(writer->stream)) != 0)) {
        is_written = false;
        reason = strerror(errno);
    }
    if (fclose(writer->stream) != 0 && is_written) {
        is_written = false;
        reason = strerror(errno);
    }
    writer->stream = NULL;
    if (is_written && rename(writer->temporary_path, writer->path) != 0) {
        is_written = false;
        reason = strerror(errno);
    }
    if (is_written) {
        esp_free(writer->temporary_path);
        writer->temporary_path = NULL;
        sync_directory(writer->path);
    } else {
        esp_fail(err, ESP_IO, "%s: cannot write: %s", writer->path, reason);
    }
    esp_file_writer_discard(writer);
    return is_written ? ESP_OK : ESP_IO;
}

void esp_file_writer_discard(esp_file_writer *take_writer)
{
    if (!take_writer)
        return;
    if (take_writer->stream)
        fclose(take_writer->stream);
    if (take_writer->temporary_path)
        unlink(take_writer->temporary_path);
    esp_free(take_writer->temporary_path);
    esp_free(take_writer->path);
    esp_free(take_writer);
}

esp_status esp_file_write(const char *path, const void *data, size_t size, esp_error *err)
{
    esp_file_writer *writer;
    esp_status status = esp_file_writer_open(path, &writer, err);

    if (status != ESP_OK)
        return status;
    errno = 0;
    if (size > 0 && fwrite(data, 1, size, writer->stream) != size) {
        status = esp_fail(err, ESP_IO, "%s: cannot write: %s", path, strerror(errno));
        esp_file_writer_discard(writer);
        return status;
    }
    return esp_file_writer_commit(writer, err);
}

esp_status esp_directory_make(const char *path, esp_error *err)
{
    char *copy = esp_strdup(path);
    esp_status status = ESP_OK;

    if (!copy)
        return esp_fail_memory(err, path, strlen(path));
    if (copy[0] == '\0')
        status = esp_fail(err, ESP_IO, "cannot make a directory: the path is empty");
    for (char *at = copy + 1; status == ESP_OK && at[-1] != '\0'; at++) {
        char kept = *at;

        if (kept != '/' && kept != '\0')
            continue;
        *at = '\0';
        if (mkdir(copy, 0777) != 0 && !esp_file_is_directory(copy))
            status = esp_fail(err, ESP_IO, "%s: cannot make the directory: %s", copy, strerror(errno));
        *at = kept;
    }
    esp_free(copy);
    return status;
}

char *esp_path_join(const char *directory, const char *name)
{
    esp_text path = {0};
    size_t length = strlen(directory);

    esp_text_append(&path, directory);
    if (length > 0 && directory[length - 1] != '/')
        esp_text_append(&path, "/");
    esp_text_append(&path, name);
    return esp_text_take(&path);
}

const char *esp_path_base(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

char *esp_path_directory(const char *path)
{
    const char *base = esp_path_base(path);

    if (base == path)
        return esp_strdup(".");
    return esp_strndup(path, base - path > 1 ? (size_t)(base - path - 1) : 1);
}
