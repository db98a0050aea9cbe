/* The images are cut into batches, a batch is a task, and a task runs on one thread with an executor of its
 * slot: threads never wait for each other inside a network, and weights that are packed hang on the tensors,
 * so that executors share them. Which images make a batch never depends on the number of threads.
 *
 * A cut is a place in the order of the nodes. What is kept there for each batch is every value that a node
 * before it made and a needed node from it on reads; values known without running (arithmetic on shapes) are
 * constants of both sides. Moving the cut on computes the nodes in between, batch by batch, and lets go what
 * nobody needs any more. */
#include "prune/sweep.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "graph/extract.h"

/* ---- the site ---- */

/* A node is needed when a value it makes is, and is not known before run time. */
esp_status sweep_mark_needed(sweep_site *site, const int *values, int value_count, esp_error *err)
{
    const esp_graph *graph = site->graph;
    size_t count = (size_t)esp_graph_value_count(graph);
    bool *is_read = esp_alloc_zero(count, sizeof *is_read);

    site->is_needed = esp_alloc_zero((size_t)esp_graph_node_count(graph), sizeof *site->is_needed);
    if (!is_read || !site->is_needed) {
        esp_free(is_read);
        return esp_fail_memory(err, site->what, count);
    }
    for (int i = 0; i < value_count; i++)
        is_read[values[i]] = true;
    for (int n = esp_graph_node_count(graph) - 1; n >= 0; n--) {
        const esp_node *node = esp_graph_node(graph, n);
        for (int i = 0; i < node->output_count; i++) {
            int v = node->outputs[i];
            if (v >= 0 && is_read[v] && !esp_inferred_constant(site->inferred, v))
                site->is_needed[n] = true;
        }
        for (int i = 0; site->is_needed[n] && i < node->input_count; i++)
            if (node->inputs[i] >= 0)
                is_read[node->inputs[i]] = true;
    }
    esp_free(is_read);
    return ESP_OK;
}

bool sweep_comes_in_batches(const sweep_site *site, int value)
{
    const esp_shape *shape = esp_inferred_shape(site->inferred, value);

    return shape->rank > 0 && shape->dims[0] == site->batch;
}

/* The network at a batch; ESP_SHAPE when images do not come and go in batches of that size. */
static esp_status infer_at(sweep_site *site, int64_t batch, esp_error *err)
{
    esp_status status;

    esp_inferred_free(site->inferred);
    site->inferred = NULL;
    site->batch = batch;
    site->has_shape = esp_dataset_input_shape(site->dataset, site->graph, batch, &site->shape);
    status = esp_infer(site->graph, batch, site->has_shape ? &site->shape : NULL, site->has_shape ? 1 : 0,
                       &site->inferred, err);
    if (status == ESP_OK && (!sweep_comes_in_batches(site, esp_graph_input(site->graph, 0)) ||
                             (site->last_output >= 0 && !sweep_comes_in_batches(site, site->last_output))))
        status = esp_fail(err, ESP_SHAPE, "the model does not run on batches of %" PRId64, batch);
    return status;
}

/* The batch that was asked for; else the usual one, or what the file is fixed to. */
esp_status sweep_choose_batch(sweep_site *site, int64_t asked, int64_t usual, esp_error *err)
{
    const esp_shape *shape = &esp_graph_value(site->graph, esp_graph_input(site->graph, 0))->shape;
    int64_t fixed = shape->rank > 0 && shape->dims[0] > 0 ? shape->dims[0] : 1;
    int64_t batch = asked > 0 ? asked : usual;
    esp_status status;

    batch = batch < site->images ? batch : site->images;
    status = infer_at(site, batch, err);
    if (status == ESP_SHAPE && asked <= 0 && fixed != batch)
        status = infer_at(site, fixed, err);
    if (status == ESP_OK)
        site->batch_count = (site->images + site->batch - 1) / site->batch;
    return status;
}

void sweep_site_free(sweep_site *site)
{
    esp_inferred_free(site->inferred);
    esp_free(site->is_needed);
    *site = (sweep_site){0};
}

/* ---- running a part of the network, batch by batch ---- */

