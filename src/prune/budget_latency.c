/* Latency before anything is cut: the running network is measured once, step by step, and each layer's time
 * is then scaled by how the latency table's times at its new and at its full width compare. So the table has
 * to know only how a layer's time changes with its width; what the network adds to it (fused batch-norm,
 * caches, other layouts) is in the measurement. Steps without a layer scale with the channels of what they
 * make, and what the steps do not add up to (dispatch, waking threads) stays. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "graph/ops.h"
#include "prune/budget_internal.h"
#include "prune/counts.h"

/* A layer's share of the running network. */
typedef struct timed_layer {
    bool is_known; /* the table can measure it; else its time goes with its weights */
    esp_conv_geometry geometry;
    double ms;         /* in the network */
    double full_table; /* seconds at full width */
} timed_layer;

/* A step that is no layer's. */
typedef struct timed_step {
    int node;
    double ms;
} timed_step;

struct budget_latency {
    esp_latency_table *table;
    esp_group_form form;
    double whole_ms, rest_ms; /* all of it; what no step accounts for */
    int layer_count, step_count;
    timed_layer *layers;
    timed_step *steps;
};

/* ---- geometry ---- */

static bool read_rows(const esp_layer *layer, const esp_shape *x, esp_conv_geometry *out)
{
    int64_t elements = 1;

    for (int i = 0; i < x->rank; i++)
        elements *= x->dims[i];
    const esp_window pixel = {
        .size = {1, 1}, .kernel = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}, .out = {1, 1}};
    *out = esp_window_geometry(&pixel, layer->channels > 0 ? elements / layer->channels : 0, layer->channels,
                               layer->filters, 1);
    return out->batch > 0;
}

/* What the table calls this layer; false for layers that are no convolutions of images. */
static bool read_geometry(const esp_graph *graph, const esp_inferred *inferred, const esp_layer *layer,
                          esp_conv_geometry *out)
{
    const esp_node *node = esp_graph_node(graph, layer->node);
    const esp_shape *x = esp_inferred_shape(inferred, node->inputs[0]);
    const int64_t kernel[2] = {layer->kernel_h, layer->kernel_w};
    esp_window window = {0};

    if (!layer->is_conv)
        return read_rows(layer, x, out);
    if (x->rank != 4 || layer->filter_axis > layer->channel_axis ||
        esp_op_window(node, x, kernel, false, &window, NULL) != ESP_OK)
        return false;
    *out = esp_window_geometry(&window, x->dims[0], x->dims[1], layer->filters, layer->group);
    return true;
}

/* ---- what remains of a layer ---- */

typedef struct layer_width {
    int64_t filters, channels; /* of the whole layer, all groups of a grouped convolution together */
    double density;            /* share of filters * channels that is connected */
    int64_t groups;            /* executed groups of a self-grouped layer; 0: dense */
} layer_width;

static int64_t count_remaining(const int32_t *slots, int64_t count, const bool *is_removed)
{
    int64_t remaining = 0;

    for (int64_t i = 0; i < count; i++)
        remaining += !is_removed[slots[i]];
    return remaining;
}

static layer_width width_of(const budget_latency *model, const esp_preview *preview,
                            const esp_coupling *coupling, const bool *is_removed, int l)
{
    const esp_layer *layer = &preview->layers.items[l];
    const esp_preview_layer *item = &preview->items[l];
    const int32_t *writes = esp_coupling_writes(coupling, l), *reads = esp_coupling_reads(coupling, l);
    int64_t all = layer->channels * layer->group;
    layer_width width = {layer->filters, all, 1, 0};

    if (writes)
        width.filters = count_remaining(writes, layer->filters, is_removed);
    if (layer->group > 1) { /* its channels go with its filters */
        width.channels = layer->filters > 0 ? all * width.filters / layer->filters : all;
        return width;
    }
    if (reads)
        width.channels = count_remaining(reads, layer->channels, is_removed);
    if (!item->grouping.labels || model->form != ESP_GROUP_FORM_GROUPED || !width.filters)
        return width;
    width.channels = esp_mask_channels_read(&item->mask);
    if (width.channels > 0)
        width.density = (double)esp_mask_kept(&item->mask) / (double)(width.filters * width.channels);
    width.groups = width.density < 1 ? item->grouping.executed_groups : 0;
    return width;
}

