/* Strided copies and sums, and gather, against an element-by-element walk. */
#include "unit/tensor/check.h"

#include "oracle/oracle.h"
#include "tensor/arrange.h"

/* A view of a buffer of `size` elements: a permutation, flips (negative strides) and, for sources, repeats.
 */
typedef struct strided {
    int64_t strides[ESP_MAX_RANK], origin, size;
} strided;

static strided random_strides(esp_rng *rng, const esp_shape *shape, bool may_repeat)
{
    strided s = {.size = pick(rng, 1, 3)};
    int order[ESP_MAX_RANK];
    for (int d = 0; d < shape->rank; d++)
        order[d] = d;
    for (int d = shape->rank - 1; d > 0; d--) {
        int other = (int)pick(rng, 0, d), kept = order[d];
        order[d] = order[other];
        order[other] = kept;
    }
    if (pick(rng, 0, 1) == 1) /* often the plain order, whose runs are copied as blocks */
        for (int d = 0; d < shape->rank; d++)
            order[d] = shape->rank - 1 - d;
    int64_t stride = pick(rng, 0, 3) == 0 ? 2 : 1;
    for (int i = 0; i < shape->rank; i++) {
        int d = order[i];
        bool repeats = may_repeat && pick(rng, 0, 5) == 0, is_flipped = pick(rng, 0, 7) == 0;
        s.strides[d] = repeats ? 0 : is_flipped ? -stride : stride;
        if (is_flipped && !repeats)
            s.origin += stride * (shape->dims[d] - 1);
        stride *= shape->dims[d] + pick(rng, 0, 1);
    }
    s.size = stride + 2;
    return s;
}

static esp_shape random_shape(esp_rng *rng, int64_t largest)
{
    esp_shape shape = {.rank = (int)pick(rng, 0, 5)};
    for (int d = 0; d < shape.rank; d++)
        shape.dims[d] = pick(rng, 1, largest);
    return shape;
}

static void check_copy(esp_rng *rng, const esp_compute *compute, const esp_shape *shape, size_t element_size)
{
    strided from = random_strides(rng, shape, true), to = random_strides(rng, shape, false);
    unsigned char *source = malloc((size_t)from.size * element_size);
    unsigned char *target = malloc((size_t)to.size * element_size);
    unsigned char *expected = malloc((size_t)to.size * element_size);
    for (size_t i = 0; i < (size_t)from.size * element_size; i++)
        source[i] = (unsigned char)esp_rng_below(rng, 256);
    memset(target, 7, (size_t)to.size * element_size);
    memset(expected, 7, (size_t)to.size * element_size);
    for (int64_t i = 0; i < esp_shape_elements(shape); i++)
        memcpy(expected + (size_t)(to.origin + oracle_strided_offset(shape, to.strides, i)) * element_size,
               source + (size_t)(from.origin + oracle_strided_offset(shape, from.strides, i)) * element_size,
               element_size);
    assert_int_equal(esp_copy_strided(compute, shape, element_size,
                                      source + (size_t)from.origin * element_size, from.strides,
                                      target + (size_t)to.origin * element_size, to.strides),
                     ESP_OK);
    assert_memory_equal(target, expected, (size_t)to.size * element_size);
    free(source);
    free(target);
    free(expected);
}

static void a_strided_copy_moves_each_element_to_its_place(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 60);
    const size_t sizes[] = {1, 4, 8};
    for (int i = 0; i < 600; i++) {
        esp_shape shape = random_shape(&rng, i % 20 == 0 ? 12 : 5);
        check_copy(&rng, &all->compute[i % 4], &shape, sizes[i % 3]);
    }
    esp_shape large = esp_shape_make(2, (const int64_t[]){3, 40000});
    check_copy(&rng, &all->compute[3], &large, 4);
}

static void an_empty_copy_touches_nothing(void **state)
{
    (void)state;
    esp_shape shape = esp_shape_make(2, (const int64_t[]){3, 0});
    const int64_t strides[] = {0, 1};
    assert_int_equal(esp_copy_strided(NULL, &shape, 4, NULL, strides, NULL, strides), ESP_OK);
    assert_int_equal(esp_add_strided(NULL, &shape, NULL, strides, NULL, strides), ESP_OK);
}

static void a_strided_sum_adds_what_meets_in_one_place(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 61);
    for (int i = 0; i < 400; i++) {
        esp_shape shape = random_shape(&rng, 6);
        strided from = random_strides(&rng, &shape, true), to = random_strides(&rng, &shape, true);
        pair source = pair_random(&rng, from.size, -1.0, 1.0), target = pair_random(&rng, to.size, -1.0, 1.0);
        for (int64_t k = 0; k < esp_shape_elements(&shape); k++)
            target.d[to.origin + oracle_strided_offset(&shape, to.strides, k)] +=
                source.d[from.origin + oracle_strided_offset(&shape, from.strides, k)];
        assert_int_equal(esp_add_strided(&all->compute[i % 4], &shape, source.f + from.origin, from.strides,
                                         target.f + to.origin, to.strides),
                         ESP_OK);
        assert_all_close("target", target.f, target.d, target.count, 1e-5);
        pair_free(source);
        pair_free(target);
    }
}

