/* k-means: known partitions, options, ends of the range, threads. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "prune/kmeans.h"
#include "unit/base/scratch.h"

static esp_kmeans_result cluster(const float *rows, int64_t count, int64_t columns,
                                 const esp_kmeans_options *options)
{
    esp_kmeans_result result;
    esp_error err = {0};

    if (esp_kmeans(NULL, rows, count, columns, options, &result, &err) != ESP_OK)
        fail_msg("%s", err.message);
    return result;
}

static void fill_normal(float *rows, int64_t count, uint64_t seed)
{
    esp_rng rng;

    esp_rng_seed(&rng, seed);
    for (int64_t i = 0; i < count; i++)
        rows[i] = (float)esp_rng_normal(&rng);
}

/* Squared distances of all rows to the means of their clusters, by the definition. */
static double inertia_of(const float *rows, int64_t count, int64_t columns, const int32_t *labels, int64_t k)
{
    double inertia = 0;

    for (int64_t g = 0; g < k; g++)
        for (int64_t i = 0; i < columns; i++) {
            double mean = 0, members = 0;
            for (int64_t row = 0; row < count; row++)
                if (labels[row] == g) {
                    mean += (double)rows[row * columns + i];
                    members++;
                }
            for (int64_t row = 0; row < count; row++)
                if (labels[row] == g)
                    inertia += pow((double)rows[row * columns + i] - mean / members, 2);
        }
    return inertia;
}

static void kmeans_finds_groups_that_lie_far_apart(void **state)
{
    float rows[40 * 3];
    esp_kmeans_options options = esp_kmeans_defaults();
    (void)state;

    fill_normal(rows, 120, 1);
    for (int row = 0; row < 40; row++)
        rows[row * 3 + row % 3] += 100;
    options.k = 3;
    esp_kmeans_result result = cluster(rows, 40, 3, &options);
    assert_int_equal(result.k, 3);
    for (int row = 3; row < 40; row++)
        assert_int_equal(result.labels[row], result.labels[row % 3]);
    assert_int_not_equal(result.labels[0], result.labels[1]);
    assert_int_not_equal(result.labels[0], result.labels[2]);
    assert_int_not_equal(result.labels[1], result.labels[2]);
    esp_kmeans_free(&result);
}

static void kmeans_reports_means_and_inertia_of_its_labels(void **state)
{
    float rows[60 * 7];
    esp_kmeans_options options = esp_kmeans_defaults();
    (void)state;

    fill_normal(rows, 420, 2);
    options.k = 9;
    esp_kmeans_result result = cluster(rows, 60, 7, &options);
    double members = 0, mean = 0;
    for (int row = 0; row < 60; row++)
        if (result.labels[row] == 4) {
            members++;
            mean += (double)rows[row * 7 + 5];
        }
    assert_true(members > 0);
    assert_true(fabs(result.centroids[4 * 7 + 5] - mean / members) < 1e-12);
    assert_true(fabs(result.inertia - inertia_of(rows, 60, 7, result.labels, 9)) < 1e-9);
    esp_kmeans_free(&result);
}

/* All 2^(n-1) splits of a few rows in two. */
static double best_split(const float *rows, int64_t count, int64_t columns)
{
    double best = INFINITY;

    for (int64_t split = 1; split < (int64_t)1 << (count - 1); split++) {
        int32_t labels[16];
        for (int64_t row = 0; row < count; row++)
            labels[row] = (int32_t)(split >> row & 1);
        best = fmin(best, inertia_of(rows, count, columns, labels, 2));
    }
    return best;
}

static void kmeans_reaches_the_best_split_of_a_few_rows(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 5; seed++) {
        float rows[10 * 4];
        esp_kmeans_options options = esp_kmeans_defaults();
        fill_normal(rows, 40, 100 + seed);
        options.k = 2;
        esp_kmeans_result result = cluster(rows, 10, 4, &options);
        assert_true(result.inertia <= best_split(rows, 10, 4) * (1 + 1e-9));
        esp_kmeans_free(&result);
    }
}

