/* Images are always those for training: what the test images say must stay unseen. */
#include "cli/repair_options.h"

#include <math.h>
#include <stdio.h>

#include "cli/inputs.h"
#include "cli/plan_flags.h"
#include "cli/table.h"
#include "io/dataset.h"

bool esp_cli_repair_is_given(const esp_cli_repair *repair)
{
    return repair->recalibrate > 0 || repair->reconstruct > 0;
}

esp_status esp_cli_repair_check(const esp_cli_repair *repair, const char *spec, esp_error *err)
{
    const bool looks = esp_cli_repair_is_given(repair), has_images = looks || spec != NULL;
    const esp_cli_use uses[] = {
        {"--ridge", repair->ridge > 0, repair->reconstruct > 0, "--reconstruct N", "none"},
        {"--mean", repair->mean != NULL, has_images, "the images of --data", "no --data"},
        {"--std", repair->std != NULL, has_images, "the images of --data", "no --data"},
    };
    esp_status status = esp_cli_check_uses(uses, sizeof uses / sizeof uses[0], err);
    if (status == ESP_OK && looks && !spec) {
        status = esp_fail(err, ESP_INVALID, "--%s looks at images: --data SPEC is missing",
                          repair->reconstruct > 0 ? "reconstruct" : "recalibrate");
    }
    return status;
}

static esp_status prune(const esp_compute *compute, const esp_preview *preview, const esp_graph *solved,
                        bool is_masked, const esp_surgery_options *surgery, esp_graph **out,
                        esp_surgery_report *report, esp_error *err)
{
    if (is_masked && solved) {
        *out = esp_graph_ref(solved);
        return ESP_OK;
    }
    if (is_masked) {
        return esp_preview_masked_graph(preview, out, err);
    }
    return solved ? esp_reconstruct_cut(compute, preview, solved, surgery, out, report, err)
                  : esp_surgery(compute, preview, surgery, out, report, err);
}

static esp_status recalibrate(esp_cli_repair *repair, const esp_compute *compute, const esp_preview *preview,
                              const esp_dataset *images, esp_graph **graph, esp_error *err)
{
    const esp_recalibrate_options options = {
        .images = repair->recalibrate, .seed = preview->plan.seed, .mean = repair->mean, .std = repair->std};
    esp_graph *better = NULL;
    esp_status status =
        esp_recalibrate(compute, *graph, images, &options, &better, &repair->recalibrated, err);
    if (status == ESP_OK) {
        esp_graph_unref(*graph);
        *graph = better;
    }
    return status;
}

esp_status esp_cli_repair_make(esp_cli_repair *repair, const esp_compute *compute, const esp_preview *preview,
                               const char *spec, bool is_masked, const esp_surgery_options *surgery,
                               esp_graph **out, esp_surgery_report *report, esp_error *err)
{
    esp_dataset *images = NULL;
    esp_graph *solved = NULL, *graph = NULL;
    esp_status status = ESP_OK;
    *out = NULL;
    if (esp_cli_repair_is_given(repair)) {
        status = esp_dataset_open_for(spec, ESP_SPLIT_TRAIN, preview->graph, &images, err);
    }
    if (status == ESP_OK && repair->reconstruct > 0) {
        const esp_reconstruct_options options = {.dataset = images,
                                                 .images = repair->reconstruct,
                                                 .ridge = repair->ridge,
                                                 .seed = preview->plan.seed,
                                                 .mean = repair->mean,
                                                 .std = repair->std};
        status = esp_reconstruct(compute, preview, &options, &solved, &repair->reconstructed, err);
    }
    if (status == ESP_OK) {
        status = prune(compute, preview, solved, is_masked, surgery, &graph, report, err);
    }
    if (status == ESP_OK && repair->recalibrate > 0) {
        status = recalibrate(repair, compute, preview, images, &graph, err);
    }
    if (status == ESP_OK) {
        *out = graph;
        graph = NULL;
    }
    esp_graph_unref(graph);
    esp_graph_unref(solved);
    esp_dataset_unref(images);
    return status;
}