static void sums_that_meet_have_the_same_bits_for_one_two_and_three_threads(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 63);
    enum { ROWS = 300, COLUMNS = 700 };
    esp_shape shape = esp_shape_make(2, (const int64_t[]){ROWS, COLUMNS});
    const int64_t from[] = {COLUMNS, 1}, to[] = {0, 1};
    pair source = pair_random(&rng, ROWS * COLUMNS, -1.0, 1.0);
    float *one = calloc(COLUMNS, sizeof(float)), *many = calloc(COLUMNS, sizeof(float));
    assert_int_equal(esp_add_strided(&all->compute[1], &shape, source.f, from, one, to), ESP_OK);
    for (int i = 0; i < 20; i++) {
        memset(many, 0, COLUMNS * sizeof(float));
        assert_int_equal(esp_add_strided(&all->compute[2 + i % 2], &shape, source.f, from, many, to), ESP_OK);
        assert_same_bits("target", many, one, COLUMNS);
    }
    free(one);
    free(many);
    pair_free(source);
}

static void gather_takes_slices_and_its_gradient_adds_them_back(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 62);
    for (int i = 0; i < 200; i++) {
        int64_t outer = pick(&rng, 1, 4), axis = pick(&rng, 1, 9), inner = pick(&rng, 1, 20),
                count = pick(&rng, 1, 12);
        int64_t indices[12];
        for (int64_t j = 0; j < count; j++)
            indices[j] = pick(&rng, 0, axis - 1);
        pair x = pair_random(&rng, outer * axis * inner, -1.0, 1.0), y = pair_new(outer * count * inner);
        pair dx = pair_new(x.count);
        for (int64_t k = 0; k < y.count; k++) {
            int64_t at = (k / inner / count * axis + indices[k / inner % count]) * inner + k % inner;
            y.d[k] = x.d[at];
            dx.d[at] += y.d[k];
        }
        const esp_compute *compute = &all->compute[i % 4];
        assert_int_equal(esp_gather_forward(compute, outer, axis, inner, indices, count, 4, x.f, y.f),
                         ESP_OK);
        assert_all_close("y", y.f, y.d, y.count, 0.0);
        assert_int_equal(esp_gather_backward(compute, outer, axis, inner, indices, count, y.f, dx.f), ESP_OK);
        assert_all_close("dx", dx.f, dx.d, dx.count, 1e-6);
        pair_free(x);
        pair_free(y);
        pair_free(dx);
    }
}

static void fill_sets_exactly_count_values(void **state)
{
    (void)state;
    float values[5] = {1.0f, 1.0f, 1.0f, 1.0f, 1.0f};
    esp_fill_f32(values + 1, 3, 2.5f);
    assert_true(values[0] == 1.0f && values[1] == 2.5f && values[3] == 2.5f && values[4] == 1.0f);
}

static void a_cancelled_run_says_so(void **state)
{
    esp_cancel cancel;
    esp_compute compute = cancelled_compute(*state, &cancel);
    esp_shape shape = esp_shape_make(1, (const int64_t[]){1});
    const int64_t strides[] = {1}, indices[] = {0};
    float x[1] = {1.0f}, y[1] = {0.0f};
    assert_int_equal(esp_copy_strided(&compute, &shape, 4, x, strides, y, strides), ESP_CANCELLED);
    assert_int_equal(esp_add_strided(&compute, &shape, x, strides, y, strides), ESP_CANCELLED);
    assert_int_equal(esp_gather_forward(&compute, 1, 1, 1, indices, 1, 4, x, y), ESP_CANCELLED);
    assert_int_equal(esp_gather_backward(&compute, 1, 1, 1, indices, 1, x, y), ESP_CANCELLED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_strided_copy_moves_each_element_to_its_place),
        cmocka_unit_test(an_empty_copy_touches_nothing),
        cmocka_unit_test(a_strided_sum_adds_what_meets_in_one_place),
        cmocka_unit_test(sums_that_meet_have_the_same_bits_for_one_two_and_three_threads),
        cmocka_unit_test(gather_takes_slices_and_its_gradient_adds_them_back),
        cmocka_unit_test(fill_sets_exactly_count_values),
        cmocka_unit_test(a_cancelled_run_says_so),
    };
    return cmocka_run_group_tests(tests, contexts_setup, contexts_teardown);
}
