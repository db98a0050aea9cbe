/* Normalisation travels with the model as one line of JSON in its metadata, so that a file says how its
 * images are to be fed. Numbers are written with the fewest decimal digits that read back to the same float.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "train/data.h"

/* Defaults for models that say nothing: torchvision's ImageNet constants, and Fashion-MNIST's own for grey
 * images. */
static const float imagenet_mean[3] = {0.485f, 0.456f, 0.406f};
static const float imagenet_std[3] = {0.229f, 0.224f, 0.225f};

static void set_default(int channels, esp_normalization *out)
{
    *out = (esp_normalization){.channels = channels, .origin = ESP_NORM_DEFAULT};
    for (int c = 0; c < channels; c++) {
        out->mean[c] = channels == 3 ? imagenet_mean[c] : channels == 1 ? 0.2860f : 0.5f;
        out->std[c] = channels == 3 ? imagenet_std[c] : channels == 1 ? 0.3530f : 0.5f;
    }
}

/* ---- from metadata ---- */

/* Reads the list under `key`, each number times `factor`. */
static esp_status read_list(const json_t *object, const char *key, int channels, double factor, float *out,
                            esp_error *err)
{
    const json_t *list = json_object_get(object, key);
    if (!json_is_array(list)) {
        return esp_fail(err, ESP_FORMAT, "metadata '%s': no list '%s'", ESP_NORMALIZATION_KEY, key);
    }
    if (json_array_size(list) != (size_t)channels) {
        return esp_fail(err, ESP_FORMAT,
                        "metadata '%s': '%s' has %zu numbers, but the images have %d channels",
                        ESP_NORMALIZATION_KEY, key, json_array_size(list), channels);
    }
    for (int c = 0; c < channels; c++) {
        const json_t *number = json_array_get(list, (size_t)c);
        out[c] = (float)(json_number_value(number) * factor);
        if (!json_is_number(number) || !isfinite(out[c])) {
            return esp_fail(err, ESP_FORMAT, "metadata '%s': entry %d of '%s' is not a finite number",
                            ESP_NORMALIZATION_KEY, c + 1, key);
        }
    }
    return ESP_OK;
}

static esp_status read_metadata(const json_t *object, int channels, esp_normalization *out, esp_error *err)
{
    const json_t *scale = json_object_get(object, "scale");
    double full = scale == NULL ? 255.0 : json_number_value(scale);
    if (!isfinite(full) || full <= 0.0) {
        return esp_fail(err, ESP_FORMAT, "metadata '%s': 'scale' is not a number > 0", ESP_NORMALIZATION_KEY);
    }
    /* (pixel/scale - mean) / std is the same as (pixel/255 - mean*scale/255) / (std*scale/255). */
    double factor = full / 255.0;
    esp_normalization read = {.channels = channels, .origin = ESP_NORM_FROM_MODEL};
    esp_status status = read_list(object, "mean", channels, factor, read.mean, err);
    if (status == ESP_OK) {
        status = read_list(object, "std", channels, factor, read.std, err);
    }
    for (int c = 0; status == ESP_OK && c < channels; c++) {
        if (read.std[c] <= 0.0f) {
            status = esp_fail(err, ESP_FORMAT, "metadata '%s': entry %d of 'std' is %g, expected > 0",
                              ESP_NORMALIZATION_KEY, c + 1, (double)read.std[c]);
        }
    }
    if (status == ESP_OK) {
        *out = read;
    }
    return status;
}

esp_status esp_normalization_of(const esp_graph *graph, int channels, esp_normalization *out, esp_error *err)
{
    if (channels < 1 || channels > ESP_MAX_IMAGE_CHANNELS) {
        return esp_fail(err, ESP_INVALID, "normalisation: %d channels, expected 1 to %d", channels,
                        ESP_MAX_IMAGE_CHANNELS);
    }
    const char *text = esp_graph_metadata(graph, ESP_NORMALIZATION_KEY);
    if (text == NULL) {
        set_default(channels, out);
        return ESP_OK;
    }
    json_t *object = NULL;
    esp_status status = esp_json_parse(text, "metadata '" ESP_NORMALIZATION_KEY "'", &object, err);
    if (status == ESP_OK) {
        status = read_metadata(object, channels, out, err);
    }
    json_decref(object);
    return status;
}

