/* Decoding and transforms against Pillow: the images in images/ and what Pillow 9.4 made of them, to the byte
 * (see images/make_images.py); and every kind of damage. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include "base/file.h"
#include "base/memory.h"
#include "io/image_file.h"
#include "unit/base/scratch.h"

enum { WIDTH = 29, HEIGHT = 23, WIDE_WIDTH = 61, WIDE_HEIGHT = 43 };

static const char *image_path(const char *name)
{
    static char path[4][512];
    static int next;
    char *buffer = path[next++ % 4];

    snprintf(buffer, sizeof path[0], "%s/tests/unit/io/images/%s", ESP_SOURCE_DIR, name);
    return buffer;
}

static uint8_t *expected_bytes(const char *name, size_t size)
{
    char *data = NULL;
    size_t found = 0;
    esp_error err = {0};

    if (esp_file_read(image_path(name), &data, &found, &err) != ESP_OK)
        fail_msg("%s", err.message);
    assert_int_equal(found, size);
    return (uint8_t *)data;
}

static void read_image(const char *path, int channels, esp_image *image)
{
    const esp_image_wish wish = {.channels = channels};
    esp_error err = {0};

    if (esp_image_file_read(path, &wish, image, &err) != ESP_OK)
        fail_msg("%s", err.message);
    assert_int_equal(image->channels, channels);
}

static int largest_difference(const uint8_t *a, const uint8_t *b, size_t size)
{
    int largest = 0;

    for (size_t i = 0; i < size; i++) {
        int difference = abs((int)a[i] - (int)b[i]);
        largest = difference > largest ? difference : largest;
    }
    return largest;
}

/* NAME.ext must decode to NAME.rgb, or NAME.grey. */
static void check_decoding(const char *file, int channels)
{
    char name[64];
    esp_image image = {0};
    size_t size = (size_t)(WIDTH * HEIGHT * channels);

    snprintf(name, sizeof name, "%.*s.%s", (int)strcspn(file, "."), file, channels == 3 ? "rgb" : "grey");
    uint8_t *expected = expected_bytes(name, size);
    read_image(image_path(file), channels, &image);
    assert_int_equal(image.width, WIDTH);
    assert_int_equal(image.height, HEIGHT);
    int difference = largest_difference(image.pixels, expected, size);
    if (difference != 0)
        fail_msg("%s with %d channels differs from Pillow's by up to %d", file, channels, difference);
    esp_image_free(&image);
    esp_free(expected);
}

static void jpegs_decode_as_pillow_does_it(void **state)
{
    (void)state;
    check_decoding("rgb420.jpg", 3);
    check_decoding("rgb444.jpg", 3);
    check_decoding("progressive.jpg", 3);
    check_decoding("tones.jpg", 3);
    check_decoding("rgb420.jpg", 1);
    check_decoding("tones.jpg", 1);
}

static void cmyk_jpegs_are_inverted_as_adobe_writes_them(void **state)
{
    (void)state;
    check_decoding("cmyk.jpg", 3);
    check_decoding("cmyk.jpg", 1);
}

static void the_exif_orientation_is_not_applied(void **state)
{
    (void)state;
    check_decoding("turned.jpg", 3);
}

static void pngs_of_every_kind_decode_as_pillow_does_it(void **state)
{
    static const char *const files[] = {"rgb.png",       "grey.png",    "rgba.png",
                                        "greyalpha.png", "palette.png", "palettealpha.png",
                                        "grey1.png",     "rgb16.png",   "grey16.png"};

    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        check_decoding(files[i], 3);
    check_decoding("rgb.png", 1);
    check_decoding("grey.png", 1);
    check_decoding("palette.png", 1);
    check_decoding("grey1.png", 1);
}

