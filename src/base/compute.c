/* The thread pool.
 *
 * A run is published by one write to the gate, a word with the number of the run, whether it is open, and how
 * many workers are inside. A worker that gets through the gate counts itself in, takes tasks from the shared
 * counter until none is left, and counts itself out. The caller works too, and then closes the gate, which
 * succeeds only while nobody is inside: after that no worker can read the run's fields, so the next run may
 * overwrite them. A worker that comes late finds no task or a closed gate; nobody waits for workers that are
 * still asleep.
 *
 * Between runs a worker spins, because kernels follow each other closely: at first without pity, then giving
 * way to whoever wants the core, and then it sleeps. The caller does the same when it waits for the last
 * worker. What either polls lies in a cache line of its own. The gate, `sleepers` and `caller_sleeps` are
 * sequentially consistent: either who changes something sees the sleeper, or the sleeper sees the change. */
#include "base/compute.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"

enum { MOST_THREADS = 1024 };

/* The gate: one bit says that it is open; below it workers are counted, above it runs. */
static const uint64_t gate_open = (uint64_t)1 << 16, gate_run = (uint64_t)1 << 17;

/* Waking a thread takes some 10 us, half of them in the caller of the run: worth a wait of many times that
 * between two runs that belong together, and nothing to an idle program. */
static const double spin_s = 20e-6, give_way_s = 200e-6;

struct esp_pool {
    /* The run; written by the caller while the gate is closed. */
    _Alignas(64) esp_task_fn *task;
    void *context;
    const esp_cancel *cancel;
    int64_t task_count;
    atomic_bool is_stopping;

    _Alignas(64) _Atomic int64_t next_task;
    atomic_bool is_cut_short; /* a task was left out because of the cancel token */

    _Alignas(64) _Atomic uint64_t gate;

    _Alignas(64) atomic_bool is_busy; /* some thread is in a run */
    _Atomic int sleepers;
    atomic_bool caller_sleeps;
    pthread_mutex_t mutex;
    pthread_cond_t has_work, is_done;
    struct worker *workers;
    int worker_count;
};

typedef struct worker {
    esp_pool *pool;
    pthread_t thread;
    int slot;
} worker;

/* Which slot of which pool this thread fills at the moment: a nested run keeps its slot, so that scratch
 * memory indexed by slot stays its own. */
static _Thread_local const esp_pool *current_pool;
static _Thread_local int current_slot;

void esp_cancel_request(esp_cancel *cancel)
{
    if (cancel)
        atomic_store_explicit(&cancel->requested, true, memory_order_release);
}

void esp_cancel_clear(esp_cancel *cancel)
{
    if (cancel)
        atomic_store_explicit(&cancel->requested, false, memory_order_release);
}

bool esp_cancel_is_requested(const esp_cancel *cancel)
{
    return cancel && atomic_load_explicit(&cancel->requested, memory_order_acquire);
}

static void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

/* One wait, as long as it spins. */
typedef struct patience {
    double start_s;
    unsigned polls;
    bool gives_way;
} patience;

/* Between two looks at what is waited for; false when it is time to sleep. Pauses are much shorter than a
 * look at the clock, giving way may be much longer. */
static bool wait_a_little(patience *wait)
{
    enum { PAUSES_PER_LOOK = 64 };

    if (wait->gives_way)
        sched_yield();
    else
        pause_briefly();
    if (++wait->polls % PAUSES_PER_LOOK != 0 && !wait->gives_way)
        return true;
    if (wait->start_s == 0.0)
        wait->start_s = esp_clock_s();
    double waited_s = esp_clock_s() - wait->start_s;
    wait->gives_way = waited_s > spin_s;
    return waited_s < give_way_s;
}

