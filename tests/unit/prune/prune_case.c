/* One place that releases what tests of pruning make. */
#include "unit/prune/prune_case.h"

prune_case prune_case_new(esp_graph *take_graph, esp_plan take_plan)
{
    prune_case it = {.graph = take_graph, .plan = take_plan};

    it.preview = preview_of(it.graph, &it.plan, NULL);
    return it;
}

esp_dataset *noise_for(const esp_graph *graph, int64_t count, uint64_t seed)
{
    esp_inferred *inferred = NULL;
    esp_error err = {0};

    expect_ok(esp_infer(graph, 1, NULL, 0, &inferred, &err), &err);
    const esp_shape *x = esp_inferred_shape(inferred, esp_graph_input(graph, 0));
    const esp_shape *y = esp_inferred_shape(inferred, esp_graph_output(graph, 0));
    esp_dataset *images =
        noise_dataset(count, (int)x->dims[1], (int)x->dims[2], (int)x->dims[3], (int)y->dims[1], seed);
    esp_inferred_free(inferred);
    return images;
}

esp_dataset *prune_case_images(prune_case *it, int64_t count, uint64_t seed)
{
    esp_dataset_unref(it->images);
    it->images = noise_for(it->graph, count, seed);
    return it->images;
}

void prune_case_free(prune_case *it)
{
    esp_dataset_unref(it->images);
    esp_preview_free(it->preview);
    esp_plan_free(&it->plan);
    esp_graph_unref(it->graph);
    *it = (prune_case){0};
}
