/* Fusions: which nodes one step does the work of, and which must stay apart; that results agree is
 * test_blocks.c's. Also concatenation in place, and what is packed when. */
#include "unit/graph/block_nets.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static const esp_engine blocks = {.isa = ESP_ISA_PLAIN, .has_blocked = true};

typedef struct fused_net {
    net n;
    int x; /* 16 channels, 8x8, in blocks */
} fused_net;

static fused_net start(void)
{
    fused_net f = {.n = net_new(13)};
    int x = net_input(&f.n, "x", S4(ESP_DIM_BATCH, 16, 8, 8));
    f.x = block_conv(&f.n, x, 16, 16, 3, 1);
    return f;
}

static int conv(fused_net *f, int x)
{
    return block_conv(&f->n, x, 16, 16, 3, 1);
}

static int norm(fused_net *f, int x)
{
    return block_norm(&f->n, x, 16);
}

static int add(fused_net *f, int a, int b)
{
    return net_add(&f->n, "Add", IN(a, b), NULL);
}

/* The graph, checked to give what it gives node by node. */
static esp_graph *finish(fused_net *f, int y)
{
    net_output(&f->n, y);
    esp_graph *graph = net_finish(&f->n);
    int64_t count;
    float *expected = evaluate_under(graph, &plain_images, NULL, 1, &count);
    float *found = evaluate_under(graph, &blocks, NULL, 1, &count);
    assert_true(relative_error(found, expected, count) < 1e-5);
    free(expected);
    free(found);
    return graph;
}

/* One letter per node in order: which node's step does its work, 'a' being the first node's. Checks and frees
 * the graph. */
static void expect_steps(esp_graph *graph, bool is_training, const char *expected)
{
    esp_error err = {0};
    esp_params *params;
    char found[64] = "";
    must(esp_params_new(graph, &params, &err), &err);
    esp_exec *exec = exec_new(
        graph,
        (esp_exec_options){.batch = 2, .engine = &blocks, .params = params, .is_training = is_training});
    for (int n = 0; n < esp_graph_node_count(graph); n++)
        found[n] = (char)('a' + esp_exec_node(exec, n).fused_into);
    assert_string_equal(found, expected);
    esp_exec_free(exec);
    esp_params_free(params);
    esp_graph_unref(graph);
}

/* ---- what is joined ---- */

static void a_convolution_takes_in_norm_addition_and_relu(void **state)
{
    (void)state;
    fused_net f = start();
    int y = block_relu(&f.n, add(&f, norm(&f, conv(&f, f.x)), f.x));
    expect_steps(finish(&f, y), false, "abbbb");
}

static void an_addition_goes_to_the_branch_that_ends_later(void **state)
{
    (void)state;
    fused_net f = start();
    int a = norm(&f, conv(&f, f.x)), b = norm(&f, conv(&f, f.x));
    expect_steps(finish(&f, block_relu(&f.n, add(&f, a, b))), false, "abbdddd");
    f = start();
    a = norm(&f, conv(&f, f.x));
    b = norm(&f, conv(&f, f.x));
    expect_steps(finish(&f, block_relu(&f.n, add(&f, b, a))), false, "abbdddd");
}

static void a_sum_of_two_is_an_addition(void **state)
{
    (void)state;
    fused_net f = start();
    int y = net_add(&f.n, "Sum", IN(conv(&f, f.x), f.x), NULL);
    expect_steps(finish(&f, block_relu(&f.n, y)), false, "abbb");
}

static void arithmetic_per_channel_is_taken_in(void **state)
{
    (void)state;
    fused_net f = start();
    int y = norm(&f, conv(&f, f.x));
    y = net_add(&f.n, "Mul", IN(net_positive(&f.n, S3(16, 1, 1)), y), NULL);
    y = net_add(&f.n, "Sub", IN(y, net_positive(&f.n, S4(1, 16, 1, 1))), NULL);
    y = net_add(&f.n, "Div", IN(y, net_positive(&f.n, S1(1))), NULL);
    expect_steps(finish(&f, block_relu(&f.n, y)), false, "abbbbbb");
}