/* Takes tasks until none is left. */
static void work(esp_pool *pool, int slot)
{
    const esp_pool *outer_pool = current_pool;
    int outer_slot = current_slot;
    int64_t task;

    current_pool = pool;
    current_slot = slot;
    while ((task = atomic_fetch_add_explicit(&pool->next_task, 1, memory_order_relaxed)) < pool->task_count) {
        if (esp_cancel_is_requested(pool->cancel)) {
            atomic_store_explicit(&pool->is_cut_short, true, memory_order_relaxed);
            break;
        }
        pool->task(pool->context, task, slot);
    }
    current_pool = outer_pool;
    current_slot = outer_slot;
}

/* The number of the run in the gate. */
static uint64_t run_in(uint64_t gate)
{
    return gate / gate_run;
}

static bool has_news(esp_pool *pool, uint64_t seen)
{
    return run_in(atomic_load(&pool->gate)) != seen ||
           atomic_load_explicit(&pool->is_stopping, memory_order_acquire);
}

/* Waits for a run after number `seen`, or the end. */
static void await_run(esp_pool *pool, uint64_t seen)
{
    patience wait = {0};

    do {
        if (has_news(pool, seen))
            return;
    } while (wait_a_little(&wait));

    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    while (!has_news(pool, seen))
        pthread_cond_wait(&pool->has_work, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->mutex);
}

/* Through the gate, if it is open. Sets *seen to the run that was found. */
static bool join_run(esp_pool *pool, uint64_t *seen)
{
    uint64_t gate = atomic_load_explicit(&pool->gate, memory_order_relaxed);
    bool is_in = false;

    while (!is_in && (gate & gate_open) != 0)
        is_in = atomic_compare_exchange_weak_explicit(&pool->gate, &gate, gate + 1, memory_order_acquire,
                                                      memory_order_relaxed);
    *seen = run_in(gate);
    return is_in;
}

static void leave_run(esp_pool *pool)
{
    uint64_t before = atomic_fetch_sub(&pool->gate, 1);

    if ((before & (gate_open - 1)) == 1 && atomic_load(&pool->caller_sleeps)) {
        /* Under the mutex, so that the signal cannot fall between the caller's look and its sleep. */
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_signal(&pool->is_done);
        pthread_mutex_unlock(&pool->mutex);
    }
}

static void *worker_main(void *argument)
{
    worker *self = argument;
    esp_pool *pool = self->pool;
    uint64_t seen = 0;

    while (!atomic_load_explicit(&pool->is_stopping, memory_order_acquire)) {
        await_run(pool, seen);
        if (join_run(pool, &seen)) {
            work(pool, self->slot);
            leave_run(pool);
        }
    }
    return NULL;
}

static void open_gate(esp_pool *pool)
{
    /* Only the caller changes a closed gate. */
    uint64_t gate = atomic_load_explicit(&pool->gate, memory_order_relaxed);
    int sleepers;

    atomic_store(&pool->gate, gate + gate_run + gate_open);
    sleepers = atomic_load(&pool->sleepers);
    if (sleepers == 0)
        return;
    pthread_mutex_lock(&pool->mutex);
    if (pool->task_count > sleepers)
        pthread_cond_broadcast(&pool->has_work);
    else
        for (int64_t i = 1; i < pool->task_count; i++)
            pthread_cond_signal(&pool->has_work);
    pthread_mutex_unlock(&pool->mutex);
}

static bool try_close_gate(esp_pool *pool)
{
    uint64_t gate = atomic_load(&pool->gate);

    /* first a look, which leaves the line with the worker that will write to it */
    return (gate & (gate_open - 1)) == 0 &&
           atomic_compare_exchange_strong(&pool->gate, &gate, gate - gate_open);
}

static void close_gate(esp_pool *pool)
{
    patience wait = {0};

    do {
        if (try_close_gate(pool))
            return;
    } while (wait_a_little(&wait));

    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->caller_sleeps, true);
    while (!try_close_gate(pool))
        pthread_cond_wait(&pool->is_done, &pool->mutex);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->mutex);
}

static int usable_cores(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    return CPU_COUNT(&set) < MOST_THREADS ? CPU_COUNT(&set) : MOST_THREADS;
}

