/* Where a training broke. Nothing is watched while all is well but the loss and, once per step, the
 * gradients; when one of them is not finite, the step is gone through again with every intermediate value
 * kept, and the first value in the network's order that is not finite names the layer. Weights of the step
 * are still there: a step whose gradients are bad is never taken. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "graph/op.h"
#include "train/trainer_internal.h"

/* ---- is there something wild in it? ---- */

static bool is_wild(const float *values, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(values[i])) {
            return true;
        }
    }
    return false;
}

/* A value in either layout; what lies in lanes past the channels is undefined and not looked at. */
static bool view_is_wild(const esp_view *view)
{
    if (view->data == NULL || view->dtype != ESP_F32) {
        return false;
    }
    if (view->layout == ESP_LAYOUT_PLAIN) {
        return is_wild(esp_view_f32(view), esp_shape_elements(&view->shape));
    }
    const esp_shape *shape = &view->shape;
    int64_t channels = shape->dims[1], plane = 1, stride = esp_view_image_stride(view);
    for (int i = 2; i < shape->rank; i++) {
        plane *= shape->dims[i];
    }
    for (int64_t n = 0; n < shape->dims[0]; n++) {
        for (int64_t c = 0; c < channels; c += ESP_BLOCK) {
            const float *block = esp_view_f32(view) + n * stride + c * plane;
            int64_t lanes = channels - c < ESP_BLOCK ? channels - c : ESP_BLOCK;
            for (int64_t p = 0; p < plane; p++) {
                if (is_wild(block + p * ESP_BLOCK, lanes)) {
                    return true;
                }
            }
        }
    }
    return false;
}

/* ---- where? ---- */

typedef struct finding {
    const char *where; /* name of a node or constant; NULL: nowhere */
    const char *what;  /* "the output of", ... */
} finding;

/* A weight that is not finite although every gradient was: the step itself was too long. */
static finding find_in_weights(const esp_trainer *s)
{
    for (int p = 0; p < esp_params_count(s->params); p++) {
        const esp_param *param = esp_params_at(s->params, p);
        if (is_wild(param->data, param->elements)) {
            return (finding){param->name, param->is_running ? "the running statistics" : "the weights"};
        }
    }
    return (finding){0};
}

/* Gradients flow from the end of the network: the last node that has a bad one is where it began. */
static finding find_in_gradients(const esp_trainer *s)
{
    for (int n = esp_graph_node_count(s->graph) - 1; n >= 0; n--) {
        const esp_node *node = esp_graph_node(s->graph, n);
        for (int i = 0; i < node->input_count; i++) {
            int p = node->inputs[i] < 0 ? -1 : esp_params_find(s->params, node->inputs[i]);
            const esp_param *param = p < 0 ? NULL : esp_params_at(s->params, p);
            if (param != NULL && param->grad != NULL && is_wild(param->grad, param->elements)) {
                return (finding){node->name, "the gradient of"};
            }
        }
    }
    return (finding){0};
}

static finding find_in_values(const esp_graph *graph, const esp_exec *exec)
{
    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        const esp_node *node = esp_graph_node(graph, n);
        for (int o = 0; o < node->output_count; o++) {
            const esp_view *view = node->outputs[o] < 0 ? NULL : esp_exec_value(exec, node->outputs[o]);
            if (view != NULL && view_is_wild(view)) {
                return (finding){node->name, "the output of"};
            }
        }
    }
    return (finding){0};
}

/* Runs the batch again with all values kept. Whatever goes wrong here, training has diverged all the same:
 * the place is then not known. */
static finding find_by_running(esp_trainer *s, int64_t first, int64_t count)
{
    esp_exec *exec = NULL;
    esp_error ignored = {0};
    finding found = {0};
    const esp_batch_labels labels = {s->labels, s->other_labels, s->shares};
    const esp_exec_options options = {
        .batch = count,
        .is_training = true,
        .params = s->params,
        .keeps_values = true,
        .freezes_norm = s->options->freezes_norm || s->options->norm == ESP_NORM_MODE_FROZEN,
        .slots = esp_compute_slots(s->compute),
    };
    esp_status status = esp_image_exec_new(s->graph, s->training, options, &exec, &ignored);
    if (status == ESP_OK) {
        status = esp_batch_read(s->compute, s->training, &s->normalization, &s->options->augmentation,
                                s->options->seed, (uint64_t)s->now.epoch, s->order + first, count,
                                esp_view_f32(esp_exec_input(exec, 0)), &labels, &ignored);
    }
    if (status == ESP_OK) {
        status = esp_exec_forward(exec, s->compute, &ignored);
    }
    if (status == ESP_OK) {
        found = find_in_values(s->graph, exec);
    }
    esp_exec_free(exec);
    return found;
}

static finding find_trouble(esp_trainer *s, esp_trouble trouble, int64_t first, int64_t count)
{
    finding found = find_in_weights(s);
    if (found.where == NULL && trouble == ESP_TROUBLE_GRADIENT) {
        found = find_in_gradients(s);
    }
    if (found.where == NULL && trouble == ESP_TROUBLE_LOSS) {
        found = find_by_running(s, first, count);
    }
    return found;
}

esp_status esp_trainer_diverged(esp_trainer *s, esp_trouble trouble, double loss, int64_t first,
                                int64_t count, esp_error *err)
{
    char where[256] = "";
    /* an exploding loss is finite, and so is everything that led to it */
    finding found =
        trouble == ESP_TROUBLE_LOSS && isfinite(loss) ? (finding){0} : find_trouble(s, trouble, first, count);
    if (found.where != NULL) {
        snprintf(where, sizeof(where), ", first in %s '%.120s'", found.what, found.where);
        snprintf(s->result.diverged_at, sizeof(s->result.diverged_at), "%s", found.where);
    }
    if (trouble == ESP_TROUBLE_VALIDATION) {
        esp_fail(err, ESP_DIVERGED, "training diverged: the validation loss after epoch %d is not finite%s",
                 s->result.epochs_done, where);
        esp_error_set_hint(err,
                           s->result.steps > 0 ? "try a lower learning rate" : "the model itself is broken");
        return ESP_DIVERGED;
    }
    char what[96];
    if (trouble == ESP_TROUBLE_LOSS && isfinite(loss)) {
        snprintf(what, sizeof(what), "the loss %.4g is above %g", loss, s->options->max_loss);
    } else {
        snprintf(what, sizeof(what), "the %s is not finite",
                 trouble == ESP_TROUBLE_LOSS ? "loss" : "gradient");
    }
    esp_fail(err, ESP_DIVERGED, "training diverged at step %" PRId64 " (epoch %d, learning rate %g): %s%s",
             s->result.steps + 1, s->now.epoch, s->now.lr, what, where);
    esp_error_set_hint(err, "try a lower learning rate");
    return ESP_DIVERGED;
}
