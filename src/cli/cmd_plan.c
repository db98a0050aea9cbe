/* espalier plan: plans as files: shown, compared, merged, and fitted to a model that has changed. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "base/unknown.h"
#include "cli/common_options.h"
#include "cli/plan_flags.h"
#include "cli/table.h"
#include "io/onnx.h"
#include "prune/plan_diff.h"
#include "prune/preview.h"

typedef struct plan_request {
    esp_cli_common common;
    esp_cli_plan_flags flags; /* of which only the images are asked for */
    const char *from;
    bool takes_ours, takes_theirs, renames;
} plan_request;

/* ---- show ---- */

static void print_fields(const json_t *object, const char *prefix)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        char name[64];
        snprintf(name, sizeof name, "%s%s", prefix, key);
        if (json_is_object(value)) {
            char deeper[72];
            snprintf(deeper, sizeof deeper, "%s.", name);
            print_fields(value, deeper);
        } else if (json_is_string(value)) {
            printf("%-16s %s\n", name, json_string_value(value));
        } else if (json_is_boolean(value)) {
            printf("%-16s %s\n", name, json_is_true(value) ? "true" : "false");
        } else if (json_is_number(value)) {
            printf("%-16s %.6g\n", name, json_number_value(value));
        }
    }
}

static void cell_ratio(esp_table *table, double ratio)
{
    if (ratio >= 0)
        esp_table_cell(table, "%.4g", ratio);
    else
        esp_table_cell(table, "%s", "");
}

static esp_status print_rules(const esp_plan *plan, esp_error *err)
{
    esp_table *table = esp_table_new("lrrl");
    esp_status status;

    esp_table_cell(table, "rule");
    esp_table_cell(table, "ratio");
    esp_table_cell(table, "groups");
    esp_table_cell(table, "%s", "");
    for (int i = 0; i < plan->rule_count; i++) {
        const esp_plan_rule *rule = &plan->rules[i];
        esp_table_cell(table, "%s", rule->pattern);
        cell_ratio(table, rule->ratio);
        if (rule->groups)
            esp_table_cell(table, "%d", rule->groups);
        else
            esp_table_cell(table, "%s", "");
        esp_table_cell(table, "%s", rule->is_ignored ? "ignored" : "");
    }
    status = esp_table_print(table, err);
    esp_table_free(table);
    return status;
}

static esp_status print_preview(const esp_preview *preview, esp_error *err)
{
    static const char *const headings[] = {"layer", "role", "asked", "got", "filters", "left", "note"};
    esp_table *table = esp_table_new("llrrrrl");
    char before[16], after[16];
    esp_status status;

    for (size_t i = 0; i < 7; i++)
        esp_table_cell(table, "%s", headings[i]);
    for (int l = 0; l < preview->layers.count; l++) {
        const esp_preview_layer *item = &preview->items[l];
        esp_table_cell(table, "%s", preview->layers.items[l].name);
        esp_table_cell(table, "%s", esp_role_word(item->role));
        esp_table_cell(table, item->takes_part ? "%.1f %%" : "-", 100 * item->asked);
        esp_table_cell(table, item->takes_part ? "%.1f %%" : "-", 100 * item->got);
        esp_table_cell(table, "%lld", (long long)preview->layers.items[l].filters);
        esp_table_cell(table, "%lld", (long long)item->filters_kept);
        esp_table_cell(table, "%s", item->note);
    }
    status = esp_table_print(table, err);
    esp_table_free(table);
    printf("\nparams   %s -> %s\n", esp_format_count(before, sizeof before, (double)preview->before.params),
           esp_format_count(after, sizeof after, (double)preview->after.params));
    printf("MACs     %s -> %s\n", esp_format_count(before, sizeof before, (double)preview->before.macs),
           esp_format_count(after, sizeof after, (double)preview->after.macs));
    return status;
}

static esp_status show_for_people(const esp_plan *plan, const esp_preview *preview, esp_error *err)
{
    json_t *object = NULL;
    esp_status status = esp_plan_to_json(plan, &object, err);

    if (status == ESP_OK)
        print_fields(object, "");
    json_decref(object);
    if (status == ESP_OK && plan->rule_count) {
        putchar('\n');
        status = print_rules(plan, err);
    }
    if (status == ESP_OK && preview) {
        putchar('\n');
        status = print_preview(preview, err);
    }
    return status;
}

