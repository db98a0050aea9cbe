/* Any bytes as a directory of images: what is called what, which of them are directories, links, empty files
 * or images, and how the spec's options are set. Opening it gives an error or a set whose images can be asked
 * for. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz/scratch_files.h"
#include "io/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A 1x1 grey PNG. */
static const uint8_t png[] = {
    0x89, 'P',  'N',  'G',  0x0d, 0x0a, 0x1a, 0x0a, 0,    0,    0,    0x0d, 'I',  'H',  'D',  'R',  0,
    0,    0,    1,    0,    0,    0,    1,    8,    0,    0,    0,    0,    0x3a, 0x7e, 0x9b, 0x55, 0,
    0,    0,    0x0a, 'I',  'D',  'A',  'T',  0x78, 0x9c, 0x63, 0x60, 0,    0,    0,    2,    0,    1,
    0x48, 0xaf, 0xa4, 0x71, 0,    0,    0,    0,    'I',  'E',  'N',  'D',  0xae, 0x42, 0x60, 0x82};

static void remove_tree(const char *path, bool is_root)
{
    char below[1024];
    DIR *entries = opendir(path);

    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(below, sizeof below, "%s/%.255s", path, entry->d_name);
        if (unlink(below) != 0)
            remove_tree(below, false);
    }
    if (entries)
        closedir(entries);
    if (!is_root)
        rmdir(path);
}

/* One entry for every four bytes: in which of the directories made so far, called what, being what. */
static void make_entries(const char *root, const uint8_t *data, size_t size)
{
    static const char *const names[] = {"train",  "test",  "val",   "a",       "b",     ".x",
                                        "c d",    "1.png", "2.PNG", "3.jpg",   "4.gif", "\xff.png",
                                        "5.jpeg", "6.txt", "a.png", "training"};
    char directories[16][600];
    int count = 1;

    snprintf(directories[0], sizeof directories[0], "%s", root);
    for (size_t i = 0; i + 3 < size && i < 4 * 40; i += 4) {
        char path[700];
        const char *where = directories[data[i] % count];
        FILE *file;

        snprintf(path, sizeof path, "%s/%s", where, names[data[i + 1] % 16]);
        switch (data[i + 2] % 6) {
        case 0:
        case 1:
            if (strlen(path) < 500 && mkdir(path, 0755) == 0 && count < 16)
                snprintf(directories[count++], sizeof directories[0], "%.599s", path);
            break;
        case 2: /* a link to a directory above, or to nothing */
            (void)!symlink(data[i + 3] % 2 ? where : "/nowhere", path);
            break;
        case 3:
            (void)!mkfifo(path, 0644);
            break;
        default:
            file = fopen(path, "wbx"); /* never through a link */
            if (file) {
                fwrite(png, 1, data[i + 3] % 4 == 0 ? data[i + 3] / 4u : sizeof png, file);
                fclose(file);
            }
        }
    }
}

static void read_one(const esp_dataset *dataset)
{
    static float x[3 * 8 * 8];
    const uint32_t index = (uint32_t)esp_dataset_count(dataset) - 1;
    int32_t label;
    const esp_batch_labels out = {.label = &label};
    const esp_normalization normalization = {.channels = esp_dataset_channels(dataset), .std = {1, 1, 1, 1}};
    esp_error err = {0};

    if (esp_dataset_channels(dataset) * esp_dataset_height(dataset) * esp_dataset_width(dataset) > 3 * 8 * 8)
        return;
    esp_status status = esp_batch_read(NULL, dataset, &normalization, NULL, 1, 1, &index, 1, x, &out, &err);
    if (status == ESP_OK ? label < 0 || label >= esp_dataset_class_count(dataset) : err.message[0] == '\0')
        __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const options[] = {"", "?skip-bad", "?test=0.5", "?val=0.3,skip-bad,crop=4"};
    char spec[400];

    if (size < 2)
        return 0;
    make_entries(fuzz_directory(), data + 1, size - 1);
    snprintf(spec, sizeof spec, "folder:%s%s", fuzz_directory(), options[data[0] % 4]);
    for (int split = ESP_SPLIT_TRAIN; split <= ESP_SPLIT_VALIDATION; split++) {
        esp_dataset *dataset = NULL;
        esp_error err = {0};

        if (esp_dataset_open(spec, (esp_split)split, &dataset, &err) == ESP_OK) {
            read_one(dataset);
            esp_dataset_unref(dataset);
        } else if (err.message[0] == '\0') {
            __builtin_trap();
        }
    }
    remove_tree(fuzz_directory(), true);
    return 0;
}
