/* The pool: every task exactly once, the same result for any number of threads, cancel, nesting, two callers.
 */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/compute.h"
#include "base/memory.h"
#include "unit/base/scratch.h"

enum { MOST_TASKS = 3000 };

typedef struct tally {
    atomic_int runs[MOST_TASKS];
    atomic_int in_slot[16];
    int slots;
    atomic_bool is_out_of_range;
} tally;

static void count_task(void *context, int64_t task, int slot)
{
    tally *counts = context;

    atomic_fetch_add(&counts->runs[task], 1);
    if (slot < 0 || slot >= counts->slots) {
        atomic_store(&counts->is_out_of_range, true);
        return;
    }
    /* A slot is one thread at a time. */
    if (atomic_fetch_add(&counts->in_slot[slot], 1) != 0)
        atomic_store(&counts->is_out_of_range, true);
    atomic_fetch_sub(&counts->in_slot[slot], 1);
}

static void every_task_runs_exactly_once(void **state)
{
    static tally counts;

    (void)state;
    for (int threads = 1; threads <= 4; threads++) {
        esp_compute compute = {0};

        assert_int_equal(esp_pool_new(threads, &compute.pool, NULL), ESP_OK);
        assert_int_equal(esp_pool_thread_count(compute.pool), threads);
        for (int round = 0; round < 300; round++) {
            int64_t tasks = round * 7 % 61;
            if (round % 100 == 99)
                tasks = MOST_TASKS;
            memset(&counts, 0, sizeof counts);
            counts.slots = esp_compute_slots(&compute);
            assert_int_equal(esp_compute_run(&compute, tasks, count_task, &counts), ESP_OK);
            for (int64_t i = 0; i < MOST_TASKS; i++)
                assert_int_equal(atomic_load(&counts.runs[i]), i < tasks ? 1 : 0);
            assert_false(atomic_load(&counts.is_out_of_range));
        }
        esp_pool_free(compute.pool);
    }
}

typedef struct sums {
    const float *values;
    float partial[37];
} sums;

static void sum_part(void *context, int64_t task, int slot)
{
    sums *job = context;

    (void)slot;
    for (int i = 0; i < 1000; i++)
        job->partial[task] += job->values[task * 1000 + i];
}

static void the_result_is_the_same_for_one_to_four_threads(void **state)
{
    enum { COUNT = 37000 };
    float *values = malloc(COUNT * sizeof *values);
    sums first = {.values = values};

    (void)state;
    assert_non_null(values);
    for (int i = 0; i < COUNT; i++)
        values[i] = 1.0f / (float)(i + 1);
    assert_int_equal(esp_compute_run(NULL, 37, sum_part, &first), ESP_OK);
    for (int threads = 1; threads <= 4; threads++) {
        sums job = {.values = values};
        esp_compute compute = {0};

        assert_int_equal(esp_pool_new(threads, &compute.pool, NULL), ESP_OK);
        assert_int_equal(esp_compute_run(&compute, 37, sum_part, &job), ESP_OK);
        assert_memory_equal(job.partial, first.partial, sizeof first.partial);
        esp_pool_free(compute.pool);
    }
    free(values);
}

typedef struct meeting {
    pthread_barrier_t barrier;
} meeting;

static void meet(void *context, int64_t task, int slot)
{
    (void)task;
    (void)slot;
    pthread_barrier_wait(&((meeting *)context)->barrier);
}

static void tasks_really_run_side_by_side(void **state)
{
    meeting at;
    esp_compute compute = {0};

    (void)state;
    /* Three tasks that wait for each other end only when three threads run them. */
    pthread_barrier_init(&at.barrier, NULL, 3);
    assert_int_equal(esp_pool_new(3, &compute.pool, NULL), ESP_OK);
    for (int round = 0; round < 50; round++)
        assert_int_equal(esp_compute_run(&compute, 3, meet, &at), ESP_OK);
    esp_pool_free(compute.pool);
    pthread_barrier_destroy(&at.barrier);
}

/* Longer than anyone waits without sleeping. */
static void outlast_all_spinning(void)
{
    double end = esp_clock_s() + 5e-3;

    while (esp_clock_s() < end)
        ;
}

