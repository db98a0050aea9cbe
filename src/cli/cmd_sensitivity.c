/* espalier sensitivity: what cutting each part of a network alone costs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "cli/common_options.h"
#include "cli/plan_flags.h"
#include "cli/table.h"
#include "io/dataset.h"
#include "io/onnx.h"
#include "plot/figure.h"
#include "prune/sensitivity.h"

enum { RATIOS_MAX = 99, NAMED_MAX = 7 };

typedef struct sensitivity_request {
    esp_cli_common common;
    const char *method, *mode, *criterion, *plan_path, *ratios, *measure, *plot;
    esp_option_list layers, ignored;
    int64_t groups, memory_mib;
    double tolerance; /* negative: not asked */
    double grid[RATIOS_MAX];
    esp_sensitivity_measure by;
    esp_sensitivity_options options;
    bool uses_training;
} sensitivity_request;

/* ---- what is asked ---- */

static esp_status fail_ratios(const char *text, esp_error *err)
{
    return esp_fail(err, ESP_INVALID,
                    "--ratios: found '%s', expected FIRST:LAST:STEP or R,R,... rising, above 0 and below 1 "
                    "(at most %d)",
                    text, RATIOS_MAX);
}

static esp_status parse_range(const char *text, double *grid, int *count, esp_error *err)
{
    char copy[96], *last, *step;
    double from, to, by;
    snprintf(copy, sizeof copy, "%s", text);
    last = strchr(copy, ':');
    *last++ = '\0';
    step = strchr(last, ':');
    if (!step) {
        return fail_ratios(text, err);
    }
    *step++ = '\0';
    if (!esp_parse_f64(copy, &from) || !esp_parse_f64(last, &to) || !esp_parse_f64(step, &by) || !(by > 0) ||
        !(to >= from) || (to - from) / by >= RATIOS_MAX) {
        return fail_ratios(text, err);
    }
    /* rounded, so that 0.1 + 2 * 0.1 is the 0.3 that another call writes */
    for (int i = 0; from + i * by <= to + by * 1e-6; i++) {
        grid[(*count)++] = round((from + i * by) * 1e9) / 1e9;
    }
    return ESP_OK;
}

static esp_status parse_ratios(const char *text, double *grid, int *count, esp_error *err)
{
    *count = 0;
    if (strchr(text, ':')) {
        return parse_range(text, grid, count, err);
    }
    for (const char *item = text; item;) {
        const char *comma = strchr(item, ',');
        char copy[32];
        snprintf(copy, sizeof copy, "%.*s", (int)(comma ? comma - item : (ptrdiff_t)strlen(item)), item);
        if (*count == RATIOS_MAX || !esp_parse_f64(copy, &grid[*count])) {
            return fail_ratios(text, err);
        }
        (*count)++;
        item = comma ? comma + 1 : NULL;
    }
    return ESP_OK;
}

static esp_status make_plan(const sensitivity_request *it, esp_plan *plan, esp_error *err)
{
    esp_cli_plan_flags flags = ESP_CLI_PLAN_FLAGS_NONE;
    flags.path = it->plan_path;
    flags.method = it->method || it->plan_path ? it->method : it->criterion ? "filter" : "wsp";
    flags.mode = it->mode;
    flags.criterion = it->criterion;
    flags.groups = it->groups;
    flags.ignored = it->ignored;
    return esp_cli_plan_make(&flags, false, plan, err);
}

