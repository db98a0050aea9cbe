/* One pass over the arguments. A row's target is written only when its option is given, so defaults are what
 * the caller put there. */
#include "cli/options.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"

static const esp_option *find_option(const esp_option *options, const char *name, size_t length, char letter)
{
    for (const esp_option *option = options; option && option->name; option++) {
        bool has_name =
            name && length > 0 && strlen(option->name) == length && memcmp(option->name, name, length) == 0;
        if (has_name || (letter && option->letter == letter)) {
            return option;
        }
    }
    return NULL;
}

static esp_status fail_unknown(const esp_command_syntax *syntax, const char *given, size_t length,
                               esp_error *err)
{
    const char *names[128];
    char word[64];
    size_t count = 0;
    for (const esp_option *option = syntax->options; option && option->name && count < 126; option++) {
        if (option->name[0]) {
            names[count++] = option->name;
        }
    }
    names[count++] = "help";
    snprintf(word, sizeof word, "%.*s", (int)length, given);
    esp_status status = esp_fail(err, ESP_INVALID, "unknown option '--%s'", word);
    const char *nearest = esp_nearest_word(word, names, count);
    if (nearest) {
        esp_error_set_hint(err, "did you mean --%s?", nearest);
    } else {
        esp_error_set_hint(err, "espalier%s%s --help lists the options", syntax->name[0] ? " " : "",
                           syntax->name);
    }
    return status;
}

static bool is_in_range(const esp_option *option, double value)
{
    if (option->least == 0 && option->most == 0) {
        return true;
    }
    return value >= option->least && (option->excludes_most ? value < option->most : value <= option->most);
}

static esp_status fail_number(const esp_option *option, const char *value, esp_error *err)
{
    const char *kind = option->kind == ESP_OPTION_INT ? "a whole number" : "a number";
    if (option->least == 0 && option->most == 0) {
        return esp_fail(err, ESP_INVALID, "--%s: found '%s', expected %s", option->name, value, kind);
    }
    return esp_fail(err, ESP_INVALID, "--%s: found '%s', expected %s in [%g, %g%c", option->name, value, kind,
                    option->least, option->most, option->excludes_most ? ')' : ']');
}

static esp_status store_value(const esp_option *option, const char *value, esp_error *err)
{
    switch (option->kind) {
    case ESP_OPTION_FLAG:
        *(bool *)option->target = true;
        return ESP_OK;
    case ESP_OPTION_TEXT:
        *(const char **)option->target = value;
        return ESP_OK;
    case ESP_OPTION_INT: {
        int64_t number = 0;
        if (!esp_parse_i64(value, &number) || !is_in_range(option, (double)number)) {
            return fail_number(option, value, err);
        }
        *(int64_t *)option->target = number;
        return ESP_OK;
    }
    case ESP_OPTION_REAL: {
        double number = 0;
        if (!esp_parse_f64(value, &number) || !is_in_range(option, number)) {
            return fail_number(option, value, err);
        }
        *(double *)option->target = number;
        return ESP_OK;
    }
    case ESP_OPTION_LIST: {
        esp_option_list *list = option->target;
        if (list->count == ESP_OPTION_LIST_MAX) {
            return esp_fail(err, ESP_INVALID, "--%s: given more than %d times", option->name,
                            ESP_OPTION_LIST_MAX);
        }
        list->items[list->count++] = value;
        return ESP_OK;
    }
    case ESP_OPTION_HEADING:
        return ESP_OK;
    }
    return ESP_OK;
}

/* One option at argv[*index]; moves the index past a separate value. */
static esp_status parse_option(const esp_command_syntax *syntax, int argc, char **argv, int *index,
                               bool *wants_help, esp_error *err)
{
    const char *text = argv[*index];
    const char *value = NULL;
    const esp_option *option = NULL;
    if (text[1] == '-') {
        const char *name = text + 2;
        const char *equals = strchr(name, '=');
        size_t length = equals ? (size_t)(equals - name) : strlen(name);
        value = equals ? equals + 1 : NULL;
        option = find_option(syntax->options, name, length, 0);
        if (!option && length == 4 && memcmp(name, "help", 4) == 0) {
            *wants_help = true;
            return ESP_OK;
        }
        if (!option) {
            return fail_unknown(syntax, name, length, err);
        }
    } else {
        option = find_option(syntax->options, NULL, 0, text[1]);
        value = text[2] ? text + 2 : NULL;
        if (!option && text[1] == 'h') {
            *wants_help = true;
            return ESP_OK;
        }
        if (!option) {
            return esp_fail(err, ESP_INVALID, "unknown option '-%c'", text[1]);
        }
    }
    if (option->kind == ESP_OPTION_FLAG) {
        if (value) {
            return esp_fail(err, ESP_INVALID, "--%s takes no value, found '%s'", option->name, value);
        }
        return store_value(option, NULL, err);
    }
    if (!value) {
        if (*index + 1 >= argc) {
            return esp_fail(err, ESP_INVALID, "--%s: nothing follows, expected %s", option->name,
                            option->argument);
        }
        value = argv[++*index];
    }
    return store_value(option, value, err);
}

esp_status esp_options_parse(const esp_command_syntax *syntax, int argc, char **argv,
                             esp_positionals *positionals, bool *wants_help, esp_error *err)
{
    bool ended = false;
    *wants_help = false;
    positionals->count = 0;
    for (int i = 0; i < argc; i++) {
        if (!ended && strcmp(argv[i], "--") == 0) {
            ended = true;
        } else if (!ended && argv[i][0] == '-' && argv[i][1] != 0) {
            esp_status status = parse_option(syntax, argc, argv, &i, wants_help, err);
            if (status != ESP_OK) {
                return status;
            }
        } else {
            positionals->items[positionals->count++] = argv[i];
            ended = ended || syntax->takes_rest;
        }
    }
    if (*wants_help) {
        return ESP_OK;
    }
    if (positionals->count < syntax->positional_min) {
        return esp_fail(err, ESP_INVALID, "%d argument%s given, expected: espalier%s%s %s",
                        positionals->count, positionals->count == 1 ? "" : "s", syntax->name[0] ? " " : "",
                        syntax->name, syntax->arguments);
    }
    if (syntax->positional_max >= 0 && positionals->count > syntax->positional_max) {
        return esp_fail(err, ESP_INVALID, "unexpected argument '%s', expected: espalier%s%s %s",
                        positionals->items[syntax->positional_max], syntax->name[0] ? " " : "", syntax->name,
                        syntax->arguments);
    }
    return ESP_OK;
}

void esp_options_help(const esp_command_syntax *syntax)
{
    printf("espalier%s%s %s\n\n%s\n\nOptions\n", syntax->name[0] ? " " : "", syntax->name, syntax->arguments,
           syntax->summary);
    for (const esp_option *option = syntax->options; option && option->name; option++) {
        char left[64];
        char letter[8] = "    ";
        if (option->kind == ESP_OPTION_HEADING) {
            printf("%s%s\n", option == syntax->options ? "" : "\n", option->help);
            continue;
        }
        if (option->letter) {
            snprintf(letter, sizeof letter, "-%c, ", option->letter);
        }
        snprintf(left, sizeof left, "%s--%s %s", letter, option->name,
                 option->argument ? option->argument : "");
        printf("  %-28s %s\n", left, option->help);
    }
    printf("  %-28s %s\n\nExample\n%s\n", "-h, --help", "this page", syntax->example);
}
