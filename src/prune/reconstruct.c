/* One pass over the original network gathers what every layer to be solved gave at sampled positions. Then
 * the layers are solved one after the other on what they read in the pruned network, so that each makes up
 * for the errors of all before it: one more pass, in pieces. The activations in front of a layer are kept,
 * and the next piece begins there; where they do not fit the memory, at the last place where they did. */
#include "prune/reconstruct.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "graph/extract.h"
#include "graph/op.h"
#include "prune/least_squares.h"
#include "prune/reconstruct_internal.h"

#define DEFAULT_RIDGE 1e-2

enum { POSITIONS = 10, SAMPLES_PER_UNKNOWN = 8, SWEEP_BATCH = 8 };

/* Of kept activations. */
#define SWEEP_BYTES ((size_t)512 << 20)

/* ---- which layers ---- */

static bool loses_input(const esp_mask *mask)
{
    for (int64_t f = 0; f < mask->filters; f++) {
        int64_t kept = esp_mask_filter_kept(mask, f);
        if (kept > 0 && kept < mask->channels)
            return true;
    }
    return false;
}

static bool is_shared(const esp_layers *layers, int layer)
{
    for (int l = 0; l < layers->count; l++) {
        if (l != layer && layers->items[l].weight == layers->items[layer].weight)
            return true;
    }
    return false;
}

double reconstruct_factor(const reconstruction *r, const subject *s, const char *name)
{
    return s->layer->is_conv
               ? 1
               : (double)esp_node_float(esp_graph_node(r->preview->graph, s->layer->node), name, 1.0f);
}

/* One number, or one per filter. */
static bool is_bias(const reconstruction *r, const esp_layer *layer)
{
    const esp_tensor *bias = esp_inferred_constant(r->inferred, layer->bias);
    return bias != NULL && (esp_tensor_elements(bias) == 1 || esp_tensor_elements(bias) == layer->filters);
}

/* "" for a layer that can be solved. */
static const char *why_not(const reconstruction *r, int l)
{
    const esp_layer *layer = &r->preview->layers.items[l];
    const esp_node *node = esp_graph_node(r->preview->graph, layer->node);
    const esp_shape *x = esp_inferred_shape(r->inferred, node->inputs[0]);
    const esp_shape *y = esp_inferred_shape(r->inferred, node->outputs[0]);
    const esp_tensor *weight = esp_graph_value(r->preview->graph, layer->weight)->constant;
    if (layer->group != 1)
        return "a convolution of several groups";
    if (layer->is_conv && layer->filter_axis > layer->channel_axis)
        return "a transposed convolution";
    if (weight == NULL || esp_tensor_dtype(weight) != ESP_F32)
        return "its weight is not stored in the model as float32";
    if (is_shared(&r->preview->layers, l))
        return "it shares its weight with another layer";
    if (x->rank < 2 || y->rank < 2 || x->dims[0] != 1 || y->dims[0] != 1 || x->dims[1] != layer->channels ||
        y->dims[1] != layer->filters || (!layer->is_conv && x->rank != 2))
        return "its input is not [images, channels, ...]";
    if (layer->bias >= 0 && !is_bias(r, layer))
        return "its bias is not one constant per filter";
    if (!layer->is_conv && esp_node_float(node, "alpha", 1.0f) == 0)
        return "its factor alpha is 0";
    return "";
}

/* Channels that some filter reads, and the filters that read any. */
static esp_status list_columns(subject *s, const esp_mask *mask, esp_error *err)
{
    s->channels = esp_alloc((size_t)mask->channels, sizeof *s->channels);
    s->column_of = esp_alloc((size_t)mask->channels, sizeof *s->column_of);
    s->filters = esp_alloc((size_t)mask->filters, sizeof *s->filters);
    if (!s->channels || !s->column_of || !s->filters)
        return esp_fail_memory(err, "reconstruction", (size_t)mask->channels * sizeof *s->channels);
    for (int64_t c = 0; c < mask->channels; c++) {
        s->column_of[c] = -1;
        if (!esp_mask_channel_is_read(mask, c))
            continue;
        s->column_of[c] = s->channel_count;
        s->channels[s->channel_count++] = c;
    }
    for (int64_t f = 0; f < mask->filters; f++) {
        if (esp_mask_filter_is_live(mask, f))
            s->filters[s->filter_count++] = f;
    }
    return ESP_OK;
}

