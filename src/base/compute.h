/* How work runs: a cancel token, a thread pool, and the context that carries both down to the kernels. */
#ifndef ESP_BASE_COMPUTE_H
#define ESP_BASE_COMPUTE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* A cancel token: one atomic flag, set by anyone, polled by kernels per tile, layer, batch and k-means step.
 */
typedef struct esp_cancel {
    atomic_bool requested;
} esp_cancel;

void esp_cancel_request(esp_cancel *cancel);
void esp_cancel_clear(esp_cancel *cancel);
bool esp_cancel_is_requested(const esp_cancel *cancel); /* NULL: never */

/* A pool of worker threads; the caller of esp_compute_run is one of them, so a pool of 1 starts no thread.
 * Idle workers spin for a moment, then sleep. One run at a time: a run that begins while another is going on,
 * in a task of that one or in another thread, executes its tasks inline in the calling thread. It never waits
 * and the result is the same. A nested run keeps the slot of its task, so per-slot scratch memory stays one
 * thread's own; a run of an unrelated thread uses slot 0, and must bring its own scratch memory. Workers
 * block all signals. */
typedef struct esp_pool esp_pool;

/* `thread_count` <= 0 means one per core this process may use. */
esp_status esp_pool_new(int thread_count, esp_pool **out, esp_error *err);
void esp_pool_free(esp_pool *pool);
int esp_pool_thread_count(const esp_pool *pool); /* NULL: 1 */

/* One task of a run. `task` is in [0, task_count); `slot` in [0, thread_count) names the executing thread,
 * for per-thread scratch memory. What a task computes must depend on `task` only, never on `slot`. */
typedef void esp_task_fn(void *context, int64_t task, int slot);

/* Everything long takes one of these, borrowed. NULL members are allowed: no pool = the calling thread only.
 */
typedef struct esp_progress esp_progress;
typedef void esp_progress_fn(void *user, const esp_progress *progress);
typedef struct esp_compute {
    esp_pool *pool;
    const esp_cancel *cancel;
    esp_progress_fn
        *on_progress; /* called from the thread that runs the job, at most some 20 times a second */
    void *progress_user;
} esp_compute;

/* Progress of a job. Strings are valid during the call only. */
struct esp_progress {
    const char *stage;        /* "train", "evaluate", "cluster", ... */
    double done, total;       /* in `unit`; total 0 when it is not known */
    const char *unit;         /* "images", "layers", ... */
    double rate;              /* units per second; 0 when not known */
    double eta_s;             /* seconds left; negative when not known */
    const char *detail;       /* e.g. "epoch 2/10 loss 0.412 top-1 84.1%"; may be "" */
    double loss, share_right; /* training: of the epoch so far, what `detail` says; 0 elsewhere */
};

/* Runs task_count tasks and returns when all are done. The number of tasks must depend on the problem, never
 * on the number of threads: that is what makes results bit-identical for any thread count. Polls the cancel
 * token before every task: ESP_CANCELLED when it was set (some tasks have then not run). `compute` may be
 * NULL. */
esp_status esp_compute_run(const esp_compute *compute, int64_t task_count, esp_task_fn *task, void *context);

/* Number of slots a task may see: the size for per-thread scratch arrays. */
int esp_compute_slots(const esp_compute *compute);

bool esp_compute_is_cancelled(const esp_compute *compute);

/* Calls on_progress when there is one. */
void esp_compute_report(const esp_compute *compute, const esp_progress *progress);

#endif
