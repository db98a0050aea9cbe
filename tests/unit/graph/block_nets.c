/* See block_nets.h. */
#include "unit/graph/block_nets.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compute.h"

enum { BATCH = 3, SIZE = 10 };

const esp_engine plain_images = {.isa = ESP_ISA_PLAIN};

int block_engines(esp_engine engines[6])
{
    int count = 0;
    for (int isa = ESP_ISA_PLAIN; isa <= ESP_ISA_AVX512; isa++) {
        for (int winograd = 0; winograd < 2 && esp_isa_is_supported((esp_isa)isa); winograd++)
            engines[count++] =
                (esp_engine){.isa = (esp_isa)isa, .has_winograd = winograd != 0, .has_blocked = true};
    }
    return count;
}

const char *engine_text(const esp_engine *engine)
{
    static char text[64];
    snprintf(text, sizeof text, "%s%s", esp_isa_name(engine->isa), engine->has_winograd ? "+winograd" : "");
    return text;
}

/* ---- pieces ---- */

static int scaled_constant(net *n, esp_shape shape, float scale)
{
    esp_tensor *tensor = tensor_f32(shape, NULL);
    fill_random(&n->rng, esp_tensor_f32_mut(tensor), esp_tensor_elements(tensor), -scale, scale);
    return net_tensor(n, tensor);
}

static int grouped_conv(net *n, int x, int channels, int filters, int kernel, int stride, int group)
{
    float scale = sqrtf(3.0f / (float)(channels / group * kernel * kernel));
    int w = scaled_constant(n, S4(filters, channels / group, kernel, kernel), scale);
    int pad = kernel / 2;
    return net_add(
        n, "Conv", IN(x, w, scaled_constant(n, S1(filters), 0.2f)),
        AT(INTS("pads", pad, pad, pad, pad), INTS("strides", stride, stride), esp_attr_int("group", group)));
}

int block_conv(net *n, int x, int channels, int filters, int kernel, int stride)
{
    return grouped_conv(n, x, channels, filters, kernel, stride, 1);
}

int block_norm(net *n, int x, int channels)
{
    esp_shape c = S1(channels);
    return net_add(n, "BatchNormalization",
                   IN(x, net_positive(n, c), scaled_constant(n, c, 0.3f), scaled_constant(n, c, 0.3f),
                      net_positive(n, c)),
                   NULL);
}

int block_relu(net *n, int x)
{
    return net_add(n, "Relu", IN(x), NULL);
}

static int bend(net *n, int x, bool is_smooth)
{
    return is_smooth ? net_add(n, "Tanh", IN(x), NULL) : block_relu(n, x);
}

int block_concat(net *n, const int *inputs)
{
    return net_add(n, "Concat", inputs, AT(esp_attr_int("axis", 1)));
}

static int pool(net *n, const char *op, int x, int kernel, int stride, int pad)
{
    return net_add(n, op, IN(x),
                   AT(INTS("kernel_shape", kernel, kernel), INTS("strides", stride, stride),
                      INTS("pads", pad, pad, pad, pad)));
}

int block_classifier(net *n, int x, int channels)
{
    int flat = net_add(n, "Flatten", IN(net_add(n, "GlobalAveragePool", IN(x), NULL)), NULL);
    return net_add(n, "Gemm", IN(flat, net_constant(n, S2(5, channels), NULL), net_constant(n, S1(5), NULL)),
                   AT(esp_attr_int("transB", 1)));
}

static net start(int *x)
{
    net n = net_new(13);
    *x = net_input(&n, "x", S4(ESP_DIM_BATCH, 3, SIZE, SIZE));
    return n;
}

static esp_graph *finish(net *n, int y)
{
    net_output(n, y);
    return net_finish(n);
}

/* ---- networks ---- */

static int residual_block(net *n, int x, int channels, int filters, int stride, bool is_smooth)
{
    int a = block_norm(n, block_conv(n, x, channels, filters, 3, stride), filters);
    int b = block_norm(n, block_conv(n, bend(n, a, is_smooth), filters, filters, 3, 1), filters);
    int way = x;
    if (channels != filters || stride != 1)
        way = block_norm(n, block_conv(n, x, channels, filters, 1, stride), filters);
    return bend(n, net_add(n, "Add", IN(b, way), NULL), is_smooth);
}

