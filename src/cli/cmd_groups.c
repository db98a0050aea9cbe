/* espalier groups: how good the groups of self-grouping are, layer by layer, and how many a layer asks for.
 */
#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "cli/common_options.h"
#include "cli/plan_preset.h"
#include "cli/table.h"
#include "prune/grouping_quality.h"

typedef struct groups_request {
    esp_cli_plan_flags flags;
    esp_cli_common common;
    const char *preset;
    esp_option_list layers;
    const char *save_plan_path;
    int64_t most, restarts;
    bool suggests;
} groups_request;

/* only[layer]: named by --layer. */
static esp_status choose_layers(const esp_option_list *patterns, const esp_layers *layers, bool *only,
                                esp_error *err)
{
    esp_status status = ESP_OK;
    for (int i = 0; i < patterns->count && status == ESP_OK; i++) {
        status = esp_layers_choose(layers, patterns->items[i], only, err);
    }
    return status;
}

static void percent_cell(esp_table *table, double share)
{
    if (isfinite(share)) {
        esp_table_cell(table, "%.1f %%", 100 * share);
    } else {
        esp_table_cell(table, "-");
    }
}

static void real_cell(esp_table *table, double value)
{
    if (isfinite(value)) {
        esp_table_cell(table, "%.3f", value);
    } else {
        esp_table_cell(table, "-");
    }
}

static void sizes_cell(esp_table *table, const esp_layer_groups *item)
{
    int64_t least = item->clusters[0].filters, most = least;
    for (int64_t g = 1; g < item->k; g++) {
        int64_t filters = item->clusters[g].filters;
        least = filters < least ? filters : least;
        most = filters > most ? filters : most;
    }
    esp_table_cell(table, "%lld..%lld", (long long)least, (long long)most);
}

static esp_status print_all(const esp_preview *preview, const esp_groups_report *report, bool suggests,
                            esp_error *err)
{
    static const char *const headings[] = {"layer", "filters",   "channels",   "groups",
                                           "sizes", "explained", "silhouette", "executed",
                                           "kept",  "suggested", "bend"};
    size_t columns = suggests ? 11 : 9;
    esp_table *table = esp_table_new(suggests ? "lrrrrrrrrrr" : "lrrrrrrrr");
    for (size_t i = 0; i < columns; i++) {
        esp_table_cell(table, "%s", headings[i]);
    }
    for (int i = 0; i < report->count; i++) {
        const esp_layer_groups *item = &report->items[i];
        const esp_layer *layer = &preview->layers.items[item->layer];
        esp_table_cell(table, "%s", layer->name);
        esp_table_cell(table, "%lld", (long long)layer->filters);
        esp_table_cell(table, "%lld", (long long)layer->channels);
        esp_table_cell(table, "%lld", (long long)item->k);
        sizes_cell(table, item);
        percent_cell(table, 1 - item->inertia / item->spread);
        real_cell(table, item->silhouette);
        esp_table_cell(table, "%lld", (long long)item->executed_count);
        percent_cell(table, item->density);
        if (suggests) {
            esp_table_cell(table, "%lld", (long long)item->suggested);
            real_cell(table, item->bend);
        }
    }
    esp_status status = esp_table_print(table, err);
    esp_table_free(table);
    return status;
}

static esp_status print_clusters(const esp_layer_groups *item, esp_error *err)
{
    esp_table *table = esp_table_new("rrr");
    esp_table_cell(table, "group");
    esp_table_cell(table, "filters");
    esp_table_cell(table, "silhouette");
    for (int64_t g = 0; g < item->k; g++) {
        esp_table_cell(table, "%lld", (long long)g + 1);
        esp_table_cell(table, "%lld", (long long)item->clusters[g].filters);
        real_cell(table, item->clusters[g].silhouette);
    }
    esp_status status = esp_table_print(table, err);
    esp_table_free(table);
    return status;
}

static esp_status print_executed(const esp_layer_groups *item, esp_error *err)
{
    esp_table *table = esp_table_new("rrrrr");
    static const char *const headings[] = {"executed", "of group", "filters", "channels", "kept"};
    for (size_t i = 0; i < 5; i++) {
        esp_table_cell(table, "%s", headings[i]);
    }
    for (int64_t g = 0; g < item->executed_count; g++) {
        const esp_executed_figures *group = &item->executed[g];
        esp_table_cell(table, "%lld", (long long)g + 1);
        esp_table_cell(table, "%d", (int)group->cluster + 1);
        esp_table_cell(table, "%lld", (long long)group->filters);
        esp_table_cell(table, "%lld", (long long)group->channels_kept);
        percent_cell(table, group->density);
    }
    esp_status status = esp_table_print(table, err);
    esp_table_free(table);
    return status;
}