static void headers_say_size_and_channels(void **state)
{
    static const struct {
        const char *name;
        int channels;
    } cases[] = {
        {"rgb420.jpg", 3}, {"tones.jpg", 1}, {"grey.png", 1}, {"greyalpha.png", 1}, {"palette.png", 3}};
    esp_image room = {0};
    esp_error err = {0};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        esp_image_facts facts;

        assert_int_equal(esp_image_file_facts(image_path(cases[i].name), &room, &facts, &err), ESP_OK);
        assert_int_equal(facts.width, WIDTH);
        assert_int_equal(facts.height, HEIGHT);
        assert_int_equal(facts.channels, cases[i].channels);
    }
    esp_image_free(&room);
}

/* ---- transforms ---- */

/* Planes as interleaved RGB. */
static void check_planes(const char *name, const uint8_t *planes, int width, int height, int tolerance)
{
    size_t plane = (size_t)(width * height);
    uint8_t *expected = expected_bytes(name, plane * 3), *rgb = esp_alloc(plane, 3);

    for (size_t i = 0; i < plane; i++)
        for (size_t c = 0; c < 3; c++)
            rgb[i * 3 + c] = planes[c * plane + i];
    int difference = largest_difference(rgb, expected, plane * 3);
    if (difference > tolerance)
        fail_msg("%s: differs by up to %d", name, difference);
    esp_free(rgb);
    esp_free(expected);
}

static void transforms_give_the_bytes_of_torchvision_on_pillow(void **state)
{
    static const struct {
        const char *name;
        esp_transform transform;
    } cases[] = {
        {"wide-r20c16.rgb", {.channels = 3, .height = 16, .width = 16, .resize = 20}},
        {"wide-r20c17.rgb", {.channels = 3, .height = 17, .width = 17, .resize = 20}},
        {"wide-r20c16cubic.rgb",
         {.channels = 3,
          .height = 16,
          .width = 16,
          .resize = 20,
          .interpolation = ESP_INTERPOLATION_BICUBIC}},
        {"wide-r70c64.rgb", {.channels = 3, .height = 64, .width = 64, .resize = 70}},
        {"wide-r70c64cubic.rgb",
         {.channels = 3,
          .height = 64,
          .width = 64,
          .resize = 70,
          .interpolation = ESP_INTERPOLATION_BICUBIC}},
        {"wide-r12c20.rgb", {.channels = 3, .height = 20, .width = 20, .resize = 12}},
        {"wide-r43c40.rgb", {.channels = 3, .height = 40, .width = 40, .resize = 43}},
        {"wide-e19x50.rgb",
         {.channels = 3, .height = 19, .width = 50, .resize_height = 19, .resize_width = 50}},
    };
    esp_image image = {0};
    esp_transform_room room = {0};
    uint8_t out[3 * 64 * 64];

    (void)state;
    read_image(image_path("wide.png"), 3, &image);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const esp_transform *t = &cases[i].transform;

        memset(out, 7, sizeof out);
        assert_int_equal(esp_transform_apply(t, &image, &room, out, NULL), ESP_OK);
        check_planes(cases[i].name, out, t->width, t->height, 0);
    }
    esp_transform_room_free(&room);
    esp_image_free(&image);
}

static void a_box_is_cropped_first_and_then_resized(void **state)
{
    esp_image image = {0};
    esp_transform_room room = {0};
    uint8_t out[3 * 16 * 16];
    const esp_transform transform = {.channels = 3, .height = 16, .width = 16};

    (void)state;
    read_image(image_path("wide.png"), 3, &image);
    assert_int_equal(esp_transform_box(&transform, &image, (esp_box){7, 5, 33, 21}, &room, out, NULL),
                     ESP_OK);
    check_planes("wide-box.rgb", out, 16, 16, 0);
    esp_transform_room_free(&room);
    esp_image_free(&image);
}

/* The transform of the whole image as it is: planes. */
static uint8_t *wide_planes(void)
{
    esp_image image = {0};
    esp_transform_room room = {0};
    uint8_t *planes = esp_alloc(WIDE_WIDTH * WIDE_HEIGHT, 3);
    const esp_transform transform = {.channels = 3, .height = WIDE_HEIGHT, .width = WIDE_WIDTH};

    read_image(image_path("wide.png"), 3, &image);
    assert_int_equal(esp_transform_apply(&transform, &image, &room, planes, NULL), ESP_OK);
    esp_transform_room_free(&room);
    esp_image_free(&image);
    return planes;
}

