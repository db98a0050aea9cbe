/* Budgets on the command line. */
#include "cli/budget_options.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"

bool esp_cli_budget_is_given(const esp_cli_budget *it)
{
    return it->targets.count > 0;
}

static esp_status check_alone(const esp_cli_budget *it, esp_error *err)
{
    const char *given = it->distribution    ? "distribution"
                        : it->sensitivity   ? "sensitivity"
                        : it->cost          ? "cost"
                        : it->is_measured   ? "measure"
                        : it->is_unmeasured ? "no-measure"
                        : it->is_fresh      ? "fresh-table"
                                            : NULL;

    if (!given)
        return ESP_OK;
    return esp_fail(err, ESP_INVALID, "--%s means nothing without --target, such as --target macs=0.5",
                    given);
}

esp_status esp_cli_budget_options(const esp_cli_budget *it, esp_budget_options *out, esp_error *err)
{
    esp_status status = ESP_OK;

    *out = (esp_budget_options){.distribution = it->sensitivity && !it->distribution
                                                    ? ESP_DISTRIBUTION_SENSITIVITY
                                                    : ESP_DISTRIBUTION_UNIFORM};
    if (!esp_cli_budget_is_given(it))
        return check_alone(it, err);
    for (int i = 0; status == ESP_OK && i < it->targets.count; i++)
        status = esp_budget_targets_parse(it->targets.items[i], out->targets, err);
    if (status == ESP_OK && it->distribution)
        status = esp_distribution_parse(it->distribution, &out->distribution, err);
    if (status == ESP_OK && it->cost)
        status = esp_sensitivity_measure_parse(it->cost, &out->cost, err);
    if (status != ESP_OK)
        return status;
    out->measures = it->is_measured || (out->targets[ESP_BUDGET_LATENCY].is_set && !it->is_unmeasured);
    out->predicts = it->is_measured;
    if ((out->distribution == ESP_DISTRIBUTION_SENSITIVITY) != (it->sensitivity != NULL)) {
        esp_fail(err, ESP_INVALID,
                 it->sensitivity ? "--sensitivity is for --distribution sensitivity"
                                 : "--distribution sensitivity: --sensitivity FILE is missing");
        esp_error_set_hint(err, "espalier sensitivity MODEL --data SPEC writes such a file");
        return ESP_INVALID;
    }
    return ESP_OK;
}

esp_status esp_cli_budget_solve(esp_cli *cli, const esp_cli_budget *it, esp_budget_options *options,
                                const esp_graph *graph, esp_grouping_cache *cache, esp_plan *plan,
                                esp_budget_report *report, esp_error *err)
{
    esp_sensitivity *curves = NULL;
    char *table = NULL;
    esp_plan solved = {0};
    esp_status status = ESP_OK;

    if (it->sensitivity)
        status = esp_sensitivity_load(it->sensitivity, &curves, err);
    if (!it->is_fresh)
        esp_latency_table_path(&table, NULL); /* nowhere to keep it: measured afresh */
    options->sensitivity = curves;
    options->table_path = table;
    if (status == ESP_OK)
        status = esp_budget_solve(&cli->compute, graph, plan, options, cache, &solved, report, err);
    if (status == ESP_OK) {
        esp_plan_free(plan);
        *plan = solved;
    }
    options->sensitivity = NULL;
    options->table_path = NULL;
    esp_sensitivity_free(curves);
    esp_free(table);
    return status;
}

/* ---- for people ---- */

static void print_amount(const esp_budget_report *report, int measure)
{
    const esp_budget_amount *amount = &report->amounts[measure];
    bool is_time = measure == ESP_BUDGET_LATENCY;
    char after[24], before[24], target[24], next[24];
    char *texts[] = {after, before, target, next};
    const double values[] = {amount->after, amount->before, amount->target, amount->next};

    for (int i = 0; i < 4; i++) {
        if (is_time)
            snprintf(texts[i], sizeof after, "%.3g ms", values[i]);
        else
            esp_format_count(texts[i], sizeof after, values[i]);
    }
    printf("%-8s %s%s of %s (%.1f %%)", esp_budget_word((esp_budget_measure)measure),
           is_time ? "predicted " : "", after, before,
           amount->before > 0 ? 100 * amount->after / amount->before : 100);
    if (amount->is_set)
        printf(", target %s; the next larger network has %s%s", target, next,
               report->binding == measure ? ": this target binds" : "");
    putchar('\n');
}

void esp_cli_budget_print(const esp_budget_report *report)
{
    printf("budget   %s: %s %.5g; %d previews, known to %g of its range\n",
           esp_distribution_word(report->distribution),
           report->distribution == ESP_DISTRIBUTION_SENSITIVITY ? "cost per part" : "level", report->level,
           report->previews, report->tolerance);
    for (int m = 0; m < ESP_BUDGET_COUNT; m++)
        if (report->amounts[m].is_known)
            print_amount(report, m);
    if (report->binding < 0)
        printf("         nothing had to be pruned\n");
    if (report->is_measured) {
        double share = report->measured_before_ms > 0 ? report->measured_ms / report->measured_before_ms : 1;
        printf("measured %.3g ms of %.3g ms (%.1f %%)", report->measured_ms, report->measured_before_ms,
               100 * share);
        if (report->amounts[ESP_BUDGET_LATENCY].is_known)
            printf("; %+.1f %% off the prediction", 100 * esp_budget_prediction_error(report));
        if (report->corrections > 0)
            printf(", after %d correction%s of one %+.1f %% off", report->corrections,
                   report->corrections > 1 ? "s" : "", 100 * report->first_error);
        putchar('\n');
    }
    if (report->machine[0])
        printf("table    %lld times, %lld measured now (%s)\n", (long long)report->table_known,
               (long long)report->table_measured, report->machine);
    if (report->note[0])
        printf("note     %s\n", report->note);
}
