/* From bytes to protobuf-c's structures.
 *
 * protobuf-c answers a damaged message with NULL and no reason, follows nested messages by recursion without
 * a limit, and copies every byte of weights. So the framing is walked first, with the generated descriptors
 * as the map: that finds the place of the damage, bounds the nesting, and writes a second message without the
 * weights (the skeleton), which is what protobuf-c gets. Where weights were cut out the skeleton has a field
 * no message of ONNX has, the number of the cut. */
#include "io/onnx_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

/* Deeper than any real model: subgraphs nest three messages per level. protobuf itself stops at 100. */
#define MAX_NESTING 100

/* Weights are cut from tensors of the main graph and of its nodes' attributes, from this size on. Tensors in
 * subgraphs stay, since subgraphs are only ever passed on. */
#define CUT_NESTING 4
#define CUT_BYTES   ((size_t)4096)

/* The highest field number there is stands for a cut. */
#define CUT_FIELD 0x1fffffffu

/* Lengths in the skeleton take as many bytes as any length there may be: they are written after what they
 * count.
 */
#define LENGTH_BYTES 5

#define LONGEST_VARINT 10
#define COPY_BYTES     ((size_t)4096)

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_LENGTH = 2, WIRE_32 = 5 };

typedef struct wire {
    esp_onnx_source *source;
    uint64_t position;
    bool cuts_weights;
    uint8_t *skeleton;
    size_t size, capacity;
    esp_error *err;
} wire;

/* ---- reading ---- */

static esp_status fail_end(const wire *in, uint64_t end)
{
    return esp_fail(in->err, ESP_FORMAT,
                    "not an ONNX model or damaged: a number at byte %llu is cut off or too long "
                    "(its message ends at byte %llu)",
                    (unsigned long long)in->position, (unsigned long long)end);
}

static esp_status read_varint(wire *in, uint64_t end, uint64_t *out)
{
    uint64_t value = 0, left = end - in->position;
    size_t most = left < LONGEST_VARINT ? (size_t)left : LONGEST_VARINT;
    const uint8_t *bytes;
    esp_status status = esp_onnx_source_peek(in->source, in->position, most, &bytes, in->err);

    if (status != ESP_OK)
        return status;
    for (size_t i = 0; i < most; i++) {
        value |= (uint64_t)(bytes[i] & 0x7f) << (7 * i);
        if (bytes[i] < 0x80) {
            in->position += i + 1;
            *out = value;
            return ESP_OK;
        }
    }
    return fail_end(in, end);
}

