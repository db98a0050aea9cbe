/* The executor: reuse of memory changes no bit of any result, forward or backward; threads do not either. */
#include "unit/graph/block_nets.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

/* ---- random networks ---- */

enum { MOST_VALUES = 48, CHANNELS = 4, SIZE = 5, BATCH = 2 };

typedef struct random_net {
    net n;
    int values[MOST_VALUES]; /* all of shape NxCHANNELSxSIZExSIZE */
    int count;
} random_net;

static int pick(random_net *r)
{
    return r->values[esp_rng_below(&r->n.rng, (uint64_t)r->count)];
}

static int add_norm(net *n, int x)
{
    esp_shape c = S1(CHANNELS);
    return net_add(
        n, "BatchNormalization",
        IN(x, net_positive(n, c), net_constant(n, c, NULL), net_constant(n, c, NULL), net_positive(n, c)),
        NULL);
}

/* Reshapes there and back: two views in a row. */
static int add_views(net *n, int x)
{
    int flat = net_add(n, "Flatten", IN(x), NULL);
    return net_add(n, "Reshape", IN(flat, net_ints(n, 4, 0, CHANNELS, SIZE, SIZE)), NULL);
}

static int add_concat(net *n, int a, int b)
{
    int joined = net_add(n, "Concat", IN(a, b), AT(esp_attr_int("axis", 1)));
    return net_add(n, "Slice", IN(joined, net_ints(n, 1, 2), net_ints(n, 1, 2 + CHANNELS), net_ints(n, 1, 1)),
                   NULL);
}

static int add_random_node(random_net *r)
{
    net *n = &r->n;
    int a = pick(r), b = pick(r);
    switch (esp_rng_below(&n->rng, 12)) {
    case 0:
        return net_add(n, "Relu", IN(a), NULL);
    case 1:
        return net_add(n, "Sigmoid", IN(a), NULL);
    case 2:
        return net_add(n, "Tanh", IN(a), NULL);
    case 3:
        return net_add(n, "Add", IN(a, b), NULL);
    case 4:
        return net_add(n, "Mul", IN(net_add(n, "Tanh", IN(a), NULL), b), NULL);
    case 5:
        return net_add(
            n, "Conv",
            IN(a, net_constant(n, S4(CHANNELS, CHANNELS, 3, 3), NULL), net_constant(n, S1(CHANNELS), NULL)),
            AT(INTS("pads", 1, 1, 1, 1)));
    case 6:
        return add_norm(n, a);
    case 7:
        return add_views(n, a);
    case 8:
        return add_concat(n, a, b);
    case 9:
        return net_add(n, "Identity", IN(a), NULL);
    case 10:
        return net_add(n, "Dropout", IN(a), NULL);
    default:
        return net_add(n, "MaxPool", IN(a), AT(INTS("kernel_shape", 3, 3), INTS("pads", 1, 1, 1, 1)));
    }
}

/* Outputs: the last value, and now and then a value in the middle, which must then survive to the end. */
static esp_graph *random_graph(uint64_t seed)
{
    random_net r = {.n = net_new(11)};
    esp_rng_seed(&r.n.rng, seed);
    r.values[r.count++] = net_input(&r.n, "x", S4(ESP_DIM_BATCH, CHANNELS, SIZE, SIZE));
    r.values[r.count++] = net_input(&r.n, "z", S4(ESP_DIM_BATCH, CHANNELS, SIZE, SIZE));
    int nodes = 4 + (int)esp_rng_below(&r.n.rng, MOST_VALUES - 8);
    for (int i = 0; i < nodes; i++) {
        r.values[r.count] = add_random_node(&r);
        r.count++;
    }
    int last = r.values[r.count - 1], middle = r.values[r.count / 2];
    net_output(&r.n, last);
    if (middle != last && middle != r.values[0] && middle != r.values[1])
        net_output(&r.n, middle);
    return net_finish(&r.n);
}

