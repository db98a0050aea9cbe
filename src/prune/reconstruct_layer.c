/* One layer: rows of what it reads at the sampled positions, normal equations, and a solution for every set
 * of filters that read the same channels. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "graph/op.h"
#include "graph/ops.h"
#include "prune/least_squares.h"
#include "prune/reconstruct_internal.h"

typedef struct solving {
    reconstruction *r;
    subject *s;
    int place;             /* of the layer's input among what the cut keeps, or -1 ... */
    float *inputs;         /* ... and then what it is for the batches at hand: [batches * batch, elements] */
    int64_t elements;      /* of an image of the input */
    int64_t first, images; /* at hand: whole batches, but at the end */
    int64_t batches;       /* at hand, at most */
    esp_window window;
    esp_normal normal;             /* of what the layer reads, and what it should give without its bias */
    float *rows;                   /* [images at hand * positions, unknowns] */
    int64_t *places;               /* [images at hand * positions] */
    int shifted;                   /* constant that takes the intercept, or -1 */
    double shift;                  /* that constant changes by so much times the intercept */
    float *old_weight;             /* [filters, channels, kernel positions] */
    esp_tensor *weight, *constant; /* the new ones; constant NULL when nothing is shifted */
} solving;

/* ---- what the layer reads ---- */

/* One row: the window at an output position, [channels, kernel positions]; zeros in the padding. x [channels
 * of the input, sizes]. */
static void read_window(const solving *it, const float *x, int64_t place, float *row)
{
    const esp_window *w = &it->window;
    int64_t at[ESP_WINDOW_AXES] = {0}, plane = 1;
    for (int a = w->axes - 1; a >= 0; a--) {
        at[a] = place % w->out[a] * w->stride[a] - w->pad_begin[a];
        place /= w->out[a];
        plane *= w->size[a];
    }
    for (int64_t k = 0; k < it->s->layer->kernel_positions; k++) {
        int64_t rest = k, offset = 0, step = 1;
        bool is_inside = true;
        for (int a = w->axes - 1; a >= 0; a--) {
            int64_t y = at[a] + rest % w->kernel[a] * w->dilation[a];
            rest /= w->kernel[a];
            is_inside = is_inside && y >= 0 && y < w->size[a];
            offset += y * step;
            step *= w->size[a];
        }
        for (int64_t c = 0; c < it->s->channel_count; c++)
            row[c * it->s->layer->kernel_positions + k] =
                is_inside ? x[it->s->channels[c] * plane + offset] : 0.0f;
    }
}

/* What the layer reads of an image. */
static const float *input_of(const solving *it, int64_t image)
{
    const sweep_cut *cut = &it->r->cut;
    int64_t batch = it->r->site.batch, task = image / batch;
    const float *block = it->place >= 0 ? (const float *)cut->blocks[task * cut->count + it->place]
                                        : it->inputs + (task - it->first / batch) * batch * it->elements;
    return block + image % batch * it->elements;
}

static void read_image(void *context, int64_t task, int slot)
{
    const solving *it = context;
    const subject *s = it->s;
    const float *x = input_of(it, it->first + task);
    (void)slot;
    for (int64_t p = 0; p < s->positions; p++) {
        float *row = it->rows + (task * s->positions + p) * s->unknowns;
        if (s->layer->is_conv)
            read_window(it, x, it->places[task * s->positions + p], row);
        for (int64_t c = 0; !s->layer->is_conv && c < s->channel_count; c++)
            row[c] = x[s->channels[c]];
    }
}

static esp_status take_input(void *user, int64_t task, const esp_exec *exec, esp_error *err)
{
    const solving *it = user;
    int64_t batch = it->r->site.batch, size = batch * it->elements;
    (void)err;
    memcpy(it->inputs + (task - it->first / batch) * size, esp_view_f32(esp_exec_output(exec, 0)),
           (size_t)size * sizeof(float));
    return ESP_OK;
}