static int64_t choose_positions(const reconstruction *r, const subject *s)
{
    int64_t wanted = r->options->positions;
    if (wanted == 0) {
        int64_t images = r->images.count;
        wanted = (SAMPLES_PER_UNKNOWN * s->channel_count * s->layer->kernel_positions + images - 1) / images;
        wanted = wanted > POSITIONS ? wanted : POSITIONS;
    }
    return wanted < s->places ? wanted : s->places;
}

static esp_status add_subject(reconstruction *r, int l, esp_error *err)
{
    subject *s = &r->subjects[r->count++];
    const esp_layer *layer = &r->preview->layers.items[l];
    const esp_node *node = esp_graph_node(r->preview->graph, layer->node);
    *s = (subject){.index = l, .layer = layer, .mask = &r->preview->items[l].mask, .reason = why_not(r, l)};
    if (s->reason[0] != '\0')
        return ESP_OK;
    const esp_shape *y = esp_inferred_shape(r->inferred, node->outputs[0]);
    s->input = node->inputs[0];
    s->output = node->outputs[0];
    s->places = esp_shape_elements(y) / layer->filters;
    esp_status status = list_columns(s, s->mask, err);
    if (status != ESP_OK)
        return status;
    s->unknowns = s->channel_count * layer->kernel_positions;
    s->positions = choose_positions(r, s);
    s->samples = s->positions * r->images.count;
    if (s->unknowns > ESP_NORMAL_MOST) {
        s->reason = "too many unknowns";
        return ESP_OK;
    }
    s->targets = esp_alloc((size_t)(s->samples * s->filter_count), sizeof *s->targets);
    return s->targets ? ESP_OK
                      : esp_fail_memory(err, "reconstruction",
                                        (size_t)(s->samples * s->filter_count) * sizeof *s->targets);
}

static esp_status find_subjects(reconstruction *r, esp_error *err)
{
    const esp_preview *preview = r->preview;
    esp_input_shape shape;
    bool is_open = esp_dataset_input_shape(r->images.images, preview->graph, 1, &shape);
    esp_status status = esp_infer(preview->graph, 1, &shape, is_open ? 1 : 0, &r->inferred, err);
    if (status != ESP_OK)
        return status;
    r->subjects = esp_alloc_zero((size_t)preview->layers.count, sizeof *r->subjects);
    if (!r->subjects)
        return esp_fail_memory(err, "reconstruction", (size_t)preview->layers.count * sizeof *r->subjects);
    for (int l = 0; status == ESP_OK && l < preview->layers.count; l++) {
        if (loses_input(&preview->items[l].mask))
            status = add_subject(r, l, err);
    }
    return status;
}

static bool is_solved(const subject *s)
{
    return s->reason[0] == '\0';
}

/* ---- samples ---- */

/* Positions of an image: all, or some, each once, by the seed. */
void reconstruct_places(const reconstruction *r, const subject *s, int64_t image, int64_t *places)
{
    esp_rng rng;
    int64_t taken = 0;
    esp_rng_seed_stream(&rng, r->options->seed,
                        (uint64_t)s->layer->node * UINT64_C(0x100000001) + (uint64_t)image);
    /* Knuth's selection sampling: every set of positions is as likely as any other, and comes in order */
    for (int64_t p = 0; p < s->places && taken < s->positions; p++) {
        if (esp_rng_below(&rng, (uint64_t)(s->places - p)) < (uint64_t)(s->positions - taken))
            places[taken++] = p;
    }
}

typedef struct gathering {
    reconstruction *r;
    esp_exec *exec;
    int64_t first, count; /* images of the batch */
} gathering;

/* What the original gives of one image: y [filters, places]. */
static void gather_image(const gathering *g, const subject *s, int64_t n, int64_t *places)
{
    const float *y = esp_view_f32(esp_exec_output(g->exec, s->tap)) + n * s->layer->filters * s->places;
    float *row = s->targets + (g->first + n) * s->positions * s->filter_count;
    reconstruct_places(g->r, s, g->first + n, places);
    for (int64_t p = 0; p < s->positions; p++) {
        for (int64_t f = 0; f < s->filter_count; f++)
            *row++ = y[s->filters[f] * s->places + places[p]];
    }
}

static esp_status gather_batch(gathering *g, int64_t *places, esp_error *err)
{
    reconstruction *r = g->r;
    esp_status status =
        esp_calibration_fill(&r->images, r->compute, g->first, g->count, r->batch, g->exec, err);
    if (status == ESP_OK)
        status = esp_exec_forward(g->exec, r->compute, err);
    for (int i = 0; status == ESP_OK && i < r->count; i++) {
        for (int64_t n = 0; is_solved(&r->subjects[i]) && n < g->count; n++)
            gather_image(g, &r->subjects[i], n, places);
    }
    return status;
}

