/* A group of cases: running them, checking the outcomes against the list of those that are expected not to
 * pass, and the totals against the document. The list has one case a line: group, name, outcome, reason; it
 * is read by its first three words, the reason is for people. */
#include "onnx/conformance.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "onnx/support_document.h"

#define LIST_PATH ESP_SOURCE_DIR "/tests/onnx/expected.txt"

enum { SKIPPED = 77 };

/* Where the package puts the cases; ONNX_TESTDATA names another place. */
static const char *cases_directory(void)
{
    const char *given = getenv("ONNX_TESTDATA");
    return given != NULL ? given : "/usr/share/libonnx-testdata/data";
}

typedef struct group_run {
    const char *group;
    bool writes, is_verbose;
    const char *only;
    int case_count;
    char (*names)[CASE_NAME_MAX];
    case_result *results;
    char *expected; /* text of the list */
    int problems;
} group_run;

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

static bool find_cases(group_run *run)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", cases_directory(), run->group);
    DIR *directory = opendir(path);
    int capacity = 0;
    if (directory == NULL) {
        printf("skipped: no cases in %s (package libonnx-testdata)\n", path);
        return false;
    }
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        if (entry->d_name[0] == '.' || (run->only != NULL && strcmp(entry->d_name, run->only) != 0))
            continue;
        if (run->case_count == capacity) {
            capacity = capacity == 0 ? 128 : 2 * capacity;
            run->names = realloc(run->names, (size_t)capacity * sizeof *run->names);
            if (run->names == NULL)
                abort();
        }
        snprintf(run->names[run->case_count++], CASE_NAME_MAX, "%s", entry->d_name);
    }
    closedir(directory);
    if (run->case_count > 0)
        qsort(run->names, (size_t)run->case_count, sizeof *run->names, compare_names);
    return true;
}

/* ---- which operators a case is about ---- */

/* The operators convolutional networks are made of, as patterns: at least 95 % of their cases have to pass.
 */
static const char *const network_operators[] = {"Conv",
                                                "ConvTranspose",
                                                "BatchNormalization",
                                                "InstanceNormalization",
                                                "LayerNormalization",
                                                "GroupNormalization",
                                                "LRN",
                                                "Relu",
                                                "LeakyRelu",
                                                "PRelu",
                                                "Clip",
                                                "Sigmoid",
                                                "HardSigmoid",
                                                "HardSwish",
                                                "Tanh",
                                                "Elu",
                                                "Selu",
                                                "Softplus",
                                                "Mish",
                                                "Gelu",
                                                "Erf",
                                                "MaxPool",
                                                "AveragePool",
                                                "GlobalMaxPool",
                                                "GlobalAveragePool",
                                                "GlobalLpPool",
                                                "LpPool",
                                                "Gemm",
                                                "MatMul",
                                                "Add",
                                                "Sub",
                                                "Mul",
                                                "Div",
                                                "Pow",
                                                "Sqrt",
                                                "Exp",
                                                "Log",
                                                "Neg",
                                                "Abs",
                                                "Min",
                                                "Max",
                                                "Sum",
                                                "Mean",
                                                "Reduce*",
                                                "Concat",
                                                "Split",
                                                "Slice",
                                                "Gather",
                                                "Pad",
                                                "Reshape",
                                                "Flatten",
                                                "Transpose",
                                                "Squeeze",
                                                "Unsqueeze",
                                                "Expand",
                                                "Tile",
                                                "Shape",
                                                "Resize",
                                                "Upsample",
                                                "DepthToSpace",
                                                "SpaceToDepth",
                                                "Where",
                                                "Equal",
                                                "Greater",
                                                "GreaterOrEqual",
                                                "Less",
                                                "LessOrEqual",
                                                "Cast",
                                                "Constant*",
                                                "Identity",
                                                "Dropout",
                                                "Softmax",
                                                "LogSoftmax",
                                                "ArgMax",
                                                "TopK"};

