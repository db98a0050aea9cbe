/* What the tests of passes over blocked images share: images in blocks with gaps between them and NaN in the
 * lanes that belong to no channel, made from and turned back into plain arrays by the definition of the
 * layout. */
#ifndef ESP_TESTS_TENSOR_BLOCKED_CHECK_H
#define ESP_TESTS_TENSOR_BLOCKED_CHECK_H

#include <sys/wait.h>
#include <unistd.h>

#include "unit/tensor/check.h"

#include "tensor/engine.h"
#include "tensor/tensor.h"

/* Lies in the gaps between images: nobody may touch it. */
static const float gap_value = 12345.0f;

typedef struct image_buffer {
    float *memory;
    int64_t count;
    esp_view view;
} image_buffer;

/* Where element `index` of the plain array lies. */
static inline int64_t blocked_index(const esp_view *view, int64_t index)
{
    const int64_t *d = view->shape.dims;
    int64_t pixels = d[2] * d[3], p = index % pixels, c = index / pixels % d[1], n = index / pixels / d[1];
    return n * esp_view_image_stride(view) + (c / 16 * pixels + p) * 16 + c % 16;
}

/* NaN, as floats_new, but where tensors lie: stores past the caches want it. */
static inline float *aligned_floats(int64_t count)
{
    void *block = NULL;
    assert_int_equal(posix_memalign(&block, ESP_ALIGNMENT, (size_t)(count > 0 ? count : 1) * sizeof(float)),
                     0);
    for (int64_t i = 0; i < count; i++)
        ((float *)block)[i] = NAN;
    return block;
}

/* A blocked image of NaN; `gap` floats between images. */
static inline image_buffer buffer_new(esp_shape shape, int64_t gap)
{
    image_buffer b = {.view = {.dtype = ESP_F32, .layout = ESP_LAYOUT_BLOCKED, .shape = shape}};
    int64_t span = shape.dims[0] == 0 ? 0 : esp_view_storage(&b.view) / shape.dims[0];
    b.count = shape.dims[0] == 0 ? 0 : (shape.dims[0] - 1) * (span + gap) + span;
    b.memory = aligned_floats(b.count);
    b.view.data = b.memory;
    b.view.image_stride = gap > 0 ? span + gap : 0;
    for (int64_t n = 0; gap > 0 && n + 1 < shape.dims[0]; n++)
        for (int64_t i = 0; i < gap; i++)
            b.memory[n * (span + gap) + span + i] = gap_value;
    return b;
}

static inline image_buffer buffer_from(esp_shape shape, int64_t gap, const float *plain)
{
    image_buffer b = buffer_new(shape, gap);
    for (int64_t i = 0; i < esp_shape_elements(&shape); i++)
        b.memory[blocked_index(&b.view, i)] = plain[i];
    return b;
}

static inline void buffer_free(image_buffer b)
{
    free(b.memory);
}

/* The values as a plain array (to be freed); the gaps must be as they were. */
static inline float *buffer_read(const image_buffer *b)
{
    const esp_view *view = &b->view;
    int64_t count = esp_shape_elements(&view->shape), batch = view->shape.dims[0];
    float *plain = floats_new(count);
    for (int64_t i = 0; i < count; i++)
        plain[i] = b->memory[blocked_index(view, i)];
    int64_t stride = esp_view_image_stride(view), span = batch == 0 ? 0 : esp_view_storage(view) / batch;
    for (int64_t n = 0; n + 1 < batch; n++)
        for (int64_t i = span; i < stride; i++)
            if (b->memory[n * stride + i] != gap_value)
                fail_msg("a gap between images was written to");
    return plain;
}

static inline void assert_buffer_close(const char *what, const image_buffer *found, const double *expected,
                                       double tolerance)
{
    float *plain = buffer_read(found);
    assert_all_close(what, plain, expected, esp_shape_elements(&found->view.shape), tolerance);
    free(plain);
}

static inline void assert_buffers_have_the_same_bits(const char *what, const image_buffer *found,
                                                     const image_buffer *expected)
{
    float *a = buffer_read(found), *b = buffer_read(expected);
    assert_same_bits(what, a, b, esp_shape_elements(&found->view.shape));
    free(a);
    free(b);
}

static inline esp_shape images(int64_t n, int64_t c, int64_t h, int64_t w)
{
    return esp_shape_make(4, (const int64_t[]){n, c, h, w});
}

/* Channels around multiples of a block more often than others. */
static inline int64_t pick_channels(esp_rng *rng)
{
    static const int64_t wanted[] = {1, 3, 15, 16, 17, 20, 31, 32, 33, 48, 50};
    return wanted[pick(rng, 0, sizeof wanted / sizeof *wanted - 1)];
}

/* No gap, or some. */
static inline int64_t pick_gap(esp_rng *rng)
{
    return pick(rng, 0, 2) == 0 ? 0 : 16 * pick(rng, 1, 9);
}

/* Runs `group` in a process of its own for each instruction set of this processor, named through the
 * environment as a user would; the number of failures. */
static inline int run_with_every_instruction_set(int (*group)(void))
{
    static const char *const names[] = {"plain", "avx2", "avx512"};
    int failures = 0;
    for (int i = 0; i < 3; i++) {
        if (!esp_isa_is_supported((esp_isa)i))
            continue;
        print_message("kernels: %s\n", names[i]);
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            setenv("ESPALIER_KERNELS", names[i], 1);
            exit(group() != 0);
        }
        int state = 1;
        if (child < 0 || waitpid(child, &state, 0) != child || state != 0)
            failures++;
    }
    return failures;
}

#endif