static void colours_change_as_pillow_changes_them(void **state)
{
    static const struct {
        const char *name;
        esp_colour colour;
        float amount;
    } cases[] = {
        {"jitter-brightness0.6.rgb", ESP_COLOUR_BRIGHTNESS, 0.6f},
        {"jitter-brightness1.4.rgb", ESP_COLOUR_BRIGHTNESS, 1.4f},
        {"jitter-contrast0.6.rgb", ESP_COLOUR_CONTRAST, 0.6f},
        {"jitter-contrast1.4.rgb", ESP_COLOUR_CONTRAST, 1.4f},
        {"jitter-saturation0.6.rgb", ESP_COLOUR_SATURATION, 0.6f},
        {"jitter-saturation1.4.rgb", ESP_COLOUR_SATURATION, 1.4f},
        {"jitter-hue-0.3.rgb", ESP_COLOUR_HUE, -0.3f},
        {"jitter-hue0.2.rgb", ESP_COLOUR_HUE, 0.2f},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t *planes = wide_planes();

        esp_colour_change(cases[i].colour, cases[i].amount, 3, WIDE_WIDTH * WIDE_HEIGHT, planes);
        check_planes(cases[i].name, planes, WIDE_WIDTH, WIDE_HEIGHT, 0);
        esp_free(planes);
    }
}

/* ---- what Pillow cannot write, made here ---- */

typedef struct jpeg_maker {
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    unsigned char *bytes;
    unsigned long size;
} jpeg_maker;

/* A smooth CMYK picture, stored as `stored` with quality 100. */
static void write_inks(const char *path, J_COLOR_SPACE stored, int width, int height)
{
    jpeg_maker m = {0};
    uint8_t *row = esp_alloc((size_t)width, 4);

    m.jpeg.err = jpeg_std_error(&m.errors);
    jpeg_create_compress(&m.jpeg);
    jpeg_mem_dest(&m.jpeg, &m.bytes, &m.size);
    m.jpeg.image_width = (JDIMENSION)width;
    m.jpeg.image_height = (JDIMENSION)height;
    m.jpeg.input_components = 4;
    m.jpeg.in_color_space = JCS_CMYK;
    jpeg_set_defaults(&m.jpeg);
    jpeg_set_colorspace(&m.jpeg, stored);
    jpeg_set_quality(&m.jpeg, 100, TRUE);
    for (int c = 0; c < 4; c++)
        m.jpeg.comp_info[c].h_samp_factor = m.jpeg.comp_info[c].v_samp_factor = 1;
    jpeg_start_compress(&m.jpeg, TRUE);
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++) { /* inverted, as Adobe writes inks: 255 is no ink */
            row[4 * x] = (uint8_t)(255 - 2 * x);
            row[4 * x + 1] = (uint8_t)(255 - 3 * y);
            row[4 * x + 2] = (uint8_t)(200 - x - y);
            row[4 * x + 3] = 230;
        }
        JSAMPROW rows[1] = {row};
        jpeg_write_scanlines(&m.jpeg, rows, 1);
    }
    jpeg_finish_compress(&m.jpeg);
    jpeg_destroy_compress(&m.jpeg);
    scratch_write(path, m.bytes, m.size);
    free(m.bytes);
    esp_free(row);
}

static void ycck_and_cmyk_give_the_colours_of_their_inks(void **state)
{
    static const J_COLOR_SPACE stored[] = {JCS_CMYK, JCS_YCCK};
    enum { SIDE = 40 };
    esp_image image = {0};

    for (int i = 0; i < 2; i++) {
        const char *path = scratch_path(*state, "inks.jpg");

        write_inks(path, stored[i], SIDE, SIDE);
        read_image(path, 3, &image);
        for (int y = 0; y < SIDE; y++)
            for (int x = 0; x < SIDE; x++) {
                const double light = 230.0 / 255.0;
                const double expected[3] = {(255 - 2 * x) * light, (255 - 3 * y) * light,
                                            (200 - x - y) * light};

                for (int c = 0; c < 3; c++) /* a few levels of loss in the file */
                    assert_true(fabs(image.pixels[(y * SIDE + x) * 3 + c] - expected[c]) < 5.0);
            }
    }
    esp_image_free(&image);
}

