/* The worker: waiting jobs in an ordered list, finishes in a ring, progress and notices in latest-wins slots,
 * all under one mutex.
 *
 * Invariants. `in_flight` counts jobs from submit until their finish was read and never exceeds `capacity`,
 * which is the size of the ring: a finish always has room, so the worker is never stuck on a reader that is
 * gone. The pipe holds a byte exactly while `is_signalled`. Urgent jobs run on the same thread, also between
 * the steps of a long job, from its progress report: the pool is idle there, and an urgent job sees the same
 * state as if it had been queued first. */
#include "study/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"

struct esp_worker {
    void *user;
    size_t capacity;
    esp_pool *pool;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t has_work;
    int pipe_read, pipe_write;

    /* under the mutex */
    esp_job *waiting;
    esp_job *running, *nested;
    esp_event *finishes; /* ring of `capacity` */
    size_t finish_first, finish_count, in_flight, demanded;
    int64_t last_id;
    bool is_stopping, is_signalled, has_notice, has_progress;
    esp_event progress;
};

/* ---- events out ---- */

static void signal_reader(esp_worker *worker) /* mutex held */
{
    ssize_t written = -1;

    if (worker->is_signalled)
        return;
    do {
        written = write(worker->pipe_write, "e", 1);
    } while (written < 0 && errno == EINTR);
    worker->is_signalled = written == 1;
}

static void clear_signal(esp_worker *worker) /* mutex held */
{
    char bytes[8];

    while (read(worker->pipe_read, bytes, sizeof bytes) > 0) {
    }
    worker->is_signalled = false;
}

static void push_finish(esp_worker *worker, const esp_job *job, esp_status status, const esp_error *error)
{
    size_t last = (worker->finish_first + worker->finish_count) % worker->capacity; /* mutex held */
    esp_event *event = &worker->finishes[last];

    memset(event, 0, sizeof *event);
    event->kind = ESP_EVENT_FINISHED;
    event->job = job->id;
    event->title = job->title;
    event->flags = job->flags;
    event->status = status;
    if (error && status != ESP_OK && status != ESP_CANCELLED)
        event->error = *error;
    worker->finish_count++;
    signal_reader(worker);
}

static void copy_text(char *target, size_t size, const char *source)
{
    size_t length = source ? strnlen(source, size - 1) : 0;

    if (length)
        memcpy(target, source, length);
    target[length] = '\0';
}

static void store_progress(esp_worker *worker, const esp_job *job, const esp_progress *progress)
{
    esp_progress_copy *copy = &worker->progress.progress; /* mutex held */

    memset(&worker->progress, 0, sizeof worker->progress);
    worker->progress.kind = ESP_EVENT_PROGRESS;
    worker->progress.job = job->id;
    worker->progress.title = job->title;
    copy_text(copy->stage, sizeof copy->stage, progress->stage);
    copy_text(copy->unit, sizeof copy->unit, progress->unit);
    copy_text(copy->detail, sizeof copy->detail, progress->detail);
    copy->done = progress->done;
    copy->total = progress->total;
    copy->rate = progress->rate;
    copy->eta_s = progress->eta_s;
    worker->has_progress = true;
    signal_reader(worker);
}

static size_t is_demanded(unsigned flags)
{
    return flags & (ESP_JOB_URGENT | ESP_JOB_BACKGROUND) ? 0 : 1;
}

bool esp_worker_next_event(esp_worker *worker, esp_event *out)
{
    bool found = true;

    pthread_mutex_lock(&worker->mutex);
    if (worker->has_notice) {
        worker->has_notice = false;
        memset(out, 0, sizeof *out);
        out->kind = ESP_EVENT_NOTICE;
        out->title = "";
    } else if (worker->has_progress) {
        worker->has_progress = false;
        *out = worker->progress;
    } else if (worker->finish_count > 0) {
        *out = worker->finishes[worker->finish_first];
        worker->finish_first = (worker->finish_first + 1) % worker->capacity;
        worker->finish_count--;
        worker->in_flight--;
        worker->demanded -= is_demanded(out->flags);
    } else {
        found = false;
        clear_signal(worker);
    }
    pthread_mutex_unlock(&worker->mutex);
    return found;
}

void esp_worker_notice(esp_worker *worker)
{
    pthread_mutex_lock(&worker->mutex);
    worker->has_notice = true;
    signal_reader(worker);
    pthread_mutex_unlock(&worker->mutex);
}

int esp_worker_fd(const esp_worker *worker)
{
    return worker->pipe_read;
}

size_t esp_worker_busy(esp_worker *worker)
{
    size_t busy;

    pthread_mutex_lock(&worker->mutex);
    busy = worker->in_flight + (worker->has_notice || worker->has_progress ? 1 : 0);
    pthread_mutex_unlock(&worker->mutex);
    return busy;
}

