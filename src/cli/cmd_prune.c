/* espalier prune: a plan from flags or a file, its preview, and the cut. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "cli/cli.h"
#include "cli/inputs.h"
#include "cli/table.h"
#include "io/onnx.h"
#include "prune/surgery.h"

/* What the flags said; NAN and 0 mean "not given". */
typedef struct prune_request {
    const char *output, *plan_path, *save_plan_path, *method, *mode, *init, *form;
    double ratio, conv_ratio, fc_ratio, border_ratio;
    int64_t groups, restarts, seed, threads;
    esp_option_list layer_ratios, layer_groups, ignored, inputs;
    bool is_dry, is_json, is_masked;
} prune_request;

/* "NAME=VALUE" split at the last '='. */
static esp_status split_rule(const char *flag, const char *item, char *name, size_t size, double *value,
                             esp_error *err)
{
    const char *equals = strrchr(item, '=');
    if (!equals || equals == item || (size_t)(equals - item) >= size || !esp_parse_f64(equals + 1, value)) {
        return esp_fail(err, ESP_INVALID, "--%s: found '%s', expected NAME=NUMBER", flag, item);
    }
    snprintf(name, size, "%.*s", (int)(equals - item), item);
    return ESP_OK;
}

static esp_status add_rules(const prune_request *request, esp_plan *plan, esp_error *err)
{
    char name[256];
    double value = 0;
    esp_status status = ESP_OK;
    for (int i = 0; i < request->layer_ratios.count && status == ESP_OK; i++) {
        status = split_rule("layer", request->layer_ratios.items[i], name, sizeof name, &value, err);
        if (status == ESP_OK && !(value >= 0 && value < 1)) {
            status = esp_fail(err, ESP_INVALID, "--layer %s: found ratio %g, expected [0, 1)", name, value);
        }
        if (status == ESP_OK) {
            status = esp_plan_add_rule(plan, name, value, 0, false, err);
        }
    }
    for (int i = 0; i < request->layer_groups.count && status == ESP_OK; i++) {
        status = split_rule("layer-groups", request->layer_groups.items[i], name, sizeof name, &value, err);
        if (status == ESP_OK && !(value >= 1 && value <= 65536 && value == floor(value))) {
            status = esp_fail(err, ESP_INVALID,
                              "--layer-groups %s: found %g, expected a whole number "
                              "of at least 1",
                              name, value);
        }
        if (status == ESP_OK) {
            status = esp_plan_add_rule(plan, name, -1, (int)value, false, err);
        }
    }
    for (int i = 0; i < request->ignored.count && status == ESP_OK; i++) {
        status = esp_plan_add_rule(plan, request->ignored.items[i], -1, 0, true, err);
    }
    return status;
}

static double given_or(double given, double otherwise)
{
    return isnan(given) ? otherwise : given;
}

/* Flags on top of a plan file, or a plan of flags alone. */
static esp_status make_plan(const prune_request *request, esp_plan *plan, esp_error *err)
{
    esp_status status = ESP_OK;
    if (request->plan_path) {
        status = esp_plan_load(request->plan_path, plan, err);
    } else if (!request->method) {
        status = esp_fail(err, ESP_INVALID, "--method is missing, expected wsp or sg (or --plan FILE)");
    } else if (isnan(request->ratio) && isnan(request->conv_ratio) && isnan(request->fc_ratio) &&
               isnan(request->border_ratio) && request->layer_ratios.count == 0) {
        status = esp_fail(err, ESP_INVALID, "--ratio is missing, expected a number in [0, 1)");
    } else {
        *plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, given_or(request->ratio, 0));
    }
    if (status == ESP_OK && request->method) {
        status = esp_method_parse(request->method, &plan->method, err);
    }
    if (status == ESP_OK && request->mode) {
        status = esp_mode_parse(request->mode, &plan->mode, err);
    }
    if (status == ESP_OK && request->init) {
        bool is_random = strcmp(request->init, "random") == 0;
        if (!is_random && strcmp(request->init, "kmeans++") != 0) {
            return esp_fail(err, ESP_INVALID, "--init: found '%s', expected random or kmeans++",
                            request->init);
        }
        plan->init = is_random ? ESP_KMEANS_RANDOM : ESP_KMEANS_PLUS_PLUS;
    }
    if (status == ESP_OK) {
        plan->conv_ratio = given_or(request->conv_ratio, given_or(request->ratio, plan->conv_ratio));
        plan->fc_ratio = given_or(request->fc_ratio, given_or(request->ratio, plan->fc_ratio));
        plan->border_ratio = given_or(request->border_ratio, given_or(request->ratio, plan->border_ratio));
        plan->groups = request->groups ? (int)request->groups : plan->groups;
        plan->restarts = request->restarts ? (int)request->restarts : plan->restarts;
        plan->seed = request->seed >= 0 ? (uint64_t)request->seed : plan->seed;
        status = add_rules(request, plan, err);
    }
    if (status == ESP_OK) {
        status = esp_plan_check(plan, err);
    }
    return status;
}