static esp_status show(esp_cli *cli, const plan_request *it, const esp_positionals *given, esp_error *err)
{
    esp_plan plan = {0};
    esp_cli_model model = {0};
    esp_preview *preview = NULL;
    esp_grouping_cache *cache = NULL;
    json_t *object = NULL;
    esp_status status = esp_plan_load(given->items[0], &plan, err);

    if (status == ESP_OK && given->count > 1) {
        status = esp_cli_model_open(cli, &it->common, given->items[1], &model, err);
        if (status == ESP_OK)
            status = esp_grouping_cache_new(&cache, err);
        if (status == ESP_OK)
            status = esp_cli_plan_calibrate(&it->flags, &plan, model.graph, cache, err);
        if (status == ESP_OK)
            status = esp_preview_new(&cli->compute, model.graph, &plan, model.shapes, model.shape_count,
                                     cache, &preview, err);
        esp_cli_end_progress();
    }
    if (status == ESP_OK && it->common.is_json) {
        status = preview ? esp_preview_to_json(preview, false, &object, err)
                         : esp_plan_to_json(&plan, &object, err);
        if (status == ESP_OK)
            status = esp_cli_print_json(object, err);
    } else if (status == ESP_OK) {
        status = show_for_people(&plan, preview, err);
    }
    esp_preview_free(preview);
    esp_grouping_cache_free(cache);
    esp_cli_model_close(&model);
    esp_plan_free(&plan);
    return status;
}

/* ---- diff ---- */

static esp_status print_changes(const esp_plan_changes *changes, esp_error *err)
{
    esp_table *table;
    esp_status status;

    if (!changes->count) {
        printf("the plans are the same\n");
        return ESP_OK;
    }
    table = esp_table_new("lll");
    esp_table_cell(table, "field");
    esp_table_cell(table, "a");
    esp_table_cell(table, "b");
    for (int i = 0; i < changes->count; i++) {
        esp_table_cell(table, "%s", changes->items[i].where);
        esp_table_cell(table, "%s", changes->items[i].a ? changes->items[i].a : "-");
        esp_table_cell(table, "%s", changes->items[i].b ? changes->items[i].b : "-");
    }
    status = esp_table_print(table, err);
    esp_table_free(table);
    return status;
}

static esp_status print_effects(const esp_plan_effects *effects, esp_error *err)
{
    static const char *const headings[] = {"layer",     "asked a", "b",         "got a", "b",
                                           "filters a", "b",       "weights a", "b"};
    esp_table *table = esp_table_new("lrrrrrrrr");
    char one[16], two[16], three[16];
    esp_status status;

    for (size_t i = 0; i < 9; i++)
        esp_table_cell(table, "%s", headings[i]);
    for (int i = 0; i < effects->count; i++) {
        const esp_plan_effect *it = &effects->items[i];
        esp_table_cell(table, "%s", it->layer);
        for (int p = 0; p < 2; p++)
            esp_table_cell(table, "%.1f %%", 100 * it->asked[p]);
        for (int p = 0; p < 2; p++)
            esp_table_cell(table, "%.1f %%", 100 * it->got[p]);
        for (int p = 0; p < 2; p++)
            esp_table_cell(table, "%lld", (long long)it->filters_kept[p]);
        for (int p = 0; p < 2; p++)
            esp_table_cell(table, "%s", esp_format_count(one, sizeof one, (double)it->params_after[p]));
    }
    printf("\n%d of %d layers come out differently\n", effects->count, effects->layer_count);
    status = effects->count ? esp_table_print(table, err) : ESP_OK;
    esp_table_free(table);
    printf("params   %s -> a %s, b %s\n", esp_format_count(one, sizeof one, (double)effects->before.params),
           esp_format_count(two, sizeof two, (double)effects->after[0].params),
           esp_format_count(three, sizeof three, (double)effects->after[1].params));
    printf("MACs     %s -> a %s, b %s\n", esp_format_count(one, sizeof one, (double)effects->before.macs),
           esp_format_count(two, sizeof two, (double)effects->after[0].macs),
           esp_format_count(three, sizeof three, (double)effects->after[1].macs));
    return status;
}