static esp_status print_curve(const esp_layer_groups *item, esp_error *err)
{
    esp_table *table = esp_table_new("rrrl");
    static const char *const headings[] = {"k", "inertia", "of k = 1", ""};
    for (size_t i = 0; i < 4; i++) {
        esp_table_cell(table, "%s", headings[i]);
    }
    for (int64_t i = 0; i < item->curve_count; i++) {
        esp_table_cell(table, "%lld", (long long)i + 1);
        esp_table_cell(table, "%.4g", item->curve[i]);
        percent_cell(table, item->curve[i] / item->curve[0]);
        esp_table_cell(table, "%s", i + 1 == item->suggested ? "<- suggested" : "");
    }
    esp_status status = esp_table_print(table, err);
    esp_table_free(table);
    return status;
}

/* One layer in full, below the line of the table. */
static esp_status print_one(const esp_layer_groups *item, esp_error *err)
{
    printf("\n");
    esp_status status = print_clusters(item, err);
    if (status == ESP_OK) {
        printf("\n");
        status = print_executed(item, err);
    }
    if (status == ESP_OK && item->curve_count) {
        printf("\n");
        status = print_curve(item, err);
    }
    return status;
}

static esp_status show(const groups_request *it, const esp_preview *preview, const esp_groups_report *report,
                       esp_error *err)
{
    if (it->common.is_json) {
        json_t *object = NULL, *plan = NULL;
        esp_status status = esp_groups_report_to_json(preview, report, &object, err);
        if (status == ESP_OK) {
            status = esp_plan_to_json(&preview->plan, &plan, err);
        }
        if (status != ESP_OK) {
            json_decref(object);
            return status;
        }
        json_object_set_new(object, "plan", plan);
        return esp_cli_print_json(object, err);
    }
    printf("%s (%s), %s\n\n", esp_method_word(preview->plan.method), esp_method_title(preview->plan.method),
           esp_mode_word(preview->plan.mode));
    esp_status status = print_all(preview, report, it->suggests, err);
    if (status == ESP_OK && report->count == 1) {
        status = print_one(&report->items[0], err);
    }
    return status;
}

/* The plan with the suggested numbers of groups. */
static esp_status save_plan(const groups_request *it, const esp_preview *preview,
                            const esp_groups_report *report, esp_error *err)
{
    esp_plan plan = {0};
    esp_status status = esp_plan_clone(&preview->plan, &plan, err);
    if (status == ESP_OK) {
        status = esp_groups_suggest_rules(preview, report, &plan, err);
    }
    if (status == ESP_OK) {
        status = esp_plan_save(&plan, it->save_plan_path, err);
    }
    esp_plan_free(&plan);
    return status;
}

static esp_status look(esp_cli *cli, const groups_request *it, const esp_preview *preview, esp_error *err)
{
    esp_groups_options options = esp_groups_defaults();
    esp_groups_report report = {0};
    bool *only = esp_alloc_zero((size_t)preview->layers.count, sizeof *only);
    esp_status status = only ? choose_layers(&it->layers, &preview->layers, only, err)
                             : esp_fail_memory(err, "layers", (size_t)preview->layers.count);
    options.suggests = it->suggests;
    options.most = it->most ? it->most : options.most;
    options.restarts = it->restarts ? (int)it->restarts : options.restarts;
    options.only = it->layers.count ? only : NULL;
    if (status == ESP_OK) {
        status = esp_groups_report_new(&cli->compute, preview, &options, &report, err);
    }
    if (status == ESP_OK && report.count == 0) {
        status = esp_fail(err, ESP_INVALID, "no layer is grouped: %s",
                          it->layers.count ? "those named take no part" : "none takes part");
    }
    if (status == ESP_OK && it->save_plan_path) {
        status = save_plan(it, preview, &report, err);
    }
    esp_cli_end_progress();
    if (status == ESP_OK) {
        status = show(it, preview, &report, err);
    }
    esp_groups_report_free(&report);
    esp_free(only);
    return status;
}

/* Self-grouping, unless a file or a flag says otherwise. */
static esp_status make_plan(groups_request *it, esp_plan *plan, esp_error *err)
{
    esp_status status = esp_cli_preset_fill(it->preset, &it->flags, NULL, NULL, err);
    if (!it->flags.path && !it->flags.method) {
        it->flags.method = esp_method_word(ESP_METHOD_SG);
    }
    return status == ESP_OK ? esp_cli_plan_make(&it->flags, false, plan, err) : status;
}