static void print_ledger(const esp_preview *preview, esp_table *table)
{
    static const char *const headings[] = {"layer", "role", "asked",  "got", "weights",
                                           "",      "left", "groups", "note"};
    for (size_t i = 0; i < 9; i++) {
        esp_table_cell(table, "%s", headings[i]);
    }
    for (int i = 0; i < preview->layers.count; i++) {
        const esp_preview_layer *item = &preview->items[i];
        char before[16], after[16];
        esp_table_cell(table, "%s", preview->layers.items[i].name);
        esp_table_cell(table, "%s", esp_role_word(item->role));
        esp_table_cell(table, item->takes_part ? "%.1f %%" : "-", 100 * item->asked);
        esp_table_cell(table, item->takes_part ? "%.1f %%" : "-", 100 * item->got);
        esp_table_cell(table, "%s", esp_format_count(before, sizeof before, (double)item->params_before));
        esp_table_cell(table, "%s", esp_format_count(after, sizeof after, (double)item->params_after));
        esp_table_cell(table, "%.1f %%", 100 * (1 - item->pruned));
        if (item->grouping.labels) {
            esp_table_cell(table, "%lld", (long long)item->grouping.executed_groups);
        } else {
            esp_table_cell(table, "%s", "");
        }
        esp_table_cell(table, "%s", item->note);
    }
}

static void print_change(const char *what, double before, double after)
{
    char left[16], right[16];
    printf("%-8s %s -> %s  (%.1f %%)\n", what, esp_format_count(left, sizeof left, before),
           esp_format_count(right, sizeof right, after), before > 0 ? 100.0 * after / before : 100.0);
}

static esp_status print_preview(const esp_preview *preview, esp_error *err)
{
    esp_table *table = esp_table_new("llrrrrrrl");
    printf("%s (%s), %s\n\n", esp_method_word(preview->plan.method), esp_method_title(preview->plan.method),
           esp_mode_word(preview->plan.mode));
    print_ledger(preview, table);
    esp_status status = esp_table_print(table, err);
    esp_table_free(table);
    putchar('\n');
    print_change("params", (double)preview->before.params, (double)preview->after.params);
    print_change("MACs", (double)preview->before.macs, (double)preview->after.macs);
    return status;
}

static json_t *report_json(const esp_surgery_report *report)
{
    return json_pack("{s:I, s:i, s:i, s:i, s:i, s:i, s:o, s:o, s:I, s:I}", "slots_removed",
                     (json_int_t)report->slots_removed, "layers_narrowed", report->layers_narrowed,
                     "layers_grouped", report->layers_grouped, "layers_with_masks", report->layers_with_masks,
                     "constants_to_bias", report->constants_to_bias, "constants_explicit",
                     report->constants_explicit, "largest_absolute",
                     esp_cli_json_real(report->largest_absolute), "largest_relative",
                     esp_cli_json_real(report->largest_relative), "params", (json_int_t)report->counts.params,
                     "macs", (json_int_t)report->counts.macs);
}

