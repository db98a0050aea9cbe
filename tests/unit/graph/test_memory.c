/* Every allocation of a graph's life fails once: each failure is an ordinary error that leaves nothing
 * behind. */
#include "unit/graph/net.h"

#include <string.h>

#include "base/memory.h"

typedef struct life {
    int channels;
    esp_tensor *weight, *vector, *ints;
} life;

/* Residual block with batch-norm, a folded reshape chain and a classifier, built without the helpers that
 * fail tests. */
static esp_status build(const life *l, esp_graph **out, esp_error *err)
{
    esp_builder *b;
    esp_shape image = S4(ESP_DIM_BATCH, l->channels, 4, 4);
    int x, w, v, t, conv, norm, relu, sum, shape, rows, flat;
    *out = NULL;
    esp_status status = esp_builder_new("residual", 13, 8, &b, err);
    if (status != ESP_OK)
        return status;
    esp_attr pads = INTS("pads", 1, 1, 1, 1), axis = esp_attr_int("axis", 0);
    if ((status = esp_builder_input(b, "x", ESP_F32, &image, "batch", &x, err)) == ESP_OK &&
        (status = esp_builder_constant(b, "w", l->weight, &w, err)) == ESP_OK &&
        (status = esp_builder_constant(b, "v", l->vector, &v, err)) == ESP_OK &&
        (status = esp_builder_constant(b, "t", l->ints, &t, err)) == ESP_OK &&
        (status = esp_builder_metadata(b, "key", "value", err)) == ESP_OK &&
        (status = esp_builder_add(b, "Conv", "conv", (int[]){x, w, v}, 3, &pads, 1, NULL, &conv, err)) ==
            ESP_OK &&
        (status = esp_builder_add(b, "BatchNormalization", NULL, (int[]){conv, v, v, v, v}, 5, NULL, 0, NULL,
                                  &norm, err)) == ESP_OK &&
        (status = esp_builder_add(b, "Relu", NULL, &norm, 1, NULL, 0, NULL, &relu, err)) == ESP_OK &&
        (status = esp_builder_add(b, "Add", NULL, (int[]){relu, x}, 2, NULL, 0, NULL, &sum, err)) == ESP_OK &&
        (status = esp_builder_add(b, "Shape", NULL, &sum, 1, NULL, 0, NULL, &shape, err)) == ESP_OK &&
        (status = esp_builder_add(b, "Gather", NULL, (int[]){shape, t}, 2, &axis, 1, NULL, &rows, err)) ==
            ESP_OK &&
        (status = esp_builder_add(b, "Reshape", NULL, (int[]){sum, rows}, 2, NULL, 0, "flat", &flat, err)) ==
            ESP_OK)
        status = esp_builder_output(b, flat, ESP_F32, NULL, err);
    if (status != ESP_OK) {
        esp_builder_free(b);
        return status;
    }
    return esp_builder_finish(b, out, err);
}

static esp_status train(const esp_graph *graph, esp_params *params, esp_error *err)
{
    esp_exec *exec;
    esp_exec_options options = {.batch = 2, .is_training = true, .params = params};
    esp_status status = esp_exec_new(graph, &options, &exec, err);
    if (status != ESP_OK)
        return status;
    status = esp_exec_want_input_grad(exec, 0, err);
    if (status == ESP_OK)
        status = esp_exec_forward(exec, NULL, err);
    if (status == ESP_OK) {
        const esp_view *dy = esp_exec_output_grad(exec, 0);
        memset(dy->data, 0, (size_t)esp_shape_elements(&dy->shape) * sizeof(float));
        status = esp_exec_backward(exec, NULL, err);
    }
    esp_exec_free(exec);
    return status;
}

static esp_status evaluate(const esp_graph *graph, esp_error *err)
{
    esp_exec *exec;
    esp_exec_options options = {.batch = 2};
    esp_status status = esp_exec_new(graph, &options, &exec, err);
    if (status == ESP_OK)
        status = esp_exec_forward(exec, NULL, err);
    esp_exec_free(exec);
    return status;
}

static esp_status use(const esp_graph *graph, esp_error *err)
{
    esp_inferred *inferred = NULL;
    esp_layers layers = {0};
    esp_params *params = NULL;
    esp_counts counts;
    esp_graph *other = NULL, *trained = NULL;
    esp_status status = esp_infer(graph, 1, NULL, 0, &inferred, err);
    if (status == ESP_OK)
        status = esp_layers_list(graph, inferred, &layers, err);
    if (status == ESP_OK)
        status = esp_graph_count(graph, inferred, &counts, err);
    if (status == ESP_OK)
        status = esp_params_new(graph, &params, err);
    if (status == ESP_OK)
        status = train(graph, params, err);
    if (status == ESP_OK)
        status = evaluate(graph, err);
    if (status == ESP_OK) {
        esp_params_at(params, 0)->data[0] += 1.0f;
        status = esp_params_to_graph(params, &trained, err);
    }
    if (status == ESP_OK)
        status = esp_graph_with_metadata(graph, "key", "other", &other, err);
    esp_graph_unref(trained);
    esp_graph_unref(other);
    esp_params_free(params);
    esp_layers_free(&layers);
    esp_inferred_free(inferred);
    return status;
}

static esp_status whole_life(const life *l, esp_error *err)
{
    esp_graph *graph, *simple;
    esp_status status = build(l, &graph, err);
    if (status != ESP_OK)
        return status;
    status = esp_graph_simplify(graph, &simple, err);
    esp_graph_unref(graph);
    if (status != ESP_OK)
        return status;
    status = use(simple, err);
    esp_graph_unref(simple);
    return status;
}

/* With few channels images stay plain, with 16 they lie in blocks and steps are joined. */
static void survive(int channels)
{
    esp_error err = {0};
    esp_shape four = S1(4);
    const int64_t order[4] = {0, 2, 1, 3};
    life l = {.channels = channels,
              .weight = tensor_f32(S4(channels, channels, 3, 3), NULL),
              .vector = tensor_f32(S1(channels), NULL)};
    must(esp_tensor_from(ESP_I64, &four, order, &l.ints, &err), &err);
    size_t before = esp_memory_live();
    int failures = 0;
    for (int64_t k = 1;; k++) {
        err = (esp_error){0};
        esp_memory_fuse(k);
        esp_status status = whole_life(&l, &err);
        int burnt = esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        (void)esp_tensor_data_mut(l.weight); /* forgets what was packed */
        assert_int_equal(esp_memory_live(), before);
        if (!burnt) {
            must(status, &err);
            break;
        }
        failures++;
        assert_int_equal(status, ESP_NO_MEMORY);
        assert_true(err.message[0] != '\0');
    }
    assert_true(failures > 100);
    esp_tensor_unref(l.weight);
    esp_tensor_unref(l.vector);
    esp_tensor_unref(l.ints);
}

static void every_failing_allocation_is_survived(void **state)
{
    (void)state;
    survive(4);
    survive(16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_failing_allocation_is_survived)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