static void fill_inputs(esp_exec *exec, const esp_graph *graph, uint64_t seed)
{
    esp_rng rng;
    esp_rng_seed(&rng, seed);
    for (int i = 0; i < esp_graph_input_count(graph); i++) {
        const esp_view *x = esp_exec_input(exec, i);
        fill_random(&rng, view_data(x), view_count(x), -1, 1);
    }
}

static void fill_output_grads(esp_exec *exec, const esp_graph *graph)
{
    esp_rng rng;
    esp_rng_seed(&rng, 99);
    for (int i = 0; i < esp_graph_output_count(graph); i++) {
        const esp_view *dy = esp_exec_output_grad(exec, i);
        fill_random(&rng, view_data(dy), view_count(dy), -1, 1);
    }
}

static void assert_same_bits(const esp_view *a, const esp_view *b)
{
    assert_true(esp_shape_equal(&a->shape, &b->shape));
    assert_memory_equal(view_data(a), view_data(b), (size_t)view_count(a) * sizeof(float));
}

static void assert_same_outputs(const esp_graph *graph, const esp_exec *a, const esp_exec *b)
{
    for (int i = 0; i < esp_graph_output_count(graph); i++)
        assert_same_bits(esp_exec_output(a, i), esp_exec_output(b, i));
}

static void reuse_changes_nothing_at_evaluation(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        esp_graph *graph = random_graph(seed);
        esp_exec *lean = exec_new(graph, (esp_exec_options){.batch = BATCH, .engine = &plain_images});
        esp_exec *whole = exec_new(graph, (esp_exec_options){.batch = BATCH, .keeps_values = true});
        assert_true(esp_exec_planned_bytes(lean) <= esp_exec_unplanned_bytes(lean));
        assert_true(esp_exec_planned_bytes(lean) <= esp_exec_planned_bytes(whole));
        fill_inputs(lean, graph, seed);
        fill_inputs(whole, graph, seed);
        run_forward(whole);
        for (int run = 0; run < 2; run++) { /* the second run finds the inputs untouched */
            run_forward(lean);
            assert_same_outputs(graph, lean, whole);
        }
        esp_exec_free(lean);
        esp_exec_free(whole);
        esp_graph_unref(graph);
    }
}

static esp_exec *training_exec(const esp_graph *graph, esp_params *params, bool keeps_values)
{
    esp_error err = {0};
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = BATCH,
                                                        .is_training = true,
                                                        .params = params,
                                                        .seed = 4,
                                                        .keeps_values = keeps_values,
                                                        .engine = &plain_images});
    for (int i = 0; i < esp_graph_input_count(graph); i++)
        must(esp_exec_want_input_grad(exec, i, &err), &err);
    return exec;
}

static void train_once(esp_exec *exec, const esp_graph *graph, const esp_compute *compute)
{
    esp_error err = {0};
    fill_inputs(exec, graph, 7);
    must(esp_exec_forward(exec, compute, &err), &err);
    fill_output_grads(exec, graph);
    must(esp_exec_backward(exec, compute, &err), &err);
}

static void assert_same_params(esp_params *a, esp_params *b)
{
    for (int i = 0; i < esp_params_count(a); i++) {
        const esp_param *p = esp_params_at(a, i), *q = esp_params_at(b, i);
        size_t bytes = (size_t)p->elements * sizeof(float);
        assert_memory_equal(p->data, q->data, bytes);
        if (p->grad != NULL)
            assert_memory_equal(p->grad, q->grad, bytes);
    }
}

