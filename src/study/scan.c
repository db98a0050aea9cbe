/* Copies, so that readers draw while the scan goes on filling its own tables. */
#include "study/scan.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

static void release_scan(esp_shared *shared)
{
    esp_scan *scan = (esp_scan *)shared;

    esp_free(scan->curves);
    esp_free(scan->points);
    esp_free(scan);
}

static void copy_point(const esp_sensitivity_point *from, esp_scan_point *to)
{
    *to = (esp_scan_point){.is_done = from->is_done,
                           .ratio = from->ratio,
                           .got = from->got,
                           .top1_change = from->top1_change.value,
                           .top1_error = from->top1_change.error,
                           .loss_change = from->loss_change.value};
}

static void copy_curve(const esp_sensitivity_curve *from, const esp_layers *layers, esp_scan_point *points,
                       esp_scan_curve *to)
{
    snprintf(to->name, sizeof to->name, "%s", from->name);
    snprintf(to->note, sizeof to->note, "%s", from->note);
    to->layer = esp_layers_find(layers, from->name);
    to->layer_count = from->layer_count;
    to->point_count = from->point_count;
    to->points = points;
    for (int i = 0; i < from->point_count; i++)
        copy_point(&from->points[i], &points[i]);
    to->ratio = esp_sensitivity_ratio(from, ESP_SENSITIVITY_TOP1, ESP_SCAN_TOLERANCE);
}

esp_status esp_scan_new(const esp_sensitivity *so_far, const esp_layers *layers, int version, const char *by,
                        bool is_running, esp_scan **out, esp_error *err)
{
    esp_scan *scan = esp_alloc_zero(1, sizeof *scan);
    int used = 0;

    *out = NULL;
    if (!scan)
        return esp_fail_memory(err, "scan", sizeof *scan);
    esp_shared_init(&scan->shared, release_scan);
    scan->version = version;
    scan->is_running = is_running;
    snprintf(scan->by, sizeof scan->by, "%s", by);
    scan->images = so_far->images;
    scan->top1 = so_far->baseline.top1.percent;
    for (int c = 0; c < so_far->curve_count; c++)
        scan->total += so_far->curves[c].point_count;
    scan->curves = esp_alloc_zero((size_t)so_far->curve_count + 1, sizeof *scan->curves);
    scan->points = esp_alloc_zero((size_t)scan->total + 1, sizeof *scan->points);
    if (!scan->curves || !scan->points) {
        release_scan(&scan->shared);
        return esp_fail_memory(err, "scan", (size_t)scan->total * sizeof *scan->points);
    }
    for (int c = 0; c < so_far->curve_count; c++) {
        copy_curve(&so_far->curves[c], layers, scan->points + used, &scan->curves[c]);
        used += so_far->curves[c].point_count;
    }
    scan->curve_count = so_far->curve_count;
    for (int i = 0; i < scan->total; i++)
        scan->done += scan->points[i].is_done ? 1 : 0;
    *out = scan;
    return ESP_OK;
}
