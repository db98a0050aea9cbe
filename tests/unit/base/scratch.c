/* Deliberately without any code under test. */
#include "unit/base/scratch.h"

#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *scratch_make(void)
{
    const char *parent = getenv("TMPDIR");
    char *directory = malloc(4096);

    assert_non_null(directory);
    snprintf(directory, 4096, "%s/espalier-test-XXXXXX", parent && *parent ? parent : "/tmp");
    assert_non_null(mkdtemp(directory));
    return directory;
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *place)
{
    (void)info;
    (void)type;
    (void)place;
    return remove(path);
}

void scratch_remove(char *take_directory)
{
    if (take_directory)
        nftw(take_directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(take_directory);
}

const char *scratch_path(const char *directory, const char *name)
{
    static char buffers[8][4096];
    static int next;
    char *buffer = buffers[next++ % 8];

    snprintf(buffer, sizeof buffers[0], "%s/%s", directory, name);
    return buffer;
}

void scratch_write(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

char *scratch_read(const char *path, size_t *out_size)
{
    FILE *file = fopen(path, "rb");
    struct stat info;
    char *data;

    assert_non_null(file);
    assert_int_equal(fstat(fileno(file), &info), 0);
    data = malloc((size_t)info.st_size + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, (size_t)info.st_size, file), info.st_size);
    data[info.st_size] = '\0';
    fclose(file);
    if (out_size)
        *out_size = (size_t)info.st_size;
    return data;
}

int scratch_count(const char *directory)
{
    DIR *stream = opendir(directory);
    int count = 0;

    assert_non_null(stream);
    for (const struct dirent *entry; (entry = readdir(stream));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            count++;
    closedir(stream);
    return count;
}

const char *shared_directory(void)
{
    const char *directory = getenv("ESPALIER_SHARED");

    if (!directory || !*directory)
        directory = ESP_SOURCE_DIR "/../shared";
    if (access(directory, R_OK) == 0)
        return directory;
    printf("skipped: no directory %s with models and data (set ESPALIER_SHARED)\n", directory);
    return NULL;
}