/* Runs the network from the cut to the layer's input on the images at hand. */
static esp_status compute_inputs(solving *it, esp_error *err)
{
    reconstruction *r = it->r;
    int64_t batch = r->site.batch;
    const sweep_part part = {.graph = r->graph,
                             .inferred = r->site.inferred,
                             .outputs = &it->s->input,
                             .output_count = 1,
                             .first = it->first / batch,
                             .batch_count = (it->images + batch - 1) / batch,
                             .collect = take_input,
                             .user = it};
    return sweep_run(&r->site, &r->cut, &part, err);
}

static esp_status add_images_at_hand(solving *it, esp_error *err)
{
    reconstruction *r = it->r;
    const subject *s = it->s;
    esp_status status = it->place >= 0 ? ESP_OK : compute_inputs(it, err);
    for (int64_t n = 0; n < it->images; n++)
        reconstruct_places(r, s, it->first + n, it->places + n * s->positions);
    if (status == ESP_OK && esp_compute_run(r->compute, it->images, read_image, it) != ESP_OK)
        status = esp_fail(err, ESP_CANCELLED, "cancelled");
    if (status == ESP_OK)
        status = esp_normal_add(r->compute, &it->normal, it->images * s->positions, it->rows,
                                s->targets + it->first * s->positions * s->filter_count, err);
    return status;
}

static esp_status add_images(solving *it, esp_error *err)
{
    int64_t count = it->r->images.count, most = it->batches * it->r->site.batch;
    esp_status status = ESP_OK;
    for (it->first = 0; status == ESP_OK && it->first < count; it->first += most) {
        it->images = count - it->first < most ? count - it->first : most;
        status = esp_compute_is_cancelled(it->r->compute) ? esp_fail(err, ESP_CANCELLED, "cancelled")
                                                          : add_images_at_hand(it, err);
    }
    return status;
}

/* ---- the bias ---- */

static bool is_read_once(const esp_graph *graph, int value)
{
    return esp_graph_consumer_count(graph, value) == 1 && !esp_graph_is_output(graph, value);
}

/* A float constant with a number per filter that nobody else reads. */
static bool is_own(const solving *it, int value)
{
    const esp_tensor *constant = value < 0 ? NULL : esp_graph_value(it->r->graph, value)->constant;
    return constant != NULL && esp_tensor_dtype(constant) == ESP_F32 && is_read_once(it->r->graph, value) &&
           esp_tensor_elements(constant) == it->s->layer->filters;
}

/* The mean of the batch-norm that alone reads the layer's output: a shift of both changes nothing. */
static int norm_mean(const solving *it)
{
    const esp_graph *graph = it->r->graph;
    if (!is_read_once(graph, it->s->output))
        return -1;
    const esp_node *node = esp_graph_node(graph, esp_graph_consumer(graph, it->s->output, 0));
    return node->op->running != 0 && node->inputs[0] == it->s->output
               ? node->inputs[__builtin_ctz(node->op->running)]
               : -1;
}

/* Where the intercept goes; and the layer's bias as it is comes off the targets. */
static void split_bias(solving *it)
{
    const subject *s = it->s;
    double beta = reconstruct_factor(it->r, s, "beta");
    int value = s->layer->bias < 0 ? norm_mean(it) : s->layer->bias;
    it->shift = s->layer->bias < 0 ? -1 : beta == 0 ? 0 : 1 / beta;
    it->shifted = is_own(it, value) && it->shift != 0 ? value : -1;
    if (s->layer->bias < 0)
        return;
    const esp_tensor *bias = esp_inferred_constant(it->r->inferred, s->layer->bias);
    bool is_one = esp_tensor_elements(bias) == 1;
    for (int64_t i = 0; i < s->samples * s->filter_count; i++)
        s->targets[i] -=
            (float)(beta * esp_tensor_get_f64(bias, is_one ? 0 : s->filters[i % s->filter_count]));
}

/* ---- solving ---- */