static void workers_that_have_fallen_asleep_take_part_again(void **state)
{
    meeting at;
    esp_compute compute = {0};

    (void)state;
    /* more workers than a run can use: only so many are woken */
    pthread_barrier_init(&at.barrier, NULL, 3);
    assert_int_equal(esp_pool_new(4, &compute.pool, NULL), ESP_OK);
    for (int round = 0; round < 10; round++) {
        outlast_all_spinning();
        assert_int_equal(esp_compute_run(&compute, 3, meet, &at), ESP_OK);
    }
    esp_pool_free(compute.pool);
    pthread_barrier_destroy(&at.barrier);
}

typedef struct long_task {
    meeting at;
    atomic_int ended;
} long_task;

static void meet_then_outlast_the_caller(void *context, int64_t task, int slot)
{
    long_task *job = context;

    meet(&job->at, task, slot);
    if (slot != 0)
        outlast_all_spinning();
    atomic_fetch_add(&job->ended, 1);
}

static void a_caller_that_has_fallen_asleep_is_woken_by_the_last_worker(void **state)
{
    long_task job = {0};
    esp_compute compute = {0};

    (void)state;
    pthread_barrier_init(&job.at.barrier, NULL, 3);
    assert_int_equal(esp_pool_new(3, &compute.pool, NULL), ESP_OK);
    for (int round = 1; round <= 10; round++) {
        assert_int_equal(esp_compute_run(&compute, 3, meet_then_outlast_the_caller, &job), ESP_OK);
        assert_int_equal(atomic_load(&job.ended), 3 * round);
    }
    esp_pool_free(compute.pool);
    pthread_barrier_destroy(&job.at.barrier);
}

typedef struct stop_after {
    esp_cancel *cancel;
    atomic_int ran;
    int limit;
} stop_after;

static void request_at_limit(void *context, int64_t task, int slot)
{
    stop_after *job = context;

    (void)task;
    (void)slot;
    if (atomic_fetch_add(&job->ran, 1) + 1 == job->limit)
        esp_cancel_request(job->cancel);
}

static void cancel_stops_the_run_and_says_so(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 4; threads++) {
        esp_cancel cancel = {0};
        esp_compute compute = {.cancel = &cancel};
        stop_after job = {.cancel = &cancel, .limit = 10};

        assert_int_equal(esp_pool_new(threads, &compute.pool, NULL), ESP_OK);
        assert_int_equal(esp_compute_run(&compute, MOST_TASKS, request_at_limit, &job), ESP_CANCELLED);
        /* Each thread may have begun one task before it could see the request. */
        assert_in_range(atomic_load(&job.ran), 10, 10 + threads);
        assert_true(esp_compute_is_cancelled(&compute));

        esp_cancel_clear(&cancel);
        job.limit = -1;
        atomic_store(&job.ran, 0);
        assert_int_equal(esp_compute_run(&compute, 100, request_at_limit, &job), ESP_OK);
        assert_int_equal(atomic_load(&job.ran), 100);
        esp_pool_free(compute.pool);
    }
    assert_false(esp_compute_is_cancelled(NULL));
    assert_false(esp_cancel_is_requested(NULL));
}

typedef struct nest {
    const esp_compute *compute;
    meeting at;
    atomic_int inner_runs;
    atomic_bool changed_slot;
} nest;

typedef struct inner_task {
    nest *outer;
    int slot;
} inner_task;

static void run_inner(void *context, int64_t task, int slot)
{
    inner_task *inner = context;

    (void)task;
    atomic_fetch_add(&inner->outer->inner_runs, 1);
    if (slot != inner->slot)
        atomic_store(&inner->outer->changed_slot, true);
}

static void run_outer(void *context, int64_t task, int slot)
{
    nest *job = context;
    inner_task inner = {.outer = job, .slot = slot};

    meet(&job->at, task, slot); /* so that each thread has one */
    esp_compute_run(job->compute, 5, run_inner, &inner);
}

