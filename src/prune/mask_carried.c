/* What masks a model carries: weights with zeros, the names of the layers in its metadata, and a note of the
 * bits. Noted bits tell masks from slices that training made zero. Files of other programs, and of older
 * versions, have names alone: there every slice that is all zero is masked. */
#include "prune/mask.h"

#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "graph/op.h"
#include "prune/mask_internal.h"

/* What the metadata says. */
typedef struct carried_notes {
    json_t *names; /* array of weight names; NULL: no masks */
    json_t *root;  /* what `masks` is part of */
    json_t *masks; /* by name; NULL: nothing is noted */
} carried_notes;

static void notes_close(carried_notes *notes)
{
    json_decref(notes->names);
    json_decref(notes->root);
    *notes = (carried_notes){0};
}

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

/* Bits that a later version notes in a way we do not know are as good as none. */
static esp_status load_bits(const esp_graph *graph, carried_notes *notes, esp_error *err)
{
    const char *text = esp_graph_metadata(graph, ESP_MASK_BITS_KEY);
    esp_status status;

    if (!text)
        return ESP_OK;
    status = esp_json_parse(text, "metadata '" ESP_MASK_BITS_KEY "'", &notes->root, err);
    if (status != ESP_OK)
        return status;
    if (!json_is_integer(json_object_get(notes->root, "version")))
        return esp_fail(err, ESP_FORMAT,
                        "metadata '" ESP_MASK_BITS_KEY "': expected an object with a version");
    if (json_integer_value(json_object_get(notes->root, "version")) == MASK_BITS_VERSION)
        notes->masks = json_object_get(notes->root, "masks");
    return ESP_OK;
}

static esp_status notes_open(const esp_graph *graph, carried_notes *out, esp_error *err)
{
    carried_notes notes = {0};
    esp_status status = load_names(graph, &notes.names, err);

    if (status == ESP_OK && notes.names)
        status = load_bits(graph, &notes, err);
    if (status == ESP_OK)
        *out = notes;
    else
        notes_close(&notes);
    return status;
}

static bool names_hold(const json_t *names, const char *name)
{
    json_t *item;
    size_t index;

    json_array_foreach(names, index, item) if (strcmp(json_string_value(item), name) == 0) return true;
    return false;
}

/* ---- masks ---- */

static bool slice_is_zero(const float *slice, int64_t length)
{
    for (int64_t i = 0; i < length; i++)
        if (slice[i] != 0)
            return false;
    return true;
}

/* The mask of a weight by its zeros and by what is noted of it (NULL: nothing). A slice that somebody gave
 * numbers since is masked no longer, whatever the note says. */
static esp_status clear_masked(const weight_slices *slices, const float *data, const json_t *note,
                               esp_mask *mask, esp_error *err)
{
    esp_mask noted;
    esp_status status = esp_mask_new(slices->filters, slices->channels, &noted, err);

    if (status != ESP_OK)
        return status;
    bool is_noted = note && mask_clear_noted(note, &noted);
    for (int64_t f = 0; f < slices->filters; f++)
        for (int64_t c = 0; c < slices->channels; c++) {
            if (is_noted && esp_mask_get(&noted, f, c))
                continue;
            if (slice_is_zero(data + mask_slice_start(slices, f, c), slices->length))
                esp_mask_clear(mask, f, c);
        }
    esp_mask_free(&noted);
    return ESP_OK;
}

static esp_status mask_of(const esp_graph *graph, const esp_layer *layer, const carried_notes *notes,
                          esp_mask *out, esp_error *err)
{
    const esp_tensor *weight = esp_graph_value(graph, layer->weight)->constant;
    esp_status status = esp_mask_new(layer->filters, layer->channels, out, err);

    if (status != ESP_OK || !notes->names || !weight || esp_tensor_dtype(weight) != ESP_F32 ||
        !names_hold(notes->names, layer->weight_name))
        return status;
    weight_slices slices =
        mask_slices(esp_tensor_shape(weight), layer->filter_axis, layer->channel_axis, layer->group);
    status = clear_masked(&slices, esp_tensor_f32(weight), json_object_get(notes->masks, layer->weight_name),
                          out, err);
    if (status != ESP_OK)
        esp_mask_free(out);
    return status;
}