size_t esp_worker_demanded(esp_worker *worker)
{
    size_t demanded;

    pthread_mutex_lock(&worker->mutex);
    demanded = worker->demanded;
    pthread_mutex_unlock(&worker->mutex);
    return demanded;
}

int esp_worker_thread_count(const esp_worker *worker)
{
    return esp_pool_thread_count(worker->pool);
}

/* ---- jobs in ---- */

/* Moves every waiting job that `matches` out of the list, finishing it as cancelled; returns them for
 * release. */
static esp_job *take_waiting(esp_worker *worker, bool (*matches)(const esp_job *job, int64_t id), int64_t id)
{
    esp_job *taken = NULL; /* mutex held */
    esp_job **link = &worker->waiting;

    while (*link) {
        esp_job *job = *link;
        if (!matches(job, id)) {
            link = &job->next;
            continue;
        }
        *link = job->next;
        job->next = taken;
        taken = job;
        push_finish(worker, job, ESP_CANCELLED, NULL);
    }
    return taken;
}

static bool is_background(const esp_job *job, int64_t id)
{
    (void)id;
    return (job->flags & ESP_JOB_BACKGROUND) != 0;
}

static bool has_id(const esp_job *job, int64_t id)
{
    return job->id == id;
}

static bool is_any(const esp_job *job, int64_t id)
{
    (void)job;
    (void)id;
    return true;
}

static void release_list(esp_job *job)
{
    while (job) {
        esp_job *next = job->next;
        job->release(job);
        job = next;
    }
}

/* Behind the urgent ones when urgent, else at the end. */
static void insert(esp_worker *worker, esp_job *job) /* mutex held */
{
    esp_job **link = &worker->waiting;

    while (*link && (!(job->flags & ESP_JOB_URGENT) || ((*link)->flags & ESP_JOB_URGENT)))
        link = &(*link)->next;
    job->next = *link;
    *link = job;
}

esp_status esp_worker_submit(esp_worker *worker, esp_job *take_job, int64_t *out_id, esp_error *err)
{
    esp_job *displaced = NULL;
    bool is_taken;

    atomic_init(&take_job->cancel.requested, false);
    pthread_mutex_lock(&worker->mutex);
    is_taken = worker->in_flight < worker->capacity && !worker->is_stopping;
    if (is_taken) {
        take_job->id = ++worker->last_id;
        if (out_id)
            *out_id = take_job->id;
        displaced = take_waiting(worker, is_background, 0);
        if (worker->running && is_background(worker->running, 0))
            esp_cancel_request(&worker->running->cancel);
        insert(worker, take_job);
        worker->in_flight++;
        worker->demanded += is_demanded(take_job->flags);
        pthread_cond_signal(&worker->has_work);
    }
    pthread_mutex_unlock(&worker->mutex);
    release_list(displaced);
    if (!is_taken) {
        take_job->release(take_job);
        return esp_fail(err, ESP_STATE, "%zu jobs are waiting already: wait for one to end, or cancel",
                        worker->capacity);
    }
    return ESP_OK;
}

void esp_worker_cancel(esp_worker *worker, int64_t id)
{
    esp_job *taken;

    pthread_mutex_lock(&worker->mutex);
    taken = take_waiting(worker, has_id, id);
    if (worker->running && worker->running->id == id)
        esp_cancel_request(&worker->running->cancel);
    if (worker->nested && worker->nested->id == id)
        esp_cancel_request(&worker->nested->cancel);
    pthread_mutex_unlock(&worker->mutex);
    release_list(taken);
}

void esp_worker_cancel_all(esp_worker *worker)
{
    esp_job *taken;

    pthread_mutex_lock(&worker->mutex);
    taken = take_waiting(worker, is_any, 0);
    if (worker->running)
        esp_cancel_request(&worker->running->cancel);
    if (worker->nested)
        esp_cancel_request(&worker->nested->cancel);
    pthread_mutex_unlock(&worker->mutex);
    release_list(taken);
}

size_t esp_worker_waiting(esp_worker *worker, esp_job_run_fn *run)
{
    size_t count = 0;

    pthread_mutex_lock(&worker->mutex);
    for (const esp_job *job = worker->waiting; job; job = job->next)
        count += job->run == run ? 1 : 0;
    pthread_mutex_unlock(&worker->mutex);
    return count;
}

/* ---- the thread ---- */

static void on_progress(void *user, const esp_progress *progress);

/* Runs one job whose place (`running` or `nested`) already points to it. */
static void run_job(esp_worker *worker, esp_job **place)
{
    esp_job *job = *place;
    esp_error error = {0};
    esp_compute compute = {.pool = worker->pool, .cancel = &job->cancel};
    esp_status status;

    if (place == &worker->running) {
        compute.on_progress = on_progress;
        compute.progress_user = worker;
    }
    status = job->run(worker->user, job, &compute, &error);
    pthread_mutex_lock(&worker->mutex);
    *place = NULL;
    push_finish(worker, job, status, &error);
    pthread_mutex_unlock(&worker->mutex);
    job->release(job);
}

