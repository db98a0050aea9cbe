/* Lazy sets: images are read from a source when a batch asks for them and come out at the size of the set's
 * transform. Images in evaluation form are kept as bytes once they are read, as far as the cache reaches: a
 * calibration set, or a validation set that is measured after every epoch, is decoded once. A set in memory
 * goes through the same door, so that every augmentation works on it too.
 *
 * Many threads read at once. What they share is written with atomics (cache, marks of bad images) or under
 * the source's mutex (messages). */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "train/data_internal.h"

/* ---- sizes ---- */

static int rounded(int64_t value, int64_t numerator, int64_t denominator)
{
    int64_t result = (2 * value * numerator + denominator) / (2 * denominator);
    return result < 1 ? 1 : (int)result;
}

esp_transform esp_transform_decide(const esp_image_sizes *sizes, int channels, int height, int width)
{
    enum { USUAL_SIDE = 224, USUAL_RESIZE = 256 };
    bool is_given = sizes->resize > 0 || sizes->resize_height > 0 || sizes->crop_height > 0;
    int wanted_channels = sizes->channels > 0       ? sizes->channels
                          : channels > 0            ? channels
                          : sizes->own_channels > 0 ? sizes->own_channels
                                                    : 3;
    esp_transform transform = {
        .channels = wanted_channels,
        .height = sizes->crop_height > 0 ? sizes->crop_height : height,
        .width = sizes->crop_height > 0 ? sizes->crop_width : width,
        .resize = sizes->resize,
        .resize_height = sizes->resize_height,
        .resize_width = sizes->resize_width,
        .interpolation = sizes->interpolation,
    };
    if (transform.height <= 0 || transform.width <= 0) { /* neither asked for nor said by a model */
        int side = sizes->resize > 0 ? rounded(sizes->resize, USUAL_SIDE, USUAL_RESIZE) : USUAL_SIDE;
        bool uses_own = !is_given && sizes->own_height > 0;
        transform.height = sizes->resize_height > 0 ? sizes->resize_height
                           : uses_own               ? sizes->own_height
                                                    : side;
        transform.width = sizes->resize_height > 0 ? sizes->resize_width : uses_own ? sizes->own_width : side;
    }
    bool is_own = transform.height == sizes->own_height && transform.width == sizes->own_width;
    bool needs_resize =
        sizes->resize <= 0 && sizes->resize_height <= 0 && (sizes->crop_height > 0 || !is_own);
    if (needs_resize && transform.height == transform.width) {
        transform.resize = rounded(transform.height, USUAL_RESIZE, USUAL_SIDE);
    } else if (needs_resize) {
        transform.resize_height = transform.height;
        transform.resize_width = transform.width;
    }
    return transform;
}

/* ---- life ---- */

void esp_lazy_source_unref(esp_lazy_source *source)
{
    if (source == NULL || atomic_fetch_sub_explicit(&source->references, 1, memory_order_acq_rel) > 1) {
        return;
    }
    if (source->ops.free != NULL) {
        source->ops.free(source->user);
    }
    for (int i = 0; i < ESP_SKIPPED_KEPT; i++) {
        esp_free(source->messages[i]);
    }
    pthread_mutex_destroy(&source->mutex);
    esp_free((void *)source->is_bad);
    esp_free(source);
}

void esp_dataset_free_cache(esp_dataset *dataset)
{
    for (int64_t i = 0; dataset->cache != NULL && i < dataset->count; i++) {
        esp_free(atomic_load_explicit(&dataset->cache[i], memory_order_relaxed));
    }
    esp_free((void *)dataset->cache);
}

