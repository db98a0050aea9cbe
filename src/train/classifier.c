/* The search begins at the output and goes against the arrows: softmax, reshapes, pooling and activations are
 * passed, an Add with a constant is a bias of its own, and the first layer met is the classifier. Then the
 * graph is written again with other constants in these places; every other tensor is shared.
 *
 * Surgery splits a self-grouped layer into a Concat of layers that each read some channels of one value
 * through a Gather. Met at the end, such a group is replaced as a whole. */
#include "train/classifier.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "graph/infer.h"
#include "graph/op.h"

#define OPEN_SIZE 224

/* A constant, or a node, that is written in another form. */
typedef struct head {
    int layer;           /* node of the layer; of a split layer the node that makes its output */
    bool is_split;       /* then the whole layer is made anew */
    int source;          /* split: the value that all parts read */
    int64_t channels;    /* split: of that value */
    int old_constant[3]; /* constants with another content: weight, bias of the layer, bias of an Add behind
                            it */
    esp_tensor *new_tensor[3];
    int reshape_target; /* constant shape that names the old number of classes, or -1 */
    int64_t old_classes, classes;
} head;

enum { WEIGHT, BIAS, ADDED };

/* ---- finding it ---- */

static esp_status fail_at(const esp_node *node, const char *why, esp_error *err)
{
    esp_fail(err, ESP_UNSUPPORTED, "no classifier to replace: '%s' (%s) %s", node->name, node->op->name, why);
    esp_error_set_hint(err, "expected a fully connected layer or a convolution in front of the output");
    return ESP_UNSUPPORTED;
}

static const esp_tensor *constant_of(const esp_graph *graph, int value)
{
    return value < 0 ? NULL : esp_graph_value(graph, value)->constant;
}

/* The only input that is computed, or -1; `*constant` gets the only constant among the others, or -1. */
static int computed_input(const esp_graph *graph, const esp_node *node, int *constant)
{
    int computed = -1, computed_count = 0, constant_count = 0;
    *constant = -1;
    for (int i = 0; i < node->input_count; i++) {
        if (node->inputs[i] < 0) {
            continue;
        }
        if (constant_of(graph, node->inputs[i]) != NULL) {
            *constant = node->inputs[i];
            constant_count++;
        } else {
            computed = node->inputs[i];
            computed_count++;
        }
    }
    *constant = constant_count == 1 ? *constant : -1;
    return computed_count == 1 ? computed : -1;
}

static bool is_layer(const esp_graph *graph, const esp_node *node, esp_layer_form *form)
{
    return node->op->layer != NULL && node->op->layer(node, form) &&
           constant_of(graph, node->inputs[form->weight_input]) != NULL;
}

static bool is_gather(const esp_graph *graph, const esp_node *node)
{
    return strcmp(node->op->name, "Gather") == 0 && constant_of(graph, node->inputs[1]) != NULL &&
           esp_node_int(node, "axis", 0) == 1;
}

/* The value a part of a split layer reads: what its Gather gathers from. */
static int part_source(const esp_graph *graph, int value)
{
    esp_layer_form form;
    int producer = value < 0 ? -1 : esp_graph_value(graph, value)->producer;
    const esp_node *part = producer < 0 ? NULL : esp_graph_node(graph, producer);
    if (part == NULL || !is_layer(graph, part, &form)) {
        return -1;
    }
    int read = part->inputs[0], maker = esp_graph_value(graph, read)->producer;
    const esp_node *gather = maker < 0 ? NULL : esp_graph_node(graph, maker);
    return gather != NULL && is_gather(graph, gather) ? gather->inputs[0] : read;
}

/* A Concat of layers that all read one value, or the Gather that puts its filters into their old order. */
static bool find_split(const esp_graph *graph, const esp_node *concat, int *source)
{
    int producer = is_gather(graph, concat) ? esp_graph_value(graph, concat->inputs[0])->producer : -1;
    concat = producer < 0 ? concat : esp_graph_node(graph, producer);
    if (strcmp(concat->op->name, "Concat") != 0 || esp_node_int(concat, "axis", 0) != 1) {
        return false;
    }
    *source = part_source(graph, concat->inputs[0]);
    bool is_split = *source >= 0;
    for (int i = 1; is_split && i < concat->input_count; i++) {
        is_split = part_source(graph, concat->inputs[i]) == *source;
    }
    return is_split;
}