static void reuse_changes_nothing_in_training(void **state)
{
    (void)state;
    esp_error err = {0};
    for (uint64_t seed = 100; seed < 160; seed++) {
        esp_graph *graph = random_graph(seed);
        esp_params *lean_params, *whole_params;
        must(esp_params_new(graph, &lean_params, &err), &err);
        must(esp_params_new(graph, &whole_params, &err), &err);
        esp_exec *lean = training_exec(graph, lean_params, false),
                 *whole = training_exec(graph, whole_params, true);
        assert_true(esp_exec_planned_bytes(lean) <= esp_exec_unplanned_bytes(lean));
        for (int run = 0; run < 2; run++) {
            train_once(lean, graph, NULL);
            train_once(whole, graph, NULL);
            assert_same_outputs(graph, lean, whole);
            assert_same_params(lean_params, whole_params);
        }
        for (int i = 0; i < esp_graph_input_count(graph); i++) {
            const esp_view *a = esp_exec_input_grad(lean, i), *b = esp_exec_input_grad(whole, i);
            assert_true((a == NULL) == (b == NULL));
            if (a != NULL)
                assert_same_bits(a, b);
        }
        esp_exec_free(lean);
        esp_exec_free(whole);
        esp_params_free(lean_params);
        esp_params_free(whole_params);
        esp_graph_unref(graph);
    }
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    esp_error err = {0};
    for (uint64_t seed = 200; seed < 206; seed++) {
        esp_graph *graph = random_graph(seed);
        esp_params *params[3];
        esp_exec *execs[3];
        for (int t = 0; t < 3; t++) {
            esp_pool *pool;
            must(esp_pool_new(t + 1, &pool, &err), &err);
            esp_compute compute = {.pool = pool};
            must(esp_params_new(graph, &params[t], &err), &err);
            execs[t] = exec_new(
                graph,
                (esp_exec_options){.batch = 16, .is_training = true, .params = params[t], .slots = t + 1});
            train_once(execs[t], graph, &compute);
            esp_pool_free(pool);
            assert_same_outputs(graph, execs[0], execs[t]);
            assert_same_params(params[0], params[t]);
        }
        for (int t = 0; t < 3; t++) {
            esp_exec_free(execs[t]);
            esp_params_free(params[t]);
        }
        esp_graph_unref(graph);
    }
}

/* ---- particular behaviours ---- */

/* Conv, batch-norm, ReLU, pool, classifier, Softmax. `*norm` is the batch-norm's node. */
static esp_graph *small_classifier(int *logits)
{
    net n = net_new(13);
    int x = net_input(&n, "x", S4(ESP_DIM_BATCH, 2, 4, 4));
    int conv = net_add(&n, "Conv", IN(x, net_constant(&n, S4(CHANNELS, 2, 3, 3), NULL)),
                       AT(INTS("pads", 1, 1, 1, 1)));
    int relu = net_add(&n, "Relu", IN(add_norm(&n, conv)), NULL);
    int flat = net_add(&n, "Flatten", IN(net_add(&n, "GlobalAveragePool", IN(relu), NULL)), NULL);
    *logits =
        net_add(&n, "Gemm", IN(flat, net_constant(&n, S2(3, CHANNELS), NULL), net_constant(&n, S1(3), NULL)),
                AT(esp_attr_int("transB", 1)));
    net_output(&n, net_add(&n, "Softmax", IN(*logits), NULL));
    return net_finish(&n);
}

static void evaluation_can_stop_at_the_logits(void **state)
{
    (void)state;
    int logits;
    esp_graph *graph = small_classifier(&logits);
    esp_exec *whole = exec_new(graph, (esp_exec_options){.batch = 2, .keeps_values = true});
    esp_exec *stopped =
        exec_new(graph, (esp_exec_options){.batch = 2, .stops_at_logits = true, .engine = &plain_images});
    fill_inputs(whole, graph, 1);
    fill_inputs(stopped, graph, 1);
    run_forward(whole);
    run_forward(stopped);
    assert_same_bits(esp_exec_output(stopped, 0), esp_exec_value(whole, logits));
    const float *p = view_data(esp_exec_output(whole, 0));
    assert_float_equal(p[0] + p[1] + p[2], 1.0f, 1e-6f);
    assert_null(esp_exec_value(stopped, logits));
    esp_exec_free(whole);
    esp_exec_free(stopped);
    esp_graph_unref(graph);
}

static const esp_param *running_param(esp_params *params, int which)
{
    for (int i = 0; i < esp_params_count(params); i++) {
        if (esp_params_at(params, i)->is_running && which-- == 0)
            return esp_params_at(params, i);
    }
    fail();
    return NULL;
}

