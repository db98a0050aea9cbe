/* See dense_form.h. Numbers are all alike: kernels take the same time for any that are ordinary. */
#include "train/dense_form.h"

#include "base/clock.h"
#include "base/memory.h"
#include "tensor/arrange.h"
#include "tensor/blocked_conv.h"
#include "tensor/dense.h"
#include "train/latency.h"

enum { REPEATS = 7 };

typedef struct dense_form {
    const esp_compute *compute;
    const esp_conv_geometry *geometry;
    bool is_blocked;
    esp_blocked_conv plan;
    esp_view x, y;
    float *w;
    void *packed, *scratch;
} dense_form;

static bool is_fully_connected(const esp_conv_geometry *g)
{
    return g->height == 1 && g->width == 1 && g->kernel_h == 1 && g->kernel_w == 1 && g->group == 1;
}

static esp_view image_view(esp_layout layout, int64_t batch, int64_t channels, int64_t height, int64_t width)
{
    return (esp_view){
        .dtype = ESP_F32, .layout = layout, .shape = {.rank = 4, .dims = {batch, channels, height, width}}};
}

static float *filled(int64_t count)
{
    float *values = esp_alloc((size_t)count, sizeof *values);
    if (values != NULL)
        esp_fill_f32(values, count, 0.01f);
    return values;
}

static size_t scratch_bytes(const dense_form *it)
{
    int slots = esp_compute_slots(it->compute);
    if (is_fully_connected(it->geometry))
        return 0;
    return it->is_blocked ? esp_blocked_conv_scratch(&it->plan, slots)
                          : esp_conv_scratch(it->geometry, ESP_CONV_FORWARD, slots);
}

static esp_status prepare(dense_form *it, esp_error *err)
{
    const esp_conv_geometry *g = it->geometry;
    it->is_blocked = !is_fully_connected(g) && esp_engine_default()->has_blocked &&
                     esp_blocked_conv_plan(esp_engine_default(), g, ESP_CONV_FORWARD, false, &it->plan);
    esp_layout layout = it->is_blocked ? ESP_LAYOUT_BLOCKED : ESP_LAYOUT_PLAIN;
    it->x = image_view(layout, g->batch, g->channels, g->height, g->width);
    it->y = image_view(layout, g->batch, g->filters, g->out_height, g->out_width);
    int64_t weights = g->filters * (g->channels / g->group) * g->kernel_h * g->kernel_w;
    int64_t x = esp_view_storage(&it->x), y = esp_view_storage(&it->y);
    it->x.data = filled(x);
    it->y.data = filled(y);
    it->w = filled(weights);
    it->scratch = esp_alloc(scratch_bytes(it), 1);
    it->packed = esp_alloc(it->is_blocked ? esp_blocked_conv_packed_bytes(&it->plan) : 0, 1);
    if (it->x.data == NULL || it->y.data == NULL || it->w == NULL || it->scratch == NULL ||
        it->packed == NULL)
        return esp_fail_memory(err, "a layer's dense form", (size_t)(x + y + weights) * sizeof(float));
    if (!it->is_blocked)
        return ESP_OK;
    esp_status status = esp_blocked_conv_pack(it->compute, &it->plan, it->w, it->packed);
    return status == ESP_OK ? ESP_OK : esp_fail(err, status, "packing a layer's weights failed");
}

static esp_status run_once(const dense_form *it)
{
    const esp_conv_geometry *g = it->geometry;
    if (is_fully_connected(g)) {
        const esp_dense dense = {.rows = g->batch, .filters = g->filters, .channels = g->channels};
        return esp_dense_forward(it->compute, esp_engine_default(), &dense, esp_view_f32(&it->x), it->w,
                                 esp_view_f32(&it->y));
    }
    if (it->is_blocked)
        return esp_blocked_conv_run(it->compute, &it->plan, &it->x, it->packed, NULL, &it->y, it->scratch);
    return esp_conv_forward(it->compute, g, esp_view_f32(&it->x), it->w, NULL, esp_view_f32(&it->y),
                            it->scratch);
}

static esp_status time_runs(const dense_form *it, double *out, esp_error *err)
{
    double seconds[REPEATS];
    esp_status status = run_once(it); /* warm */
    for (int i = 0; status == ESP_OK && i < REPEATS; i++) {
        double start = esp_clock_s();
        status = run_once(it);
        seconds[i] = esp_clock_s() - start;
    }
    if (status != ESP_OK)
        return esp_fail(err, status,
                        status == ESP_CANCELLED ? "cancelled" : "running a layer's dense form failed");
    *out = esp_median(seconds, REPEATS);
    return ESP_OK;
}

esp_status esp_dense_form_seconds(const esp_compute *compute, const esp_conv_geometry *geometry, double *out,
                                  esp_error *err)
{
    dense_form it = {.compute = compute, .geometry = geometry};
    esp_status status = prepare(&it, err);
    if (status == ESP_OK)
        status = time_runs(&it, out, err);
    esp_free(it.x.data);
    esp_free(it.y.data);
    esp_free(it.w);
    esp_free(it.packed);
    esp_free(it.scratch);
    return status;
}
