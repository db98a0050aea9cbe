/* Runs by a pruning schedule that are killed: whatever the moment, what lies on disk then leads to the same
 * bits. Models and trainings are kept in tables, since their file formats are io's; a file holds the number
 * of its entry, so that a copy of the directory is the disk as a killed program leaves it. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "prune/gradual.h"
#include "unit/prune/prune_nets.h"

/* ---- a disk ---- */

enum { MOST_ENTRIES = 400, MOST_FILES = 6, MOST_MOMENTS = 200 };

typedef struct kept_file {
    char name[64];
    char *data;
    size_t size;
} kept_file;

typedef struct moment {
    int count;
    kept_file files[MOST_FILES];
} moment;

static struct {
    char *directory;
    char state_path[256];
    int graph_count, state_count, moment_count;
    esp_graph *graphs[MOST_ENTRIES];
    esp_train_state states[MOST_ENTRIES];
    moment moments[MOST_MOMENTS];
    bool keeps_moments;
    int model_failures, training_failures; /* so many of the next writes fail */
    int told;
} disk;

static void forget_moment(moment *it)
{
    for (int i = 0; i < it->count; i++)
        esp_free(it->files[i].data);
    *it = (moment){0};
}

static void disk_make(void)
{
    memset(&disk, 0, sizeof disk);
    disk.directory = scratch_make();
    snprintf(disk.state_path, sizeof disk.state_path, "%s", scratch_path(disk.directory, "run.json"));
}

static void disk_clear(void)
{
    for (int i = 0; i < disk.graph_count; i++)
        esp_graph_unref(disk.graphs[i]);
    for (int i = 0; i < disk.state_count; i++)
        esp_train_state_free(&disk.states[i]);
    for (int i = 0; i < disk.moment_count; i++)
        forget_moment(&disk.moments[i]);
    scratch_remove(disk.directory);
}

static void take_picture(void)
{
    if (!disk.keeps_moments)
        return;
    assert_true(disk.moment_count < MOST_MOMENTS);
    moment *it = &disk.moments[disk.moment_count++];
    DIR *entries = opendir(disk.directory);
    assert_non_null(entries);
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        assert_true(it->count < MOST_FILES);
        kept_file *file = &it->files[it->count++];
        esp_error err = {0};
        snprintf(file->name, sizeof file->name, "%.60s", entry->d_name);
        expect_ok(esp_file_read(scratch_path(disk.directory, file->name), &file->data, &file->size, &err),
                  &err);
    }
    closedir(entries);
}

static void remove_all(void)
{
    DIR *entries = opendir(disk.directory);
    assert_non_null(entries);
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;)
        if (entry->d_name[0] != '.')
            remove(scratch_path(disk.directory, entry->d_name));
    closedir(entries);
}

static void put_back(const moment *it)
{
    remove_all();
    for (int i = 0; i < it->count; i++)
        scratch_write(scratch_path(disk.directory, it->files[i].name), it->files[i].data, it->files[i].size);
}

/* The number in the file at `path`; -1 when there is none. */
static int entry_at(const char *path)
{
    char *text = NULL;
    size_t size;
    int entry = -1;

    if (esp_file_exists(path) && esp_file_read(path, &text, &size, NULL) == ESP_OK)
        entry = atoi(text);
    esp_free(text);
    return entry;
}

static esp_status write_entry(const char *path, int entry, esp_error *err)
{
    char text[16];
    take_picture();
    esp_status status = esp_file_write(path, text, (size_t)snprintf(text, sizeof text, "%d", entry), err);
    take_picture();
    return status;
}

static esp_status save_model(const esp_graph *graph, const char *path, esp_error *err)
{
    if (disk.model_failures-- > 0)
        return esp_fail(err, ESP_IO, "%s: no space left", path);
    assert_true(disk.graph_count < MOST_ENTRIES);
    disk.graphs[disk.graph_count] = esp_graph_ref(graph);
    return write_entry(path, disk.graph_count++, err);
}

