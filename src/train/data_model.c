/* Data and model: does a set fit, and a lazy set at the size a model takes. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "graph/infer.h"
#include "graph/opaque.h"
#include "train/data_internal.h"

/* ---- does it fit a model? ---- */

bool esp_dataset_input_shape(const esp_dataset *dataset, const esp_graph *graph, int64_t batch,
                             esp_input_shape *out)
{
    const esp_value *input = esp_graph_value(graph, esp_graph_input(graph, 0));
    const int64_t image[4] = {batch, dataset->channels, dataset->height, dataset->width};
    esp_shape shape = input->shape.rank == 4 ? input->shape : esp_shape_make(4, image);
    bool is_open = input->shape.rank != 4;
    for (int i = 0; i < 4; i++) {
        if (shape.dims[i] < 0) {
            is_open = is_open || i > 0;
            shape.dims[i] = image[i];
        }
    }
    *out = (esp_input_shape){.name = input->name, .shape = shape};
    return is_open;
}

/* Images of files can come at any size. */
static void hint_size(const esp_dataset *dataset, const esp_shape *wanted, esp_error *err)
{
    bool can_fit = esp_dataset_is_lazy(dataset) && !esp_dataset_is_float(dataset) && wanted->rank == 4 &&
                   wanted->dims[2] > 0 && wanted->dims[3] > 0;
    if (can_fit) {
        esp_error_set_hint(err,
                           "the options crop=%" PRId64 "x%" PRId64 ",channels=%" PRId64
                           " after the spec (behind a '?') give them the model's size",
                           wanted->dims[2], wanted->dims[3], wanted->dims[1]);
    }
}

static esp_status check_input(const esp_dataset *dataset, const esp_graph *graph, esp_error *err)
{
    if (esp_graph_input_count(graph) != 1) {
        return esp_fail(err, ESP_SHAPE, "model has %d inputs, expected 1 for images",
                        esp_graph_input_count(graph));
    }
    const esp_value *input = esp_graph_value(graph, esp_graph_input(graph, 0));
    if (input->dtype != ESP_F32) {
        return esp_fail(err, ESP_SHAPE, "model input '%s' is %s, expected float32", input->name,
                        esp_dtype_name(input->dtype));
    }
    if (input->shape.rank < 0) {
        return ESP_OK;
    }
    const int64_t image[3] = {dataset->channels, dataset->height, dataset->width};
    bool fits = input->shape.rank == 4;
    for (int i = 0; fits && i < 3; i++) {
        fits = input->shape.dims[i + 1] < 0 || input->shape.dims[i + 1] == image[i];
    }
    if (!fits) {
        char text[128];
        esp_shape wanted = input->shape;
        if (wanted.rank == 4) { /* without the batch */
            wanted = esp_shape_make(3, input->shape.dims + 1);
        }
        esp_fail(err, ESP_SHAPE, "model input '%s' takes %s, but the images of '%s' are %dx%dx%d",
                 input->name, esp_shape_format(&wanted, text, sizeof(text)), dataset->name, dataset->channels,
                 dataset->height, dataset->width);
        hint_size(dataset, &input->shape, err);
        return ESP_SHAPE;
    }
    return ESP_OK;
}

static esp_status check_classes(const esp_dataset *dataset, const char *name, const esp_shape *shape,
                                esp_error *err)
{
    bool is_classifier = shape->rank >= 2;
    for (int i = 2; is_classifier && i < shape->rank; i++) {
        is_classifier = shape->dims[i] == 1;
    }
    if (!is_classifier) {
        char text[128];
        return esp_fail(err, ESP_SHAPE, "model output '%s' is %s, expected class scores Nx%d for '%s'", name,
                        esp_shape_format(shape, text, sizeof(text)), dataset->class_count, dataset->name);
    }
    int64_t classes = shape->dims[1];
    bool has_background = classes == (int64_t)dataset->class_count + 1;
    if (classes >= dataset->class_count && !has_background) {
        return ESP_OK;
    }
    esp_status status = esp_fail(err, ESP_SHAPE, "model output '%s' has %" PRId64 " classes, but '%s' has %d",
                                 name, classes, dataset->name, dataset->class_count);
    if (has_background) {
        esp_error_set_hint(err, "one class more is usually a background class 0, which shifts every label");
    } else {
        esp_error_set_hint(err,
                           "espalier train --replace-classifier gives it a last layer for these classes");
    }
    return status;
}

esp_status esp_dataset_check_model(const esp_dataset *dataset, const esp_graph *graph, esp_error *err)
{
    esp_status status = esp_opaque_check(graph, err);
    if (status == ESP_OK) {
        status = check_input(dataset, graph, err);
    }
    if (status != ESP_OK) {
        return status;
    }
    if (esp_graph_output_count(graph) != 1) {
        return esp_fail(err, ESP_SHAPE, "model has %d outputs, expected 1 with class scores",
                        esp_graph_output_count(graph));
    }
    esp_input_shape shape; /* at batch 1, or at the batch the model is fixed to */
    bool is_open = esp_dataset_input_shape(dataset, graph, 1, &shape);
    esp_inferred *inferred = NULL;
    status = esp_infer(graph, shape.shape.dims[0], is_open ? &shape : NULL, is_open ? 1 : 0, &inferred, err);
    if (status == ESP_OK) {
        int output = esp_graph_output(graph, 0);
        status = check_classes(dataset, esp_graph_value(graph, output)->name,
                               esp_inferred_shape(inferred, output), err);
    }
    esp_inferred_free(inferred);
    return status;
}