static void kmeans_ends_where_no_single_row_wants_to_move(void **state)
{
    float rows[48 * 8];
    int32_t labels[48];
    esp_kmeans_options options = esp_kmeans_defaults();
    (void)state;

    fill_normal(rows, 48 * 8, 3);
    options.restarts = 1;
    esp_kmeans_result result = cluster(rows, 48, 8, &options);
    for (int row = 0; row < 48; row++)
        for (int32_t g = 0; g < 16; g++) {
            int members = 0;
            for (int other = 0; other < 48; other++)
                members += result.labels[other] == result.labels[row];
            if (members == 1)
                continue;
            memcpy(labels, result.labels, sizeof labels);
            labels[row] = g;
            assert_true(inertia_of(rows, 48, 8, labels, 16) >= result.inertia * (1 - 1e-4));
        }
    esp_kmeans_free(&result);
}

static void kmeans_is_the_same_for_any_number_of_threads(void **state)
{
    float rows[200 * 20];
    esp_kmeans_options options = esp_kmeans_defaults();
    esp_kmeans_result shared;
    esp_pool *pool;
    esp_error err = {0};
    (void)state;

    fill_normal(rows, 4000, 4);
    esp_kmeans_result alone = cluster(rows, 200, 20, &options);
    assert_int_equal(esp_pool_new(3, &pool, &err), ESP_OK);
    esp_compute compute = {.pool = pool};
    assert_int_equal(esp_kmeans(&compute, rows, 200, 20, &options, &shared, &err), ESP_OK);
    assert_memory_equal(alone.labels, shared.labels, 200 * sizeof *alone.labels);
    assert_memory_equal(alone.centroids, shared.centroids, 16 * 20 * sizeof *alone.centroids);
    assert_true(alone.inertia == shared.inertia);
    esp_kmeans_free(&alone);
    esp_kmeans_free(&shared);
    esp_pool_free(pool);
}

/* Textbook Lloyd in double from random rows, the best of 20. */
static double naive_inertia(const float *rows, int64_t count, int64_t columns, int32_t k, uint64_t seed)
{
    double *means = esp_alloc((size_t)(k * columns), sizeof *means), best = INFINITY;
    int32_t *labels = esp_alloc((size_t)count, sizeof *labels);
    esp_rng rng;

    esp_rng_seed(&rng, seed);
    for (int restart = 0; restart < 20; restart++) {
        for (int64_t i = 0; i < k * columns; i++)
            means[i] = (double)
                rows[(i / columns * 7 + (int64_t)esp_rng_below(&rng, 5)) % count * columns + i % columns];
        for (int iteration = 0; iteration < 30; iteration++) {
            for (int64_t row = 0; row < count; row++) {
                double least = INFINITY;
                for (int32_t g = 0; g < k; g++) {
                    double square = 0;
                    for (int64_t i = 0; i < columns; i++)
                        square += pow((double)rows[row * columns + i] - means[g * columns + i], 2);
                    labels[row] = square < least ? g : labels[row];
                    least = fmin(least, square);
                }
            }
            for (int64_t i = 0; i < k * columns; i++) {
                double sum = 0, members = 0;
                for (int64_t row = 0; row < count; row++)
                    if (labels[row] == i / columns) {
                        sum += (double)rows[row * columns + i % columns];
                        members++;
                    }
                means[i] = members > 0 ? sum / members : means[i];
            }
        }
        best = fmin(best, inertia_of(rows, count, columns, labels, k));
    }
    esp_free(means);
    esp_free(labels);
    return best;
}

