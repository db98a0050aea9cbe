/* Blocks are cut by size alone, so results do not depend on the number of threads: the Gram matrix by rows, a
 * factorization by panels of 64 columns (Cholesky, right-looking: what is below and right of a panel is
 * updated by products), solutions by 64 targets. */
#include "prune/least_squares.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/blas.h"
#include "tensor/simd.h"

enum { BLOCK = 64, CHUNK = 512, MOST_TRIES = 12 };

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t blocks(int64_t count)
{
    return (count + BLOCK - 1) / BLOCK;
}

esp_status esp_normal_new(int64_t unknowns, int64_t targets, esp_normal *out, esp_error *err)
{
    esp_normal made = {.unknowns = unknowns, .targets = targets};
    made.gram = esp_alloc_zero((size_t)(unknowns * unknowns), sizeof *made.gram);
    made.cross = esp_alloc_zero((size_t)(unknowns * targets), sizeof *made.cross);
    made.sum_x = esp_alloc_zero((size_t)unknowns, sizeof *made.sum_x);
    made.sum_y = esp_alloc_zero((size_t)targets, sizeof *made.sum_y);
    made.squares = esp_alloc_zero((size_t)targets, sizeof *made.squares);
    if (!made.gram || !made.cross || !made.sum_x || !made.sum_y || !made.squares) {
        esp_normal_free(&made);
        return esp_fail_memory(err, "normal equations", (size_t)(unknowns * unknowns) * sizeof(double));
    }
    *out = made;
    return ESP_OK;
}

void esp_normal_free(esp_normal *normal)
{
    esp_free(normal->gram);
    esp_free(normal->cross);
    esp_free(normal->sum_x);
    esp_free(normal->sum_y);
    esp_free(normal->squares);
    *normal = (esp_normal){0};
}

/* ---- samples ---- */

typedef struct add_run {
    esp_normal *normal;
    int64_t rows;
    const double *x, *y;
} add_run;

/* A block of rows of the Gram matrix, up to the diagonal, and the same rows of the cross products. */
static void add_block(void *context, int64_t task, int slot)
{
    const add_run *run = context;
    esp_normal *normal = run->normal;
    int64_t n = normal->unknowns, first = task * BLOCK, count = least(BLOCK, n - first);

    (void)slot;
    esp_blas_gemm_f64(true, false, count, first + count, run->rows, 1, run->x + first, n, run->x, n, 1,
                      normal->gram + first * n, n);
    esp_blas_gemm_f64(true, false, count, normal->targets, run->rows, 1, run->x + first, n, run->y,
                      normal->targets, 1, normal->cross + first * normal->targets, normal->targets);
}

static void widen(int64_t count, const float *from, double *to)
{
    for (int64_t i = 0; i < count; i++)
        to[i] = (double)from[i];
}

static void add_sums(int64_t rows, int64_t width, const double *values, double *sums, double *squares)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i++) {
            double value = values[r * width + i];
            sums[i] += value;
            if (squares)
                squares[i] += value * value;
        }
}

esp_status esp_normal_add(const esp_compute *compute, esp_normal *normal, int64_t rows, const float *x,
                          const float *y, esp_error *err)
{
    int64_t n = normal->unknowns, t = normal->targets;
    double *buffer = esp_alloc((size_t)(least(rows, CHUNK) * (n + t)), sizeof *buffer);
    esp_status status = ESP_OK;

    if (!buffer)
        return esp_fail_memory(err, "normal equations",
                               (size_t)(least(rows, CHUNK) * (n + t)) * sizeof *buffer);
    for (int64_t first = 0; status == ESP_OK && first < rows; first += CHUNK) {
        int64_t count = least(CHUNK, rows - first);
        double *x64 = buffer, *y64 = buffer + count * n;
        add_run run = {normal, count, x64, y64};
        widen(count * n, x + first * n, x64);
        widen(count * t, y + first * t, y64);
        add_sums(count, n, x64, normal->sum_x, NULL);
        add_sums(count, t, y64, normal->sum_y, normal->squares);
        normal->samples += count;
        if (esp_compute_run(compute, blocks(n), add_block, &run) != ESP_OK)
            status = esp_fail(err, ESP_CANCELLED, "cancelled");
    }
    esp_free(buffer);
    return status;
}