/* The intercept that is best for a fit of the filter at `target`. */
static double intercept_of(const solving *it, int64_t count, const int64_t *columns, int64_t target,
                           const double *w)
{
    const esp_normal *normal = &it->normal;
    double mean = normal->sum_y[target];
    for (int64_t i = 0; i < count; i++)
        mean -= w[i] * normal->sum_x[columns[i]];
    return normal->is_centered ? mean / (double)normal->samples : 0;
}

/* A set of filters that read the same channels. */
typedef struct reader_set {
    int64_t column_count, filter_count;
    int64_t *columns; /* [column_count] unknowns */
    int64_t *targets; /* [filter_count] */
    double *start, *solved;
    double *left; /* [filter_count]: what a fit leaves over */
} reader_set;

static void free_set(reader_set *set)
{
    esp_free(set->columns);
    esp_free(set->targets);
    esp_free(set->start);
    esp_free(set->solved);
    esp_free(set->left);
}

/* Of the filters whose mask row is that of `first`: those before it were in an earlier set. */
static esp_status make_set(const solving *it, int64_t first, reader_set *set, esp_error *err)
{
    const subject *s = it->s;
    int64_t kernel = s->layer->kernel_positions;
    *set = (reader_set){0};
    set->columns = esp_alloc((size_t)s->unknowns, sizeof *set->columns);
    set->targets = esp_alloc((size_t)s->filter_count, sizeof *set->targets);
    if (!set->columns || !set->targets)
        return esp_fail_memory(err, "reconstruction", (size_t)s->unknowns * sizeof *set->columns);
    for (int64_t u = 0; u < s->unknowns; u++) {
        if (esp_mask_get(s->mask, s->filters[first], s->channels[u / kernel]))
            set->columns[set->column_count++] = u;
    }
    for (int64_t t = first; t < s->filter_count; t++) {
        if (esp_mask_rows_equal(s->mask, s->filters[first], s->filters[t]))
            set->targets[set->filter_count++] = t;
    }
    size_t size = (size_t)(set->column_count * set->filter_count);
    set->start = esp_alloc(size, sizeof *set->start);
    set->solved = esp_alloc(size, sizeof *set->solved);
    set->left = esp_alloc((size_t)set->filter_count, sizeof *set->left);
    return set->start && set->solved && set->left
               ? ESP_OK
               : esp_fail_memory(err, "reconstruction", size * sizeof *set->start);
}

/* Where the weight of a filter's unknown stands in [filters, channels, kernel positions]. */
static int64_t canonical_place(const subject *s, int64_t target, int64_t column)
{
    int64_t kernel = s->layer->kernel_positions;
    return (s->filters[target] * s->layer->channels + s->channels[column / kernel]) * kernel +
           column % kernel;
}

static void read_start(const solving *it, const reader_set *set)
{
    double alpha = reconstruct_factor(it->r, it->s, "alpha");
    for (int64_t t = 0; t < set->filter_count; t++) {
        for (int64_t i = 0; i < set->column_count; i++)
            set->start[t * set->column_count + i] =
                alpha * (double)it->old_weight[canonical_place(it->s, set->targets[t], set->columns[i])];
    }
}

/* What a fit leaves over of all filters of the set. */
static esp_status add_leftover(const solving *it, const reader_set *set, const double *w, double *sum,
                               esp_error *err)
{
    esp_status status = esp_normal_residuals(it->r->compute, &it->normal, set->column_count, set->columns,
                                             set->filter_count, set->targets, w, set->left, err);
    for (int64_t t = 0; status == ESP_OK && t < set->filter_count; t++)
        *sum += set->left[t];
    return status;
}

