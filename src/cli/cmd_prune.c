/* espalier prune: a plan from flags or a file, its preview, and the cut. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/budget_options.h"
#include "cli/cli.h"
#include "cli/inputs.h"
#include "cli/plan_preset.h"
#include "cli/preview_print.h"
#include "cli/repair_options.h"
#include "io/onnx.h"
#include "prune/surgery.h"

/* What the flags said. */
typedef struct prune_request {
    esp_cli_plan_flags plan;
    const char *output, *save_plan_path, *form, *preset; /* NULL: not given */
    int64_t threads;
    esp_option_list inputs;
    bool is_dry, is_json, is_masked, has_ledger;
    esp_cli_budget budget;
    esp_cli_repair *repair;
} prune_request;

static json_t *report_json(const esp_surgery_report *report)
{
    return json_pack("{s:I, s:i, s:i, s:i, s:i, s:i, s:o, s:o, s:I, s:I, s:I, s:I}", "slots_removed",
                     (json_int_t)report->slots_removed, "layers_narrowed", report->layers_narrowed,
                     "layers_grouped", report->layers_grouped, "layers_with_masks", report->layers_with_masks,
                     "constants_to_bias", report->constants_to_bias, "constants_explicit",
                     report->constants_explicit, "largest_absolute",
                     esp_cli_json_real(report->largest_absolute), "largest_relative",
                     esp_cli_json_real(report->largest_relative), "params", (json_int_t)report->counts.params,
                     "macs", (json_int_t)report->counts.macs, "stored_params",
                     (json_int_t)report->stored.params, "stored_macs", (json_int_t)report->stored.macs);
}

/* "model    1.07M params, 633M MACs..." where that is not what the preview said. */
static void print_counts(const char *label, const esp_counts *counts, const char *why)
{
    char params[16], macs[16];
    printf("%-8s %s params, %s MACs%s\n", label,
           esp_format_count(params, sizeof params, (double)counts->params),
           esp_format_count(macs, sizeof macs, (double)counts->macs), why);
}

static void print_report(const esp_surgery_report *report, const esp_preview *preview, esp_group_form form,
                         const char *path)
{
    printf(
        "cut      %lld channels removed, %d layers narrowed, %d grouped, %d keep zeros of shared channels\n",
        (long long)report->slots_removed, report->layers_narrowed, report->layers_grouped,
        report->layers_with_masks);
    if (report->constants_to_bias + report->constants_explicit > 0) {
        printf("constant %d behind cut filters folded into biases, %d kept as explicit constants\n",
               report->constants_to_bias, report->constants_explicit);
    }
    /* new weights may leave other constants behind cut filters, which go elsewhere */
    if (report->counts.params != preview->after.params || report->counts.macs != preview->after.macs) {
        print_counts("model", &report->counts, ", with the repaired weights");
    }
    if (report->stored.params != preview->stored.params && report->stored.macs > report->counts.macs &&
        form == ESP_GROUP_FORM_DENSE) {
        print_counts("stored", &report->stored, " with the zeros that stay, in dense form");
    }
    printf("check    cut against masked model: largest difference %.2g absolute, %.2g relative\n",
           report->largest_absolute, report->largest_relative);
    printf("wrote    %s\n", path);
}

static esp_group_form form_of(const prune_request *request)
{
    bool is_dense = request->form && strcmp(request->form, "dense") == 0;
    return is_dense ? ESP_GROUP_FORM_DENSE : ESP_GROUP_FORM_GROUPED;
}

/* Cuts (or masks) and writes the file. */
static esp_status write_result(esp_cli *cli, const prune_request *request, const esp_preview *preview,
                               esp_surgery_report *report, esp_error *err)
{
    esp_surgery_options options = esp_surgery_defaults();
    esp_graph *result = NULL;
    esp_status status = ESP_OK;
    options.group_form = form_of(request);
    status = esp_cli_repair_make(request->repair, &cli->compute, preview, request->plan.data,
                                 request->is_masked, &options, &result, report, err);
    if (status == ESP_OK) {
        status = esp_onnx_save(result, request->output, err);
    }
    esp_graph_unref(result);
    return status;
}

