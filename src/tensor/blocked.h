/* Images in channel blocks (ESP_LAYOUT_BLOCKED): everything but convolution. Views are rank 4 and blocked
 * unless said otherwise, may have gaps between images, and what their lanes past C hold never matters. Sums
 * are made in a fixed order for any number of threads. */
#ifndef ESP_TENSOR_BLOCKED_H
#define ESP_TENSOR_BLOCKED_H

#include "base/compute.h"
#include "tensor/elementwise.h"
#include "tensor/pool2d.h"
#include "tensor/tensor.h"

/* to = from: same shape, either layout on either side. */
esp_status esp_layout_copy(const esp_compute *compute, const esp_view *from, const esp_view *to);

/* y = clip(x * scale[c] + shift[c] + residual). scale, shift [C], residual: each may be NULL. y may be x or
 * the residual. Evaluation of batch-norm, with what follows it. */
typedef struct esp_affine {
    const float *scale, *shift;
    const esp_view *residual;
    bool clips;
    float low, high;
} esp_affine;
esp_status esp_blocked_affine(const esp_compute *compute, const esp_view *x, const esp_affine *affine,
                              const esp_view *y);

/* Batch-norm in training form with what follows it (Ioffe and Szegedy 2015; norm.h has the plain form and the
 * rules for running statistics): y = clip((x - mean) * scale * inverse_std + bias + residual). */
typedef struct esp_norm_train {
    const float *scale, *bias; /* [C] */
    float epsilon, momentum;
    float *running_mean, *running_variance; /* [C], updated by forward; NULL in backward */
    float *saved_mean, *saved_inverse_std;  /* [C], forward to backward */
    const esp_view *residual;               /* NULL: none */
    bool clips;                             /* Relu: low 0, high infinity */
    float low, high;
} esp_norm_train;
/* Bytes of scratch memory (aligned to ESP_ALIGNMENT), the same forward and backward. */
size_t esp_blocked_norm_scratch(const esp_view *x);

esp_status esp_blocked_norm_train(const esp_compute *compute, const esp_norm_train *norm, const esp_view *x,
                                  const esp_view *y, void *scratch);

/* dy' = dy where y is strictly between low and high (everywhere without clip); dx, dscale, dbias overwritten;
 * dresidual (NULL: not wanted) gets dy', added when `adds_residual`. norm->residual says whether there was
 * one, as in forward, but is not read; without one y is not read either (it is found from x) and may be NULL.
 * dx may be dy, and so may dresidual when it is not added to. */
esp_status esp_blocked_norm_backward(const esp_compute *compute, const esp_norm_train *norm,
                                     const esp_view *x, const esp_view *y, const esp_view *dy,
                                     const esp_view *dx, float *dscale, float *dbias,
                                     const esp_view *dresidual, bool adds_residual, void *scratch);

/* Element-wise, y = f(x) / dx = dy f'(x): as esp_unary_forward and _backward, on blocked views of one shape.
 */
esp_status esp_blocked_unary(const esp_compute *compute, esp_unary_kind kind, float a, float b,
                             const esp_view *x, const esp_view *y);
esp_status esp_blocked_unary_backward(const esp_compute *compute, esp_unary_kind kind, float a, float b,
                                      const esp_view *x, const esp_view *y, const esp_view *dy,
                                      const esp_view *dx);

/* y = a op b. a has y's shape; b has it too, or is [N or 1, C or 1, 1, 1]: blocked, or plain when it is
 * [N or 1,C,1,1], [C,1,1] or a single number of any rank up to 4. y may be a, or b of the same shape. */
bool esp_blocked_binary_fits(const esp_shape *a, const esp_shape *b);
esp_status esp_blocked_binary(const esp_compute *compute, esp_binary_kind kind, const esp_view *a,
                              const esp_view *b, const esp_view *y);

/* Gradients (overwritten, each may be NULL) for a and b of one shape. ADD and SUB read neither a nor b: they
 * may be NULL. da may be dy when db is NULL. */
esp_status esp_blocked_binary_backward(const esp_compute *compute, esp_binary_kind kind, const esp_view *a,
                                       const esp_view *b, const esp_view *dy, const esp_view *da,
                                       const esp_view *db);

/* y += x, equal shapes. */
esp_status esp_blocked_accumulate(const esp_compute *compute, const esp_view *x, const esp_view *y);

/* Pooling, geometry and rules of pool2d.h. Max backward finds the first maximum of each window again from x.
 * Gradients overwrite dx. A window as large as the image is global pooling. */
esp_status esp_blocked_max_pool(const esp_compute *compute, const esp_pool2d_geometry *geometry,
                                const esp_view *x, const esp_view *y);
esp_status esp_blocked_max_pool_backward(const esp_compute *compute, const esp_pool2d_geometry *geometry,
                                         const esp_view *x, const esp_view *dy, const esp_view *dx);
esp_status esp_blocked_average_pool(const esp_compute *compute, const esp_pool2d_geometry *geometry,
                                    const esp_view *x, const esp_view *y);
esp_status esp_blocked_average_pool_backward(const esp_compute *compute, const esp_pool2d_geometry *geometry,
                                             const esp_view *dy, const esp_view *dx);

#endif
