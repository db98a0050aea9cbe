/* Tensors.
 *
 * Two levels: a storage (bytes and a count of tensors that use it) and a tensor (type, shape, storage, its
 * own count). A reshape makes a second tensor on the same storage; a clone makes a second storage. Both
 * counts are atomic, so a reader's snapshot may be dropped by another thread than the one that made it.
 *
 * What was derived from a storage hangs on it in a list that only grows: new entries are put in front with
 * one compare-and-swap, so readers need no lock. Two threads that derive the same thing at once both make it;
 * the second throws its own away. */
#include "tensor/tensor.h"

#include <assert.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/arrange.h"
#include "tensor/strides.h"

typedef struct derivation {
    struct derivation *next;
    uint64_t key;
    size_t bytes;
    void *data;
} derivation;

typedef struct storage {
    atomic_int count;
    void *bytes;
    _Atomic(derivation *) derived;
} storage;

struct esp_tensor {
    atomic_int count;
    esp_dtype dtype;
    esp_shape shape;
    int64_t elements;
    storage *storage;
};

size_t esp_dtype_size(esp_dtype dtype)
{
    static const size_t sizes[] = {
#define DTYPE_SIZE(name, type, text) [ESP_##name] = sizeof(type),
        ESP_DTYPE_LIST(DTYPE_SIZE)
#undef DTYPE_SIZE
    };
    return sizes[dtype];
}

const char *esp_dtype_name(esp_dtype dtype)
{
    static const char *const names[] = {
#define DTYPE_NAME(name, type, text) [ESP_##name] = text,
        ESP_DTYPE_LIST(DTYPE_NAME)
#undef DTYPE_NAME
    };
    return names[dtype];
}

bool esp_dtype_is_signed(esp_dtype dtype)
{
    static const bool is_signed[] = {
#define DTYPE_IS_SIGNED(name, type, text) [ESP_##name] = (type)-1 < (type)1,
        ESP_DTYPE_LIST(DTYPE_IS_SIGNED)
#undef DTYPE_IS_SIGNED
    };
    return is_signed[dtype];
}

esp_shape esp_shape_make(int rank, const int64_t *dims)
{
    assert(rank >= 0 && rank <= ESP_MAX_RANK);
    esp_shape shape = {.rank = rank};
    for (int i = 0; i < rank; i++)
        shape.dims[i] = dims[i];
    return shape;
}

int64_t esp_shape_elements(const esp_shape *shape)
{
    int64_t product = 1;
    bool has_zero = false;
    for (int i = 0; i < shape->rank; i++) {
        if (shape->dims[i] < 0)
            return -1;
        if (shape->dims[i] == 0)
            has_zero = true;
        else if (__builtin_mul_overflow(product, shape->dims[i], &product))
            return -1;
    }
    return has_zero ? 0 : product;
}

bool esp_shape_equal(const esp_shape *a, const esp_shape *b)
{
    if (a->rank != b->rank)
        return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dims[i] != b->dims[i])
            return false;
    return true;
}

char *esp_shape_format(const esp_shape *shape, char *buffer, size_t size)
{
    if (size == 0)
        return buffer;
    if (shape->rank == 0) {
        snprintf(buffer, size, "scalar");
        return buffer;
    }
    size_t used = 0;
    buffer[0] = '\0';
    for (int i = 0; i < shape->rank && used < size; i++) {
        const char *separator = i > 0 ? "x" : "";
        int length = shape->dims[i] < 0
                         ? snprintf(buffer + used, size - used, "%s?", separator)
                         : snprintf(buffer + used, size - used, "%s%" PRId64, separator, shape->dims[i]);
        used += length > 0 ? (size_t)length : 0;
    }
    return buffer;
}

void esp_shape_strides(const esp_shape *shape, int64_t strides[ESP_MAX_RANK])
{
    int64_t stride = 1;
    for (int i = shape->rank - 1; i >= 0; i--) {
        strides[i] = stride;
        stride *= shape->dims[i];
    }
}

