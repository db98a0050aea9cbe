/* A line of plans with a place on it, as undo has it in editors. */
#include "study/plan_history.h"

#include <string.h>

#include "prune/plan_diff.h"

void esp_plan_history_free(esp_plan_history *history)
{
    for (int i = 0; i < history->count; i++)
        esp_plan_free(&history->plans[i]);
    history->count = history->at = 0;
}

static esp_status is_present(const esp_plan_history *history, const esp_plan *plan, bool *out, esp_error *err)
{
    esp_plan_changes changes = {0};
    esp_status status = ESP_OK;

    *out = false;
    if (history->count == 0)
        return ESP_OK;
    status = esp_plan_diff(&history->plans[history->at], plan, &changes, err);
    *out = status == ESP_OK && changes.count == 0;
    esp_plan_changes_free(&changes);
    return status;
}

static void drop_oldest(esp_plan_history *history)
{
    esp_plan_free(&history->plans[0]);
    memmove(&history->plans[0], &history->plans[1], (size_t)(history->count - 1) * sizeof *history->plans);
    history->count--;
}

esp_status esp_plan_history_note(esp_plan_history *history, const esp_plan *plan, esp_error *err)
{
    bool is_same = false;
    esp_plan copy;
    esp_status status = is_present(history, plan, &is_same, err);

    if (status != ESP_OK || is_same)
        return status;
    status = esp_plan_clone(plan, &copy, err);
    if (status != ESP_OK)
        return status;
    while (history->count > history->at + 1)
        esp_plan_free(&history->plans[--history->count]);
    if (history->count == ESP_PLAN_HISTORY_MAX)
        drop_oldest(history);
    history->plans[history->count] = copy;
    history->at = history->count++;
    return ESP_OK;
}

bool esp_plan_history_has(const esp_plan_history *history, int direction)
{
    return direction < 0 ? history->at > 0 : history->at + 1 < history->count;
}

esp_status esp_plan_history_step(esp_plan_history *history, int direction, esp_plan *out, esp_error *err)
{
    int to = history->at + (direction < 0 ? -1 : 1);
    esp_status status;

    if (!esp_plan_history_has(history, direction))
        return esp_fail(err, ESP_STATE,
                        direction < 0 ? "the plan was not changed before this"
                                      : "no change of the plan was taken back");
    status = esp_plan_clone(&history->plans[to], out, err);
    if (status == ESP_OK)
        history->at = to;
    return status;
}
