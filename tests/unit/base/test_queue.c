/* The queue: order, bounds, closing, and many threads at once. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/memory.h"
#include "base/queue.h"
#include "unit/base/scratch.h"

static void items_come_out_in_order_and_the_bound_holds(void **state)
{
    int items[3];
    esp_queue *queue;

    (void)state;
    assert_int_equal(esp_queue_new(2, &queue, NULL), ESP_OK);
    for (int round = 0; round < 5; round++) {
        assert_null(esp_queue_try_pop(queue));
        assert_true(esp_queue_try_push(queue, &items[0]));
        assert_true(esp_queue_push(queue, &items[1]));
        assert_false(esp_queue_try_push(queue, &items[2]));
        assert_int_equal(esp_queue_count(queue), 2);
        assert_ptr_equal(esp_queue_pop(queue), &items[0]);
        assert_true(esp_queue_try_push(queue, &items[2]));
        assert_ptr_equal(esp_queue_pop(queue), &items[1]);
        assert_ptr_equal(esp_queue_try_pop(queue), &items[2]);
    }
    esp_queue_free(queue);
}

static void a_closed_queue_drains_and_takes_nothing(void **state)
{
    int item;
    esp_queue *queue;

    (void)state;
    assert_int_equal(esp_queue_new(4, &queue, NULL), ESP_OK);
    assert_true(esp_queue_push(queue, &item));
    esp_queue_close(queue);
    assert_false(esp_queue_push(queue, &item));
    assert_false(esp_queue_try_push(queue, &item));
    assert_ptr_equal(esp_queue_pop(queue), &item);
    assert_null(esp_queue_pop(queue));
    esp_queue_free(queue);
    esp_queue_free(NULL);
}

enum { PRODUCERS = 3, CONSUMERS = 3, PER_PRODUCER = 2000 };

typedef struct shop {
    esp_queue *queue;
    atomic_int seen[PRODUCERS * PER_PRODUCER];
    atomic_int next_producer;
    atomic_int out_of_order;
} shop;

static shop the_shop;

static void *produce(void *argument)
{
    shop *at = argument;
    int first = atomic_fetch_add(&at->next_producer, 1) * PER_PRODUCER;

    for (int i = 0; i < PER_PRODUCER; i++)
        esp_queue_push(at->queue, &at->seen[first + i]);
    return NULL;
}

static void *consume(void *argument)
{
    shop *at = argument;
    atomic_int *last[PRODUCERS] = {NULL};

    for (atomic_int *item; (item = esp_queue_pop(at->queue));) {
        int producer = (int)(item - at->seen) / PER_PRODUCER;
        if (last[producer] && item < last[producer])
            atomic_fetch_add(&at->out_of_order, 1);
        last[producer] = item;
        atomic_fetch_add(item, 1);
    }
    return NULL;
}

static void every_item_crosses_threads_once_and_in_its_producers_order(void **state)
{
    pthread_t producers[PRODUCERS], consumers[CONSUMERS];

    (void)state;
    assert_int_equal(esp_queue_new(5, &the_shop.queue, NULL), ESP_OK);
    for (int i = 0; i < CONSUMERS; i++)
        assert_int_equal(pthread_create(&consumers[i], NULL, consume, &the_shop), 0);
    for (int i = 0; i < PRODUCERS; i++)
        assert_int_equal(pthread_create(&producers[i], NULL, produce, &the_shop), 0);
    for (int i = 0; i < PRODUCERS; i++)
        pthread_join(producers[i], NULL);
    esp_queue_close(the_shop.queue);
    for (int i = 0; i < CONSUMERS; i++)
        pthread_join(consumers[i], NULL);
    for (int i = 0; i < PRODUCERS * PER_PRODUCER; i++)
        assert_int_equal(atomic_load(&the_shop.seen[i]), 1);
    assert_int_equal(atomic_load(&the_shop.out_of_order), 0);
    esp_queue_free(the_shop.queue);
}

typedef struct waiter {
    esp_queue *queue;
    pthread_barrier_t is_about_to_wait;
} waiter;

static void *push_and_report(void *argument)
{
    waiter *self = argument;
    int item;

    pthread_barrier_wait(&self->is_about_to_wait);
    return esp_queue_push(self->queue, &item) ? self : NULL;
}

static void *pop_and_report(void *argument)
{
    waiter *self = argument;

    pthread_barrier_wait(&self->is_about_to_wait);
    return esp_queue_pop(self->queue);
}

/* Closes a queue on which a thread waits, and expects that it comes back with nothing. That the thread is
 * already asleep cannot be seen from outside, so this is done often, with some time given away each time. */
static void close_under(void *wait(void *), bool is_full)
{
    enum { ROUNDS = 200 };

    for (int round = 0; round < ROUNDS; round++) {
        waiter waiting;
        pthread_t thread;
        void *result;
        int item;

        assert_int_equal(esp_queue_new(1, &waiting.queue, NULL), ESP_OK);
        pthread_barrier_init(&waiting.is_about_to_wait, NULL, 2);
        if (is_full)
            assert_true(esp_queue_push(waiting.queue, &item));
        assert_int_equal(pthread_create(&thread, NULL, wait, &waiting), 0);
        pthread_barrier_wait(&waiting.is_about_to_wait);
        for (int i = 0; i < round; i++)
            sched_yield();
        esp_queue_close(waiting.queue);
        pthread_join(thread, &result);
        assert_null(result);
        pthread_barrier_destroy(&waiting.is_about_to_wait);
        esp_queue_free(waiting.queue);
    }
}

static void closing_wakes_a_waiting_producer(void **state)
{
    (void)state;
    close_under(push_and_report, true);
}

static void closing_wakes_a_waiting_consumer(void **state)
{
    (void)state;
    close_under(pop_and_report, false);
}

static void making_a_queue_reports_what_is_wrong(void **state)
{
    size_t before = esp_memory_live();
    esp_error err = {0};
    esp_queue *queue;

    (void)state;
    assert_int_equal(esp_queue_new(0, &queue, &err), ESP_INVALID);
    for (int k = 1; k <= 2; k++) {
        esp_memory_fuse(k);
        assert_int_equal(esp_queue_new(3, &queue, &err), ESP_NO_MEMORY);
        esp_memory_fuse(0);
        assert_null(queue);
        assert_int_equal(esp_memory_live(), before);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_come_out_in_order_and_the_bound_holds),
        cmocka_unit_test(a_closed_queue_drains_and_takes_nothing),
        cmocka_unit_test(every_item_crosses_threads_once_and_in_its_producers_order),
        cmocka_unit_test(closing_wakes_a_waiting_producer),
        cmocka_unit_test(closing_wakes_a_waiting_consumer),
        cmocka_unit_test(making_a_queue_reports_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