static bool take_urgent(esp_worker *worker)
{
    bool found;

    pthread_mutex_lock(&worker->mutex);
    found = worker->waiting && (worker->waiting->flags & ESP_JOB_URGENT) && !worker->nested &&
            !worker->is_stopping;
    if (found) {
        worker->nested = worker->waiting;
        worker->waiting = worker->nested->next;
        worker->nested->next = NULL;
    }
    pthread_mutex_unlock(&worker->mutex);
    return found;
}

static void on_progress(void *user, const esp_progress *progress)
{
    esp_worker *worker = user;

    pthread_mutex_lock(&worker->mutex);
    store_progress(worker, worker->running, progress);
    pthread_mutex_unlock(&worker->mutex);
    while (!(worker->running->flags & ESP_JOB_URGENT) && take_urgent(worker))
        run_job(worker, &worker->nested);
}

static void *run_thread(void *argument)
{
    esp_worker *worker = argument;

    for (;;) {
        pthread_mutex_lock(&worker->mutex);
        while (!worker->waiting && !worker->is_stopping)
            pthread_cond_wait(&worker->has_work, &worker->mutex);
        if (worker->is_stopping) {
            pthread_mutex_unlock(&worker->mutex);
            return NULL;
        }
        worker->running = worker->waiting;
        worker->waiting = worker->running->next;
        worker->running->next = NULL;
        pthread_mutex_unlock(&worker->mutex);
        run_job(worker, &worker->running);
    }
}

/* ---- life ---- */

static esp_status open_pipe(esp_worker *worker, esp_error *err)
{
    int ends[2];

    if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0)
        return esp_fail(err, ESP_IO, "worker: cannot make a pipe: %s", strerror(errno));
    worker->pipe_read = ends[0];
    worker->pipe_write = ends[1];
    return ESP_OK;
}

/* Threads of the engine never see signals: those belong to the UI thread. */
static esp_status start_threads(esp_worker *worker, int thread_count, esp_error *err)
{
    sigset_t all, before;
    esp_status status;
    int failure = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    status = esp_pool_new(thread_count, &worker->pool, err);
    if (status == ESP_OK)
        failure = pthread_create(&worker->thread, NULL, run_thread, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failure)
        status = esp_fail(err, ESP_IO, "worker: cannot start a thread: %s", strerror(failure));
    return status;
}

static void release_worker(esp_worker *worker)
{
    release_list(worker->waiting);
    esp_pool_free(worker->pool);
    if (worker->pipe_read >= 0)
        close(worker->pipe_read);
    if (worker->pipe_write >= 0)
        close(worker->pipe_write);
    pthread_mutex_destroy(&worker->mutex);
    pthread_cond_destroy(&worker->has_work);
    esp_free(worker->finishes);
    esp_free(worker);
}

esp_status esp_worker_new(size_t capacity, int thread_count, void *user, esp_worker **out, esp_error *err)
{
    esp_worker *worker;
    esp_status status;

    *out = NULL;
    if (capacity == 0)
        return esp_fail(err, ESP_INVALID, "worker: capacity is 0, expected at least 1");
    worker = esp_alloc_zero(1, sizeof *worker);
    if (!worker)
        return esp_fail_memory(err, "worker", sizeof *worker);
    worker->user = user;
    worker->capacity = capacity;
    worker->pipe_read = worker->pipe_write = -1;
    pthread_mutex_init(&worker->mutex, NULL); /* with default attributes these cannot fail on Linux */
    pthread_cond_init(&worker->has_work, NULL);
    worker->finishes = esp_alloc_zero(capacity, sizeof *worker->finishes);
    status = worker->finishes ? open_pipe(worker, err)
                              : esp_fail_memory(err, "worker events", capacity * sizeof *worker->finishes);
    if (status == ESP_OK)
        status = start_threads(worker, thread_count, err);
    if (status != ESP_OK) {
        release_worker(worker);
        return status;
    }
    *out = worker;
    return ESP_OK;
}

void esp_worker_free(esp_worker *worker)
{
    if (!worker)
        return;
    pthread_mutex_lock(&worker->mutex);
    worker->is_stopping = true;
    if (worker->running)
        esp_cancel_request(&worker->running->cancel);
    if (worker->nested)
        esp_cancel_request(&worker->nested->cancel);
    pthread_cond_signal(&worker->has_work);
    pthread_mutex_unlock(&worker->mutex);
    pthread_join(worker->thread, NULL);
    release_worker(worker);
}
