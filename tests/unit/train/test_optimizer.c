/* SGD against PyTorch's documented algorithm written out in double, and masks against decay and momentum. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "train/optimizer.h"
#include "unit/train/train_fixtures.h"

enum { COUNT = 37, STEPS = 5 };

/* torch.optim.SGD, dampening 0, one parameter: d = grad + decay*w; buf = d at first, then momentum*buf + d;
 * d = d + momentum*buf (Nesterov) or buf; w -= lr*d. */
static void pytorch_step(bool is_first, double lr, double momentum, double decay, bool nesterov, double grad,
                         double *buf, double *w)
{
    double d = grad + decay * *w;
    if (momentum != 0.0) {
        *buf = is_first ? d : momentum * *buf + d;
        d = nesterov ? d + momentum * *buf : *buf;
    }
    *w -= lr * d;
}

static void follow_pytorch(double lr, double momentum, double decay, bool nesterov)
{
    float weight[COUNT], velocity[COUNT] = {0}, grad[COUNT];
    double expected[COUNT], buf[COUNT] = {0};
    for (int i = 0; i < COUNT; i++) {
        weight[i] = (float)(0.1 * (i - COUNT / 2));
        expected[i] = (double)weight[i];
    }
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < COUNT; i++) {
            grad[i] = (float)sin(1.7 * i + 0.9 * step);
            pytorch_step(step == 0, lr, momentum, decay, nesterov, (double)grad[i], &buf[i], &expected[i]);
        }
        esp_sgd_step(COUNT, (float)lr, (float)momentum, (float)decay, nesterov, grad, velocity, weight);
        for (int i = 0; i < COUNT; i++) {
            /* a few roundings of numbers of size one */
            assert_true(fabs((double)weight[i] - expected[i]) < 2e-6);
        }
    }
}

static void steps_equal_pytorchs(void **state)
{
    (void)state;
    follow_pytorch(0.1, 0.0, 0.0, false);
    follow_pytorch(0.1, 0.9, 0.0, false);
    follow_pytorch(0.05, 0.9, 0.1, false);
    follow_pytorch(0.05, 0.8, 0.1, true);
}

static void one_step_equals_the_one_on_paper(void **state)
{
    (void)state;
    float weight[2] = {1.0f, -2.0f}, velocity[2] = {0.5f, 0.0f};
    const float grad[2] = {0.25f, 1.0f};
    /* v = 0.5*0.5 + (0.25 + 0.25*1) = 0.75; w = 1 - 0.5*0.75.  v = 0 + (1 - 0.5) = 0.5; w = -2 - 0.25 */
    esp_sgd_step(2, 0.5f, 0.5f, 0.25f, false, grad, velocity, weight);
    assert_true(velocity[0] == 0.75f && weight[0] == 0.625f);
    assert_true(velocity[1] == 0.5f && weight[1] == -2.25f);
}

/* ---- over a network ---- */

typedef struct fixture {
    esp_graph *graph;
    esp_params *params;
    esp_param *weight, *bias;
} fixture;

static int set_up(void **state)
{
    fixture *f = esp_alloc_zero(1, sizeof(*f));
    esp_error err = {0};
    f->graph = random_linear_model(1, 160, 160, 2, 3); /* 51200 weights: several tiles */
    expect_ok(esp_params_new(f->graph, &f->params, &err), &err);
    f->weight =
        esp_params_at(f->params, esp_params_find(f->params, esp_graph_find_value(f->graph, "weight")));
    f->bias = esp_params_at(f->params, esp_params_find(f->params, esp_graph_find_value(f->graph, "bias")));
    for (int64_t i = 0; i < f->weight->elements; i++) {
        f->weight->grad[i] = (float)sin((double)i);
    }
    f->bias->data[0] = 1.0f;
    f->bias->data[1] = 2.0f;
    f->bias->grad[0] = f->bias->grad[1] = 0.0f;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    esp_params_free(f->params);
    esp_graph_unref(f->graph);
    esp_free(f);
    return 0;
}

static void every_parameter_steps_whatever_its_tile(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    esp_train_options options = {.momentum = 0.9, .weight_decay = 0.01};
    esp_optimizer *optimizer = NULL;
    expect_ok(esp_optimizer_new(f->graph, f->params, &options, &optimizer, &err), &err);
    int64_t count = f->weight->elements;
    float *expected = esp_alloc((size_t)count, sizeof(float)),
          *velocity = esp_alloc_zero((size_t)count, sizeof(float));
    for (int64_t i = 0; i < count; i++) {
        expected[i] = f->weight->data[i];
    }
    for (int step = 0; step < 3; step++) {
        esp_sgd_step(count, 0.1f, 0.9f, 0.01f, false, f->weight->grad, velocity, expected);
        esp_optimizer_step(optimizer, NULL, 0.1);
    }
    assert_memory_equal(f->weight->data, expected, (size_t)count * sizeof(float));
    assert_true(f->bias->data[0] < 1.0f);
    esp_free(velocity);
    esp_free(expected);
    esp_optimizer_free(optimizer);
}

