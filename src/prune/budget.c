/* The search: a spread (budget_spread.c) makes one number the measure of all ratios, so a budget is one
 * bisection on that number over previews. A level is one of three things: too large (a target is missed),
 * fitting, or too far (a layer has lost everything, or self-grouping found nothing to tell its groups by and
 * left it whole). Too far means the same as fitting for the direction of the search, but never wins. Fitting
 * levels lie between, so the search ends at the least pruning that fits, or at proof that none does. */
#include "prune/budget.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "prune/budget_internal.h"

/* The search ends when it knows the level as well as this. A layer of 4096 filters has steps of 2e-4. */
#define LEVEL_TOLERANCE 1e-5

enum { WHY_MOST = 3, WHY_LENGTH = 56 };

typedef enum verdict { TOO_LARGE, FITS, TOO_FAR } verdict;

/* One level that was tried. */
typedef struct trial {
    double level, shown;
    esp_plan plan;
    esp_preview *preview;
    double amounts[ESP_BUDGET_COUNT]; /* latency 0 when nobody wants it */
    verdict verdict;
} trial;

typedef struct solver {
    const esp_compute *compute;
    const esp_graph *graph;
    const esp_budget_options *options;
    esp_grouping_cache *cache;
    esp_plan start; /* the plan asked for, with ratios 0 where they are solved for */
    esp_preview *whole;
    esp_counts stored;            /* of the model as it stands, with whatever zeros it has */
    const esp_coupling *coupling; /* the cache's */
    budget_spread spread;
    budget_latency *latency;                                    /* NULL: not wanted */
    double before[ESP_BUDGET_COUNT], targets[ESP_BUDGET_COUNT]; /* infinite: no target */
    double exponent;                                            /* of predicted shares of latency */
    int previews;
} solver;

static void free_trial(trial *it)
{
    esp_preview_free(it->preview);
    esp_plan_free(&it->plan);
    *it = (trial){0};
}

/* ---- one level ---- */

/* A layer that had connections and has none, or that should have lost half of them and lost none. */
static bool has_gone_too_far(const esp_preview *preview)
{
    for (int l = 0; l < preview->layers.count; l++) {
        const esp_preview_layer *item = &preview->items[l];
        if (item->params_before > 0 && item->params_after == 0)
            return true;
        if (item->grouping.labels && item->asked >= 0.5 && item->params_before > 0 &&
            item->params_after == item->params_before)
            return true;
    }
    return false;
}

static double excess(const solver *it, const double *amounts, int measure)
{
    return it->targets[measure] > 0 ? amounts[measure] / it->targets[measure] : 0;
}

/* The measure that misses its target most, or comes nearest to it. */
static int worst_measure(const solver *it, const double *amounts)
{
    int worst = -1;

    for (int m = 0; m < ESP_BUDGET_COUNT; m++)
        if (isfinite(it->targets[m]) && (worst < 0 || excess(it, amounts, m) > excess(it, amounts, worst)))
            worst = m;
    return worst;
}

static verdict judge(const solver *it, const trial *tried, bool is_start_too_far)
{
    int worst = worst_measure(it, tried->amounts);

    if (!is_start_too_far && has_gone_too_far(tried->preview))
        return TOO_FAR;
    return worst >= 0 && tried->amounts[worst] > it->targets[worst] ? TOO_LARGE : FITS;
}

/* A prediction by what measurements have taught: a power of the share, because no correction may change what
 * the whole network takes, or make a network take less than nothing. */
static double corrected(const solver *it, double ms)
{
    double before = budget_latency_before(it->latency);

    return before > 0 ? before * pow(ms / before, it->exponent) : ms;
}