static void a_batch_norm_alone_takes_in_what_follows(void **state)
{
    (void)state;
    fused_net f = start();
    int p = net_add(&f.n, "MaxPool", IN(f.x), AT(INTS("kernel_shape", 1, 1)));
    int y = block_relu(&f.n, add(&f, norm(&f, p), f.x));
    expect_steps(finish(&f, y), false, "abccc");
    f = start();
    y = block_relu(&f.n, add(&f, f.x, f.x));
    expect_steps(finish(&f, y), false, "abb");
}

static void batch_norm_in_front_of_a_pointwise_convolution_is_taken_in(void **state)
{
    (void)state;
    fused_net f = start();
    int p = net_add(&f.n, "MaxPool", IN(f.x), AT(INTS("kernel_shape", 1, 1)));
    int y = block_conv(&f.n, block_relu(&f.n, norm(&f, p)), 16, 32, 1, 1);
    expect_steps(finish(&f, block_relu(&f.n, y)), false, "abeeee");
}

static void pooling_goes_in_front_of_a_pointwise_convolution(void **state)
{
    (void)state;
    esp_error err = {0};
    fused_net f = start();
    int wide = block_conv(&f.n, f.x, 16, 32, 1, 1);
    int y = net_add(&f.n, "AveragePool", IN(wide), AT(INTS("kernel_shape", 2, 2), INTS("strides", 2, 2)));
    esp_graph *graph = finish(&f, y);
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 2, .engine = &blocks});
    /* the largest live set is the first convolution's input and output, not the wide image */
    size_t image = 2 * 16 * 8 * 8 * sizeof(float);
    must(esp_exec_forward(exec, NULL, &err), &err);
    assert_true(esp_exec_planned_bytes(exec) <= 3 * image);
    esp_exec_free(exec);
    esp_graph_unref(graph);
}

static void a_fully_connected_layer_takes_in_its_relu(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S2(ESP_DIM_BATCH, 12));
    int y = net_add(&n, "Gemm", IN(x, net_constant(&n, S2(7, 12), NULL), net_constant(&n, S1(7), NULL)),
                    AT(esp_attr_int("transB", 1)));
    fused_net f = {.n = n};
    expect_steps(finish(&f, block_relu(&f.n, y)), false, "aa");
}

static void training_joins_batch_norm_addition_and_relu(void **state)
{
    (void)state;
    fused_net f = start();
    int y = block_relu(&f.n, add(&f, norm(&f, conv(&f, f.x)), f.x));
    expect_steps(finish(&f, block_relu(&f.n, norm(&f, conv(&f, y)))), true, "abcccfgg");
}

/* ---- what must stay apart ---- */

static void two_readers_keep_a_value(void **state)
{
    (void)state;
    fused_net f = start();
    int c = conv(&f, f.x);
    int y = add(&f, block_relu(&f.n, norm(&f, c)), c);
    expect_steps(finish(&f, y), false, "abcce");
}

static void an_output_in_the_middle_keeps_its_value(void **state)
{
    (void)state;
    fused_net f = start();
    int n = norm(&f, conv(&f, f.x));
    net_output(&f.n, n);
    expect_steps(finish(&f, block_relu(&f.n, n)), false, "abbd");
}

static void a_shared_batch_norm_serves_both(void **state)
{
    (void)state;
    fused_net f = start();
    esp_shape s = S1(16);
    int p = net_positive(&f.n, s), q = net_constant(&f.n, s, NULL);
    int a = net_add(&f.n, "BatchNormalization", IN(conv(&f, f.x), p, q, q, p), NULL);
    int b = net_add(&f.n, "BatchNormalization", IN(conv(&f, f.x), p, q, q, p), NULL);
    a = block_relu(&f.n, a);
    b = block_relu(&f.n, b);
    expect_steps(finish(&f, add(&f, a, b)), false, "abbddbdh");
}

static void an_addition_waits_for_what_is_made_later(void **state)
{
    (void)state;
    fused_net f = start();
    int early = conv(&f, f.x);
    int late = net_add(&f.n, "Sigmoid", IN(conv(&f, f.x)), NULL);
    expect_steps(finish(&f, add(&f, early, late)), false, "abcdb");
}

static void broadcast_additions_and_moving_bounds_stay(void **state)
{
    (void)state;
    fused_net f = start();
    int s = net_add(&f.n, "GlobalAveragePool", IN(f.x), NULL);
    expect_steps(finish(&f, add(&f, conv(&f, f.x), s)), false, "abcd");
    f = start();
    int low = net_add(&f.n, "ReduceMean", IN(f.x), AT(esp_attr_int("keepdims", 0)));
    int y = net_add(&f.n, "Clip", IN(conv(&f, f.x), low), NULL);
    expect_steps(finish(&f, y), false, "abcd");
}