/* What a node between the layer and the output is to the search: passed, and with which constant replaced. */
static esp_status pass_node(const esp_graph *graph, int index, head *it, int *next, esp_error *err)
{
    const esp_node *node = esp_graph_node(graph, index);
    int constant = -1, computed = computed_input(graph, node, &constant);
    if (computed < 0) {
        return fail_at(node, "joins several values", err);
    }
    if (node->op->trainable != 0 ||
        (node->op->rule == ESP_CHANNEL_BLOCK && (node->op->flags & ESP_OP_LOGITS) == 0)) {
        return fail_at(node, "comes before any layer", err);
    }
    *next = computed;
    const esp_tensor *tensor = constant_of(graph, constant);
    if (tensor == NULL || esp_tensor_elements(tensor) == 1) {
        return ESP_OK;
    }
    if (strcmp(node->op->name, "Add") == 0 && esp_tensor_dtype(tensor) == ESP_F32 &&
        it->old_constant[ADDED] < 0 && esp_tensor_elements(tensor) == it->old_classes) {
        it->old_constant[ADDED] = constant;
        return ESP_OK;
    }
    if (esp_tensor_dtype(tensor) != ESP_I64 || node->op->rule != ESP_CHANNEL_MOVE) {
        return fail_at(node, "has a constant that fits the old classes", err);
    }
    for (int64_t i = 0; i < esp_tensor_elements(tensor); i++) {
        if (esp_tensor_get_i64(tensor, i) == it->old_classes) {
            it->reshape_target = constant;
        }
    }
    return ESP_OK;
}

static esp_status take_layer(const esp_graph *graph, int index, const esp_layer_form *form, head *it,
                             esp_error *err)
{
    const esp_node *node = esp_graph_node(graph, index);
    const esp_shape *shape = esp_tensor_shape(constant_of(graph, node->inputs[form->weight_input]));
    if (shape->dims[form->filter_axis] != it->old_classes || esp_node_int(node, "group", 1) != 1) {
        return fail_at(node, "is a layer whose filters are not the classes", err);
    }
    if (esp_graph_consumer_count(graph, node->inputs[form->weight_input]) > 1) {
        return fail_at(node, "shares its weights with another layer", err);
    }
    it->layer = index;
    it->old_constant[WEIGHT] = node->inputs[form->weight_input];
    if (form->bias_input >= 0 && form->bias_input < node->input_count &&
        node->inputs[form->bias_input] >= 0) {
        it->old_constant[BIAS] = node->inputs[form->bias_input];
        if (constant_of(graph, it->old_constant[BIAS]) == NULL) {
            return fail_at(node, "has a bias that is computed", err);
        }
    }
    return ESP_OK;
}

static esp_status find_head(const esp_graph *graph, const esp_inferred *inferred, head *it, esp_error *err)
{
    esp_layer_form form;
    int value = esp_graph_output(graph, 0);
    for (;;) {
        int index = esp_graph_value(graph, value)->producer;
        if (index < 0) {
            return esp_fail(err, ESP_UNSUPPORTED, "no classifier to replace: model '%s' has no layer",
                            esp_graph_name(graph));
        }
        const esp_node *node = esp_graph_node(graph, index);
        if (is_layer(graph, node, &form)) {
            return take_layer(graph, index, &form, it, err);
        }
        if (find_split(graph, node, &it->source)) {
            const esp_shape *shape = esp_inferred_shape(inferred, it->source);
            if (shape->rank != 2) {
                return fail_at(node, "is a split layer that is not fully connected", err);
            }
            it->layer = index;
            it->is_split = true;
            it->channels = shape->dims[1];
            return ESP_OK;
        }
        esp_status status = pass_node(graph, index, it, &value, err);
        if (status != ESP_OK) {
            return status;
        }
    }
}

/* ---- new tensors ---- */

static esp_status draw(const esp_shape *shape, double bound, esp_rng *rng, esp_tensor **out, esp_error *err)
{
    esp_status status = esp_tensor_new(ESP_F32, shape, out, err);
    float *data = status == ESP_OK ? esp_tensor_f32_mut(*out) : NULL;
    for (int64_t i = 0; status == ESP_OK && i < esp_tensor_elements(*out); i++) {
        data[i] = (float)(bound * (2.0 * esp_rng_uniform(rng) - 1.0));
    }
    return status;
}

/* The shape of an old constant with the classes' dim replaced: the one given, or the one that has as many. */
static esp_shape other_shape(const esp_tensor *old, int axis, const head *it)
{
    esp_shape shape = *esp_tensor_shape(old);
    for (int i = shape.rank - 1; axis < 0 && i >= 0; i--) {
        axis = shape.dims[i] == it->old_classes ? i : -1;
    }
    if (axis >= 0) {
        shape.dims[axis] = it->classes;
    }
    return shape;
}