void esp_cli_repair_free(esp_cli_repair *repair)
{
    esp_reconstruct_report_free(&repair->reconstructed);
}

/* ---- what was done ---- */

static void print_layers(const esp_reconstruct_report *report, const esp_preview *preview)
{
    static const char *const headings[] = {"solved layer", "unknowns", "samples", "error before", "after"};
    esp_table *table = esp_table_new("lrrrr");
    for (size_t i = 0; i < 5; i++) {
        esp_table_cell(table, "%s", headings[i]);
    }
    for (int i = 0; i < report->count; i++) {
        const esp_reconstruct_layer *item = &report->layers[i];
        esp_table_cell(table, "%s", preview->layers.items[item->layer].name);
        if (item->samples == 0) {
            esp_table_cell(table, "left: %s", item->reason);
            for (int k = 0; k < 3; k++) {
                esp_table_cell(table, "%s", "");
            }
            continue;
        }
        esp_table_cell(table, "%lld", (long long)item->unknowns);
        esp_table_cell(table, "%lld", (long long)item->samples);
        esp_table_cell(table, "%.4f", item->error_before);
        esp_table_cell(table, "%.4f", item->error_after);
    }
    esp_table_print(table, NULL);
    esp_table_free(table);
}

void esp_cli_repair_print(const esp_cli_repair *repair, const esp_preview *preview)
{
    if (repair->reconstruct > 0) {
        int solved = 0;
        putchar('\n');
        if (repair->reconstructed.count > 0) {
            print_layers(&repair->reconstructed, preview);
        }
        for (int i = 0; i < repair->reconstructed.count; i++) {
            solved += repair->reconstructed.layers[i].samples > 0;
        }
        printf("\nsolved   %d layers on %lld images in %.1f s (error: share of the outputs' variance)\n",
               solved, (long long)repair->reconstructed.images, repair->reconstructed.seconds);
    }
    if (repair->recalibrate > 0 && repair->recalibrated.norms == 0) {
        puts("norms    the model has no batch-norm: nothing to recalibrate, it is unchanged");
    } else if (repair->recalibrate > 0) {
        printf("norms    %d batch-norms measured again on %lld images in %.1f s\n",
               repair->recalibrated.norms, (long long)repair->recalibrated.images,
               repair->recalibrated.seconds);
    }
}

static json_t *layer_json(const esp_reconstruct_layer *item, const esp_preview *preview)
{
    return json_pack("{s:o, s:I, s:I, s:o, s:o, s:s}", "name",
                     esp_cli_json_text(preview->layers.items[item->layer].name), "unknowns",
                     (json_int_t)item->unknowns, "samples", (json_int_t)item->samples, "error_before",
                     esp_cli_json_real(item->samples ? item->error_before : NAN), "error_after",
                     esp_cli_json_real(item->samples ? item->error_after : NAN), "left_for", item->reason);
}

void esp_cli_repair_json(const esp_cli_repair *repair, const esp_preview *preview, json_t *object)
{
    if (repair->reconstruct > 0) {
        json_t *layers = json_array();
        for (int i = 0; i < repair->reconstructed.count; i++) {
            json_array_append_new(layers, layer_json(&repair->reconstructed.layers[i], preview));
        }
        json_object_set_new(object, "reconstruct",
                            json_pack("{s:I, s:o, s:o}", "images", (json_int_t)repair->reconstructed.images,
                                      "seconds", esp_cli_json_real(repair->reconstructed.seconds), "layers",
                                      layers));
    }
    if (repair->recalibrate > 0) {
        json_object_set_new(
            object, "recalibrate",
            json_pack("{s:I, s:I, s:i, s:o}", "images", (json_int_t)repair->recalibrated.images, "batches",
                      (json_int_t)repair->recalibrated.batches, "norms", repair->recalibrated.norms,
                      "seconds", esp_cli_json_real(repair->recalibrated.seconds)));
    }
}