/* ---- concatenation in place ---- */

static esp_exec *timed_exec(const esp_graph *graph)
{
    return exec_new(graph, (esp_exec_options){.batch = 2, .engine = &blocks});
}

/* Two parts and a sum: no more memory than input, whole and one more image. */
static void parts_are_written_into_the_whole(void **state)
{
    (void)state;
    fused_net f = start();
    int a = conv(&f, f.x), b = conv(&f, f.x), c = conv(&f, b);
    esp_graph *graph = finish(&f, block_concat(&f.n, IN(a, b, c)));
    esp_exec *exec = timed_exec(graph);
    size_t image = 2 * 16 * 8 * 8 * sizeof(float);
    /* input and plain output 1 + 3, the first convolution's image, and the whole of 3 */
    assert_true(esp_exec_planned_bytes(exec) <= 8 * image);
    esp_exec_free(exec);
    esp_graph_unref(graph);
}

/* DenseNet-201 has concatenations of 49 parts: more than a mask has bits. */
static void growing_concatenations_share_one_whole(void **state)
{
    (void)state;
    enum { LAYERS = 40 };
    fused_net f = start();
    int parts[LAYERS + 2] = {f.x}, whole = f.x;
    for (int i = 1; i <= LAYERS; i++) {
        parts[i] = block_conv(&f.n, whole, 16 * i, 16, 1, 1);
        parts[i + 1] = NET_END;
        whole = block_concat(&f.n, parts);
    }
    int y = block_conv(&f.n, whole, 16 * (LAYERS + 1), 16, 1, 1);
    esp_graph *graph = finish(&f, y);
    esp_exec *exec = timed_exec(graph);
    size_t image = 2 * 16 * 8 * 8 * sizeof(float);
    /* input, plain and blocked output, and one whole; copies would take 2 + 3 + ... */
    assert_true(esp_exec_planned_bytes(exec) <= (LAYERS + 1 + 3) * image);
    esp_exec_free(exec);
    esp_graph_unref(graph);
}

static void a_sum_of_many_images_stays_in_blocks(void **state)
{
    (void)state;
    enum { PARTS = 36 };
    fused_net f = start();
    int parts[PARTS + 1];
    for (int i = 0; i < PARTS; i++)
        parts[i] = net_add(&f.n, "Sigmoid", IN(f.x), NULL);
    parts[PARTS] = NET_END;
    esp_graph *graph = finish(&f, net_add(&f.n, "Sum", parts, NULL));
    esp_exec *exec = timed_exec(graph);
    assert_int_equal(esp_exec_node(exec, esp_graph_node_count(graph) - 1).layout, ESP_LAYOUT_BLOCKED);
    esp_exec_free(exec);
    esp_graph_unref(graph);
}

/* Parts that begin inside a block, as after pruning: each is copied once, into the one whole. */
static void uneven_parts_share_one_whole(void **state)
{
    (void)state;
    enum { LAYERS = 5, WIDTH = 11 };
    fused_net f = start();
    int parts[LAYERS + 2] = {conv(&f, f.x)}, whole = parts[0];
    for (int i = 1; i <= LAYERS; i++) {
        parts[i] = block_conv(&f.n, whole, 16 + WIDTH * (i - 1), WIDTH, 3, 1);
        parts[i + 1] = NET_END;
        whole = block_concat(&f.n, parts);
    }
    int y = block_conv(&f.n, whole, 16 + WIDTH * LAYERS, 16, 1, 1);
    esp_graph *graph = finish(&f, y);
    esp_exec *exec = timed_exec(graph);
    size_t block = 2 * 16 * 8 * 8 * sizeof(float);
    /* input, one whole of 71 channels, each layer's own block until it is copied, outputs */
    assert_true(esp_exec_planned_bytes(exec) <= (5 + LAYERS + 3) * block);
    esp_exec_free(exec);
    esp_graph_unref(graph);
}