/* Into the tensors, and the errors into the subject's sums. */
static esp_status write_solution(const solving *it, const reader_set *set, esp_error *err)
{
    subject *s = it->s;
    int64_t kernel = s->layer->kernel_positions;
    double alpha = reconstruct_factor(it->r, s, "alpha"), samples = (double)it->normal.samples;
    esp_status status = add_leftover(it, set, set->start, &s->error_before, err);
    if (status == ESP_OK)
        status = add_leftover(it, set, set->solved, &s->error_after, err);
    for (int64_t t = 0; status == ESP_OK && t < set->filter_count; t++) {
        const double *start = set->start + t * set->column_count;
        const double *solved = set->solved + t * set->column_count;
        int64_t target = set->targets[t], filter = s->filters[target];
        double before = intercept_of(it, set->column_count, set->columns, target, start);
        double after = intercept_of(it, set->column_count, set->columns, target, solved);
        s->error_before += samples * before * before; /* its intercept was 0 */
        if (it->constant != NULL)
            esp_tensor_f32_mut(it->constant)[filter] += (float)(it->shift * after);
        for (int64_t i = 0; i < set->column_count; i++) {
            int64_t u = set->columns[i];
            esp_tensor_f32_mut(
                it->weight)[esp_layer_slice(s->layer, filter, s->channels[u / kernel]) + u % kernel] =
                (float)(solved[i] / alpha);
        }
    }
    return status;
}

/* A share of the mean diagonal. Inputs that are the same at all samples (dead channels) have next to nothing
 * there but what rounding left: then a share of what was taken off, so that weights stay as they are. */
static double ridge_of(const solving *it)
{
    const esp_normal *normal = &it->normal;
    double varying = 0, whole = 0, unknowns = (double)it->s->unknowns;
    for (int64_t u = 0; u < it->s->unknowns; u++) {
        varying += normal->gram[u * it->s->unknowns + u];
        whole += normal->sum_x[u] * normal->sum_x[u] / (double)normal->samples;
    }
    double size = fmax(varying, 1e-10 * whole) / unknowns;
    return it->r->options->ridge * (size > 0 ? size : 1);
}

static bool starts_set(const subject *s, int64_t target)
{
    for (int64_t t = 0; t < target; t++) {
        if (esp_mask_rows_equal(s->mask, s->filters[t], s->filters[target]))
            return false;
    }
    return true;
}

static esp_status solve(const solving *it, esp_error *err)
{
    const subject *s = it->s;
    esp_status status = ESP_OK;
    for (int64_t t = 0; status == ESP_OK && t < s->filter_count; t++) {
        reader_set set = {0};
        if (!starts_set(s, t))
            continue;
        status = make_set(it, t, &set, err);
        if (status == ESP_OK) {
            read_start(it, &set);
            status =
                esp_normal_solve(it->r->compute, &it->normal, set.column_count, set.columns, set.filter_count,
                                 set.targets, ridge_of(it), set.start, set.solved, err);
        }
        if (status == ESP_OK)
            status = write_solution(it, &set, err);
        free_set(&set);
    }
    if (status != ESP_OK && status != ESP_CANCELLED)
        esp_error_prefix(err, "layer '%s'", s->layer->name);
    return status;
}

/* Errors as shares of what the targets vary. */
static void finish_errors(const solving *it)
{
    subject *s = it->s;
    double variation = 0, samples = (double)it->normal.samples;
    for (int64_t t = 0; t < s->filter_count; t++) {
        double mean = it->normal.sum_y[t] / samples;
        variation += it->normal.squares[t] - (it->normal.is_centered ? 0 : samples * mean * mean);
    }
    s->error_before = variation > 0 ? s->error_before / variation : NAN;
    s->error_after = variation > 0 ? s->error_after / variation : NAN;
}

/* ---- the whole ---- */

/* Brings the cut to the layer and finds its input there. */
static esp_status find_input(solving *it, esp_error *err)
{
    reconstruction *r = it->r;
    const subject *s = it->s;
    const esp_shape *x = esp_inferred_shape(r->inferred, s->input);
    sweep_cut *cut = &r->cut;
    it->elements = esp_shape_elements(x);
    it->place = -1;
    esp_status status = sweep_advance(&r->site, cut, s->layer->node, err);
    for (int i = 0; status == ESP_OK && i < cut->count; i++) {
        if (cut->values[i] == s->input)
            it->place = i;
    }
    int64_t bytes =
        ((it->place < 0 ? it->elements : 0) + s->positions * s->unknowns) * (int64_t)sizeof(float);
    it->batches = esp_calibration_batch(&r->images, 0, bytes) / r->site.batch;
    it->batches = it->batches > 1 ? it->batches : 1;
    if (status == ESP_OK && s->layer->is_conv)
        status = esp_op_window(esp_graph_node(r->graph, s->layer->node), x, s->layer->kernel, false,
                               &it->window, err);
    return status;
}