static int half(void *context, int width, int height)
{
    int *sizes = context;

    sizes[0] = width;
    sizes[1] = height;
    return 2;
}

static void a_jpeg_is_shrunk_while_it_is_decoded(void **state)
{
    int sizes[2] = {0};
    const esp_image_wish wish = {3, half, sizes};
    esp_image image = {0}, full = {0};
    const char *path = scratch_path(*state, "large.jpg");

    write_inks(path, JCS_CMYK, 64, 48);
    assert_int_equal(esp_image_file_read(path, &wish, &image, NULL), ESP_OK);
    read_image(path, 3, &full);
    assert_int_equal(sizes[0], 64);
    assert_int_equal(sizes[1], 48);
    assert_int_equal(image.full_width, 64);
    assert_int_equal(image.width, 32);
    assert_int_equal(image.height, 24);
    for (int y = 0; y < 24; y++)
        for (int x = 0; x < 32; x++)
            for (int c = 0; c < 3; c++) { /* the mean of four pixels of a smooth picture */
                int sum = 0;

                for (int k = 0; k < 4; k++)
                    sum += full.pixels[((2 * y + k / 2) * 64 + 2 * x + k % 2) * 3 + c];
                assert_true(abs(image.pixels[(y * 32 + x) * 3 + c] - sum / 4) <= 6);
            }
    esp_image_free(&image);
    esp_image_free(&full);
}

/* ---- damage ---- */

static void assert_bad(const char *path, esp_status code, const char *word)
{
    const esp_image_wish wish = {.channels = 3};
    esp_image image = {0};
    esp_error err = {0};
    esp_status status = esp_image_file_read(path, &wish, &image, &err);

    if (status != code || !strstr(err.message, word) || !strstr(err.message, esp_path_base(path)))
        fail_msg("%s: status %s, message \"%s\", expected %s with \"%s\"", path, esp_status_word(status),
                 err.message, esp_status_word(code), word);
    esp_image_free(&image);
}

static void truncated_images_are_refused_by_name(void **state)
{
    static const char *const names[] = {"rgb420.jpg", "progressive.jpg", "tones.jpg", "rgb.png",
                                        "palette.png"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *data = NULL;
        size_t size = 0;

        assert_int_equal(esp_file_read(image_path(names[i]), &data, &size, NULL), ESP_OK);
        const char *path = scratch_path(*state, names[i]);
        for (size_t part = 3; part <= 19; part++) { /* from a few bytes to all but some */
            size_t kept = size * part / 20;

            scratch_write(path, data, kept < 8 ? 8 : kept);
            assert_bad(path, ESP_FORMAT, strstr(names[i], "png") ? "damaged PNG" : "damaged JPEG");
        }
        esp_free(data);
    }
}

static void a_jpeg_whose_middle_is_missing_is_refused_though_it_ends_as_it_should(void **state)
{
    char *data = NULL;
    size_t size = 0;
    const char *path = scratch_path(*state, "gap.jpg");

    assert_int_equal(esp_file_read(image_path("rgb444.jpg"), &data, &size, NULL), ESP_OK);
    memcpy(data + size * 3 / 4, "\xff\xd9", 2);
    scratch_write(path, data, size * 3 / 4 + 2);
    assert_bad(path, ESP_FORMAT, "premature end of data segment");
    esp_free(data);
}

