/* espalier zoo: known networks as files. What there is and what it takes is the Lua library's. */
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "cli/common_options.h"
#include "cli/table.h"
#include "script/script.h"

/* What was asked for; NULL and negative: not given. */
typedef struct request {
    const char *name, *path, *weights, *prefix, *input;
    int64_t classes, seed;
    double width;
    bool is_partial, is_json;
} request;

/* "3x224x224" as a list. */
static esp_status input_json(const char *text, json_t **out, esp_error *err)
{
    json_t *dims = json_array();
    const char *at = text;
    for (;;) {
        char number[24];
        size_t length = strcspn(at, "x");
        int64_t dim = 0;
        snprintf(number, sizeof number, "%.*s", (int)(length < 20 ? length : 20), at);
        if (!esp_parse_i64(number, &dim) || dim < 1 || length > 19) {
            json_decref(dims);
            return esp_fail(err, ESP_INVALID, "--input %s: expected sizes such as 3x224x224", text);
        }
        json_array_append_new(dims, json_integer(dim));
        if (!at[length]) {
            break;
        }
        at += length + 1;
    }
    *out = dims;
    return ESP_OK;
}

static void set_text(json_t *object, const char *name, const char *text)
{
    if (text) {
        json_object_set_new(object, name, json_string(text));
    }
}

/* The options of a builder. A network that is only counted needs no weights. */
static esp_status options_json(const request *it, json_t **out, esp_error *err)
{
    json_t *options = json_object();
    if (it->input) {
        json_t *dims = NULL;
        esp_status status = input_json(it->input, &dims, err);
        if (status != ESP_OK) {
            json_decref(options);
            return status;
        }
        json_object_set_new(options, "input", dims);
    }
    if (it->classes > 0) {
        json_object_set_new(options, "classes", json_integer(it->classes));
    }
    if (it->width > 0) {
        bool is_whole = it->width < 1e9 && it->width == (double)(int64_t)it->width;
        json_object_set_new(options, "width",
                            is_whole ? json_integer((json_int_t)it->width) : json_real(it->width));
    }
    json_object_set_new(options, "seed", it->path ? json_integer(it->seed) : json_false());
    set_text(options, "weights", it->weights);
    set_text(options, "prefix", it->prefix);
    if (it->is_partial) {
        json_object_set_new(options, "strict", json_false());
    }
    *out = options;
    return ESP_OK;
}

/* What the library reports as wrong becomes the command's own error. */
static esp_status check_result(const json_t *result, esp_error *err)
{
    static const char *const words[] = {
#define STATUS_WORD(name, word) [ESP_##name] = word,
        ESP_STATUS_LIST(STATUS_WORD)
#undef STATUS_WORD
    };
    const json_t *failure = json_object_get(result, "error");
    const char *code = json_string_value(json_object_get(failure, "code"));
    const char *message = json_string_value(json_object_get(failure, "message"));
    const char *hint = json_string_value(json_object_get(failure, "hint"));
    esp_status status = ESP_SCRIPT;
    if (!failure) {
        return ESP_OK;
    }
    for (size_t i = ESP_OK + 1; code && i < sizeof words / sizeof words[0]; i++) {
        status = strcmp(code, words[i]) == 0 ? (esp_status)i : status;
    }
    esp_fail(err, status, "%s", message ? message : "the network could not be made");
    if (hint && hint[0]) {
        esp_error_set_hint(err, "%s", hint);
    }
    return status;
}

static esp_status call_library(esp_cli *cli, const char *function, const json_t *argument, json_t **out,
                               esp_error *err)
{
    const esp_script_options options = {.compute = &cli->compute, .is_trusted = true};
    esp_script *script = NULL;
    json_t *result = NULL;
    esp_status status = esp_script_new(&options, &script, err);
    if (status == ESP_OK) {
        status = esp_script_call(script, "espalier.zoo.command", function, argument, &result, err);
    }
    if (status == ESP_OK) {
        status = check_result(result, err);
    }
    esp_script_free(script);
    if (status != ESP_OK) {
        json_decref(result);
        return status;
    }
    *out = result;
    return ESP_OK;
}

static esp_status print_list(esp_cli *cli, bool is_json, esp_error *err)
{
    json_t *nothing = json_object(), *result = NULL;
    esp_status status = nothing ? call_library(cli, "list", nothing, &result, err)
                                : esp_fail_memory(err, "a list of networks", 0);
    json_decref(nothing);
    if (status != ESP_OK || is_json) {
        return status == ESP_OK ? esp_cli_print_json(result, err) : status;
    }
    const json_t *networks = json_object_get(result, "networks");
    esp_table *table = esp_table_new("ll");
    esp_table_cell(table, "network");
    esp_table_cell(table, "what");
    for (size_t i = 0; i < json_array_size(networks); i++) {
        const json_t *row = json_array_get(networks, i);
        esp_table_cell(table, "%s", json_string_value(json_object_get(row, "name")));
        esp_table_cell(table, "%s", json_string_value(json_object_get(row, "about")));
    }
    status = esp_table_print(table, err);
    esp_table_free(table);
    json_decref(result);
    return status;
}