esp_graph *residual_net(bool is_smooth)
{
    int x;
    net n = start(&x);
    x = bend(&n, block_norm(&n, block_conv(&n, x, 3, 16, 3, 1), 16), is_smooth);
    x = residual_block(&n, x, 16, 16, 1, is_smooth);
    x = residual_block(&n, x, 16, 32, 2, is_smooth);
    x = residual_block(&n, x, 32, 20, 1, is_smooth); /* 20: blocks with empty lanes */
    return finish(&n, block_classifier(&n, x, 20));
}

static int dense_layer(net *n, int x, int channels, bool is_smooth)
{
    int a = bend(n, block_norm(n, x, channels), is_smooth);
    a = bend(n, block_norm(n, block_conv(n, a, channels, 32, 1, 1), 32), is_smooth);
    return block_conv(n, a, 32, 16, 3, 1);
}

esp_graph *dense_net(bool is_smooth)
{
    int x;
    net n = start(&x);
    int a = block_conv(&n, x, 3, 16, 3, 1);
    int b = dense_layer(&n, a, 16, is_smooth);
    int c = dense_layer(&n, block_concat(&n, IN(a, b)), 32, is_smooth);
    int d = dense_layer(&n, block_concat(&n, IN(a, b, c)), 48, is_smooth);
    int all = block_norm(&n, block_concat(&n, IN(a, b, c, d)), 64);
    int half = pool(&n, "AveragePool", block_conv(&n, bend(&n, all, is_smooth), 64, 32, 1, 1), 2, 2, 0);
    int next = block_concat(&n, IN(half, dense_layer(&n, half, 32, is_smooth)));
    next = block_concat(&n, IN(next, dense_layer(&n, next, 48, is_smooth)));
    return finish(&n, block_classifier(&n, bend(&n, block_norm(&n, next, 64), is_smooth), 64));
}

static int inception_block(net *n, int x, int channels, int last, bool is_smooth)
{
    int a = bend(n, block_conv(n, x, channels, 16, 1, 1), is_smooth);
    int b = bend(n, block_conv(n, x, channels, 20, 1, 1), is_smooth);
    b = bend(n, block_norm(n, block_conv(n, b, 20, 32, 3, 1), 32), is_smooth);
    int c = block_conv(n, pool(n, is_smooth ? "AveragePool" : "MaxPool", x, 3, 1, 1), channels, last, 1, 1);
    return block_concat(n, IN(a, b, c));
}

esp_graph *inception_net(bool is_smooth)
{
    int x;
    net n = start(&x);
    x = pool(&n, is_smooth ? "AveragePool" : "MaxPool", block_conv(&n, x, 3, 24, 3, 1), 3, 2, 1);
    x = inception_block(&n, x, 24, 24, is_smooth); /* 16 + 32 + 24 */
    x = inception_block(&n, x, 72, 16, is_smooth);
    int y = block_concat(&n, IN(block_conv(&n, x, 64, 20, 1, 1), x)); /* begins inside a block */
    return finish(&n, block_classifier(&n, y, 84));
}

esp_graph *mobile_net(bool is_smooth)
{
    int x;
    net n = start(&x);
    int low = net_constant(&n, shape_of(0), (float[]){0.0f}),
        high = net_constant(&n, shape_of(0), (float[]){6.0f});
    x = block_conv(&n, x, 3, 16, 3, 2);
    int wide = block_norm(&n, block_conv(&n, x, 16, 40, 1, 1), 40);
    wide = is_smooth ? bend(&n, wide, true) : net_add(&n, "Clip", IN(wide, low, high), NULL);
    wide = bend(&n, grouped_conv(&n, wide, 40, 40, 3, 1, 40), is_smooth);
    int s = net_add(&n, "GlobalAveragePool", IN(wide), NULL);
    s = net_add(&n, "Sigmoid",
                IN(block_conv(&n, bend(&n, block_conv(&n, s, 40, 16, 1, 1), is_smooth), 16, 40, 1, 1)), NULL);
    wide = net_add(&n, "Mul", IN(wide, s), NULL);
    int y = net_add(&n, "Add", IN(block_conv(&n, wide, 40, 16, 1, 1), x), NULL);
    y = grouped_conv(&n, y, 16, 32, 3, 1, 2);
    int mean = net_add(&n, "ReduceMean", IN(y), AT(INTS("axes", 2, 3), esp_attr_int("keepdims", 0)));
    return finish(&n, net_add(&n, "Gemm",
                              IN(mean, net_constant(&n, S2(5, 32), NULL), net_constant(&n, S1(5), NULL)),
                              AT(esp_attr_int("transB", 1))));
}

