/* A model into its files. Up to 2 GiB, protobuf's limit, it is one file; past that the weights go into a
 * second one beside it, and the model's file says where each tensor is.
 *
 * Two files cannot be replaced in one step, so a pair is never overwritten: the weights go into a data file
 * that the model now at the path does not use, and the rename of the model's file over the old one is the
 * moment at which the new pair counts. Before it the old pair is whole, after it the new one; a crash leaves
 * at most a data file that nobody names, and the next save takes that name. The old pair's data file is
 * removed last. */
#include "io/onnx_writer.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

/* Data files of NAME.onnx are called so behind its name. */
static const char *const data_endings[] = {".data", ".2.data"};
enum { DATA_ENDINGS = sizeof data_endings / sizeof data_endings[0] };

/* ---- writing ---- */

/* A protobuf-c sink that writes to a stream. Failures show in the stream's error flag. */
typedef struct stream_sink {
    ProtobufCBuffer base;
    FILE *stream;
} stream_sink;

static void sink_append(ProtobufCBuffer *buffer, size_t size, const uint8_t *data)
{
    stream_sink *sink = (stream_sink *)buffer;

    if (size > 0 && !ferror(sink->stream))
        (void)!fwrite(data, 1, size, sink->stream);
}

static esp_status write_model_file(const esp_onnx_message *message, const char *path, esp_error *err)
{
    esp_file_writer *file;
    esp_status status = esp_file_writer_open(path, &file, err);

    if (status != ESP_OK)
        return status;
    stream_sink sink = {{sink_append}, esp_file_writer_stream(file)};
    onnx__model_proto__pack_to_buffer(message->model, &sink.base);
    return esp_file_writer_commit(file, err); /* sees what the stream could not write */
}

static esp_status write_data_file(const esp_onnx_placement *placement, const char *path, esp_error *err)
{
    static const char zeros[ESP_ONNX_DATA_ALIGNMENT];
    esp_file_writer *file;
    uint64_t position = 0;
    esp_status status = esp_file_writer_open(path, &file, err);

    if (status != ESP_OK)
        return status;
    FILE *stream = esp_file_writer_stream(file);
    for (int i = 0; i < placement->count && !ferror(stream); i++) {
        const esp_tensor *tensor = placement->tensors[i];
        size_t bytes = (size_t)esp_tensor_elements(tensor) * esp_dtype_size(esp_tensor_dtype(tensor));

        (void)!fwrite(zeros, 1, (size_t)(placement->offsets[i] - position), stream);
        (void)!fwrite(esp_tensor_data(tensor), 1, bytes, stream);
        position = placement->offsets[i] + bytes;
    }
    return esp_file_writer_commit(file, err);
}

/* ---- the pair ---- */

/* Names of the data files a model may have: beside it, and as its file says them. */
typedef struct data_files {
    char *paths[DATA_ENDINGS];
    bool is_used[DATA_ENDINGS]; /* by the model that is at the path now */
} data_files;

static void free_data_files(data_files *files)
{
    for (int i = 0; i < DATA_ENDINGS; i++)
        esp_free(files->paths[i]);
}

static bool uses_location(const Onnx__ModelProto *model, const char *location)
{
    for (size_t i = 0; model->graph && i < model->graph->n_initializer; i++) {
        const Onnx__TensorProto *tensor = model->graph->initializer[i];

        for (size_t k = 0; k < tensor->n_external_data; k++) {
            const Onnx__StringStringEntryProto *entry = tensor->external_data[k];
            if (entry->key && entry->value && strcmp(entry->key, "location") == 0 &&
                strcmp(entry->value, location) == 0)
                return true;
        }
    }
    return false;
}

/* Looks into the model that is there now. What is no model uses no data file. */
static esp_status find_used(const char *path, data_files *files, esp_error *err)
{
    esp_onnx_source source;
    Onnx__ModelProto *model = NULL;
    esp_status status = esp_onnx_source_open(path, &source, err);

    if (status == ESP_OK)
        status = esp_onnx_source_decode(&source, &model, err);
    for (int i = 0; i < DATA_ENDINGS && status == ESP_OK; i++)
        files->is_used[i] = uses_location(model, esp_path_base(files->paths[i]));
    esp_onnx_model_free(model);
    esp_onnx_source_close(&source);
    return status == ESP_NO_MEMORY ? status : ESP_OK;
}

