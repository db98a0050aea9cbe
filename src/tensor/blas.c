/* The only file that includes cblas.h.
 *
 * OpenBLAS would start threads of its own; espalier's pool does the splitting instead, so that one product is
 * always one thread's work and its bits do not depend on how many threads there are. */
#include "tensor/blas.h"

#include <cblas.h>
#include <pthread.h>

#if defined(OPENBLAS_VERSION)
static void limit_threads(void)
{
    openblas_set_num_threads(1);
}
const char *esp_blas_core(void)
{
    return openblas_get_corename();
}
#else
static void limit_threads(void) {}
const char *esp_blas_core(void)
{
    return "reference";
}
#endif

void esp_blas_start(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, limit_threads);
}

void esp_blas_gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
                   const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                   int64_t ldc)
{
    if (m == 0 || n == 0)
        return;
    if (k == 0) {
        for (int64_t i = 0; i < m * n; i++)
            c[i / n * ldc + i % n] = beta == 0.0f ? 0.0f : c[i / n * ldc + i % n] * beta;
        return;
    }
    esp_blas_start();
    /* sgemm would pack a matrix that is used once. */
    if (n == 1) {
        cblas_sgemv(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans, (blasint)(transpose_a ? k : m),
                    (blasint)(transpose_a ? m : k), alpha, a, (blasint)lda, b,
                    (blasint)(transpose_b ? 1 : ldb), beta, c, (blasint)ldc);
        return;
    }
    if (m == 1) {
        cblas_sgemv(CblasRowMajor, transpose_b ? CblasNoTrans : CblasTrans, (blasint)(transpose_b ? n : k),
                    (blasint)(transpose_b ? k : n), alpha, b, (blasint)ldb, a,
                    (blasint)(transpose_a ? lda : 1), beta, c, 1);
        return;
    }
    cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
                transpose_b ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n, (blasint)k, alpha, a,
                (blasint)lda, b, (blasint)ldb, beta, c, (blasint)ldc);
}

void esp_blas_gemm_f64(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
                       const double *a, int64_t lda, const double *b, int64_t ldb, double beta, double *c,
                       int64_t ldc)
{
    if (m == 0 || n == 0)
        return;
    esp_blas_start();
    cblas_dgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
                transpose_b ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n, (blasint)k, alpha, a,
                (blasint)lda, b, (blasint)ldb, beta, c, (blasint)ldc);
}

typedef struct gemm_job {
    bool transpose_a, transpose_b;
    int64_t m, n, k, lda, ldb, ldc;
    float alpha, beta;
    const float *a, *b;
    float *c;
    int64_t tile_m, tile_n, tiles_n;
} gemm_job;

static void gemm_tile(void *context, int64_t task, int slot)
{
    (void)slot;
    const gemm_job *job = context;
    int64_t m0 = task / job->tiles_n * job->tile_m, n0 = task % job->tiles_n * job->tile_n;
    int64_t m = job->m - m0 < job->tile_m ? job->m - m0 : job->tile_m;
    int64_t n = job->n - n0 < job->tile_n ? job->n - n0 : job->tile_n;
    const float *a = job->a + (job->transpose_a ? m0 : m0 * job->lda);
    const float *b = job->b + (job->transpose_b ? n0 * job->ldb : n0);
    esp_blas_gemm(job->transpose_a, job->transpose_b, m, n, job->k, job->alpha, a, job->lda, b, job->ldb,
                  job->beta, job->c + m0 * job->ldc + n0, job->ldc);
}

/* The larger of m and n is cut, into up to this many tiles of at least this many multiply-adds each. */
enum { MAX_TILES = 8, TILE_MACS = 1 << 21, TILE_SIDE = 64 };

static int64_t ceil_divide(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

esp_status esp_gemm(const esp_compute *compute, bool transpose_a, bool transpose_b, int64_t m, int64_t n,
                    int64_t k, float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                    float beta, float *c, int64_t ldc)
{
    gemm_job job = {.transpose_a = transpose_a,
                    .transpose_b = transpose_b,
                    .m = m,
                    .n = n,
                    .k = k,
                    .lda = lda,
                    .ldb = ldb,
                    .ldc = ldc,
                    .alpha = alpha,
                    .beta = beta,
                    .a = a,
                    .b = b,
                    .c = c,
                    .tile_m = m,
                    .tile_n = n,
                    .tiles_n = 1};
    if (m == 0 || n == 0)
        return ESP_OK;
    double macs = (double)m * (double)n * (double)k;
    int64_t tiles = macs < 2.0 * TILE_MACS                 ? 1
                    : macs > (double)MAX_TILES * TILE_MACS ? MAX_TILES
                                                           : (int64_t)(macs / TILE_MACS);
    if (m > n)
        job.tile_m = ceil_divide(ceil_divide(m, tiles), TILE_SIDE) * TILE_SIDE;
    else
        job.tile_n = ceil_divide(ceil_divide(n, tiles), TILE_SIDE) * TILE_SIDE;
    job.tiles_n = ceil_divide(n, job.tile_n);
    return esp_compute_run(compute, ceil_divide(m, job.tile_m) * job.tiles_n, gemm_tile, &job);
}
