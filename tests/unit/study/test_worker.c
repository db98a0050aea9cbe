/* The worker: what counts as busy, what order jobs run in, and how they stop. */
#include <poll.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>

#include "base/memory.h"
#include "study/worker.h"
#include "unit/train/train_fixtures.h"

/* What the jobs of a test share. Jobs write `order` on the worker thread; tests read it when the worker is
 * idle. */
typedef struct world {
    sem_t started, may_end;
    char order[32];
    atomic_int released; /* jobs are released by either thread */
} world;

typedef struct letter_job {
    esp_job job;
    world *world;
    char letter;
} letter_job;

static void release_letter(esp_job *job)
{
    ((letter_job *)job)->world->released++;
    esp_free(job);
}

static void write_letter(world *w, char letter)
{
    size_t length = strlen(w->order);

    w->order[length] = letter;
    w->order[length + 1] = '\0';
}

static esp_status run_letter(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    (void)compute;
    (void)err;
    write_letter(user, ((letter_job *)job)->letter);
    return ESP_OK;
}

/* Starts, then waits for the test. */
static esp_status run_gate(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    world *w = user;

    (void)err;
    write_letter(w, ((letter_job *)job)->letter);
    sem_post(&w->started);
    sem_wait(&w->may_end);
    return esp_compute_is_cancelled(compute) ? ESP_CANCELLED : ESP_OK;
}

/* Starts, waits, then reports progress between two steps. */
static esp_status run_steps(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    world *w = user;
    const esp_progress progress = {
        .stage = "steps", .done = 1, .total = 2, .unit = "steps", .detail = "half-way"};

    (void)err;
    sem_post(&w->started);
    sem_wait(&w->may_end);
    write_letter(w, '(');
    esp_compute_report(compute, &progress);
    write_letter(w, ((letter_job *)job)->letter);
    write_letter(w, ')');
    return ESP_OK;
}

/* Ends only when it is cancelled. */
static esp_status run_until_cancelled(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    (void)job;
    (void)err;
    sem_post(&((world *)user)->started);
    while (!esp_compute_is_cancelled(compute)) {
    }
    return ESP_CANCELLED;
}

static esp_status run_failing(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    (void)user;
    (void)job;
    (void)compute;
    return esp_fail(err, ESP_SHAPE, "two and three do not fit");
}

static int64_t submit(esp_worker *worker, world *w, esp_job_run_fn *run, char letter, unsigned flags)
{
    letter_job *job = esp_alloc_zero(1, sizeof *job);
    esp_error err = {0};
    int64_t id = 0;

    assert_non_null(job);
    job->job = (esp_job){.title = "test", .flags = flags, .run = run, .release = release_letter};
    job->world = w;
    job->letter = letter;
    expect_ok(esp_worker_submit(worker, &job->job, &id, &err), &err);
    return id;
}

static esp_worker *start(world *w, size_t capacity)
{
    esp_worker *worker = NULL;
    esp_error err = {0};

    memset(w, 0, sizeof *w);
    sem_init(&w->started, 0, 0);
    sem_init(&w->may_end, 0, 0);
    expect_ok(esp_worker_new(capacity, 1, w, &worker, &err), &err);
    return worker;
}

/* Reads one finish, whatever else comes before. */
static esp_event wait_finish(esp_worker *worker)
{
    struct pollfd source = {.fd = esp_worker_fd(worker), .events = POLLIN};
    esp_event event;

    for (;;) {
        while (esp_worker_next_event(worker, &event))
            if (event.kind == ESP_EVENT_FINISHED)
                return event;
        poll(&source, 1, -1);
    }
}

static void settle(esp_worker *worker)
{
    while (esp_worker_busy(worker) > 0)
        (void)wait_finish(worker);
}

static void a_job_is_busy_from_submit_until_its_finish_was_read(void **state)
{
    world w;
    esp_worker *worker = start(&w, 4);
    struct pollfd source = {.fd = esp_worker_fd(worker), .events = POLLIN};
    esp_event event;

    (void)state;
    assert_int_equal(esp_worker_busy(worker), 0);
    submit(worker, &w, run_letter, 'a', 0);
    assert_int_equal(esp_worker_busy(worker), 1);
    assert_int_equal(esp_worker_demanded(worker), 1);
    assert_int_equal(poll(&source, 1, -1), 1); /* the job is over now, but unread */
    assert_int_equal(esp_worker_busy(worker), 1);
    assert_true(esp_worker_next_event(worker, &event));
    assert_int_equal(esp_worker_busy(worker), 0);
    assert_int_equal(esp_worker_demanded(worker), 0);
    assert_false(esp_worker_next_event(worker, &event));
    assert_int_equal(poll(&source, 1, 0), 0);
    esp_worker_free(worker);
}

static void an_unread_notice_is_busy_and_comes_before_the_finish(void **state)
{
    world w;
    esp_worker *worker = start(&w, 4);
    esp_event event;

    (void)state;
    submit(worker, &w, run_gate, 'a', 0);
    sem_wait(&w.started);
    esp_worker_notice(worker);
    esp_worker_notice(worker);
    sem_post(&w.may_end);
    while (!esp_worker_next_event(worker, &event)) {
    }
    assert_int_equal(event.kind, ESP_EVENT_NOTICE);
    event = wait_finish(worker);
    assert_int_equal(event.status, ESP_OK);
    assert_int_equal(esp_worker_busy(worker), 0);
    esp_worker_free(worker);
}