esp_status esp_shape_broadcast(const esp_shape *a, const esp_shape *b, esp_shape *out, esp_error *err)
{
    esp_shape result = {.rank = a->rank > b->rank ? a->rank : b->rank};
    for (int i = 0; i < result.rank; i++) {
        int from_end = result.rank - i;
        int64_t da = from_end <= a->rank ? a->dims[a->rank - from_end] : 1;
        int64_t db = from_end <= b->rank ? b->dims[b->rank - from_end] : 1;
        if (da != db && da != 1 && db != 1) {
            char text_a[128], text_b[128];
            return esp_fail(err, ESP_SHAPE, "shapes %s and %s do not broadcast",
                            esp_shape_format(a, text_a, sizeof text_a),
                            esp_shape_format(b, text_b, sizeof text_b));
        }
        result.dims[i] = da == 1 ? db : da;
    }
    *out = result;
    return ESP_OK;
}

/* A tensor header without storage. */
static esp_tensor *header_new(esp_dtype dtype, const esp_shape *shape, int64_t elements)
{
    esp_tensor *tensor = esp_alloc_zero(1, sizeof *tensor);
    if (tensor == NULL)
        return NULL;
    atomic_init(&tensor->count, 1);
    tensor->dtype = dtype;
    tensor->shape = *shape;
    tensor->elements = elements;
    return tensor;
}

esp_status esp_tensor_new_unset(esp_dtype dtype, const esp_shape *shape, esp_tensor **out, esp_error *err)
{
    *out = NULL;
    char text[128];
    int64_t elements = esp_shape_elements(shape);
    if (elements < 0)
        return esp_fail(err, ESP_SHAPE, "tensor shape %s has a negative dimension or is too large",
                        esp_shape_format(shape, text, sizeof text));

    size_t bytes = 0;
    if (__builtin_mul_overflow((size_t)elements, esp_dtype_size(dtype), &bytes))
        return esp_fail(err, ESP_SHAPE, "tensor shape %s is too large",
                        esp_shape_format(shape, text, sizeof text));

    esp_tensor *tensor = header_new(dtype, shape, elements);
    storage *store = esp_alloc_zero(1, sizeof *store);
    void *data = esp_alloc((size_t)elements, esp_dtype_size(dtype));
    if (tensor == NULL || store == NULL || data == NULL) {
        esp_free(data);
        esp_free(store);
        esp_free(tensor);
        return esp_fail_memory(err, "a tensor", bytes);
    }
    atomic_init(&store->count, 1);
    store->bytes = data;
    tensor->storage = store;
    *out = tensor;
    return ESP_OK;
}

esp_status esp_tensor_new(esp_dtype dtype, const esp_shape *shape, esp_tensor **out, esp_error *err)
{
    esp_status status = esp_tensor_new_unset(dtype, shape, out, err);
    if (status == ESP_OK)
        memset((*out)->storage->bytes, 0, (size_t)(*out)->elements * esp_dtype_size(dtype));
    return status;
}

esp_status esp_tensor_from(esp_dtype dtype, const esp_shape *shape, const void *data, esp_tensor **out,
                           esp_error *err)
{
    esp_status status = esp_tensor_new_unset(dtype, shape, out, err);
    if (status != ESP_OK)
        return status;
    size_t bytes = (size_t)(*out)->elements * esp_dtype_size(dtype);
    if (bytes > 0)
        memcpy((*out)->storage->bytes, data, bytes);
    return ESP_OK;
}

esp_status esp_tensor_reshape(const esp_tensor *tensor, const esp_shape *shape, esp_tensor **out,
                              esp_error *err)
{
    *out = NULL;
    if (esp_shape_elements(shape) != tensor->elements) {
        char from[128], to[128];
        return esp_fail(err, ESP_SHAPE, "cannot reshape %s to %s: %" PRId64 " against %" PRId64 " elements",
                        esp_shape_format(&tensor->shape, from, sizeof from),
                        esp_shape_format(shape, to, sizeof to), tensor->elements, esp_shape_elements(shape));
    }
    esp_tensor *view = header_new(tensor->dtype, shape, tensor->elements);
    if (view == NULL)
        return esp_fail_memory(err, "a tensor", sizeof *view);
    view->storage = tensor->storage;
    atomic_fetch_add_explicit(&view->storage->count, 1, memory_order_relaxed);
    *out = view;
    return ESP_OK;
}