static esp_status make_source(const esp_lazy_images *images, int64_t count, esp_lazy_source **out,
                              esp_error *err)
{
    esp_lazy_source *source = esp_alloc_zero(1, sizeof(*source));
    _Atomic uint8_t *is_bad = images->skips_bad ? esp_alloc_zero((size_t)count, sizeof(*is_bad)) : NULL;
    if (source == NULL || (images->skips_bad && is_bad == NULL)) {
        esp_free((void *)is_bad);
        esp_free(source);
        if (images->ops->free != NULL) {
            images->ops->free(images->take_user);
        }
        return esp_fail_memory(err, "the source of a dataset", (size_t)count);
    }
    atomic_init(&source->references, 1);
    pthread_mutex_init(&source->mutex, NULL);
    source->ops = *images->ops;
    source->user = images->take_user;
    source->sizes = images->sizes;
    source->is_float = images->is_float;
    source->skips_bad = images->skips_bad;
    source->cache_bytes = images->is_float ? 0 : images->cache_bytes;
    source->is_bad = is_bad;
    *out = source;
    return ESP_OK;
}

/* A root over `take_source` at the size of `transform`. */
static esp_status make_root(const char *name, const char *note, int64_t count, int class_count,
                            const esp_transform *transform, esp_lazy_source *take_source, esp_dataset **out,
                            esp_error *err)
{
    esp_dataset *root = NULL;
    esp_status status = esp_dataset_check_sizes(name, count, transform->channels, transform->height,
                                                transform->width, class_count, err);
    if (status == ESP_OK) {
        status = esp_dataset_make(name, note, count, transform->channels, transform->height, transform->width,
                                  class_count, &root, err);
    }
    if (status != ESP_OK) {
        esp_lazy_source_unref(take_source);
        return status;
    }
    root->source = take_source;
    root->transform = *transform;
    status = esp_dataset_name_classes(root, err);
    if (status == ESP_OK && take_source->cache_bytes > 0) {
        root->cache = esp_alloc_zero((size_t)count, sizeof(*root->cache));
        if (root->cache == NULL) {
            status = esp_fail_memory(err, "the cache of a dataset", (size_t)count * sizeof(*root->cache));
        }
    }
    if (status != ESP_OK) {
        esp_dataset_unref(root);
        return status;
    }
    *out = root;
    return ESP_OK;
}

esp_status esp_dataset_new_lazy(const char *name, const char *note, int64_t count, int class_count,
                                const esp_lazy_images *images, esp_dataset **out, esp_error *err)
{
    *out = NULL;
    esp_lazy_source *source = NULL;
    esp_transform transform = esp_transform_decide(&images->sizes, 0, 0, 0);
    esp_status status = make_source(images, count > 0 ? count : 1, &source, err);
    return status == ESP_OK ? make_root(name, note, count, class_count, &transform, source, out, err)
                            : status;
}

/* ---- a lazy set for a model ---- */

/* What a model's input says of the images: 0 where it is open. */
static void input_sizes(const esp_graph *graph, int *channels, int *height, int *width)
{
    *channels = *height = *width = 0;
    if (esp_graph_input_count(graph) != 1) {
        return;
    }
    const esp_shape *shape = &esp_graph_value(graph, esp_graph_input(graph, 0))->shape;
    if (shape->rank != 4) {
        return;
    }
    bool is_image = shape->dims[1] == 1 || shape->dims[1] == 3;
    *channels = is_image ? (int)shape->dims[1] : 0;
    *height = shape->dims[2] > 0 && shape->dims[2] <= INT32_MAX ? (int)shape->dims[2] : 0;
    *width = shape->dims[3] > 0 && shape->dims[3] <= INT32_MAX ? (int)shape->dims[3] : 0;
}

static bool is_same_transform(const esp_transform *a, const esp_transform *b)
{
    return a->channels == b->channels && a->height == b->height && a->width == b->width &&
           a->resize == b->resize && a->resize_height == b->resize_height &&
           a->resize_width == b->resize_width && a->interpolation == b->interpolation;
}

/* The root of a set at another size. */
static esp_status refit_root(const esp_dataset *root, const esp_transform *transform, esp_dataset **out,
                             esp_error *err)
{
    atomic_fetch_add_explicit(&root->source->references, 1, memory_order_relaxed);
    esp_dataset *fitted = NULL;
    esp_status status = make_root(root->name, root->note, root->count, root->class_count, transform,
                                  root->source, &fitted, err);
    for (int c = 0; status == ESP_OK && c < root->class_count; c++) {
        status = esp_dataset_set_class_name(fitted, c, root->class_names[c], err);
    }
    if (status != ESP_OK) {
        esp_dataset_unref(fitted);
        return status;
    }
    memcpy(fitted->labels, root->labels, (size_t)root->count * sizeof(*root->labels));
    *out = fitted;
    return ESP_OK;
}

