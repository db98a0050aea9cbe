/* One step of self-grouping on small matrices whose outcome is worked out by hand. */
#include <string.h>

#include "prune/selfgroup.h"
#include "unit/base/scratch.h"

static esp_mask make_mask(const char *const *rows, int64_t filters)
{
    esp_mask mask;
    esp_error err = {0};

    assert_int_equal(esp_mask_new(filters, (int64_t)strlen(rows[0]), &mask, &err), ESP_OK);
    for (int64_t f = 0; f < filters; f++)
        for (int64_t c = 0; c < mask.channels; c++)
            if (rows[f][c] == '0')
                esp_mask_clear(&mask, f, c);
    return mask;
}

static void check_rows(const esp_mask *mask, const char *const *rows)
{
    char text[64];

    for (int64_t f = 0; f < mask->filters; f++)
        assert_string_equal(esp_mask_row_text(mask, f, text), rows[f]);
}

static double step(const int32_t *labels, const double *centroids, int64_t k, double ratio, esp_mode mode,
                   esp_mask *mask)
{
    double threshold = -1;
    esp_error err = {0};

    assert_int_equal(esp_selfgroup_step(labels, centroids, k, ratio, mode, mask, &threshold, &err), ESP_OK);
    return threshold;
}

static void importance_sums_absolute_kernels_under_the_mask(void **state)
{
    const float weight[] = {1, -2, 3, 4, -5, 6, 7, -8};
    const char *const rows[] = {"10", "11"};
    esp_mask mask = make_mask(rows, 2);
    float importance[4];
    (void)state;

    esp_importance(weight, &mask, 2, 2, 2, importance);
    assert_true(importance[0] == 3 && importance[1] == 0 && importance[2] == 11 && importance[3] == 15);
    esp_mask_free(&mask);
}

static void selfgroup_counts_each_centroid_once_per_member(void **state)
{
    /* entries: three times {1, 2}, once {3, 4}; sorted 1 1 1 2 2 2 3 4; the 50 % percentile is 2. Counted
     * once per cluster they would be 1 2 3 4 with percentile 2.5, and channel 0 of cluster 1 would stay all
     * the same, but the threshold tells. */
    const int32_t labels[] = {0, 0, 0, 1};
    const double centroids[] = {1, 2, 3, 4};
    const char *const rows[] = {"11", "11", "11", "11"}, *const expected[] = {"00", "00", "00", "11"};
    esp_mask mask = make_mask(rows, 4);
    (void)state;

    assert_true(step(labels, centroids, 2, 0.5, ESP_MODE_FAITHFUL, &mask) == 2);
    check_rows(&mask, expected);
    esp_mask_free(&mask);
}

static void selfgroup_lets_ties_at_the_threshold_go(void **state)
{
    const int32_t labels[] = {0};
    const double centroids[] = {1, 5, 5, 5, 9};
    const char *const rows[] = {"11111"}, *const expected[] = {"00001"};
    esp_mask mask = make_mask(rows, 1);
    (void)state;

    assert_true(step(labels, centroids, 1, 0.25, ESP_MODE_FAITHFUL, &mask) == 5);
    check_rows(&mask, expected);
    esp_mask_free(&mask);
}

static void selfgroup_faithful_takes_the_first_members_mask(void **state)
{
    /* cluster 0: filters 0 and 1. Filter 0 has lost channel 0, filter 1 channel 1. The first member's mask
     * speaks for both: channel 0 (centroid 8) goes for filter 1 too, channel 1 (7) stays in the group's mask,
     * but not in filter 1's, which never grows back. */
    const int32_t labels[] = {0, 0};
    const double centroids[] = {8, 7, 6, 5};
    const char *const rows[] = {"0111", "1011"}, *const expected[] = {"0110", "0010"};
    esp_mask mask = make_mask(rows, 2);
    (void)state;

    /* entries 0 7 6 5 8 0 6 5: sorted 0 0 5 5 6 6 7 8, position 7*0.4 = 2.8 */
    assert_true(step(labels, centroids, 1, 0.4, ESP_MODE_FAITHFUL, &mask) == 5);
    check_rows(&mask, expected);
    esp_mask_free(&mask);
}

static void selfgroup_sound_counts_what_any_member_lost_as_zero_for_all(void **state)
{
    const int32_t labels[] = {0, 0};
    const double centroids[] = {8, 7, 6, 5};
    const char *const rows[] = {"0111", "1011"}, *const expected[] = {"0010", "0010"};
    esp_mask mask = make_mask(rows, 2);
    (void)state;

    /* entries 0 0 6 5 twice: sorted 0 0 0 0 5 5 6 6, position 4.9: between 5 and 5 */
    assert_true(step(labels, centroids, 1, 0.7, ESP_MODE_SOUND, &mask) == 5);
    check_rows(&mask, expected);
    assert_true(esp_mask_rows_equal(&mask, 0, 1));
    esp_mask_free(&mask);
}

