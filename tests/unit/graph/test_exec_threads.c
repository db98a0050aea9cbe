/* The executor goes by the thread trial. The trial's two functions are defined here instead of linked: they
 * write down what the executor tells them, and decide what the test wants. Which threads computed is told by
 * the rounding mode, which every thread has for itself: the pool's were started when it was to nearest. */
#include <fenv.h>
#include <stdlib.h>
#include <string.h>

#include "graph/thread_trial.h"
#include "unit/graph/block_nets.h"

enum { RUNS = 40, BATCH = 4, CHANNELS = 48, SIZE = 14 };

static struct {
    bool is_alone;
    int asked, told, wrong; /* wrong: out of turn, or no time */
} trial;

bool esp_thread_trial_next(const esp_thread_trial *unused)
{
    (void)unused;
    trial.wrong += trial.asked++ != trial.told;
    return trial.is_alone;
}

void esp_thread_trial_record(esp_thread_trial *unused, double seconds)
{
    (void)unused;
    trial.wrong += ++trial.told != trial.asked || !(seconds > 0.0);
}

typedef struct fixture {
    esp_graph *graph;
    esp_exec *exec;
    esp_pool *pool;
    float *outputs[RUNS];
    int64_t count;
} fixture;

static fixture start(int threads)
{
    esp_error err = {0};
    fixture f = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S4(ESP_DIM_BATCH, CHANNELS, SIZE, SIZE));
    for (int i = 0; i < 3; i++)
        x = block_relu(&n, block_conv(&n, x, CHANNELS, CHANNELS, 3, 1));
    net_output(&n, block_classifier(&n, x, CHANNELS));
    f.graph = net_finish(&n);
    must(esp_pool_new(threads, &f.pool, &err), &err);
    f.exec = exec_new(f.graph, (esp_exec_options){.batch = BATCH, .slots = threads});
    memset(&trial, 0, sizeof trial);
    return f;
}

/* Runs on the same data, rounded upward by this thread. */
static void run_all(fixture *f, bool is_alone)
{
    esp_error err = {0};
    const esp_compute compute = {.pool = f->pool};
    const esp_view *y = esp_exec_output(f->exec, 0);
    esp_rng rng;
    f->count = view_count(y);
    trial.is_alone = is_alone;
    for (int r = 0; r < RUNS; r++) {
        const esp_view *x = esp_exec_input(f->exec, 0);
        esp_rng_seed(&rng, 3);
        fill_random(&rng, view_data(x), view_count(x), -1, 1);
        fesetround(FE_UPWARD);
        esp_status status = esp_exec_forward(f->exec, &compute, &err);
        fesetround(FE_TONEAREST);
        must(status, &err);
        f->outputs[r] = malloc((size_t)f->count * sizeof(float));
        assert_non_null(f->outputs[r]);
        memcpy(f->outputs[r], view_data(y), (size_t)f->count * sizeof(float));
    }
}

static void finish(fixture *f)
{
    for (int r = 0; r < RUNS; r++)
        free(f->outputs[r]);
    esp_exec_free(f->exec);
    esp_pool_free(f->pool);
    esp_graph_unref(f->graph);
}

/* The first run of an executor packs the weights, with or without the trial on all threads. */
static void expect_equal_runs(const fixture *f, const float *expected)
{
    for (int r = 1; r < RUNS; r++)
        assert_memory_equal(f->outputs[r], expected, (size_t)f->count * sizeof(float));
}

static void a_run_alone_stays_in_the_calling_thread(void **state)
{
    (void)state;
    fixture one = start(1), many = start(4);
    run_all(&one, false);
    run_all(&many, true);
    expect_equal_runs(&one, one.outputs[1]);
    expect_equal_runs(&many, one.outputs[1]);
    finish(&one);
    finish(&many);
}

static void every_run_asks_the_trial_and_tells_it_the_time(void **state)
{
    (void)state;
    for (int is_alone = 0; is_alone <= 1; is_alone++) {
        fixture f = start(2);
        run_all(&f, is_alone != 0);
        assert_int_equal(trial.asked, RUNS);
        assert_int_equal(trial.told, RUNS);
        assert_int_equal(trial.wrong, 0);
        finish(&f);
    }
}

static void one_thread_needs_no_trial(void **state)
{
    (void)state;
    fixture f = start(1);
    run_all(&f, true);
    assert_int_equal(trial.asked + trial.told, 0);
    finish(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_alone_stays_in_the_calling_thread),
        cmocka_unit_test(every_run_asks_the_trial_and_tells_it_the_time),
        cmocka_unit_test(one_thread_needs_no_trial),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