static esp_status measure_amounts(solver *it, trial *tried, esp_error *err)
{
    esp_status status = ESP_OK;

    tried->amounts[ESP_BUDGET_MACS] = (double)tried->preview->after.macs;
    tried->amounts[ESP_BUDGET_PARAMS] = (double)tried->preview->after.params;
    tried->amounts[ESP_BUDGET_STORED_MACS] = (double)tried->preview->stored.macs;
    tried->amounts[ESP_BUDGET_STORED_PARAMS] = (double)tried->preview->stored.params;
    if (!it->latency)
        return ESP_OK;
    status = budget_latency_predict(it->latency, tried->preview, it->coupling,
                                    &tried->amounts[ESP_BUDGET_LATENCY], err);
    tried->amounts[ESP_BUDGET_LATENCY] = corrected(it, tried->amounts[ESP_BUDGET_LATENCY]);
    return status;
}

static void report_progress(const solver *it, double low, double high)
{
    double whole = log2(1 / LEVEL_TOLERANCE);
    char detail[96];
    const esp_progress progress = {.stage = "budget",
                                   .done = fmin(whole, log2(1 / fmax(high - low, LEVEL_TOLERANCE))),
                                   .total = whole,
                                   .unit = "steps",
                                   .eta_s = -1,
                                   .detail = detail};

    snprintf(detail, sizeof detail, "%d previews, level %.4f to %.4f", it->previews, low, high);
    esp_compute_report(it->compute, &progress);
}

static esp_status try_level(solver *it, double level, trial *out, esp_error *err)
{
    trial tried = {.level = level};
    esp_status status = ESP_OK;

    if (esp_compute_is_cancelled(it->compute))
        return esp_fail(err, ESP_CANCELLED, "budget: cancelled");
    status = budget_spread_plan(&it->spread, level, &tried.plan, &tried.shown, err);
    if (status == ESP_OK)
        status = esp_preview_new(it->compute, it->graph, &tried.plan, it->options->input_shapes,
                                 it->options->input_shape_count, it->cache, &tried.preview, err);
    if (status == ESP_OK)
        status = measure_amounts(it, &tried, err);
    if (status != ESP_OK) {
        free_trial(&tried);
        return status;
    }
    it->previews++;
    tried.verdict = judge(it, &tried, has_gone_too_far(it->whole));
    *out = tried;
    return ESP_OK;
}

/* ---- what cannot be reached ---- */

static int64_t layer_amount(const esp_preview_layer *item, int measure)
{
    if (measure == ESP_BUDGET_PARAMS)
        return item->params_after;
    if (measure == ESP_BUDGET_STORED_PARAMS)
        return item->params_stored;
    if (measure == ESP_BUDGET_STORED_MACS && item->params_after > 0) /* each weight costs as much */
        return item->macs_after / item->params_after * item->params_stored;
    return item->macs_after;
}

/* The layers that keep most of the measure, largest first, each with why it stays. */
static void say_what_stays(const esp_preview *preview, int measure, esp_text *out)
{
    int said[WHY_MOST];

    for (int i = 0; i < WHY_MOST; i++) {
        int largest = -1;
        for (int l = 0; l < preview->layers.count; l++) {
            bool is_said = false;
            for (int s = 0; s < i; s++)
                is_said = is_said || said[s] == l;
            if (!is_said && (largest < 0 || layer_amount(&preview->items[l], measure) >
                                                layer_amount(&preview->items[largest], measure)))
                largest = l;
        }
        if (largest < 0)
            return;
        said[i] = largest;
        char amount[16];
        const esp_preview_layer *item = &preview->items[largest];
        bool is_long = strlen(item->note) > WHY_LENGTH;
        esp_text_printf(out, "%s%.40s %s%s%.*s%s", i ? ", " : "", preview->layers.items[largest].name,
                        esp_format_count(amount, sizeof amount, (double)layer_amount(item, measure)),
                        item->note[0] ? " (" : "", WHY_LENGTH, item->note,
                        is_long         ? "...)"
                        : item->note[0] ? ")"
                                        : "");
    }
}