/* MODEL.onnx */
static esp_status run(esp_cli *cli, int count, char **items, void *context, esp_error *err)
{
    groups_request *it = context;
    esp_plan plan = {0};
    esp_cli_model model = {0};
    esp_preview *preview = NULL;
    esp_status status = make_plan(it, &plan, err);
    (void)count;
    if (status == ESP_OK) {
        status = esp_cli_model_open(cli, &it->common, items[0], &model, err);
    }
    if (status == ESP_OK) {
        status = esp_preview_new(&cli->compute, model.graph, &plan, model.shapes, model.shape_count, NULL,
                                 &preview, err);
    }
    if (status == ESP_OK) {
        status = look(cli, it, preview, err);
    }
    esp_preview_free(preview);
    esp_cli_model_close(&model);
    esp_plan_free(&plan);
    return status;
}

esp_status esp_command_groups(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    groups_request it = {.flags = ESP_CLI_PLAN_FLAGS_NONE};
    esp_cli_plan_flags *flags = &it.flags;
    const esp_option options[] = {
        {"layer", 'l', ESP_OPTION_LIST, &it.layers, "NAME",
         "only these layers (* and ? match); one is shown in full", 0, 0, 0},
        {"suggest", 's', ESP_OPTION_FLAG, &it.suggests, NULL,
         "how many groups each layer asks for: the elbow of its inertia", 0, 0, 0},
        {"most", 0, ESP_OPTION_INT, &it.most, "K", "suggest: largest number of groups (default 32)", 1, 65536,
         0},
        {"suggest-restarts", 0, ESP_OPTION_INT, &it.restarts, "N", "suggest: k-means restarts (default 3)", 1,
         10000, 0},
        {"save-plan", 0, ESP_OPTION_TEXT, &it.save_plan_path, "PLAN.json",
         "write the plan, with the suggested groups", 0, 0, 0},
        {"plan", 0, ESP_OPTION_TEXT, &flags->path, "PLAN.json", "start from this plan; other flags change it",
         0, 0, 0},
        ESP_CLI_PRESET_ROW(&it.preset),
        {"mode", 0, ESP_OPTION_TEXT, &flags->mode, "NAME",
         "sound (default) or faithful to the published code", 0, 0, 0},
        {"ratio", 'r', ESP_OPTION_REAL, &flags->ratio, "R",
         "share to prune in every layer, in [0, 1) (default 0)", 0, 1, true},
        {"conv-ratio", 0, ESP_OPTION_REAL, &flags->conv_ratio, "R", "for convolutions", 0, 1, true},
        {"fc-ratio", 0, ESP_OPTION_REAL, &flags->fc_ratio, "R", "for fully connected layers", 0, 1, true},
        {"ignore", 0, ESP_OPTION_LIST, &flags->ignored, "NAME", "leave layers alone (* and ? match)", 0, 0,
         0},
        {"groups", 'g', ESP_OPTION_INT, &flags->groups, "K", "groups per layer (default 16)", 1, 65536, 0},
        {"layer-groups", 0, ESP_OPTION_LIST, &flags->layer_groups, "NAME=K", "groups of layers by name", 0, 0,
         0},
        {"init", 0, ESP_OPTION_TEXT, &flags->init, "NAME", "random (as published) or kmeans++", 0, 0, 0},
        {"restarts", 0, ESP_OPTION_INT, &flags->restarts, "N", "k-means restarts (default 10)", 1, 10000, 0},
        {"no-cascade", 0, ESP_OPTION_FLAG, &flags->has_no_cascade, NULL, "filters that nobody reads stay", 0,
         0, 0},
        {"seed", 0, ESP_OPTION_INT, &flags->seed, "N", "default 0; same seed, same result", 0, 1e15, 0},
        ESP_CLI_INPUT(&it.common, "fix sizes the file leaves open"),
        ESP_CLI_MACHINE(cli, &it.common),
        ESP_CLI_JSON(&it.common, "one JSON object instead of tables"),
        {0},
    };
    const esp_command_syntax syntax = {
        "groups",
        "How well the filters of each layer fall into groups (self-grouping), and how many groups they ask "
        "for.",
        "MODEL.onnx [options]",
        "  espalier groups model.onnx --ratio 0.5\n"
        "  espalier groups model.onnx --layer layer3.0.conv1 --suggest\n"
        "  espalier groups model.onnx --suggest --ratio 0.5 --save-plan plan.json",
        1,
        1,
        options,
        false};
    return esp_cli_run(cli, &syntax, argc, argv, run, &it, err);
}