/* Mean and unbiased variance of the normalised values' channel c, in double. */
static void channel_statistics(const esp_view *x, int64_t c, double *mean, double *variance)
{
    int64_t inner = x->shape.dims[2] * x->shape.dims[3], count = x->shape.dims[0] * inner;
    double sum = 0, squares = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t n = 0; n < x->shape.dims[0]; n++) {
            const float *plane = view_data(x) + (n * x->shape.dims[1] + c) * inner;
            for (int64_t i = 0; i < inner; i++) {
                sum += pass == 0 ? (double)plane[i] : 0.0;
                squares += pass == 0 ? 0.0 : ((double)plane[i] - *mean) * ((double)plane[i] - *mean);
            }
        }
        *mean = sum / (double)count;
    }
    *variance = squares / (double)(count - 1);
}

static void training_updates_running_statistics(void **state)
{
    (void)state;
    esp_error err = {0};
    int logits;
    esp_graph *graph = small_classifier(&logits);
    esp_params *params;
    must(esp_params_new(graph, &params, &err), &err);
    const esp_param *mean = running_param(params, 0), *variance = running_param(params, 1);
    float old_mean[CHANNELS], old_variance[CHANNELS];
    memcpy(old_mean, mean->data, sizeof old_mean);
    memcpy(old_variance, variance->data, sizeof old_variance);
    esp_exec *exec = exec_new(
        graph, (esp_exec_options){.batch = 4, .is_training = true, .params = params, .keeps_values = true});
    fill_inputs(exec, graph, 1);
    run_forward(exec);
    const esp_view *conv = esp_exec_value(exec, esp_graph_node(graph, 0)->outputs[0]);
    for (int c = 0; c < CHANNELS; c++) {
        double batch_mean = 0, batch_variance = 0;
        channel_statistics(conv, c, &batch_mean, &batch_variance);
        assert_float_equal(mean->data[c], (float)(0.9 * (double)old_mean[c] + 0.1 * batch_mean), 1e-5f);
        assert_float_equal(variance->data[c], (float)(0.9 * (double)old_variance[c] + 0.1 * batch_variance),
                           1e-5f);
    }
    esp_exec_free(exec);
    esp_params_free(params);
    esp_graph_unref(graph);
}

static void frozen_norms_train_in_their_evaluation_form(void **state)
{
    (void)state;
    esp_error err = {0};
    int logits;
    esp_graph *graph = small_classifier(&logits);
    esp_params *params;
    must(esp_params_new(graph, &params, &err), &err);
    const esp_param *mean = running_param(params, 0);
    float old_mean[CHANNELS];
    memcpy(old_mean, mean->data, sizeof old_mean);
    esp_exec *frozen = exec_new(
        graph, (esp_exec_options){.batch = 4, .is_training = true, .params = params, .freezes_norm = true});
    esp_exec *evaluation = exec_new(graph, (esp_exec_options){.batch = 4});
    fill_inputs(frozen, graph, 1);
    fill_inputs(evaluation, graph, 1);
    run_forward(frozen);
    run_forward(evaluation);
    assert_same_bits(esp_exec_output(frozen, 0), esp_exec_output(evaluation, 0));
    assert_memory_equal(mean->data, old_mean, sizeof old_mean);
    esp_exec_free(frozen);
    esp_exec_free(evaluation);
    esp_params_free(params);
    esp_graph_unref(graph);
}

static void changed_params_are_seen_at_once(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 2));
    net_output(&n, net_add(&n, "MatMul", IN(x, net_constant(&n, S2(2, 1), (const float[]){1, 1})), NULL));
    esp_graph *graph = net_finish(&n);
    esp_params *params;
    must(esp_params_new(graph, &params, &err), &err);
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 1, .params = params});
    float *in = view_data(esp_exec_input(exec, 0));
    in[0] = 1;
    in[1] = 2;
    run_forward(exec);
    assert_float_equal(view_data(esp_exec_output(exec, 0))[0], 3, 0);
    esp_params_at(params, 0)->data[1] = 10;
    run_forward(exec);
    assert_float_equal(view_data(esp_exec_output(exec, 0))[0], 21, 0);
    esp_exec_free(exec);
    esp_params_free(params);
    esp_graph_unref(graph);
}