esp_graph *vgg_net(bool is_smooth)
{
    int x;
    net n = start(&x);
    x = bend(&n, block_conv(&n, x, 3, 16, 3, 1), is_smooth);
    x = bend(&n, block_conv(&n, x, 16, 32, 3, 1), is_smooth);
    x = pool(&n, is_smooth ? "AveragePool" : "MaxPool", x, 2, 2, 0);
    x = net_add(&n, "Flatten", IN(x), NULL);
    int features = 32 * (SIZE / 2) * (SIZE / 2);
    x = net_add(&n, "Gemm",
                IN(x, scaled_constant(&n, S2(24, features), 0.06f), net_constant(&n, S1(24), NULL)),
                AT(esp_attr_int("transB", 1)));
    x = net_add(&n, "MatMul", IN(bend(&n, x, is_smooth), net_constant(&n, S2(24, 5), NULL)), NULL);
    return finish(&n, net_add(&n, "Softmax", IN(x), NULL));
}

block_net_fn *const block_nets[] = {residual_net, dense_net, inception_net, mobile_net, vgg_net};
const int block_net_count = sizeof block_nets / sizeof *block_nets;

/* ---- random networks ---- */

enum { MOST_VALUES = 40 };

typedef struct maze {
    net n;
    int values[MOST_VALUES], channels[MOST_VALUES];
    int count;
    bool is_smooth;
} maze;

static int pick(maze *m)
{
    return (int)esp_rng_below(&m->n.rng, (uint64_t)m->count);
}

/* Another value of as many channels, maybe the same. */
static int pick_like(maze *m, int a)
{
    int b = pick(m);
    while (m->channels[b] != m->channels[a])
        b = (b + 1) % m->count;
    return b;
}

static int line(maze *m, int channels)
{
    return net_positive(&m->n, esp_rng_below(&m->n.rng, 2) == 0 ? S3(channels, 1, 1) : S4(1, channels, 1, 1));
}

static int add_random(maze *m, int *channels)
{
    static const int widths[] = {16, 20, 32, 37};
    net *n = &m->n;
    int at = pick(m), a = m->values[at], b = m->values[pick_like(m, at)], c = m->channels[at];
    int width = widths[esp_rng_below(&n->rng, 4)];
    *channels = c;
    switch (esp_rng_below(&n->rng, 16)) {
    case 0:
    case 1:
        *channels = width;
        return block_conv(n, a, c, width, 3, 1);
    case 2:
        *channels = width;
        return block_conv(n, a, c, width, 1, 1);
    case 3:
    case 4:
        return block_norm(n, a, c);
    case 5:
    case 6:
        return bend(n, a, m->is_smooth);
    case 7:
        return net_add(n, "Add", IN(a, b), NULL);
    case 8:
        return net_add(n, "Sum", IN(a, b, m->values[pick_like(m, at)]), NULL);
    case 9:
        return net_add(n, esp_rng_below(&n->rng, 2) == 0 ? "Mul" : "Add", IN(a, line(m, c)), NULL);
    case 10:
        /* zeros have no gradient worth comparing once they are normalised */
        return net_add(n, a == b ? "Add" : "Sub", IN(a, b), NULL);
    case 11:
        return net_add(n, "Identity", IN(a), NULL);
    case 12:
        return pool(n, m->is_smooth ? "AveragePool" : "MaxPool", a, 3, 1, 1);
    case 13:
        return net_add(n, "Sigmoid", IN(a), NULL);
    case 14:
        return net_add(n, "Transpose", IN(net_add(n, "Transpose", IN(a), AT(INTS("perm", 0, 1, 3, 2)))),
                       AT(INTS("perm", 0, 1, 3, 2)));
    default:
        break;
    }
    int other = pick(m);
    if (c + m->channels[other] > 128)
        return net_add(n, "Dropout", IN(a), NULL);
    *channels = c + m->channels[other];
    return block_concat(n, IN(a, m->values[other]));
}

