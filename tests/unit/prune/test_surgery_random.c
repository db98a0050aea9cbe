/* Surgery on random networks under random masks and under both methods: whatever was masked, the cut model
 * computes the same and nothing removable is left (checks in surgery_checks.c). */
#include "unit/prune/surgery_checks.h"

#define NETWORKS 40

static void cut_in_both_forms(const esp_preview *preview)
{
    esp_graph_unref(check_cut(preview, ESP_GROUP_FORM_DENSE, NULL));
    esp_graph_unref(check_cut(preview, ESP_GROUP_FORM_GROUPED, NULL));
}

static void cuts_what_random_masks_leave(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < NETWORKS; seed++) {
        esp_rng rng;
        esp_rng_seed_stream(&rng, seed, 1);
        esp_graph *graph = net_random_classifier(seed);
        esp_preview *preview = check_open(graph, seed % 2 == 0 ? ESP_METHOD_SG : ESP_METHOD_WSP);
        check_mask_at_random(preview, &rng);
        cut_in_both_forms(preview);
        esp_preview_free(preview);
        esp_graph_unref(graph);
    }
}

static void cut_by_plan(esp_method method, esp_mode mode, double ratio)
{
    for (uint64_t seed = 100; seed < 100 + NETWORKS / 2; seed++) {
        esp_graph *graph = net_random_classifier(seed);
        esp_preview *preview = check_plan(graph, method, mode, ratio, 3);
        cut_in_both_forms(preview);
        esp_preview_free(preview);
        esp_graph_unref(graph);
    }
}

static void cuts_weak_subnetworks_as_published(void **state)
{
    (void)state;
    cut_by_plan(ESP_METHOD_WSP, ESP_MODE_FAITHFUL, 0.5);
}

static void cuts_weak_subnetworks_of_coupled_sets(void **state)
{
    (void)state;
    cut_by_plan(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.6);
}

static void cuts_groups_as_published(void **state)
{
    (void)state;
    cut_by_plan(ESP_METHOD_SG, ESP_MODE_FAITHFUL, 0.5);
}

static void cuts_groups_with_cascade(void **state)
{
    (void)state;
    cut_by_plan(ESP_METHOD_SG, ESP_MODE_SOUND, 0.7);
}

/* Cutting again what was cut: the result is an ordinary model. */
static void cuts_a_cut_model_again(void **state)
{
    (void)state;
    for (uint64_t seed = 200; seed < 200 + NETWORKS / 4; seed++) {
        esp_graph *graph = net_random_classifier(seed);
        esp_preview *preview = check_plan(graph, ESP_METHOD_SG, ESP_MODE_SOUND, 0.4, 3);
        esp_graph *cut = check_cut(preview, ESP_GROUP_FORM_GROUPED, NULL);
        esp_preview *second = check_plan(cut, ESP_METHOD_WSP, ESP_MODE_SOUND, 0.5, 3);
        cut_in_both_forms(second);
        esp_preview_free(second);
        esp_preview_free(preview);
        esp_graph_unref(cut);
        esp_graph_unref(graph);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuts_what_random_masks_leave),
        cmocka_unit_test(cuts_weak_subnetworks_as_published),
        cmocka_unit_test(cuts_weak_subnetworks_of_coupled_sets),
        cmocka_unit_test(cuts_groups_as_published),
        cmocka_unit_test(cuts_groups_with_cascade),
        cmocka_unit_test(cuts_a_cut_model_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