/* A weight that is also seen through folding-capable nodes must not be folded while it is trained. */
static void what_depends_on_params_is_not_folded(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 2)), w = net_constant(&n, S2(2, 2), (const float[]){1, 2, 3, 4});
    int y = net_add(&n, "MatMul", IN(x, w), NULL);
    int transposed = net_add(&n, "Transpose", IN(w), NULL);
    net_output(&n, net_add(&n, "Add", IN(y, transposed), NULL));
    esp_graph *graph = net_finish(&n);
    esp_params *params;
    must(esp_params_new(graph, &params, &err), &err);
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 1, .params = params});
    run_forward(exec); /* inputs start as zero */
    assert_close(view_data(esp_exec_output(exec, 0)), (const float[]){1, 3, 2, 4}, 4, 0);
    esp_params_at(params, 0)->data[1] = 7;
    run_forward(exec);
    assert_close(view_data(esp_exec_output(exec, 0)), (const float[]){1, 3, 7, 4}, 4, 0);
    esp_exec_free(exec);
    esp_params_free(params);
    esp_graph_unref(graph);
}

static void an_output_nobody_graded_counts_as_zero(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 2));
    int y = net_add(&n, "MatMul", IN(x, net_constant(&n, S2(2, 1), NULL)), NULL);
    int z = net_add(&n, "MatMul", IN(x, net_constant(&n, S2(2, 1), NULL)), NULL);
    net_output(&n, y);
    net_output(&n, z);
    esp_graph *graph = net_finish(&n);
    esp_params *params;
    must(esp_params_new(graph, &params, &err), &err);
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 1, .is_training = true, .params = params});
    view_data(esp_exec_input(exec, 0))[0] = 5;
    for (int run = 0; run < 2; run++) {
        run_forward(exec);
        view_data(esp_exec_output_grad(exec, 0))[0] = 2;
        must(esp_exec_backward(exec, NULL, &err), &err);
        assert_float_equal(esp_params_at(params, 0)->grad[0], 10, 0);
        assert_float_equal(esp_params_at(params, 1)->grad[0], 0, 0);
    }
    esp_exec_free(exec);
    esp_params_free(params);
    esp_graph_unref(graph);
}

static void a_parameter_no_output_needs_gets_a_zero_gradient(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 2));
    net_output(&n, net_add(&n, "MatMul", IN(x, net_constant(&n, S2(2, 1), NULL)), NULL));
    net_add(&n, "MatMul", IN(x, net_constant(&n, S2(2, 1), NULL)), NULL);
    esp_graph *graph = net_finish(&n);
    esp_params *params;
    must(esp_params_new(graph, &params, &err), &err);
    esp_param *idle = esp_params_at(params, 1);
    idle->grad[0] = 123;
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 1, .is_training = true, .params = params});
    run_forward(exec);
    view_data(esp_exec_output_grad(exec, 0))[0] = 1;
    must(esp_exec_backward(exec, NULL, &err), &err);
    assert_float_equal(idle->grad[0], 0, 0);
    esp_exec_free(exec);
    esp_params_free(params);
    esp_graph_unref(graph);
}

static void views_and_in_place_steps_need_no_memory(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 1024));
    int y = net_add(&n, "Tanh", IN(x), NULL);
    for (int i = 0; i < 6; i++)
        y = net_add(&n, i % 2 == 0 ? "Relu" : "Identity", IN(net_add(&n, "Flatten", IN(y), NULL)), NULL);
    net_output(&n, y);
    esp_graph *graph = net_finish(&n);
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 1});
    assert_int_equal(esp_exec_planned_bytes(exec),
                     2 * 1024 * sizeof(float)); /* the input and everything else */
    esp_exec_free(exec);
    esp_graph_unref(graph);
}

