/* Surgery, does a constant reach all places of a convolution's output alike? Where its window lies inside the
 * image the same weights meet the same numbers; near a padded border fewer do. So places fall into classes by
 * the weights that lie inside, one place of each class is looked at, and for constants that are even over
 * their map these are all there is to know. For others a difference found is a difference; none found says
 * nothing. */
#include "prune/surgery_reader.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "graph/ops.h"

enum { MOST_PLACES = 4096 };

/* One place of the output: the weights that lie inside the image, and what they meet. */
typedef struct place {
    int64_t count;
    int64_t *weights; /* positions in the kernel */
    int64_t *pixels;  /* positions in a channel of the input */
} place;

typedef struct places {
    esp_window window;
    int64_t count, kernel_positions;
    place *items;
    int64_t *buffer; /* what the items point into */
} places;

/* Output positions along one axis, one of each class: the first that has its set of weights inside. Along one
 * axis the set is an interval of the kernel, so two ends tell it. `has_borders`: and places near the borders
 * and in the middle, where maps that some padding made differ. Returns how many. */
static int64_t list_classes(const esp_window *window, int axis, bool has_borders, int64_t *out)
{
    int64_t count = 0, last_first = -1, last_end = -1;
    for (int64_t o = 0; o < window->out[axis]; o++) {
        int64_t start = o * window->stride[axis] - window->pad_begin[axis], first = 0, end;
        while (first < window->kernel[axis] && start + first * window->dilation[axis] < 0)
            first++;
        end = first;
        while (end < window->kernel[axis] && start + end * window->dilation[axis] < window->size[axis])
            end++;
        bool is_border = has_borders && (o <= 1 || o == window->out[axis] / 2 || o == window->out[axis] - 1);
        if (first != last_first || end != last_end || is_border)
            out[count++] = o;
        last_first = first;
        last_end = end;
    }
    return count;
}

static void fill_place(const esp_window *window, const int64_t *at, int64_t positions, place *out)
{
    for (int64_t k = 0; k < positions; k++) {
        int64_t rest = k, offset = 0, step = 1;
        bool is_inside = true;
        for (int a = window->axes - 1; a >= 0; a--) {
            int64_t y = at[a] * window->stride[a] - window->pad_begin[a] +
                        rest % window->kernel[a] * window->dilation[a];
            rest /= window->kernel[a];
            is_inside = is_inside && y >= 0 && y < window->size[a];
            offset += y * step;
            step *= window->size[a];
        }
        if (!is_inside)
            continue;
        out->weights[out->count] = k;
        out->pixels[out->count++] = offset;
    }
}

static void places_close(places *it)
{
    esp_free(it->items);
    esp_free(it->buffer);
}

/* No places (count 0) when there are too many classes to be worth it. */
static esp_status places_open(const reader *item, bool is_any_uneven, places *out, esp_error *err)
{
    int64_t counts[ESP_WINDOW_AXES] = {1, 1, 1}, *classes[ESP_WINDOW_AXES] = {NULL};
    int64_t positions = item->layer->kernel_positions, total = 1;
    esp_error ignored = {0};
    places found = {.kernel_positions = positions};
    *out = found;
    if (item->layer->filter_axis > item->layer->channel_axis ||
        esp_op_window(item->node, &item->input_shape, item->layer->kernel, false, &found.window, &ignored) !=
            ESP_OK)
        return ESP_OK;
    esp_status status = ESP_OK;
    for (int a = 0; status == ESP_OK && a < found.window.axes; a++) {
        classes[a] = esp_alloc((size_t)found.window.out[a] + 1, sizeof *classes[a]);
        if (classes[a] == NULL)
            status = esp_fail_memory(err, "surgery", (size_t)found.window.out[a] * sizeof *classes[a]);
        else
            counts[a] = list_classes(&found.window, a, is_any_uneven, classes[a]);
        total *= counts[a];
    }
    if (status == ESP_OK && total > 0 && total <= MOST_PLACES && total * positions <= MOST_PLACES * 64) {
        found.items = esp_alloc_zero((size_t)total, sizeof *found.items);
        found.buffer = esp_alloc_zero((size_t)(2 * total * positions) + 1, sizeof *found.buffer);
        if (found.items == NULL || found.buffer == NULL)
            status = esp_fail_memory(err, "surgery", (size_t)(2 * total * positions) * sizeof *found.buffer);
        else
            found.count = total;
    }
    for (int64_t p = 0; status == ESP_OK && p < found.count; p++) {
        int64_t at[ESP_WINDOW_AXES] = {0}, rest = p;
        for (int a = found.window.axes - 1; a >= 0; a--) {
            at[a] = classes[a][rest % counts[a]];
            rest /= counts[a];
        }
        found.items[p] = (place){0, found.buffer + 2 * p * positions, found.buffer + (2 * p + 1) * positions};
        fill_place(&found.window, at, positions, &found.items[p]);
    }
    for (int a = 0; a < ESP_WINDOW_AXES; a++)
        esp_free(classes[a]);
    if (status == ESP_OK)
        *out = found;
    else
        places_close(&found);
    return status;
}

