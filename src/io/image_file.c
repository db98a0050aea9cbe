/* Image files: read into memory that is used again for the next image, told apart by their first bytes,
 * decoded by the format's own file. */
#include "io/image_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

static bool ends_with_one_of(const char *name, const char *const *endings)
{
    size_t length = strlen(name);

    for (; *endings; endings++) {
        size_t ending = strlen(*endings);

        if (length > ending && strcasecmp(name + length - ending, *endings) == 0)
            return true;
    }
    return false;
}

bool esp_image_name_is_readable(const char *name)
{
    static const char *const endings[] = {".jpg", ".jpeg", ".png", NULL};

    return ends_with_one_of(name, endings);
}

bool esp_image_name_is_foreign(const char *name)
{
    static const char *const endings[] = {".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp", NULL};

    return ends_with_one_of(name, endings);
}

esp_status esp_image_check_size(const char *path, int64_t width, int64_t height, esp_error *err)
{
    if (width < 1 || height < 1)
        return esp_fail(err, ESP_FORMAT, "%s: an image of %" PRId64 "x%" PRId64 " pixels", path, width,
                        height);
    if (width > ESP_IMAGE_MOST_PIXELS / height)
        return esp_fail(err, ESP_UNSUPPORTED,
                        "%s: an image of %" PRId64 "x%" PRId64 ", expected at most %" PRId64 " pixels", path,
                        width, height, ESP_IMAGE_MOST_PIXELS);
    return ESP_OK;
}

esp_status esp_image_make(const char *path, int64_t width, int64_t height, int channels, esp_image *image,
                          esp_error *err)
{
    esp_status status = esp_image_check_size(path, width, height, err);

    if (status != ESP_OK)
        return status;
    size_t bytes = (size_t)width * (size_t)height * (size_t)channels;
    uint8_t *pixels = esp_buffer_need(&image->room, bytes);
    if (!pixels)
        return esp_fail_memory(err, "an image", bytes);
    image->width = (int)width;
    image->height = (int)height;
    image->channels = channels;
    image->pixels = pixels;
    image->values = NULL;
    return ESP_OK;
}

void esp_grey_from_rgb(const uint8_t *rgb, int64_t count, uint8_t *grey)
{
    for (int64_t i = 0; i < count; i++, rgb += 3)
        grey[i] = (uint8_t)((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16);
}

/* ---- the file ---- */

static esp_status fail_system(const char *path, esp_error *err)
{
    return esp_fail(err, ESP_IO, "%s: %s", path, strerror(errno));
}

/* The bytes of an open regular file, at most `limit` of them. */
static esp_status read_descriptor(int file, const char *path, size_t limit, esp_buffer *buffer,
                                  size_t *out_size, esp_error *err)
{
    struct stat facts;

    if (fstat(file, &facts) != 0)
        return fail_system(path, err);
    if (!S_ISREG(facts.st_mode))
        return esp_fail(err, ESP_IO, "%s: not a file", path);
    size_t size = (size_t)facts.st_size < limit ? (size_t)facts.st_size : limit, done = 0;
    if (size > ESP_IMAGE_FILE_LIMIT)
        return esp_fail(err, ESP_UNSUPPORTED, "%s: %zu bytes, expected at most %zu in an image file", path,
                        size, ESP_IMAGE_FILE_LIMIT);
    uint8_t *bytes = esp_buffer_need(buffer, size + 1);
    if (!bytes)
        return esp_fail_memory(err, path, size);
    while (done < size) {
        ssize_t got = read(file, bytes + done, size - done);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail_system(path, err);
        if (got == 0)
            break; /* it became shorter meanwhile: the decoder will say so */
        done += (size_t)got;
    }
    *out_size = done;
    return ESP_OK;
}

static esp_status read_file(const char *path, size_t limit, esp_buffer *buffer, size_t *out_size,
                            esp_error *err)
{
    /* a pipe in the directory must not hold the program up */
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (file < 0)
        return fail_system(path, err);
    esp_status status = read_descriptor(file, path, limit, buffer, out_size, err);
    close(file);
    return status;
}

/* ---- which format ---- */

typedef enum image_format { FORMAT_NONE, FORMAT_JPEG, FORMAT_PNG } image_format;

static image_format format_of(const uint8_t *bytes, size_t size)
{
    static const uint8_t png[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

    if (size >= 3 && bytes[0] == 0xff && bytes[1] == 0xd8 && bytes[2] == 0xff)
        return FORMAT_JPEG;
    if (size >= sizeof png && memcmp(bytes, png, sizeof png) == 0)
        return FORMAT_PNG;
    return FORMAT_NONE;
}

static esp_status fail_format(const char *path, const uint8_t *bytes, size_t size, esp_error *err)
{
    if (size == 0)
        return esp_fail(err, ESP_FORMAT, "%s: empty, expected a JPEG or PNG image", path);
    return esp_fail(err, ESP_FORMAT,
                    "%s: starts with bytes %02x %02x, expected a JPEG (ff d8) or PNG (89 50)", path, bytes[0],
                    size > 1 ? bytes[1] : 0u);
}

esp_status esp_image_file_read(const char *path, const esp_image_wish *wish, esp_image *image, esp_error *err)
{
    size_t size;
    esp_status status = read_file(path, SIZE_MAX, &image->file, &size, err);

    if (status != ESP_OK)
        return status;
    switch (format_of(image->file.data, size)) {
    case FORMAT_JPEG:
        return esp_jpeg_decode(path, size, wish, image, err);
    case FORMAT_PNG:
        return esp_png_decode(path, size, wish, image, err);
    case FORMAT_NONE:
        break;
    }
    return fail_format(path, image->file.data, size, err);
}

esp_status esp_image_file_facts(const char *path, esp_image *room, esp_image_facts *out, esp_error *err)
{
    size_t size;
    /* sizes stand behind EXIF data and colour profiles, which are rarely larger than this */
    static const size_t lengths[] = {(size_t)64 << 10, SIZE_MAX};
    esp_status status = ESP_OK;

    for (int attempt = 0; attempt < 2; attempt++) {
        status = read_file(path, lengths[attempt], &room->file, &size, err);
        if (status != ESP_OK)
            return status;
        image_format format = format_of(room->file.data, size);
        if (format == FORMAT_NONE)
            return fail_format(path, room->file.data, size, err);
        status = format == FORMAT_JPEG ? esp_jpeg_facts(path, room->file.data, size, out, err)
                                       : esp_png_facts(path, room->file.data, size, out, err);
        if (status == ESP_OK || size < lengths[attempt])
            return status;
    }
    return status;
}