static bool is_network_operator(const char *name)
{
    for (size_t i = 0; i < sizeof network_operators / sizeof *network_operators; i++) {
        if (esp_glob_match(network_operators[i], name))
            return true;
    }
    return false;
}

static bool is_network_case(const case_result *result)
{
    for (int i = 0; i < result->operator_count; i++) {
        if (!is_network_operator(result->operators[i]))
            return false;
    }
    return result->operator_count > 0;
}

static support_totals count(const group_run *run)
{
    support_totals totals = {.cases = run->case_count};
    for (int i = 0; i < run->case_count; i++) {
        const case_result *result = &run->results[i];
        bool passes = result->outcome == CASE_PASSED;
        totals.passed += passes;
        totals.failed += result->outcome == CASE_FAILED;
        totals.unsupported += result->outcome == CASE_UNSUPPORTED;
        totals.bound += passes && result->needs_constants;
        totals.table_cases += result->operators_are_known;
        totals.table_passed += passes;
        totals.network_cases += is_network_case(result);
        totals.network_passed += passes && is_network_case(result);
    }
    return totals;
}

/* ---- the list ---- */

/* The outcome the list has for a case; passed when it is not listed. */
static case_outcome expected_outcome(const group_run *run, const char *name)
{
    char start[CASE_NAME_MAX + 64];
    int length = snprintf(start, sizeof start, "%s %s ", run->group, name);
    for (const char *line = run->expected; line != NULL && *line != '\0';) {
        if (strncmp(line, start, (size_t)length) == 0) {
            const char *word = case_outcome_word(CASE_UNSUPPORTED);
            return strncmp(line + length, word, strlen(word)) == 0 ? CASE_UNSUPPORTED : CASE_FAILED;
        }
        line = strchr(line, '\n');
        line += line != NULL;
    }
    return CASE_PASSED;
}

static void check_outcomes(group_run *run)
{
    for (int i = 0; i < run->case_count; i++) {
        const case_result *result = &run->results[i];
        case_outcome expected = expected_outcome(run, run->names[i]);
        if (expected == result->outcome)
            continue;
        run->problems++;
        printf("WRONG %s: %s, expected.txt says %s%s%s\n", run->names[i], case_outcome_word(result->outcome),
               case_outcome_word(expected), result->reason[0] ? ": " : "", result->reason);
    }
}

static int compare_to_name(const void *key, const void *name)
{
    return strcmp(key, name);
}

/* Lines for cases that do not exist. */
static void check_listed(group_run *run)
{
    for (const char *line = run->expected; line != NULL && *line != '\0';) {
        char group[64], name[CASE_NAME_MAX];
        if (line[0] != '#' && sscanf(line, "%63s %255s", group, name) == 2 &&
            strcmp(group, run->group) == 0 &&
            bsearch(name, run->names, (size_t)run->case_count, sizeof *run->names, compare_to_name) == NULL) {
            run->problems++;
            printf("WRONG %s: listed in expected.txt, there is no such case\n", name);
        }
        line = strchr(line, '\n');
        line += line != NULL;
    }
}

/* The list with the lines of this group replaced, in their place in the order of groups. */
static void write_list(group_run *run)
{
    esp_text text = {0};
    esp_error err = {0};
    bool is_written = false;
    size_t group_length = strlen(run->group);
    for (const char *line = run->expected; line != NULL && *line != '\0';) {
        const char *end = strchr(line, '\n');
        size_t length = end == NULL ? strlen(line) : (size_t)(end - line) + 1;
        bool is_own = strncmp(line, run->group, group_length) == 0 && line[group_length] == ' ';
        bool is_later = line[0] != '#' && !is_own && strncmp(line, run->group, group_length) > 0;
        for (int i = 0; is_later && !is_written && i < run->case_count; i++) {
            if (run->results[i].outcome != CASE_PASSED)
                esp_text_printf(&text, "%s %s %s: %s\n", run->group, run->names[i],
                                case_outcome_word(run->results[i].outcome), run->results[i].reason);
        }
        is_written = is_written || is_later;
        if (!is_own)
            esp_text_append_n(&text, line, length);
        line += length;
    }
    for (int i = 0; !is_written && i < run->case_count; i++) {
        if (run->results[i].outcome != CASE_PASSED)
            esp_text_printf(&text, "%s %s %s: %s\n", run->group, run->names[i],
                            case_outcome_word(run->results[i].outcome), run->results[i].reason);
    }
    if (text.is_broken || esp_file_write(LIST_PATH, text.data, text.length, &err) != ESP_OK) {
        run->problems++;
        printf("WRONG expected.txt: cannot be written: %s\n", err.message);
    }
    esp_text_free(&text);
}