static void decay_can_leave_biases_alone(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    esp_train_options options = {.momentum = 0.9, .weight_decay = 0.01, .decays_weights_only = true};
    esp_optimizer *optimizer = NULL;
    expect_ok(esp_optimizer_new(f->graph, f->params, &options, &optimizer, &err), &err);
    for (int64_t i = 0; i < f->weight->elements; i++) {
        f->weight->grad[i] = 0.0f;
    }
    float before = f->weight->data[0];
    esp_optimizer_step(optimizer, NULL, 0.1);
    assert_true(f->bias->data[0] == 1.0f && f->bias->data[1] == 2.0f);
    assert_true(fabsf(f->weight->data[0]) < fabsf(before));
    esp_optimizer_free(optimizer);
}

static void masked_weights_stay_zero_and_lose_their_momentum(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    size_t count = (size_t)f->weight->elements;
    uint8_t *thirds = esp_alloc(count, 1), *fifths = esp_alloc(count, 1);
    for (size_t i = 0; i < count; i++) {
        thirds[i] = i % 3 != 0;
        fifths[i] = i % 5 != 0;
    }
    const esp_weight_mask masks[2] = {{f->weight->value, thirds}, {f->weight->value, fifths}};
    esp_train_options options = {.momentum = 0.9, .weight_decay = 0.01, .masks = masks, .mask_count = 2};
    esp_optimizer *optimizer = NULL;
    expect_ok(esp_optimizer_new(f->graph, f->params, &options, &optimizer, &err), &err);
    esp_free(thirds); /* they were copied */
    esp_free(fifths);
    f->weight->data[0] = INFINITY;
    esp_optimizer_hold_masks(optimizer);
    for (int step = 0; step < 4; step++) {
        for (size_t i = 0; i < count; i++) {
            bool is_free = i % 3 != 0 && i % 5 != 0;
            assert_true(is_free || (f->weight->data[i] == 0.0f && !signbit(f->weight->data[i])));
            assert_true(!is_free || f->weight->data[i] != 0.0f);
        }
        esp_optimizer_step(optimizer, NULL, 0.1);
    }
    esp_optimizer_free(optimizer);
}

/* Momentum of before must not move weights that are let go. */
static void weights_let_go_start_without_momentum(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    size_t count = (size_t)f->weight->elements;
    uint8_t *keep = esp_alloc_zero(count, 1);
    static const esp_optimizer_kind kinds[] = {ESP_OPTIMIZER_SGD, ESP_OPTIMIZER_ADAMW};
    for (size_t k = 0; k < 2; k++) {
        esp_train_options options = {.momentum = 0.9, .optimizer = kinds[k]};
        const esp_weight_mask mask = {f->weight->value, keep};
        esp_optimizer *optimizer = NULL;
        expect_ok(esp_optimizer_new(f->graph, f->params, &options, &optimizer, &err), &err);
        esp_optimizer_step(optimizer, NULL, 0.1);
        expect_ok(esp_optimizer_set_masks(optimizer, f->graph, &mask, 1, &err), &err);
        esp_optimizer_step(optimizer, NULL, 0.1);
        expect_ok(esp_optimizer_set_masks(optimizer, f->graph, NULL, 0, &err), &err);
        memset(f->weight->grad, 0, count * sizeof(float));
        esp_optimizer_step(optimizer, NULL, 0.1);
        for (size_t i = 0; i < count; i++) {
            assert_true(f->weight->data[i] == 0.0f);
            f->weight->grad[i] = 1.0f;
        }
        esp_optimizer_free(optimizer);
    }
    esp_free(keep);
}

static void cancelling_does_not_cut_a_step(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    esp_train_options options = {.momentum = 0.9};
    esp_optimizer *optimizer = NULL;
    expect_ok(esp_optimizer_new(f->graph, f->params, &options, &optimizer, &err), &err);
    esp_cancel cancel = {false};
    esp_cancel_request(&cancel);
    esp_compute compute = {.cancel = &cancel};
    float before = f->weight->data[f->weight->elements - 1];
    esp_optimizer_step(optimizer, &compute, 0.1);
    assert_true(f->weight->data[f->weight->elements - 1] != before);
    esp_optimizer_free(optimizer);
}

static void masks_of_what_is_not_trained_are_refused(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    const uint8_t keep[1] = {1};
    esp_optimizer *optimizer = NULL;
    esp_weight_mask mask = {esp_graph_find_value(f->graph, "x"), keep};
    esp_train_options options = {.masks = &mask, .mask_count = 1};
    expect_failure(esp_optimizer_new(f->graph, f->params, &options, &optimizer, &err), ESP_INVALID, &err,
                   "'x': expected a trainable constant");
    mask.value = 1000;
    expect_failure(esp_optimizer_new(f->graph, f->params, &options, &optimizer, &err), ESP_INVALID, &err,
                   "1000");
    assert_null(optimizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_equal_pytorchs),
        cmocka_unit_test(one_step_equals_the_one_on_paper),
        cmocka_unit_test_setup_teardown(every_parameter_steps_whatever_its_tile, set_up, tear_down),
        cmocka_unit_test_setup_teardown(decay_can_leave_biases_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(masked_weights_stay_zero_and_lose_their_momentum, set_up, tear_down),
        cmocka_unit_test_setup_teardown(weights_let_go_start_without_momentum, set_up, tear_down),
        cmocka_unit_test_setup_teardown(cancelling_does_not_cut_a_step, set_up, tear_down),
        cmocka_unit_test_setup_teardown(masks_of_what_is_not_trained_are_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