static esp_status load_two(const esp_positionals *given, esp_plan plans[2], esp_error *err)
{
    esp_status status = esp_plan_load(given->items[0], &plans[0], err);

    return status == ESP_OK ? esp_plan_load(given->items[1], &plans[1], err) : status;
}

static esp_status compare(esp_cli *cli, const plan_request *it, const esp_plan plans[2],
                          const esp_cli_model *model, esp_plan_effects *out, esp_error *err)
{
    esp_dataset *dataset = NULL;
    esp_criterion_data data;
    esp_status status = esp_cli_plan_images(&it->flags, &plans[0], model->graph, &dataset, &data, err);

    if (status == ESP_OK && !dataset)
        status = esp_cli_plan_images(&it->flags, &plans[1], model->graph, &dataset, &data, err);
    if (status == ESP_OK)
        status = esp_plan_compare_on(&cli->compute, model->graph, &plans[0], &plans[1], model->shapes,
                                     model->shape_count, dataset ? &data : NULL, out, err);
    esp_dataset_unref(dataset);
    esp_cli_end_progress();
    return status;
}

static esp_status diff(esp_cli *cli, const plan_request *it, const esp_positionals *given, esp_error *err)
{
    esp_plan plans[2] = {0};
    esp_cli_model model = {0};
    esp_plan_changes changes = {0};
    esp_plan_effects effects = {0};
    bool has_model = given->count > 2;
    json_t *object = NULL;
    esp_status status = load_two(given, plans, err);

    if (status == ESP_OK)
        status = esp_plan_diff(&plans[0], &plans[1], &changes, err);
    if (status == ESP_OK && has_model)
        status = esp_cli_model_open(cli, &it->common, given->items[2], &model, err);
    if (status == ESP_OK && has_model)
        status = compare(cli, it, plans, &model, &effects, err);
    if (status == ESP_OK && it->common.is_json) {
        status = esp_plan_diff_to_json(&changes, has_model ? &effects : NULL, &object, err);
        if (status == ESP_OK)
            status = esp_cli_print_json(object, err);
    } else if (status == ESP_OK) {
        status = print_changes(&changes, err);
        if (status == ESP_OK && has_model)
            status = print_effects(&effects, err);
    }
    esp_plan_effects_free(&effects);
    esp_plan_changes_free(&changes);
    esp_cli_model_close(&model);
    esp_plan_free(&plans[0]);
    esp_plan_free(&plans[1]);
    return status;
}

/* ---- merge ---- */

/* The layers of a model, and what they borrow from. */
typedef struct model_layers {
    esp_cli_model model;
    esp_inferred *inferred;
    esp_layers layers;
} model_layers;

static esp_status load_layers(esp_cli *cli, const plan_request *it, const char *path, model_layers *out,
                              esp_error *err)
{
    esp_status status = esp_cli_model_open(cli, &it->common, path, &out->model, err);

    if (status == ESP_OK)
        status =
            esp_infer(out->model.graph, 1, out->model.shapes, out->model.shape_count, &out->inferred, err);
    if (status == ESP_OK)
        status = esp_layers_list(out->model.graph, out->inferred, &out->layers, err);
    return status;
}

static void free_layers(model_layers *it)
{
    esp_layers_free(&it->layers);
    esp_inferred_free(it->inferred);
    esp_cli_model_close(&it->model);
}

static void print_conflicts(const esp_plan_conflicts *conflicts)
{
    for (int i = 0; i < conflicts->count; i++) {
        const esp_plan_conflict *item = &conflicts->items[i];
        printf("conflict %s: a has %s, b has %s; took %s\n", item->where, item->a, item->b,
               item->took_b ? "b's" : "a's");
    }
    if (!conflicts->count)
        printf("no conflicts\n");
}

