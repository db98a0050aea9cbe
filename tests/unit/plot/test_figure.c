/* Figures: the script says what was asked, text cannot act as a command, and gnuplot really draws. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "plot/figure.h"

static const double xs[] = {1, 2, 3};
static const double ys[] = {90.5, 91.25, 0.0 / 0.0};

static esp_figure one_series(const char *title)
{
    static esp_series series;
    series = (esp_series){.title = title, .style = ESP_SERIES_LINES_POINTS, .count = 3, .x = xs, .y = ys};
    return (esp_figure){
        .title = title, .x_label = "MACs", .y_label = "top-1", .series_count = 1, .series = &series};
}

static void a_script_holds_every_finite_point_and_no_other(void **state)
{
    (void)state;
    esp_error err = {0};
    char *script = NULL;
    esp_figure figure = one_series("accuracy");
    assert_int_equal(esp_figure_script(&figure, &script, &err), ESP_OK);
    assert_non_null(strstr(script, "1 90.5 0"));
    assert_non_null(strstr(script, "2 91.25 0"));
    assert_null(strstr(script, "nan"));
    esp_free(script);
}

static void a_title_cannot_end_its_string_or_line(void **state)
{
    (void)state;
    esp_error err = {0};
    char *script = NULL;
    esp_figure figure = one_series("it's\nsystem 'touch /tmp/x'");
    assert_int_equal(esp_figure_script(&figure, &script, &err), ESP_OK);
    assert_non_null(strstr(script, "set title 'it''s system ''touch /tmp/x''' noenhanced"));
    esp_free(script);
}

static void a_figure_without_points_is_refused(void **state)
{
    (void)state;
    esp_error err = {0};
    char *script = NULL;
    esp_figure figure = {.title = "empty"};
    assert_int_equal(esp_figure_script(&figure, &script, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "no point to draw"));
}

static void an_unknown_ending_is_refused_before_anything_is_written(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_figure figure = one_series("t");
    assert_int_equal(esp_figure_write(&figure, "figure.bmp", &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "figure.bmp"));
    assert_non_null(strstr(err.message, ".png"));
}

/* Draws into a directory of its own and returns the first bytes of the file. */
static void draw(const char *ending, char *head, size_t size)
{
    char directory[] = "/tmp/espalier-figure-XXXXXX";
    char path[64];
    esp_error err = {0};
    char *data = NULL;
    size_t length = 0;
    esp_figure figure = one_series("drawn");
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/figure%s", directory, ending);
    if (esp_figure_write(&figure, path, &err) != ESP_OK) {
        fail_msg("%s", err.message);
    }
    assert_int_equal(esp_file_read(path, &data, &length, &err), ESP_OK);
    assert_true(length > 500);
    memcpy(head, data, size);
    esp_free(data);
    unlink(path);
    assert_int_equal(rmdir(directory), 0); /* no temporary file is left */
}

static void gnuplot_draws_png_svg_and_pdf(void **state)
{
    (void)state;
    char head[8];
    draw(".png", head, sizeof head);
    assert_memory_equal(head, "\x89PNG", 4);
    draw(".svg", head, sizeof head);
    assert_memory_equal(head, "<?xml", 5);
    draw(".pdf", head, sizeof head);
    assert_memory_equal(head, "%PDF", 4);
}

static void a_directory_that_does_not_exist_is_an_error_with_its_name(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_figure figure = one_series("t");
    assert_int_not_equal(esp_figure_write(&figure, "/nonexistent/figure.png", &err), ESP_OK);
    assert_non_null(strstr(err.message, "/nonexistent/figure.png"));
}

static void a_missing_gnuplot_is_an_error_with_a_hint(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_figure figure = one_series("t");
    char *path = esp_strdup(getenv("PATH"));
    setenv("PATH", "/nonexistent", 1);
    esp_status status = esp_figure_write(&figure, "/tmp/espalier-never.png", &err);
    setenv("PATH", path ? path : "", 1);
    esp_free(path);
    assert_int_equal(status, ESP_IO);
    assert_non_null(strstr(err.hint, "gnuplot"));
    assert_false(esp_file_exists("/tmp/espalier-never.png"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_script_holds_every_finite_point_and_no_other),
        cmocka_unit_test(a_title_cannot_end_its_string_or_line),
        cmocka_unit_test(a_figure_without_points_is_refused),
        cmocka_unit_test(an_unknown_ending_is_refused_before_anything_is_written),
        cmocka_unit_test(gnuplot_draws_png_svg_and_pdf),
        cmocka_unit_test(a_directory_that_does_not_exist_is_an_error_with_its_name),
        cmocka_unit_test(a_missing_gnuplot_is_an_error_with_a_hint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