static esp_status check_request(sensitivity_request *it, esp_error *err)
{
    esp_status status = esp_sensitivity_measure_parse(it->measure, &it->by, err);
    it->options.path = it->common.output;
    if (status == ESP_OK && !it->common.data) {
        char help[128];
        status =
            esp_fail(err, ESP_INVALID, "--data SPEC is missing (%s)", esp_cli_data_help(help, sizeof help));
    }
    if (status == ESP_OK && it->options.resumes && !it->options.path) {
        status = esp_fail(err, ESP_INVALID, "--resume needs the file to go on with: -o FILE");
    }
    if (status == ESP_OK && it->plan_path && (it->method || it->mode || it->criterion)) {
        status = esp_fail(err, ESP_INVALID, "--plan says method, mode and criterion already");
    }
    if (status == ESP_OK && it->ratios) {
        status = parse_ratios(it->ratios, it->grid, &it->options.ratio_count, err);
        it->options.ratios = it->grid;
    }
    if (status == ESP_OK && it->plot) { /* before the scan, which takes long */
        status = esp_figure_check_path(it->plot, err);
    }
    it->options.patterns = it->layers.items;
    it->options.pattern_count = it->layers.count;
    it->options.seed = (uint64_t)it->common.seed;
    it->options.mean = it->common.mean;
    it->options.std = it->common.std;
    it->options.memory = (size_t)it->memory_mib << 20;
    return status;
}

/* ---- for people ---- */

/* What a point's measure says, as a change for the worse or better. */
static double change_of(const esp_sensitivity_point *point, esp_sensitivity_measure by)
{
    return by == ESP_SENSITIVITY_LOSS   ? point->loss_change.value
           : by == ESP_SENSITIVITY_TOP1 ? point->top1_change.value
                                        : point->top5_change.value;
}

/* Mean height of the envelope: what a part costs over the whole grid. */
static double cost_of_curve(const esp_sensitivity_curve *curve, esp_sensitivity_measure by)
{
    double sum = 0;
    for (int p = 0; p < curve->point_count; p++) {
        sum += esp_sensitivity_envelope(curve, by, curve->points[p].ratio);
    }
    return curve->point_count ? sum / curve->point_count : 0;
}

static double largest_cost(const esp_sensitivity *result, esp_sensitivity_measure by)
{
    double most = 0;
    for (int c = 0; c < result->curve_count; c++) {
        for (int p = 0; p < result->curves[c].point_count; p++) {
            const esp_sensitivity_point *point = &result->curves[c].points[p];
            double cost = point->is_done ? esp_sensitivity_cost(point, by) : 0;
            most = isfinite(cost) && cost > most ? cost : most;
        }
    }
    return most;
}

/* One block per point, the root of its cost against the largest of all; the root lets small costs be seen
 * beside what ruins the network. */
static void draw_curve(const esp_sensitivity_curve *curve, esp_sensitivity_measure by, double most,
                       esp_text *out)
{
    static const char *const blocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    for (int p = 0; p < curve->point_count; p++) {
        const esp_sensitivity_point *point = &curve->points[p];
        double share = most > 0 ? esp_sensitivity_cost(point, by) / most : 0;
        int height = (int)lround(7 * sqrt(fmin(share, 1)));
        esp_text_append(out, point->is_done ? blocks[height] : "·");
    }
}

static void name_of_curve(const esp_sensitivity_curve *curve, char *buffer, size_t size)
{
    if (curve->layer_count > 1) {
        snprintf(buffer, size, "%s +%d", curve->name, curve->layer_count - 1);
    } else {
        snprintf(buffer, size, "%s", curve->name);
    }
}

static void print_changes(esp_table *table, const esp_sensitivity_curve *curve, int columns,
                          esp_sensitivity_measure by)
{
    for (int p = 0; p < columns; p++) {
        if (p >= curve->point_count || !curve->points[p].is_done) {
            esp_table_cell(table, "%s", curve->point_count ? "·" : "");
        } else if (by == ESP_SENSITIVITY_LOSS) {
            esp_table_cell(table, "%+.3f", change_of(&curve->points[p], by));
        } else {
            esp_table_cell(table, "%+.1f", change_of(&curve->points[p], by));
        }
    }
}