static void a_nested_run_executes_inline_in_the_same_slot(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 4; threads++) {
        esp_compute compute = {0};
        nest job = {.compute = &compute};

        pthread_barrier_init(&job.at.barrier, NULL, (unsigned)threads);
        assert_int_equal(esp_pool_new(threads, &compute.pool, NULL), ESP_OK);
        for (int round = 0; round < 10; round++)
            assert_int_equal(esp_compute_run(&compute, threads, run_outer, &job), ESP_OK);
        assert_int_equal(atomic_load(&job.inner_runs), 50 * threads);
        assert_false(atomic_load(&job.changed_slot));
        esp_pool_free(compute.pool);
        pthread_barrier_destroy(&job.at.barrier);
    }
}

typedef struct second_caller {
    const esp_compute *compute;
    tally counts;
    int failures;
} second_caller;

static void *call_often(void *argument)
{
    second_caller *self = argument;

    for (int round = 0; round < 100; round++) {
        memset(&self->counts, 0, sizeof self->counts);
        self->counts.slots = esp_compute_slots(self->compute);
        if (esp_compute_run(self->compute, 50, count_task, &self->counts) != ESP_OK)
            self->failures++;
        for (int i = 0; i < 50; i++)
            if (atomic_load(&self->counts.runs[i]) != 1)
                self->failures++;
    }
    return NULL;
}

static void two_threads_may_use_one_pool_at_once(void **state)
{
    static second_caller callers[3];
    pthread_t threads[3];
    esp_compute compute = {0};

    (void)state;
    assert_int_equal(esp_pool_new(3, &compute.pool, NULL), ESP_OK);
    for (int i = 0; i < 3; i++) {
        callers[i].compute = &compute;
        assert_int_equal(pthread_create(&threads[i], NULL, call_often, &callers[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(callers[i].failures, 0);
    }
    esp_pool_free(compute.pool);
}

static void the_default_is_one_thread_per_usable_core(void **state)
{
    esp_pool *pool;
    cpu_set_t set;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    assert_int_equal(esp_pool_new(0, &pool, NULL), ESP_OK);
    assert_int_equal(esp_pool_thread_count(pool), CPU_COUNT(&set));
    esp_pool_free(pool);
    esp_pool_free(NULL);
    assert_int_equal(esp_pool_thread_count(NULL), 1);
}

static void making_a_pool_reports_bad_counts_and_lack_of_memory(void **state)
{
    size_t before = esp_memory_live();
    esp_pool *pool = (esp_pool *)1;
    esp_error err = {0};

    (void)state;
    assert_int_equal(esp_pool_new(100000, &pool, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "100000"));
    assert_null(pool);
    for (int k = 1; k <= 2; k++) {
        esp_memory_fuse(k);
        assert_int_equal(esp_pool_new(2, &pool, &err), ESP_NO_MEMORY);
        esp_memory_fuse(0);
        assert_null(pool);
        assert_int_equal(esp_memory_live(), before);
    }
}

static void keep_progress(void *user, const esp_progress *progress)
{
    *(double *)user = progress->done;
}

static void progress_reaches_the_listener(void **state)
{
    double done = 0;
    esp_compute compute = {.on_progress = keep_progress, .progress_user = &done};
    esp_progress progress = {.stage = "train", .done = 7, .unit = "images", .detail = ""};

    (void)state;
    esp_compute_report(&compute, &progress);
    assert_true(done == 7);
    esp_compute_report(NULL, &progress);
    esp_compute_report(&(esp_compute){0}, &progress);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_exactly_once),
        cmocka_unit_test(the_result_is_the_same_for_one_to_four_threads),
        cmocka_unit_test(tasks_really_run_side_by_side),
        cmocka_unit_test(workers_that_have_fallen_asleep_take_part_again),
        cmocka_unit_test(a_caller_that_has_fallen_asleep_is_woken_by_the_last_worker),
        cmocka_unit_test(cancel_stops_the_run_and_says_so),
        cmocka_unit_test(a_nested_run_executes_inline_in_the_same_slot),
        cmocka_unit_test(two_threads_may_use_one_pool_at_once),
        cmocka_unit_test(the_default_is_one_thread_per_usable_core),
        cmocka_unit_test(making_a_pool_reports_bad_counts_and_lack_of_memory),
        cmocka_unit_test(progress_reaches_the_listener),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