static esp_status fail_tag(const wire *in, uint64_t start, const ProtobufCMessageDescriptor *message)
{
    const uint8_t *first;

    if (start > 0 || esp_onnx_source_peek(in->source, 0, 1, &first, in->err) != ESP_OK)
        return esp_fail(in->err, ESP_FORMAT,
                        "not an ONNX model or damaged: no protobuf field begins at byte %llu (in %s)",
                        (unsigned long long)start, message->short_name);
    return esp_fail(in->err, ESP_FORMAT,
                    "not an ONNX model: it begins with byte 0x%02x, which begins no protobuf field",
                    first[0]);
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

/* ---- writing the skeleton ---- */

static esp_status make_room(wire *in, size_t bytes)
{
    if (in->capacity - in->size >= bytes)
        return ESP_OK;
    size_t wanted = in->capacity * 2 > in->size + bytes ? in->capacity * 2 : in->size + bytes + COPY_BYTES;
    uint8_t *grown = esp_realloc(in->skeleton, in->size, wanted, 1);
    if (!grown)
        return esp_fail_memory(in->err, "a model's structure", wanted);
    in->skeleton = grown;
    in->capacity = wanted;
    return ESP_OK;
}

static void put_varint(wire *in, uint64_t value, size_t least_bytes)
{
    for (size_t i = 0; i + 1 < least_bytes || value > 0x7f; i++) {
        in->skeleton[in->size++] = (uint8_t)((value & 0x7f) | 0x80);
        value >>= 7;
    }
    in->skeleton[in->size++] = (uint8_t)value;
}

/* Copies a piece of the source. */
static esp_status put_source(wire *in, uint64_t offset, uint64_t size)
{
    esp_status status = size > SIZE_MAX / 4 ? esp_fail_memory(in->err, "a model's structure", SIZE_MAX)
                                            : make_room(in, (size_t)size);
    const uint8_t *bytes;

    if (status != ESP_OK)
        return status;
    if (size > COPY_BYTES)
        status = esp_onnx_source_read(in->source, offset, in->skeleton + in->size, (size_t)size, in->err);
    else
        status = esp_onnx_source_peek(in->source, offset, (size_t)size, &bytes, in->err);
    if (status != ESP_OK)
        return status;
    if (size > 0 && size <= COPY_BYTES)
        memcpy(in->skeleton + in->size, bytes, (size_t)size);
    in->size += (size_t)size;
    return ESP_OK;
}

/* Leaves these bytes in the source. */
static esp_status put_cut(wire *in, unsigned field, uint64_t offset, uint64_t size)
{
    esp_onnx_source *source = in->source;

    if (source->cut_count == source->cut_capacity) {
        size_t wanted = source->cut_capacity ? 2 * source->cut_capacity : 64;
        esp_onnx_cut *grown = esp_realloc(source->cuts, source->cut_count, wanted, sizeof *grown);
        if (!grown)
            return esp_fail_memory(in->err, "the table of weights", wanted * sizeof *grown);
        source->cuts = grown;
        source->cut_capacity = wanted;
    }
    esp_status status = make_room(in, 2 * LONGEST_VARINT);
    if (status != ESP_OK)
        return status;
    put_varint(in, (uint64_t)CUT_FIELD << 3 | WIRE_VARINT, 1);
    put_varint(in, source->cut_count, 1);
    source->cuts[source->cut_count++] = (esp_onnx_cut){offset, size, field};
    return ESP_OK;
}

/* ---- the walk ---- */

/* What a message has had so far. */
typedef struct progress {
    const ProtobufCMessageDescriptor *message;
    int nesting;
    bool may_cut; /* it is a tensor whose elements may stay behind */
    bool has_cut;
    uint64_t pieces;  /* fields of elements that were met */
    uint64_t singles; /* bit per field of one message that was met */
} progress;

static bool holds_elements(unsigned number)
{
    return number == ESP_ONNX_FLOATS_FIELD || number == ESP_ONNX_RAW_FIELD ||
           number == ESP_ONNX_DOUBLES_FIELD;
}

/* Elements in pieces are legal where none is cut out, which would lose their order. */
static esp_status check_pieces(wire *in, progress *at, bool is_cut, uint64_t start)
{
    at->pieces++;
    at->has_cut = at->has_cut || is_cut;
    if (!at->has_cut || at->pieces == 1)
        return ESP_OK;
    return esp_fail(in->err, ESP_FORMAT, "damaged: a tensor has its elements in several pieces (byte %llu)",
                    (unsigned long long)start);
}

/* protobuf would merge them, at a cost that grows with the square of their number; no writer makes two. */
static esp_status check_single(wire *in, progress *at, const ProtobufCFieldDescriptor *field, uint64_t start)
{
    size_t index = (size_t)(field - at->message->fields);
    uint64_t bit = index < 64 ? (uint64_t)1 << index : 0;

    if (field->label == PROTOBUF_C_LABEL_REPEATED)
        return ESP_OK;
    if ((at->singles & bit) != 0)
        return esp_fail(in->err, ESP_FORMAT, "damaged: field '%s' of %s is given twice (byte %llu)",
                        field->name, at->message->short_name, (unsigned long long)start);
    at->singles |= bit;
    return ESP_OK;
}

static esp_status walk_message(wire *in, uint64_t end, const ProtobufCMessageDescriptor *message, int nesting,
                               bool may_cut);

static esp_status walk_nested(wire *in, progress *at, const ProtobufCFieldDescriptor *field, uint64_t start,
                              uint64_t length)
{
    esp_status status = check_single(in, at, field, start);
    bool is_sparse = at->message == &onnx__sparse_tensor_proto__descriptor;

    if (status == ESP_OK)
        status = make_room(in, LONGEST_VARINT + LENGTH_BYTES);
    if (status != ESP_OK)
        return status;
    put_varint(in, (uint64_t)field->id << 3 | WIRE_LENGTH, 1);
    size_t length_at = in->size;
    in->size += LENGTH_BYTES;
    status = walk_message(in, in->position + length, field->descriptor, at->nesting + 1, !is_sparse);
    if (status != ESP_OK)
        return status;
    size_t end_at = in->size;
    if (end_at - length_at > INT32_MAX)
        return esp_fail(in->err, ESP_UNSUPPORTED, "its structure takes more than 2 GiB besides the weights");
    in->size = length_at;
    put_varint(in, end_at - length_at - LENGTH_BYTES, LENGTH_BYTES);
    in->size = end_at;
    return ESP_OK;
}

/* Moves past a field's payload; for a length-delimited one leaves its size in `*length`, at its first byte.
 */
static esp_status read_payload(wire *in, uint64_t end, unsigned wire_type, uint64_t *length)
{
    uint64_t ignored;

    *length = 0;
    if (wire_type == WIRE_VARINT)
        return read_varint(in, end, &ignored);
    if (wire_type == WIRE_LENGTH)
        return read_varint(in, end, length);
    uint64_t width = wire_type == WIRE_64 ? 8 : 4;
    if (end - in->position < width)
        return fail_end(in, end);
    in->position += width;
    return ESP_OK;
}

/* A field whose payload is not a message, or not one we know. */
static esp_status walk_plain(wire *in, progress *at, uint64_t tag, uint64_t start, uint64_t length)
{
    unsigned number = (unsigned)(tag >> 3);
    bool is_data = at->message == &onnx__tensor_proto__descriptor && holds_elements(number) && length > 0;
    bool is_cut = is_data && at->may_cut && length >= CUT_BYTES;
    esp_status status = is_data ? check_pieces(in, at, is_cut, start) : ESP_OK;
    uint64_t payload = in->position;

    in->position += length;
    if (status != ESP_OK || number == CUT_FIELD)
        return status;
    return is_cut ? put_cut(in, number, payload, length) : put_source(in, start, in->position - start);
}

static esp_status walk_field(wire *in, uint64_t end, progress *at)
{
    uint64_t start = in->position, tag = 0, length = 0;
    esp_status status = read_varint(in, end, &tag);

    if (status != ESP_OK)
        return status;
    unsigned wire_type = (unsigned)(tag & 7);
    if (tag >> 3 == 0 || tag >> 3 > CUT_FIELD ||
        (wire_type != WIRE_VARINT && wire_type != WIRE_64 && wire_type != WIRE_LENGTH &&
         wire_type != WIRE_32))
        return fail_tag(in, start, at->message);

    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field(at->message, (unsigned)(tag >> 3));
    if (field && !wire_fits(field, wire_type))
        return esp_fail(
            in->err, ESP_FORMAT,
            "not an ONNX model or damaged: field '%s' of %s at byte %llu has wire type %u, expected %u",
            field->name, at->message->short_name, (unsigned long long)start, wire_type, natural_wire(field));
    status = read_payload(in, end, wire_type, &length);
    if (status != ESP_OK)
        return status;
    if (length > end - in->position)
        return esp_fail(in->err, ESP_FORMAT,
                        "truncated or damaged: field '%s' of %s at byte %llu needs %llu bytes, found %llu",
                        field ? field->name : "?", at->message->short_name, (unsigned long long)start,
                        (unsigned long long)length, (unsigned long long)(end - in->position));
    if (field && field->type == PROTOBUF_C_TYPE_MESSAGE)
        return walk_nested(in, at, field, start, length);
    return walk_plain(in, at, tag, start, length);
}

static esp_status walk_message(wire *in, uint64_t end, const ProtobufCMessageDescriptor *message, int nesting,
                               bool may_cut)
{
    progress at = {.message = message,
                   .nesting = nesting,
                   .may_cut = in->cuts_weights && may_cut && nesting <= CUT_NESTING};

    if (nesting > MAX_NESTING)
        return esp_fail(in->err, ESP_FORMAT, "messages nest deeper than %d levels at byte %llu", MAX_NESTING,
                        (unsigned long long)in->position);
    while (in->position < end) {
        esp_status status = walk_field(in, end, &at);

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

static esp_status unpack(const wire *in, Onnx__ModelProto **out)
{
    bool is_out_of_memory = false;
    ProtobufCAllocator allocator = {message_alloc, message_free, &is_out_of_memory};

    *out = onnx__model_proto__unpack(&allocator, in->size, in->skeleton);
    if (*out)
        return ESP_OK;
    if (is_out_of_memory)
        return esp_fail_memory(in->err, "the model's messages", in->size);
    return esp_fail(in->err, ESP_FORMAT,
                    "not an ONNX model or damaged: its %llu bytes are not a valid protobuf message",
                    (unsigned long long)in->source->size);
}

static esp_status decode(esp_onnx_source *source, bool cuts_weights, Onnx__ModelProto **out, esp_error *err)
{
    wire in = {.source = source, .cuts_weights = cuts_weights, .err = err};

    *out = NULL;
    if (source->size == 0)
        return esp_fail(err, ESP_FORMAT, "the file is empty, expected an ONNX model");
    esp_status status = walk_message(&in, source->size, &onnx__model_proto__descriptor, 0, true);
    if (status == ESP_OK)
        status = unpack(&in, out);
    esp_free(in.skeleton);
    return status;
}

esp_status esp_onnx_source_decode(esp_onnx_source *source, Onnx__ModelProto **out, esp_error *err)
{
    return decode(source, true, out, err);
}

esp_status esp_onnx_model_decode(const uint8_t *data, size_t size, Onnx__ModelProto **out, esp_error *err)
{
    esp_onnx_source source;

    esp_onnx_source_memory(data, size, &source);
    return decode(&source, false, out, err);
}

void esp_onnx_model_free(Onnx__ModelProto *model)
{
    ProtobufCAllocator allocator = {message_alloc, message_free, NULL};

    if (model)
        onnx__model_proto__free_unpacked(model, &allocator);
}

/* The skeleton has one such field at most, and only where the walk put it. */
const esp_onnx_cut *esp_onnx_tensor_cut(const Onnx__TensorProto *proto, const esp_onnx_source *source)
{
    for (size_t i = 0; i < proto->base.n_unknown_fields; i++) {
        const ProtobufCMessageUnknownField *field = &proto->base.unknown_fields[i];
        uint64_t index = 0;

        if (field->tag != CUT_FIELD)
            continue;
        for (size_t k = 0; k < field->len && k < LONGEST_VARINT; k++)
            index |= (uint64_t)(field->data[k] & 0x7f) << (7 * k);
        return index < source->cut_count ? &source->cuts[index] : NULL;
    }
    return NULL;
}
