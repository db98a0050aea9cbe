/* The comparison runs both models through the executor here, apart from surgery's own check; which slots are
 * removable is read from the masks, apart from surgery's analysis. */
#include "unit/prune/surgery_checks.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "graph/exec.h"
#include "graph/op.h"
#include "prune/slots.h"

#define TOLERANCE 1e-4 /* rounding of float32 sums through the layers of a small network, with a margin */

esp_preview *check_plan(const esp_graph *graph, esp_method method, esp_mode mode, double ratio, int groups)
{
    esp_error err = {0};
    esp_preview *preview = NULL;
    esp_plan plan = esp_plan_make(method, mode, ratio);
    plan.groups = groups;
    plan.restarts = 2;
    expect_ok(esp_preview_new(NULL, graph, &plan, NULL, 0, NULL, &preview, &err), &err);
    esp_plan_free(&plan);
    return preview;
}

esp_preview *check_open(const esp_graph *graph, esp_method method)
{
    esp_preview *preview = check_plan(graph, ESP_METHOD_WSP, ESP_MODE_FAITHFUL, 0, 16);
    preview->plan.method = method;
    return preview;
}

int check_layer(const esp_preview *preview, const char *name)
{
    int layer = esp_layers_find(&preview->layers, name);
    if (layer < 0)
        fail_msg("there is no layer '%s'", name);
    return layer;
}

esp_mask *check_mask(const esp_preview *preview, const char *name)
{
    return &preview->items[check_layer(preview, name)].mask;
}

void check_mask_at_random(esp_preview *preview, esp_rng *rng)
{
    for (int i = 0; i < preview->layers.count; i++) {
        esp_mask *mask = &preview->items[i].mask;
        if (esp_rng_below(rng, 4) == 0 || preview->layers.items[i].group > 1)
            continue;
        for (int64_t f = 0; f < mask->filters; f++) {
            if (esp_rng_below(rng, 3) == 0)
                esp_mask_clear_filter(mask, f);
        }
        for (int64_t c = 0; c < mask->channels; c++) {
            if (esp_rng_below(rng, 3) == 0)
                esp_mask_clear_channel(mask, c);
        }
        for (int64_t k = 0; esp_rng_below(rng, 2) == 0 && k < mask->filters; k++)
            esp_mask_clear(mask, k, (int64_t)esp_rng_below(rng, (uint64_t)mask->channels));
    }
}

/* ---- outputs ---- */

static esp_exec *run(const esp_graph *graph, int64_t batch)
{
    esp_error err = {0};
    esp_exec *exec = NULL;
    esp_rng rng;
    esp_exec_options options = {.batch = batch, .stops_at_logits = true, .slots = 1};
    expect_ok(esp_exec_new(graph, &options, &exec, &err), &err);
    esp_rng_seed(&rng, 77);
    for (int i = 0; i < esp_graph_input_count(graph); i++) {
        const esp_view *view = esp_exec_input(exec, i);
        for (int64_t k = 0; k < esp_shape_elements(&view->shape); k++)
            esp_view_f32(view)[k] = (float)esp_rng_normal(&rng);
    }
    expect_ok(esp_exec_forward(exec, NULL, &err), &err);
    return exec;
}

double check_difference(const esp_graph *a, const esp_graph *b, int64_t batch)
{
    esp_exec *first = run(a, batch), *second = run(b, batch);
    double worst = 0;
    assert_int_equal(esp_graph_output_count(a), esp_graph_output_count(b));
    for (int i = 0; i < esp_graph_output_count(a); i++) {
        const esp_view *x = esp_exec_output(first, i), *y = esp_exec_output(second, i);
        double largest = 0, difference = 0;
        assert_true(esp_shape_equal(&x->shape, &y->shape));
        for (int64_t k = 0; k < esp_shape_elements(&x->shape); k++) {
            largest = fmax(largest, fabs((double)esp_view_f32(x)[k]));
            double gap = fabs((double)esp_view_f32(x)[k] - (double)esp_view_f32(y)[k]);
            difference = gap > difference || isnan(gap) ? gap : difference;
        }
        worst = fmax(worst, isnan(difference) ? 1e30 : largest > 0 ? difference / largest : difference);
    }
    esp_exec_free(first);
    esp_exec_free(second);
    return worst;
}

/* ---- what remains ---- */

static bool is_last(const net_view *view, int32_t slot)
{
    for (int v = 0; v < esp_graph_value_count(view->graph); v++) {
        esp_value_slots item = esp_coupling_value(view->coupling, v);
        bool is_alone = item.axis >= 0;
        for (int64_t c = 0; c < item.count && is_alone; c++)
            is_alone = item.slots[c] == slot;
        if (is_alone)
            return true;
    }
    return false;
}

/* No slot may be left of which all filters and all columns are masked, unless it is the last of some tensor.
 */
static void check_nothing_is_left(const esp_graph *cut)
{
    esp_error err = {0};
    net_view view = net_look(esp_graph_ref(cut));
    size_t count = (size_t)view.layers->count;
    esp_mask *masks = esp_alloc_zero(count, sizeof *masks);
    bool *is_removable = esp_alloc_zero((size_t)esp_coupling_slot_limit(view.coupling), sizeof *is_removable);
    for (size_t i = 0; i < count; i++)
        expect_ok(esp_mask_of_layer(cut, &view.layers->items[i], &masks[i], &err), &err);
    expect_ok(esp_slots_removable(view.coupling, view.layers, masks, is_removable, &err), &err);
    for (int32_t slot = 1; slot < esp_coupling_slot_limit(view.coupling); slot++) {
        if (is_removable[slot] && !is_last(&view, slot))
            fail_msg("slot %d of the cut model could still be removed", slot);
    }
    for (size_t i = 0; i < count; i++)
        esp_mask_free(&masks[i]);
    esp_free(masks);
    esp_free(is_removable);
    net_forget(&view);
}