/* The same part of another root; `take_root` is the part's. */
static esp_status refit_part(const esp_dataset *part, esp_dataset *take_root, esp_dataset **out,
                             esp_error *err)
{
    esp_dataset *fitted = NULL;
    esp_status status =
        esp_dataset_make(part->name, part->note, part->count, take_root->channels, take_root->height,
                         take_root->width, part->class_count, &fitted, err);
    if (status != ESP_OK) {
        esp_dataset_unref(take_root);
        return status;
    }
    fitted->root = take_root;
    fitted->picks = esp_alloc((size_t)part->count, sizeof(*fitted->picks));
    if (fitted->picks == NULL) {
        esp_dataset_unref(fitted);
        return esp_fail_memory(err, "a part of a dataset", (size_t)part->count * sizeof(*fitted->picks));
    }
    memcpy(fitted->picks, part->picks, (size_t)part->count * sizeof(*fitted->picks));
    memcpy(fitted->labels, part->labels, (size_t)part->count * sizeof(*part->labels));
    *out = fitted;
    return ESP_OK;
}

esp_status esp_dataset_fit(const esp_dataset *dataset, const esp_graph *graph, esp_dataset **out,
                           esp_error *err)
{
    const esp_dataset *root = esp_dataset_root(dataset);
    *out = NULL;
    int channels, height, width;
    input_sizes(graph, &channels, &height, &width);
    bool is_fixed = root->source == NULL || root->source->is_float;
    esp_transform transform =
        is_fixed ? root->transform : esp_transform_decide(&root->source->sizes, channels, height, width);
    if (is_fixed || is_same_transform(&transform, &root->transform)) {
        *out = esp_dataset_ref(dataset);
        return ESP_OK;
    }
    esp_dataset *fitted = NULL;
    esp_status status = refit_root(root, &transform, &fitted, err);
    if (status == ESP_OK && dataset != root) {
        return refit_part(dataset, fitted, out, err);
    }
    *out = fitted;
    return status;
}

/* ---- bad images ---- */

/* What a set that skips takes for a bad image; anything else ends the batch. */
static bool is_bad_image(esp_status status)
{
    return status == ESP_FORMAT || status == ESP_UNSUPPORTED || status == ESP_IO;
}

static void remember_bad(esp_lazy_source *source, int64_t image, const char *message)
{
    if (atomic_exchange_explicit(&source->is_bad[image], 1, memory_order_relaxed) != 0) {
        return; /* another thread was first */
    }
    pthread_mutex_lock(&source->mutex);
    if (source->skipped < ESP_SKIPPED_KEPT) {
        source->messages[source->skipped] = esp_strdup(message);
    }
    source->skipped++;
    pthread_mutex_unlock(&source->mutex);
}

int64_t esp_dataset_skipped(const esp_dataset *dataset)
{
    esp_lazy_source *source = esp_dataset_root(dataset)->source;
    if (source == NULL) {
        return 0;
    }
    pthread_mutex_lock(&source->mutex);
    int64_t skipped = source->skipped;
    pthread_mutex_unlock(&source->mutex);
    return skipped;
}

bool esp_dataset_skipped_message(const esp_dataset *dataset, int64_t which, char *buffer, size_t size)
{
    esp_lazy_source *source = esp_dataset_root(dataset)->source;
    if (source == NULL || which < 0 || which >= ESP_SKIPPED_KEPT) {
        return false;
    }
    pthread_mutex_lock(&source->mutex);
    const char *message = which < source->skipped ? source->messages[which] : NULL;
    if (message != NULL) {
        snprintf(buffer, size, "%s", message);
    }
    pthread_mutex_unlock(&source->mutex);
    return message != NULL;
}

/* ---- reading one image ---- */

void esp_read_room_free(esp_read_room *room)
{
    esp_image_free(&room->image);
    esp_transform_room_free(&room->transform);
    esp_buffer_free(&room->planes);
}

