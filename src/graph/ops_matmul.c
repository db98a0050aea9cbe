/* Gemm (ONNX -7, -9, -11, -13): y[M,N] = alpha * A' * B' + beta * C. MatMul (-1, -9, -13): NumPy's matmul,
 * with batch dims that broadcast.
 *
 * The fully connected layer as exporters write it, x * w^T + bias, has a kernel of its own in executors that
 * use more than plain images; it clips on the way out when a Relu or Clip follows. */
#include <inttypes.h>

#include "graph/ops.h"
#include "tensor/arrange.h"
#include "tensor/blas.h"
#include "tensor/dense.h"
#include "tensor/elementwise.h"
#include "tensor/strides.h"

typedef struct gemm_plan {
    bool transpose_a, transpose_b;
    int64_t m, n, k;
    float alpha, beta;
    bool is_dense; /* dense.h computes it */
} gemm_plan;

esp_status esp_op_gemm_infer(esp_infer_context *context, esp_error *err)
{
    esp_status status = esp_op_expect_f32(context, err);
    if (status == ESP_OK)
        status = esp_op_expect_rank(context, 0, 2, "MxK", err);
    if (status == ESP_OK)
        status = esp_op_expect_rank(context, 1, 2, "KxN", err);
    if (status != ESP_OK)
        return status;
    const esp_shape *a = &context->inputs[0]->shape, *b = &context->inputs[1]->shape;
    int ta = esp_node_int(context->node, "transA", 0) != 0,
        tb = esp_node_int(context->node, "transB", 0) != 0;
    char a_text[96], b_text[96];
    if (a->dims[1 - ta] != b->dims[tb])
        return esp_fail(err, ESP_SHAPE, "%s%s times %s%s does not fit",
                        esp_shape_format(a, a_text, sizeof a_text), ta ? " transposed" : "",
                        esp_shape_format(b, b_text, sizeof b_text), tb ? " transposed" : "");
    esp_shape y = {.rank = 2, .dims = {a->dims[ta], b->dims[1 - tb]}}, wide;
    const esp_view *c = esp_infer_input(context, 2);
    if (c != NULL) {
        status = esp_shape_broadcast(&c->shape, &y, &wide, err);
        if (status == ESP_OK && !esp_shape_equal(&wide, &y))
            status = esp_fail(err, ESP_SHAPE, "bias is %s, expected to broadcast to %s",
                              esp_shape_format(&c->shape, a_text, sizeof a_text),
                              esp_shape_format(&y, b_text, sizeof b_text));
    }
    context->outputs[0].dtype = ESP_F32;
    context->outputs[0].shape = y;
    return status;
}

static bool is_one(float value)
{
    return value >= 1.0f && value <= 1.0f;
}

static bool is_dense(const esp_op_context *context, const gemm_plan *plan)
{
    const esp_view *c = esp_op_input(context, 2);
    bool is_line = c == NULL || (c->shape.rank > 0 && c->shape.dims[c->shape.rank - 1] == plan->n &&
                                 esp_shape_elements(&c->shape) == plan->n);
    return context->engine != NULL && !plan->transpose_a && plan->transpose_b && is_one(plan->alpha) &&
           (c == NULL || is_one(plan->beta)) && is_line;
}

bool esp_op_gemm_is_dense(const esp_op_context *context)
{
    gemm_plan plan;
    esp_op_gemm_prepare(context, &plan);
    return plan.is_dense;
}

const char *esp_op_gemm_method(const esp_op_context *context)
{
    return ((const gemm_plan *)context->plan)->is_dense ? "dense" : "gemm";
}

void esp_op_gemm_prepare(const esp_op_context *context, void *memory)
{
    gemm_plan *plan = memory;
    const esp_shape *a = &context->inputs[0]->shape, *b = &context->inputs[1]->shape;
    int ta = esp_node_int(context->node, "transA", 0) != 0,
        tb = esp_node_int(context->node, "transB", 0) != 0;
    *plan = (gemm_plan){.transpose_a = ta,
                        .transpose_b = tb,
                        .m = a->dims[ta],
                        .n = b->dims[1 - tb],
                        .k = b->dims[tb],
                        .alpha = esp_node_float(context->node, "alpha", 1.0f),
                        .beta = esp_node_float(context->node, "beta", 1.0f)};
    plan->is_dense = is_dense(context, plan);
}

