/* Coupling and surgery when memory runs out at any step: an ordinary failure, no graph, nothing lost. */
#include "base/memory.h"
#include "unit/prune/surgery_checks.h"

#define STRIDE 5 /* every fifth allocation is enough to meet every loop */

static void coupling_survives_every_failed_allocation(void **state)
{
    (void)state;
    net_view view = net_look(net_random_classifier(4));
    bool is_burnt = true;
    for (int64_t k = 1; is_burnt; k++) {
        esp_error err = {0};
        esp_coupling *coupling = NULL;
        esp_memory_fuse(k);
        esp_status status = esp_coupling_new(view.graph, view.inferred, view.layers, &coupling, &err);
        is_burnt = esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        assert_int_equal(status, is_burnt ? ESP_NO_MEMORY : ESP_OK);
        assert_true((coupling == NULL) == is_burnt);
        esp_coupling_free(coupling);
    }
    net_forget(&view);
}

static void surgery_survives_failed_allocations(void **state)
{
    (void)state;
    esp_graph *graph = net_random_classifier(8);
    esp_preview *preview = check_open(graph, ESP_METHOD_SG);
    esp_rng rng;
    esp_rng_seed(&rng, 8);
    check_mask_at_random(preview, &rng);
    esp_surgery_options options = esp_surgery_defaults();
    bool is_burnt = true;
    for (int64_t k = 1; is_burnt; k += STRIDE) {
        esp_error err = {0};
        esp_graph *cut = NULL;
        esp_memory_fuse(k);
        esp_status status = esp_surgery(NULL, preview, &options, &cut, NULL, &err);
        is_burnt = esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        if (status != ESP_OK)
            assert_null(cut);
        assert_true(status == ESP_OK || is_burnt);
        esp_graph_unref(cut);
    }
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(coupling_survives_every_failed_allocation),
        cmocka_unit_test(surgery_survives_failed_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
