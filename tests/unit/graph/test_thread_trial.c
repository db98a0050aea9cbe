/* The trial is fed with times made up here; what it decides must follow them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "graph/thread_trial.h"

/* Runs that go alone among `count`, when a run on all threads takes `together` and one alone `alone`. */
static int runs_alone(esp_thread_trial *trial, int count, double together, double alone)
{
    int total = 0;

    for (int i = 0; i < count; i++) {
        bool is_alone = esp_thread_trial_next(trial);
        total += is_alone;
        esp_thread_trial_record(trial, is_alone ? alone : together);
    }
    return total;
}

static void a_small_network_runs_alone_where_threads_make_it_slower(void **state)
{
    esp_thread_trial trial = {0};

    (void)state;
    assert_true(runs_alone(&trial, 2000, 300e-6, 200e-6) > 1800);
}

static void a_small_network_runs_on_all_threads_where_they_help(void **state)
{
    esp_thread_trial trial = {0};

    (void)state;
    assert_true(runs_alone(&trial, 2000, 120e-6, 200e-6) < 100);
}

static void a_large_network_is_never_tried_alone(void **state)
{
    esp_thread_trial trial = {0};

    (void)state;
    /* not even where it would be faster: its first trial of threads ends the matter */
    assert_true(runs_alone(&trial, 8 + 2, 20e-3, 1e-3) == 0);
    assert_int_equal(runs_alone(&trial, 1000, 20e-3, 1e-3), 0);
}

static void the_way_changes_when_the_machine_does(void **state)
{
    esp_thread_trial trial = {0};

    (void)state;
    runs_alone(&trial, 1000, 300e-6, 200e-6);
    runs_alone(&trial, 1000, 120e-6, 200e-6);
    assert_true(runs_alone(&trial, 1000, 120e-6, 200e-6) < 100);
    runs_alone(&trial, 1000, 300e-6, 200e-6);
    assert_true(runs_alone(&trial, 1000, 300e-6, 200e-6) > 900);
}

static void single_slow_runs_decide_nothing(void **state)
{
    esp_thread_trial trial = {0};
    int alone = 0;

    (void)state;
    for (int i = 0; i < 2000; i++) {
        bool is_alone = esp_thread_trial_next(&trial);
        alone += is_alone;
        /* every fifth run on all threads is disturbed */
        esp_thread_trial_record(&trial, is_alone ? 200e-6 : i % 5 == 0 ? 5e-3 : 120e-6);
    }
    assert_true(alone < 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_small_network_runs_alone_where_threads_make_it_slower),
        cmocka_unit_test(a_small_network_runs_on_all_threads_where_they_help),
        cmocka_unit_test(a_large_network_is_never_tried_alone),
        cmocka_unit_test(the_way_changes_when_the_machine_does),
        cmocka_unit_test(single_slow_runs_decide_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