static void selfgroup_masks_never_grow_back(void **state)
{
    const int32_t labels[] = {0, 1};
    const double centroids[] = {1, 2, 3, 4, 9, 8, 7, 6};
    const char *const rows[] = {"0011", "0101"};
    (void)state;

    for (int mode = 0; mode < 2; mode++)
        for (int percent = 0; percent < 100; percent += 7) {
            esp_mask mask = make_mask(rows, 2);
            step(labels, centroids, 2, percent / 100.0, (esp_mode)mode, &mask);
            for (int f = 0; f < 2; f++)
                for (int c = 0; c < 4; c++)
                    assert_false(rows[f][c] == '0' && esp_mask_get(&mask, f, c));
            esp_mask_free(&mask);
        }
}

static void selfgroup_chooses_among_more_channels_than_a_word_has_bits(void **state)
{
    enum { CHANNELS = 150, FILTERS = 3 };
    const int32_t labels[FILTERS] = {0, 0, 0};
    double centroids[CHANNELS];
    esp_mask mask;
    esp_error err = {0};
    (void)state;

    for (int c = 0; c < CHANNELS; c++)
        centroids[c] = (c * 37) % CHANNELS; /* a permutation of 0..149 */
    assert_int_equal(esp_mask_new(FILTERS, CHANNELS, &mask, &err), ESP_OK);
    esp_mask_clear(&mask, 1, 70);
    step(labels, centroids, 1, 0.4, ESP_MODE_FAITHFUL, &mask);
    /* entries: each number three times, but the zero of the masked one for one of its three */
    double threshold = 0;
    for (int c = 0; c < CHANNELS; c++)
        threshold = centroids[c] < 59.5 && centroids[c] > threshold ? centroids[c] : threshold;
    for (int f = 0; f < FILTERS; f++)
        for (int c = 0; c < CHANNELS; c++)
            assert_int_equal(esp_mask_get(&mask, f, c), centroids[c] > threshold && !(f == 1 && c == 70));
    esp_mask_free(&mask);
}

static void selfgroup_ratio_zero_asks_for_nothing(void **state)
{
    const int32_t labels[] = {0};
    const double centroids[] = {1, 2, 3};
    const char *const rows[] = {"111"};
    esp_mask mask = make_mask(rows, 1);
    (void)state;

    assert_true(step(labels, centroids, 1, 0, ESP_MODE_FAITHFUL, &mask) == 0);
    check_rows(&mask, rows);
    esp_mask_free(&mask);
}

static void selfgroup_refuses_ratios_and_labels_out_of_range(void **state)
{
    const int32_t labels[] = {1};
    const double centroids[] = {1, 2, 3};
    const char *const rows[] = {"111"};
    esp_mask mask = make_mask(rows, 1);
    double threshold;
    esp_error err = {0};
    (void)state;

    assert_int_equal(esp_selfgroup_step(labels, centroids, 1, 0.5, ESP_MODE_SOUND, &mask, &threshold, &err),
                     ESP_INVALID);
    assert_non_null(strstr(err.message, "filter 0 has label 1"));
    assert_int_equal(esp_selfgroup_step(labels, centroids, 2, 1, ESP_MODE_SOUND, &mask, &threshold, &err),
                     ESP_INVALID);
    assert_int_equal(esp_selfgroup_step(labels, centroids, 2, -0.1, ESP_MODE_SOUND, &mask, &threshold, &err),
                     ESP_INVALID);
    check_rows(&mask, rows);
    esp_mask_free(&mask);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(importance_sums_absolute_kernels_under_the_mask),
        cmocka_unit_test(selfgroup_counts_each_centroid_once_per_member),
        cmocka_unit_test(selfgroup_lets_ties_at_the_threshold_go),
        cmocka_unit_test(selfgroup_faithful_takes_the_first_members_mask),
        cmocka_unit_test(selfgroup_sound_counts_what_any_member_lost_as_zero_for_all),
        cmocka_unit_test(selfgroup_masks_never_grow_back),
        cmocka_unit_test(selfgroup_chooses_among_more_channels_than_a_word_has_bits),
        cmocka_unit_test(selfgroup_ratio_zero_asks_for_nothing),
        cmocka_unit_test(selfgroup_refuses_ratios_and_labels_out_of_range),
    };
    return cmocka_run_group_tests_name("selfgroup", tests, NULL, NULL);
}
