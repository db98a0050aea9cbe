/* Linear least squares by normal equations, in double: many samples come in rows, few unknowns go out. */
#ifndef ESP_PRUNE_LEAST_SQUARES_H
#define ESP_PRUNE_LEAST_SQUARES_H

#include <stdbool.h>

#include "base/compute.h"

typedef struct esp_normal {
    int64_t unknowns, targets;
    int64_t samples;
    double *gram;    /* [unknowns, unknowns]: sum x x', its lower half */
    double *cross;   /* [unknowns, targets]: sum x y' */
    double *sum_x;   /* [unknowns] */
    double *sum_y;   /* [targets] */
    double *squares; /* [targets]: sum y^2 */
    bool is_centered;
} esp_normal;

/* Unknowns that have room: more take gigabytes. */
enum { ESP_NORMAL_MOST = 8192 };

esp_status esp_normal_new(int64_t unknowns, int64_t targets, esp_normal *out, esp_error *err);
void esp_normal_free(esp_normal *normal);

/* Adds samples x [rows, unknowns] and y [rows, targets]. The same bits for any number of threads. */
esp_status esp_normal_add(const esp_compute *compute, esp_normal *normal, int64_t rows, const float *x,
                          const float *y, esp_error *err);

/* Takes the means off, once all samples are in: what is solved then is the slope of a fit with an intercept,
 * which is sum_y / samples - w' sum_x / samples. */
void esp_normal_center(esp_normal *normal);

/* For some of the targets, min over w of sum (y - w'x)^2 + lambda |w - start|^2 on the unknowns `columns`
 * (ascending), the others at 0. `start` and `out` are [target_count, column_count]; they may be the same.
 * lambda >= 0. A system that cannot be solved in double is solved with ten times the lambda, and so on;
 * ESP_INVALID when that does not help (numbers that are not finite). */
esp_status esp_normal_solve(const esp_compute *compute, const esp_normal *normal, int64_t column_count,
                            const int64_t *columns, int64_t target_count, const int64_t *targets,
                            double lambda, const double *start, double *out, esp_error *err);

/* out[target_count]: sum (y - w'x)^2 of each of these targets, w [target_count, column_count] on `columns`.
 * The same bits for any number of threads. */
esp_status esp_normal_residuals(const esp_compute *compute, const esp_normal *normal, int64_t column_count,
                                const int64_t *columns, int64_t target_count, const int64_t *targets,
                                const double *w, double *out, esp_error *err);

#endif
