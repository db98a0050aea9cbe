/* Masks as bit rows: a row is one filter's kept channels, so comparing filters (executed groups) is comparing
 * words, and counting is popcount. Padding bits stay 0: esp_mask_new is the only place that sets bits,
 * everything else clears.
 *
 * A model carries its masks in the weights themselves: a (filter, channel) slice that is all zero in a layer
 * named by the metadata is masked. A filter axis and a channel axis say where slices lie, whatever the stored
 * order. */
#include "prune/mask.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "graph/op.h"

#define WORD_BITS 64

/* ---- bits ---- */

static uint64_t *row_of(const esp_mask *mask, int64_t filter)
{
    return mask->words + filter * mask->row_words;
}

esp_status esp_mask_new(int64_t filters, int64_t channels, esp_mask *out, esp_error *err)
{
    esp_mask mask = {filters, channels, (channels + WORD_BITS - 1) / WORD_BITS, NULL};
    int64_t tail = channels % WORD_BITS;

    *out = (esp_mask){0};
    mask.words = esp_alloc((size_t)(filters * mask.row_words), sizeof *mask.words);
    if (!mask.words)
        return esp_fail_memory(err, "a mask", (size_t)(filters * mask.row_words) * sizeof *mask.words);
    memset(mask.words, 0xff, (size_t)(filters * mask.row_words) * sizeof *mask.words);
    if (tail)
        for (int64_t f = 0; f < filters; f++)
            row_of(&mask, f)[mask.row_words - 1] = ((uint64_t)1 << tail) - 1;
    *out = mask;
    return ESP_OK;
}

esp_status esp_mask_clone(const esp_mask *mask, esp_mask *out, esp_error *err)
{
    size_t words = (size_t)(mask->filters * mask->row_words);
    uint64_t *copy = esp_alloc(words, sizeof *copy);

    *out = (esp_mask){0};
    if (!copy)
        return esp_fail_memory(err, "a mask", words * sizeof *copy);
    if (words)
        memcpy(copy, mask->words, words * sizeof *copy);
    *out = *mask;
    out->words = copy;
    return ESP_OK;
}

void esp_mask_free(esp_mask *mask)
{
    if (!mask)
        return;
    esp_free(mask->words);
    *mask = (esp_mask){0};
}

bool esp_mask_get(const esp_mask *mask, int64_t filter, int64_t channel)
{
    return row_of(mask, filter)[channel / WORD_BITS] >> (channel % WORD_BITS) & 1;
}

void esp_mask_clear(esp_mask *mask, int64_t filter, int64_t channel)
{
    row_of(mask, filter)[channel / WORD_BITS] &= ~((uint64_t)1 << (channel % WORD_BITS));
}

void esp_mask_clear_filter(esp_mask *mask, int64_t filter)
{
    memset(row_of(mask, filter), 0, (size_t)mask->row_words * sizeof *mask->words);
}

void esp_mask_clear_channel(esp_mask *mask, int64_t channel)
{
    for (int64_t f = 0; f < mask->filters; f++)
        esp_mask_clear(mask, f, channel);
}

int64_t esp_mask_filter_kept(const esp_mask *mask, int64_t filter)
{
    const uint64_t *row = row_of(mask, filter);
    int64_t kept = 0;

    for (int64_t w = 0; w < mask->row_words; w++)
        kept += __builtin_popcountll(row[w]);
    return kept;
}

bool esp_mask_filter_is_live(const esp_mask *mask, int64_t filter)
{
    const uint64_t *row = row_of(mask, filter);

    for (int64_t w = 0; w < mask->row_words; w++)
        if (row[w])
            return true;
    return false;
}

int64_t esp_mask_channels_read(const esp_mask *mask)
{
    int64_t read = 0;

    for (int64_t w = 0; w < mask->row_words; w++) {
        uint64_t any = 0;
        for (int64_t f = 0; f < mask->filters; f++)
            any |= row_of(mask, f)[w];
        read += __builtin_popcountll(any);
    }
    return read;
}

int64_t esp_mask_kept(const esp_mask *mask)
{
    int64_t kept = 0;

    for (int64_t f = 0; f < mask->filters; f++)
        kept += esp_mask_filter_kept(mask, f);
    return kept;
}

bool esp_mask_channel_is_read(const esp_mask *mask, int64_t channel)
{
    for (int64_t f = 0; f < mask->filters; f++)
        if (esp_mask_get(mask, f, channel))
            return true;
    return false;
}

bool esp_mask_rows_equal(const esp_mask *mask, int64_t a, int64_t b)
{
    return memcmp(row_of(mask, a), row_of(mask, b), (size_t)mask->row_words * sizeof *mask->words) == 0;
}

bool esp_mask_equal(const esp_mask *a, const esp_mask *b)
{
    if (a->filters != b->filters || a->channels != b->channels)
        return false;
    return memcmp(a->words, b->words, (size_t)(a->filters * a->row_words) * sizeof *a->words) == 0;
}

