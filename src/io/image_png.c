/* PNG through libpng: all colour types and depths, interlaced or not, to 8 bits of grey or RGB. Palettes are
 * expanded, alpha and gamma are left aside, 16 bits lose their lower half.
 *
 * libpng reports errors by a callback that must not return: it jumps back to where the work began; what is to
 * be released is in `reader`. A checksum that is wrong in the image data is an error, one in a side chunk is
 * not. */
#include "io/image_file.h"

#include <setjmp.h>
#include <string.h>

#include <png.h>

#include "base/memory.h"

#define MOST_SIDE        1000000         /* libpng's own default */
#define MOST_CHUNK_BYTES (64u * 1000000) /* a compressed side chunk may unpack to this */

typedef struct reader {
    png_structp png;
    png_infop info;
    jmp_buf jump;
    const char *path;
    const uint8_t *bytes;
    size_t size, at;
    const esp_image_wish *wish;
    esp_image *image;
    esp_image_facts *facts;
    uint8_t *rgb; /* of an image that becomes grey */
    png_bytep *rows;
    esp_error *err;
    esp_status status;
} reader;

static void stop(png_structp png, png_const_charp message)
{
    reader *it = png_get_error_ptr(png);

    if (it->status == ESP_OK)
        it->status = esp_fail(it->err, ESP_FORMAT, "%s: damaged PNG: %s", it->path, message);
    longjmp(it->jump, 1);
}

static void say_nothing(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static void give_bytes(png_structp png, png_bytep target, size_t wanted)
{
    reader *it = png_get_io_ptr(png);

    if (wanted > it->size - it->at)
        png_error(png, "the file ends too early");
    memcpy(target, it->bytes + it->at, wanted);
    it->at += wanted;
}

static void *need(reader *it, size_t bytes)
{
    void *block = esp_alloc(bytes, 1);

    if (!block) {
        it->status = esp_fail_memory(it->err, it->path, bytes);
        longjmp(it->jump, 1);
    }
    return block;
}

static void read_header(reader *it)
{
    png_set_read_fn(it->png, it, give_bytes);
    png_set_user_limits(it->png, MOST_SIDE, MOST_SIDE);
    png_set_chunk_malloc_max(it->png, MOST_CHUNK_BYTES);
    png_read_info(it->png, it->info);
    it->status = esp_image_check_size(it->path, png_get_image_width(it->png, it->info),
                                      png_get_image_height(it->png, it->info), it->err);
    if (it->status != ESP_OK)
        longjmp(it->jump, 1);
}

/* Asks libpng for 8 bits of grey or RGB, nothing else; returns the channels that will come. */
static int ask_for_bytes(reader *it)
{
    int colours = png_get_color_type(it->png, it->info);
    int depth = png_get_bit_depth(it->png, it->info);
    bool is_grey = (colours & PNG_COLOR_MASK_COLOR) == 0;

    if (depth == 16)
        png_set_strip_16(it->png);
    if (colours == PNG_COLOR_TYPE_PALETTE)
        png_set_palette_to_rgb(it->png);
    else if (depth < 8)
        png_set_expand_gray_1_2_4_to_8(it->png);
    /* palettes with transparency expand to RGBA */
    png_set_strip_alpha(it->png);
    if (is_grey && it->wish->channels == 3)
        png_set_gray_to_rgb(it->png);
    png_set_interlace_handling(it->png);
    png_read_update_info(it->png, it->info);
    return png_get_channels(it->png, it->info);
}

static void decode(reader *it)
{
    read_header(it);
    int channels = ask_for_bytes(it);
    int64_t width = png_get_image_width(it->png, it->info), height = png_get_image_height(it->png, it->info);
    bool becomes_grey = channels == 3 && it->wish->channels == 1;

    it->status = esp_image_make(it->path, width, height, it->wish->channels, it->image, it->err);
    if (it->status != ESP_OK)
        longjmp(it->jump, 1);
    it->image->full_width = (int)width;
    it->image->full_height = (int)height;
    size_t row_bytes = png_get_rowbytes(it->png, it->info);
    if (row_bytes != (size_t)width * (size_t)channels || (channels != it->wish->channels && !becomes_grey))
        png_error(it->png, "its rows have an unexpected size");
    if (becomes_grey)
        it->rgb = need(it, row_bytes * (size_t)height);
    it->rows = need(it, (size_t)height * sizeof *it->rows);
    for (size_t y = 0; y < (size_t)height; y++)
        it->rows[y] = (becomes_grey ? it->rgb : it->image->room.data) + y * row_bytes;
    png_read_image(it->png, it->rows);
    png_read_end(it->png, NULL);
    if (becomes_grey)
        esp_grey_from_rgb(it->rgb, width * height, it->image->room.data);
}

static void find_facts(reader *it)
{
    read_header(it);
    bool is_grey = (png_get_color_type(it->png, it->info) & PNG_COLOR_MASK_COLOR) == 0;
    *it->facts = (esp_image_facts){(int)png_get_image_width(it->png, it->info),
                                   (int)png_get_image_height(it->png, it->info), is_grey ? 1 : 3};
}

/* Runs `work` with errors caught, and releases everything. Nothing of this function changes between setjmp
 * and a jump. */
static esp_status run(reader *it, void (*work)(reader *))
{
    it->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, it, stop, say_nothing);
    it->info = it->png ? png_create_info_struct(it->png) : NULL;
    if (!it->info) {
        png_destroy_read_struct(&it->png, NULL, NULL);
        return esp_fail_memory(it->err, it->path, it->size);
    }
    if (setjmp(it->jump) == 0)
        work(it);
    png_destroy_read_struct(&it->png, &it->info, NULL);
    esp_free((void *)it->rows);
    esp_free(it->rgb);
    return it->status;
}

esp_status esp_png_decode(const char *path, size_t size, const esp_image_wish *wish, esp_image *image,
                          esp_error *err)
{
    reader it = {
        .path = path, .bytes = image->file.data, .size = size, .wish = wish, .image = image, .err = err};

    return run(&it, decode);
}

esp_status esp_png_facts(const char *path, const uint8_t *bytes, size_t size, esp_image_facts *out,
                         esp_error *err)
{
    reader it = {.path = path, .bytes = bytes, .size = size, .facts = out, .err = err};

    return run(&it, find_facts);
}