/* Few restarts of many rows go by the rows, the others by the products of all pairs. */
static void kmeans_is_not_worse_than_a_naive_lloyd_on_any_shape(void **state)
{
    static const struct {
        int64_t count, columns, k;
        int restarts;
    } cases[] = {{60, 5, 4, 10},  {90, 40, 8, 10}, {130, 3, 6, 10},
                 {230, 9, 3, 10}, {260, 6, 2, 2},  {330, 3, 5, 1}};
    (void)state;

    for (uint64_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t count = cases[i].count, columns = cases[i].columns;
        float *rows = esp_alloc((size_t)(count * columns), sizeof *rows);
        esp_kmeans_options options = esp_kmeans_defaults();
        fill_normal(rows, count * columns, 20 + i);
        options.k = cases[i].k;
        options.restarts = cases[i].restarts;
        esp_kmeans_result result = cluster(rows, count, columns, &options);
        double naive = naive_inertia(rows, count, columns, (int32_t)options.k, i);
        double found = inertia_of(rows, count, columns, result.labels, result.k);
        assert_true(fabs(found - result.inertia) < 1e-9 * found);
        /* one or two restarts against twenty */
        if (found > naive * (options.restarts > 2 ? 1.005 : 1.05))
            fail_msg("%lld rows: inertia %g, a naive search finds %g", (long long)count, found, naive);
        esp_kmeans_free(&result);
        esp_free(rows);
    }
}

static void kmeans_of_scaled_rows_is_the_same(void **state)
{
    float rows[200 * 6], scaled[200 * 6];
    static const float scales[] = {0x1p-90F, 0x1p-20F, 0x1p30F, 0x1p100F};
    esp_kmeans_options options = esp_kmeans_defaults();
    (void)state;

    fill_normal(rows, 1200, 12);
    esp_kmeans_result plain = cluster(rows, 200, 6, &options);
    for (int s = 0; s < 4; s++) {
        for (int i = 0; i < 1200; i++)
            scaled[i] = rows[i] * scales[s];
        esp_kmeans_result result = cluster(scaled, 200, 6, &options);
        assert_memory_equal(plain.labels, result.labels, 200 * sizeof *plain.labels);
        esp_kmeans_free(&result);
    }
    esp_kmeans_free(&plain);
}

static void kmeans_tells_rows_apart_beside_one_that_lies_far_off(void **state)
{
    float rows[61 * 4];
    esp_kmeans_options options = esp_kmeans_defaults();
    (void)state;

    fill_normal(rows, 61 * 4, 13);
    for (int i = 0; i < 61 * 4; i++)
        rows[i] = rows[i] * 0.1F + 1e4F + (float)(i / 4 % 3);
    for (int i = 0; i < 4; i++)
        rows[i] = 1e6F;
    options.k = 4;
    esp_kmeans_result result = cluster(rows, 61, 4, &options);
    for (int row = 4; row < 61; row++)
        assert_int_equal(result.labels[row], result.labels[1 + (row - 1) % 3]);
    assert_true(result.inertia < 60 * 4 * 0.02);
    esp_kmeans_free(&result);
}

static void kmeans_of_several_tiles_and_panels_is_the_same_for_any_number_of_threads(void **state)
{
    static const int64_t shapes[][3] = {{300, 530, 16}, {40, 20, 16}, {700, 4, 2}};
    esp_kmeans_job jobs[3];
    esp_kmeans_result alone[3], shared[3];
    esp_pool *pool;
    esp_error err = {0};
    (void)state;

    for (int j = 0; j < 3; j++) {
        float *rows = esp_alloc((size_t)(shapes[j][0] * shapes[j][1]), sizeof *rows);
        fill_normal(rows, shapes[j][0] * shapes[j][1], 30 + (uint64_t)j);
        jobs[j] = (esp_kmeans_job){rows, shapes[j][0], shapes[j][1], esp_kmeans_defaults()};
        jobs[j].options.k = shapes[j][2];
        jobs[j].options.restarts = 3;
    }
    assert_int_equal(esp_pool_new(3, &pool, &err), ESP_OK);
    esp_compute compute = {.pool = pool};
    assert_int_equal(esp_kmeans_batch(NULL, jobs, 3, alone, &err), ESP_OK);
    assert_int_equal(esp_kmeans_batch(&compute, jobs, 3, shared, &err), ESP_OK);
    for (int j = 0; j < 3; j++) {
        assert_memory_equal(alone[j].labels, shared[j].labels, (size_t)jobs[j].count * sizeof(int32_t));
        assert_true(alone[j].inertia == shared[j].inertia);
        esp_kmeans_free(&alone[j]);
        esp_kmeans_free(&shared[j]);
        esp_free((float *)(uintptr_t)jobs[j].rows);
    }
    esp_pool_free(pool);
}