esp_graph *random_block_net(uint64_t seed, bool is_smooth)
{
    maze m = {.n = net_new(13), .is_smooth = is_smooth};
    esp_rng_seed(&m.n.rng, seed);
    int x = net_input(&m.n, "x", S4(ESP_DIM_BATCH, 3, 6, 6));
    m.values[0] = block_conv(&m.n, x, 3, 16, 3, 1);
    m.channels[0] = 16;
    m.count = 1;
    int wanted = 8 + (int)esp_rng_below(&m.n.rng, MOST_VALUES - 9);
    while (m.count < wanted) {
        int channels;
        /* normalised, or sums of sums grow without bound */
        int y = add_random(&m, &channels);
        m.values[m.count] = m.count % 5 == 4 ? block_norm(&m.n, y, channels) : y;
        m.channels[m.count++] = channels;
    }
    net_output(&m.n, m.values[m.count - 1]);
    int middle = m.values[m.count / 2];
    net_output(&m.n, middle);
    net_output(&m.n, block_classifier(&m.n, m.values[m.count - 2], m.channels[m.count - 2]));
    return net_finish(&m.n);
}

/* ---- runs ---- */

static float *gather_outputs(const esp_graph *graph, const esp_exec *exec, int64_t *count)
{
    *count = 0;
    for (int i = 0; i < esp_graph_output_count(graph); i++)
        *count += view_count(esp_exec_output(exec, i));
    float *all = malloc((size_t)*count * sizeof *all), *next = all;
    assert_non_null(all);
    for (int i = 0; i < esp_graph_output_count(graph); i++) {
        const esp_view *y = esp_exec_output(exec, i);
        assert_int_equal(y->layout, ESP_LAYOUT_PLAIN);
        memcpy(next, view_data(y), (size_t)view_count(y) * sizeof *all);
        next += view_count(y);
    }
    return all;
}

static void fill_input(esp_exec *exec)
{
    esp_rng rng;
    esp_rng_seed(&rng, 11);
    const esp_view *x = esp_exec_input(exec, 0);
    fill_random(&rng, view_data(x), view_count(x), -1, 1);
}

float *evaluate_under(const esp_graph *graph, const esp_engine *engine, esp_params *params, int threads,
                      int64_t *count)
{
    esp_error err = {0};
    esp_pool *pool;
    must(esp_pool_new(threads, &pool, &err), &err);
    esp_compute compute = {.pool = pool};
    esp_exec *exec = exec_new(
        graph, (esp_exec_options){.batch = BATCH, .engine = engine, .params = params, .slots = threads});
    fill_input(exec);
    for (int run = 0; run < 2; run++) /* the second run finds what the first left behind */
        must(esp_exec_forward(exec, &compute, &err), &err);
    float *all = gather_outputs(graph, exec, count);
    esp_exec_free(exec);
    esp_pool_free(pool);
    return all;
}

float *train_under(const esp_graph *graph, const esp_engine *engine, esp_params *params, int threads,
                   bool freezes_norm, float **input_grad, int64_t *count)
{
    esp_error err = {0};
    esp_pool *pool;
    must(esp_pool_new(threads, &pool, &err), &err);
    esp_compute compute = {.pool = pool};
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = BATCH,
                                                        .engine = engine,
                                                        .params = params,
                                                        .is_training = true,
                                                        .seed = 5,
                                                        .freezes_norm = freezes_norm,
                                                        .slots = threads});
    must(esp_exec_want_input_grad(exec, 0, &err), &err);
    fill_input(exec);
    must(esp_exec_forward(exec, &compute, &err), &err);
    esp_rng rng;
    esp_rng_seed(&rng, 12);
    for (int i = 0; i < esp_graph_output_count(graph); i++) {
        const esp_view *dy = esp_exec_output_grad(exec, i);
        assert_int_equal(dy->layout, ESP_LAYOUT_PLAIN);
        fill_random(&rng, view_data(dy), view_count(dy), -1, 1);
    }
    must(esp_exec_backward(exec, &compute, &err), &err);
    float *all = gather_outputs(graph, exec, count);
    const esp_view *dx = esp_exec_input_grad(exec, 0);
    *input_grad = malloc((size_t)view_count(dx) * sizeof(float));
    assert_non_null(*input_grad);
    memcpy(*input_grad, view_data(dx), (size_t)view_count(dx) * sizeof(float));
    esp_exec_free(exec);
    esp_pool_free(pool);
    return all;
}

double relative_error(const float *a, const float *b, int64_t count)
{
    double difference = 0.0, size = 0.0;
    for (int64_t i = 0; i < count; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(difference) / (sqrt(size) + 1e-6);
}
