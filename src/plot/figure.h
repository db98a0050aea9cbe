/* Figures: series of points drawn by gnuplot into PNG, SVG or PDF. */
#ifndef ESP_PLOT_FIGURE_H
#define ESP_PLOT_FIGURE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef enum esp_series_style {
    ESP_SERIES_LINES,
    ESP_SERIES_POINTS,
    ESP_SERIES_LINES_POINTS
} esp_series_style;

typedef struct esp_series {
    const char *title; /* legend; NULL or "" leaves it out of the legend */
    esp_series_style style;
    size_t count;
    const double *x, *y;       /* [count]; points that are not finite are left out */
    const double *y_error;     /* [count] half-widths of error bars, or NULL */
    const char *const *labels; /* [count] text beside each point, or NULL; entries may be NULL */
} esp_series;

typedef struct esp_figure {
    const char *title, *x_label, *y_label; /* NULL is "" */
    bool x_is_log, y_is_log;               /* logarithmic axes: values must be positive */
    int width, height;                     /* pixels; 0 = 960 x 640 */
    size_t series_count;
    const esp_series *series;
} esp_figure;

/* The gnuplot script of a figure without terminal and output settings; caller frees (esp_free). Text is
 * passed literally: no part of a title can act as a command. */
esp_status esp_figure_script(const esp_figure *figure, char **out, esp_error *err);

/* Whether esp_figure_write knows the ending of `path`: to be asked before hours of work. ESP_INVALID. */
esp_status esp_figure_check_path(const char *path, esp_error *err);

/* Draws into `path`; its ending (.png, .svg, .pdf) decides the format. Written under a temporary name and
 * renamed, so a failure leaves an old file alone. Errors: unknown ending (ESP_INVALID), nothing to draw
 * (ESP_INVALID), gnuplot missing (ESP_IO, with a hint), gnuplot's own complaint (ESP_INTERNAL, its first
 * line). */
esp_status esp_figure_write(const esp_figure *figure, const char *path, esp_error *err);

#endif
