/* The machine's peak: figures that can be divided by, from every instruction set, and no trace left. */
#include "unit/tensor/check.h"

#include "tensor/peak.h"

static void every_instruction_set_gives_figures_above_zero(void **state)
{
    (void)state;
    static const esp_isa sets[] = {ESP_ISA_PLAIN, ESP_ISA_AVX2, ESP_ISA_AVX512};
    esp_error err = {0};
    esp_compute compute = {0};
    assert_int_equal(esp_pool_new(2, &compute.pool, &err), ESP_OK);
    size_t before = esp_memory_live();
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        esp_engine engine = *esp_engine_default();
        esp_peak peak = {0};
        engine.isa = sets[i];
        if (!esp_isa_is_supported(sets[i]))
            continue;
        assert_int_equal(esp_peak_measure(&compute, &engine, &peak, &err), ESP_OK);
        assert_int_equal(peak.isa, sets[i]);
        assert_int_equal(peak.threads, 2);
        assert_true(peak.gflops > 0.0 && isfinite(peak.gflops));
        assert_true(peak.gb_per_s > 0.0 && isfinite(peak.gb_per_s));
    }
    assert_int_equal(esp_memory_live(), before);
    esp_pool_free(compute.pool);
}

static void a_cancelled_measurement_gives_nothing(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_cancel cancel = {false};
    esp_cancel_request(&cancel);
    const esp_compute compute = {.cancel = &cancel};
    esp_peak peak = {.threads = -1};
    size_t before = esp_memory_live();
    assert_int_equal(esp_peak_measure(&compute, esp_engine_default(), &peak, &err), ESP_CANCELLED);
    assert_int_equal(peak.threads, -1);
    assert_int_equal(esp_memory_live(), before);
}

static void a_block_that_cannot_be_had_is_an_error(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_peak peak = {.threads = -1};
    size_t before = esp_memory_live();
    esp_memory_fuse(1);
    assert_int_equal(esp_peak_measure(NULL, esp_engine_default(), &peak, &err), ESP_NO_MEMORY);
    esp_memory_fuse(0);
    assert_int_equal(peak.threads, -1);
    assert_int_equal(esp_memory_live(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_instruction_set_gives_figures_above_zero),
        cmocka_unit_test(a_cancelled_measurement_gives_nothing),
        cmocka_unit_test(a_block_that_cannot_be_had_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