static esp_status load_model(const char *path, esp_graph **out, esp_error *err)
{
    int entry = entry_at(path);

    if (entry < 0)
        return esp_fail(err, ESP_IO, "%s: no such model", path);
    *out = esp_graph_ref(disk.graphs[entry]);
    return ESP_OK;
}

static void copy_state(const esp_train_state *from, esp_train_state *to)
{
    esp_error err = {0};

    for (int i = 0; from && i < from->count; i++)
        expect_ok(
            esp_train_state_put(to, from->blocks[i].name, from->blocks[i].data, from->blocks[i].size, &err),
            &err);
}

static esp_status save_training(const char *path, const esp_train_state *state, const esp_train_state *extra,
                                esp_error *err)
{
    if (disk.training_failures-- > 0)
        return esp_fail(err, ESP_IO, "%s: no space left", path);
    assert_true(disk.state_count < MOST_ENTRIES);
    copy_state(state, &disk.states[disk.state_count]);
    copy_state(extra, &disk.states[disk.state_count]);
    return write_entry(path, disk.state_count++, err);
}

static esp_status load_training(const char *path, esp_train_state *out, esp_error *err)
{
    int entry = entry_at(path);

    if (entry < 0)
        return esp_fail(err, ESP_IO, "%s: no such training", path);
    copy_state(&disk.states[entry], out);
    return ESP_OK;
}

static void on_failure(void *user, const esp_error *why)
{
    (void)user;
    assert_non_null(strstr(why->message, "no space left"));
    disk.told++;
}

/* ---- a run ---- */

typedef struct fixture {
    esp_graph *graph;
    esp_dataset *training, *validation;
    esp_plan plan;
    esp_gradual schedule;
    esp_train_options options;
    bool resumes;
} fixture;

static fixture prepare(esp_method method, esp_gradual_kind kind)
{
    fixture it = {.graph = net_residual(5),
                  .training = noise_dataset(36, 3, 8, 8, 5, 1),
                  .validation = noise_dataset(12, 3, 8, 8, 5, 2),
                  .plan = esp_plan_make(method, ESP_MODE_SOUND, 0.4),
                  .schedule = esp_gradual_defaults(kind),
                  .options = esp_train_defaults()};

    it.plan.groups = 3;
    it.plan.restarts = 1;
    it.schedule.step = 0.2;
    it.schedule.steps = 2;
    it.schedule.local_epochs = 2;
    it.schedule.epochs = 1;
    it.options.batch = 12;
    it.options.schedule.lr = 0.02;
    it.options.seed = 3;
    it.options.checkpoint_steps = 1;
    return it;
}

static void clear(fixture *it)
{
    esp_graph_unref(it->graph);
    esp_dataset_unref(it->training);
    esp_dataset_unref(it->validation);
    esp_plan_free(&it->plan);
}

static esp_status run(const fixture *it, esp_graph **out, esp_gradual_result *result, esp_error *err)
{
    const esp_gradual_options options = {.schedule = &it->schedule,
                                         .plan = &it->plan,
                                         .training = &it->options,
                                         .state_path = disk.state_path,
                                         .resumes = it->resumes,
                                         .save = save_model,
                                         .load = load_model,
                                         .save_training = save_training,
                                         .load_training = load_training,
                                         .on_failure = on_failure};

    return esp_prune_gradually(NULL, it->graph, it->training, it->validation, &options, out, result, err);
}

static esp_graph *run_to_the_end(const fixture *it, esp_gradual_result *result)
{
    esp_graph *out = NULL;
    esp_error err = {0};

    expect_ok(run(it, &out, result, &err), &err);
    return out;
}

/* Records but for times. */
static void expect_same_records(const esp_gradual_result *a, const esp_gradual_result *b)
{
    assert_int_equal(a->record_count, b->record_count);
    for (int i = 0; i < a->record_count; i++) {
        assert_true(a->records[i].cut_loss == b->records[i].cut_loss);
        assert_true(a->records[i].trained_loss == b->records[i].trained_loss);
        assert_true(a->records[i].epochs == b->records[i].epochs);
        assert_int_equal(a->records[i].macs, b->records[i].macs);
    }
}

