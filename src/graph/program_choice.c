/* The choice of layouts in a network with self-grouped layers.
 *
 * Group convolutions want plain images, dense ones channel blocks, and both can be had the other way round: a
 * dense convolution is a layer of one group, a self-grouped layer is a dense one with zeros. So every step
 * has a price in either layout, every image a price for being converted (once, for all who want the other
 * layout), and wanted is the cheapest labelling of all steps at once: residual additions tie branches
 * together, and a choice made layer by layer would convert around each.
 *
 * That is a minimum cut (Greig, Porteous, Seheult 1989). A step is on the source's side when it is in blocks;
 * of step s, the edge source -> s costs what s costs on plain images, s -> sink what it costs in blocks. Per
 * image made by p two more nodes: p -> a -> readers, where p -> a costs the conversion and a -> r is
 * endless, so blocks that one reader or more wants plain are paid for once; and the same from readers through
 * b to p. What a step could do on the way out (batch-norm, addition, clip) costs a pass of its own when the
 * two lie on different sides. Network inputs and outputs are plain. The flow is found along shortest
 * augmenting paths (Edmonds and Karp 1972); networks have some hundred steps. Equal prices: plain. */
#include "base/memory.h"
#include "graph/group_layer.h"
#include "graph/ops.h"
#include "graph/program_internal.h"

#define ENDLESS (INT64_MAX / 4)

/* Passes over an image that a plain pooling takes longer than one in blocks, per element of a window; kernels
 * on plain images are not made of vectors where windows overlap. */
#define POOL_PASSES 0.5

/* ---- minimum cut ---- */

typedef struct cut_edge {
    int to, next; /* next of the same node; -1: none */
    int64_t room;
} cut_edge;

enum { SOURCE, SINK, FIRST_STEP };

typedef struct cut {
    int node_count, edge_count;
    int *first;   /* edge of a node */
    int *came_by; /* edge by which a node was reached; -1: not reached */
    int *queue;
    cut_edge *edges; /* edge e and its reverse, e ^ 1 */
} cut;

static bool cut_new(cut *k, size_t nodes, size_t edges)
{
    *k = (cut){.first = esp_alloc_zero(nodes, sizeof *k->first),
               .came_by = esp_alloc_zero(nodes, sizeof *k->came_by),
               .queue = esp_alloc_zero(nodes, sizeof *k->queue),
               .edges = esp_alloc_zero(2 * edges, sizeof *k->edges)};
    if (k->first == NULL || k->came_by == NULL || k->queue == NULL || k->edges == NULL)
        return false;
    for (size_t n = 0; n < nodes; n++)
        k->first[n] = -1;
    return true;
}

static void cut_free(cut *k)
{
    esp_free(k->first);
    esp_free(k->came_by);
    esp_free(k->queue);
    esp_free(k->edges);
}

static void cut_half(cut *k, int from, int to, int64_t room)
{
    k->edges[k->edge_count] = (cut_edge){.to = to, .next = k->first[from], .room = room};
    k->first[from] = k->edge_count++;
}

static void cut_join(cut *k, int from, int to, int64_t price)
{
    cut_half(k, from, to, price);
    cut_half(k, to, from, 0);
}

/* Whether the sink can be reached; `came_by` then tells how. */
static bool cut_search(cut *k)
{
    int read = 0, written = 0;
    for (int n = 0; n < k->node_count; n++)
        k->came_by[n] = -1;
    k->queue[written++] = SOURCE;
    while (read < written) {
        int n = k->queue[read++];
        for (int e = k->first[n]; e >= 0; e = k->edges[e].next) {
            int to = k->edges[e].to;
            if (k->edges[e].room == 0 || to == SOURCE || k->came_by[to] >= 0)
                continue;
            k->came_by[to] = e;
            k->queue[written++] = to;
            if (to == SINK)
                return true;
        }
    }
    return false;
}

