/* JPEG through libjpeg-turbo: baseline and progressive, grey, YCbCr, RGB, CMYK and YCCK, shrunk by the
 * decoder where the caller has no use for all pixels. The settings that decide pixels (slow integer
 * transform, smooth chroma) are the library's defaults, which Pillow leaves as they are too.
 *
 * The library reports errors by a callback that must not return: it jumps back to where the work began, and
 * everything to release is in `reader`, which lies outside of what setjmp may clobber. Warnings about data
 * that is missing or broken count as errors: the library would fill the rest with grey. */
#include "io/image_file.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

/* A progressive file may repeat scans of the whole image for a few bytes each. */
#define MOST_SCANS 500

typedef struct reader {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf jump;
    char message[JMSG_LENGTH_MAX];
    const char *path;
    const uint8_t *bytes;
    size_t size;
    const esp_image_wish *wish;
    esp_image *image;
    esp_image_facts *facts;
    esp_error *err;
    esp_status status;
} reader;

static reader *reader_of(j_common_ptr jpeg)
{
    return jpeg->client_data;
}

static void stop(j_common_ptr jpeg)
{
    reader *it = reader_of(jpeg);

    jpeg->err->format_message(jpeg, it->message);
    bool is_memory = jpeg->err->msg_code == JERR_OUT_OF_MEMORY;
    it->status = esp_fail(it->err, is_memory ? ESP_NO_MEMORY : ESP_FORMAT, "%s: damaged JPEG: %s", it->path,
                          it->message);
    longjmp(it->jump, 1);
}

static void warn(j_common_ptr jpeg, int level)
{
    if (level >= 0)
        return; /* a trace */
    switch (jpeg->err->msg_code) {
    case JWRN_JPEG_EOF:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_ARITH_BAD_CODE:
    case JWRN_MUST_RESYNC:
        stop(jpeg);
        break;
    default: /* stray bytes between markers, odd headers: the pixels are all there */
        break;
    }
}

static void say_nothing(j_common_ptr jpeg)
{
    (void)jpeg;
}

static void watch_scans(j_common_ptr jpeg)
{
    reader *it = reader_of(jpeg);

    if (!jpeg->is_decompressor || it->jpeg.input_scan_number <= MOST_SCANS)
        return;
    it->status = esp_fail(it->err, ESP_UNSUPPORTED, "%s: a JPEG of more than %d scans", it->path, MOST_SCANS);
    longjmp(it->jump, 1);
}

/* What jpeglib can give without a conversion of ours, for the channels that are wanted. */
static void choose_colours(reader *it)
{
    J_COLOR_SPACE stored = it->jpeg.jpeg_color_space;

    if (stored == JCS_CMYK || stored == JCS_YCCK)
        it->jpeg.out_color_space = JCS_CMYK;
    else if (stored == JCS_GRAYSCALE)
        it->jpeg.out_color_space = it->wish->channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    else
        it->jpeg.out_color_space = JCS_RGB; /* grey is made of RGB, as Pillow does, not the Y of the file */
}

/* Convert.c, cmyk2rgb, after the inversion Adobe's files need; `row` has 4 bytes a pixel, and gets 3. */
static void rgb_from_cmyk(uint8_t *row, int width)
{
    for (int x = 0; x < width; x++) {
        const uint8_t *cmyk = row + (size_t)x * 4;
        uint8_t inks[4];

        memcpy(inks, cmyk, sizeof inks);
        int light = inks[3]; /* 255 - (255 - k) */
        for (int c = 0; c < 3; c++) {
            int product = (255 - inks[c]) * light + 128;
            row[(size_t)x * 3 + (size_t)c] = (uint8_t)(light - ((product + (product >> 8)) >> 8));
        }
    }
}

static void read_header(reader *it)
{
    jpeg_mem_src(&it->jpeg, it->bytes, (unsigned long)it->size);
    jpeg_read_header(&it->jpeg, TRUE);
    it->status = esp_image_check_size(it->path, it->jpeg.image_width, it->jpeg.image_height, it->err);
    if (it->status != ESP_OK)
        longjmp(it->jump, 1);
}