esp_status esp_op_gemm_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    gemm_plan local;
    const gemm_plan *plan = esp_op_plan(context, &local);
    const esp_view *a = context->inputs[0], *b = context->inputs[1], *c = esp_op_input(context, 2);
    const esp_view *y = context->outputs[0];
    if (plan->is_dense) {
        const esp_fused *fused = context->fused;
        esp_dense dense = {.rows = plan->m,
                           .filters = plan->n,
                           .channels = plan->k,
                           .bias = c == NULL ? NULL : esp_view_f32(c),
                           .clips = fused->clips,
                           .low = fused->low,
                           .high = fused->high};
        return esp_dense_forward(context->compute, context->engine, &dense, esp_view_f32(a), esp_view_f32(b),
                                 esp_view_f32(y));
    }
    if (c != NULL) {
        int64_t c_strides[ESP_MAX_RANK], y_strides[ESP_MAX_RANK];
        esp_broadcast_strides(&c->shape, y->shape.rank, c_strides);
        esp_shape_strides(&y->shape, y_strides);
        esp_status status = esp_copy_strided(context->compute, &y->shape, sizeof(float), c->data, c_strides,
                                             y->data, y_strides);
        if (status != ESP_OK)
            return status;
    }
    return esp_gemm(context->compute, plan->transpose_a, plan->transpose_b, plan->m, plan->n, plan->k,
                    plan->alpha, esp_view_f32(a), a->shape.dims[1], esp_view_f32(b), b->shape.dims[1],
                    c == NULL ? 0.0f : plan->beta, esp_view_f32(y), plan->n);
}

/* dC: dy summed over broadcast axes, times beta. */
static esp_status gemm_bias_gradient(const esp_op_context *context, float beta, const esp_view *dc)
{
    esp_status status = esp_op_reduce_to(context->compute, context->output_grads[0], dc);
    if (status == ESP_OK && (beta < 1.0f || beta > 1.0f))
        status = esp_unary_forward(context->compute, ESP_UNARY_SCALE, beta, 0.0f,
                                   esp_shape_elements(&dc->shape), esp_view_f32(dc), esp_view_f32(dc));
    return status;
}

/* With Y = alpha * A' B': dA' = alpha * dY B'^T and dB' = alpha * A'^T dY; a stored transpose swaps the
 * factors. */
esp_status esp_op_gemm_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    gemm_plan local;
    const gemm_plan *p = esp_op_plan(context, &local);
    const float *a = esp_view_f32(context->inputs[0]), *b = esp_view_f32(context->inputs[1]);
    int64_t lda = context->inputs[0]->shape.dims[1], ldb = context->inputs[1]->shape.dims[1];
    const float *dy = esp_view_f32(context->output_grads[0]);
    const esp_view *da = esp_op_input_grad(context, 0), *db = esp_op_input_grad(context, 1);
    const esp_view *dc = esp_op_input_grad(context, 2);
    esp_status status = ESP_OK;
    if (da != NULL && p->transpose_a) /* dA[K,M] = B' dY^T */
        status = esp_gemm(context->compute, p->transpose_b, true, p->k, p->m, p->n, p->alpha, b, ldb, dy,
                          p->n, 0.0f, esp_view_f32(da), lda);
    else if (da != NULL) /* dA[M,K] = dY B'^T */
        status = esp_gemm(context->compute, false, !p->transpose_b, p->m, p->k, p->n, p->alpha, dy, p->n, b,
                          ldb, 0.0f, esp_view_f32(da), lda);
    if (status == ESP_OK && db != NULL && p->transpose_b) /* dB[N,K] = dY^T A' */
        status = esp_gemm(context->compute, true, p->transpose_a, p->n, p->k, p->m, p->alpha, dy, p->n, a,
                          lda, 0.0f, esp_view_f32(db), ldb);
    else if (status == ESP_OK && db != NULL) /* dB[K,N] = A'^T dY */
        status = esp_gemm(context->compute, !p->transpose_a, false, p->k, p->n, p->m, p->alpha, a, lda, dy,
                          p->n, 0.0f, esp_view_f32(db), ldb);
    if (status == ESP_OK && dc != NULL)
        status = gemm_bias_gradient(context, p->beta, dc);
    return status;
}

