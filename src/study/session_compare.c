/* What differs between two versions, or between the plan on the screen and one: figures, settings of the
 * plans, layers, trainings. Plans meet on the model that the first is for; the other is fitted to it when it
 * is for another, and what does not fit is told. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "study/session_plans.h"

/* "85.20 %" or "85.2 +-3.1 %" */
static void accuracy_text(const esp_metrics *metrics, char *text, size_t size)
{
    if (metrics->eval_images == 0)
        snprintf(text, size, "-");
    else if (metrics->eval_is_full)
        snprintf(text, size, "%.2f %%", metrics->top1);
    else
        snprintf(text, size, "%.1f +-%.1f %%", metrics->top1, metrics->top1_error);
}

static void latency_text(const esp_session *session, const esp_metrics *metrics, char *text, size_t size)
{
    if (metrics->latency_ms < 0)
        snprintf(text, size, "-");
    else if (session->now.hides_timings)
        snprintf(text, size, "#.## ms");
    else
        esp_format_duration(text, size, metrics->latency_ms / 1000.0);
}

static void tell_figures(const esp_session *session, esp_findings *page, const esp_plan_source sides[2])
{
    char texts[4][2][32];

    for (int i = 0; i < 2; i++) {
        esp_format_count(texts[0][i], sizeof texts[0][i], (double)sides[i].metrics.counts.params);
        esp_format_count(texts[1][i], sizeof texts[1][i], (double)sides[i].metrics.counts.macs);
        latency_text(session, &sides[i].metrics, texts[2][i], sizeof texts[2][i]);
        accuracy_text(&sides[i].metrics, texts[3][i], sizeof texts[3][i]);
    }
    ESP_FINDINGS_ROW(page, ESP_TONE_HEADING, "", "a", "b");
    ESP_FINDINGS_ROW(page, ESP_TONE_STRONG, "version", sides[0].title, sides[1].title);
    ESP_FINDINGS_ROW(page, ESP_TONE_PLAIN, "params", texts[0][0], texts[0][1]);
    ESP_FINDINGS_ROW(page, ESP_TONE_PLAIN, "MACs", texts[1][0], texts[1][1]);
    ESP_FINDINGS_ROW(page, ESP_TONE_PLAIN, "latency", texts[2][0], texts[2][1]);
    ESP_FINDINGS_ROW(page, ESP_TONE_PLAIN, "top-1", texts[3][0], texts[3][1]);
}

static void tell_settings(esp_findings *page, const esp_plan_changes *changes, const esp_plan_source sides[2])
{
    esp_findings_section(page, "Settings of the plans");
    esp_findings_say(page, ESP_TONE_DIM, "a: %s", sides[0].about);
    esp_findings_say(page, ESP_TONE_DIM, "b: %s", sides[1].about);
    if (changes->count == 0) {
        esp_findings_say(page, ESP_TONE_GOOD, "the plans are the same");
        return;
    }
    ESP_FINDINGS_ROW(page, ESP_TONE_HEADING, "setting", "a", "b");
    for (int i = 0; i < changes->count; i++) {
        const esp_plan_change *change = &changes->items[i];
        ESP_FINDINGS_ROW(page, ESP_TONE_PLAIN, change->where, change->a ? change->a : "-",
                         change->b ? change->b : "-");
    }
}

static void tell_effects(esp_findings *page, const esp_plan_effects *effects, int base)
{
    char text[128], cells[4][40], one[16], two[16];

    snprintf(text, sizeof text, "On version %d: %d of %d layers come out differently", base, effects->count,
             effects->layer_count);
    esp_findings_section(page, text);
    if (effects->count)
        ESP_FINDINGS_ROW(page, ESP_TONE_HEADING, "layer", "got a", "got b", "filters a, b", "weights a, b");
    for (int i = 0; i < effects->count; i++) {
        const esp_plan_effect *it = &effects->items[i];
        for (int p = 0; p < 2; p++)
            snprintf(cells[p], sizeof cells[p], "%.1f %%", 100 * it->got[p]);
        snprintf(cells[2], sizeof cells[2], "%lld, %lld", (long long)it->filters_kept[0],
                 (long long)it->filters_kept[1]);
        snprintf(cells[3], sizeof cells[3], "%s, %s",
                 esp_format_count(one, sizeof one, (double)it->params_after[0]),
                 esp_format_count(two, sizeof two, (double)it->params_after[1]));
        ESP_FINDINGS_ROW(page, ESP_TONE_PLAIN, it->layer, cells[0], cells[1], cells[2], cells[3]);
    }
}

/* What the second plan is on the model of the first; what does not fit is told. */
static esp_status fit_second(const esp_compute *compute, const esp_held_model *model, const esp_plan *plan,
                             const esp_criterion_data *data, esp_findings *page, esp_plan_fit *out,
                             esp_error *err)
{
    const esp_plan_fit_options options = {.renames = true,
                                          .input_shapes = model->shapes,
                                          .input_shape_count = model->shape_count,
                                          .data = data};
    esp_status status = esp_plan_fit_new(compute, model->graph, plan, &options, out, err);

    if (status == ESP_OK && out->count > 0) {
        esp_findings_section(page, "What of plan b does not fit the model of plan a");
        esp_findings_misfits(page, out);
    }
    return status;
}

