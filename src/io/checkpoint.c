/* Reading takes the whole file into memory and walks through it; no length is used before it is known to lie
 * within the file. */
#include "io/checkpoint.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>
#include <zlib.h>

#include "base/file.h"
#include "base/memory.h"

#define MAGIC       "ESPCKPT\n"
#define VERSION     1u
#define FRONT_BYTES 16u
#define HEAD_BYTES  12u /* of a block: two lengths */

/* zlib takes at most 4 GiB at once. */
static uint32_t crc_of(uint32_t crc, const void *data, size_t size)
{
    const uint8_t *at = data;
    while (size > 0) {
        uInt part = size > (1u << 30) ? 1u << 30 : (uInt)size;
        crc = (uint32_t)crc32(crc, at, part);
        at += part;
        size -= part;
    }
    return crc;
}

static void put_u32(uint8_t *out, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        out[i] = (uint8_t)(value >> (8 * i));
    }
}

static void put_u64(uint8_t *out, uint64_t value)
{
    put_u32(out, (uint32_t)value);
    put_u32(out + 4, (uint32_t)(value >> 32));
}

static uint32_t get_u32(const uint8_t *in)
{
    return (uint32_t)in[0] | (uint32_t)in[1] << 8 | (uint32_t)in[2] << 16 | (uint32_t)in[3] << 24;
}

static uint64_t get_u64(const uint8_t *in)
{
    return (uint64_t)get_u32(in) | (uint64_t)get_u32(in + 4) << 32;
}

/* ---- writing ---- */

/* The stream remembers that a write failed; the commit looks. */
static void write_block(FILE *stream, const esp_state_block *block)
{
    uint8_t head[HEAD_BYTES], tail[4];
    size_t length = strlen(block->name);
    put_u32(head, (uint32_t)length);
    put_u64(head + 4, block->size);
    uint32_t crc = crc_of(0, head, sizeof(head));
    crc = crc_of(crc, block->name, length);
    crc = crc_of(crc, block->data, block->size);
    put_u32(tail, crc);
    fwrite(head, 1, sizeof(head), stream);
    fwrite(block->name, 1, length, stream);
    fwrite(block->data, 1, block->size, stream);
    fwrite(tail, 1, sizeof(tail), stream);
}

static void write_blocks(FILE *stream, const esp_train_state *state)
{
    for (int i = 0; state != NULL && i < state->count && !ferror(stream); i++) {
        write_block(stream, &state->blocks[i]);
    }
}

esp_status esp_checkpoint_save(const char *path, const esp_train_state *state, const esp_train_state *extra,
                               esp_error *err)
{
    for (int i = 0; extra != NULL && i < extra->count; i++) {
        if (esp_train_state_find(state, extra->blocks[i].name) != NULL) {
            return esp_fail(err, ESP_INVALID, "%s: block '%s' is there twice", path, extra->blocks[i].name);
        }
    }
    esp_file_writer *writer = NULL;
    esp_status status = esp_file_writer_open(path, &writer, err);
    if (status != ESP_OK) {
        return status;
    }
    FILE *stream = esp_file_writer_stream(writer);
    uint8_t front[FRONT_BYTES], tail[4];
    memcpy(front, MAGIC, 8);
    put_u32(front + 8, VERSION);
    put_u32(front + 12, (uint32_t)(state->count + (extra == NULL ? 0 : extra->count)));
    put_u32(tail, crc_of(0, front, sizeof(front)));
    fwrite(front, 1, sizeof(front), stream);
    write_blocks(stream, state);
    write_blocks(stream, extra);
    fwrite(tail, 1, sizeof(tail), stream);
    return esp_file_writer_commit(writer, err);
}

/* ---- reading ---- */

typedef struct reader {
    const char *path;
    const uint8_t *data;
    size_t size, at;
} reader;

static esp_status fail_truncated(const reader *in, size_t wanted, esp_error *err)
{
    return esp_fail(err, ESP_FORMAT, "%s: truncated checkpoint: %zu bytes at %zu are expected, %zu are there",
                    in->path, wanted, in->at, in->size - in->at);
}

static esp_status read_front(reader *in, uint32_t *count, esp_error *err)
{
    if (in->size < 8 || memcmp(in->data, MAGIC, 8) != 0) {
        return esp_fail(err, ESP_FORMAT, "%s: no checkpoint: it does not begin with 'ESPCKPT'", in->path);
    }
    if (in->size < FRONT_BYTES + 4) {
        return fail_truncated(in, FRONT_BYTES + 4, err);
    }
    uint32_t version = get_u32(in->data + 8);
    if (version != VERSION) {
        return esp_fail(err, ESP_UNSUPPORTED, "%s: checkpoint version %" PRIu32 ", expected %u", in->path,
                        version, VERSION);
    }
    *count = get_u32(in->data + 12);
    in->at = FRONT_BYTES;
    return ESP_OK;
}

static esp_status read_block(reader *in, esp_train_state *out, esp_error *err)
{
    size_t left = in->size - in->at;
    const uint8_t *start = in->data + in->at;
    if (left < HEAD_BYTES + 4) {
        return fail_truncated(in, HEAD_BYTES + 4, err);
    }
    uint64_t length = get_u32(start), size = get_u64(start + 4);
    left -= HEAD_BYTES + 4;
    if (length > left || size > left - length) {
        return fail_truncated(in, (size_t)(length + size), err);
    }
    size_t covered = HEAD_BYTES + (size_t)length + (size_t)size;
    char name[ESP_STATE_NAME_MAX] = "";
    if (length < sizeof(name)) {
        memcpy(name, start + HEAD_BYTES, (size_t)length);
    }
    if (crc_of(0, start, covered) != get_u32(start + covered) || length >= sizeof(name)) {
        return esp_fail(err, ESP_FORMAT, "%s: damaged checkpoint: the sum of the block at byte %zu is wrong",
                        in->path, in->at);
    }
    in->at += covered + 4;
    return esp_train_state_put(out, name, start + HEAD_BYTES + length, (size_t)size, err);
}

static esp_status read_end(const reader *in, esp_error *err)
{
    if (in->size - in->at < 4) {
        return fail_truncated(in, 4, err);
    }
    if (in->size - in->at > 4) {
        return esp_fail(err, ESP_FORMAT, "%s: damaged checkpoint: %zu bytes after its end", in->path,
                        in->size - in->at - 4);
    }
    return get_u32(in->data + in->at) == crc_of(0, in->data, FRONT_BYTES)
               ? ESP_OK
               : esp_fail(err, ESP_FORMAT, "%s: damaged checkpoint: the sum of its front is wrong", in->path);
}

esp_status esp_checkpoint_load(const char *path, esp_train_state *out, esp_error *err)
{
    char *data = NULL;
    size_t size = 0;
    uint32_t count = 0;
    esp_train_state state = {0};
    esp_status status = esp_file_read(path, &data, &size, err);
    if (status != ESP_OK) {
        return status;
    }
    reader in = {path, (const uint8_t *)data, size, 0};
    status = read_front(&in, &count, err);
    for (uint32_t i = 0; status == ESP_OK && i < count; i++) {
        status = read_block(&in, &state, err);
    }
    if (status == ESP_OK) {
        status = read_end(&in, err);
    }
    esp_free(data);
    if (status == ESP_OK) {
        *out = state;
    } else {
        esp_train_state_free(&state);
    }
    return status;
}
