/* The BLAS: the only door to OpenBLAS. Single-threaded per call; the pool splits work into tiles. Row-major.
 */
#ifndef ESP_TENSOR_BLAS_H
#define ESP_TENSOR_BLAS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compute.h"

/* Puts OpenBLAS at one thread per call. The products below see to it themselves; calling it early takes the
 * set-up out of the first one's time. Idempotent, thread-safe. */
void esp_blas_start(void);

/* Name of the kernel set OpenBLAS picked, e.g. "SkylakeX". */
const char *esp_blas_core(void);

/* C[m,n] = alpha * op(A)[m,k] * op(B)[k,n] + beta * C; ld* are row strides of the stored matrices. One
 * thread. */
void esp_blas_gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
                   const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                   int64_t ldc);

/* The same in double. */
void esp_blas_gemm_f64(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
                       const double *a, int64_t lda, const double *b, int64_t ldb, double beta, double *c,
                       int64_t ldc);

/* esp_blas_gemm, cut into tiles (by size only) over the pool. */
esp_status esp_gemm(const esp_compute *compute, bool transpose_a, bool transpose_b, int64_t m, int64_t n,
                    int64_t k, float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                    float beta, float *c, int64_t ldc);

#endif