static char *format_amount(int measure, double value, char *buffer, size_t size)
{
    if (measure != ESP_BUDGET_LATENCY)
        return esp_format_count(buffer, size, value);
    snprintf(buffer, size, "%.3g ms", value);
    return buffer;
}

static esp_status fail_unreachable(const solver *it, const trial *smallest, esp_error *err)
{
    int worst = worst_measure(it, smallest->amounts);
    char wanted[24], least[24];
    esp_text stays = {0};

    say_what_stays(smallest->preview, worst, &stays);
    esp_fail(err, ESP_INVALID,
             "budget: %s=%s (%.3g of the model) is out of reach: the smallest that %s can make is %s (%.3g); "
             "most %s "
             "stay in %s",
             esp_budget_word((esp_budget_measure)worst),
             format_amount(worst, it->targets[worst], wanted, sizeof wanted),
             it->targets[worst] / fmax(it->before[worst], 1e-30), esp_method_word(it->start.method),
             format_amount(worst, smallest->amounts[worst], least, sizeof least),
             smallest->amounts[worst] / fmax(it->before[worst], 1e-30),
             worst == ESP_BUDGET_PARAMS || worst == ESP_BUDGET_STORED_PARAMS ? "parameters" : "MACs",
             stays.data ? stays.data : "?");
    esp_error_set_hint(
        err, "a larger target, another method, or fewer layers ignored or given a ratio of their own");
    esp_text_free(&stays);
    return ESP_INVALID;
}

/* ---- the search ---- */

static void swap_trials(trial *a, trial *b)
{
    trial held = *a;

    *a = *b;
    *b = held;
}

/* The least level that fits in `best`, and the largest network that does not in `larger` (no preview:
 * everything fits). */
static esp_status search(solver *it, trial *best, trial *larger, esp_error *err)
{
    double low = 0, high = 1;
    trial tried = {0};
    esp_status status = try_level(it, 0, &tried, err);

    if (status != ESP_OK)
        return status;
    if (tried.verdict != TOO_LARGE) {
        *best = tried;
        return ESP_OK;
    }
    swap_trials(larger, &tried);
    free_trial(&tried);
    status = try_level(it, 1, &tried, err);
    if (status == ESP_OK && tried.verdict == TOO_LARGE) {
        low = 1;
        swap_trials(larger, &tried);
    } else if (status == ESP_OK && tried.verdict == FITS) {
        swap_trials(best, &tried);
    }
    free_trial(&tried);
    while (status == ESP_OK && high - low > LEVEL_TOLERANCE) {
        double middle = low + (high - low) / 2;
        report_progress(it, low, high);
        status = try_level(it, middle, &tried, err);
        if (status != ESP_OK)
            break;
        if (tried.verdict == TOO_LARGE) {
            low = middle;
            swap_trials(larger, &tried);
        } else {
            high = middle;
            if (tried.verdict == FITS)
                swap_trials(best, &tried);
        }
        free_trial(&tried);
    }
    if (status == ESP_OK && !best->preview)
        status = fail_unreachable(it, larger, err);
    return status;
}

static void set_targets(solver *it)
{
    it->before[ESP_BUDGET_MACS] = (double)it->whole->before.macs;
    it->before[ESP_BUDGET_PARAMS] = (double)it->whole->before.params;
    it->before[ESP_BUDGET_STORED_MACS] = (double)it->stored.macs;
    it->before[ESP_BUDGET_STORED_PARAMS] = (double)it->stored.params;
    it->before[ESP_BUDGET_LATENCY] = it->latency ? budget_latency_before(it->latency) : 0;
    for (int m = 0; m < ESP_BUDGET_COUNT; m++) {
        const esp_budget_target *target = &it->options->targets[m];
        it->targets[m] = !target->is_set       ? INFINITY
                         : target->is_absolute ? target->value
                                               : target->value * it->before[m];
    }
}

/* ---- the whole network ---- */

typedef struct measured {
    double before_ms, after_ms;
    double spread; /* of the noisier of the two */
} measured;