/* ---- the whole ---- */

static void print_totals(const group_run *run, const support_totals *totals)
{
    printf("%s: %d cases: %d passed, %d failed, %d unsupported\n", run->group, totals->cases, totals->passed,
           totals->failed, totals->unsupported);
    printf("%s: %d of the passed ones have inputs as constants of the model\n", run->group, totals->bound);
    printf("%s: operators in the table: %d of %d passed (%.1f %%)\n", run->group, totals->table_passed,
           totals->table_cases, support_percent(totals->table_passed, totals->table_cases));
    printf("%s: operators of convolutional networks: %d of %d passed (%.1f %%)\n", run->group,
           totals->network_passed, totals->network_cases,
           support_percent(totals->network_passed, totals->network_cases));
}

/* A crash says where it happened. */
static char running[2 * CASE_NAME_MAX];

static void tell_crash(int signal)
{
    ssize_t ignored = write(STDOUT_FILENO, running, strlen(running));
    (void)ignored;
    raise(signal);
}

static void watch_crashes(void)
{
    struct sigaction action = {.sa_handler = tell_crash, .sa_flags = (int)(SA_RESETHAND | SA_NODEFER)};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGABRT, &action, NULL);
    sigaction(SIGFPE, &action, NULL);
}

static void run_cases(group_run *run)
{
    run->results = calloc((size_t)run->case_count + 1, sizeof *run->results);
    if (run->results == NULL)
        abort();
    for (int i = 0; i < run->case_count; i++) {
        char path[1024 + CASE_NAME_MAX];
        case_result *result = &run->results[i];
        snprintf(path, sizeof path, "%s/%s/%s", cases_directory(), run->group, run->names[i]);
        snprintf(running, sizeof running, "CRASHED in %s\n", run->names[i]);
        case_run(path, result);
        if (run->is_verbose || run->only != NULL)
            printf("%s %s %s%s: %s\n", run->group, run->names[i], case_outcome_word(result->outcome),
                   result->needs_constants ? " (constants)" : "", result->reason);
        fflush(stdout);
    }
}

static void check(group_run *run)
{
    support_totals totals = count(run);
    size_t size;
    esp_error err = {0};
    if (esp_file_read(LIST_PATH, &run->expected, &size, &err) != ESP_OK && !run->writes) {
        run->problems++;
        printf("WRONG %s\n", err.message);
    }
    print_totals(run, &totals);
    if (run->writes) {
        write_list(run);
    } else {
        check_outcomes(run);
        check_listed(run);
    }
    run->problems += !support_document_totals(run->group, &totals, run->writes);
}

static bool read_arguments(group_run *run, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--write") == 0)
            run->writes = true;
        else if (strcmp(argv[i], "--verbose") == 0)
            run->is_verbose = true;
        else if (strcmp(argv[i], "--case") == 0 && i + 1 < argc)
            run->only = argv[++i];
        else
            return false;
    }
    return true;
}

int conformance_main(const char *group, int argc, char **argv)
{
    group_run run = {.group = group};
    if (!read_arguments(&run, argc, argv)) {
        fprintf(stderr, "usage: %s [--write] [--verbose] [--case NAME]\n", argv[0]);
        return 2;
    }
    if (!find_cases(&run)) {
        free(run.names);
        return SKIPPED;
    }
    watch_crashes();
    run_cases(&run);
    if (run.only == NULL)
        check(&run);
    free(run.names);
    free(run.results);
    esp_free(run.expected);
    return run.problems > 0;
}
