/* What may be added to a training: a teacher, penalties, an average of the weights, recalibrated statistics.
 * Each costs nothing when it is off. */
#include <string.h>

#include "train/recalibrate.h"
#include "train/trainer_internal.h"

#define RECALIBRATE_IMAGES 1024

/* ---- the teacher ---- */

/* The teacher may have been trained on another normalisation: its input is made from the student's, channel
 * by channel, so that both see the same picture. */
static esp_status fit_normalization(esp_trainer *s, esp_error *err)
{
    esp_normalization own = {0};
    esp_status status =
        esp_normalization_of(s->options->teacher, esp_dataset_channels(s->training), &own, err);
    if (status != ESP_OK) {
        return status;
    }
    /* a teacher that carries none was looked at with the student's */
    if (own.origin == ESP_NORM_DEFAULT) {
        own = s->normalization;
    }
    s->teacher_sees_the_same = true;
    for (int c = 0; c < own.channels; c++) {
        s->teacher_scale[c] = s->normalization.std[c] / own.std[c];
        s->teacher_shift[c] = (s->normalization.mean[c] - own.mean[c]) / own.std[c];
        s->teacher_sees_the_same = s->teacher_sees_the_same && own.mean[c] == s->normalization.mean[c] &&
                                   own.std[c] == s->normalization.std[c];
    }
    return ESP_OK;
}

static esp_status make_teacher(esp_trainer *s, int64_t batch, esp_exec **out, esp_error *err)
{
    const esp_exec_options options = {.batch = batch, .slots = esp_compute_slots(s->compute)};
    return esp_image_exec_new(s->options->teacher, s->training, options, out, err);
}

esp_status esp_trainer_add_teacher(esp_trainer *s, esp_error *err)
{
    esp_status status = esp_dataset_check_model(s->training, s->options->teacher, err);
    if (status == ESP_OK) {
        status = fit_normalization(s, err);
    }
    if (status == ESP_OK) {
        status = make_teacher(s, s->batch, &s->teacher, err);
    }
    if (status == ESP_OK && s->tail > 0) {
        status = make_teacher(s, s->tail, &s->tail_teacher, err);
    }
    if (status == ESP_OK) {
        int64_t classes = esp_shape_elements(&esp_exec_output(s->exec, 0)->shape) / s->batch;
        int64_t taught = esp_shape_elements(&esp_exec_output(s->teacher, 0)->shape) / s->batch;
        status = taught == classes ? ESP_OK
                                   : esp_fail(err, ESP_SHAPE, "it knows %lld classes, the model %lld",
                                              (long long)taught, (long long)classes);
    }
    if (status != ESP_OK) {
        esp_error_prefix(err, "teacher '%s'", esp_graph_name(s->options->teacher));
    }
    return status;
}

esp_status esp_trainer_teach(esp_trainer *s, const float *x, int64_t count, const float **logits,
                             esp_error *err)
{
    esp_exec *teacher = count == s->tail ? s->tail_teacher : s->teacher;
    if (teacher == NULL) {
        *logits = NULL;
        return ESP_OK;
    }
    float *target = esp_view_f32(esp_exec_input(teacher, 0));
    int64_t channels = esp_dataset_channels(s->training);
    int64_t plane = (int64_t)esp_dataset_height(s->training) * esp_dataset_width(s->training);
    if (s->teacher_sees_the_same) {
        memcpy(target, x, (size_t)(count * channels * plane) * sizeof(float));
    } else {
        for (int64_t p = 0; p < count * channels; p++) {
            float scale = s->teacher_scale[p % channels], shift = s->teacher_shift[p % channels];
            for (int64_t i = p * plane; i < (p + 1) * plane; i++) {
                target[i] = x[i] * scale + shift;
            }
        }
    }
    esp_status status = esp_exec_forward(teacher, s->compute, err);
    if (status == ESP_OK) {
        *logits = esp_view_f32(esp_exec_output(teacher, 0));
    }
    return status;
}

/* ---- penalties ---- */

void esp_trainer_penalize(esp_trainer *s)
{
    for (int i = 0; i < s->options->penalty_count; i++) {
        const esp_train_penalty *penalty = &s->options->penalties[i];
        esp_param *param = esp_params_at(s->params, esp_params_find(s->params, penalty->value));
        penalty->add(penalty->user, param->elements, param->data, param->grad);
    }
}

/* ---- the average of the weights ---- */

static void average_param(void *context, int64_t task, int slot)
{
    (void)slot;
    const esp_trainer *s = context;
    const float *now = esp_params_at(s->params, (int)task)->data;
    esp_param *average = esp_params_at(s->average, (int)task);
    float decay = (float)s->options->ema_decay, rest = (float)(1.0 - s->options->ema_decay);
    for (int64_t i = 0; i < average->elements; i++) {
        average->data[i] = decay * average->data[i] + rest * now[i];
    }
}

void esp_trainer_average(esp_trainer *s)
{
    if (s->average == NULL) {
        return;
    }
    /* without the cancel token it cannot stop half-way */
    esp_compute whole = {.pool = s->compute == NULL ? NULL : s->compute->pool};
    (void)esp_compute_run(&whole, esp_params_count(s->params), average_param, s);
    esp_params_touch(s->average);
}

/* ---- recalibration ---- */

esp_status esp_trainer_recalibrate(esp_trainer *s, esp_error *err)
{
    if (s->options->norm != ESP_NORM_MODE_RECALIBRATE || s->options->freezes_norm) {
        return ESP_OK;
    }
    const esp_recalibrate_options options = {
        .images = s->options->recalibrate_images > 0 ? s->options->recalibrate_images : RECALIBRATE_IMAGES,
        .seed = s->options->seed,
    };
    esp_graph *graph = NULL, *measured = NULL;
    esp_status status = esp_params_to_graph(s->measured, &graph, err);
    if (status == ESP_OK) {
        status = esp_recalibrate(s->compute, graph, s->training, &options, &measured, NULL, err);
    }
    for (int p = 0; status == ESP_OK && p < esp_params_count(s->measured); p++) {
        esp_param *param = esp_params_at(s->measured, p);
        if (param->is_running && !esp_optimizer_is_frozen(s->optimizer, p)) {
            memcpy(param->data, esp_tensor_f32(esp_graph_value(measured, param->value)->constant),
                   (size_t)param->elements * sizeof(float));
        }
    }
    esp_params_touch(s->measured);
    esp_graph_unref(graph);
    esp_graph_unref(measured);
    return status;
}
