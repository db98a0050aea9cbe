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
