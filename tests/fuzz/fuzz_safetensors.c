/* Any bytes as a safetensors file: opened, every tensor read, and matched with names that may be there. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io/safetensors.h"
#include "io/safetensors_load.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const char *path)
{
    esp_error err = {0};
    esp_safetensors *file = NULL;

    if (esp_safetensors_open(path, &file, &err) != ESP_OK)
        return;
    for (int i = 0; i < esp_safetensors_count(file); i++) {
        esp_tensor *tensor = NULL;

        if (esp_safetensors_find(file, esp_safetensors_at(file, i)->name) != i)
            __builtin_trap();
        if (esp_safetensors_read(file, i, &tensor, &err) == ESP_OK)
            esp_tensor_unref(tensor);
    }
    esp_safetensors_close(file);
}

static void match_names(const char *path)
{
    static const char *const names[] = {"a", "a.weight", "weight", "fc.bias", ""};
    esp_error err = {0};
    esp_shape shape = {.rank = 1, .dims = {1}};
    esp_weight_source *source = NULL;

    if (esp_weight_source_open(path, NULL, &source, &err) != ESP_OK)
        return;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        esp_tensor *tensor = NULL;

        if (esp_weight_source_take(source, names[i], &shape, &tensor, &err) == ESP_OK)
            esp_tensor_unref(tensor);
    }
    esp_weight_source_finish(source, &err);
    esp_weight_source_close(source);
}

/* The readers take paths: the bytes are a file in memory. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    int descriptor = memfd_create("fuzz", MFD_CLOEXEC);

    if (descriptor < 0)
        return 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    if (size == 0 || write(descriptor, data, size) == (ssize_t)size) {
        read_all(path);
        match_names(path);
    }
    close(descriptor);
    return 0;
}