int64_t esp_op_gemm_macs(const esp_infer_context *context)
{
    int tb = esp_node_int(context->node, "transB", 0) != 0;
    return esp_shape_elements(&context->outputs[0].shape) * context->inputs[1]->shape.dims[tb];
}

/* A layer when the data comes in as rows; a transposed input has no filters to speak of. */
bool esp_op_gemm_layer(const esp_node *node, esp_layer_form *form)
{
    int tb = esp_node_int(node, "transB", 0) != 0;
    *form = (esp_layer_form){.weight_input = 1,
                             .bias_input = node->input_count > 2 && node->inputs[2] >= 0 ? 2 : -1,
                             .filter_axis = 1 - tb,
                             .channel_axis = tb,
                             .is_conv = false};
    return esp_node_int(node, "transA", 0) == 0;
}

/* ---- MatMul ---- */

typedef struct matmul_plan {
    int64_t m, n, k;
    int64_t batches;                                          /* products to make */
    esp_shape batch;                                          /* broadcast batch dims */
    int64_t a_strides[ESP_MAX_RANK], b_strides[ESP_MAX_RANK]; /* in matrices, over `batch` */
} matmul_plan;

_Static_assert(sizeof(matmul_plan) <= ESP_OP_PLAN_MAX, "a plan fits its slot");

/* The shape with a 1-D operand made a matrix (row or column), as NumPy does. */
static esp_shape as_matrix(const esp_shape *shape, bool is_left)
{
    if (shape->rank != 1)
        return *shape;
    int64_t size = shape->dims[0];
    return is_left ? (esp_shape){.rank = 2, .dims = {1, size}} : (esp_shape){.rank = 2, .dims = {size, 1}};
}

static esp_shape batch_dims(const esp_shape *matrix)
{
    return esp_shape_make(matrix->rank - 2, matrix->dims);
}

esp_status esp_op_matmul_infer(esp_infer_context *context, esp_error *err)
{
    esp_status status = esp_op_expect_f32(context, err);
    if (status != ESP_OK)
        return status;
    const esp_shape *a_shape = &context->inputs[0]->shape, *b_shape = &context->inputs[1]->shape;
    esp_shape a = as_matrix(a_shape, true), b = as_matrix(b_shape, false);
    char a_text[96], b_text[96];
    if (a.rank < 2 || b.rank < 2 || a.dims[a.rank - 1] != b.dims[b.rank - 2])
        return esp_fail(err, ESP_SHAPE, "%s times %s does not fit",
                        esp_shape_format(a_shape, a_text, sizeof a_text),
                        esp_shape_format(b_shape, b_text, sizeof b_text));
    esp_shape a_batch = batch_dims(&a), b_batch = batch_dims(&b), y;
    status = esp_shape_broadcast(&a_batch, &b_batch, &y, err);
    if (status != ESP_OK)
        return status;
    if (a_shape->rank > 1)
        y.dims[y.rank++] = a.dims[a.rank - 2];
    if (b_shape->rank > 1)
        y.dims[y.rank++] = b.dims[b.rank - 1];
    context->outputs[0].dtype = ESP_F32;
    context->outputs[0].shape = y;
    return ESP_OK;
}

