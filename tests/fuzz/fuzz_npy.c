/* Any bytes as a pair of .npy files. The first two bytes say how many of the rest are the classes; what is
 * left are the images, which are read too. */
#include <stdint.h>
#include <stdio.h>

#include "fuzz/scratch_files.h"
#include "io/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_some(const esp_dataset *dataset)
{
    static float x[1 << 16];
    esp_error err = {0};
    int64_t values =
        (int64_t)esp_dataset_channels(dataset) * esp_dataset_height(dataset) * esp_dataset_width(dataset);
    int64_t count = esp_dataset_count(dataset) < 4 ? esp_dataset_count(dataset) : 4;
    const uint32_t indices[] = {0, 1, 2, 3};
    int32_t labels[4];
    esp_normalization normalization = {.channels = esp_dataset_channels(dataset)};

    if (values > (int64_t)(sizeof x / sizeof x[0]) / 4)
        return;
    for (int c = 0; c < normalization.channels; c++)
        normalization.std[c] = 1;
    const esp_batch_labels out = {.label = labels};
    if (esp_batch_read(NULL, dataset, &normalization, NULL, 1, 1, indices, count, x, &out, &err) != ESP_OK &&
        err.message[0] == '\0')
        __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const options[] = {"", "?layout=nhwc", "?scale=255", "?skip-bad,crop=4"};
    esp_dataset *dataset = NULL;
    char spec[300];

    if (size < 3)
        return 0;
    size_t classes = (size_t)data[0] | (size_t)data[1] << 8;
    const char *option = options[data[2] % 4];
    classes = classes < size - 3 ? classes : size - 3;
    fuzz_write("y_test.npy", data + 3, classes);
    fuzz_write("x_test.npy", data + 3 + classes, size - 3 - classes);
    snprintf(spec, sizeof spec, "npy:%s%s", fuzz_directory(), option);
    esp_error err = {0};
    if (esp_dataset_open(spec, ESP_SPLIT_TEST, &dataset, &err) == ESP_OK) {
        read_some(dataset);
        esp_dataset_unref(dataset);
    } else if (err.message[0] == '\0') {
        __builtin_trap();
    }
    return 0;
}