int64_t esp_mask_executed_groups(const esp_mask *mask, int32_t *groups)
{
    int32_t count = 0;

    for (int64_t f = 0; f < mask->filters; f++) {
        int32_t seen = 0; /* groups whose first row was passed: only those need comparing */
        groups[f] = count;
        for (int64_t first = 0; groups[f] == count && seen < count; first++)
            if (groups[first] == seen) {
                seen++;
                if (esp_mask_rows_equal(mask, first, f))
                    groups[f] = groups[first];
            }
        count += groups[f] == count;
    }
    return count;
}

char *esp_mask_row_text(const esp_mask *mask, int64_t filter, char *buffer)
{
    for (int64_t c = 0; c < mask->channels; c++)
        buffer[c] = esp_mask_get(mask, filter, c) ? '1' : '0';
    buffer[mask->channels] = '\0';
    return buffer;
}

/* ---- slices of a stored weight ---- */

/* Where the slice (filter, channel) of a weight lies: `length` elements. Groups of a transposed convolution
 * ([channels of all groups, filters of one, kernel]) lie one behind the other: filter f is number f %
 * group_filters of group f / group_filters. */
typedef struct weight_slices {
    int64_t filters, channels;
    int64_t filter_stride, channel_stride, length;
    int64_t group_filters, group_stride;
} weight_slices;

static weight_slices slices_of(const esp_shape *shape, int filter_axis, int channel_axis, int64_t group)
{
    int64_t strides[ESP_MAX_RANK];
    weight_slices slices = {.filters = shape->dims[filter_axis], .channels = shape->dims[channel_axis]};

    esp_shape_strides(shape, strides);
    slices.filter_stride = strides[filter_axis];
    slices.channel_stride = strides[channel_axis];
    slices.group_filters = slices.filters;
    if (filter_axis > channel_axis && group > 1) {
        slices.filters *= group;
        slices.channels /= group;
        slices.group_stride = slices.channels * slices.channel_stride;
    }
    slices.length = 1; /* the kernel positions: all axes after both */
    for (int axis = (filter_axis > channel_axis ? filter_axis : channel_axis) + 1; axis < shape->rank; axis++)
        slices.length *= shape->dims[axis];
    return slices;
}

static int64_t slice_start(const weight_slices *slices, int64_t filter, int64_t channel)
{
    int64_t group = filter / slices->group_filters, own = filter % slices->group_filters;
    return group * slices->group_stride + own * slices->filter_stride + channel * slices->channel_stride;
}

static bool slice_is_zero(const float *slice, int64_t length)
{
    for (int64_t i = 0; i < length; i++)
        if (slice[i] != 0)
            return false;
    return true;
}

/* Clears what is all zero in a weight. */
static void clear_zero_slices(const weight_slices *slices, const float *data, esp_mask *mask)
{
    for (int64_t f = 0; f < slices->filters; f++)
        for (int64_t c = 0; c < slices->channels; c++)
            if (slice_is_zero(data + slice_start(slices, f, c), slices->length))
                esp_mask_clear(mask, f, c);
}

esp_status esp_mask_apply(const esp_mask *mask, const esp_layer *layer, const esp_tensor *weight,
                          esp_tensor **out, esp_error *err)
{
    weight_slices slices =
        slices_of(esp_tensor_shape(weight), layer->filter_axis, layer->channel_axis, layer->group);
    esp_tensor *copy;
    float *data;
    esp_status status;

    *out = NULL;
    if (slices.filters != mask->filters || slices.channels != mask->channels)
        return esp_fail(err, ESP_SHAPE, "layer '%s': the mask is %lldx%lld, its weight has %lldx%lld slices",
                        layer->name, (long long)mask->filters, (long long)mask->channels,
                        (long long)slices.filters, (long long)slices.channels);
    status = esp_tensor_clone(weight, &copy, err);
    if (status != ESP_OK)
        return status;
    data = esp_tensor_f32_mut(copy);
    for (int64_t f = 0; f < mask->filters; f++)
        for (int64_t c = 0; c < mask->channels; c++)
            if (!esp_mask_get(mask, f, c))
                memset(data + slice_start(&slices, f, c), 0, (size_t)slices.length * sizeof *data);
    *out = copy;
    return ESP_OK;
}

/* ---- what a model carries ---- */

/* The array of weight names in the metadata; NULL when there is none. */
static esp_status load_names(const esp_graph *graph, json_t **out, esp_error *err)
{
    const char *text = esp_graph_metadata(graph, ESP_MASKS_KEY);
    json_t *names, *name;
    size_t index;
    esp_status status;

    *out = NULL;
    if (!text)
        return ESP_OK;
    status = esp_json_parse(text, "metadata '" ESP_MASKS_KEY "'", &names, err);
    if (status != ESP_OK)
        return status;
    bool is_list = json_is_array(names);
    json_array_foreach(names, index, name) is_list = is_list && json_is_string(name);
    if (!is_list) {
        json_decref(names);
        return esp_fail(err, ESP_FORMAT, "metadata '" ESP_MASKS_KEY "': expected an array of weight names");
    }
    *out = names;
    return ESP_OK;
}

