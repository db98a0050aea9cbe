/* One interpreter: what its statuses mean, that it can be stopped, what a failure says, and that running out
 * of memory at any point is an error and nothing more. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "script/script.h"
#include "unit/base/scratch.h"

/* An interpreter whose output is kept, and whose script cancels itself by printing "stop". */
typedef struct bench {
    esp_cancel cancel;
    esp_compute compute;
    esp_script *script;
    esp_error err;
    char output[2048];
    size_t length;
} bench;

static void keep_output(void *user, const char *text, size_t length)
{
    bench *it = user;
    size_t room = sizeof it->output - 1 - it->length;
    size_t taken = length < room ? length : room;
    memcpy(it->output + it->length, text, taken);
    it->length += taken;
    it->output[it->length] = 0;
    if (length >= 4 && memcmp(text, "stop", 4) == 0) {
        esp_cancel_request(&it->cancel);
    }
}

static esp_status open_bench(bench *it, bool is_trusted, const char *granted)
{
    *it = (bench){0};
    it->compute.cancel = &it->cancel;
    const esp_script_options options = {.compute = &it->compute,
                                        .is_trusted = is_trusted,
                                        .granted = granted,
                                        .output = keep_output,
                                        .output_user = it};
    return esp_script_new(&options, &it->script, &it->err);
}

/* Runs a text in an interpreter of its own, which is left open in `it`. */
static esp_status run(bench *it, const char *text)
{
    assert_int_equal(open_bench(it, false, NULL), ESP_OK);
    return esp_script_run_text(it->script, text, "test", &it->err);
}

static void assert_has(const char *text, const char *part)
{
    if (!strstr(text, part)) {
        fail_msg("no '%s' in '%s'", part, text);
    }
}

static void assert_runs(const char *text, const char *output)
{
    bench it;
    esp_status status = run(&it, text);
    if (status != ESP_OK) {
        print_error("%s\n", it.err.message);
    }
    assert_int_equal(status, ESP_OK);
    assert_string_equal(it.output, output);
    esp_script_free(it.script);
}

static void assert_fails(const char *text, esp_status expected, const char *part)
{
    bench it;
    assert_int_equal(run(&it, text), expected);
    assert_has(it.err.message, part);
    assert_null(strchr(it.err.message, '\n'));
    esp_script_free(it.script);
}

/* ---- statuses and messages ---- */

static void output_goes_to_the_host_as_it_comes(void **state)
{
    (void)state;
    assert_runs("print('a', 1, nil) io.write('b', 2) print()", "a\t1\tnil\nb2\n");
}

static void a_failure_says_its_place(void **state)
{
    (void)state;
    assert_fails("local x\nprint(x.y)", ESP_SCRIPT, "test:2: attempt to index a nil value");
    assert_fails("if then", ESP_SCRIPT, "test:1: unexpected symbol");
}

static void a_message_is_one_line(void **state)
{
    (void)state;
    assert_fails("error('first\\n\\tsecond')", ESP_SCRIPT, "test:1: first second");
    assert_fails("require 'nowhere'", ESP_SCRIPT, "not found: no field package.preload['nowhere'] no file");
}

static void errors_that_are_no_texts_are_told_by_their_type(void **state)
{
    (void)state;
    assert_fails("error()", ESP_SCRIPT, "a nil value");
    assert_fails("error({})", ESP_SCRIPT, "a table value");
    assert_fails("error(setmetatable({}, {__tostring = function() return 'shown' end}))", ESP_SCRIPT,
                 "shown");
    assert_fails("error(setmetatable({}, {__tostring = function() error('again') end}))", ESP_SCRIPT,
                 "cannot be shown");
}

static void errors_of_the_engine_keep_message_and_hint(void **state)
{
    (void)state;
    assert_fails("require('espalier').load('missing.onnx')", ESP_SCRIPT, "missing.onnx");
    assert_runs("local ok, e = pcall(require('espalier').load, 'missing.onnx') print(ok, type(e), e.code)",
                "false\ttable\tio\n");
}

static void the_traceback_is_that_of_the_last_failure(void **state)
{
    (void)state;
    bench it;
    assert_int_equal(run(&it, "local function deep() error('x') end\ndeep()"), ESP_SCRIPT);
    assert_has(esp_script_traceback(it.script), "test:2: in main chunk");
    assert_int_equal(esp_script_run_text(it.script, "if then", "test", &it.err), ESP_SCRIPT);
    assert_string_equal(esp_script_traceback(it.script), "");
    assert_int_equal(esp_script_run_text(it.script, "return 1", "test", &it.err), ESP_OK);
    assert_string_equal(esp_script_traceback(it.script), "");
    esp_script_free(it.script);
}