void esp_normal_center(esp_normal *normal)
{
    int64_t n = normal->unknowns, t = normal->targets;
    double share = normal->samples ? 1 / (double)normal->samples : 0;

    if (normal->is_centered)
        return;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j <= i; j++)
            normal->gram[i * n + j] -= normal->sum_x[i] * normal->sum_x[j] * share;
        for (int64_t j = 0; j < t; j++)
            normal->cross[i * t + j] -= normal->sum_x[i] * normal->sum_y[j] * share;
    }
    for (int64_t j = 0; j < t; j++)
        normal->squares[j] -= normal->sum_y[j] * normal->sum_y[j] * share;
    normal->is_centered = true;
}

/* ---- Cholesky: A = L L', the lower half of a [n, n] ---- */

typedef struct factor {
    int64_t n;
    double *a;
    int64_t panel; /* first column */
} factor;

static bool factor_diagonal(const factor *it, int64_t width)
{
    double *block = it->a + it->panel * it->n + it->panel;

    for (int64_t j = 0; j < width; j++) {
        double diagonal = block[j * it->n + j];
        for (int64_t k = 0; k < j; k++)
            diagonal -= block[j * it->n + k] * block[j * it->n + k];
        if (!(diagonal > 0) || !isfinite(diagonal))
            return false;
        diagonal = sqrt(diagonal);
        block[j * it->n + j] = diagonal;
        for (int64_t i = j + 1; i < width; i++) {
            double value = block[i * it->n + j];
            for (int64_t k = 0; k < j; k++)
                value -= block[i * it->n + k] * block[j * it->n + k];
            block[i * it->n + j] = value / diagonal;
        }
    }
    return true;
}

/* A block of rows below the panel's diagonal: rows <- rows * L11^-T. */
static void solve_rows(void *context, int64_t task, int slot)
{
    const factor *it = context;
    const double *diagonal = it->a + it->panel * it->n + it->panel;
    int64_t first = it->panel + (task + 1) * BLOCK, end = least(first + BLOCK, it->n);

    (void)slot;
    for (int64_t i = first; i < end; i++) {
        double *row = it->a + i * it->n + it->panel;
        for (int64_t j = 0; j < BLOCK; j++) {
            double value = row[j];
            for (int64_t k = 0; k < j; k++)
                value -= row[k] * diagonal[j * it->n + k];
            row[j] = value / diagonal[j * it->n + j];
        }
    }
}

/* The rest of a block of rows, up to the diagonal: A22 -= L21 L21'. */
static void update_rows(void *context, int64_t task, int slot)
{
    const factor *it = context;
    int64_t next = it->panel + BLOCK, first = next + task * BLOCK, count = least(BLOCK, it->n - first);
    const double *panel = it->a + it->panel;

    (void)slot;
    esp_blas_gemm_f64(false, true, count, first + count - next, BLOCK, -1, panel + first * it->n, it->n,
                      panel + next * it->n, it->n, 1, it->a + first * it->n + next, it->n);
}

/* `*is_definite` is false when A is not positive definite in double. */
static esp_status factorize(const esp_compute *compute, int64_t n, double *a, bool *is_definite)
{
    factor it = {n, a, 0};
    esp_status status = ESP_OK;

    *is_definite = true;
    for (; status == ESP_OK && it.panel < n; it.panel += BLOCK) {
        int64_t below = blocks(n - it.panel) - 1;
        if (!factor_diagonal(&it, least(BLOCK, n - it.panel))) {
            *is_definite = false;
            return ESP_OK;
        }
        status = esp_compute_run(compute, below, solve_rows, &it);
        if (status == ESP_OK)
            status = esp_compute_run(compute, below, update_rows, &it);
    }
    return status;
}

/* ---- solving ---- */