static void cut_push(cut *k)
{
    int64_t amount = INT64_MAX;
    for (int n = SINK; n != SOURCE; n = k->edges[k->came_by[n] ^ 1].to) {
        int64_t room = k->edges[k->came_by[n]].room;
        amount = room < amount ? room : amount;
    }
    for (int n = SINK; n != SOURCE; n = k->edges[k->came_by[n] ^ 1].to) {
        k->edges[k->came_by[n]].room -= amount;
        k->edges[k->came_by[n] ^ 1].room += amount;
    }
}

/* ---- prices ---- */

typedef struct chooser {
    esp_compiler *c;
    const esp_engine *engine;
    esp_step *plain; /* per step: the layer of one group it may become; op NULL: none */
    cut net;
} chooser;

static int64_t price(double cost)
{
    return cost < (double)(ENDLESS / 1024) ? (int64_t)cost : ENDLESS / 1024;
}

/* One pass over an image, or a conversion. */
static int64_t pass_price(const chooser *k, const esp_view *view, double passes)
{
    return price(passes * esp_group_conv_copy_cost(k->engine, esp_shape_elements(&view->shape)));
}

/* What steps other than convolutions cost more on plain images. */
static int64_t plain_extra(const chooser *k, const esp_step *step)
{
    const esp_view *y = &k->c->program->values[step->outputs[0]];
    if (step->op->forward == esp_op_concat_forward)
        return pass_price(k, y, 1.0); /* in blocks, parts are written where they belong */
    if (step->op->prepare == esp_op_pool_prepare) {
        int64_t kernel[2] = {1, 1};
        esp_node_ints(esp_graph_node(k->c->graph, step->node), "kernel_shape", kernel, 2);
        return pass_price(k, y, POOL_PASSES * (double)(kernel[0] * kernel[1]));
    }
    return 0;
}

static esp_status price_conv(chooser *k, int s, bool fits, int64_t *plain, int64_t *blocked, esp_error *err)
{
    esp_step *step = &k->c->program->steps[s];
    esp_conv_geometry geometry;
    bool is_made;
    esp_status status = esp_compiler_plain_layer(k->c, s, &is_made, &k->plain[s], err);
    if (status != ESP_OK)
        return status;
    esp_op_conv_geometry(&step->context, &geometry);
    *blocked = fits ? price(esp_group_conv_dense_cost(k->engine, &geometry)) : ENDLESS;
    *plain = fits ? ENDLESS : 0;
    if (is_made)
        *plain = price(esp_group_conv_cost(k->plain[s].fused.group->plan));
    else
        k->plain[s].op = NULL;
    return ESP_OK;
}

static esp_status price_step(chooser *k, int s, esp_error *err)
{
    esp_step *step = &k->c->program->steps[s];
    int64_t plain = 0, blocked = ENDLESS;
    esp_status status = esp_compiler_fill_context(k->c, step, err);
    if (status != ESP_OK)
        return status;
    bool fits = step->op->blocks != NULL && step->op->blocks(&step->context, &step->layouts);
    const esp_group_layer *layer = step->fused.group;
    if (layer != NULL && layer->plan != NULL) {
        plain = price(esp_group_conv_cost(layer->plan));
        blocked = fits ? price(esp_group_conv_dense_cost(k->engine, &layer->geometry)) : ENDLESS;
    } else if (step->op->forward == esp_op_conv_forward) {
        status = price_conv(k, s, fits, &plain, &blocked, err);
    } else if (fits) {
        plain = plain_extra(k, step);
        blocked = 0;
    }
    cut_join(&k->net, SOURCE, FIRST_STEP + s, plain);
    cut_join(&k->net, FIRST_STEP + s, SINK, blocked);
    return status;
}

/* ---- images between steps ---- */

static bool is_free(const esp_view *view)
{
    const int64_t *dims = view->shape.dims;
    return dims[1] % ESP_BLOCK == 0 && dims[2] == 1 && dims[3] == 1;
}

