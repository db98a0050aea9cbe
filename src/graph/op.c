/* The op table's rows, made from ops.def, and what works on any row: looking one up, running one once. */
#include "graph/op.h"

#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "graph/ops.h"
#include "tensor/blas.h"

#define ATTRS(...)                                                                                           \
    .attrs = (const esp_attr_spec[])                                                                         \
    {                                                                                                        \
        __VA_ARGS__,                                                                                         \
        {                                                                                                    \
            NULL, ESP_ATTR_INT, NULL                                                                         \
        }                                                                                                    \
    }

#define ESP_OP_ROW(name_text, since, until, in_min, in_max, out_min, out_max, channel_rule, ...)             \
    {.name = (name_text),                                                                                    \
     .opset_since = (since),                                                                                 \
     .opset_until = (until),                                                                                 \
     .input_min = (in_min),                                                                                  \
     .input_max = (in_max),                                                                                  \
     .output_min = (out_min),                                                                                \
     .output_max = (out_max),                                                                                \
     .rule = ESP_CHANNEL_##channel_rule,                                                                     \
     __VA_ARGS__},

static const esp_op rows[] = {
#include "graph/ops.def"
};

enum { ROW_COUNT = sizeof rows / sizeof *rows };

int esp_op_count(void)
{
    return ROW_COUNT;
}

const esp_op *esp_op_at(int index)
{
    return &rows[index];
}

/* The row of a similarly named operator. */
static const esp_op *nearest_row(const char *name)
{
    const char *names[ROW_COUNT];
    for (int i = 0; i < ROW_COUNT; i++)
        names[i] = rows[i].name;
    const char *word = esp_nearest_word(name, names, ROW_COUNT);
    for (int i = 0; word != NULL && i < ROW_COUNT; i++) {
        if (strcmp(rows[i].name, word) == 0)
            return &rows[i];
    }
    return NULL;
}

const esp_op *esp_op_find(const char *name, int64_t opset, const esp_op **nearest)
{
    const esp_op *other_version = NULL;
    for (int i = 0; i < ROW_COUNT; i++) {
        if (strcmp(rows[i].name, name) != 0)
            continue;
        if (opset >= rows[i].opset_since && opset <= rows[i].opset_until)
            return &rows[i];
        other_version = &rows[i];
    }
    if (nearest != NULL)
        *nearest = other_version != NULL ? other_version : nearest_row(name);
    return NULL;
}

esp_status esp_op_run_once(const esp_op_context *context, esp_error *err)
{
    const esp_op *op = context->node->op;
    esp_op_context own = *context;
    size_t scratch_bytes = 0, saved_bytes = 0;
    esp_status status = ESP_OK;
    void *scratch = NULL, *saved = NULL;
    if (op->scratch != NULL && own.scratch == NULL)
        scratch_bytes = op->scratch(context, esp_compute_slots(context->compute));
    if (op->saved != NULL && own.saved == NULL && own.is_training)
        saved_bytes = op->saved(context);
    if (scratch_bytes > 0)
        own.scratch = scratch = esp_alloc(scratch_bytes, 1);
    if (saved_bytes > 0)
        own.saved = saved = esp_alloc(saved_bytes, 1);
    esp_blas_start();
    if ((scratch_bytes > 0 && scratch == NULL) || (saved_bytes > 0 && saved == NULL))
        status = esp_fail_memory(err, "scratch memory", scratch_bytes + saved_bytes);
    else
        status = esp_op_forward(&own, err);
    esp_free(scratch);
    esp_free(saved);
    return status;
}

/* Kernels answer with a status alone; operators may say more. Either way `err` is filled and names the node.
 */
static esp_status run_kernel(const esp_op_context *context, bool is_forward, esp_error *err)
{
    const esp_op *op = context->op == NULL ? context->node->op : context->op;
    if (err != NULL)
        err->code = ESP_OK;
    esp_status status = is_forward ? op->forward(context, err) : op->backward(context, err);
    if (status == ESP_OK || err == NULL)
        return status;
    if (err->code != status)
        esp_fail(err, status, "%s", esp_status_word(status));
    esp_error_prefix(err, "node '%s' (%s)", context->node->name, context->node->op->name);
    return status;
}

esp_status esp_op_forward(const esp_op_context *context, esp_error *err)
{
    return run_kernel(context, true, err);
}

esp_status esp_op_backward(const esp_op_context *context, esp_error *err)
{
    return run_kernel(context, false, err);
}