static void kmeans_on_rows_survives_what_kmeans_on_products_does(void **state)
{
    float rows[200 * 2] = {0};
    esp_kmeans_options options = {.k = 2, .restarts = 1, .max_iterations = 300};
    (void)state;

    /* equal rows but one: the other cluster runs empty at once and takes it */
    rows[77] = 4;
    for (options.seed = 0; options.seed < 3; options.seed++)
        for (int init = 0; init < 2; init++) {
            options.init = init ? ESP_KMEANS_PLUS_PLUS : ESP_KMEANS_RANDOM;
            esp_kmeans_result result = cluster(rows, 200, 2, &options);
            assert_int_equal(result.k, 2);
            assert_true(result.inertia == 0);
            assert_int_not_equal(result.labels[38], result.labels[37]);
            esp_kmeans_free(&result);
        }
}

static void kmeans_batch_gives_each_job_what_it_would_get_alone(void **state)
{
    float a[30 * 4], b[50 * 6];
    esp_kmeans_options options = esp_kmeans_defaults();
    esp_kmeans_result both[2];
    esp_error err = {0};
    (void)state;

    fill_normal(a, 120, 5);
    fill_normal(b, 300, 6);
    esp_kmeans_job jobs[] = {{a, 30, 4, options}, {b, 50, 6, options}};
    jobs[1].options.k = 5;
    assert_int_equal(esp_kmeans_batch(NULL, jobs, 2, both, &err), ESP_OK);
    for (int j = 0; j < 2; j++) {
        esp_kmeans_result one = cluster(jobs[j].rows, jobs[j].count, jobs[j].columns, &jobs[j].options);
        assert_memory_equal(one.labels, both[j].labels, (size_t)jobs[j].count * sizeof *one.labels);
        esp_kmeans_free(&one);
        esp_kmeans_free(&both[j]);
    }
}

/* Jobs on the same rows share their products, also when others on rows of the same size lie between them and
 * when some want none. */
static void kmeans_batch_on_the_same_rows_gives_each_k_what_it_would_get_alone(void **state)
{
    enum { COUNT = 90, COLUMNS = 5, JOBS = 12 };
    static float a[COUNT * COLUMNS], b[COUNT * COLUMNS];
    esp_kmeans_job jobs[JOBS];
    esp_kmeans_result all[JOBS];
    esp_error err = {0};
    (void)state;

    fill_normal(a, COUNT * COLUMNS, 15);
    fill_normal(b, COUNT * COLUMNS, 16);
    for (int j = 0; j < JOBS; j++) {
        jobs[j] = (esp_kmeans_job){j % 3 == 2 ? b : a, COUNT, COLUMNS, esp_kmeans_defaults()};
        jobs[j].options.k = j == 6 ? COUNT : 1 + j;
        jobs[j].options.restarts = 3;
    }
    jobs[1].columns = 4; /* the same memory as another matrix */
    assert_int_equal(esp_kmeans_batch(NULL, jobs, JOBS, all, &err), ESP_OK);
    for (int j = 0; j < JOBS; j++) {
        esp_kmeans_result one = cluster(jobs[j].rows, COUNT, jobs[j].columns, &jobs[j].options);
        assert_int_equal(one.k, all[j].k);
        assert_memory_equal(one.labels, all[j].labels, COUNT * sizeof *one.labels);
        assert_true(one.inertia == all[j].inertia);
        esp_kmeans_free(&one);
        esp_kmeans_free(&all[j]);
    }
}

