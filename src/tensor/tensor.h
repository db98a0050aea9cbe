/* Tensors: a shape, an element type and reference-counted storage; and views, the borrowed form kernels take.
 */
#ifndef ESP_TENSOR_TENSOR_H
#define ESP_TENSOR_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define ESP_MAX_RANK 8

/* One list of element types. Columns: NAME, C type, text. */
#define ESP_DTYPE_LIST(X)                                                                                    \
    X(F32, float, "float32")                                                                                 \
    X(F64, double, "float64")                                                                                \
    X(I32, int32_t, "int32")                                                                                 \
    X(I64, int64_t, "int64")                                                                                 \
    X(U8, uint8_t, "uint8")                                                                                  \
    X(I8, int8_t, "int8")                                                                                    \
    X(I16, int16_t, "int16")                                                                                 \
    X(U16, uint16_t, "uint16")                                                                               \
    X(U32, uint32_t, "uint32")                                                                               \
    X(U64, uint64_t, "uint64")                                                                               \
    X(BOOL, uint8_t, "bool")

typedef enum esp_dtype {
#define ESP_DTYPE_ENUM(name, type, text) ESP_##name,
    ESP_DTYPE_LIST(ESP_DTYPE_ENUM)
#undef ESP_DTYPE_ENUM
} esp_dtype;

size_t esp_dtype_size(esp_dtype dtype);
const char *esp_dtype_name(esp_dtype dtype);
bool esp_dtype_is_signed(esp_dtype dtype); /* it has numbers below 0 */

/* How elements lie in memory. */
typedef enum esp_layout {
    ESP_LAYOUT_PLAIN,   /* row-major over the dims: NCHW for images */
    ESP_LAYOUT_BLOCKED, /* float images [N,C,H,W] as [N, ceil(C/16), H, W, 16]; what lies in the lanes past C
                           is undefined: nobody may let it reach a lane below C */
} esp_layout;

/* Channels of a block of ESP_LAYOUT_BLOCKED. */
enum { ESP_BLOCK = 16 };

typedef struct esp_shape {
    int rank; /* 0 = scalar */
    int64_t dims[ESP_MAX_RANK];
} esp_shape;

esp_shape esp_shape_make(int rank, const int64_t *dims);

/* Number of elements; -1 when a dim is negative or the product overflows int64. */
int64_t esp_shape_elements(const esp_shape *shape);
bool esp_shape_equal(const esp_shape *a, const esp_shape *b);

/* "1x64x56x56"; negative dims print as '?'; "scalar" for rank 0. Returns `buffer`. */
char *esp_shape_format(const esp_shape *shape, char *buffer, size_t size);

/* Row-major strides in elements. */
void esp_shape_strides(const esp_shape *shape, int64_t strides[ESP_MAX_RANK]);

/* ONNX multidirectional broadcasting of two shapes (operators' common rule); ESP_SHAPE when they do not fit.
 */
esp_status esp_shape_broadcast(const esp_shape *a, const esp_shape *b, esp_shape *out, esp_error *err);

/* A borrowed look at memory: what kernels take and give. Nobody owns anything through a view. */
typedef struct esp_view {
    void *data;
    esp_dtype dtype;
    esp_layout layout;
    esp_shape shape; /* the logical dims, in every layout: [N,C,H,W] for images */
    int64_t
        image_stride; /* elements from one image (index of dim 0) to the next; 0: they lie without gaps. Only
                         blocked views may have gaps: they can be a range of blocks of a wider tensor */
} esp_view;

/* Elements a view's storage spans when its images lie without gaps: those of the shape, channels rounded up
 * to whole blocks in blocked layout. */
int64_t esp_view_storage(const esp_view *view);

/* The distance between images, whether said or not. */
int64_t esp_view_image_stride(const esp_view *view);

static inline float *esp_view_f32(const esp_view *view)
{
    return (float *)view->data;
}

/* Element `index` of any type as a double. */
double esp_view_get_f64(const esp_view *view, int64_t index);

/* A tensor is immutable once it is shared; whoever holds the only reference may write into it. */
typedef struct esp_tensor esp_tensor;

/* Zero-filled. ESP_SHAPE for negative or overflowing dims. */
esp_status esp_tensor_new(esp_dtype dtype, const esp_shape *shape, esp_tensor **out, esp_error *err);

/* The same with undefined contents: for whoever writes all of them at once. */
esp_status esp_tensor_new_unset(esp_dtype dtype, const esp_shape *shape, esp_tensor **out, esp_error *err);

/* A tensor holding a copy of `data` (row-major, all elements). */
esp_status esp_tensor_from(esp_dtype dtype, const esp_shape *shape, const void *data, esp_tensor **out,
                           esp_error *err);

/* The same storage under another shape of as many elements. */
esp_status esp_tensor_reshape(const esp_tensor *tensor, const esp_shape *shape, esp_tensor **out,
                              esp_error *err);

/* A deep copy with one reference. */
esp_status esp_tensor_clone(const esp_tensor *tensor, esp_tensor **out, esp_error *err);

esp_tensor *esp_tensor_ref(const esp_tensor *tensor); /* thread-safe count; NULL gives NULL */
void esp_tensor_unref(esp_tensor *tensor);            /* NULL is allowed */

esp_dtype esp_tensor_dtype(const esp_tensor *tensor);
const esp_shape *esp_tensor_shape(const esp_tensor *tensor);
int64_t esp_tensor_elements(const esp_tensor *tensor);
const void *esp_tensor_data(const esp_tensor *tensor);
void *esp_tensor_data_mut(esp_tensor *tensor);
const float *esp_tensor_f32(const esp_tensor *tensor); /* asserts the type */
float *esp_tensor_f32_mut(esp_tensor *tensor);
esp_view esp_tensor_view(const esp_tensor *tensor);

/* Something made from a tensor's contents, such as packed weights: made once for a key (not 0) and a size,
 * shared by all tensors on the same storage and freed with it. `make` fills `derived` (`bytes` of it, aligned
 * to ESP_ALIGNMENT) and may be called from several threads for the same key; one result is kept. Writing into
 * the tensor afterwards (esp_tensor_data_mut) forgets what was derived. */
typedef esp_status esp_derive_fn(void *user, void *derived, esp_error *err);
esp_status esp_tensor_derived(const esp_tensor *tensor, uint64_t key, size_t bytes, esp_derive_fn *make,
                              void *user, const void **out, esp_error *err);

/* Frees the contents and keeps what was derived from them: for whoever knows that nobody will read them again
 * (they must not: the data is NULL from here on). False, and nothing happens, when other tensors share the
 * storage. */
bool esp_tensor_spend(const esp_tensor *tensor);
bool esp_tensor_is_spent(const esp_tensor *tensor);

/* Bytes of all that was derived from the tensor's storage. */
size_t esp_tensor_derived_bytes(const esp_tensor *tensor);

/* Same type, shape and bits. */
bool esp_tensor_equal(const esp_tensor *a, const esp_tensor *b);

/* Element `index` of any type as an integer (a real number must fit and loses its fraction; one of uint64
 * past int64 keeps its bits) or a double. */
int64_t esp_tensor_get_i64(const esp_tensor *tensor, int64_t index);
double esp_tensor_get_f64(const esp_tensor *tensor, int64_t index);

/* A new tensor whose `axis` holds the slices `indices[0..count)` of this one, in that order (repeats
 * allowed). */
esp_status esp_tensor_select(const esp_tensor *tensor, int axis, const int64_t *indices, int64_t count,
                             esp_tensor **out, esp_error *err);

#endif