static void parts_in_several_wholes_are_right(void **state)
{
    (void)state;
    fused_net f = start();
    int a = conv(&f, f.x), b = conv(&f, f.x);
    int ab = block_concat(&f.n, IN(a, b)), ba = block_concat(&f.n, IN(b, a)),
        aa = block_concat(&f.n, IN(a, a));
    int all = block_concat(&f.n, IN(ab, ba, aa, net_add(&f.n, "Identity", IN(b), NULL)));
    int y = add(&f, block_conv(&f.n, all, 112, 16, 1, 1), net_add(&f.n, "Sigmoid", IN(a), NULL));
    esp_graph_unref(finish(&f, y));
}

/* ---- packing ---- */

static void executors_share_packed_constants(void **state)
{
    (void)state;
    enum { SLACK = 1024 }; /* of allocations' sizes */
    fused_net f = start();
    net_output(&f.n, block_relu(&f.n, conv(&f, f.x)));
    esp_graph *graph = net_finish(&f.n);
    size_t before = esp_memory_live();
    esp_exec *one = timed_exec(graph);
    size_t first = esp_memory_live() - before;
    esp_exec_memory use = esp_exec_memory_use(one);
    esp_exec *two = timed_exec(graph);
    size_t second = esp_memory_live() - before - first;
    assert_true(use.shared_packed >= 2 * 16 * 16 * 9 * sizeof(float));
    assert_true(second + use.shared_packed <= first + SLACK);
    esp_exec_free(one);
    run_forward(two); /* what it packed belongs to the constants, not to the first executor */
    esp_exec_free(two);
    esp_graph_unref(graph);
    assert_true(esp_memory_live() < before);
}

/* A second convolution, whose weights are an output of the network too when `is_shared`. */
static esp_graph *spendable(fused_net *f, bool is_shared)
{
    int weight = net_constant(&f->n, S4(16, 16, 1, 1), NULL);
    int y = net_add(&f->n, "Conv", IN(f->x, weight), AT(INTS("kernel_shape", 1, 1)));
    net_output(&f->n, y);
    if (is_shared)
        net_output(&f->n, net_add(&f->n, "Identity", IN(weight), NULL));
    return net_finish(&f->n);
}

static void spent_weights_are_held_once(void **state)
{
    (void)state;
    enum { WEIGHTS = (16 * 16 * 9 + 16 * 16) * sizeof(float), SLACK = 1024 };
    esp_error err = {0};
    fused_net f = start();
    esp_graph *graph = spendable(&f, false);
    size_t before = esp_memory_live();
    esp_exec *kept = exec_new(graph, (esp_exec_options){.batch = 3, .engine = &blocks});
    size_t with_both = esp_memory_live() - before;
    esp_exec_free(kept);
    esp_exec *exec =
        exec_new(graph, (esp_exec_options){.batch = 3, .engine = &blocks, .spends_weights = true});
    assert_true(esp_memory_live() - before <= with_both - WEIGHTS + SLACK);
    esp_exec *other = NULL;
    assert_int_equal(esp_exec_new(graph, &(esp_exec_options){.batch = 3}, &other, &err), ESP_STATE);
    assert_contains(err.message, "packed form only");
    run_forward(exec);
    esp_exec_free(exec);
    esp_graph_unref(graph);
}

static void spending_weights_changes_no_output(void **state)
{
    (void)state;
    for (int i = 0; i < block_net_count; i++) {
        esp_graph *graph = block_nets[i](false);
        int64_t count[2];
        float *outputs[2];
        for (int spends = 0; spends < 2; spends++) {
            esp_exec *exec = exec_new(
                graph, (esp_exec_options){.batch = 3, .engine = &blocks, .spends_weights = spends == 1});
            esp_rng rng;
            esp_rng_seed(&rng, 5);
            const esp_view *x = esp_exec_input(exec, 0), *y = esp_exec_output(exec, 0);
            fill_random(&rng, view_data(x), view_count(x), -1.0f, 1.0f);
            run_forward(exec);
            count[spends] = view_count(y);
            outputs[spends] = malloc((size_t)view_count(y) * sizeof(float));
            memcpy(outputs[spends], view_data(y), (size_t)view_count(y) * sizeof(float));
            esp_exec_free(exec);
        }
        assert_int_equal(count[0], count[1]);
        assert_memory_equal(outputs[0], outputs[1], (size_t)count[0] * sizeof(float));
        free(outputs[0]);
        free(outputs[1]);
        esp_graph_unref(graph);
    }
}

