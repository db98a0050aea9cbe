/* From bytes to protobuf-c's structures.
 *
 * protobuf-c answers a damaged message with NULL and no reason, and follows nested messages by recursion
 * without a limit. So the framing is walked first, with the generated descriptors as the map: that finds the
 * place of the damage, and bounds the nesting. It touches only tags and lengths, never the weights. */
#include "io/onnx_internal.h"

#include <string.h>

#include "base/memory.h"

/* Deeper than any real model: subgraphs nest three messages per level. protobuf itself stops at 100. */
#define MAX_NESTING 100

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_LENGTH = 2, WIRE_32 = 5 };

typedef struct wire {
    const uint8_t *data;
    size_t position;
    esp_error *err;
} wire;

static esp_status fail_end(const wire *in, size_t end)
{
    return esp_fail(in->err, ESP_FORMAT,
                    "not an ONNX model or damaged: a number at byte %zu is cut off or too long "
                    "(its message ends at byte %zu)",
                    in->position, end);
}

static esp_status read_varint(wire *in, size_t end, uint64_t *out)
{
    uint64_t value = 0;

    for (size_t i = 0; i < 10 && in->position + i < end; i++) {
        uint8_t byte = in->data[in->position + i];

        value |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte < 0x80) {
            in->position += i + 1;
            *out = value;
            return ESP_OK;
        }
    }
    return fail_end(in, end);
}

static esp_status fail_tag(const wire *in, size_t start, const ProtobufCMessageDescriptor *message)
{
    if (start == 0)
        return esp_fail(in->err, ESP_FORMAT,
                        "not an ONNX model: it begins with byte 0x%02x, which begins no protobuf field",
                        in->data[0]);
    return esp_fail(in->err, ESP_FORMAT,
                    "not an ONNX model or damaged: no protobuf field begins at byte %zu (in %s)", start,
                    message->short_name);
}

static unsigned natural_wire(const ProtobufCFieldDescriptor *field)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_SFIXED32:
        return WIRE_32;
    case PROTOBUF_C_TYPE_DOUBLE:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return WIRE_64;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return WIRE_LENGTH;
    default:
        return WIRE_VARINT;
    }
}

static bool wire_fits(const ProtobufCFieldDescriptor *field, unsigned wire_type)
{
    bool may_be_packed = field->label == PROTOBUF_C_LABEL_REPEATED;

    return wire_type == natural_wire(field) || (may_be_packed && wire_type == WIRE_LENGTH);
}

/* Moves past a field's payload; for a length-delimited one leaves its size in `*length`, at its first byte.
 */
static esp_status read_payload(wire *in, size_t end, unsigned wire_type, uint64_t *length)
{
    uint64_t ignored;

    *length = 0;
    if (wire_type == WIRE_VARINT)
        return read_varint(in, end, &ignored);
    if (wire_type == WIRE_LENGTH)
        return read_varint(in, end, length);
    size_t width = wire_type == WIRE_64 ? 8 : 4;
    if (end - in->position < width)
        return fail_end(in, end);
    in->position += width;
    return ESP_OK;
}

static esp_status check_message(wire *in, size_t end, const ProtobufCMessageDescriptor *message, int nesting);

static esp_status check_field(wire *in, size_t end, const ProtobufCMessageDescriptor *message, int nesting)
{
    size_t start = in->position;
    uint64_t tag = 0, length = 0;
    esp_status status = read_varint(in, end, &tag);

    if (status != ESP_OK)
        return status;
    unsigned wire_type = (unsigned)(tag & 7);
    if (tag >> 3 == 0 || tag >> 3 > 0x1fffffff ||
        (wire_type != WIRE_VARINT && wire_type != WIRE_64 && wire_type != WIRE_LENGTH &&
         wire_type != WIRE_32))
        return fail_tag(in, start, message);

    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field(message, (unsigned)(tag >> 3));
    if (field && !wire_fits(field, wire_type))
        return esp_fail(
            in->err, ESP_FORMAT,
            "not an ONNX model or damaged: field '%s' of %s at byte %zu has wire type %u, expected %u",
            field->name, message->short_name, start, wire_type, natural_wire(field));
    status = read_payload(in, end, wire_type, &length);
    if (status != ESP_OK)
        return status;
    if (length > end - in->position)
        return esp_fail(in->err, ESP_FORMAT,
                        "truncated or damaged: field '%s' of %s at byte %zu needs %llu bytes, found %zu",
                        field ? field->name : "?", message->short_name, start, (unsigned long long)length,
                        end - in->position);
    if (field && field->type == PROTOBUF_C_TYPE_MESSAGE)
        return check_message(in, in->position + (size_t)length, field->descriptor, nesting + 1);
    in->position += (size_t)length;
    return ESP_OK;
}

static esp_status check_message(wire *in, size_t end, const ProtobufCMessageDescriptor *message, int nesting)
{
    if (nesting > MAX_NESTING)
        return esp_fail(in->err, ESP_FORMAT, "messages nest deeper than %d levels at byte %zu", MAX_NESTING,
                        in->position);
    while (in->position < end) {
        esp_status status = check_field(in, end, message, nesting);

        if (status != ESP_OK)
            return status;
    }
    return ESP_OK;
}

/* protobuf-c's memory comes from our allocator, so that it is counted and can fail in tests. */
static void *message_alloc(void *data, size_t size)
{
    void *block = esp_alloc(1, size);

    if (!block && data)
        *(bool *)data = true;
    return block;
}

static void message_free(void *data, void *block)
{
    (void)data;
    esp_free(block);
}

esp_status esp_onnx_model_decode(const uint8_t *data, size_t size, Onnx__ModelProto **out, esp_error *err)
{
    wire in = {data, 0, err};
    bool is_out_of_memory = false;
    ProtobufCAllocator allocator = {message_alloc, message_free, &is_out_of_memory};

    *out = NULL;
    if (size == 0)
        return esp_fail(err, ESP_FORMAT, "the file is empty, expected an ONNX model");
    esp_status status = check_message(&in, size, &onnx__model_proto__descriptor, 0);
    if (status != ESP_OK)
        return status;

    *out = onnx__model_proto__unpack(&allocator, size, data);
    if (*out)
        return ESP_OK;
    if (is_out_of_memory)
        return esp_fail_memory(err, "the model's messages", size);
    return esp_fail(err, ESP_FORMAT,
                    "not an ONNX model or damaged: its %zu bytes are not a valid protobuf message", size);
}

void esp_onnx_model_free(Onnx__ModelProto *model)
{
    ProtobufCAllocator allocator = {message_alloc, message_free, NULL};

    if (model)
        onnx__model_proto__free_unpacked(model, &allocator);
}

void esp_onnx_tensor_release_raw(Onnx__TensorProto *proto)
{
    esp_free(proto->raw_data.data);
    proto->raw_data = (ProtobufCBinaryData){0, NULL};
    proto->has_raw_data = false;
}
