#include "fuzz/scratch_files.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char directory[256];

static void remove_directory(void)
{
    DIR *entries = opendir(directory);
    char path[768];

    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        if (entry->d_name[0] != '.')
            unlink(path);
    }
    if (entries)
        closedir(entries);
    rmdir(directory);
}

const char *fuzz_directory(void)
{
    const char *base = getenv("TMPDIR");

    if (directory[0])
        return directory;
    snprintf(directory, sizeof directory, "%s/espalier-fuzz-XXXXXX",
             base && strlen(base) < 200 ? base : "/tmp");
    if (!mkdtemp(directory))
        abort();
    atexit(remove_directory);
    return directory;
}

void fuzz_write(const char *name, const void *data, size_t size)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", fuzz_directory(), name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0)
        abort();
}
