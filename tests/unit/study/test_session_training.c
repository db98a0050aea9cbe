/* Trainings of a session that are stopped, killed, and gone on with. Truth: the same training in one go. */
/* labels: threads */
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "unit/study/tiny_study.h"

typedef struct place {
    char *directory;
    char study[600];
} place;

static place make_place(void)
{
    place p = {.directory = scratch_make()};

    tiny_study_write(p.directory);
    snprintf(p.study, sizeof p.study, "%s", scratch_path(p.directory, "study"));
    return p;
}

static bool has_checkpoint(const place *p)
{
    char path[700];

    snprintf(path, sizeof path, "%s/training.ckpt", p->study);
    return esp_file_exists(path);
}

#define LONG_EPOCHS 40

/* Long enough to be stopped on the way, with everything random in it. */
static esp_finetune long_training(void)
{
    esp_finetune options = tiny_finetune(LONG_EPOCHS, 0.02);

    options.flips = true;
    options.crop = 1;
    options.checkpoint_seconds = 0.01;
    return options;
}

/* Returns once a snapshot is as wanted. */
static void wait_until(esp_session *session, bool (*is_so)(const esp_snapshot *snapshot))
{
    struct pollfd source = {.fd = esp_session_fd(session), .events = POLLIN};
    bool is_there = false;

    while (!is_there) {
        esp_event event;
        const esp_snapshot *snapshot;
        if (!esp_session_next_event(session, &event)) {
            poll(&source, 1, -1);
            continue;
        }
        snapshot = esp_session_snapshot(session);
        is_there = is_so(snapshot);
        esp_shared_unref(snapshot);
    }
}

static bool is_kept(const esp_snapshot *snapshot)
{
    return snapshot->unfinished.version != 0;
}

/* An epoch was better than the start. */
static bool is_better(const esp_snapshot *snapshot)
{
    const esp_training_log *log = snapshot->training;

    for (int i = 0; log && i < log->count; i++)
        if (log->points[i].is_best && log->points[i].epoch > 0)
            return true;
    return false;
}

/* Starts a training and returns once a checkpoint was written. */
static void train_until_checkpoint(esp_session *session)
{
    const esp_finetune options = long_training();
    esp_error err = {0};

    expect_ok(esp_session_finetune(session, &options, &err), &err);
    wait_until(session, is_kept);
}

/* The graph of the newest version; own reference. */
static esp_graph *newest(esp_session *session)
{
    const esp_snapshot *snapshot = esp_session_snapshot(session);
    const esp_versions *versions = snapshot->versions;
    esp_graph *graph = esp_graph_ref(versions->items[versions->count - 1].graph);

    esp_shared_unref(snapshot);
    assert_non_null(graph);
    return graph;
}

/* What the training gives in one go. */
static esp_graph *train_in_one_go(void)
{
    place p = make_place();
    esp_session *session = tiny_session(p.directory, NULL, true, true);
    const esp_finetune options = long_training();
    esp_graph *graph;
    esp_error err = {0};

    expect_ok(esp_session_finetune(session, &options, &err), &err);
    tiny_study_settle(session, false, NULL);
    graph = newest(session);
    esp_session_free(session);
    scratch_remove(p.directory);
    return graph;
}

static void resume_and_compare(esp_session *session, const place *p)
{
    esp_graph *expected = train_in_one_go(), *resumed;
    const esp_snapshot *snapshot;
    esp_error err = {0};

    expect_ok(esp_session_resume(session, &err), &err);
    tiny_study_settle(session, false, NULL);
    resumed = newest(session);
    assert_true(same_constants(resumed, expected));
    snapshot = esp_session_snapshot(session);
    assert_int_equal(snapshot->unfinished.version, 0);
    assert_true(snapshot->training->resumed_at > 0);
    assert_true(snapshot->training->points[0].epoch <
                snapshot->training->resumed_at);        /* the curve is whole */
    for (int i = 1; i < snapshot->training->count; i++) /* and does not begin again */
        assert_true(snapshot->training->points[i].epoch >= snapshot->training->points[i - 1].epoch);
    esp_shared_unref(snapshot);
    assert_false(has_checkpoint(p));
    esp_graph_unref(resumed);
    esp_graph_unref(expected);
}