/* Written over its first input, the sum would read its own result as the third. */
static void a_sum_that_reads_an_input_twice_is_right(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 3));
    int a = net_add(&n, "Neg", IN(x), NULL), b = net_add(&n, "Exp", IN(x), NULL);
    net_output(&n, net_add(&n, "Sum", IN(a, b, a), NULL));
    esp_graph *graph = net_finish(&n);
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 1});
    view_data(esp_exec_input(exec, 0))[1] = 1;
    run_forward(exec);
    assert_close(view_data(esp_exec_output(exec, 0)), (const float[]){1, 0.71828183f, 1}, 3, 1e-6);
    esp_exec_free(exec);
    esp_graph_unref(graph);
}

static void an_input_may_be_an_output(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 3));
    net_output(&n, net_add(&n, "Identity", IN(x), NULL));
    net_output(&n, net_add(&n, "Neg", IN(x), NULL));
    net_output(&n, x);
    esp_graph *graph = net_finish(&n);
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 1});
    float *in = view_data(esp_exec_input(exec, 0));
    for (int i = 0; i < 3; i++)
        in[i] = (float)i;
    run_forward(exec);
    assert_close(view_data(esp_exec_output(exec, 0)), (const float[]){0, 1, 2}, 3, 0);
    assert_close(view_data(esp_exec_output(exec, 1)), (const float[]){0, -1, -2}, 3, 0);
    assert_close(view_data(esp_exec_output(exec, 2)), (const float[]){0, 1, 2}, 3, 0);
    esp_exec_free(exec);
    esp_graph_unref(graph);
}

static void runs_allocate_nothing(void **state)
{
    (void)state;
    esp_error err = {0};
    int logits;
    esp_graph *graph = small_classifier(&logits);
    esp_params *params;
    must(esp_params_new(graph, &params, &err), &err);
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 4, .is_training = true, .params = params});
    fill_inputs(exec, graph, 1);
    esp_memory_fuse(1);
    esp_status forward = esp_exec_forward(exec, NULL, &err);
    fill_output_grads(exec, graph);
    esp_status backward = esp_exec_backward(exec, NULL, &err);
    int burnt = esp_memory_fuse_burnt();
    esp_memory_fuse(0);
    assert_int_equal(forward, ESP_OK);
    assert_int_equal(backward, ESP_OK);
    assert_false(burnt);
    esp_exec_free(exec);
    esp_params_free(params);
    esp_graph_unref(graph);
}

static void a_set_token_cancels_both_passes(void **state)
{
    (void)state;
    esp_error err = {0};
    int logits;
    esp_graph *graph = small_classifier(&logits);
    esp_params *params;
    must(esp_params_new(graph, &params, &err), &err);
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 1, .is_training = true, .params = params});
    esp_cancel cancel = {0};
    esp_compute compute = {.cancel = &cancel};
    must(esp_exec_forward(exec, &compute, &err), &err);
    esp_cancel_request(&cancel);
    assert_int_equal(esp_exec_backward(exec, &compute, &err), ESP_CANCELLED);
    assert_int_equal(esp_exec_forward(exec, &compute, &err), ESP_CANCELLED);
    esp_cancel_clear(&cancel);
    assert_int_equal(esp_exec_backward(exec, &compute, &err),
                     ESP_STATE); /* the forward run was not finished */
    esp_exec_free(exec);
    esp_params_free(params);
    esp_graph_unref(graph);
}

static void misuse_is_refused(void **state)
{
    (void)state;
    esp_error err = {0};
    int logits;
    esp_graph *graph = small_classifier(&logits);
    esp_exec *exec;
    esp_exec_options options = {.batch = 1, .is_training = true};
    assert_int_equal(esp_exec_new(graph, &options, &exec, &err), ESP_INVALID);
    assert_null(exec);
    options = (esp_exec_options){.batch = 0};
    assert_int_equal(esp_exec_new(graph, &options, &exec, &err), ESP_INVALID);
    exec = exec_new(graph, (esp_exec_options){.batch = 1});
    assert_int_equal(esp_exec_backward(exec, NULL, &err), ESP_STATE);
    assert_int_equal(esp_exec_want_input_grad(exec, 0, &err), ESP_STATE);
    assert_null(esp_exec_output_grad(exec, 0));
    esp_pool *pool;
    must(esp_pool_new(3, &pool, &err), &err);
    esp_compute compute = {.pool = pool};
    assert_int_equal(esp_exec_forward(exec, &compute, &err), ESP_INVALID);
    assert_contains(err.message, "made for 1 threads, asked to run on 3");
    esp_pool_free(pool);
    esp_exec_free(exec);
    esp_exec_free(NULL);
    esp_graph_unref(graph);
}

