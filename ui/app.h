/* The workbench: opens the terminal and a session, and runs until the user leaves. */
#ifndef ESP_UI_APP_H
#define ESP_UI_APP_H

#include <stdbool.h>

#include "base/status.h"

typedef struct ui_app_options {
    const char *model_path;      /* NULL: the bundled sample (or the study's current version) */
    const char *data_spec;       /* NULL: the sample's data when the sample is opened, else none */
    const char *study_directory; /* NULL: nothing is kept on disk */
    int threads;                 /* <= 0: one per core */
    const char *theme;      /* "256", "16", "mono", or NULL: chosen for the terminal; NO_COLOR is honoured */
    const char *trace_path; /* NULL, or a file that receives times of frames and of answers to keys */
    const char *const *inputs; /* sizes the model's file leaves open, "x:1x3x48x192" */
    int input_count;
    bool is_ascii;      /* draw with ASCII letters only */
    bool hides_timings; /* show no times: recorded demonstrations, tests */
} ui_app_options;

/* ESP_OK when the user left, ESP_CANCELLED after SIGINT, SIGTERM or SIGHUP. ESP_UNSUPPORTED when standard
 * input or output is no capable terminal (nothing was drawn then); a model that cannot be opened ends with
 * its error. The terminal is back as it was in every case.
 *
 * For tests: when the environment variable ESPALIER_TEST_IDLE_FD names an open file descriptor, "ESC ] 777 ;
 * idle N BEL" goes to it whenever nothing is queued, running or undrawn after N keys; times are hidden then.
 * On the terminal itself (1) the mark is in order with what was drawn, and terminals ignore it. */
esp_status ui_app_run(const ui_app_options *options, esp_error *err);

#endif
