/* Any bytes as an image file: its size is looked at, and it is decoded to grey and to RGB, whole and shrunk.
 * What comes out has the size that was said. */
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io/image_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int shrink_by(void *context, int full_width, int full_height)
{
    if (full_width < 1 || full_height < 1)
        __builtin_trap();
    return *(const int *)context;
}

static void decode(const char *path, int channels, int shrink, uint64_t *sum)
{
    const esp_image_wish wish = {.channels = channels, .shrink = shrink_by, .context = &shrink};
    esp_image image = {0};
    esp_error err = {0};

    if (esp_image_file_read(path, &wish, &image, &err) == ESP_OK) {
        size_t count = (size_t)image.width * (size_t)image.height * (size_t)image.channels;

        if (image.channels != channels || image.width < 1 || image.width > image.full_width)
            __builtin_trap();
        for (size_t i = 0; i < count; i++)
            *sum += image.pixels[i]; /* a memory checker sees what was not written */
    } else if (err.message[0] == '\0') {
        __builtin_trap();
    }
    esp_image_free(&image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    esp_image room = {0};
    esp_image_facts facts = {0};
    esp_error err = {0};
    uint64_t sum = 0;
    int descriptor = memfd_create("fuzz", MFD_CLOEXEC);

    if (descriptor < 0)
        return 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    if (size == 0 || write(descriptor, data, size) == (ssize_t)size) {
        /* large pictures take their time and teach nothing */
        bool is_known = esp_image_file_facts(path, &room, &facts, &err) == ESP_OK;
        if (!is_known || (int64_t)facts.width * facts.height <= 1 << 18) {
            decode(path, 3, 1, &sum);
            decode(path, 1, 2, &sum);
        }
    }
    esp_image_free(&room);
    close(descriptor);
    return sum == UINT64_MAX; /* 0: but nobody may drop the sum */
}