static void run_time_errors_name_the_node(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    esp_shape shape = S1(1);
    int index, y;
    must(esp_builder_input(n.builder, "index", ESP_I64, &shape, NULL, &index, &err), &err);
    int inputs[2] = {net_constant(&n, S2(3, 2), NULL), index};
    must(esp_builder_add(n.builder, "Gather", "lookup", inputs, 2, NULL, 0, NULL, &y, &err), &err);
    net_output(&n, y);
    esp_graph *graph = net_finish(&n);
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 1});
    *(int64_t *)esp_exec_input(exec, 0)->data = 3;
    assert_int_equal(esp_exec_forward(exec, NULL, &err), ESP_SHAPE);
    assert_contains(err.message, "node 'lookup' (Gather)");
    *(int64_t *)esp_exec_input(exec, 0)->data = 2;
    must(esp_exec_forward(exec, NULL, &err), &err);
    esp_exec_free(exec);
    esp_graph_unref(graph);
}

static void statistics_that_are_computed_cannot_be_trained(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 2)), p = net_positive(&n, S1(2));
    int mean = net_add(&n, "Neg", IN(p), NULL);
    net_output(&n, net_add(&n, "BatchNormalization", IN(x, p, p, mean, p), NULL));
    esp_graph *graph = net_finish(&n);
    esp_params *params;
    must(esp_params_new(graph, &params, &err), &err);
    esp_exec *exec;
    esp_exec_options options = {.batch = 1, .is_training = true, .params = params};
    assert_int_equal(esp_exec_new(graph, &options, &exec, &err), ESP_UNSUPPORTED);
    assert_contains(err.message, "(BatchNormalization)");
    options.freezes_norm = true;
    must(esp_exec_new(graph, &options, &exec, &err), &err);
    esp_exec_free(exec);
    esp_params_free(params);
    esp_graph_unref(graph);
}

static void times_are_given_per_node(void **state)
{
    (void)state;
    int logits;
    esp_graph *graph = small_classifier(&logits);
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 1});
    double seconds[16];
    for (int i = 0; i < 16; i++)
        seconds[i] = -1;
    esp_exec_time_nodes(exec, seconds);
    run_forward(exec);
    for (int i = 0; i < esp_graph_node_count(graph); i++)
        assert_true(seconds[i] >= 0);
    seconds[0] = -1;
    esp_exec_time_nodes(exec, NULL);
    run_forward(exec);
    assert_true(seconds[0] < 0);
    esp_exec_free(exec);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reuse_changes_nothing_at_evaluation),
        cmocka_unit_test(reuse_changes_nothing_in_training),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(evaluation_can_stop_at_the_logits),
        cmocka_unit_test(training_updates_running_statistics),
        cmocka_unit_test(frozen_norms_train_in_their_evaluation_form),
        cmocka_unit_test(changed_params_are_seen_at_once),
        cmocka_unit_test(what_depends_on_params_is_not_folded),
        cmocka_unit_test(an_output_nobody_graded_counts_as_zero),
        cmocka_unit_test(a_parameter_no_output_needs_gets_a_zero_gradient),
        cmocka_unit_test(views_and_in_place_steps_need_no_memory),
        cmocka_unit_test(a_sum_that_reads_an_input_twice_is_right),
        cmocka_unit_test(an_input_may_be_an_output),
        cmocka_unit_test(runs_allocate_nothing),
        cmocka_unit_test(a_set_token_cancels_both_passes),
        cmocka_unit_test(misuse_is_refused),
        cmocka_unit_test(run_time_errors_name_the_node),
        cmocka_unit_test(statistics_that_are_computed_cannot_be_trained),
        cmocka_unit_test(times_are_given_per_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