/* ---- tests ---- */

/* `live`: bytes that were allocated before the fixture. */
static void kill_everywhere(fixture *it, size_t live)
{
    esp_gradual_result whole, result;
    int inside = 0, behind = 0;

    disk_make();
    disk.keeps_moments = true;
    esp_graph *expected = run_to_the_end(it, &whole);
    disk.keeps_moments = false;
    assert_int_equal(whole.checkpoint_failures, 0);
    assert_true(disk.moment_count > 25);
    it->resumes = true;
    for (int i = 0; i < disk.moment_count; i++) {
        if (disk.moments[i].count == 0)
            continue; /* before the first checkpoint there is nothing to go on from */
        put_back(&disk.moments[i]);
        esp_graph *resumed = run_to_the_end(it, &result);
        assert_true(same_constants(resumed, expected));
        expect_same_records(&result, &whole);
        inside += result.resumed_training_step > 0;
        behind += result.resumed_steps > 0;
        esp_graph_unref(resumed);
        esp_gradual_result_free(&result);
    }
    assert_true(inside > 10 && behind > 5 && inside + behind < 2 * disk.moment_count);
    esp_gradual_state_remove(disk.state_path);
    assert_int_equal(scratch_count(disk.directory), 0);
    esp_graph_unref(expected);
    esp_gradual_result_free(&whole);
    disk_clear();
    clear(it);
    assert_int_equal(esp_memory_live(), live);
}

static void run_killed_at_any_moment_goes_on_to_the_same_bits(void **state)
{
    size_t live = esp_memory_live();
    fixture it = prepare(ESP_METHOD_SG, ESP_GRADUAL_LG);
    (void)state;

    kill_everywhere(&it, live);
}

static void training_that_the_ratio_rises_in_goes_on_to_the_same_bits(void **state)
{
    size_t live = esp_memory_live();
    fixture it = prepare(ESP_METHOD_FILTER, ESP_GRADUAL_AGP);
    (void)state;

    it.schedule.local_epochs = 1.5;
    it.schedule.group_lasso = 1e-3;
    it.options.optimizer = ESP_OPTIMIZER_ADAM;
    it.options.schedule.lr = 1e-3;
    it.options.ema_decay = 0.8;
    snprintf(it.plan.criterion, sizeof it.plan.criterion, "taylor");
    kill_everywhere(&it, live);
}

/* The disk is full for a while: the result is the same, and so is that of a run that is then killed. */
static void full_disk_changes_nothing_but_what_is_kept(void **state)
{
    fixture it = prepare(ESP_METHOD_SG, ESP_GRADUAL_LG);
    esp_gradual_result whole, result;
    (void)state;

    disk_make();
    esp_graph *expected = run_to_the_end(&it, &whole);
    remove_all();
    disk.training_failures = 3;
    disk.model_failures = 3; /* the first step, and twice that it is tried again */
    disk.keeps_moments = true;
    esp_graph *out = run_to_the_end(&it, &result);
    disk.keeps_moments = false;
    assert_true(same_constants(out, expected));
    assert_int_equal(result.checkpoint_failures, 6);
    assert_int_equal(disk.told, 6);
    assert_non_null(strstr(result.checkpoint_error.message, "no space left"));
    assert_int_equal(result.checkpoints, whole.checkpoints - 6);
    esp_graph_unref(out);
    esp_gradual_result_free(&result);
    it.resumes = true;
    for (int i = 0; i < disk.moment_count; i += 3) {
        if (disk.moments[i].count == 0)
            continue;
        put_back(&disk.moments[i]);
        out = run_to_the_end(&it, &result);
        assert_true(same_constants(out, expected));
        esp_graph_unref(out);
        esp_gradual_result_free(&result);
    }
    esp_graph_unref(expected);
    esp_gradual_result_free(&whole);
    disk_clear();
    clear(&it);
}