esp_status esp_tensor_clone(const esp_tensor *tensor, esp_tensor **out, esp_error *err)
{
    return esp_tensor_from(tensor->dtype, &tensor->shape, tensor->storage->bytes, out, err);
}

esp_tensor *esp_tensor_ref(const esp_tensor *tensor)
{
    /* The count is not part of the value a const tensor promises to keep. */
    esp_tensor *shared = (esp_tensor *)(uintptr_t)tensor;
    if (shared != NULL)
        atomic_fetch_add_explicit(&shared->count, 1, memory_order_relaxed);
    return shared;
}

static void free_derivation(derivation *item)
{
    if (item != NULL)
        esp_free(item->data);
    esp_free(item);
}

static void forget_derived(storage *store)
{
    derivation *item = atomic_exchange_explicit(&store->derived, NULL, memory_order_acq_rel);
    while (item != NULL) {
        derivation *next = item->next;
        free_derivation(item);
        item = next;
    }
}

void esp_tensor_unref(esp_tensor *tensor)
{
    if (tensor == NULL || atomic_fetch_sub_explicit(&tensor->count, 1, memory_order_acq_rel) != 1)
        return;
    if (atomic_fetch_sub_explicit(&tensor->storage->count, 1, memory_order_acq_rel) == 1) {
        forget_derived(tensor->storage);
        esp_free(tensor->storage->bytes);
        esp_free(tensor->storage);
    }
    esp_free(tensor);
}

esp_dtype esp_tensor_dtype(const esp_tensor *tensor)
{
    return tensor->dtype;
}

const esp_shape *esp_tensor_shape(const esp_tensor *tensor)
{
    return &tensor->shape;
}

int64_t esp_tensor_elements(const esp_tensor *tensor)
{
    return tensor->elements;
}

const void *esp_tensor_data(const esp_tensor *tensor)
{
    return tensor->storage->bytes;
}

void *esp_tensor_data_mut(esp_tensor *tensor)
{
    forget_derived(tensor->storage);
    return tensor->storage->bytes;
}

const float *esp_tensor_f32(const esp_tensor *tensor)
{
    assert(tensor->dtype == ESP_F32);
    return tensor->storage->bytes;
}

float *esp_tensor_f32_mut(esp_tensor *tensor)
{
    assert(tensor->dtype == ESP_F32);
    return esp_tensor_data_mut(tensor);
}

/* ---- derived data ---- */

static const derivation *find_derivation(const derivation *item, uint64_t key, size_t bytes)
{
    while (item != NULL && (item->key != key || item->bytes != bytes))
        item = item->next;
    return item;
}

/* Puts `item` in front unless another thread has brought the same thing by now; returns what is in the list.
 */
static const derivation *publish(storage *store, derivation *item)
{
    derivation *head = atomic_load_explicit(&store->derived, memory_order_acquire);
    do {
        const derivation *other = find_derivation(head, item->key, item->bytes);
        if (other != NULL) {
            free_derivation(item);
            return other;
        }
        item->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&store->derived, &head, item, memory_order_acq_rel,
                                                    memory_order_acquire));
    return item;
}

esp_status esp_tensor_derived(const esp_tensor *tensor, uint64_t key, size_t bytes, esp_derive_fn *make,
                              void *user, const void **out, esp_error *err)
{
    storage *store = tensor->storage;
    *out = NULL;
    const derivation *found =
        find_derivation(atomic_load_explicit(&store->derived, memory_order_acquire), key, bytes);
    if (found != NULL) {
        *out = found->data;
        return ESP_OK;
    }
    derivation *item = esp_alloc_zero(1, sizeof *item);
    if (item != NULL)
        *item = (derivation){.key = key, .bytes = bytes, .data = esp_alloc(bytes, 1)};
    esp_status status = item == NULL || item->data == NULL ? esp_fail_memory(err, "packed weights", bytes)
                                                           : make(user, item->data, err);
    if (status != ESP_OK) {
        free_derivation(item);
        return status;
    }
    *out = publish(store, item)->data;
    return ESP_OK;
}

bool esp_tensor_spend(const esp_tensor *tensor)
{
    storage *store = tensor->storage;
    if (atomic_load_explicit(&store->count, memory_order_acquire) > 1)
        return false;
    esp_free(store->bytes);
    store->bytes = NULL;
    return true;
}