/* ---- from the user ---- */

/* Up to `max` numbers between commas; `*count` is how many there are. */
static esp_status parse_numbers(const char *what, const char *text, int max, float *out, int *count,
                                esp_error *err)
{
    *count = 0;
    for (const char *piece = text;; piece++) {
        size_t length = strcspn(piece, ",");
        char number[64];
        double value = 0.0;
        bool is_number = length < sizeof(number);
        if (is_number) {
            memcpy(number, piece, length);
            number[length] = '\0';
            is_number = esp_parse_f64(number, &value) && isfinite((float)value);
        }
        if (!is_number) {
            return esp_fail(err, ESP_INVALID, "%s '%s': '%.*s' is not a number", what, text, (int)length,
                            piece);
        }
        if (*count < max) {
            out[*count] = (float)value;
        }
        (*count)++;
        piece += length;
        if (*piece == '\0') {
            return ESP_OK;
        }
    }
}

static esp_status parse_channels(const char *what, const char *text, int channels, float *out, esp_error *err)
{
    int count = 0;
    esp_status status = parse_numbers(what, text, channels, out, &count, err);
    if (status != ESP_OK) {
        return status;
    }
    if (count != 1 && count != channels) {
        return esp_fail(err, ESP_INVALID, "%s '%s': %d numbers, expected 1 or %d (one per channel)", what,
                        text, count, channels);
    }
    for (int c = count; c < channels; c++) {
        out[c] = out[0];
    }
    return ESP_OK;
}

esp_status esp_normalization_override(esp_normalization *out, const char *mean, const char *std,
                                      esp_error *err)
{
    esp_normalization changed = *out;
    esp_status status = ESP_OK;
    if (mean != NULL) {
        status = parse_channels("mean", mean, changed.channels, changed.mean, err);
    }
    if (status == ESP_OK && std != NULL) {
        status = parse_channels("std", std, changed.channels, changed.std, err);
    }
    for (int c = 0; status == ESP_OK && c < changed.channels; c++) {
        if (changed.std[c] <= 0.0f) {
            status = esp_fail(err, ESP_INVALID, "std '%s': %g for channel %d, expected > 0", std,
                              (double)changed.std[c], c);
        }
    }
    if (status == ESP_OK && (mean != NULL || std != NULL)) {
        changed.origin = ESP_NORM_FROM_USER;
        *out = changed;
    }
    return status;
}

/* ---- into metadata ---- */

/* The shortest decimal that is this float again: 0.485, not 0.48500001430511475. */
static double tidy(float value)
{
    double found = (double)value;
    for (int digits = 1; digits <= 9; digits++) {
        char text[48];
        snprintf(text, sizeof(text), "%.*g", digits, (double)value);
        found = strtod(text, NULL); /* reads the locale's decimal sign, which snprintf has just written */
        if ((float)found == value) {
            break;
        }
    }
    return found;
}

static json_t *list_of(const float *values, int count)
{
    json_t *list = json_array();
    for (int c = 0; c < count && list != NULL; c++) {
        if (json_array_append_new(list, json_real(tidy(values[c]))) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

esp_status esp_normalization_store(const esp_graph *graph, const esp_normalization *normalization,
                                   esp_graph **out, esp_error *err)
{
    *out = NULL;
    json_t *object = json_object();
    /* A NULL member makes the setter fail, so one check covers every allocation. */
    bool is_full =
        object != NULL &&
        json_object_set_new(object, "mean", list_of(normalization->mean, normalization->channels)) == 0 &&
        json_object_set_new(object, "scale", json_integer(255)) == 0 &&
        json_object_set_new(object, "std", list_of(normalization->std, normalization->channels)) == 0;
    char *text = is_full ? esp_json_dump(object, 1) : NULL;
    esp_status status = text == NULL ? esp_fail_memory(err, "the normalisation's text", 0)
                                     : esp_graph_with_metadata(graph, ESP_NORMALIZATION_KEY, text, out, err);
    esp_free(text);
    json_decref(object);
    return status;
}
