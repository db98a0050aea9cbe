/* The model is small_conv_model, the data are quarters_dataset, both from the training fixtures. */
#include "unit/study/tiny_study.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/onnx.h"

#define SIZE 8

static void put_number(unsigned char *target, uint32_t number)
{
    for (int i = 0; i < 4; i++)
        target[i] = (unsigned char)(number >> (24 - 8 * i));
}

static void write_split(const char *directory, const char *images, const char *labels, int64_t count,
                        uint64_t seed)
{
    esp_dataset *dataset = quarters_dataset(count, SIZE, seed);
    size_t pixels = SIZE * SIZE, image_bytes = 16 + (size_t)count * pixels, label_bytes = 8 + (size_t)count;
    unsigned char *bytes = calloc(image_bytes, 1);

    assert_non_null(bytes);
    put_number(bytes, 0x803);
    put_number(bytes + 4, (uint32_t)count);
    put_number(bytes + 8, SIZE);
    put_number(bytes + 12, SIZE);
    for (int64_t i = 0; i < count; i++)
        memcpy(bytes + 16 + (size_t)i * pixels, esp_dataset_pixels(dataset, i), pixels);
    scratch_write(scratch_path(directory, images), bytes, image_bytes);
    put_number(bytes, 0x801);
    for (int64_t i = 0; i < count; i++)
        bytes[8 + i] = (unsigned char)esp_dataset_label(dataset, i);
    scratch_write(scratch_path(directory, labels), bytes, label_bytes);
    free(bytes);
    esp_dataset_unref(dataset);
}

void tiny_study_write(const char *directory)
{
    esp_error err = {0};
    esp_graph *graph = small_conv_model(SIZE, 12, 4, false, 7);
    char data[512];

    expect_ok(esp_onnx_save(graph, scratch_path(directory, "tiny.onnx"), &err), &err);
    esp_graph_unref(graph);
    snprintf(data, sizeof data, "%s", scratch_path(directory, "data"));
    assert_int_equal(mkdir(data, 0700), 0);
    write_split(data, "train-images-idx3-ubyte", "train-labels-idx1-ubyte", TINY_TRAIN_IMAGES, 1);
    write_split(data, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", TINY_TEST_IMAGES, 2);
}

esp_session *tiny_session(const char *directory, const char *study, bool opens_model, bool opens_data)
{
    esp_session_options options = {.study_directory = study, .thread_count = 2, .calibration_images = 40};
    esp_session *session = NULL;
    char spec[600];
    esp_error err = {0};

    snprintf(spec, sizeof spec, "idx:%s", scratch_path(directory, "data"));
    expect_ok(esp_session_new(&options, &session, &err), &err);
    expect_ok(esp_session_open(session, opens_model ? scratch_path(directory, "tiny.onnx") : NULL, &err),
              &err);
    if (opens_data)
        expect_ok(esp_session_open_data(session, spec, &err), &err);
    tiny_study_settle(session, false, NULL);
    return session;
}

void tiny_edit(esp_session *session, esp_plan_edit_kind kind, int layer, double amount)
{
    const esp_plan_edit change = {.kind = kind, .layer = layer, .amount = amount};
    esp_error err = {0};

    expect_ok(esp_session_edit_plan(session, &change, &err), &err);
    tiny_study_settle(session, false, NULL);
}

void tiny_cut(esp_session *session, double ratio)
{
    esp_error err = {0};

    tiny_edit(session, ESP_EDIT_RATIO_SET, 0, ratio);
    expect_ok(esp_session_cut(session, &err), &err);
    tiny_study_settle(session, false, NULL);
}

esp_finetune tiny_finetune(double epochs, double lr)
{
    esp_finetune options = esp_finetune_defaults();

    options.epochs = epochs;
    options.lr = lr;
    options.batch = 16;
    return options;
}

int tiny_study_settle(esp_session *session, bool allows_failure, esp_error *err)
{
    struct pollfd source = {.fd = esp_session_fd(session), .events = POLLIN};
    esp_event event;
    int cancelled = 0;

    for (;;) {
        while (esp_session_next_event(session, &event)) {
            if (event.kind != ESP_EVENT_FINISHED)
                continue;
            cancelled += event.status == ESP_CANCELLED ? 1 : 0;
            if (event.status == ESP_OK || event.status == ESP_CANCELLED)
                continue;
            if (!allows_failure)
                fail_msg("%s: %s", event.title, event.error.message);
            *err = event.error;
        }
        if (esp_session_busy(session) == 0)
            return cancelled;
        poll(&source, 1, -1);
    }
}