static esp_status make_tensors(const esp_graph *graph, head *it, uint64_t seed, esp_error *err)
{
    esp_rng rng;
    esp_layer_form form = {0};
    esp_shape weight;
    double inputs = (double)it->channels;
    esp_status status = ESP_OK;
    esp_rng_seed(&rng, seed);
    if (it->is_split) {
        weight = esp_shape_make(2, (const int64_t[]){it->classes, it->channels});
    } else {
        const esp_node *node = esp_graph_node(graph, it->layer);
        const esp_tensor *old = constant_of(graph, it->old_constant[WEIGHT]);
        (void)node->op->layer(node, &form);
        weight = other_shape(old, form.filter_axis, it);
        inputs = (double)esp_tensor_elements(old) / (double)it->old_classes;
    }
    double bound = 1.0 / sqrt(fmax(inputs, 1.0));
    status = draw(&weight, bound, &rng, &it->new_tensor[WEIGHT], err);
    if (status == ESP_OK && it->is_split) {
        const esp_shape bias = esp_shape_make(1, &it->classes);
        return draw(&bias, bound, &rng, &it->new_tensor[BIAS], err);
    }
    for (int i = BIAS; status == ESP_OK && i <= ADDED; i++) {
        if (it->old_constant[i] >= 0) {
            esp_shape shape = other_shape(constant_of(graph, it->old_constant[i]), -1, it);
            status = draw(&shape, bound, &rng, &it->new_tensor[i], err);
        }
    }
    return status;
}

/* ---- writing ---- */

typedef struct writer {
    const esp_graph *graph;
    const head *head;
    esp_builder *builder;
    int *index_of;   /* per old value: the builder's, or -1 */
    bool *is_needed; /* per node */
} writer;

/* Nodes the outputs still need. */
static void find_needed(writer *w)
{
    const esp_graph *graph = w->graph;
    int nodes = esp_graph_node_count(graph);
    for (int n = nodes - 1; n >= 0; n--) {
        const esp_node *node = esp_graph_node(graph, n);
        for (int o = 0; o < node->output_count; o++) {
            w->is_needed[n] =
                w->is_needed[n] || (node->outputs[o] >= 0 && esp_graph_is_output(graph, node->outputs[o]));
        }
        if (!w->is_needed[n]) {
            continue;
        }
        bool is_split = n == w->head->layer && w->head->is_split;
        for (int i = 0; i < (is_split ? 1 : node->input_count); i++) {
            int value = is_split ? w->head->source : node->inputs[i];
            int producer = value < 0 ? -1 : esp_graph_value(graph, value)->producer;
            if (producer >= 0) {
                w->is_needed[producer] = true;
            }
        }
    }
}

/* The reshape target with the new number in the place of the old one. */
static esp_status write_target(const writer *w, const esp_value *value, int *out, esp_error *err)
{
    esp_tensor *copy = NULL;
    esp_status status = esp_tensor_clone(value->constant, &copy, err);
    if (status == ESP_OK) {
        int64_t *dims = esp_tensor_data_mut(copy);
        for (int64_t i = 0; i < esp_tensor_elements(copy); i++) {
            dims[i] = dims[i] == w->head->old_classes ? w->head->classes : dims[i];
        }
        status = esp_builder_constant(w->builder, value->name, copy, out, err);
    }
    esp_tensor_unref(copy);
    return status;
}

/* A value as the nodes behind it read it. */
static esp_status write_value(writer *w, int index, int *out, esp_error *err)
{
    const esp_value *value = esp_graph_value(w->graph, index);
    esp_status status = ESP_OK;
    if (w->index_of[index] < 0 && index == w->head->reshape_target) {
        status = write_target(w, value, &w->index_of[index], err);
    } else if (w->index_of[index] < 0 && value->constant != NULL) {
        const esp_tensor *tensor = value->constant;
        for (int i = WEIGHT; i <= ADDED; i++) {
            tensor = index == w->head->old_constant[i] ? w->head->new_tensor[i] : tensor;
        }
        status = esp_builder_constant(w->builder, value->name, tensor, &w->index_of[index], err);
    } else if (w->index_of[index] < 0) {
        status = esp_builder_value(w->builder, value->name, &w->index_of[index], err);
    }
    *out = w->index_of[index];
    return status;
}