static bool names_hold(const json_t *names, const char *name)
{
    json_t *item;
    size_t index;

    json_array_foreach(names, index, item) if (strcmp(json_string_value(item), name) == 0) return true;
    return false;
}

esp_status esp_mask_of_layer(const esp_graph *graph, const esp_layer *layer, esp_mask *out, esp_error *err)
{
    const esp_tensor *weight = esp_graph_value(graph, layer->weight)->constant;
    esp_mask mask = {0};
    json_t *names = NULL;
    esp_status status;

    *out = (esp_mask){0};
    status = load_names(graph, &names, err);
    if (status == ESP_OK)
        status = esp_mask_new(layer->filters, layer->channels, &mask, err);
    if (status != ESP_OK || !names || !weight || esp_tensor_dtype(weight) != ESP_F32 ||
        !names_hold(names, layer->weight_name))
        goto done;

    weight_slices slices =
        slices_of(esp_tensor_shape(weight), layer->filter_axis, layer->channel_axis, layer->group);
    clear_zero_slices(&slices, esp_tensor_f32(weight), &mask);

done:
    json_decref(names);
    if (status == ESP_OK)
        *out = mask;
    return status;
}

/* How the layer that uses a constant as its weight stores it, and in how many groups; false when no layer
 * does. */
static bool find_form(const esp_graph *graph, int value, esp_layer_form *form, int64_t *group)
{
    const esp_tensor *weight = esp_graph_value(graph, value)->constant;

    if (!weight || esp_tensor_dtype(weight) != ESP_F32)
        return false;
    for (int i = 0; i < esp_graph_consumer_count(graph, value); i++) {
        const esp_node *node = esp_graph_node(graph, esp_graph_consumer(graph, value, i));
        if (node->op->layer && node->op->layer(node, form) && form->weight_input < node->input_count &&
            node->inputs[form->weight_input] == value) {
            int rank = esp_tensor_shape(weight)->rank;
            *group = form->is_conv ? esp_node_int(node, "group", 1) : 1;
            return form->is_conv ? rank > 2 : rank == 2;
        }
    }
    return false;
}

static esp_status hold_value(const esp_tensor *weight, const esp_layer_form *form, int64_t group,
                             uint8_t **out, esp_error *err)
{
    weight_slices slices = slices_of(esp_tensor_shape(weight), form->filter_axis, form->channel_axis, group);
    int64_t count = esp_tensor_elements(weight);
    uint8_t *keep = esp_alloc((size_t)count, 1);
    esp_mask mask;
    esp_status status = keep ? esp_mask_new(slices.filters, slices.channels, &mask, err)
                             : esp_fail_memory(err, "a held mask", (size_t)count);

    if (status != ESP_OK) {
        esp_free(keep);
        return status;
    }
    clear_zero_slices(&slices, esp_tensor_f32(weight), &mask);
    for (int64_t f = 0; f < slices.filters; f++)
        for (int64_t c = 0; c < slices.channels; c++)
            memset(keep + slice_start(&slices, f, c), esp_mask_get(&mask, f, c), (size_t)slices.length);
    esp_mask_free(&mask);
    *out = keep;
    return ESP_OK;
}

esp_status esp_held_masks_of(const esp_graph *graph, esp_held_masks *out, esp_error *err)
{
    esp_held_masks masks = {0};
    json_t *names = NULL, *name;
    size_t index;
    esp_status status;

    *out = (esp_held_masks){0};
    status = load_names(graph, &names, err);
    if (status != ESP_OK || !names)
        return status;
    masks.items = esp_alloc_zero(json_array_size(names), sizeof *masks.items);
    if (!masks.items)
        status = esp_fail_memory(err, "held masks", json_array_size(names) * sizeof *masks.items);

    for (index = 0; status == ESP_OK && index < json_array_size(names); index++) {
        name = json_array_get(names, index);
        int value = esp_graph_find_value(graph, json_string_value(name));
        esp_layer_form form;
        int64_t group = 1;
        uint8_t *keep = NULL;
        /* A name that other tools left behind after they dropped or renamed the layer holds nothing. */
        if (value < 0 || !find_form(graph, value, &form, &group))
            continue;
        status = hold_value(esp_graph_value(graph, value)->constant, &form, group, &keep, err);
        if (status == ESP_OK)
            masks.items[masks.count++] = (esp_weight_mask){value, keep};
    }

    json_decref(names);
    if (status == ESP_OK)
        *out = masks;
    else
        esp_held_masks_free(&masks);
    return status;
}

void esp_held_masks_free(esp_held_masks *masks)
{
    if (!masks)
        return;
    for (int i = 0; i < masks->count; i++)
        esp_free((void *)(uintptr_t)masks->items[i].keep);
    esp_free(masks->items);
    *masks = (esp_held_masks){0};
}