static esp_status merge(esp_cli *cli, const plan_request *it, const esp_positionals *given, esp_error *err)
{
    esp_plan plans[2] = {0}, merged = {0};
    model_layers model = {0};
    esp_plan_conflicts conflicts = {0};
    bool has_model = given->count > 2;
    json_t *object = NULL;
    esp_status status = ESP_OK;

    if (it->takes_ours && it->takes_theirs)
        return esp_fail(err, ESP_INVALID, "--ours and --theirs exclude each other");
    if (!it->common.output && !it->common.is_json)
        return esp_fail(err, ESP_INVALID, "-o OUT.json is missing (or --json)");
    status = load_two(given, plans, err);
    if (status == ESP_OK && has_model)
        status = load_layers(cli, it, given->items[2], &model, err);
    if (status == ESP_OK)
        status = esp_plan_merge(&plans[0], &plans[1],
                                it->takes_ours     ? ESP_PLAN_OURS
                                : it->takes_theirs ? ESP_PLAN_THEIRS
                                                   : ESP_PLAN_RULES,
                                has_model ? &model.layers : NULL, &merged, &conflicts, err);
    if (status == ESP_OK && it->common.output)
        status = esp_plan_save(&merged, it->common.output, err);
    if (status == ESP_OK && it->common.is_json) {
        status = esp_plan_merge_to_json(&merged, &conflicts, &object, err);
        if (status == ESP_OK)
            status = esp_cli_print_json(object, err);
    } else if (status == ESP_OK) {
        print_conflicts(&conflicts);
        printf("wrote    %s (%d rules)\n", it->common.output, merged.rule_count);
    }
    esp_plan_conflicts_free(&conflicts);
    free_layers(&model);
    esp_plan_free(&merged);
    esp_plan_free(&plans[0]);
    esp_plan_free(&plans[1]);
    return status;
}

/* ---- fit ---- */

static esp_status print_fit(const esp_plan_fit *found, esp_error *err)
{
    esp_table *table;
    esp_status status;

    if (!found->count) {
        printf("the plan fits\n");
        return ESP_OK;
    }
    table = esp_table_new("llll");
    esp_table_cell(table, "what");
    esp_table_cell(table, "layer");
    esp_table_cell(table, "why");
    esp_table_cell(table, "repair");
    for (int i = 0; i < found->count; i++) {
        const esp_plan_misfit *item = &found->items[i];
        esp_table_cell(table, "%s", esp_misfit_word(item->kind));
        esp_table_cell(table, "%s", item->layer);
        esp_table_cell(table, "%s", item->text);
        esp_table_cell(table, "%s", item->repair ? item->repair : "");
    }
    status = esp_table_print(table, err);
    esp_table_free(table);
    return status;
}

static esp_status fit(esp_cli *cli, const plan_request *it, const esp_positionals *given, esp_error *err)
{
    esp_plan plan = {0};
    esp_cli_model model = {0};
    esp_graph *from = NULL;
    esp_plan_fit found = {0};
    esp_dataset *dataset = NULL;
    esp_criterion_data data;
    json_t *object = NULL;
    esp_status status = esp_plan_load(given->items[1], &plan, err);

    if (status == ESP_OK)
        status = esp_cli_model_open(cli, &it->common, given->items[0], &model, err);
    if (status == ESP_OK && it->from)
        status = esp_onnx_load(it->from, &from, err);
    if (status == ESP_OK)
        status = esp_cli_plan_images(&it->flags, &plan, model.graph, &dataset, &data, err);
    if (status == ESP_OK) {
        const esp_plan_fit_options options = {.from = from,
                                              .renames = it->renames,
                                              .input_shapes = model.shapes,
                                              .input_shape_count = model.shape_count,
                                              .data = dataset ? &data : NULL};
        status = esp_plan_fit_new(&cli->compute, model.graph, &plan, &options, &found, err);
        esp_cli_end_progress();
    }
    if (status == ESP_OK && it->common.output)
        status = esp_plan_save(&found.repaired, it->common.output, err);
    if (status == ESP_OK && it->common.is_json) {
        status = esp_plan_fit_to_json(&found, &object, err);
        if (status == ESP_OK)
            status = esp_cli_print_json(object, err);
    } else if (status == ESP_OK) {
        status = print_fit(&found, err);
        if (it->common.output)
            printf("wrote    %s (%d rules)\n", it->common.output, found.repaired.rule_count);
    }
    esp_plan_fit_free(&found);
    esp_dataset_unref(dataset);
    esp_graph_unref(from);
    esp_cli_model_close(&model);
    esp_plan_free(&plan);
    return status;
}