/* Nothing is said of the pixels, but nothing may break: the sanitizers look on. */
static void flipped_bytes_never_break_the_decoders(void **state)
{
    static const char *const names[] = {"rgb420.jpg", "progressive.jpg",  "cmyk.jpg",
                                        "rgb.png",    "palettealpha.png", "rgb16.png"};
    const esp_image_wish wish = {.channels = 1};
    esp_image image = {0};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *data = NULL;
        size_t size = 0;
        esp_rng rng;

        esp_rng_seed(&rng, i);
        assert_int_equal(esp_file_read(image_path(names[i]), &data, &size, NULL), ESP_OK);
        const char *path = scratch_path(*state, names[i]);
        for (int turn = 0; turn < 100; turn++) {
            size_t at = (size_t)esp_rng_below(&rng, size);
            char kept = data[at];

            data[at] = (char)(data[at] ^ (1 << esp_rng_below(&rng, 8)));
            scratch_write(path, data, size);
            esp_error err = {0};
            esp_status status = esp_image_file_read(path, &wish, &image, &err);
            assert_true(status == ESP_OK || err.message[0] != '\0');
            data[at] = kept;
        }
        esp_free(data);
    }
    esp_image_free(&image);
}

static void files_of_another_kind_are_told_apart_by_their_bytes(void **state)
{
    const char *path = scratch_path(*state, "photo.jpg");

    scratch_write(path, "GIF89a and so on", 16);
    assert_bad(path, ESP_FORMAT, "47 49");
    scratch_write(path, "", 0);
    assert_bad(path, ESP_FORMAT, "empty");
    assert_bad(scratch_path(*state, "absent.png"), ESP_IO, "No such file");
    assert_bad(*state, ESP_IO, "not a file");
    /* a PNG that is called a JPEG is read */
    char *data = NULL;
    size_t size = 0;
    esp_image image = {0};
    assert_int_equal(esp_file_read(image_path("rgb.png"), &data, &size, NULL), ESP_OK);
    scratch_write(path, data, size);
    read_image(path, 3, &image);
    esp_image_free(&image);
    esp_free(data);
}

static void an_image_that_would_fill_memory_is_refused_before_it_does(void **state)
{
    char *data = NULL;
    size_t size = 0;
    const char *path = scratch_path(*state, "bomb.jpg");

    /* the frame header of the JPEG says 65500 x 65500 */
    assert_int_equal(esp_file_read(image_path("rgb420.jpg"), &data, &size, NULL), ESP_OK);
    size_t at = 0;
    while (at + 9 < size && !((uint8_t)data[at] == 0xff && (uint8_t)data[at + 1] == 0xc0))
        at++;
    memcpy(data + at + 5, "\xff\xdc\xff\xdc", 4);
    scratch_write(path, data, size);
    assert_bad(path, ESP_UNSUPPORTED, "65500x65500");
    esp_free(data);
}

static int make_directory(void **state)
{
    *state = scratch_make();
    return *state == NULL;
}

static int remove_directory(void **state)
{
    scratch_remove(*state);
    return 0;
}

#define WITH_FILES(test) cmocka_unit_test_setup_teardown(test, make_directory, remove_directory)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jpegs_decode_as_pillow_does_it),
        cmocka_unit_test(cmyk_jpegs_are_inverted_as_adobe_writes_them),
        cmocka_unit_test(the_exif_orientation_is_not_applied),
        cmocka_unit_test(pngs_of_every_kind_decode_as_pillow_does_it),
        cmocka_unit_test(headers_say_size_and_channels),
        cmocka_unit_test(transforms_give_the_bytes_of_torchvision_on_pillow),
        cmocka_unit_test(a_box_is_cropped_first_and_then_resized),
        cmocka_unit_test(colours_change_as_pillow_changes_them),
        WITH_FILES(ycck_and_cmyk_give_the_colours_of_their_inks),
        WITH_FILES(a_jpeg_is_shrunk_while_it_is_decoded),
        WITH_FILES(truncated_images_are_refused_by_name),
        WITH_FILES(a_jpeg_whose_middle_is_missing_is_refused_though_it_ends_as_it_should),
        WITH_FILES(flipped_bytes_never_break_the_decoders),
        WITH_FILES(files_of_another_kind_are_told_apart_by_their_bytes),
        WITH_FILES(an_image_that_would_fill_memory_is_refused_before_it_does),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