/* ---- times ---- */

/* The power of two at or above: as many groups as that take about as long. */
static int64_t round_groups(int64_t groups, int64_t filters)
{
    int64_t up = 1;

    while (up < groups)
        up *= 2;
    return up < filters ? up : filters;
}

/* Groups are measured at eighths of the channels; straight between them. */
static esp_status grouped_seconds(budget_latency *model, esp_latency_case item, double density, double *out,
                                  esp_error *err)
{
    double position = fmin(fmax(density, 0), 1) * ESP_LATENCY_READ_STEPS, low = 0, high = 0;
    int64_t step = (int64_t)position;
    esp_status status = ESP_OK;

    item.read = step;
    if (step >= 1)
        status = esp_latency_table_seconds(model->table, &item, &low, err);
    item.read = step + 1;
    if (status == ESP_OK && step < ESP_LATENCY_READ_STEPS)
        status = esp_latency_table_seconds(model->table, &item, &high, err);
    else
        high = low;
    *out = low + (position - (double)step) * (high - low);
    return status;
}

static esp_status table_seconds(budget_latency *model, const timed_layer *layer, const layer_width *width,
                                double *out, esp_error *err)
{
    const esp_conv_geometry *full = &layer->geometry;
    esp_latency_case item = {.geometry = *full};
    bool is_row = full->height == 1 && full->width == 1 && full->kernel_h == 1 && full->kernel_w == 1;

    *out = 0;
    if (width->filters < 1 || width->channels < 1)
        return ESP_OK;
    item.geometry.filters = esp_latency_width(width->filters, full->filters);
    if (full->group > 1) { /* groups stay as wide as they are */
        int64_t filters_per_group = full->filters / full->group,
                channels_per_group = full->channels / full->group;
        int64_t groups = (item.geometry.filters + filters_per_group - 1) / filters_per_group;
        item.geometry.group = groups;
        item.geometry.filters = groups * filters_per_group;
        item.geometry.channels = groups * channels_per_group;
        return esp_latency_table_seconds(model->table, &item, out, err);
    }
    item.geometry.channels = esp_latency_width(width->channels, full->channels);
    if (width->groups && is_row) { /* reading weights is all it does */
        int64_t read = (int64_t)ceil(width->density * (double)width->channels);
        item.geometry.channels = esp_latency_width(read, full->channels);
    } else if (width->groups) {
        item.groups = round_groups(width->groups, item.geometry.filters);
        return grouped_seconds(model, item, width->density, out, err);
    }
    return esp_latency_table_seconds(model->table, &item, out, err);
}

/* ---- the running network ---- */

static int64_t macs_in_step(const esp_layers *layers, const esp_latency_result *result, int step)
{
    int64_t macs = 0;

    for (int l = 0; l < layers->count; l++)
        if (result->node_info[layers->items[l].node].fused_into == step)
            macs += layers->items[l].macs;
    return macs;
}

/* What the steps do not add up to is the same for every network, but only so much of it: on a busy machine
 * the medians of short steps are undisturbed and that of a whole run is not, and what the machine did
 * meanwhile goes with the steps. Nor may they exceed the whole: taking their times costs time. */
#define REST_MOST 0.1

static void scale_steps(budget_latency *model, double sum)
{
    double scale;

    model->rest_ms = fmin(fmax(0, model->whole_ms - sum), REST_MOST * sum);
    if (!(sum > 0))
        return;
    scale = (model->whole_ms - model->rest_ms) / sum;
    for (int l = 0; l < model->layer_count; l++)
        model->layers[l].ms *= scale;
    for (int s = 0; s < model->step_count; s++)
        model->steps[s].ms *= scale;
}

