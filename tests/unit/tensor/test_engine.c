/* The choice of kernels: words, what they mean, and what is refused. The default is found once in a process,
 * so each look at it has a process of its own. */
#include <sys/wait.h>
#include <unistd.h>

#include "unit/tensor/check.h"

#include "tensor/engine.h"

static const esp_engine all_off = {.isa = ESP_ISA_PLAIN, .has_winograd = false, .has_blocked = false},
                        all_on = {.isa = ESP_ISA_PLAIN, .has_winograd = true, .has_blocked = true};

static bool is_same(const esp_engine *a, const esp_engine *b)
{
    return a->isa == b->isa && a->has_winograd == b->has_winograd && a->has_blocked == b->has_blocked;
}

static void words_switch_one_thing_each(void **state)
{
    (void)state;
    esp_engine engine = all_off;
    esp_error err = {0};
    assert_int_equal(esp_engine_parse("winograd", &engine, &err), ESP_OK);
    assert_true(engine.has_winograd && !engine.has_blocked);
    assert_int_equal(esp_engine_parse("blocked", &engine, &err), ESP_OK);
    assert_true(is_same(&engine, &all_on));
    assert_int_equal(esp_engine_parse("no-winograd", &engine, &err), ESP_OK);
    assert_true(!engine.has_winograd && engine.has_blocked);
    assert_int_equal(esp_engine_parse("no-blocked", &engine, &err), ESP_OK);
    assert_true(is_same(&engine, &all_off));
}

static void words_are_applied_in_order_and_may_be_missing(void **state)
{
    (void)state;
    esp_engine engine = all_off;
    esp_error err = {0};
    assert_int_equal(esp_engine_parse("", &engine, &err), ESP_OK);
    assert_true(is_same(&engine, &all_off));
    assert_int_equal(esp_engine_parse("winograd,no-winograd,blocked", &engine, &err), ESP_OK);
    assert_true(!engine.has_winograd && engine.has_blocked);
    assert_int_equal(esp_engine_parse(",plain,,winograd,", &engine, &err), ESP_OK);
    assert_true(is_same(&engine, &all_on));
}

static void instruction_sets_are_taken_when_the_processor_has_them(void **state)
{
    (void)state;
    const struct {
        const char *name;
        esp_isa isa;
    } sets[] = {{"plain", ESP_ISA_PLAIN}, {"avx2", ESP_ISA_AVX2}, {"avx512", ESP_ISA_AVX512}};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        esp_engine engine = {.isa = sets[i].isa == ESP_ISA_PLAIN ? ESP_ISA_AVX2 : ESP_ISA_PLAIN},
                   before = engine;
        esp_error err = {0};
        esp_status status = esp_engine_parse(sets[i].name, &engine, &err);
        assert_string_equal(esp_isa_name(sets[i].isa), sets[i].name);
        if (esp_isa_is_supported(sets[i].isa)) {
            assert_int_equal(status, ESP_OK);
            assert_int_equal(engine.isa, sets[i].isa);
        } else {
            assert_int_equal(status, ESP_UNSUPPORTED);
            assert_non_null(strstr(err.message, sets[i].name));
            assert_true(is_same(&engine, &before));
        }
    }
    assert_true(esp_isa_is_supported(ESP_ISA_PLAIN));
}

static void an_unknown_word_is_named_and_changes_nothing(void **state)
{
    (void)state;
    const struct {
        const char *text, *word;
    } wrong[] = {{"blocked,sse9", "'sse9'"}, {"winogra", "'winogra'"}, {"plainer", "'plainer'"},
                 {"no-plain", "'no-plain'"}, {"no-", "'no-'"},         {"Blocked", "'Blocked'"},
                 {" plain", "' plain'"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        esp_engine engine = all_off;
        esp_error err = {0};
        assert_int_equal(esp_engine_parse(wrong[i].text, &engine, &err), ESP_INVALID);
        assert_non_null(strstr(err.message, wrong[i].word));
        assert_true(is_same(&engine, &all_off));
        assert_int_equal(esp_engine_parse(wrong[i].text, &engine, NULL), ESP_INVALID);
    }
}

/* The default engine of a process that has ESPALIER_KERNELS set to `kernels` (NULL: not set). */
static esp_engine default_with(const char *kernels)
{
    esp_engine engine = {0};
    int ends[2], state = 1;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (kernels != NULL)
            setenv("ESPALIER_KERNELS", kernels, 1);
        else
            unsetenv("ESPALIER_KERNELS");
        engine = *esp_engine_default();
        bool is_stable =
            esp_engine_default() == esp_engine_default() && is_same(esp_engine_default(), &engine);
        _exit(write(ends[1], &engine, sizeof engine) != sizeof engine || !is_stable);
    }
    assert_int_equal(read(ends[0], &engine, sizeof engine), sizeof engine);
    assert_int_equal(waitpid(child, &state, 0), child);
    assert_int_equal(state, 0);
    close(ends[0]);
    close(ends[1]);
    return engine;
}

static void the_default_is_all_the_processor_can_do(void **state)
{
    (void)state;
    esp_engine engine = default_with(NULL);
    esp_isa best = esp_isa_is_supported(ESP_ISA_AVX512) ? ESP_ISA_AVX512
                   : esp_isa_is_supported(ESP_ISA_AVX2) ? ESP_ISA_AVX2
                                                        : ESP_ISA_PLAIN;
    assert_int_equal(engine.isa, best);
    assert_true(engine.has_winograd && engine.has_blocked);
}

static void the_environment_may_ask_for_less(void **state)
{
    (void)state;
    esp_engine engine = default_with("plain,no-winograd,no-blocked");
    assert_true(is_same(&engine, &all_off));
    engine = default_with("plain");
    assert_true(is_same(&engine, &all_on));
}

static void nonsense_in_the_environment_is_ignored(void **state)
{
    (void)state;
    esp_engine engine = default_with("plain,no-blocked,nonsense"), untouched = default_with(NULL);
    assert_true(is_same(&engine, &untouched));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_switch_one_thing_each),
        cmocka_unit_test(words_are_applied_in_order_and_may_be_missing),
        cmocka_unit_test(instruction_sets_are_taken_when_the_processor_has_them),
        cmocka_unit_test(an_unknown_word_is_named_and_changes_nothing),
        cmocka_unit_test(the_default_is_all_the_processor_can_do),
        cmocka_unit_test(the_environment_may_ask_for_less),
        cmocka_unit_test(nonsense_in_the_environment_is_ignored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
