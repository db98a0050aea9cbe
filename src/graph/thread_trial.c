/* A network of a tenth of a millisecond has steps of a few microseconds, and handing half of a step to
 * another core costs about one. Whether that pays depends on what else the machine does: with a core that is
 * busy with other work, or that a host has lent to somebody, waiting for the last worker costs more than all
 * that was gained. So it is measured: every period begins with some runs on all threads and some on one, and
 * the rest goes the way that had the lower median. Results do not depend on it, as they never depend on
 * threads. */
#include "graph/thread_trial.h"

#include <stdlib.h>

enum {
    FIRST_RUNS = 2,    /* before the first trial */
    PERIOD_RUNS = 256, /* a trial and what it decided */
};

/* Networks that take longer have steps long enough for several threads. */
static const double large_s = 2e-3;

bool esp_thread_trial_next(const esp_thread_trial *trial)
{
    if (trial->is_large || !trial->is_begun)
        return false;
    if (trial->run < 2 * ESP_TRIAL_RUNS)
        return trial->run >= ESP_TRIAL_RUNS;
    return trial->is_alone;
}

static int compare_seconds(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double typical(double *seconds)
{
    qsort(seconds + 1, ESP_TRIAL_RUNS - 1, sizeof *seconds, compare_seconds);
    return seconds[ESP_TRIAL_RUNS / 2];
}

void esp_thread_trial_record(esp_thread_trial *trial, double seconds)
{
    unsigned run = trial->run++;

    if (trial->is_large)
        return;
    if (!trial->is_begun) {
        trial->is_begun = trial->run == FIRST_RUNS;
        trial->run = trial->is_begun ? 0 : trial->run;
        return;
    }
    if (run < 2 * ESP_TRIAL_RUNS)
        trial->seconds[run / ESP_TRIAL_RUNS][run % ESP_TRIAL_RUNS] = seconds;
    if (run == ESP_TRIAL_RUNS - 1)
        trial->is_large = typical(trial->seconds[0]) > large_s;
    else if (run == 2 * ESP_TRIAL_RUNS - 1)
        trial->is_alone = typical(trial->seconds[1]) < typical(trial->seconds[0]);
    if (trial->run == PERIOD_RUNS)
        trial->run = 0;
}