static void print_report(const esp_surgery_report *report, const char *path)
{
    printf(
        "cut      %lld channels removed, %d layers narrowed, %d grouped, %d keep zeros of shared channels\n",
        (long long)report->slots_removed, report->layers_narrowed, report->layers_grouped,
        report->layers_with_masks);
    if (report->constants_to_bias + report->constants_explicit > 0) {
        printf("constant %d behind cut filters folded into biases, %d kept as explicit constants\n",
               report->constants_to_bias, report->constants_explicit);
    }
    printf("check    cut against masked model: largest difference %.2g absolute, %.2g relative\n",
           report->largest_absolute, report->largest_relative);
    printf("wrote    %s\n", path);
}

/* Cuts (or masks) and writes the file. */
static esp_status write_result(esp_cli *cli, const prune_request *request, const esp_preview *preview,
                               esp_surgery_report *report, esp_error *err)
{
    esp_surgery_options options = esp_surgery_defaults();
    esp_graph *result = NULL;
    esp_status status = ESP_OK;
    options.group_form = strcmp(request->form, "dense") == 0 ? ESP_GROUP_FORM_DENSE : ESP_GROUP_FORM_GROUPED;
    if (request->is_masked) {
        status = esp_preview_masked_graph(preview, &result, err);
    } else {
        status = esp_surgery(&cli->compute, preview, &options, &result, report, err);
    }
    if (status == ESP_OK) {
        status = esp_onnx_save(result, request->output, err);
    }
    esp_graph_unref(result);
    return status;
}

static esp_status show(const prune_request *request, const esp_preview *preview,
                       const esp_surgery_report *report, esp_error *err)
{
    bool has_cut = !request->is_dry && !request->is_masked;
    if (request->is_json) {
        json_t *object = NULL;
        esp_status status = esp_preview_to_json(preview, true, &object, err);
        if (status != ESP_OK) {
            return status;
        }
        if (!request->is_dry) {
            json_object_set_new(object, "output", esp_cli_json_text(request->output));
        }
        if (has_cut) {
            json_object_set_new(object, "surgery", report_json(report));
        }
        return esp_cli_print_json(object, err);
    }
    esp_status status = print_preview(preview, err);
    if (has_cut) {
        print_report(report, request->output);
    } else if (!request->is_dry) {
        printf("wrote    %s (masked: same shapes, zeros inside)\n", request->output);
    }
    return status;
}

static esp_status prune(esp_cli *cli, const prune_request *request, const char *path, esp_error *err)
{
    esp_plan plan = {0};
    esp_graph *graph = NULL;
    esp_preview *preview = NULL;
    esp_surgery_report report = {0};
    esp_input_shape shapes[ESP_CLI_INPUTS_MAX];
    int shape_count = 0;
    esp_status status = make_plan(request, &plan, err);
    if (status == ESP_OK) {
        status = esp_cli_start(cli, request->threads, err);
    }
    if (status == ESP_OK) {
        status = esp_onnx_load(path, &graph, err);
    }
    if (status == ESP_OK) {
        status = esp_cli_input_shapes(&request->inputs, graph, shapes, &shape_count, err);
    }
    if (status == ESP_OK) {
        status = esp_preview_new(&cli->compute, graph, &plan, shapes, shape_count, NULL, &preview, err);
    }
    /* a plan that was tried: layer names are checked against the model */
    if (status == ESP_OK && request->save_plan_path) {
        status = esp_plan_save(&plan, request->save_plan_path, err);
    }
    if (status == ESP_OK && !request->is_dry) {
        status = write_result(cli, request, preview, &report, err);
    }
    if (status == ESP_OK) {
        esp_cli_end_progress();
        status = show(request, preview, &report, err);
    }
    esp_preview_free(preview);
    esp_graph_unref(graph);
    esp_plan_free(&plan);
    return status;
}

