/* Gradients of convolutions and pools of any rank, of resizing and of data movement. */
#include "unit/graph/gradient_check.h"

static void gradients_agree_with_finite_differences(void **state)
{
    (void)state;
    for (int i = 0; i < gradient_cases_of_space.count; i++)
        check_gradients(&gradient_cases_of_space.cases[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_agree_with_finite_differences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