/* What decoding needs to know of a wish. */
typedef struct decode_context {
    const esp_transform *transform;
    const esp_augmentation *augmentation; /* with boxes */
    esp_rng rng;
} decode_context;

static int choose_shrink(void *context, int full_width, int full_height)
{
    decode_context *it = context;
    esp_rng rng = it->rng;
    esp_box box = esp_random_box(it->augmentation, &rng, full_width, full_height);
    return esp_box_shrink(it->transform, &box);
}

static bool has_boxes(const esp_augmentation *augmentation)
{
    return augmentation != NULL && augmentation->most_area > 0.0;
}

static bool has_colours(const esp_augmentation *augmentation)
{
    return augmentation != NULL && (augmentation->brightness > 0.0 || augmentation->contrast > 0.0 ||
                                    augmentation->saturation > 0.0 || augmentation->hue > 0.0);
}

/* The image of a set in memory, as a source would give it. */
static esp_status interleave(const esp_dataset *root, int64_t image, esp_image *out, esp_error *err)
{
    int64_t plane = (int64_t)root->height * root->width;
    uint8_t *pixels = esp_buffer_need(&out->room, (size_t)root->image_values);
    if (pixels == NULL) {
        return esp_fail_memory(err, "an image", (size_t)root->image_values);
    }
    const uint8_t *source = root->pixels + image * root->image_values;
    for (int64_t i = 0; i < plane; i++) {
        for (int c = 0; c < root->channels; c++) {
            pixels[i * root->channels + c] = source[c * plane + i];
        }
    }
    out->width = out->full_width = root->width;
    out->height = out->full_height = root->height;
    out->channels = root->channels;
    out->pixels = pixels;
    return ESP_OK;
}

/* Decodes and transforms into `planes`. */
static esp_status decode(const esp_dataset *root, int64_t image, const esp_augmentation *augmentation,
                         esp_rng rng, esp_read_room *room, uint8_t *planes, esp_error *err)
{
    const esp_transform in_memory = {
        .channels = root->channels, .height = root->height, .width = root->width};
    const esp_transform *transform = root->source != NULL ? &root->transform : &in_memory;
    bool is_boxed = has_boxes(augmentation);
    decode_context context = {transform, augmentation, rng};
    const esp_image_wish wish = {transform->channels, is_boxed ? choose_shrink : NULL, &context};
    esp_image *decoded = &room->image;
    esp_status status = root->source != NULL
                            ? root->source->ops.read(root->source->user, image, &wish, decoded, err)
                            : interleave(root, image, decoded, err);
    if (status != ESP_OK) {
        return status;
    }
    if (!is_boxed) {
        return esp_transform_apply(transform, decoded, &room->transform, planes, err);
    }
    esp_box box = esp_random_box(augmentation, &rng, decoded->full_width, decoded->full_height);
    return esp_transform_box(transform, decoded, box, &room->transform, planes, err);
}

/* Keeps a copy of an image in evaluation form while there is room; returns it, or NULL. */
static const uint8_t *keep(esp_dataset *root, int64_t image, const uint8_t *planes)
{
    size_t bytes = (size_t)root->image_values;
    size_t before = atomic_fetch_add_explicit(&root->cached, bytes, memory_order_relaxed);
    uint8_t *copy = before + bytes <= root->source->cache_bytes ? esp_alloc(bytes, 1) : NULL;
    uint8_t *nobody = NULL;
    if (copy != NULL) {
        memcpy(copy, planes, bytes);
        if (atomic_compare_exchange_strong_explicit(&root->cache[image], &nobody, copy, memory_order_acq_rel,
                                                    memory_order_acquire)) {
            return copy;
        }
        esp_free(copy);
    }
    atomic_fetch_sub_explicit(&root->cached, bytes, memory_order_relaxed);
    return nobody;
}

static const uint8_t *kept(const esp_dataset *root, int64_t image)
{
    return root->pixels != NULL  ? root->pixels + image * root->image_values
           : root->cache != NULL ? atomic_load_explicit(&root->cache[image], memory_order_acquire)
                                 : NULL;
}