static void a_stopped_training_goes_on_bit_for_bit_in_another_session(void **state)
{
    place p = make_place();
    esp_session *session = tiny_session(p.directory, p.study, true, true);

    (void)state;
    train_until_checkpoint(session);
    esp_session_cancel(session);
    assert_int_equal(tiny_study_settle(session, false, NULL), 1);
    assert_true(has_checkpoint(&p));
    esp_session_free(session);
    session = tiny_session(p.directory, p.study, false, false); /* the checkpoint knows the data */
    const esp_snapshot *snapshot = esp_session_snapshot(session);
    assert_int_equal(snapshot->unfinished.version, 1);
    assert_true(snapshot->unfinished.position > 0 && snapshot->unfinished.position < LONG_EPOCHS);
    assert_non_null(strstr(snapshot->message, "T goes on with it"));
    assert_false(snapshot->data.is_open);
    assert_non_null(snapshot->training); /* its curve is there before anybody goes on with it */
    assert_true(snapshot->training->count > 0 && !snapshot->training->is_running);
    assert_true(snapshot->training->points[snapshot->training->count - 1].epoch ==
                snapshot->unfinished.position);
    esp_shared_unref(snapshot);
    resume_and_compare(session, &p);
    esp_session_free(session);
    scratch_remove(p.directory);
}

/* The child trains until it was killed: a crash at its worst. */
static void train_in_child(const place *p, int told)
{
    esp_session *session = tiny_session(p->directory, p->study, true, true);

    train_until_checkpoint(session);
    assert_int_equal(write(told, "k", 1), 1);
    for (;;)
        pause();
}

static void a_killed_training_goes_on_bit_for_bit(void **state)
{
    place p = make_place();
    int ends[2];
    char byte;
    pid_t child;

    (void)state;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (child == 0)
        train_in_child(&p, ends[1]);
    close(ends[1]);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    close(ends[0]);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    esp_session *session = tiny_session(p.directory, p.study, false, true);
    const esp_snapshot *snapshot = esp_session_snapshot(session);
    assert_int_equal(snapshot->unfinished.version, 1);
    assert_int_equal(snapshot->versions->count, 1);
    esp_shared_unref(snapshot);
    resume_and_compare(session, &p);
    esp_session_free(session);
    scratch_remove(p.directory);
}

static void a_session_without_a_study_goes_on_too_and_leaves_nothing_behind(void **state)
{
    place p = make_place();
    char temporary[600];
    esp_session *session;

    (void)state;
    snprintf(temporary, sizeof temporary, "%s", scratch_path(p.directory, "temporary"));
    esp_error err = {0};
    expect_ok(esp_directory_make(temporary, &err), &err);
    const char *before = getenv("TMPDIR");
    char *kept = before ? strdup(before) : NULL;
    setenv("TMPDIR", temporary, 1);
    session = tiny_session(p.directory, NULL, true, true);
    train_until_checkpoint(session);
    assert_int_equal(scratch_count(temporary), 1);
    esp_session_cancel(session);
    tiny_study_settle(session, false, NULL);
    const esp_snapshot *snapshot = esp_session_snapshot(session);
    assert_int_equal(snapshot->unfinished.version, 1);
    esp_shared_unref(snapshot);
    expect_ok(esp_session_resume(session, &err), &err);
    esp_session_cancel(session);
    tiny_study_settle(session, false, NULL);
    esp_session_free(session);
    assert_int_equal(scratch_count(temporary), 0);
    if (kept)
        setenv("TMPDIR", kept, 1);
    else
        unsetenv("TMPDIR");
    free(kept);
    scratch_remove(p.directory);
}

static void another_training_ends_what_was_stopped(void **state)
{
    place p = make_place();
    esp_session *session = tiny_session(p.directory, p.study, true, true);
    const esp_finetune options = tiny_finetune(1, 0.01);
    esp_error err = {0};

    (void)state;
    train_until_checkpoint(session);
    esp_session_cancel(session);
    tiny_study_settle(session, false, NULL);
    expect_ok(esp_session_finetune(session, &options, &err), &err);
    tiny_study_settle(session, false, NULL);
    assert_false(has_checkpoint(&p));
    expect_ok(esp_session_resume(session, &err), &err);
    tiny_study_settle(session, true, &err);
    expect_failure(err.code, ESP_STATE, &err, "no unfinished training");
    esp_session_free(session);
    session = tiny_session(p.directory, p.study, false, false);
    const esp_snapshot *snapshot = esp_session_snapshot(session);
    assert_int_equal(snapshot->unfinished.version, 0);
    assert_true(snapshot->finetune.epochs == 1); /* the form is filled in as it was */
    assert_int_equal(snapshot->finetune.batch, 16);
    esp_shared_unref(snapshot);
    esp_session_free(session);
    scratch_remove(p.directory);
}

