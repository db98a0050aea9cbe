/* Masks as bit rows: a row is one filter's kept channels, so comparing filters (executed groups) is comparing
 * words, and counting is popcount. Padding bits stay 0: esp_mask_new is the only place that sets bits,
 * everything else clears. A filter axis and a channel axis say where the slices of a weight lie, whatever the
 * stored order. What masks a model carries is in mask_carried.c, how they are noted in mask_notes.c. */
#include "prune/mask.h"

#include <string.h>

#include "base/memory.h"
#include "prune/mask_internal.h"

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

weight_slices mask_slices(const esp_shape *shape, int filter_axis, int channel_axis, int64_t group)
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

int64_t mask_slice_start(const weight_slices *slices, int64_t filter, int64_t channel)
{
    int64_t group = filter / slices->group_filters, own = filter % slices->group_filters;
    return group * slices->group_stride + own * slices->filter_stride + channel * slices->channel_stride;
}

esp_status esp_mask_apply(const esp_mask *mask, const esp_layer *layer, const esp_tensor *weight,
                          esp_tensor **out, esp_error *err)
{
    weight_slices slices =
        mask_slices(esp_tensor_shape(weight), layer->filter_axis, layer->channel_axis, layer->group);
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
                memset(data + mask_slice_start(&slices, f, c), 0, (size_t)slices.length * sizeof *data);
    *out = copy;
    return ESP_OK;
}
