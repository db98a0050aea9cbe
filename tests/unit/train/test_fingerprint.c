/* Sets of images are told apart by what is in them. */
#include "train/fingerprint.h"

#include <string.h>

#include "unit/train/lazy_fixtures.h"

static esp_dataset_fingerprint find(const esp_dataset *dataset)
{
    esp_dataset_fingerprint out = {0};
    esp_error err = {0};
    expect_ok(esp_dataset_fingerprint_find(dataset, &out, &err), &err);
    return out;
}

static bool is_same(esp_dataset_fingerprint a, esp_dataset_fingerprint b)
{
    return a.labels == b.labels && a.images == b.images;
}

static void one_pixel_of_one_image_in_memory_counts(void **state)
{
    (void)state;
    esp_dataset *one = noise_dataset(300, 1, 4, 4, 3, 1), *other = noise_dataset(300, 1, 4, 4, 3, 1);
    assert_true(is_same(find(one), find(other)));
    esp_dataset_pixels_mut(other, 299)[15] ^= 1;
    assert_true(find(one).images != find(other).images);
    assert_true(find(one).labels == find(other).labels);
    esp_dataset_pixels_mut(other, 299)[15] ^= 1;
    esp_dataset_set_label(other, 299, (esp_dataset_label(other, 299) + 1) % 3);
    assert_true(find(one).images == find(other).images);
    assert_true(find(one).labels != find(other).labels);
    esp_dataset_unref(one);
    esp_dataset_unref(other);
}

static void parts_are_what_they_hold(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_dataset *all = noise_dataset(40, 3, 2, 2, 2, 1), *head = NULL, *rest[2], *held[2];
    expect_ok(esp_dataset_head(all, 40, &head, &err), &err);
    assert_true(is_same(find(all), find(head)));
    for (uint64_t seed = 0; seed < 2; seed++) {
        expect_ok(esp_dataset_split(all, 0.5, seed, &rest[seed], &held[seed], &err), &err);
    }
    assert_true(find(rest[0]).labels == find(rest[1]).labels || find(rest[0]).images != find(rest[1]).images);
    assert_true(find(rest[0]).images != find(rest[1]).images);
    for (int i = 0; i < 2; i++) {
        esp_dataset_unref(rest[i]);
        esp_dataset_unref(held[i]);
    }
    esp_dataset_unref(head);
    esp_dataset_unref(all);
}

static void only_a_sample_of_files_is_read(void **state)
{
    (void)state;
    made_images made = {.width = 6, .height = 5};
    const esp_image_sizes sizes = {.own_channels = 3, .own_height = 5, .own_width = 6};
    esp_dataset *many = made_dataset(&made, 1000, 4, &sizes, false, 0);
    esp_dataset_fingerprint first = find(many);
    assert_int_equal(atomic_load(&made.reads), ESP_FINGERPRINT_IMAGES);
    assert_true(is_same(first, find(many)));
    esp_dataset_unref(many);
    made_images wider = {.width = 7, .height = 5}; /* the same pictures, cut from others */
    const esp_image_sizes crop = {.own_channels = 3, .crop_height = 5, .crop_width = 6};
    esp_dataset *other = made_dataset(&wider, 1000, 4, &crop, false, 0);
    assert_true(first.images != find(other).images && first.labels == find(other).labels);
    esp_dataset_unref(other);
}

static void bad_image_of_the_sample_is_named_or_counts_as_missing(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_dataset_fingerprint out = {7, 7};
    const esp_image_sizes sizes = {.own_channels = 3, .own_height = 5, .own_width = 6};
    made_images whole = {.width = 6, .height = 5};
    made_images made = {.width = 6, .height = 5, .bad = {3}, .bad_count = 1, .bad_status = ESP_FORMAT};
    esp_dataset *strict = made_dataset(&made, 10, 2, &sizes, false, 0);
    expect_failure(esp_dataset_fingerprint_find(strict, &out, &err), ESP_FORMAT, &err, "3");
    assert_true(out.labels == 7 && out.images == 7);
    esp_dataset_unref(strict);
    esp_dataset *lenient = made_dataset(&made, 10, 2, &sizes, true, 0);
    esp_dataset *sound = made_dataset(&whole, 10, 2, &sizes, true, 0);
    assert_true(find(lenient).images != find(sound).images);
    esp_dataset_unref(lenient);
    esp_dataset_unref(sound);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_pixel_of_one_image_in_memory_counts),
        cmocka_unit_test(parts_are_what_they_hold),
        cmocka_unit_test(only_a_sample_of_files_is_read),
        cmocka_unit_test(bad_image_of_the_sample_is_named_or_counts_as_missing),
    };
    return cmocka_run_group_tests_name("fingerprints of images", tests, NULL, NULL);
}