static void a_damaged_checkpoint_is_named_and_changes_nothing(void **state)
{
    place p = make_place();
    esp_session *session = tiny_session(p.directory, p.study, true, true);
    char path[700];
    esp_error err = {0};

    (void)state;
    train_until_checkpoint(session);
    esp_session_cancel(session);
    tiny_study_settle(session, false, NULL);
    snprintf(path, sizeof path, "%s/training.ckpt", p.study);
    scratch_write(path, "nothing", 7);
    expect_ok(esp_session_resume(session, &err), &err);
    tiny_study_settle(session, true, &err);
    expect_failure(err.code, ESP_FORMAT, &err, "training.ckpt");
    esp_session_free(session);
    scratch_remove(p.directory);
}

static void stopping_keeps_the_best_epoch_and_offers_the_rest(void **state)
{
    place p = make_place();
    esp_session *session = tiny_session(p.directory, p.study, true, true);
    const esp_finetune options = tiny_finetune(10000, 0.02);
    esp_error err = {0};

    (void)state;
    expect_ok(esp_session_finetune(session, &options, &err), &err);
    wait_until(session, is_better);
    esp_session_cancel(session);
    tiny_study_settle(session, false, NULL);
    const esp_snapshot *snapshot = esp_session_snapshot(session);
    assert_int_equal(snapshot->current, 2);
    assert_non_null(strstr(esp_snapshot_current(snapshot)->title, "(stopped)"));
    assert_int_equal(snapshot->unfinished.version, 1);
    assert_non_null(strstr(snapshot->message, "T goes on"));
    esp_shared_unref(snapshot);
    esp_session_free(session);
    scratch_remove(p.directory);
}

static bool says_it_goes_on(const esp_snapshot *snapshot)
{
    return strstr(snapshot->message, "; the training goes on") != NULL;
}

/* A directory stands where the file should be: what fails here fails as a full disk does, when it is written.
 */
static void a_checkpoint_that_cannot_be_written_is_told_and_ends_nothing(void **state)
{
    place p = make_place();
    esp_session *session = tiny_session(p.directory, p.study, true, true);
    const esp_finetune options = long_training();
    char path[700];
    esp_error err = {0};

    (void)state;
    snprintf(path, sizeof path, "%s/training.ckpt/in-the-way", p.study);
    expect_ok(esp_directory_make(path, &err), &err);
    expect_ok(esp_session_finetune(session, &options, &err), &err);
    wait_until(session, says_it_goes_on);
    tiny_study_settle(session, false, NULL);
    const esp_snapshot *snapshot = esp_session_snapshot(session);
    assert_int_equal(snapshot->current, 2);
    assert_int_equal(snapshot->unfinished.version, 0);
    esp_shared_unref(snapshot);
    esp_session_free(session);
    scratch_remove(p.directory);
}

static bool is_training(const esp_snapshot *snapshot)
{
    return snapshot->training != NULL;
}

static void a_version_that_the_study_cannot_take_stays_in_memory(void **state)
{
    place p = make_place();
    esp_session *session = tiny_session(p.directory, p.study, true, true);
    const esp_finetune options = tiny_finetune(3, 0.05);
    char path[700];
    esp_error err = {0};

    (void)state;
    snprintf(path, sizeof path, "%s/versions/0002.onnx/in-the-way", p.study);
    expect_ok(esp_directory_make(path, &err), &err);
    expect_ok(esp_session_finetune(session, &options, &err), &err);
    tiny_study_settle(session, false, NULL);
    const esp_snapshot *snapshot = esp_session_snapshot(session);
    assert_int_equal(snapshot->current, 2);
    assert_false(esp_snapshot_current(snapshot)->is_saved);
    assert_non_null(strstr(snapshot->message, "the study cannot take version 2"));
    assert_non_null(strstr(snapshot->message, "fine-tuned"));
    esp_shared_unref(snapshot);
    expect_ok(esp_session_evaluate(session, &err), &err); /* all else goes on with it */
    tiny_study_settle(session, false, NULL);
    tiny_cut(session, 0.4);
    snapshot = esp_session_snapshot(session);
    assert_int_equal(snapshot->current, 3);
    assert_int_equal(esp_versions_find(snapshot->versions, 2)->metrics.eval_images, TINY_TEST_IMAGES);
    esp_shared_unref(snapshot);
    esp_session_free(session);
    session = tiny_session(p.directory, p.study, false, false);
    snapshot = esp_session_snapshot(session);
    assert_int_equal(snapshot->versions->count, 1);
    assert_int_equal(snapshot->current, 1);
    esp_shared_unref(snapshot);
    esp_session_free(session);
    scratch_remove(p.directory);
}