static esp_status print_table(const esp_sensitivity *result, const sensitivity_request *it, esp_error *err)
{
    char alignment[RATIOS_MAX + 4] = "ll", name[160];
    int columns = 0;
    double most = largest_cost(result, it->by);
    const esp_sensitivity_curve *widest = NULL;
    for (int c = 0; c < result->curve_count; c++) {
        if (result->curves[c].point_count > columns) {
            widest = &result->curves[c];
            columns = widest->point_count;
        }
    }
    memset(alignment + 2, 'r', (size_t)columns);
    strcpy(alignment + 2 + columns, "l");
    esp_table *table = esp_table_new(alignment);
    esp_table_cell(table, "layer");
    esp_table_cell(table, "curve");
    for (int p = 0; p < columns; p++) {
        esp_table_cell(table, "%.3g", widest->points[p].ratio);
    }
    esp_table_cell(table, "note");
    for (int c = 0; c < result->curve_count; c++) {
        const esp_sensitivity_curve *curve = &result->curves[c];
        esp_text drawn = {0};
        draw_curve(curve, it->by, most, &drawn);
        name_of_curve(curve, name, sizeof name);
        esp_table_cell(table, "%s", name);
        esp_table_cell(table, "%s", drawn.data ? drawn.data : "");
        print_changes(table, curve, columns, it->by);
        esp_table_cell(table, "%s", curve->note);
        esp_text_free(&drawn);
    }
    esp_status status = esp_table_print(table, err);
    esp_table_free(table);
    return status;
}

static void print_extreme(const char *title, const esp_sensitivity_curve *curve)
{
    const esp_sensitivity_point *middle = NULL;
    for (int p = 0; p < curve->point_count; p++) {
        const esp_sensitivity_point *point = &curve->points[p];
        if (point->is_done && (!middle || fabs(point->ratio - 0.5) < fabs(middle->ratio - 0.5))) {
            middle = point;
        }
    }
    if (middle) {
        printf("%s  %s: at %.3g loss %+.4f ± %.4f, top-1 %+.1f ± %.1f points\n", title, curve->name,
               middle->ratio, middle->loss_change.value, middle->loss_change.error, middle->top1_change.value,
               middle->top1_change.error);
    }
}

static void print_extremes(const esp_sensitivity *result, esp_sensitivity_measure by)
{
    const esp_sensitivity_curve *most = NULL, *least = NULL;
    for (int c = 0; c < result->curve_count; c++) {
        const esp_sensitivity_curve *curve = &result->curves[c];
        if (!curve->point_count || !curve->points[0].is_done) {
            continue;
        }
        most = !most || cost_of_curve(curve, by) > cost_of_curve(most, by) ? curve : most;
        least = !least || cost_of_curve(curve, by) < cost_of_curve(least, by) ? curve : least;
    }
    if (most && most != least) {
        print_extreme("most sensitive ", most);
        print_extreme("least sensitive", least);
    }
}

static void print_tolerated(const esp_sensitivity *result, const sensitivity_request *it)
{
    char name[160];
    printf("\nratios that cost at most %g %s each:\n", it->tolerance,
           it->by == ESP_SENSITIVITY_LOSS   ? "of loss"
           : it->by == ESP_SENSITIVITY_TOP1 ? "points of top-1"
                                            : "points of top-5");
    for (int c = 0; c < result->curve_count; c++) {
        if (result->curves[c].point_count) {
            name_of_curve(&result->curves[c], name, sizeof name);
            printf("  %-40s %.3f\n", name, esp_sensitivity_ratio(&result->curves[c], it->by, it->tolerance));
        }
    }
}