static esp_status measure_turns(const solver *it, const esp_latency_subject *subjects, measured *out,
                                esp_error *err)
{
    measured best = {.spread = INFINITY};
    esp_status status = ESP_OK;

    for (int i = 0; status == ESP_OK && i < BUDGET_MEASUREMENTS && best.spread > BUDGET_QUIET_SPREAD; i++) {
        esp_latency_result results[2];
        status = esp_measure_latencies(it->compute, subjects, 2, results, err);
        if (status != ESP_OK)
            break;
        double spread = fmax(results[0].spread, results[1].spread);
        if (spread < best.spread)
            best = (measured){results[0].median_ms, results[1].median_ms, spread};
    }
    *out = best;
    return status;
}

static esp_status measure_cut(const solver *it, const esp_preview *preview, measured *out, esp_error *err)
{
    esp_surgery_options surgery = esp_surgery_defaults();
    esp_latency_subject subjects[2] = {{.graph = it->graph}};
    esp_graph *cut = NULL;
    esp_status status;

    surgery.group_form = it->options->group_form;
    status = esp_surgery(it->compute, preview, &surgery, &cut, NULL, err);
    if (status != ESP_OK)
        return status;
    subjects[1].graph = cut;
    for (int i = 0; i < 2; i++) {
        subjects[i].options.batch = it->options->batch;
        subjects[i].options.repeats = it->options->repeats;
        subjects[i].options.input_shapes = it->options->input_shapes;
        subjects[i].options.input_shape_count = it->options->input_shape_count;
    }
    status = measure_turns(it, subjects, out, err);
    esp_graph_unref(cut);
    return status;
}

/* Measured over predicted, as shares of the unpruned network: it was measured in the same minute. */
static double compare_latency(const solver *it, const trial *best, const measured *found)
{
    double predicted = best->amounts[ESP_BUDGET_LATENCY] / it->before[ESP_BUDGET_LATENCY];

    return found->after_ms / found->before_ms / predicted;
}

/* The unpruned network is no longer as fast as it was when the search began: everything was measured in a
 * busy minute, or this one is. */
#define OTHER_MINUTE 0.15

/* What one measurement may change the exponent by. */
#define MOST_LEARNT 1.5

/* What the next solve reckons with. An exponent far from 1 tells more of the machine than of the prediction.
 */
static esp_status learn(solver *it, const trial *best, const measured *found, esp_error *err)
{
    double before = it->before[ESP_BUDGET_LATENCY];
    esp_status status = ESP_OK;

    if (fabs(found->before_ms / before - 1) <= OTHER_MINUTE) {
        double predicted = fmin(best->amounts[ESP_BUDGET_LATENCY] / before, 0.98);
        double share = fmin(fmax(found->after_ms / found->before_ms, 0.01), 0.98);
        it->exponent *= fmin(fmax(log(share) / log(predicted), 1 / MOST_LEARNT), MOST_LEARNT);
        return ESP_OK;
    }
    status = budget_latency_renew(it->latency, it->compute, it->whole, it->options, err);
    if (status == ESP_OK)
        set_targets(it);
    return status;
}

/* The prediction was right, or it does not matter: another target decides, and the clock says that this one
 * holds. */
static bool is_good_enough(const solver *it, const trial *best, const trial *larger, const measured *found)
{
    bool is_absolute = it->options->targets[ESP_BUDGET_LATENCY].is_absolute;
    double ms =
        is_absolute ? found->after_ms : found->after_ms / found->before_ms * it->before[ESP_BUDGET_LATENCY];
    bool decides = larger->preview && larger->amounts[ESP_BUDGET_LATENCY] > it->targets[ESP_BUDGET_LATENCY];

    return fabs(compare_latency(it, best, found) - 1) <= ESP_BUDGET_ERROR ||
           (!decides && ms <= it->targets[ESP_BUDGET_LATENCY]);
}

