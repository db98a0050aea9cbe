/* Parts of a set: which images of it, with their labels, over the set's own images. A part of a part is a
 * part of the root, so images are never more than one step away. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "train/data_internal.h"

/* The images `indices[0..count)` of `source`, or its first `count` when `indices` is NULL. */
static esp_status make_part(const esp_dataset *source, const uint32_t *indices, int64_t count,
                            const char *kind, esp_dataset **out, esp_error *err)
{
    char note[256];
    snprintf(note, sizeof(note), "%" PRId64 " of %" PRId64 " images, %s", count, source->count, kind);
    esp_dataset *part = NULL;
    esp_status status = esp_dataset_make(source->name, note, count, source->channels, source->height,
                                         source->width, source->class_count, &part, err);
    if (status != ESP_OK) {
        return status;
    }
    part->root = esp_dataset_ref(esp_dataset_root(source));
    part->picks = esp_alloc((size_t)count, sizeof(*part->picks));
    if (part->picks == NULL) {
        esp_dataset_unref(part);
        return esp_fail_memory(err, "a part of a dataset", (size_t)count * sizeof(*part->picks));
    }
    for (int64_t i = 0; i < count; i++) {
        int64_t from = indices == NULL ? i : indices[i];
        part->picks[i] = source->picks != NULL ? source->picks[from] : (uint32_t)from;
        part->labels[i] = source->labels[from];
    }
    *out = part;
    return ESP_OK;
}

/* Hands out `count` places one class at a time, in turns, to classes that have images left. */
static void share_places(const int64_t *available, int class_count, int64_t count, int64_t *quota)
{
    while (count > 0) {
        for (int c = 0; c < class_count && count > 0; c++) {
            if (quota[c] < available[c]) {
                quota[c]++;
                count--;
            }
        }
    }
}

/* The images of a set in seeded random order, the number of each class, and room for as many quotas. */
typedef struct shuffled {
    uint32_t *order;
    int64_t *available, *quota;
} shuffled;

static void shuffled_free(shuffled *s)
{
    esp_free(s->quota);
    esp_free(s->available);
    esp_free(s->order);
}

static esp_status shuffled_make(const esp_dataset *dataset, uint64_t seed, shuffled *out, esp_error *err)
{
    size_t classes = (size_t)dataset->class_count;
    *out = (shuffled){
        .order = esp_alloc((size_t)dataset->count, sizeof(*out->order)),
        .available = esp_alloc_zero(classes, sizeof(*out->available)),
        .quota = esp_alloc_zero(classes, sizeof(*out->quota)),
    };
    if (out->order == NULL || out->available == NULL || out->quota == NULL) {
        shuffled_free(out);
        return esp_fail_memory(err, "a subset", (size_t)dataset->count * sizeof(*out->order));
    }
    for (int64_t i = 0; i < dataset->count; i++) {
        out->order[i] = (uint32_t)i;
        out->available[dataset->labels[i]]++;
    }
    esp_rng rng;
    esp_rng_seed(&rng, seed);
    esp_rng_shuffle(&rng, out->order, (size_t)dataset->count);
    return ESP_OK;
}

esp_status esp_dataset_subset(const esp_dataset *dataset, int64_t count, uint64_t seed, esp_dataset **out,
                              esp_error *err)
{
    *out = NULL;
    if (count < 1) {
        return esp_fail(err, ESP_INVALID, "dataset '%s': subset of %" PRId64 " images, expected at least 1",
                        dataset->name, count);
    }
    count = count < dataset->count ? count : dataset->count;
    shuffled s;
    esp_status status = shuffled_make(dataset, seed, &s, err);
    if (status != ESP_OK) {
        return status;
    }
    share_places(s.available, dataset->class_count, count, s.quota);
    int64_t taken = 0; /* the chosen ones move to the front of `order`, which stays shuffled */
    for (int64_t i = 0; i < dataset->count; i++) {
        int64_t *places = &s.quota[dataset->labels[s.order[i]]];
        if (*places > 0) {
            (*places)--;
            s.order[taken++] = s.order[i];
        }
    }
    status = make_part(dataset, s.order, taken, "class-balanced", out, err);
    shuffled_free(&s);
    return status;
}

esp_status esp_dataset_head(const esp_dataset *dataset, int64_t count, esp_dataset **out, esp_error *err)
{
    *out = NULL;
    if (count < 1) {
        return esp_fail(err, ESP_INVALID, "dataset '%s': first %" PRId64 " images, expected at least 1",
                        dataset->name, count);
    }
    count = count < dataset->count ? count : dataset->count;
    return make_part(dataset, NULL, count, "the first", out, err);
}

/* Sorts the images of a set into held and rest, both in the set's order: `side` [count] is 1 for held. */
static void choose_held(const esp_dataset *dataset, double share, shuffled *s, uint8_t *side)
{
    for (int c = 0; c < dataset->class_count; c++) {
        int64_t held = (int64_t)(share * (double)s->available[c] + 0.5);
        held = held < 1 && s->available[c] > 1 ? 1 : held;
        held = held >= s->available[c] ? s->available[c] - 1 : held; /* never the whole of a class */
        s->quota[c] = held > 0 ? held : 0;
    }
    for (int64_t i = 0; i < dataset->count; i++) {
        int64_t *places = &s->quota[dataset->labels[s->order[i]]];
        side[s->order[i]] = *places > 0;
        *places -= *places > 0;
    }
}

esp_status esp_dataset_split(const esp_dataset *dataset, double share, uint64_t seed, esp_dataset **out_rest,
                             esp_dataset **out_held, esp_error *err)
{
    *out_rest = *out_held = NULL;
    if (!(share > 0.0 && share < 1.0)) {
        return esp_fail(err, ESP_INVALID, "dataset '%s': a share of %g cut off, expected 0 < share < 1",
                        dataset->name, share);
    }
    shuffled s;
    esp_status status = shuffled_make(dataset, seed, &s, err);
    if (status != ESP_OK) {
        return status;
    }
    uint8_t *side = esp_alloc((size_t)dataset->count, 1);
    if (side == NULL) {
        status = esp_fail_memory(err, "a split", (size_t)dataset->count);
        goto done;
    }
    choose_held(dataset, share, &s, side);
    int64_t counts[2] = {0, 0}; /* rest from the front of `order`, held from its end */
    for (int64_t i = 0; i < dataset->count; i++) {
        counts[side[i]]++;
    }
    int64_t at[2] = {0, counts[0]};
    for (int64_t i = 0; i < dataset->count; i++) {
        s.order[at[side[i]]++] = (uint32_t)i;
    }
    if (counts[0] == 0 || counts[1] == 0) {
        status = esp_fail(err, ESP_INVALID,
                          "dataset '%s': %g of %" PRId64 " images leaves %" PRId64 " and %" PRId64
                          ", expected some of both",
                          dataset->name, share, dataset->count, counts[0], counts[1]);
        goto done;
    }
    esp_dataset *rest = NULL, *held = NULL;
    status = make_part(dataset, s.order, counts[0], "the rest of a split by seed", &rest, err);
    if (status == ESP_OK) {
        status =
            make_part(dataset, s.order + counts[0], counts[1], "held out of a split by seed", &held, err);
    }
    if (status != ESP_OK) {
        esp_dataset_unref(rest);
        goto done;
    }
    *out_rest = rest;
    *out_held = held;
done:
    esp_free(side);
    shuffled_free(&s);
    return status;
}