esp_status esp_command_prune(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    bool is_done = false;
    prune_request it = {
        .ratio = NAN, .conv_ratio = NAN, .fc_ratio = NAN, .border_ratio = NAN, .seed = -1, .form = "grouped"};
    const esp_option options[] = {
        {"output", 'o', ESP_OPTION_TEXT, &it.output, "OUT.onnx", "where to write the pruned model", 0, 0, 0},
        {"method", 'm', ESP_OPTION_TEXT, &it.method, "NAME", "wsp (weak sub-network) or sg (self-grouping)",
         0, 0, 0},
        {"mode", 0, ESP_OPTION_TEXT, &it.mode, "NAME", "sound (default) or faithful to the published code", 0,
         0, 0},
        {"ratio", 'r', ESP_OPTION_REAL, &it.ratio, "R", "share to prune in every layer, in [0, 1)", 0, 1,
         true},
        {"conv-ratio", 0, ESP_OPTION_REAL, &it.conv_ratio, "R", "for convolutions", 0, 1, true},
        {"fc-ratio", 0, ESP_OPTION_REAL, &it.fc_ratio, "R", "for fully connected layers", 0, 1, true},
        {"border-ratio", 0, ESP_OPTION_REAL, &it.border_ratio, "R", "wsp: between last conv and first fc", 0,
         1, true},
        {"layer", 'l', ESP_OPTION_LIST, &it.layer_ratios, "NAME=R", "ratio of layers by name (* and ? match)",
         0, 0, 0},
        {"ignore", 0, ESP_OPTION_LIST, &it.ignored, "NAME", "leave layers alone", 0, 0, 0},
        {"groups", 'g', ESP_OPTION_INT, &it.groups, "K", "sg: groups per layer (default 16)", 1, 65536, 0},
        {"layer-groups", 0, ESP_OPTION_LIST, &it.layer_groups, "NAME=K", "sg: groups of layers by name", 0, 0,
         0},
        {"init", 0, ESP_OPTION_TEXT, &it.init, "NAME", "sg: random (as published) or kmeans++", 0, 0, 0},
        {"restarts", 0, ESP_OPTION_INT, &it.restarts, "N", "sg: k-means restarts (default 10)", 1, 10000, 0},
        {"seed", 0, ESP_OPTION_INT, &it.seed, "N", "default 0", 0, 1e15, 0},
        {"plan", 0, ESP_OPTION_TEXT, &it.plan_path, "PLAN.json",
         "start from this plan; other flags change it", 0, 0, 0},
        {"save-plan", 0, ESP_OPTION_TEXT, &it.save_plan_path, "PLAN.json", "write the plan", 0, 0, 0},
        {"form", 0, ESP_OPTION_TEXT, &it.form, "NAME", "sg layers as grouped (default) or dense with zeros",
         0, 0, 0},
        {"masked", 0, ESP_OPTION_FLAG, &it.is_masked, NULL, "only set weights to zero, cut nothing", 0, 0, 0},
        {"dry-run", 'n', ESP_OPTION_FLAG, &it.is_dry, NULL, "show the preview, write nothing", 0, 0, 0},
        {"input", 0, ESP_OPTION_LIST, &it.inputs, "NAME:SHAPE", "fix sizes the file leaves open", 0, 0, 0},
        {"threads", 't', ESP_OPTION_INT, &it.threads, "N", "default: all cores", 1, 1024, 0},
        ESP_CLI_KERNELS(cli),
        {"json", 0, ESP_OPTION_FLAG, &it.is_json, NULL, "one JSON object with the masks instead of the table",
         0, 0, 0},
        {0},
    };
    const esp_command_syntax syntax = {
        "prune",
        "Plan, preview and cut: a smaller model with the masked model's outputs.",
        "MODEL.onnx -o OUT.onnx --method M --ratio R [options]",
        "  espalier prune model.onnx --method wsp --ratio 0.4 --dry-run\n"
        "  espalier prune model.onnx -o smaller.onnx --method sg --ratio 0.5 --groups 16 --ignore classifier",
        1,
        1,
        options,
        false};
    char *items[argc + 1];
    esp_positionals positionals = {0, items};
    esp_status status = esp_cli_parse(&syntax, argc, argv, &positionals, &is_done, err);
    if (status != ESP_OK || is_done) {
        return status;
    }
    if (!it.output && !it.is_dry) {
        return esp_fail(err, ESP_INVALID, "-o OUT.onnx is missing (or --dry-run)");
    }
    if (strcmp(it.form, "grouped") != 0 && strcmp(it.form, "dense") != 0) {
        return esp_fail(err, ESP_INVALID, "--form: found '%s', expected grouped or dense", it.form);
    }
    return prune(cli, &it, positionals.items[0], err);
}