static const char *count_text(char *buffer, size_t size, const json_t *object, const char *name)
{
    return esp_format_count(buffer, size, json_number_value(json_object_get(object, name)));
}

/* An empty Lua table is an empty object: lists are lists, however long. */
static void make_lists(json_t *weights)
{
    static const char *const kinds[] = {"missing", "unexpected", "mismatched"};
    for (size_t i = 0; weights && i < sizeof kinds / sizeof kinds[0]; i++) {
        if (!json_is_array(json_object_get(weights, kinds[i]))) {
            json_object_set_new(weights, kinds[i], json_array());
        }
    }
}

static void print_list_of(const json_t *weights, const char *kind)
{
    const json_t *names = json_object_get(weights, kind);
    for (size_t i = 0; i < json_array_size(names); i++) {
        printf("%-10s %s\n", kind, json_string_value(json_array_get(names, i)));
    }
}

static void print_made(const request *it, const json_t *result)
{
    char params[16], macs[16], paper_params[16], paper_macs[16];
    const json_t *paper = json_object_get(result, "paper"), *weights = json_object_get(result, "weights");
    printf("%s  %s params, %s MACs per image (true)   %s params, %s MACs (paper)\n", it->name,
           count_text(params, sizeof params, result, "params"), count_text(macs, sizeof macs, result, "macs"),
           count_text(paper_params, sizeof paper_params, paper, "params"),
           count_text(paper_macs, sizeof paper_macs, paper, "macs"));
    if (weights) {
        printf("weights    %lld tensors from %s\n",
               (long long)json_integer_value(json_object_get(weights, "loaded")), it->weights);
        print_list_of(weights, "missing");
        print_list_of(weights, "unexpected");
        print_list_of(weights, "mismatched");
    }
    if (it->path) {
        printf("written    %s\n", it->path);
    }
}

static esp_status make_network(esp_cli *cli, const request *it, esp_error *err)
{
    json_t *options = NULL, *argument = NULL, *result = NULL;
    esp_status status = options_json(it, &options, err);
    if (status != ESP_OK) {
        return status;
    }
    argument = json_pack("{s:s, s:o}", "name", it->name, "options", options);
    if (!argument) {
        return esp_fail(err, ESP_INVALID, "network '%s': the name is no UTF-8", it->name);
    }
    set_text(argument, "path", it->path);
    status = call_library(cli, "make", argument, &result, err);
    json_decref(argument);
    if (status == ESP_OK && it->is_json) {
        make_lists(json_object_get(result, "weights"));
        return esp_cli_print_json(result, err);
    }
    if (status == ESP_OK) {
        print_made(it, result);
    }
    json_decref(result);
    return status;
}

/* [NAME] */
static esp_status run(esp_cli *cli, int count, char **items, void *context, esp_error *err)
{
    request *it = context;
    esp_status status = esp_cli_start(cli, 0, err);
    if (status != ESP_OK) {
        return status;
    }
    if (count == 0) {
        return print_list(cli, it->is_json, err);
    }
    it->name = items[0];
    return make_network(cli, it, err);
}

esp_status esp_command_zoo(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    request it = {0};
    const esp_option options[] = {
        {"output", 'o', ESP_OPTION_TEXT, &it.path, "OUT.onnx", "where to write it; not given: only its size",
         0, 0, 0},
        {"weights", 0, ESP_OPTION_TEXT, &it.weights, "FILE", "parameters from a safetensors file, by name", 0,
         0, 0},
        {"partial", 0, ESP_OPTION_FLAG, &it.is_partial, NULL, "draw what FILE lacks or has in another shape",
         0, 0, 0},
        {"prefix", 0, ESP_OPTION_TEXT, &it.prefix, "TEXT", "in front of all names in FILE, e.g. module.", 0,
         0, 0},
        {"classes", 0, ESP_OPTION_INT, &it.classes, "N", "default: those of its dataset", 1, 1e6, 0},
        {"input", 0, ESP_OPTION_TEXT, &it.input, "CxHxW", "size of an image, e.g. 3x224x224", 0, 0, 0},
        {"width", 0, ESP_OPTION_REAL, &it.width, "X", "filters of the first stage; of mobilenet_v2 a factor",
         0.01, 1e5, 0},
        {"seed", 0, ESP_OPTION_INT, &it.seed, "N", "of the random weights, default 0", 0, 0, 0},
        {"json", 0, ESP_OPTION_FLAG, &it.is_json, NULL, "one JSON object instead of text", 0, 0, 0},
        {0},
    };
    const esp_command_syntax syntax = {
        "zoo",
        "Known networks with random weights, or with those of a file. Without a name: the list.",
        "[NAME] [options]",
        "  espalier zoo resnet18 -o resnet18.onnx --weights resnet18.safetensors",
        0,
        1,
        options,
        false};
    return esp_cli_run(cli, &syntax, argc, argv, run, &it, err);
}
