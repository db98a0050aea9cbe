/* Backward passes against finite differences of forward passes, through the executor. A case builds a small
 * network; the loss is the sum of its outputs times fixed random numbers. Gradients of all graph inputs and
 * of all trainable constants are compared. */
#ifndef ESP_TESTS_GRAPH_GRADIENT_CHECK_H
#define ESP_TESTS_GRAPH_GRADIENT_CHECK_H

#include "unit/graph/net.h"

typedef enum fill {
    SIGNED,   /* in [-1, 1] */
    POSITIVE, /* in [0.5, 1.5] */
    SPACED, /* distinct, 0.07 apart, none within 0.02 of a multiple of 0.5: kinks are not crossed by a step */
} fill;

typedef struct gradient_case {
    const char *name;
    int opset;
    fill inputs;
    void (*build)(net *n);
    bool freezes_norm;
} gradient_case;

/* Fails the test when a gradient differs. */
void check_gradients(const gradient_case *what);

/* Lists of cases in other files; every row of the op table with a backward must be in one of all lists. */
typedef struct gradient_cases {
    const gradient_case *cases;
    int count;
} gradient_cases;

extern const gradient_cases
    gradient_cases_of_space; /* gradient_cases_space.c: what works on space, movement */
extern const gradient_cases gradient_cases_of_math; /* gradient_cases_math.c: functions, arithmetic, norms */

#endif
