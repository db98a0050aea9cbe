/* Command-line options as tables: one row per option is the parser, the --help text and the "did you mean".
 */
#ifndef ESP_CLI_OPTIONS_H
#define ESP_CLI_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef enum esp_option_kind {
    ESP_OPTION_FLAG,    /* bool */
    ESP_OPTION_TEXT,    /* const char *, borrowed from argv */
    ESP_OPTION_INT,     /* int64_t, in [least, most] */
    ESP_OPTION_REAL,    /* double, in [least, most] (most is excluded when excludes_most) */
    ESP_OPTION_LIST,    /* esp_option_list: may be given several times */
    ESP_OPTION_HEADING, /* no option: `help` is printed as a title above the rows that follow; name "" */
} esp_option_kind;

/* A title in a table of options. */
#define ESP_OPTIONS_ABOUT(title)                                                                             \
    {                                                                                                        \
        "", 0, ESP_OPTION_HEADING, NULL, NULL, title, 0, 0, 0                                                \
    }

#define ESP_OPTION_LIST_MAX 64
typedef struct esp_option_list {
    int count;
    const char *items[ESP_OPTION_LIST_MAX];
} esp_option_list;

typedef struct esp_option {
    const char *name; /* without the dashes; NULL ends a table */
    char letter;      /* 0 when there is no short form */
    esp_option_kind kind;
    void *target;         /* of the kind's type; keeps its value when the option is not given */
    const char *argument; /* in the help: "N", "FILE"; NULL for flags */
    const char *help;     /* one line */
    double least, most;   /* INT and REAL; both 0 = any */
    bool excludes_most;
} esp_option;

typedef struct esp_command_syntax {
    const char *name;                   /* "eval" */
    const char *summary;                /* one line */
    const char *arguments;              /* "MODEL --data SPEC" */
    const char *example;                /* complete lines */
    int positional_min, positional_max; /* max -1: any number */
    const esp_option *options;
    bool takes_rest; /* everything after the first positional is positional (a script's own arguments) */
} esp_command_syntax;

typedef struct esp_positionals {
    int count;
    char **items; /* [argc] room provided by the caller */
} esp_positionals;

/* Options may stand anywhere; "--" ends them; "--name=value" and "--name value" both work. ESP_INVALID names
 * the option, what was found and expected, and the nearest name. `wants_help` is set by -h and --help, and
 * then nothing is checked. */
esp_status esp_options_parse(const esp_command_syntax *syntax, int argc, char **argv,
                             esp_positionals *positionals, bool *wants_help, esp_error *err);

/* The help page on standard output. */
void esp_options_help(const esp_command_syntax *syntax);

#endif
