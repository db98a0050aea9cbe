/* Any bytes as the test batch of CIFAR-10, gzipped or not, beside a file of class names made of the same
 * bytes. */
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
    size_t names = size < 64 ? size : 64;

    fuzz_write("test_batch.bin", data, size);
    fuzz_write("batches.meta.txt", data + size - names, names);
    snprintf(spec, sizeof spec, "cifar10:%s", fuzz_directory());
    if (esp_dataset_open(spec, ESP_SPLIT_TEST, &dataset, &err) == ESP_OK)
        esp_dataset_unref(dataset);
    return 0;
}
