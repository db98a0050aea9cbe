/* Whether a small network runs faster on all threads or on the calling one alone. */
#ifndef ESP_GRAPH_THREAD_TRIAL_H
#define ESP_GRAPH_THREAD_TRIAL_H

#include <stdbool.h>

/* Runs of one kind that are compared, the first of which is not counted: it wakes threads up. */
enum { ESP_TRIAL_RUNS = 8 };

/* Starts as zeros. */
typedef struct esp_thread_trial {
    unsigned run;                      /* of this period */
    bool is_large;                     /* no trial: the threads are worth it */
    bool is_begun;                     /* the first runs are over, which pack weights and touch memory */
    bool is_alone;                     /* what the last trial found */
    double seconds[2][ESP_TRIAL_RUNS]; /* of this trial: on all threads; alone */
} esp_thread_trial;

/* How the next run goes: alone, or on all threads. */
bool esp_thread_trial_next(const esp_thread_trial *trial);

/* How long it took; every run is followed by this. */
void esp_thread_trial_record(esp_thread_trial *trial, double seconds);

#endif