typedef struct part_run {
    sweep_site *site;
    const sweep_cut *from;
    const sweep_part *part;
    const esp_graph *graph; /* the part as a graph of its own */
    /* per slot */
    int slot_count;
    esp_exec **execs;
    esp_status *statuses;
    esp_error *errors;
    uint32_t *indices; /* [slot_count][batch] */
    int32_t *labels;
} part_run;

static int64_t batch_images(const sweep_site *site, int64_t task)
{
    int64_t left = site->images - task * site->batch;

    return left < site->batch ? left : site->batch;
}

static esp_status make_exec(part_run *run, int slot, esp_error *err)
{
    const sweep_site *site = run->site;
    int count = run->from->count;
    esp_input_shape *shapes = esp_alloc((size_t)count + 1, sizeof *shapes);
    esp_exec_options options = {.batch = site->batch,
                                .input_shapes = shapes,
                                .stops_at_logits = run->part->stops_at_logits,
                                .slots = 1};
    esp_status status;

    if (!shapes)
        return esp_fail_memory(err, "shapes", (size_t)count * sizeof *shapes);
    for (int i = 0; i < count; i++) {
        int v = run->from->values[i];
        shapes[options.input_shape_count++] =
            (esp_input_shape){esp_graph_value(site->graph, v)->name, *esp_inferred_shape(site->inferred, v)};
    }
    if (!run->from->node && site->has_shape)
        shapes[options.input_shape_count++] = site->shape;
    status = esp_exec_new(run->graph, &options, &run->execs[slot], err);
    esp_free(shapes);
    return status;
}

/* Images that are not there count as zeros: images do not meet each other in evaluation form. */
static esp_status fill_images(part_run *run, int64_t task, int slot, esp_error *err)
{
    sweep_site *site = run->site;
    int64_t count = batch_images(site, task);
    uint32_t *indices = run->indices + slot * site->batch;
    const esp_view *input = esp_exec_input(run->execs[slot], 0);
    int64_t size = esp_shape_elements(&input->shape) / site->batch;
    float *x = esp_view_f32(input);

    for (int64_t i = 0; i < count; i++)
        indices[i] = (uint32_t)(task * site->batch + i);
    memset(x + count * size, 0, (size_t)((site->batch - count) * size) * sizeof *x);
    const esp_batch_labels labels = {.label = run->labels + slot * site->batch};
    return esp_batch_read(&site->single, site->dataset, &site->normalization, NULL, 0, 0, indices, count, x,
                          &labels, err);
}

static size_t view_bytes(const esp_view *view)
{
    return (size_t)esp_shape_elements(&view->shape) * esp_dtype_size(view->dtype);
}

static esp_status run_task(part_run *run, int64_t task, int slot, esp_error *err)
{
    const sweep_cut *from = run->from;
    esp_status status = run->execs[slot] ? ESP_OK : make_exec(run, slot, err);

    if (status == ESP_OK && !from->node)
        status = fill_images(run, task, slot, err);
    for (int i = 0; status == ESP_OK && i < from->count; i++) {
        const esp_view *input = esp_exec_input(run->execs[slot], i);
        memcpy(input->data, from->blocks[task * from->count + i], view_bytes(input));
    }
    if (status == ESP_OK)
        status = esp_exec_forward(run->execs[slot], &run->site->single, err);
    return status == ESP_OK ? run->part->collect(run->part->user, task, run->execs[slot], err) : status;
}

static void batch_task(void *context, int64_t task, int slot)
{
    part_run *run = context;
    const sweep_site *site = run->site;

    if (run->statuses[slot] != ESP_OK)
        return;
    run->statuses[slot] = run_task(run, run->part->first + task, slot, &run->errors[slot]);
    if (site->on_batch)
        site->on_batch(site->on_batch_user, slot);
}

