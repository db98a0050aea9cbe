/* One thread that runs jobs in order and tells, through events, what became of them.
 *
 * Jobs go in with esp_worker_submit; events come out with esp_worker_next_event, which belongs to one reader
 * (the UI thread). A file descriptor wakes the reader's poll(). A job counts as busy from the moment it is
 * submitted until the event that it finished was read, so "not busy" means: nothing queued, nothing running,
 * nothing unread. */
#ifndef ESP_STUDY_WORKER_H
#define ESP_STUDY_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compute.h"

typedef struct esp_worker esp_worker;
typedef struct esp_job esp_job;

typedef enum esp_job_flag {
    ESP_JOB_URGENT =
        1, /* runs before waiting jobs, and between the steps of a running one that is not urgent */
    ESP_JOB_BACKGROUND = 2, /* gives way: is cancelled, waiting or running, when any other job is submitted */
} esp_job_flag;

/* What to run. Embedded as the first member of a job with data. `user` is the worker's. */
typedef esp_status esp_job_run_fn(void *user, esp_job *job, const esp_compute *compute, esp_error *err);

struct esp_job {
    const char *title; /* static storage: "fine-tune" */
    unsigned flags;    /* esp_job_flag */
    esp_job_run_fn *run;
    void (*release)(
        esp_job *take_job); /* frees the job; called once, on the worker thread or by the submitter */
    /* the worker's own */
    int64_t id;
    esp_cancel cancel;
    esp_job *next;
};

typedef enum esp_event_kind {
    ESP_EVENT_NOTICE,   /* esp_worker_notice was called: there is something new to look at */
    ESP_EVENT_PROGRESS, /* the latest progress; earlier unread progress is lost */
    ESP_EVENT_FINISHED, /* a job is over: `status`, and `error` when it is neither ESP_OK nor ESP_CANCELLED */
} esp_event_kind;

/* esp_progress with its own copies of the texts. */
typedef struct esp_progress_copy {
    char stage[32];
    double done, total;
    char unit[16];
    double rate, eta_s;
    char detail[160];
} esp_progress_copy;

typedef struct esp_event {
    esp_event_kind kind;
    int64_t job;       /* 0 for notices */
    const char *title; /* the job's; "" for notices */
    unsigned flags;    /* the job's */
    esp_status status;
    esp_error error;
    esp_progress_copy progress;
} esp_event;

/* `capacity`: jobs that may be busy at once. `thread_count` as in esp_pool_new. `user` is passed to the jobs.
 */
esp_status esp_worker_new(size_t capacity, int thread_count, void *user, esp_worker **out, esp_error *err);

/* Cancels everything, waits for the thread, releases what is left. NULL is allowed. */
void esp_worker_free(esp_worker *worker);

/* Queues a job, which belongs to the worker from now on, whatever comes back. ESP_STATE when `capacity` jobs
 * are busy. May be called from the worker thread itself. `out_id` may be NULL. */
esp_status esp_worker_submit(esp_worker *worker, esp_job *take_job, int64_t *out_id, esp_error *err);

/* Asks a job to stop; one that has not started is over at once, with ESP_CANCELLED. Unknown ids are nothing.
 */
void esp_worker_cancel(esp_worker *worker, int64_t id);
void esp_worker_cancel_all(esp_worker *worker);

/* From within a job: tells the reader that something changed. Several unread notices are one. */
void esp_worker_notice(esp_worker *worker);

/* Number of waiting jobs whose `run` is this function: a job may leave work to the next of its kind. */
size_t esp_worker_waiting(esp_worker *worker, esp_job_run_fn *run);

/* The next event; false when there is none. Order: notice, progress, finished; so what a job announced is
 * always seen before its end. */
bool esp_worker_next_event(esp_worker *worker, esp_event *out);

/* Readable while there are events. */
int esp_worker_fd(const esp_worker *worker);

/* Jobs submitted whose finish was not read; plus one when a notice or progress is unread. 0 means idle. */
size_t esp_worker_busy(esp_worker *worker);

/* Of those, the jobs that are neither urgent nor in the background: what a user would call a running job. */
size_t esp_worker_demanded(esp_worker *worker);

int esp_worker_thread_count(const esp_worker *worker);

#endif