static esp_status print_text(const esp_sensitivity *result, const sensitivity_request *it, esp_error *err)
{
    char seconds[16], whole[16], memory[16];
    const esp_sensitivity_point *base = &result->baseline;
    printf("%s: %lld images of %s, by %s\n", result->graph_name, (long long)result->images, result->data,
           json_string_value(json_object_get(result->plan, "method")));
    if (base->is_done) {
        printf("whole network: loss %.4f, top-1 %.2f %% (%.2f to %.2f), top-5 %.2f %%\n\n", base->loss,
               base->top1.percent, base->top1.low, base->top1.high, base->top5.percent);
    }
    printf("change of %s by the ratio of each part alone:\n", it->by == ESP_SENSITIVITY_LOSS ? "the loss"
                                                              : it->by == ESP_SENSITIVITY_TOP1
                                                                  ? "top-1 in points"
                                                                  : "top-5 in points");
    esp_status status = print_table(result, it, err);
    if (status != ESP_OK) {
        return status;
    }
    printf("\n");
    print_extremes(result, it->by);
    if (it->tolerance >= 0) {
        print_tolerated(result, it);
    }
    printf("%lld points run in %s (whole network: %s), %lld with masks of another point, %lld from the file; "
           "kept %s\n",
           (long long)result->measured, esp_format_duration(seconds, sizeof seconds, result->seconds),
           esp_format_duration(whole, sizeof whole, result->baseline_seconds), (long long)result->reused,
           (long long)result->resumed, esp_format_bytes(memory, sizeof memory, (double)result->held_bytes));
    if (!result->is_complete) {
        printf("stopped before the end%s%s%s\n", it->options.path ? ": go on with -o " : "",
               it->options.path ? it->options.path : "", it->options.path ? " --resume" : "");
    }
    return ESP_OK;
}

/* ---- for machines ---- */

static esp_status print_json(const esp_sensitivity *result, const sensitivity_request *it, esp_error *err)
{
    json_t *object = NULL;
    esp_status status = esp_sensitivity_to_json(result, &object, err);
    if (status != ESP_OK) {
        return status;
    }
    json_object_set_new(object, "file", it->options.path ? esp_cli_json_text(it->options.path) : json_null());
    for (int c = 0; it->tolerance >= 0 && c < result->curve_count; c++) {
        json_object_set_new(
            json_array_get(json_object_get(object, "curves"), (size_t)c), "tolerated",
            esp_cli_json_real(esp_sensitivity_ratio(&result->curves[c], it->by, it->tolerance)));
    }
    return esp_cli_print_json(object, err);
}

/* ---- the picture ---- */

typedef struct drawn_curve {
    double x[RATIOS_MAX + 1], y[RATIOS_MAX + 1], error[RATIOS_MAX + 1];
} drawn_curve;

static void place_point(drawn_curve *drawn, size_t i, const esp_sensitivity_point *point,
                        esp_sensitivity_measure by)
{
    drawn->x[i] = point->ratio;
    drawn->y[i] = by == ESP_SENSITIVITY_LOSS   ? point->loss
                  : by == ESP_SENSITIVITY_TOP1 ? point->top1.percent
                                               : point->top5.percent;
    drawn->error[i] = by == ESP_SENSITIVITY_LOSS   ? point->loss_change.error
                      : by == ESP_SENSITIVITY_TOP1 ? point->top1_change.error
                                                   : point->top5_change.error;
}

typedef struct ranked_curve {
    const esp_sensitivity_curve *curve;
    double cost;
} ranked_curve;

static int compare_costs(const void *a, const void *b)
{
    double x = ((const ranked_curve *)a)->cost, y = ((const ranked_curve *)b)->cost;
    return (x < y) - (x > y);
}

/* Curves with points, the most sensitive first. */
static size_t rank_curves(const esp_sensitivity *result, esp_sensitivity_measure by, ranked_curve *ranked)
{
    size_t count = 0;
    for (int c = 0; c < result->curve_count; c++) {
        if (result->curves[c].point_count) {
            ranked[count++] = (ranked_curve){&result->curves[c], cost_of_curve(&result->curves[c], by)};
        }
    }
    qsort(ranked, count, sizeof *ranked, compare_costs);
    return count;
}

static esp_series draw_series(const esp_sensitivity *result, const sensitivity_request *it,
                              const esp_sensitivity_curve *curve, drawn_curve *at)
{
    size_t count = 0;
    place_point(at, count++, &result->baseline, it->by);
    for (int p = 0; p < curve->point_count && count <= RATIOS_MAX; p++) {
        if (curve->points[p].is_done) {
            place_point(at, count++, &curve->points[p], it->by);
        }
    }
    return (esp_series){.title = curve->name,
                        .style = ESP_SERIES_LINES_POINTS,
                        .count = count,
                        .x = at->x,
                        .y = at->y,
                        .y_error = at->error};
}

