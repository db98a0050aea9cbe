/* Optimizers, schedules and losses against PyTorch's own numbers (torch_training.py made them). */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "train/loss.h"
#include "train/optimizer.h"
#include "train/schedule.h"
#include "unit/train/torch_training.h"
#include "unit/train/train_fixtures.h"

/* A few roundings of numbers of size one. */
#define CLOSE 3e-6

static float gradient(int step, int index)
{
    return (float)((step * 7 + index * 3) % 11 - 5) / 8.0f;
}

static void follow(const esp_train_options *options, double lr,
                   const float expected[TORCH_STEPS][TORCH_COUNT])
{
    esp_error err = {0};
    const float zeros[TORCH_COUNT] = {0};
    esp_graph *graph = linear_model(0, 1, 1, 1, TORCH_COUNT, torch_start, zeros);
    esp_params *params = NULL;
    esp_optimizer *optimizer = NULL;
    expect_ok(esp_params_new(graph, &params, &err), &err);
    expect_ok(esp_optimizer_new(graph, params, options, &optimizer, &err), &err);
    esp_param *weight = esp_params_at(params, esp_params_find(params, esp_graph_find_value(graph, "weight")));
    for (int step = 0; step < TORCH_STEPS; step++) {
        for (int i = 0; i < TORCH_COUNT; i++) {
            weight->grad[i] = gradient(step, i);
        }
        esp_optimizer_step(optimizer, NULL, lr);
        for (int i = 0; i < TORCH_COUNT; i++) {
            if (fabsf(weight->data[i] - expected[step][i]) > (float)CLOSE) {
                fail_msg("step %d, weight %d: %.9g, PyTorch has %.9g", step + 1, i, (double)weight->data[i],
                         (double)expected[step][i]);
            }
        }
    }
    esp_optimizer_free(optimizer);
    esp_params_free(params);
    esp_graph_unref(graph);
}

static void sgd_steps_are_pytorchs(void **state)
{
    (void)state;
    follow(&(esp_train_options){0}, 0.1, torch_sgd);
    follow(&(esp_train_options){.momentum = 0.9, .weight_decay = 0.05}, 0.1, torch_sgd_decay);
    follow(&(esp_train_options){.momentum = 0.9, .weight_decay = 0.05, .dampening = 0.3}, 0.1,
           torch_sgd_dampened);
    follow(&(esp_train_options){.momentum = 0.8, .weight_decay = 0.01, .uses_nesterov = true}, 0.1,
           torch_sgd_nesterov);
}

static void adam_steps_are_pytorchs(void **state)
{
    (void)state;
    follow(&(esp_train_options){.optimizer = ESP_OPTIMIZER_ADAM}, 0.05, torch_adam);
    follow(&(esp_train_options){.optimizer = ESP_OPTIMIZER_ADAM,
                                .beta1 = 0.8,
                                .beta2 = 0.95,
                                .epsilon = 1e-4,
                                .weight_decay = 0.1},
           0.05, torch_adam_decay);
    follow(&(esp_train_options){.optimizer = ESP_OPTIMIZER_ADAMW, .weight_decay = 0.1}, 0.05, torch_adamw);
}

static void clip(double value, double norm, const float expected[4])
{
    esp_error err = {0};
    const float zeros[4] = {0};
    const float gradients[4] = {3.0f, -4.0f, 12.0f, 0.5f};
    esp_graph *graph = linear_model(0, 1, 1, 1, 4, zeros, zeros);
    esp_params *params = NULL;
    esp_optimizer *optimizer = NULL;
    expect_ok(esp_params_new(graph, &params, &err), &err);
    expect_ok(esp_optimizer_new(graph, params, &(esp_train_options){0}, &optimizer, &err), &err);
    esp_param *weight = esp_params_at(params, esp_params_find(params, esp_graph_find_value(graph, "weight")));
    memcpy(weight->grad, gradients, sizeof(gradients));
    esp_optimizer_clip(optimizer, NULL, value, norm);
    for (int i = 0; i < 4; i++) {
        assert_true(fabsf(weight->grad[i] - expected[i]) < 2e-6f);
    }
    esp_optimizer_free(optimizer);
    esp_params_free(params);
    esp_graph_unref(graph);
}

static void gradients_are_clipped_as_by_pytorch(void **state)
{
    (void)state;
    const float untouched[4] = {3.0f, -4.0f, 12.0f, 0.5f};
    clip(0.0, 2.0, torch_clipped_norm);
    clip(3.5, 4.0, torch_clipped_both);
    clip(20.0, 50.0, untouched);
}

/* ---- schedules ---- */

static void expect_rates(const esp_schedule *schedule, const double *expected)
{
    esp_error err = {0};
    expect_ok(esp_schedule_check(schedule, &err), &err);
    for (int epoch = 0; epoch < TORCH_EPOCHS; epoch++) {
        double found = esp_schedule_lr(schedule, epoch, TORCH_EPOCHS);
        if (fabs(found - expected[epoch]) > 1e-12) {
            fail_msg("%s, epoch %d: %.17g, PyTorch has %.17g", esp_schedule_word(schedule->kind), epoch,
                     found, expected[epoch]);
        }
    }
}