static void kmeans_seed_changes_the_start_and_repeats_it(void **state)
{
    float rows[100 * 5];
    esp_kmeans_options options = esp_kmeans_defaults();
    (void)state;

    fill_normal(rows, 500, 7);
    options.restarts = 1;
    esp_kmeans_result first = cluster(rows, 100, 5, &options), again = cluster(rows, 100, 5, &options);
    options.seed = 1;
    esp_kmeans_result other = cluster(rows, 100, 5, &options);
    assert_memory_equal(first.labels, again.labels, 100 * sizeof *first.labels);
    assert_memory_not_equal(first.labels, other.labels, 100 * sizeof *first.labels);
    esp_kmeans_free(&first);
    esp_kmeans_free(&again);
    esp_kmeans_free(&other);
}

static void kmeans_more_restarts_are_never_worse(void **state)
{
    float rows[150 * 6];
    esp_kmeans_options options = esp_kmeans_defaults();
    double last = INFINITY, first = 0;
    (void)state;

    fill_normal(rows, 900, 8);
    for (options.restarts = 1; options.restarts <= 32; options.restarts *= 2) {
        esp_kmeans_result result = cluster(rows, 150, 6, &options);
        first = options.restarts == 1 ? result.inertia : first;
        assert_true(result.inertia <= last);
        last = result.inertia;
        esp_kmeans_free(&result);
    }
    assert_true(last < first);
}

static void kmeans_plus_plus_starts_apart(void **state)
{
    float rows[60];
    esp_kmeans_options options = esp_kmeans_defaults();
    (void)state;

    /* 57 rows close together and 3 far out: random rows hardly ever hit the three, kmeans++ does at once */
    fill_normal(rows, 60, 9);
    rows[57] = 1e5F;
    rows[58] = 2e5F;
    rows[59] = 3e5F;
    options = (esp_kmeans_options){.k = 4, .restarts = 1, .max_iterations = 1, .init = ESP_KMEANS_PLUS_PLUS};
    esp_kmeans_result result = cluster(rows, 60, 1, &options);
    assert_true(result.inertia < 1e3);
    esp_kmeans_free(&result);
    options.init = ESP_KMEANS_RANDOM;
    result = cluster(rows, 60, 1, &options);
    assert_true(result.inertia > 1e6);
    esp_kmeans_free(&result);
}

static void kmeans_with_as_many_clusters_as_rows_gives_each_its_own(void **state)
{
    float rows[10 * 2];
    esp_kmeans_options options = esp_kmeans_defaults();
    (void)state;

    fill_normal(rows, 20, 10);
    esp_kmeans_result result = cluster(rows, 10, 2, &options); /* k = 16 */
    assert_int_equal(result.k, 10);
    assert_true(result.inertia == 0);
    for (int32_t row = 0; row < 10; row++)
        for (int32_t other = 0; other < row; other++)
            assert_int_not_equal(result.labels[row], result.labels[other]);
    esp_kmeans_free(&result);
}

static void kmeans_of_few_distinct_rows_has_a_member_in_every_cluster(void **state)
{
    float rows[40 * 2];
    esp_kmeans_options options = esp_kmeans_defaults();
    (void)state;

    for (int row = 0; row < 40; row++)
        rows[row * 2] = rows[row * 2 + 1] = (float)(row % 3);
    esp_kmeans_result result = cluster(rows, 40, 2, &options);
    assert_int_equal(result.k, 3);
    assert_true(result.inertia < 1e-12);
    esp_kmeans_free(&result);

    memset(rows, 0, sizeof rows);
    result = cluster(rows, 40, 2, &options);
    assert_int_equal(result.k, 1);
    esp_kmeans_free(&result);
}

static void kmeans_gives_empty_clusters_the_farthest_row(void **state)
{
    float rows[40] = {[3] = 10, [17] = 20, [38] = 30};
    esp_kmeans_options options = {.k = 4, .restarts = 1, .max_iterations = 300, .tolerance = 1e-4};
    (void)state;

    /* a random start nearly always picks equal rows, and all but one of their clusters run empty at once */
    for (options.seed = 0; options.seed < 5; options.seed++) {
        esp_kmeans_result result = cluster(rows, 40, 1, &options);
        assert_int_equal(result.k, 4);
        assert_true(result.inertia == 0);
        esp_kmeans_free(&result);
    }
}