void esp_op_matmul_prepare(const esp_op_context *context, void *plan_memory)
{
    matmul_plan *plan = plan_memory;
    esp_shape a = as_matrix(&context->inputs[0]->shape, true),
              b = as_matrix(&context->inputs[1]->shape, false);
    *plan = (matmul_plan){.m = a.dims[a.rank - 2], .k = a.dims[a.rank - 1], .n = b.dims[b.rank - 1]};
    esp_shape a_batch = batch_dims(&a), b_batch = batch_dims(&b);
    esp_shape_broadcast(&a_batch, &b_batch, &plan->batch, NULL); /* infer has accepted it */
    if (esp_shape_elements(&b_batch) == 1) {
        /* One right-hand matrix: all rows of A in one product. */
        plan->m *= esp_shape_elements(&a_batch);
        plan->batch = (esp_shape){0};
    } else {
        esp_broadcast_strides(&a_batch, plan->batch.rank, plan->a_strides);
        esp_broadcast_strides(&b_batch, plan->batch.rank, plan->b_strides);
    }
    plan->batches = esp_shape_elements(&plan->batch);
}

esp_status esp_op_matmul_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    matmul_plan local;
    const matmul_plan *p = esp_op_plan(context, &local);
    const float *a = esp_view_f32(context->inputs[0]), *b = esp_view_f32(context->inputs[1]);
    float *y = esp_view_f32(context->outputs[0]);
    int64_t index[ESP_MAX_RANK] = {0};
    esp_status status = ESP_OK;
    for (int64_t i = 0; status == ESP_OK && i < p->batches; i++, esp_index_next(&p->batch, index)) {
        const float *a_at = a + esp_index_offset(index, p->a_strides, p->batch.rank) * p->m * p->k;
        const float *b_at = b + esp_index_offset(index, p->b_strides, p->batch.rank) * p->k * p->n;
        status = esp_gemm(context->compute, false, false, p->m, p->n, p->k, 1.0f, a_at, p->k, b_at, p->n,
                          0.0f, y + i * p->m * p->n, p->n);
    }
    return status;
}

/* dA = dY B^T, dB = A^T dY, added up where an operand was repeated. */
esp_status esp_op_matmul_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    matmul_plan local;
    const matmul_plan *p = esp_op_plan(context, &local);
    const float *a = esp_view_f32(context->inputs[0]), *b = esp_view_f32(context->inputs[1]);
    const float *dy = esp_view_f32(context->output_grads[0]);
    const esp_view *da = context->input_grads[0], *db = context->input_grads[1];
    int64_t index[ESP_MAX_RANK] = {0};
    esp_status status = ESP_OK;
    if (da != NULL)
        esp_fill_f32(esp_view_f32(da), esp_shape_elements(&da->shape), 0.0f);
    if (db != NULL)
        esp_fill_f32(esp_view_f32(db), esp_shape_elements(&db->shape), 0.0f);
    for (int64_t i = 0; status == ESP_OK && i < p->batches; i++, esp_index_next(&p->batch, index)) {
        int64_t a_at = esp_index_offset(index, p->a_strides, p->batch.rank) * p->m * p->k;
        int64_t b_at = esp_index_offset(index, p->b_strides, p->batch.rank) * p->k * p->n;
        const float *dy_at = dy + i * p->m * p->n;
        if (da != NULL)
            status = esp_gemm(context->compute, false, true, p->m, p->k, p->n, 1.0f, dy_at, p->n, b + b_at,
                              p->n, 1.0f, esp_view_f32(da) + a_at, p->k);
        if (status == ESP_OK && db != NULL)
            status = esp_gemm(context->compute, true, false, p->k, p->n, p->m, 1.0f, a + a_at, p->k, dy_at,
                              p->n, 1.0f, esp_view_f32(db) + b_at, p->n);
    }
    return status;
}

int64_t esp_op_matmul_macs(const esp_infer_context *context)
{
    const esp_shape *a = &context->inputs[0]->shape;
    return esp_shape_elements(&context->outputs[0].shape) * a->dims[a->rank - 1];
}

bool esp_op_matmul_layer(const esp_node *node, esp_layer_form *form)
{
    (void)node;
    *form = (esp_layer_form){
        .weight_input = 1, .bias_input = -1, .filter_axis = 1, .channel_axis = 0, .is_conv = false};
    return true;
}
