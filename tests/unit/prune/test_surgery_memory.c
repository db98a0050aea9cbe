/* Coupling and surgery when memory runs out at any step: an ordinary failure, no graph, nothing lost. */
#include "base/memory.h"
#include "unit/prune/random_dag.h"
#include "unit/prune/surgery_checks.h"

#define STRIDE 5 /* every fifth allocation is enough to meet every loop */

static void coupling_survives(esp_graph *take_graph)
{
    net_view view = net_look(take_graph);
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

static void coupling_survives_every_failed_allocation(void **state)
{
    (void)state;
    coupling_survives(net_random_classifier(4));
    for (int form = 0; form < DAG_FORM_COUNT; form++) {
        truth known;
        coupling_survives(dag_of_form((dag_form)form, 0, &known));
        truth_free(&known);
    }
}

static void surgery_survives(esp_graph *take_graph, int stride)
{
    esp_graph *graph = take_graph;
    esp_preview *preview = check_open(graph, ESP_METHOD_SG);
    esp_rng rng;
    esp_rng_seed(&rng, 8);
    check_mask_at_random(preview, &rng);
    esp_surgery_options options = esp_surgery_defaults();
    bool is_burnt = true;
    for (int64_t k = 1; is_burnt; k += stride) {
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

static void surgery_survives_failed_allocations(void **state)
{
    (void)state;
    static const dag_form forms[] = {DAG_SPLIT,          DAG_GROUPED,          DAG_WHOLE_GROUPS,
                                     DAG_GROUP_NORM,     DAG_SHUFFLE_BY_SHAPE, DAG_TRANSPOSED_GROUPED,
                                     DAG_RESIZE_BY_SHAPE};
    surgery_survives(net_random_classifier(8), STRIDE);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        truth known;
        surgery_survives(dag_of_form(forms[i], 0, &known), 3 * STRIDE);
        truth_free(&known);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(coupling_survives_every_failed_allocation),
        cmocka_unit_test(surgery_survives_failed_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
