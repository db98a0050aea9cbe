/* Products against the naive loops; the number of threads never changes a bit. */
#include "unit/tensor/check.h"

#include "oracle/oracle.h"
#include "tensor/blas.h"

typedef struct gemm_case {
    bool transpose_a, transpose_b;
    int64_t m, n, k, lda, ldb, ldc;
    float alpha, beta;
    pair a, b, c;
} gemm_case;

static gemm_case case_new(esp_rng *rng, int64_t m, int64_t n, int64_t k)
{
    gemm_case t = {
        .transpose_a = pick(rng, 0, 1) == 1, .transpose_b = pick(rng, 0, 1) == 1, .m = m, .n = n, .k = k};
    t.lda = (t.transpose_a ? m : k) + pick(rng, 0, 3);
    t.ldb = (t.transpose_b ? k : n) + pick(rng, 0, 3);
    t.ldc = n + pick(rng, 0, 3);
    t.alpha = pick(rng, 0, 1) == 1 ? 1.0f : -0.5f;
    t.beta = pick(rng, 0, 2) == 0 ? 0.75f : (float)pick(rng, 0, 1);
    t.a = pair_random(rng, (t.transpose_a ? k : m) * t.lda, -1.0, 1.0);
    t.b = pair_random(rng, (t.transpose_b ? n : k) * t.ldb, -1.0, 1.0);
    t.c = pair_random(rng, m * t.ldc, -1.0, 1.0);
    return t;
}

static void case_free(gemm_case *t)
{
    pair_free(t->a);
    pair_free(t->b);
    pair_free(t->c);
}

static esp_status multiply(const esp_compute *compute, const gemm_case *t, float *c)
{
    return esp_gemm(compute, t->transpose_a, t->transpose_b, t->m, t->n, t->k, t->alpha, t->a.f, t->lda,
                    t->b.f, t->ldb, t->beta, c, t->ldc);
}

static void products_agree_with_the_naive_loops(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 70);
    for (int i = 0; i < 200; i++) {
        gemm_case t = case_new(&rng, pick(&rng, 1, 40), pick(&rng, 1, 40), pick(&rng, 1, 70));
        oracle_gemm(t.transpose_a, t.transpose_b, t.m, t.n, t.k, (double)t.alpha, t.a.d, t.lda, t.b.d, t.ldb,
                    (double)t.beta, t.c.d, t.ldc);
        assert_int_equal(multiply(&all->compute[i % 4], &t, t.c.f), ESP_OK);
        assert_all_close("c", t.c.f, t.c.d, t.c.count, 5e-6);
        case_free(&t);
    }
}

static void matrix_times_vector_agrees_with_the_naive_loops(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 71);
    for (int i = 0; i < 100; i++) {
        bool is_row = i % 2 == 0;
        gemm_case t =
            case_new(&rng, is_row ? 1 : pick(&rng, 1, 90), is_row ? pick(&rng, 1, 90) : 1, pick(&rng, 1, 90));
        oracle_gemm(t.transpose_a, t.transpose_b, t.m, t.n, t.k, (double)t.alpha, t.a.d, t.lda, t.b.d, t.ldb,
                    (double)t.beta, t.c.d, t.ldc);
        assert_int_equal(multiply(&all->compute[i % 4], &t, t.c.f), ESP_OK);
        assert_all_close("c", t.c.f, t.c.d, t.c.count, 5e-6);
        case_free(&t);
    }
}

static void large_products_have_the_same_bits_for_one_two_and_three_threads(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 72);
    const int64_t sizes[][3] = {{300, 170, 200}, {130, 700, 150}, {1, 900, 900}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        gemm_case t = case_new(&rng, sizes[i][0], sizes[i][1], sizes[i][2]);
        float *one = floats_new(t.c.count), *many = floats_new(t.c.count);
        memcpy(one, t.c.f, (size_t)t.c.count * sizeof(float));
        assert_int_equal(multiply(&all->compute[1], &t, one), ESP_OK);
        for (int threads = 2; threads <= MOST_THREADS; threads++) {
            memcpy(many, t.c.f, (size_t)t.c.count * sizeof(float));
            assert_int_equal(multiply(&all->compute[threads], &t, many), ESP_OK);
            assert_same_bits("c", many, one, t.c.count);
        }
        oracle_gemm(t.transpose_a, t.transpose_b, t.m, t.n, t.k, (double)t.alpha, t.a.d, t.lda, t.b.d, t.ldb,
                    (double)t.beta, t.c.d, t.ldc);
        assert_all_close("c", one, t.c.d, t.c.count, 2e-5);
        free(one);
        free(many);
        case_free(&t);
    }
}

static void a_product_over_nothing_only_scales(void **state)
{
    (void)state;
    float c[] = {1.0f, 2.0f};
    assert_int_equal(esp_gemm(NULL, false, false, 1, 2, 0, 1.0f, c, 1, c, 2, 0.5f, c, 2), ESP_OK);
    assert_true(c[0] == 0.5f && c[1] == 1.0f);
    assert_int_equal(esp_gemm(NULL, false, false, 0, 2, 3, 1.0f, c, 3, c, 2, 0.0f, c, 2), ESP_OK);
}

static void the_core_has_a_name(void **state)
{
    (void)state;
    esp_blas_start();
    assert_true(strlen(esp_blas_core()) > 0);
}

static void a_cancelled_run_says_so(void **state)
{
    esp_cancel cancel;
    esp_compute compute = cancelled_compute(*state, &cancel);
    float a[1] = {1.0f}, c[1] = {0.0f};
    assert_int_equal(esp_gemm(&compute, false, false, 1, 1, 1, 1.0f, a, 1, a, 1, 0.0f, c, 1), ESP_CANCELLED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_agree_with_the_naive_loops),
        cmocka_unit_test(matrix_times_vector_agrees_with_the_naive_loops),
        cmocka_unit_test(large_products_have_the_same_bits_for_one_two_and_three_threads),
        cmocka_unit_test(a_product_over_nothing_only_scales),
        cmocka_unit_test(the_core_has_a_name),
        cmocka_unit_test(a_cancelled_run_says_so),
    };
    return cmocka_run_group_tests(tests, contexts_setup, contexts_teardown);
}
