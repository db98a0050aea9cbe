/* Gradients of functions, arithmetic, reductions and normalisations against finite differences. */
#include "unit/graph/gradient_check.h"

static void gradients_of_math_agree_with_finite_differences(void **state)
{
    (void)state;
    for (int i = 0; i < gradient_cases_of_math.count; i++)
        check_gradients(&gradient_cases_of_math.cases[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_math_agree_with_finite_differences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