typedef struct solve_run {
    int64_t n, targets;
    const double *l; /* [n, n] */
    double *b;       /* [n, targets]: right sides, then solutions */
} solve_run;

static void forward(const solve_run *run, double *b, int64_t width)
{
    for (int64_t first = 0; first < run->n; first += BLOCK) {
        int64_t end = least(first + BLOCK, run->n);
        for (int64_t i = first; i < end; i++) {
            const double *row = run->l + i * run->n;
            for (int64_t k = first; k < i; k++)
                for (int64_t t = 0; t < width; t++)
                    b[i * run->targets + t] -= row[k] * b[k * run->targets + t];
            for (int64_t t = 0; t < width; t++)
                b[i * run->targets + t] /= row[i];
        }
        esp_blas_gemm_f64(false, false, run->n - end, width, end - first, -1, run->l + end * run->n + first,
                          run->n, b + first * run->targets, run->targets, 1, b + end * run->targets,
                          run->targets);
    }
}

static void backward(const solve_run *run, double *b, int64_t width)
{
    for (int64_t first = (blocks(run->n) - 1) * BLOCK; first >= 0; first -= BLOCK) {
        int64_t end = least(first + BLOCK, run->n);
        for (int64_t i = end; i-- > first;) {
            for (int64_t k = i + 1; k < end; k++)
                for (int64_t t = 0; t < width; t++)
                    b[i * run->targets + t] -= run->l[k * run->n + i] * b[k * run->targets + t];
            for (int64_t t = 0; t < width; t++)
                b[i * run->targets + t] /= run->l[i * run->n + i];
        }
        esp_blas_gemm_f64(true, false, first, width, end - first, -1, run->l + first * run->n, run->n,
                          b + first * run->targets, run->targets, 1, b, run->targets);
    }
}

static void solve_targets(void *context, int64_t task, int slot)
{
    const solve_run *run = context;
    int64_t first = task * BLOCK, width = least(BLOCK, run->targets - first);

    (void)slot;
    forward(run, run->b + first, width);
    backward(run, run->b + first, width);
}

static double gram_at(const esp_normal *normal, int64_t i, int64_t j)
{
    return i >= j ? normal->gram[i * normal->unknowns + j] : normal->gram[j * normal->unknowns + i];
}

static double mean_diagonal(const esp_normal *normal, int64_t n, const int64_t *columns)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += gram_at(normal, columns[i], columns[i]);
    return n ? sum / (double)n : 0;
}

/* The lower half of the system's matrix. */
static void fill_matrix(const esp_normal *normal, int64_t n, const int64_t *columns, double lambda, double *a)
{
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j <= i; j++)
            a[i * n + j] = gram_at(normal, columns[i], columns[j]);
        a[i * n + i] += lambda;
    }
}

esp_status esp_normal_solve(const esp_compute *compute, const esp_normal *normal, int64_t column_count,
                            const int64_t *columns, int64_t target_count, const int64_t *targets,
                            double lambda, const double *start, double *out, esp_error *err)
{
    int64_t n = column_count;
    double *a = esp_alloc((size_t)(n * n), sizeof *a);
    double *b = esp_alloc((size_t)(n * target_count), sizeof *b);
    bool is_definite = false;
    esp_status status = ESP_OK;

    if (!a || !b)
        status = esp_fail_memory(err, "normal equations", (size_t)(n * n) * sizeof *a);
    for (int tries = 0; status == ESP_OK && !is_definite && tries < MOST_TRIES; tries++) {
        if (tries)
            lambda = fmax(10 * lambda, 1e-14 * mean_diagonal(normal, n, columns));
        fill_matrix(normal, n, columns, lambda, a);
        if (factorize(compute, n, a, &is_definite) != ESP_OK)
            status = esp_fail(err, ESP_CANCELLED, "cancelled");
    }
    if (status == ESP_OK && !is_definite)
        status = esp_fail(err, ESP_INVALID, "least squares: the equations of %lld unknowns have no solution",
                          (long long)n);
    if (status == ESP_OK) {
        solve_run run = {n, target_count, a, b};
        for (int64_t i = 0; i < n; i++)
            for (int64_t t = 0; t < target_count; t++)
                b[i * target_count + t] =
                    normal->cross[columns[i] * normal->targets + targets[t]] + lambda * start[t * n + i];
        if (esp_compute_run(compute, blocks(target_count), solve_targets, &run) != ESP_OK)
            status = esp_fail(err, ESP_CANCELLED, "cancelled");
    }
    for (int64_t i = 0; status == ESP_OK && i < n; i++)
        for (int64_t t = 0; t < target_count; t++)
            out[t * n + i] = b[i * target_count + t];
    esp_free(a);
    esp_free(b);
    return status;
}