static void schedules_are_pytorchs(void **state)
{
    (void)state;
    esp_schedule schedule = esp_schedule_make(ESP_SCHEDULE_STEP, 0.4);
    schedule.every = 5.0;
    schedule.gamma = 0.3;
    expect_rates(&schedule, torch_step_lr);
    schedule = esp_schedule_make(ESP_SCHEDULE_MULTISTEP, 0.4);
    schedule.gamma = 0.5;
    schedule.milestone_count = 2;
    schedule.milestones[0] = 2.0;
    schedule.milestones[1] = 7.0;
    expect_rates(&schedule, torch_multistep_lr);
    schedule = esp_schedule_make(ESP_SCHEDULE_EXPONENTIAL, 0.4);
    schedule.gamma = 0.9;
    expect_rates(&schedule, torch_exponential_lr);
    schedule = esp_schedule_make(ESP_SCHEDULE_COSINE, 0.4);
    schedule.min_lr = 0.01;
    expect_rates(&schedule, torch_cosine_lr);
}

static void one_cycle_is_pytorchs(void **state)
{
    (void)state;
    const double steps = TORCH_CYCLE_STEPS - 1;
    esp_schedule schedule = esp_schedule_make(ESP_SCHEDULE_ONECYCLE, 0.4);
    schedule.rise = TORCH_CYCLE_RISE / steps;
    schedule.start_divisor = 20.0;
    schedule.end_divisor = 100.0;
    for (int step = 0; step < TORCH_CYCLE_STEPS; step++) {
        double found = esp_schedule_lr(&schedule, 3.0 * step / steps, 3.0);
        assert_true(fabs(found - torch_cycle_lr[step]) < 1e-12);
    }
}

static void plateau_is_pytorchs(void **state)
{
    (void)state;
    esp_schedule schedule = esp_schedule_make(ESP_SCHEDULE_PLATEAU, 0.4);
    esp_plateau plateau = esp_plateau_start();
    schedule.gamma = 0.5;
    schedule.patience = 1;
    schedule.threshold = 1e-3;
    schedule.cooldown = 1;
    schedule.min_lr = 0.15;
    for (int epoch = 0; epoch < TORCH_EPOCHS; epoch++) {
        double found = esp_schedule_lr_after(&schedule, &plateau, epoch, TORCH_EPOCHS);
        assert_true(fabs(found - torch_plateau_lr[epoch]) < 1e-12);
        esp_schedule_measured(&schedule, &plateau, epoch + 1.0, TORCH_EPOCHS, torch_losses[epoch]);
    }
}

/* ---- losses ---- */

static void expect_loss(const esp_loss_terms *terms, double loss, const float *gradient_expected)
{
    const int32_t labels[TORCH_BATCH] = {3, 0, 2};
    float gradient_found[TORCH_BATCH * TORCH_CLASSES];
    esp_loss_sums sums = {0}, plain = {0};
    esp_loss(terms, torch_logits, labels, TORCH_BATCH, TORCH_CLASSES, &sums, gradient_found);
    assert_true(fabs(sums.loss - loss) < 1e-6);
    for (int i = 0; i < TORCH_BATCH * TORCH_CLASSES; i++) {
        assert_true(fabsf(gradient_found[i] - gradient_expected[i]) < 1e-7f);
    }
    esp_cross_entropy(torch_logits, labels, TORCH_BATCH, TORCH_CLASSES, &plain, NULL);
    assert_true(sums.top1 == plain.top1 && sums.top5 == plain.top5 && sums.images == plain.images);
}

static void losses_are_pytorchs(void **state)
{
    (void)state;
    const int32_t other[TORCH_BATCH] = {1, 2, 2};
    const float share[TORCH_BATCH] = {0.75f, 0.5f, 0.25f};
    expect_loss(&(esp_loss_terms){.smoothing = 0.1}, torch_smooth_loss, torch_smooth_gradient);
    expect_loss(&(esp_loss_terms){.other = other, .share = share}, torch_mixed_loss, torch_mixed_gradient);
    expect_loss(&(esp_loss_terms){.smoothing = 0.1, .teacher = torch_teacher, .temperature = 3.0, .mix = 0.4},
                torch_distilled_loss, torch_distilled_gradient);
}

static void loss_without_terms_is_cross_entropy_to_the_bit(void **state)
{
    (void)state;
    const int32_t labels[TORCH_BATCH] = {1, 1, 1};
    float expected[TORCH_BATCH * TORCH_CLASSES], found[TORCH_BATCH * TORCH_CLASSES];
    esp_loss_sums one = {0}, two = {0};
    esp_cross_entropy(torch_logits, labels, TORCH_BATCH, TORCH_CLASSES, &one, expected);
    esp_loss(&(esp_loss_terms){0}, torch_logits, labels, TORCH_BATCH, TORCH_CLASSES, &two, found);
    assert_memory_equal(expected, found, sizeof(found));
    assert_true(one.loss == two.loss);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sgd_steps_are_pytorchs),
        cmocka_unit_test(adam_steps_are_pytorchs),
        cmocka_unit_test(gradients_are_clipped_as_by_pytorch),
        cmocka_unit_test(schedules_are_pytorchs),
        cmocka_unit_test(one_cycle_is_pytorchs),
        cmocka_unit_test(plateau_is_pytorchs),
        cmocka_unit_test(losses_are_pytorchs),
        cmocka_unit_test(loss_without_terms_is_cross_entropy_to_the_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
