/* Surgery, the proof: two models run on the same random inputs, and how far their outputs lie apart.
 * Probabilities hide differences, so outputs behind a softmax are compared as logits. */
#include "prune/surgery_internal.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

void surgery_fill_input(const esp_view *view, esp_rng *rng)
{
    int64_t count = esp_shape_elements(&view->shape);
    if (view->dtype != ESP_F32) {
        memset(view->data, 0, (size_t)count * esp_dtype_size(view->dtype));
        return;
    }
    for (int64_t i = 0; i < count; i++)
        esp_view_f32(view)[i] = (float)esp_rng_normal(rng);
}

static esp_status open_model(const esp_compute *compute, const esp_graph *graph,
                             const esp_input_shape *input_shapes, int input_shape_count, int64_t batch,
                             esp_exec **out, esp_error *err)
{
    esp_exec_options options = {.batch = batch,
                                .input_shapes = input_shapes,
                                .input_shape_count = input_shape_count,
                                .stops_at_logits = true,
                                .slots = esp_compute_slots(compute)};
    return esp_exec_new(graph, &options, out, err);
}

/* Inputs agree in type and shape, and get the same numbers. */
static esp_status share_inputs(const esp_graph *graph, esp_exec *a, esp_exec *b, uint64_t seed,
                               esp_error *err)
{
    for (int i = 0; i < esp_graph_input_count(graph); i++) {
        const esp_view *first = esp_exec_input(a, i), *second = esp_exec_input(b, i);
        char first_text[96], second_text[96];
        if (first->dtype != second->dtype || !esp_shape_equal(&first->shape, &second->shape))
            return esp_fail(err, ESP_MISMATCH, "input '%s': %s in one model, %s in the other",
                            esp_graph_value(graph, esp_graph_input(graph, i))->name,
                            esp_shape_format(&first->shape, first_text, sizeof first_text),
                            esp_shape_format(&second->shape, second_text, sizeof second_text));
        esp_rng rng;
        esp_rng_seed_stream(&rng, seed, (uint64_t)i);
        surgery_fill_input(first, &rng);
        memcpy(second->data, first->data,
               (size_t)esp_shape_elements(&first->shape) * esp_dtype_size(first->dtype));
    }
    return ESP_OK;
}

/* Not-a-number on one side only counts as infinitely far. */
static double distance(double a, double b)
{
    if (isnan(a) && isnan(b))
        return 0;
    return isnan(a) || isnan(b) ? (double)INFINITY : a == b ? 0 : fabs(a - b);
}

static esp_status compare_output(const esp_graph *graph, int index, const esp_view *a, const esp_view *b,
                                 double *absolute, double *relative, esp_error *err)
{
    char first_text[96], second_text[96];
    if (a->dtype != b->dtype || !esp_shape_equal(&a->shape, &b->shape))
        return esp_fail(err, ESP_MISMATCH, "output '%s': %s in one model, %s in the other",
                        esp_graph_value(graph, esp_graph_output(graph, index))->name,
                        esp_shape_format(&a->shape, first_text, sizeof first_text),
                        esp_shape_format(&b->shape, second_text, sizeof second_text));
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < esp_shape_elements(&a->shape); i++) {
        double first = esp_view_get_f64(a, i), second = esp_view_get_f64(b, i);
        worst = fmax(worst, distance(first, second));
        largest = isfinite(first) ? fmax(largest, fabs(first)) : largest;
    }
    *absolute = fmax(*absolute, worst);
    *relative = fmax(*relative, largest > 0 ? worst / largest : worst);
    return ESP_OK;
}

esp_status esp_compare_outputs(const esp_compute *compute, const esp_graph *a, const esp_graph *b,
                               const esp_input_shape *input_shapes, int input_shape_count, int64_t batch,
                               uint64_t seed, double *largest_absolute, double *largest_relative,
                               esp_error *err)
{
    esp_exec *first = NULL, *second = NULL;
    double absolute = 0, relative = 0;
    if (esp_graph_input_count(a) != esp_graph_input_count(b) ||
        esp_graph_output_count(a) != esp_graph_output_count(b))
        return esp_fail(err, ESP_MISMATCH, "one model has %d inputs and %d outputs, the other %d and %d",
                        esp_graph_input_count(a), esp_graph_output_count(a), esp_graph_input_count(b),
                        esp_graph_output_count(b));
    esp_status status = open_model(compute, a, input_shapes, input_shape_count, batch, &first, err);
    if (status == ESP_OK)
        status = open_model(compute, b, input_shapes, input_shape_count, batch, &second, err);
    if (status == ESP_OK)
        status = share_inputs(a, first, second, seed, err);
    if (status == ESP_OK)
        status = esp_exec_forward(first, compute, err);
    if (status == ESP_OK)
        status = esp_exec_forward(second, compute, err);
    for (int i = 0; status == ESP_OK && i < esp_graph_output_count(a); i++)
        status = compare_output(a, i, esp_exec_output(first, i), esp_exec_output(second, i), &absolute,
                                &relative, err);
    esp_exec_free(first);
    esp_exec_free(second);
    if (status != ESP_OK)
        return status;
    *largest_absolute = absolute;
    *largest_relative = relative;
    return ESP_OK;
}