static void weights_that_others_read_are_not_spent(void **state)
{
    (void)state;
    fused_net f = start();
    esp_graph *graph = spendable(&f, true);
    esp_exec *exec =
        exec_new(graph, (esp_exec_options){.batch = 3, .engine = &blocks, .spends_weights = true});
    assert_non_null(esp_exec_output(exec, 1)->data);
    run_forward(exec);
    esp_exec_free(exec);
    esp_graph_unref(graph);
}

static void changed_params_are_packed_again(void **state)
{
    (void)state;
    esp_error err = {0};
    fused_net f = start();
    esp_graph *graph = finish(&f, norm(&f, conv(&f, f.x)));
    esp_params *params;
    must(esp_params_new(graph, &params, &err), &err);
    for (int i = 0; i < esp_params_count(params); i++) { /* weights, then folded lines */
        esp_param *p = esp_params_at(params, i);
        int64_t count;
        esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 3, .engine = &blocks, .params = params});
        const esp_view *x = esp_exec_input(exec, 0), *y = esp_exec_output(exec, 0);
        for (int64_t k = 0; k < view_count(x); k++)
            view_data(x)[k] = (float)(k % 7) * 0.1f;
        run_forward(exec);
        float before = view_data(y)[5];
        for (int64_t k = 0; k < p->elements; k++)
            p->data[k] += 0.25f;
        esp_params_touch(params);
        run_forward(exec);
        assert_true(before < view_data(y)[5] || before > view_data(y)[5]);
        esp_exec_free(exec);
        float *found = evaluate_under(graph, &blocks, params, 1, &count);
        float *expected = evaluate_under(graph, &plain_images, params, 1, &count);
        assert_true(relative_error(found, expected, count) < 1e-5);
        free(found);
        free(expected);
    }
    esp_params_free(params);
    esp_graph_unref(graph);
}

/* A training run moves running statistics: an evaluating executor on the same params sees it. */
static void training_runs_touch_the_params(void **state)
{
    (void)state;
    esp_error err = {0};
    fused_net f = start();
    esp_graph *graph = finish(&f, norm(&f, conv(&f, f.x)));
    esp_params *params;
    must(esp_params_new(graph, &params, &err), &err);
    uint64_t generation = esp_params_generation(params);
    float *input_grad;
    int64_t count;
    free(train_under(graph, &blocks, params, 1, false, &input_grad, &count));
    free(input_grad);
    assert_true(esp_params_generation(params) > generation);
    esp_params_free(params);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_convolution_takes_in_norm_addition_and_relu),
        cmocka_unit_test(an_addition_goes_to_the_branch_that_ends_later),
        cmocka_unit_test(a_sum_of_two_is_an_addition),
        cmocka_unit_test(arithmetic_per_channel_is_taken_in),
        cmocka_unit_test(a_batch_norm_alone_takes_in_what_follows),
        cmocka_unit_test(batch_norm_in_front_of_a_pointwise_convolution_is_taken_in),
        cmocka_unit_test(pooling_goes_in_front_of_a_pointwise_convolution),
        cmocka_unit_test(a_fully_connected_layer_takes_in_its_relu),
        cmocka_unit_test(training_joins_batch_norm_addition_and_relu),
        cmocka_unit_test(two_readers_keep_a_value),
        cmocka_unit_test(an_output_in_the_middle_keeps_its_value),
        cmocka_unit_test(a_shared_batch_norm_serves_both),
        cmocka_unit_test(an_addition_waits_for_what_is_made_later),
        cmocka_unit_test(broadcast_additions_and_moving_bounds_stay),
        cmocka_unit_test(parts_are_written_into_the_whole),
        cmocka_unit_test(growing_concatenations_share_one_whole),
        cmocka_unit_test(a_sum_of_many_images_stays_in_blocks),
        cmocka_unit_test(uneven_parts_share_one_whole),
        cmocka_unit_test(parts_in_several_wholes_are_right),
        cmocka_unit_test(executors_share_packed_constants),
        cmocka_unit_test(spent_weights_are_held_once),
        cmocka_unit_test(spending_weights_changes_no_output),
        cmocka_unit_test(weights_that_others_read_are_not_spent),
        cmocka_unit_test(changed_params_are_packed_again),
        cmocka_unit_test(training_runs_touch_the_params),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