/* Both plans on the model that the first is for. */
static esp_status compare_effects(esp_session *session, const esp_compute *compute, esp_findings *page,
                                  const esp_plan_source sides[2], esp_error *err)
{
    esp_held_model model = {0};
    esp_criterion_data images = {0};
    const esp_criterion_data *data = NULL;
    esp_plan_fit fit = {0};
    esp_plan_effects effects = {0};
    const esp_plan *second = &sides[1].plan;
    esp_status status = esp_session_plan_data(session, &sides[0].plan, &images, err);

    if (status == ESP_OK)
        status = esp_session_plan_data(session, second, &images, err);
    if (status == ESP_STATE) { /* a criterion that looks at images, and none are open */
        esp_findings_section(page, "Layers");
        esp_findings_say(page, ESP_TONE_WARN, "%s", err->message);
        return ESP_OK;
    }
    data = images.dataset ? &images : NULL;
    if (status == ESP_OK)
        status = esp_session_hold_model(session, sides[0].base, &model, err);
    if (status == ESP_OK && sides[1].base != sides[0].base) {
        status = fit_second(compute, &model, second, data, page, &fit, err);
        second = &fit.repaired;
    }
    if (status == ESP_OK)
        status = esp_plan_compare_on(compute, model.graph, &sides[0].plan, second, model.shapes,
                                     model.shape_count, data, &effects, err);
    if (status == ESP_OK)
        tell_effects(page, &effects, sides[0].base);
    esp_plan_effects_free(&effects);
    esp_plan_fit_free(&fit);
    esp_graph_unref(model.graph);
    return status;
}

/* ---- trainings beside each other ---- */

static void value_text(const json_t *value, char *text, size_t size)
{
    if (json_is_string(value))
        snprintf(text, size, "%s", json_string_value(value));
    else if (json_is_number(value))
        snprintf(text, size, "%.6g", json_number_value(value));
    else
        snprintf(text, size, "%s", json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "-");
}

/* An option that both have alike says nothing, nor does a usual one of the only training there is. */
static bool is_worth_a_row(const json_t *const trains[2], const json_t *usual, const char *key)
{
    const json_t *a = json_object_get(trains[0], key), *b = json_object_get(trains[1], key);

    if (trains[0] && trains[1])
        return !json_equal(a, b);
    return strcmp(key, "epochs") == 0 || !json_equal(a ? a : b, json_object_get(usual, key));
}

/* An option of a training in the words of its form; what came of it as it is. */
static void option_text(const json_t *train, const char *key, char *text, size_t size)
{
    const json_t *value = json_object_get(train, key);
    int field = esp_finetune_find(key);
    esp_finetune options;
    esp_error ignored = {0};

    if (field >= 0 && value && esp_finetune_from_json(train, &options, &ignored) == ESP_OK)
        esp_finetune_text(&options, field, text, size);
    else
        value_text(value, text, size);
}

static void tell_training_rows(esp_findings *page, const json_t *const trains[2])
{
    const esp_finetune defaults = esp_finetune_defaults();
    json_t *all = json_object(), *usual = esp_finetune_to_json(&defaults), *value;
    int count = 0;
    const esp_finetune_field *fields = esp_finetune_fields(&count);
    const char *key;

    for (int i = 0; i < 2; i++)
        json_object_update(all, (json_t *)(uintptr_t)trains[i]);
    ESP_FINDINGS_ROW(page, ESP_TONE_HEADING, "option", "a", "b");
    json_object_foreach(all, key, value)
    {
        int field = esp_finetune_find(key);
        char texts[2][ESP_FINETUNE_TEXT];
        for (int i = 0; i < 2; i++)
            option_text(trains[i], key, texts[i], sizeof texts[i]);
        if (is_worth_a_row(trains, usual, key))
            ESP_FINDINGS_ROW(page, ESP_TONE_PLAIN, field < 0 ? key : fields[field].title, texts[0], texts[1]);
    }
    json_decref(usual);
    json_decref(all);
}

/* How the versions were trained, where one was and it is not the same training. */
static void tell_trainings(esp_findings *page, const esp_plan_source sides[2])
{
    json_t *hows[2] = {0};
    const json_t *trains[2] = {0};
    esp_error ignored = {0};

    for (int i = 0; i < 2; i++)
        if (sides[i].how && esp_json_parse(sides[i].how, "how", &hows[i], &ignored) == ESP_OK)
            trains[i] = json_object_get(hows[i], "train");
    if ((trains[0] || trains[1]) && !json_equal(trains[0], trains[1])) {
        esp_findings_section(page, "How they were trained");
        tell_training_rows(page, trains);
    }
    json_decref(hows[0]);
    json_decref(hows[1]);
}

esp_status esp_session_run_compare(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    const int ids[2] = {((esp_session_job *)job)->number, ((esp_session_job *)job)->other_number};
    esp_plan_source sides[2] = {0};
    esp_plan_changes changes = {0};
    esp_findings *page = NULL;
    esp_status status = esp_session_need_model(session, err);

    for (int i = 0; status == ESP_OK && i < 2; i++)
        status = ids[i] ? esp_session_source_of_version(session, ids[i], &sides[i], err)
                        : esp_session_source_of_screen(session, &sides[i], err);
    if (status == ESP_OK)
        status = esp_plan_diff(&sides[0].plan, &sides[1].plan, &changes, err);
    if (status == ESP_OK)
        status = esp_findings_new(&page, err);
    if (status == ESP_OK) {
        snprintf(page->title, sizeof page->title, "%.50s beside %.50s", sides[0].title, sides[1].title);
        tell_figures(session, page, sides);
        tell_settings(page, &changes, sides);
        status = compare_effects(session, compute, page, sides, err);
        tell_trainings(page, sides);
    }
    if (status == ESP_OK) {
        status = esp_session_show(session, page, err);
        page = NULL;
    }
    if (status == ESP_OK)
        status = esp_session_post(session, err);
    esp_shared_unref(page);
    esp_plan_changes_free(&changes);
    esp_plan_source_free(&sides[0]);
    esp_plan_source_free(&sides[1]);
    return status;
}