static esp_status open_solving(solving *it, esp_error *err)
{
    const subject *s = it->s;
    const esp_layer *layer = s->layer;
    size_t images = (size_t)(it->batches * it->r->site.batch), samples = images * (size_t)s->positions;
    size_t weights = (size_t)(layer->filters * layer->channels * layer->kernel_positions);
    const esp_tensor *weight = esp_graph_value(it->r->graph, layer->weight)->constant;
    it->rows = esp_alloc(samples * (size_t)s->unknowns, sizeof *it->rows);
    it->places = esp_alloc(samples, sizeof *it->places);
    if (it->place < 0)
        it->inputs = esp_alloc(images * (size_t)it->elements, sizeof *it->inputs);
    it->old_weight = esp_alloc(weights, sizeof *it->old_weight);
    if (!it->rows || !it->places || !it->old_weight || (it->place < 0 && !it->inputs))
        return esp_fail_memory(err, "reconstruction", samples * (size_t)s->unknowns * sizeof *it->rows);
    esp_layer_weight_canonical(layer, weight, it->old_weight);
    esp_status status = esp_tensor_clone(weight, &it->weight, err);
    if (status == ESP_OK)
        status = esp_normal_new(s->unknowns, s->filter_count, &it->normal, err);
    split_bias(it);
    if (status == ESP_OK && it->shifted >= 0)
        status = esp_tensor_clone(esp_graph_value(it->r->graph, it->shifted)->constant, &it->constant, err);
    return status;
}

/* What follows from constants before run time is found anew. */
static esp_status store(const solving *it, esp_error *err)
{
    reconstruction *r = it->r;
    sweep_site *site = &r->site;
    esp_inferred *inferred = NULL;
    const int values[2] = {it->s->layer->weight, it->shifted};
    esp_tensor *const tensors[2] = {it->weight, it->constant};
    esp_graph *graph = NULL;
    esp_status status =
        esp_graph_with_constants(r->graph, it->constant == NULL ? 1 : 2, values, tensors, &graph, err);
    if (status == ESP_OK)
        status = esp_infer(graph, site->batch, site->has_shape ? &site->shape : NULL, site->has_shape ? 1 : 0,
                           &inferred, err);
    if (status != ESP_OK) {
        esp_graph_unref(graph);
        return status;
    }
    esp_inferred_free(site->inferred);
    site->inferred = inferred;
    esp_graph_unref(r->graph);
    site->graph = r->graph = graph;
    return ESP_OK;
}

esp_status reconstruct_layer(reconstruction *r, subject *s, esp_error *err)
{
    solving it = {.r = r, .s = s, .shifted = -1};
    esp_status status = find_input(&it, err);
    if (status == ESP_OK)
        status = open_solving(&it, err);
    if (status == ESP_OK)
        status = add_images(&it, err);
    if (status == ESP_OK && it.shifted >= 0)
        esp_normal_center(&it.normal);
    if (status == ESP_OK)
        status = solve(&it, err);
    if (status == ESP_INVALID) { /* sums of so few or such images; other layers can still be solved */
        s->reason = "its equations have no solution: more images may give one";
        s->error_before = s->error_after = 0;
        if (err)
            *err = (esp_error){0};
        status = ESP_OK;
    } else if (status == ESP_OK) {
        finish_errors(&it);
        status = store(&it, err);
    }
    esp_free(it.inputs);
    esp_normal_free(&it.normal);
    esp_free(it.rows);
    esp_free(it.places);
    esp_free(it.old_weight);
    esp_tensor_unref(it.weight);
    esp_tensor_unref(it.constant);
    return status;
}