esp_status esp_mask_of_layer(const esp_graph *graph, const esp_layer *layer, esp_mask *out, esp_error *err)
{
    carried_notes notes;
    esp_status status;

    *out = (esp_mask){0};
    status = notes_open(graph, &notes, err);
    if (status != ESP_OK)
        return status;
    status = mask_of(graph, layer, &notes, out, err);
    notes_close(&notes);
    return status;
}

esp_status esp_masks_of_layers(const esp_graph *graph, const esp_layers *layers, esp_mask *out,
                               esp_error *err)
{
    carried_notes notes;
    esp_status status;

    memset(out, 0, (size_t)layers->count * sizeof *out);
    status = notes_open(graph, &notes, err);
    if (status != ESP_OK)
        return status;
    for (int l = 0; status == ESP_OK && l < layers->count; l++)
        status = mask_of(graph, &layers->items[l], &notes, &out[l], err);
    for (int l = 0; status != ESP_OK && l < layers->count; l++)
        esp_mask_free(&out[l]);
    notes_close(&notes);
    return status;
}

esp_status esp_masks_are_left_over(const esp_graph *graph, bool *out, esp_error *err)
{
    carried_notes notes;
    esp_status status = notes_open(graph, &notes, err);

    if (status != ESP_OK)
        return status;
    *out = json_is_true(json_object_get(notes.root, "is_cut"));
    notes_close(&notes);
    return ESP_OK;
}

/* ---- what training holds ---- */

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
                             const json_t *note, uint8_t **out, esp_error *err)
{
    weight_slices slices =
        mask_slices(esp_tensor_shape(weight), form->filter_axis, form->channel_axis, group);
    int64_t count = esp_tensor_elements(weight);
    uint8_t *keep = esp_alloc((size_t)count, 1);
    esp_mask mask = {0};
    esp_status status = keep ? esp_mask_new(slices.filters, slices.channels, &mask, err)
                             : esp_fail_memory(err, "a held mask", (size_t)count);

    if (status == ESP_OK)
        status = clear_masked(&slices, esp_tensor_f32(weight), note, &mask, err);
    if (status != ESP_OK) {
        esp_mask_free(&mask);
        esp_free(keep);
        return status;
    }
    for (int64_t f = 0; f < slices.filters; f++)
        for (int64_t c = 0; c < slices.channels; c++)
            memset(keep + mask_slice_start(&slices, f, c), esp_mask_get(&mask, f, c), (size_t)slices.length);
    esp_mask_free(&mask);
    *out = keep;
    return ESP_OK;
}

esp_status esp_held_masks_of(const esp_graph *graph, esp_held_masks *out, esp_error *err)
{
    esp_held_masks masks = {0};
    carried_notes notes;
    esp_status status;

    *out = (esp_held_masks){0};
    status = notes_open(graph, &notes, err);
    if (status != ESP_OK || !notes.names)
        return status;
    masks.items = esp_alloc_zero(json_array_size(notes.names), sizeof *masks.items);
    if (!masks.items)
        status = esp_fail_memory(err, "held masks", json_array_size(notes.names) * sizeof *masks.items);

    for (size_t index = 0; status == ESP_OK && index < json_array_size(notes.names); index++) {
        const char *name = json_string_value(json_array_get(notes.names, index));
        int value = esp_graph_find_value(graph, name);
        esp_layer_form form;
        int64_t group = 1;
        uint8_t *keep = NULL;
        /* A name that other tools left behind after they dropped or renamed the layer holds nothing. */
        if (value < 0 || !find_form(graph, value, &form, &group))
            continue;
        status = hold_value(esp_graph_value(graph, value)->constant, &form, group,
                            json_object_get(notes.masks, name), &keep, err);
        if (status == ESP_OK)
            masks.items[masks.count++] = (esp_weight_mask){value, keep};
    }

    notes_close(&notes);
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