static esp_status read_floats(const esp_dataset *root, int64_t image, const esp_read_wish *wish,
                              esp_read_room *room, const void **out, esp_error *err)
{
    if (has_boxes(wish->augmentation) || has_colours(wish->augmentation)) {
        return esp_fail(
            err, ESP_INVALID,
            "dataset '%s' holds floats: of the augmentations only crop, flip, cutout and mixup work on "
            "it, found resized crops or colours",
            root->name);
    }
    const esp_image_wish source_wish = {.channels = root->channels};
    esp_status status = root->source->ops.read(root->source->user, image, &source_wish, &room->image, err);
    if (status == ESP_OK && wish->space != NULL) {
        memcpy(wish->space, room->image.values, (size_t)root->image_values * sizeof(float));
        *out = wish->space;
    } else if (status == ESP_OK) {
        *out = room->image.values;
    }
    return status;
}

static esp_status read_bytes(esp_dataset *root, int64_t image, uint32_t index, const esp_read_wish *wish,
                             esp_read_room *room, const void **out, esp_error *err)
{
    size_t bytes = (size_t)root->image_values;
    bool is_boxed = has_boxes(wish->augmentation), is_coloured = has_colours(wish->augmentation);
    const uint8_t *ready = is_boxed ? NULL : kept(root, image);
    if (ready != NULL && !is_coloured) {
        *out = ready;
        return ESP_OK;
    }
    uint8_t *planes = wish->space != NULL ? wish->space : esp_buffer_need(&room->planes, bytes);
    if (planes == NULL) {
        return esp_fail_memory(err, "an image", bytes);
    }
    esp_rng rng = {0};
    if (ready != NULL) {
        memcpy(planes, ready, bytes);
    } else {
        if (is_boxed) {
            esp_choice_seed(&rng, wish->epoch_seed, ESP_CHOICE_BOX, index);
        }
        esp_status status = decode(root, image, wish->augmentation, rng, room, planes, err);
        if (status != ESP_OK) {
            return status;
        }
        if (!is_boxed && root->cache != NULL) {
            keep(root, image, planes);
        }
    }
    if (is_coloured) {
        esp_choice_seed(&rng, wish->epoch_seed, ESP_CHOICE_COLOUR, index);
        esp_colour_jitter(wish->augmentation, &rng, root->channels, (int64_t)root->height * root->width,
                          planes);
    }
    *out = planes;
    return ESP_OK;
}

esp_status esp_dataset_read(const esp_dataset *dataset, int64_t index, const esp_read_wish *wish,
                            esp_read_room *room, const void **out, esp_error *err)
{
    /* the cache of a set that is otherwise immutable */
    esp_dataset *root = (esp_dataset *)esp_dataset_root(dataset);
    esp_lazy_source *source = root->source;
    int64_t image = dataset->picks != NULL ? dataset->picks[index] : index;
    *out = NULL;
    if (source != NULL && source->is_bad != NULL &&
        atomic_load_explicit(&source->is_bad[image], memory_order_relaxed) != 0) {
        return ESP_OK;
    }
    esp_error found = {0};
    bool is_float = source != NULL && source->is_float;
    esp_status status = is_float ? read_floats(root, image, wish, room, out, &found)
                                 : read_bytes(root, image, (uint32_t)index, wish, room, out, &found);
    if (status != ESP_OK && source != NULL && source->is_bad != NULL && is_bad_image(status)) {
        remember_bad(source, image, found.message);
        return ESP_OK;
    }
    if (status != ESP_OK && err != NULL) {
        *err = found;
        if (source != NULL && is_bad_image(status) && found.hint[0] == '\0') {
            esp_error_set_hint(err, "--skip-bad, or ?skip-bad after the spec, leaves bad images out");
        }
    }
    return status;
}

bool esp_dataset_is_at_hand(const esp_dataset *dataset, const esp_augmentation *augmentation)
{
    return esp_dataset_root(dataset)->pixels != NULL && !has_boxes(augmentation) &&
           !has_colours(augmentation);
}