/* Divides the measured steps among layers and the rest. A step that does several layers' work is divided by
 * their MACs. */
static void divide_steps(budget_latency *model, const esp_layers *layers, const esp_latency_result *result)
{
    double sum = 0;

    for (int l = 0; l < layers->count; l++) {
        int step = result->node_info[layers->items[l].node].fused_into;
        int64_t macs = macs_in_step(layers, result, step);
        double share = macs > 0 ? (double)layers->items[l].macs / (double)macs : 0;
        model->layers[l].ms = share * result->node_ms[step];
        sum += model->layers[l].ms;
    }
    for (int n = 0; n < result->node_count; n++) {
        if (!(result->node_ms[n] > 0) || macs_in_step(layers, result, n) > 0)
            continue;
        model->steps[model->step_count++] = (timed_step){n, result->node_ms[n]};
        sum += result->node_ms[n];
    }
    scale_steps(model, sum);
}

/* A busy machine makes the runs of one network differ, and what then is whose nobody can tell: the quietest
 * of some measurements counts. */

static esp_status measure_quietly(const esp_compute *compute, const esp_graph *graph,
                                  const esp_latency_options *options, esp_latency_result *out, esp_error *err)
{
    esp_latency_result best = {0};
    esp_status status = ESP_OK;

    for (int i = 0;
         status == ESP_OK && i < BUDGET_MEASUREMENTS && (i == 0 || best.spread > BUDGET_QUIET_SPREAD); i++) {
        esp_latency_result one = {0};
        status = esp_measure_latency(compute, graph, options, true, &one, err);
        if (status == ESP_OK && (i == 0 || one.spread < best.spread)) {
            esp_latency_result held = best;
            best = one;
            one = held;
        }
        esp_free(one.node_ms);
        esp_free(one.node_info);
    }
    if (status == ESP_OK) {
        *out = best;
    } else {
        esp_free(best.node_ms);
        esp_free(best.node_info);
    }
    return status;
}

static esp_status measure_network(const esp_compute *compute, const esp_preview *whole,
                                  const esp_budget_options *options, budget_latency *model, esp_error *err)
{
    const esp_latency_options latency = {.batch = options->batch,
                                         .repeats = options->repeats,
                                         .input_shapes = options->input_shapes,
                                         .input_shape_count = options->input_shape_count};
    esp_latency_result result = {0};
    esp_status status = measure_quietly(compute, whole->graph, &latency, &result, err);

    if (status != ESP_OK)
        return status;
    model->whole_ms = result.median_ms;
    model->layer_count = whole->layers.count;
    model->step_count = 0;
    if (!model->layers) { /* not measured before */
        model->layers = esp_alloc_zero((size_t)whole->layers.count, sizeof *model->layers);
        model->steps = esp_alloc_zero((size_t)result.node_count, sizeof *model->steps);
    }
    if (model->layers && model->steps)
        divide_steps(model, &whole->layers, &result);
    else
        status = esp_fail_memory(err, "latency of layers", (size_t)result.node_count * sizeof *model->steps);
    esp_free(result.node_ms);
    esp_free(result.node_info);
    return status;
}

static esp_status measure_layers(const esp_compute *compute, const esp_preview *whole,
                                 const esp_budget_options *options, budget_latency *model, esp_error *err)
{
    esp_inferred *inferred = NULL;
    esp_status status = esp_infer(whole->graph, options->batch > 0 ? options->batch : 1,
                                  options->input_shapes, options->input_shape_count, &inferred, err);

    for (int l = 0; status == ESP_OK && l < model->layer_count; l++) {
        timed_layer *layer = &model->layers[l];
        const esp_progress progress = {.stage = "latency of layers",
                                       .done = l,
                                       .total = model->layer_count,
                                       .unit = "layers",
                                       .eta_s = -1,
                                       .detail = ""};
        esp_compute_report(compute, &progress);
        layer->is_known = read_geometry(whole->graph, inferred, &whole->layers.items[l], &layer->geometry);
        if (layer->is_known) {
            const layer_width full = {layer->geometry.filters, layer->geometry.channels, 1, 0};
            status = table_seconds(model, layer, &full, &layer->full_table, err);
        }
    }
    esp_inferred_free(inferred);
    return status;
}