static void read_rows(reader *it)
{
    esp_image *image = it->image;
    int width = image->width;
    int stored = (int)it->jpeg.output_components, wanted = image->channels;
    /* rows of CMYK, and of RGB that becomes grey, are wider than what is kept: they go through the end of
     * room */
    uint8_t *pixels = image->room.data;
    uint8_t *through = pixels + (size_t)width * (size_t)image->height * (size_t)wanted;

    while (it->jpeg.output_scanline < it->jpeg.output_height) {
        size_t y = it->jpeg.output_scanline;
        uint8_t *target = pixels + y * (size_t)width * (size_t)wanted;
        JSAMPROW row = stored == wanted ? target : through;

        if (jpeg_read_scanlines(&it->jpeg, &row, 1) != 1)
            ERREXIT(&it->jpeg, JERR_INPUT_EOF);
        if (stored == wanted)
            continue;
        if (stored == 4)
            rgb_from_cmyk(through, width);
        if (wanted == 1)
            esp_grey_from_rgb(through, width, target);
        else
            memcpy(target, through, (size_t)width * 3);
    }
}

static void decode(reader *it)
{
    esp_image *image = it->image;

    read_header(it);
    int full_width = (int)it->jpeg.image_width, full_height = (int)it->jpeg.image_height;
    choose_colours(it);
    it->jpeg.scale_num = 1;
    it->jpeg.scale_denom =
        it->wish->shrink ? (unsigned)it->wish->shrink(it->wish->context, full_width, full_height) : 1;
    it->progress.progress_monitor = watch_scans;
    it->jpeg.progress = &it->progress;
    jpeg_start_decompress(&it->jpeg);
    int width = (int)it->jpeg.output_width, height = (int)it->jpeg.output_height;
    if (!esp_buffer_need(&image->room, (size_t)width * ((size_t)height * (size_t)it->wish->channels + 4)))
        ERREXIT1(&it->jpeg, JERR_OUT_OF_MEMORY, 0);
    it->status = esp_image_make(it->path, width, height, it->wish->channels, image, it->err);
    if (it->status != ESP_OK)
        longjmp(it->jump, 1);
    image->full_width = full_width;
    image->full_height = full_height;
    read_rows(it);
    jpeg_finish_decompress(&it->jpeg);
}

static void find_facts(reader *it)
{
    read_header(it);
    *it->facts = (esp_image_facts){(int)it->jpeg.image_width, (int)it->jpeg.image_height,
                                   it->jpeg.jpeg_color_space == JCS_GRAYSCALE ? 1 : 3};
}

/* Runs `work` with errors caught, and releases what the library holds. Nothing of this function changes
 * between setjmp and a jump. */
static esp_status run(reader *it, void (*work)(reader *))
{
    it->jpeg.err = jpeg_std_error(&it->errors);
    it->errors.error_exit = stop;
    it->errors.emit_message = warn;
    it->errors.output_message = say_nothing;
    it->jpeg.client_data = it;
    if (setjmp(it->jump) == 0) {
        jpeg_create_decompress(&it->jpeg);
        work(it);
    }
    jpeg_destroy_decompress(&it->jpeg);
    return it->status;
}

esp_status esp_jpeg_decode(const char *path, size_t size, const esp_image_wish *wish, esp_image *image,
                           esp_error *err)
{
    reader it = {
        .path = path, .bytes = image->file.data, .size = size, .wish = wish, .image = image, .err = err};

    return run(&it, decode);
}

esp_status esp_jpeg_facts(const char *path, const uint8_t *bytes, size_t size, esp_image_facts *out,
                          esp_error *err)
{
    reader it = {.path = path, .bytes = bytes, .size = size, .facts = out, .err = err};

    return run(&it, find_facts);
}