/* ---- what a fit leaves over ---- */

enum { ABREAST = 8 }; /* targets that share a pass over the Gram matrix */

typedef double abreast __attribute__((vector_size(ABREAST * sizeof(double))));

typedef struct residual_run {
    const esp_normal *normal;
    int64_t column_count, target_count;
    const int64_t *columns, *targets;
    const double *w; /* [target_count, column_count] */
    abreast *turned; /* [blocks, column_count]: w with targets abreast, 0 behind the last */
    double *out;
} residual_run;

static void turn_weights(const residual_run *run, int64_t first, abreast *out)
{
    for (int64_t i = 0; i < run->column_count; i++)
        for (int64_t t = 0; t < ABREAST; t++)
            out[i][t] = first + t < run->target_count ? run->w[(first + t) * run->column_count + i] : 0;
}

/* w'Gw from the lower half: sum over i of w_i (2 sum over j < i of G_ij w_j + G_ii w_i). */
ESP_SIMD_CLONES static void add_quadratic(const esp_normal *normal, int64_t count, const int64_t *columns,
                                          const abreast *w, abreast *sum)
{
    for (int64_t i = 0; i < count; i++) {
        const double *row = normal->gram + columns[i] * normal->unknowns;
        abreast even = {0}, odd = {0};
        int64_t j = 0;
        for (; j + 2 <= i; j += 2) {
            even += row[columns[j]] * w[j];
            odd += row[columns[j + 1]] * w[j + 1];
        }
        if (j < i)
            even += row[columns[j]] * w[j];
        *sum += w[i] * (2 * (even + odd) + row[columns[i]] * w[i]);
    }
}

static void residual_task(void *context, int64_t task, int slot)
{
    const residual_run *run = context;
    const esp_normal *normal = run->normal;
    int64_t first = task * ABREAST;
    abreast *w = run->turned + task * run->column_count, sum = {0};

    (void)slot;
    turn_weights(run, first, w);
    add_quadratic(normal, run->column_count, run->columns, w, &sum);
    for (int64_t t = first; t < first + ABREAST && t < run->target_count; t++) {
        int64_t target = run->targets[t];
        double left = normal->squares[target] + sum[t - first];
        for (int64_t i = 0; i < run->column_count; i++)
            left -= 2 * run->w[t * run->column_count + i] *
                    normal->cross[run->columns[i] * normal->targets + target];
        run->out[t] = left > 0 ? left : 0;
    }
}

esp_status esp_normal_residuals(const esp_compute *compute, const esp_normal *normal, int64_t column_count,
                                const int64_t *columns, int64_t target_count, const int64_t *targets,
                                const double *w, double *out, esp_error *err)
{
    int64_t tasks = (target_count + ABREAST - 1) / ABREAST;
    residual_run run = {normal, column_count, target_count, columns, targets, w, NULL, out};
    esp_status status;

    run.turned = esp_alloc((size_t)(tasks * column_count), sizeof *run.turned);
    if (!run.turned)
        return esp_fail_memory(err, "residuals", (size_t)(tasks * column_count) * sizeof *run.turned);
    status = esp_compute_run(compute, tasks, residual_task, &run);
    esp_free(run.turned);
    return status == ESP_OK ? ESP_OK : esp_fail(err, ESP_CANCELLED, "cancelled");
}
