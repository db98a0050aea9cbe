/* Whether a self-grouped convolution trains faster in dense form or as the nodes it was written as.
 *
 * The dense form does the whole layer's multiplications, three times a step at full speed. The nodes do the
 * groups' share of them, but each narrow convolution by itself: where a group fills channel blocks it runs in
 * those, behind and in front of conversions; otherwise on plain images, whose kernels want more filters than
 * there are. Every Gather and Concat is a pass over memory in both directions.
 *
 * All prices are estimates in the unit of esp_group_conv_cost, multiply-adds the vector units could do
 * meanwhile. They are made of shapes and the engine only: a choice by stopwatch would change the rounding of
 * a training from run to run. */
#include "graph/fuse_group.h"
#include "graph/group_layer.h"
#include "graph/ops.h"

/* Of a blocked weight gradient, over its multiply-adds. */
#define WEIGHT_GRADIENT 1.25

/* Of a plain convolution, per pixel, channel and tap: for reading them and the gradients, and for each of the
 * filters, of which so many more might as well be there. Fitted with AVX-512 and batches of 4 to twenty
 * layers of 64 to 2048 channels at 7x7 to 28x28 that read 20 or 40 % of their channels in 4 to 16 groups. */
#define PLAIN_READ   7.0
#define PLAIN_FILTER 0.6
#define PLAIN_ROWS   16.0

/* Passes that backward makes beside the forward one. */
typedef struct wanted_passes {
    bool input, weight;
} wanted_passes;

static wanted_passes passes_of(const esp_step *step)
{
    wanted_passes passes = {0};
    esp_view *const *grads = step->context.input_grads;
    for (int i = 0; grads != NULL && i < step->input_count; i++) {
        if (grads[i] == NULL)
            continue;
        passes.input = passes.input || i == 0;
        passes.weight = passes.weight || i > 0;
    }
    return passes;
}

static double whole_blocks(int64_t count)
{
    return (double)esp_block_channels(count) / (double)count;
}

static double macs_of(const esp_conv_geometry *g)
{
    return (double)(g->batch * g->out_height * g->out_width) *
           (double)(g->filters * g->channels * g->kernel_h * g->kernel_w);
}

static double blocked_price(const esp_engine *engine, const esp_conv_geometry *g, wanted_passes passes)
{
    double forward = esp_group_conv_dense_cost(engine, g);
    double price =
        forward * (passes.input ? 2.0 : 1.0) + (passes.weight ? WEIGHT_GRADIENT * macs_of(g) : 0.0);
    return price * whole_blocks(g->filters) * whole_blocks(g->channels);
}

static double plain_price(const esp_conv_geometry *g, wanted_passes passes)
{
    double reads = macs_of(g) / (double)g->filters;
    int count = 1 + passes.input + passes.weight;
    return count * reads * (PLAIN_READ + PLAIN_FILTER * ((double)g->filters + PLAIN_ROWS));
}

/* Writing so many channels of the output's, or of the input's, size and their gradients. */
static double copies_price(const esp_engine *engine, int64_t images, int64_t pixels)
{
    return 2.0 * esp_group_conv_copy_cost(engine, images * pixels);
}

/* Whether a branch that stays a node of its own will run in channel blocks. */
static bool runs_blocked(esp_compiler *c, const esp_group_branch *b)
{
    esp_step *step = &c->program->steps[b->step];
    esp_op_layouts layouts;
    bool fits = esp_compiler_fill_context(c, step, NULL) == ESP_OK &&
                esp_compiler_mark_wanted(c, step, NULL) == ESP_OK &&
                step->op->blocks(&step->context, &layouts);
    step->context.input_grads = NULL;
    return fits;
}

static double branch_price(esp_compiler *c, const esp_group_branch *b, bool is_alone, wanted_passes passes)
{
    const esp_engine *engine = c->request->engine;
    esp_conv_geometry g = b->geometry;
    const int64_t in = g.height * g.width, out = g.out_height * g.out_width;
    double price = b->gather < 0 ? 0.0 : copies_price(engine, g.batch * b->channels, in);
    g.filters = b->filters / b->group;
    g.channels = b->channels / b->group;
    if (!runs_blocked(c, b))
        return price + (double)b->group * plain_price(&g, passes);
    return price + (double)b->group * blocked_price(engine, &g, passes) +
           copies_price(engine, g.batch * b->channels, in) +
           (is_alone ? 0.0 : copies_price(engine, g.batch * b->filters, out));
}

static double nodes_price(esp_compiler *c, const esp_group_finding *found, int64_t filters,
                          wanted_passes passes)
{
    const esp_conv_geometry *g = &found->branches[0].geometry;
    const double pass = copies_price(c->request->engine, g->batch * filters, g->out_height * g->out_width);
    double price = (found->join >= 0 ? pass : 0.0) + (found->order >= 0 ? pass : 0.0);
    for (int i = 0; i < found->count; i++)
        price += branch_price(c, &found->branches[i], found->join < 0, passes);
    return price;
}

esp_status esp_compiler_group_pays(esp_compiler *c, const esp_group_finding *found, esp_step *made,
                                   bool *pays, esp_error *err)
{
    const esp_engine *engine = c->request->engine;
    const esp_conv_geometry *geometry = &made->fused.group->geometry;
    esp_status status = esp_compiler_fill_context(c, made, err);
    if (status == ESP_OK)
        status = esp_compiler_mark_wanted(c, made, err);
    if (status != ESP_OK)
        return status;
    wanted_passes passes = passes_of(made);
    *pays = esp_group_layer_trains(&made->context) &&
            blocked_price(engine, geometry, passes) < nodes_price(c, found, geometry->filters, passes);
    made->context.input_grads = NULL;
    return ESP_OK;
}
