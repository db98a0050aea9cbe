/* Any bytes as a checkpoint, twice: as the file, and, since its sums keep chance out of the rest, as changes
 * to the blocks of a sound one that a training is then to go on from. Either is refused with a message or
 * goes on. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io/checkpoint.h"
#include "train/trainer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { IMAGES = 10, CLASSES = 3 };

static esp_graph *graph;
static esp_dataset *images;
static esp_train_state sound;

static void read_file(const uint8_t *data, size_t size)
{
    char path[64];
    esp_train_state state = {0};
    esp_error err = {0};
    int descriptor = memfd_create("fuzz", MFD_CLOEXEC);

    if (descriptor < 0)
        return;
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    if (size == 0 || write(descriptor, data, size) == (ssize_t)size) {
        if (esp_checkpoint_load(path, &state, &err) != ESP_OK && err.message[0] == '\0')
            __builtin_trap();
    }
    esp_train_state_free(&state);
    close(descriptor);
}

/* ---- a training to go on with ---- */

static void need(bool holds)
{
    if (!holds)
        abort();
}

static esp_status keep(void *user, const esp_train_state *state, esp_error *err)
{
    esp_train_state *out = user;

    esp_train_state_free(out);
    for (int i = 0; i < state->count; i++) {
        const esp_state_block *block = &state->blocks[i];
        need(esp_train_state_put(out, block->name, block->data, block->size, err) == ESP_OK);
    }
    return ESP_OK;
}

static esp_status stop(void *user, esp_trainer *trainer, const esp_step_report *report, esp_error *err)
{
    (void)user;
    (void)trainer;
    return report->step == 4 ? esp_fail(err, ESP_CANCELLED, "enough") : ESP_OK;
}

static esp_train_options make_options(void)
{
    esp_train_options options = esp_train_defaults();

    options.epochs_limit = 2;
    options.batch = 4;
    options.optimizer = ESP_OPTIMIZER_ADAM;
    options.ema_decay = 0.5;
    options.schedule = esp_schedule_make(ESP_SCHEDULE_PLATEAU, 0.01);
    options.evaluates_first = true;
    return options;
}

/* x [N,1,2,2] -> BatchNormalization -> Flatten -> Gemm. */
static void make_model(void)
{
    static const float numbers[CLASSES * 4] = {0.1f, -0.2f, 0.3f, 0.4f, 0.5f, -0.6f, 0.7f, 1, 1, 1, 1, 1};
    static const char *const names[] = {"scale", "shift", "mean", "variance", "weight", "bias"};
    const esp_shape input = esp_shape_make(4, (const int64_t[]){ESP_DIM_BATCH, 1, 2, 2});
    const esp_shape one = esp_shape_make(1, (const int64_t[]){1});
    const esp_shape shapes[] = {one,
                                one,
                                one,
                                one,
                                esp_shape_make(2, (const int64_t[]){4, CLASSES}),
                                esp_shape_make(1, (const int64_t[]){CLASSES})};
    esp_builder *builder = NULL;
    esp_error err = {0};
    int value[8];

    need(esp_builder_new("fuzz", 13, 7, &builder, &err) == ESP_OK);
    need(esp_builder_input(builder, "x", ESP_F32, &input, "N", &value[0], &err) == ESP_OK);
    for (int i = 0; i < 6; i++) {
        esp_tensor *tensor = NULL;
        const float *first = numbers + (i < 4 ? CLASSES * 4 - 1 : 0);
        need(esp_tensor_from(ESP_F32, &shapes[i], first, &tensor, &err) == ESP_OK);
        need(esp_builder_constant(builder, names[i], tensor, &value[i + 1], &err) == ESP_OK);
        esp_tensor_unref(tensor);
    }
    need(esp_builder_add(builder, "BatchNormalization", "norm", value, 5, NULL, 0, "a", &value[7], &err) ==
         ESP_OK);
    need(esp_builder_add(builder, "Flatten", "flat", (int[]){value[7]}, 1, NULL, 0, "b", &value[7], &err) ==
         ESP_OK);
    need(esp_builder_add(builder, "Gemm", "fc", (int[]){value[7], value[5], value[6]}, 3, NULL, 0, "y",
                         &value[7], &err) == ESP_OK);
    need(esp_builder_output(builder, value[7], ESP_F32, NULL, &err) == ESP_OK);
    need(esp_builder_finish(builder, &graph, &err) == ESP_OK);
}

static void make_images(void)
{
    esp_error err = {0};

    need(esp_dataset_new("fuzz", NULL, IMAGES, 1, 2, 2, CLASSES, &images, &err) == ESP_OK);
    for (int i = 0; i < IMAGES; i++) {
        memset(esp_dataset_pixels_mut(images, i), 20 * i, 4);
        esp_dataset_set_label(images, i, i % CLASSES);
    }
}

/* A sound state in the second epoch. */
static void make_sound(void)
{
    esp_train_options options = make_options();
    esp_graph *out = NULL;
    esp_error err = {0};

    make_model();
    make_images();
    options.on_checkpoint = keep;
    options.checkpoint_user = &sound;
    options.on_step = stop;
    need(esp_train(NULL, graph, images, images, &options, &out, NULL, &err) == ESP_CANCELLED);
    esp_graph_unref(out);
}

/* Each change is four bytes: which block, what is done with it, where, and a byte. */
static void change(esp_train_state *state, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i + 3 < size; i += 4) {
        esp_state_block *block = &state->blocks[data[i] % state->count];
        size_t place = block->size ? data[i + 2] % block->size : 0;

        switch (data[i + 1] % 5) {
        case 0: /* it ends earlier: what is behind stays allocated */
            block->size = place;
            break;
        case 1: /* another name: it is missing, and one is there that nobody knows */
            block->name[0] = (char)('a' + data[i + 3] % 26);
            break;
        case 2:
            if (block->size >= 8)
                memset(block->data, data[i + 3], 8);
            break;
        default:
            if (block->size)
                ((uint8_t *)block->data)[place] = data[i + 3];
        }
    }
}

static void resume(const uint8_t *data, size_t size)
{
    esp_train_options options = make_options();
    esp_train_state changed = {0};
    esp_graph *out = NULL;
    esp_error err = {0};

    keep(&changed, &sound, &err);
    change(&changed, data, size);
    options.resume = &changed;
    if (esp_train(NULL, graph, images, images, &options, &out, NULL, &err) != ESP_OK &&
        err.message[0] == '\0')
        __builtin_trap();
    esp_graph_unref(out);
    esp_train_state_free(&changed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!graph)
        make_sound();
    read_file(data, size);
    resume(data, size < 64 ? size : 64);
    return 0;
}