/* There are as many colours as names: beyond them, curves are lines without points. */
static void thin_out(esp_series *series, size_t count, char *others, size_t size)
{
    snprintf(others, size, "%zu less sensitive ones (no points)", count - NAMED_MAX);
    for (size_t i = 0; i < count; i++) {
        series[i].y_error = NULL;
        if (i >= NAMED_MAX) {
            series[i].style = ESP_SERIES_LINES;
            series[i].title = i == NAMED_MAX ? others : NULL;
        }
    }
}

static esp_status write_plot(const esp_sensitivity *result, const sensitivity_request *it, esp_error *err)
{
    size_t count = (size_t)result->curve_count;
    esp_series *series = esp_alloc_zero(count + 1, sizeof *series);
    drawn_curve *drawn = esp_alloc_zero(count + 1, sizeof *drawn);
    ranked_curve *ranked = esp_alloc(count + 1, sizeof *ranked);
    esp_status status = ESP_NO_MEMORY;
    char title[256], others[64];
    if (!series || !drawn || !ranked) {
        status = esp_fail_memory(err, "a figure", count * sizeof *drawn);
        goto done;
    }
    count = rank_curves(result, it->by, ranked);
    for (size_t i = 0; i < count; i++) {
        series[i] = draw_series(result, it, ranked[i].curve, &drawn[i]);
    }
    if (count > NAMED_MAX) {
        thin_out(series, count, others, sizeof others);
    }
    snprintf(title, sizeof title, "%s: %s when one part alone is pruned (%s, %lld images)",
             result->graph_name, it->by == ESP_SENSITIVITY_LOSS ? "loss" : "accuracy",
             json_string_value(json_object_get(result->plan, "method")), (long long)result->images);
    const esp_figure figure = {.title = title,
                               .x_label = "ratio",
                               .y_label = it->by == ESP_SENSITIVITY_LOSS   ? "loss"
                                          : it->by == ESP_SENSITIVITY_TOP1 ? "top-1 (%)"
                                                                           : "top-5 (%)",
                               .y_is_log = it->by == ESP_SENSITIVITY_LOSS,
                               .width = 1280,
                               .height = 800,
                               .series_count = count,
                               .series = series};
    status = esp_figure_write(&figure, it->plot, err);
done:
    esp_free(series);
    esp_free(drawn);
    esp_free(ranked);
    return status;
}

/* ---- the command ---- */

static esp_status look(esp_cli *cli, const char *path, sensitivity_request *it, esp_error *err)
{
    esp_graph *graph = NULL;
    esp_dataset *dataset = NULL;
    esp_sensitivity *result = NULL;
    esp_plan plan = {0};
    esp_error later = {0};
    esp_status status = make_plan(it, &plan, err), shown = ESP_OK;
    it->options.plan = &plan;
    if (status == ESP_OK) {
        status = esp_onnx_load(path, &graph, err);
    }
    if (status == ESP_OK) {
        status = esp_dataset_open_for(it->common.data, it->uses_training ? ESP_SPLIT_TRAIN : ESP_SPLIT_TEST,
                                      graph, &dataset, err);
    }
    if (status == ESP_OK) {
        status = esp_sensitivity_scan(&cli->compute, graph, dataset, &it->options, &result, err);
        esp_cli_explain_size(status, graph, dataset, err);
    }
    esp_cli_end_progress();
    /* what was measured before Ctrl-C is shown too */
    if (result) {
        shown = it->common.is_json ? print_json(result, it, &later) : print_text(result, it, &later);
    }
    if (result && shown == ESP_OK && it->plot && result->baseline.is_done) {
        shown = write_plot(result, it, &later);
    }
    if (status == ESP_OK && shown != ESP_OK) {
        status = shown;
        *err = later;
    }
    esp_sensitivity_free(result);
    esp_dataset_unref(dataset);
    esp_graph_unref(graph);
    esp_plan_free(&plan);
    return status;
}

