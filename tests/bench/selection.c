/* Times what selects filters, beside one read of the same weights: WSP as published (norms of all filters and
 * channels, thresholds, intersection, masks) and every criterion of the table on every layer. Prints a line
 * of JSON for each.
 *
 *   bench_selection MODEL.onnx THREADS ROUNDS */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "io/onnx.h"
#include "prune/criteria.h"
#include "prune/wsp.h"
#include "tensor/simd.h"

enum { MOST_ROUNDS = 101, READ_FLOATS = 1 << 18 };

typedef struct subject {
    esp_compute compute;
    const char *name;
    esp_graph *graph;
    esp_inferred *inferred;
    esp_layers layers;
    esp_mask *masks;
    double *scores; /* as many as the largest layer has filters */
} subject;

static void stop(const esp_error *err)
{
    fprintf(stderr, "bench_selection: %s\n", err->message);
    exit(1);
}

/* ---- one read ---- */

typedef struct reading {
    const float *values;
    int64_t count;
    uint32_t *found; /* per task */
} reading;

ESP_SIMD_CLONES static uint32_t combine(const float *values, int64_t count)
{
    const uint32_t *words = (const void *)values;
    uint32_t all = 0;

    for (int64_t i = 0; i < count; i++)
        all |= words[i];
    return all;
}

static void read_task(void *context, int64_t task, int slot)
{
    const reading *read = context;
    int64_t first = task * READ_FLOATS, left = read->count - first;

    (void)slot;
    read->found[task] = combine(read->values + first, left < READ_FLOATS ? left : READ_FLOATS);
}

static double weight_bytes(const subject *it)
{
    double bytes = 0;

    for (int l = 0; l < it->layers.count; l++)
        bytes += 4.0 * (double)esp_tensor_elements(
                           esp_graph_value(it->graph, it->layers.items[l].weight)->constant);
    return bytes;
}

static double time_read(const subject *it)
{
    static uint32_t found[1 << 16];
    double start = esp_clock_s();

    for (int l = 0; l < it->layers.count; l++) {
        const esp_tensor *weight = esp_graph_value(it->graph, it->layers.items[l].weight)->constant;
        reading read = {esp_tensor_f32(weight), esp_tensor_elements(weight), found};
        esp_compute_run(&it->compute, (read.count + READ_FLOATS - 1) / READ_FLOATS, read_task, &read);
    }
    return esp_clock_s() - start;
}

/* ---- ours ---- */

static double time_wsp(const subject *it)
{
    size_t count = (size_t)it->layers.count;
    esp_layer_l1 *norms = esp_alloc_zero(count, sizeof *norms);
    double start = esp_clock_s();
    esp_wsp wsp;
    esp_error err = {0};

    if (esp_layers_l1(&it->compute, it->graph, &it->layers, it->masks, NULL, norms, &err) != ESP_OK ||
        esp_wsp_pairs_from(it->graph, &it->layers, norms, &wsp, &err) != ESP_OK)
        stop(&err);
    for (int i = 0; i < wsp.pair_count; i++) {
        wsp.pairs[i].ratio = 0.5;
        if (esp_wsp_select(&wsp.pairs[i], &err) != ESP_OK)
            stop(&err);
    }
    double seconds = esp_clock_s() - start;
    /* not on the masks of the next round: those must be whole again */
    esp_wsp_free(&wsp);
    for (size_t l = 0; l < count; l++)
        esp_layer_l1_free(&norms[l]);
    esp_free(norms);
    return seconds;
}

static double time_criterion(const subject *it, const esp_criterion *criterion)
{
    double start = esp_clock_s();
    esp_error err = {0};

    for (int l = 0; l < it->layers.count; l++) {
        esp_status status =
            esp_saliency(&it->compute, it->graph, &it->layers.items[l], criterion, 1, it->scores, &err);
        if (status != ESP_OK && status != ESP_UNSUPPORTED)
            stop(&err);
    }
    return esp_clock_s() - start;
}

/* ---- rounds ---- */

static int compare(const void *a, const void *b)
{
    double first = *(const double *)a, second = *(const double *)b;

    return (first > second) - (first < second);
}

/* One row of the table: `criterion` NULL is WSP. */
static void measure(const subject *it, const esp_criterion *criterion, int threads, int rounds)
{
    double ours[MOST_ROUNDS], reads[MOST_ROUNDS];

    for (int round = -1; round < rounds; round++) {
        double read = time_read(it), own = criterion ? time_criterion(it, criterion) : time_wsp(it);
        if (round < 0)
            continue;
        reads[round] = read * 1e3;
        ours[round] = own * 1e3;
    }
    qsort(ours, (size_t)rounds, sizeof *ours, compare);
    qsort(reads, (size_t)rounds, sizeof *reads, compare);
    printf("{\"bench\": \"selection\", \"work\": \"%s %s\", \"threads\": %d, \"ours_ms\": %.3f, "
           "\"peer\": \"one read of the weights\", \"peer_ms\": %.3f, \"ratio\": %.3f, \"spread\": %.3f, "
           "\"read_gb_s\": %.1f}\n",
           criterion ? criterion->name : "wsp", it->name, threads, ours[rounds / 2], reads[rounds / 2],
           reads[rounds / 2] / ours[rounds / 2], ours[rounds - 1] / ours[0] - 1,
           weight_bytes(it) / reads[rounds / 2] * 1e-6);
    fflush(stdout);
}

static void load(const char *path, int threads, subject *it)
{
    const char *slash = strrchr(path, '/');
    int64_t most = 1;
    esp_error err = {0};

    *it = (subject){.name = slash ? slash + 1 : path};
    if (esp_onnx_load(path, &it->graph, &err) != ESP_OK ||
        esp_infer(it->graph, 1, NULL, 0, &it->inferred, &err) != ESP_OK ||
        esp_layers_list(it->graph, it->inferred, &it->layers, &err) != ESP_OK ||
        esp_pool_new(threads, &it->compute.pool, &err) != ESP_OK)
        stop(&err);
    it->masks = esp_alloc_zero((size_t)it->layers.count, sizeof *it->masks);
    for (int l = 0; l < it->layers.count; l++) {
        const esp_layer *layer = &it->layers.items[l];
        most = layer->filters > most ? layer->filters : most;
        if (!it->masks || esp_mask_new(layer->filters, layer->channels, &it->masks[l], &err) != ESP_OK)
            stop(&err);
    }
    it->scores = esp_alloc((size_t)most, sizeof *it->scores);
}

int main(int argc, char **argv)
{
    int threads = argc == 4 ? atoi(argv[2]) : 0, rounds = argc == 4 ? atoi(argv[3]) : 0;
    subject it;

    if (threads < 1 || rounds < 1 || rounds > MOST_ROUNDS) {
        fprintf(stderr, "usage: bench_selection MODEL.onnx THREADS ROUNDS\n");
        return 2;
    }
    load(argv[1], threads, &it);
    measure(&it, NULL, threads, rounds);
    for (int i = 0; i < esp_criterion_count(); i++)
        measure(&it, esp_criterion_at(i), threads, strcmp(esp_criterion_at(i)->name, "fpgm") ? rounds : 1);
    for (int l = 0; l < it.layers.count; l++)
        esp_mask_free(&it.masks[l]);
    esp_free(it.masks);
    esp_free(it.scores);
    esp_pool_free(it.compute.pool);
    esp_layers_free(&it.layers);
    esp_inferred_free(it.inferred);
    esp_graph_unref(it.graph);
    return 0;
}