/* Solves, cuts, measures, and solves again with what the prediction was off by. */
static esp_status solve_latency(solver *it, trial *best, trial *larger, esp_budget_report *report,
                                esp_error *err)
{
    bool is_target = it->options->targets[ESP_BUDGET_LATENCY].is_set;
    esp_status status = search(it, best, larger, err);

    while (status == ESP_OK && it->options->measures) {
        measured found = {0};
        status = measure_cut(it, best->preview, &found, err);
        if (status != ESP_OK)
            break;
        report->is_measured = true;
        report->measured_before_ms = found.before_ms;
        report->measured_ms = found.after_ms;
        if (it->latency && report->corrections == 0 && found.before_ms > 0)
            report->first_error = compare_latency(it, best, &found) - 1;
        if (!is_target || report->corrections == ESP_BUDGET_CORRECTIONS || !(found.before_ms > 0))
            break;
        if (is_good_enough(it, best, larger, &found))
            break;
        if (found.spread > BUDGET_QUIET_SPREAD) { /* nothing to learn from */
            snprintf(report->note, sizeof report->note,
                     "the machine was too busy to correct the prediction: runs differ by %.0f %%",
                     100 * found.spread);
            break;
        }
        status = learn(it, best, &found, err);
        report->corrections++;
        free_trial(best);
        free_trial(larger);
        if (status == ESP_OK)
            status = search(it, best, larger, err);
    }
    return status;
}

/* ---- before and after ---- */

/* Latency that was predicted; stored amounts that are a target, or that differ from what the others say. */
static bool is_known(const solver *it, const trial *best, int measure)
{
    bool is_set = it->options->targets[measure].is_set;

    if (measure == ESP_BUDGET_LATENCY)
        return it->latency != NULL;
    if (measure == ESP_BUDGET_STORED_MACS)
        return is_set || best->amounts[measure] > best->amounts[ESP_BUDGET_MACS];
    if (measure == ESP_BUDGET_STORED_PARAMS)
        return is_set || best->amounts[measure] > best->amounts[ESP_BUDGET_PARAMS];
    return true;
}

static void fill_amounts(const solver *it, const trial *best, const trial *larger, esp_budget_report *report)
{
    for (int m = 0; m < ESP_BUDGET_COUNT; m++)
        report->amounts[m] = (esp_budget_amount){
            .is_set = it->options->targets[m].is_set,
            .is_known = is_known(it, best, m),
            .target = isfinite(it->targets[m]) ? it->targets[m] : 0,
            .before = it->before[m],
            .after = best->amounts[m],
            .next = larger->preview ? larger->amounts[m] : best->amounts[m],
        };
    report->binding = larger->preview ? worst_measure(it, larger->amounts) : -1;
    report->distribution = it->options->distribution;
    report->level = best->shown;
    report->tolerance = LEVEL_TOLERANCE;
    report->previews = it->previews;
    report->exponent = it->exponent;
    if (it->latency) {
        const esp_latency_table *table = budget_latency_table(it->latency);
        report->table_known = esp_latency_table_known(table);
        report->table_measured = esp_latency_table_measured(table);
        snprintf(report->machine, sizeof report->machine, "%s", esp_latency_table_machine(table));
    }
}

static esp_status check_targets(const esp_budget_options *options, esp_error *err)
{
    bool has_target = false;

    for (int m = 0; m < ESP_BUDGET_COUNT; m++) {
        const esp_budget_target *target = &options->targets[m];
        if (!target->is_set)
            continue;
        has_target = true;
        if (!(target->value > 0) || (!target->is_absolute && target->value > 1))
            return esp_fail(err, ESP_INVALID,
                            "budget: %s is %g, expected a share in (0, 1] or an amount above 0",
                            esp_budget_word((esp_budget_measure)m), target->value);
    }
    if (!has_target)
        return esp_fail(err, ESP_INVALID,
                        "budget: no target, expected macs, params, latency, stored-macs or stored-params");
    return ESP_OK;
}