/* MODEL.onnx */
static esp_status run(esp_cli *cli, int count, char **items, void *context, esp_error *err)
{
    sensitivity_request *it = context;
    esp_status status = check_request(it, err);
    (void)count;
    if (status == ESP_OK) {
        status = esp_cli_start(cli, it->common.threads, err);
    }
    return status == ESP_OK ? look(cli, items[0], it, err) : status;
}

esp_status esp_command_sensitivity(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    char data_help[128];
    sensitivity_request it = {.tolerance = -1, .measure = "loss"};
    const esp_option options[] = {
        ESP_CLI_DATA(&it.common, esp_cli_data_help(data_help, sizeof data_help)),
        {"images", 'n', ESP_OPTION_INT, &it.options.images, "N", "of each class alike (default 1000)", 1, 1e9,
         0},
        {"train-split", 0, ESP_OPTION_FLAG, &it.uses_training, NULL,
         "the training images instead of the test images", 0, 0, 0},
        ESP_CLI_SEED(&it.common, "chooses the images"),
        {"ratios", 'r', ESP_OPTION_TEXT, &it.ratios, "A:B:STEP", "or R,R,... (default 0.1:0.9:0.1)", 0, 0, 0},
        {"method", 'm', ESP_OPTION_TEXT, &it.method, "M", "wsp (default), sg or filter", 0, 0, 0},
        {"mode", 0, ESP_OPTION_TEXT, &it.mode, "MODE", "sound (default) or faithful", 0, 0, 0},
        {"criterion", 'c', ESP_OPTION_TEXT, &it.criterion, "C", "ranks filters; means --method filter", 0, 0,
         0},
        {"groups", 'g', ESP_OPTION_INT, &it.groups, "K", "sg: groups per layer (default 16)", 1, 65536, 0},
        {"plan", 'p', ESP_OPTION_TEXT, &it.plan_path, "FILE", "method and constants of a plan", 0, 0, 0},
        {"layers", 'l', ESP_OPTION_LIST, &it.layers, "PATTERN", "only parts with such layers (* and ? match)",
         0, 0, 0},
        {"ignore", 0, ESP_OPTION_LIST, &it.ignored, "PATTERN", "layers that stay whole", 0, 0, 0},
        ESP_CLI_OUTPUT(&it.common, "FILE", "JSON lines, point by point"),
        {"resume", 0, ESP_OPTION_FLAG, &it.options.resumes, NULL, "go on with FILE", 0, 0, 0},
        {"measure", 0, ESP_OPTION_TEXT, &it.measure, "M", "shown: loss (default), top1 or top5", 0, 0, 0},
        {"tolerance", 0, ESP_OPTION_REAL, &it.tolerance, "T",
         "also ratios that cost at most T of the measure", 0, 1e9, 0},
        {"plot", 0, ESP_OPTION_TEXT, &it.plot, "FILE", "curves as .png, .svg or .pdf", 0, 0, 0},
        {"batch", 'b', ESP_OPTION_INT, &it.options.batch, "N", "images per task", 1, 65536, 0},
        {"memory", 0, ESP_OPTION_INT, &it.memory_mib, "MIB", "for kept activations (default 512)", 1, 1 << 20,
         0},
        ESP_CLI_MEAN(&it.common, "normalisation: mean of x/255 per channel"),
        ESP_CLI_STD(&it.common, "normalisation: standard deviation per channel"),
        ESP_CLI_MACHINE(cli, &it.common),
        ESP_CLI_JSON(&it.common, "one JSON object instead of the table"),
        {0},
    };
    const esp_command_syntax syntax = {
        "sensitivity",
        "What cutting each coupled set (sg: each layer) alone costs in loss and accuracy, by ratio.",
        "MODEL.onnx --data SPEC [options]",
        "  espalier sensitivity sample_models/lenet5.onnx --data fashion-mnist -o scan.jsonl --plot scan.png",
        1,
        1,
        options,
        false};
    return esp_cli_run(cli, &syntax, argc, argv, run, &it, err);
}