/* MACs that the masks leave. */
static int64_t masked_macs(const esp_preview *preview)
{
    int64_t total = 0;
    for (int i = 0; i < preview->layers.count; i++) {
        const esp_layer *layer = &preview->layers.items[i];
        total +=
            esp_mask_kept(&preview->items[i].mask) * layer->kernel_h * layer->kernel_w * layer->positions;
    }
    return total;
}

int64_t check_count_removable(const esp_preview *preview)
{
    esp_error err = {0};
    net_view view = net_look(esp_graph_ref(preview->graph));
    size_t count = (size_t)preview->layers.count;
    esp_mask *masks = esp_alloc_zero(count, sizeof *masks);
    bool *is_removable = esp_alloc_zero((size_t)esp_coupling_slot_limit(view.coupling), sizeof *is_removable);
    int64_t removable = 0;
    for (size_t i = 0; i < count; i++)
        masks[i] = preview->items[i].mask;
    expect_ok(esp_slots_removable(view.coupling, view.layers, masks, is_removable, &err), &err);
    for (int32_t slot = 1; slot < esp_coupling_slot_limit(view.coupling); slot++)
        removable += is_removable[slot];
    esp_free(masks);
    esp_free(is_removable);
    net_forget(&view);
    return removable;
}

/* Masked and cut model count the same; where constants were cut off readers, the cut model has less. */
static void check_counts(const esp_preview *preview, const esp_surgery_report *report)
{
    int64_t removable = check_count_removable(preview);
    bool has_depthwise = false;
    for (int i = 0; i < preview->layers.count; i++)
        has_depthwise = has_depthwise || preview->layers.items[i].group > 1;
    if (report->slots_removed == removable && !has_depthwise)
        assert_int_equal(report->counts.macs, masked_macs(preview));
    else
        assert_true(report->counts.macs <= masked_macs(preview));
}

/* Whether the model has slices that are zero without being masked: those cannot be told from masks
 * afterwards. */
static bool has_zeros_of_its_own(const esp_preview *preview)
{
    bool has_zeros = false;
    for (int i = 0; i < preview->layers.count; i++) {
        const esp_layer *layer = &preview->layers.items[i];
        int64_t positions = layer->kernel_h * layer->kernel_w;
        float *weight = esp_alloc((size_t)(layer->filters * layer->channels * positions), sizeof *weight);
        esp_layer_weight_canonical(layer, esp_graph_value(preview->graph, layer->weight)->constant, weight);
        for (int64_t slice = 0; slice < layer->filters * layer->channels && !has_zeros; slice++) {
            double sum = 0;
            for (int64_t k = 0; k < positions; k++)
                sum += fabs((double)weight[slice * positions + k]);
            has_zeros = sum == 0;
        }
        esp_free(weight);
    }
    return has_zeros;
}

static void check_ends(const esp_graph *before, const esp_graph *after)
{
    assert_int_equal(esp_graph_input_count(before), esp_graph_input_count(after));
    for (int i = 0; i < esp_graph_input_count(before); i++)
        assert_string_equal(esp_graph_value(before, esp_graph_input(before, i))->name,
                            esp_graph_value(after, esp_graph_input(after, i))->name);
    for (int i = 0; i < esp_graph_output_count(before); i++)
        assert_string_equal(esp_graph_value(before, esp_graph_output(before, i))->name,
                            esp_graph_value(after, esp_graph_output(after, i))->name);
}

esp_graph *check_cut(const esp_preview *preview, esp_group_form form, esp_surgery_report *report)
{
    esp_error err = {0};
    esp_graph *masked = NULL, *cut = NULL;
    esp_surgery_report own = {0};
    esp_surgery_options options = esp_surgery_defaults();
    options.group_form = form;
    expect_ok(esp_preview_masked_graph(preview, &masked, &err), &err);
    expect_ok(esp_surgery(NULL, preview, &options, &cut, &own, &err), &err);
    double difference = check_difference(masked, cut, 3);
    if (!(difference <= TOLERANCE))
        fail_msg("masked and cut model differ by %g", difference);
    check_ends(masked, cut);
    if (!has_zeros_of_its_own(preview))
        check_nothing_is_left(cut);
    check_counts(preview, &own);
    esp_graph_unref(masked);
    if (report != NULL)
        *report = own;
    return cut;
}

/* ---- looking at the result ---- */

int check_count_nodes(const esp_graph *graph, const char *op)
{
    int count = 0;
    for (int i = 0; i < esp_graph_node_count(graph); i++)
        count += strcmp(esp_graph_node(graph, i)->op->name, op) == 0;
    return count;
}

int64_t check_dim(const esp_graph *graph, const char *constant, int axis)
{
    int value = esp_graph_find_value(graph, constant);
    if (value < 0 || esp_graph_value(graph, value)->constant == NULL)
        fail_msg("there is no constant '%s'", constant);
    return esp_tensor_shape(esp_graph_value(graph, value)->constant)->dims[axis];
}