static esp_status name_data_files(const char *path, data_files *out, esp_error *err)
{
    bool is_any_there = false;

    *out = (data_files){0};
    for (int i = 0; i < DATA_ENDINGS; i++) {
        esp_text text = {0};

        esp_text_printf(&text, "%s%s", path, data_endings[i]);
        out->paths[i] = esp_text_take(&text);
        if (!out->paths[i])
            return esp_fail_memory(err, path, strlen(path));
        is_any_there = is_any_there || esp_file_exists(out->paths[i]);
    }
    return is_any_there ? find_used(path, out, err) : ESP_OK;
}

/* After the new model is in place: what the old one used and the new one does not. */
static void remove_old(const data_files *files, int kept)
{
    for (int i = 0; i < DATA_ENDINGS; i++)
        if (files->is_used[i] && i != kept)
            unlink(files->paths[i]);
}

static esp_status save_pair(const esp_graph *graph, const char *path, size_t limit, const data_files *files,
                            esp_error *err)
{
    int chosen = files->is_used[0] ? 1 : 0; /* one model uses one data file */
    esp_onnx_message message;
    esp_status status = esp_onnx_message_build(graph, esp_path_base(files->paths[chosen]), &message, err);

    if (status == ESP_OK && message.size > limit)
        status =
            esp_fail(err, ESP_UNSUPPORTED,
                     "its nodes and small tensors take %zu bytes, expected at most %zu (a limit of protobuf)",
                     message.size, limit);
    if (status == ESP_OK)
        status = write_data_file(&message.placement, files->paths[chosen], err);
    if (status == ESP_OK) {
        status = write_model_file(&message, path, err);
        if (status == ESP_OK)
            remove_old(files, chosen);
        else
            unlink(files->paths[chosen]);
    }
    esp_onnx_message_free(&message);
    return status;
}

static esp_status save(const esp_graph *graph, const char *path, size_t limit, esp_error *err)
{
    esp_onnx_message message;
    data_files files;
    esp_status status = name_data_files(path, &files, err);
    bool is_pair = false;

    if (status == ESP_OK) {
        status = esp_onnx_message_build(graph, NULL, &message, err);
        is_pair = status == ESP_OK && message.size > limit;
        if (status == ESP_OK && !is_pair)
            status = write_model_file(&message, path, err);
        esp_onnx_message_free(&message);
        if (status == ESP_OK && is_pair)
            status = save_pair(graph, path, limit, &files, err);
        else if (status == ESP_OK)
            remove_old(&files, -1);
    }
    free_data_files(&files);
    return status;
}

esp_status esp_onnx_save_limited(const esp_graph *graph, const char *path, size_t limit, esp_error *err)
{
    esp_graph *written;
    esp_status status = esp_onnx_upgrade(graph, &written, err);

    if (status == ESP_OK)
        status = save(written, path, limit, err);
    if (status != ESP_OK && err && !strstr(err->message, path))
        esp_error_prefix(err, "%s", path);
    esp_graph_unref(written);
    return status;
}

esp_status esp_onnx_save(const esp_graph *graph, const char *path, esp_error *err)
{
    return esp_onnx_save_limited(graph, path, INT32_MAX, err);
}

esp_status esp_onnx_serialize(const esp_graph *graph, void **out_data, size_t *out_size, esp_error *err)
{
    esp_onnx_message message = {0};
    esp_graph *written;
    esp_status status = esp_onnx_upgrade(graph, &written, err);

    *out_data = NULL;
    if (status == ESP_OK)
        status = esp_onnx_message_build(written, NULL, &message, err);
    if (status == ESP_OK && message.size > INT32_MAX) {
        char text[32];

        status =
            esp_fail(err, ESP_UNSUPPORTED, "the model takes %s, expected at most 2 GiB (a limit of protobuf)",
                     esp_format_bytes(text, sizeof text, (double)message.size));
    }
    if (status == ESP_OK) {
        *out_data = esp_alloc(message.size, 1);
        if (!*out_data)
            status = esp_fail_memory(err, "a model in memory", message.size);
    }
    if (status == ESP_OK)
        *out_size = onnx__model_proto__pack(message.model, *out_data);
    esp_onnx_message_free(&message);
    esp_graph_unref(written);
    return status;
}