static esp_status run_part(part_run *run, esp_error *err)
{
    sweep_site *site = run->site;
    int slots = esp_compute_slots(site->compute);
    esp_status status = ESP_OK;

    run->slot_count = slots;
    run->execs = esp_alloc_zero((size_t)slots, sizeof(esp_exec *));
    run->statuses = esp_alloc_zero((size_t)slots, sizeof *run->statuses);
    run->errors = esp_alloc_zero((size_t)slots, sizeof *run->errors);
    run->indices = esp_alloc((size_t)slots * (size_t)site->batch, sizeof *run->indices);
    run->labels = esp_alloc((size_t)slots * (size_t)site->batch, sizeof *run->labels);
    if (!run->execs || !run->statuses || !run->errors || !run->indices || !run->labels)
        status = esp_fail_memory(err, site->what, (size_t)slots * (size_t)site->batch * sizeof *run->labels);
    else if (esp_compute_run(site->compute, run->part->batch_count, batch_task, run) != ESP_OK)
        status = esp_fail(err, ESP_CANCELLED, "%s: stopped", site->what);
    for (int s = 0; status == ESP_OK && s < slots; s++) {
        status = run->statuses[s];
        if (status != ESP_OK && err)
            *err = run->errors[s];
    }
    for (int s = 0; run->execs && s < slots; s++)
        esp_exec_free(run->execs[s]);
    esp_free(run->execs);
    esp_free(run->statuses);
    esp_free(run->errors);
    esp_free(run->indices);
    esp_free(run->labels);
    return status;
}

esp_status sweep_run(sweep_site *site, const sweep_cut *cut, const sweep_part *part, esp_error *err)
{
    const esp_extract extract = {.given = cut->node ? cut->values : NULL,
                                 .given_count = cut->count,
                                 .outputs = part->outputs,
                                 .output_count = part->output_count,
                                 .known = part->inferred};
    part_run run = {.site = site, .from = cut, .part = part};
    esp_graph *graph = NULL;
    esp_status status = esp_graph_extract(part->graph, &extract, &graph, err);

    run.graph = graph;
    site->passes += !cut->node && part->first == 0;
    if (status == ESP_OK)
        status = run_part(&run, err);
    esp_graph_unref(graph);
    return status;
}

/* ---- cuts ---- */

static bool is_needed_from(const sweep_site *site, int value, int node)
{
    for (int i = esp_graph_consumer_count(site->graph, value) - 1; i >= 0; i--) {
        int reader = esp_graph_consumer(site->graph, value, i);
        if (reader >= node && site->is_needed[reader])
            return true;
    }
    return value == site->last_output;
}

/* The values a cut in front of `node` keeps; false when one of them does not come image by image. `values`
 * has room for all values of the graph. */
static bool list_live(const sweep_site *site, int node, int *values, int *count, size_t *bytes)
{
    const esp_graph *graph = site->graph;

    *count = 0;
    *bytes = 0;
    for (int v = 0; v < esp_graph_value_count(graph); v++) {
        const esp_value *value = esp_graph_value(graph, v);
        const esp_shape *shape;
        if (value->constant || value->producer >= node || !is_needed_from(site, v, node) ||
            esp_inferred_constant(site->inferred, v))
            continue;
        if (value->producer >= 0 && !site->is_needed[value->producer])
            continue;
        shape = esp_inferred_shape(site->inferred, v);
        if (!sweep_comes_in_batches(site, v))
            return false;
        values[(*count)++] = v;
        *bytes += (size_t)esp_shape_elements(shape) * esp_dtype_size(esp_inferred_dtype(site->inferred, v));
    }
    *bytes *= (size_t)site->batch_count;
    return true;
}

/* The last place after the cut's and not after `node` where what has to be kept fits; the cut's own when
 * there is none. */
static int find_place(const sweep_site *site, const sweep_cut *cut, int node, int *values, int *count,
                      size_t *bytes)
{
    for (; node > cut->node; node--)
        if (list_live(site, node, values, count, bytes) && *bytes <= cut->limit)
            return node;
    return cut->node;
}

typedef struct cut_move {
    sweep_cut *old;
    sweep_cut next;
    int *source; /* per value of `next`: its place in `old`, or -1: the part's next output */
} cut_move;

