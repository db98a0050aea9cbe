/* Training with frozen layers computes what the others need, and nothing else. */
#include <string.h>

#include "train/trainer_internal.h"
#include "unit/train/train_fixtures.h"

enum { SIZE = 8, FILTERS = 4, CLASSES = 4 };

/* Whether any number of the parameter's gradient is not 0. */
static bool has_gradient(esp_trainer *trainer, const char *name)
{
    for (int p = 0; p < esp_params_count(trainer->params); p++) {
        const esp_param *param = esp_params_at(trainer->params, p);
        if (strcmp(param->name, name) != 0)
            continue;
        for (int64_t i = 0; i < param->elements; i++) {
            if (param->grad[i] < 0.0f || param->grad[i] > 0.0f)
                return true;
        }
        return false;
    }
    fail_msg("no parameter '%s'", name);
    return false;
}

/* After the step the gradients it was made with are still there. */
static esp_status look_at_gradients(void *user, esp_trainer *trainer, const esp_step_report *report,
                                    esp_error *err)
{
    (void)err;
    int *steps = user;
    assert_int_equal(report->step, ++*steps);
    static const char *const frozen[] = {"conv1", "scale", "shift", "conv2"};
    for (int i = 0; i < 4; i++)
        assert_false(has_gradient(trainer, frozen[i]));
    assert_true(has_gradient(trainer, "weight"));
    assert_true(has_gradient(trainer, "bias"));
    return ESP_OK;
}

static void frozen_layers_get_no_gradients(void **state)
{
    (void)state;
    static const char *const patterns[] = {"conv*", "sc*", "shift", "mean", "variance"};
    esp_error err = {0};
    int steps = 0;
    esp_graph *start = small_conv_model(SIZE, FILTERS, CLASSES, false, 1), *out = NULL;
    esp_dataset *dataset = quarters_dataset(24, SIZE, 2);
    esp_train_options options = esp_train_defaults();
    esp_train_result result;
    options.epochs_limit = 1.0;
    options.mean = "0.5";
    options.std = "0.25";
    options.batch = 10; /* and a tail of four, which has an executor of its own */
    options.freeze = patterns;
    options.freeze_count = 5;
    options.on_step = look_at_gradients;
    options.step_user = &steps;
    expect_ok(esp_train(NULL, start, dataset, NULL, &options, &out, &result, &err), &err);
    assert_int_equal(steps, 3);
    esp_graph_unref(out);
    esp_graph_unref(start);
    esp_dataset_unref(dataset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frozen_layers_get_no_gradients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