/* The original network up to the outputs of all layers that are solved. */
static esp_status make_original(reconstruction *r, esp_exec **out, esp_error *err)
{
    int *values = esp_alloc((size_t)r->count, sizeof *values);
    int64_t bytes = 0;
    esp_extract part = {.outputs = values};
    esp_graph *graph = NULL;
    if (!values)
        return esp_fail_memory(err, "reconstruction", sizeof *values);
    for (int i = 0; i < r->count; i++) {
        subject *s = &r->subjects[i];
        if (!is_solved(s))
            continue;
        s->tap = part.output_count;
        values[part.output_count++] = s->output;
        bytes += s->places * s->layer->filters * (int64_t)sizeof(float);
    }
    esp_status status = esp_graph_extract(r->preview->graph, &part, &graph, err);
    if (status == ESP_OK) {
        const esp_exec_options options = {.batch = esp_calibration_batch(&r->images, 0, bytes),
                                          .slots = esp_compute_slots(r->compute)};
        status = esp_calibration_exec(&r->images, graph, options, out, &r->batch, err);
    }
    esp_graph_unref(graph);
    esp_free(values);
    return status;
}

static int64_t most_places(const reconstruction *r)
{
    int64_t most = 1;
    for (int i = 0; i < r->count; i++)
        most = r->subjects[i].positions > most ? r->subjects[i].positions : most;
    return most;
}

static esp_status gather_targets(reconstruction *r, esp_error *err)
{
    gathering g = {.r = r};
    int64_t *places = esp_alloc((size_t)most_places(r), sizeof *places);
    esp_status status =
        places ? make_original(r, &g.exec, err) : esp_fail_memory(err, "reconstruction", sizeof *places);
    for (; status == ESP_OK && g.first < r->images.count; g.first += r->batch) {
        int64_t left = r->images.count - g.first;
        g.count = left < r->batch ? left : r->batch;
        status = esp_compute_is_cancelled(r->compute) ? esp_fail(err, ESP_CANCELLED, "cancelled")
                                                      : gather_batch(&g, places, err);
    }
    esp_exec_free(g.exec);
    esp_free(places);
    return status;
}

/* ---- the whole ---- */

static void report_progress(const reconstruction *r, int done, int total, double start)
{
    double seconds = esp_clock_s() - start, rate = seconds > 0 ? done / seconds : 0;
    const esp_progress progress = {.stage = "reconstruct",
                                   .done = done,
                                   .total = total,
                                   .unit = "layers",
                                   .rate = rate,
                                   .eta_s = rate > 0 ? (total - done) / rate : -1,
                                   .detail = ""};
    esp_compute_report(r->compute, &progress);
}

/* The pruned network on the images, nothing run yet. */
static esp_status open_sweep(reconstruction *r, esp_error *err)
{
    sweep_site *site = &r->site;
    int *outputs = esp_alloc((size_t)r->count, sizeof *outputs), count = 0;
    if (!outputs)
        return esp_fail_memory(err, "reconstruction", (size_t)r->count * sizeof *outputs);
    *site = (sweep_site){.compute = r->compute,
                         .single.cancel = r->compute ? r->compute->cancel : NULL,
                         .graph = r->graph,
                         .dataset = r->images.images,
                         .normalization = r->images.normalization,
                         .images = r->images.count,
                         .last_output = -1,
                         .what = "reconstruction"};
    r->cut.limit = r->options->memory;
    for (int i = 0; i < r->count; i++) {
        if (is_solved(&r->subjects[i]))
            outputs[count++] = r->subjects[i].output;
    }
    esp_status status = sweep_choose_batch(site, 0, SWEEP_BATCH, err);
    if (status == ESP_OK)
        status = sweep_mark_needed(site, outputs, count, err);
    for (int i = 0; status == ESP_OK && i < r->count; i++) {
        subject *s = &r->subjects[i];
        if (is_solved(s) && !sweep_comes_in_batches(site, s->input))
            s->reason = "its input is not [images, channels, ...]";
    }
    esp_free(outputs);
    return status;
}