/* One task touches blocks of its batch only. */
static esp_status keep_batch(void *user, int64_t task, const esp_exec *exec, esp_error *err)
{
    cut_move *move = user;
    sweep_cut *next = &move->next, *old = move->old;
    int output = 0;

    for (int i = 0; i < next->count; i++) {
        void **block = &next->blocks[task * next->count + i];
        if (move->source[i] >= 0) {
            *block = old->blocks[task * old->count + move->source[i]];
            old->blocks[task * old->count + move->source[i]] = NULL;
            continue;
        }
        const esp_view *view = esp_exec_output(exec, output++);
        *block = esp_alloc(view_bytes(view), 1);
        if (!*block)
            return esp_fail_memory(err, "kept activations", view_bytes(view));
        memcpy(*block, view->data, view_bytes(view));
    }
    for (int i = 0; i < old->count; i++) {
        esp_free(old->blocks[task * old->count + i]);
        old->blocks[task * old->count + i] = NULL;
    }
    return ESP_OK;
}

static esp_status run_between(sweep_site *site, cut_move *move, esp_error *err)
{
    int *outputs = esp_alloc((size_t)move->next.count, sizeof *outputs);
    sweep_part part = {.graph = site->graph,
                       .inferred = site->inferred,
                       .outputs = outputs,
                       .batch_count = site->batch_count,
                       .collect = keep_batch,
                       .user = move};
    esp_status status;

    if (!outputs)
        return esp_fail_memory(err, site->what, (size_t)move->next.count * sizeof *outputs);
    for (int i = 0; i < move->next.count; i++)
        if (move->source[i] < 0)
            outputs[part.output_count++] = move->next.values[i];
    status = sweep_run(site, move->old, &part, err);
    esp_free(outputs);
    return status;
}

static esp_status move_cut(sweep_site *site, cut_move *move, esp_error *err)
{
    sweep_cut *old = move->old, *next = &move->next;
    size_t blocks = (size_t)site->batch_count * (size_t)next->count;
    int made = 0;

    move->source = esp_alloc((size_t)next->count, sizeof *move->source);
    next->blocks = esp_alloc_zero(blocks, sizeof *next->blocks);
    if (!move->source || !next->blocks)
        return esp_fail_memory(err, "kept activations", blocks * sizeof *next->blocks);
    for (int i = 0; i < next->count; i++) {
        move->source[i] = -1;
        for (int j = 0; j < old->count; j++)
            if (old->values[j] == next->values[i])
                move->source[i] = j;
        made += move->source[i] < 0;
    }
    if (made)
        return run_between(site, move, err);
    /* nothing new: what was kept goes over as it is */
    for (int64_t task = 0; task < site->batch_count; task++)
        keep_batch(move, task, NULL, err);
    return ESP_OK;
}

esp_status sweep_advance(sweep_site *site, sweep_cut *cut, int node, esp_error *err)
{
    size_t count = (size_t)esp_graph_value_count(site->graph);
    cut_move move = {
        .old = cut,
        .next = {.limit = cut->limit, .most_bytes = cut->most_bytes, .batch_count = site->batch_count}};
    esp_status status = ESP_OK;

    move.next.values = esp_alloc(count, sizeof *move.next.values);
    if (!move.next.values)
        return esp_fail_memory(err, site->what, count * sizeof *move.next.values);
    move.next.node = find_place(site, cut, node, move.next.values, &move.next.count, &move.next.bytes);
    if (move.next.node == cut->node) {
        esp_free(move.next.values);
        return ESP_OK;
    }
    status = move_cut(site, &move, err);
    sweep_cut_free(cut);
    if (move.next.bytes > move.next.most_bytes)
        move.next.most_bytes = move.next.bytes;
    if (status == ESP_OK)
        *cut = move.next;
    else
        sweep_cut_free(&move.next);
    esp_free(move.source);
    return status;
}

void sweep_cut_free(sweep_cut *cut)
{
    size_t limit = cut->limit, most = cut->most_bytes;

    for (int64_t i = 0; cut->blocks && i < cut->batch_count * cut->count; i++)
        esp_free(cut->blocks[i]);
    esp_free(cut->values);
    esp_free(cut->blocks);
    *cut = (sweep_cut){.limit = limit, .most_bytes = most};
}