/* A fully connected layer where a split one was. */
static esp_status write_whole(writer *w, const esp_node *last, esp_error *err)
{
    int inputs[3], output = -1;
    char name[256];
    const esp_attr transposed = esp_attr_int("transB", 1);
    esp_status status = write_value(w, w->head->source, &inputs[0], err);
    for (int i = 0; status == ESP_OK && i < 2; i++) {
        snprintf(name, sizeof(name), "%.200s.%s", last->name, i == WEIGHT ? "weight" : "bias");
        const char *unique = esp_builder_unique_name(w->builder, name);
        status = unique == NULL
                     ? esp_fail_memory(err, "a name", sizeof(name))
                     : esp_builder_constant(w->builder, unique, w->head->new_tensor[i], &inputs[1 + i], err);
    }
    if (status == ESP_OK) {
        status = write_value(w, last->outputs[0], &output, err);
    }
    return status == ESP_OK
               ? esp_builder_node(w->builder, "Gemm", last->name, inputs, 3, &output, 1, &transposed, 1, err)
               : status;
}

static esp_status write_node(writer *w, int index, esp_error *err)
{
    const esp_node *node = esp_graph_node(w->graph, index);
    if (index == w->head->layer && w->head->is_split) {
        return write_whole(w, node, err);
    }
    size_t count = (size_t)node->input_count + (size_t)node->output_count;
    int *ends = esp_alloc(count, sizeof(*ends));
    esp_status status = ends == NULL ? esp_fail_memory(err, node->name, count * sizeof(*ends)) : ESP_OK;
    for (int i = 0; status == ESP_OK && i < (int)count; i++) {
        int value = i < node->input_count ? node->inputs[i] : node->outputs[i - node->input_count];
        ends[i] = -1;
        status = value < 0 ? ESP_OK : write_value(w, value, &ends[i], err);
    }
    if (status == ESP_OK) {
        status = esp_builder_node(w->builder, node->op->name, node->name, ends, node->input_count,
                                  ends + node->input_count, node->output_count, node->attrs, node->attr_count,
                                  err);
    }
    esp_free(ends);
    return status;
}

static esp_status write_ends(writer *w, esp_error *err)
{
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < esp_graph_output_count(w->graph); i++) {
        int old = esp_graph_output(w->graph, i), output = -1;
        const esp_value *value = esp_graph_value(w->graph, old);
        esp_shape shape = value->shape;
        if (i == 0 && shape.rank > 1 && shape.dims[1] == w->head->old_classes) {
            shape.dims[1] = w->head->classes;
        }
        status = write_value(w, old, &output, err);
        if (status == ESP_OK) {
            status =
                esp_builder_output(w->builder, output, value->dtype, shape.rank < 0 ? NULL : &shape, err);
        }
    }
    for (int i = 0; status == ESP_OK && i < esp_graph_metadata_count(w->graph); i++) {
        status = esp_builder_metadata(w->builder, esp_graph_metadata_key(w->graph, i),
                                      esp_graph_metadata_value(w->graph, i), err);
    }
    return status;
}

static esp_status write_graph(writer *w, esp_error *err)
{
    const esp_graph *graph = w->graph;
    esp_status status = esp_builder_new(esp_graph_name(graph), esp_graph_opset(graph),
                                        esp_graph_ir_version(graph), &w->builder, err);
    for (int v = 0; v < esp_graph_value_count(graph); v++) {
        w->index_of[v] = -1;
    }
    for (int i = 0; status == ESP_OK && i < esp_graph_input_count(graph); i++) {
        int v = esp_graph_input(graph, i);
        const esp_value *value = esp_graph_value(graph, v);
        status = esp_builder_input(w->builder, value->name, value->dtype, &value->shape, value->batch_name,
                                   &w->index_of[v], err);
    }
    find_needed(w);
    for (int n = 0; status == ESP_OK && n < esp_graph_node_count(graph); n++) {
        status = w->is_needed[n] ? write_node(w, n, err) : ESP_OK;
    }
    return status == ESP_OK ? write_ends(w, err) : status;
}

static esp_status rewrite(const esp_graph *graph, const head *it, esp_graph **out, esp_error *err)
{
    writer w = {.graph = graph, .head = it};
    size_t values = (size_t)esp_graph_value_count(graph), nodes = (size_t)esp_graph_node_count(graph);
    w.index_of = esp_alloc(values, sizeof(*w.index_of));
    w.is_needed = esp_alloc_zero(nodes, sizeof(*w.is_needed));
    esp_status status = w.index_of == NULL || w.is_needed == NULL
                            ? esp_fail_memory(err, "a graph", values * sizeof(*w.index_of))
                            : write_graph(&w, err);
    if (status == ESP_OK) {
        status = esp_builder_finish(w.builder, out, err);
    } else {
        esp_builder_free(w.builder);
    }
    esp_free(w.is_needed);
    esp_free(w.index_of);
    return status;
}