static void two_programs_in_a_study_leave_each_others_training_alone(void **state)
{
    place p = make_place();
    esp_session *first = tiny_session(p.directory, p.study, true, true), *second;
    const esp_finetune options = tiny_finetune(10000, 0.02), short_one = tiny_finetune(1, 0.01);
    esp_error err = {0};

    (void)state;
    expect_ok(esp_session_finetune(first, &options, &err), &err);
    wait_until(first, is_kept);
    assert_true(has_checkpoint(&p));
    second = tiny_session(p.directory, p.study, false, true);
    const esp_snapshot *snapshot = esp_session_snapshot(second);
    assert_int_equal(snapshot->unfinished.version, 0);
    esp_shared_unref(snapshot);
    expect_ok(esp_session_finetune(second, &short_one, &err), &err);
    wait_until(second, is_training);
    snapshot = esp_session_snapshot(second);
    assert_false(snapshot->keeps_training); /* nobody is promised that it can be gone on with */
    esp_shared_unref(snapshot);
    tiny_study_settle(second, true, &err); /* the version it makes may have the number of another */
    assert_true(has_checkpoint(&p));
    esp_session_free(second);
    esp_session_cancel(first);
    tiny_study_settle(first, true, &err);
    assert_true(has_checkpoint(&p));
    esp_session_free(first);
    scratch_remove(p.directory);
}

static void a_study_opens_its_data_again_when_asked(void **state)
{
    place p = make_place();
    esp_session *session = tiny_session(p.directory, p.study, true, true);
    const esp_session_options options = {
        .study_directory = p.study, .thread_count = 1, .calibration_images = 40, .recalls_data = true};
    const esp_snapshot *snapshot;
    char gone[700];
    esp_error err = {0};

    (void)state;
    esp_session_free(session);
    for (int is_gone = 0; is_gone < 2; is_gone++) {
        expect_ok(esp_session_new(&options, &session, &err), &err);
        expect_ok(esp_session_open(session, NULL, &err), &err);
        tiny_study_settle(session, false, NULL);
        snapshot = esp_session_snapshot(session);
        assert_int_equal(snapshot->data.is_open, !is_gone);
        assert_int_equal(snapshot->current, 1);
        if (is_gone)
            assert_non_null(strstr(snapshot->message, "the study's data"));
        esp_shared_unref(snapshot);
        esp_session_free(session);
        snprintf(gone, sizeof gone, "%s", scratch_path(p.directory, "elsewhere"));
        if (!is_gone)
            assert_int_equal(rename(scratch_path(p.directory, "data"), gone), 0);
    }
    scratch_remove(p.directory);
}

/* Of every image that is trained on, what a split of the training images would leave. */
static void the_data_s_own_validation_images_are_used(void **state)
{
    place p = make_place();
    esp_session *session = tiny_session(p.directory, NULL, true, false);
    const esp_finetune options = tiny_finetune(2, 0.05);
    char spec[700];
    esp_error err = {0};

    (void)state;
    snprintf(spec, sizeof spec, "idx:%s?val=0.25", scratch_path(p.directory, "data"));
    expect_ok(esp_session_open_data(session, spec, &err), &err);
    expect_ok(esp_session_finetune(session, &options, &err), &err);
    tiny_study_settle(session, false, NULL);
    const esp_snapshot *snapshot = esp_session_snapshot(session);
    assert_int_equal(snapshot->data.validation_count, TINY_TRAIN_IMAGES / 4);
    assert_int_equal(snapshot->data.train_count, TINY_TRAIN_IMAGES - TINY_TRAIN_IMAGES / 4);
    assert_false(snapshot->training->is_on_test);
    for (int i = 0; i < snapshot->training->count; i++) {
        const esp_training_point *point = &snapshot->training->points[i];
        double right = point->is_validated ? point->top1 * TINY_TRAIN_IMAGES / 400.0 : 0.0;
        assert_true(fabs(right - round(right)) < 1e-6); /* a share of 24 images, not of 7 */
    }
    esp_shared_unref(snapshot);
    esp_session_free(session);
    scratch_remove(p.directory);
}

static void validating_on_the_test_set_measures_the_version(void **state)
{
    place p = make_place();
    esp_session *session = tiny_session(p.directory, NULL, true, true);
    esp_finetune options = tiny_finetune(3, 0.05);
    esp_error err = {0};

    (void)state;
    options.validation = 0;
    expect_ok(esp_session_finetune(session, &options, &err), &err);
    tiny_study_settle(session, false, NULL);
    const esp_snapshot *snapshot = esp_session_snapshot(session);
    assert_int_equal(snapshot->current, 2);
    assert_true(snapshot->training->is_on_test);
    assert_true(esp_snapshot_current(snapshot)->metrics.eval_is_full);
    assert_int_equal(esp_snapshot_current(snapshot)->metrics.eval_images, TINY_TEST_IMAGES);
    esp_shared_unref(snapshot);
    esp_session_free(session);
    scratch_remove(p.directory);
}