/* What step `s`, an only reader, does to image `v` could be done by whoever makes it. */
static void price_separation(chooser *k, int s, int v)
{
    const esp_compiler *c = k->c;
    int p = c->producer[v];
    if (p < 0 || c->read_count[v] != 1 || (c->program->steps[s].op->flags & ESP_OP_POINTWISE) == 0)
        return;
    int64_t cost = pass_price(k, &c->program->values[v], 1.0);
    cut_join(&k->net, FIRST_STEP + p, FIRST_STEP + s, cost);
    cut_join(&k->net, FIRST_STEP + s, FIRST_STEP + p, cost);
}

/* The nodes a and b of every image that a step makes or the network is given. */
static void price_images(chooser *k)
{
    esp_compiler *c = k->c;
    for (int v = 0; v < c->value_count; v++) {
        const esp_view *view = &c->program->values[v];
        int p = c->producer[v], a = k->net.node_count + 2 * v, b = a + 1;
        if (!esp_view_is_image(view))
            continue;
        bool may_block =
            p >= 0 && c->program->steps[p].layouts.blocked_output && c->program->steps[p].outputs[0] == v;
        int maker = may_block ? FIRST_STEP + p : SINK;
        int64_t cost = is_free(view) ? 0 : pass_price(k, view, 1.0);
        if (may_block)
            cut_join(&k->net, maker, a, cost);
        cut_join(&k->net, b, maker, cost);
        if (c->is_out[v])
            cut_join(&k->net, a, SINK, ENDLESS);
    }
    for (int s = 0; s < c->program->step_count; s++) {
        const esp_step *step = &c->program->steps[s];
        for (int i = 0; !step->is_joined && i < step->input_count; i++) {
            int v = step->inputs[i];
            if (v < 0 || !esp_view_is_image(&c->program->values[v]))
                continue;
            int a = k->net.node_count + 2 * v, b = a + 1;
            bool can_block = esp_bit(step->layouts.blocked_inputs, i);
            cut_join(&k->net, a, can_block ? FIRST_STEP + s : SINK, ENDLESS);
            if (can_block)
                cut_join(&k->net, FIRST_STEP + s, b, ENDLESS);
            price_separation(k, s, v);
        }
    }
    k->net.node_count += 2 * c->value_count;
}

/* ---- the whole ---- */

static esp_status chooser_new(chooser *k, esp_compiler *c, esp_error *err)
{
    size_t steps = (size_t)c->program->step_count, values = (size_t)c->value_count, reads = 0;
    *k = (chooser){.c = c, .engine = c->request->engine};
    for (size_t s = 0; s < steps; s++)
        reads += (size_t)c->program->steps[s].input_count;
    k->plain = esp_alloc_zero(steps, sizeof *k->plain);
    bool is_whole = cut_new(&k->net, FIRST_STEP + steps + 2 * values, 2 * steps + 3 * values + 4 * reads);
    k->net.node_count = FIRST_STEP + (int)steps;
    return is_whole && k->plain != NULL ? ESP_OK : esp_compiler_no_memory(err);
}

/* Convolutions on plain images become layers of one group. */
static void apply(chooser *k)
{
    for (int s = 0; s < k->c->program->step_count; s++) {
        esp_step *step = &k->c->program->steps[s];
        step->prefers_blocks = k->net.came_by[FIRST_STEP + s] >= 0;
        if (!step->is_joined && !step->prefers_blocks && k->plain[s].op != NULL)
            *step = k->plain[s];
    }
}

esp_status esp_compiler_weigh_layouts(esp_compiler *c, esp_error *err)
{
    chooser k;
    esp_status status = chooser_new(&k, c, err);
    for (int s = 0; status == ESP_OK && s < c->program->step_count; s++) {
        if (!c->program->steps[s].is_joined)
            status = price_step(&k, s, err);
    }
    if (status == ESP_OK) {
        price_images(&k);
        while (cut_search(&k.net))
            cut_push(&k.net);
        apply(&k);
    }
    cut_free(&k.net);
    esp_free(k.plain);
    return status;
}
