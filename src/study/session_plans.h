/* Plans of versions as the jobs about them see them (session_plans.c, session_compare.c). */
#ifndef ESP_STUDY_SESSION_PLANS_H
#define ESP_STUDY_SESSION_PLANS_H

#include "study/session_internal.h"

/* A plan with where it comes from: a version, the screen, or a file. */
typedef struct esp_plan_source {
    esp_plan plan;
    int version, base; /* 0: the plan on the screen; the version that the plan is for */
    char title[120];   /* of the side */
    char about[200];   /* where its plan comes from */
    char *how;         /* of the version; NULL for the screen */
    esp_metrics metrics;
} esp_plan_source;

void esp_plan_source_free(esp_plan_source *source);

/* The plan that a version stands for: the one that cut it, or that cut the nearest version it descends from;
 * when nothing was cut, the plan last looked at with it. And the plan on the screen. `out` is zero before;
 * released with esp_plan_source_free, also after a failure. */
esp_status esp_session_source_of_version(const esp_session *session, int id, esp_plan_source *out,
                                         esp_error *err);
esp_status esp_session_source_of_screen(esp_session *session, esp_plan_source *out, esp_error *err);

/* A version's model; the caller releases `graph`. */
typedef struct esp_held_model {
    esp_graph *graph;
    esp_input_shape shapes[ESP_INPUT_SHAPES_MAX];
    int shape_count;
} esp_held_model;

esp_status esp_session_hold_model(esp_session *session, int id, esp_held_model *out, esp_error *err);

/* A table of what does not fit. */
void esp_findings_misfits(esp_findings *page, const esp_plan_fit *fit);

#endif