/* ---- what reaches a filter ---- */

typedef struct tour {
    const reader *item;
    const places *places;
    const float *weight; /* [filters, channels, kernel positions] */
    const float *map;    /* NULL: all channels are even */
    int64_t plane;       /* numbers of a channel */
    int64_t count;
    int64_t *channels; /* needed, not zero */
    double *most;      /* per needed channel: its largest magnitude */
} tour;

static bool is_connected(const tour *it, int64_t filter, int64_t channel)
{
    const esp_layer *layer = it->item->layer;
    return channel / layer->channels == filter / (layer->filters / layer->group) &&
           esp_mask_get(it->item->mask, filter, channel % layer->channels);
}

static const float *slice_of(const tour *it, int64_t filter, int64_t channel)
{
    const esp_layer *layer = it->item->layer;
    return it->weight + (filter * layer->channels + channel % layer->channels) * layer->kernel_positions;
}

/* No place gets more than this. */
static double bound_of(const tour *it, int64_t filter)
{
    double bound = 0;
    for (int64_t i = 0; i < it->count; i++) {
        if (!is_connected(it, filter, it->channels[i]))
            continue;
        const float *slice = slice_of(it, filter, it->channels[i]);
        double sum = 0;
        for (int64_t k = 0; k < it->places->kernel_positions; k++)
            sum += fabs((double)slice[k]);
        bound += sum * it->most[i];
    }
    return bound;
}

static double sum_at(const tour *it, int64_t filter, const place *at)
{
    double sum = 0;
    for (int64_t i = 0; i < it->count; i++) {
        int64_t channel = it->channels[i];
        if (!is_connected(it, filter, channel))
            continue;
        const float *slice = slice_of(it, filter, channel);
        double even = (double)it->item->values->low[channel];
        for (int64_t k = 0; k < at->count; k++)
            sum += (double)slice[at->weights[k]] *
                   (it->map != NULL ? (double)it->map[channel * it->plane + at->pixels[k]] : even);
    }
    return sum;
}

static void compare(const tour *it, bool is_any_uneven, bool *varies, bool *is_decided)
{
    const channel_list *filters = it->item->filters;
    double bound = 0, scale = 0, worst = 0;
    for (int64_t i = 0; i < filters->count; i++)
        bound = fmax(bound, bound_of(it, filters->indices[i]));
    for (int64_t i = 0; i < filters->count; i++) {
        double low = INFINITY, high = -INFINITY;
        for (int64_t p = 0; p < it->places->count; p++) {
            double sum = sum_at(it, filters->indices[i], &it->places->items[p]);
            low = fmin(low, sum);
            high = fmax(high, sum);
        }
        worst = fmax(worst, high - low);
        scale = fmax(scale, fmax(fabs(low), fabs(high)));
        if (worst > SURGERY_SAME_TOLERANCE * bound) { /* and so of any scale: enough is known */
            *varies = *is_decided = true;
            return;
        }
    }
    *is_decided = !is_any_uneven;
    *varies = worst > SURGERY_SAME_TOLERANCE * scale;
}

static esp_status tour_open(const surgery *self, const reader *item, const places *found, tour *out,
                            esp_error *err)
{
    size_t most = (size_t)item->input.count;
    tour it = {.item = item,
               .places = found,
               .weight = esp_tensor_f32(surgery_weight(self, item->layer)),
               .plane = 1,
               .channels = esp_alloc(most + 1, sizeof *it.channels),
               .most = esp_alloc(most + 1, sizeof *it.most)};
    if (it.channels == NULL || it.most == NULL) {
        esp_free(it.channels);
        esp_free(it.most);
        return esp_fail_memory(err, "surgery", most * sizeof *it.channels);
    }
    for (int a = 2; a < item->input_shape.rank; a++)
        it.plane *= item->input_shape.dims[a];
    if (item->values->map != NULL)
        it.map = esp_tensor_f32(item->values->map);
    for (int64_t c = 0; c < item->input.count; c++) {
        if (!item->is_needed[c] || item->is_zero[c])
            continue;
        it.most[it.count] = fmax(fabs((double)item->values->low[c]), fabs((double)item->values->high[c]));
        it.channels[it.count++] = c;
    }
    *out = it;
    return ESP_OK;
}

esp_status surgery_reader_varies(const surgery *self, const reader *item, bool is_any_uneven, bool *varies,
                                 bool *is_decided, esp_error *err)
{
    places found;
    tour it = {0};
    *is_decided = false;
    if (!item->layer->is_conv || item->values->low == NULL)
        return ESP_OK;
    esp_status status = places_open(item, is_any_uneven, &found, err);
    if (status != ESP_OK || found.count == 0)
        return status;
    if (found.count == 1 && !is_any_uneven) { /* nothing is outside anywhere */
        *varies = false;
        *is_decided = true;
    } else {
        status = tour_open(self, item, &found, &it, err);
        if (status == ESP_OK) {
            compare(&it, is_any_uneven, varies, is_decided);
            esp_free(it.channels);
            esp_free(it.most);
        }
    }
    places_close(&found);
    return status;
}