/* Signals belong to the threads of the program, not to workers: they start with all of them blocked. */
static int start_worker(worker *started)
{
    sigset_t all, before;
    int failure;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failure = pthread_create(&started->thread, NULL, worker_main, started);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failure;
}

esp_status esp_pool_new(int thread_count, esp_pool **out, esp_error *err)
{
    esp_pool *pool;

    *out = NULL;
    if (thread_count > MOST_THREADS)
        return esp_fail(err, ESP_INVALID, "thread pool: %d threads, expected at most %d", thread_count,
                        MOST_THREADS);
    if (thread_count <= 0)
        thread_count = usable_cores();
    pool = esp_alloc_zero(1, sizeof *pool);
    if (!pool)
        return esp_fail_memory(err, "thread pool", sizeof *pool);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->has_work, NULL);
    pthread_cond_init(&pool->is_done, NULL);
    pool->workers = esp_alloc_zero((size_t)thread_count, sizeof *pool->workers);
    if (!pool->workers) {
        esp_pool_free(pool);
        return esp_fail_memory(err, "thread pool", (size_t)thread_count * sizeof *pool->workers);
    }
    for (int slot = 1; slot < thread_count; slot++) {
        worker *started = &pool->workers[pool->worker_count];
        int failure;

        started->pool = pool;
        started->slot = slot;
        failure = start_worker(started);
        if (failure != 0) {
            esp_pool_free(pool);
            return esp_fail(err, ESP_IO, "thread pool: starting thread %d of %d: %s", slot + 1, thread_count,
                            strerror(failure));
        }
        pool->worker_count++;
    }
    *out = pool;
    return ESP_OK;
}

void esp_pool_free(esp_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->is_stopping, true);
    pthread_cond_broadcast(&pool->has_work);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 0; i < pool->worker_count; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->is_done);
    pthread_cond_destroy(&pool->has_work);
    pthread_mutex_destroy(&pool->mutex);
    esp_free(pool->workers);
    esp_free(pool);
}

int esp_pool_thread_count(const esp_pool *pool)
{
    return pool ? pool->worker_count + 1 : 1;
}

/* The run in the calling thread alone, tasks in order. */
static esp_status run_inline(const esp_compute *compute, int64_t task_count, esp_task_fn *task, void *context)
{
    const esp_pool *pool = compute ? compute->pool : NULL;
    int slot = pool && current_pool == pool ? current_slot : 0;

    for (int64_t i = 0; i < task_count; i++) {
        if (esp_compute_is_cancelled(compute))
            return ESP_CANCELLED;
        task(context, i, slot);
    }
    return ESP_OK;
}

esp_status esp_compute_run(const esp_compute *compute, int64_t task_count, esp_task_fn *task, void *context)
{
    esp_pool *pool = compute ? compute->pool : NULL;
    esp_status status;

    if (!pool || pool->worker_count == 0 || task_count <= 1 ||
        atomic_exchange_explicit(&pool->is_busy, true, memory_order_acquire))
        return run_inline(compute, task_count, task, context);

    pool->task = task;
    pool->context = context;
    pool->cancel = compute->cancel;
    pool->task_count = task_count;
    atomic_store_explicit(&pool->next_task, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->is_cut_short, false, memory_order_relaxed);
    open_gate(pool);
    work(pool, 0);
    close_gate(pool);
    status = atomic_load_explicit(&pool->is_cut_short, memory_order_relaxed) ? ESP_CANCELLED : ESP_OK;
    atomic_store_explicit(&pool->is_busy, false, memory_order_release);
    return status;
}

int esp_compute_slots(const esp_compute *compute)
{
    return compute ? esp_pool_thread_count(compute->pool) : 1;
}

bool esp_compute_is_cancelled(const esp_compute *compute)
{
    return compute && esp_cancel_is_requested(compute->cancel);
}

void esp_compute_report(const esp_compute *compute, const esp_progress *progress)
{
    if (compute && compute->on_progress)
        compute->on_progress(compute->progress_user, progress);
}
