/* Decoding one JPEG or PNG image. What the file is decides its first bytes, not its name. */
#ifndef ESP_IO_IMAGE_FILE_H
#define ESP_IO_IMAGE_FILE_H

#include "train/image.h"

/* No image file is larger than this. */
#define ESP_IMAGE_FILE_LIMIT ((size_t)1 << 30)

typedef struct esp_image_facts {
    int width, height;
    int channels; /* 1: grey (with or without alpha); 3: anything else */
} esp_image_facts;

/* Whether a file's name ends like that of an image we read: .jpg, .jpeg, .png in any case. */
bool esp_image_name_is_readable(const char *name);
/* The same for formats that others read: .bmp, .gif, .ppm, .pgm, .tif, .tiff, .webp. */
bool esp_image_name_is_foreign(const char *name);

/* Reads and decodes a file into image->room, with wish->channels channels, 8 bits each, as Pillow's
 * open(...).convert("RGB" or "L") gives them:
 *  - an alpha channel, and transparency of a palette, are dropped;
 *  - 16 bits become the upper 8 (Pillow cuts 16-bit grey off at 255 instead, which leaves white);
 *  - CMYK and YCCK are taken as Adobe writes them, inverted, and converted without a colour profile;
 *  - the EXIF orientation is not applied, as torchvision's ImageFolder does not;
 *  - a JPEG may be shrunk while it is decoded, as far as wish->shrink allows.
 * ESP_IO when it cannot be read, ESP_FORMAT when it is damaged or truncated, ESP_UNSUPPORTED for other
 * formats and for more than ESP_IMAGE_MOST_PIXELS pixels. Messages begin with the path. */
esp_status esp_image_file_read(const char *path, const esp_image_wish *wish, esp_image *image,
                               esp_error *err);

/* The header only. */
esp_status esp_image_file_facts(const char *path, esp_image *room, esp_image_facts *out, esp_error *err);

/* ---- the formats: the file is in image->file, `size` bytes of it; `path` is for messages ---- */
esp_status esp_jpeg_decode(const char *path, size_t size, const esp_image_wish *wish, esp_image *image,
                           esp_error *err);
esp_status esp_jpeg_facts(const char *path, const uint8_t *bytes, size_t size, esp_image_facts *out,
                          esp_error *err);
esp_status esp_png_decode(const char *path, size_t size, const esp_image_wish *wish, esp_image *image,
                          esp_error *err);
esp_status esp_png_facts(const char *path, const uint8_t *bytes, size_t size, esp_image_facts *out,
                         esp_error *err);

/* Room for width x height x channels in image->room, and the sizes set; refuses what is too large. */
esp_status esp_image_make(const char *path, int64_t width, int64_t height, int channels, esp_image *image,
                          esp_error *err);
esp_status esp_image_check_size(const char *path, int64_t width, int64_t height, esp_error *err);

/* Pillow's luma (ITU-R 601-2, 16 bits): `count` pixels RGB to grey; in place is fine. */
void esp_grey_from_rgb(const uint8_t *rgb, int64_t count, uint8_t *grey);

#endif