/* Everything that is the same for all levels. */
static esp_status prepare(solver *it, const esp_plan *plan, esp_error *err)
{
    const esp_budget_options *options = it->options;
    esp_status status = esp_plan_clone(plan, &it->start, err);

    if (status != ESP_OK)
        return status;
    it->start.conv_ratio = options->keeps_conv ? plan->conv_ratio : 0;
    it->start.fc_ratio = options->keeps_fc ? plan->fc_ratio : 0;
    it->start.border_ratio = options->keeps_border ? plan->border_ratio : 0;
    status = esp_preview_new(it->compute, it->graph, &it->start, options->input_shapes,
                             options->input_shape_count, it->cache, &it->whole, err);
    if (status == ESP_OK)
        status = esp_graph_count(it->graph, it->whole->inferred, &it->stored, err);
    if (status == ESP_OK)
        status = preview_cache_coupling(it->cache, &it->coupling, err);
    if (status == ESP_OK)
        status = budget_spread_new(&it->start, options, it->whole, &it->spread, err);
    if (status == ESP_OK && (options->targets[ESP_BUDGET_LATENCY].is_set || options->predicts))
        status = budget_latency_new(it->compute, it->whole, options, &it->latency, err);
    if (status == ESP_OK)
        set_targets(it);
    return status;
}

/* The target is held by the prediction; what the clock said last is said too where it differs by more than
 * its noise. */
static void note_miss(const solver *it, esp_budget_report *report)
{
    const esp_budget_amount *latency = &report->amounts[ESP_BUDGET_LATENCY];
    bool is_absolute = it->options->targets[ESP_BUDGET_LATENCY].is_absolute;
    double found_ms;

    if (!latency->is_set || !report->is_measured || !(report->measured_before_ms > 0) || report->note[0])
        return;
    found_ms = is_absolute ? report->measured_ms
                           : report->measured_ms / report->measured_before_ms * latency->before;
    if (found_ms > latency->target * (1 + ESP_BUDGET_ERROR))
        snprintf(report->note, sizeof report->note, "measured latency misses the target by %.1f %%",
                 100 * (found_ms / latency->target - 1));
}

/* The table is a cache: not being able to keep it is no failure, but it is said. */
static void save_table(solver *it, esp_budget_report *report)
{
    esp_error err = {0};

    if (it->latency && budget_latency_save(it->latency, &err) != ESP_OK)
        snprintf(report->note, sizeof report->note, "the latency table was not kept: %.120s", err.message);
}

esp_status esp_budget_solve(const esp_compute *compute, const esp_graph *graph, const esp_plan *plan,
                            const esp_budget_options *options, esp_grouping_cache *cache, esp_plan *out,
                            esp_budget_report *report, esp_error *err)
{
    solver it = {.compute = compute, .graph = graph, .options = options, .cache = cache, .exponent = 1};
    esp_grouping_cache *own = NULL;
    esp_budget_report found = {.exponent = 1, .binding = -1};
    trial best = {0}, larger = {0};
    esp_status status = check_targets(options, err);

    *out = (esp_plan){0};
    if (status == ESP_OK && !cache)
        status = esp_grouping_cache_new(&own, err);
    if (own)
        it.cache = own;
    if (status == ESP_OK)
        status = prepare(&it, plan, err);
    if (status == ESP_OK)
        status = solve_latency(&it, &best, &larger, &found, err);
    if (it.latency)
        save_table(&it, &found); /* what was measured before a failure is as good */
    if (status == ESP_OK) {
        fill_amounts(&it, &best, &larger, &found);
        note_miss(&it, &found);
        *out = best.plan;
        best.plan = (esp_plan){0};
        if (report)
            *report = found;
    }
    free_trial(&best);
    free_trial(&larger);
    budget_spread_free(&it.spread);
    budget_latency_free(it.latency);
    esp_preview_free(it.whole);
    esp_plan_free(&it.start);
    esp_grouping_cache_free(own);
    return status;
}
