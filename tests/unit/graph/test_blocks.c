/* Channel blocks: under every engine a network gives what it gives node by node on plain images, forward and
 * backward, and gradients are slopes. */
#include "unit/graph/block_nets.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Sums of some hundred products in another order, and Winograd's transforms, through some ten layers. */
#define VALUE_TOLERANCE 2e-5
/* Gradients of smooth networks pass through twice as many. */
#define GRADIENT_TOLERANCE 2e-4
/* Where a Relu stands, an input within rounding of 0 may fall on either side. */
#define KINK_TOLERANCE 5e-2

static void expect_near(const char *what, const esp_engine *engine, int index, const float *found,
                        const float *expected, int64_t count, double tolerance)
{
    double error = relative_error(found, expected, count);
    if (error <= tolerance)
        return;
    print_error("network %d under %s: %s differs by %g, expected at most %g\n", index, engine_text(engine),
                what, error, tolerance);
    fail();
}

static void compare_evaluation(const esp_graph *graph, int index)
{
    esp_engine engines[6];
    int64_t count;
    float *expected = evaluate_under(graph, &plain_images, NULL, 1, &count);
    for (int e = 0; e < block_engines(engines); e++) {
        float *found = evaluate_under(graph, &engines[e], NULL, 1, &count);
        expect_near("the output", &engines[e], index, found, expected, count, VALUE_TOLERANCE);
        free(found);
    }
    free(expected);
}

/* How many nodes give an image in channel blocks. */
static int blocked_nodes(const esp_graph *graph, bool is_training)
{
    esp_error err = {0};
    esp_params *params = NULL;
    esp_engine engine = {.isa = ESP_ISA_PLAIN, .has_blocked = true};
    must(esp_params_new(graph, &params, &err), &err);
    esp_exec *exec = exec_new(
        graph,
        (esp_exec_options){.batch = 2, .engine = &engine, .params = params, .is_training = is_training});
    int count = 0;
    for (int n = 0; n < esp_graph_node_count(graph); n++)
        count += esp_exec_node(exec, n).layout == ESP_LAYOUT_BLOCKED;
    esp_exec_free(exec);
    esp_params_free(params);
    return count;
}

static void images_stay_in_blocks(void **state)
{
    (void)state;
    for (int i = 0; i < block_net_count; i++) {
        esp_graph *graph = block_nets[i](false);
        int nodes = esp_graph_node_count(graph);
        for (int is_training = 0; is_training < 2; is_training++) {
            int blocked = blocked_nodes(graph, is_training != 0);
            if (2 * blocked < nodes) {
                print_error("network %d: %d of %d nodes are in blocks\n", i, blocked, nodes);
                fail();
            }
        }
        esp_graph_unref(graph);
    }
}

static void every_engine_evaluates_alike(void **state)
{
    (void)state;
    for (int i = 0; i < block_net_count; i++) {
        esp_graph *graph = block_nets[i](false);
        compare_evaluation(graph, i);
        esp_graph_unref(graph);
    }
}

static void random_networks_evaluate_alike(void **state)
{
    (void)state;
    for (int seed = 0; seed < 60; seed++) {
        esp_graph *graph = random_block_net((uint64_t)seed, false);
        compare_evaluation(graph, seed);
        esp_graph_unref(graph);
    }
}

typedef struct training {
    esp_params *params;
    float *outputs, *input_grad;
    int64_t count;
} training;

static training train(const esp_graph *graph, const esp_engine *engine, int threads, bool freezes_norm)
{
    esp_error err = {0};
    training t;
    must(esp_params_new(graph, &t.params, &err), &err);
    t.outputs = train_under(graph, engine, t.params, threads, freezes_norm, &t.input_grad, &t.count);
    return t;
}

static void training_free(training *t)
{
    esp_params_free(t->params);
    free(t->outputs);
    free(t->input_grad);
}

static void expect_same_training(const esp_engine *engine, int index, const training *found,
                                 const training *expected, double tolerance)
{
    double largest = 0.0;
    for (int i = 0; i < esp_params_count(expected->params); i++) {
        const esp_param *p = esp_params_at(expected->params, i);
        for (int64_t k = 0; p->grad != NULL && k < p->elements; k++)
            largest = fmax(largest, fabs((double)p->grad[k]));
    }
    expect_near("the output", engine, index, found->outputs, expected->outputs, expected->count,
                VALUE_TOLERANCE * 5);
    for (int i = 0; i < esp_params_count(expected->params); i++) {
        const esp_param *p = esp_params_at(expected->params, i), *q = esp_params_at(found->params, i);
        double size = 0.0;
        for (int64_t k = 0; p->grad != NULL && k < p->elements; k++)
            size = fmax(size, fabs((double)p->grad[k]));
        if (p->grad != NULL && size > 1e-4 * largest) /* else a bias before batch-norm: rounding alone */
            expect_near(p->name, engine, index, q->grad, p->grad, p->elements, tolerance);
        if (p->grad == NULL)
            expect_near(p->name, engine, index, q->data, p->data, p->elements, VALUE_TOLERANCE * 5);
    }
}

static void compare_training(const esp_graph *graph, int index, bool freezes_norm, double tolerance)
{
    esp_engine engines[6];
    training expected = train(graph, &plain_images, 1, freezes_norm);
    for (int e = 0; e < block_engines(engines); e++) {
        training found = train(graph, &engines[e], 1, freezes_norm);
        expect_same_training(&engines[e], index, &found, &expected, tolerance);
        training_free(&found);
    }
    training_free(&expected);
}

static void every_engine_trains_alike(void **state)
{
    (void)state;
    for (int i = 0; i < block_net_count; i++) {
        for (int is_smooth = 0; is_smooth < 2; is_smooth++) {
            esp_graph *graph = block_nets[i](is_smooth != 0);
            compare_training(graph, i, false, is_smooth ? GRADIENT_TOLERANCE : KINK_TOLERANCE);
            esp_graph_unref(graph);
        }
    }
}

