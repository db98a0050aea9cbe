/* See gradient_check.h. */
#include "unit/graph/gradient_check.h"

#include <math.h>
#include <string.h>

/* Central differences with this step: truncation about 1e-5, float32 rounding about 1e-4 of the loss. */
#define STEP      5e-3
#define TOLERANCE 5e-3

enum { MOST_INPUTS = 4, MOST_OUTPUTS = 4, MOST_ELEMENTS = 512 };

typedef struct experiment {
    const gradient_case *what;
    esp_graph *graph;
    esp_params *params;
    float inputs[MOST_INPUTS][MOST_ELEMENTS];
    float loss_weights[MOST_OUTPUTS][MOST_ELEMENTS];
} experiment;

static void fill_inputs(experiment *e)
{
    esp_rng rng;
    esp_rng_seed(&rng, 5);
    for (int i = 0; i < MOST_INPUTS; i++) {
        uint32_t order[MOST_ELEMENTS];
        int64_t count = 24;
        if (i < esp_graph_input_count(e->graph))
            count = esp_shape_elements(&esp_graph_value(e->graph, esp_graph_input(e->graph, i))->shape);
        assert_true(count <= MOST_ELEMENTS);
        if (e->what->inputs != SPACED) {
            bool is_positive = e->what->inputs == POSITIVE;
            fill_random(&rng, e->inputs[i], count, is_positive ? 0.5f : -1.0f, is_positive ? 1.5f : 1.0f);
            continue;
        }
        for (int64_t j = 0; j < count; j++)
            order[j] = (uint32_t)j;
        esp_rng_shuffle(&rng, order, (size_t)count);
        for (int64_t j = 0; j < count; j++)
            e->inputs[i][j] = 0.07f * (float)((int64_t)order[j] - count / 2) + 0.035f;
    }
    for (int i = 0; i < MOST_OUTPUTS; i++)
        fill_random(&rng, e->loss_weights[i], MOST_ELEMENTS, -1.0f, 1.0f);
}

static esp_exec *open_exec(const experiment *e)
{
    esp_exec *exec = exec_new(
        e->graph,
        (esp_exec_options){.batch = esp_graph_value(e->graph, esp_graph_input(e->graph, 0))->shape.dims[0],
                           .is_training = true,
                           .params = e->params,
                           .seed = 3,
                           .freezes_norm = e->what->freezes_norm});
    return exec;
}

static void load_inputs(const experiment *e, esp_exec *exec)
{
    for (int i = 0; i < esp_graph_input_count(e->graph); i++) {
        const esp_view *x = esp_exec_input(exec, i);
        memcpy(view_data(x), e->inputs[i], (size_t)view_count(x) * sizeof(float));
    }
}

/* A new executor each time: the same seed drops the same elements. */
static double loss_of(const experiment *e)
{
    esp_exec *exec = open_exec(e);
    load_inputs(e, exec);
    run_forward(exec);
    double loss = 0;
    for (int i = 0; i < esp_graph_output_count(e->graph); i++) {
        const esp_view *y = esp_exec_output(exec, i);
        for (int64_t j = 0; j < view_count(y); j++)
            loss += (double)view_data(y)[j] * (double)e->loss_weights[i][j];
    }
    esp_exec_free(exec);
    return loss;
}

static void compare(const experiment *e, const char *what, float *data, const float *grad, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        float kept = data[i];
        data[i] = (float)((double)kept + STEP);
        double above = loss_of(e), high = (double)data[i];
        data[i] = (float)((double)kept - STEP);
        double below = loss_of(e), low = (double)data[i];
        data[i] = kept;
        double expected = (above - below) / (high - low);
        if (fabs((double)grad[i] - expected) <= TOLERANCE * fmax(1.0, fabs(expected)))
            continue;
        print_error("%s: gradient of %s[%lld] is %g, finite difference %g\n", e->what->name, what,
                    (long long)i, (double)grad[i], expected);
        fail();
    }
}

void check_gradients(const gradient_case *what)
{
    esp_error err = {0};
    experiment e = {.what = what};
    net n = net_new(what->opset);
    what->build(&n);
    e.graph = net_finish(&n);
    must(esp_params_new(e.graph, &e.params, &err), &err);
    fill_inputs(&e);
    esp_exec *exec = open_exec(&e);
    for (int i = 0; i < esp_graph_input_count(e.graph); i++)
        must(esp_exec_want_input_grad(exec, i, &err), &err);
    load_inputs(&e, exec);
    run_forward(exec);
    for (int i = 0; i < esp_graph_output_count(e.graph); i++) {
        const esp_view *dy = esp_exec_output_grad(exec, i);
        memcpy(view_data(dy), e.loss_weights[i], (size_t)view_count(dy) * sizeof(float));
    }
    must(esp_exec_backward(exec, NULL, &err), &err);
    for (int i = 0; i < esp_graph_input_count(e.graph); i++) {
        const esp_view *dx = esp_exec_input_grad(exec, i);
        compare(&e, esp_graph_value(e.graph, esp_graph_input(e.graph, i))->name, e.inputs[i], view_data(dx),
                view_count(dx));
    }
    for (int i = 0; i < esp_params_count(e.params); i++) {
        esp_param *param = esp_params_at(e.params, i);
        if (param->grad != NULL)
            compare(&e, param->name, param->data, param->grad, param->elements);
    }
    esp_exec_free(exec);
    esp_params_free(e.params);
    esp_graph_unref(e.graph);
}
