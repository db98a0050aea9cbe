/* Any bytes as a pair of IDX files, gzipped or not. The first two bytes say how many of the rest are labels;
 * what is left are the images. */
#include <stdint.h>
#include <stdio.h>

#include "fuzz/scratch_files.h"
#include "io/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    esp_dataset *dataset = NULL;
    esp_error err = {0};
    char spec[300];

    if (size < 2)
        return 0;
    size_t labels = (size_t)data[0] | (size_t)data[1] << 8;
    labels = labels < size - 2 ? labels : size - 2;
    fuzz_write("t10k-labels-idx1-ubyte", data + 2, labels);
    fuzz_write("t10k-images-idx3-ubyte", data + 2 + labels, size - 2 - labels);
    snprintf(spec, sizeof spec, "idx:%s", fuzz_directory());
    if (esp_dataset_open(spec, ESP_SPLIT_TEST, &dataset, &err) == ESP_OK)
        esp_dataset_unref(dataset);
    return 0;
}