/* `budget` NULL: no ratios were solved. */
static esp_status show(const prune_request *request, const esp_preview *preview,
                       const esp_surgery_report *report, const esp_budget_report *budget, esp_error *err)
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
        if (!request->is_dry) {
            esp_cli_repair_json(request->repair, preview, object);
        }
        if (budget) {
            json_t *solved = NULL;
            if (esp_budget_report_to_json(budget, &solved, err) != ESP_OK) {
                json_decref(object);
                return ESP_NO_MEMORY;
            }
            json_object_set_new(object, "budget", solved);
        }
        return esp_cli_print_json(object, err);
    }
    esp_status status = esp_cli_preview_print(preview, request->has_ledger, err);
    if (budget) {
        esp_cli_budget_print(budget);
    }
    if (!request->is_dry) {
        esp_cli_repair_print(request->repair, preview);
    }
    if (has_cut) {
        print_report(report, preview, form_of(request), request->output);
    } else if (!request->is_dry) {
        printf("wrote    %s (masked: same shapes, zeros inside)\n", request->output);
    }
    return status;
}

/* Replaces the plan's ratios by those that meet the targets. A kind whose ratio was given keeps it. */
static esp_status solve_budget(esp_cli *cli, const prune_request *request, const esp_graph *graph,
                               const esp_input_shape *shapes, int shape_count, esp_grouping_cache *cache,
                               esp_plan *plan, esp_budget_report *report, esp_error *err)
{
    esp_budget_options options;
    esp_status status = esp_cli_budget_options(&request->budget, &options, err);
    options.keeps_conv = !isnan(request->plan.conv_ratio);
    options.keeps_fc = !isnan(request->plan.fc_ratio);
    options.keeps_border = !isnan(request->plan.border_ratio);
    options.group_form = form_of(request);
    options.input_shapes = shapes;
    options.input_shape_count = shape_count;
    if (status == ESP_OK) {
        status = esp_cli_budget_solve(cli, &request->budget, &options, graph, cache, plan, report, err);
    }
    return status;
}

/* Flags that would do nothing are refused. */
static esp_status check_form(const prune_request *request, const esp_plan *plan, esp_error *err)
{
    char found[64];
    esp_cli_method_text(&request->plan, plan, found, sizeof found);
    const esp_cli_use uses[] = {
        {"--form", request->form != NULL, !request->is_masked, "a model that is cut", "--masked"},
        {"--form", request->form != NULL, plan->method == ESP_METHOD_SG, "method sg", found},
    };
    return esp_cli_check_uses(uses, sizeof uses / sizeof uses[0], err);
}

static esp_status prune(esp_cli *cli, const prune_request *request, const char *path, esp_error *err)
{
    bool is_solved = esp_cli_budget_is_given(&request->budget);
    esp_budget_report budget = {0};
    esp_grouping_cache *cache = NULL;
    esp_plan plan = {0};
    esp_graph *graph = NULL;
    esp_preview *preview = NULL;
    esp_surgery_report report = {0};
    esp_input_shape shapes[ESP_CLI_INPUTS_MAX];
    int shape_count = 0;
    esp_status status = esp_cli_plan_make(&request->plan, !is_solved, &plan, err);
    if (status == ESP_OK) {
        status = check_form(request, &plan, err);
    }
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
        status = esp_grouping_cache_new(&cache, err);
    }
    if (status == ESP_OK) {
        status = esp_cli_plan_calibrate(&request->plan, &plan, graph, cache, err);
    }
    if (status == ESP_OK && is_solved) {
        status = solve_budget(cli, request, graph, shapes, shape_count, cache, &plan, &budget, err);
    }
    if (status == ESP_OK) {
        status = esp_preview_new(&cli->compute, graph, &plan, shapes, shape_count, cache, &preview, err);
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
        status = show(request, preview, &report, is_solved ? &budget : NULL, err);
    }
    esp_preview_free(preview);
    esp_grouping_cache_free(cache);
    esp_graph_unref(graph);
    esp_plan_free(&plan);
    return status;
}