esp_status budget_latency_new(const esp_compute *compute, const esp_preview *whole,
                              const esp_budget_options *options, budget_latency **out, esp_error *err)
{
    budget_latency *model = esp_alloc_zero(1, sizeof *model);
    esp_status status;

    *out = NULL;
    if (!model)
        return esp_fail_memory(err, "a latency model", sizeof *model);
    model->form = options->group_form;
    status = esp_latency_table_open(compute, options->table_path, &model->table, err);
    if (status == ESP_OK)
        status = measure_network(compute, whole, options, model, err);
    if (status == ESP_OK)
        status = measure_layers(compute, whole, options, model, err);
    if (status == ESP_OK)
        *out = model;
    else
        budget_latency_free(model);
    return status;
}

esp_status budget_latency_renew(budget_latency *model, const esp_compute *compute, const esp_preview *whole,
                                const esp_budget_options *options, esp_error *err)
{
    return measure_network(compute, whole, options, model, err);
}

void budget_latency_free(budget_latency *model)
{
    if (!model)
        return;
    esp_latency_table_free(model->table);
    esp_free(model->layers);
    esp_free(model->steps);
    esp_free(model);
}

double budget_latency_before(const budget_latency *model)
{
    return model->whole_ms;
}

const esp_latency_table *budget_latency_table(const budget_latency *model)
{
    return model->table;
}

esp_status budget_latency_save(budget_latency *model, esp_error *err)
{
    return esp_latency_table_save(model->table, err);
}

/* ---- predicting ---- */

static esp_status layer_ms(budget_latency *model, const esp_preview *preview, const esp_coupling *coupling,
                           const bool *is_removed, int l, double *out, esp_error *err)
{
    const timed_layer *layer = &model->layers[l];
    const esp_preview_layer *item = &preview->items[l];
    layer_width width = width_of(model, preview, coupling, is_removed, l);
    double seconds = 0;
    esp_status status;

    if (!layer->is_known || !(layer->full_table > 0)) {
        *out = layer->ms *
               (item->params_before > 0 ? (double)item->params_after / (double)item->params_before : 1);
        return ESP_OK;
    }
    status = table_seconds(model, layer, &width, &seconds, err);
    *out = layer->ms * seconds / layer->full_table;
    return status;
}

/* Share of the channels of what a step makes that remain. */
static double step_share(const esp_graph *graph, const esp_coupling *coupling, const bool *is_removed,
                         int node)
{
    int output = esp_graph_node(graph, node)->outputs[0];
    esp_value_slots slots = {.axis = -1};

    if (output >= 0)
        slots = esp_coupling_value(coupling, output);
    if (slots.axis < 0 || slots.count < 1)
        return 1;
    return (double)count_remaining(slots.slots, slots.count, is_removed) / (double)slots.count;
}

esp_status budget_latency_predict(budget_latency *model, const esp_preview *preview,
                                  const esp_coupling *coupling, double *ms, esp_error *err)
{
    double sum = model->rest_ms;
    esp_status status = ESP_OK;

    for (int l = 0; status == ESP_OK && l < model->layer_count; l++) {
        double one = 0;
        status = layer_ms(model, preview, coupling, preview->is_removed, l, &one, err);
        sum += one;
    }
    for (int s = 0; status == ESP_OK && s < model->step_count; s++)
        sum += model->steps[s].ms *
               step_share(preview->graph, coupling, preview->is_removed, model->steps[s].node);
    if (status == ESP_OK)
        *ms = sum;
    return status;
}