bool esp_tensor_is_spent(const esp_tensor *tensor)
{
    return tensor->storage->bytes == NULL;
}

size_t esp_tensor_derived_bytes(const esp_tensor *tensor)
{
    size_t total = 0;
    const derivation *item = atomic_load_explicit(&tensor->storage->derived, memory_order_acquire);
    for (; item != NULL; item = item->next)
        total += item->bytes;
    return total;
}

int64_t esp_view_storage(const esp_view *view)
{
    int64_t elements = esp_shape_elements(&view->shape);
    if (view->layout != ESP_LAYOUT_BLOCKED || elements == 0)
        return elements;
    int64_t channels = view->shape.dims[1];
    return elements / channels * ((channels + ESP_BLOCK - 1) / ESP_BLOCK * ESP_BLOCK);
}

int64_t esp_view_image_stride(const esp_view *view)
{
    if (view->image_stride != 0 || view->shape.rank == 0 || view->shape.dims[0] == 0)
        return view->image_stride;
    return esp_view_storage(view) / view->shape.dims[0];
}

esp_view esp_tensor_view(const esp_tensor *tensor)
{
    return (esp_view){.data = tensor->storage->bytes,
                      .dtype = tensor->dtype,
                      .layout = ESP_LAYOUT_PLAIN,
                      .shape = tensor->shape};
}

bool esp_tensor_equal(const esp_tensor *a, const esp_tensor *b)
{
    if (a == b)
        return true;
    if (a->dtype != b->dtype || !esp_shape_equal(&a->shape, &b->shape))
        return false;
    size_t bytes = (size_t)a->elements * esp_dtype_size(a->dtype);
    return bytes == 0 || memcmp(a->storage->bytes, b->storage->bytes, bytes) == 0;
}

int64_t esp_tensor_get_i64(const esp_tensor *tensor, int64_t index)
{
    assert(index >= 0 && index < tensor->elements);
    switch (tensor->dtype) {
#define DTYPE_GET(name, type, text)                                                                          \
    case ESP_##name:                                                                                         \
        return (int64_t)((const type *)tensor->storage->bytes)[index];
        ESP_DTYPE_LIST(DTYPE_GET)
#undef DTYPE_GET
    }
    return 0;
}

double esp_view_get_f64(const esp_view *view, int64_t index)
{
    switch (view->dtype) {
#define DTYPE_GET(name, type, text)                                                                          \
    case ESP_##name:                                                                                         \
        return (double)((const type *)view->data)[index];
        ESP_DTYPE_LIST(DTYPE_GET)
#undef DTYPE_GET
    }
    return 0.0;
}

double esp_tensor_get_f64(const esp_tensor *tensor, int64_t index)
{
    esp_view view = esp_tensor_view(tensor);
    assert(index >= 0 && index < tensor->elements);
    return esp_view_get_f64(&view, index);
}

esp_status esp_tensor_select(const esp_tensor *tensor, int axis, const int64_t *indices, int64_t count,
                             esp_tensor **out, esp_error *err)
{
    *out = NULL;
    const esp_shape *shape = &tensor->shape;
    char text[128];
    if (axis < 0 || axis >= shape->rank)
        return esp_fail(err, ESP_SHAPE, "axis %d is outside a tensor of shape %s", axis,
                        esp_shape_format(shape, text, sizeof text));
    for (int64_t i = 0; i < count; i++)
        if (indices[i] < 0 || indices[i] >= shape->dims[axis])
            return esp_fail(err, ESP_SHAPE, "index %" PRId64 " is outside axis %d of a tensor of shape %s",
                            indices[i], axis, esp_shape_format(shape, text, sizeof text));

    esp_shape selected = *shape;
    selected.dims[axis] = count;
    esp_status status = esp_tensor_new(tensor->dtype, &selected, out, err);
    if (status != ESP_OK)
        return status;

    esp_axis_span span = esp_axis_span_of(shape, axis);
    return esp_gather_forward(NULL, span.outer, span.count, span.inner, indices, count,
                              esp_dtype_size(tensor->dtype), tensor->storage->bytes, (*out)->storage->bytes);
}