static void frozen_norms_train_alike(void **state)
{
    (void)state;
    for (int i = 0; i < block_net_count; i++) {
        esp_graph *graph = block_nets[i](true);
        compare_training(graph, i, true, GRADIENT_TOLERANCE);
        esp_graph_unref(graph);
    }
}

static void random_networks_train_alike(void **state)
{
    (void)state;
    for (int seed = 100; seed < 180; seed++) {
        esp_graph *graph = random_block_net((uint64_t)seed, true);
        compare_training(graph, seed, seed % 4 == 0, GRADIENT_TOLERANCE * 5);
        esp_graph_unref(graph);
    }
}

static void threads_change_no_bit_in_blocks(void **state)
{
    (void)state;
    for (int i = 0; i < block_net_count; i++) {
        esp_graph *graph = block_nets[i](false);
        training one = train(graph, NULL, 1, false);
        int64_t count;
        float *evaluated = evaluate_under(graph, NULL, NULL, 1, &count);
        for (int threads = 2; threads <= 3; threads++) {
            training more = train(graph, NULL, threads, false);
            float *again = evaluate_under(graph, NULL, NULL, threads, &count);
            assert_memory_equal(again, evaluated, (size_t)count * sizeof(float));
            assert_memory_equal(more.outputs, one.outputs, (size_t)one.count * sizeof(float));
            for (int p = 0; p < esp_params_count(one.params); p++) {
                const esp_param *a = esp_params_at(one.params, p), *b = esp_params_at(more.params, p);
                if (a->grad != NULL)
                    assert_memory_equal(b->grad, a->grad, (size_t)a->elements * sizeof(float));
            }
            free(again);
            training_free(&more);
        }
        free(evaluated);
        training_free(&one);
        esp_graph_unref(graph);
    }
}

/* ---- finite differences ---- */

typedef struct slope_check {
    const esp_graph *graph;
    const esp_engine *engine;
    esp_params *params;
    float *direction;
} slope_check;

static void move_params(const slope_check *check, float step)
{
    const float *next = check->direction;
    for (int i = 0; i < esp_params_count(check->params); i++) {
        esp_param *p = esp_params_at(check->params, i);
        for (int64_t k = 0; p->grad != NULL && k < p->elements; k++)
            p->data[k] += step * *next++;
    }
    esp_params_touch(check->params);
}

/* The loss whose gradient train_under asks for: outputs times the random numbers it takes as their gradient.
 */
static double loss_at(const slope_check *check, float step)
{
    float *input_grad;
    int64_t count;
    move_params(check, step);
    float *y = train_under(check->graph, check->engine, check->params, 1, false, &input_grad, &count);
    move_params(check, -step);
    esp_rng rng;
    esp_rng_seed(&rng, 12);
    float *weights = malloc((size_t)count * sizeof *weights);
    assert_non_null(weights);
    fill_random(&rng, weights, count, -1, 1);
    double loss = 0.0;
    for (int64_t i = 0; i < count; i++)
        loss += (double)weights[i] * (double)y[i];
    free(weights);
    free(y);
    free(input_grad);
    return loss;
}

static int64_t trainable(esp_params *params)
{
    int64_t total = 0;
    for (int i = 0; i < esp_params_count(params); i++)
        total += esp_params_at(params, i)->grad != NULL ? esp_params_at(params, i)->elements : 0;
    return total;
}

/* The slope along one random direction of all parameters. */
static void check_slope(const esp_graph *graph, const esp_engine *engine, int index)
{
    esp_error err = {0};
    const float step = 2e-3f;
    slope_check check = {.graph = graph, .engine = engine};
    must(esp_params_new(graph, &check.params, &err), &err);
    int64_t count = trainable(check.params), outputs;
    check.direction = malloc((size_t)count * sizeof(float));
    assert_non_null(check.direction);
    esp_rng rng;
    esp_rng_seed(&rng, 77);
    fill_random(&rng, check.direction, count, -0.2f, 0.2f);
    double measured = (loss_at(&check, step) - loss_at(&check, -step)) / (2.0 * (double)step);
    float *input_grad, *y = train_under(graph, engine, check.params, 1, false, &input_grad, &outputs);
    double promised = 0.0;
    const float *next = check.direction;
    for (int i = 0; i < esp_params_count(check.params); i++) {
        const esp_param *p = esp_params_at(check.params, i);
        for (int64_t k = 0; p->grad != NULL && k < p->elements; k++)
            promised += (double)p->grad[k] * (double)*next++;
    }
    if (fabs(measured - promised) > 2e-2 * fabs(measured) + 1e-2) {
        print_error("network %d under %s: slope %g, gradient says %g\n", index, engine_text(engine), measured,
                    promised);
        fail();
    }
    free(y);
    free(input_grad);
    free(check.direction);
    esp_params_free(check.params);
}

static void gradients_are_slopes(void **state)
{
    (void)state;
    esp_engine engines[6];
    int count = block_engines(engines);
    for (int i = 0; i < block_net_count; i++) {
        esp_graph *graph = block_nets[i](true);
        check_slope(graph, &engines[count - 1], i);
        esp_graph_unref(graph);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(images_stay_in_blocks),           cmocka_unit_test(every_engine_evaluates_alike),
        cmocka_unit_test(random_networks_evaluate_alike),  cmocka_unit_test(every_engine_trains_alike),
        cmocka_unit_test(frozen_norms_train_alike),        cmocka_unit_test(random_networks_train_alike),
        cmocka_unit_test(threads_change_no_bit_in_blocks), cmocka_unit_test(gradients_are_slopes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
