/* ONNX's stored test cases (Debian's libonnx-testdata) against this program: a case is a model, inputs and
 * the outputs that the reference implementation computed for them.
 *
 * Tolerances are those of ONNX's own runner (onnx.backend.test): |found - expected| <= 1e-7 + 1e-3 |expected|
 * for floats, equality for everything else. float16, bfloat16 and double are float32 here, on both sides. */
#ifndef ESP_TESTS_CONFORMANCE_H
#define ESP_TESTS_CONFORMANCE_H

#include <stdbool.h>
#include <stddef.h>

#include "tensor/tensor.h"

#define CASE_RTOL 1e-3
#define CASE_ATOL 1e-7

/* Columns: NAME, word in files and reports. */
#define CASE_OUTCOMES(X)                                                                                     \
    X(PASSED, "passed")                                                                                      \
    X(FAILED, "failed")           /* it ran and gave something else, or broke off where it should not */     \
    X(UNSUPPORTED, "unsupported") /* refused with a message that says what is not supported */

typedef enum case_outcome {
#define CASE_ENUM(name, word) CASE_##name,
    CASE_OUTCOMES(CASE_ENUM)
#undef CASE_ENUM
} case_outcome;

const char *case_outcome_word(case_outcome outcome);

enum { CASE_OPERATORS_MAX = 64, CASE_NAME_MAX = 256 };

typedef struct case_result {
    case_outcome outcome;
    char reason[1024]; /* empty when it passed */
    /* Some inputs had to be constants of the model, because an operator reads them as numbers while the model
     * is prepared (the target of a Reshape, the axes of a Squeeze). */
    bool needs_constants;
    int operator_count;
    char operators[CASE_OPERATORS_MAX][48]; /* of the default domain; others begin with their domain */
    bool operators_are_known;               /* every one has a row in the op table at the case's opset */
} case_result;

/* Runs the case in `directory` (model.onnx, test_data_set_N/input_N.pb and output_N.pb) through the reader,
 * simplification and the executor, with the default kernels and again with plain ones. */
void case_run(const char *directory, case_result *out);

/* Whether `found` is `expected` within the tolerances; says in `reason` how they differ. */
bool case_compare(const esp_view *found, const esp_view *expected, char *reason, size_t size);

/* A test program: runs the cases of a group ("node") and checks the outcome of each against
 * tests/onnx/expected.txt and the totals against docs/onnx-support.md; --write rewrites both, --verbose
 * prints all cases, --case NAME runs one. Exit status 77 when the cases are not installed. */
int conformance_main(const char *group, int argc, char **argv);

#endif