static esp_status solve_all(reconstruction *r, double start, esp_error *err)
{
    int total = 0, done = 0;
    for (int i = 0; i < r->count; i++)
        total += is_solved(&r->subjects[i]);
    if (total == 0)
        return ESP_OK;
    esp_status status = gather_targets(r, err);
    if (status == ESP_OK)
        status = open_sweep(r, err);
    for (int i = 0; status == ESP_OK && i < r->count; i++) {
        if (!is_solved(&r->subjects[i]))
            continue;
        status = esp_compute_is_cancelled(r->compute) ? esp_fail(err, ESP_CANCELLED, "cancelled")
                                                      : reconstruct_layer(r, &r->subjects[i], err);
        report_progress(r, ++done, total, start);
    }
    return status;
}

static esp_status fill_report(const reconstruction *r, esp_reconstruct_report *report, esp_error *err)
{
    esp_reconstruct_report made = {.count = r->count, .images = r->images.count, .passes = r->site.passes};
    made.layers = esp_alloc_zero((size_t)r->count, sizeof *made.layers);
    if (!made.layers)
        return esp_fail_memory(err, "a report", (size_t)r->count * sizeof *made.layers);
    for (int i = 0; i < r->count; i++) {
        const subject *s = &r->subjects[i];
        made.layers[i] = (esp_reconstruct_layer){.layer = s->index,
                                                 .samples = is_solved(s) ? s->samples : 0,
                                                 .unknowns = is_solved(s) ? s->unknowns : 0,
                                                 .error_before = s->error_before,
                                                 .error_after = s->error_after,
                                                 .reason = s->reason};
    }
    *report = made;
    return ESP_OK;
}

static void tear_down(reconstruction *r)
{
    for (int i = 0; r->subjects && i < r->count; i++) {
        esp_free(r->subjects[i].channels);
        esp_free(r->subjects[i].column_of);
        esp_free(r->subjects[i].filters);
        esp_free(r->subjects[i].targets);
    }
    esp_free(r->subjects);
    sweep_cut_free(&r->cut);
    sweep_site_free(&r->site);
    esp_inferred_free(r->inferred);
    esp_calibration_close(&r->images);
    esp_graph_unref(r->graph);
}

void esp_reconstruct_report_free(esp_reconstruct_report *report)
{
    esp_free(report->layers);
    *report = (esp_reconstruct_report){0};
}

static esp_status check_options(const esp_reconstruct_options *options, esp_error *err)
{
    if (options->dataset == NULL) {
        esp_fail(err, ESP_INVALID, "reconstruction looks at data, found no data set");
        esp_error_set_hint(err, "give it images (--data SPEC, or data = in Lua)");
        return ESP_INVALID;
    }
    if (options->images < 0 || options->positions < 0)
        return esp_fail(err, ESP_INVALID, "reconstruction: %s %" PRId64 ", expected at least 1",
                        options->images < 0 ? "images" : "positions",
                        options->images < 0 ? options->images : options->positions);
    if (!(options->ridge >= 0) || !isfinite(options->ridge))
        return esp_fail(err, ESP_INVALID, "reconstruction: ridge %g, expected a number of at least 0",
                        options->ridge);
    return ESP_OK;
}

esp_status esp_reconstruct(const esp_compute *compute, const esp_preview *preview,
                           const esp_reconstruct_options *options, esp_graph **out,
                           esp_reconstruct_report *report, esp_error *err)
{
    esp_reconstruct_options chosen = *options;
    reconstruction r = {.compute = compute, .preview = preview, .options = &chosen};
    double start = esp_clock_s();
    *out = NULL;
    esp_status status = check_options(options, err);
    if (status != ESP_OK)
        return status;
    chosen.images = chosen.images == 0 ? ESP_RECONSTRUCT_IMAGES : chosen.images;
    chosen.ridge = chosen.ridge > 0 ? chosen.ridge : DEFAULT_RIDGE;
    chosen.memory = chosen.memory > 0 ? chosen.memory : SWEEP_BYTES;
    status = esp_preview_masked_graph(preview, &r.graph, err);
    if (status == ESP_OK)
        status = esp_calibration_open(preview->graph, chosen.dataset, chosen.images, chosen.seed, chosen.mean,
                                      chosen.std, &r.images, err);
    if (status == ESP_OK)
        status = find_subjects(&r, err);
    if (status == ESP_OK)
        status = solve_all(&r, start, err);
    if (status == ESP_OK && report != NULL) {
        status = fill_report(&r, report, err);
        if (status == ESP_OK)
            report->seconds = esp_clock_s() - start;
    }
    if (status == ESP_OK) {
        *out = r.graph;
        r.graph = NULL;
    }
    tear_down(&r);
    return status;
}
