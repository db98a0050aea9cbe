/* Times k-means for kmeans.py: reads a list of matrices, then clusters them all once for every line
 * "threads seed" on standard input and answers with a line of JSON, the milliseconds and the inertias.
 *
 *   bench_kmeans LIST      LIST has a line "rows columns file" for each matrix; files are raw float32 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "prune/kmeans.h"

enum { MOST_MATRICES = 1024 };

static int fail(const char *what)
{
    fprintf(stderr, "bench_kmeans: %s\n", what);
    return 1;
}

static float *read_matrix(const char *path, size_t elements)
{
    float *rows = esp_alloc(elements, sizeof *rows);
    FILE *file = fopen(path, "rb");
    size_t got = rows && file ? fread(rows, sizeof *rows, elements, file) : 0;

    if (file)
        fclose(file);
    if (got == elements)
        return rows;
    esp_free(rows);
    return NULL;
}

static int read_list(const char *path, esp_kmeans_job *jobs)
{
    FILE *list = fopen(path, "r");
    long long rows, columns;
    char name[512];
    int count = 0;

    while (list && count < MOST_MATRICES && fscanf(list, "%lld %lld %511s", &rows, &columns, name) == 3) {
        jobs[count] = (esp_kmeans_job){.count = rows, .columns = columns, .options = esp_kmeans_defaults()};
        jobs[count].rows = read_matrix(name, (size_t)(rows * columns));
        if (!jobs[count++].rows)
            break;
    }
    if (list)
        fclose(list);
    return count > 0 && jobs[count - 1].rows ? count : 0;
}

int main(int argc, char **argv)
{
    static esp_kmeans_job jobs[MOST_MATRICES];
    static esp_kmeans_result results[MOST_MATRICES];
    int count = argc == 2 ? read_list(argv[1], jobs) : 0, threads;
    unsigned long long seed;
    esp_error err = {0};

    if (!count)
        return fail("expected a list of matrices that can be read");
    while (scanf("%d %llu", &threads, &seed) == 2) {
        esp_pool *pool;
        if (esp_pool_new(threads, &pool, &err) != ESP_OK)
            return fail(err.message);
        esp_compute compute = {.pool = pool};
        for (int job = 0; job < count; job++)
            jobs[job].options.seed = seed;
        double start = esp_clock_s();
        if (esp_kmeans_batch(&compute, jobs, count, results, &err) != ESP_OK)
            return fail(err.message);
        printf("{\"ms\": %.3f, \"inertias\": [", (esp_clock_s() - start) * 1e3);
        for (int job = 0; job < count; job++) {
            printf("%s%.9g", job ? ", " : "", results[job].inertia);
            esp_kmeans_free(&results[job]);
        }
        printf("]}\n");
        fflush(stdout);
        esp_pool_free(pool);
    }
    return 0;
}
