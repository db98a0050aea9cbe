/* docs/onnx-support.md: generated from the op table and from the totals of the conformance tests. A part
 * between two markers is what a program wrote; tests compare it with what they would write now. */
#ifndef ESP_TESTS_SUPPORT_DOCUMENT_H
#define ESP_TESTS_SUPPORT_DOCUMENT_H

#include <stdbool.h>

/* What came of a group of cases. */
typedef struct support_totals {
    int cases, passed, failed, unsupported;
    int bound;                         /* passed with inputs as constants of the model */
    int table_cases, table_passed;     /* whose operators all have a row in the op table */
    int network_cases, network_passed; /* whose operators are all those of convolutional networks */
} support_totals;

double support_percent(int part, int whole);

/* The row of a group in the document: checks it, or writes it. False, after a line that says why, when it
 * differs or cannot be written. */
bool support_document_totals(const char *group, const support_totals *totals, bool writes);

/* The operators of the document, in the same way. */
bool support_document_operators(bool writes);

#endif