static void globals_stay_between_runs(void **state)
{
    (void)state;
    bench it;
    assert_int_equal(run(&it, "kept = 7"), ESP_OK);
    assert_int_equal(esp_script_run_text(it.script, "print(kept)", "test", &it.err), ESP_OK);
    assert_string_equal(it.output, "7\n");
    esp_script_free(it.script);
}

/* ---- files ---- */

static int make_directory(void **state)
{
    *state = scratch_make();
    return 0;
}

static int remove_directory(void **state)
{
    scratch_remove(*state);
    return 0;
}

static const char *write_script(const char *directory, const char *name, const char *text)
{
    const char *path = scratch_path(directory, name);
    scratch_write(path, text, strlen(text));
    return path;
}

static void a_file_gets_its_arguments_and_may_start_for_the_shell(void **state)
{
    bench it;
    char *arguments[] = {"one", "two"};
    const char *path = write_script(*state, "script.lua",
                                    "#!/usr/bin/espalier run\n"
                                    "print(arg[0] ~= nil, arg[2], #arg, ...)\nerror('here')");
    assert_int_equal(open_bench(&it, false, NULL), ESP_OK);
    assert_int_equal(esp_script_run_file(it.script, path, 2, arguments, &it.err), ESP_SCRIPT);
    assert_string_equal(it.output, "true\ttwo\t2\tone\ttwo\n");
    assert_has(it.err.message, "script.lua:3: here");
    assert_int_equal(esp_script_run_file(it.script, "missing.lua", 0, NULL, &it.err), ESP_IO);
    esp_script_free(it.script);
}

static void bytecode_is_refused_whoever_is_trusted(void **state)
{
    bench it;
    const char *path = write_script(*state, "code.lua", "\x1bLua");
    assert_int_equal(open_bench(&it, true, NULL), ESP_OK);
    assert_int_equal(esp_script_run_file(it.script, path, 0, NULL, &it.err), ESP_SCRIPT);
    assert_has(it.err.message, "binary chunk");
    assert_int_equal(esp_script_run_text(it.script, "\x1bLua", "test", &it.err), ESP_SCRIPT);
    esp_script_free(it.script);
}

/* Two files run by one interpreter: the directory of the first stays the one that may be used. */
static void a_second_file_changes_no_permission(void **state)
{
    bench it;
    char here[4096];
    char other[4200];
    snprintf(here, sizeof here, "%s/a", (const char *)*state);
    snprintf(other, sizeof other, "return io.open('%s/written.txt', 'w')", here);
    assert_int_equal(esp_directory_make(here, &it.err), ESP_OK);
    const char *first = write_script(here, "first.lua", "return 1");
    const char *second = write_script(*state, "second.lua", other);
    assert_int_equal(open_bench(&it, false, NULL), ESP_OK);
    assert_int_equal(esp_script_run_file(it.script, first, 0, NULL, &it.err), ESP_OK);
    assert_int_equal(esp_script_run_file(it.script, second, 0, NULL, &it.err), ESP_OK);
    assert_true(esp_file_exists(scratch_path(here, "written.txt")));
    esp_script_free(it.script);
}

static void a_granted_directory_may_be_written_and_no_other(void **state)
{
    bench it;
    char text[4300];
    snprintf(text, sizeof text, "print(pcall(io.open, '%s/x', 'w'))", (const char *)*state);
    assert_int_equal(run(&it, text), ESP_OK);
    assert_has(it.output, "outside the directories");
    esp_script_free(it.script);
    assert_int_equal(open_bench(&it, false, *state), ESP_OK);
    assert_int_equal(esp_script_run_text(it.script, text, "test", &it.err), ESP_OK);
    assert_has(it.output, "true\tfile");
    esp_script_free(it.script);
}