static void a_full_worker_refuses_and_releases_the_job(void **state)
{
    world w;
    esp_worker *worker = start(&w, 2);
    letter_job *extra = esp_alloc_zero(1, sizeof *extra);
    esp_error err = {0};

    (void)state;
    submit(worker, &w, run_letter, 'a', 0);
    submit(worker, &w, run_letter, 'b', 0);
    extra->job = (esp_job){.title = "extra", .run = run_letter, .release = release_letter};
    extra->world = &w;
    expect_failure(esp_worker_submit(worker, &extra->job, NULL, &err), ESP_STATE, &err, "2 jobs");
    settle(worker);
    assert_string_equal(w.order, "ab");
    esp_worker_free(worker);
    assert_int_equal(w.released, 3);
}

static void urgent_jobs_run_before_waiting_ones(void **state)
{
    world w;
    esp_worker *worker = start(&w, 8);

    (void)state;
    submit(worker, &w, run_gate, 'g', 0);
    sem_wait(&w.started);
    submit(worker, &w, run_letter, 'a', 0);
    submit(worker, &w, run_letter, 'u', ESP_JOB_URGENT);
    submit(worker, &w, run_letter, 'v', ESP_JOB_URGENT);
    sem_post(&w.may_end);
    settle(worker);
    assert_string_equal(w.order, "guva");
    esp_worker_free(worker);
}

static void urgent_jobs_run_between_the_steps_of_a_long_one(void **state)
{
    world w;
    esp_worker *worker = start(&w, 8);

    (void)state;
    submit(worker, &w, run_steps, 's', 0);
    sem_wait(&w.started);
    submit(worker, &w, run_letter, 'a', 0);
    submit(worker, &w, run_letter, 'u', ESP_JOB_URGENT);
    sem_post(&w.may_end);
    settle(worker);
    assert_string_equal(w.order, "(us)a");
    esp_worker_free(worker);
}

static void any_job_displaces_a_background_job(void **state)
{
    world w;
    esp_worker *worker = start(&w, 8);
    int64_t background, asked;

    (void)state;
    background = submit(worker, &w, run_until_cancelled, 'b', ESP_JOB_BACKGROUND);
    sem_wait(&w.started);
    assert_int_equal(esp_worker_demanded(worker), 0);
    asked = submit(worker, &w, run_letter, 'a', 0);
    esp_event first = wait_finish(worker), second = wait_finish(worker);
    assert_int_equal(first.job, background);
    assert_int_equal(first.status, ESP_CANCELLED);
    assert_int_equal(second.job, asked);
    assert_int_equal(second.status, ESP_OK);
    esp_worker_free(worker);
}

static void a_waiting_background_job_is_dropped_without_running(void **state)
{
    world w;
    esp_worker *worker = start(&w, 8);
    int64_t background;

    (void)state;
    submit(worker, &w, run_gate, 'g', 0);
    sem_wait(&w.started);
    background = submit(worker, &w, run_letter, 'b', ESP_JOB_BACKGROUND);
    submit(worker, &w, run_letter, 'a', 0);
    sem_post(&w.may_end);
    for (int i = 0; i < 3; i++) {
        esp_event event = wait_finish(worker);
        assert_int_equal(event.status, event.job == background ? ESP_CANCELLED : ESP_OK);
    }
    assert_string_equal(w.order, "ga");
    esp_worker_free(worker);
}

static void cancel_reaches_running_and_waiting_jobs(void **state)
{
    world w;
    esp_worker *worker = start(&w, 8);
    int64_t running, waiting;

    (void)state;
    running = submit(worker, &w, run_until_cancelled, 'r', 0);
    waiting = submit(worker, &w, run_letter, 'w', 0);
    submit(worker, &w, run_letter, 'x', 0);
    sem_wait(&w.started);
    esp_worker_cancel(worker, waiting);
    esp_event event = wait_finish(worker);
    assert_int_equal(event.job, waiting);
    assert_int_equal(event.status, ESP_CANCELLED);
    esp_worker_cancel(worker, running);
    event = wait_finish(worker);
    assert_int_equal(event.job, running);
    assert_int_equal(event.status, ESP_CANCELLED);
    settle(worker);
    assert_string_equal(w.order, "x");
    esp_worker_free(worker);
}

static void a_failure_arrives_with_its_message(void **state)
{
    world w;
    esp_worker *worker = start(&w, 2);

    (void)state;
    submit(worker, &w, run_failing, 'f', 0);
    esp_event event = wait_finish(worker);
    assert_int_equal(event.status, ESP_SHAPE);
    assert_string_equal(event.error.message, "two and three do not fit");
    esp_worker_free(worker);
}

static void freeing_stops_what_runs_and_releases_what_waits(void **state)
{
    world w;
    esp_worker *worker = start(&w, 8);

    (void)state;
    submit(worker, &w, run_until_cancelled, 'r', 0);
    submit(worker, &w, run_letter, 'w', 0);
    sem_wait(&w.started);
    esp_worker_free(worker);
    assert_int_equal(w.released, 2);
    assert_string_equal(w.order, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_is_busy_from_submit_until_its_finish_was_read),
        cmocka_unit_test(an_unread_notice_is_busy_and_comes_before_the_finish),
        cmocka_unit_test(a_full_worker_refuses_and_releases_the_job),
        cmocka_unit_test(urgent_jobs_run_before_waiting_ones),
        cmocka_unit_test(urgent_jobs_run_between_the_steps_of_a_long_one),
        cmocka_unit_test(any_job_displaces_a_background_job),
        cmocka_unit_test(a_waiting_background_job_is_dropped_without_running),
        cmocka_unit_test(cancel_reaches_running_and_waiting_jobs),
        cmocka_unit_test(a_failure_arrives_with_its_message),
        cmocka_unit_test(freeing_stops_what_runs_and_releases_what_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