esp_status esp_command_prune(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    bool is_done = false;
    esp_cli_repair repair = {0};
    prune_request it = {.plan = ESP_CLI_PLAN_FLAGS_NONE, .repair = &repair};
    char data_help[128];
    const esp_option options[] = {
        {"output", 'o', ESP_OPTION_TEXT, &it.output, "OUT.onnx", "where to write the pruned model", 0, 0, 0},
        ESP_CLI_PLAN_FLAGS_ROWS(&it.plan, esp_cli_data_help(data_help, sizeof data_help)),
        ESP_CLI_PRESET_ROW(&it.preset),
        ESP_CLI_BUDGET_ROWS(&it.budget),
        ESP_CLI_REPAIR_ROWS(&repair),
        {"save-plan", 0, ESP_OPTION_TEXT, &it.save_plan_path, "PLAN.json", "write the plan", 0, 0, 0},
        {"form", 0, ESP_OPTION_TEXT, &it.form, "NAME", "sg layers as grouped (default) or dense with zeros",
         0, 0, 0},
        {"masked", 0, ESP_OPTION_FLAG, &it.is_masked, NULL, "only set weights to zero, cut nothing", 0, 0, 0},
        {"dry-run", 'n', ESP_OPTION_FLAG, &it.is_dry, NULL, "show the preview, write nothing", 0, 0, 0},
        {"ledger", 0, ESP_OPTION_FLAG, &it.has_ledger, NULL,
         "every reason why a layer gives less, or more, than asked", 0, 0, 0},
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
        "  espalier prune model.onnx -o smaller.onnx --method sg --ratio 0.5 --groups 16 --ignore "
        "classifier\n"
        "  espalier prune model.onnx -o smaller.onnx --method filter --criterion fpgm --ratio 0.5 --scope "
        "global "
        "--round-to 8\n"
        "  espalier prune model.onnx -o half.onnx --method wsp --target macs=0.5 --target latency=0.6\n"
        "  espalier prune model.onnx -o better.onnx --method wsp --ratio 0.4 --data fashion-mnist "
        "--reconstruct 512 "
        "--recalibrate 512",
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
    it.plan.mean = repair.mean; /* the criterion looks at the same images */
    it.plan.std = repair.std;
    if (!it.output && !it.is_dry) {
        return esp_fail(err, ESP_INVALID, "-o OUT.onnx is missing (or --dry-run)");
    }
    if (esp_cli_budget_is_given(&it.budget) && !isnan(it.plan.ratio)) {
        return esp_fail(err, ESP_INVALID,
                        "--ratio and --target exclude each other (--conv-ratio, --fc-ratio and "
                        "--border-ratio fix one kind)");
    }
    if (!esp_cli_budget_is_given(&it.budget)) { /* its options alone mean nothing */
        esp_budget_options nothing;
        status = esp_cli_budget_options(&it.budget, &nothing, err);
        if (status != ESP_OK) {
            return status;
        }
    }
    if (it.form && strcmp(it.form, "grouped") != 0 && strcmp(it.form, "dense") != 0) {
        return esp_fail(err, ESP_INVALID, "--form: found '%s', expected grouped or dense", it.form);
    }
    status = esp_cli_repair_check(&repair, it.plan.data, err);
    if (status == ESP_OK) {
        status = esp_cli_preset_fill(it.preset, &it.plan, NULL, NULL, err);
    }
    if (status == ESP_OK) {
        status = prune(cli, &it, positionals.items[0], err);
    }
    esp_cli_repair_free(&repair);
    return status;
}