static void links_lead_out_of_no_directory(void **state)
{
    bench it;
    char inside[4096], text[8400];
    snprintf(inside, sizeof inside, "%s/inside", (const char *)*state);
    assert_int_equal(esp_directory_make(inside, &it.err), ESP_OK);
    write_script(*state, "secret.lua", "print('secret')");
    assert_int_equal(symlink("../secret.lua", scratch_path(inside, "link.lua")), 0);
    assert_int_equal(symlink("../made", scratch_path(inside, "dangling")), 0);
    snprintf(text, sizeof text,
             "local here = '%s/'\n"
             "print(pcall(io.open, here .. 'link.lua'))\n"
             "print(pcall(io.lines, here .. 'link.lua'))\n"
             "print(pcall(io.open, here .. 'dangling', 'w'))\n"
             "print(pcall(require, 'link'))\n",
             inside);
    const char *path = write_script(inside, "escape.lua", text);
    assert_int_equal(open_bench(&it, false, NULL), ESP_OK);
    assert_int_equal(esp_script_run_file(it.script, path, 0, NULL, &it.err), ESP_OK);
    assert_null(strstr(it.output, "true"));
    assert_null(strstr(it.output, "secret\n"));
    assert_false(esp_file_exists(scratch_path(*state, "made")));
    esp_script_free(it.script);
}

/* `require` searches wherever a name says that is a path itself; dots in it become slashes. */
static void a_module_name_that_is_a_search_path_stays_inside(void **state)
{
    bench it;
    char text[4300];
    char *place = strdup(*state);
    if (strchr(place, '.')) {
        free(place);
        skip();
    }
    write_script(*state, "secret.lua", "print('secret')");
    snprintf(text, sizeof text, "print(pcall(require, 'x;%s/secret'))", place);
    free(place);
    assert_int_equal(run(&it, text), ESP_OK);
    assert_has(it.output, "outside the directories");
    esp_script_free(it.script);
}

/* ---- cancelling ---- */

static void nothing_a_script_does_outlives_a_cancel(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "print('stop') while true do end",
        "print('stop') while true do pcall(function() while true do end end) end",
        "print('stop') while true do xpcall(error, function() while true do end end) end",
        "print('stop') local function f() while true do pcall(coroutine.wrap(f)) end end f()",
        "print('stop') local function f() while true do coroutine.resume(coroutine.create(f)) end end f()",
        "print('stop') error(setmetatable({}, {__tostring = function() while true do end end}))",
        "print('stop') print(setmetatable({}, {__index = function() while true do end end}).x)",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        assert_fails(texts[i], ESP_CANCELLED, "test");
    }
}

static void finalizers_need_trust(void **state)
{
    (void)state;
    assert_fails("setmetatable({}, {__gc = print})", ESP_SCRIPT, "__gc");
    bench it;
    assert_int_equal(open_bench(&it, true, NULL), ESP_OK);
    assert_int_equal(
        esp_script_run_text(it.script,
                            "setmetatable({}, {__gc = function() print('gone') end}) collectgarbage()",
                            "test", &it.err),
        ESP_OK);
    assert_string_equal(it.output, "gone\n");
    esp_script_free(it.script);
}

static void protected_calls_work_as_ever(void **state)
{
    (void)state;
    assert_runs(
        "print(xpcall(error, function(e) return e .. '!' end, 'x')) print(xpcall(select, print, '#', 1, 2))\n"
        "local co = coroutine.wrap(function() return xpcall(coroutine.yield, print, 5) end) print(co(), "
        "co(6))",
        "false\tx!\ntrue\t2\n5\ttrue\t6\n");
}

static void coroutines_work_as_ever(void **state)
{
    (void)state;
    assert_runs(
        "local next = coroutine.wrap(function(a) local b = coroutine.yield(a + 1) error('in ' .. b, 0) end)\n"
        "print(next(1)) print(pcall(next, 'b'))\n"
        "print(coroutine.resume(coroutine.create(function(...) return select('#', ...) end), 1, nil))",
        "2\nfalse\tin b\ntrue\t2\n");
}

/* ---- what scripts hold ---- */

#define SMALL_MODEL                                                                                          \
    "local esp = require 'espalier'\n"                                                                       \
    "local net = esp.network('small', { input = { 1, 4, 4 }, seed = 1 })\n"                                  \
    "local x = net:relu(net:conv(net.input, { filters = 3, pad = 1, name = 'c1' }))\n"                       \
    "x = net:conv(x, { filters = 2, pad = 1, name = 'c2' })\n"                                               \
    "net:output(net:dense(net:flatten(x), { units = 2, name = 'fc', output = 'y' }))\n"                      \
    "local model = net:finish()\n"