/* ---- the whole ---- */

static int64_t classes_of(const esp_graph *graph, const esp_inferred *inferred)
{
    const esp_shape *shape = esp_inferred_shape(inferred, esp_graph_output(graph, 0));
    return shape->rank < 2 ? 0 : shape->dims[1];
}

/* Shapes at batch 1. Of a model that leaves the size of its images open any size tells the classes, or the
 * model would not be open; the common one is taken. */
static esp_status infer(const esp_graph *graph, esp_inferred **out, esp_error *err)
{
    esp_input_shape shapes[1];
    int count = 0;
    const esp_value *input = esp_graph_value(graph, esp_graph_input(graph, 0));
    for (int i = 1; esp_graph_input_count(graph) == 1 && i < input->shape.rank; i++) {
        if (input->shape.dims[i] >= 0) {
            continue;
        }
        if (count++ == 0) {
            shapes[0] = (esp_input_shape){.name = input->name, .shape = input->shape};
            shapes[0].shape.dims[0] = 1;
        }
        shapes[0].shape.dims[i] = OPEN_SIZE;
    }
    return esp_infer(graph, 1, count > 0 ? shapes : NULL, count > 0 ? 1 : 0, out, err);
}

static esp_status find_classes(const esp_graph *graph, int64_t *out, esp_error *err)
{
    esp_inferred *inferred = NULL;
    esp_status status = infer(graph, &inferred, err);
    if (status == ESP_OK) {
        *out = classes_of(graph, inferred);
    }
    esp_inferred_free(inferred);
    return status;
}

int64_t esp_model_classes(const esp_graph *graph)
{
    esp_error ignored = {0};
    int64_t classes = 0;
    if (esp_graph_output_count(graph) > 0 && esp_graph_input_count(graph) > 0) {
        (void)find_classes(graph, &classes, &ignored); /* 0 when it fails */
    }
    return classes;
}

/* A number baked in somewhere else would show here. */
static esp_status check_result(const esp_graph *graph, int64_t classes, esp_error *err)
{
    int64_t found = 0;
    esp_status status = find_classes(graph, &found, err);
    if (status == ESP_OK && found != classes) {
        status = esp_fail(err, ESP_UNSUPPORTED,
                          "no classifier to replace: with the new layer the output has %lld classes, "
                          "expected %lld",
                          (long long)found, (long long)classes);
    }
    return status;
}

static esp_status replace(const esp_graph *graph, const esp_inferred *inferred, int64_t classes,
                          uint64_t seed, esp_graph **out, esp_error *err)
{
    head it = {.layer = -1,
               .source = -1,
               .old_constant = {-1, -1, -1},
               .reshape_target = -1,
               .old_classes = classes_of(graph, inferred),
               .classes = classes};
    esp_graph *made = NULL;
    esp_status status = find_head(graph, inferred, &it, err);
    if (status == ESP_OK) {
        status = make_tensors(graph, &it, seed, err);
    }
    if (status == ESP_OK) {
        status = rewrite(graph, &it, &made, err);
    }
    if (status == ESP_OK) {
        status = check_result(made, classes, err);
    }
    for (int i = WEIGHT; i <= ADDED; i++) {
        esp_tensor_unref(it.new_tensor[i]);
    }
    if (status == ESP_OK) {
        *out = made;
    } else {
        esp_graph_unref(made);
    }
    return status;
}

esp_status esp_replace_classifier(const esp_graph *graph, int64_t classes, uint64_t seed, esp_graph **out,
                                  esp_error *err)
{
    *out = NULL;
    if (classes < 1 || classes > 1000000) {
        return esp_fail(err, ESP_INVALID, "%lld classes, expected 1 to a million", (long long)classes);
    }
    if (esp_graph_output_count(graph) < 1 || esp_graph_input_count(graph) < 1) {
        return esp_fail(err, ESP_UNSUPPORTED,
                        "no classifier to replace: model '%s' has no input or no output",
                        esp_graph_name(graph));
    }
    esp_inferred *inferred = NULL;
    esp_status status = infer(graph, &inferred, err);
    if (status == ESP_OK) {
        status = replace(graph, inferred, classes, seed, out, err);
    }
    esp_inferred_free(inferred);
    return status;
}
