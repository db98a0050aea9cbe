/* Calibration images are few, so the subset is a copy and its batches are filled in the calling thread's
 * order: nothing here depends on the number of threads. */
#include "train/calibration.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "train/evaluator.h"

enum { MEMORY_BUDGET = 256 << 20, MOST_IMAGES = 64 };

static esp_status take_images(const esp_dataset *dataset, int64_t images, uint64_t seed, esp_dataset **out,
                              esp_error *err)
{
    if (images < 0)
        return esp_fail(err, ESP_INVALID, "calibration: %" PRId64 " images, expected at least 1", images);
    if (images > 0)
        return esp_dataset_subset(dataset, images, seed, out, err);
    *out = esp_dataset_ref(dataset);
    return ESP_OK;
}

esp_status esp_calibration_open(const esp_graph *model, const esp_dataset *dataset, int64_t images,
                                uint64_t seed, const char *mean, const char *std, esp_calibration *out,
                                esp_error *err)
{
    esp_calibration made = {0};
    esp_dataset *fitted = NULL;
    esp_status status = esp_dataset_fit(dataset, model, &fitted, err);
    if (status == ESP_OK)
        status = esp_dataset_check_model(fitted, model, err);
    if (status == ESP_OK)
        status = esp_normalization_of(model, esp_dataset_channels(fitted), &made.normalization, err);
    if (status == ESP_OK)
        status = esp_normalization_override(&made.normalization, mean, std, err);
    if (status == ESP_OK)
        status = take_images(fitted, images, seed, &made.images, err);
    if (status == ESP_OK) {
        made.count = esp_dataset_count(made.images);
        made.image_size =
            (int64_t)esp_dataset_channels(fitted) * esp_dataset_height(fitted) * esp_dataset_width(fitted);
        made.indices = esp_alloc((size_t)made.count, sizeof *made.indices);
        made.labels = esp_alloc((size_t)made.count, sizeof *made.labels);
        if (made.indices == NULL || made.labels == NULL)
            status = esp_fail_memory(err, "calibration images", (size_t)made.count * sizeof *made.indices);
    }
    esp_dataset_unref(fitted);
    if (status == ESP_OK)
        *out = made;
    else
        esp_calibration_close(&made);
    return status;
}

void esp_calibration_close(esp_calibration *calibration)
{
    esp_dataset_unref(calibration->images);
    esp_free(calibration->indices);
    esp_free(calibration->labels);
    *calibration = (esp_calibration){0};
}

esp_status esp_calibration_fill(esp_calibration *calibration, const esp_compute *compute, int64_t first,
                                int64_t count, int64_t batch, esp_exec *exec, esp_error *err)
{
    float *x = esp_view_f32(esp_exec_input(exec, 0));
    for (int64_t i = 0; i < count; i++)
        calibration->indices[i] = (uint32_t)(first + i);
    const esp_batch_labels labels = {.label = calibration->labels};
    esp_status status = esp_batch_read(compute, calibration->images, &calibration->normalization, NULL, 0, 0,
                                       calibration->indices, count, x, &labels, err);
    if (status != ESP_OK)
        return status;
    int64_t rest = (batch - count) * calibration->image_size;
    memset(x + count * calibration->image_size, 0, (size_t)rest * sizeof *x);
    return ESP_OK;
}

esp_status esp_calibration_exec(const esp_calibration *calibration, const esp_graph *graph,
                                esp_exec_options options, esp_exec **out, int64_t *batch, esp_error *err)
{
    *batch = options.batch;
    esp_status status = esp_image_exec_new(graph, calibration->images, options, out, err);
    if (status == ESP_SHAPE && options.batch > 1) {
        *batch = options.batch = 1;
        status = esp_image_exec_new(graph, calibration->images, options, out, err);
    }
    return status;
}

int64_t esp_calibration_batch(const esp_calibration *calibration, int64_t asked, int64_t image_bytes)
{
    int64_t batch = asked;
    if (asked == 0) {
        batch = MEMORY_BUDGET / (image_bytes + 1);
        batch = batch < MOST_IMAGES ? batch : MOST_IMAGES;
    }
    batch = batch < calibration->count ? batch : calibration->count;
    return batch > 1 ? batch : 1;
}