static void a_frozen_layer_stays_and_the_options_are_in_the_history(void **state)
{
    place p = make_place();
    esp_session *session = tiny_session(p.directory, NULL, true, true);
    esp_finetune options = tiny_finetune(3, 0.05);
    esp_error err = {0};

    (void)state;
    const esp_snapshot *before = esp_session_snapshot(session);
    const esp_layers *layers = &esp_snapshot_preview(before)->layers;
    snprintf(options.freeze, sizeof options.freeze, "%s", layers->items[0].name);
    options.label_smoothing = 0.1;
    expect_ok(esp_session_finetune(session, &options, &err), &err);
    tiny_study_settle(session, false, NULL);
    const esp_snapshot *after = esp_session_snapshot(session);
    assert_int_equal(after->current, 2);
    for (int l = 0; l < 2; l++) {
        const esp_tensor *old =
            esp_graph_value(esp_snapshot_preview(before)->graph, layers->items[l].weight)->constant;
        const esp_tensor *now = esp_graph_value(esp_snapshot_preview(after)->graph,
                                                esp_snapshot_preview(after)->layers.items[l].weight)
                                    ->constant;
        bool is_same = memcmp(esp_tensor_data(old), esp_tensor_data(now),
                              (size_t)esp_tensor_elements(old) * sizeof(float)) == 0;
        assert_int_equal(is_same, l == 0);
    }
    assert_non_null(strstr(esp_snapshot_current(after)->how, "\"label_smoothing\":0.1"));
    assert_non_null(strstr(esp_snapshot_current(after)->how, "\"best_epoch\":"));
    esp_shared_unref(before);
    esp_shared_unref(after);
    esp_session_free(session);
    scratch_remove(p.directory);
}

static void curves_have_rates_losses_and_what_is_left(void **state)
{
    place p = make_place();
    esp_session *session = tiny_session(p.directory, NULL, true, true);
    const esp_finetune options = tiny_finetune(3, 0.05);
    int inside = 0, validated = 0;
    esp_error err = {0};

    (void)state;
    expect_ok(esp_session_finetune(session, &options, &err), &err);
    tiny_study_settle(session, false, NULL);
    const esp_snapshot *snapshot = esp_session_snapshot(session);
    for (int i = 0; i < snapshot->training->count; i++) {
        const esp_training_point *point = &snapshot->training->points[i];
        assert_true(point->lr >= 0 && point->lr <= 0.05);
        inside += point->is_validated ? 0 : 1;
        validated += point->is_validated ? 1 : 0;
        if (point->is_validated)
            assert_true(point->validation_loss > 0);
        else
            assert_true(point->loss > 0 && point->train_top1 >= 0 && point->train_top1 <= 100);
        if (i > 0)
            assert_true(point->epoch >= snapshot->training->points[i - 1].epoch);
    }
    assert_int_equal(validated, 4);
    assert_int_equal(inside, 18); /* 86 images, six steps an epoch */
    esp_shared_unref(snapshot);
    esp_session_free(session);
    scratch_remove(p.directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_killed_training_goes_on_bit_for_bit),
        cmocka_unit_test(a_stopped_training_goes_on_bit_for_bit_in_another_session),
        cmocka_unit_test(a_session_without_a_study_goes_on_too_and_leaves_nothing_behind),
        cmocka_unit_test(another_training_ends_what_was_stopped),
        cmocka_unit_test(a_damaged_checkpoint_is_named_and_changes_nothing),
        cmocka_unit_test(stopping_keeps_the_best_epoch_and_offers_the_rest),
        cmocka_unit_test(a_checkpoint_that_cannot_be_written_is_told_and_ends_nothing),
        cmocka_unit_test(two_programs_in_a_study_leave_each_others_training_alone),
        cmocka_unit_test(a_study_opens_its_data_again_when_asked),
        cmocka_unit_test(a_version_that_the_study_cannot_take_stays_in_memory),
        cmocka_unit_test(the_data_s_own_validation_images_are_used),
        cmocka_unit_test(validating_on_the_test_set_measures_the_version),
        cmocka_unit_test(a_frozen_layer_stays_and_the_options_are_in_the_history),
        cmocka_unit_test(curves_have_rates_losses_and_what_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