static void other_training_or_data_are_refused(void **state)
{
    fixture it = prepare(ESP_METHOD_SG, ESP_GRADUAL_LG);
    esp_gradual_result result;
    esp_graph *out = NULL;
    esp_error err = {0};
    (void)state;

    disk_make();
    disk.keeps_moments = true;
    esp_graph_unref(run_to_the_end(&it, &result));
    esp_gradual_result_free(&result);
    disk.keeps_moments = false;
    it.resumes = true;
    const moment *inside_first = &disk.moments[3], *later = &disk.moments[disk.moment_count - 1];
    for (int i = 0; i < 2; i++) {
        put_back(i == 0 ? inside_first : later);
        it.options.schedule.lr = 0.03;
        expect_failure(run(&it, &out, &result, &err), ESP_MISMATCH, &err, "its schedule is");
        it.options.schedule.lr = 0.02;
        it.options.label_smoothing = 0.1;
        expect_failure(run(&it, &out, &result, &err), ESP_MISMATCH, &err, "its label smoothing is");
        it.options.label_smoothing = 0;
        esp_dataset *right = it.training;
        it.training = noise_dataset(36, 3, 8, 8, 5, 7); /* equal labels, other pixels */
        expect_failure(run(&it, &out, &result, &err), ESP_MISMATCH, &err, "its training data is");
        esp_dataset_unref(it.training);
        it.training = right;
        assert_null(out);
    }
    disk_clear();
    clear(&it);
}

/* Nothing of an interrupted run gets into one that begins anew. */
static void run_that_begins_anew_replaces_what_an_earlier_one_left(void **state)
{
    fixture it = prepare(ESP_METHOD_SG, ESP_GRADUAL_LG);
    esp_gradual_result whole, result;
    (void)state;

    disk_make();
    disk.keeps_moments = true;
    esp_graph_unref(run_to_the_end(&it, &result));
    esp_gradual_result_free(&result);
    it.options.seed = 4;
    put_back(&disk.moments[disk.moment_count - 1]); /* two steps and a training of the other seed */
    int first = disk.moment_count;
    esp_graph *expected = run_to_the_end(&it, &whole);
    disk.keeps_moments = false;
    it.resumes = true;
    put_back(&disk.moments[first + 3]); /* killed in the first step */
    esp_graph *out = run_to_the_end(&it, &result);
    assert_true(same_constants(out, expected));
    assert_true(result.resumed_steps == 0 && result.resumed_training_step > 0);
    esp_graph_unref(out);
    esp_graph_unref(expected);
    esp_gradual_result_free(&whole);
    esp_gradual_result_free(&result);
    disk_clear();
    clear(&it);
}

static void place_that_cannot_be_written_is_refused_at_once(void **state)
{
    fixture it = prepare(ESP_METHOD_SG, ESP_GRADUAL_LG);
    esp_graph *out = NULL;
    esp_error err = {0};
    (void)state;

    disk_make();
    snprintf(disk.state_path, sizeof disk.state_path, "/nowhere/at/all/run.json");
    expect_failure(run(&it, &out, NULL, &err), ESP_IO, &err, "/nowhere/at/all/run.json");
    assert_null(out);
    it.options.schedule.kind = ESP_SCHEDULE_PLATEAU;
    it.schedule.kind = ESP_GRADUAL_LINEAR;
    expect_failure(run(&it, &out, NULL, &err), ESP_INVALID, &err, "'plateau'");
    disk_clear();
    clear(&it);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(run_killed_at_any_moment_goes_on_to_the_same_bits),
        cmocka_unit_test(training_that_the_ratio_rises_in_goes_on_to_the_same_bits),
        cmocka_unit_test(full_disk_changes_nothing_but_what_is_kept),
        cmocka_unit_test(other_training_or_data_are_refused),
        cmocka_unit_test(run_that_begins_anew_replaces_what_an_earlier_one_left),
        cmocka_unit_test(place_that_cannot_be_written_is_refused_at_once),
    };
    return cmocka_run_group_tests_name("interrupted runs by a pruning schedule", tests, NULL, NULL);
}