static void scripts_cannot_release_what_is_in_use(void **state)
{
    (void)state;
    assert_runs(SMALL_MODEL "print(getmetatable(model), getmetatable(net.builder))",
                "espalier.model\tespalier.builder\n");
    /* a trusted script can, and gets an error instead of a crash */
    bench it;
    assert_int_equal(open_bench(&it, true, NULL), ESP_OK);
    assert_int_equal(esp_script_run_text(it.script,
                                         SMALL_MODEL "debug.getmetatable(model).__gc(model) model:layers()",
                                         "test", &it.err),
                     ESP_SCRIPT);
    assert_has(it.err.message, "released");
    esp_script_free(it.script);
}

static void numbers_of_values_are_not_cut_to_an_int(void **state)
{
    (void)state;
    assert_fails("local b = require('espalier.core').builder('b') b:input('x', {2}) "
                 "b:node('Relu', {4294967296})",
                 ESP_SCRIPT, "4294967296");
}

/* ---- memory ---- */

/* Opens an interpreter, runs the text and closes it, with the k-th allocation failing. True when the fuse
 * burnt. */
static bool survives_fuse(const char *text, int64_t k)
{
    bench it;
    size_t before = esp_memory_live();
    esp_memory_fuse(k);
    esp_status status = open_bench(&it, false, NULL);
    if (status == ESP_OK) {
        status = esp_script_run_text(it.script, text, "test", &it.err);
    }
    bool has_burnt = esp_memory_fuse_burnt() != 0;
    esp_memory_fuse(0);
    /* Lua collects its garbage and asks again, so a script may well succeed */
    if (status != ESP_OK && status != ESP_NO_MEMORY && status != ESP_SCRIPT) {
        fail_msg("allocation %d: %s: %s", (int)k, esp_status_word(status), it.err.message);
    }
    if (status != ESP_OK) {
        assert_true(has_burnt);
        assert_true(it.err.message[0] != 0);
    }
    esp_script_free(it.script);
    assert_int_equal(esp_memory_live(), before);
    return has_burnt;
}

static void opening_and_running_survive_every_failed_allocation(void **state)
{
    (void)state;
    static const char text[] =
        "local t = {} for i = 1, 40 do t[i] = ('x'):rep(i) end print(#table.concat(t)) "
        "print(pcall(error, {code = 1})) pcall(require, 'nowhere')";
    int64_t k = 1;
    while (survives_fuse(text, k)) {
        k++;
    }
    assert_true(k > 100);
}

static void the_engine_behind_a_script_survives_every_failed_allocation(void **state)
{
    (void)state;
    static const char text[] =
        SMALL_MODEL "local cut = model:preview({ method = 'wsp', ratio = 0.4 }):cut()\n"
                    "print(cut:counts().params, #cut:layers(), cut:difference(cut), tostring(cut))\n";
    int64_t k = 1;
    while (survives_fuse(text, k)) {
        k++;
    }
    assert_true(k > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(output_goes_to_the_host_as_it_comes),
        cmocka_unit_test(a_failure_says_its_place),
        cmocka_unit_test(a_message_is_one_line),
        cmocka_unit_test(errors_that_are_no_texts_are_told_by_their_type),
        cmocka_unit_test(errors_of_the_engine_keep_message_and_hint),
        cmocka_unit_test(the_traceback_is_that_of_the_last_failure),
        cmocka_unit_test(globals_stay_between_runs),
        cmocka_unit_test_setup_teardown(a_file_gets_its_arguments_and_may_start_for_the_shell, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(bytecode_is_refused_whoever_is_trusted, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(a_second_file_changes_no_permission, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(a_granted_directory_may_be_written_and_no_other, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(links_lead_out_of_no_directory, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(a_module_name_that_is_a_search_path_stays_inside, make_directory,
                                        remove_directory),
        cmocka_unit_test(nothing_a_script_does_outlives_a_cancel),
        cmocka_unit_test(finalizers_need_trust),
        cmocka_unit_test(protected_calls_work_as_ever),
        cmocka_unit_test(coroutines_work_as_ever),
        cmocka_unit_test(scripts_cannot_release_what_is_in_use),
        cmocka_unit_test(numbers_of_values_are_not_cut_to_an_int),
        cmocka_unit_test(opening_and_running_survive_every_failed_allocation),
        cmocka_unit_test(the_engine_behind_a_script_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
