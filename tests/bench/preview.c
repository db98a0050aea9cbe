/* Times previews of a whole model for run.js: everything anew (cold), and again and again at other ratios
 * with what is known of the weights kept (warm), as someone does who moves a ratio in the workbench.
 *
 *   bench_preview MODEL.onnx THREADS TURNS
 *
 * One line of JSON for each method and mode: milliseconds, the median of the warm ones over the turns. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "io/onnx.h"
#include "prune/preview.h"

enum { MOST_TURNS = 1000 };

static int fail(const char *what)
{
    fprintf(stderr, "bench_preview: %s\n", what);
    return 1;
}

static int compare(const void *a, const void *b)
{
    double first = *(const double *)a, second = *(const double *)b;

    return (first > second) - (first < second);
}

/* One preview; negative when it failed. */
static double time_preview(const esp_compute *compute, const esp_graph *graph, const esp_plan *plan,
                           esp_grouping_cache *cache, esp_error *err)
{
    esp_preview *preview = NULL;
    double start = esp_clock_s();
    esp_status status = esp_preview_new(compute, graph, plan, NULL, 0, cache, &preview, err);
    double ms = (esp_clock_s() - start) * 1e3;

    esp_preview_free(preview);
    return status == ESP_OK ? ms : -1;
}

static int run(const esp_compute *compute, const esp_graph *graph, esp_method method, esp_mode mode,
               int turns, esp_error *err)
{
    static double warm[MOST_TURNS];
    esp_grouping_cache *cache = NULL;
    esp_plan plan = esp_plan_make(method, mode, 0.5);
    double cold;
    int is_good;

    if (esp_grouping_cache_new(&cache, err) != ESP_OK)
        return 0;
    cold = time_preview(compute, graph, &plan, cache, err);
    is_good = cold >= 0;
    for (int turn = 0; is_good && turn < turns; turn++) {
        plan.conv_ratio = plan.border_ratio = 0.1 + 0.8 * (turn + 0.5) / turns;
        plan.fc_ratio = 0.6;
        warm[turn] = time_preview(compute, graph, &plan, cache, err);
        is_good = warm[turn] >= 0;
    }
    esp_grouping_cache_free(cache);
    if (!is_good)
        return 0;
    qsort(warm, (size_t)turns, sizeof *warm, compare);
    printf("{\"method\": \"%s\", \"mode\": \"%s\", \"cold_ms\": %.2f, \"warm_ms\": %.2f, \"warm_most_ms\": "
           "%.2f}\n",
           esp_method_word(method), esp_mode_word(mode), cold, warm[turns / 2], warm[turns - 1]);
    return 1;
}

int main(int argc, char **argv)
{
    int turns = argc == 4 ? atoi(argv[3]) : 0, is_good = 1;
    esp_graph *graph = NULL;
    esp_pool *pool = NULL;
    esp_error err = {0};

    if (turns < 1 || turns > MOST_TURNS)
        return fail("expected MODEL.onnx THREADS TURNS");
    if (esp_onnx_load(argv[1], &graph, &err) != ESP_OK || esp_pool_new(atoi(argv[2]), &pool, &err) != ESP_OK)
        return fail(err.message);
    const esp_compute compute = {.pool = pool};
    for (int mode = 0; is_good && mode < 2; mode++) {
        is_good = run(&compute, graph, ESP_METHOD_WSP, (esp_mode)mode, turns, &err);
        is_good = is_good && run(&compute, graph, ESP_METHOD_SG, (esp_mode)mode, turns, &err);
    }
    is_good = is_good && run(&compute, graph, ESP_METHOD_FILTER, ESP_MODE_SOUND, turns, &err);
    esp_pool_free(pool);
    esp_graph_unref(graph);
    return is_good ? 0 : fail(err.message);
}