/* ---- the command ---- */

typedef struct plan_verb {
    const char *word, *arguments;
    int least, most; /* arguments */
    esp_status (*run)(esp_cli *cli, const plan_request *it, const esp_positionals *given, esp_error *err);
} plan_verb;

static const plan_verb plan_verbs[] = {
    {"show", "PLAN.json [MODEL.onnx]", 1, 2, show},
    {"diff", "A.json B.json [MODEL.onnx]", 2, 3, diff},
    {"merge", "A.json B.json [MODEL.onnx] -o OUT.json", 2, 3, merge},
    {"fit", "MODEL.onnx PLAN.json [-o OUT.json]", 2, 2, fit},
};
enum { VERB_COUNT = sizeof plan_verbs / sizeof *plan_verbs };

static esp_status find_verb(const char *word, const plan_verb **out, esp_error *err)
{
    const char *words[VERB_COUNT];

    for (int i = 0; i < VERB_COUNT; i++) {
        words[i] = plan_verbs[i].word;
        if (strcmp(word, words[i]) == 0) {
            *out = &plan_verbs[i];
            return ESP_OK;
        }
    }
    return esp_fail_unknown(err, "plan command", word, words, VERB_COUNT);
}

/* VERB FILE... */
static esp_status run(esp_cli *cli, int count, char **items, void *context, esp_error *err)
{
    const plan_verb *verb = NULL;
    const esp_positionals given = {count - 1, items + 1};
    esp_status status = find_verb(items[0], &verb, err);

    if (status != ESP_OK)
        return status;
    if (given.count < verb->least || given.count > verb->most)
        return esp_fail(err, ESP_INVALID, "plan %s: found %d files, expected %s", verb->word, given.count,
                        verb->arguments);
    return verb->run(cli, context, &given, err);
}

esp_status esp_command_plan(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    plan_request it = {.flags = ESP_CLI_PLAN_FLAGS_NONE};
    char data_help[128];
    const esp_option options[] = {
        ESP_CLI_OUTPUT(&it.common, "OUT.json", "merge, fit: where to write the plan"),
        {"ours", 0, ESP_OPTION_FLAG, &it.takes_ours, NULL, "merge: A wins everywhere", 0, 0, 0},
        {"theirs", 0, ESP_OPTION_FLAG, &it.takes_theirs, NULL,
         "merge: B wins everywhere (else: general fields of A, rules of B over A's)", 0, 0, 0},
        {"from", 0, ESP_OPTION_TEXT, &it.from, "OLD.onnx", "fit: the model the plan was made for", 0, 0, 0},
        {"rename", 0, ESP_OPTION_FLAG, &it.renames, NULL,
         "fit: rules of layers that are gone go to the nearest instead of being dropped", 0, 0, 0},
        ESP_CLI_DATA(&it.flags, esp_cli_data_help(data_help, sizeof data_help)),
        {"calibrate", 0, ESP_OPTION_INT, &it.flags.images, "N",
         "images that criteria with data look at (default 256)", 1, 1e9, 0},
        ESP_CLI_MEAN(&it.flags, "normalisation of these images instead of the model's own"),
        ESP_CLI_STD(&it.flags, "likewise"),
        ESP_CLI_INPUT(&it.common, "fix sizes the file leaves open"),
        ESP_CLI_MACHINE(cli, &it.common),
        ESP_CLI_JSON(&it.common, "one JSON object instead of text"),
        {0},
    };
    const esp_command_syntax syntax = {
        "plan",
        "Plans as files: shown, compared (for a MODEL: layer by layer), merged, fitted to a changed model.",
        "show|diff|merge|fit FILE... [options]",
        "  espalier plan show plan.json model.onnx\n"
        "  espalier plan diff a.json b.json model.onnx\n"
        "  espalier plan merge backbone.json head.json -o both.json\n"
        "  espalier plan fit changed.onnx plan.json --from model.onnx -o fitted.json",
        1,
        4,
        options,
        false};
    return esp_cli_run(cli, &syntax, argc, argv, run, &it, err);
}