static void kmeans_refuses_what_it_cannot_cluster(void **state)
{
    float rows[20] = {0};
    esp_kmeans_options options = esp_kmeans_defaults();
    esp_kmeans_result result;
    esp_error err = {0};
    (void)state;

    options.k = 0;
    assert_int_equal(esp_kmeans(NULL, rows, 10, 2, &options, &result, &err), ESP_INVALID);
    assert_null(result.labels);
    options.k = 2;
    options.restarts = 0;
    assert_int_equal(esp_kmeans(NULL, rows, 10, 2, &options, &result, &err), ESP_INVALID);
    options.restarts = 1;
    rows[13] = NAN;
    assert_int_equal(esp_kmeans(NULL, rows, 10, 2, &options, &result, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "row 6"));
}

static void kmeans_stops_when_cancelled(void **state)
{
    float rows[100] = {0};
    esp_kmeans_options options = esp_kmeans_defaults();
    esp_cancel cancel = {false};
    esp_compute compute = {.cancel = &cancel};
    esp_kmeans_result result;
    esp_error err = {0};
    (void)state;

    esp_cancel_request(&cancel);
    assert_int_equal(esp_kmeans(&compute, rows, 50, 2, &options, &result, &err), ESP_CANCELLED);
    assert_null(result.labels);
}

static void kmeans_survives_every_failed_allocation(void **state)
{
    float rows[100 * 3];
    esp_kmeans_options options = esp_kmeans_defaults();
    size_t live = esp_memory_live();
    int failures = 0;
    (void)state;

    fill_normal(rows, 300, 11);
    options.restarts = 2;
    for (int64_t k = 1;; k++) {
        esp_kmeans_result result;
        esp_error err = {0};
        esp_memory_fuse(k);
        esp_status status = esp_kmeans(NULL, rows, 100, 3, &options, &result, &err);
        bool has_burnt = esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        assert_int_equal(status, has_burnt ? ESP_NO_MEMORY : ESP_OK);
        esp_kmeans_free(&result);
        assert_int_equal(esp_memory_live(), live);
        if (!has_burnt)
            break;
        failures++;
    }
    assert_true(failures > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kmeans_finds_groups_that_lie_far_apart),
        cmocka_unit_test(kmeans_reports_means_and_inertia_of_its_labels),
        cmocka_unit_test(kmeans_reaches_the_best_split_of_a_few_rows),
        cmocka_unit_test(kmeans_ends_where_no_single_row_wants_to_move),
        cmocka_unit_test(kmeans_is_the_same_for_any_number_of_threads),
        cmocka_unit_test(kmeans_is_not_worse_than_a_naive_lloyd_on_any_shape),
        cmocka_unit_test(kmeans_of_scaled_rows_is_the_same),
        cmocka_unit_test(kmeans_tells_rows_apart_beside_one_that_lies_far_off),
        cmocka_unit_test(kmeans_of_several_tiles_and_panels_is_the_same_for_any_number_of_threads),
        cmocka_unit_test(kmeans_on_rows_survives_what_kmeans_on_products_does),
        cmocka_unit_test(kmeans_batch_gives_each_job_what_it_would_get_alone),
        cmocka_unit_test(kmeans_batch_on_the_same_rows_gives_each_k_what_it_would_get_alone),
        cmocka_unit_test(kmeans_seed_changes_the_start_and_repeats_it),
        cmocka_unit_test(kmeans_more_restarts_are_never_worse),
        cmocka_unit_test(kmeans_plus_plus_starts_apart),
        cmocka_unit_test(kmeans_with_as_many_clusters_as_rows_gives_each_its_own),
        cmocka_unit_test(kmeans_of_few_distinct_rows_has_a_member_in_every_cluster),
        cmocka_unit_test(kmeans_gives_empty_clusters_the_farthest_row),
        cmocka_unit_test(kmeans_refuses_what_it_cannot_cluster),
        cmocka_unit_test(kmeans_stops_when_cancelled),
        cmocka_unit_test(kmeans_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests_name("kmeans", tests, NULL, NULL);
}
